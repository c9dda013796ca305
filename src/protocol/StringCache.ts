/**
 * Remembers strings by the bytes that they were decoded from. Messages repeat their topics and the names of their user
 * properties, and a string that is found here needs neither the checks of its bytes nor an allocation.
 *
 * Memory is bounded: so many strings of 4 to 64 bytes. There is room for few at first, and for more as more are asked for,
 * since many a client has one topic. Bytes are compared in full, so a collision of hashes costs time and never gives a wrong
 * string. While next to nothing is found, as where every message has a topic of its own, the cache steps aside for a while.
 *
 * @since 0.1.0
 */

import * as TopicNote from "./TopicNote.ts"

/** Strings that there is room for at first, and how much more there is each time that it does not suffice. */
const leastCapacity = 16
const growth = 4

const slotSize = 64
const slotWords = slotSize / 8
const ways = 4

/** Misses in excess of hits after which the cache steps aside, and for how many lookups it does. */
const patience = 256
const pause = 4096

/** Wrong guesses in excess of the last right one after which the next string is not guessed, until it could have been. */
const trusted = 4

/** An odd number for each word, so that the products do not wait for one another as those of a chain would. */
const factors = Int32Array.from(
  { length: slotSize / 4 },
  (_, word) => Math.imul(2 * word + 1, 0x27d4eb2f) ^ word << 20 | 1
)

/**
 * @category decoding
 * @since 0.1.0
 */
export class StringCache {
  private readonly maximum: number
  private mask: number
  private strings: Array<string>
  private tags: Int32Array
  private lengths: Uint8Array
  /** The bytes, eight as a number: no text that may be here has a NUL or 0xFF, as every zero or NaN has that could be confused. */
  private words: Float64Array
  /** Made when the first is asked for. */
  private notes: Array<TopicNote.TopicNote | undefined> | undefined = undefined
  /** The slot of the string that came after that of this slot, which is the best guess at what comes next. */
  private next: Uint16Array
  /** For how many wrong guesses more it is guessed. */
  private trust = 0
  /** Where `get` found a string last. */
  private found = 0
  /** Strings that were put since there is so much room. */
  private puts = 0
  private set = -1
  private tag = 0
  private victim = 0
  private misses = 0
  private pausing = 0

  /** Room for this many strings at most, a power of four from 16 on. */
  constructor(maximum: number) {
    const capacity = Math.min(leastCapacity, maximum)
    this.maximum = maximum
    this.mask = capacity / ways - 1
    this.strings = new Array(capacity).fill("")
    this.tags = new Int32Array(capacity)
    this.lengths = new Uint8Array(capacity)
    this.words = new Float64Array(capacity * slotWords)
    this.next = new Uint16Array(capacity)
  }

  /** The string of these bytes, if it is remembered. Otherwise `put` may follow, with the same bytes. */
  get(bytes: DataView, start: number, end: number): string | undefined {
    const length = end - start
    this.set = -1
    if (length < 4 || length > slotSize) return undefined
    if (this.pausing > 0) {
      this.pausing--
      return undefined
    }
    // Words of four bytes, the last of which may overlap the one before it.
    const last = end - 4
    const before = this.found
    const guess = this.next[before]!
    if (this.trust > 0 && this.equals(guess, bytes, start, end)) {
      if (this.misses > 0) this.misses--
      this.found = guess
      return this.strings[guess]
    }
    let hash = Math.imul(bytes.getInt32(last, true), 0x85ebca6b) + length | 0
    for (let i = start, word = 0; i < last; i += 4, word++) {
      hash = hash + Math.imul(bytes.getInt32(i, true), factors[word]) | 0
    }
    hash ^= hash >>> 15
    hash = Math.imul(hash, 0x9e3779b1)
    hash ^= hash >>> 16
    // 0 is the tag of a slot without a string.
    const tag = hash === 0 ? 1 : hash
    const set = (hash & this.mask) * ways
    for (let slot = set; slot < set + ways; slot++) {
      if (this.tags[slot] === tag && this.equals(slot, bytes, start, end)) {
        if (this.misses > 0) this.misses--
        if (slot === guess) this.trust = trusted
        else {
          if (this.trust > 0) this.trust--
          this.next[before] = slot
        }
        this.found = slot
        return this.strings[slot]
      }
    }
    this.set = set
    this.tag = tag
    if (++this.misses > patience) {
      this.misses = 0
      this.pausing = pause
    }
    return undefined
  }

  /** What belongs to the string that `get` found last. */
  get note(): TopicNote.TopicNote {
    const notes = this.notes ??= new Array(this.strings.length).fill(undefined)
    return notes[this.found] ??= TopicNote.make()
  }

  /** Remembers the string of the bytes that `get` did not find. */
  put(bytes: DataView, start: number, end: number, text: string): void {
    if (this.set < 0) return
    const slot = this.set + (this.victim++ & ways - 1)
    let word = slot * slotWords
    if (end - start < 8) {
      this.words[word] = bytes.getInt32(start, true)
      this.words[word + 1] = bytes.getInt32(end - 4, true)
    } else {
      for (let i = start; i < end - 8; i += 8) this.words[word++] = bytes.getFloat64(i, true)
      this.words[word] = bytes.getFloat64(end - 8, true)
    }
    this.tags[slot] = this.tag
    this.lengths[slot] = end - start
    this.strings[slot] = text
    if (this.notes !== undefined) this.notes[slot] = undefined
    this.set = -1
    if (++this.puts > this.strings.length && this.strings.length < this.maximum) this.grow()
  }

  /** Makes more room, and moves what is there. */
  private grow(): void {
    const { lengths, strings, tags, words } = this
    const capacity = growth * strings.length
    this.puts = 0
    this.mask = capacity / ways - 1
    this.strings = new Array(capacity).fill("")
    this.tags = new Int32Array(capacity)
    this.lengths = new Uint8Array(capacity)
    this.words = new Float64Array(capacity * slotWords)
    this.next = new Uint16Array(capacity)
    this.found = 0
    this.notes = undefined
    for (let from = 0; from < strings.length; from++) {
      const tag = tags[from]!
      if (tag === 0) continue
      // What shared a set is spread over several, each of which has room for all of it at the same place in the set.
      const slot = (tag & this.mask) * ways + (from & ways - 1)
      this.strings[slot] = strings[from]!
      this.tags[slot] = tag
      this.lengths[slot] = lengths[from]!
      this.words.set(words.subarray(from * slotWords, (from + 1) * slotWords), slot * slotWords)
    }
  }

  private equals(slot: number, bytes: DataView, start: number, end: number): boolean {
    const length = end - start
    if (this.lengths[slot] !== length) return false
    const words = this.words
    let word = slot * slotWords
    if (length < 8) {
      return words[word] === bytes.getInt32(start, true) && words[word + 1] === bytes.getInt32(end - 4, true)
    }
    const last = end - 8
    for (let i = start; i < last; i += 8) {
      if (words[word++] !== bytes.getFloat64(i, true)) return false
    }
    return words[word] === bytes.getFloat64(last, true)
  }
}
