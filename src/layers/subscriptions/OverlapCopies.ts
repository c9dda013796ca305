/**
 * Copies of one message that come since several subscriptions of the client match it, and for which of them each copy is.
 *
 * A server sends one copy with the identifiers of all subscriptions that match, or one for each with its own (MQTT 5.0
 * §3.3.4). Which it does has to be seen, and nobody may miss a message by a wrong guess. So at first every copy is for all.
 *
 * The proof: two copies of equal content, of which each names a filter that the other does not. They may be two messages, from
 * before and after a filter was subscribed. But what a copy for all names only grows while filters come and none goes: a copy
 * that names the later one of two filters names the earlier one as well, if that was never gone in between. So it is a proof
 * where that is known of two of the filters, and otherwise every further copy is for all again.
 *
 * Before a filter gets its identifier, those that it overlaps get theirs, so that a copy which names anybody names all whom it
 * is for. Where that could not be, who is not named may be meant as well. A copy that names nobody is for all and proves
 * nothing. So does every copy in a session in which identifiers were turned off for a while; in one that an earlier run of the
 * program began the identifiers are other ones than that run had.
 *
 * After the proof a copy is for those whom it names. Who had the same content by another one of his filters is passed over, if
 * one of these brings him every message: of what one filter brings, no two are taken for the same.
 *
 * @since 0.1.0
 */
import { noSet, ownSet } from "../../protocol/EmptyCollections.ts"
import type { Packet } from "../../protocol/index.ts"
import type { Entry } from "./SubscriptionEntry.ts"

/** What a publisher says of a message. */
interface Described {
  readonly contentType?: string | undefined
  readonly responseTopic?: string | undefined
  readonly correlationData?: Uint8Array | undefined
  readonly userProperties?: Packet.UserProperties | undefined
}

/** What is looked at in a message, which may have its properties apart. */
export interface Routed extends Described {
  readonly properties?: Described | undefined
  readonly topic: string
  readonly payload: Uint8Array
  readonly qos: Packet.QoS
  readonly retain: boolean
}

/** What copies of one message have in common. */
interface Content {
  readonly topic: string
  readonly size: number
  readonly hash: number
  /** What is said of it; empty if that is nothing. */
  readonly about: string
}

/** A message of which further copies may come. */
interface Seen extends Content {
  /** The weakest QoS at which those who have it got it. */
  readonly qos: Packet.QoS
  /** The identifiers of the copies that have come. */
  readonly marks: Array<number>
  /** The filters that they name. */
  readonly named: Array<Entry>
  /** Whose members have it. */
  readonly served: Array<Entry>
  /** How many copies there would be if each subscription had its own. */
  readonly expected: number
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
/** Identifiers of subscriptions that have ended; where there are more, those that begin later prove nothing. */
const endedMaximum = 4096

export class OverlapCopies {
  #seen: Array<Seen> = []
  #strikes = 0
  /** Whether the server sends one copy for each subscription. */
  #splits = false
  /** Whether it has been seen that the copies for shared subscriptions name them. */
  #splitsShared = false
  /** Whether all that the server has of the session was subscribed by this client. */
  isOwn: boolean
  /** Whether all that this client subscribed in it has its identifier if it overlaps. */
  #isNamed: boolean
  /** SUBSCRIBEs with an identifier. */
  #named = 0
  /** Identifiers of subscriptions that have ended. */
  #ended = noSet<number>()
  /** Whether more have ended than are remembered. */
  #hasForgotten = false

  constructor(isOwn = false, isNamed = false) {
    this.isOwn = isOwn
    this.#isNamed = isNamed
  }

  /** A connection began whose session is, or may be, a new one. */
  reset(isOwn: boolean): void {
    this.#forget()
    this.isOwn = isOwn
  }

  /** The session is one for which this client has not subscribed anything yet. */
  trust(): void {
    this.#isNamed = true
    this.#ended.clear()
    this.#hasForgotten = false
  }

  /** From now on filters are subscribed without identifiers, though they overlap. */
  distrust(): void {
    this.#forget()
    this.#isNamed = false
  }

  #forget(): void {
    this.#seen = []
    this.#strikes = 0
    this.#splits = false
    this.#splitsShared = false
  }

  /** The server is asked to change what it has, and may choose other identifiers from now on. */
  subscriptionsChange(): void {
    if (!this.#splits) this.#seen = []
  }

  /** Somebody comes, who has not had what others have. */
  membersChange(): void {
    this.#seen = []
  }

  /** The filter is about to be subscribed with its identifier; gives the place of that in the order of all. */
  begin(entry: Entry): number {
    const order = ++this.#named
    if (!entry.named && !this.#hasForgotten && !this.#ended.has(entry.identifier)) entry.namedAt = order
    entry.named = true
    return order
  }

  /** The filter is about to be unsubscribed, or may be gone. */
  end(entry: Entry): void {
    if (!entry.named) return
    entry.steadyAt = Infinity
    if (this.#ended.size < endedMaximum) this.#ended = ownSet(this.#ended).add(entry.identifier)
    else this.#hasForgotten ||= !this.#ended.has(entry.identifier)
  }

  /** For whom a message is that came before and is handed over again. */
  reselect(identifiers: ReadonlyArray<number>, found: ReadonlyArray<Entry>): ReadonlyArray<Entry> {
    const named = namedBy(identifiers, found)
    return named.length === 0 ? found : this.#narrow(named, found)
  }

  /** For whom a copy is that has just come; `found` are two or more filters that match. */
  select(message: Routed, identifiers: ReadonlyArray<number>, found: ReadonlyArray<Entry>): Selection {
    const named = namedBy(identifiers, found)
    if (named.length === 0 || named.length === found.length) return { entries: found, served: nobody }
    // A retained message answers one SUBSCRIBE, which is the one that is named; unless retain flags are left as published.
    if (message.retain && !found.some(keepsRetain)) return { entries: meant(named, found), served: nobody }
    const { payload, topic } = message
    // What answers a SUBSCRIBE has one identifier with every server, and cannot be told from other retained messages here.
    if (!this.#isNamed || payload.length > comparedMaximum || (message.retain && !this.#splits)) {
      return { entries: this.#narrow(named, found), served: nobody }
    }
    const content: Content = { topic, size: payload.length, hash: hashOf(payload), about: describe(message) }
    const before = this.#seen.findLast((seen) => isSame(seen, content))
    if (before === undefined || before.marks.some((mark) => identifiers.includes(mark))) {
      return this.#first(content, message.qos, identifiers, named, found)
    }
    // A shared subscription has a copy of its own with every server, so that says nothing of the others.
    const hasShared = before.named.some(isShared) || named.some(isShared)
    const isProven = this.#splits || (hasShared && this.#splitsShared)
    if (!isProven) {
      if (!proves(before.named, named) && !proves(named, before.named)) {
        return this.#first(content, message.qos, identifiers, named, found)
      }
      if (hasShared) this.#splitsShared = true
      else this.#splits = true
    }
    const entries = this.#narrow(named, found)
    // What may be lost on its way is no substitute for what may not.
    const had = before.qos >= message.qos ? servedFor(named, before) : nobody
    // The first copy was for all, and if it comes again it is not: a durable subscription has to have its own.
    const served = isProven ? had : had.filter((entry) => entry.durable === undefined)
    before.marks.push(...identifiers)
    before.named.push(...named)
    before.served.push(...entries)
    return { entries, served }
  }

  /** No copy of the message is known to have come. */
  #first(
    content: Content,
    qos: Packet.QoS,
    identifiers: ReadonlyArray<number>,
    named: ReadonlyArray<Entry>,
    found: ReadonlyArray<Entry>
  ): Selection {
    const entries = this.#narrow(named, found)
    this.#remember({
      ...content,
      qos,
      marks: [...identifiers],
      named: [...named],
      served: [...entries],
      expected: found.length
    })
    return { entries, served: nobody }
  }

  /** For whom a copy can be, by what is known of the server. */
  #narrow(named: ReadonlyArray<Entry>, found: ReadonlyArray<Entry>): ReadonlyArray<Entry> {
    if (this.#splits) return meant(named, found)
    if (!this.#splitsShared) return found
    const others = meant(named, found)
    // What is for shared subscriptions is for them alone, and the rest is not.
    if (named.every(isShared)) return others.filter(isShared)
    return found.filter((entry) => !entry.isShared || others.includes(entry))
  }

  #remember(seen: Seen): void {
    this.#seen.push(seen)
    if (this.#seen.length <= seenMaximum) return
    const { expected, marks } = this.#seen.shift()!
    if (marks.length > 1 || expected < 2) this.#strikes = 0
    else if (this.#splits && ++this.#strikes >= strikesMaximum) {
      this.#strikes = 0
      this.#splits = false
      this.#seen = []
    }
  }
}

/**
 * Whether a copy for all that names one of these would name one of the others, too: the server has had that one ever since
 * before it had the first of these.
 */
const proves = (some: ReadonlyArray<Entry>, others: ReadonlyArray<Entry>): boolean =>
  some.some(({ namedAt }) => others.some(({ steadyAt }) => steadyAt < namedAt))

const isShared = (entry: Entry): boolean => entry.isShared

const isPartial = (entry: Entry): boolean => entry.isPartial

/** Who has had the message of a copy. What a filter brings that does not bring every message, another such one may not. */
const servedFor = (named: ReadonlyArray<Entry>, { served }: Seen): ReadonlyArray<Entry> => {
  if (!named.every(isPartial)) return [...served]
  const partial = served.filter(isPartial)
  return partial.length === 1 && named.includes(partial[0]!) ? [...served] : served.filter((entry) => !entry.isPartial)
}

/** Those that are named, and those that may be meant without being named. */
const meant = (named: ReadonlyArray<Entry>, found: ReadonlyArray<Entry>): ReadonlyArray<Entry> =>
  found.filter((entry) => !entry.named || entry.isMixed || named.includes(entry))

const namedBy = (identifiers: ReadonlyArray<number>, found: ReadonlyArray<Entry>): ReadonlyArray<Entry> =>
  identifiers.length === 0 ? nobody : found.filter((entry) => identifiers.includes(entry.identifier))

const keepsRetain = ({ known, wanted }: Entry): boolean =>
  wanted?.retainAsPublished === true || (typeof known === "object" && known.retainAsPublished)

const isSame = (one: Content, other: Content): boolean =>
  one.topic === other.topic && one.size === other.size && one.hash === other.hash && one.about === other.about

const describe = (message: Routed): string => {
  const { contentType, correlationData, responseTopic, userProperties } = message.properties ?? message
  if ((contentType ?? correlationData ?? responseTopic ?? userProperties) === undefined) return ""
  const texts = hashOf(encoder.encode(JSON.stringify([contentType, responseTopic, userProperties])))
  return `${texts} ${correlationData === undefined ? "" : hashOf(correlationData)}`
}

const encoder = new TextEncoder()

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
