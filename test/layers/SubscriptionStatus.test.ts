import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import type * as MqttClient from "../../src/layers/MqttClient.ts"
import {
  accepted,
  awaitStatus,
  expectWords,
  handshake,
  message,
  open,
  resume,
  resumed,
  run,
  send,
  start
} from "../support/ScriptedBroker.ts"
import { drop, persistent, reasonOf, sent, suback, subscribed, subscribing } from "../support/Subscriptions.ts"

/** The statuses of a subscription in words, as they come. */
const watch = Effect.fnUntraced(function*(subscription: MqttClient.Subscription) {
  const seen: Array<string> = []
  const fiber = yield* start(Stream.runForEach(subscription.statusChanges, (status) =>
    Effect.sync(() => {
      seen.push(
        status._tag === "Established"
          ? `Established ${status.grants.map(({ filter, qos }) => `${filter}:${qos}`).join(" ")}`
          : status._tag === "Halted"
          ? `Halted ${status.reason._tag}`
          : status._tag
      )
    })))
  return { seen, fiber }
})

describe("the status of a subscription", () => {
  for (const version of [4, 5] as const) {
    const protocolVersion = version

    describe(`on MQTT ${version === 4 ? "3.1.1" : "5.0"}`, () => {
      it.effect("is lost with the link, and established again once the server has granted all of it", () =>
        run(Effect.gen(function*() {
          const server = yield* open({ protocolVersion })
          const subscription = yield* subscribed(server.client, server.peer, version, ["a", "b"], { qos: 1 })
          const { seen } = yield* watch(subscription)
          assert.deepStrictEqual(yield* subscription.status, { _tag: "Established", grants: subscription.grants })
          const second = yield* drop(server, accepted[version])
          yield* expectWords(second, version, "subscribe 2 a:1 b:1")
          assert.deepStrictEqual(yield* subscription.status, { _tag: "Lost" })
          yield* send(second, version, suback(2, 0, 1))
          yield* sent(second, version)
          assert.deepStrictEqual(seen, ["Established a:1 b:1", "Lost", "Established a:0 b:1"])
        })))

      it.effect("comes back with a session that is kept, without a packet", () =>
        run(Effect.gen(function*() {
          const server = yield* open({ protocolVersion, ...persistent })
          const subscription = yield* subscribed(server.client, server.peer, version, "a")
          const { seen } = yield* watch(subscription)
          const second = yield* drop(server, resumed[version])
          assert.deepStrictEqual(yield* sent(second, version), [])
          assert.deepStrictEqual(seen, ["Established a:0", "Lost", "Established a:0"])
        })))

      it.effect("is lost through a pause, and the stream goes on after it", () =>
        run(Effect.gen(function*() {
          const { client, listener, peer } = yield* open({ protocolVersion })
          const subscription = yield* subscribed(client, peer, version, "a")
          const { seen } = yield* watch(subscription)
          const received = yield* start(Stream.runHead(subscription.messages))
          yield* client.pause
          assert.deepStrictEqual(yield* subscription.status, { _tag: "Lost" })
          const { peer: second } = yield* resume(client, listener, accepted[version])
          yield* expectWords(second, version, "subscribe 2 a:0")
          yield* send(second, version, suback(2, 0), message("a"))
          assert.strictEqual((yield* Fiber.join(received))._tag, "Some")
          yield* sent(second, version)
          assert.deepStrictEqual(seen, ["Established a:0", "Lost", "Established a:0"])
        })))

      it.effect("goes on over a change of options", () =>
        run(Effect.gen(function*() {
          const { client, listener, peer } = yield* open({ protocolVersion })
          const subscription = yield* subscribed(client, peer, version, "a")
          const { seen } = yield* watch(subscription)
          const reconnecting = yield* start(client.reconnect((options) => ({ ...options, keepAlive: "10 seconds" })))
          const second = yield* handshake(listener, accepted[version])
          yield* Fiber.join(reconnecting)
          yield* expectWords(second, version, "subscribe 2 a:0")
          yield* send(second, version, suback(2, 0))
          yield* sent(second, version)
          assert.deepStrictEqual(seen, ["Established a:0", "Lost", "Established a:0"])
        })))

      it.effect("is halted with the client, and established again after it is resumed", () =>
        run(Effect.gen(function*() {
          const { client, listener, peer } = yield* open({ protocolVersion })
          const subscription = yield* subscribed(client, peer, version, "a")
          const { fiber, seen } = yield* watch(subscription)
          yield* client.disconnect()
          assert.strictEqual((yield* subscription.status)._tag, "Halted")
          const { peer: second } = yield* resume(client, listener, accepted[version])
          yield* expectWords(second, version, "subscribe 2 a:0")
          yield* send(second, version, suback(2, 0))
          yield* sent(second, version)
          assert.strictEqual(seen.at(0), "Established a:0")
          assert.include(seen, "Halted ClientHalted")
          assert.strictEqual(seen.at(-1), "Established a:0")
          assert.isUndefined(fiber.pollUnsafe())
        })))

      it.effect("a refused renewal ends the stream typed, and is the last status", () =>
        run(Effect.gen(function*() {
          const server = yield* open({ protocolVersion })
          const subscription = yield* subscribed(server.client, server.peer, version, "a")
          const { fiber, seen } = yield* watch(subscription)
          const failed = yield* start(reasonOf(Stream.runDrain(subscription.messages)))
          const second = yield* drop(server, accepted[version])
          yield* expectWords(second, version, "subscribe 2 a:0")
          yield* send(second, version, suback(2, 0x80))
          assert.strictEqual((yield* Fiber.join(failed))._tag, "SubscriptionRefused")
          yield* Fiber.join(fiber)
          assert.deepStrictEqual(seen, ["Established a:0", "Lost", "Halted SubscriptionRefused"])
          // Nothing moves it any more.
          yield* drop({ ...server, peer: second }, accepted[version])
          assert.strictEqual((yield* subscription.status)._tag, "Halted")
        })))

      it.effect("an overflow is the last status, too", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion })
          const subscription = yield* subscribed(client, peer, version, "a", { bufferSize: 1, overflow: "fail" })
          const { fiber, seen } = yield* watch(subscription)
          yield* send(peer, version, message("a"), message("a"))
          yield* Fiber.join(fiber)
          assert.deepStrictEqual(seen, ["Established a:0", "Halted SubscriptionOverflow"])
        })))

      it.effect("its changes end with the scope of the subscription, and with that of the client", () =>
        run(Effect.gen(function*() {
          const { client, close, peer } = yield* open({ protocolVersion })
          const one = yield* subscribed(client, peer, version, "a")
          const first = yield* watch(one)
          const second = yield* watch(yield* subscribed(client, peer, version, "b"))
          yield* one.leave
          yield* Fiber.join(first.fiber)
          assert.deepStrictEqual(first.seen, ["Established a:0"])
          yield* close()
          yield* Fiber.join(second.fiber)
          assert.strictEqual(second.seen.at(-1), "Halted ClientClosed")
        })))

      it.effect("says so when another subscriber changes what is granted", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion })
          const { seen } = yield* watch(yield* subscribed(client, peer, version, "a", { qos: 0 }))
          yield* subscribed(client, peer, version, "a", { qos: 2 })
          yield* sent(peer, version)
          assert.deepStrictEqual(seen, ["Established a:0", "Established a:2"])
        })))

      it.effect("US-12, US-05: what comes between the end and UNSUBACK is acknowledged, and finished after it", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion })
          const one = yield* subscribed(client, peer, version, "a", { qos: 2 })
          yield* one.leave
          yield* expectWords(peer, version, "unsubscribe 2 a")
          yield* send(peer, version, message("a", 7), message("a", 8, { qos: 2 }))
          yield* expectWords(peer, version, "puback 7", "pubrec 8")
          yield* send(peer, version, { cmd: "unsuback", messageId: 2, granted: [0] })
          yield* send(peer, version, { cmd: "pubrel", messageId: 8 })
          yield* expectWords(peer, version, "pubcomp 8")
          const { packetIds, unacknowledged, unclaimed } = yield* client.stats
          assert.deepStrictEqual([packetIds, unacknowledged, unclaimed], [0, 0, 0])
        })))

      it.effect("US-12: what comes before UNSUBACK still reaches another filter that matches it", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion })
          const one = yield* subscribed(client, peer, version, "a/b", { qos: 1 })
          const two = yield* subscribed(client, peer, version, "a/#", { qos: 1 })
          const received = yield* start(Stream.runHead(two.messages))
          yield* one.leave
          // On 5.0 the first filter was subscribed again, with an identifier.
          yield* expectWords(peer, version, version === 5 ? "unsubscribe 4 a/b" : "unsubscribe 3 a/b")
          yield* send(peer, version, message("a/b", 7))
          assert.strictEqual((yield* Fiber.join(received))._tag, "Some")
          yield* expectWords(peer, version, "puback 7")
        })))

      it.effect("CK-09: any QoS is asked for, whatever the server publishes at most, and PB-28: any that comes is taken", () =>
        run(Effect.gen(function*() {
          // Maximum QoS 0 on 5.0.
          const connack = version === 5 ? "20 05 00 00 02 24 00" : accepted[4]
          const { client, peer } = yield* open({ protocolVersion }, { connack })
          const { fiber } = yield* subscribing(client, "a", { qos: 2 })
          yield* expectWords(peer, version, "subscribe 1 a:2")
          yield* send(peer, version, suback(1, 0), message("a", 3, { qos: 2 }))
          const subscription = yield* Fiber.join(fiber)
          const received = yield* start(Stream.runHead(subscription.messages))
          yield* expectWords(peer, version, "pubrec 3")
          const first = yield* Fiber.join(received)
          assert.strictEqual(first._tag === "Some" && first.value.qos, 2)
        })))

      it.effect("PB-23: a message is answered by its QoS: with nothing, PUBACK or PUBREC", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion })
          const { messages } = yield* subscribed(client, peer, version, "a", { qos: 2 })
          yield* start(Stream.runDrain(messages))
          for (const [qos, answers] of [[0, []], [1, ["puback 5"]], [2, ["pubrec 6"]]] as const) {
            yield* send(peer, version, message("a", qos === 0 ? 0 : 4 + qos, { qos }))
            assert.deepStrictEqual(yield* sent(peer, version), [...answers])
          }
        })))
    })
  }

  it.effect("a subscription that waits for its first grant is withdrawn by a halt, and the scope may live on", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      const scope = yield* Scope.make()
      const waiting = yield* start(reasonOf(Scope.provide(client.subscription("a"), scope)))
      yield* expectWords(peer, 5, "subscribe 1 a:0")
      yield* client.disconnect()
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "ClientHalted")
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* client.stats).packetIds, 0)
    })))

  it.effect("a watcher that lags sees the last ones", () =>
    run(Effect.gen(function*() {
      const server = yield* open({ ...persistent, reconnect: { stableAfter: "1 milli" } })
      const subscription = yield* subscribed(server.client, server.peer, 5, "a")
      const seen: Array<string> = []
      const reading = yield* start(
        Stream.runForEach(
          subscription.statusChanges,
          (status) => seen.push(status._tag) === 1 ? Effect.sleep("1 day") : Effect.void
        )
      )
      let peer = server.peer
      for (let round = 0; round < 20; round++) peer = yield* drop({ ...server, peer }, resumed[5])
      yield* awaitStatus(server.client, "Connected")
      yield* server.client.pause
      yield* TestClock.adjust("1 day")
      assert.isAtMost(seen.length, 1 + 16)
      assert.strictEqual(seen.at(-1), "Lost")
      yield* Fiber.interrupt(reading)
    })))
})
