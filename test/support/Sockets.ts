/**
 * Servers on loopback ports, and what is left of sockets, for tests of transports.
 */
import type { Scope } from "effect"
import { Effect, Queue } from "effect"
import * as Net from "node:net"
import * as Tls from "node:tls"
import type { Connection, TransportError } from "../../src/services/Transport.ts"

/** Lets the event loop poll its sockets: what is in the kernel of this machine has been read afterwards. */
export const poll = (turns = 20): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const turn = (left: number) => {
      if (left === 0) resume(Effect.void)
      else setImmediate(turn, left - 1)
    }
    turn(turns)
  })

/** The handles of sockets that keep the process alive, once what was closed before is gone. */
export const handles: Effect.Effect<ReadonlyArray<string>> = Effect.andThen(
  poll(),
  Effect.sync(() =>
    process.getActiveResourcesInfo().filter((name) => /TCP|Pipe|TLS|GetAddrInfo|Connect|Shutdown|Write/.test(name))
      .sort()
  )
)

export interface Listening<Socket extends Net.Socket> {
  readonly port: number
  /** The server's side of the next connection. */
  readonly accept: Effect.Effect<Socket>
  /** Resets every connection, below TLS. */
  readonly reset: Effect.Effect<void>
}

const serve = <Socket extends Net.Socket>(
  make: (onSocket: (socket: Socket) => void) => Net.Server,
  where: Net.ListenOptions
): Effect.Effect<Listening<Socket>, never, Scope.Scope> =>
  Effect.gen(function*() {
    const accepted = yield* Queue.unbounded<Socket>()
    const sockets = new Set<Net.Socket>()
    const server = yield* Effect.acquireRelease(
      Effect.callback<Net.Server>((resume) => {
        const server = make((socket) => {
          socket.on("error", () => {})
          Queue.offerUnsafe(accepted, socket)
        })
        server.on("connection", (socket: Net.Socket) => {
          sockets.add(socket)
          socket.on("error", () => {})
        })
        server.listen(where, () => resume(Effect.succeed(server)))
      }),
      (server) =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
          for (const socket of sockets) socket.destroy()
        })
    )
    const address = server.address()
    return {
      port: typeof address === "object" && address !== null ? address.port : 0,
      accept: Queue.take(accepted),
      reset: Effect.sync(() => {
        for (const socket of sockets) socket.resetAndDestroy()
        sockets.clear()
      })
    }
  })

const loopback = { port: 0, host: "127.0.0.1" }

/** A server on a loopback port. */
export const listen = (options: Net.ServerOpts = {}, where: Net.ListenOptions = loopback) =>
  serve<Net.Socket>((onSocket) => Net.createServer({ pauseOnConnect: true, ...options }, onSocket), where)

/** A TLS server on a loopback port. */
export const listenTls = (options: Tls.TlsOptions) =>
  serve<Tls.TLSSocket>((onSocket) => {
    const server = Tls.createServer(options, onSocket)
    server.on("tlsClientError", () => {})
    return server
  }, loopback)

/** What arrives up to the end of the stream. */
export const receive = (socket: Net.Socket): Effect.Effect<Buffer> =>
  Effect.callback((resume) => {
    const chunks: Array<Buffer> = []
    socket.on("data", (chunk) => chunks.push(chunk))
    socket.once("end", () => resume(Effect.succeed(Buffer.concat(chunks))))
    socket.resume()
  })

export const send = (socket: Net.Socket, data: Uint8Array | string): Effect.Effect<void> =>
  Effect.callback((resume) => {
    socket.write(data, () => resume(Effect.void))
  })

/** Pulls until `length` bytes are there. */
export const pullBytes = Effect.fnUntraced(function*(connection: Connection, length: number) {
  const chunks: Array<Uint8Array> = []
  let size = 0
  while (size < length) {
    for (const chunk of yield* connection.pull) {
      chunks.push(chunk)
      size += chunk.length
    }
  }
  return Buffer.concat(chunks)
})

/** Bytes whose period fits no buffer size, so that a chunk at a wrong place shows. */
export const pattern = (length: number): Buffer =>
  Buffer.alloc(length, Uint8Array.from({ length: 65_521 }, (_, i) => (i * 31) & 0xff))

/** What a test compares of an error. */
export const summary = (error: TransportError) => ({ phase: error.phase, kind: error.kind, detail: error.detail })
