/**
 * Files for session stores on SQLite, each in a folder of its own that goes with the scope.
 */
import { Effect } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { SqliteOptions } from "../../src/layers/store/SqliteSessionStore.ts"
import { makeSqlite } from "../../src/layers/store/SqliteSessionStore.ts"
import { SessionStoreError } from "../../src/services/SessionStore.ts"

export const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "mqtt-store-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

/** The store of a file; options that are not valid are a mistake of the test. */
export const storeOf = (filename: string, options: Omit<SqliteOptions, "filename"> = {}) =>
  makeSqlite({ ...options, filename }).pipe(
    Effect.catchIf((error) => !(error instanceof SessionStoreError), Effect.die)
  )

/** A file that does not exist yet. */
export const place = Effect.map(folder, (path) => {
  const filename = join(path, "session.db")
  return { filename, store: Effect.map(storeOf(filename), ({ store }) => store) }
})
