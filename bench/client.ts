/**
 * The whole client against MQTT.js, against a bare socket loop, and against Mosquitto's own clients.
 *
 *     node bench/client.ts [--quick | --accept] [--json] [--filter <text>] [--rounds <n>] [--report]
 *
 * Every peer runs in a process of its own, against a server in another; the peers of a group take turns in each round. What
 * the numbers do not mean is said in README.md.
 */
import { parseArgs } from "node:util"
import { verdictTable, writeReport } from "./client/Report.ts"
import { countStolen } from "./client/Stolen.ts"
import { rowOf, sideOf, verdictsOf } from "./client/Results.ts"
import type { Row, Side, Verdict } from "./client/Results.ts"
import { hasMosquitto, Runner } from "./client/Runner.ts"
import { scenarios } from "./client/Scenarios.ts"
import type { Run, Scenario, Selection } from "./client/Scenarios.ts"
import type { Outcome } from "./client/Task.ts"

const { values: flags } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    accept: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    report: { type: "boolean", default: false },
    filter: { type: "string", default: "" },
    rounds: { type: "string" }
  },
  allowPositionals: true
})

const selection: Selection = flags.quick ? "quick" : flags.accept ? "accept" : "full"
const rounds = flags.rounds === undefined ? selection === "quick" ? 3 : 5 : Number(flags.rounds)
const runner = new Runner(
  selection === "quick" ? { warmupMillis: 300, measureMillis: 400 } : { warmupMillis: 450, measureMillis: 500 }
)

const say = (text: string): void => {
  if (!flags.json) console.log(text)
}

/** What is measured once, since it takes long and spreads little. */
const isLong = ({ task: { kind } }: Run): boolean => kind === "idle" || kind === "slow" || kind === "soak"

const sides: Array<Side> = []
const rows: Array<Row> = []
const verdicts: Array<Verdict> = []

/** All runs of a group, each once per round; the first of them moves on with each round. */
const measure = async (group: ReadonlyArray<Scenario>): Promise<ReadonlyMap<string, ReadonlyArray<Outcome>>> => {
  const runs = new Map<string, Run>()
  for (const { ours, peers } of group) for (const run of [ours, ...peers]) runs.set(JSON.stringify(run), run)
  const keys = [...runs.keys()]
  const outcomes = new Map<string, Array<Outcome>>(keys.map((key) => [key, []]))
  const count = [...runs.values()].some((run) => isLong(run)) ? Math.min(rounds, 3) : rounds
  for (let round = 0; round < count; round++) {
    for (let turn = 0; turn < keys.length; turn++) {
      const key = keys[(turn + round) % keys.length]!
      // eslint-disable-next-line no-await-in-loop -- one process at a time
      outcomes.get(key)!.push(await runner.run(runs.get(key)!, group[0]!.server))
    }
  }
  return outcomes
}

const rounded = (value: number | undefined, digits = 3): number | undefined =>
  value === undefined ? undefined : Number(value.toFixed(digits))

const tell = (row: Row, ours: Side, theirs: Side): void => {
  if (flags.json) {
    console.log(JSON.stringify({
      scenario: row.scenario,
      peer: row.peer,
      ratio: rounded(row.ratio),
      cpuRatio: rounded(row.cpuRatio),
      ratioMin: rounded(row.ratioMin),
      ratioMax: rounded(row.ratioMax),
      memoryRatio: rounded(row.memoryRatio),
      rounds: row.rounds,
      oursPerSecond: rounded(ours.rate, 0),
      peerPerSecond: rounded(theirs.rate, 0),
      oursCpuNanos: rounded(ours.cpuNanos, 0),
      peerCpuNanos: rounded(theirs.cpuNanos, 0),
      ours: ours.extra,
      theirs: theirs.extra
    }))
    return
  }
  const cpu = row.cpuRatio === undefined ? "" : `   CPU ${row.cpuRatio.toFixed(2)} ×`
  const memory = row.memoryRatio === undefined ? "" : `   memory ${row.memoryRatio.toFixed(2)} ×`
  console.log(
    `  ${row.peer.padEnd(10)} ${row.ratio.toFixed(2).padStart(6)} ×  (${row.ratioMin.toFixed(2)} to ${
      row.ratioMax.toFixed(2)
    })${cpu}${memory}`
  )
}

const tellSide = ({ cpuNanos, extra, peer, rate }: Side): void => {
  const more = Object.entries(extra).map(([name, value]) => `${name} ${Number(value.toFixed(3))}`).join(", ")
  const cpu = cpuNanos === undefined ? "" : `${Math.round(cpuNanos)} ns of CPU each`
  say(`  ${peer.padEnd(10)} ${Math.round(rate).toLocaleString("en").padStart(10)} /s   ${cpu}   ${more}`)
}

const judge = (scenario: Scenario, outcomes: ReadonlyMap<string, ReadonlyArray<Outcome>>): void => {
  const of = (run: Run) => outcomes.get(JSON.stringify(run))!
  const ours = sideOf(scenario.name, "ours", of(scenario.ours))
  const own: Array<Row> = []
  sides.push(ours)
  say(`\n${scenario.name}`)
  tellSide(ours)
  if (scenario.peers.length === 0 && flags.json) {
    console.log(JSON.stringify({ scenario: scenario.name, peer: "none", ours: ours.extra }))
  }
  for (const peer of scenario.peers) {
    const theirs = sideOf(scenario.name, peer.peer, of(peer))
    const row = rowOf(scenario.name, peer.peer, of(scenario.ours), of(peer))
    sides.push(theirs)
    own.push(row)
    tellSide(theirs)
    tell(row, ours, theirs)
  }
  rows.push(...own)
  verdicts.push(...verdictsOf(scenario, own))
}

const selected = scenarios(selection, hasMosquitto).filter(({ name }) => name.includes(flags.filter))
const groups = new Map<string, Array<Scenario>>()
for (const scenario of selected) {
  const group = groups.get(scenario.group)
  if (group === undefined) groups.set(scenario.group, [scenario])
  else group.push(scenario)
}

const stolen = countStolen()
try {
  for (const group of groups.values()) {
    // eslint-disable-next-line no-await-in-loop -- one process at a time
    const outcomes = await measure(group)
    for (const scenario of group) judge(scenario, outcomes)
  }
} finally {
  await runner.close()
}
say(`\n${stolen()}`)
if (selection === "accept") {
  say(`\n${verdictTable(verdicts)}`)
  const failed = verdicts.filter(({ holds }) => !holds).length
  say(`\n${verdicts.length - failed} of ${verdicts.length} hold`)
  if (failed > 0) process.exitCode = 1
}
if (flags.report || selection === "full") {
  const what = `${rounds} rounds, selection "${selection}". ${stolen()}`.trim()
  say(`\nreport: ${await writeReport(sides, rows, verdicts, what)}README.md`)
}
