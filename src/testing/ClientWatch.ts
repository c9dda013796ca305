/**
 * Looks over the client's shoulder: whether identifiers, the order of packets and the keep alive follow the rules on one
 * connection. It sees packets as they travel and decides nothing about them.
 *
 * @since 0.1.0
 */
import type { ClientPacket, ProtocolVersion, ServerPacket } from "../protocol/Packet.ts"
import type { BrokerSession, ClientExchange } from "./BrokerSession.ts"

/**
 * A breach of which the broker takes note; with a reason code it also ends the connection.
 *
 * @internal
 */
export interface Notice {
  readonly row: string
  readonly problem: string
  readonly reasonCode?: number | undefined
}

/** So little that all that a connection repeats fits between two numbers of the sequence. */
const replayStep = 1e-6

/**
 * @internal
 */
export class ClientWatch {
  private readonly connectionId: number
  private readonly version: ProtocolVersion
  private readonly session: BrokerSession
  private readonly resumed: boolean
  private readonly owed = { puback: [] as Array<number>, pubrec: [] as Array<number>, pubrel: [] as Array<number> }
  private lastReplay = 0
  private lastReleaseReplay = 0

  constructor(options: {
    readonly connectionId: number
    readonly version: ProtocolVersion
    readonly session: BrokerSession
    readonly resumed: boolean
    /** Whether limits of this connection may forbid the client to repeat something. */
    readonly limited: boolean
  }) {
    this.connectionId = options.connectionId
    this.version = options.version
    this.session = options.session
    this.resumed = options.resumed
    // What the limits of a connection forbid to repeat is over for the client (MQTT 5.0 §3.2.2.3.4 to 3.2.2.3.6).
    if (options.limited) {
      for (const exchange of this.session.exchanges.values()) exchange.mayBeGivenUp = exchange.kind !== "pubcomp"
    }
  }

  /** What leaves on the wire ends exchanges of the client, or makes it owe us an answer. */
  sent(packet: ServerPacket): void {
    const exchanges = this.session.exchanges
    switch (packet._tag) {
      case "Publish":
        if (packet.qos === 1) this.owed.puback.push(packet.packetId)
        if (packet.qos === 2) this.owed.pubrec.push(packet.packetId)
        return
      case "Pubrec": {
        if (packet.reasonCode >= 0x80) {
          exchanges.delete(packet.packetId)
          return
        }
        const exchange = exchanges.get(packet.packetId)
        // Where it is said again, the one before did not arrive.
        if (exchange?.kind === "pubrec" || exchange?.kind === "pubrel") {
          exchange.kind = "pubrel"
          exchange.recSequence = this.session.nextSequence()
        }
        if (!this.owed.pubrel.includes(packet.packetId)) this.owed.pubrel.push(packet.packetId)
        return
      }
      case "Puback":
      case "Pubcomp":
      case "Suback":
      case "Unsuback":
        exchanges.delete(packet.packetId)
        return
    }
  }

  arrived(packet: ClientPacket): Notice | undefined {
    switch (packet._tag) {
      case "Publish":
        return packet.qos === 0 ? undefined : this.publish(packet.packetId, packet.qos, packet.dup)
      case "Subscribe":
        return this.request(packet.packetId, "suback", "SUBSCRIBE")
      case "Unsubscribe":
        return this.request(packet.packetId, "unsuback", "UNSUBSCRIBE")
      case "Puback":
        return this.inOrder(this.owed.puback, packet.packetId, "OR-02c", "PUBACK")
      case "Pubrec":
        return this.inOrder(this.owed.pubrec, packet.packetId, "OR-03c", "PUBREC")
      case "Pubrel":
        return this.release(packet.packetId)
      default:
        return undefined
    }
  }

  private begin(packetId: number, kind: ClientExchange["kind"], isReplay = false): void {
    // What is repeated although it was answered keeps its place: behind what was repeated before it.
    if (isReplay) this.lastReplay += replayStep
    this.session.exchanges.set(packetId, {
      kind,
      sequence: isReplay ? this.lastReplay : this.session.nextSequence(),
      recSequence: 0,
      seenOn: this.connectionId,
      mayBeGivenUp: false
    })
  }

  private request(packetId: number, kind: "suback" | "unsuback", name: string): Notice | undefined {
    if (this.session.exchanges.has(packetId)) {
      return { row: "PI-02c", problem: `${name}: packet identifier ${packetId} is in use`, reasonCode: 0x82 }
    }
    this.begin(packetId, kind)
    return undefined
  }

  private publish(packetId: number, qos: 1 | 2, dup: boolean): Notice | undefined {
    const known = this.session.exchanges.get(packetId)
    const what = `PUBLISH ${packetId}`
    if (known === undefined) {
      if (dup && !this.resumed && this.version === 5) {
        return { row: "SS-07c", problem: `${what}: DUP in a session that has seen nothing before` }
      }
      const waiting = dup ? undefined : this.unrepeated()
      this.begin(packetId, qos === 1 ? "puback" : "pubrec", dup)
      if (waiting === undefined) return undefined
      return {
        row: "OR-05p",
        problem: `${what}: new, but ${waiting} of an earlier connection was not sent again before`
      }
    }
    if (known.kind === "suback" || known.kind === "unsuback") {
      return { row: "PI-02c", problem: `${what}: the identifier is in use`, reasonCode: 0x82 }
    }
    if (known.kind === "pubcomp") {
      return { row: "QF-09b", problem: `${what}: sent again after its PUBREL`, reasonCode: 0x82 }
    }
    if (known.seenOn === this.connectionId) {
      if (!dup) return { row: "PI-02c", problem: `${what}: the identifier is in use`, reasonCode: 0x82 }
      if (this.version === 5) return { row: "QF-24b", problem: `${what}: sent again on a live connection` }
      return undefined
    }
    known.seenOn = this.connectionId
    known.mayBeGivenUp = false
    if (!dup) return { row: "PB-01b", problem: `${what}: sent again without DUP` }
    const inOrder = known.sequence > this.lastReplay
    this.lastReplay = Math.max(this.lastReplay, known.sequence)
    return inOrder ? undefined : { row: "OR-01c", problem: `${what}: sent again out of its original order` }
  }

  /** A publish exchange of an earlier connection of which the client has said nothing on this one. */
  private unrepeated(): number | undefined {
    for (const [id, exchange] of this.session.exchanges) {
      if (exchange.seenOn !== this.connectionId && !exchange.mayBeGivenUp) return id
    }
    return undefined
  }

  private release(packetId: number): Notice | undefined {
    const known = this.session.exchanges.get(packetId)
    if (known === undefined) {
      if (this.session.incoming.has(packetId) || this.resumed || this.version === 4) return undefined
      return { row: "SS-07c", problem: `PUBREL ${packetId}: in a session that has seen nothing before` }
    }
    if (known.kind === "puback") {
      return { row: "PI-09p", problem: `PUBREL ${packetId}: for a QoS 1 PUBLISH`, reasonCode: 0x82 }
    }
    const isReplay = known.seenOn !== this.connectionId
    known.seenOn = this.connectionId
    known.kind = "pubcomp"
    if (!isReplay) return this.inOrder(this.owed.pubrel, packetId, "OR-04c", "PUBREL")
    const inOrder = known.recSequence > this.lastReleaseReplay
    this.lastReleaseReplay = Math.max(this.lastReleaseReplay, known.recSequence)
    return inOrder ? undefined : { row: "OR-04c", problem: `PUBREL ${packetId}: sent again out of order` }
  }

  private inOrder(owed: Array<number>, packetId: number, row: string, name: string): Notice | undefined {
    const index = owed.indexOf(packetId)
    if (index === -1) return undefined
    owed.splice(index, 1)
    return index === 0 ? undefined : { row, problem: `${name} ${packetId}: before that of an earlier packet` }
  }
}
