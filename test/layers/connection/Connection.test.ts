import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as MqttClient from "../../../src/layers/MqttClient.ts"
import { MemoryNetwork } from "../../../src/testing/index.ts"
import * as Consumer from "../../support/Consumer.ts"
import * as ProbeClock from "../../support/ProbeClock.ts"
import {
  accepted,
  awaitStatus,
  expectPackets,
  expectWords,
  handshake,
  message,
  next,
  open,
  readToEnd,
  run,
  send,
  start,
  watchStatus
} from "../../support/ScriptedBroker.ts"
import type { Peer } from "../../support/ScriptedBroker.ts"

const disconnect = "e0 00"
const puback = (id: number) => `40 02 00 ${id.toString(16).padStart(2, "0")}`
const suback = { 4: (qos: number) => `90 03 00 01 0${qos}`, 5: (qos: number) => `90 04 00 01 00 0${qos}` }

/** Subscribes to "a" with a consumer that takes one message and then stalls. */
const stalled = Effect.fnUntraced(function*(
  { client, network, peer }: {
    client: MqttClient.MqttClientService
    peer: Peer
    network: MemoryNetwork.MemoryNetwork["Service"]
  },
  version: 4 | 5,
  qos: 0 | 1 | 2
) {
  const consumer = yield* Consumer.stepwise(client.subscribe("a", { qos, bufferSize: 4 }))
  yield* next(peer)
  yield* peer.sendHex(suback[version](qos))
  yield* network.settle
  return consumer
})

describe("a connection", () => {
  describe("with a consumer that stalls for an hour (law 2)", () => {
    for (const version of [4, 5] as const) {
      for (const qos of [0, 1, 2] as const) {
        it.effect(`answers all the rest meanwhile (QoS ${qos}, MQTT ${version})`, () =>
          run(Effect.gen(function*() {
            const opened = yield* open({ protocolVersion: version, keepAlive: "10 minutes" })
            const { client, network, peer } = opened
            const consumer = yield* stalled(opened, version, qos)
            yield* send(
              peer,
              version,
              ...[1, 2, 3].map((id) => message("a", qos === 0 ? 0 : id, { qos, payload: `${id}` }))
            )
            assert.strictEqual(yield* consumer.take, "1")
            const pongs = yield* start(Effect.forever(Effect.gen(function*() {
              const packet = yield* next(peer)
              if (packet === "c0 00") yield* peer.sendHex("d0 00")
              if (packet.startsWith("32")) yield* peer.sendHex(`40 02 ${packet.slice(15, 20)}`)
              if (packet.startsWith("82")) {
                yield* peer.sendHex(
                  `${version === 5 ? "90 04" : "90 03"} ${packet.slice(6, 11)} ${version === 5 ? "00 00" : "00"}`
                )
              }
            })))
            yield* TestClock.adjust("1 hour")
            assert.strictEqual((yield* client.status)._tag, "Connected")
            assert.strictEqual(network.dials.length, 1)
            yield* client.ping
            yield* client.publish({ topic: "p", payload: "x", qos: 1 })
            yield* Effect.scoped(client.subscription("other"))
            assert.strictEqual((yield* client.stats).unacknowledged, qos === 0 ? 0 : 3)
            yield* Fiber.interrupt(pongs)
            // And nothing of what waited is lost.
            yield* consumer.goOn
            assert.strictEqual(yield* consumer.take, "2")
            yield* consumer.goOn
            assert.strictEqual(yield* consumer.take, "3")
          })))
      }
    }

    it.effect("pauses and closes as fast as without", () =>
      run(Effect.gen(function*() {
        const opened = yield* open()
        const { client, close, peer } = opened
        const consumer = yield* stalled(opened, 5, 1)
        yield* send(peer, 5, message("a", 1))
        yield* consumer.take
        yield* client.pause
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: [disconnect], how: "fin" })
        yield* close()
      })))
  })

  describe("when the scope of the client closes", () => {
    for (const protocolVersion of [4, 5] as const) {
      it.effect(`DC-06b DC-07b: sends DISCONNECT and closes (MQTT ${protocolVersion})`, () =>
        run(Effect.gen(function*() {
          const { client, close, peer } = yield* open({ protocolVersion })
          const seen = yield* watchStatus(client)
          yield* close()
          assert.deepStrictEqual(yield* readToEnd(peer), { packets: [disconnect], how: "fin" })
          assert.deepStrictEqual(seen.map((status) => status._tag), ["Connected", "Closed"])
          assert.strictEqual((yield* client.status)._tag, "Closed")
        })))
    }

    it.effect("waits for what is under way, and takes nothing new", () =>
      run(Effect.gen(function*() {
        const { client, close, network, peer } = yield* open({ sendMaximum: 1 })
        const first = yield* start(client.publish({ topic: "a", payload: "x", qos: 1 }))
        const second = yield* start(client.publish({ topic: "b", payload: "x", qos: 2 }))
        yield* client.publish({ topic: "c", payload: "x" })
        yield* expectWords(peer, 5, "publish 1 a:1")
        const closing = yield* start(close())
        const { reason } = yield* Effect.flip(client.publish({ topic: "d", payload: "x" }))
        assert.strictEqual(
          reason._tag === "PublishAbandoned" && `${reason.phase} ${reason.cause._tag}`,
          "queued ClientClosed"
        )
        const refused = yield* Effect.flip(Effect.scoped(client.subscription("d")))
        assert.strictEqual(refused.reason._tag, "ClientClosed")
        yield* TestClock.adjust("4 seconds")
        assert.isUndefined(closing.pollUnsafe())
        yield* peer.sendHex(puback(1))
        yield* expectWords(peer, 5, "publish 2 b:2", "publish c:0")
        yield* peer.sendHex("50 02 00 02")
        yield* expectWords(peer, 5, "pubrel 2")
        yield* peer.sendHex("70 02 00 02")
        yield* Fiber.join(closing)
        yield* Effect.all([Fiber.join(first), Fiber.join(second)])
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: [disconnect], how: "fin" })
        assert.strictEqual(network.openConnections, 0)
      })))

    for (const [drainTimeout, millis] of [[undefined, 5_000], ["50 seconds", 50_000], [0, 0]] as const) {
      it.effect(`gives up what is not acknowledged after drainTimeout (${millis} ms)`, () =>
        run(Effect.gen(function*() {
          const { client, close, network, peer } = yield* open({ drainTimeout, sendMaximum: 1 })
          const written = yield* start(Effect.flip(client.publish({ topic: "a", payload: "x", qos: 1 })))
          const queued = yield* start(Effect.flip(client.publish({ topic: "b", payload: "x", qos: 1 })))
          yield* expectWords(peer, 5, "publish 1 a:1")
          const closing = yield* start(close())
          yield* network.settle
          if (millis > 0) {
            yield* TestClock.adjust(millis - 1)
            assert.isUndefined(closing.pollUnsafe())
            yield* TestClock.adjust(1)
          }
          yield* Fiber.join(closing)
          assert.deepStrictEqual(yield* readToEnd(peer), { packets: [disconnect], how: "fin" })
          assert.strictEqual((yield* peer.closed).at, millis)
          const phases = (yield* Effect.all([Fiber.join(written), Fiber.join(queued)])).map((error) => error.phase)
          assert.deepStrictEqual(phases, ["written", "queued"])
        })))
    }

    it.effect("stops waiting when the link is lost, and does not connect again", () =>
      run(Effect.gen(function*() {
        const { client, close, network, peer } = yield* open()
        const publishing = yield* start(Effect.flip(client.publish({ topic: "a", payload: "x", qos: 1 })))
        yield* next(peer)
        const closing = yield* start(close())
        yield* network.settle
        yield* peer.reset
        yield* Fiber.join(closing)
        assert.strictEqual((yield* Fiber.join(publishing)).phase, "written")
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(network.dials.length, 1)
      })))

    it.effect("waits for a dead peer no longer than drainTimeout and disconnectTimeout, and destroys the stream", () =>
      run(Effect.gen(function*() {
        const { client, close, network, peer } = yield* open({ disconnectTimeout: "3 seconds" }, {
          windowBytes: 65_536
        })
        yield* peer.stallReads
        yield* client.publish({ topic: "a", payload: new Uint8Array(200_000) })
        yield* network.settle
        const closing = yield* start(close())
        yield* network.settle
        yield* TestClock.adjust("7999 millis")
        assert.isUndefined(closing.pollUnsafe())
        yield* TestClock.adjust(1)
        yield* Fiber.join(closing)
        assert.deepStrictEqual(yield* peer.closed, { how: "abort", at: 8_000 })
      })))

    describe("with a failure (law 15, DC-10p)", () => {
      const will = { topic: "w", payload: "gone" }
      for (
        const [name, protocolVersion, willOnFailure, exit, packets] of [
          ["has the will published", 5, true, Exit.fail("no"), ["e0 01 04"]],
          ["has the will published after a defect", 5, true, Exit.die("no"), ["e0 01 04"]],
          ["closes bare on 3.1.1, which has the will published", 4, true, Exit.fail("no"), []],
          ["has the will discarded without willOnFailure", 5, false, Exit.fail("no"), [disconnect]],
          ["has the will discarded without willOnFailure", 4, false, Exit.fail("no"), [disconnect]],
          ["has the will discarded after a success", 5, true, Exit.void, [disconnect]],
          ["has the will discarded after a success", 4, true, Exit.void, [disconnect]]
        ] as const
      ) {
        it.effect(`${name} (MQTT ${protocolVersion})`, () =>
          run(Effect.gen(function*() {
            const { close, peer } = yield* open({ protocolVersion, willOnFailure, will })
            yield* close(exit)
            assert.deepStrictEqual(yield* readToEnd(peer), { packets: [...packets], how: "fin" })
          })))
      }

      it.effect("counts an interruption of the program as a failure", () =>
        run(Effect.gen(function*() {
          const network = yield* MemoryNetwork.MemoryNetwork
          const listener = yield* network.listen({ host: "broker" })
          const program = yield* start(Effect.scoped(Effect.andThen(
            MqttClient.make({ endpoint: "mqtt://broker", willOnFailure: true, will }),
            Effect.never
          )))
          const peer = yield* handshake(listener)
          yield* network.settle
          yield* Fiber.interrupt(program)
          assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 01 04"], how: "fin" })
        })))
    })
  })

  describe("leaves no fiber, timer or handle behind (law 15)", () => {
    /** Each brings a client into a state; what it does there is cut short by the close of the scope. */
    const states: ReadonlyArray<
      readonly [
        name: string,
        enter: (opened: Effect.Success<ReturnType<typeof open>>) => Effect.Effect<unknown, unknown>
      ]
    > = [
      ["connected", () => Effect.void],
      ["connected, with a stream", ({ client }) => start(Stream.runDrain(client.subscribe("a")))],
      ["connected, with a ping on its way", ({ client }) => start(Effect.ignore(client.ping))],
      [
        "connected, with a message that nobody takes",
        ({ network, peer }) => Effect.andThen(send(peer, 5, message("nobody", 1)), network.settle)
      ],
      [
        "waiting to connect again",
        ({ client, peer }) => Effect.andThen(peer.reset, awaitStatus(client, "Reconnecting"))
      ],
      ["dialling", ({ client, network, peer }) =>
        Effect.gen(function*() {
          yield* network.failDials({}, "silent")
          yield* peer.reset
          yield* TestClock.adjust((yield* awaitStatus(client, "Reconnecting")).delayMillis)
          yield* awaitStatus(client, "Connecting")
        })],
      ["waiting for CONNACK", ({ client, listener, peer }) =>
        Effect.gen(function*() {
          yield* peer.reset
          yield* TestClock.adjust((yield* awaitStatus(client, "Reconnecting")).delayMillis)
          yield* next(yield* listener.accept)
        })],
      ["paused", ({ client }) => client.pause],
      ["halted", ({ client }) => client.disconnect()]
    ]
    for (const [name, enter] of states) {
      it.effect(`while ${name}`, () =>
        run(Effect.gen(function*() {
          const probe = yield* ProbeClock.make
          const opened = yield* probe.provide(open())
          const { close, network } = opened
          yield* enter(opened)
          yield* network.settle
          yield* close()
          yield* network.settle
          assert.deepStrictEqual([probe.fibers, probe.timers, network.openConnections], [0, 0, 0])
          const { activity } = network
          yield* TestClock.adjust("1 day")
          yield* network.settle
          assert.strictEqual(network.activity, activity)
        })))
    }

    for (const phase of ["dial", "connack"] as const) {
      it.effect(`when it is interrupted while it is built (${phase})`, () =>
        run(Effect.gen(function*() {
          const probe = yield* ProbeClock.make
          const network = yield* MemoryNetwork.MemoryNetwork
          const listener = yield* network.listen({ host: "broker" })
          if (phase === "dial") yield* network.failDials({}, "silent")
          const building = yield* start(Effect.scoped(probe.provide(MqttClient.make({ endpoint: "mqtt://broker" }))))
          if (phase === "connack") yield* next(yield* listener.accept)
          yield* network.settle
          yield* Fiber.interrupt(building)
          yield* network.settle
          assert.deepStrictEqual([probe.fibers, probe.timers, network.openConnections], [0, 0, 0])
        })))
    }

    it.effect("after a hundred lost links", () =>
      run(Effect.gen(function*() {
        const probe = yield* ProbeClock.make
        const { client, close, listener, network, peer } = yield* probe.provide(open())
        yield* network.settle
        const [fibers, timers] = [probe.fibers, probe.timers]
        let last: Peer = peer
        for (let count = 0; count < 100; count++) {
          yield* last.reset
          yield* TestClock.adjust((yield* awaitStatus(client, "Reconnecting")).delayMillis)
          last = yield* handshake(listener)
          yield* awaitStatus(client, "Connected")
        }
        yield* network.settle
        assert.deepStrictEqual([probe.fibers, probe.timers, network.openConnections], [fibers, timers, 1])
        yield* close()
        assert.deepStrictEqual([probe.fibers, probe.timers, network.openConnections], [0, 0, 0])
      })))
  })

  it.effect("the streams of a client end with its scope", () =>
    run(Effect.gen(function*() {
      const { client, close, network, peer } = yield* open()
      const stream = yield* start(Effect.exit(Stream.runDrain(client.subscribe("a"))))
      yield* next(peer)
      yield* peer.sendHex(suback[5](0))
      yield* network.settle
      yield* close()
      const exit = yield* Fiber.join(stream)
      const error = Exit.isFailure(exit) ? Cause.findErrorOption(exit.cause) : undefined
      assert.strictEqual(error?._tag === "Some" && error.value.reason._tag, "ClientClosed")
      assert.deepStrictEqual(yield* readToEnd(peer), { packets: [disconnect], how: "fin" })
    })))

  it.effect("its close in a scope of several clients is one after the other, without a packet lost", () =>
    run(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      const scope = yield* Scope.make()
      const peers: Array<Peer> = []
      for (const host of ["one", "two", "three"]) {
        const listener = yield* network.listen({ host })
        const building = yield* start(Scope.provide(MqttClient.make({ endpoint: `mqtt://${host}` }), scope))
        peers.push(yield* handshake(listener, accepted[5]))
        const client = yield* Fiber.join(building)
        yield* client.publish({ topic: host, payload: new Uint8Array(1) })
      }
      yield* Scope.close(scope, Exit.void)
      for (const peer of peers) {
        assert.isTrue((yield* next(peer)).startsWith("30"))
        yield* expectPackets(peer, disconnect)
      }
    })))
})
