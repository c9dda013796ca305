/**
 * Writes the PUBLISH that nearly all are: every field valid, every string short and ASCII. It counts a byte for each
 * character, writes, and checks each character as it writes it; when it meets what it did not count on it gives up, and
 * the general path, which measures and judges first, takes over. So it needs one pass over a string where that needs two.
 *
 * @since 0.1.0
 */
import type { ProtocolVersion, PublishProperties, QoS, UserProperties } from "./Packet.ts"
import { varintSize, writeVarint } from "./PacketWriter.ts"
import * as TopicMemory from "./TopicMemory.ts"
import * as Utf8 from "./Utf8.ts"

/** Beyond this a call into the platform is faster than a loop. */
const longest = 256

/**
 * What the functions here answer when they give up.
 *
 * @category constants
 * @since 0.1.0
 */
export const GaveUp = -1

/**
 * What is written of a message besides its properties and what stands in the header.
 *
 * @category models
 * @since 0.1.0
 */
export interface PublishFields {
  readonly topic: string
  readonly payload: Uint8Array
  readonly qos: QoS
  readonly retain: boolean
  /** What `TopicMemory` has of the topic, where that is known. */
  readonly encodedTopic?: Uint8Array | undefined
}

/**
 * The bytes between fixed header and payload if all strings are ASCII, or `GaveUp`.
 *
 * @category encoding
 * @since 0.1.0
 */
export const asciiSize = (
  message: PublishFields,
  properties: PublishProperties | undefined,
  packetId: number,
  version: ProtocolVersion
): number => {
  const { payload, qos, topic } = message
  if (!isShort(topic) || topic.length === 0 || !(payload instanceof Uint8Array)) return GaveUp
  let size = 2 + topic.length
  if (qos === 0) {
    if (packetId !== 0) return GaveUp
  } else {
    if (qos !== 1 && qos !== 2 || (packetId & 0xffff) !== packetId || packetId === 0) return GaveUp
    size += 2
  }
  if (version === 4) return size
  if (properties === undefined) return size + 1
  const length = propertiesSize(properties, payload)
  return length === GaveUp ? GaveUp : size + varintSize(length) + length
}

/**
 * Writes what `asciiSize` counted. Gives the position behind it, or `GaveUp` where a string is not what was counted on.
 *
 * @category encoding
 * @since 0.1.0
 */
export const writeAscii = (
  topic: string,
  properties: PublishProperties | undefined,
  packetId: number,
  version: ProtocolVersion,
  bytes: Uint8Array,
  start: number
): number => {
  const remembered = TopicMemory.get(topic)
  let position: number
  if (remembered === undefined) {
    position = writeTopicName(topic, bytes, start)
    if (position === GaveUp) return GaveUp
  } else {
    bytes.set(remembered, start)
    position = start + remembered.length
  }
  if (packetId !== 0) {
    bytes[position++] = packetId >>> 8
    bytes[position++] = packetId
  }
  if (version === 4) return position
  if (properties === undefined) {
    bytes[position++] = 0
    return position
  }
  position = writeVarint(propertiesSize(properties, undefined), bytes, position)
  return writeProperties(properties, bytes, position)
}

const isShort = (text: string): boolean => typeof text === "string" && text.length <= longest

/** The payload is looked at only where it is given and said to be UTF-8. */
const propertiesSize = (properties: PublishProperties, payload: Uint8Array | undefined): number => {
  const { contentType, correlationData, messageExpiryInterval, payloadFormatIndicator, responseTopic, topicAlias } =
    properties
  if (properties.subscriptionIdentifiers !== undefined) return GaveUp
  let size = 0
  if (payloadFormatIndicator !== undefined) {
    if (payloadFormatIndicator !== 0 && payloadFormatIndicator !== 1) return GaveUp
    if (payloadFormatIndicator === 1 && payload !== undefined && !Utf8.isWellFormed(payload)) return GaveUp
    size += 2
  }
  if (messageExpiryInterval !== undefined) {
    if (messageExpiryInterval >>> 0 !== messageExpiryInterval) return GaveUp
    size += 5
  }
  if (topicAlias !== undefined) {
    if ((topicAlias & 0xffff) !== topicAlias || topicAlias === 0) return GaveUp
    size += 3
  }
  if (responseTopic !== undefined) {
    if (!isShort(responseTopic) || responseTopic.length === 0) return GaveUp
    size += 3 + responseTopic.length
  }
  if (correlationData !== undefined) {
    if (!(correlationData instanceof Uint8Array) || correlationData.length > longest) return GaveUp
    size += 3 + correlationData.length
  }
  if (contentType !== undefined) {
    if (!isShort(contentType)) return GaveUp
    size += 3 + contentType.length
  }
  return properties.userProperties === undefined ? size : userPropertiesSize(properties.userProperties, size)
}

const userPropertiesSize = (pairs: UserProperties, before: number): number => {
  if (!Array.isArray(pairs)) return GaveUp
  let size = before
  for (let i = 0; i < pairs.length; i++) {
    const pair = pairs[i]
    if (!Array.isArray(pair) || !isShort(pair[0]) || !isShort(pair[1])) return GaveUp
    size += 5 + pair[0].length + pair[1].length
  }
  return size
}

const writeProperties = (properties: PublishProperties, bytes: Uint8Array, start: number): number => {
  const { contentType, correlationData, messageExpiryInterval, payloadFormatIndicator, responseTopic, topicAlias } =
    properties
  let position = start
  if (payloadFormatIndicator !== undefined) {
    bytes[position++] = 0x01
    bytes[position++] = payloadFormatIndicator
  }
  if (messageExpiryInterval !== undefined) {
    bytes[position++] = 0x02
    bytes[position++] = messageExpiryInterval >>> 24
    bytes[position++] = messageExpiryInterval >>> 16
    bytes[position++] = messageExpiryInterval >>> 8
    bytes[position++] = messageExpiryInterval
  }
  if (contentType !== undefined) {
    bytes[position++] = 0x03
    position = writeString(contentType, bytes, position)
    if (position === GaveUp) return GaveUp
  }
  if (responseTopic !== undefined) {
    bytes[position++] = 0x08
    position = writeTopicName(responseTopic, bytes, position)
    if (position === GaveUp) return GaveUp
  }
  if (correlationData !== undefined) {
    bytes[position++] = 0x09
    bytes[position++] = correlationData.length >>> 8
    bytes[position++] = correlationData.length
    bytes.set(correlationData, position)
    position += correlationData.length
  }
  if (topicAlias !== undefined) {
    bytes[position++] = 0x23
    bytes[position++] = topicAlias >>> 8
    bytes[position++] = topicAlias
  }
  return properties.userProperties === undefined
    ? position
    : writeUserProperties(properties.userProperties, bytes, position)
}

const writeUserProperties = (pairs: UserProperties, bytes: Uint8Array, start: number): number => {
  let position = start
  for (let i = 0; i < pairs.length; i++) {
    bytes[position++] = 0x26
    position = writeString(pairs[i][0], bytes, position)
    if (position === GaveUp) return GaveUp
    position = writeString(pairs[i][1], bytes, position)
    if (position === GaveUp) return GaveUp
  }
  return position
}

const writeString = (text: string, bytes: Uint8Array, start: number): number => {
  const length = text.length
  bytes[start] = length >>> 8
  bytes[start + 1] = length
  const from = start + 2
  for (let i = 0; i < length; i++) {
    const unit = text.charCodeAt(i)
    if (unit > 0x7f || unit === 0) return GaveUp
    bytes[from + i] = unit
  }
  return from + length
}

const writeTopicName = (text: string, bytes: Uint8Array, start: number): number => {
  const length = text.length
  bytes[start] = length >>> 8
  bytes[start + 1] = length
  const from = start + 2
  for (let i = 0; i < length; i++) {
    const unit = text.charCodeAt(i)
    // Below the digits are U+0000, `#` and `+`; letters and `/` pass with one comparison or two.
    if (unit > 0x7f || unit < 0x2c && (unit === 0 || unit === 0x23 || unit === 0x2b)) return GaveUp
    bytes[from + i] = unit
  }
  return from + length
}
