import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import { MemoryNetwork, MqttClient, TestBroker } from "effect-mqtt/testing"

// The program: connects, and says what an operator has to do if the broker will not have it.
const start = (password: string) =>
  Effect.scoped(Layer.build(MqttClient.layer({
    endpoint: "mqtt://broker",
    credentials: { username: "billing", password: Redacted.make(password) }
  }))).pipe(
    Effect.as("started"),
    Effect.catchReason(
      "ConnectError",
      "ConnectRefused",
      (refused) => Effect.succeed(`rotate the password: ${refused.name}`)
    )
  )

const Test = TestBroker.layer({
  authenticate: (connect) => new TextDecoder().decode(connect.password) === "secret" ? 0 : 0x86
})

describe("start", () => {
  it.effect("gives up after bad credentials, at once and for good", () =>
    Effect.gen(function*() {
      const network = yield* MemoryNetwork.MemoryNetwork
      assert.strictEqual(yield* start("wrong"), "rotate the password: Bad User Name or Password")
      assert.strictEqual(network.dials.length, 1)
      assert.strictEqual(yield* start("secret"), "started")
    }).pipe(Effect.provide(Test)))
})
