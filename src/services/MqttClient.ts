/**
 * The MQTT client as users program against it.
 *
 * The service is built by a layer of `effect-mqtt` (any `Transport`) or of `effect-mqtt/node` (TCP on Node). Nothing here
 * opens a connection.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { QoS, UserProperties } from "../protocol/Packet.ts"
import type { ClientOptions } from "./ClientOptions.ts"
import type { Message, OutgoingMessage } from "./Message.ts"
import type {
  ClientClosed,
  ClientHalted,
  ConnectError,
  InvalidOptions,
  PingError,
  PublishError,
  SubscribeError
} from "./MqttError.ts"
import type { ClientEvent, Negotiated, Stats, Status } from "./Status.ts"

/**
 * Options of one publish.
 *
 * @category options
 * @since 0.1.0
 */
export interface PublishOptions {
  /**
   * The longest time the publish may take, from the call to its acknowledgement; time in the outbox counts. Past it the
   * publish fails with `DeadlineExceeded`: still queued means removed, already written means that only the waiting ends.
   * No limit by default.
   */
  readonly timeout?: Duration.Input | undefined
}

/**
 * What became of a publish.
 *
 * @category models
 * @since 0.1.0
 */
export interface PublishResult {
  readonly qos: QoS
  /**
   * The server's answer: `0x00`, or `0x10` where it had no subscriber (MQTT 5.0). Always `0x00` at QoS 0, where there is no
   * answer, and on MQTT 3.1.1, which has no codes.
   */
  readonly reasonCode: number
  readonly reasonString: string | undefined
}

/**
 * How one filter is subscribed. Two subscriptions to one filter share it on the wire: the stronger QoS is asked for, and
 * the other options of the later one apply.
 *
 * @category options
 * @since 0.1.0
 */
export interface SubscriptionOptions {
  /** The highest QoS at which the server shall send. Default 0. */
  readonly qos?: QoS | undefined
  /** Whether messages that this client published are left out (MQTT 5.0). Default false. */
  readonly noLocal?: boolean | undefined
  /** Whether the retain flag stays as the publisher set it (MQTT 5.0). Default false. */
  readonly retainAsPublished?: boolean | undefined
  /** Whether retained messages are sent on subscribing (MQTT 5.0). Default `"send"`. */
  readonly retainHandling?: "send" | "sendIfNew" | "none" | undefined
}

/**
 * Options of a subscription.
 *
 * @category options
 * @since 0.1.0
 */
export interface SubscribeOptions extends SubscriptionOptions {
  /**
   * QoS 0 messages that the subscriber may be behind; default 4096. QoS 1 and 2 are not bounded by it: they are held
   * back by not acknowledging them, up to `receiveMaximum`.
   */
  readonly bufferSize?: number | undefined
  /** Payload bytes of QoS 0 messages that the subscriber may be behind; default 16 MiB. */
  readonly bufferBytes?: number | undefined
  /**
   * What happens to QoS 0 messages beyond `bufferSize` or `bufferBytes`: `"sliding"` (default) drops the oldest, `"dropping"` the newest,
   * `"fail"` ends the stream with `SubscriptionOverflow`. Drops are counted in `Subscription.dropped`.
   */
  readonly overflow?: "sliding" | "dropping" | "fail" | undefined
  /** User properties of the SUBSCRIBE packet (MQTT 5.0). */
  readonly userProperties?: UserProperties | undefined
}

/**
 * What the server granted for one filter.
 *
 * @category models
 * @since 0.1.0
 */
export interface Grant {
  readonly filter: string
  /** May be lower than asked for. */
  readonly qos: QoS
}

/**
 * An established subscription.
 *
 * @category models
 * @since 0.1.0
 */
export interface Subscription {
  /** In the order of the filters. */
  readonly grants: ReadonlyArray<Grant>
  /**
   * The messages, in the order in which they arrived. The stream is to be run once at a time; it ends with the scope of the
   * subscription, survives lost connections, pauses and changes of options, and fails if the server refuses to renew the
   * subscription.
   *
   * A QoS 1 or 2 message is acknowledged once the consumer came back for more after it. A run that ends after the first
   * message has taken just that; the others are there for the next run. Messages come in batches that grow while a consumer
   * goes on, so one that ends in the middle of a batch may see the QoS 1 messages of that batch again.
   */
  readonly messages: Stream.Stream<Message, SubscribeError>
  /** QoS 0 messages dropped so far since the buffer was full. */
  readonly dropped: Effect.Effect<number>
}

/**
 * Options of `disconnect`.
 *
 * @category options
 * @since 0.1.0
 */
export interface DisconnectOptions {
  /** `"normal"` (default) discards the will, `"withWill"` has the server publish it (MQTT 5.0; 3.1.1 closes bare). */
  readonly reason?: "normal" | "withWill" | undefined
  /** Replaces the session expiry that CONNECT asked for (MQTT 5.0). May not raise it from 0. */
  readonly sessionExpiry?: Duration.Input | undefined
  readonly reasonString?: string | undefined
  readonly userProperties?: UserProperties | undefined
}

/**
 * New options, whole or as a function of those in force.
 *
 * @category options
 * @since 0.1.0
 */
export type OptionsUpdate = ClientOptions | ((options: ClientOptions) => ClientOptions)

/**
 * The operations of a client. All of them may be called from any number of fibers at once.
 *
 * @category models
 * @since 0.1.0
 */
export interface MqttClientService {
  /**
   * Publishes a message.
   *
   * **Details**
   *
   * Completes at QoS 0 when the outbox took the message (`flush` waits for the network), at QoS 1 on PUBACK, at QoS 2 on
   * PUBCOMP. Messages of one client go out in call order. While there is no connection they wait in the outbox; while the
   * outbox is full the call suspends or fails by `outbox.strategy`. A QoS 1 or 2 publish survives a lost connection.
   *
   * Interrupting removes a message that no byte was sent of. Of one that was written, only the waiting ends: the exchange
   * goes on, and its packet identifier stays taken until the server has answered.
   */
  readonly publish: (
    message: OutgoingMessage,
    options?: PublishOptions | undefined
  ) => Effect.Effect<PublishResult, PublishError>
  /**
   * Subscribes when the stream runs, and unsubscribes when it ends.
   *
   * For a subscription whose grant is known before anything else happens, use `subscription`.
   */
  readonly subscribe: (
    filters: string | ReadonlyArray<string>,
    options?: SubscribeOptions | undefined
  ) => Stream.Stream<Message, SubscribeError>
  /**
   * Subscribes, waits for SUBACK, and unsubscribes when the scope closes.
   *
   * **Details**
   *
   * Fails with `SubscriptionRefused` if the server refused any of the filters; those that it granted are unsubscribed then.
   * While there is no connection it waits for one. Interrupting it withdraws the subscription.
   */
  readonly subscription: (
    filters: string | ReadonlyArray<string>,
    options?: SubscribeOptions | undefined
  ) => Effect.Effect<Subscription, SubscribeError, Scope.Scope>
  /**
   * The messages of the durable subscription to `filter`, declared in the options. The filter is not unsubscribed when the
   * stream ends. Fails with `InvalidSubscription` if no such subscription is declared.
   */
  readonly durable: (
    filter: string,
    options?: Pick<SubscribeOptions, "bufferSize" | "bufferBytes" | "overflow"> | undefined
  ) => Stream.Stream<Message, SubscribeError>
  /**
   * Leaves the network to others: the packet being written is finished, DISCONNECT is sent (the will does not fire), the
   * socket is closed, and nothing touches the network until `resume` or `reconnect`. A connection attempt under way, and a
   * wait for the next one, end as well. Does nothing if the client is paused, or halted.
   */
  readonly pause: Effect.Effect<void, ClientClosed>
  /**
   * Ends a pause or a halt. Completes once connected, or fails with the cause of the first attempt: the client then goes on
   * trying if that is retryable, and halts if not. Completes at once if the client is connected; while it is connecting or
   * waiting to, it waits for the outcome of the next attempt.
   */
  readonly resume: Effect.Effect<Negotiated, ConnectError | ClientClosed>
  /**
   * Ends the present connection, or attempt, with DISCONNECT and connects with new options, now. Without options those in
   * force are used again. Streams stay alive and are subscribed again where the new session does not know them; publishes
   * under way follow the rules of the session.
   *
   * **Details**
   *
   * Completes once connected. Fails with `InvalidOptions` if the options are not valid, and then changes nothing. Fails with
   * the cause if the attempt fails: the new options stay in force, and the client goes on trying with them if that is
   * retryable, and halts if not.
   */
  readonly reconnect: (options?: OptionsUpdate | undefined) => Effect.Effect<Negotiated, ConnectError | ClientClosed>
  /**
   * Sets the options of the next connection attempt and leaves the present connection alone.
   */
  readonly updateOptions: (options: OptionsUpdate) => Effect.Effect<void, InvalidOptions | ClientClosed>
  /**
   * Sends DISCONNECT, closes the connection and halts the client, until `resume` or `reconnect`. What is pending fails as
   * abandoned.
   */
  readonly disconnect: (options?: DisconnectOptions | undefined) => Effect.Effect<void, InvalidOptions | ClientClosed>
  /**
   * Waits until all that was in the outbox when it was called is handed to the socket. At QoS 1 and 2 that is not an
   * acknowledgement. Waits for a connection where there is none; fails if the client is halted or closed with something
   * left, which is given up then.
   */
  readonly flush: Effect.Effect<void, ClientHalted | ClientClosed>
  /**
   * Sends PINGREQ and waits for PINGRESP; gives the time between the two. Fails at once if there is no connection.
   */
  readonly ping: Effect.Effect<Duration.Duration, PingError>
  /**
   * Waits until the client is connected. Fails when it is halted or closed; waits through a pause.
   */
  readonly awaitConnected: Effect.Effect<Negotiated, ClientHalted | ClientClosed>
  /** The present status. */
  readonly status: Effect.Effect<Status>
  /** The present status and every one after it; ends with `Closed`. */
  readonly statusChanges: Stream.Stream<Status>
  /**
   * What happens from now on; bounded, drops the oldest when its reader lags, and says so with `EventsMissed`. Ends when the
   * client is closed.
   */
  readonly events: Stream.Stream<ClientEvent>
  /** Counters and gauges. */
  readonly stats: Effect.Effect<Stats>
}

/**
 * The tag of the one client of an application.
 *
 * @category services
 * @since 0.1.0
 */
export class MqttClient extends Context.Service<MqttClient, MqttClientService>()("effect-mqtt/services/MqttClient") {}

/**
 * Makes a further tag, for an application that talks to several brokers.
 *
 * **Example** (A second broker)
 *
 * ```ts
 * class Plant extends MqttClient.Tag<Plant>()("app/Plant") {}
 * const PlantMqtt = MqttClient.layerFor(Plant, { endpoint: "mqtt://plant" })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const Tag = <Self>() => <const Id extends string>(id: Id) => Context.Service<Self, MqttClientService>()(id)
