import { assert, describe, it } from "@effect/vitest"
import { TopicMemo } from "../../../src/layers/subscriptions/TopicMemo.ts"
import * as TopicNote from "../../../src/protocol/TopicNote.ts"

const counted = () => {
  const found: Array<string> = []
  const memo = new TopicMemo((topic) => {
    found.push(topic)
    return { topic }
  })
  return { memo, found }
}

describe("TopicMemo", () => {
  it("finds once what comes again, until it is cleared", () => {
    const { found, memo } = counted()
    const first = memo.get("a")
    assert.strictEqual(memo.get("a"), first)
    assert.deepStrictEqual(memo.get("b"), { topic: "b" })
    assert.deepStrictEqual(found, ["a", "b"])
    memo.clear()
    assert.notStrictEqual(memo.get("a"), first)
    assert.deepStrictEqual(found, ["a", "b", "a"])
  })

  it("keeps what comes often, and forgets the rest", () => {
    const { memo } = counted()
    const hot = memo.get("hot")
    const cold = memo.get("cold")
    for (let round = 0; round < 20_000; round++) {
      // Each one twice, so that it is worth its while.
      memo.get(`t/${round}`)
      memo.get(`t/${round}`)
      assert.strictEqual(memo.get("hot"), hot)
    }
    assert.notStrictEqual(memo.get("cold"), cold)
  })

  it("believes what it noted, and not what was noted before it was cleared, or by another", () => {
    const { found, memo } = counted()
    const other = counted()
    const note = TopicNote.make()
    const first = memo.get("a", note)
    assert.strictEqual(memo.get("a", note), first)
    assert.deepStrictEqual(found, ["a"])
    // The note is all that is looked at.
    assert.strictEqual(memo.get("b", note), first)
    memo.clear()
    assert.deepStrictEqual(memo.get("a", note), { topic: "a" })
    assert.notStrictEqual(memo.get("a", note), first)
    assert.deepStrictEqual(found, ["a", "a"])
    assert.notStrictEqual(other.memo.get("a", note), memo.get("a"))
    assert.deepStrictEqual(other.found, ["a"])
  })

  it("law 14: remembers a bounded number of topics, and no long ones", () => {
    const { memo } = counted()
    let largest = 0
    for (let round = 0; round < 100_000; round++) {
      memo.get(`t/${round}`)
      if (round % 2 === 0) memo.get(`t/${round}`)
      largest = Math.max(largest, memo.size)
    }
    assert.isAtMost(largest, 2 * 4096)
    const long = "x".repeat(257)
    assert.notStrictEqual(memo.get(long), memo.get(long))
  })

  it("steps aside while hardly any topic comes again, and comes back", () => {
    const { found, memo } = counted()
    for (let round = 0; round < 10_000; round++) memo.get(`t/${round}`)
    assert.isBelow(memo.size, 4_200)
    found.length = 0
    for (let round = 0; round < 40_000; round++) memo.get("hot")
    assert.isBelow(found.length, 17_000)
    assert.strictEqual(memo.get("hot"), memo.get("hot"))
  })

  it("remembers more where there are many filters, and fewer again when they have gone", () => {
    const { found, memo } = counted()
    memo.scaleTo(20_000)
    for (let round = 0; round < 60_000; round++) memo.get(`t/${round % 20_000}`)
    assert.strictEqual(found.length, 20_000)
    memo.clear()
    memo.scaleTo(10)
    for (let round = 0; round < 60_000; round++) memo.get(`t/${round % 20_000}`)
    assert.isAtMost(memo.size, 2 * 4096)
  })
})
