/**
 * Why a ping got no answer.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { ClientClosed, LinkLost } from "./LinkLost.ts"
import { Offline } from "./PublishError.ts"

/**
 * A ping got no answer: the link ended first, or there is none.
 *
 * @category errors
 * @since 0.1.0
 */
export class PingError extends Schema.TaggedError<PingError>()("PingError", {
  reason: Schema.Union([LinkLost, Offline, ClientClosed])
}) {
  override get message(): string {
    return `the ping got no answer: ${this.reason._tag === "Offline" ? "there is no connection" : this.reason.message}`
  }
}
