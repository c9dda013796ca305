import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import type { Scope } from "effect"
import { TestClock } from "effect/testing"
import { readdirSync, readFileSync } from "node:fs"
import type { Transport } from "../../src/services/Transport.ts"
import * as BrokerTopics from "../../src/testing/BrokerTopics.ts"
import { TestBroker } from "../../src/testing/index.ts"
import type { MemoryNetwork } from "../../src/testing/index.ts"
import { connected, dial } from "./ScriptedClient.ts"
import type { Json } from "./ScriptedClient.ts"

const { TestBroker: Broker } = TestBroker

interface Conformance {
  readonly rows: ReadonlyArray<{ readonly key: string; readonly cls: string }>
  readonly topics: ReadonlyArray<{
    readonly filter: string
    readonly topic: string
    readonly expect: "yes" | "no" | "bad filter" | "bad topic"
  }>
}

const conformance: Conformance = JSON.parse(
  readFileSync(new URL("../fixtures/mqtt-conformance.data.json", import.meta.url), "utf8")
)

const run = <A, E>(
  effect: Effect.Effect<A, E, TestBroker.TestBroker | MemoryNetwork.MemoryNetwork | Transport | Scope.Scope>,
  options?: TestBroker.TestBrokerOptions
) => Effect.provide(Effect.scoped(effect), TestBroker.layer(options))

const publish = (messageId: number, options: Json = {}) => ({
  cmd: "publish",
  topic: "t",
  payload: "x",
  qos: 1,
  messageId,
  dup: false,
  retain: false,
  ...options
})

const subscribe = (messageId: number, topic = "#", options: Json = {}) => ({
  cmd: "subscribe",
  messageId,
  subscriptions: [{ topic, qos: 2 }],
  ...options
})

const persistent = { clean: false, properties: { sessionExpiryInterval: 60 } }

/** CONNECT with the fixed header worked out: version, flags, keep alive 0, and the rest as given. */
const connectHex = (version: 4 | 5, flags: string, rest: string, name = "00 04 4d 51 54 54") => {
  const body = `${name} 0${version} ${flags} 00 00 ${rest}`.trim().split(/\s+/)
  return `10 ${body.length.toString(16).padStart(2, "0")} ${body.join(" ")}`
}

describe("TestBroker strictness", () => {
  it("cites rows of the conformance table only", () => {
    const known = new Set(conformance.rows.map((row) => row.key + row.cls))
    const directory = new URL("../../src/testing/", import.meta.url)
    for (const file of readdirSync(directory)) {
      const cited = readFileSync(new URL(file, directory), "utf8").matchAll(/"([A-Z][A-Z0-9]-\d\d[a-z])"/g)
      for (const [, row] of cited) assert.isTrue(known.has(row!), `${file} cites ${row}`)
    }
  })

  it("matches topics as the truth table says (TP-03s)", () => {
    for (const { expect, filter, topic } of conformance.topics) {
      const wrong = BrokerTopics.checkFilter(5, filter)
      assert.strictEqual(wrong !== undefined, expect === "bad filter", filter)
      if (expect !== "yes" && expect !== "no") continue
      assert.strictEqual(
        BrokerTopics.matches(BrokerTopics.parseFilter(5, filter).filter, topic),
        expect === "yes",
        filter
      )
    }
  })

  describe("CONNECT", () => {
    const cases: ReadonlyArray<readonly [row: string, what: string, hex: string]> = [
      ["CN-01c", "another packet first", "c0 00"],
      ["FH-01b", "flags", connectHex(5, "02", "00 00 01 63").replace("10", "11")],
      ["VB-01b", "an over-long Remaining Length", connectHex(5, "02", "00 00 01 63").replace("0e", "8e 00")],
      ["CN-03c", "another protocol name", connectHex(5, "02", "00 00 01 63", "00 04 4d 51 54 58")],
      ["CN-04c", "another version", connectHex(5, "02", "00 00 01 63").replace("05 02", "06 02")],
      ["CN-05c", "the reserved flag", connectHex(5, "03", "00 00 01 63")],
      ["CN-07c", "will QoS without a will", connectHex(5, "0a", "00 00 01 63")],
      ["CN-09c", "will retain without a will", connectHex(5, "22", "00 00 01 63")],
      ["CN-08c", "will QoS 3", connectHex(5, "1e", "00 00 01 63 00 00 01 74 00 00")],
      ["CN-14c", "a password without a user name on 3.1.1", connectHex(4, "42", "00 01 63 00 01 70")],
      ["CN-23c", "a wildcard in the will topic", connectHex(5, "06", "00 00 01 63 00 00 01 23 00 00")],
      ["CN-25p", "a will payload that is not UTF-8", connectHex(5, "06", "00 00 01 63 02 01 01 00 01 74 00 01 ff")],
      ["CN-27p", "Receive Maximum 0", connectHex(5, "02", "03 21 00 00 00 01 63")],
      ["CN-27p", "Maximum Packet Size 0", connectHex(5, "02", "05 27 00 00 00 00 00 01 63")],
      ["CN-28p", "Request Problem Information 2", connectHex(5, "02", "02 17 02 00 01 63")],
      ["CN-29p", "Authentication Data without a method", connectHex(5, "02", "04 16 00 01 01 00 01 63")],
      ["CN-17c", "no client identifier field", connectHex(5, "02", "00")],
      ["U8-01b", "a client identifier that is not UTF-8", connectHex(5, "02", "00 00 01 ff")],
      ["U8-02b", "U+0000 in the client identifier", connectHex(5, "02", "00 00 01 00")],
      ["U8-04b", "ill-formed user property", connectHex(5, "02", "07 26 00 01 ff 00 01 61 00 01 63")],
      ["PR-02p", "a property of another packet", connectHex(5, "02", "02 01 00 00 01 63")],
      ["PR-02p", "an unknown property", connectHex(5, "02", "02 7f 00 00 01 63")],
      ["PR-03p", "a property twice", connectHex(5, "02", "06 22 00 01 22 00 01 00 01 63")],
      ["PR-08p", "a Property Length past the end", connectHex(5, "02", "7f 00 01 63")],
      ["FH-06p", "bytes left over", connectHex(5, "02", "00 00 01 63 00")],
      ["FH-06p", "a field past the end", connectHex(5, "02", "00 00 05 63")],
      ["VB-02p", "a fifth length byte", "10 ff ff ff ff"],
      ["CN-20c", "no client identifier and no clean session on 3.1.1", connectHex(4, "00", "00 00")]
    ]
    for (const [row, what, hex] of cases) {
      it.effect(`${row}: ${what}`, () =>
        run(Effect.gen(function*() {
          const broker = yield* Broker
          const client = yield* dial()
          yield* client.sendHex(hex)
          assert.strictEqual((yield* broker.expectViolation()).row, row)
          assert.strictEqual(yield* client.end, "eof")
          assert.deepStrictEqual(broker.sessions, [])
        })))
    }

    it.effect("legal ones pass, with all that a CONNECT can hold", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* dial(5)
        // A password without a user name, which MQTT 5.0 allows, and a will with an empty payload.
        yield* client.sendHex(connectHex(5, "6e", "00 00 01 63 00 00 01 74 00 00 00 01 70"))
        yield* client.take("connack")
        const entry = yield* broker.expectPacket({ from: "client", type: "Connect" })
        assert.deepStrictEqual(entry.packet, {
          _tag: "Connect",
          protocolVersion: 5,
          clientId: "c",
          cleanStart: true,
          keepAlive: 0,
          username: undefined,
          password: Uint8Array.of(0x70),
          will: { topic: "t", payload: new Uint8Array(0), qos: 1, retain: true, properties: undefined },
          properties: undefined
        })
      })))
  })

  describe("the bytes of a packet", () => {
    const cases: ReadonlyArray<readonly [row: string, code: number, what: string, hex: string]> = [
      ["CN-02c", 0x82, "a second CONNECT", connectHex(5, "02", "00 00 01 63")],
      ["FH-03p", 0x81, "packet type 0", "00 00"],
      ["FH-04p", 0x82, "PINGRESP of a client", "d0 00"],
      ["FH-04p", 0x82, "CONNACK of a client", "20 03 00 00 00"],
      ["FH-01b", 0x81, "flags of PINGREQ", "c1 00"],
      ["FH-01b", 0x81, "flags of PUBACK", "42 02 00 01"],
      ["QF-21b", 0x81, "flags of PUBREL", "60 02 00 01"],
      ["SB-01c", 0x81, "flags of SUBSCRIBE", "80 07 00 01 00 00 01 61 00"],
      ["US-01c", 0x81, "flags of UNSUBSCRIBE", "a0 06 00 01 00 00 01 61"],
      ["DC-02b", 0x81, "flags of DISCONNECT", "e1 00"],
      ["AU-01b", 0x81, "flags of AUTH", "f1 00"],
      ["VB-01b", 0x81, "an over-long Remaining Length", "c0 80 00"],
      ["VB-01b", 0x81, "an over-long Property Length", "30 06 00 01 61 80 00 78"],
      ["KA-10p", 0x81, "PINGREQ with a body", "c0 01 00"],
      ["PB-04b", 0x81, "QoS 3", "36 07 00 01 61 00 01 00 78"],
      ["PB-02b", 0x82, "DUP with QoS 0", "38 05 00 01 61 00 78"],
      ["PB-07b", 0x90, "a wildcard in a topic name", "30 04 00 01 2b 00"],
      ["PB-06b", 0x82, "no topic and no alias", "30 03 00 00 00"],
      ["PB-09p", 0x82, "Payload Format Indicator 2", "30 06 00 01 61 02 01 02"],
      ["PB-09p", 0x99, "a payload that is not UTF-8", "30 07 00 01 61 02 01 01 ff"],
      ["PB-13b", 0x94, "topic alias 0", "30 07 00 01 61 03 23 00 00"],
      ["CK-18c", 0x94, "a topic alias where none is allowed", "30 07 00 01 61 03 23 00 01"],
      ["PB-19b", 0x82, "a wildcard in the response topic", "30 08 00 01 61 04 08 00 01 23"],
      ["PB-27c", 0x82, "a subscription identifier", "30 06 00 01 61 02 0b 01"],
      ["PI-02c", 0x82, "PUBLISH with identifier 0", "32 06 00 01 61 00 00 00"],
      ["PI-02c", 0x82, "SUBSCRIBE with identifier 0", "82 07 00 00 00 00 01 61 00"],
      ["PI-04b", 0x82, "PUBACK with identifier 0", "40 02 00 00"],
      ["U8-01b", 0x81, "a topic that is not UTF-8", "30 05 00 02 c3 28 00"],
      ["U8-01b", 0x81, "a surrogate in a topic", "30 06 00 03 ed a0 80 00"],
      ["U8-02b", 0x81, "U+0000 in a topic", "30 06 00 03 61 00 62 00"],
      ["FH-06p", 0x81, "a topic past the end", "30 04 00 05 61 62"],
      ["PR-01b", 0x81, "no Property Length", "30 03 00 01 61"],
      ["QF-17b", 0x82, "PUBACK with 0x10", "40 03 00 01 10"],
      ["QF-18b", 0x82, "PUBREC with an unknown code", "50 03 00 01 05"],
      ["QF-19b", 0x82, "PUBREL with an unknown code", "62 03 00 01 80"],
      ["QF-20b", 0x82, "PUBCOMP with an unknown code", "70 03 00 01 80"],
      ["SB-03c", 0x82, "SUBSCRIBE without a filter", "82 03 00 01 00"],
      ["SB-05c", 0x81, "reserved subscription options", "82 07 00 01 00 00 01 61 40"],
      ["SB-05c", 0x81, "QoS 3 asked for", "82 07 00 01 00 00 01 61 03"],
      ["SB-06p", 0x82, "Retain Handling 3", "82 07 00 01 00 00 01 61 30"],
      ["SB-08p", 0x82, "Subscription Identifier 0", "82 09 00 01 02 0b 00 00 01 61 00"],
      ["SB-08p", 0x82, "two Subscription Identifiers", "82 0b 00 01 04 0b 01 0b 02 00 01 61 00"],
      ["SB-04c", 0x82, "No Local on a shared subscription", "82 10 00 01 00 00 0a 24 73 68 61 72 65 2f 67 2f 61 04"],
      ["SH-01c", 0x8f, "a share without a filter", "82 0e 00 01 00 00 08 24 73 68 61 72 65 2f 67 00"],
      ["TP-01b", 0x8f, "# not last", "82 09 00 01 00 00 03 23 2f 61 00"],
      ["TP-02b", 0x8f, "+ beside a character", "82 08 00 01 00 00 02 61 2b 00"],
      ["TP-04b", 0x8f, "an empty filter", "82 06 00 01 00 00 00 00"],
      ["US-03c", 0x82, "UNSUBSCRIBE without a filter", "a2 03 00 01 00"],
      ["DC-03b", 0x82, "DISCONNECT with a server's code", "e0 01 8e"],
      ["DC-09p", 0x82, "a session expiry where CONNECT had none", "e0 07 00 05 11 00 00 00 0a"],
      ["AU-02b", 0x82, "AUTH with 0x00", "f0 02 00 00"],
      ["AU-14p", 0x82, "AUTH without a method", "f0 02 18 00"],
      ["AU-10c", 0x82, "AUTH although CONNECT had no method", "f0 06 18 04 15 00 01 58"]
    ]
    for (const [row, code, what, hex] of cases) {
      it.effect(`${row}: ${what}`, () =>
        run(Effect.gen(function*() {
          const broker = yield* Broker
          const client = yield* connected()
          yield* client.sendHex(hex)
          const violation = yield* broker.expectViolation()
          assert.deepStrictEqual([violation.row, violation.reasonCode], [row, code])
          assert.strictEqual((yield* client.take("disconnect"))["reasonCode"], code)
          assert.strictEqual(yield* client.end, "eof")
        })))
    }

    const oldCases: ReadonlyArray<readonly [row: string, what: string, hex: string]> = [
      ["AU-01b", "AUTH", "f0 00"],
      ["FH-07p", "PUBACK of three bytes", "40 03 00 01 00"],
      ["PR-07p", "DISCONNECT with a reason code", "e0 01 00"],
      ["SB-05c", "options of MQTT 5.0", "82 06 00 01 00 01 61 04"],
      ["PB-06b", "an empty topic", "30 02 00 00"],
      ["PB-07b", "a wildcard in a topic name", "30 03 00 01 23"]
    ]
    for (const [row, what, hex] of oldCases) {
      it.effect(`${row}: ${what} on MQTT 3.1.1, where the answer is a bare close`, () =>
        run(Effect.gen(function*() {
          const broker = yield* Broker
          const client = yield* connected({ version: 4 })
          yield* client.sendHex(hex)
          assert.strictEqual((yield* broker.expectViolation()).row, row)
          assert.strictEqual(yield* client.end, "eof")
        })))
    }

    it.effect("legal short forms pass (PR-06p), and an over-long length on 3.1.1 (VB-03p)", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const old = yield* connected({ version: 4, clientId: "old" })
        yield* old.sendHex("c0 80 00")
        yield* old.take("pingresp")
        const client = yield* connected()
        yield* client.send(subscribe(9))
        yield* client.take("suback")
        yield* broker.publish({ topic: "a", qos: 1 })
        yield* broker.publish({ topic: "a", qos: 2 })
        yield* client.take("publish")
        yield* client.take("publish")
        yield* client.sendHex("40 03 00 01 00 50 04 00 02 00 00")
        yield* client.take("pubrel")
        yield* client.sendHex("70 02 00 02 e0 01 00")
        assert.strictEqual(yield* client.end, "eof")
      })))
  })

  describe("limits that were announced", () => {
    const cases: ReadonlyArray<readonly [row: string, code: number, connack: Json, packet: Json]> = [
      ["CK-08c", 0x9b, { maximumQoS: 0 }, publish(1)],
      ["CK-12c", 0x9a, { retainAvailable: false }, publish(1, { retain: true })],
      ["CK-14c", 0x95, { maximumPacketSize: 20 }, publish(1, { payload: "x".repeat(20) })],
      ["CK-17c", 0x94, { topicAliasMaximum: 2 }, publish(1, { properties: { topicAlias: 3 } })],
      ["PB-12b", 0x82, { topicAliasMaximum: 2 }, publish(1, { topic: "", properties: { topicAlias: 1 } })]
    ]
    for (const [row, code, connack, packet] of cases) {
      it.effect(`${row}: ${JSON.stringify(connack)}`, () =>
        run(
          Effect.gen(function*() {
            const broker = yield* Broker
            const client = yield* connected()
            yield* client.send(packet)
            assert.strictEqual((yield* broker.expectViolation()).row, row)
            assert.strictEqual((yield* client.take("disconnect"))["reasonCode"], code)
          }),
          { connack }
        ))
    }

    const filters: ReadonlyArray<
      readonly [row: string, code: number, connack: Json, filter: string, properties: Json]
    > = [
      ["CK-20p", 0xa2, { wildcardSubscriptionAvailable: false }, "a/#", {}],
      ["CK-22p", 0x9e, { sharedSubscriptionAvailable: false }, "$share/g/a", {}],
      ["CK-21p", 0xa1, { subscriptionIdentifierAvailable: false }, "a", { subscriptionIdentifier: 1 }]
    ]
    for (const [row, code, connack, filter, properties] of filters) {
      it.effect(`${row}: ${JSON.stringify(connack)}`, () =>
        run(
          Effect.gen(function*() {
            const broker = yield* Broker
            const client = yield* connected()
            yield* client.send(subscribe(1, filter, { properties }))
            assert.deepStrictEqual((yield* client.take("suback"))["granted"], [code])
            assert.strictEqual((yield* broker.expectViolation()).row, row)
          }),
          { connack }
        ))
    }

    it.effect("CK-10s, CK-11s: a will beyond them is refused in CONNACK", () =>
      run(
        Effect.gen(function*() {
          const will = { topic: "w", payload: Buffer.from("x"), qos: 2, retain: false }
          assert.strictEqual((yield* connected({ will })).connack["reasonCode"], 0x9b)
          const retained = { ...will, qos: 0, retain: true }
          assert.strictEqual((yield* connected({ will: retained })).connack["reasonCode"], 0x9a)
        }),
        { connack: { maximumQoS: 1, retainAvailable: false } }
      ))

    it.effect("FC-02c: more unacknowledged publishes than Receive Maximum", () =>
      run(
        Effect.gen(function*() {
          const broker = yield* Broker
          const client = yield* connected()
          for (const id of [1, 2]) {
            yield* client.send(publish(id, { qos: 2 }))
            yield* client.take("pubrec")
          }
          yield* client.ack("pubrel", 1)
          yield* client.take("pubcomp")
          yield* client.send(publish(3, { qos: 2 }))
          yield* client.take("pubrec")
          yield* client.send(publish(4))
          yield* broker.expectViolation("FC-02c")
          assert.strictEqual((yield* client.take("disconnect"))["reasonCode"], 0x93)
        }),
        { connack: { receiveMaximum: 2 } }
      ))
  })

  describe("the course of a connection", () => {
    it.effect("CN-30c: another packet than AUTH before CONNACK", () =>
      run(
        Effect.gen(function*() {
          const broker = yield* Broker
          const client = yield* dial()
          // CONNECT with the method X
          yield* client.sendHex(connectHex(5, "02", "04 15 00 01 58 00 01 63"))
          yield* client.take("auth")
          yield* client.send({ cmd: "pingreq" })
          yield* broker.expectViolation("CN-30c")
          assert.strictEqual((yield* client.take("connack"))["reasonCode"], 0x82)
        }),
        { enhancedAuth: () => ({ _tag: "Continue" }) }
      ))

    it.effect("AU-08b, AU-11c: AUTH with another method, and AUTH 0x18 without a beginning", () =>
      run(
        Effect.gen(function*() {
          const broker = yield* Broker
          const properties = { authenticationMethod: "X" }
          const first = yield* connected({ clientId: "1", properties })
          yield* first.send({ cmd: "auth", reasonCode: 0x19, properties: { authenticationMethod: "Y" } })
          yield* broker.expectViolation("AU-08b")
          const second = yield* connected({ clientId: "2", properties })
          yield* second.send({ cmd: "auth", reasonCode: 0x18, properties })
          yield* broker.expectViolation("AU-11c")
        }),
        { enhancedAuth: () => ({ _tag: "Success" }) }
      ))

    it.effect("DC-06b: a packet after DISCONNECT", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected()
        yield* client.send({ cmd: "disconnect", reasonCode: 0 })
        yield* client.send({ cmd: "pingreq" })
        yield* broker.expectViolation("DC-06b")
      })))

    it.effect("KA-01c: a silence longer than the keep alive, even if the broker was still patient", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected({ keepalive: 10 })
        yield* TestClock.adjust("10 seconds")
        yield* client.send({ cmd: "pingreq" })
        yield* client.take("pingresp")
        assert.deepStrictEqual(broker.violations, [])
        yield* TestClock.adjust("10001 millis")
        yield* client.send({ cmd: "pingreq" })
        yield* client.take("pingresp")
        yield* broker.expectViolation("KA-01c")
        yield* TestClock.adjust("10 seconds")
        yield* client.send({ cmd: "pingreq" })
        yield* client.take("pingresp")
        assert.deepStrictEqual(broker.violations, [])
      })))

    it.effect("KA-03c: the keep alive of the server counts", () =>
      run(
        Effect.gen(function*() {
          const broker = yield* Broker
          const client = yield* connected({ keepalive: 10 })
          yield* TestClock.adjust("20 seconds")
          yield* client.send({ cmd: "pingreq" })
          yield* client.take("pingresp")
          yield* TestClock.adjust("21 seconds")
          yield* client.send({ cmd: "pingreq" })
          yield* broker.expectViolation("KA-01c")
        }),
        { connack: { serverKeepAlive: 20 } }
      ))

    it.effect("PI-02c: an identifier that is in use", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        yield* broker.drop({ from: "broker", type: "Puback" })
        const client = yield* connected()
        yield* client.send(publish(1))
        yield* client.send(subscribe(1))
        yield* broker.expectViolation("PI-02c")
      })))

    it.effect("QF-24b: a publish sent again on a live connection", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        yield* broker.drop({ from: "broker", type: "Puback" })
        const client = yield* connected()
        yield* client.send(publish(1))
        yield* client.send(publish(1, { dup: true }))
        yield* broker.expectViolation("QF-24b")
      })))

    it.effect("PI-04b, PI-09p: acks for nothing, and of the wrong kind", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected()
        yield* client.send(subscribe(1))
        yield* client.take("suback")
        yield* client.ack("puback", 99)
        yield* broker.expectViolation("PI-04b")
        yield* broker.publish({ topic: "a", qos: 2 })
        yield* client.take("publish")
        yield* client.ack("puback", 1)
        yield* broker.expectViolation("PI-09p")
        assert.deepStrictEqual(broker.sessions.map((session) => session.unacked), [1])
        yield* client.ack("pubrec", 98)
        yield* broker.expectViolation("PI-04b")
        assert.strictEqual((yield* client.take("pubrel"))["reasonCode"], 0x92)
      })))

    it.effect("OR-02c, OR-03c: acks out of order", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected()
        yield* client.send(subscribe(1))
        yield* client.take("suback")
        for (const qos of [1, 1, 2, 2] as const) yield* broker.publish({ topic: "a", qos })
        for (const _ of [1, 2, 3, 4]) yield* client.take("publish")
        // QoS 1 and QoS 2 have an order of their own (OR-06p).
        yield* client.ack("pubrec", 3)
        yield* client.ack("puback", 2)
        yield* broker.expectViolation("OR-02c")
        yield* client.ack("puback", 1)
        yield* client.ack("pubrec", 4)
        yield* broker.settle
        assert.deepStrictEqual(broker.violations, [])
        for (const qos of [2, 2] as const) yield* broker.publish({ topic: "a", qos })
        yield* client.ack("pubrec", 6)
        yield* broker.expectViolation("OR-03c")
      })))

    it.effect("OR-04c: PUBREL out of order", () =>
      run(Effect.gen(function*() {
        const broker = yield* Broker
        const client = yield* connected()
        for (const id of [1, 2]) yield* client.send(publish(id, { qos: 2 }))
        yield* client.take("pubrec")
        yield* client.take("pubrec")
        yield* client.ack("pubrel", 2)
        yield* broker.expectViolation("OR-04c")
      })))
  })

  describe("what comes after a lost connection", () => {
    /** Three publishes without an answer: QoS 1, QoS 2 without PUBREC, QoS 2 without PUBCOMP. */
    const interrupted = Effect.gen(function*() {
      const broker = yield* Broker
      yield* broker.drop({ from: "broker", type: "Puback" })
      const drop = yield* broker.drop({ from: "broker", type: "Pubrec" })
      const client = yield* connected(persistent)
      yield* client.send(publish(1))
      yield* client.send(publish(2, { qos: 2 }))
      yield* client.send(publish(3, { qos: 2 }))
      yield* client.take("pubrec")
      yield* broker.drop({ from: "client", type: "Pubrel" })
      yield* client.ack("pubrel", 3)
      yield* broker.expectPacket({ from: "client", type: "Pubrel" })
      assert.strictEqual(drop.hits, 1)
      yield* client.abort
      yield* broker.awaitGone("c")
      return broker
    })

    it.effect("a replay as it should be passes (QF-23b)", () =>
      run(Effect.gen(function*() {
        yield* interrupted
        const client = yield* connected(persistent)
        yield* client.ack("pubrel", 3)
        yield* client.send(publish(1, { dup: true }))
        yield* client.send(publish(2, { qos: 2, dup: true }))
        yield* client.send(publish(4))
        yield* client.take("pubcomp")
        assert.strictEqual((yield* client.take("puback"))["messageId"], 1)
        assert.strictEqual((yield* client.take("pubrec"))["messageId"], 2)
        assert.strictEqual((yield* client.take("puback"))["messageId"], 4)
      })))

    const wrong: ReadonlyArray<readonly [row: string, what: string, packets: ReadonlyArray<Json>]> = [
      ["PB-01b", "without DUP", [publish(1)]],
      ["OR-01c", "in another order", [publish(2, { qos: 2, dup: true }), publish(1, { dup: true })]],
      ["OR-05p", "with a new publish before it is done", [publish(1, { dup: true }), publish(4)]],
      ["QF-09b", "of a publish whose PUBREL was sent", [publish(3, { qos: 2, dup: true })]]
    ]
    for (const [row, what, packets] of wrong) {
      it.effect(`${row}: a replay ${what}`, () =>
        run(Effect.gen(function*() {
          const broker = yield* interrupted
          const client = yield* connected(persistent)
          for (const packet of packets) yield* client.send(packet)
          assert.strictEqual((yield* broker.expectViolation()).row, row)
        })))
    }

    it.effect("SS-07c: DUP, or PUBREL, in a new session", () =>
      run(Effect.gen(function*() {
        const broker = yield* interrupted
        yield* broker.restart({ sessions: "lose" })
        const client = yield* connected(persistent)
        yield* client.send(publish(1, { dup: true }))
        yield* broker.expectViolation("SS-07c")
        yield* client.ack("pubrel", 3)
        yield* broker.expectViolation("SS-07c")
      })))
  })

  it.effect("packets that follow a fatal one are ignored (ER-06p)", () =>
    run(Effect.gen(function*() {
      const broker = yield* Broker
      const client = yield* connected()
      yield* client.sendHex("00 00 30 04 00 01 61 00")
      yield* broker.expectViolation("FH-03p")
      yield* broker.expectNoPacket({ from: "client", type: "Publish" })
    })))

  it.effect("any chunking of the stream gives the same packets (FH-05p)", () =>
    run(Effect.gen(function*() {
      const broker = yield* Broker
      const client = yield* dial()
      const bytes = `${connectHex(5, "02", "00 00 01 63")} 30 06 00 01 61 00 78 79 c0 00 e0 00`.split(" ")
      for (const byte of bytes) yield* client.sendHex(byte)
      const fiber = yield* Effect.forkChild(client.end)
      assert.strictEqual(yield* Fiber.join(fiber), "eof")
      assert.deepStrictEqual(
        broker.packetsOf({ from: "client" }).map((entry) => entry.packet._tag),
        ["Connect", "Publish", "Pingreq", "Disconnect"]
      )
    })))
})
