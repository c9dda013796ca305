/**
 * `subscribe`, `subscription` and `durable`: from filters to streams.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { ProtocolVersion, SubscriptionRequest } from "../../protocol/Packet.ts"
import type { Message } from "../../services/Message.ts"
import type { Grant, MqttClientService, SubscribeOptions, Subscription } from "../../services/MqttClient.ts"
import { InvalidSubscription, SubscribeError } from "../../services/MqttError.ts"
import type { SubscribeReason } from "../../services/MqttError.ts"
import { checkSubscribeOptions, checkSubscription, toSubscriptionRequest } from "../../services/ResolvedOptions.ts"
import type { ClientCore } from "../ClientCore.ts"
import { toManualMessage } from "../delivery/ManualMessages.ts"
import { makeInbox } from "../delivery/Inboxing.ts"
import { makeProcess } from "../delivery/Processing.ts"
import { queueName } from "../delivery/Spill.ts"
import { Subscriber } from "../delivery/Subscriber.ts"
import { SubscriptionWatch } from "./SubscriptionWatch.ts"
import type { Member } from "./Subscriptions.ts"

/** Messages and bytes that a subscriber may be behind at QoS 0 by default. */
const defaultBufferSize = 4096
const defaultBufferBytes = 16 * 1024 * 1024
/** Payload bytes of QoS 1 and 2 messages that it may hold before it counts as slow. */
const defaultHeldBytes = 16 * 1024 * 1024
/** How long it may hold any without being done with one. */
const defaultSlowAfter = "1 second"
const defaultSpillMessages = 100_000
const defaultSpillBytes = 256 * 1024 * 1024

/** Largest batch of messages that the consumer settles: it is kept for the next one if that one does not. */
const manualBatch = 256

const fail = (reason: SubscribeReason): Effect.Effect<never, SubscribeError> =>
  Effect.fail(new SubscribeError({ reason }))

const invalid = (field: string, problem: string) => fail(new InvalidSubscription({ field, problem }))

const makeSubscriber = (core: ClientCore, options: SubscribeOptions, batchMaximum?: number): Subscriber =>
  new Subscriber({
    capacity: options.bufferSize ?? defaultBufferSize,
    bytes: options.bufferBytes ?? defaultBufferBytes,
    overflow: options.overflow ?? "sliding",
    batchMaximum: batchMaximum ?? (options.ack === "manual" ? manualBatch : undefined)
  }, core)

/**
 * Says what the subscriber may hold, and takes what an earlier one left in the store; gives the problem if that cannot be. To
 * be run where the end of the subscription is certain to be seen.
 */
const limit = (
  core: ClientCore,
  subscriber: Subscriber,
  requests: ReadonlyArray<SubscriptionRequest>,
  options: SubscribeOptions
): Effect.Effect<void, SubscribeError> =>
  Effect.suspend(() => {
    const { whenSlow = "hold" } = options
    const { spill } = core.inbound
    const name = queueName(requests.map(({ filter }) => filter))
    const count = options.heldMessages ?? Math.max(1, core.options.receiveMaximum >> 2)
    const bytes = options.heldBytes ?? defaultHeldBytes
    const slowAfter = Duration.toMillis(Duration.fromInputUnsafe(options.slowAfter ?? defaultSlowAfter))
    if (whenSlow === "drop") subscriber.limit({ count, bytes, slowAfter, aside: undefined })
    else if (whenSlow === "spill") {
      if (spill === undefined) return invalid("whenSlow", "\"spill\" needs a session store")
      const { spillBytes = defaultSpillBytes, spillMessages = defaultSpillMessages } = options
      const aside = spill.own(name, { count: spillMessages, bytes: spillBytes })
      if (aside === undefined) return invalid("whenSlow", "another subscription to the same filters spills already")
      subscriber.limit({ count, bytes, slowAfter, aside })
    } else if (spill?.isLeftOver(name) === true) {
      const aside = spill.own(name, { count: 0, bytes: 0 })
      subscriber.limit({ count: Infinity, bytes: Infinity, slowAfter: Infinity, aside })
    }
    return Effect.void
  })

/** Runs with the subscriber to itself; what the consumer did not take stays for the next run. */
const attached = (subscriber: Subscriber): Effect.Effect<void, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => subscriber.attach()),
    (_, exit) => Effect.sync(() => subscriber.detach(exit))
  )

/** The messages of a subscriber as a stream. */
const toStream = (subscriber: Subscriber, options: SubscribeOptions): Stream.Stream<Message, SubscribeError> =>
  Stream.unwrap(Effect.map(
    attached(subscriber),
    () =>
      options.ack === "manual"
        ? Stream.map(Stream.fromPull(Effect.succeed(subscriber.pullHanded)), toManualMessage)
        : Stream.fromPull(Effect.succeed(subscriber.pull))
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

/** Joins, waits for the grants, and leaves with the scope. */
const join = (
  core: ClientCore,
  requests: ReadonlyArray<SubscriptionRequest>,
  options: SubscribeOptions,
  subscriber: Subscriber,
  watch: SubscriptionWatch | undefined
): Effect.Effect<ReadonlyArray<Grant>, SubscribeError, Scope.Scope> =>
  Effect.suspend(() => {
    if (core.gate !== undefined) return fail(core.gate)
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
      },
      onStatus: watch === undefined ? undefined : (status) => watch.set(status)
    }
    const end = () => {
      leave(core, member)
      watch?.end()
    }
    const granted = Effect.callback<ReadonlyArray<Grant>, SubscribeError>((callback) => {
      if (early !== undefined) return callback(early)
      resume = callback
      return Effect.void
    })
    const joined = Effect.acquireRelease(
      Effect.map(limit(core, subscriber, requests, options), () => {
        core.subscriptions.join(member, options.userProperties)
        core.inbound.offerParked(member)
        core.wakeWriter()
      }),
      () => Effect.sync(end)
    )
    // The scope may live on when this fails or is interrupted, and the subscription is not to live with it.
    return Effect.uninterruptibleMask((restore) =>
      Effect.andThen(joined, Effect.onError(restore(granted), () => Effect.sync(end)))
    )
  })

const leave = (core: ClientCore, member: Member): void => {
  const { requests, subscriber } = member
  // What is durable of what it listened to is to get what it leaves: for the others, copies may have passed for handed over.
  subscriber.durable = requests.map(({ filter }) => filter).filter((filter) =>
    core.subscriptions.durable(filter) !== undefined
  )
  core.subscriptions.leave(member)
  subscriber.close()
  core.wakeWriter()
}

/** Listens to durable subscriptions, until the scope closes. */
const listen = (
  core: ClientCore,
  filters: ReadonlyArray<string>,
  options: SubscribeOptions,
  subscriber: Subscriber
): Effect.Effect<void, SubscribeError, Scope.Scope> =>
  Effect.suspend(() => {
    if (core.gate?._tag === "ClientClosed") return fail(core.gate)
    const problem = checkSubscribeOptions(options)
    if (problem !== undefined) return invalid(problem.field, problem.problem)
    const requests: Array<SubscriptionRequest> = []
    for (const filter of new Set(filters)) {
      const request = core.subscriptions.durable(filter)
      if (request === undefined) {
        return invalid("filter", `"${filter}" is not declared in the option "subscriptions"`)
      }
      requests.push(request)
    }
    subscriber.durable = requests.map(({ filter }) => filter)
    const member: Member = {
      subscriber,
      requests,
      awaiting: new Set(),
      onGranted: undefined,
      onRefused: (reason) => subscriber.fail(new SubscribeError({ reason }))
    }
    return Effect.acquireRelease(
      Effect.map(limit(core, subscriber, requests, options), () => {
        const refused = core.subscriptions.listen(member)
        if (refused !== undefined) return subscriber.fail(new SubscribeError({ reason: refused }))
        core.inbound.offerParked(member)
      }),
      () => Effect.sync(() => leave(core, member))
    )
  })

/**
 * @category constructors
 * @since 0.1.0
 */
export const makeSubscribing = (
  core: ClientCore,
  version: () => ProtocolVersion
): Pick<MqttClientService, "subscribe" | "subscription" | "durable" | "process" | "inbox"> => {
  const subscribeWith = (
    filters: string | ReadonlyArray<string>,
    options: SubscribeOptions,
    subscriber: Subscriber,
    watch?: SubscriptionWatch
  ): Effect.Effect<ReadonlyArray<Grant>, SubscribeError, Scope.Scope> =>
    Effect.flatMap(
      Effect.suspend(() => checkAll(toArray(filters), options, version())),
      (requests) => join(core, requests, options, subscriber, watch)
    )

  const subscription = (
    filters: string | ReadonlyArray<string>,
    options: SubscribeOptions = {}
  ): Effect.Effect<Subscription, SubscribeError, Scope.Scope> =>
    Effect.suspend(() => {
      const subscriber = makeSubscriber(core, options)
      const watch = new SubscriptionWatch()
      subscriber.onFailure = ({ reason }) => {
        watch.set({ _tag: "Halted", reason })
        watch.end()
      }
      return Effect.map(subscribeWith(filters, options, subscriber, watch), (grants) => ({
        grants,
        messages: toStream(subscriber, options),
        dropped: Effect.sync(() => subscriber.dropped),
        status: watch.status,
        statusChanges: watch.changes
      }))
    })

  const open = (
    filters: string | ReadonlyArray<string>,
    { qos, ...options }: SubscribeOptions,
    batchMaximum: number
  ): Effect.Effect<Subscriber, SubscribeError, Scope.Scope> =>
    Effect.suspend(() => {
      const names = toArray(filters)
      const subscriber = makeSubscriber(core, options, batchMaximum)
      const isDurable = names.length > 0 && names.every((filter) => core.subscriptions.durable(filter) !== undefined)
      const opened = isDurable
        ? listen(core, names, options, subscriber)
        : subscribeWith(filters, { qos: qos ?? 1, ...options }, subscriber)
      return Effect.as(Effect.andThen(opened, attached(subscriber)), subscriber)
    })

  // One implementation gives what the options say, which the overloads of the service tell apart.
  return {
    subscription: subscription as MqttClientService["subscription"],
    subscribe:
      ((filters, options) =>
        Stream.unwrap(Effect.map(subscription(filters, options), ({ messages }) => messages))) as MqttClientService[
          "subscribe"
        ],
    durable: ((filter: string, options: SubscribeOptions = {}) =>
      Stream.unwrap(Effect.suspend(() => {
        const subscriber = makeSubscriber(core, options)
        return Effect.as(listen(core, [filter], options, subscriber), toStream(subscriber, options))
      }))) as MqttClientService["durable"],
    process: makeProcess(open),
    inbox: makeInbox(core, open)
  }
}

const toArray = (filters: string | ReadonlyArray<string>): ReadonlyArray<string> =>
  typeof filters === "string" ? [filters] : filters
