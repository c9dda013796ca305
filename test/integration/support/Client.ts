/**
 * Our client, over real TCP, and what suites do with it again and again.
 */
import type { Scope } from "effect"
import { Effect, Queue, Schedule, Stream } from "effect"
import { MqttClient } from "../../../src/node.ts"
import type { ClientOptions } from "../../../src/services/ClientOptions.ts"
import type { Message } from "../../../src/services/Message.ts"
import type { MqttClientService } from "../../../src/services/MqttClient.ts"
import type { ConnectError } from "../../../src/services/MqttError.ts"
import type { Status } from "../../../src/services/Status.ts"

/** Connects again at once, so that no suite waits. */
export const quickReconnect = { schedule: Schedule.spaced("10 millis") }

/**
 * What a client under a flood of QoS 1 and 2 needs with these brokers: aedes takes no notice of a client's Receive Maximum,
 * and Mosquitto 2.0.11 goes beyond it once the first acknowledgements came. Both are then disconnected, as the standard says.
 */
export const underLoad = { receiveMaximum: 65_535 }

/** A client that ends with the scope. */
export const make = (options: ClientOptions): Effect.Effect<MqttClientService, ConnectError, Scope.Scope> =>
  MqttClient.make({ reconnect: quickReconnect, ...options })

/** The next status, from the present one on, that has the tag. */
export const awaitStatus = <const Tag extends Status["_tag"]>(client: MqttClientService, tag: Tag) =>
  client.statusChanges.pipe(
    Stream.filter((status): status is Extract<Status, { readonly _tag: Tag }> => status._tag === tag),
    Stream.runHead,
    Effect.flatMap(Effect.fromOption)
  )

/** Runs a stream of messages until the scope closes; the queue has what arrived. */
export const collect = Effect.fnUntraced(function*<E>(messages: Stream.Stream<Message, E>) {
  const queue = yield* Queue.unbounded<Message, E>()
  yield* messages.pipe(
    Stream.runForEach((message) => Queue.offer(queue, message)),
    Effect.onError((cause) => Queue.failCause(queue, cause)),
    Effect.forkScoped
  )
  return queue
})

/** Subscribes, and collects. */
export const subscribe = Effect.fnUntraced(function*(
  client: MqttClientService,
  filters: string | ReadonlyArray<string>,
  options?: Parameters<MqttClientService["subscription"]>[1]
) {
  const subscription = yield* client.subscription(filters, options)
  return yield* collect(subscription.messages)
})
