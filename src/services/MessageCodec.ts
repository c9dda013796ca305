/**
 * Between the messages of a user and the fields of a PUBLISH packet.
 *
 * @since 0.1.0
 */
import { TopicName, Utf8 } from "../protocol/index.ts"
import type { Publish, PublishProperties, QoS } from "../protocol/Packet.ts"
import type { Message, MessageProperties, OutgoingMessage } from "./Message.ts"

const encoder = new TextEncoder()
const empty = new Uint8Array(0)

/**
 * The payload as bytes, or the problem as a sentence.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodePayload = (payload: Uint8Array | string | undefined): Uint8Array | string => {
  if (payload === undefined) return empty
  if (typeof payload !== "string") return payload
  // TextEncoder would put U+FFFD in the place of a lone surrogate and say nothing.
  return payload.isWellFormed() ? encoder.encode(payload) : "a lone surrogate cannot be sent as UTF-8"
}

/**
 * Whether something is given that goes into the properties of a packet, whatever it is.
 *
 * @category validation
 * @since 0.1.0
 */
export const hasProperties = (message: MessageProperties): boolean =>
  message.contentType !== undefined || message.correlationData !== undefined ||
  message.messageExpiryInterval !== undefined || message.payloadFormat !== undefined ||
  message.responseTopic !== undefined || message.userProperties !== undefined

/**
 * The properties of a PUBLISH or will; `undefined` where there are none.
 *
 * @category encoding
 * @since 0.1.0
 */
export const toPublishProperties = (
  message: MessageProperties & { readonly payload?: Uint8Array | string | undefined }
): PublishProperties | undefined => {
  const { contentType, correlationData, messageExpiryInterval, payloadFormat, responseTopic, userProperties } = message
  const utf8 = payloadFormat === "utf8" || (payloadFormat === undefined && typeof message.payload === "string")
  if (
    !utf8 && payloadFormat === undefined && messageExpiryInterval === undefined && contentType === undefined &&
    responseTopic === undefined && correlationData === undefined &&
    (userProperties === undefined || userProperties.length === 0)
  ) return undefined
  return {
    payloadFormatIndicator: utf8 ? 1 : payloadFormat === undefined ? undefined : 0,
    messageExpiryInterval,
    contentType,
    responseTopic,
    correlationData,
    userProperties: userProperties === undefined || userProperties.length === 0 ? undefined : userProperties
  }
}

/**
 * The problem of a message as field and sentence, if it has one.
 *
 * @category validation
 * @since 0.1.0
 */
export const checkMessage = (
  message: OutgoingMessage
): { readonly field: string; readonly problem: string } | undefined => {
  if (typeof message !== "object" || message === null) return { field: "message", problem: "must be an object" }
  const problem = typeof message.topic === "string" ? TopicName.validate(message.topic) : "must be a string"
  if (problem !== undefined) return { field: "topic", problem }
  const { payload, qos, retain } = message
  if (payload !== undefined && typeof payload !== "string" && !(payload instanceof Uint8Array)) {
    return { field: "payload", problem: "must be a Uint8Array or a string" }
  }
  if (qos !== undefined && qos !== 0 && qos !== 1 && qos !== 2) {
    return { field: "qos", problem: "must be 0, 1 or 2" }
  }
  if (retain !== undefined && typeof retain !== "boolean") return { field: "retain", problem: "must be a boolean" }
  return checkProperties(message)
}

const checkText = (field: string, value: unknown) => {
  if (value === undefined) return undefined
  const problem = typeof value === "string" ? Utf8.problemOf(Utf8.encodedLength(value)) : "must be a string"
  return problem === undefined ? undefined : { field, problem }
}

const checkProperties = (
  message: OutgoingMessage
): { readonly field: string; readonly problem: string } | undefined => {
  const { contentType, correlationData, messageExpiryInterval, payloadFormat, responseTopic, userProperties } = message
  if (payloadFormat !== undefined && payloadFormat !== "bytes" && payloadFormat !== "utf8") {
    return { field: "payloadFormat", problem: "must be \"bytes\" or \"utf8\"" }
  }
  if (payloadFormat === "utf8" && message.payload instanceof Uint8Array && !Utf8.isWellFormed(message.payload)) {
    return { field: "payload", problem: "is marked as UTF-8 and is not (MQTT 5.0 §3.3.2.3.2)" }
  }
  if (
    messageExpiryInterval !== undefined &&
    !(Number.isInteger(messageExpiryInterval) && messageExpiryInterval >= 0 && messageExpiryInterval <= 0xffffffff)
  ) return { field: "messageExpiryInterval", problem: "must be whole seconds from 0 to 4,294,967,295" }
  if (responseTopic !== undefined) {
    const problem = typeof responseTopic === "string" ? TopicName.validate(responseTopic) : "must be a string"
    if (problem !== undefined) return { field: "responseTopic", problem }
  }
  if (correlationData !== undefined) {
    if (!(correlationData instanceof Uint8Array)) return { field: "correlationData", problem: "must be a Uint8Array" }
    if (correlationData.length > 65535) return { field: "correlationData", problem: "longer than 65,535 bytes" }
  }
  if (userProperties !== undefined) {
    if (!Array.isArray(userProperties)) return { field: "userProperties", problem: "must be an array of pairs" }
    for (const [index, pair] of userProperties.entries()) {
      const text = Array.isArray(pair) && pair.length === 2
        ? checkText(`userProperties.${index}`, pair[0]) ?? checkText(`userProperties.${index}`, pair[1])
        : { field: `userProperties.${index}`, problem: "must be a pair of name and value" }
      if (text !== undefined) return text
    }
  }
  return checkText("contentType", contentType)
}

/** Memory that copies share: a buffer for each takes three times as long. Copies of up to 64 bytes have none, but the heap. */
const poolBytes = 8192
const smallestPooled = 65
const largestPooled = 1024
let pool = empty
let pooled = 0

const copyOf = (bytes: Uint8Array): Uint8Array => {
  const { length } = bytes
  if (length < smallestPooled || length > largestPooled) return bytes.slice()
  if (pooled + length > pool.length) {
    pool = new Uint8Array(poolBytes)
    pooled = 0
  }
  const copy = new Uint8Array(pool.buffer, pooled, length)
  copy.set(bytes)
  // The next one begins where a number of eight bytes may.
  pooled = (pooled + length + 7) & ~7
  return copy
}

/**
 * Copies the payload out of the chunk that it came in, if it is the smaller part of it: a small message that waits for somebody
 * is not to keep a chunk of 64 KiB alive.
 *
 * @category decoding
 * @since 0.1.0
 */
export const detachPayload = (message: Message): void => {
  const { payload } = message
  if (payload.length === 0 || payload.buffer.byteLength <= Math.max(poolBytes, 2 * payload.length)) return
  // Somebody who got it before may have frozen it.
  if (Object.isFrozen(message)) return
  ;(message as { payload: Uint8Array }).payload = copyOf(payload)
}

interface Constructor {
  new(topic: string, payload: Uint8Array, qos: QoS, retain: boolean, duplicate: boolean): Message
}

/** A constructor and no literal, for the reason that `PublishPacket` gives. */
const PlainMessage = function(
  this: { -readonly [K in keyof Message]: Message[K] },
  topic: string,
  payload: Uint8Array,
  qos: QoS,
  retain: boolean,
  duplicate: boolean
) {
  this.topic = topic
  this.payload = payload
  this.qos = qos
  this.retain = retain
  this.duplicate = duplicate
} as unknown as Constructor & { prototype: object }

PlainMessage.prototype = Object.prototype

/**
 * The message of an inbound PUBLISH. Its payload stays a view of the chunk that it came in.
 *
 * @category decoding
 * @since 0.1.0
 */
export const toMessage = (packet: Publish): Message => {
  const { dup, payload, properties, qos, retain, topic } = packet
  const base = new PlainMessage(topic, payload, qos, retain, dup)
  if (properties === undefined) return base
  return {
    ...base,
    payloadFormat: properties.payloadFormatIndicator === undefined
      ? undefined
      : properties.payloadFormatIndicator === 1
      ? "utf8"
      : "bytes",
    messageExpiryInterval: properties.messageExpiryInterval,
    contentType: properties.contentType,
    responseTopic: properties.responseTopic,
    correlationData: properties.correlationData?.slice(),
    userProperties: properties.userProperties,
    subscriptionIdentifiers: properties.subscriptionIdentifiers
  }
}
