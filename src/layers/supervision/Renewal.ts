/**
 * When a connection is to be renewed on its own.
 *
 * @since 0.1.0
 */
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import type { Credentials } from "../../services/ClientOptions.ts"
import type { ResolvedOptions } from "../../services/ResolvedOptions.ts"

/** So long a connection lives at least, whatever its credentials say. */
const leastMillis = 1_000

/** A renewal that is due. */
export interface Renewal {
  readonly afterMillis: number
  readonly why: "credentials" | "age"
}

/** How long credentials are good for at `wallMillis`, the time of the wall clock. Undefined: they do not say. */
export const lifetime = ({ expiresAt, expiresIn }: Credentials, wallMillis: number): number | undefined => {
  const relative = expiresIn === undefined ? Infinity : Duration.toMillis(Duration.fromInputUnsafe(expiresIn))
  const absolute = expiresAt === undefined ? Infinity : toMillis(expiresAt) - wallMillis
  const left = Math.min(relative, absolute)
  return left === Infinity ? undefined : left
}

const toMillis = (time: DateTime.DateTime | Date | number): number =>
  typeof time === "number" ? time : time instanceof Date ? time.getTime() : DateTime.toEpochMillis(time)

/**
 * The time from now to the renewal. Credentials that have ended already bring none: they were taken all the same, and asking
 * again at once would be a loop.
 */
export const next = (
  refresh: ResolvedOptions["refresh"],
  lifetimeMillis: number | undefined,
  random: () => number
): Renewal | undefined => {
  const renewals: Array<Renewal> = []
  const add = (why: Renewal["why"], millis: number, jitterMillis: number) =>
    renewals.push({ why, afterMillis: Math.max(leastMillis, Math.round(millis - jitterMillis * random())) })
  const { beforeMillis, everyMillis, jitterMillis } = refresh
  if (lifetimeMillis !== undefined && lifetimeMillis > 0) {
    const before = beforeMillis ?? lifetimeMillis / 10
    add("credentials", lifetimeMillis - before, jitterMillis ?? before)
  }
  if (everyMillis !== undefined && everyMillis < Infinity) add("age", everyMillis, jitterMillis ?? everyMillis / 10)
  return renewals.sort((a, b) => a.afterMillis - b.afterMillis)[0]
}
