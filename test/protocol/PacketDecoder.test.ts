import { assert, describe, it } from "@effect/vitest"
import type { ProtocolVersion, Publish, ServerPacket } from "../../src/protocol/Packet.ts"
import { makeDecoder } from "../../src/protocol/PacketCodec.ts"
import type { DecoderOptions } from "../../src/protocol/PacketCodec.ts"
import * as Property from "../../src/protocol/Property.ts"
import * as ProtocolFault from "../../src/protocol/ProtocolFault.ts"
import * as ReasonCode from "../../src/protocol/ReasonCode.ts"
import {
  frame,
  fromHex,
  plain,
  Random,
  serverBytes,
  serverPacket,
  stringBytes,
  toHex,
  varintBytes
} from "./support/PacketGenerator.ts"

const defaults: DecoderOptions = {
  protocolVersion: 5,
  maximumPacketSize: 268_435_460,
  topicAliasMaximum: 65_535,
  requestProblemInformation: true
}

interface Outcome {
  readonly packets: ReadonlyArray<ServerPacket>
  readonly fault: ProtocolFault.ProtocolFault | undefined
}

/** What a fresh decoder makes of these chunks. */
const decodeChunks = (chunks: Iterable<Uint8Array>, options: Partial<DecoderOptions> = {}): Outcome => {
  const decoder = makeDecoder({ ...defaults, ...options })
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

const decode = (bytes: Uint8Array, options: Partial<DecoderOptions> = {}): Outcome => decodeChunks([bytes], options)

const decodeHex = (hex: string, options: Partial<DecoderOptions> = {}): Outcome => decode(fromHex(hex), options)

const v4: Partial<DecoderOptions> = { protocolVersion: 4 }

/** The one packet in these bytes. */
const packetOf = (hex: string, options: Partial<DecoderOptions> = {}): ServerPacket => {
  const { fault, packets } = decodeHex(hex, options)
  assert.isUndefined(fault, hex)
  assert.strictEqual(packets.length, 1, hex)
  return packets[0]
}

const publishOf = (hex: string, options: Partial<DecoderOptions> = {}): Publish => {
  const packet = packetOf(hex, options)
  if (packet._tag !== "Publish") throw new Error(packet._tag)
  return packet
}

/** The fault of bytes that give no packet. */
const faultOf = (hex: string, options: Partial<DecoderOptions> = {}): ProtocolFault.ProtocolFault => {
  const { fault, packets } = decodeHex(hex, options)
  assert.deepStrictEqual(packets, [], hex)
  if (fault === undefined) throw new Error(`no fault in ${hex}`)
  return fault
}

const assertFault = (
  hex: string,
  reasonCode: number,
  packet: string,
  field: string,
  options: Partial<DecoderOptions> = {}
): void => {
  const fault = faultOf(hex, options)
  assert.deepStrictEqual([fault.reasonCode, fault.packet, fault.field], [reasonCode, packet, field], hex)
}

const validStream = (version: ProtocolVersion, seed: number, count: number) => {
  const random = new Random(seed)
  const packets = Array.from({ length: count }, () => {
    const packet = serverPacket(random, version)
    return packet._tag === "Publish" && packet.topic === "" ? { ...packet, topic: "t" } : packet
  })
  const frames = packets.map((packet) => serverBytes(packet, version, random))
  return { packets, frames, bytes: Uint8Array.from(frames.flatMap((frame) => [...frame])) }
}

describe("PacketDecoder", () => {
  describe("golden bytes", () => {
    it("decodes CONNACK with every property", () => {
      assert.deepStrictEqual(
        packetOf(
          "20 40 01 00 3D 11 00 00 00 3C 21 00 0A 24 01 25 00 27 00 01 00 00 12 00 01 63 22 00 05 1F 00 01 72 " +
            "26 00 01 6B 00 01 76 28 01 29 00 2A 01 13 00 1E 1A 00 01 69 1C 00 01 73 15 00 01 6D 16 00 02 FF 00"
        ),
        {
          _tag: "Connack",
          sessionPresent: true,
          reasonCode: 0,
          properties: {
            sessionExpiryInterval: 60,
            receiveMaximum: 10,
            maximumQoS: 1,
            retainAvailable: false,
            maximumPacketSize: 65_536,
            assignedClientIdentifier: "c",
            topicAliasMaximum: 5,
            reasonString: "r",
            userProperties: [["k", "v"]],
            wildcardSubscriptionAvailable: true,
            subscriptionIdentifierAvailable: false,
            sharedSubscriptionAvailable: true,
            serverKeepAlive: 30,
            responseInformation: "i",
            serverReference: "s",
            authenticationMethod: "m",
            authenticationData: Uint8Array.of(0xff, 0x00)
          }
        }
      )
    })

    it("decodes CONNACK of 3.1.1", () => {
      assert.deepStrictEqual(packetOf("20 02 01 00", v4), {
        _tag: "Connack",
        sessionPresent: true,
        reasonCode: 0,
        properties: undefined
      })
    })

    it("decodes PUBLISH with every property", () => {
      assert.deepStrictEqual(
        packetOf(
          "3D 2A 00 01 74 12 34 22 01 00 02 00 00 00 09 03 00 01 63 08 00 01 72 09 00 01 FF 0B 02 0B 81 01 " +
            "23 00 07 26 00 01 6B 00 01 76 68 69"
        ),
        {
          _tag: "Publish",
          dup: true,
          qos: 2,
          retain: true,
          topic: "t",
          packetId: 0x1234,
          payload: Uint8Array.of(0x68, 0x69),
          properties: {
            payloadFormatIndicator: 0,
            messageExpiryInterval: 9,
            topicAlias: 7,
            responseTopic: "r",
            correlationData: Uint8Array.of(0xff),
            userProperties: [["k", "v"]],
            subscriptionIdentifiers: [2, 129],
            contentType: "c"
          }
        }
      )
    })

    it("decodes PUBLISH of 3.1.1", () => {
      assert.deepStrictEqual(packetOf("32 07 00 01 74 00 0A 68 69", v4), {
        _tag: "Publish",
        dup: false,
        qos: 1,
        retain: false,
        topic: "t",
        packetId: 10,
        payload: Uint8Array.of(0x68, 0x69),
        properties: undefined
      })
    })

    it("decodes SUBACK, UNSUBACK, DISCONNECT and AUTH", () => {
      const none = { reasonString: undefined, userProperties: undefined }
      assert.deepStrictEqual(packetOf("90 06 00 01 00 00 80 02"), {
        _tag: "Suback",
        packetId: 1,
        reasonCodes: [0, 0x80, 2],
        properties: undefined
      })
      assert.deepStrictEqual(packetOf("B0 05 00 01 00 00 11"), {
        _tag: "Unsuback",
        packetId: 1,
        reasonCodes: [0, 0x11],
        properties: undefined
      })
      assert.deepStrictEqual(packetOf("E0 06 9C 04 1C 00 01 73"), {
        _tag: "Disconnect",
        reasonCode: 0x9c,
        properties: { ...none, serverReference: "s" }
      })
      assert.deepStrictEqual(packetOf("F0 06 18 04 15 00 01 6D"), {
        _tag: "Auth",
        reasonCode: 0x18,
        properties: { ...none, authenticationMethod: "m", authenticationData: undefined }
      })
    })

    it("gives each packet type one shape, whatever it carries", () => {
      const keys = (hex: string) => Object.keys(publishOf(hex).properties ?? {})
      assert.deepStrictEqual(keys("30 07 00 01 61 02 01 00 78"), keys("30 0A 00 01 61 05 02 00 00 00 01 78"))
    })
  })

  describe("fixed header", () => {
    it("refuses every first byte but those of a server's packets (FH-02b, FH-03p, FH-04p, DC-02b, AU-01b, QF-21b)", () => {
      const publishes = [0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x3a, 0x3b, 0x3c, 0x3d]
      const expected = {
        4: [0x20, ...publishes, 0x40, 0x50, 0x62, 0x70, 0x90, 0xb0, 0xd0],
        5: [0x20, ...publishes, 0x40, 0x50, 0x62, 0x70, 0x90, 0xb0, 0xd0, 0xe0, 0xf0]
      }
      for (const protocolVersion of [4, 5] as const) {
        const accepted = Array.from({ length: 256 }, (_, first) => first).filter((first) =>
          decode(Uint8Array.of(first), { protocolVersion }).fault === undefined
        )
        assert.deepStrictEqual(accepted, expected[protocolVersion])
      }
    })

    it("refuses reserved types with 0x81 and types of clients with 0x82 (FH-03p, FH-04p)", () => {
      assertFault("00 00", 0x81, "frame", "packet type")
      assertFault("F0 00", 0x81, "AUTH", "packet type", v4)
      assertFault("E0 00", 0x82, "DISCONNECT", "packet type", v4)
      assertFault("10 00", 0x82, "CONNECT", "packet type")
      assertFault("82 07 00 01 00 00 01 61 00", 0x82, "SUBSCRIBE", "packet type")
      assertFault("A2 06 00 01 00 00 01 61", 0x82, "UNSUBSCRIBE", "packet type")
      assertFault("C0 00", 0x82, "PINGREQ", "packet type")
    })

    it("gives the same packets for every split of the stream, and byte by byte (FH-05p)", () => {
      for (const protocolVersion of [4, 5] as const) {
        const { bytes, packets } = validStream(protocolVersion, 7, 25)
        const expected = plain(packets)
        assert.deepStrictEqual(plain(decode(bytes, { protocolVersion }).packets), expected)
        for (let at = 0; at <= bytes.length; at++) {
          const outcome = decodeChunks([bytes.subarray(0, at), bytes.subarray(at)], { protocolVersion })
          assert.deepStrictEqual(plain(outcome.packets), expected, `split at ${at}`)
        }
        const single = Array.from(bytes, (byte) => Uint8Array.of(byte))
        assert.deepStrictEqual(plain(decodeChunks(single, { protocolVersion }).packets), expected)
      }
    })

    it("gives the same packets for chunks at random, empty ones among them (FH-05p)", () => {
      for (let seed = 1; seed <= 60; seed++) {
        const random = new Random(seed)
        const { bytes, packets } = validStream(5, seed, 20)
        const chunks: Array<Uint8Array> = []
        for (let at = 0; at < bytes.length;) {
          const size = random.int(0, random.pick([1, 5, 100, 5000]))
          chunks.push(bytes.subarray(at, at + size))
          at += size
        }
        assert.deepStrictEqual(plain(decodeChunks(chunks).packets), plain(packets), `seed ${seed}`)
      }
    })

    it("waits for the rest of a packet that is cut anywhere", () => {
      for (const protocolVersion of [4, 5] as const) {
        for (const bytes of validStream(protocolVersion, 11, 60).frames) {
          for (let length = 0; length < bytes.length; length++) {
            const outcome = decode(bytes.subarray(0, length), { protocolVersion })
            assert.deepStrictEqual(outcome, { packets: [], fault: undefined }, toHex(bytes.subarray(0, length)))
          }
        }
      }
    })

    it("refuses a byte behind the last field and a field that runs out of the packet (FH-06p)", () => {
      for (const protocolVersion of [4, 5] as const) {
        for (const bytes of validStream(protocolVersion, 13, 80).frames) {
          const type = bytes[0] >> 4
          const body = bytes.subarray(1 + varintBytes(bytes.length - 2).length)
          // A payload takes up what follows; so do the codes of SUBACK and UNSUBACK.
          if (type !== 3 && type !== 9 && type !== 11) {
            const longer = decode(frame(bytes[0], [...body, 0]), { protocolVersion })
            // What was left out at the end of a packet may be what the byte stands for.
            if (longer.fault === undefined) assert.isTrue(type !== 2 && type !== 13 && protocolVersion === 5)
            else assert.strictEqual(longer.fault.reasonCode, 0x81)
          }
          for (let length = 0; length < body.length; length++) {
            const { fault, packets } = decode(frame(bytes[0], [...body.subarray(0, length)]), { protocolVersion })
            assert.isTrue(fault !== undefined || packets.length === 1)
          }
        }
      }
    })

    it("demands the exact length of fixed packets on 3.1.1 (FH-07p)", () => {
      for (const hex of ["20 03 00 00 00", "40 03 00 01 00", "50 03 00 01 00", "62 03 00 01 00", "70 03 00 01 00"]) {
        assert.strictEqual(faultOf(hex, v4).field, "remaining length")
      }
      for (const hex of ["B0 03 00 01 00", "20 01 00", "40 01 00", "D0 01 00"]) {
        assert.strictEqual(faultOf(hex, v4).field, "remaining length")
      }
    })

    it("demands that PINGRESP is two bytes (KA-10p)", () => {
      assertFault("D1 00", 0x81, "PINGRESP", "flags")
      assertFault("D0 01 00", 0x81, "PINGRESP", "remaining length")
      assertFault("D0 01", 0x81, "PINGRESP", "remaining length")
      assert.deepStrictEqual(packetOf("D0 00"), { _tag: "Pingresp" })
    })

    it("names a CONNACK in the form of 3.1.1 on a version 5 connection (CK-29p)", () => {
      assertFault("20 02 00 01", 0x81, "CONNACK", "protocol version")
      assertFault("20 02", 0x81, "CONNACK", "protocol version")
      assert.strictEqual(faultOf("20 01 00").field, "reason code")
    })
  })

  describe("limits", () => {
    it("judges the size of a packet by its header alone (FH-08p, CN-35s)", () => {
      assertFault("30 80 80 80 60", 0x95, "PUBLISH", "remaining length", { maximumPacketSize: 1024 })
      assertFault("90 8F 4E", 0x95, "SUBACK", "remaining length", { maximumPacketSize: 1024 })
    })

    it("takes a packet of the limit and refuses one byte more (CN-35s, CK-19s, SB-13s, US-09s)", () => {
      const sixteen = "30 0E 00 01 61 00 78 78 78 78 78 78 78 78 78 78"
      assert.strictEqual(fromHex(sixteen).length, 16)
      assert.strictEqual(decodeHex(sixteen, { maximumPacketSize: 16 }).packets.length, 1)
      assert.strictEqual(faultOf(sixteen, { maximumPacketSize: 15 }).reasonCode, 0x95)
      for (const first of [0x20, 0x40, 0x90, 0xb0, 0xe0, 0xf0]) {
        assert.strictEqual(decode(Uint8Array.of(first, 14), { maximumPacketSize: 16 }).fault, undefined)
        assert.strictEqual(decode(Uint8Array.of(first, 15), { maximumPacketSize: 16 }).fault?.reasonCode, 0x95)
      }
    })

    it("counts the bytes of a header that 3.1.1 may make longer (VB-03p)", () => {
      assert.strictEqual(decodeHex("30 83 80 00 00 01 61", { ...v4, maximumPacketSize: 7 }).packets.length, 1)
      assert.strictEqual(faultOf("30 83 80 00 00 01 61", { ...v4, maximumPacketSize: 6 }).reasonCode, 0x95)
    })

    it("reserves no memory for a length that is only announced", () => {
      const decoders = Array.from({ length: 100 }, () => makeDecoder(defaults))
      const before = process.memoryUsage().arrayBuffers
      for (const decoder of decoders) decoder.push(fromHex("30 FF FF FF 7F 00 01 61 00"), () => undefined)
      assert.isBelow(process.memoryUsage().arrayBuffers - before, 100 * 70_000)
      assert.strictEqual(decoders.length, 100)
    })

    it("puts a large packet together from small chunks, each byte copied a few times at most", () => {
      const size = 4_000_000
      const payload = new Uint8Array(size).fill(7)
      const bytes = new Uint8Array([0x30, ...varintBytes(size + 4), 0, 1, 0x61, 0, ...payload.subarray(0, 0)])
      const decoder = makeDecoder(defaults)
      const packets: Array<ServerPacket> = []
      const onPacket = (packet: ServerPacket) => {
        packets.push(packet)
        return undefined
      }
      decoder.push(bytes, onPacket)
      for (let at = 0; at < size; at += 100) decoder.push(payload.subarray(at, at + 100), onPacket)
      const [packet] = packets as ReadonlyArray<Publish>
      assert.strictEqual(packet.payload.length, size)
      assert.isTrue(packet.payload.every((byte) => byte === 7))
      // The buffer is the packet's own, and as large as its body.
      assert.strictEqual(packet.payload.buffer.byteLength, size + 4)
    })
  })

  describe("variable byte integers", () => {
    it("takes every length at the borders of its bytes (VB-01b)", () => {
      for (const length of [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152]) {
        const payload = new Uint8Array(Math.max(0, length - 4))
        const bytes = length === 0 ? fromHex("D0 00") : frame(0x30, [0, 1, 0x61, 0])
        if (length === 0) {
          assert.strictEqual(decode(bytes).packets.length, 1)
          continue
        }
        const head = Uint8Array.from([0x30, ...varintBytes(length), 0, 1, 0x61, 0])
        const [packet] = decodeChunks([head, payload]).packets as ReadonlyArray<Publish>
        assert.strictEqual(packet.payload.length, payload.length)
      }
    })

    it("refuses the longer forms on version 5 and takes them on 3.1.1 (VB-01b, VB-03p)", () => {
      for (const hex of ["D0 80 00", "D0 80 80 00", "D0 80 80 80 00"]) {
        assertFault(hex, 0x81, "PINGRESP", "remaining length")
        assert.deepStrictEqual(packetOf(hex, v4), { _tag: "Pingresp" })
      }
      assertFault("30 06 00 01 61 80 00 78", 0x81, "PUBLISH", "property length")
      assertFault("30 09 00 01 61 04 0B 81 80 00 78", 0x81, "PUBLISH", "subscription identifier")
    })

    it("fails at the fourth byte that goes on, and waits for no fifth (VB-02p)", () => {
      for (const options of [{}, v4]) {
        assertFault("30 FF FF FF FF", 0x81, "PUBLISH", "remaining length", options)
        assertFault("30 80 80 80 80 01", 0x81, "PUBLISH", "remaining length", options)
        assert.isUndefined(decodeHex("30 FF FF FF", options).fault)
      }
      assertFault("30 0B 00 01 61 06 0B FF FF FF FF 7F 78", 0x81, "PUBLISH", "subscription identifier")
    })
  })

  describe("strings", () => {
    const topic = (hex: string) => {
      const bytes = fromHex(hex)
      return toHex(frame(0x30, [0, bytes.length, ...bytes, 0]))
    }

    it("refuses ill-formed UTF-8 (U8-01b)", () => {
      const illFormed = ["C3 28", "ED A0 80", "ED BF BF", "C0 80", "E0 80 AF", "F0 80 80 80", "F4 90 80 80"]
      for (const hex of [...illFormed, "F8 88 80 80 80", "80", "FF", "E2 82", "61 C3"]) {
        assertFault(topic(hex), 0x81, "PUBLISH", "topic name")
        assertFault(toHex(frame(0x30, [0, fromHex(hex).length, ...fromHex(hex)])), 0x81, "PUBLISH", "topic name", v4)
      }
    })

    it("refuses U+0000 in every string of every packet (U8-02b, TP-05b)", () => {
      assertFault(topic("61 00 62"), 0x81, "PUBLISH", "topic name")
      const places: ReadonlyArray<readonly [string, ReadonlyArray<number>]> = [
        ...Property.fromServer.Connack.map((id) => ["20 00 00", id] as const),
        ...Property.fromServer.Publish.map((id) => ["30 00 01 61", id] as const),
        ...Property.fromServer.Disconnect.map((id) => ["E0 00", id] as const)
      ].flatMap(([head, id]) => {
        const type = Property.byId.get(id)?.type
        if (type !== "string" && type !== "pair") return []
        const bad = [0, 3, 0x61, 0, 0x62]
        const good = [0, 1, 0x61]
        return type === "string"
          ? [[head, [id, ...bad]] as const]
          : [[head, [id, ...bad, ...good]] as const, [head, [id, ...good, ...bad]] as const]
      })
      assert.isAbove(places.length, 10)
      for (const [head, property] of places) {
        const [first, ...body] = fromHex(head)
        const fault = faultOf(toHex(frame(first, [...body, property.length, ...property])))
        assert.strictEqual(fault.reasonCode, 0x81)
        assert.include(fault.rule, "U+0000")
      }
    })

    it("keeps U+FEFF wherever it stands (U8-03b)", () => {
      assert.strictEqual(publishOf("30 08 00 04 EF BB BF 61 00 78").topic, "\ufeffa")
      assert.strictEqual(publishOf("30 08 00 04 61 EF BB BF 00 78").topic, "a\ufeff")
      assert.deepStrictEqual(
        publishOf("30 0E 00 01 61 0A 26 00 03 EF BB BF 00 02 6B 6B").properties?.userProperties,
        [["\ufeff", "kk"]]
      )
    })

    it("applies the rules to both halves of a user property, and takes empty ones (U8-04b)", () => {
      assert.deepStrictEqual(publishOf("30 09 00 01 61 05 26 00 00 00 00").properties?.userProperties, [["", ""]])
      assertFault("30 0B 00 01 61 07 26 00 01 FF 00 01 61", 0x81, "PUBLISH", "user property")
      assertFault("30 0B 00 01 61 07 26 00 01 6B 00 01 FF", 0x81, "PUBLISH", "user property")
    })

    it("tolerates control characters and noncharacters (U8-06p)", () => {
      assert.strictEqual(publishOf("30 06 00 02 61 01 00 78").topic, "a\u0001")
      assert.strictEqual(publishOf("30 07 00 03 EF BF BF 00 78").topic, "\uffff")
    })

    it("never reads into the next packet (U8-07p, FH-06p)", () => {
      assertFault("30 04 00 05 61 62 D0 00 D0 00", 0x81, "PUBLISH", "topic name")
      assertFault("32 03 00 01 61 40 02 00 01", 0x81, "PUBLISH", "packet identifier")
      assertFault("40 00 D0 00", 0x81, "PUBACK", "packet identifier")
    })

    it("hands over bytes as they are (U8-08p)", () => {
      const all = Array.from({ length: 256 }, (_, byte) => byte)
      const bytes = frame(0x30, [0, 1, 0x61, ...varintBytes(259), 0x09, 1, 0, ...all, ...all])
      const [packet] = decode(bytes).packets as ReadonlyArray<Publish>
      assert.deepStrictEqual([...packet.properties?.correlationData ?? []], all)
      assert.deepStrictEqual([...packet.payload], all)
    })

    it("gives strings of every length and alphabet as they were", () => {
      for (const part of ["a", "é", "東", "😀"]) {
        for (const length of [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 127, 128, 129, 1000]) {
          const name = part.repeat(length)
          const bytes = frame(0x30, [...stringBytes(name), 0])
          // Twice each: as it comes, and as it is remembered.
          const packets = decodeChunks([bytes, bytes]).packets as ReadonlyArray<Publish>
          assert.deepStrictEqual(packets.map((packet) => packet.topic), [name, name])
        }
      }
    })

    it("does not mix up topics that differ in one byte", () => {
      const decoder = makeDecoder(defaults)
      for (let round = 0; round < 3; round++) {
        for (let i = 0; i < 3000; i++) {
          const name = `plant/${i % 7}/device-${i}/temperature/${"x".repeat(i % 9)}`
          let topic = ""
          decoder.push(frame(0x30, [...stringBytes(name), 0]), (packet) => {
            topic = packet._tag === "Publish" ? packet.topic : ""
            return undefined
          })
          assert.strictEqual(topic, name)
        }
      }
    })
  })

  describe("packet identifiers", () => {
    it("refuses 0 in every packet that has one (PI-03s)", () => {
      for (const hex of ["32 06 00 01 61 00 00 00", "34 06 00 01 61 00 00 00", "40 02 00 00", "50 02 00 00"]) {
        const fault = faultOf(hex)
        assert.deepStrictEqual([fault.reasonCode, fault.field], [0x82, "packet identifier"])
      }
      for (const hex of ["62 02 00 00", "70 02 00 00", "90 04 00 00 00 00", "B0 04 00 00 00 00"]) {
        const fault = faultOf(hex)
        assert.deepStrictEqual([fault.reasonCode, fault.field], [0x82, "packet identifier"])
      }
    })

    it("gives the whole range", () => {
      assert.deepInclude(packetOf("40 02 FF FF"), { packetId: 65_535 })
      assert.deepInclude(packetOf("40 02 12 34"), { packetId: 0x1234 })
      assert.strictEqual(publishOf("32 06 00 01 61 00 01 00").packetId, 1)
      assert.strictEqual(publishOf("30 04 00 01 61 00").packetId, 0)
    })
  })

  describe("properties", () => {
    const heads = {
      Connack: [0x20, 0x00, 0x00],
      Publish: [0x30, 0x00, 0x01, 0x61],
      Puback: [0x40, 0x00, 0x01, 0x00],
      Pubrec: [0x50, 0x00, 0x01, 0x00],
      Pubrel: [0x62, 0x00, 0x01, 0x00],
      Pubcomp: [0x70, 0x00, 0x01, 0x00],
      Suback: [0x90, 0x00, 0x01],
      Unsuback: [0xb0, 0x00, 0x01],
      Disconnect: [0xe0, 0x00],
      Auth: [0xf0, 0x18]
    } as const
    const tails: Partial<Record<keyof typeof heads, ReadonlyArray<number>>> = { Suback: [0], Unsuback: [0] }
    // What must be there for the packet to be right.
    const partners: Partial<Record<keyof typeof heads, ReadonlyArray<number>>> = { Auth: [0x15, 0, 1, 0x6d] }

    const sample = (id: number): ReadonlyArray<number> => {
      switch (Property.byId.get(id)?.type) {
        case "byte":
        case "boolean":
        case "varint":
          return [id, 1]
        case "uint16":
          return [id, 0, 1]
        case "uint32":
          return [id, 0, 0, 0, 1]
        case "pair":
          return [id, 0, 1, 0x6b, 0, 1, 0x76]
        default:
          return [id, 0, 1, 0x61]
      }
    }

    const withProperties = (tag: keyof typeof heads, properties: ReadonlyArray<number>): Uint8Array => {
      const [first, ...body] = heads[tag]
      return frame(first, [...body, ...varintBytes(properties.length), ...properties, ...tails[tag] ?? []])
    }

    const tags = Object.keys(heads) as ReadonlyArray<keyof typeof heads>

    it("takes each property where the standard has it, and nowhere else (PR-02p)", () => {
      for (const tag of tags) {
        const allowed: ReadonlyArray<number> = Property.fromServer[tag]
        for (let id = 0; id < 256; id++) {
          const partner = id === 0x15 ? [] : partners[tag] ?? []
          const known = Property.byId.has(id)
          // The data of a method comes with the method.
          const method = tag === "Connack" && id === 0x16 ? [0x15, 0, 1, 0x6d] : partner
          const { fault } = decode(withProperties(tag, [...method, ...known ? sample(id) : [id, 0]]))
          if (allowed.includes(id)) assert.isUndefined(fault, `${tag} ${id}`)
          else assert.strictEqual(fault?.reasonCode, tag === "Disconnect" && id === 0x11 ? 0x82 : 0x81, `${tag} ${id}`)
        }
      }
    })

    it("refuses a property that occurs twice, but for user properties and subscription identifiers (PR-03p, AU-14p)", () => {
      for (const tag of tags) {
        for (const id of Property.fromServer[tag]) {
          const partner = id === 0x15 ? [] : partners[tag] ?? (id === 0x16 ? [0x15, 0, 1, 0x6d] : [])
          const { fault } = decode(withProperties(tag, [...partner, ...sample(id), ...sample(id)]))
          if (id === 0x26 || id === 0x0b) assert.isUndefined(fault, `${tag} ${id}`)
          else assert.strictEqual(fault?.reasonCode, 0x82, `${tag} ${id}`)
        }
      }
    })

    it("refuses values out of range (PR-04p, CK-06p, CK-07s, CK-13p, CK-15p, PB-09p, PB-25p)", () => {
      const zero: ReadonlyArray<readonly [keyof typeof heads, ReadonlyArray<number>]> = [
        ["Connack", [0x21, 0, 0]],
        ["Connack", [0x27, 0, 0, 0, 0]],
        ["Publish", [0x0b, 0]]
      ]
      const flags = [0x24, 0x25, 0x28, 0x29, 0x2a].flatMap((id) =>
        [2, 3, 255].map((value) => ["Connack", [id, value]] as const)
      )
      for (const [tag, property] of [...zero, ...flags, ["Publish", [0x01, 2]] as const]) {
        assert.strictEqual(decode(withProperties(tag, property)).fault?.reasonCode, 0x82, `${tag} ${property}`)
      }
    })

    it("takes the least and the most of each value (PR-04p)", () => {
      const values: ReadonlyArray<ReadonlyArray<number>> = [
        ...[[0x21, 0, 1], [0x21, 255, 255], [0x22, 0, 0], [0x22, 255, 255], [0x13, 0, 0], [0x13, 255, 255]],
        ...[[0x11, 0, 0, 0, 0], [0x11, 255, 255, 255, 255], [0x27, 0, 0, 0, 1], [0x27, 255, 255, 255, 255]],
        ...[0x24, 0x25, 0x28, 0x29, 0x2a].flatMap((id) => [[id, 0], [id, 1]])
      ]
      for (const value of values) assert.isUndefined(decode(withProperties("Connack", value)).fault, `${value}`)
      assert.deepInclude(packetOf("20 08 00 00 05 11 FF FF FF FF"), {
        properties: {
          ...(packetOf("20 05 00 00 02 24 01") as { properties: object }).properties,
          maximumQoS: undefined,
          sessionExpiryInterval: 4_294_967_295
        }
      })
    })

    it("takes properties in any order, and keeps the order of user properties (PR-05p, PB-21s)", () => {
      const properties = Property.fromServer.Publish.filter((id) => id !== 0x26).map((id) => sample(id))
      const pair = (name: number, value: number) => [0x26, 0, 1, name, 0, 1, value]
      const pairs = [pair(0x61, 0x31), pair(0x62, 0x32), pair(0x61, 0x33), pair(0x61, 0x33)]
      const parts = [...properties, ...pairs]
      const expected = plain(decode(withProperties("Publish", parts.flat())).packets)
      assert.deepInclude((decode(withProperties("Publish", parts.flat())).packets[0] as Publish).properties, {
        userProperties: [["a", "1"], ["b", "2"], ["a", "3"], ["a", "3"]]
      })
      const random = new Random(5)
      for (let turn = 0; turn < 100; turn++) {
        const rest = [...properties].sort(() => random.int(-1, 1))
        const mixed = pairs.reduceRight(
          ({ at, parts }, pair) => {
            const position = random.int(0, at)
            return { at: position, parts: parts.toSpliced(position, 0, pair) }
          },
          { at: rest.length, parts: rest as ReadonlyArray<ReadonlyArray<number>> }
        )
        assert.deepStrictEqual(plain(decode(withProperties("Publish", mixed.parts.flat())).packets), expected)
      }
    })

    it("takes the short forms (PR-06p)", () => {
      const none = { reasonCode: 0, properties: undefined }
      assert.deepStrictEqual(packetOf("40 02 00 01"), { _tag: "Puback", packetId: 1, ...none })
      assert.deepStrictEqual(packetOf("40 03 00 01 80"), { _tag: "Puback", packetId: 1, ...none, reasonCode: 0x80 })
      assert.deepStrictEqual(packetOf("62 02 00 01"), { _tag: "Pubrel", packetId: 1, ...none })
      assert.deepStrictEqual(packetOf("62 03 00 01 92"), { _tag: "Pubrel", packetId: 1, ...none, reasonCode: 0x92 })
      assert.deepStrictEqual(packetOf("70 04 00 01 92 00"), { _tag: "Pubcomp", packetId: 1, ...none, reasonCode: 0x92 })
      assert.deepStrictEqual(packetOf("E0 00"), { _tag: "Disconnect", ...none })
      assert.deepStrictEqual(packetOf("E0 01 8E"), { _tag: "Disconnect", ...none, reasonCode: 0x8e })
      assert.deepStrictEqual(packetOf("E0 02 8E 00"), { _tag: "Disconnect", ...none, reasonCode: 0x8e })
    })

    it("takes an AUTH without a body as code 0x00, and leaves the missing method to its reader (PR-06p, AU-18p)", () => {
      assert.deepStrictEqual(packetOf("F0 00"), { _tag: "Auth", reasonCode: 0, properties: undefined })
      assert.strictEqual(faultOf("F0 01 00").reasonCode, 0x81)
    })

    it("demands a property length that ends on a property and inside the packet (PR-08p)", () => {
      for (const tag of tags) {
        const [first, ...body] = heads[tag]
        const properties = [...partners[tag] ?? [], 0x26, 0, 1, 0x6b, 0, 1, 0x76]
        const tail = tails[tag] ?? []
        assert.isUndefined(decode(withProperties(tag, properties)).fault, tag)
        // One byte less lets a property stick out, one more takes in what follows.
        for (const wrong of [-1, 1, 100]) {
          const { fault } = decode(frame(first, [...body, properties.length + wrong, ...properties, ...tail]))
          assert.strictEqual(fault?.reasonCode, 0x81, `${tag} ${wrong}`)
        }
      }
    })

    it("refuses a property that is cut short, also where a payload follows (PR-08p, FH-06p)", () => {
      for (const tag of ["Connack", "Publish"] as const) {
        for (const id of Property.fromServer[tag]) {
          const whole = sample(id)
          for (let length = 1; length < whole.length; length++) {
            const [first, ...body] = heads[tag]
            const cut = [...body, length, ...whole.slice(0, length)]
            assert.strictEqual(decode(frame(first, cut)).fault?.reasonCode, 0x81, `${tag} ${id} ${length}`)
            if (tag !== "Publish") continue
            const { fault } = decode(frame(first, [...cut, ...whole.slice(length), 0x78]))
            assert.strictEqual(fault?.reasonCode, 0x81, `${tag} ${id} ${length} and a payload`)
          }
        }
      }
    })

    it("demands the property length where it may not be left out (PR-01b, US-10p)", () => {
      for (const hex of ["30 03 00 01 61", "90 02 00 01", "B0 02 00 01"]) {
        const fault = faultOf(hex)
        assert.deepStrictEqual([fault.reasonCode, fault.field], [0x81, "property length"])
      }
      assert.deepStrictEqual(packetOf("B0 02 00 01", v4), {
        _tag: "Unsuback",
        packetId: 1,
        reasonCodes: [],
        properties: undefined
      })
    })

    it("refuses problem information that was not asked for, where it may not stand (CN-38s)", () => {
      const options = { requestProblemInformation: false }
      for (const tag of tags) {
        const free = tag === "Connack" || tag === "Publish" || tag === "Disconnect"
        for (const id of Property.fromServer[tag].filter((id) => id === 0x1f || id === 0x26)) {
          const bytes = withProperties(tag, [...partners[tag] ?? [], ...sample(id)])
          assert.strictEqual(decode(bytes, options).fault?.reasonCode, free ? undefined : 0x82, `${tag} ${id}`)
          assert.isUndefined(decode(bytes).fault)
        }
      }
    })

    it("refuses Session Expiry Interval in a server's DISCONNECT (DC-04s)", () => {
      assertFault("E0 07 00 05 11 00 00 00 0A", 0x82, "DISCONNECT", "session expiry interval")
    })

    it("gives references and intervals as they came", () => {
      assert.deepInclude(packetOf("E0 08 9D 06 1C 00 03 61 3A 31"), {
        properties: { reasonString: undefined, userProperties: undefined, serverReference: "a:1" }
      })
      assert.strictEqual(publishOf("30 09 00 01 61 05 02 00 00 00 07").properties?.messageExpiryInterval, 7)
    })
  })

  describe("reason codes", () => {
    const forms = {
      Connack: (code: number) => [0x20, 3, 0, code, 0],
      Puback: (code: number) => [0x40, 3, 0, 1, code],
      Pubrec: (code: number) => [0x50, 3, 0, 1, code],
      Pubrel: (code: number) => [0x62, 3, 0, 1, code],
      Pubcomp: (code: number) => [0x70, 3, 0, 1, code],
      Suback: (code: number) => [0x90, 4, 0, 1, 0, code],
      Unsuback: (code: number) => [0xb0, 4, 0, 1, 0, code],
      Disconnect: (code: number) => [0xe0, 1, code],
      Auth: (code: number) => [0xf0, 6, code, 4, 0x15, 0, 1, 0x6d]
    }

    it(
      "takes those of each packet's table and no other (CK-05s, QF-17b, QF-18b, QF-19b, QF-20b, SB-12s, US-08s, DC-03b, AU-02b)",
      () => {
        for (const [tag, form] of Object.entries(forms)) {
          const allowed: ReadonlyArray<number> = ReasonCode.fromServer[tag as keyof typeof forms]
          for (let code = 0; code < 256; code++) {
            const { fault } = decode(Uint8Array.from(form(code)))
            assert.strictEqual(fault?.reasonCode, allowed.includes(code) ? undefined : 0x82, `${tag} ${code}`)
          }
        }
      }
    )

    it("takes those of 3.1.1 and no other (CK-05s, SB-12s)", () => {
      for (let code = 0; code < 256; code++) {
        assert.strictEqual(decode(Uint8Array.of(0x20, 2, 0, code), v4).fault === undefined, code <= 5)
        assert.strictEqual(
          decode(Uint8Array.of(0x90, 3, 0, 1, code), v4).fault === undefined,
          code <= 2 || code === 0x80
        )
      }
    })

    it("demands one code at least in SUBACK and UNSUBACK", () => {
      assertFault("90 03 00 01 00", 0x82, "SUBACK", "reason codes")
      assertFault("B0 03 00 01 00", 0x82, "UNSUBACK", "reason codes")
      assertFault("90 02 00 01", 0x82, "SUBACK", "reason codes", v4)
    })

    it("keeps the order of the codes", () => {
      assert.deepInclude(packetOf("90 05 00 01 00 80 02", v4), { reasonCodes: [0, 0x80, 2] })
    })

    it("takes UNSUBACK 0x11 as a code like others", () => {
      assert.deepInclude(packetOf("B0 04 00 01 00 11"), { reasonCodes: [0x11] })
    })
  })

  describe("CONNACK", () => {
    it("refuses reserved acknowledge flags (CK-03s)", () => {
      for (const flags of ["02", "80", "FE", "FF"]) {
        assertFault(`20 03 ${flags} 00 00`, 0x81, "CONNACK", "acknowledge flags")
        assertFault(`20 02 ${flags} 00`, 0x81, "CONNACK", "acknowledge flags", v4)
      }
    })

    it("refuses authentication data without a method", () => {
      assertFault("20 07 00 00 04 16 00 01 61", 0x82, "CONNACK", "authentication data")
    })
  })

  describe("AUTH", () => {
    it("demands the method (AU-14p)", () => {
      assertFault("F0 02 18 00", 0x82, "AUTH", "authentication method")
      assertFault("F0 06 18 04 1F 00 01 61", 0x82, "AUTH", "authentication method")
    })
  })

  describe("PUBLISH", () => {
    it("refuses QoS 3, and DUP at QoS 0 (PB-02b, PB-04b)", () => {
      assertFault("36 07 00 01 61 00 01 00 78", 0x81, "PUBLISH", "qos")
      assertFault("3E 07 00 01 61 00 01 00 78", 0x81, "PUBLISH", "qos")
      assertFault("38 05 00 01 61 00 78", 0x82, "PUBLISH", "dup")
      assertFault("36 06 00 01 61 00 01 78", 0x81, "PUBLISH", "qos", v4)
    })

    it("gives RETAIN, DUP and QoS as they came", () => {
      for (const [first, dup, qos, retain] of [["30", false, 0, false], ["31", false, 0, true]] as const) {
        assert.deepInclude(packetOf(`${first} 04 00 01 61 00`), { dup, qos, retain })
      }
      for (const [first, dup, qos, retain] of [["33", false, 1, true], ["3C", true, 2, false]] as const) {
        assert.deepInclude(packetOf(`${first} 06 00 01 61 00 01 00`), { dup, qos, retain })
      }
    })

    it("refuses an empty topic without an alias, and on 3.1.1 always (PB-06b, TP-04b)", () => {
      assertFault("30 04 00 00 00 78", 0x82, "PUBLISH", "topic name")
      assertFault("30 03 00 00 78", 0x82, "PUBLISH", "topic name", v4)
    })

    it("refuses wildcards in topic and response topic (PB-07b, PB-18b, PB-19b)", () => {
      for (const hex of ["2B", "23", "61 2B", "23 61"]) {
        const bytes = fromHex(hex)
        assertFault(toHex(frame(0x30, [0, bytes.length, ...bytes, 0])), 0x82, "PUBLISH", "topic name")
        const property = [0x08, 0, bytes.length, ...bytes]
        assertFault(toHex(frame(0x30, [0, 1, 0x61, property.length, ...property])), 0x82, "PUBLISH", "response topic")
      }
      assertFault("30 07 00 01 61 03 08 00 00", 0x82, "PUBLISH", "response topic")
      assertFault("30 08 00 01 61 04 08 00 01 FF", 0x81, "PUBLISH", "response topic")
    })

    it("refuses an ill-formed content type (PB-22b)", () => {
      assertFault("30 08 00 01 61 04 03 00 01 FF", 0x81, "PUBLISH", "content type")
    })

    it("takes topics that begin with $ (TP-09p)", () => {
      assert.strictEqual(publishOf("30 08 00 04 24 53 59 53 00 78").topic, "$SYS")
    })

    it("takes an empty payload (PB-30p)", () => {
      assert.deepStrictEqual(publishOf("30 04 00 01 61 00").payload, new Uint8Array(0))
      assert.deepStrictEqual(publishOf("30 03 00 01 61", v4).payload, new Uint8Array(0))
    })

    it("takes any number of subscription identifiers in wire order", () => {
      assert.deepStrictEqual(
        publishOf("30 0A 00 01 61 06 0B 02 0B 01 0B 02").properties?.subscriptionIdentifiers,
        [2, 1, 2]
      )
    })

    it("does not judge a payload that claims to be UTF-8 (PB-09p)", () => {
      assert.deepStrictEqual(publishOf("30 07 00 01 61 02 01 01 FF").payload, Uint8Array.of(0xff))
    })

    it("gives payloads and correlation data as views into the chunk", () => {
      const chunk = fromHex("30 0A 00 01 61 04 09 00 01 FF 01 02")
      const [packet] = decode(chunk).packets as ReadonlyArray<Publish>
      for (const view of [packet.payload, packet.properties?.correlationData]) {
        assert.strictEqual(view?.buffer, chunk.buffer)
        assert.strictEqual(Object.getPrototypeOf(view), Uint8Array.prototype)
      }
      assert.strictEqual(packet.payload.byteOffset, chunk.byteOffset + 10)
    })

    it("leaves the views of earlier packets alone", () => {
      const decoder = makeDecoder(defaults)
      const payloads: Array<Uint8Array> = []
      const collect = (packet: ServerPacket) => {
        if (packet._tag === "Publish") payloads.push(packet.payload)
        return undefined
      }
      const bytes = fromHex("30 06 00 01 61 00 01 02 30 06 00 01 61 00 03 04 30 06 00 01 61 00 05 06")
      for (const cut of [bytes.slice(0, 3), bytes.slice(3, 12), bytes.slice(12, 22), bytes.slice(22)]) {
        decoder.push(cut, collect)
      }
      assert.deepStrictEqual(payloads.map((payload) => [...payload]), [[1, 2], [3, 4], [5, 6]])
    })
  })

  describe("topic aliases", () => {
    const set = (alias: string, topic = "61") => `30 08 00 01 ${topic} 03 23 ${alias} 78`
    const use = (alias: string) => `30 07 00 00 03 23 ${alias} 78`
    const topics = (hex: string, options: Partial<DecoderOptions> = {}) => {
      const { fault, packets } = decodeHex(hex, options)
      assert.isUndefined(fault)
      return packets.map((packet) => packet._tag === "Publish" ? packet.topic : packet._tag)
    }

    it("refuses 0 and what is over the maximum, topic or not (CN-36s, PB-13b)", () => {
      for (const [hex, topicAliasMaximum] of [[set("00 00"), 10], [use("00 00"), 10], [set("00 0B"), 10]] as const) {
        assert.strictEqual(faultOf(hex, { topicAliasMaximum }).reasonCode, 0x94)
      }
      assert.strictEqual(faultOf(set("00 01"), { topicAliasMaximum: 0 }).reasonCode, 0x94)
      assert.strictEqual(faultOf(use("00 0B"), { topicAliasMaximum: 10 }).reasonCode, 0x94)
    })

    it("sets, uses and overwrites every alias up to the maximum (PB-14c)", () => {
      const hex = `${set("FF FF")} ${use("FF FF")} ${set("FF FF", "62")} ${use("FF FF")} ${set("00 01", "63")} ` +
        `${use("FF FF")} ${use("00 01")}`
      assert.deepStrictEqual(topics(hex), ["a", "a", "b", "b", "c", "b", "c"])
      assert.deepStrictEqual(topics(`${set("00 02")} ${use("00 02")}`, { topicAliasMaximum: 2 }), ["a", "a"])
    })

    it("keeps the alias among the properties", () => {
      assert.strictEqual(publishOf(set("00 07")).properties?.topicAlias, 7)
    })

    it("refuses an alias that has no topic on this connection (PB-12b, PB-15p)", () => {
      assertFault(use("00 01"), 0x82, "PUBLISH", "topic alias")
      assert.strictEqual(decodeHex(`${set("00 02")} ${use("00 01")}`).fault?.field, "topic alias")
    })

    it("does not set the alias of a packet that is refused", () => {
      // The topic of the packet is wrong, so nothing of it counts; and nothing comes after it.
      assert.strictEqual(decodeHex(set("00 01", "2B")).fault?.field, "topic name")
    })
  })

  describe("failure", () => {
    it("is terminal: later pushes give the same fault and call nothing (ER-06p, law 12)", () => {
      const decoder = makeDecoder(defaults)
      let packets = 0
      const onPacket = () => {
        packets++
        return undefined
      }
      const fault = decoder.push(fromHex("D0 00 D1 00 D0 00"), onPacket)
      assert.strictEqual(fault?.reasonCode, 0x81)
      assert.strictEqual(packets, 1)
      assert.strictEqual(decoder.push(fromHex("D0 00"), onPacket), fault)
      assert.strictEqual(decoder.push(new Uint8Array(0), onPacket), fault)
      assert.strictEqual(packets, 1)
    })

    it("comes from the reader of packets as well, and stops at once", () => {
      const own = ProtocolFault.make("CONNACK", "order", "there is one", 0x82)
      for (const chunks of [["D0 00 D0 00 D0 00"], ["D0", "00 D0 00 D0 00"], ["D0", "00", "D0 00", "D0", "00"]]) {
        const decoder = makeDecoder(defaults)
        let packets = 0
        const faults = chunks.map((chunk) => decoder.push(fromHex(chunk), () => ++packets === 2 ? own : undefined))
        assert.strictEqual(faults.at(-1), own)
        assert.strictEqual(packets, 2)
      }
    })

    it("is the same for every split of the stream (FH-05p)", () => {
      const hexes = ["D0 00 30 FF FF FF FF", "30 05 00 01 61 7F 78", "20 03 02 00 00", "30 06 00 02 C3 28 00 78"]
      for (const hex of [...hexes, "40 03 00 01 05 D0 00", "F0 02 18 00", "D0 00 20 02 00 00", "D0 01 00"]) {
        const bytes = fromHex(hex)
        const whole = decode(bytes)
        assert.isDefined(whole.fault)
        assert.deepStrictEqual(decodeChunks(Array.from(bytes, (byte) => Uint8Array.of(byte))), whole)
        for (let at = 0; at <= bytes.length; at++) {
          assert.deepStrictEqual(decodeChunks([bytes.subarray(0, at), bytes.subarray(at)]), whole, `${hex} at ${at}`)
        }
      }
    })

    it("tells what is wrong in one line", () => {
      assert.strictEqual(
        ProtocolFault.format(faultOf("20 06 00 00 03 21 00 00")),
        "CONNACK: receive maximum: its value is not 0 (reason code 0x82)"
      )
    })
  })

  it("answers each flipped bit of each valid packet with packets, a fault or patience, the same for every split", () => {
    for (const protocolVersion of [4, 5] as const) {
      for (const bytes of validStream(protocolVersion, 3, 25).frames) {
        if (bytes.length > 300) continue
        for (let bit = 0; bit < bytes.length * 8; bit++) {
          const flipped = Uint8Array.from(bytes)
          flipped[bit >> 3] ^= 1 << (bit & 7)
          const options = { protocolVersion, maximumPacketSize: 100_000, topicAliasMaximum: 10 }
          const whole = decode(flipped, options)
          assert.isTrue(whole.fault === undefined || [0x81, 0x82, 0x94, 0x95].includes(whole.fault.reasonCode))
          const at = bit % flipped.length
          const split = decodeChunks([flipped.subarray(0, at), flipped.subarray(at)], options)
          assert.deepStrictEqual([plain(split.packets), split.fault], [plain(whole.packets), whole.fault])
        }
      }
    }
  })

  describe("is blank, so that another one would do as well", () => {
    const accept = () => undefined
    const blankAfter = (chunks: ReadonlyArray<string>, options: Partial<DecoderOptions> = {}) => {
      const decoder = makeDecoder({ ...defaults, ...options })
      for (const hex of chunks) decoder.push(fromHex(hex), accept)
      return decoder.isBlank
    }

    it("at first, and behind whole packets without a topic", () => {
      assert.isTrue(blankAfter([]))
      assert.isTrue(blankAfter(["20 02 00 00"], v4))
      assert.isTrue(blankAfter(["20 03 00 00 00", "d0 00", "40 02 00 01"]))
      assert.isTrue(blankAfter(["20", "03 00", "00 00"]))
    })

    it("but not in the middle of a packet, once a topic was seen, and behind a fault", () => {
      assert.isFalse(blankAfter(["d0 00 20"]))
      assert.isFalse(blankAfter(["20 03", "00"]))
      assert.isFalse(blankAfter(["30 03 00 01 61"], v4))
      assert.isFalse(blankAfter(["00 00"]))
      const refusing = makeDecoder(defaults)
      refusing.push(fromHex("d0 00"), () => ProtocolFault.make("PINGRESP", "packet type", "refused", 0x82))
      assert.isFalse(refusing.isBlank)
    })
  })
})
