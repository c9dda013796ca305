/**
 * Asks a proxy for a way to the broker: HTTP CONNECT with `node:http`, SOCKS5 with `socks`.
 *
 * What comes out is the socket to the proxy, whose bytes are those of the broker from then on.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Http from "node:http"
import type * as Net from "node:net"
import { SocksClient } from "socks"
import type { SocksClientOptions } from "socks"
import type { HttpConnectProxy, ProxyServer, Socks5Proxy } from "../../services/ProxyServer.ts"
import type { ProxyReason, TransportError } from "../../services/Transport.ts"
import { tlsReasonOf, toError } from "./NodeFault.ts"

/** The broker. */
interface Target {
  readonly host: string
  readonly port: number
  readonly address: string
}

const authority = (host: string, port: number): string => `${host.includes(":") ? `[${host}]` : host}:${port}`

/** `host:port` of a proxy. */
export const proxyAddress = (proxy: ProxyServer): string => authority(proxy.host, proxy.port)

/** The failure of a proxy. Its cause must not hold what the proxy was told. */
export const proxyError = (
  proxy: ProxyServer,
  target: Pick<Target, "address">,
  reason: ProxyReason,
  details: { readonly status?: number | undefined; readonly code?: string | undefined; readonly cause?: unknown } = {}
): TransportError =>
  toError(
    {
      kind: "proxy",
      code: details.code,
      detail: {
        _tag: "Proxy",
        reason,
        proxy: proxyAddress(proxy),
        ...(details.status === undefined ? undefined : { status: details.status })
      },
      cause: details.cause
    },
    "proxy",
    target.address
  )

/** Asks for the way. Interrupted, or refused, it destroys the socket. */
export const openTunnel = (
  socket: Net.Socket,
  proxy: ProxyServer,
  target: Target
): Effect.Effect<Net.Socket, TransportError> =>
  proxy._tag === "HttpConnect" ? httpTunnel(socket, proxy, target) : socksTunnel(socket, proxy, target)

const destroy = (socket: Net.Socket) =>
  Effect.sync(() => {
    socket.destroy()
  })

// ---------------------------------------------------------------------------
// HTTP CONNECT
// ---------------------------------------------------------------------------

const httpTunnel = (
  socket: Net.Socket,
  proxy: HttpConnectProxy,
  target: Target
): Effect.Effect<Net.Socket, TransportError> =>
  Effect.callback((resume) => {
    const broker = authority(target.host, target.port)
    const refuse = (...error: [ProxyReason, Parameters<typeof proxyError>[3]?]) => {
      socket.destroy()
      resume(Effect.fail(proxyError(proxy, target, ...error)))
    }
    if (socket.destroyed) return refuse("closed", { code: "ECONNRESET" })
    const { password, username } = proxy
    const credentials = username === undefined
      ? undefined
      : Buffer.from(`${username}:${password === undefined ? "" : Redacted.value(password)}`).toString("base64")
    const options = {
      method: "CONNECT",
      host: proxy.host,
      port: proxy.port,
      path: broker,
      headers: {
        host: broker,
        ...(credentials === undefined ? undefined : { "proxy-authorization": `Basic ${credentials}` })
      },
      createConnection: () => socket
    }
    let request: Http.ClientRequest
    try {
      request = Http.request(options)
    } catch (cause) {
      return refuse("protocol", { code: (cause as NodeJS.ErrnoException).code })
    }
    request.on("error", ({ code, message }: NodeJS.ErrnoException) => {
      const cause = new Error(message)
      const reason = tlsReasonOf(code)
      if (reason === undefined) {
        return refuse(code === "ECONNRESET" || code === "EPIPE" ? "closed" : "protocol", { code, cause })
      }
      // A proxy that wants a certificate of ours says so only after the handshake.
      socket.destroy()
      const fault = { kind: "tls", code, detail: { _tag: "Tls", reason }, cause } as const
      resume(Effect.fail(toError(fault, "proxy", proxyAddress(proxy))))
    })
    request.once("connect", ({ statusCode: status = 0 }, _socket, head) => {
      if (status === 407) {
        return refuse(username === undefined ? "authenticationRequired" : "authenticationRefused", { status })
      }
      if (status < 200 || status > 299) {
        return refuse("refused", { status })
      }
      // Nobody behind it speaks before we do: these bytes are of no broker.
      if (head.length > 0) {
        return refuse("protocol", { cause: new Error("the proxy sent bytes ahead of the broker") })
      }
      resume(Effect.succeed(socket))
    })
    request.once("response", ({ statusCode: status }) => refuse("protocol", { status }))
    request.end()
    return destroy(socket)
  })

// ---------------------------------------------------------------------------
// SOCKS5
// ---------------------------------------------------------------------------

/** The replies of a SOCKS5 server (RFC 1928 §6), by the words of `socks`. */
const replies: Readonly<Record<string, number>> = {
  Failure: 1,
  NotAllowed: 2,
  NetworkUnreachable: 3,
  HostUnreachable: 4,
  ConnectionRefused: 5,
  TTLExpired: 6,
  CommandNotSupported: 7,
  AddressNotSupported: 8
}

const socksTunnel = (
  socket: Net.Socket,
  proxy: Socks5Proxy,
  target: Target
): Effect.Effect<Net.Socket, TransportError> =>
  Effect.callback((resume) => {
    const { password, username } = proxy
    const refuse = (...error: [ProxyReason, Parameters<typeof proxyError>[3]?]) => {
      socket.destroy()
      resume(Effect.fail(proxyError(proxy, target, ...error)))
    }
    if (socket.destroyed) return refuse("closed", { code: "ECONNRESET" })
    const options: SocksClientOptions = {
      command: "connect",
      proxy: {
        host: proxy.host,
        port: proxy.port,
        type: 5,
        ...(username === undefined ? undefined : { userId: username }),
        ...(password === undefined ? undefined : { password: Redacted.value(password) })
      },
      destination: { host: target.host, port: target.port },
      existing_socket: socket,
      timeout: 1
    }
    let client: SocksClient
    try {
      client = new SocksClient(options)
    } catch {
      return refuse("protocol")
    }
    // Its own clock must not end the attempt. It never stops that clock, which would hold client and password until it
    // rings: so it rings at once, and nobody hears it.
    Object.defineProperty(client, "onEstablishedTimeout", { value: () => {} })
    // The error of `socks` holds the options, and so the password: only its words are kept.
    client.once("error", ({ message }) => {
      const [reason, status] = socksReason(message, username !== undefined)
      refuse(reason, { status, cause: new Error(message) })
    })
    client.once("established", () => {
      let isEarly = false
      const onEarly = () => {
        isEarly = true
      }
      socket.on("data", onEarly)
      // `socks` hands on what came too early, and lets the socket flow, when it may have no reader yet.
      setImmediate(() => {
        socket.off("data", onEarly)
        socket.pause()
        if (isEarly) return refuse("protocol", { cause: new Error("the proxy sent bytes ahead of the broker") })
        resume(Effect.succeed(socket))
      })
    })
    client.connect(socket)
    return destroy(socket)
  })

const socksReason = (message: string, hadCredentials: boolean): [ProxyReason, number | undefined] => {
  if (message.includes("Authentication failed")) return ["authenticationRefused", undefined]
  if (message.includes("no accepted authentication type")) {
    return [hadCredentials ? "authenticationRefused" : "authenticationRequired", undefined]
  }
  const rejected = /rejected connection(?: - (\w+))?/.exec(message)
  if (rejected !== null) return ["refused", replies[rejected[1] ?? ""]]
  return [/closed|ECONNRESET|EPIPE/.test(message) ? "closed" : "protocol", undefined]
}
