import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Stream } from "effect"
import { MqttClient, TestBroker } from "effect-mqtt/testing"
import { TestClock } from "effect/testing"

// The service: ends, for somebody to look, when a sensor has said nothing for a day.
const watchSensor = Effect.gen(function*() {
  const mqtt = yield* MqttClient.MqttClient
  yield* mqtt.subscribe("sensor/alive").pipe(Stream.timeout("24 hours"), Stream.runDrain)
  return yield* Clock.currentTimeMillis
})

const hours = (count: number) => count * 60 * 60 * 1000

describe("watchSensor", () => {
  it.effect("notices 24 hours of silence, over a link that died in the meantime", () =>
    Effect.gen(function*() {
      const broker = yield* TestBroker.TestBroker
      const watching = yield* Effect.forkChild(watchSensor)
      yield* broker.expectPacket({ from: "broker", type: "Suback" })

      yield* TestClock.adjust("10 hours")
      yield* broker.publish({ topic: "sensor/alive" })
      yield* broker.settle
      yield* broker.cut((yield* broker.awaitClient()).clientId, "blackHole")
      yield* TestClock.adjust("25 hours")

      // The link was found dead and replaced; the last word of the sensor was at 10 h.
      assert.strictEqual(broker.packetsOf({ from: "client", type: "Connect" }).length, 2)
      assert.strictEqual(yield* Fiber.join(watching), hours(34))
    }).pipe(Effect.provide(MqttClient.layerTest())))
})
