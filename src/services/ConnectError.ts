/**
 * Why a connection attempt failed.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { ReasonCode } from "../protocol/index.ts"
import { SessionStoreError } from "./SessionStore.ts"
import { CertificateInfo, ProxyReason, TlsReason, TransportError, WebSocketReason } from "./Transport.ts"

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
 * TLS with the broker, or with the proxy, could not be established.
 *
 * @category errors
 * @since 0.1.0
 */
export class TlsFailed extends Schema.TaggedError<TlsFailed>()("TlsFailed", {
  /** Whom TLS was spoken with: the broker, or the proxy. */
  address: Schema.String,
  reason: TlsReason,
  /** The certificate of the server, where that is what failed. */
  certificate: Schema.optionalKey(CertificateInfo),
  cause: TransportError
}) {
  /** Whether time, or a file that is replaced, may heal it without a change of options. */
  get retryable(): boolean {
    return ["expired", "notYetValid", "closed", "invalidFile", "other"].includes(this.reason)
  }
  override get message(): string {
    return this.cause.message
  }
}

/**
 * No WebSocket to the broker could be opened, or it failed before CONNACK.
 *
 * @category errors
 * @since 0.1.0
 */
export class WebSocketFailed extends Schema.TaggedError<WebSocketFailed>()("WebSocketFailed", {
  address: Schema.String,
  reason: WebSocketReason,
  /** HTTP status of the answer to the request. */
  status: Schema.optionalKey(Schema.Int),
  /** The code with which the peer closed. */
  closeCode: Schema.optionalKey(Schema.Int),
  cause: TransportError
}) {
  /** False for a refusal that is about the request: HTTP 4xx (but 408, 425, 429), redirects, and a missing subprotocol. */
  get retryable(): boolean {
    if (this.reason === "subprotocol") return false
    const { status } = this
    return status === undefined || status >= 500 || [408, 425, 429].includes(status)
  }
  override get message(): string {
    return this.cause.message
  }
}

/**
 * The proxy gave no way to the broker.
 *
 * @category errors
 * @since 0.1.0
 */
export class ProxyFailed extends Schema.TaggedError<ProxyFailed>()("ProxyFailed", {
  /** `host:port` of the proxy. */
  proxy: Schema.String,
  /** `host:port` of the broker. */
  address: Schema.String,
  reason: ProxyReason,
  /** HTTP status, or reply code of SOCKS5. */
  status: Schema.optionalKey(Schema.Int),
  cause: TransportError
}) {
  get retryable(): boolean {
    return this.reason !== "authenticationRequired" && this.reason !== "authenticationRefused"
  }
  override get message(): string {
    return this.cause.message
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
  phase: Schema.Literals(["store", "options", "dial", "dns", "connect", "proxy", "tls", "websocket", "connack"]),
  timeoutMillis: Schema.Finite
}) {
  get retryable(): boolean {
    return true
  }
  override get message(): string {
    const what = {
      store: "the session store had not kept what is to be kept before",
      options: "the options of the attempt were not available",
      dial: "the connection was not open",
      dns: "the host name was not resolved",
      connect: "the connection was not open",
      proxy: "the proxy had not answered",
      tls: "the TLS handshake was not done",
      websocket: "the WebSocket handshake was not done",
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
 * An exchange of enhanced authentication (MQTT 5.0 §4.12) failed on our side. What the server refuses is `ConnectRefused`,
 * or `ServerDisconnected`.
 *
 * - `exchange`: the effect that begins an exchange failed
 * - `respond`: a challenge could not be answered
 * - `verify`: the server could not prove who it is
 * - `timeout`: the server did not end the exchange within `connectTimeout`; on a live connection only
 *
 * @category errors
 * @since 0.1.0
 */
export class AuthenticationFailed extends Schema.TaggedError<AuthenticationFailed>()("AuthenticationFailed", {
  method: Schema.String,
  problem: Schema.Literals(["exchange", "respond", "verify", "timeout"]),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  /** A server that is not who it should be is not given another try. */
  get retryable(): boolean {
    return this.problem !== "verify"
  }
  override get message(): string {
    const what = {
      exchange: "it could not be begun",
      respond: "a challenge of the server could not be answered",
      verify: "the server could not prove who it is",
      timeout: "the server did not end it in time"
    }[this.problem]
    return `authentication by ${this.method} failed: ${what}`
  }
}

/**
 * A server named another to use, and that one another, and so on over more servers than the client follows (3).
 *
 * @category errors
 * @since 0.1.0
 */
export class TooManyRedirects extends Schema.TaggedError<TooManyRedirects>()("TooManyRedirects", {
  /** The servers in order, from the one in the options on. */
  servers: Schema.Array(Schema.String)
}) {
  get retryable(): boolean {
    return true
  }
  override get message(): string {
    return `the servers send the client from one to the next: ${this.servers.join(", ")}`
  }
}

/**
 * Why an attempt at one endpoint failed.
 *
 * @category errors
 * @since 0.1.0
 */
export const EndpointReason = Schema.Union([
  ConnectRefused,
  UnsupportedProtocolVersion,
  NameNotResolved,
  DialFailed,
  TlsFailed,
  WebSocketFailed,
  ProxyFailed,
  ConnectTimeout,
  ClosedBeforeConnack,
  ProtocolError,
  ForeignSession,
  InvalidOptions,
  OptionsUnavailable,
  SessionStoreError,
  AuthenticationFailed,
  TooManyRedirects,
  ConnectInterrupted
])

/**
 * @category errors
 * @since 0.1.0
 */
export type EndpointReason = typeof EndpointReason.Type

/**
 * An endpoint and why an attempt at it failed.
 *
 * @category errors
 * @since 0.1.0
 */
export const EndpointFailure = Schema.Struct({ endpoint: Schema.String, reason: EndpointReason })

/**
 * @category errors
 * @since 0.1.0
 */
export type EndpointFailure = typeof EndpointFailure.Type

/**
 * Several endpoints were tried in one round, and each failed.
 *
 * @category errors
 * @since 0.1.0
 */
export class AllEndpointsFailed extends Schema.TaggedError<AllEndpointsFailed>()("AllEndpointsFailed", {
  /** In the order of the attempts. */
  failures: Schema.Array(EndpointFailure)
}) {
  get retryable(): boolean {
    return this.failures.some(({ reason }) => reason.retryable)
  }
  override get message(): string {
    const causes = this.failures.map(({ endpoint, reason }) => `${endpoint}: ${reason.message}`)
    return `no endpoint could be connected; ${causes.join("; ")}`
  }
}

/**
 * Why a connection attempt failed.
 *
 * @category errors
 * @since 0.1.0
 */
export const ConnectReason = Schema.Union([...EndpointReason.members, AllEndpointsFailed])

/**
 * @category errors
 * @since 0.1.0
 */
export type ConnectReason = typeof ConnectReason.Type

/**
 * The reason for which a dial failed, in the user's terms.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromTransportError = (error: TransportError): ConnectReason => {
  const { address, detail, kind } = error
  switch (detail?._tag) {
    case "Tls": {
      const { _tag: _, ...rest } = detail
      return new TlsFailed({ address, ...rest, cause: error })
    }
    case "WebSocket": {
      const { _tag: _, ...rest } = detail
      return new WebSocketFailed({ address, ...rest, cause: error })
    }
    case "Proxy": {
      const { _tag: _, ...rest } = detail
      return new ProxyFailed({ address, ...rest, cause: error })
    }
  }
  if (kind === "unresolved") return new NameNotResolved({ address, cause: error })
  const known = kind === "refused" || kind === "unreachable" || kind === "timeout"
  return new DialFailed({ address, kind: known ? kind : "other", cause: error })
}

/**
 * A connection attempt failed. The layer fails with it, and so do `reconnect` and `resume`.
 *
 * @category errors
 * @since 0.1.0
 */
export class ConnectError extends Schema.TaggedError<ConnectError>()("ConnectError", {
  reason: ConnectReason,
  /** The endpoint that was tried, as a URL; missing where none was, or several were (`AllEndpointsFailed`). */
  endpoint: Schema.optionalKey(Schema.String)
}) {
  /** Whether the same attempt may succeed later without a change of options. */
  get retryable(): boolean {
    return this.reason.retryable
  }
  override get message(): string {
    return this.reason.message
  }
}
