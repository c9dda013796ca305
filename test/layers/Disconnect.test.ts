import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import type * as MqttClient from "../../src/layers/MqttClient.ts"
import { ReasonCode } from "../../src/protocol/index.ts"
import { MemoryNetwork } from "../../src/testing/index.ts"
import {
  accepted,
  awaitStatus,
  expectPackets,
  handshake,
  next,
  open,
  readToEnd,
  resumed,
  run,
  start
} from "../support/ScriptedBroker.ts"
import {
  build,
  decodeConnect,
  label,
  listen,
  publishing,
  reasonOf,
  refused,
  runSteady,
  statusOf,
  x
} from "../support/Supervision.ts"

describe("disconnect", () => {
  it.effect("DC-06 DC-07: DISCONNECT is the last packet; the client is Halted and dials no more", () =>
    run(Effect.gen(function*() {
      const { client, network, peer } = yield* open()
      yield* client.disconnect()
      assert.strictEqual(yield* statusOf(client), "Halted DisconnectRequested")
      assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 00"], how: "fin" })
      const { activity } = network
      yield* TestClock.adjust("1 day")
      yield* network.settle
      assert.strictEqual(network.activity, activity)
      yield* client.disconnect()
      yield* client.pause
      assert.strictEqual(yield* statusOf(client), "Halted DisconnectRequested")
    })))

  it.effect("law 6: pending publishes fail as abandoned and say how far they came", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open({ sendMaximum: 2 })
      const { publish: written } = yield* publishing(client, peer, 1)
      const { publish: received } = yield* publishing(client, peer, 2)
      yield* peer.sendHex("50 02 00 02")
      yield* expectPackets(peer, "62 02 00 02")
      const queued = yield* start(client.publish({ topic: "a", payload: x, qos: 1 }))
      yield* client.disconnect()
      for (const [publish, phase] of [[written, "written"], [received, "received"], [queued, "queued"]] as const) {
        const reason = yield* reasonOf(Fiber.join(publish))
        assert.deepInclude(reason, { _tag: "PublishAbandoned", phase })
        if (reason._tag === "PublishAbandoned") assert.strictEqual(reason.cause._tag, "ClientHalted")
      }
      const after = yield* reasonOf(client.publish({ topic: "a" }))
      assert.deepInclude(after, { _tag: "PublishAbandoned", phase: "queued" })
      assert.deepInclude(yield* client.stats, { queued: 0 })
    })))

  it.effect("running streams survive it and come back after resume; who waits for a grant fails", () =>
    run(Effect.gen(function*() {
      const { client, listener, network, peer } = yield* open()
      const received: Array<string> = []
      const consumer = yield* start(
        Stream.runForEach(client.subscribe("t"), (message) => Effect.sync(() => received.push(message.topic)))
      )
      yield* expectPackets(peer, "82 07 00 01 00 00 01 74 00")
      yield* peer.sendHex("90 04 00 01 00 00")
      const waiting = yield* start(Effect.scoped(client.subscription("u")))
      yield* expectPackets(peer, "82 07 00 02 00 00 01 75 00")
      yield* client.disconnect()
      assert.strictEqual((yield* reasonOf(Fiber.join(waiting)))._tag, "ClientHalted")
      assert.strictEqual((yield* reasonOf(Stream.runDrain(client.subscribe("v"))))._tag, "ClientHalted")
      assert.isUndefined(consumer.pollUnsafe())
      const resume = yield* start(client.resume)
      const newPeer = yield* handshake(listener)
      yield* Fiber.join(resume)
      const subscribe = yield* next(newPeer)
      assert.match(subscribe, /^82 07 .. .. 00 00 01 74 00$/)
      yield* newPeer.sendHex(`90 04 ${subscribe.slice(6, 11)} 00 00 30 04 00 01 74 00`)
      yield* network.settle
      assert.deepStrictEqual(received, ["t"])
      yield* client.publish({ topic: "a", payload: x })
      yield* expectPackets(newPeer, "30 05 00 01 61 00 78")
    })))

  it.effect("law 5: what was abandoned in a kept session is still brought to its end there", () =>
    run(Effect.gen(function*() {
      const { client, listener, peer } = yield* open({ sessionExpiry: "1 hour", clientId: "c" })
      const { publish } = yield* publishing(client, peer, 2)
      yield* client.disconnect()
      assert.strictEqual((yield* reasonOf(Fiber.join(publish)))._tag, "PublishAbandoned")
      assert.deepInclude(yield* client.stats, { packetIds: 1 })
      const resume = yield* start(client.resume)
      const newPeer = yield* handshake(listener, resumed[5])
      yield* Fiber.join(resume)
      yield* expectPackets(newPeer, "3c 07 00 01 61 00 01 00 78")
      yield* newPeer.sendHex("50 02 00 01")
      yield* expectPackets(newPeer, "62 02 00 01")
      yield* newPeer.sendHex("70 02 00 01")
      yield* (yield* MemoryNetwork.MemoryNetwork).settle
      assert.deepInclude(yield* client.stats, { packetIds: 0, heldBytes: 0 })
    })))

  it.effect("DC-09: refuses to raise the session expiry from 0, and stays connected", () =>
    run(Effect.gen(function*() {
      const { client, network } = yield* open()
      const { activity } = network
      const error = yield* Effect.flip(client.disconnect({ sessionExpiry: "1 second" }))
      assert.deepInclude(error, { _tag: "InvalidOptions", option: "sessionExpiry" })
      yield* network.settle
      assert.strictEqual(network.activity, activity)
      assert.strictEqual((yield* client.status)._tag, "Connected")
    })))

  it.effect("DC-09: allows an expiry where CONNECT had one, and 0 always", () =>
    run(Effect.gen(function*() {
      const kept = yield* open({ sessionExpiry: "1 hour" })
      yield* kept.client.disconnect({ sessionExpiry: "2 hours" })
      assert.deepStrictEqual((yield* readToEnd(kept.peer)).packets, ["e0 07 00 05 11 00 00 1c 20"])
    })))

  it.effect("SS-13: session expiry 0 in DISCONNECT ends the session on our side as well", () =>
    run(Effect.gen(function*() {
      const { client, listener, peer } = yield* open({ sessionExpiry: "1 hour", clientId: "c" })
      yield* publishing(client, peer, 2)
      yield* client.disconnect({ sessionExpiry: 0 })
      assert.deepStrictEqual((yield* readToEnd(peer)).packets, ["e0 07 00 05 11 00 00 00 00"])
      const resume = yield* start(client.resume)
      // A server that claims to have the session all the same breaks the protocol.
      const newPeer = yield* handshake(listener, resumed[5])
      // Clean Start
      assert.strictEqual(newPeer.connect.slice(27, 29), "02")
      assert.strictEqual((yield* reasonOf(Fiber.join(resume)))._tag, "ProtocolError")
      assert.deepStrictEqual((yield* readToEnd(newPeer)).packets, ["e0 01 82"])
    })))

  it.effect("SS-13: that holds for an attempt under way too, whose DISCONNECT says it to the server", () =>
    run(Effect.gen(function*() {
      const { client, listener } = yield* open({ sessionExpiry: "1 hour", clientId: "c" })
      const reconnect = yield* start(Effect.exit(client.reconnect()))
      const second = yield* listener.accept
      assert.isFalse(decodeConnect(yield* next(second)).clean)
      yield* client.disconnect({ sessionExpiry: 0 })
      assert.deepStrictEqual(yield* readToEnd(second), { packets: ["e0 07 00 05 11 00 00 00 00"], how: "fin" })
      yield* Fiber.join(reconnect)
      yield* start(client.resume)
      assert.isTrue(decodeConnect((yield* handshake(listener)).connect).clean)
    })))

  it.effect("DC-10: withWill sends 0x04, and closes bare on 3.1.1", () =>
    run(Effect.gen(function*() {
      const five = yield* open()
      yield* five.client.disconnect({ reason: "withWill", reasonString: "r", userProperties: [["k", "v"]] })
      assert.deepStrictEqual((yield* readToEnd(five.peer)).packets, [
        "e0 0d 04 0b 1f 00 01 72 26 00 01 6b 00 01 76"
      ])
    })))

  it.effect("DC-10: withWill closes bare on 3.1.1; normal sends DISCONNECT", () =>
    run(Effect.gen(function*() {
      const { client, listener, peer } = yield* open({ protocolVersion: 4 })
      yield* client.disconnect({ reason: "withWill" })
      assert.deepStrictEqual(yield* readToEnd(peer), { packets: [], how: "fin" })
      const resume = yield* start(client.resume)
      const second = yield* handshake(listener, accepted[4])
      yield* Fiber.join(resume)
      yield* client.disconnect({ reasonString: "unknown to 3.1.1" })
      assert.deepStrictEqual(yield* readToEnd(second), { packets: ["e0 00"], how: "fin" })
    })))

  it.effect("law 13: names what is not valid, and stays connected", () =>
    run(Effect.gen(function*() {
      const { client, network } = yield* open({ sessionExpiry: "1 hour" })
      const { activity } = network
      const wrong: ReadonlyArray<readonly [string, MqttClient.DisconnectOptions]> = [
        ["reason", { reason: "nonsense" as "normal" }],
        ["reasonString", { reasonString: "a\u0000" }],
        ["reasonString", { reasonString: 5 as unknown as string }],
        ["userProperties", { userProperties: [["k", "\ud800"]] }],
        ["sessionExpiry", { sessionExpiry: "long" as "1 second" }]
      ]
      for (const [option, options] of wrong) {
        const error = yield* Effect.flip(client.disconnect(options))
        assert.strictEqual(error._tag, "InvalidOptions")
        if (error._tag === "InvalidOptions") assert.isTrue(error.option.startsWith(option), error.option)
      }
      yield* network.settle
      assert.strictEqual(network.activity, activity)
      assert.strictEqual((yield* client.status)._tag, "Connected")
    })))

  it.effect("ends an attempt, a wait and a pause as well", () =>
    run(Effect.gen(function*() {
      const broker = yield* listen()
      const { client, network } = yield* build()
      const peer = yield* broker.accept
      yield* next(peer)
      const resume = yield* start(client.resume)
      yield* client.disconnect()
      assert.deepInclude(yield* reasonOf(Fiber.join(resume)), { _tag: "ConnectInterrupted", by: "disconnect" })
      assert.strictEqual(yield* statusOf(client), "Halted DisconnectRequested")
      const again = yield* start(client.resume)
      yield* handshake(broker, refused.busy)
      yield* Fiber.await(again)
      yield* client.disconnect()
      assert.strictEqual(yield* statusOf(client), "Halted DisconnectRequested")
      const third = yield* start(client.resume)
      yield* handshake(broker)
      yield* Fiber.join(third)
      yield* client.pause
      yield* client.disconnect()
      assert.strictEqual(yield* statusOf(client), "Halted DisconnectRequested")
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(network.dials.length, 3)
    })))
})

describe("a DISCONNECT of the server", () => {
  const permanent = [0x9d]
  for (const code of ReasonCode.fromServer.Disconnect.filter((code) => code !== 0x8e && !permanent.includes(code))) {
    it.effect(`CN-33: ${ReasonCode.toHex(code)} closes the connection and connects again after a delay`, () =>
      runSteady(Effect.gen(function*() {
        const { client, listener, peer } = yield* open()
        yield* peer.sendHex(code === 0 ? "e0 00" : `e0 01 ${code.toString(16)}`)
        const { cause } = yield* awaitStatus(client, "Reconnecting")
        assert.deepInclude(cause, { _tag: "ServerDisconnected", reasonCode: code })
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: [], how: "fin" })
        yield* TestClock.adjust("500 millis")
        yield* handshake(listener)
        yield* awaitStatus(client, "Connected")
      })))
  }

  for (const code of permanent) {
    it.effect(`CN-33: ${ReasonCode.toHex(code)} halts; nothing is dialled`, () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open()
        const { publish } = yield* publishing(client, peer, 1)
        yield* peer.sendHex(`e0 01 ${code.toString(16)}`)
        const { cause } = yield* awaitStatus(client, "Halted")
        assert.deepInclude(cause, { _tag: "ServerDisconnected", reasonCode: code })
        assert.deepInclude(yield* reasonOf(Fiber.join(publish)), { _tag: "PublishAbandoned", phase: "written" })
        yield* TestClock.adjust("1 day")
        yield* network.settle
        assert.strictEqual(network.dials.length, 1)
        assert.strictEqual(network.openConnections, 0)
      })))
  }

  it.effect("DC-03: 0x8a has no place in it, so it is a fault; the ban itself comes with CONNACK and halts", () =>
    runSteady(Effect.gen(function*() {
      const { client, listener, peer } = yield* open()
      yield* peer.sendHex("e0 01 8a")
      const { cause } = yield* awaitStatus(client, "Reconnecting")
      assert.strictEqual(cause._tag, "ProtocolError")
      yield* TestClock.adjust("500 millis")
      yield* handshake(listener, "20 03 00 8a 00")
      assert.strictEqual(label(yield* awaitStatus(client, "Halted")), "Halted ConnectRefused")
    })))

  it.effect("DC-08 ER-06: the client closes at once and sends nothing after, whatever is pending", () =>
    run(Effect.gen(function*() {
      const { client, network, peer } = yield* open()
      const consumer = yield* start(Stream.runDrain(client.subscribe("t", { qos: 1 })))
      yield* expectPackets(peer, "82 07 00 01 00 00 01 74 01")
      // Behind SUBACK and a message that wants PUBACK, in one segment; what stands behind DISCONNECT means nothing.
      const ping = yield* start(client.ping)
      yield* expectPackets(peer, "c0 00")
      yield* peer.sendHex("90 04 00 01 00 01 32 06 00 01 74 00 07 00 e0 01 8b ff ff ff")
      assert.deepStrictEqual(yield* readToEnd(peer), { packets: [], how: "fin" })
      assert.strictEqual((yield* reasonOf(Fiber.join(ping)))._tag, "ServerDisconnected")
      assert.strictEqual(network.openConnections, 0)
      yield* Fiber.interrupt(consumer)
    })))

  it.effect("DC-12: tells the server reference and the reason string", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      yield* peer.sendHex("e0 0d 9d 0b 1c 00 03 6e 65 77 1f 00 02 67 6f")
      const { cause } = yield* awaitStatus(client, "Halted")
      assert.deepInclude(cause, { _tag: "ServerDisconnected", serverReference: "new", reasonString: "go" })
    })))
})
