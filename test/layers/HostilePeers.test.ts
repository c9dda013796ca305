/**
 * Peers that are no broker, or none that anybody would wish for, against the whole client on every road: each ends in a typed
 * error, within its time, with bounded memory and without a handle left behind.
 */
import * as NodeWS from "@effect/platform-node/NodeWS"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Redacted, Stream } from "effect"
import type { Scope } from "effect"
import { TestClock } from "effect/testing"
import type * as Net from "node:net"
import { inspect } from "node:util"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import * as NodeTransport from "../../src/layers/transport/NodeTransport.ts"
import * as Endpoint from "../../src/services/Endpoint.ts"
import type { ClientOptions } from "../../src/services/ClientOptions.ts"
import { Transport } from "../../src/services/Transport.ts"
import { MemoryNetwork } from "../../src/testing/index.ts"
import * as SilentPort from "../integration/support/SilentPort.ts"
import * as Certificates from "../support/Certificates.ts"
import { run } from "../support/ScriptedBroker.ts"
import { handles, listen, listenTls, poll } from "../support/Sockets.ts"

const made = Effect.runPromise(Effect.gen(function*() {
  const ca = yield* Certificates.authority()
  return { ca, server: yield* Certificates.issue(ca) }
}))
const certificates = Effect.promise(() => made)

const secret = { username: "alice", password: Redacted.make("hunter2") }

const build = (options: ClientOptions, transport: NodeTransport.Options = {}) =>
  MqttClient.make({ credentials: secret, ...options }).pipe(
    Effect.provideService(Transport, NodeTransport.make({ closeGrace: "50 millis", ...transport }))
  )

/** The reason for which no client is built; nothing of it is left, and nothing tells a secret. */
const refusal = Effect.fnUntraced(function*(options: ClientOptions, transport?: NodeTransport.Options) {
  const before = yield* handles
  const error = yield* Effect.flip(Effect.scoped(build(options, transport)))
  assert.strictEqual(error._tag, "ConnectError")
  assert.notInclude(inspect(error, { depth: 12 }), "hunter2")
  yield* poll(50)
  // The server's side of the connection may not have noticed yet.
  assert.isAtMost((yield* handles).length, before.length + 1)
  return error.reason
})

const noAnswer: Net.LookupFunction = () => {}

const connack = Uint8Array.of(0x20, 3, 0, 0, 0)
const endless = Buffer.alloc(1 << 20)

/** What a peer does with a connection, whatever the road, once CONNECT has come; `next` waits for more from the client. */
type Script = (send: (bytes: Uint8Array) => void, isOpen: () => boolean, next: (run: () => void) => void) => void

interface Road {
  readonly name: string
  readonly serve: (script: Script) => Effect.Effect<Endpoint.Endpoint, never, Scope.Scope>
}

const play = (socket: Net.Socket, script: Script) => {
  socket.on("error", () => {})
  const next = (run: () => void) => void socket.once("data", run)
  next(() => script((bytes) => void socket.write(bytes), () => !socket.destroyed, next))
}

const roads: ReadonlyArray<Road> = [
  {
    name: "TCP",
    serve: Effect.fnUntraced(function*(script) {
      const { accept, port } = yield* listen({ pauseOnConnect: false })
      yield* Effect.forkScoped(Effect.forever(Effect.map(accept, (socket) => play(socket, script))))
      return Endpoint.tcp("127.0.0.1", port)
    })
  },
  {
    name: "TLS",
    serve: Effect.fnUntraced(function*(script) {
      const { ca, server } = yield* certificates
      const { accept, port } = yield* listenTls(server)
      yield* Effect.forkScoped(Effect.forever(Effect.map(accept, (socket) => play(socket, script))))
      return Endpoint.tls("127.0.0.1", { port, tls: { ca: ca.cert } })
    })
  },
  {
    name: "WebSocket",
    serve: Effect.fnUntraced(function*(script) {
      const server = yield* Effect.acquireRelease(
        Effect.callback<NodeWS.WebSocketServer>((resume) => {
          const server: NodeWS.WebSocketServer = new NodeWS.WebSocketServer(
            { host: "127.0.0.1", port: 0 },
            () => resume(Effect.succeed(server))
          )
        }),
        (server) =>
          Effect.callback<void>((resume) => {
            for (const client of server.clients) client.terminate()
            server.close(() => resume(Effect.void))
          })
      )
      server.on("connection", (peer) => {
        peer.on("error", () => {})
        const next = (run: () => void) => void peer.once("message", run)
        next(() => script((bytes) => peer.send(bytes), () => peer.readyState === peer.OPEN, next))
      })
      return Endpoint.webSocket("127.0.0.1", (server.address() as Net.AddressInfo).port)
    })
  }
]

/** Sends without an end, as fast as the peer takes it. */
const flood: Script = (send, isOpen) => {
  const next = () => {
    if (!isOpen()) return
    send(endless)
    setImmediate(next)
  }
  next()
}

describe("a hostile peer", () => {
  describe("that does not answer ends in a timeout that tells the phase", () => {
    const timeout = { connectTimeout: "100 millis" } as const
    const phaseOf = Effect.fnUntraced(function*(endpoint: Endpoint.Endpoint, transport?: NodeTransport.Options) {
      const start = performance.now()
      const reason = yield* refusal({ endpoint, ...timeout }, transport)
      assert.isBelow(performance.now() - start, 3_000)
      assert(reason._tag === "ConnectTimeout", reason.message)
      return reason.phase
    })

    it.live("dns", () =>
      Effect.gen(function*() {
        assert.strictEqual(yield* phaseOf(Endpoint.tcp("broker.test"), { lookup: noAnswer }), "dns")
      }))

    it.live("connect", () =>
      Effect.gen(function*() {
        assert.strictEqual(yield* phaseOf(Endpoint.tcp("127.0.0.1", yield* SilentPort.make)), "connect")
      }))

    it.live("proxy, tls, websocket and connack", () =>
      Effect.gen(function*() {
        const { port } = yield* listen()
        const silent = { host: "127.0.0.1", port, ...secret }
        for (const proxy of [Endpoint.httpProxy("", silent), Endpoint.socks5Proxy("", silent)]) {
          const endpoint = { ...Endpoint.tls("broker.test"), proxy: { ...proxy, host: "127.0.0.1" } }
          assert.strictEqual(yield* phaseOf(endpoint), "proxy")
        }
        assert.strictEqual(yield* phaseOf(Endpoint.tls("127.0.0.1", port)), "tls")
        assert.strictEqual(yield* phaseOf(Endpoint.webSocket("127.0.0.1", port)), "websocket")
        assert.strictEqual(yield* phaseOf(Endpoint.tcp("127.0.0.1", port)), "connack")
        for (const road of roads) assert.strictEqual(yield* phaseOf(yield* road.serve(() => {})), "connack", road.name)
      }))
  })

  for (const road of roads) {
    describe(`over ${road.name}`, () => {
      it.live("that answers with bytes without an end, which are no packet, breaks the protocol", () =>
        Effect.gen(function*() {
          const reason = yield* refusal({ endpoint: yield* road.serve(flood) })
          assert.strictEqual(reason._tag, "ProtocolError")
        }))

      it.live("that announces a packet of 256 MiB is cut off at the header", () =>
        Effect.gen(function*() {
          const header = Uint8Array.of(0x30, 0xff, 0xff, 0xff, 0x7f)
          const huge: Script = (send, isOpen, next) => {
            send(header)
            flood(send, isOpen, next)
          }
          const reason = yield* refusal({ endpoint: yield* road.serve(huge) })
          assert.strictEqual(reason._tag, "ProtocolError")

          const before = process.memoryUsage()
          const client = yield* build({
            endpoint: yield* road.serve((send, isOpen, next) => {
              send(connack)
              next(() => huge(send, isOpen, next))
            }),
            reconnect: false
          })
          yield* Effect.forkScoped(Effect.exit(client.ping))
          const status = yield* client.statusChanges.pipe(
            Stream.filter((status) => status._tag === "Halted"),
            Stream.runHead,
            Effect.flatMap(Effect.fromOption)
          )
          assert(status._tag === "Halted" && status.cause._tag === "ProtocolError")
          assert.strictEqual(status.cause.reasonCode, 0x95)
          const grown = process.memoryUsage().arrayBuffers - before.arrayBuffers
          assert.isBelow(grown, 64 << 20)
        }))
    })
  }

  it.live("that speaks TLS or HTTP where plain MQTT is spoken is told as such", () =>
    Effect.gen(function*() {
      const answers = [["TLS", Uint8Array.of(0x15, 3, 3, 0, 2, 2, 70)], [
        "HTTP",
        Buffer.from("HTTP/1.1 400 No\r\n\r\n")
      ]] as const
      for (const [name, answer] of answers) {
        const reason = yield* refusal({ endpoint: yield* roads[0]!.serve((send) => send(answer)) })
        assert.strictEqual(reason._tag, "ProtocolError")
        assert.include(reason.message, `the peer speaks ${name} on this port, and not MQTT`)
      }
    }))

  it.live("over WebSocket that sends text, or closes, before CONNACK tells it", () =>
    Effect.gen(function*() {
      const webSocket = roads.find((road) => road.name === "WebSocket")!
      // The server of `ws` sends a string as text.
      const text = yield* webSocket.serve((send) => send("CONNACK" as never))
      const reason = yield* refusal({ endpoint: text })
      assert(reason._tag === "WebSocketFailed")
      assert.strictEqual(reason.reason, "textMessage")
    }))

  it.effect("that sends one byte of CONNACK a minute does not outlast the attempt", () =>
    run(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      const listener = yield* network.listen({ host: "broker" })
      const building = yield* Effect.forkChild(
        Effect.flip(Effect.scoped(MqttClient.make({ endpoint: "mqtt://broker", connectTimeout: "90 seconds" })))
      )
      const start = yield* Clock.currentTimeMillis
      const peer = yield* listener.accept
      for (const byte of ["20", "03", "00"]) {
        yield* peer.sendHex(byte)
        yield* TestClock.adjust("1 minute")
      }
      const error = yield* Fiber.join(building)
      assert(error._tag === "ConnectError" && error.reason._tag === "ConnectTimeout")
      assert.strictEqual(error.reason.phase, "connack")
      assert.isAtLeast((yield* Clock.currentTimeMillis) - start, 90_000)
      assert.isDefined(peer.clientEnd, "the connection is gone")
    })))
})
