import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import { collect, stepwise } from "../../support/Consumer.ts"
import {
  accepted,
  awaitStatus,
  expectPackets,
  expectWords,
  handshake,
  inWords,
  message,
  open,
  resumed,
  run,
  runFromOne,
  send,
  start
} from "../../support/ScriptedBroker.ts"
import {
  drop,
  persistent,
  reasonOf,
  sent,
  suback,
  subscribed,
  subscribing,
  unsuback
} from "../../support/Subscriptions.ts"

describe("Subscriptions", () => {
  for (const version of [4, 5] as const) {
    const lost = accepted[version]
    const kept = resumed[version]
    const protocolVersion = version

    describe(`on MQTT ${version === 4 ? "3.1.1" : "5.0"}`, () => {
      describe("sharing a filter", () => {
        it.effect("gives every message to both subscribers of one filter, and the last to leave unsubscribes", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion })
            const first = yield* subscribed(client, peer, version, "a", { qos: 1 })
            const second = yield* subscribing(client, "a", { qos: 1 })
            assert.deepStrictEqual((yield* Fiber.join(second.fiber)).grants, [{ filter: "a", qos: 1 }])
            const one = yield* collect(first.messages)
            const two = yield* collect((yield* Fiber.join(second.fiber)).messages)
            // It is asked for again, for the retained messages.
            yield* expectWords(peer, version, "subscribe 2 a:1")
            yield* send(peer, version, suback(2, 1))
            yield* send(peer, version, message("a", 1, { payload: "1" }), message("a", 0, { payload: "2" }))
            assert.deepStrictEqual(yield* sent(peer, version), ["puback 1"])
            assert.deepStrictEqual([one.seen, two.seen], [["1", "2"], ["1", "2"]])
            yield* first.leave
            yield* send(peer, version, message("a", 2, { payload: "3" }))
            assert.deepStrictEqual(yield* sent(peer, version), ["puback 2"])
            assert.deepStrictEqual([one.seen, two.seen], [["1", "2"], ["1", "2", "3"]])
            yield* second.leave
            assert.deepStrictEqual(yield* sent(peer, version), ["unsubscribe 3 a"])
          })))

        it.effect("law 4: acknowledges when the last of them came back for more", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion })
            const first = yield* stepwise((yield* subscribed(client, peer, version, "a/#", { qos: 1 })).messages)
            const second = yield* stepwise((yield* subscribed(client, peer, version, "a/+", { qos: 1 })).messages)
            yield* send(peer, version, message("a/b", 9))
            assert.strictEqual(yield* first.take, "a/b")
            assert.strictEqual(yield* second.take, "a/b")
            yield* second.goOn
            assert.deepStrictEqual(yield* sent(peer, version), [])
            yield* first.goOn
            assert.deepStrictEqual(yield* sent(peer, version), ["puback 9"])
          })))

        it.effect("asks for the stronger QoS, and for the weaker one when the stronger leaves", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion })
            yield* subscribed(client, peer, version, "a", { qos: 0 })
            const strong = yield* subscribed(client, peer, version, "a", { qos: 2 })
            assert.strictEqual(strong.words, "subscribe 2 a:2")
            const weak = yield* subscribing(client, "a", { qos: 1 })
            assert.deepStrictEqual((yield* Fiber.join(weak.fiber)).grants, [{ filter: "a", qos: 2 }])
            yield* strong.leave
            assert.deepStrictEqual(yield* sent(peer, version), ["subscribe 3 a:1"])
          })))

        it.effect("a refused upgrade leaves the first subscriber alone", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion })
            const first = yield* collect((yield* subscribed(client, peer, version, "a", { qos: 0 })).messages)
            const second = yield* subscribing(client, "a", { qos: 2 })
            yield* expectWords(peer, version, "subscribe 2 a:2")
            yield* send(peer, version, suback(2, 0x80), message("a"))
            assert.strictEqual((yield* reasonOf(Fiber.join(second.fiber)))._tag, "SubscriptionRefused")
            assert.deepStrictEqual(yield* sent(peer, version), [])
            assert.deepStrictEqual(first.seen, ["a"])
          })))

        it.effect("a refused upgrade that came before the first SUBACK leaves the first subscriber alone", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion })
            const first = yield* subscribing(client, "a", { qos: 0 })
            yield* expectWords(peer, version, "subscribe 1 a:0")
            const second = yield* subscribing(client, "a", { qos: 2 })
            yield* send(peer, version, suback(1, 0))
            assert.deepStrictEqual((yield* Fiber.join(first.fiber)).grants, [{ filter: "a", qos: 0 }])
            yield* expectWords(peer, version, "subscribe 2 a:2")
            yield* send(peer, version, suback(2, 0x80))
            assert.strictEqual((yield* reasonOf(Fiber.join(second.fiber)))._tag, "SubscriptionRefused")
            const { seen } = yield* collect((yield* Fiber.join(first.fiber)).messages)
            yield* send(peer, version, message("a"))
            assert.deepStrictEqual(yield* sent(peer, version), [])
            assert.deepStrictEqual(seen, ["a"])
          })))

        it.effect("who joined with less while an upgrade was under way survives its refusal", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion })
            yield* subscribed(client, peer, version, "a", { qos: 1 })
            const upgrade = yield* subscribing(client, "a", { qos: 2 })
            yield* expectWords(peer, version, "subscribe 2 a:2")
            const late = yield* subscribing(client, "a", { qos: 0 })
            yield* send(peer, version, suback(2, 0x80))
            assert.strictEqual((yield* reasonOf(Fiber.join(upgrade.fiber)))._tag, "SubscriptionRefused")
            assert.deepStrictEqual((yield* Fiber.join(late.fiber)).grants, [{ filter: "a", qos: 1 }])
            // For its retained messages.
            assert.deepStrictEqual(yield* sent(peer, version), ["subscribe 3 a:1"])
          })))

        it.effect("who joined with more while an upgrade was under way is asked for after its refusal", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion })
            yield* subscribed(client, peer, version, "a", { qos: 0 })
            const upgrade = yield* subscribing(client, "a", { qos: 1 })
            yield* expectWords(peer, version, "subscribe 2 a:1")
            const late = yield* subscribing(client, "a", { qos: 2 })
            yield* send(peer, version, suback(2, 0x80))
            assert.strictEqual((yield* reasonOf(Fiber.join(upgrade.fiber)))._tag, "SubscriptionRefused")
            yield* expectWords(peer, version, "subscribe 3 a:2")
            yield* send(peer, version, suback(3, 2))
            assert.deepStrictEqual((yield* Fiber.join(late.fiber)).grants, [{ filter: "a", qos: 2 }])
          })))

        it.effect("a refused upgrade can be tried again at once", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion })
            yield* subscribed(client, peer, version, "a", { qos: 0 })
            const upgrade = yield* start(Effect.retry(client.subscription("a", { qos: 2 }), { times: 1 }))
            yield* expectWords(peer, version, "subscribe 2 a:2")
            yield* send(peer, version, suback(2, 0x80))
            yield* expectWords(peer, version, "subscribe 3 a:2")
            yield* send(peer, version, suback(3, 2))
            assert.deepStrictEqual((yield* Fiber.join(upgrade)).grants, [{ filter: "a", qos: 2 }])
          })))

        it.effect("who joins while UNSUBSCRIBE is under way is subscribed after it", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion })
            const first = yield* subscribed(client, peer, version, "a")
            yield* first.leave
            yield* expectWords(peer, version, "unsubscribe 2 a")
            const second = yield* subscribing(client, "a")
            assert.deepStrictEqual(yield* sent(peer, version), [])
            yield* send(peer, version, unsuback(2, 0))
            yield* expectWords(peer, version, "subscribe 3 a:0")
            yield* send(peer, version, suback(3, 0))
            yield* Fiber.join(second.fiber)
          })))

        it.effect("who leaves while SUBSCRIBE is under way unsubscribes after it", () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open({ protocolVersion })
            const { leave } = yield* subscribing(client, "a")
            yield* expectWords(peer, version, "subscribe 1 a:0")
            yield* leave
            assert.deepStrictEqual(yield* sent(peer, version), [])
            yield* send(peer, version, suback(1, 0))
            assert.deepStrictEqual(yield* sent(peer, version), ["unsubscribe 2 a"])
          })))
      })

      describe("a new connection", () => {
        it.effect("SS-12, law 10: after a lost session re-subscribes in one packet, before anything else goes out", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion })
            const { client, peer } = server
            const streams = yield* Effect.forEach(
              ["a/+", "b", "c/#"],
              (filter) =>
                Effect.flatMap(
                  subscribed(client, peer, version, filter, { qos: 1 }),
                  ({ messages }) => collect(messages)
                )
            )
            yield* start(client.publish({ topic: "p", qos: 1 }))
            yield* expectWords(peer, version, "publish 4 p:1")
            yield* peer.reset
            yield* awaitStatus(client, "Reconnecting")
            yield* start(client.publish({ topic: "q" }))
            const events = yield* start(
              client.events.pipe(Stream.filter((event) => event._tag === "Resubscribed"), Stream.runHead)
            )
            yield* TestClock.adjust("1 second")
            const second = yield* handshake(server.listener, lost)
            yield* expectWords(second, version, "subscribe 5 a/+:1 b:1 c/#:1", "publish 6 p:1")
            assert.match(inWords(yield* second.readFrame, version), /^publish(?: 0)? q:0$/)
            const event = yield* Fiber.join(events)
            assert.deepInclude(event, { value: { _tag: "Resubscribed", filters: ["a/+", "b", "c/#"] } })
            yield* send(second, version, suback(5, 1, 1, 1), message("a/1"), message("b"), message("c"))
            yield* sent(second, version)
            assert.deepStrictEqual(streams.map(({ seen }) => seen), [["a/1"], ["b"], ["c"]])
          })))

        it.effect("re-subscribes more filters than fit into one packet, all of them before anything else", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion })
            const { client, peer } = server
            const filters = Array.from({ length: 300 }, (_, index) => `f/${index}`)
            const { fiber } = yield* subscribing(client, filters)
            for (const [id, count] of [[1, 128], [2, 128], [3, 44]] as const) {
              assert.strictEqual(inWords(yield* peer.readFrame, version).split(" ").length, count + 2)
              yield* send(peer, version, suback(id, ...Array.from({ length: count }, () => 0)))
            }
            assert.deepStrictEqual((yield* Fiber.join(fiber)).grants.map(({ filter }) => filter), filters)
            yield* peer.reset
            yield* awaitStatus(client, "Reconnecting")
            yield* start(client.publish({ topic: "q", qos: 1 }))
            yield* TestClock.adjust("1 second")
            const second = yield* handshake(server.listener, lost)
            const packets = (yield* sent(second, version)).map((words) => words.split(" ")[0])
            assert.deepStrictEqual(packets, ["subscribe", "subscribe", "subscribe", "publish"])
          })))

        it.effect("SS-12: does not re-subscribe when the session is present", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion, ...persistent })
            const { client, peer } = server
            const { seen } = yield* collect((yield* subscribed(client, peer, version, "a", { qos: 1 })).messages)
            const second = yield* drop(server, kept)
            yield* send(second, version, message("a", 5))
            assert.deepStrictEqual(yield* sent(second, version), ["puback 5"])
            assert.deepStrictEqual(seen, ["a"])
          })))

        it.effect("ends the stream typed whose re-subscription is refused, and leaves the others alone", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion })
            const { client, peer } = server
            const refused = yield* subscribed(client, peer, version, ["a", "b"])
            const other = yield* collect((yield* subscribed(client, peer, version, "c")).messages)
            const ended = yield* start(reasonOf(Stream.runDrain(refused.messages)))
            const second = yield* drop(server, lost)
            yield* expectWords(second, version, "subscribe 3 a:0 b:0 c:0")
            yield* send(second, version, suback(3, 0, 0x80, 0), message("c"))
            const reason = yield* Fiber.join(ended)
            assert.strictEqual(reason._tag === "SubscriptionRefused" && reason.filter, "b")
            yield* sent(second, version)
            assert.deepStrictEqual(other.seen, ["c"])
            // What is left of the subscription goes with its scope.
            yield* refused.leave
            assert.deepStrictEqual(yield* sent(second, version), ["unsubscribe 4 a"])
          })))

        it.effect("keeps a QoS 1 message for others that comes for a stream which has failed", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion })
            const { client, peer } = server
            const refused = yield* subscribed(client, peer, version, ["a", "b"], { qos: 1 })
            const second = yield* drop(server, lost)
            yield* expectWords(second, version, "subscribe 2 a:1 b:1")
            yield* send(second, version, suback(2, 1, 0x80), message("a", 1))
            assert.deepStrictEqual(yield* sent(second, version), [])
            assert.strictEqual((yield* client.stats).unclaimed, 1)
            const { seen } = yield* collect(client.subscribe("a", { qos: 1 }))
            assert.deepStrictEqual(yield* sent(second, version), ["subscribe 3 a:1", "puback 1"])
            assert.deepStrictEqual(seen, ["a"])
            assert.strictEqual((yield* reasonOf(Stream.runDrain(refused.messages)))._tag, "SubscriptionRefused")
          })))

        it.effect("sends an UNSUBSCRIBE that was owed while offline, and acknowledges at once what comes before it", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion, ...persistent })
            const { client, listener, peer } = server
            const { leave } = yield* subscribed(client, peer, version, "a", { qos: 1 })
            yield* peer.reset
            yield* awaitStatus(client, "Reconnecting")
            yield* leave
            yield* TestClock.adjust("1 second")
            const second = yield* listener.accept
            yield* second.readFrame
            // The backlog is right behind CONNACK.
            yield* second.sendHex(`${kept} 32 ${version === 4 ? "05 00 01 61 00 07" : "06 00 01 61 00 07 00"}`)
            yield* expectWords(second, version, "unsubscribe 2 a", "puback 7")
            const { unclaimed } = yield* client.stats
            assert.strictEqual(unclaimed, 0)
            // Without an answer it is owed still.
            const third = yield* drop({ ...server, peer: second }, kept)
            yield* expectWords(third, version, "unsubscribe 3 a")
            yield* send(third, version, unsuback(3, 0))
            const fourth = yield* drop({ ...server, peer: third }, kept)
            assert.deepStrictEqual(yield* sent(fourth, version), [])
          })))

        it.effect("owes no UNSUBSCRIBE to a server that has lost the session", () =>
          run(Effect.gen(function*() {
            const server = yield* open({ protocolVersion, ...persistent })
            const { client, listener, peer } = server
            const { leave } = yield* subscribed(client, peer, version, "a", { qos: 1 })
            yield* client.pause
            yield* leave
            const resuming = yield* start(client.resume)
            const second = yield* handshake(listener, lost)
            yield* Fiber.join(resuming)
            assert.deepStrictEqual(yield* sent(second, version), [])
          })))

        it.effect("sends an UNSUBSCRIBE that was owed while paused", () =>
          run(Effect.gen(function*() {
            const { client, listener, network, peer } = yield* open({ protocolVersion, ...persistent })
            const { leave } = yield* subscribed(client, peer, version, "a", { qos: 1 })
            const { seen } = yield* collect((yield* subscribed(client, peer, version, "b", { qos: 1 })).messages)
            yield* client.pause
            yield* leave
            const { activity } = network
            yield* TestClock.adjust("1 week")
            assert.strictEqual(network.activity, activity)
            yield* start(client.resume)
            const second = yield* handshake(listener, kept)
            yield* expectWords(second, version, "unsubscribe 3 a")
            yield* send(second, version, message("b", 3))
            yield* expectWords(second, version, "puback 3")
            assert.deepStrictEqual(seen, ["b"])
          })))

        it.effect("to another server that has a session of its own subscribes there", () =>
          runFromOne(Effect.gen(function*() {
            const { client, network, peer } = yield* open({ protocolVersion, ...persistent })
            const { seen } = yield* collect((yield* subscribed(client, peer, version, "a", { qos: 1 })).messages)
            const other = yield* network.listen({ host: "other" })
            yield* start(client.reconnect((options) => ({ ...options, endpoint: "mqtt://other" })))
            const second = yield* handshake(other, kept)
            yield* expectWords(second, version, "subscribe 2 a:1")
            yield* send(second, version, suback(2, 1), message("a", 1))
            yield* expectWords(second, version, "puback 1")
            assert.deepStrictEqual(seen, ["a"])
          })))

        it.effect("of the other protocol version keeps the streams", () =>
          run(Effect.gen(function*() {
            const other = version === 4 ? 5 : 4
            const { client, listener, peer } = yield* open({ protocolVersion })
            const { seen } = yield* collect((yield* subscribed(client, peer, version, "a", { qos: 2 })).messages)
            yield* start(client.reconnect((options) => ({ ...options, protocolVersion: other })))
            const second = yield* handshake(listener, accepted[other])
            yield* expectWords(second, other, "subscribe 2 a:2")
            yield* send(second, other, suback(2, 2), message("a", 1, { qos: 2 }))
            yield* expectWords(second, other, "pubrec 1")
            assert.deepStrictEqual(seen, ["a"])
          })))
      })
    })
  }

  it.effect("a shared filter that MQTT 5.0 does not allow ends its stream typed when the version changes", () =>
    run(Effect.gen(function*() {
      const { client, listener, peer } = yield* open({ protocolVersion: 4 })
      const bad = yield* subscribed(client, peer, 4, "$share/g")
      const ended = yield* start(reasonOf(Stream.runDrain(bad.messages)))
      yield* subscribed(client, peer, 4, "a")
      yield* start(client.reconnect((options) => ({ ...options, protocolVersion: 5 })))
      const second = yield* handshake(listener, accepted[5])
      yield* expectWords(second, 5, "subscribe 3 a:0")
      assert.strictEqual((yield* Fiber.join(ended))._tag, "InvalidSubscription")
    })))

  it.effect("SB-17: the other options of the later subscriber replace those of the earlier", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      const first = yield* subscribed(client, peer, 5, "a", { qos: 1 })
      const second = yield* subscribing(client, "a", { qos: 0, retainAsPublished: true })
      yield* expectPackets(peer, "82 07 00 02 00 00 01 61 09")
      yield* send(peer, 5, suback(2, 1))
      assert.deepStrictEqual((yield* Fiber.join(second.fiber)).grants, [{ filter: "a", qos: 1 }])
      const one = yield* collect(first.messages)
      const two = yield* collect((yield* Fiber.join(second.fiber)).messages)
      yield* send(peer, 5, message("a", 1))
      assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1"])
      assert.deepStrictEqual([one.seen, two.seen], [["a"], ["a"]])
    })))

  it.effect("CK-20: a wildcard that the next server does not support ends its stream typed", () =>
    run(Effect.gen(function*() {
      const server = yield* open()
      const { client, peer } = server
      const wildcard = yield* subscribed(client, peer, 5, "a/#")
      const ended = yield* start(reasonOf(Stream.runDrain(wildcard.messages)))
      yield* subscribed(client, peer, 5, "a")
      const second = yield* drop(server, "20 05 00 00 02 28 00")
      yield* expectWords(second, 5, "subscribe 4 a:0")
      assert.strictEqual((yield* Fiber.join(ended))._tag, "NotSupportedByServer")
    })))

  it.effect("user properties belong to their packet: filters with others go in another one", () =>
    run(Effect.gen(function*() {
      const server = yield* open()
      const { client, peer } = server
      yield* subscribed(client, peer, 5, "a", { userProperties: [["k", "v"]] })
      yield* subscribed(client, peer, 5, "b")
      yield* subscribed(client, peer, 5, "c")
      const second = yield* drop(server, accepted[5])
      yield* expectWords(second, 5, "subscribe 4 a:0", "subscribe 5 b:0 c:0")
    })))
})
