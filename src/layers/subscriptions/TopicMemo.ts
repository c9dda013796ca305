/**
 * Remembers what was found for a topic, for a bounded number of topics, until it is told to forget.
 *
 * Two tables take turns, so that what comes often stays. While hardly any topic comes again nothing is remembered for a
 * while, since that would only cost time.
 *
 * @since 0.1.0
 */
import type { TopicNote } from "../../protocol/TopicNote.ts"
import { noMap, ownMap } from "../../protocol/EmptyCollections.ts"

/** Topics in each of the two tables, at least, and how long they may be. */
const rememberedTopics = 4096
const rememberedLength = 256
/** For how many look-ups nothing is remembered, once misses have exceeded hits by as many as a table holds. */
const pause = 16_384

export class TopicMemo<A> {
  readonly #find: (topic: string) => A
  /**
   * Topics in each of the two tables. Whoever has many filters expects many topics, and a look-up costs the more, the more
   * filters there are that the processor has not at hand.
   */
  #capacity = rememberedTopics
  #recent = new Map<string, A>()
  #older = noMap<string, A>()
  #misses = 0
  #pausing = 0
  /** What is noted with it still holds. */
  #stamp = {}

  constructor(find: (topic: string) => A) {
    this.#find = find
  }

  /** Remembers up to twice as many topics as there are filters, and 8,192 at least. */
  scaleTo(filters: number): void {
    this.#capacity = Math.max(rememberedTopics, filters)
  }

  get size(): number {
    return this.#recent.size + this.#older.size
  }

  /** `note`: where what is found may be kept as well. */
  get(topic: string, note?: TopicNote | undefined): A {
    if (note === undefined) return this.#get(topic)
    if (note.owner === this.#stamp) return note.value as A
    const found = this.#get(topic)
    note.owner = this.#stamp
    note.value = found
    return found
  }

  #get(topic: string): A {
    if (this.#pausing > 0) {
      this.#pausing--
      return this.#find(topic)
    }
    const recent = this.#recent.get(topic)
    if (recent !== undefined) {
      if (this.#misses > 0) this.#misses--
      return recent
    }
    return this.#getOlder(topic)
  }

  #getOlder(topic: string): A {
    const older = this.#older.get(topic)
    if (older !== undefined) {
      if (this.#misses > 0) this.#misses--
    } else if (++this.#misses > this.#capacity) {
      this.#misses = 0
      this.#pausing = pause
    }
    const found = older ?? this.#find(topic)
    if (topic.length > rememberedLength) return found
    if (this.#recent.size >= this.#capacity) {
      const emptied = this.#older
      emptied.clear()
      this.#older = this.#recent
      this.#recent = emptied
    }
    this.#recent = ownMap(this.#recent)
    this.#recent.set(topic, found)
    return found
  }

  /** Something has changed: what is remembered may not hold any more. */
  clear(): void {
    this.#stamp = {}
    if (this.#recent.size > 0) this.#recent.clear()
    if (this.#older.size > 0) this.#older.clear()
  }
}
