/**
 * `inbox`: a handler whose work and the receipt of its message are one transaction of the session store.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Message } from "../../services/Message.ts"
import type { InboxOptions, MqttClientService, SubscribeOptions } from "../../services/MqttClient.ts"
import { NoSessionStore, SubscribeError } from "../../services/MqttError.ts"
import type { Change, SessionStoreError } from "../../services/SessionStore.ts"
import type { ClientCore } from "../ClientCore.ts"
import { consume } from "./Processing.ts"
import { queueName } from "./Spill.ts"
import type { Handed } from "./Delivery.ts"
import type { Subscriber } from "./Subscriber.ts"

/** The failure of a handler, which is told from one of the store. */
interface HandlerFailure<E> {
  readonly handler: E
}

const inOrder = { concurrency: 1, key: undefined }

/** No publish has this place. */
const noSequence = 0

/**
 * The id under which the store remembers that an inbox has handled a message that it does not take for received, since others
 * have still to take it: it comes again to a later process. It begins with a control character, unlike ids of publishes.
 */
const handledId = (queue: string, deliveryId: string): string => `\u0001inbox ${deliveryId} ${queue}`

/**
 * What the store keeps with the work of the handler: that the message is not to be handed over again. Undefined where there
 * is nothing to keep: what is not of QoS 2 has no identifier that outlives the connection, and what came in a session that is
 * lost will not come again.
 */
const changeOf = (core: ClientCore, queue: string, { aside, receipt }: Handed): Change | undefined => {
  if (aside > 0) return { _tag: "TakenUp", queue, sequence: aside }
  if (receipt === undefined || receipt.qos !== 2 || receipt.isKept) return undefined
  if (core.inbox.standing(receipt)._tag === "SessionLost") return undefined
  const { deliveryId } = receipt.message
  if ((receipt.pending <= 1 && !receipt.owed) || deliveryId === undefined) {
    return { _tag: "Received", packetId: receipt.packetId }
  }
  const outcome = { _tag: "Delivered", qos: 2, reasonCode: 0 } as const
  return { _tag: "Settled", sequence: noSequence, id: handledId(queue, deliveryId), outcome }
}

/**
 * `inbox` over what gives a subscriber that settles message by message, and that the scope has to itself.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeInbox = (
  core: ClientCore,
  open: (
    filters: string | ReadonlyArray<string>,
    options: SubscribeOptions,
    batchMaximum: number
  ) => Effect.Effect<Subscriber, SubscribeError, Scope.Scope>
): MqttClientService["inbox"] =>
<E, R>(
  filters: string | ReadonlyArray<string>,
  handler: (message: Message) => Effect.Effect<unknown, E, R>,
  options: InboxOptions = {}
): Effect.Effect<never, E | SubscribeError, R> =>
  Effect.scoped(Effect.suspend(() => {
    const { committer } = core
    if (committer === undefined) return Effect.fail(new SubscribeError({ reason: new NoSessionStore() }))
    const queue = queueName(typeof filters === "string" ? [filters] : filters)
    const each = (handed: Handed): Effect.Effect<void, E | SubscribeError, R> =>
      Effect.suspend(() => {
        // What becomes of the message is kept with what the handler does, so that it is not put aside meanwhile.
        handed.isPinned = true
        let change: Change | undefined
        const changesOf = () => {
          change = changeOf(core, queue, handed)
          return change === undefined ? [] : [change]
        }
        const settle = () => {
          if (change?._tag === "Received") handed.receipt!.isKept = true
          handed.settle(0)
        }
        const work = Effect.mapError(
          Effect.suspend(() => handler(handed.message)),
          (error): HandlerFailure<E> | SessionStoreError => ({ handler: error })
        )
        // A message on its way into the store has to be there before it can be taken out.
        const ready = handed.aside > 0 ? committer.flush : Effect.void
        const handle = Effect.andThen(ready, committer.transaction(changesOf, work, settle))
        const { deliveryId, duplicate } = handed.message
        const isRepeated = duplicate && deliveryId !== undefined && handed.receipt?.qos === 2
        return Effect.mapError(
          isRepeated
            ? Effect.flatMap(
              committer.store.outcome(handledId(queue, deliveryId)),
              (handled) => handled === undefined ? handle : Effect.sync(settle)
            )
            : handle,
          (error) => "handler" in error ? error.handler : new SubscribeError({ reason: error })
        )
      })
    return Effect.flatMap(
      open(filters, { qos: 2, ...options }, inOrder.concurrency),
      (subscriber) => consume(subscriber, each, inOrder)
    )
  }))
