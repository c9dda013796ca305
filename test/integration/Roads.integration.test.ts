import { assert, it } from "@effect/vitest"
import { Effect, Queue, Redacted } from "effect"
import type { Scope } from "effect"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import { inspect } from "node:util"
import * as Endpoint from "../../src/services/Endpoint.ts"
import type { TlsOptions } from "../../src/services/Endpoint.ts"
import * as Certificates from "../support/Certificates.ts"
import { describeBrokersAndVersions, kinds } from "./support/Brokers.ts"
import type { Broker, ProtocolVersion } from "./support/Brokers.ts"
import * as Client from "./support/Client.ts"
import * as Handles from "./support/Handles.ts"
import * as Mosquitto from "./support/Mosquitto.ts"
import * as Roads from "./support/Roads.ts"

const made = Effect.runPromise(Effect.gen(function*() {
  const ca = yield* Certificates.authority()
  const expired = { notBefore: Certificates.days(-5), notAfter: Certificates.days(-1) }
  return {
    ca,
    server: yield* Certificates.issue(ca),
    client: yield* Certificates.issue(ca, { name: "device" }),
    expired: yield* Certificates.issue(ca, expired),
    expiredClient: yield* Certificates.issue(ca, { ...expired, name: "device" }),
    elsewhere: yield* Certificates.issue(ca, { hosts: ["elsewhere.example"] }),
    stranger: yield* Certificates.issue(yield* Certificates.authority("stranger"), { name: "device" })
  }
}))
const certificates = Effect.promise(() => made)

const user = { username: "alice", password: "hunter2" }
const credentials = { username: "alice", password: Redacted.make("hunter2") }

/** Publishes and subscribes with every QoS, with a payload of one byte and one of many frames, and leaves no socket. */
const exchange = Effect.fnUntraced(function*(endpoint: Endpoint.Endpoint, protocolVersion: ProtocolVersion) {
  const before = yield* Handles.sockets
  yield* Effect.scoped(Effect.gen(function*() {
    const client = yield* Client.make({ endpoint, protocolVersion })
    const received = yield* Client.subscribe(client, "roads/#", { qos: 2 })
    for (const qos of [0, 1, 2] as const) {
      for (const length of [1, 300_000]) {
        const payload = new Uint8Array(length).fill(qos + 1)
        yield* client.publish({ topic: `roads/${qos}`, payload, qos })
        const message = yield* Queue.take(received)
        assert.strictEqual(message.topic, `roads/${qos}`)
        assert.isTrue(Buffer.from(message.payload).equals(payload), `${length} bytes of QoS ${qos}`)
      }
    }
    yield* client.ping
  }))
  assert.isAtMost((yield* Handles.sockets).length, before.length + 4, "what is left is the servers'")
})

type Road = (broker: Broker) => Effect.Effect<Endpoint.Endpoint, never, Scope.Scope>

const proxies = (
  endpoint: Effect.Effect<Endpoint.Endpoint, never, Scope.Scope>
): ReadonlyArray<Effect.Effect<Endpoint.Endpoint, never, Scope.Scope>> =>
  [
    Effect.map(Roads.httpProxy(), (port) => Endpoint.httpProxy("127.0.0.1", port)),
    Effect.map(Roads.httpProxy(user), (port) => Endpoint.httpProxy("127.0.0.1", { port, ...credentials })),
    Effect.gen(function*() {
      const { ca, server } = yield* certificates
      const port = yield* Roads.httpProxy(user, server)
      return Endpoint.httpProxy("127.0.0.1", { port, ...credentials, tls: { ca: ca.cert } })
    }),
    Effect.map(Roads.socksProxy(), (port) => Endpoint.socks5Proxy("127.0.0.1", port)),
    Effect.map(Roads.socksProxy(user), (port) => Endpoint.socks5Proxy("127.0.0.1", { port, ...credentials }))
  ].map((proxy) =>
    Effect.gen(function*() {
      const target = yield* endpoint
      const server: Endpoint.ProxyServer = yield* proxy
      return target._tag === "Unix" ? target : { ...target, proxy: server }
    })
  )

const tcp: Road = ({ port }) => Effect.succeed(Endpoint.tcp("localhost", port))
const secure =
  (tls: (made: Effect.Success<typeof certificates>) => TlsOptions, requestCert = false): Road => (broker) =>
    Effect.gen(function*() {
      const all = yield* certificates
      const port = yield* Roads.tls(broker.port, { ...all.server, ca: all.ca.cert, requestCert })
      return Endpoint.tls("localhost", { port, tls: { ca: all.ca.cert, ...tls(all) } })
    })
const webSocket: Road = ({ port }) =>
  Effect.map(Roads.webSocket(port), (port) => Endpoint.webSocket("localhost", { port }))
const secureWebSocket: Road = (broker) =>
  Effect.gen(function*() {
    const { ca, server } = yield* certificates
    const port = yield* Roads.webSocket(broker.port, server)
    return Endpoint.secureWebSocket("localhost", { port, tls: { ca: ca.cert } })
  })

const roads: Readonly<Record<string, Road>> = {
  TLS: secure(() => ({})),
  "TLS with a client certificate": secure(
    ({ client }) => ({ cert: client.cert, key: Redacted.make(client.key) }),
    true
  ),
  WebSocket: webSocket,
  "WebSocket on TLS": secureWebSocket,
  "a Unix domain socket": ({ port }) => Effect.map(Roads.unix(port), Endpoint.unix)
}

describeBrokersAndVersions("the road", (kind, protocolVersion) => {
  for (const [name, road] of Object.entries(roads)) {
    it.live(`WS-01b, WS-08b: ${name} carries every QoS`, () =>
      Effect.gen(function*() {
        yield* exchange(yield* road(yield* kind.make()), protocolVersion)
      }))
  }

  for (const [name, road] of Object.entries({ TCP: tcp, TLS: roads["TLS"]!, WebSocket: webSocket, secureWebSocket })) {
    it.live(`${name} through proxies carries every QoS`, () =>
      Effect.gen(function*() {
        const broker = yield* kind.make()
        for (const endpoint of proxies(road(broker))) yield* exchange(yield* endpoint, protocolVersion)
      }))
  }

  it.live("through a proxy that does not know us fails typed, without the password in any text", () =>
    Effect.gen(function*() {
      const { port } = yield* kind.make()
      const wrong = { username: "alice", password: Redacted.make("hunter3") }
      const [http, socks] = [yield* Roads.httpProxy(user), yield* Roads.socksProxy(user)]
      const cases = [
        [Endpoint.httpProxy("127.0.0.1", http), "authenticationRequired"],
        [Endpoint.httpProxy("127.0.0.1", { port: http, ...wrong }), "authenticationRefused"],
        [Endpoint.socks5Proxy("127.0.0.1", socks), "authenticationRequired"],
        [Endpoint.socks5Proxy("127.0.0.1", { port: socks, ...wrong }), "authenticationRefused"]
      ] as const
      for (const [proxy, reason] of cases) {
        const endpoint = Endpoint.tcp("localhost", { port, proxy })
        const error = yield* Effect.flip(Effect.scoped(Client.make({ endpoint, protocolVersion })))
        assert(error.reason._tag === "ProxyFailed")
        assert.strictEqual(error.reason.reason, reason)
        assert.isFalse(error.retryable)
        assert.notInclude(inspect(error, { depth: 10 }), "hunter3")
      }
    }))

  it.live("through a proxy to a broker that is down fails typed", () =>
    Effect.gen(function*() {
      const broker = yield* kind.make()
      yield* broker.stop
      const [http, socks] = [yield* Roads.httpProxy(), yield* Roads.socksProxy()]
      const cases = [
        // This proxy hangs up without a word.
        [Endpoint.httpProxy("127.0.0.1", http), "closed"],
        [Endpoint.socks5Proxy("127.0.0.1", socks), "refused"]
      ] as const
      for (const [proxy, reason] of cases) {
        const endpoint = Endpoint.tcp("127.0.0.1", { port: broker.port, proxy })
        const error = yield* Effect.flip(Effect.scoped(Client.make({ endpoint, protocolVersion })))
        assert(error.reason._tag === "ProxyFailed")
        assert.strictEqual(error.reason.reason, reason)
        assert.isTrue(error.retryable)
      }
      yield* broker.start
    }))
})

const freePort = Effect.callback<number>((resume) => {
  const server = Net.createServer()
  server.listen(0, "127.0.0.1", () => {
    const { port } = server.address() as Net.AddressInfo
    server.close(() => resume(Effect.succeed(port)))
  })
})

/** Mosquitto with listeners of its own for TLS, TLS with client certificates, and a Unix domain socket. */
const secureMosquitto = Effect.fnUntraced(function*(server: Certificates.KeyPair) {
  const { ca } = yield* certificates
  const directory = yield* Roads.directory
  const file = (name: string, text: string) => {
    const path = Path.join(directory, name)
    Fs.writeFileSync(path, text)
    return path
  }
  const [tls, mutual, socket] = [yield* freePort, yield* freePort, Path.join(directory, "mosquitto.sock")]
  const files = [
    `cafile ${file("ca.pem", ca.cert)}`,
    `certfile ${file("server.pem", server.cert)}`,
    `keyfile ${file("server.key", server.key)}`
  ]
  yield* Mosquitto.make({
    config: [
      `listener ${tls} 127.0.0.1`,
      ...files,
      `listener ${mutual} 127.0.0.1`,
      ...files,
      "require_certificate true",
      `listener 0 ${socket}`
    ]
  })
  return { tls, mutual, socket, ca: ca.cert }
})

describeBrokersAndVersions("listeners of the broker itself", (kind, protocolVersion) => {
  it.live("TLS, TLS with a client certificate and a Unix domain socket carry every QoS", () =>
    Effect.gen(function*() {
      const all = yield* certificates
      const { ca, mutual, socket, tls } = yield* secureMosquitto(all.server)
      yield* exchange(Endpoint.tls("localhost", { port: tls, tls: { ca } }), protocolVersion)
      const identity = { cert: all.client.cert, key: Redacted.make(all.client.key) }
      yield* exchange(Endpoint.tls("127.0.0.1", { port: mutual, tls: { ca, ...identity } }), protocolVersion)
      yield* exchange(Endpoint.unix(socket), protocolVersion)
    }))

  it.live("tell why a certificate is not accepted, by either side", () =>
    Effect.gen(function*() {
      const all = yield* certificates
      const { ca, mutual } = yield* secureMosquitto(all.server)
      const reasonOf = Effect.fnUntraced(function*(port: number, tls: TlsOptions) {
        const error = yield* Effect.flip(
          Effect.scoped(Client.make({ endpoint: Endpoint.tls("localhost", { port, tls }), protocolVersion }))
        )
        assert(error.reason._tag === "TlsFailed", error.message)
        return error.reason.reason
      })
      const identity = ({ cert, key }: Certificates.KeyPair) => ({ cert, key: Redacted.make(key) })
      assert.strictEqual(yield* reasonOf(mutual, { ca }), "clientCertificateRequired")
      for (const client of [all.expiredClient, all.stranger]) {
        assert.strictEqual(yield* reasonOf(mutual, { ca, ...identity(client) }), "clientCertificateRefused")
      }
      assert.strictEqual(yield* reasonOf(mutual, identity(all.client)), "unknownAuthority")
      for (const [server, reason] of [[all.expired, "expired"], [all.elsewhere, "wrongHost"]] as const) {
        const { tls } = yield* secureMosquitto(server)
        assert.strictEqual(yield* reasonOf(tls, { ca }), reason)
      }
    }))

  it.live("TLS to a plain port, and the reverse, fail typed", () =>
    Effect.gen(function*() {
      const all = yield* certificates
      const plain = yield* kind.make()
      const { ca, tls } = yield* secureMosquitto(all.server)
      const failure = (endpoint: Endpoint.Endpoint) =>
        Effect.flip(Effect.scoped(Client.make({ endpoint, protocolVersion })))
      const toPlain = yield* failure(Endpoint.tls("localhost", { port: plain.port, tls: { ca } }))
      assert(toPlain.reason._tag === "TlsFailed")
      assert.include(["closed", "notTls"], toPlain.reason.reason)
      const toTls = yield* failure(Endpoint.tcp("localhost", tls))
      assert.include(["ClosedBeforeConnack", "ProtocolError"], toTls.reason._tag)
      const webSocketToPlain = yield* failure(Endpoint.webSocket("localhost", { port: plain.port }))
      assert(webSocketToPlain.reason._tag === "WebSocketFailed")
      assert.strictEqual(webSocketToPlain.reason.reason, "handshake")
    }))
}, kinds.filter((kind) => kind.name === "Mosquitto"))
