import { assert, it } from "@effect/vitest"
import { Effect, Queue, Result } from "effect"
import mqttPacket from "mqtt-packet"
import { text } from "../../src/services/Message.ts"
import { describeBrokers, describeBrokersAndVersions, kinds } from "./support/Brokers.ts"
import type { Kind, ProtocolVersion } from "./support/Brokers.ts"
import * as ChaosProxy from "./support/ChaosProxy.ts"
import * as Client from "./support/Client.ts"
import * as MqttJs from "./support/MqttJs.ts"

/**
 * A link is reset, or falls silent, again and again at random bytes. A failure prints its seed; the same cuts come back with
 * `EFFECT_MQTT_STORM_SEED=<seed>`.
 */
const seed = Number(process.env["EFFECT_MQTT_STORM_SEED"] ?? Math.floor(Math.random() * 0x7fffffff))
const total = Number(process.env["EFFECT_MQTT_STORM_MESSAGES"] ?? 10_000)
const resets = 20
/** A link that falls silent is found out by time alone, which is why all of these storms rage at once. */
const totalInSilence = Math.ceil(total / 2)

/** Mulberry32. */
const random = (seed: number) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 0x1_0000_0000
  }
}

/** Bytes of one publish and, at the least, of its answer. */
const payload = (i: number) => `message ${i} `.padEnd(40, ".")
const number = (payload: string) => Number(payload.split(" ")[1])
const messageBytes = 50
const answerBytes = 4

/**
 * Every other connection is long enough for new messages; the ones between are cut while what was lost with the one before
 * is being sent again. All of them together are shorter than the given number of messages, so that every reset comes to
 * pass. `messages` is the direction in which the messages go.
 */
const makePlans = (
  messages: ChaosProxy.Direction,
  count: number,
  how: "resetAfter" | "blackHoleAfter" = "resetAfter"
): ReadonlyArray<ChaosProxy.Plan> => {
  const next = random(seed)
  return Array.from({ length: resets }, (_, i): ChaosProxy.Plan => {
    const share = i % 2 === 0 ? 0.1 + 0.9 * next() : 0.05 * next()
    const length = share * (0.9 * count) / (resets / 2) / 1.05
    return {
      [how]: next() < 0.7
        ? { direction: messages, bytes: 1 + Math.floor(length * messageBytes) }
        : { direction: messages === "up" ? "down" : "up", bytes: 1 + Math.floor(length * answerBytes) }
    }
  })
}

/** A proxy whose storm begins with the first connection after `begin`, and with a reset. */
const makeStorm = Effect.fnUntraced(function*(
  port: number,
  plans: ReadonlyArray<ChaosProxy.Plan>,
  tap?: ChaosProxy.Options["tap"]
) {
  let first = Infinity
  const isSilent = plans.some(({ blackHoleAfter }) => blackHoleAfter !== undefined)
  const proxy: ChaosProxy.ChaosProxy = yield* ChaosProxy.make({
    port,
    tap,
    plan: (connection) => {
      // A connection that the client gave up for another reason has not used its plan up.
      const index = isSilent && connection >= first ? Effect.runSync(proxy.counts).blackHoles : connection - first
      return plans[index] ?? {}
    }
  })
  const begin = Effect.gen(function*() {
    first = (yield* proxy.counts).connections
    yield* proxy.resetAll
  })
  /** Every reset came to pass. */
  const over = Effect.gen(function*() {
    if (isSilent) return assert.strictEqual((yield* proxy.counts).blackHoles, resets)
    // On MQTT 3.1.1 there is a connection before the first that only discards the session.
    for (let closed = 0; closed < resets + 1;) if ((yield* proxy.nextClose) >= first - 1) closed++
    assert.strictEqual((yield* proxy.counts).resets, resets + 1)
  })
  return { url: proxy.url, begin, over }
})

/**
 * Watches a broker for messages that it sends again after it has sent their PUBREL. To a receiver they are new messages:
 * no client can tell them apart (MQTT-4.3.3-9, MQTT-4.3.3-12). Mosquitto 2.0.11 does so when it is cut off twice in a row.
 */
const makeWitness = (protocolVersion: 4 | 5) => {
  const parsers = new Map<number, ReturnType<typeof mqttPacket.parser>>()
  const payloads = new Map<number, string>()
  const released = new Set<string>()
  const sentAnew = new Set<number>()
  const onPacket = (packet: mqttPacket.Packet) => {
    if (packet.cmd === "publish") {
      const payload = packet.payload.toString()
      if (released.has(payload)) sentAnew.add(number(payload))
      payloads.set(packet.messageId ?? 0, payload)
    } else if (packet.cmd === "pubrel") {
      released.add(payloads.get(packet.messageId ?? 0) ?? "")
    }
  }
  const tap: ChaosProxy.Options["tap"] = (connection, direction, bytes) => {
    if (direction === "up") return
    let parser = parsers.get(connection)
    if (parser === undefined) {
      parser = mqttPacket.parser({ protocolVersion })
      parser.on("packet", onPacket)
      parsers.set(connection, parser)
    }
    parser.parse(Buffer.from(bytes))
  }
  return { tap, sentAnew }
}

const numbersTo = (count: number) => Array.from({ length: count }, (_, i) => i)
const numbers = numbersTo(total)
const ascending = (numbers: ReadonlyArray<number>) => numbers.toSorted((a, b) => a - b)

interface PublisherStorm {
  readonly kind: Kind
  readonly protocolVersion: ProtocolVersion
  readonly qos: 1 | 2
  readonly session: "persistent" | "clean"
  readonly how: "resetAfter" | "blackHoleAfter"
  readonly count: number
}

/** A storm on the link of a publisher; gives what came through, and what its callers were told. */
const stormOnPublisher = Effect.fnUntraced(
  function*({ count, how, kind, protocolVersion, qos, session }: PublisherStorm) {
    const title = `${kind.name}, MQTT ${protocolVersion}, publisher, QoS ${qos}, ${session}, ${how}`
    console.log(`seed ${seed}: ${title}`)
    const broker = yield* kind.make()
    // A lost session gives up what is in flight at QoS 2, which shall not be all there is.
    const sendMaximum = qos === 2 && session === "clean" ? 100 : 1000
    const plans = makePlans("up", sendMaximum === 100 ? count - resets * sendMaximum : count, how)
    const { begin, over, url } = yield* makeStorm(broker.port, plans)
    const receiver = yield* MqttJs.connect(broker.url, { protocolVersion })
    yield* receiver.subscribe("storm/#", 2)
    const publisher = yield* Client.make({
      endpoint: url,
      protocolVersion,
      clientId: "publisher",
      sessionExpiry: session === "persistent" ? "1 hour" : 0,
      sendMaximum,
      ...(how === "blackHoleAfter"
        ? { keepAlive: "1 second", pingTimeout: "300 millis", connectTimeout: "1 second" }
        : {})
    })
    // aedes knows a session by its subscriptions alone.
    yield* publisher.subscription("keep/session", { qos: 1 })
    yield* begin
    const results = yield* Effect.forEach(
      numbersTo(count),
      (i) => Effect.result(publisher.publish({ topic: "storm/m", payload: payload(i), qos })),
      { concurrency: "unbounded" }
    )
    yield* publisher.publish({ topic: "storm/end", qos: 2 })
    const received: Array<number> = []
    for (;;) {
      const message = yield* receiver.take
      if (message.topic === "storm/end") break
      assert.strictEqual(message.qos, qos)
      received.push(number(message.payload))
    }
    assert.strictEqual(yield* Queue.size(receiver.messages), 0, "nothing comes after the end")
    yield* over
    assert.deepInclude(yield* publisher.stats, { packetIds: 0, inFlight: 0, queued: 0, heldBytes: 0 })
    const distinct = Array.from(new Set(received))
    const failures = results.flatMap((result, i) => Result.isFailure(result) ? [{ i, error: result.failure }] : [])
    console.log(
      `  ${title}: ${count - failures.length} succeeded, ${failures.length} failed, ${received.length} received, ` +
        `${received.length - distinct.length} of them again`
    )
    return { title, received, distinct, failures }
  }
)

const missing = (
  distinct: ReadonlyArray<number>,
  failures: ReadonlyArray<{ readonly i: number }>,
  count: number = total
) => {
  const there = new Set([...distinct, ...failures.map(({ i }) => i)])
  return numbersTo(count).filter((i) => !there.has(i))
}

describeBrokersAndVersions(`a storm on the publisher's link (seed ${seed})`, (kind, protocolVersion) => {
  const storm = (qos: 1 | 2, session: "persistent" | "clean") =>
    stormOnPublisher({ kind, protocolVersion, qos, session, how: "resetAfter", count: total })

  it.live("loses nothing at QoS 1 in a persistent session, and keeps the order", () =>
    Effect.gen(function*() {
      const { distinct, failures } = yield* storm(1, "persistent")
      assert.deepStrictEqual(failures, [])
      assert.deepStrictEqual(missing(distinct, []), [])
      assert.deepStrictEqual(distinct, ascending(distinct))
    }))

  it.live("delivers each message once at QoS 2 in a persistent session, and keeps the order (law 8)", () =>
    Effect.gen(function*() {
      const { distinct, failures, received } = yield* storm(2, "persistent")
      assert.deepStrictEqual(failures, [])
      assert.strictEqual(received.length, distinct.length)
      assert.deepStrictEqual(received, numbers)
    }))

  it.live("loses nothing at QoS 1 in clean sessions", () =>
    Effect.gen(function*() {
      const { distinct, failures } = yield* storm(1, "clean")
      assert.deepStrictEqual(failures, [])
      assert.deepStrictEqual(missing(distinct, []), [])
    }))

  it.live("delivers nothing twice at QoS 2 in clean sessions, and names what may be lost (law 10)", () =>
    Effect.gen(function*() {
      const { distinct, failures, received } = yield* storm(2, "clean")
      assert.strictEqual(received.length, distinct.length)
      assert.deepStrictEqual(missing(distinct, failures), [])
      assert.isAbove(failures.length, 0)
      for (const { error } of failures) {
        assert.strictEqual(error.reason._tag, "SessionLost")
        assert.include(["written", "received"], error.phase)
      }
    }))
})

// A link that falls silent is found out by time alone, and half a minute is enough.
describeBrokers(`a publisher's link that falls silent ${resets} times (seed ${seed})`, (kind) => {
  it.live("loses nothing and delivers QoS 2 once; what could not be settled in clean sessions fails typed (laws 8, 10, 11)", () =>
    Effect.gen(function*() {
      const count = totalInSilence
      const storms = ([4, 5] as const).flatMap((protocolVersion) =>
        ([1, 2] as const).flatMap((qos) =>
          (["persistent", "clean"] as const).map((session): PublisherStorm => (
            { kind, protocolVersion, qos, session, how: "blackHoleAfter", count }
          ))
        )
      )
      const rage = Effect.fnUntraced(function*(storm: PublisherStorm) {
        const { distinct, failures, received, title } = yield* stormOnPublisher(storm)
        assert.deepStrictEqual(missing(distinct, failures, count), [], title)
        if (storm.qos === 2) assert.strictEqual(received.length, distinct.length, title)
        if (storm.session === "persistent") assert.deepStrictEqual(distinct, numbersTo(count), title)
        const mayFail = storm.qos === 2 && storm.session === "clean"
        assert.strictEqual(failures.length > 0, mayFail, title)
        for (const { error } of failures) assert.strictEqual(error.reason._tag, "SessionLost", title)
      }, Effect.scoped)
      yield* Effect.forEach(storms, rage, { concurrency: "unbounded" })
    }))
}, kinds.filter(({ name }) => name === "Mosquitto"))

// aedes redelivers out of order, and loses some of what it was sending at QoS 2 when it was cut off.
const redeliver = kinds.filter(({ name }) => name !== "aedes")

describeBrokersAndVersions(`a storm on the subscriber's link (seed ${seed})`, (kind, protocolVersion) => {
  const storm = Effect.fnUntraced(function*(qos: 1 | 2) {
    console.log(`seed ${seed}: ${kind.name}, MQTT ${protocolVersion}, subscriber, QoS ${qos}`)
    const broker = yield* kind.make()
    const { sentAnew, tap } = makeWitness(protocolVersion)
    const { begin, over, url } = yield* makeStorm(broker.port, makePlans("down", total), tap)
    const subscriber = yield* Client.make({
      ...Client.underLoad,
      endpoint: url,
      protocolVersion,
      clientId: "subscriber",
      sessionExpiry: "1 hour"
    })
    const inbox = yield* Client.subscribe(subscriber, "storm/#", { qos })
    const publisher = yield* Client.make({ endpoint: broker.url, protocolVersion })
    yield* begin
    yield* Effect.forkChild(
      Effect.forEach(numbers, (i) => publisher.publish({ topic: "storm/m", payload: payload(i), qos }), {
        concurrency: "unbounded",
        discard: true
      })
    )
    const received: Array<number> = []
    const distinct = new Set<number>()
    while (distinct.size < total) {
      const i = number(text(yield* Queue.take(inbox)))
      received.push(i)
      distinct.add(i)
    }
    // What was received and not acknowledged goes on coming until then.
    yield* over
    yield* publisher.publish({ topic: "storm/end", qos })
    for (let message = yield* Queue.take(inbox); message.topic !== "storm/end"; message = yield* Queue.take(inbox)) {
      received.push(number(text(message)))
    }
    console.log(
      `  ${received.length} received, ${received.length - distinct.size} of them again; ` +
        `${sentAnew.size} were sent anew by the broker`
    )
    return { received, distinct: Array.from(distinct), sentAnew }
  })

  it.live("loses nothing at QoS 1, and keeps the order", () =>
    Effect.gen(function*() {
      const { distinct } = yield* storm(1)
      assert.deepStrictEqual(distinct, numbers)
    }))

  it.live("hands each message over once at QoS 2, and keeps the order (law 8)", () =>
    Effect.gen(function*() {
      const { distinct, received, sentAnew } = yield* storm(2)
      assert.deepStrictEqual(distinct, numbers)
      const again = received.filter((i, at) => received.indexOf(i) !== at)
      assert.deepStrictEqual(again.filter((i) => !sentAnew.has(i)), [])
    }))
}, redeliver)
