/**
 * The SQLite file of a session store: its lock, its connection, and the handle through which a program keeps rows of its own
 * in the same file.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { realpathSync } from "node:fs"
import { basename, dirname, join, resolve } from "node:path"
import type { DatabaseSync, StatementSync } from "node:sqlite"
import { SessionStoreError } from "../../services/SessionStore.ts"

// ---------------------------------------------------------------------------
// the handle
// ---------------------------------------------------------------------------

/**
 * What a column of SQLite holds.
 *
 * @category models
 * @since 0.1.0
 */
export type SqliteValue = null | number | bigint | string | Uint8Array

/**
 * A row, by the names of its columns.
 *
 * @category models
 * @since 0.1.0
 */
export type SqliteRow = Readonly<Record<string, SqliteValue>>

/**
 * A statement failed. `code` is the extended result code of SQLite (19 and 256 × n + 19 for a broken constraint), or 0 if the
 * statement did not reach it.
 *
 * @category errors
 * @since 0.1.0
 */
export class SqliteError extends Schema.TaggedError<SqliteError>()("SqliteError", {
  code: Schema.Number,
  sql: Schema.String,
  detail: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    return `${this.detail} (SQLite ${this.code}) in: ${this.sql}`
  }
}

/**
 * @category models
 * @since 0.1.0
 */
export interface SqliteDatabaseService {
  /** Runs one statement, and gives the number of rows it changed. */
  readonly run: (sql: string, ...values: ReadonlyArray<SqliteValue>) => Effect.Effect<number, SqliteError>
  /** All rows of a query. */
  readonly all: (
    sql: string,
    ...values: ReadonlyArray<SqliteValue>
  ) => Effect.Effect<ReadonlyArray<SqliteRow>, SqliteError>
  /** The first row of a query, if there is one. */
  readonly get: (
    sql: string,
    ...values: ReadonlyArray<SqliteValue>
  ) => Effect.Effect<SqliteRow | undefined, SqliteError>
  /** Runs a script of several statements, for example one that creates tables. */
  readonly exec: (sql: string) => Effect.Effect<void, SqliteError>
}

/**
 * The database of a session store, for rows of your own in the same file. `layerSqlite` provides it.
 *
 * **Details**
 *
 * In an effect that runs in the store's transaction, statements belong to that transaction. Anywhere else each one is a
 * transaction of its own, and waits for one that is under way.
 *
 * Statements run on the thread of the program and hold it up while they do: keep them short. Prepared statements are kept for
 * the next time, so give values as parameters and not as text.
 *
 * **Gotchas**
 *
 * BEGIN, COMMIT, END and ROLLBACK are the store's and are refused; SAVEPOINT is yours. Tables whose names begin with `mqtt_`
 * belong to the store: read them, if you like, and change nothing in them. Do not change `journal_mode`, `locking_mode`,
 * `application_id` or `user_version`.
 *
 * @category services
 * @since 0.1.0
 */
export class SqliteDatabase extends Context.Service<SqliteDatabase, SqliteDatabaseService>()(
  "effect-mqtt/layers/SqliteDatabase"
) {}

// ---------------------------------------------------------------------------
// errors
// ---------------------------------------------------------------------------

/** The extended result code of an error of SQLite, or 0. */
const codeOf = (error: unknown): number =>
  error instanceof Error && "errcode" in error && typeof error.errcode === "number" ? error.errcode : 0

const textOf = (error: unknown): string => error instanceof Error ? error.message : String(error)

const kindOf = (code: number, operation: SessionStoreError["operation"]): SessionStoreError["kind"] => {
  // A shared memory file that cannot grow is an I/O error to SQLite (SQLITE_IOERR_SHMSIZE).
  if (code === 4874) return "full"
  // The low byte is the result code, what is above it is a detail.
  switch (code & 0xff) {
    case 5:
    case 6:
      return operation === "open" ? "locked" : "unavailable"
    case 8:
    case 10:
    case 14:
    case 23:
      return "unavailable"
    case 11:
      return "corrupt"
    case 13:
      return "full"
    case 26:
      return "incompatible"
    default:
      return "other"
  }
}

/** What the operating system said of a path that could not be looked up. */
const kindOfPath = (error: unknown): SessionStoreError["kind"] =>
  error instanceof Error && "syscall" in error ? "unavailable" : "other"

/** An error of SQLite, or any other, as one of the store. */
export const toStoreError = (
  error: unknown,
  operation: SessionStoreError["operation"],
  store: string
): SessionStoreError =>
  error instanceof SessionStoreError
    ? error
    : new SessionStoreError({
      operation,
      kind: codeOf(error) === 0 ? kindOfPath(error) : kindOf(codeOf(error), operation),
      store,
      detail: textOf(error),
      cause: error
    })

// ---------------------------------------------------------------------------
// the file
// ---------------------------------------------------------------------------

/** Begun by a store for the effect that it runs: whoever holds it is in the transaction, as long as that is open. */
interface Transaction {
  readonly file: SqliteFile
  open: boolean
}

const CurrentTransaction: Context.Reference<Transaction | undefined> = Context.Reference<Transaction | undefined>(
  "effect-mqtt/layers/SqliteDatabase/CurrentTransaction",
  { defaultValue: () => undefined }
)

/** `node:sqlite` warns on some versions of Node when it is loaded, so that is left for those who use it. */
const sqlite = () => process.getBuiltinModule("node:sqlite")

/** The one path of a file, so that a link to it does not make a second lock. */
const truePath = (filename: string): string => {
  const path = resolve(filename)
  try {
    return realpathSync(path)
  } catch {
    return join(realpathSync(dirname(path)), basename(path))
  }
}

/**
 * Takes the lock of a file. It is one of the operating system, held through SQLite upon an empty file beside the database, so
 * that it ends with the process, however that ends, and other programs may still read the database.
 */
const lock = (path: string, store: string): DatabaseSync => {
  const database = new (sqlite().DatabaseSync)(`${path}-lock`, { timeout: 0 })
  try {
    database.exec("BEGIN EXCLUSIVE")
    return database
  } catch (error) {
    database.close()
    if ((codeOf(error) & 0xff) !== 5) throw error
    throw new SessionStoreError({
      operation: "open",
      kind: "locked",
      store,
      detail: "another client or process uses it",
      cause: error
    })
  }
}

/** How many prepared statements of the program are kept. */
const keptStatements = 100

/** How long a statement waits for another process that writes to the file; the thread waits with it. */
const busyTimeout = 1_000

const transactionControl = /^\s*(begin|commit|end|rollback(?!\s+(transaction\s+)?to\b))\b/i

/** Writes, and gives what is to be done once it is committed. */
export type Write = () => () => void

/** A locked and open file. */
export class SqliteFile {
  readonly name: string
  readonly database: DatabaseSync
  readonly #lock: DatabaseSync
  /** Held by whoever uses the connection for more than one statement. */
  readonly #turn = Semaphore.makeUnsafe(1)
  readonly #statements = new Map<string, StatementSync>()
  readonly #begin: StatementSync
  readonly #commit: StatementSync
  readonly #rollback: StatementSync

  constructor(filename: string) {
    this.name = filename
    const path = truePath(filename)
    this.#lock = lock(path, filename)
    try {
      this.database = new (sqlite().DatabaseSync)(path, { timeout: busyTimeout })
      this.#begin = this.database.prepare("BEGIN IMMEDIATE")
      this.#commit = this.database.prepare("COMMIT")
      this.#rollback = this.database.prepare("ROLLBACK")
    } catch (error) {
      this.#lock.close()
      throw error
    }
  }

  /** A file that is open as long as its scope; `prepare` makes it fit for use. */
  static open(
    filename: string,
    prepare: (file: SqliteFile) => void
  ): Effect.Effect<SqliteFile, SessionStoreError, Scope.Scope> {
    return Effect.flatMap(Effect.scope, (scope) =>
      Effect.suspend(() => {
        let file: SqliteFile | undefined
        try {
          const opened = file = new SqliteFile(filename)
          prepare(opened)
          return Effect.as(Scope.addFinalizer(scope, Effect.sync(() => opened.close())), opened)
        } catch (error) {
          file?.close()
          return Effect.fail(toStoreError(error, "open", filename))
        }
      }))
  }

  close(): void {
    try {
      // What a closed file leaves open is rolled back by SQLite.
      this.database.close()
    } finally {
      this.#lock.close()
    }
  }

  /** The error of a file that is closed is not one of SQLite. */
  #ensureOpen(): void {
    if (!this.database.isOpen) throw new Error("it is closed")
  }

  fail(error: unknown, operation: SessionStoreError["operation"]): Effect.Effect<never, SessionStoreError> {
    return Effect.fail(toStoreError(error, operation, this.name))
  }

  /** Runs `write` in a transaction, which a throw undoes, and then what it returned. */
  inTransaction(write: Write): void {
    this.#ensureOpen()
    this.#begin.run()
    let committed: () => void
    try {
      committed = write()
      this.#commit.run()
    } catch (error) {
      this.#undo()
      throw error
    }
    committed()
  }

  #undo(): void {
    // Some failures, such as a full disk, have rolled back already.
    if (this.database.isTransaction) this.#rollback.run()
  }

  /** Waits for the connection, and runs `write` in a transaction. */
  commit(write: Write, operation: SessionStoreError["operation"]): Effect.Effect<void, SessionStoreError> {
    return this.#alone(
      operation,
      Effect.suspend(() => {
        try {
          this.inTransaction(write)
          return Effect.void
        } catch (error) {
          return this.fail(error, operation)
        }
      })
    )
  }

  /** Waits for the connection, and runs `effect`, then `write`, in a transaction. */
  transaction<A, E, R>(
    write: Write,
    effect: Effect.Effect<A, E, R>
  ): Effect.Effect<A, E | SessionStoreError, R> {
    const run = Effect.uninterruptibleMask((restore) =>
      Effect.suspend((): Effect.Effect<A, E | SessionStoreError, R> => {
        const transaction: Transaction = { file: this, open: true }
        try {
          this.#ensureOpen()
          this.#begin.run()
        } catch (error) {
          return this.fail(error, "transaction")
        }
        return Effect.flatMap(
          Effect.exit<A, E, R>(restore(Effect.provideService(effect, CurrentTransaction, transaction))),
          (exit): Effect.Effect<A, E | SessionStoreError> => {
            transaction.open = false
            try {
              if (exit._tag === "Failure") {
                this.#undo()
                return exit
              }
              if (!this.database.isTransaction) {
                return this.fail(new Error("the effect ended the transaction by a statement of its own"), "transaction")
              }
              const committed = write()
              this.#commit.run()
              committed()
              return exit
            } catch (error) {
              this.#undo()
              return this.fail(error, "transaction")
            }
          }
        )
      })
    )
    return this.#alone("transaction", run)
  }

  /** One after the other; what is in a transaction already would wait for itself. */
  #alone<A, E, R>(
    operation: SessionStoreError["operation"],
    effect: Effect.Effect<A, E, R>
  ): Effect.Effect<A, E | SessionStoreError, R> {
    return Effect.withFiber<A, E | SessionStoreError, R>((fiber) =>
      this.#isOf(fiber.getRef(CurrentTransaction))
        ? this.fail(new Error("a transaction of this store is under way in the same fiber"), operation)
        : Effect.uninterruptibleMask((restore) =>
          // Whoever waits can go: nothing is begun, and what is under way may take long.
          Effect.flatMap(
            Effect.interruptible(this.#turn.take(1)),
            () => Effect.ensuring(restore(effect), this.#turn.release(1))
          )
        )
    )
  }

  #isOf(transaction: Transaction | undefined): boolean {
    return transaction !== undefined && transaction.file === this && transaction.open
  }

  /** The handle of the program that uses the store. */
  readonly handle: SqliteDatabaseService = {
    run: (sql, ...values) => this.#statement(sql, (statement) => Number(statement.run(...values).changes)),
    all: (sql, ...values) =>
      this.#statement(sql, (statement) => statement.all(...values) as unknown as ReadonlyArray<SqliteRow>),
    get: (sql, ...values) =>
      this.#statement(sql, (statement) => statement.get(...values) as unknown as SqliteRow | undefined),
    exec: (sql) => this.#use(sql, () => this.database.exec(sql))
  }

  #statement<A>(sql: string, use: (statement: StatementSync) => A): Effect.Effect<A, SqliteError> {
    return this.#use(sql, () => use(this.#prepared(sql)))
  }

  #prepared(sql: string): StatementSync {
    const known = this.#statements.get(sql)
    if (known !== undefined) return known
    const statement = this.database.prepare(sql)
    // All of them go at once: a program with more than these makes its SQL from values, which no cache helps.
    if (this.#statements.size >= keptStatements) this.#statements.clear()
    this.#statements.set(sql, statement)
    return statement
  }

  #use<A>(sql: string, use: () => A): Effect.Effect<A, SqliteError> {
    return Effect.withFiber<A, SqliteError>((fiber) => {
      const isInTransaction = this.#isOf(fiber.getRef(CurrentTransaction))
      const evaluate = Effect.suspend(() => {
        try {
          if (transactionControl.test(sql)) throw new Error("transactions are the store's to begin and to end")
          return Effect.succeed(use())
        } catch (cause) {
          return Effect.fail(new SqliteError({ code: codeOf(cause), sql, detail: textOf(cause), cause }))
        }
      })
      return isInTransaction ? evaluate : this.#turn.withPermit(evaluate)
    })
  }
}
