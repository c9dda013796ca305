/**
 * MQTT.js as a client that is not ours: the second opinion of the suites.
 */
import { Effect, Queue, Schema } from "effect"
import mqtt from "mqtt"

export class MqttJsFailed extends Schema.TaggedError<MqttJsFailed>()("MqttJsFailed", { cause: Schema.Defect() }) {}

export interface Received {
  readonly topic: string
  readonly payload: string
  readonly qos: number
  readonly retain: boolean
}

export interface Peer {
  readonly client: mqtt.MqttClient
  readonly subscribe: (filter: string, qos: 0 | 1 | 2) => Effect.Effect<void, MqttJsFailed>
  readonly publish: (
    topic: string,
    payload: string,
    options?: mqtt.IClientPublishOptions
  ) => Effect.Effect<void, MqttJsFailed>
  /** The next message that arrived. */
  readonly take: Effect.Effect<Received>
  /** All messages that arrived and were not taken. */
  readonly messages: Queue.Queue<Received>
  /** Completes once the connection is gone. */
  readonly closed: Effect.Effect<void>
}

/** Connects; it never connects again by itself. Ends with DISCONNECT when the scope closes. */
export const connect = Effect.fnUntraced(function*(url: string, options: mqtt.IClientOptions = {}) {
  const messages = yield* Queue.unbounded<Received>()
  const client = yield* Effect.acquireRelease(
    Effect.callback<mqtt.MqttClient, MqttJsFailed>((resume) => {
      const client = mqtt.connect(url, { reconnectPeriod: 0, ...options })
      client.once("connect", () => resume(Effect.succeed(client)))
      client.on("error", (cause) => {
        client.end(true)
        resume(Effect.fail(new MqttJsFailed({ cause })))
      })
      client.on(
        "message",
        (topic, payload, packet) =>
          void Queue.offerUnsafe(messages, {
            topic,
            payload: payload.toString(),
            qos: packet.qos,
            retain: packet.retain
          })
      )
    }),
    (client) => Effect.callback<void>((resume) => void client.end(!client.connected, {}, () => resume(Effect.void)))
  )
  const settle = (resume: (effect: Effect.Effect<void, MqttJsFailed>) => void) => (cause?: Error | null) =>
    resume(cause == null ? Effect.void : Effect.fail(new MqttJsFailed({ cause })))
  const peer: Peer = {
    client,
    subscribe: (filter, qos) => Effect.callback((resume) => void client.subscribe(filter, { qos }, settle(resume))),
    publish: (topic, payload, options = {}) =>
      Effect.callback((resume) => void client.publish(topic, payload, options, settle(resume))),
    take: Queue.take(messages),
    messages,
    closed: Effect.callback((resume) => {
      if (!client.connected) return resume(Effect.void)
      client.once("close", () => resume(Effect.void))
    })
  }
  return peer
})
