import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as KeepAlive from "../../src/protocol/KeepAlive.ts"

// Times in this file are seconds, as in the standard's table of timing vectors: the simulator converts.

/** What happens on the link at a time, apart from what the keep-alive rule does by itself. */
type Event =
  /** A whole write, handed to the socket at once. */
  | readonly [at: number, what: "send"]
  /** Bytes of any kind. */
  | readonly [at: number, what: "receive"]
  | readonly [at: number, what: "ping"]
  | readonly [at: number, what: "writeStart" | "writeProgress" | "writeEnd"]

interface Scenario {
  readonly keepAlive: number
  readonly serverKeepAlive?: number
  readonly pingTimeout?: number
  /** Seconds from ping to PINGRESP; without it the peer answers no ping. */
  readonly answersAfter?: number
  readonly events?: ReadonlyArray<Event>
  readonly until: number
  /** From when to when the process does not run, and what it finds in the socket when it wakes. */
  readonly suspended?: readonly [from: number, to: number]
}

interface Outcome {
  readonly pings: Array<number>
  readonly end?: { readonly at: number; readonly decision: KeepAlive.Decision }
  /** How often the rule was asked. */
  readonly asked: number
}

/** The owner of a link as the module's documentation tells it to be, on a clock of its own. */
const simulate = (scenario: Scenario): Outcome => {
  const seconds = KeepAlive.effectiveSeconds(scenario.keepAlive, scenario.serverKeepAlive)
  const state = KeepAlive.make({
    keepAlive: seconds * 1000,
    pingTimeout: (scenario.pingTimeout ?? seconds) * 1000,
    now: 0
  })
  const events = [...(scenario.events ?? [])]
  const pings: Array<number> = []
  let asked = 0
  let wakeAt = 0
  const flushPing = (now: number) => {
    KeepAlive.writeStarted(state, now)
    KeepAlive.writeEnded(state, now)
    KeepAlive.pingFlushed(state, now)
    pings.push(now / 1000)
    if (scenario.answersAfter !== undefined) events.push([now / 1000 + scenario.answersAfter, "receive"])
    wakeAt = now
  }
  const apply = (what: Event[1], now: number) => {
    switch (what) {
      case "send":
        KeepAlive.writeStarted(state, now)
        return KeepAlive.writeEnded(state, now)
      case "receive":
        return KeepAlive.received(state, now)
      case "ping":
        return flushPing(now)
      case "writeStart":
        return KeepAlive.writeStarted(state, now)
      case "writeProgress":
        return KeepAlive.writeProgressed(state, now)
      case "writeEnd":
        KeepAlive.writeEnded(state, now)
        if (state.pingQueued) flushPing(now)
    }
  }
  while (true) {
    events.sort((a, b) => a[0] - b[0])
    const eventAt = events.length === 0 ? Infinity : events[0][0] * 1000
    let now = Math.min(eventAt, wakeAt)
    if (now > scenario.until * 1000) return { pings, asked }
    const [from, to] = scenario.suspended ?? [Infinity, Infinity]
    if (now > from * 1000 && now < to * 1000) now = to * 1000
    if (eventAt <= now && eventAt <= wakeAt) {
      apply((events.shift() as Event)[1], now)
      continue
    }
    let decision = KeepAlive.decide(state, now)
    asked++
    if ("late" in decision && decision.late > 0) {
      // Woke late: what has arrived meanwhile comes first.
      while (events.length > 0 && events[0][0] * 1000 <= now) apply((events.shift() as Event)[1], now)
      decision = KeepAlive.decide(state, now)
      asked++
    }
    switch (decision._tag) {
      case "Off":
        wakeAt = Infinity
        break
      case "Wait":
        assert.isAbove(decision.until, now)
        wakeAt = decision.until
        break
      case "Ping":
        KeepAlive.pingQueued(state)
        assert.strictEqual(KeepAlive.decide(state, now)._tag, "Wait")
        flushPing(now)
        break
      default:
        return { pings, asked, end: { at: now / 1000, decision } }
    }
  }
}

const every = (step: number, until: number, what: "send" | "receive", from = step): Array<Event> => {
  const events: Array<Event> = []
  for (let at = from; at <= until; at += step) events.push([at, what])
  return events
}

const day = 86_400

describe("KeepAlive", () => {
  describe("timing vectors", () => {
    it("K1 (KA-01c): pings every interval while idle and answered", () => {
      const { end, pings } = simulate({ keepAlive: 10, answersAfter: 0.05, until: 35 })
      assert.isUndefined(end)
      // The interval runs from what was sent last, and the answer came after it.
      assert.deepStrictEqual(pings, [10, 20, 30])
    })

    it("K2 (KA-01c): a QoS 0 publish at 7 asks for no packet by itself before 17", () => {
      const answered = simulate({ keepAlive: 10, events: [[7, "send"], [7.1, "receive"]], answersAfter: 0, until: 17 })
      assert.deepStrictEqual(answered.pings, [17])
      // With nothing received since CONNACK the link has to prove itself earlier, which is legal.
      const unanswered = simulate({ keepAlive: 10, events: [[7, "send"]], answersAfter: 0, until: 17 })
      assert.deepStrictEqual(unanswered.pings, [10])
    })

    it("K3 (KA-02c): inbound traffic alone does not put off the ping", () => {
      const { pings } = simulate({ keepAlive: 10, events: every(1, 30, "receive"), answersAfter: 0, until: 30 })
      assert.deepStrictEqual(pings, [10, 20, 30])
    })

    it("K4 (KA-02c): acknowledgements are packets: traffic both ways needs no ping", () => {
      const events = [...every(4, 1000, "receive"), ...every(4, 1000, "send", 4.01)]
      assert.deepStrictEqual(simulate({ keepAlive: 10, events, until: 1000 }).pings, [])
    })

    it("K5 (KA-03c): a smaller server keep alive holds", () => {
      const { pings } = simulate({ keepAlive: 60, serverKeepAlive: 1, answersAfter: 0, until: 3 })
      assert.deepStrictEqual(pings, [1, 2, 3])
    })

    it("K6 (KA-03c): a larger server keep alive holds", () => {
      const { pings } = simulate({ keepAlive: 5, serverKeepAlive: 120, answersAfter: 0, until: 120 })
      assert.deepStrictEqual(pings, [120])
    })

    it("K7 (KA-03c): a server keep alive of 0 turns it off", () => {
      assert.deepStrictEqual(simulate({ keepAlive: 30, serverKeepAlive: 0, until: day }), { pings: [], asked: 1 })
    })

    it("K8 (KA-03c): a server keep alive turns it on", () => {
      const { pings } = simulate({ keepAlive: 0, serverKeepAlive: 30, answersAfter: 0, until: 30 })
      assert.deepStrictEqual(pings, [30])
    })

    it("K9 (KA-05p): keep alive 0 never pings and never times out", () => {
      const events: Array<Event> = [[1, "writeStart"]]
      assert.deepStrictEqual(simulate({ keepAlive: 0, events, until: day }), { pings: [], asked: 1 })
    })

    it("K10 (KA-14p): the interval begins with CONNECT, not with CONNACK", () => {
      const { pings } = simulate({ keepAlive: 10, events: [[8, "receive"]], answersAfter: 0, until: 19 })
      assert.deepStrictEqual(pings, [10])
    })

    it("K11 (KA-14p): an AUTH that was sent begins a new interval", () => {
      const events: Array<Event> = [[4, "receive"], [4, "send"], [8, "receive"]]
      assert.deepStrictEqual(simulate({ keepAlive: 10, events, answersAfter: 0, until: 20 }).pings, [14])
    })

    it("K12 (KA-06p): an unanswered ping times out exactly pingTimeout after it was flushed", () => {
      const outcome = simulate({ keepAlive: 10, pingTimeout: 4, until: 100 })
      assert.deepStrictEqual(outcome.pings, [10])
      assert.deepStrictEqual(outcome.end, { at: 14, decision: { _tag: "Timeout", late: 0 } })
    })

    it("K13: any byte that comes in after the ping proves life", () => {
      const events = every(3, 60, "receive", 11)
      const { end, pings } = simulate({ keepAlive: 10, pingTimeout: 4, events, until: 60 })
      assert.isUndefined(end)
      assert.deepStrictEqual(pings, [10, 20, 30, 40, 50, 60])
    })

    it("K14 (KA-09s): a PINGRESP that nobody waits for changes nothing but the proof of life", () => {
      const state = KeepAlive.make({ keepAlive: 10_000, pingTimeout: 10_000, now: 0 })
      KeepAlive.received(state, 3000)
      assert.deepStrictEqual(KeepAlive.decide(state, 3000), { _tag: "Wait", until: 10_000 })
    })

    it("K15 (KA-12b): the rule knows no send quota", () => {
      assert.deepStrictEqual(simulate({ keepAlive: 10, answersAfter: 0, until: 10 }).pings, [10])
    })

    it("K16 (KA-04s): the server's value ends with its connection", () => {
      assert.deepStrictEqual(simulate({ keepAlive: 10, serverKeepAlive: 2, answersAfter: 0, until: 2 }).pings, [2])
      assert.deepStrictEqual(simulate({ keepAlive: 10, answersAfter: 0, until: 10 }).pings, [10])
    })

    it("K17 (KA-13b): a DISCONNECT at 9.9 begins a new interval like any packet", () => {
      assert.deepStrictEqual(
        simulate({ keepAlive: 10, events: [[9.9, "send"], [9.9, "receive"]], until: 19.8 }).pings,
        []
      )
    })

    it("K18 (KA-15p): a write of 25 s that drains has no ping in it and is not blocked", () => {
      const progress: Array<Event> = [5, 10, 15, 20].map((at) => [at, "writeProgress"])
      const events: Array<Event> = [[0, "writeStart"], ...progress, [25, "writeEnd"]]
      const { end, pings } = simulate({ keepAlive: 10, pingTimeout: 3, events, answersAfter: 0.1, until: 44 })
      assert.isUndefined(end)
      assert.isAtLeast(pings[0], 25)
      assert.isAtMost(pings[0], 35)
    })

    it("K19 (KA-01c): an interval of one second is kept without a margin larger than itself", () => {
      assert.deepStrictEqual(simulate({ keepAlive: 1, answersAfter: 0, until: 2 }).pings, [1, 2])
    })

    it("K20 (KA-16p): the longest interval is 65,535 s", () => {
      assert.strictEqual(KeepAlive.toSeconds(65_535_000), 65_535)
      assert.isUndefined(KeepAlive.toSeconds(65_536_000))
      assert.isUndefined(KeepAlive.toSeconds(65_535_001))
      assert.deepStrictEqual(simulate({ keepAlive: 65_535, answersAfter: 0, until: day }).pings, [65_535])
    })

    it("K21 (KA-16p): a positive interval never becomes 0", () => {
      assert.strictEqual(KeepAlive.toSeconds(400), 1)
      assert.strictEqual(KeepAlive.toSeconds(0.001), 1)
      assert.strictEqual(KeepAlive.toSeconds(1001), 2)
      assert.strictEqual(KeepAlive.toSeconds(0), 0)
      for (const millis of [-1000, NaN, Infinity]) assert.isUndefined(KeepAlive.toSeconds(millis))
    })

    it("K22: a process that was suspended pings once when it wakes", () => {
      const { end, pings } = simulate({ keepAlive: 10, answersAfter: 0.1, suspended: [5, 65], until: 74 })
      assert.isUndefined(end)
      assert.deepStrictEqual(pings, [65])
    })

    it("K22: a process that was suspended over a ping's deadline reads before it judges", () => {
      const answered = simulate({ keepAlive: 10, pingTimeout: 5, answersAfter: 0.2, suspended: [10.1, 65], until: 66 })
      assert.isUndefined(answered.end)
      const silent = simulate({ keepAlive: 10, pingTimeout: 5, suspended: [10.1, 65], until: 66 })
      assert.deepStrictEqual(silent.end, { at: 65, decision: { _tag: "Timeout", late: 50_000 } })
    })

    it("K23 (KA-11p): a ping by hand counts as a packet and has a deadline too", () => {
      const answered = simulate({ keepAlive: 10, events: [[9, "ping"]], answersAfter: 0.1, until: 19 })
      assert.deepStrictEqual(answered.pings, [9, 19])
      const silent = simulate({ keepAlive: 10, pingTimeout: 2, events: [[3, "ping"]], until: 19 })
      assert.deepStrictEqual([silent.pings, silent.end?.at], [[3], 5])
    })

    it("K24 (KA-01c): 3.1.1 has no server keep alive and the same rule", () => {
      assert.strictEqual(KeepAlive.effectiveSeconds(10, undefined), 10)
    })
  })

  describe("half-open links", () => {
    it("finds a black hole although QoS 0 publishes flow out (law 11)", () => {
      const outcome = simulate({ keepAlive: 10, pingTimeout: 5, events: every(0.5, 60, "send"), until: 60 })
      assert.deepStrictEqual(outcome.pings, [10])
      assert.deepStrictEqual(outcome.end, { at: 15, decision: { _tag: "Timeout", late: 0 } })
    })

    it("finds a peer that sends nothing while both directions had traffic before", () => {
      const events = [...every(1, 6, "receive"), ...every(1, 60, "send")]
      const outcome = simulate({ keepAlive: 10, pingTimeout: 5, events, until: 60 })
      assert.deepStrictEqual([outcome.pings, outcome.end?.at], [[16], 21])
    })

    it("cancels the deadline with a byte that comes one millisecond before it", () => {
      const alive = simulate({ keepAlive: 10, pingTimeout: 5, events: [[14.999, "receive"]], until: 19.9 })
      assert.isUndefined(alive.end)
      const dead = simulate({ keepAlive: 10, pingTimeout: 5, events: [[9.999, "receive"]], until: 30 })
      assert.strictEqual(dead.end?.at, 15)
    })

    it("finds a write that is blocked, one interval and one timeout after its last progress", () => {
      const events: Array<Event> = [[2, "writeStart"], [4, "writeProgress"]]
      const outcome = simulate({ keepAlive: 10, pingTimeout: 5, events, until: 100 })
      assert.deepStrictEqual(outcome.pings, [])
      assert.deepStrictEqual(outcome.end, { at: 19, decision: { _tag: "Blocked", since: 4000, late: 0 } })
    })

    it("leaves a write alone that drains however slowly, or whose peer still talks", () => {
      const drains: Array<Event> = [[1, "writeStart"]]
      for (let at = 15; at <= 600; at += 14.9) drains.push([at, "writeProgress"])
      assert.isUndefined(simulate({ keepAlive: 10, pingTimeout: 5, events: drains, until: 600 }).end)
      const talks: Array<Event> = [[1, "writeStart"], ...every(14.9, 600, "receive")]
      assert.isUndefined(simulate({ keepAlive: 10, pingTimeout: 5, events: talks, until: 600 }).end)
    })

    it("holds a flushed ping to its deadline while a later write drains", () => {
      const events: Array<Event> = [[10.5, "writeStart"], [12, "writeProgress"], [14, "writeProgress"]]
      const outcome = simulate({ keepAlive: 10, pingTimeout: 5, events, until: 60 })
      assert.deepStrictEqual([outcome.pings, outcome.end?.at, outcome.end?.decision._tag], [[10], 15, "Timeout"])
    })

    it("counts the deadline from the flush of a ping that had to queue (KA-15p)", () => {
      const state = KeepAlive.make({ keepAlive: 10_000, pingTimeout: 5000, now: 0 })
      assert.strictEqual(KeepAlive.decide(state, 10_000)._tag, "Ping")
      KeepAlive.pingQueued(state)
      KeepAlive.writeStarted(state, 10_000)
      assert.deepStrictEqual(KeepAlive.decide(state, 10_000), { _tag: "Wait", until: 20_000 })
      KeepAlive.writeProgressed(state, 16_000)
      assert.deepStrictEqual(KeepAlive.decide(state, 20_000), { _tag: "Wait", until: 30_000 })
      KeepAlive.writeEnded(state, 22_000)
      KeepAlive.pingFlushed(state, 22_000)
      assert.deepStrictEqual(KeepAlive.decide(state, 22_000), { _tag: "Wait", until: 27_000 })
      assert.deepStrictEqual(KeepAlive.decide(state, 27_000), { _tag: "Timeout", late: 0 })
    })

    it("finds a queued ping that never gets its turn", () => {
      const state = KeepAlive.make({ keepAlive: 10_000, pingTimeout: 5000, now: 0 })
      KeepAlive.pingQueued(state)
      KeepAlive.writeStarted(state, 10_000)
      assert.deepStrictEqual(KeepAlive.decide(state, 20_000), { _tag: "Wait", until: 25_000 })
      assert.deepStrictEqual(KeepAlive.decide(state, 25_000), { _tag: "Blocked", since: 10_000, late: 0 })
    })

    it("keeps telling the server that it lives where the ping timeout is longer than the interval (KA-01c)", () => {
      const { end, pings } = simulate({ keepAlive: 2, pingTimeout: 9, until: 60 })
      assert.deepStrictEqual(pings, [2, 4, 6, 8, 10])
      assert.strictEqual(end?.at, 11)
    })

    it("sends no second ping while one is unanswered and publishes flow", () => {
      const { end, pings } = simulate({ keepAlive: 2, pingTimeout: 9, events: every(0.5, 60, "send"), until: 60 })
      assert.deepStrictEqual([pings, end?.at], [[2], 11])
    })
  })

  it("spends one look and one ping per interval on an idle day", () => {
    const { asked, end, pings } = simulate({ keepAlive: 60, answersAfter: 0.05, until: day })
    assert.isUndefined(end)
    assert.deepStrictEqual(pings, Array.from({ length: 1440 }, (_, i) => (i + 1) * 60))
    assert.isAtMost(asked, 2 * 1441)
  })

  it.prop(
    "keeps both promises under any traffic",
    [
      Arbitrary.array(
        Arbitrary.all([
          Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1000 }))),
          Arbitrary.schema(Schema.Literals(["send", "receive", "ping"]))
        ]),
        { maxLength: 60 }
      ),
      Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 20 })))
    ],
    ([traffic, pingTimeout]) => {
      const keepAlive = 10
      const events = traffic.map(([at, what]): Event => [at / 10, what]).sort((a, b) => a[0] - b[0])
      const { end, pings } = simulate({ keepAlive, pingTimeout, events, until: 150 })
      const over = end?.at ?? 150
      const sent = [0, ...events.filter(([, what]) => what === "send").map(([at]) => at), ...pings, over]
        .filter((at) => at <= over).sort((a, b) => a - b)
      // The server hears from us once per interval.
      for (let i = 1; i < sent.length; i++) {
        assert.isAtMost(sent[i] - sent[i - 1], keepAlive + 1e-9)
      }
      // A link is given up exactly when nothing came in for the timeout behind a ping, and none lives on silent for longer.
      const heard = [0, ...events.filter(([at, what]) => what === "receive" && at <= over).map(([at]) => at)]
      const silence = over - Math.max(...heard)
      if (end !== undefined) assert.isTrue(pings.some((at) => Math.abs(at + pingTimeout - over) < 1e-9))
      assert.isAtMost(silence, keepAlive + pingTimeout + 1e-9)
    },
    { arbitrary: { runs: 500 } }
  )
})
