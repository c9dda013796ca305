/**
 * Faults on chosen packets: what a test asked to hold, delay, drop, cut, corrupt or replace.
 *
 * @since 0.1.0
 */
import type { ClientPacket, ServerPacket } from "../protocol/Packet.ts"

/**
 * Who sent a packet.
 *
 * @category models
 * @since 0.1.0
 */
export type Side = "client" | "broker"

/**
 * The packets that a side sends.
 *
 * @category models
 * @since 0.1.0
 */
export type PacketFrom<From extends Side> = From extends "client" ? ClientPacket : ServerPacket

/**
 * One kind of packet of a side.
 *
 * @category models
 * @since 0.1.0
 */
export type PacketOf<From extends Side, Type extends PacketFrom<From>["_tag"]> = Extract<
  PacketFrom<From>,
  { readonly _tag: Type }
>

/**
 * Chooses packets.
 *
 * @category options
 * @since 0.1.0
 */
export interface PacketMatch<From extends Side, Type extends PacketFrom<From>["_tag"]> {
  readonly from: From
  /** Default: any. */
  readonly type?: Type | undefined
  /** Default: any client. */
  readonly clientId?: string | undefined
  /** Default: all of that type. */
  readonly where?: ((packet: PacketOf<From, Type>) => boolean) | undefined
}

/**
 * Chooses packets and says for how many of them a rule holds.
 *
 * @category options
 * @since 0.1.0
 */
export interface RuleMatch<From extends Side, Type extends PacketFrom<From>["_tag"]> extends PacketMatch<From, Type> {
  /** How many matching packets pass untouched before. Default 0. */
  readonly skip?: number | undefined
  /** How many packets the rule is for. Default 1; `Infinity` for all. */
  readonly times?: number | undefined
}

/**
 * How a link is cut: by a reset, by an orderly close without DISCONNECT, or into a black hole that neither end is told of.
 *
 * @category models
 * @since 0.1.0
 */
export type Cut = "reset" | "fin" | "blackHole"

/**
 * @internal
 */
export type RuleAction =
  | { readonly _tag: "Hold"; readonly hold: (packet: ClientPacket | ServerPacket, go: () => void) => void }
  | { readonly _tag: "Delay"; readonly millis: number }
  | { readonly _tag: "Drop" }
  | { readonly _tag: "Cut"; readonly when: "before" | "after"; readonly how: Cut }
  | { readonly _tag: "Corrupt"; readonly corrupt: (bytes: Uint8Array) => Uint8Array }
  | {
    readonly _tag: "Replace"
    readonly replace: (packet: ServerPacket) => ReadonlyArray<ServerPacket | Uint8Array>
  }

/**
 * @internal
 */
export interface AnyMatch {
  readonly from: Side
  readonly type?: string | undefined
  readonly clientId?: string | undefined
  readonly where?: ((packet: never) => boolean) | undefined
}

/**
 * @internal
 */
export interface AnyRuleMatch extends AnyMatch {
  readonly skip?: number | undefined
  readonly times?: number | undefined
}

/**
 * @internal
 */
export const isMatch = (
  match: AnyMatch,
  from: Side,
  clientId: string,
  packet: ClientPacket | ServerPacket
): boolean =>
  match.from === from &&
  (match.type === undefined || match.type === packet._tag) &&
  (match.clientId === undefined || match.clientId === clientId) &&
  (match.where === undefined || match.where(packet as never))

/**
 * @internal
 */
export class PacketRule {
  readonly match: AnyMatch
  readonly action: RuleAction
  private skip: number
  private left: number
  hits = 0

  constructor(match: AnyRuleMatch, action: RuleAction) {
    this.match = match
    this.action = action
    this.skip = match.skip ?? 0
    this.left = match.times ?? 1
  }

  get isSpent(): boolean {
    return this.left <= 0
  }

  end(): void {
    this.left = 0
  }

  /** Whether the rule takes this packet; it counts. */
  take(from: Side, clientId: string, packet: ClientPacket | ServerPacket): boolean {
    if (this.left <= 0 || !isMatch(this.match, from, clientId, packet)) return false
    if (this.skip > 0) {
      this.skip--
      return false
    }
    this.left--
    this.hits++
    return true
  }
}
