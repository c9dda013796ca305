/**
 * What waits in the memory of a subscriber for its consumer, in order of arrival.
 *
 * Messages that nothing depends on, as all are at QoS 0, wait as they are, as long as nothing else comes behind them: so the
 * consumer is given the very list in which they were collected. A run of QoS 1 messages waits as it is as long as it is alone.
 *
 * @since 0.1.0
 */
import { newArray } from "../../protocol/EmptyCollections.ts"
import type { Message } from "../../services/Message.ts"
import { detachPayload } from "../../services/MessageCodec.ts"
import { isTracked, NewDelivery } from "./Delivery.ts"
import type { Delivery } from "./Delivery.ts"
import { Fifo } from "./Fifo.ts"
import type { ReceiptRun } from "./ReceiptRun.ts"

export class Backlog {
  readonly #deliveries = new Fifo<Delivery>()
  /** Those that wait as they are, behind all the others. */
  readonly #plain = new Fifo<Message>()
  /** If there is one, it is all there is. */
  #run: ReceiptRun | undefined

  get size(): number {
    return this.#run === undefined ? this.#deliveries.size + this.#plain.size : this.#run.size
  }

  /** For how many there is room. */
  get room(): number {
    return this.#deliveries.room + this.#plain.room
  }

  /** Whether there are no messages but those that wait as they are. */
  get isPlain(): boolean {
    return this.#run === undefined && this.#deliveries.isEmpty
  }

  pushPlain(message: Message): void {
    this.#unroll()
    this.#plain.push(message)
  }

  push(delivery: Delivery): void {
    this.#unroll()
    if (!this.#plain.isEmpty) this.#join()
    this.#deliveries.push(delivery)
  }

  /** Whether the next message may come in this run, behind which nothing has come, or in a new one. */
  takesRun(last: ReceiptRun | undefined): boolean {
    const run = this.#run
    return run === undefined ? this.size === 0 : run === last && run.isOpen
  }

  /** A message came in this run, as `takesRun` has said that it may. */
  pushRun(run: ReceiptRun): void {
    if (this.#run === undefined) this.#run = run
  }

  /** The run, if it has no more messages than this. */
  takeRun(maximum: number): ReceiptRun | undefined {
    const run = this.#run
    if (run === undefined || run.receipts !== undefined || run.size > maximum) return undefined
    this.#run = undefined
    run.isOpen = false
    return run
  }

  /** The run becomes single deliveries, since something happens to a part of it, or comes behind it. */
  #unroll(): void {
    const run = this.#run
    if (run === undefined) return
    this.#run = undefined
    for (const receipt of run.dissolve()) this.#deliveries.push(receipt)
  }

  /** Puts these before all others. */
  prepend(deliveries: ReadonlyArray<Delivery>): void {
    this.#deliveries.replace([...deliveries, ...this.deliveries])
  }

  /** Those that wait as they are become deliveries, so that others may stand behind them. */
  #join(): void {
    for (const message of this.#plain.take(Infinity)) this.#deliveries.push(new NewDelivery(message, undefined, 0))
  }

  /** The oldest messages, so many at most, where all wait as they are. */
  takePlain(maximum: number): Array<Message> {
    return this.#plain.take(maximum)
  }

  /** All deliveries, if they are no more than this; none otherwise. */
  takeAll(maximum: number): Array<Delivery> {
    this.#unroll()
    return this.#deliveries.size > maximum ? newArray() : this.#deliveries.take(maximum)
  }

  /** The oldest delivery, without taking it. */
  get first(): Delivery | undefined {
    this.#unroll()
    if (this.#deliveries.isEmpty) this.#join()
    return this.#deliveries.first
  }

  /** Takes the one that `first` gave. */
  shift(): void {
    this.#deliveries.shift()
  }

  /** Takes out the oldest one of which this holds. */
  remove(is: (delivery: Delivery) => boolean): Delivery | undefined {
    this.#unroll()
    return this.#deliveries.remove(is)
  }

  /** Takes out the oldest message that nothing depends on. */
  removePlain(): Message | undefined {
    const message = this.#deliveries.remove((delivery) => !isTracked(delivery))?.message
    if (message !== undefined) return message
    const plain = this.#plain.first
    if (plain !== undefined) this.#plain.shift()
    return plain
  }

  /** All deliveries, oldest first. Messages that wait as they are come behind them. */
  get deliveries(): Array<Delivery> {
    this.#unroll()
    return this.#deliveries.all
  }

  /** These are the deliveries from now on. Messages that wait as they are stay, behind them. */
  replace(deliveries: Array<Delivery>): void {
    this.#unroll()
    this.#deliveries.replace(deliveries)
  }

  clear(): void {
    this.#unroll()
    this.#deliveries.clear()
    this.#plain.clear()
  }

  /** So many that came last keep no chunk of the network alive from now on, and what waits keeps no room for more. */
  detachPayloads(count: number): void {
    // Its messages are with its receipts then.
    if (this.#run?.receipts !== undefined) this.#unroll()
    this.#run?.detachPayloads(count)
    this.#plain.trim()
    this.#deliveries.trim()
    for (let index = Math.min(count, this.#plain.size); --index >= 0;) detachPayload(this.#plain.fromEnd(index)!)
    for (let index = Math.min(count, this.#deliveries.size); --index >= 0;) {
      detachPayload(this.#deliveries.fromEnd(index)!.message)
    }
  }
}

/** The payloads of so many deliveries at the end. */
export const detachLast = (deliveries: ReadonlyArray<Delivery>, count: number): void => {
  for (let index = Math.max(0, deliveries.length - count); index < deliveries.length; index++) {
    detachPayload(deliveries[index]!.message)
  }
}
