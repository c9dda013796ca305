import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, References, Stream } from "effect"
import { TestClock } from "effect/testing"
import { NewReceipt } from "../../../src/layers/delivery/Receipt.ts"
import type { Receipt } from "../../../src/layers/delivery/Receipt.ts"
import type * as MqttClient from "../../../src/layers/MqttClient.ts"
import { Subscriber } from "../../../src/layers/delivery/Subscriber.ts"
import type { BufferOptions } from "../../../src/layers/delivery/Delivery.ts"
import * as Message from "../../../src/services/Message.ts"
import { collect, stepwise } from "../../support/Consumer.ts"
import { expectWords, inWords, message, open, run, send, start } from "../../support/ScriptedBroker.ts"
import type { Peer } from "../../support/ScriptedBroker.ts"
import { poll } from "../../support/Sockets.ts"
import * as Subscriptions from "../../support/Subscriptions.ts"

/** A granted subscription to `a`, by default with the highest QoS. */
const subscribed = (
  client: MqttClient.MqttClientService,
  peer: Peer,
  options: MqttClient.SubscribeOptions = { qos: 2 }
) => Subscriptions.subscribed(client, peer, 5, "a", options)

const sent = (peer: Peer) => Subscriptions.sent(peer, 5)

/** Messages at QoS 0 whose payloads are these numbers. */
const numbered = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, index) => message("a", 0, { payload: `${from + index}` }))

const text = (from: number, to: number) => numbered(from, to).map(({ payload }) => payload as string)

/** A bare subscriber that notes what it tells its surroundings. */
const bare = (options: Partial<BufferOptions> = {}) => {
  const dropped: Array<string> = []
  const settled: Array<number> = []
  const givenBack: Array<number> = []
  const buffered: Array<Subscriber> = []
  const subscriber: Subscriber = new Subscriber({ capacity: 4, bytes: 1000, overflow: "sliding", ...options }, {
    settle: (receipt) => settled.push(receipt.packetId),
    settleAll: (deliveries) => {
      for (const { receipt } of deliveries) if (receipt !== undefined) settled.push(receipt.packetId)
    },
    settleRun: ({ acks }) => {
      for (const ack of acks) settled.push(ack & 0xffff)
    },
    settleAs: (receipt) => {
      settled.push(receipt.packetId)
      return { _tag: "Acked" }
    },
    giveBack: (receipt) => givenBack.push(receipt.packetId),
    onDrop: (message) => dropped.push(Message.text(message)),
    onBuffered: (subscriber) => buffered.push(subscriber),
    onReady: () => subscriber.wake(),
    onLagging: () => {},
    onHolding: () => {},
    now: () => 0
  })
  subscriber.attach()
  return { subscriber, dropped, settled, givenBack, buffered }
}

const messageOf = (payload: string, qos: 0 | 1 | 2 = 0): Message.Message => ({
  topic: "a",
  payload: new TextEncoder().encode(payload),
  qos,
  retain: false,
  duplicate: false
})

const receiptOf = (
  packetId: number,
  qos: 1 | 2,
  { generation = 1, message = messageOf(`${packetId}`, qos) }: Partial<Pick<Receipt, "generation" | "message">> = {}
): Receipt => {
  const receipt = new NewReceipt(packetId, qos, message, 0, generation, packetId, false)
  receipt.pending = 1
  return receipt
}

const texts = (subscriber: Subscriber) => Effect.map(subscriber.pull, (batch) => batch.map(Message.text))

describe("Subscriber", () => {
  it.live("misses no message, and no end, that comes while the consumer has yielded between its look and its wait", () =>
    Effect.gen(function*() {
      for (const steps of [3, 4, 5]) {
        const { subscriber } = bare()
        const seen: Array<string> = []
        const consumer = yield* Effect.forkScoped(
          Effect.forever(Effect.map(texts(subscriber), (batch) => seen.push(...batch))).pipe(
            Effect.provideService(References.MaxOpsBeforeYield, steps)
          )
        )
        // The moment at which a message comes moves through the turns of the consumer.
        for (let count = 1; count <= 100; count++) {
          yield* poll(1 + count % 10)
          subscriber.deliver(messageOf(`${count}`), undefined)
          yield* poll(50)
          assert.strictEqual(seen.length, count, `with a yield after every ${steps} steps`)
        }
        subscriber.close()
        yield* Fiber.await(consumer)
      }
    }))

  describe("detachPayloads", () => {
    const chunkBytes = 65_536

    /** A message whose payload is a small part of a chunk. */
    const inChunk = (payload: string, qos: 0 | 1 | 2 = 0): Message.Message => {
      const message = messageOf(payload, qos)
      const chunk = new Uint8Array(chunkBytes)
      chunk.set(message.payload, 100)
      return { ...message, payload: chunk.subarray(100, 100 + message.payload.length) }
    }
    const isAttached = ({ payload }: Message.Message) => payload.buffer.byteLength === chunkBytes

    it("lets go of the chunks in which what waits came, and leaves what was handed over", () => {
      for (const qos of [0, 1] as const) {
        const { buffered, subscriber } = bare({ capacity: 100 })
        const deliver = (...names: ReadonlyArray<string>) => {
          const messages = names.map((name) => inChunk(name, qos))
          for (const [index, message] of messages.entries()) {
            subscriber.deliver(message, qos === 0 ? undefined : receiptOf(index + 1, 1, { message }))
          }
          return messages
        }
        const [first] = deliver("1")
        const { payload } = first!
        assert.deepStrictEqual(Effect.runSync(texts(subscriber)), ["1"])
        const waiting = deliver("2", "3", "4")
        // It is asked for once, however many came.
        assert.deepStrictEqual(buffered, [subscriber])
        subscriber.detachPayloads()
        assert.strictEqual(first!.payload, payload)
        assert.deepStrictEqual(waiting.map(isAttached), [false, false, false])
        const later = deliver("5", "6")
        assert.strictEqual(buffered.length, 2)
        subscriber.detachPayloads()
        assert.deepStrictEqual(later.map(isAttached), [false, false])
        assert.deepStrictEqual(Effect.runSync(texts(subscriber)), ["2", "3"])
        assert.deepStrictEqual(Effect.runSync(texts(subscriber)), ["4", "5", "6"])
      }
    })

    it("looks only at what has come since", () => {
      const { subscriber } = bare({ capacity: 100 })
      const old = inChunk("1")
      subscriber.deliver(old, undefined)
      subscriber.detachPayloads()
      const { payload } = old // As if it had not been let go of: a second look at all that waits would be quadratic.
      ;(old as { payload: Uint8Array }).payload = inChunk("1").payload
      const fresh = inChunk("2")
      subscriber.deliver(fresh, undefined)
      subscriber.detachPayloads()
      assert.deepStrictEqual([isAttached(old), isAttached(fresh)], [true, false])
      assert.deepStrictEqual([...old.payload], [...payload])
    })

    it("does so also where older ones are dropped, or given up, for newer ones", () => {
      const { dropped, subscriber } = bare({ capacity: 3 })
      const messages = ["1", "2", "3", "4", "5"].map((name) => inChunk(name))
      for (const message of messages) subscriber.deliver(message, undefined)
      subscriber.detachPayloads()
      assert.deepStrictEqual(dropped, ["1", "2"])
      assert.deepStrictEqual(messages.slice(2).map(isAttached), [false, false, false])
      const revoked = receiptOf(1, 1)
      const receipts = bare({ capacity: 3 })
      receipts.subscriber.deliver(revoked.message, revoked)
      revoked.revoked = true
      const again = receiptOf(1, 1, { message: inChunk("1", 1), generation: 2 })
      receipts.subscriber.deliver(again.message, again)
      receipts.subscriber.detachPayloads()
      assert.isFalse(isAttached(again.message))
    })

    it("does so also with what the store has no room for", () => {
      const { subscriber } = bare()
      subscriber.limit({
        count: 100,
        bytes: 1000,
        slowAfter: Infinity,
        aside: {
          unread: 1,
          precedes: () => false,
          put: () => 0,
          takeUp: () => {},
          release: () => {},
          read: () => Effect.void
        }
      })
      const messages = ["1", "2"].map((name) => inChunk(name, 1))
      for (const [index, message] of messages.entries()) {
        subscriber.deliver(message, receiptOf(index + 1, 1, { message }))
      }
      assert.strictEqual(subscriber.size, 2)
      subscriber.detachPayloads()
      assert.deepStrictEqual(messages.map(isAttached), [false, false])
    })
  })

  describe("QoS 0 beyond the buffer", () => {
    for (
      const [overflow, by, options, expected] of [
        ["sliding", "count", { bufferSize: 3 }, ["3", "4", "5"]],
        ["dropping", "count", { bufferSize: 3 }, ["1", "2", "3"]],
        ["sliding", "bytes", { bufferBytes: 3 }, ["3", "4", "5"]],
        ["dropping", "bytes", { bufferBytes: 3 }, ["1", "2", "3"]]
      ] as const
    ) {
      it.effect(`law 14: "${overflow}" bounds by ${by}, and counts what it drops`, () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open()
          const { dropped, messages } = yield* subscribed(client, peer, { overflow, ...options })
          yield* send(peer, 5, ...numbered(1, 5))
          yield* sent(peer)
          assert.strictEqual(yield* dropped, 2)
          assert.strictEqual((yield* client.stats).dropped, 2)
          const { seen } = yield* collect(messages)
          assert.deepStrictEqual(seen, [...expected])
          // Room is back with the consumer.
          yield* send(peer, 5, ...numbered(6, 7))
          yield* sent(peer)
          assert.deepStrictEqual(seen, [...expected, "6", "7"])
          assert.strictEqual(yield* dropped, 2)
        })))
    }

    it.effect("law 14: \"fail\" ends the stream with SubscriptionOverflow behind what is buffered", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const { dropped, messages } = yield* subscribed(client, peer, { overflow: "fail", bufferSize: 2, qos: 1 })
        yield* send(peer, 5, message("a", 1, { payload: "first" }), ...numbered(1, 4))
        yield* sent(peer)
        assert.strictEqual(yield* dropped, 1)
        const { fiber, seen } = yield* collect(messages)
        const exit = yield* Fiber.await(fiber)
        assert.deepStrictEqual(seen, ["first", "1", "2"])
        const error = Exit.isFailure(exit) ? Cause.findErrorOption(exit.cause) : undefined
        assert.deepInclude(error, { _tag: "Some" })
        assert.strictEqual(error?._tag === "Some" && error.value.reason._tag, "SubscriptionOverflow")
        assert.deepStrictEqual(yield* sent(peer), ["puback 1"])
      })))

    it.effect("a QoS 1 message behind the overflow is not lost, nor is it a loop", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const { messages } = yield* subscribed(client, peer, { overflow: "fail", bufferSize: 1, qos: 1 })
        yield* send(peer, 5, ...numbered(1, 2), message("a", 1, { payload: "late" }))
        assert.deepStrictEqual(yield* sent(peer), [])
        assert.strictEqual((yield* client.stats).unclaimed, 1)
        const { fiber } = yield* collect(messages)
        assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
        const other = yield* collect((yield* subscribed(client, peer)).messages)
        assert.deepStrictEqual(yield* sent(peer), ["puback 1"])
        assert.deepStrictEqual(other.seen, ["late"])
      })))

    it.effect("a waiting consumer is told of the failure", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const failing = yield* start(Effect.flip(
          client.subscribe("a", { overflow: "fail", bufferSize: 1 }).pipe(
            Stream.runForEach(() => Effect.yieldNow)
          )
        ))
        yield* expectWords(peer, 5, "subscribe 1 a:0")
        yield* send(peer, 5, { cmd: "suback", messageId: 1, granted: [0] })
        yield* sent(peer)
        yield* send(peer, 5, ...numbered(1, 3))
        assert.strictEqual((yield* Fiber.join(failing)).reason._tag, "SubscriptionOverflow")
        yield* expectWords(peer, 5, "unsubscribe 2 a")
      })))

    it.effect("a message that is larger than the whole buffer is handed over where there is nothing else", () =>
      Effect.gen(function*() {
        const { dropped, subscriber } = bare({ bytes: 3 })
        subscriber.deliver(messageOf("large"), undefined)
        subscriber.deliver(messageOf("x"), undefined)
        assert.deepStrictEqual(dropped, ["large"])
        assert.deepStrictEqual(yield* texts(subscriber), ["x"])
      }))

    it.effect("law 14: sliding does not let the buffer grow, with a QoS 1 message at its head or without", () =>
      Effect.sync(() => {
        for (const receipt of [undefined, receiptOf(1, 1)]) {
          const { subscriber } = bare()
          if (receipt !== undefined) subscriber.deliver(receipt.message, receipt)
          for (let index = 0; index < 20_000; index++) subscriber.deliver(messageOf(""), undefined)
          assert.strictEqual(subscriber.dropped, 19_996)
          assert.strictEqual(subscriber.size, receipt === undefined ? 4 : 5)
        }
      }))

    it.effect("does not count QoS 1 and 2 messages, and does not drop them", () =>
      Effect.gen(function*() {
        const { dropped, subscriber } = bare({ capacity: 1 })
        for (const id of [1, 2, 3]) subscriber.deliver(messageOf(`${id}`, 1), receiptOf(id, 1))
        subscriber.deliver(messageOf("a"), undefined)
        subscriber.deliver(messageOf("b"), undefined)
        assert.deepStrictEqual(dropped, ["a"])
        const all = [...yield* texts(subscriber), ...yield* texts(subscriber), ...yield* texts(subscriber)]
        assert.deepStrictEqual(all, ["1", "2", "3", "b"])
      }))
  })

  describe("a consumer", () => {
    it.effect("OR-07: gets 1,000 messages of one segment in their order", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const { messages } = yield* subscribed(client, peer)
        const { seen } = yield* collect(messages)
        yield* send(peer, 5, ...numbered(1, 1000))
        yield* sent(peer)
        assert.deepStrictEqual(seen, text(1, 1000))
      })))

    it.effect("OR-07: gets them in their order with every QoS mixed and any chunking", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({}, { chunkBytes: 7 })
        const { messages } = yield* subscribed(client, peer)
        const { seen } = yield* collect(messages)
        const mixed = Array.from(
          { length: 200 },
          (_, index) => message("a", index % 3 === 0 ? 0 : index, { payload: `${index}`, qos: index % 3 as 0 | 1 | 2 })
        )
        yield* send(peer, 5, ...mixed)
        const acks = yield* sent(peer)
        assert.deepStrictEqual(seen, mixed.map(({ payload }) => payload))
        assert.deepStrictEqual(
          acks.filter((ack) => ack.startsWith("puback")),
          mixed.filter(({ qos }) => qos === 1).map(({ messageId }) => `puback ${messageId}`)
        )
        assert.deepStrictEqual(
          acks.filter((ack) => ack.startsWith("pubrec")),
          mixed.filter(({ qos }) => qos === 2).map(({ messageId }) => `pubrec ${messageId}`)
        )
      })))

    it.effect("law 2: that stalls for an hour holds up neither acknowledgements nor pings nor others", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ keepAlive: "1 minute" })
        const { dropped, messages } = yield* subscribed(client, peer, { qos: 1, bufferSize: 10 })
        const stalled = yield* stepwise(messages)
        yield* send(peer, 5, message("a", 1, { payload: "first" }), ...numbered(1, 1000))
        assert.strictEqual(yield* stalled.take, "first")
        for (let minute = 0; minute < 60; minute++) {
          yield* TestClock.adjust("1 minute")
          yield* expectWords(peer, 5, "pingreq")
          yield* send(peer, 5, { cmd: "pingresp" })
        }
        const publish = yield* start(client.publish({ topic: "p", qos: 1 }))
        const [, id] = inWords(yield* peer.readFrame, 5).split(" ")
        yield* send(peer, 5, { cmd: "puback", messageId: Number(id) })
        yield* Fiber.join(publish)
        const other = yield* start(client.subscription("b"))
        const [, next] = inWords(yield* peer.readFrame, 5).split(" ")
        yield* send(peer, 5, { cmd: "suback", messageId: Number(next), granted: [0] })
        yield* Fiber.join(other)
        assert.strictEqual(yield* dropped, 990)
        yield* stalled.goOn
        assert.strictEqual(yield* stalled.take, "991")
        assert.deepStrictEqual(yield* sent(peer), ["puback 1"])
      })))

    it.effect("that takes one gets one, and those behind it stay for the next run", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const { messages } = yield* subscribed(client, peer)
        yield* send(
          peer,
          5,
          message("a", 1, { payload: "1" }),
          message("a", 0, { payload: "2" }),
          message("a", 3, { payload: "3" }),
          message("a", 4, { payload: "4", qos: 2 }),
          message("a", 0, { payload: "5" })
        )
        const takeOne = messages.pipe(Stream.map(Message.text), Stream.take(1), Stream.runCollect)
        for (
          const [payload, acks] of [
            ["1", ["puback 1"]],
            ["2", []],
            ["3", ["puback 3"]],
            ["4", ["pubrec 4"]],
            ["5", []]
          ] as const
        ) {
          assert.deepStrictEqual(yield* takeOne, [payload])
          assert.deepStrictEqual(yield* sent(peer), [...acks])
        }
      })))

    it.effect("that takes one does not have the whole session acknowledged", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ receiveMaximum: 10 })
        const { messages } = yield* subscribed(client, peer)
        yield* send(peer, 5, ...Array.from({ length: 10 }, (_, index) => message("a", index + 1)))
        yield* Stream.runHead(messages)
        assert.deepStrictEqual(yield* sent(peer), ["puback 1"])
        yield* TestClock.adjust("1 minute")
        assert.strictEqual((yield* client.stats).unacknowledged, 9)
      })))

    it.effect("law 4: that is interrupted, or fails, leaves its QoS 1 and 2 messages for the next run", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const { messages } = yield* subscribed(client, peer)
        yield* send(
          peer,
          5,
          message("a", 1, { payload: "1" }),
          message("a", 2, { payload: "2", qos: 2 }),
          message("a", 3, { payload: "3" })
        )
        const first = yield* stepwise(messages)
        assert.strictEqual(yield* first.take, "1")
        yield* Fiber.interrupt(first.fiber)
        const second = yield* Effect.exit(Stream.runForEach(messages, () => Effect.fail("no")))
        assert.isTrue(Exit.isFailure(second))
        assert.deepStrictEqual(yield* sent(peer), [])
        const third = yield* stepwise(messages)
        assert.strictEqual(yield* third.take, "1")
        yield* third.goOn
        assert.strictEqual(yield* third.take, "2")
        assert.deepStrictEqual(yield* sent(peer), ["puback 1"])
        yield* Fiber.interrupt(third.fiber)
        const { seen } = yield* collect(messages)
        assert.deepStrictEqual(yield* sent(peer), ["pubrec 2", "puback 3"])
        assert.deepStrictEqual(seen, ["2", "3"])
      })))

    it.effect("law 14: keeps no copy of what the server sends again on a new connection", () =>
      Effect.gen(function*() {
        const { givenBack, settled, subscriber } = bare()
        for (let generation = 1; generation < 100; generation++) {
          for (const id of [1, 2, 3]) {
            const receipt = receiptOf(id, 1, { generation })
            subscriber.deliver(receipt.message, receipt)
            // The link is lost.
            if (generation < 99) receipt.revoked = true
          }
          assert.strictEqual(subscriber.size, 3)
        }
        assert.deepStrictEqual(yield* texts(subscriber), ["1"])
        assert.deepStrictEqual([settled, givenBack], [[], []])
      }))

    it.effect("cannot share its stream with another one", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const { messages } = yield* subscribed(client, peer)
        const { seen } = yield* collect(messages)
        const second = yield* Effect.exit(Stream.runDrain(messages))
        assert.isTrue(Exit.isFailure(second) && Cause.hasDies(second.cause))
        yield* send(peer, 5, ...numbered(1, 1))
        yield* sent(peer)
        assert.deepStrictEqual(seen, ["1"])
      })))

    it.effect("sees the end of its subscription's scope as the end of the stream", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const { leave, messages } = yield* subscribed(client, peer)
        const waiting = yield* collect(messages)
        yield* leave
        yield* Fiber.join(waiting.fiber)
        yield* Stream.runDrain(messages)
        assert.deepStrictEqual(yield* sent(peer), ["unsubscribe 2 a"])
      })))

    it.effect("two subscribers of one filter have buffers of their own", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const small = yield* subscribed(client, peer, { bufferSize: 2 })
        const large = yield* client.subscription("a")
        yield* send(peer, 5, ...numbered(1, 5))
        yield* sent(peer)
        const first = yield* collect(small.messages)
        const second = yield* collect(large.messages)
        assert.deepStrictEqual([first.seen, second.seen], [text(4, 5), text(1, 5)])
        assert.deepStrictEqual([yield* small.dropped, yield* large.dropped], [3, 0])
      })))
  })

  describe("pull", () => {
    it.effect("begins with one message and gives more from batch to batch; a QoS 2 message comes alone", () =>
      Effect.gen(function*() {
        const { settled, subscriber } = bare({ capacity: 100 })
        for (let index = 1; index <= 8; index++) subscriber.deliver(messageOf(`${index}`), undefined)
        const second = receiptOf(9, 2)
        subscriber.deliver(second.message, second)
        for (const id of [10, 11]) {
          const first = receiptOf(id, 1)
          subscriber.deliver(first.message, first)
        }
        assert.deepStrictEqual(yield* texts(subscriber), ["1"])
        assert.deepStrictEqual(yield* texts(subscriber), ["2", "3"])
        assert.deepStrictEqual(yield* texts(subscriber), ["4", "5", "6", "7"])
        assert.deepStrictEqual(yield* texts(subscriber), ["8"])
        assert.deepStrictEqual(yield* texts(subscriber), ["9"])
        assert.deepStrictEqual(settled, [])
        assert.deepStrictEqual(yield* texts(subscriber), ["10", "11"])
        assert.deepStrictEqual(settled, [9])
        const waiting = yield* start(subscriber.pull)
        assert.deepStrictEqual(settled, [9, 10, 11])
        subscriber.deliver(messageOf("12"), undefined)
        assert.deepStrictEqual((yield* Fiber.join(waiting)).map(Message.text), ["12"])
      }))

    it.effect("skips what the server will send again", () =>
      Effect.gen(function*() {
        const { subscriber } = bare()
        const receipts = [receiptOf(1, 1), receiptOf(2, 1), receiptOf(3, 1)]
        for (const receipt of receipts) subscriber.deliver(receipt.message, receipt)
        receipts[0]!.revoked = true
        receipts[1]!.revoked = true
        assert.deepStrictEqual(yield* texts(subscriber), ["3"])
      }))

    it.effect("an interrupted one takes nothing with it", () =>
      Effect.gen(function*() {
        const { givenBack, subscriber } = bare()
        const waiting = yield* start(subscriber.pull)
        yield* Fiber.interrupt(waiting)
        const receipt = receiptOf(1, 1)
        subscriber.deliver(receipt.message, receipt)
        assert.deepStrictEqual(yield* texts(subscriber), ["1"])
        subscriber.close()
        assert.deepStrictEqual(givenBack, [1])
      }))

    it.effect("close gives back what was handed over and what was not, and but for what comes again", () =>
      Effect.gen(function*() {
        const { givenBack, subscriber } = bare()
        const receipts = [receiptOf(1, 1), receiptOf(2, 1), receiptOf(3, 2)]
        for (const receipt of receipts) subscriber.deliver(receipt.message, receipt)
        receipts[1]!.revoked = true
        assert.deepStrictEqual(yield* texts(subscriber), ["1"])
        subscriber.close()
        assert.deepStrictEqual(givenBack, [1, 3])
        const late = receiptOf(4, 1)
        subscriber.deliver(late.message, late)
        assert.deepStrictEqual(givenBack, [1, 3, 4])
        assert.strictEqual(subscriber.size, 0)
      }))
  })
})
