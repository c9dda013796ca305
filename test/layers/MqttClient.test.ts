import { assert, describe, it } from "@effect/vitest"
import {
  Config,
  ConfigProvider,
  Context,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Redacted,
  Schedule,
  Scope
} from "effect"
import { TestClock } from "effect/testing"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import * as Endpoint from "../../src/services/Endpoint.ts"
import type * as MqttError from "../../src/services/MqttError.ts"
import type { Transport } from "../../src/services/Transport.ts"
import { Hex, MemoryNetwork } from "../../src/testing/index.ts"
import { accepted, awaitStatus, handshake, next, open, readToEnd, run, start } from "../support/ScriptedBroker.ts"

type Options = Partial<MqttClient.ClientOptions>

const text = (value: string) => Hex.encode(new TextEncoder().encode(value))

/** The status of the client that a layer gives. */
const statusOf = <E, R>(layer: Layer.Layer<MqttClient.MqttClient, E, R>) =>
  Effect.provide(Effect.flatMap(MqttClient.MqttClient, (client) => client.status), layer)

const listen = (host = "broker") => Effect.flatMap(MemoryNetwork.MemoryNetwork, (network) => network.listen({ host }))

/** The server takes every connection, and gives the CONNECT packets. */
const acceptAll = Effect.fnUntraced(function*(listener: MemoryNetwork.Listener) {
  const connects: Array<string> = []
  yield* start(Effect.forever(Effect.map(handshake(listener), (peer) => connects.push(peer.connect))))
  return connects
})

const deepFreeze = <A>(value: A): A => {
  if (typeof value === "object" && value !== null && !ArrayBuffer.isView(value) && !Object.isFrozen(value)) {
    Object.freeze(value)
    Object.values(value).forEach(deepFreeze)
  }
  return value
}

describe("MqttClient", () => {
  describe("layer", () => {
    it.effect("is built once where it is provided twice, and twice where it is called twice", () =>
      run(Effect.gen(function*() {
        const listener = yield* listen()
        yield* acceptAll(listener)
        const one = MqttClient.layer({ endpoint: "mqtt://broker" })
        class Second extends MqttClient.Tag<Second>()("test/Second") {}
        yield* statusOf(Layer.merge(one, Layer.provide(Layer.effect(Second, MqttClient.MqttClient), one)))
        assert.strictEqual(listener.peers.length, 1)
        const two = MqttClient.layerFor(Second, { endpoint: "mqtt://broker" })
        yield* statusOf(Layer.merge(one, two))
        assert.strictEqual(listener.peers.length, 3)
      })))

    it.effect("leaves its options as they are, frozen to their depth", () =>
      run(Effect.gen(function*() {
        const make = () => ({
          endpoint: Endpoint.tcp("broker"),
          clientId: "c",
          sessionExpiry: "1 hour" as const,
          credentials: { username: "alice" },
          will: { topic: "w", payload: "x", userProperties: [["a", "b"]] as Array<[string, string]> },
          userProperties: [["a", "b"]] as Array<[string, string]>,
          subscriptions: [{ filter: "a/#", qos: 1 as const }],
          outbox: { maxMessages: 10 },
          onSessionLost: { qos1: "fail" as const },
          reconnect: { stableAfter: "1 second" as const },
          drainTimeout: 0
        })
        const options = deepFreeze(make())
        const listener = yield* listen()
        const building = yield* start(MqttClient.make(options))
        const peer = yield* handshake(listener)
        const client = yield* Fiber.join(building)
        yield* peer.reset
        yield* awaitStatus(client, "Reconnecting")
        yield* TestClock.adjust("1 second")
        yield* handshake(listener)
        yield* start(client.reconnect((same) => same))
        yield* handshake(listener)
        assert.deepStrictEqual(options, make())
      })))

    it.effect("fails on options that are not valid, and dials nobody", () =>
      run(Effect.gen(function*() {
        yield* listen()
        const { reason } = yield* Effect.flip(statusOf(MqttClient.layer({ endpoint: "http://broker" })))
        assert(reason._tag === "InvalidOptions")
        assert.deepInclude(reason, { option: "endpoint", retryable: false })
        assert.include(reason.message, "mqtt://")
        assert.deepStrictEqual((yield* MemoryNetwork.MemoryNetwork).dials, [])
      })))

    it.effect("takes the options when it is built, and not when it is made", () =>
      run(Effect.gen(function*() {
        const options = { endpoint: "mqtt://broker", clientId: "early" }
        const layer = MqttClient.layer(options)
        options.clientId = "late"
        const connects = yield* acceptAll(yield* listen())
        yield* statusOf(layer)
        assert.include(connects[0], text("late"))
      })))
  })

  describe("Tag", () => {
    class Plant extends MqttClient.Tag<Plant>()("test/Plant") {}
    class Cloud extends MqttClient.Tag<Cloud>()("test/Cloud") {}

    it.effect("makes an application talk to two brokers", () =>
      run(Effect.gen(function*() {
        const plant = yield* listen("plant")
        const cloud = yield* listen("cloud")
        const program = Effect.gen(function*() {
          yield* (yield* Plant).publish({ topic: "p", payload: Uint8Array.of(1) })
          yield* (yield* Cloud).publish({ topic: "c", payload: Uint8Array.of(2) })
        })
        const brokers = Layer.mergeAll(
          MqttClient.layerFor(Plant, { endpoint: "mqtt://plant" }),
          MqttClient.layerEffectFor(Cloud, Effect.succeed({ endpoint: "mqtt://cloud", protocolVersion: 4 } as const))
        )
        const running: Effect.Effect<void, MqttError.ConnectError | MqttError.PublishError, Transport> = Effect.provide(
          program,
          brokers
        )
        const fiber = yield* start(running)
        const plantPeer = yield* handshake(plant)
        const cloudPeer = yield* handshake(cloud, accepted[4])
        yield* Fiber.join(fiber)
        assert.deepStrictEqual((yield* readToEnd(plantPeer)).packets, ["30 05 00 01 70 00 01", "e0 00"])
        assert.deepStrictEqual((yield* readToEnd(cloudPeer)).packets, ["30 04 00 01 63 02", "e0 00"])
      })))

    it.effect("fails for the one that is refused, and closes the other", () =>
      run(Effect.gen(function*() {
        const plant = yield* listen("plant")
        const cloud = yield* listen("cloud")
        const building = yield* start(Effect.flip(Effect.scoped(Layer.build(Layer.merge(
          MqttClient.layerFor(Plant, { endpoint: "mqtt://plant" }),
          MqttClient.layerFor(Cloud, { endpoint: "mqtt://cloud" })
        )))))
        const plantPeer = yield* handshake(plant)
        yield* handshake(cloud, "20 03 00 87 00")
        assert.strictEqual((yield* Fiber.join(building)).reason._tag, "ConnectRefused")
        assert.deepStrictEqual((yield* readToEnd(plantPeer)).packets, ["e0 00"])
        assert.strictEqual((yield* MemoryNetwork.MemoryNetwork).openConnections, 0)
      })))
  })

  describe("layerEffect", () => {
    class Tokens
      extends Context.Service<Tokens, { readonly next: Effect.Effect<string, "no token"> }>()("test/Tokens")
    {}

    /** Tokens t1, t2, …, and how often the service itself was built. */
    const tokens = () => {
      const built = { count: 0 }
      let last = 0
      const layer = Layer.effect(
        Tokens,
        Effect.sync(() => {
          built.count++
          return { next: Effect.sync(() => `t${++last}`) }
        })
      )
      return { built, layer }
    }

    const everySecond: Options = { reconnect: { schedule: Schedule.spaced("1 second") }, drainTimeout: 0 }

    it.effect("evaluates the options at every attempt, and takes their requirements once", () =>
      run(Effect.gen(function*() {
        const { built, layer } = tokens()
        const options = Effect.gen(function*() {
          const username = yield* (yield* Tokens).next
          return { endpoint: "mqtt://broker", credentials: { username }, ...everySecond }
        })
        const listener = yield* listen()
        const scope = yield* Scope.make()
        const provided: Layer.Layer<MqttClient.MqttClient, MqttError.ConnectError, Transport> = Layer.provide(
          MqttClient.layerEffect(options),
          layer
        )
        const building = yield* start(Scope.provide(Layer.build(provided), scope))
        const first = yield* handshake(listener)
        const client = Context.get(yield* Fiber.join(building), MqttClient.MqttClient)
        assert.isTrue(first.connect.endsWith(text("t1")), "once for the first attempt")
        for (const token of ["t2", "t3"]) {
          yield* listener.peers[listener.peers.length - 1].reset
          yield* awaitStatus(client, "Reconnecting")
          yield* TestClock.adjust("1 second")
          assert.isTrue((yield* handshake(listener)).connect.endsWith(text(token)))
        }
        assert.strictEqual(built.count, 1)
        yield* Scope.close(scope, Exit.void)
      })))

    it.effect("may give another endpoint at each attempt", () =>
      run(Effect.gen(function*() {
        let attempt = 0
        const network = yield* MemoryNetwork.MemoryNetwork
        const b = yield* listen("b")
        yield* network.refuse("a")
        const building = yield* start(MqttClient.makeEffect(Effect.sync((): MqttClient.ClientOptions => ({
          endpoint: attempt++ % 2 === 0 ? "mqtt://a" : "mqtt://b",
          firstConnect: "retry",
          ...everySecond
        }))))
        const client = yield* Fiber.join(building)
        yield* awaitStatus(client, "Reconnecting")
        yield* TestClock.adjust("1 second")
        yield* handshake(b)
        yield* client.awaitConnected
        assert.deepStrictEqual(network.dials.map((dial) => dial.address), ["a:1883", "b:1883"])
      })))

    it.effect("fails with OptionsUnavailable where the effect does at first, with the cause in it", () =>
      run(Effect.gen(function*() {
        yield* listen()
        const { reason } = yield* Effect.flip(statusOf(MqttClient.layerEffect(Effect.fail("no token" as const))))
        assert(reason._tag === "OptionsUnavailable")
        assert.strictEqual(reason.cause, "no token")
        assert.isTrue(reason.retryable)
        assert.deepStrictEqual((yield* MemoryNetwork.MemoryNetwork).dials, [])
      })))

    it.effect("counts the failure of the effect as a failed attempt later", () =>
      run(Effect.gen(function*() {
        let broken = false
        const options = Effect.suspend((): Effect.Effect<MqttClient.ClientOptions, string> =>
          broken ? Effect.fail("no token") : Effect.succeed({ endpoint: "mqtt://broker", ...everySecond })
        )
        const listener = yield* listen()
        const building = yield* start(MqttClient.makeEffect(options))
        const peer = yield* handshake(listener)
        const client = yield* Fiber.join(building)
        broken = true
        yield* peer.reset
        yield* awaitStatus(client, "Reconnecting")
        yield* TestClock.adjust("1 second")
        const { attempt, cause } = yield* awaitStatus(client, "Reconnecting")
        assert.strictEqual(attempt, 2)
        assert(cause._tag === "ConnectError" && cause.reason._tag === "OptionsUnavailable")
        assert.strictEqual(listener.peers.length, 1, "nobody is dialled without options")
        broken = false
        yield* TestClock.adjust("1 second")
        yield* handshake(listener)
        yield* client.awaitConnected
      })))

    it.effect("halts on options that are not valid, which no later attempt is likely to mend", () =>
      run(Effect.gen(function*() {
        let keepAlive: MqttClient.ClientOptions["keepAlive"] = "1 minute"
        const listener = yield* listen()
        const building = yield* start(
          MqttClient.makeEffect(Effect.sync(() => ({ endpoint: "mqtt://broker", keepAlive, ...everySecond })))
        )
        const peer = yield* handshake(listener)
        const client = yield* Fiber.join(building)
        keepAlive = "1 day"
        yield* peer.reset
        yield* awaitStatus(client, "Reconnecting")
        yield* TestClock.adjust("1 second")
        const { cause } = yield* awaitStatus(client, "Halted")
        assert(cause._tag === "ConnectError" && cause.reason._tag === "InvalidOptions")
        assert.strictEqual(cause.reason.option, "keepAlive")
      })))
  })

  describe("layerConfig", () => {
    const options: Config.Wrap<MqttClient.ClientOptions> = {
      endpoint: Config.String("URL"),
      clientId: Config.String("CLIENT_ID"),
      keepAlive: Config.Duration("KEEP_ALIVE").pipe(Config.withDefault(Duration.minutes(1))),
      protocolVersion: Config.Literals([4, 5], "VERSION").pipe(Config.withDefault(5 as const)),
      credentials: Config.all({ username: Config.String("USER"), password: Config.Redacted("PASSWORD") })
    }

    const provide = (values: Record<string, unknown>) =>
      Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(values)))

    it.effect("reads the options from the configuration", () =>
      run(Effect.gen(function*() {
        const connects = yield* acceptAll(yield* listen())
        const layer: Layer.Layer<MqttClient.MqttClient, MqttError.ConnectError | Config.ConfigError, Transport> =
          MqttClient.layerConfig(options)
        const values = {
          URL: "mqtt://broker",
          CLIENT_ID: "cfg",
          USER: "alice",
          PASSWORD: "hunter2",
          KEEP_ALIVE: "7 seconds"
        }
        const status = yield* statusOf(layer).pipe(provide(values))
        assert(status._tag === "Connected")
        assert.strictEqual(status.negotiated.keepAliveMillis, 7_000)
        assert.include(connects[0], `00 03 ${text("cfg")}`)
        assert.isTrue(connects[0].endsWith(`00 05 ${text("alice")} 00 07 ${text("hunter2")}`))
      })))

    it.effect("fails with ConfigError where something is missing, and with ConnectError where it is wrong", () =>
      run(Effect.gen(function*() {
        yield* listen()
        const values = { URL: "http://broker", CLIENT_ID: "cfg", USER: "alice", PASSWORD: "hunter2" }
        const wrong = yield* Effect.flip(statusOf(MqttClient.layerConfig(options))).pipe(provide(values))
        assert(wrong._tag === "ConnectError" && wrong.reason._tag === "InvalidOptions")
        assert.strictEqual(wrong.reason.option, "endpoint")
        const missing = yield* Effect.flip(statusOf(MqttClient.layerConfig(options))).pipe(
          provide({ URL: "mqtt://broker" })
        )
        assert.strictEqual(missing._tag, "ConfigError")
      })))

    it.effect("takes a Config of the whole as well", () =>
      run(Effect.gen(function*() {
        yield* acceptAll(yield* listen())
        const whole = Config.map(
          Config.String("HOST"),
          (host): MqttClient.ClientOptions => ({ endpoint: `mqtt://${host}` })
        )
        const status = yield* statusOf(MqttClient.layerConfig(whole)).pipe(provide({ HOST: "broker" }))
        assert.strictEqual(status._tag, "Connected")
      })))
  })

  describe("credentials", () => {
    it.effect("may be an effect, which is evaluated at every attempt", () =>
      run(Effect.gen(function*() {
        let count = 0
        const credentials = Effect.sync(() => ({ username: "u", password: Redacted.make(`p${++count}`) }))
        const { client, listener, peer } = yield* open({
          credentials,
          reconnect: { schedule: Schedule.spaced("1 second") }
        })
        assert.isTrue(peer.connect.endsWith(`00 02 ${text("p1")}`))
        yield* peer.reset
        yield* awaitStatus(client, "Reconnecting")
        yield* TestClock.adjust("1 second")
        const second = yield* handshake(listener)
        assert.isTrue(second.connect.endsWith(`00 02 ${text("p2")}`))
        yield* start(client.reconnect())
        assert.isTrue((yield* handshake(listener)).connect.endsWith(`00 02 ${text("p3")}`))
      })))

    it.effect("that cannot be had are a failed attempt: OptionsUnavailable, retryable, with the cause", () =>
      run(Effect.gen(function*() {
        yield* listen()
        const error = yield* Effect.flip(
          MqttClient.make({ endpoint: "mqtt://broker", credentials: Effect.fail(new Error("vault is sealed")) })
        )
        assert(error.reason._tag === "OptionsUnavailable")
        assert.isTrue(error.retryable)
        assert.include(String(error.reason.cause), "vault is sealed")
        assert.deepStrictEqual((yield* MemoryNetwork.MemoryNetwork).dials, [])
      })))

    it.effect("that an effect gives wrong are refused by name, for good", () =>
      run(Effect.gen(function*() {
        yield* listen()
        for (
          const [given, option] of [
            [{ password: "hunter2" }, "credentials.password"],
            [{ user: "alice" }, "credentials.user"],
            [undefined, "credentials"],
            ["alice", "credentials"]
          ]
        ) {
          const error = yield* Effect.flip(MqttClient.make({
            endpoint: "mqtt://broker",
            credentials: Effect.succeed(given) as Effect.Effect<MqttClient.Credentials>
          }))
          assert(error.reason._tag === "InvalidOptions")
          assert.strictEqual(error.reason.option, option)
          assert.isFalse(error.retryable)
        }
      })))

    it.effect("CN-14c: without a user name are refused on 3.1.1, also from an effect", () =>
      run(Effect.gen(function*() {
        yield* listen()
        const error = yield* Effect.flip(MqttClient.make({
          endpoint: "mqtt://broker",
          protocolVersion: 4,
          credentials: Effect.succeed({ password: Redacted.make("hunter2") })
        }))
        assert(error.reason._tag === "InvalidOptions")
        assert.strictEqual(error.reason.option, "credentials.username")
      })))
  })

  describe("close", () => {
    it.effect("law 15: finishes what was taken, and then says DISCONNECT", () =>
      run(Effect.gen(function*() {
        const { client, close, network, peer } = yield* open()
        yield* client.publish({ topic: "a", payload: Uint8Array.of(1) })
        yield* close()
        assert.strictEqual(yield* next(peer), "30 05 00 01 61 00 01")
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 00"], how: "fin" })
        assert.strictEqual(network.openConnections, 0)
      })))
  })
})
