import { assert, describe, it } from "@effect/vitest"
import * as Day from "../support/simulation/Day.ts"

describe("a day of many clients", () => {
  it("loses nothing in six hours of 20 clients with a fault every ten minutes (laws 6, 10, 16)", async () => {
    const { failures, ...counts } = await Day.run({ clients: 20, hours: 6 })
    assert.deepStrictEqual(failures, [])
    assert.strictEqual(counts.published, 7_200)
    assert.strictEqual(counts.received, 7_200)
    assert.strictEqual(counts.faults, 36)
    assert.isAbove(counts.connections, 100)
  })
})
