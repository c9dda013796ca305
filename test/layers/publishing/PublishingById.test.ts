import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, References } from "effect"
import { TestClock } from "effect/testing"
import * as Client from "../../../src/layers/MqttClient.ts"
import { SessionStore } from "../../../src/services/SessionStore.ts"
import { TestBroker, TestSessionStore } from "../../../src/testing/index.ts"
import { failure, held, isPending, nothing, to } from "../../support/Publishes.ts"
import { begin, kill, kit, settle } from "../../support/Restarts.ts"
import { start } from "../../support/ScriptedBroker.ts"

const broker = TestBroker.TestBroker
const store = TestSessionStore.TestSessionStore

const sent = Effect.map(
  broker,
  (broker) => broker.packetsOf({ from: "client", type: "Publish" }).map(({ packet }) => packet.topic)
)

const delivered = { _tag: "Delivered", qos: 2, reasonCode: 0 } as const

describe("PublishingById", () => {
  it.effect("law 13: refuses what cannot have an id, and leaves nothing behind", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5)
      const refused: ReadonlyArray<readonly [0 | 1 | 2, string]> = [[0, "a"], [1, ""], [2, "x".repeat(256)], [
        1,
        "\ud800"
      ]]
      for (const [qos, id] of refused) {
        const { phase, reason } = yield* failure(yield* start(client.publish(to("a", qos), { id })), "InvalidMessage")
        assert.strictEqual(phase, "queued")
        assert.strictEqual(reason.field, "id")
      }
      assert.deepStrictEqual(yield* held(client), nothing)
      assert.deepStrictEqual(yield* sent, [])
    }).pipe(Effect.provide(kit())))

  it.effect("needs a session store", () =>
    Effect.gen(function*() {
      const client = yield* Client.make({ endpoint: "mqtt://broker" })
      const { reason } = yield* failure(yield* start(client.publish(to("a", 1), { id: "a" })), "InvalidMessage")
      assert.match(reason.problem, /session store/)
    }).pipe(Effect.provide(TestBroker.layer())))

  it.effect("the outcome is told once it is kept", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5)
      const comp = yield* (yield* broker).hold({ from: "broker", type: "Pubcomp" })
      const publish = yield* start(client.publish(to("a", 2), { id: "a" }))
      yield* comp.awaitHeld
      assert.deepStrictEqual(yield* client.outcome("a"), { _tag: "Pending", phase: "received" })
      const release = yield* (yield* store).hold
      yield* comp.release
      yield* settle
      assert.isTrue(isPending(publish))
      assert.deepStrictEqual(yield* client.outcome("a"), { _tag: "Pending", phase: "received" })
      yield* release
      assert.strictEqual((yield* Fiber.join(publish)).guarantee, "exactlyOnce")
      assert.deepStrictEqual(yield* client.outcome("a"), delivered)
      assert.deepStrictEqual(yield* client.outcome("b"), { _tag: "None" })
    }).pipe(Effect.provide(kit())))

  it.effect("an outcome that could not be kept is told after the next connection kept it", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5, { reconnect: {} })
      const repair = yield* (yield* store).fail({
        operation: "commit",
        times: Infinity,
        where: (changes) => changes.some(({ _tag }) => _tag === "Settled")
      })
      const publish = yield* start(client.publish(to("a", 2), { id: "a" }))
      yield* settle
      assert.isTrue(isPending(publish))
      assert.strictEqual((yield* client.status)._tag, "Reconnecting")
      // It is still the same publish.
      const again = yield* start(client.publish(to("a", 2), { id: "a" }))
      yield* settle
      yield* repair
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(publish)
      yield* Fiber.join(again)
      assert.deepStrictEqual(yield* sent, ["a"])
    }).pipe(Effect.provide(kit())))

  it.effect("law 6: nobody waits for an outcome that a halted client does not keep", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5, { reconnect: {} })
      const repair = yield* (yield* store).fail({
        operation: "commit",
        kind: "corrupt",
        times: Infinity,
        where: (changes) => changes.some(({ _tag }) => _tag === "Settled")
      })
      const publish = yield* start(client.publish(to("a", 2), { id: "a" }))
      assert.strictEqual((yield* failure(publish, "PublishAbandoned")).phase, "received")
      yield* repair
      yield* client.resume
      yield* settle
      assert.deepStrictEqual(yield* client.outcome("a"), delivered)
    }).pipe(Effect.provide(kit())))

  it.effect("law 15: the close of the client waits for an outcome that is about to be kept", () =>
    Effect.gen(function*() {
      const { client, close } = yield* begin(5, { drainTimeout: "5 seconds" })
      const comp = yield* (yield* broker).hold({ from: "broker", type: "Pubcomp" })
      const publish = yield* start(client.publish(to("a", 2), { id: "a" }))
      yield* comp.awaitHeld
      const release = yield* (yield* store).hold
      yield* comp.release
      yield* settle
      const closing = yield* start(close)
      yield* settle
      assert.isTrue(isPending(publish))
      assert.isTrue(isPending(closing))
      yield* release
      yield* Fiber.join(publish)
      yield* Fiber.join(closing)
    }).pipe(Effect.provide(kit())))

  it.effect("callers at the same time wait for one publish, and the last to go takes it back", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5)
      yield* client.pause
      const first = yield* start(client.publish(to("a", 2), { id: "a" }))
      const second = yield* start(client.publish(to("a", 2), { id: "a" }))
      yield* settle
      assert.strictEqual((yield* client.stats).queued, 1)
      yield* Fiber.interrupt(first)
      assert.strictEqual((yield* client.stats).queued, 1)
      assert.deepStrictEqual(yield* client.outcome("a"), { _tag: "Pending", phase: "queued" })
      yield* Fiber.interrupt(second)
      assert.deepStrictEqual(yield* held(client), nothing)
      assert.deepStrictEqual(yield* client.outcome("a"), { _tag: "None" })
      yield* client.resume
      yield* client.publish(to("a", 2), { id: "a" })
      assert.deepStrictEqual(yield* sent, ["a"])
    }).pipe(Effect.provide(kit())))

  it.effect("law 5: interrupted behind the first byte, the publish goes on, and can be waited for again", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5)
      const rec = yield* (yield* broker).hold({ from: "broker", type: "Pubrec" })
      const first = yield* start(client.publish(to("a", 2), { id: "a" }))
      yield* rec.awaitHeld
      yield* Fiber.interrupt(first)
      const second = yield* start(client.publish(to("a", 2), { id: "a" }))
      yield* settle
      assert.isTrue(isPending(second))
      yield* rec.release
      yield* Fiber.join(second)
      assert.deepStrictEqual(yield* sent, ["a"])
    }).pipe(Effect.provide(kit())))

  it.effect("a restored publish is not taken back by who waited for it", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5)
      yield* (yield* broker).drop({ from: "client", type: "Publish" })
      yield* start(client.publish(to("a", 1), { id: "a" }))
      yield* settle
      yield* kill()
      const { client: later } = yield* begin(5, { firstConnect: "retry" })
      const waiting = yield* start(later.publish(to("a", 1), { id: "a" }))
      yield* Fiber.interrupt(waiting)
      yield* settle
      assert.deepStrictEqual(yield* later.outcome("a"), { _tag: "Delivered", qos: 1, reasonCode: 0 })
    }).pipe(Effect.provide(kit({ strict: false }))))

  it.effect("a deadline names how far the earlier call had come", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5)
      yield* (yield* broker).drop({ from: "broker", type: "Pubcomp" })
      const first = yield* start(client.publish(to("a", 2), { id: "a" }))
      yield* settle
      const second = yield* start(client.publish(to("a", 2), { id: "a", timeout: "1 second" }))
      yield* settle
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* failure(second, "DeadlineExceeded")).phase, "received")
      assert.isTrue(isPending(first))
    }).pipe(Effect.provide(kit())))

  it.effect("the store cannot be read: fails typed, and nothing is sent", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5)
      yield* (yield* store).fail({ operation: "read" })
      const { phase } = yield* failure(
        yield* start(client.publish(to("a", 2), { id: "a" })),
        "SessionStoreError"
      )
      assert.strictEqual(phase, "queued")
      assert.deepStrictEqual(yield* held(client), nothing)
      yield* client.publish(to("a", 2), { id: "a" })
      assert.deepStrictEqual(yield* sent, ["a"])
    }).pipe(Effect.provide(kit())))

  it.effect("law 8: a look into a slow store that is out of date is repeated", () =>
    Effect.gen(function*() {
      const { service } = yield* store
      const latches: Array<Deferred.Deferred<void>> = []
      const slow = {
        open: Effect.map(service.open, (open) => ({
          ...open,
          // The answer is on its way.
          outcome: (id: string) =>
            Effect.tap(open.outcome(id), () => {
              const latch = Deferred.makeUnsafe<void>()
              latches.push(latch)
              return Deferred.await(latch)
            })
        }))
      }
      const { client } = yield* Effect.provideService(begin(5), SessionStore, slow)
      const first = yield* start(client.publish(to("a", 2), { id: "a" }))
      const second = yield* start(client.publish(to("a", 2), { id: "a" }))
      yield* settle
      yield* Deferred.succeed(latches[0]!, undefined)
      yield* Fiber.join(first)
      yield* Deferred.succeed(latches[1]!, undefined)
      yield* settle
      yield* Deferred.succeed(latches[2]!, undefined)
      yield* Fiber.join(second)
      assert.deepStrictEqual(yield* sent, ["a"])
    }).pipe(Effect.provide(kit())))

  it.effect("law 8: callers at the same time are one publish, wherever their fibers yield", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5)
      for (let ops = 3; ops <= 14; ops++) {
        const publish = Effect.provideService(
          client.publish(to(`a${ops}`, 2), { id: `a${ops}` }),
          References.MaxOpsBeforeYield,
          ops
        )
        const fibers = [yield* start(publish), yield* start(publish), yield* start(publish)]
        yield* settle
        yield* Fiber.joinAll(fibers)
      }
      assert.deepStrictEqual(yield* sent, Array.from({ length: 12 }, (_, index) => `a${index + 3}`))
      assert.deepStrictEqual(yield* held(client), nothing)
    }).pipe(Effect.provide(kit())))

  it.effect("law 8: that an outcome is unknown is told once it is kept, so that a repetition finds it", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5, { reconnect: {} })
      yield* (yield* broker).drop({ from: "client", type: "Publish" })
      const publish = yield* start(client.publish(to("a", 2), { id: "a" }))
      yield* settle
      const release = yield* (yield* store).hold
      yield* (yield* broker).connackNext({ properties: { maximumQoS: 1 } })
      yield* (yield* broker).cut("c")
      yield* TestClock.adjust("1 second")
      assert.isTrue(isPending(publish))
      yield* release
      yield* failure(publish, "NotSupportedByServer")
      assert.deepStrictEqual(yield* client.outcome("a"), { _tag: "Unknown" })
      yield* client.reconnect()
      yield* failure(yield* start(client.publish(to("a", 2), { id: "a" })), "SessionLost")
      assert.deepStrictEqual(yield* sent, ["a"])
      assert.deepStrictEqual(yield* held(client), nothing)
    }).pipe(Effect.provide(kit({ strict: false }))))

  it.effect("law 8: a message that is to be published anew and is refused is unknown", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5, { reconnect: {}, onSessionLost: { qos2: "republish" } })
      yield* (yield* broker).drop({ from: "client", type: "Publish" })
      const publish = yield* start(client.publish(to("a", 2), { id: "a" }))
      yield* settle
      yield* client.pause
      yield* (yield* broker).restart({ sessions: "lose" })
      yield* (yield* broker).connackNext({ properties: { maximumQoS: 1 } })
      const release = yield* (yield* store).hold
      yield* client.resume
      yield* settle
      assert.isTrue(isPending(publish))
      yield* release
      yield* failure(publish, "NotSupportedByServer")
      assert.deepStrictEqual(yield* client.outcome("a"), { _tag: "Unknown" })
    }).pipe(Effect.provide(kit({ strict: false }))))

  it.effect("a publish whose commit failed can be repeated under its id", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5, { reconnect: {} })
      yield* (yield* store).fail({ operation: "commit" })
      yield* failure(yield* start(client.publish(to("a", 2), { id: "a" })), "SessionStoreError")
      assert.deepStrictEqual(yield* client.outcome("a"), { _tag: "None" })
      const again = yield* start(client.publish(to("a", 2), { id: "a" }))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(again)
      assert.deepStrictEqual(yield* sent, ["a"])
      assert.deepStrictEqual(yield* client.outcome("a"), delivered)
    }).pipe(Effect.provide(kit())))

  it.effect("a full outbox fails a publish under an id, and the id is free", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5, { outbox: { maxMessages: 1, strategy: "fail" } })
      yield* client.pause
      const first = yield* start(client.publish(to("a", 2), { id: "a" }))
      yield* settle
      yield* failure(yield* start(client.publish(to("b", 2), { id: "b" })), "OutboxFull")
      assert.deepStrictEqual(yield* client.outcome("b"), { _tag: "None" })
      yield* client.resume
      yield* Fiber.join(first)
      yield* client.publish(to("b", 2), { id: "b" })
      assert.deepStrictEqual(yield* sent, ["a", "b"])
    }).pipe(Effect.provide(kit())))

  it.effect("a deliberate end of the session at the server ends it in the store", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5)
      yield* settle
      assert.isDefined((yield* store).stored.session)
      yield* client.disconnect({ sessionExpiry: 0 })
      yield* settle
      assert.isUndefined((yield* store).stored.session)
    }).pipe(Effect.provide(kit())))

  it.effect("a store that hangs is a connect timeout that says so", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5, { reconnect: {} })
      yield* (yield* store).hold
      yield* start(client.publish(to("a", 1)))
      yield* settle
      yield* (yield* broker).cut("c")
      yield* TestClock.adjust("1 second")
      yield* TestClock.adjust("10 seconds")
      const status = yield* client.status
      const reason = status._tag === "Reconnecting" && status.cause._tag === "ConnectError"
        ? status.cause.reason
        : undefined
      assert.strictEqual(reason?._tag === "ConnectTimeout" && reason.phase, "store")
    }).pipe(Effect.provide(kit())))
})
