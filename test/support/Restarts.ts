/** A client whose process is killed, and another one that begins with what its session store holds. */
import { Effect, Exit, Layer, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Client from "../../src/layers/MqttClient.ts"
import type { ClientOptions } from "../../src/services/ClientOptions.ts"
import { TestBroker, TestSessionStore } from "../../src/testing/index.ts"
import { persistent } from "./Publishes.ts"

/** Broker, network and store of one test. */
export const kit = (options?: TestBroker.TestBrokerOptions) =>
  Layer.mergeAll(TestBroker.layer(options), TestSessionStore.layer)

/** The life of a process that uses the store. It does not come back by itself, so that a kill is the end. */
export const begin = Effect.fnUntraced(function*(version: 4 | 5, options: Partial<ClientOptions> = {}) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const client = yield* Scope.provide(
    Client.make({
      endpoint: "mqtt://broker",
      ...persistent[version],
      reconnect: false,
      drainTimeout: 0,
      ...options
    }),
    scope
  )
  return { client, close: Scope.close(scope, Exit.void) }
})

/** The process is killed: nothing of it reaches the network or the store any more. Only `watcher` is another process. */
export const kill = Effect.fnUntraced(function*() {
  const broker = yield* TestBroker.TestBroker
  const store = yield* TestSessionStore.TestSessionStore
  yield* store.kill
  yield* Effect.forEach(broker.clients, ({ clientId }) => clientId === "watcher" ? Effect.void : broker.cut(clientId))
  yield* broker.settle
})

/** Lets what is under way happen. */
export const settle = Effect.flatMap(TestBroker.TestBroker, ({ settle }) => settle)

export const second = TestClock.adjust("1 second")
