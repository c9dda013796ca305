/**
 * The client's one queue of publishes that wait for the network: plain data, bounded by count and bytes. It outlives
 * connections.
 *
 * It hands out messages in call order. It does not encode, does not wait and knows no time: a call that has to suspend is
 * an entry in state `waiting`, which is admitted, in order, when room appears.
 *
 * @since 0.1.0
 */
import { OutboxFull, PacketTooLarge } from "../../services/MqttError.ts"
import { isNoArray, newArray, noArray } from "../../protocol/EmptyCollections.ts"
import type { Batch, Entry, Outcome } from "./Entry.ts"
import { Run } from "./Run.ts"

const taken: Outcome = { _tag: "Done", reasonCode: 0, reasonString: undefined }

export interface Limits {
  readonly maxMessages: number
  readonly maxBytes: number
  readonly strategy: "suspend" | "dropOldest" | "dropNewest" | "fail"
}

/** What an outbox tells its surroundings. */
export interface OutboxHooks {
  /** The strategy dropped it. */
  readonly onDrop: (entry: Entry) => void
  /** Its caller is to be told. */
  readonly finish: (entry: Entry, outcome: Outcome) => void
}

export class Outbox {
  #limits: Limits
  /** Live and removed entries in call order, from `#head` on. */
  #entries = newArray<Entry | Run>()
  #head = 0
  #queued = 0
  #waiting: Array<Entry> = noArray()
  #waitingHead = 0
  #bytes = 0
  #sequence = 0
  readonly #hooks: OutboxHooks

  constructor(limits: Limits, hooks: OutboxHooks) {
    this.#limits = limits
    this.#hooks = hooks
  }

  /** Publishes of which no byte was sent and which are not waiting for room. */
  get queued(): number {
    return this.#queued
  }

  /** Bytes of queued publishes and of QoS 1 and 2 publishes that are not acknowledged. */
  get bytes(): number {
    return this.#bytes
  }

  get limits(): Limits {
    return this.#limits
  }

  /** Sequence of the newest entry; `passed` compares with it. */
  get lastSequence(): number {
    return this.#sequence
  }

  /** New limits; they hold for the calls that are suspended as well. */
  configure(limits: Limits): void {
    this.#limits = limits
    for (const entry of this.#takeWaiting()) this.#placeAll(entry)
  }

  /** Takes a message, or suspends, drops or fails by the strategy. The entry's `resume` may be called at once. */
  offer(entry: Entry): void {
    entry.sequence = ++this.#sequence
    this.#place(entry)
  }

  /** Takes the messages of a batch, so many, as `offer` takes each of them. Of those that suspend only the first exists. */
  offerBatch(batch: Batch, count: number): void {
    batch.begin(this.#sequence + 1)
    this.#sequence += count
    this.#placeAll(this.#nextOf(batch))
  }

  /** The next message of a batch that is not one of a run; the run before it is in its place then. */
  #nextOf(batch: Batch | undefined): Entry | undefined {
    // Where somebody waits, nothing of the batch may come before.
    if (batch !== undefined && this.#firstWaiting() === undefined) this.#placeRun(batch)
    return batch?.next()
  }

  #placeRun(batch: Batch): void {
    const messages = this.#limits.maxMessages - this.#queued
    const bytes = this.#limits.maxBytes - this.#bytes
    const run = messages > 0 && bytes > 0 ? batch.run(messages, bytes) : undefined
    if (run === undefined) return
    this.#entries.push(run)
    this.#queued += run.count
    this.#bytes += run.size
  }

  /** Places an entry and what of its batch comes behind it, until one has to wait. */
  #placeAll(first: Entry | undefined): void {
    for (let entry = first; entry !== undefined; entry = this.#nextOf(entry.batch)) {
      this.#place(entry)
      if (entry.state === "waiting") return
    }
  }

  #place(entry: Entry): void {
    const { maxBytes, strategy } = this.#limits
    if (entry.size > maxBytes) {
      entry.state = "done"
      const reason = new PacketTooLarge({ size: entry.size, limit: maxBytes, of: "outbox" })
      return this.#hooks.finish(entry, { _tag: "Failed", reason })
    }
    if (this.hasRoom(entry)) return this.#enqueue(entry)
    switch (strategy) {
      case "suspend":
        entry.state = "waiting"
        if (isNoArray(this.#waiting)) this.#waiting = newArray()
        this.#waiting.push(entry)
        return
      case "dropOldest":
        if (!this.#canMakeRoom(entry)) return this.#drop(entry)
        while (!this.#fits(entry)) this.#drop(this.#shiftLive()!)
        return this.#enqueue(entry)
      case "dropNewest":
      case "fail":
        return this.#drop(entry)
    }
  }

  /** What is to be sent next, without taking it. Who waits for room is admitted where nothing else is left. */
  peek(): Entry | Run | undefined {
    const next = this.#first()
    if (next !== undefined || this.#waiting.length === 0) return next
    this.admit()
    return this.#first()
  }

  #first(): Entry | Run | undefined {
    while (this.#head < this.#entries.length) {
      const entry = this.#entries[this.#head]!
      if (entry.state === "queued") return entry
      this.#head++
    }
    if (this.#head > 0) {
      this.#entries = newArray()
      this.#head = 0
    }
    return undefined
  }

  /**
   * Takes the message that `peek` gave: QoS 0 is done with, QoS 1 and 2 go on holding their bytes until `release`. `admit` is to
   * follow, once for all that are taken.
   */
  take(entry: Entry): void {
    this.#head++
    this.#queued--
    if (entry.qos === 0) {
      entry.state = "done"
      this.#bytes -= entry.size
    } else {
      entry.state = "sent"
      if (entry.phase === "queued") entry.phase = "written"
    }
    this.#closeGap()
  }

  /** The same for so many messages, of so many bytes, that were shifted from the run that `peek` gave. */
  takeOf(run: Run, messages: number, bytes: number): void {
    this.#queued -= messages
    this.#bytes -= bytes
    if (run.state === "queued") return
    this.#head++
    this.#closeGap()
  }

  #closeGap(): void {
    if (this.#head < 1024 || this.#head * 2 < this.#entries.length) return
    this.#entries = this.#entries.slice(this.#head)
    this.#head = 0
  }

  /** Makes single entries of the messages in runs. */
  unroll(): void {
    const entries: Array<Entry> = []
    for (const entry of this.#entries.slice(this.#head)) {
      if (!(entry instanceof Run)) entries.push(entry)
      else while (entry.state === "queued") entries.push(entry.shiftEntry())
    }
    this.#entries = entries
    this.#head = 0
  }

  /** A QoS 1 or 2 message that was taken is over. */
  release(entry: Entry): void {
    entry.state = "done"
    this.#bytes -= entry.size
    if (this.#waiting.length > 0) this.admit()
  }

  /** Puts messages that were taken back to the front, in their order, to be sent as new ones. */
  putBack(entries: ReadonlyArray<Entry>): void {
    for (const entry of entries) entry.state = "queued"
    const queued = this.#entries.slice(this.#head)
    const [next] = queued
    const isBefore = next === undefined || entries.every(({ sequence }) => sequence < next.sequence)
    this.#entries = [...entries, ...queued]
    if (!isBefore) this.#entries.sort((a, b) => a.sequence - b.sequence)
    this.#head = 0
    this.#queued += entries.length
  }

  /** Messages that an earlier process had taken begin anew, before all others; new places are behind `lastSequence`. */
  restore(queued: ReadonlyArray<Entry>, sent: ReadonlyArray<Entry>, lastSequence: number): void {
    for (const entry of sent) {
      entry.state = "sent"
      this.#bytes += entry.size
    }
    for (const entry of queued) this.#bytes += entry.size
    this.putBack(queued)
    this.#sequence = Math.max(this.#sequence, lastSequence)
  }

  /** Takes out a message of which no byte was sent, as if it had never been there. False if it is not waiting any more. */
  remove(entry: Entry): boolean {
    if (entry.state === "queued") {
      entry.state = "done"
      this.#queued--
      this.#bytes -= entry.size
      this.#compact()
      this.admit()
      return true
    }
    if (entry.state === "waiting") {
      entry.state = "done"
      this.#compactWaiting()
      // The entry may have held up smaller ones behind it.
      this.admit()
      return true
    }
    return false
  }

  /** Removes all that is queued or waiting, in order. */
  removeAll(): Array<Entry> {
    const removed: Array<Entry> = []
    for (let entry = this.#shiftLive(); entry !== undefined; entry = this.#shiftLive()) removed.push(entry)
    for (const waiting of this.#takeWaiting()) {
      for (let entry: Entry | undefined = waiting; entry !== undefined; entry = entry.batch?.next()) {
        entry.state = "done"
        removed.push(entry)
      }
    }
    return removed
  }

  /** What of a batch is queued or waiting. */
  entriesOf(batch: Batch): Array<Entry> {
    this.unroll()
    const isOfBatch = (entry: Entry) => entry.batch === batch && (entry.state === "queued" || entry.state === "waiting")
    return [
      ...(this.#entries as Array<Entry>).filter(isOfBatch),
      ...this.#waiting.slice(this.#waitingHead).filter(isOfBatch)
    ]
  }

  #takeWaiting(): Array<Entry> {
    const waiting = this.#waiting.slice(this.#waitingHead).filter((entry) => entry.state === "waiting")
    this.#waiting = noArray()
    this.#waitingHead = 0
    this.#removedWaiting = 0
    return waiting
  }

  /** Whether nothing up to this place in call order is still queued or waiting. */
  passed(sequence: number): boolean {
    const next = this.#first()
    if (next !== undefined) return next.sequence > sequence
    const waiting = this.#firstWaiting()
    return waiting === undefined || waiting.sequence > sequence
  }

  /** Whether `offer` would take the entry at once. */
  hasRoom(entry: Entry): boolean {
    return this.#firstWaiting() === undefined && this.#fits(entry)
  }

  #fits(entry: Entry): boolean {
    return this.#queued < this.#limits.maxMessages && this.#bytes + entry.size <= this.#limits.maxBytes
  }

  /** Whether there would be room without all that is queued: bytes of sent messages cannot be dropped. */
  #canMakeRoom(entry: Entry): boolean {
    let bytes = this.#bytes + entry.size
    for (let index = this.#head; bytes > this.#limits.maxBytes && index < this.#entries.length; index++) {
      const queued = this.#entries[index]!
      if (queued.state === "queued") bytes -= queued.size
    }
    return bytes <= this.#limits.maxBytes
  }

  #enqueue(entry: Entry): void {
    entry.state = "queued"
    this.#entries.push(entry)
    this.#queued++
    this.#bytes += entry.size
    if (entry.qos === 0) this.#hooks.finish(entry, taken)
  }

  #drop(entry: Entry): void {
    entry.state = "done"
    this.#hooks.onDrop(entry)
    const { maxBytes, maxMessages, strategy } = this.#limits
    if (strategy !== "suspend") {
      this.#hooks.finish(entry, { _tag: "Failed", reason: new OutboxFull({ strategy, maxMessages, maxBytes }) })
    }
  }

  /** Takes out the oldest queued entry. */
  #shiftLive(): Entry | undefined {
    const entry = this.#first()
    if (entry === undefined) return undefined
    if (entry instanceof Run) {
      const first = entry.shiftEntry()
      this.takeOf(entry, 1, first.size)
      first.state = "done"
      return first
    }
    this.#head++
    this.#queued--
    this.#bytes -= entry.size
    entry.state = "done"
    return entry
  }

  #firstWaiting(): Entry | undefined {
    while (this.#waitingHead < this.#waiting.length) {
      const entry = this.#waiting[this.#waitingHead]!
      if (entry.state === "waiting") return entry
      this.#waitingHead++
    }
    if (this.#waitingHead > 0) {
      this.#waiting = noArray()
      this.#waitingHead = 0
    }
    return undefined
  }

  /** Lets in, in order, who waits and has room now. */
  admit(): void {
    for (let entry = this.#firstWaiting(); entry !== undefined; entry = this.#firstWaiting()) {
      if (!this.#fits(entry)) return
      this.#enqueue(entry)
      // What is published after a batch waits behind all of it.
      if (entry.batch !== undefined) this.#placeRun(entry.batch)
      const next = entry.batch?.next()
      if (next === undefined) {
        this.#waitingHead++
      } else {
        next.state = "waiting"
        this.#waiting[this.#waitingHead] = next
      }
    }
  }

  // Entries that were removed stay as tombstones until they are reached; bounded to half of the arrays.
  #compact(): void {
    const length = this.#entries.length - this.#head
    if (length > 64 && length > this.#queued * 2) {
      this.#entries = this.#entries.slice(this.#head).filter((entry) => entry.state === "queued")
      this.#head = 0
    }
  }

  #removedWaiting = 0

  #compactWaiting(): void {
    if (++this.#removedWaiting > 64 && this.#removedWaiting * 2 > this.#waiting.length - this.#waitingHead) {
      this.#waiting = this.#waiting.slice(this.#waitingHead).filter((entry) => entry.state === "waiting")
      this.#waitingHead = 0
      this.#removedWaiting = 0
    }
  }
}
