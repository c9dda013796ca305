/**
 * What an error of Node means: the kinds of `TransportError`, from the codes of the operating system, of OpenSSL and of
 * Node.
 *
 * @since 0.1.0
 */
import type { TlsReason, TransportDetail, TransportPhase } from "../../services/Transport.ts"
import { TransportError } from "../../services/Transport.ts"

/** Why a stream is dead, or could not be opened. */
export interface Fault {
  readonly kind: TransportError["kind"]
  readonly code?: string | undefined
  readonly detail?: TransportDetail | undefined
  readonly cause?: unknown
}

export const toFault = (cause: NodeJS.ErrnoException, phase: TransportPhase): Fault => {
  const reason = tlsReasonOf(cause.code)
  if (reason !== undefined) return { kind: "tls", code: cause.code, detail: { _tag: "Tls", reason }, cause }
  return { kind: toKind(cause.code, phase), code: cause.code, cause }
}

const toKind = (code: string | undefined, phase: TransportPhase): TransportError["kind"] => {
  if (phase === "dns") return "unresolved"
  switch (code) {
    // The path of a Unix domain socket that is not there, or that nobody listens on any more.
    case "ENOENT":
    case "ECONNREFUSED":
      return "refused"
    case "ECONNRESET":
    case "EPIPE":
      return "reset"
    case "EHOSTUNREACH":
    case "EHOSTDOWN":
    case "ENETUNREACH":
    case "ENETDOWN":
    case "EADDRNOTAVAIL":
      return "unreachable"
    case "ETIMEDOUT":
      return phase === "connect" ? "timeout" : "other"
    default:
      return "other"
  }
}

/** What a code of Node's TLS means; undefined if it is none. */
export const tlsReasonOf = (code: string | undefined): TlsReason | undefined => {
  switch (code) {
    case undefined:
      return undefined
    case "CERT_HAS_EXPIRED":
      return "expired"
    case "CERT_NOT_YET_VALID":
      return "notYetValid"
    case "DEPTH_ZERO_SELF_SIGNED_CERT":
      return "selfSigned"
    case "SELF_SIGNED_CERT_IN_CHAIN":
    case "UNABLE_TO_GET_ISSUER_CERT":
    case "UNABLE_TO_GET_ISSUER_CERT_LOCALLY":
    case "UNABLE_TO_VERIFY_LEAF_SIGNATURE":
    case "CERT_UNTRUSTED":
    case "CERT_REJECTED":
    case "INVALID_CA":
      return "unknownAuthority"
    case "ERR_TLS_CERT_ALTNAME_INVALID":
    case "HOSTNAME_MISMATCH":
      return "wrongHost"
    case "ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED":
      return "clientCertificateRequired"
    case "ERR_SSL_WRONG_VERSION_NUMBER":
    case "ERR_SSL_PACKET_LENGTH_TOO_LONG":
    case "ERR_SSL_UNKNOWN_PROTOCOL":
    case "ERR_SSL_HTTP_REQUEST":
      return "notTls"
  }
  if (!/^(ERR_SSL_|ERR_TLS_|CERT_|UNABLE_TO_)/.test(code)) return undefined
  return /_ALERT_(BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|CERTIFICATE_|UNKNOWN_CA|ACCESS_DENIED)/.test(code)
    ? "clientCertificateRefused"
    : "other"
}

export const toError = (fault: Fault, phase: TransportPhase, address: string): TransportError =>
  new TransportError({
    phase,
    kind: fault.kind,
    address,
    ...(fault.code === undefined ? undefined : { code: fault.code }),
    ...(fault.detail === undefined ? undefined : { detail: fault.detail }),
    ...(fault.cause === undefined ? undefined : { cause: fault.cause })
  })
