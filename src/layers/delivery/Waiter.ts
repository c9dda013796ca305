/**
 * Where the consumer of a subscription waits for more. There is one at a time.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"

export class Waiter {
  #resume: ((effect: Effect.Effect<void>) => void) | undefined
  #isCalled = false
  /** Whether something came while nobody waited: a consumer may yield between its look and its wait. */
  #isMissed = false

  /** The consumer looks at what there is. */
  look(): void {
    this.#isMissed = false
  }

  readonly wait: Effect.Effect<void> = Effect.callback<void>((resume) => {
    if (this.#isMissed) return resume(Effect.void)
    this.#resume = resume
    return Effect.sync(() => {
      this.#resume = undefined
      this.#isCalled = false
    })
  })

  /** Something came: whether a consumer waits for it that has not been told to go on yet. */
  call(): boolean {
    if (this.#resume === undefined) {
      this.#isMissed = true
      return false
    }
    if (this.#isCalled) return false
    this.#isCalled = true
    return true
  }

  /** Lets the consumer go on. */
  wake(): void {
    this.#isCalled = false
    const resume = this.#resume
    this.#resume = undefined
    if (resume === undefined) this.#isMissed = true
    else resume(Effect.void)
  }
}
