/**
 * The properties of MQTT 5.0 as data: what each is (§2.2.2.2), and in which packet either side may send it (§3).
 *
 * @since 0.1.0
 */

/**
 * How a property is written.
 *
 * - `byte`: 0 or 1, held as a number
 * - `boolean`: 0 or 1, held as a boolean
 * - `uint16`, `uint32`, `varint`: integers of two and four bytes, and of variable length
 * - `string`, `binary`: with a length of two bytes in front
 * - `pair`: two strings, held in an array of pairs
 *
 * @category models
 * @since 0.1.0
 */
export type PropertyType = "byte" | "boolean" | "uint16" | "uint32" | "varint" | "string" | "binary" | "pair"

/**
 * One property of the standard.
 *
 * @category models
 * @since 0.1.0
 */
export interface Property {
  readonly id: number
  /** The standard's name in lower case, as faults name it. */
  readonly name: string
  /** The field of the `...Properties` interfaces that holds it. */
  readonly key: string
  readonly type: PropertyType
  /** The least value allowed; for integers only. */
  readonly min: number
}

const property = (id: number, name: string, key: string, type: PropertyType, min = 0): Property => ({
  id,
  name,
  key,
  type,
  min
})

/**
 * All 27 properties, by ascending identifier.
 *
 * @category constants
 * @since 0.1.0
 */
export const all: ReadonlyArray<Property> = [
  property(0x01, "payload format indicator", "payloadFormatIndicator", "byte"),
  property(0x02, "message expiry interval", "messageExpiryInterval", "uint32"),
  property(0x03, "content type", "contentType", "string"),
  property(0x08, "response topic", "responseTopic", "string"),
  property(0x09, "correlation data", "correlationData", "binary"),
  property(0x0b, "subscription identifier", "subscriptionIdentifier", "varint", 1),
  property(0x11, "session expiry interval", "sessionExpiryInterval", "uint32"),
  property(0x12, "assigned client identifier", "assignedClientIdentifier", "string"),
  property(0x13, "server keep alive", "serverKeepAlive", "uint16"),
  property(0x15, "authentication method", "authenticationMethod", "string"),
  property(0x16, "authentication data", "authenticationData", "binary"),
  property(0x17, "request problem information", "requestProblemInformation", "boolean"),
  property(0x18, "will delay interval", "willDelayInterval", "uint32"),
  property(0x19, "request response information", "requestResponseInformation", "boolean"),
  property(0x1a, "response information", "responseInformation", "string"),
  property(0x1c, "server reference", "serverReference", "string"),
  property(0x1f, "reason string", "reasonString", "string"),
  property(0x21, "receive maximum", "receiveMaximum", "uint16", 1),
  property(0x22, "topic alias maximum", "topicAliasMaximum", "uint16"),
  property(0x23, "topic alias", "topicAlias", "uint16", 1),
  property(0x24, "maximum qos", "maximumQoS", "byte"),
  property(0x25, "retain available", "retainAvailable", "boolean"),
  property(0x26, "user property", "userProperties", "pair"),
  property(0x27, "maximum packet size", "maximumPacketSize", "uint32", 1),
  property(0x28, "wildcard subscription available", "wildcardSubscriptionAvailable", "boolean"),
  property(0x29, "subscription identifier available", "subscriptionIdentifierAvailable", "boolean"),
  property(0x2a, "shared subscription available", "sharedSubscriptionAvailable", "boolean")
]

/**
 * The property with this identifier.
 *
 * @category getters
 * @since 0.1.0
 */
export const byId: ReadonlyMap<number, Property> = new Map(all.map((property) => [property.id, property]))

/**
 * The identifiers that each packet may carry from a client to a server. User properties repeat, nothing else does.
 *
 * @category constants
 * @since 0.1.0
 */
export const fromClient = {
  Connect: [0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27],
  Will: [0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26],
  Publish: [0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26],
  Puback: [0x1f, 0x26],
  Pubrec: [0x1f, 0x26],
  Pubrel: [0x1f, 0x26],
  Pubcomp: [0x1f, 0x26],
  Subscribe: [0x0b, 0x26],
  Unsubscribe: [0x26],
  Disconnect: [0x11, 0x1f, 0x26],
  Auth: [0x15, 0x16, 0x1f, 0x26]
} as const satisfies Readonly<Record<string, ReadonlyArray<number>>>

/**
 * The identifiers that each packet may carry from a server to a client. User properties repeat, and so do the
 * subscription identifiers of a PUBLISH.
 *
 * @category constants
 * @since 0.1.0
 */
export const fromServer = {
  Connack: [
    ...[0x11, 0x12, 0x13, 0x15, 0x16, 0x1a, 0x1c, 0x1f, 0x21, 0x22],
    ...[0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a]
  ],
  Publish: [0x01, 0x02, 0x03, 0x08, 0x09, 0x0b, 0x23, 0x26],
  Puback: [0x1f, 0x26],
  Pubrec: [0x1f, 0x26],
  Pubrel: [0x1f, 0x26],
  Pubcomp: [0x1f, 0x26],
  Suback: [0x1f, 0x26],
  Unsuback: [0x1f, 0x26],
  Disconnect: [0x1c, 0x1f, 0x26],
  Auth: [0x15, 0x16, 0x1f, 0x26]
} as const satisfies Readonly<Record<string, ReadonlyArray<number>>>
