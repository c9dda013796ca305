/**
 * Between packets and bytes for the broker of the kit, by way of `mqtt-packet`: the client's own codec has no part in it.
 *
 * @since 0.1.0
 */
import mqttPacket from "mqtt-packet"
import type {
  ClientPacket,
  ConnectProperties,
  Packet,
  ProtocolVersion,
  QoS,
  ServerPacket,
  UserProperties,
  WillProperties
} from "../protocol/Packet.ts"
import { check } from "./WireChecks.ts"
import type { Broken } from "./WireChecks.ts"

/** A property bag of `mqtt-packet`, which spells some names its own way. */
type Bag = Record<string, unknown>

const own = (bytes: ArrayLike<number>): Uint8Array => Uint8Array.from(bytes)

const buffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

// ---------------------------------------------------------------------------
// decoding
// ---------------------------------------------------------------------------

/** Properties in our spelling; `undefined` when there are none. User properties come from the walk over the raw bytes. */
const readBag = <A>(bag: Bag | undefined, userProperties: UserProperties | undefined): A | undefined => {
  const properties: Bag = {}
  for (const [name, value] of Object.entries(bag ?? {})) {
    if (name === "userProperties") continue
    if (name === "payloadFormatIndicator") properties[name] = value === true ? 1 : 0
    else properties[name] = value instanceof Uint8Array ? own(value) : value
  }
  if (userProperties !== undefined) properties["userProperties"] = userProperties
  return Object.keys(properties).length === 0 ? undefined : properties as A
}

/** `mqtt-packet`'s result; its types leave out what the parser fills in. */
interface Parsed {
  readonly cmd: string
  readonly messageId?: number
  readonly reasonCode?: number
  readonly qos: QoS
  readonly dup: boolean
  readonly retain: boolean
  readonly topic: string
  readonly payload: Uint8Array
  readonly protocolVersion: number
  readonly clientId: string
  readonly clean: boolean
  readonly keepalive: number
  readonly username?: string
  readonly password?: Uint8Array
  readonly will?: {
    readonly topic: string
    readonly payload: Uint8Array
    readonly qos: QoS
    readonly retain: boolean
    readonly properties?: Bag
  }
  readonly subscriptions: ReadonlyArray<{
    readonly topic: string
    readonly qos: QoS
    readonly nl?: boolean
    readonly rap?: boolean
    readonly rh?: 0 | 1 | 2
  }>
  readonly unsubscriptions: ReadonlyArray<string>
  readonly properties?: Bag
}

interface FrameParser {
  readonly parse: (frame: Uint8Array) => Parsed | Error
}

const makeParser = (version: ProtocolVersion): FrameParser => {
  let result: Parsed | Error
  const parser = mqttPacket.parser({ protocolVersion: version })
  parser.on("packet", (packet) => {
    result = packet as unknown as Parsed
  })
  parser.on("error", (error: Error) => {
    result = error
  })
  return {
    parse: (frame) => {
      result = new Error("no packet")
      const left = parser.parse(buffer(frame))
      return left === 0 ? result : new Error(`${left} bytes not used`)
    }
  }
}

/** Parsers that are between two packets; making one costs more than a packet. */
const parsers = new Map<ProtocolVersion, FrameParser>()

const parse = (version: ProtocolVersion, frame: Uint8Array): Parsed | Error => {
  // A CONNECT changes the parser's own version, and after an error its state is not to be trusted.
  const isConnect = frame[0]! >> 4 === 1
  const parser = isConnect ? makeParser(version) : parsers.get(version) ?? makeParser(version)
  const result = parser.parse(frame)
  if (result instanceof Error) parsers.delete(version)
  else if (!isConnect) parsers.set(version, parser)
  return result
}

const readConnect = (
  parsed: Parsed,
  userProperties: UserProperties | undefined,
  willUserProperties: UserProperties | undefined
): ClientPacket => ({
  _tag: "Connect",
  protocolVersion: parsed.protocolVersion === 5 ? 5 : 4,
  clientId: parsed.clientId,
  cleanStart: parsed.clean,
  keepAlive: parsed.keepalive,
  username: parsed.username,
  password: parsed.password === undefined ? undefined : own(parsed.password),
  will: parsed.will === undefined ? undefined : {
    topic: parsed.will.topic,
    payload: own(parsed.will.payload),
    qos: parsed.will.qos,
    retain: parsed.will.retain,
    properties: readBag<WillProperties>(parsed.will.properties, willUserProperties)
  },
  properties: readBag<ConnectProperties>(parsed.properties, userProperties)
})

const tags = {
  puback: "Puback",
  pubrec: "Pubrec",
  pubrel: "Pubrel",
  pubcomp: "Pubcomp",
  disconnect: "Disconnect",
  auth: "Auth"
} as const

const readPacket = (
  parsed: Parsed,
  userProperties: UserProperties | undefined,
  willUserProperties: UserProperties | undefined
): ClientPacket => {
  const packetId = parsed.messageId ?? 0
  const reasonCode = parsed.reasonCode ?? 0
  switch (parsed.cmd) {
    case "connect":
      return readConnect(parsed, userProperties, willUserProperties)
    case "publish":
      return {
        _tag: "Publish",
        dup: parsed.dup,
        qos: parsed.qos,
        retain: parsed.retain,
        topic: parsed.topic,
        packetId,
        payload: own(parsed.payload),
        properties: readBag(parsed.properties, userProperties)
      }
    case "subscribe":
      return {
        _tag: "Subscribe",
        packetId,
        subscriptions: parsed.subscriptions.map((subscription) => ({
          filter: subscription.topic,
          qos: subscription.qos,
          noLocal: subscription.nl ?? false,
          retainAsPublished: subscription.rap ?? false,
          retainHandling: subscription.rh ?? 0
        })),
        properties: readBag(parsed.properties, userProperties)
      }
    case "unsubscribe":
      return {
        _tag: "Unsubscribe",
        packetId,
        filters: parsed.unsubscriptions,
        properties: readBag(parsed.properties, userProperties)
      }
    case "pingreq":
      return { _tag: "Pingreq" }
    case "disconnect":
    case "auth":
      return { _tag: tags[parsed.cmd], reasonCode, properties: readBag(parsed.properties, userProperties) }
    default: {
      const tag = tags[parsed.cmd as "puback" | "pubrec" | "pubrel" | "pubcomp"]
      return { _tag: tag, packetId, reasonCode, properties: readBag(parsed.properties, userProperties) }
    }
  }
}

/**
 * Reads one whole packet of a client; `version` is that of the connection, and CONNECT brings its own.
 *
 * @internal
 */
export const decode = (version: ProtocolVersion | undefined, frame: Uint8Array): ClientPacket | Broken => {
  const checked = check(version, frame)
  if (checked._tag === "Broken") return checked
  const parsed = parse(version ?? 5, frame)
  // What passes the walk and not the parser is an error of either of the two: never the right answer, never silent.
  if (parsed instanceof Error) {
    return { _tag: "Broken", row: "ER-01b", problem: `not understood: ${parsed.message}`, reasonCode: 0x81 }
  }
  return readPacket(parsed, checked.userProperties, checked.willUserProperties)
}

// ---------------------------------------------------------------------------
// encoding
// ---------------------------------------------------------------------------

const writeBag = (properties: object | undefined): Bag => {
  const bag: Bag = {}
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined) continue
    switch (name) {
      case "payloadFormatIndicator":
        bag[name] = value === 1
        break
      case "userProperties":
        // One object for each pair keeps the order.
        bag[name] = (value as UserProperties).map(([key, text]) => ({ [key]: text }))
        break
      case "subscriptionIdentifiers":
        bag["subscriptionIdentifier"] = [...value as ReadonlyArray<number>]
        break
      case "subscriptionIdentifierAvailable":
        bag["subscriptionIdentifiersAvailable"] = value
        break
      default:
        bag[name] = value instanceof Uint8Array ? buffer(value) : value
    }
  }
  return bag
}

const writePacket = (version: ProtocolVersion, packet: ServerPacket): Bag => {
  const properties = version === 5 && "properties" in packet ? { properties: writeBag(packet.properties) } : {}
  switch (packet._tag) {
    case "Connack":
      return {
        cmd: "connack",
        sessionPresent: packet.sessionPresent,
        [version === 5 ? "reasonCode" : "returnCode"]: packet.reasonCode,
        ...properties
      }
    case "Publish":
      return {
        cmd: "publish",
        topic: packet.topic,
        payload: buffer(packet.payload),
        qos: packet.qos,
        dup: packet.dup,
        retain: packet.retain,
        messageId: packet.packetId,
        ...properties
      }
    case "Puback":
    case "Pubrec":
    case "Pubrel":
    case "Pubcomp": {
      const isBare = packet.properties === undefined || Object.keys(packet.properties).length === 0
      const ack = { cmd: packet._tag.toLowerCase(), messageId: packet.packetId, reasonCode: packet.reasonCode }
      // Without properties mqtt-packet writes the short forms, which clients have to read.
      return isBare ? ack : { ...ack, ...properties }
    }
    case "Suback":
    case "Unsuback":
      return {
        cmd: packet._tag.toLowerCase(),
        messageId: packet.packetId,
        granted: [...packet.reasonCodes],
        ...properties
      }
    case "Pingresp":
      return { cmd: "pingresp" }
    case "Disconnect":
    case "Auth":
      return { cmd: packet._tag.toLowerCase(), reasonCode: packet.reasonCode, ...properties }
  }
}

/**
 * Writes one packet of a server. What `mqtt-packet` refuses to write is a defect of the caller.
 *
 * @internal
 */
export const encode = (version: ProtocolVersion, packet: ServerPacket): Uint8Array =>
  own(mqttPacket.generate(writePacket(version, packet) as never, { protocolVersion: version }))

/**
 * The tag of a packet in the spelling of the standard.
 *
 * @internal
 */
export const nameOf = (packet: Packet): string => packet._tag.toUpperCase()
