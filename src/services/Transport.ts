/**
 * The byte stream below MQTT: dialling an endpoint, reading, writing, and giving up on a peer.
 *
 * A `Transport` knows nothing of MQTT. Every dial gives a fresh `Connection` whose writer belongs to it alone, so bytes of
 * an old connection can never precede the CONNECT of a new one.
 *
 * @since 0.1.0
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Endpoint } from "./Endpoint.ts"

/**
 * The phase of a connection in which the transport failed.
 *
 * - `dns`: the host name was being resolved
 * - `connect`: the stream was being opened
 * - `read`, `write`: the stream was open
 *
 * @category models
 * @since 0.1.0
 */
export const TransportPhase = Schema.Literals(["dns", "connect", "read", "write"])

/**
 * @category models
 * @since 0.1.0
 */
export type TransportPhase = typeof TransportPhase.Type

/**
 * A byte stream could not be opened, or ended.
 *
 * **Details**
 *
 * `kind` tells a clean end (`eof`: the peer closed its side), a reset (`reset`), a local abort (`aborted`), a refusal of
 * the dial (`refused`), a name that does not resolve (`unresolved`), a host that cannot be reached (`unreachable`) and a
 * dial that timed out in the operating system (`timeout`) apart; everything else is `other`. `code` is the system's own
 * error code where there is one (`ECONNREFUSED`).
 *
 * @category errors
 * @since 0.1.0
 */
export class TransportError extends Schema.TaggedError<TransportError>()("TransportError", {
  phase: TransportPhase,
  kind: Schema.Literals(["eof", "reset", "aborted", "refused", "unresolved", "unreachable", "timeout", "other"]),
  /** `host:port` or path of the peer; never with credentials. */
  address: Schema.String,
  code: Schema.optionalKey(Schema.String),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    const what = {
      eof: "the peer closed the connection",
      reset: "the connection was reset",
      aborted: "the connection was aborted locally",
      refused: "the connection was refused",
      unresolved: "the host name could not be resolved",
      unreachable: "the host is unreachable",
      timeout: "the operating system gave up dialling",
      other: "the transport failed"
    }[this.kind]
    return `${what} (${this.address}, ${this.phase}${this.code === undefined ? "" : `, ${this.code}`})`
  }
}

/**
 * One open byte stream.
 *
 * **Details**
 *
 * Closing the scope that opened it flushes what was written, half-closes, and destroys after a short grace if the peer does
 * not close its side; it never waits for a dead peer. A pull or a write that is suspended at that moment fails.
 *
 * @category models
 * @since 0.1.0
 */
export interface Connection {
  /**
   * The next non-empty batch of chunks, in order. Nothing is read ahead of a pull beyond the transport's own bounded
   * buffer. The chunks belong to the caller: the transport never writes to them again. Fails with `eof` at the end of the
   * stream, and goes on failing.
   */
  readonly pull: Effect.Effect<NonEmptyReadonlyArray<Uint8Array>, TransportError>
  /**
   * Writes one chunk; suspends while the peer does not take more, and fails (never hangs) once the stream is dead. The
   * chunk must not be changed afterwards. Writes must not overlap. An interrupted write may have been sent in part, so
   * nothing may be written after it.
   */
  readonly write: (chunk: Uint8Array) => Effect.Effect<void, TransportError>
  /** Destroys the stream now, without flushing and without waiting for the peer. A second call does nothing. */
  readonly abort: Effect.Effect<void>
}

/**
 * Opens byte streams to brokers.
 *
 * @category services
 * @since 0.1.0
 */
export class Transport extends Context.Service<Transport, {
  /**
   * Dials the endpoint. The dial can be interrupted at any moment; the stream is closed with the scope.
   */
  readonly connect: (endpoint: Endpoint) => Effect.Effect<Connection, TransportError, Scope.Scope>
}>()("effect-mqtt/services/Transport") {}
