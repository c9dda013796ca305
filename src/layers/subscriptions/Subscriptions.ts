/**
 * What the client wants to be subscribed to, what the server has granted, and the packets that bring the two together.
 *
 * Every filter has a wanted and a known state. Whoever subscribes or leaves only changes what is wanted; `nextPacket`
 * compares and gives the SUBSCRIBE or UNSUBSCRIBE that is due. So a lost connection, a lost session, a pause and an
 * UNSUBSCRIBE that is owed all need no handling of their own.
 *
 * @since 0.1.0
 */
import type { Packet } from "../../protocol/index.ts"
import { ProtocolFault, ReasonCode, SubscriptionIdentifier, TopicFilter, Utf8 } from "../../protocol/index.ts"
import type { PacketIds } from "../../protocol/PacketId.ts"
import type { Noted } from "../../protocol/TopicNote.ts"
import { InvalidSubscription, NotSupportedByServer, SubscriptionRefused } from "../../services/MqttError.ts"
import type { SubscribeReason } from "../../services/MqttError.ts"
import type { Grant } from "../../services/MqttClient.ts"
import { checkSubscription } from "../../services/ResolvedOptions.ts"
import type { Negotiated } from "../../services/Status.ts"
import type { Routed } from "./OverlapCopies.ts"
import { Routes } from "./Routes.ts"
import type { Fate, Occasion, Takers } from "./Routes.ts"
import type { Subscriber } from "../delivery/Subscriber.ts"
import {
  awaiting,
  forgetRounds,
  identify,
  isGranted,
  isSame,
  makeEntry,
  needsRetained,
  nextRequest,
  wantedOf
} from "./SubscriptionEntry.ts"
import type { Entry, Member, Operation } from "./SubscriptionEntry.ts"
import { noMap, noSet, ownMap, ownSet } from "../../protocol/EmptyCollections.ts"

export type { Member } from "./SubscriptionEntry.ts"

/** Filters in one SUBSCRIBE or UNSUBSCRIBE. */
const filtersPerPacket = 128
/** Bytes of a SUBSCRIBE or UNSUBSCRIBE without its filters and user properties, at most. */
const headerBytes = 16
/** Bytes that a filter takes besides its text. */
const filterBytes = 3
/** SUBSCRIBE and UNSUBSCRIBE packets that await their answers, at most: publishes need packet identifiers, too. */
const operationsMaximum = 16_384

export class Subscriptions {
  #entries = noMap<string, Entry>()
  /** Made for the first filter: a client that only publishes has none. */
  #made: Routes | undefined
  /** What the routes are to know of the session once they are made; see `OverlapCopies`. */
  #isOwn = false
  #isNamed = false
  #shift = 0
  /** How many QoS 1 and 2 messages have arrived. */
  inbox: { readonly arrivals: number } = { arrivals: 0 }
  random: () => number = () => 0
  /** Whether a connection began before. */
  #hasBegun = false
  /** What the server has without an identifier and is to have with it, before anything else gets one. */
  #toName = noSet<Entry>()
  /** What is to be subscribed, and what to be unsubscribed. */
  #toSubscribe = noSet<Entry>()
  #toUnsubscribe = noSet<Entry>()
  #operations = noMap<number, Operation>()
  /** The filters that are declared to be durable. */
  #durable: ReadonlySet<string> = noSet<string>()
  #negotiated: Negotiated | undefined
  /** Whether identifiers may be sent on this connection. */
  #identifies = false

  /** Whether something is to be sent. */
  get isDirty(): boolean {
    const due = this.#toName.size + this.#toSubscribe.size + this.#toUnsubscribe.size
    return due > 0 && this.#operations.size < operationsMaximum
  }

  get #routes(): Routes {
    return this.#made ??= new Routes(this.#isOwn, this.#isNamed, this.#shift)
  }

  get operations(): number {
    return this.#operations.size
  }

  /** The subscribers of a message about which there is nothing special; see `Routes`. */
  takersOf(message: Routed & Noted, identifiers: ReadonlyArray<number> | undefined): Takers {
    return this.#made?.takersOf(message, identifiers)
  }

  /** Calls `f` once for each subscriber that is to get the message; see `Routes`. */
  route(
    message: Routed,
    identifiers: ReadonlyArray<number> | undefined,
    occasion: Occasion,
    f: (subscriber: Subscriber) => void,
    onIdle?: (filter: string) => void
  ): Fate {
    return this.#made === undefined ? "unclaimed" : this.#made.route(message, identifiers, occasion, f, onIdle)
  }

  /** Whether the topic belongs to a filter that is being, or was just, unsubscribed. */
  isWithdrawn(topic: string): boolean {
    return this.#made?.isWithdrawn(topic) === true
  }

  /** Whether a message that arrived then can have been sent for such a filter. */
  isForWithdrawn(topic: string, arrival: number): boolean {
    return this.#made?.isForWithdrawn(topic, arrival) === true
  }

  /** Whether the topic belongs to a durable subscription, whose taker may come at any time. */
  isDurable(topic: string): boolean {
    return this.#made?.isDurable(topic) === true
  }

  // ---------------------------------------------------------------------------
  // wanted
  // ---------------------------------------------------------------------------

  /** Declares the durable subscriptions; those that are not declared any more are unsubscribed. */
  declare(requests: ReadonlyArray<Packet.SubscriptionRequest>): void {
    const filters = requests.length === 0 ? noSet<string>() : new Set(requests.map((request) => request.filter))
    for (const filter of this.#durable) {
      const entry = this.#entries.get(filter)
      if (entry === undefined || filters.has(filter)) continue
      entry.durable = undefined
      this.#routes.changed(entry)
      this.#update(entry)
    }
    this.#durable = filters
    for (const request of requests) {
      const entry = this.#entry(request.filter)
      entry.durable = request
      this.#routes.changed(entry)
      this.#update(entry)
    }
  }

  /** The durable subscription to the filter, if one is declared. */
  durable(filter: string): Packet.SubscriptionRequest | undefined {
    return this.#entries.get(filter)?.durable
  }

  /** Who has to do with the filter. */
  listeners(filter: string): ReadonlyArray<Subscriber> {
    return [...this.#entries.get(filter)?.members.keys() ?? []].map(({ subscriber }) => subscriber)
  }

  /** Adds a subscriber. Messages are routed to it from now on, since they may come before SUBACK (SB-14). */
  join(member: Member, userProperties: Packet.UserProperties | undefined): void {
    for (const request of member.requests) {
      const entry = this.#entry(request.filter)
      this.#routes.addMember(entry, { member, request, round: undefined })
      if (userProperties !== undefined) entry.userProperties = userProperties
      member.awaiting.add(request.filter)
      entry.refused = undefined
      if (needsRetained(entry, request)) entry.asksRetained = true
      this.#update(entry)
    }
    for (const request of member.requests) {
      const entry = this.#entries.get(request.filter)
      if (entry !== undefined && this.#isAnswered(entry)) this.#answer(member, entry)
    }
  }

  /** Listens to a durable subscription without a say in it; gives the reason if the server refused that. */
  listen(member: Member): SubscribeReason | undefined {
    for (const request of member.requests) {
      const entry = this.#entries.get(request.filter)
      if (entry?.refused !== undefined) return entry.refused
      // It gets what still comes of the retained messages that were asked for last.
      if (entry !== undefined) {
        this.#routes.addMember(entry, { member, request, round: entry.rounds === 0 ? undefined : entry.rounds })
      }
    }
    return undefined
  }

  leave(member: Member): void {
    for (const { filter } of member.requests) {
      const entry = this.#entries.get(filter)
      if (entry === undefined || !this.#routes.removeMember(entry, member)) continue
      this.#update(entry)
    }
  }

  /** The client halts: all who wait for a grant give up, and the others wait until it goes on. */
  failWaiting(reason: SubscribeReason): void {
    for (const member of this.#members()) {
      if (member.onGranted === undefined) member.onStatus?.({ _tag: "Halted", reason })
      else {
        member.onGranted = undefined
        member.onRefused(reason)
      }
    }
  }

  /** All streams end. */
  failAll(reason: SubscribeReason): void {
    for (const member of this.#members()) {
      member.onGranted = undefined
      member.onRefused(reason)
    }
  }

  #members(): Set<Member> {
    const members = new Set<Member>()
    for (const entry of this.#entries.values()) for (const member of entry.members.keys()) members.add(member)
    return members
  }

  #entry(filter: string): Entry {
    let entry = this.#entries.get(filter)
    if (entry === undefined) {
      entry = makeEntry(filter, this.#shift)
      this.#entries = ownMap(this.#entries).set(filter, entry)
    }
    return entry
  }

  /** Computes what is wanted; `isLeft`: if nothing is, the filter was left by those who had it. */
  #update(entry: Entry, isLeft = true): void {
    entry.wanted = wantedOf(entry)
    if (entry.wanted !== undefined) {
      // What the server has, may have, or is about to have, without its identifier can only be named later.
      if (!entry.isRouted && !entry.named) {
        entry.isMixed ||= entry.known !== "none" || entry.operation !== undefined || !this.#routes.copies.isOwn
      }
      for (const other of this.#routes.add(entry, this.#entries.values())) {
        other.isMixed ||= other.operation !== undefined
        this.#check(other)
      }
    } else if (entry.isRouted) {
      this.#routes.remove(entry)
      // What the server was never asked for is not unsubscribed: a session of an earlier process may have the filter.
      if (isLeft && (entry.known !== "none" || entry.operation !== undefined)) this.#routes.withdraw(entry)
    }
    this.#check(entry)
  }

  #check(entry: Entry): void {
    this.#settled(entry)
    if (entry.operation !== undefined) return
    if (entry.wanted === undefined) {
      if (entry.known === "none") this.#entries.delete(entry.filter)
      else this.#toUnsubscribe = ownSet(this.#toUnsubscribe).add(entry)
    } else if (entry.refused === undefined) {
      if (entry.known !== "none" && !entry.named && this.#identifierOf(entry) !== undefined) {
        this.#toName = ownSet(this.#toName).add(entry)
      } else if (!isGranted(entry) || entry.asksRetained) {
        this.#toSubscribe = ownSet(this.#toSubscribe).add(entry)
      }
    }
  }

  #settled(entry: Entry): void {
    this.#toName.delete(entry)
    this.#toSubscribe.delete(entry)
    this.#toUnsubscribe.delete(entry)
  }

  /** Whether the server has granted what is wanted, and is not asked for anything else. */
  #isAnswered(entry: Entry): boolean {
    const { known, operation } = entry
    return isGranted(entry) &&
      (operation?.kind !== "unsubscribe") &&
      (operation === undefined || isSame(operation.requests[operation.entries.indexOf(entry)]!, known))
  }

  // ---------------------------------------------------------------------------
  // connections
  // ---------------------------------------------------------------------------

  /**
   * A connection began. Gives the filters that are to be subscribed again. `resumes`: its session is the one that we know;
   * of another one that the server holds nothing is known. `isInDoubt`: it may have been lost and made anew in between.
   * `identifies`: subscription identifiers may be sent.
   */
  begin(negotiated: Negotiated, resumes: boolean, isInDoubt = false, identifies = true): ReadonlyArray<string> {
    this.#negotiated = negotiated
    this.#identifies = identifies && negotiated.protocolVersion === 5 && negotiated.subscriptionIdentifierAvailable
    this.#operations.clear()
    const isNew = !resumes || isInDoubt
    // Of what is resumed for an earlier run it is not known what was subscribed.
    const isOther = !resumes || !this.#hasBegun
    this.#hasBegun = true
    if (!resumes) this.#isOwn = !negotiated.sessionPresent
    this.#isNamed = this.#identifies && (isOther || this.#isNamed)
    if (isOther) this.#shift = negotiated.sessionPresent ? SubscriptionIdentifier.shiftBy(this.random()) : 0
    if (this.#made !== undefined) {
      this.#made.begin(isNew, resumes, this.#isOwn)
      if (isOther) this.#made.copies.trust()
      if (!this.#identifies) this.#made.copies.distrust()
      this.#made.shift = this.#shift
    }
    const renewed: Array<string> = []
    for (const entry of [...this.#entries.values()]) {
      if (entry.operation !== undefined) {
        entry.operation = undefined
        entry.known = "unknown"
        entry.steadyAt = Infinity
        entry.isMixed = true
      }
      entry.refused = undefined
      if (isNew) {
        this.#routes.forget(entry)
        forgetRounds(entry)
      }
      if (!resumes) {
        if (entry.wanted !== undefined && entry.known !== "none") renewed.push(entry.filter)
        entry.known = "none"
        entry.named = false
        entry.isPartial = entry.isShared
        entry.namedAt = 0
        entry.steadyAt = Infinity
        this.#routes.changed(entry)
      } else if (isInDoubt && typeof entry.known === "object") {
        if (entry.wanted !== undefined) renewed.push(entry.filter)
        entry.known = "unknown"
        entry.steadyAt = Infinity
        entry.isMixed = true
      }
      if (isOther) {
        entry.isMixed = negotiated.sessionPresent
        identify(entry, this.#shift)
      }
      // An earlier process may have subscribed to it.
      if (entry.known === "none" && entry.durable !== undefined && negotiated.sessionPresent) entry.known = "unknown"
      if (typeof entry.known !== "object") {
        for (const member of entry.members.keys()) member.awaiting.add(entry.filter)
      }
      this.#check(entry)
    }
    for (const member of this.#members()) if (member.awaiting.size === 0) this.#established(member)
    return renewed
  }

  /**
   * The next SUBSCRIBE or UNSUBSCRIBE that is due, with an identifier taken, or undefined. SUBSCRIBEs come first. What the
   * server does not support is refused here, and never sent.
   */
  nextPacket(ids: PacketIds): Packet.Subscribe | Packet.Unsubscribe | undefined {
    const isFull = this.#operations.size >= operationsMaximum
    let entries: ReadonlyArray<Entry> = []
    let kind: Operation["kind"] = "subscribe"
    if (!isFull) {
      entries = this.#pick(this.#toName)
      if (entries.length === 0) entries = this.#pick(this.#toSubscribe)
      if (entries.length === 0) {
        kind = "unsubscribe"
        entries = this.#pick(this.#toUnsubscribe)
      }
    }
    const packetId = entries.length === 0 ? undefined : ids.next()
    if (packetId === undefined) return undefined
    const isSubscribe = kind === "subscribe"
    const identifier = isSubscribe ? this.#identifierOf(entries[0]!) : undefined
    const requests = isSubscribe
      ? entries.map((entry) => nextRequest(entry, this.#negotiated?.protocolVersion ?? 5))
      : []
    const operation: Operation = { kind, entries, requests, identifier, order: 0, asking: entries.map(awaiting) }
    this.#operations = ownMap(this.#operations).set(packetId, operation)
    for (const entry of entries) {
      entry.operation = operation
      this.#settled(entry)
    }
    const { copies } = this.#routes
    copies.subscriptionsChange()
    if (!isSubscribe) {
      for (const entry of entries) copies.end(entry)
      return { _tag: "Unsubscribe", packetId, filters: entries.map((entry) => entry.filter), properties: undefined }
    }
    for (const entry of entries) {
      entry.askedAt = Math.min(entry.askedAt, this.inbox.arrivals)
      if (identifier !== undefined) operation.order = copies.begin(entry)
      if (entry.wanted!.noLocal) {
        entry.isPartial = true
        entry.steadyAt = Infinity
      }
      this.#routes.changed(entry)
    }
    const userProperties = entries[0]!.userProperties ?? []
    const properties: Packet.SubscribeProperties = {
      ...(identifier === undefined ? {} : { subscriptionIdentifier: identifier }),
      ...(userProperties.length === 0 ? {} : { userProperties })
    }
    const isEmpty = identifier === undefined && userProperties.length === 0
    return { _tag: "Subscribe", packetId, subscriptions: requests, properties: isEmpty ? undefined : properties }
  }

  /** The packet could not be encoded; nothing of it was sent. */
  reject(packetId: number, reason: SubscribeReason, ids: PacketIds): void {
    const operation = this.#operations.get(packetId)
    if (operation === undefined) return
    this.#operations.delete(packetId)
    ids.release(packetId)
    for (const entry of operation.entries) {
      entry.operation = undefined
      if (operation.kind === "subscribe") this.#refuse(entry, reason)
      // An UNSUBSCRIBE that the server cannot take leaves the subscription there until the session ends.
      else {
        entry.known = "none"
        this.#check(entry)
      }
    }
  }

  onSuback(packet: Packet.Suback, ids: PacketIds): ProtocolFault.ProtocolFault | undefined {
    const operation = this.#operations.get(packet.packetId)
    if (operation === undefined) return undefined
    if (operation.kind !== "subscribe") {
      return ProtocolFault.make("SUBACK", "packet identifier", "it answers an UNSUBSCRIBE", 0x82)
    }
    if (packet.reasonCodes.length !== operation.entries.length) return countMismatch("SUBACK")
    this.#operations.delete(packet.packetId)
    ids.release(packet.packetId)
    const reasonString = packet.properties?.reasonString
    this.#routes.copies.subscriptionsChange()
    for (const [index, entry] of operation.entries.entries()) {
      const reasonCode = packet.reasonCodes[index]!
      entry.operation = undefined
      if (reasonCode < 0x80) {
        const isOther = typeof entry.known === "object" && entry.granted !== reasonCode
        entry.known = operation.requests[index]!
        if (operation.identifier !== undefined && !entry.known.noLocal) {
          entry.steadyAt = Math.min(entry.steadyAt, operation.order)
        }
        entry.granted = reasonCode as Packet.QoS
        this.#check(entry)
        const answered = this.#isAnswered(entry) ? awaiting(entry) : operation.asking[index]!
        for (const member of answered) this.#answer(member, entry)
        if (!isOther) continue
        for (const member of entry.members.keys()) {
          if (member.awaiting.size === 0 && !answered.has(member)) this.#established(member)
        }
      } else if (reasonCode === 0xa1 && operation.identifier !== undefined) {
        // The server takes no identifiers, though it did not say so.
        this.#identifies = false
        this.#routes.copies.distrust()
        for (const other of [...this.#toName]) this.#check(other)
        if (isGranted(entry) && operation.requests[index]!.retainHandling === 0) entry.asksRetained = true
        this.#check(entry)
      } else {
        entry.steadyAt = Infinity
        entry.isMixed = true
        const name = ReasonCode.nameOf(reasonCode)
        this.#refuse(
          entry,
          new SubscriptionRefused({
            filter: entry.filter,
            reasonCode,
            name,
            ...(reasonString === undefined ? {} : { reasonString })
          }),
          operation.asking[index]!
        )
      }
    }
    return undefined
  }

  onUnsuback(packet: Packet.Unsuback, ids: PacketIds): ProtocolFault.ProtocolFault | undefined {
    const operation = this.#operations.get(packet.packetId)
    if (operation === undefined) return undefined
    if (operation.kind !== "unsubscribe") {
      return ProtocolFault.make("UNSUBACK", "packet identifier", "it answers a SUBSCRIBE", 0x82)
    }
    if (this.#negotiated?.protocolVersion === 5 && packet.reasonCodes.length !== operation.entries.length) {
      return countMismatch("UNSUBACK")
    }
    this.#operations.delete(packet.packetId)
    ids.release(packet.packetId)
    this.#routes.copies.subscriptionsChange()
    for (const entry of operation.entries) {
      entry.operation = undefined
      // Refused or not: the client is done with it, and asking again would not help.
      entry.known = "none"
      this.#check(entry)
    }
    return undefined
  }

  /** The connection is gone; identifiers of what was not answered are free. */
  end(ids: PacketIds): void {
    for (const packetId of this.#operations.keys()) ids.release(packetId)
    this.#operations.clear()
    this.#negotiated = undefined
    for (const member of this.#members()) member.onStatus?.({ _tag: "Lost" })
  }

  /** What the next packet has room for. What has an identifier of its own has a packet of its own. */
  #pick(due: ReadonlySet<Entry>): ReadonlyArray<Entry> {
    const picked: Array<Entry> = []
    const limit = Math.min(this.#negotiated?.maximumPacketSize ?? Infinity, 65536)
    let bytes = 0
    let passed = 0
    let common: number | undefined
    for (const entry of due) {
      const problem = entry.wanted === undefined ? undefined : this.#unsupported(entry.wanted)
      if (problem !== undefined) {
        this.#refuse(entry, problem)
        continue
      }
      const identifier = entry.wanted === undefined ? undefined : this.#identifierOf(entry)
      const size = Utf8.encodedLength(entry.filter) + filterBytes
      if (picked.length === 0) {
        bytes = headerBytes + (entry.wanted === undefined ? 0 : sizeOf(entry.userProperties))
        common = identifier
        // User properties and identifiers belong to the whole packet.
      } else if (identifier !== common || entry.userProperties !== picked[0]!.userProperties) {
        if (++passed === filtersPerPacket) break
        continue
      } else if (bytes + size > limit) break
      bytes += size
      picked.push(entry)
      const isAlone = identifier !== undefined && !entry.isCommon
      if (isAlone || picked.length === filtersPerPacket) break
    }
    return picked
  }

  #identifierOf(entry: Entry): number | undefined {
    return this.#identifies && entry.overlaps ? entry.identifier : undefined
  }

  /** Why the request cannot be sent on this connection, whose version and server may differ from those it was made for. */
  #unsupported(request: Packet.SubscriptionRequest): NotSupportedByServer | InvalidSubscription | undefined {
    const negotiated = this.#negotiated
    if (negotiated === undefined) return undefined
    const invalid = checkSubscription(request, negotiated.protocolVersion)
    if (invalid !== undefined) return new InvalidSubscription(invalid)
    if (!negotiated.wildcardSubscriptionAvailable && TopicFilter.hasWildcard(request.filter)) {
      return new NotSupportedByServer({ feature: "wildcard subscription", detail: `filter "${request.filter}"` })
    }
    if (
      !negotiated.sharedSubscriptionAvailable && negotiated.protocolVersion === 5 &&
      TopicFilter.parseShared(request.filter) !== undefined
    ) return new NotSupportedByServer({ feature: "shared subscription", detail: `filter "${request.filter}"` })
    return undefined
  }

  #refuse(entry: Entry, reason: SubscribeReason, asking: ReadonlySet<Member> = awaiting(entry)): void {
    const known = entry.known
    if (typeof known === "object") {
      // Only the change was refused: what was granted before still stands, for those who asked for no more.
      for (const member of asking) if (entry.members.has(member)) this.#exclude(member, entry, reason)
      this.#update(entry)
      const others = awaiting(entry)
      if (this.#isAnswered(entry)) {
        for (const member of others) this.#answer(member, entry)
      } else if (others.size === 0 && entry.wanted !== undefined) {
        entry.wanted = known
        this.#check(entry)
      }
      return
    }
    entry.known = "none"
    entry.refused = reason
    this.#routes.copies.end(entry)
    this.#settled(entry)
    for (const member of [...entry.members.keys()]) this.#exclude(member, entry, reason)
    // Nobody is left who wants it, unless it is durable.
    this.#update(entry, false)
  }

  #exclude(member: Member, entry: Entry, reason: SubscribeReason): void {
    this.#routes.removeMember(entry, member)
    member.onGranted = undefined
    member.onRefused(reason)
  }

  #answer(member: Member, entry: Entry): void {
    if (!member.awaiting.delete(entry.filter) || member.awaiting.size > 0) return
    const onGranted = member.onGranted
    member.onGranted = undefined
    onGranted?.(this.#grantsOf(member))
    this.#established(member)
  }

  #established(member: Member): void {
    member.onStatus?.({ _tag: "Established", grants: this.#grantsOf(member) })
  }

  #grantsOf(member: Member): ReadonlyArray<Grant> {
    return member.requests.map(({ filter }) => ({ filter, qos: this.#entries.get(filter)?.granted ?? 0 }))
  }
}

/** Bytes of user properties. */
const sizeOf = (userProperties: Packet.UserProperties | undefined): number => {
  let bytes = 0
  for (const [name, value] of userProperties ?? []) bytes += 5 + Utf8.encodedLength(name) + Utf8.encodedLength(value)
  return bytes
}

const countMismatch = (packet: string): ProtocolFault.ProtocolFault =>
  ProtocolFault.make(packet, "reason codes", "their count differs from the count of filters", 0x82)
