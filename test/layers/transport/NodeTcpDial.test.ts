import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope } from "effect"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import { vi } from "vitest"
import * as SilentPort from "../../integration/support/SilentPort.ts"
import * as NodeTransport from "../../../src/layers/transport/NodeTransport.ts"
import * as Endpoint from "../../../src/services/Endpoint.ts"
import type { DialPhase } from "../../../src/services/Transport.ts"
import { handles, listen, poll, receive, send, summary } from "../../support/Sockets.ts"

/** A resolver that knows one name. */
const resolver = (...addresses: ReadonlyArray<string>): Net.LookupFunction => (_host, _options, done) =>
  done(null, addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 })))

const temporary = Effect.acquireRelease(
  Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-mqtt-unix-"))),
  (directory) => Effect.sync(() => Fs.rmSync(directory, { recursive: true }))
)

const make = (options: NodeTransport.Options = {}) => NodeTransport.make({ closeGrace: "20 millis", ...options })

/** Open sockets, and those that are being opened. */
const sockets = Effect.map(handles, (names) => names.filter((name) => name === "TCPSocketWrap").length)

describe("NodeTcpDial", () => {
  describe("a host of several addresses", () => {
    it.live("is reached by a later one while an earlier one does not answer", () =>
      Effect.gen(function*() {
        const port = yield* SilentPort.make
        const { accept } = yield* listen({}, { host: "127.0.0.2", port })
        const transport = make({ lookup: resolver("127.0.0.1", "127.0.0.2"), attemptDelay: "20 millis" })
        const before = yield* sockets
        const start = performance.now()
        const scope = yield* Scope.make()
        yield* Scope.provide(transport.connect(Endpoint.tcp("broker.test", port)), scope)
        assert.isAtLeast(performance.now() - start, 19)
        assert.strictEqual((yield* accept).localAddress, "127.0.0.2")
        assert.strictEqual(yield* sockets, before + 2, "the two sides of one connection")
        yield* Scope.close(scope, Exit.void)
        assert.isAtMost(yield* sockets, before + 1)
      }))

    it.live("is reached by a later one at once when an earlier one refuses", () =>
      Effect.gen(function*() {
        const { accept, port } = yield* listen({}, { host: "127.0.0.3", port: 0 })
        const transport = make({
          lookup: resolver("127.0.0.1", "::1", "127.0.0.2", "127.0.0.3"),
          attemptDelay: "1 hour"
        })
        yield* transport.connect(Endpoint.tcp("broker.test", port))
        assert.strictEqual((yield* accept).localAddress, "127.0.0.3")
      }))

    it.live("has no address given up because the next one's turn has come", () =>
      Effect.gen(function*() {
        const port = yield* SilentPort.make
        const before = yield* sockets
        const transport = make({ lookup: resolver("127.0.0.1", "127.0.0.1"), attemptDelay: 1 })
        const fiber = yield* Effect.forkChild(Effect.scoped(transport.connect(Endpoint.tcp("broker.test", port))))
        while ((yield* sockets) < before + 2) yield* poll()
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(yield* sockets, before)
      }))

    it.live("that has none after all does not resolve", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(
          make({ lookup: resolver() }).connect(Endpoint.tcp("broker.test"))
        )
        assert.deepStrictEqual(summary(error), { phase: "dns", kind: "unresolved", detail: undefined })
      }))

    it.live("fails for what was said of an address, rather than for a network that is not there", () =>
      Effect.gen(function*() {
        const { port } = yield* Effect.scoped(listen())
        // No route leads to a multicast address by TCP.
        const transport = make({ lookup: resolver("255.255.255.255", "127.0.0.1") })
        const error = yield* Effect.flip(transport.connect(Endpoint.tcp("broker.test", port)))
        assert.strictEqual(error.kind, "refused")
      }))
  })

  it.live("tells its phases", () =>
    Effect.gen(function*() {
      const { port } = yield* listen()
      const phases: Array<DialPhase> = []
      const transport = make({ lookup: resolver("127.0.0.1") })
      yield* transport.connect(Endpoint.tcp("broker.test", port), (phase) => phases.push(phase))
      assert.deepStrictEqual(phases, ["dns", "connect"])
      yield* transport.connect(Endpoint.tcp("127.0.0.1", port), (phase) => phases.push(phase))
      assert.deepStrictEqual(phases, ["dns", "connect", "connect"])
    }))

  it.live("fails typed when the resolver throws", () =>
    Effect.gen(function*() {
      const lookup: Net.LookupFunction = () => {
        throw new Error("no resolver")
      }
      const error = yield* Effect.flip(make({ lookup }).connect(Endpoint.tcp("broker.test")))
      assert.strictEqual(error.kind, "unresolved")
    }))

  it.live("sends small writes at once (TCP_NODELAY)", () =>
    Effect.gen(function*() {
      const { port } = yield* listen()
      const probe = new Net.Socket()
      probe.on("error", () => {}).connect(port, "127.0.0.1")
      const handle = (probe as unknown as { readonly _handle: object })._handle
      probe.destroy()
      // What the operating system is told; a socket of Node does not show it.
      const prototype = Object.getPrototypeOf(handle) as { setNoDelay: (on: boolean) => number }
      const told = vi.spyOn(prototype, "setNoDelay")
      yield* Effect.addFinalizer(() => Effect.sync(() => told.mockRestore()))
      yield* make().connect(Endpoint.tcp("127.0.0.1", port))
      assert.deepStrictEqual(told.mock.calls, [[true]])
    }))

  it.live("has the operating system probe a silent peer, if asked", () =>
    Effect.gen(function*() {
      const { port } = yield* listen()
      if (process.platform !== "linux") return
      const probing = (port: number) =>
        Fs.readFileSync("/proc/net/tcp", "utf8").split("\n").filter((line) =>
          // The timer 02 is that of keep-alive.
          line.includes(`:${port.toString(16).toUpperCase().padStart(4, "0")} 01 `) && / 02:/.test(line)
        ).length
      yield* make().connect(Endpoint.tcp("127.0.0.1", { port }))
      assert.strictEqual(probing(port), 0)
      yield* make().connect(Endpoint.tcp("127.0.0.1", { port, tcpKeepAlive: "30 seconds" }))
      assert.strictEqual(probing(port), 1)
    }))

  describe("a Unix domain socket", () => {
    it.live("carries bytes both ways", () =>
      Effect.gen(function*() {
        const path = Path.join(yield* temporary, "broker.sock")
        const before = yield* handles
        yield* Effect.scoped(Effect.gen(function*() {
          const { accept } = yield* listen({}, { path })
          const scope = yield* Scope.make()
          const connection = yield* Scope.provide(make().connect(Endpoint.unix(path)), scope)
          const peer = yield* accept
          yield* send(peer, "welcome")
          assert.strictEqual(Buffer.concat(yield* connection.pull).toString(), "welcome")
          const received = yield* Effect.forkChild(receive(peer), { startImmediately: true })
          yield* connection.write(Buffer.from("hello"))
          yield* Scope.close(scope, Exit.void)
          assert.strictEqual((yield* Fiber.join(received)).toString(), "hello")
        }))
        assert.deepStrictEqual(yield* handles, before)
      }))

    it.live("that is not there, or that nobody listens on, is refused", () =>
      Effect.gen(function*() {
        const directory = yield* temporary
        const stale = Path.join(directory, "stale.sock")
        Fs.writeFileSync(stale, "")
        for (const [path, code] of [[Path.join(directory, "none.sock"), "ENOENT"], [stale, "ECONNREFUSED"]] as const) {
          const error = yield* Effect.flip(make().connect(Endpoint.unix(path)))
          assert.strictEqual(error.kind, "refused")
          assert.strictEqual(error.code, code)
          assert.strictEqual(error.address, path)
        }
      }))

    it.live("with a path that is too long fails typed", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(make().connect(Endpoint.unix(`/tmp/${"x".repeat(200)}`)))
        assert.strictEqual(error.phase, "connect")
      }))
  })
})
