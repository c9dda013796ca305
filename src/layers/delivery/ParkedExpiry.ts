/**
 * Looks at the time for messages that were parked. It runs only while there are any.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type { ClientCore } from "../ClientCore.ts"

export class ParkedExpiry {
  readonly #core: ClientCore
  #fiber: Fiber.Fiber<void> | undefined

  constructor(core: ClientCore) {
    this.#core = core
  }

  /** A message was parked. */
  start(): void {
    this.#fiber ??= this.#core.fork(ParkedExpiry.#run.call(this))
  }

  get stop(): Effect.Effect<void> {
    return Effect.suspend(() => this.#fiber === undefined ? Effect.void : Fiber.interrupt(this.#fiber))
  }

  static readonly #run = Effect.fnUntraced(function*(this: ParkedExpiry) {
    const core = this.#core
    for (let until = core.inbox.expire(core.now()); until !== undefined; until = core.inbox.expire(core.now())) {
      core.wakeWriter()
      yield* Effect.sleep(Math.max(1, Math.ceil(until - core.now())))
    }
    this.#fiber = undefined
    core.wakeWriter()
  })
}
