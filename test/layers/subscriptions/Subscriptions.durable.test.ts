import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import mqttPacket from "mqtt-packet"
import * as MqttClient from "../../../src/layers/MqttClient.ts"
import { MemoryNetwork } from "../../../src/testing/index.ts"
import { collect, stepwise } from "../../support/Consumer.ts"
import {
  accepted,
  expectWords,
  handshake,
  message,
  open,
  resumed,
  run,
  runFromOne,
  send,
  start
} from "../../support/ScriptedBroker.ts"
import { drop, persistent, reasonOf, sent, suback, subscribed, subscribing } from "../../support/Subscriptions.ts"

/** A client in a scope of its own, whose server is up to the test. */
const openAt = Effect.fnUntraced(function*(options: Partial<MqttClient.ClientOptions>) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  return yield* Scope.provide(MqttClient.make({ endpoint: "mqtt://broker", ...options }), scope)
})

describe("durable subscriptions", () => {
  for (const version of [4, 5] as const) {
    const kept = resumed[version]
    const protocolVersion = version

    describe(`on MQTT ${version === 4 ? "3.1.1" : "5.0"}`, () => {
      const declared = { protocolVersion, ...persistent, subscriptions: [{ filter: "d/#", qos: 1 }] } as const

      it.effect("SS-05: a resumed session's backlog behind CONNACK finds its taker, however long and whenever that comes", () =>
        runFromOne(Effect.gen(function*() {
          const backlog = Array.from({ length: 200 }, (_, index) => message(`d/${index}`, index + 1))
          const network = yield* MemoryNetwork.MemoryNetwork
          const listener = yield* network.listen({ host: "broker" })
          const { generate } = mqttPacket
          const building = yield* start(openAt({ ...declared, keepAlive: 0 }))
          const peer = yield* listener.accept
          yield* peer.readFrame
          yield* peer.send(Buffer.concat([
            generate({ cmd: "connack", returnCode: 0, reasonCode: 0, sessionPresent: true }, { protocolVersion }),
            ...backlog.map((packet) => generate(packet, { protocolVersion })),
            generate({ cmd: "pubrel", messageId: 999 }, { protocolVersion })
          ]))
          const client = yield* Fiber.join(building)
          // QF-14: who has no record of an identifier completes it all the same.
          yield* expectWords(peer, version, "subscribe 1 d/#:1", version === 4 ? "pubcomp 999" : "pubcomp 999 0x92")
          yield* send(peer, version, suback(1, 1))
          yield* TestClock.adjust("10 minutes")
          assert.strictEqual((yield* client.stats).unacknowledged, 200)
          const { seen } = yield* collect(client.durable("d/#"))
          const acks = (yield* sent(peer, version)).filter((words) => words.startsWith("puback"))
          assert.deepStrictEqual(seen, backlog.map(({ topic }) => topic))
          assert.deepStrictEqual(acks, backlog.map(({ messageId }) => `puback ${messageId}`))
          assert.strictEqual((yield* client.stats).dropped, 0)
        })))

      it.effect("is not unsubscribed when a stream ends, and keeps for the next what came between", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open(declared)
          yield* expectWords(peer, version, "subscribe 1 d/#:1")
          yield* send(peer, version, suback(1, 1))
          const first = yield* start(Stream.runHead(client.durable("d/#")))
          yield* send(peer, version, message("d/1", 1), message("d/2", 2))
          yield* Fiber.join(first)
          assert.deepStrictEqual(yield* sent(peer, version), ["puback 1"])
          yield* send(peer, version, message("d/3", 3))
          const { seen } = yield* collect(client.durable("d/#"))
          assert.deepStrictEqual(yield* sent(peer, version), ["puback 2", "puback 3"])
          assert.deepStrictEqual(seen, ["d/2", "d/3"])
        })))

      it.effect("is not unsubscribed when the scope closes; the next process resumes it", () =>
        runFromOne(Effect.gen(function*() {
          const { client, close, listener, peer } = yield* open(declared)
          yield* expectWords(peer, version, "subscribe 1 d/#:1")
          yield* send(peer, version, suback(1, 1))
          const consumer = yield* collect(client.durable("d/#"))
          yield* close()
          assert.deepStrictEqual(yield* sent(peer, version), ["disconnect"])
          assert.isTrue(Exit.isFailure(yield* Fiber.await(consumer.fiber)))
          assert.strictEqual((yield* reasonOf(Stream.runDrain(client.durable("d/#"))))._tag, "ClientClosed")
          // What was not acknowledged is there in the next process, as the session is.
          const building = yield* start(openAt(declared))
          const second = yield* handshake(listener, kept)
          yield* send(second, version, message("d/1", 1, { dup: true }))
          const { seen } = yield* collect((yield* Fiber.join(building)).durable("d/#"))
          yield* expectWords(second, version, "subscribe 1 d/#:1", "puback 1")
          assert.deepStrictEqual(seen, ["d/1"])
        })))

      it.effect("finds its backlog, in order, whoever else is faster to take it", () =>
        run(Effect.gen(function*() {
          const subscriptions = [{ filter: "d/#", qos: 1 }, { filter: "+/1", qos: 1 }] as const
          const { client, peer } = yield* open({ ...declared, subscriptions, subscriptionIdentifiers: false })
          yield* expectWords(peer, version, "subscribe 1 d/#:1 +/1:1")
          yield* send(peer, version, suback(1, 1, 1), message("d/1", 1), message("d/2", 2), message("d/1", 3))
          const first = yield* collect(client.durable("d/#"))
          yield* send(peer, version, message("d/1", 4))
          assert.deepStrictEqual(yield* sent(peer, version), [])
          assert.deepStrictEqual(first.seen, ["d/1", "d/2", "d/1", "d/1"])
          // One that is not declared is no taker of what is kept for those that are.
          const { leave } = yield* subscribing(client, "d/1")
          yield* leave
          const again = yield* start(Stream.runDrain(client.durable("d/#")))
          yield* Fiber.interrupt(again)
          const second = yield* collect(client.durable("+/1"))
          const acks = (yield* sent(peer, version)).filter((words) => words.startsWith("puback"))
          assert.deepStrictEqual(acks, ["puback 1", "puback 2", "puback 3", "puback 4"])
          assert.deepStrictEqual(second.seen, ["d/1", "d/1", "d/1"])
          const { unacknowledged, unclaimed } = yield* client.stats
          assert.deepStrictEqual([unacknowledged, unclaimed], [0, 0])
        })))

      it.effect("what is kept for it is acknowledged when it is not declared any more", () =>
        run(Effect.gen(function*() {
          const subscriptions = [{ filter: "d/#", qos: 1 }, { filter: "+/1", qos: 1 }] as const
          const { client, listener, peer } = yield* open({ ...declared, subscriptions, subscriptionIdentifiers: false })
          yield* expectWords(peer, version, "subscribe 1 d/#:1 +/1:1")
          yield* send(peer, version, suback(1, 1, 1), message("d/1", 1))
          const { seen } = yield* collect(client.durable("d/#"))
          assert.deepStrictEqual(yield* sent(peer, version), [])
          const reconnecting = yield* start(
            client.reconnect((options) => ({ ...options, subscriptions: [{ filter: "d/#", qos: 1 }] }))
          )
          const next = yield* handshake(listener, kept)
          yield* Fiber.join(reconnecting)
          yield* send(next, version, message("d/1", 1, { dup: true }))
          yield* expectWords(next, version, "unsubscribe 2 +/1", "puback 1")
          assert.deepStrictEqual(seen, ["d/1", "d/1"])
        })))

      it.effect("gives every message to two streams", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open(declared)
          yield* expectWords(peer, version, "subscribe 1 d/#:1")
          const one = yield* stepwise(client.durable("d/#"))
          const two = yield* collect(client.durable("d/#"))
          yield* send(peer, version, suback(1, 1), message("d/1", 1))
          assert.deepStrictEqual(yield* sent(peer, version), [])
          yield* one.goOn
          assert.deepStrictEqual(yield* sent(peer, version), ["puback 1"])
          assert.deepStrictEqual(two.seen, ["d/1"])
        })))

      it.effect("shares its filter with a subscription, which leaves it as it was", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open(declared)
          yield* expectWords(peer, version, "subscribe 1 d/#:1")
          yield* send(peer, version, suback(1, 1))
          const { leave, words } = yield* subscribed(client, peer, version, "d/#", { qos: 2 })
          assert.strictEqual(words, "subscribe 2 d/#:2")
          yield* leave
          assert.deepStrictEqual(yield* sent(peer, version), ["subscribe 3 d/#:1"])
        })))

      it.effect("fails its streams when it is refused, and is asked for again on the next connection", () =>
        run(Effect.gen(function*() {
          const server = yield* open(declared)
          const { client, peer } = server
          yield* expectWords(peer, version, "subscribe 1 d/#:1")
          const before = yield* start(reasonOf(Stream.runDrain(client.durable("d/#"))))
          yield* send(peer, version, suback(1, 0x80))
          assert.strictEqual((yield* Fiber.join(before))._tag, "SubscriptionRefused")
          assert.strictEqual((yield* reasonOf(Stream.runDrain(client.durable("d/#"))))._tag, "SubscriptionRefused")
          assert.deepStrictEqual(yield* sent(peer, version), [])
          const second = yield* drop(server, kept)
          yield* expectWords(second, version, "subscribe 2 d/#:1")
          const { seen } = yield* collect(client.durable("d/#"))
          yield* send(second, version, suback(2, 1), message("d/1", 1))
          yield* expectWords(second, version, "puback 1")
          assert.deepStrictEqual(seen, ["d/1"])
        })))

      it.effect("is unsubscribed when it is not declared any more, and what was kept for it is acknowledged", () =>
        run(Effect.gen(function*() {
          const server = yield* open(declared)
          const { client, listener, peer } = server
          yield* expectWords(peer, version, "subscribe 1 d/#:1")
          yield* send(peer, version, suback(1, 1), message("d/1", 1))
          assert.deepStrictEqual(yield* sent(peer, version), [])
          yield* start(client.reconnect((options) => ({ ...options, subscriptions: [{ filter: "e" }] })))
          const second = yield* handshake(listener, kept)
          yield* expectWords(second, version, "subscribe 2 e:0", "unsubscribe 3 d/#")
          yield* send(second, version, message("d/1", 1, { dup: true }))
          yield* expectWords(second, version, "puback 1")
          const { unacknowledged, unclaimed } = yield* client.stats
          assert.deepStrictEqual([unacknowledged, unclaimed], [0, 0])
        })))

      it.effect("what was kept for one that is not declared any more, of a session that is lost, is not kept for ever", () =>
        run(Effect.gen(function*() {
          const { client, listener, peer } = yield* open({ ...declared, keepAlive: 0 })
          yield* expectWords(peer, version, "subscribe 1 d/#:1")
          yield* send(peer, version, suback(1, 1), message("d/1", 1))
          assert.deepStrictEqual(yield* sent(peer, version), [])
          assert.strictEqual((yield* client.stats).unclaimed, 1)
          const reconnecting = yield* start(client.reconnect((options) => ({ ...options, subscriptions: [] })))
          yield* handshake(listener, accepted[version])
          yield* Fiber.join(reconnecting)
          const { unacknowledged, unclaimed } = yield* client.stats
          assert.deepStrictEqual([unacknowledged, unclaimed], [0, 0])
        })))

      it.effect("what is parked when it is declared is kept for it", () =>
        run(Effect.gen(function*() {
          const { client, listener, peer } = yield* open({ ...declared, keepAlive: 0, subscriptions: [] })
          yield* send(peer, version, message("d/1", 1))
          assert.deepStrictEqual(yield* sent(peer, version), [])
          const reconnecting = yield* start(
            client.reconnect((options) => ({ ...options, subscriptions: declared.subscriptions }))
          )
          const second = yield* handshake(listener, accepted[version])
          yield* Fiber.join(reconnecting)
          yield* expectWords(second, version, "subscribe 1 d/#:1")
          yield* TestClock.adjust("1 hour")
          const { seen } = yield* collect(client.durable("d/#"))
          yield* sent(second, version)
          assert.deepStrictEqual(seen, ["d/1"])
        })))
    })
  }
})
