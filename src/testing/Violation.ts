/**
 * What a client did against the protocol, as data, and the failure of a test in which it happened.
 *
 * @since 0.1.0
 */
import * as Data from "effect/Data"

/**
 * A rule that a client broke.
 *
 * @category models
 * @since 0.1.0
 */
export interface Violation {
  /** The row of the conformance table, for example `CN-01c`. */
  readonly row: string
  readonly problem: string
  /** What a server answers on MQTT 5.0; `undefined` where it lets the matter pass. */
  readonly reasonCode: number | undefined
  /** Milliseconds of the Clock. */
  readonly at: number
  readonly connectionId: number
  /** Empty while there was no CONNECT. */
  readonly clientId: string
}

/**
 * A breach found in one packet, before it is known whose it is.
 *
 * @internal
 */
export interface Finding {
  readonly row: string
  readonly problem: string
  readonly reasonCode: number
}

/**
 * @internal
 */
export const finding = (row: string, problem: string, reasonCode: number): Finding => ({ row, problem, reasonCode })

/**
 * One violation in one line.
 *
 * @category destructors
 * @since 0.1.0
 */
export const format = (violation: Violation): string =>
  `${violation.row}: ${violation.problem} (client "${violation.clientId}", connection ${violation.connectionId}, at ${violation.at} ms)`

/**
 * The defect with which a strict `TestBroker` ends a test in which a client broke the protocol.
 *
 * @category errors
 * @since 0.1.0
 */
export class ProtocolViolations extends Data.TaggedError("ProtocolViolations")<{
  readonly violations: ReadonlyArray<Violation>
}> {
  override get message(): string {
    return `the client broke the protocol:\n${this.violations.map((violation) => `  ${format(violation)}`).join("\n")}`
  }
}
