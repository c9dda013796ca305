/**
 * What the caller of a publish is told of its outcome.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type { PublishGuarantee, PublishResult } from "../../services/MqttClient.ts"
import { PublishError } from "../../services/MqttError.ts"
import type { PublishPhase, PublishReason } from "../../services/MqttError.ts"
import type { Entry, Outcome } from "./Entry.ts"

/** What a publish that succeeded has reached. */
export const guaranteeOf = (entry: Pick<Entry, "qos" | "isRepublished">): PublishGuarantee =>
  entry.qos === 0 ? "queued" : entry.qos === 2 && entry.isRepublished !== true ? "exactlyOnce" : "atLeastOnce"

/** The outcome of nearly all publishes, made once for each QoS. */
const succeedPlain = ([0, 1, 2] as const).map((qos) =>
  Effect.succeed<PublishResult>({ qos, reasonCode: 0, reasonString: undefined, guarantee: guaranteeOf({ qos }) })
)

export const fail = (
  topic: string,
  reason: PublishReason,
  phase: PublishPhase = "queued"
): Effect.Effect<never, PublishError> => Effect.fail(new PublishError({ topic, phase, reason }))

/** What the caller of a publish learns of its outcome. */
export const toEffect = (entry: Entry, outcome: Outcome): Effect.Effect<PublishResult, PublishError> => {
  if (outcome._tag === "Failed") return fail(entry.topic, outcome.reason, entry.phase)
  const { reasonCode, reasonString } = outcome
  if (reasonCode === 0 && reasonString === undefined && entry.isRepublished !== true) return succeedPlain[entry.qos]!
  return Effect.succeed({ qos: entry.qos, reasonCode, reasonString, guarantee: guaranteeOf(entry) })
}
