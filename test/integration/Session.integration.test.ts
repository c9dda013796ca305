import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Queue, Stream } from "effect"
import { text } from "../../src/services/Message.ts"
import { describeBrokersAndVersions } from "./support/Brokers.ts"
import * as ChaosProxy from "./support/ChaosProxy.ts"
import * as Client from "./support/Client.ts"
import * as MqttJs from "./support/MqttJs.ts"

const backlog = Array.from({ length: 20 }, (_, i) => `backlog ${i}`)

describeBrokersAndVersions("the session", (kind, protocolVersion) => {
  const setup = Effect.gen(function*() {
    const broker = yield* kind.make()
    const proxy = yield* ChaosProxy.make({ port: broker.port })
    const other = yield* MqttJs.connect(broker.url, { protocolVersion })
    const publishBacklog = (qos: 1 | 2) =>
      Effect.forEach(backlog, (payload) => other.publish("s/t", payload, { qos }), { discard: true })
    return { broker, proxy, other, publishBacklog }
  })
  const persistent = { protocolVersion, sessionExpiry: "1 hour", cleanStart: true } as const

  for (const qos of [1, 2] as const) {
    it.live(`is resumed after a reset: what was sent at QoS ${qos} in the meantime arrives, in order`, () =>
      Effect.gen(function*() {
        const { other, proxy, publishBacklog } = yield* setup
        const client = yield* Client.make({ ...persistent, endpoint: proxy.url, clientId: "subscriber" })
        const inbox = yield* Client.subscribe(client, "s/#", { qos })
        yield* other.publish("s/t", "before", { qos })
        assert.strictEqual(text(yield* Queue.take(inbox)), "before")

        const lost = yield* Effect.forkChild(Client.awaitStatus(client, "Reconnecting"), { startImmediately: true })
        yield* proxy.refuse
        yield* proxy.resetAll
        const { cause } = yield* Fiber.join(lost)
        assert.strictEqual(cause._tag, "TransportLost")
        yield* publishBacklog(qos)
        yield* proxy.accept

        const negotiated = yield* client.awaitConnected
        assert.isTrue(negotiated.sessionPresent)
        // The acknowledgement of the first message may have been lost with the link.
        const first = yield* Queue.take(inbox)
        const again = text(first) === "before"
        if (again) assert.strictEqual(qos, 1)
        const rest = yield* Effect.forEach(again ? backlog : backlog.slice(1), () => Queue.take(inbox))
        assert.deepStrictEqual((again ? rest : [first, ...rest]).map(text), backlog)
        yield* other.publish("s/t", "after", { qos })
        assert.strictEqual(text(yield* Queue.take(inbox)), "after")
      }))
  }

  it.live("takes along publishes that were waiting for their answer when the link was reset", () =>
    Effect.gen(function*() {
      const { other, proxy } = yield* setup
      const client = yield* Client.make({ ...persistent, endpoint: proxy.url, clientId: "publisher" })
      yield* other.subscribe("answers/#", 2)
      // aedes knows a session by its subscriptions alone.
      yield* Client.subscribe(client, "keep/session", { qos: 1 })
      yield* proxy.blackHole("down")
      const publishes = yield* Effect.forkChild(
        Effect.forEach([1, 2] as const, (qos) => client.publish({ topic: `answers/${qos}`, payload: "once", qos }), {
          concurrency: "unbounded"
        }),
        { startImmediately: true }
      )
      // The server has the message of QoS 1, and its answer is swallowed.
      assert.strictEqual((yield* other.take).topic, "answers/1")
      yield* proxy.heal
      const results = yield* Fiber.join(publishes)
      assert.deepStrictEqual(results.map((result) => result.qos), [1, 2])
      yield* other.publish("answers/end", "", { qos: 2 })
      const topics: Array<string> = []
      for (let topic = ""; topic !== "answers/end"; topics.push(topic)) topic = (yield* other.take).topic
      assert.deepStrictEqual(topics.filter((topic) => topic === "answers/2"), ["answers/2"])
      assert.strictEqual((yield* client.stats).packetIds, 0)
    }))

  it.live("that ends with the link is renewed: subscriptions are made again before anything else", () =>
    Effect.gen(function*() {
      const { other, proxy } = yield* setup
      const client = yield* Client.make({ protocolVersion, endpoint: proxy.url })
      const inbox = yield* Client.subscribe(client, ["s/a", "s/b"], { qos: 1 })
      const lost = yield* Effect.forkChild(Client.awaitStatus(client, "Reconnecting"), { startImmediately: true })
      yield* proxy.resetAll
      yield* Fiber.join(lost)
      // Goes out behind the renewed subscription, so that the client hears itself.
      yield* client.publish({ topic: "s/a", payload: "own", qos: 1 })
      assert.strictEqual(text(yield* Queue.take(inbox)), "own")
      yield* other.publish("s/b", "other's", { qos: 1 })
      assert.strictEqual(text(yield* Queue.take(inbox)), "other's")
    }))

  it.live("of a durable subscription outlives the client: the next one takes the backlog", () =>
    Effect.gen(function*() {
      const { broker, publishBacklog } = yield* setup
      const options = {
        ...persistent,
        endpoint: broker.url,
        clientId: "service",
        subscriptions: [{ filter: "s/#", qos: 1 }]
      } as const
      yield* Effect.scoped(Effect.gen(function*() {
        const client = yield* Client.make(options)
        const inbox = yield* Client.collect(client.durable("s/#"))
        // Behind the subscription, since nothing goes out before it.
        yield* client.publish({ topic: "s/t", payload: "first life", qos: 1 })
        assert.strictEqual(text(yield* Queue.take(inbox)), "first life")
      }))
      yield* publishBacklog(1)
      const client = yield* Client.make({ ...options, cleanStart: false })
      assert.isTrue((yield* client.awaitConnected).sessionPresent)
      const received = yield* client.durable("s/#").pipe(
        Stream.map(text),
        // What its first life had taken and not come back from may come again, before the rest (law 4).
        Stream.filter((payload) => payload !== "first life"),
        Stream.take(backlog.length),
        Stream.runCollect
      )
      assert.deepStrictEqual(received, backlog)
    }))

  it.live("is found again after a restart of the broker", () =>
    Effect.gen(function*() {
      const { broker } = yield* setup
      // Mosquitto 2.0.11 does not save sessions that began with a clean start.
      const client = yield* Client.make({
        ...persistent,
        cleanStart: false,
        endpoint: broker.url,
        clientId: "survivor"
      })
      const inbox = yield* Client.subscribe(client, "s/#", { qos: 1 })
      const lost = yield* Effect.forkChild(Client.awaitStatus(client, "Reconnecting"), { startImmediately: true })
      yield* broker.stop
      yield* Fiber.join(lost)
      const publish = yield* Effect.forkChild(client.publish({ topic: "s/t", payload: "queued", qos: 2 }), {
        startImmediately: true
      })
      yield* broker.start
      assert.isTrue((yield* client.awaitConnected).sessionPresent)
      yield* Fiber.join(publish)
      assert.strictEqual(text(yield* Queue.take(inbox)), "queued")
    }))
})
