/**
 * A scheduler that runs all turns of a program in one go, so that no timer of the process gets between them: what a program
 * does depends on nothing but itself, and a turn costs a call instead of a trip through the event loop.
 */
import { Effect, Scheduler } from "effect"

export interface TurnScheduler {
  readonly scheduler: Scheduler.Scheduler
  /** Waits until nobody has anything to do but to wait for the Clock. */
  readonly idle: Effect.Effect<void>
  /** Turns so far. */
  readonly turns: number
}

/** `onSpent` is called once when more than `budget` turns were taken: the program goes round in circles. */
export const make = (budget: number, onSpent: () => void): TurnScheduler => {
  let queue: Array<() => void> = []
  let scheduled = false
  let turns = 0
  let waiting: Array<() => void> = []
  const drain = () => {
    scheduled = false
    // Now and then the process has its turn as well, so that a program without an end can be ended.
    for (let rounds = 0; queue.length > 0 || waiting.length > 0; rounds++) {
      if (rounds > 100_000) return schedule()
      const tasks = queue
      queue = []
      for (const task of tasks) {
        turns++
        if (turns === budget) onSpent()
        task()
      }
      if (queue.length === 0) {
        const idlers = waiting
        waiting = []
        for (const resume of idlers) resume()
      }
    }
  }
  const schedule = () => {
    if (scheduled) return
    scheduled = true
    setImmediate(drain)
  }
  const scheduler = new Scheduler.MixedScheduler("async", (task) => {
    let isLive = true
    queue.push(() => {
      if (isLive) task()
    })
    schedule()
    return () => {
      isLive = false
    }
  })
  return {
    scheduler,
    idle: Effect.callback((resume) => {
      waiting.push(() => resume(Effect.void))
      schedule()
    }),
    get turns() {
      return turns
    }
  }
}
