/**
 * Application messages: what a user publishes, and what a subscription hands over.
 *
 * @since 0.1.0
 */
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
  /** The subscriber's own copy; it pins no network buffer. Two subscribers of one message share it: do not change it. */
  readonly payload: Uint8Array
  readonly qos: QoS
  /** As the server sent it: true for a retained message at subscription time. */
  readonly retain: boolean
  /** The server says that it may have sent the message before. */
  readonly duplicate: boolean
  /** In wire order (MQTT 5.0). */
  readonly subscriptionIdentifiers?: ReadonlyArray<number> | undefined
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true })

/**
 * The payload as text; ill-formed UTF-8 becomes U+FFFD.
 *
 * @category destructors
 * @since 0.1.0
 */
export const text = (message: { readonly payload: Uint8Array }): string => decoder.decode(message.payload)
