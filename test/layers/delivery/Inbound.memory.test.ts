import { Buffer } from "node:buffer"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Stream } from "effect"
import mqttPacket from "mqtt-packet"
import type { Message } from "../../../src/services/Message.ts"
import { MemoryNetwork } from "../../../src/testing/index.ts"
import { message, open, run, send, start } from "../../support/ScriptedBroker.ts"
import type { Peer } from "../../support/ScriptedBroker.ts"
import { drop, persistent, suback, subscribed, subscribing } from "../../support/Subscriptions.ts"
import { resumed } from "../../support/ScriptedBroker.ts"

const chunkBytes = 60_000
const payloadBytes = 200

const payloadOf = (index: number) => Buffer.alloc(payloadBytes, index)

/** A PUBLISH that is next to nothing of the chunk that it comes in; the rest is for nobody. */
const sendInChunk = (peer: Peer, index: number, id: number, topic = "a") =>
  send(
    peer,
    5,
    message("other", 0, { payload: Buffer.alloc(chunkBytes / 2) }),
    message(topic, id, { payload: payloadOf(index) }),
    message("other", 0, { payload: Buffer.alloc(chunkBytes / 2) })
  )

const settle = Effect.flatMap(MemoryNetwork.MemoryNetwork, ({ settle }) => settle)

/** The memory that these keep alive. */
const heldBy = (messages: ReadonlyArray<Message>): number =>
  [...new Set(messages.map(({ payload }) => payload.buffer))].reduce((sum, { byteLength }) => sum + byteLength, 0)

const assertSmall = (messages: ReadonlyArray<Message>, from = 0) => {
  // Copies share memory of 8 KiB, of which the first and the last may be nearly all for others.
  assert.isAtMost(heldBy(messages), messages.length * payloadBytes + 2 * 8192)
  for (const [index, { payload }] of messages.entries()) {
    assert.deepStrictEqual(Buffer.from(payload), payloadOf(from + index))
  }
}

describe("Inbound", () => {
  describe("memory of payloads (law 14)", () => {
    for (const qos of [0, 1, 2] as const) {
      it.effect(`QoS ${qos}: a subscription without a consumer keeps no chunk alive`, () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ keepAlive: 0, receiveMaximum: 1000 })
          const { messages } = yield* subscribed(client, peer, 5, "a", { qos: 2 })
          const other = yield* subscribed(client, peer, 5, "other")
          yield* start(Stream.runDrain(other.messages))
          const count = 40
          for (let index = 0; index < count; index++) {
            const id = qos === 0 ? 0 : index + 1
            yield* send(
              peer,
              5,
              message("other", 0, { payload: Buffer.alloc(chunkBytes) }),
              message("a", id, { qos, payload: payloadOf(index) })
            )
          }
          yield* settle
          assert.strictEqual((yield* client.stats).dropped, 0)
          assertSmall(yield* Stream.runCollect(Stream.take(messages, count)))
        })))
    }

    it.effect("a message that one of its receivers has frozen is no trouble to the others", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ keepAlive: 0 })
        const freezing = yield* subscribed(client, peer, 5, "a")
        const { messages } = yield* subscribing(client, "a").pipe(Effect.flatMap(({ fiber }) => Fiber.join(fiber)))
        yield* start(Stream.runForEach(freezing.messages, (message) => Effect.sync(() => Object.freeze(message))))
        for (let index = 0; index < 2; index++) yield* sendInChunk(peer, index, 0)
        yield* settle
        const taken = yield* start(Stream.runCollect(Stream.take(messages, 2)))
        yield* settle
        const payloads = (yield* Fiber.join(taken)).map(({ payload }) => Buffer.from(payload))
        assert.deepStrictEqual(payloads, [payloadOf(0), payloadOf(1)])
      })))

    it.effect("a slow consumer under a flood keeps no more alive than the chunk of what it has in hand", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ keepAlive: 0 })
        const { messages } = yield* subscribed(client, peer, 5, "a")
        const other = yield* subscribed(client, peer, 5, "other")
        yield* start(Stream.runDrain(other.messages))
        const goOn = yield* Deferred.make<void>()
        const taken: Array<Message> = []
        const consumer = yield* start(Stream.runForEach(Stream.take(messages, 41), (message) => {
          taken.push(message)
          return Deferred.await(goOn)
        }))
        for (let index = 0; index < 41; index++) yield* sendInChunk(peer, index, 0)
        yield* settle
        assert.strictEqual(taken.length, 1)
        // What was handed over at once is a view of what arrived.
        assert.isAbove(heldBy(taken), chunkBytes)
        yield* Deferred.succeed(goOn, undefined)
        yield* Fiber.join(consumer)
        assertSmall(taken.slice(1), 1)
      })))

    it.effect("handlers that are at work on many messages keep no chunk alive", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ keepAlive: 0, receiveMaximum: 100 })
        const taken: Array<Message> = []
        const goOn = yield* Deferred.make<void>()
        yield* start(
          client.process("a", (message) => {
            taken.push(message)
            return Deferred.await(goOn)
          }, { qos: 1, concurrency: 50 })
        )
        yield* peer.readFrame
        yield* send(peer, 5, suback(1, 1))
        const other = yield* subscribed(client, peer, 5, "other")
        yield* start(Stream.runDrain(other.messages))
        for (let index = 0; index < 40; index++) yield* sendInChunk(peer, index, index + 1)
        yield* settle
        assert.lengthOf(taken, 40)
        assertSmall(taken)
        yield* Deferred.succeed(goOn, undefined)
      })))

    it.effect("what is parked until somebody wants it keeps no chunk alive", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ keepAlive: 0 })
        for (let index = 0; index < 20; index++) yield* sendInChunk(peer, index, index + 1)
        yield* settle
        const { fiber } = yield* subscribing(client, "a", { qos: 1 })
        yield* peer.readFrame
        yield* send(peer, 5, suback(1, 1))
        const { messages } = yield* Fiber.join(fiber)
        assertSmall(yield* Stream.runCollect(Stream.take(messages, 20)))
      })))

    it.effect("what is owed to a durable subscription that nobody listens to keeps no chunk alive", () =>
      run(Effect.gen(function*() {
        const opened = yield* open({
          ...persistent,
          keepAlive: 0,
          receiveMaximum: 100,
          subscriptions: [{ filter: "a", qos: 1 }]
        })
        const { client, peer } = opened
        yield* peer.readFrame
        yield* send(peer, 5, suback(1, 1))
        for (let index = 0; index < 40; index++) yield* sendInChunk(peer, index, index + 1)
        yield* settle
        const listening = yield* subscribing(client, "a", { qos: 1 })
        const { messages } = yield* Fiber.join(listening.fiber)
        assertSmall(yield* Stream.runCollect(Stream.take(messages, 40)))
        yield* drop(opened, resumed[5])
      })))

    it.effect("what two subscribers wait for is in memory once", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ keepAlive: 0 })
        const one = yield* subscribed(client, peer, 5, "a")
        const two = yield* Effect.flatMap(subscribing(client, "a"), ({ fiber }) => Fiber.join(fiber))
        for (let index = 0; index < 20; index++) yield* sendInChunk(peer, index, 0)
        yield* settle
        const first = yield* Stream.runCollect(Stream.take(one.messages, 20))
        const second = yield* Stream.runCollect(Stream.take(two.messages, 20))
        assertSmall(first)
        assert.isTrue(first.every(({ payload }, index) => payload === second[index]!.payload))
      })))

    it.effect("one consumer at work does not change what another one has in hand", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ keepAlive: 0 })
        const one = yield* subscribed(client, peer, 5, "a")
        // Nobody consumes it, so that its copy is what lets go of the chunk.
        yield* Effect.flatMap(subscribing(client, "a"), ({ fiber }) => Fiber.join(fiber))
        const seen: Array<Uint8Array> = []
        yield* start(Stream.runForEach(one.messages, ({ payload }) => Effect.sync(() => seen.push(payload))))
        for (let index = 0; index < 5; index++) yield* sendInChunk(peer, index, 0)
        yield* settle
        assert.deepStrictEqual(
          seen.map((payload) => Buffer.from(payload)),
          Array.from({ length: 5 }, (_, i) => payloadOf(i))
        )
      })))

    it("sends chunks that are as large as they are said to be", () => {
      const bytes = mqttPacket.generate(message("other", 0, { payload: Buffer.alloc(chunkBytes) }), {
        protocolVersion: 5
      })
      assert.isAbove(bytes.length, chunkBytes)
    })
  })
})
