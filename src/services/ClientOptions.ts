/**
 * The options of a client and their defaults.
 *
 * @since 0.1.0
 */
import type * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import type * as Schedule from "effect/Schedule"
import type { ProtocolVersion, QoS, UserProperties } from "../protocol/Packet.ts"
import type { Authentication } from "./Authentication.ts"
import type { Endpoint } from "./Endpoint.ts"
import type { MessageProperties } from "./Message.ts"
import type { ConnectError, LinkLost } from "./MqttError.ts"
import type { SubscriptionOptions } from "./MqttClient.ts"

export type { Authentication, AuthenticationExchange } from "./Authentication.ts"

/**
 * User name and password. On MQTT 3.1.1 a password needs a user name.
 *
 * @category options
 * @since 0.1.0
 */
export interface Credentials {
  readonly username?: string | undefined
  /** Text is sent as UTF-8. */
  readonly password?: Redacted.Redacted<string> | Redacted.Redacted<Uint8Array> | undefined
  /** How long they are good for, from the moment at which they were given; see `refresh`. */
  readonly expiresIn?: Duration.Input | undefined
  /** When they end, by the wall clock (`Clock.currentTimeMillis`); a number is milliseconds since 1970. See `refresh`. */
  readonly expiresAt?: DateTime.DateTime | Date | number | undefined
}

/**
 * One of several endpoints, with what is its own.
 *
 * @category options
 * @since 0.1.0
 */
export interface BrokerEndpoint {
  /** A URL, or a tagged endpoint, which holds its own TLS. */
  readonly endpoint: string | Endpoint
  /** In the place of the client's `credentials`. */
  readonly credentials?: Credentials | Effect.Effect<Credentials, unknown> | undefined
  /**
   * Brokers with the same `group` share their sessions: the client resumes on one what it began on another. Without it the
   * endpoint shares with nobody, so moving to another one loses the session (`onSessionLost`).
   */
  readonly group?: string | undefined
}

/**
 * In which order several endpoints are tried.
 *
 * @category options
 * @since 0.1.0
 */
export interface FailoverOptions {
  /** `"inOrder"` (default) is that of the list; `"shuffled"` is drawn for every round with Effect's `Random`. */
  readonly order?: "inOrder" | "shuffled" | undefined
  /**
   * Where the first round after a lost connection begins: `"sticky"` (default) with the endpoint that was lost, and then
   * those behind it; `"next"` with the one behind it; `"preferFirst"` with the first in the order.
   */
  readonly afterLoss?: "sticky" | "next" | "preferFirst" | undefined
}

/**
 * What happens when another client takes the session by the same client id (DISCONNECT `0x8e`, MQTT 5.0).
 *
 * @category options
 * @since 0.1.0
 */
export interface TakeoverOptions {
  /** How long the client stays away at least; drawn evenly from the upper half. Default 30 s. */
  readonly delay?: Duration.Input | undefined
  /** The takeover at which the client gives up: it halts with `ClientIdContested`. `1` is the first. Default 2. */
  readonly limit?: number | undefined
  /** How long a takeover counts. Default 10 minutes. */
  readonly within?: Duration.Input | undefined
}

/**
 * When the client renews a working connection on its own.
 *
 * **Details**
 *
 * Credentials that came from an effect (`credentials`, `layerEffect`) and say when they end are renewed before that moment:
 * the connection is ended with DISCONNECT and made again, with the effect evaluated anew; nothing that the session holds is
 * lost, as long as there is one (`sessionExpiry`). With `authentication` the client authenticates again instead, and the
 * connection stays. A renewal is never due sooner than a second after the connection was made.
 *
 * @category options
 * @since 0.1.0
 */
export interface RefreshOptions {
  /** How long before their end credentials are renewed, at least. Default: a tenth of the time that they have left. */
  readonly before?: Duration.Input | undefined
  /** How much earlier than that, drawn evenly from 0 to this. Default: as `before`. */
  readonly jitter?: Duration.Input | undefined
  /** The longest life of a connection, with the same jitter, for example to have files read again. No limit by default. */
  readonly every?: Duration.Input | undefined
}

/**
 * The message that the server publishes when this client goes without saying so.
 *
 * @category options
 * @since 0.1.0
 */
export interface Will extends MessageProperties {
  readonly topic: string
  readonly payload?: Uint8Array | string | undefined
  /** Default 0. */
  readonly qos?: QoS | undefined
  /** Default false. */
  readonly retain?: boolean | undefined
  /** How long the server waits for the client to come back before it publishes (MQTT 5.0). Default 0. */
  readonly delay?: Duration.Input | undefined
}

/**
 * When and how the client connects again after a lost link or a failed attempt.
 *
 * @category options
 * @since 0.1.0
 */
export interface ReconnectOptions {
  /**
   * Gives the delays, and ends the trying when it ends. By default exponential from 1 s by the factor 2 up to 30 s, each
   * delay d drawn evenly from [d/2, d] with Effect's `Random`, without an end. It starts anew after a stable connection.
   * One that dies has ended.
   */
  readonly schedule?: Schedule.Schedule<unknown, unknown> | undefined
  /** How long a connection must have lasted for the schedule to start anew. Default 30 s. */
  readonly stableAfter?: Duration.Input | undefined
  /**
   * Has the last word on whether a failure may pass by itself; `byDefault` is what the client would do. It is asked about
   * each failed attempt and each lost connection, but not about options that are not valid. True tries again with the
   * delays of `schedule`; false gives the endpoint up, and halts the client if it was the last. One that throws is logged
   * and does not count.
   */
  readonly isRetryable?: ((failure: ConnectError | LinkLost, byDefault: boolean) => boolean) | undefined
  readonly takeover?: TakeoverOptions | undefined
}

/**
 * The queue of publishes that wait for the network.
 *
 * @category options
 * @since 0.1.0
 */
export interface OutboxOptions {
  /** Default 1,000. */
  readonly maxMessages?: number | undefined
  /** Payload, topic and property bytes of all publishes that are queued or unacknowledged. Default 16 MiB. */
  readonly maxBytes?: number | undefined
  /**
   * What a publish does when the outbox is full: `"suspend"` (default) waits for room, `"fail"` and `"dropNewest"` fail with
   * `OutboxFull`, `"dropOldest"` makes room by failing the oldest waiting publish with `OutboxFull`.
   */
  readonly strategy?: "suspend" | "dropOldest" | "dropNewest" | "fail" | undefined
  /** What a QoS 0 publish does while there is no connection. Default `"queue"`. */
  readonly qos0Offline?: "queue" | "fail" | undefined
}

/**
 * What becomes of unacknowledged publishes when the server lost the session (law 10).
 *
 * @category options
 * @since 0.1.0
 */
export interface SessionLostOptions {
  /** `"republish"` (default) sends the message again as a new one, which may deliver it twice. */
  readonly qos1?: "republish" | "fail" | undefined
  /** `"fail"` (default) fails with `SessionLost`, since publishing again may deliver twice. */
  readonly qos2?: "republish" | "fail" | undefined
}

/**
 * A subscription that belongs to the client and not to a running stream: it is known before CONNECT is sent, so the backlog
 * of a resumed session has a taker, and it is never unsubscribed because a stream ends or the process stops.
 *
 * While no stream of it runs, its QoS 1 and 2 messages are kept unacknowledged for the next one, without a limit of time, and
 * also where another subscription has taken them; `receiveMaximum` bounds how many the server sends. Its QoS 0 messages are dropped and counted then.
 *
 * @category options
 * @since 0.1.0
 */
export interface DurableSubscription extends SubscriptionOptions {
  readonly filter: string
}

/**
 * Options of a client. All but `endpoint`, or `endpoints`, have defaults; none is ever changed by the client.
 *
 * @category options
 * @since 0.1.0
 */
export interface ClientOptions {
  /**
   * A URL (`mqtt://`, `mqtts://`, `ws://`, `wss://`, `mqtt+unix://`; see `Endpoint.fromUrl`), or a tagged endpoint with the
   * options of its road (`Endpoint.tls`, ...). Either this or `endpoints` must be given.
   */
  readonly endpoint?: string | Endpoint | undefined
  /**
   * Several brokers, of which one is used. An attempt that fails is followed by one to the next endpoint at once; the delays
   * of `reconnect` come after a full round. The first connection with `firstConnect: "fail"` tries each once.
   */
  readonly endpoints?: ReadonlyArray<string | Endpoint | BrokerEndpoint> | undefined
  readonly failover?: FailoverOptions | undefined
  /**
   * What to do when a server names another (CONNACK or DISCONNECT `0x9c`, `0x9d` with a Server Reference, MQTT 5.0):
   * `"ignore"` (default) takes it as a failure like others; `"follow"` goes there, over three servers at most, with the same
   * scheme, TLS, headers and credentials, so follow only where every server is trusted to name others. `0x9c` holds until the
   * connection to the other server ends; `0x9d` for the life of the client, or until `reconnect` or `updateOptions` gives
   * other options.
   */
  readonly redirect?: "ignore" | "follow" | undefined
  /** 5 is MQTT 5.0 (default), 4 is MQTT 3.1.1. */
  readonly protocolVersion?: ProtocolVersion | undefined
  /**
   * Generated by default: 20 letters and digits, kept for the life of the client. The empty string asks the server for one
   * (on 3.1.1 only with a clean session). With a session store it must be given, since the session belongs to it.
   */
  readonly clientId?: string | undefined
  /**
   * Whether the first connection of the client discards what the server holds for this client id. Default true. Later
   * connections resume the session as long as it lives (`sessionExpiry`). False declares an existing session ours.
   *
   * With a session store the first connection resumes what the store knows of, whatever this says: a record of a session is
   * a record that it is ours.
   *
   * On 3.1.1 with `sessionExpiry` above 0 the first connection is made twice: once with Clean Session 1, which discards, and
   * then with Clean Session 0, since that version has one flag for both.
   */
  readonly cleanStart?: boolean | undefined
  /**
   * How long the server keeps the session after the link is gone; `"Infinity"` for ever. Default 0.
   *
   * With 0 every lost link and every pause ends the session: the server forgets subscriptions (the client renews them) and
   * what it had not yet delivered, and messages that arrive there in the meantime are lost for this client.
   *
   * On 3.1.1, which has no expiry, any value above 0 means Clean Session 0.
   */
  readonly sessionExpiry?: Duration.Input | undefined
  /**
   * A server session of which this client has no record, found with `cleanStart: false`. Default `"adopt"`.
   *
   * An adopted session may hold packet identifiers of QoS 2 exchanges that an earlier process did not complete. The server
   * takes a new message under one of them for a repetition: it is acknowledged and not forwarded. Nobody can ask which they
   * are, so the client begins its identifiers at a random one there, which makes it improbable. A session store rules it out.
   */
  readonly foreignSession?: "adopt" | "fail" | "cleanStart" | undefined
  /** Longest silence in either direction before a PINGREQ; whole seconds, rounded up, at most 65,535; 0 is off. Default 60 s. */
  readonly keepAlive?: Duration.Input | undefined
  /** How long anything may take to come back after a PINGREQ. Default: the keep alive in force. */
  readonly pingTimeout?: Duration.Input | undefined
  /** Bound of a whole attempt at one endpoint, from options and name resolution to CONNACK. Default 10 s. */
  readonly connectTimeout?: Duration.Input | undefined
  /** How long closing, pausing and reconnecting wait for the packet being written and for DISCONNECT. Default 2 s. */
  readonly disconnectTimeout?: Duration.Input | undefined
  /**
   * How long the close of the client's scope waits for queued and unacknowledged publishes, and then for the session store.
   * Default 5 s; 0 not at all.
   */
  readonly drainTimeout?: Duration.Input | undefined
  /** An effect is evaluated at every attempt, for example for a fresh token. */
  readonly credentials?: Credentials | Effect.Effect<Credentials, unknown> | undefined
  readonly refresh?: RefreshOptions | undefined
  /** Enhanced authentication (MQTT 5.0), beside `credentials` or in their place. */
  readonly authentication?: Authentication | undefined
  readonly will?: Will | undefined
  /** Unacknowledged QoS 1 and 2 messages that the server may have under way to us. 1 to 65,535, default 256. */
  readonly receiveMaximum?: number | undefined
  /**
   * What happens when the server exceeds `receiveMaximum` (MQTT 5.0 §3.3.4). `"disconnect"` (default) ends the connection with
   * 0x93, as the standard says. `"accept"` takes the message, for servers that do not count right, and leaves it to them how
   * much memory unacknowledged messages take.
   */
  readonly onReceiveMaximumExceeded?: "disconnect" | "accept" | undefined
  /**
   * What received QoS 1 and 2 messages that are not acknowledged may take in memory: payloads, topics, properties and 128
   * bytes each. Default 64 MiB. A message larger than that is taken where there is no other.
   *
   * Before it is exceeded the link is closed without acknowledging them (`UnacknowledgedOverflow`; DISCONNECT `0x97` on MQTT
   * 5.0, so that the will is published as after any error), and the next connection is made once consumers have brought it
   * down to less than half. With a session that outlives the link the server sends again what was not acknowledged; with
   * `sessionExpiry` 0 what is on its way, and what comes in the meantime, is lost.
   */
  readonly maximumUnacknowledgedBytes?: number | undefined
  /**
   * What becomes of a QoS 1 or 2 message that no subscription wants. It waits 30 s for one unacknowledged, 32 messages at
   * most (`MqttClientService.unclaimed`), and then: `"ack"` (default) acknowledges and so drops it; `"reject"` refuses it with
   * reason code `0x83` (MQTT 3.1.1 has none and acknowledges); both count as dropped. `"hold"` goes on waiting, and holds
   * back all acknowledgements behind it.
   */
  readonly unclaimed?: "ack" | "hold" | "reject" | undefined
  /** Unacknowledged QoS 1 and 2 publishes that we have under way; the server may want fewer. 1 to 65,535, default 1,000. */
  readonly sendMaximum?: number | undefined
  /** Bytes of the largest packet that we accept. Default 16 MiB. */
  readonly maximumPacketSize?: number | undefined
  /** Topic aliases that the server may use towards us (MQTT 5.0). Default 0. */
  readonly topicAliasMaximum?: number | undefined
  /**
   * Whether filters that have topics in common with others of this client, and shared ones, are subscribed with a
   * Subscription Identifier (MQTT 5.0), where the server supports that. Default true.
   *
   * A server may send a message once for each subscription that it matches. With the identifiers each of these copies is
   * handed to those who subscribed to that filter, so that as a rule nobody gets a message twice. A filter that overlaps an
   * older one takes a SUBSCRIBE of its own, and the older one is subscribed once more. See `docs/filters.md`.
   */
  readonly subscriptionIdentifiers?: boolean | undefined
  /** Asks for response information in CONNACK (MQTT 5.0). Default false. */
  readonly requestResponseInformation?: boolean | undefined
  /** Whether the server may explain failures in words (MQTT 5.0). Default true. */
  readonly requestProblemInformation?: boolean | undefined
  /** User properties of CONNECT (MQTT 5.0). */
  readonly userProperties?: UserProperties | undefined
  /** False: never; a lost link or a failed attempt halts the client. */
  readonly reconnect?: ReconnectOptions | false | undefined
  /**
   * `"fail"` (default): building the client fails if its first attempt does. `"retry"`: the client is built at once, and
   * its status says what happens.
   */
  readonly firstConnect?: "fail" | "retry" | undefined
  readonly outbox?: OutboxOptions | undefined
  readonly onSessionLost?: SessionLostOptions | undefined
  readonly subscriptions?: ReadonlyArray<DurableSubscription> | undefined
  /** Whether the scope that closes with a failure has the server publish the will (MQTT 5.0 reason 0x04). Default false. */
  readonly willOnFailure?: boolean | undefined
}
