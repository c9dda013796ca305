/** What the host gave to other machines: the ratios of a run in which that was much say less. */
import { readFileSync } from "node:fs"

interface Ticks {
  readonly stolen: number
  readonly all: number
}

/** Of all processors since the start of the system; undefined where the system does not say. */
const ticks = (): Ticks | undefined => {
  try {
    const [line] = readFileSync("/proc/stat", "latin1").split("\n")
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is in these already.
    const counts = line!.trim().split(/\s+/).slice(1, 9).map(Number)
    return counts.length < 8 ? undefined : { stolen: counts[7]!, all: counts.reduce((sum, count) => sum + count, 0) }
  } catch {
    return undefined
  }
}

/** Begins to count; the result says which share of the processors' time was taken since, as a sentence. */
export const countStolen = (): () => string => {
  const before = ticks()
  return () => {
    const after = ticks()
    if (before === undefined || after === undefined || after.all === before.all) return ""
    const share = (after.stolen - before.stolen) / (after.all - before.all)
    return `Other machines on the same host took ${(share * 100).toFixed(1)}% of the processors' time meanwhile.`
  }
}
