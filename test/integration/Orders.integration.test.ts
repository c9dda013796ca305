import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer } from "effect"
import * as SqlClient from "effect/sql/SqlClient"
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import * as ChaosProxy from "./support/ChaosProxy.ts"
import * as Mosquitto from "./support/Mosquitto.ts"
import * as Postgres from "./support/Postgres.ts"

const program = fileURLToPath(new URL("support/OrderProcess.ts", import.meta.url))

/** Runs the program until it is done, or until it has said `lines` lines, when it is killed. Gives what it said last. */
const run = (args: ReadonlyArray<string>, lines: number, onReady: Effect.Effect<unknown> = Effect.void) =>
  Effect.scoped(Effect.gen(function*() {
    const ended = yield* Deferred.make<string>()
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        const child = spawn(process.execPath, [program, ...args], { stdio: ["ignore", "pipe", "inherit"] })
        let said = 0
        let last = ""
        let rest = ""
        child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
          const parts = (rest + chunk).split("\n")
          rest = parts.pop()!
          for (const line of parts) {
            last = line
            if (line === "ready") Effect.runFork(onReady)
            else if (++said === lines) child.kill("SIGKILL")
          }
        })
        child.once("close", () => Deferred.doneUnsafe(ended, Effect.succeed(last)))
        return child
      }),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    return yield* Deferred.await(ended)
  }))

const place = Effect.gen(function*() {
  const broker = yield* Mosquitto.make({ config: ["max_queued_messages 0"] })
  const postgres = yield* Postgres.make
  const sql = yield* Effect.map(Layer.build(postgres.client()), (context) => Context.get(context, SqlClient.SqlClient))
  yield* sql`CREATE TABLE orders (number text)`
  const numbers = Effect.map(
    sql<{ number: string }>`SELECT number FROM orders`,
    (rows) => rows.map(({ number }) => Number(number))
  )
  /** All that was taken, once every order was. */
  const takenOf = (orders: number) => Effect.repeat(numbers, { until: (numbers) => new Set(numbers).size >= orders })
  const publish = (orders: number, lines = Number.POSITIVE_INFINITY) =>
    run(["publish", broker.url, postgres.host, `${orders}`], lines)
  return { broker, postgres, takenOf, publish }
})

const upTo = (orders: number) => Array.from({ length: orders }, (_, i) => i + 1)
const ascending = (numbers: ReadonlyArray<number>) => [...numbers].sort((a, b) => a - b)

describe("a publisher and a taker with stores on PostgreSQL", () => {
  it.live("pass every order on once, though both are killed in the middle of it (law 8)", () =>
    Effect.gen(function*() {
      const orders = 300
      const { broker, postgres, publish, takenOf } = yield* place
      const subscribed = yield* Deferred.make<void>()
      const take = (lines: number) =>
        run(["take", broker.url, postgres.host], lines, Deferred.succeed(subscribed, undefined))
      // Killed after so many orders each; the last one is left until all is there.
      yield* Effect.forkScoped(Effect.andThen(Effect.forEach([1, 30, 77], take), take(Number.POSITIVE_INFINITY)))
      yield* Deferred.await(subscribed)
      for (const lines of [25, 120]) assert.notStrictEqual(yield* publish(orders, lines), "done")
      assert.strictEqual(yield* publish(orders), "done")
      assert.deepStrictEqual(ascending(yield* takenOf(orders)), upTo(orders))
    }), 120_000)

  it.live(
    "take no order twice of which the server does not know that it was taken (law 8)",
    () =>
      Effect.gen(function*() {
        const { broker, postgres, publish, takenOf } = yield* place
        const proxy = yield* ChaosProxy.make({ port: broker.port })
        const subscribed = yield* Deferred.make<void>()
        const connected = Deferred.succeed(subscribed, undefined)
        // Always by the same way: to the client another address is another broker.
        const take = run(["take", proxy.url, postgres.host], Number.POSITIVE_INFINITY, connected)
        const taker = yield* Effect.forkScoped(take)
        yield* Deferred.await(subscribed)
        assert.strictEqual(yield* publish(1), "done")
        yield* takenOf(1)
        // From here on nothing of what the taker says arrives.
        yield* proxy.blackHole("up")
        assert.strictEqual(yield* publish(10), "done")
        assert.deepStrictEqual(ascending(yield* takenOf(10)), upTo(10))
        yield* Fiber.interrupt(taker)
        yield* proxy.heal
        yield* Effect.forkScoped(take)
        assert.strictEqual(yield* publish(12), "done")
        assert.deepStrictEqual(ascending(yield* takenOf(12)), upTo(12))
      }),
    120_000
  )
})
