/**
 * `process`: a handler for every message, whose exit decides on the acknowledgement.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Pull from "effect/Pull"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import type { Message } from "../../services/Message.ts"
import type { MqttClientService, ProcessOptions, SubscribeOptions } from "../../services/MqttClient.ts"
import { InvalidSubscription, SubscribeError } from "../../services/MqttError.ts"
import { isRejectCode } from "./ManualMessages.ts"
import type { Handed } from "./Delivery.ts"
import type { Subscriber } from "./Subscriber.ts"

/** How many handlers run at once, and which of them not. */
export interface ConsumeOptions {
  readonly concurrency: number
  /** Messages with the same key come one after the other. */
  readonly key: ((message: Message) => string) | undefined
}

/** Messages that may wait for one with the same key, so that others can get ahead of them. */
const lookahead = 256

/** The largest batch to take for `consume`: what it has and has not begun with is of no use to others. */
export const batchFor = ({ concurrency, key }: ConsumeOptions): number =>
  key === undefined ? concurrency : Math.max(concurrency, 16)

/**
 * Runs `each` on the messages of a subscriber that nobody else consumes; `each` settles its message. Ends with the first
 * failure, and with nothing of it left running.
 */
export const consume = <E, R>(
  subscriber: Subscriber,
  each: (handed: Handed) => Effect.Effect<void, E, R>,
  options: ConsumeOptions
): Effect.Effect<never, E | SubscribeError, R> =>
  Pull.catchDone(
    options.concurrency === 1
      ? oneByOne(subscriber, each)
      : Effect.scoped(atOnce(subscriber, each, options)),
    () => Effect.interrupt
  )

const oneByOne = Effect.fnUntraced(function*<E, R>(
  subscriber: Subscriber,
  each: (handed: Handed) => Effect.Effect<void, E, R>
): Effect.fn.Return<never, E | SubscribeError | Cause.Done, R> {
  while (true) {
    for (const handed of yield* subscriber.pullHanded) yield* each(handed)
  }
})

const atOnce = Effect.fnUntraced(function*<E, R>(
  subscriber: Subscriber,
  each: (handed: Handed) => Effect.Effect<void, E, R>,
  { concurrency, key }: ConsumeOptions
): Effect.fn.Return<never, E | SubscribeError | Cause.Done, R | Scope.Scope> {
  const failed = yield* Deferred.make<never, E>()
  const changed = yield* Queue.dropping<void>(1)
  const fibers = yield* FiberSet.make<void>()
  /** For each key with a running handler, what waits for it. */
  const lanes = new Map<string, Array<Handed>>()
  let running = 0
  let waiting = 0

  const work = Effect.fnUntraced(function*(first: Handed, lane: string | undefined) {
    yield* each(first)
    if (lane === undefined) return
    const behind = lanes.get(lane)!
    for (let next = behind.shift(); next !== undefined; next = behind.shift()) {
      waiting--
      Queue.offerUnsafe(changed, undefined)
      next.isBegun = true
      yield* each(next)
    }
    // In the same step in which nothing was found: nobody would take what is put there later.
    lanes.delete(lane)
  })

  const begin = (handed: Handed, lane: string | undefined) => {
    running++
    handed.isBegun = true
    if (lane !== undefined) lanes.set(lane, [])
    return FiberSet.run(
      fibers,
      Effect.onExit(work(handed, lane), (exit) => {
        running--
        Queue.offerUnsafe(changed, undefined)
        return Exit.isFailure(exit) ? Deferred.failCause(failed, exit.cause) : Effect.void
      })
    )
  }

  const feed = Effect.gen(function*() {
    while (true) {
      const batch = yield* subscriber.pullHanded
      for (const handed of batch) handed.isBegun = false
      for (const handed of batch) {
        const lane = key?.(handed.message)
        while (waiting >= lookahead || (running >= concurrency && (lane === undefined || !lanes.has(lane)))) {
          yield* Queue.take(changed)
        }
        const behind = lane === undefined ? undefined : lanes.get(lane)
        if (behind === undefined) yield* begin(handed, lane)
        else {
          behind.push(handed)
          waiting++
        }
      }
    }
  })
  return yield* Effect.raceFirst(feed, Deferred.await(failed))
})

const checkOptions = ({ concurrency, key, onFailure }: ProcessOptions): InvalidSubscription | undefined => {
  const invalid = (field: string, problem: string) => new InvalidSubscription({ field, problem })
  if (concurrency !== undefined && !(Number.isInteger(concurrency) && concurrency >= 1)) {
    return invalid("concurrency", "must be a whole number from 1")
  }
  if (key !== undefined && typeof key !== "function") return invalid("key", "must be a function")
  if (onFailure === undefined || onFailure === "fail" || onFailure === "leave") return undefined
  return isRejectCode(onFailure?.reject)
    ? undefined
    : invalid("onFailure", "must be \"fail\", \"leave\" or a reason code for a refusal")
}

/**
 * `process` over what gives a subscriber that settles message by message, and that the scope has to itself.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeProcess = (
  open: (
    filters: string | ReadonlyArray<string>,
    options: SubscribeOptions,
    batchMaximum: number
  ) => Effect.Effect<Subscriber, SubscribeError, Scope.Scope>
): MqttClientService["process"] =>
<E, R>(
  filters: string | ReadonlyArray<string>,
  handler: (message: Message) => Effect.Effect<unknown, E, R>,
  options: ProcessOptions = {}
): Effect.Effect<never, E | SubscribeError, R> => {
  const { concurrency = 1, key, onFailure = "fail", ...subscribe } = options
  const settle = (handed: Handed, exit: Exit.Exit<unknown, E>): Effect.Effect<void, E> => {
    if (Exit.isSuccess(exit)) handed.settle(0)
    else if (onFailure === "fail" || !exit.cause.reasons.every(Cause.isFailReason)) return Effect.failCause(exit.cause)
    else if (onFailure === "leave") handed.leave()
    else handed.settle(onFailure.reject)
    return Effect.void
  }
  const each = (handed: Handed): Effect.Effect<void, E, R> =>
    Effect.flatMap(Effect.exit(Effect.suspend(() => handler(handed.message))), (exit) => settle(handed, exit))
  return Effect.scoped(Effect.suspend(() => {
    const problem = checkOptions(options)
    if (problem !== undefined) return Effect.fail(new SubscribeError({ reason: problem }))
    return Effect.flatMap(
      open(filters, subscribe, batchFor({ concurrency, key })),
      (subscriber) => consume(subscriber, each, { concurrency, key })
    )
  }))
}
