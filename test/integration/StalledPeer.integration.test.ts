import * as NodeWS from "@effect/platform-node/NodeWS"
import { assert, describe, it } from "@effect/vitest"
import type { Scope } from "effect"
import { Effect } from "effect"
import { execFile } from "node:child_process"
import * as Net from "node:net"
import * as Tls from "node:tls"
import { fileURLToPath } from "node:url"
import * as Certificates from "../support/Certificates.ts"

const connack = Uint8Array.of(0x20, 3, 0, 0, 0)

/** Takes CONNECT, answers it, and then reads nothing any more. */
const stall = (socket: Net.Socket) => {
  socket.on("error", () => {})
  socket.once("data", () => {
    socket.write(connack)
    socket.pause()
  })
}

const listening = (server: Net.Server): Effect.Effect<number, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<Set<Net.Socket>>((resume) => {
      const sockets = new Set<Net.Socket>()
      server.on("connection", (socket: Net.Socket) => sockets.add(socket))
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(sockets)))
    }),
    (sockets) =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const socket of sockets) socket.destroy()
      })
  ).pipe(Effect.map(() => (server.address() as Net.AddressInfo).port))

const peers: Readonly<Record<string, Effect.Effect<string, never, Scope.Scope>>> = {
  TCP: Effect.map(listening(Net.createServer(stall)), (port) => `mqtt://127.0.0.1:${port}`),
  TLS: Effect.flatMap(
    Certificates.selfSigned(),
    (pair) => Effect.map(listening(Tls.createServer(pair, stall)), (port) => `mqtts://127.0.0.1:${port}`)
  ),
  WebSocket: Effect.acquireRelease(
    Effect.callback<NodeWS.WebSocketServer>((resume) => {
      const server: NodeWS.WebSocketServer = new NodeWS.WebSocketServer(
        { host: "127.0.0.1", port: 0 },
        () => resume(Effect.succeed(server))
      )
      server.on("connection", (peer) => {
        peer.on("error", () => {})
        peer.once("message", () => {
          peer.send(connack)
          peer.pause()
        })
      })
    }),
    (server) =>
      Effect.callback<void>((resume) => {
        for (const client of server.clients) client.terminate()
        server.close(() => resume(Effect.void))
      })
  ).pipe(Effect.map((server) => `ws://127.0.0.1:${(server.address() as Net.AddressInfo).port}`))
}

interface Report {
  readonly acceptedBytes: number
  readonly heldBytes: number
  readonly grownBytes: number
}

const flood = (url: string, bound: number) =>
  Effect.callback<Report, Error>((resume) => {
    const script = fileURLToPath(new URL("support/FloodingClient.ts", import.meta.url))
    const child = execFile(process.execPath, ["--expose-gc", script, url, `${bound}`], (error, stdout) => {
      resume(error === null ? Effect.succeed(JSON.parse(stdout) as Report) : Effect.fail(error))
    })
    return Effect.sync(() => void child.kill("SIGKILL"))
  })

describe("a peer that takes nothing any more", () => {
  const bound = 24 << 20
  for (const [name, peer] of Object.entries(peers)) {
    it.live(`over ${name} costs no more than half above the bound of the outbox (law 14)`, () =>
      Effect.gen(function*() {
        const { acceptedBytes, grownBytes, heldBytes } = yield* flood(yield* peer, bound)
        assert.isAtMost(heldBytes, bound)
        assert.isAtLeast(heldBytes, bound * 0.99, "the outbox is full")
        assert.isAtLeast(acceptedBytes, bound)
        assert.isAtLeast(grownBytes, bound * 0.9, "the measure sees what is held")
        assert.isAtMost(grownBytes, bound * 1.5)
      }))
  }
})
