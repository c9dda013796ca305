import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import type * as MqttClient from "../../../src/layers/MqttClient.ts"
import { collect, stepwise } from "../../support/Consumer.ts"
import { expectWords, handshake, message, open, run, runFromOne, send, start } from "../../support/ScriptedBroker.ts"
import type { Peer } from "../../support/ScriptedBroker.ts"
import { drop, persistent, sent, suback, subscribed, unsuback } from "../../support/Subscriptions.ts"

const kept = "20 03 01 00 00"
const lost = "20 03 00 00 00"

/** A client with one durable subscription. */
const durably = Effect.fnUntraced(function*(filter: string, qos: 1 | 2 = 1) {
  const server = yield* open({
    ...persistent,
    keepAlive: 0,
    subscriptions: [{ filter, qos }],
    subscriptionIdentifiers: false
  })
  yield* expectWords(server.peer, 5, `subscribe 1 ${filter}:${qos}`)
  yield* send(server.peer, 5, suback(1, qos))
  return server
})

/** Starts `process` on `a/#`, whose SUBSCRIBE has this identifier, and grants it; `seen` are the topics. */
const processing = Effect.fnUntraced(function*(
  client: MqttClient.MqttClientService,
  peer: Peer,
  id: number,
  qos: 1 | 2 = 1
) {
  const seen: Array<string> = []
  yield* start(client.process("a/#", ({ topic }) => Effect.sync(() => seen.push(topic)), { qos }))
  yield* expectWords(peer, 5, `subscribe ${id} a/#:${qos}`)
  yield* send(peer, 5, suback(id, qos))
  return seen
})

/**
 * A `process` on `a/#` that begins with one message on `a/1`, fails, and is unsubscribed; `older`: the filter that it overlaps,
 * which gets an identifier by that.
 */
const failing = Effect.fnUntraced(function*(
  client: MqttClient.MqttClientService,
  peer: Peer,
  qos: 1 | 2 = 1,
  older?: string
) {
  const fiber = yield* start(client.process("a/#", () => Effect.fail("no"), { qos }))
  const id = older === undefined ? 2 : 3
  if (older !== undefined) {
    yield* expectWords(peer, 5, `subscribe 2 ${older}:${qos}`)
    yield* send(peer, 5, suback(2, qos))
  }
  yield* expectWords(peer, 5, `subscribe ${id} a/#:${qos}`)
  yield* send(peer, 5, suback(id, qos), message("a/1", 1, { qos }))
  assert.strictEqual(yield* Effect.flip(Fiber.join(fiber)), "no")
  yield* expectWords(peer, 5, `unsubscribe ${id + 1} a/#`)
  yield* send(peer, 5, unsuback(id + 1, 0))
})

describe("a message that somebody is owed", () => {
  it.effect("law 4: what came before a filter was asked for is not acknowledged since that filter came and went", () =>
    runFromOne(Effect.gen(function*() {
      const { client, peer } = yield* open({ ...persistent, keepAlive: 0 }, { connack: kept })
      // The backlog of a subscription of an earlier life.
      yield* send(peer, 5, message("a/1", 1, { qos: 1 }))
      while ((yield* client.stats).unacknowledged === 0) yield* Effect.yieldNow
      yield* Effect.scoped(Effect.gen(function*() {
        const fiber = yield* start(client.subscription("a/#", { qos: 1 }))
        yield* expectWords(peer, 5, "subscribe 1 a/#:1")
        yield* send(peer, 5, suback(1, 1))
        yield* Fiber.join(fiber)
      }))
      yield* Effect.yieldNow
      assert.notInclude(yield* sent(peer, 5), "puback 1")
      assert.strictEqual((yield* client.stats).unacknowledged, 1)
    })))

  it.effect("law 4: what a handler had begun goes to the next one, though an idle durable subscription is owed it", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* durably("#")
      yield* failing(client, peer)
      const seen = yield* processing(client, peer, 4)
      assert.deepStrictEqual(yield* sent(peer, 5), [])
      assert.deepStrictEqual(seen, ["a/1"])
      const durable = yield* collect(client.durable("#"))
      assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1"])
      assert.strictEqual(durable.seen.length, 1)
    })))

  it.effect("law 4: what a handler had begun goes to the next one, who came while others still had it", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open({ keepAlive: 0 })
      const slow = yield* stepwise((yield* subscribed(client, peer, 5, "#", { qos: 1 })).messages)
      yield* failing(client, peer, 1, "#")
      const seen = yield* processing(client, peer, 5)
      yield* sent(peer, 5)
      yield* slow.take
      yield* slow.goOn
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(seen, ["a/1"])
      assert.strictEqual((yield* client.stats).dropped, 0)
      assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1"])
    })))

  it.effect("law 4: at QoS 2 what a handler had begun is kept for the next one over a change of options", () =>
    run(Effect.gen(function*() {
      const { client, listener, peer } = yield* open(persistent)
      yield* collect((yield* subscribed(client, peer, 5, "#", { qos: 2 })).messages)
      yield* failing(client, peer, 2, "#")
      const reconnecting = yield* start(client.reconnect((options) => ({ ...options, keepAlive: 7 })))
      const next = yield* handshake(listener, kept)
      yield* Fiber.join(reconnecting)
      yield* send(next, 5, message("a/1", 1, { qos: 2, dup: true }))
      const seen = yield* processing(client, next, 5, 2)
      assert.deepStrictEqual(yield* sent(next, 5), ["pubrec 1"])
      assert.deepStrictEqual(seen, ["a/1"])
    })))

  it.effect("what a handler had begun is not kept for ever for a durable subscription that has had it", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* durably("#")
      const durable = yield* collect(client.durable("#"))
      yield* failing(client, peer)
      assert.deepStrictEqual(yield* sent(peer, 5), [])
      yield* TestClock.adjust("31 seconds")
      assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1"])
      assert.strictEqual(durable.seen.length, 1)
    })))

  for (const connack of [kept, lost]) {
    it.effect(`law 4: a durable listener that comes before others took what came on a lost link (${connack})`, () =>
      run(Effect.gen(function*() {
        const server = yield* durably("#", 2)
        const { client, peer } = server
        const live = yield* stepwise((yield* subscribed(client, peer, 5, "a", { qos: 2 })).messages)
        yield* send(peer, 5, message("a", 7, { qos: 2 }))
        yield* live.take
        const next = yield* drop(server, connack)
        const durable = yield* collect(client.durable("#"))
        yield* sent(next, 5)
        if (connack === kept) yield* send(next, 5, message("a", 7, { qos: 2, dup: true }))
        yield* live.goOn
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(durable.seen, ["a"])
        assert.strictEqual((yield* client.stats).unclaimed, 0)
        assert.deepStrictEqual(yield* sent(next, 5), connack === kept ? ["pubrec 7"] : [])
      })))
  }

  it.effect("law 4: what a durable stream had not taken is kept for the next, though others took it", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* durably("#")
      yield* collect((yield* subscribed(client, peer, 5, "a", { qos: 1 })).messages)
      const first = yield* stepwise(client.durable("#"))
      yield* send(peer, 5, message("a", 1), message("a", 2))
      yield* first.take
      yield* Fiber.interrupt(first.fiber)
      assert.deepStrictEqual(yield* sent(peer, 5), [])
      const next = yield* collect(client.durable("#"))
      assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1", "puback 2"])
      assert.strictEqual(next.seen.length, 2)
    })))

  it.effect("law 4: a durable stream that has failed and is not gone makes its subscription miss nothing", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* durably("#")
      yield* collect((yield* subscribed(client, peer, 5, "a", { qos: 1 })).messages)
      const first = yield* stepwise(client.durable("#", { overflow: "fail", bufferSize: 1 }))
      yield* send(peer, 5, message("b", 0), message("b", 0), message("b", 0), message("b", 0))
      yield* first.take
      yield* send(peer, 5, message("a", 1))
      assert.deepStrictEqual(yield* sent(peer, 5), [])
      const next = yield* collect(client.durable("#"))
      assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1"])
      assert.deepStrictEqual(next.seen, ["a"])
    })))

  it.effect("a shared durable subscription has what its handler had begun, though others took it", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* durably("$share/g/#")
      yield* collect((yield* subscribed(client, peer, 5, "a", { qos: 1 })).messages)
      const fiber = yield* start(client.process("$share/g/#", () => Effect.fail("no")))
      yield* send(peer, 5, message("a", 1))
      yield* Effect.flip(Fiber.join(fiber))
      assert.deepStrictEqual(yield* sent(peer, 5), [])
      const next = yield* collect(client.durable("$share/g/#"))
      assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1"])
      assert.deepStrictEqual(next.seen, ["a"])
    })))

  it.effect("law 4: what was acknowledged for a slow subscriber, and lies in its buffer when it ends, is counted", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* durably("#")
      const slow = { whenSlow: "drop", heldMessages: 4 } as const
      const consumer = yield* stepwise(client.durable("#", slow))
      yield* send(peer, 5, message("a", 1))
      yield* consumer.take
      yield* send(peer, 5, message("a", 2), message("a", 3), message("a", 4))
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1", "puback 2", "puback 3", "puback 4"])
      assert.strictEqual((yield* client.stats).dropped, 0)
      yield* Fiber.interrupt(consumer.fiber)
      assert.strictEqual((yield* client.stats).dropped, 4)
    })))

  it.effect("law 4: a message whose handling is cut short by the end of its stream was not taken", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* durably("a")
      const stop = yield* Deferred.make<void>()
      const fiber = yield* start(
        client.durable("a").pipe(
          Stream.mapEffect(() => Effect.never),
          Stream.interruptWhen(Deferred.await(stop)),
          Stream.runDrain
        )
      )
      yield* send(peer, 5, message("a", 1))
      yield* sent(peer, 5)
      yield* Deferred.succeed(stop, undefined)
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* sent(peer, 5), [])
      assert.strictEqual((yield* client.stats).unclaimed, 1)
    })))
})
