import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { Random } from "../protocol/support/PacketGenerator.ts"
import { describeBrokers, kinds } from "./support/Brokers.ts"
import type { ProtocolVersion } from "./support/Brokers.ts"
import type { Argument as PublisherArgument } from "./support/CrashPublisher.ts"
import type { Argument as ReceiverArgument } from "./support/CrashReceiver.ts"
import * as Lives from "./support/Lives.ts"
import * as Mosquitto from "./support/Mosquitto.ts"
import * as MqttJs from "./support/MqttJs.ts"

/**
 * Processes that are killed with SIGKILL in the middle of their work, and started anew. A failure prints its seed, which has
 * the moments come back as far as processes allow: `EFFECT_MQTT_CRASH_SEED=<seed>`.
 */
const seed = Number(process.env["EFFECT_MQTT_CRASH_SEED"] ?? Math.floor(Math.random() * 0x7fffffff))
const total = Number(process.env["EFFECT_MQTT_CRASH_MESSAGES"] ?? 20_000)
const kills = Number(process.env["EFFECT_MQTT_CRASH_KILLS"] ?? 25)
/** Messages for each line that a child says. */
const messagesPerLine = 20

/** The suites count every message; by default Mosquitto drops what a subscriber does not take fast enough. */
const startMosquitto = Effect.orDie(Mosquitto.make({
  config: ["max_queued_messages 0", "max_inflight_messages 0"]
}))

const numbersTo = (count: number) => Array.from({ length: count }, (_, i) => i)

/** What came twice, and what did not come. */
const tally = (received: Iterable<number>, count: number) => {
  const times = new Map<number, number>()
  for (const i of received) times.set(i, (times.get(i) ?? 0) + 1)
  return {
    missing: numbersTo(count).filter((i) => !times.has(i)),
    twice: [...times].flatMap(([i, n]) => n > 1 ? [i] : [])
  }
}

/** A moment, after which the life of a child ends; most lives come to about their share of all messages. */
const momentOf = (random: Random, count: number, kills: number) => ({
  // The first line is said once it is connected: now and then there is nothing but that.
  afterLine: random.bool(0.1) ? 1 : random.int(1, Math.ceil(1.6 * count / (kills + 1) / messagesPerLine)),
  delayMillis: random.bool() ? 0 : random.int(0, 8)
})

interface Crashes {
  readonly protocolVersion: ProtocolVersion
  readonly qos: 1 | 2
  readonly count: number
  readonly kills: number
}

const publisherCrashes = Effect.fnUntraced(function*({ count, kills, protocolVersion, qos }: Crashes) {
  const random = new Random(seed)
  const broker = yield* startMosquitto
  const directory = yield* Lives.directory
  const receiver = yield* MqttJs.connect(broker.url, { protocolVersion })
  yield* receiver.subscribe("crash/#", 2)
  const live = (from: number, to: number, isLast: boolean, kill?: ReturnType<typeof momentOf>) =>
    Lives.live(
      "./CrashPublisher.ts",
      {
        url: broker.url,
        filename: join(directory, "publisher.db"),
        protocolVersion,
        qos,
        from,
        to,
        isLast
      } satisfies PublisherArgument,
      kill
    )
  let from = 0
  let killed = 0
  for (let life = 1; killed < kills; life++) {
    // As a program that does not know how far it came, it repeats some of it, and now and then all.
    const begin = random.bool(0.1) ? 0 : Math.max(0, from - random.int(0, 400))
    const { killed: wasKilled, lines } = yield* live(begin, count, false, momentOf(random, count, kills))
    from = Math.max(from, ...lines.map((line) => Number(/^done (\d+)$/.exec(line)?.[1] ?? 0)))
    if (wasKilled) killed++
    assert.isAtMost(life, kills + 10, "lives end before they are killed")
  }
  yield* live(0, count, true)
  const received: Array<number> = []
  for (let message = yield* receiver.take; message.topic !== "crash/end"; message = yield* receiver.take) {
    received.push(Number(message.payload))
  }
  console.log(
    `  publisher, MQTT ${protocolVersion}, QoS ${qos}: ${killed} kills, ${received.length} of ${count} received`
  )
  return tally(received, count)
})

const receiverCrashes = Effect.fnUntraced(function*({ count, kills, protocolVersion, qos }: Crashes) {
  const random = new Random(seed + 1)
  const broker = yield* startMosquitto
  const directory = yield* Lives.directory
  const filename = join(directory, "receiver.db")
  const argument: ReceiverArgument = { url: broker.url, filename, protocolVersion, qos, isFirst: false }
  // The broker knows the subscription before the first message comes.
  yield* Lives.live("./CrashReceiver.ts", { ...argument, isFirst: true })
  const publisher = yield* MqttJs.connect(broker.url, { protocolVersion })
  yield* Effect.forkChild(
    Effect.andThen(
      Effect.forEach(numbersTo(count), (i) => publisher.publish("crash/m", String(i), { qos }), {
        concurrency: 500,
        discard: true
      }),
      publisher.publish("crash/end", "-1", { qos })
    )
  )
  let killed = 0
  for (;;) {
    const life = yield* Lives.live(
      "./CrashReceiver.ts",
      argument,
      killed < kills ? momentOf(random, count, kills) : undefined
    )
    if (!life.killed) break
    killed++
  }
  const rows = yield* Effect.sync(() => {
    const database = new DatabaseSync(filename, { readOnly: true })
    const rows = database.prepare("SELECT n, delivery FROM taken WHERE n <> '-1'").all()
    database.close()
    return rows
  })
  console.log(`  receiver, MQTT ${protocolVersion}, QoS ${qos}: ${killed} kills, ${rows.length} rows of ${count}`)
  assert.isAtLeast(killed, kills / 2, "lives end before they are killed")
  return tally(rows.map(({ n }) => Number(n)), count)
})

/** Far more than it takes; a machine with other work is slower. */
const patience = 300_000
const few = { count: Math.ceil(total / 10), kills: Math.ceil(kills / 5) }

describeBrokers(`kill -9 (seed ${seed})`, () => {
  it.live(
    `law 8: a publisher that is killed ${kills} times publishes each of ${total} messages once at QoS 2`,
    () =>
      Effect.gen(function*() {
        const crashes: Crashes = { protocolVersion: 5, qos: 2, count: total, kills }
        assert.deepStrictEqual(yield* publisherCrashes(crashes), { missing: [], twice: [] })
      }),
    patience
  )

  it.live(
    `law 8: a receiver that is killed ${kills} times takes each of ${total} messages once at QoS 2`,
    () =>
      Effect.gen(function*() {
        const crashes: Crashes = { protocolVersion: 5, qos: 2, count: total, kills }
        assert.deepStrictEqual(yield* receiverCrashes(crashes), { missing: [], twice: [] })
      }),
    patience
  )

  it.live("law 8: the same on MQTT 3.1.1", () =>
    Effect.gen(function*() {
      const crashes: Crashes = { protocolVersion: 4, qos: 2, ...few }
      const both = [publisherCrashes(crashes), receiverCrashes(crashes)]
      for (const tally of yield* Effect.all(both, { concurrency: 2 })) {
        assert.deepStrictEqual(tally, { missing: [], twice: [] })
      }
    }), patience)

  it.live("nothing is missing at QoS 1", () =>
    Effect.gen(function*() {
      const crashes: Crashes = { protocolVersion: 5, qos: 1, ...few }
      const both = [publisherCrashes(crashes), receiverCrashes(crashes)]
      for (const { missing } of yield* Effect.all(both, { concurrency: 2 })) assert.deepStrictEqual(missing, [])
    }), patience)
}, kinds.filter(({ name }) => name === "Mosquitto"))
