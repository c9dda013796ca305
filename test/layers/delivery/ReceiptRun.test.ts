import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import type { ClientCore } from "../../../src/layers/ClientCore.ts"
import type { Handed, Hooks } from "../../../src/layers/delivery/Delivery.ts"
import { Inbound } from "../../../src/layers/delivery/Inbound.ts"
import { Inbox } from "../../../src/layers/delivery/Inbox.ts"
import { ReceiptRun } from "../../../src/layers/delivery/ReceiptRun.ts"
import { Subscriber } from "../../../src/layers/delivery/Subscriber.ts"
import { Fifo } from "../../../src/layers/delivery/Fifo.ts"
import { costOf } from "../../../src/layers/delivery/MemoryCost.ts"
import * as PackedAck from "../../../src/protocol/PackedAck.ts"
import type { Publish } from "../../../src/protocol/Packet.ts"
import * as Session from "../../../src/protocol/Session.ts"
import { toMessage } from "../../../src/services/MessageCodec.ts"
import type { Message } from "../../../src/services/Message.ts"
import { Random } from "../../protocol/support/PacketGenerator.ts"

const packetOf = (packetId: number, qos: 0 | 1 | 2, topic: string): Publish => ({
  _tag: "Publish",
  dup: false,
  qos,
  retain: false,
  topic,
  packetId: qos === 0 ? 0 : packetId,
  payload: new TextEncoder().encode(`${packetId}`.padStart(packetId % 90, "0")),
  properties: undefined
})

const textOf = ({ payload, topic }: Message): string => `${topic} ${new TextDecoder().decode(payload)}`

/** So few that it is exceeded now and then. */
const receiveMaximum = 150

/** What lies between a PUBLISH and the consumers, with two subscriptions, of which each may be of the other's topic as well. */
class World {
  readonly told: Array<string> = []
  readonly inbox: Inbox
  readonly inbound: Inbound
  readonly subscribers: Array<Subscriber> = []
  readonly handed: Array<Handed> = []
  readonly #withRuns: boolean
  readonly runs = new Set<ReceiptRun>()
  isUp = false

  constructor(withRuns: boolean) {
    this.#withRuns = withRuns
    this.inbox = new Inbox(Session.make(), { unclaimed: "hold", maximumUnacknowledgedBytes: 10_000_000 }, {
      onUnclaimed: () => {},
      onOwed: (receipt) => this.inbound.onOwed(receipt),
      onRefused: () => {}
    })
    this.begin(true)
    const core = {
      events: { isWatched: false },
      inbox: this.inbox,
      now: () => 0,
      onParked: () => {},
      wakeWriter: () => {},
      drop: (topic: string, qos: number) => this.told.push(`dropped ${topic} ${qos}`),
      subscriptions: {
        takersOf: ({ topic }: Publish) => this.#takers(topic),
        route: ({ topic }: Publish, _ids: unknown, _occasion: unknown, f: (subscriber: Subscriber) => void) => {
          const open = this.#takers(topic).filter(({ isOver }) => !isOver)
          for (const subscriber of open) f(subscriber)
          return open.length === 0 ? "unclaimed" : "served"
        },
        isDurable: () => false,
        isForWithdrawn: () => false,
        listeners: () => []
      }
    }
    this.inbound = new Inbound(core as unknown as ClientCore)
    for (const index of [0, 1]) this.renew(index)
  }

  #takers(topic: string): Array<Subscriber> {
    return topic === "ab" ? this.subscribers.slice() : [this.subscribers[topic === "a" ? 0 : 1]!]
  }

  /** On the next connection. */
  begin(isPresent: boolean): void {
    this.isUp = true
    this.inbox.begin(isPresent, receiveMaximum, true)
  }

  /** In the place of what was there, which is closed. */
  renew(index: number): void {
    this.subscribers[index]?.close()
    const hooks: Hooks = {
      settle: (receipt) => this.inbox.settle(receipt),
      settleAll: (deliveries) => this.inbox.settleAll(deliveries),
      settleRun: (run) => this.inbox.settleRun(run),
      settleAs: (receipt, reasonCode) => {
        const standing = this.inbox.standing(receipt)
        this.inbox.settle(receipt, reasonCode)
        return standing
      },
      giveBack: (receipt, isBegun, durable) => {
        this.told.push(`given back ${textOf(receipt.message)} ${isBegun}`)
        this.inbound.giveBack(receipt, isBegun, durable)
      },
      onDrop: (message) => this.told.push(`dropped ${textOf(message)}`),
      onReady: () => {},
      onBuffered: () => {},
      onLagging: () => {},
      onHolding: () => {},
      now: () => 0
    }
    const subscriber = new Subscriber({ capacity: 50, bytes: 1_000_000, overflow: "sliding" }, hooks)
    if (!this.#withRuns) subscriber.takesRun = () => false
    subscriber.attach()
    this.subscribers[index] = subscriber
  }

  publish(packet: Publish): void {
    if (!this.isUp) return
    const fault = this.inbound.onPublish(packet)
    if (fault !== undefined) {
      this.told.push(fault.rule)
      this.isUp = false
      this.inbox.end(false)
    }
    if (this.inbox.run !== undefined) this.runs.add(this.inbox.run)
  }

  pull(index: number): void {
    const subscriber = this.subscribers[index]!
    if (subscriber.size === 0) return
    const exit = Effect.runSync(Effect.exit(Effect.raceFirst(subscriber.pull, Effect.succeed("nothing" as const))))
    if (!Exit.isSuccess(exit) || exit.value === "nothing") return
    this.told.push(`${index} took ${exit.value.map(textOf).join()}`) // Whoever is given an array may do with it what he likes.
    ;(exit.value as unknown as Array<Message>).reverse()
  }

  pullHanded(index: number): void {
    const subscriber = this.subscribers[index]!
    if (subscriber.size === 0) return
    const exit = Effect.runSync(Effect.exit(Effect.raceFirst(subscriber.pullHanded, Effect.succeed([]))))
    if (!Exit.isSuccess(exit)) return
    this.handed.push(...exit.value)
    this.told.push(`${index} has ${exit.value.map(({ delivery }) => textOf(delivery.message)).join()}`)
  }

  state() {
    const told = this.told.splice(0)
    // What is acknowledged is kept by nobody.
    if (this.inbox.unacknowledged === 0) assert.isUndefined(this.inbox.run)
    return {
      told,
      // The order counts for each type on its own.
      acks: this.inbox.takeAcks().toSorted((a, b) => (a >>> 24) - (b >>> 24)),
      bytes: this.inbox.bytes,
      unacknowledged: this.inbox.unacknowledged,
      parked: this.inbox.unclaimed.map(textOf),
      sizes: this.subscribers.map(({ size }) => size)
    }
  }
}

describe("ReceiptRun", () => {
  it("laws 4 and 7: messages in runs are handed over, settled, given back and acknowledged as single ones are", () => {
    let runs = 0
    let dissolved = 0
    for (let seed = 0; seed < 400; seed++) {
      const random = new Random(seed)
      const [one, other] = [new World(true), new World(false)] as const
      const both = [one, other]
      // Some bring nothing but QoS 1 for a subscriber, so that their runs get long.
      const isUniform = random.int(0, 2) > 0
      let id = 0
      for (let step = 0; step < 120; step++) {
        const index = random.int(0, isUniform ? 0 : 1)
        switch (random.int(0, 15)) {
          case 0:
          case 1:
          case 2:
          case 3:
          case 4: {
            for (let count = random.int(1, random.pick([1, 4, 40])); count > 0; count--) {
              const qos = isUniform || random.int(0, 9) > 0 ? 1 : random.pick([0, 2] as const)
              const topic = isUniform ? "a" : random.pick(["a", "a", "a", "b", "ab"])
              id = id % 65_535 + 1
              for (const world of both) world.publish(packetOf(id, qos, topic))
            }
            break
          }
          case 5:
          case 6:
          case 7:
          case 8:
          case 9:
          case 10:
            for (const world of both) world.pull(index)
            break
          case 11: {
            // The end of a consumer, and perhaps the next one.
            const exit = random.pick([Exit.void, Exit.fail("interrupted")])
            for (const { subscribers } of both) {
              subscribers[index]!.detach(exit)
              subscribers[index]!.attach()
            }
            break
          }
          case 12: {
            if (random.int(0, 3) > 0) break
            for (const world of both) world.pullHanded(index)
            const reasonCodes = one.handed.map(() => random.pick([0, 0, 0x80]))
            const settled = one.handed.map(() => random.int(0, 2) > 0)
            for (const world of both) {
              const left = world.handed.splice(0)
              left.forEach((handed, at) => {
                if (settled[at]) handed.settle(reasonCodes[at]!)
                else world.handed.push(handed)
              })
            }
            break
          }
          case 13: {
            const isPresent = random.int(0, 2) > 0
            const isAtOnce = random.int(0, 3) > 0
            for (const world of both) {
              if (isAtOnce || !world.isUp) world.begin(isPresent)
              else if (isPresent) {
                world.isUp = false
                world.inbox.end(false)
              }
            }
            break
          }
          case 14:
            for (const { subscribers } of both) subscribers[index]!.detachPayloads()
            break
          default:
            if (random.int(0, 5) === 0) { for (const world of both) world.renew(index) }
        }
        assert.deepStrictEqual(one.state(), other.state(), `seed ${seed}, step ${step}`)
      }
      runs += one.runs.size
      for (const { receipts } of one.runs) if (receipts !== undefined) dissolved++
      assert.strictEqual(other.runs.size, 0)
    }
    assert.isAbove(runs, 500)
    assert.isAbove(dissolved, 100)
    assert.isBelow(dissolved, runs - 100)
  })

  const runOf = (...bytes: ReadonlyArray<number>): ReceiptRun => {
    const run = new ReceiptRun(undefined as unknown as Subscriber, 1, 7, 100)
    for (const [at, size] of bytes.entries()) {
      const packet = { ...packetOf(at + 1, 1, "a"), payload: new Uint8Array(size) }
      run.add(toMessage(packet), at + 1, costOf(packet))
    }
    return run
  }

  it("each of its receipts counts for what its message did, and all for what it did", () => {
    const sizes = [10, 11, 0, 900, 1]
    const run = runOf(...sizes)
    const { bytes } = run
    const receipts = run.dissolve()
    assert.deepStrictEqual(receipts.map((receipt) => receipt.bytes - receipts[2]!.bytes), sizes)
    assert.strictEqual(receipts.reduce((sum, receipt) => sum + receipt.bytes, 0), bytes)
    assert.deepStrictEqual(receipts.map(({ packetId }) => packetId), [1, 2, 3, 4, 5])
    assert.deepStrictEqual(receipts.map(({ arrival }) => arrival), [7, 8, 9, 10, 11])
    for (const [at, receipt] of run.dissolve().entries()) assert.strictEqual(receipt, receipts[at])
    // Somebody has changed a message that is for all.
    const changed = runOf(5, 6, 7)
    ;(changed.messages[0] as { payload: Uint8Array }).payload = new Uint8Array(1000)
    const before = changed.bytes
    assert.strictEqual(changed.dissolve().reduce((sum, receipt) => sum + receipt.bytes, 0), before)
  })

  it("law 14: what is acknowledged is let go, though others of the run are not", () => {
    const world = new World(true)
    let id = 0
    const publish = (count: number) => {
      for (const last = id + count; id < last;) world.publish(packetOf(++id, 1, "a"))
    }
    for (const count of [1, 2, 4]) {
      publish(count)
      world.pull(0)
    }
    // More than the consumer takes at once.
    publish(30)
    const run = world.inbox.run
    assert.isUndefined(run?.receipts)
    const { size } = run!
    world.pull(0)
    world.pull(0)
    const unacknowledged = world.inbox.unacknowledged
    const held = (run?.receipts ?? []).filter((receipt) => receipt !== undefined)
    assert.isBelow(unacknowledged, size)
    assert.strictEqual(held.length, unacknowledged)
    assert.deepStrictEqual(run!.messages, [])
  })

  it("law 14: what waits keeps no room for what may come", () => {
    const run = runOf(1)
    assert.strictEqual(run.room, 100)
    run.detachPayloads(1)
    assert.strictEqual(run.room, 1)
    run.add(run.messages[0]!, 2, 1)
    assert.deepStrictEqual(run.acks, [PackedAck.make(4, 1, 0), PackedAck.make(4, 2, 0)])
    assert.strictEqual(run.messages.length, 2)
    const fifo = new Fifo<number>()
    for (let burst = 0; burst < 2; burst++) {
      for (let item = 0; item < 1000; item++) fifo.push(item)
      if (burst === 0) fifo.take(Infinity)
    }
    fifo.trim()
    assert.strictEqual(fifo.room, 1000)
    fifo.take(Infinity)
    fifo.push(1)
    assert.isAtLeast(fifo.room, 1000)
    fifo.trim()
    assert.strictEqual(fifo.room, 1)
    for (let item = 2; item < 100; item++) fifo.push(item)
    assert.deepStrictEqual(fifo.take(Infinity), Array.from({ length: 99 }, (_, index) => index + 1))
  })
})
