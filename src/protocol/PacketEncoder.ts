/**
 * Packets of a client in, bytes out: the shortest legal form of each (MQTT 5.0 and 3.1.1), after every check that the
 * packet alone allows. What needs the state of the connection is left to its owner: the limits of CONNACK other than
 * the packet size, packet identifiers in use, the syntax of topic filters.
 *
 * **Ownership of bytes.** An encoder belongs to one connection. It writes one packet behind the other into a slab, and
 * `take` hands out what is new there as a view that is never written again; a slab that is used up is replaced, not
 * reused. Nothing of a packet is kept after `encode`: payloads are copied.
 *
 * **3.1.1.** Properties, and the options of a subscription other than its quality of service, have no place on the
 * wire and are left out. So is the reason code of PUBREL and PUBCOMP. A reason code other than 0 in PUBACK, PUBREC or
 * DISCONNECT would turn into its opposite, and is refused.
 *
 * @since 0.1.0
 */
import { Buffer } from "node:buffer"
import type {
  Ack,
  Auth,
  ClientPacket,
  Connect,
  Disconnect,
  ProtocolVersion,
  Publish,
  PublishProperties,
  QoS,
  ReasonProperties,
  Subscribe,
  Unsubscribe
} from "./Packet.ts"
import { maximumVarint, PacketWriter, propertyOrder, varintSize, writeVarint } from "./PacketWriter.ts"
import type { PropertyOrder, PropertyValues } from "./PacketWriter.ts"
import * as PackedAck from "./PackedAck.ts"
import * as Property from "./Property.ts"
import * as PublishPacket from "./PublishPacket.ts"
import { asciiSize, GaveUp, writeAscii } from "./PublishWriter.ts"
import type { PublishFields } from "./PublishWriter.ts"
import * as ReasonCode from "./ReasonCode.ts"
import * as Utf8 from "./Utf8.ts"

/**
 * Why a packet was not encoded. Nothing of it was appended.
 *
 * - `InvalidField`: the standard has no place for this value; `field` is its path in the packet
 * - `TooLarge`: the packet has `size` bytes, and `limit` is the most that the server, or the protocol, takes
 *
 * @category models
 * @since 0.1.0
 */
export type EncodeFault =
  | { readonly _tag: "InvalidField"; readonly packet: string; readonly field: string; readonly problem: string }
  | { readonly _tag: "TooLarge"; readonly packet: string; readonly size: number; readonly limit: number }

/**
 * Turns packets into the bytes of one connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface Encoder {
  /** The server's Maximum Packet Size, in bytes; `Infinity` until it has announced one. */
  maximumPacketSize: number
  /** Bytes encoded and not yet taken. */
  readonly size: number
  /**
   * Appends one packet; on a fault nothing is appended. The reason string and the user properties of
   * acknowledgements, DISCONNECT and AUTH are left out rather than exceed `maximumPacketSize`.
   */
  readonly encode: (packet: ClientPacket) => EncodeFault | undefined
  /** Appends the PUBLISH of a message that is sent for the first time, as `encode` does, without a packet being made of it. */
  readonly publish: (
    message: PublishFields,
    properties: PublishProperties | undefined,
    packetId: number
  ) => EncodeFault | undefined
  /**
   * Appends a PUBLISH at QoS 0 without properties that is not retained, of a topic that is encoded already; false if the server
   * cannot take it, and then nothing is appended.
   */
  readonly publishPlain: (encodedTopic: Uint8Array, payload: Uint8Array) => boolean
  /** Appends PUBACK, PUBREC, PUBREL or PUBCOMP, as `encode` does, without a packet being made of it. */
  readonly acknowledge: (tag: Ack["_tag"], packetId: number, reasonCode: number) => EncodeFault | undefined
  /** Appends them in order, up to one that is at fault. */
  readonly acknowledgeAll: (acks: ReadonlyArray<PackedAck.PackedAck>) => EncodeFault | undefined
  /** What was appended since the last `take`, as a view that is not written again before `reclaim`. */
  readonly take: () => Uint8Array
  /** Nobody needs any more what was taken: its memory is used again. */
  readonly reclaim: () => void
}

/**
 * @category constructors
 * @since 0.1.0
 */
export const makeEncoder = (options: { readonly protocolVersion: ProtocolVersion }): Encoder =>
  new PacketEncoder(options.protocolVersion)

/**
 * The bytes that a packet takes, nothing left out. Meaningful for a packet that `encode` does not refuse as invalid.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodedSize = (packet: ClientPacket, version: ProtocolVersion): number => {
  if (packet._tag === "Publish") return publishSize(packet, version)
  sizing.measure()
  describe(sizing, packet, version)
  return frameSize(sizing.position)
}

/** Without the look at every byte of a payload that is said to be UTF-8, and quick where there are no properties. */
const publishSize = (packet: Publish, version: ProtocolVersion): number => {
  const head = 2 + Utf8.encodedLength(packet.topic) + (packet.qos === 0 ? 0 : 2)
  if (version === 4) return frameSize(head + packet.payload.length)
  if (packet.properties === undefined) return frameSize(head + 1 + packet.payload.length)
  sizing.measure()
  sizing.properties("properties", orders.publish, packet.properties as PropertyValues)
  return frameSize(head + sizing.position + packet.payload.length)
}

const sizing = new PacketWriter()
/** Of all encoders, since nothing of it is kept from one packet to the next. */
const describing = new PacketWriter()

/** One fixed header with four bytes of length, and what these can count. */
const protocolMaximum = 5 + maximumVarint

/** The first slab of a connection, which may stay idle; each one after it is four times as large, up to the usual size. */
const firstSlab = 64
const usualSlab = 65_536
const largestSlab = 1_048_576

const noBytes = new Uint8Array(0)

const frameSize = (body: number): number => 1 + varintSize(body) + body

const orders = {
  connect: propertyOrder(Property.fromClient.Connect),
  will: propertyOrder(Property.fromClient.Will),
  publish: propertyOrder(Property.fromClient.Publish),
  reason: propertyOrder(Property.fromClient.Puback),
  subscribe: propertyOrder(Property.fromClient.Subscribe),
  unsubscribe: propertyOrder(Property.fromClient.Unsubscribe),
  disconnect: propertyOrder(Property.fromClient.Disconnect),
  auth: propertyOrder(Property.fromClient.Auth)
}

const firstBytes: Readonly<Record<Exclude<ClientPacket["_tag"], "Publish">, number>> = {
  Connect: 0x10,
  Puback: 0x40,
  Pubrec: 0x50,
  Pubrel: 0x62,
  Pubcomp: 0x70,
  Subscribe: 0x82,
  Unsubscribe: 0xa2,
  Pingreq: 0xc0,
  Disconnect: 0xe0,
  Auth: 0xf0
}

class PacketEncoder implements Encoder {
  maximumPacketSize = Infinity
  private readonly version: ProtocolVersion
  private slab: Uint8Array = noBytes
  /** The slab before, while there is none. */
  private spare: Uint8Array = noBytes
  private nextSlab = firstSlab
  private start = 0
  private position = 0
  /** What was taken last, which is the best guess at what will be taken next. */
  private batch = 0

  constructor(version: ProtocolVersion) {
    this.version = version
  }

  get size(): number {
    return this.position - this.start
  }

  take(): Uint8Array {
    const taken = this.slab.subarray(this.start, this.position)
    if (taken.length === 0) return taken
    this.batch = taken.length
    this.start = this.position
    // A batch that outgrows the slab must be moved, so a rest that will not do is given up.
    if (this.slab.length - this.position < this.batch) {
      // One that a single large message took is not held on to.
      this.spare = this.slab.length > largestSlab ? noBytes : this.slab
      this.slab = noBytes
      this.start = 0
      this.position = 0
    }
    return taken
  }

  reclaim(): void {
    if (this.position !== this.start) return
    if (this.slab.length === 0) this.slab = this.spare
    this.spare = noBytes
    this.start = 0
    this.position = 0
  }

  encode(packet: ClientPacket): EncodeFault | undefined {
    switch (packet._tag) {
      case "Publish":
        return this.asciiPublish(packet, packet.properties, packet.packetId, packet.dup)
          ? undefined
          : this.anyPublish(packet)
      case "Puback":
      case "Pubrec":
      case "Pubrel":
      case "Pubcomp":
        return packet.properties === undefined
          ? this.acknowledge(packet._tag, packet.packetId, packet.reasonCode)
          : this.explained(packet)
      case "Disconnect":
      case "Auth":
        return this.explained(packet)
      default:
        return this.described(packet)
    }
  }

  publish(
    message: PublishFields,
    properties: PublishProperties | undefined,
    packetId: number
  ): EncodeFault | undefined {
    const { encodedTopic } = message
    if (encodedTopic !== undefined && properties === undefined) {
      const { payload, qos, retain } = message
      if (this.barePublish(encodedTopic, payload, qos, retain, packetId)) return undefined
    }
    if (this.asciiPublish(message, properties, packetId, false)) return undefined
    const { payload, qos, retain, topic } = message
    return this.anyPublish(PublishPacket.make(false, qos, retain, topic, packetId, payload, properties))
  }

  publishPlain(encodedTopic: Uint8Array, payload: Uint8Array): boolean {
    return this.barePublish(encodedTopic, payload, 0, false, 0)
  }

  /** Appends a PUBLISH without properties whose topic is encoded already; false if it cannot, and nothing has changed. */
  private barePublish(
    encodedTopic: Uint8Array,
    payload: Uint8Array,
    qos: QoS,
    retain: boolean,
    packetId: number
  ): boolean {
    const body = encodedTopic.length + (qos === 0 ? 0 : 2) + (this.version === 5 ? 1 : 0) + payload.length
    const frame = frameSize(body)
    if (frame > this.limit) return false
    const slab = this.reserve(frame)
    const first = this.position
    slab[first] = 0x30 | qos << 1 | (retain ? 0x01 : 0)
    let position = writeVarint(body, slab, first + 1)
    slab.set(encodedTopic, position)
    position += encodedTopic.length
    if (qos !== 0) {
      slab[position++] = packetId >>> 8
      slab[position++] = packetId
    }
    if (this.version === 5) slab[position++] = 0
    slab.set(payload, position)
    this.position = position + payload.length
    return true
  }

  /** Appends the PUBLISH that nearly all are; false if it is none of them, and then nothing has changed. */
  private asciiPublish(
    message: PublishFields,
    properties: PublishProperties | undefined,
    packetId: number,
    dup: boolean
  ): boolean {
    const size = asciiSize(message, properties, packetId, this.version)
    if (size === GaveUp || (dup && packetId === 0)) return false
    const { payload, qos, retain, topic } = message
    const body = size + payload.length
    const frame = frameSize(body)
    if (frame > this.limit) return false
    const slab = this.reserve(frame)
    const start = writeVarint(body, slab, this.position + 1)
    const position = writeAscii(topic, properties, packetId, this.version, slab, start)
    if (position === GaveUp) return false
    slab[this.position] = 0x30 | (dup ? 0x08 : 0) | qos << 1 | (retain ? 0x01 : 0)
    slab.set(payload, position)
    this.position = position + payload.length
    return true
  }

  private anyPublish(packet: Publish): EncodeFault | undefined {
    const writer = describing
    const payload = packet.payload
    writer.measure()
    describePublish(writer, packet, this.version)
    if (writer.fault !== undefined) return this.invalid(packet)
    const body = writer.position + payload.length
    const frame = frameSize(body)
    if (frame > this.limit) return this.tooLarge(packet, frame)
    const slab = this.reserve(frame)
    slab[this.position] = publishFirstByte(packet)
    writer.write(slab, writeVarint(body, slab, this.position + 1))
    describePublish(writer, packet, this.version)
    slab.set(payload, writer.position)
    this.position = writer.position + payload.length
    writer.finish()
    return undefined
  }

  /** The short form by hand, since there is one for each QoS 1 message and two for each of QoS 2. */
  acknowledge(tag: Ack["_tag"], packetId: number, reasonCode: number): EncodeFault | undefined {
    if (reasonCode !== 0 || !(packetId >= 1 && packetId <= 65_535 && Number.isInteger(packetId)) || this.limit < 4) {
      return this.explained({ _tag: tag, packetId, reasonCode, properties: undefined })
    }
    this.short(firstBytes[tag], packetId)
    return undefined
  }

  acknowledgeAll(acks: ReadonlyArray<PackedAck.PackedAck>): EncodeFault | undefined {
    for (let index = 0; index < acks.length; index++) {
      const ack = acks[index]!
      const packetId = PackedAck.packetIdOf(ack)
      const reasonCode = PackedAck.reasonCodeOf(ack)
      if (reasonCode !== 0 || packetId === 0 || this.limit < 4) {
        const fault = this.acknowledge(PackedAck.tagOf(ack), packetId, reasonCode)
        if (fault !== undefined) return fault
      } else {
        this.short(PackedAck.firstByteOf(ack), packetId)
      }
    }
    return undefined
  }

  private short(first: number, packetId: number): void {
    const slab = this.reserve(4)
    const position = this.position
    slab[position] = first
    slab[position + 1] = 2
    slab[position + 2] = packetId >>> 8
    slab[position + 3] = packetId
    this.position = position + 4
  }

  /** A packet whose explanation is left out where it does not fit. */
  private explained(packet: Ack | Disconnect | Auth): EncodeFault | undefined {
    const fault = this.described(packet)
    if (fault === undefined || fault._tag !== "TooLarge" || packet.properties === undefined) return fault
    const terse = { ...packet, properties: { ...packet.properties, userProperties: undefined } }
    if (this.described(terse) === undefined) return undefined
    return this.described({ ...terse, properties: { ...terse.properties, reasonString: undefined } })
  }

  private described(packet: Exclude<ClientPacket, Publish>): EncodeFault | undefined {
    const writer = describing
    writer.measure()
    describe(writer, packet, this.version)
    if (writer.fault !== undefined) return this.invalid(packet)
    const body = writer.position
    const size = frameSize(body)
    if (size > this.limit) return this.tooLarge(packet, size)
    const slab = this.reserve(size)
    slab[this.position] = firstBytes[packet._tag]
    writer.write(slab, writeVarint(body, slab, this.position + 1))
    describe(writer, packet, this.version)
    this.position = writer.position
    writer.finish()
    return undefined
  }

  private get limit(): number {
    return Math.min(this.maximumPacketSize, protocolMaximum)
  }

  /** A slab with room for this many bytes at `position`. What was not taken yet moves along, and stays in one piece. */
  private reserve(size: number): Uint8Array {
    if (this.slab.length - this.position < size) {
      const pending = this.position - this.start
      const room = pending === 0 ? Math.min(largestSlab, 2 * this.batch) : 2 * pending + size
      // Bytes that were not written are never handed out, so they need not be cleared.
      const slab = Buffer.allocUnsafeSlow(Math.max(this.nextSlab, room, size))
      this.nextSlab = Math.min(usualSlab, 4 * this.nextSlab)
      slab.set(this.slab.subarray(this.start, this.position))
      this.slab = slab
      this.start = 0
      this.position = pending
    }
    return this.slab
  }

  private invalid(packet: ClientPacket): EncodeFault {
    const { field, problem } = describing.fault as { readonly field: string; readonly problem: string }
    return { _tag: "InvalidField", packet: packet._tag.toUpperCase(), field, problem }
  }

  private tooLarge(packet: ClientPacket, size: number): EncodeFault {
    return { _tag: "TooLarge", packet: packet._tag.toUpperCase(), size, limit: this.limit }
  }
}

// ---------------------------------------------------------------------------
// the packets
// ---------------------------------------------------------------------------

const publishFirstByte = (packet: Publish): number =>
  0x30 | (packet.dup ? 0x08 : 0) | packet.qos << 1 | (packet.retain ? 0x01 : 0)

/** All of a PUBLISH but its payload, which is judged and not written. */
const describePublish = (writer: PacketWriter, packet: Publish, version: ProtocolVersion): void => {
  const { packetId, payload, properties, qos, topic } = packet
  if (topic === "" && version === 5 && properties?.topicAlias !== undefined) writer.string("topic", topic)
  else writer.topicName("topic", topic)
  writer.qos("qos", qos)
  if (qos === 0) {
    if (packetId !== 0) writer.fail("packetId", "must be 0 at quality of service 0")
    if (packet.dup) writer.fail("dup", "must not be set at quality of service 0")
  } else {
    writer.packetId(packetId)
  }
  if (!(payload instanceof Uint8Array)) writer.fail("payload", "must be a Uint8Array")
  if (version === 4) return
  if (properties?.subscriptionIdentifiers !== undefined) {
    writer.fail("properties.subscriptionIdentifiers", "must not be sent by a client")
  }
  checkPayloadFormat(writer, "payload", properties?.payloadFormatIndicator, payload)
  writer.properties("properties", orders.publish, properties as PropertyValues | undefined)
}

const describe = (
  writer: PacketWriter,
  packet: Exclude<ClientPacket, Publish>,
  version: ProtocolVersion
): void => {
  switch (packet._tag) {
    case "Connect":
      return describeConnect(writer, packet, version)
    case "Puback":
    case "Pubrec":
    case "Pubrel":
    case "Pubcomp":
      return describeAck(writer, packet, version)
    case "Subscribe":
      return describeSubscribe(writer, packet, version)
    case "Unsubscribe":
      return describeUnsubscribe(writer, packet, version)
    case "Pingreq":
      return
    case "Disconnect":
      return describeDisconnect(writer, packet, version)
    case "Auth":
      return describeAuth(writer, packet, version)
  }
}

const describeConnect = (writer: PacketWriter, packet: Connect, version: ProtocolVersion): void => {
  const { clientId, password, properties, username, will } = packet
  if (packet.protocolVersion !== version) {
    writer.fail("protocolVersion", `must be ${version}, which is what this connection speaks`)
  }
  for (const byte of [0x00, 0x04, 0x4d, 0x51, 0x54, 0x54, version]) writer.uint8(byte)
  writer.uint8(
    (username === undefined ? 0 : 0x80) |
      (password === undefined ? 0 : 0x40) |
      (will === undefined ? 0 : (will.retain ? 0x20 : 0) | will.qos << 3 | 0x04) |
      (packet.cleanStart ? 0x02 : 0)
  )
  writer.uint16("keepAlive", packet.keepAlive)
  if (version === 5) {
    if (properties?.authenticationData !== undefined && properties.authenticationMethod === undefined) {
      writer.fail("properties.authenticationData", "must come with an authentication method")
    }
    writer.properties("properties", orders.connect, properties as PropertyValues | undefined)
  } else {
    if (clientId === "" && !packet.cleanStart) {
      writer.fail("clientId", "must not be empty without a clean session on MQTT 3.1.1")
    }
    if (password !== undefined && username === undefined) {
      writer.fail("password", "must come with a user name on MQTT 3.1.1")
    }
  }
  writer.string("clientId", clientId)
  if (will !== undefined) {
    writer.qos("will.qos", will.qos)
    if (version === 5) {
      checkPayloadFormat(writer, "will.payload", will.properties?.payloadFormatIndicator, will.payload)
      writer.properties("will.properties", orders.will, will.properties as PropertyValues | undefined)
    }
    writer.topicName("will.topic", will.topic)
    writer.binary("will.payload", will.payload)
  }
  if (username !== undefined) writer.string("username", username)
  if (password !== undefined) writer.binary("password", password)
}

const describeAck = (writer: PacketWriter, packet: Ack, version: ProtocolVersion): void => {
  const released = packet._tag === "Pubrel" || packet._tag === "Pubcomp"
  writer.packetId(packet.packetId)
  if (version === 4) {
    if (!released && packet.reasonCode !== 0) writer.fail("reasonCode", "must be 0, since MQTT 3.1.1 has none")
    return
  }
  describeReason(writer, ReasonCode.fromClient[packet._tag], orders.reason, packet)
}

const describeDisconnect = (writer: PacketWriter, packet: Disconnect, version: ProtocolVersion): void => {
  if (version === 4) {
    if (packet.reasonCode !== 0) writer.fail("reasonCode", "must be 0, since MQTT 3.1.1 has none")
    return
  }
  if (packet.properties?.serverReference !== undefined) {
    writer.fail("properties.serverReference", "must not be sent by a client")
  }
  describeReason(writer, ReasonCode.fromClient.Disconnect, orders.disconnect, packet)
}

/** Code and properties, each only where needed: both may be absent at the end of a packet, together or the latter. */
const describeReason = (
  writer: PacketWriter,
  allowed: ReadonlyArray<number>,
  order: PropertyOrder,
  packet: { readonly reasonCode: number; readonly properties: ReasonProperties | undefined }
): void => {
  if (!allowed.includes(packet.reasonCode)) {
    writer.fail("reasonCode", "must be one that a client may send in this packet")
  }
  const values = packet.properties as PropertyValues | undefined
  const hasProperties = values !== undefined && order.some(({ key }) => {
    const value = values[key]
    return value !== undefined && !(Array.isArray(value) && value.length === 0)
  })
  if (packet.reasonCode !== 0 || hasProperties) writer.uint8(packet.reasonCode)
  if (hasProperties) writer.properties("properties", order, values)
}

const describeSubscribe = (writer: PacketWriter, packet: Subscribe, version: ProtocolVersion): void => {
  writer.packetId(packet.packetId)
  if (version === 5) {
    writer.properties("properties", orders.subscribe, packet.properties as PropertyValues | undefined)
  }
  if (packet.subscriptions.length === 0) writer.fail("subscriptions", "must have at least one entry")
  packet.subscriptions.forEach((subscription, index) => {
    const { filter, noLocal, qos, retainAsPublished, retainHandling } = subscription
    const path = `subscriptions[${index}]`
    describeFilter(writer, `${path}.filter`, filter)
    writer.qos(`${path}.qos`, qos)
    if (version === 4) return writer.uint8(qos)
    if (retainHandling !== 0 && retainHandling !== 1 && retainHandling !== 2) {
      writer.fail(`${path}.retainHandling`, "must be 0, 1 or 2")
    }
    if (noLocal && filter.startsWith("$share/")) {
      writer.fail(`${path}.noLocal`, "must not be set on a shared subscription")
    }
    writer.uint8(qos | (noLocal ? 0x04 : 0) | (retainAsPublished ? 0x08 : 0) | retainHandling << 4)
  })
}

const describeUnsubscribe = (writer: PacketWriter, packet: Unsubscribe, version: ProtocolVersion): void => {
  writer.packetId(packet.packetId)
  if (version === 5) {
    writer.properties("properties", orders.unsubscribe, packet.properties as PropertyValues | undefined)
  }
  if (packet.filters.length === 0) writer.fail("filters", "must have at least one entry")
  packet.filters.forEach((filter, index) => describeFilter(writer, `filters[${index}]`, filter))
}

const describeAuth = (writer: PacketWriter, packet: Auth, version: ProtocolVersion): void => {
  if (version === 4) return writer.fail("protocolVersion", "must be 5, since MQTT 3.1.1 has no AUTH")
  if (!ReasonCode.fromClient.Auth.some((code) => code === packet.reasonCode)) {
    writer.fail("reasonCode", "must be one that a client may send in this packet")
  }
  if (packet.properties?.authenticationMethod === undefined) {
    writer.fail("properties.authenticationMethod", "must be given")
  }
  writer.uint8(packet.reasonCode)
  writer.properties("properties", orders.auth, packet.properties as PropertyValues | undefined)
}

const describeFilter = (writer: PacketWriter, field: string, filter: string): void => {
  if (filter === "") writer.fail(field, "must not be empty")
  writer.string(field, filter)
}

const checkPayloadFormat = (
  writer: PacketWriter,
  field: string,
  indicator: number | undefined,
  payload: Uint8Array
): void => {
  if (indicator === 1 && !Utf8.isWellFormed(payload)) {
    writer.fail(field, "must be UTF-8, since the payload format indicator says so")
  }
}
