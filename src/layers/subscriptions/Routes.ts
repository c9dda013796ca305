/**
 * From a message to those who are to get it: by topic, and where the server says it by the subscription that it is for.
 *
 * The cost grows with the levels of the topic and with the number of those who get the message, and not with the number of
 * subscriptions.
 *
 * @since 0.1.0
 */
import type { TopicIndex as Index } from "../../protocol/index.ts"
import { TopicIndex } from "../../protocol/index.ts"
import type { Noted } from "../../protocol/TopicNote.ts"
import { OverlapCopies } from "./OverlapCopies.ts"
import type { Routed } from "./OverlapCopies.ts"
import type { Subscriber } from "../delivery/Subscriber.ts"
import { noMap, ownMap } from "../../protocol/EmptyCollections.ts"
import { identify, rowOf } from "./SubscriptionEntry.ts"
import type { Entry, Member, Membership } from "./SubscriptionEntry.ts"
import { TopicMemo } from "./TopicMemo.ts"

/**
 * What becomes of a message:
 *
 * - `handed`: there are subscribers for it
 * - `served`: those whom it would be for have it already, or have not asked for it
 * - `kept`: it is for a durable subscription that nobody listens to
 * - `withdrawn`: its filter is being, or was just, unsubscribed
 * - `unclaimed`: none of this
 */
export type Fate = "handed" | "served" | "kept" | "withdrawn" | "unclaimed"

/** `new`; `repeated` by the server, with the DUP flag; or `again`, when it came before and goes back to be routed. */
export type Occasion = "new" | "repeated" | "again"

/** The subscribers of a message about which there is nothing special; undefined if it has to be looked at. */
export type Takers = ReadonlyArray<Subscriber> | undefined

/** What is known of a topic beforehand. */
interface Plan {
  /** The filters that match. */
  readonly found: ReadonlyArray<Entry>
  /** The same, and those just unsubscribed, of which copies may still come. */
  readonly matched: ReadonlyArray<Entry>
  /** The subscribers of all of them, each once. */
  readonly takers: ReadonlyArray<Subscriber>
  /** Whether a message is for all of them, unless there is something about it. */
  readonly isPlain: boolean
}

const planOf = (found: ReadonlyArray<Entry>, withdrawn: ReadonlyArray<Entry>): Plan => {
  if (found.length > 0 && withdrawn.some((entry) => entry.named)) {
    return { found, matched: [...found, ...withdrawn], takers: [], isPlain: false }
  }
  const takers: Array<Subscriber> = []
  let seen: Set<Subscriber> | undefined
  for (const entry of found) {
    // A message that is owed to a durable subscription without a listener is looked at more closely, and so are copies.
    if ((entry.named && found.length > 1) || (entry.durable !== undefined && entry.members.size === 0)) {
      return { found, matched: found, takers: [], isPlain: false }
    }
    for (const { member: { subscriber } } of rowOf(entry)) {
      if (found.length > 1) {
        if (takers.length < 16 ? takers.includes(subscriber) : (seen ??= new Set(takers)).has(subscriber)) continue
        seen?.add(subscriber)
      }
      takers.push(subscriber)
    }
  }
  return { found, matched: found, takers, isPlain: true }
}

/** Filters whose unsubscription is remembered, to tell late messages from foreign ones. */
const withdrawnMaximum = 256
/** Topics, of all filters together, of which the retained copies are counted. */
const countedMaximum = 16_384

const noIdentifiers: ReadonlyArray<number> = []
const noEntries: ReadonlyArray<Entry> = []

export class Routes {
  readonly #index: Index.TopicIndex<Entry> = TopicIndex.make<Entry>(4)
  /** Made for the first message. */
  #plans: TopicMemo<Plan> | undefined
  #withdrawn = noMap<string, Entry>()
  /** Made for the first filter that is unsubscribed. */
  #withdrawnIndex: Index.TopicIndex<Entry> | undefined
  readonly copies: OverlapCopies
  /** Filters in the index, and those of them that overlap no other one. */
  #filters = 0
  #alone = 0
  /** What identifiers are shifted by. */
  shift: number
  #counted = 0

  /** By what is known of the session already; see `OverlapCopies`. */
  constructor(isOwn = false, isNamed = false, shift = 0) {
    this.copies = new OverlapCopies(isOwn, isNamed)
    this.shift = shift
  }

  // ---------------------------------------------------------------------------
  // filters
  // ---------------------------------------------------------------------------

  /** Gives those among `all` that overlap another one from now on, and did not before. */
  add(entry: Entry, all: Iterable<Entry>): ReadonlyArray<Entry> {
    if (entry.isRouted) return noEntries
    entry.isRouted = true
    this.#restore(entry.filter)
    const others = this.#overlap(entry, all)
    if (!entry.overlaps) this.#alone++
    this.#index.add(entry.filter, entry)
    this.#plans?.clear()
    this.#filters++
    this.#plans?.scaleTo(this.#filters)
    return others
  }

  #overlap(entry: Entry, all: Iterable<Entry>): ReadonlyArray<Entry> {
    if (this.#alone === 0) {
      entry.overlaps ||= entry.isShared || this.#index.overlaps(entry.filter)
      return noEntries
    }
    const overlapping = this.#index.overlapping(entry.filter)
    entry.overlaps ||= entry.isShared || overlapping === undefined || overlapping.length > 0
    const others: Array<Entry> = []
    // Where they are too many to be looked at, all do.
    for (const other of overlapping ?? all) {
      if (other === entry || !other.isRouted || other.overlaps) continue
      other.overlaps = true
      other.isCommon = true
      identify(other, this.shift)
      this.#alone--
      others.push(other)
    }
    return others
  }

  remove(entry: Entry): void {
    if (!entry.isRouted) return
    entry.isRouted = false
    if (!entry.overlaps) this.#alone--
    this.forget(entry)
    this.#index.remove(entry.filter, entry)
    this.#plans?.clear()
    this.#filters--
    this.#plans?.scaleTo(this.#filters)
  }

  addMember(entry: Entry, membership: Membership): void {
    entry.members.set(membership.member, membership)
    this.copies.membersChange()
    this.changed(entry)
  }

  removeMember(entry: Entry, member: Member): boolean {
    const isMember = entry.members.delete(member)
    if (isMember) this.changed(entry)
    return isMember
  }

  /** Its members have changed, or how it is subscribed. */
  changed(entry: Entry): void {
    entry.row = undefined
    this.#plans?.clear()
  }

  /** The filter is about to be unsubscribed: what still comes for it needs no taker. */
  withdraw(entry: Entry): void {
    this.#restore(entry.filter)
    this.#withdrawn = ownMap(this.#withdrawn).set(entry.filter, entry)
    ;(this.#withdrawnIndex ??= TopicIndex.make<Entry>(4)).add(entry.filter, entry)
    this.#plans?.clear()
    if (this.#withdrawn.size <= withdrawnMaximum) return
    const [oldest] = this.#withdrawn.keys()
    this.#restore(oldest!)
  }

  #withdrawnMatching(topic: string): ReadonlyArray<Entry> {
    return this.#withdrawn.size === 0 ? noEntries : this.#withdrawnIndex!.matching(topic)
  }

  #makePlans(): TopicMemo<Plan> {
    const plans = new TopicMemo((topic: string) => planOf(this.#index.matching(topic), this.#withdrawnMatching(topic)))
    plans.scaleTo(this.#filters)
    this.#plans = plans
    return plans
  }

  #restore(filter: string): void {
    const entry = this.#withdrawn.get(filter)
    if (entry === undefined) return
    this.#withdrawn.delete(filter)
    this.#withdrawnIndex!.remove(filter, entry)
    this.#plans?.clear()
  }

  /** A connection began. `isNew`: its session is, or may be, a new one; `isOwn`: and is ours from its beginning. */
  begin(isNew: boolean, resumes: boolean, isOwn: boolean): void {
    // A resumed session may still have messages for a filter whose UNSUBSCRIBE is owed.
    if (!resumes) {
      for (const filter of [...this.#withdrawn.keys()]) this.#restore(filter)
    }
    if (isNew) this.copies.reset(isOwn)
    else this.copies.isOwn &&= isOwn
  }

  /** Whether the topic belongs to a filter that is being, or was just, unsubscribed. */
  isWithdrawn(topic: string): boolean {
    return this.#withdrawnMatching(topic).length > 0
  }

  /**
   * Whether a message can have been sent for a filter that is being, or was just, unsubscribed: the server had been asked for
   * it when the message arrived.
   */
  isForWithdrawn(topic: string, arrival: number): boolean {
    return this.#withdrawnMatching(topic).some((entry) => entry.askedAt <= arrival)
  }

  /** Whether the topic belongs to a durable subscription, whose taker may come at any time. */
  isDurable(topic: string): boolean {
    return (this.#plans ?? this.#makePlans()).get(topic).found.some((entry) => entry.durable !== undefined)
  }

  // ---------------------------------------------------------------------------
  // messages
  // ---------------------------------------------------------------------------

  /** The subscribers of a message about which there is nothing special; undefined if `route` has to see. */
  takersOf(message: Routed & Noted, identifiers: ReadonlyArray<number> | undefined): Takers {
    if (identifiers !== undefined || message.retain) return undefined
    const { isPlain, takers } = (this.#plans ?? this.#makePlans()).get(message.topic, message.note)
    return isPlain && takers.length > 0 ? takers : undefined
  }

  /**
   * Calls `f` once for each subscriber that is to get the message, and `onIdle` for each durable subscription that is to get
   * it and that nobody listens to.
   */
  route(
    message: Routed,
    identifiers: ReadonlyArray<number> | undefined,
    occasion: Occasion,
    f: (subscriber: Subscriber) => void,
    onIdle?: (filter: string) => void
  ): Fate {
    const plan = (this.#plans ?? this.#makePlans()).get(message.topic)
    const { found, isPlain, takers } = plan
    if (isPlain && identifiers === undefined && !message.retain) {
      for (let i = 0; i < takers.length; i++) f(takers[i]!)
      return takers.length > 0 ? "handed" : this.#untaken(message.topic, found)
    }
    if (found.length === 0) return this.#untaken(message.topic, found)
    return this.#routeOverlap(message, identifiers ?? noIdentifiers, plan, occasion, f, onIdle)
  }

  #routeOverlap(
    message: Routed,
    identifiers: ReadonlyArray<number>,
    { found, matched }: Plan,
    occasion: Occasion,
    f: (subscriber: Subscriber) => void,
    onIdle: ((filter: string) => void) | undefined
  ): Fate {
    let entries = found
    let served: ReadonlyArray<Entry> = []
    if (matched.length > 1) {
      if (occasion === "again") entries = this.copies.reselect(identifiers, matched)
      else ({ entries, served } = this.copies.select(message, identifiers, matched))
    }
    let first: Member | undefined
    let others: Set<Member> | undefined
    let isServed = false
    for (const entry of entries) {
      if (entry.durable !== undefined && entry.members.size === 0 && !served.includes(entry)) onIdle?.(entry.filter)
      const copy = message.retain ? this.#copyOf(entry, message.topic, occasion) : 0
      for (const membership of rowOf(entry)) {
        const { member } = membership
        if (
          copy > 0 && !isOwed(entry, membership, copy) || served.some((other) => other.members.has(member))
        ) {
          isServed = true
          continue
        }
        if (first === undefined) first = member
        else {
          if (member === first || others?.has(member) === true) continue
          others ??= new Set()
          others.add(member)
        }
        f(member.subscriber)
      }
    }
    if (first !== undefined) return "handed"
    return isServed ? "served" : this.#untaken(message.topic, entries)
  }

  #untaken(topic: string, entries: ReadonlyArray<Entry>): Fate {
    if (entries.some((entry) => entry.durable !== undefined)) return "kept"
    return this.isWithdrawn(topic) ? "withdrawn" : "unclaimed"
  }

  // ---------------------------------------------------------------------------
  // retained messages
  // ---------------------------------------------------------------------------

  /**
   * Which copy of the retained message of the topic this is for the entry, from 1; 0 where that cannot be told. Each time
   * that the server is asked for them brings one copy at most, so the n-th is of the n-th time, or of a later one.
   */
  #copyOf(entry: Entry, topic: string, occasion: Occasion): number {
    if (entry.rounds === 0 || entry.wanted?.retainAsPublished === true) return 0
    const before = entry.copies?.get(topic) ?? 0
    if (occasion === "again") return before
    // Whose copy is repeated is not known.
    if (occasion === "repeated") return 0
    const copy = Math.min(before + 1, entry.rounds)
    if (before > 0 || this.#counted < countedMaximum) {
      if (before === 0) this.#counted++
      entry.copies ??= new Map()
      entry.copies.set(topic, copy)
    }
    // A session that was there before may have messages that were retained as published.
    return copy === 1 && !this.copies.isOwn ? 0 : copy
  }

  /** The session is a new one: what came of retained messages before counts no more. */
  forget(entry: Entry): void {
    this.#counted -= entry.copies?.size ?? 0
    entry.copies = undefined
  }
}

const isOwed = (entry: Entry, { round }: Membership, copy: number): boolean =>
  round === undefined ? entry.rounds === 0 : round >= copy
