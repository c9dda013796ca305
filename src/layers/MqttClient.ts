/**
 * Builds the MQTT client: `make`, and the layers around it.
 *
 * This module re-exports the service, so that a program imports one module. `effect-mqtt/node` exports the same with the
 * transport already provided.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type { Packet } from "../protocol/index.ts"
import { PacketId } from "../protocol/index.ts"
import type { ClientOptions } from "../services/ClientOptions.ts"
import { MqttClient } from "../services/MqttClient.ts"
import type { DisconnectOptions, MqttClientService, OptionsUpdate } from "../services/MqttClient.ts"
import {
  ClientClosed,
  ClientHalted,
  ConnectError,
  InvalidOptions,
  Offline,
  PingError,
  ReauthenticateError
} from "../services/MqttError.ts"
import { checkDisconnectOptions, expirySeconds, resolve } from "../services/ResolvedOptions.ts"
import type { ResolvedOptions } from "../services/ResolvedOptions.ts"
import { SessionStore } from "../services/SessionStore.ts"
import type { SessionStoreService } from "../services/SessionStore.ts"
import type { Negotiated, Status } from "../services/Status.ts"
import type { Transport } from "../services/Transport.ts"
import { ClientCore } from "./ClientCore.ts"
import type { Command } from "./supervision/Command.ts"
import { EndpointCycle } from "./supervision/EndpointCycle.ts"
import { sessionKey } from "./connection/Handshake.ts"
import { checkClientId, openStore } from "./store/KeptSession.ts"
import { makePublish } from "./publishing/Publishing.ts"
import { makePublishAll, makePublishSink } from "./publishing/PublishingBatch.ts"
import { makeOutcome } from "./publishing/PublishingById.ts"
import { makeSubscribing } from "./subscriptions/Subscribing.ts"
import { evaluate } from "./supervision/OptionsSource.ts"
import type { OptionsSource } from "./supervision/OptionsSource.ts"
import { Supervisor } from "./supervision/Supervisor.ts"

export * from "../services/MqttClient.ts"
export type {
  Authentication,
  AuthenticationExchange,
  BrokerEndpoint,
  ClientOptions,
  Credentials,
  DurableSubscription,
  FailoverOptions,
  OutboxOptions,
  ReconnectOptions,
  RefreshOptions,
  SessionLostOptions,
  TakeoverOptions,
  Will
} from "../services/ClientOptions.ts"

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

/** Every server must take 23 letters and digits (MQTT-3.1.3-5); 20 of them are 119 bits of chance. */
const generateClientId: Effect.Effect<string> = Effect.map(
  Effect.all(Array.from({ length: 20 }, () => Random.nextIntBetween(0, alphabet.length, { halfOpen: true }))),
  (indices) => indices.map((index) => alphabet[index]).join("")
)

const failConnect = (error: InvalidOptions): ConnectError => new ConnectError({ reason: error })

/**
 * Builds a client from an effect that gives its options. It is evaluated once here, and again at every later attempt.
 */
const makeFrom = (
  source: OptionsSource,
  initial: ClientOptions,
  resolved: ResolvedOptions,
  evaluationMillis: number
): Effect.Effect<MqttClientService, ConnectError, Transport | Scope.Scope> =>
  Effect.flatMap(Effect.flatMap(Effect.scope, Scope.fork), (scope) =>
    // What failed leaves nothing in the user's scope, which may live on and see many tries.
    Effect.onExit(Scope.provide(build(source, initial, resolved, evaluationMillis), scope), (exit) =>
      Exit.isFailure(exit) ? Scope.close(scope, exit) : Effect.void))

const build = Effect.fnUntraced(function*(
  source: OptionsSource,
  initial: ClientOptions,
  resolved: ResolvedOptions,
  evaluationMillis: number
): Effect.fn.Return<MqttClientService, ConnectError, Transport | Scope.Scope> {
  const core = new ClientCore(resolved, yield* Clock.Clock)
  const store = yield* SessionStore
  if (store !== undefined) yield* openSession(core, store, resolved)
  const generator = yield* Random.Random
  const random = () => generator.nextDoubleUnsafe()
  core.adoptedAfter = Math.floor(random() * PacketId.maximum)
  const cycle = new EndpointCycle(random)
  if (core.sessionKey !== undefined) {
    // The session of an earlier process is where that process was connected last.
    const isKept = (at: ResolvedOptions) => sessionKey(at, resolved.clientId ?? "") === core.sessionKey
    cycle.remember(resolved, isKept)
  }
  const status = yield* SubscriptionRef.make<Status>({
    _tag: "Connecting",
    attempt: 1,
    endpoint: cycle.next(resolved).url
  })
  const first = resolved.firstConnect === "fail"
    ? yield* Deferred.make<Negotiated, ConnectError | ClientClosed>()
    : undefined
  const supervisor = new Supervisor({
    core,
    status,
    source,
    initial,
    resolved,
    evaluationMillis,
    generatedClientId: yield* generateClientId,
    first,
    cycle,
    random
  })
  // Before anything can be parked, which tells only who has begun to listen.
  yield* expireParked(core)
  // No interruption comes between, which would leave behind what nobody ends.
  yield* Effect.uninterruptible(Effect.andThen(
    Effect.forkScoped(supervisor.run),
    Effect.addFinalizer((exit) => close(supervisor, Exit.isFailure(exit)))
  ))
  yield* Effect.forkScoped(core.slow.run)
  if (first !== undefined) {
    yield* Effect.catchTag(Deferred.await(first), "ClientClosed", () => Effect.interrupt)
  }
  return toService(supervisor)
})

/** Opens the store of the session, and has what changes in it kept until the client is closed. */
const openSession = Effect.fnUntraced(function*(
  core: ClientCore,
  store: SessionStoreService,
  resolved: ResolvedOptions
): Effect.fn.Return<void, ConnectError, Scope.Scope> {
  const unfit = checkClientId(resolved)
  if (unfit !== undefined) return yield* Effect.fail(failConnect(unfit))
  // The time as well, since chance may be given a seed.
  const process = (yield* generateClientId).slice(0, 10) + (yield* Clock.currentTimeMillis).toString(36)
  yield* Effect.mapError(openStore(core, store, process), (reason) => new ConnectError({ reason }))
})

/** Looks at the time for messages that were parked. */
const expireParked = Effect.fnUntraced(function*(core: ClientCore) {
  const parked = yield* Queue.dropping<void>(1)
  core.onParked = () => {
    Queue.offerUnsafe(parked, undefined)
  }
  yield* Effect.forkScoped(Effect.gen(function*() {
    while (true) {
      yield* Queue.take(parked)
      for (let until = core.inbox.expire(core.now()); until !== undefined; until = core.inbox.expire(core.now())) {
        core.wakeWriter()
        yield* Effect.sleep(Math.max(1, Math.ceil(until - core.now())))
      }
      core.wakeWriter()
    }
  }))
})

const submit = <A, E>(
  supervisor: Supervisor,
  toCommand: (done: Deferred.Deferred<A, E>) => Command
): Effect.Effect<A, E | ClientClosed> =>
  Effect.suspend((): Effect.Effect<A, E | ClientClosed> => {
    if (supervisor.isClosed) return Effect.fail(new ClientClosed())
    const done = Deferred.makeUnsafe<A, E>()
    supervisor.submit(toCommand(done))
    return Deferred.await(done)
  })

const close = (supervisor: Supervisor, failed: boolean): Effect.Effect<void> => {
  const withWill = failed && supervisor.resolved.willOnFailure
  const packet: Packet.Disconnect = { _tag: "Disconnect", reasonCode: withWill ? 0x04 : 0, properties: undefined }
  return Effect.ignore(submit(supervisor, (done: Deferred.Deferred<void>) => ({ _tag: "Close", packet, done }))).pipe(
    Effect.andThen(keepRest(supervisor))
  )
}

/** Has the store keep what the end of the client changed, within the grace that the options give. */
const keepRest = ({ core, resolved }: Supervisor): Effect.Effect<void> => {
  const { committer } = core
  if (committer === undefined || resolved.drainTimeoutMillis === 0) return Effect.void
  const { name } = committer.store
  return Effect.timeoutOption(committer.flush, resolved.drainTimeoutMillis).pipe(
    Effect.flatMap((kept) =>
      kept._tag === "Some"
        ? Effect.void
        : Effect.logWarning(`the session store ${name} was not ready when the client closed`)
    ),
    Effect.catch((error) => Effect.logWarning(`the session store ${name} did not keep the last changes`, error))
  )
}

const toService = (supervisor: Supervisor): MqttClientService => {
  const { core, status } = supervisor
  const subscribing = makeSubscribing(core, () => supervisor.resolved.protocolVersion)
  return {
    publish: makePublish(core),
    outcome: makeOutcome(core),
    publishAll: makePublishAll(core),
    publishSink: makePublishSink(core),
    ...subscribing,
    pause: submit(supervisor, (done: Deferred.Deferred<void>) => ({ _tag: "Pause", done })),
    resume: submit(supervisor, (done: Deferred.Deferred<Negotiated, ConnectError | ClientClosed>) => ({
      _tag: "Resume",
      done
    })),
    reconnect: (update) =>
      Effect.flatMap(
        Effect.mapError(Effect.suspend(() => toSource(supervisor, update)), failConnect),
        (source) => {
          if (source !== undefined) supervisor.source = source
          return submit(supervisor, (done: Deferred.Deferred<Negotiated, ConnectError | ClientClosed>) => ({
            _tag: "Reconnect",
            done
          }))
        }
      ),
    updateOptions: (update) =>
      Effect.flatMap(Effect.suspend(() => toSource(supervisor, update)), (source) =>
        Effect.suspend(() => {
          if (supervisor.isClosed) return Effect.fail(new ClientClosed())
          if (source !== undefined) supervisor.source = source
          return Effect.void
        })),
    disconnect: (options = {}) =>
      Effect.flatMap(
        Effect.suspend(() => toDisconnect(supervisor, options)),
        (packet) => submit(supervisor, (done: Deferred.Deferred<void>) => ({ _tag: "Disconnect", packet, done }))
      ),
    flush: flush(supervisor),
    ping: Effect.suspend(() => {
      if (supervisor.isClosed) return Effect.fail(new PingError({ reason: new ClientClosed() }))
      return supervisor.link?.ping ?? Effect.fail(new PingError({ reason: new Offline() }))
    }),
    reauthenticate: Effect.suspend(() => {
      if (supervisor.isClosed) return Effect.fail(new ReauthenticateError({ reason: new ClientClosed() }))
      return supervisor.link?.reauthenticate ?? Effect.fail(new ReauthenticateError({ reason: new Offline() }))
    }),
    awaitConnected: awaitConnected(supervisor),
    status: SubscriptionRef.get(status),
    statusChanges: Stream.takeUntil(SubscriptionRef.changes(status), (current) => current._tag === "Closed"),
    events: core.events.stream,
    unclaimed: Effect.sync(() => core.inbox.unclaimed),
    stats: Effect.sync(() => core.stats)
  }
}

const toSource = (
  supervisor: Supervisor,
  update: OptionsUpdate | undefined
): Effect.Effect<OptionsSource | undefined, InvalidOptions> => {
  if (update === undefined) return Effect.succeed(undefined)
  const options = typeof update === "function" ? update(supervisor.pending) : update
  return Effect.fromResult(Result.map(resolve(options), (resolved) => ({ _tag: "Given" as const, options, resolved })))
}

const toDisconnect = (
  supervisor: Supervisor,
  options: DisconnectOptions
): Effect.Effect<Packet.Disconnect, InvalidOptions> => {
  const invalid = checkDisconnectOptions(options)
  if (invalid !== undefined) return Effect.fail(new InvalidOptions({ option: invalid.field, problem: invalid.problem }))
  const { reason, reasonString, sessionExpiry, userProperties } = options
  const sessionExpiryInterval = sessionExpiry === undefined ? undefined : expirySeconds(sessionExpiry)
  if (sessionExpiryInterval !== undefined && sessionExpiryInterval > 0 && supervisor.resolved.sessionExpiry === 0) {
    return Effect.fail(
      new InvalidOptions({
        option: "sessionExpiry",
        problem: "may not be raised from 0, which CONNECT asked for (MQTT 5.0 §3.14.2.2.2)"
      })
    )
  }
  const properties = { sessionExpiryInterval, reasonString, userProperties }
  return Effect.succeed({
    _tag: "Disconnect",
    reasonCode: reason === "withWill" ? 0x04 : 0,
    properties: Object.values(properties).every((value) => value === undefined) ? undefined : properties
  })
}

const flush = ({ core }: Supervisor): Effect.Effect<void, ClientHalted | ClientClosed> =>
  Effect.callback((resume) => {
    const sequence = core.outbox.lastSequence
    const isDone = () => core.outbox.passed(sequence) && !core.isWriting
    if (isDone()) return resume(Effect.void)
    const cancel = core.whenDone(isDone, (cause) => resume(cause === undefined ? Effect.void : Effect.fail(cause)))
    return Effect.sync(cancel)
  })

const awaitConnected = ({ status }: Supervisor): Effect.Effect<Negotiated, ClientHalted | ClientClosed> =>
  SubscriptionRef.changes(status).pipe(
    Stream.filter((current) => current._tag === "Connected" || current._tag === "Halted" || current._tag === "Closed"),
    Stream.runHead,
    Effect.flatMap((found): Effect.Effect<Negotiated, ClientHalted | ClientClosed> => {
      if (found._tag === "None") return Effect.fail(new ClientClosed())
      const current = found.value
      if (current._tag === "Connected") return Effect.succeed(current.negotiated)
      return Effect.fail(
        current._tag === "Halted" ? new ClientHalted({ cause: current.cause }) : new ClientClosed()
      )
    })
  )

// ---------------------------------------------------------------------------
// constructors and layers
// ---------------------------------------------------------------------------

/**
 * Builds a client in a scope, whose close is the client's.
 *
 * **Details**
 *
 * Succeeds after CONNACK, or fails with the typed cause of the first attempt; with `firstConnect: "retry"` it succeeds at
 * once and fails only if the options are not valid. Closing the scope stops intake, sends what was taken and waits for
 * acknowledgements within `drainTimeout`, sends DISCONNECT, and leaves no fiber, timer or handle.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: ClientOptions): Effect.Effect<MqttClientService, ConnectError, Transport | Scope.Scope> =>
  Effect.flatMap(
    Effect.mapError(Effect.suspend(() => Effect.fromResult(resolve(options))), failConnect),
    (resolved) => makeFrom({ _tag: "Given", options, resolved }, options, resolved, 0)
  )

/**
 * Builds a client whose options come from an effect that is evaluated at every connection attempt: a fresh token, the next
 * endpoint. Its failure is a failed attempt (`OptionsUnavailable`). Its requirements are taken once, here.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeEffect = <E, R>(
  options: Effect.Effect<ClientOptions, E, R>
): Effect.Effect<MqttClientService, ConnectError, Transport | Scope.Scope | R> =>
  Effect.gen(function*() {
    const services = yield* Effect.context<R>()
    const effect = Effect.provideContext(options, services) as Effect.Effect<ClientOptions, E>
    const [took, [initial, resolved]] = yield* Effect.timed(
      Effect.mapError(evaluate(effect, undefined), (reason) => new ConnectError({ reason }))
    )
    return yield* makeFrom({ _tag: "Evaluated", effect }, initial, resolved, Duration.toMillis(took))
  })

/**
 * The client as a layer; see `make`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: ClientOptions): Layer.Layer<MqttClient, ConnectError, Transport> =>
  layerFor(MqttClient, options)

/**
 * The client as a layer, under a tag of your own (`MqttClient.Tag`).
 *
 * @category layers
 * @since 0.1.0
 */
export const layerFor = <Self>(
  tag: Context.Key<Self, MqttClientService>,
  options: ClientOptions
): Layer.Layer<Self, ConnectError, Transport> => Layer.effect(tag, make(options))

/**
 * The client as a layer, with options from an effect; see `makeEffect`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerEffect = <E, R>(
  options: Effect.Effect<ClientOptions, E, R>
): Layer.Layer<MqttClient, ConnectError, Transport | Exclude<R, Scope.Scope>> => layerEffectFor(MqttClient, options)

/**
 * The client as a layer, under a tag of your own, with options from an effect.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerEffectFor = <Self, E, R>(
  tag: Context.Key<Self, MqttClientService>,
  options: Effect.Effect<ClientOptions, E, R>
): Layer.Layer<Self, ConnectError, Transport | Exclude<R, Scope.Scope>> => Layer.effect(tag, makeEffect(options))

/**
 * The client as a layer, with options from `Config`, which are read once.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<ClientOptions>
): Layer.Layer<MqttClient, ConnectError | Config.ConfigError, Transport> =>
  Layer.effect(MqttClient, Effect.flatMap(Config.unwrap(options), make))
