import { assert, describe, it } from "@effect/vitest"
import { Effect, Queue, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Client from "../../../src/layers/MqttClient.ts"
import * as Message from "../../../src/services/Message.ts"
import type { ClientEvent } from "../../../src/services/Status.ts"
import { TestBroker } from "../../../src/testing/index.ts"
import { collect, stepwise } from "../../support/Consumer.ts"
import {
  awaitStatus,
  expectWords,
  handshake,
  message,
  open,
  readToEnd,
  resume,
  resumed,
  run,
  send,
  start
} from "../../support/ScriptedBroker.ts"
import { drop, persistent, sent, suback, subscribed } from "../../support/Subscriptions.ts"

const second = (topic: string, id: number, rest: Parameters<typeof message>[2] = {}) =>
  message(topic, id, { qos: 2, ...rest })

/** A payload of a size, and what it counts for with the topic `a`. */
const sized = (bytes: number) => "x".repeat(bytes)
const counted = (bytes: number) => bytes + 1 + 128

for (const version of [4, 5] as const) {
  const protocolVersion = version
  const lastPackets = version === 5 ? ["e0 01 97"] : []

  describe(`Inbound (MQTT ${version === 4 ? "3.1.1" : "5.0"})`, () => {
    describe("maximumUnacknowledgedBytes", () => {
      it.effect("law 14: closes the link without acknowledgements, and connects when less than half is left", () =>
        run(Effect.gen(function*() {
          const server = yield* open({
            protocolVersion,
            ...persistent,
            keepAlive: 0,
            maximumUnacknowledgedBytes: 4 * counted(1000)
          })
          const { client, listener, peer } = server
          const consumer = yield* stepwise((yield* subscribed(client, peer, version, "a", { qos: 2 })).messages)
          // The first one counts twice as much as the others.
          const payload = (id: number) => ({ payload: `${id}`.padEnd(id === 1 ? 1000 + counted(1000) : 1000) })
          yield* send(
            peer,
            version,
            ...[1, 2].map((id) => message("a", id, payload(id))),
            second("a", 4, payload(4))
          )
          assert.deepStrictEqual(yield* sent(peer, version), [])
          assert.strictEqual((yield* client.stats).unacknowledgedBytes, 4 * counted(1000))
          yield* send(
            peer,
            version,
            message("a", 5, payload(5)),
            second("a", 6, payload(6)),
            message("a", 7, payload(7))
          )
          assert.deepStrictEqual(yield* readToEnd(peer), { packets: lastPackets, how: "fin" })
          const { cause } = yield* awaitStatus(client, "Reconnecting")
          assert.strictEqual(cause._tag, "UnacknowledgedOverflow")
          assert.isTrue(cause._tag === "UnacknowledgedOverflow" && cause.retryable)
          assert.deepInclude(cause, { bytes: 4 * counted(1000), maximumBytes: 4 * counted(1000) })
          assert.strictEqual((yield* client.stats).dropped, 0)
          // Exactly half is not less than half.
          yield* consumer.take
          yield* consumer.goOn
          assert.strictEqual(yield* consumer.take, payload(2).payload)
          assert.strictEqual((yield* client.stats).unacknowledgedBytes, 2 * counted(1000))
          yield* TestClock.adjust("1 hour")
          assert.strictEqual(listener.peers.length, 1)
          yield* consumer.goOn
          const next = yield* handshake(listener, resumed[version])
          yield* awaitStatus(client, "Connected")
          assert.strictEqual((yield* consumer.take).trim(), "4")
          yield* send(
            next,
            version,
            ...[1, 2].map((id) => message("a", id, { ...payload(id), dup: true })),
            second("a", 4, { ...payload(4), dup: true })
          )
          const acks: Array<string> = []
          for (const id of [1, 2]) {
            yield* consumer.goOn
            assert.strictEqual((yield* consumer.take).trim(), `${id}`)
            acks.push(...yield* sent(next, version))
          }
          yield* consumer.goOn
          acks.push(...yield* sent(next, version))
          // Those that were refused come as if for the first time.
          yield* send(next, version, message("a", 5, payload(5)), second("a", 6, { ...payload(6), dup: true }))
          for (const id of [5, 6]) {
            assert.strictEqual((yield* consumer.take).trim(), `${id}`)
            yield* consumer.goOn
          }
          acks.push(...yield* sent(next, version))
          assert.deepStrictEqual(acks.sort(), ["puback 1", "puback 2", "puback 5", "pubrec 4", "pubrec 6"])
        })))

      it.effect("what a consumer took of many that came at once makes room", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion, ...persistent, maximumUnacknowledgedBytes: 90_000 })
          const { messages } = yield* subscribed(client, peer, version, "a", { qos: 1 })
          const turns = yield* Queue.unbounded<void>()
          const taken: Array<number> = []
          yield* start(Stream.runForEachArray(messages, (batch) => {
            taken.push(batch.length)
            return Queue.take(turns)
          }))
          let id = 0
          const some = (count: number, bytes: number) =>
            Array.from({ length: count }, () => message("a", ++id, { payload: sized(bytes) }))
          const goOn = Effect.andThen(Queue.offer(turns, undefined), Effect.suspend(() => sent(peer, version)))
          for (const count of [1, 2, 4]) {
            yield* send(peer, version, ...some(count, 1))
            assert.strictEqual((yield* goOn).length, count)
          }
          yield* send(peer, version, ...some(8, 1))
          // More than the consumer takes at once, of which the first ones are nearly all of the memory.
          yield* send(peer, version, ...some(16, 3500), ...some(200, 1))
          assert.strictEqual((yield* goOn).length, 8)
          assert.strictEqual((yield* goOn).length, 16)
          assert.deepStrictEqual(taken, [1, 2, 4, 8, 16, 32])
          assert.strictEqual((yield* client.stats).unacknowledgedBytes, 200 * counted(1))
          yield* send(peer, version, ...some(1, 20_000))
          assert.strictEqual((yield* client.status)._tag, "Connected")
        })))

      it.effect("commands are answered while it waits for room; `reconnect` does not wait", () =>
        run(Effect.gen(function*() {
          const server = yield* open({ protocolVersion, ...persistent, maximumUnacknowledgedBytes: counted(10) })
          const { client, listener, peer } = server
          yield* subscribed(client, peer, version, "a", { qos: 1 })
          yield* send(peer, version, message("a", 1, { payload: sized(10) }), message("a", 2, { payload: sized(10) }))
          yield* awaitStatus(client, "Reconnecting")
          yield* TestClock.adjust("1 day")
          yield* client.pause
          assert.strictEqual((yield* client.status)._tag, "Paused")
          const { negotiated } = yield* resume(client, listener, resumed[version])
          assert.isTrue(negotiated.sessionPresent)
        })))

      it.effect("a message that is larger by itself is taken where there is no other", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion, maximumUnacknowledgedBytes: 10 })
          const { seen } = yield* collect((yield* subscribed(client, peer, version, "a", { qos: 2 })).messages)
          for (const id of [1, 2]) {
            yield* send(peer, version, message("a", id, { payload: sized(1000) }))
            assert.deepStrictEqual(yield* sent(peer, version), [`puback ${id}`])
          }
          yield* send(peer, version, second("a", 3, { payload: sized(1000) }))
          assert.deepStrictEqual(yield* sent(peer, version), ["pubrec 3"])
          assert.strictEqual(seen.length, 3)
        })))

      it.effect("what a session that ends with the link loses is counted, and what was taken is handed over", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion, maximumUnacknowledgedBytes: 2 * counted(10) })
          const { messages } = yield* subscribed(client, peer, version, "a", { qos: 2 })
          const payload = sized(10)
          yield* send(
            peer,
            version,
            message("a", 1, { payload }),
            second("a", 2, { payload }),
            message("a", 3, { payload }),
            second("a", 4, { payload })
          )
          yield* awaitStatus(client, "Reconnecting")
          assert.strictEqual((yield* client.stats).dropped, 2)
          assert.strictEqual((yield* Stream.runCollect(Stream.take(messages, 2))).length, 2)
        })))

      it.effect("does not count what was taken and comes again", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion })
          yield* collect((yield* subscribed(client, peer, version, "a", { qos: 2 })).messages)
          yield* send(peer, version, second("a", 1))
          assert.deepStrictEqual(yield* sent(peer, version), ["pubrec 1"])
          yield* send(peer, version, second("a", 1, { dup: true }))
          assert.deepStrictEqual(yield* sent(peer, version), ["pubrec 1"])
          assert.strictEqual((yield* client.stats).unacknowledgedBytes, 0)
        })))

      it.effect("counts what two subscribers wait for once, and what is parked", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion, keepAlive: 0 })
          const one = yield* stepwise((yield* subscribed(client, peer, version, "a", { qos: 2 })).messages)
          const two = yield* stepwise((yield* subscribed(client, peer, version, "+", { qos: 2 })).messages)
          yield* send(peer, version, message("a", 1, { payload: sized(10) }), message("/b", 2))
          yield* one.goOn
          yield* sent(peer, version)
          assert.strictEqual((yield* client.stats).unacknowledgedBytes, counted(10) + 2 + 2 + 128)
          yield* two.goOn
          yield* TestClock.adjust("30 seconds")
          assert.strictEqual((yield* client.stats).unacknowledgedBytes, 0)
        })))
    })

    describe("unclaimed", () => {
      const events = Effect.fnUntraced(function*(client: Client.MqttClientService) {
        const seen: Array<ClientEvent> = []
        yield* start(Stream.runForEach(client.events, (event) => Effect.sync(() => seen.push(event))))
        return () => seen.filter(({ _tag }) => _tag === "MessageUnclaimed" || _tag === "MessageDropped")
      })

      for (const [unclaimed, code] of [["ack", ""], ["reject", version === 5 ? " 0x83" : ""]] as const) {
        it.effect(`law 4: "${unclaimed}": after 30 s, counted, and seen until then`, () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion, keepAlive: 0, unclaimed })
            const seen = yield* events(client)
            yield* send(peer, version, message("a", 1, { payload: "one" }), second("b", 2), message("c", 0))
            assert.deepStrictEqual(yield* sent(peer, version), [])
            assert.deepStrictEqual((yield* client.unclaimed).map(Message.text), ["one", "b"])
            yield* TestClock.adjust("29999 millis")
            assert.deepStrictEqual(yield* sent(peer, version), [])
            yield* TestClock.adjust("1 millis")
            assert.deepStrictEqual(yield* sent(peer, version), [`puback 1${code}`, `pubrec 2${code}`])
            assert.deepStrictEqual(yield* client.unclaimed, [])
            assert.strictEqual((yield* client.stats).dropped, 3)
            assert.deepStrictEqual(seen(), [
              { _tag: "MessageUnclaimed", topic: "a", qos: 1 },
              { _tag: "MessageUnclaimed", topic: "b", qos: 2 },
              { _tag: "MessageDropped", topic: "c", qos: 0, why: "unclaimed" },
              { _tag: "MessageDropped", topic: "a", qos: 1, why: "unclaimed" },
              { _tag: "MessageDropped", topic: "b", qos: 2, why: "unclaimed" }
            ])
          })))

        it.effect(`law 4: "${unclaimed}": at once for the oldest of more than 32`, () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion, keepAlive: 0, unclaimed })
            yield* send(peer, version, ...Array.from({ length: 34 }, (_, index) => message("a", index + 1)))
            assert.deepStrictEqual(yield* sent(peer, version), [`puback 1${code}`, `puback 2${code}`])
            assert.strictEqual((yield* client.unclaimed).length, 32)
          })))
      }

      it.effect("law 4: \"hold\": until somebody wants it, however many and however long", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion, keepAlive: 0, unclaimed: "hold" })
          yield* send(peer, version, ...Array.from({ length: 100 }, (_, index) => message("a", index + 1)))
          yield* TestClock.adjust("7 days")
          assert.deepStrictEqual(yield* sent(peer, version), [])
          const { stats, unclaimed } = client
          assert.deepStrictEqual([(yield* stats).unclaimed, (yield* stats).dropped], [100, 0])
          assert.strictEqual((yield* unclaimed).length, 100)
          const { seen } = yield* collect(client.subscribe("a", { qos: 1 }))
          yield* expectWords(peer, version, "subscribe 1 a:1")
          yield* send(peer, version, suback(1, 1))
          assert.strictEqual((yield* sent(peer, version)).length, 100)
          assert.strictEqual(seen.length, 100)
        })))
    })

    it.effect("law 4: taking one message and waiting takes one, and acknowledges one", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ protocolVersion, keepAlive: 0 })
        for (const ack of ["auto", "manual"] as const) {
          const filter = ack === "auto" ? "a" : "m"
          const subscription = yield* subscribed(client, peer, version, filter, { qos: 1, ack })
          yield* send(peer, version, ...Array.from({ length: 200 }, (_, index) => message(filter, index + 1)))
          yield* sent(peer, version)
          const before = (yield* client.stats).unacknowledged
          yield* Stream.runHead(subscription.messages)
          yield* TestClock.adjust("1 hour")
          assert.deepStrictEqual(yield* sent(peer, version), ack === "auto" ? ["puback 1"] : [])
          const { unacknowledged, unacknowledgedBytes } = yield* client.stats
          assert.strictEqual(unacknowledged, ack === "auto" ? before - 1 : before)
          assert.strictEqual(unacknowledgedBytes, unacknowledged * (1 + 1 + 128))
          yield* subscription.leave
          yield* TestClock.adjust("1 minute")
          yield* sent(peer, version)
          assert.strictEqual((yield* client.stats).unacknowledgedBytes, 0)
          yield* send(peer, version, { cmd: "unsuback", messageId: ack === "auto" ? 2 : 4, granted: [0] })
        }
      })))

    describe("a pause", () => {
      it.effect("law 4: leaves what is buffered to the consumer; what it took in the meantime counts at QoS 2", () =>
        run(Effect.gen(function*() {
          const { client, listener, peer } = yield* open({ protocolVersion, ...persistent, keepAlive: 0 })
          const one = yield* stepwise((yield* subscribed(client, peer, version, "a", { qos: 1 })).messages)
          const two = yield* stepwise((yield* subscribed(client, peer, version, "b", { qos: 2 })).messages)
          const zero = yield* stepwise((yield* subscribed(client, peer, version, "c", { qos: 0 })).messages)
          yield* send(
            peer,
            version,
            ...[1, 2].map((id) => message("a", id, { payload: `${id}` })),
            ...[3, 4].map((id) => second("b", id, { payload: `${id}` })),
            ...["5", "6"].map((payload) => message("c", 0, { payload }))
          )
          yield* sent(peer, version)
          yield* client.pause
          yield* TestClock.adjust("1 day")
          for (const [consumer, payloads] of [[one, ["1", "2"]], [two, ["3", "4"]], [zero, ["5", "6"]]] as const) {
            for (const payload of payloads) {
              assert.strictEqual(yield* consumer.take, payload)
              yield* consumer.goOn
            }
          }
          yield* TestClock.adjust("1 day")
          const { peer: next } = yield* resume(client, listener, resumed[version])
          assert.deepStrictEqual(yield* sent(next, version), [])
          yield* send(
            next,
            version,
            ...[1, 2].map((id) => message("a", id, { payload: `${id}`, dup: true })),
            ...[3, 4].map((id) => second("b", id, { payload: `${id}`, dup: true }))
          )
          assert.deepStrictEqual(yield* sent(next, version), ["pubrec 3", "pubrec 4"])
          for (const payload of ["1", "2"]) {
            assert.strictEqual(yield* one.take, payload)
            yield* one.goOn
          }
          assert.deepStrictEqual(yield* sent(next, version), ["puback 1", "puback 2"])
          assert.deepStrictEqual([yield* two.waiting, yield* zero.waiting], [0, 0])
        })))

      it.effect("what was acknowledged before it is not sent again, and new messages come behind those that are", () =>
        Effect.gen(function*() {
          const broker = yield* TestBroker.TestBroker
          const client = yield* Client.make({
            endpoint: "mqtt://broker",
            protocolVersion,
            ...persistent,
            cleanStart: true
          })
          const consumer = yield* stepwise((yield* client.subscription("a", { qos: 2 })).messages)
          const publish = (qos: 1 | 2, payload: string) => broker.publish({ topic: "a", qos, payload })
          for (const [index, qos] of ([1, 2, 1, 2] as const).entries()) yield* publish(qos, `${index}`)
          yield* broker.settle
          for (const payload of ["0", "1"]) {
            assert.strictEqual(yield* consumer.take, payload)
            yield* consumer.goOn
          }
          yield* broker.settle
          yield* client.pause
          yield* publish(1, "4")
          yield* publish(2, "5")
          yield* client.resume
          const seen: Array<string> = []
          for (let turn = 0; turn < 5; turn++) {
            yield* broker.settle
            seen.push(yield* consumer.take)
            yield* consumer.goOn
          }
          yield* broker.settle
          // The one in hand could not be acknowledged.
          assert.deepStrictEqual(seen, ["2", "2", "3", "4", "5"])
          assert.strictEqual(broker.sessions[0]!.unacked, 0)
        }).pipe(Effect.provide(TestBroker.layer())))
    })

    it.effect("law 14: copies that lost links leave behind do not pile up in the buffer of a stalled consumer", () =>
      run(Effect.gen(function*() {
        const server = yield* open({ protocolVersion, ...persistent, keepAlive: 0 })
        const { client } = server
        let peer: typeof server.peer = server.peer
        const consumer = yield* stepwise((yield* subscribed(client, peer, version, "a", { qos: 2 })).messages)
        for (let round = 0; round < 5; round++) {
          yield* send(peer, version, ...[1, 2, 3].map((id) => message("a", id, { payload: `${id}`, dup: round > 0 })))
          yield* sent(peer, version)
          assert.strictEqual((yield* client.stats).unacknowledgedBytes, 3 * (1 + 1 + 128))
          peer = yield* drop({ ...server, peer }, resumed[version])
        }
        yield* send(peer, version, ...[1, 2, 3].map((id) => message("a", id, { payload: `${id}`, dup: true })))
        // The one in hand, and then each once.
        for (const payload of ["1", "1", "2", "3"]) {
          assert.strictEqual(yield* consumer.take, payload)
          yield* consumer.goOn
        }
        assert.deepStrictEqual(yield* sent(peer, version), ["puback 1", "puback 2", "puback 3"])
        assert.strictEqual(yield* consumer.waiting, 0)
      })))
  })
}
