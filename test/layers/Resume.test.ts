import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import {
  expectPackets,
  expectWords,
  next,
  open,
  quietWeek,
  readToEnd,
  resume,
  resumed,
  run,
  sentWords,
  start
} from "../support/ScriptedBroker.ts"
import type { Peer } from "../support/ScriptedBroker.ts"

const disconnect = "e0 00"
const payload = Uint8Array.of(0x78)
const persistent = { sessionExpiry: "1 hour" } as const

const publishesOf = (peer: Peer, version: 4 | 5 = 5) =>
  sentWords(peer, version).filter((words) => words.startsWith("publish"))

describe("a pause and the resume after it", () => {
  describe("publishes follow the offline rule", () => {
    it.effect("and go out in call order after the resume", () =>
      run(Effect.gen(function*() {
        const { client, listener, network } = yield* open()
        yield* client.pause
        yield* client.publish({ topic: "a", payload })
        const pending = yield* start(client.publish({ topic: "b", payload, qos: 1 }))
        yield* client.publish({ topic: "c", payload })
        const flushing = yield* start(client.flush)
        yield* quietWeek(network)
        assert.isUndefined(pending.pollUnsafe())
        assert.isUndefined(flushing.pollUnsafe())
        assert.strictEqual((yield* client.stats).queued, 3)
        const { peer } = yield* resume(client, listener)
        yield* expectWords(peer, 5, "publish a:0", "publish 1 b:1", "publish c:0")
        yield* Fiber.join(flushing)
        yield* peer.sendHex("40 02 00 01")
        yield* Fiber.join(pending)
      })))

    it.effect("qos0Offline \"fail\" refuses QoS 0 and nothing else", () =>
      run(Effect.gen(function*() {
        const { client, listener } = yield* open({ outbox: { qos0Offline: "fail" } })
        yield* client.pause
        const error = yield* Effect.flip(client.publish({ topic: "a", payload }))
        assert.strictEqual(error.reason._tag, "Offline")
        yield* start(client.publish({ topic: "b", payload, qos: 1 }))
        const { peer } = yield* resume(client, listener)
        yield* expectWords(peer, 5, "publish 1 b:1")
      })))

    it.effect("a deadline passes, and an interrupted one is gone", () =>
      run(Effect.gen(function*() {
        const { client, listener, network } = yield* open()
        yield* client.pause
        const late = yield* start(Effect.flip(client.publish({ topic: "a", payload, qos: 1 }, { timeout: "1 minute" })))
        const gone = yield* start(client.publish({ topic: "b", payload, qos: 1 }))
        yield* TestClock.adjust("1 minute")
        const { reason } = yield* Fiber.join(late)
        assert.strictEqual(reason._tag === "DeadlineExceeded" && reason.phase, "queued")
        yield* Fiber.interrupt(gone)
        assert.deepStrictEqual(yield* client.stats, {
          ...yield* client.stats,
          queued: 0,
          heldBytes: 0,
          inFlight: 0,
          packetIds: 0
        })
        const { peer } = yield* resume(client, listener)
        yield* network.settle
        assert.deepStrictEqual(publishesOf(peer), [])
      })))

    it.effect("a full outbox keeps its callers waiting, and neither pause nor resume waits for it", () =>
      run(Effect.gen(function*() {
        const options = { outbox: { maxMessages: 2 }, sendMaximum: 1 }
        const { client, listener, network, peer } = yield* open(options)
        const publishing = yield* start(Effect.forEach(
          Array.from({ length: 9 }, (_, index) => index),
          (index) => client.publish({ topic: `t${index}`, payload, qos: 1 }),
          { concurrency: "unbounded", discard: true }
        ))
        yield* expectWords(peer, 5, "publish 1 t0:1")
        assert.strictEqual((yield* client.stats).queued, 2)
        yield* client.pause
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: [disconnect], how: "fin" })
        yield* quietWeek(network)
        assert.strictEqual((yield* client.stats).queued, 2)
        const { peer: again } = yield* resume(client, listener)
        // The server knows nothing: the first message is a new one again, and keeps its place.
        for (let index = 0; index < 9; index++) {
          const packet = yield* next(again)
          assert.isTrue(packet.startsWith("32 "))
          yield* again.sendHex(`40 02 ${packet.slice(18, 23)}`)
        }
        yield* Fiber.join(publishing)
        assert.deepStrictEqual(
          publishesOf(again).map((words) => words.replace(/ \d+ /, " ")),
          Array.from({ length: 9 }, (_, index) => `publish t${index}:1`)
        )
      })))

    for (const strategy of ["fail", "dropNewest", "dropOldest"] as const) {
      it.effect(`the strategy "${strategy}" holds while paused`, () =>
        run(Effect.gen(function*() {
          const { client, listener, network } = yield* open({ outbox: { maxMessages: 1, strategy } })
          yield* client.pause
          const first = yield* start(Effect.result(client.publish({ topic: "a", payload, qos: 1 })))
          const second = yield* start(Effect.result(client.publish({ topic: "b", payload, qos: 1 })))
          yield* network.settle
          const [dropped, kept] = strategy === "dropOldest" ? [first, second] : [second, first]
          const result = yield* Fiber.join(dropped)
          assert.strictEqual(result._tag === "Failure" && result.failure.reason._tag, "OutboxFull")
          assert.isUndefined(kept.pollUnsafe())
          const { peer } = yield* resume(client, listener)
          yield* expectWords(peer, 5, `publish 1 ${strategy === "dropOldest" ? "b" : "a"}:1`)
        })))
    }
  })

  describe("resume after a restart of the server", () => {
    const prepare = Effect.gen(function*() {
      const opened = yield* open({ ...persistent, clientId: "c", cleanStart: false })
      const { client, peer } = opened
      const consuming = yield* start(Stream.runDrain(client.subscribe(["a", "b"], { qos: 1 })))
      yield* expectWords(peer, 5, "subscribe 1 a:1 b:1")
      yield* peer.sendHex("90 05 00 01 00 01 01")
      const first = yield* start(Effect.result(client.publish({ topic: "x", payload, qos: 1 })))
      const second = yield* start(Effect.result(client.publish({ topic: "y", payload, qos: 2 })))
      yield* expectWords(peer, 5, "publish 2 x:1", "publish 3 y:2")
      yield* client.pause
      const third = yield* start(Effect.result(client.publish({ topic: "z", payload, qos: 1 })))
      return { ...opened, consuming, first, second, third }
    })

    it.effect("SS-09s: that kept the session goes on where it was", () =>
      run(Effect.gen(function*() {
        const { client, consuming, first, listener, second, third } = yield* prepare
        const { peer, negotiated } = yield* resume(client, listener, resumed[5])
        assert.isTrue(negotiated.sessionPresent)
        yield* expectWords(peer, 5, "publish 2 x:1 dup", "publish 3 y:2 dup", "publish 4 z:1")
        yield* peer.sendHex("40 02 00 02 50 02 00 03 40 02 00 04")
        yield* expectWords(peer, 5, "pubrel 3")
        yield* peer.sendHex("70 02 00 03")
        for (const fiber of [first, second, third]) assert.strictEqual((yield* Fiber.join(fiber))._tag, "Success")
        assert.isUndefined(consuming.pollUnsafe())
      })))

    it.effect("that lost the session subscribes first and then publishes again", () =>
      run(Effect.gen(function*() {
        const { client, consuming, first, listener, second, third } = yield* prepare
        const { peer } = yield* resume(client, listener)
        const packets = [yield* next(peer), yield* next(peer), yield* next(peer)]
        assert.deepStrictEqual(sentWords(peer, 5).map((words) => words.replace(/ \d+ /, " ")), [
          "subscribe a:1 b:1",
          "publish x:1",
          "publish z:1"
        ])
        yield* peer.sendHex(`40 02 ${packets[1]!.slice(15, 20)} 40 02 ${packets[2]!.slice(15, 20)}`)
        for (const fiber of [first, third]) assert.strictEqual((yield* Fiber.join(fiber))._tag, "Success")
        const lost = yield* Fiber.join(second)
        assert.strictEqual(lost._tag === "Failure" && lost.failure.reason._tag, "SessionLost")
        assert.isUndefined(consuming.pollUnsafe())
      })))
  })

  describe("subscriptions", () => {
    const subscribed = Effect.gen(function*() {
      const opened = yield* open(persistent)
      const consuming = yield* start(Stream.runDrain(opened.client.subscribe("a")))
      yield* expectPackets(opened.peer, "82 07 00 01 00 00 01 61 00")
      yield* opened.peer.sendHex("90 04 00 01 00 00")
      yield* opened.network.settle
      return { ...opened, consuming }
    })

    it.effect("an UNSUBSCRIBE that is owed is sent after the resume", () =>
      run(Effect.gen(function*() {
        const { client, consuming, listener, network } = yield* subscribed
        yield* client.pause
        yield* Fiber.interrupt(consuming)
        yield* quietWeek(network)
        const { peer } = yield* resume(client, listener, resumed[5])
        yield* expectWords(peer, 5, "unsubscribe 2 a")
      })))

    it.effect("nothing is owed to a server that lost the session", () =>
      run(Effect.gen(function*() {
        const { client, consuming, listener, network } = yield* subscribed
        yield* client.pause
        yield* Fiber.interrupt(consuming)
        const { peer } = yield* resume(client, listener)
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5), [])
      })))

    it.effect("a subscription that is made meanwhile is made after the resume", () =>
      run(Effect.gen(function*() {
        const { client, listener, network } = yield* subscribed
        yield* client.pause
        const subscribing = yield* start(Effect.scoped(client.subscription("b", { qos: 1 })))
        yield* quietWeek(network)
        assert.isUndefined(subscribing.pollUnsafe())
        const { peer } = yield* resume(client, listener, resumed[5])
        yield* expectWords(peer, 5, "subscribe 2 b:1")
        yield* peer.sendHex("90 04 00 02 00 01")
        assert.deepStrictEqual((yield* Fiber.join(subscribing)).grants, [{ filter: "b", qos: 1 }])
      })))
  })
})
