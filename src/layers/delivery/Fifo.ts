/**
 * A queue in an array, for what comes and goes in batches.
 *
 * Room for a batch is made at once, by how much was there the last time: to grow by and by takes three times the memory, and
 * a copy at each step. What is taken as a whole is the array itself.
 *
 * @since 0.1.0
 */
import { isNoArray, newArray, noArray } from "../../protocol/EmptyCollections.ts"

/** Room that there is at first, and that is made at once at most. */
const leastRoom = 16
const mostRoom = 4096

/** How many places may be empty before those behind them move up. */
const gapMaximum = 1024

export class Fifo<A> {
  #items: Array<A | undefined> = noArray()
  #head = 0
  #tail = 0
  #room = leastRoom

  get size(): number {
    return this.#tail - this.#head
  }

  get isEmpty(): boolean {
    return this.#tail === this.#head
  }

  /** The oldest, without taking it. */
  get first(): A | undefined {
    return this.#items[this.#head]
  }

  push(item: A): void {
    if (this.#tail === this.#items.length) this.#grow()
    this.#items[this.#tail++] = item
  }

  #grow(): void {
    if (isNoArray(this.#items)) this.#items = new Array(this.#room)
    else this.#items.length = 2 * this.#tail
  }

  /** Takes the one that `first` gave. */
  shift(): void {
    this.#items[this.#head++] = undefined
    if (this.#head === this.#tail) this.#reset()
    else if (this.#head >= gapMaximum && this.#head * 2 >= this.#tail) this.replace(this.all)
  }

  /** The oldest, as many as there are up to this many, in an array of their own. */
  take(maximum: number): Array<A> {
    const items = this.#items
    const head = this.#head
    const tail = this.#tail
    if (head === tail) return newArray()
    if (tail - head <= maximum) {
      this.#reset()
      if (head > 0 || tail * 2 < items.length) return items.slice(head, tail) as Array<A>
      if (tail < items.length) items.length = tail
      return items as Array<A>
    }
    const taken = items.slice(head, head + maximum) as Array<A>
    items.fill(undefined, head, head + maximum)
    this.#head = head + maximum
    if (this.#head >= gapMaximum && this.#head * 2 >= tail) this.replace(this.all)
    return taken
  }

  /** Takes out the oldest one of which this holds. */
  remove(is: (item: A) => boolean): A | undefined {
    for (let index = this.#head; index < this.#tail; index++) {
      const item = this.#items[index]!
      if (!is(item)) continue
      if (index === this.#head) this.shift()
      else {
        this.#items.splice(index, 1)
        this.#tail--
      }
      return item
    }
    return undefined
  }

  /** For how many there is room. */
  get room(): number {
    return this.#items.length
  }

  /** Gives back the room for more, since those that are there wait. */
  trim(): void {
    if (this.#items.length > this.#tail) this.#items.length = this.#tail
  }

  /** All of them, oldest first, in an array of their own. */
  get all(): Array<A> {
    return this.#items.slice(this.#head, this.#tail) as Array<A>
  }

  /** These are what is there from now on; the array must not be used any more. */
  replace(items: Array<A>): void {
    this.#items = items
    this.#head = 0
    this.#tail = items.length
    if (items.length === 0) this.#reset()
  }

  /** The one that came so many before the newest, which is 0. */
  fromEnd(index: number): A | undefined {
    return index < this.size ? this.#items[this.#tail - 1 - index] : undefined
  }

  clear(): void {
    this.#reset()
  }

  #reset(): void {
    this.#room = Math.min(mostRoom, Math.max(leastRoom, this.#tail, this.#room >> 1))
    this.#items = noArray()
    this.#head = 0
    this.#tail = 0
  }
}
