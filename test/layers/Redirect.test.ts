import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Redacted, Stream } from "effect"
import { TestClock } from "effect/testing"
import type { ConnectError } from "../../src/services/MqttError.ts"
import { MemoryNetwork } from "../../src/testing/index.ts"
import { awaitStatus, handshake, start } from "../support/ScriptedBroker.ts"
import { build, decodeConnect, listen, runSteady, statusOf } from "../support/Supervision.ts"

const hex = (bytes: ReadonlyArray<number>) => bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ")

const property = (reference: string) => {
  const text = [...new TextEncoder().encode(reference)]
  return [0x1c, text.length >> 8, text.length & 0xff, ...text]
}

/** CONNACK that sends the client to other servers. */
const elsewhere = (reasonCode: 0x9c | 0x9d, reference: string) => {
  const properties = property(reference)
  return hex([0x20, properties.length + 3, 0, reasonCode, properties.length, ...properties])
}

/** DISCONNECT that does. */
const leave = (reasonCode: 0x9c | 0x9d, reference: string) => {
  const properties = property(reference)
  return hex([0xe0, properties.length + 2, reasonCode, properties.length, ...properties])
}

const hosts = (network: MemoryNetwork.MemoryNetwork["Service"]) =>
  network.dials.map(({ address }) => address.replace(":1883", "")).join(" ")

const follow = { redirect: "follow", keepAlive: 0 } as const

describe("redirect", () => {
  it.effect("CK-24p: is not followed unless the options say so: the reference is in the error, and nobody is dialled", () =>
    runSteady(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      const broker = yield* listen()
      yield* listen("other")
      const { client } = yield* build()
      yield* handshake(broker, elsewhere(0x9d, "other"))
      const { cause } = yield* awaitStatus(client, "Halted")
      assert.deepInclude((cause as ConnectError).reason, { _tag: "ConnectRefused", serverReference: "other" })
      yield* TestClock.adjust("1 day")
      assert.strictEqual(hosts(network), "broker")
    })))

  it.effect("CK-24p: of CONNACK is followed at once, with the credentials, and counts as no failure", () =>
    runSteady(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      const [broker, other] = [yield* listen(), yield* network.listen({ host: "other", port: 1884 })]
      const credentials = { username: "u", password: Redacted.make("secret") }
      const { client } = yield* build({ ...follow, credentials })
      const seen: Array<unknown> = []
      yield* start(Stream.runForEach(client.events, (event) => Effect.sync(() => seen.push(event))))
      yield* network.settle
      yield* handshake(broker, elsewhere(0x9c, "other:1884"))
      const peer = yield* handshake(other)
      const status = yield* awaitStatus(client, "Connected")
      assert.strictEqual(status.endpoint, "mqtt://other:1884")
      assert.strictEqual(decodeConnect(peer.connect).password, "secret")
      yield* network.settle
      assert.deepStrictEqual(seen.slice(0, 1), [
        { _tag: "Redirected", from: "mqtt://broker:1883", reference: "other:1884", permanent: false }
      ])
      assert.isFalse(seen.some((event) => (event as { readonly _tag: string })._tag === "ConnectFailed"))
    })))

  it.effect("DC-12p: of DISCONNECT is followed at once", () =>
    runSteady(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      const [broker, other] = [yield* listen(), yield* listen("other")]
      const { client } = yield* build(follow)
      const peer = yield* handshake(broker)
      yield* awaitStatus(client, "Connected")
      yield* peer.sendHex(leave(0x9c, "other"))
      yield* handshake(other)
      const status = yield* awaitStatus(client, "Connected")
      assert.strictEqual(status.endpoint, "mqtt://other:1883")
      assert.strictEqual(hosts(network), "broker other")
      assert.isTrue(network.dials.every(({ at }) => at === 0))
    })))

  it.effect("CK-24p: goes through the list of references", () =>
    runSteady(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      const [broker, other] = [yield* listen(), yield* network.listen({ host: "::1", port: 1884 })]
      const { client } = yield* build(follow)
      yield* handshake(broker, elsewhere(0x9c, "nobody mqtt://wrong [::1]:1884"))
      yield* handshake(other)
      yield* awaitStatus(client, "Connected")
      assert.strictEqual(hosts(network), "broker nobody ::1:1884")
    })))

  for (
    const [code, name, again] of [
      [0x9c, "for now holds until that connection ends", "broker"],
      [0x9d, "for good holds for the life of the client", "other"]
    ] as const
  ) {
    it.effect(name, () =>
      runSteady(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const servers = { broker: yield* listen(), other: yield* listen("other") }
        const { client } = yield* build(follow)
        yield* handshake(servers.broker, elsewhere(code, "other"))
        const peer = yield* handshake(servers.other)
        yield* awaitStatus(client, "Connected")
        const before = network.dials.length
        yield* peer.reset
        yield* awaitStatus(client, "Reconnecting")
        yield* TestClock.adjust("500 millis")
        yield* handshake(servers[again])
        yield* awaitStatus(client, "Connected")
        assert.strictEqual(network.dials[before]?.address, `${again}:1883`)
      })))
  }

  it.effect("for good ends with other options", () =>
    runSteady(Effect.gen(function*() {
      const [broker, other] = [yield* listen(), yield* listen("other")]
      const { client } = yield* build(follow)
      yield* handshake(broker, elsewhere(0x9d, "other"))
      yield* handshake(other)
      yield* awaitStatus(client, "Connected")
      const same = yield* start(client.reconnect())
      yield* handshake(other)
      yield* Fiber.join(same)
      const fresh = yield* start(client.reconnect((options) => ({ ...options })))
      yield* handshake(broker)
      yield* Fiber.join(fresh)
    })))

  describe("over too many servers", () => {
    it.effect("fails typed after three, and backs off", () =>
      runSteady(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const names = ["broker", "x", "y", "z"]
        const { client } = yield* build(follow)
        for (const [index, name] of names.entries()) {
          const listener = yield* listen(name)
          yield* Effect.forkChild(Effect.forever(handshake(listener, elsewhere(0x9c, names[(index + 1) % 4]!))))
        }
        const { cause, delayMillis } = yield* awaitStatus(client, "Reconnecting")
        assert.deepInclude((cause as ConnectError).reason, {
          _tag: "TooManyRedirects",
          servers: names.map((name) => `mqtt://${name}:1883`)
        })
        assert.strictEqual(delayMillis, 500)
        assert.strictEqual(hosts(network), names.join(" "))
        yield* TestClock.adjust("500 millis")
        yield* network.settle
        assert.strictEqual(hosts(network), [...names, ...names].join(" "))
      })))

    it.effect("two that accept us and send us to one another are not asked in a tight loop", () =>
      runSteady(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        for (const [name, other] of [["broker", "other"], ["other", "broker"]] as const) {
          const listener = yield* listen(name)
          yield* Effect.forkChild(Effect.forever(
            Effect.flatMap(handshake(listener), (peer) => peer.sendHex(leave(0x9c, other)))
          ))
        }
        const { client } = yield* build(follow)
        const { cause } = yield* awaitStatus(client, "Reconnecting")
        assert.strictEqual((cause as ConnectError).reason._tag, "TooManyRedirects")
        assert.strictEqual(network.dials.length, 4)
        yield* TestClock.adjust("500 millis")
        yield* network.settle
        assert.strictEqual(network.dials.length, 8)
      })))
  })

  it.effect("to servers of which none answers falls back to the round", () =>
    runSteady(Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      const broker = yield* listen()
      const { client } = yield* build(follow)
      yield* handshake(broker, elsewhere(0x9c, "x y"))
      yield* awaitStatus(client, "Reconnecting")
      assert.strictEqual(hosts(network), "broker x y")
      yield* TestClock.adjust("500 millis")
      yield* handshake(broker)
      yield* awaitStatus(client, "Connected")
    })))

  for (const group of [undefined, "cluster"]) {
    it.effect(`P17: another server is ${group === undefined ? "another session" : "the same session in a group"}`, () =>
      runSteady(Effect.gen(function*() {
        const [broker, other] = [yield* listen(), yield* listen("other")]
        const { client } = yield* build({
          ...follow,
          endpoint: undefined,
          endpoints: [{ endpoint: "mqtt://broker", group }],
          sessionExpiry: "1 hour"
        })
        const peer = yield* handshake(broker)
        yield* awaitStatus(client, "Connected")
        yield* peer.sendHex(leave(0x9c, "other"))
        const { connect } = yield* handshake(other)
        assert.strictEqual(decodeConnect(connect).clean, group === undefined)
        yield* awaitStatus(client, "Connected")
      })))
  }

  it.effect("a reference of a server on 3.1.1 cannot be, and is not followed", () =>
    runSteady(Effect.gen(function*() {
      const broker = yield* listen()
      const { client } = yield* build({ ...follow, protocolVersion: 4 })
      yield* handshake(broker, "20 02 00 03")
      yield* awaitStatus(client, "Reconnecting")
      assert.strictEqual(yield* statusOf(client), "Reconnecting 2 in 500")
    })))
})
