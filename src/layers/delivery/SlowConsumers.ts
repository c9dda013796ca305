/**
 * Looks at the time for subscribers that hold back acknowledgements and are not to do so for long.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type { ClientCore } from "../ClientCore.ts"
import type { Subscriber } from "./Subscriber.ts"

export class SlowConsumers {
  readonly #core: ClientCore
  readonly #watched = new Set<Subscriber>()
  #signal: Queue.Queue<void> | undefined

  constructor(core: ClientCore) {
    this.#core = core
  }

  /** The subscriber has begun to hold back acknowledgements. */
  watch(subscriber: Subscriber): void {
    if (this.#watched.has(subscriber)) return
    this.#watched.add(subscriber)
    if (this.#signal !== undefined) Queue.offerUnsafe(this.#signal, undefined)
  }

  /** A connection began. */
  wake(): void {
    if (this.#watched.size > 0 && this.#signal !== undefined) Queue.offerUnsafe(this.#signal, undefined)
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

  /** The loop. */
  readonly run: Effect.Effect<never> = Effect.gen({ self: this }, function*() {
    const signal = yield* Queue.dropping<void>(1)
    this.#signal = signal
    while (true) {
      const next = this.#sweep()
      const wait = next === undefined ? Effect.never : Effect.sleep(Math.max(1, Math.ceil(next - this.#core.now())))
      yield* Effect.raceFirst(wait, Queue.take(signal))
    }
  })
}
