import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import type { Scope } from "effect"
import { TestClock } from "effect/testing"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import * as Message from "../../src/services/Message.ts"
import type { Status } from "../../src/services/Status.ts"
import type { Transport } from "../../src/services/Transport.ts"
import { MemoryNetwork, TestBroker } from "../../src/testing/index.ts"
import * as ProbeClock from "../support/ProbeClock.ts"
import {
  accepted,
  awaitStatus,
  expectWords,
  next,
  open,
  quietWeek,
  readToEnd,
  resume,
  resumed,
  run,
  start,
  watchStatus
} from "../support/ScriptedBroker.ts"

const disconnect = "e0 00"
const payload = Uint8Array.of(0x78)
const persistent = { sessionExpiry: "1 hour" } as const

const tags = (seen: ReadonlyArray<Status>) => seen.map((status) => status._tag)

/** A client that is not connected yet: it is built at once, and the test decides what its first dial finds. */
const build = Effect.fnUntraced(function*(options: Partial<MqttClient.ClientOptions> = {}) {
  const network = yield* MemoryNetwork.MemoryNetwork
  const listener = yield* network.listen({ host: "broker" })
  const client = yield* MqttClient.make({ endpoint: "mqtt://broker", firstConnect: "retry", ...options })
  return { network, listener, client }
})

describe("pause", () => {
  describe("while connected", () => {
    for (const protocolVersion of [4, 5] as const) {
      it.effect(`DC-06b DC-07b: sends DISCONNECT as the last packet and closes (MQTT ${protocolVersion})`, () =>
        run(Effect.gen(function*() {
          const { client, listener, network, peer } = yield* open({ protocolVersion })
          const seen = yield* watchStatus(client)
          yield* client.pause
          assert.deepStrictEqual(yield* readToEnd(peer), { packets: [disconnect], how: "fin" })
          assert.strictEqual((yield* client.status)._tag, "Paused")
          yield* quietWeek(network)
          const { negotiated } = yield* resume(client, listener, accepted[protocolVersion])
          assert.strictEqual(negotiated.protocolVersion, protocolVersion)
          yield* network.settle
          assert.deepStrictEqual(tags(seen), ["Connected", "Paused", "Connecting", "Connected"])
        })))
    }

    it.effect("leaves no timer and no more fibers than the client itself has", () =>
      run(Effect.gen(function*() {
        const probe = yield* ProbeClock.make
        const { client, network } = yield* probe.provide(open())
        yield* network.settle
        const connected = probe.fibers
        yield* client.pause
        yield* network.settle
        assert.strictEqual(probe.timers, 0)
        // Reader, writer and keep alive are gone.
        assert.isAtMost(probe.fibers, connected - 3)
      })))

    it.effect("DC-06b: is the end of acknowledgements and publishes that race with it", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open()
        yield* start(Stream.runDrain(client.subscribe("a", { qos: 1 })))
        yield* next(peer)
        yield* peer.sendHex("90 04 00 01 00 01")
        yield* network.settle
        for (let id = 1; id <= 9; id++) yield* peer.sendHex(`32 07 00 01 61 00 0${id} 00 78`)
        yield* Effect.all([
          ...Array.from({ length: 20 }, () => start(client.publish({ topic: "b", payload }))),
          start(client.pause),
          ...Array.from({ length: 20 }, () => start(client.publish({ topic: "c", payload, qos: 1 })))
        ], { concurrency: "unbounded" })
        yield* awaitStatus(client, "Paused")
        const { how, packets } = yield* readToEnd(peer)
        assert.strictEqual(how, "fin")
        assert.strictEqual(packets.indexOf(disconnect), packets.length - 1)
        assert.isTrue(packets.slice(0, -1).every((packet) => packet.startsWith("3") || packet.startsWith("40")))
      })))

    it.effect("KA-13b: is the end of pings", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ keepAlive: "10 seconds" })
        yield* TestClock.adjust("9999 millis")
        yield* client.pause
        yield* TestClock.adjust("100 seconds")
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: [disconnect], how: "fin" })
      })))

    it.effect("is held up by nothing that the server still sends, or does not", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        yield* start(client.publish({ topic: "a", payload, qos: 1 }))
        yield* start(Stream.runDrain(client.subscribe("a")))
        yield* expectWords(peer, 5, "subscribe 1 a:0", "publish 2 a:1")
        yield* client.pause
        yield* peer.sendHex("40 02 00 02")
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: [disconnect], how: "fin" })
        assert.strictEqual((yield* client.stats).inFlight, 1)
      })))

    it.effect("pauses as well when the link is lost at that moment", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open()
        yield* peer.reset
        yield* client.pause
        assert.strictEqual((yield* client.status)._tag, "Paused")
        yield* quietWeek(network)
      })))

    it.effect("is done even if its caller does not wait for it", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open()
        const pausing = yield* start(client.pause)
        yield* Fiber.interrupt(pausing)
        yield* awaitStatus(client, "Paused")
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: [disconnect], how: "fin" })
        yield* quietWeek(network)
      })))
  })

  describe("while connecting", () => {
    it.effect("ends the dial", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.failDials({}, "silent")
        const { client } = yield* build()
        yield* network.settle
        const waiting = yield* start(Effect.flip(client.resume))
        yield* client.pause
        const error = yield* Fiber.join(waiting)
        assert.strictEqual(
          error._tag === "ConnectError" && error.reason._tag === "ConnectInterrupted" && error.reason.by,
          "pause"
        )
        assert.deepStrictEqual(network.dials.map((dial) => dial.outcome), ["interrupted"])
        yield* quietWeek(network)
      })))

    for (const protocolVersion of [4, 5] as const) {
      it.effect(`DC-10p DC-13p: says goodbye to a server that may have accepted CONNECT (MQTT ${protocolVersion})`, () =>
        run(Effect.gen(function*() {
          const { client, listener, network } = yield* build({ protocolVersion, will: { topic: "w" } })
          const peer = yield* listener.accept
          yield* next(peer)
          yield* client.pause
          assert.strictEqual((yield* client.status)._tag, "Paused")
          assert.deepStrictEqual(yield* readToEnd(peer), { packets: [disconnect], how: "fin" })
          yield* quietWeek(network)
        })))
    }

    it.effect("does so no longer than disconnectTimeout", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open({ disconnectTimeout: "3 seconds" })
        const length = peer.connect.split(" ").length
        yield* client.pause
        // CONNECT finds room and DISCONNECT does not.
        const narrow = yield* network.listen({ host: "narrow", windowBytes: length + 1 })
        yield* network.setLatency("1 second")
        const reconnecting = yield* start(
          Effect.flip(client.reconnect((last) => ({ ...last, endpoint: "mqtt://narrow" })))
        )
        yield* network.settle
        yield* TestClock.adjust("2 seconds")
        const blocked = yield* narrow.accept
        yield* blocked.stallReads
        const pausing = yield* start(client.pause)
        yield* network.settle
        assert.isTrue(blocked.isWriteBlocked)
        yield* TestClock.adjust("2999 millis")
        assert.isUndefined(pausing.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        yield* Fiber.join(pausing)
        yield* Fiber.join(reconnecting)
        assert.deepStrictEqual(yield* blocked.closed, { how: "abort", at: 5_000 })
        assert.strictEqual(listener.peers.length, 1)
        assert.strictEqual(network.openConnections, 0)
      })))

    it.effect("waits disconnectTimeout for a CONNECT that is being written, and writes nothing behind a part of it", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const listener = yield* network.listen({ host: "broker", windowBytes: 8 })
        yield* network.setLatency("1 second")
        const client = yield* MqttClient.make({ endpoint: "mqtt://broker", firstConnect: "retry" })
        yield* network.settle
        yield* TestClock.adjust("2 seconds")
        const peer = yield* listener.accept
        yield* peer.stallReads
        const pausing = yield* start(client.pause)
        yield* network.settle
        yield* TestClock.adjust("2 seconds")
        yield* Fiber.join(pausing)
        assert.deepStrictEqual(yield* peer.closed, { how: "abort", at: 4_000 })
        yield* TestClock.adjust("1 second")
        yield* quietWeek(network)
      })))

    it.effect("interrupts an effect that gives the credentials", () =>
      run(Effect.gen(function*() {
        let interrupted = false
        const credentials = Effect.onInterrupt(Effect.never, () =>
          Effect.sync(() => {
            interrupted = true
          }))
        const { client, network } = yield* build({ credentials })
        yield* network.settle
        yield* client.pause
        assert.isTrue(interrupted)
        yield* quietWeek(network)
        assert.strictEqual(network.dials.length, 0)
      })))
  })

  describe("while waiting to connect again", () => {
    it.effect("ends the wait", () =>
      run(Effect.gen(function*() {
        const probe = yield* ProbeClock.make
        const { client, listener, network, peer } = yield* probe.provide(open())
        yield* peer.reset
        yield* awaitStatus(client, "Reconnecting")
        const waiting = yield* start(Effect.flip(client.resume))
        yield* network.settle
        yield* client.pause
        assert.strictEqual((yield* Fiber.join(waiting))._tag, "ConnectError")
        assert.strictEqual(probe.timers, 0)
        yield* quietWeek(network)
        yield* resume(client, listener)
        // A new story: attempts are counted from 1.
        assert.strictEqual((yield* client.status)._tag, "Connected")
      })))
  })

  describe("while a write is blocked", () => {
    const large = { topic: "a", payload: new Uint8Array(200_000) }

    it.effect("destroys the stream after disconnectTimeout", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({ disconnectTimeout: "3 seconds" }, { windowBytes: 65_536 })
        yield* peer.stallReads
        yield* client.publish(large)
        yield* network.settle
        assert.isTrue(peer.isWriteBlocked)
        const pausing = yield* start(client.pause)
        yield* network.settle
        yield* TestClock.adjust("2999 millis")
        assert.isUndefined(pausing.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        yield* Fiber.join(pausing)
        assert.deepStrictEqual(yield* peer.closed, { how: "abort", at: 3_000 })
        assert.strictEqual((yield* client.status)._tag, "Paused")
        yield* quietWeek(network)
      })))

    it.effect("finishes the packet and says goodbye if the server goes on reading in time", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({}, { windowBytes: 65_536 })
        yield* peer.stallReads
        yield* client.publish(large)
        yield* network.settle
        const pausing = yield* start(client.pause)
        yield* network.settle
        yield* TestClock.adjust("1999 millis")
        yield* peer.resumeReads
        yield* Fiber.join(pausing)
        const { how, packets } = yield* readToEnd(peer)
        assert.deepStrictEqual([how, packets.length, packets[1]], ["fin", 2, disconnect])
      })))

    it.effect("does not lose what was being written at QoS 1", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open(persistent, { windowBytes: 65_536 })
        yield* peer.stallReads
        const publishing = yield* start(client.publish({ ...large, qos: 1 }))
        yield* network.settle
        const pausing = yield* start(client.pause)
        yield* network.settle
        yield* TestClock.adjust("2 seconds")
        yield* Fiber.join(pausing)
        const { peer: again } = yield* resume(client, listener, resumed[5])
        yield* expectWords(again, 5, "publish 1 a:1 dup")
        yield* again.sendHex("40 02 00 01")
        assert.strictEqual((yield* Fiber.join(publishing)).reasonCode, 0)
      })))
  })

  describe("twice", () => {
    it.effect("is pausing once", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open()
        const seen = yield* watchStatus(client)
        yield* Effect.all([client.pause, client.pause], { concurrency: "unbounded" })
        yield* client.pause
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: [disconnect], how: "fin" })
        yield* resume(client, listener)
        yield* network.settle
        assert.deepStrictEqual(tags(seen), ["Connected", "Paused", "Connecting", "Connected"])
      })))

    it.effect("resuming is resuming once, and both learn the outcome", () =>
      run(Effect.gen(function*() {
        const { client, listener, network } = yield* open()
        yield* client.pause
        const resuming = yield* start(Effect.all([client.resume, client.resume], { concurrency: "unbounded" }))
        const peer = yield* listener.accept
        const late = yield* start(client.resume)
        yield* next(peer)
        yield* peer.sendHex(accepted[5])
        const [first, second] = yield* Fiber.join(resuming)
        assert.strictEqual(first, second)
        assert.strictEqual(yield* Fiber.join(late), first)
        const { activity } = network
        assert.strictEqual(yield* client.resume, first)
        yield* network.settle
        assert.strictEqual(network.activity, activity)
        assert.strictEqual(network.dials.length, 2)
      })))

    it.effect("a pause that follows a resume ends the attempt, and a resume that follows makes a new one", () =>
      run(Effect.gen(function*() {
        const { client, listener, network } = yield* open()
        yield* client.pause
        const resuming = yield* start(Effect.flip(client.resume))
        yield* network.settle
        yield* client.pause
        const error = yield* Fiber.join(resuming)
        assert.strictEqual(error._tag === "ConnectError" && error.reason._tag, "ConnectInterrupted")
        yield* listener.accept
        yield* resume(client, listener)
      })))
  })

  describe("the end while paused", () => {
    it.effect("disconnect halts without touching the network, and what waits fails typed (law 6)", () =>
      run(Effect.gen(function*() {
        const { client, listener, network } = yield* open()
        yield* client.pause
        const publishing = yield* start(Effect.flip(client.publish({ topic: "a", payload, qos: 1 })))
        const subscribing = yield* start(Effect.flip(Effect.scoped(client.subscription("a"))))
        const connecting = yield* start(Effect.flip(client.awaitConnected))
        yield* network.settle
        const { activity } = network
        yield* client.disconnect()
        const status = yield* awaitStatus(client, "Halted")
        assert.strictEqual(status.cause._tag, "DisconnectRequested")
        const { reason } = yield* Fiber.join(publishing)
        assert.strictEqual(reason._tag === "PublishAbandoned" && reason.phase, "queued")
        assert.strictEqual((yield* Fiber.join(subscribing)).reason._tag, "ClientHalted")
        assert.strictEqual((yield* Fiber.join(connecting))._tag, "ClientHalted")
        yield* network.settle
        assert.strictEqual(network.activity, activity)
        yield* resume(client, listener)
      })))

    it.effect("the scope closes at once, and leaves nothing (law 15)", () =>
      run(Effect.gen(function*() {
        const probe = yield* ProbeClock.make
        const { client, close, network } = yield* probe.provide(open())
        yield* client.pause
        const publishing = yield* start(Effect.flip(client.publish({ topic: "a", payload, qos: 1 })))
        const connecting = yield* start(Effect.flip(client.awaitConnected))
        yield* network.settle
        const { activity } = network
        yield* close()
        const { reason } = yield* Fiber.join(publishing)
        assert.strictEqual(reason._tag === "PublishAbandoned" && reason.cause._tag, "ClientClosed")
        assert.strictEqual((yield* Fiber.join(connecting))._tag, "ClientClosed")
        for (const operation of [client.pause, client.resume, client.reconnect(), client.disconnect(), client.flush]) {
          const exit = yield* Effect.result(operation as Effect.Effect<unknown, { readonly _tag: string }>)
          if (operation !== client.flush) {
            assert.strictEqual(exit._tag === "Failure" && exit.failure._tag, "ClientClosed")
          }
        }
        yield* network.settle
        assert.strictEqual(network.activity, activity)
        assert.deepStrictEqual([probe.timers, probe.fibers], [0, 0])
      })))

    it.effect("does nothing to a client that is halted", () =>
      run(Effect.gen(function*() {
        const { client, network } = yield* open()
        yield* client.disconnect()
        yield* client.pause
        assert.strictEqual((yield* client.status)._tag, "Halted")
        yield* quietWeek(network)
      })))
  })

  describe("with a broker", () => {
    const withBroker = <A, E>(
      effect: Effect.Effect<A, E, TestBroker.TestBroker | MemoryNetwork.MemoryNetwork | Transport | Scope.Scope>
    ) => Effect.provide(Effect.scoped(effect), TestBroker.layer())

    for (const protocolVersion of [4, 5] as const) {
      it.effect(`DC-10p: the will does not fire, and the session stays (MQTT ${protocolVersion})`, () =>
        withBroker(Effect.gen(function*() {
          const broker = yield* TestBroker.TestBroker
          const watcher = yield* MqttClient.make({ endpoint: "mqtt://broker", clientId: "watcher", protocolVersion })
          const wills: Array<string> = []
          yield* start(
            Stream.runForEach(watcher.subscribe("will"), (will) => Effect.sync(() => wills.push(will.topic)))
          )
          const client = yield* MqttClient.make({
            ...persistent,
            protocolVersion,
            endpoint: "mqtt://broker",
            clientId: "c",
            will: { topic: "will", payload: "gone" }
          })
          const { messages } = yield* client.subscription("a", { qos: 1 })
          yield* client.pause
          yield* broker.awaitGone("c")
          for (const text of ["1", "2", "3"]) yield* broker.publish({ topic: "a", payload: text, qos: 1 })
          yield* TestClock.adjust("30 minutes")
          const session = yield* broker.awaitSession("c", ({ queued }) => queued === 3)
          assert.isFalse(session.isConnected)
          const negotiated = yield* client.resume
          assert.isTrue(negotiated.sessionPresent)
          const received = yield* Stream.runCollect(Stream.take(messages, 3))
          assert.deepStrictEqual(received.map(Message.text), ["1", "2", "3"])
          yield* broker.settle
          assert.deepStrictEqual(wills, [])
          // The control: a link that is cut lets it fire.
          yield* broker.cut("c")
          yield* broker.settle
          assert.deepStrictEqual(wills, ["will"])
        })))
    }
  })
})
