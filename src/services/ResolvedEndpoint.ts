/**
 * Endpoints and credentials after validation.
 *
 * @since 0.1.0
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { ProtocolVersion } from "../protocol/Packet.ts"
import type { BrokerEndpoint, ClientOptions, Credentials } from "./ClientOptions.ts"
import * as Endpoint from "./Endpoint.ts"
import { InvalidOptions } from "./MqttError.ts"
import { DurationInput, firstIssue, invalid, Text } from "./OptionSchema.ts"

/**
 * One endpoint with what is its own.
 *
 * @category models
 * @since 0.1.0
 */
export interface ResolvedEndpoint {
  readonly endpoint: Endpoint.Endpoint
  /** The name of the group of brokers that share sessions. */
  readonly group: string | undefined
  readonly credentials: Credentials | Effect.Effect<Credentials, unknown> | undefined
}

const optional = Schema.optional

/**
 * When something ends that was given.
 *
 * @category schemas
 * @since 0.1.0
 */
export const lifetimeFields = {
  expiresIn: optional(DurationInput),
  expiresAt: optional(Schema.declare<DateTime.DateTime | Date | number>(
    (value): value is DateTime.DateTime | Date | number =>
      Number.isFinite(value) || DateTime.isDateTime(value) || (value instanceof Date && !Number.isNaN(value.getTime())),
    { expected: "a DateTime, a Date, or milliseconds since 1970" }
  ))
}

/**
 * @category schemas
 * @since 0.1.0
 */
export const CredentialsSchema = Schema.Struct({
  username: optional(Text),
  password: optional(Schema.declare<Redacted.Redacted<string> | Redacted.Redacted<Uint8Array>>(
    (value): value is Redacted.Redacted<string> | Redacted.Redacted<Uint8Array> =>
      Redacted.isRedacted(value) &&
      (typeof Redacted.value(value) === "string" || Redacted.value(value) instanceof Uint8Array),
    { expected: "Redacted text or bytes (Redacted.make)" }
  )),
  ...lifetimeFields
})

const decodeCredentials = Schema.decodeUnknownResult(CredentialsSchema, { onExcessProperty: "error", errors: "first" })
const decodeEndpoint = Schema.decodeUnknownResult(Endpoint.Endpoint, { onExcessProperty: "error", errors: "first" })
const decodeEntry = Schema.decodeUnknownResult(
  // Endpoint and credentials are checked on their own: a union would not say which field is wrong.
  Schema.Struct({
    endpoint: Schema.Unknown,
    credentials: optional(Schema.Unknown),
    group: optional(Schema.NonEmptyString)
  }),
  { onExcessProperty: "error", errors: "first" }
)

/**
 * Checks credentials on their own, since an effect may give them anew at every attempt.
 *
 * @category validation
 * @since 0.1.0
 */
export const checkCredentials = (
  credentials: Credentials,
  protocolVersion: ProtocolVersion,
  option = "credentials"
): Result.Result<Credentials, InvalidOptions> => {
  // It has no field of its own, so it would pass as no credentials at all.
  if (Redacted.isRedacted(credentials)) return invalid(option, "must be an object with username and password")
  const decoded = decodeCredentials(credentials)
  if (Result.isFailure(decoded)) {
    const { path, problem } = firstIssue(decoded.failure.issue)
    return invalid(path === "" ? option : `${option}.${path}`, problem)
  }
  if (protocolVersion === 4 && credentials.password !== undefined && credentials.username === undefined) {
    return invalid(`${option}.username`, "MQTT 3.1.1 does not allow a password without a user name")
  }
  if (credentials.password !== undefined) {
    const password = Redacted.value<string | Uint8Array>(credentials.password)
    // TextEncoder would put U+FFFD in the place of a lone surrogate and say nothing.
    if (typeof password === "string" && !password.isWellFormed()) {
      return invalid(`${option}.password`, "a lone surrogate cannot be sent as UTF-8")
    }
    const size = typeof password === "string" ? new TextEncoder().encode(password).length : password.length
    if (size > 65535) return invalid(`${option}.password`, "longer than 65,535 bytes")
  }
  return Result.succeed(credentials)
}

const copyCredentials = (
  credentials: ClientOptions["credentials"],
  version: ProtocolVersion,
  option: string
): Result.Result<ResolvedEndpoint["credentials"], InvalidOptions> =>
  credentials === undefined || Effect.isEffect(credentials)
    ? Result.succeed(credentials)
    : Result.map(checkCredentials(credentials, version, option), (checked) => ({ ...checked }))

/** The endpoint that was given last by its URL, which many clients of one broker share, and its URL as we write it. */
let shared: { readonly given: string; readonly endpoint: Endpoint.Endpoint; readonly url: string } | undefined

const fromUrl = (given: string, option: string): Result.Result<Endpoint.Endpoint, InvalidOptions> => {
  if (given === shared?.given) return Result.succeed(shared.endpoint)
  const parsed = Result.mapError(Endpoint.fromUrl(given), (problem) => new InvalidOptions({ option, problem }))
  if (Result.isFailure(parsed)) return parsed
  const endpoint = parsed.success
  // The others may have a secret in them, which is not to outlive its client.
  if (endpoint._tag === "Tcp" || endpoint._tag === "Tls") shared = { given, endpoint, url: Endpoint.toUrl(endpoint) }
  return parsed
}

/**
 * The endpoint in URL form; the same string for all who share the endpoint.
 *
 * @category destructors
 * @since 0.1.0
 */
export const urlOf = (endpoint: Endpoint.Endpoint): string =>
  endpoint === shared?.endpoint ? shared.url : Endpoint.toUrl(endpoint)

const resolveEndpoint = (input: unknown, option: string): Result.Result<Endpoint.Endpoint, InvalidOptions> => {
  if (typeof input === "string") return fromUrl(input, option)
  const decoded = decodeEndpoint(input)
  // A copy, to its depth.
  if (Result.isSuccess(decoded)) return Result.succeed(decoded.success)
  const { path, problem } = firstIssue(decoded.failure.issue)
  return invalid(path === "" ? option : `${option}.${path}`, problem)
}

const isEntry = (input: unknown): input is BrokerEndpoint =>
  typeof input === "object" && input !== null && "endpoint" in input && !("_tag" in input)

const resolveEntry = (
  input: string | Endpoint.Endpoint | BrokerEndpoint,
  shared: ResolvedEndpoint["credentials"],
  version: ProtocolVersion,
  option: string
): Result.Result<ResolvedEndpoint, InvalidOptions> => {
  if (!isEntry(input)) {
    return Result.map(
      resolveEndpoint(input, option),
      (endpoint) => ({ endpoint, group: undefined, credentials: shared })
    )
  }
  const decoded = decodeEntry(input)
  if (Result.isFailure(decoded)) {
    const { path, problem } = firstIssue(decoded.failure.issue)
    return invalid(`${option}.${path}`, problem)
  }
  const endpoint = resolveEndpoint(input.endpoint, `${option}.endpoint`)
  if (Result.isFailure(endpoint)) return Result.fail(endpoint.failure)
  const credentials = copyCredentials(input.credentials ?? shared, version, `${option}.credentials`)
  return Result.map(credentials, (credentials) => ({ endpoint: endpoint.success, group: input.group, credentials }))
}

/**
 * The endpoints of the options, each with the credentials that it is used with.
 *
 * @category validation
 * @since 0.1.0
 */
export const resolveEndpoints = (
  options: Pick<ClientOptions, "credentials" | "endpoint" | "endpoints">,
  version: ProtocolVersion
): Result.Result<NonEmptyReadonlyArray<ResolvedEndpoint>, InvalidOptions> => {
  const { endpoint, endpoints } = options
  if (endpoint === undefined && endpoints === undefined) {
    return invalid("endpoint", "missing; give this or \"endpoints\"")
  }
  if (endpoint !== undefined && endpoints !== undefined) {
    return invalid("endpoints", "given together with \"endpoint\"; only one of them has a meaning")
  }
  const shared = copyCredentials(options.credentials, version, "credentials")
  if (Result.isFailure(shared)) return Result.fail(shared.failure)
  if (endpoint !== undefined) {
    return Result.map(
      resolveEndpoint(endpoint, "endpoint"),
      (endpoint) => [{ endpoint, group: undefined, credentials: shared.success }] as const
    )
  }
  const resolved: Array<ResolvedEndpoint> = []
  for (const [index, input] of endpoints!.entries()) {
    const entry = resolveEntry(input, shared.success, version, `endpoints.${index}`)
    if (Result.isFailure(entry)) return Result.fail(entry.failure)
    resolved.push(entry.success)
  }
  const [first, ...rest] = resolved
  return first === undefined ? invalid("endpoints", "empty") : Result.succeed([first, ...rest])
}
