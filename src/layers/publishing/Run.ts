/**
 * Plain QoS 0 messages of one batch, one behind the other in the outbox: as one thing, since nothing happens to any of them
 * but that it is written.
 *
 * @since 0.1.0
 */
import { NewEntry } from "./Entry.ts"
import type { Batch, Entry } from "./Entry.ts"

/** The header of a topic as it is written is its length. */
const headerBytes = 2

const decoder = new TextDecoder()

/** What a message counts for, as `sizeOf` has it: topics that are at hand as they are written are ASCII. */
export const sizeOfPlain = (topic: Uint8Array, payload: Uint8Array): number =>
  payload.length + topic.length - headerBytes

export class Run {
  /** Whether there is something left. */
  state: "queued" | "done" = "queued"
  /** Place in call order of the first one that is left. */
  sequence: number
  /** Bytes that count towards the bound, of those that are left. */
  size: number
  readonly batch: Batch
  readonly #parts: ReadonlyArray<Uint8Array>
  #next = 0

  /** `parts`: of each message the topic as it is written, and the payload. */
  constructor(batch: Batch, sequence: number, size: number, parts: ReadonlyArray<Uint8Array>) {
    this.batch = batch
    this.sequence = sequence
    this.size = size
    this.#parts = parts
  }

  /** Messages that are left. */
  get count(): number {
    return (this.#parts.length - this.#next) / 2
  }

  /** The topic of the first one, as it is written. */
  get topic(): Uint8Array {
    return this.#parts[this.#next]!
  }

  get payload(): Uint8Array {
    return this.#parts[this.#next + 1]!
  }

  /** Goes on to the next one. */
  shift(): void {
    this.size -= sizeOfPlain(this.topic, this.payload)
    this.sequence++
    this.#next += 2
    if (this.#next === this.#parts.length) this.state = "done"
  }

  /** The first one as an entry of its own, which is not in the run any more. */
  shiftEntry(): Entry {
    const { batch, payload, sequence, topic } = this
    const name = decoder.decode(topic.subarray(headerBytes))
    const entry = new NewEntry(name, payload, 0, false, undefined, sizeOfPlain(topic, payload), 0, topic)
    entry.batch = batch
    entry.sequence = sequence
    this.shift()
    return entry
  }
}
