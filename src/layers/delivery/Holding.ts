/**
 * What a subscriber with limits holds back: messages that are not acknowledged, and those that were released, which are
 * acknowledged and that only its memory keeps.
 *
 * @since 0.1.0
 */
import { released } from "./Delivery.ts"
import type { Delivery, Hooks, Limits } from "./Delivery.ts"

export class Holding {
  readonly limits: Limits
  readonly #clock: Pick<Hooks, "now">
  /** Messages, and their bytes. */
  #count = 0
  #bytes = 0
  /** How many of them are released. */
  #released = 0
  /** When it last was done with one, or began to hold one, in milliseconds of the monotonic clock. */
  #progressAt = 0

  constructor(limits: Limits, clock: Pick<Hooks, "now">) {
    this.limits = limits
    this.#clock = clock
  }

  get isOver(): boolean {
    const { bytes, count } = this.limits
    return this.#count > count || (this.#count > 1 && this.#bytes > bytes)
  }

  get hasReleased(): boolean {
    return this.#released > 0
  }

  /** Since when it holds back acknowledgements and is done with none; undefined if it holds none. */
  get slowSince(): number | undefined {
    return this.#count > this.#released ? this.#progressAt : undefined
  }

  /** Says whether no acknowledgement was held back before. */
  add({ message }: Delivery): boolean {
    const isFirst = this.#count === this.#released
    if (isFirst) this.#progressAt = this.#clock.now()
    this.#count++
    this.#bytes += message.payload.length
    return isFirst
  }

  /** One that is held is acknowledged, and stays in memory. */
  release(): void {
    this.#released++
  }

  letGo({ aside, message }: Delivery): void {
    this.#count--
    this.#bytes -= message.payload.length
    if (aside === released) this.#released--
    else this.#progressAt = this.#clock.now()
  }

  /** These are what is left. */
  recount(deliveries: Iterable<Delivery>): void {
    this.#count = 0
    this.#bytes = 0
    this.#released = 0
    for (const { aside, message, receipt } of deliveries) {
      if (receipt === undefined && aside !== released) continue
      this.#count++
      this.#bytes += message.payload.length
      if (aside === released) this.#released++
    }
  }
}
