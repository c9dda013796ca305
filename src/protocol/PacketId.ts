/**
 * Hands out packet identifiers (MQTT 5.0 §2.2.1, MQTT 3.1.1 §2.3.1): one space for PUBLISH, SUBSCRIBE and UNSUBSCRIBE of a
 * session. It knows which are in use, not what for.
 *
 * @since 0.1.0
 */

/**
 * The highest packet identifier; the lowest is 1.
 *
 * @category constants
 * @since 0.1.0
 */
export const maximum = 65_535

/**
 * A mutable allocator, owned by one session.
 *
 * @category models
 * @since 0.1.0
 */
export interface PacketIds {
  /** How many are in use. */
  readonly size: number
  /**
   * Takes the next free identifier, ascending from the one handed out before and from 65,535 on to 1. A released one comes
   * back only when all others had their turn, so a late acknowledgement does not meet a new exchange. `undefined` when all
   * are in use.
   */
  readonly next: () => number | undefined
  /** Reserves this very identifier, for an exchange of a restored session; `false` when it is in use or out of range. */
  readonly take: (id: number) => boolean
  /** Has `next` go on behind this identifier, as if it had been handed out last; one out of range changes nothing. */
  readonly continueAfter: (id: number) => void
  /** Gives it back; `false` when it was not in use. */
  readonly release: (id: number) => boolean
  readonly inUse: (id: number) => boolean
}

/**
 * An allocator with nothing in use, which begins at 1.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (): PacketIds => new PacketIdsImpl()

const words = 2048

/** Of all who have given out none. 0 is not an identifier. Not to be written to. */
const untouched = new Uint32Array([1])

/** One bit per identifier, of which 32 are looked at in one step: 8 KiB once all identifiers had their turn. */
class PacketIdsImpl implements PacketIds {
  size = 0
  /** What lies beyond its end is free. */
  private used = untouched
  private last = 0

  next(): number | undefined {
    if (this.size === maximum) return undefined
    const from = (this.last + 1) & maximum
    let word = from >>> 5
    let free = ~this.word(word) & (-1 << (from & 31))
    while (free === 0) {
      word = (word + 1) % words
      free = ~this.word(word)
    }
    const id = (word << 5) | (31 - Math.clz32(free & -free))
    this.set(id)
    this.last = id
    return id
  }

  take(id: number): boolean {
    if (!isValid(id) || this.inUse(id)) return false
    this.set(id)
    return true
  }

  continueAfter(id: number): void {
    if (isValid(id)) this.last = id
  }

  release(id: number): boolean {
    if (!this.inUse(id)) return false
    this.used[id >>> 5] = this.used[id >>> 5] & ~(1 << (id & 31))
    this.size--
    return true
  }

  inUse(id: number): boolean {
    return isValid(id) && (this.word(id >>> 5) & (1 << (id & 31))) !== 0
  }

  private set(id: number): void {
    const word = id >>> 5
    if (word >= this.used.length || this.used === untouched) {
      const larger = new Uint32Array(Math.min(words, Math.max(word + 1, 8, 2 * this.used.length)))
      larger.set(this.used)
      this.used = larger
    }
    this.used[word] = this.used[word] | (1 << (id & 31))
    this.size++
  }

  private word(index: number): number {
    return index < this.used.length ? this.used[index] : 0
  }
}

const isValid = (id: number): boolean => Number.isInteger(id) && id >= 1 && id <= maximum
