import { assert, describe, expect, it } from "@effect/vitest"
import type { Publish, PublishProperties } from "../../src/protocol/Packet.ts"
import type { Message, OutgoingMessage } from "../../src/services/Message.ts"
import { text } from "../../src/services/Message.ts"
import {
  checkMessage,
  detachPayload,
  encodePayload,
  hasProperties,
  toMessage,
  toPublishProperties
} from "../../src/services/MessageCodec.ts"
import { Hex } from "../../src/testing/index.ts"

/** What a program without types may hand over. */
const check = (message: unknown) => checkMessage(message as OutgoingMessage)

const publish = (fields: Partial<Publish> = {}): Publish => ({
  _tag: "Publish",
  dup: false,
  qos: 0,
  retain: false,
  topic: "t",
  packetId: 0,
  payload: new Uint8Array(0),
  properties: undefined,
  ...fields
})

describe("MessageCodec", () => {
  describe("encodePayload", () => {
    it("writes text as UTF-8, a byte order mark included, and passes bytes on as they are", () => {
      const bytes = new Uint8Array([1, 2])
      assert.strictEqual(encodePayload(bytes), bytes)
      assert.strictEqual(Hex.encode(encodePayload("\uFEFFé€😀") as Uint8Array), "ef bb bf c3 a9 e2 82 ac f0 9f 98 80")
    })

    it("makes an empty payload of nothing (PB-30p)", () => {
      assert.deepStrictEqual([encodePayload(undefined), encodePayload("")], [new Uint8Array(0), new Uint8Array(0)])
    })

    it("refuses a lone surrogate, which UTF-8 cannot carry", () => {
      for (const payload of ["\uD800", "a\uDC00b"]) assert.isString(encodePayload(payload))
    })
  })

  describe("toPublishProperties", () => {
    it("gives none where there are none", () => {
      for (const message of [{}, { payload: new Uint8Array(1) }, { userProperties: [] }, { contentType: undefined }]) {
        assert.isUndefined(toPublishProperties(message))
      }
    })

    it("marks text as UTF-8, unless told otherwise (PB-09p)", () => {
      const indicator = (message: Parameters<typeof toPublishProperties>[0]) =>
        toPublishProperties(message)?.payloadFormatIndicator
      assert.strictEqual(indicator({ payload: "a" }), 1)
      assert.strictEqual(indicator({ payload: "" }), 1)
      assert.strictEqual(indicator({ payload: "a", payloadFormat: "bytes" }), 0)
      assert.strictEqual(indicator({ payload: new Uint8Array(1), payloadFormat: "utf8" }), 1)
      assert.isUndefined(indicator({ payload: new Uint8Array(1), contentType: "x" }))
    })

    it("keeps every property, the order of user properties and repeated names (PB-20s, PB-21s)", () => {
      const correlationData = Uint8Array.from({ length: 256 }, (_, i) => i)
      const userProperties = [["b", "1"], ["a", "2"], ["b", "1"]] as const
      assert.deepStrictEqual(
        toPublishProperties({
          messageExpiryInterval: 0,
          contentType: "",
          responseTopic: "r",
          correlationData,
          userProperties
        }),
        {
          payloadFormatIndicator: undefined,
          messageExpiryInterval: 0,
          contentType: "",
          responseTopic: "r",
          correlationData,
          userProperties
        }
      )
    })

    it("takes no subscription identifier, DUP or id from a message that arrived (PB-27c, PB-03b)", () => {
      const arrived: Message = toMessage(publish({
        dup: true,
        qos: 1,
        packetId: 9,
        properties: { subscriptionIdentifiers: [7], contentType: "x", topicAlias: 3 }
      }))
      assert.isUndefined(check(arrived))
      const properties: PublishProperties | undefined = toPublishProperties(arrived)
      assert.strictEqual(properties?.contentType, "x")
      assert.isUndefined(properties?.subscriptionIdentifiers)
      assert.isUndefined(properties?.topicAlias)
    })
  })

  describe("checkMessage (law 13)", () => {
    it("takes what is valid", () => {
      const messages: ReadonlyArray<OutgoingMessage> = [
        { topic: "a" },
        { topic: "/" },
        { topic: "$SYS/x", qos: 2, retain: true, payload: "é" },
        { topic: "a", payload: new Uint8Array(0), payloadFormat: "utf8" },
        { topic: "a", payload: new Uint8Array([0xc3, 0xa9]), payloadFormat: "utf8", messageExpiryInterval: 0xffffffff },
        { topic: "a", responseTopic: "r/s", correlationData: new Uint8Array(65_535), userProperties: [["", ""]] },
        { topic: "é".repeat(32_767) }
      ]
      for (const message of messages) assert.isUndefined(checkMessage(message), message.topic.slice(0, 9))
    })

    const cases: ReadonlyArray<readonly [rule: string, field: string, message: unknown]> = [
      ["no message", "message", undefined],
      ["null", "message", null],
      ["a string", "message", "topic"],
      ["no topic", "topic", {}],
      ["a topic that is no string", "topic", { topic: 5 }],
      ["an empty topic (PB-06b)", "topic", { topic: "" }],
      ["a topic with + (PB-07b)", "topic", { topic: "a/+" }],
      ["a topic with # (PB-07b)", "topic", { topic: "#" }],
      ["a topic with U+0000", "topic", { topic: "a\0b" }],
      ["a topic with a lone surrogate", "topic", { topic: "a\uD800" }],
      ["a topic of 65,536 bytes", "topic", { topic: "é".repeat(32_768) }],
      ["a payload of the wrong kind", "payload", { topic: "a", payload: { some: "json" } }],
      ["a null payload", "payload", { topic: "a", payload: null }],
      ["an array buffer", "payload", { topic: "a", payload: new ArrayBuffer(2) }],
      ["QoS 3 (PB-04b)", "qos", { topic: "a", qos: 3 }],
      ["QoS as text", "qos", { topic: "a", qos: "1" }],
      ["QoS 0.5", "qos", { topic: "a", qos: 0.5 }],
      ["retain that is no boolean", "retain", { topic: "a", retain: 1 }],
      ["an unknown payload format", "payloadFormat", { topic: "a", payloadFormat: "json" }],
      [
        "bytes marked as UTF-8 that are not (PB-09p)",
        "payload",
        { topic: "a", payloadFormat: "utf8", payload: new Uint8Array([0xff]) }
      ],
      ["an expiry below 0", "messageExpiryInterval", { topic: "a", messageExpiryInterval: -1 }],
      ["an expiry of half seconds", "messageExpiryInterval", { topic: "a", messageExpiryInterval: 1.5 }],
      ["an expiry over four bytes", "messageExpiryInterval", { topic: "a", messageExpiryInterval: 2 ** 32 }],
      ["an expiry that is no number", "messageExpiryInterval", { topic: "a", messageExpiryInterval: Number.NaN }],
      ["a response topic with a wildcard (PB-19b)", "responseTopic", { topic: "a", responseTopic: "r/#" }],
      ["an empty response topic", "responseTopic", { topic: "a", responseTopic: "" }],
      ["a response topic that is not UTF-8 (PB-18b)", "responseTopic", { topic: "a", responseTopic: "\uDC00" }],
      ["a content type that is not UTF-8 (PB-22b)", "contentType", { topic: "a", contentType: "\uDC00" }],
      ["a content type that is no string", "contentType", { topic: "a", contentType: 7 }],
      ["correlation data that is text", "correlationData", { topic: "a", correlationData: "x" }],
      [
        "correlation data over 65,535 bytes",
        "correlationData",
        { topic: "a", correlationData: new Uint8Array(65_536) }
      ],
      ["user properties as an object", "userProperties", { topic: "a", userProperties: { a: "b" } }],
      ["a user property that is no pair", "userProperties.1", { topic: "a", userProperties: [["a", "b"], ["c"]] }],
      ["a user property that is no text", "userProperties.0", { topic: "a", userProperties: [["a", 1]] }],
      ["a user property with U+0000", "userProperties.0", { topic: "a", userProperties: [["a\0", "b"]] }]
    ]
    for (const [rule, field, message] of cases) {
      it(`refuses ${rule}, naming ${field}`, () => {
        const problem = check(message)
        assert.strictEqual(problem?.field, field)
        assert.isNotEmpty(problem?.problem)
      })
    }
  })

  describe("hasProperties", () => {
    it("sees whatever is given, also what is nothing or not valid", () => {
      const given: ReadonlyArray<object> = [
        { contentType: "" },
        { correlationData: new Uint8Array(0) },
        { messageExpiryInterval: 0 },
        { payloadFormat: "bytes" },
        { responseTopic: null },
        { userProperties: [] }
      ]
      for (const properties of given) assert.isTrue(hasProperties(properties), JSON.stringify(properties))
      for (const none of [{}, { contentType: undefined }, { topic: "a", payload: "x" }]) {
        assert.isFalse(hasProperties(none))
      }
    })
  })

  describe("detachPayload", () => {
    /** A message whose payload is a part of a larger chunk. */
    const within = (chunkBytes: number, bytes: number): Message => {
      const payload = new Uint8Array(new ArrayBuffer(chunkBytes), chunkBytes - bytes, bytes)
      for (let index = 0; index < bytes; index++) payload[index] = index * 7
      return toMessage(publish({ payload }))
    }

    it("copies what is the smaller part of a large chunk into memory of 8 KiB at most, or of its own size", () => {
      for (const bytes of [1, 64, 65, 100, 1000, 1024, 1025, 8000, 20_000, 32_767]) {
        const message = within(65_536, bytes)
        const { payload } = message
        detachPayload(message)
        assert.notStrictEqual(message.payload, payload)
        assert.isAtMost(message.payload.buffer.byteLength, Math.max(8192, bytes), `${bytes} bytes`)
        assert.deepStrictEqual([...message.payload], [...payload])
        // The chunk is another's from now on.
        const copy = [...payload]
        new Uint8Array(payload.buffer).fill(0xee)
        assert.deepStrictEqual([...message.payload], copy)
        assert.strictEqual(message.payload.constructor, Uint8Array)
      }
    })

    it("leaves what is half of its chunk or more, what lies in 8 KiB or less, and what is empty", () => {
      for (
        const [chunk, bytes] of [[65_536, 32_768], [65_536, 65_536], [40_001, 20_001], [8192, 1], [10, 1], [65_536, 0]]
      ) {
        const message = within(chunk!, bytes!)
        const { payload } = message
        detachPayload(message)
        assert.strictEqual(message.payload, payload, `${bytes} of ${chunk}`)
      }
      for (const [chunk, bytes] of [[8193, 1], [65_537, 32_768]]) {
        const message = within(chunk!, bytes!)
        const { payload } = message
        detachPayload(message)
        assert.notStrictEqual(message.payload, payload, `${bytes} of ${chunk}`)
      }
    })

    it("keeps copies apart that share memory, and has next to no memory besides them", () => {
      const messages = Array.from({ length: 500 }, (_, index) => within(65_536, 1 + index * 13 % 1100))
      const expected = messages.map(({ payload }) => [...payload])
      for (const message of messages) detachPayload(message)
      assert.deepStrictEqual(messages.map(({ payload }) => [...payload]), expected)
      const ranges = messages.map(({ payload }) => payload)
      for (const [index, one] of ranges.entries()) {
        for (const other of ranges.slice(index + 1)) {
          if (one.buffer !== other.buffer) continue
          if (one.byteOffset < other.byteOffset + other.length && other.byteOffset < one.byteOffset + one.length) {
            assert.fail("two copies overlap")
          }
        }
      }
      const bytes = expected.flat().length
      const buffers = new Set(messages.map(({ payload }) => payload.buffer))
      const held = [...buffers].reduce((sum, { byteLength }) => sum + byteLength, 0)
      assert.isAtMost(held, 1.25 * bytes + 2 * 8192)
    })

    it("leaves a message as it is that one of its receivers has frozen", () => {
      const message = Object.freeze(within(65_536, 100))
      const { payload } = message
      detachPayload(message)
      assert.strictEqual(message.payload, payload)
    })

    it("does nothing the second time", () => {
      const message = within(65_536, 100)
      detachPayload(message)
      const { payload } = message
      detachPayload(message)
      assert.strictEqual(message.payload, payload)
    })
  })

  describe("toMessage", () => {
    it("makes a plain object, as a literal would be", () => {
      const payload = Uint8Array.of(1)
      const message = toMessage(publish({ topic: "a", payload, qos: 2, retain: true, dup: true, packetId: 9 }))
      const literal = { topic: "a", payload, qos: 2, retain: true, duplicate: true }
      expect(message).toStrictEqual(literal)
      assert.strictEqual(Object.getPrototypeOf(message), Object.prototype)
      assert.strictEqual(message.constructor, Object)
      assert.deepStrictEqual(Object.entries(message), Object.entries(literal))
      assert.strictEqual(JSON.stringify(message), JSON.stringify(literal))
      expect({ ...message, topic: "b" }).toStrictEqual({ ...literal, topic: "b" })
      const explained = toMessage(publish({ payload, properties: { contentType: "x" } }))
      assert.strictEqual(Object.getPrototypeOf(explained), Object.prototype)
      assert.strictEqual(explained.contentType, "x")
    })

    it("takes the payload as it is, and copies correlation data, so that no network chunk is pinned", () => {
      const chunk = new Uint8Array(65_536).fill(7)
      const payload = Uint8Array.of(1, 2)
      const message = toMessage(publish({ payload, properties: { correlationData: chunk.subarray(200, 202) } }))
      chunk.fill(0)
      assert.strictEqual(message.payload, payload)
      assert.deepStrictEqual([...message.correlationData!], [7, 7])
      assert.strictEqual(message.correlationData?.buffer.byteLength, 2)
    })

    it("hands over what the server sent: retain, DUP, expiry, format, identifiers (PB-05s, PB-10s, PB-24s)", () => {
      const userProperties = [["b", "1"], ["a", "2"]] as const
      const message = toMessage(publish({
        dup: true,
        qos: 2,
        retain: true,
        packetId: 5,
        properties: {
          payloadFormatIndicator: 0,
          messageExpiryInterval: 9,
          subscriptionIdentifiers: [2, 1, 2],
          userProperties,
          responseTopic: "r"
        }
      }))
      assert.deepStrictEqual(
        [message.duplicate, message.qos, message.retain, message.messageExpiryInterval, message.payloadFormat],
        [true, 2, true, 9, "bytes"]
      )
      assert.deepStrictEqual(message.subscriptionIdentifiers, [2, 1, 2])
      assert.deepStrictEqual(message.userProperties, userProperties)
      assert.strictEqual(message.responseTopic, "r")
      assert.strictEqual(toMessage(publish({ properties: { payloadFormatIndicator: 1 } })).payloadFormat, "utf8")
      assert.isUndefined(toMessage(publish({ properties: {} })).payloadFormat)
      assert.doesNotHaveAnyKeys(toMessage(publish()), ["payloadFormat", "userProperties"])
    })

    it("reads text with its byte order mark, ill-formed bytes as U+FFFD", () => {
      assert.strictEqual(text({ payload: Hex.decode("ef bb bf 61 ff") }), "\uFEFFa\uFFFD")
    })
  })
})
