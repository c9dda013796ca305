/**
 * Opens a connection: the handshake, and then reader, writer and keep-alive as three fibers of one `Link`.
 *
 * They meet only through wake-up signals, the plain state of `ClientCore` and `LinkState`, and deferreds. The first of them
 * that fails ends the connection, with its cause; what comes after is the supervisor's business.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Context from "effect/Context"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import type { Packet } from "../../protocol/index.ts"
import { KeepAlive, PacketCodec } from "../../protocol/index.ts"
import type { Credentials } from "../../services/ClientOptions.ts"
import * as Endpoint from "../../services/Endpoint.ts"
import { ConnectTimeout, fromTransportError, OptionsUnavailable } from "../../services/MqttError.ts"
import type { ConnectReason, InvalidOptions } from "../../services/MqttError.ts"
import { change, checkCredentials } from "../../services/ResolvedOptions.ts"
import type { ResolvedOptions } from "../../services/ResolvedOptions.ts"
import type { Negotiated } from "../../services/Status.ts"
import { Transport } from "../../services/Transport.ts"
import type { TransportError } from "../../services/Transport.ts"
import * as Authenticator from "./Authenticator.ts"
import type { ClientCore } from "../ClientCore.ts"
import { Signal } from "../Signal.ts"
import { planSession, toConnect } from "./Handshake.ts"
import type { SessionPlan, SessionRecord } from "./Handshake.ts"
import { finalPacket, Link } from "./Link.ts"
import { LinkState, sliceBytes } from "./LinkState.ts"
import { lifetime } from "../supervision/Renewal.ts"

/** Scheduler turns that the reader gives its consumers after a pull, at most, while one of them lags. */
const consumerTurns = 256

// ---------------------------------------------------------------------------
// fibers
// ---------------------------------------------------------------------------

// Without generators, whose frames take more than half of what an idle fiber takes, and which hold on to what they yielded
// and were given: the reader to the last chunk that it read.

const reader = (link: LinkState): Effect.Effect<void> => {
  const loop: Effect.Effect<void> = Effect.matchCauseEffect(link.stream.pull, {
    onFailure: (cause) => onLost(link, cause),
    onSuccess: (chunks) => {
      link.receive(chunks)
      return read(link, loop, 0)
    }
  })
  return loop
}

/** The stream failed. */
const onLost = (link: LinkState, cause: Cause.Cause<TransportError>): Effect.Effect<void> => {
  const error = Cause.findErrorOption(cause)
  if (error._tag === "None") return Effect.failCause(cause as Cause.Cause<never>)
  return Effect.sync(() => link.lost(error.value))
}

/** Goes on reading, once the consumers had their turns. */
const read = (link: LinkState, loop: Effect.Effect<void>, turn: number): Effect.Effect<void> => {
  if (turn < consumerTurns && !link.isJudged && link.core.isLagging) {
    return Effect.flatMap(Effect.yieldNow, () => read(link, loop, turn + 1))
  }
  return link.phase === "over" ? Effect.void : loop
}

const writer = (link: LinkState): Effect.Effect<void> => {
  const loop: Effect.Effect<void> = Effect.callback((resume) => link.writerWake.take(resume, () => write(link, loop)))
  return loop
}

/** Writes what there is, and goes on. */
const write = (link: LinkState, loop: Effect.Effect<void>): Effect.Effect<void> => {
  const bytes = link.next()
  return bytes === undefined ? loop : writeFrom(link, loop, bytes, 0)
}

const writeFrom = (
  link: LinkState,
  loop: Effect.Effect<void>,
  bytes: Uint8Array,
  start: number
): Effect.Effect<void> => {
  if (start < bytes.length) {
    const slice = bytes.length <= sliceBytes ? bytes : bytes.subarray(start, start + sliceBytes)
    return Effect.matchCauseEffect(link.stream.write(slice), {
      onFailure: (cause) =>
        Effect.tap(onLost(link, cause), () =>
          // Nothing can be written any more, so nobody need wait for DISCONNECT.
          Deferred.done(link.finalWritten, Exit.void)),
      onSuccess: () => {
        KeepAlive.writeProgressed(link.keepAlive, link.core.now())
        return writeFrom(link, loop, bytes, start + sliceBytes)
      }
    })
  }
  if (link.finalTaken) {
    link.graceful = true
    Deferred.doneUnsafe(link.finalWritten, Exit.void)
    return Effect.void
  }
  link.written()
  return write(link, loop)
}

// ---------------------------------------------------------------------------
// opening
// ---------------------------------------------------------------------------

/** One attempt as it goes on. */
export interface Attempt {
  /** The connection that is being opened. To be closed by whoever made the attempt. */
  link: Link
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

export const makeAttempt = (services: Context.Context<never>): Attempt => ({
  link: new Link(services),
  phase: "options",
  leave: () => Effect.void,
  lifetimeMillis: undefined,
  onAccepted: () => {}
})

/** Dials and shakes hands, for an attempt and its link. What fails on the way leaves the link to be closed. */
const shakeHands = Effect.fnUntraced(function*(
  core: ClientCore,
  options: ResolvedOptions,
  plan: SessionPlan,
  credentials: Credentials,
  attempt: Attempt,
  owner: Link
) {
  const transport = yield* Transport
  const { authentication } = options
  const authenticator = authentication === undefined ? undefined : yield* Authenticator.begin(authentication)
  attempt.phase = "dial"
  const stream = yield* Effect.mapError(
    Scope.provide(
      transport.connect(options.endpoint, (phase) => {
        attempt.phase = phase
      }),
      owner.scope
    ),
    fromTransportError
  )
  const wake = new Signal(yield* Scheduler.Scheduler)
  const link = new LinkState(core, options, plan, attempt.onAccepted, stream, wake, authenticator)
  attempt.phase = "connack"
  attempt.leave = (packet) => link.leave(packet)
  if (plan.resumes) core.isSessionInDoubt = true
  // By an encoder of its own, since that of the link would keep its memory, and many a client sends nothing else.
  const encoder = PacketCodec.makeEncoder({ protocolVersion: options.protocolVersion })
  const fault = encoder.encode(toConnect(options, credentials, plan, authenticator?.data))
  if (fault !== undefined) return yield* Effect.die(new Error(`CONNECT could not be encoded: ${fault.packet}`))
  link.connect = encoder.take()
  owner.begin(link, reader(link), writer(link))
  if (authenticator !== undefined) yield* Effect.forkIn(authenticator.run(link), owner.scope)
  link.wakeWriter()
  const outcome = yield* link.handshake
  if (outcome._tag === "Failed") {
    if (outcome.disconnect !== undefined && options.protocolVersion === 5) {
      yield* link.sendFinal(finalPacket(outcome.disconnect))
    }
    return yield* Effect.fail(outcome.reason)
  }
  return { link, outcome }
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

const connect = Effect.fnUntraced(function*(
  core: ClientCore,
  options: ResolvedOptions,
  clientId: string,
  record: SessionRecord | undefined,
  attempt: Attempt
) {
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
    const { link: owner } = attempt
    const { link, outcome } = yield* shakeHands(core, options, plan, credentials, attempt, owner)
    if (outcome._tag === "Accepted") {
      owner.establish(outcome.negotiated)
      const { authenticator } = link
      if (authenticator !== undefined) yield* Effect.forkIn(authenticator.renew(link, owner.scope), owner.scope)
      return owner
    }
    yield* link.sendFinal(finalPacket(0))
    yield* owner.close(Exit.void)
    attempt.link = new Link(core.services!)
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
  Effect.acquireUseRelease(
    Effect.sync(() => new Link(core.services!)),
    (owner) =>
      Effect.flatMap(
        // Without the will: this connection is no life of the client, and its end no death.
        shakeHands(
          core,
          change(options, { will: undefined }),
          { ...plan, cleanStart: true, resumes: false, discardOnly: true },
          credentials,
          attempt,
          owner
        ),
        ({ link }) => link.sendFinal(finalPacket(0))
      ),
    (owner, exit) => owner.close(exit)
  )

/**
 * Opens a connection: credentials, dial, handshake, and its three fibers, all within `connectTimeout`, of which the attempt
 * has used `elapsedMillis`. Everything ends with the link of the attempt.
 */
export const open = (
  core: ClientCore,
  options: ResolvedOptions,
  clientId: string,
  record: SessionRecord | undefined,
  elapsedMillis: number,
  attempt: Attempt
): Effect.Effect<Link, ConnectReason, Transport> =>
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
