import { assert, describe, it } from "@effect/vitest"
import * as TopicMemory from "../../src/protocol/TopicMemory.ts"
import * as TopicName from "../../src/protocol/TopicName.ts"
import { makeEncoder } from "../../src/protocol/PacketCodec.ts"
import type { Publish } from "../../src/protocol/Packet.ts"

const written = (topic: string): Uint8Array => {
  const encoder = makeEncoder({ protocolVersion: 4 })
  const packet: Publish = {
    _tag: "Publish",
    dup: false,
    qos: 0,
    retain: false,
    topic,
    packetId: 0,
    payload: new Uint8Array(1),
    properties: undefined
  }
  assert.isUndefined(encoder.encode(packet))
  return encoder.take()
}

/** Each name is found at once, so that the memory does not step aside for what comes after. */
const settle = () => {
  // What other tests looked for may have made it step aside, for so many look-ups, in which nothing is put.
  for (let index = 0; index < 40_000; index++) if (TopicMemory.get("settled") === undefined) TopicMemory.put("settled")
}

describe("TopicMemory", () => {
  it("gives a valid name as it is written, once it was validated", () => {
    settle()
    assert.isUndefined(TopicMemory.get("memory/a"))
    assert.isUndefined(TopicName.validate("memory/a"))
    assert.deepStrictEqual(TopicMemory.get("memory/a"), Uint8Array.from([0, 8, ...Buffer.from("memory/a")]))
    assert.deepStrictEqual(written("memory/a").subarray(2, 12), Buffer.from(TopicMemory.get("memory/a")!))
  })

  it("never takes a name that is not valid, not ASCII, or long", () => {
    settle()
    for (const topic of ["", "a/#", "+", "\u0000", "\ud800", "grün", "x".repeat(129)]) {
      TopicName.validate(topic)
      assert.isUndefined(TopicMemory.get(topic), topic)
    }
    assert.isDefined(TopicName.validate("a/#"))
    assert.isDefined(TopicName.validate("a/#"), "the second time as well")
    assert.isUndefined(TopicName.validate("grün"))
  })

  it("writes a name that it knows as it writes one that it does not know", () => {
    settle()
    for (const topic of ["t", "a/b/c", "x".repeat(127), "x".repeat(128), "x".repeat(129), "grün"]) {
      const before = written(topic)
      TopicName.validate(topic)
      assert.deepStrictEqual(written(topic), before)
    }
  })

  it("is bounded, and goes on to be right when every topic is new (law 14)", () => {
    settle()
    for (let index = 0; index < 50_000; index++) assert.isUndefined(TopicName.validate(`new/${index}`))
    let found = 0
    settle()
    for (let index = 0; index < 50_000; index++) if (TopicMemory.get(`new/${index}`) !== undefined) found++
    assert.isAtMost(found, 1024)
    assert.strictEqual(Buffer.from(written("new/49999").subarray(4, 13)).toString(), "new/49999")
  })
})
