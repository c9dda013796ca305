/**
 * A publish from its call to its end, and a batch of them.
 *
 * @since 0.1.0
 */
import type * as Effect from "effect/Effect"
import type { PublishProperties, QoS } from "../../protocol/Packet.ts"
import type { PublishResult } from "../../services/MqttClient.ts"
import type { PublishError, PublishPhase, PublishReason } from "../../services/MqttError.ts"
import type { Run } from "./Run.ts"

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
  /**
   * What comes next and is plain and at QoS 0, so many messages and bytes at most: it is as good as published, and its outcome
   * is known. Undefined if the next message is not of that kind.
   */
  readonly run: (messages: number, bytes: number) => Run | undefined
}

/** What the caller of a publish learns. */
export type Outcome =
  | { readonly _tag: "Done"; readonly reasonCode: number; readonly reasonString: string | undefined }
  | { readonly _tag: "Failed"; readonly reason: PublishReason }
