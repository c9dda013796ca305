/**
 * Remembers which topic names were found valid, with their bytes: publishers repeat their topics, and one that is found here
 * needs neither a look at its characters nor an encoding.
 *
 * Memory is bounded: so many names of at most so many characters, all of them ASCII, and all are forgotten when it is full.
 * While next to nothing is found, as where every message has a topic of its own, it steps aside for a while.
 *
 * @since 0.1.0
 */

const capacity = 1024
const longest = 128
/** Misses in excess of hits after which the memory steps aside, and for how many look-ups it does. */
const patience = 1024
const pause = 16_384

const remembered = new Map<string, Uint8Array>()
let misses = 0
let pausing = 0

/**
 * The name as it is written, two bytes of length before it, if it is known to be valid. Not to be changed.
 *
 * @category look-up
 * @since 0.1.0
 */
export const get = (topic: string): Uint8Array | undefined => {
  if (topic.length > longest) return undefined
  if (pausing > 0) {
    pausing--
    return undefined
  }
  const bytes = remembered.get(topic)
  if (bytes === undefined) {
    if (++misses > patience) {
      misses = 0
      pausing = pause
    }
  } else if (misses > 0) {
    misses--
  }
  return bytes
}

/**
 * Remembers a valid name, unless it is long or not ASCII.
 *
 * @category look-up
 * @since 0.1.0
 */
export const put = (topic: string): void => {
  const { length } = topic
  if (length > longest || pausing > 0) return
  const bytes = new Uint8Array(2 + length)
  bytes[1] = length
  for (let index = 0; index < length; index++) {
    const unit = topic.charCodeAt(index)
    if (unit > 0x7f) return
    bytes[2 + index] = unit
  }
  if (remembered.size === capacity) remembered.clear()
  remembered.set(topic, bytes)
}
