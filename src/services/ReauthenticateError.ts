/**
 * Why authenticating again failed.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { ClientClosed, LinkLost } from "./LinkLost.ts"
import { Offline } from "./PublishError.ts"

/**
 * The connection was made without `authentication`, so there is nothing to repeat.
 *
 * @category errors
 * @since 0.1.0
 */
export class NoAuthentication extends Schema.TaggedError<NoAuthentication>()("NoAuthentication", {}) {
  override get message(): string {
    return "the connection was made without the option \"authentication\""
  }
}

/**
 * Why authenticating again failed.
 *
 * @category errors
 * @since 0.1.0
 */
export const ReauthenticateReason = Schema.Union([NoAuthentication, LinkLost, Offline, ClientClosed])

/**
 * @category errors
 * @since 0.1.0
 */
export type ReauthenticateReason = typeof ReauthenticateReason.Type

/**
 * Authenticating again failed. With `AuthenticationFailed` of problem `exchange` the connection goes on as it was; with
 * everything else it has ended, or there was none.
 *
 * @category errors
 * @since 0.1.0
 */
export class ReauthenticateError extends Schema.TaggedError<ReauthenticateError>()("ReauthenticateError", {
  reason: ReauthenticateReason
}) {
  override get message(): string {
    return `the client could not authenticate again: ${this.reason.message}`
  }
}
