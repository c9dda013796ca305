import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import type { ClientOptions } from "../../src/services/ClientOptions.ts"
import type { MqttClientService } from "../../src/services/MqttClient.ts"
import type { MemoryNetwork } from "../../src/testing/index.ts"
import { Hex } from "../../src/testing/index.ts"
import {
  again,
  connack,
  drop,
  failure,
  held,
  isPending,
  maximumPacketSize,
  nothing,
  persistent,
  receiveMaximum,
  steady,
  to
} from "../support/Publishes.ts"
import type { Peer } from "../support/ScriptedBroker.ts"
import {
  accepted,
  ackHex,
  awaitStatus,
  handshake,
  inWords,
  open,
  publishHex,
  resumed,
  run,
  sentFrames,
  sentWords,
  start
} from "../support/ScriptedBroker.ts"

/** Whether a CONNECT asks for a clean session. */
const isClean = (peer: { readonly connect: string }) => (Hex.decode(peer.connect)[9]! & 2) !== 0

/**
 * Three publishes under way: `a` at QoS 1, `b` at QoS 2 without an answer, `c` at QoS 2 with PUBREC; ids 1, 2, 3.
 */
const three = Effect.fnUntraced(function*(
  { client, network, peer }: {
    readonly client: MqttClientService
    readonly network: MemoryNetwork.MemoryNetwork["Service"]
    readonly peer: Peer
  }
) {
  const a = yield* start(client.publish(to("a", 1)))
  const b = yield* start(client.publish(to("b", 2)))
  const c = yield* start(client.publish(to("c", 2)))
  yield* network.settle
  yield* peer.sendHex(ackHex("PUBREC", 3))
  yield* network.settle
  return { a, b, c, all: [a, b, c] as const }
})

const replayed = ["pubrel 3", "publish 1 a:1 dup", "publish 2 b:2 dup"]

describe("Redelivery", () => {
  for (const version of [4, 5] as const) {
    describe(`MQTT ${version === 4 ? "3.1.1" : "5.0"}`, () => {
      it.effect("sends exactly what is open, byte for byte, and new publishes behind it (QF-23b, QF-09b, PB-01b, OR-05p)", () =>
        run(Effect.gen(function*() {
          const opened = yield* open(persistent[version])
          const { client, listener, network, peer } = opened
          const { all } = yield* three(opened)
          yield* drop(client, peer)
          const fourth = yield* start(client.publish(to("d", 1)))
          const second = yield* again(listener, resumed[version])
          yield* network.settle
          assert.isFalse(isClean(second))
          assert.deepStrictEqual(sentFrames(second).map(Hex.encode), [
            ackHex("PUBREL", 3),
            publishHex(version, "a", { id: 1, dup: true }),
            publishHex(version, "b", { id: 2, qos: 2, dup: true }),
            publishHex(version, "d", { id: 4 })
          ])
          yield* second.sendHex(ackHex("PUBCOMP", 3) + ackHex("PUBACK", 1) + ackHex("PUBREC", 2) + ackHex("PUBACK", 4))
          yield* network.settle
          assert.deepStrictEqual(sentWords(second, version).slice(4), ["pubrel 2"])
          yield* second.sendHex(ackHex("PUBCOMP", 2))
          yield* Fiber.joinAll([...all, fourth])
          assert.deepStrictEqual(yield* held(client), nothing)
        })))

      it.effect("sends PUBRELs in the order in which the PUBRECs came, also when the drop came first (OR-04c, QF-08b)", () =>
        run(Effect.gen(function*() {
          const { client, listener, network, peer } = yield* open(persistent[version])
          for (const topic of ["a", "b", "c"]) yield* start(client.publish(to(topic, 2)))
          yield* network.settle
          yield* peer.sendHex(ackHex("PUBREC", 3) + ackHex("PUBREC", 1))
          yield* network.settle
          assert.deepStrictEqual(sentWords(peer, version).slice(3), ["pubrel 3", "pubrel 1"])
          // This one's PUBREL has no time to leave.
          yield* peer.sendHex(ackHex("PUBREC", 2))
          yield* drop(client, peer)
          const second = yield* again(listener, resumed[version])
          yield* network.settle
          assert.deepStrictEqual(sentWords(second, version), ["pubrel 3", "pubrel 1", "pubrel 2"])
        })))

      it.effect("starts over, in the same order, when the link drops again", () =>
        run(Effect.gen(function*() {
          const opened = yield* open(persistent[version])
          const { client, listener, network, peer } = opened
          const { all } = yield* three(opened)
          let last = peer
          for (let i = 0; i < 3; i++) {
            yield* drop(client, last)
            last = yield* again(listener, resumed[version])
            yield* network.settle
            assert.deepStrictEqual(sentWords(last, version), replayed)
          }
          yield* last.sendHex(ackHex("PUBREC", 2))
          yield* network.settle
          yield* drop(client, last)
          last = yield* again(listener, resumed[version])
          yield* network.settle
          assert.deepStrictEqual(sentWords(last, version), ["pubrel 3", "pubrel 2", "publish 1 a:1 dup"])
          assert.isTrue(all.every(isPending))
        })))

      it.effect("goes on with what its caller has left (law 5)", () =>
        run(Effect.gen(function*() {
          const opened = yield* open(persistent[version])
          const { client, listener, network, peer } = opened
          const { all } = yield* three(opened)
          yield* Fiber.interruptAll(all)
          yield* drop(client, peer)
          const second = yield* again(listener, resumed[version])
          yield* network.settle
          assert.deepStrictEqual(sentWords(second, version), replayed)
          yield* second.sendHex(ackHex("PUBCOMP", 3) + ackHex("PUBACK", 1) + ackHex("PUBREC", 2) + ackHex("PUBCOMP", 2))
          yield* network.settle
          assert.deepStrictEqual(yield* held(client), nothing)
        })))

      it.effect("sends nothing again that is over (QF-25b)", () =>
        run(Effect.gen(function*() {
          const opened = yield* open(persistent[version])
          const { client, listener, network, peer } = opened
          const { a, b, c } = yield* three(opened)
          yield* peer.sendHex(ackHex("PUBACK", 1) + ackHex("PUBCOMP", 3))
          if (version === 5) yield* peer.sendHex(ackHex("PUBREC", 2, 0x97))
          else yield* peer.sendHex(ackHex("PUBREC", 2) + ackHex("PUBCOMP", 2))
          yield* Effect.all([a, b, c].map((fiber) => Fiber.await(fiber)))
          yield* network.settle
          yield* drop(client, peer)
          const second = yield* again(listener, resumed[version])
          yield* network.settle
          assert.deepStrictEqual(sentWords(second, version), [])
          assert.strictEqual((yield* client.status)._tag, "Connected")
        })))
    })
  }

  describe("window (law 9)", () => {
    it.effect("is the new connection's: one at a time with Receive Maximum 1, and nothing new before (FC-02c)", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open(persistent[5])
        for (const topic of ["a", "b", "c"]) yield* start(client.publish(to(topic, 1)))
        yield* network.settle
        yield* drop(client, peer)
        yield* start(client.publish(to("d", 0)))
        yield* start(client.publish(to("e", 1)))
        const second = yield* again(listener, connack(receiveMaximum(1), true))
        const expected: Array<string> = []
        const steps = [["publish 1 a:1 dup"], ["publish 2 b:1 dup"], ["publish 3 c:1 dup", "publish d:0"], [
          "publish 4 e:1"
        ]]
        for (const [index, step] of steps.entries()) {
          yield* network.settle
          expected.push(...step)
          assert.deepStrictEqual(sentWords(second, 5), expected)
          yield* second.sendHex(ackHex("PUBACK", index + 1))
        }
      })))

    it.effect("counts a PUBREL that is sent again until its PUBCOMP, and never holds it back (FC-10p, FC-03p)", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open(persistent[5])
        for (const topic of ["a", "b"]) yield* start(client.publish(to(topic, 2)))
        yield* network.settle
        yield* peer.sendHex(ackHex("PUBREC", 1) + ackHex("PUBREC", 2))
        yield* network.settle
        yield* drop(client, peer)
        yield* start(client.publish(to("c", 1)))
        yield* start(client.publish(to("d", 1)))
        const second = yield* again(listener, connack(receiveMaximum(1), true))
        yield* network.settle
        assert.deepStrictEqual(sentWords(second, 5), ["pubrel 1", "pubrel 2"])
        yield* second.sendHex(ackHex("PUBCOMP", 1))
        yield* network.settle
        assert.strictEqual(sentFrames(second).length, 2)
        yield* second.sendHex(ackHex("PUBCOMP", 2))
        yield* network.settle
        assert.deepStrictEqual(sentWords(second, 5).slice(2), ["publish 3 c:1"])
      })))

    it.effect("is whole again on each connection: an abandoned publish holds no place in it (FC-08p)", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open(steady, { connack: connack(receiveMaximum(1)) })
        const left = yield* start(client.publish(to("a", 2)))
        yield* network.settle
        yield* Fiber.interrupt(left)
        yield* drop(client, peer)
        const second = yield* again(listener, connack(receiveMaximum(1)))
        yield* start(client.publish(to("b", 1)))
        yield* network.settle
        assert.deepStrictEqual(sentWords(second, 5), ["publish 2 b:1"])
      })))
  })

  describe("limits of the next connection", () => {
    it.effect("fail what they forbid, typed and named as written, and free its id; PUBRELs go on (CK-08c, CK-12c, CK-14c)", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open(persistent[5])
        const released = yield* start(client.publish(to("released", 2, { payload: new Uint8Array(100) })))
        const two = yield* start(client.publish(to("two", 2)))
        const retained = yield* start(client.publish(to("retained", 1, { retain: true })))
        const large = yield* start(client.publish(to("large", 1, { payload: new Uint8Array(54) })))
        const exact = yield* start(client.publish(to("exact", 1, { payload: new Uint8Array(52) })))
        yield* network.settle
        yield* peer.sendHex(ackHex("PUBREC", 1))
        yield* network.settle
        yield* drop(client, peer)
        const second = yield* again(listener, connack(`24 01 25 00 ${maximumPacketSize(64)}`, true))
        yield* network.settle
        assert.deepStrictEqual(sentWords(second, 5), ["pubrel 1", "publish 5 exact:1 dup"])
        for (const [fiber, feature] of [[two, "qos"], [retained, "retain"]] as const) {
          const { phase, reason } = yield* failure(fiber, "NotSupportedByServer")
          assert.deepStrictEqual([reason.feature, phase], [feature, "written"])
        }
        const { phase, reason } = yield* failure(large, "PacketTooLarge")
        assert.deepStrictEqual([reason.size, reason.limit, phase], [66, 64, "written"])
        yield* second.sendHex(ackHex("PUBCOMP", 1) + ackHex("PUBACK", 5))
        yield* Fiber.joinAll([released, exact])
        assert.deepStrictEqual(yield* held(client), nothing)
      })))

    it.effect("count what they forbid where its caller has left", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open(persistent[5])
        const left = yield* start(client.publish(to("a", 2)))
        yield* network.settle
        yield* Fiber.interrupt(left)
        yield* drop(client, peer)
        yield* again(listener, connack("24 01", true))
        yield* network.settle
        assert.strictEqual((yield* client.stats).dropped, 1)
        assert.deepStrictEqual(yield* held(client), nothing)
      })))
  })

  // ---------------------------------------------------------------------------
  // what CONNACK says of the session
  // ---------------------------------------------------------------------------

  describe("session present table (law 10)", () => {
    interface Row {
      readonly row: string
      readonly options: Partial<ClientOptions>
      readonly first?: string
      /** Refusals of attempts in between. */
      readonly refused?: ReadonlyArray<string>
      readonly second: string
      readonly clean: boolean
      readonly resumes: boolean
    }
    const rows: ReadonlyArray<Row> = [
      { row: "P1", options: steady, second: accepted[5], clean: true, resumes: false },
      { row: "P5", options: persistent[5], second: resumed[5], clean: false, resumes: true },
      { row: "P7", options: persistent[5], second: accepted[5], clean: false, resumes: false },
      {
        row: "P8",
        options: persistent[5],
        refused: ["20 03 00 88 00"],
        second: resumed[5],
        clean: false,
        resumes: true
      },
      {
        row: "P9",
        options: persistent[5],
        refused: ["20 03 01 88 00"],
        second: resumed[5],
        clean: false,
        resumes: true
      },
      {
        row: "P13",
        options: steady,
        first: connack("11 00 00 00 3c"),
        second: resumed[5],
        clean: false,
        resumes: true
      },
      {
        row: "P14",
        options: persistent[5],
        first: connack("11 00 00 00 00"),
        second: accepted[5],
        clean: true,
        resumes: false
      },
      {
        row: "P16",
        options: { ...persistent[5], clientId: "" },
        first: connack("12 00 01 7a"),
        second: resumed[5],
        clean: false,
        resumes: true
      },
      { row: "Q1", options: { ...steady, protocolVersion: 4 }, second: accepted[4], clean: true, resumes: false },
      { row: "Q5", options: persistent[4], second: resumed[4], clean: false, resumes: true },
      { row: "Q6", options: persistent[4], second: accepted[4], clean: false, resumes: false },
      {
        row: "Q7",
        options: persistent[4],
        refused: ["20 02 00 03", "20 02 00 03"],
        second: resumed[4],
        clean: false,
        resumes: true
      }
    ]
    for (const { clean, first, options, refused = [], resumes, row, second } of rows) {
      const version = options.protocolVersion ?? 5
      it.effect(`${row}: ${resumes ? "exact replay" : "QoS 1 as new, QoS 2 fails, no DUP and no PUBREL"} (SS-07)`, () =>
        run(Effect.gen(function*() {
          const opened = yield* open(options, first === undefined ? {} : { connack: first })
          const { client, listener, network, peer } = opened
          const { a, all, b, c } = yield* three(opened)
          yield* drop(client, peer)
          for (const connack of refused) {
            const attempt = yield* again(listener, connack)
            assert.strictEqual(isClean(attempt), clean)
            yield* awaitStatus(client, "Reconnecting")
            assert.isTrue(all.every(isPending))
          }
          const next = yield* again(listener, second)
          yield* network.settle
          assert.strictEqual(isClean(next), clean)
          if (row === "P16") assert.include(next.connect, "00 01 7a")
          if (resumes) {
            assert.deepStrictEqual(sentWords(next, version), replayed)
            assert.isTrue(all.every(isPending))
            return
          }
          assert.deepStrictEqual(sentFrames(next).map(Hex.encode), [publishHex(version, "a", { id: 4 })])
          for (const [fiber, phase] of [[b, "written"], [c, "received"]] as const) {
            const failed = yield* failure(fiber, "SessionLost")
            assert.deepStrictEqual([failed.phase, failed.reason.phase], [phase, phase])
          }
          yield* next.sendHex(ackHex("PUBACK", 4))
          yield* Fiber.join(a)
          assert.deepStrictEqual(yield* held(client), nothing)
        })))
    }

    it.effect("P6: an empty store is no lost session", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open(persistent[5])
        yield* drop(client, peer)
        const second = yield* again(listener, resumed[5])
        yield* network.settle
        assert.isFalse(isClean(second))
        assert.deepStrictEqual(sentWords(second, 5), [])
        assert.strictEqual((yield* client.status)._tag, "Connected")
      })))
  })

  describe("lost session", () => {
    for (const version of [4, 5] as const) {
      for (const qos1 of ["republish", "fail"] as const) {
        for (const qos2 of ["republish", "fail"] as const) {
          it.effect(`follows the policy on MQTT ${version}: QoS 1 ${qos1}, QoS 2 ${qos2}; what is sent goes first (law 10)`, () =>
            run(Effect.gen(function*() {
              const opened = yield* open({ ...persistent[version], onSessionLost: { qos1, qos2 } })
              const { client, listener, network, peer } = opened
              const { a, b, c } = yield* three(opened)
              yield* drop(client, peer)
              const queued = yield* start(client.publish(to("queued", 1)))
              const second = yield* again(listener, accepted[version])
              yield* network.settle
              const expected = [
                ...(qos1 === "republish" ? ["a:1"] : []),
                ...(qos2 === "republish" ? ["b:2", "c:2"] : []),
                "queued:1"
              ]
              assert.deepStrictEqual(
                sentWords(second, version),
                expected.map((words, i) => `publish ${4 + i} ${words}`)
              )
              const failed = [
                ...(qos1 === "fail" ? [[a, "written"] as const] : []),
                ...(qos2 === "fail" ? [[b, "written"] as const, [c, "received"] as const] : [])
              ]
              for (const [fiber, phase] of failed) {
                assert.strictEqual((yield* failure(fiber, "SessionLost")).phase, phase)
              }
              for (const words of sentWords(second, version)) {
                const acks = words.endsWith(":1") ? ["PUBACK"] as const : ["PUBREC", "PUBCOMP"] as const
                for (const type of acks) yield* second.sendHex(ackHex(type, Number(words.split(" ")[1])))
              }
              const done = [...(qos1 === "fail" ? [] : [a]), ...(qos2 === "fail" ? [] : [b, c]), queued]
              yield* Fiber.joinAll(done)
              assert.deepStrictEqual(yield* held(client), nothing)
            })))
        }
      }
    }

    it.effect("publishes again what its caller has left, too", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open(steady)
        const left = yield* start(client.publish(to("a", 1)))
        yield* network.settle
        yield* Fiber.interrupt(left)
        yield* drop(client, peer)
        const second = yield* again(listener, accepted[5])
        yield* network.settle
        assert.deepStrictEqual(sentWords(second, 5), ["publish 2 a:1"])
      })))

    it.effect("never calls a message queued that has left before, whatever ends it (law 6)", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open(
          { ...steady, onSessionLost: { qos2: "republish" }, outbox: { maxMessages: 10 } }
        )
        yield* start(client.publish(to("first", 1)))
        const deadline = yield* start(client.publish(to("a", 1), { timeout: "1 minute" }))
        const large = yield* start(client.publish(to("b", 1, { payload: new Uint8Array(100) })))
        const received = yield* start(client.publish(to("c", 2)))
        const written = yield* start(client.publish(to("d", 1)))
        yield* network.settle
        yield* peer.sendHex(ackHex("PUBREC", 4))
        yield* network.settle
        yield* drop(client, peer)
        const second = yield* again(listener, connack(`${receiveMaximum(1)} ${maximumPacketSize(64)}`))
        yield* network.settle
        assert.deepStrictEqual(sentWords(second, 5), ["publish 6 first:1"])
        yield* TestClock.adjust("1 minute")
        assert.strictEqual((yield* failure(deadline, "DeadlineExceeded")).phase, "written")
        yield* second.sendHex(ackHex("PUBACK", 6))
        assert.strictEqual((yield* failure(large, "PacketTooLarge")).phase, "written")
        yield* network.settle
        assert.deepStrictEqual(sentWords(second, 5).slice(1).map((words) => words.replace(/ \d+/, "")), ["publish c:2"])
        yield* client.disconnect()
        for (const [fiber, phase] of [[received, "received"], [written, "written"]] as const) {
          const failed = yield* failure(fiber, "PublishAbandoned")
          assert.deepStrictEqual([failed.phase, failed.reason.phase], [phase, phase])
        }
      })))

    it.effect("takes out what is interrupted before it is published again", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open(steady)
        yield* start(client.publish(to("a", 1)))
        const second = yield* start(client.publish(to("b", 1)))
        yield* network.settle
        yield* drop(client, peer)
        const next = yield* again(listener, connack(receiveMaximum(1)))
        yield* network.settle
        yield* Fiber.interrupt(second)
        yield* next.sendHex(ackHex("PUBACK", 3))
        yield* network.settle
        assert.deepStrictEqual(sentWords(next, 5), ["publish 3 a:1"])
        assert.deepStrictEqual(yield* held(client), nothing)
      })))
  })

  // ---------------------------------------------------------------------------
  // many fibers, many drops
  // ---------------------------------------------------------------------------

  /** A session at a server that answers every packet, and what it has taken: topics in order. */
  const makeServer = () => {
    const taken: Array<string> = []
    const held = new Map<string, string>()
    /** The answer to a packet in words. */
    const answer = (words: string): string => {
      const [kind, id, message = "", dup] = words.split(" ")
      const [topic, qos] = message.split(":")
      if (kind === "pubrel") {
        held.delete(id!)
        return ackHex("PUBCOMP", Number(id))
      }
      assert.strictEqual(kind, "publish")
      if (qos === "1") {
        taken.push(topic!)
        return ackHex("PUBACK", Number(id))
      }
      if (held.has(id!)) {
        assert.deepStrictEqual([held.get(id!), dup], [topic, "dup"], "an id in use is used for another message")
      } else {
        held.set(id!, topic!)
        taken.push(topic!)
      }
      return ackHex("PUBREC", Number(id))
    }
    return { taken, answer, forget: () => held.clear() }
  }

  /** 64 fibers publish ten messages each, four at a time, while the link drops after every twenty packets or so. */
  const storm = Effect.fnUntraced(function*(keeps: boolean) {
    const { client, listener, peer } = yield* open({
      ...(keeps ? persistent[5] : steady),
      sendMaximum: 50,
      outbox: { maxMessages: 100 }
    })
    const server = makeServer()
    const messages = Array.from(
      { length: 64 },
      (_, fiber) => Array.from({ length: 10 }, (_, n) => to(`${fiber}/${n}`, n % 2 === 0 ? 1 : 2))
    )
    const publishers = yield* Effect.forEach(messages, (own) => {
      const outcomes = Effect.forEach(own, (each) => Effect.result(client.publish(each)), { concurrency: 4 })
      return start(outcomes)
    })
    const done = yield* start(Effect.forEach(publishers, Fiber.await))
    let last: Peer = peer
    let drops = 0
    while (isPending(done)) {
      for (let i = 0; i < 20 + drops % 7; i++) {
        const frame = yield* Effect.raceFirst(last.readFrame, Effect.as(Fiber.await(done), undefined))
        if (frame === undefined) break
        const answer = server.answer(inWords(frame, 5))
        // The last answers of each connection are lost with it.
        if (drops === 40 || i < 17 + drops % 5) yield* last.sendHex(answer)
      }
      if (drops === 40 || !isPending(done)) continue
      drops++
      yield* drop(client, last)
      if (!keeps) server.forget()
      last = yield* again(listener, keeps ? resumed[5] : accepted[5])
    }
    assert.isAbove(drops, 15)
    const outcomes = (yield* Effect.forEach(publishers, Fiber.join)).flat()
    assert.deepStrictEqual(yield* held(client), nothing)
    return { messages, outcomes, taken: server.taken }
  })

  for (const keeps of [true, false]) {
    const session = keeps ? "a kept session" : "lost sessions"
    it.effect(`loses nothing and keeps the order of each of 64 fibers, with ${session} (law 7, law 8)`, () =>
      run(Effect.gen(function*() {
        const { messages, outcomes, taken } = yield* storm(keeps)
        for (const [index, { qos, topic }] of messages.flat().entries()) {
          const outcome = outcomes[index]!
          const times = taken.filter((other) => other === topic).length
          if (qos === 2) assert.isAtMost(times, 1, `${topic} twice`)
          if (outcome._tag === "Success") assert.isAtLeast(times, 1, `${topic} is missing`)
          else {
            assert.isTrue(!keeps && qos === 2, topic)
            const { phase, reason } = outcome.failure
            assert.strictEqual(reason._tag, "SessionLost")
            assert.include(times === 0 ? ["written"] : ["written", "received"], phase)
          }
        }
        const firsts = [...new Set(taken)]
        for (const own of messages) {
          const topics = own.map(({ topic }) => topic).filter((topic) => taken.includes(topic))
          assert.deepStrictEqual(firsts.filter((topic) => topics.includes(topic)), topics)
        }
      })))
  }

  it.effect("takes an answer that comes for what was not sent on this connection as nothing (PI-10p)", () =>
    run(Effect.gen(function*() {
      const { client, listener, network, peer } = yield* open(persistent[5])
      const first = yield* start(client.publish(to("a", 1)))
      const second = yield* start(client.publish(to("b", 1)))
      yield* network.settle
      yield* drop(client, peer)
      yield* TestClock.adjust("1 second")
      // The answer to b stands in the same segment as CONNACK, before b is sent again.
      const next = yield* handshake(listener, `${connack(receiveMaximum(1), true)} ${ackHex("PUBACK", 2)}`)
      yield* network.settle
      assert.deepStrictEqual(sentWords(next, 5), ["publish 1 a:1 dup"])
      assert.isTrue(isPending(second))
      yield* next.sendHex(ackHex("PUBACK", 1))
      yield* Fiber.join(first)
      yield* network.settle
      yield* next.sendHex(ackHex("PUBACK", 2))
      yield* Fiber.join(second)
    })))
})
