/**
 * Enhanced authentication on one connection (MQTT 5.0 §4.12): the exchange of CONNECT, and those after it.
 *
 * The plain state is driven by what `LinkState` receives; a fiber of the connection runs what the user gave.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Packet } from "../../protocol/index.ts"
import { ProtocolFault } from "../../protocol/index.ts"
import type { Authentication, AuthenticationExchange } from "../../services/Authentication.ts"
import { AuthenticationFailed, NoAuthentication, Offline, ReauthenticateError } from "../../services/MqttError.ts"
import { firstIssue } from "../../services/OptionSchema.ts"
import { lifetimeFields } from "../../services/ResolvedEndpoint.ts"
import type { LinkState } from "./LinkState.ts"
import * as Renewal from "../supervision/Renewal.ts"

const fault = (field: string, rule: string) => ProtocolFault.make("AUTH", field, rule, 0x82)

const bytesOf = (data: Redacted.Redacted<Uint8Array> | undefined): Uint8Array | undefined =>
  data === undefined ? undefined : Redacted.value(data)

/** What the user's effects give is checked as options are, since it is not under the eye of a compiler everywhere. */
const Data = Schema.optional(Schema.declare<Redacted.Redacted<Uint8Array>>(
  (value): value is Redacted.Redacted<Uint8Array> => {
    const bytes = Redacted.isRedacted(value) ? Redacted.value(value) : undefined
    return bytes instanceof Uint8Array && bytes.length <= 65_535
  },
  { expected: "at most 65,535 bytes as Redacted (Redacted.make)" }
))
const Callable = Schema.declare((value): value is () => unknown => typeof value === "function", {
  expected: "a function"
})
const Exchange = Schema.Struct({
  data: Data,
  respond: Schema.optional(Callable),
  verify: Schema.optional(Callable),
  ...lifetimeFields
})
const problemOf = (schema: Schema.Decoder<unknown>) => {
  const decode = Schema.decodeUnknownResult(schema, { errors: "first" })
  return (value: unknown): Error | undefined => {
    const decoded = decode(value)
    if (decoded._tag === "Success") return undefined
    const { path, problem } = firstIssue(decoded.failure.issue)
    return new TypeError(path === "" ? problem : `${path}: ${problem}`)
  }
}
const exchangeProblem = problemOf(Exchange)
const dataProblem = problemOf(Data)

/** Runs what the user gave. However it ends without a value that is of use, it has failed. */
const orFailed = <A>(
  effect: Effect.Effect<A, unknown>,
  method: string,
  problem: AuthenticationFailed["problem"],
  check: (value: unknown) => Error | undefined
): Effect.Effect<A, AuthenticationFailed> =>
  effect.pipe(
    Effect.flatMap((value) => {
      const wrong = check(value)
      return wrong === undefined ? Effect.succeed(value) : Effect.fail(wrong)
    }),
    Effect.catchCause((cause) => Effect.fail(new AuthenticationFailed({ method, problem, cause: Cause.squash(cause) })))
  )

export class Authenticator {
  readonly authentication: Authentication
  #exchange: AuthenticationExchange
  /** When the present exchange was begun, in milliseconds of the wall clock. */
  #begunAt: number
  /** Whether an exchange is under way: that of CONNECT, or a later one. */
  #isUnderWay = true
  /** Whether a challenge waits for its answer, so that another one would be out of turn. */
  #isChallenged = false
  readonly #challenges: Queue.Queue<Uint8Array | undefined>
  /** What is to be sent next. */
  outgoing: Packet.Auth | undefined
  /** The end of the exchange on the live connection, for all who wait for it. */
  #done: Deferred.Deferred<void, ReauthenticateError> | undefined
  #verified: Deferred.Deferred<void> | undefined

  constructor(
    authentication: Authentication,
    exchange: AuthenticationExchange,
    begunAt: number,
    challenges: Queue.Queue<Uint8Array | undefined>
  ) {
    this.authentication = authentication
    this.#exchange = exchange
    this.#begunAt = begunAt
    this.#challenges = challenges
  }

  /** The data that begins the present exchange. */
  get data(): Uint8Array | undefined {
    return bytesOf(this.#exchange.data)
  }

  /** AUTH came. */
  onAuth(packet: Packet.Auth, isOpen: boolean): ProtocolFault.ProtocolFault | AuthenticationFailed | undefined {
    const { method } = this.authentication
    const data = packet.properties?.authenticationData
    if (packet.properties?.authenticationMethod !== method) {
      return fault("authentication method", "not that of CONNECT")
    }
    if (!this.#isUnderWay) return fault("reason code", "the client is not authenticating")
    if (this.#isChallenged) return fault("reason code", "the last challenge is not answered")
    if (packet.reasonCode === 0x18) {
      this.#isChallenged = true
      Queue.offerUnsafe(this.#challenges, data)
      return undefined
    }
    if (!isOpen) return fault("reason code", "0x18 is the only one before CONNACK")
    return this.conclude(data)
  }

  /** The server has ended the exchange, and says that it succeeded. */
  conclude(data: Uint8Array | undefined): AuthenticationFailed | undefined {
    this.#isUnderWay = false
    const { method } = this.authentication
    try {
      const { verify } = this.#exchange
      if (verify !== undefined && !verify(data)) return new AuthenticationFailed({ method, problem: "verify" })
    } catch (cause) {
      return new AuthenticationFailed({ method, problem: "verify", cause })
    }
    if (this.#verified !== undefined) Deferred.doneUnsafe(this.#verified, Exit.void)
    return undefined
  }

  /** Answers challenges. */
  readonly run = Effect.fnUntraced(function*(this: Authenticator, link: LinkState) {
    const { method } = this.authentication
    while (true) {
      const challenge = yield* Queue.take(this.#challenges)
      const { respond } = this.#exchange
      const response = yield* Effect.result(orFailed(
        Effect.suspend(() =>
          respond === undefined ? Effect.die(new Error("an unexpected challenge")) : respond(challenge)
        ),
        method,
        "respond",
        dataProblem
      ))
      if (response._tag === "Failure") return link.failAuthentication(response.failure)
      this.#isChallenged = false
      // The server may have ended the exchange without waiting for the answer.
      if (!this.#isUnderWay) continue
      this.#send(0x18, bytesOf(response.success))
      link.wakeWriter()
    }
  })

  #send(reasonCode: 0x18 | 0x19, authenticationData: Uint8Array | undefined): void {
    const authenticationMethod = this.authentication.method
    this.outgoing = { _tag: "Auth", reasonCode, properties: { authenticationMethod, authenticationData } }
  }

  /** See `MqttClient.reauthenticate`. One exchange at a time: who comes during one waits for it. */
  reauthenticate(link: LinkState, scope: Scope.Scope): Effect.Effect<void, ReauthenticateError> {
    return Effect.suspend(() => {
      if (this.#done !== undefined) return Deferred.await(this.#done)
      const done = Deferred.makeUnsafe<void, ReauthenticateError>()
      this.#done = done
      const onExit = (exit: Exit.Exit<void, ReauthenticateError>): void => {
        this.#done = undefined
        const reason = link.cause ?? new Offline()
        const isInterrupted = exit._tag === "Failure" && Cause.hasInterruptsOnly(exit.cause)
        Deferred.doneUnsafe(done, isInterrupted ? Exit.fail(new ReauthenticateError({ reason })) : exit)
      }
      // It belongs to the connection: neither its caller nor the caller's interruption counts any more. The connection may
      // end before the exchange has begun, which only an observer of its fiber is told of.
      return Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(Effect.forkIn(Authenticator.#again.call(this, link), scope), (fiber) => {
          fiber.addObserver(onExit)
          return restore(Deferred.await(done))
        })
      )
    })
  }

  static readonly #again = Effect.fnUntraced(function*(
    this: Authenticator,
    link: LinkState
  ): Effect.fn.Return<void, ReauthenticateError> {
    const { exchange, method } = this.authentication
    const duration = link.options.connectTimeoutMillis
    const timedOut = new AuthenticationFailed({ method, problem: "timeout" })
    const begunAt = yield* Clock.currentTimeMillis
    const begun = yield* orFailed(exchange, method, "exchange", exchangeProblem).pipe(
      Effect.timeoutOrElse({
        duration,
        orElse: () => Effect.fail(new AuthenticationFailed({ method, problem: "exchange", cause: timedOut }))
      }),
      Effect.mapError((reason) => new ReauthenticateError({ reason }))
    )
    if (link.phase !== "open") {
      return yield* Effect.fail(new ReauthenticateError({ reason: link.cause ?? new Offline() }))
    }
    const verified = Deferred.makeUnsafe<void>()
    this.#exchange = begun
    this.#begunAt = begunAt
    this.#verified = verified
    this.#isUnderWay = true
    this.#send(0x19, this.data)
    link.wakeWriter()
    const ended = Effect.flatMap(
      link.ended,
      (reason) => Effect.fail(new ReauthenticateError({ reason }))
    )
    yield* Effect.raceFirst(Deferred.await(verified), ended).pipe(
      Effect.timeoutOrElse({
        duration,
        orElse: () => {
          link.failAuthentication(timedOut)
          return Effect.fail(new ReauthenticateError({ reason: timedOut }))
        }
      })
    )
  })

  /** Authenticates again before the authentication ends, where it says when. */
  readonly renew = Effect.fnUntraced(function*(this: Authenticator, link: LinkState, scope: Scope.Scope) {
    const random = yield* Random.Random
    const refresh = { ...link.options.refresh, everyMillis: undefined }
    while (true) {
      const left = Renewal.lifetime(this.#exchange, this.#begunAt)
      const elapsed = (yield* Clock.currentTimeMillis) - this.#begunAt
      const renewal = Renewal.next(
        refresh,
        left === undefined ? undefined : left - elapsed,
        () => random.nextDoubleUnsafe()
      )
      if (renewal === undefined) return
      yield* Effect.sleep(renewal.afterMillis)
      link.core.events.emit({ _tag: "Refreshing", why: renewal.why })
      // What could not be begun is tried again in what is left of the time; anything else ends the connection.
      yield* Effect.ignore(this.reauthenticate(link, scope))
    }
  })
}

/** Begins the exchange of a CONNECT. */
export const begin = Effect.fnUntraced(function*(authentication: Authentication) {
  const begunAt = yield* Clock.currentTimeMillis
  const exchange = yield* orFailed(
    authentication.exchange,
    authentication.method,
    "exchange",
    exchangeProblem
  )
  return new Authenticator(authentication, exchange, begunAt, yield* Queue.dropping<Uint8Array | undefined>(1))
})

/** A connection without one. */
export const none: Effect.Effect<never, ReauthenticateError> = Effect.fail(
  new ReauthenticateError({ reason: new NoAuthentication() })
)
