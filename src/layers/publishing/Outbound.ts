/**
 * What goes out of a client at any QoS, from the outbox to the last acknowledgement.
 *
 * Plain calls that never wait: the connection asks what to send next and says what came back.
 *
 * @since 0.1.0
 */
import type { Packet, Session } from "../../protocol/index.ts"
import { PacketCodec, ProtocolFault, ReasonCode } from "../../protocol/index.ts"
import {
  InvalidMessage,
  NotSupportedByServer,
  PacketTooLarge,
  PublishRefused,
  SessionLost
} from "../../services/MqttError.ts"
import type { PublishReason } from "../../services/MqttError.ts"
import type { SessionStoreError, StoredOutcome } from "../../services/SessionStore.ts"
import type { ClientCore } from "../ClientCore.ts"
import type { Fresh } from "../store/Journal.ts"
import * as MessageExpiry from "./MessageExpiry.ts"
import type { Batch, Entry, Outcome } from "./Entry.ts"
import { Run } from "./Run.ts"
import { isNoArray, newArray, noArray } from "../../protocol/EmptyCollections.ts"
import * as PackedAck from "../../protocol/PackedAck.ts"

/** The largest packet that MQTT can express: five bytes of header and 268,435,455 bytes. */
export const protocolMaximum = 268_435_460

/** The outcome of nearly all messages. */
const delivered: Outcome = { _tag: "Done", reasonCode: 0, reasonString: undefined }

export class Outbound {
  readonly core: ClientCore

  constructor(core: ClientCore) {
    this.core = core
  }

  /** Why the message cannot go to the server that we are connected to, if that is known now. */
  unsendable(message: Pick<Entry, "qos" | "retain">): PublishReason | undefined {
    const negotiated = this.core.negotiated
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
    const { core } = this
    if (entry.qos !== 0 && core.outbox.hasRoom(entry)) {
      // Which ends nobody's waiting.
      core.outbox.offer(entry)
    } else {
      core.startBatch()
      core.outbox.offer(entry)
      core.endBatch()
    }
    core.wakeWriter()
  }

  /** Gives a batch of so many publishes to the outbox, as `offer` does. */
  offerBatch(batch: Batch, count: number): void {
    this.core.startBatch()
    this.core.outbox.offerBatch(batch, count)
    this.core.endBatch()
    this.core.wakeWriter()
  }

  /** The outbox dropped it. */
  onDrop(entry: Entry): void {
    this.core.drop(entry.topic, entry.qos, "outbox")
  }

  /** The outbox is done with it. */
  finish(entry: Entry, outcome: Outcome): void {
    if (outcome._tag === "Failed") this.end(entry, outcome)
    else this.core.finish(entry, outcome)
  }

  /** The entry was interrupted by its caller (law 5). */
  abandon(entry: Entry): void {
    entry.resume = undefined
    this.core.startBatch()
    const removed = this.core.outbox.remove(entry)
    if (removed) this.forget(entry)
    this.core.endBatch()
    // It may have held up what needs no place in the window, or kept out what was suspended.
    if (removed) this.core.wakeWriter()
  }

  /** Identifier and reason code of each PUBREL that is due. */
  #pubrels: Array<PackedAck.PackedAck> = noArray()

  get hasPubrels(): boolean {
    return this.#pubrels.length > 0
  }

  /** A new connection begins, which owes none. */
  clearPubrels(): void {
    this.#pubrels = noArray()
  }

  /** Encodes the PUBRELs that are due; false if the server cannot take one. */
  encodePubrels(encoder: PacketCodec.Encoder): boolean {
    const pubrels = this.#pubrels
    if (pubrels.length === 0) return true
    this.#pubrels = noArray()
    return encoder.acknowledgeAll(pubrels) === undefined
  }

  encodeRedelivery(encoder: PacketCodec.Encoder, limit: number): ProtocolFault.ProtocolFault | undefined {
    while (encoder.size < limit) {
      const packet = this.core.session.nextRedelivery((exchange) => this.#refuseRedelivery(exchange, encoder))
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
    this.core.outbox.release(entry)
    this.#fail(entry, reason)
    return true
  }

  #tooLarge(packet: Packet.Publish, encoder: PacketCodec.Encoder): PacketTooLarge | undefined {
    const limit = encoder.maximumPacketSize
    if (limit >= protocolMaximum) return undefined
    const size = PacketCodec.encodedSize(packet, this.core.negotiated?.protocolVersion ?? 5)
    return size > limit ? new PacketTooLarge({ size, limit, of: "server" }) : undefined
  }

  encodeNew(encoder: PacketCodec.Encoder, limit: number): void {
    this.#encodeQueued(encoder, limit)
    this.core.outbox.admit()
  }

  #encodeQueued(encoder: PacketCodec.Encoder, limit: number): void {
    const now = this.core.now()
    while (encoder.size < limit) {
      const entry = this.core.outbox.peek()
      if (entry === undefined) return
      if (entry instanceof Run) {
        this.#encodeRun(entry, encoder, limit)
        continue
      }
      const reason = this.unsendable(entry) ?? MessageExpiry.check(entry, now)
      if (reason !== undefined) {
        this.#refuse(entry, reason)
        continue
      }
      const properties = entry.properties === undefined ? undefined : MessageExpiry.remaining(entry, now)
      if (entry.qos === 0) {
        const fault = encoder.publish(entry, properties, 0)
        if (fault === undefined) this.core.outbox.take(entry)
        else this.#refuse(entry, toReason(fault, encoder))
        continue
      }
      const packetId = this.core.session.begin(entry as Entry & Session.Outgoing, properties, entry)
      if (packetId === undefined) return
      const fault = encoder.publish(entry, properties, packetId)
      if (fault === undefined) {
        this.core.journal?.published(entry, packetId, properties)
        this.core.outbox.take(entry)
      } else {
        this.core.session.retract(packetId)
        this.#refuse(entry, toReason(fault, encoder))
      }
    }
  }

  #encodeRun(run: Run, encoder: PacketCodec.Encoder, limit: number): void {
    const { count, size } = run
    let fits = true
    while (run.state === "queued" && encoder.size < limit) {
      fits = encoder.publishPlain(run.topic, run.payload)
      if (!fits) break
      run.shift()
    }
    this.core.outbox.takeOf(run, count - run.count, size - run.size)
    // It was taken for another connection than this one: each is looked at by itself.
    if (!fits) this.core.outbox.unroll()
  }

  #refuse(entry: Entry, reason: PublishReason): void {
    this.core.outbox.remove(entry)
    this.#fail(entry, reason)
  }

  /** A message that cannot be sent. Where nobody waits for its outcome, as at QoS 0, the counter is what tells of it. */
  #fail(entry: Entry, reason: PublishReason): void {
    if (reason._tag === "MessageExpired") this.core.drop(entry.topic, entry.qos, "expired")
    else if (entry.resume === undefined) this.core.drop(entry.topic, entry.qos, "refused")
    this.end(entry, { _tag: "Failed", reason })
  }

  onPuback(packet: Packet.Puback): ProtocolFault.ProtocolFault | undefined {
    if (this.#isCompletion(packet, 1)) return undefined
    const { packetId, properties, reasonCode } = packet
    return this.#onAck(this.core.session.onPuback(packetId, reasonCode, properties?.reasonString))
  }

  onPubrec(packet: Packet.Pubrec): ProtocolFault.ProtocolFault | undefined {
    const { session } = this.core
    const { packetId, properties, reasonCode } = packet
    if (reasonCode === 0 && properties === undefined) {
      const entry = session.release(packetId)
      if (entry !== undefined) {
        this.#onReceived(entry, 0)
        if (isNoArray(this.#pubrels)) this.#pubrels = newArray()
        this.#pubrels.push(PackedAck.make(6, packetId, 0))
        return undefined
      }
    }
    // The server may say it twice.
    const isRepeated = session.released(packetId) !== undefined
    const outcome = session.onPubrec(packetId, reasonCode, properties?.reasonString)
    const entry = isRepeated ? undefined : session.released(packetId)?.token
    if (entry !== undefined) this.#onReceived(entry, reasonCode)
    return this.#onAck(outcome)
  }

  #onReceived(entry: Entry, reasonCode: number): void {
    entry.phase = "received"
    this.core.journal?.released(entry, reasonCode)
  }

  onPubcomp(packet: Packet.Pubcomp): ProtocolFault.ProtocolFault | undefined {
    if (this.#isCompletion(packet, 2)) return undefined
    const { packetId, properties, reasonCode } = packet
    return this.#onAck(this.core.session.onPubcomp(packetId, reasonCode, properties?.reasonString))
  }

  /** Whether it ended an exchange at this QoS, and said no more than that, as nearly all do. */
  #isCompletion(packet: Packet.Puback | Packet.Pubcomp, qos: 1 | 2): boolean {
    if (packet.reasonCode !== 0 || packet.properties !== undefined) return false
    const entry = this.core.session.complete(packet.packetId, qos)
    if (entry === undefined) return false
    this.#onDelivered(entry)
    return true
  }

  /** The message was acknowledged for good, and nothing else was said of it. */
  #onDelivered(entry: Entry): void {
    this.core.outbox.release(entry)
    if (this.core.journal === undefined && !this.core.events.isWatched) this.core.finish(entry, delivered)
    else this.#onAcknowledged(entry, 0, undefined)
  }

  #onAck(outcome: Session.AckOutcome<Entry>): ProtocolFault.ProtocolFault | undefined {
    switch (outcome._tag) {
      case "Settled":
        this.#onSettled(outcome.settled)
        return undefined
      case "Release":
        if (isNoArray(this.#pubrels)) this.#pubrels = newArray()
        this.#pubrels.push(PackedAck.make(6, outcome.packet.packetId, outcome.packet.reasonCode))
        return undefined
      case "Fault":
        return outcome.fault
      case "Ignored":
        return undefined
    }
  }

  #onSettled({ exchange, reasonCode, reasonString }: Session.Settled<Entry>): void {
    const entry = exchange.token
    this.core.outbox.release(entry)
    this.#onAcknowledged(entry, reasonCode, reasonString)
  }

  #onAcknowledged(entry: Entry, reasonCode: number, reasonString: string | undefined): void {
    if (this.core.events.isWatched) {
      const { qos, topic } = entry
      this.core.events.emit({ _tag: "PublishAcknowledged", topic, qos: qos as 1 | 2, reasonCode })
    }
    if (reasonCode < 0x80) {
      const qos = entry.qos as 1 | 2
      return this.#settle(entry, { _tag: "Done", reasonCode, reasonString }, {
        _tag: "Delivered",
        qos,
        reasonCode,
        ...(qos === 2 && entry.isRepublished === true && { isRepublished: true })
      })
    }
    const reason = new PublishRefused({
      reasonCode,
      name: ReasonCode.nameOf(reasonCode),
      ...(reasonString === undefined ? {} : { reasonString })
    })
    if (entry.isRestored === true) this.core.drop(entry.topic, entry.qos, "refused")
    this.#settle(entry, { _tag: "Failed", reason }, { _tag: "Refused", reasonCode })
  }

  /** An exchange is over. Under an own id its caller is told once the store has the outcome. */
  #settle(entry: Entry, outcome: Outcome, kept: StoredOutcome): void {
    const { journal } = this.core
    if (journal === undefined || entry.isKept !== true) return this.core.finish(entry, outcome)
    journal.settled(entry, kept)
    if (entry.id === undefined) return this.core.finish(entry, outcome)
    journal.whenKept(() => {
      this.core.publishIds.end(entry)
      this.core.finish(entry, outcome)
    })
  }

  /** The message is not sent, or not sent again, and its caller is told. What was written of it has an unknown outcome. */
  end(entry: Entry, outcome: Outcome): void {
    if (entry.isKept === true && entry.phase !== "queued") return this.#settle(entry, outcome, { _tag: "Unknown" })
    this.forget(entry)
    this.core.finish(entry, outcome)
  }

  /** Nobody is to be told of the message, which is not sent, or not sent again: the store need not keep it. */
  forget(entry: Entry): void {
    if (entry.isKept === true) {
      if (entry.phase === "queued") this.core.journal!.withdrawn(entry)
      else this.core.journal!.settled(entry, { _tag: "Unknown" })
    }
    this.core.publishIds.end(entry)
  }

  /**
   * Publishes were given their identifiers in bytes that will not be written. They begin anew; with an error, which is that
   * of the store, those that it did not have before fail.
   */
  unsend(fresh: ReadonlyArray<Fresh>, error?: SessionStoreError | undefined): void {
    const again: Array<Entry> = []
    for (const { entry, packetId, phase, wasKept } of fresh) {
      if (this.core.session.exchange(packetId)?.token !== entry) continue
      this.core.session.retract(packetId)
      entry.phase = phase
      if (error === undefined || wasKept) {
        again.push(entry)
        continue
      }
      this.core.outbox.release(entry)
      this.#fail(entry, error)
    }
    this.#queueAgain(again)
  }

  #queueAgain(entries: ReadonlyArray<Entry>): void {
    const { journal } = this.core
    if (journal !== undefined) {
      const now = this.core.now()
      for (const entry of entries) journal.requeued(entry, MessageExpiry.remaining(entry, now))
    }
    this.core.outbox.putBack(entries)
  }

  onSessionLost(exchanges: ReadonlyArray<Session.Exchange<Entry>>): void {
    const entries = exchanges.map((exchange) => exchange.token).sort((a, b) => a.sequence - b.sequence)
    const again: Array<Entry> = []
    for (const entry of entries) {
      if (this.core.options.onSessionLost[entry.qos === 1 ? "qos1" : "qos2"] === "republish") {
        entry.isRepublished = true
        again.push(entry)
        continue
      }
      this.core.outbox.release(entry)
      if (entry.isRestored === true) this.core.drop(entry.topic, entry.qos, "sessionLost")
      this.#settle(entry, { _tag: "Failed", reason: new SessionLost({ phase: entry.phase }) }, { _tag: "Unknown" })
    }
    this.#queueAgain(again)
  }
}

export const cannotAcknowledge = ProtocolFault.make(
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
