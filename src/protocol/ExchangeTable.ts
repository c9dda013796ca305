/**
 * Exchanges by packet identifier, in the order in which they were put in.
 *
 * Identifiers are handed out in ascending order, so those that are in use lie close together and find room in a small table
 * by their lowest bits, without a hash and without anything that is allocated. The few whose place is taken, by one that is
 * open for very long, go into a map.
 *
 * @since 0.1.0
 */
import { noArray } from "./EmptyCollections.ts"

/**
 * What the table holds, each in one table at a time.
 *
 * @category models
 * @since 0.1.0
 */
export interface Linked<A> {
  readonly packetId: number
  /** Its neighbours in the table, in order. */
  previous: A | undefined
  next: A | undefined
}

/** Places of a table that is used for the first time, a power of two. */
const smallest = 16
/** As many as there are identifiers. */
const largest = 65_536

/**
 * @category models
 * @since 0.1.0
 */
export class ExchangeTable<A extends Linked<A>> {
  size = 0
  private places: Array<A | undefined> = noArray()
  private mask = -1
  private displaced: Map<number, A> | undefined
  private first: A | undefined
  private last: A | undefined

  get(packetId: number): A | undefined {
    const found = this.places[packetId & this.mask]
    if (found !== undefined && found.packetId === packetId) return found
    return this.displaced?.get(packetId)
  }

  has(packetId: number): boolean {
    return this.get(packetId) !== undefined
  }

  /** Whether it is the one of all who have none, which nothing may be put in. */
  get isShared(): boolean {
    return this as unknown === none
  }

  /** Puts in one whose identifier no other has that is in it. */
  add(item: A): void {
    if (this.size * 2 >= this.places.length && this.places.length < largest) this.grow()
    this.place(item)
    const { last } = this
    item.previous = last
    item.next = undefined
    if (last === undefined) this.first = item
    else last.next = item
    this.last = item
    this.size++
  }

  /** Takes out one that is in it. */
  delete(item: A): void {
    const { next, packetId, previous } = item
    const place = packetId & this.mask
    if (this.places[place] === item) this.places[place] = undefined
    else this.displaced!.delete(packetId)
    if (previous === undefined) this.first = next
    else previous.next = next
    if (next === undefined) this.last = previous
    else next.previous = previous
    item.previous = undefined
    item.next = undefined
    this.size--
  }

  clear(): void {
    this.size = 0
    this.places = noArray()
    this.mask = -1
    this.displaced = undefined
    this.first = undefined
    this.last = undefined
  }

  /** In the order in which they were put in. One may be taken out once it was given. */
  *values(): IterableIterator<A> {
    for (let item = this.first; item !== undefined;) {
      const { next } = item
      yield item
      item = next
    }
  }

  private place(item: A): void {
    const place = item.packetId & this.mask
    if (this.places[place] === undefined) this.places[place] = item
    else (this.displaced ??= new Map()).set(item.packetId, item)
  }

  private grow(): void {
    if (this.isShared) throw new Error("this table is shared by all who have none: add to one of your own")
    const length = Math.max(smallest, this.places.length * 2)
    this.places = Array.from({ length }, () => undefined)
    this.mask = length - 1
    this.displaced = undefined
    for (const item of this.values()) this.place(item)
  }
}

const none = new ExchangeTable<never>()

/**
 * A table without anything in it that all share, as those of `EmptyCollections`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const noTable = <A extends Linked<A>>(): ExchangeTable<A> => none as unknown as ExchangeTable<A>
