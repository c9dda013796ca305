/**
 * The MQTT client on Node: everything of `MqttClient`, with the transport already provided.
 *
 * @since 0.1.0
 */
import type * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { ClientOptions } from "../services/ClientOptions.ts"
import { MqttClient } from "../services/MqttClient.ts"
import type { MqttClientService } from "../services/MqttClient.ts"
import type { ConnectError } from "../services/MqttError.ts"
import { Transport } from "../services/Transport.ts"
import * as Client from "./MqttClient.ts"
import * as NodeTransport from "./transport/NodeTransport.ts"

export * from "../services/MqttClient.ts"
export type {
  Authentication,
  AuthenticationExchange,
  BrokerEndpoint,
  ClientOptions,
  Credentials,
  DurableSubscription,
  FailoverOptions,
  OutboxOptions,
  ReconnectOptions,
  RefreshOptions,
  SessionLostOptions,
  TakeoverOptions,
  Will
} from "../services/ClientOptions.ts"

// It holds nothing of a connection.
const transport = NodeTransport.make()
const contexts = new WeakMap<object, unknown>()

/** The services with the transport. Clients that are built with the same ones share these, for as long as they live. */
const withTransport = <R>(context: Context.Context<R>): Context.Context<R | Transport> => {
  const known = contexts.get(context)
  if (known !== undefined) return known as Context.Context<R | Transport>
  const added = Context.add(context, Transport, transport)
  contexts.set(context, added)
  return added
}

/**
 * Builds a client in a scope, whose close is the client's. Succeeds after CONNACK, or fails with the typed cause of the first
 * attempt.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: ClientOptions): Effect.Effect<MqttClientService, ConnectError, Scope.Scope> =>
  Effect.updateContext(Client.make(options), withTransport)

/**
 * Builds a client whose options come from an effect that is evaluated at every connection attempt.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeEffect = <E, R>(
  options: Effect.Effect<ClientOptions, E, R>
): Effect.Effect<MqttClientService, ConnectError, Scope.Scope | Exclude<R, Transport>> =>
  Effect.provideService(Client.makeEffect(options), Transport, transport)

const provide = <A, E, R>(self: Layer.Layer<A, E, R | Transport>): Layer.Layer<A, E, Exclude<R, Transport>> =>
  Layer.provide(self, NodeTransport.layer) as Layer.Layer<A, E, Exclude<R, Transport>>

/**
 * The client as a layer. It is built once CONNACK accepted the connection, and fails with the typed cause otherwise.
 *
 * **Example** (A program with a client)
 *
 * ```ts
 * const Mqtt = MqttClient.layer({ endpoint: "mqtt://localhost" })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: ClientOptions): Layer.Layer<MqttClient, ConnectError> => layerFor(MqttClient, options)

/**
 * The client as a layer, under a tag of your own (`MqttClient.Tag`).
 *
 * @category layers
 * @since 0.1.0
 */
export const layerFor = <Self>(
  tag: Context.Key<Self, MqttClientService>,
  options: ClientOptions
): Layer.Layer<Self, ConnectError> => Layer.provide(Client.layerFor(tag, options), NodeTransport.layer)

/**
 * The client as a layer, with options from an effect that is evaluated at every connection attempt.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerEffect = <E, R>(
  options: Effect.Effect<ClientOptions, E, R>
): Layer.Layer<MqttClient, ConnectError, Exclude<Exclude<R, Scope.Scope>, Transport>> =>
  provide(Client.layerEffect(options))

/**
 * The client as a layer, under a tag of your own, with options from an effect.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerEffectFor = <Self, E, R>(
  tag: Context.Key<Self, MqttClientService>,
  options: Effect.Effect<ClientOptions, E, R>
): Layer.Layer<Self, ConnectError, Exclude<Exclude<R, Scope.Scope>, Transport>> =>
  provide(Client.layerEffectFor(tag, options))

/**
 * The client as a layer, with options from `Config`, which are read once.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<ClientOptions>
): Layer.Layer<MqttClient, ConnectError | Config.ConfigError> =>
  Layer.provide(Client.layerConfig(options), NodeTransport.layer)
