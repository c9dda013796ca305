import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Scheduler } from "effect"
import { TestClock } from "effect/testing"
import { MemoryNetwork } from "../../src/testing/index.ts"
import { accepted, expectPackets, handshake, next, readToEnd, resumed, run, start } from "../support/ScriptedBroker.ts"
import { build, decodeConnect, listen, publishing, reasonOf } from "../support/Supervision.ts"

/** Operations of a fiber in a turn: short turns cut everything into pieces, so that a command can fall between any two. */
const turnLengths = [3, 5, 11]

describe("a command in the midst of an attempt", () => {
  for (const ops of turnLengths) {
    it.effect(`a CONNACK that comes together with the command leaves no connection behind (${ops} operations in a turn)`, () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const broker = yield* listen("broker")
        const other = yield* listen("other")
        // The command falls into every turn around the arrival of CONNACK; short turns cut everything into pieces.
        for (let turns = 0; turns < 60 / ops; turns++) {
          const { client } = yield* build({ clientId: "c", sessionExpiry: "1 hour", outbox: { qos0Offline: "fail" } })
          const peer = yield* broker.accept
          yield* next(peer)
          yield* peer.sendHex(accepted[5])
          for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
          const pause = yield* start(client.pause)
          assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 00"], how: "fin" }, `after ${turns} turns`)
          yield* Fiber.join(pause)
          assert.strictEqual((yield* reasonOf(client.publish({ topic: "a" })))._tag, "Offline", `after ${turns} turns`)
          assert.strictEqual(network.openConnections, 0)
          const reconnect = yield* start(client.reconnect({ endpoint: "mqtt://other" }))
          const newPeer = yield* handshake(other)
          yield* Fiber.join(reconnect)
          yield* client.disconnect()
          yield* newPeer.closed
        }
      })).pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, ops)))

    it.effect(`DISCONNECT never goes out without CONNECT (${ops} operations in a turn)`, () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const broker = yield* listen("broker")
        const seen = new Set<string>()
        for (let turns = 0; turns < 120 / ops; turns++) {
          const { client, close } = yield* build()
          for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
          yield* client.pause
          if (network.dials.at(-1)?.outcome === "open" && broker.peers.length > seen.size) {
            const { packets } = yield* readToEnd(yield* broker.accept)
            const words = packets.map((packet) => packet.slice(0, 2)).join(" ")
            assert.include(["", "10 e0"], words, `after ${turns} turns`)
            seen.add(`${words} ${turns}`)
          }
          assert.strictEqual(network.openConnections, 0)
          yield* close
        }
        assert.isTrue([...seen].some((words) => words.startsWith("10 e0")))
      })).pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, ops)))

    it.effect(`law 10: whose session is whose is known the moment CONNACK is accepted (${ops} operations in a turn)`, () =>
      run(Effect.gen(function*() {
        const other = yield* listen("other")
        const broker = yield* listen("broker")
        for (let turns = 0; turns < 60 / ops; turns++) {
          const { client, close } = yield* build({ clientId: "c", sessionExpiry: "1 hour" })
          const first = yield* handshake(broker)
          yield* client.awaitConnected
          const { publish } = yield* publishing(client, first, 2)
          const away = yield* start(Effect.exit(client.reconnect((now) => ({ ...now, endpoint: "mqtt://other" }))))
          const peer = yield* other.accept
          yield* next(peer)
          yield* peer.sendHex(accepted[5])
          for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
          const back = yield* start(Effect.exit(client.reconnect((now) => ({ ...now, endpoint: "mqtt://broker" }))))
          const second = yield* broker.accept
          const isClean = decodeConnect(yield* next(second)).clean
          yield* second.sendHex(isClean === true ? accepted[5] : resumed[5])
          yield* Fiber.join(away)
          yield* Fiber.join(back)
          // Either the other broker never had us, or the session of the first one is over.
          if (isClean === true) assert.strictEqual((yield* reasonOf(Fiber.join(publish)))._tag, "SessionLost")
          else yield* expectPackets(second, "3c 07 00 01 61 00 01 00 78")
          yield* second.reset
          yield* close
        }
      })).pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, ops)))

    it.effect(`a CONNACK at the very end of connectTimeout is in time or too late, nothing between (${ops} operations in a turn)`, () =>
      run(Effect.gen(function*() {
        const broker = yield* listen("broker")
        const seen = new Set<string>()
        for (let turns = 0; turns < 90 / ops; turns++) {
          const { client, close, network } = yield* build({
            connectTimeout: "2 seconds",
            outbox: { qos0Offline: "fail" }
          })
          const peer = yield* broker.accept
          yield* next(peer)
          const adjusting = yield* start(TestClock.adjust("2 seconds"))
          for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
          yield* peer.sendHex(accepted[5])
          yield* Fiber.join(adjusting)
          yield* network.settle
          const status = yield* client.status
          seen.add(status._tag)
          const publish = yield* Effect.result(client.publish({ topic: "a" }))
          if (status._tag === "Connected") {
            assert.strictEqual(publish._tag, "Success")
          } else {
            assert.strictEqual(status._tag, "Reconnecting")
            assert.isTrue(
              publish._tag === "Failure" && publish.failure.reason._tag === "Offline",
              `after ${turns} turns`
            )
            assert.strictEqual(network.openConnections, 0)
          }
          yield* close
        }
        assert.deepStrictEqual(seen, new Set(["Connected", "Reconnecting"]))
      })).pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, ops)))
  }
})
