/** Rows of the session present table for a process that has only a store to know from, and what simulations have taught. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import { text } from "../../../src/services/Message.ts"
import { TestBroker, TestSessionStore } from "../../../src/testing/index.ts"
import { failure, held, nothing, to } from "../../support/Publishes.ts"
import { begin, kill, kit, second, settle } from "../../support/Restarts.ts"
import { start } from "../../support/ScriptedBroker.ts"

/** What the client sent on the last connection, in words, without what subscribes. */
const lastSent = Effect.map(TestBroker.TestBroker, ({ log }) => {
  const last = log.at(-1)!.connectionId
  return log.filter(({ connectionId, from }) => connectionId === last && from === "client").flatMap(({ packet }) => {
    switch (packet._tag) {
      case "Connect":
        return [packet.cleanStart ? "connect clean" : "connect"]
      case "Publish":
        return [`publish ${packet.packetId} ${packet.topic}:${packet.qos}${packet.dup ? " dup" : ""}`]
      case "Pubrec":
      case "Pubrel":
        return [`${packet._tag.toLowerCase()} ${packet.packetId}`]
      default:
        return []
    }
  })
})

const options = { subscriptions: [{ filter: "in", qos: 2 }] } as const

/** A process that dies with `a` at QoS 1 written, `b` at QoS 2 released, and an inbound QoS 2 message taken. */
const firstLife = Effect.fnUntraced(function*(version: 4 | 5) {
  const broker = yield* TestBroker.TestBroker
  const { client } = yield* begin(version, options)
  yield* settle
  const taken: Array<string> = []
  yield* start(Stream.runForEach(client.durable("in"), (message) => Effect.sync(() => taken.push(text(message)))))
  yield* broker.drop({ from: "broker", type: "Puback" })
  yield* broker.drop({ from: "broker", type: "Pubcomp" })
  yield* broker.drop({ from: "broker", type: "Pubrel" })
  yield* start(client.publish(to("a", 1), { id: "a" }))
  yield* start(client.publish(to("b", 2), { id: "b" }))
  yield* broker.publish({ topic: "in", qos: 2, payload: "once" })
  yield* settle
  assert.deepStrictEqual(taken, ["once"])
  yield* kill()
})

describe("KeptSession", () => {
  for (const version of [4, 5] as const) {
    const row = (v5: string, v4: string) => version === 5 ? v5 : v4

    it.effect(`${row("P18", "Q5")}: a fresh process resumes from its store: exact replay, and nothing is taken twice`, () =>
      Effect.gen(function*() {
        yield* firstLife(version)
        const { client } = yield* begin(version, options)
        const taken: Array<string> = []
        yield* start(Stream.runForEach(client.durable("in"), (message) => Effect.sync(() => taken.push(text(message)))))
        yield* settle
        const words = yield* lastSent
        assert.deepStrictEqual(words.slice(0, 3), ["connect", "pubrel 3", "publish 2 a:1 dup"])
        assert.deepStrictEqual(taken, [])
        for (const id of ["a", "b"]) assert.strictEqual((yield* client.outcome(id))._tag, "Delivered")
        assert.deepStrictEqual(yield* held(client), nothing)
      }).pipe(Effect.provide(kit())))

    it.effect(`${row("P7", "Q6")}: a fresh process whose session is lost: no DUP, no PUBREL, QoS 2 unknown`, () =>
      Effect.gen(function*() {
        yield* firstLife(version)
        yield* (yield* TestBroker.TestBroker).restart({ sessions: "lose" })
        const { client } = yield* begin(version, options)
        yield* settle
        const words = yield* lastSent
        assert.deepStrictEqual(words.map((each) => each.replace(/ \d+ /, " ")), ["connect", "publish a:1"])
        assert.strictEqual((yield* client.outcome("a"))._tag, "Delivered")
        assert.strictEqual((yield* client.outcome("b"))._tag, "Unknown")
        assert.deepStrictEqual(yield* held(client), nothing)
      }).pipe(Effect.provide(kit())))

    for (const refusal of [version === 5 ? 0x89 : 3]) {
      it.effect(`${row("P8", "Q7")}: a fresh process that is refused keeps what its store has`, () =>
        Effect.gen(function*() {
          yield* firstLife(version)
          const broker = yield* TestBroker.TestBroker
          yield* broker.refuseNext(refusal)
          yield* Effect.flip(begin(version, options))
          const { client } = yield* begin(version, options)
          yield* settle
          const words = yield* lastSent
          assert.deepStrictEqual(words.slice(0, 3), ["connect", "pubrel 3", "publish 2 a:1 dup"])
          assert.deepStrictEqual(yield* held(client), nothing)
        }).pipe(Effect.provide(kit())))
    }

    it.effect(`${row("P2", "Q2")}: nothing of the store goes into a session that a clean start should not have found`, () =>
      Effect.gen(function*() {
        const broker = yield* TestBroker.TestBroker
        yield* broker.connackNext({ sessionPresent: true })
        const error = yield* Effect.flip(begin(version, { cleanStart: true, sessionExpiry: 0 }))
        assert.strictEqual(error.reason._tag, "ProtocolError")
        assert.isUndefined((yield* TestSessionStore.TestSessionStore).stored.session)
      }).pipe(Effect.provide(kit())))
  }

  it.effect("law 5: a publish under an own id whose deadline ends it as queued is not sent later, though it was kept", () =>
    Effect.gen(function*() {
      const broker = yield* TestBroker.TestBroker
      const store = yield* TestSessionStore.TestSessionStore
      const { client } = yield* begin(5, { reconnect: {} })
      const release = yield* store.hold
      const publish = yield* start(client.publish(to("a", 2), { id: "a", timeout: "100 millis" }))
      yield* settle
      assert.strictEqual(store.waiting, 1)
      // The commit goes through, but its bytes have no link any more.
      yield* broker.cut("c")
      yield* settle
      yield* release
      yield* settle
      yield* TestClock.adjust("100 millis")
      assert.strictEqual((yield* failure(publish, "DeadlineExceeded")).phase, "queued")
      yield* TestClock.adjust("1 minute")
      yield* settle
      assert.strictEqual((yield* client.status)._tag, "Connected")
      assert.deepStrictEqual(broker.packetsOf({ from: "client", type: "Publish" }), [])
      assert.deepStrictEqual(store.stored.publishes, [])
      assert.deepStrictEqual(yield* client.outcome("a"), { _tag: "None" })
      assert.deepStrictEqual(yield* held(client), nothing)
    }).pipe(Effect.provide(kit())))

  it.effect("law 4: a subscription that could not be made takes nothing away from the next one", () =>
    Effect.gen(function*() {
      const broker = yield* TestBroker.TestBroker
      const { client: first } = yield* begin(5)
      yield* start(Effect.scoped(Effect.andThen(first.subscription("in", { qos: 2 }), Effect.never)))
      yield* settle
      yield* kill()
      yield* broker.publish({ topic: "in", qos: 2, payload: "kept" })
      // A new process is turned away at first, and its subscription with it.
      yield* broker.refuseNext(0x87)
      const { client } = yield* begin(5, { firstConnect: "retry" })
      const failing = yield* start(Effect.flip(Effect.scoped(client.subscription("in", { qos: 2 }))))
      yield* settle
      assert.strictEqual((yield* Fiber.join(failing)).reason._tag, "ClientHalted")
      yield* start(client.resume)
      yield* settle
      yield* second
      const taken: Array<string> = []
      const messages = Stream.unwrap(Effect.map(client.subscription("in", { qos: 2 }), ({ messages }) => messages))
      yield* start(Stream.runForEach(messages, (message) => Effect.sync(() => taken.push(text(message)))))
      yield* settle
      assert.deepStrictEqual(taken, ["kept"])
    }).pipe(Effect.provide(kit())))
})
