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
import type * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import type * as Sink from "effect/Sink"
import type * as Stream from "effect/Stream"
import type { QoS, UserProperties } from "../protocol/Packet.ts"
import type { ClientOptions } from "./ClientOptions.ts"
import type { ManualMessage, Message, OutgoingMessage, RejectCode } from "./Message.ts"
import type {
  ClientClosed,
  ClientHalted,
  ConnectError,
  InvalidOptions,
  NoSessionStore,
  PingError,
  PublishError,
  PublishPhase,
  ReauthenticateError,
  SessionStoreError,
  SubscribeError,
  SubscribeReason
} from "./MqttError.ts"
import type { StoredOutcome } from "./SessionStore.ts"
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
  /**
   * Your own name for this publish, 1 to 255 characters; QoS 1 and 2, with a session store only. The id is the identity: what
   * is published under it once is not published again, whatever topic and payload come with it.
   *
   * **Details**
   *
   * While the publish is not over, in this process or an earlier one, a call with its id waits for the same outcome. Once it
   * was delivered, a call succeeds and sends nothing. Once its outcome is unknown, since the server lost the session, a call
   * fails with `SessionLost`, or sends it anew where `onSessionLost` says `"republish"`. What the server refused, and what was
   * never sent, is sent. The outcome is told once the store has it.
   *
   * The store is asked first, so messages that are published at the same time may go out before it.
   */
  readonly id?: string | undefined
}

/**
 * How often the server has a message that was published with success.
 *
 * - `queued`: QoS 0, taken by the outbox; at most once
 * - `atLeastOnce`: QoS 1, or QoS 2 where the session was lost and the message was sent anew (`onSessionLost`)
 * - `exactlyOnce`: QoS 2, in one session
 *
 * @category models
 * @since 0.1.0
 */
export type PublishGuarantee = "queued" | "atLeastOnce" | "exactlyOnce"

/**
 * What became of a publish under its caller's own id.
 *
 * - `Pending`: it is not over; `phase` is how far it has come
 * - `Delivered`, `Refused`: the server answered
 * - `Unknown`: it was written, and the session was lost before the server answered
 * - `None`: nothing was sent under this id, or it is too long ago for the store
 *
 * @category models
 * @since 0.1.0
 */
export type PublishOutcome = StoredOutcome | { readonly _tag: "Pending"; readonly phase: PublishPhase } | {
  readonly _tag: "None"
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
  readonly guarantee: PublishGuarantee
}

/**
 * How one filter is subscribed. Two subscriptions to one filter share it on the wire: the stronger QoS is asked for, and
 * the other options of the later one apply; retained messages are a matter of each one.
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
  /**
   * Whether the subscriber gets the retained messages. `"send"` (default): yes, also where the client is subscribed to the
   * filter already; then it subscribes once more, and the copies that this brings are handed to the new subscriber alone.
   * `"sendIfNew"`: if it is the first one of the filter; `"none"`: never (both MQTT 5.0: on 3.1.1 the first one gets them).
   */
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
  /**
   * When a QoS 1 or 2 message is acknowledged. `"auto"` (default): once the consumer came back for more after it. `"manual"`:
   * once it was settled; the elements of the stream are `ManualMessage`s then. What is not settled when another run of
   * `messages` begins comes again there; what is not when the subscription ends goes to the next subscriber that matches.
   */
  readonly ack?: "auto" | "manual" | undefined
  /**
   * What happens to QoS 1 and 2 messages when the subscriber is slow: it holds more than `heldMessages` or `heldBytes` of them
   * unacknowledged, or has been done with none for `slowAfter`. Acknowledgements leave in order, so that what one subscriber
   * holds in the end holds back its neighbours.
   *
   * - `"hold"` (default): it goes on holding them, up to `receiveMaximum` for the whole client. Nothing is lost; neighbours wait
   *   once that is used up.
   * - `"spill"`: all that it holds, and what comes, goes to the session store, is acknowledged once it is kept there, and
   *   comes from there, in order, when the subscriber gets to it. It survives a crash: the next subscription to the same
   *   filters finds it. Beyond `spillMessages` or `spillBytes` messages are held again. Needs a session store.
   * - `"drop"`: all that it holds, and what comes, is acknowledged and stays in memory; beyond `heldMessages` or `heldBytes` the
   *   oldest that the consumer does not have is dropped, and counted in `Subscription.dropped`. A crash loses what is in
   *   memory.
   */
  readonly whenSlow?: "hold" | "spill" | "drop" | undefined
  /** For how long a subscriber may hold messages and be done with none, before `whenSlow` applies. Default 1 s. */
  readonly slowAfter?: Duration.Input | undefined
  /** Messages that it may hold before `whenSlow` applies; default a quarter of `receiveMaximum`. */
  readonly heldMessages?: number | undefined
  /** Their payload bytes; default 16 MiB. */
  readonly heldBytes?: number | undefined
  /** Messages that the store may keep for the subscriber; default 100,000. */
  readonly spillMessages?: number | undefined
  /** Their payload bytes; default 256 MiB. */
  readonly spillBytes?: number | undefined
  /** User properties of the SUBSCRIBE packet (MQTT 5.0). */
  readonly userProperties?: UserProperties | undefined
}

/**
 * Options of a listener to a durable subscription.
 *
 * @category options
 * @since 0.1.0
 */
export type DurableOptions = Omit<SubscribeOptions, keyof SubscriptionOptions | "userProperties">

/**
 * Options of `process`. The QoS is 1 by default: at QoS 0 nothing is acknowledged, and a crash loses what was under way.
 *
 * @category options
 * @since 0.1.0
 */
export interface ProcessOptions extends Omit<SubscribeOptions, "ack"> {
  /** Handlers that may run at once; default 1, which is in order of arrival. */
  readonly concurrency?: number | undefined
  /** With `concurrency` above 1: messages with the same key are handled one after the other, in order of arrival. */
  readonly key?: ((message: Message) => string) | undefined
  /**
   * What a typed failure of the handler does. `"fail"` (default): `process` fails with it, and the message stays
   * unacknowledged. `"leave"`: the message stays unacknowledged and processing goes on; it comes again on the next
   * connection of the session, and until then holds back the acknowledgements behind it. `{ reject }`: the server is told
   * the reason code, as by `ManualMessage.reject`.
   */
  readonly onFailure?: "fail" | "leave" | { readonly reject: RejectCode } | undefined
}

/**
 * Options of `inbox`. The QoS is 2 by default: only there a message has an identity that outlives the connection.
 *
 * @category options
 * @since 0.1.0
 */
export interface InboxOptions extends Omit<SubscribeOptions, "ack"> {}

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
 * What the server has of a subscription.
 *
 * **Details**
 *
 * - `Established`: it has granted all filters. Comes again when a grant changes.
 * - `Lost`: there is no connection, for whatever reason, or the server has not granted all filters again yet. The stream is
 *   alive and goes on with the next `Established`.
 * - `Halted`: with `ClientHalted` the client is, and the stream is alive and goes on when it is resumed. With any other
 *   reason it has failed for good, and `messages` fails with the same reason.
 *
 * @category models
 * @since 0.1.0
 */
export type SubscriptionStatus =
  | { readonly _tag: "Established"; readonly grants: ReadonlyArray<Grant> }
  | { readonly _tag: "Lost" }
  | { readonly _tag: "Halted"; readonly reason: SubscribeReason }

/**
 * An established subscription.
 *
 * @category models
 * @since 0.1.0
 */
export interface Subscription<out M extends Message = Message> {
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
  readonly messages: Stream.Stream<M, SubscribeError>
  /** Messages dropped so far: at QoS 0 since the buffer was full, at QoS 1 and 2 by `whenSlow: "drop"`. */
  readonly dropped: Effect.Effect<number>
  /** What the server has of it now. */
  readonly status: Effect.Effect<SubscriptionStatus>
  /**
   * The present status and those that follow. Bounded: a reader that lags sees the last 16. Ends with the scope of the
   * subscription, or when it has failed.
   */
  readonly statusChanges: Stream.Stream<SubscriptionStatus>
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
   * Publishes many messages with one effect, several times as fast as one by one, and gives the outcome of each, in their
   * order. It never fails: what `publish` would fail with is the outcome of that message, and the others go on.
   *
   * **Details**
   *
   * It is what `publish` of each message in turn would be, all called at once: they go out in their order and before
   * whatever is published later, and the strategy of the outbox applies to each of them. With `"suspend"` they enter the
   * outbox as there is room, however many they are. The array is not to be changed until the effect is done. Any other
   * iterable is read to its end first: for what is too large to be held, use `publishSink`.
   *
   * Interrupting removes the messages that no byte was sent of, QoS 0 included. Of those that were written, only the waiting
   * ends. The `timeout` is that of the whole: past it the messages without an outcome fail with `DeadlineExceeded`.
   */
  readonly publishAll: (
    messages: Iterable<OutgoingMessage>,
    options?: PublishOptions | undefined
  ) => Effect.Effect<ReadonlyArray<Result.Result<PublishResult, PublishError>>>
  /**
   * Publishes the messages of a stream (`Stream.run`), in their order, each chunk as by `publishAll`; ends with their number
   * when the stream has ended and every one is done.
   *
   * **Details**
   *
   * It asks for the next chunk as soon as the outbox has taken the one before, without waiting for acknowledgements: no more
   * is under way than the outbox, the window and one chunk hold. Fails with the first message that fails. When it fails or
   * is interrupted, what no byte was sent of is removed, as for `publishAll`.
   */
  readonly publishSink: Sink.Sink<number, OutgoingMessage, never, PublishError>
  /**
   * What became of the publish under this id, of this process or an earlier one. Fails with `NoSessionStore` without a
   * session store.
   */
  readonly outcome: (id: string) => Effect.Effect<PublishOutcome, NoSessionStore | SessionStoreError>
  /**
   * Subscribes when the stream runs, and unsubscribes when it ends.
   *
   * For a subscription whose grant is known before anything else happens, use `subscription`.
   */
  readonly subscribe: {
    (
      filters: string | ReadonlyArray<string>,
      options: SubscribeOptions & { readonly ack: "manual" }
    ): Stream.Stream<ManualMessage, SubscribeError>
    (
      filters: string | ReadonlyArray<string>,
      options?: SubscribeOptions | undefined
    ): Stream.Stream<Message, SubscribeError>
  }
  /**
   * Subscribes, waits for SUBACK, and unsubscribes when the scope closes.
   *
   * **Details**
   *
   * Fails with `SubscriptionRefused` if the server refused any of the filters; those that it granted are unsubscribed then.
   * While there is no connection it waits for one. Interrupting it withdraws the subscription.
   */
  readonly subscription: {
    (
      filters: string | ReadonlyArray<string>,
      options: SubscribeOptions & { readonly ack: "manual" }
    ): Effect.Effect<Subscription<ManualMessage>, SubscribeError, Scope.Scope>
    (
      filters: string | ReadonlyArray<string>,
      options?: SubscribeOptions | undefined
    ): Effect.Effect<Subscription, SubscribeError, Scope.Scope>
  }
  /**
   * The messages of the durable subscription to `filter`, declared in the options. The filter is not unsubscribed when the
   * stream ends. Fails with `InvalidSubscription` if no such subscription is declared.
   */
  readonly durable: {
    (filter: string, options: DurableOptions & { readonly ack: "manual" }): Stream.Stream<ManualMessage, SubscribeError>
    (filter: string, options?: DurableOptions | undefined): Stream.Stream<Message, SubscribeError>
  }
  /**
   * Runs a handler on every message, and acknowledges a QoS 1 or 2 message once its handler has succeeded: at least once
   * *processing*. Runs until it is interrupted or the subscription fails.
   *
   * **Details**
   *
   * The handler's exit decides. Success acknowledges. A typed failure does what `onFailure` says. A defect ends `process` with
   * it, an interruption ends it too, and both leave the message unacknowledged: it goes to the next subscriber that matches
   * within 30 s, to the next one at all if the filter is declared in the option `subscriptions`, or, once the process is gone,
   * back to the server, which sends it again in the session's next connection.
   *
   * Filters that are all declared in the option `subscriptions` are listened to as by `durable`, and outlive `process`;
   * others are subscribed, and unsubscribed at its end. Retry the handler to try a message again in its place; retry
   * `process` to begin anew with what is not acknowledged.
   */
  readonly process: {
    <E, R>(
      filters: string | ReadonlyArray<string>,
      handler: (message: Message) => Effect.Effect<unknown, E, R>,
      options: ProcessOptions & { readonly onFailure: "leave" | { readonly reject: RejectCode } }
    ): Effect.Effect<never, SubscribeError, R>
    <E, R>(
      filters: string | ReadonlyArray<string>,
      handler: (message: Message) => Effect.Effect<unknown, E, R>,
      options?: ProcessOptions | undefined
    ): Effect.Effect<never, E | SubscribeError, R>
  }
  /**
   * Runs a handler on every message in a transaction of the session store, which keeps what the handler does there together
   * with the receipt of the message: exactly once *processing* of QoS 2 messages, also when the process is killed. Runs until
   * it is interrupted, or a handler, the store or the subscription fails.
   *
   * **Details**
   *
   * The handler works in the database of the store (`layerSqlite`, `layerSql`); what it does elsewhere is done at least once.
   * One message is handled at a time, in order of arrival. If the handler fails or dies, all of it is rolled back, `inbox`
   * fails with the error, and the message stays unacknowledged, as with `process`.
   * At QoS 0 and 1 the work of a handler is as atomic, and as often as these are.
   *
   * On SQLite nothing else of the client is kept while a handler works, so publishes wait for it: keep handlers short. A
   * handler must not wait for a publish of the same client; publish from a fiber of its own, or after the transaction. Other subscribers to the same messages may miss one if the process is
   * killed before they took it. If the connection to a database is lost in the moment of the commit, it is not known whether
   * the work is done, and the handler may run again; a unique key on `deliveryId` tells.
   *
   * Filters that are all declared in the option `subscriptions` are listened to as by `durable`, which is what an inbox wants:
   * their messages wait for it in the session. Fails with `NoSessionStore` without a store.
   */
  readonly inbox: <E, R>(
    filters: string | ReadonlyArray<string>,
    handler: (message: Message) => Effect.Effect<unknown, E, R>,
    options?: InboxOptions | undefined
  ) => Effect.Effect<never, E | SubscribeError, R>
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
   * the cause if the attempt fails, or the whole round where there are several endpoints: the new options stay in force, and the client goes on trying with them if that is
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
   * Authenticates again on the present connection with a new exchange of `authentication` (MQTT 5.0 §4.12.1), while everything
   * else goes on. A call during another one waits for that one. Interrupting it ends the waiting and not the exchange. An
   * exchange that fails ends the connection, unless it could not be begun.
   */
  readonly reauthenticate: Effect.Effect<void, ReauthenticateError>
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
  /**
   * The QoS 1 and 2 messages that wait, unacknowledged, for a subscription that wants them, oldest first; see the option
   * `unclaimed`. Those of a durable subscription that nobody listens to are among them. `MessageUnclaimed` in `events` tells
   * of each one that begins to wait.
   */
  readonly unclaimed: Effect.Effect<ReadonlyArray<Message>>
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
