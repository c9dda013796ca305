import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Queue, Redacted, Scope } from "effect"
import * as Net from "node:net"
import { inspect } from "node:util"
import { vi } from "vitest"
import * as NodeTransport from "../../../src/layers/transport/NodeTransport.ts"
import * as Endpoint from "../../../src/services/Endpoint.ts"
import type { HttpConnectProxy, ProxyServer, Socks5Proxy } from "../../../src/services/Endpoint.ts"
import type { DialPhase, TransportDetail } from "../../../src/services/Transport.ts"
import * as Certificates from "../../support/Certificates.ts"
import { handles, listen, listenTls, poll, receive, send } from "../../support/Sockets.ts"

const transport = NodeTransport.make({ closeGrace: "200 millis" })

const secret = { username: "alice", password: Redacted.make("hunter2") }
const basic = Buffer.from("alice:hunter2").toString("base64")

/** What a peer says, by the chunk. */
const hear = Effect.fnUntraced(function*(socket: Net.Socket) {
  const chunks = yield* Queue.unbounded<Buffer>()
  socket.on("data", (chunk: Buffer) => Queue.offerUnsafe(chunks, chunk))
  socket.resume()
  return Queue.take(chunks)
})

type Scenario = (peer: Net.Socket, next: Effect.Effect<Buffer>) => Effect.Effect<unknown>

/** Dials the broker through a scripted proxy; gives the outcome. */
const through = Effect.fnUntraced(function*(proxy: ProxyServer, script: Scenario) {
  const { accept, port } = yield* listen()
  const serving = yield* Effect.forkScoped(Effect.gen(function*() {
    const peer = yield* accept
    yield* script(peer, yield* hear(peer))
    return peer
  }))
  const before = yield* handles
  const scope = yield* Scope.make()
  const endpoint = Endpoint.tcp("broker.test", { port: 1884, proxy: { ...proxy, host: "127.0.0.1", port } })
  const exit = yield* Effect.exit(Scope.provide(transport.connect(endpoint), scope))
  yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
  return { exit, port, before, scope, peer: Fiber.join(serving) }
})

const refusal = Effect.fnUntraced(function*(proxy: ProxyServer, script: Scenario) {
  const { before, exit, port } = yield* through(proxy, script)
  const error = yield* Effect.flip(exit)
  assert.strictEqual(error.phase, "proxy")
  assert.strictEqual(error.kind, "proxy")
  assert.strictEqual(error.address, "broker.test:1884")
  assert(error.detail?._tag === "Proxy")
  assert.strictEqual(error.detail.proxy, `127.0.0.1:${port}`)
  const text = inspect(error, { depth: 10 })
  for (const word of ["hunter2", basic]) assert.notInclude(text, word)
  yield* poll()
  assert.isAtMost((yield* handles).length, before.length + 1, "no socket of ours is left")
  const { _tag: _, proxy: __, ...rest } = error.detail
  return rest satisfies Partial<TransportDetail>
})

const answer = (...parts: ReadonlyArray<string | ReadonlyArray<number>>): Scenario => (peer, next) =>
  Effect.forEach(
    parts,
    (part) => Effect.andThen(next, send(peer, typeof part === "string" ? part : Uint8Array.from(part)))
  )

const hangUp: Scenario = (peer, next) => Effect.andThen(next, Effect.sync(() => void peer.end()))
const reset: Scenario = (peer, next) => Effect.andThen(next, Effect.sync(() => void peer.resetAndDestroy()))

const http = (options: Partial<HttpConnectProxy> = {}) => Endpoint.httpProxy("proxy", options)
const socks = (options: Partial<Socks5Proxy> = {}) => Endpoint.socks5Proxy("proxy", options)

/** Bytes go both ways, and end with the scope. */
const works = Effect.fnUntraced(function*(outcome: Effect.Success<ReturnType<typeof through>>) {
  const connection = yield* outcome.exit
  const peer = yield* outcome.peer
  peer.removeAllListeners("data")
  yield* send(peer, "welcome")
  assert.strictEqual(Buffer.concat(yield* connection.pull).toString(), "welcome")
  const received = yield* Effect.forkChild(receive(peer), { startImmediately: true })
  yield* connection.write(Buffer.from("hello"))
  yield* Scope.close(outcome.scope, Exit.void)
  assert.strictEqual((yield* Fiber.join(received)).toString(), "hello")
})

describe("NodeProxyDial", () => {
  describe("HTTP CONNECT", () => {
    it.live("asks for the broker, and then is the way to it", () =>
      Effect.gen(function*() {
        const heard: Array<string> = []
        yield* works(
          yield* through(http(secret), (peer, next) =>
            Effect.flatMap(next, (request) => {
              heard.push(request.toString())
              return send(peer, "HTTP/1.1 200 Connection established\r\nVia: somebody\r\n\r\n")
            }))
        )
        assert.match(heard[0]!, /^CONNECT broker\.test:1884 HTTP\/1\.1\r\n/)
        assert.match(heard[0]!, /host: broker\.test:1884\r\n/i)
        assert.include(heard[0]!, `proxy-authorization: Basic ${basic}\r\n`)
      }))

    it.live("sends no credentials that were not given", () =>
      Effect.gen(function*() {
        const heard: Array<string> = []
        yield* through(http(), (peer, next) =>
          Effect.flatMap(next, (request) => {
            heard.push(request.toString())
            return send(peer, "HTTP/1.1 200 OK\r\n\r\n")
          }))
        assert.notMatch(heard[0]!, /authorization/i)
      }))

    it.live("tells why it gives no way", () =>
      Effect.gen(function*() {
        const status = (code: number, rest = "") => answer(`HTTP/1.1 ${code} No\r\n${rest}\r\n`)
        const challenge = status(407, "Proxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 3\r\n")
        assert.deepStrictEqual(yield* refusal(http(), challenge), { reason: "authenticationRequired", status: 407 })
        assert.deepStrictEqual(yield* refusal(http(secret), challenge), {
          reason: "authenticationRefused",
          status: 407
        })
        for (const code of [403, 404, 500, 502, 503, 302]) {
          assert.deepStrictEqual(yield* refusal(http(), status(code)), { reason: "refused", status: code })
        }
      }))

    it.live("is refused when it does not answer as a proxy does", () =>
      Effect.gen(function*() {
        for (const script of [hangUp, reset]) {
          assert.strictEqual((yield* refusal(http(secret), script)).reason, "closed")
        }
        const scripts = [
          answer("SSH-2.0-OpenSSH_9.2\r\n"),
          answer(`HTTP/1.1 200 OK\r\nX: ${"x".repeat(1 << 20)}`),
          // Nobody speaks before the client does.
          answer("HTTP/1.1 200 OK\r\n\r\n\x20\x02\x00\x00")
        ]
        for (const script of scripts) assert.strictEqual((yield* refusal(http(secret), script)).reason, "protocol")
      }))

    it.live("can itself be behind TLS, which is checked", () =>
      Effect.gen(function*() {
        const ca = yield* Certificates.authority()
        const server = yield* Certificates.issue(ca)
        const { accept, port } = yield* listenTls(server)
        const dial = (tls: Endpoint.TlsOptions) =>
          transport.connect(
            Endpoint.tcp("broker.test", { proxy: Endpoint.httpProxy("127.0.0.1", { port, tls, ...secret }) })
          )
        const error = yield* Effect.flip(dial({}))
        assert.deepStrictEqual(error.detail?._tag === "Tls" && error.detail.reason, "unknownAuthority")
        assert.strictEqual(error.address, `127.0.0.1:${port}`)
        const serving = yield* Effect.forkScoped(Effect.gen(function*() {
          const peer = yield* accept
          const next = yield* hear(peer)
          const request = (yield* next).toString()
          yield* send(peer, "HTTP/1.1 200 OK\r\n\r\n")
          return { request, hello: (yield* next).toString() }
        }))
        const connection = yield* dial({ ca: ca.cert })
        yield* connection.write(Buffer.from("hello"))
        const { hello, request } = yield* Fiber.join(serving)
        assert.match(request, /^CONNECT broker\.test:1883 /)
        assert.strictEqual(hello, "hello")
      }))
  })

  it.live("over TLS that wants a client certificate tells so", () =>
    Effect.gen(function*() {
      const ca = yield* Certificates.authority()
      const { port } = yield* listenTls({ ...(yield* Certificates.issue(ca)), ca: ca.cert, requestCert: true })
      const proxy = Endpoint.httpProxy("127.0.0.1", { port, tls: { ca: ca.cert }, ...secret })
      const error = yield* Effect.flip(transport.connect(Endpoint.tcp("broker.test", { proxy })))
      assert.deepStrictEqual(error.detail, { _tag: "Tls", reason: "clientCertificateRequired" })
      assert.strictEqual(error.address, `127.0.0.1:${port}`)
      for (const word of ["hunter2", basic]) assert.notInclude(inspect(error, { depth: 10 }), word)
    }))

  it.live("behind TLS is the way to a broker behind TLS, and is let go of at once under a write that it does not take", () =>
    Effect.gen(function*() {
      const ca = yield* Certificates.authority()
      const certificate = yield* Certificates.issue(ca)
      const broker = yield* listenTls(certificate)
      const outer = yield* listenTls(certificate)
      yield* Effect.forkScoped(Effect.forever(Effect.gen(function*() {
        const peer = yield* outer.accept
        yield* yield* hear(peer)
        peer.removeAllListeners("data")
        const onward = Net.connect(broker.port, "127.0.0.1").on("error", () => {})
        yield* send(peer, "HTTP/1.1 200 OK\r\n\r\n")
        peer.pipe(onward).pipe(peer)
      })))
      const dial = (host: string) =>
        transport.connect(Endpoint.tls(host, {
          port: broker.port,
          tls: { ca: ca.cert },
          // What it accepts of the proxy, it does not accept of the broker.
          proxy: Endpoint.httpProxy("127.0.0.1", { port: outer.port, tls: { insecureSkipVerification: true } })
        }))
      for (const how of ["abort", "close"] as const) {
        const scope = yield* Scope.make()
        const connection = yield* Scope.provide(dial("localhost"), scope)
        const peer = yield* broker.accept
        yield* send(peer, "welcome")
        assert.strictEqual(Buffer.concat(yield* connection.pull).toString(), "welcome")
        peer.pause()
        const write = yield* Effect.forkChild(
          Effect.flip(Effect.forever(connection.write(new Uint8Array(65_536)))),
          { startImmediately: true }
        )
        yield* poll(500)
        assert.isUndefined(write.pollUnsafe(), "the write is held back")
        const open = (yield* handles).length
        if (how === "abort") yield* connection.abort
        else yield* Scope.close(scope, Exit.void)
        assert.strictEqual((yield* Fiber.join(write)).kind, "aborted")
        assert.isBelow((yield* handles).length, open, how)
        yield* Scope.close(scope, Exit.void)
        yield* Effect.sync(() => peer.destroy())
      }
      const elsewhere = yield* Effect.flip(dial("elsewhere.test"))
      assert.strictEqual(elsewhere.detail?._tag === "Tls" && elsewhere.detail.reason, "wrongHost")
      assert.strictEqual(elsewhere.address, `elsewhere.test:${broker.port}`)
    }))

  it.live("is not asked for what is no host, and no secret is in the failure", () =>
    Effect.gen(function*() {
      const { port } = yield* listen()
      const cases = [["my host", http(secret)], ["a\r\nb: c", http(secret)], ["a".repeat(256), socks(secret)]] as const
      for (const [host, proxy] of cases) {
        const endpoint = Endpoint.tcp(host, { proxy: { ...proxy, host: "127.0.0.1", port } })
        const exit = yield* Effect.exit(transport.connect(endpoint))
        for (const word of ["hunter2", basic]) assert.notInclude(inspect(exit, { depth: 12 }), word)
        const error = yield* Effect.flip(exit)
        assert.strictEqual(error.detail?._tag === "Proxy" && error.detail.reason, "protocol")
      }
    }))

  describe("SOCKS5", () => {
    const granted = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]

    it.live("may take its time, and leaves no timer that holds the password", () =>
      Effect.gen(function*() {
        const timers = vi.spyOn(globalThis, "setTimeout")
        yield* Effect.addFinalizer(() => Effect.sync(() => timers.mockRestore()))
        yield* works(
          yield* through(socks(), (peer, next) =>
            Effect.gen(function*() {
              yield* next
              const start = performance.now()
              while (performance.now() - start < 20) yield* poll()
              yield* send(peer, Uint8Array.of(5, 0))
              yield* next
              yield* send(peer, Uint8Array.from(granted))
            }))
        )
        const delays = timers.mock.calls.map(([, delay]) => delay ?? 0)
        assert.isNotEmpty(delays)
        assert.isAtMost(Math.max(...delays), 10_000)
      }))

    it.live("asks for the broker by its name, and then is the way to it", () =>
      Effect.gen(function*() {
        const heard: Array<Buffer> = []
        const script = (...answers: ReadonlyArray<ReadonlyArray<number>>): Scenario => (peer, next) =>
          Effect.forEach(answers, (bytes) =>
            Effect.flatMap(next, (request) => {
              heard.push(request)
              return send(peer, Uint8Array.from(bytes))
            }))
        yield* works(yield* through(socks(), script([5, 0], granted)))
        assert.deepStrictEqual([...heard[0]!], [5, 1, 0])
        assert.deepStrictEqual(heard[1]!.subarray(0, 5), Buffer.from([5, 1, 0, 3, 11]))
        assert.strictEqual(heard[1]!.subarray(5, 16).toString(), "broker.test")
        assert.strictEqual(heard[1]!.readUInt16BE(16), 1884)
        heard.length = 0
        yield* works(yield* through(socks(secret), script([5, 2], [1, 0], granted)))
        assert.strictEqual(heard[1]!.toString("latin1"), "\x01\x05alice\x07hunter2")
      }))

    it.live("tells why it gives no way", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* refusal(socks(), answer([5, 0xff])), { reason: "authenticationRequired" })
        assert.deepStrictEqual(yield* refusal(socks(secret), answer([5, 0xff])), { reason: "authenticationRefused" })
        assert.deepStrictEqual(yield* refusal(socks(secret), answer([5, 2], [1, 1])), {
          reason: "authenticationRefused"
        })
        for (let status = 1; status <= 8; status++) {
          const script = answer([5, 0], [5, status, 0, 1, 0, 0, 0, 0, 0, 0])
          assert.deepStrictEqual(yield* refusal(socks(), script), { reason: "refused", status })
        }
      }))

    it.live("is refused when it does not answer as a proxy does", () =>
      Effect.gen(function*() {
        for (const script of [hangUp, reset]) {
          assert.strictEqual((yield* refusal(socks(secret), script)).reason, "closed")
        }
        for (
          const script of [
            answer([5, 0], [...granted, 0x20, 2, 0, 0]),
            answer([4, 0]),
            answer("HTTP/1.1 400 Bad Request\r\n\r\n")
          ]
        ) {
          assert.strictEqual((yield* refusal(socks(secret), script)).reason, "protocol")
        }
      }))
  })

  for (const proxy of [http(secret), socks(secret)]) {
    it.live(`${proxy._tag} that hangs can be interrupted, and leaves no handle`, () =>
      Effect.gen(function*() {
        const { accept, port } = yield* listen()
        const before = yield* handles
        const phases: Array<DialPhase> = []
        const endpoint = Endpoint.tls("broker.test", { proxy: { ...proxy, host: "127.0.0.1", port } })
        const fiber = yield* Effect.forkChild(
          Effect.scoped(transport.connect(endpoint, (phase) => phases.push(phase))),
          { startImmediately: true }
        )
        const peer = yield* accept
        const next = yield* hear(peer)
        yield* next
        yield* poll()
        assert.isUndefined(fiber.pollUnsafe())
        assert.deepStrictEqual(phases, ["connect", "proxy"])
        yield* Fiber.interrupt(fiber)
        peer.destroy()
        assert.deepStrictEqual(yield* handles, before)
      }))

    it.live(`${proxy._tag} that is not there is unavailable`, () =>
      Effect.gen(function*() {
        const { port } = yield* Effect.scoped(listen())
        const endpoint = Endpoint.tcp("broker.test", { proxy: { ...proxy, host: "127.0.0.1", port } })
        const error = yield* Effect.flip(transport.connect(endpoint))
        assert.deepStrictEqual(error.detail, { _tag: "Proxy", reason: "unavailable", proxy: `127.0.0.1:${port}` })
        assert.strictEqual(error.code, "ECONNREFUSED")
        assert.match(error.message, /the proxy could not be reached \(proxy 127\.0\.0\.1:\d+\) \(broker\.test:1883/)
      }))
  }
})
