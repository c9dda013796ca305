import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type mqttPacket from "mqtt-packet"
import { Subscriber } from "../../../src/layers/delivery/Subscriber.ts"
import { Subscriptions } from "../../../src/layers/subscriptions/Subscriptions.ts"
import type { Member } from "../../../src/layers/subscriptions/Subscriptions.ts"
import type { Negotiated } from "../../../src/services/Status.ts"
import * as PacketId from "../../../src/protocol/PacketId.ts"
import type { Packet } from "../../../src/protocol/index.ts"
import * as SubscriptionIdentifier from "../../../src/protocol/SubscriptionIdentifier.ts"
import * as TopicFilter from "../../../src/protocol/TopicFilter.ts"
import { MqttClient, TestBroker } from "../../../src/testing/index.ts"
import { collect, stepwise } from "../../support/Consumer.ts"
import { message, open, run, send } from "../../support/ScriptedBroker.ts"
import { sent, subscribed } from "../../support/Subscriptions.ts"
import { negotiated as unlimited } from "../../support/Negotiated.ts"

/** A copy of a message that names filters. */
const copy = (
  id: number,
  filters: ReadonlyArray<string>,
  payload: string,
  rest: Partial<mqttPacket.IPublishPacket> = {}
): mqttPacket.IPublishPacket => {
  const identifiers = filters.map(SubscriptionIdentifier.of)
  return message("a/b", id, {
    payload,
    ...rest,
    properties: identifiers.length === 0 ? {} : {
      subscriptionIdentifier: (identifiers.length === 1 ? identifiers[0] : identifiers) as number
    }
  })
}

describe("OverlapCopies", () => {
  it.effect("law 4: equal content with and without an identifier is no proof, and nobody misses what follows", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      const one = yield* collect((yield* subscribed(client, peer, 5, "a/#", { qos: 1 })).messages)
      const two = yield* collect((yield* subscribed(client, peer, 5, "a/+", { qos: 1 })).messages)
      yield* sent(peer, 5)
      // The first waited at the server since before the second filter was subscribed.
      yield* send(peer, 5, copy(1, [], "same"), copy(2, ["a/+"], "same"), copy(3, ["a/+"], "3"), copy(4, ["a/+"], "4"))
      yield* sent(peer, 5)
      assert.deepStrictEqual([one.seen, two.seen], [["same", "same", "3", "4"], ["same", "same", "3", "4"]])
    })))

  it.effect("law 4: what waited at the server while a filter was subscribed costs nobody a message", () =>
    Effect.gen(function*() {
      const client = yield* MqttClient.MqttClient
      const broker = yield* TestBroker.TestBroker
      const first = yield* client.subscription("a/#", { qos: 1 })
      const one = yield* stepwise(first.messages)
      const publish = (payload: string) => broker.publish({ topic: "a/b", payload, qos: 1 })
      yield* publish("0")
      assert.strictEqual(yield* one.take, "0")
      yield* publish("same")
      const two = yield* collect((yield* client.subscription("a/+", { qos: 1 })).messages)
      yield* broker.settle
      yield* publish("same")
      for (const payload of ["2", "3"]) yield* publish(payload)
      const seen: Array<string> = []
      for (let n = 0; n < 4; n++) {
        yield* one.goOn
        yield* broker.settle
        if ((yield* one.waiting) > 0) seen.push(yield* one.take)
      }
      yield* one.goOn
      yield* broker.settle
      assert.deepStrictEqual(seen, ["same", "same", "2", "3"])
      assert.deepStrictEqual(two.seen, ["same", "same", "2", "3"])
    }).pipe(
      Effect.scoped,
      Effect.provide(MqttClient.layerTest({ receiveMaximum: 1 }, { overlap: "once" }))
    ))

  for (const kind of ["once", "perSubscription", "perQoS"] as const) {
    it(`law 4: nobody misses what was published after his filters were granted (a server that sends ${kind})`, () => {
      for (let seed = 1; seed <= 300; seed++) {
        const missed = play(seed, kind)
        if (missed.length > 0) assert.fail(`seed ${seed}: ${missed.join("; ")}`)
      }
    })
  }
})

// -----------------------------------------------------------------------------
// a server and its client, step by step
// -----------------------------------------------------------------------------

type Kind = "once" | "perSubscription" | "perQoS"

const negotiated: Negotiated = { ...unlimited, sessionExpiryInterval: 3600, sendWindow: 10 }

const allFilters = ["a/#", "a/+", "+/b", "a/b", "a/c", "#", "$share/g/a/#", "$share/h/+/b"]
const topics = ["a/b", "a/b", "a/c"]

interface Held {
  readonly filter: string
  readonly identifier: number | undefined
  readonly qos: Packet.QoS
  readonly noLocal: boolean
}

interface Copy {
  readonly topic: string
  readonly text: string
  readonly qos: Packet.QoS
  readonly identifiers: ReadonlyArray<number> | undefined
}

/** A subscriber and how often each content came, and was to come. */
interface Person {
  readonly name: string
  readonly member: Member
  readonly came: Map<string, number>
  readonly owed: Map<string, number>
}

const hooks = {} as ConstructorParameters<typeof Subscriber>[1]

/** Plays one day; gives what was missed. */
const play = (seed: number, kind: Kind): ReadonlyArray<string> => {
  const random = chance(seed)
  const pick = <A>(from: ReadonlyArray<A>): A => from[Math.floor(random() * from.length)]!
  const subscriptions = new Subscriptions()
  subscriptions.random = random
  const ids = PacketId.make()
  const held = new Map<string, Held>()
  const toServer: Array<Packet.Subscribe | Packet.Unsubscribe> = []
  const answers: Array<Packet.Suback | Packet.Unsuback> = []
  const copies: Array<Copy> = []
  const people = new Map<Subscriber, Person>()
  const count = (map: Map<string, number>, text: string) => map.set(text, (map.get(text) ?? 0) + 1)
  const filters = Array.from({ length: 2 + Math.floor(random() * 4) }, () => pick(allFilters))
  const refuses = random() < 0.3
  const drops = random() < 0.4
  let names = 0

  const join = () => {
    const mine = new Set([pick(filters), ...random() < 0.4 ? [pick(filters)] : []])
    const subscriber = new Subscriber({ capacity: 1, bytes: 1, overflow: "sliding", batchMaximum: undefined }, hooks)
    const leave = () => {
      subscriptions.leave(member)
      people.delete(subscriber)
    }
    const member: Member = {
      subscriber,
      requests: [...mine].map((filter) => ({
        filter,
        qos: pick([0, 1, 2] as const),
        noLocal: !filter.startsWith("$share") && random() < 0.15,
        retainAsPublished: false,
        retainHandling: 2 as const
      })),
      awaiting: new Set(),
      onGranted: () => {},
      onRefused: leave
    }
    const name = `${names++} (${[...mine].join(", ")})`
    people.set(subscriber, { name, member, came: new Map(), owed: new Map() })
    subscriptions.join(member, undefined)
  }

  const ask = () => {
    const packet = subscriptions.isDirty ? subscriptions.nextPacket(ids) : undefined
    if (packet !== undefined) toServer.push(packet)
    return packet !== undefined
  }

  const serve = () => {
    const packet = toServer.shift()
    if (packet === undefined) return false
    const { packetId } = packet
    if (packet._tag === "Unsubscribe") {
      for (const filter of packet.filters) held.delete(filter)
      answers.push({ _tag: "Unsuback", packetId, reasonCodes: packet.filters.map(() => 0), properties: undefined })
      return true
    }
    const reasonCodes = packet.subscriptions.map(({ filter, noLocal, qos }) => {
      if (refuses && random() < 0.15) return 0x97
      held.delete(filter)
      held.set(filter, { filter, qos, noLocal, identifier: packet.properties?.subscriptionIdentifier })
      return qos
    })
    answers.push({ _tag: "Suback", packetId, reasonCodes, properties: undefined })
    return true
  }

  const hear = () => {
    const packet = answers.shift()
    if (packet === undefined) return false
    const fault = packet._tag === "Suback" ? subscriptions.onSuback(packet, ids) : subscriptions.onUnsuback(packet, ids)
    assert.isUndefined(fault)
    return true
  }

  const publish = () => {
    const topic = pick(topics)
    const text = random() < 0.7 ? `${topic} same` : `${topic} ${Math.floor(random() * 1e6)}`
    const isLocal = random() < 0.3
    const own: Array<Held> = []
    const here: Array<Held> = []
    for (const one of held.values()) {
      if (!TopicFilter.matches(one.filter, topic, 4)) continue
      const isShared = one.filter.startsWith("$share")
      if (one.noLocal && isLocal) continue
      if (!isShared) own.push(one)
      // The turn of the share may be another client's.
      else if (random() < 0.6) here.push(one)
    }
    const groups: Array<ReadonlyArray<Held>> = here.map((one) => [one])
    if (kind === "perSubscription") groups.push(...own.map((one) => [one]))
    else if (kind === "once") groups.push(own)
    else for (const qos of [0, 1, 2]) groups.push(own.filter((one) => one.qos === qos))
    for (const group of groups) {
      if (group.length === 0) continue
      const identifiers = group.flatMap(({ identifier }) => identifier ?? [])
      const qos = Math.max(...group.map((one) => one.qos)) as Packet.QoS
      copies.push({ topic, text, qos, identifiers: identifiers.length === 0 ? undefined : identifiers })
    }
    const sentFor = new Set([...own, ...here].map(({ filter }) => filter))
    for (const { member, owed } of people.values()) {
      if (member.awaiting.size === 0 && member.requests.some(({ filter }) => sentFor.has(filter))) count(owed, text)
    }
  }

  const deliver = () => {
    if (copies.length === 0) return false
    // Those of another QoS may be ahead.
    const first = copies[0]!
    const other = copies.findIndex(({ qos }) => qos !== first.qos)
    const [next] = copies.splice(other > 0 && random() < 0.3 ? other : 0, 1)
    const { identifiers, qos, text, topic } = next!
    const payload = new TextEncoder().encode(text)
    subscriptions.route({ topic, payload, qos, retain: false }, identifiers, "new", (subscriber) => {
      const person = people.get(subscriber)
      if (person !== undefined) count(person.came, text)
    })
    return true
  }

  /** The session ends, and what waits in it is not to come any more. */
  const forget = () => {
    held.clear()
    copies.length = 0
    for (const { owed } of people.values()) owed.clear()
  }

  const drop = () => {
    // Some of what is on its way arrives.
    while (random() < 0.5 && serve());
    toServer.length = 0
    answers.length = 0
    subscriptions.end(ids)
    const fate = pick(["kept", "kept", "lost", "doubtful", "lost, and it is not known"] as const)
    if (fate.startsWith("lost")) forget()
    const resumes = fate !== "lost"
    subscriptions.begin(
      { ...negotiated, sessionPresent: resumes },
      resumes,
      fate === "doubtful" || fate === "lost, and it is not known",
      random() < 0.9
    )
  }

  // What an earlier run left in the session.
  const isAdopted = random() < 0.2
  if (isAdopted) {
    for (let step = 0; step < 10; step++) {
      const filter = pick(filters)
      const identifier = pick([undefined, SubscriptionIdentifier.common, SubscriptionIdentifier.of(filter)])
      if (random() < 0.3) held.delete(filter)
      else if (random() < 0.5) held.set(filter, { filter, qos: pick([0, 1, 2]), noLocal: false, identifier })
      else publish()
    }
  }
  subscriptions.begin({ ...negotiated, sessionPresent: isAdopted }, isAdopted && random() < 0.5)
  let isWaiting = false
  for (let step = 0; step < 120; step++) {
    // At times the messages wait at the server.
    if (random() < 0.05) isWaiting = !isWaiting
    const dice = random()
    if (drops && random() < 0.04) drop()
    else if (dice < 0.12) join()
    else if (dice < 0.22 && people.size > 0) {
      const { member } = pick([...people.values()])
      subscriptions.leave(member)
      people.delete(member.subscriber)
    } else if (dice < 0.37) ask()
    else if (dice < 0.52) serve()
    else if (dice < 0.67) hear()
    else if (dice < 0.82) publish()
    else if (!isWaiting) deliver()
  }
  while (deliver() || hear() || serve() || ask());
  const missed: Array<string> = []
  for (const { came, name, owed } of people.values()) {
    for (const [text, times] of owed) {
      if ((came.get(text) ?? 0) < times) missed.push(`${name} got "${text}" ${came.get(text) ?? 0} of ${times} times`)
    }
  }
  return missed
}

/** Numbers below 1 that look random, the same for the same seed. */
const chance = (seed: number) => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}
