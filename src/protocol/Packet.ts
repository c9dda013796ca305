/**
 * MQTT control packets as plain data, one tagged interface per packet type, for versions 3.1.1 and 5.0 alike.
 *
 * A field that exists in one version only is empty in the other: `properties` is `undefined` on 3.1.1, and reason codes
 * are `0x00` where 3.1.1 has none. Nothing here has behaviour; bytes are the business of `PacketCodec`.
 *
 * @since 0.1.0
 */

/**
 * The protocol level of a connection: `4` is MQTT 3.1.1, `5` is MQTT 5.0.
 *
 * @category models
 * @since 0.1.0
 */
export type ProtocolVersion = 4 | 5

/**
 * Quality of service: `0` at most once, `1` at least once, `2` exactly once.
 *
 * @category models
 * @since 0.1.0
 */
export type QoS = 0 | 1 | 2

/**
 * Name and value pairs in wire order; names may repeat (MQTT 5.0 §1.5.7).
 *
 * @category models
 * @since 0.1.0
 */
export type UserProperties = ReadonlyArray<readonly [name: string, value: string]>

/**
 * Properties of CONNECT (MQTT 5.0 §3.1.2.11).
 *
 * @category models
 * @since 0.1.0
 */
export interface ConnectProperties {
  /** Seconds; `0xFFFFFFFF` means that the session never expires. */
  readonly sessionExpiryInterval?: number | undefined
  readonly receiveMaximum?: number | undefined
  /** Bytes of a whole packet, fixed header included. */
  readonly maximumPacketSize?: number | undefined
  readonly topicAliasMaximum?: number | undefined
  readonly requestResponseInformation?: boolean | undefined
  readonly requestProblemInformation?: boolean | undefined
  readonly userProperties?: UserProperties | undefined
  readonly authenticationMethod?: string | undefined
  readonly authenticationData?: Uint8Array | undefined
}

/**
 * Properties of a will message (MQTT 5.0 §3.1.3.2).
 *
 * @category models
 * @since 0.1.0
 */
export interface WillProperties {
  /** Seconds. */
  readonly willDelayInterval?: number | undefined
  readonly payloadFormatIndicator?: 0 | 1 | undefined
  /** Seconds. */
  readonly messageExpiryInterval?: number | undefined
  readonly contentType?: string | undefined
  readonly responseTopic?: string | undefined
  readonly correlationData?: Uint8Array | undefined
  readonly userProperties?: UserProperties | undefined
}

/**
 * The message that the server publishes when the connection ends without DISCONNECT.
 *
 * @category models
 * @since 0.1.0
 */
export interface Will {
  readonly topic: string
  readonly payload: Uint8Array
  readonly qos: QoS
  readonly retain: boolean
  readonly properties: WillProperties | undefined
}

/**
 * CONNECT, the first packet of every connection (§3.1).
 *
 * @category models
 * @since 0.1.0
 */
export interface Connect {
  readonly _tag: "Connect"
  readonly protocolVersion: ProtocolVersion
  readonly clientId: string
  /** Clean Start on 5.0, Clean Session on 3.1.1. */
  readonly cleanStart: boolean
  /** Seconds, 0 to 65,535; 0 turns keep alive off. */
  readonly keepAlive: number
  readonly username: string | undefined
  readonly password: Uint8Array | undefined
  readonly will: Will | undefined
  readonly properties: ConnectProperties | undefined
}

/**
 * Properties of CONNACK (MQTT 5.0 §3.2.2.3); absent ones are `undefined`, defaults are not filled in.
 *
 * @category models
 * @since 0.1.0
 */
export interface ConnackProperties {
  readonly sessionExpiryInterval?: number | undefined
  readonly receiveMaximum?: number | undefined
  readonly maximumQoS?: 0 | 1 | undefined
  readonly retainAvailable?: boolean | undefined
  readonly maximumPacketSize?: number | undefined
  readonly assignedClientIdentifier?: string | undefined
  readonly topicAliasMaximum?: number | undefined
  readonly reasonString?: string | undefined
  readonly userProperties?: UserProperties | undefined
  readonly wildcardSubscriptionAvailable?: boolean | undefined
  readonly subscriptionIdentifierAvailable?: boolean | undefined
  readonly sharedSubscriptionAvailable?: boolean | undefined
  readonly serverKeepAlive?: number | undefined
  readonly responseInformation?: string | undefined
  readonly serverReference?: string | undefined
  readonly authenticationMethod?: string | undefined
  readonly authenticationData?: Uint8Array | undefined
}

/**
 * CONNACK (§3.2). `reasonCode` is the return code (0 to 5) on 3.1.1.
 *
 * @category models
 * @since 0.1.0
 */
export interface Connack {
  readonly _tag: "Connack"
  readonly sessionPresent: boolean
  readonly reasonCode: number
  readonly properties: ConnackProperties | undefined
}

/**
 * Properties of PUBLISH (MQTT 5.0 §3.3.2.3).
 *
 * @category models
 * @since 0.1.0
 */
export interface PublishProperties {
  readonly payloadFormatIndicator?: 0 | 1 | undefined
  /** Seconds. */
  readonly messageExpiryInterval?: number | undefined
  readonly topicAlias?: number | undefined
  readonly responseTopic?: string | undefined
  readonly correlationData?: Uint8Array | undefined
  readonly userProperties?: UserProperties | undefined
  /** In wire order; only a server sends them. */
  readonly subscriptionIdentifiers?: ReadonlyArray<number> | undefined
  readonly contentType?: string | undefined
}

/**
 * PUBLISH (§3.3). `packetId` is 0 at QoS 0.
 *
 * @category models
 * @since 0.1.0
 */
export interface Publish {
  readonly _tag: "Publish"
  readonly dup: boolean
  readonly qos: QoS
  readonly retain: boolean
  /** Empty only together with a topic alias. */
  readonly topic: string
  readonly packetId: number
  readonly payload: Uint8Array
  readonly properties: PublishProperties | undefined
}

/**
 * Properties that only explain: the reason in words, and user properties.
 *
 * @category models
 * @since 0.1.0
 */
export interface ReasonProperties {
  readonly reasonString?: string | undefined
  readonly userProperties?: UserProperties | undefined
}

/**
 * PUBACK (§3.4).
 *
 * @category models
 * @since 0.1.0
 */
export interface Puback {
  readonly _tag: "Puback"
  readonly packetId: number
  readonly reasonCode: number
  readonly properties: ReasonProperties | undefined
}

/**
 * PUBREC (§3.5).
 *
 * @category models
 * @since 0.1.0
 */
export interface Pubrec {
  readonly _tag: "Pubrec"
  readonly packetId: number
  readonly reasonCode: number
  readonly properties: ReasonProperties | undefined
}

/**
 * PUBREL (§3.6).
 *
 * @category models
 * @since 0.1.0
 */
export interface Pubrel {
  readonly _tag: "Pubrel"
  readonly packetId: number
  readonly reasonCode: number
  readonly properties: ReasonProperties | undefined
}

/**
 * PUBCOMP (§3.7).
 *
 * @category models
 * @since 0.1.0
 */
export interface Pubcomp {
  readonly _tag: "Pubcomp"
  readonly packetId: number
  readonly reasonCode: number
  readonly properties: ReasonProperties | undefined
}

/**
 * One filter of a SUBSCRIBE with its options. On 3.1.1 only `qos` goes on the wire.
 *
 * @category models
 * @since 0.1.0
 */
export interface SubscriptionRequest {
  readonly filter: string
  readonly qos: QoS
  readonly noLocal: boolean
  readonly retainAsPublished: boolean
  /** 0 send retained messages, 1 only if the subscription is new, 2 never. */
  readonly retainHandling: 0 | 1 | 2
}

/**
 * Properties of SUBSCRIBE (MQTT 5.0 §3.8.2.1).
 *
 * @category models
 * @since 0.1.0
 */
export interface SubscribeProperties {
  readonly subscriptionIdentifier?: number | undefined
  readonly userProperties?: UserProperties | undefined
}

/**
 * SUBSCRIBE (§3.8).
 *
 * @category models
 * @since 0.1.0
 */
export interface Subscribe {
  readonly _tag: "Subscribe"
  readonly packetId: number
  readonly subscriptions: ReadonlyArray<SubscriptionRequest>
  readonly properties: SubscribeProperties | undefined
}

/**
 * SUBACK (§3.9): one reason code per filter, in the order of the SUBSCRIBE.
 *
 * @category models
 * @since 0.1.0
 */
export interface Suback {
  readonly _tag: "Suback"
  readonly packetId: number
  readonly reasonCodes: ReadonlyArray<number>
  readonly properties: ReasonProperties | undefined
}

/**
 * UNSUBSCRIBE (§3.10).
 *
 * @category models
 * @since 0.1.0
 */
export interface Unsubscribe {
  readonly _tag: "Unsubscribe"
  readonly packetId: number
  readonly filters: ReadonlyArray<string>
  readonly properties: { readonly userProperties?: UserProperties | undefined } | undefined
}

/**
 * UNSUBACK (§3.11). `reasonCodes` is empty on 3.1.1, which has none.
 *
 * @category models
 * @since 0.1.0
 */
export interface Unsuback {
  readonly _tag: "Unsuback"
  readonly packetId: number
  readonly reasonCodes: ReadonlyArray<number>
  readonly properties: ReasonProperties | undefined
}

/**
 * PINGREQ (§3.12).
 *
 * @category models
 * @since 0.1.0
 */
export interface Pingreq {
  readonly _tag: "Pingreq"
}

/**
 * PINGRESP (§3.13).
 *
 * @category models
 * @since 0.1.0
 */
export interface Pingresp {
  readonly _tag: "Pingresp"
}

/**
 * Properties of DISCONNECT (MQTT 5.0 §3.14.2.2).
 *
 * @category models
 * @since 0.1.0
 */
export interface DisconnectProperties extends ReasonProperties {
  /** Seconds; only a client sends it. */
  readonly sessionExpiryInterval?: number | undefined
  /** Only a server sends it. */
  readonly serverReference?: string | undefined
}

/**
 * DISCONNECT (§3.14). On 3.1.1 only a client sends it, and it carries no code.
 *
 * @category models
 * @since 0.1.0
 */
export interface Disconnect {
  readonly _tag: "Disconnect"
  readonly reasonCode: number
  readonly properties: DisconnectProperties | undefined
}

/**
 * Properties of AUTH (MQTT 5.0 §3.15.2.2).
 *
 * @category models
 * @since 0.1.0
 */
export interface AuthProperties extends ReasonProperties {
  readonly authenticationMethod?: string | undefined
  readonly authenticationData?: Uint8Array | undefined
}

/**
 * AUTH (MQTT 5.0 §3.15).
 *
 * @category models
 * @since 0.1.0
 */
export interface Auth {
  readonly _tag: "Auth"
  readonly reasonCode: number
  readonly properties: AuthProperties | undefined
}

/**
 * The four acknowledgements of a PUBLISH.
 *
 * @category models
 * @since 0.1.0
 */
export type Ack = Puback | Pubrec | Pubrel | Pubcomp

/**
 * What a client sends.
 *
 * @category models
 * @since 0.1.0
 */
export type ClientPacket = Connect | Publish | Ack | Subscribe | Unsubscribe | Pingreq | Disconnect | Auth

/**
 * What a client may receive.
 *
 * @category models
 * @since 0.1.0
 */
export type ServerPacket = Connack | Publish | Ack | Suback | Unsuback | Pingresp | Disconnect | Auth

/**
 * Every control packet.
 *
 * @category models
 * @since 0.1.0
 */
export type Packet = ClientPacket | ServerPacket
