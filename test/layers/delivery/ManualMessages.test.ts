import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Queue, Stream } from "effect"
import { TestClock } from "effect/testing"
import type * as MqttClient from "../../../src/layers/MqttClient.ts"
import * as Message from "../../../src/services/Message.ts"
import { ReasonCode } from "../../../src/protocol/index.ts"
import type { SubscribeError } from "../../../src/services/MqttError.ts"
import { collect, stepwise } from "../../support/Consumer.ts"
import {
  accepted,
  awaitStatus,
  expectWords,
  message,
  open,
  resume,
  resumed,
  run,
  send,
  start
} from "../../support/ScriptedBroker.ts"
import type { Peer } from "../../support/ScriptedBroker.ts"
import { drop, persistent, reasonOf, sent, suback, subscribed, unsuback } from "../../support/Subscriptions.ts"
import type { Version } from "../../support/Subscriptions.ts"

const second = (topic: string, id: number, rest: Parameters<typeof message>[2] = {}) =>
  message(topic, id, { qos: 2, ...rest })

/** A granted subscription whose messages are to be settled one by one. */
const manual = Effect.fnUntraced(function*(
  client: MqttClient.MqttClientService,
  peer: Peer,
  version: Version,
  filter = "a"
) {
  const subscription = yield* subscribed(client, peer, version, filter, { qos: 2, ack: "manual" })
  return {
    ...subscription,
    messages: subscription.messages as Stream.Stream<Message.ManualMessage, SubscribeError>
  }
})

/** Takes messages as they come, without settling any. */
const receive = Effect.fnUntraced(function*(messages: Stream.Stream<Message.ManualMessage, SubscribeError>) {
  const taken = yield* Queue.unbounded<Message.ManualMessage>()
  const fiber = yield* start(Stream.runForEach(messages, (message) => Queue.offer(taken, message)))
  return { fiber, take: Queue.take(taken), waiting: Queue.size(taken) }
})

describe("ManualMessages", () => {
  it("the elements of a stream are manual messages only where the options say so", () => {
    const typed = (client: MqttClient.MqttClientService, options: MqttClient.SubscribeOptions) => {
      const auto: Stream.Stream<Message.Message, SubscribeError> = client.subscribe("a", { qos: 1 })
      const manual: Stream.Stream<Message.ManualMessage, SubscribeError> = client.subscribe("a", { ack: "manual" })
      const durable: Stream.Stream<Message.ManualMessage, SubscribeError> = client.durable("a", { ack: "manual" })
      const either: Stream.Stream<Message.Message, SubscribeError> = client.subscribe("a", options)
      const subscription = Effect.map(
        client.subscription("a", { ack: "manual" }),
        ({ messages }): Stream.Stream<Message.ManualMessage, SubscribeError> => messages
      )
      // @ts-expect-error a message that is acknowledged by itself has no `ack`
      const wrong: Stream.Stream<Message.ManualMessage, SubscribeError> = client.subscribe("a", { ack: "auto" })
      // @ts-expect-error 0x01 is no reason code of PUBACK
      const code = Stream.map(manual, (message) => message.reject(0x01))
      return [auto, manual, durable, either, subscription, wrong, code]
    }
    assert.isFunction(typed)
  })

  for (const version of [4, 5] as const) {
    const protocolVersion = version
    const kept = resumed[version]
    const lost = accepted[version]

    describe(`on MQTT ${version === 4 ? "3.1.1" : "5.0"}`, () => {
      it.effect("law 4: a message is acknowledged when it is settled, and not when it was taken", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion, keepAlive: 0 })
          const { take } = yield* receive((yield* manual(client, peer, version)).messages)
          yield* send(peer, version, message("a", 1), second("a", 2), message("a", 0))
          const [one, two, zero] = [yield* take, yield* take, yield* take]
          yield* TestClock.adjust("1 hour")
          assert.deepStrictEqual(yield* sent(peer, version), [])
          assert.strictEqual((yield* client.stats).unacknowledged, 2)
          assert.deepStrictEqual(yield* one.ack, { _tag: "Acked" })
          assert.deepStrictEqual(yield* sent(peer, version), ["puback 1"])
          assert.deepStrictEqual(yield* zero.ack, { _tag: "Acked" })
          assert.deepStrictEqual(yield* zero.reject(0x80), { _tag: "Acked" })
          assert.deepStrictEqual(yield* two.ack, { _tag: "Acked" })
          // Only the first settling counts.
          assert.deepStrictEqual(yield* one.reject(0x80), { _tag: "Acked" })
          assert.deepStrictEqual(yield* sent(peer, version), ["pubrec 2"])
          assert.strictEqual((yield* client.stats).unacknowledged, 0)
        })))

      it.effect("OR-02, OR-03: acknowledgements leave in order of arrival, whatever the order of settling", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion })
          const { take } = yield* receive((yield* manual(client, peer, version)).messages)
          yield* send(peer, version, message("a", 1), message("a", 2), second("a", 3), second("a", 4), message("a", 5))
          const all = yield* Effect.all(Array.from({ length: 5 }, () => take))
          for (const index of [4, 3, 1]) yield* all[index]!.ack
          assert.deepStrictEqual(yield* sent(peer, version), [])
          yield* all[0]!.ack
          assert.deepStrictEqual(yield* sent(peer, version), ["puback 1", "puback 2", "puback 5"])
          yield* all[2]!.ack
          assert.deepStrictEqual(yield* sent(peer, version), ["pubrec 3", "pubrec 4"])
        })))

      it.effect("QF-12: rejecting sends the code where there are codes, and acknowledges where there are none", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion, receiveMaximum: 2 })
          const { take } = yield* receive((yield* manual(client, peer, version)).messages)
          const code = version === 4 ? "" : " 0x99"
          // The place in the window is free at once, and the identifier stands for a new message.
          for (const [index, payload] of ["1", "2", "3", "4"].entries()) {
            const id = 8 + index % 3
            yield* send(peer, version, message("a", 7, { payload }), second("a", id, { payload }))
            for (const expected of [`puback 7${code}`, `pubrec ${id}${code}`]) {
              const taken = yield* take
              assert.strictEqual(Message.text(taken), payload)
              assert.deepStrictEqual(yield* taken.reject(0x99), { _tag: "Acked" })
              assert.deepStrictEqual(yield* sent(peer, version), [expected])
            }
            if (version === 4) {
              yield* send(peer, version, { cmd: "pubrel", messageId: id })
              yield* expectWords(peer, version, `pubcomp ${id}`)
            }
          }
          assert.strictEqual(peer.clientEnd, undefined)
        })))

      it.effect("of several subscribers all have to settle, and the highest code wins", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion })
          const one = yield* receive((yield* manual(client, peer, version, "a/#")).messages)
          const two = yield* receive((yield* manual(client, peer, version, "a/+")).messages)
          const auto = yield* collect((yield* subscribed(client, peer, version, "#", { qos: 2 })).messages)
          yield* send(peer, version, message("a/b", 1), second("a/b", 2), message("a/b", 3))
          const ones = yield* Effect.all([one.take, one.take, one.take])
          const twos = yield* Effect.all([two.take, two.take, two.take])
          assert.strictEqual(auto.seen.length, 3)
          yield* ones[0].reject(0x97)
          yield* ones[1].ack
          yield* ones[2].reject(0x80)
          assert.deepStrictEqual(yield* sent(peer, version), [])
          yield* twos[0].reject(0x83)
          yield* twos[1].reject(0x87)
          yield* twos[2].ack
          assert.deepStrictEqual(
            yield* sent(peer, version),
            version === 4 ? ["puback 1", "pubrec 2", "puback 3"] : ["puback 1 0x97", "pubrec 2 0x87", "puback 3 0x80"]
          )
        })))

      it.effect("settling is stale while the link is down, and after it: the message comes again (QoS 1)", () =>
        run(Effect.gen(function*() {
          const server = yield* open({ protocolVersion, ...persistent })
          const { client, peer } = server
          const { take } = yield* receive((yield* manual(client, peer, version)).messages)
          yield* send(peer, version, message("a", 1), message("a", 2), message("a", 3))
          const [one, two, three] = [yield* take, yield* take, yield* take]
          yield* two.ack
          yield* client.pause
          assert.deepStrictEqual(yield* one.ack, { _tag: "Stale" })
          assert.deepStrictEqual(yield* two.ack, { _tag: "Acked" })
          const { peer: next } = yield* resume(client, server.listener, kept)
          assert.deepStrictEqual(yield* three.reject(0x80), { _tag: "Stale" })
          yield* send(next, version, ...[1, 2, 3].map((id) => message("a", id, { dup: true })))
          for (const id of [1, 2, 3]) {
            assert.deepStrictEqual(yield* (yield* take).ack, { _tag: "Acked" })
            assert.deepStrictEqual(yield* sent(next, version), [`puback ${id}`])
          }
        })))

      it.effect("law 8: at QoS 2 it counts over a lost link, and the message does not come again", () =>
        run(Effect.gen(function*() {
          const server = yield* open({ protocolVersion, ...persistent })
          const { client, peer } = server
          const { take, waiting } = yield* receive((yield* manual(client, peer, version)).messages)
          yield* send(peer, version, second("a", 1), second("a", 2), second("a", 3))
          const [one, two, three] = [yield* take, yield* take, yield* take]
          yield* client.pause
          assert.deepStrictEqual(yield* one.ack, { _tag: "Acked" })
          assert.deepStrictEqual(yield* two.reject(0x83), { _tag: "Acked" })
          const { peer: next } = yield* resume(client, server.listener, kept)
          assert.deepStrictEqual(yield* sent(next, version), [])
          yield* send(next, version, ...[1, 2, 3].map((id) => second("a", id, { dup: true })))
          const code = version === 4 ? "" : " 0x83"
          assert.deepStrictEqual(yield* sent(next, version), ["pubrec 1", `pubrec 2${code}`])
          assert.deepStrictEqual(yield* three.ack, { _tag: "Acked" })
          assert.deepStrictEqual(yield* sent(next, version), ["pubrec 3"])
          assert.strictEqual(yield* waiting, 0)
        })))

      it.effect("settling after the session was lost says so", () =>
        run(Effect.gen(function*() {
          const server = yield* open({ protocolVersion, ...persistent })
          const { client, peer } = server
          const { take } = yield* receive((yield* manual(client, peer, version)).messages)
          yield* send(peer, version, message("a", 1), second("a", 2))
          const [one, two] = [yield* take, yield* take]
          const next = yield* drop(server, lost)
          yield* expectWords(next, version, "subscribe 2 a:2")
          assert.deepStrictEqual(yield* one.ack, { _tag: "SessionLost" })
          assert.deepStrictEqual(yield* two.reject(0x80), { _tag: "SessionLost" })
          assert.deepStrictEqual(yield* sent(next, version), [])
        })))

      it.effect("a session that ends with its link is lost as soon as the link is", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion })
          const { take } = yield* receive((yield* manual(client, peer, version)).messages)
          yield* send(peer, version, message("a", 1))
          const one = yield* take
          yield* peer.reset
          yield* awaitStatus(client, "Reconnecting")
          assert.deepStrictEqual(yield* one.ack, { _tag: "SessionLost" })
        })))

      it.effect("what a run of the stream leaves unsettled can still be settled, and comes again in the next run", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion })
          const { messages } = yield* manual(client, peer, version)
          yield* send(
            peer,
            version,
            message("a", 1),
            message("a", 2),
            second("a", 3),
            message("a", 0, { payload: "0" })
          )
          const [one, two] = yield* Stream.runCollect(Stream.take(messages, 2))
          assert.deepStrictEqual(yield* one!.ack, { _tag: "Acked" })
          const { take } = yield* receive(messages)
          const again = yield* take
          assert.deepStrictEqual(yield* two!.ack, { _tag: "Stale" })
          assert.deepStrictEqual(yield* sent(peer, version), ["puback 1"])
          assert.deepStrictEqual(yield* again.ack, { _tag: "Acked" })
          assert.deepStrictEqual(yield* (yield* take).ack, { _tag: "Acked" })
          assert.deepStrictEqual(yield* sent(peer, version), ["puback 2", "pubrec 3"])
          assert.strictEqual(Message.text(yield* take), "0")
        })))

      it.effect("law 4: what is not settled when the subscription ends goes to the next one, even if it was unsubscribed", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion, keepAlive: 0 })
          const ending = yield* manual(client, peer, version)
          const { take } = yield* receive(ending.messages)
          yield* send(peer, version, message("a", 1), message("a", 2), second("a", 3))
          const [one, two] = [yield* take, yield* take, yield* take]
          yield* one.ack
          yield* ending.leave
          assert.deepStrictEqual(yield* sent(peer, version), ["unsubscribe 2 a", "puback 1"])
          assert.deepStrictEqual((yield* client.unclaimed).map(({ qos }) => qos), [1, 2])
          yield* send(peer, version, unsuback(2, 0))
          const next = yield* receive((yield* manual(client, peer, version)).messages)
          yield* (yield* next.take).ack
          assert.deepStrictEqual(yield* two.ack, { _tag: "Stale" })
          assert.deepStrictEqual((yield* sent(peer, version)).filter((words) => words.startsWith("puback")), [
            "puback 2"
          ])
          // Nobody else came for the other one.
          yield* next.take
          assert.deepStrictEqual(yield* client.unclaimed, [])
        })))

      it.effect("a message that others took is kept for the next subscriber, if who had begun with it is gone", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion, keepAlive: 0 })
          const fast = yield* collect((yield* subscribed(client, peer, version, "#", { qos: 2 })).messages)
          const ending = yield* manual(client, peer, version)
          const { take } = yield* receive(ending.messages)
          yield* send(peer, version, message("a", 1), second("a", 2))
          yield* take
          yield* ending.leave
          assert.deepStrictEqual((yield* sent(peer, version)).map((words) => words.split(" ")[0]), ["unsubscribe"])
          assert.deepStrictEqual(fast.seen, ["a", "a"])
          yield* send(peer, version, unsuback(version === 5 ? 4 : 3, 0))
          const next = yield* receive((yield* manual(client, peer, version)).messages)
          yield* (yield* next.take).ack
          yield* (yield* next.take).ack
          const acks = (yield* sent(peer, version)).filter((words) => words.startsWith("pub"))
          assert.deepStrictEqual(acks, ["puback 1", "pubrec 2"])
          assert.deepStrictEqual(fast.seen, ["a", "a"])
        })))

      it.effect("one that others still have is kept for the next subscriber, if who had begun with it is gone", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ protocolVersion, keepAlive: 0 })
          const slow = yield* stepwise((yield* subscribed(client, peer, version, "#", { qos: 2 })).messages)
          const ending = yield* manual(client, peer, version)
          const { take } = yield* receive(ending.messages)
          yield* send(peer, version, message("a", 1))
          yield* take
          yield* slow.take
          yield* ending.leave
          yield* send(peer, version, unsuback(version === 5 ? 4 : 3, 0))
          yield* slow.goOn
          assert.deepStrictEqual((yield* sent(peer, version)).map((words) => words.split(" ")[0]), ["unsubscribe"])
          const next = yield* receive((yield* manual(client, peer, version)).messages)
          yield* (yield* next.take).ack
          assert.deepStrictEqual(yield* sent(peer, version), ["puback 1"])
          assert.strictEqual(yield* slow.waiting, 0)
        })))

      it.effect("law 14: a consumer that never settles holds one copy, however often the link is lost", () =>
        run(Effect.gen(function*() {
          const server = yield* open({ protocolVersion, ...persistent })
          const { client } = server
          let { peer } = server as { peer: Peer }
          const { take, waiting } = yield* receive((yield* manual(client, peer, version)).messages)
          for (let round = 0; round < 3; round++) {
            yield* send(peer, version, message("a", 1, { dup: round > 0 }), message("a", 2, { dup: round > 0 }))
            yield* take
            yield* take
            assert.strictEqual(yield* waiting, 0)
            const { unacknowledged, unacknowledgedBytes } = yield* client.stats
            assert.deepStrictEqual([unacknowledged, unacknowledgedBytes], [2, 2 * (1 + 1 + 128)])
            peer = yield* drop({ ...server, peer }, kept)
          }
        })))
    })
  }

  it.effect("law 13: a code that refuses nothing is a defect, and the message stays to be settled", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      const { take } = yield* receive((yield* manual(client, peer, 5)).messages)
      yield* send(peer, 5, message("a", 1))
      const one = yield* take
      for (const code of [0x00, 0x10, 0x82, 0x92, NaN]) {
        const exit = yield* Effect.exit(one.reject(code as Message.RejectCode))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      }
      assert.deepStrictEqual(yield* sent(peer, 5), [])
      yield* one.ack
      assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1"])
    })))

  it.effect("takes every code of PUBACK and PUBREC that refuses", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      const { take } = yield* receive((yield* manual(client, peer, 5)).messages)
      const codes = ReasonCode.fromClient.Pubrec.filter((code) => code >= 0x80) as ReadonlyArray<Message.RejectCode>
      for (const code of codes) {
        yield* send(peer, 5, message("a", 1))
        yield* (yield* take).reject(code)
        assert.deepStrictEqual(yield* sent(peer, 5), [`puback 1 0x${code.toString(16)}`])
      }
    })))

  it.effect("a durable subscription hands over what nobody settled again", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open({ ...persistent, keepAlive: 0, subscriptions: [{ filter: "a", qos: 2 }] })
      yield* expectWords(peer, 5, "subscribe 1 a:2")
      yield* send(peer, 5, suback(1, 2), message("a", 1), second("a", 2))
      const first = yield* Stream.runHead(client.durable("a", { ack: "manual" }))
      yield* TestClock.adjust("1 day")
      assert.strictEqual((yield* client.stats).unclaimed, 2)
      assert.strictEqual(first._tag === "Some" && (yield* first.value.ack)._tag, "Stale")
      const { take } = yield* receive(client.durable("a", { ack: "manual" }))
      yield* (yield* take).ack
      yield* (yield* take).ack
      assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1", "pubrec 2"])
    })))

  it.effect("an unknown way to acknowledge is refused", () =>
    run(Effect.gen(function*() {
      const { client } = yield* open()
      const reason = yield* reasonOf(Stream.runDrain(client.subscribe("a", { ack: "later" as "auto" })))
      assert.strictEqual(reason._tag === "InvalidSubscription" && reason.field, "ack")
    })))
})
