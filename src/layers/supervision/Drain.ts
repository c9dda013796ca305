/**
 * The grace that a client takes before its close.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import { ClientClosed } from "../../services/MqttError.ts"
import type { ClientCore } from "../ClientCore.ts"
import type { Link } from "../connection/Link.ts"

/** Takes nothing new, and waits for what was taken to be sent and acknowledged, as long as the link lives. */
export const drain = (core: ClientCore, link: Link, withinMillis: number): Effect.Effect<void> => {
  const drained = Effect.callback<void>((resume) => {
    if (core.isDrained) return resume(Effect.void)
    const cancel = core.whenDone(() => core.isDrained, () => resume(Effect.void))
    return Effect.sync(cancel)
  })
  return Effect.suspend(() => {
    core.refuse(new ClientClosed())
    return Effect.raceFirst(drained, Effect.asVoid(link.ended)).pipe(
      Effect.timeoutOrElse({ duration: withinMillis, orElse: () => Effect.void })
    )
  })
}
