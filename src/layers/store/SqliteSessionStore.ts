/**
 * A session store in a file, on the SQLite that comes with Node.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import type { DatabaseSync, SQLInputValue } from "node:sqlite"
import type { InvalidOptions } from "../../services/MqttError.ts"
import type {
  Change,
  OpenStore,
  SessionStoreService,
  StoredMessage,
  StoredOutcome,
  StoredSession
} from "../../services/SessionStore.ts"
import { SessionStore, SessionStoreError } from "../../services/SessionStore.ts"
import type { SqliteDatabaseService, Write } from "./SqliteDatabase.ts"
import { SqliteDatabase, SqliteFile } from "./SqliteDatabase.ts"
import { badRow, readMessage, safeInteger, StoreContents } from "./StoreContents.ts"
import type { BadRow, Row } from "./StoreContents.ts"
import { initialState, runsOf, StoreBatch } from "./StoreBatch.ts"
import type { StoreState } from "./StoreBatch.ts"
import * as StoredRecord from "./StoredRecord.ts"
import type { StoreSettings } from "./StoreSettings.ts"
import { resolveSqlite } from "./StoreSettings.ts"

// ---------------------------------------------------------------------------
// options
// ---------------------------------------------------------------------------

/**
 * Options of the store on SQLite.
 *
 * @category options
 * @since 0.1.0
 */
export interface SqliteOptions {
  /** The file. It is created if there is none, and so are two or three beside it: `-lock`, `-wal`, `-shm`. */
  readonly filename: string
  /**
   * What a committed change outlives: `"process"`, a process that is killed at any moment; `"power"`, a loss of power as
   * well, for one flush of the disk per commit. After a loss of power, `"process"` may lack the last commits; the file is
   * whole either way. Default `"process"`.
   */
  readonly durability?: "process" | "power" | undefined
  /** How long the outcome of a publish under an id of your own is kept. Default 7 days. */
  readonly outcomeRetention?: Duration.Input | undefined
  /** How many outcomes are kept at most; the oldest ones go. Default 1,000,000. */
  readonly maxOutcomes?: number | undefined
  /**
   * Bytes of payload that may be put aside for slow consumers, all queues together. A commit that would go beyond fails with
   * `full`. Default 1 GiB.
   */
  readonly maxPutAsideBytes?: number | undefined
}

// ---------------------------------------------------------------------------
// the tables
// ---------------------------------------------------------------------------

/** "EMQT", in the header of the file. */
const applicationId = 0x454d5154

/**
 * The steps from one version of the tables to the next; the version of a file is how many it has been through. A step that
 * was released is never changed.
 */
export const migrations: ReadonlyArray<string> = [
  `
  CREATE TABLE mqtt_state (name TEXT NOT NULL PRIMARY KEY, record BLOB NOT NULL) STRICT;
  CREATE TABLE mqtt_publish (sequence INTEGER PRIMARY KEY, record BLOB NOT NULL, release BLOB) STRICT;
  CREATE TABLE mqtt_inbound (packet_id INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT;
  CREATE TABLE mqtt_outcome (
    ordinal INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, settled_at INTEGER NOT NULL, record BLOB NOT NULL
  ) STRICT;
  CREATE TABLE mqtt_aside (
    queue TEXT NOT NULL, sequence INTEGER NOT NULL, bytes INTEGER NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (queue, sequence)
  ) STRICT;
  CREATE TABLE mqtt_quarantine (
    number INTEGER PRIMARY KEY, found_at INTEGER NOT NULL, source TEXT NOT NULL, key TEXT NOT NULL,
    problem TEXT NOT NULL, content BLOB
  ) STRICT;
  `
]

const pragma = (database: DatabaseSync, name: string): unknown =>
  Object.values(database.prepare(`PRAGMA ${name}`).get() ?? {})[0]

/** The version of the tables of a file that is ours, or empty. Nothing is written, so that a foreign file stays as it is. */
const versionOf = ({ database, name }: SqliteFile, newest: number): number => {
  const incompatible = (detail: string) =>
    new SessionStoreError({ operation: "open", kind: "incompatible", store: name, detail })
  const owner = pragma(database, "application_id")
  const version = Number(pragma(database, "user_version"))
  const tables = database.prepare("SELECT count(*) AS count FROM sqlite_schema").get()?.["count"]
  if (owner !== applicationId && (owner !== 0 || version !== 0 || tables !== 0)) {
    throw incompatible("it is the database of another program")
  }
  if (version > newest) {
    throw incompatible(`its tables are of version ${version}, and this program knows them up to ${newest}`)
  }
  return version
}

/** Pages of the write-ahead log after which it is carried over into the file: 16 MiB. */
const checkpointPages = 4_096

/** Makes a file fit for use: its modes, and its tables, brought up to date step by step, each in a transaction. */
export const prepare = (
  file: SqliteFile,
  durability: "process" | "power",
  steps: ReadonlyArray<string> = migrations
): void => {
  const { database } = file
  const version = versionOf(file, steps.length)
  database.exec(`
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = ${durability === "power" ? "FULL" : "NORMAL"};
    PRAGMA wal_autocheckpoint = ${checkpointPages};
    PRAGMA journal_size_limit = ${checkpointPages * 4_096};
    PRAGMA temp_store = MEMORY;
  `)
  for (let next = version; next < steps.length; next++) {
    file.inTransaction(() => {
      database.exec(`${steps[next]}; PRAGMA application_id = ${applicationId}; PRAGMA user_version = ${next + 1}`)
      return () => {}
    })
  }
}

// ---------------------------------------------------------------------------
// what is there
// ---------------------------------------------------------------------------

/** Moves a row out of the way. Both statements count or none, within a transaction or without. */
const quarantine = (database: DatabaseSync, { key, problem, row, table }: BadRow, foundAt: number): void => {
  const rowid = row["rowid"] as bigint | number
  database.exec("SAVEPOINT mqtt_quarantine")
  database.prepare(
    `INSERT INTO mqtt_quarantine (found_at, source, key, problem, content)
     SELECT ?, ?, ?, ?, record FROM ${table} WHERE rowid = ?`
  ).run(foundAt, table, key, problem, rowid)
  database.prepare(`DELETE FROM ${table} WHERE rowid = ?`).run(rowid)
  database.exec("RELEASE mqtt_quarantine")
}

/** How many messages that were put aside are looked at in one go; there may be many, and large ones. */
const messagesAtOnce = 256

/** Reads everything but outcomes, which are looked at when they are asked for, and quarantines what cannot be read. */
const load = (file: SqliteFile): Effect.Effect<StoredSession, SessionStoreError> => {
  const { database } = file
  /** Keys come as they are: a foreign one may be greater than a number can hold. */
  const rowsOf = (sql: string, ...values: ReadonlyArray<SQLInputValue>): ReadonlyArray<Row> => {
    const statement = database.prepare(sql)
    statement.setReadBigInts(true)
    return statement.all(...values)
  }
  const attempt = <A>(read: () => A): Effect.Effect<A, SessionStoreError> =>
    Effect.suspend(() => {
      try {
        return Effect.succeed(read())
      } catch (error) {
        return file.fail(error, "open")
      }
    })
  return Effect.gen(function*() {
    const contents = new StoreContents()
    yield* attempt(() => {
      for (const row of rowsOf("SELECT rowid AS rowid, name, record FROM mqtt_state")) contents.addState(row)
      contents.addPublishes(
        rowsOf("SELECT rowid AS rowid, sequence, record, release FROM mqtt_publish ORDER BY sequence")
      )
      contents.addInbound(rowsOf("SELECT rowid AS rowid, packet_id, record FROM mqtt_inbound ORDER BY packet_id"))
    })
    let last: unknown = -(2n ** 63n)
    while (last !== undefined) {
      const after = last as bigint
      last = yield* attempt(() => {
        const rows = rowsOf(
          "SELECT rowid AS rowid, queue, sequence, bytes, record FROM mqtt_aside WHERE rowid > ? ORDER BY rowid LIMIT ?",
          after,
          messagesAtOnce
        )
        contents.addMessages(rows)
        return rows.length < messagesAtOnce ? undefined : rows.at(-1)?.["rowid"]
      })
      yield* Effect.yieldNow
    }
    const foundAt = yield* Clock.currentTimeMillis
    yield* attempt(() => {
      for (const row of contents.bad) quarantine(database, row, foundAt)
    })
    return contents.stored
  })
}

// ---------------------------------------------------------------------------
// the store
// ---------------------------------------------------------------------------

const prepareStatements = (database: DatabaseSync) => ({
  putState: database.prepare("INSERT OR REPLACE INTO mqtt_state (name, record) VALUES (?, ?)"),
  deleteState: database.prepare("DELETE FROM mqtt_state WHERE name = ?"),
  putPublish: database.prepare("INSERT OR REPLACE INTO mqtt_publish (sequence, record, release) VALUES (?, ?, ?)"),
  release: database.prepare("UPDATE mqtt_publish SET release = ? WHERE sequence = ?"),
  deletePublishes: database.prepare("DELETE FROM mqtt_publish WHERE sequence BETWEEN ? AND ?"),
  putInbound: database.prepare("INSERT OR REPLACE INTO mqtt_inbound (packet_id, record) VALUES (?, ?)"),
  clearInbound: database.prepare("DELETE FROM mqtt_inbound"),
  putOutcome: database.prepare(
    "INSERT OR REPLACE INTO mqtt_outcome (ordinal, id, settled_at, record) VALUES (?, ?, ?, ?)"
  ),
  getOutcome: database.prepare("SELECT rowid AS rowid, record FROM mqtt_outcome WHERE id = ?"),
  lastOutcome: database.prepare("SELECT max(ordinal) AS ordinal FROM mqtt_outcome"),
  pruneOutcomes: database.prepare(
    `DELETE FROM mqtt_outcome
     WHERE ordinal <= (SELECT max(ordinal) FROM (SELECT ordinal FROM mqtt_outcome ORDER BY ordinal LIMIT ?))
       AND (settled_at < ? OR ordinal <= ?)`
  ),
  putMessage: database.prepare(
    "INSERT OR REPLACE INTO mqtt_aside (queue, sequence, bytes, record) VALUES (?, ?, ?, ?)"
  ),
  takeMessages: database.prepare(
    "DELETE FROM mqtt_aside WHERE queue = ? AND sequence BETWEEN ? AND ? RETURNING bytes"
  ),
  getMessages: database.prepare(
    "SELECT rowid AS rowid, sequence, bytes, record FROM mqtt_aside WHERE queue = ? AND sequence > ? ORDER BY sequence LIMIT ?"
  )
})

/** How many outcomes come between two looks for old ones, and how many go at most at one of them. */
const pruneEvery = 1_000
const pruneAtMost = 4_000

class SqliteStore implements OpenStore {
  readonly name: string
  readonly stored: StoredSession
  readonly #file: SqliteFile
  readonly #settings: StoreSettings
  readonly #state: StoreState
  readonly #statements: ReturnType<typeof prepareStatements>
  #lastOutcome: number
  #outcomesSincePrune = pruneEvery
  #asideBytes = 0

  constructor(file: SqliteFile, settings: StoreSettings, stored: StoredSession) {
    this.name = file.name
    this.stored = stored
    this.#file = file
    this.#settings = settings
    this.#state = initialState(stored)
    this.#statements = prepareStatements(file.database)
    this.#lastOutcome = safeInteger(this.#statements.lastOutcome.get()?.["ordinal"]) ?? 0
    for (const { bytes } of stored.queues) this.#asideBytes += bytes
  }

  readonly commit: OpenStore["commit"] = (changes) =>
    changes.length === 0 ?
      Effect.void :
      Effect.clockWith((clock) =>
        this.#file.commit(this.#write(changes, () => clock.currentTimeMillisUnsafe()), "commit")
      )

  readonly transaction: OpenStore["transaction"] = (changes, effect) =>
    Effect.clockWith((clock) =>
      this.#file.transaction(this.#write(changes, () => clock.currentTimeMillisUnsafe()), effect)
    )

  #write(changes: ReadonlyArray<Change>, now: () => number): Write {
    return () => {
      const batch = new StoreBatch(this.#state, changes)
      this.#writeSession(batch)
      this.#writePublishes(batch)
      const lastOutcome = this.#writeOutcomes(batch, now)
      const asideBytes = this.#writeMessages(batch)
      batch.beginCommit()
      return () => {
        batch.applyToState()
        this.#asideBytes = asideBytes
        if (lastOutcome === this.#lastOutcome) return
        const since = this.#outcomesSincePrune
        this.#outcomesSincePrune = (since >= pruneEvery ? 0 : since) + lastOutcome - this.#lastOutcome
        this.#lastOutcome = lastOutcome
      }
    }
  }

  #writeSession(batch: StoreBatch): void {
    const { clearInbound, deleteState, putInbound, putState } = this.#statements
    if (batch.session === null) deleteState.run("session")
    else if (batch.session !== undefined) putState.run("session", StoredRecord.encodeSession(batch.session))
    if (batch.hasCounted) putState.run("lastSequence", StoredRecord.encodeCounters(batch))
    if (batch.clearsInbound) clearInbound.run()
    for (const [packetId, entry] of batch.inbound) putInbound.run(packetId, StoredRecord.encodeInbound(entry))
  }

  #writePublishes(batch: StoreBatch): void {
    const { deletePublishes, putPublish, release } = this.#statements
    for (const { from, to } of runsOf(batch.settled())) deletePublishes.run(from, to)
    for (const [sequence, effect] of batch.publishes) {
      if (effect === undefined) continue
      if (effect._tag === "Release") release.run(StoredRecord.encodeRelease(effect.release), sequence)
      else {
        const { publish } = effect
        putPublish.run(sequence, StoredRecord.encodePublish(publish), null)
        if (publish.stage === "released") release.run(StoredRecord.encodeRelease(publish), sequence)
      }
    }
  }

  /** The ordinal of the last outcome. */
  #writeOutcomes(batch: StoreBatch, now: () => number): number {
    let ordinal = this.#lastOutcome
    if (batch.outcomes.size === 0) return ordinal
    const settledAt = now()
    for (const [id, outcome] of batch.outcomes) {
      this.#statements.putOutcome.run(++ordinal, id, settledAt, StoredRecord.encodeOutcome(id, outcome))
    }
    if (this.#outcomesSincePrune >= pruneEvery) {
      const { maxOutcomes, outcomeRetentionMillis } = this.#settings
      this.#statements.pruneOutcomes.run(pruneAtMost, settledAt - outcomeRetentionMillis, ordinal - maxOutcomes)
    }
    return ordinal
  }

  /** The bytes that are put aside then. */
  #writeMessages(batch: StoreBatch): number {
    const { putMessage, takeMessages } = this.#statements
    const before = this.#asideBytes
    let bytes = before
    for (const [queue, messages] of batch.aside) {
      const last = this.#state.queues.get(queue) ?? -1
      const gone: Array<number> = []
      // What is put aside again replaces what was there, whose bytes no longer count.
      for (const [sequence, message] of messages) if (message === undefined || sequence <= last) gone.push(sequence)
      for (const { from, to } of runsOf(gone)) {
        for (const row of takeMessages.all(queue, from, to)) bytes -= Number(row["bytes"])
      }
      for (const [sequence, message] of messages) {
        if (message === undefined) continue
        bytes += message.payload.length
        putMessage.run(queue, sequence, message.payload.length, StoredRecord.encodeMessage(queue, message))
      }
    }
    if (bytes > before && bytes > this.#settings.maxPutAsideBytes) {
      throw new SessionStoreError({
        operation: "commit",
        kind: "full",
        store: this.name,
        detail: `more than ${this.#settings.maxPutAsideBytes} bytes would be put aside`
      })
    }
    return bytes
  }

  readonly outcome: OpenStore["outcome"] = (id) =>
    this.#read((bad, now) => {
      const row = this.#statements.getOutcome.get(id)
      if (row === undefined) return undefined
      const outcome = StoredRecord.decodeOutcome(id, row["record"])
      if (Result.isSuccess(outcome)) return outcome.success
      bad(badRow("outcome", row, id, outcome.failure))
      // There was an outcome, so it must not look as if there had been no publish.
      const unknown: StoredOutcome = { _tag: "Unknown" }
      this.#statements.putOutcome.run(row["rowid"]!, id, now, StoredRecord.encodeOutcome(id, unknown))
      return unknown
    })

  readonly putAside: OpenStore["putAside"] = (queue, after, limit) =>
    this.#read((bad) => {
      const messages: Array<StoredMessage> = []
      let last = after
      while (messages.length < limit) {
        const rows = this.#statements.getMessages.all(queue, last, limit - messages.length)
        if (rows.length === 0) break
        for (const row of rows) {
          last = Number(row["sequence"])
          const message = readMessage(queue, row)
          if (Result.isSuccess(message)) messages.push(message.success)
          else bad(message.failure)
        }
      }
      return messages
    })

  /** Reads, and says in the log what was found to be unreadable only now. */
  #read<A>(read: (bad: (row: BadRow) => void, now: number) => A): Effect.Effect<A, SessionStoreError> {
    return Effect.clockWith((clock) => {
      const found: Array<string> = []
      const now = clock.currentTimeMillisUnsafe()
      try {
        const value = read((row) => {
          quarantine(this.#file.database, row, now)
          found.push(`${row.table} ${row.key}: ${row.problem}`)
        }, now)
        if (found.length === 0) return Effect.succeed(value)
        const warning = `the session store ${this.name} has entries that cannot be read: ${found.join(", ")}`
        return Effect.as(Effect.logWarning(warning), value)
      } catch (error) {
        return this.#file.fail(error, "read")
      }
    })
  }
}

// ---------------------------------------------------------------------------
// constructors
// ---------------------------------------------------------------------------

/**
 * Opens a file as a session store, for as long as the scope is open; see `layerSqlite`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeSqlite = (
  options: SqliteOptions
): Effect.Effect<
  { readonly store: SessionStoreService; readonly database: SqliteDatabaseService },
  SessionStoreError | InvalidOptions,
  Scope.Scope
> =>
  Effect.gen(function*() {
    const settings = yield* Effect.fromResult(resolveSqlite(options))
    const file = yield* SqliteFile.open(settings.filename, (file) => prepare(file, settings.durability))
    let isOpen = false
    const open = Effect.gen(function*() {
      if (isOpen) {
        return yield* new SessionStoreError({
          operation: "open",
          kind: "locked",
          store: file.name,
          detail: "another client of this program uses it"
        })
      }
      yield* Effect.acquireRelease(
        Effect.sync(() => isOpen = true),
        () => Effect.sync(() => isOpen = false)
      )
      return new SqliteStore(file, settings, yield* load(file))
    })
    return { store: { open }, database: file.handle }
  })

/**
 * A session store in a file of SQLite, with the database of that file for rows of your own (`SqliteDatabase`).
 *
 * **Details**
 *
 * The layer locks the file as long as it is built: another process, or another layer of this one, fails with `locked`. The
 * lock is the operating system's, and ends with the process even if that is killed. One client at a time uses the store.
 *
 * It fails with `incompatible` if the file is not a session store or of a newer version, with `corrupt` if it is damaged as a
 * whole, with `unavailable` if it cannot be opened or created. Single entries that cannot be read are moved to the table
 * `mqtt_quarantine` and reported to the client; they keep nothing else from being read.
 *
 * Writing happens on the thread of the program, in one transaction per batch of changes. The file must be on a local disk:
 * network file systems lock unreliably.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerSqlite = (
  options: SqliteOptions
): Layer.Layer<SqliteDatabase, SessionStoreError | InvalidOptions> =>
  Layer.effectContext(
    Effect.map(makeSqlite(options), ({ database, store }) =>
      Context.make(SqliteDatabase, database).pipe(Context.add(SessionStore, store)))
  )
