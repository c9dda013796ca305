import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, References, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Message from "../../../src/services/Message.ts"
import { Hex } from "../../../src/testing/index.ts"
import { collect } from "../../support/Consumer.ts"
import {
  accepted,
  awaitStatus,
  expectWords,
  handshake,
  message,
  open,
  readToEnd,
  run,
  send,
  sentWords,
  start
} from "../../support/ScriptedBroker.ts"
import { reasonOf, suback, unsuback } from "../../support/Subscriptions.ts"

const versions = [4, 5] as const

/** Runs a subscription in a scope of its own, which lives as long as the test. */
const detached = Effect.fnUntraced(function*<A, E>(effect: Effect.Effect<A, E, Scope.Scope>) {
  return yield* Scope.provide(effect, yield* Scope.fork(yield* Effect.scope))
})

describe("Subscribing", () => {
  for (const version of versions) {
    describe(`on MQTT ${version === 4 ? "3.1.1" : "5.0"}`, () => {
      it.effect("SB-09, SB-10, SB-11: resolves after SUBACK with the grant of each filter, by position", () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open({ protocolVersion: version })
          const fiber = yield* start(client.subscription(["a", "b/+", "c/#"], { qos: 2 }))
          yield* expectWords(peer, version, "subscribe 1 a:2 b/+:2 c/#:2")
          yield* network.settle
          assert.isUndefined(fiber.pollUnsafe())
          // An answer to something else answers nothing (PI-05).
          yield* send(peer, version, suback(101, 0, 0, 0))
          yield* network.settle
          assert.isUndefined(fiber.pollUnsafe())
          yield* send(peer, version, suback(1, 0, 2, 1))
          const { grants } = yield* Fiber.join(fiber)
          assert.deepStrictEqual(grants, [
            { filter: "a", qos: 0 },
            { filter: "b/+", qos: 2 },
            { filter: "c/#", qos: 1 }
          ])
          assert.strictEqual((yield* client.stats).packetIds, 0)
        })))

      it.effect("subscribes when the stream is run, and unsubscribes when it ends", () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open({ protocolVersion: version })
          const messages = client.subscribe("a/+", { qos: 1 }).pipe(Stream.map(Message.text), Stream.take(2))
          yield* network.settle
          const before = peer.received.length
          for (const id of [1, 3]) {
            const fiber = yield* start(Stream.runCollect(messages))
            yield* expectWords(peer, version, `subscribe ${id} a/+:1`)
            yield* send(peer, version, suback(id, 1), message("a/1"), message("a/2"))
            assert.deepStrictEqual(yield* Fiber.join(fiber), ["a/1", "a/2"])
            yield* expectWords(peer, version, `unsubscribe ${id + 1} a/+`)
            yield* send(peer, version, unsuback(id + 1, 0))
          }
          yield* network.settle
          assert.isAbove(peer.received.length, before)
          assert.strictEqual((yield* client.stats).packetIds, 0)
        })))

      it.effect("SB-14: hands over a message that comes before SUBACK, and one behind it in the same segment", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion: version })
          const stream = yield* start(client.subscribe("a", { qos: 1 }).pipe(Stream.take(3), Stream.runCollect))
          yield* expectWords(peer, version, "subscribe 1 a:1")
          yield* send(
            peer,
            version,
            message("a", 0, { payload: "retained", retain: true }),
            message("a", 7, { payload: "early" }),
            suback(1, 1),
            message("a", 0, { payload: "late" })
          )
          const messages = yield* Fiber.join(stream)
          assert.deepStrictEqual(messages.map((message) => `${Message.text(message)} ${message.retain}`), [
            "retained true",
            "early false",
            "late false"
          ])
        })))

      it.effect("SB-11, SB-16: fails typed with the filter that was refused, and unsubscribes those that were granted", () =>
        run(Effect.gen(function*() {
          const { client, listener, network, peer } = yield* open({ protocolVersion: version })
          const fiber = yield* start(reasonOf(detached(client.subscription(["a", "b", "c"], { qos: 1 }))))
          yield* expectWords(peer, version, "subscribe 1 a:1 b:1 c:1")
          yield* send(peer, version, suback(1, 1, version === 4 ? 0x80 : 0x87, 0))
          const reason = yield* Fiber.join(fiber)
          assert.strictEqual(reason._tag, "SubscriptionRefused")
          if (reason._tag === "SubscriptionRefused") {
            assert.strictEqual(reason.filter, "b")
            assert.strictEqual(reason.reasonCode, version === 4 ? 0x80 : 0x87)
          }
          // The scope of the subscription is still open: failing is what withdraws it.
          yield* expectWords(peer, version, "unsubscribe 2 a c")
          yield* send(peer, version, unsuback(2, 0, 0))
          yield* network.settle
          assert.strictEqual((yield* client.stats).packetIds, 0)
          // Nothing of it is wanted on a later connection.
          yield* peer.reset
          yield* TestClock.adjust("1 second")
          const second = yield* handshake(listener, accepted[version])
          yield* awaitStatus(client, "Connected")
          yield* network.settle
          assert.strictEqual(Hex.encode(second.received), second.connect)
        })))

      it.effect("a stream whose filter is refused fails typed", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion: version })
          const fiber = yield* start(reasonOf(Stream.runDrain(client.subscribe("a", { qos: 1 }))))
          yield* expectWords(peer, version, "subscribe 1 a:1")
          yield* send(peer, version, suback(1, 0x80))
          assert.strictEqual((yield* Fiber.join(fiber))._tag, "SubscriptionRefused")
          // Asking again is up to the user, and is asked.
          yield* start(Stream.runDrain(client.subscribe("a", { qos: 1 })))
          yield* expectWords(peer, version, "subscribe 2 a:1")
        })))

      for (const [name, codes] of [["too few", [0]], ["too many", [0, 0, 0]]] as const) {
        it.effect(`SB-10: ${name} codes in SUBACK are a fault; the subscription is asked for again`, () =>
          run(Effect.gen(function*() {
            const { client, listener, peer } = yield* open({ protocolVersion: version })
            const fiber = yield* start(client.subscription(["a", "b"]))
            yield* expectWords(peer, version, "subscribe 1 a:0 b:0")
            yield* send(peer, version, suback(1, ...codes))
            const { packets } = yield* readToEnd(peer)
            assert.deepStrictEqual(packets, version === 5 ? ["e0 01 82"] : [])
            const { cause } = yield* awaitStatus(client, "Reconnecting")
            assert.strictEqual(cause._tag, "ProtocolError")
            yield* TestClock.adjust("1 second")
            const second = yield* handshake(listener, accepted[version])
            yield* expectWords(second, version, "subscribe 2 a:0 b:0")
            yield* send(second, version, suback(2, 0, 0))
            assert.strictEqual((yield* Fiber.join(fiber)).grants.length, 2)
          })))
      }

      it.effect("SB-12: a code that the version does not know is a fault", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion: version })
          yield* start(client.subscription("a", { qos: 2 }))
          yield* expectWords(peer, version, "subscribe 1 a:2")
          yield* peer.sendHex(version === 4 ? "90 03 00 01 03" : "90 04 00 01 00 03")
          const { packets } = yield* readToEnd(peer)
          assert.match(packets.join(), version === 5 ? /^e0 01 8[12]$/ : /^$/)
        })))

      it.effect("SB-15: hands over each message with its own QoS, whatever was granted", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion: version })
          const stream = yield* start(client.subscribe("a", { qos: 2 }).pipe(Stream.take(3), Stream.runCollect))
          yield* expectWords(peer, version, "subscribe 1 a:2")
          yield* send(
            peer,
            version,
            suback(1, 2),
            message("a"),
            message("a", 1),
            message("a", 1, { qos: 2 })
          )
          assert.deepStrictEqual((yield* Fiber.join(stream)).map((message) => message.qos), [0, 1, 2])
        })))

      it.effect("SS-14: asks again on the next connection when the link is lost before SUBACK", () =>
        run(Effect.gen(function*() {
          const { client, listener, peer } = yield* open({ protocolVersion: version })
          const fiber = yield* start(client.subscription("a", { qos: 1 }))
          yield* expectWords(peer, version, "subscribe 1 a:1")
          yield* peer.reset
          yield* awaitStatus(client, "Reconnecting")
          // Who comes while there is no link goes with it, in one packet.
          const other = yield* start(client.subscription("b"))
          yield* TestClock.adjust("1 second")
          const second = yield* handshake(listener, accepted[version])
          yield* expectWords(second, version, "subscribe 2 a:1 b:0")
          yield* send(second, version, suback(2, 1, 0))
          assert.deepStrictEqual((yield* Fiber.join(fiber)).grants, [{ filter: "a", qos: 1 }])
          assert.deepStrictEqual((yield* Fiber.join(other)).grants, [{ filter: "b", qos: 0 }])
        })))

      it.effect("an interrupted subscription is withdrawn, before and after SUBACK", () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open({ protocolVersion: version })
          const fiber = yield* start(detached(client.subscription("a")))
          yield* expectWords(peer, version, "subscribe 1 a:0")
          yield* Fiber.interrupt(fiber)
          yield* send(peer, version, suback(1, 0))
          yield* expectWords(peer, version, "unsubscribe 2 a")
          yield* send(peer, version, unsuback(2, 0))
          yield* network.settle
          const { packetIds } = yield* client.stats
          assert.strictEqual(packetIds, 0)
        })))

      it.effect("one that is interrupted while there is no link, at whichever step, leaves nothing behind", () =>
        run(Effect.gen(function*() {
          const { client, listener, network, peer } = yield* open({ protocolVersion: version })
          yield* peer.reset
          yield* awaitStatus(client, "Reconnecting")
          for (const steps of [2_048, ...Array.from({ length: 40 }, (_, index) => index + 3)]) {
            const fiber = yield* start(
              Effect.provideService(detached(client.subscription("a")), References.MaxOpsBeforeYield, steps)
            )
            yield* Fiber.interrupt(fiber)
          }
          yield* TestClock.adjust("1 second")
          const second = yield* handshake(listener, accepted[version])
          yield* awaitStatus(client, "Connected")
          yield* network.settle
          assert.strictEqual(Hex.encode(second.received), second.connect)
        })))

      it.effect("asks once for a filter that is given twice, and hands a message over once", () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open({ protocolVersion: version })
          const fiber = yield* start(client.subscription(["a/b", "a/+", "a/b", "#"]))
          // On 5.0 those that overlap have an identifier each, and so a packet.
          if (version === 4) {
            yield* expectWords(peer, version, "subscribe 1 a/b:0 a/+:0 #:0")
            yield* send(peer, version, suback(1, 0, 0, 0))
          } else {
            yield* expectWords(peer, version, "subscribe 1 a/b:0", "subscribe 2 a/+:0", "subscribe 3 #:0")
            yield* send(peer, version, suback(1, 0), suback(2, 0), suback(3, 0))
          }
          const { messages } = yield* Fiber.join(fiber)
          const { seen } = yield* collect(messages)
          yield* send(peer, version, message("a/b"), message("$SYS/a"), message("c"))
          yield* network.settle
          assert.deepStrictEqual(seen, ["a/b", "c"])
        })))

      it.effect("SH-03, SH-05, US-04: routes a shared filter by its last part, and unsubscribes by its whole text", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion: version })
          const stream = yield* start(client.subscribe("$share/g/+/x").pipe(Stream.take(2), Stream.runCollect))
          yield* expectWords(peer, version, "subscribe 1 $share/g/+/x:0")
          yield* send(peer, version, suback(1, 0), message("b"), message("a/x"), message("$a/x"), message("b/x"))
          assert.deepStrictEqual((yield* Fiber.join(stream)).map(Message.text), ["a/x", "b/x"])
          yield* expectWords(peer, version, "unsubscribe 2 $share/g/+/x")
        })))

      it.effect("scope close ends the streams, and says so", () =>
        run(Effect.gen(function*() {
          const { client, close, peer } = yield* open({ protocolVersion: version })
          const stream = yield* start(reasonOf(Stream.runDrain(client.subscribe("a"))))
          yield* expectWords(peer, version, "subscribe 1 a:0")
          yield* send(peer, version, suback(1, 0))
          const waiting = yield* start(reasonOf(client.subscription("b")))
          yield* expectWords(peer, version, "subscribe 2 b:0")
          yield* close()
          assert.strictEqual((yield* Fiber.join(stream))._tag, "ClientClosed")
          assert.strictEqual((yield* Fiber.join(waiting))._tag, "ClientClosed")
          assert.strictEqual((yield* reasonOf(client.subscription("a")))._tag, "ClientClosed")
          assert.strictEqual((yield* reasonOf(Stream.runDrain(client.subscribe("a"))))._tag, "ClientClosed")
        })))

      it.effect("a halt fails those who wait for a grant, and leaves the streams alive", () =>
        run(Effect.gen(function*() {
          const { client, listener, peer } = yield* open({ protocolVersion: version })
          const stream = yield* start(Stream.runHead(client.subscribe("a")))
          yield* expectWords(peer, version, "subscribe 1 a:0")
          yield* send(peer, version, suback(1, 0))
          const waiting = yield* start(reasonOf(detached(client.subscription("b"))))
          yield* expectWords(peer, version, "subscribe 2 b:0")
          yield* client.disconnect()
          assert.strictEqual((yield* Fiber.join(waiting))._tag, "ClientHalted")
          assert.strictEqual((yield* reasonOf(client.subscription("c")))._tag, "ClientHalted")
          const resuming = yield* start(client.resume)
          const second = yield* handshake(listener, accepted[version])
          yield* Fiber.join(resuming)
          yield* expectWords(second, version, "subscribe 3 a:0")
          yield* send(second, version, suback(3, 0), message("a"))
          assert.strictEqual((yield* Fiber.join(stream))._tag, "Some")
        })))

      it.effect("US-11: acknowledges at once what comes for a filter that is being unsubscribed", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion: version })
          const stream = yield* start(client.subscribe("a/#", { qos: 2 }).pipe(Stream.take(1), Stream.runDrain))
          yield* expectWords(peer, version, "subscribe 1 a/#:2")
          yield* send(peer, version, suback(1, 2), message("a/1"))
          yield* Fiber.join(stream)
          yield* expectWords(peer, version, "unsubscribe 2 a/#")
          yield* send(peer, version, message("a/2", 5), message("a/3", 6, { qos: 2 }))
          yield* expectWords(peer, version, "puback 5", "pubrec 6")
          // US-05: a handshake that has begun is finished after UNSUBACK, and a straggler is acknowledged as well.
          yield* send(peer, version, unsuback(2, 0), { cmd: "pubrel", messageId: 6 }, message("a/4", 7))
          yield* expectWords(peer, version, "pubcomp 6", "puback 7")
          const { dropped, unclaimed } = yield* client.stats
          assert.deepStrictEqual([dropped, unclaimed], [0, 0])
        })))

      it.effect("SB-03, US-03, law 13: refuses what is not valid and leaves nothing behind", () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open({ protocolVersion: version })
          const bad = [
            [[], {}, "filters"],
            ["", {}, "filter"],
            ["a/#/b", {}, "filter"],
            ["a+", {}, "filter"],
            ["a\u0000", {}, "filter"],
            ["\ud800", {}, "filter"],
            [["a", "b#"], {}, "filter"],
            ["é".repeat(32768), {}, "filter"],
            [[1], {}, "filter"],
            ["a", { qos: 3 }, "qos"],
            ["a", { retainHandling: 3 }, "retainHandling"],
            ["a", { bufferSize: 0 }, "bufferSize"],
            ["a", { bufferBytes: -1 }, "bufferBytes"],
            ["a", { overflow: "grow" }, "overflow"],
            ["a", { noLocal: 1 }, "noLocal"],
            ["a", { userProperties: [["\ud800", ""]] }, "userProperties"],
            ["a", { Qos: 1 }, "Qos"]
          ] as const
          for (const [filters, options, field] of bad) {
            const reason = yield* reasonOf(client.subscription(filters as never, options as never))
            assert.strictEqual(reason._tag, "InvalidSubscription")
            if (reason._tag === "InvalidSubscription") assert.match(reason.field, new RegExp(`^${field}`))
            const streamed = yield* reasonOf(Stream.runDrain(client.subscribe(filters as never, options as never)))
            assert.deepStrictEqual(streamed, reason)
          }
          yield* network.settle
          assert.deepStrictEqual(sentWords(peer, version), [])
          assert.strictEqual((yield* client.stats).packetIds, 0)
        })))
    })
  }

  it.effect("PB-30: an empty payload is a message", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      const stream = yield* start(client.subscribe("a").pipe(Stream.take(2), Stream.runCollect))
      yield* expectWords(peer, 5, "subscribe 1 a:0")
      yield* send(peer, 5, suback(1, 0), message("a", 0, { payload: "" }), message("a"))
      assert.deepStrictEqual((yield* Fiber.join(stream)).map((message) => message.payload.length), [0, 1])
    })))

  it.effect("a durable subscription that was not declared fails typed", () =>
    run(Effect.gen(function*() {
      const { client } = yield* open({ subscriptions: [{ filter: "a" }] })
      const reason = yield* reasonOf(Stream.runDrain(client.durable("b")))
      assert.strictEqual(reason._tag === "InvalidSubscription" && reason.field, "filter")
      const wrong = yield* reasonOf(Stream.runDrain(client.durable("a", { overflow: "grow" } as never)))
      assert.strictEqual(wrong._tag, "InvalidSubscription")
    })))
})
