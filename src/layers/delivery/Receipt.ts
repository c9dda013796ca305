/**
 * A received QoS 1 or 2 message that is not acknowledged.
 *
 * @since 0.1.0
 */
import type { Message } from "../../services/Message.ts"
import type { Delivery } from "./Delivery.ts"

/** A received QoS 1 or 2 message that is not acknowledged. It is its own delivery to those who never put it aside. */
export interface Receipt extends Delivery {
  readonly packetId: number
  readonly qos: 1 | 2
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
  isOpen: boolean
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
  /** The one who has it took it: settles it, if that is all there is to it, and says whether it was. */
  readonly settlePlain: () => boolean
}

// What a message can be said to be takes one number: there are a thousand of them under way, and a field takes eight bytes.
const handed = 1
const taken = 2
const owed = 4
const open = 8
const revoked = 16
const settled = 32
const kept = 64

/** A constructor and no literal, for the reason that `PublishPacket` gives. */
export class NewReceipt implements Receipt {
  declare readonly packetId: number
  declare readonly qos: 1 | 2
  declare readonly message: Message
  declare bytes: number
  declare generation: number
  declare pending: number
  declare owedTo: Set<string> | undefined
  declare left: Array<() => void> | undefined
  declare readonly arrival: number
  declare reasonCode: number
  declare flags: number

  constructor(
    packetId: number,
    qos: 1 | 2,
    message: Message,
    bytes: number,
    generation: number,
    arrival: number,
    isSettled: boolean
  ) {
    this.packetId = packetId
    this.qos = qos
    this.message = message
    this.bytes = bytes
    this.generation = generation
    this.pending = 0
    this.owedTo = undefined
    this.left = undefined
    this.arrival = arrival
    this.reasonCode = 0
    this.flags = isSettled ? settled | kept : 0
  }

  get receipt(): this {
    return this
  }

  get aside(): number {
    return 0
  }

  get handed(): boolean {
    return (this.flags & handed) !== 0
  }

  set handed(is: boolean) {
    this.flags = is ? this.flags | handed : this.flags & ~handed
  }

  get taken(): boolean {
    return (this.flags & taken) !== 0
  }

  set taken(is: boolean) {
    this.flags = is ? this.flags | taken : this.flags & ~taken
  }

  get owed(): boolean {
    return (this.flags & owed) !== 0
  }

  set owed(is: boolean) {
    this.flags = is ? this.flags | owed : this.flags & ~owed
  }

  get isOpen(): boolean {
    return (this.flags & open) !== 0
  }

  set isOpen(is: boolean) {
    this.flags = is ? this.flags | open : this.flags & ~open
  }

  get revoked(): boolean {
    return (this.flags & revoked) !== 0
  }

  set revoked(is: boolean) {
    this.flags = is ? this.flags | revoked : this.flags & ~revoked
  }

  get settled(): boolean {
    return (this.flags & settled) !== 0
  }

  set settled(is: boolean) {
    this.flags = is ? this.flags | settled : this.flags & ~settled
  }

  get isKept(): boolean {
    return (this.flags & kept) !== 0
  }

  set isKept(is: boolean) {
    this.flags = is ? this.flags | kept : this.flags & ~kept
  }

  settlePlain(): boolean {
    if (this.pending !== 1 || (this.flags & (owed | settled | revoked)) !== 0) return false
    this.pending = 0
    this.flags |= handed | taken | settled
    return true
  }
}
