/**
 * The QoS state machine of a client, for both protocol versions and both directions: packets in, packets and outcomes out.
 *
 * It owns packet identifiers, the exchanges of publishes that are not acknowledged for good, the send quota, and the
 * identifiers of inbound QoS 2 messages. It knows no time, no sockets and no waiting: who calls it decides when something
 * is sent, and must send what it returns, in order.
 *
 * One `Session` lives as long as its client. A connection begins with `resume` or `discard`, by what CONNACK said, and
 * `begin`, which sets the quota anew (MQTT 5.0 §4.9).
 *
 * `T` is the caller's token of an exchange. It is never looked into.
 *
 * @since 0.1.0
 */
import { noArray, noMap, ownMap } from "./EmptyCollections.ts"
import type { Publish, PublishProperties, Pubrel } from "./Packet.ts"
import { ExchangeTable, noTable } from "./ExchangeTable.ts"
import type { Linked } from "./ExchangeTable.ts"
import * as PacketId from "./PacketId.ts"
import type { ProtocolFault } from "./ProtocolFault.ts"
import * as Fault from "./ProtocolFault.ts"
import * as PublishPacket from "./PublishPacket.ts"

/**
 * An outbound QoS 1 or 2 message from its first byte to its last acknowledgement.
 *
 * @category models
 * @since 0.1.0
 */
export interface Exchange<T> {
  readonly packetId: number
  readonly qos: 1 | 2
  /** The packet as it was first sent: full topic, no alias, DUP 0. */
  readonly publish: Publish
  /** `published` awaits PUBACK or PUBREC, `released` awaits PUBCOMP. */
  stage: "published" | "released"
  /** Whether it holds a place of the quota of the present connection, which it does once it was (re)sent there. */
  counted: boolean
  /** The reason code of PUBREC, which the outcome reports. */
  answer: number
  readonly token: T
}

/**
 * The end of an exchange. It has released its identifier and its quota.
 *
 * @category models
 * @since 0.1.0
 */
export interface Settled<T> {
  readonly exchange: Exchange<T>
  /** `0x80` and above: refused, and not to be sent again (MQTT-4.4.0-2 of 5.0). */
  readonly reasonCode: number
  readonly reasonString: string | undefined
}

/**
 * What an acknowledgement led to.
 *
 * - `Settled`: the exchange is over
 * - `Release`: this PUBREL is to be sent
 * - `Ignored`: no exchange has this identifier; nothing to do (PI-10)
 * - `Fault`: an acknowledgement of the wrong kind (PI-09)
 *
 * @category models
 * @since 0.1.0
 */
export type AckOutcome<T> =
  | { readonly _tag: "Settled"; readonly settled: Settled<T> }
  | { readonly _tag: "Release"; readonly packet: Pubrel }
  | { readonly _tag: "Ignored" }
  | { readonly _tag: "Fault"; readonly fault: ProtocolFault }

/**
 * What to do with an inbound QoS 2 PUBLISH.
 *
 * - `deliver`: it is new
 * - `held`: it was delivered and its PUBREC is still owed; send nothing yet
 * - `again`: it was delivered and PUBREC was sent; send PUBREC again
 *
 * @category models
 * @since 0.1.0
 */
export type InboundOutcome = "deliver" | "held" | "again"

const ignored: AckOutcome<never> = { _tag: "Ignored" }

/** The packet is made when it is sent again, which nearly never happens. */
class OpenExchange<T> implements Exchange<T>, Linked<OpenExchange<T>> {
  declare readonly packetId: number
  declare readonly message: Outgoing
  declare readonly properties: PublishProperties | undefined
  declare readonly token: T
  declare stage: "published" | "released"
  declare counted: boolean
  declare answer: number
  declare previous: OpenExchange<T> | undefined
  declare next: OpenExchange<T> | undefined

  constructor(packetId: number, message: Outgoing, properties: PublishProperties | undefined, token: T) {
    this.packetId = packetId
    this.message = message
    this.properties = properties
    this.token = token
    this.stage = "published"
    this.counted = true
    this.answer = 0
    this.previous = undefined
    this.next = undefined
  }

  get qos(): 1 | 2 {
    return this.message.qos
  }

  get publish(): Publish {
    return this.toPacket(false)
  }

  toPacket(dup: boolean): Publish {
    const { payload, qos, retain, topic } = this.message
    return PublishPacket.make(dup, qos, retain, topic, this.packetId, payload, this.properties)
  }
}

/**
 * What is sent of an outbound QoS 1 or 2 message.
 *
 * @category models
 * @since 0.1.0
 */
export interface Outgoing {
  readonly topic: string
  readonly payload: Uint8Array
  readonly qos: 1 | 2
  readonly retain: boolean
}

/**
 * An exchange as an earlier process left it.
 *
 * @category models
 * @since 0.1.0
 */
export type Restored<T> = Pick<Exchange<T>, "publish" | "stage" | "answer" | "token">

/**
 * @category models
 * @since 0.1.0
 */
export class Session<T> {
  /** The one space of outbound identifiers, shared by PUBLISH, SUBSCRIBE and UNSUBSCRIBE (PI-07). */
  get ids(): PacketId.PacketIds {
    if (this.#ids === undefined) this.#ids = PacketId.make()
    return this.#ids
  }

  #ids: PacketId.PacketIds | undefined
  /** Awaiting PUBACK or PUBREC, in the order of their first sending. */
  #published = noTable<OpenExchange<T>>()
  /** Awaiting PUBCOMP, in the order in which their PUBRECs came (OR-04). */
  #released = noTable<OpenExchange<T>>()
  /** Inbound QoS 2 identifiers before PUBREL: false until PUBREC was sent, then true. */
  #inbound = noMap<number, boolean>()
  /** What a resumed connection has still to send again, in order. */
  #redelivery: Array<OpenExchange<T>> = noArray()
  #redelivered = 0
  #window = 65535
  #counted = 0

  /** Publishes that the quota lets go out now. */
  get quota(): number {
    return this.#window - this.#counted
  }

  /** Exchanges that are not over. */
  get inFlight(): number {
    return this.#published.size + this.#released.size
  }

  /** Whether a resumed connection still has something to send again. */
  get redelivering(): boolean {
    return this.#redelivered < this.#redelivery.length
  }

  /** Inbound QoS 2 messages whose PUBREL has not come. */
  get held(): number {
    return this.#inbound.size
  }

  /** The exchange that awaits PUBCOMP for this identifier. */
  released(packetId: number): Exchange<T> | undefined {
    return this.#released.get(packetId)
  }

  /** The exchange that has this identifier. */
  exchange(packetId: number): Exchange<T> | undefined {
    return this.#published.get(packetId) ?? this.#released.get(packetId)
  }

  /** The exchanges that are not over, in no particular order. */
  *exchanges(): IterableIterator<Exchange<T>> {
    yield* this.#released.values()
    yield* this.#published.values()
  }

  /**
   * Takes over what an earlier process knew of the session, before the first connection: exchanges, the published ones in the
   * order of their first sending and the released ones in that of their PUBRECs, and the inbound identifiers whose PUBREC
   * was due. Gives the exchanges whose identifiers cannot be used, which are not taken over.
   */
  restore(exchanges: ReadonlyArray<Restored<T>>, inbound: Iterable<number>): Array<Restored<T>> {
    const rest: Array<Restored<T>> = []
    for (const restored of exchanges) {
      const { answer, publish, stage, token } = restored
      if (!this.ids.take(publish.packetId)) {
        rest.push(restored)
        continue
      }
      const exchange = new OpenExchange(publish.packetId, publish as Outgoing, publish.properties, token)
      exchange.stage = stage
      exchange.counted = false
      exchange.answer = answer
      if (stage === "published") this.#addPublished(exchange)
      else this.#addReleased(exchange)
    }
    for (const packetId of inbound) this.#inbound = ownMap(this.#inbound).set(packetId, true)
    return rest
  }

  // ---------------------------------------------------------------------------
  // connections
  // ---------------------------------------------------------------------------

  /**
   * A new connection whose server has the session: all exchanges are to be sent again, PUBRELs first, then PUBLISH packets
   * with DUP in their original order (MQTT-4.4.0-1, MQTT-4.6.0-1, MQTT-4.6.0-4).
   */
  resume(window: number): void {
    this.#begin(window)
    this.#redelivery = [...this.#released.values(), ...this.#published.values()]
    this.#redelivered = 0
  }

  /**
   * A new connection whose server has no session: all state goes (SS-07). Returns the exchanges that were open, in the order
   * of their first sending, PUBRELs included; their identifiers are free.
   */
  discard(window: number): Array<Exchange<T>> {
    this.#begin(window)
    const lost = [...this.#released.values(), ...this.#published.values()]
    for (const exchange of lost) this.ids.release(exchange.packetId)
    this.#published.clear()
    this.#released.clear()
    this.#inbound.clear()
    this.#redelivery = noArray()
    this.#redelivered = 0
    return lost
  }

  #begin(window: number): void {
    this.#window = window
    this.#counted = 0
    for (const exchange of this.#published.values()) exchange.counted = false
    for (const exchange of this.#released.values()) exchange.counted = false
  }

  // ---------------------------------------------------------------------------
  // outbound
  // ---------------------------------------------------------------------------

  /**
   * The next packet to be sent again, or undefined if there is none or the quota is used up. PUBRELs are not held back by
   * the quota but count towards it, which is the cautious reading of MQTT 5.0 §4.9 (FC-10).
   *
   * `refuse` may take a PUBLISH out of the session that the new connection's limits forbid; it is then settled by the caller.
   */
  nextRedelivery(refuse: (exchange: Exchange<T>) => boolean): Publish | Pubrel | undefined {
    while (this.#redelivered < this.#redelivery.length) {
      const exchange = this.#redelivery[this.#redelivered]!
      const id = exchange.packetId
      // An acknowledgement from before the drop may have ended it, or moved it on, in the meantime.
      const current = exchange.stage === "released" ? this.#released.get(id) : this.#published.get(id)
      if (current !== exchange || exchange.counted) {
        this.#redelivered++
        continue
      }
      if (exchange.stage === "released") {
        this.#redelivered++
        this.#count(exchange)
        return pubrel(id, 0)
      }
      if (refuse(exchange)) {
        this.#redelivered++
        this.#end(exchange)
        continue
      }
      if (this.quota <= 0) return undefined
      this.#redelivered++
      this.#count(exchange)
      return exchange.toPacket(true)
    }
    this.#redelivery = noArray()
    this.#redelivered = 0
    return undefined
  }

  /**
   * Starts an exchange: takes an identifier and a place in the quota, and keeps the message, which must not change. Gives the
   * identifier; undefined if it or the quota is used up, and then nothing has changed.
   */
  begin(message: Outgoing, properties: PublishProperties | undefined, token: T): number | undefined {
    if (this.quota <= 0) return undefined
    const packetId = this.ids.next()
    if (packetId === undefined) return undefined
    this.#addPublished(new OpenExchange(packetId, message, properties, token))
    this.#counted++
    return packetId
  }

  #addPublished(exchange: OpenExchange<T>): void {
    if (this.#published.isShared) this.#published = new ExchangeTable()
    this.#published.add(exchange)
  }

  #addReleased(exchange: OpenExchange<T>): void {
    if (this.#released.isShared) this.#released = new ExchangeTable()
    this.#released.add(exchange)
  }

  /** Takes back an exchange of which no byte was written. */
  retract(packetId: number): void {
    const exchange = this.#published.get(packetId)
    if (exchange !== undefined) this.#end(exchange)
  }

  /**
   * The plain acknowledgement of a message at this QoS came, without a reason: PUBACK, or PUBCOMP. Gives the token of the
   * exchange, which is over, or undefined where there is more to it than that, and then nothing has changed.
   */
  complete(packetId: number, qos: 1 | 2): T | undefined {
    const exchange = (qos === 1 ? this.#published : this.#released).get(packetId)
    if (exchange === undefined || exchange.qos !== qos || !exchange.counted || exchange.answer !== 0) return undefined
    this.#end(exchange)
    return exchange.token
  }

  /**
   * The plain PUBREC of a message came for the first time, without a reason: PUBREL is due. Gives the token of the exchange,
   * or undefined where there is more to it than that, and then nothing has changed.
   */
  release(packetId: number): T | undefined {
    const exchange = this.#published.get(packetId)
    if (exchange === undefined || exchange.qos !== 2 || !exchange.counted) return undefined
    this.#published.delete(exchange)
    exchange.stage = "released"
    this.#addReleased(exchange)
    return exchange.token
  }

  onPuback(packetId: number, reasonCode: number, reasonString: string | undefined): AckOutcome<T> {
    const exchange = this.#published.get(packetId)
    if (exchange === undefined) {
      return this.#released.has(packetId)
        ? wrongKind("PUBACK", "a QoS 2 message cannot be acknowledged by it")
        : ignored
    }
    if (exchange.qos !== 1) return wrongKind("PUBACK", "a QoS 2 message cannot be acknowledged by it")
    if (!exchange.counted) return ignored
    return this.#settle(exchange, reasonCode, reasonString)
  }

  onPubrec(packetId: number, reasonCode: number, reasonString: string | undefined): AckOutcome<T> {
    const exchange = this.#published.get(packetId)
    if (exchange === undefined) {
      const released = this.#released.get(packetId)
      if (released === undefined) return { _tag: "Release", packet: pubrel(packetId, 0x92) }
      // A second PUBREC is answered by PUBREL again (MQTT-4.3.3-4).
      return { _tag: "Release", packet: pubrel(packetId, 0) }
    }
    if (exchange.qos !== 2) return wrongKind("PUBREC", "a QoS 1 message cannot be acknowledged by it")
    if (!exchange.counted) return ignored
    if (reasonCode >= 0x80) return this.#settle(exchange, reasonCode, reasonString)
    this.#published.delete(exchange)
    exchange.stage = "released"
    exchange.answer = reasonCode
    this.#addReleased(exchange)
    return { _tag: "Release", packet: pubrel(packetId, 0) }
  }

  onPubcomp(packetId: number, _reasonCode: number, reasonString: string | undefined): AckOutcome<T> {
    const exchange = this.#released.get(packetId)
    if (exchange === undefined) {
      return this.#published.has(packetId) ? wrongKind("PUBCOMP", "the message was not released") : ignored
    }
    // 0x92 says that the server had forgotten the identifier: it has completed the message before.
    return this.#settle(exchange, exchange.answer, reasonString)
  }

  #settle(exchange: OpenExchange<T>, reasonCode: number, reasonString: string | undefined): AckOutcome<T> {
    this.#end(exchange)
    return { _tag: "Settled", settled: { exchange, reasonCode, reasonString } }
  }

  #count(exchange: OpenExchange<T>): void {
    exchange.counted = true
    this.#counted++
  }

  #end(exchange: OpenExchange<T>): void {
    const id = exchange.packetId
    if (exchange.stage === "published") this.#published.delete(exchange)
    else this.#released.delete(exchange)
    this.ids.release(id)
    if (exchange.counted) {
      exchange.counted = false
      this.#counted--
    }
  }

  // ---------------------------------------------------------------------------
  // inbound QoS 2
  // ---------------------------------------------------------------------------

  /** A QoS 2 PUBLISH came. */
  onPublish(packetId: number): InboundOutcome {
    const acknowledged = this.#inbound.get(packetId)
    if (acknowledged === undefined) {
      this.#inbound = ownMap(this.#inbound).set(packetId, false)
      return "deliver"
    }
    return acknowledged ? "again" : "held"
  }

  /** PUBREC of a delivered message is about to be sent. With `0x80` and above the identifier is free (QF-12). */
  onPubrecSent(packetId: number, reasonCode: number): void {
    if (reasonCode >= 0x80) this.#inbound.delete(packetId)
    else if (this.#inbound.has(packetId)) this.#inbound = ownMap(this.#inbound).set(packetId, true)
  }

  /** A message that was never handed over, and that the server will send again, is to be taken as new then. */
  forget(packetId: number): void {
    if (this.#inbound.get(packetId) === false) this.#inbound.delete(packetId)
  }

  /** PUBREL came; returns the reason code that PUBCOMP must have (QF-14). */
  onPubrel(packetId: number): 0x00 | 0x92 {
    return this.#inbound.delete(packetId) ? 0x00 : 0x92
  }
}

const pubrel = (packetId: number, reasonCode: number): Pubrel => ({
  _tag: "Pubrel",
  packetId,
  reasonCode,
  properties: undefined
})

const wrongKind = (packet: string, rule: string): AckOutcome<never> => ({
  _tag: "Fault",
  fault: Fault.make(packet, "packet identifier", rule, 0x82)
})

/**
 * @category constructors
 * @since 0.1.0
 */
export const make = <T>(): Session<T> => new Session<T>()
