/**
 * The Subscription Identifier that a filter is subscribed with (MQTT 5.0 §3.8.2.1.2).
 *
 * It is computed from the filter alone, so that it means the same on every connection, in every process and after every
 * restart: what a server kept for a session of an earlier run still says which filter it is for.
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
