/**
 * Decides when to ping, and when a link is dead (MQTT 5.0 and 3.1.1 §3.1.2.10). No timers and no clock: times are numbers of
 * milliseconds that the caller reads from one monotonic clock.
 *
 * Two questions are kept apart. The server drops a client that **sends** nothing, so a ping is due when nothing was sent for
 * the interval. And a link may be dead although writes succeed, since they end in the kernel's buffer, so a ping is due as
 * well when nothing was **received** for the interval. Any received byte proves life, not only PINGRESP; sending proves
 * nothing.
 *
 * **Details**
 *
 * One `KeepAlive` lives as long as one connection. The owner tells it what happens (`writeStarted`, `writeProgressed`,
 * `writeEnded`, `pingQueued`, `pingFlushed`, `received`) and asks `decide`: at first, when the time of a `Wait` has come,
 * and after a ping was flushed. Everything else only makes the answer later, so nothing else has to wake the owner: a
 * decision that was taken while a write was in progress is looked at again after one interval at most.
 *
 * @since 0.1.0
 */

/**
 * What is known about one link. Mutable, owned by one connection, changed through the functions of this module alone.
 *
 * @category models
 * @since 0.1.0
 */
export interface KeepAlive {
  /** Milliseconds; 0 turns everything off. */
  readonly keepAlive: number
  /** Milliseconds that a flushed ping may stay unanswered. */
  readonly pingTimeout: number
  /** When the last write ended. */
  lastSent: number
  lastReceived: number
  /** When the oldest ping was flushed after which no byte came; `undefined` when no ping is unanswered. */
  pingSent: number | undefined
  /** Whether a PINGREQ waits for its turn to be written. */
  pingQueued: boolean
  /** When the write that is in progress last made progress; `undefined` when none is in progress. */
  writingSince: number | undefined
}

/**
 * What to do now.
 *
 * - `Off`: nothing, ever.
 * - `Wait`: ask again at `until`.
 * - `Ping`: hand PINGREQ to the writer, report `pingQueued`, and ask again at once: the answer is a `Wait`.
 * - `Timeout`: a ping stayed unanswered: the link is half-open. Its deadline was `late` milliseconds ago.
 * - `Blocked`: a write that made no progress since `since`, nor did a byte come in: the link is half-open. This was to be
 *   said `late` milliseconds ago.
 *
 * A caller whose timer woke late, since the process was suspended, must read what has arrived meanwhile and ask again
 * before it believes `Timeout` or `Blocked`: `late` tells.
 *
 * @category models
 * @since 0.1.0
 */
export type Decision =
  | { readonly _tag: "Off" }
  | { readonly _tag: "Wait"; readonly until: number }
  | { readonly _tag: "Ping" }
  | { readonly _tag: "Timeout"; readonly late: number }
  | { readonly _tag: "Blocked"; readonly since: number; readonly late: number }

const off: Decision = { _tag: "Off" }
const ping: Decision = { _tag: "Ping" }

/**
 * The state of a link at the moment when CONNECT has been written, which is when the first interval begins.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: {
  /** Milliseconds; 0 turns everything off. */
  readonly keepAlive: number
  /** Milliseconds. */
  readonly pingTimeout: number
  /** When CONNECT was written. */
  readonly now: number
}): KeepAlive => ({
  keepAlive: options.keepAlive,
  pingTimeout: options.pingTimeout,
  lastSent: options.now,
  lastReceived: options.now,
  pingSent: undefined,
  pingQueued: false,
  writingSince: undefined
})

/**
 * Keep alive as CONNECT carries it: whole seconds, rounded up so that a positive interval never becomes 0, which would turn
 * it off. `undefined` when it is not between 0 and 65,535 seconds.
 *
 * @category encoding
 * @since 0.1.0
 */
export const toSeconds = (millis: number): number | undefined => {
  const seconds = Math.ceil(millis / 1000)
  return seconds >= 0 && seconds <= 65_535 ? seconds : undefined
}

/**
 * The interval that holds on a connection, in seconds: the one that the server set in CONNACK, be it smaller, larger or 0,
 * else the one of CONNECT.
 *
 * @category combinators
 * @since 0.1.0
 */
export const effectiveSeconds = (own: number, serverKeepAlive: number | undefined): number => serverKeepAlive ?? own

/**
 * A write began.
 *
 * @category transitions
 * @since 0.1.0
 */
export const writeStarted = (self: KeepAlive, now: number): void => {
  self.writingSince = now
}

/**
 * A part of the write in progress went out.
 *
 * @category transitions
 * @since 0.1.0
 */
export const writeProgressed = (self: KeepAlive, now: number): void => {
  if (self.writingSince !== undefined) self.writingSince = now
}

/**
 * The write that was in progress ended: its last byte was handed to the socket.
 *
 * @category transitions
 * @since 0.1.0
 */
export const writeEnded = (self: KeepAlive, now: number): void => {
  self.writingSince = undefined
  self.lastSent = now
}

/**
 * A PINGREQ was handed to the writer, asked for or automatic: no further automatic one until it is flushed.
 *
 * @category transitions
 * @since 0.1.0
 */
export const pingQueued = (self: KeepAlive): void => {
  self.pingQueued = true
}

/**
 * A write that held a PINGREQ ended. Report it after `writeEnded`. While an earlier ping is unanswered its deadline stays.
 *
 * @category transitions
 * @since 0.1.0
 */
export const pingFlushed = (self: KeepAlive, now: number): void => {
  self.pingQueued = false
  self.pingSent ??= now
}

/**
 * Bytes came in, whatever they are.
 *
 * @category transitions
 * @since 0.1.0
 */
export const received = (self: KeepAlive, now: number): void => {
  self.lastReceived = now
  self.pingSent = undefined
}

/**
 * What to do at `now`. Changes nothing.
 *
 * **Details**
 *
 * - A ping is due at `min(lastSent, lastReceived) + keepAlive`. While one is unanswered a further one is due at
 *   `lastSent + keepAlive` only: that can happen where `pingTimeout` is longer than the interval, and the server would drop
 *   a client that stays silent for it.
 * - An unanswered ping has the deadline `pingSent + pingTimeout`. Only received bytes cancel it.
 * - While a write is in progress no ping is due, since a packet cannot be put into another. A write is blocked when for
 *   `keepAlive + pingTimeout` it made no progress and no byte came in; while it still drains it is not.
 *
 * @category decisions
 * @since 0.1.0
 */
export const decide = (self: KeepAlive, now: number): Decision => {
  if (self.keepAlive <= 0) return off
  const deadline = self.pingSent === undefined ? Infinity : self.pingSent + self.pingTimeout
  if (now >= deadline) return { _tag: "Timeout", late: now - deadline }
  const due = self.keepAlive +
    (self.pingSent === undefined ? Math.min(self.lastSent, self.lastReceived) : self.lastSent)
  const blocked = self.writingSince === undefined
    ? Infinity
    : Math.max(self.writingSince, self.lastReceived) + self.keepAlive + self.pingTimeout
  if (self.writingSince !== undefined && now >= blocked) {
    return { _tag: "Blocked", since: self.writingSince, late: now - blocked }
  }
  if (now < due) return { _tag: "Wait", until: Math.min(due, deadline, blocked) }
  // A ping is due. Where it cannot be written now, one interval later is the latest time to look again.
  return self.writingSince === undefined && !self.pingQueued
    ? ping
    : { _tag: "Wait", until: Math.min(now + self.keepAlive, deadline, blocked) }
}
