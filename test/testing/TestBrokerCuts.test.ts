import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { TestBroker } from "../../src/testing/index.ts"
import { connect, connected } from "./ScriptedClient.ts"

const run = <A, E>(
  effect: Effect.Effect<A, E, Effect.Services<ReturnType<typeof connected>> | TestBroker.TestBroker>
) => Effect.provide(Effect.scoped(effect), TestBroker.layer())

const publish = (messageId: number, options: object = {}) => ({
  cmd: "publish",
  topic: "a",
  payload: String(messageId),
  qos: 1,
  messageId,
  dup: false,
  retain: false,
  ...options
})

const resumed = { clean: false, properties: { sessionExpiryInterval: 3_600 } }

describe("TestBroker: links that are cut", () => {
  it.effect("nothing comes through behind a packet that a black hole took, in neither direction, healed or not", () =>
    run(Effect.gen(function*() {
      const broker = yield* TestBroker.TestBroker
      for (const type of ["Publish", "Puback"] as const) {
        const client = yield* connected({ clientId: type })
        const { peer } = yield* broker.awaitClient(type)
        const from = type === "Publish" ? "client" : "broker"
        yield* broker.cutBefore({ from, type: type as never, clientId: type }, "blackHole")
        yield* client.send(publish(1))
        yield* client.send(publish(2))
        yield* broker.settle
        yield* peer.heal
        yield* client.send(publish(3))
        yield* broker.settle
        const taken = broker.packetsOf({ from: "client", type: "Publish", clientId: type })
        assert.deepStrictEqual(taken.map(({ fate }) => fate), type === "Publish" ? ["cut"] : ["taken"])
        assert.strictEqual(peer.unpulledBytes, 0)
      }
    })))

  it.effect("a packet of a connection that is over takes no rule", () =>
    run(Effect.gen(function*() {
      const broker = yield* TestBroker.TestBroker
      const { release } = yield* broker.hold({ from: "broker", type: "Connack" })
      const first = yield* connect({ clientId: "c" })
      yield* first.send({ cmd: "pingreq" })
      yield* broker.settle
      yield* first.abort
      const rule = yield* broker.drop({ from: "broker", type: "Pingresp" })
      yield* broker.settle
      yield* release
      yield* broker.settle
      assert.strictEqual(rule.hits, 0)
    })))

  it.effect("KA-01: a client that has not seen CONNACK is not silent", () =>
    run(Effect.gen(function*() {
      const broker = yield* TestBroker.TestBroker
      yield* broker.cutAfter({ from: "client", type: "Connect" }, "blackHole")
      yield* connect({ clientId: "c", keepalive: 1 })
      yield* broker.settle
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(broker.clients, [])
      assert.deepStrictEqual(broker.violations, [])
    })))

  it.effect("OR-01: a message that is repeated although it was answered keeps its place", () =>
    run(Effect.gen(function*() {
      const broker = yield* TestBroker.TestBroker
      const session = { clientId: "c", ...resumed }
      const first = yield* connected(session)
      yield* first.send(publish(1))
      yield* first.send(publish(2, { qos: 2 }))
      yield* broker.settle
      yield* first.abort
      // The answers were lost: the client repeats both, and on the first try gets as far as one.
      const second = yield* connected(session)
      yield* second.send(publish(1, { dup: true }))
      yield* broker.settle
      yield* second.abort
      const third = yield* connected(session)
      yield* third.send(publish(1, { dup: true }))
      yield* third.send(publish(2, { qos: 2, dup: true }))
      yield* broker.settle
      assert.deepStrictEqual(broker.violations, [])
    })))

  it.effect("D21: what the limits of a connection forbid to repeat need not be repeated on a later one", () =>
    run(Effect.gen(function*() {
      const broker = yield* TestBroker.TestBroker
      const session = { clientId: "c", ...resumed }
      const first = yield* connected(session)
      yield* first.send(publish(1, { qos: 2 }))
      yield* broker.settle
      yield* first.abort
      yield* broker.connackNext({ properties: { maximumQoS: 1 } })
      const second = yield* connected(session)
      yield* second.abort
      const third = yield* connected(session)
      yield* third.send(publish(2))
      yield* broker.settle
      assert.deepStrictEqual(broker.violations, [])
    })))
})
