/**
 * A session store in a database of PostgreSQL, through the `SqlClient` that the program has.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as SqlClient from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
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
import type { Query, Writer } from "./SqlStoreStatements.ts"
import * as Statements from "./SqlStoreStatements.ts"
import { initialState, StoreBatch } from "./StoreBatch.ts"
import type { StoreState } from "./StoreBatch.ts"
import { badRow, readMessage, safeInteger, StoreContents } from "./StoreContents.ts"
import type { BadRow, Row } from "./StoreContents.ts"
import * as StoredRecord from "./StoredRecord.ts"
import type { SqlSettings } from "./StoreSettings.ts"
import { resolveSql } from "./StoreSettings.ts"

// ---------------------------------------------------------------------------
// options
// ---------------------------------------------------------------------------

/**
 * Options of the store on SQL.
 *
 * @category options
 * @since 0.1.0
 */
export interface SqlOptions {
  /** One of the stores in the database: each client needs one of its own. Default `"default"`. */
  readonly name?: string | undefined
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
// errors
// ---------------------------------------------------------------------------

type Operation = SessionStoreError["operation"]

/** The code of the server (SQLSTATE), if the driver tells it. */
const codeOf = (cause: unknown, depth = 0): string => {
  if (typeof cause !== "object" || cause === null || depth > 4) return ""
  if ("code" in cause && typeof cause.code === "string" && /^[0-9A-Z]{5}$/.test(cause.code)) return cause.code
  for (const key of ["fields", "reason", "cause"] as const) {
    const code = codeOf((cause as Record<string, unknown>)[key], depth + 1)
    if (code !== "") return code
  }
  return ""
}

const kindOf = (error: SqlError, operation: Operation): SessionStoreError["kind"] => {
  const code = codeOf(error)
  if (code === "53100") return "full"
  // Operator intervention, and resources of the server that others use up.
  if (/^(57P|53)/.test(code)) return "unavailable"
  if (/^XX00[12]$/.test(code)) return "corrupt"
  switch (error.reason._tag) {
    case "ConnectionError":
    case "AuthenticationError":
    case "DeadlockError":
    case "LockTimeoutError":
    case "SerializationError":
    case "StatementTimeoutError":
      return "unavailable"
    case "SqlSyntaxError":
      // Tables that are there already, or that lack what they should have.
      return operation === "open" ? "incompatible" : "other"
    default:
      return "other"
  }
}

const isSqlError = (error: unknown): error is SqlError =>
  typeof error === "object" && error !== null && "_tag" in error && error._tag === "SqlError"

const toStoreError = (error: unknown, operation: Operation, store: string): SessionStoreError =>
  error instanceof SessionStoreError ? error : new SessionStoreError({
    operation,
    kind: isSqlError(error) ? kindOf(error, operation) : "other",
    store,
    detail: error instanceof Error ? error.message : String(error),
    cause: error
  })

/** Whatever goes wrong is an error of the store; a rollback on a connection that is lost is a defect to the client of SQL. */
const asStoreError = (operation: Operation, store: string) => <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.catchCause(self, (cause): Effect.Effect<never, SessionStoreError> =>
    Cause.hasInterruptsOnly(cause)
      ? Effect.interrupt
      : Effect.fail(toStoreError(Cause.squash(cause), operation, store)))

// ---------------------------------------------------------------------------
// opening
// ---------------------------------------------------------------------------

/** The lock under which tables are made: of this library, and of nothing else that is likely. */
const migrationLock = 0x4d515454

const run = (sql: SqlClient.SqlClient, { parameters, text }: Query): Effect.Effect<ReadonlyArray<Row>, SqlError> =>
  sql.unsafe<Row>(text, parameters)

/** Brings the tables up to date, all steps in one transaction; others who open a store wait for it. */
export const migrate = (
  sql: SqlClient.SqlClient,
  store: string,
  steps: ReadonlyArray<ReadonlyArray<string>> = Statements.migrations
): Effect.Effect<void, SqlError | SessionStoreError> =>
  sql.withTransaction(Effect.gen(function*() {
    yield* sql.unsafe("SELECT pg_advisory_xact_lock($1::bigint)", [migrationLock])
    yield* sql.unsafe("CREATE TABLE IF NOT EXISTS mqtt_schema (version integer NOT NULL)")
    const rows = yield* sql.unsafe<Row>("SELECT max(version) AS version FROM mqtt_schema")
    const version = safeInteger(rows[0]?.["version"]) ?? 0
    if (version > steps.length) {
      return yield* new SessionStoreError({
        operation: "open",
        kind: "incompatible",
        store,
        detail: `its tables are of version ${version}, and this program knows them up to ${steps.length}`
      })
    }
    for (const statement of steps.slice(version).flat()) yield* sql.unsafe(statement)
    if (version === steps.length) return
    yield* sql.unsafe("DELETE FROM mqtt_schema")
    yield* sql.unsafe("INSERT INTO mqtt_schema (version) VALUES ($1::integer)", [steps.length])
  }))

/**
 * Takes the lock of a store on a connection of its own: the server frees it when that connection ends, and with it when the
 * process does.
 */
const lock = (sql: SqlClient.SqlClient, store: number, name: string) =>
  Effect.gen(function*() {
    const connection = yield* sql.reserve
    // The table's own number keeps stores in different schemas apart.
    const key = "(('mqtt_store'::regclass::oid::bigint << 32) | $1::bigint)"
    const rows = yield* connection.execute(`SELECT pg_try_advisory_lock(${key}) AS locked`, [store], undefined)
    if (rows[0]?.locked !== true) {
      return yield* new SessionStoreError({
        operation: "open",
        kind: "locked",
        store: name,
        detail: "another client or process uses it"
      })
    }
    yield* Effect.addFinalizer(() =>
      Effect.ignore(connection.execute(`SELECT pg_advisory_unlock(${key})`, [store], undefined))
    )
  })

/** How many messages that were put aside are looked at in one go; there may be many, and large ones. */
const messagesAtOnce = 256

const quarantineOf = (store: number, { key, problem, row, source }: BadRow, at: number): Query => {
  const found = { at, key, problem }
  return source === "state"
    ? Statements.quarantineState(store, key === "session" ? "session" : "counter", found)
    : Statements.quarantine(store, source, row, found)
}

/** Reads everything but outcomes, which are looked at when they are asked for, and quarantines what cannot be read. */
const load = (sql: SqlClient.SqlClient, store: number): Effect.Effect<StoredSession, SqlError> =>
  Effect.gen(function*() {
    const contents = new StoreContents()
    const state = yield* sql.unsafe<Row>("SELECT session, counter FROM mqtt_store WHERE id = $1::integer", [store])
    const { counter, session } = state[0] ?? {}
    if (session != null) contents.addState({ name: "session", record: session })
    if (counter != null) contents.addState({ name: "lastSequence", record: counter })
    contents.addPublishes(
      yield* sql.unsafe<Row>(
        "SELECT sequence, record, release FROM mqtt_publish WHERE store = $1::integer ORDER BY sequence",
        [store]
      )
    )
    contents.addInbound(
      yield* sql.unsafe<Row>("SELECT packet_id, record FROM mqtt_inbound WHERE store = $1::integer ORDER BY 1", [store])
    )
    let last: Row | undefined = { queue: "", sequence: "-9223372036854775808" }
    while (last !== undefined) {
      const rows: ReadonlyArray<Row> = yield* sql.unsafe<Row>(
        `SELECT queue, sequence, bytes, record FROM mqtt_aside
         WHERE store = $1::integer AND (queue, sequence) > ($2::text, $3::bigint)
         ORDER BY queue, sequence LIMIT $4::integer`,
        [store, last["queue"], String(last["sequence"]), messagesAtOnce]
      )
      contents.addMessages(rows)
      last = rows.length < messagesAtOnce ? undefined : rows.at(-1)
    }
    const at = yield* Clock.currentTimeMillis
    yield* Effect.forEach(contents.bad, (row) => run(sql, quarantineOf(store, row, at)), { discard: true })
    return contents.stored
  })

// ---------------------------------------------------------------------------
// the store
// ---------------------------------------------------------------------------

/** How many outcomes come between two looks for old ones, and how many go at most at one of them. */
const pruneEvery = 1_000
const pruneAtMost = 4_000

/** What is to be done with a batch once the database has it. */
interface Written {
  readonly batch: StoreBatch
  readonly asideBytes: number
}

/** The effect of the program failed, which undoes the transaction; its own cause is what is told of it. */
class Failed {
  readonly _tag = "Failed"
}

class SqlStore implements OpenStore {
  readonly name: string
  readonly stored: StoredSession
  readonly #sql: SqlClient.SqlClient
  readonly #settings: SqlSettings
  readonly #writer: Writer
  /** Held from the first statement of a batch until the batch is committed. */
  readonly #turn = Semaphore.makeUnsafe(1)
  #state: StoreState
  #asideBytes = 0
  #lastOutcome: number
  #outcomesSincePrune = pruneEvery
  /** A write ended without an answer, so that what is known here may be wrong. */
  #isUncertain = false

  constructor(
    sql: SqlClient.SqlClient,
    settings: SqlSettings,
    writer: Writer,
    stored: StoredSession,
    lastOutcome: number
  ) {
    this.name = settings.name
    this.stored = stored
    this.#sql = sql
    this.#settings = settings
    this.#writer = writer
    this.#state = initialState(stored)
    this.#lastOutcome = lastOutcome
    for (const { bytes } of stored.queues) this.#asideBytes += bytes
  }

  // Whoever takes a turn has a connection already: one who waited for it while others wait for the turn would wait for ever.

  readonly commit: OpenStore["commit"] = (changes) => {
    if (changes.length === 0) return Effect.void
    // Messages take several statements; everything else is one, which is a transaction by itself.
    const hasMessages = changes.some(({ _tag }) => _tag === "PutAside" || _tag === "TakenUp")
    const { transactionService } = this.#sql
    const committed = hasMessages
      ? this.#transact(changes, Effect.void)
      : Effect.scoped(Effect.flatMap(this.#sql.reserve, (connection) =>
        this.#turn.withPermit(
          Effect.suspend(() => this.#write(changes)).pipe(
            Effect.provideService(transactionService, [connection, 0]),
            Effect.onExit((exit) => Effect.sync(() => this.#end(exit)))
          )
        )))
    return Effect.andThen(committed, this.#prune).pipe(
      asStoreError("commit", this.name),
      // Whoever asks for it, a commit is no part of a transaction of the program.
      Effect.updateContext((context: Context.Context<never>) => Context.omit(transactionService)(context))
    )
  }

  readonly transaction: OpenStore["transaction"] = <A, E, R>(
    changes: ReadonlyArray<Change>,
    effect: Effect.Effect<A, E, R>
  ): Effect.Effect<A, E | SessionStoreError, R> =>
    Effect.flatMap(Effect.serviceOption(this.#sql.transactionService), (outer) => {
      if (Option.isSome(outer)) {
        const error = new Error("it would be part of a transaction that is under way, and end with that")
        return Effect.fail(toStoreError(error, "transaction", this.name))
      }
      let failure: Cause.Cause<E> | undefined
      const failing = Effect.catchCause(effect, (cause) => {
        failure = cause
        return Effect.fail(new Failed())
      })
      return Effect.catchCause(
        this.#transact(changes, failing),
        (cause): Effect.Effect<never, E | SessionStoreError> =>
          failure === undefined
            ? asStoreError("transaction", this.name)(Effect.failCause(cause))
            : Effect.failCause(failure)
      )
    })

  /** Runs an effect in a transaction, and then takes the turn, which is held until the transaction is committed. */
  #transact<A, E, R>(
    changes: ReadonlyArray<Change>,
    effect: Effect.Effect<A, E, R>
  ): Effect.Effect<A, E | SqlError | SessionStoreError, R> {
    return Effect.scopedWith((scope) => {
      let isWriting = false
      const write = Effect.suspend(() => {
        isWriting = true
        return this.#write(changes)
      })
      const body = Effect.flatMap(effect, (value) =>
        Effect.map(
          Effect.andThen(Scope.provide(this.#turn.takeScoped(1), scope), write),
          (written) => ({ value, written })
        ))
      return Effect.uninterruptibleMask((restore) =>
        Effect.map(
          Effect.onExit(this.#sql.withTransaction(restore(body)), (exit) =>
            Effect.sync(() => {
              if (isWriting) this.#end(Exit.map(exit, ({ written }) => written))
            })),
          ({ value }) => value
        )
      )
    })
  }

  /** What is known here follows the database; if that does not tell, it is asked before the next write. */
  #end(exit: Exit.Exit<Written, unknown>): void {
    if (exit._tag === "Failure") {
      this.#isUncertain = true
      return
    }
    const { asideBytes, batch } = exit.value
    batch.applyToState()
    this.#asideBytes = asideBytes
    this.#lastOutcome += batch.outcomes.size
    this.#outcomesSincePrune += batch.outcomes.size
  }

  /** Writes a batch, and gives what is to be done once it is committed. */
  #write(changes: ReadonlyArray<Change>): Effect.Effect<Written, SqlError | SessionStoreError> {
    return Effect.gen({ self: this }, function*() {
      if (this.#isUncertain) yield* this.#refresh()
      const batch = new StoreBatch(this.#state, changes)
      const asideBytes = batch.aside.size === 0 ? this.#asideBytes : yield* this.#writeMessages(batch)
      const now = yield* Clock.currentTimeMillis
      batch.beginCommit()
      const rows = yield* run(this.#sql, Statements.write(this.#writer, batch, this.#lastOutcome, now))
      if (rows.length === 0) {
        return yield* new SessionStoreError({
          operation: "commit",
          kind: "locked",
          store: this.name,
          detail: "its connection was lost, and another client took it over"
        })
      }
      return { batch, asideBytes }
    })
  }

  /** The bytes that are put aside then. */
  #writeMessages(batch: StoreBatch): Effect.Effect<number, SqlError | SessionStoreError> {
    return Effect.gen({ self: this }, function*() {
      const { bytes, put, take } = Statements.writeMessages(this.#writer, batch)
      const rows = yield* run(this.#sql, take)
      const left = this.#asideBytes - Number(rows[0]?.["bytes"])
      const { maxPutAsideBytes } = this.#settings
      if (left + bytes > Math.max(maxPutAsideBytes, this.#asideBytes)) {
        return yield* new SessionStoreError({
          operation: "commit",
          kind: "full",
          store: this.name,
          detail: `more than ${maxPutAsideBytes} bytes would be put aside`
        })
      }
      yield* run(this.#sql, put)
      return left + bytes
    })
  }

  #refresh(): Effect.Effect<void, SqlError> {
    return Effect.gen({ self: this }, function*() {
      // Waits for a write of ours that is still under way.
      yield* this.#sql.unsafe("SELECT id FROM mqtt_store WHERE id = $1::integer FOR UPDATE", [this.#writer.store])
      const stored = yield* load(this.#sql, this.#writer.store)
      this.#state = initialState(stored)
      this.#asideBytes = 0
      for (const { bytes } of stored.queues) this.#asideBytes += bytes
      this.#lastOutcome = yield* lastOutcomeOf(this.#sql, this.#writer.store)
      this.#isUncertain = false
    })
  }

  /** What is not pruned now is pruned the next time. */
  readonly #prune: Effect.Effect<void> = Effect.suspend(() => {
    if (this.#outcomesSincePrune < pruneEvery) return Effect.void
    this.#outcomesSincePrune = 0
    const { maxOutcomes, outcomeRetentionMillis } = this.#settings
    const { store } = this.#writer
    return Effect.clockWith((clock) => {
      const before = clock.currentTimeMillisUnsafe() - outcomeRetentionMillis
      const query = Statements.pruneOutcomes(store, before, this.#lastOutcome - maxOutcomes, pruneAtMost)
      return Effect.ignore(run(this.#sql, query))
    })
  })

  readonly outcome: OpenStore["outcome"] = (id) =>
    Effect.gen({ self: this }, function*() {
      const { store } = this.#writer
      const rows = yield* this.#sql.unsafe<Row>(
        "SELECT id, ordinal, record FROM mqtt_outcome WHERE store = $1::integer AND id = $2::text",
        [store, id]
      )
      const row = rows[0]
      if (row === undefined) return undefined
      const outcome = StoredRecord.decodeOutcome(id, row["record"])
      if (Result.isSuccess(outcome)) return outcome.success
      // There was an outcome, so it must not look as if there had been no publish.
      const unknown: StoredOutcome = { _tag: "Unknown" }
      yield* this.#quarantine(badRow("outcome", row, id, outcome.failure))
      yield* this.#sql.unsafe(
        `INSERT INTO mqtt_outcome (store, id, ordinal, settled_at, record)
         VALUES ($1::integer, $2::text, $3::bigint, $4::bigint, $5::bytea)`,
        [
          store,
          id,
          String(row["ordinal"]),
          yield* Clock.currentTimeMillis,
          new Uint8Array(StoredRecord.encodeOutcome(id, unknown))
        ]
      )
      return unknown
    }).pipe(asStoreError("read", this.name))

  readonly putAside: OpenStore["putAside"] = (queue, after, limit) =>
    Effect.gen({ self: this }, function*() {
      const messages: Array<StoredMessage> = []
      let last = after
      while (messages.length < limit) {
        const rows: ReadonlyArray<Row> = yield* this.#sql.unsafe<Row>(
          `SELECT queue, sequence, bytes, record FROM mqtt_aside
           WHERE store = $1::integer AND queue = $2::text AND sequence > $3::bigint
           ORDER BY sequence LIMIT $4::integer`,
          [this.#writer.store, queue, last, limit - messages.length]
        )
        if (rows.length === 0) break
        for (const row of rows) {
          last = Number(row["sequence"])
          const message = readMessage(queue, row)
          if (Result.isSuccess(message)) messages.push(message.success)
          else yield* this.#quarantine(message.failure)
        }
      }
      return messages
    }).pipe(asStoreError("read", this.name))

  #quarantine(row: BadRow): Effect.Effect<void, SqlError> {
    return Effect.flatMap(Clock.currentTimeMillis, (now) =>
      Effect.andThen(
        run(this.#sql, quarantineOf(this.#writer.store, row, now)),
        Effect.logWarning(
          `the session store ${this.name} has an entry that cannot be read: ${row.table} ${row.key}: ${row.problem}`
        )
      ))
  }
}

// ---------------------------------------------------------------------------
// constructors
// ---------------------------------------------------------------------------

const lastOutcomeOf = (sql: SqlClient.SqlClient, store: number): Effect.Effect<number, SqlError> =>
  Effect.map(
    sql.unsafe<Row>("SELECT max(ordinal) AS ordinal FROM mqtt_outcome WHERE store = $1::integer", [store]),
    (rows) => safeInteger(rows[0]?.["ordinal"]) ?? 0
  )

const open = (
  sql: SqlClient.SqlClient,
  settings: SqlSettings
): Effect.Effect<OpenStore, SqlError | SessionStoreError, Scope.Scope> =>
  Effect.gen(function*() {
    const { name } = settings
    const dialect = sql.onDialectOrElse({ pg: () => "pg", orElse: () => "another" })
    if (dialect !== "pg") {
      return yield* new SessionStoreError({
        operation: "open",
        kind: "incompatible",
        store: name,
        detail: `it needs PostgreSQL, and the client is for another database (${sql.driver})`
      })
    }
    yield* migrate(sql, name)
    yield* sql.unsafe("INSERT INTO mqtt_store (name) VALUES ($1::text) ON CONFLICT (name) DO NOTHING", [name])
    const ids = yield* sql.unsafe<Row>("SELECT id FROM mqtt_store WHERE name = $1::text", [name])
    const store = Number(ids[0]?.["id"])
    yield* lock(sql, store, name)
    // Whoever had the store before can write no more, even if it does not know yet that it lost its connection.
    const owners = yield* sql.unsafe<Row>(
      "UPDATE mqtt_store SET owner = owner + 1 WHERE id = $1::integer RETURNING owner::text AS owner",
      [store]
    )
    const writer: Writer = { store, owner: String(owners[0]?.["owner"]) }
    return new SqlStore(sql, settings, writer, yield* load(sql, store), yield* lastOutcomeOf(sql, store))
  })

/**
 * A session store in the database of a `SqlClient`; see `layerSql`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeSql = (
  options: SqlOptions = {}
): Effect.Effect<SessionStoreService, InvalidOptions, SqlClient.SqlClient> =>
  Effect.gen(function*() {
    const settings = yield* Effect.fromResult(resolveSql(options))
    const sql = (yield* SqlClient.SqlClient).withoutTransforms()
    return { open: asStoreError("open", settings.name)(open(sql, settings)) }
  })

/**
 * A session store in the database of the program's `SqlClient`, which is PostgreSQL (`@effect/sql-pg`).
 *
 * **Details**
 *
 * Many clients share a database, each with a `name` of its own. The tables begin with `mqtt_` and are made when a store is
 * opened for the first time, in the schema that comes first on the search path.
 *
 * An open store holds one connection of the pool, whose server-side lock keeps others out (`locked`): the lock ends with
 * that connection, and so with the process. The pool needs at least three connections. If the connection is lost alone, the
 * store stays usable until another client takes it over; from then on it fails with `locked`.
 *
 * The store's transaction is one of the same `SqlClient`: statements that a handler runs through it are committed with the
 * changes of the session, or not at all. Commits of the client do not wait for it.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerSql = (options: SqlOptions = {}): Layer.Layer<never, InvalidOptions, SqlClient.SqlClient> =>
  Layer.effect(SessionStore, makeSql(options))
