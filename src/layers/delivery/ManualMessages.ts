/**
 * Messages as a consumer gets them that acknowledges each of them itself.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import { ReasonCode } from "../../protocol/index.ts"
import type { ManualMessage, RejectCode } from "../../services/Message.ts"
import type { Handed } from "./Delivery.ts"

const rejectCodes: ReadonlySet<unknown> = new Set(ReasonCode.fromClient.Puback.filter((code) => code >= 0x80))

/** Whether PUBACK and PUBREC may refuse a message with it. */
export const isRejectCode = (code: unknown): code is RejectCode => rejectCodes.has(code)

/** The message with its two ways to be settled. */
export const toManualMessage = (handed: Handed): ManualMessage => ({
  ...handed.message,
  ack: Effect.sync(() => handed.settle(0)),
  reject: (reasonCode) =>
    Effect.sync(() => {
      // The types allow no other, so that this is a defect of the caller.
      if (!isRejectCode(reasonCode)) throw new RangeError(`${reasonCode} is no reason code that refuses a message`)
      return handed.settle(reasonCode)
    })
})
