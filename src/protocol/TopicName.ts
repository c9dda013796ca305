/**
 * Topic names, what a message is published to (MQTT 5.0 and 3.1.1 §4.7).
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import * as TopicMemory from "./TopicMemory.ts"
import * as Utf8 from "./Utf8.ts"

/**
 * Tells what is wrong with a topic name, as a clause that begins with `must`, or `undefined` when it is valid.
 *
 * **Details**
 *
 * A topic name has at least one character and no wildcard, and is well-formed UTF-8 of at most 65,535 bytes without
 * U+0000. Names that begin with `$` are valid: who may publish to them is the server's business.
 *
 * @category validation
 * @since 0.1.0
 */
export const validate = (text: string): string | undefined => {
  if (TopicMemory.get(text) !== undefined) return undefined
  const problem = problemOf(text)
  if (problem === undefined) TopicMemory.put(text)
  return problem
}

const problemOf = (text: string): string | undefined => {
  if (text.length === 0) return "must have at least one character"
  if (text.includes("+")) return "must not contain the wildcard \"+\""
  if (text.includes("#")) return "must not contain the wildcard \"#\""
  return Utf8.problemOf(Utf8.encodedLength(text))
}

/**
 * A valid topic name.
 *
 * @category schemas
 * @since 0.1.0
 */
export const TopicName = Schema.String.check(
  Schema.makeFilter((text: string) => validate(text), { expected: "a topic name" })
).pipe(Schema.brand("effect-mqtt/TopicName"))

/**
 * A string that is known to be a valid topic name.
 *
 * @category models
 * @since 0.1.0
 */
export type TopicName = typeof TopicName.Type
