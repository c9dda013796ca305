/**
 * The Message Expiry Interval of publishes that wait in the outbox (MQTT 5.0 §3.3.2.3.3). What was sent once does not expire.
 *
 * @since 0.1.0
 */
import type { PublishProperties } from "../../protocol/Packet.ts"
import { MessageExpired } from "../../services/MqttError.ts"
import type { Entry } from "./Entry.ts"

/** Whether its time has passed; `now` is milliseconds of the monotonic clock. */
export const check = (entry: Entry, now: number): MessageExpired | undefined => {
  const messageExpiryInterval = entry.properties?.messageExpiryInterval
  if (messageExpiryInterval === undefined) return undefined
  const elapsed = now - entry.at
  return elapsed > 0 && elapsed >= messageExpiryInterval * 1000
    ? new MessageExpired({ messageExpiryInterval })
    : undefined
}

/** The properties for the wire: the whole seconds in the outbox are taken off (PB-11). */
export const remaining = (entry: Entry, now: number): PublishProperties | undefined => {
  const { properties } = entry
  if (properties?.messageExpiryInterval === undefined) return properties
  const elapsed = Math.floor((now - entry.at) / 1000)
  if (elapsed <= 0) return properties
  return { ...properties, messageExpiryInterval: properties.messageExpiryInterval - elapsed }
}
