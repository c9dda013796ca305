/**
 * Collections that take no memory until something is in them. An empty `Map` takes 184 bytes, a `Set` 152 and an array 32,
 * and a client has dozens, of which an idle one needs none.
 *
 * All that hold nothing are the same collection: it may be read, cleared and deleted from, but to add something its owner
 * asks for one of its own first. To add without asking throws.
 *
 * @since 0.1.0
 */

const refuse = (): never => {
  throw new Error("this collection is shared by all who have none: add to one of your own")
}

const map = new Map<unknown, unknown>()
map.set = refuse
const set = new Set<unknown>()
set.add = refuse
/** For objects from the start: where V8 has seen arrays of several kinds, it calls `push` in place of inlining it. */
const emptyArray = (): Array<never> => {
  const array: Array<unknown> = [{}]
  array.pop()
  return array as Array<never>
}

const array = emptyArray()
// Not frozen: what takes something out of an empty array sets its length.
Object.defineProperty(array, "push", { value: refuse })

export const noMap = <K, V>(): Map<K, V> => map as Map<K, V>

export const noSet = <A>(): Set<A> => set as Set<A>

/** The map itself, or a new one if it is that of all who have none. */
export const ownMap = <K, V>(self: Map<K, V>): Map<K, V> => self === map ? new Map<K, V>() : self

/** The set itself, or a new one if it is that of all who have none. */
export const ownSet = <A>(self: Set<A>): Set<A> => self === set ? new Set<A>() : self

export const noArray = <A>(): Array<A> => array

const blank: ReadonlyArray<never> = emptyArray()

/**
 * A new array. For those that hold what is under way this is better than a literal, for the reason that `PublishPacket` gives:
 * an array in the old generation keeps alive what was in it, and that moves there, too.
 */
export const newArray = <A>(): Array<A> => blank.slice()

/**
 * Whether it is that of all who have none, for what runs with every message: storing what `ownArray` gives would do, but V8
 * keeps a record of each young array that is stored in an old object, though it be the one that is there.
 */
export const isNoArray = (self: ReadonlyArray<unknown>): boolean => self === array

/** The array itself, or a new one if it is that of all who have none. */
export const ownArray = <A>(self: Array<A>): Array<A> => self === (array as ReadonlyArray<A>) ? newArray() : self
