/**
 * Runs random programs of the real client against the broker and the network of the testing kit, in virtual time, with random
 * faults, and tells whether a message was ever lost, duplicated or reordered, something leaked, or an operation hung.
 *
 *     node scripts/simulate.ts [--seeds 1000] [--from 1] [--workers 2]
 *     node scripts/simulate.ts --seed 42 [--verbose]
 *     node scripts/simulate.ts --day
 *
 * A program depends on its seed alone, so `--seed` repeats a failure exactly; what fails is made small first. `--day` plays
 * 24 hours of 100 clients. The exit code is 1 if anything failed.
 */
import { parseArgs } from "node:util"
import { isMainThread, parentPort, Worker } from "node:worker_threads"
import * as Day from "../test/support/simulation/Day.ts"
import { generate } from "../test/support/simulation/Program.ts"
import { shrink } from "../test/support/simulation/Shrink.ts"
import { run } from "../test/support/simulation/Simulation.ts"
import type { Report } from "../test/support/simulation/Simulation.ts"
import type { Failure } from "../test/support/simulation/Verdict.ts"

/** What a worker tells of one program. */
interface Result {
  readonly seed: number
  readonly messages: number
  readonly failures: ReadonlyArray<Failure>
}

/** No program takes a tenth of this, so past it the worker hangs. */
const patienceMillis = 60_000
/** Programs that are tried to make a failure small. */
const shrinkBudget = 150
/** Failures after which there is no point in going on. */
const failureLimit = 20

const kinds = ["lost", "duplicated", "reordered", "leaked", "hung"] as const

const summary = (failures: ReadonlyArray<Failure>, seeds: number): string => {
  const count = (kind: Failure["kind"]) => failures.filter((failure) => failure.kind === kind).length
  const broken = count("broken")
  const rest = broken === 0 ? "" : ` broken ${broken}`
  return `${kinds.map((kind) => `${kind} ${count(kind)}`).join(" ")}${rest} (${seeds} seeds)`
}

const tell = (report: Report): void => {
  for (const { kind, problem } of report.failures) console.log(`  ${kind}: ${problem}`)
}

/** Repeats one seed, with its log where it fails or is asked for; gives what failed. */
const repeat = async (seed: number, verbose: boolean): Promise<ReadonlyArray<Failure>> => {
  const report = await run(generate(seed))
  if (report.failures.length === 0) {
    if (verbose) console.log(report.log().join("\n"))
    return []
  }
  console.log(`seed ${seed} fails:`)
  tell(report)
  if (verbose) {
    console.log(report.log().join("\n"))
    return report.failures
  }
  const small = await shrink(report, shrinkBudget)
  const { clients, latencyMillis, steps, stepsPerTurn, windowBytes } = small.program
  console.log(`with ${steps.length} of ${report.program.steps.length} steps:`)
  tell(small)
  console.log(JSON.stringify({ latencyMillis, windowBytes, stepsPerTurn }))
  for (const client of clients) console.log(JSON.stringify(client))
  console.log(small.log().join("\n"))
  console.log(`again: npm run simulate -- --seed ${seed} --verbose`)
  return report.failures
}

/** Runs the seeds in workers; gives what failed, and where. */
const runAll = (from: number, seeds: number, workers: number): Promise<ReadonlyArray<Result>> =>
  new Promise((resolve) => {
    const started = performance.now()
    const failed: Array<Result> = []
    let next = from
    let done = 0
    let messages = 0
    let running = workers
    const seconds = () => (performance.now() - started) / 1_000
    const start = () => {
      const worker = new Worker(new URL(import.meta.url))
      let seed = 0
      const watchdog = setTimeout(() => {
        fail(`takes longer than ${patienceMillis / 1_000} s`)
        void worker.terminate()
      }, patienceMillis)
      const fail = (problem: string) => failed.push({ seed, messages: 0, failures: [{ kind: "hung", problem }] })
      const give = () => {
        if (next >= from + seeds || failed.length >= failureLimit) return worker.postMessage(undefined)
        seed = next++
        worker.postMessage(seed)
        watchdog.refresh()
      }
      worker.on("message", (result: Result) => {
        done++
        messages += result.messages
        if (result.failures.length > 0) failed.push(result)
        if (done % 500 === 0) {
          const rate = (done / seconds()).toFixed(0)
          console.error(`${done} seeds, ${messages} messages, ${failed.length} failed, ${rate} seeds/s`)
        }
        give()
      })
      worker.on("error", (error: Error) => fail(error.stack ?? error.message))
      worker.on("exit", () => {
        clearTimeout(watchdog)
        if (--running > 0) return
        const rate = (done / seconds()).toFixed(1)
        console.error(`${done} seeds in ${seconds().toFixed(1)} s, ${rate} seeds/s, ${messages} messages`)
        resolve(failed)
      })
      give()
    }
    for (let index = 0; index < workers; index++) start()
  })

const work = (port: NonNullable<typeof parentPort>): void => {
  port.on("message", (seed: number | undefined) => {
    if (seed === undefined) return port.close()
    void run(generate(seed)).then(({ failures, messages }) => {
      port.postMessage({ seed, messages, failures } satisfies Result)
    })
  })
}

const runDay = async (): Promise<boolean> => {
  const started = performance.now()
  const { failures, ...counts } = await Day.run({ clients: 100, hours: 24 })
  for (const { kind, problem } of failures.slice(0, 20)) console.log(`  ${kind}: ${problem}`)
  const seconds = ((performance.now() - started) / 1_000).toFixed(1)
  console.log(`${Day.inWords(counts)}, ${failures.length} failures, ${seconds} s`)
  return failures.length === 0
}

const main = async (): Promise<boolean> => {
  const { values } = parseArgs({
    options: {
      seeds: { type: "string", default: "1000" },
      from: { type: "string", default: "1" },
      seed: { type: "string" },
      workers: { type: "string", default: "2" },
      verbose: { type: "boolean", default: false },
      day: { type: "boolean", default: false }
    }
  })
  const [seeds, from, workers] = [Number(values.seeds), Number(values.from), Number(values.workers)]
  if (![seeds, from, workers, Number(values.seed ?? 0)].every(Number.isSafeInteger) || seeds < 1 || workers < 1) {
    console.error(
      "usage: node scripts/simulate.ts [--seeds <n>] [--from <n>] [--seed <n>] [--workers <n>] [--verbose] [--day]"
    )
    return false
  }
  if (values.day) return runDay()
  if (values.seed !== undefined) {
    const failures = await repeat(Number(values.seed), values.verbose)
    console.log(summary(failures, 1))
    return failures.length === 0
  }
  const failed = await runAll(from, seeds, Math.min(workers, seeds))
  for (const { failures, seed } of failed.slice(1)) {
    console.log(`seed ${seed} fails: ${failures.map(({ kind, problem }) => `${kind}: ${problem}`).join("; ")}`)
  }
  if (failed[0] !== undefined) await repeat(failed[0].seed, values.verbose)
  console.log(summary(failed.flatMap(({ failures }) => failures), seeds))
  return failed.length === 0
}

if (isMainThread) process.exitCode = await main() ? 0 : 1
else if (parentPort !== null) work(parentPort)
