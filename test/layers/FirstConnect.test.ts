import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Layer, Random, Schedule, Scope } from "effect"
import { TestClock } from "effect/testing"
import { readFileSync } from "node:fs"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import type * as MqttError from "../../src/services/MqttError.ts"
import type { Status } from "../../src/services/Status.ts"
import type { Transport } from "../../src/services/Transport.ts"
import { Hex, MemoryNetwork } from "../../src/testing/index.ts"
import type { Peer } from "../support/ScriptedBroker.ts"
import { accepted, awaitStatus, handshake, next, readToEnd, run, start } from "../support/ScriptedBroker.ts"

type Options = Partial<MqttClient.ClientOptions>

/** A program that needs a client, with the layer that builds it: what a user writes. */
const program = (options: Options = {}) =>
  Effect.provide(
    Effect.flatMap(MqttClient.MqttClient, (client) => client.status),
    MqttClient.layer({ endpoint: "mqtt://broker", ...options })
  )

/** Counts the sleeps that are under way: a timer left behind is one. */
const countSleeps = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Clock.Clock, (clock) => {
    let sleeping = 0
    const counting: Clock.Clock = {
      ...clock,
      sleep: (duration) =>
        Effect.suspend(() => {
          sleeping++
          return Effect.ensuring(
            clock.sleep(duration),
            Effect.sync(() => {
              sleeping--
            })
          )
        })
    }
    return Effect.map(
      Effect.exit(Effect.provideService(effect, Clock.Clock, counting)),
      (exit) => [exit, sleeping] as const
    )
  })

/** Runs the program, which has to fail, and shows that nothing of it is left. */
const failure = Effect.fnUntraced(function*<R>(build: Effect.Effect<Status, MqttError.ConnectError, R>) {
  const network = yield* MemoryNetwork.MemoryNetwork
  const [error, sleeping] = yield* countSleeps(Effect.flip(build))
  assert.strictEqual(sleeping, 0, "no timer is left (law 15)")
  assert.strictEqual(network.openConnections, 0, "no connection is left (law 15)")
  yield* network.settle
  const { activity } = network
  yield* TestClock.adjust("1 day")
  yield* network.settle
  assert.strictEqual(network.activity, activity, "nothing goes on by itself")
  return yield* error
})

/** The first connect against a server that plays `script` behind CONNECT. */
const refused = Effect.fnUntraced(function*(
  options: Options,
  script: (peer: Peer) => Effect.Effect<void, MemoryNetwork.PeerClosed>
) {
  const network = yield* MemoryNetwork.MemoryNetwork
  const listener = yield* network.listen({ host: "broker" })
  const building = yield* start(failure(program(options)))
  const peer = yield* listener.accept
  yield* peer.readFrame
  yield* script(peer)
  const end = yield* readToEnd(peer)
  const { reason, retryable } = yield* Fiber.join(building)
  assert.strictEqual(retryable, reason.retryable)
  assert.strictEqual(listener.peers.length, 1, "one attempt and no more")
  return { reason, ...end }
})

const sends = (hex: string) => (peer: Peer) => peer.sendHex(hex)

const toHex = (value: number) => value.toString(16).padStart(2, "0")

/** DISCONNECT with a code, in either of its two forms. */
const isDisconnect = (packet: string | undefined, codes: ReadonlyArray<number>) =>
  codes.some((code) => packet === `e0 01 ${toHex(code)}` || packet === `e0 02 ${toHex(code)} 00`)

interface Vector {
  readonly id: string
  readonly ver: "4" | "5"
  readonly stage: string
  readonly hex: string
  readonly fault: string
  readonly prim: string
  readonly tol: string
}

/** Byte sequences of the conformance table that come where CONNACK is awaited. */
const vectors =
  (JSON.parse(readFileSync(new URL("../fixtures/mqtt-conformance.data.json", import.meta.url), "utf8")) as {
    readonly vectors: ReadonlyArray<Vector>
  }).vectors.filter((vector) => vector.stage === "A")

const codesOf = (text: string) =>
  Array.from(text.matchAll(/0x([0-9A-F]{2})/gi), (match) => Number.parseInt(match[1], 16))

// Code, name, and whether the same CONNECT may succeed later.
const connackCodes5: ReadonlyArray<readonly [number, string, boolean]> = [
  [0x80, "Unspecified error", true],
  [0x81, "Malformed Packet", false],
  [0x82, "Protocol Error", false],
  [0x83, "Implementation specific error", true],
  [0x85, "Client Identifier not valid", false],
  [0x86, "Bad User Name or Password", false],
  [0x87, "Not authorized", false],
  [0x88, "Server unavailable", true],
  [0x89, "Server busy", true],
  [0x8a, "Banned", false],
  [0x8c, "Bad authentication method", false],
  [0x90, "Topic Name invalid", false],
  [0x95, "Packet too large", false],
  [0x97, "Quota exceeded", true],
  [0x99, "Payload format invalid", false],
  [0x9a, "Retain not supported", false],
  [0x9b, "QoS not supported", false],
  [0x9c, "Use another server", true],
  [0x9d, "Server moved", false],
  [0x9f, "Connection rate exceeded", true]
]
const connackCodes4: ReadonlyArray<readonly [number, string, boolean]> = [
  [2, "Identifier rejected", false],
  [3, "Server unavailable", true],
  [4, "Bad user name or password", false],
  [5, "Not authorized", false]
]

describe("FirstConnect", () => {
  describe("law 1: the layer is built once CONNACK accepted the connection", () => {
    for (const protocolVersion of [4, 5] as const) {
      it.effect(`on version ${protocolVersion}, and the link ends with the scope`, () =>
        run(Effect.gen(function*() {
          const network = yield* MemoryNetwork.MemoryNetwork
          const listener = yield* network.listen({ host: "broker" })
          const building = yield* start(program({ protocolVersion }))
          const peer = yield* listener.accept
          yield* peer.readFrame
          yield* network.settle
          assert.isUndefined(building.pollUnsafe())
          yield* peer.sendHex(accepted[protocolVersion])
          const status = yield* Fiber.join(building)
          assert.strictEqual(status._tag, "Connected")
          assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 00"], how: "fin" })
          assert.strictEqual(network.openConnections, 0)
        })))

      it.effect(`on version ${protocolVersion}, whose CONNACK comes byte by byte`, () =>
        run(Effect.gen(function*() {
          const network = yield* MemoryNetwork.MemoryNetwork
          const listener = yield* network.listen({ host: "broker", chunkBytes: 1 })
          const building = yield* start(program({ protocolVersion }))
          yield* handshake(listener, accepted[protocolVersion])
          assert.strictEqual((yield* Fiber.join(building))._tag, "Connected")
        })))
    }

    it.effect("CN-31p: and nothing but CONNECT is sent before", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const listener = yield* network.listen({ host: "broker" })
        const client = yield* MqttClient.make({
          endpoint: "mqtt://broker",
          firstConnect: "retry",
          keepAlive: "1 second",
          drainTimeout: 0,
          subscriptions: [{ filter: "a" }]
        })
        yield* start(client.publish({ topic: "a", payload: "1", qos: 1 }))
        const peer = yield* listener.accept
        yield* peer.readFrame
        yield* TestClock.adjust("9 seconds")
        yield* network.settle
        assert.strictEqual(peer.received.length, peer.received[1] + 2)
        yield* peer.sendHex(accepted[5])
        assert.match(yield* next(peer), /^82 /)
        assert.match(yield* next(peer), /^32 /)
      })))

    it.effect("and interrupting its construction ends the dial", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.failDials({}, "silent")
        const building = yield* start(program())
        yield* network.settle
        yield* Fiber.interrupt(building)
        assert.deepStrictEqual(network.dials.map((dial) => dial.outcome), ["interrupted"])
        assert.strictEqual(network.openConnections, 0)
      })))

    it.effect("and interrupting its construction ends the handshake, in order: the will does not fire", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const listener = yield* network.listen({ host: "broker" })
        const building = yield* start(program())
        const peer = yield* listener.accept
        yield* peer.readFrame
        yield* Fiber.interrupt(building)
        assert.deepStrictEqual((yield* readToEnd(peer)).packets, ["e0 00"])
        assert.strictEqual(network.openConnections, 0)
      })))
  })

  describe("law 1: the layer fails with what the server answered", () => {
    for (const [code, name, retryable] of connackCodes5) {
      it.effect(`CK-04s, CK-10s, CK-11s, CN-22s, ER-04b: CONNACK 0x${toHex(code)} (${name})`, () =>
        run(Effect.gen(function*() {
          const { how, packets, reason } = yield* refused({}, sends(`20 03 00 ${toHex(code)} 00`))
          assert(reason._tag === "ConnectRefused")
          assert.strictEqual(reason.protocolVersion, 5)
          assert.strictEqual(reason.reasonCode, code)
          assert.strictEqual(reason.name, name)
          assert.strictEqual(reason.retryable, retryable)
          assert.deepStrictEqual({ packets, how }, { packets: [], how: "fin" })
        })))
    }

    for (const [code, name, retryable] of connackCodes4) {
      it.effect(`CK-04s: return code ${code} on 3.1.1 (${name})`, () =>
        run(Effect.gen(function*() {
          const { how, packets, reason } = yield* refused({ protocolVersion: 4 }, sends(`20 02 00 ${toHex(code)}`))
          assert(reason._tag === "ConnectRefused")
          assert.strictEqual(reason.protocolVersion, 4)
          assert.strictEqual(reason.reasonCode, code)
          assert.strictEqual(reason.name, name)
          assert.strictEqual(reason.retryable, retryable)
          assert.deepStrictEqual({ packets, how }, { packets: [], how: "fin" })
        })))
    }

    it.effect("CN-04c: a refusal of the version is an error of its own, on both versions", () =>
      run(Effect.gen(function*() {
        const { reason } = yield* refused({}, sends("20 03 00 84 00"))
        assert(reason._tag === "UnsupportedProtocolVersion")
        assert.deepInclude(reason, { protocolVersion: 5, reasonCode: 0x84, retryable: false })
        assert.include(reason.message, "protocolVersion: 4")
      })))

    it.effect("CN-04c: return code 1 on 3.1.1 is the same error", () =>
      run(Effect.gen(function*() {
        const { how, packets, reason } = yield* refused({ protocolVersion: 4 }, sends("20 02 00 01"))
        assert(reason._tag === "UnsupportedProtocolVersion")
        assert.deepInclude(reason, { protocolVersion: 4, reasonCode: 1, retryable: false })
        assert.include(reason.message, "protocolVersion: 5")
        assert.deepStrictEqual({ packets, how }, { packets: [], how: "fin" })
      })))

    for (const code of [0, 1, 5]) {
      it.effect(`CK-29p: a CONNACK of 3.1.1 (return code ${code}) to a CONNECT of 5.0 is the same error`, () =>
        run(Effect.gen(function*() {
          const { how, reason } = yield* refused({}, sends(`20 02 00 ${toHex(code)}`))
          assert(reason._tag === "UnsupportedProtocolVersion")
          assert.deepInclude(reason, { protocolVersion: 5, retryable: false })
          assert.strictEqual(how, "fin")
        })))
    }

    it.effect("CK-24p, CK-28p: the server's words and its reference are kept, and decide nothing", () =>
      run(Effect.gen(function*() {
        const { reason } = yield* refused({}, sends("20 10 00 9d 0d 1f 00 04 6d 6f 76 65 1c 00 03 61 3a 31"))
        assert(reason._tag === "ConnectRefused")
        assert.deepInclude(reason, {
          name: "Server moved",
          reasonString: "move",
          serverReference: "a:1",
          retryable: false
        })
        assert.include(reason.message, "move")
      })))

    it.effect("SS-10s, M-CONNACK-3: a refusal with Session Present is a refusal", () =>
      run(Effect.gen(function*() {
        const { reason } = yield* refused({}, sends("20 03 01 87 00"))
        assert(reason._tag === "ConnectRefused")
        assert.strictEqual(reason.reasonCode, 0x87)
      })))

    it.effect("ER-06p: what stands behind a refusal means nothing", () =>
      run(Effect.gen(function*() {
        const { packets, reason } = yield* refused({}, sends("20 03 00 87 00 00 00 ff ff"))
        assert.strictEqual(reason._tag, "ConnectRefused")
        assert.deepStrictEqual(packets, [])
      })))

    for (const code of [0x03, 0x7f, 0x84 + 7, 0x96, 0xff]) {
      it.effect(`CK-05s: 0x${toHex(code)} is no code of CONNACK: a protocol error`, () =>
        run(Effect.gen(function*() {
          const { how, packets, reason } = yield* refused({}, sends(`20 03 00 ${toHex(code)} 00`))
          assert(reason._tag === "ProtocolError")
          assert.deepInclude(reason, { packet: "CONNACK", field: "reason code", reasonCode: 0x82 })
          assert.isTrue(isDisconnect(packets[0], [0x82]), packets[0])
          assert.strictEqual(how, "fin")
        })))
    }

    for (const code of [6, 255]) {
      it.effect(`CK-05s, M-311-3: return code ${code} is reserved: a protocol error`, () =>
        run(Effect.gen(function*() {
          const { how, packets, reason } = yield* refused({ protocolVersion: 4 }, sends(`20 02 00 ${toHex(code)}`))
          assert(reason._tag === "ProtocolError")
          assert.strictEqual(reason.packet, "CONNACK")
          assert.deepStrictEqual({ packets, how }, { packets: [], how: "fin" })
        })))
    }
  })

  describe("law 1: the layer fails with what the network did", () => {
    it.effect("the name does not resolve", () =>
      run(Effect.gen(function*() {
        yield* (yield* MemoryNetwork.MemoryNetwork).listen({ host: "elsewhere" })
        const { reason } = yield* failure(program())
        assert(reason._tag === "NameNotResolved")
        assert.deepInclude(reason, { address: "broker:1883", retryable: true })
        assert.strictEqual(reason.cause.phase, "dns")
      })))

    for (const fault of ["refused", "unreachable", "timeout"] as const) {
      it.effect(`the dial ends: ${fault}`, () =>
        run(Effect.gen(function*() {
          const network = yield* MemoryNetwork.MemoryNetwork
          yield* network.failDials({ host: "broker" }, fault)
          const { reason } = yield* failure(program())
          assert(reason._tag === "DialFailed")
          assert.deepInclude(reason, { address: "broker:1883", kind: fault, retryable: true })
          assert.strictEqual(reason.cause.phase, "connect")
          assert.strictEqual(network.dials.length, 1)
        })))
    }

    it.effect("nobody listens on the port", () =>
      run(Effect.gen(function*() {
        yield* (yield* MemoryNetwork.MemoryNetwork).listen({ host: "broker", port: 1884 })
        const { reason } = yield* failure(program())
        assert(reason._tag === "DialFailed")
        assert.deepInclude(reason, { address: "broker:1883", kind: "refused" })
      })))

    for (const [how, kind] of [["fin", "eof"], ["close", "eof"], ["reset", "reset"]] as const) {
      for (const protocolVersion of [4, 5] as const) {
        it.effect(`CN-32s: the server ends the stream before CONNACK (${how}, version ${protocolVersion})`, () =>
          run(Effect.gen(function*() {
            const { packets, reason } = yield* refused({ protocolVersion }, (peer) => peer[how])
            assert(reason._tag === "ClosedBeforeConnack")
            assert.deepInclude(reason, { address: "mqtt://broker:1883", retryable: true })
            assert.strictEqual(reason.cause?.kind, kind)
            assert.isUndefined(reason.reasonCode)
            assert.deepStrictEqual(packets, [])
          })))
      }
    }

    it.effect("FH-09p: the server ends the stream in the middle of CONNACK", () =>
      run(Effect.gen(function*() {
        const { reason } = yield* refused({}, (peer) => Effect.andThen(peer.sendHex("20 03 00"), peer.fin))
        assert.strictEqual(reason._tag, "ClosedBeforeConnack")
      })))

    it.effect("DC-01s, M-CONNACK-7: the server sends DISCONNECT where CONNACK is awaited", () =>
      run(Effect.gen(function*() {
        const { how, reason } = yield* refused({}, sends("e0 02 87 00"))
        assert(reason._tag === "ClosedBeforeConnack")
        assert.deepInclude(reason, { reasonCode: 0x87, retryable: true })
        assert.include(reason.message, "0x87")
        assert.strictEqual(how, "fin")
      })))
  })

  describe("law 15: a failure leaves nothing in a scope that lives on", () => {
    const finalizers = ({ state }: Scope.Scope) =>
      state._tag === "Open" ? (state.finalizers?.size ?? 0) + (state.finalizer === undefined ? 0 : 1) : 0

    it.effect("whatever the failure is", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const listener = yield* network.listen({ host: "broker" })
        const scope = yield* Scope.make()
        const make = (options: Options = {}) =>
          Effect.flip(Scope.provide(MqttClient.make({ endpoint: "mqtt://broker", ...options }), scope))
        yield* make({ keepAlive: "1 day" })
        yield* make({ endpoint: "mqtt://elsewhere" })
        yield* make({ credentials: Effect.fail("no") })
        const building = yield* start(make())
        yield* handshake(listener, "20 03 00 87 00")
        yield* Fiber.join(building)
        assert.strictEqual(finalizers(scope), 0)
        assert.strictEqual(network.openConnections, 0)
      })))

    it.effect("nor does an interruption", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.failDials({}, "silent")
        const scope = yield* Scope.make()
        const building = yield* start(Scope.provide(MqttClient.make({ endpoint: "mqtt://broker" }), scope))
        yield* network.settle
        yield* Fiber.interrupt(building)
        assert.strictEqual(finalizers(scope), 0)
      })))

    it.effect("and the way to try again is the usual one", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const listener = yield* network.listen({ host: "broker" })
        yield* network.failDials({}, "refused", { times: 3 })
        const retried = MqttClient.make({ endpoint: "mqtt://broker" }).pipe(
          Effect.retry({ schedule: Schedule.spaced("1 second"), while: (error) => error.retryable })
        )
        const building = yield* start(retried)
        yield* TestClock.adjust("3 seconds")
        yield* handshake(listener)
        yield* Fiber.join(building)
        assert.deepStrictEqual(network.dials.map((dial) => dial.at), [0, 1000, 2000, 3000])
        assert.strictEqual(network.openConnections, 1)
      })))
  })

  describe("a connection that is over as soon as it is there", () => {
    const lost = Effect.fnUntraced(function*(script: (peer: Peer) => Effect.Effect<void>) {
      const listener = yield* (yield* MemoryNetwork.MemoryNetwork).listen({ host: "broker" })
      const building = yield* start(MqttClient.make({ endpoint: "mqtt://broker" }))
      const peer = yield* listener.accept
      yield* peer.readFrame
      yield* script(peer)
      const client = yield* Fiber.join(building)
      const { cause } = yield* awaitStatus(client, "Reconnecting")
      return { cause, ...yield* readToEnd(peer) }
    })

    it.effect("is a success of the layer and a lost link: CONNACK and a FIN", () =>
      run(Effect.gen(function*() {
        const { cause } = yield* lost((peer) => Effect.andThen(peer.sendHex(accepted[5]), peer.fin))
        assert.strictEqual(cause._tag, "TransportLost")
      })))

    it.effect("is a success of the layer and a lost link: CONNACK and DISCONNECT, whatever stands behind it", () =>
      run(Effect.gen(function*() {
        const { cause, packets } = yield* lost((peer) => peer.sendHex(`${accepted[5]} e0 01 8b 00 00 ff`))
        assert(cause._tag === "ServerDisconnected")
        assert.strictEqual(cause.reasonCode, 0x8b)
        assert.deepStrictEqual(packets, [])
      })))
  })

  it.effect("a defect of the credentials ends the layer, and leaves nothing", () =>
    run(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      const exit = yield* Effect.exit(program({ credentials: Effect.die(new Error("boom")) }))
      assert.isTrue(Exit.isFailure(exit))
      assert.strictEqual(network.openConnections, 0)
      assert.deepStrictEqual(network.dials, [])
    })))

  describe("connectTimeout is exact", () => {
    /** Fails at the millisecond, and not before. */
    const timesOut = Effect.fnUntraced(function*<R>(
      build: Effect.Effect<Status, MqttError.ConnectError, R>,
      millis: number
    ) {
      const building = yield* start(countSleeps(Effect.flip(build)))
      yield* TestClock.adjust(millis - 1)
      assert.isUndefined(building.pollUnsafe())
      yield* TestClock.adjust(1)
      const [error, sleeping] = yield* Fiber.join(building)
      assert.strictEqual(sleeping, 0)
      assert.strictEqual((yield* MemoryNetwork.MemoryNetwork).openConnections, 0)
      const { reason } = yield* error
      assert(reason._tag === "ConnectTimeout")
      assert.isTrue(reason.retryable)
      return reason
    })

    it.effect("KA-17p: towards a server that says nothing, whose link is aborted", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const listener = yield* network.listen({ host: "broker" })
        const reason = yield* timesOut(program(), 10_000)
        assert.deepInclude(reason, { phase: "connack", timeoutMillis: 10_000, address: "mqtt://broker:1883" })
        const end = yield* (yield* listener.accept).closed
        assert.deepInclude(end, { how: "abort", at: 10_000 })
      })))

    it.effect("towards a server that sends half a CONNACK", () =>
      run(Effect.gen(function*() {
        const listener = yield* (yield* MemoryNetwork.MemoryNetwork).listen({ host: "broker" })
        yield* start(handshake(listener, "20 03 00"))
        const reason = yield* timesOut(program({ connectTimeout: "1500 millis" }), 1500)
        assert.deepInclude(reason, { phase: "connack", timeoutMillis: 1500 })
      })))

    it.effect("towards a black hole behind the dial", () =>
      run(Effect.gen(function*() {
        const listener = yield* (yield* MemoryNetwork.MemoryNetwork).listen({ host: "broker" })
        yield* start(Effect.flatMap(listener.accept, (peer) => peer.blackHole("both")))
        assert.strictEqual((yield* timesOut(program(), 10_000)).phase, "connack")
      })))

    it.effect("towards a server that does not even take CONNECT", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const listener = yield* network.listen({ host: "broker", windowBytes: 8 })
        yield* network.setLatency("1 second")
        yield* start(Effect.flatMap(listener.accept, (peer) => peer.stallReads))
        assert.strictEqual((yield* timesOut(program(), 10_000)).phase, "connack")
        assert.strictEqual(listener.peers[0].clientEnd?.how, "abort")
      })))

    it.effect("while the dial hangs", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.failDials({}, "silent")
        assert.strictEqual((yield* timesOut(program({ connectTimeout: 777 }), 777)).phase, "dial")
        assert.deepStrictEqual(network.dials.map((dial) => dial.outcome), ["interrupted"])
      })))

    it.effect("while credentials are awaited, and nobody is dialled", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.listen({ host: "broker" })
        const reason = yield* timesOut(program({ credentials: Effect.never }), 10_000)
        assert.strictEqual(reason.phase, "options")
        assert.deepStrictEqual(network.dials, [])
      })))

    it.effect("while the options are awaited", () =>
      run(Effect.gen(function*() {
        const reason = yield* timesOut(
          Effect.provide(
            Effect.flatMap(MqttClient.MqttClient, (client) => client.status),
            MqttClient.layerEffect(Effect.never)
          ),
          10_000
        )
        assert.strictEqual(reason.phase, "options")
      })))

    it.effect("counts credentials, dial and handshake together", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.listen({ host: "broker" })
        yield* network.setLatency("1 second")
        const credentials = Effect.as(Effect.sleep("3 seconds"), {})
        const reason = yield* timesOut(program({ credentials, connectTimeout: "6 seconds" }), 6_000)
        assert.strictEqual(reason.phase, "connack")
        assert.deepInclude(network.dials[0], { at: 3_000, outcome: "open" })
      })))

    it.effect("counts the options of an effect as well, at the first attempt and at later ones", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.failDials({}, "silent")
        const options = Effect.as(
          Effect.sleep("4 seconds"),
          {
            endpoint: "mqtt://broker",
            firstConnect: "retry",
            reconnect: { schedule: Schedule.spaced("1 minute") }
          } as const
        )
        const building = yield* start(MqttClient.makeEffect(options))
        yield* TestClock.adjust("4 seconds")
        const client = yield* Fiber.join(building)
        yield* TestClock.adjust(5_999)
        assert.strictEqual((yield* client.status)._tag, "Connecting")
        yield* TestClock.adjust(1)
        const status = yield* client.status
        assert(status._tag === "Reconnecting" && status.cause._tag === "ConnectError")
        assert.strictEqual(status.cause.reason._tag, "ConnectTimeout")
        yield* TestClock.adjust("1 minute")
        yield* TestClock.adjust(9_999)
        assert.strictEqual((yield* client.status)._tag, "Connecting")
        yield* TestClock.adjust(1)
        assert.strictEqual((yield* client.status)._tag, "Reconnecting")
      })))

    it.effect("is not moved by what is received", () =>
      run(Effect.gen(function*() {
        const listener = yield* (yield* MemoryNetwork.MemoryNetwork).listen({ host: "broker" })
        yield* start(Effect.gen(function*() {
          const peer = yield* listener.accept
          for (const byte of ["20", "0f", "00", "00", "0c"]) {
            yield* Effect.sleep("1900 millis")
            yield* peer.sendHex(byte)
          }
        }))
        assert.strictEqual((yield* timesOut(program(), 10_000)).phase, "connack")
      })))

    it.effect("may be infinite", () =>
      run(Effect.gen(function*() {
        const listener = yield* (yield* MemoryNetwork.MemoryNetwork).listen({ host: "broker" })
        const building = yield* start(program({ connectTimeout: "Infinity" }))
        const peer = yield* listener.accept
        yield* TestClock.adjust("52 weeks")
        assert.isUndefined(building.pollUnsafe())
        yield* peer.sendHex(accepted[5])
        assert.strictEqual((yield* Fiber.join(building))._tag, "Connected")
      })))

    it.effect("ends with CONNACK: a link that was slow to open lives on", () =>
      run(Effect.gen(function*() {
        const listener = yield* (yield* MemoryNetwork.MemoryNetwork).listen({ host: "broker" })
        const building = yield* start(MqttClient.make({ endpoint: "mqtt://broker", keepAlive: 0 }))
        const peer = yield* listener.accept
        yield* TestClock.adjust(9_999)
        yield* peer.sendHex(accepted[5])
        const client = yield* Fiber.join(building)
        yield* TestClock.adjust("1 day")
        assert.strictEqual((yield* client.status)._tag, "Connected")
      })))
  })

  // law 12
  describe("the peer does not speak MQTT as it is written", () => {
    for (const { fault, hex, id, prim, tol, ver } of vectors) {
      const protocolVersion = ver === "4" ? 4 : 5
      // A refusal and a DISCONNECT are answers, which is tested above.
      if (id === "M-CONNACK-3" || id === "M-CONNACK-7") continue
      it.effect(`${id}, ER-02p: ${fault}`, () =>
        run(Effect.gen(function*() {
          const { how, packets, reason } = yield* refused({ protocolVersion }, sends(hex))
          if (reason._tag === "UnsupportedProtocolVersion") assert.include(tol, "unsupported version")
          else assert.strictEqual(reason._tag, "ProtocolError")
          assert.strictEqual(how, "fin")
          if (protocolVersion === 4) return assert.deepStrictEqual(packets, [], "DC-11p: a bare close")
          assert.strictEqual(packets.length, 1)
          assert.isTrue(isDisconnect(packets[0], [...codesOf(prim), ...codesOf(tol)]), packets[0])
        })))
    }

    const strangers: ReadonlyArray<readonly [string, string]> = [
      ["a web server", "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"],
      ["a mail server", "220 mail.example.org ESMTP, which is at your service today\r\n"],
      // What it says first looks like the beginning of a PUBLISH that never ends.
      ["a terse mail server", "220 mail\r\n"],
      ["a remote shell", "SSH-2.0-OpenSSH_9.6\r\n"],
      ["a TLS alert", "\x15\x03\x03\x00\x02\x02\x46"]
    ]
    for (const [what, text] of strangers) {
      for (const protocolVersion of [4, 5] as const) {
        it.effect(`${what} is told from a broker (version ${protocolVersion})`, () =>
          run(Effect.gen(function*() {
            const { how, packets, reason } = yield* refused({ protocolVersion }, (peer) =>
              peer.send(Uint8Array.from(text, (char) => char.charCodeAt(0))))
            assert(reason._tag === "ProtocolError")
            assert.isTrue(reason.retryable)
            assert.strictEqual(how, "fin")
            if (protocolVersion === 4) {
              assert.deepStrictEqual(packets, [])
            } else assert.isTrue(isDisconnect(packets[0], [reason.reasonCode]))
          })))
      }
    }

    const early: ReadonlyArray<readonly [name: string, hex4: string | undefined, hex5: string]> = [
      ["PUBLISH", "30 04 00 01 61 78", "30 05 00 01 61 00 78"],
      ["PUBACK", "40 02 00 01", "40 02 00 01"],
      ["PUBREL", "62 02 00 01", "62 02 00 01"],
      ["SUBACK", "90 03 00 01 00", "90 04 00 01 00 00"],
      ["UNSUBACK", "b0 02 00 01", "b0 04 00 01 00 00"],
      ["PINGRESP", "d0 00", "d0 00"],
      ["AUTH", undefined, "f0 00"]
    ]
    for (const [name, hex4, hex5] of early) {
      it.effect(`CK-01s: ${name} before CONNACK, even where CONNACK is right behind it`, () =>
        run(Effect.gen(function*() {
          const { how, packets, reason } = yield* refused({}, sends(`${hex5} ${accepted[5]}`))
          assert(reason._tag === "ProtocolError")
          assert.deepInclude(reason, { packet: name, reasonCode: 0x82 })
          assert.isTrue(isDisconnect(packets[0], [0x82]), packets[0])
          assert.deepStrictEqual({ count: packets.length, how }, { count: 1, how: "fin" })
        })))

      if (hex4 === undefined) continue
      it.effect(`CK-01s: ${name} before CONNACK, on 3.1.1`, () =>
        run(Effect.gen(function*() {
          const { how, packets, reason } = yield* refused({ protocolVersion: 4 }, sends(`${hex4} ${accepted[4]}`))
          assert(reason._tag === "ProtocolError")
          assert.strictEqual(reason.packet, name)
          assert.deepStrictEqual({ packets, how }, { packets: [], how: "fin" })
        })))
    }

    it.effect("FH-04p: a CONNECT, as from another client", () =>
      run(Effect.gen(function*() {
        const { packets, reason } = yield* refused({}, sends("10 0d 00 04 4d 51 54 54 05 02 00 3c 00 00 00"))
        assert(reason._tag === "ProtocolError")
        assert.isTrue(isDisconnect(packets[0], [0x82]))
      })))

    it.effect("FH-03p: DISCONNECT and AUTH on 3.1.1, which has neither from a server", () =>
      run(Effect.gen(function*() {
        const { packets, reason } = yield* refused({ protocolVersion: 4 }, sends("e0 00"))
        assert.strictEqual(reason._tag, "ProtocolError")
        assert.deepStrictEqual(packets, [])
      })))

    it.effect("CK-02s, M-CONNACK-5: a second CONNACK, in the same segment", () =>
      run(Effect.gen(function*() {
        const { packets, reason } = yield* refused({ protocolVersion: 4 }, sends(`${accepted[4]} ${accepted[4]}`))
        assert(reason._tag === "ProtocolError")
        assert.deepInclude(reason, { packet: "CONNACK", reasonCode: 0x82 })
        assert.deepStrictEqual(packets, [])
      })))

    it.effect("CK-02s: a second CONNACK later, which loses the link", () =>
      run(Effect.gen(function*() {
        const listener = yield* (yield* MemoryNetwork.MemoryNetwork).listen({ host: "broker" })
        const building = yield* start(MqttClient.make({ endpoint: "mqtt://broker" }))
        const peer = yield* handshake(listener)
        const client = yield* Fiber.join(building)
        yield* peer.sendHex(accepted[5])
        const { cause } = yield* awaitStatus(client, "Reconnecting")
        assert(cause._tag === "ProtocolError")
        assert.isTrue(isDisconnect((yield* readToEnd(peer)).packets[0], [0x82]))
      })))

    it.effect("SS-08s: a session although a clean one was asked for", () =>
      run(Effect.gen(function*() {
        const { packets, reason } = yield* refused({ sessionExpiry: "1 hour" }, sends("20 03 01 00 00"))
        assert(reason._tag === "ProtocolError")
        assert.deepInclude(reason, { packet: "CONNACK", field: "session present", reasonCode: 0x82 })
        assert.isTrue(isDisconnect(packets[0], [0x82]))
      })))

    it.effect("SS-11p: and nothing that came with it is delivered, or acknowledged", () =>
      run(Effect.gen(function*() {
        const { packets } = yield* refused(
          { subscriptions: [{ filter: "#" }] },
          sends("20 03 01 00 00 32 07 00 01 61 00 01 00 78")
        )
        assert.strictEqual(packets.length, 1)
        assert.isTrue(isDisconnect(packets[0], [0x82]))
      })))

    it.effect("CK-16s, CN-21s: no assigned client id although the sent one was empty", () =>
      run(Effect.gen(function*() {
        const { packets, reason } = yield* refused({ clientId: "" }, sends(accepted[5]))
        assert(reason._tag === "ProtocolError")
        assert.deepInclude(reason, { field: "assigned client identifier", reasonCode: 0x82 })
        assert.isTrue(isDisconnect(packets[0], [0x82]))
      })))

    it.effect("CK-27s: an authentication method that nobody asked for", () =>
      run(Effect.gen(function*() {
        const { packets, reason } = yield* refused({}, sends("20 07 00 00 04 15 00 01 61"))
        assert(reason._tag === "ProtocolError")
        assert.deepInclude(reason, { field: "authentication method", reasonCode: 0x82 })
        assert.isTrue(isDisconnect(packets[0], [0x82]))
      })))

    it.effect("CK-19s: a CONNACK larger than what the client takes", () =>
      run(Effect.gen(function*() {
        const words = "61 ".repeat(70)
        const { packets, reason } = yield* refused(
          { maximumPacketSize: 64 },
          sends(`20 4c 00 00 49 1f 00 46 ${words}`)
        )
        assert(reason._tag === "ProtocolError")
        assert.strictEqual(reason.reasonCode, 0x95)
        assert.isTrue(isDisconnect(packets[0], [0x95]))
      })))

    for (const protocolVersion of [4, 5] as const) {
      it.effect(`random bytes end in a typed error, whatever they are (version ${protocolVersion})`, () =>
        run(
          Effect.gen(function*() {
            const network = yield* MemoryNetwork.MemoryNetwork
            const listener = yield* network.listen({ host: "broker" })
            const tags = new Set<string>()
            for (let round = 0; round < 150; round++) {
              const length = yield* Random.nextIntBetween(1, 40)
              const noise = Uint8Array.from(
                yield* Effect.all(Array.from({ length }, () => Random.nextIntBetween(0, 256)))
              )
              // Every third one looks like a CONNACK at first.
              if (round % 3 === 0) noise[0] = 0x20
              const building = yield* start(Effect.flip(program({ protocolVersion })))
              const peer = yield* listener.accept
              yield* peer.readFrame
              yield* peer.send(noise)
              yield* peer.fin
              const { reason } = yield* Fiber.join(building)
              tags.add(reason._tag)
              assert.strictEqual(network.openConnections, 0, Hex.encode(noise))
            }
            const known = ["ClosedBeforeConnack", "ConnectRefused", "ProtocolError", "UnsupportedProtocolVersion"]
            assert.isTrue(tags.size > 1)
            for (const tag of tags) assert.include(known, tag)
          }).pipe(Random.withSeed(`noise ${protocolVersion}`))
        ))
    }
  })

  describe("the failure is caught", () => {
    const answers = (hex: string) =>
      Effect.gen(function*() {
        const listener = yield* (yield* MemoryNetwork.MemoryNetwork).listen({ host: "broker" })
        yield* start(handshake(listener, hex))
      })

    it.effect("by its tag", () =>
      run(Effect.gen(function*() {
        yield* answers("20 03 00 87 00")
        const handled: Effect.Effect<string, never, Transport> = program().pipe(
          Effect.map((status) => status._tag),
          Effect.catchTag("ConnectError", (error) => Effect.succeed(`${error.reason._tag}, ${error.retryable}`))
        )
        assert.strictEqual(yield* handled, "ConnectRefused, false")
      })))

    it.effect("by its reason, with the fields of that reason", () =>
      run(Effect.gen(function*() {
        yield* answers("20 03 00 87 00")
        const handled = program().pipe(
          Effect.map((status): number | string => status._tag),
          Effect.catchReason("ConnectError", "ConnectRefused", (reason) =>
            Effect.succeed<number | string>(reason.reasonCode))
        )
        assert.strictEqual(yield* handled, 0x87)
      })))

    it.effect("by another reason not, which leaves the error as it is", () =>
      run(Effect.gen(function*() {
        yield* answers("20 03 00 87 00")
        const error = yield* program().pipe(
          Effect.catchReason("ConnectError", "NameNotResolved", () => Effect.die("not this one")),
          Effect.flip
        )
        assert.strictEqual(error.reason._tag, "ConnectRefused")
      })))

    it.effect("by several reasons, each with what else is to be done", () =>
      run(Effect.gen(function*() {
        const handled = program().pipe(
          Effect.as("connected"),
          Effect.catchReasons("ConnectError", {
            ConnectRefused: (reason) => Effect.succeed(reason.name),
            DialFailed: (reason) => Effect.succeed(reason.kind),
            NameNotResolved: (reason) => Effect.succeed(reason.address)
          })
        )
        yield* (yield* MemoryNetwork.MemoryNetwork).failDials({}, "unresolved", { times: 1 })
        assert.strictEqual(yield* handled, "broker:1883")
        yield* answers("20 03 00 89 00")
        assert.strictEqual(yield* handled, "Server busy")
      })))

    it.effect("while the layer is built, with another layer in its place", () =>
      run(Effect.gen(function*() {
        yield* answers("20 03 00 88 00")
        const standby = Layer.effect(
          MqttClient.MqttClient,
          MqttClient.make({ endpoint: "mqtt://broker", firstConnect: "retry" })
        )
        const layer = MqttClient.layer({ endpoint: "mqtt://broker" }).pipe(
          Layer.catchTag("ConnectError", () => standby)
        )
        const status = yield* Effect.provide(Effect.flatMap(MqttClient.MqttClient, (client) => client.status), layer)
        assert.strictEqual(status._tag, "Connecting")
      })))
  })
})
