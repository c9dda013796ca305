import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import type { MqttClientService } from "../../src/services/MqttClient.ts"
import type { ClientEvent } from "../../src/services/Status.ts"
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
import {
  accepted,
  ackHex,
  handshake,
  open,
  publishHex,
  resumed,
  run,
  sentFrames,
  sentWords,
  start
} from "../support/ScriptedBroker.ts"
import { Hex } from "../../src/testing/index.ts"

/** The messages that are dropped from now on, as `topic why`. */
const watchDrops = Effect.fnUntraced(function*({ events }: MqttClientService) {
  const seen: Array<string> = []
  yield* start(Stream.runForEach(events, (event: ClientEvent) =>
    Effect.sync(() => {
      if (event._tag === "MessageDropped") seen.push(`${event.topic} ${event.why}`)
    })))
  return seen
})

/** A client that was connected and is paused, and how it goes on. */
const offline = Effect.fnUntraced(function*(options: Parameters<typeof open>[0] = {}) {
  const opened = yield* open({ ...steady, ...options })
  const { client, listener, network } = opened
  yield* client.pause
  const resume = Effect.fnUntraced(function*(connack: string = accepted[options.protocolVersion ?? 5]) {
    yield* start(client.resume)
    const peer = yield* handshake(listener, connack)
    yield* network.settle
    return peer
  })
  return { ...opened, resume }
})

describe("Offline", () => {
  for (const version of [4, 5] as const) {
    it.effect(`queues by default, and sends first with DUP 0 in call order, MQTT ${version} (PB-03b, QF-02b, law 7)`, () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open(persistent[version])
        yield* drop(client, peer)
        assert.strictEqual((yield* client.publish(to("a", 0))).qos, 0)
        const one = yield* start(client.publish(to("b", 1)))
        const two = yield* start(client.publish(to("c", 2)))
        yield* client.publish(to("d", 0))
        assert.deepStrictEqual(yield* held(client), { queued: 4, heldBytes: 8, inFlight: 0, packetIds: 0 })
        const second = yield* again(listener, resumed[version])
        yield* network.settle
        assert.deepStrictEqual(sentFrames(second).map(Hex.encode), [
          publishHex(version, "a"),
          publishHex(version, "b", { id: 1 }),
          publishHex(version, "c", { id: 2, qos: 2 }),
          publishHex(version, "d")
        ])
        yield* second.sendHex(ackHex("PUBACK", 1) + ackHex("PUBREC", 2) + ackHex("PUBCOMP", 2))
        yield* Fiber.joinAll([one, two])
        assert.deepStrictEqual(yield* held(client), nothing)
      })))
  }

  it.effect("fails QoS 0 at once where it is told to, and queues the others", () =>
    run(Effect.gen(function*() {
      const { client, resume } = yield* offline({ outbox: { qos0Offline: "fail" } })
      assert.strictEqual((yield* failure(yield* start(client.publish(to("a", 0))), "Offline")).phase, "queued")
      yield* start(client.publish(to("b", 1)))
      const peer = yield* resume()
      yield* client.publish(to("c", 0))
      assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 b:1"])
    })))

  it.effect("says the same while it connects, waits and is halted", () =>
    run(Effect.gen(function*() {
      const { client, listener, peer } = yield* open({ ...steady, outbox: { qos0Offline: "fail" } })
      const attempt = Effect.suspend(() =>
        Effect.flatMap(start(client.publish(to("a", 0))), (fiber) => failure(fiber, "Offline"))
      )
      yield* drop(client, peer)
      yield* attempt
      yield* TestClock.adjust("1 second")
      yield* listener.accept
      yield* attempt
      yield* client.disconnect()
      yield* failure(yield* start(client.publish(to("a", 0))), "PublishAbandoned")
    })))

  describe("strategy", () => {
    it.effect("suspend: callers wait for room by count, and go on in order (law 14)", () =>
      run(Effect.gen(function*() {
        const { client, resume } = yield* offline({ outbox: { maxMessages: 2 } })
        const fibers = yield* Effect.forEach(["a", "b", "c", "d", "e"], (topic) => start(client.publish(to(topic, 0))))
        assert.deepStrictEqual(fibers.map(isPending), [false, false, true, true, true])
        assert.strictEqual((yield* client.stats).queued, 2)
        const peer = yield* resume()
        yield* Fiber.joinAll(fibers)
        assert.deepStrictEqual(sentWords(peer, 5), ["a", "b", "c", "d", "e"].map((topic) => `publish ${topic}:0`))
      })))

    it.effect("suspend: callers wait for room by bytes, which unacknowledged messages hold (law 14)", () =>
      run(Effect.gen(function*() {
        const { client, network, resume } = yield* offline({ outbox: { maxBytes: 10 } })
        const large = { payload: new Uint8Array(8) }
        yield* start(client.publish(to("a", 1, large)))
        const waiting = yield* start(client.publish(to("b", 1, large)))
        const small = yield* start(client.publish(to("c", 0, { payload: "" })))
        assert.deepStrictEqual([waiting, small].map(isPending), [true, true])
        const peer = yield* resume()
        assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 a:1"])
        yield* peer.sendHex(ackHex("PUBACK", 1))
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 a:1", "publish 2 b:1", "publish c:0"])
      })))

    it.effect("dropOldest: the caller of what is dropped is told, the rest goes on", () =>
      run(Effect.gen(function*() {
        const { client, resume } = yield* offline({ outbox: { maxMessages: 2, strategy: "dropOldest" } })
        const drops = yield* watchDrops(client)
        const first = yield* start(client.publish(to("a", 1)))
        yield* client.publish(to("b", 0))
        yield* start(client.publish(to("c", 2)))
        const { phase, reason } = yield* failure(first, "OutboxFull")
        assert.deepStrictEqual(
          [phase, reason.strategy, reason.maxMessages, reason.maxBytes],
          ["queued", "dropOldest", 2, 16 * 1024 * 1024]
        )
        yield* client.publish(to("d", 0))
        const peer = yield* resume()
        assert.deepStrictEqual(drops, ["a outbox", "b outbox"])
        assert.strictEqual((yield* client.stats).dropped, 2)
        assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 c:2", "publish d:0"])
      })))

    it.effect("dropOldest: who publishes again when told comes behind the call that displaced it (law 7)", () =>
      run(Effect.gen(function*() {
        const { client, resume } = yield* offline({ outbox: { maxMessages: 2, strategy: "dropOldest" } })
        const persistent = yield* start(
          Effect.orElseSucceed(client.publish(to("a")), () => undefined).pipe(
            Effect.andThen(client.publish(to("a again", 0)))
          )
        )
        yield* client.publish(to("b", 0))
        yield* client.publish(to("c", 0))
        yield* Fiber.join(persistent)
        assert.deepStrictEqual(sentWords(yield* resume(), 5), ["publish c:0", "publish a again:0"])
      })))

    for (const strategy of ["dropNewest", "fail"] as const) {
      it.effect(`${strategy}: the new publish fails, at every level, and its caller is never left waiting`, () =>
        run(Effect.gen(function*() {
          const { client, resume } = yield* offline({ outbox: { maxMessages: 1, strategy } })
          yield* client.publish(to("a", 0))
          for (const qos of [0, 1, 2] as const) {
            const { phase, reason } = yield* failure(yield* start(client.publish(to("b", qos))), "OutboxFull")
            assert.deepStrictEqual([phase, reason.strategy], ["queued", strategy])
          }
          assert.deepStrictEqual(yield* held(client), { ...nothing, queued: 1, heldBytes: 2 })
          const peer = yield* resume()
          yield* client.publish(to("c", 0))
          assert.deepStrictEqual(sentWords(peer, 5), ["publish a:0"])
          assert.strictEqual((yield* client.stats).dropped, 3)
        })))
    }

    it.effect("is bounded by 1,000 messages unless told otherwise (law 14)", () =>
      run(Effect.gen(function*() {
        const { client } = yield* offline()
        for (let i = 0; i < 1_000; i++) yield* client.publish(to("a", 0))
        assert.isTrue(isPending(yield* start(client.publish(to("b", 0)))))
      })))

    it.effect("is bounded by 16 MiB unless told otherwise (law 14)", () =>
      run(Effect.gen(function*() {
        const { client } = yield* offline()
        const payload = new Uint8Array(1024 * 1024 - 1)
        for (let i = 0; i < 16; i++) yield* client.publish({ topic: "a", payload })
        assert.strictEqual((yield* client.stats).heldBytes, 16 * 1024 * 1024)
        assert.isTrue(isPending(yield* start(client.publish({ topic: "b" }))))
      })))

    it.effect("follows new options: callers that wait come in, or fail by the new strategy", () =>
      run(Effect.gen(function*() {
        const { client, listener, network } = yield* offline({ outbox: { maxMessages: 1 } })
        yield* start(client.publish(to("a")))
        const second = yield* start(client.publish(to("b")))
        const third = yield* start(client.publish(to("c")))
        yield* start(client.reconnect((options) => ({ ...options, outbox: { maxMessages: 2, strategy: "fail" } })))
        const peer = yield* handshake(listener)
        yield* network.settle
        yield* failure(third, "OutboxFull")
        assert.isTrue(isPending(second))
        assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 a:1", "publish 2 b:1"])
      })))
  })

  describe("deadline", () => {
    it.effect("covers the time in the outbox: never sent after it (law 6)", () =>
      run(Effect.gen(function*() {
        const { client, resume } = yield* offline()
        const publish = yield* start(client.publish(to("a", 1), { timeout: "5 seconds" }))
        const other = yield* start(client.publish(to("b", 1), { timeout: "1 minute" }))
        yield* TestClock.adjust("5 seconds")
        assert.strictEqual((yield* failure(publish, "DeadlineExceeded")).phase, "queued")
        const peer = yield* resume()
        assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 b:1"])
        assert.isTrue(isPending(other))
        yield* TestClock.adjust("55 seconds")
        assert.strictEqual((yield* failure(other, "DeadlineExceeded")).phase, "written")
      })))

    it.effect("covers the time for which a QoS 0 caller is suspended", () =>
      run(Effect.gen(function*() {
        const { client, resume } = yield* offline({ outbox: { maxMessages: 1 } })
        yield* client.publish(to("a", 0))
        const publish = yield* start(client.publish(to("b", 0), { timeout: "5 seconds" }))
        yield* TestClock.adjust("5 seconds")
        assert.strictEqual((yield* failure(publish, "DeadlineExceeded")).phase, "queued")
        assert.deepStrictEqual(sentWords(yield* resume(), 5), ["publish a:0"])
      })))
  })

  describe("message expiry", () => {
    const expiry = (seconds: number) => ({ messageExpiryInterval: seconds })

    for (const qos of [0, 1, 2] as const) {
      it.effect(`drops a QoS ${qos} message that was never sent when it is over, typed and counted (PB-11p)`, () =>
        run(Effect.gen(function*() {
          const { client, resume } = yield* offline()
          const drops = yield* watchDrops(client)
          const publish = yield* start(client.publish(to("a", qos, expiry(5))))
          yield* start(client.publish(to("b", 0)))
          yield* TestClock.adjust("5 seconds")
          const peer = yield* resume()
          if (qos > 0) {
            const { phase, reason } = yield* failure(publish, "MessageExpired")
            assert.deepStrictEqual([phase, reason.messageExpiryInterval], ["queued", 5])
          }
          assert.deepStrictEqual([drops, sentWords(peer, 5)], [["a expired"], ["publish b:0"]])
          assert.deepStrictEqual(yield* held(client), nothing)
        })))
    }

    it.effect("takes the whole seconds in the outbox off what goes on the wire (PB-11p)", () =>
      run(Effect.gen(function*() {
        const { client, resume } = yield* offline()
        yield* client.publish(to("a", 0, expiry(60)))
        yield* TestClock.adjust("10 seconds")
        yield* client.publish(to("b", 0, expiry(5)))
        yield* TestClock.adjust(4_999)
        yield* client.publish(to("c", 0, expiry(5)))
        const peer = yield* resume()
        assert.deepStrictEqual(sentFrames(peer).map(Hex.encode), [
          publishHex(5, "a", { properties: "02 00 00 00 2e" }),
          publishHex(5, "b", { properties: "02 00 00 00 01" }),
          publishHex(5, "c", { properties: "02 00 00 00 05" })
        ])
      })))

    it.effect("holds on 3.1.1 as well, which cannot tell the server", () =>
      run(Effect.gen(function*() {
        const { client, resume } = yield* offline({ protocolVersion: 4 })
        const publish = yield* start(client.publish(to("a", 1, expiry(5))))
        yield* start(client.publish(to("b", 0, expiry(60))))
        yield* TestClock.adjust("5 seconds")
        const peer = yield* resume()
        yield* failure(publish, "MessageExpired")
        assert.deepStrictEqual(sentFrames(peer).map(Hex.encode), [publishHex(4, "b")])
      })))

    it.effect("holds for a message that the window holds back", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(steady, { connack: connack(receiveMaximum(1)) })
        yield* start(client.publish(to("a")))
        const publish = yield* start(client.publish(to("b", 1, expiry(5))))
        yield* network.settle
        yield* TestClock.adjust("6 seconds")
        assert.isTrue(isPending(publish))
        yield* peer.sendHex(ackHex("PUBACK", 1))
        yield* failure(publish, "MessageExpired")
        yield* network.settle
        assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 a:1"])
      })))

    for (const qos of [1, 2] as const) {
      it.effect(`never drops a QoS ${qos} message that was sent: it is sent again after a week (PB-11p, QF-10b)`, () =>
        run(Effect.gen(function*() {
          const { client, listener, network, peer } = yield* open(persistent[5])
          const publish = yield* start(client.publish(to("a", qos, expiry(5))))
          yield* network.settle
          yield* TestClock.adjust("7 days")
          yield* drop(client, peer)
          const second = yield* again(listener, resumed[5])
          yield* network.settle
          assert.deepStrictEqual(sentFrames(second).map(Hex.encode), [
            publishHex(5, "a", { id: 1, qos, dup: true, properties: "02 00 00 00 05" })
          ])
          assert.isTrue(isPending(publish))
        })))
    }
  })

  describe("limits of the next connection", () => {
    it.effect("refuse what was queued, typed, and let the rest go (CK-08c, CK-12c, CK-14c, PI-11p)", () =>
      run(Effect.gen(function*() {
        const { client, resume } = yield* offline()
        const two = yield* start(client.publish(to("two", 2)))
        const one = yield* start(client.publish(to("one", 1)))
        const retained = yield* start(client.publish(to("retained", 1, { retain: true })))
        const large = yield* start(client.publish(to("large", 1, { payload: new Uint8Array(54) })))
        const exact = yield* start(client.publish(to("exact", 1, { payload: new Uint8Array(52) })))
        yield* start(client.publish(to("zero", 0)))
        const peer = yield* resume(connack(`24 01 25 00 ${maximumPacketSize(64)}`))
        assert.deepStrictEqual(sentWords(peer, 5).map((words) => words.replace(/ \d+/, "")), [
          "publish one:1",
          "publish exact:1",
          "publish zero:0"
        ])
        assert.strictEqual(sentFrames(peer)[1]?.length, 64)
        for (const [fiber, feature] of [[two, "qos"], [retained, "retain"]] as const) {
          const { phase, reason } = yield* failure(fiber, "NotSupportedByServer")
          assert.deepStrictEqual([phase, reason.feature], ["queued", feature])
        }
        const { phase, reason } = yield* failure(large, "PacketTooLarge")
        assert.deepStrictEqual([phase, reason.size, reason.limit, reason.of], ["queued", 66, 64, "server"])
        assert.deepStrictEqual([one, exact].map(isPending), [true, true])
        assert.deepStrictEqual((yield* held(client)).packetIds, 2)
      })))

    it.effect("refuse QoS 0 messages too, which are counted, since nobody waits for them", () =>
      run(Effect.gen(function*() {
        const { client, resume } = yield* offline()
        const drops = yield* watchDrops(client)
        yield* client.publish(to("large", 0, { payload: new Uint8Array(100) }))
        yield* client.publish(to("retained", 0, { retain: true }))
        yield* client.publish(to("fine", 0))
        const peer = yield* resume(connack(`25 00 ${maximumPacketSize(64)}`))
        assert.deepStrictEqual(sentWords(peer, 5), ["publish fine:0"])
        assert.deepStrictEqual(drops, ["large refused", "retained refused"])
        assert.strictEqual((yield* client.stats).dropped, 2)
      })))
  })

  describe("flush", () => {
    it.effect("is done at once when nothing waits, connected or not", () =>
      run(Effect.gen(function*() {
        const { client } = yield* open(steady)
        yield* client.flush
        yield* client.pause
        yield* client.flush
        yield* client.disconnect()
        yield* client.flush
      })))

    it.effect("waits until the socket took what was there before, no longer, and for no acknowledgement", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(steady, { windowBytes: 1_000 })
        yield* peer.stallReads
        yield* client.publish(to("a", 0, { payload: new Uint8Array(1_500) }))
        yield* start(client.publish(to("b", 1)))
        const flush = yield* start(client.flush)
        yield* client.publish(to("c", 0, { payload: new Uint8Array(5_000) }))
        yield* network.settle
        assert.isTrue(peer.isWriteBlocked)
        assert.isTrue(isPending(flush))
        yield* peer.drain(800)
        yield* network.settle
        // What came later went into the same write here, so it has to be taken as well.
        while (peer.isWriteBlocked) {
          assert.isTrue(isPending(flush))
          yield* peer.drain(500)
          yield* network.settle
        }
        yield* Fiber.join(flush)
      })))

    it.effect("waits for the connection while offline, and for suspended callers", () =>
      run(Effect.gen(function*() {
        const { client, resume } = yield* offline({ outbox: { maxMessages: 1 } })
        yield* client.publish(to("a", 0))
        yield* start(client.publish(to("b", 0)))
        const flush = yield* start(client.flush)
        yield* TestClock.adjust("1 hour")
        assert.isTrue(isPending(flush))
        const peer = yield* resume()
        yield* Fiber.join(flush)
        assert.deepStrictEqual(sentWords(peer, 5), ["publish a:0", "publish b:0"])
      })))

    it.effect("does not wait for what was taken back, nor for what came later", () =>
      run(Effect.gen(function*() {
        const { client } = yield* offline()
        const publish = yield* start(client.publish(to("a")))
        const flush = yield* start(client.flush)
        yield* start(client.publish(to("b")))
        assert.isTrue(isPending(flush))
        yield* Fiber.interrupt(publish)
        yield* Fiber.join(flush)
      })))

    it.effect("does not hang on a write that died with its link", () =>
      run(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open(steady, { windowBytes: 1_000 })
        yield* peer.stallReads
        yield* client.publish(to("a", 0, { payload: new Uint8Array(5_000) }))
        yield* network.settle
        const flush = yield* start(client.flush)
        assert.isTrue(peer.isWriteBlocked && isPending(flush))
        yield* drop(client, peer)
        yield* Fiber.join(flush)
        yield* again(listener, accepted[5])
        yield* client.flush
      })))

    it.effect("fails when the client is halted with something left, which is counted", () =>
      run(Effect.gen(function*() {
        const { client, network } = yield* offline()
        const drops = yield* watchDrops(client)
        yield* client.publish(to("a", 0))
        const flush = yield* start(Effect.flip(client.flush))
        yield* client.disconnect()
        assert.strictEqual((yield* Fiber.join(flush))._tag, "ClientHalted")
        yield* client.flush
        yield* network.settle
        assert.deepStrictEqual(drops, ["a abandoned"])
        assert.strictEqual((yield* client.stats).dropped, 1)
      })))

    it.effect("fails when the client closes with something left", () =>
      run(Effect.gen(function*() {
        const { client, close } = yield* offline()
        yield* client.publish(to("a", 0))
        const flush = yield* start(Effect.flip(client.flush))
        yield* close()
        assert.strictEqual((yield* Fiber.join(flush))._tag, "ClientClosed")
      })))

    it.effect("is done if the grace of the closing scope suffices", () =>
      run(Effect.gen(function*() {
        const { client, close, peer } = yield* open({ ...steady, drainTimeout: "5 seconds" }, { windowBytes: 100 })
        yield* peer.stallReads
        yield* client.publish(to("a", 0, { payload: new Uint8Array(500) }))
        const flush = yield* start(client.flush)
        const closing = yield* start(close())
        assert.isTrue(isPending(flush))
        yield* peer.resumeReads
        yield* Fiber.join(flush)
        yield* Fiber.join(closing)
      })))

    it.effect("ends although its caller asks again at once", () =>
      run(Effect.gen(function*() {
        const { client } = yield* offline()
        yield* client.publish(to("a", 0))
        let failures = 0
        const flush = yield* start(Effect.retry(client.flush, { while: () => ++failures < 1_000 }))
        yield* client.disconnect()
        yield* Fiber.join(flush)
        assert.strictEqual(failures, 1)
      })))

    it.effect("is interrupted without a trace", () =>
      run(Effect.gen(function*() {
        const { client, resume } = yield* offline()
        yield* client.publish(to("a", 0))
        yield* Fiber.interrupt(yield* start(client.flush))
        yield* resume()
        yield* client.flush
      })))
  })

  describe("halted and closed", () => {
    it.effect("fails what is pending with the phase it has reached, and what comes after (law 6, ER-07p)", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open({ ...steady, outbox: { maxMessages: 1 } }, {
          connack: connack(receiveMaximum(2))
        })
        const written = yield* start(client.publish(to("a", 1)))
        yield* network.settle
        const received = yield* start(client.publish(to("b", 2)))
        yield* network.settle
        yield* peer.sendHex(ackHex("PUBREC", 2))
        const queued = yield* start(client.publish(to("c", 1)))
        const suspended = yield* start(client.publish(to("d", 0)))
        yield* network.settle
        yield* client.disconnect()
        for (
          const [fiber, phase] of [[written, "written"], [received, "received"], [queued, "queued"], [
            suspended,
            "queued"
          ]] as const
        ) {
          const failed = yield* failure(fiber, "PublishAbandoned")
          assert.deepStrictEqual([failed.phase, failed.reason.phase, failed.reason.cause._tag], [
            phase,
            phase,
            "ClientHalted"
          ])
        }
        for (const qos of [0, 1, 2] as const) {
          const failed = yield* failure(yield* start(client.publish(to("e", qos))), "PublishAbandoned")
          assert.deepStrictEqual([failed.phase, failed.reason.cause._tag], ["queued", "ClientHalted"])
        }
        assert.strictEqual((yield* client.stats).queued, 0)
      })))

    it.effect("goes on with the exchanges that the server knows when it is resumed, and takes new publishes", () =>
      run(Effect.gen(function*() {
        const { client, listener, network } = yield* open(persistent[5])
        const publish = yield* start(client.publish(to("a", 2)))
        yield* network.settle
        yield* client.disconnect()
        yield* failure(publish, "PublishAbandoned")
        assert.deepStrictEqual(yield* held(client), { queued: 0, heldBytes: 2, inFlight: 1, packetIds: 1 })
        yield* start(client.resume)
        const second = yield* handshake(listener, resumed[5])
        const next = yield* start(client.publish(to("b")))
        yield* network.settle
        assert.deepStrictEqual(sentWords(second, 5), ["publish 1 a:2 dup", "publish 2 b:1"])
        yield* second.sendHex(ackHex("PUBREC", 1) + ackHex("PUBCOMP", 1) + ackHex("PUBACK", 2))
        yield* Fiber.join(next)
        assert.deepStrictEqual(yield* held(client), nothing)
      })))

    it.effect("fails everything when the scope closes while offline (law 6, law 15)", () =>
      run(Effect.gen(function*() {
        const { client, close, network } = yield* offline()
        const publish = yield* start(client.publish(to("a")))
        const flush = yield* start(client.flush)
        yield* close()
        const { phase, reason } = yield* failure(publish, "PublishAbandoned")
        assert.deepStrictEqual([phase, reason.cause._tag], ["queued", "ClientClosed"])
        assert.strictEqual((yield* Effect.flip(Fiber.join(flush)))._tag, "ClientClosed")
        const late = yield* failure(yield* start(client.publish(to("b", 0))), "PublishAbandoned")
        assert.strictEqual(late.reason.cause._tag, "ClientClosed")
        assert.deepStrictEqual([yield* held(client), network.openConnections], [nothing, 0])
      })))

    it.effect("sends and settles what it took before the scope closes, within the grace", () =>
      run(Effect.gen(function*() {
        const { client, close, network, peer } = yield* open({ ...steady, drainTimeout: "5 seconds" })
        const publish = yield* start(client.publish(to("a", 2)))
        yield* client.publish(to("b", 0))
        const closing = yield* start(close())
        yield* network.settle
        assert.isTrue(isPending(closing))
        yield* failure(yield* start(client.publish(to("late"))), "PublishAbandoned")
        yield* peer.sendHex(ackHex("PUBREC", 1))
        yield* network.settle
        yield* peer.sendHex(ackHex("PUBCOMP", 1))
        assert.strictEqual((yield* Fiber.join(publish)).qos, 2)
        yield* Fiber.join(closing)
        assert.deepStrictEqual(sentWords(peer, 5), ["publish 1 a:2", "publish b:0", "pubrel 1", "disconnect"])
      })))

    it.effect("fails what is unanswered when the grace is over (law 6)", () =>
      run(Effect.gen(function*() {
        const { client, close, network } = yield* open({ ...steady, drainTimeout: "5 seconds" })
        const publish = yield* start(client.publish(to("a", 1)))
        const closing = yield* start(close())
        yield* network.settle
        yield* TestClock.adjust(4_999)
        assert.isTrue(isPending(publish))
        yield* TestClock.adjust(1)
        const { phase, reason } = yield* failure(publish, "PublishAbandoned")
        assert.deepStrictEqual([phase, reason.cause._tag], ["written", "ClientClosed"])
        yield* Fiber.join(closing)
      })))
  })
})
