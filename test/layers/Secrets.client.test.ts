/**
 * Every option that holds a secret, in the whole client on real sockets: the peer gets the secret, where it comes so far, and
 * nothing else does, be it a log, a span, an error, an event, a status or the option itself.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Layer, Logger, Redacted, References, Stream, Tracer } from "effect"
import type { Scope } from "effect"
import type * as Net from "node:net"
import { inspect } from "node:util"
import { MqttClient } from "../../src/node.ts"
import type { ClientOptions } from "../../src/services/ClientOptions.ts"
import * as Endpoint from "../../src/services/Endpoint.ts"
import * as Certificates from "../support/Certificates.ts"
import { listen, listenTls } from "../support/Sockets.ts"

const made = Effect.runPromise(Effect.gen(function*() {
  const ca = yield* Certificates.authority()
  return {
    ca,
    server: yield* Certificates.issue(ca),
    client: yield* Certificates.issue(ca),
    encrypted: yield* Certificates.issue(ca, { passphrase: "hunter2" })
  }
}))
const certificates = Effect.promise(() => made)

const secret = Redacted.make("hunter2")
const credentials = { username: "alice", password: secret }

/** The secret, and what it may be disguised as. */
const words = [
  "hunter2",
  ...["hunter2", "alice:hunter2"].flatMap((text) => [
    Buffer.from(text).toString("base64").replace(/=+$/, ""),
    Buffer.from(text).toString("hex"),
    // As `inspect` and JSON show bytes.
    Buffer.from(text).toString("hex").replace(/(..)(?=.)/g, "$1 "),
    Array.from(Buffer.from(text)).join(","),
    Array.from(Buffer.from(text)).join(", ")
  ])
]

/** The lines of a key, which are its secret. */
const linesOf = (pem: string): ReadonlyArray<string> => pem.split("\n").filter((line) => /^[\w+/=]{40,}$/.test(line))

/** A value in every form in which it may be shown. */
const show = (value: unknown): ReadonlyArray<string> => [
  String(value),
  inspect(value, { depth: Infinity, maxStringLength: Infinity, maxArrayLength: Infinity }),
  inspect(value, { depth: Infinity, maxStringLength: Infinity, maxArrayLength: Infinity, showHidden: true }),
  // The times of spans are of a kind that JSON does not know.
  JSON.stringify(value, (_, part: unknown) => typeof part === "bigint" ? String(part) : part) ?? "",
  value instanceof Error ? `${value.name} ${value.message} ${value.stack}` : ""
]

/** Runs with everything that is said of it collected. */
const overheard = Effect.fnUntraced(function*<A, E>(effect: Effect.Effect<A, E, Scope.Scope>) {
  const texts: Array<string> = []
  const spans: Array<Tracer.NativeSpan> = []
  const logger = Logger.make<unknown, void>((options) => {
    texts.push(
      Logger.formatSimple.log(options),
      Logger.formatLogFmt.log(options),
      Logger.formatJson.log(options),
      ...show(options.message),
      Cause.pretty(options.cause)
    )
  })
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  const exit = yield* Effect.scoped(effect).pipe(
    Effect.tapCause((cause) => Effect.logError("it failed", cause)),
    Effect.withSpan("attempt"),
    Effect.exit,
    Effect.provideService(References.MinimumLogLevel, "Trace" as const),
    Effect.provideService(Tracer.Tracer, tracer),
    Effect.provide(Layer.fresh(Logger.layer([logger])))
  )
  if (Exit.isFailure(exit)) {
    texts.push(...show(exit), ...show(exit.cause), Cause.pretty(exit.cause))
    for (const error of Cause.prettyErrors(exit.cause)) texts.push(...show(error))
    for (const reason of exit.cause.reasons) if (reason._tag === "Fail") texts.push(...show(reason.error))
  } else texts.push(...show(exit.value))
  for (const span of spans) texts.push(...show(Array.from(span.attributes)), ...show(span.events), ...show(span.status))
  return { exit, texts: texts.join("\n"), spans: spans.length }
})

const keepsQuiet = (texts: string, lines: ReadonlyArray<string> = []) => {
  for (const word of [...words, ...lines]) assert.notInclude(texts, word)
}

/** A server that takes what comes and answers each piece with the next of the answers; the last one ends it. */
const answering = Effect.fnUntraced(function*(
  server: { readonly port: number; readonly accept: Effect.Effect<Net.Socket> },
  ...answers: ReadonlyArray<string | Uint8Array>
) {
  const heard: Array<Buffer> = []
  yield* Effect.forkScoped(Effect.forever(Effect.map(server.accept, (peer) => {
    const rest = [...answers]
    peer.on("error", () => {})
    peer.on("data", (chunk: Buffer) => {
      heard.push(chunk)
      const answer = rest.shift()
      if (answer !== undefined) peer.write(answer)
      if (rest.length === 0) peer.end()
    })
    peer.resume()
  })))
  return { port: server.port, heard: () => Buffer.concat(heard).toString("latin1") }
})

/** An attempt that fails with the reason, and says nothing of the secret. */
const fails = Effect.fnUntraced(function*(options: ClientOptions, tag: string, lines?: ReadonlyArray<string>) {
  const { exit, spans, texts } = yield* overheard(MqttClient.make({ reconnect: false, ...options }))
  keepsQuiet([texts, ...show(options)].join("\n"), lines)
  const error = yield* Effect.flip(exit)
  assert.strictEqual(error.reason._tag, tag, error.message)
  assert.include(texts, error.message, "what failed was logged")
  assert.isAbove(spans, 0)
})

const host = "127.0.0.1"
const refused = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"

describe("a secret is told to nobody else:", () => {
  it.live("the password of the credentials", () =>
    Effect.gen(function*() {
      for (const password of [secret, Redacted.make(new TextEncoder().encode("hunter2"))]) {
        const broker = yield* answering(yield* listen(), Uint8Array.of(0x20, 3, 0, 0x87, 0))
        const given = { username: "alice", password }
        const endpoint = Endpoint.tcp(host, broker.port)
        yield* fails({ endpoint, credentials: given }, "ConnectRefused")
        yield* fails({ endpoints: [{ endpoint, credentials: given }] }, "ConnectRefused")
        yield* fails({ endpoint, credentials: Effect.succeed(given) }, "ConnectRefused")
        assert.include(broker.heard(), "hunter2")
      }
    }))

  it.live("the query and the headers of a WebSocket", () =>
    Effect.gen(function*() {
      for (const answer of [refused, "SSH-2.0\r\n", "HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\n\r\n"]) {
        const server = yield* answering(yield* listen(), answer)
        const options = {
          port: server.port,
          query: Redacted.make("token=hunter2"),
          headers: { authorization: Redacted.make(`Basic ${Buffer.from("alice:hunter2").toString("base64")}`) }
        }
        yield* fails({ endpoint: Endpoint.webSocket(host, options), credentials }, "WebSocketFailed")
        assert.include(server.heard(), "GET /mqtt?token=hunter2")
        assert.include(server.heard(), "YWxpY2U6aHVudGVyMg")
      }
      yield* fails({ endpoint: Endpoint.webSocket("a<b", { query: secret }) }, "InvalidOptions")
      // A whole line in the place of a name.
      const line = Endpoint.webSocket("a", { headers: { "authorization: hunter2": "" } })
      const { exit, texts } = yield* overheard(MqttClient.make({ endpoint: line }))
      assert.isTrue(Exit.isFailure(exit))
      keepsQuiet(texts)
    }))

  it.live("the query of a URL, and what a URL must not hold", () =>
    Effect.gen(function*() {
      const server = yield* answering(yield* listen(), refused)
      const { exit, texts } = yield* overheard(
        MqttClient.make({ endpoint: `ws://${host}:${server.port}/mqtt?token=hunter2`, reconnect: false })
      )
      assert.isTrue(Exit.isFailure(exit))
      assert.include(server.heard(), "token=hunter2")
      keepsQuiet(texts)
      const wrong = ["mqtt://alice:hunter2@a", "wss://a/mqtt?hunter2#b", "mqtt://a?hunter2", "mqtt://a b:hunter2"]
      for (const endpoint of wrong) {
        keepsQuiet((yield* overheard(MqttClient.make({ endpoint }))).texts)
      }
      // A URL in the place of a host.
      keepsQuiet((yield* overheard(MqttClient.make({ endpoint: Endpoint.tcp("mqtt://alice:hunter2@a") }))).texts)
    }))

  it.live("the password of a proxy", () =>
    Effect.gen(function*() {
      const basic = Buffer.from("alice:hunter2").toString("base64")
      const denied = "HTTP/1.1 407 Denied\r\nContent-Length: 0\r\n\r\n"
      for (const answer of [denied, "HTTP/1.1 502 Bad\r\n\r\n", "SSH-2.0\r\n", "HTTP/1.1 200 OK\r\n\r\n "]) {
        const server = yield* answering(yield* listen(), answer)
        const proxy = Endpoint.httpProxy(host, { port: server.port, ...credentials })
        for (const endpoint of [Endpoint.tcp("a", { proxy }), Endpoint.secureWebSocket("a", { proxy })]) {
          yield* fails({ endpoint }, "ProxyFailed")
        }
        assert.include(server.heard(), basic)
      }
      for (const last of [Uint8Array.of(1, 1), "HTTP"]) {
        const server = yield* answering(yield* listen(), Uint8Array.of(5, 2), last)
        yield* fails({
          endpoint: Endpoint.tcp("a", { proxy: Endpoint.socks5Proxy(host, { port: server.port, ...credentials }) })
        }, "ProxyFailed")
        assert.include(server.heard(), "hunter2")
      }
      const silent = yield* listen()
      for (const make of [Endpoint.httpProxy, Endpoint.socks5Proxy]) {
        const proxy = make(host, { port: silent.port, ...credentials })
        yield* fails({ endpoint: Endpoint.tls("a", { proxy }), connectTimeout: "50 millis" }, "ConnectTimeout")
      }
    }))

  it.live("key, archive and passphrase of TLS, be they right or wrong", () =>
    Effect.gen(function*() {
      const { ca, client, encrypted, server } = yield* certificates
      const lines = [...linesOf(client.key), ...linesOf(encrypted.key), ...linesOf(ca.key)]
      assert.isNotEmpty(lines)
      const { port } = yield* answering(yield* listenTls(server), Uint8Array.of(0x20, 3, 0, 0x87, 0))
      const to = (tls: Endpoint.TlsOptions) => ({ endpoint: Endpoint.tls(host, { port, tls }), credentials })
      const key = Redacted.make(client.key)
      const locked = { cert: encrypted.cert, key: Redacted.make(encrypted.key) }
      yield* fails(to({ ca: ca.cert, cert: client.cert, key }), "ConnectRefused", lines)
      yield* fails(to({ ca: ca.cert, ...locked, passphrase: secret }), "ConnectRefused", lines)
      yield* fails(to({ cert: client.cert, key }), "TlsFailed", lines)
      yield* fails(to({ cert: client.cert, key: Redacted.make(ca.key) }), "TlsFailed", lines)
      yield* fails(to({ ...locked, passphrase: Redacted.make("hunter2 is wrong") }), "TlsFailed", lines)
      const pfx = Redacted.make(new TextEncoder().encode("hunter2"))
      yield* fails(to({ pfx, passphrase: secret }), "TlsFailed", lines)
      yield* fails(to({ cert: client.cert, key: client.key as never }), "InvalidOptions")
      const proxy = Endpoint.httpProxy(host, { port, tls: { cert: client.cert, key }, ...credentials })
      yield* fails({ endpoint: Endpoint.tcp("a", { proxy }) }, "TlsFailed", lines)
    }))

  it.live("by a client that connects, and loses its connection", () =>
    Effect.gen(function*() {
      const server = yield* listen()
      const { exit, texts } = yield* overheard(Effect.gen(function*() {
        const building = yield* Effect.forkScoped(
          MqttClient.make({ endpoint: Endpoint.tcp(host, server.port), credentials, reconnect: false })
        )
        const peer = yield* server.accept
        peer.on("data", () => {})
        peer.write(Uint8Array.of(0x20, 3, 0, 0, 0))
        const client = yield* Fiber.join(building)
        const events = yield* Effect.forkScoped(Stream.runCollect(Stream.take(client.events, 1)), {
          startImmediately: true
        })
        const connected = yield* client.status
        peer.resetAndDestroy()
        const halted = yield* Stream.runHead(Stream.filter(client.statusChanges, ({ _tag }) => _tag === "Halted"))
        const failure = yield* Effect.flip(client.ping)
        return { connected, halted, events: yield* Fiber.join(events), failure, client }
      }))
      assert.isTrue(Exit.isSuccess(exit))
      keepsQuiet(texts)
    }))
})
