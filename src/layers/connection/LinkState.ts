/**
 * The plain state of one connection, from its CONNECT to its end: what was received goes in, what is to be written comes out,
 * and the first cause of its end is kept.
 *
 * It starts no fibers and waits for nothing but the end of a last write; `Connection` drives it.
 *
 * @since 0.1.0
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { Packet } from "../../protocol/index.ts"
import { KeepAlive, PacketCodec, ProtocolFault } from "../../protocol/index.ts"
import * as Endpoint from "../../services/Endpoint.ts"
import type { ConnectReason, LinkLost } from "../../services/MqttError.ts"
import {
  AuthenticationFailed,
  ClosedBeforeConnack,
  fromTransportError,
  Offline,
  PingError,
  TransportLost,
  UnacknowledgedOverflow,
  UnsupportedProtocolVersion
} from "../../services/MqttError.ts"
import type { ResolvedOptions } from "../../services/ResolvedOptions.ts"
import type { Negotiated } from "../../services/Status.ts"
import type { SessionStoreError } from "../../services/SessionStore.ts"
import type { Connection as Stream, TransportError } from "../../services/Transport.ts"
import type { Authenticator } from "./Authenticator.ts"
import { pingreq, Pings } from "./Pings.ts"
import type { Ping } from "./Pings.ts"
import type { Watcher } from "./Link.ts"
import type { ClientCore } from "../ClientCore.ts"
import type { Signal } from "../Signal.ts"
import type { CommitTarget, KeptBytes } from "../store/Committer.ts"
import type { ConnackOutcome, HandshakeOutcome, SessionPlan } from "./Handshake.ts"
import * as Handshake from "./Handshake.ts"

/** Bytes that are collected for one write, and the largest slice that is written at once, so that progress is seen. */
export const sliceBytes = 64 * 1024

/** Where collecting ends, so that the last message, if it is no larger than 4 KiB, still fits into the slice. */
const collectBytes = sliceBytes - 4200

export class LinkState implements CommitTarget {
  readonly core: ClientCore
  readonly options: ResolvedOptions
  /** How the attempt treats the session; forgotten once CONNACK accepted it. */
  #plan: SessionPlan | undefined
  /** Called when CONNACK accepts the connection, and then forgotten with all that it knows. */
  #onAccepted: ((negotiated: Negotiated) => void) | undefined
  readonly stream: Stream
  /** Made for the first packet that is not a ping. */
  #encoder: PacketCodec.Encoder | undefined
  #negotiated: Negotiated | undefined
  /** Made anew for what comes next, as long as it knows nothing that counts: see `receive`. */
  #decoder: PacketCodec.Decoder | undefined
  /** What waits for the outcome of the handshake, and for the end; both are made for the first who does. */
  #shaken: Deferred.Deferred<HandshakeOutcome> | undefined
  #over: Deferred.Deferred<LinkLost> | undefined
  #finalWritten: Deferred.Deferred<void> | undefined
  /** Where the options ask for enhanced authentication. */
  readonly authenticator: Authenticator | undefined
  readonly writerWake: Signal
  /** Told of every ping that is on its way, since it has a deadline. */
  timer: { readonly onPingFlushed: () => void } | undefined
  /** Told of the end of the connection. */
  watcher: Watcher | undefined
  /** Whether earlier attempts have put the session in doubt. */
  readonly isInDoubt: boolean
  phase: "handshake" | "open" | "over" = "handshake"
  /** Whether the link is about to be judged, so that the reader is to read and not to wait for consumers. */
  isJudged = false
  /** Whether closing may wait for the peer, which it may not where the peer does not answer. */
  graceful = false
  keepAlive: KeepAlive.KeepAlive
  /** CONNECT as bytes, until the writer takes it. */
  connect: Uint8Array | undefined
  /** Whether the server may know of the connection. */
  isConnectTaken = false
  /** DISCONNECT, once nothing else is to be sent any more. */
  final: Packet.Disconnect | undefined
  finalTaken = false
  /** Whether the acknowledgements that are owed go out before DISCONNECT. */
  #acknowledgesFirst = false
  cause: LinkLost | undefined
  #handshakeOutcome: HandshakeOutcome | undefined
  /** The first byte that came. */
  #first: number | undefined
  readonly #pings = new Pings()

  constructor(
    core: ClientCore,
    options: ResolvedOptions,
    plan: SessionPlan,
    onAccepted: (negotiated: Negotiated) => void,
    stream: Stream,
    writerWake: Signal,
    authenticator: Authenticator | undefined = undefined
  ) {
    this.core = core
    this.isInDoubt = core.isSessionInDoubt
    this.options = options
    this.#plan = plan
    this.#onAccepted = onAccepted
    this.stream = stream
    this.authenticator = authenticator
    this.writerWake = writerWake
    this.keepAlive = KeepAlive.make({ keepAlive: 0, pingTimeout: 0, now: core.now() })
  }

  /** Waits for the outcome of the handshake, which only one may do. */
  get handshake(): Effect.Effect<HandshakeOutcome> {
    return Effect.map(Effect.suspend(() => Deferred.await(this.#shaken ??= Deferred.makeUnsafe())), (outcome) => {
      this.#shaken = undefined
      return outcome
    })
  }

  #tell(outcome: HandshakeOutcome): void {
    Deferred.doneUnsafe(this.#shaken ??= Deferred.makeUnsafe(), Exit.succeed(outcome))
  }

  /** Waits for the end of the connection, if it was not we who ended it. */
  get ended(): Effect.Effect<LinkLost> {
    return Effect.suspend(() =>
      this.cause === undefined ? Deferred.await(this.#over ??= Deferred.makeUnsafe()) : Effect.succeed(this.cause)
    )
  }

  get finalWritten(): Deferred.Deferred<void> {
    return this.#finalWritten ??= Deferred.makeUnsafe()
  }

  get encoder(): PacketCodec.Encoder {
    return this.#encoder ??= this.#makeEncoder()
  }

  #makeEncoder(): PacketCodec.Encoder {
    const encoder = PacketCodec.makeEncoder({ protocolVersion: this.options.protocolVersion })
    encoder.maximumPacketSize = this.#negotiated?.maximumPacketSize ?? Infinity
    return encoder
  }

  wakeWriter(): void {
    if (this.#isReceiving) this.#wantsWriter = true
    else this.writerWake.offer()
    this.core.committer?.wake()
  }

  #isReceiving = false
  /** Whether the writer was asked for while something was received. */
  #wantsWriter = false

  // ---------------------------------------------------------------------------
  // received
  // ---------------------------------------------------------------------------

  /** Handles a whole pull. */
  receive(chunks: ReadonlyArray<Uint8Array>): void {
    const { core } = this
    KeepAlive.received(this.keepAlive, core.now())
    this.#isReceiving = true
    this.#wantsWriter = false
    core.startBatch()
    this.#answered = 0
    const isHandshake = this.phase === "handshake"
    const isFirst = isHandshake && this.#first === undefined
    const foreign = isFirst ? Handshake.foreignFault(chunks[0]!) : undefined
    if (foreign !== undefined) this.fault(foreign)
    const decoder = this.#decoder ??= PacketCodec.makeDecoder(Handshake.toDecoderOptions(this.options))
    for (const chunk of chunks) {
      if (this.phase === "over") break
      const fault = decoder.push(chunk, this.#onPacket)
      if (fault !== undefined) this.fault(fault)
    }
    // CONNACK and PINGRESP are all that comes to many a client, and then it has no decoder.
    if ((isHandshake || chunks[0]!.length === 2) && decoder.isBlank) this.#decoder = undefined
    if (this.phase === "handshake") this.#checkFirst(chunks[0]![0]!)
    if (core.madeInbox?.isOverfull === true) {
      const { maximumUnacknowledgedBytes: maximumBytes } = this.options
      this.end(new UnacknowledgedOverflow({ bytes: core.inbox.bytes, maximumBytes }))
    }
    core.endBatch()
    core.detachPayloads()
    if (this.#handshakeOutcome !== undefined) {
      const outcome = this.#handshakeOutcome
      this.#handshakeOutcome = undefined
      this.#tell(outcome)
    }
    this.#isReceiving = false
    if (this.#wantsWriter || (this.phase === "open" && core.hasOutput)) {
      core.committer?.wake()
      // At once: what has come is handled, and so is what its receivers had to say.
      this.writerWake.offerNow()
    }
  }

  /** Whose first byte does not begin an answer to CONNECT is no server, though it may never complete what looks like a packet. */
  #checkFirst(byte: number): void {
    this.#first ??= byte
    const type = this.#first >> 4
    if (type !== 2 && type !== 14 && type !== 15) {
      this.fault(ProtocolFault.make("frame", "packet type", "what came first is no answer to CONNECT", 0x82))
    }
  }

  readonly #onPacket = (packet: Packet.ServerPacket): ProtocolFault.ProtocolFault | undefined => {
    if (this.phase === "open") {
      switch (packet._tag) {
        case "Publish":
          return this.core.inbound.onPublish(packet)
        case "Puback":
        case "Pubrec":
        case "Pubcomp": {
          const fault = this.core.onPacket(packet)
          if (++this.#answered >= this.#halfWindow) this.#goOn()
          return fault
        }
        case "Connack":
          return ProtocolFault.make("CONNACK", "packet type", "a second one on the same connection", 0x82)
        case "Pingresp":
          this.#onPingresp()
          return undefined
        case "Disconnect":
          this.end(Handshake.toServerDisconnected(packet))
          return undefined
        case "Auth":
          return this.authenticator === undefined
            ? this.core.onPacket(packet)
            : this.#onAuth(this.authenticator, packet)
        default:
          return this.core.onPacket(packet)
      }
    }
    // What stands behind a DISCONNECT, or behind a refusal, means nothing any more (ER-06).
    if (this.phase === "over") return undefined
    if (packet._tag === "Connack") return this.#onConnack(packet)
    if (packet._tag === "Auth" && this.authenticator !== undefined) return this.#onAuth(this.authenticator, packet)
    if (packet._tag === "Disconnect" && this.options.protocolVersion === 5) {
      this.#fail(new ClosedBeforeConnack({ address: this.address, reasonCode: packet.reasonCode }), undefined)
      return undefined
    }
    return ProtocolFault.make(packet._tag.toUpperCase(), "packet type", "it came before CONNACK", 0x82)
  }

  /** Half of what may be under way, if that is much, and the acknowledgements that were handled since the last `#goOn`. */
  #halfWindow = 65_535
  #answered = 0

  /**
   * Lets callers go on whose publishes are acknowledged, and sends what there is to send, before the rest of what has come is
   * handled: the server works on the one half while we work on the other.
   */
  #goOn(): void {
    const { core } = this
    this.#answered = 0
    core.endBatch()
    if (core.hasOutput) this.writerWake.offerNow()
    core.startBatch()
  }

  #onAuth(authenticator: Authenticator, packet: Packet.Auth): ProtocolFault.ProtocolFault | undefined {
    const problem = authenticator.onAuth(packet, this.phase === "open")
    if (problem?._tag !== "AuthenticationFailed") return problem
    this.#failAuthentication(problem)
    return undefined
  }

  /** The exchange failed on our side, which ends the connection, or the handshake. */
  failAuthentication(error: AuthenticationFailed): void {
    this.#failAuthentication(error)
    if (this.#handshakeOutcome !== undefined) this.#tell(this.#handshakeOutcome)
  }

  #failAuthentication(error: AuthenticationFailed): void {
    if (this.phase === "handshake") this.#fail(error, 0x80)
    else this.end(error)
  }

  #onConnack(packet: Packet.Connack): ProtocolFault.ProtocolFault | undefined {
    const outcome: ConnackOutcome = Handshake.onConnack(this.options, this.#plan!, packet)
    if (this.authenticator !== undefined && (outcome._tag === "Accepted" || outcome._tag === "Discard")) {
      const failed = this.authenticator.conclude(packet.properties?.authenticationData)
      if (failed !== undefined) {
        this.#failAuthentication(failed)
        return undefined
      }
    }
    switch (outcome._tag) {
      case "Fault":
        return outcome.fault
      case "Refused":
        this.core.isSessionInDoubt = this.isInDoubt
        this.#fail(outcome.reason, undefined)
        return undefined
      case "Discard":
        this.phase = "over"
        this.graceful = true
        this.#handshakeOutcome = outcome
        return undefined
      case "Accepted":
        this.#accept(outcome.negotiated)
        return undefined
    }
  }

  #accept(negotiated: Negotiated): void {
    this.phase = "open"
    this.#halfWindow = Math.max(16, negotiated.sendWindow >> 1)
    this.#negotiated = negotiated
    // AUTH may have needed it already.
    if (this.#encoder !== undefined) this.#encoder.maximumPacketSize = negotiated.maximumPacketSize
    this.keepAlive = {
      ...this.keepAlive,
      keepAlive: negotiated.keepAliveMillis,
      pingTimeout: this.options.pingTimeoutMillis ?? negotiated.keepAliveMillis
    }
    this.#onAccepted?.(negotiated)
    this.#onAccepted = undefined
    const plan = this.#plan!
    this.#plan = undefined
    if (this.core.committer !== undefined) this.core.committer.target = this
    this.core.open(negotiated, negotiated.sessionPresent && plan.resumes, this, this.isInDoubt)
    this.#handshakeOutcome = { _tag: "Accepted", negotiated }
  }

  #onPingresp(): void {
    const { resume, sentAt = 0 } = this.#pings.answered() ?? {}
    if (resume === undefined) return
    const elapsed = Duration.millis(this.core.now() - sentAt)
    this.core.defer(() => resume(Effect.succeed(elapsed)))
  }

  get address(): string {
    return Endpoint.toUrl(this.options.endpoint)
  }

  // ---------------------------------------------------------------------------
  // the end
  // ---------------------------------------------------------------------------

  /** The peer broke the protocol. */
  fault(fault: ProtocolFault.ProtocolFault): void {
    if (this.phase === "over") return
    if (this.phase === "handshake" || this.#handshakeOutcome !== undefined) {
      const reason = Handshake.isOlderVersion(fault)
        ? new UnsupportedProtocolVersion({
          protocolVersion: this.options.protocolVersion,
          reasonCode: fault.reasonCode
        })
        : Handshake.toProtocolError(fault)
      if (this.phase === "open") this.core.close()
      this.#fail(reason, fault.reasonCode)
    } else {
      this.end(Handshake.toProtocolError(fault))
    }
  }

  /** The stream is gone. */
  lost(error: TransportError): void {
    if (this.phase === "handshake") {
      const reason = error.detail === undefined
        ? new ClosedBeforeConnack({ address: this.address, cause: error })
        : fromTransportError(error)
      this.#fail(reason, undefined)
      this.#tell(this.#handshakeOutcome!)
    } else {
      this.end(new TransportLost({ cause: error }))
    }
  }

  #fail(reason: ConnectReason, disconnect: number | undefined): void {
    this.phase = "over"
    this.graceful = true
    this.#handshakeOutcome = { _tag: "Failed", reason, disconnect }
  }

  /** Ends the connection, or the handshake; see `Link.disconnect`. */
  leave(packet: Packet.Disconnect): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.phase === "over") return Effect.void
      this.#acknowledgesFirst = this.phase === "open"
      if (this.phase === "open") this.core.close()
      this.phase = "over"
      this.failPings(undefined)
      return this.sendFinal(packet)
    })
  }

  /** Sends DISCONNECT behind what is being written, within `disconnectTimeout`. */
  sendFinal(packet: Packet.Disconnect): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (!this.isConnectTaken) return Effect.void
      this.final = packet
      this.wakeWriter()
      return Effect.timeoutOrElse(Deferred.await(this.finalWritten), {
        duration: this.options.disconnectTimeoutMillis,
        orElse: () => this.stream.abort
      })
    })
  }

  /** The scope of the stream closes. */
  release(): Effect.Effect<void> {
    // The attempt ran out of time in the moment in which it succeeded.
    const wasOpen = this.phase === "open"
    this.phase = "over"
    this.#isReleased = true
    // Also where DISCONNECT was to come behind it and was given up.
    this.#dropKept()
    if (wasOpen) this.core.close()
    return this.graceful ? Effect.void : this.stream.abort
  }

  /** The first cause counts; a second call does nothing. */
  end(cause: LinkLost): void {
    if (this.phase !== "open") return
    this.phase = "over"
    this.cause = cause
    this.graceful = cause._tag === "ServerDisconnected" || cause._tag === "ProtocolError" ||
      cause._tag === "UnacknowledgedOverflow" || cause._tag === "AuthenticationFailed"
    this.#dropKept()
    this.core.close()
    this.failPings(cause)
    if (this.#over !== undefined) Deferred.doneUnsafe(this.#over, Exit.succeed(cause))
    this.watcher?.nudge()
  }

  /** `cause`: why the connection ended, if we did not end it. */
  failPings(cause: LinkLost | undefined): void {
    const pings = this.#pings.abandon()
    if (pings.length === 0) return
    const error = new PingError({ reason: cause ?? new Offline() })
    for (const { resume } of pings) if (resume !== undefined) this.core.defer(() => resume(Effect.fail(error)))
  }

  // ---------------------------------------------------------------------------
  // sent
  // ---------------------------------------------------------------------------

  queuePing(resume: Ping["resume"]): Ping {
    const ping = this.#pings.queue(resume)
    KeepAlive.pingQueued(this.keepAlive)
    this.wakeWriter()
    return ping
  }

  /** The bytes that are to be written next, or undefined if there are none. */
  next(): Uint8Array | undefined {
    const { core } = this
    if (this.final !== undefined) {
      if (this.finalTaken) return undefined
      const { encoder } = this
      if (this.#acknowledgesFirst) {
        // What is to be kept, or is kept, goes before.
        if (core.committer?.isIdle === false && !this.#isStoreBroken) {
          // It may bring nothing for us, and then nobody else says that it is over.
          core.committer.onCommitted = (isKept) => this.#onCommitted(isKept)
          core.committer.wake()
          return undefined
        }
        if (this.#kept !== undefined) return this.#takeKept()
      }
      this.finalTaken = true
      if (this.#acknowledgesFirst) core.collectAcks(encoder)
      return encoder.encode(this.final) === undefined ? encoder.take() : new Uint8Array(0)
    }
    if (this.phase === "over") return undefined
    const now = core.now()
    if (this.connect !== undefined) {
      const bytes = this.connect
      this.connect = undefined
      this.isConnectTaken = true
      KeepAlive.writeStarted(this.keepAlive, now)
      return bytes
    }
    const auth = this.authenticator?.outgoing
    if (auth === undefined && core.committer === undefined && !core.hasOutput) return this.#onlyPings(now)
    const { encoder } = this
    // With a store, bytes that are not written yet wait until it has what they tell.
    if (core.committer === undefined && this.stream.isFlushed?.() === true) encoder.reclaim()
    if (auth !== undefined) {
      this.authenticator!.outgoing = undefined
      if (encoder.encode(auth) !== undefined) {
        const { method } = this.authenticator!.authentication
        const cause = new Error("the data does not fit into a packet that the server takes")
        this.failAuthentication(new AuthenticationFailed({ method, problem: "respond", cause }))
        return undefined
      }
    }
    if (this.phase !== "open") return auth === undefined ? undefined : encoder.take()
    for (let count = this.#pings.take(now); count > 0; count--) encoder.encode({ _tag: "Pingreq" })
    core.startBatch()
    const fault = core.collectUnkept(encoder, collectBytes)
    const bytes = encoder.size === 0 ? this.#takeKept() : encoder.take()
    if (bytes !== undefined) {
      core.writing = true
      KeepAlive.writeStarted(this.keepAlive, now)
    }
    core.endBatch()
    if (fault !== undefined) {
      core.writing = false
      this.fault(fault)
      return undefined
    }
    return bytes
  }

  /** The bytes where there is nothing else to write, for which the memory of an encoder is not needed. */
  #onlyPings(now: number): Uint8Array | undefined {
    if (this.phase !== "open") return undefined
    const count = this.#pings.take(now)
    if (count > 0) this.core.writing = true
    this.core.endBatch()
    if (count === 0) return undefined
    KeepAlive.writeStarted(this.keepAlive, now)
    return count === 1 ? pingreq : new Uint8Array(2 * count).map((_, at) => pingreq[at % 2]!)
  }

  // ---------------------------------------------------------------------------
  // behind the session store
  // ---------------------------------------------------------------------------

  /** Whether nothing can be written any more. */
  #isReleased = false
  /** Bytes whose changes are kept, until the writer takes them. */
  #kept: KeptBytes | undefined

  /** Whether a commit of this connection has failed, so that what is to be kept is not waited for. */
  #isStoreBroken = false

  get hasKept(): boolean {
    return this.#kept !== undefined
  }

  collectKept(): Uint8Array | undefined {
    if (this.phase !== "open" || this.#kept !== undefined) return undefined
    const { core, encoder } = this
    core.startBatch()
    const fault = core.collect(encoder, collectBytes)
    const bytes = encoder.size === 0 ? undefined : encoder.take()
    core.endBatch()
    if (fault === undefined) return bytes
    this.fault(fault)
    return undefined
  }

  handOver(kept: KeptBytes): boolean {
    const isLeaving = this.#acknowledgesFirst && !this.finalTaken && !this.#isReleased
    this.wakeWriter()
    if (this.phase !== "open" && !isLeaving) return false
    this.#kept = kept
    return true
  }

  /** The commit that DISCONNECT waits for is over. One that began behind the end knows nothing of this connection. */
  #onCommitted(isKept: boolean): void {
    if (!isKept) this.#isStoreBroken = true
    this.wakeWriter()
  }

  onStoreFailed(error: SessionStoreError): void {
    this.#isStoreBroken = true
    this.end(error)
    // What was to be written before DISCONNECT will not be.
    this.wakeWriter()
  }

  #takeKept(): Uint8Array | undefined {
    const kept = this.#kept
    this.#kept = undefined
    if (kept !== undefined) this.core.committer?.wake()
    return kept?.bytes
  }

  /** The link is lost, and no byte of it was written. */
  #dropKept(): void {
    const kept = this.#kept
    this.#kept = undefined
    if (kept !== undefined) this.core.outbound.unsend(kept.fresh)
  }

  written(): void {
    const { core } = this
    const now = core.now()
    KeepAlive.writeEnded(this.keepAlive, now)
    if (this.#pings.isFlushing) {
      this.#pings.isFlushing = false
      KeepAlive.pingFlushed(this.keepAlive, now)
      this.timer?.onPingFlushed()
    }
    core.writing = false
    core.endBatch()
  }
}
