/** Our packets as those of `mqtt-packet`, the peer that both directions of the codec are compared with. */
import { Buffer } from "node:buffer"
import mqttPacket from "mqtt-packet"
import type { Packet, ProtocolVersion, UserProperties } from "../../../src/protocol/Packet.ts"
import { plain } from "./PacketGenerator.ts"

/** It keeps no order among names, turns a repeated name into a list, and forgets an empty value that is repeated. */
const groupUserProperties = (pairs: UserProperties): Record<string, string | Array<string>> => {
  const groups: Record<string, string | Array<string>> = Object.create(null)
  for (const [name, value] of pairs) {
    const group = groups[name]
    groups[name] = group === undefined || group === ""
      ? value
      : Array.isArray(group)
      ? [...group, value]
      : [group, value]
  }
  return groups
}

const renamed: Readonly<Record<string, string>> = {
  subscriptionIdentifierAvailable: "subscriptionIdentifiersAvailable",
  subscriptionIdentifiers: "subscriptionIdentifier"
}

const propertiesOf = (properties: object | undefined, forGenerate: boolean): { readonly properties?: object } => {
  if (properties === undefined) return {}
  const entries = Object.entries(properties).flatMap(([key, value]): Array<[string, unknown]> => {
    if (value === undefined) return []
    const name = renamed[key] ?? key
    if (key === "userProperties") {
      // An array of objects with one key each is what it writes in order; what it reads is grouped.
      const pairs = value as UserProperties
      return [[name, forGenerate ? pairs.map(([key, text]) => ({ [key]: text })) : groupUserProperties(pairs)]]
    }
    if (key === "subscriptionIdentifiers" && value.length === 1) return [[name, value[0]]]
    if (key === "payloadFormatIndicator") return [[name, value === 1]]
    return [[name, value instanceof Uint8Array ? Buffer.from(value) : value]]
  })
  return entries.length === 0 ? {} : { properties: Object.fromEntries(entries) }
}

/** What `mqtt-packet` would give for the bytes of this packet, or what it takes to write them. */
export const toMqttPacket = (
  packet: Packet,
  version: ProtocolVersion,
  forGenerate = false
): Record<string, unknown> => {
  const explained = (packet: { readonly reasonCode: number; readonly properties: object | undefined }) =>
    version === 5 ? { reasonCode: packet.reasonCode, ...propertiesOf(packet.properties, forGenerate) } : {}
  switch (packet._tag) {
    case "Connect":
      return {
        cmd: "connect",
        protocolId: "MQTT",
        protocolVersion: version,
        clean: packet.cleanStart,
        keepalive: packet.keepAlive,
        clientId: packet.clientId,
        ...packet.username === undefined ? {} : { username: packet.username },
        ...packet.password === undefined ? {} : { password: Buffer.from(packet.password) },
        ...packet.will === undefined ? {} : {
          will: {
            topic: packet.will.topic,
            payload: Buffer.from(packet.will.payload),
            qos: packet.will.qos,
            retain: packet.will.retain,
            ...propertiesOf(packet.will.properties, forGenerate)
          }
        },
        ...propertiesOf(packet.properties, forGenerate)
      }
    case "Connack":
      return {
        cmd: "connack",
        sessionPresent: packet.sessionPresent,
        ...version === 5 ? { reasonCode: packet.reasonCode } : { returnCode: packet.reasonCode },
        ...propertiesOf(packet.properties, forGenerate)
      }
    case "Publish":
      return {
        cmd: "publish",
        qos: packet.qos,
        dup: packet.dup,
        retain: packet.retain,
        topic: packet.topic,
        payload: Buffer.from(packet.payload),
        ...packet.qos === 0 ? {} : { messageId: packet.packetId },
        ...propertiesOf(packet.properties, forGenerate)
      }
    case "Puback":
    case "Pubrec":
    case "Pubrel":
    case "Pubcomp":
      return { cmd: packet._tag.toLowerCase(), messageId: packet.packetId, ...explained(packet) }
    case "Subscribe":
      return {
        cmd: "subscribe",
        messageId: packet.packetId,
        subscriptions: packet.subscriptions.map(({ filter, noLocal, qos, retainAsPublished, retainHandling }) => ({
          topic: filter,
          qos,
          ...version === 5 ? { nl: noLocal, rap: retainAsPublished, rh: retainHandling } : {}
        })),
        ...propertiesOf(packet.properties, forGenerate)
      }
    case "Suback":
      return {
        cmd: "suback",
        messageId: packet.packetId,
        granted: packet.reasonCodes,
        ...propertiesOf(packet.properties, forGenerate)
      }
    case "Unsubscribe":
      return {
        cmd: "unsubscribe",
        messageId: packet.packetId,
        unsubscriptions: packet.filters,
        ...propertiesOf(packet.properties, forGenerate)
      }
    case "Unsuback":
      return {
        cmd: "unsuback",
        messageId: packet.packetId,
        ...version === 5 ? { granted: packet.reasonCodes } : {},
        ...propertiesOf(packet.properties, forGenerate)
      }
    case "Pingreq":
    case "Pingresp":
      return { cmd: packet._tag.toLowerCase() }
    case "Disconnect":
      return { cmd: "disconnect", ...explained(packet) }
    case "Auth":
      return { cmd: "auth", reasonCode: packet.reasonCode, ...propertiesOf(packet.properties, forGenerate) }
  }
}

/** The one packet in these bytes, as plain data without what describes the frame alone. */
export const readByMqttPacket = (bytes: Uint8Array, version: ProtocolVersion): unknown => {
  const packets: Array<Record<string, unknown>> = []
  const parser = mqttPacket.parser({ protocolVersion: version })
  parser.on("packet", (packet) => packets.push({ ...packet }))
  parser.on("error", (error: Error) => packets.push({ error: error.message }))
  parser.parse(Buffer.from(bytes))
  return plain(packets.length === 1 ? withoutFrame(packets[0]) : packets)
}

/** It fills in fields of the fixed header and defaults that the packet's type does not have. */
const withoutFrame = (packet: Record<string, unknown>): Record<string, unknown> => {
  const { length: _length, ...rest } = packet
  if (rest["cmd"] === "publish") return rest["qos"] === 0 ? { ...rest, messageId: undefined } : rest
  const { dup: _dup, payload: _payload, qos: _qos, retain: _retain, topic: _topic, ...own } = rest
  return own
}

export const writeByMqttPacket = (packet: Packet, version: ProtocolVersion): Uint8Array =>
  mqttPacket.generate(toMqttPacket(packet, version, true) as unknown as mqttPacket.Packet, { protocolVersion: version })
