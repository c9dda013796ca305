/**
 * A wake-up for one fiber. Wake-ups that come before it is taken count as one.
 *
 * It is what a `Queue` of capacity 1 would do, also in when the fiber runs: by a task of the scheduler, which is asked for
 * only while the fiber waits. A queue takes 2 KiB where this takes a few words.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Scheduler from "effect/Scheduler"

const dispatchers = new WeakMap<Scheduler.Scheduler, Scheduler.SchedulerDispatcher>()

/** All that is to be woken by one scheduler shares what hands tasks to it. */
const dispatcherOf = (scheduler: Scheduler.Scheduler): Scheduler.SchedulerDispatcher => {
  const known = dispatchers.get(scheduler)
  if (known !== undefined) return known
  const dispatcher = scheduler.makeDispatcher()
  dispatchers.set(scheduler, dispatcher)
  return dispatcher
}

/** Runs a task in a turn of its own, once the present change of state is over. */
export const soon = (scheduler: Scheduler.Scheduler, task: () => void): void =>
  dispatcherOf(scheduler).scheduleTask(task, 0)

export class Signal {
  readonly scheduler: Scheduler.Scheduler
  #isSet = false
  #isScheduled = false
  #taker: ((effect: Effect.Effect<never>) => void) | undefined
  /** What the taker goes on with. */
  #next: (() => Effect.Effect<never>) | undefined

  constructor(scheduler: Scheduler.Scheduler) {
    this.scheduler = scheduler
  }

  /** Wakes the fiber, or lets it go on when it comes to wait. */
  offer(): void {
    this.#isSet = true
    if (this.#taker === undefined || this.#isScheduled) return
    this.#isScheduled = true
    soon(this.scheduler, () => this.#release())
  }

  /** Wakes the fiber, which runs before this returns, or lets it go on when it comes to wait. */
  offerNow(): void {
    this.#isSet = true
    this.#resume()
  }

  #release(): void {
    this.#isScheduled = false
    this.#resume()
  }

  #resume(): void {
    const taker = this.#taker
    if (taker === undefined || !this.#isSet) return
    this.#isSet = false
    this.#taker = undefined
    taker(Effect.suspend(this.#next!))
  }

  /**
   * Waits for a wake-up, takes it and goes on with `next`, of which the fiber has nothing on its stack while it waits. A
   * second fiber that waits takes the place of the first.
   */
  andThen<A, E>(next: Effect.Effect<A, E>): Effect.Effect<A, E> {
    return Effect.callback((resume) => this.take(resume, () => next))
  }

  /** The same for a fiber that waits already, and goes on by `resume`. */
  take<A, E>(resume: (effect: Effect.Effect<A, E>) => void, next: () => Effect.Effect<A, E>): void {
    if (this.#isSet) {
      this.#isSet = false
      resume(Effect.suspend(next))
    } else {
      // One that is interrupted stays here, and is none the wiser when it is woken: that wake-up was for it alone.
      this.#taker = resume
      this.#next = next as () => Effect.Effect<never>
    }
  }
}
