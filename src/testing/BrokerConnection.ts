/**
 * One connection at the broker of the kit: bytes to packets and back, the handshake, and the answers to each packet.
 *
 * It knows its own client; what concerns others (routing, sessions, wills) is asked of `BrokerCore`. All of it is
 * synchronous: it is driven by the bytes that arrive and by timers.
 *
 * @since 0.1.0
 */
import type {
  Auth,
  ClientPacket,
  Connack,
  ConnackProperties,
  Connect,
  Disconnect,
  ProtocolVersion,
  Publish,
  ServerPacket,
  Subscribe,
  Unsubscribe,
  Will
} from "../protocol/Packet.ts"
import type { BrokerCore, ConnackOverride } from "./BrokerCore.ts"
import type { BrokerSession } from "./BrokerSession.ts"
import { hasWildcard, parseFilter } from "./BrokerTopics.ts"
import { ClientWatch } from "./ClientWatch.ts"
import type { Notice } from "./ClientWatch.ts"
import { DeliveryWindow } from "./DeliveryWindow.ts"
import * as Framer from "./Framer.ts"
import { clockNoise } from "./MemoryLink.ts"
import type { MemoryLink } from "./MemoryLink.ts"
import type { Peer } from "./MemoryNetwork.ts"
import type { Cut } from "./PacketRules.ts"
import { PacketWriter } from "./PacketWriter.ts"
import * as WireCodec from "./WireCodec.ts"

const never = 0xffff_ffff

/**
 * @internal
 */
export class BrokerConnection {
  readonly id: number
  readonly peer: Peer
  readonly link: MemoryLink
  private readonly core: BrokerCore
  private readonly framer = Framer.make()
  state: "connecting" | "authenticating" | "connected" | "leaving" | "closed" = "connecting"
  connect: Connect | undefined = undefined
  connectedAt = 0
  clientId = ""
  session: BrokerSession | undefined = undefined
  will: Will | undefined = undefined
  /** Cut into a black hole by a rule: what is lost then stays lost, so nothing may come through behind it, ever. */
  isCutOff = false
  /** What CONNACK said; it is what the client is held to. */
  announced: ConnackProperties = {}
  private override: ConnackOverride | undefined = undefined
  private watch: ClientWatch | undefined = undefined
  private readonly writer: PacketWriter
  private readonly aliasesIn = new Map<number, string>()
  /** QoS 1 and 2 publishes of the client without our last ack. */
  private readonly unacked = new Set<number>()
  private deliveries: DeliveryWindow | undefined = undefined
  private authRound = 0
  private reauthenticating = false
  private lastReceived: number
  private cancelKeepAlive: (() => void) | undefined = undefined

  constructor(core: BrokerCore, peer: Peer, link: MemoryLink) {
    this.core = core
    this.peer = peer
    this.link = link
    this.id = peer.id
    this.lastReceived = core.host.now()
    this.writer = new PacketWriter(this, core, {
      sent: (packet) => this.onSent(packet),
      // A message too large for the client counts as delivered (MQTT 5.0 §3.1.2.11.4).
      unsendable: (packetId) => this.deliveries?.finish(packetId)
    })
  }

  get version(): ProtocolVersion {
    return this.connect?.protocolVersion ?? 5
  }

  get isConnected(): boolean {
    return this.state === "connected"
  }

  // ---------------------------------------------------------------------------
  // from the wire
  // ---------------------------------------------------------------------------

  receive(chunk: Uint8Array): void {
    if (this.isCutOff) return
    this.lastReceived = this.core.host.now()
    for (const frame of this.framer.push(chunk)) {
      if (this.state === "closed" || this.isCutOff) return
      if (frame === "malformed") this.notice({ row: "VB-02p", problem: "Remaining Length", reasonCode: 0x81 })
      else this.receiveFrame(frame)
    }
  }

  /** The client's end is gone. */
  lost(): void {
    this.close(undefined, true)
  }

  private receiveFrame(frame: Uint8Array): void {
    if (this.state === "leaving") {
      this.notice({ row: "DC-06b", problem: `a packet after DISCONNECT (type ${frame[0]! >> 4})` })
      return
    }
    if (this.state === "connecting" && frame[0]! >> 4 !== 1) {
      this.notice({ row: "CN-01c", problem: "the first packet is not CONNECT", reasonCode: 0x82 })
      return
    }
    if (this.isConnected && frame.length > (this.announced.maximumPacketSize ?? Infinity)) {
      this.notice({ row: "CK-14c", problem: `a packet of ${frame.length} bytes`, reasonCode: 0x95 })
      return
    }
    const packet = WireCodec.decode(this.connect?.protocolVersion, frame)
    if (packet._tag === "Broken") this.notice(packet)
    else this.arrive(packet, frame)
  }

  private arrive(packet: ClientPacket, frame: Uint8Array): void {
    const clientId = packet._tag === "Connect" ? packet.clientId : this.clientId
    const action = this.core.takeRule("client", clientId, packet)
    const fate = {
      Hold: "held",
      Delay: "delayed",
      Drop: "dropped",
      Cut: "cut",
      Corrupt: "taken",
      Replace: "taken"
    } as const
    this.core.record({
      from: "client",
      clientId,
      connectionId: this.id,
      packet,
      bytes: frame,
      fate: action === undefined ? "taken" : fate[action._tag]
    })
    if (action?._tag === "Cut" && action.when === "before") return this.cut(action.how)
    if (!this.checkArrival(packet)) return
    const go = () => {
      if (this.state !== "closed") this.process(packet)
    }
    switch (action?._tag) {
      case "Hold":
        return action.hold(packet, go)
      case "Delay":
        this.core.host.timer(action.millis, go)
        return
      case "Drop":
        return
      case "Cut":
        // The packet is taken, and every answer to it is lost.
        if (action.how === "blackHole") this.cut(action.how)
        else this.writer.mute()
        go()
        return this.cut(action.how)
      default:
        return go()
    }
  }

  /** Whether the packet may be handled. */
  private checkArrival(packet: ClientPacket): boolean {
    const notice = this.watch?.arrived(packet)
    if (notice !== undefined) this.notice(notice)
    if (this.isConnected) this.checkSilence()
    return this.state !== "closed"
  }

  private checkSilence(): void {
    const keepAlive = this.keepAliveSeconds * 1_000
    const silence = this.link.takeLongestSilence()
    // Who has not seen CONNACK does not ping.
    if (keepAlive > 0 && this.link.hasBeenPulled && silence > keepAlive + clockNoise) {
      const problem = `silent for ${silence.toFixed(1)} ms with a keep alive of ${keepAlive} ms`
      this.notice({ row: "KA-01c", problem })
    }
  }

  private process(packet: ClientPacket): void {
    if (this.state === "authenticating" && packet._tag !== "Auth" && packet._tag !== "Disconnect") {
      this.notice({ row: "CN-30c", problem: `${WireCodec.nameOf(packet)} before CONNACK`, reasonCode: 0x82 })
      return
    }
    switch (packet._tag) {
      case "Connect":
        return this.onConnect(packet)
      case "Publish":
        return this.onPublish(packet)
      case "Puback":
        return this.deliveries!.acknowledged(packet.packetId, 1)
      case "Pubrec":
        return this.deliveries!.received(packet.packetId, packet.reasonCode)
      case "Pubrel":
        return this.onPubrel(packet.packetId)
      case "Pubcomp":
        return this.deliveries!.acknowledged(packet.packetId, 2)
      case "Subscribe":
        return this.onSubscribe(packet)
      case "Unsubscribe":
        return this.onUnsubscribe(packet)
      case "Pingreq":
        return this.send({ _tag: "Pingresp" })
      case "Disconnect":
        return this.onDisconnect(packet)
      case "Auth":
        return this.onAuth(packet)
    }
  }

  send(packet: ServerPacket): void {
    this.writer.send(packet)
  }

  private onSent(packet: ServerPacket): void {
    this.watch?.sent(packet)
    if (packet._tag === "Connack" && this.core.host.now() > this.connectedAt) this.link.resetSilence()
    if (
      packet._tag === "Puback" || packet._tag === "Pubcomp" || (packet._tag === "Pubrec" && packet.reasonCode >= 0x80)
    ) {
      this.unacked.delete(packet.packetId)
    }
  }

  // ---------------------------------------------------------------------------
  // ends
  // ---------------------------------------------------------------------------

  /** Takes note of a breach and, if it carries a reason code, ends the connection. */
  notice(notice: Notice): void {
    this.core.violate(this, notice)
    if (notice.reasonCode === undefined) return
    if (this.isConnected) this.disconnect(notice.reasonCode)
    else if (this.connect?.protocolVersion === 5) this.refuse(notice.reasonCode)
    else this.close("close", true)
  }

  /** DISCONNECT where the version has one, then an orderly close. */
  disconnect(reasonCode: number, properties: Disconnect["properties"] = undefined): void {
    if (this.version === 5 && this.isConnected) this.send({ _tag: "Disconnect", reasonCode, properties })
    this.close("close", true)
  }

  cut(how: Cut): void {
    if (how !== "blackHole") return this.close(how === "fin" ? "close" : "reset", true)
    this.link.setDark("both", true)
    this.isCutOff = true
  }

  /** Ends the connection as seen from here; `undefined` if the client's end is gone already. */
  close(how: "close" | "reset" | undefined, publishWill: boolean): void {
    if (this.state === "closed") return
    const wasLeaving = this.state === "leaving"
    this.state = "closed"
    this.cancelKeepAlive?.()
    this.link.end(how ?? "close")
    if (!wasLeaving) this.core.ended(this, publishWill)
    this.core.host.changed()
  }

  private refuse(reasonCode: number, properties: ConnackProperties = {}): void {
    this.send({ _tag: "Connack", sessionPresent: false, reasonCode, properties })
    this.will = undefined
    this.close("close", false)
  }

  private onDisconnect(packet: Disconnect): void {
    const expiry = packet.properties?.sessionExpiryInterval
    if (this.session !== undefined && expiry !== undefined) {
      if (expiry > 0 && (this.connect?.properties?.sessionExpiryInterval ?? 0) === 0) {
        const problem = `DISCONNECT: session expiry ${expiry} where CONNECT said 0`
        return this.notice({ row: "DC-09p", problem, reasonCode: 0x82 })
      }
      this.session.expiry = expiry
    }
    if (packet.reasonCode === 0) this.will = undefined
    this.state = "leaving"
    this.cancelKeepAlive?.()
    // The half-close keeps us reading, so that a packet after DISCONNECT is seen.
    this.link.end("fin")
    this.core.ended(this, true)
  }

  // ---------------------------------------------------------------------------
  // handshake
  // ---------------------------------------------------------------------------

  private onConnect(packet: Connect): void {
    if (this.state !== "connecting") {
      return this.notice({ row: "CN-02c", problem: "a second CONNECT", reasonCode: 0x82 })
    }
    this.connect = packet
    this.clientId = packet.clientId
    this.will = packet.will
    if (packet.protocolVersion === 4 && packet.clientId === "" && !packet.cleanStart) {
      this.core.violate(this, { row: "CN-20c", problem: "CONNECT: no client identifier, and no clean session" })
      return this.refuse(2)
    }
    const refusal = this.core.takeRefusal()
    if (refusal !== undefined) return this.refuse(refusal.reasonCode, refusal.properties)
    this.override = this.core.takeConnackOverride()
    if (packet.protocolVersion === 5) {
      this.announced = { ...this.core.options.connack, ...this.override?.properties }
    }
    const code = this.core.options.authenticate?.(packet) ?? 0
    if (code !== 0) return this.refuse(code)
    if ((packet.will?.qos ?? 0) > (this.announced.maximumQoS ?? 2)) return this.refuse(0x9b)
    if (packet.will?.retain === true && this.announced.retainAvailable === false) return this.refuse(0x9a)
    if (packet.properties?.authenticationMethod === undefined) return this.accept(undefined)
    if (this.core.options.enhancedAuth === undefined) return this.refuse(0x8c)
    this.authStep(packet.properties.authenticationData)
  }

  private authStep(data: Uint8Array | undefined): void {
    const method = this.connect!.properties!.authenticationMethod!
    const isFirst = this.state !== "connected"
    const reply = this.core.options.enhancedAuth!({
      phase: isFirst ? "connect" : "reauthenticate",
      clientId: this.clientId,
      method,
      data,
      round: ++this.authRound
    })
    const properties = { authenticationMethod: method, authenticationData: "data" in reply ? reply.data : undefined }
    if (reply._tag === "Continue") {
      if (isFirst) this.state = "authenticating"
      return this.send({ _tag: "Auth", reasonCode: 0x18, properties })
    }
    if (reply._tag === "Failure") return isFirst ? this.refuse(reply.reasonCode) : this.disconnect(reply.reasonCode)
    if (isFirst) return this.accept(properties)
    this.reauthenticating = false
    this.send({ _tag: "Auth", reasonCode: 0x00, properties })
  }

  private onAuth(packet: Auth): void {
    const method = this.connect?.properties?.authenticationMethod
    if (method === undefined) {
      return this.notice({ row: "AU-10c", problem: "AUTH, but CONNECT had no method", reasonCode: 0x82 })
    }
    if (packet.properties?.authenticationMethod !== method) {
      return this.notice({ row: "AU-08b", problem: "AUTH with another method than CONNECT", reasonCode: 0x82 })
    }
    const isReauthentication = packet.reasonCode === 0x19
    if (isReauthentication !== (this.isConnected && !this.reauthenticating)) {
      const row = isReauthentication && this.isConnected ? "AU-17p" : this.isConnected ? "AU-11c" : "AU-06c"
      const problem = `AUTH 0x${packet.reasonCode.toString(16)} out of turn`
      return this.notice({ row, problem, reasonCode: 0x82 })
    }
    if (isReauthentication) {
      this.reauthenticating = true
      this.authRound = 0
    }
    this.authStep(packet.properties.authenticationData)
  }

  private accept(auth: ConnackProperties | undefined): void {
    const connect = this.connect!
    const assigned = connect.clientId === "" ? this.core.assignClientId() : undefined
    this.clientId = assigned ?? connect.clientId
    const { resumed, session } = this.core.openSession(this, connect.cleanStart)
    const isV5 = connect.protocolVersion === 5
    const properties: ConnackProperties = {
      ...(isV5 && assigned !== undefined ? { assignedClientIdentifier: assigned } : {}),
      ...auth,
      ...this.announced
    }
    this.session = session
    this.state = "connected"
    this.connectedAt = this.core.host.now()
    session.expiry = isV5
      ? this.announced.sessionExpiryInterval ?? connect.properties?.sessionExpiryInterval ?? 0
      : connect.cleanStart
      ? 0
      : never
    this.watch = new ClientWatch({
      connectionId: this.id,
      version: connect.protocolVersion,
      session,
      resumed,
      limited: this.announced.maximumQoS !== undefined || this.announced.retainAvailable === false ||
        this.announced.maximumPacketSize !== undefined
    })
    session.attach(this)
    this.deliveries = new DeliveryWindow(this, this.core, session)
    this.startKeepAlive()
    const connack: Connack = {
      _tag: "Connack",
      sessionPresent: this.override?.sessionPresent ?? resumed,
      reasonCode: this.override?.reasonCode ?? 0,
      properties: isV5 ? properties : undefined
    }
    this.send(connack)
    if (isV5 ? connack.reasonCode >= 0x80 : connack.reasonCode !== 0) return this.close("close", false)
    this.core.host.changed()
    this.pump()
  }

  // ---------------------------------------------------------------------------
  // keep alive
  // ---------------------------------------------------------------------------

  get keepAliveSeconds(): number {
    return this.announced.serverKeepAlive ?? this.connect?.keepAlive ?? 0
  }

  private startKeepAlive(): void {
    if (this.announced.serverKeepAlive !== undefined || this.authRound > 0) this.link.resetSilence()
    else this.link.takeLongestSilence()
    const patience = this.keepAliveSeconds * 1_500
    if (patience === 0) return
    const wait = (millis: number) => {
      this.cancelKeepAlive = this.core.host.timer(millis, () => {
        const silence = this.core.host.now() - this.lastReceived
        // A broker that does not read cannot know.
        if (this.link.isStalled) return wait(patience)
        if (silence < patience - clockNoise) return wait(patience - silence)
        this.checkSilence()
        this.disconnect(0x8d)
      })
    }
    wait(patience)
  }

  // ---------------------------------------------------------------------------
  // the client's publishes
  // ---------------------------------------------------------------------------

  private onPublish(packet: Publish): void {
    const topic = this.resolveTopic(packet)
    if (topic === undefined) return
    if (packet.qos > (this.announced.maximumQoS ?? 2)) {
      return this.notice({ row: "CK-08c", problem: `PUBLISH with QoS ${packet.qos}`, reasonCode: 0x9b })
    }
    if (packet.retain && this.announced.retainAvailable === false) {
      return this.notice({ row: "CK-12c", problem: "PUBLISH with RETAIN", reasonCode: 0x9a })
    }
    if (packet.qos === 0) {
      if (this.authorize(packet, topic) === 0) this.core.publish(this.toMessage(packet, topic))
      return
    }
    this.unacked.add(packet.packetId)
    if (this.version === 5 && this.unacked.size > (this.announced.receiveMaximum ?? 65_535)) {
      const problem = `${this.unacked.size} unacknowledged publishes`
      return this.notice({ row: "FC-02c", problem, reasonCode: 0x93 })
    }
    this.answerPublish(packet, topic)
  }

  private answerPublish(packet: Publish, topic: string): void {
    const packetId = packet.packetId
    const incoming = this.session!.incoming
    const reasonCode = incoming.has(packetId) && packet.qos === 2 ? 0 : this.authorize(packet, topic)
    const isNew = packet.qos === 1 || !incoming.has(packetId)
    const found = isNew && reasonCode === 0 ? this.core.publish(this.toMessage(packet, topic)) : 1
    const isLonely = this.version === 5 && found === 0 && this.core.options.noMatchingSubscribers === true
    // On 3.1.1 a publish cannot be refused: it is acknowledged and forgotten (MQTT-3.3.5-2).
    const code = this.version === 4 ? 0 : isLonely ? 0x10 : reasonCode
    if (packet.qos === 2 && code < 0x80) incoming.add(packetId)
    this.send({ _tag: packet.qos === 1 ? "Puback" : "Pubrec", packetId, reasonCode: code, properties: undefined })
  }

  private authorize(packet: Publish, topic: string): number {
    return this.core.options.authorizePublish?.(this.clientId, { ...packet, topic }) ?? 0
  }

  private resolveTopic(packet: Publish): string | undefined {
    const alias = packet.properties?.topicAlias
    if (alias === undefined) return packet.topic
    const maximum = this.announced.topicAliasMaximum ?? 0
    if (alias > maximum) {
      const row = maximum === 0 ? "CK-18c" : "CK-17c"
      this.notice({ row, problem: `topic alias ${alias} of at most ${maximum}`, reasonCode: 0x94 })
      return undefined
    }
    if (packet.topic !== "") this.aliasesIn.set(alias, packet.topic)
    const topic = this.aliasesIn.get(alias)
    if (topic === undefined) {
      this.notice({ row: "PB-12b", problem: `topic alias ${alias} means nothing on this connection`, reasonCode: 0x82 })
    }
    return topic
  }

  private toMessage(packet: Publish, topic: string) {
    const { topicAlias: _alias, ...properties } = packet.properties ?? {}
    return this.core.toMessage({ ...packet, topic, properties }, this.clientId)
  }

  private onPubrel(packetId: number): void {
    const known = this.session!.incoming.delete(packetId)
    const reasonCode = known || this.version === 4 ? 0 : 0x92
    this.send({ _tag: "Pubcomp", packetId, reasonCode, properties: undefined })
  }

  /** Sends what waits for this client, as far as its window goes. */
  pump(): void {
    this.deliveries?.pump()
  }

  // ---------------------------------------------------------------------------
  // subscriptions
  // ---------------------------------------------------------------------------

  private onSubscribe(packet: Subscribe): void {
    const session = this.session!
    const identifier = packet.properties?.subscriptionIdentifier
    const retained: Array<() => void> = []
    const reasonCodes = packet.subscriptions.map((request) => {
      const refusal = this.checkSubscription(request.filter, identifier) ??
        this.core.options.authorizeSubscribe?.(this.clientId, request) ?? 0
      if (refusal !== 0) return this.version === 5 ? refusal : 0x80
      const { filter, share } = parseFilter(this.version, request.filter)
      const isNew = !session.subscriptions.has(request.filter)
      const subscription = { ...request, text: request.filter, filter, share, identifier }
      session.subscriptions.set(request.filter, subscription)
      const wantsRetained = request.retainHandling === 0 || (request.retainHandling === 1 && isNew)
      if (share === undefined && wantsRetained) retained.push(() => this.core.sendRetained(session, subscription))
      return request.qos
    })
    this.send({ _tag: "Suback", packetId: packet.packetId, reasonCodes, properties: undefined })
    for (const sendRetained of retained) sendRetained()
    this.core.host.changed()
  }

  private checkSubscription(filter: string, identifier: number | undefined): number | undefined {
    const refuse = (row: string, problem: string, code: number) => {
      this.notice({ row, problem })
      return code
    }
    const { share } = parseFilter(this.version, filter)
    if (this.announced.wildcardSubscriptionAvailable === false && hasWildcard(filter)) {
      return refuse("CK-20p", `SUBSCRIBE to the wildcard "${filter}"`, 0xa2)
    }
    if (this.announced.sharedSubscriptionAvailable === false && share !== undefined) {
      return refuse("CK-22p", `SUBSCRIBE to the shared subscription "${filter}"`, 0x9e)
    }
    if (this.announced.subscriptionIdentifierAvailable === false && identifier !== undefined) {
      return refuse("CK-21p", "SUBSCRIBE with a Subscription Identifier", 0xa1)
    }
    return undefined
  }

  private onUnsubscribe(packet: Unsubscribe): void {
    const codes = packet.filters.map((filter) => this.session!.subscriptions.delete(filter) ? 0x00 : 0x11)
    const reasonCodes = this.version === 5 ? codes : []
    this.send({ _tag: "Unsuback", packetId: packet.packetId, reasonCodes, properties: undefined })
    this.core.host.changed()
  }
}
