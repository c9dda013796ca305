/**
 * Why a connection attempt failed.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { ReasonCode } from "../protocol/index.ts"
import { TransportError } from "./Transport.ts"

/**
 * The server answered CONNECT with a refusal.
 *
 * `reasonCode` is the reason code of MQTT 5.0 (§3.2.2.2) or the return code of MQTT 3.1.1 (§3.2.2.3); `name` is its name in
 * the standard.
 *
 * @category errors
 * @since 0.1.0
 */
export class ConnectRefused extends Schema.TaggedError<ConnectRefused>()("ConnectRefused", {
  protocolVersion: Schema.Literals([4, 5]),
  reasonCode: Schema.Int,
  name: Schema.String,
  /** The server's own words (MQTT 5.0); for people, not for programs. */
  reasonString: Schema.optionalKey(Schema.String),
  /** Where to go instead, with `0x9C` and `0x9D` (MQTT 5.0 §4.11). */
  serverReference: Schema.optionalKey(Schema.String)
}) {
  /** Whether the same CONNECT may succeed later. */
  get retryable(): boolean {
    return ReasonCode.isRetryableConnack(this.protocolVersion, this.reasonCode)
  }
  override get message(): string {
    const words = this.reasonString === undefined ? "" : `: ${this.reasonString}`
    return `the server refused the connection: ${this.name} (${ReasonCode.toHex(this.reasonCode)})${words}`
  }
}

/**
 * The server does not speak the protocol version that was asked for.
 *
 * @category errors
 * @since 0.1.0
 */
export class UnsupportedProtocolVersion
  extends Schema.TaggedError<UnsupportedProtocolVersion>()("UnsupportedProtocolVersion", {
    protocolVersion: Schema.Literals([4, 5]),
    reasonCode: Schema.Int
  })
{
  get retryable(): boolean {
    return false
  }
  override get message(): string {
    const other = this.protocolVersion === 5 ? "protocolVersion: 4 (MQTT 3.1.1)" : "protocolVersion: 5 (MQTT 5.0)"
    return `the server does not accept MQTT ${this.protocolVersion === 5 ? "5.0" : "3.1.1"}; try ${other}`
  }
}

/**
 * The host name of the broker does not resolve.
 *
 * @category errors
 * @since 0.1.0
 */
export class NameNotResolved extends Schema.TaggedError<NameNotResolved>()("NameNotResolved", {
  address: Schema.String,
  cause: TransportError
}) {
  get retryable(): boolean {
    return true
  }
  override get message(): string {
    return `the host name of ${this.address} could not be resolved`
  }
}

/**
 * No byte stream to the broker could be opened: refused, unreachable, or given up by the operating system.
 *
 * @category errors
 * @since 0.1.0
 */
export class DialFailed extends Schema.TaggedError<DialFailed>()("DialFailed", {
  address: Schema.String,
  kind: Schema.Literals(["refused", "unreachable", "timeout", "other"]),
  cause: TransportError
}) {
  get retryable(): boolean {
    return true
  }
  override get message(): string {
    return `no connection to ${this.address} could be opened: ${this.cause.message}`
  }
}

/**
 * The whole of an attempt, from its options to CONNACK, took longer than `connectTimeout`.
 *
 * `phase` is what was being waited for.
 *
 * @category errors
 * @since 0.1.0
 */
export class ConnectTimeout extends Schema.TaggedError<ConnectTimeout>()("ConnectTimeout", {
  address: Schema.String,
  phase: Schema.Literals(["options", "dial", "connack"]),
  timeoutMillis: Schema.Finite
}) {
  get retryable(): boolean {
    return true
  }
  override get message(): string {
    const what = {
      options: "the options of the attempt were not available",
      dial: "the connection was not open",
      connack: "the server had not answered CONNECT"
    }[this.phase]
    return `connecting to ${this.address} timed out: ${what} after ${this.timeoutMillis} ms`
  }
}

/**
 * The stream ended after the dial and before CONNACK.
 *
 * @category errors
 * @since 0.1.0
 */
export class ClosedBeforeConnack extends Schema.TaggedError<ClosedBeforeConnack>()("ClosedBeforeConnack", {
  address: Schema.String,
  /** The reason code of a DISCONNECT that came instead of CONNACK. */
  reasonCode: Schema.optionalKey(Schema.Int),
  cause: Schema.optionalKey(TransportError)
}) {
  get retryable(): boolean {
    return true
  }
  override get message(): string {
    return `${this.address} closed the connection before answering CONNECT${
      this.reasonCode === undefined ? "" : ` (DISCONNECT ${ReasonCode.toHex(this.reasonCode)})`
    }`
  }
}

/**
 * The peer sent what MQTT does not allow.
 *
 * @category errors
 * @since 0.1.0
 */
export class ProtocolError extends Schema.TaggedError<ProtocolError>()("ProtocolError", {
  /** The control packet at fault, as the standard writes it, or `frame`. */
  packet: Schema.String,
  field: Schema.String,
  rule: Schema.String,
  /** The reason code that our DISCONNECT carried on MQTT 5.0. */
  reasonCode: Schema.Int
}) {
  get retryable(): boolean {
    return true
  }
  override get message(): string {
    return `the peer broke the protocol: ${this.packet}: ${this.field}: ${this.rule} (${
      ReasonCode.toHex(this.reasonCode)
    })`
  }
}

/**
 * The server holds a session for this client id which the options do not allow to adopt (`foreignSession: "fail"`).
 *
 * @category errors
 * @since 0.1.0
 */
export class ForeignSession extends Schema.TaggedError<ForeignSession>()("ForeignSession", {
  clientId: Schema.String
}) {
  get retryable(): boolean {
    return false
  }
  override get message(): string {
    return `the server holds a session of "${this.clientId}" that this client has no record of; ` +
      "adopt it (foreignSession: \"adopt\"), discard it (\"cleanStart\"), or use another client id"
  }
}

/**
 * An option is not valid. Nothing was sent.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidOptions extends Schema.TaggedError<InvalidOptions>()("InvalidOptions", {
  /** Path of the option, for example `will.topic`. */
  option: Schema.String,
  problem: Schema.String
}) {
  get retryable(): boolean {
    return false
  }
  override get message(): string {
    return `option "${this.option}" is not valid: ${this.problem}`
  }
}

/**
 * The effect that gives the options, or the credentials, of an attempt failed or died.
 *
 * @category errors
 * @since 0.1.0
 */
export class OptionsUnavailable extends Schema.TaggedError<OptionsUnavailable>()("OptionsUnavailable", {
  cause: Schema.Defect()
}) {
  get retryable(): boolean {
    return true
  }
  override get message(): string {
    return "the effect that gives the options of a connection attempt failed"
  }
}

/**
 * The attempt was ended by a command before it had an answer.
 *
 * @category errors
 * @since 0.1.0
 */
export class ConnectInterrupted extends Schema.TaggedError<ConnectInterrupted>()("ConnectInterrupted", {
  by: Schema.Literals(["pause", "reconnect", "disconnect", "close"])
}) {
  get retryable(): boolean {
    return false
  }
  override get message(): string {
    return `the connection attempt was ended by ${this.by}`
  }
}

/**
 * Why a connection attempt failed.
 *
 * @category errors
 * @since 0.1.0
 */
export const ConnectReason = Schema.Union([
  ConnectRefused,
  UnsupportedProtocolVersion,
  NameNotResolved,
  DialFailed,
  ConnectTimeout,
  ClosedBeforeConnack,
  ProtocolError,
  ForeignSession,
  InvalidOptions,
  OptionsUnavailable,
  ConnectInterrupted
])

/**
 * @category errors
 * @since 0.1.0
 */
export type ConnectReason = typeof ConnectReason.Type

/**
 * A connection attempt failed. The layer fails with it, and so do `reconnect` and `resume`.
 *
 * @category errors
 * @since 0.1.0
 */
export class ConnectError extends Schema.TaggedError<ConnectError>()("ConnectError", { reason: ConnectReason }) {
  /** Whether the same attempt may succeed later without a change of options. */
  get retryable(): boolean {
    return this.reason.retryable
  }
  override get message(): string {
    return this.reason.message
  }
}
