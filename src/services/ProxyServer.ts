/**
 * A proxy between this client and a broker.
 *
 * @since 0.1.0
 */
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { TlsOptions } from "./TlsOptions.ts"

/**
 * A proxy that opens tunnels with HTTP CONNECT.
 *
 * @category models
 * @since 0.1.0
 */
export interface HttpConnectProxy {
  readonly _tag: "HttpConnect"
  readonly host: string
  readonly port: number
  /** Sent as Basic authentication, in the first request. It must not hold a colon. */
  readonly username?: string | undefined
  readonly password?: Redacted.Redacted<string> | undefined
  /** Given, the proxy itself is spoken to over TLS; `{}` for the defaults. */
  readonly tls?: TlsOptions | undefined
}

/**
 * A SOCKS5 proxy (RFC 1928). The proxy resolves the host name of the broker.
 *
 * @category models
 * @since 0.1.0
 */
export interface Socks5Proxy {
  readonly _tag: "Socks5"
  readonly host: string
  readonly port: number
  /** User name and password (RFC 1929), up to 255 bytes each. */
  readonly username?: string | undefined
  readonly password?: Redacted.Redacted<string> | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export type ProxyServer = HttpConnectProxy | Socks5Proxy

/**
 * A proxy that opens tunnels with HTTP CONNECT; the port is 8080 by default.
 *
 * @category constructors
 * @since 0.1.0
 */
export const httpProxy = (
  host: string,
  options: number | Partial<Omit<HttpConnectProxy, "_tag" | "host">> = {}
): HttpConnectProxy => {
  const { port = 8080, ...rest } = typeof options === "number" ? { port: options } : options
  return { _tag: "HttpConnect", host, port, ...rest }
}

/**
 * A SOCKS5 proxy; the port is 1080 by default.
 *
 * @category constructors
 * @since 0.1.0
 */
export const socks5Proxy = (
  host: string,
  options: number | Partial<Omit<Socks5Proxy, "_tag" | "host">> = {}
): Socks5Proxy => {
  const { port = 1080, ...rest } = typeof options === "number" ? { port: options } : options
  return { _tag: "Socks5", host, port, ...rest }
}

// ---------------------------------------------------------------------------
// schemas
// ---------------------------------------------------------------------------

/**
 * @category schemas
 * @since 0.1.0
 */
export const Port = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65535 }))

/**
 * Whether text is a host that every road can carry: a name in ASCII, or an address, of version 6 with its zone.
 *
 * @category guards
 * @since 0.1.0
 */
export const isHost = (text: string): boolean =>
  /^[A-Za-z0-9._-]{1,255}$/.test(text) || /^(?=.*:.*:)[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9._~-]{1,64})?$/.test(text)

/**
 * A host, as it is dialled. What is none would end up in URLs and headers, and so in errors: a URL with a password in it.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Host = Schema.String.check(
  Schema.makeFilter(isHost, {
    expected: "the name of a host in ASCII, or an address without brackets; a port has an option of its own"
  })
)

const bytes = (text: string): number => new TextEncoder().encode(text).length

const shortText = (expected: string, isRight: (text: string) => boolean) =>
  Schema.String.check(Schema.makeFilter(isRight, { expected }))

const shortSecret = (expected: string, isRight: (text: string) => boolean) =>
  Schema.declare<Redacted.Redacted<string>>((value): value is Redacted.Redacted<string> => {
    if (!Redacted.isRedacted(value)) return false
    const text = Redacted.value(value)
    return typeof text === "string" && isRight(text)
  }, { expected })

// RFC 7617: no control characters, and no colon in the user name, which ends there.
const isBasicText = (text: string) => text.isWellFormed() && !/\p{Cc}/u.test(text)
const isSocksText = (text: string) => text.isWellFormed() && text !== "" && bytes(text) <= 255

const needsUser = Schema.makeFilter((proxy: { readonly username?: unknown; readonly password?: unknown }) =>
  proxy.password === undefined || proxy.username !== undefined || "password needs username"
)

/**
 * @category schemas
 * @since 0.1.0
 */
export const ProxyServer: Schema.Codec<ProxyServer> = Schema.Union([
  Schema.TaggedStruct("HttpConnect", {
    host: Host,
    port: Port,
    username: Schema.optional(
      shortText("a user name without colon and control characters", (text) => isBasicText(text) && !text.includes(":"))
    ),
    password: Schema.optional(shortSecret("Redacted text without control characters (Redacted.make)", isBasicText)),
    tls: Schema.optional(TlsOptions)
  }).check(needsUser),
  Schema.TaggedStruct("Socks5", {
    host: Host,
    port: Port,
    username: Schema.optional(shortText("a user name of 1 to 255 bytes", isSocksText)),
    password: Schema.optional(shortSecret("Redacted text of 1 to 255 bytes (Redacted.make)", isSocksText))
  }).check(needsUser)
])
