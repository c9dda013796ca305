/**
 * A Mosquitto of our own: one process per scope, with its own configuration, directory and loopback port.
 */
import { Effect, Schema } from "effect"
import type { ChildProcess } from "node:child_process"
import { spawn } from "node:child_process"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"

export class MosquittoFailed extends Schema.TaggedError<MosquittoFailed>()("MosquittoFailed", {
  problem: Schema.String,
  log: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return [`Mosquitto: ${this.problem}`, ...this.log].join("\n  ")
  }
}

export interface Options {
  /** Lines added to the configuration. */
  readonly config?: ReadonlyArray<string> | undefined
  /** User names and passwords; with them, nobody else may connect. */
  readonly users?: Readonly<Record<string, string>> | undefined
}

export interface Mosquitto {
  readonly port: number
  readonly url: string
  /** Ends the process, saving sessions, queues and retained messages. */
  readonly stop: Effect.Effect<void>
  /** Starts it again on the same port with what it saved. */
  readonly start: Effect.Effect<void, MosquittoFailed>
  /** The last lines of its log. */
  readonly log: Effect.Effect<ReadonlyArray<string>>
}

const directories = [
  ...(process.env["PATH"] ?? "").split(Path.delimiter),
  "/usr/sbin",
  "/usr/local/sbin",
  "/opt/homebrew/sbin"
]

/** Path of the `mosquitto` program, if there is one. */
export const binary: string | undefined = directories
  .filter((directory) => directory !== "")
  .map((directory) => Path.join(directory, "mosquitto"))
  .find((path) => Fs.existsSync(path))

/**
 * Starts Mosquitto and waits until it accepts connections. The process ends and its directory is removed with the scope.
 */
export const make = Effect.fnUntraced(function*(options: Options = {}) {
  if (binary === undefined) {
    return yield* new MosquittoFailed({ problem: "the program was not found (Debian: apt install mosquitto)", log: [] })
  }
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-mqtt-"))),
    (directory) => Effect.sync(() => Fs.rmSync(directory, { recursive: true, force: true }))
  )
  const server = new Server(binary, directory, options)
  yield* Effect.addFinalizer(() => server.kill)
  yield* server.startOnFreePort
  const mosquitto: Mosquitto = {
    port: server.port,
    url: `mqtt://127.0.0.1:${server.port}`,
    stop: server.stop,
    start: server.start,
    log: Effect.sync(() => server.log.slice())
  }
  return mosquitto
})

/** The form of Mosquitto's password files: PBKDF2 with SHA-512. */
const passwordLine = (user: string, password: string) => {
  const salt = Crypto.randomBytes(12)
  const hash = Crypto.pbkdf2Sync(password, Uint8Array.from(salt), 101, 64, "sha512")
  return `${user}:$7$101$${salt.toString("base64")}$${hash.toString("base64")}`
}

const freePort = Effect.callback<number>((resume) => {
  const server = Net.createServer()
  server.listen(0, "127.0.0.1", () => {
    const { port } = server.address() as Net.AddressInfo
    server.close(() => resume(Effect.succeed(port)))
  })
})

class Server {
  port = 0
  readonly log: Array<string> = []
  private readonly binary: string
  private readonly directory: string
  private readonly options: Options
  private child: ChildProcess | undefined

  constructor(binary: string, directory: string, options: Options) {
    this.binary = binary
    this.directory = directory
    this.options = options
  }

  readonly startOnFreePort: Effect.Effect<void, MosquittoFailed> = Effect.suspend(() =>
    Effect.tap(freePort, (port) => Effect.sync(() => this.configure(port)))
  ).pipe(
    Effect.andThen(Effect.suspend(() => this.start)),
    // Somebody else may have taken the port in the meantime.
    Effect.retry({ times: 4, while: (error) => error.log.some((line) => line.includes("Address already in use")) })
  )

  private configure(port: number) {
    this.port = port
    const users = Object.entries(this.options.users ?? {})
    const passwords = Path.join(this.directory, "passwords")
    Fs.writeFileSync(passwords, users.map(([user, password]) => `${passwordLine(user, password)}\n`).join(""), {
      mode: 0o600
    })
    const lines = [
      `listener ${port} 127.0.0.1`,
      // Started by root, it would become a user that cannot write to the directory.
      ...(process.getuid?.() === 0 ? ["user root"] : []),
      ...(users.length === 0 ? ["allow_anonymous true"] : ["allow_anonymous false", `password_file ${passwords}`]),
      "persistence true",
      `persistence_location ${this.directory}/`,
      "log_dest stderr",
      "log_type error",
      "log_type warning",
      "log_type notice",
      "log_type information",
      "set_tcp_nodelay true",
      ...(this.options.config ?? [])
    ]
    Fs.writeFileSync(Path.join(this.directory, "mosquitto.conf"), lines.join("\n") + "\n")
  }

  private readonly launch: Effect.Effect<void, MosquittoFailed> = Effect.callback((resume) => {
    const child = spawn(this.binary, ["-c", Path.join(this.directory, "mosquitto.conf")], {
      stdio: ["ignore", "ignore", "pipe"]
    })
    this.child = child
    const fail = (problem: string) => resume(Effect.fail(new MosquittoFailed({ problem, log: this.log.slice(-20) })))
    // A process of ours must not outlive the test runner, however that ends.
    const orphan = () => child.kill("SIGKILL")
    process.once("exit", orphan)
    child.once("error", (cause) => fail(cause.message))
    child.once("close", (code, signal) => {
      process.off("exit", orphan)
      if (this.child === child) this.child = undefined
      fail(`ended with ${signal ?? `code ${code}`}`)
    })
    let rest = ""
    child.stderr.setEncoding("utf8")
    child.stderr.on("data", (text: string) => {
      const lines = (rest + text).split("\n")
      rest = lines.pop() ?? ""
      this.log.push(...lines)
      if (this.log.length > 1000) this.log.splice(0, 500)
      if (lines.some((line) => line.endsWith(" running"))) resume(Effect.void)
    })
    return this.kill
  })

  /** An answer to CONNECT: before its loop runs, it would overlook a signal to stop. */
  private readonly answer: Effect.Effect<void, MosquittoFailed> = Effect.callback((resume) => {
    const socket = Net.connect(this.port, "127.0.0.1")
    const fail = () =>
      resume(Effect.fail(new MosquittoFailed({ problem: "no answer to CONNECT", log: this.log.slice(-20) })))
    socket.once("close", fail)
    socket.on("error", () => {})
    socket.once("data", () => {
      socket.off("close", fail)
      socket.once("close", () => resume(Effect.void))
      // A refusal closes the connection as well, so this may find it gone.
      socket.end(Uint8Array.of(0xe0, 0))
    })
    const connect = [0x10, 17, 0, 4, 0x4d, 0x51, 0x54, 0x54, 4, 2, 0, 60, 0, 5, 0x70, 0x72, 0x6f, 0x62, 0x65]
    socket.write(Uint8Array.from(connect))
    return Effect.sync(() => void socket.destroy())
  })

  readonly start: Effect.Effect<void, MosquittoFailed> = Effect.suspend(() => Effect.andThen(this.launch, this.answer))

  private readonly end = (signal: NodeJS.Signals): Effect.Effect<void> =>
    Effect.callback((resume) => {
      const child = this.child
      if (child === undefined) return resume(Effect.void)
      // `close` and not `exit`: its log is read to the end, and no pipe is left.
      child.once("close", () => resume(Effect.void))
      child.kill(signal)
    })

  readonly stop: Effect.Effect<void> = this.end("SIGTERM")
  readonly kill: Effect.Effect<void> = this.end("SIGKILL")
}
