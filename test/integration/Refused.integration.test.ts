import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import * as Net from "node:net"
import type { ClientOptions } from "../../src/services/ClientOptions.ts"
import { describeBrokersAndVersions } from "./support/Brokers.ts"
import * as Client from "./support/Client.ts"
import * as Handles from "./support/Handles.ts"
import * as SilentPort from "./support/SilentPort.ts"

/** A server that is no MQTT broker; gives its URL. */
const serve = Effect.fnUntraced(function*(onConnection: (socket: Net.Socket) => void) {
  const sockets = new Set<Net.Socket>()
  const server = yield* Effect.acquireRelease(
    Effect.callback<Net.Server>((resume) => {
      const server = Net.createServer((socket) => {
        sockets.add(socket)
        socket.on("error", () => {})
        onConnection(socket)
      })
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const socket of sockets) socket.destroy()
      })
  )
  return `mqtt://127.0.0.1:${(server.address() as Net.AddressInfo).port}`
})

/** The reason of the failure; no socket is left behind by it. */
const refused = Effect.fnUntraced(function*(options: ClientOptions) {
  const before = yield* Handles.sockets
  const error = yield* Effect.flip(Effect.scoped(Client.make(options)))
  assert.strictEqual(error._tag, "ConnectError")
  assert.deepStrictEqual(yield* Handles.sockets, before, "a refused client leaves no socket")
  return error.reason
})

describeBrokersAndVersions("a first connect", (kind, protocolVersion) => {
  it.live("with bad credentials is refused, typed and for good", () =>
    Effect.gen(function*() {
      const { url } = yield* kind.make({ users: { alice: "secret" } })
      const options = (password: string): ClientOptions => ({
        endpoint: url,
        protocolVersion,
        credentials: { username: "alice", password: Redacted.make(password) }
      })
      const reason = yield* refused(options("wrong"))
      assert(reason._tag === "ConnectRefused")
      const codes = protocolVersion === 4 ? [4, 5] : [0x86, 0x87]
      assert.include(codes, reason.reasonCode)
      assert.strictEqual(reason.protocolVersion, protocolVersion)
      assert.isFalse(reason.retryable)
      assert.notInclude(JSON.stringify(reason), "wrong")
      const client = yield* Client.make(options("secret"))
      assert.strictEqual((yield* client.status)._tag, "Connected")
    }))

  it.live("to a broker that is down is refused, and to be tried again", () =>
    Effect.gen(function*() {
      const broker = yield* kind.make()
      yield* broker.stop
      const reason = yield* refused({ endpoint: broker.url, protocolVersion })
      assert(reason._tag === "DialFailed")
      assert.strictEqual(reason.kind, "refused")
      assert.strictEqual(reason.cause.code, "ECONNREFUSED")
      assert.isTrue(reason.retryable)
    }))

  it.live("with the choice \"retry\" succeeds once the broker is there", () =>
    Effect.gen(function*() {
      const broker = yield* kind.make()
      yield* broker.stop
      const client = yield* Client.make({ endpoint: broker.url, protocolVersion, firstConnect: "retry" })
      const { cause } = yield* Client.awaitStatus(client, "Reconnecting")
      assert.strictEqual(cause._tag, "ConnectError")
      yield* broker.start
      yield* client.awaitConnected
    }))

  it.live("leaves no socket once its scope closes (law 15)", () =>
    Effect.gen(function*() {
      const before = yield* Handles.sockets
      yield* Effect.scoped(Effect.gen(function*() {
        const { url } = yield* kind.make()
        const client = yield* Client.make({ endpoint: url, protocolVersion })
        yield* Client.subscribe(client, "t", { qos: 1 })
        yield* client.publish({ topic: "t", payload: "x", qos: 2 })
      }))
      assert.deepStrictEqual(yield* Handles.sockets, before)
    }))
})

describe("a first connect to what is no broker", () => {
  for (const protocolVersion of [4, 5] as const) {
    describe(protocolVersion === 4 ? "MQTT 3.1.1" : "MQTT 5.0", () => {
      it.live("tells a host name that does not resolve", () =>
        Effect.gen(function*() {
          const reason = yield* refused({ endpoint: "mqtt://broker.invalid", protocolVersion })
          assert(reason._tag === "NameNotResolved")
          assert.strictEqual(reason.cause.phase, "dns")
          assert.isTrue(reason.retryable)
        }))

      it.live("tells a server that says nothing", () =>
        Effect.gen(function*() {
          const url = yield* serve((socket) => socket.resume())
          const reason = yield* refused({ endpoint: url, protocolVersion, connectTimeout: "200 millis" })
          assert(reason._tag === "ConnectTimeout")
          assert.strictEqual(reason.phase, "connack")
          assert.strictEqual(reason.timeoutMillis, 200)
        }))

      it.live("tells a host that does not answer the dial", () =>
        Effect.gen(function*() {
          const port = yield* SilentPort.make
          const reason = yield* refused({
            endpoint: `mqtt://127.0.0.1:${port}`,
            protocolVersion,
            connectTimeout: "200 millis"
          })
          assert(reason._tag === "ConnectTimeout")
          assert.strictEqual(reason.phase, "connect")
        }))

      it.live("tells a server that closes, and one that resets, before it answers", () =>
        Effect.gen(function*() {
          const closes = yield* serve((socket) => socket.once("data", () => socket.end()))
          assert.strictEqual((yield* refused({ endpoint: closes, protocolVersion }))._tag, "ClosedBeforeConnack")
          const resets = yield* serve((socket) => socket.once("data", () => socket.resetAndDestroy()))
          assert.strictEqual((yield* refused({ endpoint: resets, protocolVersion }))._tag, "ClosedBeforeConnack")
        }))

      it.live("tells a web server and a shell server", () =>
        Effect.gen(function*() {
          const web = yield* serve((socket) =>
            socket.once("data", () => socket.end("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))
          )
          assert.strictEqual((yield* refused({ endpoint: web, protocolVersion }))._tag, "ProtocolError")
          const shell = yield* serve((socket) => socket.resume().write("SSH-2.0-OpenSSH_9.2\r\n"))
          const reason = yield* refused({ endpoint: shell, protocolVersion, connectTimeout: "2 seconds" })
          assert.strictEqual(reason._tag, "ProtocolError")
        }))

      it.live("tells a server that speaks the other version", () =>
        Effect.gen(function*() {
          const connack = protocolVersion === 5 ? Uint8Array.of(0x20, 2, 0, 1) : Uint8Array.of(0x20, 3, 0, 0x84, 0)
          const url = yield* serve((socket) => socket.once("data", () => socket.end(connack)))
          const reason = yield* refused({ endpoint: url, protocolVersion })
          assert.include(["UnsupportedProtocolVersion", "ProtocolError"], reason._tag)
        }))
    })
  }
})
