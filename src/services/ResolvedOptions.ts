/**
 * Options after validation: every default filled in, every duration in milliseconds, endpoints parsed.
 *
 * @since 0.1.0
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { TopicFilter, TopicName } from "../protocol/index.ts"
import type { ProtocolVersion, QoS, SubscriptionRequest, UserProperties, Will } from "../protocol/Packet.ts"
import type { Authentication } from "./Authentication.ts"
import type { ClientOptions } from "./ClientOptions.ts"
import { checkMessage, encodePayload, toPublishProperties } from "./MessageCodec.ts"
import type { InvalidOptions } from "./MqttError.ts"
import type { ConnectError, LinkLost } from "./MqttError.ts"
import { DurationInput, firstIssue, invalid, millis, Text } from "./OptionSchema.ts"
import { resolveEndpoints } from "./ResolvedEndpoint.ts"
import type { ResolvedEndpoint } from "./ResolvedEndpoint.ts"

export { DurationInput, firstIssue } from "./OptionSchema.ts"
export { checkCredentials, urlOf } from "./ResolvedEndpoint.ts"
export type { ResolvedEndpoint } from "./ResolvedEndpoint.ts"

/**
 * What is said of an endpoint is that of the attempt under way; at first that of the first in the list.
 *
 * @category models
 * @since 0.1.0
 */
export interface ResolvedOptions extends ResolvedEndpoint {
  readonly endpoints: NonEmptyReadonlyArray<ResolvedEndpoint>
  readonly order: "inOrder" | "shuffled"
  readonly afterLoss: "sticky" | "next" | "preferFirst"
  readonly redirect: "ignore" | "follow"
  readonly authentication: Authentication | undefined
  readonly refresh: {
    readonly beforeMillis: number | undefined
    readonly jitterMillis: number | undefined
    readonly everyMillis: number | undefined
  }
  readonly protocolVersion: ProtocolVersion
  /** Undefined: the client's generated id. */
  readonly clientId: string | undefined
  readonly cleanStart: boolean
  /** Seconds, 0 to 0xFFFFFFFF, where the last means never. */
  readonly sessionExpiry: number
  readonly foreignSession: "adopt" | "fail" | "cleanStart"
  /** Seconds. */
  readonly keepAlive: number
  readonly pingTimeoutMillis: number | undefined
  readonly connectTimeoutMillis: number
  readonly disconnectTimeoutMillis: number
  readonly drainTimeoutMillis: number
  readonly will: Will | undefined
  readonly receiveMaximum: number
  readonly onReceiveMaximumExceeded: "disconnect" | "accept"
  readonly maximumUnacknowledgedBytes: number
  readonly unclaimed: "ack" | "hold" | "reject"
  readonly sendMaximum: number
  readonly maximumPacketSize: number
  readonly topicAliasMaximum: number
  readonly subscriptionIdentifiers: boolean
  readonly requestResponseInformation: boolean
  readonly requestProblemInformation: boolean
  readonly userProperties: UserProperties
  readonly reconnect: false | {
    readonly schedule: Schedule.Schedule<unknown, unknown> | undefined
    readonly stableAfterMillis: number
    readonly isRetryable: ((failure: ConnectError | LinkLost, byDefault: boolean) => boolean) | undefined
    readonly takeover: { readonly delayMillis: number; readonly limit: number; readonly withinMillis: number }
  }
  readonly firstConnect: "fail" | "retry"
  readonly outbox: {
    readonly maxMessages: number
    readonly maxBytes: number
    readonly strategy: "suspend" | "dropOldest" | "dropNewest" | "fail"
    readonly qos0Offline: "queue" | "fail"
  }
  readonly onSessionLost: { readonly qos1: "republish" | "fail"; readonly qos2: "republish" | "fail" }
  readonly subscriptions: ReadonlyArray<SubscriptionRequest>
  readonly willOnFailure: boolean
}

const TopicNameText = Schema.String.check(
  Schema.makeFilter((value) => TopicName.validate(value) ?? true, { expected: "a topic name" })
)
const intBetween = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
const Qos = Schema.Literals([0, 1, 2])
const UserPropertiesSchema = Schema.Array(Schema.Tuple([Text, Text]))
const optional = Schema.optional

/**
 * The properties of a message, checked.
 *
 * @category schemas
 * @since 0.1.0
 */
export const MessagePropertiesFields = {
  payloadFormat: optional(Schema.Literals(["bytes", "utf8"])),
  messageExpiryInterval: optional(intBetween(0, 0xffffffff)),
  contentType: optional(Text),
  responseTopic: optional(TopicNameText),
  correlationData: optional(Schema.Uint8Array),
  userProperties: optional(UserPropertiesSchema)
}

const WillSchema = Schema.Struct({
  ...MessagePropertiesFields,
  topic: TopicNameText,
  payload: optional(Schema.Union([Schema.Uint8Array, Schema.String])),
  qos: optional(Qos),
  retain: optional(Schema.Boolean),
  delay: optional(DurationInput)
})

const isFunction = (value: unknown): value is (...args: ReadonlyArray<never>) => unknown => typeof value === "function"

const OptionsSchema = Schema.Struct({
  // Checked one by one (`resolveEndpoints`): a union would not say which field is wrong.
  endpoint: optional(Schema.Unknown),
  endpoints: optional(Schema.Array(Schema.Unknown).check(Schema.isMinLength(1))),
  failover: optional(Schema.Struct({
    order: optional(Schema.Literals(["inOrder", "shuffled"])),
    afterLoss: optional(Schema.Literals(["sticky", "next", "preferFirst"]))
  })),
  redirect: optional(Schema.Literals(["ignore", "follow"])),
  authentication: optional(Schema.Struct({
    method: Text.check(Schema.isMinLength(1)),
    exchange: Schema.declare((value): value is Effect.Effect<unknown, unknown> => Effect.isEffect(value), {
      expected: "an Effect"
    })
  })),
  refresh: optional(Schema.Struct({
    before: optional(DurationInput),
    jitter: optional(DurationInput),
    every: optional(DurationInput)
  })),
  protocolVersion: optional(Schema.Literals([4, 5])),
  clientId: optional(Text),
  cleanStart: optional(Schema.Boolean),
  sessionExpiry: optional(DurationInput),
  foreignSession: optional(Schema.Literals(["adopt", "fail", "cleanStart"])),
  keepAlive: optional(DurationInput),
  pingTimeout: optional(DurationInput),
  connectTimeout: optional(DurationInput),
  disconnectTimeout: optional(DurationInput),
  drainTimeout: optional(DurationInput),
  // An Effect, or checked on its own (`checkCredentials`): a union would not say which field is wrong.
  credentials: Schema.optional(Schema.Unknown),
  will: optional(WillSchema),
  receiveMaximum: optional(intBetween(1, 65535)),
  onReceiveMaximumExceeded: optional(Schema.Literals(["disconnect", "accept"])),
  maximumUnacknowledgedBytes: optional(intBetween(1, Number.MAX_SAFE_INTEGER)),
  unclaimed: optional(Schema.Literals(["ack", "hold", "reject"])),
  sendMaximum: optional(intBetween(1, 65535)),
  maximumPacketSize: optional(intBetween(64, 268435460)),
  topicAliasMaximum: optional(intBetween(0, 65535)),
  subscriptionIdentifiers: optional(Schema.Boolean),
  requestResponseInformation: optional(Schema.Boolean),
  requestProblemInformation: optional(Schema.Boolean),
  userProperties: optional(UserPropertiesSchema),
  reconnect: optional(Schema.Union([
    Schema.Literal(false),
    Schema.Struct({
      schedule: optional(
        Schema.declare((value): value is Schedule.Schedule<unknown, unknown> => Schedule.isSchedule(value), {
          expected: "a Schedule"
        })
      ),
      stableAfter: optional(DurationInput),
      isRetryable: optional(Schema.declare(isFunction, { expected: "a function" })),
      takeover: optional(Schema.Struct({
        delay: optional(DurationInput),
        limit: optional(
          Schema.Number.check(
            Schema.makeFilter((value) => value === Infinity || (Number.isInteger(value) && value >= 1), {
              expected: "a whole number from 1, or Infinity"
            })
          )
        ),
        within: optional(DurationInput)
      }))
    })
  ])),
  firstConnect: optional(Schema.Literals(["fail", "retry"])),
  outbox: optional(Schema.Struct({
    maxMessages: optional(intBetween(1, 1e9)),
    maxBytes: optional(intBetween(1, Number.MAX_SAFE_INTEGER)),
    strategy: optional(Schema.Literals(["suspend", "dropOldest", "dropNewest", "fail"])),
    qos0Offline: optional(Schema.Literals(["queue", "fail"]))
  })),
  onSessionLost: optional(Schema.Struct({
    qos1: optional(Schema.Literals(["republish", "fail"])),
    qos2: optional(Schema.Literals(["republish", "fail"]))
  })),
  subscriptions: optional(Schema.Array(Schema.Struct({
    filter: Schema.String,
    qos: optional(Qos),
    noLocal: optional(Schema.Boolean),
    retainAsPublished: optional(Schema.Boolean),
    retainHandling: optional(Schema.Literals(["send", "sendIfNew", "none"]))
  }))),
  willOnFailure: optional(Schema.Boolean)
})

const decodeOptions = Schema.decodeUnknownResult(OptionsSchema, { onExcessProperty: "error", errors: "first" })

const retainHandlings = { send: 0, sendIfNew: 1, none: 2 } as const

/**
 * Retain Handling as the number on the wire (§3.8.3.1).
 *
 * @category destructors
 * @since 0.1.0
 */
export const retainHandlingCode = (name: keyof typeof retainHandlings | undefined): 0 | 1 | 2 =>
  retainHandlings[name ?? "send"]

const checkSubscriptions = (
  options: ClientOptions,
  version: ProtocolVersion
): Result.Result<ReadonlyArray<SubscriptionRequest>, InvalidOptions> => {
  if (options.subscriptions === undefined) return Result.succeed(usual.subscriptions)
  const requests: Array<SubscriptionRequest> = []
  for (const [index, subscription] of options.subscriptions.entries()) {
    const request = toSubscriptionRequest(subscription.filter, subscription)
    const problem = checkSubscription(request, version)
    if (problem !== undefined) return invalid(`subscriptions.${index}.${problem.field}`, problem.problem)
    if (requests.some((other) => other.filter === request.filter)) {
      return invalid(`subscriptions.${index}.filter`, `"${request.filter}" is declared twice`)
    }
    requests.push(request)
  }
  return Result.succeed(requests)
}

/**
 * The request for one filter with its defaults.
 *
 * @category constructors
 * @since 0.1.0
 */
export const toSubscriptionRequest = (
  filter: string,
  options: {
    readonly qos?: QoS | undefined
    readonly noLocal?: boolean | undefined
    readonly retainAsPublished?: boolean | undefined
    readonly retainHandling?: "send" | "sendIfNew" | "none" | undefined
  }
): SubscriptionRequest => ({
  filter,
  qos: options.qos ?? 0,
  noLocal: options.noLocal ?? false,
  retainAsPublished: options.retainAsPublished ?? false,
  retainHandling: retainHandlingCode(options.retainHandling)
})

/**
 * The problem of a request, if it has one.
 *
 * @category validation
 * @since 0.1.0
 */
export const checkSubscription = (
  request: SubscriptionRequest,
  version: ProtocolVersion
): { readonly field: string; readonly problem: string } | undefined => {
  const problem = TopicFilter.validate(request.filter, version)
  if (problem !== undefined) return { field: "filter", problem }
  if (request.noLocal && version === 5 && TopicFilter.parseShared(request.filter) !== undefined) {
    return { field: "noLocal", problem: "a shared subscription cannot have it (MQTT 5.0 §3.8.3.1)" }
  }
  return undefined
}

const decodeSubscribeOptions = Schema.decodeUnknownResult(
  Schema.Struct({
    qos: optional(Qos),
    noLocal: optional(Schema.Boolean),
    retainAsPublished: optional(Schema.Boolean),
    retainHandling: optional(Schema.Literals(["send", "sendIfNew", "none"])),
    bufferSize: optional(intBetween(1, 1e9)),
    bufferBytes: optional(intBetween(1, Number.MAX_SAFE_INTEGER)),
    overflow: optional(Schema.Literals(["sliding", "dropping", "fail"])),
    ack: optional(Schema.Literals(["auto", "manual"])),
    whenSlow: optional(Schema.Literals(["hold", "spill", "drop"])),
    heldMessages: optional(intBetween(1, 1e9)),
    slowAfter: optional(DurationInput),
    heldBytes: optional(intBetween(1, Number.MAX_SAFE_INTEGER)),
    spillMessages: optional(intBetween(1, 1e9)),
    spillBytes: optional(intBetween(1, Number.MAX_SAFE_INTEGER)),
    userProperties: optional(UserPropertiesSchema)
  }),
  { onExcessProperty: "error", errors: "first" }
)

/**
 * The problem of the options of a subscription, if they have one.
 *
 * @category validation
 * @since 0.1.0
 */
export const checkSubscribeOptions = (
  options: unknown
): { readonly field: string; readonly problem: string } | undefined => {
  const decoded = decodeSubscribeOptions(options)
  if (Result.isSuccess(decoded)) return undefined
  const { path, problem } = firstIssue(decoded.failure.issue)
  return { field: path === "" ? "options" : path, problem }
}

const copyPairs = (pairs: UserProperties | undefined): UserProperties | undefined =>
  pairs?.map(([name, value]) => [name, value])

const decodeDisconnectOptions = Schema.decodeUnknownResult(
  Schema.Struct({
    reason: optional(Schema.Literals(["normal", "withWill"])),
    sessionExpiry: optional(DurationInput),
    reasonString: optional(Text),
    userProperties: optional(UserPropertiesSchema)
  }),
  { onExcessProperty: "error", errors: "first" }
)

/**
 * The problem of the options of `disconnect`, if they have one.
 *
 * @category validation
 * @since 0.1.0
 */
export const checkDisconnectOptions = (
  options: unknown
): { readonly field: string; readonly problem: string } | undefined => {
  const decoded = decodeDisconnectOptions(options)
  if (Result.isSuccess(decoded)) return undefined
  const { path, problem } = firstIssue(decoded.failure.issue)
  return { field: path === "" ? "options" : path, problem }
}

const resolveWill = (
  will: NonNullable<ClientOptions["will"]>
): Result.Result<Will, InvalidOptions> => {
  const invalidMessage = checkMessage(will)
  if (invalidMessage !== undefined) return invalid(`will.${invalidMessage.field}`, invalidMessage.problem)
  const payload = encodePayload(will.payload)
  if (typeof payload === "string") return invalid("will.payload", payload)
  if (payload.length > 65535) return invalid("will.payload", "longer than 65,535 bytes")
  const delay = Math.ceil(millis(will.delay, 0) / 1000)
  if (delay > 0xffffffff) return invalid("will.delay", "longer than 4,294,967,295 seconds")
  const properties = toPublishProperties({ ...will, userProperties: copyPairs(will.userProperties) })
  return Result.succeed({
    topic: will.topic,
    payload,
    qos: will.qos ?? 0,
    retain: will.retain ?? false,
    properties: delay === 0 ? properties : { ...properties, willDelayInterval: delay }
  })
}

/**
 * Seconds of a session expiry; what is too long for four bytes never expires.
 *
 * @category destructors
 * @since 0.1.0
 */
export const expirySeconds = (input: Duration.Input | undefined): number =>
  Math.min(0xffffffff, Math.ceil(millis(input, 0) / 1000))

const toReconnect = (given: NonNullable<ClientOptions["reconnect"]>): ResolvedOptions["reconnect"] =>
  given === false ? false : {
    schedule: given.schedule,
    stableAfterMillis: millis(given.stableAfter, 30_000),
    isRetryable: given.isRetryable,
    takeover: {
      delayMillis: millis(given.takeover?.delay, 30_000),
      limit: given.takeover?.limit ?? 2,
      withinMillis: millis(given.takeover?.within, 600_000)
    }
  }

const toOutbox = (given: NonNullable<ClientOptions["outbox"]>): ResolvedOptions["outbox"] => ({
  maxMessages: given.maxMessages ?? 1_000,
  maxBytes: given.maxBytes ?? 16 * 1024 * 1024,
  strategy: given.strategy ?? "suspend",
  qos0Offline: given.qos0Offline ?? "queue"
})

const toOnLoss = (given: NonNullable<ClientOptions["onSessionLost"]>): ResolvedOptions["onSessionLost"] => ({
  qos1: given.qos1 ?? "republish",
  qos2: given.qos2 ?? "fail"
})

/** What holds where the options say nothing. */
const usual: Omit<ResolvedOptions, "endpoint"> = {
  /** Of one endpoint, which the options have already. */
  get endpoints() {
    const { credentials, endpoint, group } = this as ResolvedOptions
    return [{ endpoint, group, credentials }] as const
  },
  group: undefined,
  credentials: undefined,
  order: "inOrder",
  afterLoss: "sticky",
  redirect: "ignore",
  authentication: undefined,
  refresh: { beforeMillis: undefined, jitterMillis: undefined, everyMillis: undefined },
  protocolVersion: 5,
  clientId: undefined,
  cleanStart: true,
  sessionExpiry: 0,
  foreignSession: "adopt",
  keepAlive: 60,
  pingTimeoutMillis: undefined,
  connectTimeoutMillis: 10_000,
  disconnectTimeoutMillis: 2_000,
  drainTimeoutMillis: 5_000,
  will: undefined,
  receiveMaximum: 256,
  onReceiveMaximumExceeded: "disconnect",
  maximumUnacknowledgedBytes: 64 * 1024 * 1024,
  unclaimed: "ack",
  sendMaximum: 1_000,
  maximumPacketSize: 16 * 1024 * 1024,
  topicAliasMaximum: 0,
  subscriptionIdentifiers: true,
  requestResponseInformation: false,
  requestProblemInformation: true,
  userProperties: Object.freeze([]),
  reconnect: toReconnect({}),
  firstConnect: "fail",
  outbox: toOutbox({}),
  onSessionLost: toOnLoss({}),
  subscriptions: Object.freeze([]),
  willOnFailure: false
}

/** What is as usual is not in the options of each client, but before it, in what all have in common. */
const overUsual = (own: Partial<ResolvedOptions>): ResolvedOptions =>
  // Defined, since `endpoints` cannot be assigned to.
  Object.create(usual, Object.getOwnPropertyDescriptors(own)) as ResolvedOptions

const unusual = (options: ResolvedOptions): Partial<ResolvedOptions> =>
  Object.fromEntries(
    Object.entries(options).filter(([name, value]) =>
      name === "endpoints" ? options.endpoints.length > 1 : value !== usual[name as keyof typeof usual]
    )
  )

/**
 * The options with changes. They are not to be spread, which would leave out what is as usual.
 *
 * @category combinators
 * @since 0.1.0
 */
export const change = (options: ResolvedOptions, changes: Partial<ResolvedOptions>): ResolvedOptions =>
  overUsual({ ...options, ...changes })

/**
 * Checks options and fills in the defaults. Nothing of the input is changed or kept by reference, bytes excepted.
 *
 * @category validation
 * @since 0.1.0
 */
export const resolve = (options: ClientOptions): Result.Result<ResolvedOptions, InvalidOptions> => {
  const decoded = decodeOptions(options)
  if (Result.isFailure(decoded)) {
    const { path, problem } = firstIssue(decoded.failure.issue)
    return invalid(path === "" ? "options" : path, problem)
  }
  const version = options.protocolVersion ?? usual.protocolVersion
  if (options.authentication !== undefined && version === 4) {
    return invalid("authentication", "MQTT 3.1.1 has no enhanced authentication")
  }
  const endpoints = resolveEndpoints(options, version)
  if (Result.isFailure(endpoints)) return Result.fail(endpoints.failure)

  const keepAlive = Math.ceil(millis(options.keepAlive, usual.keepAlive * 1000) / 1000)
  if (keepAlive > 65535) return invalid("keepAlive", "longer than 65,535 seconds (18 h 12 min 15 s)")
  for (const name of ["pingTimeout", "connectTimeout"] as const) {
    if (options[name] !== undefined && millis(options[name], 0) <= 0) return invalid(name, "must be longer than 0")
  }
  const cleanStart = options.cleanStart ?? usual.cleanStart
  const sessionExpiry = expirySeconds(options.sessionExpiry)
  const clean = sessionExpiry === 0 && cleanStart
  if (options.clientId === "" && version === 4 && !clean) {
    return invalid("clientId", "MQTT 3.1.1 allows an empty client id only with a clean session")
  }
  if (options.clientId === undefined && !cleanStart) {
    return invalid("clientId", "must be given with cleanStart: false, since a generated id has no session to resume")
  }
  const will = options.will === undefined ? Result.succeed(undefined) : resolveWill(options.will)
  if (Result.isFailure(will)) return Result.fail(will.failure)
  const subscriptions = checkSubscriptions(options, version)
  if (Result.isFailure(subscriptions)) return Result.fail(subscriptions.failure)
  return Result.succeed(overUsual(unusual({
    ...endpoints.success[0],
    endpoints: endpoints.success,
    order: options.failover?.order ?? usual.order,
    afterLoss: options.failover?.afterLoss ?? usual.afterLoss,
    redirect: options.redirect ?? usual.redirect,
    authentication: options.authentication === undefined ? undefined : { ...options.authentication },
    refresh: options.refresh === undefined ? usual.refresh : {
      beforeMillis: options.refresh.before === undefined ? undefined : millis(options.refresh.before, 0),
      jitterMillis: options.refresh.jitter === undefined ? undefined : millis(options.refresh.jitter, 0),
      everyMillis: options.refresh.every === undefined ? undefined : millis(options.refresh.every, 0)
    },
    protocolVersion: version,
    clientId: options.clientId,
    cleanStart,
    sessionExpiry,
    foreignSession: options.foreignSession ?? usual.foreignSession,
    keepAlive,
    pingTimeoutMillis: options.pingTimeout === undefined ? undefined : millis(options.pingTimeout, 0),
    connectTimeoutMillis: millis(options.connectTimeout, usual.connectTimeoutMillis),
    disconnectTimeoutMillis: millis(options.disconnectTimeout, usual.disconnectTimeoutMillis),
    drainTimeoutMillis: millis(options.drainTimeout, usual.drainTimeoutMillis),
    will: will.success,
    receiveMaximum: options.receiveMaximum ?? usual.receiveMaximum,
    onReceiveMaximumExceeded: options.onReceiveMaximumExceeded ?? usual.onReceiveMaximumExceeded,
    maximumUnacknowledgedBytes: options.maximumUnacknowledgedBytes ?? usual.maximumUnacknowledgedBytes,
    unclaimed: options.unclaimed ?? usual.unclaimed,
    sendMaximum: options.sendMaximum ?? usual.sendMaximum,
    maximumPacketSize: options.maximumPacketSize ?? usual.maximumPacketSize,
    topicAliasMaximum: options.topicAliasMaximum ?? usual.topicAliasMaximum,
    subscriptionIdentifiers: options.subscriptionIdentifiers ?? usual.subscriptionIdentifiers,
    requestResponseInformation: options.requestResponseInformation ?? usual.requestResponseInformation,
    requestProblemInformation: options.requestProblemInformation ?? usual.requestProblemInformation,
    userProperties: copyPairs(options.userProperties) ?? usual.userProperties,
    reconnect: options.reconnect === undefined ? usual.reconnect : toReconnect(options.reconnect),
    firstConnect: options.firstConnect ?? usual.firstConnect,
    outbox: options.outbox === undefined ? usual.outbox : toOutbox(options.outbox),
    onSessionLost: options.onSessionLost === undefined ? usual.onSessionLost : toOnLoss(options.onSessionLost),
    subscriptions: subscriptions.success,
    willOnFailure: options.willOnFailure ?? usual.willOnFailure
  })))
}
