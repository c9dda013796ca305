import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Redacted, Stream } from "effect"
import { TestClock } from "effect/testing"
import type * as MqttClient from "../../src/layers/MqttClient.ts"
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
  start,
  watchStatus
} from "../support/ScriptedBroker.ts"
import { build, decodeConnect, described, listen, publishing, reasonOf, refused, x } from "../support/Supervision.ts"

describe("reconnect", () => {
  describe("while connected", () => {
    it.effect("DC-06 DC-07: the old broker gets DISCONNECT and then the close, before the new one is dialled", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open()
        const other = yield* listen("other")
        const reconnect = yield* start(client.reconnect({ endpoint: "mqtt://other", clientId: "second" }))
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 00"], how: "fin" })
        const newPeer = yield* handshake(other)
        const negotiated = yield* Fiber.join(reconnect)
        assert.strictEqual(negotiated.clientId, "second")
        assert.strictEqual(decodeConnect(newPeer.connect).clientId, "second")
        assert.strictEqual(yield* described(client), "Connected second")
        assert.strictEqual(network.openConnections, 1)
        assert.deepStrictEqual(network.dials.map((dial) => dial.address), ["broker:1883", "other:1883"])
      })))

    it.effect("goes through Connecting, and nothing else, to Connected", () =>
      run(Effect.gen(function*() {
        const { client, listener, network } = yield* open()
        const seen = yield* watchStatus(client)
        const reconnect = yield* start(client.reconnect())
        yield* handshake(listener)
        yield* Fiber.join(reconnect)
        yield* network.settle
        assert.deepStrictEqual(seen.map((status) => status._tag), ["Connected", "Connecting", "Connected"])
      })))

    const changes: ReadonlyArray<
      readonly [string, MqttClient.ClientOptions, Partial<ReturnType<typeof decodeConnect>>]
    > = [
      ["credentials", {
        endpoint: "mqtt://broker",
        credentials: { username: "u", password: Redacted.make("new") }
      }, { username: "u", password: "new" }],
      ["client id", { endpoint: "mqtt://broker", clientId: "other" }, { clientId: "other" }],
      ["keep alive", { endpoint: "mqtt://broker", keepAlive: "7 seconds" }, { keepAlive: 7 }],
      ["session expiry", { endpoint: "mqtt://broker", sessionExpiry: "9 seconds" }, { sessionExpiry: 9 }]
    ]
    for (const [name, options, expected] of changes) {
      it.effect(`sends the new ${name}`, () =>
        run(Effect.gen(function*() {
          const { client, listener, peer } = yield* open({
            clientId: "first",
            credentials: { username: "o", password: Redacted.make("old") }
          })
          const reconnect = yield* start(client.reconnect(options))
          const newPeer = yield* handshake(listener)
          yield* Fiber.join(reconnect)
          const connect = decodeConnect(newPeer.connect)
          assert.deepInclude(connect, expected)
          // Options are replaced, not merged.
          assert.strictEqual(connect.username, expected.username)
          assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 00"], how: "fin" })
        })))
    }

    for (const [from, to] of [[5, 4], [4, 5]] as const) {
      it.effect(`changes the protocol version from ${from} to ${to}`, () =>
        run(Effect.gen(function*() {
          const { client, listener, peer } = yield* open({ protocolVersion: from })
          const reconnect = yield* start(client.reconnect((options) => ({ ...options, protocolVersion: to })))
          assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 00"], how: "fin" })
          const newPeer = yield* handshake(listener, accepted[to])
          assert.strictEqual((yield* Fiber.join(reconnect)).protocolVersion, to)
          assert.strictEqual(decodeConnect(newPeer.connect).version, to)
          const publish = yield* start(client.publish({ topic: "a", payload: x, qos: 1 }))
          yield* expectPackets(newPeer, to === 4 ? "32 06 00 01 61 00 01 78" : "32 07 00 01 61 00 01 00 78")
          yield* newPeer.sendHex("40 02 00 01")
          yield* Fiber.join(publish)
        })))
    }

    it.effect("keeps the generated client id, and gives a function the options in force", () =>
      run(Effect.gen(function*() {
        const { client, listener, peer } = yield* open({ keepAlive: "20 seconds" })
        const reconnect = yield* start(client.reconnect((options) => ({ ...options, sessionExpiry: "1 minute" })))
        const newPeer = yield* handshake(listener)
        yield* Fiber.join(reconnect)
        const first = decodeConnect(peer.receivedHex)
        assert.deepInclude(decodeConnect(newPeer.connect), {
          clientId: first.clientId,
          keepAlive: 20,
          sessionExpiry: 60
        })
      })))

    it.effect("running streams stay alive and are subscribed again before anything else", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open()
        const other = yield* listen("other")
        const received: Array<string> = []
        const consumer = yield* start(
          Stream.runForEach(
            client.subscribe(["t", "u"], { qos: 1 }),
            (message) =>
              Effect.sync(() => received.push(`${message.topic}:${new TextDecoder().decode(message.payload)}`))
          )
        )
        yield* expectPackets(peer, "82 0b 00 01 00 00 01 74 01 00 01 75 01")
        yield* peer.sendHex("90 05 00 01 00 01 01")
        yield* peer.sendHex("30 05 00 01 74 00 61")
        yield* network.settle
        const reconnect = yield* start(client.reconnect({ endpoint: "mqtt://other" }))
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 00"], how: "fin" })
        const publish = yield* start(client.publish({ topic: "a", payload: x, qos: 1 }))
        const newPeer = yield* handshake(other)
        yield* Fiber.join(reconnect)
        const [subscribe, publishPacket] = [yield* next(newPeer), yield* next(newPeer)]
        assert.match(subscribe, /^82 0b .. .. 00 00 01 74 01 00 01 75 01$/)
        assert.match(publishPacket, /^32 07 00 01 61 /)
        yield* newPeer.sendHex(`90 05 ${subscribe.slice(6, 11)} 00 01 01`)
        yield* newPeer.sendHex(`40 02 ${publishPacket.slice(15, 20)}`)
        yield* newPeer.sendHex("30 05 00 01 75 00 62")
        yield* Fiber.join(publish)
        yield* network.settle
        assert.deepStrictEqual(received, ["t:a", "u:b"])
        assert.isUndefined(consumer.pollUnsafe())
      })))
  })

  describe("publishes under way", () => {
    it.effect("law 7, law 10: a kept session gets them again with DUP, their ids and in order", () =>
      run(Effect.gen(function*() {
        const { client, listener, peer } = yield* open({ sessionExpiry: "1 hour", clientId: "c" })
        const one = yield* publishing(client, peer, 1)
        const two = yield* publishing(client, peer, 2)
        const three = yield* publishing(client, peer, 2)
        assert.deepStrictEqual([one.packet, two.packet, three.packet], [
          "32 07 00 01 61 00 01 00 78",
          "34 07 00 01 61 00 02 00 78",
          "34 07 00 01 61 00 03 00 78"
        ])
        yield* peer.sendHex("50 02 00 03")
        yield* expectPackets(peer, "62 02 00 03")
        const reconnect = yield* start(
          client.reconnect((options) => ({ ...options, credentials: { username: "fresh" } }))
        )
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 00"], how: "fin" })
        const newPeer = yield* handshake(listener, resumed[5])
        assert.deepInclude(decodeConnect(newPeer.connect), { clean: false, username: "fresh" })
        yield* Fiber.join(reconnect)
        yield* expectPackets(
          newPeer,
          "62 02 00 03",
          "3a 07 00 01 61 00 01 00 78",
          "3c 07 00 01 61 00 02 00 78"
        )
        yield* newPeer.sendHex("70 02 00 03 40 02 00 01 50 02 00 02")
        yield* expectPackets(newPeer, "62 02 00 02")
        yield* newPeer.sendHex("70 02 00 02")
        for (const { publish } of [one, two, three]) yield* Fiber.join(publish)
        assert.strictEqual((yield* client.stats).packetIds, 0)
      })))

    it.effect("law 10: another broker gets QoS 1 as new; QoS 2 fails as SessionLost, naming the phase", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ sessionExpiry: "1 hour", clientId: "c" })
        const other = yield* listen("other")
        const one = yield* publishing(client, peer, 1)
        const two = yield* publishing(client, peer, 2)
        const three = yield* publishing(client, peer, 2)
        yield* peer.sendHex("50 02 00 03")
        yield* expectPackets(peer, "62 02 00 03")
        const reconnect = yield* start(client.reconnect((options) => ({ ...options, endpoint: "mqtt://other" })))
        const newPeer = yield* handshake(other)
        assert.isTrue(decodeConnect(newPeer.connect).clean)
        yield* Fiber.join(reconnect)
        const packet = yield* next(newPeer)
        // No DUP: for this server it is a new message.
        assert.match(packet, /^32 07 00 01 61 .. .. 00 78$/)
        yield* newPeer.sendHex(`40 02 ${packet.slice(15, 20)}`)
        yield* Fiber.join(one.publish)
        for (const [{ publish }, phase] of [[two, "written"], [three, "received"]] as const) {
          const reason = yield* reasonOf(Fiber.join(publish))
          assert.deepInclude(reason, { _tag: "SessionLost", phase })
        }
        // Neither PUBREL nor the QoS 2 messages went into a session that never had them.
        const quiet = yield* start(next(newPeer))
        yield* (yield* MemoryNetwork.MemoryNetwork).settle
        assert.isUndefined(quiet.pollUnsafe())
        assert.deepInclude(yield* client.stats, { packetIds: 0, inFlight: 0 })
      })))

    it.effect("law 10: another client id is another session", () =>
      run(Effect.gen(function*() {
        const { client, listener, peer } = yield* open({ sessionExpiry: "1 hour", clientId: "c" })
        const { publish } = yield* publishing(client, peer, 2)
        const reconnect = yield* start(client.reconnect((options) => ({ ...options, clientId: "d" })))
        const newPeer = yield* handshake(listener)
        assert.isTrue(decodeConnect(newPeer.connect).clean)
        yield* Fiber.join(reconnect)
        assert.strictEqual((yield* reasonOf(Fiber.join(publish)))._tag, "SessionLost")
      })))

    it.effect("law 10: a broker that lost the session is told of QoS 1 anew", () =>
      run(Effect.gen(function*() {
        const { client, listener, peer } = yield* open({ sessionExpiry: "1 hour", clientId: "c" })
        const { publish } = yield* publishing(client, peer, 1)
        const reconnect = yield* start(client.reconnect())
        const newPeer = yield* handshake(listener)
        assert.isFalse(decodeConnect(newPeer.connect).clean)
        yield* Fiber.join(reconnect)
        const packet = yield* next(newPeer)
        assert.match(packet, /^32 /)
        yield* newPeer.sendHex(`40 02 ${packet.slice(15, 20)}`)
        yield* Fiber.join(publish)
      })))

    it.effect("a session that is kept survives a change from 5 to 4 and back", () =>
      run(Effect.gen(function*() {
        const { client, listener, peer } = yield* open({ sessionExpiry: "1 hour", clientId: "c" })
        const { publish } = yield* publishing(client, peer, 1)
        const down = yield* start(client.reconnect((options) => ({ ...options, protocolVersion: 4 })))
        const second = yield* handshake(listener, resumed[4])
        assert.deepInclude(decodeConnect(second.connect), { version: 4, clean: false })
        yield* Fiber.join(down)
        yield* expectPackets(second, "3a 06 00 01 61 00 01 78")
        const up = yield* start(client.reconnect((options) => ({ ...options, protocolVersion: 5 })))
        assert.deepStrictEqual(yield* readToEnd(second), { packets: ["e0 00"], how: "fin" })
        const third = yield* handshake(listener, resumed[5])
        yield* Fiber.join(up)
        yield* expectPackets(third, "3a 07 00 01 61 00 01 00 78")
        yield* third.sendHex("40 02 00 01")
        yield* Fiber.join(publish)
      })))
  })

  describe("while connecting", () => {
    it.effect("ends a dial that hangs, and whoever waited for it learns by what", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const other = yield* listen("other")
        yield* network.failDials({ host: "broker" }, "silent")
        const { client } = yield* build()
        const resume = yield* start(client.resume)
        yield* network.settle
        const reconnect = yield* start(client.reconnect({ endpoint: "mqtt://other" }))
        yield* handshake(other)
        yield* Fiber.join(reconnect)
        assert.deepInclude(yield* reasonOf(Fiber.join(resume)), { _tag: "ConnectInterrupted", by: "reconnect" })
        assert.strictEqual(network.dials[0]!.outcome, "interrupted")
        assert.strictEqual(network.openConnections, 1)
      })))

    it.effect("a broker that has CONNECT and may have a will gets DISCONNECT", () =>
      run(Effect.gen(function*() {
        const broker = yield* listen("broker")
        const other = yield* listen("other")
        const { client } = yield* build({ will: { topic: "gone" } })
        const peer = yield* broker.accept
        yield* next(peer)
        const reconnect = yield* start(client.reconnect({ endpoint: "mqtt://other" }))
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 00"], how: "fin" })
        yield* handshake(other)
        yield* Fiber.join(reconnect)
      })))

    it.effect("on 3.1.1 a connection that is only there to discard a session has no will", () =>
      run(Effect.gen(function*() {
        const broker = yield* listen("broker")
        const { client } = yield* build({ protocolVersion: 4, sessionExpiry: "1 hour", will: { topic: "w" } })
        const flags: Array<string> = []
        for (let connection = 0; connection < 2; connection++) {
          flags.push((yield* handshake(broker, accepted[4])).connect.slice(27, 29))
        }
        yield* client.awaitConnected
        // Clean Session alone; then the will without it.
        assert.deepStrictEqual(flags, ["02", "04"])
      })))

    it.effect("a broker that takes nothing after CONNECT holds up the command for disconnectTimeout, and is aborted", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const first = yield* open({ clientId: "c" })
        // Just room for CONNECT.
        const windowBytes = first.peer.received.length
        const full = yield* network.listen({ host: "full", windowBytes })
        yield* network.setLatency("1 second")
        const connecting = yield* start(
          Effect.exit(
            first.client.reconnect({ endpoint: "mqtt://full", clientId: "c", disconnectTimeout: "3 seconds" })
          )
        )
        yield* TestClock.adjust("1 second")
        yield* TestClock.adjust("1 second")
        const peer = yield* full.accept
        yield* peer.stallReads
        yield* network.settle
        assert.strictEqual(peer.outstandingBytes, windowBytes)
        const pause = yield* start(first.client.pause)
        yield* TestClock.adjust("2999 millis")
        assert.isTrue(peer.isWriteBlocked)
        assert.isUndefined(pause.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        yield* Fiber.join(pause)
        yield* Fiber.join(connecting)
        assert.strictEqual((yield* peer.closed).how, "abort")
      })))

    it.effect("a second reconnect wins over the first", () =>
      run(Effect.gen(function*() {
        const { client } = yield* open()
        const [second, third] = [yield* listen("second"), yield* listen("third")]
        const first = yield* start(client.reconnect({ endpoint: "mqtt://second" }))
        const peer = yield* second.accept
        yield* next(peer)
        const last = yield* start(client.reconnect({ endpoint: "mqtt://third" }))
        yield* handshake(third)
        yield* Fiber.join(last)
        assert.deepInclude(yield* reasonOf(Fiber.join(first)), { _tag: "ConnectInterrupted", by: "reconnect" })
      })))
  })

  describe("while waiting to retry", () => {
    it.effect("does not wait any longer, and starts the delays anew", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.refuse("broker")
        const { client } = yield* build()
        yield* awaitStatus(client, "Reconnecting")
        for (let attempt = 2; attempt < 6; attempt++) {
          yield* TestClock.adjust("1 minute")
          yield* network.settle
        }
        const dials = network.dials.length
        const other = yield* listen("other")
        const at = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
        const reconnect = yield* start(client.reconnect({ endpoint: "mqtt://other" }))
        const peer = yield* handshake(other)
        yield* Fiber.join(reconnect)
        assert.strictEqual(network.dials.length, dials + 1)
        assert.strictEqual(network.dials.at(-1)!.at, at)
        yield* peer.reset
        const waiting = yield* awaitStatus(client, "Reconnecting")
        assert.isTrue(waiting.delayMillis >= 500 && waiting.delayMillis <= 1_000)
        assert.strictEqual(waiting.attempt, 1)
      })))
  })

  describe("while paused", () => {
    it.effect("connects with the new options, with the session of the old connection", () =>
      run(Effect.gen(function*() {
        const { client, listener, peer } = yield* open({ sessionExpiry: "1 hour", clientId: "c" })
        const { publish } = yield* publishing(client, peer, 1)
        yield* client.pause
        const reconnect = yield* start(client.reconnect((options) => ({ ...options, keepAlive: "5 seconds" })))
        const newPeer = yield* handshake(listener, resumed[5])
        assert.deepInclude(decodeConnect(newPeer.connect), { keepAlive: 5, clean: false })
        yield* Fiber.join(reconnect)
        yield* expectPackets(newPeer, "3a 07 00 01 61 00 01 00 78")
        yield* newPeer.sendHex("40 02 00 01")
        yield* Fiber.join(publish)
      })))
  })

  describe("while halted", () => {
    it.effect("ends the halt: after a permanent refusal with the right credentials", () =>
      run(Effect.gen(function*() {
        const listener = yield* listen("broker")
        const { client } = yield* build()
        yield* handshake(listener, refused.badCredentials)
        yield* awaitStatus(client, "Halted")
        const reconnect = yield* start(client.reconnect({
          endpoint: "mqtt://broker",
          credentials: { username: "u", password: Redacted.make("right") }
        }))
        const peer = yield* handshake(listener)
        assert.strictEqual(decodeConnect(peer.connect).password, "right")
        yield* Fiber.join(reconnect)
        yield* client.publish({ topic: "a", payload: x })
        yield* expectPackets(peer, "30 05 00 01 61 00 78")
      })))
  })

  describe("failure", () => {
    it.effect("a permanent refusal fails typed and halts; nothing more is dialled", () =>
      run(Effect.gen(function*() {
        const { client, listener, network } = yield* open()
        const pending = yield* start(client.awaitConnected)
        yield* Fiber.join(pending)
        const reconnect = yield* start(client.reconnect({ endpoint: "mqtt://broker", credentials: { username: "u" } }))
        yield* handshake(listener, refused.badCredentials)
        const reason = yield* reasonOf(Fiber.join(reconnect))
        assert.deepInclude(reason, { _tag: "ConnectRefused", reasonCode: 0x86 })
        assert.strictEqual(yield* described(client), "Halted ConnectRefused")
        const publish = yield* reasonOf(client.publish({ topic: "a", qos: 1 }))
        assert.deepInclude(publish, { _tag: "PublishAbandoned", phase: "queued" })
        const { activity } = network
        yield* TestClock.adjust("1 day")
        yield* network.settle
        assert.strictEqual(network.activity, activity)
        assert.strictEqual(network.openConnections, 0)
      })))

    for (const firstConnect of ["fail", "retry"] as const) {
      it.effect(`a retryable refusal fails typed and goes on trying with the new options (firstConnect ${firstConnect})`, () =>
        run(Effect.gen(function*() {
          const { client } = yield* open({ firstConnect })
          const other = yield* listen("other")
          const reconnect = yield* start(client.reconnect({ endpoint: "mqtt://other", clientId: "new" }))
          yield* handshake(other, refused.busy)
          assert.deepInclude(yield* reasonOf(Fiber.join(reconnect)), { _tag: "ConnectRefused", reasonCode: 0x89 })
          yield* awaitStatus(client, "Reconnecting")
          assert.strictEqual(yield* described(client), "Reconnecting ConnectRefused")
          yield* TestClock.adjust("1 second")
          yield* handshake(other)
          yield* awaitStatus(client, "Connected")
          assert.strictEqual(yield* described(client), "Connected new")
        })))
    }

    it.effect("goes on trying too if no connection ever was and the new options leave firstConnect at its default", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.refuse("broker")
        const other = yield* listen("other")
        const { client } = yield* build()
        yield* awaitStatus(client, "Reconnecting")
        const reconnect = yield* start(client.reconnect({ endpoint: "mqtt://other" }))
        yield* handshake(other, refused.busy)
        assert.strictEqual((yield* reasonOf(Fiber.join(reconnect)))._tag, "ConnectRefused")
        yield* awaitStatus(client, "Reconnecting")
        yield* TestClock.adjust("1 second")
        yield* handshake(other)
        yield* awaitStatus(client, "Connected")
      })))

    it.effect("a server that is silent fails as ConnectTimeout after exactly connectTimeout", () =>
      run(Effect.gen(function*() {
        const { client } = yield* open()
        const other = yield* listen("other")
        const reconnect = yield* start(
          Effect.timed(Effect.exit(client.reconnect({ endpoint: "mqtt://other", connectTimeout: "3 seconds" })))
        )
        yield* other.accept
        yield* TestClock.adjust("3 seconds")
        const [, exit] = yield* Fiber.join(reconnect)
        const reason = yield* reasonOf(exit)
        assert.deepInclude(reason, { _tag: "ConnectTimeout", phase: "connack", timeoutMillis: 3_000 })
      })))

    it.effect("a function that throws is its caller's defect and changes nothing", () =>
      run(Effect.gen(function*() {
        const { client, network } = yield* open()
        const { activity } = network
        const exit = yield* Effect.exit(client.reconnect(() => {
          throw new Error("boom")
        }))
        assert.isTrue(Exit.hasDies(exit))
        yield* network.settle
        assert.strictEqual(network.activity, activity)
        assert.strictEqual((yield* client.status)._tag, "Connected")
      })))

    it.effect("interrupting the caller does not take the command back", () =>
      run(Effect.gen(function*() {
        const { client } = yield* open()
        const other = yield* listen("other")
        const reconnect = yield* start(client.reconnect({ endpoint: "mqtt://other", clientId: "new" }))
        const peer = yield* other.accept
        yield* next(peer)
        yield* Fiber.interrupt(reconnect)
        yield* peer.sendHex(accepted[5])
        yield* awaitStatus(client, "Connected")
        assert.strictEqual(yield* described(client), "Connected new")
      })))
  })
})
