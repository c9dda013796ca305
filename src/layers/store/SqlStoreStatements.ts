/**
 * The tables of the session store on PostgreSQL, and its statements. Each takes a whole batch, as arrays, so that its text is
 * always the same and one round trip is enough.
 *
 * @since 0.1.0
 */
import type { StoredMessage } from "../../services/SessionStore.ts"
import type { StoreBatch } from "./StoreBatch.ts"
import * as StoredRecord from "./StoredRecord.ts"

/**
 * The steps from one version of the tables to the next, each a list of statements; the version is how many the database has
 * been through. A step that was released is never changed.
 */
export const migrations: ReadonlyArray<ReadonlyArray<string>> = [
  [
    `CREATE TABLE mqtt_store (
      id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      name text NOT NULL UNIQUE,
      owner bigint NOT NULL DEFAULT 0,
      session bytea,
      counter bytea
    )`,
    `CREATE TABLE mqtt_publish (
      store integer NOT NULL,
      sequence bigint NOT NULL,
      record bytea NOT NULL,
      release bytea,
      PRIMARY KEY (store, sequence)
    )`,
    `CREATE TABLE mqtt_inbound (
      store integer NOT NULL,
      packet_id integer NOT NULL,
      record bytea NOT NULL,
      PRIMARY KEY (store, packet_id)
    )`,
    `CREATE TABLE mqtt_outcome (
      store integer NOT NULL,
      id text NOT NULL,
      ordinal bigint NOT NULL,
      settled_at bigint NOT NULL,
      record bytea NOT NULL,
      PRIMARY KEY (store, id)
    )`,
    `CREATE INDEX mqtt_outcome_ordinal ON mqtt_outcome (store, ordinal)`,
    `CREATE TABLE mqtt_aside (
      store integer NOT NULL,
      queue text NOT NULL,
      sequence bigint NOT NULL,
      bytes bigint NOT NULL,
      record bytea NOT NULL,
      PRIMARY KEY (store, queue, sequence)
    )`,
    `CREATE TABLE mqtt_quarantine (
      number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      store integer NOT NULL,
      found_at bigint NOT NULL,
      source text NOT NULL,
      key text NOT NULL,
      problem text NOT NULL,
      content bytea
    )`
  ]
]

/** A statement and its parameters. */
export interface Query {
  readonly text: string
  readonly parameters: ReadonlyArray<unknown>
}

/** Who writes: a statement of one who no longer owns the store changes nothing, and returns no row. */
export interface Writer {
  readonly store: number
  readonly owner: string
}

/** Whole numbers go as text: drivers differ in how they type an array of them. */
const integers = (values: ReadonlyArray<number>): string => `{${values.join(",")}}`

/** The records that are encoded are views of one memory. */
const copy = (record: Uint8Array): Uint8Array => new Uint8Array(record)

const nothing = new Uint8Array(0)

const writeText = `
WITH fence AS (
  UPDATE mqtt_store SET
    counter = coalesce($3::bytea, counter),
    session = CASE WHEN $4::boolean THEN $5::bytea ELSE session END
  WHERE id = $1::integer AND owner = $2::bigint
  RETURNING id
), settled AS (
  DELETE FROM mqtt_publish USING fence WHERE store = fence.id AND sequence = ANY ($6::bigint[])
), published AS (
  INSERT INTO mqtt_publish (store, sequence, record, release)
  SELECT fence.id, n.sequence, n.record, nullif(n.release, ''::bytea)
  FROM fence, unnest($7::bigint[], $8::bytea[], $9::bytea[]) AS n (sequence, record, release)
  ON CONFLICT (store, sequence) DO UPDATE SET record = excluded.record, release = excluded.release
), released AS (
  UPDATE mqtt_publish SET release = n.release
  FROM fence, unnest($10::bigint[], $11::bytea[]) AS n (sequence, release)
  WHERE store = fence.id AND mqtt_publish.sequence = n.sequence
), forgotten AS (
  DELETE FROM mqtt_inbound USING fence
  WHERE store = fence.id AND $12::boolean AND NOT packet_id = ANY ($13::integer[])
), received AS (
  INSERT INTO mqtt_inbound (store, packet_id, record)
  SELECT fence.id, n.packet_id, n.record
  FROM fence, unnest($13::integer[], $14::bytea[]) AS n (packet_id, record)
  ON CONFLICT (store, packet_id) DO UPDATE SET record = excluded.record
), outcomes AS (
  INSERT INTO mqtt_outcome (store, id, ordinal, settled_at, record)
  SELECT fence.id, n.id, n.ordinal, $15::bigint, n.record
  FROM fence, unnest($16::text[], $17::bigint[], $18::bytea[]) AS n (id, ordinal, record)
  ON CONFLICT (store, id) DO UPDATE
    SET ordinal = excluded.ordinal, settled_at = excluded.settled_at, record = excluded.record
)
SELECT id FROM fence`

/** Everything of a batch but messages put aside. The ordinals of its outcomes follow `lastOutcome`. */
export const write = (
  writer: Writer,
  batch: StoreBatch,
  lastOutcome: number,
  now: number
): Query => {
  const settled: Array<number> = []
  const sequences: Array<number> = []
  const records: Array<Uint8Array> = []
  const releases: Array<Uint8Array> = []
  const released: Array<number> = []
  const releaseRecords: Array<Uint8Array> = []
  for (const [sequence, effect] of batch.publishes) {
    if (effect === undefined) settled.push(sequence)
    else if (effect._tag === "Release") {
      released.push(sequence)
      releaseRecords.push(copy(StoredRecord.encodeRelease(effect.release)))
    } else {
      const { publish } = effect
      sequences.push(sequence)
      records.push(copy(StoredRecord.encodePublish(publish)))
      releases.push(publish.stage === "released" ? copy(StoredRecord.encodeRelease(publish)) : nothing)
    }
  }
  const inbound = [...batch.inbound.values()]
  const outcomes = [...batch.outcomes]
  const { session } = batch
  return {
    text: writeText,
    parameters: [
      writer.store,
      writer.owner,
      batch.hasCounted ? copy(StoredRecord.encodeCounters(batch)) : null,
      session !== undefined,
      session == null ? null : copy(StoredRecord.encodeSession(session)),
      integers(settled),
      integers(sequences),
      records,
      releases,
      integers(released),
      releaseRecords,
      batch.clearsInbound,
      integers(inbound.map(({ packetId }) => packetId)),
      inbound.map((entry) => copy(StoredRecord.encodeInbound(entry))),
      now,
      outcomes.map(([id]) => id),
      integers(outcomes.map((_, i) => lastOutcome + 1 + i)),
      outcomes.map(([id, outcome]) => copy(StoredRecord.encodeOutcome(id, outcome)))
    ]
  }
}

const takeMessagesText = `
WITH fence AS (
  SELECT id FROM mqtt_store WHERE id = $1::integer AND owner = $2::bigint FOR UPDATE
), taken AS (
  DELETE FROM mqtt_aside USING fence, unnest($3::text[], $4::bigint[]) AS n (queue, sequence)
  WHERE store = fence.id AND mqtt_aside.queue = n.queue AND mqtt_aside.sequence = n.sequence
  RETURNING bytes
)
SELECT coalesce(sum(bytes), 0)::text AS bytes FROM taken`

const putMessagesText = `
WITH fence AS (
  SELECT id FROM mqtt_store WHERE id = $1::integer AND owner = $2::bigint FOR UPDATE
)
INSERT INTO mqtt_aside (store, queue, sequence, bytes, record)
SELECT fence.id, n.queue, n.sequence, n.bytes, n.record
FROM fence, unnest($3::text[], $4::bigint[], $5::bigint[], $6::bytea[]) AS n (queue, sequence, bytes, record)`

/** The messages of a batch: first `take`, which says how many bytes went, then `put`. */
export const writeMessages = (
  { owner, store }: Writer,
  batch: StoreBatch
): { readonly take: Query; readonly put: Query; readonly bytes: number } => {
  const gone: Array<readonly [queue: string, sequence: number]> = []
  const kept: Array<readonly [queue: string, message: StoredMessage]> = []
  let bytes = 0
  for (const [queue, messages] of batch.aside) {
    for (const [sequence, message] of messages) {
      // What is put aside again replaces what was there, whose bytes no longer count.
      gone.push([queue, sequence])
      if (message === undefined) continue
      kept.push([queue, message])
      bytes += message.payload.length
    }
  }
  return {
    bytes,
    take: {
      text: takeMessagesText,
      parameters: [store, owner, gone.map(([queue]) => queue), integers(gone.map(([, sequence]) => sequence))]
    },
    put: {
      text: putMessagesText,
      parameters: [
        store,
        owner,
        kept.map(([queue]) => queue),
        integers(kept.map(([, message]) => message.sequence)),
        integers(kept.map(([, message]) => message.payload.length)),
        kept.map(([queue, message]) => copy(StoredRecord.encodeMessage(queue, message)))
      ]
    }
  }
}

/** What identifies a row, by what it is kept for. */
const keys = {
  publish: ["sequence"],
  inbound: ["packet_id"],
  outcome: ["id"],
  aside: ["queue", "sequence"]
} as const

/** Moves a row of a table out of the way. */
export const quarantine = (
  store: number,
  source: keyof typeof keys,
  row: Readonly<Record<string, unknown>>,
  found: { readonly at: number; readonly key: string; readonly problem: string }
): Query => {
  const columns = keys[source]
  const where = columns.map((column, i) => `${column}::text = $${i + 5}::text`).join(" AND ")
  return {
    text: `
WITH bad AS (DELETE FROM mqtt_${source} WHERE store = $1::integer AND ${where} RETURNING record)
INSERT INTO mqtt_quarantine (store, found_at, source, key, problem, content)
SELECT $1::integer, $2::bigint, 'mqtt_${source}', $3::text, $4::text, record FROM bad`,
    parameters: [store, found.at, found.key, found.problem, ...columns.map((column) => String(row[column]))]
  }
}

/** Moves the session, or the counter of sequences, out of the way. */
export const quarantineState = (
  store: number,
  column: "session" | "counter",
  found: { readonly at: number; readonly key: string; readonly problem: string }
): Query => ({
  text: `
WITH bad AS (SELECT ${column} AS record FROM mqtt_store WHERE id = $1::integer),
  cleared AS (UPDATE mqtt_store SET ${column} = NULL WHERE id = $1::integer)
INSERT INTO mqtt_quarantine (store, found_at, source, key, problem, content)
SELECT $1::integer, $2::bigint, 'mqtt_state', $3::text, $4::text, record FROM bad`,
  parameters: [store, found.at, found.key, found.problem]
})

/** Drops outcomes that are too old, or too many, oldest first and not all at once. */
export const pruneOutcomes = (store: number, settledBefore: number, ordinalUpTo: number, atMost: number): Query => ({
  text: `
DELETE FROM mqtt_outcome WHERE store = $1::integer
  AND ordinal IN (
    SELECT ordinal FROM mqtt_outcome WHERE store = $1::integer ORDER BY ordinal LIMIT $4::integer
  )
  AND (settled_at < $2::bigint OR ordinal <= $3::bigint)`,
  parameters: [store, settledBefore, ordinalUpTo, atMost]
})
