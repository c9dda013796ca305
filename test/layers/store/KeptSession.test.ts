import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Client from "../../../src/layers/MqttClient.ts"
import { SessionStore } from "../../../src/services/SessionStore.ts"
import { TestBroker, TestSessionStore } from "../../../src/testing/index.ts"
import { failure, to } from "../../support/Publishes.ts"
import { begin, kill, kit, settle } from "../../support/Restarts.ts"
import { start } from "../../support/ScriptedBroker.ts"

const broker = TestBroker.TestBroker
const store = TestSessionStore.TestSessionStore

/** Somebody who sees what the broker forwards, once per delivery. */
const watch = Effect.fnUntraced(function*() {
  const forwarded: Array<string> = []
  const client = yield* Effect.provideService(
    Client.make({ endpoint: "mqtt://broker", clientId: "watcher", drainTimeout: 0 }),
    SessionStore,
    undefined
  )
  const subscription = yield* client.subscription("out/#", { qos: 2 })
  yield* start(Stream.runForEach(subscription.messages, ({ topic }) => Effect.sync(() => forwarded.push(topic))))
  return forwarded
})

const sent = (type: "Publish" | "Pubrel") =>
  Effect.map(
    broker,
    (broker) =>
      broker.packetsOf({ from: "client", clientId: "c", type }).map(({ packet }) =>
        packet._tag === "Publish"
          ? `${packet.topic}:${packet.packetId}${packet.dup ? " dup" : ""}`
          : `${packet.packetId}`
      )
  )

/** Where the process is killed on the way of a publish. */
const stages = [
  { name: "before PUBLISH arrives", rule: { from: "client", type: "Publish" }, when: "before" },
  { name: "behind PUBLISH", rule: { from: "client", type: "Publish" }, when: "after" },
  { name: "before PUBREC arrives", rule: { from: "broker", type: "Pubrec" }, when: "before" },
  { name: "before PUBREL arrives", rule: { from: "client", type: "Pubrel" }, when: "before" },
  { name: "behind PUBREL", rule: { from: "client", type: "Pubrel" }, when: "after" },
  { name: "before PUBCOMP arrives", rule: { from: "broker", type: "Pubcomp" }, when: "before" }
] as const

const cutAt = Effect.fnUntraced(function*({ rule, when }: typeof stages[number]) {
  const kit = yield* broker
  const match = { clientId: "c", ...rule }
  yield* when === "before" ? kit.cutBefore(match as never) : kit.cutAfter(match as never)
})

for (const version of [4, 5] as const) {
  describe(`KeptSession (MQTT ${version === 4 ? "3.1.1" : "5.0"})`, () => {
    for (const stage of stages) {
      it.effect(`law 8: QoS 2, killed ${stage.name}: the later process delivers it once`, () =>
        Effect.gen(function*() {
          const forwarded = yield* watch()
          const { client } = yield* begin(version)
          yield* cutAt(stage)
          yield* start(client.publish(to("out/a", 2)))
          yield* settle
          yield* kill()
          const later = yield* begin(version)
          yield* settle
          const { heldBytes, inFlight, packetIds } = yield* later.client.stats
          assert.deepStrictEqual({ heldBytes, inFlight, packetIds }, { heldBytes: 0, inFlight: 0, packetIds: 0 })
          assert.deepStrictEqual((yield* store).stored.publishes, [])
          assert.deepStrictEqual(forwarded, ["out/a"])
        }).pipe(Effect.provide(kit())))

      it.effect(`law 8: an own id, killed ${stage.name} and published again: delivered once`, () =>
        Effect.gen(function*() {
          const forwarded = yield* watch()
          const { client } = yield* begin(version)
          yield* cutAt(stage)
          yield* start(client.publish(to("out/a", 2), { id: "one" }))
          yield* settle
          yield* kill()
          const later = yield* begin(version)
          const { guarantee } = yield* later.client.publish(to("out/a", 2), { id: "one" })
          assert.strictEqual(guarantee, "exactlyOnce")
          assert.deepStrictEqual(yield* later.client.outcome("one"), { _tag: "Delivered", qos: 2, reasonCode: 0 })
          // However often it is asked for.
          const before = (yield* broker).log.length
          yield* later.client.publish(to("out/a", 2), { id: "one" })
          yield* settle
          assert.lengthOf(
            (yield* broker).log.slice(before).filter(({ clientId }) => clientId === "c"),
            0
          )
          assert.deepStrictEqual(forwarded, ["out/a"])
        }).pipe(Effect.provide(kit())))
    }

    it.effect("redelivery after a restart is in the original order, with the original identifiers, before anything new", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        yield* (yield* broker).drop({ from: "client", type: "Publish", times: Infinity })
        yield* start(client.publish(to("a", 1)))
        yield* start(client.publish(to("b", 2)))
        yield* start(client.publish(to("c", 2)))
        yield* start(client.publish(to("d", 1)))
        yield* settle
        yield* kill()
        const stored = (yield* store).stored.publishes
        assert.deepStrictEqual(stored.map(({ packetId, stage }) => [packetId, stage]), [
          [1, "published"],
          [2, "published"],
          [3, "published"],
          [4, "published"]
        ])
        const before = (yield* sent("Publish")).length
        const later = yield* begin(version)
        yield* start(later.client.publish(to("e", 1)))
        yield* settle
        assert.deepStrictEqual((yield* sent("Publish")).slice(before), [
          "a:1 dup",
          "b:2 dup",
          "c:3 dup",
          "d:4 dup",
          "e:5"
        ])
        yield* kill()
      }).pipe(Effect.provide(kit({ strict: false }))))

    it.effect("PUBRELs after a restart are in the order of their PUBRECs", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        const rec = yield* (yield* broker).hold({
          from: "broker",
          type: "Pubrec",
          where: ({ packetId }) => packetId === 1
        })
        const comps = yield* (yield* broker).hold({ from: "broker", type: "Pubcomp", times: Infinity })
        yield* start(client.publish(to("a", 2)))
        yield* start(client.publish(to("b", 2)))
        yield* comps.awaitHeld
        yield* rec.release
        yield* settle
        yield* kill()
        yield* comps.remove
        yield* begin(version)
        yield* settle
        assert.deepStrictEqual(yield* sent("Pubrel"), ["2", "1", "2", "1"])
        assert.deepStrictEqual((yield* store).stored.publishes, [])
      }).pipe(Effect.provide(kit({ strict: false }))))

    it.effect("law 10: the record resumes the session though cleanStart is true", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, { cleanStart: true, sessionExpiry: "1 hour" })
        yield* client.publish(to("a", 1))
        yield* kill()
        const later = yield* begin(version, { cleanStart: true, sessionExpiry: "1 hour" })
        const status = yield* later.client.status
        assert.isTrue(status._tag === "Connected" && status.negotiated.sessionPresent)
      }).pipe(Effect.provide(kit())))

    it.effect("law 10: the server forgot the session: QoS 1 anew, QoS 2 unknown", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        yield* (yield* broker).drop({ from: "client", type: "Publish", times: 2 })
        yield* start(client.publish(to("a", 1), { id: "a" }))
        yield* start(client.publish(to("b", 2), { id: "b" }))
        yield* settle
        yield* kill()
        yield* (yield* broker).restart({ sessions: "lose" })
        const { client: later } = yield* begin(version)
        yield* settle
        assert.deepStrictEqual(yield* later.outcome("a"), { _tag: "Delivered", qos: 1, reasonCode: 0 })
        assert.deepStrictEqual(yield* later.outcome("b"), { _tag: "Unknown" })
        assert.strictEqual((yield* later.stats).dropped, 1)
        const again = yield* start(later.publish(to("b", 2), { id: "b" }))
        assert.strictEqual((yield* failure(again, "SessionLost")).phase, "written")
        assert.deepStrictEqual((yield* sent("Publish")).slice(2), ["a:3"])
      }).pipe(Effect.provide(kit({ strict: false }))))

    it.effect("law 10: with onSessionLost \"republish\" an unknown outcome is published anew, at least once", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        yield* (yield* broker).drop({ from: "client", type: "Publish" })
        yield* start(client.publish(to("b", 2), { id: "b" }))
        yield* settle
        yield* kill()
        yield* (yield* broker).restart({ sessions: "lose" })
        const { client: later } = yield* begin(version)
        yield* settle
        yield* later.reconnect((options) => ({ ...options, onSessionLost: { qos2: "republish" } }))
        const { guarantee } = yield* later.publish(to("b", 2), { id: "b" })
        assert.strictEqual(guarantee, "atLeastOnce")
        assert.deepStrictEqual(yield* later.outcome("b"), {
          _tag: "Delivered",
          qos: 2,
          reasonCode: 0,
          isRepublished: true
        })
        // Also to who asks again.
        assert.strictEqual((yield* later.publish(to("b", 2), { id: "b" })).guarantee, "atLeastOnce")
      }).pipe(Effect.provide(kit({ strict: false }))))

    it.effect("law 8: what is published anew is at least once in a later process as well", () =>
      Effect.gen(function*() {
        const options = { onSessionLost: { qos2: "republish" } } as const
        const first = yield* begin(version, options)
        yield* (yield* broker).drop({ from: "client", type: "Publish", times: 2 })
        yield* start(first.client.publish(to("b", 2), { id: "b" }))
        yield* settle
        yield* kill()
        yield* (yield* broker).restart({ sessions: "lose" })
        yield* begin(version, options)
        yield* settle
        assert.strictEqual((yield* store).stored.publishes[0]!.stage, "published")
        yield* kill()
        const { client } = yield* begin(version, options)
        assert.strictEqual((yield* client.publish(to("b", 2), { id: "b" })).guarantee, "atLeastOnce")
      }).pipe(Effect.provide(kit({ strict: false }))))

    it.effect("a message that is published anew is released anew", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, { reconnect: {}, onSessionLost: { qos2: "republish" } })
        yield* (yield* broker).drop({ from: "broker", type: "Pubcomp", times: 2 })
        yield* start(client.publish(to("a", 2)))
        yield* settle
        assert.deepStrictEqual((yield* store).stored.publishes.map(({ stage }) => stage), ["released"])
        yield* (yield* broker).restart({ sessions: "lose" })
        yield* TestClock.adjust("1 second")
        yield* settle
        assert.deepStrictEqual((yield* store).stored.publishes.map(({ stage }) => stage), ["released"])
        assert.lengthOf(yield* sent("Publish"), 2)
      }).pipe(Effect.provide(kit())))

    it.effect("law 10: a session that was there before the store is adopted, and ours from then on", () =>
      Effect.gen(function*() {
        const options = { clientId: "c", cleanStart: false, sessionExpiry: "1 hour" } as const
        yield* Effect.scoped(Effect.provideService(
          Client.make({ endpoint: "mqtt://broker", protocolVersion: version, ...options }),
          SessionStore,
          undefined
        ))
        yield* begin(version, options)
        yield* settle
        const { session } = (yield* store).stored
        assert.isDefined(session)
        yield* kill()
        yield* begin(version, options)
        yield* settle
        assert.deepStrictEqual((yield* store).stored.session, session)
      }).pipe(Effect.provide(kit())))

    it.effect("what waits to be published anew survives a second kill", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        yield* (yield* broker).drop({ from: "client", type: "Publish", times: 2 })
        yield* start(client.publish(to("a", 1)))
        yield* start(client.publish(to("b", 1)))
        yield* settle
        yield* kill()
        yield* (yield* broker).restart({ sessions: "lose" })
        // One at a time, so that the other one waits.
        const hold = yield* (yield* broker).hold({ from: "broker", type: "Puback" })
        yield* begin(version, { sendMaximum: 1 })
        yield* hold.awaitHeld
        yield* kill()
        yield* hold.remove
        assert.deepStrictEqual((yield* store).stored.publishes.map(({ stage, topic }) => [topic, stage]), [
          ["a", "published"],
          ["b", "queued"]
        ])
        yield* begin(version)
        yield* settle
        assert.deepStrictEqual((yield* sent("Publish")).slice(-2), ["a:3 dup", "b:4"])
        assert.deepStrictEqual((yield* store).stored.publishes, [])
      }).pipe(Effect.provide(kit({ strict: false }))))

    it.effect("another client id is another session", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        yield* (yield* broker).drop({ from: "client", type: "Publish" })
        yield* start(client.publish(to("a", 1)))
        yield* settle
        yield* kill()
        yield* begin(version, { clientId: "d" })
        yield* settle
        const packets = (yield* broker).packetsOf({ from: "client", clientId: "d", type: "Publish" })
        assert.deepStrictEqual(packets.map(({ packet }) => [packet.topic, packet.dup]), [["a", false]])
      }).pipe(Effect.provide(kit({ strict: false }))))

    it.effect("new publishes are behind the restored ones in the store", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        yield* client.publish(to("x", 1))
        yield* (yield* broker).drop({ from: "client", type: "Publish", times: 4 })
        yield* start(client.publish(to("a", 1)))
        yield* settle
        yield* kill()
        const { client: later } = yield* begin(version)
        yield* start(later.publish(to("b", 1)))
        yield* settle
        const { publishes } = (yield* store).stored
        assert.deepStrictEqual(publishes.map(({ sequence, topic }) => [sequence, topic]), [[2, "a"], [3, "b"]])
        assert.strictEqual((yield* later.stats).heldBytes, 4)
        yield* kill()
      }).pipe(Effect.provide(kit({ strict: false }))))

    describe("inbound QoS 2", () => {
      const durable = { subscriptions: [{ filter: "in/#", qos: 2 }] } as const
      const consume = Effect.fnUntraced(function*(
        { durable }: { readonly durable: Effect.Success<ReturnType<typeof begin>>["client"]["durable"] },
        seen: Array<string>
      ) {
        yield* start(
          Stream.runForEach(
            durable("in/#"),
            ({ deliveryId, topic }) => Effect.sync(() => seen.push(`${topic} ${deliveryId}`))
          )
        )
      })
      const inboundStages = [
        { name: "before PUBREC arrives", rule: { from: "client", type: "Pubrec" }, when: "before" },
        { name: "behind PUBREC", rule: { from: "client", type: "Pubrec" }, when: "after" },
        { name: "before PUBREL arrives", rule: { from: "broker", type: "Pubrel" }, when: "before" },
        { name: "before PUBCOMP arrives", rule: { from: "client", type: "Pubcomp" }, when: "before" },
        { name: "behind PUBCOMP", rule: { from: "client", type: "Pubcomp" }, when: "after" }
      ] as const
      for (const stage of inboundStages) {
        it.effect(`law 8: killed ${stage.name}: a message that was taken does not come again`, () =>
          Effect.gen(function*() {
            const seen: Array<string> = []
            const { client } = yield* begin(version, durable)
            yield* consume(client, seen)
            yield* settle
            yield* cutAt(stage as never)
            yield* (yield* broker).publish({ topic: "in/a", qos: 2 })
            yield* settle
            yield* kill()
            assert.lengthOf(seen, 1)
            const { client: later } = yield* begin(version, durable)
            yield* consume(later, seen)
            yield* settle
            assert.lengthOf(seen, 1)
            // The identifier is used again by the server, and means another message.
            yield* (yield* broker).publish({ topic: "in/b", qos: 2 })
            yield* settle
            assert.lengthOf(seen, 2)
            assert.strictEqual(new Set(seen.map((text) => text.split(" ")[1])).size, 2)
            assert.lengthOf((yield* broker).sessions.filter(({ unacked }) => unacked > 0), 0)
          }).pipe(Effect.provide(kit())))
      }

      it.effect("law 8: a message that was handed over and not taken comes again under the same delivery id", () =>
        Effect.gen(function*() {
          const seen: Array<string> = []
          const never = (client: Effect.Success<ReturnType<typeof begin>>["client"]) =>
            start(Stream.runForEach(client.durable("in/#"), ({ deliveryId }) => {
              seen.push(String(deliveryId))
              return Effect.never
            }))
          const { client } = yield* begin(version, durable)
          yield* never(client)
          yield* settle
          yield* (yield* broker).publish({ topic: "in/a", qos: 2 })
          yield* settle
          yield* kill()
          const { client: later } = yield* begin(version, durable)
          yield* never(later)
          yield* settle
          assert.lengthOf(seen, 2)
          assert.strictEqual(seen[0], seen[1])
          assert.match(seen[0]!, /^\w+-1-0$/)
        }).pipe(Effect.provide(kit())))

      if (version === 5) {
        it.effect("law 8: a refused message keeps its delivery id for itself, also across a kill", () =>
          Effect.gen(function*() {
            const seen: Array<string> = []
            const refuse = (client: Effect.Success<ReturnType<typeof begin>>["client"]) =>
              start(client.process("in/#", ({ deliveryId }) => {
                seen.push(String(deliveryId))
                return Effect.fail("no")
              }, { onFailure: { reject: 0x83 } }))
            for (const topic of ["in/a", "in/b", "in/c"]) {
              const { client } = yield* begin(version, durable)
              yield* refuse(client)
              yield* settle
              yield* (yield* broker).publish({ topic, qos: 2 })
              yield* settle
              yield* kill()
            }
            assert.lengthOf(new Set(seen), 3)
            const { inbound } = (yield* store).stored
            let exchanges = 0
            for (const { generation } of inbound) exchanges += generation
            assert.strictEqual(exchanges, 3)
          }).pipe(Effect.provide(kit({ strict: false }))))
      }

      it.effect("a lost session ends what is known of identifiers, and delivery ids begin anew", () =>
        Effect.gen(function*() {
          const seen: Array<string> = []
          const { client } = yield* begin(version, durable)
          yield* consume(client, seen)
          yield* settle
          yield* (yield* broker).drop({ from: "broker", type: "Pubrel" })
          yield* (yield* broker).publish({ topic: "in/a", qos: 2 })
          yield* settle
          assert.isTrue((yield* store).stored.inbound[0]?.received)
          yield* kill()
          yield* (yield* broker).restart({ sessions: "lose" })
          const { client: later } = yield* begin(version, durable)
          yield* consume(later, seen)
          yield* settle
          assert.deepStrictEqual((yield* store).stored.inbound, [])
          yield* (yield* broker).publish({ topic: "in/b", qos: 2 })
          yield* settle
          assert.lengthOf(seen, 2)
          assert.strictEqual(new Set(seen.map((text) => text.split(" ")[1])).size, 2)
        }).pipe(Effect.provide(kit())))
    })
  })
}

describe("KeptSession", () => {
  it.effect("what was sent once does not expire, and what waits does by the wall clock", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5, { sessionExpiry: "Infinity" })
      yield* (yield* broker).drop({ from: "client", type: "Publish", times: 2 })
      yield* start(client.publish(to("a", 1, { messageExpiryInterval: 100 })))
      yield* start(client.publish(to("b", 1, { messageExpiryInterval: 30 })))
      yield* settle
      yield* kill()
      yield* TestClock.adjust("40 seconds")
      yield* (yield* broker).restart({ sessions: "lose" })
      const { client: later } = yield* begin(5, { sessionExpiry: "Infinity" })
      yield* settle
      const packets = (yield* broker).packetsOf({ from: "client", type: "Publish" }).slice(2)
      assert.deepStrictEqual(packets.map(({ packet }) => [packet.topic, packet.properties?.messageExpiryInterval]), [
        ["a", 60]
      ])
      assert.strictEqual((yield* later.stats).dropped, 1)
      assert.deepStrictEqual((yield* store).stored.publishes, [])
    }).pipe(Effect.provide(kit({ strict: false }))))

  it.effect("a refusal of a restored publish is counted", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5)
      yield* (yield* broker).drop({ from: "client", type: "Publish" })
      yield* start(client.publish(to("a", 1), { id: "a" }))
      yield* settle
      yield* kill()
      yield* (yield* broker).replace({ type: "Puback" }, ({ packetId }) => [
        { _tag: "Puback", packetId, reasonCode: 0x97, properties: undefined }
      ])
      const { client: later } = yield* begin(5)
      yield* settle
      assert.strictEqual((yield* later.stats).dropped, 1)
      assert.deepStrictEqual(yield* later.outcome("a"), { _tag: "Refused", reasonCode: 0x97 })
      yield* later.publish(to("a", 1), { id: "a" })
      assert.deepStrictEqual(yield* later.outcome("a"), { _tag: "Delivered", qos: 1, reasonCode: 0 })
    }).pipe(Effect.provide(kit({ strict: false }))))

  it.effect("PI-02c: a later process does not use the identifier of an exchange that was given up", () =>
    Effect.gen(function*() {
      const forwarded = yield* watch()
      const { client } = yield* begin(5)
      yield* (yield* broker).drop({ from: "broker", clientId: "c", type: "Pubrec" })
      yield* start(client.publish(to("out/a", 2)))
      yield* settle
      yield* kill()
      yield* (yield* broker).connackNext({ properties: { maximumQoS: 1 } })
      yield* begin(5)
      yield* settle
      assert.deepStrictEqual((yield* store).stored.publishes, [])
      yield* kill()
      const { client: latest } = yield* begin(5)
      yield* latest.publish(to("out/b", 2))
      yield* settle
      assert.deepStrictEqual(yield* sent("Publish"), ["out/a:1", "out/b:2"])
      assert.deepStrictEqual(forwarded, ["out/a", "out/b"])
    }).pipe(Effect.provide(kit())))

  it.effect("lowered limits take a restored message out of the session, and its outcome is unknown", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5)
      yield* (yield* broker).drop({ from: "client", type: "Publish" })
      yield* start(client.publish(to("a", 2), { id: "a" }))
      yield* settle
      yield* kill()
      yield* (yield* broker).connackNext({ properties: { maximumQoS: 1 } })
      const { client: later } = yield* begin(5)
      yield* settle
      assert.deepStrictEqual(yield* later.outcome("a"), { _tag: "Unknown" })
      assert.strictEqual((yield* later.stats).packetIds, 0)
    }).pipe(Effect.provide(kit({ strict: false }))))
})

describe("what others see", () => {
  for (const version of [4, 5] as const) {
    it.effect(`law 8: a repeated own id is forwarded once (MQTT ${version === 4 ? "3.1.1" : "5.0"})`, () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        const results = yield* Effect.forEach(
          [1, 2, 3],
          () => client.publish(to("out/a", 2), { id: "one" }),
          { concurrency: "unbounded" }
        )
        assert.lengthOf(results, 3)
        assert.lengthOf(yield* sent("Publish"), 1)
        yield* client.publish(to("out/a", 2), { id: "two" })
        assert.lengthOf(yield* sent("Publish"), 2)
      }).pipe(Effect.provide(kit())))
  }
})
