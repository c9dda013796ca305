/**
 * What a client is doing, and what happened to it.
 *
 * @since 0.1.0
 */
import type { ProtocolVersion, QoS, UserProperties } from "../protocol/Packet.ts"
import type { ConnectError, HaltReason, LinkLost } from "./MqttError.ts"

/**
 * What client and server agreed on for one connection. Limits that the server did not state have the standard's defaults.
 *
 * @category models
 * @since 0.1.0
 */
export interface Negotiated {
  readonly protocolVersion: ProtocolVersion
  /** The id in force: ours, or the one that the server assigned. */
  readonly clientId: string
  readonly sessionPresent: boolean
  /** Seconds; `Infinity` means that it never expires. 0 on MQTT 3.1.1 with a clean session. */
  readonly sessionExpiryInterval: number
  /** Milliseconds; the server's value where it set one. 0 is off. */
  readonly keepAliveMillis: number
  /** Unacknowledged QoS 1 and 2 publishes that may be under way to the server: the smaller of its limit and ours. */
  readonly sendWindow: number
  readonly maximumQoS: QoS
  readonly retainAvailable: boolean
  /** Bytes; `Infinity` where the server stated none. */
  readonly maximumPacketSize: number
  readonly topicAliasMaximum: number
  readonly wildcardSubscriptionAvailable: boolean
  readonly subscriptionIdentifierAvailable: boolean
  readonly sharedSubscriptionAvailable: boolean
  readonly responseInformation: string | undefined
  readonly userProperties: UserProperties
}

/**
 * What the client is doing.
 *
 * **Details**
 *
 * - `Connecting`: attempt number `attempt` (from 1, counted since the last stable connection) is under way, at `endpoint`,
 *   which is undefined as long as an effect that gives the options has not said it. It is followed by exactly one of
 *   `Connected`, `Reconnecting` (it failed, and so did all others), `Paused`, `Halted` or `Closed`; by `Connecting` with the
 *   next endpoint, where there are several; where `reconnect` ended a later attempt, by `Connecting` number 1.
 * - `Connected`: to `endpoint`. Followed by exactly one of `Reconnecting` (the link was lost), `Connecting` (`reconnect` was
 *   called, the connection is renewed, or there is another endpoint), `Paused`, `Halted` or `Closed`.
 * - `Reconnecting`: waiting `delayMillis` before the next attempt.
 * - `Paused`: `pause` was called; nothing touches the network until `resume` or `reconnect`.
 * - `Halted`: not connected and not trying: `disconnect` was called, or trying again is useless. `resume` and `reconnect`
 *   end it.
 * - `Closed`: the scope of the client closed. Final.
 *
 * @category models
 * @since 0.1.0
 */
export type Status =
  | { readonly _tag: "Connecting"; readonly attempt: number; readonly endpoint: string | undefined }
  | { readonly _tag: "Connected"; readonly negotiated: Negotiated; readonly endpoint: string }
  | {
    readonly _tag: "Reconnecting"
    readonly attempt: number
    readonly delayMillis: number
    readonly cause: ConnectError | LinkLost
  }
  | { readonly _tag: "Paused" }
  | { readonly _tag: "Halted"; readonly cause: HaltReason }
  | { readonly _tag: "Closed" }

/**
 * Why a message was dropped.
 *
 * - `outbox`: the queue of publishes had no room
 * - `expired`: its expiry passed in the outbox
 * - `refused`: the limits of the server forbid it, and nobody waited for its outcome
 * - `abandoned`: the client was halted or closed before it was sent, and nobody waited for its outcome
 * - `sessionLost`: the server lost the session before it acknowledged the message, and nobody waited for its outcome
 * - `buffer`: a subscriber was too slow
 * - `unclaimed`: no subscription took it
 * - `memory`: unacknowledged messages took as much as `maximumUnacknowledgedBytes` allows, and the session ends with the link
 *
 * @category models
 * @since 0.1.0
 */
export type DropReason =
  | "outbox"
  | "expired"
  | "refused"
  | "abandoned"
  | "sessionLost"
  | "buffer"
  | "unclaimed"
  | "memory"

/**
 * One thing that happened. Events are for watching, never for flow: the stream is bounded and drops the oldest when its
 * reader lags.
 *
 * @category models
 * @since 0.1.0
 */
export type ClientEvent =
  | { readonly _tag: "Connected"; readonly negotiated: Negotiated; readonly endpoint: string }
  | { readonly _tag: "ConnectFailed"; readonly error: ConnectError }
  | { readonly _tag: "ConnectionLost"; readonly cause: LinkLost }
  /** A server named others, and the client goes there. */
  | { readonly _tag: "Redirected"; readonly from: string; readonly reference: string; readonly permanent: boolean }
  /** The connection, or its authentication, is renewed in time. */
  | { readonly _tag: "Refreshing"; readonly why: "credentials" | "age" }
  /** What a renewal needs could not be had; the connection stays, and the client asks again. */
  | { readonly _tag: "RefreshFailed"; readonly error: ConnectError }
  | { readonly _tag: "Paused" }
  | { readonly _tag: "Halted"; readonly cause: HaltReason }
  | { readonly _tag: "PublishAcknowledged"; readonly topic: string; readonly qos: 1 | 2; readonly reasonCode: number }
  | { readonly _tag: "MessageReceived"; readonly topic: string; readonly qos: QoS }
  | {
    readonly _tag: "MessageDropped"
    readonly topic: string
    readonly qos: QoS
    readonly why: DropReason
  }
  | { readonly _tag: "MessageUnclaimed"; readonly topic: string; readonly qos: 1 | 2 }
  | { readonly _tag: "Resubscribed"; readonly filters: ReadonlyArray<string> }
  /** An entry of the session store could not be read and was moved out of the way; told to who watches first. */
  | {
    readonly _tag: "StoreEntryQuarantined"
    readonly table: string
    readonly key: string
    readonly problem: string
  }
  | { readonly _tag: "EventsMissed"; readonly count: number }

/**
 * Counters and gauges of one client.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stats {
  /** Publishes in the outbox that no byte was sent of. */
  readonly queued: number
  /** Payload, topic and property bytes held by the outbox and by unacknowledged publishes. */
  readonly heldBytes: number
  /** QoS 1 and 2 publishes that were sent and not yet acknowledged for good. */
  readonly inFlight: number
  /** Received QoS 1 and 2 messages not yet acknowledged by us. */
  readonly unacknowledged: number
  /** What they take in memory as long as somebody waits for them; see `maximumUnacknowledgedBytes` in the options. */
  readonly unacknowledgedBytes: number
  /** Received QoS 1 and 2 messages that no subscription has taken; see `unclaimed` in the options. */
  readonly unclaimed: number
  /** Messages that the session store keeps for subscribers that were too slow; see `whenSlow`. */
  readonly putAside: number
  /** Messages dropped since the client was built, for any reason. */
  readonly dropped: number
  /** Packet identifiers in use. */
  readonly packetIds: number
}
