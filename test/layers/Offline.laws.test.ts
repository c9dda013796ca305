/** The outbox of a client that is away, at random and against a model: bounds, strategies, interrupts and expiry. */
import { assert, describe, it } from "@effect/vitest"
import type { Fiber } from "effect"
import { Effect, Fiber as Fibers } from "effect"
import { TestClock } from "effect/testing"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import type { QoS } from "../../src/protocol/Packet.ts"
import type { OutboxOptions } from "../../src/services/ClientOptions.ts"
import type { PublishResult } from "../../src/services/MqttClient.ts"
import type { PublishError } from "../../src/services/MqttError.ts"
import { TestBroker } from "../../src/testing/index.ts"
import { Random } from "../protocol/support/PacketGenerator.ts"
import { held, nothing, steady } from "../support/Publishes.ts"
import { start } from "../support/ScriptedBroker.ts"

type Strategy = NonNullable<OutboxOptions["strategy"]>

interface Publish {
  readonly topic: string
  readonly qos: QoS
  readonly size: number
  /** Seconds. */
  readonly expiry: number | undefined
  readonly at: number
  state: "waiting" | "queued" | "over"
  /** How the call ends; a QoS 0 call is done when it is queued. */
  ending: "pending" | "done" | "OutboxFull" | "PacketTooLarge" | "MessageExpired" | "Interrupted"
}

/** What the options promise, without a thought for speed. */
class Model {
  readonly all: Array<Publish> = []
  readonly #limits: { readonly maxMessages: number; readonly maxBytes: number; readonly strategy: Strategy }

  constructor(limits: Model["limits"]) {
    this.#limits = limits
  }

  get limits() {
    return this.#limits
  }

  in(state: Publish["state"]): Array<Publish> {
    return this.all.filter((each) => each.state === state)
  }

  get bytes(): number {
    return this.in("queued").reduce((sum, { size }) => sum + size, 0)
  }

  #fits({ size }: Publish): boolean {
    return this.in("queued").length < this.#limits.maxMessages && this.bytes + size <= this.#limits.maxBytes
  }

  #queue(publish: Publish): void {
    publish.state = "queued"
    if (publish.qos === 0) publish.ending = "done"
  }

  #refuse(publish: Publish, ending: Publish["ending"]): void {
    publish.state = "over"
    if (publish.ending === "pending") publish.ending = ending
  }

  publish(publish: Publish): void {
    this.all.push(publish)
    if (publish.size > this.#limits.maxBytes) return this.#refuse(publish, "PacketTooLarge")
    switch (this.#limits.strategy) {
      case "suspend":
        if (this.in("waiting").length > 0 || !this.#fits(publish)) publish.state = "waiting"
        else this.#queue(publish)
        return
      case "dropOldest":
        while (!this.#fits(publish)) this.#refuse(this.in("queued")[0]!, "OutboxFull")
        return this.#queue(publish)
      default:
        return this.#fits(publish) ? this.#queue(publish) : this.#refuse(publish, "OutboxFull")
    }
  }

  #admit(): void {
    for (const waiting of this.in("waiting")) {
      if (!this.#fits(waiting)) return
      this.#queue(waiting)
    }
  }

  /** Nothing happens to a call that is over. */
  interrupt(publish: Publish): void {
    if (publish.ending !== "pending") return
    publish.ending = "Interrupted"
    publish.state = "over"
    this.#admit()
  }

  /** Connected again, to a server that answers everything; gives what it gets. */
  resume(now: number): ReadonlyArray<string> {
    const sent: Array<string> = []
    for (let next = this.in("queued")[0]; next !== undefined; next = this.in("queued")[0]) {
      const isOver = next.expiry !== undefined && now > next.at && now - next.at >= next.expiry * 1000
      if (isOver) this.#refuse(next, "MessageExpired")
      else {
        next.state = "over"
        next.ending = "done"
        const left = next.expiry === undefined ? "" : ` ${next.expiry - Math.floor((now - next.at) / 1000)} s`
        sent.push(`${next.topic}:${next.qos}${left}`)
      }
      this.#admit()
    }
    return sent
  }
}

const endingOf = (fiber: Fiber.Fiber<PublishResult, PublishError>): Publish["ending"] => {
  const exit = fiber.pollUnsafe()
  if (exit === undefined) return "pending"
  if (exit._tag === "Success") return "done"
  const failure = exit.cause.reasons.find((reason) => reason._tag === "Fail")
  return failure === undefined ? "Interrupted" : failure.error.reason._tag as Publish["ending"]
}

const limitsOf = (bound: "count" | "bytes", strategy: Strategy, random: Random) => ({
  strategy,
  maxMessages: bound === "count" ? random.int(1, 6) : 1_000,
  maxBytes: bound === "bytes" ? random.int(20, 120) : 16 * 1024 * 1024
})

const play = Effect.fnUntraced(function*(bound: "count" | "bytes", strategy: Strategy, seed: number) {
  const random = new Random(seed)
  const limits = limitsOf(bound, strategy, random)
  const version = random.pick([4, 5] as const)
  const model = new Model(limits)
  const broker = yield* TestBroker.TestBroker
  const client = yield* MqttClient.make({
    ...steady,
    endpoint: "mqtt://broker",
    protocolVersion: version,
    outbox: limits
  })
  yield* client.pause
  let now = 0
  const fibers: Array<Fiber.Fiber<PublishResult, PublishError>> = []
  const compare = Effect.fnUntraced(function*(what: string) {
    assert.deepStrictEqual(fibers.map(endingOf), model.all.map(({ ending }) => ending), what)
    assert.deepStrictEqual(
      yield* held(client),
      { ...nothing, queued: model.in("queued").length, heldBytes: model.bytes },
      what
    )
  })
  for (let steps = random.int(5, 40); steps > 0; steps--) {
    const kind = random.int(0, 9)
    if (kind === 0) {
      const millis = random.pick([1, 999, 1_000, 2_500])
      now += millis
      yield* TestClock.adjust(millis)
      yield* compare(`after ${millis} ms`)
    } else if (kind <= 2 && fibers.length > 0) {
      const which = random.int(0, fibers.length - 1)
      model.interrupt(model.all[which]!)
      yield* Fibers.interrupt(fibers[which]!)
      yield* compare(`without ${which}`)
    } else {
      const topic = `t${fibers.length}`
      const qos = random.pick([0, 1, 2] as const)
      const expiry = random.bool(0.7) ? undefined : random.int(0, 4)
      const payload = new Uint8Array(random.int(0, 40))
      const size = topic.length + payload.length
      model.publish({ topic, qos, size, expiry, at: now, state: "over", ending: "pending" })
      fibers.push(yield* start(client.publish({ topic, qos, payload, messageExpiryInterval: expiry })))
      yield* compare(`with ${topic}`)
    }
  }
  yield* client.resume
  yield* Effect.forEach(fibers, Fibers.await)
  yield* broker.settle
  const expected = model.resume(now)
  yield* compare("in the end")
  const sent = broker.packetsOf({ from: "client", type: "Publish" }).map(({ packet: { properties, qos, topic } }) => {
    const left = properties?.messageExpiryInterval
    return `${topic}:${qos}${left === undefined ? "" : ` ${left} s`}`
  })
  // MQTT 3.1.1 has no word for it.
  assert.deepStrictEqual(sent, version === 5 ? expected : expected.map((words) => words.replace(/ .*/, "")))
  return new Set(model.all.map(({ ending }) => ending))
}, Effect.scoped)

describe("the outbox of a client that is away", () => {
  for (const strategy of ["suspend", "dropOldest", "dropNewest", "fail"] as const) {
    for (const bound of ["count", "bytes"] as const) {
      it.effect(`law 14, PB-11p: ${strategy}, bound by ${bound}, with interrupts and expiry, does what the model does`, () =>
        Effect.gen(function*() {
          const endings = new Set<string>()
          for (let seed = 1; seed <= 25; seed++) {
            const seen = yield* play(bound, strategy, seed).pipe(
              Effect.provide(TestBroker.layer(), { local: true }),
              Effect.tapCause(() => Effect.logError(`seed ${seed}`))
            )
            for (const ending of seen) endings.add(ending)
          }
          // All that can happen did.
          assert.includeMembers([...endings], ["done", "Interrupted", "MessageExpired"])
          if (strategy !== "suspend") assert.isTrue(endings.has("OutboxFull"))
        }))
    }
  }
})
