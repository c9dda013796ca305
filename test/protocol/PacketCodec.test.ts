import { assert, describe, it } from "@effect/vitest"
import type { ServerPacket } from "../../src/protocol/Packet.ts"
import { makeDecoder } from "../../src/protocol/PacketCodec.ts"
import type { DecoderOptions } from "../../src/protocol/PacketCodec.ts"
import * as Property from "../../src/protocol/Property.ts"
import type * as ProtocolFault from "../../src/protocol/ProtocolFault.ts"
import * as ReasonCode from "../../src/protocol/ReasonCode.ts"
import conformance from "../fixtures/mqtt-conformance.data.json" with { type: "json" }
import { fromHex, plain } from "./support/PacketGenerator.ts"

type Vector = (typeof conformance.vectors)[number]

/** Right bytes at the wrong time: only the connection can know, and its tests hold them. The codec must let them pass. */
const handledByTheConnection: Readonly<Record<string, string>> = {
  "M-CONNACK-2": "session present after a clean start",
  "M-CONNACK-3": "session present with a failing code",
  "M-CONNACK-5": "a second CONNACK",
  "M-CONNACK-6": "PUBLISH before CONNACK",
  "M-CONNACK-7": "DISCONNECT before CONNACK",
  "M-RM-1": "more unacknowledged messages than the client takes",
  "M-ACK-3": "an acknowledgement of the wrong kind",
  "M-ACK-5": "more codes than filters",
  "M-AUTH-1": "AUTH although CONNECT had no method",
  "M-AUTH-2": "AUTH with another method",
  "M-311-5": "session present after a clean session",
  "M-OK-8": "a server that ends the connection"
}

/** What the standard leaves to the client, and ours does not do: a publisher could cut off all of its subscribers. */
const tolerated: Readonly<Record<string, string>> = {
  "M-PUB-13": "a payload that is not UTF-8 although it says so"
}

/** The vector's precondition, as far as a codec knows it. */
const optionsOf = (vector: Vector): DecoderOptions => ({
  protocolVersion: vector.ver === "4" ? 4 : 5,
  maximumPacketSize: vector.pre.includes("Maximum Packet Size 16") ? 16 : 268_435_460,
  topicAliasMaximum: vector.pre.includes("Topic Alias Maximum 2") ? 2 : 0,
  requestProblemInformation: !vector.pre.includes("Request Problem Information 0")
})

/** The codes of DISCONNECT that are right; where a bare close is, any is, since the codec names one always. */
const rightCodes = (vector: Vector): ReadonlyArray<number> | "any" =>
  vector.prim === "close"
    ? "any"
    : [vector.prim, ...vector.tol.split(", ")].filter((code) => code.startsWith("0x")).map(Number)

const decode = (chunks: ReadonlyArray<Uint8Array>, options: DecoderOptions) => {
  const decoder = makeDecoder(options)
  const packets: Array<ServerPacket> = []
  let fault: ProtocolFault.ProtocolFault | undefined
  for (const chunk of chunks) {
    fault = decoder.push(chunk, (packet) => {
      packets.push(packet)
      return undefined
    })
  }
  return { packets, fault }
}

const singleBytes = (bytes: Uint8Array): ReadonlyArray<Uint8Array> => Array.from(bytes, (byte) => Uint8Array.of(byte))

describe("PacketCodec", () => {
  describe("malformed and hostile bytes", () => {
    let judged = 0
    for (const vector of conformance.vectors) {
      const bytes = fromHex(vector.hex)
      const options = optionsOf(vector)
      const passes = vector.prim === "none" || vector.id in handledByTheConnection || vector.id in tolerated
      if (passes) {
        it(`${vector.id}: passes ${vector.hex} (${vector.fault})`, () => {
          const { fault, packets } = decode([bytes], options)
          assert.isUndefined(fault)
          assert.isAbove(packets.length, 0)
          assert.deepStrictEqual(plain(decode(singleBytes(bytes), options).packets), plain(packets))
        })
        continue
      }
      judged++
      it(`${vector.id}: refuses ${vector.hex} (${vector.fault})`, () => {
        const codes = rightCodes(vector)
        const alone = decode([bytes], options)
        assert.deepStrictEqual(alone.packets, [])
        if (alone.fault === undefined) throw new Error("no fault")
        if (codes !== "any") assert.include(codes, alone.fault.reasonCode)
        assert.deepStrictEqual(decode(singleBytes(bytes), options), alone)
        // Behind a valid packet, which counts, and before one, which does not.
        const valid = fromHex(options.protocolVersion === 5 ? "30 04 00 01 61 00" : "30 03 00 01 61")
        const glued = decode([Uint8Array.from([...valid, ...bytes, ...valid])], options)
        assert.deepStrictEqual(glued.fault, alone.fault)
        assert.strictEqual(glued.packets.length, 1)
      })
    }

    it("are 96, of which bytes alone decide 74, and 12 are left to the connection by name", () => {
      assert.strictEqual(conformance.vectors.length, 96)
      assert.strictEqual(judged, 74)
      assert.strictEqual(Object.keys(handledByTheConnection).length, 12)
    })
  })

  describe("tables", () => {
    it("has each property in the packets of the standard, from the sides that may send it (PR-02p)", () => {
      assert.strictEqual(Property.all.length, 27)
      assert.deepStrictEqual(placesOf(Property.fromClient, Property.fromServer), linesOf(properties))
    })

    it("has each reason code in the packets of the standard, from the sides that may send it", () => {
      assert.deepStrictEqual(placesOf(ReasonCode.fromClient, ReasonCode.fromServer), linesOf(reasonCodes))
    })

    it("has a name for each reason code", () => {
      for (const line of linesOf(reasonCodes)) {
        assert.notStrictEqual(ReasonCode.nameOf(Number(line.slice(0, 4))), "Unknown reason code")
      }
    })
  })
})

type Table = Readonly<Record<string, ReadonlyArray<number>>>

const packets = [
  ...["Connect", "Will", "Connack", "Publish", "Puback", "Pubrec", "Pubrel", "Pubcomp", "Subscribe", "Suback"],
  ...["Unsubscribe", "Unsuback", "Disconnect", "Auth"]
]

/** Where each number stands: `S` where a server may send it, `C` a client, `B` both. */
const placesOf = (fromClient: Table, fromServer: Table): ReadonlyArray<string> =>
  [...new Set([...Object.values(fromClient), ...Object.values(fromServer)].flat())]
    .sort((a, b) => a - b)
    .map((number) => {
      const places = packets.flatMap((packet) => {
        const client = fromClient[packet]?.includes(number) === true
        const server = fromServer[packet]?.includes(number) === true
        return client || server ? [`${packet} ${client && server ? "B" : client ? "C" : "S"}`] : []
      })
      return `0x${number.toString(16).padStart(2, "0")}: ${places.join(", ")}`
    })

const linesOf = (text: string): ReadonlyArray<string> =>
  text.trim().replaceAll(",\n    ", ", ").split("\n").map((line) => line.trim())

const properties = `
  0x01: Will C, Publish B
  0x02: Will C, Publish B
  0x03: Will C, Publish B
  0x08: Will C, Publish B
  0x09: Will C, Publish B
  0x0b: Publish S, Subscribe C
  0x11: Connect C, Connack S, Disconnect C
  0x12: Connack S
  0x13: Connack S
  0x15: Connect C, Connack S, Auth B
  0x16: Connect C, Connack S, Auth B
  0x17: Connect C
  0x18: Will C
  0x19: Connect C
  0x1a: Connack S
  0x1c: Connack S, Disconnect S
  0x1f: Connack S, Puback B, Pubrec B, Pubrel B, Pubcomp B, Suback S, Unsuback S, Disconnect B, Auth B
  0x21: Connect C, Connack S
  0x22: Connect C, Connack S
  0x23: Publish B
  0x24: Connack S
  0x25: Connack S
  0x26: Connect C, Will C, Connack S, Publish B, Puback B, Pubrec B, Pubrel B, Pubcomp B, Subscribe C,
    Suback S, Unsubscribe C, Unsuback S, Disconnect B, Auth B
  0x27: Connect C, Connack S
  0x28: Connack S
  0x29: Connack S
  0x2a: Connack S
`

const reasonCodes = `
  0x00: Connack S, Puback B, Pubrec B, Pubrel B, Pubcomp B, Suback S, Unsuback S, Disconnect B, Auth S
  0x01: Suback S
  0x02: Suback S
  0x04: Disconnect C
  0x10: Puback S, Pubrec S
  0x11: Unsuback S
  0x18: Auth B
  0x19: Auth C
  0x80: Connack S, Puback B, Pubrec B, Suback S, Unsuback S, Disconnect B
  0x81: Connack S, Disconnect B
  0x82: Connack S, Disconnect B
  0x83: Connack S, Puback B, Pubrec B, Suback S, Unsuback S, Disconnect B
  0x84: Connack S
  0x85: Connack S
  0x86: Connack S
  0x87: Connack S, Puback B, Pubrec B, Suback S, Unsuback S, Disconnect S
  0x88: Connack S
  0x89: Connack S, Disconnect S
  0x8a: Connack S
  0x8b: Disconnect S
  0x8c: Connack S, Disconnect S
  0x8d: Disconnect S
  0x8e: Disconnect S
  0x8f: Suback S, Unsuback S, Disconnect S
  0x90: Connack S, Puback B, Pubrec B, Disconnect B
  0x91: Puback B, Pubrec B, Suback S, Unsuback S
  0x92: Pubrel B, Pubcomp B
  0x93: Disconnect B
  0x94: Disconnect B
  0x95: Connack S, Disconnect B
  0x96: Disconnect B
  0x97: Connack S, Puback B, Pubrec B, Suback S, Disconnect B
  0x98: Disconnect B
  0x99: Connack S, Puback B, Pubrec B, Disconnect B
  0x9a: Connack S, Disconnect S
  0x9b: Connack S, Disconnect S
  0x9c: Connack S, Disconnect S
  0x9d: Connack S, Disconnect S
  0x9e: Suback S, Disconnect S
  0x9f: Connack S, Disconnect S
  0xa0: Disconnect S
  0xa1: Suback S, Disconnect S
  0xa2: Suback S, Disconnect S
`
