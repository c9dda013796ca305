/**
 * What the connections of one broker of the kit share: sessions, retained messages, routing, wills, the log and the rules.
 *
 * Synchronous, like `BrokerConnection`; time and waiting are its host's.
 *
 * @since 0.1.0
 */
import type {
  ClientPacket,
  ConnackProperties,
  ProtocolVersion,
  Publish,
  PublishProperties,
  QoS,
  ServerPacket,
  Will
} from "../protocol/Packet.ts"
import type { BrokerConnection } from "./BrokerConnection.ts"
import type { TestBrokerOptions } from "./BrokerOptions.ts"
import { BrokerSession } from "./BrokerSession.ts"
import type { BrokerMessage, BrokerSubscription } from "./BrokerSession.ts"
import { matches } from "./BrokerTopics.ts"
import type { Notice } from "./ClientWatch.ts"
import { clockNoise } from "./MemoryLink.ts"
import type { PacketRule, RuleAction, Side } from "./PacketRules.ts"
import type { Violation } from "./Violation.ts"

const never = 0xffff_ffff

/**
 * @internal
 */
export interface BrokerHost {
  readonly now: () => number
  /** Runs the task after so many milliseconds; the result cancels it. */
  readonly timer: (millis: number, task: () => void) => () => void
  /** Something that a test may wait for has changed. */
  readonly changed: () => void
}

/**
 * A packet that travelled.
 *
 * @category models
 * @since 0.1.0
 */
export interface LogEntry<P extends ClientPacket | ServerPacket = ClientPacket | ServerPacket> {
  /** Milliseconds of the Clock. */
  readonly at: number
  readonly from: Side
  readonly clientId: string
  readonly connectionId: number
  readonly packet: P
  /** The packet on the wire, without a corruption. */
  readonly bytes: Uint8Array
  /** What a rule did to a packet of a client; a packet of the broker is in the log when it leaves. */
  readonly fate: "taken" | "held" | "delayed" | "dropped" | "cut"
}

/**
 * What differs in one CONNACK.
 *
 * @category options
 * @since 0.1.0
 */
export interface ConnackOverride {
  readonly sessionPresent?: boolean | undefined
  /** From 0x80 (any but 0 on MQTT 3.1.1) the connection is closed behind it. */
  readonly reasonCode?: number | undefined
  /** Added to what is announced; a property that is `undefined` is left out. */
  readonly properties?: ConnackProperties | undefined
}

/**
 * @internal
 */
export class BrokerCore {
  readonly host: BrokerHost
  readonly options: TestBrokerOptions
  readonly sessions = new Map<string, BrokerSession>()
  readonly retained = new Map<string, BrokerMessage>()
  readonly connections = new Set<BrokerConnection>()
  log: Array<LogEntry> = []
  /** Entries that the log has forgotten. */
  forgotten = 0
  violations: Array<Violation> = []
  rules: ReadonlyArray<PacketRule> = []
  refusals: Array<{ readonly reasonCode: number; readonly properties: ConnackProperties | undefined }> = []
  connackOverrides: Array<ConnackOverride> = []
  private lastAssigned = 0
  private readonly shareTurns = new Map<string, number>()

  constructor(host: BrokerHost, options: TestBrokerOptions) {
    this.host = host
    this.options = options
  }

  // ---------------------------------------------------------------------------
  // log, rules, violations
  // ---------------------------------------------------------------------------

  record(entry: Omit<LogEntry, "at">): void {
    const limit = this.options.logLimit ?? 100_000
    this.log.push({ ...entry, at: this.host.now(), bytes: limit > 0 ? entry.bytes.slice() : entry.bytes })
    // Forgetting in halves keeps the cost of a packet constant.
    if (this.log.length > limit * 2 || limit === 0) {
      this.forgotten += this.log.length - limit
      this.log = limit === 0 ? [] : this.log.slice(-limit)
    }
    this.host.changed()
  }

  takeRule(from: Side, clientId: string, packet: ClientPacket | ServerPacket): RuleAction | undefined {
    const rule = this.rules.find((rule) => rule.take(from, clientId, packet))
    if (rule?.isSpent === true) this.rules = this.rules.filter((other) => other !== rule)
    return rule?.action
  }

  violate(connection: BrokerConnection, notice: Notice): void {
    this.violations.push({
      row: notice.row,
      problem: notice.problem,
      reasonCode: notice.reasonCode,
      at: this.host.now(),
      connectionId: connection.id,
      clientId: connection.clientId
    })
    this.host.changed()
  }

  takeRefusal() {
    return this.refusals.shift()
  }

  takeConnackOverride(): ConnackOverride | undefined {
    return this.connackOverrides.shift()
  }

  // ---------------------------------------------------------------------------
  // sessions
  // ---------------------------------------------------------------------------

  assignClientId(): string {
    return `assigned-${++this.lastAssigned}`
  }

  /** Takes the client id over from another connection, and finds or makes its session. */
  openSession(connection: BrokerConnection, cleanStart: boolean): {
    readonly session: BrokerSession
    readonly resumed: boolean
  } {
    const { clientId } = connection
    this.sessions.get(clientId)?.connection?.disconnect(0x8e)
    const old = this.sessions.get(clientId)
    if (old !== undefined && cleanStart) this.endSession(old)
    else if (old !== undefined) {
      old.pendingWill?.cancel()
      old.pendingWill = undefined
      return { session: old, resumed: true }
    }
    const session = new BrokerSession(clientId)
    this.sessions.set(clientId, session)
    return { session, resumed: false }
  }

  /** A connection is over; what it leaves behind is the session, as long as it lives, and the will. */
  ended(connection: BrokerConnection, publishWill: boolean): void {
    const { session, will } = connection
    if (session === undefined || session.connection !== connection) return
    session.connection = undefined
    if (will !== undefined && publishWill) this.sendWill(session, will)
    if (session.expiry === 0) this.endSession(session)
    else if (session.expiry !== never) {
      session.cancelExpiry = this.host.timer(session.expiry * 1_000, () => this.endSession(session))
    }
    this.host.changed()
  }

  endSession(session: BrokerSession): void {
    session.cancelExpiry?.()
    const will = session.pendingWill
    session.pendingWill = undefined
    will?.cancel()
    if (this.sessions.get(session.clientId) === session) this.sessions.delete(session.clientId)
    will?.publish()
    this.host.changed()
  }

  private sendWill(session: BrokerSession, will: Will): void {
    const { willDelayInterval = 0, ...properties } = will.properties ?? {}
    const publish = () => {
      this.publish(this.toMessage({ ...will, properties }, session.clientId))
    }
    if (willDelayInterval === 0) return publish()
    const cancel = this.host.timer(willDelayInterval * 1_000, () => {
      session.pendingWill = undefined
      publish()
    })
    // The end of the session, if it comes first, publishes it too.
    session.pendingWill = { publish, cancel }
  }

  /** All connections and what must not outlive the broker's process are gone. */
  crash(sessions: "keep" | "lose", how: "reset" | "fin"): void {
    for (const connection of this.connections) connection.close(how === "fin" ? "close" : "reset", false)
    for (const session of [...this.sessions.values()]) {
      session.pendingWill?.cancel()
      session.pendingWill = undefined
      if (sessions === "lose") this.endSession(session)
    }
    if (sessions === "lose") this.retained.clear()
    this.host.changed()
  }

  // ---------------------------------------------------------------------------
  // messages
  // ---------------------------------------------------------------------------

  toMessage(
    message: {
      readonly topic: string
      readonly payload: Uint8Array
      readonly qos: QoS
      readonly retain: boolean
      readonly properties: PublishProperties | undefined
    },
    publisher: string | undefined
  ): BrokerMessage {
    const expiry = message.properties?.messageExpiryInterval
    return {
      topic: message.topic,
      payload: message.payload,
      qos: message.qos,
      retain: message.retain,
      properties: message.properties,
      expiresAt: expiry === undefined ? undefined : this.host.now() + expiry * 1_000,
      publisher
    }
  }

  isExpired(message: BrokerMessage): boolean {
    return message.expiresAt !== undefined && message.expiresAt <= this.host.now() + clockNoise
  }

  toPublish(
    version: ProtocolVersion,
    delivery: {
      readonly message: BrokerMessage
      readonly qos: QoS
      readonly retain: boolean
      readonly identifiers: ReadonlyArray<number>
    },
    sending: { readonly dup: boolean; readonly packetId: number }
  ): Publish {
    const { message } = delivery
    const { messageExpiryInterval: _interval, ...properties } = message.properties ?? {}
    const left = message.expiresAt === undefined
      ? {}
      : { messageExpiryInterval: Math.max(0, Math.ceil((message.expiresAt - this.host.now() - clockNoise) / 1_000)) }
    const identifiers = delivery.identifiers.length === 0 ? {} : { subscriptionIdentifiers: delivery.identifiers }
    return {
      _tag: "Publish",
      dup: sending.dup,
      qos: delivery.qos,
      retain: delivery.retain,
      topic: message.topic,
      packetId: sending.packetId,
      payload: message.payload,
      properties: version === 4 ? undefined : { ...properties, ...left, ...identifiers }
    }
  }

  /** Keeps the message if it is to be retained, and hands it to every subscriber; gives how many there were. */
  publish(message: BrokerMessage): number {
    if (message.retain) {
      if (message.payload.length === 0) this.retained.delete(message.topic)
      else this.retained.set(message.topic, message)
    }
    const groups = new Map<string, Array<readonly [BrokerSession, BrokerSubscription]>>()
    let found = 0
    for (const session of this.sessions.values()) {
      const own: Array<BrokerSubscription> = []
      for (const subscription of session.subscriptions.values()) {
        if (!matches(subscription.filter, message.topic)) continue
        if (subscription.share !== undefined) {
          const members = groups.get(subscription.text) ?? []
          members.push([session, subscription])
          groups.set(subscription.text, members)
        } else if (!subscription.noLocal || message.publisher !== session.clientId) own.push(subscription)
      }
      if (own.length === 0) continue
      found++
      if (this.options.overlap !== "perSubscription") this.deliver(session, message, own)
      else for (const subscription of own) this.deliver(session, message, [subscription])
    }
    for (const [name, members] of groups) {
      found++
      const [session, subscription] = this.nextMember(name, members)
      this.deliver(session, message, [subscription])
    }
    return found
  }

  /** Members of a shared subscription take turns; those who are connected come before those who are not. */
  private nextMember<A extends readonly [BrokerSession, BrokerSubscription]>(
    name: string,
    members: ReadonlyArray<A>
  ): A {
    const online = members.filter(([session]) => session.connection !== undefined)
    const candidates = online.length > 0 ? online : members
    const turn = this.shareTurns.get(name) ?? 0
    this.shareTurns.set(name, turn + 1)
    return candidates[turn % candidates.length]!
  }

  /** One copy for all matching subscriptions of a session, at the best QoS that they allow. */
  private deliver(
    session: BrokerSession,
    message: BrokerMessage,
    subscriptions: ReadonlyArray<BrokerSubscription>
  ): void {
    const granted = Math.max(...subscriptions.map((subscription) => subscription.qos))
    const retain = message.retain && subscriptions.some((subscription) => subscription.retainAsPublished)
    const identifiers = subscriptions.flatMap((subscription) => subscription.identifier ?? [])
    this.enqueue(session, message, { qos: Math.min(granted, message.qos) as QoS, retain, identifiers })
  }

  private enqueue(
    session: BrokerSession,
    message: BrokerMessage,
    delivery: { readonly qos: QoS; readonly retain: boolean; readonly identifiers: ReadonlyArray<number> }
  ): void {
    const { qos } = delivery
    if (qos === 0) {
      const connection = session.connection
      if (connection?.isConnected !== true || this.isExpired(message)) return
      connection.send(this.toPublish(connection.version, { message, ...delivery }, { dup: false, packetId: 0 }))
      return
    }
    session.queue.push({ message, ...delivery, qos, packetId: 0, state: "queued", sentOn: 0 })
    session.connection?.pump()
  }

  sendRetained(session: BrokerSession, subscription: BrokerSubscription): void {
    const identifiers = subscription.identifier === undefined ? [] : [subscription.identifier]
    for (const message of this.retained.values()) {
      if (!matches(subscription.filter, message.topic) || this.isExpired(message)) continue
      const qos = Math.min(message.qos, subscription.qos) as QoS
      this.enqueue(session, message, { qos, retain: true, identifiers })
    }
  }
}
