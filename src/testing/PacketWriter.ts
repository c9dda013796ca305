/**
 * The way of a packet from the broker of the kit to the wire: rules of the test, limits of the client, topic aliases, the log.
 *
 * @since 0.1.0
 */
import type { Publish, ServerPacket } from "../protocol/Packet.ts"
import type { BrokerConnection } from "./BrokerConnection.ts"
import type { BrokerCore } from "./BrokerCore.ts"
import type { RuleAction } from "./PacketRules.ts"
import * as WireCodec from "./WireCodec.ts"

/**
 * @internal
 */
export class PacketWriter {
  private readonly connection: BrokerConnection
  private readonly core: BrokerCore
  private readonly on: {
    readonly sent: (packet: ServerPacket) => void
    /** A PUBLISH of this identifier is larger than the client takes. */
    readonly unsendable: (packetId: number) => void
  }
  private muted = false
  /** Packets that may not overtake a CONNACK that is held or late. */
  private behindConnack: Array<ServerPacket> | undefined = undefined
  private readonly aliases = new Map<string, number>()

  constructor(connection: BrokerConnection, core: BrokerCore, on: PacketWriter["on"]) {
    this.connection = connection
    this.core = core
    this.on = on
  }

  /** From now on everything is lost on its way. */
  mute(): void {
    this.muted = true
  }

  send(packet: ServerPacket): void {
    if (this.behindConnack !== undefined) {
      this.behindConnack.push(packet)
      return
    }
    // A packet that goes nowhere takes no rule.
    if (this.connection.link.isServerGone) return
    const action = this.core.takeRule("broker", this.connection.clientId, packet)
    if (action === undefined) return this.emit(packet)
    const isLate = action._tag === "Hold" || action._tag === "Delay"
    if (packet._tag === "Connack" && isLate) this.behindConnack = []
    this.sendBy(action, packet, () => {
      const behind = packet._tag === "Connack" ? this.behindConnack : undefined
      if (behind !== undefined) this.behindConnack = undefined
      this.emit(packet)
      for (const next of behind ?? []) this.send(next)
    })
  }

  private sendBy(action: RuleAction, packet: ServerPacket, go: () => void): void {
    switch (action._tag) {
      case "Hold":
        return action.hold(packet, go)
      case "Delay":
        this.core.host.timer(action.millis, go)
        return
      case "Drop":
        return
      case "Cut":
        if (action.when === "after") this.emit(packet)
        return this.connection.cut(action.how)
      case "Corrupt":
        return this.emit(packet, action.corrupt)
      case "Replace":
        for (const other of action.replace(packet)) {
          if (other instanceof Uint8Array) this.connection.link.send(other)
          else this.emit(other)
        }
    }
  }

  /** Writes the packet, within what the client said it takes. */
  private emit(packet: ServerPacket, corrupt: (bytes: Uint8Array) => Uint8Array = (bytes) => bytes): void {
    const { clientId, connect, id, link, version } = this.connection
    if (this.muted || link.isServerGone) return
    const limit = connect?.properties?.maximumPacketSize ?? Infinity
    let sending = packet._tag === "Publish" ? this.withAlias(packet) : packet
    let bytes = WireCodec.encode(version, sending)
    if (bytes.length > limit && "properties" in sending && sending._tag !== "Publish") {
      const { reasonString: _reason, userProperties: _user, ...properties } = sending.properties ?? {}
      sending = { ...sending, properties } as ServerPacket
      bytes = WireCodec.encode(version, sending)
    }
    if (bytes.length > limit) {
      if (packet._tag === "Publish") this.on.unsendable(packet.packetId)
      return
    }
    if (sending._tag === "Publish" && sending.properties?.topicAlias !== undefined && sending.topic !== "") {
      this.aliases.set(sending.topic, sending.properties.topicAlias)
    }
    this.core.record({ from: "broker", clientId, connectionId: id, packet: sending, bytes, fate: "taken" })
    this.on.sent(packet)
    if (!this.connection.isCutOff) link.send(corrupt(bytes))
  }

  private withAlias(packet: Publish): Publish {
    const maximum = this.connection.connect?.properties?.topicAliasMaximum ?? 0
    if (this.connection.version === 4 || maximum === 0 || this.core.options.useTopicAliases === false) return packet
    const known = this.aliases.get(packet.topic)
    if (known === undefined && this.aliases.size >= maximum) return packet
    const properties = { ...packet.properties, topicAlias: known ?? this.aliases.size + 1 }
    return known === undefined ? { ...packet, properties } : { ...packet, topic: "", properties }
  }
}
