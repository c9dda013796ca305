import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Queue } from "effect"
import { text } from "../../src/services/Message.ts"
import { describeBrokersAndVersions } from "./support/Brokers.ts"
import * as ChaosProxy from "./support/ChaosProxy.ts"
import * as Client from "./support/Client.ts"
import * as MqttJs from "./support/MqttJs.ts"

describeBrokersAndVersions("a live client", (kind, protocolVersion) => {
  it.live("finds a link that fell silent, and connects again", () =>
    Effect.gen(function*() {
      const broker = yield* kind.make()
      const proxy = yield* ChaosProxy.make({ port: broker.port })
      const client = yield* Client.make({ endpoint: proxy.url, protocolVersion, keepAlive: "1 second" })
      const inbox = yield* Client.subscribe(client, "t", { qos: 1 })
      const lost = yield* Effect.forkChild(Client.awaitStatus(client, "Reconnecting"), { startImmediately: true })
      yield* proxy.blackHole("both")
      const publish = yield* Effect.forkChild(client.publish({ topic: "t", payload: "kept", qos: 1 }))
      const { cause } = yield* Fiber.join(lost)
      assert.strictEqual(cause._tag, "KeepAliveTimeout")
      yield* proxy.heal
      yield* Fiber.join(publish)
      assert.strictEqual(text(yield* Queue.take(inbox)), "kept")
    }))

  it.live("finds a peer that takes nothing while a large message is being written", () =>
    Effect.gen(function*() {
      const broker = yield* kind.make()
      const proxy = yield* ChaosProxy.make({ port: broker.port })
      const client = yield* Client.make({ endpoint: proxy.url, protocolVersion, keepAlive: "1 second" })
      const lost = yield* Effect.forkChild(Client.awaitStatus(client, "Reconnecting"), { startImmediately: true })
      yield* proxy.stall
      // The broker would notice first, and close.
      yield* proxy.blackHole("down")
      const publish = yield* Effect.forkChild(
        client.publish({ topic: "t", payload: new Uint8Array(12 << 20), qos: 1 })
      )
      const { cause } = yield* Fiber.join(lost)
      assert.include(["WriteBlocked", "KeepAliveTimeout"], cause._tag)
      yield* proxy.resetAll
      yield* proxy.heal
      yield* Fiber.join(publish)
    }))

  it.live("pauses under a blocked write, and delivers it after the resume", () =>
    Effect.gen(function*() {
      const broker = yield* kind.make()
      const proxy = yield* ChaosProxy.make({ port: broker.port })
      const client = yield* Client.make({
        endpoint: proxy.url,
        protocolVersion,
        sessionExpiry: "1 hour",
        disconnectTimeout: "200 millis"
      })
      yield* proxy.stall
      const publish = yield* Effect.forkChild(
        client.publish({ topic: "t", payload: new Uint8Array(12 << 20), qos: 1 }),
        { startImmediately: true }
      )
      yield* client.pause
      assert.strictEqual((yield* client.status)._tag, "Paused")
      yield* proxy.resetAll
      yield* proxy.heal
      yield* client.resume
      yield* Fiber.join(publish)
    }))

  it.live("touches nothing while it is paused, and resumes its session after a restart of the broker", () =>
    Effect.gen(function*() {
      const broker = yield* kind.make()
      const proxy = yield* ChaosProxy.make({ port: broker.port })
      const client = yield* Client.make({
        endpoint: proxy.url,
        protocolVersion,
        clientId: "pauser",
        // Mosquitto 2.0.11 does not save sessions that began with a clean start.
        cleanStart: false,
        sessionExpiry: "1 hour"
      })
      const inbox = yield* Client.subscribe(client, "t", { qos: 1 })
      yield* client.pause
      const { connections } = yield* proxy.counts
      yield* broker.stop
      yield* broker.start
      yield* Effect.scoped(Effect.gen(function*() {
        const other = yield* MqttJs.connect(broker.url, { protocolVersion })
        yield* other.publish("t", "while paused", { qos: 1 })
      }))
      const own = yield* Effect.forkChild(client.publish({ topic: "t", payload: "own", qos: 1 }), {
        startImmediately: true
      })
      assert.strictEqual((yield* proxy.counts).connections, connections)
      const negotiated = yield* client.resume
      assert.isTrue(negotiated.sessionPresent)
      yield* Fiber.join(own)
      assert.strictEqual(text(yield* Queue.take(inbox)), "while paused")
      assert.strictEqual(text(yield* Queue.take(inbox)), "own")
    }))

  it.live("moves to another broker and the other protocol version, and its streams go on", () =>
    Effect.gen(function*() {
      const first = yield* kind.make()
      const second = yield* kind.make()
      const client = yield* Client.make({ endpoint: first.url, protocolVersion })
      const inbox = yield* Client.subscribe(client, "t/#", { qos: 1 })
      yield* client.publish({ topic: "t/1", payload: "first", qos: 1 })
      assert.strictEqual(text(yield* Queue.take(inbox)), "first")
      const other = protocolVersion === 4 ? 5 : 4
      const negotiated = yield* client.reconnect((options) => ({
        ...options,
        endpoint: second.url,
        protocolVersion: other,
        clientId: "moved",
        keepAlive: "30 seconds"
      }))
      assert.strictEqual(negotiated.protocolVersion, other)
      assert.strictEqual(negotiated.clientId, "moved")
      const witness = yield* MqttJs.connect(second.url)
      yield* witness.publish("t/2", "second", { qos: 1 })
      assert.strictEqual(text(yield* Queue.take(inbox)), "second")
    }))

  it.live("says why a reconnect was refused, and goes on", () =>
    Effect.gen(function*() {
      const broker = yield* kind.make()
      const gone = yield* kind.make()
      yield* gone.stop
      const client = yield* Client.make({ endpoint: broker.url, protocolVersion })
      const error = yield* Effect.flip(client.reconnect({ endpoint: gone.url, protocolVersion }))
      assert(error._tag === "ConnectError")
      assert.strictEqual(error.reason._tag, "DialFailed")
      assert.include(["Connecting", "Reconnecting"], (yield* client.status)._tag)
      yield* client.reconnect({ endpoint: broker.url, protocolVersion })
      yield* client.publish({ topic: "t", payload: "back", qos: 2 })
    }))
})
