/**
 * What the limits of a server, or of the protocol, forbid.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * The server said in CONNACK that it does not support what is asked for. Nothing was sent.
 *
 * @category errors
 * @since 0.1.0
 */
export class NotSupportedByServer extends Schema.TaggedError<NotSupportedByServer>()("NotSupportedByServer", {
  feature: Schema.Literals([
    "qos",
    "retain",
    "wildcard subscription",
    "shared subscription",
    "subscription identifier",
    "topic alias"
  ]),
  detail: Schema.String
}) {
  override get message(): string {
    return `the server does not support this: ${this.detail}`
  }
}

/**
 * The packet would be larger than the server, the client or the protocol allows. Nothing was sent.
 *
 * @category errors
 * @since 0.1.0
 */
export class PacketTooLarge extends Schema.TaggedError<PacketTooLarge>()("PacketTooLarge", {
  /** Bytes. */
  size: Schema.Finite,
  /** Bytes. */
  limit: Schema.Finite,
  /** Whose limit it is. */
  of: Schema.Literals(["server", "protocol", "outbox"])
}) {
  override get message(): string {
    return `a packet of ${this.size} bytes is over the limit of the ${this.of} (${this.limit} bytes)`
  }
}
