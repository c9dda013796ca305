/**
 * The byte stream below MQTT: dialling an endpoint, reading, writing, and giving up on a peer.
 *
 * A `Transport` knows nothing of MQTT. Every dial gives a fresh `Connection` whose writer belongs to it alone, so bytes of
 * an old connection can never precede the CONNECT of a new one.
 *
 * @since 0.1.0
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Endpoint } from "./Endpoint.ts"

/**
 * What a transport was doing when it failed.
 *
 * - `dns`: the host name was being resolved
 * - `connect`: the connection was being opened, to the broker or to its proxy
 * - `proxy`: the proxy was being asked for a way to the broker
 * - `tls`, `websocket`: the handshake was under way
 * - `read`, `write`: the stream was open
 *
 * @category models
 * @since 0.1.0
 */
export const TransportPhase = Schema.Literals(["dns", "connect", "proxy", "tls", "websocket", "read", "write"])

/**
 * @category models
 * @since 0.1.0
 */
export type TransportPhase = typeof TransportPhase.Type

/**
 * The phases of a dial, in their order.
 *
 * @category models
 * @since 0.1.0
 */
export type DialPhase = Exclude<TransportPhase, "read" | "write">

/**
 * The certificate that a TLS failure is about, in the words of OpenSSL.
 *
 * @category models
 * @since 0.1.0
 */
export const CertificateInfo = Schema.Struct({
  /** For example `CN=broker.example.com, O=Example`. */
  subject: Schema.String,
  issuer: Schema.String,
  /** The names that it is for (`DNS:broker.example.com`), if it says so. */
  altNames: Schema.optionalKey(Schema.String),
  validFrom: Schema.String,
  validTo: Schema.String
})

/**
 * @category models
 * @since 0.1.0
 */
export type CertificateInfo = typeof CertificateInfo.Type

/**
 * Why TLS failed.
 *
 * - `expired`, `notYetValid`, `selfSigned`, `unknownAuthority`, `wrongHost`: what is wrong with the server's certificate
 * - `clientCertificateRequired`, `clientCertificateRefused`: what the server thinks of ours
 * - `notTls`: the peer does not speak TLS on this port
 * - `closed`: the peer closed the connection in the handshake, as one may do that does not speak TLS
 * - `invalidMaterial`: a certificate or key of the options cannot be used
 * - `invalidFile`: one of the files that the options name cannot be read or used
 * - `other`: see `code` of the error
 *
 * @category models
 * @since 0.1.0
 */
export const TlsReason = Schema.Literals([
  "expired",
  "notYetValid",
  "selfSigned",
  "unknownAuthority",
  "wrongHost",
  "clientCertificateRequired",
  "clientCertificateRefused",
  "notTls",
  "closed",
  "invalidMaterial",
  "invalidFile",
  "other"
])

/**
 * @category models
 * @since 0.1.0
 */
export type TlsReason = typeof TlsReason.Type

/**
 * Why a WebSocket could not be opened, or ended.
 *
 * - `status`: the server answered the request with another status than 101
 * - `subprotocol`: the server did not agree to the subprotocol `mqtt`
 * - `handshake`: the answer was no WebSocket handshake
 * - `textMessage`: the peer sent text, where MQTT is binary (MQTT 5.0 §6)
 * - `frame`: the peer broke the WebSocket protocol, or sent a message that is too long
 * - `closed`: the peer closed with `closeCode`
 *
 * @category models
 * @since 0.1.0
 */
export const WebSocketReason = Schema.Literals([
  "status",
  "subprotocol",
  "handshake",
  "textMessage",
  "frame",
  "closed"
])

/**
 * @category models
 * @since 0.1.0
 */
export type WebSocketReason = typeof WebSocketReason.Type

/**
 * Why a proxy gave no way to the broker.
 *
 * - `unavailable`: the proxy itself could not be reached
 * - `authenticationRequired`: it wants a user name and password, and none were given
 * - `authenticationRefused`: it did not accept those that were given
 * - `refused`: it would not or could not reach the broker
 * - `closed`: it closed the connection without an answer, as some do that cannot reach the broker
 * - `protocol`: it did not answer as a proxy does
 *
 * @category models
 * @since 0.1.0
 */
export const ProxyReason = Schema.Literals([
  "unavailable",
  "authenticationRequired",
  "authenticationRefused",
  "refused",
  "closed",
  "protocol"
])

/**
 * @category models
 * @since 0.1.0
 */
export type ProxyReason = typeof ProxyReason.Type

/**
 * What a transport knows of a failure of TLS, of a WebSocket or of a proxy.
 *
 * @category models
 * @since 0.1.0
 */
export const TransportDetail = Schema.Union([
  Schema.TaggedStruct("Tls", { reason: TlsReason, certificate: Schema.optionalKey(CertificateInfo) }),
  Schema.TaggedStruct("WebSocket", {
    reason: WebSocketReason,
    /** HTTP status of the answer. */
    status: Schema.optionalKey(Schema.Int),
    closeCode: Schema.optionalKey(Schema.Int)
  }),
  Schema.TaggedStruct("Proxy", {
    reason: ProxyReason,
    /** `host:port` of the proxy. */
    proxy: Schema.String,
    /** HTTP status, or reply code of SOCKS5. */
    status: Schema.optionalKey(Schema.Int)
  })
])

/**
 * @category models
 * @since 0.1.0
 */
export type TransportDetail = typeof TransportDetail.Type

const kindWords = {
  eof: "the peer closed the connection",
  reset: "the connection was reset",
  aborted: "the connection was aborted locally",
  refused: "the connection was refused",
  unresolved: "the host name could not be resolved",
  unreachable: "the host is unreachable",
  timeout: "the operating system gave up dialling",
  tls: "TLS failed",
  websocket: "the WebSocket failed",
  proxy: "the proxy failed",
  other: "the transport failed"
}

const tlsWords: Readonly<Record<TlsReason, string>> = {
  expired: "the certificate of the server has expired",
  notYetValid: "the certificate of the server is not valid yet",
  selfSigned: "the certificate of the server is self-signed and not trusted",
  unknownAuthority: "the certificate of the server was issued by an authority that is not trusted",
  wrongHost: "the certificate of the server is for another host",
  clientCertificateRequired: "the server requires a client certificate",
  clientCertificateRefused: "the server did not accept the client certificate",
  notTls: "the server does not speak TLS on this port",
  closed: "the server closed the connection in the TLS handshake; it may not speak TLS on this port",
  invalidMaterial: "a certificate or key of the options cannot be used",
  invalidFile: "a certificate or key file cannot be read or used",
  other: "TLS failed"
}

const webSocketWords: Readonly<Record<WebSocketReason, string>> = {
  status: "the server refused the WebSocket",
  subprotocol: "the server did not agree to the WebSocket subprotocol \"mqtt\"",
  handshake: "the server did not answer with a WebSocket handshake",
  textMessage: "the peer sent a text message over the WebSocket",
  frame: "the peer broke the WebSocket protocol",
  closed: "the peer closed the WebSocket"
}

const proxyWords: Readonly<Record<ProxyReason, string>> = {
  unavailable: "the proxy could not be reached",
  authenticationRequired: "the proxy requires a user name and password",
  authenticationRefused: "the proxy did not accept the user name and password",
  refused: "the proxy refused the connection to the broker",
  closed: "the proxy closed the connection without an answer",
  protocol: "the proxy did not answer as a proxy does"
}

const detailWords = (detail: TransportDetail): string => {
  switch (detail._tag) {
    case "Tls": {
      const { certificate, reason } = detail
      if (certificate === undefined) return tlsWords[reason]
      const names = certificate.altNames === undefined || reason !== "wrongHost" ? "" : `, for ${certificate.altNames}`
      const span = reason !== "expired" && reason !== "notYetValid"
        ? ""
        : `, valid from ${certificate.validFrom} to ${certificate.validTo}`
      return `${tlsWords[reason]} (${certificate.subject}, issued by ${certificate.issuer}${names}${span})`
    }
    case "WebSocket": {
      const { closeCode, reason, status } = detail
      if (status !== undefined) return `${webSocketWords[reason]} with HTTP status ${status}`
      return closeCode === undefined ? webSocketWords[reason] : `${webSocketWords[reason]} with code ${closeCode}`
    }
    case "Proxy":
      return `${proxyWords[detail.reason]} (proxy ${detail.proxy}${
        detail.status === undefined ? "" : `, status ${detail.status}`
      })`
  }
}

/**
 * A byte stream could not be opened, or ended.
 *
 * **Details**
 *
 * `kind` tells a clean end (`eof`: the peer closed its side), a reset (`reset`), a local abort (`aborted`), a refusal of
 * the dial (`refused`), a name that does not resolve (`unresolved`), a host that cannot be reached (`unreachable`) and a
 * dial that timed out in the operating system (`timeout`) apart. A failure of TLS, of the WebSocket or of the proxy is
 * `tls`, `websocket` or `proxy`, and `detail` says more; everything else is `other`. `code` is the system's own error code
 * where there is one (`ECONNREFUSED`).
 *
 * @category errors
 * @since 0.1.0
 */
export class TransportError extends Schema.TaggedError<TransportError>()("TransportError", {
  phase: TransportPhase,
  kind: Schema.Literals([
    "eof",
    "reset",
    "aborted",
    "refused",
    "unresolved",
    "unreachable",
    "timeout",
    "tls",
    "websocket",
    "proxy",
    "other"
  ]),
  /** `host:port` or path of the peer; never with credentials. */
  address: Schema.String,
  code: Schema.optionalKey(Schema.String),
  detail: Schema.optionalKey(TransportDetail),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    const what = this.detail === undefined ? kindWords[this.kind] : detailWords(this.detail)
    return `${what} (${this.address}, ${this.phase}${this.code === undefined ? "" : `, ${this.code}`})`
  }
}

/**
 * One open byte stream.
 *
 * **Details**
 *
 * Closing the scope that opened it flushes what was written, half-closes, and destroys after a short grace if the peer does
 * not close its side; it never waits for a dead peer. A pull or a write that is suspended at that moment fails.
 *
 * @category models
 * @since 0.1.0
 */
export interface Connection {
  /**
   * The next non-empty batch of chunks, in order. Nothing is read ahead of a pull beyond the transport's own bounded
   * buffer. The chunks belong to the caller: the transport never writes to them again. Fails with `eof` at the end of the
   * stream, and goes on failing.
   */
  readonly pull: Effect.Effect<NonEmptyReadonlyArray<Uint8Array>, TransportError>
  /**
   * Writes one chunk; suspends while the peer does not take more, and fails (never hangs) once the stream is dead. The
   * chunk must not be changed afterwards, until `isFlushed` holds. Writes must not overlap. An interrupted write may have
   * been sent in part, so nothing may be written after it.
   */
  readonly write: (chunk: Uint8Array) => Effect.Effect<void, TransportError>
  /**
   * Whether nothing that was written is held any more, so that the memory of those chunks may be used again. A transport
   * that cannot tell leaves it out: then each chunk has memory of its own.
   */
  readonly isFlushed?: (() => boolean) | undefined
  /** Destroys the stream now, without flushing and without waiting for the peer. A second call does nothing. */
  readonly abort: Effect.Effect<void>
}

/**
 * Opens byte streams to brokers.
 *
 * @category services
 * @since 0.1.0
 */
export class Transport extends Context.Service<Transport, {
  /**
   * Dials the endpoint. The dial can be interrupted at any moment; the stream is closed with the scope. A transport may tell
   * by `onPhase` what it is doing, so that a timeout can say how far it came; it must not be called after the dial has ended.
   */
  readonly connect: (
    endpoint: Endpoint,
    onPhase?: (phase: DialPhase) => void
  ) => Effect.Effect<Connection, TransportError, Scope.Scope>
}>()("effect-mqtt/services/Transport") {}
