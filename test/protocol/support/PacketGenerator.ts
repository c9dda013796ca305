/**
 * Packets at random, from a seed: valid ones of every type, of both versions, with every property. What a server sends
 * has a writer of its own here, slow and plain, so that the decoder is tested against something else than the encoder.
 */
import type {
  Ack,
  ClientPacket,
  Connack,
  Connect,
  ProtocolVersion,
  Publish,
  QoS,
  ServerPacket,
  Will
} from "../../../src/protocol/Packet.ts"
import * as Property from "../../../src/protocol/Property.ts"
import * as ReasonCode from "../../../src/protocol/ReasonCode.ts"

/** A small generator of numbers with a state of 32 bits: quick to seed anew for each case. */
export class Random {
  private state: number

  constructor(seed: number) {
    this.state = seed >>> 0
    for (let i = 0; i < 4; i++) this.next()
  }

  /** An integer of 32 bits. */
  next(): number {
    this.state = this.state + 0x6d2b79f5 >>> 0
    let t = this.state
    t = Math.imul(t ^ t >>> 15, t | 1)
    t ^= t + Math.imul(t ^ t >>> 7, t | 61)
    return (t ^ t >>> 14) >>> 0
  }

  /** From `min` to `max`, both included. */
  int(min: number, max: number): number {
    return min + Math.floor(this.next() / 4_294_967_296 * (max - min + 1))
  }

  bool(probability = 0.5): boolean {
    return this.next() / 4_294_967_296 < probability
  }

  pick<A>(values: ReadonlyArray<A>): A {
    return values[this.int(0, values.length - 1)]
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.int(0, 255))
  }

  maybe<A>(make: () => A): A | undefined {
    return this.bool() ? make() : undefined
  }

  array<A>(min: number, max: number, make: () => A): ReadonlyArray<A> {
    return Array.from({ length: this.int(min, max) }, make)
  }
}

const alphabets = [
  ..."abcdefghijklmnopqrstuvwxyzABCDEFXYZ0123456789-_./ ",
  ...["\u0001", "\u007f", "é", "ß", "\u07ff", "\u0800", "東", "\ufeff", "\ufffd", "😀", "\u{10ffff}"]
]

const lengthOf = (random: Random): number => random.bool(0.05) ? random.int(60, 200) : random.int(0, 20)

export const text = (random: Random): string => {
  const ascii = random.bool(0.7)
  const last = alphabets.length - 1
  return Array.from({ length: lengthOf(random) }, () => alphabets[random.int(0, ascii ? last - 11 : last)]).join("")
}

export const topicName = (random: Random): string => `${random.pick(["a", "é", "$", "/"])}${text(random)}`

const topicFilter = (random: Random): string =>
  random.pick([topicName(random), "#", "+/x", `$share/g/${topicName(random)}`, "a/+/#"])

const binary = (random: Random): Uint8Array => random.bytes(lengthOf(random))

const qosOf = (random: Random): QoS => random.pick([0, 1, 2] as const)

const packetIdOf = (random: Random): number => random.pick([1, 2, 255, 256, 65_534, 65_535, random.int(1, 65_535)])

const userProperties = (random: Random): ReadonlyArray<readonly [string, string]> =>
  random.array(1, 3, () => [random.pick(["", "k", "key", text(random)]), text(random)] as const)

const uint32 = (random: Random): number => random.pick([0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, random.next()])

const valueOf = (random: Random, property: Property.Property): unknown => {
  switch (property.type) {
    case "byte":
      return random.int(0, 1)
    case "boolean":
      return random.bool()
    case "uint16":
      return random.pick([property.min, 65_535, random.int(property.min, 65_535)])
    case "uint32":
      return Math.max(property.min, uint32(random))
    case "varint":
      return random.pick([1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455])
    case "string":
      return property.id === 0x08 ? topicName(random) : text(random)
    case "binary":
      return binary(random)
    case "pair":
      return userProperties(random)
  }
}

/** Some of these properties, or none at all. */
const propertiesOf = (random: Random, ids: ReadonlyArray<number>): Record<string, unknown> | undefined => {
  if (random.bool(0.3)) return undefined
  const chance = random.pick([0.2, 0.5, 1])
  const properties: Record<string, unknown> = {}
  for (const id of ids) {
    if (!random.bool(chance)) continue
    const property = Property.byId.get(id) as Property.Property
    properties[property.key] = valueOf(random, property)
  }
  // Together or not at all.
  if (properties["authenticationMethod"] === undefined) delete properties["authenticationData"]
  return Object.keys(properties).length === 0 ? undefined : properties
}

/** UTF-8 where the payload says so. */
const payloadOf = (random: Random, properties: Record<string, unknown> | undefined): Uint8Array =>
  properties?.["payloadFormatIndicator"] === 1
    ? new TextEncoder().encode(text(random))
    : random.bytes(random.pick([0, 1, 10, 100, random.bool(0.02) ? 20_000 : 130]))

const publish = (random: Random, version: ProtocolVersion, ids: ReadonlyArray<number>): Publish => {
  const qos = qosOf(random)
  const properties = version === 5 ? propertiesOf(random, ids) : undefined
  return {
    _tag: "Publish",
    dup: qos > 0 && random.bool(),
    qos,
    retain: random.bool(),
    topic: properties?.["topicAlias"] !== undefined && random.bool() ? "" : topicName(random),
    packetId: qos === 0 ? 0 : packetIdOf(random),
    payload: payloadOf(random, properties),
    properties
  }
}

const ack = (
  random: Random,
  version: ProtocolVersion,
  codes: Readonly<Record<Ack["_tag"], ReadonlyArray<number>>>
): Ack => {
  const tag = random.pick(["Puback", "Pubrec", "Pubrel", "Pubcomp"] as const)
  return {
    _tag: tag,
    packetId: packetIdOf(random),
    reasonCode: version === 5 ? random.pick([0, random.pick(codes[tag])]) : 0,
    properties: version === 5 ? propertiesOf(random, Property.fromClient.Puback) : undefined
  }
}

const willOf = (random: Random, version: ProtocolVersion): Will => {
  const properties = version === 5 ? propertiesOf(random, Property.fromClient.Will) : undefined
  return {
    topic: topicName(random),
    payload: payloadOf(random, properties),
    qos: qosOf(random),
    retain: random.bool(),
    properties
  }
}

const connect = (random: Random, version: ProtocolVersion): Connect => {
  const cleanStart = random.bool()
  const username = random.maybe(() => text(random))
  return {
    _tag: "Connect",
    protocolVersion: version,
    clientId: cleanStart || version === 5 ? text(random) : `c${text(random)}`,
    cleanStart,
    keepAlive: random.pick([0, 1, 60, 65_535]),
    username,
    password: username !== undefined || version === 5 ? random.maybe(() => binary(random)) : undefined,
    will: random.maybe(() => willOf(random, version)),
    properties: version === 5 ? propertiesOf(random, Property.fromClient.Connect) : undefined
  }
}

/** A valid packet that a client of this version may send. */
export const clientPacket = (random: Random, version: ProtocolVersion): ClientPacket => {
  const properties = (ids: ReadonlyArray<number>) => version === 5 ? propertiesOf(random, ids) : undefined
  switch (random.int(0, version === 5 ? 7 : 6)) {
    case 0:
      return connect(random, version)
    case 1:
      return publish(random, version, Property.fromClient.Publish)
    case 2:
      return ack(random, version, ReasonCode.fromClient)
    case 3: {
      const subscriptions = random.array(1, 4, () => {
        const filter = topicFilter(random)
        return {
          filter,
          qos: qosOf(random),
          noLocal: version === 5 && !filter.startsWith("$share/") && random.bool(),
          retainAsPublished: version === 5 && random.bool(),
          retainHandling: version === 5 ? random.pick([0, 1, 2] as const) : 0 as const
        }
      })
      const props = properties(Property.fromClient.Subscribe)
      return { _tag: "Subscribe", packetId: packetIdOf(random), subscriptions, properties: props }
    }
    case 4: {
      const filters = random.array(1, 4, () => topicFilter(random))
      const props = properties(Property.fromClient.Unsubscribe)
      return { _tag: "Unsubscribe", packetId: packetIdOf(random), filters, properties: props }
    }
    case 5:
      return { _tag: "Pingreq" }
    case 6: {
      const reasonCode = version === 5 ? random.pick(ReasonCode.fromClient.Disconnect) : 0
      return { _tag: "Disconnect", reasonCode, properties: properties(Property.fromClient.Disconnect) }
    }
    default: {
      const props = { authenticationMethod: text(random), ...properties(Property.fromClient.Auth) }
      return { _tag: "Auth", reasonCode: random.pick(ReasonCode.fromClient.Auth), properties: props }
    }
  }
}

const connack = (random: Random, version: ProtocolVersion): Connack => ({
  _tag: "Connack",
  sessionPresent: random.bool(),
  reasonCode: random.pick(version === 5 ? ReasonCode.fromServer.Connack : ReasonCode.fromServer311.Connack),
  properties: version === 5 ? propertiesOf(random, Property.fromServer.Connack) : undefined
})

/** Subscription identifiers are a list where a server sends them. */
const serverPublish = (random: Random, version: ProtocolVersion): Publish => {
  const { properties, ...packet } = publish(random, version, Property.fromClient.Publish)
  const subscriptionIdentifiers = version === 5 && random.bool(0.3)
    ? random.array(1, 3, () => random.int(1, 268_435_455))
    : undefined
  return {
    ...packet,
    properties: subscriptionIdentifiers === undefined ? properties : { ...properties, subscriptionIdentifiers }
  }
}

/** A valid packet that a server of this version may send. */
export const serverPacket = (random: Random, version: ProtocolVersion): ServerPacket => {
  const properties = (ids: ReadonlyArray<number>) => version === 5 ? propertiesOf(random, ids) : undefined
  switch (random.int(0, version === 5 ? 7 : 5)) {
    case 0:
      return connack(random, version)
    case 1:
      return serverPublish(random, version)
    case 2:
      return ack(random, version, ReasonCode.fromServer)
    case 3: {
      const codes: ReadonlyArray<number> = version === 5
        ? ReasonCode.fromServer.Suback
        : ReasonCode.fromServer311.Suback
      const reasonCodes = random.array(1, 4, () => random.pick(codes))
      const props = properties(Property.fromServer.Suback)
      return { _tag: "Suback", packetId: packetIdOf(random), reasonCodes, properties: props }
    }
    case 4: {
      const reasonCodes = version === 5
        ? random.array(1, 4, () => random.pick(ReasonCode.fromServer.Unsuback))
        : []
      const props = properties(Property.fromServer.Unsuback)
      return { _tag: "Unsuback", packetId: packetIdOf(random), reasonCodes, properties: props }
    }
    case 5:
      return { _tag: "Pingresp" }
    case 6: {
      const reasonCode = random.pick(ReasonCode.fromServer.Disconnect)
      return { _tag: "Disconnect", reasonCode, properties: properties(Property.fromServer.Disconnect) }
    }
    default: {
      const props = { authenticationMethod: text(random), ...properties(Property.fromServer.Auth) }
      return { _tag: "Auth", reasonCode: random.pick(ReasonCode.fromServer.Auth), properties: props }
    }
  }
}

// ---------------------------------------------------------------------------
// the bytes of a server
// ---------------------------------------------------------------------------

const uint16Bytes = (value: number): Array<number> => [value >> 8 & 255, value & 255]

export const varintBytes = (value: number): Array<number> =>
  value < 128 ? [value] : [value % 128 + 128, ...varintBytes(Math.floor(value / 128))]

const binaryBytes = (bytes: Uint8Array): Array<number> => [...uint16Bytes(bytes.length), ...bytes]

export const stringBytes = (value: string): Array<number> => binaryBytes(new TextEncoder().encode(value))

const propertyBytes = (property: Property.Property, value: unknown): ReadonlyArray<ReadonlyArray<number>> => {
  const id = property.id
  switch (property.type) {
    case "byte":
      return [[id, value as number]]
    case "boolean":
      return [[id, value === true ? 1 : 0]]
    case "uint16":
      return [[id, ...uint16Bytes(value as number)]]
    case "uint32":
      return [[id, ...uint16Bytes(Math.floor(value as number / 65_536)), ...uint16Bytes(value as number % 65_536)]]
    case "varint":
      return (value as ReadonlyArray<number>).map((number) => [id, ...varintBytes(number)])
    case "string":
      return [[id, ...stringBytes(value as string)]]
    case "binary":
      return [[id, ...binaryBytes(value as Uint8Array)]]
    case "pair":
      return (value as ReadonlyArray<readonly [string, string]>).map(([name, text]) => [
        id,
        ...stringBytes(name),
        ...stringBytes(text)
      ])
  }
}

/** Property length and properties, in any order; those that repeat keep theirs. */
const propertiesBytes = (values: object | undefined, random: Random): Array<number> => {
  const groups = Object.entries(values ?? {}).flatMap(([key, value]) => {
    if (value === undefined) return []
    const property = key === "subscriptionIdentifiers"
      ? Property.byId.get(0x0b)
      : Property.all.find((property) => property.key === key)
    return [propertyBytes(property as Property.Property, value).flat()]
  })
  for (let i = groups.length - 1; i > 0; i--) {
    const j = random.int(0, i)
    const swapped = groups[i]
    groups[i] = groups[j]
    groups[j] = swapped
  }
  const bytes = groups.flat()
  return [...varintBytes(bytes.length), ...bytes]
}

export const frame = (first: number, body: ReadonlyArray<number>): Uint8Array =>
  Uint8Array.from([first, ...varintBytes(body.length), ...body])

const ackFirstBytes = { Puback: 0x40, Pubrec: 0x50, Pubrel: 0x62, Pubcomp: 0x70 } as const

/** One of the forms that the standard allows for this packet. */
export const serverBytes = (packet: ServerPacket, version: ProtocolVersion, random: Random): Uint8Array => {
  const properties = (values: object | undefined) => version === 5 ? propertiesBytes(values, random) : []
  switch (packet._tag) {
    case "Connack":
      return frame(0x20, [packet.sessionPresent ? 1 : 0, packet.reasonCode, ...properties(packet.properties)])
    case "Publish": {
      const first = 0x30 | (packet.dup ? 8 : 0) | packet.qos << 1 | (packet.retain ? 1 : 0)
      const id = packet.qos === 0 ? [] : uint16Bytes(packet.packetId)
      return frame(first, [
        ...stringBytes(packet.topic),
        ...id,
        ...properties(packet.properties),
        ...packet.payload
      ])
    }
    case "Puback":
    case "Pubrec":
    case "Pubrel":
    case "Pubcomp":
      return frame(ackFirstBytes[packet._tag], [
        ...uint16Bytes(packet.packetId),
        ...explained(packet, version, random)
      ])
    case "Suback":
      return frame(0x90, [...uint16Bytes(packet.packetId), ...properties(packet.properties), ...packet.reasonCodes])
    case "Unsuback":
      return frame(0xb0, [...uint16Bytes(packet.packetId), ...properties(packet.properties), ...packet.reasonCodes])
    case "Pingresp":
      return frame(0xd0, [])
    case "Disconnect":
      return frame(0xe0, explained(packet, version, random))
    case "Auth":
      return frame(0xf0, [packet.reasonCode, ...properties(packet.properties)])
  }
}

/** Reason code and properties, as short as it may be, or not. */
const explained = (
  packet: { readonly reasonCode: number; readonly properties: object | undefined },
  version: ProtocolVersion,
  random: Random
): Array<number> => {
  if (version === 4) return []
  if (packet.properties !== undefined || random.bool()) {
    return [packet.reasonCode, ...propertiesBytes(packet.properties, random)]
  }
  return packet.reasonCode === 0 && random.bool() ? [] : [packet.reasonCode]
}

/** A packet as plain data that compares by content: no absent fields, sorted keys, bytes in hex. */
export const plain = (value: unknown): unknown => {
  if (value instanceof Uint8Array) return `bytes ${toHex(value)}`
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== "object" || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, field]) => field !== undefined)
      .sort(([a], [b]) => a < b ? -1 : 1)
      .map(([key, field]) => [key, plain(field)])
  )
}

export const toHex = (bytes: Uint8Array): string =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0").toUpperCase()).join(" ")

export const fromHex = (hex: string): Uint8Array =>
  Uint8Array.from(hex.split(" ").filter((byte) => byte !== ""), (byte) => Number.parseInt(byte, 16))
