/**
 * What is wrong with bytes or packets that a peer sent, as plain data.
 *
 * @since 0.1.0
 */

/**
 * A breach of the protocol by the peer. It is fatal to the connection (MQTT 5.0 §4.13, MQTT 3.1.1 §4.8).
 *
 * @category models
 * @since 0.1.0
 */
export interface ProtocolFault {
  readonly _tag: "ProtocolFault"
  /** The control packet at fault, as the standard writes it (`PUBLISH`), or `frame` where its type is not known. */
  readonly packet: string
  /** The field at fault, for example `topic name` or `receive maximum`. */
  readonly field: string
  /** The rule that was broken, in one clause. */
  readonly rule: string
  /** What a DISCONNECT that reports it must carry on MQTT 5.0: `0x81`, `0x82`, `0x93`, `0x94`, `0x95` or `0x99`. */
  readonly reasonCode: number
}

/**
 * @category constructors
 * @since 0.1.0
 */
export const make = (packet: string, field: string, rule: string, reasonCode: number): ProtocolFault => ({
  _tag: "ProtocolFault",
  packet,
  field,
  rule,
  reasonCode
})

/**
 * The fault in one line.
 *
 * @category destructors
 * @since 0.1.0
 */
export const format = (fault: ProtocolFault): string =>
  `${fault.packet}: ${fault.field}: ${fault.rule} (reason code 0x${fault.reasonCode.toString(16)})`
