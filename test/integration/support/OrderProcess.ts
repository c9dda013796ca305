/**
 * A program that publishes orders, or one that takes them, with a session store on PostgreSQL. Both go on where they were
 * when they are started again, whenever they were killed.
 *
 *     node test/integration/support/OrderProcess.ts publish <url> <folder of the socket> <orders>
 *     node test/integration/support/OrderProcess.ts take <url> <folder of the socket>
 *
 * Each prints a line for whatever it has done, and `ready` or `done`.
 */
import { PgClient } from "@effect/sql-pg"
import type { Scope } from "effect"
import { Effect, Layer, Schedule } from "effect"
import * as SqlClient from "effect/sql/SqlClient"
import { writeSync } from "node:fs"
import { MqttClient, SessionStore } from "../../../src/node.ts"

const [mode = "", url = "", host = "", orders = ""] = process.argv.slice(2)

const say = (line: string | number) => Effect.sync(() => writeSync(1, `${line}\n`))

const session = { endpoint: url, clientId: mode, cleanStart: false, sessionExpiry: "1 hour" } as const

/** The server may not have noticed yet that the connection of the one before is gone. */
const isLocked = (error: unknown): boolean => error instanceof SessionStore.SessionStoreError && error.kind === "locked"

const connect = (options: Partial<MqttClient.ClientOptions> = {}) =>
  Effect.retry(MqttClient.make({ ...session, ...options }), { while: isLocked, schedule: Schedule.spaced("20 millis") })

const publish = Effect.gen(function*() {
  const client = yield* connect()
  yield* say("ready")
  yield* Effect.forEach(Array.from({ length: Number(orders) }, (_, i) => i + 1), (order) =>
    Effect.andThen(
      client.publish({ topic: "orders", payload: `${order}`, qos: 2 }, { id: `order-${order}` }),
      say(order)
    ), { concurrency: 10, discard: true })
  yield* say("done")
})

const take = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const client = yield* connect({ subscriptions: [{ filter: "orders", qos: 2 }] })
  yield* say("ready")
  // No key keeps an order from being there twice.
  yield* client.inbox("orders", ({ payload }) => {
    const order = new TextDecoder().decode(payload)
    return Effect.andThen(sql`INSERT INTO orders (number) VALUES (${order})`, say(order))
  })
})

const Database = PgClient.layer({ host, username: "postgres", database: "postgres" })

const program: Effect.Effect<void, unknown, SqlClient.SqlClient | Scope.Scope> = mode === "publish" ? publish : take

// Node ends a program that waits for nothing but an effect.
const timer = setInterval(() => {}, 60_000)
Effect.runFork(
  program.pipe(
    Effect.scoped,
    Effect.provide(SessionStore.layerSql({ name: mode }).pipe(Layer.provideMerge(Database))),
    Effect.ensuring(Effect.sync(() => clearInterval(timer)))
  )
)
