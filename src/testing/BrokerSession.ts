/**
 * What the broker of the kit remembers of a client, as plain data: subscriptions and unfinished exchanges in both directions.
 *
 * @since 0.1.0
 */
import type { PublishProperties, QoS } from "../protocol/Packet.ts"
import type { BrokerConnection } from "./BrokerConnection.ts"

/**
 * A message inside the broker.
 *
 * @internal
 */
export interface BrokerMessage {
  readonly topic: string
  readonly payload: Uint8Array
  readonly qos: QoS
  readonly retain: boolean
  /** As published, without topic alias. */
  readonly properties: PublishProperties | undefined
  /** Milliseconds of the Clock. */
  readonly expiresAt: number | undefined
  /** Client id, for No Local; `undefined` if the test published it. */
  readonly publisher: string | undefined
}

/**
 * @internal
 */
export interface BrokerSubscription {
  /** As the client wrote it. */
  readonly text: string
  readonly share: string | undefined
  readonly filter: string
  readonly qos: QoS
  readonly noLocal: boolean
  readonly retainAsPublished: boolean
  readonly identifier: number | undefined
}

/**
 * A message on its way to the client at QoS 1 or 2.
 *
 * @internal
 */
export interface Outgoing {
  readonly message: BrokerMessage
  readonly qos: 1 | 2
  readonly retain: boolean
  readonly identifiers: ReadonlyArray<number>
  packetId: number
  state: "queued" | "sent" | "released"
  /** The connection that it was last sent on. */
  sentOn: number
}

/**
 * An exchange that the client began and that we have not answered to the end.
 *
 * @internal
 */
export interface ClientExchange {
  kind: "puback" | "pubrec" | "pubrel" | "pubcomp" | "suback" | "unsuback"
  /** Order of the first arrival. */
  readonly sequence: number
  /** Order in which our PUBREC left. */
  recSequence: number
  /** The connection on which the client last sent something for it. */
  seenOn: number
  /** Whether limits of a connection may have kept the client from saying anything for it. */
  mayBeGivenUp: boolean
}

/**
 * @internal
 */
export class BrokerSession {
  readonly clientId: string
  readonly subscriptions = new Map<string, BrokerSubscription>()
  /** Sent and not finished, in the order of sending. */
  readonly inflight = new Map<number, Outgoing>()
  readonly queue: Array<Outgoing> = []
  /** Unfinished deliveries of earlier connections that this one has not repeated yet. */
  replay: Array<Outgoing> = []
  /** QoS 2 identifiers of the client between PUBLISH and PUBREL. */
  readonly incoming = new Set<number>()
  readonly exchanges = new Map<number, ClientExchange>()
  connection: BrokerConnection | undefined = undefined
  /** Seconds. */
  expiry = 0
  /** Connections that this session has seen. */
  connections = 0
  cancelExpiry: (() => void) | undefined = undefined
  /** A will that waits for its delay. */
  pendingWill: { readonly publish: () => void; readonly cancel: () => void } | undefined = undefined
  private lastPacketId = 0
  private lastSequence = 0

  constructor(clientId: string) {
    this.clientId = clientId
  }

  nextSequence(): number {
    return ++this.lastSequence
  }

  nextPacketId(): number {
    do this.lastPacketId = this.lastPacketId === 65_535 ? 1 : this.lastPacketId + 1
    while (this.inflight.has(this.lastPacketId))
    return this.lastPacketId
  }

  /** The client is back: what was under way has to be sent again, subscriptions in flight are no part of the session. */
  attach(connection: BrokerConnection): void {
    this.connection = connection
    this.connections++
    this.replay = [...this.inflight.values()]
    this.cancelExpiry?.()
    this.cancelExpiry = undefined
    for (const [id, exchange] of this.exchanges) {
      if (exchange.kind === "suback" || exchange.kind === "unsuback") this.exchanges.delete(id)
    }
  }
}
