import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Redacted, Scope } from "effect"
import * as Fs from "node:fs"
import type * as Net from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import type * as Tls from "node:tls"
import { fileURLToPath } from "node:url"
import { inspect } from "node:util"
import * as NodeTransport from "../../../src/layers/transport/NodeTransport.ts"
import * as Endpoint from "../../../src/services/Endpoint.ts"
import type { TlsOptions } from "../../../src/services/Endpoint.ts"
import * as Certificates from "../../support/Certificates.ts"
import { handles, listen, listenTls, pattern, poll, pullBytes, receive, send } from "../../support/Sockets.ts"

// Made once: keys are not cheap.
const made = Effect.runPromise(Effect.gen(function*() {
  const ca = yield* Certificates.authority()
  return {
    ca,
    other: yield* Certificates.authority("another authority"),
    server: yield* Certificates.issue(ca),
    client: yield* Certificates.issue(ca, { name: "device 7" })
  }
}))
const certificates = Effect.promise(() => made)

const transport = NodeTransport.make({ closeGrace: "200 millis" })

const dial = (port: number, tls: TlsOptions, host = "127.0.0.1") => transport.connect(Endpoint.tls(host, { port, tls }))

/** The name that a client asked for; the types leave it out. */
const serverNameOf = (socket: Tls.TLSSocket & { readonly servername?: string | undefined }) => socket.servername

/** The failure of a dial to a server with the certificate; no handle is left behind by it. */
const refusal = Effect.fnUntraced(function*(server: Tls.TlsOptions, tls: TlsOptions, host?: string) {
  const { port } = yield* listenTls(server)
  const before = yield* handles
  const error = yield* Effect.flip(Effect.scoped(dial(port, tls, host)))
  assert.strictEqual(error.kind, "tls")
  assert.strictEqual(error.address, `${host ?? "127.0.0.1"}:${port}`)
  assert(error.detail?._tag === "Tls")
  yield* poll(50)
  assert.isAtMost((yield* handles).length, before.length + 1, "no socket of ours is left")
  return { ...error.detail, message: error.message, code: error.code, phase: error.phase }
})

const temporary = Effect.acquireRelease(
  Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-mqtt-tls-"))),
  (directory) => Effect.sync(() => Fs.rmSync(directory, { recursive: true }))
)

describe("NodeTlsDial", () => {
  it.live("carries bytes both ways, and closes with everything flushed", () =>
    Effect.gen(function*() {
      const { ca, server } = yield* certificates
      const { accept, port } = yield* listenTls(server)
      const before = yield* handles
      const scope = yield* Scope.make()
      const connection = yield* Scope.provide(dial(port, { ca: ca.cert }, "localhost"), scope)
      assert.isFalse(connection.isFlushed!(), "what encrypts may hold on to it")
      const peer = yield* accept
      assert.strictEqual(peer.getProtocol(), "TLSv1.3")
      assert.strictEqual(serverNameOf(peer), "localhost")
      const sent = pattern(3 << 20)
      const received = yield* Effect.forkChild(receive(peer), { startImmediately: true })
      const sending = yield* Effect.forkChild(send(peer, sent), { startImmediately: true })
      for (let at = 0; at < sent.length; at += 65_536) yield* connection.write(sent.subarray(at, at + 65_536))
      assert.isTrue((yield* pullBytes(connection, sent.length)).equals(sent))
      yield* Fiber.join(sending)
      yield* Scope.close(scope, Exit.void)
      assert.isTrue((yield* Fiber.join(received)).equals(sent))
      peer.destroy()
      yield* poll(50)
      assert.deepStrictEqual(yield* handles, before)
    }))

  it.live("tells the end of the peer and a reset apart", () =>
    Effect.gen(function*() {
      const { ca, server } = yield* certificates
      const { accept, port, reset } = yield* listenTls(server)
      for (const kind of ["eof", "reset"] as const) {
        const connection = yield* dial(port, { ca: ca.cert })
        const peer = yield* accept
        if (kind === "eof") peer.end("last words")
        else peer.write("last words")
        assert.strictEqual((yield* pullBytes(connection, 10)).toString(), "last words")
        if (kind === "reset") yield* reset
        for (let i = 0; i < 2; i++) assert.strictEqual((yield* Effect.flip(connection.pull)).kind, kind)
      }
    }))

  it.live("abort destroys at once, under a write that the peer does not take", () =>
    Effect.gen(function*() {
      const { ca, server } = yield* certificates
      const { accept, port } = yield* listenTls(server)
      const connection = yield* dial(port, { ca: ca.cert })
      const peer = yield* accept
      peer.pause()
      const before = yield* handles
      const write = yield* Effect.forkChild(
        Effect.flip(Effect.forever(connection.write(new Uint8Array(65_536)))),
        { startImmediately: true }
      )
      yield* poll(100)
      assert.isUndefined(write.pollUnsafe(), "the write is held back")
      yield* connection.abort
      assert.strictEqual((yield* Fiber.join(write)).kind, "aborted")
      assert.isBelow((yield* handles).length, before.length)
      peer.destroy()
    }))

  it.live("can be interrupted in the handshake, and leaves no handle", () =>
    Effect.gen(function*() {
      const silent = yield* listen()
      const before = yield* handles
      const fiber = yield* Effect.forkChild(Effect.scoped(dial(silent.port, {})), { startImmediately: true })
      const peer = yield* silent.accept
      yield* poll()
      assert.isUndefined(fiber.pollUnsafe(), "the handshake is under way")
      yield* Fiber.interrupt(fiber)
      peer.destroy()
      assert.deepStrictEqual(yield* handles, before)
    }))

  describe("refuses the certificate of a server", () => {
    it.live("that is for another host, and names it", () =>
      Effect.gen(function*() {
        const { ca } = yield* certificates
        const server = yield* Certificates.issue(ca, { name: "elsewhere", hosts: ["elsewhere.example"] })
        const failure = yield* refusal(server, { ca: ca.cert }, "localhost")
        assert.strictEqual(failure.reason, "wrongHost")
        assert.strictEqual(failure.certificate?.subject, "CN=elsewhere")
        assert.strictEqual(failure.certificate?.altNames, "DNS:elsewhere.example")
        assert.match(failure.message, /for another host \(CN=elsewhere, issued by CN=test authority, for DNS:else/)
      }))

    it.live("whose words hold control characters, without these", () =>
      Effect.gen(function*() {
        const server = yield* Certificates.selfSigned({ name: "a\u001b[31mb" })
        const { certificate, message } = yield* refusal(server, {})
        assert.strictEqual(certificate?.subject, "CN=a [31mb")
        assert.notMatch(message, /\p{Cc}/u)
      }))

    it.live("that has expired, or is not valid yet", () =>
      Effect.gen(function*() {
        const { ca } = yield* certificates
        const expired = yield* Certificates.issue(ca, {
          name: "old",
          notBefore: Certificates.days(-5),
          notAfter: Certificates.days(-1)
        })
        const failure = yield* refusal(expired, { ca: ca.cert })
        assert.strictEqual(failure.reason, "expired")
        assert.strictEqual(failure.certificate?.subject, "CN=old")
        assert.isBelow(Date.parse(failure.certificate?.validTo ?? ""), new Date().getTime())
        assert.match(failure.message, /has expired .*CN=old.* valid from .* to .* GMT/)
        const early = yield* Certificates.issue(ca, { notBefore: Certificates.days(1), notAfter: Certificates.days(2) })
        assert.strictEqual((yield* refusal(early, { ca: ca.cert })).reason, "notYetValid")
      }))

    it.live("whose authority has expired, and names that one", () =>
      Effect.gen(function*() {
        const { ca } = yield* certificates
        const old = yield* Certificates.intermediate(ca, {
          name: "old authority",
          notBefore: Certificates.days(-5),
          notAfter: Certificates.days(-1)
        })
        const server = yield* Certificates.issue(old)
        const failure = yield* refusal({ key: server.key, cert: `${server.cert}\n${old.cert}` }, { ca: ca.cert })
        assert.strictEqual(failure.reason, "expired")
        assert.strictEqual(failure.certificate?.subject, "CN=old authority")
      }))

    it.live("that is self-signed, or of an authority that nobody trusts", () =>
      Effect.gen(function*() {
        const { ca, other, server } = yield* certificates
        const self = yield* Certificates.selfSigned({ name: "lonely" })
        const lonely = yield* refusal(self, {})
        assert.strictEqual(lonely.reason, "selfSigned")
        assert.strictEqual(lonely.certificate?.issuer, "CN=lonely")
        for (const tls of [{}, { ca: other.cert }]) {
          const failure = yield* refusal(server, tls)
          assert.strictEqual(failure.reason, "unknownAuthority")
          assert.strictEqual(failure.certificate?.issuer, "CN=test authority")
        }
        const chain = { key: server.key, cert: `${server.cert}\n${ca.cert}` }
        assert.strictEqual((yield* refusal(chain, {})).reason, "unknownAuthority")
      }))

    it.live("unless it is told to look at nothing", () =>
      Effect.gen(function*() {
        const self = yield* Certificates.selfSigned({ hosts: ["elsewhere"] })
        const { accept, port } = yield* listenTls(self)
        const received = yield* Effect.forkChild(Effect.flatMap(accept, receive), { startImmediately: true })
        yield* Effect.scoped(Effect.gen(function*() {
          const connection = yield* dial(port, { insecureSkipVerification: true })
          yield* connection.write(Buffer.from("hello"))
        }))
        assert.strictEqual((yield* Fiber.join(received)).toString(), "hello")
      }))

    it.live("before a byte of ours goes out", () =>
      Effect.gen(function*() {
        const { server } = yield* certificates
        const { accept, port } = yield* listenTls(server)
        yield* Effect.flip(dial(port, {}))
        const peer = yield* Effect.forkChild(Effect.flatMap(accept, receive), { startImmediately: true })
        yield* poll(50)
        const done = peer.pollUnsafe()
        if (done !== undefined) assert.strictEqual((yield* Fiber.join(peer)).length, 0)
      }))
  })

  describe("with a client certificate", () => {
    it.live("as text, bytes, redacted and from files, is known to the server", () =>
      Effect.gen(function*() {
        const { ca, client, server } = yield* certificates
        const directory = yield* temporary
        const file = (name: string, text: string) => {
          const path = Path.join(directory, name)
          Fs.writeFileSync(path, text)
          return { file: path }
        }
        const bytes = (text: string) => new TextEncoder().encode(text)
        const encrypted = yield* Certificates.issue(ca, { name: "device 7", passphrase: "open sesame" })
        const forms: ReadonlyArray<TlsOptions> = [
          { cert: client.cert, key: Redacted.make(client.key) },
          { cert: bytes(client.cert), key: Redacted.make(bytes(client.key)) },
          { cert: file("client.pem", client.cert), key: file("client.key", client.key) },
          { cert: encrypted.cert, key: Redacted.make(encrypted.key), passphrase: Redacted.make("open sesame") }
        ]
        const { accept, port } = yield* listenTls({ ...server, ca: ca.cert, requestCert: true })
        for (const form of forms) {
          yield* dial(port, { ca: [ca.cert], ...form })
          const peer = yield* accept
          assert.strictEqual(peer.getPeerCertificate().subject.CN, "device 7")
        }
      }))

    it.live("as an archive, from bytes and from a file, is known to the server", () =>
      Effect.gen(function*() {
        const { ca, server } = yield* certificates
        const file = fileURLToPath(new URL("../../fixtures/archived.pfx", import.meta.url))
        const passphrase = Redacted.make("hunter2")
        // Nobody signed it.
        const { accept, port } = yield* listenTls({ ...server, requestCert: true, rejectUnauthorized: false })
        for (const pfx of [Redacted.make(new Uint8Array(Fs.readFileSync(file))), { file }]) {
          yield* dial(port, { ca: ca.cert, pfx, passphrase })
          assert.strictEqual((yield* accept).getPeerCertificate().subject.CN, "archived")
          const wrong = yield* Effect.flip(dial(port, { ca: ca.cert, pfx, passphrase: Redacted.make("hunter3") }))
          assert.strictEqual(wrong.kind, "tls")
          assert.notInclude(inspect(wrong, { depth: 10 }), "hunter3")
        }
      }))

    it.live("that the server requires and does not get tells so at the first read", () =>
      Effect.gen(function*() {
        const { ca, server } = yield* certificates
        const { port } = yield* listenTls({ ...server, ca: ca.cert, requestCert: true })
        const connection = yield* dial(port, { ca: ca.cert })
        const error = yield* Effect.flip(connection.pull)
        assert.strictEqual(error.phase, "read")
        assert.strictEqual(error.kind, "tls")
        assert.deepStrictEqual(error.detail, { _tag: "Tls", reason: "clientCertificateRequired" })
        assert.match(error.message, /requires a client certificate/)
      }))

    it.live("reads its files at every dial", () =>
      Effect.gen(function*() {
        const { ca, client, server } = yield* certificates
        const directory = yield* temporary
        const [cert, key] = [{ file: Path.join(directory, "c.pem") }, { file: Path.join(directory, "c.key") }]
        const { accept, port } = yield* listenTls({ ...server, ca: ca.cert, requestCert: true })
        const renewed = yield* Certificates.issue(ca, { name: "device 8" })
        for (const [pair, name] of [[client, "device 7"], [renewed, "device 8"]] as const) {
          Fs.writeFileSync(cert.file, pair.cert)
          Fs.writeFileSync(key.file, pair.key)
          yield* dial(port, { ca: ca.cert, cert, key })
          assert.strictEqual((yield* accept).getPeerCertificate().subject.CN, name)
        }
        // Half replaced: the pair does not fit.
        Fs.writeFileSync(cert.file, client.cert)
        const half = yield* Effect.flip(dial(port, { ca: ca.cert, cert, key }))
        assert.deepStrictEqual(half.detail, { _tag: "Tls", reason: "invalidFile" })
        Fs.rmSync(key.file)
        const gone = yield* Effect.flip(dial(port, { ca: ca.cert, cert, key }))
        assert.deepStrictEqual(gone.detail, { _tag: "Tls", reason: "invalidFile" })
        assert.strictEqual(gone.code, "ENOENT")
      }))

    it.live("that cannot be used fails before anybody is dialled, without the key in any text", () =>
      Effect.gen(function*() {
        const { ca, client } = yield* certificates
        const { accept, port } = yield* listen()
        const broken: ReadonlyArray<TlsOptions> = [
          { cert: client.cert, key: Redacted.make(ca.key) },
          {
            cert: client.cert,
            key: Redacted.make("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n")
          },
          { pfx: Redacted.make(new TextEncoder().encode("hunter2")), passphrase: Redacted.make("hunter2") }
        ]
        for (const tls of broken) {
          const error = yield* Effect.flip(dial(port, tls))
          assert.deepStrictEqual(error.detail, { _tag: "Tls", reason: "invalidMaterial" })
          assert.notInclude(inspect(error, { depth: 10 }), "hunter2")
          assert.notInclude(inspect(error, { depth: 10 }), "PRIVATE KEY-----\n")
        }
        const dialled = yield* Effect.forkChild(accept, { startImmediately: true })
        yield* poll()
        assert.isUndefined(dialled.pollUnsafe())
      }))
  })

  it.live("asks for the name and the protocols of the options", () =>
    Effect.gen(function*() {
      const { ca } = yield* certificates
      const server = yield* Certificates.issue(ca, { hosts: ["broker.example"] })
      const { accept, port } = yield* listenTls({ ...server, ALPNProtocols: ["x-amzn-mqtt-ca"] })
      yield* dial(port, { ca: ca.cert, servername: "broker.example", alpn: ["mqtt", "x-amzn-mqtt-ca"] })
      const peer = yield* accept
      assert.strictEqual(serverNameOf(peer), "broker.example")
      assert.strictEqual(peer.alpnProtocol, "x-amzn-mqtt-ca")
    }))

  it.live("asks for no address by name, and for no dot at the end of one, but checks whom the certificate is for", () =>
    Effect.gen(function*() {
      const { ca, server } = yield* certificates
      const { accept, port } = yield* listenTls(server)
      const warnings: Array<string> = []
      const onWarning = (warning: Error) => void warnings.push(warning.message)
      process.on("warning", onWarning)
      yield* Effect.addFinalizer(() => Effect.sync(() => process.off("warning", onWarning)))
      yield* dial(port, { ca: ca.cert, servername: "127.0.0.1" }, "localhost")
      assert.isFalse(serverNameOf(yield* accept))
      const wrong = yield* refusal(server, { ca: ca.cert, servername: "127.0.0.9" }, "localhost")
      assert.strictEqual(wrong.reason, "wrongHost")
      // Not every resolver takes the dot.
      const lookup: Net.LookupFunction = (_host, _options, done) => done(null, [{ address: "127.0.0.1", family: 4 }])
      yield* NodeTransport.make({ lookup }).connect(Endpoint.tls("localhost.", { port, tls: { ca: ca.cert } }))
      assert.strictEqual(serverNameOf(yield* accept), "localhost")
      yield* poll()
      assert.deepStrictEqual(warnings, [])
    }))

  it.live("does not speak an older version than it is allowed to", () =>
    Effect.gen(function*() {
      const { ca, server } = yield* certificates
      const failure = yield* refusal({ ...server, maxVersion: "TLSv1.2" }, { ca: ca.cert, minVersion: "TLSv1.3" })
      assert.strictEqual(failure.reason, "other")
      assert.match(failure.code!, /PROTOCOL_VERSION/)
      const older = yield* refusal({
        ...server,
        minVersion: "TLSv1",
        maxVersion: "TLSv1.1",
        ciphers: "ALL:@SECLEVEL=0"
      }, {
        ca: ca.cert
      })
      assert.strictEqual(older.reason, "other")
    }))

  describe("to a port that does not speak TLS", () => {
    it.live("tells so, when it answers in plain text", () =>
      Effect.gen(function*() {
        const { accept, port } = yield* listen()
        yield* Effect.forkScoped(Effect.flatMap(accept, (peer) => send(peer, "\x20\x02\x00\x01 no TLS here")))
        const error = yield* Effect.flip(dial(port, {}))
        assert.strictEqual(error.phase, "tls")
        assert.deepStrictEqual(error.detail, { _tag: "Tls", reason: "notTls" })
      }))

    it.live("tells so, when it hangs up", () =>
      Effect.gen(function*() {
        const { accept, port } = yield* listen()
        for (const how of ["end", "resetAndDestroy"] as const) {
          yield* Effect.forkScoped(Effect.flatMap(accept, (peer) => Effect.sync(() => void peer[how]())))
          const error = yield* Effect.flip(dial(port, {}))
          assert.deepStrictEqual(error.detail, { _tag: "Tls", reason: "closed" }, how)
          assert.match(error.message, /may not speak TLS/)
        }
      }))
  })
})
