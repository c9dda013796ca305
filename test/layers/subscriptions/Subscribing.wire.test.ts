import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Hex } from "../../../src/testing/index.ts"
import { collect } from "../../support/Consumer.ts"
import {
  expectPackets,
  expectWords,
  handshake,
  inWords,
  message,
  next,
  open,
  readToEnd,
  run,
  send,
  sentFrames,
  sentWords,
  start
} from "../../support/ScriptedBroker.ts"
import { reasonOf, suback, subscribing } from "../../support/Subscriptions.ts"

describe("Subscribing on the wire", () => {
  describe("on MQTT 5.0", () => {
    it.effect("SB-01, SB-05, PR-01: writes options and user properties to the byte", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        yield* start(client.subscription("a"))
        yield* expectPackets(peer, "82 07 00 01 00 00 01 61 00")
        yield* start(
          client.subscription("b", { qos: 2, noLocal: true, retainAsPublished: true, retainHandling: "none" })
        )
        yield* expectPackets(peer, "82 07 00 02 00 00 01 62 2e")
        yield* start(
          client.subscription("c", { qos: 1, retainHandling: "sendIfNew", userProperties: [["k", "v"], ["k", "w"]] })
        )
        yield* expectPackets(peer, "82 15 00 03 0e 26 00 01 6b 00 01 76 26 00 01 6b 00 01 77 00 01 63 11")
      })))

    it.effect("US-01, US-02: UNSUBSCRIBE holds the bare filters", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        yield* start(Effect.scoped(client.subscription(["a", "b/#"])))
        yield* expectPackets(peer, "82 0d 00 01 00 00 01 61 00 00 03 62 2f 23 00")
        yield* peer.sendHex("90 05 00 01 00 00 00")
        yield* expectPackets(peer, "a2 0b 00 02 00 00 01 61 00 03 62 2f 23")
      })))

    it.effect("SH-01, SH-02, SB-04: refuses what a shared subscription cannot be", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open()
        for (
          const filter of [
            "$share//x",
            "$share/",
            "$share/g",
            "$share/g+/x",
            "$share/#/x",
            "$share/g/",
            "$share/g/a/#/b"
          ]
        ) {
          assert.strictEqual((yield* reasonOf(client.subscription(filter)))._tag, "InvalidSubscription")
        }
        const reason = yield* reasonOf(client.subscription("$share/g/t", { noLocal: true }))
        assert.strictEqual(reason._tag === "InvalidSubscription" && reason.field, "noLocal")
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5), [])
        yield* start(client.subscription("$share/g//x"))
        yield* expectWords(peer, 5, "subscribe 1 $share/g//x:0")
      })))

    it.effect("CK-20, CK-22: refuses what the server does not support, and sends the rest", () =>
      run(Effect.gen(function*() {
        // Wildcard Subscription Available 0, Shared Subscription Available 0.
        const { client, network, peer } = yield* open({}, { connack: "20 07 00 00 04 28 00 2a 00" })
        for (
          const [filter, feature] of [
            ["a/#", "wildcard subscription"],
            ["$share/g/+", "wildcard subscription"],
            ["$share/g/a", "shared subscription"]
          ] as const
        ) {
          const reason = yield* reasonOf(client.subscription(filter))
          assert.strictEqual(reason._tag === "NotSupportedByServer" && reason.feature, feature)
        }
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5), [])
        yield* start(client.subscription("a"))
        yield* expectWords(peer, 5, "subscribe 1 a:0")
      })))

    it.effect("US-06, US-07: takes 0x11 for a success, and a wrong count for a fault", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open()
        yield* start(Effect.scoped(client.subscription("a")))
        yield* expectWords(peer, 5, "subscribe 1 a:0")
        yield* send(peer, 5, suback(1, 0))
        yield* expectWords(peer, 5, "unsubscribe 2 a")
        yield* peer.sendHex("b0 04 00 02 00 11")
        yield* network.settle
        assert.strictEqual((yield* client.stats).packetIds, 0)
        yield* start(Effect.scoped(client.subscription("b")))
        yield* expectWords(peer, 5, "subscribe 3 b:0")
        yield* send(peer, 5, suback(3, 0))
        yield* expectWords(peer, 5, "unsubscribe 4 b")
        yield* peer.sendHex("b0 05 00 04 00 00 00")
        assert.deepStrictEqual((yield* readToEnd(peer)).packets, ["e0 01 82"])
      })))

    it.effect("US-08: an unsubscription that the server refuses is not asked for again", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open()
        yield* start(Effect.scoped(client.subscription("a")))
        yield* expectWords(peer, 5, "subscribe 1 a:0")
        yield* send(peer, 5, suback(1, 0))
        yield* expectWords(peer, 5, "unsubscribe 2 a")
        yield* peer.sendHex("b0 04 00 02 00 80")
        yield* network.settle
        const { openConnections } = network
        assert.strictEqual(openConnections, 1)
        yield* start(client.subscription("b"))
        yield* expectWords(peer, 5, "subscribe 3 b:0")
      })))

    it.effect("PI-05: a SUBACK to an UNSUBSCRIBE is a fault", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        yield* start(Effect.scoped(client.subscription("a")))
        yield* expectWords(peer, 5, "subscribe 1 a:0")
        yield* send(peer, 5, suback(1, 0))
        yield* expectWords(peer, 5, "unsubscribe 2 a")
        yield* send(peer, 5, suback(2, 0))
        assert.deepStrictEqual((yield* readToEnd(peer)).packets, ["e0 01 82"])
      })))

    for (const [row, ack] of [["SB-13: a SUBACK", "90 3f"], ["US-09: an UNSUBACK", "b0 3f"]] as const) {
      it.effect(`${row} beyond our Maximum Packet Size is a fault`, () =>
        run(Effect.gen(function*() {
          const { peer } = yield* open({ maximumPacketSize: 64 })
          yield* peer.sendHex(ack)
          assert.deepStrictEqual((yield* readToEnd(peer)).packets, ["e0 01 95"])
        })))
    }

    it.effect("PB-26: a subscription identifier that was never used is no fault", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const stream = yield* start(Stream.runHead(client.subscribe("a", { qos: 1 })))
        yield* expectWords(peer, 5, "subscribe 1 a:1")
        yield* send(peer, 5, suback(1, 1), message("a", 1, { properties: { subscriptionIdentifier: 268435455 } }))
        const received = yield* Fiber.join(stream)
        assert.deepInclude(received, { _tag: "Some" })
        assert.deepStrictEqual(received._tag === "Some" && received.value.subscriptionIdentifiers, [268435455])
        yield* expectWords(peer, 5, "unsubscribe 2 a", "puback 1")
        yield* send(peer, 5, message("a", 2, { properties: { subscriptionIdentifier: 7 } }))
        yield* expectWords(peer, 5, "puback 2")
      })))

    it.effect("SubscriptionRefused has the server's words", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const fiber = yield* start(reasonOf(client.subscription("a")))
        yield* next(peer)
        // Reason String "no".
        yield* peer.sendHex("90 09 00 01 05 1f 00 02 6e 6f 87")
        const reason = yield* Fiber.join(fiber)
        assert.strictEqual(reason._tag === "SubscriptionRefused" && reason.reasonString, "no")
        assert.include(reason.message, "Not authorized")
      })))

    it.effect("a SUBSCRIBE beyond the server's Maximum Packet Size fails typed and is not sent", () =>
      run(Effect.gen(function*() {
        // Maximum Packet Size 32.
        const { client, network, peer } = yield* open({}, { connack: "20 08 00 00 05 27 00 00 00 20" })
        const filter = "x".repeat(25)
        const reason = yield* reasonOf(client.subscription(filter))
        assert.strictEqual(reason._tag, "PacketTooLarge")
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5), [])
        assert.strictEqual((yield* client.stats).packetIds, 0)
        yield* start(client.subscription(["y".repeat(24), "z".repeat(24)]))
        yield* expectWords(peer, 5, `subscribe 2 ${"y".repeat(24)}:0`, `subscribe 3 ${"z".repeat(24)}:0`)
      })))

    it.effect("CK-14: what does not fit into one packet goes in several, user properties in each", () =>
      run(Effect.gen(function*() {
        // Maximum Packet Size 80.
        const { client, network, peer } = yield* open({}, { connack: "20 08 00 00 05 27 00 00 00 50" })
        const filters = Array.from({ length: 12 }, (_, index) => `ä/${String(index).padStart(8, "0")}`)
        const long = "x".repeat(90)
        const { fiber, leave } = yield* subscribing(client, filters, { userProperties: [["key", "x".repeat(30)]] })
        const refused = yield* start(reasonOf(client.subscription(long)))
        let next = 0
        for (let id = 1; next < filters.length; id++) {
          const frame = yield* peer.readFrame
          assert.isAtMost(frame.length, 80)
          assert.include(Buffer.from(frame).toString(), "key")
          const words = inWords(frame, 5).split(" ")
          assert.deepStrictEqual(words.slice(0, 2), ["subscribe", `${id}`])
          const count = words.length - 2
          assert.deepStrictEqual(words.slice(2), filters.slice(next, next + count).map((filter) => `${filter}:0`))
          next += count
          yield* send(peer, 5, suback(id, ...Array.from({ length: count }, () => 0)))
        }
        assert.strictEqual((yield* Fiber.join(refused))._tag, "PacketTooLarge")
        assert.strictEqual((yield* Fiber.join(fiber)).grants.length, 12)
        yield* leave
        yield* network.settle
        const frames = sentFrames(peer).filter((frame) => frame[0] === 0xa2)
        assert.isAbove(frames.length, 1)
        assert.isTrue(frames.every((frame) => frame.length <= 80))
        const unsubscribed = frames.flatMap((frame) => inWords(frame, 5).split(" ").slice(2))
        assert.deepStrictEqual(unsubscribed, filters)
      })))

    it.effect("thousands of filters go out in time that grows with their number", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open()
        const filters = Array.from({ length: 20_000 }, (_, index) => `device/${index}/+`)
        yield* start(client.subscription([...filters, "#", "+/+/+", "device/#"]))
        yield* network.settle
        const words = sentWords(peer, 5)
        assert.strictEqual(words.flatMap((packet) => packet.split(" ").slice(2)).length, 20_003)
        assert.strictEqual(words.length, Math.ceil(20_000 / 128) + 3)
      })))

    it.effect("PB-05, PB-10, PB-20, PB-21, PB-24, PB-26: hands over all properties as they came", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const stream = yield* start(client.subscribe("a").pipe(Stream.runHead, Effect.flatMap(Effect.fromOption)))
        yield* expectWords(peer, 5, "subscribe 1 a:0")
        yield* send(peer, 5, suback(1, 0))
        const correlationData = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))
        const correlation = `09 01 00 ${Hex.encode(correlationData)}`
        const properties = [
          "0b 02", // Subscription Identifiers 2, 1, 2
          "26 00 01 62 00 01 31", // User Property b: 1
          "0b 01",
          "01 01", // Payload Format Indicator
          "02 00 00 00 09", // Message Expiry Interval
          "26 00 01 61 00 01 32", // User Property a: 2
          "08 00 01 72", // Response Topic
          correlation,
          "0b 02",
          "03 00 03 61 2f 62", // Content Type
          "26 00 01 62 00 00" // User Property b: empty
        ].join(" ")
        const length = Hex.decode(properties).length
        const body = `00 01 61 ${Hex.encode(Uint8Array.of(length & 0x7f | 0x80, length >> 7))} ${properties} 68 69`
        const total = Hex.decode(body).length
        yield* peer.sendHex(`31 ${Hex.encode(Uint8Array.of(total & 0x7f | 0x80, total >> 7))} ${body}`)
        const { correlationData: correlated, payload, ...rest } = yield* Fiber.join(stream)
        assert.deepStrictEqual(rest, {
          topic: "a",
          qos: 0,
          retain: true,
          duplicate: false,
          payloadFormat: "utf8",
          messageExpiryInterval: 9,
          contentType: "a/b",
          responseTopic: "r",
          userProperties: [["b", "1"], ["a", "2"], ["b", ""]],
          subscriptionIdentifiers: [2, 1, 2]
        })
        assert.deepStrictEqual([...correlated!], [...correlationData])
        assert.deepStrictEqual([...payload], [0x68, 0x69])
        // What is small beside it keeps no network buffer alive.
        assert.strictEqual(correlated!.buffer.byteLength, 256)
      })))

    it.effect("PB-12, PB-14: takes inbound topic aliases, and forgets them with the connection", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open({ topicAliasMaximum: 65535 })
        const { seen } = yield* collect(
          client.subscribe("#").pipe(
            Stream.map((message) => ({ ...message, payload: new TextEncoder().encode(message.topic) }))
          )
        )
        yield* expectWords(peer, 5, "subscribe 1 #:0")
        yield* send(peer, 5, suback(1, 0))
        const aliased = (topic: string, topicAlias: number) =>
          message(topic, 0, { payload: "", properties: { topicAlias } })
        yield* send(
          peer,
          5,
          aliased("a", 65535),
          aliased("", 65535),
          aliased("b", 1),
          aliased("c", 65535),
          aliased("", 65535),
          aliased("", 1)
        )
        yield* network.settle
        assert.deepStrictEqual(seen, ["a", "a", "b", "c", "c", "b"])
        yield* peer.reset
        yield* TestClock.adjust("1 second")
        const second = yield* handshake(listener)
        yield* expectWords(second, 5, "subscribe 2 #:0")
        yield* send(second, 5, suback(2, 0), aliased("", 1))
        assert.deepStrictEqual((yield* readToEnd(second)).packets, ["e0 01 82"])
        assert.strictEqual(seen.length, 6)
      })))
  })

  describe("on MQTT 3.1.1", () => {
    it.effect("SB-05: no option of MQTT 5.0 gets into the packet", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ protocolVersion: 4 })
        yield* start(client.subscription("a", {
          qos: 2,
          noLocal: true,
          retainAsPublished: true,
          retainHandling: "none",
          userProperties: [["k", "v"]]
        }))
        yield* expectPackets(peer, "82 06 00 01 00 01 61 02")
      })))

    it.effect("SH-05: knows no $share, so its wildcard rules alone hold", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ protocolVersion: 4 })
        yield* start(client.subscription(["$share//x", "$share/g"]))
        yield* expectWords(peer, 4, "subscribe 1 $share//x:0 $share/g:0")
      })))

    it.effect("US-10: UNSUBACK is the identifier alone", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({ protocolVersion: 4 })
        yield* start(Effect.scoped(client.subscription("a")))
        yield* expectPackets(peer, "82 06 00 01 00 01 61 00")
        yield* peer.sendHex("90 03 00 01 00")
        yield* expectPackets(peer, "a2 05 00 02 00 01 61")
        yield* peer.sendHex("b0 02 00 02")
        yield* network.settle
        assert.strictEqual((yield* client.stats).packetIds, 0)
      })))
  })
})
