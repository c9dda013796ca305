import { assert, describe, it } from "@effect/vitest"
import { Inbox } from "../../../src/layers/delivery/Inbox.ts"
import type { Receipt } from "../../../src/layers/delivery/Receipt.ts"
import type { Publish } from "../../../src/protocol/Packet.ts"
import * as Session from "../../../src/protocol/Session.ts"
import { toMessage } from "../../../src/services/MessageCodec.ts"
import { Random } from "../../protocol/support/PacketGenerator.ts"

const packetOf = (packetId: number, qos: 1 | 2): Publish => ({
  _tag: "Publish",
  dup: false,
  qos,
  retain: false,
  topic: "a",
  packetId,
  payload: new Uint8Array(packetId % 50),
  properties: undefined
})

/** An inbox, and those of its messages that somebody is owed. */
const make = () => {
  const owed: Array<number> = []
  let rooms = 0
  const inbox = new Inbox(Session.make(), { unclaimed: "ack", maximumUnacknowledgedBytes: 2000 }, {
    onUnclaimed: () => {},
    onOwed: ({ packetId }) => void owed.push(packetId),
    onRefused: () => {}
  })
  const receipts: Array<Receipt> = []
  return {
    inbox,
    receipts,
    waitForRoom: () => {
      if (!inbox.hasRoom) inbox.onRoom = () => void rooms++
    },
    state: () => ({
      // The order counts for each type on its own.
      acks: inbox.takeAcks().toSorted((a, b) => (a >>> 24) - (b >>> 24)),
      bytes: inbox.bytes,
      owed: owed.splice(0),
      rooms,
      unacknowledged: inbox.unacknowledged,
      flags: receipts.map(({ bytes, handed, pending, settled, taken }) => [bytes, handed, pending, settled, taken])
    })
  }
}

describe("Inbox", () => {
  describe("settleAll", () => {
    it("is the same as to settle one after the other", () => {
      let rooms = 0
      for (let seed = 0; seed < 200; seed++) {
        const random = new Random(seed)
        const [one, all] = [make(), make()] as const
        const both = [one, all]
        let id = 0
        for (const { inbox } of both) inbox.begin(true, 65_535, true)
        for (let step = 0; step < 150; step++) {
          const kind = random.int(0, 13)
          const pick = Array.from({ length: random.int(1, 6) }, () => random.int(0, Math.max(0, id - 1)))
          if (kind < 7) {
            const qos = random.pick([1, 2] as const)
            const pending = random.pick([1, 1, 1, 2])
            const isOwed = random.int(0, 9) === 0
            const packet = packetOf(++id, qos)
            for (const { inbox, receipts } of both) {
              const receipt = inbox.receive(packet, toMessage)
              // There was no room for it, in either.
              if (receipt === undefined) continue
              receipt.pending = pending
              receipt.owed = isOwed
              receipts.push(receipt)
            }
          } else if (kind === 7) {
            const isPresent = random.int(0, 2) > 0
            for (const { inbox } of both) {
              inbox.end(false)
              // Who waits for room does not wait any more when a connection begins.
              inbox.onRoom = undefined
              inbox.begin(isPresent, 65_535, true)
            }
          } else if (kind < 10) {
            for (const each of both) each.waitForRoom()
          } else {
            const chosen = [...new Set(pick)].filter((index) => index < one.receipts.length)
            for (const index of chosen) one.inbox.settle(one.receipts[index]!)
            all.inbox.settleAll(chosen.map((index) => all.receipts[index]!))
          }
          assert.deepStrictEqual(all.state(), one.state(), `seed ${seed}, step ${step}`)
        }
        rooms += all.state().rooms
      }
      assert.isAbove(rooms, 0)
    })
  })
})
