/**
 * A client for the tests of the kit that does what it is told and nothing else: packets in the shape of `mqtt-packet`, or raw
 * bytes. It is no part of the library, so that the broker is not tested with the codec that it is there to test.
 */
import { Effect, Exit, Scope } from "effect"
import mqttPacket from "mqtt-packet"
import type { Packet } from "mqtt-packet"
import * as Endpoint from "../../src/services/Endpoint.ts"
import { Transport } from "../../src/services/Transport.ts"
import { Hex } from "../../src/testing/index.ts"

export type Json = Record<string, unknown>

export interface ConnectOptions extends Json {
  readonly version?: 4 | 5
  readonly clientId?: string
  readonly host?: string
}

/** Opens a stream, sends nothing. */
export const dial = Effect.fnUntraced(function*(version: 4 | 5 = 5, host = "broker") {
  const scope = yield* Scope.make()
  yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
  const connection = yield* Scope.provide((yield* Transport).connect(Endpoint.tcp(host)), scope)
  const packets: Array<Json> = []
  const parser = mqttPacket.parser({ protocolVersion: version })
  parser.on("packet", (packet) => packets.push(packet as unknown as Json))
  const hex: Array<string> = []

  const next: Effect.Effect<Json, unknown> = Effect.suspend(() => {
    const packet = packets.shift()
    if (packet !== undefined) return Effect.succeed(packet)
    return Effect.flatMap(connection.pull, (chunks) => {
      for (const chunk of chunks) {
        hex.push(Hex.encode(chunk))
        parser.parse(Buffer.from(chunk))
      }
      return next
    })
  })
  /** The next packet, which has to be of this kind. */
  const take = (cmd: string) =>
    Effect.flatMap(next, (packet) =>
      packet["cmd"] === cmd
        ? Effect.succeed(packet)
        : Effect.die(new Error(`expected ${cmd}, got ${JSON.stringify(packet)}`)))
  const send = (packet: Json) =>
    Effect.suspend(() =>
      connection.write(mqttPacket.generate(packet as unknown as Packet, { protocolVersion: version }))
    )
  return {
    connection,
    next,
    take,
    send,
    sendHex: (text: string) => connection.write(Hex.decode(text)),
    /** Chunks as they came, as text. */
    hex,
    /** Waits for the end of the stream, and says which it was. */
    end: Effect.map(Effect.flip(Effect.forever(next)), (error) => (error as { readonly kind: string }).kind),
    ack: (cmd: string, messageId: number, more: Json = {}) => send({ cmd, messageId, reasonCode: 0, ...more }),
    close: Scope.close(scope, Exit.void),
    abort: connection.abort
  }
})

/** CONNECT with clean start, keep alive 0 and the client id `c` unless told otherwise. */
export const connect = ({ clientId = "c", host, version = 5, ...rest }: ConnectOptions = {}) =>
  Effect.flatMap(dial(version, host), (client) => {
    const packet = { cmd: "connect", protocolId: "MQTT", protocolVersion: version, clientId, clean: true, keepalive: 0 }
    return Effect.as(client.send({ ...packet, ...rest }), client)
  })

/** Connected: CONNACK is read. */
export const connected = (options: ConnectOptions = {}) =>
  Effect.flatMap(
    connect(options),
    (client) => Effect.map(client.take("connack"), (connack) => ({ ...client, connack }))
  )
