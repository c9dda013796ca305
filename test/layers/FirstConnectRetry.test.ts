import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Random, Schedule, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import { MemoryNetwork } from "../../src/testing/index.ts"
import { awaitStatus, handshake, next, run, start } from "../support/ScriptedBroker.ts"

type Options = Partial<MqttClient.ClientOptions>

const toHex = (value: number) => value.toString(16).padStart(2, "0")

describe("FirstConnect, with the choice \"retry\"", () => {
  const make = (options: Options = {}) =>
    MqttClient.make({ endpoint: "mqtt://broker", firstConnect: "retry", ...options })

  /** A random that always gives the same number. */
  const fixed = (value: number) => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.provideService(effect, Random.Random, { nextDoubleUnsafe: () => value, nextIntUnsafe: () => 0 })

  const failed = ["refused", "unresolved", "unreachable", "timeout"] as const

  it.effect("is built at once, with nobody there", () =>
    run(Effect.gen(function*() {
      const client = yield* make()
      assert.deepStrictEqual(yield* client.status, {
        _tag: "Connecting",
        attempt: 1,
        endpoint: "mqtt://broker:1883"
      })
    })))

  it.effect("is built at once while the dial hangs, and connects later", () =>
    run(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      yield* network.failDials({}, "silent")
      const client = yield* make()
      yield* network.settle
      assert.strictEqual((yield* client.status)._tag, "Connecting")
      yield* network.healDials
      const listener = yield* network.listen({ host: "broker" })
      const connected = yield* start(client.awaitConnected)
      yield* TestClock.adjust("12 seconds")
      yield* handshake(listener)
      assert.strictEqual((yield* Fiber.join(connected)).protocolVersion, 5)
    })))

  it.effect("still fails on options that are not valid", () =>
    run(Effect.gen(function*() {
      const { reason } = yield* Effect.flip(make({ keepAlive: "1 day" }))
      assert(reason._tag === "InvalidOptions")
      assert.strictEqual(reason.option, "keepAlive")
      assert.deepStrictEqual((yield* MemoryNetwork.MemoryNetwork).dials, [])
    })))

  for (const fault of failed) {
    it.effect(`says in the status what happened: ${fault}`, () =>
      run(Effect.gen(function*() {
        yield* (yield* MemoryNetwork.MemoryNetwork).failDials({}, fault)
        const client = yield* make()
        const status = yield* awaitStatus(client, "Reconnecting")
        assert.strictEqual(status.attempt, 2)
        assert(status.cause._tag === "ConnectError")
        assert.strictEqual(status.cause.reason._tag, fault === "unresolved" ? "NameNotResolved" : "DialFailed")
      })))
  }

  it.effect("passes through each status once, from the first attempt to the connection", () =>
    run(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      const listener = yield* network.listen({ host: "broker" })
      yield* network.failDials({}, "refused", { times: 2 })
      const client = yield* make()
      const seen: Array<string> = []
      const watching = yield* start(client.statusChanges.pipe(
        Stream.takeUntil((status) => status._tag === "Connected"),
        Stream.runForEach((status) =>
          Effect.sync(() => seen.push("attempt" in status ? `${status._tag} ${status.attempt}` : status._tag))
        )
      ))
      yield* network.settle
      yield* TestClock.adjust("1 second")
      yield* network.settle
      yield* TestClock.adjust("2 seconds")
      yield* handshake(listener)
      yield* Fiber.join(watching)
      assert.deepStrictEqual(seen, [
        "Connecting 1",
        "Reconnecting 2",
        "Connecting 2",
        "Reconnecting 3",
        "Connecting 3",
        "Connected"
      ])
    })))

  for (
    const [value, delays] of [
      [0, [500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]],
      [0.5, [750, 1500, 3000, 6000, 12_000, 22_500, 22_500, 22_500]]
    ] as const
  ) {
    it.effect(`waits longer each time, from 1 s by the factor 2 up to 30 s (random ${value})`, () =>
      run(
        Effect.gen(function*() {
          const network = yield* MemoryNetwork.MemoryNetwork
          yield* network.failDials({}, "refused")
          const client = yield* make()
          const expected = [0]
          for (const delay of delays) {
            const status = yield* awaitStatus(client, "Reconnecting")
            assert.strictEqual(status.delayMillis, delay)
            const dials = network.dials.length
            yield* TestClock.adjust(delay - 1)
            assert.strictEqual(network.dials.length, dials, "not before its time")
            yield* TestClock.adjust(1)
            yield* network.settle
            expected.push(expected[expected.length - 1] + delay)
          }
          assert.deepStrictEqual(network.dials.map((dial) => dial.at), expected)
        }).pipe(fixed(value))
      ))
  }

  for (const seed of ["a", "b", "c", "d"]) {
    it.effect(`draws each delay from the upper half of its step (seed ${seed})`, () =>
      run(
        Effect.gen(function*() {
          const network = yield* MemoryNetwork.MemoryNetwork
          yield* network.failDials({}, "unreachable")
          const client = yield* make()
          const drawn: Array<number> = []
          for (const step of [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000, 30_000]) {
            const { delayMillis } = yield* awaitStatus(client, "Reconnecting")
            assert.isTrue(delayMillis >= step / 2 && delayMillis <= step, `${delayMillis} of ${step}`)
            drawn.push(delayMillis / step)
            yield* TestClock.adjust(Math.ceil(delayMillis))
            yield* network.settle
          }
          assert.strictEqual(new Set(drawn).size, drawn.length, "each is drawn anew")
        }).pipe(Random.withSeed(seed))
      ))
  }

  for (const [code, tag] of [[0x87, "ConnectRefused"], [0x84, "UnsupportedProtocolVersion"]] as const) {
    it.effect(`halts on a refusal for good (0x${toHex(code)}), and what is pending fails`, () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const listener = yield* network.listen({ host: "broker" })
        const client = yield* make()
        const publishing = yield* start(Effect.flip(client.publish({ topic: "a", payload: "x", qos: 1 })))
        const subscribing = yield* start(Effect.flip(Stream.runDrain(client.subscribe("a"))))
        const waiting = yield* start(Effect.flip(client.awaitConnected))
        yield* handshake(listener, `20 03 00 ${toHex(code)} 00`)

        const { cause } = yield* awaitStatus(client, "Halted")
        assert(cause._tag === "ConnectError")
        assert.strictEqual(cause.reason._tag, tag)

        const publishError = yield* Fiber.join(publishing)
        assert(publishError.reason._tag === "PublishAbandoned")
        assert.strictEqual(publishError.reason.phase, "queued")
        assert.strictEqual(publishError.reason.cause._tag, "ClientHalted")
        assert.strictEqual((yield* Fiber.join(subscribing)).reason._tag, "ClientHalted")
        const waitError = yield* Fiber.join(waiting)
        assert(waitError._tag === "ClientHalted")
        assert.strictEqual(waitError.cause, cause)

        const late = yield* Effect.flip(client.publish({ topic: "a", payload: "x" }))
        assert.strictEqual(late.reason._tag, "PublishAbandoned")
        assert.deepInclude(yield* client.stats, { queued: 0, heldBytes: 0, packetIds: 0 })
        const { activity } = network
        yield* TestClock.adjust("1 week")
        assert.strictEqual(network.activity, activity, "it does not try again")
      })))
  }

  it.effect("goes on after a refusal that may pass, and delivers what has waited", () =>
    run(Effect.gen(function*() {
      const listener = yield* (yield* MemoryNetwork.MemoryNetwork).listen({ host: "broker" })
      const client = yield* make()
      const publishing = yield* start(client.publish({ topic: "a", payload: "x", qos: 1 }))
      yield* handshake(listener, "20 03 00 89 00")
      yield* awaitStatus(client, "Reconnecting")
      yield* TestClock.adjust("1 second")
      const peer = yield* handshake(listener)
      assert.strictEqual(yield* next(peer), "32 09 00 01 61 00 01 02 01 01 78")
      yield* peer.sendHex("40 02 00 01")
      assert.strictEqual((yield* Fiber.join(publishing)).reasonCode, 0)
    })))

  it.effect("halts at once where reconnecting is off", () =>
    run(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      yield* network.failDials({}, "refused")
      const client = yield* make({ reconnect: false })
      const { cause } = yield* awaitStatus(client, "Halted")
      assert.strictEqual(cause._tag, "ConnectError")
      assert.strictEqual(network.dials.length, 1)
    })))

  it.effect("halts when the schedule ends", () =>
    run(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      yield* network.failDials({}, "refused")
      const client = yield* make({ reconnect: { schedule: Schedule.upTo(Schedule.spaced("1 second"), { times: 2 }) } })
      yield* network.settle
      yield* TestClock.adjust("1 second")
      yield* network.settle
      yield* TestClock.adjust("1 second")
      yield* awaitStatus(client, "Halted")
      assert.deepStrictEqual(network.dials.map((dial) => dial.at), [0, 1000, 2000])
    })))

  it.effect("law 15: closes while it connects, and while it waits", () =>
    run(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      for (const fault of ["silent", "refused"] as const) {
        yield* network.failDials({}, fault)
        const scope = yield* Scope.make()
        const client = yield* Scope.provide(make(), scope)
        yield* network.settle
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual((yield* client.status)._tag, "Closed")
        assert.strictEqual(network.openConnections, 0)
        const { activity } = network
        yield* TestClock.adjust("1 day")
        assert.strictEqual(network.activity, activity)
      }
    })))
})
