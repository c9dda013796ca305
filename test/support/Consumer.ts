/**
 * Consumers of message streams that a test looks at: one that takes all there is, and one that is told when to go on.
 */
import { Effect, Queue, Stream } from "effect"
import type { SubscribeError } from "../../src/services/MqttError.ts"
import * as Message from "../../src/services/Message.ts"

type Messages = Stream.Stream<Message.Message, SubscribeError>

/** Takes all messages as they come; `seen` are their payloads. */
export const collect = Effect.fnUntraced(function*(messages: Messages) {
  const seen: Array<string> = []
  const fiber = yield* Effect.forkChild(
    Stream.runForEach(messages, (message) => Effect.sync(() => seen.push(Message.text(message)))),
    { startImmediately: true }
  )
  return { seen, fiber }
})

/** Takes a message, and comes back for more when it is told to. */
export const stepwise = Effect.fnUntraced(function*(messages: Messages) {
  const taken = yield* Queue.unbounded<string>()
  const turns = yield* Queue.unbounded<void>()
  const fiber = yield* Effect.forkChild(
    Stream.runForEach(
      messages,
      (message) => Effect.andThen(Queue.offer(taken, Message.text(message)), Queue.take(turns))
    ),
    { startImmediately: true }
  )
  return {
    fiber,
    /** The payload of the next message. */
    take: Queue.take(taken),
    /** How many messages were taken and not looked at. */
    waiting: Queue.size(taken),
    goOn: Queue.offer(turns, undefined)
  }
})
