import { assert, describe, it } from "@effect/vitest"
import type { ServerPacket } from "../../src/protocol/Packet.ts"
import * as Framer from "../../src/testing/Framer.ts"
import { Hex } from "../../src/testing/index.ts"
import * as WireCodec from "../../src/testing/WireCodec.ts"

const text = (value: string) => {
  const bytes = new TextEncoder().encode(value)
  return Hex.encode(Uint8Array.of(bytes.length >> 8, bytes.length & 0xff, ...bytes))
}

const words = (...parts: ReadonlyArray<string>) => parts.join(" ")

describe("WireCodec", () => {
  const golden: ReadonlyArray<readonly [version: 4 | 5, packet: ServerPacket, hex: string]> = [
    [4, { _tag: "Connack", sessionPresent: true, reasonCode: 0, properties: undefined }, "20 02 01 00"],
    [4, { _tag: "Connack", sessionPresent: false, reasonCode: 5, properties: undefined }, "20 02 00 05"],
    [5, { _tag: "Connack", sessionPresent: false, reasonCode: 0x87, properties: undefined }, "20 03 00 87 00"],
    [4, { _tag: "Puback", packetId: 0x1234, reasonCode: 0, properties: undefined }, "40 02 12 34"],
    [5, { _tag: "Puback", packetId: 1, reasonCode: 0, properties: undefined }, "40 02 00 01"],
    [5, { _tag: "Pubrec", packetId: 1, reasonCode: 0x97, properties: undefined }, "50 04 00 01 97 00"],
    [5, { _tag: "Pubrel", packetId: 1, reasonCode: 0, properties: undefined }, "62 02 00 01"],
    [5, { _tag: "Pubcomp", packetId: 1, reasonCode: 0x92, properties: undefined }, "70 04 00 01 92 00"],
    [
      5,
      { _tag: "Puback", packetId: 1, reasonCode: 0, properties: { reasonString: "r" } },
      "40 08 00 01 00 04 1f 00 01 72"
    ],
    [4, { _tag: "Suback", packetId: 1, reasonCodes: [0, 0x80], properties: undefined }, "90 04 00 01 00 80"],
    [5, { _tag: "Suback", packetId: 1, reasonCodes: [2], properties: undefined }, "90 04 00 01 00 02"],
    [4, { _tag: "Unsuback", packetId: 1, reasonCodes: [], properties: undefined }, "b0 02 00 01"],
    [5, { _tag: "Unsuback", packetId: 1, reasonCodes: [0, 0x11], properties: undefined }, "b0 05 00 01 00 00 11"],
    [4, { _tag: "Pingresp" }, "d0 00"],
    [5, { _tag: "Disconnect", reasonCode: 0x8e, properties: undefined }, "e0 02 8e 00"],
    [
      5,
      {
        _tag: "Auth",
        reasonCode: 0x18,
        properties: { authenticationMethod: "X", authenticationData: Uint8Array.of(7) }
      },
      "f0 0a 18 08 15 00 01 58 16 00 01 07"
    ],
    [
      4,
      {
        _tag: "Publish",
        dup: true,
        qos: 2,
        retain: true,
        topic: "a",
        packetId: 9,
        payload: Uint8Array.of(0xff),
        properties: undefined
      },
      "3d 06 00 01 61 00 09 ff"
    ]
  ]

  it("writes the bytes of the standard", () => {
    for (const [version, packet, hex] of golden) {
      assert.strictEqual(Hex.encode(WireCodec.encode(version, packet)), hex, `${packet._tag} on ${version}`)
    }
  })

  it("writes every property of CONNACK", () => {
    const bytes = WireCodec.encode(5, {
      _tag: "Connack",
      sessionPresent: false,
      reasonCode: 0,
      properties: {
        sessionExpiryInterval: 1,
        receiveMaximum: 2,
        maximumQoS: 1,
        retainAvailable: false,
        maximumPacketSize: 3,
        assignedClientIdentifier: "id",
        topicAliasMaximum: 4,
        reasonString: "why",
        userProperties: [["b", "1"], ["a", "2"], ["b", "3"]],
        wildcardSubscriptionAvailable: false,
        subscriptionIdentifierAvailable: false,
        sharedSubscriptionAvailable: true,
        serverKeepAlive: 5,
        responseInformation: "ri",
        serverReference: "sr",
        authenticationMethod: "m",
        authenticationData: Uint8Array.of(1, 2)
      }
    })
    const properties = words(
      "11 00 00 00 01 21 00 02 24 01 25 00 27 00 00 00 03 12",
      text("id"),
      "22 00 04 1f",
      text("why"),
      words("26", text("b"), text("1"), "26", text("a"), text("2"), "26", text("b"), text("3")),
      "28 00 29 00 2a 01 13 00 05 1a",
      text("ri"),
      "1c",
      text("sr"),
      "15",
      text("m"),
      "16 00 02 01 02"
    )
    const length = Hex.decode(properties).length
    assert.strictEqual(
      Hex.encode(bytes),
      words("20", (length + 3).toString(16), "00 00", length.toString(16), properties)
    )
  })

  it("writes every property of PUBLISH", () => {
    const bytes = WireCodec.encode(5, {
      _tag: "Publish",
      dup: false,
      qos: 0,
      retain: false,
      topic: "",
      packetId: 0,
      payload: new Uint8Array(0),
      properties: {
        payloadFormatIndicator: 1,
        messageExpiryInterval: 2,
        topicAlias: 3,
        responseTopic: "r",
        correlationData: Uint8Array.of(0xff),
        subscriptionIdentifiers: [2, 1, 2],
        contentType: "c"
      }
    })
    const properties = "01 01 02 00 00 00 02 23 00 03 08 00 01 72 09 00 01 ff 0b 02 0b 01 0b 02 03 00 01 63"
    assert.strictEqual(Hex.encode(bytes), `30 1f 00 00 1c ${properties}`)
  })

  it("reads every property of a client's packets", () => {
    const connect = WireCodec.decode(
      undefined,
      Hex.decode(words(
        "10 48 00 04 4d 51 54 54 05 26 00 0a",
        "1c 11 00 00 00 01 21 00 02 27 00 00 00 03 22 00 04 19 01 17 00 15 00 01 6d 16 00 01 ff",
        "00 01 63",
        "17 18 00 00 00 05 01 00 02 00 00 00 06 03 00 01 74 08 00 01 72 09 00 00",
        "00 01 77 00 01 78"
      ))
    )
    assert.deepInclude(connect, {
      _tag: "Connect",
      cleanStart: true,
      keepAlive: 10,
      properties: {
        sessionExpiryInterval: 1,
        receiveMaximum: 2,
        maximumPacketSize: 3,
        topicAliasMaximum: 4,
        requestResponseInformation: true,
        requestProblemInformation: false,
        authenticationMethod: "m",
        authenticationData: Uint8Array.of(0xff)
      },
      will: {
        topic: "w",
        payload: Uint8Array.of(0x78),
        qos: 0,
        retain: true,
        properties: {
          willDelayInterval: 5,
          payloadFormatIndicator: 0,
          messageExpiryInterval: 6,
          contentType: "t",
          responseTopic: "r",
          correlationData: new Uint8Array(0)
        }
      }
    })
    assert.deepStrictEqual(WireCodec.decode(5, Hex.decode("82 09 00 07 02 0b 05 00 01 61 2d")), {
      _tag: "Subscribe",
      packetId: 7,
      subscriptions: [{ filter: "a", qos: 1, noLocal: true, retainAsPublished: true, retainHandling: 2 }],
      properties: { subscriptionIdentifier: 5 }
    })
    assert.deepStrictEqual(WireCodec.decode(5, Hex.decode("e0 07 04 05 11 00 00 00 0a")), {
      _tag: "Disconnect",
      reasonCode: 4,
      properties: { sessionExpiryInterval: 10 }
    })
  })

  it("reads on after a packet that it refused", () => {
    for (let round = 0; round < 3; round++) {
      assert.strictEqual(WireCodec.decode(5, Hex.decode("30 04 00 05 61 62"))._tag, "Broken")
      assert.strictEqual(WireCodec.decode(5, Hex.decode("c0 00"))._tag, "Pingreq")
    }
  })

  it("frames a stream in whatever pieces it comes", () => {
    const stream = Hex.decode(`c0 00 30 80 01 ${"00 7e ".repeat(64)} e0 00`)
    for (let size = 1; size <= stream.length; size++) {
      const framer = Framer.make()
      const frames: Array<number> = []
      for (let at = 0; at < stream.length; at += size) {
        for (const frame of framer.push(stream.subarray(at, at + size))) {
          frames.push(frame === "malformed" ? -1 : frame.length)
        }
      }
      assert.deepStrictEqual(frames, [2, 131, 2], `${size} bytes at a time`)
      assert.strictEqual(framer.pendingBytes, 0)
    }
  })
})
