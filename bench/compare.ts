/**
 * Another checkout of the client against this one, for differences that are smaller than what a machine scatters.
 *
 *     node bench/compare.ts <directory> [--filter <text>] [--slices <n>] [--json]
 *
 * Both run in this process, over sockets, against one fake server in another: first the one, then the other, for 80 ms each,
 * again and again. So a machine that is slow for a while is slow for both, and the median of the ratios of neighbours tells
 * what one run after the other cannot. `time` is our time per message divided by that of the other checkout, `cpu` the same of
 * CPU time: 0.9 means that this one takes nine tenths. The other checkout needs its `node_modules`.
 */
import { spawn } from "node:child_process"
import { resolve } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath, pathToFileURL } from "node:url"
import { parseArgs } from "node:util"
import { Effect, Stream } from "effect"
import type * as Client from "../src/node.ts"
import { filter, floodTopic, payloadOf, topics } from "./client/Task.ts"

const { positionals: [directory], values: flags } = parseArgs({
  options: {
    filter: { type: "string", default: "" },
    slices: { type: "string", default: "40" },
    json: { type: "boolean", default: false }
  },
  allowPositionals: true
})
if (directory === undefined) {
  console.error(
    "usage: npm run bench -- compare <directory of another checkout> [--filter <text>] [--slices <n>] [--json]"
  )
  process.exit(1)
}

const sliceMillis = 80
const warmupSlices = 12

interface Scenario {
  readonly mode: "publish" | "publishAll" | "receive"
  readonly qos: 0 | 1 | 2
  readonly version: 4 | 5
  readonly size: number
}

const nameOf = ({ mode, qos, size, version }: Scenario): string => `${mode} QoS ${qos}, ${size} B, v${version}`

const scenarios = (["publishAll", "publish", "receive"] as const).flatMap((mode) =>
  ([0, 1, 2] as const).flatMap((qos) =>
    ([4, 5] as const).flatMap((version) => [64, 256].map((size): Scenario => ({ mode, qos, version, size })))
  )
).filter((scenario) =>
  nameOf(scenario).includes(flags.filter) &&
  // A flood at QoS 0 does not stop for the turn of the other.
  !(scenario.mode === "receive" && scenario.qos === 0)
)

/** One of the two clients: it works between `start` and `stop`, and counts what is done. */
class Side {
  count = 0
  isOn = false
  #waiting: Array<() => void> = []

  readonly gate: Effect.Effect<void> = Effect.callback((resume) => {
    if (this.isOn) return resume(Effect.void)
    this.#waiting.push(() => resume(Effect.void))
  })

  start(): void {
    const waiting = this.#waiting
    this.isOn = true
    this.#waiting = []
    for (const goOn of waiting) goOn()
  }

  stop(): void {
    this.isOn = false
  }

  /** Nanoseconds per message, and those of CPU time. */
  async slice(millis: number): Promise<readonly [time: number, cpu: number]> {
    const [begin, count, cpu] = [performance.now(), this.count, process.cpuUsage()]
    this.start()
    await sleep(millis)
    this.stop()
    const elapsed = performance.now() - begin
    const { system, user } = process.cpuUsage(cpu)
    const messages = this.count - count
    // What is under way comes back while nobody counts.
    await sleep(4)
    return [elapsed * 1e6 / messages, (user + system) * 1000 / messages]
  }
}

const run = Effect.fnUntraced(
  function*({ MqttClient }: typeof Client, side: Side, { mode, qos, size, version }: Scenario, port: number) {
    const client = yield* MqttClient.make({
      endpoint: `mqtt://127.0.0.1:${port}`,
      protocolVersion: version,
      reconnect: false,
      ...mode === "receive" ? { receiveMaximum: 1000 } : { sendMaximum: 100 }
    })
    if (mode === "receive") {
      const { messages } = yield* client.subscription(filter, { qos })
      yield* Effect.forkScoped(Stream.runForEachArray(messages, (batch) => {
        side.count += batch.length
        return side.isOn ? Effect.void : side.gate
      }))
      yield* client.publish({ topic: floodTopic({ qos, size, subscriptions: 1, window: 1000 }) })
      return yield* Effect.never
    }
    const payload = payloadOf(size)
    const messages = topics.map((topic) => ({ topic, payload, qos }))
    const batch = Array.from({ length: 1000 }, (_, index) => messages[index % messages.length]!)
    let next = 0
    const worker = Effect.gen(function*() {
      for (;;) {
        if (!side.isOn) yield* side.gate
        if (mode === "publishAll") side.count += (yield* client.publishAll(batch)).length
        else {
          yield* client.publish(messages[next++ % messages.length]!)
          side.count++
        }
      }
    })
    const workers = Array.from({ length: mode === "publishAll" ? 1 : 100 }, () => worker)
    return yield* Effect.all(workers, { concurrency: "unbounded", discard: true })
  },
  Effect.scoped
)

const load = (root: string): Promise<typeof Client> =>
  import(pathToFileURL(resolve(root, "src/node.ts")).href) as Promise<typeof Client>

const median = (values: ReadonlyArray<number>): number => values.toSorted((a, b) => a - b)[values.length >> 1]!

const other = await load(directory)
const ours = await load(fileURLToPath(new URL("..", import.meta.url)))
const server = spawn(process.execPath, [fileURLToPath(new URL("client/FakeBroker.ts", import.meta.url))], {
  stdio: ["pipe", "pipe", "inherit"]
})
const port = await new Promise<number>((done) => server.stdout.once("data", (data) => done(Number(String(data)))))

for (const scenario of scenarios) {
  const sides = [new Side(), new Side()] as const
  const stop = new AbortController()
  for (const [index, client] of [other, ours].entries()) {
    Effect.runFork(run(client, sides[index]!, scenario, port), { signal: stop.signal })
  }
  const ratios: Array<readonly [time: number, cpu: number]> = []
  for (let slice = -warmupSlices; slice < Number(flags.slices); slice++) {
    const [first, second] = slice % 2 === 0 ? sides : [sides[1], sides[0]]
    /* eslint-disable no-await-in-loop -- one after the other is what is wanted */
    const a = await first.slice(sliceMillis)
    const b = await second.slice(sliceMillis)
    /* eslint-enable no-await-in-loop */
    const [theirs, own] = slice % 2 === 0 ? [a, b] : [b, a]
    if (slice >= 0) ratios.push([own[0] / theirs[0], own[1] / theirs[1]])
  }
  stop.abort()
  const [time, cpu] = [median(ratios.map(([value]) => value)), median(ratios.map(([, value]) => value))]
  const name = nameOf(scenario)
  if (flags.json) {
    console.log(JSON.stringify({ scenario: name, time: Number(time.toFixed(3)), cpu: Number(cpu.toFixed(3)) }))
  } else console.log(`${name.padEnd(32)} time ${time.toFixed(2)} ×   cpu ${cpu.toFixed(2)} ×`)
}
process.exit(0)
