import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as SubscriptionIdentifier from "../../src/protocol/SubscriptionIdentifier.ts"

describe("SubscriptionIdentifier", () => {
  it("is the same in every version of the package: what a session holds depends on it", () => {
    const filters = ["a", "a/b", "a/#", "+/b", "$share/g/a", "héllo/𝄞"]
    assert.deepStrictEqual(filters.map(SubscriptionIdentifier.of), [
      192253247,
      192364100,
      146614124,
      128168088,
      68448183,
      98438369
    ])
  })

  it.prop("SB-06: is from 1 to 268,435,455", [Arbitrary.schema(Schema.String)], ([filter]) => {
    const identifier = SubscriptionIdentifier.of(filter)
    assert.isTrue(Number.isInteger(identifier) && identifier >= 1 && identifier <= 268_435_455)
  })

  it.prop(
    "SB-06: shifted it is another one in the same range",
    [Arbitrary.schema(Schema.String), Arbitrary.schema(Schema.Literals([0, 0.25, 0.999_999_999]))],
    ([filter, random]) => {
      const identifier = SubscriptionIdentifier.of(filter)
      const shifted = SubscriptionIdentifier.shifted(identifier, SubscriptionIdentifier.shiftBy(random))
      assert.isTrue(Number.isInteger(shifted) && shifted >= 1 && shifted <= 268_435_455 && shifted !== identifier)
      assert.strictEqual(SubscriptionIdentifier.shifted(identifier, 0), identifier)
    }
  )

  it("the common one is none of a filter that is likely", () => {
    assert.strictEqual(SubscriptionIdentifier.common, SubscriptionIdentifier.of(""))
  })

  it("seldom gives two filters the same", () => {
    const seen = new Set<number>()
    for (let index = 0; index < 100_000; index++) {
      seen.add(SubscriptionIdentifier.of(`site/${index % 100}/device/${index}/+`))
    }
    // By chance some 19 of 100,000 would meet another.
    assert.isAbove(seen.size, 99_950)
  })
})
