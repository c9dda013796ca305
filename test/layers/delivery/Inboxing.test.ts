import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Client from "../../../src/layers/MqttClient.ts"
import { SessionStore } from "../../../src/services/SessionStore.ts"
import { TestBroker, TestSessionStore } from "../../../src/testing/index.ts"
import { isPending, to } from "../../support/Publishes.ts"
import { begin, kill, kit, settle } from "../../support/Restarts.ts"
import { start } from "../../support/ScriptedBroker.ts"

const broker = TestBroker.TestBroker
const store = TestSessionStore.TestSessionStore

const durable = { subscriptions: [{ filter: "in/#", qos: 2 }] } as const

const acks = Effect.map(
  broker,
  (broker) =>
    broker.packetsOf({ from: "client" }).map(({ packet }) => packet._tag).filter((tag) =>
      /^Pub(ack|rec|comp)$/.test(tag)
    )
)

for (const version of [4, 5] as const) {
  describe(`Inboxing (MQTT ${version === 4 ? "3.1.1" : "5.0"})`, () => {
    it.effect("law 8: the receipt is kept with the work of the handler, and acknowledged after it", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, durable)
        const gate = yield* Deferred.make<void>()
        const seen: Array<string> = []
        yield* start(
          client.inbox("in/#", ({ topic }) => Effect.andThen(Deferred.await(gate), Effect.sync(() => seen.push(topic))))
        )
        yield* settle
        yield* (yield* broker).publish({ topic: "in/a", qos: 2 })
        yield* settle
        assert.deepStrictEqual(yield* acks, [])
        assert.deepStrictEqual((yield* store).stored.inbound, [])
        yield* Deferred.succeed(gate, undefined)
        yield* settle
        assert.deepStrictEqual(seen, ["in/a"])
        assert.deepStrictEqual(yield* acks, ["Pubrec", "Pubcomp"])
        const received = (yield* store).commits.filter((changes) => changes.some(({ _tag }) => _tag === "Received"))
        assert.deepStrictEqual(received, [[{ _tag: "Received", packetId: 1 }]])
      }).pipe(Effect.provide(kit())))

    for (
      const stage of ["before the commit", "behind the commit", "before PUBREC", "before PUBREL", "before PUBCOMP"]
    ) {
      it.effect(`law 8: killed ${stage}: every message is handled once`, () =>
        Effect.gen(function*() {
          /** What a database would hold of the handler's work. */
          const rows: Array<string> = []
          const handle = ({ topic }: { readonly topic: string }) => Effect.sync(() => topic)
          const run = (client: Client.MqttClientService) =>
            start(client.inbox("in/#", (message) => Effect.map(handle(message), (topic) => pending.push(topic))))
          const pending: Array<string> = []
          const { client } = yield* begin(version, durable)
          yield* run(client)
          yield* settle
          const kit = yield* broker
          const release = stage === "before the commit" ? yield* (yield* store).hold : Effect.void
          if (stage === "before PUBREC") yield* kit.cutBefore({ from: "client", type: "Pubrec" })
          if (stage === "before PUBREL") yield* kit.cutBefore({ from: "broker", type: "Pubrel" })
          if (stage === "before PUBCOMP") yield* kit.cutBefore({ from: "client", type: "Pubcomp" })
          if (stage === "behind the commit") yield* (yield* store).fail({ operation: "transaction", applied: true })
          yield* kit.publish({ topic: "in/a", qos: 2 })
          yield* settle
          yield* kill()
          yield* release
          const isCommitted = (yield* store).stored.inbound.some(({ generation, received }) =>
            received || generation > 0
          )
          assert.strictEqual(isCommitted, stage !== "before the commit")
          if (isCommitted) rows.push(...pending)
          pending.length = 0
          const { client: later } = yield* begin(version, durable)
          yield* run(later)
          yield* settle
          yield* kit.publish({ topic: "in/b", qos: 2 })
          yield* settle
          rows.push(...pending)
          assert.deepStrictEqual(rows, ["in/a", "in/b"])
        }).pipe(Effect.provide(kit())))
    }

    for (const [other, isListening] of [["is behind", true], ["is to come", false]] as const) {
      it.effect(`law 4: killed while another durable subscription ${other}: handled once, and the other one gets it`, () =>
        Effect.gen(function*() {
          const subscriptions = [{ filter: "in/#", qos: 2 }, { filter: "in/a", qos: 2 }] as const
          const handled: Array<string> = []
          const seen: Array<string | undefined> = []
          const { client } = yield* begin(version, { subscriptions })
          const listen = (client: Client.MqttClientService, take: boolean) =>
            start(Stream.runForEach(client.durable("in/a"), ({ deliveryId }) => {
              if (take) seen.push(deliveryId)
              return take ? Effect.void : Effect.never
            }))
          const handle = (client: Client.MqttClientService) =>
            start(client.inbox("in/#", ({ topic }) => Effect.sync(() => handled.push(topic))))
          if (isListening) yield* listen(client, false)
          yield* handle(client)
          yield* settle
          yield* (yield* broker).publish({ topic: "in/a", qos: 2 })
          yield* settle
          yield* kill()
          assert.deepStrictEqual(handled, ["in/a"])
          const { client: later } = yield* begin(version, { subscriptions })
          yield* listen(later, true)
          yield* handle(later)
          yield* settle
          assert.lengthOf(seen, 1)
          assert.deepStrictEqual(handled, ["in/a"])
          assert.lengthOf((yield* broker).sessions.filter(({ unacked }) => unacked > 0), 0)
        }).pipe(Effect.provide(kit())))
    }

    it.effect("a handler that fails is rolled back, and the message goes to the next one", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, durable)
        const first = yield* start(Effect.flip(client.inbox("in/#", () => Effect.fail("no" as const))))
        yield* settle
        yield* (yield* broker).publish({ topic: "in/a", qos: 2 })
        assert.strictEqual(yield* Fiber.join(first), "no")
        yield* settle
        assert.deepStrictEqual(yield* acks, [])
        assert.deepStrictEqual((yield* store).stored.inbound, [])
        const seen: Array<string> = []
        yield* start(client.inbox("in/#", ({ topic }) => Effect.sync(() => seen.push(topic))))
        yield* settle
        assert.deepStrictEqual(seen, ["in/a"])
        assert.deepStrictEqual(yield* acks, ["Pubrec", "Pubcomp"])
      }).pipe(Effect.provide(kit())))

    it.effect("a transaction that fails is a failure of the inbox, typed", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, durable)
        yield* (yield* store).fail({ operation: "transaction" })
        const inbox = yield* start(Effect.flip(client.inbox("in/#", () => Effect.void)))
        yield* settle
        yield* (yield* broker).publish({ topic: "in/a", qos: 2 })
        const error = yield* Fiber.join(inbox)
        assert.strictEqual(error._tag === "SubscribeError" && error.reason._tag, "SessionStoreError")
        yield* settle
        assert.deepStrictEqual(yield* acks, [])
      }).pipe(Effect.provide(kit())))

    it.effect("an interruption in the moment of the commit leaves it either done or undone", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, durable)
        const seen: Array<string> = []
        const handler = ({ topic }: { readonly topic: string }) => Effect.sync(() => seen.push(topic))
        const inbox = yield* start(client.inbox("in/#", handler))
        yield* settle
        const release = yield* (yield* store).hold
        yield* (yield* broker).publish({ topic: "in/a", qos: 2 })
        yield* settle
        const interrupt = yield* start(Fiber.interrupt(inbox))
        yield* settle
        assert.isTrue(isPending(interrupt))
        yield* release
        yield* Fiber.join(interrupt)
        yield* start(client.inbox("in/#", handler))
        yield* settle
        assert.deepStrictEqual(seen, ["in/a"])
        assert.deepStrictEqual(yield* acks, ["Pubrec", "Pubcomp"])
      }).pipe(Effect.provide(kit())))

    it.effect("a handler that hangs can be interrupted", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, durable)
        const inbox = yield* start(client.inbox("in/#", () => Effect.never))
        yield* settle
        yield* (yield* broker).publish({ topic: "in/a", qos: 2 })
        yield* settle
        yield* Fiber.interrupt(inbox)
        assert.deepStrictEqual((yield* store).stored.inbound, [])
      }).pipe(Effect.provide(kit())))

    it.effect("a link lost while the handler works changes nothing: one handling, one acknowledgement", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, { ...durable, reconnect: {} })
        const gate = yield* Deferred.make<void>()
        const seen: Array<string> = []
        yield* start(
          client.inbox("in/#", ({ topic }) => Effect.andThen(Effect.sync(() => seen.push(topic)), Deferred.await(gate)))
        )
        yield* settle
        yield* (yield* broker).publish({ topic: "in/a", qos: 2 })
        yield* settle
        yield* (yield* broker).cut("c")
        yield* TestClock.adjust("1 second")
        yield* settle
        yield* Deferred.succeed(gate, undefined)
        yield* settle
        assert.deepStrictEqual(seen, ["in/a"])
        assert.deepStrictEqual(yield* acks, ["Pubrec", "Pubcomp"])
      }).pipe(Effect.provide(kit())))

    it.effect("a session lost while the handler works: its identifier is not kept for the new session", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, { ...durable, reconnect: {} })
        const gate = yield* Deferred.make<void>()
        const seen: Array<string> = []
        yield* start(
          client.inbox("in/#", ({ topic }) =>
            Effect.andThen(
              Effect.sync(() => seen.push(topic)),
              topic === "in/a" ? Deferred.await(gate) : Effect.void
            ))
        )
        yield* settle
        yield* (yield* broker).publish({ topic: "in/a", qos: 2 })
        yield* settle
        yield* (yield* broker).restart({ sessions: "lose" })
        yield* TestClock.adjust("1 second")
        yield* settle
        yield* Deferred.succeed(gate, undefined)
        yield* settle
        assert.deepStrictEqual((yield* store).stored.inbound, [])
        yield* (yield* broker).publish({ topic: "in/b", qos: 2 })
        yield* settle
        assert.deepStrictEqual(seen, ["in/a", "in/b"])
        assert.deepStrictEqual((yield* store).stored.inbound, [{ packetId: 1, received: false, generation: 1 }])
      }).pipe(Effect.provide(kit())))

    it.effect("publishes from a fiber of its own while the handler works", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version, durable)
        yield* start(client.inbox("in/#", () => Effect.forkDetach(client.publish(to("out", 1)))))
        yield* settle
        yield* (yield* broker).publish({ topic: "in/a", qos: 2 })
        yield* settle
        assert.deepStrictEqual(
          (yield* broker).packetsOf({ from: "client", type: "Publish" }).map(({ packet }) => packet.topic),
          ["out"]
        )
      }).pipe(Effect.provide(kit())))

    it.effect("law 8: what was put aside is handled once as well", () =>
      Effect.gen(function*() {
        const slow = { whenSlow: "spill", heldMessages: 1 } as const
        const { client } = yield* begin(version, durable)
        yield* start(Stream.runForEach(client.durable("in/#", slow), () => Effect.never))
        yield* settle
        for (const topic of ["in/1", "in/2", "in/3"]) yield* (yield* broker).publish({ topic, qos: 2 })
        yield* settle
        assert.isAtLeast((yield* store).stored.queues[0]?.count ?? 0, 2)
        yield* kill()
        const seen: Array<string> = []
        const handler = ({ topic }: { readonly topic: string }) => Effect.sync(() => seen.push(topic))
        const second = yield* begin(version, durable)
        yield* start(second.client.inbox("in/#", handler, slow))
        yield* settle
        assert.deepStrictEqual(seen, ["in/1", "in/2", "in/3"])
        assert.deepStrictEqual((yield* store).stored.queues, [])
        yield* kill()
        const third = yield* begin(version, durable)
        yield* start(third.client.inbox("in/#", handler, slow))
        yield* settle
        assert.lengthOf(seen, 3)
      }).pipe(Effect.provide(kit())))

    it.effect("a filter that is not declared is subscribed at QoS 2, and QoS 1 and 0 are handled as well", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        const seen: Array<string> = []
        yield* start(client.inbox("in/#", ({ qos, topic }) => Effect.sync(() => seen.push(`${topic}:${qos}`))))
        yield* settle
        for (const qos of [0, 1, 2] as const) yield* (yield* broker).publish({ topic: "in", qos })
        yield* settle
        assert.deepStrictEqual(seen, ["in:0", "in:1", "in:2"])
        assert.deepStrictEqual(yield* acks, ["Puback", "Pubrec", "Pubcomp"])
      }).pipe(Effect.provide(kit())))
  })
}

describe("Inboxing", () => {
  it.effect("needs a session store", () =>
    Effect.gen(function*() {
      const client = yield* Effect.provideService(
        Client.make({ endpoint: "mqtt://broker" }),
        SessionStore,
        undefined
      )
      const error = yield* Effect.flip(client.inbox("a", () => Effect.void))
      assert.strictEqual(error.reason._tag, "NoSessionStore")
      const outcome = yield* Effect.flip(client.outcome("a"))
      assert.strictEqual(outcome._tag, "NoSessionStore")
    }).pipe(Effect.provide(kit())))
})
