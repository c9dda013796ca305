import { assert, describe, it } from "@effect/vitest"
import { Effect, References, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import type { LinkLost } from "../../src/services/MqttError.ts"
import { ConnectError, ServerDisconnected } from "../../src/services/MqttError.ts"
import { TestBroker } from "../../src/testing/index.ts"
import { awaitStatus, handshake, open, run, start } from "../support/ScriptedBroker.ts"
import { build, listen, refused, runSteady, statusOf } from "../support/Supervision.ts"

const takenOver = "e0 01 8e"

describe("a takeover by another holder of the client id", () => {
  it.effect("CN-33: is told, and keeps the client away for at least half of 30 s", () =>
    runSteady(Effect.gen(function*() {
      const { client, listener, network, peer } = yield* open({ keepAlive: 0 })
      yield* peer.sendHex(takenOver)
      const { cause, delayMillis } = yield* awaitStatus(client, "Reconnecting")
      assert.deepInclude(cause, { _tag: "ServerDisconnected", reasonCode: 0x8e })
      assert.strictEqual(delayMillis, 15_000)
      yield* TestClock.adjust(14_999)
      yield* network.settle
      assert.strictEqual(network.dials.length, 1)
      yield* TestClock.adjust(1)
      yield* handshake(listener)
      yield* awaitStatus(client, "Connected")
    })))

  it.effect("CN-33: that repeats halts the client with a typed cause; nothing is dialled any more", () =>
    runSteady(Effect.gen(function*() {
      const { client, listener, network, peer } = yield* open({ clientId: "twin", keepAlive: 0 })
      yield* peer.sendHex(takenOver)
      yield* awaitStatus(client, "Reconnecting")
      yield* TestClock.adjust("15 seconds")
      const second = yield* handshake(listener)
      yield* awaitStatus(client, "Connected")
      yield* TestClock.adjust("9 minutes")
      yield* second.sendHex(takenOver)
      const { cause } = yield* awaitStatus(client, "Halted")
      assert.deepInclude(cause, { _tag: "ClientIdContested", clientId: "twin", takeovers: 2, withinMillis: 600_000 })
      yield* TestClock.adjust("1 day")
      assert.strictEqual(network.dials.length, 2)
      yield* start(client.resume)
      yield* (yield* handshake(listener)).sendHex(takenOver)
      // What was before the resume does not count.
      yield* awaitStatus(client, "Reconnecting")
    })))

  it.effect("that comes again after a long while is a first one", () =>
    runSteady(Effect.gen(function*() {
      const { client, listener, peer } = yield* open({ keepAlive: 0 })
      let current = peer
      for (let index = 0; index < 5; index++) {
        yield* current.sendHex(takenOver)
        yield* awaitStatus(client, "Reconnecting")
        yield* TestClock.adjust("15 seconds")
        current = yield* handshake(listener)
        yield* awaitStatus(client, "Connected")
        yield* TestClock.adjust("10 minutes")
      }
    })))

  it.effect("delay, limit and within are options", () =>
    runSteady(Effect.gen(function*() {
      const takeover = { delay: "10 seconds", limit: 3, within: "1 minute" } as const
      const { client, listener, peer } = yield* open({ keepAlive: 0, reconnect: { takeover } })
      let current = peer
      for (let index = 0; index < 2; index++) {
        yield* current.sendHex(takenOver)
        assert.strictEqual((yield* awaitStatus(client, "Reconnecting")).delayMillis, 5_000)
        yield* TestClock.adjust("5 seconds")
        current = yield* handshake(listener)
        yield* awaitStatus(client, "Connected")
      }
      yield* current.sendHex(takenOver)
      assert.strictEqual((yield* awaitStatus(client, "Halted")).cause._tag, "ClientIdContested")
    })))

  it.effect("limit 1 halts at the first", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open({ reconnect: { takeover: { limit: 1 } } })
      yield* peer.sendHex(takenOver)
      assert.deepInclude((yield* awaitStatus(client, "Halted")).cause, { _tag: "ClientIdContested", takeovers: 1 })
    })))

  it.effect("two clients of ours with one id end with one that is connected, and one that says why it is not", () =>
    Effect.gen(function*() {
      const broker = yield* TestBroker.TestBroker
      const scope = yield* Effect.scope
      const make = Scope.provide(MqttClient.make({ endpoint: "mqtt://broker", clientId: "twin" }), scope)
      const [first, second] = [yield* make, yield* make]
      for (let minute = 0; minute < 60; minute++) {
        yield* broker.settle
        yield* TestClock.adjust("1 minute")
      }
      yield* broker.settle
      const statuses = [yield* statusOf(first), yield* statusOf(second)].sort()
      assert.deepStrictEqual(statuses, ["Connected", "Halted ClientIdContested"])
      assert.isAtMost(broker.packetsOf({ from: "client", type: "Connect" }).length, 4)
    }).pipe(Effect.scoped, Effect.provide(TestBroker.layer())))
})

describe("isRetryable", () => {
  it.effect("is asked about each failure, with what the client would do", () =>
    runSteady(Effect.gen(function*() {
      const asked: Array<string> = []
      const name = (failure: ConnectError | LinkLost) =>
        failure instanceof ConnectError ? `${failure.reason._tag} at ${failure.endpoint}` : failure._tag
      const broker = yield* listen()
      const { client } = yield* build({
        reconnect: {
          isRetryable: (failure, byDefault) => {
            asked.push(`${name(failure)} ${byDefault}`)
            return byDefault
          }
        }
      })
      yield* handshake(broker, refused.busy)
      yield* awaitStatus(client, "Reconnecting")
      yield* TestClock.adjust("500 millis")
      const peer = yield* handshake(broker)
      yield* awaitStatus(client, "Connected")
      yield* peer.reset
      yield* awaitStatus(client, "Reconnecting")
      yield* TestClock.adjust("1 second")
      yield* handshake(broker, refused.badCredentials)
      yield* awaitStatus(client, "Halted")
      assert.deepStrictEqual(asked, [
        "ConnectRefused at mqtt://broker:1883 true",
        "TransportLost true",
        "ConnectRefused at mqtt://broker:1883 false"
      ])
    })))

  it.effect("makes a refusal for good one to try again, with the delays of the schedule", () =>
    runSteady(Effect.gen(function*() {
      const broker = yield* listen()
      const { client } = yield* build({ reconnect: { isRetryable: () => true } })
      for (const delay of [500, 1_000, 2_000]) {
        yield* handshake(broker, refused.badCredentials)
        assert.strictEqual((yield* awaitStatus(client, "Reconnecting")).delayMillis, delay)
        yield* TestClock.adjust(delay)
      }
      yield* handshake(broker)
      yield* awaitStatus(client, "Connected")
    })))

  for (const cause of ["TransportLost", "ServerDisconnected"]) {
    it.effect(`makes any failure the last one, such as ${cause}`, () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ reconnect: { isRetryable: () => false } })
        yield* cause === "TransportLost" ? peer.reset : peer.sendHex(takenOver)
        assert.strictEqual((yield* awaitStatus(client, "Halted")).cause._tag, cause)
      })))
  }

  it.effect("one that throws does not count", () =>
    runSteady(Effect.gen(function*() {
      const broker = yield* listen()
      const { client } = yield* build({
        reconnect: {
          isRetryable: () => {
            throw new Error("mistake")
          }
        }
      })
      yield* handshake(broker, refused.busy)
      yield* awaitStatus(client, "Reconnecting")
      yield* TestClock.adjust("500 millis")
      yield* handshake(broker, refused.badCredentials)
      yield* awaitStatus(client, "Halted")
    })).pipe(Effect.provideService(References.MinimumLogLevel, "None" as const)))

  it.effect("is not asked about options that are not valid", () =>
    run(Effect.gen(function*() {
      let asked = 0
      const { client } = yield* build({
        credentials: Effect.succeed({ username: 1 } as never),
        reconnect: {
          isRetryable: () => {
            asked++
            return true
          }
        }
      })
      yield* awaitStatus(client, "Halted")
      assert.strictEqual(asked, 0)
    })))

  it("tells a takeover apart by its type", () => {
    const failure: LinkLost = new ServerDisconnected({ reasonCode: 0x8e, name: "Session taken over" })
    assert.isTrue(failure.retryable)
  })
})
