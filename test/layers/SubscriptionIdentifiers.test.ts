import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Fiber, Schema, Stream } from "effect"
import type mqttPacket from "mqtt-packet"
import * as Message from "../../src/services/Message.ts"
import * as TopicFilter from "../../src/protocol/TopicFilter.ts"
import * as SubscriptionIdentifier from "../../src/protocol/SubscriptionIdentifier.ts"
import { MqttClient, TestBroker } from "../../src/testing/index.ts"
import { collect } from "../support/Consumer.ts"
import {
  accepted,
  expectPackets,
  expectWords,
  inWords,
  message,
  open,
  resumed,
  run,
  runFromOne,
  send,
  start
} from "../support/ScriptedBroker.ts"
import { drop, persistent, sent, suback, subscribed, subscribing, unsuback } from "../support/Subscriptions.ts"

const { MqttClient: Client } = MqttClient
const { TestBroker: Broker } = TestBroker

/** A copy of a message that names filters; "" stands for those that have no identifier of their own. */
const copy = (
  topic: string,
  id: number,
  filters: ReadonlyArray<string>,
  rest: Partial<mqttPacket.IPublishPacket> = {}
): mqttPacket.IPublishPacket => {
  const identifiers = filters.map((filter) =>
    filter === "" ? SubscriptionIdentifier.common : SubscriptionIdentifier.of(filter)
  )
  return message(topic, id, {
    ...rest,
    properties: identifiers.length === 0 ? {} : {
      subscriptionIdentifier: (identifiers.length === 1 ? identifiers[0] : identifiers) as number
    }
  })
}

/** Two streams whose filters overlap; the second has an identifier. */
const overlapping = Effect.fnUntraced(function*(
  qos: 0 | 1 | 2 = 1,
  filters: readonly [string, string] = ["a/#", "a/+"],
  options: Partial<MqttClient.ClientOptions> = {},
  port = 1883
) {
  const server = yield* open(options, { port })
  const first = yield* subscribed(server.client, server.peer, 5, filters[0], { qos })
  const second = yield* subscribed(server.client, server.peer, 5, filters[1], { qos })
  const one = yield* collect(first.messages)
  const two = yield* collect(second.messages)
  return { ...server, first, second, one: one.seen, two: two.seen }
})

describe("subscription identifiers", () => {
  describe("on the wire", () => {
    it.effect("go with filters that overlap: the later one has its own and a packet, and the others share theirs", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        yield* start(client.subscription(["x", "a/#", "y/+", "a/+", "z", "y/b"]))
        const id = (identifier: number) => {
          const [a, b, c, d] = [0, 1, 2, 3].map((shift) => identifier >> (7 * shift) & 0x7f)
          return [a! | 0x80, b! | 0x80, c! | 0x80, d!].map((byte) => byte.toString(16).padStart(2, "0")).join(" ")
        }
        yield* expectPackets(
          peer,
          "82 0b 00 01 00 00 01 78 00 00 01 7a 00",
          `82 14 00 02 05 0b ${id(SubscriptionIdentifier.common)} 00 03 61 2f 23 00 00 03 79 2f 2b 00`,
          `82 0e 00 03 05 0b ${id(SubscriptionIdentifier.of("a/+"))} 00 03 61 2f 2b 00`,
          `82 0e 00 04 05 0b ${id(SubscriptionIdentifier.of("y/b"))} 00 03 79 2f 62 00`
        )
      })))

    it.effect("CK-21: none is sent where the server does not take them, nor where the option says so", () =>
      run(Effect.gen(function*() {
        // Subscription Identifiers Available 0.
        const server = yield* open({}, { connack: "20 05 00 00 02 29 00" })
        yield* start(server.client.subscription(["a/#", "a/+", "$share/g/a"]))
        yield* expectWords(server.peer, 5, "subscribe 1 a/#:0 a/+:0 $share/g/a:0")
        const other = yield* open({ subscriptionIdentifiers: false, endpoint: "mqtt://broker:1884" }, { port: 1884 })
        yield* start(other.client.subscription(["a/#", "a/+"]))
        yield* expectPackets(other.peer, "82 0f 00 01 00 00 03 61 2f 23 00 00 03 61 2f 2b 00")
      })))

    it.effect("PR-01: none is sent on MQTT 3.1.1", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ protocolVersion: 4 })
        yield* start(client.subscription(["a/#", "a/+"]))
        yield* expectPackets(peer, "82 0e 00 01 00 03 61 2f 23 00 00 03 61 2f 2b 00")
      })))

    it.effect("a server that refuses them all the same is asked again without", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const { fiber } = yield* subscribing(client, ["a/#", "a/+"])
        yield* expectWords(peer, 5, "subscribe 1 a/#:0", "subscribe 2 a/+:0")
        yield* send(peer, 5, suback(1, 0), suback(2, 0xa1))
        yield* expectPackets(peer, "82 09 00 03 00 00 03 61 2f 2b 00")
        yield* send(peer, 5, suback(3, 0))
        assert.strictEqual((yield* Fiber.join(fiber)).grants.length, 2)
      })))

    it.effect("are given to a filter that is overlapped later, which asks for no retained messages", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        yield* subscribed(client, peer, 5, ["a/#", "x", "y/+"], { qos: 1 })
        const { fiber } = yield* subscribing(client, "+/b")
        // QoS 1 and Retain Handling 2; what is not overlapped stays as it is.
        yield* expectWords(peer, 5, "subscribe 2 y/+:1 a/#:1")
        assert.strictEqual(peer.received.at(-1), 0)
        yield* expectWords(peer, 5, "subscribe 3 +/b:0")
        yield* send(peer, 5, suback(2, 1, 1), suback(3, 0))
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(yield* sent(peer, 5), [])
      })))

    it.effect("come before the filter that overlaps, and not again after a refusal", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const first = yield* collect((yield* subscribed(client, peer, 5, "a/#", { qos: 1 })).messages)
        const { fiber } = yield* subscribing(client, "a/+", { qos: 1 })
        yield* expectWords(peer, 5, "subscribe 2 a/#:1", "subscribe 3 a/+:1")
        yield* send(peer, 5, suback(2, 0x97), suback(3, 1))
        const second = yield* collect((yield* Fiber.join(fiber)).messages)
        // A server that sends one copy for all names the one that has an identifier.
        yield* send(peer, 5, copy("a/b", 1, ["a/+"], { payload: "1" }), copy("a/b", 2, ["a/+"], { payload: "2" }))
        assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1", "puback 2"])
        assert.deepStrictEqual([first.seen, second.seen], [["1", "2"], ["1", "2"]])
      })))

    it.effect("come again with the subscription after a lost session", () =>
      run(Effect.gen(function*() {
        const server = yield* overlapping(0)
        const second = yield* drop(server, accepted[5])
        for (let n = 0; n < 2; n++) assert.strictEqual((yield* second.readFrame)[5], 0x0b)
      })))
  })

  describe("a server that sends one copy for each subscription", () => {
    for (const qos of [0, 1, 2] as const) {
      it.effect(`PB-26: nobody gets a message twice, whichever copy comes first (QoS ${qos})`, () =>
        run(Effect.gen(function*() {
          const { client, one, peer, two } = yield* overlapping(qos)
          const id = (n: number) => qos === 0 ? 0 : n
          for (const [n, filters] of [[1, ["", "a/+"]], [3, ["a/+", ""]], [5, ["", "a/+"]]] as const) {
            yield* send(
              peer,
              5,
              ...filters.map((filter, index) => copy("a/b", id(n + index), [filter], { qos, payload: `${n}` }))
            )
          }
          const acks = yield* sent(peer, 5)
          assert.deepStrictEqual(one, ["1", "3", "5"])
          assert.deepStrictEqual(two, ["1", "3", "5"])
          const kind = qos === 1 ? "puback" : "pubrec"
          assert.deepStrictEqual(acks, qos === 0 ? [] : [1, 2, 3, 4, 5, 6].map((n) => `${kind} ${n}`))
          assert.strictEqual((yield* client.stats).dropped, 0)
        })))
    }

    it.effect("the same content twice is two messages", () =>
      run(Effect.gen(function*() {
        const { one, peer, two } = yield* overlapping(0)
        for (let n = 0; n < 3; n++) yield* send(peer, 5, copy("a/b", 0, [""]), copy("a/b", 0, ["a/+"]))
        yield* sent(peer, 5)
        assert.deepStrictEqual([one.length, two.length], [3, 3])
      })))

    it.effect("law 4: what differs in its properties alone is another message", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        yield* subscribed(client, peer, 5, "a/#")
        const { messages } = yield* subscribed(client, peer, 5, "a/+", { qos: 1 })
        const seen: Array<string | undefined> = []
        yield* start(Stream.runForEach(messages, (message) =>
          Effect.sync(() =>
            seen.push(message.correlationData && new TextDecoder().decode(message.correlationData))
          )))
        const request = (id: number, filter: string, correlation: string) => {
          const { properties, ...rest } = copy("a/b", id, [filter])
          return { ...rest, properties: { ...properties, correlationData: Buffer.from(correlation) } }
        }
        // The first one waited since before the second filter was there.
        yield* send(peer, 5, request(1, "", "1"), request(2, "a/+", "2"), request(3, "", "2"))
        yield* sent(peer, 5)
        assert.deepStrictEqual(seen, ["1", "2"])
      })))

    it.effect("copies for one filter that run ahead of those for another are told apart", () =>
      run(Effect.gen(function*() {
        const { one, peer, two } = yield* overlapping(1)
        yield* send(peer, 5, copy("a/b", 1, [""], { payload: "0" }), copy("a/b", 2, ["a/+"], { payload: "0" }))
        const ahead = Array.from({ length: 100 }, (_, n) => copy("a/b", n + 3, ["a/+"], { payload: `${n}` }))
        const behind = Array.from({ length: 100 }, (_, n) => copy("a/b", n + 103, [""], { payload: `${n}` }))
        yield* send(peer, 5, ...ahead, ...behind)
        yield* sent(peer, 5)
        assert.deepStrictEqual([one.length, two.length], [101, 101])
      })))

    it.effect("law 4: large messages that differ in one byte are two messages", () =>
      run(Effect.gen(function*() {
        const { one, peer, two } = yield* overlapping(1)
        const large = "x".repeat(70_000)
        yield* send(
          peer,
          5,
          copy("a/b", 1, [""], { payload: `1a${large}` }),
          copy("a/b", 2, ["a/+"], { payload: `1b${large}` })
        )
        yield* sent(peer, 5)
        const begin = (texts: ReadonlyArray<string>) => texts.map((text) => text.slice(0, 2))
        assert.deepStrictEqual([begin(one), begin(two)], [["1a", "1b"], ["1a", "1b"]])
      })))

    it.effect("one subscriber with two filters gets it once", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const { fiber } = yield* subscribing(client, ["a/#", "a/+", "+/b"], { qos: 1 })
        yield* expectWords(peer, 5, "subscribe 1 a/#:1", "subscribe 2 a/+:1", "subscribe 3 +/b:1")
        yield* send(peer, 5, suback(1, 1), suback(2, 1), suback(3, 1))
        const { seen } = yield* collect((yield* Fiber.join(fiber)).messages)
        for (const n of [1, 4, 7]) {
          yield* send(
            peer,
            5,
            copy("a/b", n, [""], { payload: `${n}` }),
            copy("a/b", n + 1, ["a/+"], { payload: `${n}` }),
            copy("a/b", n + 2, ["+/b"], { payload: `${n}` })
          )
        }
        assert.strictEqual((yield* sent(peer, 5)).length, 9)
        assert.deepStrictEqual(seen, ["1", "4", "7"])
      })))

    it.effect("a QoS 0 copy is no substitute for the QoS 1 copy that is owed", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const first = yield* collect((yield* subscribed(client, peer, 5, "a/#", { qos: 1 })).messages)
        yield* subscribed(client, peer, 5, "a/+", { qos: 0 })
        yield* send(peer, 5, copy("a/b", 0, ["a/+"], { payload: "1" }), copy("a/b", 7, [""], { payload: "1" }))
        assert.deepStrictEqual(yield* sent(peer, 5), ["puback 7"])
        // Once, and from then on just for whom it is.
        assert.deepStrictEqual(first.seen, ["1", "1"])
        yield* send(peer, 5, copy("a/b", 0, ["a/+"], { payload: "2" }), copy("a/b", 8, [""], { payload: "2" }))
        yield* sent(peer, 5)
        assert.deepStrictEqual(first.seen, ["1", "1", "2"])
      })))

    it.effect("US-11: a copy for a filter that was just unsubscribed is acknowledged, and goes to nobody", () =>
      run(Effect.gen(function*() {
        const { one, peer, second } = yield* overlapping(1)
        yield* send(peer, 5, copy("a/b", 1, [""], { payload: "1" }), copy("a/b", 2, ["a/+"], { payload: "1" }))
        yield* sent(peer, 5)
        yield* second.leave
        yield* expectWords(peer, 5, "unsubscribe 4 a/+")
        yield* send(peer, 5, copy("a/b", 3, [""], { payload: "2" }), copy("a/b", 4, ["a/+"], { payload: "2" }))
        assert.deepStrictEqual(yield* sent(peer, 5), ["puback 3", "puback 4"])
        assert.deepStrictEqual(one, ["1", "2"])
      })))

    it.effect("nor does one whose copies were not seen before, in either order", () =>
      run(Effect.gen(function*() {
        for (const order of [[0, 1], [1, 0]]) {
          const { client, one, peer, second } = yield* overlapping(1, ["a/#", "a/+"], {
            endpoint: `mqtt://broker:${1884 + order[0]!}`
          }, 1884 + order[0]!)
          yield* second.leave
          yield* expectWords(peer, 5, "unsubscribe 4 a/+")
          const copies = [copy("a/b", 3, [""], { payload: "1" }), copy("a/b", 4, ["a/+"], { payload: "1" })]
          yield* send(peer, 5, copies[order[0]!]!, copies[order[1]!]!)
          assert.strictEqual((yield* sent(peer, 5)).length, 2)
          assert.deepStrictEqual(one, ["1"])
          assert.strictEqual((yield* client.stats).unclaimed, 0)
        }
      })))

    it.effect("law 8: a QoS 2 copy that comes after a reconnect is for its filter alone", () =>
      run(Effect.gen(function*() {
        const server = yield* overlapping(2, ["a/#", "a/+"], persistent)
        const { one, two } = server
        yield* send(server.peer, 5, copy("a/b", 1, [""], { qos: 2, payload: "1" }))
        assert.deepStrictEqual(yield* sent(server.peer, 5), ["pubrec 1"])
        const second = yield* drop(server, resumed[5])
        yield* send(second, 5, copy("a/b", 2, ["a/+"], { qos: 2, payload: "1" }))
        yield* sent(second, 5)
        assert.deepStrictEqual([one, two], [["1"], ["1"]])
      })))
  })

  describe("a server that sends one copy for all", () => {
    it.effect("PB-26: with all identifiers goes to all", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const streams = []
        for (const filter of ["a/b", "a/#", "a/+"]) {
          streams.push(yield* collect((yield* subscribed(client, peer, 5, filter, { qos: 1 })).messages))
        }
        for (let n = 1; n < 4; n++) yield* send(peer, 5, copy("a/b", n, ["a/+", "a/#"], { payload: "same" }))
        yield* sent(peer, 5)
        assert.deepStrictEqual(streams.map(({ seen }) => seen.length), [3, 3, 3])
      })))

    it.effect("with one of the identifiers, against the standard, still goes to all", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const streams = []
        for (const filter of ["a/b", "a/#", "a/+"]) {
          streams.push(yield* collect((yield* subscribed(client, peer, 5, filter, { qos: 1 })).messages))
        }
        for (let n = 1; n < 50; n++) yield* send(peer, 5, copy("a/b", n, ["a/#"], { payload: "same" }))
        yield* sent(peer, 5)
        assert.deepStrictEqual(streams.map(({ seen }) => seen.length), [49, 49, 49])
      })))
  })

  it.effect("law 4: copies of before and after a filter was unsubscribed for a while are two messages", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      // What overlaps these has an identifier of its own.
      yield* subscribed(client, peer, 5, ["a/x", "c/b"], { qos: 1 })
      const before = yield* subscribed(client, peer, 5, "a/+", { qos: 1 })
      yield* before.leave
      const [, id] = (yield* sent(peer, 5))[0]!.split(" ")
      yield* send(peer, 5, unsuback(Number(id), 0))
      const one = yield* collect((yield* subscribed(client, peer, 5, "+/b", { qos: 1 })).messages)
      const two = yield* collect((yield* subscribed(client, peer, 5, "a/+", { qos: 1 })).messages)
      // One server, which sends one copy for all: these two were sent before both filters were there.
      yield* send(peer, 5, copy("a/b", 1, ["a/+"]), copy("a/b", 2, ["+/b"]), copy("a/b", 3, ["+/b", "a/+"]))
      yield* sent(peer, 5)
      assert.deepStrictEqual([one.seen.length, two.seen.length], [3, 3])
    })))

  describe("identifiers that are not ours", () => {
    it.effect("PB-26: an unknown one is routed by topic", () =>
      run(Effect.gen(function*() {
        const { one, peer, two } = yield* overlapping(1)
        yield* send(peer, 5, copy("a/b", 1, [""], { payload: "1" }), copy("a/b", 2, ["a/+"], { payload: "1" }))
        yield* send(peer, 5, copy("a/b", 3, ["of/another/program"], { payload: "2" }))
        yield* sent(peer, 5)
        assert.deepStrictEqual([one, two], [["1", "2"], ["1", "2"]])
      })))

    it.effect("one whose filter does not match the topic is routed by topic", () =>
      run(Effect.gen(function*() {
        const { one, peer, two } = yield* overlapping(1)
        yield* send(peer, 5, copy("a/b", 1, [""], { payload: "1" }), copy("a/b", 2, ["a/+"], { payload: "1" }))
        yield* send(peer, 5, copy("a/b/c", 3, ["a/+"], { payload: "2" }))
        yield* sent(peer, 5)
        assert.deepStrictEqual([one, two], [["1", "2"], ["1"]])
      })))

    it.effect("what an earlier run left in the session reaches whom it is for", () =>
      runFromOne(Effect.gen(function*() {
        const subscriptions = [{ filter: "a/#", qos: 1 }, { filter: "a/+", qos: 1 }] as const
        const { client, peer } = yield* open(
          { clientId: "c", cleanStart: false, sessionExpiry: "1 hour", subscriptions },
          { connack: resumed[5] }
        )
        yield* expectWords(peer, 5, "subscribe 1 a/#:1", "subscribe 2 a/+:1")
        yield* send(peer, 5, suback(1, 1), suback(2, 1))
        const one = yield* collect(client.durable("a/#"))
        const two = yield* collect(client.durable("a/+"))
        // In that run it was the other one that had the identifier, and later none had.
        yield* send(
          peer,
          5,
          copy("a/b", 1, ["a/#"], { payload: "1" }),
          copy("a/b", 2, [], { payload: "1" }),
          copy("a/b", 3, [], { payload: "2" })
        )
        yield* sent(peer, 5)
        // A copy without one may be another message of the same content, so that it is handed over as well.
        assert.deepStrictEqual([one.seen, two.seen], [["1", "1", "2"], ["1", "1", "2"]])
        // That run may have had now the one filter and now the other, at a server that sends one copy for all.
        yield* send(peer, 5, copy("a/b", 4, [""]), copy("a/b", 5, ["a/+"]), copy("a/b", 6, ["a/+"], { payload: "4" }))
        yield* sent(peer, 5)
        assert.deepStrictEqual([one.seen.slice(3), two.seen.slice(3)], [["a/b", "a/b", "4"], ["a/b", "a/b", "4"]])
      })))
  })

  it.effect("in the session of an earlier run they are other ones, which tell copies apart after the first message", () =>
    runFromOne(Effect.gen(function*() {
      const subscriptions = [{ filter: "a/#", qos: 1 }, { filter: "a/+", qos: 1 }] as const
      const { client, peer } = yield* open(
        { clientId: "c", cleanStart: false, sessionExpiry: "1 hour", subscriptions },
        { connack: resumed[5] }
      )
      const ids = [SubscriptionIdentifier.common, SubscriptionIdentifier.of("a/+")].map((id) => id + 1)
      for (const [index, filter] of ["a/#", "a/+"].entries()) {
        const frame = yield* peer.readFrame
        assert.strictEqual(inWords(frame, 5), `subscribe ${index + 1} ${filter}:1`)
        const identifier = frame.slice(6, 10).reduceRight((sum, byte) => sum << 7 | byte & 0x7f, 0)
        assert.strictEqual(identifier, ids[index])
      }
      yield* send(peer, 5, suback(1, 1), suback(2, 1))
      const one = yield* collect(client.durable("a/#"))
      const two = yield* collect(client.durable("a/+"))
      for (const n of [1, 3, 5]) {
        const copies = ids.map((subscriptionIdentifier, index) =>
          message("a/b", n + index, { payload: `${n}`, properties: { subscriptionIdentifier } })
        )
        yield* send(peer, 5, ...copies)
      }
      yield* sent(peer, 5)
      assert.deepStrictEqual([one.seen, two.seen], [["1", "1", "3", "5"], ["1", "1", "3", "5"]])
    })))

  for (const isNewerFirst of [false, true]) {
    for (const listeners of [["a/#", "a/+"], ["a/+", "a/#"]] as const) {
      const order = `${isNewerFirst ? "newer copy first" : "older copy first"}, then ${listeners.join(" and ")}`
      it.effect(`law 4: what a stream over durable subscriptions leaves is kept for each of them (${order})`, () =>
        runFromOne(Effect.gen(function*() {
          const subscriptions = [{ filter: "a/#", qos: 1 }, { filter: "a/+", qos: 1 }] as const
          const { client, peer } = yield* open({ ...persistent, keepAlive: 0, subscriptions })
          yield* expectWords(peer, 5, "subscribe 1 a/#:1", "subscribe 2 a/+:1")
          yield* send(peer, 5, suback(1, 1), suback(2, 1))
          const both = yield* start(Stream.runForEach(
            client.subscribe(["a/#", "a/+"], { qos: 1 }),
            (message) => Message.text(message) === "2" ? Effect.never : Effect.void
          ))
          for (const n of [1, 3, 5, 7]) {
            const payload = `${(n + 1) / 2}`
            const copies = [copy("a/b", n, [""], { payload }), copy("a/b", n + 1, ["a/+"], { payload })]
            yield* send(peer, 5, ...isNewerFirst ? copies.toReversed() : copies)
          }
          yield* sent(peer, 5)
          yield* Fiber.interrupt(both)
          for (const filter of listeners) {
            const { seen } = yield* collect(client.durable(filter))
            yield* sent(peer, 5)
            // What came with the first copies may come twice.
            assert.includeMembers(seen, ["2", "3", "4"])
          }
        })))
    }
  }

  it.effect("SH-03: a shared and a plain subscription each get their copy", () =>
    run(Effect.gen(function*() {
      const { one, peer, two } = yield* overlapping(1, ["a/+", "$share/g/a/#"])
      yield* send(peer, 5, copy("a/b", 1, [""], { payload: "1" }), copy("a/b", 2, ["$share/g/a/#"], { payload: "1" }))
      yield* sent(peer, 5)
      assert.deepStrictEqual([one, two], [["1"], ["1"]])
    })))

  it.effect("SH-03: a message whose share goes to another client is not for the shared subscription", () =>
    run(Effect.gen(function*() {
      const { one, peer, two } = yield* overlapping(1, ["a/+", "$share/g/a/#"])
      const shared = ["$share/g/a/#"]
      yield* send(peer, 5, copy("a/b", 1, [""], { payload: "1" }), copy("a/b", 2, shared, { payload: "1" }))
      yield* send(peer, 5, copy("a/b", 3, [""], { payload: "2" }))
      yield* send(peer, 5, copy("a/b", 4, shared, { payload: "3" }), copy("a/b", 5, [""], { payload: "3" }))
      assert.strictEqual((yield* sent(peer, 5)).length, 5)
      assert.deepStrictEqual([one, two], [["1", "2", "3"], ["1", "3"]])
    })))

  it.effect("law 4: what one share brings is no substitute for what another brings", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      const shares = ["$share/g/a/#", "$share/h/a/+"] as const
      const { seen } = yield* collect((yield* subscribed(client, peer, 5, shares, { qos: 1 })).messages)
      // Two messages: the other share of each went to another client.
      for (const n of [1, 3]) yield* send(peer, 5, copy("a/b", n, [shares[0]]), copy("a/b", n + 1, [shares[1]]))
      yield* sent(peer, 5)
      assert.strictEqual(seen.length, 4)
    })))

  it.effect("one subscriber with a plain and a shared filter gets each message once", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      const { fiber } = yield* subscribing(client, ["a/+", "$share/g/a/#"], { qos: 1 })
      yield* expectWords(peer, 5, "subscribe 1 a/+:1", "subscribe 2 $share/g/a/#:1")
      yield* send(peer, 5, suback(1, 1), suback(2, 1))
      const { seen } = yield* collect((yield* Fiber.join(fiber)).messages)
      for (const n of [1, 3]) {
        yield* send(peer, 5, copy("a/b", n, [""], { payload: `${n}` }))
        yield* send(peer, 5, copy("a/b", n + 1, ["$share/g/a/#"], { payload: `${n}` }))
      }
      assert.strictEqual((yield* sent(peer, 5)).length, 4)
      assert.deepStrictEqual(seen, ["1", "3"])
    })))

  // What a broker does with overlaps, and whether each subscriber then gets each message just once.
  const anyFilters = Arbitrary.array(
    Arbitrary.all([
      Arbitrary.schema(Schema.Literals(["#", "+/+", "a/#", "a/+", "+/b", "a/b", "a/b/#", "+/#", "c"])),
      Arbitrary.schema(Schema.Literals([0, 1, 2]))
    ]),
    { minLength: 2, maxLength: 6 }
  )
  for (const overlap of ["once", "perSubscription"] as const) {
    it.effect.prop(
      `every subscriber gets every message once (overlap: ${overlap})`,
      [
        anyFilters,
        Arbitrary.array(Arbitrary.schema(Schema.Literals(["a/b", "a/c", "c"])), { minLength: 1, maxLength: 8 })
      ],
      ([filters, topics]) =>
        Effect.gen(function*() {
          const client = yield* Client
          const broker = yield* Broker
          const streams = yield* Effect.forEach(filters, ([filter, qos]) =>
            Effect.gen(function*() {
              const seen: Array<string> = []
              const { messages } = yield* client.subscription(filter, { qos })
              yield* start(Stream.runForEach(messages, (message) =>
                Effect.sync(() => seen.push(`${message.topic} ${Message.text(message)}`))))
              return { filter, seen }
            }))
          for (const [index, topic] of topics.entries()) {
            yield* broker.publish({ topic, payload: `${index}`, qos: 2 })
          }
          yield* broker.settle
          const all = topics.map((topic, index) =>
            `${topic} ${index}`
          )
          for (const { filter, seen } of streams) {
            const expected = all.filter((text) => TopicFilter.matches(filter, text.split(" ")[0]!))
            // Until it is known what the broker does, a weaker copy that comes first does not stand for a stronger one.
            assert.sameMembers([...new Set(seen)], expected)
            assert.isAtMost(seen.length, expected.length + 1)
          }
        }).pipe(Effect.scoped, Effect.provide(MqttClient.layerTest({}, { overlap }))),
      { arbitrary: { runs: 60 } }
    )
  }
})
