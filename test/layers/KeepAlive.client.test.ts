import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import { MemoryNetwork } from "../../src/testing/index.ts"
import * as ProbeClock from "../support/ProbeClock.ts"
import {
  accepted,
  awaitStatus,
  handshake,
  next,
  open,
  quietWeek,
  readToEnd,
  run,
  start
} from "../support/ScriptedBroker.ts"
import type { Peer } from "../support/ScriptedBroker.ts"

// Times are seconds since CONNECT was written, as in the standard's table of timing vectors.

const pingreq = "c0 00"
const pingresp = "d0 00"
/** PUBLISH QoS 0 to "a" with payload "x", in both directions. */
const publish = { 4: "30 04 00 01 61 78", 5: "30 05 00 01 61 00 78" } as const
const message = { topic: "a", payload: Uint8Array.of(0x78) }

const serverKeepAlive = (seconds: number) => `20 06 00 00 03 13 00 ${seconds.toString(16).padStart(2, "0")}`

type Sent = readonly [seconds: number, packet: string]
/** Reads what the client sends, with times, and answers it. */
const watch = Effect.fnUntraced(function*(
  peer: Peer,
  answer: (packet: string) => string | undefined = (packet) => packet === pingreq ? pingresp : undefined
) {
  const sent: Array<Sent> = []
  yield* start(Effect.ignore(Effect.forever(Effect.gen(function*() {
    const packet = yield* next(peer)
    sent.push([(yield* Clock.currentTimeMillis) / 1000, packet])
    const reply = answer(packet)
    if (reply !== undefined) yield* peer.sendHex(reply)
  }))))
  return sent
})

const silent = () => undefined

const pingsAt = (sent: ReadonlyArray<Sent>) => sent.filter(([, packet]) => packet === pingreq).map(([at]) => at)

/** Runs an effect at each of the times. */
const at = <A, E>(times: ReadonlyArray<number>, effect: Effect.Effect<A, E>) =>
  start(Effect.gen(function*() {
    for (const time of times) {
      yield* Effect.sleep(time * 1000 - (yield* Clock.currentTimeMillis))
      yield* effect
    }
  }))

const every = (step: number, until: number) =>
  Array.from({ length: Math.floor(until / step) }, (_, index) => (index + 1) * step)

const settle = MemoryNetwork.MemoryNetwork.use((network) => network.settle)

/** Lets what was begun go on, and then the time pass. */
const upTo = (seconds: number) => Effect.andThen(settle, Effect.andThen(TestClock.setTime(seconds * 1000), settle))

const ten = { keepAlive: "10 seconds" } as const

describe("keep alive of a client", () => {
  describe("timing vectors", () => {
    for (const protocolVersion of [5, 4] as const) {
      const name = protocolVersion === 5 ? "K1 KA-01c KA-10p" : "K24 (3.1.1)"
      it.effect(`${name}: an idle client pings at every interval, exactly`, () =>
        run(Effect.gen(function*() {
          const { peer } = yield* open({ ...ten, protocolVersion })
          const sent = yield* watch(peer)
          yield* upTo(35)
          assert.deepStrictEqual(sent, [[10, pingreq], [20, pingreq], [30, pingreq]])
        })))
    }

    it.effect("K2: a publish does not put off the ping that asks whether the server lives", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten)
        const sent = yield* watch(peer)
        yield* at([7], client.publish(message))
        yield* upTo(25)
        assert.deepStrictEqual(sent, [[7, publish[5]], [10, pingreq], [20, pingreq]])
      })))

    it.effect("K3 KA-02c: messages that come in do not put off the ping that tells the server that we live", () =>
      run(Effect.gen(function*() {
        const { peer } = yield* open(ten)
        const sent = yield* watch(peer)
        yield* at(every(1, 25), peer.sendHex(publish[5]))
        yield* upTo(25)
        assert.deepStrictEqual(sent, [[10, pingreq], [20, pingreq]])
      })))

    it.effect("K4: traffic in both directions within the interval makes pings unnecessary", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten)
        const sent = yield* watch(peer, (packet) => packet.startsWith("82") ? "90 04 00 01 00 01" : pingresp)
        yield* start(Stream.runDrain(client.subscribe("a", { qos: 1 })))
        let id = 0
        yield* at(
          every(4, 60),
          Effect.suspend(() => peer.sendHex(`32 07 00 01 61 00 ${(++id + 16).toString(16)} 00 78`))
        )
        yield* upTo(62)
        assert.deepStrictEqual(pingsAt(sent), [])
        assert.deepStrictEqual(sent.slice(1).map(([at]) => at), every(4, 60))
      })))

    for (
      const [row, keepAlive, server, until, expected] of [
        ["K5 KA-03c", 60, 1, 3.5, [1, 2, 3]],
        ["K6 KA-03c", 5, 120, 241, [120, 240]],
        ["K7 KA-03c", 30, 0, 86_400, []],
        ["K8 KA-03c", 0, 30, 65, [30, 60]],
        ["K9 KA-05p", 0, undefined, 86_400, []],
        ["K19", 1, undefined, 3.5, [1, 2, 3]]
      ] as const
    ) {
      it.effect(`${row}: keep alive ${keepAlive}, of the server ${server ?? "none"}`, () =>
        run(Effect.gen(function*() {
          const connack = server === undefined ? accepted[5] : serverKeepAlive(server)
          const { client, peer, network } = yield* open({ keepAlive: keepAlive * 1000 }, { connack })
          const sent = yield* watch(peer)
          yield* upTo(until)
          assert.deepStrictEqual(sent, expected.map((at) => [at, pingreq] as const))
          const status = yield* awaitStatus(client, "Connected")
          assert.strictEqual(status.negotiated.keepAliveMillis, (server ?? keepAlive) * 1000)
          assert.strictEqual(network.dials.length, 1)
        })))
    }

    it.effect("K10 KA-14p: the interval begins with CONNECT and not with a late CONNACK", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.setLatency("2 seconds")
        // The dial takes 4 s. CONNECT is written then, and CONNACK comes at 8.
        const opening = yield* start(open(ten))
        yield* TestClock.adjust("8 seconds")
        const { peer } = yield* Fiber.join(opening)
        const sent = yield* watch(peer)
        yield* network.setLatency(0)
        yield* upTo(15)
        assert.deepStrictEqual(sent, [[14, pingreq]])
      })))

    for (const protocolVersion of [4, 5] as const) {
      for (const pingTimeout of [undefined, 3, 25]) {
        const deadline = 10 + (pingTimeout ?? 10)
        it.effect(`K12 KA-06p KA-07p (MQTT ${protocolVersion}): a ping without an answer ends the link at ${deadline} s`, () =>
          run(Effect.gen(function*() {
            const timeout = pingTimeout === undefined ? undefined : pingTimeout * 1000
            const { client, listener, network, peer } = yield* open({ ...ten, protocolVersion, pingTimeout: timeout })
            yield* peer.blackHole("both")
            yield* TestClock.setTime(deadline * 1000 - 1)
            assert.strictEqual((yield* client.status)._tag, "Connected")
            yield* TestClock.adjust(1)
            const status = yield* awaitStatus(client, "Reconnecting")
            const { cause } = status
            assert.deepStrictEqual(
              cause._tag === "KeepAliveTimeout" && [cause.keepAliveMillis, cause.pingTimeoutMillis],
              [10_000, (pingTimeout ?? 10) * 1000]
            )
            assert.deepStrictEqual(yield* peer.closed, { how: "abort", at: deadline * 1000 })
            assert.strictEqual(network.openConnections, 0)
            // The silence is broken, and then the client comes back.
            yield* TestClock.adjust(status.delayMillis)
            const again = yield* handshake(listener, accepted[protocolVersion])
            yield* awaitStatus(client, "Connected")
            assert.strictEqual(again.openedAt, deadline * 1000 + status.delayMillis)
            yield* peer.heal
            const { packets } = yield* readToEnd(peer)
            assert.isTrue(packets.every((packet) => packet === pingreq))
          })))
      }
    }

    it.effect("K13: any byte that comes in proves life, be it an answer to the ping or not", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten)
        const sent = yield* watch(peer, silent)
        yield* at(every(3, 300), peer.sendHex(publish[5]))
        yield* upTo(305)
        assert.strictEqual((yield* client.status)._tag, "Connected")
        assert.deepStrictEqual(pingsAt(sent), every(10, 300))
      })))

    it.effect("K14: a PINGRESP behind the end of the link means nothing", () =>
      run(Effect.gen(function*() {
        const { client, listener, peer } = yield* open(ten)
        yield* upTo(20)
        yield* peer.sendHex(pingresp)
        yield* TestClock.adjust("1 seconds")
        const again = yield* handshake(listener)
        yield* peer.sendHex(pingresp)
        yield* awaitStatus(client, "Connected")
        const sent = yield* watch(again)
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(sent.length, 1)
        assert.strictEqual((yield* client.status)._tag, "Connected")
      })))

    it.effect("K15 KA-12b: a window that is used up holds no ping back", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten, { connack: "20 06 00 00 03 21 00 01" })
        const sent = yield* watch(peer)
        for (let index = 0; index < 3; index++) yield* start(client.publish({ ...message, qos: 1 }))
        yield* upTo(25)
        assert.deepStrictEqual(sent, [[0, "32 07 00 01 61 00 01 00 78"], [10, pingreq], [20, pingreq]])
        assert.strictEqual((yield* client.stats).queued, 2)
      })))

    it.effect("K16 KA-04s: the server's keep alive does not outlive its connection", () =>
      run(Effect.gen(function*() {
        const { client, listener, peer } = yield* open(ten, { connack: serverKeepAlive(2) })
        const first = yield* watch(peer)
        yield* upTo(5)
        assert.deepStrictEqual(pingsAt(first), [2, 4])
        yield* peer.reset
        const { delayMillis } = yield* awaitStatus(client, "Reconnecting")
        yield* TestClock.adjust(delayMillis)
        const again = yield* handshake(listener)
        assert.strictEqual(again.connect, peer.connect)
        const sent = yield* watch(again)
        yield* TestClock.adjust("21 seconds")
        const after = pingsAt(sent).map((at) => Math.round(at * 1000 - again.openedAt))
        assert.deepStrictEqual(after, [10_000, 20_000])
      })))

    it.effect("K17 KA-13b DC-07b: nothing follows DISCONNECT while the server delays its end", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(ten)
        yield* TestClock.setTime(9_900)
        yield* client.disconnect()
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 00"], how: "fin" })
        yield* quietWeek(network)
      })))

    it.effect("K18 KA-15p: a packet that takes long to write is neither interrupted by a ping nor taken for a dead link", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten, { windowBytes: 65_536 })
        const sent = yield* watch(peer)
        yield* peer.drainEvery(65_536, "2500 millis")
        yield* client.publish({ topic: "a", payload: new Uint8Array(10 * 65_536) })
        yield* upTo(60)
        const [[wroteAt, packet], [pingAt, ping]] = sent
        assert.isTrue(packet!.startsWith("30 "))
        assert.isAtLeast(wroteAt!, 25)
        assert.strictEqual(ping, pingreq)
        assert.isAtMost(pingAt! - wroteAt!, 10)
        assert.strictEqual((yield* client.status)._tag, "Connected")
      })))

    it.effect("K20: the longest interval is 65,535 s", () =>
      run(Effect.gen(function*() {
        const { peer } = yield* open({ keepAlive: "65535 seconds" })
        assert.isTrue(peer.connect.includes("05 02 ff ff"))
        const sent = yield* watch(peer)
        yield* upTo(65_536)
        assert.deepStrictEqual(sent, [[65_535, pingreq]])
      })))

    it.effect("K21 KA-16p: a part of a second becomes a whole one, and never 0", () =>
      run(Effect.gen(function*() {
        const { peer } = yield* open({ keepAlive: "400 millis" })
        assert.isTrue(peer.connect.includes("05 02 00 01"))
        const sent = yield* watch(peer)
        yield* upTo(2.5)
        assert.deepStrictEqual(pingsAt(sent), [1, 2])
      })))

    describe("K22: a process that did not run for a minute", () => {
      const suspended = Effect.gen(function*() {
        const probe = yield* ProbeClock.make
        const opened = yield* probe.provide(open(ten))
        return { ...opened, probe }
      })

      it.effect("sends one ping, not those that it missed", () =>
        run(Effect.gen(function*() {
          const { client, peer, probe } = yield* suspended
          const sent = yield* watch(peer)
          yield* upTo(5)
          yield* probe.suspend
          yield* upTo(65)
          assert.deepStrictEqual(sent, [])
          yield* probe.wake
          yield* upTo(80)
          assert.deepStrictEqual(sent, [[65, pingreq], [75, pingreq]])
          assert.strictEqual((yield* client.status)._tag, "Connected")
        })))

      it.effect("reads what has arrived meanwhile before it judges", () =>
        run(Effect.gen(function*() {
          const { client, peer, probe } = yield* suspended
          const sent = yield* watch(peer, silent)
          yield* upTo(12)
          yield* probe.suspend
          yield* upTo(72)
          yield* Effect.andThen(probe.wake, peer.sendHex(pingresp))
          yield* upTo(73)
          assert.strictEqual((yield* client.status)._tag, "Connected")
          assert.deepStrictEqual(pingsAt(sent), [10, 72])
        })))

      it.effect("gives a link up at once on which nothing has arrived", () =>
        run(Effect.gen(function*() {
          const { client, peer, probe } = yield* suspended
          yield* upTo(12)
          yield* probe.suspend
          yield* upTo(72)
          yield* probe.wake
          assert.strictEqual((yield* awaitStatus(client, "Reconnecting")).cause._tag, "KeepAliveTimeout")
          assert.deepStrictEqual(yield* peer.closed, { how: "abort", at: 72_000 })
        })))
    })

    it.effect("K23 KA-11p: a ping of the user's is a packet like any other", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten)
        const sent = yield* watch(peer)
        yield* at([9], client.ping)
        yield* upTo(30)
        assert.deepStrictEqual(pingsAt(sent), [9, 19, 29])
      })))
  })

  describe("a day", () => {
    it.effect("passes at once, with 1,440 pings at their exact times (law 16)", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const sent = yield* watch(peer)
        yield* TestClock.adjust("1 day")
        assert.deepStrictEqual(pingsAt(sent), every(60, 86_400))
        assert.strictEqual((yield* client.status)._tag, "Connected")
      })), 5_000)
  })

  describe("half-open links (law 11)", () => {
    it.effect("is found when QoS 0 publishes flow out to nobody", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten)
        const sent = yield* watch(peer)
        yield* at(every(1, 60), client.publish(message))
        yield* upTo(12.5)
        assert.deepStrictEqual(pingsAt(sent), [10])
        yield* peer.blackHole("both")
        yield* TestClock.setTime(29_999)
        assert.strictEqual((yield* client.status)._tag, "Connected")
        yield* TestClock.adjust(1)
        assert.strictEqual((yield* awaitStatus(client, "Reconnecting")).cause._tag, "KeepAliveTimeout")
        assert.deepStrictEqual(yield* peer.closed, { how: "abort", at: 30_000 })
      })))

    it.effect("is found when only the way back is dead", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten)
        const sent = yield* watch(peer)
        yield* peer.blackHole("out")
        yield* at(every(4, 60), client.publish(message))
        yield* upTo(20)
        assert.deepStrictEqual(pingsAt(sent), [10])
        assert.strictEqual((yield* awaitStatus(client, "Reconnecting")).cause._tag, "KeepAliveTimeout")
        assert.deepStrictEqual(yield* peer.closed, { how: "abort", at: 20_000 })
      })))

    it.effect("is left to the server when only our way out is dead, since what comes in proves that it lives", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten)
        yield* peer.blackHole("in")
        yield* at(every(4, 60), peer.sendHex(publish[5]))
        yield* upTo(60)
        assert.strictEqual((yield* client.status)._tag, "Connected")
        yield* peer.reset
        assert.strictEqual((yield* awaitStatus(client, "Reconnecting")).cause._tag, "TransportLost")
        yield* peer.heal
        const { packets } = yield* readToEnd(peer)
        assert.isTrue(packets.every((packet) => packet === pingreq))
      })))

    it.effect("is found after traffic in both directions has stopped, counted from the last byte received", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten)
        yield* watch(peer)
        yield* at(every(4, 60), client.publish(message))
        yield* at(every(3, 60), peer.sendHex(publish[5]))
        yield* upTo(31)
        yield* peer.blackHole("both")
        yield* TestClock.setTime(49_999)
        // Received last at 30: the ping is due at 40, its deadline is 50.
        assert.strictEqual((yield* client.status)._tag, "Connected")
        yield* TestClock.adjust(1)
        assert.strictEqual((yield* awaitStatus(client, "Reconnecting")).cause._tag, "KeepAliveTimeout")
      })))

    it.effect("is not concluded from a PINGRESP that comes at the last moment", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten)
        const sent = yield* watch(peer, silent)
        yield* TestClock.setTime(19_999)
        yield* peer.sendHex(pingresp)
        yield* upTo(29.9)
        assert.strictEqual((yield* client.status)._tag, "Connected")
        assert.deepStrictEqual(pingsAt(sent), [10, 20])
        yield* TestClock.setTime(30_000)
        assert.strictEqual((yield* awaitStatus(client, "Reconnecting")).cause._tag, "KeepAliveTimeout")
      })))

    it.effect("KA-09s M-OK-4: is not concluded from a PINGRESP that nobody asked for", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten)
        const sent = yield* watch(peer)
        yield* at([2, 3, 12], peer.sendHex(pingresp))
        yield* upTo(25)
        assert.strictEqual((yield* client.status)._tag, "Connected")
        assert.deepStrictEqual(pingsAt(sent), [10, 20])
      })))

    it.effect("is found when a packet stops in its middle", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten)
        yield* TestClock.setTime(4_000)
        yield* peer.sendHex("30 7f")
        yield* upTo(20)
        assert.strictEqual((yield* awaitStatus(client, "Reconnecting")).cause._tag, "KeepAliveTimeout")
        // Due at 10, since nothing was sent; the half packet came before that.
        assert.strictEqual((yield* peer.closed).at, 20_000)
      })))

    it.effect("KA-08s: is told by a server that gave us up", () =>
      run(Effect.gen(function*() {
        const { client, listener, peer } = yield* open(ten)
        yield* peer.sendHex("e0 01 8d")
        const { cause, delayMillis } = yield* awaitStatus(client, "Reconnecting")
        assert.strictEqual(cause._tag === "ServerDisconnected" && cause.reasonCode, 0x8d)
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: [], how: "fin" })
        yield* TestClock.adjust(delayMillis)
        yield* handshake(listener)
        yield* awaitStatus(client, "Connected")
      })))
  })

  describe("a write that is blocked", () => {
    for (const [pingTimeout, end] of [[undefined, 23_000], ["5 seconds", 18_000]] as const) {
      it.effect(`is half-open keep alive and ping timeout after the last progress (${end} ms)`, () =>
        run(Effect.gen(function*() {
          const { client, listener, peer } = yield* open({ ...ten, pingTimeout }, { windowBytes: 65_536 })
          yield* peer.stallReads
          yield* TestClock.setTime(3_000)
          yield* client.publish({ topic: "a", payload: new Uint8Array(200_000) })
          yield* TestClock.setTime(end - 1)
          assert.isTrue(peer.isWriteBlocked)
          assert.strictEqual((yield* client.status)._tag, "Connected")
          yield* TestClock.adjust(1)
          const { cause, delayMillis } = yield* awaitStatus(client, "Reconnecting")
          assert.strictEqual(cause._tag === "WriteBlocked" && cause.blockedMillis, end - 3_000)
          assert.deepStrictEqual(yield* peer.closed, { how: "abort", at: end })
          yield* TestClock.adjust(delayMillis)
          yield* handshake(listener)
          yield* awaitStatus(client, "Connected")
        })))
    }

    it.effect("is judged from its last slice", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten, { windowBytes: 65_536 })
        yield* peer.stallReads
        yield* client.publish({ topic: "a", payload: new Uint8Array(400_000) })
        yield* at([15, 30], peer.drain(65_536))
        yield* TestClock.setTime(49_999)
        assert.strictEqual((yield* client.status)._tag, "Connected")
        yield* TestClock.adjust(1)
        assert.strictEqual((yield* awaitStatus(client, "Reconnecting")).cause._tag, "WriteBlocked")
        assert.strictEqual((yield* peer.closed).at, 50_000)
      })))

    it.effect("is left alone while it drains, one slice in almost all of that time", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open(ten, { windowBytes: 65_536, record: false })
        yield* peer.drainEvery(65_536, "19900 millis")
        yield* client.publish({ topic: "a", payload: new Uint8Array(30 * 65_536) })
        yield* upTo(580)
        assert.isTrue(peer.isWriteBlocked)
        assert.strictEqual((yield* client.status)._tag, "Connected")
        assert.strictEqual(network.dials.length, 1)
      })))

    it.effect("is left alone while messages come in", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten, { windowBytes: 65_536 })
        yield* peer.stallReads
        yield* client.publish({ topic: "a", payload: new Uint8Array(200_000) })
        yield* at(every(7, 70), peer.sendHex(publish[5]))
        yield* upTo(89.9)
        assert.isTrue(peer.isWriteBlocked)
        assert.strictEqual((yield* client.status)._tag, "Connected")
        yield* upTo(90)
        assert.strictEqual((yield* awaitStatus(client, "Reconnecting")).cause._tag, "WriteBlocked")
      })))

    it.effect("KA-15p: puts off the deadline of a ping behind it until that is written", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten, { windowBytes: 65_536 })
        yield* peer.drainEvery(65_536, "5 seconds")
        yield* client.publish({ topic: "a", payload: new Uint8Array(5 * 65_536) })
        yield* settle
        const ping = yield* start(Effect.flip(client.ping))
        // Its tail, and the ping behind it, find room when the fifth slice is taken.
        yield* upTo(60)
        assert.strictEqual((yield* Fiber.join(ping)).reason._tag, "KeepAliveTimeout")
        assert.deepStrictEqual(yield* peer.closed, { how: "abort", at: 35_000 })
      })))

    it.effect("is waited for without end where keep alive is off", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ keepAlive: 0 }, { windowBytes: 65_536 })
        yield* peer.stallReads
        yield* client.publish({ topic: "a", payload: new Uint8Array(200_000) })
        yield* TestClock.adjust("1 day")
        assert.isTrue(peer.isWriteBlocked)
        assert.strictEqual((yield* client.status)._tag, "Connected")
      })))
  })

  describe("ping", () => {
    it.effect("KA-11p: awaiters are answered in order, with their own round trip", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const sent = yield* watch(peer, silent)
        const order: Array<string> = []
        const ping = (name: string) => Effect.tap(client.ping, () => Effect.sync(() => order.push(name)))
        const first = yield* start(ping("first"))
        yield* TestClock.adjust("1 second")
        const second = yield* start(ping("second"))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(sent, [[0, pingreq], [1, pingreq]])
        yield* peer.sendHex(pingresp)
        assert.strictEqual(Duration.toMillis(yield* Fiber.join(first)), 2_000)
        assert.deepStrictEqual(order, ["first"])
        yield* TestClock.adjust("3 seconds")
        yield* peer.sendHex(pingresp)
        assert.strictEqual(Duration.toMillis(yield* Fiber.join(second)), 4_000)
        assert.deepStrictEqual(order, ["first", "second"])
      })))

    it.effect("does not take the answer of an automatic one, nor of one that was interrupted", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(ten)
        const sent = yield* watch(peer, silent)
        yield* upTo(10)
        const gone = yield* start(client.ping)
        const ping = yield* start(client.ping)
        yield* settle
        yield* Fiber.interrupt(gone)
        assert.deepStrictEqual(pingsAt(sent), [10, 10, 10])
        yield* peer.sendHex(`${pingresp} ${pingresp}`)
        yield* upTo(12)
        assert.isUndefined(ping.pollUnsafe())
        yield* peer.sendHex(pingresp)
        assert.strictEqual(Duration.toMillis(yield* Fiber.join(ping)), 2_000)
      })))

    it.effect("fails typed when the link ends, however it ends (law 6, ER-07p)", () =>
      run(Effect.gen(function*() {
        const { client, listener, peer } = yield* open(ten)
        const pings = yield* start(Effect.all([Effect.flip(client.ping), Effect.flip(client.ping)], { concurrency: 2 }))
        yield* next(peer)
        yield* peer.reset
        assert.deepStrictEqual((yield* Fiber.join(pings)).map((error) => error.reason._tag), [
          "TransportLost",
          "TransportLost"
        ])
        yield* awaitStatus(client, "Reconnecting")
        assert.strictEqual((yield* Effect.flip(client.ping)).reason._tag, "Offline")

        const ends = [
          ["ServerDisconnected", (peer: Peer) => peer.sendHex("e0 01 8b")],
          ["ProtocolError", (peer: Peer) => peer.sendHex("d1 00")],
          ["KeepAliveTimeout", () => TestClock.adjust("10 seconds")],
          ["Offline", () => client.pause]
        ] as const
        for (const [tag, end] of ends) {
          yield* TestClock.adjust((yield* awaitStatus(client, "Reconnecting")).delayMillis)
          const peer = yield* handshake(listener)
          yield* awaitStatus(client, "Connected")
          const ping = yield* start(Effect.flip(client.ping))
          yield* next(peer)
          yield* end(peer)
          assert.strictEqual((yield* Fiber.join(ping)).reason._tag, tag)
        }
        assert.strictEqual((yield* Effect.flip(client.ping)).reason._tag, "Offline")
      })))

    it.effect("fails typed when the client is closed", () =>
      run(Effect.gen(function*() {
        const { client, close, peer } = yield* open()
        const ping = yield* start(Effect.flip(client.ping))
        yield* next(peer)
        yield* close()
        assert.strictEqual((yield* Fiber.join(ping)).reason._tag, "Offline")
        assert.strictEqual((yield* Effect.flip(client.ping)).reason._tag, "ClientClosed")
      })))
  })
})
