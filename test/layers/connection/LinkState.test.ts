import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Client from "../../../src/layers/MqttClient.ts"
import { SessionStore } from "../../../src/services/SessionStore.ts"
import { MemoryNetwork, TestBroker, TestSessionStore } from "../../../src/testing/index.ts"
import { isPending, persistent, to } from "../../support/Publishes.ts"
import { begin, kit, settle } from "../../support/Restarts.ts"
import { ackHex, open, run, sentWords, start } from "../../support/ScriptedBroker.ts"

const broker = TestBroker.TestBroker
const store = TestSessionStore.TestSessionStore

const disconnects = Effect.map(broker, (broker) => broker.packetsOf({ from: "client", type: "Disconnect" }).length)

const leavings = [
  ["closes", (close: Effect.Effect<void>) => close],
  ["pauses", (_: Effect.Effect<void>, client: Client.MqttClientService) => client.pause],
  ["disconnects", (_: Effect.Effect<void>, client: Client.MqttClientService) => client.disconnect()]
] as const

for (const version of [4, 5] as const) {
  describe(`LinkState (MQTT ${version === 4 ? "3.1.1" : "5.0"})`, () => {
    for (const [name, leave] of leavings) {
      it.effect(`a client that ${name} at once has its session recorded, and says so to the server behind it`, () =>
        Effect.gen(function*() {
          const scope = yield* Scope.make()
          // What the record of the session is when DISCONNECT arrives.
          const held = yield* (yield* broker).hold({ from: "client", type: "Disconnect" })
          yield* Effect.gen(function*() {
            const { client, close } = yield* begin(version)
            const leaving = yield* start(leave(close, client) as Effect.Effect<void, unknown>)
            yield* held.awaitHeld
            assert.isDefined((yield* store).stored.session)
            yield* held.release
            yield* Fiber.join(leaving)
          }).pipe(Scope.provide(scope))
          yield* Scope.close(scope, Exit.void)
          yield* settle
          assert.strictEqual(yield* disconnects, 1)
          assert.isDefined((yield* store).stored.session)
        }).pipe(Effect.provide(kit())))
    }

    it.effect("DISCONNECT waits for the record of the session while the store takes its time", () =>
      Effect.gen(function*() {
        const release = yield* (yield* store).hold
        const { client } = yield* begin(version, { disconnectTimeout: "5 seconds" })
        const leaving = yield* start(client.pause)
        yield* TestClock.adjust("4 seconds")
        assert.isTrue(isPending(leaving))
        assert.deepStrictEqual([yield* disconnects, (yield* store).commits.length], [0, 0])
        yield* release
        yield* Fiber.join(leaving)
        yield* settle
        assert.strictEqual(yield* disconnects, 1)
        assert.isDefined((yield* store).stored.session)
      }).pipe(Effect.provide(kit())))

    it.effect("DISCONNECT waits no longer than disconnectTimeout for a store that hangs", () =>
      Effect.gen(function*() {
        const release = yield* (yield* store).hold
        const { client } = yield* begin(version, { disconnectTimeout: "5 seconds" })
        const leaving = yield* start(client.pause)
        yield* TestClock.adjust("5 seconds")
        yield* Fiber.join(leaving)
        yield* settle
        assert.strictEqual(yield* disconnects, 0)
        assert.lengthOf((yield* broker).clients, 0)
        yield* release
      }).pipe(Effect.provide(kit())))

    for (const times of [1, Infinity]) {
      it.effect(`a store that fails ${times === 1 ? "once" : "for good"} in that moment is not waited for`, () =>
        Effect.gen(function*() {
          const before = yield* Clock.currentTimeMillis
          const { client } = yield* begin(version, { disconnectTimeout: "5 seconds" })
          yield* (yield* store).fail({ operation: "commit", times })
          const leaving = yield* start(client.pause)
          yield* settle
          assert.isFalse(isPending(leaving))
          yield* settle
          assert.strictEqual(yield* disconnects, 1)
          assert.strictEqual((yield* Clock.currentTimeMillis) - before, 0)
        }).pipe(Effect.provide(kit())))
    }

    it.effect("a message that was received in the last moment is kept before DISCONNECT", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        yield* settle
        const puback = yield* (yield* broker).hold({ from: "broker", type: "Puback" })
        const publish = yield* start(client.publish(to("a", 1)))
        yield* puback.awaitHeld
        assert.lengthOf((yield* store).stored.publishes, 1)
        const release = yield* (yield* store).hold
        yield* puback.release
        yield* settle
        const leaving = yield* start(client.pause)
        yield* settle
        assert.strictEqual(yield* disconnects, 0)
        yield* release
        yield* Fiber.join(leaving)
        yield* Fiber.join(publish)
        yield* settle
        assert.deepStrictEqual([yield* disconnects, (yield* store).stored.publishes], [1, []])
      }).pipe(Effect.provide(kit())))

    it.effect("a client without a store, or with nothing to keep, leaves at once", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        yield* settle
        // Nothing more is to be kept, so that the store is not asked.
        const release = yield* (yield* store).hold
        const { length } = (yield* store).commits
        const leaving = yield* start(client.pause)
        yield* settle
        assert.isFalse(isPending(leaving))
        assert.deepStrictEqual([yield* disconnects, (yield* store).commits.length], [1, length])
        yield* release
        const plain = yield* Effect.scoped(Effect.gen(function*() {
          const client = yield* Client.make({ endpoint: "mqtt://broker", ...persistent[version], clientId: "plain" })
          yield* client.pause
          return yield* client.status
        })).pipe(Effect.provideService(SessionStore, undefined))
        assert.strictEqual(plain._tag, "Paused")
      }).pipe(Effect.provide(kit())))
  })
}

describe("LinkState", () => {
  for (const [sendMaximum, acknowledged, gone] of [[40, 20, 20], [40, 19, 0], [20, 16, 16], [20, 15, 0]] as const) {
    it.effect(`${acknowledged} of ${sendMaximum} acknowledged at once: ${gone} go on before the rest is looked at`, () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ keepAlive: 0, sendMaximum, reconnect: false })
        const network = yield* MemoryNetwork.MemoryNetwork
        const caller = Effect.andThen(client.publish(to("first")), client.publish(to("second")))
        for (let count = 0; count < sendMaximum; count++) yield* start(Effect.ignore(caller))
        yield* network.settle
        const acks = Array.from({ length: acknowledged }, (_, index) => ackHex("PUBACK", index + 1))
        // And then what ends the connection.
        yield* peer.sendHex([...acks, "00 00"].join(" "))
        yield* network.settle
        const words = sentWords(peer, 5)
        assert.strictEqual(words.filter((word) => word.includes("first")).length, sendMaximum)
        assert.strictEqual(words.filter((word) => word.includes("second")).length, gone)
      })))
  }
})
