/**
 * The Subscription Identifier that a filter is subscribed with (MQTT 5.0 §3.8.2.1.2).
 *
 * It is computed from the filter, so that it means the same on every connection. In a session that an earlier run began it is
 * shifted by chance: what the server kept from that run says which filters it was for then, which are not those of now.
 *
 * @since 0.1.0
 */

/** The largest identifier that a property can hold. */
const maximum = 268_435_455

/**
 * The identifier of a filter, from 1 to 268,435,455. Two filters may share one, with a chance of 1 in 268 million: whoever
 * looks at it has to look at the topic as well.
 *
 * @category constructors
 * @since 0.1.0
 */
export const of = (filter: string): number => {
  // FNV-1a over UTF-16 units, and a last mix, since its low bits alone spread badly.
  let hash = 0x811c9dc5
  for (let i = 0; i < filter.length; i++) hash = Math.imul(hash ^ filter.charCodeAt(i), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 15), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return ((hash ^ (hash >>> 16)) >>> 0) % maximum + 1
}

/**
 * The identifier of filters that share one, since no two of them match the same topic. No filter has it for itself, but by a
 * chance of 1 in 268 million.
 *
 * @category constants
 * @since 0.1.0
 */
export const common = of("")

/**
 * The identifier that stands for another one in a session that an earlier run of the program began: so that it is none of
 * those that this run gave. `shift` is the same for all of a session; 0 leaves them as they are.
 *
 * @category constructors
 * @since 0.1.0
 */
export const shifted = (identifier: number, shift: number): number => (identifier - 1 + shift) % maximum + 1

/**
 * A shift by chance, from a number below 1.
 *
 * @category constructors
 * @since 0.1.0
 */
export const shiftBy = (random: number): number => 1 + Math.floor(random * (maximum - 1))
