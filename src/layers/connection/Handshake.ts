/**
 * CONNECT from the options, and what CONNACK means. Plain data in, plain data out.
 *
 * @since 0.1.0
 */
import * as Redacted from "effect/Redacted"
import type { Packet, PacketCodec } from "../../protocol/index.ts"
import { KeepAlive, ProtocolFault, ReasonCode } from "../../protocol/index.ts"
import type { Credentials } from "../../services/ClientOptions.ts"
import * as Endpoint from "../../services/Endpoint.ts"
import {
  ConnectRefused,
  ForeignSession,
  ProtocolError,
  ServerDisconnected,
  UnsupportedProtocolVersion
} from "../../services/MqttError.ts"
import type { ConnectReason } from "../../services/MqttError.ts"
import type { ResolvedOptions } from "../../services/ResolvedOptions.ts"
import type { Negotiated } from "../../services/Status.ts"

/** What the client knows of the session that a server holds for it. */
export interface SessionRecord {
  /** Client id and server: a session belongs to both. */
  readonly key: string
}

/** How an attempt treats the session. */
export interface SessionPlan {
  readonly clientId: string
  readonly cleanStart: boolean
  /** Whether a record says that the server may have a session of ours. */
  readonly resumes: boolean
  /**
   * Whether a connection that only discards must come first: MQTT 3.1.1 has one flag for "discard" and "do not keep", so
   * starting clean and keeping the session takes two connections.
   */
  readonly discardFirst: boolean
  /** Whether the connection is made to discard the session and for nothing else. */
  readonly discardOnly: boolean
  /** Whether a connection that only discards came before, so that the server can have no session any more. */
  readonly discarded: boolean
}

/** Whose sessions they are: those of the group, or those of the endpoint alone. */
export const brokerKey = ({ endpoint, group }: ResolvedOptions): string =>
  group === undefined ? Endpoint.toUrl(endpoint) : `group:${group}`

export const sessionKey = (options: ResolvedOptions, clientId: string): string => `${clientId}@${brokerKey(options)}`

/** `sessionExpiry` for ever (MQTT 5.0 §3.1.2.11.2). */
const never = 0xffffffff

const isPersistent = (options: ResolvedOptions): boolean => options.sessionExpiry > 0 || !options.cleanStart

export const planSession = (
  options: ResolvedOptions,
  clientId: string,
  record: SessionRecord | undefined
): SessionPlan => {
  const resumes = record !== undefined && record.key === sessionKey(options, clientId)
  const fresh = !resumes && options.cleanStart
  const plan = { clientId, resumes, discardOnly: false, discarded: false }
  if (options.protocolVersion === 5) return { ...plan, cleanStart: fresh, discardFirst: false }
  const persistent = isPersistent(options)
  return { ...plan, cleanStart: !persistent, discardFirst: persistent && fresh }
}

const encoder = new TextEncoder()

export const toConnect = (
  options: ResolvedOptions,
  credentials: Credentials,
  plan: Pick<SessionPlan, "clientId" | "cleanStart">,
  authenticationData: Uint8Array | undefined = undefined
): Packet.Connect => {
  const password = credentials.password === undefined
    ? undefined
    : Redacted.value<string | Uint8Array>(credentials.password)
  return {
    _tag: "Connect",
    protocolVersion: options.protocolVersion,
    clientId: plan.clientId,
    cleanStart: plan.cleanStart,
    keepAlive: options.keepAlive,
    username: credentials.username,
    password: typeof password === "string" ? encoder.encode(password) : password,
    will: options.will,
    properties: options.protocolVersion === 4 ? undefined : {
      sessionExpiryInterval: options.sessionExpiry === 0 ? undefined : options.sessionExpiry,
      receiveMaximum: options.receiveMaximum,
      maximumPacketSize: options.maximumPacketSize,
      topicAliasMaximum: options.topicAliasMaximum === 0 ? undefined : options.topicAliasMaximum,
      requestResponseInformation: options.requestResponseInformation ? true : undefined,
      requestProblemInformation: options.requestProblemInformation ? undefined : false,
      authenticationMethod: options.authentication?.method,
      authenticationData,
      userProperties: options.userProperties.length === 0 ? undefined : options.userProperties
    }
  }
}

/** What has to be known of the connection to decode what the server sends. */
export const toDecoderOptions = (options: ResolvedOptions): PacketCodec.DecoderOptions => ({
  protocolVersion: options.protocolVersion,
  maximumPacketSize: options.maximumPacketSize,
  topicAliasMaximum: options.topicAliasMaximum,
  requestProblemInformation: options.requestProblemInformation,
  reusesPublish: true
})

/** What a CONNACK leads to. */
export type ConnackOutcome =
  | { readonly _tag: "Accepted"; readonly negotiated: Negotiated }
  | { readonly _tag: "Refused"; readonly reason: ConnectReason }
  /** The connection is to be ended; its only use was, or will be, to discard the session. */
  | { readonly _tag: "Discard" }
  | { readonly _tag: "Fault"; readonly fault: ProtocolFault.ProtocolFault }

const fault = (field: string, rule: string, reasonCode: number): ConnackOutcome => ({
  _tag: "Fault",
  fault: ProtocolFault.make("CONNACK", field, rule, reasonCode)
})

const refusal = (options: ResolvedOptions, packet: Packet.Connack): ConnectReason => {
  const { protocolVersion } = options
  const { properties, reasonCode } = packet
  if (reasonCode === (protocolVersion === 5 ? 0x84 : 1)) {
    return new UnsupportedProtocolVersion({ protocolVersion, reasonCode })
  }
  return new ConnectRefused({
    protocolVersion,
    reasonCode,
    name: ReasonCode.nameOfConnack(protocolVersion, reasonCode),
    ...(properties?.reasonString === undefined ? {} : { reasonString: properties.reasonString }),
    ...(properties?.serverReference === undefined ? {} : { serverReference: properties.serverReference })
  })
}

export const onConnack = (options: ResolvedOptions, plan: SessionPlan, packet: Packet.Connack): ConnackOutcome => {
  const version = options.protocolVersion
  if (packet.reasonCode !== 0) return { _tag: "Refused", reason: refusal(options, packet) }
  if (packet.sessionPresent && (plan.cleanStart || plan.discarded)) {
    return fault("session present", "a session although a clean one was asked for", 0x82)
  }
  const properties = packet.properties ?? {}
  const method = options.authentication?.method
  if (properties.authenticationMethod !== method) {
    return fault("authentication method", method === undefined ? "CONNECT had none" : "not that of CONNECT", 0x82)
  }
  if (method === undefined && properties.authenticationData !== undefined) {
    return fault("authentication data", "CONNECT had no authentication method", 0x82)
  }
  if (plan.clientId === "" && version === 5 && properties.assignedClientIdentifier === undefined) {
    return fault("assigned client identifier", "missing although CONNECT had an empty one", 0x82)
  }
  if (plan.discardOnly) return { _tag: "Discard" }
  if (packet.sessionPresent && !plan.resumes) {
    if (options.foreignSession === "cleanStart") return { _tag: "Discard" }
    if (options.foreignSession === "fail") {
      return { _tag: "Refused", reason: new ForeignSession({ clientId: plan.clientId }) }
    }
  }
  return { _tag: "Accepted", negotiated: toNegotiated(options, plan, packet.sessionPresent, properties) }
}

const noPairs: Negotiated["userProperties"] = Object.freeze([])

const toNegotiated = (
  options: ResolvedOptions,
  plan: SessionPlan,
  sessionPresent: boolean,
  properties: Packet.ConnackProperties
): Negotiated => {
  const version = options.protocolVersion
  const expiry = version === 4
    ? isPersistent(options) ? never : 0
    : properties.sessionExpiryInterval ?? options.sessionExpiry
  return {
    protocolVersion: version,
    clientId: properties.assignedClientIdentifier ?? plan.clientId,
    sessionPresent,
    sessionExpiryInterval: expiry === never ? Infinity : expiry,
    keepAliveMillis: KeepAlive.effectiveSeconds(options.keepAlive, properties.serverKeepAlive) * 1000,
    sendWindow: Math.min(options.sendMaximum, properties.receiveMaximum ?? 65535),
    maximumQoS: properties.maximumQoS ?? 2,
    retainAvailable: properties.retainAvailable ?? true,
    maximumPacketSize: properties.maximumPacketSize ?? Infinity,
    topicAliasMaximum: properties.topicAliasMaximum ?? 0,
    wildcardSubscriptionAvailable: properties.wildcardSubscriptionAvailable ?? true,
    subscriptionIdentifierAvailable: version === 5 && (properties.subscriptionIdentifierAvailable ?? true),
    sharedSubscriptionAvailable: version === 5 ? properties.sharedSubscriptionAvailable ?? true : false,
    responseInformation: properties.responseInformation,
    userProperties: properties.userProperties ?? noPairs
  }
}

/** What the first bytes say for certain of a peer that is no MQTT server. Neither can begin an answer to CONNECT. */
export const foreignFault = (bytes: Uint8Array): ProtocolFault.ProtocolFault | undefined => {
  // The header of a TLS alert, and "HTTP".
  const name = startsWith(bytes, [0x15, 0x03])
    ? "TLS"
    : startsWith(bytes, [0x48, 0x54, 0x54, 0x50])
    ? "HTTP"
    : undefined
  return name === undefined
    ? undefined
    : ProtocolFault.make("frame", "packet type", `the peer speaks ${name} on this port, and not MQTT`, 0x82)
}

const startsWith = (bytes: Uint8Array, start: ReadonlyArray<number>): boolean =>
  start.every((byte, index) => bytes[index] === byte)

export const toProtocolError = (fault: ProtocolFault.ProtocolFault): ProtocolError =>
  new ProtocolError({ packet: fault.packet, field: fault.field, rule: fault.rule, reasonCode: fault.reasonCode })

/** How a handshake ends. */
export type HandshakeOutcome =
  | { readonly _tag: "Accepted"; readonly negotiated: Negotiated }
  | { readonly _tag: "Discard" }
  | { readonly _tag: "Failed"; readonly reason: ConnectReason; readonly disconnect: number | undefined }

/** Whether the server speaks an older version than we do. */
export const isOlderVersion = (fault: ProtocolFault.ProtocolFault): boolean =>
  fault.packet === "CONNACK" && fault.field === "protocol version"

/** What the DISCONNECT of the server says of the end. */
export const toServerDisconnected = (packet: Packet.Disconnect): ServerDisconnected =>
  new ServerDisconnected({
    reasonCode: packet.reasonCode,
    name: packet.reasonCode === 0 ? "Normal disconnection" : ReasonCode.nameOf(packet.reasonCode),
    ...(packet.properties?.reasonString === undefined ? {} : { reasonString: packet.properties.reasonString }),
    ...(packet.properties?.serverReference === undefined ? {} : { serverReference: packet.properties.serverReference })
  })
