/**
 * The whole client over a WebSocket, against a server that a test plays by hand.
 */
import * as NodeWS from "@effect/platform-node/NodeWS"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Queue, Stream } from "effect"
import type * as Net from "node:net"
import { MqttClient } from "../../../src/node.ts"
import * as Endpoint from "../../../src/services/Endpoint.ts"
import type { ClientOptions } from "../../../src/services/ClientOptions.ts"
import { Hex } from "../../../src/testing/index.ts"

/** A server and the connections that it accepted, with what they sent as hex, message by message. */
const serve = Effect.gen(function*() {
  const accepted = yield* Queue.unbounded<{ peer: NodeWS.WebSocket; next: Effect.Effect<string> }>()
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
    const messages = Effect.runSync(Queue.unbounded<string>())
    peer.on("error", () => {})
    peer.on("message", (data) => Queue.offerUnsafe(messages, Hex.encode(data as Buffer)))
    Queue.offerUnsafe(accepted, { peer, next: Queue.take(messages) })
  })
  return {
    endpoint: Endpoint.webSocket("127.0.0.1", (server.address() as Net.AddressInfo).port),
    accept: Queue.take(accepted)
  }
})

const connack = "20 03 00 00 00"

/** A connected client, and the server's side of it. */
const open = Effect.fnUntraced(function*(options: Partial<ClientOptions> = {}) {
  const { accept, endpoint } = yield* serve
  const building = yield* Effect.forkScoped(MqttClient.make({ endpoint, disconnectTimeout: 0, ...options }))
  const { next, peer } = yield* accept
  assert.match(yield* next, /^10 /)
  peer.send(Hex.decode(connack))
  return { client: yield* Fiber.join(building), peer, next }
})

/** The packets as messages of one byte each, with an empty one after each. */
const sendByBytes = (peer: NodeWS.WebSocket, bytes: Uint8Array) => {
  for (const byte of bytes) {
    peer.send(Uint8Array.of(byte))
    peer.send(new Uint8Array(0))
  }
}

describe("a client over a WebSocket", () => {
  it.live("WS-03b: does not care where messages end: a byte of a packet, many packets, or nothing in each", () =>
    Effect.gen(function*() {
      const { client, next, peer } = yield* open()
      const received = yield* Queue.unbounded<string>()
      const subscription = yield* Effect.forkScoped(client.subscription("a"))
      assert.match(yield* next, /^82 /)
      sendByBytes(peer, Hex.decode("90 04 00 01 00 00"))
      const { messages } = yield* Fiber.join(subscription)
      yield* Effect.forkScoped(
        Stream.runForEach(messages, (message) => Queue.offer(received, Buffer.from(message.payload).toString()))
      )
      // A payload of 200 bytes, so that Remaining Length takes two.
      const publish = (digit: number) =>
        Buffer.concat([Hex.decode("30 cc 01 00 01 61 00"), Buffer.alloc(200, `${digit}`)])
      const ten = Buffer.concat(Array.from({ length: 10 }, (_, digit) => publish(digit)))
      peer.send(ten)
      sendByBytes(peer, ten)
      peer.send(ten.subarray(0, 2))
      peer.send(ten.subarray(2))
      for (let i = 0; i < 30; i++) assert.strictEqual(yield* Queue.take(received), `${i % 10}`.repeat(200))
    }))

  it.live("WS-06p: finds a broker dead that answers nothing but the pings of the WebSocket", () =>
    Effect.gen(function*() {
      const { client, next, peer } = yield* open({ keepAlive: "1 second", pingTimeout: "300 millis", reconnect: false })
      // It lives as far as the WebSocket goes: it pings, and answers pings.
      const pinging = setInterval(() => peer.ping(), 50)
      yield* Effect.addFinalizer(() => Effect.sync(() => clearInterval(pinging)))
      assert.strictEqual(yield* next, "c0 00")
      const status = yield* client.statusChanges.pipe(
        Stream.filter((status) => status._tag === "Halted"),
        Stream.runHead,
        Effect.flatMap(Effect.fromOption)
      )
      assert(status._tag === "Halted")
      assert.strictEqual(status.cause._tag, "KeepAliveTimeout")
    }))

  it.live("WS-07p: takes a close of the WebSocket for a lost transport, and tells its code", () =>
    Effect.gen(function*() {
      for (const [code, kind] of [[1001, "eof"], [1013, "websocket"]] as const) {
        const { client, peer } = yield* open({ reconnect: false })
        peer.close(code)
        const status = yield* client.statusChanges.pipe(
          Stream.filter((status) => status._tag === "Halted"),
          Stream.runHead,
          Effect.flatMap(Effect.fromOption)
        )
        assert(status._tag === "Halted" && status.cause._tag === "TransportLost")
        assert.strictEqual(status.cause.cause.kind, kind)
        if (code === 1013) assert.match(status.cause.message, /closed the WebSocket with code 1013/)
      }
    }))
})
