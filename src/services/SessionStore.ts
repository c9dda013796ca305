/**
 * What of a session must survive the process: exchanges that are not over, identifiers of received QoS 2 messages, outcomes
 * of publishes under their callers' own ids, and messages that were put aside for a slow consumer.
 *
 * A store holds the session of one client. By default there is none, and the session lives as long as the client:
 * `SessionStore` is a reference whose default keeps nothing. A layer of `effect-mqtt/node` (`layerSqlite`, `layerSql`), or
 * `layerMemory` for tests, puts a store in its place.
 *
 * The client tells the store of changes, in order, and commits them in batches before the bytes that depend on them are
 * written: a PUBLISH before it is sent, `Released` before PUBREL, `Received` before PUBREC, `Completed` before PUBCOMP.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { PublishProperties, QoS } from "../protocol/Packet.ts"

/**
 * A session store could not do what it was asked for.
 *
 * **Details**
 *
 * - `locked`: another client or process uses the store; end it, or give this one a store of its own
 * - `incompatible`: the file or the tables are not ours, or of a newer version
 * - `corrupt`: the file is damaged as a whole; single entries that cannot be read are quarantined instead
 * - `full`: no room on the disk, or over a bound of the store
 * - `unavailable`: the database cannot be reached
 * - `other`: see the cause
 *
 * Trying again helps with `full`, `unavailable` and `other` only.
 *
 * @category errors
 * @since 0.1.0
 */
export class SessionStoreError extends Schema.TaggedError<SessionStoreError>()("SessionStoreError", {
  operation: Schema.Literals(["open", "commit", "transaction", "read"]),
  kind: Schema.Literals(["locked", "incompatible", "corrupt", "full", "unavailable", "other"]),
  /** The store, for example by its file name; never with credentials. */
  store: Schema.String,
  detail: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {
  /** Whether the same may succeed later. */
  get retryable(): boolean {
    return this.kind === "full" || this.kind === "unavailable" || this.kind === "other"
  }

  override get message(): string {
    return `the session store ${this.store} failed (${this.operation}, ${this.kind}): ${this.detail}`
  }
}

/**
 * The client has no session store, which would know.
 *
 * @category errors
 * @since 0.1.0
 */
export class NoSessionStore extends Schema.TaggedError<NoSessionStore>()("NoSessionStore", {}) {
  override get message(): string {
    return "the client has no session store; provide one (layerSqlite, layerSql) to keep outcomes"
  }
}

/**
 * What became of a publish under its caller's own id.
 *
 * - `Delivered`: PUBACK or PUBCOMP came
 * - `Refused`: the server refused it; publishing it again is a new publish
 * - `Unknown`: a byte was written, and the session was lost before the server answered: it may have been delivered
 *
 * @category models
 * @since 0.1.0
 */
export type StoredOutcome =
  | {
    readonly _tag: "Delivered"
    readonly qos: 1 | 2
    readonly reasonCode: number
    /** At QoS 2, true if it was published anew after its session was lost, so that it may have arrived twice. */
    readonly isRepublished?: true | undefined
  }
  | { readonly _tag: "Refused"; readonly reasonCode: number }
  | { readonly _tag: "Unknown" }

/**
 * An outbound QoS 1 or 2 message as it is kept.
 *
 * @category models
 * @since 0.1.0
 */
export interface StoredPublish {
  /** Place in call order, ascending over the life of the store; the key of the entry. */
  readonly sequence: number
  /**
   * - `queued`: it was written into a session that is lost and waits to be published anew; `packetId` is 0
   * - `published`: awaits PUBACK or PUBREC
   * - `released`: awaits PUBCOMP
   */
  readonly stage: "queued" | "published" | "released"
  readonly packetId: number
  /** Place among the released, in the order of their PUBRECs; 0 before. */
  readonly releaseOrder: number
  /** The reason code of PUBREC; 0 before. */
  readonly answer: number
  /** The caller's own id, unique in the store. */
  readonly id: string | undefined
  /** True if it was written into a session that is lost, so that it may arrive twice. */
  readonly isRepublished?: true | undefined
  readonly qos: 1 | 2
  readonly retain: boolean
  readonly topic: string
  readonly payload: Uint8Array
  /** As the caller gave them, with the message expiry interval as it was at `storedAt`. */
  readonly properties: PublishProperties | undefined
  /** Milliseconds since the epoch. */
  readonly storedAt: number
}

/**
 * A received message that was put aside for a consumer that was too slow.
 *
 * @category models
 * @since 0.1.0
 */
export interface StoredMessage {
  /** Place in order of arrival within its queue. */
  readonly sequence: number
  readonly topic: string
  readonly payload: Uint8Array
  readonly qos: QoS
  readonly retain: boolean
  readonly duplicate: boolean
  readonly properties: PublishProperties | undefined
  readonly deliveryId: string | undefined
}

/**
 * One change of what is kept. Applying a change a second time changes nothing.
 *
 * - `SessionBegan`: the server holds a session under `key` (client id and broker)
 * - `SessionEnded`: it holds none; all inbound identifiers are forgotten, and their generations start anew under a new `epoch`
 * - `Published`: the publish is to be kept; replaces the entry with its sequence
 * - `Released`: PUBREC came
 * - `Settled`: the exchange is over; with an id, its outcome is kept
 * - `Received`: the message with this inbound QoS 2 identifier was handed over
 * - `Completed`: its exchange is over; the generation of the identifier goes up by one
 * - `PutAside`, `TakenUp`: a message entered, or left, the queue of a slow consumer
 *
 * @category models
 * @since 0.1.0
 */
export type Change =
  | { readonly _tag: "SessionBegan"; readonly key: string; readonly epoch: string }
  | { readonly _tag: "SessionEnded" }
  | { readonly _tag: "Published"; readonly publish: StoredPublish }
  | {
    readonly _tag: "Released"
    readonly sequence: number
    readonly releaseOrder: number
    readonly answer: number
  }
  | {
    readonly _tag: "Settled"
    readonly sequence: number
    readonly id: string | undefined
    readonly outcome: StoredOutcome
  }
  | { readonly _tag: "Received"; readonly packetId: number }
  | { readonly _tag: "Completed"; readonly packetId: number }
  | { readonly _tag: "PutAside"; readonly queue: string; readonly message: StoredMessage }
  | { readonly _tag: "TakenUp"; readonly queue: string; readonly sequence: number }

/**
 * An entry that could not be read. It was moved out of the way, and nothing else was lost.
 *
 * @category models
 * @since 0.1.0
 */
export interface Quarantined {
  readonly table: string
  /** The key of the entry, as text. */
  readonly key: string
  readonly problem: string
}

/**
 * What a store held when it was opened.
 *
 * @category models
 * @since 0.1.0
 */
export interface StoredSession {
  /** The session that the server was last known to hold, if any. */
  readonly session: { readonly key: string; readonly epoch: string } | undefined
  /** By sequence. */
  readonly publishes: ReadonlyArray<StoredPublish>
  /** Inbound QoS 2 identifiers that were used in this session; `received` ones are not to be handed over again. */
  readonly inbound: ReadonlyArray<{
    readonly packetId: number
    readonly received: boolean
    /** How many exchanges of this identifier are complete. */
    readonly generation: number
  }>
  /** The highest sequence that was ever used for a publish. */
  readonly lastSequence: number
  /**
   * The packet identifier that a publish was given last, 0 if there was none. A new process goes on behind it: the server may
   * still hold one whose exchange was given up.
   */
  readonly lastPacketId: number
  /** For each queue with messages put aside: how many, their payload bytes, and their highest sequence. */
  readonly queues: ReadonlyArray<{
    readonly queue: string
    readonly count: number
    readonly bytes: number
    readonly lastSequence: number
  }>
  readonly quarantined: ReadonlyArray<Quarantined>
}

/**
 * A store that this client has opened and that nobody else can open until the scope closes.
 *
 * @category models
 * @since 0.1.0
 */
export interface OpenStore {
  /** For errors and logs. */
  readonly name: string
  readonly stored: StoredSession
  /** Commits the changes in one transaction, in order. After a failure none of them counts, as far as the store can know. */
  readonly commit: (changes: ReadonlyArray<Change>) => Effect.Effect<void, SessionStoreError>
  /**
   * Runs an effect in a transaction of the store's database and commits it together with the changes. If the effect fails,
   * dies or is interrupted, both are rolled back. Transactions and commits of SQLite wait for each other.
   */
  readonly transaction: <A, E, R>(
    changes: ReadonlyArray<Change>,
    effect: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | SessionStoreError, R>
  /** The outcome that is kept under a caller's own id. */
  readonly outcome: (id: string) => Effect.Effect<StoredOutcome | undefined, SessionStoreError>
  /** Messages put aside in `queue` with a sequence above `after`, in order, at most `limit`. */
  readonly putAside: (
    queue: string,
    after: number,
    limit: number
  ) => Effect.Effect<ReadonlyArray<StoredMessage>, SessionStoreError>
}

/**
 * @category models
 * @since 0.1.0
 */
export interface SessionStoreService {
  /**
   * Takes the lock, brings the tables up to date, quarantines what cannot be read, and reads the rest. Closing the scope
   * gives the lock back.
   */
  readonly open: Effect.Effect<OpenStore, SessionStoreError, Scope.Scope>
}

/**
 * The store of a client; undefined, which is the default, keeps nothing beyond the life of the client.
 *
 * @category services
 * @since 0.1.0
 */
export const SessionStore: Context.Reference<SessionStoreService | undefined> = Context.Reference<
  SessionStoreService | undefined
>("effect-mqtt/services/SessionStore", { defaultValue: () => undefined })
