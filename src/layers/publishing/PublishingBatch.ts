/**
 * `publishAll` and `publishSink`: many publishes with one effect, one wait and one wake-up.
 *
 * A batch is a cursor over its messages. The outbox asks it for the next one when there is room, so a batch of any length
 * takes no more of the outbox than its bounds allow, and what is published after it comes after its last message.
 *
 * @since 0.1.0
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Result from "effect/Result"
import * as Sink from "effect/Sink"
import type { OutgoingMessage } from "../../services/Message.ts"
import type { MqttClientService, PublishResult } from "../../services/MqttClient.ts"
import { DeadlineExceeded, InvalidMessage, PublishError } from "../../services/MqttError.ts"
import type { PublishPhase, PublishReason } from "../../services/MqttError.ts"
import { newArray } from "../../protocol/EmptyCollections.ts"
import type { ClientCore } from "../ClientCore.ts"
import type { Batch, Entry, Outcome } from "./Entry.ts"
import { checkTimeout, plainTopicOf, toEntry } from "./Publishing.ts"
import { guaranteeOf } from "./PublishResults.ts"
import { Run, sizeOfPlain } from "./Run.ts"

type PublishOutcome = Result.Result<PublishResult, PublishError>

const noMessages: ReadonlyArray<PublishOutcome> = []

/** The outcome of nearly all messages, made once for each QoS. */
const plain = ([0, 1, 2] as const).map((qos): PublishOutcome =>
  Result.succeed({ qos, reasonCode: 0, reasonString: undefined, guarantee: guaranteeOf({ qos }) })
)

/** Where the parts of a run are collected, which gets a copy of them. */
let scratch: Array<Uint8Array | undefined> | undefined

/** Whether it is at QoS 0, which is the first thing to be known of one that is plain. */
const isUnacknowledged = (message: OutgoingMessage): boolean => {
  try {
    return message?.qos === undefined || message.qos === 0
  } catch {
    return false
  }
}

class PublishBatch implements Batch {
  /** In the order of the messages; whole once `isDone`. */
  readonly outcomes: Array<PublishOutcome>
  /** What failed first. */
  failure: PublishError | undefined
  /** Called when the last message has its place, when the first one fails, and when all have their outcome. */
  onChange: () => void = () => {}
  readonly #core: ClientCore
  readonly #messages: ReadonlyArray<OutgoingMessage>
  #first = 0
  /** The next message that has no place. */
  #next = 0
  /** Messages without an outcome. */
  #open: number

  constructor(core: ClientCore, messages: ReadonlyArray<OutgoingMessage>) {
    this.#core = core
    this.#messages = messages
    this.#open = messages.length
    this.outcomes = new Array<PublishOutcome>(messages.length)
  }

  get isDone(): boolean {
    return this.#open === 0
  }

  /** Whether every message is in the outbox, or is over. */
  get isPlaced(): boolean {
    return this.#next > this.outcomes.length
  }

  /** Gives the messages to the outbox, as far as there is room. */
  offer(): void {
    this.#core.outbound.offerBatch(this, this.outcomes.length)
  }

  begin(sequence: number): void {
    this.#first = sequence
  }

  run(messages: number, bytes: number): Run | undefined {
    const first = this.#next
    const end = Math.min(this.outcomes.length, first + messages)
    if (first >= end || !isUnacknowledged(this.#messages[first]!)) return undefined
    // How many there will be is not known before, and room for all that there might be would be too much for a short run. A
    // message may bring code of its own that publishes, and which is not to find these in use.
    const parts = scratch ?? newArray()
    scratch = undefined
    let count = 0
    let size = 0
    try {
      for (; this.#next < end; this.#next++) {
        const message = this.#messages[this.#next]!
        // Read once, since what is looked at has to be what is sent.
        const { payload } = message
        if (!(payload instanceof Uint8Array)) break
        const topic = plainTopicOf(this.#core, message, payload)
        if (topic === undefined) break
        const whole = size + sizeOfPlain(topic, payload)
        if (whole > bytes) break
        size = whole
        parts[count] = topic
        parts[count + 1] = payload
        count += 2
        this.#set(this.#next, plain[0]!)
      }
    } catch {
      // What throws when it is read is looked at again by `next`.
    }
    const run = count === 0
      ? undefined
      : new Run(this, this.#first + first, size, parts.slice(0, count) as Array<Uint8Array>)
    parts.fill(undefined, 0, count)
    scratch = parts
    return run
  }

  next(): Entry | undefined {
    const { length } = this.outcomes
    while (this.#next < length) {
      const index = this.#next++
      const message = this.#messages[index]!
      const entry = entryOf(this.#core, message)
      if ("_tag" in entry) {
        this.#fail(index, topicOf(message), entry, "queued")
        continue
      }
      entry.batch = this
      entry.resume = this.#settle
      entry.sequence = this.#first + index
      return entry
    }
    if (this.#next === length) {
      this.#next++
      this.#announce()
    }
    return undefined
  }

  /** One for the batch, and not one for each message. */
  readonly #settle = (outcome: Outcome, entry: Entry): void => {
    const index = entry.sequence - this.#first
    if (outcome._tag === "Failed") return this.#fail(index, entry.topic, outcome.reason, entry.phase)
    const { reasonCode, reasonString } = outcome
    this.#set(
      index,
      reasonCode === 0 && reasonString === undefined && entry.isRepublished !== true
        ? plain[entry.qos]!
        : Result.succeed({ qos: entry.qos, reasonCode, reasonString, guarantee: guaranteeOf(entry) })
    )
  }

  #fail(index: number, topic: string, reason: PublishReason, phase: PublishPhase): void {
    const error = new PublishError({ topic, phase, reason })
    this.#set(index, Result.fail(error))
    if (this.failure !== undefined) return
    this.failure = error
    this.#announce()
  }

  #set(index: number, outcome: PublishOutcome): void {
    this.outcomes[index] = outcome
    if (--this.#open === 0) this.#announce()
  }

  #announce(): void {
    this.#core.defer(() => this.onChange())
  }

  /**
   * Ends the waiting: what no byte was sent of is taken back, what was written goes on by itself (law 5). Gives those that
   * had no outcome and a place. `keepsTaken`: what counts as published stays in the outbox.
   */
  abandon(keepsTaken = false): ReadonlyArray<Entry> {
    this.#next = this.outcomes.length + 1
    this.onChange = () => {}
    const entries = this.#core.outbox.entriesOf(this)
    for (const { token } of this.#core.session.exchanges()) {
      if (token.batch === this) entries.push(token)
    }
    const open = entries.filter((entry) => entry.resume !== undefined)
    for (const entry of keepsTaken ? open : entries) this.#core.outbound.abandon(entry)
    return open
  }

  /** The time is over: what has no outcome fails by how far it had come. */
  expire(timeoutMillis: number, open: ReadonlyArray<Entry>): void {
    const fail = (index: number, topic: string, phase: PublishPhase): void => {
      this.outcomes[index] = Result.fail(
        new PublishError({ topic, phase, reason: new DeadlineExceeded({ phase, timeoutMillis }) })
      )
    }
    for (const { phase, sequence, topic } of open) fail(sequence - this.#first, topic, phase)
    for (let index = 0; index < this.outcomes.length; index++) {
      if (this.outcomes[index] === undefined) fail(index, topicOf(this.#messages[index]!), "queued")
    }
  }
}

const topicOf = (message: OutgoingMessage): string => {
  try {
    const topic = message?.topic
    return typeof topic === "string" ? topic : ""
  } catch {
    return ""
  }
}

/** A batch that waits is looked at by the writer, which must not end by what a getter throws. */
const entryOf = (core: ClientCore, message: OutgoingMessage): Entry | PublishReason => {
  try {
    return toEntry(core, message)
  } catch {
    return new InvalidMessage({ field: "message", problem: "throws when it is read" })
  }
}

/** Waits until `isReady` holds of the batch. The wait can be interrupted and leaves the batch alone. */
const waitFor = (batch: PublishBatch, isReady: (batch: PublishBatch) => boolean): Effect.Effect<void> =>
  Effect.callback((resume) => {
    if (isReady(batch)) return resume(Effect.void)
    batch.onChange = () => {
      if (!isReady(batch)) return
      batch.onChange = () => {}
      resume(Effect.void)
    }
  })

const isDone = (batch: PublishBatch): boolean => batch.isDone

/**
 * @category constructors
 * @since 0.1.0
 */
export const makePublishAll = (core: ClientCore): MqttClientService["publishAll"] => (messages, options) =>
  // No interruption comes between the offer and the wait, which takes back what it finds.
  Effect.uninterruptibleMask((restore) => {
    const list: ReadonlyArray<OutgoingMessage> = Array.isArray(messages) ? messages : Array.from(messages)
    if (list.length === 0) return Effect.succeed(noMessages)
    const timeout = options?.timeout
    if (timeout !== undefined && !checkTimeout(timeout)) {
      const reason = new InvalidMessage({ field: "timeout", problem: "must be a duration" })
      return Effect.succeed(
        list.map((message): PublishOutcome =>
          Result.fail(new PublishError({ topic: topicOf(message), phase: "queued", reason }))
        )
      )
    }
    const batch = new PublishBatch(core, list)
    batch.offer()
    if (batch.isDone) return Effect.succeed(batch.outcomes)
    const outcomes = Effect.as(waitFor(batch, isDone), batch.outcomes)
    const abandoned = (effect: Effect.Effect<ReadonlyArray<PublishOutcome>>) =>
      Effect.onInterrupt(restore(effect), () =>
        Effect.sync(() => {
          batch.abandon()
        }))
    if (timeout === undefined) return abandoned(outcomes)
    const timeoutMillis = Duration.toMillis(Duration.fromInputUnsafe(timeout))
    return abandoned(Effect.timeoutOrElse(outcomes, {
      duration: timeoutMillis,
      orElse: () =>
        Effect.sync(() => {
          batch.expire(timeoutMillis, batch.abandon(true))
          return batch.outcomes
        })
    }))
  })

/** The batches of one run of a sink that are not over. */
class Feed {
  readonly #core: ClientCore
  readonly #open = new Set<PublishBatch>()
  #count = 0

  constructor(core: ClientCore) {
    this.#core = core
  }

  /** Waits until all messages have their place, which bounds how many there are. */
  add(messages: NonEmptyReadonlyArray<OutgoingMessage>): Effect.Effect<void, PublishError> {
    return Effect.suspend(() => {
      const batch = new PublishBatch(this.#core, messages)
      this.#open.add(batch)
      this.#count += messages.length
      batch.offer()
      const placed = batch.isPlaced || batch.failure !== undefined
        ? Effect.void
        : waitFor(batch, ({ failure, isPlaced }) => isPlaced || failure !== undefined)
      return Effect.flatMap(placed, () => this.#check())
    })
  }

  /** Waits for all outcomes; gives how many messages there were. */
  readonly end: Effect.Effect<readonly [number], PublishError> = Effect.suspend(() => {
    const [first] = this.#open
    if (first === undefined) return Effect.succeed([this.#count] as const)
    const ended = waitFor(first, ({ failure, isDone }) => isDone || failure !== undefined)
    return Effect.flatMap(ended, () => Effect.andThen(this.#check(), this.end))
  })

  #check(): Effect.Effect<void, PublishError> {
    for (const batch of this.#open) {
      if (batch.failure !== undefined) return Effect.fail(batch.failure)
      if (batch.isDone) this.#open.delete(batch)
    }
    return Effect.void
  }

  abandon(): void {
    for (const batch of this.#open) batch.abandon()
  }
}

/**
 * @category constructors
 * @since 0.1.0
 */
export const makePublishSink = (core: ClientCore): MqttClientService["publishSink"] =>
  Sink.fromTransform((upstream) =>
    Effect.suspend(() => {
      const feed = new Feed(core)
      return upstream.pipe(
        Effect.flatMap((messages) => feed.add(messages)),
        Effect.forever({ disableYield: true }),
        Pull.catchDone(() => feed.end),
        Effect.onExit((exit) => Exit.isFailure(exit) ? Effect.sync(() => feed.abandon()) : Effect.void)
      )
    })
  )
