import { assert, describe, it } from "@effect/vitest"
import { Effect, Random, Schedule } from "effect"
import * as Backoff from "../../../src/layers/supervision/Backoff.ts"

/** The first delays of a schedule. */
const delaysOf = Effect.fnUntraced(function*(count: number, schedule = Backoff.defaultSchedule) {
  const step = yield* Backoff.start(schedule)
  const delays: Array<number | undefined> = []
  for (let index = 0; index < count; index++) delays.push(yield* step(0, undefined))
  return delays
})

/** A `Random` that always draws the same. */
const drawing = (value: number) =>
  Effect.provideService(Random.Random, { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => value })

const doubling = [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]

describe("Backoff", () => {
  describe("defaultSchedule", () => {
    it.effect("doubles from 1 s and stays at 30 s: the lowest draw keeps half of each delay", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* drawing(0)(delaysOf(8)), doubling.map((delay) => delay / 2))
      }))

    it.effect("doubles from 1 s and stays at 30 s: the highest draw gives the whole delay", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* drawing(1)(delaysOf(8)), doubling)
      }))

    it.effect("draws each delay evenly from its upper half", () =>
      Effect.gen(function*() {
        // Past the first five all delays are drawn from [15 s, 30 s].
        const delays = (yield* Random.withSeed(delaysOf(2_005), "even")).slice(5) as ReadonlyArray<number>
        assert.isTrue(delays.every((delay) => delay >= 15_000 && delay <= 30_000))
        for (const [from, to] of [[15_000, 18_750], [18_750, 22_500], [22_500, 26_250], [26_250, 30_000]] as const) {
          const share = delays.filter((delay) => delay >= from && delay < to).length / delays.length
          assert.isTrue(Math.abs(share - 0.25) < 0.04, `${from} to ${to}: ${share}`)
        }
      }))

    it.effect("gives the same delays for the same seed, and others for another", () =>
      Effect.gen(function*() {
        const first = yield* Random.withSeed(delaysOf(10), "a")
        assert.deepStrictEqual(yield* Random.withSeed(delaysOf(10), "a"), first)
        assert.notDeepEqual(yield* Random.withSeed(delaysOf(10), "b"), first)
      }))

    it.effect("never ends, also where 2^n is beyond a number", () =>
      Effect.gen(function*() {
        const delays = yield* drawing(1)(delaysOf(3_000))
        assert.isTrue(delays.slice(5).every((delay) => delay === 30_000))
      }))

    it.effect("starts anew with every start", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* drawing(1)(delaysOf(3)), [1_000, 2_000, 4_000])
        assert.deepStrictEqual(yield* drawing(1)(delaysOf(3)), [1_000, 2_000, 4_000])
      }))
  })

  describe("start", () => {
    it.effect("gives undefined once the schedule has ended, and goes on giving it", () =>
      Effect.gen(function*() {
        const twice = Schedule.spaced("5 seconds").pipe(Schedule.upTo({ times: 2 }))
        assert.deepStrictEqual(yield* delaysOf(4, twice), [5_000, 5_000, undefined, undefined])
      }))

    it.effect("hands the schedule the time and the cause", () =>
      Effect.gen(function*() {
        const seen: Array<unknown> = []
        const watching = Schedule.fromStep(Effect.succeed((now: number, input: unknown) =>
          Effect.sync(() => {
            seen.push([now, input])
            return [undefined, 1] as never
          })
        ))
        const step = yield* Backoff.start(watching)
        yield* Effect.ignore(step(7, "lost"))
        assert.deepStrictEqual(seen, [[7, "lost"]])
      }))
  })
})
