/**
 * What the client wants to be subscribed to, what the server has granted, and the packets that bring the two together.
 *
 * Every filter has a wanted and a known state. Whoever subscribes or leaves only changes what is wanted; `nextPacket`
 * compares and gives the SUBSCRIBE or UNSUBSCRIBE that is due. So a lost connection, a lost session, a pause and an
 * UNSUBSCRIBE that is owed all need no handling of their own.
 *
 * @since 0.1.0
 */
import type { Packet, TopicIndex as Index } from "../protocol/index.ts"
import { ProtocolFault, ReasonCode, TopicFilter, TopicIndex } from "../protocol/index.ts"
import type { PacketIds } from "../protocol/PacketId.ts"
import { InvalidSubscription, NotSupportedByServer, SubscriptionRefused } from "../services/MqttError.ts"
import type { SubscribeReason } from "../services/MqttError.ts"
import type { Grant } from "../services/MqttClient.ts"
import { checkSubscription } from "../services/ResolvedOptions.ts"
import type { Negotiated } from "../services/Status.ts"
import type { Subscriber } from "./Subscriber.ts"

/** One filter. */
interface Entry {
  readonly filter: string
  /** Undefined: to be unsubscribed. */
  wanted: Packet.SubscriptionRequest | undefined
  /** What the server was last known to have; `unknown` when an answer was lost. */
  known: Packet.SubscriptionRequest | "none" | "unknown"
  granted: Packet.QoS
  /** Why the server refused it on this connection; it is not asked again before the next one. */
  refused: SubscribeReason | undefined
  userProperties: Packet.UserProperties | undefined
  durable: Packet.SubscriptionRequest | undefined
  readonly members: Map<Member, Packet.SubscriptionRequest>
  operation: Operation | undefined
}

/** A SUBSCRIBE or UNSUBSCRIBE that awaits its answer. */
interface Operation {
  readonly kind: "subscribe" | "unsubscribe"
  readonly entries: ReadonlyArray<Entry>
  readonly requests: ReadonlyArray<Packet.SubscriptionRequest>
  /** For each entry, who waits for this very answer: those who came later may want something else. */
  readonly asking: ReadonlyArray<ReadonlySet<Member>>
}

/** Somebody who subscribes to one or more filters. */
export interface Member {
  readonly subscriber: Subscriber
  readonly requests: ReadonlyArray<Packet.SubscriptionRequest>
  /** Filters that the server has not answered yet. */
  readonly awaiting: Set<string>
  /** Called once, when all filters are granted. */
  onGranted: ((grants: ReadonlyArray<Grant>) => void) | undefined
  /** Called once, when a filter was refused; the member is to leave then. */
  readonly onRefused: (reason: SubscribeReason) => void
}

/** Filters in one SUBSCRIBE or UNSUBSCRIBE. */
const filtersPerPacket = 128
/** Filters whose unsubscription is remembered, to tell late messages from foreign ones. */
const withdrawnMaximum = 256

export class Subscriptions {
  readonly #entries = new Map<string, Entry>()
  readonly #routes: Index.TopicIndex<Member> = TopicIndex.make<Member>(4)
  readonly #dirty = new Set<Entry>()
  readonly #operations = new Map<number, Operation>()
  readonly #withdrawn = new Set<string>()
  /** The filters that are declared to be durable. */
  #durable: ReadonlySet<string> = new Set()
  #negotiated: Negotiated | undefined

  /** Whether something is to be sent. */
  get isDirty(): boolean {
    return this.#dirty.size > 0
  }

  get operations(): number {
    return this.#operations.size
  }

  /** Calls `f` once for each subscriber whose filters match. */
  forEachSubscriber(topic: string, f: (subscriber: Subscriber) => void): void {
    let first: Member | undefined
    let seen: Set<Member> | undefined
    this.#routes.forEachMatch(topic, (member) => {
      if (first === undefined) first = member
      else {
        if (member === first || seen?.has(member) === true) return
        seen ??= new Set()
        seen.add(member)
      }
      f(member.subscriber)
    })
  }

  /** Whether the topic belongs to a filter that is being, or was just, unsubscribed. */
  isWithdrawn(topic: string): boolean {
    for (const filter of this.#withdrawn) {
      if (TopicFilter.matches(filter, topic, 4)) return true
    }
    return false
  }

  /** Whether the topic belongs to a durable subscription, whose taker may come at any time. */
  isDurable(topic: string): boolean {
    for (const filter of this.#durable) {
      if (TopicFilter.matches(filter, topic, 4)) return true
    }
    return false
  }

  // ---------------------------------------------------------------------------
  // wanted
  // ---------------------------------------------------------------------------

  /** Declares the durable subscriptions; those that are not declared any more are unsubscribed. */
  declare(requests: ReadonlyArray<Packet.SubscriptionRequest>): void {
    const filters = new Set(requests.map((request) => request.filter))
    for (const filter of this.#durable) {
      const entry = this.#entries.get(filter)
      if (entry === undefined || filters.has(filter)) continue
      entry.durable = undefined
      this.#update(entry)
      if (entry.wanted === undefined) this.#withdraw(filter)
    }
    this.#durable = filters
    for (const request of requests) {
      const entry = this.#entry(request.filter)
      entry.durable = request
      this.#update(entry)
    }
  }

  /** The durable subscription to the filter, if one is declared. */
  durable(filter: string): Packet.SubscriptionRequest | undefined {
    return this.#entries.get(filter)?.durable
  }

  /** Adds a subscriber. Messages are routed to it from now on, since they may come before SUBACK (SB-14). */
  join(member: Member, userProperties: Packet.UserProperties | undefined): void {
    for (const request of member.requests) {
      const entry = this.#entry(request.filter)
      entry.members.set(member, request)
      this.#routes.add(request.filter, member)
      this.#withdrawn.delete(request.filter)
      if (userProperties !== undefined) entry.userProperties = userProperties
      member.awaiting.add(request.filter)
      entry.refused = undefined
      this.#update(entry)
    }
    for (const request of member.requests) {
      const entry = this.#entries.get(request.filter)
      if (entry !== undefined && this.#isSettled(entry)) this.#answer(member, entry)
    }
  }

  /** Listens to a durable subscription without a say in it; gives the reason if the server refused that. */
  listen(member: Member): SubscribeReason | undefined {
    for (const request of member.requests) {
      const entry = this.#entries.get(request.filter)
      if (entry?.refused !== undefined) return entry.refused
      this.#routes.add(request.filter, member)
      entry?.members.set(member, request)
    }
    return undefined
  }

  leave(member: Member): void {
    for (const { filter } of member.requests) {
      this.#routes.remove(filter, member)
      const entry = this.#entries.get(filter)
      if (entry === undefined || !entry.members.delete(member)) continue
      this.#update(entry)
      if (entry.wanted === undefined) this.#withdraw(filter)
    }
  }

  /** All who wait for a grant give up. */
  failWaiting(reason: SubscribeReason): void {
    const waiting = new Set<Member>()
    for (const entry of this.#entries.values()) {
      for (const member of entry.members.keys()) if (member.onGranted !== undefined) waiting.add(member)
    }
    for (const member of waiting) {
      member.onGranted = undefined
      member.onRefused(reason)
    }
  }

  /** All streams end. */
  failAll(reason: SubscribeReason): void {
    const members = new Set<Member>()
    for (const entry of this.#entries.values()) for (const member of entry.members.keys()) members.add(member)
    for (const member of members) {
      member.onGranted = undefined
      member.onRefused(reason)
    }
  }

  #entry(filter: string): Entry {
    let entry = this.#entries.get(filter)
    if (entry === undefined) {
      entry = {
        filter,
        wanted: undefined,
        known: "none",
        granted: 0,
        refused: undefined,
        userProperties: undefined,
        durable: undefined,
        members: new Map(),
        operation: undefined
      }
      this.#entries.set(filter, entry)
    }
    return entry
  }

  /** Computes what is wanted: the strongest QoS, and the other options of the latest. */
  #update(entry: Entry): void {
    let wanted = entry.durable
    for (const request of entry.members.values()) {
      wanted = wanted === undefined || request.qos >= wanted.qos ? request : { ...request, qos: wanted.qos }
    }
    entry.wanted = wanted
    this.#check(entry)
  }

  #check(entry: Entry): void {
    if (this.#isSettled(entry)) {
      this.#dirty.delete(entry)
      if (entry.wanted === undefined && entry.operation === undefined && entry.known === "none") {
        this.#entries.delete(entry.filter)
      }
    } else if (entry.operation === undefined) {
      this.#dirty.add(entry)
    }
  }

  #isSettled(entry: Entry): boolean {
    if (entry.operation !== undefined) return false
    if (entry.wanted === undefined) return entry.known === "none"
    return entry.refused !== undefined ||
      (typeof entry.known === "object" && equals(entry.wanted, entry.known))
  }

  // ---------------------------------------------------------------------------
  // connections
  // ---------------------------------------------------------------------------

  /**
   * A connection began. Gives the filters that are to be subscribed again. `resumes`: its session is the one that we know;
   * of another one that the server holds nothing is known. `isInDoubt`: it may have been lost and made anew in between.
   */
  begin(negotiated: Negotiated, resumes: boolean, isInDoubt = false): ReadonlyArray<string> {
    this.#negotiated = negotiated
    this.#operations.clear()
    // A resumed session may still have messages for a filter whose UNSUBSCRIBE is owed.
    if (!resumes) this.#withdrawn.clear()
    const renewed: Array<string> = []
    for (const entry of [...this.#entries.values()]) {
      if (entry.operation !== undefined) {
        entry.operation = undefined
        entry.known = "unknown"
      }
      entry.refused = undefined
      if (!resumes) {
        if (entry.wanted !== undefined && entry.known !== "none") renewed.push(entry.filter)
        entry.known = "none"
      } else if (isInDoubt && typeof entry.known === "object") {
        if (entry.wanted !== undefined) renewed.push(entry.filter)
        entry.known = "unknown"
      }
      // An earlier process may have subscribed to it.
      if (entry.known === "none" && entry.durable !== undefined && negotiated.sessionPresent) entry.known = "unknown"
      this.#check(entry)
    }
    return renewed
  }

  /**
   * The next SUBSCRIBE or UNSUBSCRIBE that is due, with an identifier taken, or undefined. SUBSCRIBEs come first. What the
   * server does not support is refused here, and never sent.
   */
  nextPacket(ids: PacketIds): Packet.Subscribe | Packet.Unsubscribe | undefined {
    for (const entry of [...this.#dirty]) {
      const problem = entry.wanted === undefined ? undefined : this.#unsupported(entry.wanted)
      if (problem !== undefined) this.#refuse(entry, problem)
    }
    const subscribe = this.#pick((entry) => entry.wanted !== undefined)
    const entries = subscribe.length > 0 ? subscribe : this.#pick((entry) => entry.wanted === undefined)
    if (entries.length === 0) return undefined
    const packetId = ids.next()
    if (packetId === undefined) return undefined
    const requests = subscribe.map((entry) => entry.wanted!)
    const operation: Operation = {
      kind: subscribe.length > 0 ? "subscribe" : "unsubscribe",
      entries,
      requests,
      asking: entries.map(awaiting)
    }
    this.#operations.set(packetId, operation)
    for (const entry of entries) {
      entry.operation = operation
      this.#dirty.delete(entry)
    }
    if (operation.kind === "unsubscribe") {
      return { _tag: "Unsubscribe", packetId, filters: entries.map((entry) => entry.filter), properties: undefined }
    }
    const userProperties = entries[0]!.userProperties
    return {
      _tag: "Subscribe",
      packetId,
      subscriptions: requests,
      properties: userProperties === undefined || userProperties.length === 0 ? undefined : { userProperties }
    }
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
    for (const [index, entry] of operation.entries.entries()) {
      const reasonCode = packet.reasonCodes[index]!
      entry.operation = undefined
      if (reasonCode < 0x80) {
        entry.known = operation.requests[index]!
        entry.granted = reasonCode as Packet.QoS
        this.#check(entry)
        for (const member of this.#isSettled(entry) ? awaiting(entry) : operation.asking[index]!) {
          this.#answer(member, entry)
        }
      } else {
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
  }

  #pick(accepts: (entry: Entry) => boolean): Array<Entry> {
    const picked: Array<Entry> = []
    const limit = Math.min(this.#negotiated?.maximumPacketSize ?? Infinity, 65536) - 64
    let bytes = 0
    for (const entry of this.#dirty) {
      if (!accepts(entry)) continue
      if (picked.length > 0) {
        // User properties belong to the whole packet.
        if (entry.userProperties !== picked[0]!.userProperties) continue
        if (picked.length === filtersPerPacket || bytes + entry.filter.length * 3 + 3 > limit) break
      }
      bytes += entry.filter.length * 3 + 3
      picked.push(entry)
    }
    return picked
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
      if (this.#isSettled(entry)) {
        for (const member of others) this.#answer(member, entry)
      } else if (others.size === 0 && entry.wanted !== undefined) {
        entry.wanted = known
        this.#dirty.delete(entry)
      }
      return
    }
    entry.known = "none"
    entry.refused = reason
    this.#dirty.delete(entry)
    for (const member of [...entry.members.keys()]) this.#exclude(member, entry, reason)
    // Nobody is left who wants it, unless it is durable.
    this.#update(entry)
  }

  #exclude(member: Member, entry: Entry, reason: SubscribeReason): void {
    entry.members.delete(member)
    this.#routes.remove(entry.filter, member)
    member.onGranted = undefined
    member.onRefused(reason)
  }

  #answer(member: Member, entry: Entry): void {
    if (!member.awaiting.delete(entry.filter) || member.awaiting.size > 0) return
    const onGranted = member.onGranted
    member.onGranted = undefined
    onGranted?.(member.requests.map(({ filter }) => ({ filter, qos: this.#entries.get(filter)?.granted ?? 0 })))
  }

  #withdraw(filter: string): void {
    this.#withdrawn.delete(filter)
    this.#withdrawn.add(filter)
    if (this.#withdrawn.size > withdrawnMaximum) {
      for (const oldest of this.#withdrawn) {
        this.#withdrawn.delete(oldest)
        break
      }
    }
  }
}

/** Who waits for a grant of the filter. */
const awaiting = (entry: Entry): ReadonlySet<Member> => {
  const members = new Set<Member>()
  for (const member of entry.members.keys()) if (member.awaiting.has(entry.filter)) members.add(member)
  return members
}

const equals = (a: Packet.SubscriptionRequest, b: Packet.SubscriptionRequest): boolean =>
  a.qos === b.qos && a.noLocal === b.noLocal && a.retainAsPublished === b.retainAsPublished &&
  a.retainHandling === b.retainHandling

const countMismatch = (packet: string): ProtocolFault.ProtocolFault =>
  ProtocolFault.make(packet, "reason codes", "their count differs from the count of filters", 0x82)
