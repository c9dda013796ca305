import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect } from "effect"
import { ClientCore } from "../../src/layers/ClientCore.ts"
import type { Entry, Outcome } from "../../src/layers/publishing/Entry.ts"
import { PacketCodec } from "../../src/protocol/index.ts"
import type { QoS } from "../../src/protocol/Packet.ts"
import { resolve } from "../../src/services/ResolvedOptions.ts"
import type { Negotiated } from "../../src/services/Status.ts"
import * as Framer from "../../src/testing/Framer.ts"
import { inWords } from "../support/ScriptedBroker.ts"
import { negotiated } from "../support/Negotiated.ts"

/** A core with a connection that a test plays: what it offers, and what is encoded then. */
const make = Effect.gen(function*() {
  const core = new ClientCore(yield* Effect.fromResult(resolve({ endpoint: "mqtt://broker" })), yield* Clock.Clock)
  const encoder = PacketCodec.makeEncoder({ protocolVersion: 5 })
  const outcomes: Array<Outcome> = []
  const offer = (topic: string, qos: QoS = 1) => {
    const entry: Entry = {
      topic,
      payload: new Uint8Array(0),
      qos,
      retain: false,
      properties: undefined,
      size: topic.length,
      at: 0,
      state: "queued",
      phase: "queued",
      sequence: 0,
      resume: (outcome) => outcomes.push(outcome)
    }
    core.outbox.offer(entry)
  }
  const open = (resumes: boolean, limits: Partial<Negotiated> = {}) =>
    core.open({ ...negotiated, sessionPresent: resumes, ...limits }, resumes, { wakeWriter: () => {} })
  const collect = () => {
    assert.isUndefined(core.collect(encoder, 65_536))
    const frames = Framer.make().push(encoder.take())
    return frames.map((frame) => frame === "malformed" ? frame : inWords(frame, 5))
  }
  return { core, offer, open, collect, outcomes }
})

describe("ClientCore", () => {
  it.effect("holds back QoS 1 and 2 while all 65,535 ids are taken, and takes the one that comes free (PI-08p)", () =>
    Effect.gen(function*() {
      const { collect, core, offer, open } = yield* make
      open(false)
      const { ids } = core.session
      while (ids.next() !== undefined) { /* all of them */ }
      offer("a", 0)
      offer("b")
      offer("c", 0)
      assert.deepStrictEqual(collect(), ["publish a:0"])
      assert.deepStrictEqual([core.stats.queued, core.stats.inFlight, core.session.quota], [2, 0, 65_535])
      ids.release(777)
      assert.deepStrictEqual(collect(), ["publish 777 b:1", "publish c:0"])
    }))

  it.effect("sends again in the order of sending, with ids wrapped past 65,535 (OR-01c, PB-01b, law 7)", () =>
    Effect.gen(function*() {
      const { collect, core, offer, open } = yield* make
      open(false)
      const { ids } = core.session
      for (let id = ids.next()!; id <= 65_533; id = ids.next()!) ids.release(id)
      ids.release(65_534)
      for (const [topic, qos] of [["a", 1], ["b", 2], ["c", 1], ["d", 2]] as const) offer(topic, qos)
      const sent = collect()
      assert.deepStrictEqual(sent, ["publish 65535 a:1", "publish 1 b:2", "publish 2 c:1", "publish 3 d:2"])
      core.close()
      offer("new")
      open(true)
      assert.deepStrictEqual(collect(), [...sent.map((words) => `${words} dup`), "publish 4 new:1"])
    }))

  it.effect("gives back the id and the quota of what the encoder refuses at the last moment (law 5, PI-11p)", () =>
    Effect.gen(function*() {
      const { collect, core, offer, open, outcomes } = yield* make
      offer("a/#")
      offer("b", 2)
      open(false, { sendWindow: 1 })
      const sent = collect()
      assert.deepStrictEqual(outcomes.map((outcome) => outcome._tag === "Failed" && outcome.reason._tag), [
        "InvalidMessage"
      ])
      assert.strictEqual(sent.length, 1)
      assert.match(sent[0]!, /b:2$/)
      assert.deepStrictEqual([core.stats.packetIds, core.stats.inFlight, core.stats.heldBytes], [1, 1, 1])
    }))

  it.effect("law 14: a read that is handled leaves no room for more messages than wait", () =>
    Effect.gen(function*() {
      const { core, open } = yield* make
      open(false)
      for (let packetId = 1; packetId <= 200; packetId++) {
        const packet = { dup: false, qos: 1, retain: false, topic: "a", packetId, payload: new Uint8Array(1) } as const
        assert.isUndefined(core.inbound.onPublish({ _tag: "Publish", ...packet, properties: undefined }))
      }
      assert.isAbove(core.inbox.room, 200)
      core.detachPayloads()
      assert.strictEqual(core.inbox.room, 200)
      // Nobody wants them, so all but the last are acknowledged.
      assert.strictEqual(core.inbox.unacknowledged, 32)
    }))
})
