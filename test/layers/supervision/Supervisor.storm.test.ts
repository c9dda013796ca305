import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Random, Scheduler, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as MqttClient from "../../../src/layers/MqttClient.ts"
import type { ClientEvent, Status } from "../../../src/services/Status.ts"
import { MemoryNetwork, TestBroker } from "../../../src/testing/index.ts"
import { start, watchStatus } from "../../support/ScriptedBroker.ts"
import { label } from "../../support/Supervision.ts"

/** What may follow what. A `reconnect` during an attempt begins another one. */
const successors: Readonly<Record<Status["_tag"], ReadonlyArray<Status["_tag"]>>> = {
  Connecting: ["Connected", "Reconnecting", "Connecting", "Paused", "Halted", "Closed"],
  Connected: ["Reconnecting", "Connecting", "Paused", "Halted", "Closed"],
  Reconnecting: ["Connecting", "Paused", "Halted", "Closed"],
  Paused: ["Connecting", "Halted", "Closed"],
  Halted: ["Connecting", "Closed"],
  Closed: []
}

/** The pairing rule, over all that was seen. Where there are several endpoints, the next attempt may follow at once. */
const checkPairing = (seen: ReadonlyArray<Status>, isOneEndpoint: boolean) => {
  for (const [index, status] of seen.entries()) {
    const following = seen[index + 1]
    if (following === undefined) continue
    const story = seen.slice(Math.max(0, index - 3), index + 2).map(label).join(", ")
    assert.include(successors[status._tag], following._tag, story)
    if (following._tag === "Connecting" && isOneEndpoint) {
      // It is either the attempt that was announced, or one that a command began.
      const announced = status._tag === "Reconnecting" ? [1, status.attempt] : [1]
      assert.include(announced, following.attempt, story)
    }
    if (status._tag === "Connecting" && following._tag === "Reconnecting") {
      assert.strictEqual(following.attempt, status.attempt + 1, story)
    }
    if (status._tag === "Connecting" && following._tag === "Connecting") {
      assert.include(isOneEndpoint ? [1] : [1, status.attempt + 1], following.attempt, story)
    }
  }
}

/** Events tell the same story: every connection is announced once, and lost at most once. */
const checkEvents = (events: ReadonlyArray<ClientEvent>, seen: ReadonlyArray<Status>) => {
  const count = (tag: ClientEvent["_tag"]) => events.filter((event) => event._tag === tag).length
  const statuses = (tag: Status["_tag"]) => seen.filter((status) => status._tag === tag).length
  assert.strictEqual(count("Connected"), statuses("Connected"))
  assert.strictEqual(count("Paused"), statuses("Paused"))
  assert.strictEqual(count("Halted"), statuses("Halted"))
  assert.isAtMost(count("ConnectionLost"), count("Connected"))
}

const pick = <A>(choices: ReadonlyArray<A>) =>
  Effect.map(Random.nextIntBetween(0, choices.length, { halfOpen: true }), (index) => choices[index]!)

const fibers = 8
const commandsEach = 6

/**
 * What happens besides commands: links that are cut and servers that hang up; only attempts that fail; or all of it with
 * several endpoints, redirects, and credentials that end.
 */
type Weather = "faults" | "refusals" | "rounds"

const storm = (seed: number, weather: Weather) =>
  Effect.gen(function*() {
    const broker = yield* TestBroker.TestBroker
    const network = yield* MemoryNetwork.MemoryNetwork
    const scope = yield* Scope.make()
    yield* Effect.addFinalizer((exit) => Scope.close(scope, exit))
    const options: MqttClient.ClientOptions = {
      endpoint: "mqtt://a",
      clientId: "c",
      // Retained, so that it cannot be overlooked.
      will: { topic: "gone", retain: true },
      drainTimeout: 0,
      firstConnect: "retry"
    }
    const client = yield* Scope.provide(MqttClient.make(options), scope)
    const seen = yield* watchStatus(client)
    const events: Array<ClientEvent> = []
    yield* start(Stream.runForEach(client.events, (event) => Effect.sync(() => events.push(event))))
    const consumer = yield* start(Stream.runDrain(client.subscribe("t/#")))

    const endpointsOf = Effect.gen(function*(): Effect.fn.Return<MqttClient.ClientOptions> {
      return {
        endpoint: undefined,
        endpoints: yield* pick([["mqtt://a", "mqtt://b"], ["mqtt://c", "mqtt://a", "mqtt://b"], ["mqtt://a"]]),
        failover: {
          order: yield* pick(["inOrder", "shuffled"] as const),
          afterLoss: yield* pick(["sticky", "next", "preferFirst"] as const)
        },
        reconnect: { stableAfter: yield* pick(["1 second", "30 seconds"] as const) },
        redirect: "follow",
        credentials: Effect.succeed({ username: "u", expiresIn: "2 seconds" })
      }
    })
    const optionsOf = Effect.gen(function*(): Effect.fn.Return<MqttClient.ClientOptions> {
      return {
        ...options,
        endpoint: `mqtt://${yield* pick(["a", "b"])}`,
        ...(weather === "rounds" ? yield* endpointsOf : undefined),
        clientId: yield* pick(["c", "d"]),
        protocolVersion: yield* pick([4, 5] as const),
        sessionExpiry: yield* pick([0, "1 hour"] as const),
        keepAlive: yield* pick(["1 second", "60 seconds"] as const)
      }
    })
    // The broker would wait for a client that is not there.
    const ifConnected = (effect: Effect.Effect<void>) => Effect.timeoutOption(effect, "1 millis")
    const actions: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
      client.pause,
      client.resume,
      client.reconnect(),
      Effect.flatMap(optionsOf, (update) => client.reconnect(update)),
      Effect.flatMap(optionsOf, (update) => client.updateOptions(update)),
      client.disconnect(),
      // A caller that does not wait for the end.
      Effect.flatMap(optionsOf, (update) => Effect.timeoutOption(client.reconnect(update), "1 millis")),
      client.publish({ topic: "t/a", payload: "x", qos: 1 }, { timeout: "5 seconds" }),
      Effect.ignore(client.ping),
      broker.refuseNext(0x87),
      broker.refuseNext(0x89),
      network.failDials({}, "refused", { times: 1 }),
      network.failDials({}, "silent", { times: 1 }),
      ...(weather === "refusals" ? [] : [
        ifConnected(broker.cut("c")),
        ifConnected(broker.disconnect("d", 0x8b)),
        ifConnected(broker.disconnect("c", 0x8e))
      ]),
      ...(weather === "rounds"
        ? [
          broker.refuseNext(0x9c, { properties: { serverReference: "d e" } }),
          broker.refuseNext(0x9d, { properties: { serverReference: "b" } }),
          ifConnected(broker.disconnect("c", 0x9c, { serverReference: "f" })),
          ifConnected(broker.disconnect("d", 0x9d, { serverReference: "a b" })),
          network.failDials({ host: "a" }, "refused", { times: 2 }),
          network.failDials({ host: "b" }, "unreachable", { times: 2 })
        ]
        : [])
    ]
    const act = Effect.gen(function*() {
      for (let round = 0; round < commandsEach; round++) {
        const action = yield* pick(actions)
        const pauseMillis = yield* pick([0, 0, 0, 1, 10, 500, 1_500])
        const turns = yield* pick([0, 1, 2, 3, 5, 8])
        if (pauseMillis > 0) yield* Effect.sleep(pauseMillis)
        for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
        yield* Effect.exit(action)
      }
    })
    const actors = yield* Effect.forEach(Array.from({ length: fibers }), (_, index) =>
      start(Random.withSeed(act, `${seed}:${index}`)))

    // Law 6: every call ends. Half a minute covers attempts that hang and every delay.
    for (
      let step = 0;
      step < 1_200 && actors.some((actor) =>
        actor.pollUnsafe() === undefined
      );
      step++
    ) {
      yield* TestClock.adjust("250 millis")
    }
    for (const actor of actors) assert.isDefined(actor.pollUnsafe(), `seed ${seed}: a call never ended`)

    // Whatever it came to, the client is one, and can be brought back.
    yield* network.healDials
    yield* network.settle
    const { _tag } = yield* client.status
    if (_tag === "Paused" || _tag === "Halted") {
      assert.strictEqual(network.openConnections, 0, `seed ${seed}: a connection while ${_tag}`)
    }
    // More often than anything can still refuse.
    for (let attempt = 0; attempt < 50 && (yield* client.status)._tag !== "Connected"; attempt++) {
      const resume = yield* start(Effect.exit(client.resume))
      for (let step = 0; step < 200 && resume.pollUnsafe() === undefined; step++) yield* TestClock.adjust("250 millis")
      assert.isDefined(resume.pollUnsafe(), `seed ${seed}: resume never ended`)
    }
    assert.strictEqual((yield* client.status)._tag, "Connected", `seed ${seed}`)
    assert.strictEqual(network.openConnections, 1, `seed ${seed}`)
    const publish = yield* start(client.publish({ topic: "t/a", payload: "last", qos: 1 }))
    yield* network.settle
    const outcome = publish.pollUnsafe()
    assert.isTrue(outcome !== undefined && Exit.isSuccess(outcome), `seed ${seed}: the publish`)

    yield* Scope.close(scope, Exit.void)
    yield* Fiber.await(consumer)
    yield* network.settle
    assert.strictEqual(network.openConnections, 0, `seed ${seed}: a connection outlives the client`)
    assert.strictEqual(seen.at(-1)?._tag, "Closed")
    checkPairing(seen, weather !== "rounds")
    checkEvents(events, seen)
    assert.deepStrictEqual(broker.violations, [])
    // No command makes a will fire.
    if (weather === "refusals") assert.deepStrictEqual(broker.retained, [], `seed ${seed}: the will fired`)
    return seen.length
  }).pipe(
    Effect.provide(TestBroker.layer()),
    Effect.scoped,
    Random.withSeed(seed),
    // Short turns open every gap between two steps.
    Effect.provideService(Scheduler.MaxOpsBeforeYield, [2_048, 3, 5, 11][seed % 4]!)
  )

describe("Supervisor", () => {
  describe("a storm of commands", () => {
    const laws = {
      faults: "law 6: every call ends, and every status has one of its successors",
      refusals: "DC-10: no pause, reconnect, disconnect or close makes the will fire",
      rounds: "law 6: every call ends with several endpoints, redirects and credentials that end"
    } as const
    for (const weather of ["faults", "refusals", "rounds"] as const) {
      for (let first = 0; first < 24; first += 8) {
        it.effect(`${laws[weather]} (seeds ${first} to ${first + 7})`, () =>
          Effect.gen(function*() {
            let statuses = 0
            for (let seed = first; seed < first + 8; seed++) statuses += yield* storm(seed, weather)
            // A storm that does nothing shows nothing.
            assert.isAbove(statuses, 8 * 12)
          }))
      }
    }
  })
})
