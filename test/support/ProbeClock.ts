/**
 * Looks at what a program leaves running, and lets its process sleep: the clock of the test, as one program sees it.
 */
import { Clock, Effect, Latch, Metric } from "effect"

export interface ProbeClock {
  /** Runs the program on this clock; its fibers and sleeps are counted. */
  readonly provide: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Sleeps under way. */
  readonly timers: number
  /** Fibers that were forked and have not ended. */
  readonly fibers: number
  /** From now on no timer fires, as in a process that is not scheduled. */
  readonly suspend: Effect.Effect<void>
  /** Every timer that is due fires. */
  readonly wake: Effect.Effect<void>
}

export const make: Effect.Effect<ProbeClock> = Effect.gen(function*() {
  const clock = yield* Clock.Clock
  const latch = Latch.makeUnsafe(true)
  let timers = 0
  let fibers = 0
  const probe: Clock.Clock = {
    ...clock,
    sleep: (duration) =>
      Effect.acquireUseRelease(
        Effect.sync(() => timers++),
        () => Effect.andThen(clock.sleep(duration), latch.await),
        () => Effect.sync(() => timers--)
      )
  }
  const metrics: Metric.FiberRuntimeMetricsService = {
    recordFiberStart: () => {
      fibers++
    },
    recordFiberEnd: () => {
      fibers--
    }
  }
  return {
    provide: (effect) =>
      effect.pipe(
        Effect.provideService(Clock.Clock, probe),
        Effect.provideService(Metric.FiberRuntimeMetrics, metrics)
      ),
    get timers() {
      return timers
    },
    get fibers() {
      return fibers
    },
    suspend: Effect.asVoid(latch.close),
    wake: Effect.asVoid(latch.open)
  }
})
