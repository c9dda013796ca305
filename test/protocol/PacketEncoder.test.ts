import { assert, describe, it } from "@effect/vitest"
import type {
  ClientPacket,
  Connect,
  ConnectProperties,
  ProtocolVersion,
  Publish,
  PublishProperties,
  Subscribe
} from "../../src/protocol/Packet.ts"
import { encodedSize, makeDecoder, makeEncoder } from "../../src/protocol/PacketCodec.ts"
import type { EncodeFault, Encoder } from "../../src/protocol/PacketCodec.ts"
import * as Property from "../../src/protocol/Property.ts"
import * as ReasonCode from "../../src/protocol/ReasonCode.ts"
import { readByMqttPacket } from "./support/MqttPacket.ts"
import { clientPacket, fromHex, plain, Random, toHex, varintBytes } from "./support/PacketGenerator.ts"

const none = new Uint8Array(0)

const connect: Connect = {
  _tag: "Connect",
  protocolVersion: 5,
  clientId: "c",
  cleanStart: true,
  keepAlive: 60,
  username: undefined,
  password: undefined,
  will: undefined,
  properties: undefined
}

const publish: Publish = {
  _tag: "Publish",
  dup: false,
  qos: 0,
  retain: false,
  topic: "t",
  packetId: 0,
  payload: none,
  properties: undefined
}

const will = { topic: "w", payload: none, qos: 0, retain: false, properties: undefined } as const

const subscription = { filter: "a", qos: 0, noLocal: false, retainAsPublished: false, retainHandling: 0 } as const

const subscribe: Subscribe = { _tag: "Subscribe", packetId: 1, subscriptions: [subscription], properties: undefined }

const bytesOf = (packet: ClientPacket, version: ProtocolVersion = 5): Uint8Array => {
  const encoder = makeEncoder({ protocolVersion: version })
  assert.isUndefined(encoder.encode(packet))
  const bytes = encoder.take()
  assert.strictEqual(bytes.length, encodedSize(packet, version))
  return bytes
}

const hexOf = (packet: ClientPacket, version: ProtocolVersion = 5): string => toHex(bytesOf(packet, version))

const connect4 = (fields: Partial<Connect> = {}): Connect => ({ ...connect, protocolVersion: 4, ...fields })

/** The fault of a packet of which nothing is appended. */
const faultOf = (packet: ClientPacket, version: ProtocolVersion = 5, maximumPacketSize = Infinity): EncodeFault => {
  const encoder = makeEncoder({ protocolVersion: version })
  encoder.maximumPacketSize = maximumPacketSize
  encoder.encode({ _tag: "Pingreq" })
  const fault = encoder.encode(packet)
  assert.strictEqual(encoder.size, 2)
  assert.strictEqual(toHex(encoder.take()), "C0 00")
  if (fault === undefined) throw new Error(`no fault in ${JSON.stringify(plain(packet))}`)
  return fault
}

const assertInvalid = (packet: ClientPacket, field: string, version: ProtocolVersion = 5): void => {
  const fault = faultOf(packet, version)
  if (fault._tag !== "InvalidField") throw new Error(JSON.stringify(fault))
  assert.strictEqual(fault.field, field)
  assert.match(fault.problem, /^must /)
  assert.strictEqual(fault.packet, packet._tag.toUpperCase())
}

const pub = (fields: Partial<Publish>): Publish => ({ ...publish, ...fields })

describe("PacketEncoder", () => {
  describe("golden bytes", () => {
    it("encodes the largest CONNECT in the order of the standard (CN-03c, CN-15c)", () => {
      const packet: Connect = {
        _tag: "Connect",
        protocolVersion: 5,
        clientId: "id",
        cleanStart: true,
        keepAlive: 0x1234,
        username: "u",
        password: Uint8Array.of(0xff, 0x00),
        will: {
          topic: "w",
          payload: Uint8Array.of(1),
          qos: 2,
          retain: true,
          properties: {
            willDelayInterval: 5,
            payloadFormatIndicator: 0,
            messageExpiryInterval: 6,
            contentType: "c",
            responseTopic: "r",
            correlationData: Uint8Array.of(7),
            userProperties: [["a", "b"]]
          }
        },
        properties: {
          sessionExpiryInterval: 4_294_967_295,
          receiveMaximum: 10,
          maximumPacketSize: 65_536,
          topicAliasMaximum: 3,
          requestResponseInformation: true,
          requestProblemInformation: false,
          userProperties: [["k", "v"], ["k", ""]],
          authenticationMethod: "m",
          authenticationData: Uint8Array.of(9)
        }
      }
      assert.strictEqual(
        hexOf(packet),
        [
          "10 65 00 04 4D 51 54 54 05 F6 12 34",
          "29 11 FF FF FF FF 15 00 01 6D 16 00 01 09 17 00 19 01 21 00 0A 22 00 03",
          "26 00 01 6B 00 01 76 26 00 01 6B 00 00 27 00 01 00 00",
          "00 02 69 64",
          "1F 01 00 02 00 00 00 06 03 00 01 63 08 00 01 72 09 00 01 07 18 00 00 00 05 26 00 01 61 00 01 62",
          "00 01 77 00 01 01 00 01 75 00 02 FF 00"
        ].join(" ")
      )
    })

    it("encodes CONNECT of 3.1.1 (CN-03c, CN-15c, PR-07p)", () => {
      const packet = connect4({
        username: "u",
        password: Uint8Array.of(1),
        will,
        properties: { receiveMaximum: 1 }
      })
      assert.strictEqual(
        hexOf(packet, 4),
        "10 18 00 04 4D 51 54 54 04 C6 00 3C 00 01 63 00 01 77 00 00 00 01 75 00 01 01"
      )
    })

    it("encodes PUBLISH with every property", () => {
      const packet = pub({
        dup: true,
        qos: 2,
        retain: true,
        packetId: 0x1234,
        payload: Uint8Array.of(0x68, 0x69),
        properties: {
          payloadFormatIndicator: 1,
          messageExpiryInterval: 9,
          topicAlias: 7,
          responseTopic: "r",
          correlationData: Uint8Array.of(0xff),
          userProperties: [["k", "v"]],
          contentType: "c"
        }
      })
      assert.strictEqual(
        hexOf(packet),
        "3D 25 00 01 74 12 34 1D 01 01 02 00 00 00 09 03 00 01 63 08 00 01 72 09 00 01 FF 23 00 07 " +
          "26 00 01 6B 00 01 76 68 69"
      )
    })

    it("encodes PUBLISH without properties (PI-01b, PR-01b, PB-06b)", () => {
      assert.strictEqual(hexOf(pub({ payload: Uint8Array.of(0x78) })), "30 05 00 01 74 00 78")
      assert.strictEqual(hexOf(pub({ payload: Uint8Array.of(0x78) }), 4), "30 04 00 01 74 78")
      assert.strictEqual(hexOf(pub({ qos: 1, packetId: 1 })), "32 06 00 01 74 00 01 00")
      assert.strictEqual(hexOf(pub({ qos: 1, packetId: 1 }), 4), "32 05 00 01 74 00 01")
    })

    it("encodes SUBSCRIBE and UNSUBSCRIBE (SB-05c, SB-06p, US-02c, PR-01b)", () => {
      const options = { filter: "é", qos: 2, noLocal: true, retainAsPublished: true, retainHandling: 2 } as const
      const packet: Subscribe = {
        ...subscribe,
        packetId: 10,
        subscriptions: [subscription, options],
        properties: { subscriptionIdentifier: 128, userProperties: [["k", "v"]] }
      }
      assert.strictEqual(hexOf(packet), "82 16 00 0A 0A 0B 80 01 26 00 01 6B 00 01 76 00 01 61 00 00 02 C3 A9 2E")
      assert.strictEqual(hexOf(packet, 4), "82 0B 00 0A 00 01 61 00 00 02 C3 A9 02")
      assert.strictEqual(hexOf(subscribe), "82 07 00 01 00 00 01 61 00")
      const unsubscribe = { _tag: "Unsubscribe", packetId: 1, filters: ["a", "b"], properties: undefined } as const
      assert.strictEqual(hexOf(unsubscribe), "A2 09 00 01 00 00 01 61 00 01 62")
      assert.strictEqual(hexOf(unsubscribe, 4), "A2 08 00 01 00 01 61 00 01 62")
    })

    it("encodes acknowledgements in their shortest form (PR-06p)", () => {
      const ack = { _tag: "Pubrec", packetId: 0x1234, reasonCode: 0, properties: undefined } as const
      assert.strictEqual(hexOf(ack), "50 02 12 34")
      assert.strictEqual(hexOf({ ...ack, properties: {} }), "50 02 12 34")
      assert.strictEqual(hexOf({ ...ack, properties: { userProperties: [] } }), "50 02 12 34")
      assert.strictEqual(hexOf({ ...ack, reasonCode: 0x97 }), "50 03 12 34 97")
      assert.strictEqual(hexOf({ ...ack, properties: { reasonString: "r" } }), "50 08 12 34 00 04 1F 00 01 72")
    })

    it("encodes DISCONNECT and AUTH (PR-06p)", () => {
      const disconnect = { _tag: "Disconnect", reasonCode: 0, properties: undefined } as const
      assert.strictEqual(hexOf(disconnect), "E0 00")
      assert.strictEqual(hexOf(disconnect, 4), "E0 00")
      assert.strictEqual(hexOf({ ...disconnect, reasonCode: 0x04 }), "E0 01 04")
      assert.strictEqual(
        hexOf({ ...disconnect, properties: { sessionExpiryInterval: 10 } }),
        "E0 07 00 05 11 00 00 00 0A"
      )
      assert.strictEqual(
        hexOf({ _tag: "Auth", reasonCode: 0x18, properties: { authenticationMethod: "m" } }),
        "F0 06 18 04 15 00 01 6D"
      )
    })
  })

  describe("fixed header", () => {
    it("gives each packet the reserved flags of its type (FH-01b, SB-01c, US-01c, DC-02b, AU-01b, QF-21b, KA-10p)", () => {
      const expected = {
        ...{ Connect: 0x10, Puback: 0x40, Pubrec: 0x50, Pubrel: 0x62, Pubcomp: 0x70, Subscribe: 0x82 },
        ...{ Unsubscribe: 0xa2, Pingreq: 0xc0, Disconnect: 0xe0, Auth: 0xf0 }
      } as const
      const seen = new Set<string>()
      for (const version of [4, 5] as const) {
        for (let seed = 1; seed <= 500; seed++) {
          const packet = clientPacket(new Random(seed), version)
          if (packet._tag === "Publish") continue
          seen.add(packet._tag)
          assert.strictEqual(bytesOf(packet, version)[0], expected[packet._tag])
        }
      }
      assert.deepStrictEqual([...seen].sort(), Object.keys(expected).sort())
      assert.strictEqual(hexOf({ _tag: "Pingreq" }), "C0 00")
    })

    it("writes Remaining Length in the fewest bytes (VB-01b)", () => {
      const borders = [127, 128, 16_383, 16_384, 2_097_151, 2_097_152]
      for (const length of borders) {
        const bytes = bytesOf(pub({ payload: new Uint8Array(length - 3) }), 4)
        assert.deepStrictEqual([...bytes.subarray(1, bytes.length - length)], varintBytes(length))
      }
    })

    it("writes property length and subscription identifier in the fewest bytes (VB-01b)", () => {
      for (const [value, size] of [[1, 1], [127, 1], [128, 2], [16_383, 2], [16_384, 3], [268_435_455, 4]] as const) {
        const bytes = bytesOf({ ...subscribe, properties: { subscriptionIdentifier: value } })
        assert.deepStrictEqual([...bytes.subarray(4, 6 + size)], [1 + size, 0x0b, ...varintBytes(value)])
      }
      for (const [length, size] of [[120, 1], [121, 2], [16_375, 2]] as const) {
        const bytes = bytesOf(pub({ properties: { userProperties: [["kk", "v".repeat(length)]] } }))
        assert.deepStrictEqual([...bytes.subarray(-(length + 7 + size), -(length + 7))], varintBytes(length + 7))
      }
    })

    it("refuses what no remaining length can count, before it makes room (VB-04p)", () => {
      const over = { length: 268_435_455 }
      Object.setPrototypeOf(over, Uint8Array.prototype)
      Object.defineProperty(over, "length", { value: 268_435_455 })
      assert.deepStrictEqual(faultOf(pub({ payload: over as unknown as Uint8Array }), 4), {
        _tag: "TooLarge",
        packet: "PUBLISH",
        size: 268_435_463,
        limit: 268_435_460
      })
    })
  })

  describe("limits of the server", () => {
    it("takes a packet of the limit and refuses one byte more (CK-14c)", () => {
      const packets: ReadonlyArray<readonly [ClientPacket, ProtocolVersion]> = [
        [pub({ payload: new Uint8Array(50) }), 5],
        [pub({ topic: "é", payload: new Uint8Array(50) }), 5],
        [pub({ qos: 1, packetId: 1 }), 4],
        [subscribe, 5],
        [{ _tag: "Unsubscribe", packetId: 1, filters: ["a/b"], properties: undefined }, 5],
        [{ _tag: "Puback", packetId: 1, reasonCode: 0, properties: undefined }, 5],
        [{ _tag: "Pubrec", packetId: 1, reasonCode: 0x80, properties: undefined }, 5],
        [{ _tag: "Disconnect", reasonCode: 0x81, properties: undefined }, 5],
        [{ _tag: "Auth", reasonCode: 0x18, properties: { authenticationMethod: "m" } }, 5]
      ]
      for (const [packet, version] of packets) {
        const size = encodedSize(packet, version)
        const encoder = makeEncoder({ protocolVersion: version })
        encoder.maximumPacketSize = size
        assert.isUndefined(encoder.encode(packet))
        assert.strictEqual(encoder.take().length, size)
        const fault = faultOf(packet, version, Math.max(2, size - 1))
        assert.deepStrictEqual(fault, { _tag: "TooLarge", packet: packet._tag.toUpperCase(), size, limit: size - 1 })
      }
    })

    it("leaves explanations out of acknowledgements rather than exceed it (QF-22b)", () => {
      for (const tag of ["Puback", "Pubrec", "Pubrel", "Pubcomp"] as const) {
        const properties = { reasonString: "too long", userProperties: [["k", "v"]] } as const
        const packet = { _tag: tag, packetId: 1, reasonCode: 0x92, properties } as const
        const code = tag === "Puback" || tag === "Pubrec" ? 0x97 : 0x92
        const terse = (maximum: number) => {
          const encoder = makeEncoder({ protocolVersion: 5 })
          encoder.maximumPacketSize = maximum
          assert.isUndefined(encoder.encode({ ...packet, reasonCode: code }))
          return encoder.take().length
        }
        // All of it, the reason string alone, nothing but the code.
        assert.deepStrictEqual([24, 23, 17, 16, 10, 5].map(terse), [24, 17, 17, 5, 5, 5])
        assert.strictEqual(faultOf({ ...packet, reasonCode: code }, 5, 4)._tag, "TooLarge")
      }
    })

    it("leaves explanations out of DISCONNECT and AUTH rather than exceed it (DC-05b, AU-03b)", () => {
      const encoder = makeEncoder({ protocolVersion: 5 })
      encoder.maximumPacketSize = 5
      const explained = { reasonString: "because", userProperties: [["k", "v"]] } as const
      assert.isUndefined(encoder.encode({ _tag: "Disconnect", reasonCode: 0x82, properties: explained }))
      assert.strictEqual(toHex(encoder.take()), "E0 01 82")
      encoder.maximumPacketSize = 10
      const properties = { ...explained, authenticationMethod: "m" }
      assert.isUndefined(encoder.encode({ _tag: "Auth", reasonCode: 0x18, properties }))
      assert.strictEqual(toHex(encoder.take()), "F0 06 18 04 15 00 01 6D")
    })

    it("keeps what is no explanation", () => {
      const properties = { sessionExpiryInterval: 10, reasonString: "because" }
      const disconnect = { _tag: "Disconnect", reasonCode: 0, properties } as const
      const encoder = makeEncoder({ protocolVersion: 5 })
      encoder.maximumPacketSize = 10
      assert.isUndefined(encoder.encode(disconnect))
      assert.strictEqual(toHex(encoder.take()), "E0 07 00 05 11 00 00 00 0A")
      assert.strictEqual(faultOf(disconnect, 5, 5)._tag, "TooLarge")
    })
  })

  describe("strings", () => {
    const connectFields = (text: string): ReadonlyArray<readonly [string, ClientPacket]> => [
      ["clientId", { ...connect, clientId: text }],
      ["username", { ...connect, username: text }],
      ["will.topic", { ...connect, will: { ...will, topic: text } }],
      ["will.properties.contentType", { ...connect, will: { ...will, properties: { contentType: text } } }],
      ["will.properties.responseTopic", { ...connect, will: { ...will, properties: { responseTopic: text } } }],
      ["properties.authenticationMethod", { ...connect, properties: { authenticationMethod: text } }],
      ["properties.userProperties", { ...connect, properties: { userProperties: [[text, ""]] } }],
      ["properties.userProperties", { ...connect, properties: { userProperties: [["", text]] } }]
    ]
    const otherFields = (text: string): ReadonlyArray<readonly [string, ClientPacket]> => [
      ["topic", pub({ topic: text })],
      ["properties.contentType", pub({ properties: { contentType: text } })],
      ["properties.responseTopic", pub({ properties: { responseTopic: text } })],
      ["properties.userProperties", pub({ properties: { userProperties: [[text, ""]] } })],
      ["properties.userProperties", pub({ properties: { userProperties: [["", text]] } })],
      ["subscriptions[0].filter", { ...subscribe, subscriptions: [{ ...subscription, filter: text }] }],
      ["filters[0]", { _tag: "Unsubscribe", packetId: 1, filters: [text], properties: undefined }],
      [
        "properties.reasonString",
        { _tag: "Puback", packetId: 1, reasonCode: 0, properties: { reasonString: text } }
      ],
      ["properties.reasonString", { _tag: "Disconnect", reasonCode: 0x82, properties: { reasonString: text } }],
      [
        "properties.authenticationMethod",
        { _tag: "Auth", reasonCode: 0x18, properties: { authenticationMethod: text } }
      ]
    ]
    const fields = (text: string) => [...connectFields(text), ...otherFields(text)]

    it("refuses a lone surrogate in every field (U8-01b, U8-04b, CN-18c, CN-24c, SB-02c, US-02c, PB-18b, PB-22b)", () => {
      for (const text of ["\ud800", "a\udfff", "\ud800\ud800", "\udc00\ud800", "x".repeat(300) + "\ud800"]) {
        for (const [field, packet] of fields(text)) assertInvalid(packet, field)
      }
    })

    it("refuses U+0000 in every field (U8-02b, U8-04b, TP-05b, CN-18c, CN-23c, CN-24c, SB-02c)", () => {
      for (const text of ["\0", "a\0b", "é\0", "x".repeat(300) + "\0"]) {
        for (const [field, packet] of fields(text)) assertInvalid(packet, field)
      }
    })

    it("takes 65,535 bytes and no more, counted in UTF-8 (U8-05p, TP-06b)", () => {
      for (const [, packet] of fields("a".repeat(65_535))) assert.isUndefined(encodeFault(packet))
      for (const [, packet] of fields(`${"é".repeat(32_767)}a`)) assert.isUndefined(encodeFault(packet))
      for (const [field, packet] of fields("é".repeat(32_768))) assertInvalid(packet, field)
      for (const [field, packet] of fields("a".repeat(65_536))) assertInvalid(packet, field)
    })

    it("keeps U+FEFF, and writes pairs of surrogates as four bytes (U8-03b)", () => {
      assert.strictEqual(hexOf(pub({ topic: "\ufeffa" })), "30 07 00 04 EF BB BF 61 00")
      assert.strictEqual(hexOf(pub({ topic: "😀" })), "30 07 00 04 F0 9F 98 80 00")
    })

    it("sends control characters and noncharacters (U8-06p)", () => {
      assert.strictEqual(hexOf(pub({ topic: "\u0001\uffff" })), "30 07 00 04 01 EF BF BF 00")
    })

    it("encodes every length and alphabet as the decoder reads it", () => {
      for (const part of ["a", "é", "東", "😀"]) {
        for (const length of [1, 2, 15, 16, 63, 64, 65, 255, 256, 257, 1000]) {
          const text = part.repeat(length)
          const packet = pub({ topic: text, properties: { contentType: text, userProperties: [[text, text]] } })
          let decoded: unknown
          makeDecoder(decoderOptions).push(bytesOf(packet), (packet) => {
            decoded = plain(packet)
            return undefined
          })
          assert.deepStrictEqual(decoded, plain(packet))
        }
      }
    })

    it("takes strings that are no strings for what they are", () => {
      for (const [field, packet] of fields(7 as unknown as string)) {
        // Where an optional field is given, null is as wrong as a number.
        assertInvalid(packet, field)
      }
    })
  })

  describe("binary data", () => {
    it("passes bytes through unchanged (U8-08p, CN-13c)", () => {
      const all = Uint8Array.from({ length: 256 }, (_, byte) => byte)
      const packet = { ...connect, password: all, will: { ...will, payload: all } }
      assert.deepInclude(readByMqttPacket(bytesOf(packet), 5), {
        password: `bytes ${toHex(all)}`,
        will: { topic: "w", payload: `bytes ${toHex(all)}`, qos: 0, retain: false }
      })
      const hex = hexOf(pub({ payload: all, properties: { correlationData: all } }))
      assert.include(hex, `09 01 00 ${toHex(all)} ${toHex(all)}`)
    })

    it("refuses more than 65,535 bytes (U8-05p)", () => {
      const tooLong = new Uint8Array(65_536)
      assertInvalid({ ...connect, password: tooLong }, "password")
      assertInvalid({ ...connect, will: { ...will, payload: tooLong } }, "will.payload")
      assertInvalid(pub({ properties: { correlationData: tooLong } }), "properties.correlationData")
      assert.isUndefined(encodeFault(pub({ properties: { correlationData: new Uint8Array(65_535) } })))
    })

    it("refuses what is no Uint8Array", () => {
      assertInvalid(pub({ payload: "text" as unknown as Uint8Array }), "payload")
      assertInvalid({ ...connect, password: "secret" as unknown as Uint8Array }, "password")
      assertInvalid(
        pub({ properties: { correlationData: [1] as unknown as Uint8Array } }),
        "properties.correlationData"
      )
    })

    it("copies the payload, so that a later change of it does not reach the wire", () => {
      const encoder = makeEncoder({ protocolVersion: 5 })
      const payload = Uint8Array.of(1)
      encoder.encode(pub({ payload }))
      payload[0] = 2
      assert.strictEqual(toHex(encoder.take()), "30 05 00 01 74 00 01")
    })
  })

  describe("memory", () => {
    /** Appends some packets; gives what is taken, and the same bytes as they are now. */
    const taken = (encoder: Encoder, random: Random): readonly [bytes: Uint8Array, copy: Uint8Array] => {
      for (let count = random.int(1, 4); count > 0; count--) {
        assert.isUndefined(
          encoder.encode(pub({ payload: new Uint8Array(random.int(0, 20_000)).fill(random.int(1, 255)) }))
        )
      }
      const bytes = encoder.take()
      return [bytes, bytes.slice()]
    }

    it("writes nothing twice before it is reclaimed", () => {
      for (let seed = 0; seed < 50; seed++) {
        const random = new Random(seed)
        const encoder = makeEncoder({ protocolVersion: 5 })
        let held: Array<readonly [bytes: Uint8Array, copy: Uint8Array]> = []
        for (let step = 0; step < 40; step++) {
          held.push(taken(encoder, random))
          for (const [bytes, copy] of held) assert.isTrue(Buffer.compare(bytes, copy) === 0, `seed ${seed}`)
          if (random.int(0, 5) > 0) continue
          encoder.reclaim()
          held = []
        }
      }
    })

    it("uses the memory again once it is reclaimed, and no other", () => {
      const encoder = makeEncoder({ protocolVersion: 5 })
      const random = new Random(1)
      const buffers = new Set<ArrayBufferLike>()
      for (let step = 0; step < 400; step++) {
        const [bytes] = taken(encoder, random)
        encoder.reclaim()
        // It grows to what is taken at once.
        if (step >= 200) buffers.add(bytes.buffer)
      }
      assert.strictEqual(buffers.size, 1)
    })

    it("does not hold on to what one large message took", () => {
      const encoder = makeEncoder({ protocolVersion: 5 })
      encoder.encode(pub({ payload: new Uint8Array(8 << 20) }))
      encoder.take()
      for (let count = 0; count < 5; count++) {
        encoder.reclaim()
        encoder.encode(pub({ payload: Uint8Array.of(1) }))
        assert.isAtMost(encoder.take().buffer.byteLength, 1 << 20)
      }
      encoder.encode(pub({ payload: new Uint8Array(8 << 20) }))
      encoder.take()
      // As where nothing is ever reclaimed.
      for (const held of Object.values(encoder)) {
        if (ArrayBuffer.isView(held)) assert.isAtMost(held.buffer.byteLength, 1 << 20)
      }
    })

    it("keeps what was not taken", () => {
      const encoder = makeEncoder({ protocolVersion: 5 })
      encoder.encode(pub({ payload: Uint8Array.of(1) }))
      encoder.take()
      encoder.encode(pub({ payload: Uint8Array.of(2) }))
      encoder.reclaim()
      encoder.encode(pub({ payload: Uint8Array.of(3) }))
      assert.strictEqual(toHex(encoder.take()), "30 05 00 01 74 00 02 30 05 00 01 74 00 03")
    })
  })

  describe("packet identifiers", () => {
    it("refuses what is not from 1 to 65,535", () => {
      for (const packetId of [0, -1, 65_536, 1.5, NaN, Infinity]) {
        assertInvalid(pub({ qos: 1, packetId }), "packetId")
        assertInvalid({ _tag: "Puback", packetId, reasonCode: 0, properties: undefined }, "packetId")
        assertInvalid({ ...subscribe, packetId }, "packetId")
        assertInvalid({ _tag: "Unsubscribe", packetId, filters: ["a"], properties: undefined }, "packetId")
      }
    })

    it("refuses one at QoS 0 (PI-01b)", () => {
      assertInvalid(pub({ packetId: 1 }), "packetId")
    })
  })

  describe("properties", () => {
    it("writes no property on 3.1.1 (PR-07p)", () => {
      for (let seed = 1; seed <= 300; seed++) {
        const packet = clientPacket(new Random(seed), 5)
        if (packet._tag === "Auth") continue
        const fields = packet._tag === "Connect"
          ? { protocolVersion: 4, username: "u", clientId: "c" } as const
          : packet._tag === "Publish" && packet.topic === ""
          ? { topic: "t" }
          : packet._tag === "Puback" || packet._tag === "Pubrec" || packet._tag === "Disconnect"
          ? { reasonCode: 0 }
          : {}
        const rich = { ...packet, ...fields } as ClientPacket
        const bare = "properties" in rich ? { ...rich, properties: undefined } as ClientPacket : rich
        const barer = bare._tag === "Connect" && bare.will !== undefined
          ? { ...bare, will: { ...bare.will, properties: undefined } }
          : bare
        assert.strictEqual(hexOf(rich, 4), hexOf(barer, 4))
      }
    })

    it("refuses values out of range (CN-26p, CN-27p, PB-13b, SB-08p)", () => {
      const wrong: Partial<Record<keyof ConnectProperties, ReadonlyArray<unknown>>> = {
        sessionExpiryInterval: [-1, 4_294_967_296, 1.5],
        receiveMaximum: [0, 65_536, -1],
        maximumPacketSize: [0, 4_294_967_296],
        topicAliasMaximum: [-1, 65_536],
        requestResponseInformation: [1],
        requestProblemInformation: ["yes"]
      }
      for (const [key, values] of Object.entries(wrong)) {
        for (const value of values) assertInvalid({ ...connect, properties: { [key]: value } }, `properties.${key}`)
      }
      const wrongInPublish: Partial<Record<keyof PublishProperties, ReadonlyArray<unknown>>> = {
        payloadFormatIndicator: [2, true, -1],
        messageExpiryInterval: [-1, 4_294_967_296, 0.5, NaN],
        topicAlias: [0, 65_536, 1.5]
      }
      for (const [key, values] of Object.entries(wrongInPublish)) {
        for (const value of values) assertInvalid(pub({ properties: { [key]: value } }), `properties.${key}`)
      }
      for (const subscriptionIdentifier of [0, 268_435_456, 1.5]) {
        assertInvalid({ ...subscribe, properties: { subscriptionIdentifier } }, "properties.subscriptionIdentifier")
      }
    })

    it("takes the least and the most of each value (CN-26p)", () => {
      assert.include(hexOf({ ...connect, properties: { sessionExpiryInterval: 4_294_967_295 } }), "05 11 FF FF FF FF")
      for (const receiveMaximum of [1, 65_535]) {
        assert.isUndefined(encodeFault({ ...connect, properties: { receiveMaximum } }))
      }
      for (const topicAlias of [1, 65_535]) assert.isUndefined(encodeFault(pub({ properties: { topicAlias } })))
    })

    it("refuses those that only a server sends (PB-27c)", () => {
      assertInvalid(
        pub({ properties: { subscriptionIdentifiers: [1] } }),
        "properties.subscriptionIdentifiers"
      )
      assertInvalid(
        { _tag: "Disconnect", reasonCode: 0, properties: { serverReference: "s" } },
        "properties.serverReference"
      )
    })

    it("keeps the order and the repetitions of user properties (PB-21s)", () => {
      const userProperties = [["b", "1"], ["a", "2"], ["b", "1"], ["", ""]] as const
      assert.include(
        hexOf(pub({ properties: { userProperties } })),
        "26 00 01 62 00 01 31 26 00 01 61 00 01 32 26 00 01 62 00 01 31 26 00 00 00 00"
      )
      assertInvalid(pub({ properties: { userProperties: {} as never } }), "properties.userProperties")
      assertInvalid(pub({ properties: { userProperties: [undefined] as never } }), "properties.userProperties")
    })

    it("has a place on the wire for each property of each packet", () => {
      for (const [tag, ids] of Object.entries(Property.fromClient)) {
        assert.deepStrictEqual(ids.toSorted((a, b) => a - b), [...ids], tag)
      }
    })
  })

  describe("CONNECT", () => {
    it("sets the flag of each field that is there, and no other (CN-05c, CN-07c, CN-09c, CN-10c, CN-11c, CN-12c, CN-13c)", () => {
      const flags = (packet: Connect) => bytesOf(packet)[9]
      assert.strictEqual(flags({ ...connect, cleanStart: false }), 0x00)
      assert.strictEqual(flags(connect), 0x02)
      assert.strictEqual(flags({ ...connect, username: "" }), 0x82)
      assert.strictEqual(flags({ ...connect, password: none }), 0x42)
      assert.strictEqual(flags({ ...connect, will }), 0x06)
      assert.strictEqual(flags({ ...connect, will: { ...will, qos: 1 } }), 0x0e)
      assert.strictEqual(flags({ ...connect, will: { ...will, qos: 2, retain: true } }), 0x36)
      for (let seed = 1; seed <= 500; seed++) {
        const packet = clientPacket(new Random(seed), 5)
        if (packet._tag !== "Connect") continue
        const bytes = bytesOf(packet)
        const byte = bytes[1 + varintBytes(bytes.length).length + 7]
        assert.strictEqual(byte & 0x01, 0)
        if (packet.will === undefined) assert.strictEqual(byte & 0x3c, 0)
      }
    })

    it("writes empty fields that are there (CN-06c, CN-11c, CN-17c)", () => {
      assert.strictEqual(
        hexOf({ ...connect, clientId: "", username: "", password: none, will }),
        "10 17 00 04 4D 51 54 54 05 C6 00 3C 00 00 00 00 00 01 77 00 00 00 00 00 00"
      )
    })

    it("ends behind the client id where there is nothing more (CN-10c, CN-12c)", () => {
      assert.strictEqual(hexOf(connect), "10 0E 00 04 4D 51 54 54 05 02 00 3C 00 00 01 63")
    })

    it("takes a password without a user name on version 5 only (CN-14c)", () => {
      assert.strictEqual(bytesOf({ ...connect, password: none })[9], 0x42)
      assertInvalid(connect4({ password: none }), "password", 4)
    })

    it("takes an empty client id without a clean session on version 5 only (CN-20c)", () => {
      assert.isUndefined(encodeFault({ ...connect, clientId: "", cleanStart: false }))
      assertInvalid(connect4({ clientId: "", cleanStart: false }), "clientId", 4)
      assert.isUndefined(encodeFault(connect4({ clientId: "", cleanStart: true }), 4))
    })

    it("takes client ids longer than 23 bytes (CN-19s)", () => {
      assert.isUndefined(encodeFault({ ...connect, clientId: "c".repeat(200) }))
      assert.isUndefined(encodeFault(connect4({ clientId: "c".repeat(200) }), 4))
    })

    it("refuses a will that is no message (CN-08c, CN-23c, CN-25p)", () => {
      assertInvalid({ ...connect, will: { ...will, qos: 3 as 2 } }, "will.qos")
      for (const topic of ["", "a/#", "+", "a\0"]) {
        assertInvalid({ ...connect, will: { ...will, topic } }, "will.topic")
        assertInvalid(connect4({ will: { ...will, topic } }), "will.topic", 4)
      }
      const properties = { payloadFormatIndicator: 1 } as const
      const payload = Uint8Array.of(0xff)
      assertInvalid({ ...connect, will: { ...will, payload, properties } }, "will.payload")
    })

    it("refuses a keep alive that two bytes cannot hold", () => {
      for (const keepAlive of [-1, 65_536, 0.5]) assertInvalid({ ...connect, keepAlive }, "keepAlive")
      assert.include(hexOf({ ...connect, keepAlive: 65_535 }), "05 02 FF FF")
    })

    it("refuses authentication data without a method (CN-29p)", () => {
      assertInvalid({ ...connect, properties: { authenticationData: none } }, "properties.authenticationData")
    })

    it("refuses the version that the connection does not speak", () => {
      assertInvalid(connect, "protocolVersion", 4)
      assertInvalid(connect4(), "protocolVersion", 5)
    })
  })

  describe("PUBLISH", () => {
    it("refuses QoS 3, and DUP at QoS 0 (PB-02b, PB-04b)", () => {
      assertInvalid(pub({ qos: 3 as 2, packetId: 1 }), "qos")
      assertInvalid(pub({ dup: true }), "dup")
    })

    it("refuses topics that are no topic names (PB-06b, PB-07b, TP-04b)", () => {
      for (const topic of ["", "a/+", "#", "sport+", "é#"]) {
        assertInvalid(pub({ topic }), "topic")
        assertInvalid(pub({ topic }), "topic", 4)
      }
      for (const responseTopic of ["", "r/#", "+", "é+"]) {
        assertInvalid(pub({ properties: { responseTopic } }), "properties.responseTopic")
      }
    })

    it("takes an empty topic with an alias, on version 5 (PB-06b)", () => {
      const packet = pub({ topic: "", properties: { topicAlias: 7 } })
      assert.strictEqual(hexOf(packet), "30 06 00 00 03 23 00 07")
      assertInvalid(packet, "topic", 4)
    })

    it("takes topics that begin with $ (TP-09p)", () => {
      assert.strictEqual(hexOf(pub({ topic: "$a" })), "30 05 00 02 24 61 00")
    })

    it("refuses wildcards in the response topic (PB-19b)", () => {
      assertInvalid(pub({ properties: { responseTopic: "r/#" } }), "properties.responseTopic")
    })

    it("takes a payload that is said to be UTF-8 only where it is (PB-09p)", () => {
      const properties = { payloadFormatIndicator: 1 } as const
      assert.isUndefined(encodeFault(pub({ properties, payload: fromHex("C3 A9 00") })))
      for (const payload of [fromHex("FF"), fromHex("ED A0 80"), fromHex("C3")]) {
        assertInvalid(pub({ properties, payload }), "payload")
        assertInvalid(pub({ topic: "é", properties, payload }), "payload")
      }
    })

    it("takes an empty payload (PB-30p)", () => {
      assert.strictEqual(hexOf(publish), "30 04 00 01 74 00")
      assert.strictEqual(hexOf(publish, 4), "30 03 00 01 74")
    })
  })

  describe("reason codes", () => {
    it("are those that a client may send (QF-17b, QF-18b, QF-19b, QF-20b, DC-03b, AU-02b)", () => {
      for (const [tag, allowed] of Object.entries(ReasonCode.fromClient)) {
        const properties = tag === "Auth" ? { authenticationMethod: "m" } : undefined
        for (let reasonCode = -1; reasonCode <= 256; reasonCode++) {
          const packet = { _tag: tag, packetId: 1, reasonCode, properties } as ClientPacket
          if ((allowed as ReadonlyArray<number>).includes(reasonCode)) assert.isUndefined(encodeFault(packet))
          else assertInvalid(packet, "reasonCode")
        }
      }
    })

    it("are left out on 3.1.1 where that says the same, and refused where it would not (QF-14b, DC-11p)", () => {
      const ack = { packetId: 7, reasonCode: 0x92, properties: { reasonString: "r" } }
      assert.strictEqual(hexOf({ _tag: "Pubcomp", ...ack }, 4), "70 02 00 07")
      assert.strictEqual(hexOf({ _tag: "Pubrel", ...ack }, 4), "62 02 00 07")
      assertInvalid({ _tag: "Puback", ...ack, reasonCode: 0x97 }, "reasonCode", 4)
      assertInvalid({ _tag: "Pubrec", ...ack, reasonCode: 0x97 }, "reasonCode", 4)
      assertInvalid({ _tag: "Disconnect", reasonCode: 0x82, properties: undefined }, "reasonCode", 4)
    })
  })

  describe("SUBSCRIBE and UNSUBSCRIBE", () => {
    it("refuse an empty list (SB-03c, US-03c)", () => {
      assertInvalid({ ...subscribe, subscriptions: [] }, "subscriptions")
      assertInvalid({ _tag: "Unsubscribe", packetId: 1, filters: [], properties: undefined }, "filters")
    })

    it("refuse an empty filter (TP-04b)", () => {
      assertInvalid({ ...subscribe, subscriptions: [{ ...subscription, filter: "" }] }, "subscriptions[0].filter")
      assertInvalid({ _tag: "Unsubscribe", packetId: 1, filters: ["a", ""], properties: undefined }, "filters[1]")
    })

    it("refuse options out of range (SB-05c, SB-06p)", () => {
      const wrong = [["qos", 3], ["retainHandling", 3], ["retainHandling", -1]] as const
      for (const [key, value] of wrong) {
        const subscriptions = [subscription, { ...subscription, [key]: value }]
        assertInvalid({ ...subscribe, subscriptions }, `subscriptions[1].${key}`)
      }
    })

    it("refuse No Local on a shared subscription (SB-04c)", () => {
      const shared = { ...subscription, filter: "$share/g/t", noLocal: true }
      assertInvalid({ ...subscribe, subscriptions: [shared] }, "subscriptions[0].noLocal")
      assert.isUndefined(encodeFault({ ...subscribe, subscriptions: [{ ...shared, noLocal: false }] }))
    })

    it("sets the reserved bits of the options to 0 (SB-05c)", () => {
      for (let seed = 1; seed <= 500; seed++) {
        for (const version of [4, 5] as const) {
          const packet = clientPacket(new Random(seed), version)
          if (packet._tag !== "Subscribe") continue
          const byte = bytesOf({ ...packet, subscriptions: [packet.subscriptions[0]] }, version).at(-1) as number
          assert.strictEqual(byte & (version === 4 ? 0xfc : 0xc0), 0)
          assert.strictEqual(byte & 3, packet.subscriptions[0].qos)
        }
      }
    })
  })

  describe("AUTH", () => {
    it("carries a method, and is unknown to 3.1.1 (AU-01b, AU-14p)", () => {
      assertInvalid({ _tag: "Auth", reasonCode: 0x18, properties: undefined }, "properties.authenticationMethod")
      const properties = { authenticationMethod: "m" }
      assertInvalid({ _tag: "Auth", reasonCode: 0x18, properties }, "protocolVersion", 4)
    })
  })

  describe("bytes", () => {
    it("come in the order of encoding, each once", () => {
      const encoder = makeEncoder({ protocolVersion: 5 })
      const taken: Array<number> = []
      const expected: Array<number> = []
      for (let seed = 1; seed <= 1000; seed++) {
        const random = new Random(seed)
        const packet = clientPacket(random, 5)
        assert.isUndefined(encoder.encode(packet))
        expected.push(...bytesOf(packet))
        assert.strictEqual(encoder.size, expected.length - taken.length)
        if (random.bool(0.2)) taken.push(...encoder.take())
      }
      taken.push(...encoder.take())
      assert.deepStrictEqual(taken, expected)
      assert.strictEqual(encoder.take().length, 0)
      assert.strictEqual(encoder.size, 0)
    })

    it("are never written again once taken", () => {
      const encoder = makeEncoder({ protocolVersion: 5 })
      const views: Array<readonly [Uint8Array, string]> = []
      for (let i = 0; i < 500; i++) {
        const size = [10, 1000, 30_000, 70_000, 5][i % 5]
        encoder.encode(pub({ payload: new Uint8Array(size).fill(i) }))
        if (i % 3 === 0) encoder.encode(pub({ topic: "é", payload: new Uint8Array(size).fill(i) }))
        const view = encoder.take()
        views.push([view, digest(view)])
      }
      for (const [view, before] of views) assert.strictEqual(digest(view), before)
    })

    it("stay in one piece however many wait, and larger than any slab", () => {
      const encoder = makeEncoder({ protocolVersion: 5 })
      for (let i = 0; i < 3000; i++) encoder.encode(pub({ payload: new Uint8Array(1000).fill(i) }))
      encoder.encode(pub({ payload: new Uint8Array(3_000_000) }))
      const bytes = encoder.take()
      let packets = 0
      const decoder = makeDecoder(decoderOptions)
      assert.isUndefined(decoder.push(bytes, () => {
        packets++
        return undefined
      }))
      assert.strictEqual(packets, 3001)
    })

    it("do not show what a packet left that was refused", () => {
      const encoder = makeEncoder({ protocolVersion: 5 })
      // ASCII at first: the refusal comes in the middle of writing.
      encoder.encode(pub({ topic: "aaaa\ud800" }))
      encoder.encode(pub({ properties: { contentType: "aaaa", userProperties: [["a", "\ud800"]] } }))
      assert.strictEqual(encoder.size, 0)
      encoder.encode({ _tag: "Pingreq" })
      assert.strictEqual(toHex(encoder.take()), "C0 00")
    })
  })
})

const encodeFault = (packet: ClientPacket, version: ProtocolVersion = 5): EncodeFault | undefined =>
  makeEncoder({ protocolVersion: version }).encode(packet)

const decoderOptions = {
  protocolVersion: 5,
  maximumPacketSize: 268_435_460,
  topicAliasMaximum: 65_535,
  requestProblemInformation: true
} as const

const digest = (bytes: Uint8Array): string => `${bytes.length}:${bytes.reduce((sum, byte) => sum * 31 + byte | 0, 7)}`
