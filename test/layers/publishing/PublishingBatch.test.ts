import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, References, Result, Stream } from "effect"
import { TestClock } from "effect/testing"
import type { OutgoingMessage } from "../../../src/services/Message.ts"
import type { PublishResult } from "../../../src/services/MqttClient.ts"
import type { PublishError } from "../../../src/services/MqttError.ts"
import { Transport } from "../../../src/services/Transport.ts"
import { TestBroker, TestSessionStore } from "../../../src/testing/index.ts"
import { connack, drop, held, isPending, nothing, persistent, receiveMaximum, to } from "../../support/Publishes.ts"
import { begin, kit, settle } from "../../support/Restarts.ts"
import { ackHex, handshake, open, resumed, run, sentWords, start } from "../../support/ScriptedBroker.ts"
import type { Peer } from "../../support/ScriptedBroker.ts"

const broker = TestBroker.TestBroker
const store = TestSessionStore.TestSessionStore

/** A network that copies what is written, and so never holds any of it. */
const flushing = ({ connect }: Transport["Service"]): Transport["Service"] => ({
  connect: (endpoint, onPhase) =>
    Effect.map(connect(endpoint, onPhase), ({ abort, pull, write }) => ({
      abort,
      pull,
      write: (chunk) => write(chunk.slice()),
      isFlushed: () => true
    }))
})

/** No pings in the way. */
const quiet = { keepAlive: 0 } as const

/** `a0`, `a1`, … at this QoS. */
const batch = (count: number, qos: 0 | 1 | 2 = 1, name = "a") =>
  Array.from({ length: count }, (_, index) => to(`${name}${index}`, qos))

/** Outcomes as text: the reason code, or what failed in which phase. */
const told = (outcomes: ReadonlyArray<Result.Result<PublishResult, PublishError>>) =>
  outcomes.map((outcome) =>
    Result.isSuccess(outcome)
      ? `${outcome.success.qos}:${outcome.success.reasonCode}`
      : `${outcome.failure.topic} ${outcome.failure.reason._tag} ${outcome.failure.phase}`
  )

const done = (count: number, qos: 0 | 1 | 2) => Array.from({ length: count }, () => `${qos}:0`)

/** Topics of the PUBLISH packets that were sent, in order. */
const topics = (peer: Peer) =>
  sentWords(peer, 5).filter((words) => words.startsWith("publish")).map((words) => /(\S+):\d/.exec(words)![1])

const acknowledge = (peer: Peer, from: number, to: number) =>
  peer.sendHex(Array.from({ length: to - from + 1 }, (_, index) => ackHex("PUBACK", from + index)).join(""))

describe("publishAll", () => {
  for (const version of [4, 5] as const) {
    it.effect(`sends all in the order of the array, with the outcome of each (law 7, MQTT ${version})`, () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({ ...quiet, protocolVersion: version })
        const all = Array.from({ length: 30 }, (_, index) => to(`t${index}`, (index % 3) as 0 | 1 | 2))
        const publishing = yield* start(client.publishAll(all))
        yield* network.settle
        assert.deepStrictEqual(
          sentWords(peer, version).map((words) => words.replace(/^publish (\d+ )?/, "")),
          all.map(({ qos, topic }) => `${topic}:${qos}`)
        )
        for (let id = 20; id > 1; id--) {
          yield* peer.sendHex(id % 2 === 1 ? ackHex("PUBACK", id) : `${ackHex("PUBREC", id)}${ackHex("PUBCOMP", id)}`)
        }
        yield* network.settle
        assert.isTrue(isPending(publishing), "one is missing")
        yield* peer.sendHex(ackHex("PUBACK", 1))
        assert.deepStrictEqual(told(yield* Fiber.join(publishing)), all.map(({ qos }) => `${qos}:0`))
        assert.deepStrictEqual(yield* held(client), nothing)
      })))
  }

  it.effect("is done at once where there is nothing to wait for", () =>
    run(Effect.gen(function*() {
      const { client } = yield* open(quiet)
      assert.deepStrictEqual(yield* client.publishAll([]), [])
      assert.deepStrictEqual(yield* client.publishAll(new Set<OutgoingMessage>()), [])
      assert.deepStrictEqual(told(yield* client.publishAll(batch(3, 0))), done(3, 0))
    })))

  it.effect("gives results as `publish` does", () =>
    run(Effect.gen(function*() {
      const { client, network, peer } = yield* open(quiet)
      const [one, two, ...all] = yield* Effect.forEach(
        [client.publish(to("a")), client.publish(to("a", 2)), client.publishAll([to("a"), to("a", 2), to("a", 0)])],
        (effect) => start(effect as Effect.Effect<unknown, PublishError>)
      )
      yield* network.settle
      for (const id of [1, 3]) yield* peer.sendHex(ackHex("PUBACK", id))
      for (const id of [2, 4]) yield* peer.sendHex(`${ackHex("PUBREC", id)}${ackHex("PUBCOMP", id)}`)
      const outcomes = (yield* Fiber.join(all[0]!)) as ReadonlyArray<Result.Result<PublishResult, PublishError>>
      assert.deepStrictEqual(outcomes.map((outcome) => Result.getOrThrow(outcome)), [
        (yield* Fiber.join(one!)) as PublishResult,
        (yield* Fiber.join(two!)) as PublishResult,
        yield* client.publish(to("a", 0))
      ])
    })))

  it.effect("reads an iterable that is no array", () =>
    run(Effect.gen(function*() {
      const { client, network, peer } = yield* open(quiet)
      const messages = function*() {
        yield to("a", 0)
        yield to("b", 0)
      }
      assert.deepStrictEqual(told(yield* client.publishAll(messages())), done(2, 0))
      yield* network.settle
      assert.deepStrictEqual(topics(peer), ["a", "b"])
    })))

  it.effect("fails what is not valid by itself, and sends the others (law 13)", () =>
    run(Effect.gen(function*() {
      const { client, network, peer } = yield* open(quiet)
      const wrong = [
        to("bad/#", 1),
        to("a"),
        { topic: 5 },
        null,
        to("b", 0),
        to("c", 0, { payload: "\ud800" })
      ] as ReadonlyArray<OutgoingMessage>
      const publishing = yield* start(client.publishAll(wrong))
      yield* network.settle
      assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 a:1", "publish b:0"])
      yield* peer.sendHex(ackHex("PUBACK", 1))
      assert.deepStrictEqual(told(yield* Fiber.join(publishing)), [
        "bad/# InvalidMessage queued",
        "1:0",
        " InvalidMessage queued",
        " InvalidMessage queued",
        "0:0",
        "c InvalidMessage queued"
      ])
      assert.deepStrictEqual(yield* held(client), nothing)
    })))

  it.effect("is done when all are refused, or wrong", () =>
    run(Effect.gen(function*() {
      const { client } = yield* open(quiet)
      assert.deepStrictEqual(told(yield* client.publishAll([to("#"), to("+", 0)])), [
        "# InvalidMessage queued",
        "+ InvalidMessage queued"
      ])
      assert.deepStrictEqual(told(yield* client.publishAll(batch(2), { timeout: "no time" as "1 second" })), [
        "a0 InvalidMessage queued",
        "a1 InvalidMessage queued"
      ])
    })))

  it.effect("tells of each refusal of the server, and of each code of success", () =>
    run(Effect.gen(function*() {
      const { client, network, peer } = yield* open(quiet)
      const publishing = yield* start(client.publishAll([...batch(2), to("b", 2)]))
      yield* network.settle
      yield* peer.sendHex(ackHex("PUBACK", 1, 0x97) + ackHex("PUBACK", 2, 0x10) + ackHex("PUBREC", 3, 0x87))
      assert.deepStrictEqual(told(yield* Fiber.join(publishing)), [
        "a0 PublishRefused written",
        "1:16",
        "b PublishRefused written"
      ])
      assert.deepStrictEqual(yield* held(client), nothing)
    })))

  describe("bounds", () => {
    it.effect("takes no more of the outbox than there is, and goes on as it empties (law 14)", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({ ...quiet, outbox: { maxMessages: 3 } }, {
          connack: connack(receiveMaximum(2))
        })
        const publishing = yield* start(client.publishAll(batch(100)))
        yield* network.settle
        assert.deepStrictEqual(yield* held(client), { queued: 3, heldBytes: 15, inFlight: 2, packetIds: 2 })
        for (let id = 1; id <= 99; id += 2) {
          yield* acknowledge(peer, id, id + 1)
          yield* network.settle
          assert.isAtMost((yield* client.stats).queued, 3)
        }
        assert.deepStrictEqual(told(yield* Fiber.join(publishing)), done(100, 1))
        assert.deepStrictEqual(topics(peer), batch(100).map(({ topic }) => topic))
      })))

    it.effect("is bounded by bytes as well", () =>
      run(Effect.gen(function*() {
        const { client, listener, network } = yield* open({ ...quiet, outbox: { maxBytes: 100 } })
        yield* client.pause
        const all = [...batch(5, 0), to("large", 0, { payload: new Uint8Array(101) }), ...batch(50, 0, "b")]
        const publishing = yield* start(client.publishAll(all))
        yield* network.settle
        assert.isAtMost((yield* client.stats).heldBytes, 100)
        assert.isTrue(isPending(publishing))
        const resuming = yield* start(client.resume)
        const second = yield* handshake(listener)
        yield* Fiber.join(resuming)
        const outcomes = yield* Fiber.join(publishing)
        yield* network.settle
        assert.strictEqual(told(outcomes)[5], "large PacketTooLarge queued")
        assert.strictEqual(told(outcomes).filter((each) => each === "0:0").length, 55)
        assert.deepStrictEqual(topics(second), [...batch(5), ...batch(50, 0, "b")].map(({ topic }) => topic))
      })))

    it.effect("lets nothing that is published later before its last message (law 7)", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({ ...quiet, outbox: { maxMessages: 2 } }, {
          connack: connack(receiveMaximum(1))
        })
        yield* start(client.publishAll(batch(6)))
        yield* start(client.publish(to("later", 0)))
        yield* start(client.publishAll(batch(3, 0, "b")))
        const flushed = yield* start(client.flush)
        for (let id = 1; id <= 6; id++) {
          yield* network.settle
          assert.isTrue(id === 6 || isPending(flushed), "flush waits for what has no place yet")
          yield* acknowledge(peer, id, id)
        }
        yield* Fiber.join(flushed)
        assert.deepStrictEqual(topics(peer), ["a0", "a1", "a2", "a3", "a4", "a5", "later", "b0", "b1", "b2"])
      })))

    for (const strategy of ["fail", "dropNewest"] as const) {
      it.effect(`fails what is beyond the bounds with the strategy "${strategy}", as \`publish\` does`, () =>
        run(Effect.gen(function*() {
          const { client, network, peer } = yield* open({ ...quiet, outbox: { maxMessages: 2, strategy } }, {
            connack: connack(receiveMaximum(1))
          })
          const first = yield* start(client.publish(to("first")))
          yield* network.settle
          const publishing = yield* start(client.publishAll(batch(4)))
          for (let id = 1; id <= 3; id++) {
            yield* network.settle
            yield* acknowledge(peer, id, id)
          }
          yield* Fiber.join(first)
          assert.deepStrictEqual(told(yield* Fiber.join(publishing)), [
            "1:0",
            "1:0",
            "a2 OutboxFull queued",
            "a3 OutboxFull queued"
          ])
        })))
    }

    it.effect("goes on within new bounds", () =>
      run(Effect.gen(function*() {
        const { client, listener, network } = yield* open({ ...quiet, outbox: { maxMessages: 2 } })
        yield* client.pause
        const publishing = yield* start(client.publishAll(batch(9, 0)))
        const reconnecting = yield* start(
          client.reconnect((options) => ({ ...options, outbox: { maxMessages: 4 } }))
        )
        const second = yield* handshake(listener)
        yield* Fiber.join(reconnecting)
        assert.deepStrictEqual(told(yield* Fiber.join(publishing)), done(9, 0))
        yield* network.settle
        assert.deepStrictEqual(topics(second), batch(9).map(({ topic }) => topic))
      })))

    it.effect("drops the oldest by the strategy, its own as well", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({
          ...quiet,
          outbox: { maxMessages: 2, strategy: "dropOldest" }
        }, { connack: connack(receiveMaximum(1)) })
        const first = yield* start(client.publish(to("first")))
        yield* network.settle
        const publishing = yield* start(client.publishAll(batch(4)))
        for (let id = 1; id <= 3; id++) {
          yield* network.settle
          yield* acknowledge(peer, id, id)
        }
        yield* Fiber.join(first)
        assert.deepStrictEqual(told(yield* Fiber.join(publishing)), [
          "a0 OutboxFull queued",
          "a1 OutboxFull queued",
          "1:0",
          "1:0"
        ])
        assert.deepStrictEqual(topics(peer), ["first", "a2", "a3"])
      })))

    it.effect("fails QoS 0 without a connection if that is asked for, and keeps the others", () =>
      run(Effect.gen(function*() {
        const { client, network } = yield* open({ ...quiet, outbox: { qos0Offline: "fail" } })
        yield* client.pause
        const publishing = yield* start(client.publishAll([to("a", 0), to("b"), to("c", 0)]))
        yield* network.settle
        assert.deepStrictEqual(yield* held(client), { queued: 1, heldBytes: 2, inFlight: 0, packetIds: 0 })
        yield* client.disconnect()
        assert.deepStrictEqual(told(yield* Fiber.join(publishing)), [
          "a Offline queued",
          "b PublishAbandoned queued",
          "c Offline queued"
        ])
      })))
  })

  describe("ends", () => {
    it.effect("is taken back wherever between the offer and the wait it is interrupted (law 5)", () =>
      run(Effect.gen(function*() {
        const { client } = yield* open(quiet)
        yield* client.pause
        for (let steps = 3; steps <= 16; steps++) {
          for (const options of [undefined, { timeout: "1 second" }] as const) {
            const publishing = yield* start(
              Effect.provideService(client.publishAll(batch(3), options), References.MaxOpsBeforeYield, steps)
            )
            yield* Fiber.interrupt(publishing)
            assert.deepStrictEqual(yield* held(client), nothing, `${steps} steps`)
          }
        }
      })))

    it.effect("takes back what was not written when it is interrupted, and detaches what was (law 5)", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({ ...quiet, outbox: { maxMessages: 4 } }, {
          connack: connack(receiveMaximum(2))
        })
        const publishing = yield* start(client.publishAll(batch(10)))
        yield* network.settle
        const other = yield* start(client.publish(to("other")))
        yield* network.settle
        yield* Fiber.interrupt(publishing)
        yield* network.settle
        assert.deepStrictEqual(yield* held(client), { queued: 1, heldBytes: 12, inFlight: 2, packetIds: 2 })
        yield* acknowledge(peer, 1, 2)
        yield* network.settle
        yield* acknowledge(peer, 3, 3)
        yield* Fiber.join(other)
        assert.deepStrictEqual(topics(peer), ["a0", "a1", "other"])
        assert.deepStrictEqual(yield* held(client), nothing)
      })))

    it.effect("takes back QoS 0 messages that were not written as well", () =>
      run(Effect.gen(function*() {
        const { client, network } = yield* open({ ...quiet, outbox: { maxMessages: 4 } })
        yield* client.pause
        const publishing = yield* start(client.publishAll(batch(10, 0)))
        yield* network.settle
        assert.strictEqual((yield* client.stats).queued, 4)
        yield* Fiber.interrupt(publishing)
        assert.deepStrictEqual(yield* held(client), nothing)
      })))

    it.effect("fails what has no outcome when the time is over, by how far it had come", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({ ...quiet, outbox: { maxMessages: 2 } }, {
          connack: connack(receiveMaximum(2))
        })
        const publishing = yield* start(client.publishAll([to("a"), to("b", 2), ...batch(4)], { timeout: "1 second" }))
        yield* network.settle
        yield* peer.sendHex(ackHex("PUBREC", 2) + ackHex("PUBACK", 1))
        yield* network.settle
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(told(yield* Fiber.join(publishing)), [
          "1:0",
          "b DeadlineExceeded received",
          "a0 DeadlineExceeded written",
          "a1 DeadlineExceeded queued",
          "a2 DeadlineExceeded queued",
          "a3 DeadlineExceeded queued"
        ])
        yield* network.settle
        assert.deepStrictEqual(yield* held(client), { queued: 0, heldBytes: 5, inFlight: 2, packetIds: 2 })
      })))

    it.effect("keeps what counts as published when the time is over", () =>
      run(Effect.gen(function*() {
        const { client, network } = yield* open({ ...quiet, outbox: { maxMessages: 2 } })
        yield* client.pause
        yield* network.settle
        const publishing = yield* start(client.publishAll(batch(4, 0), { timeout: "1 second" }))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(told(yield* Fiber.join(publishing)), [
          ...done(2, 0),
          "a2 DeadlineExceeded queued",
          "a3 DeadlineExceeded queued"
        ])
        assert.strictEqual((yield* client.stats).queued, 2)
      })))

    it.effect("fails a message that throws when it is read, though it has waited for room, and sends the others", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({ ...quiet, outbox: { maxMessages: 2 } })
        const throwing = {
          topic: "x",
          get payload(): Uint8Array {
            throw new Error("read")
          }
        }
        const publishing = yield* start(client.publishAll([...batch(3, 0), throwing, ...batch(1, 0, "b")]))
        yield* network.settle
        assert.deepStrictEqual(told(yield* Fiber.join(publishing)), [
          ...done(3, 0),
          "x InvalidMessage queued",
          ...done(1, 0)
        ])
        yield* client.publish(to("after", 0))
        yield* network.settle
        assert.deepStrictEqual(topics(peer), ["a0", "a1", "a2", "b0", "after"])
      })))

    it.effect("gives up all of it when the client halts", () =>
      run(Effect.gen(function*() {
        const { client, network } = yield* open({ ...quiet, outbox: { maxMessages: 2 } }, {
          connack: connack(receiveMaximum(1))
        })
        const publishing = yield* start(client.publishAll(batch(6)))
        yield* network.settle
        yield* client.disconnect()
        assert.deepStrictEqual(
          told(yield* Fiber.join(publishing)),
          batch(6).map(({ topic }, index) => `${topic} PublishAbandoned ${index === 0 ? "written" : "queued"}`)
        )
        assert.deepStrictEqual(told(yield* client.publishAll(batch(1))), ["a0 PublishAbandoned queued"])
      })))

    it.effect("survives a lost connection, in order and without a gap (law 7)", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open({ ...persistent[5], outbox: { maxMessages: 2 } }, {
          connack: connack(receiveMaximum(2))
        })
        const publishing = yield* start(client.publishAll(batch(7)))
        yield* network.settle
        yield* acknowledge(peer, 1, 1)
        yield* network.settle
        yield* drop(client, peer)
        yield* TestClock.adjust("1 second")
        const second = yield* handshake(listener, resumed[5])
        yield* network.settle
        yield* acknowledge(second, 2, 7)
        assert.deepStrictEqual(told(yield* Fiber.join(publishing)), done(7, 1))
        assert.deepStrictEqual(topics(second), ["a1", "a2", "a3", "a4", "a5", "a6"])
      })))
  })
})

for (const version of [4, 5] as const) {
  describe(`publishAll with a session store (MQTT ${version === 4 ? "3.1.1" : "5.0"})`, () => {
    it.effect("sends nothing before it is kept, all with one commit, and keeps nothing in the end (law 8)", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        const release = yield* (yield* store).hold
        const publishing = yield* start(client.publishAll([...batch(50), ...batch(50, 2, "b")]))
        yield* settle
        const published = Effect.map(broker, (kit) => kit.packetsOf({ from: "client", type: "Publish" }).length)
        assert.strictEqual(yield* published, 0)
        assert.strictEqual((yield* store).waiting, 1)
        yield* release
        assert.deepStrictEqual(told(yield* Fiber.join(publishing)), [...done(50, 1), ...done(50, 2)])
        yield* settle
        assert.deepStrictEqual((yield* store).stored.publishes, [])
        assert.deepStrictEqual(yield* held(client), nothing)
      }).pipe(Effect.provide(kit())))

    it.effect("leaves alone what waits for the store, though the network holds nothing of what was written", () =>
      Effect.gen(function*() {
        const { client } = yield* Effect.updateService(begin(version), Transport, flushing)
        const subscription = yield* client.subscription("in", { qos: 1 })
        yield* Effect.forkScoped(Stream.runDrain(subscription.messages))
        yield* settle
        const release = yield* (yield* store).hold
        const publishing = yield* start(client.publishAll(batch(50)))
        yield* settle
        // Their acknowledgements, of which the store keeps nothing, do not wait for it.
        for (let count = 0; count < 30; count++) yield* (yield* broker).publish({ topic: "in", qos: 1 })
        yield* settle
        assert.strictEqual((yield* broker).packetsOf({ from: "client", type: "Puback" }).length, 30)
        yield* release
        assert.deepStrictEqual(told(yield* Fiber.join(publishing)), done(50, 1))
        assert.deepStrictEqual(
          (yield* broker).packetsOf({ from: "client", type: "Publish" }).map(({ packet }) => packet.topic),
          batch(50).map(({ topic }) => topic)
        )
      }).pipe(Effect.provide(kit())))

    it.effect("takes back what was not written when it is interrupted, from the store as well (law 5)", () =>
      Effect.gen(function*() {
        const { client } = yield* begin(version)
        yield* client.pause
        const publishing = yield* start(client.publishAll(batch(20, 2)))
        yield* settle
        yield* Fiber.interrupt(publishing)
        yield* settle
        assert.deepStrictEqual((yield* store).stored.publishes, [])
        assert.deepStrictEqual(yield* held(client), nothing)
      }).pipe(Effect.provide(kit())))
  })
}

describe("publishSink", () => {
  it.effect("publishes a stream in order, and ends with the number of messages when all are done", () =>
    run(Effect.gen(function*() {
      const { client, network, peer } = yield* open({ ...quiet, outbox: { maxMessages: 3 } })
      const running = yield* start(Stream.run(Stream.rechunk(Stream.fromIterable(batch(20)), 7), client.publishSink))
      yield* network.settle
      assert.deepStrictEqual(topics(peer), batch(20).map(({ topic }) => topic), "no chunk waits for acknowledgements")
      yield* acknowledge(peer, 1, 19)
      yield* network.settle
      assert.isTrue(isPending(running))
      yield* acknowledge(peer, 20, 20)
      assert.strictEqual(yield* Fiber.join(running), 20)
      assert.deepStrictEqual(yield* held(client), nothing)
    })))

  it.effect("is held back by the outbox, so that an endless stream is not read ahead (law 14)", () =>
    run(Effect.gen(function*() {
      const { client, network, peer } = yield* open({ ...quiet, outbox: { maxMessages: 3 } }, {
        connack: connack(receiveMaximum(2))
      })
      let made = 0
      const endless = Stream.map(Stream.fromIterable(naturals(), { chunkSize: 2 }), (index) => {
        made = index
        return to(`a${index}`)
      })
      const running = yield* start(Stream.run(endless, client.publishSink))
      yield* network.settle
      assert.isAtMost(made, 9)
      yield* acknowledge(peer, 1, 2)
      yield* network.settle
      assert.isAtMost(made, 11)
      yield* Fiber.interrupt(running)
      yield* network.settle
      assert.deepStrictEqual((yield* client.stats).queued, 0)
      assert.strictEqual((yield* client.stats).inFlight, 2, "what was written goes on")
    })))

  it.effect("fails with the first message that fails, and takes back what was not written", () =>
    run(Effect.gen(function*() {
      const { client, network, peer } = yield* open({ ...quiet }, { connack: connack(receiveMaximum(1)) })
      const running = yield* start(Stream.run(Stream.fromIterable(batch(5)), client.publishSink))
      yield* network.settle
      yield* peer.sendHex(ackHex("PUBACK", 1, 0x97))
      const exit = yield* Fiber.await(running)
      assert.isTrue(Exit.isFailure(exit))
      const error = yield* Effect.flip(Fiber.join(running))
      assert.deepStrictEqual([error.topic, error.reason._tag], ["a0", "PublishRefused"])
      yield* network.settle
      assert.strictEqual((yield* client.stats).queued, 0)
    })))

  it.effect("fails at once with a message that is not valid, without waiting for room", () =>
    run(Effect.gen(function*() {
      const { client } = yield* open({ ...quiet, outbox: { maxMessages: 2 } })
      yield* client.pause
      const error = yield* Effect.flip(
        Stream.run(Stream.fromIterable([to("a"), to("#"), ...batch(10)]), client.publishSink)
      )
      assert.deepStrictEqual([error.topic, error.reason._tag], ["#", "InvalidMessage"])
      assert.deepStrictEqual(yield* held(client), nothing)
    })))

  it.effect("fails with the error of the stream, and takes back what was not written", () =>
    run(Effect.gen(function*() {
      const { client } = yield* open(quiet)
      yield* client.pause
      const broken = Stream.concat(Stream.fromIterable(batch(3)), Stream.fail("broken" as const))
      assert.strictEqual(yield* Effect.flip(Stream.run(broken, client.publishSink)), "broken")
      assert.deepStrictEqual(yield* held(client), nothing)
    })))

  it.effect("runs again, and on an empty stream", () =>
    run(Effect.gen(function*() {
      const { client, network, peer } = yield* open(quiet)
      assert.strictEqual(yield* Stream.run(Stream.empty, client.publishSink), 0)
      assert.strictEqual(yield* Stream.run(Stream.make(to("a", 0)), client.publishSink), 1)
      assert.strictEqual(yield* Stream.run(Stream.make(to("b", 0)), client.publishSink), 1)
      yield* network.settle
      assert.deepStrictEqual(sentWords(peer, 5), ["publish a:0", "publish b:0"])
    })))
})

const naturals = function*() {
  for (let index = 0;; index++) yield index
}
