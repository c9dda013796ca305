/**
 * One connection as its owner sees it: what can be asked of it, its fibers, and its end.
 *
 * @since 0.1.0
 */
import type * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import type { Packet } from "../../protocol/index.ts"
import { KeepAlive } from "../../protocol/index.ts"
import { KeepAliveTimeout, Offline, PingError, WriteBlocked } from "../../services/MqttError.ts"
import type { LinkLost, ReauthenticateError } from "../../services/MqttError.ts"
import type { Negotiated } from "../../services/Status.ts"
import { soon } from "../Signal.ts"
import * as Authenticator from "./Authenticator.ts"
import type { LinkState } from "./LinkState.ts"

/** Is to look at the link, which has ended. */
export interface Watcher {
  readonly nudge: () => void
}

/** Scheduler turns in which what has arrived is read before a silent link is judged. */
const turnsBeforeVerdict = 8

/** Rounded up, since a timer that is early only makes the loop turn again; what floating point adds does not count. */
const wholeMillis = (millis: number): number => Math.ceil(millis - 1e-6)

/** That nothing is due any more. */
const over = "over"

/**
 * The keep-alive: sleeps until something is due. Without a generator, whose frame would take as much as the rest, and by one
 * effect that it goes on with, since one that is put before another is kept as long as that one waits.
 */
const keepAlive = (link: LinkState, owner: Link): Effect.Effect<void> => {
  const loop: Effect.Effect<void> = Effect.flatMap(
    Effect.suspend(() => rest(link, owner)),
    (rested) => rested === over ? Effect.void : loop
  )
  return loop
}

/** Does what is due, and sleeps until more is. */
const rest = (link: LinkState, owner: Link): Effect.Effect<typeof over | void> => {
  owner.isSleeping = false
  while (link.phase === "open") {
    const now = link.core.now()
    const decision = KeepAlive.decide(link.keepAlive, now)
    switch (decision._tag) {
      case "Off":
        return Effect.succeed(over)
      case "Wait":
        owner.isSleeping = true
        return link.core.sleep(wholeMillis(decision.until - now))
      case "Ping":
        link.queuePing(undefined)
        break
      case "Timeout":
      case "Blocked":
        return judge(link)
    }
  }
  return Effect.succeed(over)
}

const judge = Effect.fnUntraced(function*(link: LinkState) {
  // The process may have slept: what has arrived in the meantime is read first.
  link.isJudged = true
  for (let turn = 0; turn < turnsBeforeVerdict; turn++) yield* Effect.yieldNow
  link.isJudged = false
  const verdict = KeepAlive.decide(link.keepAlive, link.core.now())
  const { keepAlive: keepAliveMillis, pingTimeout: pingTimeoutMillis } = link.keepAlive
  if (verdict._tag === "Timeout") link.end(new KeepAliveTimeout({ keepAliveMillis, pingTimeoutMillis }))
  else if (verdict._tag === "Blocked") {
    link.end(new WriteBlocked({ blockedMillis: keepAliveMillis + pingTimeoutMillis }))
  }
})

const awaitEnd = Effect.fnUntraced(function*(link: LinkState) {
  const cause = yield* link.ended
  if (cause._tag === "KeepAliveTimeout" || cause._tag === "WriteBlocked") yield* link.stream.abort
  // On 3.1.1 an error is reported by closing and nothing else (DC-11).
  else if (cause._tag === "ProtocolError" && link.options.protocolVersion === 5) {
    yield* link.sendFinal(finalPacket(cause.reasonCode))
  } else if (cause._tag === "UnacknowledgedOverflow" && link.options.protocolVersion === 5) {
    yield* link.sendFinal(finalPacket(0x97))
  } else if (cause._tag === "AuthenticationFailed") {
    yield* link.sendFinal(finalPacket(0x80))
  }
  return cause
})

/** DISCONNECT with nothing but a reason code. */
export const finalPacket = (reasonCode: number): Packet.Disconnect => ({
  _tag: "Disconnect",
  reasonCode,
  properties: undefined
})

/**
 * A connection from its dial to its close. `begin` comes once there is a stream, `establish` once CONNACK accepted it.
 *
 * Its fibers run with the services of the client, so that all of them share one context, and it holds them itself, since
 * a scope takes more than they do for each.
 */
export class Link {
  /** What the transport gave. */
  readonly scope: Scope.Closeable = Scope.makeUnsafe()
  readonly #services: Context.Context<never>
  #state: LinkState | undefined
  #negotiated: Negotiated | undefined
  #reader: Fiber.Fiber<void> | undefined
  #writer: Fiber.Fiber<void> | undefined
  #keepAlive: Fiber.Fiber<void> | undefined
  /** Whether the keep-alive sleeps, as long as it was right when it fell asleep. */
  isSleeping = false
  #isClosed = false

  constructor(services: Context.Context<never>) {
    this.#services = services
  }

  /** Starts the reader and the writer. */
  begin(state: LinkState, reader: Effect.Effect<void>, writer: Effect.Effect<void>): void {
    this.#state = state
    this.#reader = this.#fork(reader)
    this.#writer = this.#fork(writer)
  }

  #fork(effect: Effect.Effect<void>): Fiber.Fiber<void> {
    return Effect.runForkWith(this.#services)(effect)
  }

  /** Starts the keep-alive. */
  establish(negotiated: Negotiated): void {
    this.#negotiated = negotiated
    this.#state!.timer = this
    this.#startKeepAlive()
  }

  /** Starts the keep-alive, or starts it anew, behind what the writer has to do already. */
  #startKeepAlive(): void {
    const state = this.#state!
    this.isSleeping = false
    soon(state.writerWake.scheduler, () => {
      if (this.#isClosed) return
      this.#keepAlive?.interruptUnsafe()
      state.isJudged = false
      this.#keepAlive = this.#fork(keepAlive(state, this))
    })
  }

  /**
   * A ping was flushed, whose deadline may come before the keep-alive wakes up: it begins anew. A race of its sleep with a
   * wake-up would take two more fibers, all the time.
   */
  onPingFlushed(): void {
    if (this.isSleeping) this.#startKeepAlive()
  }

  get negotiated(): Negotiated {
    return this.#negotiated!
  }

  /** Whether it has ended without our asking. */
  get isOver(): boolean {
    return this.#state!.cause !== undefined
  }

  /** Is told when it ends without our asking. */
  set watcher(watcher: Watcher) {
    this.#state!.watcher = watcher
  }

  /** Waits until the connection ends without our asking; the peer has been told, where the protocol says so. */
  get ended(): Effect.Effect<LinkLost> {
    return awaitEnd(this.#state!)
  }

  /** Sends DISCONNECT behind the packet that is being written. Never longer than `disconnectTimeout`; aborts past it. */
  disconnect(packet: Packet.Disconnect): Effect.Effect<void> {
    return this.#state!.leave(packet)
  }

  get ping(): Effect.Effect<Duration.Duration, PingError> {
    const state = this.#state!
    return Effect.callback((resume) => {
      if (state.phase !== "open") return resume(Effect.fail(new PingError({ reason: state.cause ?? new Offline() })))
      const ping = state.queuePing(resume)
      return Effect.sync(() => {
        ping.resume = undefined
      })
    })
  }

  get reauthenticate(): Effect.Effect<void, ReauthenticateError> {
    const state = this.#state!
    return state.authenticator?.reauthenticate(state, this.scope) ?? Authenticator.none
  }

  /** Ends the fibers and waits until they have ended, and then closes the stream. */
  close(exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> {
    return Effect.uninterruptible(Effect.suspend(() => {
      this.#isClosed = true
      const state = this.#state
      if (state === undefined) return Scope.close(this.scope, exit)
      const fibers = [this.#keepAlive, this.#writer, this.#reader].filter((fiber) => fiber !== undefined)
      return Fiber.interruptAll(fibers).pipe(
        Effect.andThen(Effect.suspend(() => state.release())),
        Effect.ensuring(Scope.close(this.scope, exit))
      )
    }))
  }
}
