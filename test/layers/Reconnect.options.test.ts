import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Redacted, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import { MemoryNetwork } from "../../src/testing/index.ts"
import { accepted, awaitStatus, handshake, next, open, run, start, watchStatus } from "../support/ScriptedBroker.ts"
import { build, decodeConnect, described, listen, reasonOf, refused } from "../support/Supervision.ts"

/** How a client with the client id "first" comes into each of its states. The dials that fail or hang are to "broker". */
const states = {
  connected: Effect.fnUntraced(function*(options: Partial<MqttClient.ClientOptions>) {
    return (yield* open(options)).client
  }),
  "dialling": Effect.fnUntraced(function*(options: Partial<MqttClient.ClientOptions>) {
    const network = yield* MemoryNetwork.MemoryNetwork
    yield* network.failDials({ host: "broker" }, "silent", { times: 1 })
    yield* listen()
    const { client } = yield* build(options)
    yield* network.settle
    return client
  }),
  "waiting for CONNACK": Effect.fnUntraced(function*(options: Partial<MqttClient.ClientOptions>) {
    const broker = yield* listen()
    const { client } = yield* build(options)
    yield* next(yield* broker.accept)
    return client
  }),
  "waiting to retry": Effect.fnUntraced(function*(options: Partial<MqttClient.ClientOptions>) {
    const broker = yield* listen()
    const { client } = yield* build(options)
    yield* handshake(broker, refused.busy)
    yield* awaitStatus(client, "Reconnecting")
    return client
  }),
  paused: Effect.fnUntraced(function*(options: Partial<MqttClient.ClientOptions>) {
    const { client } = yield* open(options)
    yield* client.pause
    return client
  }),
  halted: Effect.fnUntraced(function*(options: Partial<MqttClient.ClientOptions>) {
    const broker = yield* listen()
    const { client } = yield* build(options)
    yield* handshake(broker, refused.badCredentials)
    yield* awaitStatus(client, "Halted")
    return client
  })
} as const

const before = {
  clientId: "first",
  keepAlive: "20 seconds",
  credentials: { username: "u", password: Redacted.make("old") }
} as const satisfies Partial<MqttClient.ClientOptions>

const other = "mqtt://other"

/** A change of options, and what CONNECT then says. All of them lead to another endpoint as well. */
const changes: Readonly<
  Record<string, readonly [MqttClient.ClientOptions, Partial<ReturnType<typeof decodeConnect>>]>
> = {
  endpoint: [{ ...before, endpoint: other }, { clientId: "first", keepAlive: 20, username: "u", password: "old" }],
  credentials: [
    { ...before, endpoint: other, credentials: { username: "v", password: Redacted.make("new") } },
    { username: "v", password: "new" }
  ],
  "client id": [{ ...before, endpoint: other, clientId: "second" }, { clientId: "second" }],
  "keep alive": [{ ...before, endpoint: other, keepAlive: "7 seconds" }, { keepAlive: 7 }],
  "protocol version": [{ ...before, endpoint: other, protocolVersion: 4 }, { version: 4 }]
}

const invalid = { endpoint: other, will: { topic: "a/#" } } satisfies MqttClient.ClientOptions

describe("reconnect", () => {
  for (const [state, reach] of Object.entries(states)) {
    describe(`while ${state}`, () => {
      for (const [name, [options, expected]] of Object.entries(changes)) {
        it.effect(`connects with another ${name}`, () =>
          run(Effect.gen(function*() {
            const network = yield* MemoryNetwork.MemoryNetwork
            const client = yield* reach(before)
            const listener = yield* listen("other")
            const dials = network.dials.length
            const reconnect = yield* start(client.reconnect(options))
            const peer = yield* handshake(listener, accepted[options.protocolVersion ?? 5])
            const negotiated = yield* Fiber.join(reconnect)
            assert.deepInclude(decodeConnect(peer.connect), expected)
            assert.strictEqual(negotiated.protocolVersion, options.protocolVersion ?? 5)
            assert.strictEqual(yield* described(client), `Connected ${negotiated.clientId}`)
            assert.strictEqual(network.dials.length, dials + 1)
            assert.strictEqual(network.openConnections, 1)
            assert.strictEqual(peer.receivedHex, peer.connect)
          })))
      }

      it.effect("law 13: options that are not valid name the field and change nothing", () =>
        run(Effect.gen(function*() {
          const network = yield* MemoryNetwork.MemoryNetwork
          const client = yield* reach(before)
          yield* network.settle
          const { activity } = network
          const seen = yield* watchStatus(client)
          for (const update of [invalid, () => invalid]) {
            const reason = yield* reasonOf(client.reconnect(update))
            assert.deepInclude(reason, { _tag: "InvalidOptions", option: "will.topic" })
          }
          yield* network.settle
          assert.strictEqual(network.activity, activity)
          assert.strictEqual(seen.length, 1)
          const reconnect = yield* start(client.reconnect((options) => ({ ...options, endpoint: other })))
          const peer = yield* handshake(yield* listen("other"))
          assert.deepInclude(decodeConnect(peer.connect), { clientId: "first", keepAlive: 20, password: "old" })
          yield* Fiber.join(reconnect)
        })))
    })
  }

  describe("of a client whose options come from an effect", () => {
    const evaluated = Effect.fnUntraced(function*() {
      let count = 0
      const options = Effect.sync((): MqttClient.ClientOptions => ({
        endpoint: "mqtt://broker",
        clientId: `c${++count}`
      }))
      const scope = yield* Scope.make()
      yield* Effect.addFinalizer((exit) => Scope.close(scope, exit))
      const broker = yield* listen()
      const building = yield* start(Scope.provide(MqttClient.makeEffect(options), scope))
      const peer = yield* handshake(broker)
      return { broker, client: yield* Fiber.join(building), peer }
    })

    it.effect("evaluates it anew without options", () =>
      run(Effect.gen(function*() {
        const { broker, client, peer } = yield* evaluated()
        assert.strictEqual(decodeConnect(peer.connect).clientId, "c1")
        const reconnect = yield* start(client.reconnect())
        assert.strictEqual(decodeConnect((yield* handshake(broker)).connect).clientId, "c2")
        yield* Fiber.join(reconnect)
      })))

    it.effect("gives a function what was evaluated last, and replaces the effect", () =>
      run(Effect.gen(function*() {
        const { broker, client } = yield* evaluated()
        const reconnect = yield* start(client.reconnect((options) => ({ ...options, keepAlive: "7 seconds" })))
        assert.deepInclude(decodeConnect((yield* handshake(broker)).connect), { clientId: "c1", keepAlive: 7 })
        yield* Fiber.join(reconnect)
        const again = yield* start(client.reconnect())
        assert.deepInclude(decodeConnect((yield* handshake(broker)).connect), { clientId: "c1", keepAlive: 7 })
        yield* Fiber.join(again)
      })))
  })

  it.effect("concurrent functions are applied one after the other, and none is lost", () =>
    run(Effect.gen(function*() {
      const { client, listener } = yield* open({ clientId: "c" })
      const first = yield* start(Effect.exit(client.reconnect((options) => ({ ...options, keepAlive: "7 seconds" }))))
      const second = yield* start(client.reconnect((options) => ({ ...options, clientId: "d" })))
      const peer = yield* handshake(listener)
      yield* Fiber.join(second)
      yield* Fiber.join(first)
      assert.deepInclude(decodeConnect(peer.connect), { clientId: "d", keepAlive: 7 })
    })))

  it.effect("later updateOptions win over an earlier reconnect that has not begun", () =>
    run(Effect.gen(function*() {
      const { client, listener } = yield* open({ clientId: "c" })
      const reconnect = yield* start(client.reconnect({ endpoint: "mqtt://broker", clientId: "d" }))
      yield* client.updateOptions({ endpoint: "mqtt://broker", clientId: "e" })
      yield* handshake(listener)
      yield* Fiber.join(reconnect)
      const again = yield* start(client.reconnect())
      assert.strictEqual(decodeConnect((yield* handshake(listener)).connect).clientId, "e")
      yield* Fiber.join(again)
    })))
})

describe("updateOptions", () => {
  it.effect("leaves the connection alone, and takes effect at the next attempt", () =>
    run(Effect.gen(function*() {
      const { client, network, peer } = yield* open({ clientId: "c" })
      const other = yield* listen("other")
      const { activity } = network
      yield* client.updateOptions({ endpoint: "mqtt://other", clientId: "d", keepAlive: "9 seconds" })
      yield* network.settle
      assert.strictEqual(network.activity, activity)
      assert.strictEqual(yield* described(client), "Connected c")
      yield* peer.reset
      yield* awaitStatus(client, "Reconnecting")
      yield* TestClock.adjust("1 second")
      const newPeer = yield* handshake(other)
      assert.deepInclude(decodeConnect(newPeer.connect), { clientId: "d", keepAlive: 9 })
      yield* awaitStatus(client, "Connected")
    })))

  it.effect("does not change the attempt under way", () =>
    run(Effect.gen(function*() {
      const listener = yield* listen("broker")
      const { client } = yield* build({ clientId: "c" })
      const peer = yield* listener.accept
      yield* client.updateOptions((options) => ({ ...options, clientId: "d" }))
      assert.strictEqual(decodeConnect(yield* next(peer)).clientId, "c")
      yield* peer.sendHex(accepted[5])
      assert.strictEqual((yield* awaitStatus(client, "Connected")).negotiated.clientId, "c")
    })))

  it.effect("gives a function what an earlier call has set", () =>
    run(Effect.gen(function*() {
      const { client, listener } = yield* open({ clientId: "c" })
      yield* client.updateOptions((options) => ({ ...options, keepAlive: "9 seconds" }))
      yield* client.updateOptions((options) => ({ ...options, clientId: "d" }))
      const reconnect = yield* start(client.reconnect((options) => ({ ...options, sessionExpiry: "3 seconds" })))
      const peer = yield* handshake(listener)
      yield* Fiber.join(reconnect)
      assert.deepInclude(decodeConnect(peer.connect), { clientId: "d", keepAlive: 9, sessionExpiry: 3 })
    })))

  it.effect("takes effect with reconnect() and with resume", () =>
    run(Effect.gen(function*() {
      const { client, listener } = yield* open({ clientId: "c" })
      yield* client.updateOptions({ endpoint: "mqtt://broker", clientId: "d" })
      const reconnect = yield* start(client.reconnect())
      assert.strictEqual(decodeConnect((yield* handshake(listener)).connect).clientId, "d")
      yield* Fiber.join(reconnect)
      yield* client.pause
      yield* client.updateOptions({ endpoint: "mqtt://broker", clientId: "e" })
      const resume = yield* start(client.resume)
      assert.strictEqual(decodeConnect((yield* handshake(listener)).connect).clientId, "e")
      yield* Fiber.join(resume)
    })))

  it.effect("law 13: options that are not valid name the field and change nothing", () =>
    run(Effect.gen(function*() {
      const { client, listener } = yield* open({ clientId: "c" })
      const error = yield* Effect.flip(client.updateOptions({ endpoint: "mqtt://broker", keepAlive: "2 days" }))
      assert.deepInclude(error, { _tag: "InvalidOptions", option: "keepAlive" })
      const reconnect = yield* start(client.reconnect())
      assert.strictEqual(decodeConnect((yield* handshake(listener)).connect).clientId, "c")
      yield* Fiber.join(reconnect)
    })))
})
