import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted, Result, Schedule } from "effect"
import { inspect } from "node:util"
import * as ResolvedOptions from "../../src/services/ResolvedOptions.ts"
import type { ClientOptions } from "../../src/services/ClientOptions.ts"
import * as Endpoint from "../../src/services/Endpoint.ts"

/** Options as a program without types could give them. */
type Loose = Readonly<Record<string, unknown>>

const resolve = (options: Loose | Partial<ClientOptions> = {}) =>
  ResolvedOptions.resolve({ endpoint: "mqtt://broker", ...options } as ClientOptions)

const resolved = (options?: Loose | Partial<ClientOptions>) => Result.getOrThrow(resolve(options))

const refusal = (result: Result.Result<unknown, { readonly option: string; readonly problem: string }>) =>
  Result.match(result, {
    onFailure: ({ option, problem }) => ({ option, problem }),
    onSuccess: () => ({ option: "(accepted)", problem: "" })
  })

/** Nothing in it can be changed any more, however deep; bytes cannot be frozen. */
const deepFreeze = <A>(value: A): A => {
  if (typeof value === "object" && value !== null && !ArrayBuffer.isView(value) && !Object.isFrozen(value)) {
    Object.freeze(value)
    Object.values(value).forEach(deepFreeze)
  }
  return value
}

const long = "x".repeat(65536)
const share = "$share/g/a"

describe("ResolvedOptions", () => {
  const reconnectDefaults = {
    isRetryable: undefined,
    takeover: { delayMillis: 30_000, limit: 2, withinMillis: 600_000 }
  }

  describe("defaults", () => {
    it("are those that the options document", () => {
      assert.deepStrictEqual(resolved(), {
        endpoint: Endpoint.tcp("broker", 1883),
        group: undefined,
        endpoints: [{ endpoint: Endpoint.tcp("broker", 1883), group: undefined, credentials: undefined }],
        order: "inOrder",
        afterLoss: "sticky",
        redirect: "ignore",
        authentication: undefined,
        refresh: { beforeMillis: undefined, jitterMillis: undefined, everyMillis: undefined },
        protocolVersion: 5,
        clientId: undefined,
        cleanStart: true,
        sessionExpiry: 0,
        foreignSession: "adopt",
        keepAlive: 60,
        pingTimeoutMillis: undefined,
        connectTimeoutMillis: 10_000,
        disconnectTimeoutMillis: 2_000,
        drainTimeoutMillis: 5_000,
        credentials: undefined,
        will: undefined,
        receiveMaximum: 256,
        onReceiveMaximumExceeded: "disconnect",
        maximumUnacknowledgedBytes: 64 * 1024 * 1024,
        unclaimed: "ack",
        sendMaximum: 1_000,
        maximumPacketSize: 16 * 1024 * 1024,
        topicAliasMaximum: 0,
        subscriptionIdentifiers: true,
        requestResponseInformation: false,
        requestProblemInformation: true,
        userProperties: [],
        reconnect: { schedule: undefined, stableAfterMillis: 30_000, ...reconnectDefaults },
        firstConnect: "fail",
        outbox: { maxMessages: 1_000, maxBytes: 16 * 1024 * 1024, strategy: "suspend", qos0Offline: "queue" },
        onSessionLost: { qos1: "republish", qos2: "fail" },
        subscriptions: [],
        willOnFailure: false
      })
    })

    it("of an endpoint by its URL are shared by all who give the same, and with nobody who gives another", () => {
      const [one, same, other] = ["mqtt://a", "mqtt://a", "mqtt://b"].map((endpoint) => resolved({ endpoint }))
      assert.strictEqual(same!.endpoint, one!.endpoint)
      assert.deepStrictEqual(other!.endpoint, Endpoint.tcp("b", 1883))
      assert.deepStrictEqual([one, same, other].map((it) => ResolvedOptions.urlOf(it!.endpoint)), [
        "mqtt://a:1883",
        "mqtt://a:1883",
        "mqtt://b:1883"
      ])
      const secret = "wss://a/mqtt?token=1"
      assert.notStrictEqual(resolved({ endpoint: secret }).endpoint, resolved({ endpoint: secret }).endpoint)
    })

    it("stand in for every option that is undefined", () => {
      // Most of them are not its own.
      const all: Array<string> = []
      for (const name in resolved()) all.push(name)
      const names = all.map((name) => name.replace(/Millis$/, "")).filter((name) =>
        !["endpoint", "endpoints", "group", "order", "afterLoss"].includes(name)
      ).concat("failover")
      const options = Object.fromEntries(names.map((name) => [name, undefined]))
      assert.deepStrictEqual(resolved(options), resolved())
    })
  })

  describe("units", () => {
    it("round the keep alive up to whole seconds, so that 500 ms encode 1 and never 0", () => {
      const seconds = (keepAlive: ClientOptions["keepAlive"]) => resolved({ keepAlive }).keepAlive
      assert.strictEqual(seconds("500 millis"), 1)
      assert.strictEqual(seconds("1 second"), 1)
      assert.strictEqual(seconds(1001), 2)
      assert.strictEqual(seconds(0), 0)
      assert.strictEqual(seconds("65535 seconds"), 65535)
    })

    it("CN-26p: round the session expiry up to whole seconds, and make for ever what four bytes cannot hold", () => {
      const seconds = (sessionExpiry: ClientOptions["sessionExpiry"]) => resolved({ sessionExpiry }).sessionExpiry
      assert.strictEqual(seconds(0), 0)
      assert.strictEqual(seconds("1 millis"), 1)
      assert.strictEqual(seconds("1 hour"), 3600)
      assert.strictEqual(seconds("4294967294 seconds"), 0xfffffffe)
      assert.strictEqual(seconds("4294967295 seconds"), 0xffffffff)
      assert.strictEqual(seconds("4294967296 seconds"), 0xffffffff)
      assert.strictEqual(seconds("Infinity"), 0xffffffff)
    })

    it("round the will's delay up to whole seconds", () => {
      const delay = (input: NonNullable<ClientOptions["will"]>["delay"]) =>
        resolved({ will: { topic: "a", delay: input } }).will?.properties?.willDelayInterval
      assert.strictEqual(delay(0), undefined)
      assert.strictEqual(delay(1), 1)
      assert.strictEqual(delay("90 seconds"), 90)
    })

    it("keep milliseconds elsewhere", () => {
      const options = resolved({
        pingTimeout: "1500 millis",
        connectTimeout: 1,
        disconnectTimeout: 0,
        drainTimeout: 0,
        reconnect: { stableAfter: "2 minutes" }
      })
      assert.strictEqual(options.pingTimeoutMillis, 1500)
      assert.strictEqual(options.connectTimeoutMillis, 1)
      assert.strictEqual(options.disconnectTimeoutMillis, 0)
      assert.strictEqual(options.drainTimeoutMillis, 0)
      assert.deepStrictEqual(options.reconnect, {
        ...reconnectDefaults,
        schedule: undefined,
        stableAfterMillis: 120_000
      })
    })
  })

  // law 13
  describe("refuses by name", () => {
    const cases: ReadonlyArray<readonly [option: string, problem: RegExp, options: Loose]> = [
      ["endpoint", /known schemes are mqtt:\/\/, tcp:\/\//, { endpoint: "http://broker" }],
      ["endpoint", /not a URL/, { endpoint: "broker" }],
      ["endpoint", /credentials/, { endpoint: "mqtt://a:b@broker" }],
      ["endpoint", /missing/, { endpoint: undefined }],
      ["endpoints", /together with "endpoint"/, { endpoints: ["mqtt://a"] }],
      ["endpoints", /at least 1/, { endpoint: undefined, endpoints: [] }],
      ["endpoints.1", /known schemes/, { endpoint: undefined, endpoints: ["mqtt://a", "x://b"] }],
      ["endpoints.0", /credentials/, { endpoint: undefined, endpoints: ["mqtt://a:b@c"] }],
      ["endpoints.0", /Expected/, { endpoint: undefined, endpoints: [1] }],
      ["endpoints.0.port", /between 1 and 65535/, { endpoint: undefined, endpoints: [Endpoint.tcp("a", 0)] }],
      ["endpoints.0.endpoint", /not a URL/, { endpoint: undefined, endpoints: [{ endpoint: "a" }] }],
      ["endpoints.0.group", /length/, { endpoint: undefined, endpoints: [{ endpoint: "mqtt://a", group: "" }] }],
      ["endpoints.0.grup", /excess/, { endpoint: undefined, endpoints: [{ endpoint: "mqtt://a", grup: "x" }] }],
      [
        "endpoints.0.credentials.username",
        /Expected/,
        { endpoint: undefined, endpoints: [{ endpoint: "mqtt://a", credentials: { username: 1 } }] }
      ],
      ["failover.order", /Expected/, { failover: { order: "random" } }],
      ["failover.afterLoss", /Expected/, { failover: { afterLoss: "first" } }],
      ["redirect", /Expected/, { redirect: true }],
      ["refresh.before", /not negative/, { refresh: { before: -1 } }],
      ["refresh.jitter", /not negative/, { refresh: { jitter: "x" } }],
      ["refresh.every", /not negative/, { refresh: { every: Number.NaN } }],
      ["credentials.expiresIn", /not negative/, { credentials: { expiresIn: -1 } }],
      ["credentials.expiresAt", /DateTime/, { credentials: { expiresAt: "tomorrow" } }],
      ["credentials.expiresAt", /DateTime/, { credentials: { expiresAt: new Date(Number.NaN) } }],
      ["reconnect.isRetryable", /function/, { reconnect: { isRetryable: true } }],
      ["reconnect.takeover.limit", /whole number/, { reconnect: { takeover: { limit: 0 } } }],
      ["reconnect.takeover.delay", /not negative/, { reconnect: { takeover: { delay: -1 } } }],
      ["endpoint", /Expected/, { endpoint: { _tag: "Udp", host: "a", port: 1 } }],
      ["endpoint.port", /between 1 and 65535/, { endpoint: Endpoint.tcp("a", 0) }],
      ["endpoint.host", /name of a host/, { endpoint: Endpoint.tcp("") }],
      ["protocolVersion", /4 \| 5/, { protocolVersion: 3 }],
      ["clientId", /string/, { clientId: 5 }],
      ["clientId", /U\+0000/, { clientId: "a\0" }],
      ["clientId", /lone surrogate/, { clientId: "\ud800" }],
      ["clientId", /65535 bytes/, { clientId: long }],
      ["clientId", /cleanStart: false/, { cleanStart: false }],
      ["cleanStart", /boolean/, { cleanStart: 1 }],
      ["sessionExpiry", /duration/, { sessionExpiry: "soon" }],
      ["foreignSession", /"adopt" \| "fail" \| "cleanStart"/, { foreignSession: "keep" }],
      ["keepAlive", /65,535 seconds/, { keepAlive: "65536 seconds" }],
      ["keepAlive", /65,535 seconds/, { keepAlive: 65_535_001 }],
      ["keepAlive", /65,535 seconds/, { keepAlive: "Infinity" }],
      ["keepAlive", /duration/, { keepAlive: Number.NaN }],
      ["pingTimeout", /longer than 0/, { pingTimeout: 0 }],
      ["connectTimeout", /longer than 0/, { connectTimeout: 0 }],
      ["credentials", /object/, { credentials: "alice" }],
      ["credentials", /object/, { credentials: Redacted.make("hunter2") }],
      ["credentials.username", /string/, { credentials: { username: 5 } }],
      ["credentials.username", /U\+0000/, { credentials: { username: "a\0" } }],
      ["credentials.password", /Redacted/, { credentials: { password: "hunter2" } }],
      ["credentials.password", /Redacted/, { credentials: { password: Redacted.make(5) } }],
      ["credentials.password", /65,535 bytes/, { credentials: { password: Redacted.make(long) } }],
      ["credentials.password", /65,535 bytes/, { credentials: { password: Redacted.make("é".repeat(32768)) } }],
      ["credentials.password", /65,535 bytes/, { credentials: { password: Redacted.make(new Uint8Array(65536)) } }],
      ["credentials.password", /lone surrogate/, { credentials: { password: Redacted.make("a\ud800") } }],
      ["credentials.pass", /excess/, { credentials: { pass: "hunter2" } }],
      ["will.topic", /Missing/, { will: {} }],
      ["will.qos", /0 \| 1 \| 2/, { will: { topic: "a", qos: 3 } }],
      ["will.retain", /boolean/, { will: { topic: "a", retain: 1 } }],
      ["will.payload", /Uint8Array/, { will: { topic: "a", payload: 5 } }],
      ["will.payload", /lone surrogate/, { will: { topic: "a", payload: "\ud800" } }],
      ["will.payload", /65,535 bytes/, { will: { topic: "a", payload: new Uint8Array(65536) } }],
      ["will.delay", /4,294,967,295/, { will: { topic: "a", delay: "Infinity" } }],
      ["will.responseTopic", /wildcard/, { will: { topic: "a", responseTopic: "+" } }],
      ["will.correlationData", /65,535 bytes/, { will: { topic: "a", correlationData: new Uint8Array(65536) } }],
      ["will.messageExpiryInterval", /between/, { will: { topic: "a", messageExpiryInterval: -1 } }],
      ["will.userProperties.0.1", /U\+0000/, { will: { topic: "a", userProperties: [["a", "\0"]] } }],
      ["will.body", /excess/, { will: { topic: "a", body: "b" } }],
      ["receiveMaximum", /between 1 and 65535/, { receiveMaximum: 0 }],
      ["receiveMaximum", /between 1 and 65535/, { receiveMaximum: 65536 }],
      ["receiveMaximum", /integer/, { receiveMaximum: 1.5 }],
      ["onReceiveMaximumExceeded", /"disconnect" \| "accept"/, { onReceiveMaximumExceeded: "drop" }],
      ["sendMaximum", /between 1 and 65535/, { sendMaximum: 0 }],
      ["sendMaximum", /between 1 and 65535/, { sendMaximum: 65536 }],
      ["maximumPacketSize", /between 64 and 268435460/, { maximumPacketSize: 63 }],
      ["maximumPacketSize", /between 64 and 268435460/, { maximumPacketSize: 268_435_461 }],
      ["topicAliasMaximum", /between 0 and 65535/, { topicAliasMaximum: -1 }],
      ["topicAliasMaximum", /between 0 and 65535/, { topicAliasMaximum: 65536 }],
      ["userProperties", /array/, { userProperties: { a: "b" } }],
      ["userProperties.1.0", /lone surrogate/, { userProperties: [["a", "b"], ["\udc00", "b"]] }],
      ["reconnect", /false/, { reconnect: true }],
      ["reconnect.schedule", /Schedule/, { reconnect: { schedule: 5 } }],
      ["reconnect.retries", /excess/, { reconnect: { retries: 5 } }],
      ["firstConnect", /"fail" \| "retry"/, { firstConnect: "wait" }],
      ["outbox.maxMessages", /between 1/, { outbox: { maxMessages: 0 } }],
      ["outbox.maxBytes", /between 1/, { outbox: { maxBytes: 0 } }],
      ["outbox.strategy", /"suspend"/, { outbox: { strategy: "block" } }],
      ["outbox.qos0Offline", /"queue" \| "fail"/, { outbox: { qos0Offline: "drop" } }],
      ["outbox.size", /excess/, { outbox: { size: 1 } }],
      ["onSessionLost.qos1", /"republish" \| "fail"/, { onSessionLost: { qos1: "drop" } }],
      ["onSessionLost.qos2", /"republish" \| "fail"/, { onSessionLost: { qos2: "drop" } }],
      ["subscriptions", /array/, { subscriptions: {} }],
      ["subscriptions.0.filter", /behind "#"/, { subscriptions: [{ filter: "a/#/b" }] }],
      ["subscriptions.1.filter", /at least one character/, { subscriptions: [{ filter: "a" }, { filter: "" }] }],
      ["subscriptions.1.filter", /declared twice/, { subscriptions: [{ filter: "a" }, { filter: "a", qos: 1 }] }],
      ["subscriptions.0.noLocal", /shared/, { subscriptions: [{ filter: share, noLocal: true }] }],
      ["subscriptions.0.qos", /0 \| 1 \| 2/, { subscriptions: [{ filter: "a", qos: 3 }] }],
      ["subscriptions.0.retainHandling", /"sendIfNew"/, { subscriptions: [{ filter: "a", retainHandling: 1 }] }],
      ["willOnFailure", /boolean/, { willOnFailure: "yes" }],
      ["keepalive", /excess/, { keepalive: 60 }]
    ]
    for (const [option, problem, options] of cases) {
      it(`${option}: ${inspect(options, { depth: 2, breakLength: Infinity, maxStringLength: 12, maxArrayLength: 2 })}`, () => {
        const found = refusal(resolve(options))
        assert.strictEqual(found.option, option)
        assert.match(found.problem, problem)
      })
    }

    it("what is not even an object", () => {
      for (const options of [undefined, null, 5, "mqtt://broker", []]) {
        assert.strictEqual(refusal(ResolvedOptions.resolve(options as never)).option, "options")
      }
    })

    it("every duration that is negative", () => {
      const names = ["sessionExpiry", "keepAlive", "pingTimeout", "connectTimeout", "disconnectTimeout", "drainTimeout"]
      for (const name of names) {
        for (const input of [-1, "-1 second", "-Infinity"]) {
          assert.strictEqual(refusal(resolve({ [name]: input })).option, name, `${name}: ${input}`)
        }
      }
      assert.strictEqual(refusal(resolve({ will: { topic: "a", delay: -1 } })).option, "will.delay")
      assert.strictEqual(refusal(resolve({ reconnect: { stableAfter: -1 } })).option, "reconnect.stableAfter")
    })

    it("CN-23c: a will topic that is empty, or has a wildcard or U+0000", () => {
      for (const topic of ["", "a/#", "+/a", "a\0"]) {
        assert.strictEqual(refusal(resolve({ will: { topic } })).option, "will.topic", JSON.stringify(topic))
      }
    })

    it("CN-25p: a will payload that is marked as UTF-8 and is not", () => {
      const will = { topic: "a", payloadFormat: "utf8", payload: Uint8Array.of(0xff) }
      assert.strictEqual(refusal(resolve({ will })).option, "will.payload")
      assert.isTrue(Result.isSuccess(resolve({ will: { ...will, payloadFormat: "bytes" } })))
    })

    it("CN-14c: a password without a user name, on 3.1.1 only", () => {
      const credentials = { password: Redacted.make("hunter2") }
      assert.strictEqual(refusal(resolve({ protocolVersion: 4, credentials })).option, "credentials.username")
      assert.isTrue(Result.isSuccess(resolve({ protocolVersion: 5, credentials })))
      assert.isTrue(Result.isSuccess(resolve({ protocolVersion: 4, credentials: { ...credentials, username: "" } })))
    })

    it("CN-20c: an empty client id with a session that is kept, on 3.1.1 only", () => {
      for (const options of [{ cleanStart: false }, { sessionExpiry: "1 hour" }]) {
        assert.strictEqual(refusal(resolve({ protocolVersion: 4, clientId: "", ...options })).option, "clientId")
        assert.isTrue(Result.isSuccess(resolve({ protocolVersion: 5, clientId: "", ...options })))
      }
      assert.isTrue(Result.isSuccess(resolve({ protocolVersion: 4, clientId: "" })))
    })

    it("CN-27p: a limit of 0 for what the server may send", () => {
      for (const name of ["receiveMaximum", "maximumPacketSize"]) {
        assert.strictEqual(refusal(resolve({ [name]: 0 })).option, name)
      }
    })

    it("CN-28p: anything but a boolean for the two request flags", () => {
      for (const name of ["requestResponseInformation", "requestProblemInformation"]) {
        for (const value of [0, 1, 2, "true", null]) {
          assert.strictEqual(refusal(resolve({ [name]: value })).option, name, `${name}: ${value}`)
        }
      }
    })
  })

  describe("accepts", () => {
    it("CN-19s: client ids longer than 23 bytes and with any character", () => {
      assert.strictEqual(resolved({ clientId: "é/ ".repeat(100) }).clientId, "é/ ".repeat(100))
    })

    it("each limit at its ends", () => {
      const smallest = { receiveMaximum: 1, sendMaximum: 1, maximumPacketSize: 64, topicAliasMaximum: 0 }
      const largest = {
        receiveMaximum: 65535,
        sendMaximum: 65535,
        maximumPacketSize: 268_435_460,
        topicAliasMaximum: 65535
      }
      for (const limits of [smallest, largest]) assert.deepInclude(resolved(limits), limits)
    })

    it("a password as bytes, and one of 65,535 bytes", () => {
      for (const password of [Redacted.make(Uint8Array.of(0xff, 0)), Redacted.make("x".repeat(65535))]) {
        assert.deepStrictEqual(resolved({ credentials: { password } }).credentials, { password })
      }
    })

    it("an effect of credentials, which is not run by the check", () => {
      const credentials = Effect.die("must not run")
      assert.strictEqual(resolved({ credentials }).credentials, credentials)
    })

    it("a tagged endpoint, a schedule, and no reconnect at all", () => {
      const schedule = Schedule.spaced("1 second")
      assert.deepStrictEqual(resolved({ endpoint: Endpoint.tcp("::1", 1) }).endpoint, Endpoint.tcp("::1", 1))
      assert.deepStrictEqual(resolved({ reconnect: { schedule } }).reconnect, {
        ...reconnectDefaults,
        schedule,
        stableAfterMillis: 30_000
      })
      assert.strictEqual(resolved({ reconnect: false }).reconnect, false)
    })

    it("durable subscriptions, with the defaults of each", () => {
      const subscriptions = [
        { filter: "a/#" },
        { filter: share, qos: 2, retainHandling: "none", retainAsPublished: true },
        { filter: "b", noLocal: true, retainHandling: "sendIfNew" }
      ] as const
      assert.deepStrictEqual(resolved({ subscriptions }).subscriptions, [
        { filter: "a/#", qos: 0, noLocal: false, retainAsPublished: false, retainHandling: 0 },
        { filter: share, qos: 2, noLocal: false, retainAsPublished: true, retainHandling: 2 },
        { filter: "b", qos: 0, noLocal: true, retainAsPublished: false, retainHandling: 1 }
      ])
    })
  })

  describe("the input", () => {
    const full = () => ({
      endpoint: { _tag: "Tcp" as const, host: "broker", port: 1883 },
      clientId: "c",
      credentials: { username: "alice", password: Redacted.make("hunter2") },
      will: {
        topic: "will",
        payload: "gone",
        userProperties: [["a", "b"] as [string, string]],
        correlationData: Uint8Array.of(1)
      },
      userProperties: [["c", "d"] as [string, string]],
      reconnect: { stableAfter: "1 second" as const },
      outbox: { maxMessages: 5 },
      onSessionLost: { qos1: "fail" as const },
      subscriptions: [{ filter: "a", qos: 1 as const }]
    })

    it("may be frozen to its depth, and is left as it is", () => {
      const options = deepFreeze(full())
      assert.isTrue(Result.isSuccess(resolve(options)))
      assert.deepStrictEqual(options, full())
    })

    it("is not held on to: what is changed later changes nothing", () => {
      const options = full()
      const before = resolved(options)
      const expected = resolved(full())
      options.endpoint.host = "elsewhere"
      options.credentials.username = "mallory"
      options.will.topic = "other"
      options.will.userProperties[0][1] = "changed"
      options.userProperties[0][1] = "changed"
      options.userProperties.push(["e", "f"])
      options.outbox.maxMessages = 1
      options.subscriptions[0].filter = "z"
      options.subscriptions.push({ filter: "y", qos: 1 })
      assert.deepStrictEqual(before, expected)
    })
  })

  describe("checkCredentials", () => {
    it("names what an effect gave wrong", () => {
      const check = (credentials: unknown, version: 4 | 5 = 5) =>
        refusal(ResolvedOptions.checkCredentials(credentials as never, version)).option
      assert.strictEqual(check({ password: "hunter2" }), "credentials.password")
      assert.strictEqual(check({ username: 5 }), "credentials.username")
      assert.strictEqual(check({ user: "alice" }), "credentials.user")
      assert.strictEqual(check(undefined), "credentials")
      assert.strictEqual(check({ password: Redacted.make("hunter2") }, 4), "credentials.username")
      assert.strictEqual(check({}), "(accepted)")
    })
  })
})
