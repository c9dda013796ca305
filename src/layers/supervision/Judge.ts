/**
 * What follows a failed attempt or a lost connection: the next endpoint at once, a wait, or the end.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import { AllEndpointsFailed, ClientIdContested, ConnectError, TooManyRedirects } from "../../services/MqttError.ts"
import type {
  ConnectReason,
  ConnectRefused,
  HaltReason,
  LinkLost,
  ServerDisconnected
} from "../../services/MqttError.ts"
import type { ResolvedOptions } from "../../services/ResolvedOptions.ts"
import type { ClientEvent } from "../../services/Status.ts"
import type { Candidate, EndpointCycle } from "./EndpointCycle.ts"

/** A connection must have lasted so long for the next one to be opened at once. */
const leastMillis = 1_000

export type Verdict =
  | { readonly _tag: "Next" }
  | { readonly _tag: "Wait"; readonly cause: ConnectError | LinkLost; readonly atLeastMillis: number }
  | { readonly _tag: "Halt"; readonly cause: HaltReason }

const next: Verdict = { _tag: "Next" }
const halt = (cause: HaltReason): Verdict => ({ _tag: "Halt", cause })
const wait = (cause: ConnectError | LinkLost, atLeastMillis = 0): Verdict => ({ _tag: "Wait", cause, atLeastMillis })

/** Who lost a connection, and when. */
export interface Loss {
  /** Milliseconds. */
  readonly lasted: number
  readonly isStable: boolean
  /** Milliseconds of the monotonic clock. */
  readonly now: number
  readonly clientId: string
}

export class Judge {
  readonly #cycle: EndpointCycle
  readonly #random: () => number
  readonly #events: { readonly emit: (event: ClientEvent) => void }
  /** When others took our session over. */
  #takeovers: Array<number> = []

  constructor(
    cycle: EndpointCycle,
    random: () => number,
    events: { readonly emit: (event: ClientEvent) => void }
  ) {
    this.#cycle = cycle
    this.#random = random
    this.#events = events
  }

  /** The user has asked to connect: what was before does not count. */
  restart(): void {
    this.#takeovers = []
    this.#cycle.restart()
  }

  /** An attempt failed; `tried` is undefined where it did not come to an endpoint. */
  failed(
    reason: ConnectReason,
    tried: Candidate | undefined,
    options: ResolvedOptions
  ): Effect.Effect<Verdict> {
    return Judge.#failed.call(this, reason, tried, options)
  }

  /** A connection was lost. */
  lost(cause: LinkLost, loss: Loss, options: ResolvedOptions): Effect.Effect<Verdict> {
    return Judge.#lost.call(this, cause, loss, options)
  }

  static readonly #failed = Effect.fnUntraced(function*(
    this: Judge,
    reason: ConnectReason,
    tried: Candidate | undefined,
    options: ResolvedOptions
  ): Effect.fn.Return<Verdict> {
    // A store that fails is no endpoint's fault.
    if (tried === undefined || reason._tag === "AllEndpointsFailed" || reason._tag === "SessionStoreError") {
      const error = new ConnectError({ reason })
      this.#events.emit({ _tag: "ConnectFailed", error })
      return (yield* Judge.#isRetryable.call(this, error, options)) ? wait(error) : halt(error)
    }
    const redirect = reason._tag === "ConnectRefused" ? this.#follow(reason, tried, options) : "ignored"
    if (redirect === "followed") return next
    const failure = { endpoint: tried.url, reason: redirect === "tooMany" ? tooManyRedirects(tried) : reason }
    const error = new ConnectError(failure)
    this.#events.emit({ _tag: "ConnectFailed", error })
    const outcome = this.#cycle.failed(failure, yield* Judge.#isRetryable.call(this, error, options))
    if (outcome._tag === "Next") return next
    const { failures } = outcome
    const cause = failures.length > 1 ? new ConnectError({ reason: new AllEndpointsFailed({ failures }) }) : error
    return outcome._tag === "Over" ? wait(cause) : halt(cause)
  })

  static readonly #lost = Effect.fnUntraced(function*(
    this: Judge,
    cause: LinkLost,
    loss: Loss,
    options: ResolvedOptions
  ): Effect.fn.Return<Verdict> {
    this.#events.emit({ _tag: "ConnectionLost", cause })
    const { reconnect } = options
    if (reconnect === false) return halt(cause)
    if (loss.isStable) this.#cycle.settled()
    const current = this.#cycle.current!
    const redirect = cause._tag === "ServerDisconnected" ? this.#follow(cause, current, options) : "ignored"
    if (redirect === "followed") return next
    if (redirect === "tooMany") {
      const error = new ConnectError({ reason: tooManyRedirects(current), endpoint: current.url })
      return (yield* Judge.#isRetryable.call(this, error, options)) ? wait(error) : halt(error)
    }
    const isRetryable = yield* Judge.#isRetryable.call(this, cause, options)
    if (isRetryable && cause._tag === "ServerDisconnected" && cause.reasonCode === 0x8e) {
      return this.#onTakeover(cause, loss, reconnect.takeover)
    }
    // Neither is the fault of the endpoint.
    if (cause._tag === "SessionStoreError" || cause._tag === "UnacknowledgedOverflow") {
      return isRetryable ? wait(cause) : halt(cause)
    }
    // However short a stable connection may be, servers that take us and drop us at once are not asked in a tight loop.
    switch (this.#cycle.lost(loss.isStable && loss.lasted >= leastMillis, isRetryable)._tag) {
      case "Next":
        return next
      case "Over":
        return wait(cause)
      case "Exhausted":
        return halt(cause)
    }
  })

  /** Another client has our client id. Going back at once would be a fight, and so would going back again and again. */
  #onTakeover(
    cause: LinkLost,
    { clientId, now }: Loss,
    { delayMillis, limit, withinMillis }: Exclude<ResolvedOptions["reconnect"], false>["takeover"]
  ): Verdict {
    this.#takeovers = [...this.#takeovers.filter((at) => now - at < withinMillis), now]
    const takeovers = this.#takeovers.length
    if (takeovers >= limit) return halt(new ClientIdContested({ clientId, takeovers, withinMillis }))
    return wait(cause, Math.round(delayMillis * (1 + this.#random()) / 2))
  }

  /** Goes where a server says, if the options allow it. */
  #follow(
    { reasonCode, serverReference }: ConnectRefused | ServerDisconnected,
    { url }: Candidate,
    { protocolVersion, redirect }: ResolvedOptions
  ): "followed" | "ignored" | "tooMany" {
    const names = protocolVersion === 5 && (reasonCode === 0x9c || reasonCode === 0x9d)
    if (redirect === "ignore" || !names || serverReference === undefined) return "ignored"
    const permanent = reasonCode === 0x9d
    const result = this.#cycle.redirect(serverReference, permanent)
    if (result === "followed") {
      this.#events.emit({ _tag: "Redirected", from: url, reference: serverReference, permanent })
    }
    return result
  }

  /** Whether it is worth trying again: the user has the last word. */
  static readonly #isRetryable = Effect.fnUntraced(function*(
    this: Judge,
    failure: ConnectError | LinkLost,
    { reconnect }: ResolvedOptions
  ): Effect.fn.Return<boolean> {
    const byDefault = failure.retryable
    const judge = reconnect === false ? undefined : reconnect.isRetryable
    if (judge === undefined || (failure._tag === "ConnectError" && failure.reason._tag === "InvalidOptions")) {
      return byDefault
    }
    return yield* Effect.catchDefect(
      Effect.sync(() => judge(failure, byDefault)),
      (defect) => Effect.as(Effect.logError("isRetryable of the options died", defect), byDefault)
    )
  })
}

const tooManyRedirects = ({ hops, url }: Candidate): TooManyRedirects =>
  new TooManyRedirects({ servers: [...hops, url] })
