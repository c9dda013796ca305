/**
 * The brokers that the integration suites run on, with one face.
 */
import { describe, it } from "@effect/vitest"
import type { Scope } from "effect"
import { Effect } from "effect"
import * as Aedes from "./Aedes.ts"
import * as Mosquitto from "./Mosquitto.ts"

export type ProtocolVersion = 4 | 5

export interface Options {
  readonly users?: Readonly<Record<string, string>> | undefined
}

export interface Broker {
  readonly port: number
  readonly url: string
  /** Drops every connection and refuses new ones; sessions, queues and retained messages stay. */
  readonly stop: Effect.Effect<void>
  /** Accepts connections again, on the same port. */
  readonly start: Effect.Effect<void>
}

export interface Kind {
  readonly name: "Mosquitto" | "aedes"
  readonly make: (options?: Options) => Effect.Effect<Broker, never, Scope.Scope>
  /** Why there is none on this machine. */
  readonly missing: string | undefined
}

const mosquitto: Kind = {
  name: "Mosquitto",
  // Its defaults drop what a subscriber does not take fast enough; these suites count every message. No limit on the one and
  // a limit on the other make version 2.0.11 break off MQTT 3.1.1 connections at QoS 2.
  make: (options = {}) =>
    Mosquitto.make({ users: options.users, config: ["max_queued_messages 0", "max_inflight_messages 0"] }).pipe(
      Effect.map((broker) => ({ ...broker, start: Effect.orDie(broker.start) })),
      Effect.orDie
    ),
  missing: Mosquitto.binary === undefined
    ? "the program mosquitto was not found (Debian: apt install mosquitto)"
    : undefined
}

const aedes: Kind = {
  name: "aedes",
  make: (options = {}) => Aedes.make({ users: options.users }),
  missing: undefined
}

export const kinds: ReadonlyArray<Kind> = [mosquitto, aedes]

/**
 * Declares a suite once per broker. Where a broker is missing the suite is reported as skipped with the reason beside it;
 * on a build machine (`CI`) it fails.
 */
export const describeBrokers = (
  title: string,
  suite: (kind: Kind) => void,
  brokers: ReadonlyArray<Kind> = kinds
): void => {
  for (const kind of brokers) {
    describe(`${title} on ${kind.name}`, () => {
      const { missing } = kind
      if (missing === undefined) return suite(kind)
      it("finds its broker", ({ skip }) => {
        if ((process.env["CI"] ?? "") !== "" && process.env["CI"] !== "false") throw new Error(missing)
        skip(missing)
      })
    })
  }
}

/** The same, once per broker and protocol version. */
export const describeBrokersAndVersions = (
  title: string,
  suite: (kind: Kind, protocolVersion: ProtocolVersion) => void,
  brokers: ReadonlyArray<Kind> = kinds
): void =>
  describeBrokers(title, (kind) => {
    for (const protocolVersion of [4, 5] as const) {
      describe(protocolVersion === 4 ? "MQTT 3.1.1" : "MQTT 5.0", () => suite(kind, protocolVersion))
    }
  }, brokers)
