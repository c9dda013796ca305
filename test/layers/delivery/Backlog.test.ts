import { assert, describe, it } from "@effect/vitest"
import { Backlog } from "../../../src/layers/delivery/Backlog.ts"
import { NewDelivery } from "../../../src/layers/delivery/Delivery.ts"
import type { Delivery } from "../../../src/layers/delivery/Delivery.ts"
import { NewReceipt } from "../../../src/layers/delivery/Receipt.ts"
import type { Message } from "../../../src/services/Message.ts"
import { Random } from "../../protocol/support/PacketGenerator.ts"

const messageOf = (name: number, qos: 0 | 1 = 0): Message => ({
  topic: `${name}`,
  payload: new Uint8Array([name]),
  qos,
  retain: false,
  duplicate: false
})

const deliveryOf = (name: number): Delivery => new NewReceipt(1, 1, messageOf(name, 1), 0, 1, name, false)

const names = (messages: ReadonlyArray<Message>): ReadonlyArray<string> => messages.map(({ topic }) => topic)

/** The next message, whatever it waits as. */
const shift = (backlog: Backlog): string | undefined => {
  if (backlog.isPlain && backlog.size > 0) return backlog.takePlain(1)[0]!.topic
  const { first } = backlog
  if (first !== undefined) backlog.shift()
  return first?.message.topic
}

describe("Backlog", () => {
  it("gives plain messages in the list in which they were collected", () => {
    const backlog = new Backlog()
    for (let name = 0; name < 5; name++) backlog.pushPlain(messageOf(name))
    assert.isTrue(backlog.isPlain)
    assert.deepStrictEqual(names(backlog.takePlain(2)), ["0", "1"])
    assert.strictEqual(backlog.size, 3)
    const rest = backlog.takePlain(10)
    assert.deepStrictEqual(names(rest), ["2", "3", "4"])
    // Which is its taker's own from then on.
    backlog.pushPlain(messageOf(5))
    assert.deepStrictEqual([names(rest), backlog.size], [["2", "3", "4"], 1])
  })

  it("is like one list, whatever waits in it", () => {
    for (let seed = 0; seed < 300; seed++) {
      const random = new Random(seed)
      const backlog = new Backlog()
      let model: Array<readonly [name: string, isPlain: boolean]> = []
      for (let step = 0; step < 200; step++) {
        const name = `${step}`
        switch (random.int(0, 9)) {
          case 0:
          case 1:
          case 2:
            backlog.pushPlain(messageOf(step))
            model.push([name, true])
            break
          case 3:
          case 4:
            backlog.push(deliveryOf(step))
            model.push([name, false])
            break
          case 5:
            backlog.prepend([deliveryOf(step)])
            model.unshift([name, false])
            break
          case 6: {
            const plain = model.findIndex(([, isPlain]) => isPlain)
            assert.strictEqual(backlog.removePlain()?.topic, plain < 0 ? undefined : model.splice(plain, 1)[0]![0])
            break
          }
          case 7: {
            const is = ({ message }: Delivery) => Number(message.topic) % 3 === 0 && message.qos === 1
            const index = model.findIndex(([other, isPlain]) => !isPlain && Number(other) % 3 === 0)
            const removed = backlog.remove(is)?.message.topic
            assert.strictEqual(removed, index < 0 ? undefined : model.splice(index, 1)[0]![0])
            break
          }
          case 8: {
            // None, or all that come before the first plain one, or further.
            const taken = backlog.takeAll(random.int(1, 20)).map(({ message }) => message.topic)
            assert.deepStrictEqual(taken, model.slice(0, taken.length).map(([other]) => other))
            model = model.slice(taken.length)
            break
          }
          default:
            for (let count = random.int(0, 6); count > 0; count--) {
              assert.strictEqual(shift(backlog), model.shift()?.[0], `seed ${seed}`)
            }
        }
        assert.strictEqual(backlog.size, model.length, `seed ${seed}`)
      }
      while (model.length > 0) assert.strictEqual(shift(backlog), model.shift()![0], `seed ${seed}`)
    }
  })

  it("law 14: keeps no places of thousands of messages that have left", () => {
    const backlog = new Backlog()
    for (let name = 0; name < 20_000; name++) {
      backlog.pushPlain(messageOf(name))
      if (name >= 10) assert.strictEqual(backlog.removePlain()?.topic, `${name - 10}`)
    }
    assert.strictEqual(backlog.size, 10)
    for (let name = 0; name < 20_000; name++) {
      backlog.push(new NewDelivery(messageOf(name), undefined, 0))
      assert.isDefined(backlog.first)
      backlog.shift()
    }
    assert.strictEqual(backlog.size, 10)
  })

  it("law 14: keeps no room for thousands of messages where few wait", () => {
    for (
      const [push, take] of [
        [(backlog: Backlog) => backlog.pushPlain(messageOf(0)), (backlog: Backlog) => backlog.takePlain(10_000)],
        [(backlog: Backlog) => backlog.push(deliveryOf(0)), (backlog: Backlog) => backlog.takeAll(10_000)]
      ] as const
    ) {
      const backlog = new Backlog()
      for (let count = 0; count < 3000; count++) push(backlog)
      assert.strictEqual(take(backlog).length, 3000)
      push(backlog)
      assert.isAbove(backlog.room, 1000)
      backlog.detachPayloads(1)
      assert.strictEqual(backlog.room, 1)
      assert.strictEqual(take(backlog).length, 1)
      assert.strictEqual(backlog.room, 0)
    }
  })
})
