import { assert, describe, it } from "@effect/vitest"
import { DateTime } from "effect"
import * as Renewal from "../../../src/layers/supervision/Renewal.ts"

const refresh = { beforeMillis: undefined, jitterMillis: undefined, everyMillis: undefined }
const low = () => 0
const high = () => 1

describe("Renewal", () => {
  describe("lifetime", () => {
    it("counts from now, or to a moment of the wall clock, whichever ends first", () => {
      assert.strictEqual(Renewal.lifetime({}, 1_000), undefined)
      assert.strictEqual(Renewal.lifetime({ expiresIn: "1 minute" }, 1_000), 60_000)
      assert.strictEqual(Renewal.lifetime({ expiresAt: 5_000 }, 1_000), 4_000)
      assert.strictEqual(Renewal.lifetime({ expiresAt: new Date(5_000) }, 1_000), 4_000)
      assert.strictEqual(Renewal.lifetime({ expiresAt: DateTime.makeUnsafe(5_000) }, 1_000), 4_000)
      assert.strictEqual(Renewal.lifetime({ expiresAt: 5_000, expiresIn: "2 seconds" }, 1_000), 2_000)
      assert.strictEqual(Renewal.lifetime({ expiresAt: 5_000, expiresIn: "9 seconds" }, 1_000), 4_000)
      assert.strictEqual(Renewal.lifetime({ expiresAt: 500 }, 1_000), -500)
      assert.strictEqual(Renewal.lifetime({ expiresIn: "Infinity" }, 1_000), undefined)
    })
  })

  describe("next", () => {
    it("falls between 80 and 90 percent of the lifetime by default", () => {
      assert.deepStrictEqual(Renewal.next(refresh, 60_000, low), { why: "credentials", afterMillis: 54_000 })
      assert.deepStrictEqual(Renewal.next(refresh, 60_000, high), { why: "credentials", afterMillis: 48_000 })
    })

    it("keeps to before and jitter", () => {
      const own = { ...refresh, beforeMillis: 10_000, jitterMillis: 5_000 }
      assert.strictEqual(Renewal.next(own, 60_000, low)?.afterMillis, 50_000)
      assert.strictEqual(Renewal.next(own, 60_000, high)?.afterMillis, 45_000)
      assert.strictEqual(Renewal.next({ ...refresh, beforeMillis: 10_000 }, 60_000, high)?.afterMillis, 40_000)
      assert.strictEqual(Renewal.next({ ...refresh, jitterMillis: 0 }, 60_000, high)?.afterMillis, 54_000)
    })

    it("takes what comes first of credentials and age", () => {
      const aged = { ...refresh, everyMillis: 50_000 }
      assert.deepStrictEqual(Renewal.next(aged, undefined, low), { why: "age", afterMillis: 50_000 })
      assert.deepStrictEqual(Renewal.next(aged, undefined, high), { why: "age", afterMillis: 45_000 })
      assert.deepStrictEqual(Renewal.next(aged, 40_000, low), { why: "credentials", afterMillis: 36_000 })
      assert.deepStrictEqual(Renewal.next(aged, 60_000, low), { why: "age", afterMillis: 50_000 })
    })

    it("never falls within a second, however short the lifetime is", () => {
      assert.strictEqual(Renewal.next(refresh, 1, low)?.afterMillis, 1_000)
      assert.strictEqual(Renewal.next({ ...refresh, beforeMillis: 90_000 }, 60_000, high)?.afterMillis, 1_000)
      assert.strictEqual(Renewal.next({ ...refresh, everyMillis: 0 }, undefined, high)?.afterMillis, 1_000)
    })

    it("there is none without an end, and none for what has ended already", () => {
      assert.strictEqual(Renewal.next(refresh, undefined, low), undefined)
      assert.strictEqual(Renewal.next(refresh, 0, low), undefined)
      assert.strictEqual(Renewal.next(refresh, -5, low), undefined)
      assert.strictEqual(Renewal.next({ ...refresh, everyMillis: Infinity }, undefined, low), undefined)
    })
  })
})
