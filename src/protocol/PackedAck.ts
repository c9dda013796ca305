/**
 * An acknowledgement without properties as a number, since there is one for each message, or two: the packet's type as in its
 * first byte, then its reason code, then the packet identifier.
 *
 * @since 0.1.0
 */
import type { Ack } from "./Packet.ts"

/**
 * @category models
 * @since 0.1.0
 */
export type PackedAck = number

/**
 * `type` is that of PUBACK, PUBREC, PUBREL or PUBCOMP.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (type: 4 | 5 | 6 | 7, packetId: number, reasonCode: number): PackedAck =>
  type << 24 | reasonCode << 16 | packetId

const tags = ["Puback", "Pubrec", "Pubrel", "Pubcomp"] as const

/**
 * @category getters
 * @since 0.1.0
 */
export const tagOf = (ack: PackedAck): Ack["_tag"] => tags[(ack >>> 24) - 4]!

/**
 * @category getters
 * @since 0.1.0
 */
export const packetIdOf = (ack: PackedAck): number => ack & 0xffff

/**
 * @category getters
 * @since 0.1.0
 */
export const reasonCodeOf = (ack: PackedAck): number => ack >>> 16 & 0xff

/** The first byte of the packet (MQTT 5.0 §2.1.3). */
export const firstByteOf = (ack: PackedAck): number => {
  const type = ack >>> 24
  return type === 6 ? 0x62 : type << 4
}
