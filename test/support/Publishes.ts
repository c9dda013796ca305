/** What tests of publishing say again and again. */
import { assert } from "@effect/vitest"
import { Effect, Fiber, Schedule } from "effect"
import { TestClock } from "effect/testing"
import type { OutgoingMessage } from "../../src/services/Message.ts"
import type { MqttClientService, PublishResult } from "../../src/services/MqttClient.ts"
import type { PublishError, PublishReason } from "../../src/services/MqttError.ts"
import type { MemoryNetwork } from "../../src/testing/index.ts"
import type { Peer } from "./ScriptedBroker.ts"
import { awaitStatus, handshake } from "./ScriptedBroker.ts"

const x = new Uint8Array([0x78])

/** A message to `topic` with the payload `x`. */
export const to = (topic: string, qos: 0 | 1 | 2 = 1, rest: Partial<OutgoingMessage> = {}): OutgoingMessage => ({
  topic,
  payload: x,
  qos,
  ...rest
})

/** The reason of a failed publish, which has to be of this kind, and the phase that the error names. */
export const failure = <Tag extends PublishReason["_tag"]>(
  publish: Fiber.Fiber<PublishResult, PublishError>,
  tag: Tag
) =>
  Effect.map(Effect.flip(Fiber.join(publish)), ({ phase, reason }) => {
    if (reason._tag !== tag) assert.fail(`${reason._tag} is not ${tag}: ${reason.message}`)
    return { phase, reason: reason as Extract<PublishReason, { readonly _tag: Tag }> }
  })

/** What publishes hold: all of it is to be given back. */
export const held = ({ stats }: MqttClientService) =>
  Effect.map(stats, ({ heldBytes, inFlight, packetIds, queued }) => ({ queued, heldBytes, inFlight, packetIds }))

export const nothing = { queued: 0, heldBytes: 0, inFlight: 0, packetIds: 0 }

export const isPending = (fiber: Fiber.Fiber<unknown, unknown>) => fiber.pollUnsafe() === undefined

/** CONNACK of 5.0 with these properties, in hexadecimal digits. */
export const connack = (properties: string, sessionPresent = false): string => {
  const length = properties.replaceAll(" ", "").length / 2
  const hex = (value: number) => value.toString(16).padStart(2, "0")
  return `20 ${hex(3 + length)} ${sessionPresent ? "01" : "00"} 00 ${hex(length)} ${properties}`
}

/** The properties Receive Maximum and Maximum Packet Size. */
export const receiveMaximum = (value: number): string => `21 ${value.toString(16).padStart(4, "0")}`
export const maximumPacketSize = (value: number): string => `27 ${value.toString(16).padStart(8, "0")}`

/** No pings in the way, and exactly a second between a lost link and the next attempt. */
export const steady = { keepAlive: 0, reconnect: { schedule: Schedule.spaced("1 second") } } as const

/** A session that outlives its connection, from the first connection on. */
export const persistent = {
  4: { ...steady, protocolVersion: 4, clientId: "c", cleanStart: false },
  5: { ...steady, protocolVersion: 5, clientId: "c", sessionExpiry: "1 hour" }
} as const

/** The link is reset, and the client has noticed. */
export const drop = (client: MqttClientService, peer: Peer) =>
  Effect.andThen(peer.reset, awaitStatus(client, "Reconnecting"))

/** The next connection after a lost link, answered with `connack`. */
export const again = (listener: MemoryNetwork.Listener, connack: string) =>
  Effect.andThen(TestClock.adjust("1 second"), handshake(listener, connack))
