import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber } from "effect"
import type { ChildProcess } from "node:child_process"
import { execFileSync, spawn } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { fileURLToPath } from "node:url"
import { SqliteFile } from "../../../src/layers/store/SqliteDatabase.ts"
import { makeSqlite, migrations, prepare } from "../../../src/layers/store/SqliteSessionStore.ts"
import type { Change } from "../../../src/services/SessionStore.ts"
import { behavesAsStore } from "../../support/SessionStoreSuite.ts"
import * as SqliteFiles from "../../support/SqliteFiles.ts"
import { messageOf, published, settled } from "../../support/StoreChanges.ts"

const program = fileURLToPath(new URL("../../support/StoreProcess.ts", import.meta.url))

/** Runs the program, which goes with the scope, and gives its lines to `onLine`. */
const run = (args: ReadonlyArray<string>, onLine: (line: string, child: ChildProcess) => void) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn(process.execPath, [program, ...args], { stdio: ["ignore", "pipe", "inherit"] })
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

/** Opens the file, with the handle of its database. */
const opened = (filename: string, options?: Parameters<typeof SqliteFiles.storeOf>[1]) =>
  Effect.gen(function*() {
    const { database, store } = yield* SqliteFiles.storeOf(filename, options)
    return { database, store: yield* store.open }
  })

/** Changes the file behind the back of the store. */
const tamper = (filename: string, sql: string) =>
  Effect.sync(() => {
    const database = new DatabaseSync(filename)
    database.exec(sql)
    database.close()
  })

const kindOf = (filename: string) => Effect.map(Effect.flip(Effect.scoped(opened(filename))), ({ kind }) => kind)

const ten: ReadonlyArray<Change> = Array.from({ length: 10 }, (_, i) => published(i + 1))

describe("SqliteSessionStore", () => {
  behavesAsStore(SqliteFiles.place, { programs: 60, isSerial: true })

  describe("a kill -9", () => {
    it.live(
      "in the middle of commits loses nothing that was committed and keeps no half of a batch",
      () =>
        Effect.gen(function*() {
          const { filename } = yield* SqliteFiles.place
          let rounds = 0
          for (const target of [1, 30, 300, 900]) {
            let said = 0
            const child = yield* run([filename], (line, child) => {
              if (line === "open") return
              said = Number(line)
              if (said >= target) child.kill("SIGKILL")
            })
            yield* ended(child)
            yield* Effect.scoped(Effect.gen(function*() {
              const { database, store } = yield* opened(filename)
              const { lastSequence, publishes, quarantined } = store.stored
              assert.isAtLeast(lastSequence, said)
              assert.strictEqual(lastSequence % 10, 0)
              assert.deepStrictEqual(quarantined, [])
              assert.deepStrictEqual(
                publishes.map(({ sequence }) => sequence),
                Array.from({ length: lastSequence }, (_, i) => i + 1)
              )
              // The rows of the program's own are in the same transactions.
              const batches = yield* database.all("SELECT first FROM batches ORDER BY first")
              assert.deepStrictEqual(
                batches.map(({ first }) => first),
                Array.from({ length: lastSequence / 10 }, (_, i) => i * 10 + 1)
              )
            }))
            rounds++
          }
          assert.strictEqual(rounds, 4)
        }),
      60_000
    )

    it.live("frees the lock that another process held", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        const isOpen = yield* Deferred.make<void>()
        const child = yield* run([filename, "hold"], () => Deferred.doneUnsafe(isOpen, Effect.void))
        yield* Deferred.await(isOpen)
        assert.strictEqual(yield* kindOf(filename), "locked")
        child.kill("SIGKILL")
        yield* ended(child)
        yield* Effect.scoped(opened(filename))
      }))
  })

  describe("the lock", () => {
    it.live("is the same through a link to the file", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        yield* Effect.scoped(opened(filename))
        symlinkSync(filename, `${filename}.link`)
        yield* Effect.scoped(Effect.gen(function*() {
          yield* opened(filename)
          assert.strictEqual(yield* kindOf(`${filename}.link`), "locked")
        }))
      }))

    it.live("does not keep others from writing, for which a commit waits no longer than a second", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        const { store } = yield* opened(filename)
        const other = new DatabaseSync(filename)
        other.exec("BEGIN IMMEDIATE")
        const error = yield* Effect.flip(store.commit([published(1)]))
        assert.strictEqual(error.kind, "unavailable")
        assert.isTrue(error.retryable)
        other.exec("ROLLBACK")
        other.close()
        yield* store.commit([published(1)])
      }))

    it.live("lets other programs read", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        const { database } = yield* opened(filename)
        yield* database.exec("CREATE TABLE orders (id TEXT); INSERT INTO orders VALUES ('a')")
        const reader = new DatabaseSync(filename, { readOnly: true })
        assert.strictEqual(reader.prepare("SELECT id FROM orders").get()?.["id"], "a")
        reader.close()
      }))
  })

  describe("a file", () => {
    const withFile = (content: Uint8Array | string) =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        writeFileSync(filename, content)
        return filename
      })

    it.live("that is no database is incompatible, and stays as it is", () =>
      Effect.gen(function*() {
        const filename = yield* withFile("garbage ".repeat(1_000))
        assert.strictEqual(yield* kindOf(filename), "incompatible")
        assert.strictEqual(readFileSync(filename, "utf8"), "garbage ".repeat(1_000))
        assert.isFalse(existsSync(`${filename}-wal`))
      }))

    it.live("that is the database of another program is incompatible, and stays as it is", () =>
      Effect.gen(function*() {
        for (const sql of ["CREATE TABLE theirs (a)", "PRAGMA application_id = 7", "PRAGMA user_version = 1"]) {
          const { filename } = yield* SqliteFiles.place
          yield* tamper(filename, sql)
          const before = readFileSync(filename)
          assert.strictEqual(yield* kindOf(filename), "incompatible", sql)
          assert.isTrue(readFileSync(filename).equals(before), sql)
        }
      }))

    it.live("that is empty becomes a store", () =>
      Effect.gen(function*() {
        const filename = yield* withFile("")
        yield* Effect.scoped(opened(filename))
      }))

    it.live("of a newer version is incompatible", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        yield* Effect.scoped(opened(filename))
        yield* tamper(filename, "PRAGMA user_version = 1000")
        const error = yield* Effect.flip(Effect.scoped(opened(filename)))
        assert.strictEqual(error.kind, "incompatible")
        assert.include(error.message, "version 1000")
        assert.include(error.message, filename)
        assert.isFalse(error.retryable)
      }))

    it.live("that was cut, or lost a page, is corrupt", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        yield* Effect.scoped(Effect.flatMap(
          opened(filename),
          ({ store }) => store.commit(Array.from({ length: 200 }, (_, i) => published(i + 1)))
        ))
        const whole = readFileSync(filename)
        truncateSync(filename, 8_192)
        assert.strictEqual(yield* kindOf(filename), "corrupt")
        // The last page of the file holds publishes.
        writeFileSync(filename, Buffer.concat([whole.subarray(0, -4_096), Buffer.alloc(4_096, 0xff)]))
        assert.strictEqual(yield* kindOf(filename), "corrupt")
        writeFileSync(filename, whole)
        yield* Effect.scoped(opened(filename))
      }))

    it.live("that cannot be opened is unavailable", () =>
      Effect.gen(function*() {
        const path = yield* SqliteFiles.folder
        mkdirSync(join(path, "folder"))
        assert.strictEqual(yield* kindOf(join(path, "folder")), "unavailable")
        const error = yield* Effect.flip(Effect.scoped(opened(join(path, "missing", "session.db"))))
        assert.strictEqual(error.kind, "unavailable")
        assert.isTrue(error.retryable)
      }))

    it.live("is brought up to date step by step, each in a transaction", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        yield* Effect.scoped(Effect.flatMap(opened(filename), ({ store }) => store.commit([published(1)])))
        const openWith = (steps: ReadonlyArray<string>) =>
          Effect.scoped(Effect.map(
            SqliteFile.open(filename, (file) => prepare(file, "process", steps)),
            ({ database }) => ({
              version: database.prepare("PRAGMA user_version").get()?.["user_version"],
              tables: database.prepare("SELECT name FROM sqlite_schema WHERE name LIKE 'later%' ORDER BY name").all()
                .map(({ name }) => name)
            })
          ))
        const second = "CREATE TABLE later_a (a); INSERT INTO later_a VALUES (1)"
        // The third fails half-way: what the second one did stays, and nothing of its own.
        const error = yield* Effect.flip(openWith([...migrations, second, "CREATE TABLE later_b (b); broken"]))
        assert.strictEqual(error.kind, "other")
        assert.deepStrictEqual(yield* openWith([...migrations, second]), { version: 2, tables: ["later_a"] })
        const third = "CREATE TABLE later_c AS SELECT sequence FROM mqtt_publish"
        assert.deepStrictEqual(yield* openWith([...migrations, second, third]), {
          version: 3,
          tables: ["later_a", "later_c"]
        })
        assert.strictEqual(yield* kindOf(filename), "incompatible")
      }))
  })

  describe("an entry that cannot be read", () => {
    it.live("by a flipped bit is quarantined, and the others are there", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        yield* Effect.scoped(Effect.flatMap(opened(filename), ({ store }) => store.commit(ten)))
        const bytes = readFileSync(filename)
        const at = bytes.indexOf("payload 7")
        assert.isAbove(at, 0)
        bytes[at + 3]! ^= 0x10
        writeFileSync(filename, bytes)
        yield* Effect.scoped(Effect.gen(function*() {
          const { database, store } = yield* opened(filename)
          assert.deepStrictEqual(store.stored.publishes.map(({ sequence }) => sequence), [1, 2, 3, 4, 5, 6, 8, 9, 10])
          assert.deepStrictEqual(store.stored.quarantined, [
            { table: "mqtt_publish", key: "7", problem: "the checksum does not match" }
          ])
          const kept = yield* database.all("SELECT source, key, problem, content FROM mqtt_quarantine")
          assert.lengthOf(kept, 1)
          assert.include(Buffer.from(kept[0]!["content"] as Uint8Array).toString(), "pay|oad 7")
          assert.strictEqual(kept[0]!["key"], "7")
        }))
        // It is reported once.
        yield* Effect.scoped(Effect.map(opened(filename), ({ store }) => {
          assert.deepStrictEqual(store.stored.quarantined, [])
          assert.lengthOf(store.stored.publishes, 9)
        }))
      }))

    const isQuarantined = (sql: string, expected: ReadonlyArray<readonly [table: string, key: string]>) =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        yield* Effect.scoped(Effect.flatMap(opened(filename), ({ store }) =>
          store.commit([
            ...ten,
            { _tag: "Released", sequence: 2, releaseOrder: 1, answer: 0 },
            { _tag: "SessionBegan", key: "k", epoch: "e" },
            { _tag: "Received", packetId: 5 },
            { _tag: "Received", packetId: 6 },
            { _tag: "PutAside", queue: "q", message: messageOf(1) },
            { _tag: "PutAside", queue: "q", message: messageOf(2) }
          ])))
        yield* tamper(filename, sql)
        yield* Effect.scoped(
          Effect.map(opened(filename), ({ store }) =>
            assert.deepStrictEqual(
              store.stored.quarantined.map(({ key, table }) => [table, key] as const),
              expected,
              sql
            ))
        )
      })

    it.live("of every kind is told from a good one", () =>
      Effect.gen(function*() {
        const cases: ReadonlyArray<readonly [sql: string, table: string, key: string]> = [
          ["INSERT INTO mqtt_publish VALUES (99, x'0102', NULL)", "mqtt_publish", "99"],
          [
            "INSERT INTO mqtt_publish SELECT 98, record, NULL FROM mqtt_publish WHERE sequence = 3",
            "mqtt_publish",
            "98"
          ],
          [
            "INSERT INTO mqtt_publish SELECT 97, record, NULL FROM mqtt_inbound WHERE packet_id = 5",
            "mqtt_publish",
            "97"
          ],
          [
            "INSERT INTO mqtt_publish VALUES (9223372036854775807, x'', NULL)",
            "mqtt_publish",
            "9223372036854775807"
          ],
          ["UPDATE mqtt_publish SET record = substr(record, 1, 30) WHERE sequence = 4", "mqtt_publish", "4"],
          ["UPDATE mqtt_publish SET record = CAST(record || x'00' AS BLOB) WHERE sequence = 4", "mqtt_publish", "4"],
          [
            `UPDATE mqtt_publish SET release = (SELECT release FROM mqtt_publish WHERE sequence = 2) WHERE sequence = 4`,
            "mqtt_publish",
            "4"
          ],
          ["UPDATE mqtt_publish SET release = x'01' WHERE sequence = 2", "mqtt_publish", "2"],
          [
            "INSERT INTO mqtt_inbound SELECT 70000, record FROM mqtt_inbound WHERE packet_id = 5",
            "mqtt_inbound",
            "70000"
          ],
          [
            "UPDATE mqtt_inbound SET record = (SELECT record FROM mqtt_inbound WHERE packet_id = 5) WHERE packet_id = 6",
            "mqtt_inbound",
            "6"
          ],
          ["UPDATE mqtt_state SET record = x'00' WHERE name = 'session'", "mqtt_state", "session"],
          ["INSERT INTO mqtt_state VALUES ('theirs', x'00')", "mqtt_state", "theirs"],
          ["UPDATE mqtt_aside SET sequence = 9 WHERE sequence = 2", "mqtt_aside", "q/9"],
          ["UPDATE mqtt_aside SET queue = 'r' WHERE sequence = 2", "mqtt_aside", "r/2"],
          ["UPDATE mqtt_aside SET bytes = 1 WHERE sequence = 2", "mqtt_aside", "q/2"]
        ]
        for (const [sql, table, key] of cases) yield* isQuarantined(sql, [[table, key]])
      }))

    it.live("because its packet identifier is another's gives way to that one", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        yield* Effect.scoped(Effect.flatMap(
          opened(filename),
          ({ store }) => store.commit([published(1, { packetId: 7 }), published(2, { packetId: 7 })])
        ))
        yield* Effect.scoped(Effect.map(opened(filename), ({ store }) => {
          assert.deepStrictEqual(store.stored.publishes.map(({ sequence }) => sequence), [1])
          assert.deepStrictEqual(store.stored.quarantined.map(({ key }) => key), ["2"])
        }))
      }))

    it.live("and is the counter of sequences gives no sequence a second time", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        yield* Effect.scoped(Effect.flatMap(opened(filename), ({ store }) => store.commit(ten)))
        yield* tamper(filename, "UPDATE mqtt_state SET record = x'00' WHERE name = 'lastSequence'")
        yield* Effect.scoped(
          Effect.map(opened(filename), ({ store }) => assert.strictEqual(store.stored.lastSequence, 10))
        )
      }))

    it.live("and is an outcome counts as one that is unknown, not as none", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        yield* Effect.scoped(Effect.flatMap(opened(filename), ({ store }) => store.commit([settled(1, "a")])))
        yield* tamper(filename, "UPDATE mqtt_outcome SET record = x'00'")
        for (let turn = 0; turn < 2; turn++) {
          yield* Effect.scoped(Effect.gen(function*() {
            const { database, store } = yield* opened(filename)
            assert.deepStrictEqual(yield* store.outcome("a"), { _tag: "Unknown" })
            assert.deepStrictEqual(
              yield* database.all("SELECT key FROM mqtt_quarantine").pipe(
                Effect.map((rows) => rows.map(({ key }) => key))
              ),
              ["a"]
            )
          }))
        }
      }))

    it.live("and is a message put aside is left out when it is found while reading", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        const { database, store } = yield* opened(filename)
        yield* store.commit([1, 2, 3, 4].map((sequence) => ({
          _tag: "PutAside",
          queue: "q",
          message: messageOf(sequence)
        })))
        yield* database.exec("UPDATE mqtt_aside SET record = x'00' WHERE sequence IN (1, 2)")
        const messages = yield* store.putAside("q", 0, 2)
        assert.deepStrictEqual(messages, [messageOf(3), messageOf(4)])
      }))
  })

  describe("a full disk", () => {
    it.live("fails the commit with full, leaves what was, and is over when there is room", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        const { database, store } = yield* opened(filename)
        yield* store.commit(ten)
        const pages = (yield* database.get("PRAGMA page_count"))?.["page_count"]
        yield* database.exec(`PRAGMA max_page_count = ${Number(pages) + 2}`)
        const large = Array.from({ length: 50 }, (_, i) => published(100 + i, { payload: new Uint8Array(4_096) }))
        const error = yield* Effect.flip(store.commit(large))
        assert.strictEqual(error.kind, "full")
        assert.strictEqual(error.operation, "commit")
        assert.isTrue(error.retryable)
        const inTransaction = yield* Effect.flip(
          store.transaction(large, database.exec("CREATE TABLE mine (a)"))
        )
        assert.strictEqual(inTransaction._tag === "SessionStoreError" && inTransaction.kind, "full")
        assert.isUndefined(yield* database.get("SELECT 1 FROM sqlite_schema WHERE name = 'mine'"))
        yield* database.exec("PRAGMA max_page_count = 100000")
        yield* store.commit([published(11)])
        assert.deepStrictEqual(yield* database.get("SELECT count(*) AS n FROM mqtt_publish"), { n: 11 })
      }))

    it.live("is what more than the bound put aside is like", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        const aside = (sequence: number): Change => ({
          _tag: "PutAside",
          queue: "q",
          message: messageOf(sequence, { payload: new Uint8Array(400) })
        })
        yield* Effect.scoped(Effect.gen(function*() {
          const { store } = yield* opened(filename, { maxPutAsideBytes: 1_000 })
          yield* store.commit([aside(1), aside(2)])
          // The same ones again are no more than they were.
          yield* store.commit([aside(1), aside(2)])
          assert.strictEqual((yield* Effect.flip(store.commit([aside(3), published(1)]))).kind, "full")
        }))
        yield* Effect.scoped(Effect.gen(function*() {
          const { store } = yield* opened(filename, { maxPutAsideBytes: 1_000 })
          assert.deepStrictEqual(store.stored.publishes, [])
          assert.strictEqual((yield* Effect.flip(store.commit([aside(3)]))).kind, "full")
          yield* store.commit([{ _tag: "TakenUp", queue: "q", sequence: 1 }, aside(3)])
          assert.deepStrictEqual((yield* store.putAside("q", 0, 9)).map(({ sequence }) => sequence), [2, 3])
        }))
      }))
  })

  describe("outcomes", () => {
    it.live("go when they are older than their retention", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        const { database, store } = yield* opened(filename, { outcomeRetention: "1 hour" })
        yield* store.commit([settled(1, "old"), settled(2, "new")])
        yield* database.run("UPDATE mqtt_outcome SET settled_at = settled_at - 3600001 WHERE id = 'old'")
        // They are looked for every thousand outcomes.
        yield* store.commit(Array.from({ length: 1_000 }, (_, i) => settled(3 + i, `x${i}`)))
        yield* store.commit([settled(2_000, "last")])
        assert.isUndefined(yield* store.outcome("old"))
        for (const id of ["new", "x0", "x999", "last"]) assert.isDefined(yield* store.outcome(id), id)
      }))

    it.live("go when there are more than their bound, the oldest first", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        const { database, store } = yield* opened(filename, { maxOutcomes: 500 })
        for (let first = 1; first < 5_000; first += 100) {
          yield* store.commit(Array.from({ length: 100 }, (_, i) => settled(first + i, `${first + i}`)))
          const count = yield* database.get("SELECT count(*) AS n FROM mqtt_outcome")
          assert.isAtMost(Number(count?.["n"]), 1_600)
        }
        assert.isUndefined(yield* store.outcome("1"))
        for (let i = 4_501; i <= 5_000; i++) assert.isDefined(yield* store.outcome(`${i}`), `${i}`)
      }))
  })

  describe("the database", () => {
    it.live("keeps the rows of a transaction with its changes, or neither", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        yield* Effect.scoped(Effect.gen(function*() {
          const { database, store } = yield* opened(filename)
          yield* database.exec("CREATE TABLE orders (id TEXT PRIMARY KEY, amount INTEGER) STRICT")
          const insert = (id: string) => database.run("INSERT INTO orders VALUES (?, ?)", id, 7)
          assert.strictEqual(yield* store.transaction([published(1)], insert("a")), 1)
          yield* Effect.exit(store.transaction([published(2)], Effect.andThen(insert("b"), Effect.fail("no"))))
          const error = yield* Effect.flip(store.transaction([published(3)], insert("a")))
          assert.strictEqual(error._tag, "SqliteError")
          assert.strictEqual(error._tag === "SqliteError" && error.code & 0xff, 19)
        }))
        yield* Effect.scoped(Effect.gen(function*() {
          const { database, store } = yield* opened(filename)
          assert.deepStrictEqual(
            (yield* database.all("SELECT id, amount FROM orders")).map((row) => ({ ...row })),
            [{ id: "a", amount: 7 }]
          )
          assert.deepStrictEqual(store.stored.publishes.map(({ sequence }) => sequence), [1])
        }))
      }))

    it.live("does not let a statement from outside into a transaction that is rolled back", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        const { database, store } = yield* opened(filename)
        yield* database.exec("CREATE TABLE orders (id TEXT)")
        const begun = yield* Deferred.make<void>()
        const transaction = yield* Effect.forkChild(
          store.transaction([], Effect.andThen(Deferred.succeed(begun, undefined), Effect.never))
        )
        yield* Deferred.await(begun)
        const outside = yield* Effect.forkChild(database.run("INSERT INTO orders VALUES ('outside')"))
        yield* Effect.yieldNow
        yield* Fiber.interrupt(transaction)
        yield* Fiber.join(outside)
        assert.lengthOf(yield* database.all("SELECT * FROM orders"), 1)
      }))

    it.live("leaves transactions to the store", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        const { database, store } = yield* opened(filename)
        for (const sql of ["BEGIN", " commit;", "END TRANSACTION", "ROLLBACK", "rollback transaction"]) {
          const error = yield* Effect.flip(store.transaction([published(1)], database.exec(sql)))
          assert.strictEqual(error._tag, "SqliteError", sql)
        }
        yield* database.exec("CREATE TABLE orders (id TEXT)")
        yield* store.transaction(
          [published(2)],
          Effect.gen(function*() {
            yield* database.exec("SAVEPOINT a; INSERT INTO orders VALUES ('gone')")
            yield* database.exec("ROLLBACK TO a")
            yield* database.exec("RELEASE a")
          })
        )
        assert.deepStrictEqual(yield* database.all("SELECT * FROM orders"), [])
        // Hidden in a script it is found out at the end.
        const error = yield* Effect.flip(store.transaction([published(3)], database.exec("SELECT 1; COMMIT")))
        assert.strictEqual(error._tag, "SessionStoreError")
        assert.deepStrictEqual(yield* database.get("SELECT max(sequence) AS n FROM mqtt_publish"), { n: 2 })
      }))

    it.live("refuses a commit and a transaction of the fiber that is in one", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        const { store } = yield* opened(filename)
        for (const inner of [store.commit([published(1)]), store.transaction([published(1)], Effect.void)]) {
          const error = yield* Effect.flip(store.transaction([], inner))
          assert.strictEqual(error.kind, "other")
        }
        yield* store.commit([published(1)])
      }))

    it.live("fails typed once its scope is closed", () =>
      Effect.gen(function*() {
        const { filename } = yield* SqliteFiles.place
        const { database, store } = yield* Effect.scoped(opened(filename))
        const error = yield* Effect.flip(store.commit([published(1)]))
        assert.strictEqual(error.detail, "it is closed")
        assert.strictEqual((yield* Effect.flip(database.exec("SELECT 1")))._tag, "SqliteError")
      }))
  })

  describe("options", () => {
    it.live("are checked", () =>
      Effect.gen(function*() {
        const cases: ReadonlyArray<readonly [options: object, option: string]> = [
          [{}, "filename"],
          [{ filename: "" }, "filename"],
          [{ filename: ":memory:" }, "filename"],
          [{ filename: "a\0b" }, "filename"],
          [{ filename: "a", durability: "none" }, "durability"],
          [{ filename: "a", outcomeRetention: -1 }, "outcomeRetention"],
          [{ filename: "a", maxOutcomes: 0 }, "maxOutcomes"],
          [{ filename: "a", maxPutAsideBytes: 1.5 }, "maxPutAsideBytes"],
          [{ filename: "a", other: 1 }, "other"]
        ]
        for (const [options, option] of cases) {
          const error = yield* Effect.flip(Effect.scoped(makeSqlite(options as { readonly filename: string })))
          assert.strictEqual(error._tag === "InvalidOptions" && error.option, option)
        }
      }))

    it.live("of durability decide when the disk is flushed", () =>
      Effect.gen(function*() {
        const modes: Array<unknown> = []
        for (const durability of ["process", "power"] as const) {
          const { filename } = yield* SqliteFiles.place
          const { database } = yield* opened(filename, { durability })
          const journal = yield* database.get("PRAGMA journal_mode")
          const synchronous = yield* database.get("PRAGMA synchronous")
          modes.push([journal?.["journal_mode"], synchronous?.["synchronous"]])
        }
        // 1 is NORMAL, 2 is FULL.
        assert.deepStrictEqual(modes, [["wal", 1], ["wal", 2]])
      }))
  })

  it("loads SQLite only where a store is made", () => {
    const node = fileURLToPath(new URL("../../../src/node.ts", import.meta.url))
    const script = `import ${JSON.stringify(node)}
      console.log(process.moduleLoadList.filter((name) => /sqlite/.test(name)).length)`
    const output = execFileSync(process.execPath, ["--input-type=module", "--eval", script], { encoding: "utf8" })
    assert.strictEqual(output.trim(), "0")
  })
})
