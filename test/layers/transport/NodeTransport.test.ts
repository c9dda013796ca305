import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Queue, References, Scope } from "effect"
import { execFile } from "node:child_process"
import * as Net from "node:net"
import * as NodeTransport from "../../../src/layers/transport/NodeTransport.ts"
import { tcp } from "../../../src/services/Endpoint.ts"
import type { Connection, TransportError } from "../../../src/services/Transport.ts"
import * as SilentPort from "../../integration/support/SilentPort.ts"

/** A server on a loopback port; `accept` gives its side of the next connection. */
const listen = (options: Net.ServerOpts = {}) =>
  Effect.gen(function*() {
    const accepted = yield* Queue.unbounded<Net.Socket>()
    const sockets = new Set<Net.Socket>()
    const server = yield* Effect.acquireRelease(
      Effect.callback<Net.Server>((resume) => {
        const server = Net.createServer({ pauseOnConnect: true, ...options }, (socket) => {
          sockets.add(socket)
          socket.on("error", () => {})
          Queue.offerUnsafe(accepted, socket)
        })
        server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
      }),
      (server) =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
          for (const socket of sockets) socket.destroy()
        })
    )
    const { port } = server.address() as Net.AddressInfo
    return { endpoint: tcp("127.0.0.1", port), port, accept: Queue.take(accepted) }
  })

/** A connection and the peer's side of it, in a scope of its own. */
const open = (options: NodeTransport.Options = {}, server: Net.ServerOpts = {}) =>
  Effect.gen(function*() {
    const { accept, endpoint } = yield* listen(server)
    const scope = yield* Scope.make()
    yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
    const connection = yield* NodeTransport.make(options).connect(endpoint).pipe(Scope.provide(scope))
    const peer = yield* accept
    yield* Effect.addFinalizer(() => Effect.sync(() => peer.destroy()))
    return { connection, peer, scope, endpoint }
  })

/** Lets the event loop poll its sockets: what is in the kernel of this machine has been read afterwards. */
const poll = (turns = 20) =>
  Effect.callback<void>((resume) => {
    const turn = (left: number) => {
      if (left === 0) resume(Effect.void)
      else setImmediate(turn, left - 1)
    }
    turn(turns)
  })

const once = (socket: Net.Socket, event: "close" | "end" | "error") =>
  Effect.callback<void>((resume) => {
    socket.once(event, () => resume(Effect.void))
  })

const send = (socket: Net.Socket, data: Uint8Array | string) =>
  Effect.callback<void>((resume) => {
    socket.write(data, () => resume(Effect.void))
  })

/** What the peer receives up to the end of the stream. */
const receive = (socket: Net.Socket) =>
  Effect.callback<Buffer>((resume) => {
    const chunks: Array<Buffer> = []
    socket.on("data", (chunk) => chunks.push(chunk))
    socket.once("end", () => resume(Effect.succeed(Buffer.concat(chunks))))
    socket.resume()
  })

/** Pulls until `length` bytes are there; gives the chunks. */
const pullBytes = Effect.fnUntraced(function*(connection: Connection, length: number) {
  const chunks: Array<Uint8Array> = []
  let size = 0
  while (size < length) {
    for (const chunk of yield* connection.pull) {
      chunks.push(chunk)
      size += chunk.length
    }
  }
  return chunks
})

/** Writes until the socket takes no more; the fiber is the write that is suspended. */
const block = Effect.fnUntraced(function*(connection: Connection) {
  const chunk = new Uint8Array(1 << 20)
  for (;;) {
    const fiber = yield* Effect.forkChild(connection.write(chunk), { startImmediately: true })
    yield* poll()
    if (fiber.pollUnsafe() === undefined) return fiber
    yield* Fiber.join(fiber)
  }
})

/** Bytes whose period fits no buffer size, so that a chunk at a wrong place shows. */
const pattern = (length: number) => Buffer.alloc(length, Uint8Array.from({ length: 65_521 }, (_, i) => (i * 31) & 0xff))

/** The handles of sockets that keep the process alive, once what was closed before is gone. */
const handles = Effect.sync(() =>
  process.getActiveResourcesInfo().filter((name) => /TCP|GetAddrInfo|Connect|Shutdown|Write/.test(name)).sort()
).pipe((read) => Effect.andThen(poll(), read))

const summary = (error: TransportError) => ({ phase: error.phase, kind: error.kind, code: error.code })

describe("NodeTransport", () => {
  describe("dial", () => {
    it.live("gives connections that a transport around it may copy", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* open()
        const copy: Connection = { ...connection }
        // Who writes in another way is not to take over by accident what tells when all is written.
        assert.isUndefined(copy.isFlushed)
        const { isFlushed } = connection
        assert.isTrue(isFlushed!())
        yield* copy.write(Buffer.from("cd"))
        yield* send(peer, "ab")
        assert.deepStrictEqual((yield* copy.pull).map((chunk) => Buffer.from(chunk).toString()), ["ab"])
        assert.strictEqual(
          (yield* Effect.callback<Buffer>((resume) => {
            peer.once("data", (chunk) => resume(Effect.succeed(chunk)))
            peer.resume()
          })).toString(),
          "cd"
        )
        yield* copy.abort
        assert.strictEqual((yield* Effect.flip(connection.pull)).kind, "aborted")
      }))

    it.live("tells a refused connection", () =>
      Effect.gen(function*() {
        const { endpoint } = yield* Effect.scoped(listen())
        const error = yield* Effect.flip(NodeTransport.make().connect(endpoint))
        assert.deepStrictEqual(summary(error), { phase: "connect", kind: "refused", code: "ECONNREFUSED" })
        assert.strictEqual(error.address, `127.0.0.1:${endpoint.port}`)
      }))

    it.live("tells a refusal of every address of a host", () =>
      Effect.gen(function*() {
        const { port } = yield* Effect.scoped(listen())
        const lookup: Net.LookupFunction = (_host, _options, done) =>
          done(null, [{ address: "127.0.0.1", family: 4 }, { address: "127.0.0.2", family: 4 }])
        const error = yield* Effect.flip(NodeTransport.make({ lookup }).connect(tcp("broker.test", port)))
        assert.deepStrictEqual(summary(error), { phase: "connect", kind: "refused", code: "ECONNREFUSED" })
      }))

    it.live("tells a name that does not resolve", () =>
      Effect.gen(function*() {
        const lookup: Net.LookupFunction = (_host, _options, done) =>
          done(Object.assign(new Error("getaddrinfo ENOTFOUND"), { code: "ENOTFOUND", syscall: "getaddrinfo" }), [])
        const error = yield* Effect.flip(NodeTransport.make({ lookup }).connect(tcp("broker.test")))
        assert.deepStrictEqual(summary(error), { phase: "dns", kind: "unresolved", code: "ENOTFOUND" })
        assert.strictEqual(error.address, "broker.test:1883")
      }))

    it.live("fails typed on a port that cannot be dialled", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(NodeTransport.make().connect(tcp("localhost", 70_000)))
        assert.deepStrictEqual(summary(error), { phase: "connect", kind: "other", code: "ERR_SOCKET_BAD_PORT" })
      }))

    it.live("can be interrupted while the name is being resolved", () =>
      Effect.gen(function*() {
        const asked = yield* Queue.unbounded<() => void>()
        const lookup: Net.LookupFunction = (_host, _options, done) =>
          void Queue.offerUnsafe(asked, () => done(null, [{ address: "127.0.0.1", family: 4 }]))
        const { accept, port } = yield* listen()
        const before = yield* handles
        const fiber = yield* NodeTransport.make({ lookup }).connect(tcp("broker.test", port)).pipe(
          Effect.scoped,
          Effect.forkChild
        )
        const answer = yield* Queue.take(asked)
        yield* Fiber.interrupt(fiber)
        // The late answer dials nobody.
        answer()
        yield* poll()
        const dialled = yield* Effect.forkChild(accept, { startImmediately: true })
        assert.isUndefined(dialled.pollUnsafe())
        assert.deepStrictEqual(yield* handles, before)
      }))

    it.live("can be interrupted while the peer is silent, and leaves no handle", () =>
      Effect.gen(function*() {
        const port = yield* SilentPort.make
        const before = yield* handles
        const scope = yield* Scope.make()
        const fiber = yield* NodeTransport.make().connect(tcp("127.0.0.1", port)).pipe(
          Scope.provide(scope),
          Effect.forkChild({ startImmediately: true })
        )
        yield* poll()
        assert.isUndefined(fiber.pollUnsafe(), "the dial is under way")
        assert.notDeepEqual(yield* handles, before)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* handles, before)
        yield* Scope.close(scope, Exit.void)
      }))

    it.live("leaves no handle when it fails", () =>
      Effect.gen(function*() {
        const { endpoint } = yield* Effect.scoped(listen())
        const before = yield* handles
        yield* Effect.exit(Effect.scoped(NodeTransport.make().connect(endpoint)))
        assert.deepStrictEqual(yield* handles, before)
      }))

    it.live("finds a host by name", () =>
      Effect.gen(function*() {
        const { accept, port } = yield* listen()
        const connection = yield* NodeTransport.make().connect(tcp("localhost", port))
        yield* connection.write(Buffer.from("hello"))
        const peer = yield* accept
        const received = yield* Effect.forkChild(receive(peer), { startImmediately: true })
        yield* connection.abort
        assert.strictEqual((yield* Fiber.join(received)).toString(), "hello")
      }))
  })

  describe("pull", () => {
    it.live("gives everything that arrived since the last pull, in order, as one batch", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* open()
        for (const text of ["a", "b", "c"]) {
          yield* send(peer, text)
          yield* poll()
        }
        const batch = yield* connection.pull
        assert.deepStrictEqual(batch.map((chunk) => Buffer.from(chunk).toString()), ["a", "b", "c"])
        const next = yield* Effect.forkChild(connection.pull, { startImmediately: true })
        assert.isUndefined(next.pollUnsafe(), "a batch is never empty")
        yield* send(peer, "d")
        assert.strictEqual(Buffer.from((yield* Fiber.join(next))[0]).toString(), "d")
      }))

    it.live("hands chunks over for good: later reads do not change them", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* open()
        const sent = pattern(8 << 20)
        yield* Effect.forkChild(send(peer, sent))
        const chunks = yield* pullBytes(connection, sent.length)
        assert.isTrue(Buffer.concat(chunks).equals(sent))
      }))

    it.live("holds the peer back while nobody pulls", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* open()
        const sent = pattern(32 << 20)
        const sending = yield* Effect.forkChild(send(peer, sent), { startImmediately: true })
        yield* poll(2000)
        assert.isUndefined(sending.pollUnsafe(), "32 MiB must not fit into buffers")
        const first = yield* connection.pull
        const size = first.reduce((sum, chunk) => sum + chunk.length, 0)
        assert.isAtMost(size, 256 * 1024 + 64 * 1024)
        const rest = yield* pullBytes(connection, sent.length - size)
        assert.isTrue(Buffer.concat([...first, ...rest]).equals(sent))
        yield* Fiber.join(sending)
      }))

    it.live("loses nothing when it is interrupted", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* open()
        const pull = yield* Effect.forkChild(connection.pull, { startImmediately: true })
        yield* Fiber.interrupt(pull)
        yield* send(peer, "kept")
        yield* poll()
        assert.strictEqual(Buffer.concat(yield* connection.pull).toString(), "kept")
      }))

    it.live("gives what came before the end, then fails with eof, again and again", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* open()
        peer.end("last words")
        yield* poll()
        assert.strictEqual(Buffer.concat(yield* connection.pull).toString(), "last words")
        for (let i = 0; i < 2; i++) {
          const error = yield* Effect.flip(connection.pull)
          assert.deepStrictEqual(summary(error), { phase: "read", kind: "eof", code: undefined })
        }
      }))

    it.live("gives what came before a reset, then fails with reset", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* open()
        yield* send(peer, "refused")
        yield* poll()
        peer.resetAndDestroy()
        yield* poll()
        assert.strictEqual(Buffer.concat(yield* connection.pull).toString(), "refused")
        for (let i = 0; i < 2; i++) {
          const error = yield* Effect.flip(connection.pull)
          assert.deepStrictEqual(summary(error), { phase: "read", kind: "reset", code: "ECONNRESET" })
        }
      }))

    it.live("that is suspended fails with eof and with reset", () =>
      Effect.gen(function*() {
        for (const kind of ["eof", "reset"] as const) {
          const { connection, peer } = yield* open()
          const pull = yield* Effect.forkChild(Effect.flip(connection.pull), { startImmediately: true })
          if (kind === "eof") peer.end()
          else peer.resetAndDestroy()
          assert.strictEqual((yield* Fiber.join(pull)).kind, kind)
        }
      }))
  })

  describe("write", () => {
    it.live("sends in order", () =>
      Effect.gen(function*() {
        const { connection, peer, scope } = yield* open()
        const received = yield* Effect.forkChild(receive(peer), { startImmediately: true })
        const sent = pattern(4 << 20)
        for (let at = 0; at < sent.length; at += 65_536) yield* connection.write(sent.subarray(at, at + 65_536))
        yield* Scope.close(scope, Exit.void)
        assert.isTrue((yield* Fiber.join(received)).equals(sent))
      }))

    it.live("does not suspend for a chunk that the kernel took, however large", () =>
      Effect.gen(function*() {
        const { connection } = yield* open({ writeHighWaterMark: 1024 })
        const fiber = yield* Effect.forkChild(connection.write(new Uint8Array(32 * 1024)), { startImmediately: true })
        assert.isDefined(fiber.pollUnsafe())
      }))

    it.live("suspends while the peer takes no more, and goes on when it does", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* open()
        const write = yield* block(connection)
        peer.on("data", () => {})
        peer.resume()
        yield* Fiber.join(write)
        yield* connection.write(new Uint8Array(1))
      }))

    it.live("tells when the kernel has all of it, so that its memory may be used again", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* open()
        assert.isTrue(connection.isFlushed!())
        const chunk = pattern(100)
        yield* connection.write(chunk)
        assert.isTrue(connection.isFlushed!())
        chunk.fill(0)
        const fiber = yield* block(connection)
        assert.isFalse(connection.isFlushed!())
        const received = yield* Effect.callback<Buffer>((resume) => {
          peer.once("data", (bytes) => resume(Effect.succeed(bytes)))
          peer.resume()
        })
        assert.isTrue(received.subarray(0, 100).equals(pattern(100)))
        yield* Fiber.join(fiber)
        while (!connection.isFlushed!()) yield* poll(1)
      }))

    it.live("fails once the stream is dead", () =>
      Effect.gen(function*() {
        for (const kind of ["eof", "reset", "aborted"] as const) {
          const { connection, peer } = yield* open()
          if (kind === "eof") peer.end()
          else if (kind === "reset") peer.resetAndDestroy()
          else yield* connection.abort
          yield* poll()
          for (let i = 0; i < 2; i++) {
            const error = yield* Effect.flip(connection.write(new Uint8Array(1)))
            assert.strictEqual(error.phase, "write")
            assert.strictEqual(error.kind, kind)
          }
        }
      }))

    it.live("that is suspended fails when the peer resets", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* open()
        const write = yield* block(connection)
        peer.resetAndDestroy()
        const error = yield* Effect.flip(Fiber.join(write))
        assert.strictEqual(error.phase, "write")
        assert.strictEqual(error.kind, "reset")
      }))
  })

  for (const steps of [3, 4, 5]) {
    it.live(`keeps the order of bytes, and misses no wake-up, when a fiber yields after every ${steps} steps`, () =>
      Effect.gen(function*() {
        const { connection, peer, scope } = yield* open()
        const sent = pattern(1 << 20)
        // Small pieces, each in a turn of its own, so that some arrive while the reader has yielded.
        const sendFrom = (at: number) => {
          peer.write(sent.subarray(at, at + 4001))
          if (at + 4001 < sent.length) setImmediate(sendFrom, at + 4001)
        }
        sendFrom(0)
        const chunks = yield* pullBytes(connection, sent.length)
        assert.isTrue(Buffer.concat(chunks).equals(sent))
        const received = yield* Effect.forkChild(receive(peer), { startImmediately: true })
        for (let i = 0; i < 16; i++) yield* connection.write(sent)
        peer.end()
        assert.strictEqual((yield* Effect.flip(connection.pull)).kind, "eof")
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual((yield* Fiber.join(received)).length, 16 * sent.length)
      }).pipe(Effect.provideService(References.MaxOpsBeforeYield, steps)))
  }

  describe("abort", () => {
    it.live("destroys at once under a blocked write, and fails what is suspended", () =>
      Effect.gen(function*() {
        const { connection, peer, scope } = yield* open()
        const before = yield* handles
        const pull = yield* Effect.forkChild(Effect.flip(connection.pull), { startImmediately: true })
        const write = yield* block(connection)
        const closed = yield* Effect.forkChild(once(peer, "close"), { startImmediately: true })
        yield* connection.abort
        yield* connection.abort
        const errors = [yield* Fiber.join(pull), yield* Effect.flip(Fiber.join(write))]
        assert.deepStrictEqual(errors.map((error) => [error.phase, error.kind]), [
          ["read", "aborted"],
          ["write", "aborted"]
        ])
        const after = yield* handles
        assert.strictEqual(after.length, before.length - 1, "only the peer's side is left")
        yield* Scope.close(scope, Exit.void)
        peer.resume()
        yield* Fiber.join(closed)
      }))

    it.live("discards what was not pulled", () =>
      Effect.gen(function*() {
        const { connection, peer } = yield* open()
        yield* send(peer, "late")
        yield* poll()
        yield* connection.abort
        assert.strictEqual((yield* Effect.flip(connection.pull)).kind, "aborted")
      }))
  })

  describe("scope close", () => {
    it.live("flushes what was written and closes cleanly", () =>
      Effect.gen(function*() {
        const { connection, peer, scope } = yield* open({ closeGrace: "1 minute" })
        const write = yield* block(connection)
        const received = yield* Effect.forkChild(receive(peer), { startImmediately: true })
        yield* Fiber.join(write)
        yield* connection.write(Buffer.from("goodbye"))
        yield* Scope.close(scope, Exit.void)
        const bytes = yield* Fiber.join(received)
        assert.strictEqual(bytes.subarray(-7).toString(), "goodbye")
        assert.strictEqual((bytes.length - 7) % (1 << 20), 0)
      }))

    it.live("fails a pull and a write that are suspended", () =>
      Effect.gen(function*() {
        const { connection, scope } = yield* open({ closeGrace: "20 millis" })
        const pull = yield* Effect.forkChild(Effect.flip(connection.pull), { startImmediately: true })
        const write = yield* block(connection)
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual((yield* Fiber.join(pull)).kind, "aborted")
        assert.strictEqual((yield* Effect.flip(Fiber.join(write))).kind, "aborted")
        assert.strictEqual((yield* Effect.flip(connection.pull)).kind, "aborted")
        assert.strictEqual((yield* Effect.flip(connection.write(new Uint8Array(1)))).kind, "aborted")
      }))

    it.live("destroys after the grace when the peer takes nothing", () =>
      Effect.gen(function*() {
        const before = yield* handles
        yield* Effect.gen(function*() {
          const { connection, scope } = yield* open({ closeGrace: "50 millis" })
          yield* block(connection)
          const start = performance.now()
          yield* Scope.close(scope, Exit.void)
          assert.isAtLeast(performance.now() - start, 45)
        }).pipe(Effect.scoped)
        assert.deepStrictEqual(yield* handles, before)
      }))

    it.live("destroys after the grace when the peer does not close its side", () =>
      Effect.gen(function*() {
        const { peer, scope } = yield* open({ closeGrace: "20 millis" }, { allowHalfOpen: true })
        const ended = yield* Effect.forkChild(once(peer, "end"), { startImmediately: true })
        peer.resume()
        yield* Scope.close(scope, Exit.void)
        yield* Fiber.join(ended)
        assert.strictEqual(
          (yield* handles).filter((name) => name === "TCPSocketWrap").length,
          1,
          "only the peer's side"
        )
      }))

    it.effect("ends in real time under any Clock", () =>
      Effect.gen(function*() {
        const { connection, scope } = yield* open({ closeGrace: "20 millis" })
        yield* block(connection)
        yield* Scope.close(scope, Exit.void)
      }))

    it.live("reads past what nobody pulled, up to the end of the peer's side", () =>
      Effect.gen(function*() {
        const { peer, scope } = yield* open({ closeGrace: "1 minute" })
        const sending = yield* Effect.forkChild(send(peer, new Uint8Array(32 << 20)), { startImmediately: true })
        peer.resume()
        yield* poll()
        assert.isUndefined(sending.pollUnsafe(), "the socket is paused")
        yield* Scope.close(scope, Exit.void)
        yield* Fiber.join(sending)
      }))

    it.live("does not wait when the stream is dead already", () =>
      Effect.gen(function*() {
        const { connection, peer, scope } = yield* open({ closeGrace: "1 minute" })
        peer.resetAndDestroy()
        yield* Effect.flip(connection.pull)
        yield* Scope.close(scope, Exit.void)
        const other = yield* open({ closeGrace: "1 minute" })
        yield* other.connection.abort
        yield* Scope.close(other.scope, Exit.void)
      }))

    it.live("leaves no handle (law 15)", () =>
      Effect.gen(function*() {
        const before = yield* handles
        yield* Effect.gen(function*() {
          const { connection, peer, scope } = yield* open()
          yield* send(peer, "unread")
          yield* connection.write(Buffer.from("bye"))
          const received = yield* Effect.forkChild(receive(peer), { startImmediately: true })
          yield* Scope.close(scope, Exit.void)
          assert.strictEqual((yield* Fiber.join(received)).toString(), "bye")
        }).pipe(Effect.scoped)
        assert.deepStrictEqual(yield* handles, before)
      }))

    it.live("leaves nothing that keeps a process alive, the timer of the grace included (law 15)", () =>
      Effect.gen(function*() {
        const source = `
          import { Effect } from "effect"
          import * as Net from "node:net"
          import * as NodeTransport from "./src/layers/transport/NodeTransport.ts"
          const server = Net.createServer((socket) => socket.resume())
          server.listen(0, "127.0.0.1", () => {
            const { port } = server.address()
            const connect = NodeTransport.make({ closeGrace: "1 hour" }).connect({ _tag: "Tcp", host: "localhost", port })
            const use = Effect.flatMap(connect, (connection) => connection.write(new Uint8Array(100)))
            Effect.runPromise(Effect.scoped(use)).then(() => {
              server.close()
              setImmediate(() => console.log(JSON.stringify(process.getActiveResourcesInfo())))
            })
          })
        `
        const output = yield* Effect.callback<string, Error>((resume) => {
          const child = execFile(process.execPath, ["--input-type=module", "--eval", source], (error, stdout) => {
            resume(error === null ? Effect.succeed(stdout) : Effect.fail(error))
          })
          return Effect.sync(() => void child.kill())
        })
        const left = JSON.parse(output) as ReadonlyArray<string>
        assert.deepStrictEqual(left.filter((name) => name === "Timeout" || name === "TCPSocketWrap"), [])
      }))
  })
})
