import { assert, describe, it } from "@effect/vitest"
import { Journal } from "../../../src/layers/store/Journal.ts"
import { MemoryData } from "../../../src/layers/store/MemorySessionStore.ts"

const make = (process = "p") => {
  let recorded = 0
  const journal = new Journal(process, () => 0, () => {
    recorded++
  })
  return { journal, recorded: () => recorded }
}

describe("Journal", () => {
  it("names a message by session, identifier and how often that was used, over restarts", () => {
    const data = new MemoryData()
    const { journal } = make()
    journal.begin(false, "key")
    const first = journal.deliveryId(7)
    journal.received(7)
    assert.strictEqual(journal.deliveryId(7), first)
    journal.completed(7)
    const second = journal.deliveryId(7)
    assert.notStrictEqual(second, first)
    data.apply(journal.take().changes)

    const { journal: later } = make("q")
    later.restore(data.stored)
    assert.strictEqual(later.deliveryId(7), second)
    later.begin(true, "key")
    assert.strictEqual(later.deliveryId(7), second)
    assert.deepStrictEqual(later.take().changes, [])
    later.begin(false, "key")
    assert.notInclude([first, second], later.deliveryId(7))
    data.apply(later.take().changes)
    assert.deepStrictEqual(data.stored.inbound, [])
  })

  it("keeps nothing of what the server sends in a session that ends with the link", () => {
    const { journal } = make()
    journal.begin(false, undefined)
    journal.received(1)
    journal.completed(1)
    assert.deepStrictEqual(journal.take().changes, [])
  })

  it("clears identifiers of a session that the store does not know", () => {
    const { journal } = make()
    journal.restore({
      session: undefined,
      publishes: [],
      inbound: [{ packetId: 1, received: true, generation: 4 }],
      lastSequence: 0,
      lastPacketId: 0,
      queues: [],
      quarantined: []
    })
    journal.begin(false, undefined)
    assert.deepStrictEqual(journal.take().changes, [{ _tag: "SessionEnded" }])
  })

  it("keeps what could not be committed before what came since, and tells of both", () => {
    const { journal } = make()
    const told: Array<string> = []
    journal.record({ _tag: "Received", packetId: 1 })
    journal.whenKept(() => told.push("first"))
    const batch = journal.take()
    assert.isTrue(journal.isEmpty)
    journal.record({ _tag: "Received", packetId: 2 })
    journal.whenKept(() => told.push("second"))
    journal.putBack(batch)
    const all = journal.take()
    assert.deepStrictEqual(all.changes, [{ _tag: "Received", packetId: 1 }, { _tag: "Received", packetId: 2 }])
    for (const tell of all.tells) tell()
    assert.deepStrictEqual(told, ["first", "second"])
  })

  it("knows of a change of the session until it is taken, and again when that is put back", () => {
    const { journal, recorded } = make()
    assert.isFalse(journal.isSessionChanging)
    journal.begin(false, "key")
    assert.isTrue(journal.isSessionChanging)
    assert.strictEqual(recorded(), 1)
    const batch = journal.take()
    assert.isFalse(journal.isSessionChanging)
    journal.putBack(batch)
    assert.isTrue(journal.isSessionChanging)
  })
})
