/**
 * Topic names and filters as the broker of the kit sees them (§4.7, §4.8.2): written apart from the client's, level by level
 * and slow, so that one error is not on both ends of the wire.
 *
 * @since 0.1.0
 */
import { finding } from "./Violation.ts"
import type { Finding } from "./Violation.ts"

/**
 * A filter taken apart.
 *
 * @internal
 */
export interface ParsedFilter {
  /** The group of a shared subscription. */
  readonly share: string | undefined
  /** The filter without `$share/<group>/`. */
  readonly filter: string
}

/**
 * @internal
 */
export const parseFilter = (version: 4 | 5, text: string): ParsedFilter => {
  const levels = text.split("/")
  // MQTT 3.1.1 knows no shared subscriptions; there the string is an ordinary filter.
  if (version === 4 || levels[0] !== "$share" || levels.length < 3) return { share: undefined, filter: text }
  return { share: levels[1]!, filter: levels.slice(2).join("/") }
}

/**
 * What is wrong with a filter.
 *
 * @internal
 */
export const checkFilter = (version: 4 | 5, text: string): Finding | undefined => {
  if (text === "") return finding("TP-04b", "a topic filter is empty", 0x8f)
  if (version === 5 && (text === "$share" || text.startsWith("$share/"))) {
    const levels = text.split("/")
    if (text !== "$share" && (levels.length < 3 || levels[1] === "" || levels.slice(2).join("/") === "")) {
      return finding("SH-01c", `"${text}" lacks a share name or a filter`, 0x8f)
    }
    if (/[+#]/.test(levels[1] ?? "")) return finding("SH-02c", `the share name of "${text}" holds a wildcard`, 0x8f)
  }
  const levels = parseFilter(version, text).filter.split("/")
  for (const [index, level] of levels.entries()) {
    if (level.includes("#") && (level !== "#" || index !== levels.length - 1)) {
      return finding("TP-01b", `# is not alone and last in "${text}"`, 0x8f)
    }
    if (level.includes("+") && level !== "+") return finding("TP-02b", `+ does not fill its level in "${text}"`, 0x8f)
  }
  return undefined
}

/**
 * Whether a filter, without `$share`, takes in a topic name.
 *
 * @internal
 */
export const matches = (filter: string, topic: string): boolean => {
  if (!hasWildcard(filter)) return filter === topic
  const wanted = filter.split("/")
  const levels = topic.split("/")
  if (topic.startsWith("$") && (wanted[0] === "#" || wanted[0] === "+")) return false
  for (const [index, level] of wanted.entries()) {
    if (level === "#") return true
    if (index >= levels.length) return false
    if (level !== "+" && level !== levels[index]) return false
  }
  return wanted.length === levels.length
}

/**
 * @internal
 */
export const hasWildcard = (text: string): boolean => /[+#]/.test(text)
