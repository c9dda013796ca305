import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted, Result } from "effect"
import * as Handshake from "../../../src/layers/connection/Handshake.ts"
import type * as MqttClient from "../../../src/layers/MqttClient.ts"
import type * as Packet from "../../../src/protocol/Packet.ts"
import * as PacketCodec from "../../../src/protocol/PacketCodec.ts"
import * as ResolvedOptions from "../../../src/services/ResolvedOptions.ts"
import { Hex } from "../../../src/testing/index.ts"
import { open, run } from "../../support/ScriptedBroker.ts"

type Options = Partial<MqttClient.ClientOptions>

const resolve = (options: Options = {}) =>
  Result.getOrThrow(ResolvedOptions.resolve({ endpoint: "mqtt://broker", ...options }))

/** The bytes of CONNECT. */
const connectBytes = (options: Options, plan: { readonly clientId: string; readonly cleanStart: boolean }) => {
  const resolved = resolve(options)
  const encoder = PacketCodec.makeEncoder({ protocolVersion: resolved.protocolVersion })
  const credentials = resolved.credentials as MqttClient.Credentials | undefined
  assert.isUndefined(encoder.encode(Handshake.toConnect(resolved, credentials ?? {}, plan)))
  return Hex.encode(encoder.take())
}

const plan = (change: Partial<Handshake.SessionPlan> = {}): Handshake.SessionPlan => ({
  clientId: "c",
  cleanStart: true,
  resumes: false,
  discardFirst: false,
  discardOnly: false,
  discarded: false,
  ...change
})

const connack = (change: Partial<Packet.Connack> = {}): Packet.Connack => ({
  _tag: "Connack",
  sessionPresent: false,
  reasonCode: 0,
  properties: undefined,
  ...change
})

const recordOf = (options: Options, clientId: string): Handshake.SessionRecord => ({
  key: Handshake.sessionKey(resolve(options), clientId)
})

describe("Handshake", () => {
  describe("CONNECT", () => {
    const full: Options = {
      clientId: "c1",
      sessionExpiry: "1 hour",
      keepAlive: "30 seconds",
      credentials: { username: "me", password: Redacted.make(Uint8Array.of(0xff, 0)) },
      will: {
        topic: "w",
        payload: "bye",
        qos: 2,
        retain: true,
        delay: "90 seconds",
        messageExpiryInterval: 10,
        contentType: "t",
        responseTopic: "r",
        correlationData: Uint8Array.of(1, 2),
        userProperties: [["k", "v"]]
      },
      receiveMaximum: 10,
      maximumPacketSize: 1000,
      topicAliasMaximum: 5,
      requestResponseInformation: true,
      requestProblemInformation: false,
      userProperties: [["a", "b"], ["a", "c"]]
    }

    it("CN-15c, CN-13c: has every option in its place, byte for byte", () => {
      assert.strictEqual(
        connectBytes(full, { clientId: "c1", cleanStart: true }),
        [
          "10 62 00 04 4d 51 54 54 05", // CONNECT, "MQTT", version 5
          "f6", // user name, password, will retain, will QoS 2, will, clean start
          "00 1e", // keep alive 30
          "22", // 34 bytes of properties
          "11 00 00 0e 10", // session expiry 3600
          "17 00", // no problem information
          "19 01", // response information
          "21 00 0a", // receive maximum 10
          "22 00 05", // topic alias maximum 5
          "26 00 01 61 00 01 62 26 00 01 61 00 01 63", // user properties in their order
          "27 00 00 03 e8", // maximum packet size 1000
          "00 02 63 31", // client id
          "20", // 32 bytes of will properties
          "01 01", // payload is UTF-8
          "02 00 00 00 0a", // message expiry 10
          "03 00 01 74", // content type
          "08 00 01 72", // response topic
          "09 00 02 01 02", // correlation data
          "18 00 00 00 5a", // will delay 90
          "26 00 01 6b 00 01 76", // user property
          "00 01 77", // will topic
          "00 03 62 79 65", // will payload
          "00 02 6d 65", // user name
          "00 02 ff 00" // password
        ].join(" ")
      )
    })

    it("PR-07p: has nothing of 5.0 on 3.1.1", () => {
      assert.strictEqual(
        connectBytes({ ...full, protocolVersion: 4 }, { clientId: "c1", cleanStart: false }),
        "10 1e 00 04 4d 51 54 54 04 f4 00 1e 00 02 63 31 00 01 77 00 03 62 79 65 00 02 6d 65 00 02 ff 00"
      )
    })

    it("CN-07c, CN-09c, CN-10c, CN-12c: leaves out what is not asked for", () => {
      assert.strictEqual(
        connectBytes({ protocolVersion: 4 }, { clientId: "c", cleanStart: true }),
        "10 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 63"
      )
      assert.strictEqual(
        connectBytes({}, { clientId: "c", cleanStart: false }),
        "10 16 00 04 4d 51 54 54 05 00 00 3c 08 21 01 00 27 01 00 00 00 00 01 63"
      )
    })

    it("CN-11c, CN-17c: writes an empty user name and an empty client id as such", () => {
      assert.strictEqual(
        connectBytes({ protocolVersion: 4, credentials: { username: "" } }, { clientId: "", cleanStart: true }),
        "10 0e 00 04 4d 51 54 54 04 82 00 3c 00 00 00 00"
      )
    })

    it("CN-14c: carries a password alone on 5.0", () => {
      const bytes = connectBytes({ credentials: { password: Redacted.make("é") } }, { clientId: "", cleanStart: true })
      assert.match(bytes, /^10 19 00 04 4d 51 54 54 05 42 /)
      assert.match(bytes, / 00 00 00 02 c3 a9$/)
    })

    it("CN-06c: writes an empty will payload, and will properties even where there are none", () => {
      const bytes = connectBytes({ will: { topic: "w" } }, { clientId: "", cleanStart: true })
      assert.match(bytes, / 00 00 00 00 01 77 00 00$/)
    })

    it("CN-26p: leaves an expiry of 0 out, and writes for ever as FF FF FF FF", () => {
      const id = { clientId: "c", cleanStart: true }
      assert.notInclude(connectBytes({ sessionExpiry: 0 }, id), " 11 ")
      assert.include(connectBytes({ sessionExpiry: "Infinity" }, id), " 11 ff ff ff ff ")
    })

    it("CN-08c: has the will's QoS in its flags", () => {
      for (const qos of [0, 1, 2] as const) {
        const bytes = connectBytes({ protocolVersion: 4, will: { topic: "w", qos } }, {
          clientId: "",
          cleanStart: true
        })
        assert.strictEqual(Hex.decode(bytes)[9], 0x06 | qos << 3)
      }
    })

    it.effect("CN-01c: is the first packet of every connection, with the keep alive of the options in seconds", () =>
      run(Effect.gen(function*() {
        const { peer } = yield* open({ keepAlive: "500 millis", clientId: "c" })
        assert.strictEqual(peer.connect, "10 16 00 04 4d 51 54 54 05 02 00 01 08 21 01 00 27 01 00 00 00 00 01 63")
      })))
  })

  describe("planSession", () => {
    const summary = ({ cleanStart, discardFirst, resumes }: Handshake.SessionPlan) => ({
      cleanStart,
      resumes,
      discardFirst
    })
    const planOf = (options: Options, record?: Handshake.SessionRecord) =>
      summary(Handshake.planSession(resolve(options), "c", record))

    it("starts clean once, and resumes later while there is a record", () => {
      const options: Options = { sessionExpiry: "1 hour" }
      assert.deepStrictEqual(planOf(options), { cleanStart: true, resumes: false, discardFirst: false })
      assert.deepStrictEqual(planOf(options, recordOf(options, "c")), {
        cleanStart: false,
        resumes: true,
        discardFirst: false
      })
    })

    it("takes a session as ours without a record where cleanStart is false", () => {
      const options: Options = { clientId: "c", cleanStart: false }
      assert.deepStrictEqual(planOf(options), { cleanStart: false, resumes: false, discardFirst: false })
    })

    it("P17: ignores the record of another server or another client id", () => {
      const options: Options = { sessionExpiry: "1 hour" }
      for (const other of [recordOf({ endpoint: "mqtt://elsewhere" }, "c"), recordOf(options, "d")]) {
        assert.deepStrictEqual(planOf(options, other), { cleanStart: true, resumes: false, discardFirst: false })
      }
      assert.isTrue(
        planOf(options, recordOf({ endpoint: "tcp://broker:1883" }, "c")).resumes,
        "two spellings of one server"
      )
    })

    it("needs a connection that only discards on 3.1.1, where the session is to be kept", () => {
      const keep: Options = { protocolVersion: 4, sessionExpiry: "1 hour" }
      assert.deepStrictEqual(planOf({ protocolVersion: 4 }), { cleanStart: true, resumes: false, discardFirst: false })
      assert.deepStrictEqual(planOf(keep), { cleanStart: false, resumes: false, discardFirst: true })
      assert.deepStrictEqual(planOf(keep, recordOf(keep, "c")), {
        cleanStart: false,
        resumes: true,
        discardFirst: false
      })
      assert.deepStrictEqual(
        planOf({ protocolVersion: 4, cleanStart: false, clientId: "c" }),
        { cleanStart: false, resumes: false, discardFirst: false }
      )
    })
  })

  describe("onConnack", () => {
    const answer = (options: Options, packet: Partial<Packet.Connack>, change: Partial<Handshake.SessionPlan> = {}) =>
      Handshake.onConnack(resolve(options), plan(change), connack(packet))

    const negotiated = (properties: Packet.ConnackProperties | undefined, options: Options = {}) => {
      const outcome = answer(options, { properties })
      assert(outcome._tag === "Accepted")
      return outcome.negotiated
    }

    it("fills in what the standard says where the server says nothing", () => {
      assert.deepStrictEqual(negotiated(undefined), {
        protocolVersion: 5,
        clientId: "c",
        sessionPresent: false,
        sessionExpiryInterval: 0,
        keepAliveMillis: 60_000,
        sendWindow: 1_000,
        maximumQoS: 2,
        retainAvailable: true,
        maximumPacketSize: Infinity,
        topicAliasMaximum: 0,
        wildcardSubscriptionAvailable: true,
        subscriptionIdentifierAvailable: true,
        sharedSubscriptionAvailable: true,
        responseInformation: undefined,
        userProperties: []
      })
    })

    it("takes over what the server says", () => {
      const found = negotiated({
        sessionExpiryInterval: 60,
        receiveMaximum: 5,
        maximumQoS: 1,
        retainAvailable: false,
        maximumPacketSize: 100,
        assignedClientIdentifier: "srv",
        topicAliasMaximum: 3,
        userProperties: [["a", "b"]],
        wildcardSubscriptionAvailable: false,
        subscriptionIdentifierAvailable: false,
        sharedSubscriptionAvailable: false,
        serverKeepAlive: 7,
        responseInformation: "answers/c"
      })
      assert.deepStrictEqual(found, {
        protocolVersion: 5,
        clientId: "srv",
        sessionPresent: false,
        sessionExpiryInterval: 60,
        keepAliveMillis: 7_000,
        sendWindow: 5,
        maximumQoS: 1,
        retainAvailable: false,
        maximumPacketSize: 100,
        topicAliasMaximum: 3,
        wildcardSubscriptionAvailable: false,
        subscriptionIdentifierAvailable: false,
        sharedSubscriptionAvailable: false,
        responseInformation: "answers/c",
        userProperties: [["a", "b"]]
      })
    })

    it("law 9, CK-06p: makes the smaller of both limits the window", () => {
      assert.strictEqual(negotiated({ receiveMaximum: 65535 }, { sendMaximum: 10 }).sendWindow, 10)
      assert.strictEqual(negotiated({ receiveMaximum: 1 }, { sendMaximum: 10 }).sendWindow, 1)
      assert.strictEqual(negotiated(undefined, { sendMaximum: 65535 }).sendWindow, 65535)
    })

    it("CK-23p: lets the server's session expiry win, in either direction", () => {
      assert.strictEqual(negotiated({ sessionExpiryInterval: 0 }, { sessionExpiry: "1 hour" }).sessionExpiryInterval, 0)
      assert.strictEqual(negotiated({ sessionExpiryInterval: 60 }).sessionExpiryInterval, 60)
      assert.strictEqual(negotiated(undefined, { sessionExpiry: "1 hour" }).sessionExpiryInterval, 3600)
      assert.strictEqual(negotiated({ sessionExpiryInterval: 0xffffffff }).sessionExpiryInterval, Infinity)
    })

    it("tells on 3.1.1 whether the session outlives the link, and has nothing of 5.0", () => {
      const kept = negotiated(undefined, { protocolVersion: 4, sessionExpiry: "1 hour" })
      assert.strictEqual(kept.sessionExpiryInterval, Infinity)
      const clean = negotiated(undefined, { protocolVersion: 4 })
      assert.deepInclude(clean, {
        sessionExpiryInterval: 0,
        sharedSubscriptionAvailable: false,
        subscriptionIdentifierAvailable: false
      })
    })

    const outcomeOf = (outcome: Handshake.ConnackOutcome) => {
      switch (outcome._tag) {
        case "Accepted":
          return outcome.negotiated.sessionPresent ? "accepted, session present" : "accepted"
        case "Refused":
          return outcome.reason._tag
        case "Discard":
          return "discard"
        case "Fault":
          return `fault 0x${outcome.fault.reasonCode.toString(16)}`
      }
    }

    const table: ReadonlyArray<
      readonly [
        row: string,
        options: Options,
        change: Partial<Handshake.SessionPlan>,
        packet: Partial<Packet.Connack>,
        string
      ]
    > = [
      ["P1", {}, { cleanStart: true }, {}, "accepted"],
      ["P2", {}, { cleanStart: true }, { sessionPresent: true }, "fault 0x82"],
      ["P3", {}, { cleanStart: false }, {}, "accepted"],
      ["P4, adopt", {}, { cleanStart: false }, { sessionPresent: true }, "accepted, session present"],
      ["P4, fail", { foreignSession: "fail" }, { cleanStart: false }, { sessionPresent: true }, "ForeignSession"],
      ["P4, cleanStart", { foreignSession: "cleanStart" }, { cleanStart: false }, { sessionPresent: true }, "discard"],
      ["P5", {}, { cleanStart: false, resumes: true }, { sessionPresent: true }, "accepted, session present"],
      [
        "P5 whatever foreignSession says",
        { foreignSession: "fail" },
        { cleanStart: false, resumes: true },
        { sessionPresent: true },
        "accepted, session present"
      ],
      ["P7", {}, { cleanStart: false, resumes: true }, {}, "accepted"],
      ["P8", {}, { cleanStart: false, resumes: true }, { reasonCode: 0x88 }, "ConnectRefused"],
      ["P9", {}, { cleanStart: false, resumes: true }, { reasonCode: 0x88, sessionPresent: true }, "ConnectRefused"],
      ["P10", {}, { cleanStart: true }, { reasonCode: 0x88 }, "ConnectRefused"],
      ["Q1", { protocolVersion: 4 }, { cleanStart: true }, {}, "accepted"],
      ["Q2", { protocolVersion: 4 }, { cleanStart: true }, { sessionPresent: true }, "fault 0x82"],
      ["Q3", { protocolVersion: 4 }, { cleanStart: false }, {}, "accepted"],
      [
        "Q4, adopt",
        { protocolVersion: 4 },
        { cleanStart: false },
        { sessionPresent: true },
        "accepted, session present"
      ],
      [
        "Q4, fail",
        { protocolVersion: 4, foreignSession: "fail" },
        { cleanStart: false },
        { sessionPresent: true },
        "ForeignSession"
      ],
      [
        "Q4, cleanStart",
        { protocolVersion: 4, foreignSession: "cleanStart" },
        { cleanStart: false },
        { sessionPresent: true },
        "discard"
      ],
      [
        "Q4, once discarded",
        { protocolVersion: 4 },
        { cleanStart: false, discarded: true },
        { sessionPresent: true },
        "fault 0x82"
      ],
      ["the connection that discards", { protocolVersion: 4 }, { discardOnly: true }, {}, "discard"],
      [
        "the same, but the session is there",
        { protocolVersion: 4 },
        { discardOnly: true },
        { sessionPresent: true },
        "fault 0x82"
      ],
      ["the same, refused", { protocolVersion: 4 }, { discardOnly: true }, { reasonCode: 5 }, "ConnectRefused"],
      [
        "Q5",
        { protocolVersion: 4 },
        { cleanStart: false, resumes: true },
        { sessionPresent: true },
        "accepted, session present"
      ],
      ["Q6, Q8", { protocolVersion: 4 }, { cleanStart: false, resumes: true }, {}, "accepted"],
      ["Q7", { protocolVersion: 4 }, { cleanStart: false, resumes: true }, { reasonCode: 3 }, "ConnectRefused"]
    ]
    for (const [row, options, change, packet, expected] of table) {
      it(`${row}: ${expected}`, () => {
        assert.strictEqual(outcomeOf(answer(options, packet, change)), expected)
      })
    }

    it("CK-16s: wants an assigned client id for an empty one, on 5.0 only", () => {
      assert.strictEqual(outcomeOf(answer({}, {}, { clientId: "" })), "fault 0x82")
      assert.strictEqual(outcomeOf(answer({ protocolVersion: 4 }, {}, { clientId: "" })), "accepted")
      const assigned = { assignedClientIdentifier: "srv" }
      assert.strictEqual(outcomeOf(answer({}, { properties: assigned }, { clientId: "" })), "accepted")
    })

    it("CK-27s: takes no authentication method", () => {
      assert.strictEqual(outcomeOf(answer({}, { properties: { authenticationMethod: "a" } })), "fault 0x82")
    })
  })
})
