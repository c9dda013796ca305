/**
 * Options of session stores, checked and with their defaults.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { InvalidOptions } from "../../services/MqttError.ts"
import { DurationInput, firstIssue } from "../../services/ResolvedOptions.ts"

/** What both kinds of store have to know. */
export interface StoreSettings {
  readonly outcomeRetentionMillis: number
  readonly maxOutcomes: number
  readonly maxPutAsideBytes: number
}

export interface SqliteSettings extends StoreSettings {
  readonly filename: string
  readonly durability: "process" | "power"
}

export interface SqlSettings extends StoreSettings {
  readonly name: string
}

const count = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER }))

const shared = {
  outcomeRetention: Schema.optional(DurationInput),
  maxOutcomes: Schema.optional(count),
  maxPutAsideBytes: Schema.optional(count)
}

const Filename = Schema.String.check(
  Schema.makeFilter(
    (value) => (value !== "" && value !== ":memory:" && !value.includes("\0")) || "must name a file",
    { expected: "the name of a file" }
  )
)

const strict = { onExcessProperty: "error", errors: "first" } as const

const decodeSqlite = Schema.decodeUnknownResult(
  Schema.Struct({ ...shared, filename: Filename, durability: Schema.optional(Schema.Literals(["process", "power"])) }),
  strict
)

const decodeSql = Schema.decodeUnknownResult(
  Schema.Struct({
    ...shared,
    name: Schema.optional(Schema.String.check(Schema.isMinLength(1), Schema.isMaxLength(200)))
  }),
  strict
)

const invalid = (error: Schema.SchemaError): InvalidOptions => {
  const { path, problem } = firstIssue(error.issue)
  return new InvalidOptions({ option: path === "" ? "options" : path, problem })
}

/** A hundred thousand years. */
const foreverMillis = 1e5 * 365 * 24 * 3_600_000

const settingsOf = (options: {
  readonly outcomeRetention?: Duration.Input | undefined
  readonly maxOutcomes?: number | undefined
  readonly maxPutAsideBytes?: number | undefined
}): StoreSettings => ({
  // A whole number of them, also where it is meant to be for ever.
  outcomeRetentionMillis: Math.min(
    Math.ceil(Duration.toMillis(Duration.fromInputUnsafe(options.outcomeRetention ?? "7 days"))),
    foreverMillis
  ),
  maxOutcomes: options.maxOutcomes ?? 1_000_000,
  maxPutAsideBytes: options.maxPutAsideBytes ?? 1024 ** 3
})

export const resolveSqlite = (options: unknown): Result.Result<SqliteSettings, InvalidOptions> =>
  Result.map(Result.mapError(decodeSqlite(options), invalid), (checked) => ({
    ...settingsOf(checked),
    filename: checked.filename,
    durability: checked.durability ?? "process"
  }))

export const resolveSql = (options: unknown): Result.Result<SqlSettings, InvalidOptions> =>
  Result.map(Result.mapError(decodeSql(options), invalid), (checked) => ({
    ...settingsOf(checked),
    name: checked.name ?? "default"
  }))
