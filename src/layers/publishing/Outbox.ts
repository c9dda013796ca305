/**
 * The client's one queue of publishes that wait for the network: plain data, bounded by count and bytes. It outlives
 * connections.
 *
 * It hands out messages in call order. It does not encode, does not wait and knows no time: a call that has to suspend is
 * an entry in state `waiting`, which is admitted, in order, when room appears.
 *
 * @since 0.1.0
 */
import type * as Effect from "effect/Effect"
import type { PublishProperties, QoS } from "../../protocol/Packet.ts"
import type { PublishResult } from "../../services/MqttClient.ts"
import { OutboxFull, PacketTooLarge } from "../../services/MqttError.ts"
import type { PublishError, PublishPhase, PublishReason } from "../../services/MqttError.ts"
import { noArray, ownArray } from "../../protocol/EmptyCollections.ts"

/** One publish from its call to its end. */
export interface Entry {
  readonly topic: string
  readonly payload: Uint8Array
  readonly qos: QoS
  readonly retain: boolean
  readonly properties: PublishProperties | undefined
  /** Bytes that count towards the bound. */
  readonly size: number
  /** When it was given to the outbox, in milliseconds of the monotonic clock; only set where it can expire. */
  readonly at: number
  /**
   * - `waiting`: no room yet; the caller is suspended
   * - `queued`: in the outbox
   * - `sent`: QoS 1 and 2, the session has it
   * - `done`: over, by whatever end
   */
  state: "waiting" | "queued" | "sent" | "done"
  /** How far it has come. It never goes back: a message that is queued again after a lost session stays `written`. */
  phase: PublishPhase
  /** The topic as it is written, where it was at hand. */
  readonly encodedTopic?: Uint8Array | undefined
  /** Place in call order. */
  sequence: number
  /** Ends the caller's wait; undefined once there is nobody waiting. One of a batch only notes the outcome. */
  resume: ((outcome: Outcome, entry: Entry) => void) | undefined
  /** The fiber that `resume` lets go on, where it is one. A function for each entry would be one more to collect. */
  caller?: ((outcome: Effect.Effect<PublishResult, PublishError>) => void) | undefined
  /** The caller's own id. */
  id?: string | undefined
  /** Whether the session store has it. */
  isKept?: boolean | undefined
  /** Whether it is of an earlier process, so that nobody waits for it. */
  isRestored?: boolean | undefined
  /** Whether it was written into a session that is lost and is sent anew, so that it may arrive twice. */
  isRepublished?: boolean | undefined
  /** The batch that it belongs to, which gives the next message once this one has its place. */
  batch?: Batch | undefined
}

/** A new entry; see `PublishPacket` for why a constructor makes it. */
export class NewEntry implements Entry {
  declare readonly topic: string
  declare readonly payload: Uint8Array
  declare readonly qos: QoS
  declare readonly retain: boolean
  declare readonly properties: PublishProperties | undefined
  declare readonly size: number
  declare readonly at: number
  declare readonly encodedTopic: Uint8Array | undefined
  declare state: Entry["state"]
  declare phase: PublishPhase
  declare sequence: number
  declare resume: Entry["resume"]
  declare caller: Entry["caller"]
  declare id: string | undefined
  declare isKept: boolean
  declare isRestored: boolean
  declare isRepublished: boolean
  declare batch: Batch | undefined

  constructor(
    topic: string,
    payload: Uint8Array,
    qos: QoS,
    retain: boolean,
    properties: PublishProperties | undefined,
    size: number,
    at: number,
    encodedTopic: Uint8Array | undefined
  ) {
    this.topic = topic
    this.payload = payload
    this.qos = qos
    this.retain = retain
    this.properties = properties
    this.size = size
    this.at = at
    this.encodedTopic = encodedTopic
    this.state = "queued"
    this.phase = "queued"
    this.sequence = 0
    this.resume = undefined
    this.caller = undefined
    this.id = undefined
    this.isKept = false
    this.isRestored = false
    this.isRepublished = false
    this.batch = undefined
  }
}

/** Messages that were given to the outbox with one call. They have their places one behind the other. */
export interface Batch {
  /** The place in call order of its first message; each of the others has the next. */
  readonly begin: (sequence: number) => void
  /** The next message that has no place yet. What cannot be published it ends by itself. */
  readonly next: () => Entry | undefined
}

/** What the caller of a publish learns. */
export type Outcome =
  | { readonly _tag: "Done"; readonly reasonCode: number; readonly reasonString: string | undefined }
  | { readonly _tag: "Failed"; readonly reason: PublishReason }

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
  #entries: Array<Entry> = []
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
    this.#placeAll(batch.next())
  }

  /** Places an entry and what of its batch comes behind it, until one has to wait. */
  #placeAll(first: Entry | undefined): void {
    for (let entry = first; entry !== undefined; entry = entry.batch?.next()) {
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
        this.#waiting = ownArray(this.#waiting)
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

  /** The next message to send, without taking it. */
  peek(): Entry | undefined {
    while (this.#head < this.#entries.length) {
      const entry = this.#entries[this.#head]!
      if (entry.state === "queued") return entry
      this.#head++
    }
    if (this.#head > 0) {
      this.#entries = []
      this.#head = 0
    }
    return undefined
  }

  /** Takes the message that `peek` gave: QoS 0 is done with, QoS 1 and 2 go on holding their bytes until `release`. */
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
    if (this.#head >= 1024 && this.#head * 2 >= this.#entries.length) {
      this.#entries = this.#entries.slice(this.#head)
      this.#head = 0
    }
    if (this.#waiting.length > 0) this.#admit()
  }

  /** A QoS 1 or 2 message that was taken is over. */
  release(entry: Entry): void {
    entry.state = "done"
    this.#bytes -= entry.size
    if (this.#waiting.length > 0) this.#admit()
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
      this.#admit()
      return true
    }
    if (entry.state === "waiting") {
      entry.state = "done"
      this.#compactWaiting()
      // The entry may have held up smaller ones behind it.
      this.#admit()
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
    const isOfBatch = (entry: Entry) => entry.batch === batch && (entry.state === "queued" || entry.state === "waiting")
    return [
      ...this.#entries.slice(this.#head).filter(isOfBatch),
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
    const next = this.peek()
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
    const entry = this.peek()
    if (entry === undefined) return undefined
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

  #admit(): void {
    for (let entry = this.#firstWaiting(); entry !== undefined; entry = this.#firstWaiting()) {
      if (!this.#fits(entry)) return
      this.#enqueue(entry)
      // What is published after a batch waits behind all of it.
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
