/**
 * One filter of a client, and those who subscribe to it.
 *
 * @since 0.1.0
 */
import type { Packet } from "../../protocol/index.ts"
import { SubscriptionIdentifier, TopicFilter } from "../../protocol/index.ts"
import type { SubscribeReason } from "../../services/MqttError.ts"
import type { Grant, SubscriptionStatus } from "../../services/MqttClient.ts"
import type { Subscriber } from "../delivery/Subscriber.ts"

/** One filter. */
export interface Entry {
  readonly filter: string
  /**
   * What it is subscribed with where messages shall say whom they are for: its own if it overlapped others when it came, or
   * that of all which did not and are overlapped by a later one. Those do not overlap each other.
   */
  identifier: number
  /** Whether that is the common one. */
  isCommon: boolean
  readonly isShared: boolean
  /** Whether it does not bring all messages that match: it is shared, or was not for the client's own since the session began. */
  isPartial: boolean
  /** Whether it has, or had, topics in common with others, so that it needs its identifier. */
  overlaps: boolean
  /** Whether messages are routed to it. */
  isRouted: boolean
  /** Undefined: to be unsubscribed. Its retain handling is not looked at: that is a matter of each SUBSCRIBE. */
  wanted: Packet.SubscriptionRequest | undefined
  /** What the server was last known to have; `unknown` when an answer was lost. */
  known: Packet.SubscriptionRequest | "none" | "unknown"
  /** Whether it was subscribed with its identifier since the session began. */
  named: boolean
  /** The place of the first time in the order of all; 0 if its identifier was in use before in the session. */
  namedAt: number
  /**
   * The place of the time since which the server has had it so without a break, for all messages; `Infinity` if that is not
   * sure.
   */
  steadyAt: number
  /** Whether the server had, or may have had, it without its identifier while others had theirs. */
  isMixed: boolean
  granted: Packet.QoS
  /** How many messages had arrived when the server was first asked for it: those before are not its. */
  askedAt: number
  /** Why the server refused it on this connection; it is not asked again before the next one. */
  refused: SubscribeReason | undefined
  userProperties: Packet.UserProperties | undefined
  durable: Packet.SubscriptionRequest | undefined
  readonly members: Map<Member, Membership>
  /** The members in a row, made when it is needed. */
  row: ReadonlyArray<Membership> | undefined
  operation: Operation | undefined
  /** Whether a member waits for the retained messages, so that SUBSCRIBE is due again. */
  asksRetained: boolean
  /** How often the server was asked for the retained messages since the session began. */
  rounds: number
  /** How many copies of the retained message of a topic have come since then. */
  copies: Map<string, number> | undefined
}

/** What one member has to do with one filter. */
export interface Membership {
  readonly member: Member
  readonly request: Packet.SubscriptionRequest
  /**
   * The round that brings the member its retained messages; 0 if it wants none, undefined while the server is still to be
   * asked.
   */
  round: number | undefined
}

/** A SUBSCRIBE or UNSUBSCRIBE that awaits its answer. */
export interface Operation {
  readonly kind: "subscribe" | "unsubscribe"
  readonly entries: ReadonlyArray<Entry>
  readonly requests: ReadonlyArray<Packet.SubscriptionRequest>
  readonly identifier: number | undefined
  /** The place of the SUBSCRIBE among all that have an identifier. */
  order: number
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
  /** Called when what the server has of the filters changes. */
  readonly onStatus?: ((status: SubscriptionStatus) => void) | undefined
}

export const makeEntry = (filter: string, shift: number): Entry => ({
  filter,
  identifier: SubscriptionIdentifier.shifted(SubscriptionIdentifier.of(filter), shift),
  isCommon: false,
  isShared: TopicFilter.parseShared(filter) !== undefined,
  isPartial: TopicFilter.parseShared(filter) !== undefined,
  overlaps: false,
  isRouted: false,
  wanted: undefined,
  known: "none",
  named: false,
  namedAt: 0,
  steadyAt: Infinity,
  isMixed: false,
  askedAt: Infinity,
  granted: 0,
  refused: undefined,
  userProperties: undefined,
  durable: undefined,
  members: new Map(),
  row: undefined,
  operation: undefined,
  asksRetained: false,
  rounds: 0,
  copies: undefined
})

/** Computes the identifier. */
export const identify = (entry: Entry, shift: number): void => {
  const identifier = entry.isCommon ? SubscriptionIdentifier.common : SubscriptionIdentifier.of(entry.filter)
  entry.identifier = SubscriptionIdentifier.shifted(identifier, shift)
}

export const rowOf = (entry: Entry): ReadonlyArray<Membership> => entry.row ??= [...entry.members.values()]

/** Who waits for a grant of the filter. */
export const awaiting = (entry: Entry): ReadonlySet<Member> => {
  const members = new Set<Member>()
  for (const member of entry.members.keys()) if (member.awaiting.has(entry.filter)) members.add(member)
  return members
}

/** What is wanted of the filter: the strongest QoS, and the other options of the latest. */
export const wantedOf = (entry: Entry): Packet.SubscriptionRequest | undefined => {
  let wanted = entry.durable
  for (const { request } of entry.members.values()) {
    wanted = wanted === undefined || request.qos >= wanted.qos ? request : { ...request, qos: wanted.qos }
  }
  return wanted
}

/** Whether the server has what is wanted. */
export const isGranted = ({ known, wanted }: Entry): boolean => wanted !== undefined && isSame(wanted, known)

/** Whether the server has this, but for the retain handling, which is no part of what it has. */
export const isSame = (request: Packet.SubscriptionRequest, known: Entry["known"]): boolean =>
  typeof known === "object" && request.qos === known.qos && request.noLocal === known.noLocal &&
  request.retainAsPublished === known.retainAsPublished

/** Retain handling as the packet has it. */
const send = 0
const sendIfNew = 1
const none = 2

/**
 * The request for the next SUBSCRIBE. It asks for the retained messages if somebody is to get them, and takes note of who
 * gets them by it. Before MQTT 5.0 the server sends them each time.
 */
export const nextRequest = (entry: Entry, version: Packet.ProtocolVersion): Packet.SubscriptionRequest => {
  const isKnown = typeof entry.known === "object"
  let retainHandling: Packet.SubscriptionRequest["retainHandling"] = entry.asksRetained ? send : none
  if (!isKnown) {
    retainHandling = entry.durable?.retainHandling ?? none
    for (const { request } of entry.members.values()) {
      if (request.retainHandling < retainHandling) retainHandling = request.retainHandling
    }
  }
  entry.asksRetained = false
  if (version === 4 || retainHandling !== none) {
    entry.rounds++
    for (const membership of entry.members.values()) {
      if (membership.round !== undefined) continue
      const { request } = membership
      const gets = version === 4 || request.retainHandling === send ||
        (request.retainHandling === sendIfNew && !isKnown)
      membership.round = gets ? entry.rounds : 0
    }
  }
  return { ...entry.wanted!, retainHandling }
}

/** Whether a member that joins has to ask the server for the retained messages. */
export const needsRetained = (entry: Entry, request: Packet.SubscriptionRequest): boolean =>
  request.retainHandling === send && !entry.isShared &&
  (typeof entry.known === "object" || entry.operation?.kind === "subscribe")

/** The session is a new one, or may be: nothing that was asked for before counts. */
export const forgetRounds = (entry: Entry): void => {
  entry.rounds = 0
  entry.copies = undefined
  entry.asksRetained = false
  for (const membership of entry.members.values()) membership.round = undefined
}
