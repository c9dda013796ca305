/**
 * What the codec allocates for each packet, from heap statistics: bytes on the JavaScript heap between two readings, in
 * runs that are short enough to need no garbage collection. `NOTES.md` says what to make of them.
 *
 *     node --expose-gc bench/allocations.ts
 */
import { Buffer } from "node:buffer"
import { GCProfiler } from "node:v8"
import mqttPacket from "mqtt-packet"
import type { ProtocolVersion, Publish, PublishProperties, ServerPacket } from "../src/protocol/Packet.ts"
import { makeDecoder, makeEncoder } from "../src/protocol/PacketCodec.ts"
import { naiveDecode } from "./naive.ts"

const count = 5000

const collect = (globalThis as { gc?: () => void }).gc
if (collect === undefined) throw new Error("run it with node --expose-gc")

const properties = (index: number): PublishProperties => ({
  messageExpiryInterval: 3600,
  userProperties: [["trace-id", String(index).padStart(16, "0")]],
  contentType: "application/json"
})

const makePackets = (topics: number, withProperties: boolean): ReadonlyArray<Publish> =>
  Array.from({ length: count }, (_, index): Publish => ({
    _tag: "Publish",
    dup: false,
    qos: 0,
    retain: false,
    topic: `factory/line-7/device/${String(index % topics).padStart(5, "0")}/temperature`.slice(0, 38),
    packetId: 0,
    payload: new Uint8Array(64),
    properties: withProperties ? properties(index) : undefined
  }))

const chunksOf = (packets: ReadonlyArray<Publish>, protocolVersion: ProtocolVersion): ReadonlyArray<Buffer> => {
  const encoder = makeEncoder({ protocolVersion })
  for (const packet of packets) encoder.encode(packet)
  const bytes = encoder.take()
  const chunks: Array<Buffer> = []
  for (let at = 0; at < bytes.length; at += 65_536) {
    const chunk = Buffer.allocUnsafeSlow(Math.min(65_536, bytes.length - at))
    chunk.set(bytes.subarray(at, at + chunk.length))
    chunks.push(chunk)
  }
  return chunks
}

/** Bytes per packet of a run, which tells its packets: the least of several: what is more than that is the machine's warming up. */
const measure = (run: () => number): number => {
  for (let i = 0; i < 200; i++) run()
  let least = Infinity
  for (let i = 0; i < 20; i++) {
    collect()
    const profiler = new GCProfiler()
    profiler.start()
    const before = process.memoryUsage().heapUsed
    const packets = run()
    const after = process.memoryUsage().heapUsed
    if (profiler.stop().statistics.length === 0) least = Math.min(least, (after - before) / packets)
  }
  return Math.round(least)
}

const decoderOptions = { maximumPacketSize: 1e6, topicAliasMaximum: 0, requestProblemInformation: true }

const report = (name: string, run: () => number): void => {
  console.log(`${name.padEnd(64)} ${String(measure(run)).padStart(6)} bytes per packet`)
}

/** One decoder for all runs of a case, as a connection has. */
const decodeCase = (name: string, protocolVersion: ProtocolVersion, topics: number, withProperties: boolean): void => {
  const chunks = chunksOf(makePackets(topics, withProperties), protocolVersion)
  const decoder = makeDecoder({ protocolVersion, ...decoderOptions })
  let packets = 0
  const counted = (run: () => void) => (): number => {
    packets = 0
    run()
    return packets
  }
  const onPacket = (packet: ServerPacket) => {
    if (packet._tag === "Publish") packets++
    return undefined
  }
  report(
    `decode ${name}: ours`,
    counted(() => {
      for (const chunk of chunks) decoder.push(chunk, onPacket)
    })
  )
  report(
    `decode ${name}: naive`,
    counted(() =>
      naiveDecode(chunks, protocolVersion, (packet) => {
        packets += packet.qos + 1
      })
    )
  )
  // It allocates so much that a run of all packets would be interrupted.
  const [few] = chunksOf(makePackets(topics, withProperties).slice(0, 300), protocolVersion)
  const parser = mqttPacket.parser({ protocolVersion })
  parser.on("packet", () => packets++)
  report(`decode ${name}: mqtt-packet`, counted(() => parser.parse(few)))
}

const encodeCase = (name: string, protocolVersion: ProtocolVersion, withProperties: boolean): void => {
  const packets = makePackets(64, withProperties)
  const encoder = makeEncoder({ protocolVersion })
  report(`encode ${name}: ours`, () => {
    for (const packet of packets) {
      encoder.encode(packet)
      if (encoder.size >= 65_536) encoder.take()
    }
    encoder.take()
    return packets.length
  })
}

console.log(`node ${process.version}, PUBLISH QoS 0 of 64 bytes, ${count} packets`)
decodeCase("v4", 4, 64, false)
decodeCase("v5, no properties", 5, 64, false)
decodeCase("v5, 3 properties", 5, 64, true)
decodeCase("v5, no properties, every topic new", 5, count, false)
encodeCase("v4", 4, false)
encodeCase("v5, 3 properties", 5, true)
