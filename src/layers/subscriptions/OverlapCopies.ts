/**
 * Copies of one message that come since several subscriptions of the client match it, and for which of them each copy is.
 *
 * A server may send one copy for all subscriptions, or one for each (MQTT 5.0 §3.3.4). In the second case the copies are told
 * apart by their subscription identifiers, and each is for those who subscribed to that filter. Which case it is has to be
 * seen: there are servers that send one copy with one of the identifiers, and nobody may miss a message since his was left
 * out. So at first every copy is for all, and a second copy of the same content with another identifier is taken for what it
 * is; from then on the identifiers are believed.
 *
 * With a server that sends one for each nobody misses a message by this: of what his own subscription brings, no two copies
 * are taken for the same message. With one that sends one for all, two messages of equal content can be taken for copies, if
 * the first was sent before an overlapping filter was subscribed with its identifier and comes after that.
 *
 * @since 0.1.0
 */
import type { Packet } from "../../protocol/index.ts"
import type { Entry } from "./SubscriptionEntry.ts"

/** What is looked at in a message. */
export interface Routed {
  readonly topic: string
  readonly payload: Uint8Array
  readonly qos: Packet.QoS
  readonly retain: boolean
}

/** A message of which further copies may come. */
interface Seen {
  readonly topic: string
  readonly size: number
  readonly hash: number
  /** The weakest QoS at which those who have it got it. */
  readonly qos: Packet.QoS
  /** The identifiers of the copies that have come; 0 stands for a copy without. */
  readonly marks: Array<number>
  /** Whose members have it. */
  readonly served: Array<Entry>
  /** How many copies there would be if each subscription had its own. */
  readonly expected: number
  readonly isShared: boolean
}

/** For whom a copy is. */
export interface Selection {
  readonly entries: ReadonlyArray<Entry>
  /** Whose members have had the message with another copy. */
  readonly served: ReadonlyArray<Entry>
}

const nobody: ReadonlyArray<Entry> = []

/** Messages of which further copies are recognised. */
const seenMaximum = 32
/** Bytes of the largest payload that is compared with others, since each of its bytes is looked at. */
const comparedMaximum = 65_536
/**
 * Messages in a row of which only one copy came, after which identifiers are not believed any more. Not few: copies of one QoS
 * may run ahead of those of another.
 */
const strikesMaximum = 1024

export class OverlapCopies {
  #seen: Array<Seen> = []
  #strikes = 0
  /** Whether retained messages have been seen to name the filter that they are for. */
  #namesRetained = false
  /** Whether the server sends one copy for each subscription. */
  splits = false
  /** Whether it has been seen that the copies for shared subscriptions name them. */
  #splitsShared = false
  /** Whether all that the server has of the session was subscribed by this client and under this rule. */
  isOwn = false

  /** A connection began whose session is, or may be, a new one. */
  reset(isOwn: boolean): void {
    this.#seen = []
    this.#strikes = 0
    this.#namesRetained = false
    this.splits = false
    this.#splitsShared = false
    this.isOwn = isOwn
  }

  /** The server is asked to change what it has, and may choose other identifiers from now on. */
  subscriptionsChange(): void {
    if (!this.splits) this.#seen = []
  }

  /** For whom a message is that came before and is handed over again. */
  reselect(identifiers: ReadonlyArray<number>, found: ReadonlyArray<Entry>): ReadonlyArray<Entry> {
    const named = namedBy(identifiers, found)
    const pool = this.#poolOf(named, found)
    return this.splits ? this.#narrow(named, pool) : pool
  }

  /** For whom a copy is that has just come; `found` are two or more filters that match. */
  select(message: Routed, identifiers: ReadonlyArray<number>, found: ReadonlyArray<Entry>): Selection {
    const named = namedBy(identifiers, found)
    if (
      named.length === found.length || (identifiers.length > 0 && named.length === 0) ||
      (identifiers.length === 0 && !found.some((entry) => entry.named))
    ) return { entries: found, served: nobody }
    // A retained message answers one SUBSCRIBE, which is the one that is named; unless retain flags are left as published.
    if (message.retain && !found.some(keepsRetain)) {
      this.#namesRetained ||= named.length > 0
      if (this.#namesRetained) return { entries: named.length > 0 ? named : this.#narrow(named, found), served: nobody }
    }
    const pool = this.#poolOf(named, found)
    const marks = identifiers.length === 0 ? [0] : identifiers
    const isShared = named.some((entry) => entry.isShared)
    const { payload, topic } = message
    if (payload.length > comparedMaximum) {
      return { entries: this.splits ? this.#narrow(named, pool) : pool, served: nobody }
    }
    const hash = hashOf(payload)
    const before = this.#seen.findLast((seen) =>
      seen.topic === topic && seen.size === payload.length && seen.hash === hash
    )
    if (before === undefined || before.marks.some((mark) => marks.includes(mark)) || !this.#isCopy(before, marks)) {
      const entries = this.splits ? this.#narrow(named, pool) : pool
      this.#remember({
        topic,
        size: payload.length,
        hash,
        qos: message.qos,
        marks: [...marks],
        served: [...entries],
        expected: found.length,
        isShared
      })
      return { entries, served: nobody }
    }
    before.marks.push(...marks)
    // A shared subscription has a copy of its own with every server, so that says nothing of the others.
    if (isShared || before.isShared) this.#splitsShared = true
    else this.splits = true
    const entries = this.splits ? this.#narrow(named, pool) : this.#poolOf(named, found)
    // What may be lost on its way is no substitute for what may not.
    const served = before.qos >= message.qos ? [...before.served] : nobody
    before.served.push(...entries)
    return { entries, served }
  }

  /**
   * Whether a second copy may be taken for one. Two identifiers say so. A copy with one and a copy without may as well be two
   * messages of the same content, from before and after a filter was subscribed with its identifier, where the session has a
   * past that this client does not know.
   */
  #isCopy(before: Seen, marks: ReadonlyArray<number>): boolean {
    return this.isOwn || !(before.marks.includes(0) || marks.includes(0))
  }

  /** For whom a copy can be, as far as shared subscriptions go: what is for them is for them alone, and the rest is not. */
  #poolOf(named: ReadonlyArray<Entry>, found: ReadonlyArray<Entry>): ReadonlyArray<Entry> {
    if (!this.#splitsShared) return found
    if (named.length > 0 && named.every((entry) => entry.isShared)) return named
    return found.filter((entry) => !entry.isShared || !entry.named || named.includes(entry))
  }

  /**
   * Those that are named; where none is, those that were subscribed without an identifier. In a session with a past, who was
   * subscribed without one cannot be told from who is not meant.
   */
  #narrow(named: ReadonlyArray<Entry>, found: ReadonlyArray<Entry>): ReadonlyArray<Entry> {
    if (named.length > 0) return this.isOwn ? named : found.filter((entry) => !entry.named || named.includes(entry))
    if (!this.isOwn) return found
    const bare = found.filter((entry) => entry.bare)
    return bare.length > 0 ? bare : found
  }

  #remember(seen: Seen): void {
    this.#seen.push(seen)
    if (this.#seen.length <= seenMaximum) return
    const { expected, marks } = this.#seen.shift()!
    if (marks.length > 1 || expected < 2) this.#strikes = 0
    else if (this.splits && ++this.#strikes >= strikesMaximum) {
      this.#strikes = 0
      this.splits = false
    }
  }
}

const namedBy = (identifiers: ReadonlyArray<number>, found: ReadonlyArray<Entry>): ReadonlyArray<Entry> =>
  identifiers.length === 0 ? nobody : found.filter((entry) => identifiers.includes(entry.identifier))

const keepsRetain = ({ known, wanted }: Entry): boolean =>
  wanted?.retainAsPublished === true || (typeof known === "object" && known.retainAsPublished)

/** 52 bits of two sums over all bytes, to compare messages without keeping them. */
const hashOf = (bytes: Uint8Array): number => {
  let a = 0x811c9dc5
  let b = 0x9747b28c
  for (let i = 0; i < bytes.length; i++) {
    a = Math.imul(a ^ bytes[i]!, 0x01000193)
    b = Math.imul(b ^ bytes[i]!, 0x85ebca6b) ^ (b >>> 13)
  }
  return (a >>> 0) * 0x100000 + ((b ^ (b >>> 16)) & 0xfffff)
}
