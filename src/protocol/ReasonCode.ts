/**
 * The reason codes of MQTT 5.0 (§2.4) and the CONNACK return codes of MQTT 3.1.1 (§3.2.2.3), as data.
 *
 * @since 0.1.0
 */
import type { ProtocolVersion } from "./Packet.ts"

const names: Readonly<Record<number, string>> = {
  0x00: "Success",
  0x01: "Granted QoS 1",
  0x02: "Granted QoS 2",
  0x04: "Disconnect with Will Message",
  0x10: "No matching subscribers",
  0x11: "No subscription existed",
  0x18: "Continue authentication",
  0x19: "Re-authenticate",
  0x80: "Unspecified error",
  0x81: "Malformed Packet",
  0x82: "Protocol Error",
  0x83: "Implementation specific error",
  0x84: "Unsupported Protocol Version",
  0x85: "Client Identifier not valid",
  0x86: "Bad User Name or Password",
  0x87: "Not authorized",
  0x88: "Server unavailable",
  0x89: "Server busy",
  0x8a: "Banned",
  0x8b: "Server shutting down",
  0x8c: "Bad authentication method",
  0x8d: "Keep Alive timeout",
  0x8e: "Session taken over",
  0x8f: "Topic Filter invalid",
  0x90: "Topic Name invalid",
  0x91: "Packet Identifier in use",
  0x92: "Packet Identifier not found",
  0x93: "Receive Maximum exceeded",
  0x94: "Topic Alias invalid",
  0x95: "Packet too large",
  0x96: "Message rate too high",
  0x97: "Quota exceeded",
  0x98: "Administrative action",
  0x99: "Payload format invalid",
  0x9a: "Retain not supported",
  0x9b: "QoS not supported",
  0x9c: "Use another server",
  0x9d: "Server moved",
  0x9e: "Shared Subscriptions not supported",
  0x9f: "Connection rate exceeded",
  0xa0: "Maximum connect time",
  0xa1: "Subscription Identifiers not supported",
  0xa2: "Wildcard Subscriptions not supported"
}

const returnCodes: Readonly<Record<number, string>> = {
  0: "Connection accepted",
  1: "Unacceptable protocol version",
  2: "Identifier rejected",
  3: "Server unavailable",
  4: "Bad user name or password",
  5: "Not authorized"
}

/**
 * The standard's name of a reason code of MQTT 5.0.
 *
 * @category destructors
 * @since 0.1.0
 */
export const nameOf = (reasonCode: number): string => names[reasonCode] ?? "Unknown reason code"

/**
 * The standard's name of a code in CONNACK, which is a return code on MQTT 3.1.1.
 *
 * @category destructors
 * @since 0.1.0
 */
export const nameOfConnack = (version: ProtocolVersion, code: number): string =>
  version === 5 ? nameOf(code) : returnCodes[code] ?? "Reserved return code"

/**
 * The code as `0x8e`.
 *
 * @category destructors
 * @since 0.1.0
 */
export const toHex = (reasonCode: number): string => `0x${reasonCode.toString(16).padStart(2, "0")}`

const retryableConnack: ReadonlySet<number> = new Set([0x80, 0x83, 0x88, 0x89, 0x8b, 0x96, 0x97, 0x9c, 0x9f])

/**
 * Whether the same CONNECT may be accepted later. All others need a change: of credentials, client id, options or server.
 *
 * @category guards
 * @since 0.1.0
 */
export const isRetryableConnack = (version: ProtocolVersion, code: number): boolean =>
  version === 5 ? retryableConnack.has(code) : code === 3

/** Banned, moved for good: trying again is a waste. */
const permanentDisconnect: ReadonlySet<number> = new Set([0x8a, 0x9d])

/**
 * Whether connecting again after this DISCONNECT of the server is likely to last.
 *
 * @category guards
 * @since 0.1.0
 */
export const isRetryableDisconnect = (reasonCode: number): boolean => !permanentDisconnect.has(reasonCode)

/**
 * The reason codes that each packet of MQTT 5.0 may carry from a server to a client (§2.4). `0x8c` is missing in the
 * table of §3.14.2.1 and present in that of §2.4, so it is allowed in DISCONNECT.
 *
 * @category constants
 * @since 0.1.0
 */
export const fromServer = {
  Connack: [
    ...[0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89],
    ...[0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9f]
  ],
  Puback: [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
  Pubrec: [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
  Pubrel: [0x00, 0x92],
  Pubcomp: [0x00, 0x92],
  Suback: [0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2],
  Unsuback: [0x00, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91],
  Disconnect: [
    ...[0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95],
    ...[0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2]
  ],
  Auth: [0x00, 0x18]
} as const satisfies Readonly<Record<string, ReadonlyArray<number>>>

/**
 * The reason codes that each packet of MQTT 5.0 may carry from a client to a server (§2.4).
 *
 * @category constants
 * @since 0.1.0
 */
export const fromClient = {
  Puback: [0x00, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
  Pubrec: [0x00, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
  Pubrel: [0x00, 0x92],
  Pubcomp: [0x00, 0x92],
  Disconnect: [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99],
  Auth: [0x18, 0x19]
} as const satisfies Readonly<Record<string, ReadonlyArray<number>>>

/**
 * The return codes of CONNACK and the codes of SUBACK on MQTT 3.1.1 (§3.2.2.3, §3.9.3).
 *
 * @category constants
 * @since 0.1.0
 */
export const fromServer311 = {
  Connack: [0, 1, 2, 3, 4, 5],
  Suback: [0x00, 0x01, 0x02, 0x80]
} as const satisfies Readonly<Record<string, ReadonlyArray<number>>>
