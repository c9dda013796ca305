import { assert, it } from "@effect/vitest"
import { Effect, Queue } from "effect"
import { text } from "../../src/services/Message.ts"
import { describeBrokers, describeBrokersAndVersions } from "./support/Brokers.ts"
import * as Client from "./support/Client.ts"
import * as MqttJs from "./support/MqttJs.ts"

const levels = [0, 1, 2] as const

describeBrokersAndVersions("publish and subscribe", (kind, protocolVersion) => {
  for (const published of levels) {
    for (const subscribed of levels) {
      it.live(`delivers QoS ${published} to a subscription of QoS ${subscribed}`, () =>
        Effect.gen(function*() {
          const { url } = yield* kind.make()
          const subscriber = yield* Client.make({ endpoint: url, protocolVersion })
          const subscription = yield* subscriber.subscription("pairs/t", { qos: subscribed })
          assert.deepStrictEqual(subscription.grants, [{ filter: "pairs/t", qos: subscribed }])
          const inbox = yield* Client.collect(subscription.messages)
          const publisher = yield* Client.make({ endpoint: url, protocolVersion })
          for (let i = 0; i < 5; i++) {
            const result = yield* publisher.publish({ topic: "pairs/t", payload: `number ${i}`, qos: published })
            assert.strictEqual(result.qos, published)
            assert.strictEqual(result.reasonCode, 0)
            const message = yield* Queue.take(inbox)
            assert.strictEqual(message.topic, "pairs/t")
            assert.strictEqual(text(message), `number ${i}`)
            assert.strictEqual(message.qos, Math.min(published, subscribed))
            assert.isFalse(message.retain)
            assert.isFalse(message.duplicate)
          }
        }))
    }
  }

  it.live("understands and is understood by another client at every QoS", () =>
    Effect.gen(function*() {
      const { url } = yield* kind.make()
      const ours = yield* Client.make({ endpoint: url, protocolVersion })
      const other = yield* MqttJs.connect(url, { protocolVersion })
      const inbox = yield* Client.subscribe(ours, "to/ours/#", { qos: 2 })
      yield* other.subscribe("to/other/#", 2)
      for (const qos of levels) {
        yield* ours.publish({ topic: `to/other/${qos}`, payload: `héllo ${qos}`, qos })
        assert.deepStrictEqual(yield* other.take, {
          topic: `to/other/${qos}`,
          payload: `héllo ${qos}`,
          qos,
          retain: false
        })
        yield* other.publish(`to/ours/${qos}`, `wörld ${qos}`, { qos })
        const message = yield* Queue.take(inbox)
        assert.deepInclude(message, { topic: `to/ours/${qos}`, qos, retain: false, duplicate: false })
        assert.strictEqual(text(message), `wörld ${qos}`)
      }
    }))

  it.live("keeps the order of 1,000 publishes that are made at once (law 7)", () =>
    Effect.gen(function*() {
      const { url } = yield* kind.make()
      const client = yield* Client.make({ ...Client.underLoad, endpoint: url, protocolVersion })
      const inbox = yield* Client.subscribe(client, "order", { qos: 2 })
      for (const qos of levels) {
        yield* Effect.forEach(
          Array.from({ length: 1000 }, (_, i) => i),
          (i) => client.publish({ topic: "order", payload: String(i), qos }),
          { concurrency: "unbounded", discard: true }
        )
        const received = yield* Effect.forEach(Array.from({ length: 1000 }), () => Queue.take(inbox))
        assert.deepStrictEqual(received.map((message) => Number(text(message))), received.map((_, i) => i))
      }
    }))

  it.live("carries a megabyte, and an empty payload", () =>
    Effect.gen(function*() {
      const { url } = yield* kind.make()
      const client = yield* Client.make({ endpoint: url, protocolVersion })
      const inbox = yield* Client.subscribe(client, "size", { qos: 1 })
      const large = Uint8Array.from({ length: 1 << 20 }, (_, i) => i * 31 & 0xff)
      yield* client.publish({ topic: "size", payload: large, qos: 1 })
      assert.isTrue(Buffer.from((yield* Queue.take(inbox)).payload).equals(large))
      yield* client.publish({ topic: "size", qos: 1 })
      assert.strictEqual((yield* Queue.take(inbox)).payload.length, 0)
    }))

  it.live("keeps a retained message for later subscribers, until an empty one clears it", () =>
    Effect.gen(function*() {
      const { url } = yield* kind.make()
      const client = yield* Client.make({ endpoint: url, protocolVersion })
      yield* client.publish({ topic: "state/a", payload: "on", qos: 1, retain: true })
      yield* Effect.scoped(Effect.gen(function*() {
        const inbox = yield* Client.subscribe(client, "state/#", { qos: 1 })
        const retained = yield* Queue.take(inbox)
        assert.strictEqual(text(retained), "on")
        assert.isTrue(retained.retain)
        yield* client.publish({ topic: "state/a", payload: "off", qos: 1, retain: true })
        const live = yield* Queue.take(inbox)
        assert.strictEqual(text(live), "off")
        assert.isFalse(live.retain, "to a subscription that was there, it is not a retained message")
      }))
      yield* client.publish({ topic: "state/a", qos: 1, retain: true })
      const inbox = yield* Client.subscribe(client, "state/#", { qos: 1 })
      yield* client.publish({ topic: "state/b", payload: "marker", qos: 1 })
      assert.strictEqual((yield* Queue.take(inbox)).topic, "state/b")
    }))

  it.live("gives every subscriber of one filter every message, and unsubscribes with the last", () =>
    Effect.gen(function*() {
      const { url } = yield* kind.make()
      const client = yield* Client.make({ endpoint: url, protocolVersion })
      const witness = yield* MqttJs.connect(url, { protocolVersion })
      const first = yield* Client.subscribe(client, "shared", { qos: 1 })
      yield* Effect.scoped(Effect.gen(function*() {
        const second = yield* Client.subscribe(client, "shared", { qos: 1 })
        yield* witness.publish("shared", "to both", { qos: 1 })
        assert.strictEqual(text(yield* Queue.take(first)), "to both")
        assert.strictEqual(text(yield* Queue.take(second)), "to both")
      }))
      yield* witness.publish("shared", "to the first", { qos: 1 })
      assert.strictEqual(text(yield* Queue.take(first)), "to the first")
      assert.strictEqual(yield* Queue.size(first), 0)
    }))
})

describeBrokers("the properties of MQTT 5.0", (kind) => {
  it.live("arrive as they were sent", () =>
    Effect.gen(function*() {
      const { url } = yield* kind.make()
      const client = yield* Client.make({ endpoint: url })
      const inbox = yield* Client.subscribe(client, "p", { qos: 1 })
      yield* client.publish({
        topic: "p",
        payload: "{}",
        qos: 1,
        contentType: "application/json",
        responseTopic: "answers",
        correlationData: Uint8Array.of(1, 2, 3),
        messageExpiryInterval: 3600,
        userProperties: [["a", "1"], ["a", "2"], ["b", "3"]]
      })
      const message = yield* Queue.take(inbox)
      assert.strictEqual(message.contentType, "application/json")
      assert.strictEqual(message.responseTopic, "answers")
      assert.deepStrictEqual(Array.from(message.correlationData ?? []), [1, 2, 3])
      assert.isAtLeast(message.messageExpiryInterval ?? 0, 3590)
      assert.deepStrictEqual(message.userProperties?.filter(([name]) => name === "a"), [["a", "1"], ["a", "2"]])
      assert.strictEqual(message.payloadFormat, "utf8")
    }))

  it.live("let a subscriber leave out its own messages, and retained ones", () =>
    Effect.gen(function*() {
      const { url } = yield* kind.make()
      const client = yield* Client.make({ endpoint: url })
      const other = yield* MqttJs.connect(url, { protocolVersion: 5 })
      yield* other.publish("o", "retained", { qos: 1, retain: true })
      const inbox = yield* Client.subscribe(client, "o", { qos: 1, noLocal: true, retainHandling: "none" })
      yield* client.publish({ topic: "o", payload: "own", qos: 1 })
      yield* other.publish("o", "other's", { qos: 1 })
      assert.strictEqual(text(yield* Queue.take(inbox)), "other's")
    }))
})
