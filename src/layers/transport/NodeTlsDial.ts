/**
 * Secures a socket with TLS.
 *
 * The certificate of the server is checked by Node, with what the options say, before a single byte of ours goes out.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Tls from "node:tls"
import type { FileSource, Pem, SecretSource, TlsOptions } from "../../services/TlsOptions.ts"
import type { CertificateInfo, TlsReason, TransportError } from "../../services/Transport.ts"
import { tlsReasonOf, toError, toFault } from "./NodeFault.ts"

/** Where an error happened, for its message. */
interface Peer {
  readonly host: string
  readonly address: string
}

/** What `openTls` needs, read and checked. It is made anew for every dial, since files may have changed. */
export interface TlsMaterial {
  readonly options: TlsOptions
  readonly secureContext: Tls.SecureContext
}

const fail = (peer: Peer, reason: TlsReason, cause: NodeJS.ErrnoException, certificate?: CertificateInfo) =>
  Effect.fail(toError(
    {
      kind: "tls",
      code: cause.code,
      detail: { _tag: "Tls", reason, ...(certificate === undefined ? undefined : { certificate }) },
      cause
    },
    "tls",
    peer.address
  ))

// ---------------------------------------------------------------------------
// certificates and keys
// ---------------------------------------------------------------------------

type Source = Pem | SecretSource

const isFile = (source: Source | undefined): source is FileSource =>
  typeof source === "object" && !(source instanceof Uint8Array) && !Redacted.isRedacted(source)

const readFile = (path: string): Effect.Effect<Buffer, NodeJS.ErrnoException> =>
  Effect.callback((resume, signal) => {
    Fs.readFile(path, { signal }, (error, data) => resume(error === null ? Effect.succeed(data) : Effect.fail(error)))
  })

const read = (source: Source): Effect.Effect<string | Buffer, NodeJS.ErrnoException> => {
  if (isFile(source)) return readFile(source.file)
  const value = Redacted.isRedacted(source) ? Redacted.value<string | Uint8Array>(source) : source
  return Effect.succeed(typeof value === "string" ? value : Buffer.from(value.buffer, value.byteOffset, value.length))
}

const readOptional = (source: Source | undefined) => source === undefined ? Effect.undefined : read(source)

const sources = (options: TlsOptions): ReadonlyArray<Source | undefined> => [
  ...(Array.isArray(options.ca) ? options.ca as ReadonlyArray<Pem> : [options.ca as Pem | undefined]),
  options.cert,
  options.key,
  options.pfx
]

/** Reads the certificates and keys, and makes sure that they can be used, before anybody is dialled. */
export const prepareTls = (given: TlsOptions | undefined, peer: Peer): Effect.Effect<TlsMaterial, TransportError> => {
  const options = given ?? {}
  const hasFiles = sources(options).some(isFile)
  return Effect.gen(function*() {
    const ca = options.ca === undefined
      ? undefined
      : yield* Effect.forEach(Array.isArray(options.ca) ? options.ca as ReadonlyArray<Pem> : [options.ca as Pem], read)
    const cert = yield* readOptional(options.cert)
    const key = yield* readOptional(options.key)
    const pfx = yield* readOptional(options.pfx)
    const secureContext = yield* Effect.try({
      try: () =>
        Tls.createSecureContext({
          minVersion: options.minVersion ?? "TLSv1.2",
          ...(ca === undefined ? undefined : { ca }),
          ...(cert === undefined ? undefined : { cert }),
          ...(key === undefined ? undefined : { key }),
          ...(pfx === undefined ? undefined : { pfx }),
          ...(options.passphrase === undefined ? undefined : { passphrase: Redacted.value(options.passphrase) })
        }),
      catch: (cause) => cause as NodeJS.ErrnoException
    })
    return { options, secureContext }
  }).pipe(Effect.catch((cause) => fail(peer, hasFiles ? "invalidFile" : "invalidMaterial", cause)))
}

// ---------------------------------------------------------------------------
// handshake
// ---------------------------------------------------------------------------

/** The bytes of the socket belong to the TLS socket from then on, and so does its end. */
export const openTls = (
  socket: Net.Socket,
  material: TlsMaterial,
  peer: Peer,
  highWaterMark: number
): Effect.Effect<Tls.TLSSocket, TransportError> =>
  Effect.callback((resume) => {
    const { options, secureContext } = material
    let chain: ReadonlyArray<Tls.PeerCertificate> = []
    const onError = (cause: NodeJS.ErrnoException) => resume(toFailure(cause, peer, chain))
    if (socket.destroyed) return onError(closedInHandshake())
    // Names are asked for without the dot of the root, and addresses not at all (RFC 6066 §3).
    const name = options.servername ?? peer.host.replace(/%.*$|\.$/, "")
    const settings = {
      socket,
      secureContext,
      // Whom the certificate must be for, if there is no name to ask for.
      host: name,
      servername: Net.isIP(name) === 0 ? name : "",
      rejectUnauthorized: options.insecureSkipVerification !== true,
      highWaterMark,
      ...(options.alpn === undefined ? undefined : { ALPNProtocols: [...options.alpn] })
    }
    let secured: Tls.TLSSocket
    try {
      secured = Tls.connect(settings)
    } catch (cause) {
      return onError(cause as Error)
    }
    // Stays for the life of the socket: an error without a listener would end the process.
    secured.on("error", () => {})
    secured.on("error", onError)
    const onClose = () => onError(closedInHandshake())
    secured.once("close", onClose)
    // Before Node looks at the certificate: once it was rejected, the socket does not know it any more.
    secured.prependListener("secure", () => {
      chain = chainOf(secured)
    })
    secured.once("secureConnect", () =>
      // A turn later, since a server that refuses our certificate may have said so already.
      setImmediate(() => {
        secured.off("error", onError)
        secured.off("close", onClose)
        resume(Effect.succeed(secured))
      }))
    return Effect.sync(() => {
      secured.destroy()
      socket.destroy()
    })
  })

const closedInHandshake = () => Object.assign(new Error("closed in the TLS handshake"), { code: "ECONNRESET" })

const toFailure = (cause: NodeJS.ErrnoException, peer: Peer, chain: ReadonlyArray<Tls.PeerCertificate>) => {
  const reason = tlsReasonOf(cause.code) ??
    (cause.code === "ECONNRESET" || cause.code === "EPIPE" ? "closed" : undefined)
  if (reason === undefined) return Effect.fail(toError(toFault(cause, "tls"), "tls", peer.address))
  return fail(peer, reason, cause, culprit(reason, chain))
}

/** The certificate that a failure is about: the server's own, unless one of its chain is out of date. */
const culprit = (reason: TlsReason, chain: ReadonlyArray<Tls.PeerCertificate>): CertificateInfo | undefined => {
  const now = performance.timeOrigin + performance.now()
  const outOfDate = (certificate: Tls.PeerCertificate) =>
    reason === "expired" ? Date.parse(certificate.valid_to) < now : Date.parse(certificate.valid_from) > now
  switch (reason) {
    case "expired":
    case "notYetValid":
      return describe(chain.find(outOfDate) ?? chain[0])
    case "selfSigned":
    case "unknownAuthority":
    case "wrongHost":
      return describe(chain[0])
    default:
      return undefined
  }
}

/** The certificate of the peer, its issuer, and so on, as far as the peer or the options give them. */
const chainOf = (socket: Tls.TLSSocket): ReadonlyArray<Tls.PeerCertificate> => {
  const chain: Array<Tls.DetailedPeerCertificate> = []
  let next: Tls.DetailedPeerCertificate | undefined = socket.getPeerCertificate(true)
  // A peer without a certificate gives an object without properties; a root is its own issuer.
  while (next?.subject !== undefined && !chain.includes(next) && chain.length < 16) {
    chain.push(next)
    next = next.issuerCertificate
  }
  return chain
}

/** The words are those of the peer: they are kept short, and in the line of a log that they stand in. */
const clip = (text: string): string => {
  const line = text.replace(/[\p{Cc}\u2028\u2029]/gu, " ")
  return line.length > 256 ? `${line.slice(0, 256)}…` : line
}

const toName = (name: Tls.Certificate): string =>
  clip(Object.entries(name ?? {}).map(([key, value]) => `${key}=${String(value)}`).join(", "))

const describe = (certificate: Tls.PeerCertificate | undefined): CertificateInfo | undefined =>
  certificate === undefined ? undefined : {
    subject: toName(certificate.subject),
    issuer: toName(certificate.issuer),
    ...(certificate.subjectaltname === undefined ? undefined : { altNames: clip(certificate.subjectaltname) }),
    validFrom: certificate.valid_from,
    validTo: certificate.valid_to
  }
