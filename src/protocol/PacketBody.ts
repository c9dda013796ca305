/**
 * The bodies of the packets that a server sends, from their bytes, with every check. Where a packet begins and ends is
 * the business of `PacketDecoder`.
 *
 * @since 0.1.0
 */
import type { Buffer } from "node:buffer"
import type {
  Ack,
  Auth,
  AuthProperties,
  Connack,
  ConnackProperties,
  Disconnect,
  DisconnectProperties,
  ProtocolVersion,
  Publish,
  PublishProperties,
  QoS,
  ReasonProperties,
  ServerPacket,
  Suback,
  Unsuback
} from "./Packet.ts"
import { emptyBytes, noBytes, noWords, PacketReader, propertyPlace } from "./PacketReader.ts"
import type { PacketReaderOptions, PropertyPlace } from "./PacketReader.ts"
import * as Property from "./Property.ts"
import type * as ProtocolFault from "./ProtocolFault.ts"
import * as PublishPacket from "./PublishPacket.ts"
import * as ReasonCode from "./ReasonCode.ts"
import { StringCache } from "./StringCache.ts"
import type { Noted, TopicNote } from "./TopicNote.ts"
import * as Utf8 from "./Utf8.ts"

const malformed = 0x81
const protocolError = 0x82

/**
 * What faults call each packet, by its type.
 *
 * @category constants
 * @since 0.1.0
 */
export const packetNames = [
  ...["frame", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK"],
  ...["UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"]
]

const reasonPlace = (ids: ReadonlyArray<number>): PropertyPlace =>
  propertyPlace(ids, () => ({ reasonString: undefined, userProperties: undefined }), true)

const places = {
  connack: propertyPlace(Property.fromServer.Connack, () => ({
    sessionExpiryInterval: undefined,
    receiveMaximum: undefined,
    maximumQoS: undefined,
    retainAvailable: undefined,
    maximumPacketSize: undefined,
    assignedClientIdentifier: undefined,
    topicAliasMaximum: undefined,
    reasonString: undefined,
    userProperties: undefined,
    wildcardSubscriptionAvailable: undefined,
    subscriptionIdentifierAvailable: undefined,
    sharedSubscriptionAvailable: undefined,
    serverKeepAlive: undefined,
    responseInformation: undefined,
    serverReference: undefined,
    authenticationMethod: undefined,
    authenticationData: undefined
  }), false),
  publish: propertyPlace(Property.fromServer.Publish, () => ({
    payloadFormatIndicator: undefined,
    messageExpiryInterval: undefined,
    topicAlias: undefined,
    responseTopic: undefined,
    correlationData: undefined,
    userProperties: undefined,
    subscriptionIdentifiers: undefined,
    contentType: undefined
  }), false),
  ack: reasonPlace(Property.fromServer.Puback),
  suback: reasonPlace(Property.fromServer.Suback),
  unsuback: reasonPlace(Property.fromServer.Unsuback),
  disconnect: propertyPlace(
    Property.fromServer.Disconnect,
    () => ({ reasonString: undefined, userProperties: undefined, serverReference: undefined }),
    false
  ),
  auth: propertyPlace(Property.fromServer.Auth, () => ({
    reasonString: undefined,
    userProperties: undefined,
    authenticationMethod: undefined,
    authenticationData: undefined
  }), true)
}

const codeSet = (codes: ReadonlyArray<number>): Uint8Array => {
  const set = new Uint8Array(256)
  for (const code of codes) set[code] = 1
  return set
}

const codes = {
  connack: codeSet(ReasonCode.fromServer.Connack),
  connack311: codeSet(ReasonCode.fromServer311.Connack),
  received: codeSet(ReasonCode.fromServer.Puback),
  released: codeSet(ReasonCode.fromServer.Pubrel),
  suback: codeSet(ReasonCode.fromServer.Suback),
  suback311: codeSet(ReasonCode.fromServer311.Suback),
  unsuback: codeSet(ReasonCode.fromServer.Unsuback),
  disconnect: codeSet(ReasonCode.fromServer.Disconnect),
  auth: codeSet(ReasonCode.fromServer.Auth)
}

type Writable<A> = { -readonly [K in keyof A]: A[K] }

const ackTags = ["Puback", "Pubrec", "Pubrel", "Pubcomp"] as const

interface AckConstructor {
  new(tag: Ack["_tag"], packetId: number): object
}

/** A constructor for the reason that `PublishPacket` gives. */
const PlainAck = function(this: Writable<Ack>, tag: Ack["_tag"], packetId: number) {
  this._tag = tag
  this.packetId = packetId
  this.reasonCode = 0
  this.properties = undefined
} as unknown as AckConstructor & { prototype: object }

PlainAck.prototype = Object.prototype

/** A PUBLISH that is filled anew for each message of a chunk. */
class ReusedPublish implements Writable<Publish & Noted> {
  declare readonly _tag: "Publish"
  declare dup: boolean
  declare qos: QoS
  declare retain: boolean
  declare topic: string
  declare packetId: number
  declare payload: Uint8Array
  declare properties: PublishProperties | undefined
  declare note: TopicNote | undefined

  constructor() {
    this._tag = "Publish"
    this.dup = false
    this.qos = 0
    this.retain = false
    this.topic = ""
    this.packetId = 0
    this.payload = emptyBytes
    this.properties = undefined
    this.note = undefined
  }
}

const pingresp: ServerPacket = Object.freeze({ _tag: "Pingresp" })

/**
 * Decodes the bodies of one connection's packets. It owns the topic aliases that the server sets, and remembers topics.
 *
 * @category decoding
 * @since 0.1.0
 */
export class PacketBody {
  private readonly version: ProtocolVersion
  private readonly reader: PacketReader
  private bytes: Buffer = noBytes
  private words: DataView = noWords
  private topics: StringCache | undefined = undefined
  private aliases: Map<number, string> | undefined = undefined
  /** Whether the PUBLISH packets of a chunk are one object that is filled anew, and the object once there is one. */
  private readonly reuses: boolean
  private reused: ReusedPublish | undefined = undefined

  constructor(
    options: PacketReaderOptions & {
      readonly protocolVersion: ProtocolVersion
      readonly reusesPublish?: boolean | undefined
    }
  ) {
    this.version = options.protocolVersion
    this.reuses = options.reusesPublish === true
    this.reader = new PacketReader(options)
  }

  /** What the last packet broke. */
  get fault(): ProtocolFault.ProtocolFault | undefined {
    return this.reader.fault
  }

  /** Whether no topic was seen. */
  get isBlank(): boolean {
    return this.topics === undefined && this.aliases === undefined
  }

  /** Decodes from these bytes from now on. */
  open(bytes: Buffer): void {
    this.bytes = bytes
    this.words = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    this.reader.open(bytes, this.words)
  }

  /** Lets go of the bytes, so that an idle connection pins no chunk. */
  close(): void {
    this.bytes = noBytes
    this.words = noWords
    this.reader.open(noBytes, noWords)
    const { reused } = this
    if (reused === undefined) return
    reused.payload = emptyBytes
    reused.properties = undefined
    reused.note = undefined
    // One that is filled for long gets old, and then V8 keeps a record of each young payload that it is given.
    this.reused = undefined
  }

  /** The packet with this first byte and a body from `start` to `end`, or `undefined` with `fault` set. */
  decode(first: number, start: number, end: number): ServerPacket | undefined {
    const type = first >> 4
    if (type === 3) return this.publish(first, start, end)
    if (type === 13) return pingresp
    // An acknowledgement without a reason, as nearly all are.
    if (end - start === 2 && type >= 4 && type <= 7) {
      const packetId = this.bytes[start] << 8 | this.bytes[start + 1]
      if (packetId !== 0) return new PlainAck(ackTags[type - 4] as Ack["_tag"], packetId) as Ack
    }
    const reader = this.reader
    reader.begin(packetNames[type], start, end)
    const packet = this.rest(type)
    reader.ends()
    return reader.fault === undefined ? packet : undefined
  }

  private rest(type: number): ServerPacket {
    switch (type) {
      case 2:
        return this.connack()
      case 4:
        return this.ack("Puback", codes.received)
      case 5:
        return this.ack("Pubrec", codes.received)
      case 6:
        return this.ack("Pubrel", codes.released)
      case 7:
        return this.ack("Pubcomp", codes.released)
      case 9:
        return this.suback()
      case 11:
        return this.unsuback()
      case 14:
        return this.disconnect()
      default:
        return this.auth()
    }
  }

  private publish(first: number, start: number, end: number): Publish | undefined {
    const bytes = this.bytes
    const qos = first >> 1 & 3
    const topicStart = start + 2
    const topicEnd = topicStart <= end ? topicStart + (bytes[start] << 8 | bytes[start + 1]) : end + 1
    if (topicEnd > end) return this.failPublish("topic name", "its length stays inside the packet", malformed)
    let topic: string | undefined = ""
    let note: TopicNote | undefined = undefined
    if (topicEnd > topicStart) {
      const { topics } = this
      topic = topics?.get(this.words, topicStart, topicEnd)
      if (topic !== undefined) note = topics!.note
      else {
        topic = this.newTopic(topicStart, topicEnd)
        if (topic === undefined) return undefined
      }
    } else if (this.version === 4) {
      return this.failPublish("topic name", "a topic name is not empty", protocolError)
    }
    let position = topicEnd
    let packetId = 0
    if (qos !== 0) {
      position += 2
      if (position > end) {
        return this.failPublish("packet identifier", "the packet does not end inside a field", malformed)
      }
      packetId = bytes[position - 2] << 8 | bytes[position - 1]
      if (packetId === 0) return this.failPublish("packet identifier", "a packet identifier is not 0", protocolError)
    }
    let properties: PublishProperties | undefined = undefined
    if (this.version === 5) {
      if (position < end && bytes[position] === 0) {
        position++
      } else {
        const reader = this.reader
        reader.begin("PUBLISH", position, end)
        properties = reader.properties(places.publish) as PublishProperties | undefined
        position = reader.position
        if (reader.fault !== undefined) return undefined
      }
      if (topic === "" || properties !== undefined) {
        topic = this.resolveAlias(topic, properties?.topicAlias)
        if (topic === undefined) return undefined
      }
    }
    const dup = (first & 0x08) !== 0
    const retain = (first & 0x01) !== 0
    const payload = this.reader.view(position, end)
    if (!this.reuses) {
      return PublishPacket.make(dup, qos as QoS, retain, topic, packetId, payload, properties)
    }
    const reused = this.reused ??= new ReusedPublish()
    reused.dup = dup
    reused.qos = qos as QoS
    reused.retain = retain
    reused.topic = topic
    reused.packetId = packetId
    reused.payload = payload
    reused.properties = properties
    reused.note = note
    return reused
  }

  private resolveAlias(topic: string, alias: number | undefined): string | undefined {
    if (alias === undefined) {
      return topic === ""
        ? this.failPublish("topic name", "a topic name is empty only with a topic alias", protocolError)
        : topic
    }
    if (topic !== "") {
      this.aliases ??= new Map()
      this.aliases.set(alias, topic)
      return topic
    }
    return this.aliases?.get(alias) ??
      this.failPublish("topic alias", "a topic alias was given a topic name on this connection", protocolError)
  }

  private newTopic(start: number, end: number): string | undefined {
    const bytes = this.bytes
    let bits = 0
    for (let i = start; i < end; i++) {
      const byte = bytes[i]
      if (byte < 0x2c && (byte === 0 || byte === 0x23 || byte === 0x2b)) return this.failTopic(start, end)
      bits |= byte
    }
    const topic = bits < 0x80 ? Utf8.decodeAscii(bytes, start, end) : Utf8.decodeAny(bytes, start, end)
    if (topic === undefined) return this.failTopic(start, end)
    this.topics ??= new StringCache(1024)
    this.topics.put(this.words, start, end, topic)
    return topic
  }

  private failTopic(start: number, end: number): undefined {
    return Utf8.decode(this.bytes, start, end) === undefined
      ? this.failPublish("topic name", Utf8.ruleBroken(this.bytes, start, end), malformed)
      : this.failPublish("topic name", "a topic name has no wildcard", protocolError)
  }

  private failPublish(field: string, rule: string, reasonCode: number): undefined {
    this.reader.begin("PUBLISH", 0, 0)
    return this.reader.fail(field, rule, reasonCode)
  }

  private connack(): Connack {
    const reader = this.reader
    const flags = reader.uint8("acknowledge flags")
    if (flags > 1) reader.fail("acknowledge flags", "bits 7 to 1 are 0", malformed)
    const reasonCode = this.code(this.version === 5 ? codes.connack : codes.connack311)
    const properties = this.version === 5
      ? reader.properties(places.connack) as ConnackProperties | undefined
      : undefined
    if (properties?.authenticationData !== undefined && properties.authenticationMethod === undefined) {
      reader.fail("authentication data", "it comes only with an authentication method", protocolError)
    }
    return { _tag: "Connack", sessionPresent: flags === 1, reasonCode, properties }
  }

  private ack(tag: Ack["_tag"], allowed: Uint8Array): Ack {
    const reader = this.reader
    const packetId = reader.packetId()
    const reasonCode = reader.remaining > 0 ? this.code(allowed) : 0
    const properties = reader.remaining > 0 ? reader.properties(places.ack) as ReasonProperties | undefined : undefined
    return { _tag: tag, packetId, reasonCode, properties } as Ack
  }

  private suback(): Suback {
    const reader = this.reader
    const packetId = reader.packetId()
    const properties = this.version === 5 ? reader.properties(places.suback) as ReasonProperties | undefined : undefined
    const reasonCodes = this.codes(this.version === 5 ? codes.suback : codes.suback311)
    return { _tag: "Suback", packetId, reasonCodes, properties }
  }

  private unsuback(): Unsuback {
    const reader = this.reader
    const packetId = reader.packetId()
    if (this.version === 4) return { _tag: "Unsuback", packetId, reasonCodes: [], properties: undefined }
    const properties = reader.properties(places.unsuback) as ReasonProperties | undefined
    return { _tag: "Unsuback", packetId, reasonCodes: this.codes(codes.unsuback), properties }
  }

  private disconnect(): Disconnect {
    const reader = this.reader
    const reasonCode = reader.remaining > 0 ? this.code(codes.disconnect) : 0
    const properties = reader.remaining > 0
      ? reader.properties(places.disconnect) as DisconnectProperties | undefined
      : undefined
    return { _tag: "Disconnect", reasonCode, properties }
  }

  private auth(): Auth {
    const reader = this.reader
    // The short form carries no method, which the text asks for and takes away; the owner of the exchange decides.
    if (reader.remaining === 0) return { _tag: "Auth", reasonCode: 0, properties: undefined }
    const reasonCode = this.code(codes.auth)
    const properties = reader.properties(places.auth) as AuthProperties | undefined
    if (properties?.authenticationMethod === undefined) {
      reader.fail("authentication method", "AUTH carries the authentication method", protocolError)
    }
    return { _tag: "Auth", reasonCode, properties }
  }

  private code(allowed: Uint8Array): number {
    const reader = this.reader
    const code = reader.uint8("reason code")
    if (allowed[code] === 0) {
      reader.fail("reason code", `${ReasonCode.toHex(code)} is no reason code of this packet`, protocolError)
    }
    return code
  }

  private codes(allowed: Uint8Array): ReadonlyArray<number> {
    const reader = this.reader
    const codes: Array<number> = []
    if (reader.remaining === 0) reader.fail("reason codes", "there is one for each filter", protocolError)
    while (reader.remaining > 0) codes.push(this.code(allowed))
    return codes
  }
}
