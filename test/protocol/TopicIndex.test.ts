import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import type { ProtocolVersion } from "../../src/protocol/Packet.ts"
import * as TopicFilter from "../../src/protocol/TopicFilter.ts"
import * as TopicIndex from "../../src/protocol/TopicIndex.ts"
import conformance from "../fixtures/mqtt-conformance.data.json" with { type: "json" }

const found = (index: TopicIndex.TopicIndex<string>, topic: string): Array<string> => {
  const values: Array<string> = []
  index.forEachMatch(topic, (value, filter) => values.push(`${filter}=${value}`))
  return values.sort()
}

const levels = (alphabet: ReadonlyArray<string>) =>
  Arbitrary.filter(
    Arbitrary.map(
      Arbitrary.array(Arbitrary.schema(Schema.Literals(alphabet)), { minLength: 1, maxLength: 5 }),
      (parts) => parts.join("/")
    ),
    (text) => TopicFilter.validate(text) === undefined
  )
const anyTopic = levels(["", "a", "b", "$share", "g"])
const anyFilter = levels(["", "a", "b", "$share", "$share/g", "g", "+", "+", "#"])

/** Adds (`true`) or removes a pair of filter and one of two values. */
const anyChanges = Arbitrary.array(
  Arbitrary.all([Arbitrary.schema(Schema.Boolean), anyFilter, Arbitrary.schema(Schema.Literals(["x", "y"]))]),
  { maxLength: 40 }
)

describe("TopicIndex", () => {
  it("agrees with the truth table", () => {
    for (const row of conformance.topics) {
      if (row.expect !== "yes" && row.expect !== "no") continue
      const index = TopicIndex.make<string>()
      index.add(row.filter, "v")
      assert.strictEqual(found(index, row.topic).length, row.expect === "yes" ? 1 : 0, `${row.filter} ${row.topic}`)
    }
  })

  it("finds all filters that match, each value once per filter", () => {
    const index = TopicIndex.make<string>()
    for (const filter of ["a/b", "a/+", "+/b", "a/#", "#", "a/b/#", "a", "b/#", "+/+/+"]) index.add(filter, "v")
    index.add("a/b", "w")
    assert.deepStrictEqual(found(index, "a/b"), ["#=v", "+/b=v", "a/#=v", "a/+=v", "a/b/#=v", "a/b=v", "a/b=w"])
    assert.strictEqual(index.size, 10)
  })

  it("holds a pair once", () => {
    const index = TopicIndex.make<string>()
    assert.isTrue(index.add("a/+", "v"))
    assert.isFalse(index.add("a/+", "v"))
    assert.strictEqual(index.size, 1)
    assert.isTrue(index.remove("a/+", "v"))
    assert.isFalse(index.remove("a/+", "v"))
    assert.isFalse(index.remove("b", "v"))
    assert.strictEqual(index.size, 0)
  })

  it("keeps a shared and a plain subscription of one filter apart (SH-03p)", () => {
    const index = TopicIndex.make<string>()
    for (const filter of ["$share/g/a/+", "$share/h/a/+", "a/+"]) index.add(filter, "v")
    assert.deepStrictEqual(found(index, "a/x"), ["$share/g/a/+=v", "$share/h/a/+=v", "a/+=v"])
    index.remove("$share/g/a/+", "v")
    assert.deepStrictEqual(found(index, "a/x"), ["$share/h/a/+=v", "a/+=v"])
  })

  it("routes a shared filter both ways on 3.1.1, and once where both would match (SH-05p)", () => {
    const index = TopicIndex.make<string>(4)
    index.add("$share/g/a", "v")
    assert.strictEqual(found(index, "$share/g/a").length, 1)
    assert.strictEqual(found(index, "a").length, 1)
    index.add("$share/g/$share/#", "w")
    assert.strictEqual(found(index, "$share/g/$share/x").length, 1)
    assert.strictEqual(index.size, 2)
  })

  it("gives back its nodes when filters go", () => {
    const index = TopicIndex.make<number>()
    const filters = Array.from({ length: 1000 }, (_, i) => `site/${i % 10}/+/${i}/${i % 2 === 0 ? "#" : "state"}`)
    for (const filter of [...filters, "site/#", "site/1/+", "site/1/x", "#", "+"]) index.add(filter, 1)
    for (const filter of filters) assert.isTrue(index.remove(filter, 1))
    // The root, `site`, `site/1`, `site/1/+`, `+`, and the entry of the literal one.
    assert.strictEqual(index.nodes, 6)
    for (const filter of ["site/#", "site/1/+", "site/1/x", "#", "+"]) index.remove(filter, 1)
    assert.deepStrictEqual([index.size, index.nodes], [0, 0])
  })

  it("lets the visitor change what it visits", () => {
    const index = TopicIndex.make<string>()
    for (const value of ["u", "v", "w"]) index.add("a/+", value)
    const seen: Array<string> = []
    index.forEachMatch("a/b", (value) => {
      seen.push(value)
      for (const other of ["u", "v", "w"]) index.remove("a/+", other)
    })
    assert.isAtLeast(seen.length, 1)
    assert.deepStrictEqual(found(index, "a/b"), [])
    assert.deepStrictEqual([index.size, index.nodes], [0, 0])
  })

  it("handles 32,767 levels without recursion (TP-08p)", () => {
    const index = TopicIndex.make<string>()
    const topic = "a/".repeat(32_766) + "a"
    const filters = [topic, "+/".repeat(32_766) + "+", "a/".repeat(32_766) + "#"]
    for (const filter of filters) index.add(filter, "v")
    assert.strictEqual(found(index, topic).length, 3)
    for (const filter of filters) index.remove(filter, "v")
    assert.strictEqual(index.nodes, 0)
  })

  it("visits as many nodes as the topic has levels, however many filters there are", () => {
    const index = TopicIndex.make<number>()
    for (let i = 0; i < 20_000; i++) index.add(`device/${i}/+/state`, i)
    const seen: Array<number> = []
    for (let round = 0; round < 20_000; round++) index.forEachMatch("device/777/x/state", (value) => seen.push(value))
    // A walk over all filters would look at 400 million of them, and time out.
    assert.deepStrictEqual([seen.length, seen[0]], [20_000, 777])
  })

  it("finds the same with many values under one filter", () => {
    const index = TopicIndex.make<number>()
    for (let value = 0; value < 1_000; value++) assert.isTrue(index.add("a/+", value))
    assert.isFalse(index.add("a/+", 7))
    assert.strictEqual(index.matching("a/b").length, 1_000)
    for (let value = 0; value < 1_000; value += 2) assert.isTrue(index.remove("a/+", value))
    assert.isFalse(index.remove("a/+", 0))
    assert.deepStrictEqual(index.matching("a/b"), Array.from({ length: 500 }, (_, half) => half * 2 + 1))
    for (let value = 1; value < 1_000; value += 2) index.remove("a/+", value)
    assert.deepStrictEqual([index.size, index.nodes], [0, 0])
  })

  it("tells whether filters have topics in common", () => {
    const cases: ReadonlyArray<readonly [string, string, boolean]> = [
      ["a", "a", true],
      ["a", "b", false],
      ["a/#", "a", true],
      ["a/#", "b/#", false],
      ["a/+", "a/b/c", false],
      ["a/+", "+/b", true],
      ["+/x", "a/+/c", false],
      ["#", "+", true],
      ["#", "$SYS/x", false],
      ["+/x", "$SYS/+", false],
      ["$SYS/#", "$SYS/+", true],
      ["$share/g/a/+", "a/b", true],
      ["$share/g/a", "$share/h/a", true],
      ["a/b/#", "a/+/c/d", true],
      ["a//b", "a/+/b", true]
    ]
    for (const [one, two, expected] of cases) {
      for (const [filter, other] of [[one, two], [two, one]] as const) {
        const index = TopicIndex.make<string>()
        assert.isFalse(index.overlaps(other))
        index.add(filter, "v")
        assert.strictEqual(index.overlaps(other), expected, `${filter} ${other}`)
        assert.deepStrictEqual(index.overlapping(other), expected ? ["v"] : [], `${filter} ${other}`)
      }
    }
    const large = TopicIndex.make<string>()
    for (let n = 0; n < 2_000; n++) large.add(`x/${n}/a`, "v")
    assert.isFalse(large.overlaps("x/+/b", 10_000))
    // Past its effort it does not know, and says so.
    assert.isTrue(large.overlaps("x/+/b", 1_000))
    assert.deepStrictEqual(large.overlapping("x/+/b"), [])
    assert.isUndefined(large.overlapping("x/+/b", 1_000))
    assert.strictEqual(large.overlapping("x/#")?.length, 2_000)
  })

  it.prop(
    "all that overlap are found",
    [Arbitrary.array(anyFilter, { maxLength: 8 }), anyFilter],
    ([filters, other]) => {
      const index = TopicIndex.make<string>()
      for (const filter of filters) index.add(filter, filter)
      const alone = (filter: string) => {
        const one = TopicIndex.make<string>()
        one.add(filter, filter)
        return one.overlaps(other)
      }
      assert.sameMembers([...new Set(index.overlapping(other))], [...new Set(filters)].filter(alone))
    },
    { arbitrary: { runs: 500 } }
  )

  it.prop(
    "filters that match one topic overlap",
    [anyFilter, anyFilter, anyTopic],
    ([one, two, topic]) => {
      if (!TopicFilter.matches(one, topic) || !TopicFilter.matches(two, topic)) return
      const index = TopicIndex.make<string>()
      index.add(one, "v")
      assert.isTrue(index.overlaps(two))
    },
    { arbitrary: { runs: 3_000 } }
  )

  for (const version of [4, 5] satisfies Array<ProtocolVersion>) {
    it.prop(
      `agrees with TopicFilter.matches after any changes on version ${version}`,
      [anyChanges, Arbitrary.array(anyTopic, { minLength: 1, maxLength: 5 })],
      ([changes, topics]) => {
        const index = TopicIndex.make<string>(version)
        const model = new Set<string>()
        for (const [adds, filter, value] of changes) {
          const pair = `${filter}=${value}`
          if (adds) {
            assert.strictEqual(index.add(filter, value), !model.has(pair))
            model.add(pair)
          } else {
            assert.strictEqual(index.remove(filter, value), model.delete(pair))
          }
        }
        assert.strictEqual(index.size, model.size)
        for (const topic of topics) {
          const expected = [...model].filter((pair) => TopicFilter.matches(pair.slice(0, -2), topic, version)).sort()
          assert.deepStrictEqual(found(index, topic), expected)
          const values = expected.map((pair) => pair.slice(-1)).sort()
          assert.deepStrictEqual([...index.matching(topic)].sort(), values)
        }
        for (const pair of model) index.remove(pair.slice(0, -2), pair.slice(-1))
        assert.deepStrictEqual([index.size, index.nodes], [0, 0])
      },
      { arbitrary: { runs: 500 } }
    )
  }
})
