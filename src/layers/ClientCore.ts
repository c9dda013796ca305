/**
 * What of a client outlives its connections: session, outbox, inbox and subscriptions, and the rules between them.
 *
 * A connection hands it what was received and asks it what to send next; both are plain calls that never wait. It opens no
 * connections and decides on no reconnect. A fiber that looks at the time for it runs only while there is something to wait
 * for.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type { Packet, PacketCodec } from "../protocol/index.ts"
import { ProtocolFault, Session } from "../protocol/index.ts"
import type { AckResult, Message } from "../services/Message.ts"
import { PacketTooLarge, PublishAbandoned } from "../services/MqttError.ts"
import type { ClientClosed, ClientHalted } from "../services/MqttError.ts"
import type { ResolvedOptions } from "../services/ResolvedOptions.ts"
import type { DropReason, Negotiated, Stats } from "../services/Status.ts"
import type { Committer } from "./store/Committer.ts"
import { isNoArray, newArray, noArray, noSet, ownArray, ownSet } from "../protocol/EmptyCollections.ts"
import { Events } from "./Events.ts"
import { Inbound } from "./delivery/Inbound.ts"
import { Inbox } from "./delivery/Inbox.ts"
import type { InboxHooks } from "./delivery/Inbox.ts"
import type { Receipt } from "./delivery/Receipt.ts"
import type { ReceiptRun } from "./delivery/ReceiptRun.ts"
import type { Journal } from "./store/Journal.ts"
import { cannotAcknowledge, Outbound, protocolMaximum } from "./publishing/Outbound.ts"
import { Outbox } from "./publishing/Outbox.ts"
import type { Entry, Outcome } from "./publishing/Entry.ts"
import { ParkedExpiry } from "./delivery/ParkedExpiry.ts"
import { PublishIds } from "./publishing/PublishIds.ts"
import { SlowConsumers } from "./delivery/SlowConsumers.ts"
import type { Delivery, Hooks } from "./delivery/Delivery.ts"
import type { Subscriber } from "./delivery/Subscriber.ts"
import { Subscriptions } from "./subscriptions/Subscriptions.ts"

type Resume = NonNullable<Entry["resume"]>

/** The connection, which writes what there is. */
interface Writer {
  readonly wakeWriter: () => void
}

/** Waits for what was taken to be gone. */
interface Waiter {
  readonly isDone: () => boolean
  /** With a cause if it is given up instead. */
  readonly resume: (cause: ClientHalted | ClientClosed | undefined) => void
}

export class ClientCore implements Hooks, InboxHooks {
  readonly session: Session.Session<Entry> = Session.make<Entry>()
  readonly subscriptions: Subscriptions = new Subscriptions()
  readonly events: Events = new Events()
  readonly outbox: Outbox
  /** Undefined as long as nobody has asked for it. */
  madeInbox: Inbox | undefined
  readonly outbound: Outbound = new Outbound(this)
  readonly inbound: Inbound = new Inbound(this)
  #publishIds: PublishIds | undefined
  /** Where changes of the session are recorded, and who keeps them; undefined without a store. */
  journal: Journal | undefined
  committer: Committer | undefined
  /** Names the session that the server keeps when the link is lost; undefined if it keeps none. */
  sessionKey: string | undefined
  readonly #clock: Clock.Clock
  #options: ResolvedOptions
  #negotiated: Negotiated | undefined
  /** Behind which packet identifier those of an adopted session begin; undefined once they have. */
  adoptedAfter: number | undefined
  #writer: Writer | undefined
  /**
   * Whether a CONNECT that asked for our session went without an answer. A server that had lost the session has made a new
   * one for it, which it then says is present.
   */
  isSessionInDoubt = false
  /** What fibers of the client run with that are not there from the beginning; none begins once it is closed. */
  services: Context.Context<never> | undefined
  #dropped = 0
  /** Set while nothing can be sent and nothing will be: what is asked for then fails with it. */
  #gate: ClientHalted | ClientClosed | undefined
  /** Outcomes whose callers run when the present batch is done, and not in the middle of a change of state. */
  #outcomes: Array<() => void> = noArray()
  /** The callers of publishes that are over, each with the outcome and the entry behind it; so none takes a closure. */
  #ended: Array<Resume | Outcome | Entry> = noArray()
  #inBatch = false
  /** Whether bytes that were collected are not yet handed to the socket. */
  writing = false
  #ready = noSet<Subscriber>()
  #lagging = noSet<Subscriber>()
  /** Who was given messages by the present chunks. */
  #buffered: Array<Subscriber> = noArray()
  #slow: SlowConsumers | undefined
  #parkedExpiry: ParkedExpiry | undefined
  #waiters = noSet<Waiter>()

  constructor(options: ResolvedOptions, clock: Clock.Clock) {
    this.#options = options
    this.#clock = clock
    this.outbox = new Outbox(options.outbox, this.outbound)
    this.subscriptions.inbox = this
    this.subscriptions.declare(options.subscriptions)
  }

  /** Milliseconds of the monotonic clock. */
  now(): number {
    return Number(this.#clock.monotonicTimeNanosUnsafe()) / 1e6
  }

  /** Sleeps by the clock of the client. */
  sleep(millis: number): Effect.Effect<void> {
    return this.#clock.sleep(Duration.millis(millis))
  }

  get inbox(): Inbox {
    return this.madeInbox ?? this.#makeInbox()
  }

  /** A client to which nothing comes at QoS 1 or 2 has none. */
  #makeInbox(): Inbox {
    const inbox = new Inbox(this.session, this.#options, this)
    this.madeInbox = inbox
    if (this.#negotiated !== undefined) this.#beginInbox(inbox, this.#negotiated, true)
    return inbox
  }

  #beginInbox(inbox: Inbox, { protocolVersion }: Negotiated, resumes: boolean): void {
    const counts = protocolVersion === 5 && this.#options.onReceiveMaximumExceeded === "disconnect"
    inbox.begin(resumes, counts ? this.#options.receiveMaximum : undefined, protocolVersion === 5)
  }

  get publishIds(): PublishIds {
    return this.#publishIds ??= new PublishIds()
  }

  /** QoS 1 and 2 messages that have arrived. */
  get arrivals(): number {
    return this.madeInbox?.arrivals ?? 0
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
      unacknowledged: this.madeInbox?.unacknowledged ?? 0,
      unacknowledgedBytes: this.madeInbox?.bytes ?? 0,
      unclaimed: this.madeInbox?.parked ?? 0,
      putAside: this.inbound.spill?.count ?? 0,
      dropped: this.#dropped,
      packetIds: this.session.ids.size
    }
  }

  /**
   * Whether a message with so many bytes of payload, a topic of the usual length and nothing else can go to the server that
   * we are connected to, and into the outbox. If not, there is more to be looked at.
   */
  accepts(qos: Packet.QoS, retain: boolean, payloadBytes: number): boolean {
    return qos <= this.#acceptedQoS && payloadBytes <= this.#acceptedBytes && (!retain || this.#acceptsRetain)
  }

  /** Nothing without a connection. */
  #acceptedQoS = -1
  #acceptedBytes = 0
  #acceptsRetain = false

  #reconsiderAccepted(): void {
    const negotiated = this.#negotiated
    const isOpen = negotiated !== undefined && this.#gate === undefined
    this.#acceptedQoS = isOpen ? negotiated.maximumQoS : -1
    this.#acceptsRetain = isOpen && negotiated.retainAvailable
    // A topic that is remembered, and the header, fit into the rest.
    this.#acceptedBytes = isOpen
      ? Math.min(negotiated.maximumPacketSize, protocolMaximum, this.outbox.limits.maxBytes) - 1024
      : 0
  }

  wakeWriter(): void {
    this.#writer?.wakeWriter()
  }

  /** Starts a fiber that is needed only now, once the present change of state is over; what starts it has to end it. */
  fork(effect: Effect.Effect<void>): Fiber.Fiber<void> | undefined {
    const { services } = this
    return services && Effect.runForkWith(services)(Effect.andThen(Effect.yieldNow, effect))
  }

  /** A message was parked. */
  onParked(): void {
    ;(this.#parkedExpiry ??= new ParkedExpiry(this)).start()
  }

  /** Ends the fiber that looks after slow consumers. */
  get stopSlow(): Effect.Effect<void> {
    return this.#slow?.stop ?? Effect.void
  }

  /** Ends the fiber that looks after parked messages. */
  get stopParked(): Effect.Effect<void> {
    return this.#parkedExpiry?.stop ?? Effect.void
  }

  drop(topic: string, qos: Packet.QoS, why: DropReason): void {
    this.#dropped++
    if (this.events.isWatched) this.events.emit({ _tag: "MessageDropped", topic, qos, why })
  }

  // ---------------------------------------------------------------------------
  // what the inbox and subscribers tell
  // ---------------------------------------------------------------------------

  onUnclaimed(message: Message): void {
    this.drop(message.topic, message.qos, "unclaimed")
  }

  onOwed(receipt: Receipt): void {
    this.inbound.onOwed(receipt)
  }

  onRefused(packet: Packet.Publish): void {
    this.inbound.onRefused(packet)
  }

  settle(receipt: Receipt): void {
    this.inbox.settle(receipt)
    this.wakeWriter()
  }

  settleAll(deliveries: ReadonlyArray<Delivery>): void {
    this.inbox.settleAll(deliveries)
    this.wakeWriter()
  }

  settleRun(run: ReceiptRun): void {
    this.inbox.settleRun(run)
    this.wakeWriter()
  }

  settleAs(receipt: Receipt, reasonCode: number): AckResult {
    const standing = this.inbox.standing(receipt)
    this.inbox.settle(receipt, reasonCode)
    this.wakeWriter()
    return standing
  }

  giveBack(receipt: Receipt, isBegun: boolean, durable: ReadonlyArray<string>): void {
    this.inbound.giveBack(receipt, isBegun, durable)
  }

  onDrop(message: Message): void {
    this.drop(message.topic, message.qos, "buffer")
  }

  onReady(subscriber: Subscriber): void {
    this.#ready = ownSet(this.#ready).add(subscriber)
    if (!this.#inBatch) this.endBatch()
  }

  onBuffered(subscriber: Subscriber): void {
    this.#buffered = ownArray(this.#buffered)
    this.#buffered.push(subscriber)
  }

  onLagging(subscriber: Subscriber): void {
    this.#lagging = ownSet(this.#lagging).add(subscriber)
  }

  onHolding(subscriber: Subscriber): void {
    ;(this.#slow ??= new SlowConsumers(this)).watch(subscriber)
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
    this.#reconsiderAccepted()
    this.madeInbox?.configure(options)
    this.endBatch()
    this.subscriptions.declare(options.subscriptions)
    // Which of them have a taker to wait for may have changed.
    for (const receipt of this.madeInbox?.claim(() => true) ?? []) this.inbound.reconsider(receipt)
  }

  /**
   * CONNACK was accepted. Decides what becomes of the session before anything else of the connection is looked at (SS-11).
   * `resumes`: the server has the session that our state belongs to; `isInDoubt`: or one that it made for an earlier CONNECT.
   */
  open(negotiated: Negotiated, resumes: boolean, writer: Writer, isInDoubt = false): void {
    this.#negotiated = negotiated
    this.#reconsiderAccepted()
    this.#writer = writer
    this.outbound.clearPubrels()
    this.journal?.begin(resumes, this.sessionKey)
    if (this.madeInbox !== undefined) this.#beginInbox(this.madeInbox, negotiated, resumes)
    if (resumes) this.session.resume(negotiated.sendWindow)
    else {
      this.outbound.onSessionLost(this.session.discard(negotiated.sendWindow))
      if (negotiated.sessionPresent) this.#adopt()
    }
    this.isSessionInDoubt = false
    const filters = this.subscriptions.begin(
      negotiated,
      resumes,
      isInDoubt,
      this.#options.subscriptionIdentifiers
    )
    if (filters.length > 0) this.events.emit({ _tag: "Resubscribed", filters })
    writer.wakeWriter()
    this.#slow?.wake()
  }

  /**
   * The server may hold identifiers of exchanges that nobody here knows of, and would take a QoS 2 message under one of them
   * for a repetition. They are not to be had from it, but those of an earlier life are likely to begin at 1.
   */
  #adopt(): void {
    if (this.adoptedAfter === undefined) return
    this.session.ids.continueAfter(this.adoptedAfter)
    this.adoptedAfter = undefined
  }

  /** The connection is over. */
  close(): void {
    if (this.#negotiated !== undefined) this.madeInbox?.end(this.#negotiated.sessionExpiryInterval === 0)
    this.#negotiated = undefined
    this.#reconsiderAccepted()
    this.#writer = undefined
    // What the socket had not taken is lost with it, and nobody waits for it any more.
    this.writing = false
    if (this.committer !== undefined) this.committer.target = undefined
    this.subscriptions.end(this.session.ids)
    if (!this.#inBatch) this.endBatch()
  }

  /** From now on nothing is sent: all that is pending fails, and so does what comes, until `reopen`. */
  halt(cause: ClientHalted | ClientClosed): void {
    this.#gate = cause
    this.#reconsiderAccepted()
    this.startBatch()
    for (const waiter of this.#waiters) {
      const given = waiter.isDone() ? undefined : cause
      this.#outcomes = ownArray(this.#outcomes)
      this.#outcomes.push(() => waiter.resume(given))
    }
    this.#waiters.clear()
    const kept: Array<Entry> = []
    for (const entry of this.outbox.removeAll()) {
      // What may have been delivered, and what the store keeps for a later connection or process, stays.
      if (entry.isKept === true && entry.phase !== "queued") kept.push(entry)
      else {
        if (entry.resume === undefined) this.drop(entry.topic, entry.qos, "abandoned")
        this.outbound.forget(entry)
      }
      this.finish(entry, { _tag: "Failed", reason: new PublishAbandoned({ phase: entry.phase, cause }) })
    }
    if (kept.length > 0) this.outbox.restore(kept, [], 0)
    // The exchanges stay: the server may know them, and a later connection goes on with them.
    for (const { token } of this.session.exchanges()) {
      this.finish(token, { _tag: "Failed", reason: new PublishAbandoned({ phase: token.phase, cause }) })
    }
    this.#publishIds?.abandon(cause, (entry, outcome) => this.finish(entry, outcome))
    this.subscriptions.failWaiting(cause)
    this.endBatch()
  }

  /** The scope of the client closes: nothing new is taken, what is pending goes on. */
  refuse(cause: ClientClosed): void {
    this.#gate = cause
    this.#reconsiderAccepted()
  }

  /** Whether all that was taken is sent and, at QoS 1 and 2, acknowledged, and the store knows of it. */
  get isDrained(): boolean {
    return this.outbox.queued === 0 && this.session.inFlight === 0 && !this.isWriting &&
      this.committer?.isIdle !== false
  }

  /** Whether something that left the outbox is not yet handed to the socket. */
  get isWriting(): boolean {
    return this.writing || this.committer?.isBusy === true
  }

  reopen(): void {
    this.#gate = undefined
    this.#reconsiderAccepted()
  }

  // ---------------------------------------------------------------------------
  // outcomes
  // ---------------------------------------------------------------------------

  /** Tells the caller of a publish, if there still is one. */
  finish(entry: Entry, outcome: Outcome): void {
    const resume = entry.resume
    if (resume === undefined) return
    entry.resume = undefined
    // A batch lets nobody go on by itself.
    if (entry.batch !== undefined || !this.#inBatch) resume(outcome, entry)
    else {
      if (isNoArray(this.#ended)) this.#ended = newArray()
      this.#ended.push(resume, outcome, entry)
    }
  }

  /** Runs what lets user code go on: when the present batch is done, since a fiber that is resumed runs at once. */
  defer(run: () => void): void {
    if (!this.#inBatch) return run()
    if (isNoArray(this.#outcomes)) this.#outcomes = newArray()
    this.#outcomes.push(run)
  }

  /** Whether a consumer is behind, so that the reader should give it its turn. */
  get isLagging(): boolean {
    for (const subscriber of this.#lagging) {
      if (!subscriber.lagging) this.#lagging.delete(subscriber)
    }
    return this.#lagging.size > 0
  }

  /** What was received is handled: what of it still waits for a consumer lets go of the chunks, and of room for more. */
  detachPayloads(): void {
    this.madeInbox?.trim()
    if (this.#buffered.length === 0) return
    const buffered = this.#buffered
    this.#buffered = noArray()
    for (const subscriber of buffered) subscriber.detachPayloads()
  }

  startBatch(): void {
    this.#inBatch = true
  }

  /** Lets callers and consumers run, now that the state is whole. */
  endBatch(): void {
    this.#inBatch = false
    if (this.#ended.length > 0) {
      const ended = this.#ended
      this.#ended = noArray()
      for (let at = 0; at < ended.length; at += 3) {
        try {
          ;(ended[at] as Resume)(ended[at + 1] as Outcome, ended[at + 2] as Entry)
        } catch (error) {
          this.#onThrown(error)
        }
      }
    }
    if (this.#outcomes.length > 0) {
      const outcomes = this.#outcomes
      this.#outcomes = noArray()
      for (const run of outcomes) this.#letGo(run)
    }
    if (this.#ready.size > 0) {
      const ready = [...this.#ready]
      this.#ready.clear()
      for (const subscriber of ready) this.#letGo(() => subscriber.wake())
    }
    if (this.#waiters.size === 0) return
    for (const waiter of this.#waiters) {
      if (waiter.isDone()) {
        this.#waiters.delete(waiter)
        this.#letGo(() => waiter.resume(undefined))
      }
    }
  }

  #letGo(run: () => void): void {
    try {
      run()
    } catch (error) {
      this.#onThrown(error)
    }
  }

  /** An observer of a fiber that went on has thrown. The others are told all the same, and the reader goes on. */
  #onThrown(error: unknown): void {
    this.fork(Effect.logError("an observer of a fiber threw", Cause.die(error)))
  }

  /** Calls `resume` as soon as `isDone` holds at the end of a batch; gives the way to take it back. */
  whenDone(isDone: Waiter["isDone"], resume: Waiter["resume"]): () => void {
    const waiter: Waiter = { isDone, resume }
    this.#waiters = ownSet(this.#waiters).add(waiter)
    return () => this.#waiters.delete(waiter)
  }

  // ---------------------------------------------------------------------------
  // packets
  // ---------------------------------------------------------------------------

  /** Whether there is something for the writer. */
  get hasOutput(): boolean {
    return this.subscriptions.isDirty || this.madeInbox?.hasAcks === true || this.outbound.hasPubrels ||
      this.session.redelivering ||
      this.outbox.queued > 0
  }

  /**
   * Encodes what is to be sent next, in order, until about `limit` bytes: subscriptions, acknowledgements, PUBRELs, what is
   * sent again, and new messages as far as the window allows. A fault means that the connection cannot go on.
   */
  collect(encoder: PacketCodec.Encoder, limit: number): ProtocolFault.ProtocolFault | undefined {
    this.#encodeSubscriptions(encoder, limit)
    if (!this.#encodeAcks(encoder) || !this.outbound.encodePubrels(encoder)) return cannotAcknowledge
    const fault = this.outbound.encodeRedelivery(encoder, limit)
    if (fault !== undefined) return fault
    if (!this.session.redelivering) this.outbound.encodeNew(encoder, limit)
    return undefined
  }

  /** The same for what may be sent before the store has it: all without a store, and with one PUBACK, of which it keeps nothing. */
  collectUnkept(encoder: PacketCodec.Encoder, limit: number): ProtocolFault.ProtocolFault | undefined {
    if (this.committer === undefined) return this.collect(encoder, limit)
    return this.collectPubacks(encoder) ? undefined : cannotAcknowledge
  }

  #encodeAcks(encoder: PacketCodec.Encoder): boolean {
    const inbox = this.madeInbox
    if (inbox === undefined) return true
    return encoder.acknowledgeAll(this.committer === undefined ? inbox.takeAcks() : inbox.takeKeptAcks()) === undefined
  }

  /**
   * Encodes the acknowledgements that are due; false if the server cannot take one. Also done before DISCONNECT, so that
   * what was taken is not sent again.
   */
  collectAcks(encoder: PacketCodec.Encoder): boolean {
    if (this.committer !== undefined) return this.collectPubacks(encoder)
    return this.#encodeAcks(encoder) && this.outbound.encodePubrels(encoder)
  }

  /** Encodes the PUBACKs that are due, of which a store keeps nothing; false if the server cannot take one. */
  collectPubacks(encoder: PacketCodec.Encoder): boolean {
    return this.madeInbox === undefined || encoder.acknowledgeAll(this.madeInbox.takePubacks()) === undefined
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

  /** What the server sent, but for what only the connection itself is about. */
  onPacket(
    packet: Exclude<Packet.ServerPacket, Packet.Connack | Packet.Disconnect | Packet.Pingresp>
  ): ProtocolFault.ProtocolFault | undefined {
    switch (packet._tag) {
      case "Publish":
        return this.inbound.onPublish(packet)
      case "Puback":
        return this.outbound.onPuback(packet)
      case "Pubrec":
        return this.outbound.onPubrec(packet)
      case "Pubcomp":
        return this.outbound.onPubcomp(packet)
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
}
