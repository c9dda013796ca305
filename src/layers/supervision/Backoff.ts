/**
 * The delays between connection attempts.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"

/**
 * The default: exponential from 1 s by the factor 2 up to 30 s, each delay d drawn evenly from [d/2, d], without an end.
 * Half of the delay is kept, so that a broken server is not asked in a tight loop; the other half keeps the clients of a
 * server that restarts from coming all at once.
 *
 * @category schedules
 * @since 0.1.0
 */
export const defaultSchedule: Schedule.Schedule<unknown, unknown> = Schedule.exponential("1 second", 2).pipe(
  Schedule.modifyDelay(({ duration }) =>
    Effect.map(Random.next, (random) =>
      // Whole milliseconds, so that all times that follow from it stay whole under a test's clock.
      Duration.millis(Math.round(Math.min(Duration.toMillis(duration), 30_000) * (1 + random) / 2)))
  )
)

/**
 * Gives the next delay in milliseconds, or undefined once the schedule has ended. `now` is milliseconds of one clock, and
 * `input` is what the schedule is told: the cause.
 *
 * @category models
 * @since 0.1.0
 */
export type Step = (now: number, input: unknown) => Effect.Effect<number | undefined>

/**
 * Starts a schedule. It is driven by hand and not by `Effect.retry`, since that never starts anew after a long success. One
 * that dies has ended; its defect is logged.
 *
 * @category constructors
 * @since 0.1.0
 */
export const start = (schedule: Schedule.Schedule<unknown, unknown>): Effect.Effect<Step> =>
  Effect.map(
    Schedule.toStep(schedule),
    (step): Step => (now, input) =>
      Effect.map(step(now, input), ([, delay]) => Duration.toMillis(delay)).pipe(
        Pull.catchDone(() => Effect.succeed(undefined)),
        Effect.catchDefect((defect) => Effect.as(Effect.logError("the reconnect schedule died", defect), undefined))
      )
  )
