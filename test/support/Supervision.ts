/**
 * What tests of a client's life say again and again: clients that are built at once, and statuses and failures in short.
 */
import { Effect, Exit, Random, Scope } from "effect"
import mqttPacket from "mqtt-packet"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import type { ConnectError, PublishError, SubscribeError } from "../../src/services/MqttError.ts"
import type { Status } from "../../src/services/Status.ts"
import type { Transport } from "../../src/services/Transport.ts"
import { Hex, MemoryNetwork } from "../../src/testing/index.ts"
import type { Peer } from "./ScriptedBroker.ts"
import { next, run, start } from "./ScriptedBroker.ts"

/** A payload without a payload format, unlike text. */
export const x = Uint8Array.of(0x78)

/** CONNACKs of MQTT 5.0 that refuse: for good, and for now. */
export const refused = { badCredentials: "20 03 00 86 00", busy: "20 03 00 89 00" } as const

export const listen = (host = "broker") =>
  Effect.flatMap(MemoryNetwork.MemoryNetwork, (network) => network.listen({ host }))

/** A client that was built at once and has not connected yet, and the way to close it. */
export const build = Effect.fnUntraced(function*(options: Partial<MqttClient.ClientOptions> = {}) {
  const network = yield* MemoryNetwork.MemoryNetwork
  const scope = yield* Scope.make()
  yield* Effect.addFinalizer((exit) => Scope.close(scope, exit))
  const client = yield* Scope.provide(
    MqttClient.make({ endpoint: "mqtt://broker", firstConnect: "retry", ...options }),
    scope
  )
  return { client, close: Scope.close(scope, Exit.void), network }
})

/** As `run`, with every delay at its lower end: 500 ms, 1 s, 2 s, 4 s, 8 s, 15 s. */
export const runSteady = <A, E>(effect: Effect.Effect<A, E, MemoryNetwork.MemoryNetwork | Transport | Scope.Scope>) =>
  Effect.provideService(run(effect), Random.Random, { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => 0 })

/** A status in short: `Connecting 1`, `Reconnecting 2 in 500`, `Halted ConnectRefused`. */
export const label = (status: Status): string => {
  switch (status._tag) {
    case "Connecting":
      return `Connecting ${status.attempt}`
    case "Reconnecting":
      return `Reconnecting ${status.attempt} in ${status.delayMillis}`
    case "Halted":
      return `Halted ${"reason" in status.cause ? status.cause.reason._tag : status.cause._tag}`
    default:
      return status._tag
  }
}

export const statusOf = (client: MqttClient.MqttClientService) => Effect.map(client.status, label)

/** The reason of a failure. */
export const reasonOf = <A, R>(effect: Effect.Effect<A, unknown, R>) =>
  Effect.map(Effect.flip(effect), (error) => (error as ConnectError | PublishError | SubscribeError).reason)

/** The tag of a failure. */
export const tagOf = <A, R>(effect: Effect.Effect<A, unknown, R>) =>
  Effect.map(Effect.flip(effect), (error) => (error as { readonly _tag: string })._tag)

/** Publishes `x` to "a", and waits until the packet is out. */
export const publishing = Effect.fnUntraced(function*(client: MqttClient.MqttClientService, peer: Peer, qos: 1 | 2) {
  const publish = yield* start(client.publish({ topic: "a", payload: x, qos }))
  return { publish, packet: yield* next(peer) }
})

/** CONNECT as read by a codec that is not ours. */
export const decodeConnect = (connect: string) => {
  const parser = mqttPacket.parser()
  const packets: Array<mqttPacket.IConnectPacket> = []
  parser.on("packet", (packet) => packets.push(packet as mqttPacket.IConnectPacket))
  parser.parse(Buffer.from(Hex.decode(connect)))
  const [packet] = packets
  return {
    version: packet!.protocolVersion,
    clientId: packet!.clientId,
    clean: packet!.clean,
    keepAlive: packet!.keepalive,
    username: packet!.username,
    password: packet!.password?.toString(),
    sessionExpiry: packet!.properties?.sessionExpiryInterval
  }
}

/** The fields of a status that a test wants to look at. */
export const described = (client: MqttClient.MqttClientService) =>
  Effect.map(client.status, (status) => {
    switch (status._tag) {
      case "Connected":
        return `Connected ${status.negotiated.clientId}`
      case "Reconnecting":
      case "Halted":
        return `${status._tag} ${"reason" in status.cause ? status.cause.reason._tag : status.cause._tag}`
      default:
        return status._tag
    }
  })
