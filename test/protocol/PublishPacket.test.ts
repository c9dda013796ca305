import { assert, describe, expect, it } from "@effect/vitest"
import * as PublishPacket from "../../src/protocol/PublishPacket.ts"

const payload = Uint8Array.of(1, 2)
const properties = { contentType: "x" }

const literal = {
  _tag: "Publish",
  dup: true,
  qos: 2,
  retain: true,
  topic: "a",
  packetId: 7,
  payload,
  properties
} as const

describe("PublishPacket", () => {
  it("makes a plain object, as a literal would be", () => {
    const packet = PublishPacket.make(true, 2, true, "a", 7, payload, properties)
    expect(packet).toStrictEqual(literal)
    assert.strictEqual(Object.getPrototypeOf(packet), Object.prototype)
    assert.strictEqual(packet.constructor, Object)
    assert.deepStrictEqual(Object.entries(packet), Object.entries(literal))
    assert.strictEqual(JSON.stringify(packet), JSON.stringify(literal))
    expect({ ...packet, dup: false }).toStrictEqual({ ...literal, dup: false })
    expect(structuredClone(packet)).toStrictEqual(structuredClone(literal))
  })

  it("has each field in its place, also where there is nothing in it", () => {
    const packet = PublishPacket.make(false, 0, false, "b", 0, payload, undefined)
    const { properties: _, ...rest } = literal
    expect(packet).toStrictEqual({
      ...rest,
      dup: false,
      qos: 0,
      retain: false,
      topic: "b",
      packetId: 0,
      properties: undefined
    })
    assert.isTrue("properties" in packet)
  })

  it("makes a new one each time", () => {
    const make = () => PublishPacket.make(false, 1, false, "a", 1, payload, undefined)
    assert.notStrictEqual(make(), make())
  })
})
