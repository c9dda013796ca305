import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Random, Redacted, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as MemorySessionStore from "../../src/layers/store/MemorySessionStore.ts"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import type { ConnectError } from "../../src/services/MqttError.ts"
import { MemoryNetwork, TestBroker } from "../../src/testing/index.ts"
import { accepted, awaitStatus, handshake, resumed, run, start, watchStatus } from "../support/ScriptedBroker.ts"
import {
  build,
  decodeConnect,
  label,
  listen,
  publishing,
  refused,
  runSteady,
  statusOf
} from "../support/Supervision.ts"

const endpoints = ["mqtt://a", "mqtt://b", "mqtt://c"]
const three = { endpoint: undefined, endpoints }

/** A client that is built as its first connect ends. */
const make = Effect.fnUntraced(function*(options: Partial<MqttClient.ClientOptions> = {}) {
  const scope = yield* Scope.make()
  yield* Effect.addFinalizer((exit) => Scope.close(scope, exit))
  return yield* Scope.provide(MqttClient.make({ endpoints, drainTimeout: 0, ...options }), scope)
})

const hosts = (network: MemoryNetwork.MemoryNetwork["Service"]) =>
  network.dials.map(({ address }) => address.replace(":1883", "")).join(" ")

/** The reasons of a failure of several endpoints, with where each happened. */
const causes = ({ reason }: ConnectError) =>
  reason._tag === "AllEndpointsFailed"
    ? reason.failures.map(({ endpoint, reason }) => `${endpoint} ${reason._tag}`)
    : [reason._tag]

describe("failover", () => {
  describe("the first connection", () => {
    it.effect("goes to the next endpoint at once, and says in the status which it is", () =>
      runSteady(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const broker = yield* listen("c")
        yield* network.failDials({ host: "a" }, "refused")
        const { client } = yield* build(three)
        const seen = yield* watchStatus(client)
        yield* handshake(broker)
        yield* awaitStatus(client, "Connected")
        yield* network.settle
        assert.strictEqual(hosts(network), "a b c")
        assert.deepStrictEqual(
          seen.map((status) => `${label(status)} ${"endpoint" in status ? status.endpoint : ""}`),
          [
            "Connecting 1 mqtt://a:1883",
            "Connecting 2 mqtt://b:1883",
            "Connecting 3 mqtt://c:1883",
            "Connected mqtt://c:1883"
          ]
        )
        assert.isTrue(network.dials.every(({ at }) => at === 0))
      })))

    it.effect("law 1: fails after each had its turn, with the cause of each", () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const broker = yield* listen("b")
        yield* network.refuse("c")
        const making = yield* start(Effect.flip(make()))
        yield* handshake(broker, refused.badCredentials)
        const error = yield* Fiber.join(making)
        assert.deepStrictEqual(causes(error), [
          "mqtt://a:1883 NameNotResolved",
          "mqtt://b:1883 ConnectRefused",
          "mqtt://c:1883 DialFailed"
        ])
        assert.include(error.message, "mqtt://b:1883: the server refused the connection: Bad User Name or Password")
        assert.isTrue(error.retryable)
        yield* TestClock.adjust("1 day")
        assert.strictEqual(hosts(network), "a b c")
        assert.strictEqual(network.openConnections, 0)
      })))

    it.effect("fails with the plain cause where there is one endpoint, and names it", () =>
      run(Effect.gen(function*() {
        const error = yield* Effect.flip(make({ endpoints: ["mqtt://a"] }))
        assert.deepStrictEqual([error.reason._tag, error.endpoint], ["NameNotResolved", "mqtt://a:1883"])
      })))

    it.effect("gives each endpoint the whole of connectTimeout", () =>
      runSteady(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const broker = yield* listen("c")
        yield* network.failDials({ host: "a" }, "silent")
        yield* network.failDials({ host: "b" }, "silent")
        const making = yield* start(make({ connectTimeout: "3 seconds" }))
        yield* network.settle
        yield* TestClock.adjust("3 seconds")
        yield* network.settle
        yield* TestClock.adjust("3 seconds")
        yield* handshake(broker)
        yield* Fiber.join(making)
        assert.deepStrictEqual(network.dials.map(({ at }) => at), [0, 3_000, 6_000])
      })))

    it.effect("sends each endpoint its own credentials, or those of the client", () =>
      run(Effect.gen(function*() {
        const [a, b] = [yield* listen("a"), yield* listen("b")]
        let evaluations = 0
        const making = yield* start(make({
          credentials: { username: "shared" },
          endpoints: [
            {
              endpoint: "mqtt://a",
              credentials: Effect.sync(() => ({ username: `own ${++evaluations}`, password: Redacted.make("secret") }))
            },
            "mqtt://b"
          ]
        }))
        const first = decodeConnect((yield* handshake(a, refused.badCredentials)).connect)
        const second = decodeConnect((yield* handshake(b)).connect)
        yield* Fiber.join(making)
        assert.deepStrictEqual([first.username, first.password], ["own 1", "secret"])
        assert.deepStrictEqual([second.username, second.password], ["shared", undefined])
      })))

    it.effect("an effect of credentials that fails is the failure of its endpoint alone", () =>
      run(Effect.gen(function*() {
        const b = yield* listen("b")
        const making = yield* start(make({
          endpoints: [{ endpoint: "mqtt://a", credentials: Effect.fail("no token") }, "mqtt://b"]
        }))
        yield* handshake(b)
        const client = yield* Fiber.join(making)
        assert.strictEqual(yield* statusOf(client), "Connected")
        assert.strictEqual(hosts(yield* MemoryNetwork.MemoryNetwork), "b")
      })))
  })

  describe("rounds", () => {
    it.effect("back off after a full one, at exactly these times", () =>
      runSteady(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const { client } = yield* build(three)
        yield* network.settle
        assert.strictEqual(yield* statusOf(client), "Reconnecting 4 in 500")
        for (let second = 0; second < 16; second++) yield* TestClock.adjust("1 second")
        yield* network.settle
        const times = [0, 500, 1_500, 3_500, 7_500, 15_500]
        assert.deepStrictEqual(network.dials.map(({ at }) => at), times.flatMap((at) => [at, at, at]))
        assert.strictEqual(hosts(network), times.map(() => "a b c").join(" "))
        const status = yield* client.status
        assert.deepStrictEqual(status._tag === "Reconnecting" ? causes(status.cause as ConnectError).length : 0, 3)
      })))

    it.effect("shuffled: the order is drawn with Random, anew for each round", () =>
      Effect.gen(function*() {
        const dialled = (seed: string) =>
          run(Effect.gen(function*() {
            const network = yield* MemoryNetwork.MemoryNetwork
            yield* build({ ...three, failover: { order: "shuffled" } })
            yield* network.settle
            for (let second = 0; second < 100; second++) yield* TestClock.adjust("1 second")
            yield* network.settle
            return hosts(network)
          })).pipe(Random.withSeed(seed))
        const [first, again, other] = [yield* dialled("x"), yield* dialled("x"), yield* dialled("y")]
        assert.strictEqual(first, again)
        assert.notStrictEqual(first, other)
        const rounds = first!.match(/\w \w \w/g)!
        for (const round of rounds) assert.deepStrictEqual(round.split(" ").sort(), ["a", "b", "c"])
        assert.isAbove(new Set(rounds).size, 1)
      }))
  })

  describe("after a loss", () => {
    for (
      const [afterLoss, expected] of [["sticky", "b c a"], ["next", "c a b"], ["preferFirst", "a b c"]] as const
    ) {
      it.effect(`${afterLoss}: ${expected}, at once after a connection that lasted`, () =>
        runSteady(Effect.gen(function*() {
          const network = yield* MemoryNetwork.MemoryNetwork
          const broker = yield* listen("b")
          const { client } = yield* build({ ...three, keepAlive: 0, failover: { afterLoss } })
          const peer = yield* handshake(broker)
          yield* awaitStatus(client, "Connected")
          yield* TestClock.adjust("30 seconds")
          yield* network.refuse("b")
          const before = network.dials.length
          yield* peer.reset
          yield* network.settle
          assert.strictEqual(yield* statusOf(client), "Reconnecting 4 in 500")
          assert.strictEqual(hosts(network).split(" ").slice(before).join(" "), expected)
          assert.isTrue(network.dials.slice(before).every(({ at }) => at === 30_000))
        })))
    }

    it.effect("servers that accept and drop at once are not asked in a tight loop", () =>
      runSteady(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        for (const host of ["a", "b", "c"]) {
          const broker = yield* listen(host)
          yield* Effect.forkChild(Effect.forever(Effect.flatMap(handshake(broker), (peer) => peer.close)))
        }
        yield* build({ ...three, reconnect: { stableAfter: 0 } })
        for (let second = 0; second < 4; second++) {
          yield* network.settle
          yield* TestClock.adjust("1 second")
        }
        yield* network.settle
        // With every connection stable, each round is followed by the first delay.
        assert.isAtMost(network.dials.length, 3 * 9)
      })))
  })

  describe("sessions", () => {
    /** Publishes at `a`, loses it, and gives what `b` sees of it. */
    const move = Effect.fnUntraced(function*(group: string | undefined, connack: string, qos: 1 | 2 = 1) {
      const network = yield* MemoryNetwork.MemoryNetwork
      const [a, b] = [yield* listen("a"), yield* listen("b")]
      const building = yield* start(make({
        clientId: "c",
        sessionExpiry: "1 hour",
        endpoints: [{ endpoint: "mqtt://a", group }, { endpoint: "mqtt://b", group }]
      }))
      const peer = yield* handshake(a)
      const client = yield* Fiber.join(building)
      const { packet, publish } = yield* publishing(client, peer, qos)
      yield* network.refuse("a")
      yield* TestClock.adjust("30 seconds")
      yield* peer.reset
      const other = yield* handshake(b, connack)
      yield* awaitStatus(client, "Connected")
      return { packet, publish, other, clean: decodeConnect(other.connect).clean }
    })

    it.effect("law 10: brokers of one group share them: what was under way goes on, with DUP", () =>
      runSteady(Effect.gen(function*() {
        const { clean, other, packet } = yield* move("cluster", resumed[5])
        const again = yield* other.readFrame
        assert.isFalse(clean)
        assert.strictEqual(again[0], 0x3a)
        assert.strictEqual(packet.slice(0, 2), "32")
      })))

    it.effect("law 10: brokers without a group do not: the session is lost, and QoS 1 published anew", () =>
      runSteady(Effect.gen(function*() {
        const { clean, other } = yield* move(undefined, accepted[5])
        assert.isTrue(clean)
        assert.strictEqual((yield* other.readFrame)[0], 0x32)
      })))

    it.effect("law 10: without a group QoS 2 fails as SessionLost", () =>
      runSteady(Effect.gen(function*() {
        const { publish } = yield* move(undefined, accepted[5], 2)
        const error = yield* Effect.flip(Fiber.join(publish))
        assert.strictEqual(error.reason._tag, "SessionLost")
      })))
  })

  it.effect("law 10: a new process with the session store goes to the broker that holds the session", () =>
    Effect.gen(function*() {
      const a = yield* TestBroker.make({ host: "a" })
      const b = yield* TestBroker.make({ host: "b" })
      const network = yield* MemoryNetwork.MemoryNetwork
      const options = { clientId: "c", sessionExpiry: "1 hour" } as const
      yield* network.failDials({ host: "a" }, "refused", { times: 1 })
      yield* Effect.scoped(make(options))
      yield* b.awaitGone("c")
      yield* make(options)
      const { packet } = b.packetsOf({ from: "client", type: "Connect" }).at(-1)!
      assert.isFalse(packet.cleanStart)
      assert.strictEqual(hosts(network), "a b b")
      assert.deepStrictEqual(a.log, [])
    }).pipe(
      Effect.scoped,
      Effect.provide(MemoryNetwork.layer),
      Effect.provide(MemorySessionStore.layerMemory)
    ))

  describe("refusals for good", () => {
    it.effect("leave the endpoint out; the client goes on with the others", () =>
      runSteady(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const a = yield* listen("a")
        const { client } = yield* build(three)
        yield* handshake(a, refused.badCredentials)
        yield* network.settle
        yield* TestClock.adjust("500 millis")
        yield* network.settle
        assert.strictEqual(hosts(network), "a b c b c")
        assert.strictEqual(yield* statusOf(client), "Reconnecting 6 in 1000")
      })))

    it.effect("halt the client once all have refused, with every cause; resume asks all again", () =>
      runSteady(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const brokers = [yield* listen("a"), yield* listen("b"), yield* listen("c")]
        const { client } = yield* build(three)
        for (const broker of brokers) yield* handshake(broker, refused.badCredentials)
        const { cause } = yield* awaitStatus(client, "Halted")
        assert.deepStrictEqual(causes(cause as ConnectError), endpoints.map((url) => `${url}:1883 ConnectRefused`))
        yield* TestClock.adjust("1 day")
        assert.strictEqual(network.dials.length, 3)
        const resuming = yield* start(client.resume)
        yield* handshake(brokers[0]!, refused.badCredentials)
        yield* handshake(brokers[1]!)
        yield* Fiber.join(resuming)
        assert.strictEqual(hosts(network), "a b c a b")
      })))

    it.effect("updateOptions asks all again", () =>
      runSteady(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const a = yield* listen("a")
        const { client } = yield* build(three)
        yield* handshake(a, refused.badCredentials)
        yield* network.settle
        yield* client.updateOptions((options) => ({ ...options, credentials: { username: "new" } }))
        yield* TestClock.adjust("500 millis")
        assert.strictEqual(decodeConnect((yield* handshake(a)).connect).username, "new")
        yield* awaitStatus(client, "Connected")
      })))
  })

  it.effect("reconnect false: each is tried once, and then the client is halted", () =>
    run(Effect.gen(function*() {
      const { client, network } = yield* build({ ...three, reconnect: false })
      yield* awaitStatus(client, "Halted")
      yield* TestClock.adjust("1 day")
      assert.strictEqual(hosts(network), "a b c")
    })))

  it.effect("a command in the midst of a round starts it anew", () =>
    runSteady(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      const a = yield* listen("a")
      yield* network.failDials({ host: "a" }, "refused", { times: 1 })
      yield* network.failDials({ host: "b" }, "silent")
      const { client } = yield* build(three)
      yield* network.settle
      const reconnecting = yield* start(client.reconnect())
      yield* handshake(a)
      yield* Fiber.join(reconnecting)
      assert.strictEqual(hosts(network), "a b a")
    })))

  it.effect("endpoints from an effect: the list of each attempt counts, and its failure is a failed round", () =>
    runSteady(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      const lists = [["mqtt://a", "mqtt://b"], ["mqtt://a", "mqtt://b"], undefined, ["mqtt://c"]]
      let evaluations = 0
      const scope = yield* Scope.make()
      yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
      const client = yield* Scope.provide(
        MqttClient.makeEffect(Effect.suspend(() => {
          const list = lists[evaluations++]
          return list === undefined
            ? Effect.fail("no list")
            : Effect.succeed<MqttClient.ClientOptions>({ endpoints: list, firstConnect: "retry" })
        })),
        scope
      )
      yield* network.settle
      assert.strictEqual(yield* statusOf(client), "Reconnecting 3 in 500")
      const c = yield* listen("c")
      yield* TestClock.adjust("500 millis")
      yield* network.settle
      assert.strictEqual(yield* statusOf(client), "Reconnecting 4 in 1000")
      yield* TestClock.adjust("1 second")
      yield* handshake(c)
      yield* awaitStatus(client, "Connected")
      assert.strictEqual(hosts(network), "a b c")
    })))

  describe("under load, two of three brokers die in turn", () => {
    const topic = "load"

    /** Publishes QoS 1 until it is told to stop; gives what was confirmed. */
    const load = Effect.fnUntraced(function*(client: MqttClient.MqttClientService) {
      const confirmed: Array<string> = []
      let isRunning = true
      const fibers = yield* Effect.forEach([0, 1, 2, 3], (worker) =>
        start(Effect.gen(function*() {
          for (let index = 0; isRunning; index++) {
            const payload = `${worker} ${index}`
            yield* client.publish({ topic, payload, qos: 1 })
            confirmed.push(payload)
            yield* Effect.sleep("50 millis")
          }
        })))
      return Effect.gen(function*() {
        isRunning = false
        yield* start(TestClock.adjust("1 minute"))
        yield* Effect.forEach(fibers, Fiber.join)
        return confirmed
      })
    })

    const received = (brokers: ReadonlyArray<TestBroker.TestBroker["Service"]>) =>
      new Set(
        brokers.flatMap((broker) =>
          broker.packetsOf({ from: "client", type: "Publish" }).map(({ packet }) =>
            new TextDecoder().decode(packet.payload)
          )
        )
      )

    const spend = (broker: TestBroker.TestBroker["Service"], tenths: number) =>
      Effect.gen(function*() {
        for (let tenth = 0; tenth < tenths; tenth++) {
          yield* broker.settle
          yield* TestClock.adjust("100 millis")
        }
      })

    it.effect("each with sessions of its own: no QoS 1 message is lost", () =>
      Effect.gen(function*() {
        const a = yield* TestBroker.make({ host: "a" })
        const b = yield* TestBroker.make({ host: "b" })
        const c = yield* TestBroker.make({ host: "c" })
        const network = yield* MemoryNetwork.MemoryNetwork
        yield* network.setLatency("5 millis")
        const making = yield* start(
          make({ clientId: "c", sessionExpiry: "1 hour", reconnect: { stableAfter: "5 seconds" } })
        )
        yield* spend(a, 1)
        const client = yield* Fiber.join(making)
        const stop = yield* load(client)
        yield* spend(a, 60)
        yield* a.restart({ sessions: "lose", downFor: "1 hour" })
        yield* spend(b, 60)
        yield* b.awaitClient("c")
        yield* b.restart({ sessions: "lose", downFor: "1 hour" })
        yield* spend(c, 60)
        yield* c.awaitClient("c")
        const confirmed = yield* stop
        const all = received([a, b, c])
        assert.isAbove(confirmed.length, 1_000)
        assert.deepStrictEqual(confirmed.filter((payload) => !all.has(payload)), [])
        for (const broker of [a, b, c]) {
          assert.isAbove(broker.packetsOf({ from: "client", type: "Publish" }).length, 100)
        }
      }).pipe(Effect.scoped, Effect.provide(MemoryNetwork.layer)), 120_000)

    it.effect(
      "that share sessions: no QoS 1 message is lost, and none is sent as a new one twice",
      () =>
        Effect.gen(function*() {
          const cluster = yield* TestBroker.TestBroker
          const network = yield* MemoryNetwork.MemoryNetwork
          yield* network.setLatency("5 millis")
          const group = "cluster"
          const making = yield* start(make({
            clientId: "c",
            sessionExpiry: "1 hour",
            reconnect: { stableAfter: "5 seconds" },
            endpoints: endpoints.map((endpoint) => ({ endpoint, group }))
          }))
          yield* spend(cluster, 1)
          const client = yield* Fiber.join(making)
          const stop = yield* load(client)
          for (const host of ["a", "b"]) {
            yield* spend(cluster, 60)
            yield* network.refuse(host)
            yield* cluster.cut("c")
          }
          yield* spend(cluster, 60)
          const confirmed = yield* stop
          const packets = cluster.packetsOf({ from: "client", type: "Publish" }).map(({ packet }) => packet)
          const first = packets.filter(({ dup }) => !dup).map(({ payload }) => new TextDecoder().decode(payload))
          const all = received([cluster])
          assert.isAbove(confirmed.length, 1_000)
          assert.deepStrictEqual(confirmed.filter((payload) => !all.has(payload)), [])
          assert.strictEqual(new Set(first).size, first.length)
          assert.isTrue(packets.some(({ dup }) => dup))
          assert.strictEqual(hosts(network), "a a b b c")
        }).pipe(Effect.scoped, Effect.provide(TestBroker.layer())),
      60_000
    )
  })

  it.effect("events name the endpoint", () =>
    runSteady(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      const b = yield* listen("b")
      const { client } = yield* build(three)
      const seen: Array<string> = []
      yield* start(Stream.runForEach(client.events, (event) =>
        Effect.sync(() => {
          if (event._tag === "ConnectFailed") seen.push(`${event._tag} ${event.error.endpoint}`)
          if (event._tag === "Connected") seen.push(`${event._tag} ${event.endpoint}`)
        })))
      yield* handshake(b)
      yield* awaitStatus(client, "Connected")
      yield* network.settle
      assert.deepStrictEqual(seen, ["ConnectFailed mqtt://a:1883", "Connected mqtt://b:1883"])
    })))
})
