import { assert, describe, it } from "@effect/vitest"
import { generate } from "./support/simulation/Program.ts"
import type { Action, ClientPlan, Program } from "./support/simulation/Program.ts"
import { shrink } from "./support/simulation/Shrink.ts"
import { run } from "./support/simulation/Simulation.ts"

const seeds = (from: number, count: number) => Array.from({ length: count }, (_, index) => from + index)

const client: ClientPlan = {
  name: "a",
  version: 5,
  isPersistent: true,
  keepAlive: 60,
  pingTimeoutMillis: 2_000,
  connectTimeoutMillis: 10_000,
  receiveMaximum: 10,
  sendMaximum: 10,
  topicAliasMaximum: 0,
  outbox: { maxBytes: 1_000_000, maxMessages: 100, strategy: "suspend", qos0Offline: "queue" },
  standing: { kind: "durable", filter: "t/#", qos: 2 },
  consumerMillis: 0,
  hasStore: false,
  hasInbox: false
}

const publish: Action = {
  _tag: "Publish",
  client: 0,
  topic: "t/a/0",
  qos: 2,
  count: 2,
  isSequential: false,
  padding: 0,
  timeoutMillis: undefined,
  expirySeconds: undefined,
  isOwn: false
}

/** One client that does this, with a second in between. */
const program = (...actions: ReadonlyArray<Action>): Program => ({
  seed: 1,
  isRough: false,
  latencyMillis: 0,
  windowBytes: 262_144,
  stepsPerTurn: 2_048,
  clients: [client],
  steps: actions.map((action) => ({ wait: { _tag: "Time", millis: 1_000 }, action }))
})

/** A packet that is lost on a link that goes on, which no network does. */
const swallow = (from: "client" | "broker", type: string): Action => ({
  _tag: "Drop",
  client: 0,
  from,
  type,
  skip: 0,
  cutAfterMillis: Number.MAX_SAFE_INTEGER
})

const kindsOf = async (...actions: ReadonlyArray<Action>) => {
  const { failures } = await run(program(...actions, { _tag: "Flush", client: 0 }))
  return [...new Set(failures.map(({ kind }) => kind))]
}

describe("simulation", () => {
  for (const first of seeds(0, 5).map((index) => index * 10 + 1)) {
    it(`seeds ${first} to ${first + 9}: nothing is lost, twice, out of order, leaked or hung (laws 3 to 10)`, async () => {
      const reports = await Promise.all(seeds(first, 10).map((seed) => run(generate(seed))))
      for (const { failures, program: { seed } } of reports) {
        assert.deepStrictEqual(failures, [], `npm run simulate -- --seed ${seed}`)
      }
    })
  }

  it("depends on the seed alone: a second run has the same log, to the letter (law 16)", async () => {
    const runs = [3, 3, 19, 19, 42, 42].map((seed) => run(generate(seed)))
    const logs = (await Promise.all(runs)).map(({ log }) => log())
    for (const index of [0, 2, 4]) {
      assert.isAbove(logs[index]!.length, 100)
      assert.deepStrictEqual(logs[index + 1], logs[index])
    }
  })

  it("has no complaint about a program without a fault", async () => {
    const report = await run(program(publish, publish))
    assert.deepStrictEqual(report.failures, [])
    assert.isAbove(report.messages, 4)
  })

  it("OR-04c: has no complaint about PUBRELs in the order of the PUBRECs that arrived", async () => {
    const garble: Action = { _tag: "Garble", client: 0, type: "Pubrec", skip: 1 }
    const cut = {
      _tag: "CutAt",
      client: 0,
      from: "client",
      type: "Pubrel",
      skip: 1,
      when: "before",
      how: "reset"
    } as const
    const report = await run(program(garble, cut, { ...publish, count: 3 }, { _tag: "Flush", client: 0 }))
    assert.deepStrictEqual(report.failures, [])
    assert.isAbove(report.log().filter((line) => / -> PUBREL/.test(line)).length, 4)
  })

  it("notices a message that is lost", async () => {
    assert.include(await kindsOf(swallow("broker", "Publish"), publish), "lost")
  })

  const crashes: ReadonlyArray<Action> = [
    {
      _tag: "CrashAt",
      client: 0,
      from: "broker",
      type: "Pubrec",
      skip: 0,
      when: "before",
      keepsStore: true,
      downMillis: 0
    },
    { ...publish, isOwn: true },
    { _tag: "CrashAtCommit", client: 0, change: "Received", skip: 0, downMillis: 0 },
    { ...publish, isOwn: true },
    { _tag: "Crash", client: 0, keepsStore: true, downMillis: 0 }
  ]
  for (const hasInbox of [true, false]) {
    it(`has no complaint about processes that are killed, ${hasInbox ? "with an inbox" : "with a store"} (law 8)`, async () => {
      const { clients, ...rest } = program(...crashes)
      const report = await run({ ...rest, clients: clients.map((plan) => ({ ...plan, hasStore: true, hasInbox })) })
      assert.deepStrictEqual(report.failures, [])
      assert.strictEqual(report.log().filter((line) => line.endsWith("th time")).length, 3)
    })
  }

  it("notices a publish that hangs, and what it holds", async () => {
    assert.includeMembers(await kindsOf(swallow("broker", "Pubrec"), publish), ["hung", "leaked"])
  })

  it("notices messages that change places", async () => {
    const delay: Action = { _tag: "Delay", client: 0, type: "Publish", millis: 500 }
    assert.include(await kindsOf(delay, publish), "reordered")
  })

  it("makes a program that fails small", async () => {
    const noise: ReadonlyArray<Action> = [publish, { _tag: "Pause", client: 0 }, { _tag: "Resume", client: 0 }]
    const failed = await run(program(...noise, swallow("broker", "Publish"), ...noise))
    assert.isNotEmpty(failed.failures)
    const { program: { steps } } = await shrink(failed, 50)
    const tags = steps.map(({ action }) => action._tag)
    assert.isAtMost(tags.length, 3)
    assert.includeMembers(tags, ["Drop", "Publish"])
  })
})
