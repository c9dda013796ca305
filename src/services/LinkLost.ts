/**
 * Why a connection ended, and why a client does not connect.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { ReasonCode } from "../protocol/index.ts"
import { AuthenticationFailed, ConnectError, ProtocolError } from "./ConnectError.ts"
import { SessionStoreError } from "./SessionStore.ts"
import { TransportError } from "./Transport.ts"

/**
 * The server ended the connection with DISCONNECT (MQTT 5.0 §3.14).
 *
 * @category errors
 * @since 0.1.0
 */
export class ServerDisconnected extends Schema.TaggedError<ServerDisconnected>()("ServerDisconnected", {
  reasonCode: Schema.Int,
  name: Schema.String,
  reasonString: Schema.optionalKey(Schema.String),
  serverReference: Schema.optionalKey(Schema.String)
}) {
  get retryable(): boolean {
    return ReasonCode.isRetryableDisconnect(this.reasonCode)
  }
  override get message(): string {
    return `the server ended the connection: ${this.name} (${ReasonCode.toHex(this.reasonCode)})`
  }
}

/**
 * The byte stream ended or failed.
 *
 * @category errors
 * @since 0.1.0
 */
export class TransportLost extends Schema.TaggedError<TransportLost>()("TransportLost", { cause: TransportError }) {
  get retryable(): boolean {
    return true
  }
  override get message(): string {
    return this.cause.message
  }
}

/**
 * Nothing came back within the time allowed after a PINGREQ: the link is half-open.
 *
 * @category errors
 * @since 0.1.0
 */
export class KeepAliveTimeout extends Schema.TaggedError<KeepAliveTimeout>()("KeepAliveTimeout", {
  keepAliveMillis: Schema.Finite,
  pingTimeoutMillis: Schema.Finite
}) {
  get retryable(): boolean {
    return true
  }
  override get message(): string {
    return `no byte came back within ${this.pingTimeoutMillis} ms of a PINGREQ: the link is half-open`
  }
}

/**
 * A write made no progress and nothing came in for keep alive plus ping timeout: the link is half-open.
 *
 * @category errors
 * @since 0.1.0
 */
export class WriteBlocked extends Schema.TaggedError<WriteBlocked>()("WriteBlocked", {
  blockedMillis: Schema.Finite
}) {
  get retryable(): boolean {
    return true
  }
  override get message(): string {
    return `the peer took nothing and sent nothing for ${this.blockedMillis} ms: the link is half-open`
  }
}

/**
 * Received messages that are not acknowledged took more memory than `maximumUnacknowledgedBytes` allows. The connection was
 * closed without acknowledging them; the next one is made once consumers have brought it down to less than half.
 *
 * @category errors
 * @since 0.1.0
 */
export class UnacknowledgedOverflow extends Schema.TaggedError<UnacknowledgedOverflow>()("UnacknowledgedOverflow", {
  bytes: Schema.Finite,
  maximumBytes: Schema.Finite
}) {
  get retryable(): boolean {
    return true
  }
  override get message(): string {
    return `unacknowledged messages took ${this.bytes} bytes, and one more would have exceeded ${this.maximumBytes}`
  }
}

/**
 * Why an established connection ended without our asking.
 *
 * @category errors
 * @since 0.1.0
 */
export const LinkLost = Schema.Union([
  ServerDisconnected,
  TransportLost,
  KeepAliveTimeout,
  WriteBlocked,
  UnacknowledgedOverflow,
  ProtocolError,
  AuthenticationFailed,
  SessionStoreError
])

/**
 * @category errors
 * @since 0.1.0
 */
export type LinkLost = typeof LinkLost.Type

/**
 * The user ended the connection with `disconnect`.
 *
 * @category errors
 * @since 0.1.0
 */
export class DisconnectRequested extends Schema.TaggedError<DisconnectRequested>()("DisconnectRequested", {}) {
  override get message(): string {
    return "disconnect was called; resume or reconnect ends it"
  }
}

/**
 * Another client uses the same client id: it took the session over so often that going on would be a fight.
 *
 * @category errors
 * @since 0.1.0
 */
export class ClientIdContested extends Schema.TaggedError<ClientIdContested>()("ClientIdContested", {
  clientId: Schema.String,
  /** Takeovers within `withinMillis`. */
  takeovers: Schema.Int,
  withinMillis: Schema.Finite
}) {
  override get message(): string {
    return `another client uses the client id "${this.clientId}": it took the session over ${this.takeovers} ` +
      `time${this.takeovers === 1 ? "" : "s"} within ${this.withinMillis} ms`
  }
}

/**
 * Why a client is not connected and does not try.
 *
 * @category errors
 * @since 0.1.0
 */
export const HaltReason = Schema.Union([DisconnectRequested, ClientIdContested, ConnectError, LinkLost])

/**
 * @category errors
 * @since 0.1.0
 */
export type HaltReason = typeof HaltReason.Type

/**
 * The client is halted: it will not connect until `resume` or `reconnect` is called.
 *
 * @category errors
 * @since 0.1.0
 */
export class ClientHalted extends Schema.TaggedError<ClientHalted>()("ClientHalted", { cause: HaltReason }) {
  override get message(): string {
    return `the client is halted (${this.cause.message}); call resume or reconnect`
  }
}

/**
 * The scope of the client is closed.
 *
 * @category errors
 * @since 0.1.0
 */
export class ClientClosed extends Schema.TaggedError<ClientClosed>()("ClientClosed", {}) {
  override get message(): string {
    return "the scope of the client is closed"
  }
}
