/**
 * The pings of one connection: queued, written and not answered, in order, since PINGRESP names none.
 *
 * @since 0.1.0
 */
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import { noArray, ownArray } from "../../protocol/EmptyCollections.ts"
import type { PingError } from "../../services/MqttError.ts"

export interface Ping {
  /** Milliseconds. */
  sentAt: number
  /** Undefined where nobody waits for the answer. */
  resume: ((effect: Effect.Effect<Duration.Duration, PingError>) => void) | undefined
}

export const pingreq: Uint8Array = Uint8Array.of(0xc0, 0)

export class Pings {
  #queued: Array<Ping> = noArray()
  #written: Array<Ping> = noArray()
  /** Whether pings were taken whose bytes are not yet flushed. */
  isFlushing = false

  queue(resume: Ping["resume"]): Ping {
    const ping: Ping = { sentAt: 0, resume }
    this.#queued = ownArray(this.#queued)
    this.#queued.push(ping)
    return ping
  }

  /** Says how many are to be written now. */
  take(now: number): number {
    const pings = this.#queued
    this.isFlushing = pings.length > 0
    if (pings.length === 0) return 0
    this.#queued = noArray()
    for (const ping of pings) ping.sentAt = now
    this.#written = [...this.#written, ...pings]
    return pings.length
  }

  /** PINGRESP came: gives the ping that it answers. */
  answered(): Ping | undefined {
    const ping = this.#written.shift()
    if (this.#written.length === 0) this.#written = noArray()
    return ping
  }

  /** Gives all that have no answer; the connection is over. */
  abandon(): ReadonlyArray<Ping> {
    const pings = [...this.#written, ...this.#queued]
    this.#written = noArray()
    this.#queued = noArray()
    return pings
  }
}
