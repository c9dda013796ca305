/**
 * The MQTT client of a test: the real one, over the broker and the network in memory.
 *
 * @since 0.1.0
 */
import type * as Context from "effect/Context"
import * as Layer from "effect/Layer"
import * as Client from "../layers/MqttClient.ts"
import type { ClientOptions } from "../services/ClientOptions.ts"
import { MqttClient } from "../services/MqttClient.ts"
import type { MqttClientService } from "../services/MqttClient.ts"
import type { ConnectError } from "../services/MqttError.ts"
import type { MemoryNetwork } from "./MemoryNetwork.ts"
import * as TestBroker from "./TestBroker.ts"

export * from "../layers/MqttClient.ts"

/**
 * The options of a client as a test gives them; the endpoint is `mqtt://broker` unless it says otherwise.
 *
 * @category options
 * @since 0.1.0
 */
export type TestOptions = Partial<ClientOptions>

/** What a test has beside its client. */
type Kit = TestBroker.TestBroker | MemoryNetwork

/**
 * A client that is connected to a `TestBroker` of its own. The broker and the network are provided as well, for what a test
 * steers and observes.
 *
 * **Example** (A service with a client, in three lines)
 *
 * ```ts
 * it.effect("reports the temperature", () =>
 *   Effect.gen(function*() {
 *     yield* (yield* Thermometer).report(21.5)
 *     yield* (yield* TestBroker.TestBroker).expectPacket({ from: "client", type: "Publish" })
 *   }).pipe(Effect.provide(Thermometer.layer.pipe(Layer.provideMerge(MqttClient.layerTest())))))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerTest = (
  options?: TestOptions,
  broker?: TestBroker.TestBrokerOptions
): Layer.Layer<MqttClient | Kit, ConnectError> => layerTestFor(MqttClient, options, broker)

/**
 * The same under a tag of your own (`MqttClient.Tag`).
 *
 * @category layers
 * @since 0.1.0
 */
export const layerTestFor = <Self>(
  tag: Context.Key<Self, MqttClientService>,
  options?: TestOptions,
  broker?: TestBroker.TestBrokerOptions
): Layer.Layer<Self | Kit, ConnectError> =>
  Client.layerFor(tag, { endpoint: "mqtt://broker", ...options }).pipe(Layer.provideMerge(TestBroker.layer(broker)))
