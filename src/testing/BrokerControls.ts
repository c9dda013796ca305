/**
 * How a test steers the broker of the kit: rules on packets, refusals, messages of others, and cuts.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type {
  ConnackProperties,
  DisconnectProperties,
  PublishProperties,
  QoS,
  ServerPacket
} from "../protocol/Packet.ts"
import type { BrokerConnection } from "./BrokerConnection.ts"
import type { BrokerCore, ConnackOverride } from "./BrokerCore.ts"
import { untilConnected } from "./BrokerView.ts"
import type { Watch } from "./BrokerView.ts"
import * as Hex from "./Hex.ts"
import { PacketRule } from "./PacketRules.ts"
import type { AnyRuleMatch, Cut, RuleAction } from "./PacketRules.ts"

/**
 * A message that the test publishes.
 *
 * @category models
 * @since 0.1.0
 */
export interface BrokerPublish {
  readonly topic: string
  /** Text is sent as UTF-8. Default: empty. */
  readonly payload?: Uint8Array | string | undefined
  /** Default 0. */
  readonly qos?: QoS | undefined
  /** Default false. */
  readonly retain?: boolean | undefined
  readonly properties?: PublishProperties | undefined
}

/**
 * A rule in force.
 *
 * @category models
 * @since 0.1.0
 */
export interface Rule {
  /** Packets that it took so far. */
  readonly hits: number
  readonly remove: Effect.Effect<void>
}

/**
 * A rule that holds packets.
 *
 * @category models
 * @since 0.1.0
 */
export interface Hold<P> extends Rule {
  /** The packets that are held now. */
  readonly held: ReadonlyArray<P>
  /** Waits until a packet is held, and gives the oldest. */
  readonly awaitHeld: Effect.Effect<P>
  /** Lets the oldest one go; false if there is none. */
  readonly releaseNext: Effect.Effect<boolean>
  /** Lets all go, in order, and ends the rule. */
  readonly release: Effect.Effect<void>
}

const text = new TextEncoder()

const toPayload = (payload: Uint8Array | string | undefined): Uint8Array =>
  typeof payload === "string" ? text.encode(payload) : payload?.slice() ?? new Uint8Array(0)

/**
 * The part of the service that makes rules.
 *
 * @internal
 */
export const makeRules = (core: BrokerCore, watch: Watch) => {
  const add = (match: AnyRuleMatch, action: RuleAction) => {
    const rule = new PacketRule(match, action)
    core.rules = [...core.rules, rule]
    return rule
  }
  const remove = (rule: PacketRule) =>
    Effect.sync(() => {
      rule.end()
      core.rules = core.rules.filter((other) => other !== rule)
    })
  const make = (match: AnyRuleMatch, action: RuleAction): Effect.Effect<Rule> =>
    Effect.sync(() => {
      const rule = add(match, action)
      return {
        get hits() {
          return rule.hits
        },
        remove: remove(rule)
      }
    })
  const hold = (match: AnyRuleMatch): Effect.Effect<Hold<never>> =>
    Effect.sync(() => {
      const held: Array<{ readonly packet: never; readonly go: () => void }> = []
      const rule = add(match, {
        _tag: "Hold",
        hold: (packet, go) => {
          held.push({ packet: packet as never, go })
          watch.changed()
        }
      })
      const letGo = (count: number) => Effect.sync(() => held.splice(0, count).map(({ go }) => go()).length > 0)
      return {
        get hits() {
          return rule.hits
        },
        get held() {
          return held.map(({ packet }) => packet)
        },
        awaitHeld: watch.until(() => held[0]?.packet),
        releaseNext: letGo(1),
        release: Effect.andThen(remove(rule), Effect.asVoid(letGo(Infinity))),
        remove: remove(rule)
      }
    })
  return {
    hold,
    delay: (match: AnyRuleMatch, delay: Duration.Input) =>
      make(match, { _tag: "Delay", millis: Duration.toMillis(Duration.fromInputUnsafe(delay)) }),
    drop: (match: AnyRuleMatch) => make(match, { _tag: "Drop" }),
    cutBefore: (match: AnyRuleMatch, how: Cut = "reset") => make(match, { _tag: "Cut", when: "before", how }),
    cutAfter: (match: AnyRuleMatch, how: Cut = "reset") => make(match, { _tag: "Cut", when: "after", how }),
    corrupt: (
      match: Omit<AnyRuleMatch, "from">,
      byte: { readonly offset: number; readonly mask?: number | undefined }
    ) =>
      make({ ...match, from: "broker" }, {
        _tag: "Corrupt",
        corrupt: (bytes) => {
          const corrupted = bytes.slice()
          const index = byte.offset < 0 ? bytes.length + byte.offset : byte.offset
          if (index < bytes.length) corrupted[index]! ^= byte.mask ?? 0xff
          return corrupted
        }
      }),
    replace: (
      match: Omit<AnyRuleMatch, "from">,
      replace: (packet: never) => ReadonlyArray<ServerPacket | Uint8Array>
    ) => make({ ...match, from: "broker" }, { _tag: "Replace", replace: (packet) => replace(packet as never) })
  }
}

/**
 * The part of the service that speaks and refuses.
 *
 * @internal
 */
export const makeControls = (core: BrokerCore, watch: Watch) => {
  const onClient = (clientId: string, f: (connection: BrokerConnection) => void) =>
    Effect.map(untilConnected(core, watch, clientId), f)
  const repeat = <A>(value: A, times: number | undefined) => Array.from({ length: times ?? 1 }, () => value)
  return {
    publish: (message: BrokerPublish) =>
      Effect.sync(() => {
        core.publish(core.toMessage({
          topic: message.topic,
          payload: toPayload(message.payload),
          qos: message.qos ?? 0,
          retain: message.retain ?? false,
          properties: message.properties
        }, undefined))
      }),
    refuseNext: (
      reasonCode: number,
      options?: { readonly times?: number | undefined; readonly properties?: ConnackProperties | undefined }
    ) =>
      Effect.sync(() => {
        core.refusals.push(...repeat({ reasonCode, properties: options?.properties }, options?.times))
      }),
    connackNext: (override: ConnackOverride, options?: { readonly times?: number | undefined }) =>
      Effect.sync(() => {
        core.connackOverrides.push(...repeat(override, options?.times))
      }),
    inject: (clientId: string, bytes: Uint8Array | string) =>
      onClient(clientId, ({ link }) => link.send(typeof bytes === "string" ? Hex.decode(bytes) : bytes)),
    disconnect: (clientId: string, reasonCode: number, properties?: DisconnectProperties) =>
      onClient(clientId, (connection) => connection.disconnect(reasonCode, properties)),
    cut: (clientId: string, how: Cut = "reset") => onClient(clientId, (connection) => connection.cut(how))
  }
}
