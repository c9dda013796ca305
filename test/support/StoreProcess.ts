/**
 * A program that fills a session store until it is killed, and says on its output what is committed.
 *
 *     node test/support/StoreProcess.ts <file> [hold]
 *
 * With `hold` it opens the store and does nothing.
 */
import { Effect } from "effect"
import { writeSync } from "node:fs"
import { makeSqlite } from "../../src/layers/store/SqliteSessionStore.ts"
import { published } from "./StoreChanges.ts"

/** Sequences of one batch; a batch is there as a whole, or not at all. */
const batchSize = 10

const [filename = "", mode] = process.argv.slice(2)

const say = (line: string | number) => Effect.sync(() => writeSync(1, `${line}\n`))

const program = Effect.gen(function*() {
  const { database, store } = yield* makeSqlite({ filename })
  const session = yield* store.open
  yield* say("open")
  if (mode === "hold") return yield* Effect.never
  yield* database.exec("CREATE TABLE IF NOT EXISTS batches (first INTEGER PRIMARY KEY)")
  let first = session.stored.lastSequence + 1
  while (true) {
    const insert = database.run("INSERT INTO batches (first) VALUES (?)", first)
    // Every other batch waits in the middle of its transaction, so that a kill finds one open.
    const changes = Array.from({ length: batchSize }, (_, i) => published(first + i))
    yield* session.transaction(changes, Effect.andThen(insert, first % 20 === 1 ? Effect.sleep(1) : Effect.void))
    first += batchSize
    yield* say(first - 1)
  }
})

// Node ends a program that waits for nothing but an effect.
setInterval(() => {}, 60_000)
Effect.runFork(Effect.scoped(program))
