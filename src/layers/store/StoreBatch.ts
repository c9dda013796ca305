/**
 * A batch of changes of a session store, reduced to what is to be written: an entry that comes and goes within one batch is
 * never written at all.
 *
 * @since 0.1.0
 */
import type { Change, StoredMessage, StoredOutcome, StoredPublish, StoredSession } from "../../services/SessionStore.ts"
import type { InboundEntry, Release } from "./StoredRecord.ts"

/** What a store knows without asking its database. It is changed by batches that were committed, and by nothing else. */
export interface StoreState {
  readonly inbound: Map<number, InboundEntry>
  lastSequence: number
  lastPacketId: number
  /** The highest sequence that a publish may have in the database, also by a commit that failed. */
  writtenUpTo: number
  /** The highest sequence that a message may have in the database, for each queue. */
  readonly queues: Map<string, number>
}

export const initialState = (stored: StoredSession): StoreState => ({
  inbound: new Map(stored.inbound.map((entry) => [entry.packetId, entry])),
  lastSequence: stored.lastSequence,
  lastPacketId: stored.lastPacketId,
  writtenUpTo: stored.lastSequence,
  queues: new Map(stored.queues.map(({ lastSequence, queue }) => [queue, lastSequence]))
})

/** An entry that is to be written, one that is to be marked as released, or one that is to go. */
export type PublishEffect =
  | { readonly _tag: "Put"; readonly publish: StoredPublish }
  | { readonly _tag: "Release"; readonly release: Release }
  | undefined

/** Consecutive sequences, both ends included. */
export interface Run {
  readonly from: number
  readonly to: number
}

/** The sequences as runs; those that come in ascending order, as they mostly do, make the fewest. */
export const runsOf = (sequences: Iterable<number>): ReadonlyArray<Run> => {
  const runs: Array<Run> = []
  let from = -1
  let to = -2
  for (const sequence of sequences) {
    if (sequence === to + 1) {
      to = sequence
      continue
    }
    if (from >= 0) runs.push({ from, to })
    from = to = sequence
  }
  if (from >= 0) runs.push({ from, to })
  return runs
}

const noMessages: ReadonlyMap<number, StoredMessage | undefined> = new Map()

/** The net effect of changes upon a state. */
export class StoreBatch {
  /** Undefined: as it was; null: none. */
  session: { readonly key: string; readonly epoch: string } | null | undefined
  /** All inbound identifiers of before go. */
  clearsInbound = false
  readonly inbound = new Map<number, InboundEntry>()
  readonly publishes = new Map<number, PublishEffect>()
  readonly outcomes = new Map<string, StoredOutcome>()
  /** By queue and sequence: a message that is to be written, or undefined for one that is to go. */
  readonly aside = new Map<string, Map<number, StoredMessage | undefined>>()
  lastSequence: number
  lastPacketId: number
  readonly #state: StoreState

  constructor(state: StoreState, changes: ReadonlyArray<Change>) {
    this.#state = state
    this.lastSequence = state.lastSequence
    this.lastPacketId = state.lastPacketId
    for (const change of changes) this.#add(change)
  }

  #add(change: Change): void {
    switch (change._tag) {
      case "Published":
        this.publishes.set(change.publish.sequence, { _tag: "Put", publish: change.publish })
        if (change.publish.sequence > this.lastSequence) this.lastSequence = change.publish.sequence
        if (change.publish.packetId > 0) this.lastPacketId = change.publish.packetId
        return
      case "Settled":
        // What is not written yet needs no removal.
        if (change.sequence > this.#state.writtenUpTo) this.publishes.delete(change.sequence)
        else this.publishes.set(change.sequence, undefined)
        if (change.id !== undefined) this.outcomes.set(change.id, change.outcome)
        return
      case "Released":
        this.#release(change)
        return
      case "Received":
        this.inbound.set(change.packetId, { ...this.#inboundOf(change.packetId), received: true })
        return
      case "Completed": {
        const entry = this.#inboundOf(change.packetId)
        if (!entry.received) return
        this.inbound.set(change.packetId, { ...entry, received: false, generation: entry.generation + 1 })
        return
      }
      case "SessionBegan":
        this.session = { key: change.key, epoch: change.epoch }
        return
      case "SessionEnded":
        this.session = null
        this.clearsInbound = true
        this.inbound.clear()
        return
      case "PutAside":
        this.#queue(change.queue).set(change.message.sequence, change.message)
        return
      case "TakenUp":
        if (change.sequence > (this.#state.queues.get(change.queue) ?? -1)) {
          this.#queue(change.queue).delete(change.sequence)
        } else this.#queue(change.queue).set(change.sequence, undefined)
        return
    }
  }

  #release({ answer, releaseOrder, sequence }: Release): void {
    const effect = this.publishes.get(sequence)
    if (effect?._tag === "Put") {
      const publish: StoredPublish = { ...effect.publish, stage: "released", releaseOrder, answer }
      this.publishes.set(sequence, { _tag: "Put", publish })
    } else if (effect !== undefined || !this.publishes.has(sequence)) {
      this.publishes.set(sequence, { _tag: "Release", release: { sequence, releaseOrder, answer } })
    }
  }

  #inboundOf(packetId: number): InboundEntry {
    return this.inbound.get(packetId) ??
      (this.clearsInbound ? undefined : this.#state.inbound.get(packetId)) ??
      { packetId, received: false, generation: 0 }
  }

  #queue(name: string): Map<number, StoredMessage | undefined> {
    let queue = this.aside.get(name)
    if (queue === undefined) this.aside.set(name, queue = new Map())
    return queue
  }

  get isEmpty(): boolean {
    return this.publishes.size === 0 && this.outcomes.size === 0 && this.inbound.size === 0 && !this.clearsInbound &&
      this.session === undefined && !this.hasCounted &&
      [...this.aside.values()].every((queue) => queue.size === 0)
  }

  /** Whether the counters are other than before. */
  get hasCounted(): boolean {
    return this.lastSequence !== this.#state.lastSequence || this.lastPacketId !== this.#state.lastPacketId
  }

  /** The sequences of the publishes that are to go. */
  *settled(): Iterable<number> {
    for (const [sequence, effect] of this.publishes) if (effect === undefined) yield sequence
  }

  messagesOf(queue: string): ReadonlyMap<number, StoredMessage | undefined> {
    return this.aside.get(queue) ?? noMessages
  }

  /** To be called before it is committed: from then on nobody can be sure that the database does not have it. */
  beginCommit(): void {
    const state = this.#state
    if (this.lastSequence > state.writtenUpTo) state.writtenUpTo = this.lastSequence
    for (const [queue, messages] of this.aside) {
      let last = state.queues.get(queue) ?? -1
      for (const [sequence, message] of messages) if (message !== undefined && sequence > last) last = sequence
      state.queues.set(queue, last)
    }
  }

  /** To be called once it is committed. */
  applyToState(): void {
    const state = this.#state
    state.lastSequence = this.lastSequence
    state.lastPacketId = this.lastPacketId
    if (this.clearsInbound) state.inbound.clear()
    for (const [packetId, entry] of this.inbound) state.inbound.set(packetId, entry)
  }
}
