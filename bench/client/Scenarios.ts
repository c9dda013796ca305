/** What is measured, and against whom. Tasks that several scenarios share are run once per round. */
import type { Mode, PeerName, Task } from "./Task.ts"

/** Who takes part: the processes of this directory, and the C clients of Mosquitto. */
export type Peer = PeerName | "mosquitto"

export type Server = "fake" | "mosquitto"

export interface Run {
  readonly peer: Peer
  readonly task: Omit<Task, "peer" | "port" | "warmupMillis" | "measureMillis">
}

/** The least ratios that are asked for, ours to the peer's. CPU time per message: the most. */
export interface Targets {
  readonly "mqtt.js"?: number | undefined
  readonly bare?: number | undefined
  readonly cpu?: number | undefined
  /** Bytes of an idle connection, ours to the peer's, at most. */
  readonly memory?: number | undefined
}

export interface Scenario {
  readonly name: string
  readonly group: string
  readonly ours: Run
  readonly peers: ReadonlyArray<Run>
  readonly targets: Targets
  readonly server: Server
}

export type Selection = "quick" | "accept" | "full"

const base = {
  kind: "publish",
  mode: "single",
  version: 5,
  qos: 0,
  size: 64,
  window: 100,
  subscriptions: 1,
  count: 0,
  flooded: false
} as const satisfies Run["task"]

const modeNames: Readonly<Record<Mode, string>> = {
  single: "publish",
  batch: "publishAll",
  each: "runForEach",
  array: "runForEachArray"
}

const publishTargets: Readonly<Record<0 | 1 | 2, Partial<Record<Mode, Targets>>>> = {
  0: { batch: { "mqtt.js": 8, bare: 0.6, cpu: 1 / 3 }, single: { "mqtt.js": 3.5, cpu: 1 / 2 } },
  1: { batch: { "mqtt.js": 4.5, bare: 0.7, cpu: 1 / 3 }, single: { "mqtt.js": 3, bare: 0.5, cpu: 1 / 2 } },
  2: { batch: { "mqtt.js": 4.5, bare: 0.65, cpu: 1 / 3 }, single: { "mqtt.js": 3.5, bare: 0.5, cpu: 1 / 2 } }
}

const receiveTargets = (qos: 0 | 1 | 2, mode: Mode): Targets => {
  if (qos === 0) return mode === "array" ? { "mqtt.js": 4.5, bare: 0.6, cpu: 1 / 3 } : { "mqtt.js": 3, cpu: 1 / 2 }
  return qos === 1 && mode === "array" ? { "mqtt.js": 4, bare: 0.5, cpu: 1 / 3 } : {}
}

interface Options {
  readonly server: Server
  readonly withMosquitto: boolean
}

const publish = (version: 4 | 5, qos: 0 | 1 | 2, size: number, window: number, options: Options): Array<Scenario> => {
  const task = { ...base, version, qos, size, window }
  const where = options.server === "fake" ? "" : " on Mosquitto"
  const group = `publish QoS ${qos}, window ${window}, ${size} B, v${version}${where}`
  const peers: ReadonlyArray<Run> = [
    // At QoS 0 nothing is outstanding but what it has not written.
    { peer: "mqtt.js", task: qos === 0 ? { ...task, window: Math.max(window, 1000) } : task },
    { peer: "bare", task },
    ...options.withMosquitto && window === 100
      ? [{ peer: "mosquitto", task: { ...task, count: qos === 0 ? 300_000 : 60_000 } } as const]
      : []
  ]
  const modes: ReadonlyArray<Mode> = window === 1 ? ["single"] : ["batch", "single"]
  return modes.map((mode) => ({
    name: `${modeNames[mode]}: ${group}`,
    group,
    ours: { peer: "ours", task: { ...task, mode } },
    peers,
    targets: window === 100 && size <= 256 && options.server === "fake" ? publishTargets[qos][mode] ?? {} : {},
    server: options.server
  }))
}

const receive = (
  version: 4 | 5,
  qos: 0 | 1 | 2,
  size: number,
  subscriptions: number,
  options: Options
): Array<Scenario> => {
  const task = { ...base, kind: "receive", version, qos, size, window: 1000, subscriptions } as const
  const flooded = options.server === "mosquitto"
  const where = flooded ? " on Mosquitto" : ""
  const many = subscriptions === 1 ? "" : `, ${subscriptions} subscriptions`
  const group = `receive QoS ${qos}${many}, ${size} B, v${version}${where}`
  const peers: ReadonlyArray<Run> = [
    { peer: "mqtt.js", task: { ...task, flooded } },
    ...subscriptions === 1 ? [{ peer: "bare", task: { ...task, flooded } } as const] : [],
    ...options.withMosquitto && subscriptions === 1 && !flooded
      ? [{ peer: "mosquitto", task: { ...task, count: qos === 0 ? 300_000 : 60_000 } } as const]
      : []
  ]
  return (["array", "each"] as const).map((mode) => ({
    name: `${modeNames[mode]}: ${group}`,
    group,
    ours: { peer: "ours", task: { ...task, mode, flooded } },
    peers,
    targets: subscriptions === 1 && size <= 256 && !flooded ? receiveTargets(qos, mode) : {},
    server: options.server
  }))
}

const other = (
  name: string,
  task: Partial<Run["task"]> & Pick<Run["task"], "kind">,
  peers: ReadonlyArray<PeerName>,
  targets: Targets = {},
  server: Server = "fake"
): Scenario => {
  const whole = { ...base, ...task }
  return {
    name,
    group: name,
    ours: { peer: "ours", task: whole },
    peers: peers.map((peer) => ({ peer, task: whole })),
    targets,
    server
  }
}

const roundTrip = (version: 4 | 5, window: number, size = 64): Scenario =>
  other(
    `round trip QoS 1, ${window} outstanding, ${size} B, v${version}`,
    { kind: "roundtrip", qos: 1, version, size, window },
    ["mqtt.js", "bare"],
    window === 1 ? { "mqtt.js": 1, bare: 1 / 1.5 } : {}
  )

const idle = (version: 4 | 5): Scenario =>
  other(`1,000 idle clients, v${version}`, { kind: "idle", version, count: 1000 }, ["mqtt.js"], { memory: 0.7 })

const versions = [5, 4] as const
const levels = [0, 1, 2] as const

/** The scenarios of a selection; those with Mosquitto only where it is installed. */
export const scenarios = (selection: Selection, hasMosquitto: boolean): ReadonlyArray<Scenario> => {
  const fake: Options = { server: "fake", withMosquitto: hasMosquitto && selection === "full" }
  if (selection === "quick") {
    return [
      ...levels.flatMap((qos) => publish(5, qos, 64, 100, fake)),
      ...receive(5, 0, 64, 1, fake),
      ...receive(5, 1, 64, 1, fake),
      roundTrip(5, 1),
      idle(5)
    ]
  }
  if (selection === "accept") {
    return [
      ...versions.flatMap((version) =>
        [64, 256].flatMap((size) => [
          ...levels.flatMap((qos) => publish(version, qos, size, 100, fake)),
          ...receive(version, 0, size, 1, fake),
          ...receive(version, 1, size, 1, fake).slice(0, 1),
          roundTrip(version, 1, size)
        ])
      ),
      ...versions.map((version) => idle(version))
    ]
  }
  const real: Options = { server: "mosquitto", withMosquitto: true }
  return [
    ...versions.flatMap((version) =>
      [64, 256, 4096].flatMap((size) => [
        ...levels.flatMap((qos) => [1, 100, 1000].flatMap((window) => publish(version, qos, size, window, fake))),
        ...levels.flatMap((qos) => receive(version, qos, size, 1, fake)),
        ...receive(version, 0, size, 1000, fake),
        ...[1, 100].map((window) => roundTrip(version, window, size))
      ])
    ),
    ...hasMosquitto
      ? [
        ...levels.flatMap((qos) => publish(5, qos, 64, 100, real)),
        ...levels.flatMap((qos) => receive(5, qos, 64, 1, real))
      ]
      : [],
    ...versions.map((version) => other(`connect, v${version}`, { kind: "connect", version, count: 300 }, ["mqtt.js"])),
    ...versions.map((version) => idle(version)),
    other("a flood to a slow consumer, QoS 0", { kind: "slow", qos: 0, size: 256 }, ["mqtt.js"]),
    other("an hour at 1,000 messages/s each way, QoS 1", { kind: "soak", qos: 1, window: 100, count: 3_600_000 }, [])
  ]
}
