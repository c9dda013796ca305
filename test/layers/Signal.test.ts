import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Scheduler } from "effect"
import { Signal, soon } from "../../src/layers/Signal.ts"

const make = Effect.map(Scheduler.Scheduler, (scheduler) => new Signal(scheduler))

describe("Signal", () => {
  it.effect("lets whoever comes to wait go on at once, and once, after any number of wake-ups", () =>
    Effect.gen(function*() {
      const signal = yield* make
      signal.offer()
      signal.offer()
      assert.strictEqual(yield* signal.andThen(Effect.succeed(1)), 1)
      const waiting = yield* Effect.forkChild(signal.andThen(Effect.succeed(2)), { startImmediately: true })
      yield* Effect.yieldNow
      assert.isUndefined(waiting.pollUnsafe())
      signal.offer()
      assert.strictEqual(yield* Fiber.join(waiting), 2)
    }))

  it.effect("wakes by the scheduler, and not in the midst of what the one who wakes does", () =>
    Effect.gen(function*() {
      const signal = yield* make
      const waiting = yield* Effect.forkChild(signal.andThen(Effect.void), { startImmediately: true })
      signal.offer()
      assert.isUndefined(waiting.pollUnsafe())
      yield* Fiber.join(waiting)
    }))

  it.effect("takes one task of the scheduler for all wake-ups until the fiber runs", () =>
    Effect.gen(function*() {
      let tasks = 0
      const scheduler = new Scheduler.MixedScheduler()
      const counting = Object.assign(Object.create(scheduler) as Scheduler.Scheduler, {
        makeDispatcher: () => {
          const dispatcher = scheduler.makeDispatcher()
          return {
            scheduleTask: (task: () => void, priority: number) => {
              tasks++
              dispatcher.scheduleTask(task, priority)
            },
            flush: () => dispatcher.flush()
          }
        }
      })
      const signal = new Signal(counting)
      signal.offer()
      assert.strictEqual(tasks, 0)
      yield* signal.andThen(Effect.void)
      const waiting = yield* Effect.forkChild(signal.andThen(Effect.void), { startImmediately: true })
      for (let time = 0; time < 3; time++) signal.offer()
      assert.strictEqual(tasks, 1)
      yield* Fiber.join(waiting)
    }))

  it.effect("is not spent on one that was interrupted before it was woken", () =>
    Effect.gen(function*() {
      const signal = yield* make
      const first = yield* Effect.forkChild(signal.andThen(Effect.void), { startImmediately: true })
      yield* Fiber.interrupt(first)
      const second = yield* Effect.forkChild(signal.andThen(Effect.succeed(2)), { startImmediately: true })
      signal.offer()
      assert.strictEqual(yield* Fiber.join(second), 2)
    }))

  it.effect("runs tasks in the order in which they and the wake-ups came", () =>
    Effect.gen(function*() {
      const scheduler = yield* Scheduler.Scheduler
      const signal = new Signal(scheduler)
      const order: Array<string> = []
      const waiting = yield* Effect.forkChild(signal.andThen(Effect.sync(() => order.push("woken"))), {
        startImmediately: true
      })
      soon(scheduler, () => order.push("before"))
      signal.offer()
      soon(scheduler, () => order.push("after"))
      assert.deepStrictEqual(order, [])
      yield* Fiber.join(waiting)
      yield* Effect.yieldNow
      assert.deepStrictEqual(order, ["before", "woken", "after"])
    }))
})
