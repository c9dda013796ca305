/**
 * The codec against `mqtt-packet` and against a naive loop without checks, on PUBLISH.
 *
 *     node bench/codec.ts [--json] [--quick] [--filter <text>]
 *
 * All three see the same packets in the same process, in rounds that alternate; the median of the rounds counts. What the
 * numbers do not mean is said in README.md.
 */
import { Buffer } from "node:buffer"
import { parseArgs } from "node:util"
import mqttPacket from "mqtt-packet"
import type { ProtocolVersion, Publish, PublishProperties, QoS } from "../src/protocol/Packet.ts"
import { makeDecoder, makeEncoder } from "../src/protocol/PacketCodec.ts"
import { naiveDecode, NaiveEncoder } from "./naive.ts"

const { values: flags } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    quick: { type: "boolean", default: false },
    filter: { type: "string", default: "" }
  },
  allowPositionals: true
})

const chunkSize = 65536
const rounds = flags.quick ? 7 : 21
const roundNanos = 10e6

interface Scenario {
  readonly name: string
  readonly direction: "encode" | "decode"
  readonly version: ProtocolVersion
  readonly qos: QoS
  readonly size: number
  readonly properties: 0 | 3
  readonly topics: number
}

const scenarios: Array<Scenario> = []
for (const direction of ["decode", "encode"] as const) {
  const add = (version: ProtocolVersion, qos: QoS, size: number, properties: 0 | 3, topics: number) => {
    const kind = topics === 64 ? "" : `, ${topics} topics`
    const name = `${direction} v${version} QoS ${qos} ${size} B, ${properties} properties${kind}`
    scenarios.push({ name, direction, version, qos, size, properties, topics })
  }
  for (const qos of [0, 1] as const) {
    for (const size of [16, 64, 256, 4096]) {
      add(4, qos, size, 0, 64)
      add(5, qos, size, 0, 64)
      add(5, qos, size, 3, 64)
    }
  }
  // More names than any memory of names holds: each one is new.
  for (const size of [64, 256]) add(5, 0, size, 0, 20_000)
}

const makePackets = (scenario: Scenario): ReadonlyArray<Publish> => {
  const count = Math.max(scenario.topics, Math.min(2000, Math.ceil(1_000_000 / (scenario.size + 60))))
  // The shape that the decoder gives, and a value that no two messages share.
  const properties = (index: number): PublishProperties => ({
    payloadFormatIndicator: undefined,
    messageExpiryInterval: 3600,
    topicAlias: undefined,
    responseTopic: undefined,
    correlationData: undefined,
    userProperties: [["trace-id", (0x4bf92f35 + index * 7919).toString(16).padStart(16, "0")]],
    subscriptionIdentifiers: undefined,
    contentType: "application/json"
  })
  return Array.from({ length: count }, (_, index): Publish => {
    const device = String(index % scenario.topics).padStart(5, "0")
    return {
      _tag: "Publish",
      dup: false,
      qos: scenario.qos,
      retain: false,
      topic: `factory/line-7/device/${device}/temperature`.slice(0, 38),
      packetId: scenario.qos === 0 ? 0 : index % 65_535 + 1,
      payload: new Uint8Array(scenario.size).fill(0x20 + index % 90),
      properties: scenario.properties === 0 ? undefined : properties(index)
    }
  })
}

const encodeAll = (packets: ReadonlyArray<Publish>, version: ProtocolVersion): Uint8Array => {
  const encoder = makeEncoder({ protocolVersion: version })
  for (const packet of packets) encoder.encode(packet)
  return encoder.take()
}

/** Chunks as a socket gives them: a buffer of its own for each. */
const chunksOf = (bytes: Uint8Array): ReadonlyArray<Buffer> => {
  const chunks: Array<Buffer> = []
  for (let at = 0; at < bytes.length; at += chunkSize) {
    const chunk = Buffer.allocUnsafeSlow(Math.min(chunkSize, bytes.length - at))
    chunk.set(bytes.subarray(at, at + chunk.length))
    chunks.push(chunk)
  }
  return chunks
}

type Run = () => number

const decoders = (scenario: Scenario): Readonly<Record<string, Run>> => {
  const chunks = chunksOf(encodeAll(makePackets(scenario), scenario.version))
  return {
    ours: () => {
      let sum = 0
      const decoder = makeDecoder({
        protocolVersion: scenario.version,
        maximumPacketSize: 16_777_216,
        topicAliasMaximum: 0,
        requestProblemInformation: true
      })
      for (const chunk of chunks) {
        const fault = decoder.push(chunk, (packet) => {
          if (packet._tag === "Publish") sum += packet.payload.length + packet.topic.length
          return undefined
        })
        if (fault !== undefined) throw new Error(JSON.stringify(fault))
      }
      return sum
    },
    "mqtt-packet": () => {
      let sum = 0
      const parser = mqttPacket.parser({ protocolVersion: scenario.version })
      parser.on("packet", (packet) => {
        if (packet.cmd === "publish") sum += packet.payload.length + packet.topic.length
      })
      for (const chunk of chunks) parser.parse(chunk)
      return sum
    },
    naive: () => {
      let sum = 0
      naiveDecode(chunks, scenario.version, (packet) => {
        sum += packet.payload.length + packet.topic.length
      })
      return sum
    }
  }
}

const encoders = (scenario: Scenario): Readonly<Record<string, Run>> => {
  const packets = makePackets(scenario)
  const theirs = packets.map((packet) => toMqttPacket(packet))
  const options = { protocolVersion: scenario.version }
  const encoder = makeEncoder({ protocolVersion: scenario.version })
  const naive = new NaiveEncoder(scenario.version)
  return {
    ours: () => {
      let sum = 0
      for (let i = 0; i < packets.length; i++) {
        if (encoder.encode(packets[i]) !== undefined) throw new Error("refused")
        if (encoder.size >= chunkSize) sum += encoder.take().length
      }
      return sum + encoder.take().length
    },
    "mqtt-packet": () => {
      let sum = 0
      for (let i = 0; i < theirs.length; i++) sum += mqttPacket.generate(theirs[i], options).length
      return sum
    },
    "mqtt-packet (writeToStream)": () => {
      let sum = 0
      const sink = {
        write: (bytes: Uint8Array) => {
          sum += bytes.length
          return true
        },
        destroy: (error: Error) => {
          throw error
        }
      }
      for (let i = 0; i < theirs.length; i++) mqttPacket.writeToStream(theirs[i], sink as never, options)
      return sum
    },
    naive: () => {
      let sum = 0
      for (let i = 0; i < packets.length; i++) {
        naive.encode(packets[i])
        if (naive.size >= chunkSize) sum += naive.take().length
      }
      return sum + naive.take().length
    }
  }
}

const toMqttPacket = (packet: Publish): mqttPacket.IPublishPacket => {
  const properties = packet.properties === undefined ? {} : {
    properties: {
      messageExpiryInterval: packet.properties.messageExpiryInterval as number,
      contentType: packet.properties.contentType as string,
      userProperties: Object.fromEntries(packet.properties.userProperties ?? [])
    }
  }
  return {
    cmd: "publish",
    topic: packet.topic,
    payload: Buffer.from(packet.payload),
    qos: packet.qos,
    dup: false,
    retain: false,
    ...packet.qos === 0 ? {} : { messageId: packet.packetId },
    ...properties
  }
}

const median = (values: ReadonlyArray<number>): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]

/** Nanoseconds of CPU time of all threads, the garbage collector's among them; a busy machine changes them little. */
const time = (run: Run, repeats: number): number => {
  const start = process.cpuUsage()
  for (let i = 0; i < repeats; i++) run()
  const { system, user } = process.cpuUsage(start)
  return (system + user) * 1000
}

interface Result {
  readonly nanos: number
  /** Of the peer's time to ours, round by round. */
  readonly ratio: number
}

/** Medians of rounds in which all peers take turns, the first of them at random. */
const measure = (scenario: Scenario): ReadonlyMap<string, Result> => {
  const packets = makePackets(scenario).length
  const runs = Object.entries(scenario.direction === "decode" ? decoders(scenario) : encoders(scenario))
  const sums = new Set(runs.map(([, run]) => run()))
  if (sums.size !== 1) throw new Error(`${scenario.name}: the peers disagree: ${[...sums]}`)
  const repeats = runs.map(([, run]) => {
    for (let i = 0; i < 5; i++) run()
    return Math.max(1, Math.round(roundNanos / Math.max(1000, time(run, 3) / 3)))
  })
  const times = runs.map((): Array<number> => [])
  for (let round = 0; round < rounds; round++) {
    const offset = Math.floor(Math.random() * runs.length)
    for (let i = 0; i < runs.length; i++) {
      const turn = (i + offset) % runs.length
      times[turn].push(time(runs[turn][1], repeats[turn]) / repeats[turn] / packets)
    }
  }
  const [ours] = times
  return new Map(runs.map(([name], index) => [name, {
    nanos: median(times[index]),
    ratio: median(times[index].map((nanos, round) => nanos / ours[round]))
  }]))
}

const selected = scenarios.filter((scenario) => scenario.name.includes(flags.filter))
if (!flags.json) {
  console.log(
    `node ${process.version}, medians of ${rounds} interleaved rounds; ns per packet, and peer time / our time`
  )
}
for (const scenario of selected) {
  const { ours, ...peers } = Object.fromEntries(measure(scenario))
  if (flags.json) {
    for (const [peer, { nanos, ratio }] of Object.entries(peers)) {
      console.log(JSON.stringify({
        scenario: scenario.name,
        peer,
        ratio: Number(ratio.toFixed(3)),
        oursNanos: Math.round(ours.nanos),
        peerNanos: Math.round(nanos)
      }))
    }
  } else {
    const columns = Object.entries(peers).map(([peer, { nanos, ratio }]) =>
      `${peer} ${nanos.toFixed(0).padStart(5)} (${ratio.toFixed(2)})`
    )
    console.log(`${scenario.name.padEnd(50)} ours ${ours.nanos.toFixed(0).padStart(5)}   ${columns.join("   ")}`)
  }
}
