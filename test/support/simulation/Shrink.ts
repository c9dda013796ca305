/**
 * Makes a program that fails small: steps are left out, many at once and then one by one, as long as it fails in the same way.
 */
import type { Program } from "./Program.ts"
import { run } from "./Simulation.ts"
import type { Report } from "./Simulation.ts"

/** Gives the smallest program that was found within `budget` runs, and its report. */
export const shrink = async (failed: Report, budget: number): Promise<Report> => {
  const kinds = new Set(failed.failures.map(({ kind }) => kind))
  let best = failed
  let left = budget
  const attempt = async (program: Program): Promise<boolean> => {
    left--
    const report = await run(program)
    if (!report.failures.some(({ kind }) => kinds.has(kind))) return false
    best = report
    return true
  }
  for (let size = Math.ceil(best.program.steps.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let start = 0; start < best.program.steps.length && left > 0;) {
      const steps = best.program.steps.toSpliced(start, size)
      // eslint-disable-next-line no-await-in-loop -- each attempt builds on the one before
      if (!await attempt({ ...best.program, steps })) start += size
    }
  }
  return best
}
