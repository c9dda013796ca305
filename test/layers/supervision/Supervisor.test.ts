import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, References, Schedule, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as MqttClient from "../../../src/layers/MqttClient.ts"
import type { Transport } from "../../../src/services/Transport.ts"
import { MemoryNetwork } from "../../../src/testing/index.ts"
import { accepted, awaitStatus, handshake, next, open, run, start, watchStatus } from "../../support/ScriptedBroker.ts"
import type { Peer } from "../../support/ScriptedBroker.ts"
import { build, label, listen, reasonOf, refused, runSteady, statusOf, tagOf } from "../../support/Supervision.ts"

/** Where something is logged on purpose. */
const quietly = Effect.provideService(References.MinimumLogLevel, "None" as const)

describe("Supervisor", () => {
  describe("status", () => {
    it.effect("a lost link: Reconnecting, Connecting, Connected", () =>
      runSteady(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open()
        const seen = yield* watchStatus(client)
        yield* peer.reset
        const lost = yield* awaitStatus(client, "Reconnecting")
        assert.strictEqual(lost.cause._tag, "TransportLost")
        yield* TestClock.adjust("499 millis")
        assert.strictEqual(network.dials.length, 1)
        yield* TestClock.adjust("1 millis")
        yield* handshake(listener)
        yield* awaitStatus(client, "Connected")
        yield* network.settle
        assert.deepStrictEqual(seen.map(label), ["Connected", "Reconnecting 1 in 500", "Connecting 1", "Connected"])
      })))

    it.effect("statusChanges sees every transition from the first attempt to Closed, once each, and ends", () =>
      runSteady(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const broker = yield* listen()
        yield* network.failDials({ host: "broker" }, "refused", { times: 2 })
        const { client, close } = yield* build()
        const seen: Array<string> = []
        const watcher = yield* start(
          Stream.runForEach(client.statusChanges, (status) => Effect.sync(() => seen.push(label(status))))
        )
        yield* network.settle
        yield* TestClock.adjust("500 millis")
        yield* network.settle
        yield* TestClock.adjust("1 second")
        yield* handshake(broker)
        yield* client.awaitConnected
        yield* client.pause
        yield* client.disconnect()
        const resume = yield* start(client.resume)
        yield* handshake(broker)
        yield* Fiber.join(resume)
        yield* close
        yield* Fiber.join(watcher)
        assert.deepStrictEqual(seen, [
          "Connecting 1",
          "Reconnecting 2 in 500",
          "Connecting 2",
          "Reconnecting 3 in 1000",
          "Connecting 3",
          "Connected",
          "Paused",
          "Halted DisconnectRequested",
          "Connecting 1",
          "Connected",
          "Closed"
        ])
      })))

    it.effect("a consumer that comes late sees the present status first", () =>
      run(Effect.gen(function*() {
        const { client } = yield* open()
        yield* client.pause
        const seen = yield* watchStatus(client)
        yield* (yield* MemoryNetwork.MemoryNetwork).settle
        assert.deepStrictEqual(seen.map(label), ["Paused"])
      })))
  })

  describe("backoff", () => {
    /** Loses the connection after so long, and gives the delay that follows. */
    const loseAfter = Effect.fnUntraced(function*(
      client: MqttClient.MqttClientService,
      peer: Peer,
      millis: number
    ) {
      yield* TestClock.adjust(millis)
      yield* peer.reset
      return yield* awaitStatus(client, "Reconnecting")
    })

    it.effect("is not reset by a connection that was short, and is by one that lasted 30 s", () =>
      runSteady(Effect.gen(function*() {
        const { client, listener, peer } = yield* open({ keepAlive: 0 })
        const seen: Array<string> = []
        let current: Peer = peer
        for (const lasted of [10, 29_999, 0, 29_999, 30_000, 5]) {
          const status = yield* loseAfter(client, current, lasted)
          seen.push(label(status))
          yield* TestClock.adjust(status.delayMillis)
          current = yield* handshake(listener)
          yield* awaitStatus(client, "Connected")
        }
        assert.deepStrictEqual(seen, [
          "Reconnecting 1 in 500",
          "Reconnecting 2 in 1000",
          "Reconnecting 3 in 2000",
          "Reconnecting 4 in 4000",
          "Reconnecting 1 in 500",
          "Reconnecting 2 in 1000"
        ])
      })))

    it.effect("stableAfter says what a stable connection is", () =>
      runSteady(Effect.gen(function*() {
        const { client, listener, peer } = yield* open({ keepAlive: 0, reconnect: { stableAfter: "2 seconds" } })
        yield* loseAfter(client, peer, 0)
        yield* TestClock.adjust(500)
        const second = yield* handshake(listener)
        yield* awaitStatus(client, "Connected")
        assert.strictEqual((yield* loseAfter(client, second, 1_999)).delayMillis, 1_000)
        yield* TestClock.adjust(1_000)
        const third = yield* handshake(listener)
        yield* awaitStatus(client, "Connected")
        assert.strictEqual((yield* loseAfter(client, third, 2_000)).delayMillis, 500)
      })))

    it.effect("dials at exactly these times while the broker is away", () =>
      runSteady(Effect.gen(function*() {
        const { network } = yield* build()
        yield* network.refuse("broker")
        yield* network.settle
        for (let second = 0; second < 600; second++) yield* TestClock.adjust("1 second")
        const times = network.dials.map((dial) => dial.at)
        assert.deepStrictEqual(times.slice(0, 8), [0, 500, 1_500, 3_500, 7_500, 15_500, 30_500, 45_500])
        for (let index = 6; index < times.length; index++) assert.strictEqual(times[index]! - times[index - 1]!, 15_000)
        assert.isTrue(times.length > 40)
      })))

    it.effect("a server that accepts and drops at once is not asked in a tight loop", () =>
      runSteady(Effect.gen(function*() {
        const { listener, network, peer } = yield* open()
        yield* Effect.forkChild(Effect.forever(Effect.flatMap(handshake(listener), (peer) => peer.close)))
        yield* peer.close
        for (let second = 0; second < 60; second++) yield* TestClock.adjust("1 second")
        yield* network.settle
        // 0, 0.5, 1.5, 3.5, 7.5, 15.5, 30.5, 45.5
        assert.strictEqual(network.dials.length, 8)
      })))

    it.effect("a schedule of one's own that ends halts with the last cause; resume starts it anew", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.refuse("broker")
        const schedule = Schedule.spaced("3 seconds").pipe(Schedule.upTo({ times: 2 }))
        const { client } = yield* build({ reconnect: { schedule } })
        yield* network.settle
        for (let round = 0; round < 4; round++) {
          yield* TestClock.adjust("3 seconds")
          yield* network.settle
        }
        assert.deepStrictEqual(network.dials.map((dial) => dial.at), [0, 3_000, 6_000])
        assert.strictEqual(yield* statusOf(client), "Halted DialFailed")
        assert.strictEqual((yield* reasonOf(client.resume))._tag, "DialFailed")
        assert.strictEqual(yield* statusOf(client), "Reconnecting 2 in 3000")
      })))

    it.effect("a schedule without any delay halts with the failed attempt, and answers its caller", () =>
      run(Effect.gen(function*() {
        const { client, listener } = yield* open({ reconnect: { schedule: Schedule.recurs(0) } })
        const reconnect = yield* start(client.reconnect())
        yield* handshake(listener, refused.busy)
        assert.strictEqual((yield* reasonOf(Fiber.join(reconnect)))._tag, "ConnectRefused")
        assert.strictEqual(yield* statusOf(client), "Halted ConnectRefused")
      })))

    it.effect("reconnect: false halts when the link is lost; resume connects", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open({ reconnect: false })
        yield* peer.reset
        assert.strictEqual(label(yield* awaitStatus(client, "Halted")), "Halted TransportLost")
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(network.dials.length, 1)
        const resume = yield* start(client.resume)
        yield* handshake(listener)
        yield* Fiber.join(resume)
      })))

    it.effect("reconnect: false halts after an attempt that failed, also a retryable one", () =>
      run(Effect.gen(function*() {
        const broker = yield* listen()
        const { client } = yield* build({ reconnect: false })
        yield* handshake(broker, refused.busy)
        assert.strictEqual(label(yield* awaitStatus(client, "Halted")), "Halted ConnectRefused")
        assert.strictEqual(yield* tagOf(client.awaitConnected), "ClientHalted")
      })))
  })

  describe("commands", () => {
    it.effect("resume completes at once while connected", () =>
      run(Effect.gen(function*() {
        const { client, network } = yield* open({ clientId: "c" })
        const { activity } = network
        assert.strictEqual((yield* client.resume).clientId, "c")
        yield* network.settle
        assert.strictEqual(network.activity, activity)
      })))

    it.effect("resume while connecting waits for the outcome, be it success or failure", () =>
      run(Effect.gen(function*() {
        const broker = yield* listen()
        const { client } = yield* build({ clientId: "c" })
        const first = yield* broker.accept
        yield* next(first)
        const resumes = [yield* start(client.resume), yield* start(client.resume)]
        yield* first.sendHex(refused.busy)
        for (const resume of resumes) {
          assert.deepInclude(yield* reasonOf(Fiber.join(resume)), { _tag: "ConnectRefused", reasonCode: 0x89 })
        }
        yield* TestClock.adjust("1 second")
        const second = yield* broker.accept
        yield* next(second)
        const resume = yield* start(client.resume)
        yield* second.sendHex(accepted[5])
        assert.strictEqual((yield* Fiber.join(resume)).clientId, "c")
      })))

    it.effect("resume while waiting waits for the next attempt and does not hasten it", () =>
      runSteady(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open()
        yield* peer.reset
        yield* awaitStatus(client, "Reconnecting")
        const resume = yield* start(client.resume)
        yield* TestClock.adjust("499 millis")
        assert.strictEqual(network.dials.length, 1)
        yield* TestClock.adjust("1 millis")
        yield* handshake(listener)
        yield* Fiber.join(resume)
      })))

    it.effect("those that come while another is carried out are carried out after it, in order", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open({ disconnectTimeout: "2 seconds" }, { windowBytes: 16 })
        const seen = yield* watchStatus(client)
        yield* peer.stallReads
        // A blocked write holds up the pause for all of disconnectTimeout.
        yield* client.publish({ topic: "a", payload: new Uint8Array(1_000) })
        yield* network.settle
        assert.isTrue(peer.isWriteBlocked)
        const pause = yield* start(client.pause)
        const [second, resume] = [yield* start(client.pause), yield* start(client.resume)]
        const [again, disconnect] = [yield* start(client.reconnect()), yield* start(client.disconnect())]
        const last = yield* start(client.resume)
        yield* TestClock.adjust("1999 millis")
        assert.isUndefined(pause.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        yield* Fiber.join(pause)
        yield* Fiber.join(second)
        assert.deepInclude(yield* reasonOf(Fiber.join(resume)), { _tag: "ConnectInterrupted", by: "reconnect" })
        assert.deepInclude(yield* reasonOf(Fiber.join(again)), { _tag: "ConnectInterrupted", by: "disconnect" })
        yield* Fiber.join(disconnect)
        // Attempts that were ended before they dialled left no trace.
        yield* handshake(listener)
        yield* Fiber.join(last)
        yield* network.settle
        assert.deepStrictEqual(seen.map((status) => status._tag).filter((tag) => tag !== "Connecting"), [
          "Connected",
          "Paused",
          "Halted",
          "Connected"
        ])
        assert.strictEqual((yield* peer.closed).how, "abort")
      })))

    it.effect("a link that is already dead does not hold up a command", () =>
      run(Effect.gen(function*() {
        const commands: Readonly<
          Record<string, (client: MqttClient.MqttClientService) => Effect.Effect<unknown, unknown>>
        > = {
          pause: (client) => client.pause,
          disconnect: (client) => client.disconnect(),
          reconnect: (client) => client.reconnect()
        }
        for (const [name, command] of Object.entries(commands)) {
          const broker = yield* listen(name)
          const { client, close, network } = yield* build({ endpoint: `mqtt://${name}` })
          const peer = yield* handshake(broker)
          yield* awaitStatus(client, "Connected")
          // The command comes before anybody has noticed.
          yield* peer.reset
          const call = yield* start(command(client))
          if (name === "reconnect") yield* handshake(broker)
          yield* network.settle
          assert.isDefined(call.pollUnsafe(), name)
          yield* close
        }
      })))

    it.effect("the end of an old connection does not touch the new one", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open({ clientId: "c" })
        yield* network.setLatency("300 millis")
        yield* peer.sendHex("e0 01 8b")
        const reconnect = yield* start(client.reconnect())
        yield* TestClock.adjust("1 second")
        const newPeer = yield* handshake(listener)
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(reconnect)
        const seen = yield* watchStatus(client)
        yield* peer.sendHex("e0 01 8e")
        yield* peer.reset
        yield* TestClock.adjust("1 second")
        yield* network.settle
        assert.deepStrictEqual(seen.map(label), ["Connected"])
        assert.isUndefined(newPeer.clientEnd)
      })))

    it.effect("interrupting callers of pause, resume and reconnect leaves nothing behind and nobody waiting", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open({}, { windowBytes: 16 })
        yield* peer.stallReads
        yield* client.publish({ topic: "a", payload: new Uint8Array(1_000) })
        yield* network.settle
        const pause = yield* start(client.pause)
        yield* Fiber.interrupt(pause)
        // The command stands.
        yield* TestClock.adjust("2 seconds")
        yield* awaitStatus(client, "Paused")
        const resume = yield* start(client.resume)
        const newPeer = yield* listener.accept
        yield* Fiber.interrupt(resume)
        const second = yield* start(client.resume)
        yield* next(newPeer)
        yield* newPeer.sendHex(accepted[5])
        yield* Fiber.join(second)
        const waiting = yield* start(client.awaitConnected)
        yield* Fiber.join(waiting)
        const reconnect = yield* start(client.reconnect())
        yield* Fiber.interrupt(reconnect)
        yield* handshake(listener)
        yield* awaitStatus(client, "Connected")
        assert.strictEqual(network.openConnections, 1)
      })))
  })

  describe("awaitConnected", () => {
    it.effect("waits through Connecting, Reconnecting and Paused", () =>
      run(Effect.gen(function*() {
        const broker = yield* listen()
        const { client } = yield* build({ clientId: "c" })
        const first = yield* start(client.awaitConnected)
        yield* handshake(broker, refused.busy)
        yield* awaitStatus(client, "Reconnecting")
        const second = yield* start(client.awaitConnected)
        yield* client.pause
        const third = yield* start(client.awaitConnected)
        yield* (yield* MemoryNetwork.MemoryNetwork).settle
        for (const fiber of [first, second, third]) assert.isUndefined(fiber.pollUnsafe())
        yield* start(client.resume)
        yield* handshake(broker)
        for (const fiber of [first, second, third]) assert.strictEqual((yield* Fiber.join(fiber)).clientId, "c")
        assert.strictEqual((yield* client.awaitConnected).clientId, "c")
      })))

    it.effect("fails while halted, when it halts, and when it closes", () =>
      run(Effect.gen(function*() {
        const broker = yield* listen()
        const { client, close } = yield* build()
        const waiting = yield* start(client.awaitConnected)
        yield* handshake(broker, refused.badCredentials)
        assert.strictEqual(yield* tagOf(Fiber.join(waiting)), "ClientHalted")
        assert.strictEqual(yield* tagOf(client.awaitConnected), "ClientHalted")
        const resume = yield* start(client.resume)
        const peer = yield* broker.accept
        const again = yield* start(client.awaitConnected)
        yield* next(peer)
        yield* close
        assert.strictEqual(yield* tagOf(Fiber.join(again)), "ClientClosed")
        assert.strictEqual(yield* tagOf(client.awaitConnected), "ClientClosed")
        assert.isTrue(Exit.isFailure(yield* Fiber.await(resume)))
      })))
  })

  describe("defects in effects of the user", () => {
    it.effect("credentials that die are a failed attempt, and the client goes on", () =>
      runSteady(Effect.gen(function*() {
        const broker = yield* listen()
        let healthy = false
        const credentials = Effect.suspend(() => healthy ? Effect.succeed({ username: "u" }) : Effect.die("boom"))
        const { client } = yield* build({ credentials })
        const { cause } = yield* awaitStatus(client, "Reconnecting")
        assert.deepInclude(cause._tag === "ConnectError" ? cause.reason : cause, { _tag: "OptionsUnavailable" })
        healthy = true
        const resume = yield* start(client.resume)
        yield* TestClock.adjust("500 millis")
        yield* handshake(broker)
        yield* Fiber.join(resume)
        healthy = false
        assert.strictEqual((yield* reasonOf(client.reconnect()))._tag, "OptionsUnavailable")
        assert.strictEqual(yield* statusOf(client), "Reconnecting 2 in 500")
      })))

    it.effect("credentials that interrupt themselves are a failed attempt", () =>
      run(Effect.gen(function*() {
        const { client } = yield* build({ credentials: Effect.interrupt })
        const { cause } = yield* awaitStatus(client, "Reconnecting")
        assert.deepInclude(cause._tag === "ConnectError" ? cause.reason : cause, { _tag: "OptionsUnavailable" })
      })))

    it.effect("credentials that never come time out with the attempt, and a pause does not wait for them", () =>
      run(Effect.gen(function*() {
        const { client, network } = yield* build({ credentials: Effect.never })
        yield* network.settle
        yield* TestClock.adjust("10 seconds")
        const { cause } = yield* awaitStatus(client, "Reconnecting")
        assert.deepInclude(cause._tag === "ConnectError" ? cause.reason : cause, {
          _tag: "ConnectTimeout",
          phase: "options"
        })
        yield* TestClock.adjust("1 second")
        yield* awaitStatus(client, "Connecting")
        yield* client.pause
        assert.strictEqual(yield* statusOf(client), "Paused")
      })))

    it.effect("options that die at a later attempt are a failed attempt", () =>
      runSteady(Effect.gen(function*() {
        const broker = yield* listen()
        let healthy = true
        const scope = yield* Scope.make()
        yield* Effect.addFinalizer((exit) => Scope.close(scope, exit))
        const options = Effect.suspend(() =>
          healthy ? Effect.succeed({ endpoint: "mqtt://broker" }) : Effect.die("boom")
        )
        const building = yield* start(Scope.provide(MqttClient.makeEffect(options), scope))
        const peer = yield* handshake(broker)
        const client = yield* Fiber.join(building)
        healthy = false
        yield* peer.reset
        yield* awaitStatus(client, "Reconnecting")
        yield* TestClock.adjust("500 millis")
        yield* (yield* MemoryNetwork.MemoryNetwork).settle
        assert.strictEqual(yield* statusOf(client), "Reconnecting 2 in 1000")
        healthy = true
        yield* TestClock.adjust("1 second")
        yield* handshake(broker)
        yield* awaitStatus(client, "Connected")
      })))

    it.effect("a schedule that dies has ended: the client halts and nobody is left waiting", () =>
      quietly(run(Effect.gen(function*() {
        const schedule = Schedule.fromStep(Effect.succeed(() => Effect.die("boom")))
        const { client, listener, network } = yield* open({ reconnect: { schedule } })
        const publish = yield* start(client.publish({ topic: "a", qos: 1 }))
        const reconnect = yield* start(client.reconnect())
        const waiting = yield* start(Effect.scoped(client.subscription("t")))
        yield* handshake(listener, refused.busy)
        yield* network.settle
        for (const fiber of [publish, reconnect, waiting] as ReadonlyArray<Fiber.Fiber<unknown, unknown>>) {
          assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
        }
        assert.strictEqual(yield* statusOf(client), "Halted ConnectRefused")
        assert.strictEqual(network.openConnections, 0)
        const resume = yield* start(client.resume)
        yield* handshake(listener)
        yield* Fiber.join(resume)
      }))))
  })

  describe("law 15: the close of the scope", () => {
    const modes: Readonly<
      Record<
        string,
        (options?: Partial<MqttClient.ClientOptions>) => Effect.Effect<
          { readonly client: MqttClient.MqttClientService; readonly close: Effect.Effect<void> },
          unknown,
          MemoryNetwork.MemoryNetwork | Transport | Scope.Scope
        >
      >
    > = {
      "before the first attempt has begun": () => build(),
      "while a dial hangs": Effect.fnUntraced(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.failDials({}, "silent")
        const built = yield* build()
        yield* network.settle
        return built
      }),
      "while it waits for CONNACK": Effect.fnUntraced(function*() {
        const broker = yield* listen()
        const built = yield* build()
        yield* next(yield* broker.accept)
        return built
      }),
      "while it waits for credentials": () => build({ credentials: Effect.never }),
      "while connected": Effect.fnUntraced(function*() {
        const { client, close } = yield* open()
        return { client, close: close() }
      }),
      "while it waits to retry": Effect.fnUntraced(function*() {
        const built = yield* build()
        yield* awaitStatus(built.client, "Reconnecting")
        return built
      }),
      "while paused": Effect.fnUntraced(function*() {
        const { client, close } = yield* open()
        yield* client.pause
        return { client, close: close() }
      }),
      "while halted": Effect.fnUntraced(function*() {
        const { client, close } = yield* open()
        yield* client.disconnect()
        return { client, close: close() }
      })
    }
    for (const [name, reach] of Object.entries(modes)) {
      it.effect(`${name}: ends every call, at once, and leaves no connection and no timer`, () =>
        run(Effect.gen(function*() {
          const network = yield* MemoryNetwork.MemoryNetwork
          const { client, close } = yield* reach()
          const halted = (yield* client.status)._tag === "Halted"
          const calls: Array<Fiber.Fiber<unknown>> = [
            yield* start(Effect.exit(client.awaitConnected)),
            yield* start(Effect.exit(Stream.runDrain(client.subscribe("t")))),
            yield* start(Effect.exit(Stream.runDrain(client.statusChanges))),
            yield* start(Effect.exit(Stream.runDrain(client.events)))
          ]
          if (!halted && (yield* client.status)._tag !== "Connected") {
            calls.push(yield* start(Effect.exit(client.publish({ topic: "a", qos: 1 }))))
            calls.push(yield* start(Effect.exit(client.flush)))
          }
          yield* network.settle
          const closing = yield* start(close)
          yield* Fiber.join(closing)
          for (const call of calls) yield* Fiber.await(call)
          yield* network.settle
          assert.strictEqual(yield* statusOf(client), "Closed")
          assert.strictEqual(network.openConnections, 0)
          const { activity } = network
          yield* TestClock.adjust("1 day")
          yield* network.settle
          assert.strictEqual(network.activity, activity)
          for (const call of [client.pause, client.resume, client.reconnect(), client.disconnect()]) {
            assert.strictEqual(yield* tagOf<unknown, never>(call), "ClientClosed")
          }
          assert.strictEqual(yield* tagOf(client.updateOptions({ endpoint: "mqtt://x" })), "ClientClosed")
          const publish = yield* reasonOf(client.publish({ topic: "a" }))
          assert.deepInclude(publish, { _tag: "PublishAbandoned", phase: "queued" })
          assert.strictEqual((yield* reasonOf(client.ping))._tag, "ClientClosed")
        })))
    }
  })
})
