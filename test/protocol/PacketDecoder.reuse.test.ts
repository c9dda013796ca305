import { assert, describe, expect, it } from "@effect/vitest"
import type { ProtocolVersion, Publish, ServerPacket } from "../../src/protocol/Packet.ts"
import { makeDecoder } from "../../src/protocol/PacketCodec.ts"
import type { DecoderOptions } from "../../src/protocol/PacketCodec.ts"
import * as ProtocolFault from "../../src/protocol/ProtocolFault.ts"
import { fromHex, plain, Random, serverBytes, serverPacket, toHex } from "./support/PacketGenerator.ts"

const defaults: DecoderOptions = {
  protocolVersion: 5,
  maximumPacketSize: 268_435_460,
  topicAliasMaximum: 65_535,
  requestProblemInformation: true
}

const streamOf = (random: Random, version: ProtocolVersion, count: number): Uint8Array =>
  Uint8Array.from(
    Array.from({ length: count }, () => {
      let packet = serverPacket(random, version)
      // The alias may not be known.
      if (packet._tag === "Publish" && packet.topic === "") packet = { ...packet, topic: "t" }
      return [...serverBytes(packet, version, random)]
    }).flat()
  )

/** The same bytes in pieces of any size, each in memory of its own. */
const cut = (random: Random, bytes: Uint8Array): Array<Uint8Array> => {
  const most = random.pick([1, 3, 20, 500, bytes.length])
  const chunks: Array<Uint8Array> = []
  for (let at = 0; at < bytes.length;) {
    const end = Math.min(bytes.length, at + random.int(1, most))
    chunks.push(bytes.slice(at, end))
    at = end
  }
  return chunks
}

const isEmptied = (packet: Publish): boolean =>
  packet.payload.length === 0 && packet.payload.buffer.byteLength === 0 && packet.properties === undefined

describe("PacketDecoder", () => {
  describe("reusesPublish", () => {
    for (const version of [4, 5] as const) {
      it(`gives the same packets, of which every PUBLISH of a chunk is one object, and keeps nothing (MQTT ${version})`, () => {
        for (let seed = 0; seed < 60; seed++) {
          const random = new Random(seed * 2 + version)
          const chunks = cut(random, streamOf(random, version, 30))
          const options = { ...defaults, protocolVersion: version }
          const decoder = makeDecoder(options)
          const reusing = makeDecoder({ ...options, reusesPublish: true })
          const expected: Array<ServerPacket> = []
          const actual: Array<unknown> = []
          const payloads: Array<Uint8Array> = []
          for (const chunk of chunks) {
            assert.isUndefined(decoder.push(chunk, (packet) => void expected.push(packet)))
            const objects = new Set<Publish>()
            assert.isUndefined(reusing.push(chunk, (packet) => {
              actual.push(plain(packet))
              if (packet._tag !== "Publish") return undefined
              objects.add(packet)
              payloads.push(packet.payload)
              return undefined
            }))
            for (const packet of objects) assert.isTrue(isEmptied(packet), `seed ${seed}`)
            // One that was begun in the chunk before stands in a buffer of its own.
            assert.isAtMost(objects.size, 2)
          }
          assert.deepStrictEqual(actual, expected.map(plain), `seed ${seed}`)
          const publishes = expected.filter((packet) => packet._tag === "Publish")
          assert.strictEqual(new Set(publishes).size, publishes.length)
          // The payloads are those of each packet, though the packet is another by now.
          assert.deepStrictEqual(payloads.map(toHex), publishes.map(({ payload }) => toHex(payload)))
        }
      })
    }

    const two = "30 05 00 01 61 00 01 32 07 00 01 62 00 02 00 02"

    it("says nothing of the packet before in the next one", () => {
      const seen: Array<unknown> = []
      const decoder = makeDecoder({ ...defaults, reusesPublish: true })
      // DUP, retain, QoS 2, an identifier and a content type first, and then nothing of it.
      decoder.push(fromHex("3D 0A 00 01 61 00 07 04 03 00 01 78 30 04 00 01 62 00"), (packet) => {
        seen.push({ ...packet })
        return undefined
      })
      expect(seen).toEqual([
        {
          _tag: "Publish",
          dup: true,
          qos: 2,
          retain: true,
          topic: "a",
          packetId: 7,
          payload: new Uint8Array(0),
          properties: expect.objectContaining({ contentType: "x" })
        },
        {
          _tag: "Publish",
          dup: false,
          qos: 0,
          retain: false,
          topic: "b",
          packetId: 0,
          payload: new Uint8Array(0),
          properties: undefined
        }
      ])
    })

    it("keeps nothing behind a fault either, whoever finds it", () => {
      for (const [hex, own] of [[`${two} 00 00`, false], [two, true]] as const) {
        const decoder = makeDecoder({ ...defaults, reusesPublish: true })
        let last: Publish | undefined
        const fault = decoder.push(fromHex(hex), (packet) => {
          if (packet._tag === "Publish") last = packet
          return own && last?.packetId === 2 ? ProtocolFault.make("PUBLISH", "topic", "ours", 0x82) : undefined
        })
        assert.isDefined(fault)
        assert.strictEqual(last?.topic, "b")
        assert.isTrue(isEmptied(last!))
      }
    })

    it("gives an object of its own for each without the option", () => {
      const packets: Array<ServerPacket> = []
      makeDecoder(defaults).push(fromHex(two), (packet) => void packets.push(packet))
      assert.strictEqual(new Set(packets).size, 2)
      assert.deepStrictEqual(packets.map((packet) => packet._tag === "Publish" && toHex(packet.payload)), ["01", "02"])
    })
  })

  describe("acknowledgements without a reason", () => {
    it("are plain objects, as literals would be", () => {
      for (
        const [hex, tag] of [["40", "Puback"], ["50", "Pubrec"], ["62", "Pubrel"], ["70", "Pubcomp"]] as const
      ) {
        for (const protocolVersion of [4, 5] as const) {
          const packets: Array<ServerPacket> = []
          const decoder = makeDecoder({ ...defaults, protocolVersion })
          assert.isUndefined(decoder.push(fromHex(`${hex} 02 12 34`), (packet) => void packets.push(packet)))
          const literal = { _tag: tag, packetId: 0x1234, reasonCode: 0, properties: undefined } as const
          expect(packets).toStrictEqual([literal])
          const [packet] = packets
          assert.strictEqual(Object.getPrototypeOf(packet), Object.prototype)
          assert.strictEqual(packet!.constructor, Object)
          assert.deepStrictEqual(Object.entries(packet!), Object.entries(literal))
          assert.strictEqual(JSON.stringify(packet), JSON.stringify(literal))
          expect({ ...packet, packetId: 1 }).toStrictEqual({ ...literal, packetId: 1 })
        }
      }
    })

    it("are refused with identifier 0, and with flags that are not theirs", () => {
      for (const first of ["40", "50", "62", "70"]) {
        for (const protocolVersion of [4, 5] as const) {
          const fault = (hex: string) =>
            makeDecoder({ ...defaults, protocolVersion }).push(fromHex(hex), () => assert.fail("it is no packet"))
          assert.isDefined(fault(`${first} 02 00 00`), first)
          const flags = Number.parseInt(first, 16) ^ 0x02
          assert.strictEqual(fault(`${flags.toString(16)} 02 12 34`)?.reasonCode, 0x81)
        }
      }
    })
  })
})
