import { assert, describe, it } from "@effect/vitest"
import { Effect, Schedule, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import * as Message from "../../src/services/Message.ts"
import { TestBroker } from "../../src/testing/index.ts"
import { stepwise } from "../support/Consumer.ts"

const options = {
  endpoint: "mqtt://broker",
  clientId: "c",
  sessionExpiry: "Infinity",
  reconnect: { schedule: Schedule.spaced("1 second") }
} as const

const run = <A, E>(effect: Effect.Effect<A, E, Effect.Services<ReturnType<typeof start>>>) =>
  Effect.provide(Effect.scoped(effect), TestBroker.layer())

const start = Effect.fnUntraced(function*(protocolVersion: 4 | 5) {
  const broker = yield* TestBroker.TestBroker
  const client = yield* MqttClient.make({ ...options, protocolVersion })
  return { broker, client }
})

/** The next second, in which a client that lost its link dials again. */
const nextAttempt = (broker: TestBroker.TestBroker["Service"]) =>
  Effect.andThen(broker.settle, Effect.andThen(TestClock.adjust("1 second"), broker.settle))

describe("a session that may not be the old one", () => {
  for (const version of [4, 5] as const) {
    describe(`on MQTT ${version === 4 ? "3.1.1" : "5.0"}`, () => {
      it.effect("is subscribed again if the server made it for a CONNECT whose CONNACK was lost (law 10)", () =>
        run(Effect.gen(function*() {
          const { broker, client } = yield* start(version)
          const { messages } = yield* client.subscription("a", { qos: 1 })
          yield* broker.cutBefore({ from: "broker", type: "Connack" })
          yield* broker.restart({ sessions: "lose" })
          yield* nextAttempt(broker)
          assert.deepStrictEqual(broker.sessions.map(({ subscriptions }) => subscriptions.length), [0])
          yield* nextAttempt(broker)
          const connacks = broker.packetsOf({ from: "broker", type: "Connack" })
          assert.isTrue(connacks.at(-1)?.packet.sessionPresent)
          yield* broker.publish({ topic: "a", payload: "later", qos: 1 })
          const [message] = yield* Stream.runCollect(Stream.take(messages, 1))
          assert.strictEqual(Message.text(message!), "later")
        })))

      it.effect("is not in doubt once it was answered: no SUBSCRIBE on a plain resume", () =>
        run(Effect.gen(function*() {
          const { broker, client } = yield* start(version)
          yield* client.subscription("a", { qos: 1 })
          yield* broker.cutBefore({ from: "broker", type: "Connack" })
          yield* broker.cut("c")
          yield* nextAttempt(broker)
          yield* nextAttempt(broker)
          const subscribes = () => broker.packetsOf({ from: "client", type: "Subscribe" }).length
          assert.strictEqual(subscribes(), 2)
          yield* broker.cut("c")
          yield* nextAttempt(broker)
          assert.strictEqual(broker.clients.length, 1)
          assert.strictEqual(subscribes(), 2)
        })))

      it.effect("is not put in doubt by a refusal", () =>
        run(Effect.gen(function*() {
          const { broker, client } = yield* start(version)
          yield* client.subscription("a", { qos: 1 })
          yield* broker.refuseNext(version === 5 ? 0x88 : 3)
          yield* broker.cut("c")
          yield* nextAttempt(broker)
          yield* nextAttempt(broker)
          assert.strictEqual(broker.clients.length, 1)
          assert.strictEqual(broker.packetsOf({ from: "client", type: "Subscribe" }).length, 1)
        })))
    })
  }
})

describe("two subscribers of one client, one of them slow", () => {
  for (const qos of [1, 2] as const) {
    it.effect(`both get QoS ${qos} messages in order across a lost link (law 7)`, () =>
      run(Effect.gen(function*() {
        const { broker, client } = yield* start(5)
        const fast: Array<string> = []
        const all = yield* stepwise((yield* client.subscription("#", { qos })).messages)
        const some = yield* client.subscription("a/+", { qos })
        yield* Effect.forkChild(
          Stream.runForEach(some.messages, (message) => Effect.sync(() => fast.push(Message.text(message))))
        )
        // The slow one holds the first; the second is for it alone, the third for both.
        for (const topic of ["b/1", "b/2", "a/3"]) yield* broker.publish({ topic, payload: topic, qos })
        yield* broker.settle
        assert.deepStrictEqual(fast, ["a/3"])
        yield* broker.cut("c")
        yield* nextAttempt(broker)
        const seen: Array<string> = []
        for (let more = true; more;) {
          yield* broker.settle
          more = (yield* all.waiting) > 0
          if (!more) break
          seen.push(yield* all.take)
          yield* all.goOn
        }
        assert.deepStrictEqual([...new Set(seen)], ["b/1", "b/2", "a/3"])
        if (qos === 2) assert.deepStrictEqual([seen.length, fast.length], [3, 1])
        assert.strictEqual((yield* client.stats).unacknowledged, 0)
      })))
  }
})
