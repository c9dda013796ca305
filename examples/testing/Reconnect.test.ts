import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer } from "effect"
import { MqttClient, TestBroker } from "effect-mqtt/testing"
import { TestClock } from "effect/testing"

// The service: an order is placed once the broker has it.
class Orders extends Context.Service<Orders, {
  readonly place: (id: string) => Effect.Effect<void>
}>()("app/Orders") {
  static readonly layer = Layer.effect(
    Orders,
    Effect.gen(function*() {
      const mqtt = yield* MqttClient.MqttClient
      return Orders.of({
        place: (id) => Effect.orDie(mqtt.publish({ topic: `orders/${id}`, payload: id, qos: 1 }))
      })
    })
  )
}

const Test = Orders.layer.pipe(Layer.provideMerge(MqttClient.layerTest({ sessionExpiry: "1 hour" })))

describe("Orders", () => {
  it.effect("places an order although the link is lost before the answer", () =>
    Effect.gen(function*() {
      const broker = yield* TestBroker.TestBroker
      const orders = yield* Orders
      yield* broker.cutBefore({ from: "broker", type: "Puback" })

      const placing = yield* Effect.forkChild(orders.place("42"))
      const first = yield* broker.expectPacket({ from: "client", type: "Publish" })
      yield* broker.settle
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(placing)

      const again = yield* broker.expectPacket({ from: "client", type: "Publish" })
      assert.isTrue(again.packet.dup)
      assert.strictEqual(again.packet.packetId, first.packet.packetId)
    }).pipe(Effect.provide(Test)))
})
