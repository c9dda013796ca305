/**
 * What has changed of a session and is not yet kept by its store, in order.
 *
 * Whoever changes the state of the session records it here in the same turn. The `Committer` takes what there is, together
 * with the bytes that depend on it, and commits it before these are written. A client without a store has no journal.
 *
 * @since 0.1.0
 */
import type { PublishProperties } from "../../protocol/Packet.ts"
import type { Change, StoredOutcome, StoredSession } from "../../services/SessionStore.ts"
import type { Entry } from "../publishing/Entry.ts"

/** A publish that was given its identifier in a batch whose bytes are not written. */
export interface Fresh {
  readonly entry: Entry
  readonly packetId: number
  /** How far it had come before. */
  readonly phase: Entry["phase"]
  /** Whether the store knew of it before. */
  readonly wasKept: boolean
}

/** What is committed at once. */
export interface Batch {
  readonly changes: ReadonlyArray<Change>
  /** To be run once the changes are kept. */
  readonly tells: ReadonlyArray<() => void>
}

/** Whether it is about the session as a whole. */
export const isOfSession = (change: Change): boolean => change._tag === "SessionEnded" || change._tag === "SessionBegan"

const nothing: Batch = { changes: [], tells: [] }

/** Who looks after the journal, and wants to know that there is something. */
export type OnRecorded = () => void

export class Journal {
  /** Milliseconds since the epoch. */
  readonly #wallClock: () => number
  readonly #onRecorded: OnRecorded
  #changes: Array<Change> = []
  #tells: Array<() => void> = []
  /** Publishes that were given their identifiers since `takeFresh`. */
  #fresh: Array<Fresh> = []
  #session: StoredSession["session"]
  /** Whether the server keeps the session when the link is lost, so that what it sends again has to be known. */
  #isKept = false
  /** Of this process; sessions that begin in it are told apart by a number. */
  readonly #process: string
  #sessions = 0
  #isSessionChanging = false
  /** Whether the store knows identifiers of a session that it does not know. */
  #hasRemains = false
  /** For each inbound identifier how many of its exchanges are complete. */
  readonly #generations = new Map<number, number>()
  #lastReleaseOrder = 0

  /** `process` is a text that no other process uses. */
  constructor(process: string, wallClock: () => number, onRecorded: OnRecorded) {
    this.#process = process
    this.#wallClock = wallClock
    this.#onRecorded = onRecorded
  }

  /** Takes over what the store holds. */
  restore(stored: StoredSession): void {
    this.#session = stored.session
    this.#isKept = stored.session !== undefined
    this.#hasRemains = stored.session === undefined && stored.inbound.length > 0
    for (const { generation, packetId } of stored.session === undefined ? [] : stored.inbound) {
      this.#generations.set(packetId, generation)
    }
    for (const { releaseOrder } of stored.publishes) {
      this.#lastReleaseOrder = Math.max(this.#lastReleaseOrder, releaseOrder)
    }
  }

  /** Whether a change of the session as a whole waits to be committed. */
  get isSessionChanging(): boolean {
    return this.#isSessionChanging
  }

  get isEmpty(): boolean {
    return this.#changes.length === 0 && this.#tells.length === 0
  }

  record(change: Change): void {
    if (isOfSession(change)) this.#isSessionChanging = true
    this.#changes.push(change)
    this.#onRecorded()
  }

  /** Calls `tell` when all that is recorded so far is kept. */
  whenKept(tell: () => void): void {
    this.#tells.push(tell)
    this.#onRecorded()
  }

  // ---------------------------------------------------------------------------
  // the session
  // ---------------------------------------------------------------------------

  /**
   * CONNACK said what becomes of the session; `key` is that of a session that outlives the link.
   */
  begin(resumes: boolean, key: string | undefined): void {
    if (!resumes) {
      if (this.#session !== undefined || this.#generations.size > 0 || this.#hasRemains) {
        this.record({ _tag: "SessionEnded" })
      }
      this.#hasRemains = false
      this.#generations.clear()
      this.#session = undefined
      this.#sessions++
    }
    this.#isKept = key !== undefined
    if (key === undefined || this.#session?.key === key) return
    this.#session = { key, epoch: this.#session?.epoch ?? this.#epoch }
    this.record({ _tag: "SessionBegan", ...this.#session })
  }

  /** The server was told to forget the session. */
  end(): void {
    if (this.#session !== undefined) this.record({ _tag: "SessionEnded" })
    this.#session = undefined
    this.#isKept = false
    this.#generations.clear()
    this.#sessions++
  }

  get #epoch(): string {
    return `${this.#process}${this.#sessions}`
  }

  // ---------------------------------------------------------------------------
  // outbound
  // ---------------------------------------------------------------------------

  /** The publish has an exchange. */
  published(entry: Entry, packetId: number, properties: PublishProperties | undefined): void {
    this.#fresh.push({ entry, packetId, phase: entry.phase, wasKept: entry.isKept === true })
    this.#publish(entry, "published", packetId, properties)
  }

  /** The publish is to be sent anew, under an identifier that it does not have yet. */
  requeued(entry: Entry, properties: PublishProperties | undefined): void {
    this.#publish(entry, "queued", 0, properties)
  }

  #publish(
    entry: Entry,
    stage: "queued" | "published",
    packetId: number,
    properties: PublishProperties | undefined
  ): void {
    entry.isKept = true
    const { id, payload, qos, retain, sequence, topic } = entry
    this.record({
      _tag: "Published",
      publish: {
        sequence,
        stage,
        packetId,
        releaseOrder: 0,
        answer: 0,
        id,
        ...(entry.isRepublished === true && { isRepublished: true }),
        qos: qos as 1 | 2,
        retain,
        topic,
        payload,
        properties,
        storedAt: this.#wallClock()
      }
    })
  }

  released(entry: Entry, answer: number): void {
    if (!entry.isKept) return
    this.record({ _tag: "Released", sequence: entry.sequence, releaseOrder: ++this.#lastReleaseOrder, answer })
  }

  /** The publish is over. */
  settled(entry: Entry, outcome: StoredOutcome): void {
    entry.isKept = false
    this.record({ _tag: "Settled", sequence: entry.sequence, id: entry.id, outcome })
  }

  /** The publish is not to be kept, since no byte of it was written. */
  withdrawn(entry: Entry): void {
    entry.isKept = false
    this.record({ _tag: "Settled", sequence: entry.sequence, id: undefined, outcome: { _tag: "Unknown" } })
  }

  // ---------------------------------------------------------------------------
  // inbound
  // ---------------------------------------------------------------------------

  /** Names a QoS 2 message, the same as often as the server sends it. */
  deliveryId(packetId: number): string {
    return `${this.#session?.epoch ?? this.#epoch}-${packetId}-${this.#generations.get(packetId) ?? 0}`
  }

  /** The message was handed over, and PUBREC is to say so. */
  received(packetId: number): void {
    if (this.#isKept) this.record({ _tag: "Received", packetId })
  }

  /** PUBREL came: the identifier stands for another message from now on. */
  completed(packetId: number): void {
    this.#generations.set(packetId, (this.#generations.get(packetId) ?? 0) + 1)
    if (this.#isKept) this.record({ _tag: "Completed", packetId })
  }

  // ---------------------------------------------------------------------------
  // batches
  // ---------------------------------------------------------------------------

  take(): Batch {
    if (this.isEmpty) return nothing
    const batch = { changes: this.#changes, tells: this.#tells }
    this.#changes = []
    this.#tells = []
    this.#isSessionChanging = false
    return batch
  }

  takeFresh(): ReadonlyArray<Fresh> {
    if (this.#fresh.length === 0) return this.#fresh
    const fresh = this.#fresh
    this.#fresh = []
    return fresh
  }

  /** A batch could not be committed: it stays before what was recorded since. */
  putBack(batch: Batch): void {
    this.#changes = [...batch.changes, ...this.#changes]
    if (batch.changes.some(isOfSession)) this.#isSessionChanging = true
    this.#tells = [...batch.tells, ...this.#tells]
  }
}
