/**
 * `effect-mqtt`: the client over any `Transport`. On Node, `effect-mqtt/node` brings one along.
 *
 * @since 0.1.0
 */
export * as Backoff from "./layers/supervision/Backoff.ts"
export * as MqttClient from "./layers/MqttClient.ts"
export * as Packet from "./protocol/Packet.ts"
export * as ReasonCode from "./protocol/ReasonCode.ts"
export * as TopicFilter from "./protocol/TopicFilter.ts"
export * as TopicIndex from "./protocol/TopicIndex.ts"
export * as TopicName from "./protocol/TopicName.ts"
export * as ClientOptions from "./services/ClientOptions.ts"
export * as Endpoint from "./services/Endpoint.ts"
export * as Message from "./services/Message.ts"
export * as MqttError from "./services/MqttError.ts"
export * as SessionStore from "./layers/store/MemorySessionStore.ts"
export * as Status from "./services/Status.ts"
export * as Transport from "./services/Transport.ts"
