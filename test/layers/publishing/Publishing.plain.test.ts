import { Buffer } from "node:buffer"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect } from "effect"
import { ClientCore } from "../../../src/layers/ClientCore.ts"
import type { Entry } from "../../../src/layers/publishing/Entry.ts"
import { toEntry } from "../../../src/layers/publishing/Publishing.ts"
import * as TopicMemory from "../../../src/protocol/TopicMemory.ts"
import type { ClientOptions } from "../../../src/services/ClientOptions.ts"
import type { OutgoingMessage } from "../../../src/services/Message.ts"
import { ClientClosed, ClientHalted, DisconnectRequested } from "../../../src/services/MqttError.ts"
import type { PublishReason } from "../../../src/services/MqttError.ts"
import { resolve } from "../../../src/services/ResolvedOptions.ts"
import type { Negotiated } from "../../../src/services/Status.ts"
import { plain, Random, toHex } from "../../protocol/support/PacketGenerator.ts"
import { negotiated } from "../../support/Negotiated.ts"

/** The memory of topics, which all clients share, may have stepped aside for what another test has published. */
const recall = () => {
  const topic = "known"
  for (let count = 0; count < 20_000 && TopicMemory.get(topic) === undefined; count++) TopicMemory.put(topic)
  for (let count = 0; count < 2000; count++) TopicMemory.get(topic)
}

const make = Effect.fnUntraced(function*(outbox: ClientOptions["outbox"]) {
  recall()
  const options = yield* Effect.fromResult(resolve({ endpoint: "mqtt://broker", outbox }))
  return new ClientCore(options, yield* Clock.Clock)
})

/** What it came to, without the topic's bytes, which only tell whether they were at hand. */
const outcomeOf = (result: Entry | PublishReason): unknown => {
  if ("_tag" in result) return { reason: result._tag, ...plain(result) as object, message: result.message }
  const { encodedTopic: _, ...entry } = result
  return plain(entry)
}

/** What the topic, which was never seen before, and then is known, comes to. */
const both = (core: ClientCore, message: OutgoingMessage) => {
  const first = toEntry(core, message)
  const { topic } = (message ?? {}) as { readonly topic: unknown }
  const isKnown = typeof topic === "string" && TopicMemory.get(topic) !== undefined
  const second = toEntry(core, message)
  assert.isUndefined((first as Entry).encodedTopic)
  assert.deepStrictEqual(outcomeOf(second), outcomeOf(first), JSON.stringify(plain(message)))
  return { first, second, isKnown }
}

let topics = 0
/** A topic of this length that no test has had. */
const fresh = (length = 12): string => `p${topics++}/`.padEnd(length, "x")

const isPlain = (result: Entry | PublishReason): boolean =>
  "encodedTopic" in result && result.encodedTopic !== undefined

const bytes = (length: number) => new Uint8Array(length)

describe("Publishing", () => {
  describe("the plain way and the general way", () => {
    it.effect("the plain way is taken once the topic is known, with the topic as it is written", () =>
      Effect.gen(function*() {
        const core = yield* make(undefined)
        core.open(negotiated, false, { wakeWriter: () => {} })
        for (const qos of [undefined, 0, 1, 2] as const) {
          for (const retain of [undefined, false, true]) {
            const topic = fresh()
            const { second } = both(core, { topic, payload: bytes(3), qos, retain })
            assert.isTrue(isPlain(second))
            const written = (second as Entry).encodedTopic!
            assert.strictEqual(toHex(written), `00 ${toHex(Uint8Array.of(topic.length))} ${toHex(Buffer.from(topic))}`)
          }
        }
      }))

    it.effect("agree on what is not valid, and on what has properties (law 13)", () =>
      Effect.gen(function*() {
        const core = yield* make(undefined)
        core.open(negotiated, false, { wakeWriter: () => {} })
        const payload = bytes(3)
        const messages: ReadonlyArray<(topic: string) => unknown> = [
          () => null,
          () => undefined,
          () => "topic",
          () => ({ payload }),
          () => ({ topic: 5, payload }),
          (topic) => ({ topic, payload, qos: 3 }),
          (topic) => ({ topic, payload, qos: "1" }),
          (topic) => ({ topic, payload, qos: null }),
          (topic) => ({ topic, payload, retain: 1 }),
          (topic) => ({ topic, payload, retain: null }),
          (topic) => ({ topic, payload: null }),
          (topic) => ({ topic, payload: [1] }),
          (topic) => ({ topic, payload: payload.buffer }),
          (topic) => ({ topic, payload: "text" }),
          (topic) => ({ topic, payload: "\uD800" }),
          (topic) => ({ topic }),
          (topic) => ({ topic, payload, contentType: 7 }),
          (topic) => ({ topic, payload, contentType: "" }),
          (topic) => ({ topic, payload, userProperties: [] }),
          (topic) => ({ topic, payload, userProperties: [["a"]] }),
          (topic) => ({ topic, payload, messageExpiryInterval: 0 }),
          (topic) => ({ topic, payload, messageExpiryInterval: -1 }),
          (topic) => ({ topic, payload, responseTopic: "#" }),
          (topic) => ({ topic, payload, correlationData: bytes(0) }),
          (topic) => ({ topic, payload, payloadFormat: "json" }),
          (topic) => ({ topic, payload: Uint8Array.of(0xff), payloadFormat: "utf8" })
        ]
        for (const messageOf of messages) {
          const topic = fresh()
          TopicMemory.put(topic)
          const message = messageOf(topic) as OutgoingMessage
          const { second } = both(core, message)
          assert.isFalse(isPlain(second), JSON.stringify(message))
        }
      }))

    it.effect("agree where the gate is closed, and go on when it is opened", () =>
      Effect.gen(function*() {
        for (const cause of [new ClientHalted({ cause: new DisconnectRequested() }), new ClientClosed()]) {
          const core = yield* make(undefined)
          core.open(negotiated, false, { wakeWriter: () => {} })
          const message = { topic: fresh(), payload: bytes(1) }
          assert.isTrue(isPlain(both(core, message).second))
          if (cause._tag === "ClientClosed") core.refuse(cause)
          else core.halt(cause)
          const refused = toEntry(core, message)
          assert.deepInclude(refused, { _tag: "PublishAbandoned", phase: "queued" })
          core.reopen()
          assert.isTrue(isPlain(toEntry(core, message)))
        }
      }))

    it.effect("agree without a connection, and once it is lost", () =>
      Effect.gen(function*() {
        for (const qos0Offline of ["queue", "fail"] as const) {
          const core = yield* make({ qos0Offline })
          const expected = qos0Offline === "fail" ? "Offline" : undefined
          const tagOf = (qos: 0 | 1, topic: string) => {
            const result = toEntry(core, { topic, payload: bytes(1), qos })
            return "_tag" in result ? result._tag : undefined
          }
          const topic = fresh()
          TopicMemory.put(topic)
          assert.deepStrictEqual([tagOf(0, topic), tagOf(1, topic)], [expected, undefined])
          core.open(negotiated, false, { wakeWriter: () => {} })
          assert.deepStrictEqual([tagOf(0, topic), tagOf(1, topic)], [undefined, undefined])
          core.close()
          assert.deepStrictEqual([tagOf(0, topic), tagOf(1, topic)], [expected, undefined])
        }
      }))

    it.effect("agree on what the server does not take, also where it is another one later", () =>
      Effect.gen(function*() {
        const core = yield* make(undefined)
        const topic = fresh()
        TopicMemory.put(topic)
        const tagsOf = () =>
          ([[0, false], [1, false], [2, false], [0, true]] as const).map(([qos, retain]) => {
            const result = toEntry(core, { topic, payload: bytes(50), qos, retain })
            return "_tag" in result ? result._tag : "taken"
          })
        const [no, taken] = ["NotSupportedByServer", "taken"]
        for (
          const [limits, expected] of [
            [{}, [taken, taken, taken, taken]],
            [{ maximumQoS: 0 }, [taken, no, no, taken]],
            [{ maximumQoS: 1 }, [taken, taken, no, taken]],
            [{ retainAvailable: false }, [taken, taken, taken, no]],
            [{ maximumPacketSize: 60 }, Array(4).fill("PacketTooLarge")],
            [{}, [taken, taken, taken, taken]]
          ] as ReadonlyArray<[Partial<Negotiated>, ReadonlyArray<string>]>
        ) {
          core.open({ ...negotiated, ...limits }, false, { wakeWriter: () => {} })
          assert.deepStrictEqual(tagsOf(), expected, JSON.stringify(limits))
          core.close()
        }
      }))

    it.effect("agree on sizes around the limits of the outbox, also where they are set anew", () =>
      Effect.gen(function*() {
        const core = yield* make({ maxBytes: 3000 })
        core.open(negotiated, false, { wakeWriter: () => {} })
        const topic = fresh(20)
        TopicMemory.put(topic)
        const tagOf = (length: number) => {
          const result = toEntry(core, { topic, payload: bytes(length) })
          return "_tag" in result ? result._tag : "taken"
        }
        assert.deepStrictEqual([tagOf(2980), tagOf(2981)], ["taken", "PacketTooLarge"])
        const configure = Effect.fnUntraced(function*(maxBytes: number) {
          core.configure(yield* Effect.fromResult(resolve({ endpoint: "mqtt://broker", outbox: { maxBytes } })))
        })
        yield* configure(1500)
        assert.deepStrictEqual([tagOf(1480), tagOf(1481)], ["taken", "PacketTooLarge"])
        yield* configure(10_000)
        assert.deepStrictEqual([tagOf(2981), tagOf(9980), tagOf(9981)], ["taken", "taken", "PacketTooLarge"])
      }))

    it.effect("agree on random messages, limits and states", () =>
      Effect.gen(function*() {
        const random = new Random(29)
        const seen = new Map<string, number>()
        for (let run = 0; run < 60; run++) {
          const maxBytes = random.pick([16_777_216, 3000, 1500])
          const core = yield* make({ maxBytes, qos0Offline: random.pick(["queue", "fail"]) })
          const maximumPacketSize = random.pick([Infinity, Infinity, 2000, 1100, 30])
          const isOpen = random.bool(0.85)
          if (isOpen) {
            const maximumQoS = random.pick([0, 1, 2, 2] as const)
            const retainAvailable = random.bool(0.8)
            const protocolVersion = random.pick([4, 5] as const)
            core.open(
              { ...negotiated, maximumQoS, retainAvailable, maximumPacketSize, protocolVersion },
              false,
              { wakeWriter: () => {} }
            )
          }
          if (random.bool(0.1)) core.refuse(new ClientClosed())
          for (let count = 0; count < 25; count++) {
            const limit = Math.min(maxBytes, maximumPacketSize, 4000)
            const topic = random.bool(0.1) ? `${fresh()}é` : fresh(random.pick([8, 20, 126, 127, 128, 129, 300]))
            // Around the limit itself, around what the plain way leaves to the general one, and anywhere below.
            const length = Math.max(
              0,
              random.pick([limit - topic.length, limit - 1024, limit / 2 | 0, 0]) + random.int(-8, 4)
            )
            const message: OutgoingMessage = {
              topic: random.bool(0.95) ? topic : `${topic}#`,
              payload: random.bool(0.9) ? bytes(length) : "x".repeat(length),
              qos: random.pick([undefined, 0, 1, 2]),
              retain: random.pick([undefined, false, true]),
              ...random.bool(0.1) && { contentType: "x" }
            }
            const { first, isKnown, second } = both(core, message)
            const kind = isPlain(second) ? "plain" : "_tag" in first ? first._tag : isKnown ? "known" : "unknown"
            seen.set(kind, (seen.get(kind) ?? 0) + 1)
          }
        }
        // All of it came about.
        const kinds = ["plain", "known", "unknown", "PacketTooLarge", "NotSupportedByServer", "InvalidMessage"]
        for (const kind of [...kinds, "PublishAbandoned", "Offline"]) assert.isAbove(seen.get(kind) ?? 0, 8, kind)
      }))
  })
})
