/**
 * A received QoS 1 or 2 message that is not acknowledged, and those of one QoS in their order.
 *
 * @since 0.1.0
 */
import { noArray, ownArray } from "../../protocol/EmptyCollections.ts"
import type { Message } from "../../services/Message.ts"

/** A received QoS 1 or 2 message that is not acknowledged. */
export interface Receipt {
  readonly packetId: number
  readonly qos: 1 | 2
  readonly message: Message
  /** What it counts for in the memory that unacknowledged messages take; 0 once it counts no more. */
  bytes: number
  /** The connection on which the acknowledgement may go out. */
  generation: number
  /** Subscribers that have not taken it yet. */
  pending: number
  /** Whether a subscriber was given it. */
  handed: boolean
  /** Whether a subscriber came back for more after it. */
  taken: boolean
  /** Whether a handler that had begun with it is gone, so that it is kept for the next one though others took it. */
  owed: boolean
  /** Durable subscriptions that nobody listens to, and that are to get it. */
  owedTo?: Set<string> | undefined
  /** Whether the next one who matches may have it, since one who had it is gone. */
  isOpen?: boolean | undefined
  /** Called when those who left it unsettled are to have it again. */
  left?: Array<() => void> | undefined
  /** Counts up with every message. */
  readonly arrival?: number | undefined
  /** The highest reason code with which a subscriber settled it. */
  reasonCode: number
  /** Whether the server will send it again, so that those who were not given it shall wait for that. */
  revoked: boolean
  /** Whether it may be acknowledged. */
  settled: boolean
  /** Whether the session store knows that it was handed over. */
  isKept: boolean
}

/** A constructor and no literal, for the reason that `PublishPacket` gives. */
export class NewReceipt implements Receipt {
  declare readonly packetId: number
  declare readonly qos: 1 | 2
  declare readonly message: Message
  declare bytes: number
  declare generation: number
  declare pending: number
  declare handed: boolean
  declare taken: boolean
  declare owed: boolean
  declare owedTo: Set<string> | undefined
  declare isOpen: boolean
  declare left: Array<() => void> | undefined
  declare readonly arrival: number
  declare reasonCode: number
  declare revoked: boolean
  declare settled: boolean
  declare isKept: boolean

  constructor(
    packetId: number,
    qos: 1 | 2,
    message: Message,
    bytes: number,
    generation: number,
    arrival: number,
    settled: boolean
  ) {
    this.packetId = packetId
    this.qos = qos
    this.message = message
    this.bytes = bytes
    this.generation = generation
    this.pending = 0
    this.handed = false
    this.taken = false
    this.owed = false
    this.owedTo = undefined
    this.isOpen = false
    this.left = undefined
    this.arrival = arrival
    this.reasonCode = 0
    this.revoked = false
    this.settled = settled
    this.isKept = settled
  }
}

/** Receipts in order of arrival, of which the first ones leave. */
export class ReceiptQueue {
  #receipts: Array<Receipt | undefined> = noArray()
  #head = 0

  get size(): number {
    return this.#receipts.length - this.#head
  }

  get first(): Receipt | undefined {
    return this.#receipts[this.#head]
  }

  push(receipt: Receipt): void {
    this.#receipts = ownArray(this.#receipts)
    this.#receipts.push(receipt)
  }

  shift(): void {
    this.#receipts[this.#head++] = undefined
    if (this.#head === this.#receipts.length) this.#receipts = noArray()
    else if (this.#head >= 1024 && this.#head * 2 >= this.#receipts.length) {
      this.#receipts = this.#receipts.slice(this.#head)
    } else return
    this.#head = 0
  }

  /** All of them, oldest first. */
  get all(): Array<Receipt> {
    return this.#receipts.slice(this.#head) as Array<Receipt>
  }

  clear(): void {
    this.#receipts = noArray()
    this.#head = 0
  }
}

const none = new ReceiptQueue()

/** A queue without anything in it that all share, as the collections of `EmptyCollections`: not to be added to. */
export const noReceipts = (): ReceiptQueue => none

/** The queue itself, or a new one if it is that of all who have none. */
export const ownReceipts = (self: ReceiptQueue): ReceiptQueue => self === none ? new ReceiptQueue() : self
