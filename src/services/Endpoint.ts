/**
 * Where a broker is, and by which road: tagged endpoints, each with the options of its own road, and their URL form.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { Host, isHost, Port, ProxyServer } from "./ProxyServer.ts"
import { TlsOptions } from "./TlsOptions.ts"

export { httpProxy, socks5Proxy } from "./ProxyServer.ts"
export type { HttpConnectProxy, ProxyServer, Socks5Proxy } from "./ProxyServer.ts"
export type { FileSource, Pem, SecretSource, TlsOptions } from "./TlsOptions.ts"

/**
 * What every road over the network has.
 *
 * @category options
 * @since 0.1.0
 */
export interface NetworkOptions {
  /**
   * After how long a silence the operating system probes the peer (TCP keep-alive). Off by default: the keep alive of MQTT
   * finds a dead peer sooner, and proves that the broker lives and not only its machine.
   */
  readonly tcpKeepAlive?: Duration.Input | undefined
  /** Default: none. Environment variables are not looked at. */
  readonly proxy?: ProxyServer | undefined
}

/**
 * A broker on plain TCP: everything is readable on the road, credentials included.
 *
 * @category models
 * @since 0.1.0
 */
export interface TcpEndpoint extends NetworkOptions {
  readonly _tag: "Tcp"
  readonly host: string
  readonly port: number
}

/**
 * A broker behind TLS.
 *
 * @category models
 * @since 0.1.0
 */
export interface TlsEndpoint extends NetworkOptions {
  readonly _tag: "Tls"
  readonly host: string
  readonly port: number
  readonly tls?: TlsOptions | undefined
}

/**
 * Options of a WebSocket. The subprotocol is always `mqtt`, and a server that does not agree to it is refused.
 *
 * @category options
 * @since 0.1.0
 */
export interface WebSocketOptions extends NetworkOptions {
  /** Path of the request, beginning with a slash, percent-encoded where needed, without a query. Default `/mqtt`. */
  readonly path?: string | undefined
  /** What follows the `?`. Signed URLs carry secrets in it, so it is never logged. */
  readonly query?: Redacted.Redacted<string> | undefined
  /** Further headers of the request, for example `Authorization`. */
  readonly headers?: Readonly<Record<string, string | Redacted.Redacted<string>>> | undefined
  /** The longest WebSocket message to accept, in bytes; a longer one ends the connection. Default 32 MiB. */
  readonly maxMessageBytes?: number | undefined
}

/**
 * A broker behind a WebSocket.
 *
 * @category models
 * @since 0.1.0
 */
export interface WebSocketEndpoint extends WebSocketOptions {
  readonly _tag: "WebSocket"
  readonly host: string
  readonly port: number
}

/**
 * A broker behind a WebSocket on TLS.
 *
 * @category models
 * @since 0.1.0
 */
export interface SecureWebSocketEndpoint extends WebSocketOptions {
  readonly _tag: "SecureWebSocket"
  readonly host: string
  readonly port: number
  readonly tls?: TlsOptions | undefined
}

/**
 * A broker on this machine, behind a Unix domain socket (a named pipe on Windows).
 *
 * @category models
 * @since 0.1.0
 */
export interface UnixEndpoint {
  readonly _tag: "Unix"
  readonly path: string
}

/**
 * An endpoint that a transport can dial.
 *
 * @category models
 * @since 0.1.0
 */
export type Endpoint = TcpEndpoint | TlsEndpoint | WebSocketEndpoint | SecureWebSocketEndpoint | UnixEndpoint

// ---------------------------------------------------------------------------
// constructors
// ---------------------------------------------------------------------------

type Input<A extends { readonly port: number }> = number | Partial<Omit<A, "_tag" | "host">>

const split = <A extends object>(options: number | A): A | { readonly port: number } =>
  typeof options === "number" ? { port: options } : options

/**
 * An endpoint on plain TCP; the port is 1883 by default.
 *
 * @category constructors
 * @since 0.1.0
 */
export const tcp = (host: string, options: Input<TcpEndpoint> = {}): TcpEndpoint => {
  const { port = 1883, ...rest } = split(options)
  return { _tag: "Tcp", host, port, ...rest }
}

/**
 * An endpoint on TLS; the port is 8883 by default.
 *
 * **Example** (A client certificate that is replaced on disk now and then)
 *
 * ```ts
 * const endpoint = Endpoint.tls("broker.example.com", {
 *   tls: { ca: { file: "ca.pem" }, cert: { file: "client.pem" }, key: { file: "client.key" } }
 * })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const tls = (host: string, options: Input<TlsEndpoint> = {}): TlsEndpoint => {
  const { port = 8883, ...rest } = split(options)
  return { _tag: "Tls", host, port, ...rest }
}

/**
 * An endpoint on a WebSocket; the port is 80 and the path `/mqtt` by default.
 *
 * @category constructors
 * @since 0.1.0
 */
export const webSocket = (host: string, options: Input<WebSocketEndpoint> = {}): WebSocketEndpoint => {
  const { port = 80, ...rest } = split(options)
  return { _tag: "WebSocket", host, port, ...rest }
}

/**
 * An endpoint on a WebSocket on TLS; the port is 443 and the path `/mqtt` by default.
 *
 * @category constructors
 * @since 0.1.0
 */
export const secureWebSocket = (
  host: string,
  options: Input<SecureWebSocketEndpoint> = {}
): SecureWebSocketEndpoint => {
  const { port = 443, ...rest } = split(options)
  return { _tag: "SecureWebSocket", host, port, ...rest }
}

/**
 * An endpoint on a Unix domain socket.
 *
 * @category constructors
 * @since 0.1.0
 */
export const unix = (path: string): UnixEndpoint => ({ _tag: "Unix", path })

// ---------------------------------------------------------------------------
// URLs
// ---------------------------------------------------------------------------

/** URL schemes that `fromUrl` knows. */
const schemes: Readonly<Record<string, Endpoint["_tag"]>> = {
  "mqtt:": "Tcp",
  "tcp:": "Tcp",
  "mqtts:": "Tls",
  "tls:": "Tls",
  "ssl:": "Tls",
  "ws:": "WebSocket",
  "wss:": "SecureWebSocket",
  "mqtt+unix:": "Unix",
  "unix:": "Unix"
}
const knownSchemes = Object.keys(schemes).map((scheme) => `${scheme}//`).join(", ")

/**
 * Reads a URL: `mqtt://` (or `tcp://`), `mqtts://` (or `tls://`, `ssl://`), `ws://`, `wss://`, each with
 * `host[:port]`, and `mqtt+unix:///path` (or `unix:///path`). The failure is a sentence that tells what is wrong with it.
 *
 * **Details**
 *
 * The ports are 1883, 8883, 80 and 443 by default. A WebSocket URL without a path means `/mqtt`; `ws://host/` means `/mqtt`
 * as well, since a URL cannot tell the two apart: use `webSocket("host", { path: "/" })`. A query is kept as a secret.
 *
 * **Gotchas**
 *
 * Credentials do not belong into the URL, since URLs end up in logs: a URL that holds them is refused.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromUrl = (text: string): Result.Result<Endpoint, string> => {
  if (!URL.canParse(text)) return Result.fail(`not a URL; expected one of ${knownSchemes} followed by host[:port]`)
  const url = new URL(text)
  const tag = Object.hasOwn(schemes, url.protocol) ? schemes[url.protocol] : undefined
  if (tag === undefined) {
    return Result.fail(`unknown scheme "${url.protocol}//"; known schemes are ${knownSchemes}`)
  }
  if (url.username !== "" || url.password !== "") {
    return Result.fail("credentials in the URL are refused; use the option \"credentials\"")
  }
  if (url.hash !== "") return Result.fail("a path, query or fragment has no meaning for this scheme")
  if (tag === "Unix") return fromUnixUrl(url)
  if (url.hostname === "") return Result.fail("the host is missing")
  const host = toHost(url.hostname)
  if (host === undefined) return Result.fail("the host is not a valid name")
  const port = url.port === "" ? undefined : Number(url.port)
  if (port === 0) return Result.fail("port 0 cannot be dialled")
  const options = port === undefined ? {} : { port }
  if (tag === "Tcp" || tag === "Tls") {
    if ((url.pathname !== "" && url.pathname !== "/") || url.search !== "") {
      return Result.fail("a path, query or fragment has no meaning for this scheme")
    }
    return Result.succeed(tag === "Tcp" ? tcp(host, options) : tls(host, options))
  }
  const request = {
    ...options,
    ...(url.pathname === "/" ? undefined : { path: url.pathname }),
    ...(url.search === "" ? undefined : { query: Redacted.make(url.search.slice(1)) })
  }
  return Result.succeed(tag === "WebSocket" ? webSocket(host, request) : secureWebSocket(host, request))
}

/** An address without brackets, a name in ASCII: of schemes that it does not know, `URL` leaves the host as it is. */
const toHost = (hostname: string): string | undefined => {
  if (hostname.startsWith("[")) return hostname.slice(1, -1)
  const known = `http://${hostname}/`
  const host = !hostname.includes("%") ? hostname : URL.canParse(known) ? new URL(known).hostname : ""
  return isHost(host) ? host : undefined
}

const fromUnixUrl = (url: URL): Result.Result<Endpoint, string> => {
  if (url.host !== "") {
    return Result.fail("a socket path has no host; write three slashes, as in mqtt+unix:///run/broker")
  }
  if (url.search !== "") return Result.fail("a query has no meaning for this scheme; write ? in a path as %3F")
  if (url.pathname === "" || url.pathname === "/") return Result.fail("the path of the socket is missing")
  try {
    const path = decodeURIComponent(url.pathname)
    return path.includes("\0") ? Result.fail("a path has no null characters") : Result.succeed(unix(path))
  } catch {
    return Result.fail("the path of the socket is not percent-encoded UTF-8")
  }
}

const authority = (host: string, port: number): string => `${host.includes(":") ? `[${host}]` : host}:${port}`

/**
 * What is dialled in the end: `host:port`, or the path of the socket. Fit for logs and errors.
 *
 * @category destructors
 * @since 0.1.0
 */
export const toAddress = (endpoint: Endpoint): string =>
  endpoint._tag === "Unix" ? endpoint.path : authority(endpoint.host, endpoint.port)

/**
 * The endpoint as a URL, fit for logs and errors: it holds no query, no header and nothing of a proxy.
 *
 * @category destructors
 * @since 0.1.0
 */
export const toUrl = (endpoint: Endpoint): string => {
  switch (endpoint._tag) {
    case "Tcp":
      return `mqtt://${toAddress(endpoint)}`
    case "Tls":
      return `mqtts://${toAddress(endpoint)}`
    case "WebSocket":
      return `ws://${toAddress(endpoint)}${endpoint.path ?? "/mqtt"}`
    case "SecureWebSocket":
      return `wss://${toAddress(endpoint)}${endpoint.path ?? "/mqtt"}`
    case "Unix":
      return `mqtt+unix://${endpoint.path.split("/").map(encodeURIComponent).join("/")}`
  }
}

// ---------------------------------------------------------------------------
// schemas
// ---------------------------------------------------------------------------

const PositiveDuration = Schema.declare<Duration.Input>(
  (value): value is Duration.Input =>
    !Number.isNaN(value) &&
    Option.exists(Duration.fromInput(value as Duration.Input), (duration) => Duration.toMillis(duration) >= 1000),
  { expected: "a duration of at least 1 second" }
)

const RequestPath = Schema.String.check(
  Schema.makeFilter((value) => /^\/[\x21-\x7e]*$/.test(value) && !/[?#]/.test(value), {
    expected: "a percent-encoded path that begins with / and has no query (which has an option of its own)"
  })
)

const Query = Schema.declare<Redacted.Redacted<string>>((value): value is Redacted.Redacted<string> => {
  if (!Redacted.isRedacted(value)) return false
  const text = Redacted.value(value)
  return typeof text === "string" && /^[\x21-\x7e]*$/.test(text) && !/^\?|#/.test(text)
}, { expected: "a percent-encoded query without its ?, as Redacted text (Redacted.make)" })

/** Headers that the handshake itself needs. */
const ownHeaders = /^(sec-websocket-.*|upgrade|connection|content-length|transfer-encoding)$/i

// The characters that node:http accepts (RFC 9110 §5.5), so that nothing is left for it to refuse.
const isHeaderValue = (text: unknown): boolean => typeof text === "string" && /^[\t\x20-\x7e\x80-\xff]*$/.test(text)

const HeaderValue = Schema.declare<string | Redacted.Redacted<string>>(
  (value): value is string | Redacted.Redacted<string> =>
    isHeaderValue(Redacted.isRedacted(value) ? Redacted.value(value) : value),
  { expected: "the text of a header, or that as Redacted (Redacted.make)" }
)

const Headers = Schema.Record(Schema.String, HeaderValue).check(
  Schema.makeFilter((headers) => {
    // Not repeated: it may be a whole header line, with its secret.
    const isName = (name: string) => /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(name)
    if (!Object.keys(headers).every(isName)) return "one of the names is no name of a header"
    const own = Object.keys(headers).find((name) => ownHeaders.test(name))
    return own === undefined || `"${own}" belongs to the WebSocket handshake`
  })
)

const networkFields = {
  tcpKeepAlive: Schema.optional(PositiveDuration),
  proxy: Schema.optional(ProxyServer)
}
const addressFields = { host: Host, port: Port }
const webSocketFields = {
  path: Schema.optional(RequestPath),
  query: Schema.optional(Query),
  headers: Schema.optional(Headers),
  maxMessageBytes: Schema.optional(Schema.Int.check(Schema.isBetween({ minimum: 1024, maximum: 0x7fffffff })))
}
const SocketPath = Schema.NonEmptyString.check(
  Schema.makeFilter((value) => !value.includes("\0"), { expected: "a path without null characters" })
)

/**
 * @category schemas
 * @since 0.1.0
 */
export const Endpoint: Schema.Codec<Endpoint> = Schema.Union([
  Schema.TaggedStruct("Tcp", { ...addressFields, ...networkFields }),
  Schema.TaggedStruct("Tls", { ...addressFields, ...networkFields, tls: Schema.optional(TlsOptions) }),
  Schema.TaggedStruct("WebSocket", { ...addressFields, ...networkFields, ...webSocketFields }),
  Schema.TaggedStruct("SecureWebSocket", {
    ...addressFields,
    ...networkFields,
    ...webSocketFields,
    tls: Schema.optional(TlsOptions)
  }),
  Schema.TaggedStruct("Unix", { path: SocketPath })
])
