import { assert, describe, it } from "@effect/vitest"
import { toFault } from "../../../src/layers/transport/NodeFault.ts"
import type { TransportPhase } from "../../../src/services/Transport.ts"

const faultOf = (code: string | undefined, phase: TransportPhase = "read") => {
  const { detail, kind } = toFault(Object.assign(new Error("message"), code === undefined ? {} : { code }), phase)
  return detail?._tag === "Tls" ? `${kind}: ${detail.reason}` : kind
}

describe("NodeFault", () => {
  const cases: Readonly<Record<string, ReadonlyArray<string>>> = {
    refused: ["ECONNREFUSED", "ENOENT"],
    reset: ["ECONNRESET", "EPIPE"],
    unreachable: ["EHOSTUNREACH", "EHOSTDOWN", "ENETUNREACH", "ENETDOWN", "EADDRNOTAVAIL"],
    other: ["ETIMEDOUT", "EACCES", "ERR_SOCKET_BAD_PORT", "ERR_INVALID_ARG_VALUE"],
    "tls: expired": ["CERT_HAS_EXPIRED"],
    "tls: notYetValid": ["CERT_NOT_YET_VALID"],
    "tls: selfSigned": ["DEPTH_ZERO_SELF_SIGNED_CERT"],
    "tls: unknownAuthority": [
      "SELF_SIGNED_CERT_IN_CHAIN",
      "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
      "UNABLE_TO_GET_ISSUER_CERT",
      "UNABLE_TO_GET_ISSUER_CERT_LOCALLY"
    ],
    "tls: wrongHost": ["ERR_TLS_CERT_ALTNAME_INVALID", "HOSTNAME_MISMATCH"],
    "tls: clientCertificateRequired": ["ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED"],
    "tls: clientCertificateRefused": [
      "ERR_SSL_SSL/TLS_ALERT_BAD_CERTIFICATE",
      "ERR_SSL_SSL/TLS_ALERT_CERTIFICATE_EXPIRED",
      "ERR_SSL_SSL/TLS_ALERT_CERTIFICATE_REVOKED",
      "ERR_SSL_SSL/TLS_ALERT_CERTIFICATE_UNKNOWN",
      "ERR_SSL_SSL/TLS_ALERT_UNSUPPORTED_CERTIFICATE",
      "ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE",
      "ERR_SSL_TLSV1_ALERT_UNKNOWN_CA"
    ],
    "tls: notTls": ["ERR_SSL_WRONG_VERSION_NUMBER", "ERR_SSL_PACKET_LENGTH_TOO_LONG"],
    "tls: other": [
      "ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION",
      "ERR_SSL_SSL/TLS_ALERT_HANDSHAKE_FAILURE",
      "ERR_SSL_DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
      "CERT_SIGNATURE_FAILURE"
    ]
  }
  for (const [kind, codes] of Object.entries(cases)) {
    it(`${kind}: ${codes.join(", ")}`, () => {
      for (const code of codes) assert.strictEqual(faultOf(code), kind, code)
    })
  }

  it("depends on the phase where the code alone does not tell", () => {
    assert.strictEqual(faultOf("ETIMEDOUT", "connect"), "timeout")
    assert.strictEqual(faultOf("EAI_AGAIN", "dns"), "unresolved")
    assert.strictEqual(faultOf(undefined), "other")
  })
})
