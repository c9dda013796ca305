/**
 * What waits in the memory of a subscriber for its consumer, in order of arrival.
 *
 * Messages that nothing depends on, as all are at QoS 0, wait as they are, as long as nothing else comes behind them: so the
 * consumer is given the very list in which they were collected.
 *
 * @since 0.1.0
 */
import { newArray, noArray, ownArray } from "../../protocol/EmptyCollections.ts"
import type { Message } from "../../services/Message.ts"
import { detachPayload } from "../../services/MessageCodec.ts"
import { isTracked, NewDelivery } from "./Delivery.ts"
import type { Delivery } from "./Delivery.ts"

/** How many places may be empty before those behind them move up. */
const gapMaximum = 4096

export class Backlog {
  #deliveries: Array<Delivery | undefined> = noArray()
  #head = 0
  /** Those that wait as they are, behind all the others. */
  #plain: Array<Message | undefined> = noArray()
  #plainHead = 0

  get size(): number {
    return this.#deliveries.length - this.#head + this.#plain.length - this.#plainHead
  }

  /** Whether there are no messages but those that wait as they are. */
  get isPlain(): boolean {
    return this.#head === this.#deliveries.length
  }

  pushPlain(message: Message): void {
    this.#plain = ownArray(this.#plain)
    this.#plain.push(message)
  }

  push(delivery: Delivery): void {
    if (this.#plain.length > 0) this.#join()
    this.#deliveries = ownArray(this.#deliveries)
    this.#deliveries.push(delivery)
  }

  /** Puts these before all others. */
  prepend(deliveries: ReadonlyArray<Delivery>): void {
    this.#deliveries = [...deliveries, ...this.#deliveries.slice(this.#head)]
    this.#head = 0
  }

  /** Those that wait as they are become deliveries, so that others may stand behind them. */
  #join(): void {
    const plain = this.#plain
    this.#deliveries = ownArray(this.#deliveries)
    for (let index = this.#plainHead; index < plain.length; index++) {
      this.#deliveries.push(new NewDelivery(plain[index]!, undefined, 0))
    }
    this.#plain = noArray()
    this.#plainHead = 0
  }

  /** The oldest messages, so many at most, where all wait as they are. */
  takePlain(maximum: number): Array<Message> {
    const plain = this.#plain
    const start = this.#plainHead
    if (plain.length - start <= maximum) {
      this.#plain = noArray()
      this.#plainHead = 0
      return (start === 0 ? plain : plain.slice(start)) as Array<Message>
    }
    this.#plainHead = start + maximum
    const messages = plain.slice(start, start + maximum) as Array<Message>
    this.#closePlainGap()
    return messages
  }

  /** All deliveries, if they are no more than this; none otherwise. */
  takeAll(maximum: number): Array<Delivery> {
    const deliveries = this.#deliveries
    if (this.#head > 0 || deliveries.length > maximum || deliveries.length === 0) return newArray()
    this.#deliveries = noArray()
    return deliveries as Array<Delivery>
  }

  /** The oldest delivery, without taking it. */
  get first(): Delivery | undefined {
    if (this.isPlain && this.#plain.length > 0) this.#join()
    return this.#deliveries[this.#head]
  }

  /** Takes the one that `first` gave. */
  shift(): void {
    this.#deliveries[this.#head++] = undefined
    this.#closeGap()
  }

  /** Gives back the places of what has left, but not for each message. */
  #closeGap(): void {
    if (this.#head === this.#deliveries.length) this.#deliveries = noArray()
    else if (this.#head >= gapMaximum && this.#head * 2 >= this.#deliveries.length) {
      this.#deliveries = this.#deliveries.slice(this.#head)
    } else return
    this.#head = 0
  }

  #closePlainGap(): void {
    if (this.#plainHead === this.#plain.length) this.#plain = noArray()
    else if (this.#plainHead >= gapMaximum && this.#plainHead * 2 >= this.#plain.length) {
      this.#plain = this.#plain.slice(this.#plainHead)
    } else return
    this.#plainHead = 0
  }

  /** Takes out the oldest one of which this holds. */
  remove(is: (delivery: Delivery) => boolean): Delivery | undefined {
    for (let index = this.#head; index < this.#deliveries.length; index++) {
      const delivery = this.#deliveries[index]!
      if (!is(delivery)) continue
      if (index === this.#head) this.shift()
      else this.#deliveries.splice(index, 1)
      return delivery
    }
    return undefined
  }

  /** Takes out the oldest message that nothing depends on. */
  removePlain(): Message | undefined {
    const message = this.isPlain ? undefined : this.remove((delivery) => !isTracked(delivery))?.message
    if (message !== undefined || this.#plainHead === this.#plain.length) return message
    const plain = this.#plain[this.#plainHead]
    this.#plain[this.#plainHead++] = undefined
    this.#closePlainGap()
    return plain
  }

  /** All deliveries, oldest first. Messages that wait as they are come behind them. */
  get deliveries(): Array<Delivery> {
    return this.#deliveries.slice(this.#head) as Array<Delivery>
  }

  /** These are the deliveries from now on. Messages that wait as they are stay, behind them. */
  replace(deliveries: Array<Delivery>): void {
    this.#deliveries = deliveries
    this.#head = 0
  }

  clear(): void {
    this.replace(noArray())
    this.#plain = noArray()
    this.#plainHead = 0
  }

  /** So many that came last keep no chunk of the network alive from now on. */
  detachPayloads(count: number): void {
    const { length } = this.#plain
    for (let index = Math.max(this.#plainHead, length - count); index < length; index++) {
      detachPayload(this.#plain[index]!)
    }
    detachLast(this.#deliveries, this.#head, count)
  }
}

/** The payloads of so many deliveries at the end, but for those before `from`. */
export const detachLast = (deliveries: ReadonlyArray<Delivery | undefined>, from: number, count: number): void => {
  for (let index = Math.max(from, deliveries.length - count); index < deliveries.length; index++) {
    detachPayload(deliveries[index]!.message)
  }
}
