import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import type * as MqttClient from "../../src/layers/MqttClient.ts"
import * as ProbeClock from "../support/ProbeClock.ts"
import { accepted, awaitStatus, handshake, next, open, resume, run, start } from "../support/ScriptedBroker.ts"
import { subscribed } from "../support/Subscriptions.ts"

/** Reader, writer and keep-alive. The supervisor rests. */
const ofConnection = 3

/** A client that is connected, and the fibers and timers of it alone. */
const idle = Effect.fnUntraced(function*(options: Partial<MqttClient.ClientOptions> = {}) {
  const probe = yield* ProbeClock.make
  const opened = yield* probe.provide(open(options))
  yield* opened.network.settle
  return { ...opened, probe }
})

/** PUBLISH QoS 1 to "a", identifier 1. */
const publish = "32 07 00 01 61 00 01 00 78"

describe("an idle client", () => {
  it.effect("has three fibers and one timer", () =>
    run(Effect.gen(function*() {
      const { probe } = yield* idle()
      assert.strictEqual(probe.fibers, ofConnection)
      assert.strictEqual(probe.timers, 1)
    })))

  it.effect("has no timer without keep-alive, nor a fiber for it", () =>
    run(Effect.gen(function*() {
      const { probe } = yield* idle({ keepAlive: 0 })
      assert.strictEqual(probe.fibers, ofConnection - 1)
      assert.strictEqual(probe.timers, 0)
    })))

  it.effect("has nothing that runs while it is paused or halted, and takes commands all the same", () =>
    run(Effect.gen(function*() {
      const { client, listener, network, probe } = yield* idle()
      yield* client.pause
      yield* client.pause
      yield* network.settle
      assert.strictEqual(probe.fibers, 0)
      assert.strictEqual(probe.timers, 0)
      yield* resume(client, listener, accepted[5])
      yield* network.settle
      assert.strictEqual(probe.fibers, ofConnection)
      yield* client.disconnect()
      yield* client.pause
      yield* network.settle
      assert.strictEqual((yield* client.status)._tag, "Halted")
      assert.strictEqual(probe.fibers, 0)
      assert.strictEqual(probe.timers, 0)
      yield* resume(client, listener, accepted[5])
    })))

  it.effect("comes back to rest when it was asked to resume while it is connected", () =>
    run(Effect.gen(function*() {
      const { client, network, probe } = yield* idle()
      assert.strictEqual((yield* client.resume).protocolVersion, 5)
      yield* network.settle
      assert.strictEqual(probe.fibers, ofConnection)
    })))

  it.effect("is woken by the loss of its link", () =>
    run(Effect.gen(function*() {
      const { client, listener, network, peer, probe } = yield* idle({ reconnect: {} })
      yield* peer.reset
      yield* awaitStatus(client, "Reconnecting")
      const again = yield* start(handshake(listener))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(again)
      yield* awaitStatus(client, "Connected")
      yield* network.settle
      assert.strictEqual(probe.fibers, ofConnection)
    })))

  it.effect("has no more of them after pings of its own and of the user's", () =>
    run(Effect.gen(function*() {
      const { client, network, peer, probe } = yield* idle({ keepAlive: "10 seconds", pingTimeout: "3 seconds" })
      const pong = Effect.gen(function*() {
        assert.strictEqual(yield* next(peer), "c0 00")
        yield* peer.sendHex("d0 00")
        yield* network.settle
      })
      const asked = yield* start(client.ping)
      yield* pong
      yield* Fiber.join(asked)
      for (let time = 0; time < 5; time++) {
        yield* TestClock.adjust("10 seconds")
        yield* pong
      }
      assert.strictEqual(probe.fibers, ofConnection)
      assert.strictEqual(probe.timers, 1)
    })))

  it.effect("wakes in time for the deadline of a ping, though it fell asleep before", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* idle({ keepAlive: "1 minute", pingTimeout: "3 seconds" })
      yield* TestClock.setTime(5_000)
      yield* start(Effect.ignore(client.ping))
      assert.strictEqual(yield* next(peer), "c0 00")
      yield* TestClock.setTime(60_000)
      assert.deepStrictEqual(yield* peer.closed, { how: "abort", at: 8_000 })
    })))

  it.effect("looks at the time for a parked message only as long as there is one", () =>
    run(Effect.gen(function*() {
      const { client, network, peer, probe } = yield* idle({ keepAlive: 0 })
      const fibers = probe.fibers
      for (let time = 0; time < 2; time++) {
        yield* peer.sendHex(publish)
        yield* network.settle
        assert.strictEqual((yield* client.stats).unclaimed, 1)
        assert.strictEqual(probe.fibers, fibers + 1)
        assert.strictEqual(probe.timers, 1)
        yield* TestClock.adjust("30 seconds")
        yield* network.settle
        assert.strictEqual((yield* client.stats).unclaimed, 0)
        assert.strictEqual(yield* next(peer), "40 02 00 01")
        assert.strictEqual(probe.fibers, fibers)
        assert.strictEqual(probe.timers, 0)
      }
    })))

  it.effect("starts nothing once it is closed, though a handler that had a message ends later", () =>
    run(Effect.gen(function*() {
      const { client, close, network, peer, probe } = yield* idle({ keepAlive: 0 })
      const handled = yield* Deferred.make<void>()
      const processing = yield* start(
        Effect.ignore(client.process("a", () => Effect.andThen(Deferred.succeed(handled, undefined), Effect.never)))
      )
      assert.strictEqual(yield* next(peer), "82 07 00 01 00 00 01 61 01")
      yield* peer.sendHex("90 04 00 01 00 01")
      yield* peer.sendHex(publish)
      yield* Deferred.await(handled)
      yield* close()
      yield* Fiber.interrupt(processing)
      yield* network.settle
      assert.strictEqual(probe.timers, 0)
      assert.strictEqual(probe.fibers, 0)
    })))

  it.effect("leaves nothing behind that it has begun while it drained", () =>
    run(Effect.gen(function*() {
      const { client, close, network, peer, probe } = yield* idle({ keepAlive: 0 })
      yield* subscribed(client, peer, 5, "a", { qos: 1, whenSlow: "drop", slowAfter: "1 minute" })
      yield* start(Effect.ignore(client.publish({ topic: "b", payload: "x", qos: 1 })))
      yield* network.settle
      const closing = yield* start(close())
      yield* network.settle
      yield* peer.sendHex(publish)
      yield* network.settle
      assert.isAtLeast(probe.timers, 1)
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(closing)
      yield* network.settle
      assert.strictEqual(probe.timers, 0)
      assert.strictEqual(probe.fibers, 0)
    })))
})
