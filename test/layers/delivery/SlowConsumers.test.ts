import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Effect, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Client from "../../../src/layers/MqttClient.ts"
import { makeMemory } from "../../../src/layers/store/MemorySessionStore.ts"
import * as Message from "../../../src/services/Message.ts"
import { SessionStore } from "../../../src/services/SessionStore.ts"
import { TestBroker } from "../../../src/testing/index.ts"
import { start } from "../../support/ScriptedBroker.ts"

const count = 10
const receiveMaximum = 32
/** Seconds between two messages of one topic. */
const every = 5
const hour = 3600
const payloadBytes = 100

/** Ten subscriptions under load for a virtual hour, of which the first one stalls with its first message in hand. */
const underLoad = Effect.fnUntraced(function*(
  whenSlow: "hold" | "spill" | "drop",
  options: Partial<Client.ClientOptions> & { readonly heldMessages?: number } = {}
) {
  const { heldMessages, ...rest } = options
  const broker = yield* TestBroker.TestBroker
  const client = yield* Client.make({
    endpoint: "mqtt://broker",
    clientId: "ten",
    sessionExpiry: "1 day",
    keepAlive: "1 minute",
    receiveMaximum,
    ...rest
  })
  const goOn = yield* Deferred.make<void>()
  const seen = Array.from({ length: count }, (): Array<number> => [])
  const late: Array<string> = []
  const subscriptions = yield* Effect.forEach(seen, (numbers, index) =>
    Effect.gen(function*() {
      const subscription = yield* client.subscription(`s/${index}`, { qos: 2, whenSlow, heldMessages })
      yield* start(Stream.runForEach(subscription.messages, (message) =>
        Effect.gen(function*() {
          const [number, at] = Message.text(message).split(" ").map(Number) as [number, number]
          if (index === 0) yield* Deferred.await(goOn)
          else if ((yield* Clock.currentTimeMillis) - at > 1000) late.push(`${index}: ${number}`)
          numbers.push(number)
        })))
      return subscription
    }))
  yield* broker.settle
  const most = { unacked: 0, bytes: 0, unacknowledged: 0 }
  const observe = Effect.gen(function*() {
    const { unacknowledged, unacknowledgedBytes } = yield* client.stats
    most.unacked = Math.max(most.unacked, ...broker.sessions.map(({ unacked }) => unacked))
    most.unacknowledged = Math.max(most.unacknowledged, unacknowledged)
    most.bytes = Math.max(most.bytes, unacknowledgedBytes)
  })
  for (let number = 0; number < hour / every; number++) {
    const payload = `${number} ${yield* Clock.currentTimeMillis}`.padEnd(payloadBytes)
    for (let index = 0; index < count; index++) {
      yield* broker.publish({ topic: `s/${index}`, payload, qos: (number + index) % 2 === 0 ? 1 : 2 })
    }
    yield* broker.settle
    yield* observe
    yield* TestClock.adjust(`${every} seconds`)
  }
  yield* observe
  const expected = Array.from({ length: hour / every }, (_, number) => number)
  /** The stalled one goes on, and all get what is left. */
  const catchUp = Effect.gen(function*() {
    yield* Deferred.succeed(goOn, undefined)
    for (let turn = 0; turn < 5; turn++) {
      yield* broker.settle
      yield* TestClock.adjust("1 second")
    }
    yield* observe
  })
  return { broker, client, seen, late, most, expected, catchUp, subscriptions }
})

describe("a consumer that stalls for an hour, one of ten under load", () => {
  it.effect("laws 3, 14: \"spill\": the link stays up, nine get all in time, and the stalled one loses nothing", () =>
    Effect.gen(function*() {
      const { broker, catchUp, client, expected, late, most, seen } = yield* underLoad("spill")
      assert.deepStrictEqual(seen.slice(1), Array.from({ length: count - 1 }, () => expected))
      assert.deepStrictEqual(late, [])
      assert.deepStrictEqual(seen[0], [])
      // The one that it has in hand is kept as well, so that the others' acknowledgements get past it.
      const { putAside, unacknowledged } = yield* client.stats
      assert.deepStrictEqual({ putAside, unacknowledged }, { putAside: expected.length, unacknowledged: 0 })
      assert.strictEqual(broker.sessions[0]!.queued, 0)
      yield* catchUp
      assert.deepStrictEqual(seen[0], expected)
      assert.strictEqual((yield* client.stats).putAside, 0)
      assert.strictEqual(broker.packetsOf({ from: "client", type: "Connect" }).length, 1)
      assert.isAtMost(most.unacked, receiveMaximum)
      assert.isAtMost(most.bytes, receiveMaximum * (payloadBytes + 3 + 128))
    }).pipe(Effect.provideService(SessionStore, makeMemory()), Effect.provide(TestBroker.layer())))

  it.effect("laws 3, 14: \"hold\": the link stays up, nobody loses anything, and all catch up", () =>
    Effect.gen(function*() {
      const { broker, catchUp, client, expected, late, most, seen } = yield* underLoad("hold")
      // The window belongs to all of them.
      assert.isAbove(late.length + (expected.length - seen[1]!.length), 0)
      assert.strictEqual((yield* client.stats).unacknowledged, most.unacknowledged)
      assert.isAbove(broker.sessions[0]!.queued, 0)
      yield* catchUp
      assert.deepStrictEqual(seen, Array.from({ length: count }, () => expected))
      assert.strictEqual(broker.packetsOf({ from: "client", type: "Connect" }).length, 1)
      assert.strictEqual(most.unacked, receiveMaximum)
      assert.isAtMost(most.bytes, receiveMaximum * (payloadBytes + 3 + 128))
    }).pipe(Effect.provide(TestBroker.layer())))

  it.effect("law 14: \"drop\": nine get all in time, the stalled one has the newest, and the rest is counted", () =>
    Effect.gen(function*() {
      const { broker, catchUp, client, expected, late, most, seen, subscriptions } = yield* underLoad("drop", {
        heldMessages: 20
      })
      assert.deepStrictEqual(seen.slice(1), Array.from({ length: count - 1 }, () => expected))
      assert.deepStrictEqual(late, [])
      yield* catchUp
      // The first was in the consumer's hands.
      assert.deepStrictEqual(seen[0], [0, ...expected.slice(-19)])
      assert.strictEqual(yield* subscriptions[0]!.dropped, expected.length - 20)
      assert.strictEqual((yield* client.stats).dropped, expected.length - 20)
      assert.strictEqual(broker.packetsOf({ from: "client", type: "Connect" }).length, 1)
      assert.isAtMost(most.unacked, receiveMaximum)
    }).pipe(Effect.provide(TestBroker.layer())))
})
