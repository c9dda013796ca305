import { assert, describe, it } from "@effect/vitest"
import { Clock, DateTime, Effect, Fiber, Redacted, References, Schedule, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import type { ClientEvent } from "../../src/services/Status.ts"
import { MemoryNetwork, TestBroker } from "../../src/testing/index.ts"
import { awaitStatus, handshake, open, readToEnd, start, watchStatus } from "../support/ScriptedBroker.ts"
import { build, decodeConnect, label, listen, refused, runSteady, statusOf } from "../support/Supervision.ts"

const decode = (bytes: Uint8Array | undefined) => new TextDecoder().decode(bytes)

/** Gives tokens that a broker takes for so long, by the clock of the test. */
const tokens = (millis: number) => {
  const ends = new Map<string, number>()
  return {
    ends,
    credentials: Effect.map(Clock.currentTimeMillis, (now): MqttClient.Credentials => {
      const token = `token-${ends.size}`
      ends.set(token, now + millis)
      return { username: "u", password: Redacted.make(token), expiresIn: millis }
    })
  }
}

const watchEvents = Effect.fnUntraced(function*(client: MqttClient.MqttClientService) {
  const seen: Array<ClientEvent> = []
  yield* start(Stream.runForEach(client.events, (event) => Effect.sync(() => seen.push(event))))
  return seen
})

describe("rotation", () => {
  describe("credentials that end", () => {
    it.effect("the connection is renewed in time: DISCONNECT, then CONNECT with new ones, and no failure in between", () =>
      runSteady(Effect.gen(function*() {
        const { client, listener, network, peer } = yield* open({
          keepAlive: 0,
          clientId: "c",
          sessionExpiry: "1 hour",
          credentials: tokens(60_000).credentials
        })
        const [seen, events] = [yield* watchStatus(client), yield* watchEvents(client)]
        yield* TestClock.adjust(53_999)
        yield* network.settle
        assert.strictEqual(network.dials.length, 1)
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 00"], how: "fin" })
        const second = decodeConnect((yield* handshake(listener)).connect)
        yield* network.settle
        assert.strictEqual(decodeConnect(peer.connect).password, "token-0")
        assert.deepStrictEqual([second.password, second.clean], ["token-1", false])
        assert.deepStrictEqual(seen.map(label), ["Connected", "Connecting 1", "Connected"])
        assert.deepStrictEqual(events.map((event) => event._tag), ["Refreshing", "Connected"])
      })))

    for (
      const [name, expiresAt] of [
        ["a DateTime", (now: number) => DateTime.makeUnsafe(now + 60_000)],
        ["a Date", (now: number) => new Date(now + 60_000)],
        ["milliseconds", (now: number) => now + 60_000]
      ] as const
    ) {
      it.effect(`may say so as a moment: ${name}`, () =>
        runSteady(Effect.gen(function*() {
          const { listener } = yield* open({
            keepAlive: 0,
            credentials: Effect.map(Clock.currentTimeMillis, (now) => ({ username: "u", expiresAt: expiresAt(now) }))
          })
          yield* TestClock.adjust(54_000)
          yield* handshake(listener)
        })))
    }

    it.effect("before and jitter say when", () =>
      runSteady(Effect.gen(function*() {
        const { listener, network } = yield* open({
          keepAlive: 0,
          credentials: tokens(60_000).credentials,
          refresh: { before: "20 seconds", jitter: 0 }
        })
        yield* TestClock.adjust(39_999)
        yield* network.settle
        assert.strictEqual(network.dials.length, 1)
        yield* TestClock.adjust(1)
        yield* handshake(listener)
      })))

    it.effect("options from an effect are renewed as well", () =>
      runSteady(Effect.gen(function*() {
        const { credentials } = tokens(60_000)
        const scope = yield* Scope.make()
        yield* Effect.addFinalizer((exit) => Scope.close(scope, exit))
        const broker = yield* listen()
        const making = yield* start(Scope.provide(
          MqttClient.makeEffect(Effect.map(credentials, (credentials) => ({
            endpoint: "mqtt://broker",
            keepAlive: 0,
            credentials
          }))),
          scope
        ))
        const first = yield* handshake(broker)
        yield* Fiber.join(making)
        yield* TestClock.adjust(54_000)
        const second = yield* handshake(broker)
        assert.deepStrictEqual([first, second].map(({ connect }) => decodeConnect(connect).password), [
          "token-0",
          "token-1"
        ])
      })))

    it.effect("that do not come from an effect are left alone, since there are no others", () =>
      runSteady(Effect.gen(function*() {
        const { client, network } = yield* open({ keepAlive: 0, credentials: { username: "u", expiresIn: "1 minute" } })
        yield* TestClock.adjust("1 day")
        yield* network.settle
        assert.strictEqual(network.dials.length, 1)
        assert.strictEqual(yield* statusOf(client), "Connected")
      })))

    it.effect("that have ended when they come do not make a loop", () =>
      runSteady(Effect.gen(function*() {
        const { network } = yield* open({
          keepAlive: 0,
          credentials: Effect.succeed({ username: "u", expiresAt: -1 })
        })
        yield* TestClock.adjust("1 day")
        yield* network.settle
        assert.strictEqual(network.dials.length, 1)
      })))

    it.effect("are had before the connection is given up: until then it stays, and they are asked for with the delays of the schedule", () =>
      runSteady(Effect.gen(function*() {
        let evaluations = 0
        const { client, listener, network } = yield* open({
          keepAlive: 0,
          credentials: Effect.suspend(() => {
            evaluations++
            return evaluations === 2 || evaluations === 3
              ? Effect.fail("down")
              : Effect.succeed({ username: `u${evaluations}`, expiresIn: "1 minute" })
          })
        })
        const [seen, events] = [yield* watchStatus(client), yield* watchEvents(client)]
        yield* TestClock.adjust(54_000)
        yield* network.settle
        yield* TestClock.adjust(500)
        yield* network.settle
        assert.deepStrictEqual([evaluations, network.dials.length], [3, 1])
        yield* TestClock.adjust(1_000)
        assert.strictEqual(decodeConnect((yield* handshake(listener)).connect).username, "u4")
        yield* network.settle
        assert.deepStrictEqual(seen.map(label), ["Connected", "Connecting 1", "Connected"])
        assert.deepStrictEqual(events.map(({ _tag }) => _tag), [
          "RefreshFailed",
          "RefreshFailed",
          "Refreshing",
          "Connected"
        ])
        assert.strictEqual(evaluations, 4)
      })))

    it.effect("that are not to be had until the server ends the connection are asked for by the attempts", () =>
      runSteady(Effect.gen(function*() {
        let isDown = false
        const { client, listener, network, peer } = yield* open({
          keepAlive: 0,
          credentials: Effect.suspend(() =>
            isDown ? Effect.fail("down") : Effect.succeed({ username: "u", expiresIn: "1 minute" })
          )
        })
        isDown = true
        yield* TestClock.adjust("1 minute")
        yield* peer.sendHex("e0 01 87")
        assert.strictEqual((yield* awaitStatus(client, "Reconnecting")).cause._tag, "ServerDisconnected")
        yield* TestClock.adjust("500 millis")
        yield* network.settle
        isDown = false
        yield* TestClock.adjust("1 second")
        yield* handshake(listener)
        yield* awaitStatus(client, "Connected")
      })))

    it.effect("options that are given meanwhile are not kept waiting by the old ones", () =>
      runSteady(Effect.gen(function*() {
        let evaluations = 0
        const { client, listener, network } = yield* open({
          keepAlive: 0,
          credentials: Effect.suspend(() =>
            ++evaluations === 1 ? Effect.succeed({ username: "old", expiresIn: "1 minute" }) : Effect.fail("down")
          )
        })
        yield* TestClock.adjust(54_000)
        yield* network.settle
        yield* client.updateOptions((options) => ({ ...options, credentials: { username: "new" } }))
        yield* TestClock.adjust(500)
        assert.strictEqual(decodeConnect((yield* handshake(listener)).connect).username, "new")
      })))

    for (const command of ["pause", "disconnect", "reconnect", "close"] as const) {
      it.effect(`law 6, law 15: ${command} does not wait for credentials that do not come`, () =>
        runSteady(Effect.gen(function*() {
          let evaluations = 0
          const { client, close, listener, network, peer } = yield* open({
            keepAlive: 0,
            credentials: Effect.suspend(() =>
              ++evaluations === 2 ? Effect.never : Effect.succeed({ username: "u", expiresIn: "1 minute" })
            )
          })
          yield* TestClock.adjust(54_000)
          yield* network.settle
          assert.strictEqual(evaluations, 2)
          const commands = {
            pause: client.pause,
            disconnect: client.disconnect(),
            reconnect: client.reconnect(),
            close: close()
          }
          const commanded = yield* start(Effect.asVoid<unknown, unknown, never>(commands[command]))
          if (command === "reconnect") yield* handshake(listener)
          yield* Fiber.join(commanded)
          assert.strictEqual((yield* readToEnd(peer)).packets.at(-1), "e0 00")
          assert.strictEqual(network.openConnections, command === "reconnect" ? 1 : 0)
        })))
    }

    it.effect("a schedule that dies on the way leaves the rest to the attempt", () =>
      runSteady(Effect.gen(function*() {
        let evaluations = 0
        const { listener } = yield* open({
          keepAlive: 0,
          reconnect: {
            schedule: Schedule.spaced("1 second").pipe(Schedule.modifyDelay(() => Effect.die("mistake")))
          },
          credentials: Effect.suspend(() =>
            ++evaluations === 2 ? Effect.fail("down") : Effect.succeed({ username: "u", expiresIn: "1 minute" })
          )
        })
        yield* TestClock.adjust(54_000)
        yield* handshake(listener)
        assert.strictEqual(evaluations, 3)
      })).pipe(Effect.provideService(References.MinimumLogLevel, "None" as const)))

    it.effect("an effect that hangs does not: it is given up after connectTimeout, and begun again", () =>
      runSteady(Effect.gen(function*() {
        let evaluations = 0
        const { listener, network } = yield* open({
          keepAlive: 0,
          connectTimeout: "2 seconds",
          credentials: Effect.suspend(() =>
            ++evaluations === 2 ? Effect.never : Effect.succeed({ username: "u", expiresIn: "1 minute" })
          )
        })
        yield* TestClock.adjust(54_000)
        yield* network.settle
        yield* TestClock.adjust(2_000)
        yield* network.settle
        yield* TestClock.adjust(500)
        yield* handshake(listener)
        assert.strictEqual(evaluations, 3)
      })))

    it.effect("that the server refuses halt the client", () =>
      runSteady(Effect.gen(function*() {
        const { client, listener } = yield* open({ keepAlive: 0, credentials: tokens(60_000).credentials })
        yield* TestClock.adjust(54_000)
        yield* handshake(listener, refused.badCredentials)
        yield* awaitStatus(client, "Halted")
      })))

    it.effect("a pause ends the renewal with the connection", () =>
      runSteady(Effect.gen(function*() {
        const { client, network } = yield* open({ keepAlive: 0, credentials: tokens(60_000).credentials })
        yield* client.pause
        yield* TestClock.adjust("1 day")
        yield* network.settle
        assert.strictEqual(network.dials.length, 1)
      })))

    it.effect("a renewal stays with the endpoint in use", () =>
      runSteady(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const b = yield* listen("b")
        yield* network.failDials({ host: "a" }, "refused", { times: 1 })
        yield* build({
          endpoint: undefined,
          endpoints: ["mqtt://a", "mqtt://b"],
          failover: { afterLoss: "preferFirst" },
          keepAlive: 0,
          credentials: tokens(60_000).credentials
        })
        yield* handshake(b)
        yield* network.settle
        yield* TestClock.adjust(54_000)
        yield* handshake(b)
        assert.deepStrictEqual(network.dials.map(({ address }) => address), ["a:1883", "b:1883", "b:1883"])
      })))
  })

  it.effect("every: a connection is renewed by its age, whatever it is made with", () =>
    runSteady(Effect.gen(function*() {
      const { client, listener, network } = yield* open({ keepAlive: 0, refresh: { every: "1 hour" } })
      const events = yield* watchEvents(client)
      for (let hour = 1; hour <= 3; hour++) {
        yield* TestClock.adjust("1 hour")
        yield* handshake(listener)
        yield* network.settle
      }
      assert.strictEqual(network.dials.length, 4)
      assert.deepInclude(events[0], { _tag: "Refreshing", why: "age" })
    })))

  it.effect("law 8, law 10: 100 rotations of a token of 2 s, under load in both directions: no message is lost", () => {
    const { credentials, ends } = tokens(2_000)
    let now = () => 0
    return Effect.gen(function*() {
      const broker = yield* TestBroker.TestBroker
      const clock = yield* Clock.Clock
      now = () => clock.currentTimeMillisUnsafe()
      const network = yield* MemoryNetwork.MemoryNetwork
      yield* network.setLatency("5 millis")
      const scope = yield* Effect.scope
      const making = yield* start(Scope.provide(
        MqttClient.make({ endpoint: "mqtt://broker", clientId: "c", sessionExpiry: "1 hour", credentials }),
        scope
      ))
      const tick = Effect.andThen(broker.settle, TestClock.adjust("200 millis"))
      yield* Effect.repeat(tick, { times: 2 })
      const client = yield* Fiber.join(making)
      const incoming: Array<string> = []
      yield* start(
        Stream.runForEach(
          client.subscribe("in/#", { qos: 1 }),
          ({ payload }) => Effect.sync(() => incoming.push(decode(payload)))
        )
      )
      const confirmed: Array<string> = []
      let sent = 0
      while (ends.size < 101) {
        const payload = `${sent++}`
        yield* start(Effect.tap(
          client.publish({ topic: "out", payload, qos: sent % 2 === 0 ? 1 : 2 }),
          () => Effect.sync(() => confirmed.push(payload))
        ))
        if (sent > 10) yield* broker.publish({ topic: "in/a", payload, qos: 1 })
        yield* tick
        // The token in force never ends on a live connection.
        const end = ends.get(`token-${ends.size - 1}`)!
        assert.isAbove(end, now())
      }
      yield* Effect.repeat(tick, { times: 20 })
      const numbers = Array.from({ length: sent }, (_, index) => `${index}`)
      const unique = (all: ReadonlyArray<string>) => [...new Set(all)].sort((a, b) => Number(a) - Number(b))
      const out = broker.packetsOf({ from: "client", type: "Publish" }).map(({ packet }) => decode(packet.payload))
      assert.deepStrictEqual(unique(confirmed), numbers)
      assert.deepStrictEqual(unique(out), numbers)
      assert.deepStrictEqual(unique(incoming), numbers.slice(10))
      assert.isAtLeast(ends.size, 101)
    }).pipe(
      Effect.scoped,
      Effect.provide(TestBroker.layer({
        // Who comes with a token that has ended is not let in.
        authenticate: (connect) => (ends.get(decode(connect.password)) ?? 0) > now() ? 0 : 0x86
      }))
    )
  }, 120_000)
})
