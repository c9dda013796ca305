import { assert, describe, it } from "@effect/vitest"
import { Fifo } from "../../../src/layers/delivery/Fifo.ts"
import { Random } from "../../protocol/support/PacketGenerator.ts"

describe("Fifo", () => {
  it("is like a list", () => {
    for (let seed = 0; seed < 60; seed++) {
      const random = new Random(seed)
      const fifo = new Fifo<string>()
      let model: Array<string> = []
      // Some bring more than there is room for at first.
      const most = random.pick([3, 40, 1500])
      for (let step = 0; step < 60; step++) {
        switch (random.int(0, 8)) {
          case 0:
          case 1:
          case 2:
            for (let count = random.int(0, most); count > 0; count--) {
              fifo.push(`${step} ${count}`)
              model.push(`${step} ${count}`)
            }
            break
          case 3:
          case 4:
            for (let count = random.int(0, most); count > 0 && model.length > 0; count--) {
              assert.strictEqual(fifo.first, model.shift(), `seed ${seed}`)
              fifo.shift()
            }
            break
          case 5: {
            const count = random.pick([0, 1, random.int(0, most), Infinity])
            const taken = fifo.take(count)
            assert.deepStrictEqual(taken, model.splice(0, count), `seed ${seed}`)
            // Which is its taker's own.
            taken.push("not there")
            break
          }
          case 6: {
            const is = (item: string) => item.endsWith("2")
            const index = model.findIndex(is)
            assert.strictEqual(fifo.remove(is), index < 0 ? undefined : model.splice(index, 1)[0], `seed ${seed}`)
            break
          }
          case 7: {
            const all = fifo.all
            assert.deepStrictEqual(all, model, `seed ${seed}`)
            model = ["first", ...model.slice(1)]
            all.length = 0
            fifo.replace([...model])
            break
          }
          default:
            if (random.int(0, 3) > 0) break
            fifo.clear()
            model = []
        }
        assert.deepStrictEqual([fifo.size, fifo.isEmpty, fifo.first], [model.length, model.length === 0, model[0]])
        const back = random.int(0, model.length)
        assert.strictEqual(fifo.fromEnd(back), model.at(-1 - back), `seed ${seed}`)
      }
    }
  })

  it("law 14: lets go of what has left, whether it left alone or with others", () => {
    const isHeld = (fifo: Fifo<object>, item: object) => {
      // What is kept, wherever it stands, would be among these.
      for (let index = 0; index < 100; index++) {
        if (fifo.fromEnd(-index) === item || fifo.fromEnd(index) === item) return true
      }
      return false
    }
    const fifo = new Fifo<object>()
    const items = Array.from({ length: 40 }, () => ({}))
    for (const item of items) fifo.push(item)
    fifo.shift()
    fifo.take(10)
    fifo.remove((item) => item === items[20])
    const held = items.filter((item) => isHeld(fifo, item))
    assert.deepStrictEqual(held.length, 28)
    assert.isFalse([0, 10, 20].some((index) => isHeld(fifo, items[index]!)))
  })
})
