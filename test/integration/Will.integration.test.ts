import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { describeBrokersAndVersions } from "./support/Brokers.ts"
import * as ChaosProxy from "./support/ChaosProxy.ts"
import * as Client from "./support/Client.ts"
import * as MqttJs from "./support/MqttJs.ts"

describeBrokersAndVersions("the will", (kind, protocolVersion) => {
  const setup = Effect.gen(function*() {
    const broker = yield* kind.make()
    const proxy = yield* ChaosProxy.make({ port: broker.port })
    const watcher = yield* MqttJs.connect(broker.url, { protocolVersion })
    yield* watcher.subscribe("will/#", 1)
    const options = {
      endpoint: proxy.url,
      protocolVersion,
      will: { topic: "will/a", payload: "gone", qos: 1, retain: false },
      reconnect: false
    } as const
    /** The broker is through with the connection, so a will that was to be published went out before the marker. */
    const assertNoWill = Effect.gen(function*() {
      yield* proxy.nextClose
      yield* watcher.publish("will/marker", "", { qos: 1 })
      assert.strictEqual((yield* watcher.take).topic, "will/marker")
    })
    const assertWill = Effect.gen(function*() {
      assert.deepStrictEqual(yield* watcher.take, { topic: "will/a", payload: "gone", qos: 1, retain: false })
    })
    return { proxy, options, assertNoWill, assertWill }
  })

  it.live("fires when the link is reset", () =>
    Effect.gen(function*() {
      const { assertWill, options, proxy } = yield* setup
      yield* Client.make(options)
      yield* proxy.resetAll
      yield* assertWill
    }))

  it.live("fires when the link is closed without DISCONNECT", () =>
    Effect.gen(function*() {
      const { assertWill, options, proxy } = yield* setup
      yield* Client.make(options)
      yield* proxy.finAll
      yield* assertWill
    }))

  it.live("does not fire on pause, and again not after resume and pause", () =>
    Effect.gen(function*() {
      const { assertNoWill, options } = yield* setup
      const client = yield* Client.make(options)
      yield* client.pause
      yield* assertNoWill
      yield* client.resume
      yield* client.pause
      yield* assertNoWill
    }))

  it.live("does not fire on disconnect", () =>
    Effect.gen(function*() {
      const { assertNoWill, options } = yield* setup
      const client = yield* Client.make(options)
      yield* client.disconnect()
      yield* assertNoWill
    }))

  it.live("does not fire when the scope closes", () =>
    Effect.gen(function*() {
      const { assertNoWill, options } = yield* setup
      yield* Effect.scoped(Client.make(options))
      yield* assertNoWill
    }))

  it.live("does not fire on reconnect", () =>
    Effect.gen(function*() {
      const { assertNoWill, options } = yield* setup
      const client = yield* Client.make(options)
      yield* client.reconnect()
      yield* assertNoWill
    }))

  it.live("fires on disconnect if that is asked for", () =>
    Effect.gen(function*() {
      const { assertWill, options } = yield* setup
      const client = yield* Client.make(options)
      yield* client.disconnect({ reason: "withWill" })
      yield* assertWill
    }))
})
