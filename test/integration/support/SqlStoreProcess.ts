/**
 * A program that fills a session store on PostgreSQL until it is killed, and says on its output what is committed.
 *
 *     node test/integration/support/SqlStoreProcess.ts <folder of the socket> <name> [hold]
 *
 * With `hold` it opens the store and does nothing.
 */
import { PgClient } from "@effect/sql-pg"
import { Effect } from "effect"
import * as SqlClient from "effect/sql/SqlClient"
import { writeSync } from "node:fs"
import { makeSql } from "../../../src/layers/store/SqlSessionStore.ts"
import { published } from "../../support/StoreChanges.ts"

/** Sequences of one batch; a batch is there as a whole, or not at all. */
const batchSize = 10

const [host = "", name = "", mode] = process.argv.slice(2)

const say = (line: string | number) => Effect.sync(() => writeSync(1, `${line}\n`))

const program = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const session = yield* (yield* makeSql({ name })).open
  yield* say("open")
  if (mode === "hold") return yield* Effect.never
  let first = session.stored.lastSequence + 1
  while (true) {
    const changes = Array.from({ length: batchSize }, (_, i) => published(first + i))
    yield* session.transaction(changes, sql`INSERT INTO batches (name, first) VALUES (${name}, ${first})`)
    first += batchSize
    yield* say(first - 1)
  }
})

// Node ends a program that waits for nothing but an effect.
setInterval(() => {}, 60_000)
Effect.runFork(
  Effect.scoped(Effect.provide(program, PgClient.layer({ host, username: "postgres", database: "postgres" })))
)
