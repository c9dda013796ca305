/** Starts the servers and the processes of the peers, one at a time, and collects what they answer. */
import { spawn } from "node:child_process"
import type { ChildProcess } from "node:child_process"
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import type { Run, Server } from "./Scenarios.ts"
import { filter, floodTopic, payloadOf, topics } from "./Task.ts"
import type { Outcome, PeerName, Task } from "./Task.ts"

const programs: Readonly<Record<PeerName, string>> = { ours: "ours.ts", "mqtt.js": "mqttjs.ts", bare: "bare.ts" }

const pathOf = (program: string): string => fileURLToPath(new URL(program, import.meta.url))

const mosquitto = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"].find((path) => existsSync(path))

export const hasMosquitto: boolean = mosquitto !== undefined

export interface Times {
  readonly warmupMillis: number
  readonly measureMillis: number
}

const freePort = (): Promise<number> =>
  new Promise((resolve) => {
    const server = createServer()
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo
      server.close(() => resolve(port))
    })
  })

const firstLine = (child: ChildProcess, millis: number): Promise<string> =>
  new Promise((resolve, reject) => {
    let text = ""
    let errors = ""
    const fail = (why: string) => reject(new Error(`${child.spawnargs.slice(1).join(" ")}: ${why}\n${errors}`))
    const timer = setTimeout(() => {
      child.kill("SIGKILL")
      fail(`no answer within ${millis} ms`)
    }, millis)
    child.stderr?.on("data", (chunk: unknown) => errors += String(chunk))
    child.stdout?.on("data", (chunk: unknown) => {
      text += String(chunk)
      if (!text.includes("\n")) return
      clearTimeout(timer)
      resolve(text.slice(0, text.indexOf("\n")))
    })
    child.on("close", () => {
      clearTimeout(timer)
      fail("it ended without an answer")
    })
  })

const ended = (child: ChildProcess): Promise<void> =>
  new Promise((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null) resolve()
    else child.once("close", () => resolve())
  })

export class Runner {
  readonly #times: Times
  readonly #servers = new Map<Server, { readonly child: ChildProcess; readonly port: number }>()
  readonly #directory = mkdtempSync(join(tmpdir(), "bench-"))

  constructor(times: Times) {
    this.#times = times
  }

  async #serverOf(kind: Server): Promise<number> {
    const running = this.#servers.get(kind)
    if (running !== undefined) return running.port
    const { child, port } = kind === "fake" ? await this.#startFake() : await this.#startMosquitto()
    this.#servers.set(kind, { child, port })
    return port
  }

  async #startFake() {
    const child = spawn(process.execPath, [pathOf("FakeBroker.ts")], { stdio: ["pipe", "pipe", "inherit"] })
    return { child, port: Number(await firstLine(child, 10_000)) }
  }

  async #startMosquitto() {
    const port = await freePort()
    const configuration = join(this.#directory, "mosquitto.conf")
    writeFileSync(
      configuration,
      [
        `listener ${port} 127.0.0.1`,
        "allow_anonymous true",
        "max_inflight_messages 1000",
        "log_dest none",
        "set_tcp_nodelay true",
        ""
      ].join("\n")
    )
    const child = spawn(mosquitto!, ["-c", configuration], { stdio: "ignore" })
    await sleep(500)
    return { child, port }
  }

  /** Runs one process to its answer. */
  async run({ peer, task }: Run, server: Server): Promise<Outcome> {
    const port = await this.#serverOf(server)
    if (peer === "mosquitto") return this.#runMosquitto(task, port)
    const whole: Task = { ...task, ...this.#timesOf(task), peer, port }
    const flood = task.flooded ? await this.#startFlood(whole) : undefined
    const flags = task.kind === "idle" || task.kind === "soak" ? ["--expose-gc"] : []
    const child = spawn(process.execPath, [...flags, pathOf(programs[peer]), JSON.stringify(whole)], {
      stdio: ["ignore", "pipe", "pipe"]
    })
    try {
      return JSON.parse(await firstLine(child, 120_000)) as Outcome
    } finally {
      child.kill("SIGKILL")
      flood?.kill("SIGKILL")
      await ended(child)
    }
  }

  #timesOf({ kind }: Run["task"]): Times {
    return kind === "slow" ? { warmupMillis: 0, measureMillis: 3000 } : this.#times
  }

  /** Somebody publishes as fast as the server takes it. */
  async #startFlood(task: Task): Promise<ChildProcess> {
    const publishing: Task = { ...task, peer: "bare", kind: "publish", window: 1000, measureMillis: 600_000 }
    const child = spawn(process.execPath, [pathOf("bare.ts"), JSON.stringify(publishing)], { stdio: "ignore" })
    await sleep(300)
    return child
  }

  /** The C clients, started anew for so many messages; what the shell says of their time is all there is. */
  async #runMosquitto(task: Run["task"], port: number): Promise<Outcome> {
    const common = `-h 127.0.0.1 -p ${port} -q ${task.qos} -V ${task.version === 5 ? "5" : "311"}`
    const line = Buffer.from(payloadOf(task.size)).toString()
    const command = task.kind === "publish"
      ? `yes ${line} | head -n ${task.count} | { time mosquitto_pub ${common} -t ${topics[0]} -l; }`
      : `time mosquitto_sub ${common} -C ${task.count} -t '${task.flooded ? filter : floodTopic(task)}' > /dev/null`
    const child = spawn("bash", ["-c", `TIMEFORMAT='%R %U %S'; { ${command}; } 2>&1`], {
      stdio: ["ignore", "pipe", "pipe"]
    })
    const [seconds, user, system] = (await firstLine(child, 120_000)).split(" ").map(Number)
    return { messages: task.count, seconds: seconds!, cpuMicros: (user! + system!) * 1e6, extra: {} }
  }

  async close(): Promise<void> {
    const children = [...this.#servers.values()].map(({ child }) => child)
    for (const child of children) child.kill("SIGKILL")
    await Promise.all(children.map((child) => ended(child)))
    rmSync(this.#directory, { recursive: true, force: true })
  }
}
