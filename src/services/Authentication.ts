/**
 * Enhanced authentication (MQTT 5.0 §4.12): challenges and responses instead of, or beside, a password.
 *
 * @since 0.1.0
 */
import type * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"

/**
 * One exchange, from CONNECT to CONNACK, or from AUTH to AUTH where the client authenticates again. What it has to remember
 * between its steps (nonces, expected signatures) lives in its closures.
 *
 * @category options
 * @since 0.1.0
 */
export interface AuthenticationExchange {
  /** Authentication Data that begins the exchange. At most 65,535 bytes. */
  readonly data?: Redacted.Redacted<Uint8Array> | undefined
  /**
   * Answers a challenge of the server. Without it, and where it fails or dies, a challenge ends the connection. Bounded by
   * `connectTimeout`, with all the rest of the exchange.
   */
  readonly respond?:
    | ((challenge: Uint8Array | undefined) => Effect.Effect<Redacted.Redacted<Uint8Array> | undefined, unknown>)
    | undefined
  /**
   * Whether the server has proven who it is: gets the data of its last packet. False, or throwing, ends the connection. It
   * may not wait, since what the server sends next is already there: compute what you expect in `respond`.
   */
  readonly verify?: ((data: Uint8Array | undefined) => boolean) | undefined
  /** How long the authentication is good for, from the moment at which it was begun; see `refresh`. */
  readonly expiresIn?: Duration.Input | undefined
  /** When it ends, by the wall clock; a number is milliseconds since 1970. See `refresh`. */
  readonly expiresAt?: DateTime.DateTime | Date | number | undefined
}

/**
 * How the client authenticates (MQTT 5.0).
 *
 * @category options
 * @since 0.1.0
 */
export interface Authentication {
  /** The name of the method, such as `SCRAM-SHA-256`, as the server knows it. */
  readonly method: string
  /** Begins an exchange: evaluated for every CONNECT and every `reauthenticate`. Its failure is a failed attempt. */
  readonly exchange: Effect.Effect<AuthenticationExchange, unknown>
}
