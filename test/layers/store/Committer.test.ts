import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Client from "../../../src/layers/MqttClient.ts"
import { TestBroker, TestSessionStore } from "../../../src/testing/index.ts"
import { isPending, to } from "../../support/Publishes.ts"
import { begin, kit, settle } from "../../support/Restarts.ts"
import { start } from "../../support/ScriptedBroker.ts"

const broker = TestBroker.TestBroker
const store = TestSessionStore.TestSessionStore

const sentPublishes = Effect.map(
  broker,
  (broker) => broker.packetsOf({ from: "client", type: "Publish" }).map(({ packet }) => packet.topic)
)

const durable = { subscriptions: [{ filter: "in/#", qos: 2 }], receiveMaximum: 10 } as const

for (const version of [4, 5] as const) {
  describe(`Committer (MQTT ${version === 4 ? "3.1.1" : "5.0"})`, () => {
    for (const qos of [1, 2] as const) {
      it.effect(`QoS ${qos}: PUBLISH is kept before it is written`, () =>
        Effect.gen(function*() {
          const { client } = yield* begin(version)
          const { hold } = yield* store
          const release = yield* hold
          const publish = yield* start(client.publish(to("a", qos)))
          yield* settle
          assert.deepStrictEqual(yield* sentPublishes, [])
          assert.isTrue(isPending(publish))
          yield* release
          const { guarantee } = yield* Fiber.join(publish)
          assert.strictEqual(guarantee, qos === 1 ? "atLeastOnce" : "exactlyOnce")
          assert.deepStrictEqual(yield* sentPublishes, ["a"])
          yield* settle
          assert.deepStrictEqual((yield* store).stored.publishes, [])
        }).pipe(Effect.provide(kit())))
    }

    it.effect("PUBREL is written once PUBREC is kept", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        const { awaitHeld, release: let1 } = yield* (yield* broker).hold({ from: "broker", type: "Pubrec" })
        const publish = yield* start(client.publish(to("a", 2)))
        yield* awaitHeld
        const release = yield* (yield* store).hold
        yield* let1
        yield* settle
        assert.lengthOf((yield* broker).packetsOf({ from: "client", type: "Pubrel" }), 0)
        assert.strictEqual((yield* store).stored.publishes[0]!.stage, "published")
        yield* release
        yield* Fiber.join(publish)
      }).pipe(Effect.provide(kit())))

    it.effect("PINGREQ, PUBACK and QoS 0 behind nothing pass a commit that takes its time", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, durable)
        const consumer = yield* start(Stream.runDrain(client.durable("in/#")))
        yield* settle
        const release = yield* (yield* store).hold
        const publish = yield* start(client.publish(to("a", 1)))
        yield* settle
        yield* client.ping
        yield* (yield* broker).publish({ topic: "in/1", qos: 1 })
        yield* (yield* broker).expectPacket({ from: "client", type: "Puback" })
        assert.isTrue(isPending(publish))
        assert.strictEqual((yield* store).waiting, 1)
        yield* release
        yield* Fiber.join(publish)
        yield* Fiber.interrupt(consumer)
      }).pipe(Effect.provide(kit())))

    it.effect("PUBREC and PUBCOMP wait for their records", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, durable)
        const seen: Array<string> = []
        yield* start(
          Stream.runForEach(client.durable("in/#"), (message) => Effect.sync(() => seen.push(message.topic)))
        )
        yield* settle
        const first = yield* (yield* store).hold
        yield* (yield* broker).publish({ topic: "in/2", qos: 2 })
        yield* settle
        assert.deepStrictEqual(seen, ["in/2"])
        yield* (yield* broker).expectNoPacket({ from: "client", type: "Pubrec" })
        const rel = yield* (yield* broker).hold({ from: "broker", type: "Pubrel" })
        yield* first
        yield* (yield* broker).expectPacket({ from: "client", type: "Pubrec" })
        yield* rel.awaitHeld
        assert.isTrue((yield* store).stored.inbound[0]!.received)
        const second = yield* (yield* store).hold
        yield* rel.release
        yield* settle
        yield* (yield* broker).expectNoPacket({ from: "client", type: "Pubcomp" })
        yield* second
        yield* (yield* broker).expectPacket({ from: "client", type: "Pubcomp" })
        const { generation, received } = (yield* store).stored.inbound[0]!
        assert.deepStrictEqual({ generation, received }, { generation: 1, received: false })
      }).pipe(Effect.provide(kit())))

    it.effect("PUBREC waits for its record behind a commit that is under way", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, durable)
        yield* start(Stream.runDrain(client.durable("in/#")))
        yield* settle
        const release = yield* (yield* store).hold
        const publish = yield* start(client.publish(to("a", 1)))
        yield* settle
        yield* (yield* broker).publish({ topic: "in/2", qos: 2 })
        yield* (yield* broker).publish({ topic: "in/1", qos: 1 })
        yield* (yield* broker).expectPacket({ from: "client", type: "Puback" })
        yield* (yield* broker).expectNoPacket({ from: "client", type: "Pubrec" })
        yield* release
        yield* Fiber.join(publish)
        yield* (yield* broker).expectPacket({ from: "client", type: "Pubrec" })
      }).pipe(Effect.provide(kit())))

    it.effect("what was committed behind a blocked write is sent as new when the link is lost", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, { reconnect: {}, keepAlive: "1 minute" })
        const { peer } = yield* (yield* broker).awaitClient()
        yield* settle
        yield* peer.stallReads
        yield* client.publish(to("big", 0, { payload: new Uint8Array(5_000) }))
        yield* settle
        assert.isTrue(peer.isWriteBlocked)
        const publish = yield* start(client.publish(to("a", 2)))
        yield* settle
        assert.strictEqual((yield* store).stored.publishes[0]!.stage, "published")
        yield* (yield* broker).restart({ sessions: "lose" })
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* Fiber.join(publish)).guarantee, "exactlyOnce")
        yield* settle
        assert.deepStrictEqual((yield* store).stored.publishes, [])
      }).pipe(Effect.provide(kit({ windowBytes: 1_000 }))))

    it.effect("law 5: what was committed behind a blocked write is sent as new after a pause", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, { keepAlive: "1 minute" })
        const { peer } = yield* (yield* broker).awaitClient()
        yield* settle
        yield* peer.stallReads
        yield* client.publish(to("big", 0, { payload: new Uint8Array(5_000) }))
        yield* settle
        const publish = yield* start(client.publish(to("a", 2)))
        yield* settle
        assert.strictEqual((yield* store).stored.publishes[0]!.stage, "published")
        const pause = yield* start(client.pause)
        yield* TestClock.adjust("1 minute")
        yield* Fiber.join(pause)
        yield* (yield* broker).restart({ sessions: "lose" })
        yield* client.resume
        assert.strictEqual((yield* Fiber.join(publish)).guarantee, "exactlyOnce")
        yield* settle
        assert.deepStrictEqual((yield* store).stored.publishes, [])
      }).pipe(Effect.provide(kit({ windowBytes: 1_000 }))))

    it.effect("law 5: what a commit keeps only when DISCONNECT was given up is sent as new", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        const release = yield* (yield* store).hold
        const publish = yield* start(client.publish(to("a", 2)))
        yield* settle
        const pause = yield* start(client.pause)
        yield* TestClock.adjust("1 minute")
        yield* Fiber.join(pause)
        yield* release
        yield* (yield* broker).restart({ sessions: "lose" })
        yield* client.resume
        assert.strictEqual((yield* Fiber.join(publish)).guarantee, "exactlyOnce")
        yield* settle
        assert.deepStrictEqual((yield* store).stored.publishes, [])
      }).pipe(Effect.provide(kit())))

    it.effect("what is published while a commit is under way is one commit", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        const { commits, hold } = yield* store
        const release = yield* hold
        const first = yield* start(client.publish(to("a", 1)))
        yield* settle
        const others = yield* Effect.forEach([1, 2, 3, 4], (index) => start(client.publish(to(`b${index}`, 1))))
        yield* settle
        const before = commits.length
        yield* release
        yield* Fiber.joinAll([first, ...others])
        const published = commits.slice(before).map((changes) =>
          changes.filter(({ _tag }) => _tag === "Published").length
        ).filter((count) => count > 0)
        assert.deepStrictEqual(published, [1, 4])
        assert.deepStrictEqual(yield* sentPublishes, ["a", "b1", "b2", "b3", "b4"])
      }).pipe(Effect.provide(kit())))

    it.effect("a commit that fails sends nothing, fails its publishes and ends the link; the next one works", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, { reconnect: {} })
        yield* (yield* store).fail({ operation: "commit" })
        const error = yield* Effect.flip(client.publish(to("a", 2)))
        assert.strictEqual(error.phase, "queued")
        assert.strictEqual(error.reason._tag, "SessionStoreError")
        assert.deepStrictEqual(yield* client.stats, {
          ...yield* client.stats,
          queued: 0,
          heldBytes: 0,
          inFlight: 0,
          packetIds: 0
        })
        const status = yield* client.status
        assert.strictEqual(status._tag === "Reconnecting" && status.cause._tag, "SessionStoreError")
        yield* TestClock.adjust("1 second")
        yield* client.awaitConnected
        yield* client.publish(to("b", 2))
        assert.deepStrictEqual(yield* sentPublishes, ["b"])
        yield* settle
        assert.deepStrictEqual((yield* store).stored.publishes, [])
      }).pipe(Effect.provide(kit())))

    it.effect("a failure that was kept all the same leaves nothing in the store", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, { reconnect: {} })
        yield* (yield* store).fail({ operation: "commit", applied: true })
        yield* Effect.flip(client.publish(to("a", 2)))
        yield* TestClock.adjust("1 second")
        yield* client.awaitConnected
        yield* settle
        assert.deepStrictEqual((yield* store).stored.publishes, [])
        assert.deepStrictEqual(yield* sentPublishes, [])
      }).pipe(Effect.provide(kit())))

    it.effect("a store that stays broken is a failed attempt, and never \"sent\"", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, { reconnect: {} })
        const repair = yield* (yield* store).fail({ operation: "commit", times: Infinity })
        const errors = yield* Effect.forEach(
          ["a", "b"],
          (topic) => Effect.flip(client.publish(to(topic, 1))),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(errors.map(({ reason }) => reason._tag), ["SessionStoreError", "SessionStoreError"])
        yield* TestClock.adjust("1 second")
        const status = yield* client.status
        assert.strictEqual(
          status._tag === "Reconnecting" && status.cause._tag === "ConnectError" && status.cause.reason._tag,
          "SessionStoreError"
        )
        assert.deepStrictEqual(yield* sentPublishes, [])
        yield* repair
        yield* TestClock.adjust("1 minute")
        yield* client.awaitConnected
        yield* client.publish(to("c", 1))
        assert.deepStrictEqual(yield* sentPublishes, ["c"])
      }).pipe(Effect.provide(kit())))

    it.effect("a failure that is for good halts the client", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, { reconnect: {} })
        yield* (yield* store).fail({ operation: "commit", kind: "corrupt", times: Infinity })
        yield* Effect.flip(client.publish(to("a", 1)))
        yield* settle
        const status = yield* client.status
        assert.strictEqual(status._tag === "Halted" && status.cause._tag, "SessionStoreError")
      }).pipe(Effect.provide(kit())))

    it.effect("what was committed and not written when the link was lost is sent as new", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, { reconnect: {} })
        const release = yield* (yield* store).hold
        const publish = yield* start(client.publish(to("a", 2)))
        yield* settle
        yield* (yield* broker).restart({ sessions: "lose" })
        yield* settle
        yield* release
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* Fiber.join(publish)).guarantee, "exactlyOnce")
        const packets = (yield* broker).packetsOf({ from: "client", type: "Publish" })
        assert.deepStrictEqual(packets.map(({ packet }) => packet.dup), [false])
      }).pipe(Effect.provide(kit())))

    it.effect("flush waits for what is being kept", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        const release = yield* (yield* store).hold
        yield* start(client.publish(to("a", 1)))
        yield* client.publish(to("b", 0))
        yield* settle
        const flush = yield* start(client.flush)
        yield* settle
        assert.isTrue(isPending(flush))
        yield* release
        yield* Fiber.join(flush)
        yield* settle
        assert.deepStrictEqual(yield* sentPublishes, ["a", "b"])
      }).pipe(Effect.provide(kit())))

    it.effect("flush sees what leaves the outbox for the store", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        yield* client.pause
        yield* start(client.publish(to("a", 1)))
        const flush = yield* start(client.flush)
        const release = yield* (yield* store).hold
        const resume = yield* start(client.resume)
        yield* settle
        yield* Fiber.join(resume)
        assert.strictEqual((yield* client.stats).queued, 0)
        assert.isTrue(isPending(flush))
        yield* release
        yield* Fiber.join(flush)
      }).pipe(Effect.provide(kit())))

    it.effect("DISCONNECT comes behind what is being kept", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        const release = yield* (yield* store).hold
        yield* start(client.publish(to("a", 1)))
        yield* client.publish(to("b", 0))
        yield* settle
        const pause = yield* start(client.pause)
        yield* settle
        assert.isTrue(isPending(pause))
        yield* release
        yield* Fiber.join(pause)
        yield* settle
        assert.deepStrictEqual(yield* sentPublishes, ["a", "b"])
        assert.lengthOf((yield* broker).packetsOf({ from: "client", type: "Disconnect" }), 1)
      }).pipe(Effect.provide(kit())))

    for (const isKept of [true, false]) {
      it.effect(`DISCONNECT comes behind a commit that brings no bytes and ${isKept ? "succeeds" : "fails"}`, () =>
        Effect.gen(function*() {
          const { client } = yield* begin(version)
          const acknowledgement = yield* (yield* broker).hold({ from: "broker", type: "Puback" })
          yield* start(client.publish(to("a", 1)))
          yield* acknowledgement.awaitHeld
          const release = yield* (yield* store).hold
          if (!isKept) yield* (yield* store).fail({ operation: "commit" })
          yield* acknowledgement.release
          yield* settle
          const pause = yield* start(client.pause)
          yield* settle
          assert.isTrue(isPending(pause))
          yield* release
          yield* settle
          yield* Fiber.join(pause)
          assert.lengthOf((yield* broker).packetsOf({ from: "client", type: "Disconnect" }), 1)
        }).pipe(Effect.provide(kit())))
    }

    it.effect("DISCONNECT does not wait for a commit that fails", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        const release = yield* (yield* store).hold
        yield* (yield* store).fail({ operation: "commit" })
        const publish = yield* start(Effect.flip(client.publish(to("a", 1))))
        yield* settle
        const pause = yield* start(client.pause)
        yield* settle
        yield* release
        yield* Fiber.join(pause)
        assert.strictEqual((yield* Fiber.join(publish)).reason._tag, "SessionStoreError")
        assert.deepStrictEqual(yield* sentPublishes, [])
      }).pipe(Effect.provide(kit())))
  })
}

describe("Committer", () => {
  it.effect("the store is opened with the client and given back with its scope", () =>
    Effect.gen(function*() {
      const { close } = yield* begin(5)
      const error = yield* Effect.flip(begin(5))
      assert.strictEqual(error.reason._tag === "SessionStoreError" && error.reason.kind, "locked")
      assert.isFalse(error.retryable)
      yield* close
      yield* begin(5)
    }).pipe(Effect.provide(kit())))

  it.effect("a store needs a client id of one's own", () =>
    Effect.gen(function*() {
      for (const clientId of [undefined, ""]) {
        const error = yield* Effect.flip(begin(5, { clientId }))
        assert.strictEqual(error.reason._tag === "InvalidOptions" && error.reason.option, "clientId")
      }
    }).pipe(Effect.provide(kit())))

  it.effect("the close of the client keeps what it changed", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const client = yield* Scope.provide(
        Client.make({ endpoint: "mqtt://broker", clientId: "c", sessionExpiry: "1 hour" }),
        scope
      )
      const publish = yield* start(client.publish(to("a", 1)))
      yield* Scope.close(scope, Exit.void)
      yield* Fiber.join(publish)
      assert.deepStrictEqual((yield* store).stored.publishes, [])
      assert.isDefined((yield* store).stored.session)
    }).pipe(Effect.provide(kit())))

  it.effect("a quarantined entry is told to the first watcher", () =>
    Effect.gen(function*() {
      yield* (yield* store).quarantine({ table: "publishes", key: "7", problem: "not readable" })
      const { client } = yield* begin(5)
      const event = yield* Stream.runHead(client.events)
      assert.deepStrictEqual(event._tag === "Some" ? event.value : undefined, {
        _tag: "StoreEntryQuarantined",
        table: "publishes",
        key: "7",
        problem: "not readable"
      })
    }).pipe(Effect.provide(kit())))
})
