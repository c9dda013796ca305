export * as Hex from "./Hex.ts"
export * as MemoryNetwork from "./MemoryNetwork.ts"
export * as MqttClient from "./MqttClient.ts"
export * as TestBroker from "./TestBroker.ts"
