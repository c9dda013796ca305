/**
 * A message on its way to one consumer, and what a subscriber needs of its surroundings.
 *
 * @since 0.1.0
 */
import type * as Effect from "effect/Effect"
import type { AckResult, Message } from "../../services/Message.ts"
import type { SubscribeError } from "../../services/MqttError.ts"
import type { Receipt } from "./Receipt.ts"
import type { ReceiptRun } from "./ReceiptRun.ts"
import type { Subscriber } from "./Subscriber.ts"

/** A message on its way to one consumer. */
export interface Delivery {
  readonly message: Message
  /** What holds back its acknowledgement; undefined at QoS 0, and for what was put aside or released. */
  receipt: Receipt | undefined
  /** Its place among those put aside, `released`, or 0 for the others. */
  aside: number
}

/** A new one; see `PublishPacket` for why a constructor makes it. */
export class NewDelivery implements Delivery {
  declare readonly message: Message
  declare receipt: Receipt | undefined
  declare aside: number

  constructor(message: Message, receipt: Receipt | undefined, aside: number) {
    this.message = message
    this.receipt = receipt
    this.aside = aside
  }
}

/** The place of a message that was acknowledged before the consumer was done with it, and that only memory keeps. */
export const released = -1

/**
 * How many QoS 1 and 2 messages a subscription may hold unacknowledged, and for how long it may hold any without being done
 * with one. Beyond that it is relieved of them.
 */
export interface Limits {
  /** Messages. */
  readonly count: number
  /** Payload bytes. */
  readonly bytes: number
  /** Milliseconds. */
  readonly slowAfter: number
  /**
   * Where the messages go that it is relieved of. Undefined: they are acknowledged and stay in memory, and beyond `count` and
   * `bytes` the oldest that the consumer does not have is dropped.
   */
  readonly aside: Aside | undefined
}

/** A message in the store, and its place there. */
export interface AsideMessage {
  readonly sequence: number
  readonly message: Message
}

/** The queue in the store of messages that were put aside, as one subscription has it. */
export interface Aside {
  /** Messages that are in the store and were not read since the queue was taken. */
  readonly unread: number
  /**
   * Puts a message behind the others, and settles it for this subscription once it is kept; gives its place, or 0 if there is
   * no room. `isRead`: the consumer has it, and all before it.
   */
  readonly put: (receipt: Receipt, isRead: boolean) => number
  /** Whether the message came before all that is in the queue, as one does that a handler had in hand meanwhile. */
  readonly precedes: (receipt: Receipt) => boolean
  /** Gives the next messages to `take`, in order, and counts them as read in the same step. */
  readonly read: (take: (messages: ReadonlyArray<AsideMessage>) => void) => Effect.Effect<void, SubscribeError>
  /** The consumer is done with it. */
  readonly takeUp: (sequence: number, message: Message) => void
  /** The subscription is over. */
  readonly release: () => void
}

export interface BufferOptions {
  /** Messages. */
  readonly capacity: number
  /** Payload bytes. */
  readonly bytes: number
  readonly overflow: "sliding" | "dropping" | "fail"
  /** Largest batch; see `batchMaximum`. */
  readonly batchMaximum?: number | undefined
}

/** What a subscriber needs of its surroundings. */
export interface Hooks {
  readonly settle: (receipt: Receipt) => void
  /** The same for all of these that have a receipt. */
  readonly settleAll: (deliveries: ReadonlyArray<Delivery>) => void
  /** The same for all of a run that is not dissolved. */
  readonly settleRun: (run: ReceiptRun) => void
  /** The same with a reason code, and says whether it counts. */
  readonly settleAs: (receipt: Receipt, reasonCode: number) => AckResult
  /**
   * The receipt was not taken by this subscriber, which is gone; `isBegun`: it was its consumer's to settle. `durable`: the
   * durable subscriptions that it listened to.
   */
  readonly giveBack: (receipt: Receipt, isBegun: boolean, durable: ReadonlyArray<string>) => void
  readonly onDrop: (message: Message) => void
  /** The subscriber has something for a consumer that waits; `wake` is to be called when the reader's batch is done. */
  readonly onReady: (subscriber: Subscriber) => void
  /** The subscriber was given a message: `detachPayloads` is to be called when the reader's batch is done. */
  readonly onBuffered: (subscriber: Subscriber) => void
  /** The consumer is behind by more than a quarter of the buffer. */
  readonly onLagging: (subscriber: Subscriber) => void
  /** The subscriber, which has limits, holds back acknowledgements: `relieve` is to be called when it is time. */
  readonly onHolding: (subscriber: Subscriber) => void
  /** Milliseconds of the monotonic clock. */
  readonly now: () => number
}

/** A message that the consumer has and is to settle. */
export class Handed {
  readonly delivery: Delivery
  /** Whether the consumer may have done something with it. */
  isBegun = true
  /** Whether it is not to be put aside any more. */
  isPinned = false
  /** Whether the consumer is not going to settle it. */
  isLeft = false
  readonly #settle: (handed: Handed, reasonCode: number) => AckResult
  readonly #leave: (handed: Handed) => void
  #result: AckResult | undefined

  constructor(
    delivery: Delivery,
    settle: (handed: Handed, reasonCode: number) => AckResult,
    leave: (handed: Handed) => void
  ) {
    this.delivery = delivery
    this.#settle = settle
    this.#leave = leave
  }

  get message(): Message {
    return this.delivery.message
  }

  get receipt(): Receipt | undefined {
    return this.delivery.receipt
  }

  /** Its place among those put aside, if it is above 0. */
  get aside(): number {
    return this.delivery.aside
  }

  /** Acknowledges the message, or refuses it with a reason code; only the first call counts. */
  settle(reasonCode: number): AckResult {
    return this.#result ??= this.#settle(this, reasonCode)
  }

  /** The consumer is not going to settle it, and is to have it again on the next connection. */
  leave(): void {
    this.isLeft = true
    this.#leave(this)
  }
}

/** Whether the message is done with only when the consumer says so. */
export const isTracked = ({ aside, receipt }: Delivery): boolean => receipt !== undefined || aside !== 0
