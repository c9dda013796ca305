import { assert, describe, it } from "@effect/vitest"
import { noArray, noMap, noSet, ownArray, ownMap, ownSet } from "../../src/protocol/EmptyCollections.ts"

describe("EmptyCollections", () => {
  it("are shared until something is added, by one who then has its own", () => {
    assert.strictEqual(noMap<string, number>(), noMap<number, string>() as unknown)
    assert.strictEqual(noSet<string>(), noSet<number>() as unknown)
    assert.strictEqual(noArray<string>(), noArray<number>() as unknown)
    const map = ownMap(noMap<string, number>()).set("a", 1)
    const set = ownSet(noSet<string>()).add("a")
    const array = ownArray(noArray<string>())
    array.push("a")
    assert.strictEqual(noMap().size, 0)
    assert.strictEqual(noSet().size, 0)
    assert.strictEqual(noArray().length, 0)
    assert.strictEqual(ownMap(map), map)
    assert.strictEqual(ownSet(set), set)
    assert.strictEqual(ownArray(array), array)
  })

  it("refuse what is added without asking", () => {
    assert.throws(() => noMap<string, number>().set("a", 1))
    assert.throws(() => noSet<string>().add("a"))
    assert.throws(() => noArray<string>().push("a"))
  })
})
