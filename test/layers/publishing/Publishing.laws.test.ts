/** Laws of publishing, over all of their cases: what an interrupted publish holds, order under drops, and the window. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as MqttClient from "../../../src/layers/MqttClient.ts"
import { ReasonCode } from "../../../src/protocol/index.ts"
import { text } from "../../../src/services/Message.ts"
import { TestBroker } from "../../../src/testing/index.ts"
import { Random } from "../../protocol/support/PacketGenerator.ts"
import {
  again,
  connack,
  drop,
  held,
  isPending,
  nothing,
  persistent,
  receiveMaximum,
  steady,
  to
} from "../../support/Publishes.ts"
import type { Peer } from "../../support/ScriptedBroker.ts"
import { accepted, ackHex, open, resumed, run, sentWords, start } from "../../support/ScriptedBroker.ts"

type Version = 4 | 5
type QoS = 1 | 2

/** When its caller leaves a publish; `acked`: its last acknowledgement is on its way. */
type Point = "queued" | "written" | "received" | "acked"
/** What happens before the server answers. */
type Between = "nothing" | "a resumed session" | "a lost session"

/** A server as the test plays it: what the client has sent and is not looked at yet. */
interface Server {
  readonly client: MqttClient.MqttClientService
  readonly settle: Effect.Effect<void>
  readonly version: Version
  peer: Peer
  seen: number
}

/** What the client has sent since the last look, in words, once nothing moves any more. */
const fresh = Effect.fnUntraced(function*(server: Server) {
  yield* server.settle
  const words = sentWords(server.peer, server.version)
  const unseen = words.slice(server.seen)
  server.seen = words.length
  return unseen
})

const idOf = (words: string) => Number(words.split(" ")[1])
const isPublish = (words: string) => words.startsWith("publish")

/** Answers a publish to its end; a refusal is its end at once. */
const answer = Effect.fnUntraced(function*(server: Server, id: number, qos: QoS, code: number) {
  yield* server.peer.sendHex(ackHex(qos === 1 ? "PUBACK" : "PUBREC", id, code))
  if (qos === 1 || code >= 0x80) return
  assert.deepStrictEqual(yield* fresh(server), [`pubrel ${id}`])
  yield* server.peer.sendHex(ackHex("PUBCOMP", id, code === 0x10 ? 0x92 : 0))
})

/** The window of two is there as a whole, and no more than it; then nothing is held. */
const expectWhole = Effect.fnUntraced(function*(server: Server, what: string) {
  const three = [yield* start(server.client.publish(to("w", 1))), yield* start(server.client.publish(to("w", 2)))]
  three.push(yield* start(server.client.publish(to("w", 1))))
  const [one = "", two = "", ...rest] = yield* fresh(server)
  assert.deepStrictEqual([isPublish(one), isPublish(two), rest], [true, true, []], `${what}: the window is whole`)
  assert.notStrictEqual(idOf(one), idOf(two))
  yield* answer(server, idOf(one), 1, 0)
  const [three_ = ""] = yield* fresh(server)
  assert.isTrue(isPublish(three_), `${what}: a place that is free is used`)
  yield* answer(server, idOf(two), 2, 0)
  yield* answer(server, idOf(three_), 1, 0)
  yield* Fiber.joinAll(three)
  assert.deepStrictEqual(yield* held(server.client), nothing, what)
})

/** One publish that its caller leaves at `point`, and that is answered with `code`. */
const leave = Effect.fnUntraced(function*(server: Server, qos: QoS, point: Point, code: number) {
  const { client } = server
  if (point === "queued") {
    // What takes the window up is answered with the code.
    const blockers = [yield* start(client.publish(to("x", qos))), yield* start(client.publish(to("x", qos)))]
    const blocked = (yield* fresh(server)).map(idOf)
    const publish = yield* start(client.publish(to("a", qos)))
    assert.deepStrictEqual(yield* fresh(server), [])
    yield* Fiber.interrupt(publish)
    return { blockers, ids: blocked }
  }
  const publish = yield* start(client.publish(to("a", qos)))
  const id = idOf((yield* fresh(server))[0]!)
  if (point === "received") {
    yield* server.peer.sendHex(ackHex("PUBREC", id, code))
    assert.deepStrictEqual(yield* fresh(server), [`pubrel ${id}`])
  }
  if (point !== "acked") yield* Fiber.interrupt(publish)
  return { blockers: point === "acked" ? [publish] : [], ids: [id] }
})

/** The same publish after the next connection: its identifiers there, PUBRELs and PUBLISH packets apart. */
const reconnect = Effect.fnUntraced(function*(
  server: Server,
  listener: Parameters<typeof again>[0],
  between: Exclude<Between, "nothing">
) {
  yield* drop(server.client, server.peer)
  const present = between === "a resumed session"
  server.peer = yield* again(
    listener,
    server.version === 5 ? connack(receiveMaximum(2), present) : (present ? resumed : accepted)[4]
  )
  server.seen = 0
  const words = yield* fresh(server)
  for (const each of words) if (isPublish(each)) assert.strictEqual(each.endsWith(" dup"), present, each)
  return words
})

const codesOf = (version: Version, qos: QoS): ReadonlyArray<number> =>
  version === 4 ? [0] : qos === 1 ? ReasonCode.fromServer.Puback : ReasonCode.fromServer.Pubrec

describe("an interrupted publish", () => {
  const windowOf = (version: Version) => version === 5 ? connack(receiveMaximum(2)) : accepted[4]

  for (const version of [4, 5] as const) {
    for (const qos of [1, 2] as const) {
      for (const point of ["queued", "written", "received", "acked"] as const) {
        if (point === "received" && qos === 1) continue
        for (const between of ["nothing", "a resumed session", "a lost session"] as const) {
          if (point === "acked" && between !== "nothing") continue
          it.effect(`law 5: holds nothing in the end, MQTT ${version}, QoS ${qos}, left ${point}, then ${between}, by every reason code`, () =>
            run(Effect.gen(function*() {
              const { client, listener, network, peer } = yield* open(
                { ...persistent[version], sendMaximum: version === 4 ? 2 : 1_000 },
                { connack: windowOf(version) }
              )
              const server: Server = { client, peer, version, seen: 0, settle: network.settle }
              for (const code of codesOf(version, qos)) {
                if (point === "received" && code >= 0x80) continue
                const what = `code ${ReasonCode.toHex(code)}`
                const { blockers, ids } = yield* leave(server, qos, point, code)
                let open = ids
                if (between !== "nothing") {
                  const words = yield* reconnect(server, listener, between)
                  open = words.filter(isPublish).map(idOf)
                  const released = words.filter((each) => each.startsWith("pubrel")).map(idOf)
                  if (between === "a resumed session") {
                    assert.deepStrictEqual([...released, ...open], ids, `${what}: the original identifiers`)
                    for (const id of released) yield* server.peer.sendHex(ackHex("PUBCOMP", id))
                  } else {
                    assert.deepStrictEqual(released, [], `${what}: a PUBREL to a session that forgot it`)
                    assert.strictEqual(open.length, qos === 1 ? ids.length : 0, `${what}: QoS 1 anew, QoS 2 not`)
                  }
                } else if (point === "received") {
                  yield* server.peer.sendHex(ackHex("PUBCOMP", ids[0]!))
                  open = []
                }
                if (point === "acked") {
                  // The answer and the interruption meet: whichever is first, nothing stays.
                  yield* server.peer.sendHex(ackHex(qos === 1 ? "PUBACK" : "PUBREC", ids[0]!, code))
                  for (const blocker of blockers) yield* start(Fiber.interrupt(blocker))
                  if (qos === 2 && code < 0x80) {
                    assert.deepStrictEqual(yield* fresh(server), [`pubrel ${ids[0]}`])
                    yield* server.peer.sendHex(ackHex("PUBCOMP", ids[0]!))
                  }
                } else {
                  for (const id of open) yield* answer(server, id, qos, code)
                }
                assert.deepStrictEqual(yield* fresh(server), [], `${what}: what was removed is not sent`)
                yield* Effect.forEach(blockers, Fiber.await)
                assert.deepStrictEqual(yield* held(client), nothing, what)
                yield* expectWhole(server, what)
              }
            })))
        }
      }
    }
  }
})

/** The level of a message, by its number: all levels take turns in each fiber. */
const qosOf = (id: string) => ([1, 2, 0, 2] as const)[Number(id.split("/")[1]) % 4]!

/** One client whose link breaks again and again while many fibers publish, at a broker that is strict. */
const storm = Effect.fnUntraced(function*(seed: number) {
  const random = new Random(seed)
  const version = random.pick([4, 5] as const)
  const sendMaximum = random.pick([3, 10, 50])
  const taken: Array<string> = []
  return yield* Effect.gen(function*() {
    const broker = yield* TestBroker.TestBroker
    const client = yield* MqttClient.make({
      ...steady,
      endpoint: "mqtt://broker",
      protocolVersion: version,
      clientId: "c",
      sessionExpiry: "1 hour",
      sendMaximum,
      outbox: { maxMessages: random.pick([5, 1_000]) }
    })
    const own = Array.from({ length: 64 }, (_, fiber) => Array.from({ length: 8 }, (_, n) => `${fiber}/${n}`))
    const publishers = yield* Effect.forEach(
      own,
      (topics) =>
        start(Effect.forEach(topics, (topic) => client.publish(to("t", qosOf(topic), { payload: topic })), {
          concurrency: random.pick([1, 3])
        }))
    )
    const done = yield* start(Effect.forEach(publishers, Fiber.await))
    let drops = 0
    for (; isPending(done) && drops < 40; drops++) {
      if (version === 5 && random.bool()) {
        yield* broker.connackNext({ properties: { receiveMaximum: random.int(1, 8) } })
      }
      let left = random.int(0, 80)
      const match = { from: random.pick(["client", "broker"] as const), where: () => left-- <= 0 }
      const how = random.pick(["reset", "fin"] as const)
      yield* random.bool() ? broker.cutBefore(match, how) : broker.cutAfter(match, how)
      if (drops > 0) yield* TestClock.adjust("1 second")
      yield* Effect.raceFirst(broker.awaitGone("c"), Effect.asVoid(Fiber.await(done)))
    }
    yield* TestClock.adjust("1 second")
    for (const publisher of publishers) yield* Fiber.join(publisher)
    yield* broker.settle
    assert.deepStrictEqual(yield* held(client), nothing)
    return { log: broker.log, taken, drops, own, sendMaximum }
  }).pipe(
    Effect.scoped,
    Effect.provide(TestBroker.layer({
      authorizePublish: (_, { payload }) => {
        taken.push(text({ payload }))
        return 0
      }
    }))
  )
})

/** For each connection: the most publishes without their last acknowledgement, as the broker sees it, and its window. */
const windowsOf = (log: ReadonlyArray<TestBroker.LogEntry>, sendMaximum: number) => {
  const windows = new Map<number, { readonly limit: number; readonly open: Set<number>; most: number }>()
  for (const { connectionId, from, packet } of log) {
    if (packet._tag === "Connack") {
      const limit = Math.min(sendMaximum, packet.properties?.receiveMaximum ?? 65_535)
      windows.set(connectionId, { limit, open: new Set(), most: 0 })
    }
    const window = windows.get(connectionId)
    if (window === undefined) continue
    if (from === "client" && packet._tag === "Publish" && packet.qos > 0) window.open.add(packet.packetId)
    if (from === "broker" && (packet._tag === "Puback" || packet._tag === "Pubcomp")) {
      window.open.delete(packet.packetId)
    }
    window.most = Math.max(window.most, window.open.size)
  }
  return [...windows.values()]
}

/** What each connection carried of publishes, in order: the message, and whether it was sent before. */
const publishesOf = (log: ReadonlyArray<TestBroker.LogEntry>) => {
  const connections = new Map<number, Array<{ readonly id: string; readonly dup: boolean }>>()
  for (const { connectionId, from, packet } of log) {
    if (from !== "client" || packet._tag !== "Publish") continue
    const sent = connections.get(connectionId) ?? []
    sent.push({ id: text(packet), dup: packet.dup })
    connections.set(connectionId, sent)
  }
  return [...connections.values()]
}

describe("64 fibers publish while the link drops at random moments", () => {
  for (let seed = 1; seed <= 12; seed++) {
    it.effect(`law 7, law 9: keeps the order of each, sends again first, and stays within every window (seed ${seed})`, () =>
      Effect.gen(function*() {
        const { drops, log, own, sendMaximum, taken } = yield* storm(seed)
        assert.isAbove(drops, 10)
        const firsts = [...new Set(taken)]
        const place = new Map(firsts.map((id, index) => [id, index]))
        for (const topics of own) {
          // What goes at QoS 0 may be lost with a link.
          for (const topic of topics) if (qosOf(topic) > 0) assert.isTrue(place.has(topic), `${topic} is missing`)
          const places = topics.flatMap((topic) => place.get(topic) ?? [])
          assert.deepStrictEqual(places, places.toSorted((a, b) => a - b))
        }
        const times = new Map<string, number>()
        for (const id of taken) times.set(id, (times.get(id) ?? 0) + 1)
        for (const [id, count] of times) if (qosOf(id) !== 1) assert.strictEqual(count, 1, `${id} twice`)
        const order = new Map<string, number>()
        for (const sent of publishesOf(log)) {
          const again = sent.filter(({ dup }) => dup)
          assert.deepStrictEqual(sent.slice(0, again.length), again, "what is sent again goes first")
          for (const { id } of sent) if (!order.has(id)) order.set(id, order.size)
          const original = sent.map(({ id }) => order.get(id)!)
          assert.deepStrictEqual(original, original.toSorted((a, b) => a - b), "in its original order")
        }
        for (const { limit, most } of windowsOf(log, sendMaximum)) assert.isAtMost(most, limit)
      }))
  }
})
