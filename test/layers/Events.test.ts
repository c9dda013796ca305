import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import type * as MqttClient from "../../src/layers/MqttClient.ts"
import type { ClientEvent } from "../../src/services/Status.ts"
import { awaitStatus, handshake, open, run, start } from "../support/ScriptedBroker.ts"
import { build, refused } from "../support/Supervision.ts"

const watchEvents = Effect.fnUntraced(function*(client: MqttClient.MqttClientService) {
  const seen: Array<ClientEvent> = []
  yield* start(Stream.runForEach(client.events, (event) => Effect.sync(() => seen.push(event))))
  return seen as ReadonlyArray<ClientEvent>
})

describe("events", () => {
  it.effect("tell of connections, losses, failures, pauses and halts", () =>
    run(Effect.gen(function*() {
      const { client, listener, network, peer } = yield* open()
      const seen = yield* watchEvents(client)
      yield* peer.sendHex("e0 01 8b")
      yield* awaitStatus(client, "Reconnecting")
      yield* TestClock.adjust("1 second")
      yield* handshake(listener, refused.busy)
      yield* network.settle
      yield* TestClock.adjust("2 seconds")
      yield* handshake(listener)
      yield* awaitStatus(client, "Connected")
      yield* client.pause
      const resume = yield* start(client.resume)
      const last = yield* handshake(listener)
      yield* Fiber.join(resume)
      yield* last.sendHex("e0 01 9d")
      yield* awaitStatus(client, "Halted")
      yield* network.settle
      assert.deepStrictEqual(seen.map((event) => event._tag), [
        "ConnectionLost",
        "ConnectFailed",
        "Connected",
        "Paused",
        "Connected",
        "ConnectionLost",
        "Halted"
      ])
    })))

  it.effect("law 14: a watcher that lags loses the oldest, and is told how many", () =>
    run(Effect.gen(function*() {
      const { client, network, peer } = yield* open()
      const seen: Array<ClientEvent> = []
      const gate = yield* start(Effect.never)
      yield* start(
        Stream.runForEach(client.events, (event) => {
          seen.push(event)
          return seen.length === 1 ? Effect.asVoid(Fiber.await(gate)) : Effect.void
        })
      )
      yield* peer.sendHex("30 04 00 01 74 00")
      yield* network.settle
      assert.strictEqual(seen.length, 1)
      yield* peer.sendHex("30 04 00 01 75 00 ".repeat(1_500))
      yield* network.settle
      yield* Fiber.interrupt(gate)
      yield* network.settle
      const missed = seen.find((event) => event._tag === "EventsMissed")
      assert.isDefined(missed)
      // Each message is received, and dropped as nobody wants it: two events.
      const lost = missed?._tag === "EventsMissed" ? missed.count : 0
      assert.strictEqual(seen.length - 1 + lost, 3_002)
    })))

  it.effect("end when the client closes, also for who comes later", () =>
    run(Effect.gen(function*() {
      const { client, close } = yield* build()
      const watcher = yield* start(Stream.runCollect(client.events))
      yield* close
      yield* Fiber.join(watcher)
      assert.deepStrictEqual(yield* Stream.runCollect(client.events), [])
    })))
})
