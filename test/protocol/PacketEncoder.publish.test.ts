import { Buffer } from "node:buffer"
import { assert, describe, it } from "@effect/vitest"
import type { Ack, ProtocolVersion, Publish, PublishProperties, QoS } from "../../src/protocol/Packet.ts"
import { encodedSize, makeEncoder } from "../../src/protocol/PacketCodec.ts"
import type { EncodeFault, Encoder } from "../../src/protocol/PacketCodec.ts"
import * as PackedAck from "../../src/protocol/PackedAck.ts"
import type { PublishFields } from "../../src/protocol/PublishWriter.ts"
import * as ReasonCode from "../../src/protocol/ReasonCode.ts"
import { clientPacket, fromHex, plain, Random, stringBytes, toHex } from "./support/PacketGenerator.ts"

const versions = [4, 5] as const

const toPacket = (
  { payload, qos, retain, topic }: PublishFields,
  properties: PublishProperties | undefined,
  packetId: number
): Publish => ({ _tag: "Publish", dup: false, qos, retain, topic, packetId, payload, properties })

/** What is appended behind a PINGREQ, and what is said. */
const appended = (
  version: ProtocolVersion,
  limit: number,
  append: (encoder: Encoder) => EncodeFault | undefined
): { readonly bytes: string; readonly fault: unknown } => {
  const encoder = makeEncoder({ protocolVersion: version })
  encoder.encode({ _tag: "Pingreq" })
  encoder.maximumPacketSize = limit
  const fault = append(encoder)
  // Nothing that was given up lies in the way of what comes next.
  encoder.maximumPacketSize = Infinity
  encoder.encode({ _tag: "Pingreq" })
  const bytes = encoder.take()
  const hex = Buffer.from(bytes).toString("hex")
  if (fault !== undefined) assert.strictEqual(hex, "c000c000")
  return { bytes: hex, fault: plain(fault) }
}

/** The message and the packet that is equal to it are the same bytes, or the same fault. */
const assertSame = (
  message: PublishFields,
  properties: PublishProperties | undefined,
  packetId: number,
  version: ProtocolVersion,
  limit = Infinity
): unknown => {
  const expected = appended(version, limit, (encoder) => encoder.encode(toPacket(message, properties, packetId)))
  const actual = appended(version, limit, (encoder) => encoder.publish(message, properties, packetId))
  if (actual.bytes !== expected.bytes || actual.fault !== undefined || expected.fault !== undefined) {
    assert.deepStrictEqual(actual, expected, JSON.stringify(plain({ message, properties, packetId, version, limit })))
  }
  return expected.fault
}

/** The message with its topic as it is written. */
const known = (message: PublishFields): PublishFields => ({
  ...message,
  encodedTopic: Uint8Array.from(stringBytes(message.topic))
})

const randomPublish = (random: Random, version: ProtocolVersion): Publish => {
  for (;;) {
    const packet = clientPacket(random, version)
    if (packet._tag === "Publish") return packet
  }
}

const short: PublishFields = { topic: "t", payload: Uint8Array.of(9), qos: 1, retain: false }

describe("PacketEncoder", () => {
  describe("publish", () => {
    it("gives the bytes of the standard for a topic that is known, at every quality of service (PB-01b)", () => {
      for (
        const [qos, retain, version, expected] of [
          [0, false, 4, "30 04 00 01 74 09"],
          [0, true, 5, "31 05 00 01 74 00 09"],
          [1, false, 4, "32 06 00 01 74 12 34 09"],
          [1, true, 5, "33 07 00 01 74 12 34 00 09"],
          [2, false, 5, "34 07 00 01 74 12 34 00 09"]
        ] as const
      ) {
        const encoder = makeEncoder({ protocolVersion: version })
        const message = known({ ...short, qos, retain })
        assert.isUndefined(encoder.publish(message, undefined, qos === 0 ? 0 : 0x1234))
        assert.strictEqual(toHex(encoder.take()), expected)
      }
    })

    for (const version of versions) {
      it(`is as encode is of the equal packet, for random messages and limits (MQTT ${version})`, () => {
        const random = new Random(version)
        let plainOnes = 0
        let tooLarge = 0
        for (let run = 0; run < 1500; run++) {
          const { packetId, payload, properties: some, qos, retain, topic } = randomPublish(random, version)
          const properties = random.bool() ? undefined : some
          const bare: PublishFields = {
            topic: topic === "" && properties === undefined ? "t" : topic,
            payload,
            qos,
            retain
          }
          const message = bare.topic !== "" && random.bool() ? known(bare) : bare
          if (message.encodedTopic !== undefined && properties === undefined) plainOnes++
          const size = encodedSize(toPacket(message, properties, packetId), version)
          const limit = random.pick([Infinity, size - 1, size, size + 1])
          const fault = assertSame(message, properties, packetId, version, limit)
          if (limit < size) {
            assert.deepInclude(fault as EncodeFault, { _tag: "TooLarge" })
            tooLarge++
          }
        }
        assert.isAbove(plainOnes, 150)
        assert.isAbove(tooLarge, 150)
      })

      it(`writes the length right where it takes one byte more (MQTT ${version})`, () => {
        for (const border of [127, 128, 16_383, 16_384]) {
          for (const qos of [0, 1, 2] as const) {
            for (const isKnown of [false, true]) {
              const head = 3 + (qos === 0 ? 0 : 2) + (version === 5 ? 1 : 0)
              for (const body of [border - 1, border, border + 1]) {
                const payload = new Uint8Array(body - head).fill(7)
                const message = { topic: "t", payload, qos, retain: false }
                const size = body + (body < 128 ? 2 : body < 16_384 ? 3 : 4)
                const id = qos === 0 ? 0 : 65_535
                for (const limit of [Infinity, size, size - 1]) {
                  const fault = assertSame(isKnown ? known(message) : message, undefined, id, version, limit)
                  assert.strictEqual(fault !== undefined, limit < size)
                }
              }
            }
          }
        }
      })
    }

    it("finds the same faults in what cannot be sent, and appends nothing", () => {
      const faulty: ReadonlyArray<readonly [Partial<PublishFields>, PublishProperties | undefined, number]> = [
        [{ topic: "" }, undefined, 1],
        [{ topic: "a/+" }, undefined, 1],
        [{ topic: "#" }, undefined, 1],
        [{ topic: "a\0" }, undefined, 1],
        [{ topic: "\uD800" }, undefined, 1],
        [{ topic: "a".repeat(65_536) }, undefined, 1],
        [{}, undefined, 0],
        [{}, undefined, 65_536],
        [{}, undefined, 1.5],
        [{}, undefined, -1],
        [{ qos: 0 }, undefined, 1],
        [{ qos: 3 as QoS }, undefined, 1],
        [{}, { contentType: "\0" }, 1],
        [{}, { responseTopic: "#" }, 1],
        [{}, { messageExpiryInterval: -1 }, 1],
        [{}, { topicAlias: 0 }, 1],
        [{}, { payloadFormatIndicator: 2 as 1 }, 1],
        [{ payload: Uint8Array.of(0xff) }, { payloadFormatIndicator: 1 }, 1],
        [{}, { userProperties: [["a", "\uDC00"]] }, 1]
      ]
      for (const [fields, properties, id] of faulty) {
        assert.isDefined(
          assertSame({ ...short, ...fields }, properties, id, 5),
          JSON.stringify([fields, properties, id])
        )
      }
      for (const [fields, properties, id] of faulty.slice(0, 12)) {
        assert.isDefined(assertSame({ ...short, ...fields }, properties, id, 4), JSON.stringify([fields, id]))
      }
    })

    it("goes on in one piece behind what was not taken, however much it outgrows its memory", () => {
      const random = new Random(3)
      const one = makeEncoder({ protocolVersion: 5 })
      const other = makeEncoder({ protocolVersion: 5 })
      const message = known({ topic: "grow", payload: new Uint8Array(0), qos: 2, retain: true })
      for (let run = 0; run < 400; run++) {
        const payload = random.bytes(random.pick([0, 5, 125, 1000, 3000]))
        const id = random.int(1, 65_535)
        assert.isUndefined(one.publish({ ...message, payload }, undefined, id))
        assert.isUndefined(other.encode(toPacket({ ...message, payload }, undefined, id)))
        if (random.bool(0.05)) assert.isTrue(isEqual(one.take(), other.take()))
      }
      assert.isTrue(isEqual(one.take(), other.take()))
    })
  })

  describe("acknowledge", () => {
    const tags: ReadonlyArray<Ack["_tag"]> = ["Puback", "Pubrec", "Pubrel", "Pubcomp"]

    it("gives the shortest form where there is nothing to say", () => {
      for (const [tag, first] of [["Puback", "40"], ["Pubrec", "50"], ["Pubrel", "62"], ["Pubcomp", "70"]] as const) {
        for (const version of versions) {
          const encoder = makeEncoder({ protocolVersion: version })
          assert.isUndefined(encoder.acknowledge(tag, 0x1234, 0))
          assert.strictEqual(toHex(encoder.take()), toHex(fromHex(`${first} 02 12 34`)))
        }
      }
    })

    it("says why where there is a reason (MQTT 5.0 §3.4.2.1)", () => {
      for (
        const [tag, code, hex] of [["Puback", 0x87, "40 03 12 34 87"], ["Pubrel", 0x92, "62 03 12 34 92"]] as const
      ) {
        const encoder = makeEncoder({ protocolVersion: 5 })
        assert.isUndefined(encoder.acknowledge(tag, 0x1234, code))
        assert.strictEqual(toHex(encoder.take()), hex)
      }
    })

    it("is as encode is of the equal packet: bytes, limits and faults", () => {
      let faults = 0
      for (const version of versions) {
        for (const tag of tags) {
          for (const packetId of [1, 255, 256, 65_535, 0, 65_536, -1, 1.5, Number.NaN]) {
            for (const reasonCode of [0, 0x01, ...ReasonCode.fromClient[tag].slice(-2), 256, -1]) {
              for (const limit of [Infinity, 3, 4, 5, 6]) {
                const packet: Ack = { _tag: tag, packetId, reasonCode, properties: undefined }
                const expected = appended(version, limit, (encoder) => encoder.encode(packet))
                const actual = appended(version, limit, (encoder) => encoder.acknowledge(tag, packetId, reasonCode))
                assert.deepStrictEqual(actual, expected, JSON.stringify([version, tag, packetId, reasonCode, limit]))
                const isId = packetId >= 1 && packetId <= 65_535 && Number.isInteger(packetId)
                if (!isId || limit < 4) assert.isDefined(actual.fault)
                if (actual.fault !== undefined) faults++
              }
            }
          }
        }
      }
      assert.isAbove(faults, 500)
    })

    it("takes many at once, up to one that is at fault", () => {
      let faults = 0
      for (let seed = 0; seed < 300; seed++) {
        const random = new Random(seed)
        const version = random.pick(versions)
        const limit = random.pick([Infinity, Infinity, 4, 3])
        const acks = Array.from({ length: random.int(0, 40) }, () => {
          const packetId = random.int(0, 60) === 0 ? 0 : random.int(1, 65_535)
          return PackedAck.make(random.pick([4, 5, 6, 7]), packetId, random.pick([0, 0, 0, 0x92]))
        })
        const [many, single] = [makeEncoder({ protocolVersion: version }), makeEncoder({ protocolVersion: version })]
        many.maximumPacketSize = limit
        single.maximumPacketSize = limit
        let expected: EncodeFault | undefined
        for (const ack of acks) {
          const [tag, id, code] = [PackedAck.tagOf(ack), PackedAck.packetIdOf(ack), PackedAck.reasonCodeOf(ack)]
          expected ??= single.acknowledge(tag, id, code)
        }
        assert.deepStrictEqual(plain(many.acknowledgeAll(acks)), plain(expected), `seed ${seed}`)
        assert.strictEqual(toHex(many.take()), toHex(single.take()), `seed ${seed}`)
        if (expected !== undefined) faults++
      }
      assert.isAbove(faults, 50)
    })
  })
})

const isEqual = (a: Uint8Array, b: Uint8Array): boolean =>
  a.length === b.length && a.every((byte, index) => byte === b[index])
