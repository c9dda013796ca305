/**
 * What tests of receiving have in common: a subscription that a scripted server grants, and a link that is lost.
 */
import { Effect, Exit, Fiber, Scope } from "effect"
import { TestClock } from "effect/testing"
import type mqttPacket from "mqtt-packet"
import type * as MqttClient from "../../src/layers/MqttClient.ts"
import type { SubscribeError } from "../../src/services/MqttError.ts"
import { MemoryNetwork } from "../../src/testing/index.ts"
import { awaitStatus, handshake, inWords, send, start } from "./ScriptedBroker.ts"
import type { Peer } from "./ScriptedBroker.ts"

export type Version = 4 | 5

/** Options of a session that outlives its connections. */
export const persistent = { clientId: "c", cleanStart: false, sessionExpiry: "1 hour" } as const

export const suback = (messageId: number, ...granted: Array<number>): mqttPacket.Packet => ({
  cmd: "suback",
  messageId,
  granted
})

export const unsuback = (messageId: number, ...granted: Array<number>): mqttPacket.Packet => ({
  cmd: "unsuback",
  messageId,
  granted
})

/** The reason of a subscription that fails. */
export const reasonOf = <A, R>(effect: Effect.Effect<A, SubscribeError, R>) =>
  Effect.map(Effect.flip(effect), (error) => error.reason)

/** What a client sends from now on, until nothing more comes; in words. */
export const sent = Effect.fnUntraced(function*(peer: Peer, version: Version) {
  const network = yield* MemoryNetwork.MemoryNetwork
  const packets: Array<string> = []
  const reading = yield* start(
    Effect.forever(Effect.map(peer.readFrame, (frame) => packets.push(inWords(frame, version))))
  )
  yield* network.settle
  yield* Fiber.interrupt(reading)
  return packets
})

/** Starts a subscription in a scope of its own. */
export const subscribing = Effect.fnUntraced(function*(
  client: MqttClient.MqttClientService,
  filters: string | ReadonlyArray<string>,
  options?: MqttClient.SubscribeOptions
) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const fiber = yield* start(Scope.provide(client.subscription(filters, options), scope))
  return { fiber, leave: Scope.close(scope, Exit.void) }
})

/**
 * A subscription in a scope of its own, and the server's grant of what it asks for; older filters that get an identifier by it
 * are granted as well.
 */
export const subscribed = Effect.fnUntraced(function*(
  client: MqttClient.MqttClientService,
  peer: Peer,
  version: Version,
  filters: string | ReadonlyArray<string>,
  options?: MqttClient.SubscribeOptions
) {
  const { fiber, leave } = yield* subscribing(client, filters, options)
  const missing = new Set([filters].flat())
  let words = ""
  while (missing.size > 0) {
    words = inWords(yield* peer.readFrame, version)
    const [, id, ...requests] = words.split(" ")
    const granted = requests.map((request) => {
      const colon = request.lastIndexOf(":")
      missing.delete(request.slice(0, colon))
      return Number(request.slice(colon + 1))
    })
    yield* send(peer, version, suback(Number(id), ...granted))
  }
  return { ...yield* Fiber.join(fiber), leave, words }
})

/** Loses the link and takes the next one. */
export const drop = Effect.fnUntraced(function*(
  { client, listener, peer }: {
    readonly client: MqttClient.MqttClientService
    readonly listener: MemoryNetwork.Listener
    readonly peer: Peer
  },
  connack: string
) {
  yield* peer.reset
  const { delayMillis } = yield* awaitStatus(client, "Reconnecting")
  yield* TestClock.adjust(delayMillis)
  const next = yield* handshake(listener, connack)
  yield* awaitStatus(client, "Connected")
  return next
})
