/**
 * What a client is doing: the state of its supervisor.
 *
 * @since 0.1.0
 */
import type * as Deferred from "effect/Deferred"
import type { ConnectError, HaltReason, LinkLost } from "../../services/MqttError.ts"
import type { Link } from "../connection/Link.ts"
import type * as Renewal from "./Renewal.ts"

/** What the client is doing. */
export type Mode =
  | { readonly _tag: "Connect" }
  | Connected
  | { readonly _tag: "Wait"; readonly cause: ConnectError | LinkLost; readonly atLeastMillis: number }
  | { readonly _tag: "Paused"; readonly done: Deferred.Deferred<void> }
  | { readonly _tag: "Halted"; readonly cause: HaltReason; readonly done: Deferred.Deferred<void> | undefined }
  | Off
  | { readonly _tag: "Closed"; readonly done: Deferred.Deferred<void> }

export interface Connected {
  readonly _tag: "Connected"
  readonly link: Link
  readonly at: number
  readonly renewal: Renewal.Renewal | undefined
}

/** Paused or halted, as everybody was told. */
export interface Off {
  readonly _tag: "Off"
  readonly isHalted: boolean
}

export const connect: Mode = { _tag: "Connect" }
export const paused: Off = { _tag: "Off", isHalted: false }
export const halted: Off = { _tag: "Off", isHalted: true }

/** Whether nothing but a command, or the end of the connection, leads on. */
export const rests = (mode: Mode): mode is Connected | Off =>
  mode._tag === "Off" || (mode._tag === "Connected" && mode.renewal === undefined && !mode.link.isOver)
