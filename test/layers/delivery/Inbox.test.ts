import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import type mqttPacket from "mqtt-packet"
import type * as MqttClient from "../../../src/layers/MqttClient.ts"
import { collect, stepwise } from "../../support/Consumer.ts"
import {
  accepted,
  awaitStatus,
  expectWords,
  handshake,
  message,
  open,
  readToEnd,
  resumed,
  run,
  send,
  start
} from "../../support/ScriptedBroker.ts"
import type { Peer } from "../../support/ScriptedBroker.ts"
import { drop, persistent, sent, subscribed } from "../../support/Subscriptions.ts"
import type { Version } from "../../support/Subscriptions.ts"

/** A message at QoS 2. */
const second = (topic: string, id: number, rest: Partial<mqttPacket.IPublishPacket> = {}) =>
  message(topic, id, { qos: 2, ...rest })

const pubrel = (messageId: number): mqttPacket.Packet => ({ cmd: "pubrel", messageId })

/** A granted subscription with the highest QoS. */
const strongest = (client: MqttClient.MqttClientService, peer: Peer, version: Version, filter: string) =>
  subscribed(client, peer, version, filter, { qos: 2 })

describe("Inbox", () => {
  for (const version of [4, 5] as const) {
    const protocolVersion = version
    const lost = accepted[version]
    const kept = resumed[version]

    describe(`on MQTT ${version === 4 ? "3.1.1" : "5.0"}`, () => {
      describe("acknowledging", () => {
        it.effect("law 4, QF-04, QF-11: once the consumer came back for more, and not before", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion, keepAlive: 0 })
            const consumer = yield* stepwise((yield* strongest(client, peer, version, "a")).messages)
            yield* send(peer, version, message("a", 0x1234), second("a", 0xffff), message("a", 0xffff))
            for (const ack of ["puback 4660", "pubrec 65535", "puback 65535"]) {
              assert.strictEqual(yield* consumer.take, "a")
              yield* TestClock.adjust("1 hour")
              assert.deepStrictEqual(yield* sent(peer, version), [])
              yield* consumer.goOn
              assert.deepStrictEqual(yield* sent(peer, version), [ack])
            }
            yield* send(peer, version, pubrel(0xffff))
            assert.deepStrictEqual(yield* sent(peer, version), ["pubcomp 65535"])
            assert.strictEqual((yield* client.stats).unacknowledged, 0)
          })))

        it.effect("OR-02, OR-03: in the order of arrival, per QoS, whoever is done first", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion })
            const slow = yield* stepwise((yield* strongest(client, peer, version, "slow")).messages)
            const fast = yield* collect((yield* strongest(client, peer, version, "fast")).messages)
            yield* send(
              peer,
              version,
              message("fast", 9),
              message("slow", 8),
              message("fast", 7),
              second("fast", 6),
              message("fast", 5),
              second("slow", 4),
              second("fast", 3)
            )
            assert.deepStrictEqual(yield* sent(peer, version), ["puback 9", "pubrec 6"])
            assert.strictEqual(fast.seen.length, 5)
            assert.strictEqual((yield* client.stats).unacknowledged, 5)
            yield* slow.goOn
            assert.deepStrictEqual(yield* sent(peer, version), ["puback 8", "puback 7", "puback 5"])
            yield* slow.goOn
            assert.deepStrictEqual(yield* sent(peer, version), ["pubrec 4", "pubrec 3"])
          })))

        it.effect("QF-05: after PUBACK the same identifier is a new message, whatever DUP says", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion })
            const { seen } = yield* collect((yield* strongest(client, peer, version, "a")).messages)
            for (const dup of [false, true, false]) {
              yield* send(peer, version, message("a", 9, { dup, payload: `${dup}` }))
              assert.deepStrictEqual(yield* sent(peer, version), ["puback 9"])
            }
            assert.deepStrictEqual(seen, ["false", "true", "false"])
          })))

        it.effect("QF-13, QF-15: delivers a QoS 2 identifier once until PUBREL, and anew after PUBCOMP", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion })
            const consumer = yield* stepwise((yield* strongest(client, peer, version, "a")).messages)
            // While PUBREC is owed, one answers both.
            yield* send(peer, version, second("a", 5), second("a", 5, { dup: true }))
            assert.strictEqual(yield* consumer.take, "a")
            assert.deepStrictEqual(yield* sent(peer, version), [])
            yield* consumer.goOn
            assert.deepStrictEqual(yield* sent(peer, version), ["pubrec 5"])
            yield* send(peer, version, second("a", 5, { dup: true }), second("a", 5))
            assert.deepStrictEqual(yield* sent(peer, version), ["pubrec 5", "pubrec 5"])
            yield* send(peer, version, pubrel(5), pubrel(5))
            const unknown = version === 4 ? "pubcomp 5" : "pubcomp 5 0x92"
            assert.deepStrictEqual(yield* sent(peer, version), ["pubcomp 5", unknown])
            assert.strictEqual(yield* consumer.waiting, 0)
            yield* send(peer, version, second("a", 5, { payload: "new", dup: true }))
            assert.strictEqual(yield* consumer.take, "new")
          })))

        it.effect("QF-26: a consumer that fails is unsubscribed, and its message acknowledged", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion })
            const failing = yield* start(
              client.subscribe("a", { qos: 2 }).pipe(Stream.runForEach(() => Effect.fail("no")), Effect.exit)
            )
            yield* expectWords(peer, version, "subscribe 1 a:2")
            yield* send(
              peer,
              version,
              { cmd: "suback", messageId: 1, granted: [2] },
              message("a", 1),
              second("a", 2),
              message("a", 3)
            )
            assert.isTrue(Exit.isFailure(yield* Fiber.join(failing)))
            assert.deepStrictEqual((yield* sent(peer, version)).sort(), [
              "puback 1",
              "puback 3",
              "pubrec 2",
              "unsubscribe 2 a"
            ])
          })))

        it.effect("law 4: a message whose handling is interrupted was not received", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({
              protocolVersion,
              ...persistent,
              subscriptions: [{ filter: "a", qos: 2 }]
            })
            yield* expectWords(peer, version, "subscribe 1 a:2")
            const stop = yield* Deferred.make<void>()
            const handled: Array<string> = []
            const consumer = yield* start(
              client.durable("a").pipe(
                Stream.mapEffect((message) => Effect.as(Effect.never, message)),
                Stream.interruptWhen(Deferred.await(stop)),
                Stream.runForEach((message) => Effect.sync(() => handled.push(message.topic)))
              )
            )
            yield* send(peer, version, { cmd: "suback", messageId: 1, granted: [2] }, second("a", 1))
            assert.deepStrictEqual(yield* sent(peer, version), [])
            yield* Deferred.succeed(stop, undefined)
            yield* Fiber.join(consumer)
            assert.deepStrictEqual(yield* sent(peer, version), [])
            const { seen } = yield* collect(client.durable("a"))
            assert.deepStrictEqual(yield* sent(peer, version), ["pubrec 1"])
            assert.deepStrictEqual(seen, ["a"])
          })))
      })

      describe("over a lost link", () => {
        it.effect("QF-13, law 8: a QoS 2 message that was not handed over comes once, from the repetition", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion, ...persistent })
            const { client, peer } = server
            const { messages } = yield* strongest(client, peer, version, "a")
            yield* send(peer, version, second("a", 5, { payload: "old" }), second("a", 6, { payload: "six" }))
            assert.deepStrictEqual(yield* sent(peer, version), [])
            const next = yield* drop(server, kept)
            yield* send(next, version, second("a", 5, { dup: true, payload: "again" }))
            const { seen } = yield* collect(messages)
            assert.deepStrictEqual(yield* sent(next, version), ["pubrec 5"])
            // The server may as well have lost interest in one that expired.
            assert.deepStrictEqual(seen, ["again"])
          })))

        it.effect("QF-13, law 8: one that was handed over comes once; its PUBREC waits for the repetition", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion, ...persistent })
            const { client, peer } = server
            const consumer = yield* stepwise((yield* strongest(client, peer, version, "a")).messages)
            yield* send(peer, version, second("a", 5), second("a", 6))
            assert.strictEqual(yield* consumer.take, "a")
            yield* sent(peer, version)
            const next = yield* drop(server, kept)
            // SS-15: the consumer is done before the server has sent it again.
            yield* consumer.goOn
            assert.deepStrictEqual(yield* sent(next, version), [])
            yield* send(next, version, second("a", 5, { dup: true }), second("a", 6, { dup: true }))
            assert.strictEqual(yield* consumer.take, "a")
            assert.deepStrictEqual(yield* sent(next, version), ["pubrec 5"])
            const third = yield* drop({ ...server, peer: next }, kept)
            yield* send(third, version, pubrel(5), second("a", 6, { dup: true }))
            assert.deepStrictEqual(yield* sent(third, version), ["pubcomp 5"])
            // The other way round: sent again while the consumer still has it.
            yield* consumer.goOn
            assert.deepStrictEqual(yield* sent(third, version), ["pubrec 6"])
            assert.strictEqual(yield* consumer.waiting, 0)
          })))

        it.effect("QF-13, law 8: one that was taken and whose PUBREC was lost comes once", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion, ...persistent })
            const { client, peer } = server
            const { seen } = yield* collect((yield* strongest(client, peer, version, "a")).messages)
            yield* send(peer, version, second("a", 5))
            assert.deepStrictEqual(yield* sent(peer, version), ["pubrec 5"])
            const next = yield* drop(server, kept)
            yield* send(next, version, second("a", 5, { dup: true }), pubrel(5))
            assert.deepStrictEqual(yield* sent(next, version), ["pubrec 5", "pubcomp 5"])
            assert.deepStrictEqual(seen, ["a"])
          })))

        it.effect("QF-13, law 8: one that was taken while offline comes once", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion, ...persistent })
            const { client, listener, peer } = server
            const consumer = yield* stepwise((yield* strongest(client, peer, version, "a")).messages)
            yield* send(peer, version, second("a", 5))
            assert.strictEqual(yield* consumer.take, "a")
            yield* peer.reset
            yield* awaitStatus(client, "Reconnecting")
            yield* consumer.goOn
            yield* TestClock.adjust("1 second")
            const next = yield* handshake(listener, kept)
            assert.deepStrictEqual(yield* sent(next, version), [])
            yield* send(next, version, second("a", 5, { dup: true }))
            assert.deepStrictEqual(yield* sent(next, version), ["pubrec 5"])
            assert.strictEqual(yield* consumer.waiting, 0)
          })))

        it.effect("law 8: of two subscribers, one of which has taken it, each gets it once", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion, ...persistent })
            const { client, peer } = server
            const fast = yield* collect((yield* strongest(client, peer, version, "a/#")).messages)
            const slow = yield* strongest(client, peer, version, "a/+")
            yield* send(peer, version, second("a/b", 5))
            assert.deepStrictEqual(yield* sent(peer, version), [])
            const next = yield* drop(server, kept)
            yield* send(next, version, second("a/b", 5, { dup: true }))
            assert.deepStrictEqual(yield* sent(next, version), [])
            const late = yield* collect(slow.messages)
            assert.deepStrictEqual(yield* sent(next, version), ["pubrec 5"])
            assert.deepStrictEqual([fast.seen, late.seen], [["a/b"], ["a/b"]])
          })))

        it.effect("a QoS 1 message that was not handed over has no second copy in the buffer", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion, ...persistent })
            const { client, peer } = server
            const { messages } = yield* strongest(client, peer, version, "a")
            yield* send(peer, version, message("a", 1, { payload: "1" }), message("a", 2, { payload: "2" }))
            yield* sent(peer, version)
            const next = yield* drop(server, kept)
            const { seen } = yield* collect(messages)
            yield* send(
              next,
              version,
              message("a", 1, { payload: "1", dup: true }),
              message("a", 2, { payload: "2", dup: true })
            )
            assert.deepStrictEqual(yield* sent(next, version), ["puback 1", "puback 2"])
            assert.deepStrictEqual(seen, ["1", "2"])
          })))

        it.effect("a message that an ended stream gave back has no second copy either", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion, ...persistent, subscriptions: [{ filter: "#", qos: 2 }] })
            const { client, peer } = server
            yield* expectWords(peer, version, "subscribe 1 #:2")
            yield* send(peer, version, { cmd: "suback", messageId: 1, granted: [2] })
            const one = yield* stepwise(client.durable("#"))
            yield* send(peer, version, message("a", 1), second("b", 2))
            assert.strictEqual(yield* one.take, "a")
            yield* one.goOn
            assert.strictEqual(yield* one.take, "b")
            yield* send(peer, version, message("c", 3))
            assert.deepStrictEqual(yield* sent(peer, version), ["puback 1"])
            yield* Fiber.interrupt(one.fiber)
            const two = yield* stepwise(client.durable("#"))
            assert.strictEqual(yield* two.take, "b")
            yield* two.goOn
            assert.strictEqual(yield* two.take, "c")
            assert.deepStrictEqual(yield* sent(peer, version), ["pubrec 2"])
            yield* Fiber.interrupt(two.fiber)
            assert.strictEqual((yield* client.stats).unclaimed, 1)
            const next = yield* drop(server, kept)
            yield* send(next, version, second("b", 2, { dup: true }), message("c", 3, { dup: true }))
            const { seen } = yield* collect(client.durable("#"))
            assert.deepStrictEqual(yield* sent(next, version), ["pubrec 2", "puback 3"])
            assert.deepStrictEqual(seen, ["c"])
          })))

        it.effect("a QoS 2 message that an ended stream gave back comes once", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion, ...persistent, subscriptions: [{ filter: "a", qos: 2 }] })
            const { client, peer } = server
            yield* expectWords(peer, version, "subscribe 1 a:2")
            yield* send(peer, version, { cmd: "suback", messageId: 1, granted: [2] })
            const consumer = yield* stepwise(client.durable("a"))
            yield* send(peer, version, second("a", 1))
            assert.strictEqual(yield* consumer.take, "a")
            yield* Fiber.interrupt(consumer.fiber)
            const next = yield* drop(server, kept)
            yield* send(next, version, second("a", 1, { dup: true }))
            const { seen } = yield* collect(client.durable("a"))
            assert.deepStrictEqual(yield* sent(next, version), ["pubrec 1"])
            assert.deepStrictEqual(seen, ["a"])
          })))

        it.effect("nor has one whose stream was interrupted and is run again, or whose subscription was left to another", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion, ...persistent, subscriptions: [{ filter: "#", qos: 1 }] })
            const { client, peer } = server
            yield* expectWords(peer, version, "subscribe 1 #:1")
            yield* send(peer, version, { cmd: "suback", messageId: 1, granted: [1] })
            const a = yield* strongest(client, peer, version, "a")
            const b = yield* strongest(client, peer, version, "b")
            const first = yield* stepwise(a.messages)
            const other = yield* stepwise(b.messages)
            yield* send(peer, version, message("a", 1), message("b", 2))
            assert.strictEqual(yield* first.take, "a")
            assert.strictEqual(yield* other.take, "b")
            yield* Fiber.interrupt(first.fiber)
            yield* b.leave
            // On 5.0 the durable filter was subscribed again, with an identifier.
            const id = version === 5 ? 5 : 4
            assert.deepStrictEqual(yield* sent(peer, version), [`unsubscribe ${id} b`])
            const next = yield* drop(server, kept)
            yield* expectWords(next, version, `unsubscribe ${id + 1} b`)
            const again = yield* collect(a.messages)
            yield* send(next, version, message("a", 1, { dup: true }), message("b", 2, { dup: true }))
            // The durable subscription is owed both.
            assert.deepStrictEqual(yield* sent(next, version), [])
            assert.deepStrictEqual(again.seen, ["a"])
            const durable = yield* collect(client.durable("#"))
            assert.deepStrictEqual(yield* sent(next, version), ["puback 1", "puback 2"])
            assert.deepStrictEqual(durable.seen, ["a", "b"])
          })))

        it.effect("what a lost session left in the buffer is not taken back by a session that is resumed later", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion, ...persistent })
            const { client, peer } = server
            const { messages } = yield* strongest(client, peer, version, "a")
            yield* send(peer, version, message("a", 1, { payload: "1" }), second("a", 2, { payload: "2" }))
            yield* sent(peer, version)
            const next = yield* drop(server, lost)
            yield* expectWords(next, version, "subscribe 2 a:2")
            yield* send(next, version, { cmd: "suback", messageId: 2, granted: [2] })
            const third = yield* drop({ ...server, peer: next }, kept)
            const { seen } = yield* collect(messages)
            assert.deepStrictEqual(yield* sent(third, version), [])
            assert.deepStrictEqual(seen, ["1", "2"])
          })))

        it.effect("and a lost session, delivers what is buffered and acknowledges none of it (SS-15)", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion, ...persistent })
            const { client, peer } = server
            const consumer = yield* stepwise((yield* strongest(client, peer, version, "a")).messages)
            yield* send(
              peer,
              version,
              message("a", 1, { payload: "1" }),
              message("a", 2, { payload: "2" }),
              second("a", 3, { payload: "3" }),
              second("a", 4, { payload: "4" })
            )
            assert.strictEqual(yield* consumer.take, "1")
            const next = yield* drop(server, lost)
            yield* expectWords(next, version, "subscribe 2 a:2")
            yield* send(
              next,
              version,
              { cmd: "suback", messageId: 2, granted: [2] },
              // The identifiers mean something else now.
              message("a", 2, { payload: "new 2" }),
              second("a", 3, { payload: "new 3" })
            )
            for (const payload of ["2", "3", "4", "new 2"]) {
              yield* consumer.goOn
              assert.strictEqual(yield* consumer.take, payload)
            }
            assert.deepStrictEqual(yield* sent(next, version), [])
            yield* consumer.goOn
            yield* consumer.goOn
            assert.deepStrictEqual(yield* sent(next, version), ["puback 2", "pubrec 3"])
            assert.strictEqual((yield* client.stats).unacknowledged, 0)
          })))
      })

      describe("without a taker", () => {
        const idle = { protocolVersion, keepAlive: 0 } as const

        it.effect("PB-08, QF-16: keeps a message unacknowledged for 30 s, and then acknowledges and counts it", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open(idle)
            const drops = yield* start(client.events.pipe(
              Stream.filter((event) => event._tag === "MessageDropped"),
              Stream.take(2),
              Stream.runCollect
            ))
            yield* send(peer, version, message("a", 1))
            yield* sent(peer, version)
            yield* TestClock.adjust("10 seconds")
            yield* send(peer, version, second("b", 2))
            assert.deepStrictEqual(yield* sent(peer, version), [])
            yield* TestClock.adjust("19999 millis")
            assert.deepStrictEqual(yield* sent(peer, version), [])
            assert.deepInclude(yield* client.stats, { unclaimed: 2, unacknowledged: 2, dropped: 0 })
            yield* TestClock.adjust("1 millis")
            assert.deepStrictEqual(yield* sent(peer, version), ["puback 1"])
            assert.deepInclude(yield* client.stats, { unclaimed: 1, unacknowledged: 1, dropped: 1 })
            yield* TestClock.adjust("9999 millis")
            assert.deepStrictEqual(yield* sent(peer, version), [])
            yield* TestClock.adjust("1 millis")
            yield* send(peer, version, pubrel(2))
            assert.deepStrictEqual(yield* sent(peer, version), ["pubrec 2", "pubcomp 2"])
            assert.deepInclude(yield* client.stats, { unclaimed: 0, unacknowledged: 0, dropped: 2 })
            assert.deepStrictEqual(yield* Fiber.join(drops), [
              { _tag: "MessageDropped", topic: "a", qos: 1, why: "unclaimed" },
              { _tag: "MessageDropped", topic: "b", qos: 2, why: "unclaimed" }
            ])
          })))

        it.effect("law 14: keeps 32 of them, and acknowledges the oldest for each one more", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open(idle)
            yield* send(peer, version, ...Array.from({ length: 32 }, (_, index) => message("a", index + 1)))
            assert.deepStrictEqual(yield* sent(peer, version), [])
            yield* send(peer, version, message("a", 33), message("a", 34))
            assert.deepStrictEqual(yield* sent(peer, version), ["puback 1", "puback 2"])
            assert.deepInclude(yield* client.stats, { unclaimed: 32, unacknowledged: 32, dropped: 2 })
          })))

        it.effect("law 4: offers it to the next subscriber that matches, which then acknowledges it", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open(idle)
            yield* send(
              peer,
              version,
              message("a/1", 1),
              message("b", 2),
              second("a/2", 3),
              message("a/3", 4)
            )
            yield* sent(peer, version)
            const consumer = yield* stepwise(client.subscribe("a/+", { qos: 2 }))
            yield* expectWords(peer, version, "subscribe 1 a/+:2")
            yield* send(peer, version, { cmd: "suback", messageId: 1, granted: [2] }, message("a/4", 5))
            for (const [topic, acks] of [["a/1", ["puback 1"]], ["a/2", ["pubrec 3"]], ["a/3", []]] as const) {
              assert.strictEqual(yield* consumer.take, topic)
              assert.deepStrictEqual(yield* sent(peer, version), [])
              yield* consumer.goOn
              assert.deepStrictEqual(yield* sent(peer, version), [...acks])
            }
            assert.strictEqual(yield* consumer.take, "a/4")
            yield* consumer.goOn
            // Nobody wants the one for b, which holds back the acknowledgement of those behind it for as long as it is kept.
            assert.deepStrictEqual(yield* sent(peer, version), [])
            yield* TestClock.adjust("30 seconds")
            assert.deepStrictEqual(yield* sent(peer, version), ["puback 2", "puback 4", "puback 5"])
          })))

        it.effect("QoS 0 is dropped and counted at once", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open(idle)
            yield* send(peer, version, message("a"))
            assert.deepStrictEqual(yield* sent(peer, version), [])
            assert.deepInclude(yield* client.stats, { unclaimed: 0, dropped: 1 })
          })))

        it.effect("what an ended stream had not taken goes to the others, or to the next", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open(idle)
            const leaving = yield* strongest(client, peer, version, "a/#")
            const staying = yield* stepwise((yield* strongest(client, peer, version, "a/+")).messages)
            yield* send(peer, version, message("a/1", 1), message("a/1/2", 2))
            assert.strictEqual(yield* staying.take, "a/1")
            yield* staying.goOn
            assert.deepStrictEqual(yield* sent(peer, version), [])
            // The one has a taker, the other is of a filter that was just unsubscribed.
            yield* leaving.leave
            const id = version === 5 ? 4 : 3
            assert.deepStrictEqual(yield* sent(peer, version), [`unsubscribe ${id} a/#`, "puback 1", "puback 2"])
          })))

        it.effect("is kept over a lost link once, and over a lost session without an acknowledgement", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ ...idle, ...persistent })
            const { client, peer } = server
            yield* send(peer, version, message("a", 1), second("a", 2))
            assert.deepStrictEqual(yield* sent(peer, version), [])
            const next = yield* drop(server, kept)
            yield* send(next, version, message("a", 1, { dup: true }), second("a", 2, { dup: true }))
            assert.deepStrictEqual(yield* sent(next, version), [])
            assert.strictEqual((yield* client.stats).unclaimed, 2)
            const third = yield* drop({ ...server, peer: next }, lost)
            assert.deepStrictEqual(yield* sent(third, version), [])
            const { seen } = yield* collect(client.subscribe("a", { qos: 2 }))
            yield* expectWords(third, version, "subscribe 1 a:2")
            yield* send(third, version, { cmd: "suback", messageId: 1, granted: [2] })
            assert.deepStrictEqual(yield* sent(third, version), [])
            assert.deepStrictEqual(seen, ["a", "a"])
            yield* TestClock.adjust("1 minute")
            assert.deepStrictEqual(yield* sent(third, version), [])
          })))
      })
    })
  }

  describe("Receive Maximum", () => {
    it.effect("law 3: withheld acknowledgements are bounded by it", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ receiveMaximum: 3 })
        const consumer = yield* stepwise((yield* strongest(client, peer, 5, "a")).messages)
        yield* send(peer, 5, message("a", 1), message("a", 2), second("a", 3))
        assert.deepStrictEqual(yield* sent(peer, 5), [])
        assert.strictEqual((yield* client.stats).unacknowledged, 3)
        yield* consumer.goOn
        assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1"])
        yield* send(peer, 5, message("a", 4))
        assert.deepStrictEqual(yield* sent(peer, 5), [])
        assert.strictEqual(peer.clientEnd, undefined)
      })))

    it.effect("FC-06: a message beyond it is a fault, 0x93", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ receiveMaximum: 2 })
        yield* strongest(client, peer, 5, "a")
        yield* send(peer, 5, message("a", 1), second("a", 2), message("a", 3))
        assert.deepStrictEqual((yield* readToEnd(peer)).packets, ["e0 01 93"])
        const { cause } = yield* awaitStatus(client, "Reconnecting")
        assert.strictEqual(cause._tag === "ProtocolError" && cause.reasonCode, 0x93)
      })))

    it.effect("FC-06: a QoS 2 message counts until PUBCOMP", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ receiveMaximum: 1 })
        yield* collect((yield* strongest(client, peer, 5, "a")).messages)
        for (const id of [1, 2]) {
          yield* send(peer, 5, second("a", id))
          yield* expectWords(peer, 5, `pubrec ${id}`)
          yield* send(peer, 5, pubrel(id))
          yield* expectWords(peer, 5, `pubcomp ${id}`)
        }
        yield* send(peer, 5, second("a", 3))
        yield* expectWords(peer, 5, "pubrec 3")
        yield* send(peer, 5, second("a", 4))
        assert.deepStrictEqual((yield* readToEnd(peer)).packets, ["e0 01 93"])
      })))

    it.effect("QF-29: a repeated QoS 2 message counts once", () =>
      run(Effect.gen(function*() {
        const server = yield* open({ ...persistent, receiveMaximum: 1 })
        const { client, peer } = server
        const { seen } = yield* collect((yield* strongest(client, peer, 5, "a")).messages)
        yield* send(peer, 5, second("a", 1))
        yield* expectWords(peer, 5, "pubrec 1")
        yield* send(peer, 5, second("a", 1, { dup: true }))
        assert.deepStrictEqual(yield* sent(peer, 5), ["pubrec 1"])
        const next = yield* drop(server, resumed[5])
        yield* send(next, 5, second("a", 1, { dup: true }))
        assert.deepStrictEqual(yield* sent(next, 5), ["pubrec 1"])
        yield* send(next, 5, pubrel(1), second("a", 2))
        assert.deepStrictEqual(yield* sent(next, 5), ["pubcomp 1", "pubrec 2"])
        assert.deepStrictEqual(seen, ["a", "a"])
      })))

    it.effect("PUBCOMP of a message from before the connection lets the server send one more (MQTT 5.0 §4.9)", () =>
      run(Effect.gen(function*() {
        const server = yield* open({ ...persistent, receiveMaximum: 1 })
        const { client, peer } = server
        yield* collect((yield* strongest(client, peer, 5, "a")).messages)
        yield* send(peer, 5, second("a", 1))
        yield* expectWords(peer, 5, "pubrec 1")
        const next = yield* drop(server, resumed[5])
        // Sent before PUBREL is answered: the quota was whole on the new connection.
        yield* send(next, 5, pubrel(1), second("a", 2))
        assert.deepStrictEqual(yield* sent(next, 5), ["pubcomp 1", "pubrec 2"])
        yield* send(next, 5, second("a", 3))
        assert.deepStrictEqual(yield* sent(next, 5), ["pubrec 3"])
        yield* send(next, 5, second("a", 4))
        assert.deepStrictEqual((yield* readToEnd(next)).packets, ["e0 01 93"])
      })))

    it.effect("a message beyond it was not received: it is delivered when it comes again", () =>
      run(Effect.gen(function*() {
        const server = yield* open({ ...persistent, receiveMaximum: 1 })
        const { client, peer } = server
        const { messages } = yield* strongest(client, peer, 5, "a")
        yield* send(peer, 5, second("a", 1, { payload: "1" }), second("a", 2, { payload: "2" }))
        assert.deepStrictEqual((yield* readToEnd(peer)).packets, ["e0 01 93"])
        const next = yield* drop(server, resumed[5])
        const { seen } = yield* collect(messages)
        for (const id of [1, 2]) {
          yield* send(next, 5, second("a", id, { payload: `${id}`, dup: true }))
          yield* expectWords(next, 5, `pubrec ${id}`)
          yield* send(next, 5, pubrel(id))
          yield* expectWords(next, 5, `pubcomp ${id}`)
        }
        assert.deepStrictEqual(seen, ["1", "2"])
      })))

    it.effect("is not enforced where the option says so", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ receiveMaximum: 1, onReceiveMaximumExceeded: "accept" })
        const { seen } = yield* collect((yield* strongest(client, peer, 5, "a")).messages)
        yield* send(peer, 5, message("a", 1), second("a", 2), message("a", 3))
        assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1", "pubrec 2", "puback 3"])
        assert.strictEqual(seen.length, 3)
      })))

    it.effect("does not exist on MQTT 3.1.1", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ protocolVersion: 4, receiveMaximum: 1 })
        yield* strongest(client, peer, 4, "a")
        yield* send(peer, 4, ...Array.from({ length: 100 }, (_, index) => message("a", index + 1)))
        assert.deepStrictEqual(yield* sent(peer, 4), [])
        assert.strictEqual((yield* client.stats).unacknowledged, 100)
      })))
  })
})
