import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Scope } from "effect"
import * as SqlClient from "effect/sql/SqlClient"
import type { ChildProcess } from "node:child_process"
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { makeSql, migrate } from "../../src/layers/store/SqlSessionStore.ts"
import { migrations } from "../../src/layers/store/SqlStoreStatements.ts"
import type { SqlOptions } from "../../src/layers/store/SqlSessionStore.ts"
import type { Change } from "../../src/services/SessionStore.ts"
import { behavesAsStore } from "../support/SessionStoreSuite.ts"
import { messageOf, published, putAside, settled } from "../support/StoreChanges.ts"
import * as Postgres from "./support/Postgres.ts"

const program = fileURLToPath(new URL("support/SqlStoreProcess.ts", import.meta.url))

let postgres: Postgres.Postgres
const scope = Effect.runSync(Scope.make())

beforeAll(async () => {
  postgres = await Effect.runPromise(Scope.provide(Postgres.make, scope))
  await Effect.runPromise(
    Effect.scoped(Effect.flatMap(client, (sql) => sql`CREATE TABLE batches (name text, first bigint)`))
  )
})

afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

/** A pool of its own, for as long as the scope. */
const client = Effect.suspend(() =>
  Effect.map(Layer.build(postgres.client()), (context) => Context.get(context, SqlClient.SqlClient))
)

let names = 0
const freshName = () => `store ${++names}`

const storeOf = (options: SqlOptions, sql: SqlClient.SqlClient) =>
  makeSql(options).pipe(
    Effect.provideService(SqlClient.SqlClient, sql),
    // Options that are not valid are a mistake of the test.
    Effect.catchTag("InvalidOptions", Effect.die)
  )

/** Opens a store as a program that starts now, with its client. */
const opened = (name: string, options: SqlOptions = {}) =>
  Effect.gen(function*() {
    const sql = yield* client
    const { open } = yield* storeOf({ ...options, name }, sql)
    return { sql, store: yield* open }
  })

const tamper = (text: string) => Effect.scoped(Effect.flatMap(client, (sql) => sql.unsafe(text)))

const run = (args: ReadonlyArray<string>, onLine: (line: string, child: ChildProcess) => void) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn(process.execPath, [program, postgres.host, ...args], { stdio: ["ignore", "pipe", "inherit"] })
      let rest = ""
      child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
        const lines = (rest + chunk).split("\n")
        rest = lines.pop()!
        for (const line of lines) onLine(line, child)
      })
      return child
    }),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )

const ended = (child: ChildProcess) =>
  Effect.callback<void>((resume) => {
    if (child.exitCode !== null || child.signalCode !== null) resume(Effect.void)
    else child.once("close", () => resume(Effect.void))
  })

/** The server notices the end of a process on its own time, so the lock is asked for until it is free. */
const openedOnceFree = (name: string) =>
  Effect.retry(opened(name), { while: (error) => error.kind === "locked", times: 500 })

const ten: ReadonlyArray<Change> = Array.from({ length: 10 }, (_, i) => published(i + 1))

describe("SqlSessionStore on PostgreSQL", () => {
  behavesAsStore(
    Effect.sync(() => {
      const name = freshName()
      return { store: Effect.flatMap(client, (sql) => storeOf({ name }, sql)) }
    }),
    { programs: 20, isSerial: false }
  )

  it.live("keeps stores of different names apart", () =>
    Effect.gen(function*() {
      const [one, other] = [freshName(), freshName()]
      const a = yield* opened(one)
      const b = yield* opened(other)
      yield* a.store.commit([published(1), settled(2, "x"), putAside("q", 1), { _tag: "Received", packetId: 3 }])
      yield* b.store.commit([published(7), { _tag: "SessionEnded" }])
      assert.isUndefined(yield* b.store.outcome("x"))
      assert.deepStrictEqual(yield* b.store.putAside("q", 0, 9), [])
      assert.deepStrictEqual(yield* a.store.putAside("q", 0, 9), [messageOf(1)])
      const rows = yield* a.sql`SELECT sequence::text FROM mqtt_publish p JOIN mqtt_store s ON s.id = p.store
        WHERE s.name = ${one}`
      assert.deepStrictEqual(rows, [{ sequence: "1" }])
    }))

  it.live("commits the rows of the program with the changes, or neither", () =>
    Effect.gen(function*() {
      const name = freshName()
      yield* tamper("CREATE TABLE orders (id text PRIMARY KEY)")
      yield* Effect.scoped(Effect.gen(function*() {
        const { sql, store } = yield* opened(name)
        const insert = (id: string) => sql`INSERT INTO orders (id) VALUES (${id})`
        yield* store.transaction([published(1)], insert("a"))
        const failed = yield* Effect.exit(
          store.transaction([published(2)], Effect.andThen(insert("b"), Effect.fail("no")))
        )
        assert.deepStrictEqual(failed, Exit.fail("no"))
        // An error of the program's own statement stays what it is.
        const error = yield* Effect.flip(store.transaction([published(3)], insert("a")))
        assert.strictEqual(error._tag === "SqlError" && error.reason._tag, "UniqueViolation")
        // One that is caught has nevertheless ended the transaction of the server.
        const caught = yield* Effect.flip(store.transaction([published(4)], Effect.ignore(insert("a"))))
        assert.strictEqual(caught._tag, "SessionStoreError")
        yield* store.commit([published(5)])
      }))
      yield* Effect.scoped(Effect.gen(function*() {
        const { sql, store } = yield* opened(name)
        assert.deepStrictEqual(store.stored.publishes.map(({ sequence }) => sequence), [1, 5])
        assert.strictEqual(store.stored.lastSequence, 5)
        assert.deepStrictEqual(yield* sql`SELECT id FROM orders`, [{ id: "a" }])
      }))
    }))

  it.live("commits while a transaction of the program is under way", () =>
    Effect.gen(function*() {
      const { sql, store } = yield* opened(freshName())
      const begun = yield* Deferred.make<void>()
      const end = yield* Deferred.make<void>()
      const transaction = yield* Effect.forkChild(store.transaction(
        [published(1)],
        Effect.gen(function*() {
          yield* sql`SELECT 1`
          yield* Deferred.succeed(begun, undefined)
          yield* Deferred.await(end)
        })
      ))
      yield* Deferred.await(begun)
      yield* store.commit([published(2)])
      yield* Deferred.succeed(end, undefined)
      yield* Fiber.join(transaction)
      // What the program has begun by itself is not the place for one that must stand on its own.
      const nested = yield* Effect.flip(sql.withTransaction(store.transaction([published(3)], Effect.void)))
      assert.strictEqual(nested._tag, "SessionStoreError")
      const outer = sql.withTransaction(Effect.andThen(store.commit([published(4)]), Effect.fail("undone")))
      assert.strictEqual(yield* Effect.flip(outer), "undone")
      const rows = yield* sql`SELECT sequence::text FROM mqtt_publish p JOIN mqtt_store s ON s.id = p.store
        WHERE s.name = ${store.name} ORDER BY sequence`
      assert.deepStrictEqual(rows.map(({ sequence }) => sequence), ["1", "2", "4"])
    }))

  it.live("goes on when transactions and commits have all connections of the pool", () =>
    Effect.gen(function*() {
      const sql = yield* Effect.map(
        Layer.build(postgres.client({ maxConnections: 3 })),
        (context) => Context.get(context, SqlClient.SqlClient)
      )
      const store = yield* (yield* storeOf({ name: freshName() }, sql)).open
      const end = yield* Deferred.make<void>()
      const begun = yield* Effect.forEach([1, 2], () => Deferred.make<void>())
      const transactions = yield* Effect.forEach(begun, (begun, i) =>
        Effect.forkChild(store.transaction(
          [published(i + 1)],
          Effect.andThen(sql`SELECT 1`, Effect.andThen(Deferred.succeed(begun, undefined), Deferred.await(end)))
        )))
      yield* Effect.forEach(begun, (begun) => Deferred.await(begun))
      const commits = yield* Effect.forEach([3, 4], (i) => Effect.forkChild(store.commit([published(i)])))
      yield* Effect.yieldNow
      yield* Deferred.succeed(end, undefined)
      yield* Fiber.joinAll([...transactions, ...commits])
      const rows = yield* sql`SELECT count(*)::integer AS n FROM mqtt_publish p JOIN mqtt_store s ON s.id = p.store
        WHERE s.name = ${store.name}`
      assert.deepStrictEqual(rows, [{ n: 4 }])
    }))

  describe("a kill -9", () => {
    it.live("in the middle of commits loses nothing that was committed and keeps no half of a batch", () =>
      Effect.gen(function*() {
        const name = freshName()
        for (const target of [1, 30, 300]) {
          let said = 0
          const child = yield* run([name], (line, child) => {
            if (line === "open") return
            said = Number(line)
            if (said >= target) child.kill("SIGKILL")
          })
          yield* ended(child)
          yield* Effect.scoped(Effect.gen(function*() {
            const { sql, store } = yield* openedOnceFree(name)
            const { lastSequence, publishes, quarantined } = store.stored
            assert.isAtLeast(lastSequence, said)
            assert.strictEqual(lastSequence % 10, 0)
            assert.deepStrictEqual(quarantined, [])
            assert.deepStrictEqual(
              publishes.map(({ sequence }) => sequence),
              Array.from({ length: lastSequence }, (_, i) => i + 1)
            )
            const batches = yield* sql`SELECT first::integer FROM batches WHERE name = ${name} ORDER BY first`
            assert.deepStrictEqual(
              batches.map(({ first }) => first),
              Array.from({ length: lastSequence / 10 }, (_, i) => i * 10 + 1)
            )
          }))
        }
      }))

    it.live("frees the lock that another process held", () =>
      Effect.gen(function*() {
        const name = freshName()
        const isOpen = yield* Deferred.make<void>()
        const child = yield* run([name, "hold"], () => Deferred.doneUnsafe(isOpen, Effect.void))
        yield* Deferred.await(isOpen)
        assert.strictEqual((yield* Effect.flip(Effect.scoped(opened(name)))).kind, "locked")
        child.kill("SIGKILL")
        yield* ended(child)
        yield* Effect.scoped(openedOnceFree(name))
      }))
  })

  it.live("knows after an interrupted commit what became of it", () =>
    Effect.gen(function*() {
      const name = freshName()
      const isKept = yield* Effect.scoped(Effect.gen(function*() {
        const { sql, store } = yield* opened(name)
        yield* store.commit([published(1)])
        const blocked = yield* Deferred.make<void>()
        const end = yield* Deferred.make<void>()
        const other = yield* Effect.forkChild(sql.withTransaction(Effect.gen(function*() {
          yield* sql`SELECT id FROM mqtt_store WHERE name = ${name} FOR UPDATE`
          yield* Deferred.succeed(blocked, undefined)
          yield* Deferred.await(end)
        })))
        yield* Deferred.await(blocked)
        const commit = yield* Effect.forkChild(store.commit([published(2), { _tag: "Received", packetId: 9 }]))
        // Until the server has it, and waits.
        const waiting = sql`SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'`
        yield* Effect.repeat(waiting, { until: (rows) => rows.length > 0 })
        yield* Fiber.interrupt(commit)
        yield* Deferred.succeed(end, undefined)
        yield* Fiber.join(other)
        yield* store.commit([settled(2), published(3), { _tag: "Completed", packetId: 9 }])
        const rows = yield* sql`SELECT 1 FROM mqtt_inbound i JOIN mqtt_store s ON s.id = i.store WHERE s.name = ${name}`
        return rows.length > 0
      }))
      const stored = yield* Effect.scoped(Effect.map(opened(name), ({ store }) => store.stored))
      assert.deepStrictEqual(stored.publishes.map(({ sequence }) => sequence), [1, 3])
      assert.deepStrictEqual(stored.inbound, isKept ? [{ packetId: 9, received: false, generation: 1 }] : [])
    }))

  describe("a lost connection", () => {
    const dropConnections = tamper(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'`
    )

    it.live("fails typed what it interrupts, and is over with the next one", () =>
      Effect.gen(function*() {
        const name = freshName()
        yield* Effect.scoped(Effect.gen(function*() {
          const { sql, store } = yield* opened(name)
          yield* store.commit([published(1), { _tag: "Received", packetId: 9 }])
          const error = yield* Effect.flip(
            store.transaction([published(2)], Effect.andThen(sql`SELECT 1`, Effect.orDie(dropConnections)))
          )
          assert.strictEqual(error._tag, "SessionStoreError")
          assert.strictEqual(error._tag === "SessionStoreError" && error.kind, "unavailable")
          yield* Effect.retry(store.commit([published(3), { _tag: "Completed", packetId: 9 }]), { times: 5 })
        }))
        const stored = yield* Effect.scoped(Effect.map(opened(name), ({ store }) => store.stored))
        assert.deepStrictEqual(stored.publishes.map(({ sequence }) => sequence), [1, 3])
        assert.deepStrictEqual(stored.inbound, [{ packetId: 9, received: false, generation: 1 }])
      }))

    it.live("of the lock lets another client in, and the first one writes no more", () =>
      Effect.gen(function*() {
        const name = freshName()
        const first = yield* opened(name)
        yield* first.store.commit([published(1)])
        yield* dropConnections
        const second = yield* openedOnceFree(name)
        yield* second.store.commit([settled(1), published(2)])
        const commits: ReadonlyArray<Change> = [published(3)]
        const error = yield* Effect.flip(
          Effect.retry(first.store.commit(commits), { while: (error) => error.kind !== "locked", times: 5 })
        )
        assert.strictEqual(error.kind, "locked")
        assert.isFalse(error.retryable)
        const messages = yield* Effect.flip(first.store.commit([putAside("q", 1)]))
        assert.strictEqual(messages.kind, "locked")
        const transaction = yield* Effect.flip(first.store.transaction(commits, Effect.void))
        assert.strictEqual(transaction.kind, "locked")
        const rows = yield* second.sql`SELECT sequence::text FROM mqtt_publish p JOIN mqtt_store s ON s.id = p.store
          WHERE s.name = ${name}`
        assert.deepStrictEqual(rows, [{ sequence: "2" }])
        assert.deepStrictEqual(yield* second.store.putAside("q", 0, 1), [])
      }))
  })

  describe("an entry that cannot be read", () => {
    it.live("is quarantined, and the others are there", () =>
      Effect.gen(function*() {
        const name = freshName()
        const store = `(SELECT id FROM mqtt_store WHERE name = '${name}')`
        const cases: ReadonlyArray<readonly [sql: string, table: string, key: string]> = [
          [`INSERT INTO mqtt_publish VALUES (${store}, 99, '\\x0102')`, "mqtt_publish", "99"],
          [
            `UPDATE mqtt_publish SET record = set_byte(record, 20, 255) WHERE sequence = 4 AND store = ${store}`,
            "mqtt_publish",
            "4"
          ],
          [
            `INSERT INTO mqtt_publish VALUES (${store}, 9223372036854775807, '')`,
            "mqtt_publish",
            "9223372036854775807"
          ],
          [`INSERT INTO mqtt_inbound VALUES (${store}, 7, '\\x00')`, "mqtt_inbound", "7"],
          [`UPDATE mqtt_store SET session = '\\x00' WHERE name = '${name}'`, "mqtt_state", "session"],
          [`UPDATE mqtt_store SET counter = '\\x00' WHERE name = '${name}'`, "mqtt_state", "lastSequence"],
          [`UPDATE mqtt_aside SET sequence = 9 WHERE sequence = 2 AND store = ${store}`, "mqtt_aside", "q/9"]
        ]
        for (const [sql, table, key] of cases) {
          yield* Effect.scoped(Effect.flatMap(opened(name), ({ store }) =>
            store.commit([
              ...ten,
              { _tag: "SessionBegan", key: "k", epoch: "e" },
              putAside("q", 1),
              putAside("q", 2)
            ])))
          yield* tamper(sql)
          yield* Effect.scoped(Effect.map(opened(name), ({ store }) => {
            assert.deepStrictEqual(
              store.stored.quarantined.map((entry) => [entry.table, entry.key]),
              [[table, key]],
              sql
            )
            assert.isAtLeast(store.stored.publishes.length, 9)
          }))
          // It is reported once.
          yield* Effect.scoped(
            Effect.map(opened(name), ({ store }) => assert.deepStrictEqual(store.stored.quarantined, []))
          )
        }
        const kept = yield* Effect.scoped(
          Effect.flatMap(client, (sql) =>
            sql`SELECT key FROM mqtt_quarantine q JOIN mqtt_store s ON s.id = q.store WHERE s.name = ${name}`)
        )
        assert.lengthOf(kept, cases.length)
      }))

    it.live("is an unknown outcome, or a message that is left out", () =>
      Effect.gen(function*() {
        const { sql, store } = yield* opened(freshName())
        yield* store.commit([settled(1, "a"), putAside("q", 1), putAside("q", 2), putAside("q", 3)])
        const id = (yield* sql<{ id: number }>`SELECT id FROM mqtt_store WHERE name = ${store.name}`)[0]!.id
        yield* sql`UPDATE mqtt_outcome SET record = ${new Uint8Array(3)} WHERE store = ${id}`
        yield* sql`UPDATE mqtt_aside SET record = ${new Uint8Array(3)} WHERE store = ${id} AND sequence = 1`
        for (let turn = 0; turn < 2; turn++) {
          assert.deepStrictEqual(yield* store.outcome("a"), { _tag: "Unknown" })
          assert.deepStrictEqual(yield* store.putAside("q", 0, 2), [messageOf(2), messageOf(3)])
        }
      }))
  })

  it.live("bounds outcomes, and the bytes of what is put aside", () =>
    Effect.gen(function*() {
      const { sql, store } = yield* opened(freshName(), {
        maxOutcomes: 500,
        maxPutAsideBytes: 1_000,
        outcomeRetention: "Infinity"
      })
      for (let first = 1; first < 5_000; first += 500) {
        yield* store.commit(Array.from({ length: 500 }, (_, i) => settled(first + i, `${first + i}`)))
      }
      const rows = yield* sql<{ n: number }>`SELECT count(*)::integer AS n FROM mqtt_outcome o
        JOIN mqtt_store s ON s.id = o.store WHERE s.name = ${store.name}`
      assert.isAtMost(rows[0]!.n, 1_500)
      assert.isUndefined(yield* store.outcome("1"))
      for (const id of ["4501", "5000"]) assert.isDefined(yield* store.outcome(id))

      const large = { payload: new Uint8Array(400) }
      yield* store.commit([putAside("q", 1, large), putAside("q", 2, large)])
      yield* store.commit([putAside("q", 1, large), putAside("q", 2, large)])
      const error = yield* Effect.flip(store.commit([putAside("q", 3, large), published(1)]))
      assert.strictEqual(error.kind, "full")
      yield* store.commit([{ _tag: "TakenUp", queue: "q", sequence: 1 }, putAside("q", 3, large)])
      assert.deepStrictEqual((yield* store.putAside("q", 0, 9)).map(({ sequence }) => sequence), [2, 3])
    }))

  describe("the tables", () => {
    /** A schema of its own is to a store what a database is. */
    const inSchema = (schema: string) =>
      Effect.gen(function*() {
        const sql = yield* client
        yield* sql.unsafe(`CREATE SCHEMA IF NOT EXISTS ${schema}`)
        return sql
      })

    it.live("are brought up to date in one transaction, and are not used when they are newer", () =>
      Effect.gen(function*() {
        const sql = yield* inSchema("newer")
        const inside = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
          sql.withTransaction(Effect.andThen(sql.unsafe("SET LOCAL search_path = newer"), effect))
        yield* inside(migrate(sql, "s"))
        const next = ["CREATE TABLE later (a integer)", "INSERT INTO later VALUES (1)"]
        const broken = yield* Effect.exit(inside(migrate(sql, "s", [...migrations, next, ["broken"]])))
        assert.isTrue(Exit.isFailure(broken))
        yield* inside(migrate(sql, "s", [...migrations, next]))
        const rows = yield* inside(sql`SELECT version, a FROM mqtt_schema, later`)
        assert.deepStrictEqual(rows, [{ version: 2, a: 1 }])
        const error = yield* Effect.flip(inside(migrate(sql, "s")))
        assert.strictEqual(error._tag === "SessionStoreError" && error.kind, "incompatible")
      }))

    it.live("of another program under the same names are incompatible", () =>
      Effect.gen(function*() {
        yield* tamper("CREATE DATABASE foreign_tables")
        const sql = yield* Effect.map(
          Layer.build(postgres.client({ database: "foreign_tables" })),
          (context) => Context.get(context, SqlClient.SqlClient)
        )
        yield* sql`CREATE TABLE mqtt_publish (theirs text)`
        const { open } = yield* storeOf({}, sql)
        const error = yield* Effect.flip(Effect.scoped(open))
        assert.strictEqual(error.kind, "incompatible")
        assert.deepStrictEqual(yield* sql`SELECT to_regclass('mqtt_schema')::text AS name`, [{ name: null }])
      }))
  })

  it.live("is unavailable without a server", () =>
    Effect.gen(function*() {
      const own = yield* Postgres.make
      const sql = yield* Effect.map(Layer.build(own.client()), (context) => Context.get(context, SqlClient.SqlClient))
      const { open } = yield* storeOf({}, sql)
      const store = yield* open
      yield* store.commit([published(1)])
      yield* own.stop
      assert.strictEqual((yield* Effect.flip(store.commit([published(2)]))).kind, "unavailable")
      assert.strictEqual((yield* Effect.flip(store.outcome("a"))).kind, "unavailable")
      assert.strictEqual((yield* Effect.flip(Effect.scoped(open))).kind, "unavailable")
    }))

  it.live("checks its options", () =>
    Effect.gen(function*() {
      const sql = yield* client
      for (const [options, option] of [[{ name: "" }, "name"], [{ other: 1 }, "other"]] as const) {
        const store = makeSql(options as SqlOptions)
        const error = yield* Effect.flip(Effect.provideService(store, SqlClient.SqlClient, sql))
        assert.strictEqual(error._tag === "InvalidOptions" && error.option, option)
      }
    }))
})
