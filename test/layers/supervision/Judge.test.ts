import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import { EndpointCycle } from "../../../src/layers/supervision/EndpointCycle.ts"
import { Judge } from "../../../src/layers/supervision/Judge.ts"
import type { Verdict } from "../../../src/layers/supervision/Judge.ts"
import type { ClientOptions } from "../../../src/services/ClientOptions.ts"
import {
  ConnectRefused,
  KeepAliveTimeout,
  OptionsUnavailable,
  ServerDisconnected,
  SessionStoreError,
  UnacknowledgedOverflow
} from "../../../src/services/MqttError.ts"
import type { LinkLost } from "../../../src/services/MqttError.ts"
import * as ResolvedOptions from "../../../src/services/ResolvedOptions.ts"
import type { ClientEvent } from "../../../src/services/Status.ts"

const resolve = (options: ClientOptions) => Result.getOrThrow(ResolvedOptions.resolve(options))
const three = resolve({ endpoints: ["mqtt://a", "mqtt://b", "mqtt://c"] })

const make = (options = three) => {
  const cycle = new EndpointCycle(() => 0)
  const events: Array<ClientEvent> = []
  const judge = new Judge(cycle, () => 0, { emit: (event) => events.push(event) })
  const lose = (cause: LinkLost, lasted = 60_000) => {
    cycle.next(options)
    cycle.connected()
    return judge.lost(cause, { lasted, isStable: lasted >= 30_000, now: 0, clientId: "c" }, options)
  }
  return { cycle, events, judge, lose }
}

const brief = (verdict: Verdict) => verdict._tag === "Next" ? "Next" : `${verdict._tag} ${verdict.cause._tag}`
const store = (kind: SessionStoreError["kind"]) =>
  new SessionStoreError({ operation: "commit", kind, store: "s", detail: "d" })
const refused = new ConnectRefused({ protocolVersion: 5, reasonCode: 0x88, name: "Server unavailable" })

describe("Judge", () => {
  it.effect("a lost connection that lasted is followed by the next at once; what is not the endpoint's fault is not", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<readonly [LinkLost, string]> = [
        [new KeepAliveTimeout({ keepAliveMillis: 1, pingTimeoutMillis: 1 }), "Next"],
        [new ServerDisconnected({ reasonCode: 0x9d, name: "" }), "Next"],
        [new ServerDisconnected({ reasonCode: 0x8e, name: "" }), "Wait ServerDisconnected"],
        [new UnacknowledgedOverflow({ bytes: 2, maximumBytes: 1 }), "Wait UnacknowledgedOverflow"],
        [store("full"), "Wait SessionStoreError"],
        [store("corrupt"), "Halt SessionStoreError"]
      ]
      for (const [cause, expected] of cases) assert.strictEqual(brief(yield* make().lose(cause)), expected)
    }))

  it.effect("an attempt that did not come to an endpoint, or failed by the store, is a round of its own", () =>
    Effect.gen(function*() {
      const { cycle, events, judge } = make()
      const candidate = cycle.next(three)
      const options = new OptionsUnavailable({ cause: "down" })
      assert.strictEqual(brief(yield* judge.failed(options, undefined, three)), "Wait ConnectError")
      assert.strictEqual(brief(yield* judge.failed(store("full"), candidate, three)), "Wait ConnectError")
      assert.strictEqual(brief(yield* judge.failed(store("corrupt"), candidate, three)), "Halt ConnectError")
      assert.strictEqual(brief(yield* judge.failed(refused, candidate, three)), "Next")
      assert.deepStrictEqual(
        events.map((event) => event._tag === "ConnectFailed" ? event.error.endpoint : event._tag),
        [undefined, undefined, undefined, "mqtt://a:1883"]
      )
    }))

  it.effect("reconnect false halts on whatever loss", () =>
    Effect.gen(function*() {
      const { lose } = make(resolve({ endpoints: ["mqtt://a", "mqtt://b"], reconnect: false }))
      assert.strictEqual(
        brief(yield* lose(new ServerDisconnected({ reasonCode: 0x8b, name: "" }))),
        "Halt ServerDisconnected"
      )
    }))

  it.effect("a short connection is a failed attempt, and a round of them is over", () =>
    Effect.gen(function*() {
      const { lose } = make()
      const cause = new ServerDisconnected({ reasonCode: 0x8b, name: "" })
      const verdicts = [yield* lose(cause, 10), yield* lose(cause, 10), yield* lose(cause, 10)]
      assert.deepStrictEqual(verdicts.map(brief), ["Next", "Next", "Wait ServerDisconnected"])
    }))
})
