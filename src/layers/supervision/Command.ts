/**
 * What a user asks a client's loop to do.
 *
 * @since 0.1.0
 */
import type * as Deferred from "effect/Deferred"
import type { Packet } from "../../protocol/index.ts"
import type { ClientClosed, ConnectError } from "../../services/MqttError.ts"
import type { Negotiated } from "../../services/Status.ts"

/** Waits for the outcome of an attempt. */
export type Answer = Deferred.Deferred<Negotiated, ConnectError | ClientClosed>

export type Command =
  | { readonly _tag: "Pause"; readonly done: Deferred.Deferred<void> }
  | { readonly _tag: "Resume"; readonly done: Answer }
  | { readonly _tag: "Reconnect"; readonly done: Answer }
  | { readonly _tag: "Disconnect"; readonly packet: Packet.Disconnect; readonly done: Deferred.Deferred<void> }
  | { readonly _tag: "Close"; readonly packet: Packet.Disconnect; readonly done: Deferred.Deferred<void> }

/** How an attempt is said to have ended that a command ended. */
export const interruptions = {
  Pause: "pause",
  Reconnect: "reconnect",
  Disconnect: "disconnect",
  Close: "close"
} as const

export const normalDisconnect: Packet.Disconnect = { _tag: "Disconnect", reasonCode: 0, properties: undefined }

/** The last packet of the connection that a command ends. */
export const finalPacket = (command: Command): Packet.Disconnect =>
  command._tag === "Disconnect" || command._tag === "Close" ? command.packet : normalDisconnect
