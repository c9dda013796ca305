import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as ReasonCode from "../../src/protocol/ReasonCode.ts"
import * as Session from "../../src/protocol/Session.ts"

const payload = new Uint8Array(0)

const message = (qos: 1 | 2, topic = "t"): Session.Outgoing => ({
  topic,
  payload,
  qos,
  retain: false
})

/** A session on a first connection, with this window. */
const begun = (window = 65_535): Session.Session<string> => {
  const session = Session.make<string>()
  session.discard(window)
  return session
}

/** Starts an exchange whose token is its topic; gives the identifier. */
const publish = (session: Session.Session<string>, qos: 1 | 2, token = "t"): number => {
  const packetId = session.begin(message(qos, token), undefined, token)
  if (packetId === undefined) assert.fail("nothing was published")
  return packetId
}

const keepAll = () => false

/** All that is sent again now, as `PUBLISH 1 dup`, `PUBREL 2`. */
const redeliver = (
  session: Session.Session<string>,
  refuse: (exchange: Session.Exchange<string>) => boolean = keepAll
): Array<string> => {
  const sent: Array<string> = []
  for (let packet = session.nextRedelivery(refuse); packet !== undefined; packet = session.nextRedelivery(refuse)) {
    sent.push(
      packet._tag === "Pubrel" ? `PUBREL ${packet.packetId}` : `PUBLISH ${packet.packetId}${packet.dup ? " dup" : ""}`
    )
  }
  return sent
}

/** An outcome in one line. */
const show = (outcome: Session.AckOutcome<unknown>): string => {
  switch (outcome._tag) {
    case "Settled":
      return `settled ${ReasonCode.toHex(outcome.settled.reasonCode)}`
    case "Release":
      return `PUBREL ${outcome.packet.packetId} ${ReasonCode.toHex(outcome.packet.reasonCode)}`
    case "Ignored":
      return "ignored"
    case "Fault":
      return `fault ${outcome.fault.packet} ${ReasonCode.toHex(outcome.fault.reasonCode)}`
  }
}

type Ack = "PUBACK" | "PUBREC" | "PUBCOMP"

const acknowledge = <T>(session: Session.Session<T>, ack: Ack, id: number, code: number): Session.AckOutcome<T> => {
  if (ack === "PUBACK") return session.onPuback(id, code, undefined)
  return ack === "PUBREC" ? session.onPubrec(id, code, undefined) : session.onPubcomp(id, code, undefined)
}

/** What nearly all acknowledgements come to, or undefined where there is more to one. */
const acknowledgePlainly = <T>(
  session: Session.Session<T>,
  ack: Ack,
  id: number
): Session.AckOutcome<T> | undefined => {
  const exchange = session.exchange(id)
  if (ack === "PUBREC") {
    if (session.release(id) === undefined) return undefined
    return { _tag: "Release", packet: { _tag: "Pubrel", packetId: id, reasonCode: 0, properties: undefined } }
  }
  if (session.complete(id, ack === "PUBACK" ? 1 : 2) === undefined) return undefined
  return { _tag: "Settled", settled: { exchange: exchange!, reasonCode: 0, reasonString: undefined } }
}

describe("Session", () => {
  describe("publish", () => {
    it("gives unused ids from 1, DUP 0 and the quality of service asked for (QF-01b, QF-02b)", () => {
      const session = begun()
      publish(session, 1, "a")
      publish(session, 2, "b")
      assert.deepStrictEqual(
        [...session.exchanges()].map(({ publish }) => [publish.packetId, publish.qos, publish.dup, publish.topic]),
        [[1, 1, false, "a"], [2, 2, false, "b"]]
      )
      assert.strictEqual(session.inFlight, 2)
      assert.strictEqual(session.quota, 65_533)
    })

    it("gives nothing and changes nothing when the quota is used up (law 9, FC-01b)", () => {
      const session = begun(2)
      publish(session, 1)
      publish(session, 2)
      assert.isUndefined(session.begin(message(1), undefined, "t"))
      assert.deepStrictEqual([session.inFlight, session.quota, session.ids.size], [2, 0, 2])
    })

    it("gives nothing while all 65,535 ids are taken, and the one that comes free next (PI-08p, PI-02c)", () => {
      const session = begun()
      for (let id = 1; id <= 65_534; id++) publish(session, 1)
      const subscribe = session.ids.next()
      assert.strictEqual(subscribe, 65_535)
      assert.strictEqual(session.quota, 1)
      assert.isUndefined(session.begin(message(1), undefined, "t"))
      assert.strictEqual(session.quota, 1)
      acknowledge(session, "PUBACK", 777, 0)
      assert.strictEqual(publish(session, 1), 777)
    })

    it("shares its ids with SUBSCRIBE and keeps them apart from inbound ones (PI-07p)", () => {
      const session = begun()
      assert.strictEqual(session.ids.next(), 1)
      assert.strictEqual(publish(session, 2), 2)
      assert.strictEqual(session.onPublish(2), "deliver")
      session.onPubrecSent(2, 0)
      assert.strictEqual(session.onPubrel(2), 0x00)
      assert.strictEqual(show(acknowledge(session, "PUBREC", 2, 0)), "PUBREL 2 0x00")
      assert.strictEqual(show(acknowledge(session, "PUBCOMP", 2, 0)), "settled 0x00")
    })

    it("takes back an exchange of which no byte was written: id and quota are free (law 5, PI-11p)", () => {
      const session = begun(1)
      const id = publish(session, 2)
      session.retract(id)
      assert.deepStrictEqual([session.inFlight, session.quota, session.ids.size], [0, 1, 0])
      session.retract(id)
      assert.strictEqual(session.quota, 1)
      assert.isAbove(publish(session, 1), id)
    })
  })

  describe("acknowledgements", () => {
    const stages = ["unknown", "QoS 1 published", "QoS 2 published", "QoS 2 released"] as const

    /** A session whose id 1 is at the stage. */
    const at = (stage: (typeof stages)[number]): Session.Session<string> => {
      const session = begun()
      if (stage === "unknown") return session
      publish(session, stage === "QoS 1 published" ? 1 : 2)
      if (stage === "QoS 2 released") acknowledge(session, "PUBREC", 1, 0)
      return session
    }

    const settled = (code: number) => `settled ${ReasonCode.toHex(code)}`
    const expected: Record<(typeof stages)[number], Record<Ack, (code: number) => string>> = {
      "unknown": { PUBACK: () => "ignored", PUBREC: () => "PUBREL 1 0x92", PUBCOMP: () => "ignored" },
      "QoS 1 published": { PUBACK: settled, PUBREC: () => "fault PUBREC 0x82", PUBCOMP: () => "fault PUBCOMP 0x82" },
      "QoS 2 published": {
        PUBACK: () => "fault PUBACK 0x82",
        PUBREC: (code) => code < 0x80 ? "PUBREL 1 0x00" : settled(code),
        PUBCOMP: () => "fault PUBCOMP 0x82"
      },
      "QoS 2 released": {
        PUBACK: () => "fault PUBACK 0x82",
        PUBREC: () => "PUBREL 1 0x00",
        PUBCOMP: () => settled(0)
      }
    }
    const codes: Record<Ack, ReadonlyArray<number>> = {
      PUBACK: ReasonCode.fromServer.Puback,
      PUBREC: ReasonCode.fromServer.Pubrec,
      PUBCOMP: ReasonCode.fromServer.Pubcomp
    }

    for (const stage of stages) {
      for (const ack of ["PUBACK", "PUBREC", "PUBCOMP"] as const) {
        it(`takes ${ack} with every reason code, the id being ${stage} (PI-09p, PI-10p, QF-25b, QF-27p)`, () => {
          for (const code of codes[ack]) {
            const session = at(stage)
            const outcome = show(acknowledge(session, ack, 1, code))
            assert.strictEqual(outcome, expected[stage][ack](code), `code ${code}`)
            const over = outcome.startsWith("settled") || stage === "unknown"
            assert.deepStrictEqual(
              [session.inFlight, session.quota, session.ids.size],
              over ? [0, 65_535, 0] : [1, 65_534, 1],
              `code ${code}`
            )
          }
        })
      }
    }

    it("keeps id and quota from PUBREC to PUBCOMP (PI-06c, FC-03p)", () => {
      const session = begun(1)
      const id = publish(session, 2)
      acknowledge(session, "PUBREC", id, 0)
      assert.isTrue(session.ids.inUse(id))
      assert.strictEqual(session.quota, 0)
      acknowledge(session, "PUBCOMP", id, 0)
      assert.isFalse(session.ids.inUse(id))
      assert.strictEqual(session.quota, 1)
    })

    it("reports the code of PUBREC when PUBCOMP ends the exchange, and PUBCOMP's reason string", () => {
      const session = begun()
      publish(session, 2)
      session.onPubrec(1, 0x10, "nobody listens")
      const outcome = session.onPubcomp(1, 0, "done")
      if (outcome._tag !== "Settled") assert.fail(outcome._tag)
      assert.deepStrictEqual([outcome.settled.reasonCode, outcome.settled.reasonString], [0x10, "done"])
      assert.strictEqual(outcome.settled.exchange.token, "t")
    })

    it("takes a second PUBACK for nothing: no quota is gained (PI-10p, FC-03p)", () => {
      const session = begun(3)
      publish(session, 1)
      acknowledge(session, "PUBACK", 1, 0)
      assert.strictEqual(show(acknowledge(session, "PUBACK", 1, 0)), "ignored")
      assert.strictEqual(session.quota, 3)
    })
  })

  describe("resume", () => {
    it("sends again exactly what is open, with its ids: PUBREL, then PUBLISH with DUP (QF-23b, QF-09b, PB-01b)", () => {
      const session = begun()
      publish(session, 1)
      publish(session, 2)
      publish(session, 2)
      publish(session, 1)
      acknowledge(session, "PUBREC", 3, 0)
      acknowledge(session, "PUBACK", 4, 0)
      session.resume(65_535)
      assert.isTrue(session.redelivering)
      assert.deepStrictEqual(redeliver(session), ["PUBREL 3", "PUBLISH 1 dup", "PUBLISH 2 dup"])
      assert.isFalse(session.redelivering)
      assert.deepStrictEqual(redeliver(session), [])
    })

    it("keeps the order of sending and not of ids, wrapped past 65,535 (OR-01c)", () => {
      const session = begun()
      for (let i = 0; i < 65_533; i++) acknowledge(session, "PUBACK", publish(session, 1), 0)
      const ids = [1, 2, 1, 2, 1].map((qos) => publish(session, qos as 1 | 2))
      assert.deepStrictEqual(ids, [65_534, 65_535, 1, 2, 3])
      session.resume(65_535)
      assert.deepStrictEqual(redeliver(session), ids.map((id) => `PUBLISH ${id} dup`))
      session.resume(65_535)
      assert.deepStrictEqual(redeliver(session), ids.map((id) => `PUBLISH ${id} dup`))
    })

    it("sends PUBRELs again in the order in which their PUBRECs came (OR-04c)", () => {
      const session = begun()
      for (let i = 0; i < 3; i++) publish(session, 2)
      assert.deepStrictEqual([3, 1, 2].map((id) => show(acknowledge(session, "PUBREC", id, 0))), [
        "PUBREL 3 0x00",
        "PUBREL 1 0x00",
        "PUBREL 2 0x00"
      ])
      session.resume(65_535)
      assert.deepStrictEqual(redeliver(session), ["PUBREL 3", "PUBREL 1", "PUBREL 2"])
    })

    it("sends again only as far as the window of the new connection (law 9, FC-02c)", () => {
      const session = begun()
      for (let i = 0; i < 3; i++) publish(session, 1)
      session.resume(1)
      assert.deepStrictEqual(redeliver(session), ["PUBLISH 1 dup"])
      assert.isUndefined(session.begin(message(1), undefined, "t"))
      acknowledge(session, "PUBACK", 1, 0)
      assert.deepStrictEqual(redeliver(session), ["PUBLISH 2 dup"])
      acknowledge(session, "PUBACK", 2, 0)
      assert.deepStrictEqual(redeliver(session), ["PUBLISH 3 dup"])
      acknowledge(session, "PUBACK", 3, 0)
      assert.deepStrictEqual(redeliver(session), [])
      assert.deepStrictEqual([session.quota, session.inFlight], [1, 0])
    })

    it("never holds a PUBREL back, and counts it until PUBCOMP (FC-10p, FC-03p)", () => {
      const session = begun()
      for (let i = 0; i < 2; i++) acknowledge(session, "PUBREC", publish(session, 2), 0)
      publish(session, 1)
      session.resume(1)
      assert.deepStrictEqual(redeliver(session), ["PUBREL 1", "PUBREL 2"])
      assert.strictEqual(session.quota, -1)
      acknowledge(session, "PUBCOMP", 1, 0)
      assert.deepStrictEqual(redeliver(session), [])
      acknowledge(session, "PUBCOMP", 2, 0)
      assert.strictEqual(session.quota, 1)
      assert.deepStrictEqual(redeliver(session), ["PUBLISH 3 dup"])
      acknowledge(session, "PUBACK", 3, 0)
      assert.strictEqual(session.quota, 1)
    })

    it("skips what ended before its turn, and an answer to what was not sent here ends nothing", () => {
      const session = begun()
      publish(session, 1)
      acknowledge(session, "PUBREC", publish(session, 2), 0)
      publish(session, 2)
      session.resume(65_535)
      assert.strictEqual(show(acknowledge(session, "PUBACK", 1, 0)), "ignored")
      assert.strictEqual(show(acknowledge(session, "PUBREC", 3, 0)), "ignored")
      assert.strictEqual(show(acknowledge(session, "PUBCOMP", 2, 0)), "settled 0x00")
      assert.deepStrictEqual(redeliver(session), ["PUBLISH 1 dup", "PUBLISH 3 dup"])
    })

    it("takes out what the new connection's limits forbid, PUBRELs excepted", () => {
      const session = begun()
      publish(session, 1, "small")
      publish(session, 2, "big")
      acknowledge(session, "PUBREC", publish(session, 2, "big"), 0)
      session.resume(1)
      assert.deepStrictEqual(redeliver(session, (exchange) => exchange.token === "big"), ["PUBREL 3"])
      acknowledge(session, "PUBCOMP", 3, 0)
      assert.deepStrictEqual(redeliver(session, (exchange) => exchange.token === "big"), ["PUBLISH 1 dup"])
      assert.deepStrictEqual([session.inFlight, session.ids.inUse(2), session.quota], [1, false, 0])
    })

    it("starts over when the connection drops during the redelivery", () => {
      const session = begun()
      for (let i = 0; i < 3; i++) publish(session, 1)
      session.resume(2)
      assert.deepStrictEqual(redeliver(session), ["PUBLISH 1 dup", "PUBLISH 2 dup"])
      acknowledge(session, "PUBACK", 2, 0)
      session.resume(65_535)
      assert.deepStrictEqual(redeliver(session), ["PUBLISH 1 dup", "PUBLISH 3 dup"])
    })
  })

  describe("discard", () => {
    it("gives all that was open and frees ids, quota and inbound ids (law 5, FC-08p)", () => {
      const session = begun(3)
      publish(session, 1, "a")
      publish(session, 2, "b")
      publish(session, 2, "c")
      acknowledge(session, "PUBREC", 3, 0)
      assert.strictEqual(session.onPublish(9), "deliver")
      session.onPubrecSent(9, 0)
      const lost = session.discard(5)
      assert.sameMembers(lost.map((exchange) => exchange.token), ["a", "b", "c"])
      assert.deepStrictEqual([session.inFlight, session.ids.size, session.quota, session.held], [0, 0, 5, 0])
      assert.deepStrictEqual(redeliver(session), [])
      assert.strictEqual(session.onPublish(9), "deliver")
      assert.strictEqual(publish(session, 1), 4)
    })

    it("leaves the ids of subscriptions alone", () => {
      const session = begun()
      const subscribe = session.ids.next()
      publish(session, 1)
      session.discard(10)
      assert.isTrue(session.ids.inUse(subscribe!))
      assert.strictEqual(session.ids.size, 1)
    })
  })

  describe("inbound", () => {
    it("hands a message over once until PUBREL, and says when PUBREC is due again (QF-13b, law 8)", () => {
      const session = begun()
      assert.strictEqual(session.onPublish(5), "deliver")
      assert.strictEqual(session.onPublish(5), "held")
      session.onPubrecSent(5, 0)
      assert.strictEqual(session.onPublish(5), "again")
      session.resume(10)
      assert.strictEqual(session.onPublish(5), "again")
      assert.strictEqual(session.onPubrel(5), 0x00)
      assert.strictEqual(session.onPublish(5), "deliver")
    })

    it("answers an unknown PUBREL with 0x92 (QF-14b)", () => {
      assert.strictEqual(begun().onPubrel(7), 0x92)
    })

    it("frees the id with a refusing PUBREC (QF-12b)", () => {
      const session = begun()
      session.onPublish(5)
      session.onPubrecSent(5, 0x83)
      assert.strictEqual(session.held, 0)
      assert.strictEqual(session.onPublish(5), "deliver")
    })

    it("forgets what was never handed over, and nothing that PUBREC was sent for", () => {
      const session = begun()
      session.onPublish(1)
      session.onPublish(2)
      session.onPubrecSent(2, 0)
      session.forget(1)
      session.forget(2)
      assert.strictEqual(session.onPublish(1), "deliver")
      assert.strictEqual(session.onPublish(2), "again")
    })
  })

  // ---------------------------------------------------------------------------
  // against a reference model
  // ---------------------------------------------------------------------------

  describe("model", () => {
    interface Open {
      readonly id: number
      readonly qos: 1 | 2
      released: boolean
      /** Whether it went out on the present connection. */
      sent: boolean
      answer: number
    }

    /** The same machine without a thought for speed: one list in order of sending, one of PUBRELs, and nothing derived. */
    class Model {
      open: Array<Open> = []
      released: Array<Open> = []
      pending: Array<Open> = []
      window = 65_535
      last = 0

      get quota(): number {
        return this.window - this.open.filter((exchange) => exchange.sent).length
      }
      #nextId(): number {
        let id = this.last
        do id = id % 65_535 + 1
        while (this.open.some((exchange) => exchange.id === id))
        this.last = id
        return id
      }
      publish(qos: 1 | 2): string {
        if (this.quota <= 0) return "nothing"
        const id = this.#nextId()
        this.open.push({ id, qos, released: false, sent: true, answer: 0 })
        return `PUBLISH ${id}`
      }
      #end(exchange: Open): void {
        this.open = this.open.filter((other) => other !== exchange)
        this.released = this.released.filter((other) => other !== exchange)
      }
      acknowledge(ack: Ack, id: number, code: number): string {
        const exchange = this.open.find((other) => other.id === id)
        if (exchange === undefined) return ack === "PUBREC" ? `PUBREL ${id} 0x92` : "ignored"
        const due = exchange.qos === 1 ? "PUBACK" : exchange.released ? "PUBCOMP" : "PUBREC"
        if (exchange.released && ack === "PUBREC") return `PUBREL ${id} 0x00`
        if (ack !== due) return `fault ${ack} 0x82`
        if (!exchange.sent && !exchange.released) return "ignored"
        if (ack === "PUBREC" && code < 0x80) {
          exchange.released = true
          exchange.answer = code
          this.released.push(exchange)
          return `PUBREL ${id} 0x00`
        }
        this.#end(exchange)
        return `settled ${ReasonCode.toHex(ack === "PUBCOMP" ? exchange.answer : code)}`
      }
      redeliver(refuse: boolean): string {
        for (const exchange of this.pending) {
          if (!this.open.includes(exchange) || exchange.sent) continue
          if (!exchange.released && refuse) {
            this.#end(exchange)
            continue
          }
          if (!exchange.released && this.quota <= 0) return "nothing"
          exchange.sent = true
          return exchange.released ? `PUBREL ${exchange.id}` : `PUBLISH ${exchange.id} dup`
        }
        return "nothing"
      }
      resume(window: number): void {
        this.window = window
        for (const exchange of this.open) exchange.sent = false
        this.pending = [...this.released, ...this.open.filter((exchange) => !exchange.released)]
      }
      discard(window: number): ReadonlyArray<number> {
        const lost = this.open.map((exchange) => exchange.id)
        this.window = window
        this.open = []
        this.released = []
        this.pending = []
        return lost
      }
    }

    const steps = Arbitrary.array(
      Arbitrary.all([
        Arbitrary.schema(Schema.Literals([
          ...["publish1", "publish1", "publish2", "publish2", "retract"] as const,
          ...["PUBACK", "PUBREC", "PUBCOMP", "PUBACK", "PUBREC", "PUBCOMP"] as const,
          ...["redeliver", "redeliver", "refuse", "resume", "resume", "discard"] as const
        ])),
        Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 7 }))),
        Arbitrary.schema(Schema.Literals([0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]))
      ]),
      { maxLength: 120 }
    )

    const step = (
      session: Session.Session<number>,
      model: Model,
      kind: string,
      n: number,
      code: number,
      isPlain: boolean
    ): [string, string] => {
      const describePacket = (packet: ReturnType<typeof session.nextRedelivery>) =>
        packet === undefined
          ? "nothing"
          : `${packet._tag.toUpperCase()} ${packet.packetId}${packet._tag === "Publish" && packet.dup ? " dup" : ""}`
      const describeId = (packetId: number | undefined) => packetId === undefined ? "nothing" : `PUBLISH ${packetId}`
      switch (kind) {
        case "publish1":
        case "publish2": {
          const qos = kind === "publish1" ? 1 : 2
          return [describeId(session.begin(message(qos), undefined, n)), model.publish(qos)]
        }
        case "retract": {
          const packetId = session.begin(message(1), undefined, n)
          if (packetId !== undefined) session.retract(packetId)
          const expected = model.publish(1)
          if (expected !== "nothing") model.open.pop()
          return [describeId(packetId), expected]
        }
        case "redeliver":
        case "refuse":
          return [describePacket(session.nextRedelivery(() => kind === "refuse")), model.redeliver(kind === "refuse")]
        case "resume":
          session.resume(n + 1)
          model.resume(n + 1)
          return ["", ""]
        case "discard":
          return [
            session.discard(n + 1).map((exchange) => exchange.publish.packetId).toSorted((a, b) => a - b).join(),
            model.discard(n + 1).toSorted((a, b) => a - b).join()
          ]
        default: {
          const ack = kind as Ack
          // Mostly ids that are in use, and now and then one that is not.
          const id = model.open[n]?.id ?? model.last + n
          const plain = isPlain && code === 0 ? acknowledgePlainly(session, ack, id) : undefined
          return [show(plain ?? acknowledge(session, ack, id, code)), model.acknowledge(ack, id, code)]
        }
      }
    }

    for (const [name, isPlain] of [["", false], [" where acknowledgements are plain", true]] as const) {
      it.prop(`agrees with the model${name}, and conserves ids and quota (law 5, law 9)`, [steps], ([events]) => {
        const session = Session.make<number>()
        const model = new Model()
        for (const [kind, n, code] of events) {
          const [actual, expected] = step(session, model, kind, n, code, isPlain)
          assert.strictEqual(actual, expected, kind)
          const open = [...session.exchanges()].map((exchange) => exchange.publish.packetId)
          assert.sameMembers(open, model.open.map((exchange) => exchange.id))
          assert.deepStrictEqual(
            [session.inFlight, session.ids.size, session.quota],
            [model.open.length, model.open.length, model.quota],
            kind
          )
          for (const { id } of model.open) assert.isTrue(session.ids.inUse(id))
        }
      }, { arbitrary: { runs: 300, seed: 5 } })
    }
  })
})
