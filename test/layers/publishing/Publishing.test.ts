import { assert, describe, it } from "@effect/vitest"
import type { Duration } from "effect"
import { Cause, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as ReasonCode from "../../../src/protocol/ReasonCode.ts"
import type * as MqttClient from "../../../src/services/MqttClient.ts"
import type { PublishError } from "../../../src/services/MqttError.ts"
import { connack, failure, held, isPending, nothing, receiveMaximum, to } from "../../support/Publishes.ts"
import {
  accepted,
  ackHex,
  awaitStatus,
  expectPackets,
  handshake,
  message,
  open,
  publishHex,
  readToEnd,
  run,
  send,
  sentFrames,
  sentWords,
  start
} from "../../support/ScriptedBroker.ts"

/** No pings in the way. */
const quiet = { keepAlive: 0 } as const

const leftAs = { pause: "Paused", disconnect: "Halted", reconnect: "Connected" } as const

describe("Publishing", () => {
  for (const version of [4, 5] as const) {
    describe(`MQTT ${version === 4 ? "3.1.1" : "5.0"}`, () => {
      const options = { ...quiet, protocolVersion: version }

      it.effect("completes a QoS 0 publish when it is taken, and sends it without an id (PI-01b)", () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open(options)
          assert.deepStrictEqual(yield* client.publish(to("a", 0)), {
            qos: 0,
            reasonCode: 0,
            reasonString: undefined,
            guarantee: "queued"
          })
          yield* client.publish(to("b", 0, { retain: true, payload: undefined }))
          yield* expectPackets(
            peer,
            publishHex(version, "a"),
            publishHex(version, "b", { retain: true, payload: "" })
          )
          assert.deepStrictEqual(yield* held(client), nothing)
        })))

      for (const way of ["pause", "disconnect", "reconnect"] as const) {
        it.effect(`a caller who goes on in the middle of what is read may ${way} at once`, () =>
          run(Effect.gen(function*() {
            const { client, listener, network, peer } = yield* open({ ...options, sendMaximum: 64 })
            const leave: Effect.Effect<unknown, unknown> = way === "pause"
              ? client.pause
              : way === "disconnect"
              ? client.disconnect()
              : client.reconnect()
            const leaving = yield* start(Effect.andThen(client.publish(to("a")), leave))
            const others = yield* Effect.forEach(Array.from({ length: 39 }), () => start(client.publish(to("a"))))
            yield* network.settle
            yield* peer.sendHex(Array.from({ length: 40 }, (_, index) => ackHex("PUBACK", index + 1)).join(" "))
            yield* network.settle
            // Half of the window has gone on by then, and the rest is not looked at any more.
            assert.lengthOf(others.filter((fiber) => !isPending(fiber)), way === "disconnect" ? 39 : 31)
            const { how, packets } = yield* readToEnd(peer)
            assert.deepStrictEqual([how, ...packets.slice(40)], ["fin", "e0 00"])
            if (way === "reconnect") yield* handshake(listener, accepted[version])
            yield* Fiber.join(leaving)
            assert.strictEqual((yield* client.status)._tag, leftAs[way])
          })))
      }

      it.effect("goes on when whoever is told of an outcome throws", () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open(options)
          const thrower = yield* start(client.publish(to("a")))
          thrower.addObserver(() => {
            throw new Error("the observer of a fiber")
          })
          const publish = yield* start(client.publish(to("b")))
          yield* expectPackets(
            peer,
            publishHex(version, "a", { id: 1 }),
            publishHex(version, "b", { id: 2 })
          )
          yield* peer.sendHex(`${ackHex("PUBACK", 1)} ${ackHex("PUBACK", 2)}`)
          yield* network.settle
          assert.strictEqual((yield* Fiber.join(publish)).reasonCode, 0)
          const ping = yield* start(client.ping)
          yield* expectPackets(peer, "c0 00")
          yield* peer.sendHex("d0 00")
          yield* Fiber.join(ping)
        })))

      it.effect("completes a QoS 1 publish on PUBACK and not before (QF-01b, QF-02b, QF-03b)", () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open(options)
          const publish = yield* start(client.publish(to("a")))
          yield* expectPackets(peer, publishHex(version, "a", { id: 1 }))
          yield* network.settle
          assert.isTrue(isPending(publish))
          assert.deepStrictEqual(yield* held(client), { queued: 0, heldBytes: 2, inFlight: 1, packetIds: 1 })
          yield* peer.sendHex(ackHex("PUBACK", 1))
          assert.deepStrictEqual(yield* Fiber.join(publish), {
            qos: 1,
            reasonCode: 0,
            reasonString: undefined,
            guarantee: "atLeastOnce"
          })
          assert.deepStrictEqual(yield* held(client), nothing)
        })))

      it.effect("completes a QoS 2 publish on PUBCOMP and not before (QF-06b, QF-07b, QF-08b, PI-06c)", () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open(options)
          const publish = yield* start(client.publish(to("a", 2)))
          yield* expectPackets(peer, publishHex(version, "a", { id: 1, qos: 2 }))
          yield* peer.sendHex(ackHex("PUBREC", 1))
          yield* expectPackets(peer, ackHex("PUBREL", 1))
          yield* network.settle
          assert.isTrue(isPending(publish))
          assert.deepStrictEqual(yield* held(client), { queued: 0, heldBytes: 2, inFlight: 1, packetIds: 1 })
          yield* peer.sendHex(ackHex("PUBCOMP", 1))
          assert.deepStrictEqual(yield* Fiber.join(publish), {
            qos: 2,
            reasonCode: 0,
            reasonString: undefined,
            guarantee: "exactlyOnce"
          })
          assert.deepStrictEqual(yield* held(client), nothing)
        })))

      it.effect("sends all levels in call order, each with an id of its own, acknowledged in any order (law 7)", () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open(options)
          const fibers = yield* Effect.forEach(
            Array.from({ length: 30 }, (_, i) => to(`t${i}`, (i % 3) as 0 | 1 | 2)),
            (each) => start(client.publish(each))
          )
          yield* network.settle
          assert.deepStrictEqual(
            sentWords(peer, version).map((words) => words.replace(/^publish (\d+ )?/, "")),
            fibers.map((_, i) => `t${i}:${i % 3}`)
          )
          for (let id = 20; id > 0; id--) {
            yield* peer.sendHex(
              id % 2 === 1 ? ackHex("PUBACK", id) : `${ackHex("PUBREC", id)} ${ackHex("PUBCOMP", id)}`
            )
          }
          yield* Fiber.joinAll(fibers)
          assert.deepStrictEqual(yield* held(client), nothing)
        })))

      it.effect("answers a second PUBREC with PUBREL again, and an unknown one too (QF-07b, QF-27p, PI-04b)", () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open(options)
          const publish = yield* start(client.publish(to("a", 2)))
          yield* network.settle
          yield* peer.sendHex(ackHex("PUBREC", 1) + ackHex("PUBREC", 1) + ackHex("PUBREC", 0x1234))
          yield* expectPackets(
            peer,
            publishHex(version, "a", { id: 1, qos: 2 }),
            ackHex("PUBREL", 1),
            ackHex("PUBREL", 1),
            ackHex("PUBREL", 0x1234, version === 5 ? 0x92 : 0)
          )
          yield* peer.sendHex(ackHex("PUBCOMP", 1))
          yield* Fiber.join(publish)
        })))

      it.effect("takes acknowledgements that nothing waits for as nothing (PI-10p, PI-05s, QF-27p)", () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open({ ...options, sendMaximum: 1 })
          const suback = version === 5 ? "90 04 00 01 00 00" : "90 03 00 01 00"
          const unsuback = version === 5 ? "b0 04 00 01 00 00" : "b0 02 00 01"
          const publish = yield* start(client.publish(to("a")))
          yield* network.settle
          yield* peer.sendHex(
            ackHex("PUBACK", 99) + ackHex("PUBCOMP", 99) + ackHex("PUBACK", 0xffff) + suback + unsuback
          )
          yield* network.settle
          assert.isTrue(isPending(publish))
          const next = yield* start(client.publish(to("b")))
          yield* network.settle
          assert.deepStrictEqual(sentWords(peer, version), ["publish 1 a:1"])
          yield* peer.sendHex(ackHex("PUBACK", 1))
          yield* Fiber.join(publish)
          yield* network.settle
          assert.deepStrictEqual(sentWords(peer, version), ["publish 1 a:1", "publish 2 b:1"])
          yield* peer.sendHex(ackHex("PUBACK", 2))
          yield* Fiber.join(next)
        })))

      for (
        const [qos, wrong] of [[1, "PUBREC"], [1, "PUBCOMP"], [2, "PUBACK"], [2, "PUBCOMP"]] as const
      ) {
        it.effect(`takes ${wrong} for a QoS ${qos} message as a protocol error, which completes nothing (PI-09p)`, () =>
          run(Effect.gen(function*() {
            const { client, peer } = yield* open(options)
            const publish = yield* start(client.publish(to("a", qos)))
            yield* expectPackets(peer, publishHex(version, "a", { id: 1, qos }))
            yield* peer.sendHex(ackHex(wrong, 1))
            const end = yield* readToEnd(peer)
            assert.deepStrictEqual(end.packets, version === 5 ? ["e0 01 82"] : [])
            const { cause } = yield* awaitStatus(client, "Reconnecting")
            assert.strictEqual(cause._tag, "ProtocolError")
            assert.isTrue(isPending(publish))
          })))
      }

      it.effect("never sends again on a link that lives, not after an hour without an answer (QF-24b)", () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open(options)
          const publishes = [yield* start(client.publish(to("a"))), yield* start(client.publish(to("b", 2)))]
          const third = yield* start(client.publish(to("c", 2)))
          yield* network.settle
          yield* peer.sendHex(ackHex("PUBREC", 3))
          yield* network.settle
          const activity = network.activity
          yield* TestClock.adjust("1 hour")
          yield* network.settle
          assert.strictEqual(network.activity, activity)
          assert.deepStrictEqual(sentWords(peer, version), [
            "publish 1 a:1",
            "publish 2 b:2",
            "publish 3 c:2",
            "pubrel 3"
          ])
          assert.isTrue([...publishes, third].every(isPending))
        })))

      it.effect("caps what is under way by its own limit (FC-11p, law 9)", () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open({ ...options, sendMaximum: 1 })
          yield* start(client.publish(to("a")))
          const second = yield* start(client.publish(to("b", 2)))
          yield* network.settle
          assert.deepStrictEqual(sentWords(peer, version), ["publish 1 a:1"])
          yield* peer.sendHex(ackHex("PUBACK", 1))
          yield* network.settle
          assert.deepStrictEqual(sentWords(peer, version), ["publish 1 a:1", "publish 2 b:2"])
          assert.isTrue(isPending(second))
        })))
    })
  }

  it.effect("writes every property on 5.0, in the shortest form", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open(quiet)
      yield* client.publish({
        topic: "a",
        payload: "é",
        qos: 0,
        messageExpiryInterval: 300,
        contentType: "c",
        responseTopic: "r",
        correlationData: new Uint8Array([1, 2]),
        userProperties: [["k", "v"], ["k", "w"]]
      })
      yield* expectPackets(
        peer,
        "30 28 00 01 61 22 01 01 02 00 00 01 2c 03 00 01 63 08 00 01 72 09 00 02 01 02 " +
          "26 00 01 6b 00 01 76 26 00 01 6b 00 01 77 c3 a9"
      )
    })))

  it.effect("leaves every property out on 3.1.1", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open({ ...quiet, protocolVersion: 4 })
      yield* client.publish({
        topic: "a",
        payload: "x",
        contentType: "c",
        messageExpiryInterval: 9,
        userProperties: [["k", "v"]]
      })
      yield* expectPackets(peer, publishHex(4, "a"))
    })))

  it.effect("sends a payload of many slices whole", () =>
    run(Effect.gen(function*() {
      const { client, network, peer } = yield* open(quiet)
      const payload = Uint8Array.from({ length: 1_000_000 }, (_, i) => i % 251)
      yield* client.publish({ topic: "a", payload })
      yield* client.publish(to("b", 0))
      yield* network.settle
      const [large, small] = sentFrames(peer)
      assert.strictEqual(Buffer.compare(large!.subarray(large!.length - payload.length), payload), 0)
      assert.strictEqual(small?.[4], "b".charCodeAt(0))
    })))

  describe("reason codes", () => {
    it.effect("reports 0x10 and the reason string of PUBACK and of PUBCOMP as success", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(quiet)
        const first = yield* start(client.publish(to("a")))
        yield* expectPackets(peer, publishHex(5, "a", { id: 1 }))
        yield* peer.sendHex("40 08 00 01 10 04 1f 00 01 6e")
        assert.deepStrictEqual(yield* Fiber.join(first), {
          qos: 1,
          reasonCode: 0x10,
          reasonString: "n",
          guarantee: "atLeastOnce"
        })
        const second = yield* start(client.publish(to("b", 2)))
        yield* expectPackets(peer, publishHex(5, "b", { id: 2, qos: 2 }))
        yield* peer.sendHex(ackHex("PUBREC", 2, 0x10))
        yield* expectPackets(peer, ackHex("PUBREL", 2))
        yield* peer.sendHex(ackHex("PUBCOMP", 2))
        assert.deepStrictEqual(yield* Fiber.join(second), {
          qos: 2,
          reasonCode: 0x10,
          reasonString: undefined,
          guarantee: "exactlyOnce"
        })
      })))

    for (const [qos, ack] of [[1, "PUBACK"], [2, "PUBREC"]] as const) {
      it.effect(`fails typed with every code of ${ack} from 0x80 up, frees id and quota, and goes on (ER-05p, QF-25b, QF-28p)`, () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open(quiet, { connack: connack(receiveMaximum(1)) })
          const codes = ReasonCode.fromServer.Puback.filter((code) => code >= 0x80)
          for (const [index, code] of codes.entries()) {
            const id = index + 1
            const publish = yield* start(client.publish(to("a", qos)))
            yield* expectPackets(peer, publishHex(5, "a", { id, qos }))
            yield* peer.sendHex(ackHex(ack, id, code))
            const { phase, reason } = yield* failure(publish, "PublishRefused")
            assert.deepStrictEqual([reason.reasonCode, reason.name, phase], [code, ReasonCode.nameOf(code), "written"])
            assert.deepStrictEqual(yield* held(client), nothing)
          }
          const good = yield* start(client.publish(to("good", qos)))
          yield* network.settle
          assert.strictEqual(sentFrames(peer).length, codes.length + 1, "no PUBREL, and the next one goes out")
          assert.isTrue(isPending(good))
          assert.strictEqual((yield* client.status)._tag, "Connected")
        })))
    }

    it.effect("hands over the reason string of a refusal", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(quiet)
        const publish = yield* start(client.publish(to("a")))
        yield* network.settle
        yield* peer.sendHex("40 09 00 01 87 05 1f 00 02 6e 6f")
        const { reason } = yield* failure(publish, "PublishRefused")
        assert.deepStrictEqual([reason.reasonCode, reason.reasonString], [0x87, "no"])
      })))

    for (const [ack, qos] of [["PUBACK", 1], ["PUBREC", 2], ["PUBCOMP", 2]] as const) {
      it.effect(`takes an unknown code of ${ack} as a protocol error (QF-17b, QF-18b, QF-20b)`, () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open(quiet)
          const publish = yield* start(client.publish(to("a", qos)))
          yield* network.settle
          yield* peer.sendHex(ack === "PUBCOMP" ? ackHex("PUBREC", 1) + ackHex(ack, 1, 5) : ackHex(ack, 1, 5))
          const { packets } = yield* readToEnd(peer)
          assert.match(packets.at(-1)!, /^e0 01 8[12]$/)
          assert.isTrue(isPending(publish))
        })))
    }
  })

  describe("window", () => {
    it.effect("never has more under way than the server's Receive Maximum (FC-01b, law 9)", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(quiet, { connack: connack(receiveMaximum(2)) })
        yield* Effect.forEach(["a", "b", "c", "d"], (topic, i) => start(client.publish(to(topic, i === 1 ? 2 : 1))))
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 a:1", "publish 2 b:2"])
        assert.strictEqual((yield* client.stats).queued, 2)
        // PUBREC gives no room, PUBCOMP does (FC-03p).
        yield* peer.sendHex(ackHex("PUBREC", 2))
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5).slice(2), ["pubrel 2"])
        yield* peer.sendHex(ackHex("PUBCOMP", 2))
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5).slice(3), ["publish 3 c:1"])
        yield* peer.sendHex(ackHex("PUBACK", 1) + ackHex("PUBACK", 1))
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5).slice(4), ["publish 4 d:1"])
      })))

    it.effect("keeps QoS 0 in its place behind what the window holds back (FC-09p, law 7)", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(quiet, { connack: connack(receiveMaximum(1)) })
        for (const [topic, qos] of [["a", 0], ["b", 1], ["c", 0], ["d", 1], ["e", 0]] as const) {
          yield* start(client.publish(to(topic, qos)))
        }
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5), ["publish a:0", "publish 1 b:1", "publish c:0"])
        yield* peer.sendHex(ackHex("PUBACK", 1))
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5).slice(3), ["publish 2 d:1", "publish e:0"])
      })))

    it.effect("holds nothing else back: subscriptions, pings, acknowledgements, DISCONNECT (FC-04b, FC-05c)", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(quiet, { connack: connack(receiveMaximum(1)) })
        yield* start(client.publish(to("a")))
        const waiting = yield* start(client.publish(to("b")))
        yield* network.settle
        yield* start(Effect.scoped(Effect.andThen(client.subscription("s", { qos: 2 }), Effect.never)))
        yield* start(client.ping)
        yield* network.settle
        yield* send(peer, 5, message("other", 7, { qos: 2 }), { cmd: "pubrel", messageId: 8 })
        yield* network.settle
        assert.sameMembers([...sentWords(peer, 5)], ["publish 1 a:1", "subscribe 2 s:2", "pingreq", "pubcomp 8 0x92"])
        yield* client.disconnect()
        assert.deepStrictEqual(sentWords(peer, 5).at(-1), "disconnect")
        const { phase, reason } = yield* failure(waiting, "PublishAbandoned")
        assert.deepStrictEqual([phase, reason.phase, reason.cause._tag], ["queued", "queued", "ClientHalted"])
      })))
  })

  describe("interruption (law 5)", () => {
    it.effect("removes a publish that is queued: it is never sent, and holds nothing", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(quiet, { connack: connack(receiveMaximum(1)) })
        const first = yield* start(client.publish(to("a")))
        const second = yield* start(client.publish(to("b")))
        const third = yield* start(client.publish(to("c")))
        yield* network.settle
        yield* Fiber.interrupt(second)
        assert.deepStrictEqual(yield* held(client), { queued: 1, heldBytes: 4, inFlight: 1, packetIds: 1 })
        yield* peer.sendHex(ackHex("PUBACK", 1))
        yield* Fiber.join(first)
        yield* network.settle
        yield* peer.sendHex(ackHex("PUBACK", 2))
        yield* Fiber.join(third)
        assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 a:1", "publish 2 c:1"])
        assert.deepStrictEqual(yield* held(client), nothing)
      })))

    it.effect("lets go at once what a removed publish held up: QoS 0 behind it, and suspended callers", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({ ...quiet, outbox: { maxMessages: 2 } }, {
          connack: connack(receiveMaximum(1))
        })
        yield* start(client.publish(to("a")))
        yield* network.settle
        const held = yield* start(client.publish(to("b")))
        yield* start(client.publish(to("c", 0)))
        const suspended = yield* start(client.publish(to("d", 0)))
        yield* network.settle
        assert.isTrue(isPending(suspended))
        yield* Fiber.interrupt(held)
        yield* Fiber.join(suspended)
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 a:1", "publish c:0", "publish d:0"])
      })))

    it.effect("removes a publish that is suspended for want of room", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({ ...quiet, outbox: { maxMessages: 1 } }, {
          connack: connack(receiveMaximum(1))
        })
        yield* start(client.publish(to("a")))
        yield* network.settle
        yield* start(client.publish(to("b")))
        const suspended = yield* start(client.publish(to("c")))
        const behind = yield* start(client.publish(to("d")))
        yield* Fiber.interrupt(suspended)
        yield* peer.sendHex(ackHex("PUBACK", 1) + ackHex("PUBACK", 2) + ackHex("PUBACK", 3))
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 a:1", "publish 2 b:1"])
        yield* peer.sendHex(ackHex("PUBACK", 2))
        yield* network.settle
        assert.strictEqual(sentWords(peer, 5).at(-1), "publish 3 d:1")
        assert.isTrue(isPending(behind))
      })))

    for (const qos of [1, 2] as const) {
      it.effect(`detaches a written QoS ${qos} publish: id and quota stay taken until the server has answered (PI-06c)`, () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open(quiet, { connack: connack(receiveMaximum(1)) })
          const publish = yield* start(client.publish(to("a", qos)))
          yield* expectPackets(peer, publishHex(5, "a", { id: 1, qos }))
          yield* Fiber.interrupt(publish)
          const next = yield* start(client.publish(to("b")))
          yield* network.settle
          assert.deepStrictEqual(sentWords(peer, 5), [`publish 1 a:${qos}`])
          assert.deepStrictEqual(yield* held(client), { queued: 1, heldBytes: 4, inFlight: 1, packetIds: 1 })
          if (qos === 2) {
            yield* peer.sendHex(ackHex("PUBREC", 1))
            yield* network.settle
            assert.strictEqual(sentWords(peer, 5).at(-1), "pubrel 1")
          }
          yield* peer.sendHex(ackHex(qos === 1 ? "PUBACK" : "PUBCOMP", 1))
          yield* network.settle
          assert.strictEqual(sentWords(peer, 5).at(-1), "publish 2 b:1")
          yield* peer.sendHex(ackHex("PUBACK", 2))
          yield* Fiber.join(next)
          assert.deepStrictEqual(yield* held(client), nothing)
        })))
    }

    it.effect("says interruption to who waits for the fiber", () =>
      run(Effect.gen(function*() {
        const { client } = yield* open(quiet)
        const publish = yield* start(client.publish(to("a")))
        yield* Fiber.interrupt(publish)
        const exit = yield* Fiber.await(publish)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      })))
  })

  describe("deadline (law 6)", () => {
    /** Publishes with a deadline of 5 s, which passes; gives the phase that the error names. */
    const phaseAfter = Effect.fnUntraced(function*(
      publish: Fiber.Fiber<MqttClient.PublishResult, PublishError>
    ) {
      yield* TestClock.adjust(4_999)
      assert.isTrue(isPending(publish))
      yield* TestClock.adjust(1)
      const { phase, reason } = yield* failure(publish, "DeadlineExceeded")
      assert.strictEqual(phase, reason.phase)
      assert.strictEqual(reason.timeoutMillis, 5_000)
      return phase
    })
    const timeout = "5 seconds"

    it.effect("removes what is still queued, and what is suspended", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({ ...quiet, outbox: { maxMessages: 1 } }, {
          connack: connack(receiveMaximum(1))
        })
        yield* start(client.publish(to("a")))
        yield* network.settle
        const queued = yield* start(client.publish(to("b"), { timeout }))
        const suspended = yield* start(client.publish(to("c"), { timeout }))
        assert.strictEqual(yield* phaseAfter(queued), "queued")
        assert.strictEqual((yield* failure(suspended, "DeadlineExceeded")).phase, "queued")
        yield* peer.sendHex(ackHex("PUBACK", 1))
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 a:1"])
        assert.deepStrictEqual(yield* held(client), nothing)
      })))

    it.effect("ends the waiting for what is written, and leaves the exchange alone", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(quiet)
        const publish = yield* start(client.publish(to("a"), { timeout }))
        yield* network.settle
        assert.strictEqual(yield* phaseAfter(publish), "written")
        assert.deepStrictEqual(yield* held(client), { queued: 0, heldBytes: 2, inFlight: 1, packetIds: 1 })
        yield* peer.sendHex(ackHex("PUBACK", 1))
        yield* network.settle
        assert.deepStrictEqual(yield* held(client), nothing)
      })))

    it.effect("says that the server has it between PUBREC and PUBCOMP", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(quiet)
        const publish = yield* start(client.publish(to("a", 2), { timeout }))
        yield* network.settle
        yield* peer.sendHex(ackHex("PUBREC", 1))
        yield* network.settle
        assert.strictEqual(yield* phaseAfter(publish), "received")
        yield* peer.sendHex(ackHex("PUBCOMP", 1))
        yield* network.settle
        assert.deepStrictEqual(yield* held(client), nothing)
      })))

    it.effect("leaves alone what is done in time, and no timer behind", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(quiet)
        const publish = yield* start(client.publish(to("a"), { timeout }))
        yield* network.settle
        yield* TestClock.adjust(4_999)
        yield* peer.sendHex(ackHex("PUBACK", 1))
        assert.strictEqual((yield* Fiber.join(publish)).reasonCode, 0)
        assert.strictEqual((yield* client.publish(to("b", 0), { timeout })).qos, 0)
        yield* TestClock.adjust("1 hour")
      })))

    it.effect("takes an infinite deadline as none", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(quiet)
        const publish = yield* start(client.publish(to("a"), { timeout: "Infinity" }))
        yield* network.settle
        yield* TestClock.adjust("365 days")
        assert.isTrue(isPending(publish))
        yield* peer.sendHex(ackHex("PUBACK", 1))
        yield* Fiber.join(publish)
      })))

    it.effect("fails at once with a deadline of nothing, without a byte sent", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(quiet)
        const publish = yield* start(client.publish(to("a"), { timeout: 0 }))
        assert.strictEqual((yield* failure(publish, "DeadlineExceeded")).phase, "queued")
        yield* network.settle
        assert.deepStrictEqual([sentWords(peer, 5), yield* held(client)], [[], nothing])
      })))

    it.effect("refuses a deadline that is none, naming it (law 13)", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(quiet)
        for (const timeout of ["soon", null, "5"]) {
          const publish = yield* start(client.publish(to("a"), { timeout: timeout as unknown as Duration.Input }))
          assert.strictEqual((yield* failure(publish, "InvalidMessage")).reason.field, "timeout")
        }
        yield* network.settle
        assert.deepStrictEqual([sentWords(peer, 5), yield* held(client)], [[], nothing])
      })))
  })
})
