/**
 * `publish`: from a user's message to an entry of the outbox, and back to an outcome.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { PacketCodec } from "../../protocol/index.ts"
import * as TopicMemory from "../../protocol/TopicMemory.ts"
import type { Packet } from "../../protocol/index.ts"
import { checkMessage, encodePayload, hasProperties, toPublishProperties } from "../../services/MessageCodec.ts"
import type { OutgoingMessage } from "../../services/Message.ts"
import type { MqttClientService, PublishOptions, PublishResult } from "../../services/MqttClient.ts"
import {
  DeadlineExceeded,
  InvalidMessage,
  Offline,
  PacketTooLarge,
  PublishAbandoned
} from "../../services/MqttError.ts"
import type { PublishError, PublishPhase, PublishReason } from "../../services/MqttError.ts"
import { protocolMaximum } from "./Outbound.ts"
import type { ClientCore } from "../ClientCore.ts"
import { NewEntry } from "./Entry.ts"
import type { Entry, Outcome } from "./Entry.ts"
import { checkId, publishById } from "./PublishingById.ts"
import { fail, toEffect } from "./PublishResults.ts"

const taken: PublishResult = { qos: 0, reasonCode: 0, reasonString: undefined, guarantee: "queued" }

const succeedTaken = Effect.succeed(taken)

/** What a message takes in memory, about. */
export const sizeOf = (
  topic: string,
  payload: Uint8Array,
  properties: Packet.PublishProperties | undefined
): number => payload.length + topic.length + sizeOfProperties(properties)

const sizeOfProperties = (properties: Packet.PublishProperties | undefined): number => {
  if (properties === undefined) return 0
  const { contentType, correlationData, responseTopic, userProperties = [] } = properties
  let size = (contentType?.length ?? 0) + (responseTopic?.length ?? 0) + (correlationData?.length ?? 0)
  for (const [name, value] of userProperties) size += name.length + value.length + 5
  return size
}

/** Whether the packet is over the limit of the server, where that is known, or of the protocol. */
const checkSize = (core: ClientCore, entry: Entry): PacketTooLarge | undefined => {
  const { negotiated, options } = core
  const announced = negotiated?.maximumPacketSize ?? Infinity
  const limit = Math.min(announced, protocolMaximum)
  // No character takes more than three bytes, and the rest of the packet fits into 64.
  const { payload, properties, qos, retain, size, topic } = entry
  if (payload.length + 3 * (size - payload.length) + 64 <= limit) return undefined
  const packet: Packet.Publish = { _tag: "Publish", dup: false, qos, retain, topic, packetId: 1, payload, properties }
  const exact = PacketCodec.encodedSize(packet, negotiated?.protocolVersion ?? options.protocolVersion)
  if (exact <= limit) return undefined
  return new PacketTooLarge({ size: exact, limit, of: announced < protocolMaximum ? "server" : "protocol" })
}

/** The topic as it is written, of a message that needs no other look: no properties, and a connection that takes it. */
const knownTopicOf = (
  core: ClientCore,
  message: OutgoingMessage,
  topic: string,
  payload: Uint8Array,
  qos: Packet.QoS,
  retain: boolean
): Uint8Array | undefined =>
  core.accepts(qos, retain, payload.length) && !hasProperties(message) ? TopicMemory.get(topic) : undefined

/** Nearly all messages: known topic, bytes, no properties, and a connection that takes it. Undefined for the others. */
const toPlainEntry = (core: ClientCore, message: OutgoingMessage): Entry | undefined => {
  if (typeof message !== "object" || message === null) return undefined
  const { payload, qos = 0, retain = false, topic } = message
  if (
    typeof topic !== "string" || !(payload instanceof Uint8Array) || typeof retain !== "boolean" ||
    (qos !== 0 && qos !== 1 && qos !== 2)
  ) return undefined
  const encodedTopic = knownTopicOf(core, message, topic, payload, qos, retain)
  return encodedTopic === undefined
    ? undefined
    : new NewEntry(topic, payload, qos, retain, undefined, payload.length + topic.length, 0, encodedTopic)
}

/**
 * The topic as it is written, of a message that is plain, at QoS 0, and not retained: its payload is bytes, and every
 * connection takes it. Undefined for the others.
 */
export const plainTopicOf = (
  core: ClientCore,
  message: OutgoingMessage,
  payload: Uint8Array
): Uint8Array | undefined => {
  const { qos = 0, retain = false, topic } = message
  return typeof topic === "string" && qos === 0 && retain === false
    ? knownTopicOf(core, message, topic, payload, 0, false)
    : undefined
}

/** The entry of a message, or why it cannot be published. Changes nothing. */
export const toEntry = (core: ClientCore, message: OutgoingMessage): Entry | PublishReason => {
  const plain = toPlainEntry(core, message)
  if (plain !== undefined) return plain
  const invalid = checkMessage(message)
  if (invalid !== undefined) return new InvalidMessage(invalid)
  const payload = encodePayload(message.payload)
  if (typeof payload === "string") return new InvalidMessage({ field: "payload", problem: payload })
  const { gate } = core
  if (gate !== undefined) return new PublishAbandoned({ phase: "queued", cause: gate })
  const { topic } = message
  const qos = message.qos ?? 0
  const retain = message.retain ?? false
  const properties = toPublishProperties(message)
  const size = sizeOf(topic, payload, properties)
  const { maxBytes } = core.outbox.limits
  if (size > maxBytes) return new PacketTooLarge({ size, limit: maxBytes, of: "outbox" })
  if (core.negotiated === undefined && qos === 0 && core.options.outbox.qos0Offline === "fail") return new Offline()
  const at = properties?.messageExpiryInterval === undefined ? 0 : core.now()
  const entry: Entry = new NewEntry(topic, payload, qos, retain, properties, size, at, undefined)
  // The limits of the connection that it is sent on count, which may be another: they are looked at again then.
  return core.outbound.unsendable(entry) ?? checkSize(core, entry) ?? entry
}

/** Gives the entry to the outbox; gives what an interruption of its caller does. */
const begin = (core: ClientCore, entry: Entry, resume: NonNullable<Entry["caller"]>): Effect.Effect<void> => {
  entry.caller = resume
  entry.resume = tellCaller
  core.outbound.offer(entry)
  return Effect.sync(() => core.outbound.abandon(entry))
}

/** The way of nearly all QoS 1 and 2 messages, in one step. */
const publishAcknowledged = (
  core: ClientCore,
  message: OutgoingMessage
): Effect.Effect<PublishResult, PublishError> =>
  Effect.callback((resume) => {
    const entry = toEntry(core, message)
    if ("_tag" in entry) return resume(fail(typeof message.topic === "string" ? message.topic : "", entry))
    return begin(core, entry, resume)
  })

const tellCaller = (outcome: Outcome, entry: Entry): void => {
  const { caller } = entry
  entry.caller = undefined
  caller!(toEffect(entry, outcome))
}

/** Gives the entry to the outbox and waits for its outcome. */
const send = (core: ClientCore, entry: Entry): Effect.Effect<PublishResult, PublishError> =>
  Effect.callback((resume) => begin(core, entry, resume))

const withDeadline = (
  topic: string,
  sending: Effect.Effect<PublishResult, PublishError>,
  phaseOf: () => PublishPhase,
  timeout: Duration.Input
): Effect.Effect<PublishResult, PublishError> => {
  const timeoutMillis = Duration.toMillis(Duration.fromInputUnsafe(timeout))
  return Effect.timeoutOrElse(sending, {
    duration: timeoutMillis,
    orElse: () => fail(topic, new DeadlineExceeded({ phase: phaseOf(), timeoutMillis }), phaseOf())
  })
}

/** Whether a deadline is one. */
export const checkTimeout = (timeout: Duration.Input): boolean => Duration.fromInput(timeout)._tag === "Some"

const publishWith = (
  core: ClientCore,
  entry: Entry,
  { id, timeout }: PublishOptions
): Effect.Effect<PublishResult, PublishError> => {
  const invalid = id === undefined ? undefined : checkId(core, id, entry)
  if (invalid !== undefined) return fail(entry.topic, invalid)
  if (timeout !== undefined && !checkTimeout(timeout)) {
    return fail(entry.topic, new InvalidMessage({ field: "timeout", problem: "must be a duration" }))
  }
  const sending = id === undefined ? send(core, entry) : publishById(core, id, entry)
  if (timeout === undefined) return sending
  // Under an own id it may be an earlier call that has sent the message.
  const sent = () => id === undefined ? entry : core.publishIds.get(id) ?? entry
  return withDeadline(entry.topic, sending, () => sent().phase, timeout)
}

/**
 * @category constructors
 * @since 0.1.0
 */
export const makePublish =
  (core: ClientCore): MqttClientService["publish"] => (message: OutgoingMessage, options?: PublishOptions) => {
    if (options === undefined && (message?.qos === 1 || message?.qos === 2)) return publishAcknowledged(core, message)
    return Effect.suspend(() => {
      const entry = toEntry(core, message)
      if ("_tag" in entry) return fail(typeof message?.topic === "string" ? message.topic : "", entry)
      if (options !== undefined) return publishWith(core, entry, options)
      if (entry.qos !== 0 || !core.outbox.hasRoom(entry)) return send(core, entry)
      core.outbox.offer(entry)
      core.wakeWriter()
      return succeedTaken
    })
  }
