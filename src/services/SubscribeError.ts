/**
 * Why a subscription failed.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { ReasonCode } from "../protocol/index.ts"
import { ClientClosed, ClientHalted } from "./LinkLost.ts"
import { NoSessionStore, SessionStoreError } from "./SessionStore.ts"
import { NotSupportedByServer, PacketTooLarge } from "./ServerLimits.ts"

/**
 * The subscription is not valid. Nothing was sent.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidSubscription extends Schema.TaggedError<InvalidSubscription>()("InvalidSubscription", {
  field: Schema.String,
  problem: Schema.String
}) {
  override get message(): string {
    return `"${this.field}" of the subscription is not valid: ${this.problem}`
  }
}

/**
 * The server refused a filter in SUBACK (§3.9.3).
 *
 * @category errors
 * @since 0.1.0
 */
export class SubscriptionRefused extends Schema.TaggedError<SubscriptionRefused>()("SubscriptionRefused", {
  filter: Schema.String,
  reasonCode: Schema.Int,
  name: Schema.String,
  reasonString: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    return `the server refused the subscription to "${this.filter}": ${this.name} (${
      ReasonCode.toHex(this.reasonCode)
    })`
  }
}

/**
 * The buffer of the subscription was full and its strategy is `"fail"`.
 *
 * @category errors
 * @since 0.1.0
 */
export class SubscriptionOverflow extends Schema.TaggedError<SubscriptionOverflow>()("SubscriptionOverflow", {
  /** Messages. */
  capacity: Schema.Int
}) {
  override get message(): string {
    return `the subscription's buffer of ${this.capacity} messages was full (overflow: "fail")`
  }
}

/**
 * Why a subscription failed.
 *
 * @category errors
 * @since 0.1.0
 */
export const SubscribeReason = Schema.Union([
  InvalidSubscription,
  SubscriptionRefused,
  SubscriptionOverflow,
  NotSupportedByServer,
  PacketTooLarge,
  ClientHalted,
  ClientClosed,
  SessionStoreError,
  NoSessionStore
])

/**
 * @category errors
 * @since 0.1.0
 */
export type SubscribeReason = typeof SubscribeReason.Type

/**
 * A subscription could not be made, or ended.
 *
 * @category errors
 * @since 0.1.0
 */
export class SubscribeError
  extends Schema.TaggedError<SubscribeError>()("SubscribeError", { reason: SubscribeReason })
{
  override get message(): string {
    return this.reason.message
  }
}
