import * as NodeWS from "@effect/platform-node/NodeWS"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Queue, Redacted, Scope } from "effect"
import * as Crypto from "node:crypto"
import type * as Http from "node:http"
import * as Net from "node:net"
import { inspect } from "node:util"
import * as NodeTransport from "../../../src/layers/transport/NodeTransport.ts"
import * as Endpoint from "../../../src/services/Endpoint.ts"
import type { WebSocketEndpoint } from "../../../src/services/Endpoint.ts"
import * as Certificates from "../../support/Certificates.ts"
import { handles, listen, listenTls, pattern, poll, pullBytes, send, summary } from "../../support/Sockets.ts"

const transport = NodeTransport.make({ closeGrace: "200 millis" })

const endpointOf = (port: number, options: Partial<WebSocketEndpoint> = {}) =>
  Endpoint.webSocket("127.0.0.1", { ...options, port })

interface Accepted {
  readonly peer: NodeWS.WebSocket
  readonly request: Http.IncomingMessage
}

/** A WebSocket server on a loopback port. */
const serve = Effect.fnUntraced(function*(options: NodeWS.ServerOptions = {}) {
  const accepted = yield* Queue.unbounded<Accepted>()
  const server = yield* Effect.acquireRelease(
    Effect.callback<NodeWS.WebSocketServer>((resume) => {
      const server: NodeWS.WebSocketServer = new NodeWS.WebSocketServer(
        { host: "127.0.0.1", port: 0, ...options },
        () => resume(Effect.succeed(server))
      )
      server.on("connection", (peer, request) => {
        peer.on("error", () => {})
        Queue.offerUnsafe(accepted, { peer, request })
      })
    }),
    (server) =>
      Effect.callback<void>((resume) => {
        for (const client of server.clients) client.terminate()
        server.close(() => resume(Effect.void))
      })
  )
  return { port: (server.address() as Net.AddressInfo).port, accept: Queue.take(accepted) }
})

/** A proxy that leads to a port of this machine, whatever it is asked for. */
const tunnelTo = Effect.fnUntraced(function*(target: number) {
  const { accept, port } = yield* listen()
  yield* Effect.forkScoped(Effect.map(accept, (peer) => {
    peer.once("data", () => {
      peer.write("HTTP/1.1 200 OK\r\n\r\n")
      peer.pipe(Net.connect(target, "127.0.0.1").on("error", () => {})).pipe(peer)
    })
    peer.resume()
  }))
  return Endpoint.httpProxy("127.0.0.1", port)
})

/** A connection and the peer's side of it, in a scope of its own. */
const open = Effect.fnUntraced(function*(options: Partial<WebSocketEndpoint> = {}) {
  const { accept, port } = yield* serve()
  const scope = yield* Scope.make()
  yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
  const connection = yield* Scope.provide(transport.connect(endpointOf(port, options)), scope)
  return { connection, scope, ...(yield* accept) }
})

/** What the peer receives until it is closed, and the code with which that happened. */
const receive = (peer: NodeWS.WebSocket) =>
  Effect.callback<{ readonly bytes: Buffer; readonly code: number; readonly areBinary: boolean }>((resume) => {
    const chunks: Array<Buffer> = []
    let areBinary = true
    peer.on("message", (data, isBinary) => {
      areBinary &&= isBinary
      chunks.push(data as Buffer)
    })
    peer.once("close", (code) => resume(Effect.succeed({ bytes: Buffer.concat(chunks), code, areBinary })))
  })

/** A peer that completes the handshake and then speaks raw bytes. */
const openRaw = Effect.fnUntraced(function*(
  headers: ReadonlyArray<string> = ["Sec-WebSocket-Protocol: mqtt"],
  options: Partial<WebSocketEndpoint> = {}
) {
  const { accept, port } = yield* listen({ pauseOnConnect: false })
  const fiber = yield* Effect.forkScoped(Effect.exit(transport.connect(endpointOf(port, options))))
  const peer = yield* accept
  const request = yield* Effect.callback<string>((resume) => {
    let text = ""
    const onData = (chunk: Buffer) => {
      text += chunk.toString("latin1")
      if (!text.endsWith("\r\n\r\n")) return
      peer.off("data", onData)
      peer.pause()
      resume(Effect.succeed(text))
    }
    peer.on("data", onData)
  })
  const key = /sec-websocket-key: (\S+)/i.exec(request)![1]
  const accepted = Crypto.createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64")
  const head = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
  yield* send(peer, [...head, `Sec-WebSocket-Accept: ${accepted}`, ...headers, "", ""].join("\r\n"))
  return { peer, exit: yield* Fiber.join(fiber), request }
})

const openedRaw = Effect.fnUntraced(function*(options?: Partial<WebSocketEndpoint>) {
  const { exit, peer } = yield* openRaw(undefined, options)
  assert(Exit.isSuccess(exit))
  return { connection: exit.value, peer }
})

const frame = (opcode: number, payload: Uint8Array, isFinal = true) =>
  Buffer.concat([
    payload.length < 126
      ? Uint8Array.of((isFinal ? 0x80 : 0) | opcode, payload.length)
      : Uint8Array.of((isFinal ? 0x80 : 0) | opcode, 126, payload.length >> 8, payload.length & 0xff),
    payload
  ])
const binary = 2
const continuation = 0

describe("NodeWebSocketDial", () => {
  it.live("WS-02b: carries bytes both ways in binary messages, and closes with everything flushed", () =>
    Effect.gen(function*() {
      const before = yield* handles
      yield* Effect.scoped(Effect.gen(function*() {
        const { connection, peer, scope } = yield* open()
        const sent = pattern(3 << 20)
        const received = yield* Effect.forkChild(receive(peer), { startImmediately: true })
        for (let at = 0; at < sent.length; at += 65_536) {
          peer.send(sent.subarray(at, at + 65_536))
          yield* connection.write(sent.subarray(at, at + 65_536))
        }
        assert.isTrue((yield* pullBytes(connection, sent.length)).equals(sent))
        yield* Scope.close(scope, Exit.void)
        const { areBinary, bytes, code } = yield* Fiber.join(received)
        assert.isTrue(bytes.equals(sent))
        assert.isTrue(areBinary)
        assert.strictEqual(code, 1000)
      }))
      assert.deepStrictEqual(yield* handles, before)
    }))

  it.live("does not change the chunks that it is given", () =>
    Effect.gen(function*() {
      const { connection } = yield* open()
      const chunk = Buffer.from("masked on the way, and not in place")
      yield* connection.write(chunk)
      assert.strictEqual(chunk.toString(), "masked on the way, and not in place")
      assert.isFalse(connection.isFlushed!(), "what frames may hold on to it")
    }))

  describe("handshake", () => {
    it.live("WS-04c: asks for the subprotocol mqtt, with path, query and headers, and without extensions", () =>
      Effect.gen(function*() {
        const { request } = yield* open({
          path: "/broker/ws",
          query: Redacted.make("token=hunter2"),
          headers: { authorization: Redacted.make("Bearer hunter2"), "x-tenant": "a" }
        })
        assert.strictEqual(request.url, "/broker/ws?token=hunter2")
        assert.strictEqual(request.headers["sec-websocket-protocol"], "mqtt")
        assert.strictEqual(request.headers.authorization, "Bearer hunter2")
        assert.strictEqual(request.headers["x-tenant"], "a")
        assert.isUndefined(request.headers["sec-websocket-extensions"])
        assert.strictEqual((yield* open()).request.url, "/mqtt")
      }))

    it.live("refused by a status tells it, without a secret in any text", () =>
      Effect.gen(function*() {
        for (const status of [401, 403, 404, 503, 301]) {
          const { accept, port } = yield* listen()
          yield* Effect.forkScoped(Effect.flatMap(accept, (peer) => {
            peer.resume()
            return send(
              peer,
              `HTTP/1.1 ${status} No\r\nLocation: ws://127.0.0.1:1/\r\nContent-Length: 9999999\r\n\r\nx`
            )
          }))
          const before = yield* handles
          const error = yield* Effect.flip(Effect.scoped(transport.connect(endpointOf(port, {
            query: Redacted.make("token=hunter2"),
            headers: { authorization: Redacted.make("Bearer hunter2") }
          }))))
          assert.deepStrictEqual(summary(error), {
            phase: "websocket",
            kind: "websocket",
            detail: { _tag: "WebSocket", reason: "status", status }
          })
          assert.notInclude(inspect(error, { depth: 10 }), "hunter2")
          yield* poll()
          assert.isAtMost((yield* handles).length, before.length + 1)
        }
      }))

    it.live("WS-05s: is refused without the subprotocol, or with another one", () =>
      Effect.gen(function*() {
        for (const headers of [[], ["Sec-WebSocket-Protocol: mqttv3.1"]]) {
          const { exit } = yield* openRaw(headers)
          const error = yield* Effect.flip(exit)
          assert.deepStrictEqual(summary(error), {
            phase: "websocket",
            kind: "websocket",
            detail: { _tag: "WebSocket", reason: "subprotocol" }
          })
          assert.match(error.message, /subprotocol "mqtt"/)
        }
      }))

    it.live("is refused with an extension that nobody asked for", () =>
      Effect.gen(function*() {
        const { exit } = yield* openRaw([
          "Sec-WebSocket-Protocol: mqtt",
          "Sec-WebSocket-Extensions: permessage-deflate"
        ])
        assert.deepStrictEqual((yield* Effect.flip(exit)).detail, { _tag: "WebSocket", reason: "handshake" })
      }))

    it.live("with a peer that does not speak HTTP, hangs up, or sends headers without an end", () =>
      Effect.gen(function*() {
        const answers: ReadonlyArray<(peer: Net.Socket) => void> = [
          (peer) => void peer.write("hunter2 is not HTTP"),
          (peer) => void peer.end(),
          (peer) => void peer.resetAndDestroy(),
          (peer) => void peer.write(`HTTP/1.1 101 Yes\r\nX: ${"x".repeat(1 << 20)}`)
        ]
        for (const answer of answers) {
          const { accept, port } = yield* listen()
          yield* Effect.forkScoped(Effect.flatMap(accept, (peer) =>
            Effect.sync(() => {
              peer.resume()
              answer(peer)
            })))
          const error = yield* Effect.flip(transport.connect(endpointOf(port)))
          assert.deepStrictEqual(summary(error), {
            phase: "websocket",
            kind: "websocket",
            detail: { _tag: "WebSocket", reason: "handshake" }
          })
          assert.notInclude(inspect(error, { depth: 10 }), "rawPacket", "what the peer sent is not kept")
        }
      }))

    it.live("of an address that is no URL fails without its query, and a zone stays on this machine", () =>
      Effect.gen(function*() {
        const { accept, port } = yield* serve()
        const lookup: Net.LookupFunction = (_host, _options, done) => done(null, [{ address: "127.0.0.1", family: 4 }])
        const named = NodeTransport.make({ lookup })
        const options = { port, query: Redacted.make("token=hunter2") }
        const error = yield* Effect.flip(named.connect(Endpoint.webSocket("a<b", options)))
        assert.deepStrictEqual(summary(error).detail, { _tag: "WebSocket", reason: "handshake" })
        assert.notInclude(inspect(error, { depth: 10 }), "hunter2")
        yield* named.connect(Endpoint.webSocket("::1%lo", { ...options, proxy: yield* tunnelTo(port) }))
        const { request } = yield* accept
        assert.strictEqual(request.headers.host, `[::1]:${port}`)
      }))

    it.live("with a server that wants a client certificate tells so", () =>
      Effect.gen(function*() {
        const ca = yield* Certificates.authority()
        const { port } = yield* listenTls({ ...(yield* Certificates.issue(ca)), ca: ca.cert, requestCert: true })
        const endpoint = Endpoint.secureWebSocket("127.0.0.1", { port, tls: { ca: ca.cert } })
        const error = yield* Effect.flip(transport.connect(endpoint))
        assert.deepStrictEqual(summary(error), {
          phase: "websocket",
          kind: "tls",
          detail: { _tag: "Tls", reason: "clientCertificateRequired" }
        })
      }))

    it.live("can be interrupted, and leaves no handle", () =>
      Effect.gen(function*() {
        const { accept, port } = yield* listen()
        const before = yield* handles
        const fiber = yield* Effect.forkChild(Effect.scoped(transport.connect(endpointOf(port))), {
          startImmediately: true
        })
        const peer = yield* accept
        yield* poll()
        assert.isUndefined(fiber.pollUnsafe(), "the handshake is under way")
        yield* Fiber.interrupt(fiber)
        peer.destroy()
        assert.deepStrictEqual(yield* handles, before)
      }))
  })

  describe("reading", () => {
    it.live("holds the peer back while nobody pulls", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* open()
        const part = pattern(1 << 20)
        for (let i = 0; i < 32; i++) peer.send(part)
        yield* poll(2000)
        assert.isAbove(peer.bufferedAmount, 16 << 20, "most of it is still there")
        const all = yield* pullBytes(connection, 32 << 20)
        assert.isTrue(all.subarray(31 << 20).equals(part))
      }))

    it.live("holds a peer back that sends single bytes", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* openedRaw()
        const single = frame(binary, Uint8Array.of(7))
        const sending = yield* Effect.forkChild(
          send(peer, Buffer.alloc(single.length * (4 << 20), single)),
          { startImmediately: true }
        )
        yield* poll(1000)
        assert.isUndefined(sending.pollUnsafe(), "12 MiB must not fit into buffers")
        const first = yield* connection.pull
        assert.isBelow(first.length, 64 * 1024)
      }))

    it.live("does not care how messages are cut into fragments, with pings between them", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* openedRaw()
        yield* send(
          peer,
          Buffer.concat([
            frame(binary, Buffer.from("ab"), false),
            frame(continuation, Buffer.alloc(0), false),
            frame(9, Buffer.from("ping")),
            frame(continuation, Buffer.from("cd"), true),
            frame(binary, Buffer.alloc(0)),
            frame(binary, Buffer.from("ef"))
          ])
        )
        assert.strictEqual((yield* pullBytes(connection, 6)).toString(), "abcdef")
      }))

    it.live("takes no ping or pong of the WebSocket for life of the broker, and answers pings", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* open()
        const pong = yield* Effect.forkChild(
          Effect.callback<string>((resume) => {
            peer.once("pong", (data) => resume(Effect.succeed(data.toString())))
          }),
          { startImmediately: true }
        )
        const pull = yield* Effect.forkChild(connection.pull, { startImmediately: true })
        peer.ping("are you there")
        peer.pong("unasked")
        assert.strictEqual(yield* Fiber.join(pong), "are you there")
        assert.isUndefined(pull.pollUnsafe(), "no byte came")
        peer.send(Buffer.from("x"))
        assert.strictEqual(Buffer.concat(yield* Fiber.join(pull)).toString(), "x")
      }))

    it.live("keeps no answers for a peer that floods it with pings and takes nothing", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* openedRaw()
        yield* Effect.forkScoped(connection.pull)
        const count = 400_000
        yield* send(peer, Buffer.alloc(127 * count, frame(9, Buffer.alloc(125))))
        yield* poll(100)
        let answers = 0
        peer.on("data", (chunk: Buffer) => {
          answers += chunk.length
        })
        peer.resume()
        yield* poll(500)
        assert.isAbove(answers, 0)
        assert.isBelow(answers, count * 131 / 3, "no more than the kernel took")
      }))

    it.live("WS-02b: fails on a text message, and closes with 1003", () =>
      Effect.gen(function*() {
        const { connection, peer, scope } = yield* open()
        const received = yield* Effect.forkChild(receive(peer), { startImmediately: true })
        peer.send(Buffer.from("first"))
        peer.send("not MQTT")
        peer.send(Buffer.from("late"))
        assert.strictEqual((yield* pullBytes(connection, 5)).toString(), "first")
        for (let i = 0; i < 2; i++) {
          const error = yield* Effect.flip(connection.pull)
          assert.deepStrictEqual(summary(error), {
            phase: "read",
            kind: "websocket",
            detail: { _tag: "WebSocket", reason: "textMessage" }
          })
          assert.notInclude(inspect(error), "not MQTT")
        }
        assert.strictEqual((yield* Effect.flip(connection.write(new Uint8Array(1)))).kind, "websocket")
        assert.strictEqual((yield* Fiber.join(received)).code, 1003)
        yield* Scope.close(scope, Exit.void)
      }))

    it.live("fails on a message that is too long, be it in one frame or in many", () =>
      Effect.gen(function*() {
        const whole = yield* openedRaw({ maxMessageBytes: 1024 })
        yield* send(whole.peer, frame(binary, new Uint8Array(1025)))
        const parts = yield* openedRaw({ maxMessageBytes: 1024 })
        yield* send(parts.peer, frame(binary, new Uint8Array(1000), false))
        yield* send(parts.peer, frame(continuation, new Uint8Array(1000), false))
        for (const { connection } of [whole, parts]) {
          const error = yield* Effect.flip(connection.pull)
          assert.deepStrictEqual(error.detail, { _tag: "WebSocket", reason: "frame" })
          assert.strictEqual(error.code, "WS_ERR_UNSUPPORTED_MESSAGE_LENGTH")
        }
      }))

    it.live("fails on what is no frame", () =>
      Effect.gen(function*() {
        for (const bytes of [[0xff, 0], [0x83, 0], [0x80, 1, 1], [0x82, 0x81, 1, 2, 3, 4, 5]]) {
          const { connection, peer } = yield* openedRaw()
          yield* send(peer, Uint8Array.from(bytes))
          assert.deepStrictEqual((yield* Effect.flip(connection.pull)).detail, { _tag: "WebSocket", reason: "frame" })
        }
      }))

    for (const code of [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4000, 4999]) {
      it.live(`gives what came before a close with ${code}, and then tells it`, () =>
        Effect.gen(function*() {
          const { connection, peer } = yield* open()
          peer.send(Buffer.from("last words"))
          peer.close(code, "hunter2")
          assert.strictEqual((yield* pullBytes(connection, 10)).toString(), "last words")
          for (let i = 0; i < 2; i++) {
            const error = yield* Effect.flip(connection.pull)
            assert.deepStrictEqual(
              summary(error),
              code <= 1001
                ? { phase: "read", kind: "eof", detail: undefined }
                : { phase: "read", kind: "websocket", detail: { _tag: "WebSocket", reason: "closed", closeCode: code } }
            )
            assert.notInclude(inspect(error), "hunter2")
          }
        }))
    }

    it.live("tells a close without a code, an end without a close and a reset apart", () =>
      Effect.gen(function*() {
        const close = yield* open()
        close.peer.close()
        assert.strictEqual((yield* Effect.flip(close.connection.pull)).kind, "eof")
        const end = yield* openedRaw()
        end.peer.end()
        assert.strictEqual((yield* Effect.flip(end.connection.pull)).kind, "eof")
        const reset = yield* openedRaw()
        reset.peer.resetAndDestroy()
        assert.strictEqual((yield* Effect.flip(reset.connection.pull)).kind, "reset")
      }))

    it.live("does not wait for a peer that closes and stays", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* openedRaw()
        yield* send(peer, frame(8, Uint8Array.of(0x03, 0xe9)))
        assert.strictEqual((yield* Effect.flip(connection.pull)).kind, "eof")
      }))
  })

  describe("writing", () => {
    it.live("suspends while the peer takes no more, with no more than a chunk above the bound in memory", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* open()
        peer.pause()
        const chunk = pattern(65_536)
        let accepted = 0
        const write = yield* Effect.forkChild(
          Effect.forever(Effect.tap(connection.write(chunk), () => Effect.sync(() => accepted++))),
          { startImmediately: true }
        )
        // Both kernels' buffers take some; after that nothing moves.
        yield* poll(500)
        const before = accepted
        yield* poll(500)
        assert.strictEqual(accepted, before, "the write is held back")
        const received = yield* Effect.forkChild(receive(peer), { startImmediately: true })
        peer.resume()
        while (accepted < before + 100) yield* poll(1)
        yield* Fiber.interrupt(write)
        yield* connection.abort
        const { bytes } = yield* Fiber.join(received)
        assert.isTrue(bytes.subarray(65_536, 131_072).equals(chunk))
      }))

    it.live("that is suspended fails when the peer goes, and abort destroys at once", () =>
      Effect.gen(function*() {
        for (const how of ["reset", "aborted"] as const) {
          const { connection, peer } = yield* openedRaw()
          const write = yield* Effect.forkChild(
            Effect.flip(Effect.forever(connection.write(new Uint8Array(65_536)))),
            { startImmediately: true }
          )
          yield* poll(200)
          assert.isUndefined(write.pollUnsafe())
          if (how === "reset") peer.resetAndDestroy()
          else yield* connection.abort
          assert.strictEqual((yield* Fiber.join(write)).kind, how)
          assert.strictEqual((yield* Effect.flip(connection.write(new Uint8Array(1)))).kind, how)
        }
      }))
  })

  it.live("a close of the scope ends after the grace when the peer takes nothing", () =>
    Effect.gen(function*() {
      const before = yield* handles
      yield* Effect.scoped(Effect.gen(function*() {
        const { connection } = yield* openedRaw()
        yield* Effect.forkChild(Effect.exit(Effect.forever(connection.write(new Uint8Array(65_536)))), {
          startImmediately: true
        })
        yield* poll(200)
      }))
      assert.deepStrictEqual(yield* handles, before)
    }))
})
