/**
 * Looks at the time for subscribers that hold back acknowledgements and are not to do so for long. It runs only while there
 * are any.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Scheduler from "effect/Scheduler"
import type { ClientCore } from "../ClientCore.ts"
import { Signal } from "../Signal.ts"
import type { Subscriber } from "./Subscriber.ts"

export class SlowConsumers {
  readonly #core: ClientCore
  readonly #watched = new Set<Subscriber>()
  #signal: Signal | undefined
  #fiber: Fiber.Fiber<void> | undefined

  constructor(core: ClientCore) {
    this.#core = core
  }

  /** The subscriber has begun to hold back acknowledgements. */
  watch(subscriber: Subscriber): void {
    if (this.#watched.has(subscriber)) return
    this.#watched.add(subscriber)
    this.#look()
  }

  /** A connection began. */
  wake(): void {
    if (this.#watched.size > 0) this.#look()
  }

  #look(): void {
    if (this.#fiber === undefined) this.#fiber = this.#core.fork(SlowConsumers.#run.call(this))
    else this.#signal?.offer()
  }

  get stop(): Effect.Effect<void> {
    return Effect.suspend(() => this.#fiber === undefined ? Effect.void : Fiber.interrupt(this.#fiber))
  }

  /** Relieves those whose time is up; gives the time at which to look again. */
  #sweep(): number | undefined {
    // Without a link nothing can be acknowledged, and what the server sends again would be kept twice.
    if (this.#core.negotiated === undefined) return undefined
    const now = this.#core.now()
    let next: number | undefined
    const due: Array<Subscriber> = []
    for (const subscriber of this.#watched) {
      const since = subscriber.slowSince
      if (since === undefined || subscriber.isOver) {
        this.#watched.delete(subscriber)
        continue
      }
      const isDue = since + subscriber.slowAfter <= now
      if (isDue) due.push(subscriber)
      // One that could not be relieved of all, since the store is full, is tried again.
      const at = (isDue ? now : since) + subscriber.slowAfter
      next = next === undefined ? at : Math.min(next, at)
    }
    if (due.length > 0) {
      this.#core.startBatch()
      for (const subscriber of due) subscriber.relieve()
      this.#core.endBatch()
      this.#core.wakeWriter()
    }
    return next
  }

  static readonly #run = Effect.fnUntraced(function*(this: SlowConsumers) {
    const signal = new Signal(yield* Scheduler.Scheduler)
    this.#signal = signal
    for (let next = this.#sweep(); next !== undefined; next = this.#sweep()) {
      yield* Effect.raceFirst(
        Effect.sleep(Math.max(1, Math.ceil(next - this.#core.now()))),
        signal.andThen(Effect.void)
      )
    }
    this.#signal = undefined
    this.#fiber = undefined
  })
}
