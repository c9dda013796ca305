import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type { OutgoingMessage } from "../../../src/services/Message.ts"
import { connack, failure, held, maximumPacketSize, nothing, receiveMaximum, to } from "../../support/Publishes.ts"
import { open, run, sentFrames, sentWords, start } from "../../support/ScriptedBroker.ts"

/** No pings in the way. */
const quiet = { keepAlive: 0 } as const

describe("Publishing, refused before it is sent", () => {
  describe("limits of the server", () => {
    for (const maximum of [0, 1] as const) {
      it.effect(`sends nothing above Maximum QoS ${maximum} (CK-08c)`, () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open(quiet, { connack: connack(`24 0${maximum}`) })
          for (const qos of [0, 1, 2] as const) {
            const publish = yield* start(client.publish(to("a", qos)))
            if (qos <= maximum) continue
            const { phase, reason } = yield* failure(publish, "NotSupportedByServer")
            assert.deepStrictEqual([reason.feature, phase], ["qos", "queued"])
          }
          yield* network.settle
          assert.strictEqual(sentFrames(peer).length, maximum + 1)
        })))
    }

    it.effect("sends no RETAIN where it is not available (CK-12c)", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(quiet, { connack: connack("25 00") })
        for (const qos of [0, 1, 2] as const) {
          const publish = yield* start(client.publish(to("a", qos, { retain: true })))
          assert.strictEqual((yield* failure(publish, "NotSupportedByServer")).reason.feature, "retain")
        }
        yield* client.publish(to("b", 0))
        yield* network.settle
        assert.deepStrictEqual([sentWords(peer, 5), yield* held(client)], [["publish b:0"], nothing])
      })))

    const sizes: ReadonlyArray<readonly [name: string, message: OutgoingMessage, size: number]> = [
      ["QoS 0", to("a", 0, { payload: new Uint8Array(50) }), 2 + 3 + 1 + 50],
      ["QoS 1", to("a", 1, { payload: new Uint8Array(50) }), 2 + 3 + 2 + 1 + 50],
      ["a topic of three-byte letters", to("€".repeat(20), 0), 2 + 62 + 1 + 1],
      ["a property", to("a", 0, { userProperties: [["k".repeat(20), "€".repeat(20)]] }), 2 + 3 + 1 + 5 + 80 + 1],
      ["a length of two bytes", to("a", 2, { payload: new Uint8Array(200) }), 3 + 3 + 2 + 1 + 200]
    ]
    for (const [name, large, size] of sizes) {
      it.effect(`takes a packet of exactly Maximum Packet Size, and refuses one byte more: ${name} (CK-14c, PI-11p)`, () =>
        run(Effect.gen(function*() {
          const limit = (bytes: number) => ({ connack: connack(maximumPacketSize(bytes)) })
          yield* Effect.scoped(Effect.gen(function*() {
            const { client, network, peer } = yield* open(quiet, limit(size))
            yield* start(client.publish(large))
            yield* network.settle
            assert.deepStrictEqual(sentFrames(peer).map((frame) => frame.length), [size])
          }))
          const { client, network, peer } = yield* open(quiet, limit(size - 1))
          const { phase, reason } = yield* failure(yield* start(client.publish(large)), "PacketTooLarge")
          assert.deepStrictEqual([reason.size, reason.limit, reason.of, phase], [size, size - 1, "server", "queued"])
          assert.deepStrictEqual(yield* held(client), nothing)
          // As if it had never been asked for.
          yield* start(client.publish(to("b")))
          yield* network.settle
          assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 b:1"])
        })))
    }

    it.effect("refuses what is over the limit of the protocol, connected or not", () =>
      run(Effect.gen(function*() {
        const { client } = yield* open({ ...quiet, outbox: { maxBytes: 1e9 } })
        const payload = new Uint8Array(268_435_455)
        for (const qos of [0, 1] as const) {
          const { reason } = yield* failure(
            yield* start(client.publish({ topic: "a", payload, qos })),
            "PacketTooLarge"
          )
          assert.deepStrictEqual([reason.of, reason.limit], ["protocol", 268_435_460])
        }
        yield* client.pause
        yield* failure(yield* start(client.publish({ topic: "a", payload })), "PacketTooLarge")
        assert.deepStrictEqual(yield* held(client), nothing)
      })))

    it.effect("refuses what is over the bytes of the outbox", () =>
      run(Effect.gen(function*() {
        const { client } = yield* open({ ...quiet, outbox: { maxBytes: 10 } })
        const { reason } = yield* failure(
          yield* start(client.publish(to("a", 1, { payload: new Uint8Array(10) }))),
          "PacketTooLarge"
        )
        assert.deepStrictEqual([reason.size, reason.limit, reason.of], [11, 10, "outbox"])
        assert.deepStrictEqual(yield* held(client), nothing)
      })))

    it.effect("counts properties towards the bytes of the outbox (law 14)", () =>
      run(Effect.gen(function*() {
        const { client } = yield* open({ ...quiet, outbox: { maxBytes: 1_000 } })
        const userProperties = [["k", "v".repeat(1_000)]] as const
        const { reason } = yield* failure(
          yield* start(client.publish(to("a", 0, { userProperties }))),
          "PacketTooLarge"
        )
        assert.strictEqual(reason.of, "outbox")
      })))
  })

  describe("bad input (law 13)", () => {
    const bad: ReadonlyArray<readonly [field: string, message: unknown]> = [
      ["message", undefined],
      ["topic", { topic: "a/#" }],
      ["topic", { topic: "" }],
      ["qos", { topic: "a", qos: 3 }],
      ["payload", { topic: "a", payload: 5 }],
      ["payload", { topic: "a", payload: "\uD800" }],
      ["messageExpiryInterval", { topic: "a", messageExpiryInterval: -1 }],
      ["responseTopic", { topic: "a", responseTopic: "+" }]
    ]
    it.effect("is refused before it is queued, naming the field, and leaves no id, quota or byte behind (PI-11p)", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(quiet, { connack: connack(receiveMaximum(1)) })
        for (const [field, each] of bad) {
          const publish = yield* start(client.publish(each as OutgoingMessage))
          const { phase, reason } = yield* failure(publish, "InvalidMessage")
          assert.deepStrictEqual([reason.field, phase], [field, "queued"])
        }
        assert.deepStrictEqual(yield* held(client), nothing)
        yield* network.settle
        assert.deepStrictEqual(sentFrames(peer), [])
        yield* start(client.publish(to("good")))
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 good:1"])
      })))

    it.effect("is refused while offline and while halted as well", () =>
      run(Effect.gen(function*() {
        const { client } = yield* open(quiet)
        for (const leave of [client.pause, client.disconnect()]) {
          yield* leave
          yield* failure(yield* start(client.publish({ topic: "#" })), "InvalidMessage")
        }
      })))
  })
})
