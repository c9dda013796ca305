/**
 * How a `TestBroker` behaves.
 *
 * @since 0.1.0
 */
import type { ConnackProperties, Connect, Publish, SubscriptionRequest } from "../protocol/Packet.ts"
import type { ListenOptions } from "./MemoryNetwork.ts"

/**
 * One step of enhanced authentication (MQTT 5.0 §4.12), as the broker sees it.
 *
 * @category models
 * @since 0.1.0
 */
export interface AuthStep {
  readonly phase: "connect" | "reauthenticate"
  readonly clientId: string
  readonly method: string
  /** What the client sent in CONNECT or AUTH. */
  readonly data: Uint8Array | undefined
  /** Counts up from 1 in each exchange. */
  readonly round: number
}

/**
 * The broker's answer: another AUTH, success, or a refusal with a reason code.
 *
 * @category models
 * @since 0.1.0
 */
export type AuthReply =
  | { readonly _tag: "Continue"; readonly data?: Uint8Array | undefined }
  | { readonly _tag: "Success"; readonly data?: Uint8Array | undefined }
  | { readonly _tag: "Failure"; readonly reasonCode: number }

/**
 * Options of a broker; every one has a default.
 *
 * @category options
 * @since 0.1.0
 */
export interface TestBrokerOptions extends Omit<ListenOptions, "port" | "record"> {
  /** Default: every port that has no listener of its own. */
  readonly port?: number | "*" | undefined
  /**
   * Whether the close of the broker's scope dies with `ProtocolViolations` when a client broke the protocol and the test did
   * not expect it. Default true.
   */
  readonly strict?: boolean | undefined
  /**
   * Properties of every CONNACK on MQTT 5.0. What is announced is enforced: limits, server keep alive, session expiry and
   * features that are not available. Default: none, so that the defaults of the standard hold.
   */
  readonly connack?: ConnackProperties | undefined
  /** The reason code for a CONNECT (a return code on MQTT 3.1.1); 0 lets the client in. Default: everybody. */
  readonly authenticate?: ((connect: Connect) => number) | undefined
  /** The reason code for a PUBLISH, its topic alias resolved; 0 lets it pass. Default: everything. */
  readonly authorizePublish?: ((clientId: string, publish: Publish) => number) | undefined
  /** The reason code for a subscription; 0 grants it. On MQTT 3.1.1 every refusal is 0x80. Default: everything. */
  readonly authorizeSubscribe?: ((clientId: string, request: SubscriptionRequest) => number) | undefined
  /** Answers enhanced authentication. Default: every method is refused with 0x8C. */
  readonly enhancedAuth?: ((step: AuthStep) => AuthReply) | undefined
  /** Whether topic aliases are used towards a client that allows them. Default true. */
  readonly useTopicAliases?: boolean | undefined
  /** Whether a publish that nobody subscribed to is acknowledged with 0x10. Default false. */
  readonly noMatchingSubscribers?: boolean | undefined
  /**
   * How a message is sent to a client of which several subscriptions match it (MQTT 5.0 §3.3.4): `"once"` (default) with all
   * their identifiers, or `"perSubscription"`, each copy with its own QoS, options and identifier.
   */
  readonly overlap?: "once" | "perSubscription" | undefined
  /** Unacknowledged messages under way to one client that states no Receive Maximum. Default 65,535. */
  readonly maxInflight?: number | undefined
  /** Packets that `log` keeps; older ones are forgotten. Default 100,000. */
  readonly logLimit?: number | undefined
}
