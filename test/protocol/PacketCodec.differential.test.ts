import { assert, describe, it } from "@effect/vitest"
import type { ProtocolVersion, Publish, ServerPacket } from "../../src/protocol/Packet.ts"
import { encodedSize, makeDecoder, makeEncoder } from "../../src/protocol/PacketCodec.ts"
import { readByMqttPacket, toMqttPacket, writeByMqttPacket } from "./support/MqttPacket.ts"
import { clientPacket, plain, Random, serverBytes, serverPacket } from "./support/PacketGenerator.ts"

const cases = 3000

/** The packet in these bytes, on a connection where the server has given its alias, if any, the topic `mapped`. */
const decodeOne = (bytes: Uint8Array, version: ProtocolVersion, expected: ServerPacket): unknown => {
  const packets: Array<ServerPacket> = []
  const decoder = makeDecoder({
    protocolVersion: version,
    maximumPacketSize: 268_435_460,
    topicAliasMaximum: 65_535,
    requestProblemInformation: true
  })
  const topicAlias = expected._tag === "Publish" ? expected.properties?.topicAlias : undefined
  if (topicAlias !== undefined) {
    const encoder = makeEncoder({ protocolVersion: 5 })
    encoder.encode({ ...mapping, properties: { topicAlias } })
    decoder.push(encoder.take(), () => undefined)
  }
  const fault = decoder.push(bytes, (packet) => {
    packets.push(packet)
    return undefined
  })
  return fault ?? (packets.length === 1 ? plain(packets[0]) : plain(packets))
}

const mapping: Publish = {
  _tag: "Publish",
  dup: false,
  qos: 0,
  retain: false,
  topic: "mapped",
  packetId: 0,
  payload: new Uint8Array(0),
  properties: undefined
}

/** What we give for a packet: the topic of an alias in place of none. */
const resolved = (packet: ServerPacket): unknown =>
  plain(packet._tag === "Publish" && packet.topic === "" ? { ...packet, topic: "mapped" } : packet)

describe("PacketCodec and mqtt-packet", () => {
  for (const version of [5, 4] as const) {
    it(`agree on what version ${version} clients send: we write, it reads`, () => {
      for (let seed = 1; seed <= cases; seed++) {
        const packet = clientPacket(new Random(seed), version)
        const encoder = makeEncoder({ protocolVersion: version })
        assert.isUndefined(encoder.encode(packet), `seed ${seed}`)
        const bytes = encoder.take()
        assert.strictEqual(bytes.length, encodedSize(packet, version), `seed ${seed}`)
        assert.deepStrictEqual(readByMqttPacket(bytes, version), plain(toMqttPacket(packet, version)), `seed ${seed}`)
      }
    })

    it(`agree on what version ${version} servers send: it writes, we read`, () => {
      for (let seed = 1; seed <= cases; seed++) {
        const packet = serverPacket(new Random(seed), version)
        const bytes = writeByMqttPacket(packet, version)
        assert.deepStrictEqual(decodeOne(bytes, version, packet), resolved(packet), `seed ${seed}`)
      }
    })

    it(`agree on what version ${version} servers send: both read`, () => {
      for (let seed = 1; seed <= cases; seed++) {
        const random = new Random(seed)
        const packet = serverPacket(random, version)
        const bytes = serverBytes(packet, version, random)
        assert.deepStrictEqual(decodeOne(bytes, version, packet), resolved(packet), `seed ${seed}`)
        // It goes by the one of the standard's two tables that lacks this code.
        if (packet._tag === "Disconnect" && packet.reasonCode === 0x8c) continue
        assert.deepStrictEqual(readByMqttPacket(bytes, version), plain(toMqttPacket(packet, version)), `seed ${seed}`)
      }
    })
  }
})
