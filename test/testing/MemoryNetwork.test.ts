import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Endpoint from "../../src/services/Endpoint.ts"
import { Transport } from "../../src/services/Transport.ts"
import type { Connection, TransportError } from "../../src/services/Transport.ts"
import { Hex, MemoryNetwork } from "../../src/testing/index.ts"

const endpoint = Endpoint.tcp("broker", 1883)

const bytes = (...values: ReadonlyArray<number>) => Uint8Array.from(values)

const filled = (length: number) => new Uint8Array(length).fill(7)

const hexOf = (chunks: ReadonlyArray<Uint8Array>) => chunks.map(Hex.encode)

const kindOf = <A, R>(effect: Effect.Effect<A, TransportError, R>) =>
  Effect.map(Effect.flip(effect), (error) => `${error.phase}:${error.kind}`)

/** A client's end with a scope of its own, and the server's end. */
const pair = Effect.fnUntraced(function*(options?: MemoryNetwork.ListenOptions) {
  const network = yield* MemoryNetwork.MemoryNetwork
  const listener = yield* network.listen({ host: "broker", ...options })
  const scope = yield* Scope.make()
  const connection: Connection = yield* Scope.provide((yield* Transport).connect(endpoint), scope)
  const peer = yield* listener.accept
  return { network, connection, peer, close: Scope.close(scope, Exit.void) }
})

const dial = Effect.fnUntraced(function*(host: string, port: number) {
  return yield* Effect.scoped((yield* Transport).connect(Endpoint.tcp(host, port)))
})

/** Forks and lets the fiber run until it suspends. */
const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

const run = <A, E>(
  effect: Effect.Effect<A, E, MemoryNetwork.MemoryNetwork | Transport | Scope.Scope>
) => Effect.provide(effect, MemoryNetwork.layer)

describe("MemoryNetwork", () => {
  describe("dial", () => {
    it.effect("gives the bytes of each end to the other, in order and in the chunks as sent", () =>
      run(Effect.gen(function*() {
        const { connection, peer } = yield* pair()
        yield* connection.write(bytes(1, 2))
        yield* connection.write(bytes(3))
        assert.deepStrictEqual(hexOf(yield* peer.read), ["01 02", "03"])
        yield* peer.sendHex("20 03 00 00 00")
        yield* peer.send(bytes(9))
        assert.deepStrictEqual(hexOf(yield* connection.pull), ["20 03 00 00 00", "09"])
        assert.strictEqual(peer.receivedHex, "01 02 03")
      })))

    it.effect("tells an unknown host from a known host with an unknown port", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.listen({ host: "broker" })
        assert.strictEqual(yield* kindOf(dial("nowhere", 1883)), "dns:unresolved")
        assert.strictEqual(yield* kindOf(dial("broker", 1884)), "connect:refused")
        assert.deepStrictEqual(network.dials.map((dial) => `${dial.address} ${dial.outcome}`), [
          "nowhere:1883 unresolved",
          "broker:1884 refused"
        ])
      })))

    it.effect("prefers the listener of the very host and port to the wildcards", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const any = yield* network.listen({ port: "*" })
        const named = yield* network.listen({ host: "Broker", port: 1 })
        yield* dial("broker", 1)
        yield* dial("other", 2)
        assert.strictEqual(yield* kindOf(dial("broker", 2)), "connect:refused")
        assert.deepStrictEqual(named.peers.map((peer) => peer.address), ["broker:1"])
        assert.deepStrictEqual(any.peers.map((peer) => peer.address), ["other:2"])
      })))

    it.effect("fails as it is told, so many times, and connects again after", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.listen()
        yield* network.failDials({ host: "broker" }, "unreachable", { times: 2 })
        assert.strictEqual(yield* kindOf(dial("broker", 1883)), "connect:unreachable")
        yield* dial("elsewhere", 1883)
        assert.strictEqual(yield* kindOf(dial("broker", 1883)), "connect:unreachable")
        yield* dial("broker", 1883)
        yield* network.failDials({}, "timeout")
        assert.strictEqual(yield* kindOf(dial("broker", 1883)), "connect:timeout")
        yield* network.refuse("broker", 1883)
        assert.strictEqual(yield* kindOf(dial("broker", 1883)), "connect:refused")
        yield* network.healDials
        yield* dial("broker", 1883)
      })))

    it.effect("hangs silently until it is interrupted", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.listen()
        yield* network.failDials({}, "silent")
        const fiber = yield* start(dial("broker", 1883))
        yield* TestClock.adjust("1 day")
        assert.deepStrictEqual(network.dials.map((dial) => dial.outcome), ["pending"])
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(network.dials.map((dial) => dial.outcome), ["interrupted"])
        assert.strictEqual(network.openConnections, 0)
      })))

    it.effect("succeeds when nobody accepts", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const listener = yield* network.listen()
        yield* Effect.scoped(Effect.gen(function*() {
          const connection = yield* (yield* Transport).connect(endpoint)
          yield* connection.write(bytes(1))
          assert.strictEqual(network.openConnections, 1)
        }))
        assert.strictEqual(network.openConnections, 0)
        const peer = yield* listener.accept
        assert.deepStrictEqual(hexOf(yield* peer.read), ["01"])
        assert.strictEqual((yield* Effect.flip(peer.read)).how, "fin")
      })))

    it.effect("takes one round trip, and bytes half of one, when there is latency", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const listener = yield* network.listen()
        yield* network.setLatency("50 millis")
        const fiber = yield* start(
          Effect.flatMap(Transport, (transport) => transport.connect(endpoint))
        )
        yield* TestClock.adjust("99 millis")
        assert.strictEqual(listener.peers.length, 0)
        yield* TestClock.adjust("1 millis")
        const connection = yield* Fiber.join(fiber)
        const peer = yield* listener.accept
        assert.strictEqual(peer.openedAt, 100)
        yield* connection.write(bytes(1))
        yield* connection.write(bytes(2))
        yield* TestClock.adjust("49 millis")
        assert.strictEqual(peer.received.length, 0)
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(peer.receivedHex, "01 02")
        yield* peer.sendHex("03")
        yield* peer.fin
        yield* TestClock.adjust("49 millis")
        assert.strictEqual(peer.unpulledBytes, 0)
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(hexOf(yield* connection.pull), ["03"])
        assert.strictEqual(yield* kindOf(connection.pull), "read:eof")
      })))
  })

  it.effect("delivers late bytes also when the clock stands between two milliseconds", () =>
    run(Effect.gen(function*() {
      yield* TestClock.adjust(717.25614)
      const { connection, network, peer } = yield* pair()
      yield* network.setLatency(0.1)
      for (let i = 0; i < 200; i++) {
        yield* connection.write(bytes(1))
        yield* TestClock.adjust(0.1)
      }
      yield* TestClock.adjust(1)
      assert.strictEqual(peer.received.length, 200)
    })))

  describe("pull", () => {
    it.effect("suspends until bytes come", () =>
      run(Effect.gen(function*() {
        const { connection, peer } = yield* pair()
        const fiber = yield* start(connection.pull)
        yield* peer.sendHex("01")
        assert.deepStrictEqual(hexOf(yield* Fiber.join(fiber)), ["01"])
      })))

    it.effect("gives what came before a FIN, then eof for good", () =>
      run(Effect.gen(function*() {
        const { connection, peer } = yield* pair()
        yield* peer.sendHex("01")
        yield* peer.fin
        assert.deepStrictEqual(hexOf(yield* connection.pull), ["01"])
        yield* connection.write(bytes(5))
        assert.strictEqual(peer.receivedHex, "05")
        assert.strictEqual(yield* kindOf(connection.pull), "read:eof")
        assert.strictEqual(yield* kindOf(connection.pull), "read:eof")
        assert.strictEqual(yield* kindOf(connection.write(bytes(6))), "write:eof")
      })))

    it.effect("gives what came before a reset, then reset for good", () =>
      run(Effect.gen(function*() {
        const { connection, peer } = yield* pair()
        yield* peer.sendHex("01")
        yield* peer.reset
        assert.strictEqual(yield* kindOf(connection.write(bytes(6))), "write:reset")
        assert.deepStrictEqual(hexOf(yield* connection.pull), ["01"])
        assert.strictEqual(yield* kindOf(connection.pull), "read:reset")
        assert.strictEqual(yield* kindOf(connection.pull), "read:reset")
      })))

    it.effect("fails while suspended, by FIN and by reset", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const listener = yield* network.listen()
        const pulling = Effect.gen(function*() {
          const connection = yield* (yield* Transport).connect(endpoint)
          return { fiber: yield* start(kindOf(connection.pull)), peer: yield* listener.accept }
        })
        const first = yield* pulling
        yield* first.peer.fin
        assert.strictEqual(yield* Fiber.join(first.fiber), "read:eof")
        const second = yield* pulling
        yield* second.peer.reset
        assert.strictEqual(yield* Fiber.join(second.fiber), "read:reset")
      })))

    it.effect("gives one chunk of the set size at a time", () =>
      run(Effect.gen(function*() {
        const { connection, peer } = yield* pair({ chunkBytes: 1 })
        yield* peer.sendHex("01 02")
        yield* peer.sendHex("03 04 05")
        assert.deepStrictEqual(hexOf(yield* connection.pull), ["01"])
        assert.deepStrictEqual(hexOf(yield* connection.pull), ["02"])
        yield* peer.setChunkBytes(2)
        assert.deepStrictEqual(hexOf(yield* connection.pull), ["03 04"])
        assert.deepStrictEqual(hexOf(yield* connection.pull), ["05"])
      })))

    it.effect("gives chunks that are the caller's own", () =>
      run(Effect.gen(function*() {
        const { connection, peer } = yield* pair()
        const sent = bytes(1, 2)
        yield* peer.send(sent)
        sent[0] = 9
        assert.deepStrictEqual(hexOf(yield* connection.pull), ["01 02"])
      })))
  })

  describe("write", () => {
    it.effect("suspends when the window is full, and goes on as the server drains", () =>
      run(Effect.gen(function*() {
        const { connection, peer } = yield* pair({ windowBytes: 100 })
        yield* peer.stallReads
        yield* connection.write(filled(100))
        assert.isFalse(peer.isWriteBlocked)
        const fiber = yield* start(connection.write(filled(30)))
        assert.isTrue(peer.isWriteBlocked)
        assert.strictEqual(yield* peer.drain(20), 20)
        yield* TestClock.adjust("1 day")
        assert.isTrue(peer.isWriteBlocked)
        assert.strictEqual(peer.outstandingBytes, 100)
        assert.strictEqual(yield* peer.drain(10), 10)
        yield* Fiber.join(fiber)
        assert.isFalse(peer.isWriteBlocked)
        yield* peer.resumeReads
        assert.strictEqual(peer.received.length, 130)
        assert.strictEqual(peer.outstandingBytes, 0)
      })))

    it.effect("writes a chunk larger than the window piece by piece", () =>
      run(Effect.gen(function*() {
        const { connection, peer } = yield* pair({ windowBytes: 10 })
        yield* connection.write(filled(1_000))
        assert.strictEqual(peer.received.length, 1_000)
      })))

    it.effect("drains at the set rate", () =>
      run(Effect.gen(function*() {
        const { connection, peer } = yield* pair({ windowBytes: 10 })
        yield* peer.drainEvery(5, "1 second")
        const fiber = yield* start(connection.write(filled(30)))
        yield* TestClock.adjust("3999 millis")
        assert.isTrue(peer.isWriteBlocked)
        yield* TestClock.adjust("1 millis")
        yield* Fiber.join(fiber)
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual(peer.received.length, 30)
      })))

    it.effect("fails while suspended, by reset, by abort and by a FIN that was pulled", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const listener = yield* network.listen({ windowBytes: 1 })
        const blocked = Effect.gen(function*() {
          const connection = yield* (yield* Transport).connect(endpoint)
          const peer = yield* listener.accept
          yield* peer.stallReads
          const fiber = yield* start(kindOf(connection.write(filled(2))))
          return { connection, peer, fiber }
        })
        const first = yield* blocked
        yield* first.peer.reset
        assert.strictEqual(yield* Fiber.join(first.fiber), "write:reset")
        const second = yield* blocked
        yield* second.connection.abort
        assert.strictEqual(yield* Fiber.join(second.fiber), "write:aborted")
        const third = yield* blocked
        yield* third.peer.fin
        yield* Effect.ignore(third.connection.pull)
        assert.strictEqual(yield* Fiber.join(third.fiber), "write:eof")
      })))

    it.effect("is answered by a reset when the server has closed", () =>
      run(Effect.gen(function*() {
        const { connection, peer } = yield* pair()
        yield* peer.close
        yield* connection.write(bytes(1))
        assert.strictEqual(yield* kindOf(connection.write(bytes(2))), "write:reset")
      })))

    it.effect("dies when writes overlap, or follow an interrupted one", () =>
      run(Effect.gen(function*() {
        const { connection, peer } = yield* pair({ windowBytes: 1 })
        yield* peer.stallReads
        const fiber = yield* start(connection.write(filled(2)))
        assert.isTrue(Exit.hasDies(yield* Effect.exit(connection.write(filled(1)))))
        yield* Fiber.interrupt(fiber)
        yield* peer.resumeReads
        assert.isTrue(Exit.hasDies(yield* Effect.exit(connection.write(filled(1)))))
      })))
  })

  describe("the client's close", () => {
    it.effect("by scope sends a FIN behind what was written", () =>
      run(Effect.gen(function*() {
        const { close, connection, network, peer } = yield* pair()
        yield* peer.stallReads
        yield* connection.write(bytes(1, 2))
        yield* TestClock.adjust("3 seconds")
        const pulling = yield* start(kindOf(connection.pull))
        yield* close
        assert.strictEqual(yield* Fiber.join(pulling), "read:aborted")
        assert.strictEqual(network.openConnections, 0)
        assert.deepStrictEqual(yield* peer.closed, { how: "fin", at: 3_000 })
        yield* peer.resumeReads
        assert.deepStrictEqual(hexOf(yield* peer.read), ["01 02"])
        assert.strictEqual((yield* Effect.flip(peer.read)).how, "fin")
        assert.strictEqual(yield* kindOf(connection.write(bytes(1))), "write:aborted")
      })))

    it.effect("by abort destroys: what the server had not taken is gone", () =>
      run(Effect.gen(function*() {
        const { close, connection, network, peer } = yield* pair()
        yield* peer.stallReads
        yield* peer.sendHex("01")
        yield* connection.write(bytes(1, 2))
        const waiting = yield* start(peer.closed)
        yield* connection.abort
        yield* connection.abort
        yield* close
        assert.strictEqual(network.openConnections, 0)
        assert.deepStrictEqual(yield* Fiber.join(waiting), { how: "abort", at: 0 })
        assert.strictEqual((yield* Effect.flip(peer.read)).how, "abort")
        assert.strictEqual(yield* kindOf(connection.pull), "read:aborted")
      })))

    it.effect("after a reset is seen as such, and counts as open until then", () =>
      run(Effect.gen(function*() {
        const { close, connection, network, peer } = yield* pair()
        yield* peer.reset
        assert.strictEqual(yield* kindOf(connection.pull), "read:reset")
        assert.strictEqual(network.openConnections, 1)
        yield* close
        assert.strictEqual(network.openConnections, 0)
        assert.strictEqual((yield* peer.closed).how, "reset")
      })))
  })

  describe("blackHole", () => {
    it.effect("lets writes succeed until the window is full, and nothing through", () =>
      run(Effect.gen(function*() {
        const { connection, network, peer } = yield* pair({ windowBytes: 10 })
        yield* peer.blackHole("in")
        yield* connection.write(filled(10))
        const fiber = yield* start(kindOf(connection.write(filled(1))))
        yield* peer.sendHex("01")
        assert.deepStrictEqual(hexOf(yield* connection.pull), ["01"])
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(peer.received.length, 0)
        assert.isTrue(peer.isWriteBlocked)
        yield* connection.abort
        assert.strictEqual(yield* Fiber.join(fiber), "write:aborted")
        assert.deepStrictEqual(yield* peer.closed, { how: "abort", at: 3_600_000 })
        const read = yield* start(peer.readBytes(10))
        yield* network.settle
        assert.strictEqual(read.pollUnsafe(), undefined)
        yield* peer.heal
        assert.deepStrictEqual(yield* Fiber.join(read), filled(10))
        assert.strictEqual((yield* Effect.flip(peer.read)).how, "abort")
      })))

    it.effect("of the other direction hides the server's bytes, FIN and reset", () =>
      run(Effect.gen(function*() {
        const { connection, network, peer } = yield* pair()
        yield* peer.blackHole("out")
        yield* peer.sendHex("01")
        yield* peer.fin
        const fiber = yield* start(connection.pull)
        yield* connection.write(bytes(2))
        assert.strictEqual(peer.receivedHex, "02")
        yield* network.settle
        assert.strictEqual(fiber.pollUnsafe(), undefined)
        yield* peer.heal
        assert.deepStrictEqual(hexOf(yield* Fiber.join(fiber)), ["01"])
        assert.strictEqual(yield* kindOf(connection.pull), "read:eof")
      })))
  })

  describe("Peer", () => {
    it.effect("reads whole control packets, however they were written", () =>
      run(Effect.gen(function*() {
        const { connection, peer } = yield* pair()
        yield* connection.write(Hex.decode("c0 00 30 03 00"))
        assert.strictEqual(Hex.encode(yield* peer.readFrame), "c0 00")
        const fiber = yield* start(peer.readFrame)
        yield* connection.write(Hex.decode("01 61 e0"))
        assert.strictEqual(Hex.encode(yield* Fiber.join(fiber)), "30 03 00 01 61")
        yield* connection.write(Hex.decode("00"))
        assert.strictEqual(Hex.encode(yield* peer.readBytes(1)), "e0")
        assert.strictEqual(Hex.encode(yield* peer.readBytes(1)), "00")
      })))

    it.effect("is reset when its listener closes, and dials are refused", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.listen({ host: "broker", port: 1 })
        const scope = yield* Scope.make()
        yield* Scope.provide(network.listen({ host: "broker" }), scope)
        const connection = yield* (yield* Transport).connect(endpoint)
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(yield* kindOf(connection.pull), "read:reset")
        assert.strictEqual(yield* kindOf(dial("broker", 1883)), "connect:refused")
      })))
  })
})
