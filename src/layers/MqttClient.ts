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
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
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
import type { Negotiated } from "../services/Status.ts"
import type { Transport } from "../services/Transport.ts"
import { ClientCore } from "./ClientCore.ts"
import type { Command } from "./supervision/Command.ts"
import { EndpointCycle } from "./supervision/EndpointCycle.ts"
import { sessionKey } from "./connection/Handshake.ts"
import { lazyService } from "./LazyService.ts"
import { checkClientId, openStore } from "./store/KeptSession.ts"
import { makePublish } from "./publishing/Publishing.ts"
import { makePublishAll, makePublishSink } from "./publishing/PublishingBatch.ts"
import { makeOutcome } from "./publishing/PublishingById.ts"
import { makeSubscribing } from "./subscriptions/Subscribing.ts"
import { evaluate } from "./supervision/OptionsSource.ts"
import type { OptionsSource } from "./supervision/OptionsSource.ts"
import { StatusCell } from "./supervision/StatusCell.ts"
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
  Effect.flatMap(Effect.scope, (scope) =>
    Effect.flatMap(Scope.fork(scope), (own) => {
      const building = new Building()
      return Effect.map(
        // What failed leaves nothing in the user's scope, which may live on and see many tries. It is given as a value, so
        // that all fibers of the client have the services of this one.
        Effect.onExit(build(own, building, source, initial, resolved, evaluationMillis), (exit) =>
          Exit.isFailure(exit) ? Scope.close(own, exit) : building.settle(scope, own)),
        toService
      )
    }))

/**
 * Who ends a client: while it is built the scope of that, and then, unless there is more in it, the user's, since a scope takes
 * 0.25 KB.
 */
class Building {
  #supervisor: Supervisor | undefined

  /** The client begins. */
  begin(own: Scope.Scope, supervisor: Supervisor): Effect.Effect<void> {
    this.#supervisor = supervisor
    return Scope.addFinalizerExit(
      own,
      (exit) => this.#supervisor === undefined ? Effect.void : close(this.#supervisor, Exit.isFailure(exit))
    )
  }

  /** The client is built. */
  settle(scope: Scope.Scope, own: Scope.Closeable): Effect.Effect<void> {
    const supervisor = this.#supervisor!
    // The store is in it, too, and closes behind the client.
    if (supervisor.core.committer !== undefined) return Effect.void
    this.#supervisor = undefined
    return Effect.andThen(addClose(scope, supervisor), Scope.close(own, Exit.void))
  }
}

const build = Effect.fnUntraced(function*(
  scope: Scope.Scope,
  building: Building,
  source: OptionsSource,
  initial: ClientOptions,
  resolved: ResolvedOptions,
  evaluationMillis: number
): Effect.fn.Return<Supervisor, ConnectError, Transport> {
  const core = new ClientCore(resolved, yield* Clock.Clock)
  const store = yield* SessionStore
  // Before anything can be parked or held back, which is what fibers are started for.
  core.services = yield* Effect.context<never>()
  if (store !== undefined) yield* Scope.provide(openSession(core, store, resolved), scope)
  const random = randomOf(yield* Random.Random)
  core.adoptedAfter = Math.floor(random() * PacketId.maximum)
  core.subscriptions.random = random
  const cycle = new EndpointCycle(random)
  if (core.sessionKey !== undefined) {
    // The session of an earlier process is where that process was connected last.
    const isKept = (at: ResolvedOptions) => sessionKey(at, resolved.clientId ?? "") === core.sessionKey
    cycle.remember(resolved, isKept)
  }
  const status = new StatusCell({ _tag: "Connecting", attempt: 1, endpoint: cycle.next(resolved).url })
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
  // No interruption comes between, which would leave behind what nobody ends.
  yield* Effect.uninterruptible(Effect.andThen(supervisor.start, building.begin(scope, supervisor)))
  if (first !== undefined) {
    yield* Effect.catchTag(Deferred.await(first), "ClientClosed", () => Effect.interrupt)
  }
  return supervisor
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

interface Generator {
  readonly nextDoubleUnsafe: () => number
}

const randoms = new WeakMap<Generator, () => number>()

/** Numbers from 0 to below 1: one function for all clients of a generator. */
const randomOf = (generator: Generator): () => number => {
  const known = randoms.get(generator)
  if (known !== undefined) return known
  const random = () => generator.nextDoubleUnsafe()
  randoms.set(generator, random)
  return random
}

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

// Apart, so that it keeps nothing but what it needs.
const addClose = (scope: Scope.Scope, supervisor: Supervisor): Effect.Effect<void> =>
  Scope.addFinalizerExit(scope, (exit) => close(supervisor, Exit.isFailure(exit)))

/** The scope of the client closes. */
const close = (supervisor: Supervisor, failed: boolean): Effect.Effect<void> => {
  const { core } = supervisor
  const withWill = failed && supervisor.resolved.willOnFailure
  const packet: Packet.Disconnect = { _tag: "Disconnect", reasonCode: withWill ? 0x04 : 0, properties: undefined }
  const submitted = submit(supervisor, (done: Deferred.Deferred<void>) => ({ _tag: "Close", packet, done }))
  return core.stopSlow.pipe(
    Effect.andThen(Effect.ignore(submitted)),
    Effect.andThen(keepRest(supervisor)),
    Effect.ensuring(supervisor.stop),
    Effect.ensuring(Effect.suspend(() => {
      // A consumer that ends later may give back what it had.
      core.services = undefined
      // Messages came while what was taken was still to be sent.
      return Effect.andThen(core.stopSlow, core.stopParked)
    }))
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

const subscribing = (client: Supervisor) => makeSubscribing(client.core, () => client.resolved.protocolVersion)

const toService = lazyService<Supervisor, MqttClientService>({
  publish: ({ core }) => makePublish(core),
  outcome: ({ core }) => makeOutcome(core),
  publishAll: ({ core }) => makePublishAll(core),
  publishSink: ({ core }) => makePublishSink(core),
  subscribe: (client) => subscribing(client).subscribe,
  subscription: (client) => subscribing(client).subscription,
  durable: (client) => subscribing(client).durable,
  process: (client) => subscribing(client).process,
  inbox: (client) => subscribing(client).inbox,
  pause: (client) => submit(client, (done: Deferred.Deferred<void>) => ({ _tag: "Pause", done })),
  resume: (client) =>
    submit(client, (done: Deferred.Deferred<Negotiated, ConnectError | ClientClosed>) => ({ _tag: "Resume", done })),
  reconnect: (client) => (update) =>
    Effect.flatMap(
      Effect.mapError(Effect.suspend(() => toSource(client, update)), failConnect),
      (source) => {
        if (source !== undefined) client.source = source
        return submit(client, (done: Deferred.Deferred<Negotiated, ConnectError | ClientClosed>) => ({
          _tag: "Reconnect",
          done
        }))
      }
    ),
  updateOptions: (client) => (update) =>
    Effect.flatMap(Effect.suspend(() => toSource(client, update)), (source) =>
      Effect.suspend(() => {
        if (client.isClosed) return Effect.fail(new ClientClosed())
        if (source !== undefined) client.source = source
        return Effect.void
      })),
  disconnect: (client) => (options = {}) =>
    Effect.flatMap(
      Effect.suspend(() => toDisconnect(client, options)),
      (packet) => submit(client, (done: Deferred.Deferred<void>) => ({ _tag: "Disconnect", packet, done }))
    ),
  flush: (client) => flush(client),
  ping: (client) =>
    Effect.suspend(() => {
      if (client.isClosed) return Effect.fail(new PingError({ reason: new ClientClosed() }))
      return client.link?.ping ?? Effect.fail(new PingError({ reason: new Offline() }))
    }),
  reauthenticate: (client) =>
    Effect.suspend(() => {
      if (client.isClosed) return Effect.fail(new ReauthenticateError({ reason: new ClientClosed() }))
      return client.link?.reauthenticate ?? Effect.fail(new ReauthenticateError({ reason: new Offline() }))
    }),
  awaitConnected: (client) => awaitConnected(client),
  status: ({ status }) => Effect.sync(() => status.current),
  statusChanges: ({ status }) => Stream.takeUntil(status.changes, (current) => current._tag === "Closed"),
  events: ({ core }) => core.events.stream,
  unclaimed: ({ core }) => Effect.sync(() => core.madeInbox?.unclaimed ?? []),
  stats: ({ core }) => Effect.sync(() => core.stats)
})

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
  status.changes.pipe(
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
