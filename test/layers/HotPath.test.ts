/**
 * What a message costs, counted and not timed: whoever adds a write, a fiber, a span or a step of a fiber for each message
 * finds out here. A bound is the count of today and a little room, less than one more per message.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Stream } from "effect"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import { count } from "../support/CountingServer.ts"
import type { Counts, Flood } from "../support/CountingServer.ts"

const messages = 10_000
const payload = new Uint8Array(64)
const none: Flood = { count: 0, qos: 0 }

type Bounds = Partial<Record<keyof Counts, number>>

/** Counts per message, none above its bound. */
const expectAtMost = (counts: Counts, bounds: Bounds) => {
  const over = Object.entries(bounds).filter(([name, bound]) => counts[name as keyof Counts] / messages > bound)
  const told = Object.entries(counts).map(([name, value]) => `${name} ${value / messages}`).join(", ")
  assert.deepStrictEqual(over, [], `per message: ${told}`)
}

const withClient = (
  options: Partial<MqttClient.ClientOptions>,
  use: (client: MqttClient.MqttClientService) => Effect.Effect<unknown, unknown>
) =>
  Effect.scoped(Effect.flatMap(
    MqttClient.make({ endpoint: "mqtt://counted", protocolVersion: 4, keepAlive: 0, reconnect: false, ...options }),
    use
  ))

const single = (qos: 0 | 1 | 2) =>
  count(none, (mark) =>
    withClient({ sendMaximum: 100 }, (client) => {
      let left = messages
      const worker = Effect.whileLoop({
        while: () => left-- > 0,
        body: () => client.publish({ topic: "t", payload, qos }),
        step: () => {}
      })
      const workers = Effect.all(Array.from({ length: 100 }, () => worker), {
        concurrency: "unbounded",
        discard: true
      })
      return Effect.andThen(mark, Effect.andThen(Effect.andThen(workers, client.flush), mark))
    }))

const batch = (qos: 0 | 1 | 2) =>
  count(none, (mark) =>
    withClient({ sendMaximum: 100 }, (client) => {
      const all = Array.from({ length: messages }, () => ({ topic: "t", payload, qos }))
      return Effect.andThen(mark, Effect.andThen(Effect.andThen(client.publishAll(all), client.flush), mark))
    }))

/** Many reads come before a turn of the consumer, far more than its buffer holds; all is taken, and acknowledged. */
const receive = (qos: 0 | 1, mode: "each" | "array" | "yielding") =>
  count(
    { count: messages, qos },
    (mark) =>
      withClient({ receiveMaximum: 65_535 }, (client) =>
        Effect.scoped(Effect.gen(function*() {
          const subscription = yield* client.subscription("t", { qos })
          const done = yield* Deferred.make<void>()
          let left = messages
          const take = (taken: number) => {
            left -= taken
            return left > 0 ? Effect.void : Deferred.succeed(done, undefined)
          }
          yield* mark
          yield* client.publish({ topic: "$flood" })
          yield* Effect.forkChild(
            mode === "each"
              ? Stream.runForEach(subscription.messages, () => take(1))
              : Stream.runForEachArray(subscription.messages, (batch) =>
                mode === "array" ? take(batch.length) : Effect.andThen(Effect.yieldNow, take(batch.length)))
          )
          yield* Deferred.await(done)
          while ((yield* client.stats).unacknowledged > 0) {
            yield* Effect.yieldNow
          }
          yield* client.flush
          yield* mark
          assert.strictEqual(yield* subscription.dropped, 0, "a consumer that keeps up loses nothing")
        })))
  )

// Half of a window is written at a time, so that the server has something to do meanwhile.
describe("the hot path", () => {
  for (
    const [name, scenario, bounds] of [
      [
        "publish QoS 0 from 100 fibers",
        single(0),
        { writes: 0.0013, bytes: 69.5, steps: 2.3, turns: 0.0005, tasks: 0.0005, fibers: 0.011, spans: 0 }
      ],
      [
        "publish QoS 1 from 100 fibers, window 100",
        single(1),
        { writes: 0.021, bytes: 71.5, steps: 2.3, turns: 0.0005, tasks: 0.0005, fibers: 0.011, spans: 0 }
      ],
      [
        "publish QoS 2 from 100 fibers, window 100",
        single(2),
        { writes: 0.041, bytes: 75.5, steps: 2.4, turns: 0.0005, tasks: 0.0005, fibers: 0.011, spans: 0 }
      ],
      [
        "publishAll QoS 0",
        batch(0),
        { writes: 0.0013, bytes: 69.5, steps: 0.006, turns: 0.0005, tasks: 0.0005, fibers: 0.001, spans: 0 }
      ],
      [
        "publishAll QoS 1, window 100",
        batch(1),
        { writes: 0.021, bytes: 71.5, steps: 0.21, turns: 0.0005, tasks: 0.0005, fibers: 0.001, spans: 0 }
      ],
      [
        "publishAll QoS 2, window 100",
        batch(2),
        { writes: 0.041, bytes: 75.5, steps: 0.41, turns: 0.0005, tasks: 0.0005, fibers: 0.001, spans: 0 }
      ],
      [
        "receive QoS 0 by runForEachArray",
        receive(0, "array"),
        { pulls: 0.0015, steps: 0.025, turns: 0.0005, tasks: 0.0005, fibers: 0.001, spans: 0 }
      ],
      [
        "receive QoS 0 by runForEach",
        receive(0, "each"),
        { pulls: 0.0015, steps: 1.03, turns: 0.0005, tasks: 0.0005, fibers: 0.001, spans: 0 }
      ],
      [
        "receive QoS 0 by a consumer that waits for a turn with each array",
        receive(0, "yielding"),
        { pulls: 0.0015, steps: 0.03, turns: 0.004, tasks: 0.004, fibers: 0.001, spans: 0 }
      ],
      [
        "receive QoS 1 by runForEachArray",
        receive(1, "array"),
        {
          writes: 0.0015,
          bytes: 4.5,
          pulls: 0.0015,
          steps: 0.035,
          turns: 0.0005,
          tasks: 0.0005,
          fibers: 0.001,
          spans: 0
        }
      ],
      [
        "receive QoS 1 by runForEach",
        receive(1, "each"),
        {
          writes: 0.0015,
          bytes: 4.5,
          pulls: 0.0015,
          steps: 1.04,
          turns: 0.0005,
          tasks: 0.0005,
          fibers: 0.001,
          spans: 0
        }
      ]
    ] as ReadonlyArray<readonly [string, Effect.Effect<Counts, unknown>, Bounds]>
  ) {
    it.live(name, () => Effect.map(scenario, (counts) => expectAtMost(counts, bounds)))
  }
})
