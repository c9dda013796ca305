/**
 * Where a broker is: tagged endpoints, and their URL form.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

/**
 * A broker on plain TCP.
 *
 * @category models
 * @since 0.1.0
 */
export interface TcpEndpoint {
  readonly _tag: "Tcp"
  readonly host: string
  readonly port: number
}

/**
 * An endpoint that a transport can dial.
 *
 * @category models
 * @since 0.1.0
 */
export type Endpoint = TcpEndpoint

/**
 * @category schemas
 * @since 0.1.0
 */
export const Endpoint = Schema.Union([
  Schema.TaggedStruct("Tcp", {
    host: Schema.NonEmptyString,
    port: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65535 }))
  })
])

/**
 * An endpoint on plain TCP; the port is 1883 by default.
 *
 * @category constructors
 * @since 0.1.0
 */
export const tcp = (host: string, port: number = 1883): TcpEndpoint => ({ _tag: "Tcp", host, port })

/** URL schemes that `fromUrl` knows. */
const schemes = ["mqtt:", "tcp:"] as const

/**
 * Reads `mqtt://host[:port]` (or `tcp://`). The failure is a sentence that tells what is wrong with the URL.
 *
 * **Gotchas**
 *
 * Credentials do not belong into the URL, since URLs end up in logs: a URL that holds them is refused.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromUrl = (text: string): Result.Result<Endpoint, string> => {
  const known = schemes.map((scheme) => `${scheme}//`).join(", ")
  if (!URL.canParse(text)) return Result.fail(`not a URL; expected one of ${known} followed by host[:port]`)
  const url = new URL(text)
  if (!schemes.some((scheme) => scheme === url.protocol)) {
    return Result.fail(`unknown scheme "${url.protocol}//"; known schemes are ${known}`)
  }
  if (url.username !== "" || url.password !== "") {
    return Result.fail("credentials in the URL are refused; use the option \"credentials\"")
  }
  if (url.hostname === "") return Result.fail("the host is missing")
  if ((url.pathname !== "" && url.pathname !== "/") || url.search !== "" || url.hash !== "") {
    return Result.fail("a path, query or fragment has no meaning for this scheme")
  }
  const host = url.hostname.startsWith("[") ? url.hostname.slice(1, -1) : url.hostname
  const port = url.port === "" ? 1883 : Number(url.port)
  if (port === 0) return Result.fail("port 0 cannot be dialled")
  return Result.succeed({ _tag: "Tcp", host, port })
}

/**
 * The endpoint as `scheme://host:port`, fit for logs and errors.
 *
 * @category destructors
 * @since 0.1.0
 */
export const toUrl = (endpoint: Endpoint): string =>
  `mqtt://${endpoint.host.includes(":") ? `[${endpoint.host}]` : endpoint.host}:${endpoint.port}`
