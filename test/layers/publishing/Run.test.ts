import { assert, describe, it } from "@effect/vitest"
import { getHeapStatistics } from "node:v8"
import { Clock, Duration, Effect, Fiber, Result } from "effect"
import type { Exit } from "effect"
import { ClientCore } from "../../../src/layers/ClientCore.ts"
import { makePublishAll } from "../../../src/layers/publishing/PublishingBatch.ts"
import { Run } from "../../../src/layers/publishing/Run.ts"
import { PacketCodec } from "../../../src/protocol/index.ts"
import * as TopicMemory from "../../../src/protocol/TopicMemory.ts"
import type { ClientOptions } from "../../../src/services/ClientOptions.ts"
import type { OutgoingMessage } from "../../../src/services/Message.ts"
import type { PublishResult } from "../../../src/services/MqttClient.ts"
import { ClientHalted, DisconnectRequested } from "../../../src/services/MqttError.ts"
import type { PublishError } from "../../../src/services/MqttError.ts"
import { resolve } from "../../../src/services/ResolvedOptions.ts"
import { Random, toHex } from "../../protocol/support/PacketGenerator.ts"
import { negotiated } from "../../support/Negotiated.ts"

type Outcomes = ReadonlyArray<Result.Result<PublishResult, PublishError>>

const topics = Array.from({ length: 8 }, (_, index) => `run/${index}`)

/** The memory of topics, which all clients share, may have stepped aside for what another test has published. */
const recall = () => {
  for (let count = 0; count < 20_000 && TopicMemory.get(topics[0]!) === undefined; count++) {
    for (const topic of topics) TopicMemory.put(topic)
  }
  for (let count = 0; count < 2000; count++) TopicMemory.get(topics[0]!)
  for (const topic of topics) assert.isDefined(TopicMemory.get(topic))
}

/** A connection that writes nothing by itself. */
const idle = { wakeWriter: () => {} }

/** A client without a network; `hasRuns`: whether any message is plain to it. */
const make = Effect.fnUntraced(function*(outbox: ClientOptions["outbox"], hasRuns = true) {
  const options = yield* Effect.fromResult(resolve({ endpoint: "mqtt://broker", outbox }))
  const core = new ClientCore(options, yield* Clock.Clock)
  const dropped: Array<string> = []
  core.drop = (topic, qos, why) => void dropped.push(`${topic} ${qos} ${why}`)
  if (!hasRuns) core.accepts = () => false
  const fibers: Array<Fiber.Fiber<Outcomes>> = []
  const ended = new Set<number>()
  const told = (exit: Exit.Exit<Outcomes>): ReadonlyArray<string> =>
    exit._tag === "Failure" ? ["interrupted"] : exit.value.map((outcome) =>
      Result.isSuccess(outcome)
        ? `${outcome.success.qos} ${outcome.success.reasonCode}`
        : `${outcome.failure.topic} ${outcome.failure.reason._tag} ${outcome.failure.phase}`
    )
  return {
    core,
    publishAll: (messages: ReadonlyArray<OutgoingMessage>) => {
      fibers.push(Effect.runFork(makePublishAll(core)(messages)))
    },
    interrupt: (index: number) => {
      const fiber = fibers[index]
      if (fiber !== undefined) Effect.runFork(Fiber.interrupt(fiber))
    },
    /** What has ended since, and what there is. */
    state: () => {
      const outcomes: Array<unknown> = []
      fibers.forEach((fiber, index) => {
        const exit = fiber.pollUnsafe()
        if (exit === undefined || ended.has(index)) return
        ended.add(index)
        outcomes.push([index, told(exit)])
      })
      const { bytes, queued } = core.outbox
      return { bytes, queued, inFlight: core.session.inFlight, dropped: dropped.splice(0), outcomes }
    }
  }
})

const message = (random: Random): OutgoingMessage => {
  const topic = random.pick(topics)
  const payload = new Uint8Array(random.int(0, 40))
  switch (random.int(0, 11)) {
    case 0:
      return { topic, payload, qos: 1 }
    case 1:
      return { topic, payload, retain: true }
    case 2:
      return { topic: `${topic}/#`, payload }
    case 3:
      return { topic, payload, messageExpiryInterval: 60 }
    case 4:
      return { topic, payload: new Uint8Array(random.pick([100, 400, 2000])) }
    default:
      return random.int(0, 1) === 0 ? { topic, payload } : { topic, payload, qos: 0, retain: false }
  }
}

describe("Run", () => {
  it.effect("is what the plain QoS 0 messages of a batch are in the outbox", () =>
    Effect.gen(function*() {
      recall()
      const { core, publishAll, state } = yield* make(undefined)
      core.open(negotiated, false, idle)
      publishAll(topics.map((topic) => ({ topic, payload: new Uint8Array(3) })))
      const run = core.outbox.peek()
      assert.instanceOf(run, Run)
      assert.deepStrictEqual([run.count, run.size], [8, 8 * 8])
      assert.deepInclude(state(), { bytes: 64, queued: 8, outcomes: [[0, topics.map(() => "0 0")]] })
    }))

  const messages = (count: number) =>
    Array.from({ length: count }, (_, index) => ({ topic: topics[index % topics.length]!, payload: new Uint8Array(3) }))

  it.effect("is written as far as there is room in the write, and the rest keeps its place", () =>
    Effect.gen(function*() {
      recall()
      const { core, publishAll, state } = yield* make({ maxMessages: 10, maxBytes: 2000 })
      core.open(negotiated, false, idle)
      const encoder = PacketCodec.makeEncoder({ protocolVersion: 5 })
      publishAll(messages(12))
      assert.deepInclude(state(), { queued: 10, bytes: 80, outcomes: [] })
      // A packet takes 13 bytes.
      assert.isUndefined(core.collect(encoder, 30))
      assert.strictEqual(encoder.take().length, 39)
      assert.deepStrictEqual([core.outbox.passed(3), core.outbox.passed(4)], [true, false])
      // Which made room for the two that had none.
      assert.deepInclude(state(), { queued: 9, bytes: 72, outcomes: [[0, messages(12).map(() => "0 0")]] })
      assert.isUndefined(core.collect(encoder, 1000))
      assert.isTrue(core.outbox.passed(12))
      assert.deepInclude(state(), { queued: 0, bytes: 0 })
    }))

  it.effect("takes no memory for what does not come (law 14)", () =>
    Effect.gen(function*() {
      recall()
      const { core, publishAll, state } = yield* make({ maxMessages: 1_000_000, maxBytes: 10_000 })
      core.open(negotiated, false, idle)
      const encoder = PacketCodec.makeEncoder({ protocolVersion: 5 })
      const heap = () => getHeapStatistics().used_heap_size
      const payload = new Uint8Array(1000)
      publishAll(Array.from({ length: 20_000 }, () => ({ topic: topics[0]!, payload })))
      const before = heap()
      for (let left = 2000; left > 0; left--) {
        assert.isUndefined(core.collect(encoder, 1000))
        encoder.take()
        encoder.reclaim()
      }
      // Room for what is left of the batch, in each of 2,000 runs, would be 500 MB.
      assert.isBelow(heap() - before, 100 << 20)
      assert.isAbove(state().queued, 0)
    }))

  it.effect("sends the payload that it looked at, whatever the message gives next", () =>
    Effect.gen(function*() {
      recall()
      const { core, publishAll, state } = yield* make(undefined)
      core.open(negotiated, false, idle)
      let reads = 0
      const changing = {
        topic: topics[0]!,
        get payload(): Uint8Array {
          return reads++ === 0 ? Uint8Array.of(1, 2, 3) : "text" as unknown as Uint8Array
        }
      }
      publishAll([changing])
      const encoder = PacketCodec.makeEncoder({ protocolVersion: 5 })
      assert.isUndefined(core.collect(encoder, 1000))
      assert.strictEqual(toHex(encoder.take().slice(-3)), "01 02 03")
      assert.deepInclude(state(), { queued: 0, bytes: 0 })
    }))

  it.effect("drops by itself what a later connection does not take, and sends the rest", () =>
    Effect.gen(function*() {
      recall()
      const { core, publishAll, state } = yield* make(undefined)
      core.open(negotiated, false, idle)
      const encoder = PacketCodec.makeEncoder({ protocolVersion: 5 })
      const large = { topic: topics[0]!, payload: new Uint8Array(300) }
      publishAll([...messages(2), large, ...messages(2)])
      core.close()
      core.open({ ...negotiated, maximumPacketSize: 200 }, false, idle)
      encoder.maximumPacketSize = 200
      assert.isUndefined(core.collect(encoder, 1000))
      assert.strictEqual(encoder.take().length, 4 * 13)
      assert.deepInclude(state(), { queued: 0, bytes: 0, dropped: [`${large.topic} 0 refused`] })
    }))

  it.effect(
    "changes nothing of what is sent, told, dropped and counted (law 5, law 7, law 14)",
    () =>
      Effect.gen(function*() {
        let runs = 0
        for (let seed = 0; seed < 150; seed++) {
          recall()
          const random = new Random(seed)
          const outbox = {
            maxMessages: random.pick([3, 10, 1000]),
            maxBytes: random.pick([1200, 1500, 100_000]),
            strategy: random.pick(["suspend", "suspend", "suspend", "dropOldest", "dropNewest", "fail"] as const)
          }
          const both = [yield* make(outbox), yield* make(outbox, false)] as const
          const encoders = both.map(() => PacketCodec.makeEncoder({ protocolVersion: 5 }))
          let isOpen = false
          let batches = 0
          for (let step = 0; step < 60; step++) {
            const kind = random.int(0, 19)
            const messages = Array.from({ length: random.int(1, 30) }, () => message(random))
            const maximumPacketSize = random.pick([Infinity, Infinity, 2000, 120])
            const limit = random.pick([50, 300, 60_000])
            const resumes = random.int(0, 1) === 0
            const picked = random.int(0, Math.max(0, batches - 1))
            if (kind < 8) batches++
            for (const [index, { core, interrupt, publishAll }] of both.entries()) {
              const encoder = encoders[index]!
              if (kind < 8) publishAll(messages)
              else if (kind < 10) interrupt(picked)
              else if (kind < 12) {
                if (isOpen) core.close()
                else {
                  core.open({ ...negotiated, maximumPacketSize, sendWindow: 5 }, resumes, idle)
                  encoder.maximumPacketSize = maximumPacketSize
                }
              } else if (kind === 12) {
                core.halt(new ClientHalted({ cause: new DisconnectRequested() }))
                core.reopen()
              } else if (kind < 15) {
                core.startBatch()
                for (const { packetId } of [...core.session.exchanges()]) {
                  core.onPacket({ _tag: "Puback", packetId, reasonCode: 0, properties: undefined })
                }
                core.endBatch()
              } else if (isOpen) {
                core.startBatch()
                assert.isUndefined(core.collect(encoder, limit))
                core.endBatch()
                if (core.outbox.peek() instanceof Run) runs++
              }
            }
            if (kind === 10 || kind === 11) isOpen = !isOpen
            yield* Effect.yieldNow
            const [one, other] = both.map(({ state }) => state())
            assert.deepStrictEqual(one, other, `seed ${seed}, step ${step}`)
            const [bytes, otherBytes] = encoders.map((encoder) => toHex(encoder.take()))
            assert.strictEqual(bytes, otherBytes, `seed ${seed}, step ${step}`)
          }
        }
        assert.isAbove(runs, 50)
      }),
    Duration.toMillis("30 seconds")
  )
})
