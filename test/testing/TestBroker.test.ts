import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Stream } from "effect"
import type { Scope } from "effect"
import { TestClock } from "effect/testing"
import type { Transport } from "../../src/services/Transport.ts"
import { Hex, TestBroker } from "../../src/testing/index.ts"
import type { MemoryNetwork } from "../../src/testing/index.ts"
import { connect, connected, dial } from "./ScriptedClient.ts"
import type { Json } from "./ScriptedClient.ts"

const { TestBroker: Broker } = TestBroker

const run = <A, E>(
  effect: Effect.Effect<A, E, TestBroker.TestBroker | MemoryNetwork.MemoryNetwork | Transport | Scope.Scope>,
  options?: TestBroker.TestBrokerOptions
) => Effect.provide(Effect.scoped(effect), TestBroker.layer(options))

const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

const text = (packet: Json) => String(packet["payload"])

const subscribe = (messageId: number, topic: string, options: Json = {}) => ({
  cmd: "subscribe",
  messageId,
  subscriptions: [{ topic, qos: 0, nl: false, rap: false, rh: 0, ...options }]
})

const publish = (topic: string, payload: string, options: Json = {}) => ({
  cmd: "publish",
  topic,
  payload,
  qos: 0,
  dup: false,
  retain: false,
  ...options
})

const persistent = { clean: false, properties: { sessionExpiryInterval: 3_600 } }

describe("TestBroker", () => {
  for (const version of [4, 5] as const) {
    describe(version === 5 ? "MQTT 5.0" : "MQTT 3.1.1", () => {
      it.effect("connects, answers a ping and takes a DISCONNECT", () =>
        run(Effect.gen(function*() {
          const broker = yield* Broker
          const client = yield* connected({ version, clientId: "a", keepalive: 30 })
          assert.strictEqual(client.connack["sessionPresent"], false)
          yield* client.send({ cmd: "pingreq" })
          yield* client.take("pingresp")
          const [info] = broker.clients
          assert.strictEqual(info?.clientId, "a")
          assert.strictEqual(info?.keepAlive, 30)
          yield* client.send({ cmd: "disconnect", reasonCode: 0 })
          assert.strictEqual(yield* client.end, "eof")
          yield* broker.awaitGone("a")
          assert.deepStrictEqual(broker.sessions, [])
          assert.deepStrictEqual(
            broker.log.map((entry) => `${entry.from} ${entry.packet._tag}`),
            ["client Connect", "broker Connack", "client Pingreq", "broker Pingresp", "client Disconnect"]
          )
        })))

      it.effect("delivers at the lower of both QoS, for all pairs", () =>
        run(Effect.gen(function*() {
          const subscriber = yield* connected({ version, clientId: "s" })
          const publisher = yield* connected({ version, clientId: "p" })
          for (const granted of [0, 1, 2]) {
            yield* subscriber.send(subscribe(10 + granted, `t/${granted}`, { qos: granted }))
            assert.deepStrictEqual((yield* subscriber.take("suback"))["granted"], [granted])
            for (const qos of [0, 1, 2]) {
              yield* publisher.send(publish(`t/${granted}`, `${granted}${qos}`, { qos, messageId: 7 }))
              if (qos === 1) yield* publisher.take("puback")
              if (qos === 2) {
                yield* publisher.take("pubrec")
                yield* publisher.ack("pubrel", 7)
                yield* publisher.take("pubcomp")
              }
              const message = yield* subscriber.take("publish")
              assert.deepStrictEqual([message["qos"], text(message)], [Math.min(granted, qos), `${granted}${qos}`])
              const id = message["messageId"] as number
              if (message["qos"] === 1) yield* subscriber.ack("puback", id)
              if (message["qos"] === 2) {
                yield* subscriber.ack("pubrec", id)
                yield* subscriber.take("pubrel")
                yield* subscriber.ack("pubcomp", id)
              }
            }
          }
          const broker = yield* Broker
          const session = yield* broker.awaitSession("s", (session) => session.unacked === 0)
          assert.strictEqual(session.queued, 0)
        })))

      it.effect("repeats unacknowledged messages with DUP, and PUBREL, in order after a resume", () =>
        run(Effect.gen(function*() {
          const broker = yield* Broker
          const options = { version, clientId: "s", ...(version === 5 ? persistent : { clean: false }) }
          const first = yield* connected(options)
          yield* first.send(subscribe(1, "#", { qos: 2 }))
          yield* first.take("suback")
          yield* broker.publish({ topic: "a", payload: "1", qos: 1 })
          yield* broker.publish({ topic: "a", payload: "2", qos: 2 })
          yield* broker.publish({ topic: "a", payload: "3", qos: 2 })
          for (const _ of [1, 2, 3]) yield* first.take("publish")
          yield* first.ack("pubrec", 2)
          yield* first.take("pubrel")
          yield* first.abort
          yield* broker.awaitGone("s")
          yield* broker.publish({ topic: "a", payload: "4", qos: 1 })
          yield* broker.publish({ topic: "a", payload: "lost", qos: 0 })
          assert.deepStrictEqual(
            broker.sessions.map(({ queued, unacked }) => [queued, unacked]),
            [[1, 3]]
          )
          const second = yield* connected(options)
          assert.strictEqual(second.connack["sessionPresent"], true)
          const seen: Array<string> = []
          for (const _ of [1, 2, 3, 4]) {
            const packet = yield* second.next
            const what = packet["cmd"] === "publish" ? `${text(packet)}${packet["dup"] === true ? " dup" : ""}` : ""
            seen.push(`${packet["cmd"] as string} ${packet["messageId"] as number} ${what}`.trim())
          }
          assert.deepStrictEqual(seen, ["publish 1 1 dup", "pubrel 2", "publish 3 3 dup", "publish 4 4"])
        })))

      it.effect("takes a QoS 2 publish once, however often it is repeated, also after a resume", () =>
        run(Effect.gen(function*() {
          const broker = yield* Broker
          const options = { version, clientId: "p", ...(version === 5 ? persistent : { clean: false }) }
          const listener = yield* connected({ version, clientId: "s" })
          yield* listener.send(subscribe(1, "t"))
          yield* listener.take("suback")
          const first = yield* connected(options)
          yield* first.send(publish("t", "x", { qos: 2, messageId: 5 }))
          yield* first.take("pubrec")
          yield* first.abort
          yield* broker.awaitGone("p")
          const second = yield* connected(options)
          yield* second.send(publish("t", "x", { qos: 2, messageId: 5, dup: true }))
          yield* second.take("pubrec")
          yield* second.ack("pubrel", 5)
          yield* second.take("pubcomp")
          yield* second.ack("pubrel", 5)
          const again = yield* second.take("pubcomp")
          if (version === 5) assert.strictEqual(again["reasonCode"], 0x92)
          assert.strictEqual(text(yield* listener.take("publish")), "x")
          yield* broker.settle
          assert.strictEqual(broker.packetsOf({ from: "broker", type: "Publish" }).length, 1)
        })))

      it.effect("keeps retained messages, marks them and forgets them by an empty payload", () =>
        run(Effect.gen(function*() {
          const broker = yield* Broker
          const publisher = yield* connected({ version, clientId: "p" })
          yield* publisher.send(publish("t", "kept", { retain: true }))
          const client = yield* connected({ version, clientId: "s" })
          yield* client.send(subscribe(1, "+"))
          yield* client.take("suback")
          const kept = yield* client.take("publish")
          assert.deepStrictEqual([text(kept), kept["retain"]], ["kept", true])
          yield* publisher.send(publish("t", "live", { retain: true }))
          assert.strictEqual((yield* client.take("publish"))["retain"], false)
          yield* publisher.send(publish("t", "", { retain: true }))
          yield* client.take("publish")
          assert.deepStrictEqual(broker.retained, [])
        })))

      it.effect("publishes the will of a client that goes without DISCONNECT, and only then", () =>
        run(Effect.gen(function*() {
          const broker = yield* Broker
          const watcher = yield* connected({ version, clientId: "w" })
          yield* watcher.send(subscribe(1, "will"))
          yield* watcher.take("suback")
          const will = { topic: "will", payload: Buffer.from("gone"), qos: 0, retain: false }
          const polite = yield* connected({ version, clientId: "polite", will })
          yield* polite.send({ cmd: "disconnect", reasonCode: 0 })
          yield* polite.close
          yield* broker.awaitGone("polite")
          const rude = yield* connected({ version, clientId: "rude", will })
          yield* rude.abort
          assert.strictEqual(text(yield* watcher.take("publish")), "gone")
          yield* broker.expectPacket({ from: "broker", type: "Publish" })
          yield* broker.expectNoPacket({ from: "broker", type: "Publish" })
        })))

      it.effect("takes a client id over, with 0x8e on MQTT 5.0", () =>
        run(Effect.gen(function*() {
          const first = yield* connected({ version, clientId: "same" })
          const second = yield* connected({ version, clientId: "same" })
          if (version === 5) assert.strictEqual((yield* first.take("disconnect"))["reasonCode"], 0x8e)
          assert.strictEqual(yield* first.end, "eof")
          yield* second.send({ cmd: "pingreq" })
          yield* second.take("pingresp")
        })))

      it.effect("drops a client that was silent for one and a half keep alives", () =>
        run(Effect.gen(function*() {
          const broker = yield* Broker
          const client = yield* connected({ version, clientId: "c", keepalive: 10 })
          yield* TestClock.adjust("9 seconds")
          yield* client.send({ cmd: "pingreq" })
          yield* client.take("pingresp")
          yield* TestClock.adjust("14999 millis")
          assert.strictEqual(broker.clients.length, 1)
          yield* TestClock.adjust("1 millis")
          assert.strictEqual(broker.clients.length, 0)
          if (version === 5) assert.strictEqual((yield* client.take("disconnect"))["reasonCode"], 0x8d)
          const violation = yield* broker.expectViolation("KA-01c")
          assert.strictEqual(violation.at, 24_000)
        })))

      it.effect("is exact also when the clock stands between two milliseconds", () =>
        run(Effect.gen(function*() {
          const broker = yield* Broker
          yield* TestClock.adjust(717.25614)
          const client = yield* connected({ version, keepalive: 60 })
          for (let i = 0; i < 500; i++) {
            yield* TestClock.adjust("1 minute")
            yield* client.send({ cmd: "pingreq" })
            yield* client.take("pingresp")
          }
          assert.deepStrictEqual(broker.violations, [])
          yield* TestClock.adjust("89999 millis")
          assert.strictEqual(broker.clients.length, 1)
          yield* TestClock.adjust("1 millis")
          assert.strictEqual(broker.clients.length, 0)
          yield* broker.expectViolation("KA-01c")
        })))

      it.effect("never drops a client without keep alive", () =>
        run(Effect.gen(function*() {
          const broker = yield* Broker
          yield* connected({ version, keepalive: 0 })
          yield* TestClock.adjust("30 days")
          assert.strictEqual(broker.clients.length, 1)
        })))

      it.effect("refuses what its predicates refuse", () =>
        run(
          Effect.gen(function*() {
            const broker = yield* Broker
            const stranger = yield* connected({ version, clientId: "bad" })
            assert.strictEqual(stranger.connack[version === 5 ? "reasonCode" : "returnCode"], version === 5 ? 0x86 : 4)
            assert.strictEqual(yield* stranger.end, "eof")
            const client = yield* connected({ version, clientId: "good", username: "u", password: Buffer.from("p") })
            yield* client.send({
              ...subscribe(1, "x"),
              subscriptions: ["secret", "open"].map((topic) => ({ topic, qos: 1 }))
            })
            assert.deepStrictEqual((yield* client.take("suback"))["granted"], [version === 5 ? 0x87 : 0x80, 1])
            yield* client.send(publish("secret", "x", { qos: 1, messageId: 1 }))
            const puback = yield* client.take("puback")
            if (version === 5) assert.strictEqual(puback["reasonCode"], 0x87)
            assert.strictEqual(broker.packetsOf({ from: "broker", type: "Publish" }).length, 0)
          }),
          {
            authenticate: (connect) => connect.username === "u" ? 0 : version === 5 ? 0x86 : 4,
            authorizePublish: (_, packet) => packet.topic === "secret" ? 0x87 : 0,
            authorizeSubscribe: (_, request) => request.filter === "secret" ? 0x87 : 0
          }
        ))
    })
  }

  describe("sessions", () => {
    it.effect("expire after their interval, and not before", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const options = { clientId: "s", clean: false, properties: { sessionExpiryInterval: 60 } }
        const first = yield* connected(options)
        yield* first.abort
        yield* TestClock.adjust("59999 millis")
        const second = yield* connected(options)
        assert.strictEqual(second.connack["sessionPresent"], true)
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(broker.sessions.length, 1)
        yield* second.abort
        yield* TestClock.adjust("60 seconds")
        assert.deepStrictEqual(broker.sessions, [])
        assert.strictEqual((yield* connected(options)).connack["sessionPresent"], false)
      })))

    it.effect("end at a clean start, and with the expiry that DISCONNECT carries", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const first = yield* connected({ clientId: "s", ...persistent })
        yield* first.send({ cmd: "disconnect", reasonCode: 0, properties: { sessionExpiryInterval: 0 } })
        yield* first.close
        yield* broker.awaitGone("s")
        assert.deepStrictEqual(broker.sessions, [])
        const second = yield* connected({ clientId: "s", ...persistent })
        yield* second.send(subscribe(1, "t"))
        yield* second.take("suback")
        yield* second.abort
        yield* broker.awaitGone("s")
        const third = yield* connected({ clientId: "s" })
        assert.strictEqual(third.connack["sessionPresent"], false)
        assert.deepStrictEqual(broker.sessions.map((session) => session.subscriptions.length), [0])
      })))

    it.effect("go by what CONNACK announced", () =>
      run(
        Effect.gen(function*() {
          const broker = yield* Broker
          const client = yield* connected({ clientId: "s", ...persistent })
          assert.deepStrictEqual(client.connack["properties"], { sessionExpiryInterval: 5 })
          yield* client.abort
          yield* TestClock.adjust("5 seconds")
          assert.deepStrictEqual(broker.sessions, [])
        }),
        { connack: { sessionExpiryInterval: 5 } }
      ))

    it.effect("get an identifier if the client has none", () =>
      run(Effect.gen(function*() {
        const client = yield* connected({ clientId: "" })
        assert.deepStrictEqual(client.connack["properties"], { assignedClientIdentifier: "assigned-1" })
      })))
  })

  describe("wills", () => {
    const will = (delay: number) => ({
      topic: "will",
      payload: Buffer.from("gone"),
      qos: 1,
      retain: false,
      properties: { willDelayInterval: delay }
    })

    const watching = Effect.gen(function*() {
      const watcher = yield* connected({ clientId: "w" })
      yield* watcher.send(subscribe(1, "will"))
      yield* watcher.take("suback")
      return (yield* Broker).packetsOf
    })
    const seen = { from: "broker", type: "Publish" } as const

    it.effect("wait for their delay", () =>
      run(Effect.gen(function*() {
        const packetsOf = yield* watching
        const client = yield* connected({ ...persistent, will: will(10) })
        yield* client.abort
        yield* TestClock.adjust("9999 millis")
        assert.strictEqual(packetsOf(seen).length, 0)
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(packetsOf(seen).map((entry) => entry.at), [10_000])
      })))

    it.effect("are not published if the client comes back in time", () =>
      run(Effect.gen(function*() {
        const packetsOf = yield* watching
        const client = yield* connected({ ...persistent, will: will(10) })
        yield* client.abort
        yield* TestClock.adjust("9 seconds")
        yield* connected(persistent)
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(packetsOf(seen).length, 0)
      })))

    it.effect("are published when the session ends before the delay", () =>
      run(Effect.gen(function*() {
        const packetsOf = yield* watching
        const properties = { sessionExpiryInterval: 3 }
        const client = yield* connected({ clean: false, properties, will: will(10) })
        yield* client.abort
        yield* TestClock.adjust("3 seconds")
        assert.deepStrictEqual(packetsOf(seen).map((entry) => entry.at), [3_000])
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(packetsOf(seen).length, 1)
      })))

    it.effect("are published after DISCONNECT 0x04", () =>
      run(Effect.gen(function*() {
        const packetsOf = yield* watching
        const client = yield* connected({ will: will(0) })
        yield* client.send({ cmd: "disconnect", reasonCode: 4 })
        yield* client.close
        yield* (yield* Broker).settle
        assert.strictEqual(packetsOf(seen).length, 1)
      })))
  })

  describe("subscriptions", () => {
    it.effect("sends a copy for each overlapping subscription, with its QoS and identifier, where it is told to", () =>
      run(
        Effect.gen(function*() {
          const broker = yield* Broker
          const client = yield* connected({ version: 5, clientId: "c" })
          yield* client.send({ ...subscribe(1, "a/+", { qos: 0 }), properties: { subscriptionIdentifier: 3 } })
          yield* client.send({
            ...subscribe(2, "a/#", { qos: 1, rap: true }),
            properties: { subscriptionIdentifier: 9 }
          })
          yield* client.send(subscribe(3, "a/b", { qos: 0 }))
          for (const _ of [1, 2, 3]) yield* client.take("suback")
          yield* broker.publish({ topic: "a/b", payload: "x", qos: 1, retain: true })
          const copies = []
          for (const _ of [1, 2, 3]) {
            const { properties, qos, retain } = yield* client.take("publish")
            copies.push([qos, retain, (properties as Json | undefined)?.["subscriptionIdentifier"]])
          }
          assert.deepStrictEqual(copies, [[0, false, 3], [1, true, 9], [0, false, undefined]])
        }),
        { overlap: "perSubscription" }
      ))

    it.effect("that overlap bring one copy, at the best QoS, with all identifiers", () =>
      run(Effect.gen(function*() {
        const client = yield* connected()
        yield* client.send({ ...subscribe(1, "a/+", { qos: 0 }), properties: { subscriptionIdentifier: 3 } })
        yield* client.send({ ...subscribe(2, "a/#", { qos: 1 }), properties: { subscriptionIdentifier: 9 } })
        yield* client.take("suback")
        yield* client.take("suback")
        const broker = yield* Broker
        yield* broker.publish({ topic: "a/b", qos: 2 })
        const message = yield* client.take("publish")
        assert.strictEqual(message["qos"], 1)
        assert.deepStrictEqual(message["properties"], { subscriptionIdentifier: [3, 9] })
        yield* client.send({ cmd: "unsubscribe", messageId: 3, unsubscriptions: ["a/+", "nothing"] })
        assert.deepStrictEqual((yield* client.take("unsuback"))["granted"], [0, 0x11])
      })))

    it.effect("follow No Local, Retain As Published and Retain Handling", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected()
        yield* client.send(subscribe(1, "t", { nl: true, rap: true, rh: 2 }))
        yield* client.take("suback")
        yield* client.send(publish("t", "own"))
        yield* broker.publish({ topic: "t", payload: "other", retain: true })
        const message = yield* client.take("publish")
        assert.deepStrictEqual([text(message), message["retain"]], ["other", true])
        yield* client.send(subscribe(2, "t", { rh: 2 }))
        yield* client.take("suback")
        yield* client.send(subscribe(3, "t", { rh: 1 }))
        yield* client.take("suback")
        yield* client.send(subscribe(4, "u", { rh: 1 }))
        yield* client.take("suback")
        yield* broker.expectPacket({ from: "broker", type: "Publish" })
        yield* broker.expectNoPacket({ from: "broker", type: "Publish" })
        yield* client.send(subscribe(5, "t"))
        yield* client.take("suback")
        assert.strictEqual(text(yield* client.take("publish")), "other")
      })))

    it.effect("that are shared take turns, and skip who is away", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const members = yield* Effect.all(["a", "b"].map((clientId) =>
          Effect.gen(function*() {
            const client = yield* connected({ clientId, ...persistent })
            yield* client.send(subscribe(1, "$share/g/t/+", { qos: 1 }))
            yield* client.take("suback")
            return client
          })
        ))
        const takers = () =>
          broker.packetsOf({ from: "broker", type: "Publish" }).map((entry) => entry.clientId).join("")
        for (const payload of ["1", "2", "3", "4"]) yield* broker.publish({ topic: "t/x", payload, qos: 1 })
        assert.strictEqual(takers(), "abab")
        yield* members[0]!.abort
        yield* broker.awaitGone("a")
        yield* broker.publish({ topic: "t/x", qos: 1 })
        yield* broker.publish({ topic: "t/x", qos: 1 })
        assert.strictEqual(takers(), "ababbb")
      })))
  })

  describe("limits of the client", () => {
    it.effect("Receive Maximum holds messages back, also those that are repeated", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const window = (receiveMaximum: number) => ({
          clean: false,
          properties: { sessionExpiryInterval: 60, receiveMaximum }
        })
        const first = yield* connected(window(2))
        yield* first.send(subscribe(1, "t", { qos: 2 }))
        yield* first.take("suback")
        for (const payload of ["1", "2", "3"]) yield* broker.publish({ topic: "t", payload, qos: 1 })
        yield* first.take("publish")
        yield* first.take("publish")
        yield* broker.expectPacket({ from: "broker", type: "Publish" })
        yield* broker.expectPacket({ from: "broker", type: "Publish" })
        yield* broker.expectNoPacket({ from: "broker", type: "Publish" })
        yield* first.abort
        const second = yield* connected(window(1))
        for (const payload of ["1", "2", "3"]) {
          const message = yield* second.take("publish")
          assert.strictEqual(text(message), payload)
          yield* broker.expectPacket({ from: "broker", type: "Publish" })
          yield* broker.expectNoPacket({ from: "broker", type: "Publish" })
          yield* second.ack("puback", message["messageId"] as number)
        }
      })))

    it.effect("Receive Maximum counts what was sent on this connection, whatever the client acknowledges", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const window = (receiveMaximum: number) => ({
          clean: false,
          properties: { sessionExpiryInterval: 60, receiveMaximum }
        })
        const first = yield* connected(window(3))
        yield* first.send(subscribe(1, "t", { qos: 1 }))
        yield* first.take("suback")
        for (const payload of ["1", "2", "3"]) yield* broker.publish({ topic: "t", payload, qos: 1 })
        for (const _ of [1, 2, 3]) yield* first.take("publish")
        yield* first.abort
        const second = yield* connected(window(1))
        assert.strictEqual(text(yield* second.take("publish")), "1")
        // An ack from before, for a message that was not repeated yet.
        yield* second.ack("puback", 2)
        yield* broker.awaitSession("c", (session) => session.unacked === 2)
        yield* broker.settle
        assert.strictEqual(broker.packetsOf({ from: "broker", type: "Publish" }).length, 4)
        yield* second.ack("puback", 1)
        assert.strictEqual(text(yield* second.take("publish")), "3")
      })))

    it.effect("Maximum Packet Size loses larger messages, and nothing else", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected({ properties: { maximumPacketSize: 20 } })
        yield* client.send(subscribe(1, "t", { qos: 1 }))
        yield* client.take("suback")
        yield* broker.publish({ topic: "t", payload: "x".repeat(100), qos: 1 })
        yield* broker.publish({ topic: "t", payload: "small", qos: 1 })
        assert.strictEqual(text(yield* client.take("publish")), "small")
        assert.deepStrictEqual(broker.sessions.map((session) => session.unacked), [1])
      })))

    it.effect("Topic Alias Maximum: topics are sent once", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected({ properties: { topicAliasMaximum: 1 } })
        yield* client.send(subscribe(1, "#"))
        yield* client.take("suback")
        const topics: Array<unknown> = []
        for (const topic of ["a", "a", "b", "a"]) {
          yield* broker.publish({ topic })
          const message = yield* client.take("publish")
          topics.push([message["topic"], (message["properties"] as Json | undefined)?.["topicAlias"]])
        }
        assert.deepStrictEqual(topics, [["a", 1], ["", 1], ["b", undefined], ["", 1]])
      })))
  })

  it.effect("forgets messages when they expire, and says how long the others have", () =>
    run(Effect.gen(function*() {
      const broker = yield* Broker
      const first = yield* connected({ clientId: "s", ...persistent })
      yield* first.send(subscribe(1, "t", { qos: 1 }))
      yield* first.take("suback")
      yield* first.abort
      yield* broker.awaitGone("s")
      const expiring = (messageExpiryInterval: number) => ({ messageExpiryInterval })
      yield* broker.publish({ topic: "t", payload: "short", qos: 1, properties: expiring(5) })
      yield* broker.publish({ topic: "t", payload: "long", qos: 1, retain: true, properties: expiring(60) })
      yield* TestClock.adjust("5 seconds")
      const second = yield* connected({ clientId: "s", ...persistent })
      const message = yield* second.take("publish")
      assert.strictEqual(text(message), "long")
      assert.deepStrictEqual(message["properties"], { messageExpiryInterval: 55 })
      yield* TestClock.adjust("55 seconds")
      yield* second.send(subscribe(2, "t", { qos: 1 }))
      yield* second.take("suback")
      yield* broker.expectPacket({ from: "broker", type: "Publish" })
      yield* broker.expectNoPacket({ from: "broker", type: "Publish" })
    })))

  it.effect("keeps user properties in order, both ways", () =>
    run(Effect.gen(function*() {
      const broker = yield* Broker
      const client = yield* connected()
      yield* client.send(subscribe(1, "t"))
      yield* client.take("suback")
      // b=1, a=2, b=3
      yield* client.sendHex("30 19 00 01 74 15 26 00 01 62 00 01 31 26 00 01 61 00 01 32 26 00 01 62 00 01 33")
      const expected = [["b", "1"], ["a", "2"], ["b", "3"]]
      const entry = yield* broker.expectPacket({ from: "client", type: "Publish" })
      assert.deepStrictEqual(entry.packet.properties?.userProperties, expected as never)
      yield* client.take("publish")
      assert.strictEqual(client.hex.at(-1), Hex.encode(entry.bytes))
    })))

  describe("enhanced authentication", () => {
    const options: TestBroker.TestBrokerOptions = {
      enhancedAuth: ({ data, method, round }) => {
        if (method !== "echo") return { _tag: "Failure", reasonCode: 0x8c }
        if (round === 1) return { _tag: "Continue", data }
        return String.fromCharCode(...data ?? []) === "yes"
          ? { _tag: "Success", data }
          : { _tag: "Failure", reasonCode: 0x87 }
      }
    }
    const properties = (data: string, authenticationMethod = "echo") => ({
      properties: { authenticationMethod, authenticationData: Buffer.from(data) }
    })

    it.effect("takes its steps before CONNACK, and again", () =>
      run(
        Effect.gen(function*() {
          const client = yield* connect(properties("hello"))
          const challenge = yield* client.take("auth")
          assert.deepStrictEqual(challenge["reasonCode"], 0x18)
          yield* client.send({ cmd: "auth", reasonCode: 0x18, ...properties("yes") })
          assert.strictEqual((yield* client.take("connack"))["reasonCode"], 0)
          yield* client.send({ cmd: "auth", reasonCode: 0x19, ...properties("again") })
          yield* client.take("auth")
          yield* client.send({ cmd: "auth", reasonCode: 0x18, ...properties("yes") })
          assert.strictEqual((yield* client.take("auth"))["reasonCode"], 0)
          yield* client.send({ cmd: "auth", reasonCode: 0x19, ...properties("again") })
          yield* client.take("auth")
          yield* client.send({ cmd: "auth", reasonCode: 0x18, ...properties("no") })
          assert.strictEqual((yield* client.take("disconnect"))["reasonCode"], 0x87)
        }),
        options
      ))

    it.effect("refuses a failed proof, and a method that it does not know", () =>
      run(
        Effect.gen(function*() {
          const client = yield* connect(properties("hello"))
          yield* client.take("auth")
          yield* client.send({ cmd: "auth", reasonCode: 0x18, ...properties("no") })
          assert.strictEqual((yield* client.take("connack"))["reasonCode"], 0x87)
          const other = yield* connected(properties("x", "scram"))
          assert.strictEqual(other.connack["reasonCode"], 0x8c)
        }),
        options
      ))
  })

  describe("controls", () => {
    it.effect("refuseNext refuses so many, then lets in", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        yield* broker.refuseNext(0x88, { times: 2, properties: { reasonString: "later" } })
        for (const _ of [1, 2]) {
          const client = yield* connected()
          assert.strictEqual(client.connack["reasonCode"], 0x88)
          assert.deepStrictEqual(client.connack["properties"], { reasonString: "later" })
          assert.strictEqual(yield* client.end, "eof")
        }
        assert.strictEqual((yield* connected()).connack["reasonCode"], 0)
      })))

    it.effect("connackNext changes what is announced, once", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        yield* broker.connackNext({ sessionPresent: true, properties: { serverKeepAlive: 2 } })
        const client = yield* connected({ keepalive: 100 })
        assert.strictEqual(client.connack["sessionPresent"], true)
        assert.deepStrictEqual(client.connack["properties"], { serverKeepAlive: 2 })
        yield* TestClock.adjust("3 seconds")
        assert.strictEqual((yield* client.take("disconnect"))["reasonCode"], 0x8d)
        yield* broker.expectViolation("KA-01c")
        assert.strictEqual((yield* connected()).connack["properties"], undefined)
      })))

    it.effect("hold keeps a packet back while others pass", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected()
        const hold = yield* broker.hold({ from: "broker", type: "Puback", where: (packet) => packet.packetId === 1 })
        yield* client.send(publish("t", "1", { qos: 1, messageId: 1 }))
        yield* client.send(publish("t", "2", { qos: 1, messageId: 2 }))
        assert.strictEqual((yield* client.take("puback"))["messageId"], 2)
        assert.strictEqual((yield* hold.awaitHeld).packetId, 1)
        assert.isTrue(yield* hold.releaseNext)
        assert.strictEqual((yield* client.take("puback"))["messageId"], 1)
        assert.isFalse(yield* hold.releaseNext)
        assert.strictEqual(hold.hits, 1)
      })))

    it.effect("hold of CONNACK lets nothing overtake it", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const hold = yield* broker.hold({ from: "broker", type: "Connack" })
        const client = yield* connect()
        yield* client.send({ cmd: "pingreq" })
        yield* hold.awaitHeld
        yield* broker.expectPacket({ from: "client", type: "Pingreq" })
        yield* broker.expectNoPacket({ from: "broker" })
        yield* hold.release
        yield* client.take("connack")
        yield* client.take("pingresp")
      })))

    it.effect("delay brings a packet late by the time that is said", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected()
        yield* broker.delay({ from: "broker", type: "Pingresp" }, "3 seconds")
        yield* broker.delay({ from: "client", type: "Publish" }, "1 second")
        yield* client.send({ cmd: "pingreq" })
        yield* client.send(publish("t", "1", { qos: 1, messageId: 1 }))
        const fiber = yield* start(client.take("puback"))
        yield* TestClock.adjust("1 hour")
        yield* Fiber.join(fiber)
        yield* client.take("pingresp")
        const at = (entry: TestBroker.LogEntry) => entry.at
        assert.deepStrictEqual(broker.packetsOf({ from: "broker", type: "Pingresp" }).map(at), [3_000])
        assert.deepStrictEqual(broker.packetsOf({ from: "broker", type: "Puback" }).map(at), [1_000])
      })))

    it.effect("drop loses a packet, after those that are skipped", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected()
        const rule = yield* broker.drop({ from: "client", type: "Pingreq", skip: 1 })
        for (const _ of [1, 2, 3]) yield* client.send({ cmd: "pingreq" })
        yield* client.take("pingresp")
        yield* client.take("pingresp")
        yield* broker.settle
        assert.strictEqual(broker.packetsOf({ from: "broker", type: "Pingresp" }).length, 2)
        assert.deepStrictEqual(
          broker.packetsOf({ from: "client", type: "Pingreq" }).map((entry) => entry.fate),
          ["taken", "dropped", "taken"]
        )
        assert.strictEqual(rule.hits, 1)
      })))

    it.effect("cutBefore and cutAfter end the link around a packet", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const listener = yield* connected({ clientId: "s" })
        yield* listener.send(subscribe(1, "t"))
        yield* listener.take("suback")
        yield* broker.cutBefore({ from: "client", type: "Publish" })
        const first = yield* connected({ clientId: "1" })
        yield* first.send(publish("t", "never seen", { qos: 1, messageId: 1 }))
        assert.strictEqual(yield* first.end, "reset")
        yield* broker.cutAfter({ from: "client", type: "Publish" }, "fin")
        const second = yield* connected({ clientId: "2" })
        yield* second.send(publish("t", "answer lost", { qos: 1, messageId: 1 }))
        assert.strictEqual(yield* second.end, "eof")
        assert.strictEqual(broker.packetsOf({ from: "broker", type: "Puback" }).length, 0)
        yield* broker.cutBefore({ from: "broker", type: "Puback" })
        const third = yield* connected({ clientId: "3" })
        yield* third.send(publish("t", "again lost", { qos: 1, messageId: 1 }))
        assert.strictEqual(yield* third.end, "reset")
        yield* broker.cutAfter({ from: "broker", type: "Puback" })
        const fourth = yield* connected({ clientId: "4" })
        yield* fourth.send(publish("t", "answered", { qos: 1, messageId: 1 }))
        yield* fourth.take("puback")
        assert.strictEqual(yield* fourth.end, "reset")
        const taken = [
          yield* listener.take("publish"),
          yield* listener.take("publish"),
          yield* listener.take("publish")
        ]
        assert.deepStrictEqual(taken.map(text), ["answer lost", "again lost", "answered"])
        assert.deepStrictEqual(broker.clients.map((client) => client.clientId), ["s"])
      })))

    it.effect("a cut into a black hole is told to neither end", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        yield* broker.cutAfter({ from: "client", type: "Pingreq" }, "blackHole")
        const client = yield* connected({ keepalive: 10 })
        yield* client.send({ cmd: "pingreq" })
        yield* TestClock.adjust("10 seconds")
        yield* client.send({ cmd: "pingreq" })
        yield* TestClock.adjust("4999 millis")
        assert.strictEqual(broker.clients.length, 1)
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(broker.clients.length, 0)
        const [entry] = broker.packetsOf({ from: "broker", type: "Disconnect" })
        assert.strictEqual(entry?.packet.reasonCode, 0x8d)
        assert.deepStrictEqual(broker.violations, [])
      })))

    it.effect("corrupt, replace and inject change the bytes", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected({ clientId: "c" })
        yield* broker.corrupt({ type: "Pingresp" }, { offset: -1, mask: 0x01 })
        yield* client.send({ cmd: "pingreq" })
        assert.strictEqual(Hex.encode((yield* client.connection.pull)[0]), "d0 01")
        yield* broker.replace({ type: "Pingresp" }, () => [Hex.decode("ff"), { _tag: "Pingresp" }])
        yield* client.send({ cmd: "pingreq" })
        assert.deepStrictEqual((yield* client.connection.pull).map(Hex.encode), ["ff", "d0 00"])
        yield* broker.inject("c", "d0 00 d0")
        assert.deepStrictEqual((yield* client.connection.pull).map(Hex.encode), ["d0 00 d0"])
      })))

    it.effect("chunkBytes chops what the broker sends", () =>
      run(
        Effect.gen(function*() {
          const client = yield* connected()
          assert.deepStrictEqual(client.hex, ["20", "03", "00", "00", "00"])
        }),
        { chunkBytes: 1 }
      ))

    it.effect("disconnect and cut end one client's connection", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const first = yield* connected({ clientId: "1" })
        const second = yield* connected({ clientId: "2" })
        yield* broker.disconnect("1", 0x98, { reasonString: "maintenance" })
        const packet = yield* first.take("disconnect")
        assert.deepStrictEqual([packet["reasonCode"], packet["properties"]], [0x98, { reasonString: "maintenance" }])
        yield* broker.cut("2")
        assert.strictEqual(yield* second.end, "reset")
      })))

    it.effect("restart keeps or loses sessions, and refuses while it is down", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const first = yield* connected({ clientId: "s", ...persistent })
        yield* first.send(subscribe(1, "t"))
        yield* first.take("suback")
        yield* broker.publish({ topic: "kept", payload: "x", retain: true })
        yield* broker.restart({ sessions: "keep", downFor: "10 seconds" })
        assert.strictEqual(yield* first.end, "reset")
        yield* TestClock.adjust("9999 millis")
        assert.strictEqual(
          (yield* Effect.flip(connect())).message,
          "the connection was refused (broker:1883, connect, ECONNREFUSED)"
        )
        yield* TestClock.adjust("1 millis")
        const second = yield* connected({ clientId: "s", ...persistent })
        assert.strictEqual(second.connack["sessionPresent"], true)
        assert.deepStrictEqual(broker.retained, ["kept"])
        yield* broker.restart({ sessions: "lose", how: "fin" })
        assert.strictEqual(yield* second.end, "eof")
        const third = yield* connected({ clientId: "s", ...persistent })
        assert.strictEqual(third.connack["sessionPresent"], false)
        assert.deepStrictEqual(broker.retained, [])
      })))

    it.effect("a broker that does not read does not hold the silence against the client", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected({ clientId: "c", keepalive: 10 })
        const { peer } = yield* broker.awaitClient("c")
        yield* peer.stallReads
        for (const _ of [1, 2, 3]) {
          yield* TestClock.adjust("10 seconds")
          yield* client.send({ cmd: "pingreq" })
        }
        assert.strictEqual(broker.clients.length, 1)
        yield* peer.resumeReads
        for (const _ of [1, 2, 3]) yield* client.take("pingresp")
      })))

    it.effect("a slow reader does not cost the client its connection", () =>
      run(
        Effect.gen(function*() {
          const broker = yield* Broker
          const client = yield* connected({ clientId: "c", keepalive: 10 })
          const { peer } = yield* broker.awaitClient("c")
          yield* peer.drainEvery(100, "1 second")
          const fiber = yield* start(client.send(publish("t", "x".repeat(5_000))))
          yield* TestClock.adjust("30 seconds")
          assert.isTrue(peer.isWriteBlocked)
          yield* TestClock.adjust("20 seconds")
          yield* Fiber.join(fiber)
          yield* peer.resumeReads
          yield* broker.expectPacket({ from: "client", type: "Publish" })
          assert.strictEqual(broker.clients.length, 1)
        }),
        { windowBytes: 100 }
      ))
  })

  describe("observations", () => {
    it.effect("expectPacket gives each packet out once, in any order of asking", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected()
        yield* client.send(publish("a", "1"))
        yield* client.send({ cmd: "pingreq" })
        yield* client.send(publish("a", "2"))
        yield* broker.expectPacket({ from: "client", type: "Pingreq" })
        const first = yield* broker.expectPacket({ from: "client", type: "Publish" })
        const second = yield* broker.expectPacket({ from: "client", type: "Publish" })
        assert.deepStrictEqual([first, second].map((entry) => Hex.encode(entry.packet.payload)), ["31", "32"])
        const third = yield* start(broker.expectPacket({ from: "client", type: "Publish", clientId: "c" }))
        yield* client.send(publish("a", "3"))
        assert.strictEqual(Hex.encode((yield* Fiber.join(third)).packet.payload), "33")
      })))

    it.effect("packets streams the log and what comes after", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected()
        const fiber = yield* start(Stream.runCollect(Stream.take(broker.packets, 4)))
        yield* broker.settle
        yield* TestClock.adjust("5 seconds")
        yield* client.send({ cmd: "pingreq" })
        const entries = yield* Fiber.join(fiber)
        assert.deepStrictEqual(
          entries.map((entry) => `${entry.at} ${entry.packet._tag}`),
          ["0 Connect", "0 Connack", "5000 Pingreq", "5000 Pingresp"]
        )
      })))

    it.effect("the log forgets the oldest beyond its limit", () =>
      run(
        Effect.gen(function*() {
          const broker = yield* Broker
          const client = yield* connected()
          for (let i = 0; i < 50; i++) {
            yield* client.send({ cmd: "pingreq" })
            yield* client.take("pingresp")
          }
          assert.isAtMost(broker.log.length, 20)
          assert.isAtLeast(broker.log.length, 10)
        }),
        { logLimit: 10 }
      ))

    it.effect("expectNoPacket dies when there is one", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        yield* connected()
        assert.isTrue(Exit.hasDies(yield* Effect.exit(broker.expectNoPacket({ from: "client", type: "Connect" }))))
        yield* broker.expectNoPacket({ from: "client", type: "Publish" })
      })))
  })

  describe("strictness", () => {
    const violating = Effect.gen(function*() {
      const client = yield* dial()
      yield* client.send({ cmd: "pingreq" })
      assert.strictEqual(yield* client.end, "eof")
    })

    it.effect("fails the scope with the row of the rule", () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(run(violating))
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isSuccess(exit)) return
        const defect = Cause.squash(exit.cause)
        assert.instanceOf(defect, TestBroker.ProtocolViolations)
        assert.include(String(defect), "CN-01c")
      }))

    it.effect("lets pass what the test expects, or everything if it is told so", () =>
      Effect.gen(function*() {
        yield* run(Effect.andThen(violating, Effect.flatMap(Broker, (broker) => broker.expectViolation("CN-01c"))))
        yield* run(violating, { strict: false })
      }))
  })
})
