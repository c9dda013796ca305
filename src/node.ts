/**
 * `effect-mqtt/node`: the client with its transport on Node.
 *
 * @since 0.1.0
 */
export * as MqttClient from "./layers/NodeMqttClient.ts"
export * as SessionStore from "./layers/store/NodeSessionStore.ts"
export * as NodeTransport from "./layers/transport/NodeTransport.ts"
