import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Scheduler } from "effect"
import { Signal, soon } from "../../src/layers/Signal.ts"
import { start } from "../support/ScriptedBroker.ts"

/** A scheduler whose tasks run when the test says so. */
const manual = () => {
  const tasks: Array<() => void> = []
  let asked = 0
  class CountingScheduler extends Scheduler.MixedScheduler {
    override makeDispatcher() {
      const dispatcher = super.makeDispatcher()
      const schedule = dispatcher.scheduleTask.bind(dispatcher)
      dispatcher.scheduleTask = (task, priority) => {
        asked++
        schedule(task, priority)
      }
      return dispatcher
    }
  }
  const scheduler = new CountingScheduler("async", (turn) => {
    tasks.push(turn)
    return () => {}
  })
  return {
    scheduler,
    /** Tasks that were given to it and have not run. */
    get asked() {
      return asked
    },
    turn: () => {
      asked = 0
      for (const turn of tasks.splice(0)) turn()
    }
  }
}

/** A fiber that notes each wake-up. */
const waiting = Effect.fnUntraced(function*(signal: Signal) {
  const woken: Array<number> = []
  const fiber = yield* start(
    Effect.forever(Effect.map(signal.andThen(Effect.void), () => woken.push(woken.length)), { disableYield: true })
  )
  return { woken, fiber }
})

describe("Signal", () => {
  it.live("lets a fiber go on that comes to wait after the wake-up, at once and without a turn", () =>
    Effect.gen(function*() {
      for (const wake of ["offer", "offerNow"] as const) {
        const turns = manual()
        const signal = new Signal(turns.scheduler)
        signal[wake]()
        const fiber = yield* start(signal.andThen(Effect.void))
        assert.isDefined(fiber.pollUnsafe(), wake)
        assert.strictEqual(turns.asked, 0)
      }
    }))

  it.live("counts wake-ups that come before they are taken as one", () =>
    Effect.gen(function*() {
      for (const wake of ["offer", "offerNow"] as const) {
        const signal = new Signal(manual().scheduler)
        signal[wake]()
        signal.offer()
        signal[wake]()
        yield* signal.andThen(Effect.void)
        const second = yield* start(signal.andThen(Effect.void))
        assert.isUndefined(second.pollUnsafe(), wake)
        yield* Fiber.interrupt(second)
      }
    }))

  it.live("wakes who waits by a task of the scheduler, of which it asks for one", () =>
    Effect.gen(function*() {
      const turns = manual()
      const signal = new Signal(turns.scheduler)
      const { fiber, woken } = yield* waiting(signal)
      for (let round = 1; round <= 3; round++) {
        signal.offer()
        signal.offer()
        signal.offer()
        assert.deepStrictEqual([woken.length, turns.asked], [round - 1, 1])
        turns.turn()
        assert.deepStrictEqual([woken.length, turns.asked], [round, 0])
      }
      yield* Fiber.interrupt(fiber)
    }))

  it.live("wakes who waits before offerNow returns, and a turn that was asked for before does nothing more", () =>
    Effect.gen(function*() {
      const turns = manual()
      const signal = new Signal(turns.scheduler)
      const { fiber, woken } = yield* waiting(signal)
      signal.offerNow()
      assert.deepStrictEqual([woken.length, turns.asked], [1, 0])
      signal.offer()
      signal.offerNow()
      assert.strictEqual(woken.length, 2)
      turns.turn()
      assert.strictEqual(woken.length, 2)
      // And it can be woken by a turn again.
      signal.offer()
      turns.turn()
      assert.strictEqual(woken.length, 3)
      yield* Fiber.interrupt(fiber)
    }))

  it.live("loses no wake-up that comes while the fiber that was woken runs", () =>
    Effect.gen(function*() {
      for (const wake of ["offer", "offerNow"] as const) {
        const turns = manual()
        const signal = new Signal(turns.scheduler)
        let rounds = 0
        const fiber = yield* start(Effect.forever(
          Effect.map(signal.andThen(Effect.void), () => {
            // What it does makes more of it.
            if (++rounds < 5) signal[wake]()
          }),
          { disableYield: true }
        ))
        signal[wake]()
        turns.turn()
        assert.strictEqual(rounds, 5, wake)
        yield* Fiber.interrupt(fiber)
      }
    }))

  it.live("is not hurt by a fiber that is interrupted while it waits", () =>
    Effect.gen(function*() {
      for (const wake of ["offer", "offerNow"] as const) {
        const turns = manual()
        const signal = new Signal(turns.scheduler)
        const { fiber, woken } = yield* waiting(signal)
        yield* Fiber.interrupt(fiber)
        signal[wake]()
        turns.turn()
        assert.strictEqual(woken.length, 0)
        const later = yield* waiting(signal)
        // Whether the wake-up went with the one that is gone or not, the next one comes.
        const before = later.woken.length
        signal[wake]()
        turns.turn()
        assert.strictEqual(later.woken.length, before + 1, wake)
        yield* Fiber.interrupt(later.fiber)
      }
    }))

  it.live("does not wake one that is interrupted between the wake-up and its turn", () =>
    Effect.gen(function*() {
      const turns = manual()
      const signal = new Signal(turns.scheduler)
      const { fiber, woken } = yield* waiting(signal)
      signal.offer()
      yield* Fiber.interrupt(fiber)
      turns.turn()
      assert.strictEqual(woken.length, 0)
      const later = yield* waiting(signal)
      signal.offer()
      turns.turn()
      assert.isAtLeast(later.woken.length, 1)
      yield* Fiber.interrupt(later.fiber)
    }))

  it.live("keeps signals of one scheduler apart, which share its turns", () =>
    Effect.gen(function*() {
      const turns = manual()
      const one = new Signal(turns.scheduler)
      const other = new Signal(turns.scheduler)
      const first = yield* waiting(one)
      const second = yield* waiting(other)
      one.offer()
      turns.turn()
      assert.deepStrictEqual([first.woken.length, second.woken.length], [1, 0])
      one.offer()
      other.offer()
      assert.strictEqual(turns.asked, 2)
      turns.turn()
      assert.deepStrictEqual([first.woken.length, second.woken.length], [2, 1])
      yield* Effect.forEach([first.fiber, second.fiber], (fiber) => Fiber.interrupt(fiber))
    }))

  it.effect("gives what the fiber goes on with", () =>
    Effect.gen(function*() {
      const signal = new Signal(yield* Scheduler.Scheduler)
      signal.offer()
      signal.offer()
      assert.strictEqual(yield* signal.andThen(Effect.succeed(1)), 1)
      const waiting = yield* Effect.forkChild(signal.andThen(Effect.succeed(2)), { startImmediately: true })
      yield* Effect.yieldNow
      assert.isUndefined(waiting.pollUnsafe())
      signal.offer()
      assert.strictEqual(yield* Fiber.join(waiting), 2)
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
