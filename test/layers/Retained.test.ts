import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { MqttClient, TestBroker } from "../../src/testing/index.ts"
import { collect } from "../support/Consumer.ts"
import {
  accepted,
  awaitStatus,
  expectPackets,
  expectWords,
  handshake,
  message,
  open,
  resumed,
  run,
  send
} from "../support/ScriptedBroker.ts"
import { drop, persistent, sent, suback, subscribed, subscribing } from "../support/Subscriptions.ts"

const { MqttClient: Client } = MqttClient
const { TestBroker: Broker } = TestBroker

const retained = (topic: string, id = 0, payload = topic) => message(topic, id, { retain: true, payload })

const versions = [4, 5] as const

describe("retained messages", () => {
  for (const protocolVersion of versions) {
    const version = protocolVersion

    describe(`on MQTT ${version === 4 ? "3.1.1" : "5.0"}`, () => {
      it.effect("SB-18: each subscriber of a filter gets them once, however many come later", () =>
        Effect.gen(function*() {
          const client = yield* Client
          const broker = yield* Broker
          for (const topic of ["r/1", "r/2"]) yield* broker.publish({ topic, payload: topic, retain: true, qos: 1 })
          const streams = []
          for (let n = 0; n < 4; n++) {
            const { messages } = yield* client.subscription("r/+", { qos: 1 })
            streams.push(yield* collect(messages))
            yield* broker.settle
          }
          yield* broker.publish({ topic: "r/1", payload: "live" })
          yield* broker.settle
          for (const { seen } of streams) assert.deepStrictEqual(seen, ["r/1", "r/2", "live"])
          assert.strictEqual((yield* client.stats).dropped, 0)
          assert.strictEqual((yield* client.stats).unacknowledged, 0)
        }).pipe(Effect.scoped, Effect.provide(MqttClient.layerTest({ protocolVersion }))))

      it.effect("a copy that the first SUBSCRIBE brings late is for the first subscriber", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion })
          const first = yield* collect((yield* subscribed(client, peer, version, "r/+", { qos: 1 })).messages)
          yield* send(peer, version, retained("r/1", 1))
          yield* expectWords(peer, version, "puback 1")
          const { fiber } = yield* subscribing(client, "r/+", { qos: 1 })
          const second = yield* collect((yield* Fiber.join(fiber)).messages)
          yield* expectWords(peer, version, "subscribe 2 r/+:1")
          yield* send(peer, version, retained("r/2", 2), retained("r/1", 3), suback(2, 1), retained("r/2", 4))
          assert.deepStrictEqual(yield* sent(peer, version), ["puback 2", "puback 3", "puback 4"])
          assert.deepStrictEqual(first.seen, ["r/1", "r/2"])
          // It may see one twice, and misses none.
          assert.deepStrictEqual(second.seen, ["r/2", "r/1", "r/2"])
        })))

      it.effect("who joins while the answer is awaited has them asked for once more", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion })
          const one = yield* subscribing(client, "r", { qos: 0 })
          yield* expectWords(peer, version, "subscribe 1 r:0")
          const two = yield* subscribing(client, "r", { qos: 0 })
          yield* send(peer, version, suback(1, 0), retained("r"))
          const first = yield* collect((yield* Fiber.join(one.fiber)).messages)
          const second = yield* collect((yield* Fiber.join(two.fiber)).messages)
          yield* expectWords(peer, version, "subscribe 2 r:0")
          yield* send(peer, version, suback(2, 0), retained("r"), message("r", 0, { payload: "live" }))
          yield* sent(peer, version)
          assert.deepStrictEqual([first.seen, second.seen], [["r", "live"], ["r", "live"]])
        })))

      it.effect("after a lost session all get them again; in one that is kept, who asked in vain does", () =>
        run(Effect.gen(function*() {
          const server = yield* open({ protocolVersion, ...persistent })
          const { client, peer } = server
          const first = yield* collect((yield* subscribed(client, peer, version, "r", { qos: 0 })).messages)
          yield* send(peer, version, retained("r", 0, "1"))
          while (first.seen.length === 0) yield* Effect.yieldNow
          const two = yield* subscribing(client, "r")
          const second = yield* collect((yield* Fiber.join(two.fiber)).messages)
          yield* expectWords(peer, version, "subscribe 2 r:0")
          const kept = yield* drop(server, resumed[version])
          yield* expectWords(kept, version, "subscribe 3 r:0")
          yield* send(kept, version, suback(3, 0), retained("r", 0, "2"))
          yield* sent(kept, version)
          assert.deepStrictEqual([first.seen, second.seen], [["1"], ["2"]])
          const lost = yield* drop({ ...server, peer: kept }, accepted[version])
          yield* expectWords(lost, version, "subscribe 4 r:0")
          yield* send(lost, version, suback(4, 0), retained("r", 0, "3"))
          yield* sent(lost, version)
          assert.deepStrictEqual([first.seen, second.seen], [["1", "3"], ["2", "3"]])
          yield* subscribing(client, "r")
          yield* expectWords(lost, version, "subscribe 5 r:0")
          yield* send(lost, version, suback(5, 0), retained("r", 0, "4"))
          yield* sent(lost, version)
          assert.deepStrictEqual([first.seen, second.seen], [["1", "3"], ["2", "3"]])
        })))

      it.effect("who joins while there is no link gets them with the next", () =>
        run(Effect.gen(function*() {
          const { client, listener, peer } = yield* open({ protocolVersion, ...persistent })
          const first = yield* collect((yield* subscribed(client, peer, version, "r")).messages)
          yield* send(peer, version, retained("r"))
          yield* peer.reset
          yield* awaitStatus(client, "Reconnecting")
          const { fiber } = yield* subscribing(client, "r")
          yield* TestClock.adjust("1 second")
          const next = yield* handshake(listener, resumed[version])
          yield* expectWords(next, version, "subscribe 2 r:0")
          yield* send(next, version, suback(2, 0), retained("r"))
          const second = yield* collect((yield* Fiber.join(fiber)).messages)
          yield* sent(next, version)
          assert.deepStrictEqual([first.seen, second.seen], [["r"], ["r"]])
        })))

      it.effect("who leaves before they come leaves those of the others alone", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion })
          const first = yield* collect((yield* subscribed(client, peer, version, "r", { qos: 1 })).messages)
          yield* send(peer, version, retained("r", 1))
          yield* expectWords(peer, version, "puback 1")
          const second = yield* subscribing(client, "r", { qos: 1 })
          yield* expectWords(peer, version, "subscribe 2 r:1")
          yield* second.leave
          yield* send(peer, version, suback(2, 1), retained("r", 2), message("r", 3, { payload: "live" }))
          assert.deepStrictEqual(yield* sent(peer, version), ["puback 2", "puback 3"])
          assert.deepStrictEqual(first.seen, ["r", "live"])
          assert.strictEqual((yield* client.stats).unclaimed, 0)
        })))

      it.effect("QF-05: a copy that is repeated after a lost link still reaches the one it was for", () =>
        run(Effect.gen(function*() {
          const server = yield* open({ protocolVersion, ...persistent })
          const { client, peer } = server
          const one = yield* subscribed(client, peer, version, "r", { qos: 1 })
          yield* send(peer, version, retained("r", 1))
          const two = yield* subscribing(client, "r", { qos: 1 })
          const second = yield* collect((yield* Fiber.join(two.fiber)).messages)
          yield* expectWords(peer, version, "subscribe 2 r:1")
          yield* send(peer, version, suback(2, 1), retained("r", 2))
          assert.deepStrictEqual(yield* sent(peer, version), [])
          const kept = yield* drop(server, resumed[version])
          const first = yield* collect(one.messages)
          yield* send(kept, version, { ...retained("r", 1), dup: true }, { ...retained("r", 2), dup: true })
          assert.deepStrictEqual(yield* sent(kept, version), ["puback 1", "puback 2"])
          assert.include(first.seen, "r")
          assert.include(second.seen, "r")
        })))

      it.effect("a shared filter is not asked for again: it has none", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion })
          yield* subscribed(client, peer, version, "$share/g/r")
          const { fiber } = yield* subscribing(client, "$share/g/r")
          yield* Fiber.join(fiber)
          assert.deepStrictEqual(yield* sent(peer, version), [])
        })))
    })
  }

  it.effect("on 3.1.1 what a change of QoS brings again goes to nobody", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open({ protocolVersion: 4 })
      const weak = yield* collect((yield* subscribed(client, peer, 4, "r", { qos: 0 })).messages)
      yield* send(peer, 4, retained("r"))
      const strong = yield* subscribed(client, peer, 4, "r", { qos: 1 })
      yield* send(peer, 4, retained("r", 1))
      yield* strong.leave
      yield* expectWords(peer, 4, "subscribe 3 r:0")
      yield* send(peer, 4, suback(3, 0), retained("r"))
      assert.deepStrictEqual(yield* sent(peer, 4), ["puback 1"])
      assert.deepStrictEqual(weak.seen, ["r"])
      assert.strictEqual((yield* client.stats).dropped, 0)
    })))

  it.effect("on 5.0 a change of QoS asks for none", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      yield* subscribed(client, peer, 5, "r", { qos: 0 })
      const strong = yield* subscribed(client, peer, 5, "r", { qos: 1 })
      yield* strong.leave
      yield* expectPackets(peer, "82 07 00 03 00 00 01 72 20")
    })))

  for (const retainHandling of ["none", "sendIfNew"] as const) {
    it.effect(`a second subscriber with "${retainHandling}" asks for none, and gets none of a third's`, () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const first = yield* collect((yield* subscribed(client, peer, 5, "r")).messages)
        yield* send(peer, 5, retained("r"))
        const two = yield* subscribing(client, "r", { retainHandling })
        const second = yield* collect((yield* Fiber.join(two.fiber)).messages)
        assert.deepStrictEqual(yield* sent(peer, 5), [])
        const three = yield* subscribing(client, "r")
        const third = yield* collect((yield* Fiber.join(three.fiber)).messages)
        yield* expectWords(peer, 5, "subscribe 2 r:0")
        yield* send(peer, 5, suback(2, 0), retained("r"), message("r", 0, { payload: "live" }))
        yield* sent(peer, 5)
        assert.deepStrictEqual([first.seen, second.seen, third.seen], [["r", "live"], ["live"], ["r", "live"]])
      })))
  }

  it.effect("who wanted none keeps getting none when another one wants them", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      const one = yield* subscribing(client, "r", { retainHandling: "none" })
      yield* expectPackets(peer, "82 07 00 01 00 00 01 72 20")
      yield* send(peer, 5, suback(1, 0))
      const first = yield* collect((yield* Fiber.join(one.fiber)).messages)
      const two = yield* subscribing(client, "r")
      const second = yield* collect((yield* Fiber.join(two.fiber)).messages)
      yield* expectPackets(peer, "82 07 00 02 00 00 01 72 00")
      yield* send(peer, 5, suback(2, 0), retained("r"))
      yield* sent(peer, 5)
      assert.deepStrictEqual([first.seen, second.seen], [[], ["r"]])
    })))

  it.effect("where flags stay as published nothing can be told by them, and all get all", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      const options = { retainAsPublished: true }
      const first = yield* collect((yield* subscribed(client, peer, 5, "r", options)).messages)
      yield* send(peer, 5, retained("r", 0, "1"))
      yield* sent(peer, 5)
      const two = yield* subscribing(client, "r", options)
      const second = yield* collect((yield* Fiber.join(two.fiber)).messages)
      yield* expectWords(peer, 5, "subscribe 2 r:0")
      yield* send(peer, 5, suback(2, 0), retained("r", 0, "1"), retained("r", 0, "live"))
      yield* sent(peer, 5)
      assert.deepStrictEqual([first.seen, second.seen], [["1", "1", "live"], ["1", "live"]])
    })))

  it.effect("those of another filter that overlaps are for its subscriber", () =>
    Effect.gen(function*() {
      const client = yield* Client
      const broker = yield* Broker
      yield* broker.publish({ topic: "r/1", payload: "r", retain: true })
      const streams = []
      for (const filter of ["r/#", "r/+", "+/1", "r/1"]) {
        streams.push(yield* collect((yield* client.subscription(filter)).messages))
        yield* broker.settle
      }
      for (const { seen } of streams) assert.deepStrictEqual(seen, ["r"])
    }).pipe(Effect.scoped, Effect.provide(MqttClient.layerTest())))

  it.effect("law 14: past the topics that are counted a first subscriber may see some again, and nobody misses one", () =>
    Effect.gen(function*() {
      const client = yield* Client
      const broker = yield* Broker
      const topics = Array.from({ length: 17_000 }, (_, index) => `r/${index}`)
      for (const topic of topics) yield* broker.publish({ topic, payload: topic, retain: true })
      const options = { bufferSize: 50_000 }
      const first = yield* collect((yield* client.subscription("r/+", options)).messages)
      yield* broker.settle
      const second = yield* collect((yield* client.subscription("r/+", options)).messages)
      yield* broker.settle
      assert.deepStrictEqual(second.seen, topics)
      assert.deepStrictEqual(first.seen.slice(0, 17_000), topics)
      assert.strictEqual(first.seen.length, 17_000 + (17_000 - 16_384))
    }).pipe(Effect.scoped, Effect.provide(MqttClient.layerTest({}, { logLimit: 0 }))))
})
