/**
 * How fast a client publishes with a session store on SQLite, how fast the store alone takes changes, and whether memory and
 * files stay as they are.
 *
 *     npm run bench -- store                      # a client: QoS 1, 256 B, window 100, a million messages
 *     npm run bench -- store --commits            # the store alone, in batches of 100
 *     npm run bench -- store --messages 100000 --bytes 64 --window 500 --qos 2 --durability power --id
 *
 * The client publishes to a server in a process of its own that does nothing but acknowledge. `--id` gives each message an id
 * of its caller, whose outcome is kept. `--store none` and `--store memory` show what the file costs.
 */
import { Effect, Layer } from "effect"
import { spawn } from "node:child_process"
import { mkdtempSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { MqttClient, SessionStore } from "../src/node.ts"

const { values } = parseArgs({
  options: {
    messages: { type: "string", default: "1000000" },
    /** Messages under way at once; with `--commits`, messages of a batch. */
    window: { type: "string", default: "100" },
    bytes: { type: "string", default: "256" },
    qos: { type: "string", default: "1" },
    durability: { type: "string", default: "process" },
    store: { type: "string", default: "sqlite" },
    id: { type: "boolean", default: false },
    commits: { type: "boolean", default: false },
    json: { type: "boolean", default: false }
  }
})

const messages = Number(values.messages)
const window = Number(values.window)
const qos = values.qos === "2" ? 2 : 1
const durability = values.durability === "power" ? "power" : "process"
const payload = new Uint8Array(Number(values.bytes)).fill(0x61)
const topic = "sensors/kitchen/temperature/0123456789"
const idOf = (sequence: number) => values.id ? `message-${sequence}` : undefined

const folder = mkdtempSync(join(tmpdir(), "mqtt-store-bench-"))
const filename = join(folder, "session.db")

// ---------------------------------------------------------------------------
// what is measured
// ---------------------------------------------------------------------------

const megabytes = (bytes: number): number => Math.round(bytes / 1024 / 1024 * 10) / 10
const sizeOf = (file: string): number => megabytes(statSync(file, { throwIfNoEntry: false })?.size ?? 0)

const print = (line: Record<string, unknown>): void =>
  console.log(values.json ? JSON.stringify(line) : Object.entries(line).map(([name, it]) => `${name} ${it}`).join("  "))

// What is left after a collection is what is held; the rest of the heap is the collector's to use.
setFlagsFromString("--expose-gc")
const collectGarbage = runInNewContext("gc") as () => void

/** Says after every tenth of the messages what they took, and at the end what all did. */
class Meter {
  readonly #started = performance.now()
  readonly #cpu = process.cpuUsage()
  #last = this.#started
  #tenths = 0

  tick(done: number): void {
    const tenth = messages / 10
    if (done < tenth * (this.#tenths + 1)) return
    this.#tenths++
    const now = performance.now()
    collectGarbage()
    const { heapUsed, rss } = process.memoryUsage()
    print({
      messages: done,
      "messages/s": Math.round(tenth / (now - this.#last) * 1_000),
      "rss MB": megabytes(rss),
      "live MB": megabytes(heapUsed),
      "file MB": sizeOf(filename),
      "wal MB": sizeOf(`${filename}-wal`)
    })
    this.#last = now
  }

  end(name: string): void {
    const seconds = (performance.now() - this.#started) / 1_000
    const { system, user } = process.cpuUsage(this.#cpu)
    print({
      scenario: name,
      store: values.store,
      durability,
      window,
      bytes: payload.length,
      "messages/s": Math.round(messages / seconds),
      "CPU µs/message": Math.round((user + system) / messages * 100) / 100
    })
  }
}

// ---------------------------------------------------------------------------
// the store alone
// ---------------------------------------------------------------------------

const published = (sequence: number): SessionStore.Change => ({
  _tag: "Published",
  publish: {
    sequence,
    stage: "published",
    packetId: sequence % 65535 + 1,
    releaseOrder: 0,
    answer: 0,
    id: idOf(sequence),
    qos,
    retain: false,
    topic,
    payload,
    properties: undefined,
    storedAt: 1_700_000_000_000
  }
})

const settled = (sequence: number): SessionStore.Change => ({
  _tag: "Settled",
  sequence,
  id: idOf(sequence),
  outcome: { _tag: "Delivered", qos, reasonCode: 0 }
})

/** A message is two changes: it is published in one batch, and settled two batches later. */
const commits = Effect.gen(function*() {
  const { store } = yield* SessionStore.makeSqlite({ filename, durability })
  const { commit } = yield* store.open
  const meter = new Meter()
  const lag = 2 * window
  for (let first = 1; first <= messages + lag; first += window) {
    const changes: Array<SessionStore.Change> = []
    for (let sequence = first; sequence < first + window; sequence++) {
      if (sequence <= messages) changes.push(published(sequence))
      if (sequence > lag) changes.push(settled(sequence - lag))
    }
    yield* commit(changes)
    meter.tick(Math.min(first + window - 1, messages))
  }
  meter.end("commits")
})

// ---------------------------------------------------------------------------
// a client
// ---------------------------------------------------------------------------

const server = Effect.map(
  Effect.acquireRelease(
    Effect.callback<{ readonly port: number; readonly end: () => void }>((resume) => {
      const program = fileURLToPath(new URL("client/FakeBroker.ts", import.meta.url))
      const child = spawn(process.execPath, [program], { stdio: ["pipe", "pipe", "inherit"] })
      child.stdout.once("data", (line) => resume(Effect.succeed({ port: Number(line), end: () => child.stdin.end() })))
      child.once("error", (cause) => resume(Effect.die(cause)))
    }),
    ({ end }) => Effect.sync(end)
  ),
  ({ port }) => port
)

const store = values.store === "none"
  ? Layer.empty
  : values.store === "memory"
  ? SessionStore.layerMemory
  : SessionStore.layerSqlite({ filename, durability })

const client = Effect.gen(function*() {
  const client = yield* MqttClient.make({
    endpoint: `mqtt://127.0.0.1:${yield* server}`,
    clientId: "bench",
    cleanStart: false,
    sessionExpiry: "1 day",
    sendMaximum: window
  })
  const meter = new Meter()
  let sent = 0
  let done = 0
  const worker = Effect.gen(function*() {
    while (sent < messages) {
      const sequence = ++sent
      const id = idOf(sequence)
      yield* client.publish({ topic, payload, qos }, { id })
      if ((++done & 63) === 0 || done === messages) meter.tick(done)
    }
  })
  yield* Effect.all(Array.from({ length: window }, () => worker), { concurrency: "unbounded", discard: true })
  meter.end(`client, QoS ${qos}`)
})

// The client ends before its store does.
const program = values.commits ? Effect.scoped(commits) : Effect.provide(Effect.scoped(client), store)

try {
  await Effect.runPromise(program)
} finally {
  rmSync(folder, { recursive: true })
}
