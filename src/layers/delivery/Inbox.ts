/**
 * Received QoS 1 and 2 messages between their arrival and our acknowledgement.
 *
 * The reader never waits for a consumer; what holds the server back is that the acknowledgement is withheld until every
 * subscriber took the message. Acknowledgements leave in the order in which the messages arrived, per QoS (MQTT-4.6.0-2,
 * MQTT-4.6.0-3). A message that nobody subscribes to is parked for a bounded time and number before it is acknowledged.
 *
 * @since 0.1.0
 */
import type { Publish } from "../../protocol/Packet.ts"
import * as Fault from "../../protocol/ProtocolFault.ts"
import type { Session } from "../../protocol/Session.ts"
import * as PackedAck from "../../protocol/PackedAck.ts"
import type { AckResult, Message } from "../../services/Message.ts"
import { detachPayload } from "../../services/MessageCodec.ts"
import type { Journal } from "../store/Journal.ts"
import {
  isNoArray,
  newArray,
  noArray,
  noMap,
  noSet,
  ownArray,
  ownMap,
  ownSet
} from "../../protocol/EmptyCollections.ts"
import { Fifo } from "./Fifo.ts"
import { NewReceipt } from "./Receipt.ts"
import type { Delivery } from "./Delivery.ts"
import type { Receipt } from "./Receipt.ts"
import { costOf } from "./MemoryCost.ts"
import { ReceiptRun } from "./ReceiptRun.ts"
import type { Subscriber } from "./Subscriber.ts"

const isPuback = (ack: PackedAck.PackedAck): boolean => PackedAck.tagOf(ack) === "Puback"

interface Parked {
  readonly receipt: Receipt
  /** Milliseconds of the monotonic clock; `Infinity` for those of durable subscriptions. */
  readonly until: number
}

/** Messages that may be parked while no subscription wants them. */
export const parkedMaximum = 32
/** How long a message is parked, in milliseconds. */
export const parkedMillis = 30_000

const acked: AckResult = { _tag: "Acked" }
const stale: AckResult = { _tag: "Stale" }
const sessionLost: AckResult = { _tag: "SessionLost" }

/** What an inbox tells its surroundings. */
export interface InboxHooks {
  /** A message was parked for too long, or there were too many. */
  readonly onUnclaimed: (message: Message) => void
  /** All subscribers have settled the message, and somebody is owed it. */
  readonly onOwed: (receipt: Receipt) => void
  /** The message would have taken too much memory. */
  readonly onRefused: (packet: Publish) => void
}

export interface InboxOptions {
  readonly unclaimed: "ack" | "hold" | "reject"
  readonly maximumUnacknowledgedBytes: number
}

export class Inbox {
  /** Where it is recorded what a later process has to know; undefined without a session store. */
  journal: Journal | undefined
  readonly #session: Session<unknown>
  readonly #hooks: InboxHooks
  #options: InboxOptions
  /** Of the options, apart, since it is asked for with every message. */
  #maximumBytes: number
  /** Counts up with every connection. */
  #generation = 0
  /** The first connection of the present session. */
  #epoch = 0
  /** Whether there is a connection, and if not, whether the session has ended with it. */
  #link: "up" | "down" | "over" = "down"
  /** Whether acknowledgements have reason codes. */
  #hasCodes = false
  /** Bytes of the messages that are not acknowledged, and that wait for somebody. */
  #bytes = 0
  /** Whether a message was refused on this connection since it would have taken too much memory. */
  #isOverfull = false
  /** The server has exceeded our Receive Maximum on this connection (FC-06). */
  fault: Fault.ProtocolFault | undefined
  /** Called once when `hasRoom` holds again. */
  onRoom: (() => void) | undefined
  /** Undefined where nobody counts. */
  #receiveMaximum: number | undefined
  /** Waiting for their turn to be acknowledged, in order of arrival; only of the present connection. */
  readonly #puback = new Fifo<Receipt | ReceiptRun>()
  readonly #pubrec = new Fifo<Receipt>()
  /** The run that came last, as long as nothing came behind it. */
  run: ReceiptRun | undefined
  /** Messages that wait for their turn in `#puback`. */
  #pubacks = 0
  /** QoS 2 messages by identifier until PUBREC was sent; they outlive the connection. */
  #held = noMap<number, Receipt>()
  /** Messages of a lost session that somebody still is to take. */
  #adrift = noSet<Receipt>()
  #parked: Array<Parked> = noArray()
  /** Those of them that are kept for a bounded time. */
  #unclaimed = 0
  /** Messages of this connection that count against our Receive Maximum. */
  #outstanding = 0
  #arrivals = 0
  #outstandingQos2 = noSet<number>()
  /** Acknowledgements for the writer. */
  #acks: Array<PackedAck.PackedAck> = noArray()

  constructor(session: Session<unknown>, options: InboxOptions, hooks: InboxHooks) {
    this.#session = session
    this.#options = options
    this.#maximumBytes = options.maximumUnacknowledgedBytes
    this.#hooks = hooks
  }

  configure(options: InboxOptions): void {
    this.#options = options
    this.#maximumBytes = options.maximumUnacknowledgedBytes
  }

  /** QoS 1 and 2 messages that have arrived. */
  get arrivals(): number {
    return this.#arrivals
  }

  get unacknowledged(): number {
    return this.#pubacks + this.#pubrec.size
  }

  get parked(): number {
    return this.#parked.length
  }

  /** The parked messages, oldest first. */
  get unclaimed(): ReadonlyArray<Message> {
    return this.#parked.map(({ receipt }) => receipt.message)
  }

  /** Bytes of the messages that are not acknowledged, and that wait for somebody. */
  get bytes(): number {
    return this.#bytes
  }

  /** Counts up with every connection: what came before may have become void. */
  get generation(): number {
    return this.#generation
  }

  /** Whether the connection is to be closed, since what is not acknowledged takes too much memory. */
  get isOverfull(): boolean {
    return this.#isOverfull
  }

  /** Whether there is no reason to wait before the next connection. */
  get hasRoom(): boolean {
    return !this.#isOverfull || this.#bytes * 2 < this.#maximumBytes
  }

  get hasAcks(): boolean {
    return this.#acks.length > 0
  }

  takeAcks(): ReadonlyArray<PackedAck.PackedAck> {
    const acks = this.#acks
    this.#acks = noArray()
    return acks
  }

  /** Those that need no record. */
  takePubacks(): ReadonlyArray<PackedAck.PackedAck> {
    const acks = this.takeAcks()
    this.#acks = acks.filter((ack) => !isPuback(ack))
    return acks.filter(isPuback)
  }

  /** Those that may be sent once it is kept that they were. */
  takeKeptAcks(): ReadonlyArray<PackedAck.PackedAck> {
    const acks = this.takeAcks()
    this.#acks = acks.filter(isPuback)
    return acks.filter((ack) => !isPuback(ack))
  }

  /** A connection began; acknowledgements have reason codes on MQTT 5.0. */
  begin(sessionPresent: boolean, receiveMaximum: number | undefined, hasCodes: boolean): void {
    this.#generation++
    this.fault = undefined
    this.#link = "up"
    this.#hasCodes = hasCodes
    this.#isOverfull = false
    this.#receiveMaximum = receiveMaximum
    this.#outstanding = 0
    this.#outstandingQos2.clear()
    this.#acks = noArray()
    const open = [...this.#puback.all.flatMap(receiptsOf), ...this.#pubrec.all]
    this.#puback.clear()
    this.#pubacks = 0
    this.run = undefined
    this.#pubrec.clear()
    if (!sessionPresent) {
      // The server has forgotten them, and their identifiers mean something else now. Who still waits for them gets them.
      for (const receipt of [...open, ...this.#held.values()]) {
        if (!receipt.settled) this.#adrift = ownSet(this.#adrift).add(receipt)
      }
      this.#held.clear()
      this.#epoch = this.#generation
      this.#giveAdriftAgain()
      return
    }
    // At QoS 1 the repetition is the message, for all subscribers, so that none gets it before one that comes earlier.
    for (const receipt of open) if (receipt.qos === 1) this.#revoke(receipt)
    // At QoS 2 it is so as long as nobody was given one: what one subscriber was given and another was not stays in the
    // buffer of that one, and then all that lies there before it has to stay as well.
    const held = [...this.#held]
    const keep = held.some(([, { handed, pending, taken }]) => handed && pending > (taken ? 0 : 1))
    for (const [id, receipt] of keep ? [] : held) {
      if (receipt.handed) continue
      this.#revoke(receipt)
      this.#held.delete(id)
      this.#session.forget(id)
    }
    this.#keepParked(({ receipt }) => !receipt.revoked)
    this.#giveAdriftAgain()
  }

  /** Nobody sends them again. */
  #giveAdriftAgain(): void {
    for (const receipt of [...this.#adrift]) giveAgain(receipt)
  }

  /** The connection is over, and perhaps the session with it. */
  end(endsSession: boolean): void {
    this.#link = endsSession ? "over" : "down"
  }

  /**
   * A QoS 1 or 2 PUBLISH came. Gives the receipt if the message is to be handed over; undefined if it was before, or if there
   * is a `fault`.
   */
  receive(packet: Publish, toMessage: (packet: Publish) => Message): Receipt | undefined {
    const id = packet.packetId
    if (packet.qos === 2) {
      // First, so that a message beyond our Receive Maximum is not taken for one that was received.
      if (!this.#outstandingQos2.has(id) && !this.#countOne()) return undefined
      this.#outstandingQos2 = ownSet(this.#outstandingQos2).add(id)
      const outcome = this.#session.onPublish(id)
      if (outcome === "again") {
        this.#order(this.#receipt(packet, toMessage, 0, true))
        return undefined
      }
      if (outcome === "held") {
        const held = this.#held.get(id)
        // Repeated on a new connection: its acknowledgement takes its place there.
        if (held !== undefined && held.generation !== this.#generation) {
          held.generation = this.#generation
          this.#order(held)
          giveAgain(held)
        }
        return undefined
      }
      const bytes = costOf(packet)
      if (!this.#hasRoomFor(packet, bytes)) {
        this.#session.forget(id)
        return undefined
      }
      const receipt = this.#receipt(packet, toMessage, bytes, false)
      this.#held = ownMap(this.#held).set(id, receipt)
      this.#pubrec.push(receipt)
      return receipt
    }
    if (!this.#countOne()) return undefined
    const bytes = costOf(packet)
    if (!this.#hasRoomFor(packet, bytes)) return undefined
    const receipt = this.#receipt(packet, toMessage, bytes, false)
    this.#puback.push(receipt)
    this.#pubacks++
    return receipt
  }

  /**
   * A QoS 1 PUBLISH came that this subscriber alone is given, and that it takes in a run. Gives the run; undefined if the message
   * is not to be handed over, or if there is a `fault`.
   */
  receiveInRun(packet: Publish, toMessage: (packet: Publish) => Message, taker: Subscriber): ReceiptRun | undefined {
    if (!this.#countOne()) return undefined
    const bytes = costOf(packet)
    if (!this.#hasRoomFor(packet, bytes)) return undefined
    let run = this.run
    if (run === undefined || !run.isOpen || run.taker !== taker) {
      run = new ReceiptRun(taker, this.#generation, this.#arrivals, taker.expected)
      this.#puback.push(run)
      this.run = run
    }
    this.#bytes += bytes
    this.#arrivals++
    this.#pubacks++
    run.add(toMessage(packet), packet.packetId, bytes)
    return run
  }

  onPubrel(packetId: number): void {
    const reasonCode = this.#session.onPubrel(packetId)
    if (reasonCode === 0) this.journal?.completed(packetId)
    // Each PUBCOMP lets the server send one more, also that of a PUBLISH from before this connection (MQTT 5.0 §4.9).
    this.#outstandingQos2.delete(packetId)
    this.#outstanding--
    this.#send(PackedAck.make(7, packetId, reasonCode))
  }

  /** A subscriber took the message, or refused it with a reason code. */
  settle(receipt: Receipt, reasonCode = 0): void {
    receipt.taken = true
    // Also to one who let it go unseen, and is not to get it twice.
    receipt.handed = true
    if (reasonCode > receipt.reasonCode) receipt.reasonCode = reasonCode
    if (receipt.pending > 0) receipt.pending--
    if (receipt.pending > 0) return
    if (receipt.owed) this.#hooks.onOwed(receipt)
    else this.#settle(receipt)
  }

  /** A subscriber took all of these. */
  settleAll(deliveries: ReadonlyArray<Delivery>): void {
    const isUsual = this.#adrift.size === 0
    for (let index = 0; index < deliveries.length; index++) {
      const { receipt } = deliveries[index]!
      if (receipt === undefined) continue
      if (isUsual && receipt.settlePlain()) {
        this.#bytes -= receipt.bytes
        receipt.bytes = 0
      } else {
        this.settle(receipt)
      }
    }
    this.#tellRoom()
    // Those of an earlier connection are not waiting for their turn.
    this.#pump(1)
    this.#pump(2)
  }

  /** The subscriber took all of the run. */
  settleRun(run: ReceiptRun): void {
    run.isSettled = true
    this.#bytes -= run.bytes
    run.bytes = 0
    this.#tellRoom()
    this.#pump(1)
  }

  /** For how many of those that wait to be acknowledged there is room. */
  get room(): number {
    return this.#puback.room + this.#pubrec.room
  }

  /** What waits keeps no room for more. */
  trim(): void {
    this.#puback.trim()
    this.#pubrec.trim()
  }

  /** Whether settling the message counts, as far as can be known now. */
  standing(receipt: Receipt): AckResult {
    if (receipt.generation < this.#epoch || this.#link === "over") return sessionLost
    // It is acknowledged when the server repeats it, and not handed over again.
    if (receipt.qos === 2 && this.#held.get(receipt.packetId) === receipt) return acked
    return this.#link === "up" && receipt.generation === this.#generation && !receipt.revoked ? acked : stale
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
    detachPayload(receipt.message)
    const isKept = isDurable || this.#options.unclaimed === "hold"
    this.#parked = ownArray(this.#parked)
    this.#parked.push({ receipt, until: isKept ? Infinity : now + parkedMillis })
    if (isKept || ++this.#unclaimed <= parkedMaximum) return
    this.#drop(this.#parked.findIndex(({ until }) => until !== Infinity))
  }

  /** Takes out the parked messages that a new subscriber wants, in order. */
  claim(wants: (receipt: Receipt) => boolean): Array<Receipt> {
    if (this.#parked.length === 0) return []
    const claimed: Array<Receipt> = []
    this.#keepParked(({ receipt }) => {
      if (!wants(receipt)) return true
      claimed.push(receipt)
      return false
    })
    return claimed
  }

  /** The messages that somebody is owed and that others have not settled, or are parked. */
  get owing(): Array<Receipt> {
    const receipts = this.#puback.all.flatMap((entry) => entry instanceof ReceiptRun ? entry.left : entry)
    const open = new Set([...receipts, ...this.#pubrec.all, ...this.#held.values(), ...this.#adrift])
    return [...open].filter(({ owed, revoked, settled }) => owed && !settled && !revoked)
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
    this.#hooks.onUnclaimed(receipt.message)
    // The PUBLISH is valid, and its receiver does not take it.
    if (this.#options.unclaimed === "reject") receipt.reasonCode = Math.max(receipt.reasonCode, 0x83)
    this.dismiss(receipt)
  }

  #keepParked(keep: (parked: Parked) => boolean): void {
    this.#parked = this.#parked.filter(keep)
    this.#unclaimed = this.#parked.filter(({ until }) => until !== Infinity).length
  }

  #settle(receipt: Receipt): void {
    if (receipt.settled) return
    receipt.settled = true
    if (this.#adrift.size > 0) this.#adrift.delete(receipt)
    this.#release(receipt)
    if (receipt.generation === this.#generation) this.#pump(receipt.qos)
  }

  #revoke(receipt: Receipt): void {
    receipt.revoked = true
    this.#release(receipt)
  }

  #release(receipt: Receipt): void {
    this.#bytes -= receipt.bytes
    receipt.bytes = 0
    this.#tellRoom()
  }

  #tellRoom(): void {
    if (this.onRoom === undefined || !this.hasRoom) return
    const { onRoom } = this
    this.onRoom = undefined
    onRoom()
  }

  /** Whether the message is taken; if not, the server has to send it again, and so all behind it. */
  #hasRoomFor(packet: Publish, bytes: number): boolean {
    if (this.#isOverfull) return this.#refuse(packet)
    // What is larger than the limit by itself is taken where there is nothing else, since it would never be otherwise.
    if (this.#bytes === 0 || this.#bytes + bytes <= this.#maximumBytes) return true
    this.#isOverfull = true
    return this.#refuse(packet)
  }

  #refuse(packet: Publish): false {
    this.#hooks.onRefused(packet)
    return false
  }

  #receipt(
    packet: Publish,
    toMessage: (packet: Publish) => Message,
    bytes: number,
    settled: boolean
  ): Receipt {
    this.#bytes += bytes
    this.run = undefined
    const message = this.#toMessage(packet, toMessage)
    return new NewReceipt(
      packet.packetId,
      packet.qos as 1 | 2,
      message,
      bytes,
      this.#generation,
      this.#arrivals++,
      settled
    )
  }

  #toMessage(packet: Publish, toMessage: (packet: Publish) => Message): Message {
    const message = toMessage(packet)
    if (packet.qos !== 2 || this.journal === undefined) return message
    return { ...message, deliveryId: this.journal.deliveryId(packet.packetId) }
  }

  #order(receipt: Receipt): void {
    this.#pubrec.push(receipt)
    this.#pump(2)
  }

  #pump(qos: 1 | 2): void {
    if (qos === 1) return this.#pumpPubacks()
    const queue = this.#pubrec
    for (let receipt = queue.first; receipt?.settled === true && this.#canSay(receipt); receipt = queue.first) {
      queue.shift()
      this.#sendPubrec(receipt)
    }
  }

  #pumpPubacks(): void {
    const queue = this.#puback
    for (let entry = queue.first; entry !== undefined; entry = queue.first) {
      if (entry instanceof ReceiptRun) {
        if (!this.#sendRun(entry)) return
      } else {
        if (!entry.settled || !this.#canSay(entry)) return
        this.#sendPuback(entry)
      }
      if (entry === this.run) this.run = undefined
      queue.shift()
    }
  }

  /** A refusal ends the exchange: said to nobody, it would let the repetition pass for a new message. */
  #canSay({ reasonCode }: Receipt): boolean {
    return reasonCode < 0x80 || !this.#hasCodes || this.#link === "up"
  }

  #send(ack: PackedAck.PackedAck): void {
    if (isNoArray(this.#acks)) this.#acks = newArray()
    this.#acks.push(ack)
  }

  #sendPuback({ packetId, reasonCode }: Receipt): void {
    this.#outstanding--
    this.#pubacks--
    this.#send(PackedAck.make(4, packetId, this.#hasCodes ? reasonCode : 0))
  }

  /** Whether all of the run is acknowledged. */
  #sendRun(run: ReceiptRun): boolean {
    if (run.receipts !== undefined) {
      for (let receipt = run.first; receipt !== undefined; receipt = run.first) {
        if (!receipt.settled || !this.#canSay(receipt)) return false
        run.shift()
        this.#sendPuback(receipt)
      }
      return true
    }
    if (!run.isSettled) return false
    const { acks } = run
    this.#outstanding -= acks.length
    this.#pubacks -= acks.length
    if (isNoArray(this.#acks)) this.#acks = acks
    else for (let index = 0; index < acks.length; index++) this.#acks.push(acks[index]!)
    return true
  }

  #sendPubrec(receipt: Receipt): void {
    const { packetId } = receipt
    const reasonCode = this.#hasCodes ? receipt.reasonCode : 0
    this.#held.delete(packetId)
    this.#session.onPubrecSent(packetId, reasonCode)
    // Also of a refused one, so that what is completed next counts in the store as well.
    if (!receipt.isKept) this.journal?.received(packetId)
    // The exchange ends with a refusal: no PUBREL comes, and the identifier stands for another message next.
    if (reasonCode >= 0x80) {
      if (this.#outstandingQos2.delete(packetId)) this.#outstanding--
      this.journal?.completed(packetId)
    }
    this.#send(PackedAck.make(5, packetId, reasonCode))
  }

  /** Whether our Receive Maximum allows one more. */
  #countOne(): boolean {
    const maximum = this.#receiveMaximum
    this.#outstanding++
    if (maximum === undefined || this.#outstanding <= maximum) return true
    this.fault = Fault.make("PUBLISH", "receive maximum", `more than ${maximum} unacknowledged messages`, 0x93)
    return false
  }
}

/** What of it is not acknowledged, each for itself. */
const receiptsOf = (entry: Receipt | ReceiptRun): Receipt | ReadonlyArray<Receipt> =>
  entry instanceof ReceiptRun ? entry.dissolve() : entry

const giveAgain = (receipt: Receipt): void => {
  const { left } = receipt
  receipt.left = undefined
  for (const again of left ?? []) again()
}
