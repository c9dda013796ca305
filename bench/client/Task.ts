/**
 * What one process of the client benchmark is asked to do, what it answers, and the clock that both sides go by.
 *
 * A task runs for a time and not for a number of messages: it warms up, and then counts what is done between two readings
 * of the clock and of the CPU time. So a slow peer and a fast one are both measured in a steady state.
 */

export type PeerName = "ours" | "mqtt.js" | "bare"

/** How our client, or our side of the bare loop, is used. The other peers have one way. */
export type Mode = "single" | "batch" | "each" | "array"

export interface Task {
  readonly peer: PeerName
  readonly kind: "publish" | "receive" | "roundtrip" | "connect" | "idle" | "slow" | "soak"
  readonly mode: Mode
  readonly port: number
  readonly version: 4 | 5
  readonly qos: 0 | 1 | 2
  /** Payload bytes. */
  readonly size: number
  /** Publishes that are outstanding, or messages that the server may have under way to us. */
  readonly window: number
  /** Subscriptions that share the messages. */
  readonly subscriptions: number
  readonly warmupMillis: number
  readonly measureMillis: number
  /** Clients, connects, messages: what is counted and not timed. */
  readonly count: number
  /** Whether somebody else publishes, since the server does not do so by itself. */
  readonly flooded: boolean
}

export interface Outcome {
  readonly messages: number
  readonly seconds: number
  /** CPU time of all threads of the process, in microseconds. */
  readonly cpuMicros: number
  /** Whatever else the kind measures. */
  readonly extra: Readonly<Record<string, number>>
}

export const topicCount = 64

/**
 * Clients that are opened before the memory of the others is looked at: by then the code that they run is compiled, and what is
 * left is what each further client takes.
 */
export const idleWarmup = 2000

/** 38 bytes, as the codec benchmark has them. */
export const topicOf = (index: number): string => `factory/line-7/device/${String(index).padStart(4, "0")}/temperature`

export const topics: ReadonlyArray<string> = Array.from({ length: topicCount }, (_, index) => topicOf(index))

export const filter = "factory/line-7/device/+/temperature"

export const payloadOf = (size: number): Uint8Array => new Uint8Array(size).fill(0x61)

/** Publishing to this topic has the fake broker flood the connection: QoS, payload bytes, topics, window. */
export const floodTopic = (task: Pick<Task, "qos" | "size" | "subscriptions" | "window">): string =>
  `$bench/flood/${task.qos}/${task.size}/${task.subscriptions === 1 ? topicCount : task.subscriptions}/${task.window}`

/** Warms up, measures and ends, by the times of the task. `tick` is told how many messages are done by now. */
export class Meter {
  isOver = false
  readonly #warmup: number
  readonly #measure: number
  readonly #onOver: (outcome: Outcome) => void
  #begin = performance.now()
  #start = 0
  #startCount = 0
  #startCpu = process.cpuUsage()

  constructor(task: Task, onOver: (outcome: Outcome) => void) {
    this.#warmup = task.warmupMillis
    this.#measure = task.measureMillis
    this.#onOver = onOver
  }

  /** The time counts from here. */
  begin(): void {
    this.#begin = performance.now()
  }

  tick(count: number): void {
    if (this.isOver) return
    const now = performance.now()
    if (this.#start === 0) {
      if (now - this.#begin < this.#warmup) return
      this.#start = now
      this.#startCount = count
      this.#startCpu = process.cpuUsage()
    } else if (now - this.#start >= this.#measure) {
      this.isOver = true
      const { system, user } = process.cpuUsage(this.#startCpu)
      this.#onOver({
        messages: count - this.#startCount,
        seconds: (now - this.#start) / 1000,
        cpuMicros: system + user,
        extra: {}
      })
    }
  }
}

/**
 * Prints the answer of a process and ends it, by a signal: `process.exit` joins the threads of V8, which now and then does
 * not end when one of them is busy.
 */
export const answer = (outcome: Outcome): void => {
  process.stdout.write(`${JSON.stringify(outcome)}\n`, () => process.kill(process.pid, "SIGKILL"))
}

export const readTask = (): Task => JSON.parse(process.argv[2]!) as Task

const quantile = (sorted: ReadonlyArray<number>, share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!

/** Milliseconds at the half, at 99 and at 99.9 of a hundred. */
export const quantiles = (millis: ReadonlyArray<number>): Readonly<Record<"p50" | "p99" | "p999", number>> => {
  const sorted = millis.toSorted((a, b) => a - b)
  return { p50: quantile(sorted, 0.5), p99: quantile(sorted, 0.99), p999: quantile(sorted, 0.999) }
}

/** Bytes that are in use after a collection, on the heap and beside it. */
export const usedBytes = (): number => {
  const collect = (globalThis as { gc?: () => void }).gc
  if (collect === undefined) throw new Error("run it with --expose-gc")
  collect()
  collect()
  const { arrayBuffers, heapUsed } = process.memoryUsage()
  return heapUsed + arrayBuffers
}
