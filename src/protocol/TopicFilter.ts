/**
 * Topic filters, what is subscribed to: their rules, the parts of a shared subscription, and matching (MQTT 5.0 §4.7 and
 * §4.8.2, MQTT 3.1.1 §4.7).
 *
 * Characters are compared one by one: no case folding, no normalisation, no collapsing of empty levels.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import type { ProtocolVersion } from "./Packet.ts"
import * as Utf8 from "./Utf8.ts"

const SLASH = 0x2f
const PLUS = 0x2b
const HASH = 0x23
const DOLLAR = 0x24

const sharePrefix = "$share/"

/**
 * The two parts of the filter of a shared subscription.
 *
 * @category models
 * @since 0.1.0
 */
export interface Shared {
  readonly shareName: string
  /** What messages are matched with. */
  readonly filter: string
}

/**
 * Tells what is wrong with a topic filter, as a clause that begins with `must`, or `undefined` when it is valid.
 *
 * **Details**
 *
 * `#` stands alone or behind the last `/`, `+` fills a whole level, and the filter is a non-empty, well-formed UTF-8 string
 * of at most 65,535 bytes without U+0000. On version 5, the default, what begins with `$share/` must be a share name
 * without wildcards, a `/` and a valid filter; MQTT 3.1.1 defines no shared subscriptions, so there it is a filter like any
 * other. `$share` without a slash is an ordinary filter on both.
 *
 * @category validation
 * @since 0.1.0
 */
export const validate = (text: string, version: ProtocolVersion = 5): string | undefined => {
  if (text.length === 0) return "must have at least one character"
  let start = 0
  if (version === 5 && text.startsWith(sharePrefix)) {
    const slash = text.indexOf("/", sharePrefix.length)
    const shareName = text.slice(sharePrefix.length, slash === -1 ? text.length : slash)
    if (shareName.length === 0) return "must have a share name behind \"$share/\""
    if (hasWildcard(shareName)) return "must not have a wildcard in the share name"
    if (slash === -1 || slash + 1 === text.length) return "must have a topic filter behind the share name"
    start = slash + 1
  }
  return misplacedWildcard(text, start) ?? Utf8.problemOf(Utf8.encodedLength(text))
}

const misplacedWildcard = (text: string, start: number): string | undefined => {
  const last = text.length - 1
  for (let i = start; i <= last; i++) {
    const unit = text.charCodeAt(i)
    if (unit !== PLUS && unit !== HASH) continue
    const opensLevel = i === start || text.charCodeAt(i - 1) === SLASH
    if (unit === HASH) {
      if (!opensLevel) return "must not have \"#\" behind anything but \"/\""
      if (i !== last) return "must not have anything behind \"#\""
    } else if (!opensLevel || (i !== last && text.charCodeAt(i + 1) !== SLASH)) {
      return "must not have \"+\" beside other characters in a level"
    }
  }
  return undefined
}

/**
 * A topic filter that is valid on both protocol versions, which means that `$share/` is followed by a share name and a
 * filter.
 *
 * @category schemas
 * @since 0.1.0
 */
export const TopicFilter = Schema.String.check(
  Schema.makeFilter((text: string) => validate(text), { expected: "a topic filter" })
).pipe(Schema.brand("effect-mqtt/TopicFilter"))

/**
 * A string that is known to be a valid topic filter.
 *
 * @category models
 * @since 0.1.0
 */
export type TopicFilter = typeof TopicFilter.Type

/**
 * Whether the text holds a `+` or a `#`.
 *
 * @category guards
 * @since 0.1.0
 */
export const hasWildcard = (text: string): boolean => text.includes("+") || text.includes("#")

/**
 * Takes the filter of a shared subscription apart; `undefined` for any other filter.
 *
 * @category destructors
 * @since 0.1.0
 */
export const parseShared = (filter: string): Shared | undefined => {
  if (!filter.startsWith(sharePrefix)) return undefined
  const slash = filter.indexOf("/", sharePrefix.length)
  if (slash <= sharePrefix.length || slash + 1 === filter.length) return undefined
  const shareName = filter.slice(sharePrefix.length, slash)
  return hasWildcard(shareName) ? undefined : { shareName, filter: filter.slice(slash + 1) }
}

/**
 * The filters that the messages of a subscription may match: for one that is not shared, itself.
 *
 * **Details**
 *
 * On version 5 a shared filter stands for the part behind its share name. On 3.1.1 it stands for both: the standard knows
 * an ordinary filter there, but many servers offer shared subscriptions on 3.1.1 as well and deliver accordingly.
 *
 * @category destructors
 * @since 0.1.0
 */
export const routes = (filter: string, version: ProtocolVersion = 5): ReadonlyArray<string> => {
  const shared = parseShared(filter)
  if (shared === undefined) return [filter]
  if (version === 5) return [shared.filter]
  // The two never match the same topic unless the inner filter begins with `$share/` too: then the outer one stands alone.
  return shared.filter.startsWith(sharePrefix) ? [filter] : [filter, shared.filter]
}

/**
 * Whether messages of this topic belong to a subscription with this filter. Both must be valid.
 *
 * **Details**
 *
 * One pass over both strings, with neither recursion nor allocation, except for shared filters, which match as `routes`
 * tells. A filter that begins with a wildcard does not match a topic that begins with `$`.
 *
 * @category guards
 * @since 0.1.0
 */
export const matches = (filter: string, topic: string, version: ProtocolVersion = 5): boolean =>
  filter.startsWith(sharePrefix)
    ? routes(filter, version).some((route) => matchesPlain(route, topic))
    : matchesPlain(filter, topic)

const matchesPlain = (filter: string, topic: string): boolean => {
  const filterLength = filter.length
  const topicLength = topic.length
  const first = filter.charCodeAt(0)
  if ((first === PLUS || first === HASH) && topic.charCodeAt(0) === DOLLAR) return false
  let f = 0
  let t = 0
  while (f < filterLength) {
    const unit = filter.charCodeAt(f)
    if (unit === HASH) return true
    if (unit === PLUS) {
      while (t < topicLength && topic.charCodeAt(t) !== SLASH) t++
      f++
    } else if (t < topicLength && topic.charCodeAt(t) === unit) {
      f++
      t++
      continue
    } else {
      // `a/#` matches `a` as well: the topic ends where the filter goes on with its last level.
      return t === topicLength && endsWithParent(filter, f)
    }
    if (t === topicLength) return f === filterLength || endsWithParent(filter, f)
  }
  return t === topicLength
}

/** `#` is the last character of a valid filter. */
const endsWithParent = (filter: string, at: number): boolean =>
  filter.charCodeAt(at) === SLASH && filter.charCodeAt(at + 1) === HASH
