/**
 * What a receiver has found out about a topic, kept at the place where the decoder remembers the topic: so that it need not
 * be looked up by name for each message.
 *
 * @since 0.1.0
 */

/**
 * Belongs to a topic for as long as the decoder remembers it.
 *
 * @category models
 * @since 0.1.0
 */
export interface TopicNote {
  /** Who has written `value`, and still stands by it. */
  owner: object | undefined
  value: unknown
}

/**
 * What may have one: a packet of a decoder that reuses its packets.
 *
 * @category models
 * @since 0.1.0
 */
export interface Noted {
  readonly note?: TopicNote | undefined
}

/**
 * @category constructors
 * @since 0.1.0
 */
export const make = (): TopicNote => ({ owner: undefined, value: undefined })
