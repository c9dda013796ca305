/**
 * Messages at QoS 1 and 2 on their way to one client over one connection, within the window that the client allows.
 *
 * @since 0.1.0
 */
import type { BrokerConnection } from "./BrokerConnection.ts"
import type { BrokerCore } from "./BrokerCore.ts"
import type { BrokerSession, Outgoing } from "./BrokerSession.ts"

/**
 * @internal
 */
export class DeliveryWindow {
  private readonly connection: BrokerConnection
  private readonly core: BrokerCore
  private readonly session: BrokerSession
  private readonly size: number
  /** Deliveries on this connection without the client's last ack. */
  private flying = 0

  constructor(connection: BrokerConnection, core: BrokerCore, session: BrokerSession) {
    this.connection = connection
    this.core = core
    this.session = session
    this.size = connection.connect?.properties?.receiveMaximum ?? core.options.maxInflight ?? 65_535
  }

  /** Sends all that the window lets go: first what an earlier connection left open, in its order. */
  pump(): void {
    while (this.flying < this.size && this.connection.isConnected) {
      const repeated = this.session.replay.shift()
      if (repeated !== undefined) {
        const isOpen = this.session.inflight.get(repeated.packetId) === repeated
        if (isOpen) this.deliver(repeated, repeated.state === "sent")
        continue
      }
      const next = this.session.queue.shift()
      if (next === undefined) return
      if (this.core.isExpired(next.message)) continue
      next.packetId = this.session.nextPacketId()
      next.state = "sent"
      this.session.inflight.set(next.packetId, next)
      this.deliver(next, false)
    }
  }

  private deliver(outgoing: Outgoing, dup: boolean): void {
    this.flying++
    outgoing.sentOn = this.connection.id
    const { packetId } = outgoing
    if (outgoing.state === "released") this.release(packetId, 0)
    else this.connection.send(this.core.toPublish(this.connection.version, outgoing, { dup, packetId }))
  }

  private release(packetId: number, reasonCode: number): void {
    const code = this.connection.version === 4 ? 0 : reasonCode
    this.connection.send({ _tag: "Pubrel", packetId, reasonCode: code, properties: undefined })
  }

  /** The delivery is over, whatever became of it. */
  finish(packetId: number): void {
    const outgoing = this.session.inflight.get(packetId)
    if (outgoing === undefined) return
    this.session.inflight.delete(packetId)
    if (outgoing.sentOn === this.connection.id) this.flying--
  }

  /** The last ack of a delivery: PUBACK at QoS 1, PUBCOMP at QoS 2. */
  acknowledged(packetId: number, qos: 1 | 2): void {
    const what = `${qos === 1 ? "PUBACK" : "PUBCOMP"} ${packetId}`
    const outgoing = this.session.inflight.get(packetId)
    if (outgoing === undefined) {
      return this.connection.notice({ row: "PI-04b", problem: `${what}: nothing of ours is under way` })
    }
    if (outgoing.qos !== qos || (qos === 2 && outgoing.state !== "released")) {
      return this.connection.notice({ row: "PI-09p", problem: `${what}: not the answer that is due` })
    }
    this.finish(packetId)
    this.core.host.changed()
    this.pump()
  }

  /** PUBREC. */
  received(packetId: number, reasonCode: number): void {
    const outgoing = this.session.inflight.get(packetId)
    if (outgoing === undefined) {
      this.connection.notice({ row: "PI-04b", problem: `PUBREC ${packetId}: nothing of ours is under way` })
      return this.release(packetId, 0x92)
    }
    if (outgoing.qos !== 2) {
      return this.connection.notice({ row: "PI-09p", problem: `PUBREC ${packetId}: for a QoS 1 PUBLISH` })
    }
    if (reasonCode >= 0x80) {
      this.finish(packetId)
      return this.pump()
    }
    outgoing.state = "released"
    this.release(packetId, 0)
  }
}
