import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Queue } from "effect"
import { describeBrokers, describeBrokersAndVersions } from "./support/Brokers.ts"
import * as ChaosProxy from "./support/ChaosProxy.ts"
import * as Handles from "./support/Handles.ts"
import * as MqttJs from "./support/MqttJs.ts"

describeBrokersAndVersions("the harness", (kind, protocolVersion) => {
  it.live("passes messages between independent clients at every QoS", () =>
    Effect.gen(function*() {
      const broker = yield* kind.make()
      const subscriber = yield* MqttJs.connect(broker.url, { protocolVersion })
      yield* subscriber.subscribe("t", 2)
      const publisher = yield* MqttJs.connect(broker.url, { protocolVersion })
      for (const qos of [0, 1, 2] as const) {
        yield* publisher.publish("t", `at ${qos}`, { qos })
        assert.deepStrictEqual(yield* subscriber.take, { topic: "t", payload: `at ${qos}`, qos, retain: false })
      }
    }))

  it.live("refuses bad credentials", () =>
    Effect.gen(function*() {
      const broker = yield* kind.make({ users: { alice: "secret" } })
      yield* MqttJs.connect(broker.url, { protocolVersion, username: "alice", password: "secret" })
      const error = yield* Effect.flip(
        MqttJs.connect(broker.url, { protocolVersion, username: "alice", password: "wrong" })
      )
      assert.match(String(error.cause), /Not authorized|Bad user ?name or password/i)
    }))

  it.live("keeps sessions and retained messages over a restart", () =>
    Effect.gen(function*() {
      const broker = yield* kind.make()
      const session = {
        protocolVersion,
        clientId: "subscriber",
        clean: false,
        ...(protocolVersion === 5 ? { properties: { sessionExpiryInterval: 3600 } } : undefined)
      }
      yield* Effect.scoped(Effect.gen(function*() {
        const subscriber = yield* MqttJs.connect(broker.url, session)
        yield* subscriber.subscribe("t", 1)
      }))
      yield* Effect.scoped(Effect.gen(function*() {
        const publisher = yield* MqttJs.connect(broker.url, { protocolVersion })
        yield* publisher.publish("t", "for later", { qos: 1, retain: true })
      }))
      yield* broker.stop
      yield* Effect.flip(MqttJs.connect(broker.url, { protocolVersion }))
      yield* broker.start
      const subscriber = yield* MqttJs.connect(broker.url, session)
      assert.strictEqual((yield* subscriber.take).payload, "for later")
      const other = yield* MqttJs.connect(broker.url, { protocolVersion })
      yield* other.subscribe("t", 0)
      assert.isTrue((yield* other.take).retain)
    }))
})

describeBrokers("the harness", (kind) => {
  it.live("leaves no socket and no process", () =>
    Effect.gen(function*() {
      const before = yield* Handles.sockets
      yield* Effect.scoped(Effect.gen(function*() {
        const broker = yield* kind.make()
        const proxy = yield* ChaosProxy.make({ port: broker.port })
        const client = yield* MqttJs.connect(proxy.url)
        yield* client.publish("t", "x", { qos: 1 })
      }))
      assert.deepStrictEqual(yield* Handles.sockets, before)
    }))
})

describeBrokers("the proxy", (kind) => {
  const setup = Effect.fnUntraced(function*(plan?: (connection: number) => ChaosProxy.Plan) {
    const broker = yield* kind.make()
    const proxy = yield* ChaosProxy.make({ port: broker.port, plan })
    const direct = yield* MqttJs.connect(broker.url)
    yield* direct.subscribe("#", 1)
    const client = yield* MqttJs.connect(proxy.url, {
      will: { topic: "will", payload: Buffer.from("gone"), qos: 1, retain: false }
    })
    assert.strictEqual(yield* proxy.nextConnection, 0)
    return { proxy, direct, client }
  })

  it.live("passes bytes both ways and counts them", () =>
    Effect.gen(function*() {
      const { client, direct, proxy } = yield* setup()
      yield* client.publish("t", "x".repeat(1000), { qos: 1 })
      assert.strictEqual((yield* direct.take).payload.length, 1000)
      const counts = yield* proxy.counts
      assert.isAtLeast(counts.up, 1000)
      assert.isAtLeast(counts.down, 4)
      assert.deepInclude(counts, { connections: 1, open: 1, resets: 0 })
    }))

  it.live("resets, and the broker publishes the will", () =>
    Effect.gen(function*() {
      const { client, direct, proxy } = yield* setup()
      yield* proxy.resetAll
      yield* client.closed
      assert.strictEqual((yield* direct.take).topic, "will")
      assert.strictEqual(yield* proxy.nextClose, 0)
    }))

  it.live("closes cleanly on the level of TCP, and the broker publishes the will", () =>
    Effect.gen(function*() {
      const { client, direct, proxy } = yield* setup()
      yield* proxy.finAll
      yield* client.closed
      assert.strictEqual((yield* direct.take).topic, "will")
    }))

  it.live("resets after exactly the planned number of bytes", () =>
    Effect.gen(function*() {
      const { client, proxy } = yield* setup((connection) =>
        connection === 0 ? { resetAfter: { direction: "up", bytes: 5000 } } : {}
      )
      yield* Effect.forkChild(client.publish("t", "x".repeat(10_000), { qos: 1 }))
      yield* client.closed
      assert.deepInclude(yield* proxy.counts, { up: 5000, resets: 1 })
    }))

  it.live("swallows a direction, and heals", () =>
    Effect.gen(function*() {
      const { client, direct, proxy } = yield* setup()
      yield* proxy.blackHole("down")
      yield* Effect.forkChild(Effect.ignore(client.publish("t", "no answer", { qos: 1 })))
      assert.strictEqual((yield* direct.take).payload, "no answer")
      yield* Handles.poll(100)
      assert.isTrue(client.client.connected)
      yield* proxy.blackHole("up")
      yield* Effect.forkChild(Effect.ignore(client.publish("t", "into the hole", { qos: 1 })))
      yield* direct.publish("t", "direct", { qos: 1 })
      assert.strictEqual((yield* direct.take).payload, "direct")
      yield* proxy.heal
      yield* client.closed
      const again = yield* MqttJs.connect(proxy.url)
      yield* again.publish("t", "healed", { qos: 1 })
    }))

  it.live("stalls the writes of the client, and heals", () =>
    Effect.gen(function*() {
      const { client, direct, proxy } = yield* setup()
      yield* proxy.stall
      const big = yield* Effect.forkChild(client.publish("t", "x".repeat(32 << 20), { qos: 1 }))
      yield* Handles.poll(200)
      assert.isUndefined(big.pollUnsafe())
      assert.isAbove(client.client.stream.writableLength, 0)
      yield* proxy.heal
      yield* Fiber.join(big)
      assert.strictEqual((yield* direct.take).payload.length, 32 << 20)
    }))

  it.live("refuses connections, and accepts them again", () =>
    Effect.gen(function*() {
      const { client, direct, proxy } = yield* setup()
      yield* proxy.refuse
      const error = yield* Effect.flip(MqttJs.connect(proxy.url))
      assert.match(JSON.stringify(error.cause) + String(error.cause), /ECONNREFUSED/)
      yield* client.publish("t", "the old one stays", { qos: 1 })
      assert.strictEqual((yield* direct.take).payload, "the old one stays")
      yield* proxy.accept
      const again = yield* MqttJs.connect(proxy.url)
      yield* again.publish("t", "back", { qos: 1 })
      assert.strictEqual((yield* Queue.take(direct.messages)).payload, "back")
    }))
})
