import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import { ExchangeTable, noTable } from "../../src/protocol/ExchangeTable.ts"
import type { Linked } from "../../src/protocol/ExchangeTable.ts"

interface Item extends Linked<Item> {
  readonly name: string
}

const item = (packetId: number, name = `${packetId}`): Item => ({
  packetId,
  name,
  previous: undefined,
  next: undefined
})

const tableOf = (...ids: ReadonlyArray<number>) => {
  const table = new ExchangeTable<Item>()
  const items = ids.map((id) => item(id))
  for (const one of items) table.add(one)
  return { table, items }
}

const idsOf = (table: ExchangeTable<Item>): Array<number> => [...table.values()].map(({ packetId }) => packetId)

const range = (from: number, to: number): Array<number> => Array.from({ length: to - from + 1 }, (_, at) => from + at)

describe("ExchangeTable", () => {
  it("is empty at first, and finds nothing", () => {
    const table = new ExchangeTable<Item>()
    assert.deepStrictEqual([table.size, table.get(1), table.has(65_535), idsOf(table)], [0, undefined, false, []])
  })

  it("without anything in it is one that all share, and takes nothing", () => {
    const none = noTable<Item>()
    none.clear()
    assert.throws(() => none.add(item(1)), /shared/)
    assert.strictEqual(none.size, 0)
    assert.deepStrictEqual([none.isShared, new ExchangeTable<Item>().isShared], [true, false])
    assert.strictEqual(noTable(), none)
  })

  it("gives what was put in, by identifier and in the order of putting in (law 7)", () => {
    const { items, table } = tableOf(7, 3, 65_535, 1)
    assert.strictEqual(table.size, 4)
    for (const one of items) assert.strictEqual(table.get(one.packetId), one)
    assert.deepStrictEqual(idsOf(table), [7, 3, 65_535, 1])
    assert.deepStrictEqual([2, 4, 19, 65_534].map((id) => table.has(id)), [false, false, false, false])
  })

  for (const [place, at] of [["first", 0], ["one in the middle", 1], ["last", 3]] as const) {
    it(`takes out the ${place}, which comes last when it is put in again`, () => {
      const { items, table } = tableOf(1, 2, 3, 4)
      const taken = items[at]!
      const rest = [1, 2, 3, 4].filter((id) => id !== taken.packetId)
      table.delete(taken)
      assert.deepStrictEqual([table.size, table.has(taken.packetId), idsOf(table)], [3, false, rest])
      // It may go into another table now.
      assert.deepStrictEqual([taken.previous, taken.next], [undefined, undefined])
      table.add(taken)
      assert.deepStrictEqual([table.size, idsOf(table)], [4, [...rest, taken.packetId]])
    })
  }

  it("is as good as new when the last one has left, and when it was cleared", () => {
    for (const end of ["delete", "clear"] as const) {
      const { items, table } = tableOf(...range(1, 100), 16_385)
      if (end === "clear") table.clear()
      else for (const one of items) table.delete(one)
      assert.deepStrictEqual([table.size, idsOf(table), table.has(1), table.has(16_385)], [0, [], false, false])
      table.add(item(1))
      table.add(item(17))
      assert.deepStrictEqual(idsOf(table), [1, 17])
      assert.strictEqual(table.get(17)?.packetId, 17)
    }
  })

  it("keeps what it has, and its order, while it grows", () => {
    const table = new ExchangeTable<Item>()
    const ids = range(1, 3000).map((n) => n * 7919 % 65_536)
    for (const [at, id] of ids.entries()) {
      table.add(item(id))
      assert.strictEqual(table.size, at + 1)
      if ((at & at + 1) === 0) {
        for (const known of ids.slice(0, at + 1)) assert.strictEqual(table.get(known)?.packetId, known)
      }
    }
    assert.deepStrictEqual(idsOf(table), ids)
  })

  it("has twice the places of what was in it at most at one time, or 16, and never more than there are identifiers", () => {
    const table = new ExchangeTable<Item>()
    const places = () => table["places"].length
    assert.strictEqual(places(), 0)
    for (const id of range(1, 65_535)) {
      table.add(item(id))
      if (places() < id || places() > Math.max(16, 4 * id) || places() > 65_536) assert.fail(`${places()} for ${id}`)
      if (id === 100) assert.strictEqual(places(), 256)
    }
    table.clear()
    assert.strictEqual(places(), 0)
    // Those that come and go need no more than a few.
    for (const id of range(1, 5000)) {
      const one = item(id)
      table.add(one)
      table.delete(one)
    }
    assert.strictEqual(places(), 16)
  })

  it("holds all 65,535 identifiers at once", () => {
    const { items, table } = tableOf(...range(1, 65_535))
    assert.strictEqual(table.size, 65_535)
    assert.isTrue(items.every((one) => table.get(one.packetId) === one))
    for (const one of items) if (one.packetId % 2 === 0) table.delete(one)
    assert.strictEqual(table.size, 32_768)
    assert.isTrue(items.every((one) => table.has(one.packetId) === (one.packetId % 2 === 1)))
  })

  it("finds the place of one that is open for very long taken, and what is displaced by it all the same", () => {
    const table = new ExchangeTable<Item>()
    const old = item(5)
    table.add(old)
    // All others come and go: every sixteenth has the low bits of the old one.
    for (const id of range(6, 65_535)) {
      const one = item(id)
      table.add(one)
      const isFound = table.get(id) === one && table.get(5) === old
      table.delete(one)
      if (!isFound || table.has(id)) assert.fail(`${id}`)
    }
    assert.deepStrictEqual(idsOf(table), [5])
  })

  it("goes on finding what is displaced when the place has come free, and when it is taken anew", () => {
    const { items: [first, second, third], table } = tableOf(1, 17, 33)
    table.delete(first!)
    assert.deepStrictEqual([table.get(1), table.get(17), table.get(33)], [undefined, second, third])
    const fourth = item(49)
    table.add(fourth)
    assert.deepStrictEqual([table.get(17), table.get(33), table.get(49)], [second, third, fourth])
    table.delete(second!)
    assert.deepStrictEqual([table.get(17), table.get(33), table.get(49)], [undefined, third, fourth])
    assert.deepStrictEqual(idsOf(table), [33, 49])
  })

  it("forgets with those that growth gave a place of their own that they were displaced", () => {
    const { items, table } = tableOf(...range(0, 6).map((n) => 1 + 16 * n))
    for (const id of range(200, 240)) table.add(item(id))
    table.delete(items[3]!)
    assert.isUndefined(table.get(49))
    const again = item(49, "again")
    table.add(again)
    assert.strictEqual(table.get(49), again)
  })

  it("keeps the order where identifiers begin again behind 65,535", () => {
    const ids = [65_533, 65_534, 65_535, 1, 2, 3]
    const { items, table } = tableOf(...ids)
    assert.deepStrictEqual(idsOf(table), ids)
    table.delete(items[2]!)
    table.delete(items[3]!)
    assert.deepStrictEqual(idsOf(table), [65_533, 65_534, 2, 3])
  })

  it("may lose what it has just given", () => {
    const { table } = tableOf(...range(1, 40))
    const given: Array<number> = []
    for (const one of table.values()) {
      given.push(one.packetId)
      if (one.packetId % 3 === 0) continue
      table.delete(one)
    }
    assert.deepStrictEqual(given, range(1, 40))
    assert.deepStrictEqual(idsOf(table), range(1, 40).filter((id) => id % 3 === 0))
    // What was taken out may go on in another table at once.
    const other = new ExchangeTable<Item>()
    for (const one of table.values()) {
      table.delete(one)
      other.add(one)
    }
    assert.deepStrictEqual([table.size, idsOf(other)], [0, range(1, 40).filter((id) => id % 3 === 0)])
  })

  const actions = Arbitrary.array(
    Arbitrary.all([
      Arbitrary.schema(Schema.Literals(["add", "add", "add", "add", "delete", "delete", "clear", "pass"])),
      Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 59 })))
    ]),
    { maxLength: 150 }
  )

  /** Few low bits and many high ones, up to both ends. */
  const idOf = (n: number): number =>
    [1, 2, 15, 16][n % 4]! + [0, 16, 32, 48, 64, 128, 256, 1024, 4096, 65_519][n % 10]!

  it.prop("agrees with a map after any sequence of calls", [actions], ([calls]) => {
    const table = new ExchangeTable<Item>()
    const model = new Map<number, Item>()
    const put = (id: number) => {
      const one = item(id)
      table.add(one)
      model.set(id, one)
    }
    for (const [call, n] of calls) {
      const id = idOf(n)
      const known = model.get(id)
      if (call === "add") {
        if (known === undefined) put(id)
      } else if (call === "delete") {
        if (known !== undefined) table.delete(known)
        model.delete(id)
      } else if (call === "clear") {
        // Seldom, or there would never be much in it.
        if (n > 3) continue
        table.clear()
        model.clear()
      } else {
        // Some leave while they are given, and some come in again.
        const given: Array<Item> = []
        for (const one of table.values()) {
          given.push(one)
          if ((one.packetId + n) % 3 === 0) table.delete(one)
        }
        assert.deepStrictEqual(given.map(({ packetId }) => packetId), [...model.keys()])
        for (const [other] of [...model]) if ((other + n) % 3 === 0) model.delete(other)
      }
      assert.strictEqual(table.size, model.size)
      assert.isTrue(isSame([...table.values()], [...model.values()]), call)
      for (let other = 0; other < 60; other++) assert.strictEqual(table.get(idOf(other)), model.get(idOf(other)), call)
    }
  }, { arbitrary: { runs: 300, seed: 11 } })
})

const isSame = (a: ReadonlyArray<Item>, b: ReadonlyArray<Item>): boolean =>
  a.length === b.length && a.every((one, index) => one === b[index])
