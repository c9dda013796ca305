/**
 * How a TLS connection is secured: whom to trust, who we are, and what to speak.
 *
 * @since 0.1.0
 */
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"

/**
 * A file that is read again at every dial, so that what replaced it on disk is used by the next connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface FileSource {
  readonly file: string
}

/**
 * Certificates in PEM form: text, bytes, or a file. One source may hold several certificates, as a chain.
 *
 * @category models
 * @since 0.1.0
 */
export type Pem = string | Uint8Array | FileSource

/**
 * A private key in PEM form, or a PKCS#12 archive: redacted text, redacted bytes, or a file.
 *
 * @category models
 * @since 0.1.0
 */
export type SecretSource = Redacted.Redacted<string> | Redacted.Redacted<Uint8Array> | FileSource

/**
 * Options of TLS. Without any, the certificate of the server is checked against the authorities that Node trusts, and
 * against the host of the endpoint.
 *
 * @category options
 * @since 0.1.0
 */
export interface TlsOptions {
  /** The authorities to trust, in place of those that Node trusts. */
  readonly ca?: Pem | ReadonlyArray<Pem> | undefined
  /** The client's certificate, followed by its intermediates. Needs `key`. */
  readonly cert?: Pem | undefined
  /** The private key of `cert`. */
  readonly key?: SecretSource | undefined
  /** The client's certificate and key as one PKCS#12 archive, in place of `cert` and `key`. */
  readonly pfx?: Redacted.Redacted<Uint8Array> | FileSource | undefined
  /** Decrypts `key` or `pfx`. */
  readonly passphrase?: Redacted.Redacted<string> | undefined
  /**
   * The name that is asked for (SNI) and that the certificate must be for. Default: the host of the endpoint; no SNI if that
   * is an address.
   */
  readonly servername?: string | undefined
  /** Protocols offered by ALPN, for example `["x-amzn-mqtt-ca"]`. Default: no ALPN. */
  readonly alpn?: ReadonlyArray<string> | undefined
  /** Default `"TLSv1.2"`. */
  readonly minVersion?: "TLSv1.2" | "TLSv1.3" | undefined
  /**
   * Accepts any certificate for any host: whoever sits on the road can read and change everything, credentials included.
   * Default false. To trust a certificate of your own, give it as `ca` instead.
   */
  readonly insecureSkipVerification?: boolean | undefined
}

// ---------------------------------------------------------------------------
// schemas
// ---------------------------------------------------------------------------

const isFile = (value: unknown): value is FileSource =>
  typeof value === "object" && value !== null && "file" in value && typeof value.file === "string" &&
  value.file !== "" && Object.keys(value).length === 1

const begin = "-----BEGIN "
const beginBytes = Array.from(begin, (character) => character.charCodeAt(0))

const isPemBytes = (value: Uint8Array): boolean => {
  const first = beginBytes[0]!
  for (let at = value.indexOf(first); at >= 0; at = value.indexOf(first, at + 1)) {
    if (beginBytes.every((byte, index) => value[at + index] === byte)) return true
  }
  return false
}

const isPem = (value: unknown): boolean =>
  typeof value === "string" ? value.includes(begin) : value instanceof Uint8Array && isPemBytes(value)

const Pem = Schema.declare<Pem>((value): value is Pem => isPem(value) || isFile(value), {
  expected: "PEM text or bytes, or { file: \"path\" }"
})

const PrivateKey = Schema.declare<SecretSource>(
  (value): value is SecretSource => Redacted.isRedacted(value) ? isPem(Redacted.value(value)) : isFile(value),
  { expected: "PEM text or bytes as Redacted (Redacted.make), or { file: \"path\" }" }
)

const Pfx = Schema.declare<Redacted.Redacted<Uint8Array> | FileSource>(
  (value): value is Redacted.Redacted<Uint8Array> | FileSource =>
    Redacted.isRedacted(value) ? Redacted.value(value) instanceof Uint8Array : isFile(value),
  { expected: "PKCS#12 bytes as Redacted (Redacted.make), or { file: \"path\" }" }
)

/**
 * Redacted text.
 *
 * @category schemas
 * @since 0.1.0
 */
export const RedactedText = Schema.declare<Redacted.Redacted<string>>(
  (value): value is Redacted.Redacted<string> =>
    Redacted.isRedacted(value) && typeof Redacted.value(value) === "string",
  { expected: "Redacted text (Redacted.make)" }
)

const AlpnProtocol = Schema.String.check(
  Schema.makeFilter((value) => /^[\x21-\x7e]{1,255}$/.test(value), { expected: "1 to 255 visible ASCII characters" })
)

/**
 * @category schemas
 * @since 0.1.0
 */
export const TlsOptions: Schema.Codec<TlsOptions> = Schema.Struct({
  ca: Schema.optional(Schema.Union([Pem, Schema.NonEmptyArray(Pem)])),
  cert: Schema.optional(Pem),
  key: Schema.optional(PrivateKey),
  pfx: Schema.optional(Pfx),
  passphrase: Schema.optional(RedactedText),
  servername: Schema.optional(Schema.NonEmptyString),
  alpn: Schema.optional(Schema.NonEmptyArray(AlpnProtocol)),
  minVersion: Schema.optional(Schema.Literals(["TLSv1.2", "TLSv1.3"])),
  insecureSkipVerification: Schema.optional(Schema.Boolean)
}).check(
  Schema.makeFilter((options) => {
    if (options.pfx !== undefined && (options.cert !== undefined || options.key !== undefined)) {
      return "pfx stands in place of cert and key; give one or the other"
    }
    if ((options.cert === undefined) !== (options.key === undefined)) {
      return options.cert === undefined ? "key needs cert" : "cert needs key"
    }
    if (options.passphrase !== undefined && options.key === undefined && options.pfx === undefined) {
      return "passphrase needs key or pfx"
    }
    return true
  })
)
