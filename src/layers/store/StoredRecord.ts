/**
 * The entries of a session store as bytes, the same in every store that keeps bytes.
 *
 * A record begins with the version of this format, a CRC-32 of all that follows, and what kind of entry it is. It names its
 * own key as well: a record that was changed by a single bit, cut, or put under another key is told from a good one.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import { crc32 } from "node:zlib"
import type { PublishProperties, QoS } from "../../protocol/Packet.ts"
import type { StoredMessage, StoredOutcome, StoredPublish } from "../../services/SessionStore.ts"

const formatVersion = 1
/** Version, checksum, kind. */
const headerBytes = 6

const kinds = { publish: 1, release: 2, inbound: 3, outcome: 4, message: 5, session: 6, counter: 7 } as const
type Kind = keyof typeof kinds

// ---------------------------------------------------------------------------
// bytes
// ---------------------------------------------------------------------------

/** Writes one record after the other into the same memory, so that a record costs no allocation but its view. */
class RecordWriter {
  #bytes: Buffer = Buffer.allocUnsafeSlow(64 * 1024)
  #at = 0

  begin(kind: Kind): void {
    this.#at = headerBytes
    this.#bytes[0] = formatVersion
    this.#bytes[5] = kinds[kind]
  }

  #room(size: number): void {
    if (this.#at + size <= this.#bytes.length) return
    const grown = Buffer.allocUnsafeSlow(Math.max(this.#at + size, this.#bytes.length * 2))
    this.#bytes.copy(grown, 0, 0, this.#at)
    this.#bytes = grown
  }

  byte(value: number): void {
    this.#room(1)
    this.#bytes[this.#at++] = value
  }

  uint32(value: number): void {
    this.#room(4)
    this.#at = this.#bytes.writeUInt32LE(value, this.#at)
  }

  /** A whole number up to 2^53, or a time. */
  number(value: number): void {
    this.#room(8)
    this.#at = this.#bytes.writeDoubleLE(value, this.#at)
  }

  text(value: string): void {
    this.#room(4 + value.length * 3)
    const length = this.#bytes.write(value, this.#at + 4)
    this.#bytes.writeUInt32LE(length, this.#at)
    this.#at += 4 + length
  }

  bytes(value: Uint8Array): void {
    this.uint32(value.length)
    this.rest(value)
  }

  rest(value: Uint8Array): void {
    this.#room(value.length)
    this.#bytes.set(value, this.#at)
    this.#at += value.length
  }

  /** The record: a view that the next record overwrites. */
  end(): Uint8Array {
    this.#bytes.writeUInt32LE(crc32(this.#bytes.subarray(5, this.#at)), 1)
    const record = this.#bytes.subarray(0, this.#at)
    // One large payload is no reason to hold its memory for ever; the view still does, as long as it is used.
    if (this.#bytes.length > 1024 * 1024) this.#bytes = Buffer.allocUnsafeSlow(64 * 1024)
    return record
  }
}

/** What is wrong with a record; thrown by the reader and caught by `decode`, nowhere else. */
class Damage {
  readonly problem: string
  constructor(problem: string) {
    this.problem = problem
  }
}

class RecordReader {
  readonly #bytes: Buffer
  #at = headerBytes

  constructor(kind: Kind, record: Uint8Array) {
    this.#bytes = Buffer.from(record.buffer, record.byteOffset, record.length)
    if (record.length < headerBytes) throw new Damage(`cut to ${record.length} bytes`)
    if (record[0] !== formatVersion) throw new Damage(`format ${record[0]} is not known`)
    if (crc32(this.#bytes.subarray(5)) !== this.#bytes.readUInt32LE(1)) throw new Damage("the checksum does not match")
    if (record[5] !== kinds[kind]) throw new Damage(`an entry of another kind (${record[5]})`)
  }

  #take(size: number): number {
    const at = this.#at
    if (at + size > this.#bytes.length) throw new Damage("too short")
    this.#at += size
    return at
  }

  byte(): number {
    return this.#bytes[this.#take(1)]!
  }

  uint32(): number {
    return this.#bytes.readUInt32LE(this.#take(4))
  }

  number(): number {
    return this.#bytes.readDoubleLE(this.#take(8))
  }

  /** A whole number from `minimum` on. */
  integer(name: string, minimum: number, maximum = Number.MAX_SAFE_INTEGER): number {
    const value = this.number()
    if (!Number.isInteger(value) || value < minimum || value > maximum) throw new Damage(`${name} ${value}`)
    return value
  }

  text(): string {
    const length = this.uint32()
    const at = this.#take(length)
    return this.#bytes.toString("utf8", at, at + length)
  }

  /** A copy: what a database hands out may be one memory for many rows. */
  bytes(): Uint8Array {
    const length = this.uint32()
    const at = this.#take(length)
    return new Uint8Array(this.#bytes.subarray(at, at + length))
  }

  rest(): Uint8Array {
    return new Uint8Array(this.#bytes.subarray(this.#take(this.#bytes.length - this.#at)))
  }

  end(): void {
    if (this.#at !== this.#bytes.length) throw new Damage("too long")
  }
}

const writer = new RecordWriter()

const decode = <A>(kind: Kind, record: unknown, read: (reader: RecordReader) => A): Result.Result<A, string> => {
  if (!(record instanceof Uint8Array)) return Result.fail("no bytes")
  try {
    const reader = new RecordReader(kind, record)
    const value = read(reader)
    reader.end()
    return Result.succeed(value)
  } catch (error) {
    if (error instanceof Damage) return Result.fail(error.problem)
    throw error
  }
}

// ---------------------------------------------------------------------------
// properties
// ---------------------------------------------------------------------------

const writeProperties = (properties: PublishProperties): void => {
  const {
    contentType,
    correlationData,
    messageExpiryInterval,
    payloadFormatIndicator,
    responseTopic,
    subscriptionIdentifiers,
    topicAlias,
    userProperties
  } = properties
  writer.byte(
    (payloadFormatIndicator === undefined ? 0 : 1) | (messageExpiryInterval === undefined ? 0 : 2) |
      (topicAlias === undefined ? 0 : 4) | (responseTopic === undefined ? 0 : 8) |
      (correlationData === undefined ? 0 : 16) | (userProperties === undefined ? 0 : 32) |
      (subscriptionIdentifiers === undefined ? 0 : 64) | (contentType === undefined ? 0 : 128)
  )
  if (payloadFormatIndicator !== undefined) writer.byte(payloadFormatIndicator)
  if (messageExpiryInterval !== undefined) writer.uint32(messageExpiryInterval)
  if (topicAlias !== undefined) writer.uint32(topicAlias)
  if (responseTopic !== undefined) writer.text(responseTopic)
  if (correlationData !== undefined) writer.bytes(correlationData)
  if (userProperties !== undefined) {
    writer.uint32(userProperties.length)
    for (const [name, value] of userProperties) {
      writer.text(name)
      writer.text(value)
    }
  }
  if (subscriptionIdentifiers !== undefined) {
    writer.uint32(subscriptionIdentifiers.length)
    for (const identifier of subscriptionIdentifiers) writer.uint32(identifier)
  }
  if (contentType !== undefined) writer.text(contentType)
}

const many = <A>(reader: RecordReader, read: () => A): ReadonlyArray<A> => {
  const values: Array<A> = []
  for (let left = reader.uint32(); left > 0; left--) values.push(read())
  return values
}

const readProperties = (reader: RecordReader): PublishProperties => {
  const present = reader.byte()
  const has = (bit: number): boolean => (present & bit) !== 0
  // In the order in which they were written: an initialiser is evaluated from top to bottom.
  return {
    ...(has(1) && { payloadFormatIndicator: reader.byte() === 0 ? 0 : 1 }),
    ...(has(2) && { messageExpiryInterval: reader.uint32() }),
    ...(has(4) && { topicAlias: reader.uint32() }),
    ...(has(8) && { responseTopic: reader.text() }),
    ...(has(16) && { correlationData: reader.bytes() }),
    ...(has(32) && { userProperties: many(reader, () => [reader.text(), reader.text()] as const) }),
    ...(has(64) && { subscriptionIdentifiers: many(reader, () => reader.uint32()) }),
    ...(has(128) && { contentType: reader.text() })
  }
}

// ---------------------------------------------------------------------------
// publishes
// ---------------------------------------------------------------------------

/** The part of a stored publish that PUBREC changes; it has a record of its own, so that the payload is written once. */
export interface Release {
  readonly sequence: number
  readonly releaseOrder: number
  readonly answer: number
}

/**
 * A publish, without its release. Like every record that is encoded here, it is a view of memory that the next one overwrites:
 * a store that does not copy it at once has to.
 */
export const encodePublish = (publish: StoredPublish): Uint8Array => {
  writer.begin("publish")
  writer.byte(
    publish.qos | (publish.retain ? 4 : 0) | (publish.id === undefined ? 0 : 8) |
      (publish.properties === undefined ? 0 : 16) | (publish.stage === "queued" ? 32 : 0) |
      (publish.isRepublished === true ? 64 : 0)
  )
  writer.number(publish.sequence)
  writer.number(publish.packetId)
  writer.number(publish.storedAt)
  if (publish.id !== undefined) writer.text(publish.id)
  writer.text(publish.topic)
  if (publish.properties !== undefined) writeProperties(publish.properties)
  writer.rest(publish.payload)
  return writer.end()
}

const qos1or2 = (flags: number): 1 | 2 => {
  const qos = flags & 3
  if (qos !== 1 && qos !== 2) throw new Damage(`QoS ${qos}`)
  return qos
}

const inSequence = (reader: RecordReader, sequence: number): number => {
  const own = reader.integer("sequence", 0)
  if (own !== sequence) throw new Damage(`it belongs to ${own}`)
  return own
}

/** The publish that was kept under `sequence`, with its release if there is one. */
export const decodePublish = (
  sequence: number,
  record: unknown,
  release: unknown
): Result.Result<StoredPublish, string> => {
  const publish = decode("publish", record, (reader): StoredPublish => {
    const flags = reader.byte()
    const queued = (flags & 32) !== 0
    return {
      sequence: inSequence(reader, sequence),
      stage: queued ? "queued" : "published",
      packetId: reader.integer("packet identifier", queued ? 0 : 1, queued ? 0 : 65535),
      releaseOrder: 0,
      answer: 0,
      storedAt: reader.number(),
      id: (flags & 8) === 0 ? undefined : reader.text(),
      ...((flags & 64) !== 0 && { isRepublished: true as const }),
      qos: qos1or2(flags),
      retain: (flags & 4) !== 0,
      topic: reader.text(),
      properties: (flags & 16) === 0 ? undefined : readProperties(reader),
      payload: reader.rest()
    }
  })
  if (release === null || release === undefined || Result.isFailure(publish)) return publish
  const released = decode("release", release, (reader) => ({
    sequence: inSequence(reader, sequence),
    releaseOrder: reader.integer("release order", 0),
    answer: reader.byte()
  }))
  return Result.map(released, ({ answer, releaseOrder }) => ({
    ...publish.success,
    stage: "released",
    releaseOrder,
    answer
  }))
}

export const encodeRelease = (release: Release): Uint8Array => {
  writer.begin("release")
  writer.number(release.sequence)
  writer.number(release.releaseOrder)
  writer.byte(release.answer)
  return writer.end()
}

// ---------------------------------------------------------------------------
// outcomes
// ---------------------------------------------------------------------------

export const encodeOutcome = (id: string, outcome: StoredOutcome): Uint8Array => {
  writer.begin("outcome")
  writer.text(id)
  switch (outcome._tag) {
    case "Delivered":
      writer.byte(outcome.isRepublished === true ? outcome.qos + 4 : outcome.qos)
      writer.byte(outcome.reasonCode)
      break
    case "Refused":
      writer.byte(3)
      writer.byte(outcome.reasonCode)
      break
    case "Unknown":
      writer.byte(4)
      writer.byte(0)
  }
  return writer.end()
}

export const decodeOutcome = (id: string, record: unknown): Result.Result<StoredOutcome, string> =>
  decode("outcome", record, (reader): StoredOutcome => {
    const own = reader.text()
    if (own !== id) throw new Damage("it belongs to another id")
    const tag = reader.byte()
    const reasonCode = reader.byte()
    switch (tag) {
      case 1:
      case 2:
        return { _tag: "Delivered", qos: tag, reasonCode }
      case 3:
        return { _tag: "Refused", reasonCode }
      case 4:
        return { _tag: "Unknown" }
      case 5:
      case 6:
        return { _tag: "Delivered", qos: tag === 5 ? 1 : 2, reasonCode, isRepublished: true }
      default:
        throw new Damage(`outcome ${tag}`)
    }
  })

// ---------------------------------------------------------------------------
// session
// ---------------------------------------------------------------------------

/** An inbound QoS 2 identifier that was used in the session. */
export interface InboundEntry {
  readonly packetId: number
  readonly received: boolean
  readonly generation: number
}

export const encodeInbound = ({ generation, packetId, received }: InboundEntry): Uint8Array => {
  writer.begin("inbound")
  writer.number(packetId)
  writer.byte(received ? 1 : 0)
  writer.number(generation)
  return writer.end()
}

export const decodeInbound = (packetId: number, record: unknown): Result.Result<InboundEntry, string> =>
  decode("inbound", record, (reader) => {
    const own = reader.integer("packet identifier", 1, 65535)
    if (own !== packetId) throw new Damage(`it belongs to ${own}`)
    return { packetId, received: reader.byte() === 1, generation: reader.integer("generation", 0) }
  })

export const encodeSession = (session: { readonly key: string; readonly epoch: string }): Uint8Array => {
  writer.begin("session")
  writer.text(session.key)
  writer.text(session.epoch)
  return writer.end()
}

export const decodeSession = (
  record: unknown
): Result.Result<{ readonly key: string; readonly epoch: string }, string> =>
  decode("session", record, (reader) => ({ key: reader.text(), epoch: reader.text() }))

/** What was given to a publish last. */
export interface Counters {
  readonly lastSequence: number
  readonly lastPacketId: number
}

export const encodeCounters = ({ lastPacketId, lastSequence }: Counters): Uint8Array => {
  writer.begin("counter")
  writer.number(lastSequence)
  writer.number(lastPacketId)
  return writer.end()
}

export const decodeCounters = (record: unknown): Result.Result<Counters, string> =>
  decode("counter", record, (reader) => ({
    lastSequence: reader.integer("counter", 0),
    lastPacketId: reader.integer("packet identifier", 0, 65_535)
  }))

// ---------------------------------------------------------------------------
// messages put aside
// ---------------------------------------------------------------------------

export const encodeMessage = (queue: string, message: StoredMessage): Uint8Array => {
  writer.begin("message")
  writer.byte(
    message.qos | (message.retain ? 4 : 0) | (message.duplicate ? 8 : 0) |
      (message.deliveryId === undefined ? 0 : 16) | (message.properties === undefined ? 0 : 32)
  )
  writer.number(message.sequence)
  writer.text(queue)
  if (message.deliveryId !== undefined) writer.text(message.deliveryId)
  writer.text(message.topic)
  if (message.properties !== undefined) writeProperties(message.properties)
  writer.rest(message.payload)
  return writer.end()
}

const anyQos = (flags: number): QoS => {
  const qos = flags & 3
  if (qos === 3) throw new Damage("QoS 3")
  return qos as QoS
}

export const decodeMessage = (
  queue: string,
  sequence: number,
  record: unknown
): Result.Result<StoredMessage, string> =>
  decode("message", record, (reader) => {
    const flags = reader.byte()
    const own = inSequence(reader, sequence)
    if (reader.text() !== queue) throw new Damage("it belongs to another queue")
    return {
      sequence: own,
      qos: anyQos(flags),
      retain: (flags & 4) !== 0,
      duplicate: (flags & 8) !== 0,
      deliveryId: (flags & 16) === 0 ? undefined : reader.text(),
      topic: reader.text(),
      properties: (flags & 32) === 0 ? undefined : readProperties(reader),
      payload: reader.rest()
    }
  })
