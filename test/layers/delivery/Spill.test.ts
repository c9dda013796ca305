import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import type * as Client from "../../../src/layers/MqttClient.ts"
import { queueName } from "../../../src/layers/delivery/Spill.ts"
import * as Message from "../../../src/services/Message.ts"
import { SessionStore } from "../../../src/services/SessionStore.ts"
import { TestBroker, TestSessionStore } from "../../../src/testing/index.ts"
import { collect, stepwise } from "../../support/Consumer.ts"
import { begin, kill, kit, settle } from "../../support/Restarts.ts"
import { start } from "../../support/ScriptedBroker.ts"
import { reasonOf } from "../../support/Subscriptions.ts"

const broker = TestBroker.TestBroker
const store = TestSessionStore.TestSessionStore

const declared = { subscriptions: [{ filter: "in/#", qos: 2 }] } as const
const spill = { whenSlow: "spill", heldMessages: 2 } as const

/** Messages with these payloads, and then what they lead to. */
const publish = Effect.fnUntraced(function*(qos: 0 | 1 | 2, ...payloads: ReadonlyArray<string>) {
  for (const payload of payloads) yield* (yield* broker).publish({ topic: "in/a", qos, payload })
  yield* settle
})

const putAside = (client: Client.MqttClientService) => Effect.map(client.stats, ({ putAside }) => putAside)

const unacked = Effect.map(broker, ({ sessions }) => sessions[0]!.unacked)

const withStore = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(
    TestSessionStore.TestSessionStore,
    ({ service }) => Effect.provideService(effect, SessionStore, service)
  ).pipe(Effect.provide(kit()))

/** Lives of a process by chance, and at the end one that takes all that is left; gives what consumers were given. */
const randomLife = Effect.fnUntraced(function*(version: 4 | 5, seed: number) {
  let state = seed * 7919 + 17
  const draw = (below: number) => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff
    return (state >>> 8) % below
  }
  const qos = draw(2) === 0 ? 1 : 2
  const options = { ...declared, receiveMaximum: 6 }
  const given: Array<string> = []
  let count = 0
  let { client } = yield* begin(version, options)
  const consume = (last = false) => {
    const chosen = { whenSlow: draw(4) === 0 ? "hold" : "spill", heldMessages: 1 + draw(3), spillMessages: 1 + draw(6) }
    const slow = last ? {} : chosen as Client.DurableOptions
    return stepwise(client.durable("in/#", slow))
  }
  let consumer = yield* consume()
  yield* settle
  const more = () => publish(qos, ...Array.from({ length: 1 + draw(6) }, () => `${count++}`))
  // It connects again when it is told to, so that a process that is killed does not come back.
  const cut = Effect.flatMap(broker, (broker) => broker.clients.length === 0 ? Effect.void : broker.cut("c"))
  const take = Effect.gen(function*() {
    if ((yield* consumer.waiting) === 0) return false
    given.push(yield* consumer.take)
    if (draw(5) > 0) yield* consumer.goOn
    yield* settle
    return true
  })
  for (let step = 0; step < 40; step++) {
    switch (draw(10)) {
      case 0:
      case 1:
      case 2:
        yield* more()
        break
      case 3:
        yield* cut
        break
      case 4:
        yield* start(client.resume)
        yield* TestClock.adjust("3 seconds")
        break
      case 5:
        yield* Fiber.interrupt(consumer.fiber)
        consumer = yield* consume()
        break
      case 6:
      case 7: {
        // The store is behind when the link is cut, or the process is killed.
        const release = draw(2) === 0 ? Effect.void : yield* (yield* store).hold
        yield* more()
        yield* take
        const isKilled = draw(2) === 0
        yield* isKilled ? kill() : cut
        yield* release
        if (!isKilled) break
        client = (yield* begin(version, options)).client
        consumer = yield* consume()
        break
      }
      default:
        yield* take
    }
    yield* settle
  }
  yield* start(client.resume)
  yield* settle
  yield* Fiber.interrupt(consumer.fiber)
  const { seen } = yield* collect(client.durable("in/#"))
  for (let turn = 0; turn < 3; turn++) {
    yield* settle
    yield* TestClock.adjust("1 minute")
  }
  assert.strictEqual(yield* unacked, 0, `seed ${seed}`)
  assert.strictEqual(yield* putAside(client), 0, `seed ${seed}`)
  assert.strictEqual(new Set([...given, ...seen]).size, count, `seed ${seed}`)
  return [...given, ...seen]
})

for (const version of [4, 5] as const) {
  describe(`Spill (MQTT ${version === 4 ? "3.1.1" : "5.0"})`, () => {
    for (const qos of [1, 2] as const) {
      it.effect(`what is over the budget is kept, acknowledged, and comes in order (QoS ${qos})`, () =>
        withStore(Effect.gen(function*() {
          const { client } = yield* begin(version, declared)
          const consumer = yield* stepwise(client.durable("in/#", spill))
          yield* settle
          yield* publish(qos, "1", "2")
          assert.strictEqual(yield* consumer.take, "1")
          assert.strictEqual(yield* unacked, 2)
          assert.strictEqual(yield* putAside(client), 0)
          yield* publish(qos, "3", "4", "5")
          // What the consumer has in hand is kept, too: it would hold back all others.
          assert.strictEqual(yield* unacked, 0)
          assert.strictEqual(yield* putAside(client), 5)
          for (const next of ["2", "3", "4", "5"]) {
            yield* consumer.goOn
            assert.strictEqual(yield* consumer.take, next)
          }
          yield* publish(qos, "6")
          assert.strictEqual(yield* unacked, 1)
          yield* consumer.goOn
          assert.strictEqual(yield* consumer.take, "6")
          yield* consumer.goOn
          yield* settle
          assert.deepStrictEqual([yield* putAside(client), yield* unacked], [0, 0])
          assert.deepStrictEqual((yield* store).stored.queues, [])
        })))

      it.effect(`the message in hand is kept after \`slowAfter\`, and neighbours' acknowledgements go on (QoS ${qos})`, () =>
        withStore(Effect.gen(function*() {
          const { client } = yield* begin(version, declared)
          const consumer = yield* stepwise(client.durable("in/#", { ...spill, slowAfter: "10 seconds" }))
          const neighbour = yield* collect(client.subscribe("other", { qos }))
          yield* settle
          yield* publish(qos, "1")
          assert.strictEqual(yield* consumer.take, "1")
          yield* (yield* broker).publish({ topic: "other", qos, payload: "x" })
          yield* settle
          assert.deepStrictEqual(neighbour.seen, ["x"])
          yield* TestClock.adjust("9999 millis")
          assert.strictEqual(yield* unacked, 2)
          yield* TestClock.adjust("1 millis")
          yield* settle
          assert.deepStrictEqual([yield* putAside(client), yield* unacked], [1, 0])
          yield* consumer.goOn
          yield* settle
          assert.strictEqual(yield* putAside(client), 0)
        })))

      it.effect(`law 8: a killed process: the next one has all that was not done with, once (QoS ${qos})`, () =>
        withStore(Effect.gen(function*() {
          const { client } = yield* begin(version, declared)
          const consumer = yield* stepwise(client.durable("in/#", spill))
          yield* settle
          yield* publish(qos, "1", "2", "3", "4", "5")
          yield* consumer.take
          yield* consumer.goOn
          assert.strictEqual(yield* consumer.take, "2")
          yield* settle
          yield* kill()
          yield* publish(qos, "6")
          const { client: later } = yield* begin(version, declared)
          assert.strictEqual(yield* putAside(later), 4)
          // Without saying so, too: what was acknowledged must not be forgotten.
          const { seen } = yield* collect(later.durable("in/#"))
          yield* settle
          assert.deepStrictEqual(seen, ["2", "3", "4", "5", "6"])
          assert.deepStrictEqual([yield* putAside(later), yield* unacked], [0, 0])
        })))

      it.effect(`nothing is acknowledged before it is kept; killed before, it comes again (QoS ${qos})`, () =>
        withStore(Effect.gen(function*() {
          const { client } = yield* begin(version, declared)
          yield* stepwise(client.durable("in/#", spill))
          yield* settle
          const release = yield* (yield* store).hold
          yield* publish(qos, "1", "2", "3")
          assert.strictEqual(yield* unacked, 3)
          yield* kill()
          yield* release
          const { client: later } = yield* begin(version, declared)
          const { seen } = yield* collect(later.durable("in/#", spill))
          yield* settle
          assert.deepStrictEqual(seen, ["1", "2", "3"])
        })))

      for (
        const [full, by] of [
          [{ spillMessages: 1 }, "1 message"],
          [{ spillMessages: 2 }, "2 messages"],
          [{ spillMessages: 3 }, "3 messages"],
          [{ spillBytes: 2 }, "2 bytes"]
        ] as const
      ) {
        it.effect(`a queue full by ${by} holds, and takes up again when there is room, in order (QoS ${qos})`, () =>
          withStore(Effect.gen(function*() {
            const { client } = yield* begin(version, { ...declared, receiveMaximum: 4 })
            const consumer = yield* stepwise(client.durable("in/#", { ...spill, ...full }))
            yield* settle
            const most = by === "2 bytes" ? 2 : full.spillMessages
            const payloads = Array.from({ length: 20 }, (_, index) => String.fromCharCode(97 + index))
            yield* publish(qos, ...payloads)
            // MQTT 3.1.1 has no Receive Maximum.
            assert.deepStrictEqual([yield* putAside(client), yield* unacked], [most, version === 4 ? 20 - most : 4])
            const seen: Array<string> = []
            while (seen.length < payloads.length) {
              seen.push(yield* consumer.take)
              yield* consumer.goOn
              yield* settle
              assert.isAtMost(yield* putAside(client), most)
            }
            assert.deepStrictEqual(seen, payloads)
            assert.deepStrictEqual([yield* putAside(client), yield* unacked], [0, 0])
          })))
      }
    }

    it.effect("law 4: whatever happens, nothing is lost, and first comes first", () =>
      Effect.forEach(Array.from({ length: 12 }, (_, seed) => seed), (seed) =>
        Effect.gen(function*() {
          const seen = yield* Effect.scoped(withStore(randomLife(version, seed)))
          const firsts = [...new Set(seen)]
          assert.deepStrictEqual(firsts, firsts.map((_, index) => `${index}`), `seed ${seed}`)
        }), { discard: true }))

    it.effect("law 8: that a QoS 2 message was received is kept together with it", () =>
      withStore(Effect.gen(function*() {
        const { client } = yield* begin(version, declared)
        yield* stepwise(client.durable("in/#", spill))
        yield* settle
        yield* publish(2, "1", "2", "3")
        assert.strictEqual(yield* putAside(client), 3)
        const commits = (yield* store).commits.map((changes) => changes.map(({ _tag }) => _tag))
        const kept = commits.flatMap((tags) => tags.includes("PutAside") ? tags : [])
        assert.strictEqual(kept.filter((tag) => tag === "PutAside").length, 3)
        assert.strictEqual(kept.filter((tag) => tag === "Received").length, 3)
      })))

    it.effect("law 8: what a handler of `inbox` has in hand is not put aside, and what comes meanwhile is", () =>
      withStore(Effect.gen(function*() {
        const { client } = yield* begin(version, declared)
        const seen: Array<string> = []
        yield* start(
          client.inbox("in/#", (message) =>
            Effect.andThen(
              Effect.sleep("1 minute"),
              Effect.sync(() => seen.push(Message.text(message)))
            ), spill)
        )
        yield* settle
        yield* publish(2, "1")
        yield* publish(2, "2", "3", "4")
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* putAside(client), 3)
        yield* TestClock.adjust("10 minutes")
        assert.deepStrictEqual(seen, ["1", "2", "3", "4"])
        yield* settle
        assert.deepStrictEqual([yield* putAside(client), yield* unacked], [0, 0])
      })))

    it.effect("what a handler of `inbox` failed with comes again before what was put aside meanwhile", () =>
      withStore(Effect.gen(function*() {
        const { client } = yield* begin(version, declared)
        const begun: Array<string> = []
        const inbox = client.inbox("in/#", (message) =>
          Effect.andThen(
            Effect.sleep("1 minute"),
            Effect.suspend(() => begun.push(Message.text(message)) === 1 ? Effect.fail("no") : Effect.void)
          ), spill)
        yield* start(Effect.retry(inbox, { times: 1 }))
        yield* settle
        yield* publish(2, "1")
        yield* publish(2, "2", "3", "4")
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* putAside(client), 3)
        yield* TestClock.adjust("10 minutes")
        yield* settle
        assert.deepStrictEqual(begun, ["1", "1", "2", "3", "4"])
        assert.deepStrictEqual([yield* putAside(client), yield* unacked], [0, 0])
      })))

    it.effect("a lost link takes nothing away, and adds nothing at QoS 2", () =>
      withStore(Effect.gen(function*() {
        const { client } = yield* begin(version, { ...declared, reconnect: {} })
        const consumer = yield* stepwise(client.durable("in/#", spill))
        yield* settle
        const release = yield* (yield* store).hold
        yield* publish(2, "1", "2", "3", "4")
        // Put aside, not yet kept, and not acknowledged: the server sends it again, once the store is ready.
        yield* (yield* broker).cut("c")
        yield* settle
        yield* TestClock.adjust("2 seconds")
        yield* settle
        yield* release
        yield* settle
        const again = (yield* broker).packetsOf({ from: "broker", type: "Publish", where: ({ dup }) => dup })
        assert.strictEqual(again.length, 4)
        assert.deepStrictEqual([yield* putAside(client), yield* unacked], [4, 0])
        for (const next of ["1", "2", "3", "4"]) {
          assert.strictEqual(yield* consumer.take, next)
          yield* consumer.goOn
        }
        yield* settle
        assert.strictEqual(yield* consumer.waiting, 0)
        assert.strictEqual(yield* putAside(client), 0)
      })))

    it.effect("properties of a message survive", () =>
      withStore(Effect.gen(function*() {
        const { client } = yield* begin(version, declared)
        yield* stepwise(client.durable("in/#", spill))
        yield* settle
        yield* publish(1, "1", "2")
        const properties = {
          payloadFormatIndicator: 1,
          contentType: "text/plain",
          responseTopic: "answers",
          correlationData: new Uint8Array([1, 2]),
          userProperties: [["a", "b"]]
        } as const
        yield* (yield* broker).publish({ topic: "in/b", qos: 1, payload: "x", properties })
        yield* settle
        yield* kill()
        const { client: later } = yield* begin(version, declared)
        const messages = yield* Stream.runCollect(Stream.take(later.durable("in/#"), 3))
        const last = messages[2]!
        assert.deepInclude(last, { topic: "in/b", qos: 1, retain: false, duplicate: false })
        assert.strictEqual(Message.text(last), "x")
        if (version === 5) {
          assert.deepInclude(last, {
            payloadFormat: "utf8",
            contentType: "text/plain",
            responseTopic: "answers",
            correlationData: new Uint8Array([1, 2]),
            userProperties: [["a", "b"]]
          })
        }
      })))

    it.effect("messages that are settled one by one leave the store one by one", () =>
      withStore(Effect.gen(function*() {
        const { client } = yield* begin(version, declared)
        const taken: Array<Message.ManualMessage> = []
        const manual = { ...spill, ack: "manual" } as const
        const run = yield* start(
          Stream.runForEach(client.durable("in/#", manual), (message) => Effect.sync(() => taken.push(message)))
        )
        yield* settle
        yield* publish(1, "1", "2", "3", "4")
        assert.deepStrictEqual(taken.map(Message.text), ["1", "2", "3", "4"])
        assert.deepStrictEqual([yield* putAside(client), yield* unacked], [4, 0])
        assert.deepStrictEqual(yield* taken[2]!.ack, { _tag: "Acked" })
        // The server has its acknowledgement, so that refusing is being done with it.
        assert.deepStrictEqual(yield* taken[0]!.reject(0x80), { _tag: "Acked" })
        yield* Fiber.interrupt(run)
        assert.deepStrictEqual(yield* taken[1]!.ack, { _tag: "Stale" })
        const { seen } = yield* collect(client.durable("in/#"))
        yield* settle
        assert.deepStrictEqual(seen, ["2", "4"])
        assert.strictEqual(yield* putAside(client), 0)
      })))

    it.effect("a handler of `process` that is slower than the load has all, and is acknowledged at once", () =>
      withStore(Effect.gen(function*() {
        const { client } = yield* begin(version, declared)
        const seen: Array<string> = []
        yield* start(
          client.process("in/#", (message) =>
            Effect.andThen(
              Effect.sleep("1 minute"),
              Effect.sync(() => seen.push(Message.text(message)))
            ), spill)
        )
        yield* settle
        const payloads = Array.from({ length: 30 }, (_, index) => `${index}`)
        yield* publish(1, ...payloads)
        assert.strictEqual(yield* unacked, 0)
        yield* TestClock.adjust("30 minutes")
        assert.deepStrictEqual(seen, payloads)
        yield* settle
        assert.strictEqual(yield* putAside(client), 0)
      })))

    it.effect("a subscription that is not declared leaves its queue to the next one to the same filters", () =>
      withStore(Effect.gen(function*() {
        const { client } = yield* begin(version)
        const first = yield* stepwise(client.subscribe(["in/#", "x"], { ...spill, qos: 1 }))
        yield* settle
        yield* publish(1, "1", "2", "3")
        yield* first.take
        yield* Fiber.interrupt(first.fiber)
        yield* settle
        const { seen } = yield* collect(client.subscribe(["x", "in/#"], { ...spill, qos: 1 }))
        yield* settle
        assert.deepStrictEqual(seen, ["1", "2", "3"])
      })))
  })
}

describe("Spill", () => {
  for (const whenSlow of ["spill", "drop"] as const) {
    it.effect(`law 8: what a slow one let go at QoS 2, and another still has, comes once (${whenSlow})`, () =>
      withStore(Effect.gen(function*() {
        const { client } = yield* begin(5, { reconnect: {} })
        const slow = yield* client.subscription("in/#", { qos: 2, whenSlow, heldMessages: 4, slowAfter: "1 hour" })
        const other = yield* client.subscription("in/a", { qos: 2 })
        yield* publish(2, "1", "2", "3")
        yield* TestClock.adjust("1 hour")
        yield* (yield* broker).cut("c")
        yield* settle
        yield* TestClock.adjust("2 seconds")
        yield* settle
        const slowly = yield* collect(slow.messages)
        const others = yield* collect(other.messages)
        yield* settle
        assert.deepStrictEqual([slowly.seen, others.seen], [["1", "2", "3"], ["1", "2", "3"]])
      })))
  }

  it.effect("law 4: an idle durable subscription keeps a QoS 2 message that another put aside, over a crash", () =>
    withStore(Effect.gen(function*() {
      const options = {
        subscriptions: [{ filter: "in/#", qos: 2 }, { filter: "in/+", qos: 2 }],
        subscriptionIdentifiers: false
      } as const
      const { client } = yield* begin(5, options)
      yield* stepwise(client.durable("in/#", { whenSlow: "spill", heldMessages: 1 }))
      yield* settle
      yield* publish(2, "1", "2", "3")
      yield* kill()
      const next = yield* begin(5, options)
      const { seen } = yield* collect(next.client.durable("in/+"))
      yield* settle
      assert.deepStrictEqual(seen, ["1", "2", "3"])
    })))

  it.effect("law 8: of what is put aside of a lost session no identifier is kept for the new one", () =>
    withStore(Effect.gen(function*() {
      const { client } = yield* begin(5, { ...declared, reconnect: {} })
      yield* stepwise(client.durable("in/#", { ...spill, slowAfter: "1 hour" }))
      yield* settle
      yield* publish(2, "1", "2")
      yield* (yield* broker).restart({ sessions: "lose" })
      yield* settle
      yield* TestClock.adjust("2 seconds")
      yield* settle
      const before = (yield* store).commits.length
      yield* publish(1, "3", "4")
      const tags = (yield* store).commits.slice(before).flat().map(({ _tag }) => _tag)
      assert.deepStrictEqual(tags, ["PutAside", "PutAside", "PutAside", "PutAside"])
    })))

  it("a queue belongs to a set of filters", () => {
    assert.strictEqual(queueName(["a", "a"]), "a")
    assert.strictEqual(queueName(["b", "a", "b"]), queueName(["a", "b"]))
    assert.notStrictEqual(queueName([queueName(["a", "b"])]), queueName(["a", "b"]))
  })

  it.effect("needs a session store", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5, declared)
      for (const messages of [client.durable("in/#", spill), client.subscribe("in/#", spill)]) {
        const reason = yield* reasonOf(Stream.runDrain(messages))
        assert.strictEqual(reason._tag === "InvalidSubscription" && reason.field, "whenSlow")
      }
    }).pipe(Effect.provide(TestBroker.layer())))

  it.effect("two subscriptions to the same filters cannot share a queue", () =>
    withStore(Effect.gen(function*() {
      const { client } = yield* begin(5, declared)
      const first = yield* collect(client.durable("in/#", spill))
      const reason = yield* reasonOf(Stream.runDrain(client.durable("in/#", spill)))
      assert.strictEqual(reason._tag === "InvalidSubscription" && reason.field, "whenSlow")
      yield* Fiber.interrupt(first.fiber)
      yield* collect(client.durable("in/#", spill))
      yield* settle
    })))

  it.effect("a store that cannot be read fails the stream typed, and the next one has the messages", () =>
    withStore(Effect.gen(function*() {
      const { client } = yield* begin(5, declared)
      const consumer = yield* stepwise(client.durable("in/#", spill))
      yield* settle
      yield* publish(1, "1")
      yield* consumer.take
      yield* publish(1, "2", "3")
      yield* (yield* store).fail({ operation: "read" })
      yield* consumer.goOn
      const reason = yield* reasonOf(Fiber.join(consumer.fiber))
      assert.strictEqual(reason._tag, "SessionStoreError")
      const { seen } = yield* collect(client.durable("in/#", spill))
      yield* settle
      assert.deepStrictEqual(seen, ["2", "3"])
    })))

  it.effect("other options are checked", () =>
    Effect.gen(function*() {
      const { client } = yield* begin(5, declared)
      const wrong: ReadonlyArray<[string, object]> = [
        ["whenSlow", { whenSlow: "wait" }],
        ["slowAfter", { slowAfter: -1 }],
        ["heldMessages", { heldMessages: 0 }],
        ["heldBytes", { heldBytes: 0.5 }],
        ["spillMessages", { spillMessages: 0 }],
        ["spillBytes", { spillBytes: 0 }]
      ]
      for (const [field, options] of wrong) {
        const reason = yield* reasonOf(Stream.runDrain(client.subscribe("a", options)))
        assert.strictEqual(reason._tag === "InvalidSubscription" && reason.field, field)
      }
    }).pipe(Effect.provide(TestBroker.layer())))
})
