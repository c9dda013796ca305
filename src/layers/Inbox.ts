/**
 * Received QoS 1 and 2 messages between their arrival and our acknowledgement.
 *
 * The reader never waits for a consumer; what holds the server back is that the acknowledgement is withheld until every
 * subscriber took the message. Acknowledgements leave in the order in which the messages arrived, per QoS (MQTT-4.6.0-2,
 * MQTT-4.6.0-3). A message that nobody subscribes to is parked for a bounded time and number before it is acknowledged.
 *
 * @since 0.1.0
 */
import type { Puback, Pubcomp, Publish, Pubrec } from "../protocol/Packet.ts"
import * as Fault from "../protocol/ProtocolFault.ts"
import type { Session } from "../protocol/Session.ts"
import type { Message } from "../services/Message.ts"

/** A received QoS 1 or 2 message that is not acknowledged. */
export interface Receipt {
  readonly packetId: number
  readonly qos: 1 | 2
  readonly message: Message
  /** The connection on which the acknowledgement may go out. */
  generation: number
  /** Subscribers that have not taken it yet. */
  pending: number
  /** Whether a subscriber was given it. */
  handed: boolean
  /** Whether a subscriber came back for more after it. */
  taken: boolean
  /** Whether the server will send it again, so that those who were not given it shall wait for that. */
  revoked: boolean
  /** Whether it may be acknowledged. */
  settled: boolean
}

interface Parked {
  readonly receipt: Receipt
  /** Milliseconds of the monotonic clock; `Infinity` for those of durable subscriptions. */
  readonly until: number
}

/** Messages that may be parked while no subscription wants them. */
export const parkedMaximum = 32
/** How long a message is parked, in milliseconds. */
export const parkedMillis = 30_000

export class Inbox {
  readonly #session: Session<unknown>
  readonly #onUnclaimed: (message: Message) => void
  #generation = 0
  #receiveMaximum = 65535
  /** Waiting for their turn to be acknowledged, in order of arrival; only of the present connection. */
  #puback: Array<Receipt> = []
  #pubrec: Array<Receipt> = []
  /** QoS 2 messages by identifier until PUBREC was sent; they outlive the connection. */
  readonly #held = new Map<number, Receipt>()
  #parked: Array<Parked> = []
  /** Those of them that are kept for a bounded time. */
  #unclaimed = 0
  /** Messages of this connection that count against our Receive Maximum. */
  #outstanding = 0
  readonly #outstandingQos2 = new Set<number>()
  /** Acknowledgements for the writer. */
  #acks: Array<Puback | Pubrec | Pubcomp> = []

  constructor(session: Session<unknown>, onUnclaimed: (message: Message) => void) {
    this.#session = session
    this.#onUnclaimed = onUnclaimed
  }

  get unacknowledged(): number {
    return this.#puback.length + this.#pubrec.length
  }

  get parked(): number {
    return this.#parked.length
  }

  get hasAcks(): boolean {
    return this.#acks.length > 0
  }

  takeAcks(): ReadonlyArray<Puback | Pubrec | Pubcomp> {
    const acks = this.#acks
    this.#acks = []
    return acks
  }

  /** Whether acknowledgements may go out on the present connection. */
  begin(sessionPresent: boolean, receiveMaximum: number): void {
    this.#generation++
    this.#receiveMaximum = receiveMaximum
    this.#outstanding = 0
    this.#outstandingQos2.clear()
    this.#acks = []
    const open = [...this.#puback, ...this.#pubrec]
    this.#puback = []
    this.#pubrec = []
    if (!sessionPresent) {
      // The server has forgotten them, and their identifiers mean something else now. Who still waits for them gets them.
      this.#held.clear()
      return
    }
    // At QoS 1 the repetition is the message, for all subscribers, so that none gets it before one that comes earlier.
    for (const receipt of open) if (receipt.qos === 1) receipt.revoked = true
    // At QoS 2 it is so as long as nobody was given one: what one subscriber was given and another was not stays in the
    // buffer of that one, and then all that lies there before it has to stay as well.
    const held = [...this.#held]
    const keep = held.some(([, { handed, pending, taken }]) => handed && pending > (taken ? 0 : 1))
    for (const [id, receipt] of keep ? [] : held) {
      if (receipt.handed) continue
      receipt.revoked = true
      this.#held.delete(id)
      this.#session.forget(id)
    }
    this.#keepParked(({ receipt }) => !receipt.revoked)
  }

  /**
   * A QoS 1 or 2 PUBLISH came. Gives the receipt if the message is to be handed over, undefined if it was before, and a fault
   * if the server exceeds our Receive Maximum (FC-06).
   */
  receive(packet: Publish, toMessage: (packet: Publish) => Message): Receipt | undefined | Fault.ProtocolFault {
    const id = packet.packetId
    if (packet.qos === 2) {
      // First, so that a message beyond our Receive Maximum is not taken for one that was received.
      const fault = this.#outstandingQos2.has(id) ? undefined : this.#countOne()
      if (fault !== undefined) return fault
      this.#outstandingQos2.add(id)
      const outcome = this.#session.onPublish(id)
      if (outcome === "again") {
        this.#order(this.#receipt(packet, toMessage, true))
        return undefined
      }
      if (outcome === "held") {
        const held = this.#held.get(id)
        // Repeated on a new connection: its acknowledgement takes its place there.
        if (held !== undefined && held.generation !== this.#generation) {
          held.generation = this.#generation
          this.#order(held)
        }
        return undefined
      }
      const receipt = this.#receipt(packet, toMessage, false)
      this.#held.set(id, receipt)
      this.#pubrec.push(receipt)
      return receipt
    }
    const fault = this.#countOne()
    if (fault !== undefined) return fault
    const receipt = this.#receipt(packet, toMessage, false)
    this.#puback.push(receipt)
    return receipt
  }

  onPubrel(packetId: number): void {
    const reasonCode = this.#session.onPubrel(packetId)
    if (this.#outstandingQos2.delete(packetId)) this.#outstanding--
    this.#acks.push({ _tag: "Pubcomp", packetId, reasonCode, properties: undefined })
  }

  /** A subscriber took the message. */
  settle(receipt: Receipt): void {
    receipt.taken = true
    if (receipt.pending > 0) receipt.pending--
    if (receipt.pending === 0) this.#settle(receipt)
  }

  /** No subscriber has to take it. */
  dismiss(receipt: Receipt): void {
    receipt.pending = 0
    this.#settle(receipt)
  }

  /**
   * Keeps a message that has no taker; `now` is milliseconds of the monotonic clock. One of a durable subscription is kept
   * until its taker comes, and only our Receive Maximum bounds how many there are.
   */
  park(receipt: Receipt, now: number, isDurable: boolean): void {
    this.#parked.push({ receipt, until: isDurable ? Infinity : now + parkedMillis })
    if (isDurable || ++this.#unclaimed <= parkedMaximum) return
    this.#drop(this.#parked.findIndex(({ until }) => until !== Infinity))
  }

  /** Takes out the parked messages that a new subscriber wants, in order. */
  claim(wants: (topic: string) => boolean): Array<Receipt> {
    if (this.#parked.length === 0) return []
    const claimed: Array<Receipt> = []
    this.#keepParked(({ receipt }) => {
      if (!wants(receipt.message.topic)) return true
      claimed.push(receipt)
      return false
    })
    return claimed
  }

  /** Drops what was parked for too long; gives the time at which to call again. */
  expire(now: number): number | undefined {
    while (this.#unclaimed > 0) {
      const oldest = this.#parked.findIndex(({ until }) => until !== Infinity)
      const { until } = this.#parked[oldest]!
      if (until > now) return until
      this.#drop(oldest)
    }
    return undefined
  }

  #drop(index: number): void {
    const [{ receipt }] = this.#parked.splice(index, 1) as [Parked]
    this.#unclaimed--
    this.#onUnclaimed(receipt.message)
    this.dismiss(receipt)
  }

  #keepParked(keep: (parked: Parked) => boolean): void {
    this.#parked = this.#parked.filter(keep)
    this.#unclaimed = this.#parked.filter(({ until }) => until !== Infinity).length
  }

  #settle(receipt: Receipt): void {
    if (receipt.settled) return
    receipt.settled = true
    if (receipt.generation === this.#generation) this.#pump(receipt.qos)
  }

  #receipt(packet: Publish, toMessage: (packet: Publish) => Message, settled: boolean): Receipt {
    return {
      packetId: packet.packetId,
      qos: packet.qos as 1 | 2,
      message: toMessage(packet),
      generation: this.#generation,
      pending: 0,
      handed: false,
      taken: false,
      revoked: false,
      settled
    }
  }

  #order(receipt: Receipt): void {
    this.#pubrec.push(receipt)
    this.#pump(2)
  }

  #pump(qos: 1 | 2): void {
    const queue = qos === 1 ? this.#puback : this.#pubrec
    let count = 0
    for (; count < queue.length && queue[count]!.settled; count++) {
      const { packetId } = queue[count]!
      if (qos === 1) {
        this.#outstanding--
        this.#acks.push({ _tag: "Puback", packetId, reasonCode: 0, properties: undefined })
      } else {
        this.#held.delete(packetId)
        this.#session.onPubrecSent(packetId, 0)
        this.#acks.push({ _tag: "Pubrec", packetId, reasonCode: 0, properties: undefined })
      }
    }
    if (count > 0) queue.splice(0, count)
  }

  #countOne(): Fault.ProtocolFault | undefined {
    if (++this.#outstanding <= this.#receiveMaximum) return undefined
    return Fault.make("PUBLISH", "receive maximum", `more than ${this.#receiveMaximum} unacknowledged messages`, 0x93)
  }
}
