import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import type { Scope } from "effect"
import { MqttClient } from "../../src/index.ts"
import { TestBroker } from "../../src/testing.ts"
import { kinds } from "./support/Brokers.ts"
import * as Client from "./support/Client.ts"
import type { Connect, Scenario } from "./support/Scenarios.ts"
import { scenarios } from "./support/Scenarios.ts"

interface Subject {
  readonly name: "TestBroker" | "Mosquitto" | "aedes"
  /** Why there is none on this machine. */
  readonly missing: string | undefined
  readonly start: (version: 4 | 5) => Effect.Effect<Connect, never, Scope.Scope>
}

/** The broker of the testing kit, on the real clock as the others are. */
const testBroker: Subject = {
  name: "TestBroker",
  missing: undefined,
  start: Effect.fnUntraced(function*(protocolVersion) {
    const services = yield* Layer.build(TestBroker.layer({ noMatchingSubscribers: true }))
    return (options) =>
      MqttClient.make({ endpoint: "mqtt://broker", protocolVersion, reconnect: Client.quickReconnect, ...options })
        .pipe(
          Effect.provideContext(Context.omit(TestBroker.TestBroker)(services))
        )
  })
}

const subjects: ReadonlyArray<Subject> = [
  testBroker,
  ...kinds.map((kind): Subject => ({
    name: kind.name,
    missing: kind.missing,
    start: (protocolVersion) =>
      Effect.map(
        kind.make(),
        ({ url }): Connect => (options) => Client.make({ endpoint: url, protocolVersion, ...options })
      )
  }))
]

interface Difference {
  readonly broker: Subject["name"]
  readonly scenario: string
  readonly versions: ReadonlyArray<4 | 5>
  readonly why: string
  /** What this broker shows instead. */
  readonly observed: unknown
}

/** Where the brokers differ from each other, and why. Everything else they show alike. */
const differences: ReadonlyArray<Difference> = [
  {
    broker: "Mosquitto",
    scenario: "ends the older of two connections of one client id with reason 0x8e",
    versions: [5],
    why: "version 2.0.11 closes the older connection without DISCONNECT",
    observed: ["Reconnecting", "TransportLost", undefined]
  },
  {
    broker: "Mosquitto",
    scenario: "says with reason 0x10 that nobody subscribes to a topic",
    versions: [5],
    why: "it says so at QoS 1 only, which the standard leaves to the server",
    observed: [0x10, 0]
  },
  {
    broker: "aedes",
    scenario: "delivers at the lower of the two QoS, in order",
    versions: [4, 5],
    why: "it delivers QoS 2 to a wildcard subscription of QoS 1",
    observed: [[["0", 0], ["1", 0], ["2", 0]], [["0", 0], ["1", 1], ["2", 2]], [["0", 0], ["1", 1], ["2", 2]]]
  },
  {
    broker: "aedes",
    scenario: "passes the properties of a message on, user properties in order",
    versions: [5],
    why: "its codec groups user properties by name",
    observed: {
      contentType: "text/plain",
      responseTopic: "answers/1",
      correlationData: [0, 255, 7],
      payloadFormat: "utf8",
      expires: true,
      userProperties: [["a", "1"], ["a", "3"], ["b", "2"]]
    }
  },
  {
    broker: "aedes",
    scenario: "gives each message of a shared subscription to one of its members",
    versions: [5],
    why: "it has no shared subscriptions, and says so in CONNACK",
    observed: "NotSupportedByServer"
  },
  {
    broker: "aedes",
    scenario: "hands each message of a shared subscription to it alone, whatever else matches",
    versions: [5],
    why: "it has no shared subscriptions, and says so in CONNACK",
    observed: "NotSupportedByServer"
  },
  {
    broker: "aedes",
    scenario: "leaves out a message that is larger than the client takes",
    versions: [5],
    why: "it sends packets beyond the client's Maximum Packet Size",
    observed: ["the client is Reconnecting"]
  },
  {
    broker: "aedes",
    scenario: "says with reason 0x10 that nobody subscribes to a topic",
    versions: [5],
    why: "it never says so, which the standard leaves to the server",
    observed: [0, 0]
  }
]

const observe = (scenario: Scenario, subject: Subject, version: 4 | 5) =>
  Effect.flatMap(subject.start(version), (connect) => scenario.run(connect))

describe("the same scenarios on three brokers", () => {
  for (const subject of subjects) {
    const suite = subject.missing === undefined || process.env["CI"] === "true" ? describe : describe.skip
    suite(subject.missing === undefined ? subject.name : `${subject.name} (skipped: ${subject.missing})`, () => {
      for (const scenario of scenarios) {
        for (const version of scenario.versions) {
          const difference = differences.find((other) =>
            other.broker === subject.name && other.scenario === scenario.name && other.versions.includes(version)
          )
          const title = `${scenario.name}, MQTT ${version === 5 ? "5.0" : "3.1.1"}` +
            (difference === undefined ? "" : ` (differs: ${difference.why})`)
          it.live(title, () =>
            Effect.gen(function*() {
              const observed = yield* observe(scenario, subject, version)
              assert.deepStrictEqual(observed, difference === undefined ? scenario.expected : difference.observed)
            }), 10_000)
        }
      }
    })
  }
})
