/** From the answers of the processes to ratios: round by round, since both sides of a ratio saw the same machine then. */
import type { Peer, Scenario } from "./Scenarios.ts"
import type { Outcome } from "./Task.ts"

/** Ours against one peer. */
export interface Row {
  readonly scenario: string
  readonly peer: Peer
  /** Ours to the peer's throughput; for round trips, the peer's p50 to ours. */
  readonly ratio: number
  readonly ratioMin: number
  readonly ratioMax: number
  /** Ours to the peer's CPU time per message. Undefined where it was not measured. */
  readonly cpuRatio: number | undefined
  /** Ours to the peer's bytes per idle connection. */
  readonly memoryRatio: number | undefined
  readonly rounds: number
}

/** What one side did, as medians of the rounds. */
export interface Side {
  readonly scenario: string
  readonly peer: Peer
  /** Messages, or connects, per second. */
  readonly rate: number
  readonly rateMin: number
  readonly rateMax: number
  /** CPU time per message. */
  readonly cpuNanos: number | undefined
  readonly extra: Readonly<Record<string, number>>
}

export const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

const rateOf = ({ extra, messages, seconds }: Outcome): number =>
  extra.p50 === undefined ? messages / seconds : 1000 / extra.p50

const cpuOf = ({ cpuMicros, messages }: Outcome): number | undefined =>
  cpuMicros === 0 ? undefined : cpuMicros * 1000 / messages

const defined = (values: ReadonlyArray<number | undefined>): number | undefined =>
  values.includes(undefined) ? undefined : median(values as ReadonlyArray<number>)

export const sideOf = (scenario: string, peer: Peer, outcomes: ReadonlyArray<Outcome>): Side => {
  const rates = outcomes.map((outcome) => rateOf(outcome))
  const names = Object.keys(outcomes[0]!.extra)
  return {
    scenario,
    peer,
    rate: median(rates),
    rateMin: Math.min(...rates),
    rateMax: Math.max(...rates),
    cpuNanos: defined(outcomes.map((outcome) => cpuOf(outcome))),
    extra: Object.fromEntries(names.map((name) => [name, median(outcomes.map(({ extra }) => extra[name]!))]))
  }
}

export const rowOf = (
  scenario: string,
  peer: Peer,
  ours: ReadonlyArray<Outcome>,
  theirs: ReadonlyArray<Outcome>
): Row => {
  const ratios = ours.map((outcome, round) => rateOf(outcome) / rateOf(theirs[round]!))
  const each = (f: (outcome: Outcome) => number | undefined) =>
    defined(ours.map((outcome, round) => {
      const [a, b] = [f(outcome), f(theirs[round]!)]
      return a === undefined || b === undefined ? undefined : a / b
    }))
  return {
    scenario,
    peer,
    ratio: median(ratios),
    ratioMin: Math.min(...ratios),
    ratioMax: Math.max(...ratios),
    cpuRatio: each(cpuOf),
    memoryRatio: each(({ extra }) => extra.bytes),
    rounds: ours.length
  }
}

/** One thing that was asked for, and whether it is so. */
export interface Verdict {
  readonly scenario: string
  readonly what: string
  readonly asked: string
  readonly got: number
  readonly holds: boolean
}

export const verdictsOf = ({ name, targets }: Scenario, rows: ReadonlyArray<Row>): ReadonlyArray<Verdict> =>
  rows.flatMap((row): ReadonlyArray<Verdict> => {
    const verdicts: Array<Verdict> = []
    const least = row.peer === "mqtt.js" || row.peer === "bare" ? targets[row.peer] : undefined
    if (least !== undefined) {
      const asked = `≥ ${Number(least.toFixed(2))} ×`
      verdicts.push({ scenario: name, what: `against ${row.peer}`, asked, got: row.ratio, holds: row.ratio >= least })
    }
    if (row.peer !== "mqtt.js") return verdicts
    if (targets.cpu !== undefined && row.cpuRatio !== undefined) {
      const asked = `≤ ${Number(targets.cpu.toFixed(2))} ×`
      const holds = row.cpuRatio <= targets.cpu
      verdicts.push({ scenario: name, what: "CPU per message against mqtt.js", asked, got: row.cpuRatio, holds })
    }
    if (targets.memory !== undefined && row.memoryRatio !== undefined) {
      const asked = `≤ ${targets.memory} ×`
      const holds = row.memoryRatio <= targets.memory
      verdicts.push({
        scenario: name,
        what: "memory per connection against mqtt.js",
        asked,
        got: row.memoryRatio,
        holds
      })
    }
    return verdicts
  })
