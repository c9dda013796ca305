/**
 * The pieces that the checks of all options are made of.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import { Utf8 } from "../protocol/index.ts"
import { InvalidOptions } from "./MqttError.ts"

/**
 * Text that goes on the wire as a UTF-8 string (§1.5.4).
 *
 * @category schemas
 * @since 0.1.0
 */
export const Text = Schema.String.check(
  Schema.makeFilter((value) => Utf8.problemOf(Utf8.encodedLength(value)) ?? true, {
    expected: "a string that MQTT can carry"
  })
)

/**
 * Effect's durations may be negative, and NaN is 0 to it; no option of ours has a meaning for either.
 *
 * @category schemas
 * @since 0.1.0
 */
export const DurationInput = Schema.declare<Duration.Input>(
  (value): value is Duration.Input =>
    !Number.isNaN(value) &&
    Option.exists(Duration.fromInput(value as Duration.Input), (duration) => Duration.toMillis(duration) >= 0),
  { expected: "a duration that is not negative" }
)

// Inputs are never printed: an option may be a secret that was put into the wrong place.
const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()

/**
 * The first problem of a failed check as path and sentence, for example `["will", "topic"]` as `will.topic`.
 *
 * @category destructors
 * @since 0.1.0
 */
export const firstIssue = (issue: SchemaIssue.Issue): { readonly path: string; readonly problem: string } => {
  const first = formatIssue(issue).issues[0]
  const path = (first?.path ?? []).map((part) => typeof part === "object" ? part.key : part).map(String)
  return { path: path.join("."), problem: first?.message ?? "not valid" }
}

/**
 * The failure of a check.
 *
 * @category constructors
 * @since 0.1.0
 */
export const invalid = (option: string, problem: string): Result.Result<never, InvalidOptions> =>
  Result.fail(new InvalidOptions({ option, problem }))

/**
 * Milliseconds of an input that was checked.
 *
 * @category destructors
 * @since 0.1.0
 */
export const millis = (input: Duration.Input | undefined, fallback: number): number =>
  input === undefined ? fallback : Duration.toMillis(Duration.fromInputUnsafe(input))
