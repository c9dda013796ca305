/**
 * Feeds the codec with valid, mutated and random frames, and tells whether it ever crashes, hangs, reads over an edge,
 * or reserves memory that nothing was sent for.
 *
 *     node scripts/fuzz.ts [--frames 2000000] [--seed 1] [--from 0]
 *
 * Each frame depends on the seed and its own number alone, so that `--from` goes on with a run, or repeats its failure.
 * Prints one line of summary. The exit code is 1 on the first failure.
 */
import { parseArgs } from "node:util"
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads"
import type { ClientPacket, ProtocolVersion, ServerPacket } from "../src/protocol/Packet.ts"
import { encodedSize, makeDecoder, makeEncoder } from "../src/protocol/PacketCodec.ts"
import type { Decoder, DecoderOptions } from "../src/protocol/PacketCodec.ts"
import type * as ProtocolFault from "../src/protocol/ProtocolFault.ts"
import {
  clientPacket,
  frame,
  plain,
  Random,
  serverBytes,
  serverPacket,
  toHex,
  varintBytes
} from "../test/protocol/support/PacketGenerator.ts"

interface Run {
  readonly frames: number
  readonly seed: number
  readonly from: number
}

interface Counts {
  readonly frame: number
  readonly packets: number
  readonly faults: number
  readonly unfinished: number
  readonly refused: number
}

/** No frame takes a thousandth of this, so past it the worker hangs. */
const patienceMillis = 20_000

/** What all decoders together may hold at any time, most of which is the generator's. */
const memoryLimit = 512 * 1024 * 1024

// ---------------------------------------------------------------------------
// one frame
// ---------------------------------------------------------------------------

interface Outcome {
  readonly packets: ReadonlyArray<ServerPacket>
  readonly fault: ProtocolFault.ProtocolFault | undefined
}

const decode = (chunks: ReadonlyArray<Uint8Array>, options: DecoderOptions): Outcome => {
  const decoder = makeDecoder(options)
  const packets: Array<ServerPacket> = []
  const onPacket = (packet: ServerPacket) => {
    packets.push(packet)
    return undefined
  }
  let fault: ProtocolFault.ProtocolFault | undefined
  for (const chunk of chunks) {
    const next = decoder.push(chunk, onPacket)
    if (fault !== undefined && next !== fault) throw new Error("a fault did not stay")
    fault = next
  }
  return { packets, fault }
}

const optionsOf = (random: Random, protocolVersion: ProtocolVersion): DecoderOptions => ({
  protocolVersion,
  maximumPacketSize: random.pick([16, 128, 4096, 1_000_000, 268_435_460, 268_435_460]),
  topicAliasMaximum: random.pick([0, 2, 65_535]),
  requestProblemInformation: random.bool(0.8)
})

const firstBytes = [0x20, 0x30, 0x31, 0x32, 0x34, 0x3d, 0x40, 0x50, 0x62, 0x70, 0x90, 0xb0, 0xd0, 0xe0, 0xf0]

const mutations: ReadonlyArray<(random: Random, bytes: Uint8Array) => Uint8Array> = [
  // A bit, or a byte, or a few.
  (random, bytes) => {
    const mutated = Uint8Array.from(bytes)
    for (let i = random.int(1, 3); i > 0; i--) mutated[random.int(0, bytes.length - 1)] ^= 1 << random.int(0, 7)
    return mutated
  },
  (random, bytes) => {
    const mutated = Uint8Array.from(bytes)
    for (let i = random.int(1, 4); i > 0; i--) {
      mutated[random.int(0, bytes.length - 1)] = random.pick([0, 1, 0x7f, 0x80, 0xff, random.int(0, 255)])
    }
    return mutated
  },
  // A length that is one too many or too few: most lengths stand near the beginning.
  (random, bytes) => {
    const mutated = Uint8Array.from(bytes)
    mutated[random.int(0, Math.min(bytes.length - 1, random.pick([3, 3, 8, 1000])))] += random.pick([1, -1])
    return mutated
  },
  // A cut, a tail, a hole, a repetition.
  (random, bytes) => bytes.slice(0, random.int(0, bytes.length)),
  (random, bytes) => Uint8Array.from([...bytes, ...random.bytes(random.int(1, 8))]),
  (random, bytes) => {
    const at = random.int(0, bytes.length)
    return Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(at + random.int(1, 4))])
  },
  (random, bytes) => {
    const at = random.int(0, bytes.length)
    const part = bytes.subarray(at, at + random.int(1, 8))
    return Uint8Array.from([...bytes.subarray(0, at), ...part, ...part, ...bytes.subarray(at + part.length)])
  },
  // Another body length, with the body as it was; a huge one.
  (random, bytes) => {
    const headSize = 1 + varintBytes(Math.max(0, bytes.length - 2)).length
    return frame(bytes[0], [...bytes.subarray(headSize, headSize + random.int(0, bytes.length)), ...random.bytes(2)])
  },
  (random, bytes) => Uint8Array.from([bytes[0], 0xff, 0xff, 0xff, random.int(0, 255), ...bytes.subarray(2)])
]

const bytesOf = (random: Random, version: ProtocolVersion): Uint8Array => {
  const valid = () => serverBytes(serverPacket(random, version), version, random)
  switch (random.int(0, 9)) {
    case 0:
      return random.bytes(random.int(1, 40))
    case 1:
    case 2:
      return frame(random.pick(firstBytes), [...random.bytes(random.int(0, 40))])
    case 3:
      return Uint8Array.from([...valid(), ...random.pick(mutations)(random, valid()), ...valid()])
    default: {
      let bytes = valid()
      for (let i = random.int(1, 2); i > 0 && bytes.length > 0; i--) bytes = random.pick(mutations)(random, bytes)
      return bytes
    }
  }
}

/** Each chunk in a buffer of its own, so that there is nothing behind its last byte. */
const cut = (random: Random, bytes: Uint8Array): ReadonlyArray<Uint8Array> => {
  const chunks: Array<Uint8Array> = []
  const most = random.pick([1, 3, 20, bytes.length])
  for (let at = 0; at < bytes.length;) {
    const size = random.int(most === 1 ? 1 : 0, most)
    chunks.push(bytes.slice(at, at + size))
    at += size
  }
  return chunks
}

/** The bytes in the middle of others. */
const surround = (bytes: Uint8Array, poison: number): Uint8Array => {
  const buffer = new Uint8Array(bytes.length + 32).fill(poison)
  buffer.set(bytes, 16)
  return buffer.subarray(16, 16 + bytes.length)
}

const isInside = (view: Uint8Array, bytes: Uint8Array): boolean =>
  view.length === 0 || view.buffer !== bytes.buffer ||
  view.byteOffset >= bytes.byteOffset && view.byteOffset + view.length <= bytes.byteOffset + bytes.length

const checkViews = (outcome: Outcome, bytes: Uint8Array): void => {
  for (const packet of outcome.packets) {
    if (packet._tag !== "Publish") continue
    const views = [packet.payload, packet.properties?.correlationData ?? packet.payload]
    if (!views.every((view) => isInside(view, bytes))) throw new Error("a view sticks out of its chunk")
  }
}

const checkFault = (fault: ProtocolFault.ProtocolFault): void => {
  if (![0x81, 0x82, 0x94, 0x95].includes(fault.reasonCode)) throw new Error(`reason code ${fault.reasonCode}`)
  if (fault.packet === "" || fault.field === "" || fault.rule === "") throw new Error("a fault without words")
}

const same = (a: unknown, b: unknown): boolean => JSON.stringify(plain(a)) === JSON.stringify(plain(b))

/** Bytes that may be anything: the same answer in one piece and in many, whatever lies around them. */
const fuzzBytes = (random: Random, version: ProtocolVersion): Outcome => {
  const options = optionsOf(random, version)
  const bytes = bytesOf(random, version)
  const chunk = surround(bytes, 0x61)
  const whole = decode([chunk], options)
  checkViews(whole, chunk)
  if (whole.fault !== undefined) checkFault(whole.fault)
  if (!same(decode([surround(bytes, 0xff)], options), whole)) throw new Error(`reads over an edge: ${toHex(bytes)}`)
  if (!same(decode(cut(random, bytes), options), whole)) throw new Error(`depends on chunks: ${toHex(bytes)}`)
  return whole
}

/** A valid packet comes out as it went in. */
const fuzzValid = (random: Random, version: ProtocolVersion): Outcome => {
  const made = serverPacket(random, version)
  const packet = made._tag === "Publish" && made.topic === "" ? { ...made, topic: "t" } : made
  const bytes = serverBytes(packet, version, random)
  const options = {
    protocolVersion: version,
    maximumPacketSize: bytes.length,
    topicAliasMaximum: 65_535,
    requestProblemInformation: true
  }
  const outcome = decode(cut(random, bytes), options)
  if (!same(outcome, { packets: [packet], fault: undefined })) throw new Error(`is not read back: ${toHex(bytes)}`)
  return outcome
}

const nastyStrings = [
  "\ud800",
  "\udc00x",
  "a\0b",
  "",
  "#",
  "a".repeat(65_536),
  "é".repeat(32_768),
  "é",
  "a".repeat(300)
]
const nastyNumbers = [-1, 0, 0.5, NaN, Infinity, 3, 255, 256, 65_535, 65_536, 268_435_456, 4_294_967_295, 4_294_967_296]

/** The packet with one of its leaves replaced by something that it may not be able to hold. */
const spoil = (random: Random, value: unknown): unknown => {
  if (typeof value === "string") return random.pick(nastyStrings)
  if (typeof value === "number") return random.pick(nastyNumbers)
  if (value instanceof Uint8Array) return new Uint8Array(random.pick([0, 65_535, 65_536]))
  if (Array.isArray(value)) {
    if (value.length === 0 || random.bool(0.1)) return []
    const at = random.int(0, value.length - 1)
    return value.with(at, spoil(random, value[at]))
  }
  if (typeof value !== "object" || value === null) return value
  const keys = Object.keys(value).filter((key) =>
    key !== "_tag" && (value as Record<string, unknown>)[key] !== undefined
  )
  if (keys.length === 0) return value
  const key = random.pick(keys)
  return { ...value, [key]: spoil(random, (value as Record<string, unknown>)[key]) }
}

/** A packet is refused, and leaves nothing; or it takes exactly the bytes that were foretold. */
const fuzzEncoder = (random: Random, version: ProtocolVersion): boolean => {
  const made = clientPacket(random, version)
  const packet = random.bool(0.3) ? made : spoil(random, made) as ClientPacket
  const encoder = makeEncoder({ protocolVersion: version })
  encoder.encode({ _tag: "Pingreq" })
  const fault = encoder.encode(packet)
  if (packet === made && fault !== undefined) throw new Error(`refuses a valid packet: ${JSON.stringify(fault)}`)
  const size = fault === undefined ? encodedSize(packet, version) : 0
  if (encoder.size !== 2 + size) throw new Error(`has ${encoder.size - 2} bytes in place of ${size}`)
  const bytes = encoder.take().subarray(2)
  if (fault === undefined && packet._tag === "Publish" && packet.topic !== "") {
    const options = {
      protocolVersion: version,
      maximumPacketSize: size,
      topicAliasMaximum: 65_535,
      requestProblemInformation: true
    }
    const expected = version === 5 ? packet : { ...packet, properties: undefined }
    const [read] = decode([bytes], options).packets
    const known = packet.properties !== undefined && Object.keys(plain(packet.properties) as object).length === 0
      ? { ...expected, properties: undefined }
      : expected
    if (!same(read, withoutEmptyLists(known))) throw new Error(`writes what it does not read: ${toHex(bytes)}`)
  }
  return fault !== undefined
}

/** An empty list of user properties is no property on the wire. */
const withoutEmptyLists = (packet: ClientPacket): ClientPacket => {
  if (packet._tag !== "Publish" || packet.properties?.userProperties?.length !== 0) return packet
  const properties = { ...packet.properties, userProperties: undefined }
  return { ...packet, properties: Object.keys(plain(properties) as object).length === 0 ? undefined : properties }
}

// ---------------------------------------------------------------------------
// the run
// ---------------------------------------------------------------------------

/** Decoders that stay, each in the middle of a frame that announced as much as can be. */
class Hostages {
  private readonly decoders: Array<Decoder> = []

  add(random: Random): void {
    const decoder = makeDecoder({
      protocolVersion: 5,
      maximumPacketSize: 268_435_460,
      topicAliasMaximum: 0,
      requestProblemInformation: true
    })
    const fault = decoder.push(Uint8Array.of(0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1, 0x61, 0), () => undefined)
    if (fault !== undefined) throw new Error("refuses a frame of the largest size")
    this.decoders[random.int(0, 255)] = decoder
  }
}

const work = (run: Run, report: (counts: Counts) => void): void => {
  const hostages = new Hostages()
  let packets = 0
  let faults = 0
  let unfinished = 0
  let refused = 0
  for (let number = run.from; number < run.frames; number++) {
    const random = new Random(Math.imul(run.seed, 0x9e3779b1) ^ Math.imul(number + 1, 0x85ebca6b))
    const version = random.bool(0.75) ? 5 : 4
    try {
      const kind = random.int(0, 9)
      if (kind === 0) {
        if (fuzzEncoder(random, version)) refused++
        else packets++
      } else {
        const { fault, packets: decoded } = kind < 3 ? fuzzValid(random, version) : fuzzBytes(random, version)
        packets += decoded.length
        if (fault !== undefined) faults++
        else if (decoded.length === 0) unfinished++
      }
      if (number % 1024 === 0) {
        hostages.add(random)
        const { arrayBuffers, heapUsed } = process.memoryUsage()
        if (arrayBuffers + heapUsed > memoryLimit) throw new Error(`holds ${arrayBuffers + heapUsed} bytes`)
      }
    } catch (error) {
      throw new Error(`again: node scripts/fuzz.ts --seed ${run.seed} --from ${number}`, { cause: error })
    }
    if (number % 4096 === 0) report({ frame: number, packets, faults, unfinished, refused })
  }
  report({ frame: run.frames, packets, faults, unfinished, refused })
}

const supervise = (run: Run): void => {
  const started = performance.now()
  let counts: Counts = { frame: run.from, packets: 0, faults: 0, unfinished: 0, refused: 0 }
  const worker = new Worker(new URL(import.meta.url), { workerData: run })
  const seconds = () => ((performance.now() - started) / 1000).toFixed(1)
  const fail = (why: string) => {
    console.error(why)
    console.log(`fuzz: seed ${run.seed}, frames ${run.from} to ${counts.frame}: FAILED after ${seconds()} s`)
    process.exit(1)
  }
  const watchdog = setTimeout(() => fail(`hangs between frame ${counts.frame} and the next 4096`), patienceMillis)
  worker.on("message", (next: Counts) => {
    if (Math.floor(next.frame / 250_000) > Math.floor(counts.frame / 250_000)) {
      console.error(`frame ${next.frame}, ${seconds()} s`)
    }
    counts = next
    watchdog.refresh()
  })
  worker.on("error", (error: Error) => {
    fail(`${error.cause instanceof Error ? error.cause.stack : error.stack}\n${error.message}`)
  })
  worker.on("exit", (code) => {
    clearTimeout(watchdog)
    if (code !== 0) return fail(`the worker ended with code ${code}`)
    console.log(
      `fuzz: seed ${run.seed}, frames ${run.from} to ${run.frames}: ${counts.packets} packets, ${counts.faults} faults, ` +
        `${counts.unfinished} unfinished, ${counts.refused} refused by the encoder, 0 failures, ${seconds()} s`
    )
  })
}

if (isMainThread) {
  const { values } = parseArgs({
    options: {
      frames: { type: "string", default: "2000000" },
      seed: { type: "string", default: "1" },
      from: { type: "string", default: "0" }
    }
  })
  const run = { frames: Number(values.frames), seed: Number(values.seed), from: Number(values.from) }
  if (!Object.values(run).every((value) => Number.isSafeInteger(value) && value >= 0)) {
    console.error("usage: node scripts/fuzz.ts [--frames <n>] [--seed <n>] [--from <n>]")
    process.exitCode = 1
  } else {
    supervise(run)
  }
} else {
  const port = parentPort
  work(workerData as Run, (counts) => port?.postMessage(counts))
}
