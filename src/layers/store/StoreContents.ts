/**
 * What the rows of a store come to: everything that can be read, and a list of those that cannot.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import type { Quarantined, StoredMessage, StoredPublish, StoredSession } from "../../services/SessionStore.ts"
import type { InboundEntry } from "./StoredRecord.ts"
import * as StoredRecord from "./StoredRecord.ts"

/** A row as a database gives it; whole numbers may be bigints. */
export type Row = Readonly<Record<string, unknown>>

/** The tables, by what is in them. */
export type Source = "state" | "publish" | "inbound" | "outcome" | "aside"

/** A row that cannot be read, by which the store can find it. */
export interface BadRow extends Quarantined {
  readonly source: Source
  readonly row: Row
}

/** The value as a number, if it is a whole one that numbers can hold. */
export const safeInteger = (value: unknown): number | undefined => {
  const number = typeof value === "bigint" ? Number(value) : value
  return typeof number === "number" && Number.isSafeInteger(number) ? number : undefined
}

export const badRow = (source: Source, row: Row, key: string, problem: string): BadRow => ({
  source,
  row,
  table: `mqtt_${source}`,
  key,
  problem
})

/** A message that was put aside; its key is `queue` and `sequence`. */
export const readMessage = (queue: string, row: Row): Result.Result<StoredMessage, BadRow> => {
  const bad = (problem: string) => badRow("aside", row, `${queue}/${row["sequence"]}`, problem)
  const sequence = safeInteger(row["sequence"])
  if (sequence === undefined) return Result.fail(bad("its sequence is out of range"))
  const message = Result.mapError(StoredRecord.decodeMessage(queue, sequence, row["record"]), bad)
  if (Result.isFailure(message) || safeInteger(row["bytes"]) === message.success.payload.length) return message
  return Result.fail(bad("its size is another one"))
}

interface QueueTotals {
  count: number
  bytes: number
  lastSequence: number
}

/** Reads rows, in the order of its methods. */
export class StoreContents {
  readonly bad: Array<BadRow> = []
  #session: StoredSession["session"]
  #counters: StoredRecord.Counters = { lastSequence: 0, lastPacketId: 0 }
  #publishes: ReadonlyArray<StoredPublish> = []
  #inbound: ReadonlyArray<InboundEntry> = []
  readonly #queues = new Map<string, QueueTotals>()

  #read<A>(source: Source, row: Row, key: unknown, entry: Result.Result<A, string>, use: (value: A) => void): void {
    if (Result.isSuccess(entry)) use(entry.success)
    else this.bad.push(badRow(source, row, String(key), entry.failure))
  }

  /** `name`, `record`. */
  addState(row: Row): void {
    const { name, record } = row
    if (name === "session") {
      this.#read("state", row, name, StoredRecord.decodeSession(record), (session) => void (this.#session = session))
    } else if (name === "lastSequence") {
      this.#read("state", row, name, StoredRecord.decodeCounters(record), (last) => void (this.#counters = last))
    } else {
      this.#read("state", row, name, Result.fail("its name is not known"), () => {})
    }
  }

  /** `sequence`, `record`, `release`, by sequence. */
  addPublishes(rows: ReadonlyArray<Row>): void {
    const publishes: Array<StoredPublish> = []
    const owners = new Map<number, number>()
    for (const row of rows) {
      const sequence = safeInteger(row["sequence"])
      const entry = sequence === undefined
        ? Result.fail("its sequence is out of range")
        : StoredRecord.decodePublish(sequence, row["record"], row["release"])
      this.#read("publish", row, row["sequence"], entry, (publish) => {
        const owner = publish.packetId === 0 ? undefined : owners.get(publish.packetId)
        if (owner !== undefined) {
          this.bad.push(badRow("publish", row, `${sequence}`, `its packet identifier belongs to ${owner}`))
          return
        }
        owners.set(publish.packetId, publish.sequence)
        publishes.push(publish)
      })
    }
    this.#publishes = publishes
  }

  /** `packet_id`, `record`. */
  addInbound(rows: ReadonlyArray<Row>): void {
    const inbound: Array<InboundEntry> = []
    for (const row of rows) {
      const entry = StoredRecord.decodeInbound(Number(row["packet_id"]), row["record"])
      this.#read("inbound", row, row["packet_id"], entry, (entry) => void inbound.push(entry))
    }
    this.#inbound = inbound
  }

  /** `queue`, `sequence`, `bytes`, `record`; in as many portions as there are. */
  addMessages(rows: ReadonlyArray<Row>): void {
    for (const row of rows) {
      const queue = String(row["queue"])
      const message = readMessage(queue, row)
      if (Result.isFailure(message)) {
        this.bad.push(message.failure)
        continue
      }
      const totals = this.#queues.get(queue) ?? { count: 0, bytes: 0, lastSequence: 0 }
      this.#queues.set(queue, totals)
      totals.count += 1
      totals.bytes += message.success.payload.length
      totals.lastSequence = Math.max(totals.lastSequence, message.success.sequence)
    }
  }

  get stored(): StoredSession {
    const highest = this.#publishes.at(-1)?.sequence ?? 0
    const sent = this.#publishes.findLast(({ packetId }) => packetId > 0)
    return {
      session: this.#session,
      publishes: this.#publishes,
      inbound: this.#inbound,
      lastSequence: Math.max(this.#counters.lastSequence, highest),
      lastPacketId: this.#counters.lastPacketId || (sent?.packetId ?? 0),
      queues: [...this.#queues].map(([queue, totals]) => ({ queue, ...totals })),
      quarantined: this.bad.map(({ key, problem, table }) => ({ table, key, problem }))
    }
  }
}
