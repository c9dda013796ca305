/**
 * What an MQTT broker does, seen through our client alone: black-box scenarios and what is to be observed. The same suite
 * runs on brokers that share no code, so that an error of the client and one of a broker cannot cancel out.
 */
import type { Scope } from "effect"
import { Effect, Fiber, Queue, Result, Stream } from "effect"
import type { ClientOptions } from "../../../src/services/ClientOptions.ts"
import { text } from "../../../src/services/Message.ts"
import type { Message } from "../../../src/services/Message.ts"
import type { MqttClientService, SubscribeOptions } from "../../../src/services/MqttClient.ts"
import type { ConnectError } from "../../../src/services/MqttError.ts"
import { collect } from "./Client.ts"

/** Builds a client of the broker under test. */
export type Connect = (
  options?: Partial<ClientOptions>
) => Effect.Effect<MqttClientService, ConnectError, Scope.Scope>

export interface Scenario {
  readonly name: string
  readonly versions: ReadonlyArray<4 | 5>
  readonly run: (connect: Connect) => Effect.Effect<unknown, unknown, Scope.Scope>
  readonly expected: unknown
}

const both = [4, 5] as const
const v5 = [5] as const

/** Marks the end of what a scenario sends, so that silence is seen without waiting for time. */
const end = "end"

const isEnd = (message: Message): boolean => text(message) === end

/** Collects what arrives until the mark. */
const until = Effect.fnUntraced(function*<E>(inbox: Queue.Dequeue<Message, E>) {
  const messages: Array<Message> = []
  for (let message = yield* Queue.take(inbox); !isEnd(message); message = yield* Queue.take(inbox)) {
    messages.push(message)
  }
  return messages
})

const listen = Effect.fnUntraced(function*(
  client: MqttClientService,
  filters: string | ReadonlyArray<string>,
  options?: SubscribeOptions
) {
  return yield* collect((yield* client.subscription(filters, options)).messages)
})

/** The status that follows on the present connection. */
const statusAfterConnected = (client: MqttClientService) =>
  client.statusChanges.pipe(
    Stream.filter((status) => status._tag !== "Connected"),
    Stream.runHead,
    Effect.flatMap(Effect.fromOption)
  )

const brief = (message: Message) => ({
  topic: message.topic,
  text: text(message),
  qos: message.qos,
  retain: message.retain
})

const texts = (messages: ReadonlyArray<Message>) => messages.map((message) => text(message))

const range = (count: number) => Array.from({ length: count }, (_, index) => index)

export const scenarios: ReadonlyArray<Scenario> = [
  {
    name: "delivers at the lower of the two QoS, in order",
    versions: both,
    run: Effect.fnUntraced(function*(connect) {
      const publisher = yield* connect()
      const seen: Array<unknown> = []
      for (const granted of [0, 1, 2] as const) {
        const inbox = yield* listen(yield* connect(), `q${granted}/#`, { qos: granted })
        for (const qos of [0, 1, 2] as const) {
          yield* publisher.publish({ topic: `q${granted}/t`, payload: `${qos}`, qos })
        }
        yield* publisher.publish({ topic: `q${granted}/t`, payload: end, qos: 2 })
        seen.push((yield* until(inbox)).map((message) => [text(message), message.qos]))
      }
      return seen
    }),
    expected: [
      [["0", 0], ["1", 0], ["2", 0]],
      [["0", 0], ["1", 1], ["2", 1]],
      [["0", 0], ["1", 1], ["2", 2]]
    ]
  },
  {
    name: "sends a retained message to a later subscriber, and none after it was cleared",
    versions: both,
    run: Effect.fnUntraced(function*(connect) {
      const publisher = yield* connect()
      yield* publisher.publish({ topic: "kept", payload: "old", qos: 1, retain: true })
      yield* publisher.publish({ topic: "kept", payload: "new", qos: 1, retain: true })
      const first = yield* listen(yield* connect(), "kept", { qos: 1 })
      const late = yield* Queue.take(first)
      yield* publisher.publish({ topic: "kept", payload: "live", qos: 1, retain: true })
      const live = yield* Queue.take(first)
      yield* publisher.publish({ topic: "kept", qos: 1, retain: true })
      const second = yield* listen(yield* connect(), "kept", { qos: 1 })
      yield* publisher.publish({ topic: "kept", payload: end, qos: 1 })
      return { late: brief(late), live: brief(live), cleared: texts(yield* until(second)) }
    }),
    expected: {
      late: { topic: "kept", text: "new", qos: 1, retain: true },
      live: { topic: "kept", text: "live", qos: 1, retain: false },
      cleared: []
    }
  },
  {
    name: "obeys retain handling and retain as published",
    versions: v5,
    run: Effect.fnUntraced(function*(connect) {
      const publisher = yield* connect()
      yield* publisher.publish({ topic: "kept", payload: "old", qos: 1, retain: true })
      const none = yield* listen(yield* connect(), "kept", { qos: 1, retainHandling: "none", retainAsPublished: true })
      yield* publisher.publish({ topic: "kept", payload: "live", qos: 1, retain: true })
      yield* publisher.publish({ topic: "kept", payload: end, qos: 1 })
      return (yield* until(none)).map(brief)
    }),
    expected: [{ topic: "kept", text: "live", qos: 1, retain: true }]
  },
  {
    name: "leaves a client's own messages out with no local",
    versions: v5,
    run: Effect.fnUntraced(function*(connect) {
      const client = yield* connect()
      const other = yield* connect()
      const inbox = yield* listen(client, "own", { qos: 1, noLocal: true })
      yield* client.publish({ topic: "own", payload: "mine", qos: 1 })
      yield* other.publish({ topic: "own", payload: "theirs", qos: 1 })
      yield* other.publish({ topic: "own", payload: end, qos: 1 })
      return texts(yield* until(inbox))
    }),
    expected: ["theirs"]
  },
  {
    name: "matches wildcards level by level, and no topic that begins with $",
    versions: both,
    run: Effect.fnUntraced(function*(connect) {
      const publisher = yield* connect()
      const seen: Record<string, ReadonlyArray<string>> = {}
      for (const filter of ["a/+", "a/#", "+/+", "/+", "a//b", "+/b/#"]) {
        const inbox = yield* listen(yield* connect(), [filter, "the/end"], { qos: 1 })
        for (const topic of ["a", "a/b", "a/b/c", "/a", "a//b", "$own/b"]) {
          yield* publisher.publish({ topic, payload: topic, qos: 1 })
        }
        yield* publisher.publish({ topic: "the/end", payload: end, qos: 1 })
        seen[filter] = texts(yield* until(inbox))
      }
      return seen
    }),
    expected: {
      "a/+": ["a/b"],
      "a/#": ["a", "a/b", "a/b/c", "a//b"],
      "+/+": ["a/b", "/a"],
      "/+": ["/a"],
      "a//b": ["a//b"],
      "+/b/#": ["a/b", "a/b/c"]
    }
  },
  {
    name: "keeps a session and its messages while the client is away",
    versions: both,
    run: Effect.fnUntraced(function*(connect) {
      const publisher = yield* connect()
      const options: Partial<ClientOptions> = {
        clientId: "absent",
        sessionExpiry: "1 hour",
        subscriptions: [{ filter: "backlog/#", qos: 2 }]
      }
      const client = yield* connect(options)
      yield* client.publish({ topic: "backlog/first", payload: end, qos: 1 })
      const inbox = yield* collect(client.durable("backlog/#"))
      yield* until(inbox)
      yield* client.pause
      for (const index of range(6)) {
        yield* publisher.publish({ topic: "backlog/t", payload: `${index}`, qos: (index % 3) as 0 | 1 | 2 })
      }
      yield* publisher.publish({ topic: "backlog/t", payload: end, qos: 2 })
      const { sessionPresent } = yield* client.resume
      const messages = yield* until(inbox)
      return {
        sessionPresent,
        // What is kept at QoS 0 for an absent client is the server's choice (MQTT 5.0 §4.1).
        qos1: texts(messages.filter((message) => message.qos === 1)),
        qos2: texts(messages.filter((message) => message.qos === 2))
      }
    }),
    expected: { sessionPresent: true, qos1: ["1", "4"], qos2: ["2", "5"] }
  },
  {
    name: "forgets a session that was not to be kept, and one that is started clean",
    versions: both,
    run: Effect.fnUntraced(function*(connect) {
      // Some servers call a session present only if it has a subscription.
      const subscriptions = [{ filter: "any", qos: 1 as const }]
      const passing = yield* connect({ clientId: "passing", subscriptions })
      yield* passing.pause
      const gone = yield* passing.resume
      const kept = yield* Effect.scoped(Effect.gen(function*() {
        const client = yield* connect({ clientId: "kept", sessionExpiry: "1 hour", subscriptions })
        // The subscription is there once the server has answered a later one.
        yield* client.subscription("later")
        yield* client.pause
        return yield* client.resume
      }))
      const clean = yield* connect({ clientId: "kept", sessionExpiry: "1 hour" })
      return [gone.sessionPresent, kept.sessionPresent, (yield* clean.awaitConnected).sessionPresent]
    }),
    expected: [false, true, false]
  },
  {
    name: "publishes the will when it is asked to, and not after a normal end",
    versions: v5,
    run: Effect.fnUntraced(function*(connect) {
      const inbox = yield* listen(yield* connect(), "wills/#", { qos: 1 })
      const will = (name: string) => ({ will: { topic: `wills/${name}`, payload: name, qos: 1 as const } })
      const normal = yield* connect(will("normal"))
      const paused = yield* connect(will("paused"))
      const asked = yield* connect(will("asked"))
      yield* normal.disconnect()
      yield* paused.pause
      yield* asked.disconnect({ reason: "withWill" })
      const first = yield* Queue.take(inbox)
      yield* (yield* connect()).publish({ topic: "wills/end", payload: end, qos: 1 })
      return [brief(first), ...texts(yield* until(inbox))]
    }),
    expected: [{ topic: "wills/asked", text: "asked", qos: 1, retain: false }]
  },
  {
    name: "ends the older of two connections of one client id with reason 0x8e",
    versions: v5,
    run: Effect.fnUntraced(function*(connect) {
      const older = yield* connect({ clientId: "twin" })
      yield* connect({ clientId: "twin" })
      const status = yield* statusAfterConnected(older)
      const cause = status._tag === "Halted" || status._tag === "Reconnecting" ? status.cause : undefined
      return [status._tag, cause?._tag, cause?._tag === "ServerDisconnected" ? cause.reasonCode : undefined]
    }),
    expected: ["Reconnecting", "ServerDisconnected", 0x8e]
  },
  {
    name: "passes the properties of a message on, user properties in order",
    versions: v5,
    run: Effect.fnUntraced(function*(connect) {
      const inbox = yield* listen(yield* connect(), "p", { qos: 1 })
      const publisher = yield* connect()
      yield* publisher.publish({
        topic: "p",
        payload: "21.5",
        qos: 1,
        contentType: "text/plain",
        responseTopic: "answers/1",
        correlationData: Uint8Array.of(0, 255, 7),
        messageExpiryInterval: 1000,
        userProperties: [["a", "1"], ["b", "2"], ["a", "3"]]
      })
      const message = yield* Queue.take(inbox)
      return {
        contentType: message.contentType,
        responseTopic: message.responseTopic,
        correlationData: [...message.correlationData ?? []],
        payloadFormat: message.payloadFormat,
        expires: (message.messageExpiryInterval ?? 0) > 990 && (message.messageExpiryInterval ?? 0) <= 1000,
        userProperties: message.userProperties
      }
    }),
    expected: {
      contentType: "text/plain",
      responseTopic: "answers/1",
      correlationData: [0, 255, 7],
      payloadFormat: "utf8",
      expires: true,
      userProperties: [["a", "1"], ["b", "2"], ["a", "3"]]
    }
  },
  {
    name: "carries empty, binary and large payloads and topics beyond ASCII",
    versions: both,
    run: Effect.fnUntraced(function*(connect) {
      const inbox = yield* listen(yield* connect(), "日本/#", { qos: 1 })
      const publisher = yield* connect()
      const bytes = Uint8Array.from(range(256))
      const large = new Uint8Array(1_000_000).map((_, index) => index)
      yield* publisher.publish({ topic: "日本/empty", qos: 1 })
      yield* publisher.publish({ topic: "日本/東京", payload: bytes, qos: 1 })
      yield* publisher.publish({ topic: "日本/large", payload: large, qos: 1 })
      const [empty, binary, big] = [yield* Queue.take(inbox), yield* Queue.take(inbox), yield* Queue.take(inbox)]
      return [
        [empty.topic, empty.payload.length],
        [binary.topic, [...binary.payload].every((byte, index) => byte === index)],
        [big.topic, big.payload.length, big.payload.every((byte, index) => byte === index % 256)]
      ]
    }),
    expected: [["日本/empty", 0], ["日本/東京", true], ["日本/large", 1_000_000, true]]
  },
  {
    name: "sends nothing more after a subscription ended",
    versions: both,
    run: Effect.fnUntraced(function*(connect) {
      const client = yield* connect()
      const inbox = yield* listen(client, ["stays", "the/end"], { qos: 1 })
      const publisher = yield* connect()
      const first = yield* client.subscribe("leaves", { qos: 1 }).pipe(
        Stream.take(1),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )
      // The broker has the subscription once it answers a later one.
      yield* client.subscription("later")
      yield* publisher.publish({ topic: "leaves", payload: "1", qos: 1 })
      const taken = texts(yield* Fiber.join(first))
      yield* client.subscription("later/still")
      yield* publisher.publish({ topic: "leaves", payload: "2", qos: 1 })
      yield* publisher.publish({ topic: "stays", payload: "3", qos: 1 })
      yield* publisher.publish({ topic: "the/end", payload: end, qos: 1 })
      return [taken, texts(yield* until(inbox)), (yield* client.stats).dropped]
    }),
    expected: [["1"], ["3"], 0]
  },
  {
    name: "assigns a client id where none is given, and knows it again",
    versions: v5,
    run: Effect.fnUntraced(function*(connect) {
      const client = yield* connect({ clientId: "", sessionExpiry: "1 hour", subscriptions: [{ filter: "any" }] })
      yield* client.subscription("later")
      const { clientId } = yield* client.awaitConnected
      yield* client.pause
      const again = yield* client.resume
      return [clientId.length > 0, again.clientId === clientId, again.sessionPresent]
    }),
    expected: [true, true, true]
  },
  {
    name: "keeps the order of 200 messages of QoS 2 for a slow consumer with a window of 4",
    versions: v5,
    run: Effect.fnUntraced(function*(connect) {
      // Not all servers count right; what is to be seen here is the order.
      const client = yield* connect({ receiveMaximum: 4, onReceiveMaximumExceeded: "accept" })
      const { messages } = yield* client.subscription("slow", { qos: 2 })
      const publisher = yield* connect()
      yield* Effect.forEach(range(200), (index) => publisher.publish({ topic: "slow", payload: `${index}`, qos: 2 }), {
        concurrency: "unbounded",
        discard: true
      }).pipe(Effect.forkScoped)
      const seen = yield* messages.pipe(
        Stream.tap(() => Effect.yieldNow),
        Stream.take(200),
        Stream.runCollect
      )
      return texts(seen).every((payload, index) => payload === `${index}`)
    }),
    expected: true
  },
  {
    name: "gives each message of a shared subscription to one of its members",
    versions: v5,
    run: Effect.fnUntraced(function*(connect) {
      const members = [yield* connect(), yield* connect()]
      const inbox = yield* Queue.unbounded<string>()
      for (const member of members) {
        const granted = yield* Effect.result(member.subscription("$share/group/work/#", { qos: 1 }))
        if (Result.isFailure(granted)) return granted.failure.reason._tag
        const { messages } = granted.success
        yield* messages.pipe(
          Stream.runForEach((message) => Queue.offer(inbox, text(message))),
          Effect.forkScoped
        )
      }
      const publisher = yield* connect()
      for (const index of range(10)) yield* publisher.publish({ topic: "work/t", payload: `${index}`, qos: 1 })
      const seen: Array<string> = []
      while (seen.length < 10) seen.push(yield* Queue.take(inbox))
      return [seen.toSorted((a, b) => Number(a) - Number(b)), yield* Queue.size(inbox)]
    }),
    expected: [range(10).map(String), 0]
  },
  {
    name: "uses topic aliases towards a client that allows them, without a trace in the topic",
    versions: v5,
    run: Effect.fnUntraced(function*(connect) {
      const inbox = yield* listen(yield* connect({ topicAliasMaximum: 2 }), "alias/#", { qos: 1 })
      const publisher = yield* connect()
      for (const name of ["a", "b", "c", "a", "b", "c"]) {
        yield* publisher.publish({ topic: `alias/${name}`, payload: name, qos: 1 })
      }
      yield* publisher.publish({ topic: "alias/end", payload: end, qos: 1 })
      return (yield* until(inbox)).map((message) => message.topic)
    }),
    expected: ["alias/a", "alias/b", "alias/c", "alias/a", "alias/b", "alias/c"]
  },
  {
    name: "sends one copy of a message for overlapping subscriptions",
    versions: both,
    run: Effect.fnUntraced(function*(connect) {
      const client = yield* connect()
      const inbox = yield* listen(client, ["over/#", "over/+"], { qos: 1 })
      const publisher = yield* connect()
      yield* publisher.publish({ topic: "over/lap", payload: "once", qos: 1 })
      yield* publisher.publish({ topic: "over/lap/end", payload: end, qos: 1 })
      return texts(yield* until(inbox))
    }),
    expected: ["once"]
  },
  {
    name: "hands a message once to each of the overlapping subscriptions that match it",
    versions: both,
    run: Effect.fnUntraced(function*(connect) {
      const client = yield* connect()
      const inboxes = []
      for (const filter of ["over/#", "over/+", "+/lap", "over/lap", "#"]) {
        inboxes.push(yield* listen(client, filter, { qos: 1 }))
      }
      const publisher = yield* connect()
      for (const payload of ["1", "2", "2", "3"]) yield* publisher.publish({ topic: "over/lap", payload, qos: 1 })
      yield* publisher.publish({ topic: "over/lap", payload: end, qos: 1 })
      const seen = []
      for (const inbox of inboxes) seen.push(texts(yield* until(inbox)).join(" "))
      return seen
    }),
    expected: Array.from({ length: 5 }, () => "1 2 2 3")
  },
  {
    name: "hands each message of a shared subscription to it alone, whatever else matches",
    versions: v5,
    run: Effect.fnUntraced(function*(connect) {
      const client = yield* connect()
      const plain = yield* listen(client, "both/#", { qos: 1 })
      const granted = yield* Effect.result(client.subscription("$share/g/both/+", { qos: 1 }))
      if (Result.isFailure(granted)) return granted.failure.reason._tag
      const shared = yield* collect(granted.success.messages)
      const publisher = yield* connect()
      for (const payload of ["1", "2", "3", end]) yield* publisher.publish({ topic: "both/t", payload, qos: 1 })
      return [texts(yield* until(plain)).join(" "), texts(yield* until(shared)).join(" ")]
    }),
    expected: ["1 2 3", "1 2 3"]
  },
  {
    name: "sends the retained messages to every subscriber of a filter, and to each just once",
    versions: both,
    run: Effect.fnUntraced(function*(connect) {
      const publisher = yield* connect()
      for (const name of ["1", "2"]) {
        yield* publisher.publish({ topic: `kept/${name}`, payload: name, qos: 1, retain: true })
      }
      const client = yield* connect()
      const inboxes = []
      for (let subscriber = 0; subscriber < 3; subscriber++) {
        const inbox = yield* listen(client, "kept/+", { qos: 1 })
        inboxes.push(inbox)
        // They come with SUBSCRIBE, and the next subscriber shall not come before.
        const first = yield* Queue.takeN(inbox, 2)
        if (texts(first).sort().join() !== "1,2") return texts(first)
      }
      yield* publisher.publish({ topic: "kept/1", payload: end, qos: 1 })
      const rest = []
      for (const inbox of inboxes) rest.push((yield* until(inbox)).length)
      return rest
    }),
    expected: [0, 0, 0]
  },
  {
    name: "resumes a session whose subscriptions had identifiers, and nobody gets a message twice",
    versions: v5,
    run: Effect.fnUntraced(function*(connect) {
      const session = { clientId: "resumes", cleanStart: false, sessionExpiry: "1 hour" } as const
      const declared = [{ filter: "id/#", qos: 1 }, { filter: "id/+", qos: 1 }] as const
      const publisher = yield* connect()
      const publish = (payload: string) => publisher.publish({ topic: "id/t", payload, qos: 1 })
      yield* Effect.scoped(Effect.gen(function*() {
        const client = yield* connect({ ...session, subscriptions: declared })
        const inboxes = [yield* collect(client.durable("id/#")), yield* collect(client.durable("id/+"))]
        yield* publish("1")
        for (const inbox of inboxes) yield* Queue.take(inbox)
      }))
      yield* publish("2")
      // In the other order, so that the other one is the first to come.
      const client = yield* connect({ ...session, subscriptions: declared.toReversed() })
      const inboxes = [yield* collect(client.durable("id/#")), yield* collect(client.durable("id/+"))]
      for (const payload of ["3", "4", end]) yield* publish(payload)
      const seen = []
      for (const inbox of inboxes) seen.push([...new Set(texts(yield* until(inbox)))].join(" "))
      return seen
    }),
    expected: ["2 3 4", "2 3 4"]
  },
  {
    name: "leaves out a message that is larger than the client takes",
    versions: v5,
    run: Effect.fnUntraced(function*(connect) {
      const client = yield* connect({ maximumPacketSize: 1000 })
      const inbox = yield* listen(client, "size", { qos: 1 })
      const publisher = yield* connect()
      yield* publisher.publish({ topic: "size", payload: new Uint8Array(2000), qos: 1 })
      yield* publisher.publish({ topic: "size", payload: "small", qos: 1 })
      yield* publisher.publish({ topic: "size", payload: end, qos: 1 })
      const lost = Effect.map(statusAfterConnected(client), (status) => [`the client is ${status._tag}`])
      return yield* Effect.raceFirst(Effect.map(until(inbox), texts), lost)
    }),
    expected: ["small"]
  },
  {
    name: "says with reason 0x10 that nobody subscribes to a topic",
    versions: v5,
    run: Effect.fnUntraced(function*(connect) {
      const publisher = yield* connect()
      const results = []
      for (const qos of [1, 2] as const) results.push(yield* publisher.publish({ topic: "nobody", payload: "?", qos }))
      return results.map((result) => result.reasonCode)
    }),
    expected: [0x10, 0x10]
  }
]
