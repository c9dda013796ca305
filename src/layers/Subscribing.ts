/**
 * `subscribe`, `subscription` and `durable`: from filters to streams.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { TopicFilter } from "../protocol/index.ts"
import type { ProtocolVersion, SubscriptionRequest } from "../protocol/Packet.ts"
import type { Message } from "../services/Message.ts"
import type { Grant, MqttClientService, SubscribeOptions, Subscription } from "../services/MqttClient.ts"
import { InvalidSubscription, SubscribeError } from "../services/MqttError.ts"
import type { SubscribeReason } from "../services/MqttError.ts"
import { checkSubscribeOptions, checkSubscription, toSubscriptionRequest } from "../services/ResolvedOptions.ts"
import type { ClientCore } from "./ClientCore.ts"
import { Subscriber } from "./Subscriber.ts"
import type { Member } from "./Subscriptions.ts"

/** Messages and bytes that a subscriber may be behind at QoS 0 by default. */
const defaultBufferSize = 4096
const defaultBufferBytes = 16 * 1024 * 1024

const fail = (reason: SubscribeReason): Effect.Effect<never, SubscribeError> =>
  Effect.fail(new SubscribeError({ reason }))

const invalid = (field: string, problem: string) => fail(new InvalidSubscription({ field, problem }))

const makeSubscriber = (core: ClientCore, options: SubscribeOptions): Subscriber =>
  new Subscriber({
    capacity: options.bufferSize ?? defaultBufferSize,
    bytes: options.bufferBytes ?? defaultBufferBytes,
    overflow: options.overflow ?? "sliding"
  }, core.hooks)

/** The messages of a subscriber as a stream; what the consumer did not take stays for the next run. */
const toStream = (subscriber: Subscriber): Stream.Stream<Message, SubscribeError> =>
  Stream.unwrap(Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => subscriber.attach()),
      (_, exit) => Effect.sync(() => subscriber.detach(exit))
    ),
    () => Stream.fromPull(Effect.succeed(subscriber.pull))
  ))

const checkAll = (
  filters: ReadonlyArray<string>,
  options: SubscribeOptions,
  version: ProtocolVersion
): Effect.Effect<ReadonlyArray<SubscriptionRequest>, SubscribeError> => {
  if (filters.length === 0) return invalid("filters", "must have at least one filter (§3.8.3)")
  const problem = checkSubscribeOptions(options)
  if (problem !== undefined) return invalid(problem.field, problem.problem)
  const requests: Array<SubscriptionRequest> = []
  for (const filter of new Set(filters)) {
    if (typeof filter !== "string") return invalid("filter", "must be a string")
    const request = toSubscriptionRequest(filter, options)
    const wrong = checkSubscription(request, version)
    if (wrong !== undefined) return invalid(wrong.field, `${wrong.problem} (in "${filter}")`)
    requests.push(request)
  }
  return Effect.succeed(requests)
}

/** Joins, and leaves with the scope. */
const join = (
  core: ClientCore,
  requests: ReadonlyArray<SubscriptionRequest>,
  options: SubscribeOptions
): Effect.Effect<Subscription, SubscribeError, Scope.Scope> =>
  Effect.suspend(() => {
    if (core.gate !== undefined) return fail(core.gate)
    const subscriber = makeSubscriber(core, options)
    let resume: (effect: Effect.Effect<ReadonlyArray<Grant>, SubscribeError>) => void = () => {}
    let early: Effect.Effect<ReadonlyArray<Grant>, SubscribeError> | undefined
    const answer = (effect: Effect.Effect<ReadonlyArray<Grant>, SubscribeError>) => {
      early ??= effect
      core.defer(() => resume(effect))
    }
    const member: Member = {
      subscriber,
      requests,
      awaiting: new Set(),
      onGranted: (grants) => answer(Effect.succeed(grants)),
      onRefused: (reason) => {
        const error = new SubscribeError({ reason })
        subscriber.fail(error)
        answer(Effect.fail(error))
      }
    }
    const granted = Effect.callback<ReadonlyArray<Grant>, SubscribeError>((callback) => {
      if (early !== undefined) return callback(early)
      resume = callback
      return Effect.void
    })
    return Effect.acquireRelease(
      Effect.sync(() => {
        core.subscriptions.join(member, options.userProperties)
        core.inbound.offerParked(
          subscriber,
          (topic) => requests.some((request) => TopicFilter.matches(request.filter, topic, 4))
        )
        core.wakeWriter()
      }),
      () => Effect.sync(() => leave(core, member))
    ).pipe(
      // The scope may live on when this fails or is interrupted, and the subscription is not to live with it.
      Effect.andThen(Effect.onError(granted, () => Effect.sync(() => leave(core, member)))),
      Effect.map((grants) => ({
        grants,
        messages: toStream(subscriber),
        dropped: Effect.sync(() => subscriber.dropped)
      }))
    )
  })

const leave = (core: ClientCore, member: Member): void => {
  core.subscriptions.leave(member)
  member.subscriber.close()
  core.wakeWriter()
}

/** Listens to a durable subscription, until the scope closes. */
const listen = (core: ClientCore, filter: string, options: SubscribeOptions): Stream.Stream<Message, SubscribeError> =>
  Stream.unwrap(Effect.suspend(() => {
    if (core.gate?._tag === "ClientClosed") return fail(core.gate)
    const problem = checkSubscribeOptions(options)
    if (problem !== undefined) return invalid(problem.field, problem.problem)
    const request = core.subscriptions.durable(filter)
    if (request === undefined) {
      return invalid("filter", `"${filter}" is not declared in the option "subscriptions"`)
    }
    const subscriber = makeSubscriber(core, options)
    const member: Member = {
      subscriber,
      requests: [request],
      awaiting: new Set(),
      onGranted: undefined,
      onRefused: (reason) => subscriber.fail(new SubscribeError({ reason }))
    }
    return Effect.acquireRelease(
      Effect.sync(() => {
        const refused = core.subscriptions.listen(member)
        if (refused !== undefined) return subscriber.fail(new SubscribeError({ reason: refused }))
        core.inbound.offerParked(subscriber, (topic) => TopicFilter.matches(filter, topic, 4))
      }),
      () => Effect.sync(() => leave(core, member))
    ).pipe(Effect.as(toStream(subscriber)))
  }))

/**
 * @category constructors
 * @since 0.1.0
 */
export const makeSubscribing = (
  core: ClientCore,
  version: () => ProtocolVersion
): Pick<MqttClientService, "subscribe" | "subscription" | "durable"> => {
  const subscription: MqttClientService["subscription"] = (filters, options = {}) =>
    Effect.suspend(() => checkAll(typeof filters === "string" ? [filters] : filters, options, version())).pipe(
      Effect.flatMap((requests) => join(core, requests, options))
    )
  return {
    subscription,
    subscribe: (filters, options) =>
      Stream.unwrap(Effect.map(subscription(filters, options), ({ messages }) => messages)),
    durable: (filter, options = {}) => listen(core, filter, options)
  }
}
