import { assert, describe, it } from "@effect/vitest"
import { Effect, Ref, Stream } from "effect"
import { MqttClient, TestBroker } from "effect-mqtt/testing"
import { TestClock } from "effect/testing"

// The service: books every payment that comes.
const bookPayments = (book: (payment: string) => Effect.Effect<void>) =>
  Effect.gen(function*() {
    const mqtt = yield* MqttClient.MqttClient
    yield* mqtt.subscribe("payments/#", { qos: 2 }).pipe(
      Stream.runForEach((message) => book(new TextDecoder().decode(message.payload)))
    )
  })

const Test = MqttClient.layerTest({ sessionExpiry: "1 hour" })

describe("bookPayments", () => {
  it.effect("books a payment once although the handshake is cut in the middle", () =>
    Effect.gen(function*() {
      const broker = yield* TestBroker.TestBroker
      const booked = yield* Ref.make<ReadonlyArray<string>>([])
      yield* Effect.forkChild(bookPayments((payment) => Ref.update(booked, (all) => [...all, payment])))
      yield* broker.expectPacket({ from: "broker", type: "Suback" })

      // The client's PUBREC does not arrive, so the broker sends the message again.
      yield* broker.cutBefore({ from: "client", type: "Pubrec" })
      yield* broker.publish({ topic: "payments/7", payload: "7 EUR", qos: 2 })
      yield* broker.settle
      yield* TestClock.adjust("1 minute")
      yield* broker.expectPacket({ from: "client", type: "Pubcomp" })

      assert.strictEqual(broker.packetsOf({ from: "broker", type: "Publish" }).length, 2)
      assert.deepStrictEqual(yield* Ref.get(booked), ["7 EUR"])
    }).pipe(Effect.provide(Test)))
})
