import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Redacted, Schema, Stream } from "effect"
import { inspect } from "node:util"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import * as MqttError from "../../src/services/MqttError.ts"
import { TransportError } from "../../src/services/Transport.ts"
import type { TransportDetail } from "../../src/services/Transport.ts"
import { MemoryNetwork } from "../../src/testing/index.ts"
import { awaitStatus, handshake, open, run, start } from "../support/ScriptedBroker.ts"

const address = "broker:1883"
const cause = new TransportError({ phase: "connect", kind: "refused", address, code: "ECONNREFUSED" })
const refused = (reasonCode: number, protocolVersion: 4 | 5 = 5) =>
  new MqttError.ConnectRefused({ protocolVersion, reasonCode, name: "name" })

const certificate = {
  subject: "CN=other",
  issuer: "CN=authority",
  altNames: "DNS:other",
  validFrom: "Jan  1 00:00:00 2020 GMT",
  validTo: "Jan  1 00:00:00 2021 GMT"
}
const failedDial = (kind: TransportError["kind"], detail: TransportDetail) =>
  MqttError.fromTransportError(new TransportError({ phase: "connect", kind, address, detail }))
const dialReasons: ReadonlyArray<readonly [MqttError.ConnectReason, retryable: boolean, message: RegExp]> = [
  [
    failedDial("tls", { _tag: "Tls", reason: "wrongHost", certificate }),
    false,
    /for another host \(CN=other, issued by CN=authority, for DNS:other\) \(broker:1883/
  ],
  [failedDial("tls", { _tag: "Tls", reason: "expired", certificate }), true, /expired .*to Jan  1 00:00:00 2021 GMT/],
  [failedDial("tls", { _tag: "Tls", reason: "clientCertificateRequired" }), false, /requires a client certificate/],
  [failedDial("websocket", { _tag: "WebSocket", reason: "status", status: 401 }), false, /HTTP status 401/],
  [failedDial("websocket", { _tag: "WebSocket", reason: "status", status: 503 }), true, /HTTP status 503/],
  [failedDial("websocket", { _tag: "WebSocket", reason: "subprotocol" }), false, /subprotocol "mqtt"/],
  [failedDial("websocket", { _tag: "WebSocket", reason: "closed", closeCode: 1008 }), true, /with code 1008/],
  [
    failedDial("proxy", { _tag: "Proxy", reason: "authenticationRequired", proxy: "proxy:8080", status: 407 }),
    false,
    /requires a user name and password \(proxy proxy:8080, status 407\)/
  ],
  [failedDial("proxy", { _tag: "Proxy", reason: "refused", proxy: "proxy:1080" }), true, /\(proxy proxy:1080\)/]
]

describe("MqttError", () => {
  describe("ConnectError", () => {
    const reasons: ReadonlyArray<readonly [MqttError.ConnectReason, retryable: boolean, message: RegExp]> = [
      [refused(0x87), false, /name \(0x87\)$/],
      [refused(0x88), true, /name \(0x88\)$/],
      [refused(3, 4), true, /0x03/],
      [refused(5, 4), false, /0x05/],
      [new MqttError.UnsupportedProtocolVersion({ protocolVersion: 5, reasonCode: 0x84 }), false, /5\.0; try .*: 4/],
      [new MqttError.UnsupportedProtocolVersion({ protocolVersion: 4, reasonCode: 1 }), false, /3\.1\.1; try .*: 5/],
      [new MqttError.NameNotResolved({ address, cause }), true, /broker:1883 could not be resolved/],
      [new MqttError.DialFailed({ address, kind: "refused", cause }), true, /refused .*ECONNREFUSED/],
      ...dialReasons,
      [new MqttError.ConnectTimeout({ address, phase: "options", timeoutMillis: 5 }), true, /options .* 5 ms/],
      [new MqttError.ConnectTimeout({ address, phase: "dial", timeoutMillis: 5 }), true, /not open after 5 ms/],
      [new MqttError.ConnectTimeout({ address, phase: "connack", timeoutMillis: 5 }), true, /not answered CONNECT/],
      [new MqttError.ClosedBeforeConnack({ address }), true, /closed the connection before answering CONNECT$/],
      [new MqttError.ClosedBeforeConnack({ address, reasonCode: 0x8b }), true, /\(DISCONNECT 0x8b\)$/],
      [
        new MqttError.ProtocolError({ packet: "CONNACK", field: "f", rule: "r", reasonCode: 0x82 }),
        true,
        /CONNACK: f: r \(0x82\)/
      ],
      [new MqttError.ForeignSession({ clientId: "c" }), false, /"c".*foreignSession/],
      [new MqttError.InvalidOptions({ option: "will.topic", problem: "p" }), false, /"will.topic" is not valid: p/],
      [new MqttError.OptionsUnavailable({ cause: "no" }), true, /effect that gives the options/],
      [new MqttError.ConnectInterrupted({ by: "pause" }), false, /ended by pause/],
      [
        new MqttError.SessionStoreError({ operation: "open", kind: "locked", store: "s.db", detail: "in use" }),
        false,
        /session store s\.db failed \(open, locked\): in use/
      ],
      [
        new MqttError.SessionStoreError({ operation: "commit", kind: "full", store: "s.db", detail: "no room" }),
        true,
        /\(commit, full\)/
      ],
      [new MqttError.AuthenticationFailed({ method: "M", problem: "respond" }), true, /by M failed: a challenge/],
      [
        new MqttError.AuthenticationFailed({ method: "M", problem: "verify" }),
        false,
        /by M failed: the server could not/
      ],
      [new MqttError.TooManyRedirects({ servers: ["a", "b"] }), true, /from one to the next: a, b$/],
      [
        new MqttError.AllEndpointsFailed({
          failures: [{ endpoint: "mqtt://a:1", reason: refused(0x87) }, {
            endpoint: "mqtt://b:1",
            reason: refused(0x88)
          }]
        }),
        true,
        /mqtt:\/\/a:1: .*0x87.*; mqtt:\/\/b:1: .*0x88/
      ],
      [
        new MqttError.AllEndpointsFailed({ failures: [{ endpoint: "mqtt://a:1", reason: refused(0x87) }] }),
        false,
        /0x87/
      ]
    ]
    for (const [reason, retryable, message] of reasons) {
      it(`${reason._tag}: ${reason.message}`, () => {
        const error = new MqttError.ConnectError({ reason })
        assert.strictEqual(error.retryable, retryable)
        assert.strictEqual(error.reason.retryable, retryable)
        assert.match(error.message, message)
        assert.instanceOf(error, Error)
      })
    }

    it("knows every reason that the union has", () => {
      const known = new Set<string>(reasons.map(([reason]) => reason._tag))
      const all = MqttError.ConnectReason.members.map((member) => member.fields._tag.schema.literal)
      assert.deepStrictEqual([...known].sort(), [...all].sort())
    })

    it("survives a trip over a wire, as data", () => {
      const codec = Schema.toCodecJson(MqttError.ConnectError)
      for (const [reason] of reasons) {
        const json = JSON.stringify(Schema.encodeSync(codec)(new MqttError.ConnectError({ reason })))
        const back = Schema.decodeSync(codec)(JSON.parse(json))
        assert.instanceOf(back, MqttError.ConnectError)
        assert.strictEqual(back.reason._tag, reason._tag)
        assert.strictEqual(back.message, new MqttError.ConnectError({ reason }).message)
        assert.strictEqual(back.retryable, reason.retryable)
      }
    })

    it("quotes the server's words and keeps its reference", () => {
      const reason = new MqttError.ConnectRefused({
        protocolVersion: 5,
        reasonCode: 0x9d,
        name: "Server moved",
        reasonString: "to the north",
        serverReference: "a:1883 [::1]:1884"
      })
      assert.include(new MqttError.ConnectError({ reason }).message, "to the north")
      assert.strictEqual(reason.serverReference, "a:1883 [::1]:1884")
    })
  })

  describe("catching", () => {
    // The types are half of these tests: an error that is caught is gone from the type.
    it.effect("takes an error by its tag", () =>
      Effect.gen(function*() {
        const program: Effect.Effect<never, MqttError.ConnectError | MqttError.PublishError> = Effect.fail(
          new MqttError.ConnectError({ reason: refused(0x87) })
        )
        const caught: Effect.Effect<number, MqttError.PublishError> = program.pipe(
          Effect.catchTag("ConnectError", (error) =>
            Effect.succeed(error.reason._tag === "ConnectRefused" ? error.reason.reasonCode : 0))
        )
        assert.strictEqual(yield* caught, 0x87)
      }))

    it.effect("takes one reason of an error, and leaves the others in it", () =>
      Effect.gen(function*() {
        const fail = (reason: MqttError.PublishReason): Effect.Effect<string, MqttError.PublishError> =>
          Effect.fail(new MqttError.PublishError({ topic: "a", phase: "queued", reason }))
        const caught = (reason: MqttError.PublishReason) =>
          fail(reason).pipe(
            Effect.catchReason(
              "PublishError",
              "OutboxFull",
              (full) => Effect.succeed(`${full.strategy} ${full.maxMessages}`)
            )
          )
        const full = new MqttError.OutboxFull({ strategy: "fail", maxMessages: 7, maxBytes: 1 })
        assert.strictEqual(yield* caught(full), "fail 7")
        const other = yield* Effect.flip(caught(new MqttError.Offline()))
        assert.strictEqual(other.reason._tag, "Offline")
      }))

    it.effect("takes reasons of subscriptions and pings alike", () =>
      Effect.gen(function*() {
        const name = "Not authorized"
        const subscribing: Effect.Effect<string, MqttError.SubscribeError> = Effect.fail(
          new MqttError.SubscribeError({
            reason: new MqttError.SubscriptionRefused({ filter: "a/#", reasonCode: 0x87, name })
          })
        )
        const pinging: Effect.Effect<string, MqttError.PingError> = Effect.fail(
          new MqttError.PingError({ reason: new MqttError.Offline() })
        )
        assert.strictEqual(
          yield* Effect.catchReason(subscribing, "SubscribeError", "SubscriptionRefused", (reason) =>
            Effect.succeed(reason.filter)),
          "a/#"
        )
        assert.strictEqual(
          yield* Effect.catchReason(pinging, "PingError", "Offline", () =>
            Effect.succeed("no link")),
          "no link"
        )
      }))
  })

  describe("LinkLost", () => {
    it("CN-33s: takes the loss for final where trying again is a fight or a waste", () => {
      const retryable = (reasonCode: number) => new MqttError.ServerDisconnected({ reasonCode, name: "" }).retryable
      for (const code of [0x8a, 0x9d]) assert.isFalse(retryable(code), code.toString(16))
      for (const code of [0x00, 0x80, 0x82, 0x89, 0x8b, 0x8d, 0x93, 0x97, 0x98, 0x9c, 0x9f, 0xa0]) {
        assert.isTrue(retryable(code), code.toString(16))
      }
      assert.isTrue(new MqttError.TransportLost({ cause }).retryable)
      assert.isTrue(new MqttError.KeepAliveTimeout({ keepAliveMillis: 1, pingTimeoutMillis: 1 }).retryable)
      assert.isTrue(new MqttError.WriteBlocked({ blockedMillis: 1 }).retryable)
    })
  })

  describe("messages", () => {
    it("say what happened and what to do about it", () => {
      const halted = new MqttError.ClientHalted({ cause: new MqttError.ConnectError({ reason: refused(0x87) }) })
      const table: ReadonlyArray<readonly [Error, RegExp]> = [
        [new MqttError.InvalidMessage({ field: "topic", problem: "p" }), /"topic" of the message is not valid: p/],
        [new MqttError.PublishRefused({ reasonCode: 0x97, name: "Quota exceeded" }), /Quota exceeded \(0x97\)/],
        [new MqttError.OutboxFull({ strategy: "fail", maxMessages: 7, maxBytes: 9 }), /7 messages, 9 bytes\): fail/],
        [new MqttError.Offline(), /no connection/],
        [new MqttError.DeadlineExceeded({ phase: "written", timeoutMillis: 5 }), /after 5 ms \(written\)/],
        [new MqttError.MessageExpired({ messageExpiryInterval: 5 }), /after 5 s/],
        [new MqttError.SessionLost({ phase: "received" }), /outcome is unknown \(received\)/],
        [new MqttError.PublishAbandoned({ phase: "queued", cause: halted }), /\(queued\): the client is halted/],
        [new MqttError.PacketTooLarge({ size: 9, limit: 5, of: "server" }), /9 bytes .* server \(5 bytes\)/],
        [new MqttError.NotSupportedByServer({ feature: "retain", detail: "d" }), /does not support this: d/],
        [new MqttError.InvalidSubscription({ field: "filter", problem: "p" }), /"filter" of the subscription/],
        [new MqttError.SubscriptionRefused({ filter: "a/#", reasonCode: 0x87, name: "n" }), /"a\/#": n \(0x87\)/],
        [new MqttError.SubscriptionOverflow({ capacity: 5 }), /buffer of 5 messages/],
        [halted, /is halted \(the server refused .*resume or reconnect/],
        [new MqttError.ClientClosed(), /scope of the client is closed/],
        [new MqttError.DisconnectRequested(), /disconnect was called/],
        [new MqttError.KeepAliveTimeout({ keepAliveMillis: 1, pingTimeoutMillis: 7 }), /within 7 ms of a PINGREQ/],
        [new MqttError.WriteBlocked({ blockedMillis: 7 }), /for 7 ms: the link is half-open/],
        [new MqttError.ServerDisconnected({ reasonCode: 0x8e, name: "Session taken over" }), /taken over \(0x8e\)/],
        [new MqttError.TransportLost({ cause }), /refused \(broker:1883, connect, ECONNREFUSED\)/]
      ]
      for (const [error, message] of table) assert.match(error.message, message)
      const publish = new MqttError.PublishError({ topic: "a/b", phase: "queued", reason: new MqttError.Offline() })
      assert.match(publish.message, /^publish to "a\/b" failed: there is no connection/)
    })
  })
})

// ---------------------------------------------------------------------------
// secrets
// ---------------------------------------------------------------------------

const secret = "hunter2-correct-horse"

/** Everything that a log could show of a value. */
const everything = (value: unknown): string =>
  [
    String(value),
    inspect(value, { depth: 20, showHidden: true, getters: true, maxStringLength: null, maxArrayLength: null }),
    JSON.stringify(value),
    value instanceof Error ? `${value.name}: ${value.message}\n${value.stack}` : "",
    Cause.pretty(Cause.fail(value)),
    inspect(Exit.fail(value), { depth: 20, showHidden: true })
  ].join("\n").replace(/\s+/g, " ")

/** The secret in every shape in which it could leak. */
const shapes = [
  secret,
  Buffer.from(secret).toString("base64"),
  Buffer.from(secret).toString("hex"),
  Buffer.from(secret).toString("hex").replace(/../g, "$& ").trim(),
  Array.from(Buffer.from(secret)).join(", "),
  // What the columns of `inspect` show of it.
  Array.from(Buffer.from(secret)).slice(0, 4).join(", "),
  Array.from(Buffer.from(secret)).join(",")
]

const assertSilent = (value: unknown) => {
  const shown = everything(value)
  for (const shape of shapes) assert.isFalse(shown.includes(shape), `the secret is shown:\n${shown}`)
}

const bytes = new TextEncoder().encode(secret)

describe("secrets in errors", () => {
  it("are found by the search, where they are", () => {
    for (const value of [new Error(secret), { a: { b: [bytes] } }, Buffer.from(bytes), { toJSON: () => secret }]) {
      assert.throws(() => assertSilent(value), /the secret is shown/)
    }
    assertSilent(Redacted.make(secret))
  })

  const wrong: ReadonlyArray<readonly [what: string, options: Readonly<Record<string, unknown>>]> = [
    ["a password that is not redacted", { credentials: { username: "u", password: secret } }],
    ["a password that is not redacted, on 3.1.1", { protocolVersion: 4, credentials: { password: secret } }],
    ["a password as bare bytes", { credentials: { password: bytes } }],
    ["a password in an array", { credentials: { password: [secret] } }],
    ["a password in an object", { credentials: { password: { value: secret } } }],
    ["a password of the wrong type, redacted", { credentials: { password: Redacted.make({ value: secret }) } }],
    ["a password with a lone surrogate", { credentials: { password: Redacted.make(`${secret}\ud800`) } }],
    ["a password that is too long", { credentials: { password: Redacted.make(secret.repeat(5000)) } }],
    ["a password without user name", { protocolVersion: 4, credentials: { password: Redacted.make(secret) } }],
    ["a password for credentials", { credentials: secret }],
    ["a redacted password for credentials", { credentials: Redacted.make(secret) }],
    ["a password under another name", { credentials: { pass: secret } }],
    ["a password beside the credentials", { password: secret }],
    ["a password in the URL", { endpoint: `mqtt://alice:${secret}@broker` }],
    ["a password in a URL that is none", { endpoint: `alice ${secret}@broker` }],
    ["a password in the query", { endpoint: `mqtt://broker?password=${secret}` }],
    ["a password in the endpoint", { endpoint: { _tag: "Tcp", host: "broker", port: 1883, password: secret } }],
    ["a password in the endpoint's place", { endpoint: { password: secret } }],
    ["a password beside another mistake", { credentials: { password: Redacted.make(secret) }, keepAlive: "1 day" }],
    ["a payload in a will without topic", { will: { payload: secret } }],
    ["a payload in a will with a wildcard", { will: { topic: "a/#", payload: bytes } }],
    ["a payload in a will that is no UTF-8", { will: { topic: "a", payload: `${secret}\ud800` } }],
    ["user properties that are no pairs", { userProperties: { token: secret } }]
  ]
  for (const [what, options] of wrong) {
    it.effect(`stay out of sight: ${what}`, () =>
      run(Effect.gen(function*() {
        const error = yield* Effect.flip(
          MqttClient.make({ endpoint: "mqtt://broker", ...options } as MqttClient.ClientOptions)
        )
        assert.strictEqual(error.reason._tag, "InvalidOptions")
        assertSilent(error)
      })))
  }

  it.effect("stay out of sight where an effect gives them wrong", () =>
    run(Effect.gen(function*() {
      for (
        const given of [{ password: secret }, { token: secret }, secret, {
          username: 5,
          password: Redacted.make(secret)
        }]
      ) {
        const credentials = Effect.succeed(given) as unknown as Effect.Effect<MqttClient.Credentials>
        assertSilent(yield* Effect.flip(MqttClient.make({ endpoint: "mqtt://broker", credentials })))
        const options = Effect.succeed({ endpoint: "mqtt://broker", credentials: given }) as unknown as Effect.Effect<
          MqttClient.ClientOptions
        >
        assertSilent(yield* Effect.flip(MqttClient.makeEffect(options)))
      }
    })))

  for (const protocolVersion of [4, 5] as const) {
    it.effect(`stay out of sight in every way a connection can fail (version ${protocolVersion})`, () =>
      run(Effect.gen(function*() {
        const network = yield* MemoryNetwork.MemoryNetwork
        const listener = yield* network.listen({ host: "broker" })
        const options: MqttClient.ClientOptions = {
          endpoint: "mqtt://broker",
          protocolVersion,
          credentials: { username: "alice", password: Redacted.make(secret) },
          will: { topic: "w", payload: secret }
        }
        const tags = new Set<string>()
        const fail = Effect.fnUntraced(function*(answer: string) {
          const building = yield* start(Effect.flip(MqttClient.make(options)))
          const peer = yield* handshake(listener, answer)
          yield* peer.fin
          const error = yield* Fiber.join(building)
          tags.add(error.reason._tag)
          assertSilent(error)
        })
        const refusals = protocolVersion === 4
          ? ["20 02 00 04", "20 02 00 01", "20 02 00 09", "20 02 01 00", ""]
          : ["20 03 00 86 00", "20 03 00 84 00", "20 02 00 00", "20 03 01 00 00", "e0 02 87 00", ""]
        for (const answer of refusals) yield* fail(answer)
        for (const fault of ["refused", "unresolved"] as const) {
          yield* network.failDials({}, fault)
          const error = yield* Effect.flip(MqttClient.make(options))
          tags.add(error.reason._tag)
          assertSilent(error)
        }
        assert.isAtLeast(tags.size, 6)
      })))
  }

  it.effect("stay out of sight in the client, its status and its events", () =>
    run(Effect.gen(function*() {
      const { client, network, peer } = yield* open({
        credentials: { username: "alice", password: Redacted.make(secret) },
        will: { topic: "w", payload: secret },
        drainTimeout: 0
      })
      assert.isTrue(peer.connect.endsWith(shapes[3]), "the server gets it")
      const events: Array<unknown> = []
      yield* start(Stream.runForEach(client.events, (event) => Effect.sync(() => events.push(event))))
      yield* start(client.publish({ topic: "a", payload: secret, qos: 1 }))
      yield* peer.readFrame
      assertSilent(client)
      assertSilent(yield* client.status)
      assertSilent(yield* client.stats)
      yield* peer.sendHex("00")
      assertSilent(yield* awaitStatus(client, "Reconnecting"))
      const invalid = yield* Effect.flip(client.reconnect((options) => ({ ...options, keepAlive: "1 day" })))
      assertSilent(invalid)
      yield* network.settle
      assert.isAtLeast(events.length, 1)
      assertSilent(events)
    })))

  it.effect("stay out of sight in the failure of a publish", () =>
    run(Effect.gen(function*() {
      const { client } = yield* open()
      for (
        const message of [
          { topic: "a/#", payload: secret },
          { topic: "a", payload: `${secret}\ud800` },
          { topic: "a", payload: bytes, correlationData: new Uint8Array(70_000) },
          { topic: "a", payload: secret, userProperties: [["token", `${secret}\0`]] as Array<[string, string]> }
        ]
      ) {
        const error = yield* Effect.flip(client.publish(message))
        assert.strictEqual(error.reason._tag, "InvalidMessage")
        assertSilent(error)
      }
    })))
})
