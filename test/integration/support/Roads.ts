/**
 * Roads to a broker that listens on plain TCP of this machine: TLS, WebSockets, Unix domain sockets, and proxies. Each ends
 * with its scope.
 */
import * as NodeWS from "@effect/platform-node/NodeWS"
import type { Scope } from "effect"
import { Effect } from "effect"
import * as Fs from "node:fs"
import * as Http from "node:http"
import * as Https from "node:https"
import * as Net from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import * as Tls from "node:tls"
import * as ProxyChain from "proxy-chain"

/** A directory for sockets, certificates and keys. */
export const directory: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-mqtt-roads-"))),
  (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
)

/** A server whose connections end with it; gives its port. */
const listening = <Server extends Net.Server>(
  make: () => Server,
  where: Net.ListenOptions = { host: "127.0.0.1", port: 0 }
): Effect.Effect<number, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<readonly [Server, Set<Net.Socket>]>((resume) => {
      const server = make()
      const sockets = new Set<Net.Socket>()
      server.on("connection", (socket: Net.Socket) => {
        sockets.add(socket)
        socket.on("error", () => {})
        socket.once("close", () => sockets.delete(socket))
      })
      server.on("tlsClientError", () => {})
      server.listen(where, () => resume(Effect.succeed([server, sockets])))
    }),
    ([server, sockets]) =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const socket of sockets) socket.destroy()
      })
  ).pipe(Effect.map(([server]) => {
    const address = server.address()
    return typeof address === "object" && address !== null ? address.port : 0
  }))

/** Joins two sockets, to their ends. */
const join = (one: Net.Socket, other: Net.Socket) => {
  for (const [from, to] of [[one, other], [other, one]] as const) {
    from.on("error", () => to.destroy())
    from.once("close", () => to.destroy())
    from.pipe(to)
  }
}

const forward = (port: number) => (socket: Net.Socket) =>
  join(socket, Net.connect({ host: "127.0.0.1", port, noDelay: true }))

/** TLS in front of the broker. */
export const tls = (broker: number, options: Tls.TlsOptions) =>
  listening(() => Tls.createServer(options, forward(broker)))

/** A Unix domain socket in front of the broker; gives its path. */
export const unix = Effect.fnUntraced(function*(broker: number) {
  const path = Path.join(yield* directory, "broker.sock")
  yield* listening(() => Net.createServer(forward(broker)), { path })
  return path
})

/** A WebSocket gateway in front of the broker, as brokers and cloud services have them; with TLS if certificates are given. */
export const webSocket = (broker: number, options?: Https.ServerOptions) =>
  listening(() => {
    const server = options === undefined ? Http.createServer() : Https.createServer(options)
    const gateway = new NodeWS.WebSocketServer({ server, path: "/mqtt", handleProtocols: () => "mqtt" })
    gateway.on("connection", (peer) => {
      const stream = NodeWS.createWebSocketStream(peer)
      const socket = Net.connect({ host: "127.0.0.1", port: broker, noDelay: true })
      stream.on("error", () => socket.destroy())
      socket.on("error", () => stream.destroy())
      socket.once("close", () => stream.destroy())
      stream.once("close", () => socket.destroy())
      stream.pipe(socket).pipe(stream)
    })
    return server
  })

export interface ProxyUser {
  readonly username: string
  readonly password: string
}

/** An HTTP proxy (`proxy-chain`), which knows one user, if any; over TLS if certificates are given. */
export const httpProxy = (user?: ProxyUser, https?: Https.ServerOptions): Effect.Effect<number, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(() => {
      const options = {
        host: "127.0.0.1",
        port: 0,
        prepareRequestFunction: ({ password, username }: ProxyUser) => ({
          requestAuthentication: user !== undefined && (user.username !== username || user.password !== password)
        })
      }
      const server = new ProxyChain.Server(
        https === undefined ? options : { ...options, serverType: "https", httpsOptions: https }
      )
      return server.listen().then(() => server)
    }),
    (server) => Effect.promise(() => server.close(true))
  ).pipe(Effect.map((server) => server.port))

/** A SOCKS5 proxy (RFC 1928, CONNECT alone), which knows one user, if any (RFC 1929). All names are those of this machine. */
export const socksProxy = (user?: ProxyUser) => listening(() => Net.createServer((socket) => serveSocks(socket, user)))

const serveSocks = (socket: Net.Socket, user: ProxyUser | undefined) => {
  let bytes = Buffer.alloc(0)
  let step: "greeting" | "user" | "request" = "greeting"
  const take = (length: number): Buffer => {
    const taken = bytes.subarray(0, length)
    bytes = bytes.subarray(length)
    return taken
  }
  const onData = (chunk: Buffer) => {
    bytes = Buffer.concat([bytes, chunk])
    if (step === "greeting" && bytes.length >= 2 && bytes.length >= 2 + bytes[1]!) {
      const methods = take(2 + bytes[1]!).subarray(2)
      const method = user === undefined ? 0 : 2
      if (!methods.includes(method)) return void socket.end(Uint8Array.of(5, 0xff))
      socket.write(Uint8Array.of(5, method))
      step = user === undefined ? "request" : "user"
    }
    if (step === "user" && bytes.length >= 2 && bytes.length >= 3 + bytes[1]!) {
      const nameEnd = 2 + bytes[1]!
      const end = nameEnd + 1 + bytes[nameEnd]!
      if (bytes.length < end) return
      const text = take(end)
      const isUser = text.subarray(2, nameEnd).toString() === user!.username &&
        text.subarray(nameEnd + 1).toString() === user!.password
      if (!isUser) return void socket.end(Uint8Array.of(1, 1))
      socket.write(Uint8Array.of(1, 0))
      step = "request"
    }
    if (step === "request" && bytes.length >= 5) {
      const hostLength = bytes[3] === 3 ? 1 + bytes[4]! : bytes[3] === 4 ? 16 : 4
      if (bytes.length < 4 + hostLength + 2) return
      const request = take(4 + hostLength + 2)
      socket.off("data", onData)
      socket.pause()
      const target = Net.connect({ host: "127.0.0.1", port: request.readUInt16BE(request.length - 2), noDelay: true })
      target.once("error", () => socket.end(Uint8Array.of(5, 5, 0, 1, 0, 0, 0, 0, 0, 0)))
      target.once("connect", () => {
        socket.write(Uint8Array.of(5, 0, 0, 1, 0, 0, 0, 0, 0, 0))
        target.write(bytes)
        join(socket, target)
      })
    }
  }
  socket.on("data", onData)
}
