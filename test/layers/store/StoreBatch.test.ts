import { assert, describe, it } from "@effect/vitest"
import type { StoreState } from "../../../src/layers/store/StoreBatch.ts"
import { initialState, runsOf, StoreBatch } from "../../../src/layers/store/StoreBatch.ts"
import type { Change } from "../../../src/services/SessionStore.ts"
import { messageOf, published, putAside, settled } from "../../support/StoreChanges.ts"

const empty = (): StoreState =>
  initialState({
    session: undefined,
    publishes: [],
    inbound: [],
    lastSequence: 0,
    lastPacketId: 0,
    queues: [],
    quarantined: []
  })

const committed = (state: StoreState, changes: ReadonlyArray<Change>): StoreBatch => {
  const batch = new StoreBatch(state, changes)
  batch.beginCommit()
  batch.applyToState()
  return batch
}

const taken = (sequence: number): Change => ({ _tag: "TakenUp", queue: "q", sequence })

describe("StoreBatch", () => {
  it("writes nothing of a publish that comes and goes in it", () => {
    const batch = committed(empty(), [published(1), settled(1), published(2)])
    assert.deepStrictEqual([...batch.publishes.keys()], [2])
    assert.strictEqual(batch.lastSequence, 2)
  })

  it("removes a publish that an earlier one has written", () => {
    const state = empty()
    committed(state, [published(1)])
    assert.deepStrictEqual([...committed(state, [settled(1)]).publishes], [[1, undefined]])
  })

  it("removes a publish that an earlier one may have written, though its commit failed", () => {
    const state = empty()
    new StoreBatch(state, [published(1), putAside("q", 1)]).beginCommit()
    const batch = new StoreBatch(state, [settled(1), taken(1)])
    assert.deepStrictEqual([...batch.publishes], [[1, undefined]])
    assert.deepStrictEqual([...batch.aside.get("q")!], [[1, undefined]])
    // Nor is its sequence one that was kept.
    assert.strictEqual(batch.lastSequence, 0)
  })

  it("writes nothing of a message that is put aside and taken up in it", () => {
    const state = empty()
    const batch = committed(state, [putAside("q", 1), putAside("q", 2), taken(1)])
    assert.deepStrictEqual([...batch.aside.get("q")!], [[2, messageOf(2)]])
    assert.deepStrictEqual([...committed(state, [taken(2)]).aside.get("q")!], [[2, undefined]])
  })

  it("changes no identifier before it is committed", () => {
    const state = empty()
    const received: Change = { _tag: "Received", packetId: 3 }
    const completed: Change = { _tag: "Completed", packetId: 3 }
    committed(state, [received])
    const once = new StoreBatch(state, [completed, completed]).inbound.get(3)
    const again = new StoreBatch(state, [completed]).inbound.get(3)
    assert.deepStrictEqual([once, again], [
      { packetId: 3, received: false, generation: 1 },
      { packetId: 3, received: false, generation: 1 }
    ])
  })

  it("forgets identifiers with their session, and no others", () => {
    const state = empty()
    committed(state, [{ _tag: "Received", packetId: 3 }])
    const batch = committed(state, [
      { _tag: "Received", packetId: 4 },
      { _tag: "SessionEnded" },
      { _tag: "Received", packetId: 3 }
    ])
    assert.isTrue(batch.clearsInbound)
    assert.deepStrictEqual([...state.inbound.values()], [{ packetId: 3, received: true, generation: 0 }])
  })

  it("joins consecutive sequences to runs", () => {
    assert.deepStrictEqual(runsOf([]), [])
    assert.deepStrictEqual(runsOf([0]), [{ from: 0, to: 0 }])
    assert.deepStrictEqual(runsOf([5, 6, 7, 9, 3, 4]), [{ from: 5, to: 7 }, { from: 9, to: 9 }, { from: 3, to: 4 }])
  })
})
