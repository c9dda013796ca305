/**
 * Certificates that a test makes for itself: an authority, and what it signs.
 */
import { Effect } from "effect"
import { generate } from "selfsigned"

export interface KeyPair {
  /** PEM. */
  readonly cert: string
  /** PEM. */
  readonly key: string
}

export interface Options {
  /** Subject. Default `CN=localhost`. */
  readonly name?: string | undefined
  /** Names and addresses that it is for. Default `localhost`, `127.0.0.1` and `::1`. */
  readonly hosts?: ReadonlyArray<string> | undefined
  readonly notBefore?: Date | undefined
  readonly notAfter?: Date | undefined
  readonly passphrase?: string | undefined
}

const day = 24 * 60 * 60 * 1000

/** A date by days from now. */
export const days = (count: number): Date => new Date(new Date().getTime() + count * day)

const sign = (options: Options, ca: KeyPair | undefined, isAuthority: boolean): Effect.Effect<KeyPair> =>
  Effect.map(
    Effect.promise(() =>
      generate([{ name: "commonName", value: options.name ?? "localhost" }], {
        keyType: "ec",
        algorithm: "sha256",
        notBeforeDate: options.notBefore ?? days(-10),
        notAfterDate: options.notAfter ?? days(10),
        ...(ca === undefined ? undefined : { ca }),
        ...(options.passphrase === undefined ? undefined : { passphrase: options.passphrase }),
        extensions: [
          { name: "basicConstraints", cA: isAuthority, critical: true },
          {
            name: "keyUsage",
            critical: true,
            ...(isAuthority ? { keyCertSign: true, cRLSign: true } : { digitalSignature: true })
          },
          ...(isAuthority ? [] : [
            { name: "extKeyUsage" as const, serverAuth: true, clientAuth: true },
            {
              name: "subjectAltName" as const,
              altNames: (options.hosts ?? ["localhost", "127.0.0.1", "::1"]).map((host) =>
                /^[\d.]+$|:/.test(host) ? { type: 7 as const, ip: host } : { type: 2 as const, value: host }
              )
            }
          ])
        ]
      })
    ),
    (made) => ({ cert: made.cert, key: made.private })
  )

/** An authority. */
export const authority = (name = "test authority"): Effect.Effect<KeyPair> => sign({ name }, undefined, true)

/** An authority that another one signed. */
export const intermediate = (ca: KeyPair, options: Options): Effect.Effect<KeyPair> => sign(options, ca, true)

/** A certificate that the authority signed; for a server as for a client. */
export const issue = (ca: KeyPair, options: Options = {}): Effect.Effect<KeyPair> => sign(options, ca, false)

/** A certificate that nobody signed but itself. */
export const selfSigned = (options: Options = {}): Effect.Effect<KeyPair> => sign(options, undefined, false)
