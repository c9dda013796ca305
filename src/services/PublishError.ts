/**
 * Why a publish failed.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { ReasonCode } from "../protocol/index.ts"
import { ClientClosed, ClientHalted } from "./LinkLost.ts"
import { NotSupportedByServer, PacketTooLarge } from "./ServerLimits.ts"
import { SessionStoreError } from "./SessionStore.ts"

/**
 * How far a publish had come.
 *
 * - `queued`: no byte of it left the client; publishing it again cannot duplicate it
 * - `written`: bytes were handed to the network and no answer came; whether the server has it is unknown
 * - `received`: QoS 2, the server has it (PUBREC); whether it went on to subscribers is unknown
 *
 * @category models
 * @since 0.1.0
 */
export const PublishPhase = Schema.Literals(["queued", "written", "received"])

/**
 * @category models
 * @since 0.1.0
 */
export type PublishPhase = typeof PublishPhase.Type

/**
 * The message is not valid. Nothing was queued.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidMessage extends Schema.TaggedError<InvalidMessage>()("InvalidMessage", {
  field: Schema.String,
  problem: Schema.String
}) {
  override get message(): string {
    return `"${this.field}" of the message is not valid: ${this.problem}`
  }
}

/**
 * The server answered the publish with a reason code of `0x80` or above (MQTT 5.0 §3.4.2.1, §3.5.2.1). It will not be sent
 * again.
 *
 * @category errors
 * @since 0.1.0
 */
export class PublishRefused extends Schema.TaggedError<PublishRefused>()("PublishRefused", {
  reasonCode: Schema.Int,
  name: Schema.String,
  reasonString: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    return `the server refused the message: ${this.name} (${ReasonCode.toHex(this.reasonCode)})`
  }
}

/**
 * The outbox is full and its strategy is `"fail"` or `"dropNewest"`, or `"dropOldest"` chose this message. It was not sent.
 *
 * @category errors
 * @since 0.1.0
 */
export class OutboxFull extends Schema.TaggedError<OutboxFull>()("OutboxFull", {
  strategy: Schema.Literals(["fail", "dropNewest", "dropOldest"]),
  maxMessages: Schema.Int,
  maxBytes: Schema.Int
}) {
  override get message(): string {
    return `the outbox is full (${this.maxMessages} messages, ${this.maxBytes} bytes): ${this.strategy}`
  }
}

/**
 * A QoS 0 message was published while there is no connection, and `qos0Offline` is `"fail"`.
 *
 * @category errors
 * @since 0.1.0
 */
export class Offline extends Schema.TaggedError<Offline>()("Offline", {}) {
  override get message(): string {
    return "there is no connection, and QoS 0 messages are not queued (outbox.qos0Offline: \"fail\")"
  }
}

/**
 * The `timeout` of the publish passed.
 *
 * @category errors
 * @since 0.1.0
 */
export class DeadlineExceeded extends Schema.TaggedError<DeadlineExceeded>()("DeadlineExceeded", {
  phase: PublishPhase,
  timeoutMillis: Schema.Finite
}) {
  override get message(): string {
    return `the publish was not done after ${this.timeoutMillis} ms (${this.phase})`
  }
}

/**
 * The Message Expiry Interval passed before the message was sent (MQTT 5.0 §3.3.2.3.3). It was not sent.
 *
 * @category errors
 * @since 0.1.0
 */
export class MessageExpired extends Schema.TaggedError<MessageExpired>()("MessageExpired", {
  /** Seconds. */
  messageExpiryInterval: Schema.Finite
}) {
  override get message(): string {
    return `the message expired in the outbox after ${this.messageExpiryInterval} s`
  }
}

/**
 * The server lost the session before it acknowledged the message, and `onSessionLost` says that it is not published again.
 *
 * @category errors
 * @since 0.1.0
 */
export class SessionLost extends Schema.TaggedError<SessionLost>()("SessionLost", { phase: PublishPhase }) {
  override get message(): string {
    return `the server lost the session before it acknowledged the message; the outcome is unknown (${this.phase})`
  }
}

/**
 * The client stopped waiting for the acknowledgement, since it halted or closed.
 *
 * @category errors
 * @since 0.1.0
 */
export class PublishAbandoned extends Schema.TaggedError<PublishAbandoned>()("PublishAbandoned", {
  phase: PublishPhase,
  cause: Schema.Union([ClientHalted, ClientClosed])
}) {
  override get message(): string {
    return `the publish was given up (${this.phase}): ${this.cause.message}`
  }
}

/**
 * Why a publish failed.
 *
 * @category errors
 * @since 0.1.0
 */
export const PublishReason = Schema.Union([
  InvalidMessage,
  PublishRefused,
  OutboxFull,
  Offline,
  DeadlineExceeded,
  MessageExpired,
  SessionLost,
  NotSupportedByServer,
  PacketTooLarge,
  PublishAbandoned,
  SessionStoreError
])

/**
 * @category errors
 * @since 0.1.0
 */
export type PublishReason = typeof PublishReason.Type

/**
 * A publish failed.
 *
 * @category errors
 * @since 0.1.0
 */
export class PublishError extends Schema.TaggedError<PublishError>()("PublishError", {
  topic: Schema.String,
  /** How far the message had come. Only `queued` is safe to publish again at QoS 2. */
  phase: PublishPhase,
  reason: PublishReason
}) {
  override get message(): string {
    return `publish to "${this.topic}" failed: ${this.reason.message}`
  }
}
