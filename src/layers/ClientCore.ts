/**
 * What of a client outlives its connections: session, outbox, inbox and subscriptions, and the rules between them.
 *
 * A connection hands it what was received and asks it what to send next; both are plain calls that never wait. It opens no
 * connections, decides on no reconnect, and starts no fibers.
 *
 * @since 0.1.0
 */
import type * as Clock from "effect/Clock"
import type { Packet } from "../protocol/index.ts"
import { PacketCodec, ProtocolFault, ReasonCode, Session } from "../protocol/index.ts"
import { toMessage } from "../services/MessageCodec.ts"
import {
  InvalidMessage,
  NotSupportedByServer,
  PacketTooLarge,
  PublishAbandoned,
  PublishRefused,
  SessionLost
} from "../services/MqttError.ts"
import type { ClientClosed, ClientHalted, PublishReason } from "../services/MqttError.ts"
import type { ResolvedOptions } from "../services/ResolvedOptions.ts"
import type { DropReason, Negotiated, Stats } from "../services/Status.ts"
import { Events } from "./Events.ts"
import { Inbox } from "./Inbox.ts"
import type { Receipt } from "./Inbox.ts"
import { Outbox } from "./Outbox.ts"
import type { Entry, Outcome } from "./Outbox.ts"
import * as MessageExpiry from "./MessageExpiry.ts"
import type { Hooks, Subscriber } from "./Subscriber.ts"
import { Subscriptions } from "./Subscriptions.ts"

/** The largest packet that MQTT can express: five bytes of header and 268,435,455 bytes. */
export const protocolMaximum = 268_435_460

/** Waits for what was taken to be gone. */
interface Waiter {
  readonly isDone: () => boolean
  /** With a cause if it is given up instead. */
  readonly resume: (cause: ClientHalted | ClientClosed | undefined) => void
}

export class ClientCore {
  readonly session: Session.Session<Entry> = Session.make<Entry>()
  readonly subscriptions: Subscriptions = new Subscriptions()
  readonly events: Events = new Events()
  readonly outbox: Outbox
  readonly inbox: Inbox
  readonly #clock: Clock.Clock
  #options: ResolvedOptions
  #negotiated: Negotiated | undefined
  #wakeWriter: (() => void) | undefined
  /**
   * Whether a CONNECT that asked for our session went without an answer. A server that had lost the session has made a new
   * one for it, which it then says is present.
   */
  isSessionInDoubt = false
  /** Called when a message was parked, so that somebody looks at the time. */
  onParked: () => void = () => {}
  #dropped = 0
  /** Set while nothing can be sent and nothing will be: what is asked for then fails with it. */
  #gate: ClientHalted | ClientClosed | undefined
  /** Outcomes whose callers run when the present batch is done, and not in the middle of a change of state. */
  #outcomes: Array<() => void> = []
  #inBatch = false
  /** Whether bytes that were collected are not yet handed to the socket. */
  writing = false
  readonly #ready = new Set<Subscriber>()
  readonly #lagging = new Set<Subscriber>()
  readonly #waiters = new Set<Waiter>()

  /** For subscribers of this client. */
  readonly hooks: Hooks = {
    settle: (receipt) => {
      this.inbox.settle(receipt)
      this.wakeWriter()
    },
    giveBack: (receipt) => this.#giveBack(receipt),
    onDrop: (message) => this.drop(message.topic, message.qos, "buffer"),
    onReady: (subscriber) => {
      this.#ready.add(subscriber)
      if (!this.#inBatch) this.endBatch()
    },
    onLagging: (subscriber) => this.#lagging.add(subscriber)
  }

  constructor(options: ResolvedOptions, clock: Clock.Clock) {
    this.#options = options
    this.#clock = clock
    this.outbox = new Outbox(options.outbox, {
      onDrop: (entry) => this.drop(entry.topic, entry.qos, "outbox"),
      finish: (entry, outcome) => this.finish(entry, outcome)
    })
    this.inbox = new Inbox(this.session, (message) => this.drop(message.topic, message.qos, "unclaimed"))
    this.subscriptions.declare(options.subscriptions)
  }

  /** Milliseconds of the monotonic clock. */
  now(): number {
    return Number(this.#clock.monotonicTimeNanosUnsafe()) / 1e6
  }

  get options(): ResolvedOptions {
    return this.#options
  }

  get negotiated(): Negotiated | undefined {
    return this.#negotiated
  }

  get gate(): ClientHalted | ClientClosed | undefined {
    return this.#gate
  }

  get stats(): Stats {
    return {
      queued: this.outbox.queued,
      heldBytes: this.outbox.bytes,
      inFlight: this.session.inFlight,
      unacknowledged: this.inbox.unacknowledged,
      unclaimed: this.inbox.parked,
      dropped: this.#dropped,
      packetIds: this.session.ids.size
    }
  }

  wakeWriter(): void {
    this.#wakeWriter?.()
  }

  drop(topic: string, qos: Packet.QoS, why: DropReason): void {
    this.#dropped++
    if (this.events.isWatched) this.events.emit({ _tag: "MessageDropped", topic, qos, why })
  }

  // ---------------------------------------------------------------------------
  // life
  // ---------------------------------------------------------------------------

  /** The options of the attempt that begins. */
  configure(options: ResolvedOptions): void {
    if (options === this.#options) return
    this.#options = options
    this.startBatch()
    this.outbox.configure(options.outbox)
    this.endBatch()
    this.subscriptions.declare(options.subscriptions)
    // Which of them have a taker to wait for may have changed.
    for (const receipt of this.inbox.claim(() => true)) this.#dispatch(receipt)
  }

  /**
   * CONNACK was accepted. Decides what becomes of the session before anything else of the connection is looked at (SS-11).
   * `resumes`: the server has the session that our state belongs to; `isInDoubt`: or one that it made for an earlier CONNECT.
   */
  open(negotiated: Negotiated, resumes: boolean, wakeWriter: () => void, isInDoubt = false): void {
    this.#negotiated = negotiated
    this.#wakeWriter = wakeWriter
    this.#pubrels = []
    const counts = negotiated.protocolVersion === 5 && this.#options.onReceiveMaximumExceeded === "disconnect"
    this.inbox.begin(resumes, counts ? this.#options.receiveMaximum : Infinity)
    if (resumes) this.session.resume(negotiated.sendWindow)
    else this.#onSessionLost(this.session.discard(negotiated.sendWindow))
    this.isSessionInDoubt = false
    const filters = this.subscriptions.begin(negotiated, resumes, isInDoubt)
    if (filters.length > 0) this.events.emit({ _tag: "Resubscribed", filters })
    wakeWriter()
  }

  /** The connection is over. */
  close(): void {
    this.#negotiated = undefined
    this.#wakeWriter = undefined
    // What the socket had not taken is lost with it, and nobody waits for it any more.
    this.writing = false
    this.subscriptions.end(this.session.ids)
    if (!this.#inBatch) this.endBatch()
  }

  /** From now on nothing is sent: all that is pending fails, and so does what comes, until `reopen`. */
  halt(cause: ClientHalted | ClientClosed): void {
    this.#gate = cause
    this.startBatch()
    for (const waiter of this.#waiters) {
      const given = waiter.isDone() ? undefined : cause
      this.#outcomes.push(() => waiter.resume(given))
    }
    this.#waiters.clear()
    for (const entry of this.outbox.removeAll()) {
      if (entry.resume === undefined) this.drop(entry.topic, entry.qos, "abandoned")
      this.finish(entry, { _tag: "Failed", reason: new PublishAbandoned({ phase: entry.phase, cause }) })
    }
    // The exchanges stay: the server may know them, and a later connection goes on with them.
    for (const { token } of this.session.exchanges()) {
      this.finish(token, { _tag: "Failed", reason: new PublishAbandoned({ phase: token.phase, cause }) })
    }
    this.subscriptions.failWaiting(cause)
    this.endBatch()
  }

  /** The scope of the client closes: nothing new is taken, what is pending goes on. */
  refuse(cause: ClientClosed): void {
    this.#gate = cause
  }

  /** Whether all that was taken is sent and, at QoS 1 and 2, acknowledged. */
  get isDrained(): boolean {
    return this.outbox.queued === 0 && this.session.inFlight === 0 && !this.writing
  }

  reopen(): void {
    this.#gate = undefined
  }

  #onSessionLost(exchanges: ReadonlyArray<Session.Exchange<Entry>>): void {
    const entries = exchanges.map((exchange) => exchange.token).sort((a, b) => a.sequence - b.sequence)
    const again: Array<Entry> = []
    for (const entry of entries) {
      if (this.#options.onSessionLost[entry.qos === 1 ? "qos1" : "qos2"] === "republish") {
        again.push(entry)
        continue
      }
      this.outbox.release(entry)
      this.finish(entry, { _tag: "Failed", reason: new SessionLost({ phase: entry.phase }) })
    }
    this.outbox.putBack(again)
  }

  // ---------------------------------------------------------------------------
  // outcomes
  // ---------------------------------------------------------------------------

  /** Tells the caller of a publish, if there still is one. */
  finish(entry: Entry, outcome: Outcome): void {
    const resume = entry.resume
    if (resume === undefined) return
    entry.resume = undefined
    this.defer(() => resume(outcome))
  }

  /** Runs what lets user code go on: when the present batch is done, since a fiber that is resumed runs at once. */
  defer(run: () => void): void {
    if (this.#inBatch) this.#outcomes.push(run)
    else run()
  }

  /** Whether a consumer is behind, so that the reader should give it its turn. */
  get isLagging(): boolean {
    for (const subscriber of this.#lagging) {
      if (!subscriber.lagging) this.#lagging.delete(subscriber)
    }
    return this.#lagging.size > 0
  }

  startBatch(): void {
    this.#inBatch = true
  }

  /** Lets callers and consumers run, now that the state is whole. */
  endBatch(): void {
    this.#inBatch = false
    if (this.#outcomes.length > 0) {
      const outcomes = this.#outcomes
      this.#outcomes = []
      for (const run of outcomes) run()
    }
    if (this.#ready.size > 0) {
      const ready = [...this.#ready]
      this.#ready.clear()
      for (const subscriber of ready) subscriber.wake()
    }
    for (const waiter of this.#waiters) {
      if (waiter.isDone()) {
        this.#waiters.delete(waiter)
        waiter.resume(undefined)
      }
    }
  }

  /** Calls `resume` as soon as `isDone` holds at the end of a batch; gives the way to take it back. */
  whenDone(isDone: Waiter["isDone"], resume: Waiter["resume"]): () => void {
    const waiter: Waiter = { isDone, resume }
    this.#waiters.add(waiter)
    return () => this.#waiters.delete(waiter)
  }

  // ---------------------------------------------------------------------------
  // outbound
  // ---------------------------------------------------------------------------

  /** Why the message cannot go to the server that we are connected to, if that is known now. */
  unsendable(message: Pick<Entry, "qos" | "retain">): PublishReason | undefined {
    const negotiated = this.#negotiated
    if (negotiated === undefined) return undefined
    if (message.qos > negotiated.maximumQoS) {
      return new NotSupportedByServer({ feature: "qos", detail: `its Maximum QoS is ${negotiated.maximumQoS}` })
    }
    if (message.retain && !negotiated.retainAvailable) {
      return new NotSupportedByServer({ feature: "retain", detail: "it does not retain messages" })
    }
    return undefined
  }

  /** Gives a publish to the outbox. Callers that this ends run when it has its place, so what they publish comes later. */
  offer(entry: Entry): void {
    this.startBatch()
    this.outbox.offer(entry)
    this.endBatch()
    this.wakeWriter()
  }

  /** The entry was interrupted by its caller (law 5). */
  abandon(entry: Entry): void {
    entry.resume = undefined
    this.startBatch()
    const removed = this.outbox.remove(entry)
    this.endBatch()
    // It may have held up what needs no place in the window, or kept out what was suspended.
    if (removed) this.wakeWriter()
  }

  /** Whether there is something for the writer. */
  get hasOutput(): boolean {
    return this.subscriptions.isDirty || this.inbox.hasAcks || this.#pubrels.length > 0 || this.session.redelivering ||
      this.outbox.queued > 0
  }

  #pubrels: Array<Packet.Pubrel> = []

  /**
   * Encodes what is to be sent next, in order, until about `limit` bytes: subscriptions, acknowledgements, PUBRELs, what is
   * sent again, and new messages as far as the window allows. A fault means that the connection cannot go on.
   */
  collect(encoder: PacketCodec.Encoder, limit: number): ProtocolFault.ProtocolFault | undefined {
    this.#encodeSubscriptions(encoder, limit)
    if (!this.collectAcks(encoder)) return cannotAcknowledge
    const fault = this.#encodeRedelivery(encoder, limit)
    if (fault !== undefined) return fault
    if (!this.session.redelivering) this.#encodeNew(encoder, limit)
    return undefined
  }

  /**
   * Encodes the acknowledgements that are due; false if the server cannot take one. Also done before DISCONNECT, so that
   * what was taken is not sent again.
   */
  collectAcks(encoder: PacketCodec.Encoder): boolean {
    for (const ack of this.inbox.takeAcks()) {
      if (encoder.encode(ack) !== undefined) return false
    }
    const pubrels = this.#pubrels
    if (pubrels.length === 0) return true
    this.#pubrels = []
    return pubrels.every((pubrel) => encoder.encode(pubrel) === undefined)
  }

  #encodeSubscriptions(encoder: PacketCodec.Encoder, limit: number): void {
    while (this.subscriptions.isDirty && encoder.size < limit) {
      const packet = this.subscriptions.nextPacket(this.session.ids)
      if (packet === undefined) return
      const problem = encoder.encode(packet)
      if (problem === undefined) continue
      // The filters were checked before, so only the size can be wrong.
      const size = problem._tag === "TooLarge" ? problem.size : 0
      const reason = new PacketTooLarge({ size, limit: encoder.maximumPacketSize, of: "server" })
      this.subscriptions.reject(packet.packetId, reason, this.session.ids)
    }
  }

  #encodeRedelivery(encoder: PacketCodec.Encoder, limit: number): ProtocolFault.ProtocolFault | undefined {
    while (encoder.size < limit) {
      const packet = this.session.nextRedelivery((exchange) => this.#refuseRedelivery(exchange, encoder))
      if (packet === undefined) return undefined
      if (encoder.encode(packet) !== undefined) return cannotAcknowledge
    }
    return undefined
  }

  /** Whether the limits of this connection forbid a message that an earlier one allowed; it fails typed then (D21). */
  #refuseRedelivery(exchange: Session.Exchange<Entry>, encoder: PacketCodec.Encoder): boolean {
    const entry = exchange.token
    const reason = this.unsendable(entry) ?? this.#tooLarge(exchange.publish, encoder)
    if (reason === undefined) return false
    this.outbox.release(entry)
    this.#fail(entry, reason)
    return true
  }

  #tooLarge(packet: Packet.Publish, encoder: PacketCodec.Encoder): PacketTooLarge | undefined {
    const limit = encoder.maximumPacketSize
    if (limit >= protocolMaximum) return undefined
    const size = PacketCodec.encodedSize(packet, this.#negotiated?.protocolVersion ?? 5)
    return size > limit ? new PacketTooLarge({ size, limit, of: "server" }) : undefined
  }

  #encodeNew(encoder: PacketCodec.Encoder, limit: number): void {
    const now = this.now()
    while (encoder.size < limit) {
      const entry = this.outbox.peek()
      if (entry === undefined) return
      const reason = this.unsendable(entry) ?? MessageExpiry.check(entry, now)
      if (reason !== undefined) {
        this.#refuse(entry, reason)
        continue
      }
      const properties = MessageExpiry.remaining(entry, now)
      if (entry.qos === 0) {
        const { payload, retain, topic } = entry
        const fault = encoder.encode({
          _tag: "Publish",
          dup: false,
          qos: 0,
          retain,
          topic,
          packetId: 0,
          payload,
          properties
        })
        if (fault === undefined) this.outbox.take(entry)
        else this.#refuse(entry, toReason(fault, encoder))
        continue
      }
      const { payload, qos, retain, topic } = entry
      const packet = this.session.publish({ topic, payload, qos, retain, properties }, entry)
      if (packet === undefined) return
      const fault = encoder.encode(packet)
      if (fault === undefined) {
        this.outbox.take(entry)
      } else {
        this.session.retract(packet.packetId)
        this.#refuse(entry, toReason(fault, encoder))
      }
    }
  }

  #refuse(entry: Entry, reason: PublishReason): void {
    this.outbox.remove(entry)
    this.#fail(entry, reason)
  }

  /** A message that cannot be sent. Where nobody waits for its outcome, as at QoS 0, the counter is what tells of it. */
  #fail(entry: Entry, reason: PublishReason): void {
    if (reason._tag === "MessageExpired") this.drop(entry.topic, entry.qos, "expired")
    else if (entry.resume === undefined) this.drop(entry.topic, entry.qos, "refused")
    this.finish(entry, { _tag: "Failed", reason })
  }

  // ---------------------------------------------------------------------------
  // inbound
  // ---------------------------------------------------------------------------

  /** What the server sent, but for what only the connection itself is about. */
  onPacket(
    packet: Exclude<Packet.ServerPacket, Packet.Connack | Packet.Disconnect | Packet.Pingresp>
  ): ProtocolFault.ProtocolFault | undefined {
    switch (packet._tag) {
      case "Publish":
        return this.#onPublish(packet)
      case "Puback":
        return this.#onAck(this.session.onPuback(packet.packetId, packet.reasonCode, packet.properties?.reasonString))
      case "Pubrec":
        return this.#onPubrec(packet)
      case "Pubcomp":
        return this.#onAck(this.session.onPubcomp(packet.packetId, packet.reasonCode, packet.properties?.reasonString))
      case "Pubrel":
        this.inbox.onPubrel(packet.packetId)
        return undefined
      case "Suback":
        return this.subscriptions.onSuback(packet, this.session.ids)
      case "Unsuback":
        return this.subscriptions.onUnsuback(packet, this.session.ids)
      case "Auth":
        return ProtocolFault.make("AUTH", "packet type", "CONNECT had no authentication method", 0x82)
    }
  }

  #onPubrec(packet: Packet.Pubrec): ProtocolFault.ProtocolFault | undefined {
    const outcome = this.session.onPubrec(packet.packetId, packet.reasonCode, packet.properties?.reasonString)
    if (outcome._tag === "Release" && outcome.packet.reasonCode === 0) {
      const entry = this.session.released(packet.packetId)?.token
      if (entry !== undefined) entry.phase = "received"
    }
    return this.#onAck(outcome)
  }

  #onAck(outcome: Session.AckOutcome<Entry>): ProtocolFault.ProtocolFault | undefined {
    switch (outcome._tag) {
      case "Settled":
        this.#onSettled(outcome.settled)
        return undefined
      case "Release":
        this.#pubrels.push(outcome.packet)
        return undefined
      case "Fault":
        return outcome.fault
      case "Ignored":
        return undefined
    }
  }

  #onSettled({ exchange, reasonCode, reasonString }: Session.Settled<Entry>): void {
    const entry = exchange.token
    this.outbox.release(entry)
    if (this.events.isWatched) {
      const qos = exchange.publish.qos as 1 | 2
      this.events.emit({ _tag: "PublishAcknowledged", topic: entry.topic, qos, reasonCode })
    }
    if (reasonCode < 0x80) return this.finish(entry, { _tag: "Done", reasonCode, reasonString })
    const reason = new PublishRefused({
      reasonCode,
      name: ReasonCode.nameOf(reasonCode),
      ...(reasonString === undefined ? {} : { reasonString })
    })
    this.finish(entry, { _tag: "Failed", reason })
  }

  #onPublish(packet: Packet.Publish): ProtocolFault.ProtocolFault | undefined {
    if (this.events.isWatched) this.events.emit({ _tag: "MessageReceived", topic: packet.topic, qos: packet.qos })
    if (packet.qos === 0) {
      let message: ReturnType<typeof toMessage> | undefined
      this.subscriptions.forEachSubscriber(packet.topic, (subscriber) => {
        message ??= toMessage(packet)
        subscriber.deliver(message, undefined)
      })
      if (message === undefined && !this.subscriptions.isWithdrawn(packet.topic)) {
        this.drop(packet.topic, 0, "unclaimed")
      }
      return undefined
    }
    const receipt = this.inbox.receive(packet, toMessage)
    if (receipt === undefined) return undefined
    if ("_tag" in receipt) return receipt
    this.#dispatch(receipt)
    return undefined
  }

  #dispatch(receipt: Receipt): void {
    const subscribers: Array<Subscriber> = []
    const { topic } = receipt.message
    this.subscriptions.forEachSubscriber(topic, (subscriber) => {
      if (!subscriber.isOver) subscribers.push(subscriber)
    })
    receipt.pending = subscribers.length
    if (subscribers.length > 0) {
      for (const subscriber of subscribers) subscriber.deliver(receipt.message, receipt)
    } else if (this.subscriptions.isDurable(topic)) {
      this.inbox.park(receipt, this.now(), true)
    } else if (this.subscriptions.isWithdrawn(topic)) {
      this.inbox.dismiss(receipt)
    } else {
      this.inbox.park(receipt, this.now(), false)
      this.onParked()
    }
  }

  /** A subscriber that is gone had not taken the message. */
  #giveBack(receipt: Receipt): void {
    if (receipt.settled) return
    receipt.pending--
    if (receipt.pending > 0) return
    if (receipt.taken) this.inbox.dismiss(receipt)
    else {
      receipt.handed = false
      this.#dispatch(receipt)
    }
    this.wakeWriter()
  }

  /** Gives a new subscriber what was parked for want of one. */
  offerParked(subscriber: Subscriber, wants: (topic: string) => boolean): void {
    this.startBatch()
    for (const receipt of this.inbox.claim(wants)) {
      receipt.pending = 1
      subscriber.deliver(receipt.message, receipt)
    }
    this.endBatch()
  }
}

const cannotAcknowledge = ProtocolFault.make(
  "CONNACK",
  "maximum packet size",
  "it is too small for an acknowledgement that the protocol demands",
  0x83
)

const toReason = (fault: PacketCodec.EncodeFault, encoder: PacketCodec.Encoder): PublishReason =>
  fault._tag === "TooLarge"
    ? new PacketTooLarge({
      size: fault.size,
      limit: fault.limit,
      of: encoder.maximumPacketSize < protocolMaximum ? "server" : "protocol"
    })
    : new InvalidMessage({ field: fault.field, problem: fault.problem })
