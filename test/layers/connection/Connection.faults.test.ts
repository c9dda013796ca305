import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import { readFileSync } from "node:fs"
import type { ClientOptions } from "../../../src/services/ClientOptions.ts"
import type { MqttClientService } from "../../../src/services/MqttClient.ts"
import {
  accepted,
  awaitStatus,
  expectWords,
  handshake,
  next,
  open,
  readToEnd,
  run,
  start
} from "../../support/ScriptedBroker.ts"
import type { Peer } from "../../support/ScriptedBroker.ts"

interface Vector {
  readonly id: string
  readonly ver: "4" | "5"
  readonly stage: string
  readonly hex: string
  readonly fault: string
  /** Code of our DISCONNECT, `close` where it has none, `none` where there is no fault. */
  readonly prim: string
  /** Other codes that are right. */
  readonly tol: string
  /** What has to be so before the bytes come. */
  readonly pre: string
}

const { vectors } = JSON.parse(
  readFileSync(new URL("../../fixtures/mqtt-conformance.data.json", import.meta.url), "utf8")
) as { readonly vectors: ReadonlyArray<Vector> }

/** PUBLISH QoS 0, of a message that is right. */
const fine = {
  4: (topic: string) => `30 04 00 01 ${Buffer.from(topic).toString("hex")} 78`,
  5: (topic: string) => `30 05 00 01 ${Buffer.from(topic).toString("hex")} 00 78`
}

/** Brings about what stands in `pre`; gives the packet identifier that the vector speaks of as 1. */
const prepare = Effect.fnUntraced(function*(client: MqttClientService, peer: Peer, version: 4 | 5, pre: string) {
  const publish = /^(?:.*; )?(?:QoS ([12]) )?publish id 1/.exec(pre)
  if (publish !== null) {
    yield* start(Effect.ignore(client.publish({ topic: "t", payload: "x", qos: publish[1] === "2" ? 2 : 1 })))
    yield* next(peer)
    return 1
  }
  const consuming = yield* start(Effect.ignore(Stream.runDrain(client.subscribe("t", { qos: 2 }))))
  yield* next(peer)
  if (pre.startsWith("SUBSCRIBE id 1")) return 1
  yield* peer.sendHex(version === 5 ? "90 04 00 01 00 02" : "90 03 00 01 02")
  if (pre.startsWith("inbound QoS 2")) {
    yield* peer.sendHex(version === 5 ? "34 07 00 01 74 00 01 00 78" : "34 06 00 01 74 00 01 78")
    yield* expectWords(peer, version, "pubrec 1")
    return 1
  }
  // A round trip, so that the subscription is known to stand.
  const ping = yield* start(client.ping)
  yield* next(peer)
  yield* peer.sendHex("d0 00")
  yield* Fiber.join(ping)
  if (pre.startsWith("UNSUBSCRIBE id 1")) {
    yield* Fiber.interrupt(consuming)
    yield* next(peer)
    return 2
  }
  return 1
})

const optionsOf = ({ id, pre, ver }: Pick<Vector, "id" | "pre" | "ver">): Partial<ClientOptions> => ({
  protocolVersion: versionOf({ ver }),
  // The second filter overlaps the first one, which would be subscribed again.
  subscriptionIdentifiers: false,
  ...(id === "M-SIZE-1" ? { maximumPacketSize: 64 } : {}),
  ...(pre.includes("Problem Information 0") ? { requestProblemInformation: false } : {}),
  ...(pre.includes("Topic Alias Maximum 2") || id === "M-ALIAS-1" ? { topicAliasMaximum: 2 } : {}),
  ...(pre.includes("Receive Maximum 1") ? { receiveMaximum: 1 } : {})
})

/** Plays a vector between two messages that are right, in one segment or byte by byte. */
const play = Effect.fnUntraced(function*(vector: Pick<Vector, "id" | "pre" | "ver" | "hex">, chunkBytes: number) {
  const version = versionOf(vector)
  const opened = yield* open(optionsOf(vector), { chunkBytes })
  const { client, peer } = opened
  const received: Array<string> = []
  const id = yield* prepare(client, peer, version, vector.pre)
  yield* start(
    Effect.ignore(Stream.runForEach(client.subscribe("#"), ({ topic }) => Effect.sync(() => received.push(topic))))
  )
  const subscribe = yield* next(peer)
  yield* peer.sendHex(
    `${version === 5 ? "90 04" : "90 03"} ${subscribe.slice(6, 11)} ${version === 5 ? "00 00" : "00"}`
  )
  yield* opened.network.settle
  const hex = id === 1 ? vector.hex : vector.hex.replace("00 01", `00 0${id}`)
  yield* peer.sendHex(`${fine[version]("b")} ${hex} ${fine[version]("y")}`)
  yield* opened.network.settle
  return { ...opened, received }
})

const versionOf = ({ ver }: Pick<Vector, "ver">) => ver === "5" ? 5 : 4

const codesOf = ({ prim, tol }: Vector) =>
  [prim, ...tol.split(",")].map((code) => code.trim()).filter((code) => code.startsWith("0x"))

/** What the client sends when it closes for this reason. */
const disconnect = (code: number) => `e0 01 ${code.toString(16)}`

/** The least that we can announce is 64 bytes, so the packet that is too large has 65. */
const tooLarge = `30 3f 00 01 61 00${" 78".repeat(59)}`

const stageC = vectors.filter((vector) => vector.stage === "C").map((vector) =>
  vector.id === "M-SIZE-1" ? { ...vector, hex: tooLarge } : vector
)

/** Whether the bytes are none of our business: a payload that is not what its format indicator says is the user's. */
const isAccepted = ({ prim, tol }: Vector) => prim === "none" || tol.startsWith("accept")

describe("faults of the server (law 12)", () => {
  describe("byte sequences", () => {
    for (const vector of stageC.filter((vector) => !isAccepted(vector))) {
      it.effect(`${vector.id} ER-01b ER-06p: ${vector.fault} (MQTT ${vector.ver})`, () =>
        Effect.forEach([Infinity, 1], (chunkBytes) =>
          run(Effect.gen(function*() {
            const version = versionOf(vector)
            const { client, listener, network, peer, received } = yield* play(vector, chunkBytes)
            const codes = codesOf(vector)
            const { how, packets: sent } = yield* readToEnd(peer)
            // Of two messages the first may have been acknowledged before the second came.
            const packets = sent.filter((packet) => !packet.startsWith("50"))
            assert.strictEqual(how, "fin")
            assert.isAtMost(packets.length, 1)
            if (version === 4) assert.deepStrictEqual(packets, [])
            else if (vector.prim !== "close") {
              assert.include(codes.map((code) => disconnect(Number(code))), packets[0])
            }
            const { cause, delayMillis } = yield* awaitStatus(client, "Reconnecting")
            if (cause._tag === "ProtocolError") {
              assert.strictEqual(packets[0], version === 5 ? disconnect(cause.reasonCode) : undefined)
              assert.isTrue(cause.packet !== "" && cause.field !== "" && cause.rule !== "")
            } else {
              assert.strictEqual(cause._tag, "ServerDisconnected")
              assert.strictEqual(vector.prim, "close")
            }
            // What stood before the fault counts, what stood behind it does not.
            assert.deepStrictEqual(received, vector.id === "M-RM-1" ? ["b", "a"] : ["b"])
            assert.strictEqual(network.openConnections, 0)
            yield* TestClock.adjust(delayMillis)
            yield* handshake(listener, accepted[version])
            yield* awaitStatus(client, "Connected")
          })), { discard: true }))
    }

    for (const vector of stageC.filter(isAccepted)) {
      it.effect(`${vector.id}: ${vector.fault} is no fault (MQTT ${vector.ver})`, () =>
        Effect.forEach([Infinity, 1], (chunkBytes) =>
          run(Effect.gen(function*() {
            const { client, received } = yield* play(vector, chunkBytes)
            assert.strictEqual((yield* client.status)._tag, "Connected")
            assert.deepStrictEqual([received[0], received.at(-1)], ["b", "y"])
          })), { discard: true }))
    }
  })

  describe("in a state in which they are wrong", () => {
    const wrong: ReadonlyArray<readonly [id: string, ver: "4" | "5", hex: string, pre: string]> = [
      ["CK-02s: a second CONNACK", "5", "20 03 00 00 00", ""],
      ["CK-02s: a second CONNACK", "4", "20 02 00 00", ""],
      ["PI-09p: PUBACK for a QoS 2 message (M-ACK-3)", "4", "40 02 00 01", "QoS 2 publish id 1"],
      ["PI-09p: PUBREC for a QoS 1 message", "5", "50 02 00 01", "QoS 1 publish id 1"],
      ["PI-09p: PUBREC for a QoS 1 message", "4", "50 02 00 01", "QoS 1 publish id 1"],
      ["PI-09p: PUBCOMP before PUBREC", "5", "70 02 00 01", "QoS 2 publish id 1"],
      ["PI-09p: PUBCOMP before PUBREC", "4", "70 02 00 01", "QoS 2 publish id 1"],
      ["SB-10s: SUBACK with two codes for one filter (M-ACK-5)", "4", "90 04 00 01 00 00", "SUBSCRIBE id 1"],
      ["PI-09p: UNSUBACK for a SUBSCRIBE", "5", "b0 04 00 01 00 00", "SUBSCRIBE id 1"],
      ["PI-09p: UNSUBACK for a SUBSCRIBE", "4", "b0 02 00 01", "SUBSCRIBE id 1"],
      ["US-07s: UNSUBACK with two codes for one filter", "5", "b0 05 00 01 00 00 00", "UNSUBSCRIBE id 1"],
      ["PI-09p: SUBACK for an UNSUBSCRIBE", "5", "90 04 00 01 00 00", "UNSUBSCRIBE id 1"],
      ["PI-09p: SUBACK for an UNSUBSCRIBE", "4", "90 03 00 01 00", "UNSUBSCRIBE id 1"],
      ["a packet that only clients send (M-TYPE-2)", "4", "c0 00", ""],
      ["packet type 0 (M-TYPE-1)", "4", "00 00", ""]
    ]
    for (const [id, ver, hex, pre] of wrong) {
      it.effect(`${id} (MQTT ${ver})`, () =>
        run(Effect.gen(function*() {
          const { client, peer, received } = yield* play({ id, ver, hex, pre }, Infinity)
          const { cause } = yield* awaitStatus(client, "Reconnecting")
          assert.strictEqual(cause._tag, "ProtocolError")
          const reasonCode = cause._tag === "ProtocolError" ? cause.reasonCode : 0
          const packets = ver === "5" ? [disconnect(reasonCode)] : []
          assert.deepStrictEqual(yield* readToEnd(peer), { packets, how: "fin" })
          assert.deepStrictEqual(received, ["b"])
        })))
    }
  })

  it.effect("PI-09p: a SUBACK with the identifier of a publish completes nothing", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      const publishing = yield* start(client.publish({ topic: "a", payload: "x", qos: 1 }))
      yield* expectWords(peer, 5, "publish 1 a:1")
      yield* peer.sendHex("90 04 00 01 00 00")
      yield* TestClock.adjust("1 minute")
      assert.isUndefined(publishing.pollUnsafe())
      assert.strictEqual((yield* client.stats).packetIds, 1)
    })))

  for (const protocolVersion of [4, 5] as const) {
    it.effect(`is no reason to connect in a tight loop (MQTT ${protocolVersion})`, () =>
      run(Effect.gen(function*() {
        const { listener, network, peer } = yield* open({ protocolVersion })
        // A server that stops some time lets a loop without delays end in a failure.
        yield* start(Effect.gen(function*() {
          for (let count = 0; count < 100; count++) {
            const again = yield* handshake(listener, accepted[protocolVersion])
            yield* again.sendHex("00 00")
          }
        }))
        yield* peer.sendHex("00 00")
        yield* network.settle
        yield* TestClock.adjust("10 minutes")
        const gaps = network.dials.slice(1).map((dial, index) => dial.at - network.dials[index]!.at)
        assert.isAtLeast(gaps.length, 20)
        gaps.forEach((gap, index) => {
          const longest = Math.min(30_000, 1_000 * 2 ** index)
          assert.isAtLeast(gap, longest / 2 - 1)
          assert.isAtMost(gap, longest + 1)
        })
      })))
  }

  describe("what was pending (ER-07p)", () => {
    it.effect("goes on where it can be repeated, and fails typed where not", () =>
      run(Effect.gen(function*() {
        const { client, listener, peer } = yield* open({ sessionExpiry: "1 hour" })
        const publishing = yield* start(client.publish({ topic: "a", payload: "x", qos: 1 }))
        yield* expectWords(peer, 5, "publish 1 a:1")
        const exactly = yield* start(client.publish({ topic: "b", payload: "x", qos: 2 }))
        yield* expectWords(peer, 5, "publish 2 b:2")
        const subscribing = yield* start(Effect.scoped(client.subscription("s", { qos: 1 })))
        yield* expectWords(peer, 5, "subscribe 3 s:1")
        const pinging = yield* start(Effect.flip(client.ping))
        yield* next(peer)
        yield* peer.sendHex("d1 00")
        const { reason } = yield* Fiber.join(pinging)
        assert.strictEqual(reason._tag === "ProtocolError" && reason.reasonCode, 0x81)
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 01 81"], how: "fin" })
        yield* TestClock.adjust((yield* awaitStatus(client, "Reconnecting")).delayMillis)
        const again = yield* handshake(listener, "20 03 01 00 00")
        yield* expectWords(again, 5, "subscribe 4 s:1", "publish 1 a:1 dup", "publish 2 b:2 dup")
        yield* again.sendHex("90 04 00 04 00 01 40 02 00 01 50 02 00 02 70 02 00 02")
        yield* Effect.all([Fiber.join(publishing), Fiber.join(exactly), Fiber.join(subscribing)])
      })))

    it.effect("ER-05p: is untouched by a refusal that concerns another packet", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const refused = yield* start(Effect.flip(client.publish({ topic: "a", payload: "x", qos: 1 })))
        const published = yield* start(client.publish({ topic: "b", payload: "x", qos: 1 }))
        yield* expectWords(peer, 5, "publish 1 a:1", "publish 2 b:1")
        yield* peer.sendHex("40 03 00 01 87 40 02 00 02")
        const { reason } = yield* Fiber.join(refused)
        assert.strictEqual(reason._tag === "PublishRefused" && reason.reasonCode, 0x87)
        yield* Fiber.join(published)
        assert.strictEqual((yield* client.status)._tag, "Connected")
      })))
  })

  describe("DISCONNECT with the code (ER-02p)", () => {
    it.effect("waits for the packet that is being written", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({}, { windowBytes: 65_536 })
        yield* peer.stallReads
        yield* client.publish({ topic: "a", payload: new Uint8Array(200_000) })
        yield* network.settle
        yield* peer.sendHex("d1 00")
        yield* TestClock.adjust("1999 millis")
        yield* peer.resumeReads
        const { how, packets } = yield* readToEnd(peer)
        assert.deepStrictEqual([how, packets.length, packets[1]], ["fin", 2, "e0 01 81"])
        assert.strictEqual((yield* awaitStatus(client, "Reconnecting")).cause._tag, "ProtocolError")
      })))

    for (const protocolVersion of [4, 5] as const) {
      it.effect(`does not keep the link longer than disconnectTimeout (MQTT ${protocolVersion})`, () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open({ protocolVersion }, { windowBytes: 65_536 })
          yield* peer.stallReads
          yield* client.publish({ topic: "a", payload: new Uint8Array(200_000) })
          yield* network.settle
          const losing = yield* start(awaitStatus(client, "Reconnecting"))
          yield* peer.sendHex("d1 00")
          yield* network.settle
          yield* TestClock.adjust("2 seconds")
          yield* Fiber.join(losing)
          const end = yield* peer.closed
          assert.strictEqual(end.at, protocolVersion === 5 ? 2_000 : 0)
          assert.strictEqual(end.how, protocolVersion === 5 ? "abort" : "fin")
        })))
    }
  })

  describe("DISCONNECT of the server", () => {
    it.effect("DC-08p ER-04b ER-06p: ends the link at once, whatever follows, and nothing is sent any more", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open()
        const received: Array<string> = []
        yield* start(
          Stream.runForEach(client.subscribe("#", { qos: 1 }), ({ topic }) => Effect.sync(() => received.push(topic)))
        )
        yield* next(peer)
        yield* peer.sendHex("90 04 00 01 00 01")
        yield* network.settle
        yield* peer.sendHex(`${fine[5]("b")} e0 01 89 32 07 00 01 79 00 01 00 78 00 00`)
        yield* start(client.publish({ topic: "late", payload: "x", qos: 1 }))
        const { cause } = yield* awaitStatus(client, "Reconnecting")
        assert.strictEqual(cause._tag === "ServerDisconnected" && cause.reasonCode, 0x89)
        const { how, packets } = yield* readToEnd(peer)
        assert.strictEqual(how, "fin")
        assert.isTrue(packets.every((packet) => packet.includes("6c 61 74 65")))
        assert.strictEqual((yield* peer.closed).at, 0)
        assert.deepStrictEqual(received, ["b"])
      })))

    it.effect("ER-08s: its code is kept as the cause of the loss", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        yield* peer.sendHex("e0 06 82 04 1f 00 01 78")
        yield* peer.fin
        const { cause } = yield* awaitStatus(client, "Reconnecting")
        assert.deepStrictEqual(
          cause._tag === "ServerDisconnected" && [cause.reasonCode, cause.reasonString],
          [0x82, "x"]
        )
      })))
  })
})
