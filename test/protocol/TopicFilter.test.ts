import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Result, Schema } from "effect"
import * as TopicFilter from "../../src/protocol/TopicFilter.ts"
import * as TopicName from "../../src/protocol/TopicName.ts"
import conformance from "../fixtures/mqtt-conformance.data.json" with { type: "json" }

/** A chunk of levels from a small alphabet, so that filters and topics meet often. */
const levels = (alphabet: ReadonlyArray<string>) =>
  Arbitrary.map(
    Arbitrary.array(Arbitrary.schema(Schema.Literals(alphabet)), { minLength: 1, maxLength: 6 }),
    (parts) => parts.join("/")
  )
const anyTopic = Arbitrary.filter(levels(["", "a", "b", "$a", "é"]), (text) => text.length > 0)
const anyFilter = Arbitrary.filter(
  levels(["", "a", "b", "$a", "é", "+", "+", "#"]),
  (text) => TopicFilter.validate(text) === undefined
)

/** The standard's rule written down level by level, slow and plain. */
const matchesByLevels = (filter: string, topic: string): boolean => {
  const wanted = filter.split("/")
  const given = topic.split("/")
  if (topic.startsWith("$") && (wanted[0] === "+" || wanted[0] === "#")) return false
  for (const [i, level] of wanted.entries()) {
    if (level === "#") return true
    if (i >= given.length || (level !== "+" && level !== given[i])) return false
  }
  return wanted.length === given.length
}

describe("TopicFilter", () => {
  describe("truth table", () => {
    let plain = 0
    let shared = 0
    for (const row of conformance.topics) {
      const key = row.shared ? `H${++shared}` : `T${++plain}`
      const filter = row.filter === "(empty)" ? "" : row.filter
      const topic = row.topic === "(empty)" ? "" : row.topic
      it(`${key}: ${JSON.stringify(row.filter)} and ${JSON.stringify(row.topic)}: ${row.expect} (${row.why})`, () => {
        switch (row.expect) {
          case "bad filter":
            return assert.isString(TopicFilter.validate(filter))
          case "bad topic":
            return assert.isString(TopicName.validate(topic))
          default:
            assert.isUndefined(TopicFilter.validate(filter))
            assert.isUndefined(TopicName.validate(topic))
            return assert.strictEqual(TopicFilter.matches(filter, topic), row.expect === "yes")
        }
      })
    }

    it("has 63 plain and 14 shared rows", () => {
      assert.deepStrictEqual([plain, shared], [63, 14])
    })
  })

  describe("validate", () => {
    it("names the misplaced wildcard (TP-01b, TP-02b)", () => {
      assert.strictEqual(TopicFilter.validate("a#"), "must not have \"#\" behind anything but \"/\"")
      assert.strictEqual(TopicFilter.validate("a/#/b"), "must not have anything behind \"#\"")
      assert.strictEqual(TopicFilter.validate("a+/b"), "must not have \"+\" beside other characters in a level")
      assert.isUndefined(TopicFilter.validate("+/+/a/+/#"))
    })

    it("refuses the empty filter and U+0000 (TP-04b, TP-05b)", () => {
      assert.strictEqual(TopicFilter.validate(""), "must have at least one character")
      assert.match(TopicFilter.validate("a\0b") ?? "", /U\+0000/)
    })

    it("counts bytes of UTF-8 up to 65,535 (TP-06b, U8-05p)", () => {
      assert.isUndefined(TopicFilter.validate("a".repeat(65_535)))
      assert.isString(TopicFilter.validate("a".repeat(65_536)))
      assert.isUndefined(TopicFilter.validate("é".repeat(32_767)))
      assert.isString(TopicFilter.validate("é".repeat(32_768)))
    })

    it("accepts filters of topics that begin with $ (TP-09p)", () => {
      assert.isUndefined(TopicFilter.validate("$SYS/#"))
      assert.isUndefined(TopicFilter.validate("$"))
    })

    it("wants a share name and a filter behind $share/ (SH-01c)", () => {
      for (const filter of ["$share/", "$share//x", "$share/g"]) assert.isString(TopicFilter.validate(filter), filter)
      assert.strictEqual(TopicFilter.validate("$share//x"), "must have a share name behind \"$share/\"")
      assert.strictEqual(TopicFilter.validate("$share/g"), "must have a topic filter behind the share name")
    })

    it("wants a share name without wildcards and a valid filter (SH-02c)", () => {
      for (const filter of ["$share/g+/x", "$share/#/x", "$share/#", "$share/g/", "$share/g/a/#/b", "$share/g/a+"]) {
        assert.isString(TopicFilter.validate(filter), filter)
      }
      for (const filter of ["$share/g//x", "$share/g/#", "$share/g/+"]) {
        assert.isUndefined(TopicFilter.validate(filter), filter)
      }
    })

    it("takes $share/ as an ordinary filter on 3.1.1 (SH-05p)", () => {
      for (const filter of ["$share/", "$share//x", "$share/g", "$share/+/x", "$share/#"]) {
        assert.isUndefined(TopicFilter.validate(filter, 4), filter)
      }
      assert.isString(TopicFilter.validate("$share/g+/x", 4))
    })
  })

  describe("matches", () => {
    it("lets no leading wildcard reach topics that begin with $ (TP-03s)", () => {
      for (const filter of ["#", "+", "+/#", "+/a"]) assert.isFalse(TopicFilter.matches(filter, "$a/a"), filter)
      assert.isTrue(TopicFilter.matches("$a/#", "$a/a"))
    })

    it("compares code points, without folding, normalisation or trimming (TP-07s)", () => {
      assert.isFalse(TopicFilter.matches("\u00e9", "e\u0301"))
      assert.isFalse(TopicFilter.matches("a", "A"))
      assert.isFalse(TopicFilter.matches("a", " a"))
      assert.isFalse(TopicFilter.matches("\ufeffa", "a"))
    })

    it("matches 32,767 levels without recursion (TP-08p)", () => {
      const topic = "a/".repeat(32_766) + "a"
      assert.isUndefined(TopicName.validate(topic))
      assert.isTrue(TopicFilter.matches(topic, topic))
      assert.isTrue(TopicFilter.matches("+/".repeat(32_766) + "+", topic))
      assert.isTrue(TopicFilter.matches("+/".repeat(32_766) + "#", topic))
      assert.isFalse(TopicFilter.matches("+/".repeat(32_766) + "b", topic))
      assert.isTrue(TopicFilter.matches("/".repeat(65_535), "/".repeat(65_535)))
    })

    it("routes a shared subscription by the part behind the share name (SH-03p)", () => {
      assert.isTrue(TopicFilter.matches("$share/g/+/x", "a/x"))
      assert.isFalse(TopicFilter.matches("$share/g/+/x", "$share/g/a/x"))
    })

    it("takes a shared filter both ways on 3.1.1 (SH-05p)", () => {
      assert.isTrue(TopicFilter.matches("$share/g/+", "$share/g/a", 4))
      assert.isTrue(TopicFilter.matches("$share/g/+", "a", 4))
      assert.isTrue(TopicFilter.matches("$share/+/a", "$share/g/a", 4))
    })

    it.prop("agrees with a comparison level by level", [anyFilter, anyTopic], ([filter, topic]) => {
      assert.strictEqual(TopicFilter.matches(filter, topic), matchesByLevels(filter, topic))
    }, { arbitrary: { runs: 2000 } })
  })

  describe("parseShared", () => {
    it("takes the filter apart", () => {
      assert.deepStrictEqual(TopicFilter.parseShared("$share/g/a/+"), { shareName: "g", filter: "a/+" })
      assert.deepStrictEqual(TopicFilter.parseShared("$share/g//a"), { shareName: "g", filter: "/a" })
    })

    it("knows what is not shared", () => {
      for (
        const filter of ["a", "$share", "$share/", "$share/g", "$share/g/", "$share//a", "$shared/g/a", "$share/+/a"]
      ) {
        assert.isUndefined(TopicFilter.parseShared(filter), filter)
      }
    })
  })

  describe("schema", () => {
    it("brands valid filters and tells what is wrong with others", () => {
      const decode = Schema.decodeUnknownResult(TopicFilter.TopicFilter)
      assert.deepStrictEqual(decode("a/+"), Result.succeed(TopicFilter.TopicFilter.make("a/+")))
      const refused = decode("a/+b")
      assert.isTrue(Result.isFailure(refused))
      assert.include(String(Result.isFailure(refused) && refused.failure), "beside other characters")
    })
  })
})
