import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Run } from "../../../src/layers/publishing/Run.ts"
import type { Entry } from "../../../src/layers/publishing/Entry.ts"
import type { Limits } from "../../../src/layers/publishing/Outbox.ts"
import { Outbox } from "../../../src/layers/publishing/Outbox.ts"
import type { QoS } from "../../../src/protocol/Packet.ts"

const entry = (topic: string, { qos = 1, size = 1 }: { readonly qos?: QoS; readonly size?: number } = {}): Entry => ({
  topic,
  payload: new Uint8Array(0),
  qos,
  retain: false,
  properties: undefined,
  size,
  at: 0,
  state: "queued",
  phase: "queued",
  sequence: 0,
  resume: undefined
})

/** An outbox, and what it told the callers (`a done`, `b OutboxFull`) and dropped, by topic. */
const make = (limits: Partial<Limits> = {}) => {
  const told: Array<string> = []
  const dropped: Array<string> = []
  const outbox = new Outbox({ maxMessages: 1_000, maxBytes: 1_000_000, strategy: "suspend", ...limits }, {
    finish: (entry, outcome) => told.push(`${entry.topic} ${outcome._tag === "Done" ? "done" : outcome.reason._tag}`),
    onDrop: (entry) => dropped.push(entry.topic)
  })
  return { outbox, told, dropped }
}

const offer = (outbox: Outbox, ...entries: ReadonlyArray<Entry>): void => {
  for (const entry of entries) outbox.offer(entry)
}

setFlagsFromString("--expose-gc")
const collectGarbage = runInNewContext("gc") as () => void

/** What comes next, where nothing was given as a batch. */
const peek = (outbox: Outbox): Entry | undefined => {
  const next = outbox.peek()
  assert.notInstanceOf(next, Run)
  return next as Entry | undefined
}

/** Sends all that can be sent; gives the topics in order. */
const takeAll = (outbox: Outbox): Array<string> => {
  const topics: Array<string> = []
  for (let next = peek(outbox); next !== undefined; next = peek(outbox)) {
    outbox.take(next)
    topics.push(next.topic)
  }
  return topics
}

describe("Outbox", () => {
  it("hands out in call order, and counts messages and bytes (law 7, law 14)", () => {
    const { outbox } = make()
    offer(outbox, entry("a", { size: 10 }), entry("b", { size: 20, qos: 0 }), entry("c", { size: 30, qos: 2 }))
    assert.deepStrictEqual([outbox.queued, outbox.bytes], [3, 60])
    assert.strictEqual(peek(outbox), peek(outbox))
    assert.deepStrictEqual(takeAll(outbox), ["a", "b", "c"])
    assert.strictEqual(outbox.queued, 0)
  })

  it("is done with a QoS 0 message when it took it, and holds the bytes of the others until they are over", () => {
    const { outbox, told } = make()
    const [zero, one, two] = ([0, 1, 2] as const).map((qos) => entry(`${qos}`, { qos, size: 10 }))
    offer(outbox, zero!, one!, two!)
    assert.deepStrictEqual(told, ["0 done"])
    takeAll(outbox)
    assert.deepStrictEqual([zero, one, two].map((entry) => entry!.state), ["done", "sent", "sent"])
    assert.deepStrictEqual([zero, one, two].map((entry) => entry!.phase), ["queued", "written", "written"])
    assert.strictEqual(outbox.bytes, 20)
    outbox.release(two!)
    outbox.release(one!)
    assert.deepStrictEqual([outbox.bytes, one!.state], [0, "done"])
  })

  it("keeps its order over thousands of messages, offered and taken in turns", () => {
    const { outbox } = make({ maxMessages: 5_000 })
    const taken: Array<string> = []
    for (let i = 0; i < 20_000; i++) {
      outbox.offer(entry(`${i}`, { qos: 0 }))
      if (i % 3 !== 0) {
        const next = peek(outbox)!
        outbox.take(next)
        taken.push(next.topic)
      }
      if (i % 5_000 === 4_999) taken.push(...takeAll(outbox))
    }
    assert.deepStrictEqual(taken, Array.from({ length: 20_000 }, (_, i) => `${i}`))
    assert.deepStrictEqual([outbox.queued, outbox.bytes], [0, 0])
  })

  describe("suspend", () => {
    it("lets callers wait for room by count, and admits them in order", () => {
      const { outbox, told } = make({ maxMessages: 1 })
      const waiting = [entry("b"), entry("c", { qos: 0 }), entry("d", { qos: 0 })]
      offer(outbox, entry("a"), ...waiting)
      assert.strictEqual(outbox.queued, 1)
      assert.deepStrictEqual(waiting.map((entry) => entry.state), ["waiting", "waiting", "waiting"])
      outbox.take(peek(outbox)!)
      assert.strictEqual(peek(outbox)?.topic, "b")
      assert.deepStrictEqual(told, [])
      outbox.take(peek(outbox)!)
      outbox.admit()
      assert.deepStrictEqual(told, ["c done"])
      assert.deepStrictEqual(takeAll(outbox), ["c", "d"])
      assert.deepStrictEqual(told, ["c done", "d done"])
    })

    it("lets callers wait for room by bytes, which sent messages hold as well; the limit itself fits", () => {
      const { outbox } = make({ maxBytes: 100 })
      const first = entry("a", { size: 60 })
      const second = entry("b", { size: 40 })
      const third = entry("c", { size: 1 })
      offer(outbox, first, second, third)
      assert.deepStrictEqual([outbox.queued, outbox.bytes, third.state], [2, 100, "waiting"])
      outbox.take(first)
      assert.strictEqual(third.state, "waiting")
      outbox.release(first)
      assert.deepStrictEqual([third.state, outbox.bytes], ["queued", 41])
    })

    it("lets no small message overtake a large one that waits (law 7)", () => {
      const { outbox } = make({ maxBytes: 100 })
      const first = entry("a", { size: 60 })
      const large = entry("large", { size: 90 })
      const small = entry("small", { size: 1 })
      offer(outbox, first, large, small)
      assert.deepStrictEqual([large.state, small.state], ["waiting", "waiting"])
      assert.isFalse(outbox.hasRoom(entry("x")))
      outbox.take(first)
      outbox.release(first)
      assert.deepStrictEqual([large.state, small.state, outbox.bytes], ["queued", "queued", 91])
    })

    it("refuses at once what would never fit, instead of waiting for ever (law 6)", () => {
      const { outbox, told } = make({ maxBytes: 100 })
      offer(outbox, entry("a", { size: 101 }), entry("b", { size: 100 }))
      assert.deepStrictEqual(told, ["a PacketTooLarge"])
      assert.deepStrictEqual([outbox.queued, outbox.bytes], [1, 100])
    })
  })

  describe("dropOldest", () => {
    it("makes room by count and tells the callers of what it dropped", () => {
      const { dropped, outbox, told } = make({ maxMessages: 2, strategy: "dropOldest" })
      offer(outbox, entry("a"), entry("b"), entry("c"), entry("d"))
      assert.deepStrictEqual(told, ["a OutboxFull", "b OutboxFull"])
      assert.deepStrictEqual(dropped, ["a", "b"])
      assert.deepStrictEqual(takeAll(outbox), ["c", "d"])
    })

    it("makes room by bytes, dropping no more than needed", () => {
      const { dropped, outbox } = make({ maxBytes: 100, strategy: "dropOldest" })
      offer(
        outbox,
        entry("a", { size: 30 }),
        entry("b", { size: 30 }),
        entry("c", { size: 30 }),
        entry("d", { size: 60 })
      )
      assert.deepStrictEqual(dropped, ["a", "b"])
      assert.deepStrictEqual([outbox.queued, outbox.bytes], [2, 90])
    })

    it("drops nothing in vain: where sent messages hold the bytes, the new one is what fails", () => {
      const { dropped, outbox, told } = make({ maxBytes: 100, strategy: "dropOldest" })
      const sent = entry("sent", { size: 90 })
      offer(outbox, sent, entry("queued", { size: 5 }))
      outbox.take(sent)
      offer(outbox, entry("new", { size: 20 }))
      assert.deepStrictEqual([dropped, told], [["new"], ["new OutboxFull"]])
      assert.deepStrictEqual(takeAll(outbox), ["queued"])
    })
  })

  for (const strategy of ["dropNewest", "fail"] as const) {
    it(`${strategy} refuses the new one, by count and by bytes, and takes more when there is room`, () => {
      const { dropped, outbox, told } = make({ maxMessages: 3, maxBytes: 10, strategy })
      const first = entry("a", { size: 5 })
      offer(outbox, first, entry("b", { size: 6 }), entry("c", { size: 4 }), entry("d"), entry("e"), entry("f"))
      assert.deepStrictEqual(told, ["b OutboxFull", "e OutboxFull", "f OutboxFull"])
      assert.deepStrictEqual(dropped, ["b", "e", "f"])
      assert.deepStrictEqual([outbox.queued, outbox.bytes], [3, 10])
      outbox.take(first)
      outbox.release(first)
      offer(outbox, entry("g", { size: 5 }))
      assert.deepStrictEqual(takeAll(outbox), ["c", "d", "g"])
    })
  }

  describe("remove", () => {
    it("takes out a queued message as if it had never been there, and admits who waited (law 5)", () => {
      const { outbox, told } = make({ maxMessages: 2 })
      const [a, b, c] = [entry("a"), entry("b"), entry("c", { size: 7 })]
      offer(outbox, a, b, c)
      assert.isTrue(outbox.remove(a))
      assert.deepStrictEqual([a.state, c.state, outbox.queued, outbox.bytes], ["done", "queued", 2, 8])
      assert.isFalse(outbox.remove(a))
      assert.strictEqual(outbox.bytes, 8)
      assert.deepStrictEqual(takeAll(outbox), ["b", "c"])
      assert.deepStrictEqual(told, [])
    })

    it("takes out a message whose caller waits for room, and those behind it that fit come in", () => {
      const { outbox } = make({ maxBytes: 100 })
      const large = entry("large", { size: 90 })
      const small = entry("small", { size: 1 })
      offer(outbox, entry("a", { size: 60 }), large, small)
      assert.isTrue(outbox.remove(large))
      assert.deepStrictEqual([large.state, small.state], ["done", "queued"])
      assert.deepStrictEqual(takeAll(outbox), ["a", "small"])
    })

    it("leaves alone what was sent, and what is over (law 5)", () => {
      const { outbox } = make()
      const sent = entry("a", { size: 9 })
      offer(outbox, sent)
      outbox.take(sent)
      assert.isFalse(outbox.remove(sent))
      assert.deepStrictEqual([sent.state, outbox.bytes], ["sent", 9])
      outbox.release(sent)
      assert.isFalse(outbox.remove(sent))
      assert.strictEqual(outbox.bytes, 0)
    })

    // Whether entries are held cannot be asked for, so the garbage collector is.
    for (const state of ["queued", "waiting"] as const) {
      it(`holds a bounded number of removed entries that were ${state} (law 14)`, async () => {
        const { outbox } = make({ maxMessages: state === "queued" ? 1_000 : 1 })
        offer(outbox, entry("head"))
        if (state === "waiting") offer(outbox, entry("first"))
        const removed = Array.from({ length: 1_000 }, (_, i) => {
          const each = entry(`${i}`)
          outbox.offer(each)
          assert.strictEqual(each.state, state)
          outbox.remove(each)
          return new WeakRef(each)
        })
        await new Promise((resolve) => setImmediate(resolve))
        collectGarbage()
        assert.isAtMost(removed.filter((each) => each.deref() !== undefined).length, 130)
        assert.deepStrictEqual([outbox.queued, outbox.bytes], [1, 1])
        assert.deepStrictEqual(takeAll(outbox), state === "waiting" ? ["head", "first"] : ["head"])
      })
    }
  })

  it("removes all that is queued and all that waits, in order", () => {
    const { outbox } = make({ maxMessages: 2 })
    const entries = ["a", "b", "c", "d"].map((topic) => entry(topic))
    offer(outbox, ...entries)
    outbox.remove(entries[2]!)
    assert.deepStrictEqual(outbox.removeAll().map((entry) => entry.topic), ["a", "b", "d"])
    assert.deepStrictEqual(entries.map((entry) => entry.state), ["done", "done", "done", "done"])
    assert.deepStrictEqual([outbox.queued, outbox.bytes, outbox.removeAll().length], [0, 0, 0])
    offer(outbox, entry("e"))
    assert.deepStrictEqual(takeAll(outbox), ["e"])
  })

  describe("putBack", () => {
    it("puts sent messages before the queued ones, in their order, with their bytes counted once", () => {
      const { outbox } = make({ maxMessages: 3 })
      const sent = [entry("a", { size: 2 }), entry("b", { size: 3 })]
      offer(outbox, ...sent, entry("c", { size: 5 }))
      for (const entry of sent) outbox.take(entry)
      outbox.putBack(sent)
      assert.deepStrictEqual([outbox.queued, outbox.bytes], [3, 10])
      assert.deepStrictEqual(takeAll(outbox), ["a", "b", "c"])
      assert.strictEqual(outbox.bytes, 10)
    })

    it("lets nobody in while the bound is exceeded, and remembers that bytes have left", () => {
      const { outbox } = make({ maxMessages: 1 })
      const sent = entry("a")
      offer(outbox, sent)
      outbox.take(sent)
      const [queued, waiting] = [entry("b"), entry("c")]
      offer(outbox, queued, waiting)
      outbox.putBack([sent])
      assert.deepStrictEqual([sent.state, sent.phase, outbox.queued], ["queued", "written", 2])
      outbox.take(sent)
      outbox.admit()
      assert.strictEqual(waiting.state, "waiting")
      outbox.take(queued)
      outbox.admit()
      assert.strictEqual(waiting.state, "queued")
    })
  })

  describe("configure", () => {
    const waiting = () => {
      const made = make({ maxMessages: 1 })
      const entries = ["a", "b", "c"].map((topic) => entry(topic, { size: 10 }))
      offer(made.outbox, ...entries)
      return { ...made, entries }
    }

    it("admits who waits when the bound is raised, in order", () => {
      const { outbox } = waiting()
      outbox.configure({ maxMessages: 2, maxBytes: 100, strategy: "suspend" })
      assert.strictEqual(outbox.queued, 2)
      offer(outbox, entry("d"))
      assert.deepStrictEqual(takeAll(outbox), ["a", "b", "c", "d"])
    })

    it("keeps what is queued when the bound is lowered", () => {
      const { outbox, told } = make()
      offer(outbox, entry("a"), entry("b"), entry("c"))
      outbox.configure({ maxMessages: 1, maxBytes: 1, strategy: "suspend" })
      const late = entry("d")
      offer(outbox, late)
      assert.deepStrictEqual([outbox.queued, late.state], [3, "waiting"])
      for (const entry of ["a", "b", "c"].map(() => peek(outbox)!)) {
        outbox.take(entry)
        outbox.release(entry)
      }
      assert.deepStrictEqual([late.state, told], ["queued", []])
    })

    it("fails who waits with what can never fit any more, and lets in who waits behind (law 6)", () => {
      const { outbox, told } = make({ maxBytes: 100 })
      const first = entry("a", { size: 60 })
      const small = entry("small", { size: 2 })
      offer(outbox, first, entry("large", { size: 90 }), small)
      outbox.configure({ maxMessages: 10, maxBytes: 62, strategy: "suspend" })
      assert.deepStrictEqual(told, ["large PacketTooLarge"])
      assert.deepStrictEqual([small.state, outbox.queued], ["queued", 2])
    })

    it("treats who waits by the new strategy", () => {
      const failing = waiting()
      failing.outbox.configure({ maxMessages: 1, maxBytes: 100, strategy: "fail" })
      assert.deepStrictEqual(failing.told, ["b OutboxFull", "c OutboxFull"])
      assert.deepStrictEqual(takeAll(failing.outbox), ["a"])

      const dropping = waiting()
      dropping.outbox.configure({ maxMessages: 1, maxBytes: 100, strategy: "dropOldest" })
      assert.deepStrictEqual(dropping.told, ["a OutboxFull", "b OutboxFull"])
      assert.deepStrictEqual(takeAll(dropping.outbox), ["c"])
    })
  })

  it("tells what has passed a place in call order, waiting callers included", () => {
    const { outbox } = make({ maxMessages: 1 })
    const [a, b] = [entry("a"), entry("b")]
    offer(outbox, a, b)
    const all = outbox.lastSequence
    assert.deepStrictEqual([outbox.passed(a.sequence - 1), outbox.passed(a.sequence)], [true, false])
    outbox.take(a)
    assert.deepStrictEqual([outbox.passed(a.sequence), outbox.passed(all)], [true, false])
    outbox.remove(b)
    assert.isTrue(outbox.passed(all))
    offer(outbox, entry("c"))
    assert.isTrue(outbox.passed(all))
    assert.isFalse(outbox.passed(outbox.lastSequence))
  })

  it.prop(
    "keeps order, counts and bounds through any sequence of events (law 7, law 14)",
    [
      Arbitrary.array(
        Arbitrary.all([
          Arbitrary.schema(
            Schema.Literals(["offer", "offer", "offer", "take", "take", "remove", "release", "putBack"])
          ),
          Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9 })))
        ]),
        { maxLength: 200 }
      ),
      Arbitrary.schema(Schema.Literals(["suspend", "dropOldest", "dropNewest", "fail"]))
    ],
    ([events, strategy]) => {
      const { outbox } = make({ maxMessages: 4, maxBytes: 20, strategy })
      const all: Array<Entry> = []
      const inState = (state: Entry["state"]) => all.filter((entry) => entry.state === state)
      const bytesOf = (entries: ReadonlyArray<Entry>) => entries.reduce((sum, entry) => sum + entry.size, 0)
      let excess = 0
      for (const [kind, n] of events) {
        switch (kind) {
          case "offer": {
            const offered = entry(`${all.length}`, { qos: (n % 3) as QoS, size: n })
            all.push(offered)
            outbox.offer(offered)
            break
          }
          case "take": {
            const next = peek(outbox)
            assert.strictEqual(next, inState("queued").toSorted((a, b) => a.sequence - b.sequence)[0])
            if (next !== undefined) outbox.take(next)
            break
          }
          case "remove": {
            const candidates = all.filter((entry) => entry.state !== "done")
            const chosen = candidates[n % Math.max(1, candidates.length)]
            if (chosen !== undefined) assert.strictEqual(outbox.remove(chosen), chosen.state === "done")
            break
          }
          case "release": {
            const sent = inState("sent")
            if (sent.length > 0) outbox.release(sent[n % sent.length]!)
            break
          }
          case "putBack": {
            const sent = inState("sent")
            excess = Math.max(0, outbox.queued + sent.length - 4)
            outbox.putBack(sent)
            break
          }
        }
        const queued = inState("queued")
        excess = Math.min(excess, Math.max(0, queued.length - 4))
        assert.strictEqual(outbox.queued, queued.length)
        assert.strictEqual(outbox.bytes, bytesOf(queued) + bytesOf(inState("sent")))
        assert.isAtMost(outbox.queued, 4 + excess)
        assert.isAtMost(outbox.bytes, 20)
        const waiting = inState("waiting")
        if (strategy !== "suspend") assert.deepStrictEqual(waiting, [])
        // Who waits is behind all that is queued, and the first of them really has no room.
        const first = waiting.toSorted((a, b) => a.sequence - b.sequence)[0]
        if (first !== undefined) {
          assert.isTrue(queued.every((entry) => entry.sequence < first.sequence))
          assert.isTrue(outbox.queued >= 4 || outbox.bytes + first.size > 20)
        }
      }
    },
    { arbitrary: { runs: 300, seed: 7 } }
  )
})
