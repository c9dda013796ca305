/**
 * Application messages: what a user publishes, and what a subscription hands over.
 *
 * @since 0.1.0
 */
import type * as Effect from "effect/Effect"
import type { QoS, UserProperties } from "../protocol/Packet.ts"

/**
 * The properties that MQTT 5.0 lets a publisher attach (§3.3.2.3). On an MQTT 3.1.1 connection they are not sent: that
 * version has no place for them.
 *
 * @category models
 * @since 0.1.0
 */
export interface MessageProperties {
  /** Whether the payload is UTF-8 text. A payload given as a string sets it unless it is given here. */
  readonly payloadFormat?: "bytes" | "utf8" | undefined
  /** Seconds, whole, 0 to 4,294,967,295. The time spent in the outbox is taken off what goes on the wire. */
  readonly messageExpiryInterval?: number | undefined
  readonly contentType?: string | undefined
  readonly responseTopic?: string | undefined
  readonly correlationData?: Uint8Array | undefined
  /** Name and value pairs; order is kept, names may repeat. */
  readonly userProperties?: UserProperties | undefined
}

/**
 * A message to publish.
 *
 * @category models
 * @since 0.1.0
 */
export interface OutgoingMessage extends MessageProperties {
  /** A topic name: not empty, no wildcards (§4.7). */
  readonly topic: string
  /** The bytes must not be changed until the publish is done; a string is sent as UTF-8. Empty by default. */
  readonly payload?: Uint8Array | string | undefined
  /** Default 0. */
  readonly qos?: QoS | undefined
  /** Whether the server keeps the message for later subscribers. Default false. */
  readonly retain?: boolean | undefined
}

/**
 * A message that arrived.
 *
 * @category models
 * @since 0.1.0
 */
export interface Message extends MessageProperties {
  readonly topic: string
  /**
   * A view of the bytes that arrived, of which it keeps up to 64 KiB alive: copy what you keep for long, such as the last value
   * of each topic (`payload.slice()`). What waits in the client has memory of its own. Two subscribers of one message share it:
   * do not change it.
   */
  readonly payload: Uint8Array
  readonly qos: QoS
  /** As the server sent it: true for a retained message at subscription time. */
  readonly retain: boolean
  /** The server says that it may have sent the message before. */
  readonly duplicate: boolean
  /**
   * Names a QoS 2 message of a client with a session store: the same as often as the server sends this message, also to a
   * later process, and never that of another one. A handler that keeps it with what it does can tell a repetition.
   * Undefined at QoS 0 and 1, and without a store.
   */
  readonly deliveryId?: string | undefined
  /** In wire order (MQTT 5.0). */
  readonly subscriptionIdentifiers?: ReadonlyArray<number> | undefined
}

/**
 * What became of an acknowledgement.
 *
 * - `Acked`: it counts. It leaves as soon as every message before it, of the same QoS, may be acknowledged too, and every
 *   other subscriber of this client has settled the message. At QoS 0, where there is nothing to acknowledge, it is always this
 * - `Stale`: it does not count, and the message will come again: the connection on which it came is gone and the session goes
 *   on, or its stream has ended
 * - `SessionLost`: it does not count, and the server has forgotten the message
 *
 * @category models
 * @since 0.1.0
 */
export type AckResult = { readonly _tag: "Acked" } | { readonly _tag: "Stale" } | { readonly _tag: "SessionLost" }

/**
 * The reason codes of PUBACK and PUBREC with which a message is refused (MQTT 5.0 §3.4.2.1, §3.5.2.1): unspecified error,
 * implementation specific error, not authorized, topic name invalid, packet identifier in use, quota exceeded, payload format
 * invalid.
 *
 * @category models
 * @since 0.1.0
 */
export type RejectCode = 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99

/**
 * A message whose acknowledgement is up to the consumer (`ack: "manual"`).
 *
 * **Details**
 *
 * The first of `ack` and `reject` that is run settles the message; later runs give the result of the first. A message may be
 * settled at any time, in any order and from any fiber; acknowledgements leave in the order in which the messages came, so
 * one that is never settled holds back all behind it. Messages at QoS 0 have both effects too, and they do nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface ManualMessage extends Message {
  /** Acknowledges the message: it was processed, and shall not come again. */
  readonly ack: Effect.Effect<AckResult>
  /**
   * Refuses the message: the server is told the reason code, and does not send it again. MQTT 3.1.1 has no codes; there it
   * acknowledges the message, which is the only way to be rid of it. Of several subscribers of this client who settle a
   * message, the highest code is sent.
   */
  readonly reject: (reasonCode: RejectCode) => Effect.Effect<AckResult>
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true })

/**
 * The payload as text; ill-formed UTF-8 becomes U+FFFD.
 *
 * @category destructors
 * @since 0.1.0
 */
export const text = (message: { readonly payload: Uint8Array }): string => decoder.decode(message.payload)
