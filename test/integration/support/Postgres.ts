/**
 * PostgreSQL in a process of its own, in a folder of its own, on a socket in that folder and on no port.
 */
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer } from "effect"
import type * as SqlClient from "effect/sql/SqlClient"
import type { ChildProcess } from "node:child_process"
import { execFile, spawn } from "node:child_process"
import { chmodSync, chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

/** Debian keeps the programs of the server out of the search path. */
const programs = (): string => {
  const versions = "/usr/lib/postgresql"
  const newest = (existsSync(versions) ? readdirSync(versions) : []).sort((a, b) => Number(b) - Number(a))[0]
  if (newest === undefined) throw new Error("PostgreSQL is not installed (apt-get install postgresql)")
  return join(versions, newest, "bin")
}

const isRoot = process.getuid?.() === 0

/** The server refuses to run as root; then it runs as the nobody of this system. */
const unprivileged = isRoot ? { uid: 65534, gid: 65534 } : {}

const run = (program: string, args: ReadonlyArray<string>, cwd: string) =>
  Effect.callback<void>((resume) => {
    execFile(
      join(programs(), program),
      args,
      { cwd, ...unprivileged, env: { ...process.env, LC_ALL: "C" } },
      (error, _, stderr) =>
        resume(error === null ? Effect.void : Effect.die(new Error(`${program} failed: ${error.message}\n${stderr}`)))
    )
  })

export interface Postgres {
  /** The folder of the socket. */
  readonly host: string
  /** A client with a pool of its own, as a program that starts now would make it. */
  readonly client: (
    options?: { readonly maxConnections?: number; readonly database?: string }
  ) => Layer.Layer<PgClient.PgClient | SqlClient.SqlClient>
  /** Ends the server at once, with all of its connections. */
  readonly stop: Effect.Effect<void>
}

/** Immediate shutdown: its children end with it, and its files are thrown away. */
const stop = (server: ChildProcess) =>
  Effect.callback<void>((resume) => {
    if (server.exitCode !== null || server.signalCode !== null) return resume(Effect.void)
    server.once("exit", () => resume(Effect.void))
    server.kill("SIGQUIT")
  })

/** Starts a server, which ends with the scope and leaves nothing behind. */
export const make = Effect.gen(function*() {
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "mqtt-pg-"))),
    (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
  )
  if (isRoot) {
    chmodSync(folder, 0o755)
    chownSync(folder, 65534, 65534)
  }
  const data = join(folder, "data")
  yield* run(
    "initdb",
    ["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"],
    folder
  )
  const settings = {
    listen_addresses: "",
    unix_socket_directories: folder,
    fsync: "off",
    max_connections: "40",
    // A folder in memory is small on some machines.
    dynamic_shared_memory_type: "mmap",
    log_min_messages: "log"
  }
  const server = yield* Effect.acquireRelease(
    Effect.callback<ChildProcess>((resume) => {
      const child = spawn(
        join(programs(), "postgres"),
        ["-D", data, ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`])],
        { cwd: folder, ...unprivileged, stdio: ["ignore", "ignore", "pipe"] }
      )
      // The message is on the error output, whatever the level of the log is.
      let output = ""
      child.once("error", (cause) => resume(Effect.die(cause)))
      child.once("exit", (code) => resume(Effect.die(new Error(`postgres ended with ${code}: ${output}`))))
      child.stderr.on("data", (chunk) => {
        output += chunk
        if (output.includes("ready to accept connections")) resume(Effect.succeed(child))
      })
    }),
    stop
  )
  const postgres: Postgres = {
    host: folder,
    client: ({ database = "postgres", maxConnections = 5 } = {}) =>
      Layer.orDie(PgClient.layer({ host: folder, username: "postgres", database, maxConnections })),
    stop: stop(server)
  }
  return postgres
})
