import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Queue } from "effect"
import { text } from "../../src/services/Message.ts"
import { describeBrokers } from "./support/Brokers.ts"
import * as Client from "./support/Client.ts"

describeBrokers("failover", (kind) => {
  it.live(
    "law 10: two of three brokers are stopped in turn, under load: no QoS 1 message is lost",
    () =>
      Effect.gen(function*() {
        const brokers = yield* Effect.forEach(["a", "b", "c"], () => kind.make())
        const [a, b, c] = brokers as [typeof brokers[0], typeof brokers[0], typeof brokers[0]]
        // Each broker has one who keeps all of it, over the time in which it is down as well.
        const kept = yield* Queue.unbounded<string>()
        for (const [index, { url }] of brokers.entries()) {
          const keeper = yield* Client.make({
            endpoint: url,
            clientId: `keeper-${index}`,
            sessionExpiry: "1 hour",
            ...Client.underLoad
          })
          const queue = yield* Client.subscribe(keeper, "load", { qos: 1 })
          yield* Effect.forkScoped(
            Effect.forever(Effect.flatMap(Queue.take(queue), (message) => Queue.offer(kept, text(message))))
          )
        }
        const client = yield* Client.make({
          endpoints: brokers.map(({ url }) => url),
          clientId: "c",
          sessionExpiry: "1 hour",
          ...Client.underLoad
        })
        let isOver = false
        const confirmed: Array<string> = []
        const floods = yield* Effect.forEach([1, 2, 3, 4], (worker) =>
          Effect.forkChild(Effect.gen(function*() {
            for (let index = 0; !isOver; index++) {
              const payload = `${worker} ${index}`
              yield* client.publish({ topic: "load", payload, qos: 1 })
              confirmed.push(payload)
            }
          })))
        const seen = new Set<string>()
        const confirmMore = (count: number) => {
          const enough = confirmed.length + count
          return Effect.repeat(Effect.flatMap(Queue.take(kept), (payload) => Effect.sync(() => seen.add(payload))), {
            until: () => confirmed.length >= enough
          })
        }
        const endpoint = Effect.map(
          client.status,
          (status) => status._tag === "Connected" ? status.endpoint : undefined
        )
        yield* confirmMore(500)
        assert.strictEqual(yield* endpoint, a.url)
        for (const [dying, next] of [[a, b], [b, c]] as const) {
          yield* dying.stop
          yield* confirmMore(500)
          assert.strictEqual(yield* endpoint, next.url)
        }
        isOver = true
        yield* Effect.forEach(floods, Fiber.join)
        // What the two took before they were stopped is still theirs to deliver.
        yield* a.start
        yield* b.start
        const missing = new Set(confirmed.filter((payload) => !seen.has(payload)))
        while (missing.size > 0) missing.delete(yield* Queue.take(kept))
        assert.isAtLeast(confirmed.length, 1_500)
      }),
    60_000
  )
})
