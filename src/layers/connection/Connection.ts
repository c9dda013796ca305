/**
 * One connection: the handshake, and then reader, writer and keep-alive as three fibers in one scope.
 *
 * They meet only through wake-up queues, the plain state of `ClientCore` and `LinkState`, and deferreds. The first of them
 * that fails ends the connection, with its cause; what comes after is the supervisor's business.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import type { Packet } from "../../protocol/index.ts"
import { KeepAlive } from "../../protocol/index.ts"
import type { Credentials } from "../../services/ClientOptions.ts"
import * as Endpoint from "../../services/Endpoint.ts"
import {
  ConnectTimeout,
  fromTransportError,
  KeepAliveTimeout,
  Offline,
  OptionsUnavailable,
  PingError,
  WriteBlocked
} from "../../services/MqttError.ts"
import type { ConnectReason, InvalidOptions, LinkLost, ReauthenticateError } from "../../services/MqttError.ts"
import { checkCredentials } from "../../services/ResolvedOptions.ts"
import type { ResolvedOptions } from "../../services/ResolvedOptions.ts"
import type { Negotiated } from "../../services/Status.ts"
import { Transport } from "../../services/Transport.ts"
import * as Authenticator from "./Authenticator.ts"
import type { ClientCore } from "../ClientCore.ts"
import { Signal } from "../Signal.ts"
import { planSession, toConnect } from "./Handshake.ts"
import type { SessionPlan, SessionRecord } from "./Handshake.ts"
import { LinkState, sliceBytes } from "./LinkState.ts"
import { lifetime } from "../supervision/Renewal.ts"

/** Scheduler turns that the reader gives its consumers after a pull, at most, while one of them lags. */
const consumerTurns = 256
/** Scheduler turns in which what has arrived is read before a silent link is judged. */
const turnsBeforeVerdict = 8

/** An established connection. */
export interface Link {
  readonly negotiated: Negotiated
  /** Waits until the connection ends without our asking; the peer has been told, where the protocol says so. */
  readonly ended: Effect.Effect<LinkLost>
  /** Sends DISCONNECT behind the packet that is being written. Never longer than `disconnectTimeout`; aborts past it. */
  readonly disconnect: (packet: Packet.Disconnect) => Effect.Effect<void>
  readonly ping: Effect.Effect<Duration.Duration, PingError>
  readonly reauthenticate: Effect.Effect<void, ReauthenticateError>
}

// ---------------------------------------------------------------------------
// fibers
// ---------------------------------------------------------------------------

const reader = Effect.fnUntraced(function*(link: LinkState) {
  while (link.phase !== "over") {
    const chunks = yield* link.stream.pull
    link.receive(chunks)
    for (let turn = 0; turn < consumerTurns && !link.isJudged && link.core.isLagging; turn++) yield* Effect.yieldNow
  }
}, (effect, link) => Effect.catch(effect, (error) => Effect.sync(() => link.lost(error))))

const writer = Effect.fnUntraced(function*(link: LinkState) {
  while (true) {
    yield* link.writerWake.take
    for (let bytes = link.next(); bytes !== undefined; bytes = link.next()) {
      for (let start = 0; start < bytes.length; start += sliceBytes) {
        yield* link.stream.write(bytes.length <= sliceBytes ? bytes : bytes.subarray(start, start + sliceBytes))
        KeepAlive.writeProgressed(link.keepAlive, link.core.now())
      }
      if (link.finalTaken) {
        link.graceful = true
        Deferred.doneUnsafe(link.finalWritten, Exit.void)
        return
      }
      link.written()
    }
  }
}, (effect, link) =>
  Effect.catch(effect, (error) =>
    Effect.sync(() => {
      link.lost(error)
      // Nothing can be written any more, so nobody need wait for DISCONNECT.
      Deferred.doneUnsafe(link.finalWritten, Exit.void)
    })))

/** Rounded up, since a timer that is early only makes the loop turn again; what floating point adds does not count. */
const wholeMillis = (millis: number): number => Math.ceil(millis - 1e-6)

const keepAlive = Effect.fnUntraced(function*(link: LinkState) {
  while (link.phase === "open") {
    const now = link.core.now()
    const decision = KeepAlive.decide(link.keepAlive, now)
    switch (decision._tag) {
      case "Off":
        return
      case "Wait":
        yield* Effect.raceFirst(Effect.sleep(wholeMillis(decision.until - now)), Queue.take(link.keepAliveWake))
        break
      case "Ping":
        link.queuePing(undefined)
        break
      case "Timeout":
      case "Blocked": {
        // The process may have slept: what has arrived in the meantime is read first.
        link.isJudged = true
        for (let turn = 0; turn < turnsBeforeVerdict; turn++) yield* Effect.yieldNow
        link.isJudged = false
        const verdict = KeepAlive.decide(link.keepAlive, link.core.now())
        const { keepAlive: keepAliveMillis, pingTimeout: pingTimeoutMillis } = link.keepAlive
        if (verdict._tag === "Timeout") return link.end(new KeepAliveTimeout({ keepAliveMillis, pingTimeoutMillis }))
        if (verdict._tag === "Blocked") {
          return link.end(new WriteBlocked({ blockedMillis: keepAliveMillis + pingTimeoutMillis }))
        }
      }
    }
  }
})

// ---------------------------------------------------------------------------
// opening
// ---------------------------------------------------------------------------

/** One attempt as it goes on. */
export interface Attempt {
  /** How far it has come, for the error of its timeout. */
  phase: ConnectTimeout["phase"]
  /**
   * To be run when the attempt was interrupted, before its scope is closed, however far it had come: takes its CONNECT back
   * with DISCONNECT, since the server might publish the will otherwise. Bounded by `disconnectTimeout`.
   */
  leave: (packet: Packet.Disconnect) => Effect.Effect<void>
  /** How long the credentials are good for, from the moment at which they were given, where they say so. */
  lifetimeMillis: number | undefined
  /** Called when CONNACK accepts the connection, before anything else is made of it. */
  onAccepted: (negotiated: Negotiated) => void
}

export const makeAttempt = (): Attempt => ({
  phase: "options",
  leave: () => Effect.void,
  lifetimeMillis: undefined,
  onAccepted: () => {}
})

/** Dials and shakes hands. The stream, and the reader, belong to the scope. */
const shakeHands = Effect.fnUntraced(function*(
  core: ClientCore,
  options: ResolvedOptions,
  plan: SessionPlan,
  credentials: Credentials,
  attempt: Attempt
) {
  const scope = yield* Effect.scope
  const transport = yield* Transport
  const { authentication } = options
  const authenticator = authentication === undefined ? undefined : yield* Authenticator.begin(authentication)
  attempt.phase = "dial"
  const stream = yield* Effect.mapError(
    transport.connect(options.endpoint, (phase) => {
      attempt.phase = phase
    }),
    fromTransportError
  )
  const link = new LinkState(core, options, plan, attempt.onAccepted, stream, {
    writerWake: new Signal(yield* Scheduler.Scheduler),
    keepAliveWake: yield* Queue.dropping<void>(1)
  }, authenticator)
  yield* Scope.addFinalizer(scope, Effect.suspend(() => link.release()))
  attempt.phase = "connack"
  attempt.leave = (packet) => link.leave(packet)
  if (plan.resumes) core.isSessionInDoubt = true
  const fault = link.encoder.encode(toConnect(options, credentials, plan, authenticator?.data))
  if (fault !== undefined) return yield* Effect.die(new Error(`CONNECT could not be encoded: ${fault.packet}`))
  link.connect = link.encoder.take()
  yield* Effect.forkIn(reader(link), scope)
  yield* Effect.forkIn(writer(link), scope)
  if (authenticator !== undefined) yield* Effect.forkIn(authenticator.run(link), scope)
  link.wakeWriter()
  const outcome = yield* Deferred.await(link.handshake)
  if (outcome._tag === "Failed") {
    if (outcome.disconnect !== undefined && options.protocolVersion === 5) {
      yield* link.sendFinal(disconnect(outcome.disconnect))
    }
    return yield* Effect.fail(outcome.reason)
  }
  return { link, outcome }
})

const disconnect = (reasonCode: number): Packet.Disconnect => ({
  _tag: "Disconnect",
  reasonCode,
  properties: undefined
})

/** Runs an effect that the user gave. However it ends without a value, it has failed: a defect of it is not one of ours. */
export const orUnavailable = <A>(effect: Effect.Effect<A, unknown>): Effect.Effect<A, OptionsUnavailable> =>
  Effect.catchCause(effect, (cause) => Effect.fail(new OptionsUnavailable({ cause: Cause.squash(cause) })))

/** The credentials of an attempt. */
export const resolveCredentials = Effect.fnUntraced(function*(
  options: ResolvedOptions
): Effect.fn.Return<Credentials, OptionsUnavailable | InvalidOptions> {
  const { credentials } = options
  if (credentials === undefined) return {}
  if (!Effect.isEffect(credentials)) return credentials
  const given = yield* orUnavailable(credentials)
  return yield* Effect.fromResult(checkCredentials(given, options.protocolVersion))
})

/** Completes the fibers of an accepted connection and gives the supervisor's view of it. */
const run = Effect.fnUntraced(function*(link: LinkState, negotiated: Negotiated, scope: Scope.Scope) {
  yield* Effect.forkIn(keepAlive(link), scope)
  const { authenticator } = link
  if (authenticator !== undefined) yield* Effect.forkIn(authenticator.renew(link, scope), scope)

  const ended: Effect.Effect<LinkLost> = Effect.gen(function*() {
    const cause = yield* Deferred.await(link.ended)
    if (cause._tag === "KeepAliveTimeout" || cause._tag === "WriteBlocked") yield* link.stream.abort
    // On 3.1.1 an error is reported by closing and nothing else (DC-11).
    else if (cause._tag === "ProtocolError" && link.options.protocolVersion === 5) {
      yield* link.sendFinal(disconnect(cause.reasonCode))
    } else if (cause._tag === "UnacknowledgedOverflow" && link.options.protocolVersion === 5) {
      yield* link.sendFinal(disconnect(0x97))
    } else if (cause._tag === "AuthenticationFailed") {
      yield* link.sendFinal(disconnect(0x80))
    }
    return cause
  })

  const ping = Effect.callback<Duration.Duration, PingError>((resume) => {
    if (link.phase !== "open") return resume(Effect.fail(new PingError({ reason: link.cause ?? new Offline() })))
    const ping = link.queuePing(resume)
    return Effect.sync(() => {
      ping.resume = undefined
    })
  })

  const reauthenticate = authenticator?.reauthenticate(link, scope) ?? Authenticator.none
  const self: Link = { negotiated, ended, disconnect: (packet) => link.leave(packet), ping, reauthenticate }
  return self
})

const connect = Effect.fnUntraced(function*(
  core: ClientCore,
  options: ResolvedOptions,
  clientId: string,
  record: SessionRecord | undefined,
  attempt: Attempt
) {
  const scope = yield* Effect.scope
  if (core.committer !== undefined) {
    // What the store could not keep before has to be there before anything builds on it.
    attempt.phase = "store"
    yield* core.committer.flush
    attempt.phase = "options"
  }
  const credentials = yield* resolveCredentials(options)
  attempt.lifetimeMillis = lifetime(credentials, yield* Clock.currentTimeMillis)
  let plan = planSession(options, clientId, record)
  if (plan.discardFirst) {
    yield* discardSession(core, options, plan, credentials, attempt)
    plan = { ...plan, discardFirst: false, discarded: true }
  }
  // A session that is not ours may have to be discarded first, once.
  for (;;) {
    const inner = yield* Scope.fork(scope)
    const { link, outcome } = yield* Scope.provide(shakeHands(core, options, plan, credentials, attempt), inner)
    if (outcome._tag === "Accepted") return yield* run(link, outcome.negotiated, inner)
    yield* link.sendFinal(disconnect(0))
    yield* Scope.close(inner, Exit.void)
    if (options.protocolVersion === 4) yield* discardSession(core, options, plan, credentials, attempt)
    plan = options.protocolVersion === 4 ? { ...plan, discarded: true } : { ...plan, cleanStart: true }
  }
})

const discardSession = (
  core: ClientCore,
  options: ResolvedOptions,
  plan: SessionPlan,
  credentials: Credentials,
  attempt: Attempt
) =>
  Effect.scoped(Effect.flatMap(
    // Without the will: this connection is no life of the client, and its end no death.
    shakeHands(
      core,
      { ...options, will: undefined },
      { ...plan, cleanStart: true, resumes: false, discardOnly: true },
      credentials,
      attempt
    ),
    ({ link }) => link.sendFinal(disconnect(0))
  ))

/**
 * Opens a connection: credentials, dial, handshake, and its three fibers, all within `connectTimeout`, of which the attempt
 * has used `elapsedMillis`. Everything ends with the scope.
 */
export const open = (
  core: ClientCore,
  options: ResolvedOptions,
  clientId: string,
  record: SessionRecord | undefined,
  elapsedMillis: number,
  attempt: Attempt
): Effect.Effect<Link, ConnectReason, Transport | Scope.Scope> =>
  Effect.timeoutOrElse(connect(core, options, clientId, record, attempt), {
    duration: Math.max(0, options.connectTimeoutMillis - elapsedMillis),
    orElse: () =>
      Effect.fail<ConnectReason>(
        new ConnectTimeout({
          address: Endpoint.toUrl(options.endpoint),
          phase: attempt.phase,
          timeoutMillis: options.connectTimeoutMillis
        })
      )
  })
