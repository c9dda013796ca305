import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as PacketId from "../../src/protocol/PacketId.ts"

const takeAll = (ids: PacketId.PacketIds): Array<number> => {
  const taken: Array<number> = []
  for (let id = ids.next(); id !== undefined; id = ids.next()) taken.push(id)
  return taken
}

describe("PacketId", () => {
  it("hands out the whole space once, ascending from 1 (PI-02c)", () => {
    const ids = PacketId.make()
    assert.deepStrictEqual(takeAll(ids), Array.from({ length: 65_535 }, (_, i) => i + 1))
    assert.strictEqual(ids.size, 65_535)
  })

  it("never hands out a held id nor 0 in 65,535 further turns (PI-02c, PI-06c)", () => {
    const ids = PacketId.make()
    const held = ids.next()
    for (let i = 0; i < 65_535; i++) {
      const id = ids.next()
      assert.isDefined(id)
      if (id === undefined || id === held || id === 0) assert.fail(`handed out ${id}`)
      ids.release(id)
    }
    assert.strictEqual(ids.size, 1)
  })

  it("does not hand out the id that was just released", () => {
    const ids = PacketId.make()
    assert.strictEqual(ids.next(), 1)
    ids.release(1)
    assert.strictEqual(ids.next(), 2)
    ids.release(2)
    assert.strictEqual(ids.next(), 3)
  })

  it("goes on at 1 behind 65,535, past those in use", () => {
    const ids = PacketId.make()
    takeAll(ids)
    for (const id of [3, 40, 65_534]) ids.release(id)
    assert.deepStrictEqual(takeAll(ids), [3, 40, 65_534])
  })

  it("gives nothing when all are in use, and the one that comes back (PI-08p)", () => {
    const ids = PacketId.make()
    takeAll(ids)
    assert.isUndefined(ids.next())
    for (const id of [65_535, 1, 32, 31, 63, 64]) {
      assert.isTrue(ids.release(id))
      assert.strictEqual(ids.next(), id)
      assert.isUndefined(ids.next())
    }
  })

  it("reserves the ids of a restored session", () => {
    const ids = PacketId.make()
    assert.isTrue(ids.take(1))
    assert.isTrue(ids.take(3))
    assert.isTrue(ids.take(65_535))
    assert.isFalse(ids.take(3))
    assert.strictEqual(ids.size, 3)
    assert.deepStrictEqual([ids.next(), ids.next()], [2, 4])
  })

  it("goes on behind the id that an earlier process used last, past those in use (PI-02c)", () => {
    const ids = PacketId.make()
    ids.take(8)
    ids.continueAfter(7)
    for (const id of [0, -1, 65_536, 1.5, NaN]) ids.continueAfter(id)
    assert.deepStrictEqual([ids.next(), ids.next()], [9, 10])
    ids.continueAfter(65_535)
    assert.strictEqual(ids.next(), 1)
    assert.strictEqual(ids.size, 4)
  })

  it("takes no id out of range", () => {
    const ids = PacketId.make()
    for (const id of [0, -1, 65_536, 1.5, NaN, Infinity]) {
      assert.isFalse(ids.take(id))
      assert.isFalse(ids.release(id))
      assert.isFalse(ids.inUse(id))
    }
    assert.strictEqual(ids.size, 0)
  })

  it("counts a second release of an id as none", () => {
    const ids = PacketId.make()
    ids.next()
    assert.isTrue(ids.release(1))
    assert.isFalse(ids.release(1))
    assert.strictEqual(ids.size, 0)
  })

  it.prop(
    "agrees with a set after any sequence of calls",
    [Arbitrary.array(
      Arbitrary.all([
        Arbitrary.schema(Schema.Literals(["next", "next", "take", "release"])),
        Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 40 })))
      ]),
      { maxLength: 100 }
    )],
    ([calls]) => {
      const ids = PacketId.make()
      const model = new Set<number>()
      for (const [call, id] of calls) {
        if (call === "next") {
          const next = ids.next()
          assert.isTrue(next !== undefined && next > 0 && !model.has(next))
          if (next !== undefined) model.add(next)
        } else if (call === "take") {
          assert.strictEqual(ids.take(id), id > 0 && !model.has(id))
          if (id > 0) model.add(id)
        } else {
          assert.strictEqual(ids.release(id), model.delete(id))
        }
        assert.strictEqual(ids.size, model.size)
        for (let i = 0; i <= 140; i++) assert.strictEqual(ids.inUse(i), model.has(i))
      }
    }
  )
})
