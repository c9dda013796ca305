import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Redacted, Result, Stream } from "effect"
import { TestClock } from "effect/testing"
import type { Authentication, AuthenticationExchange } from "../../src/services/Authentication.ts"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import type { ConnectError, ReauthenticateError } from "../../src/services/MqttError.ts"
import * as ResolvedOptions from "../../src/services/ResolvedOptions.ts"
import { MemoryNetwork, TestBroker } from "../../src/testing/index.ts"
import { awaitStatus, handshake, next, open, readToEnd, run, start } from "../support/ScriptedBroker.ts"
import { build, listen, reasonOf, runSteady, statusOf } from "../support/Supervision.ts"

const bytes = (text: string) => new TextEncoder().encode(text)
const text = (data: Uint8Array | undefined) => data === undefined ? undefined : new TextDecoder().decode(data)
const secret = (words: string) => Redacted.make(bytes(words))

/** `hello`, and each challenge answered by itself with an exclamation mark. */
const echo = (rest: Partial<AuthenticationExchange> = {}, method = "ECHO"): Authentication => ({
  method,
  exchange: Effect.succeed({
    data: secret("hello"),
    respond: (challenge) => Effect.succeed(secret(`${text(challenge)}!`)),
    ...rest
  })
})

const hex = (all: ReadonlyArray<number>) => all.map((byte) => byte.toString(16).padStart(2, "0")).join(" ")
const field = (id: number, words: string) => [id, 0, words.length, ...bytes(words)]
const properties = (method: string | undefined, data: string | undefined) => [
  ...(method === undefined ? [] : field(0x15, method)),
  ...(data === undefined ? [] : field(0x16, data))
]

/** AUTH of a server, and of the client. */
const auth = (reasonCode: number, data?: string, method = "ECHO") => {
  const all = properties(method, data)
  return hex([0xf0, all.length + 2, reasonCode, all.length, ...all])
}
const connack = (method?: string, data?: string, reasonCode = 0) => {
  const all = properties(method, data)
  return hex([0x20, all.length + 3, 0, reasonCode, all.length, ...all])
}
const fromClient = (reasonCode: number, data: string) => {
  const all = properties("ECHO", data)
  return hex([0xf0, all.length + 2, reasonCode, all.length, ...all])
}

/** Opens a client whose server says nothing more than success. */
const openEcho = (rest: Partial<AuthenticationExchange> = {}, options: Partial<MqttClient.ClientOptions> = {}) =>
  open({ authentication: echo(rest), keepAlive: 0, ...options }, { connack: connack("ECHO") })

describe("authentication", () => {
  describe("on connecting", () => {
    it.effect("CN-30, AU-06: CONNECT has method and data, challenges are answered with AUTH 0x18, and nothing else goes out", () =>
      run(Effect.gen(function*() {
        const broker = yield* listen()
        const { client } = yield* build({ authentication: echo(), keepAlive: "1 second" })
        const publishing = yield* start(client.publish({ topic: "a" }))
        const peer = yield* broker.accept
        assert.include(yield* next(peer), hex(properties("ECHO", "hello")))
        for (const challenge of ["one", "two"]) {
          yield* TestClock.adjust("2 seconds")
          yield* peer.sendHex(auth(0x18, challenge))
          assert.strictEqual(yield* next(peer), fromClient(0x18, `${challenge}!`))
        }
        yield* peer.sendHex(connack("ECHO", "end"))
        assert.strictEqual((yield* next(peer)).slice(0, 2), "30")
        yield* Fiber.join(publishing)
        assert.strictEqual(yield* statusOf(client), "Connected")
      })))

    it.effect("AU-16p: the data of CONNACK is verified, and what is wrong ends the attempt for good", () =>
      run(Effect.gen(function*() {
        const isRight = (data: Uint8Array | undefined) => text(data) === "right"
        for (const [index, verify] of [isRight, () => assert.fail("mistake"), () => undefined as never].entries()) {
          const broker = yield* listen(`broker${index}`)
          const { client, close } = yield* build({
            endpoint: `mqtt://broker${index}`,
            authentication: echo({ verify })
          })
          const peer = yield* handshake(broker, connack("ECHO", "wrong"))
          const { cause } = yield* awaitStatus(client, "Halted")
          const { reason } = cause as ConnectError
          assert.deepInclude(reason, { _tag: "AuthenticationFailed", method: "ECHO", problem: "verify" })
          assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 01 80"], how: "fin" })
          yield* close
        }
      })))

    it.effect("AU-16p: what is right is accepted", () =>
      run(Effect.gen(function*() {
        const verify = (data: Uint8Array | undefined) => text(data) === "right"
        const { client } = yield* open({ authentication: echo({ verify }) }, { connack: connack("ECHO", "right") })
        assert.strictEqual(yield* statusOf(client), "Connected")
      })))

    for (
      const [name, packet] of [
        ["CONNACK without the method", connack()],
        ["CONNACK with another method", connack("OTHER")],
        ["AUTH 0x00 before CONNACK", auth(0)],
        ["AUTH with another method", auth(0x18, "x", "OTHER")],
        ["AUTH without a method", "f0 02 18 00"],
        ["a second challenge before the first is answered", `${auth(0x18, "x")} ${auth(0x18, "y")}`]
      ] as const
    ) {
      it.effect(`AU-05s, AU-06, AU-08b, AU-14, CK-26s: ${name} is a protocol error`, () =>
        run(Effect.gen(function*() {
          const broker = yield* listen()
          const { client } = yield* build({ authentication: echo() })
          const peer = yield* handshake(broker, packet)
          const { cause } = yield* awaitStatus(client, "Reconnecting")
          assert.strictEqual((cause as ConnectError).reason._tag, "ProtocolError")
          const { packets } = yield* readToEnd(peer)
          assert.include(["e0 01 82", "e0 01 81"], packets.at(-1))
        })))
    }

    for (const code of [0x8c, 0x87, 0x83]) {
      it.effect(`AU-04, AU-07: a refusal by 0x${code.toString(16)}, at once or after a challenge, is one of CONNACK`, () =>
        run(Effect.gen(function*() {
          for (const [index, before] of [[], ["one"]].entries()) {
            const broker = yield* listen(`broker${index}`)
            const { client, close } = yield* build({ endpoint: `mqtt://broker${index}`, authentication: echo() })
            const peer = yield* broker.accept
            yield* next(peer)
            for (const challenge of before) {
              yield* peer.sendHex(auth(0x18, challenge))
              yield* next(peer)
            }
            yield* peer.sendHex(connack(undefined, undefined, code))
            const status = yield* awaitStatus(client, code === 0x83 ? "Reconnecting" : "Halted")
            const { reason } = status.cause as ConnectError
            assert.deepInclude(reason, { _tag: "ConnectRefused", reasonCode: code })
            yield* close
          }
        })))
    }

    it.effect("AU-07: a bare close in the midst of it is a failed attempt", () =>
      run(Effect.gen(function*() {
        const broker = yield* listen()
        const { client } = yield* build({ authentication: echo() })
        const peer = yield* handshake(broker, auth(0x18, "one"))
        yield* next(peer)
        yield* peer.close
        const { cause } = yield* awaitStatus(client, "Reconnecting")
        assert.strictEqual((cause as ConnectError).reason._tag, "ClosedBeforeConnack")
      })))

    for (
      const [problem, authentication] of [
        ["respond", echo({ respond: () => Effect.fail("no") })],
        ["respond", echo({ respond: () => Effect.die("no") })],
        ["respond", echo({ respond: undefined })],
        ["respond", echo({ respond: () => Effect.succeed("text" as never) })],
        ["respond", echo({ respond: () => Effect.succeed(Redacted.make(new Uint8Array(65_536))) })],
        ["exchange", { method: "ECHO", exchange: Effect.fail("no") }],
        ["exchange", { method: "ECHO", exchange: Effect.succeed(undefined as never) }],
        ["exchange", echo({ data: bytes("not redacted") as never })],
        ["exchange", echo({ data: Redacted.make(new Uint8Array(65_536)) })],
        ["exchange", echo({ verify: true as never })],
        ["exchange", echo({ expiresIn: -1 })]
      ] as const
    ) {
      it.effect(`the user's own failure is typed, and tried again (${problem})`, () =>
        run(Effect.gen(function*() {
          const broker = yield* listen()
          const { client } = yield* build({ authentication })
          if (problem === "respond") yield* handshake(broker, auth(0x18, "one"))
          const { cause } = yield* awaitStatus(client, "Reconnecting")
          assert.deepInclude((cause as ConnectError).reason, { _tag: "AuthenticationFailed", problem })
        })))
    }

    it.effect("a response that does not come is bounded by connectTimeout", () =>
      run(Effect.gen(function*() {
        const broker = yield* listen()
        const { client, network } = yield* build({
          authentication: echo({ respond: () => Effect.never }),
          connectTimeout: "3 seconds"
        })
        yield* handshake(broker, auth(0x18, "one"))
        yield* network.settle
        yield* TestClock.adjust("3 seconds")
        const { cause } = yield* awaitStatus(client, "Reconnecting")
        assert.strictEqual((cause as ConnectError).reason._tag, "ConnectTimeout")
      })))

    it.effect("an exchange is begun for every attempt", () =>
      runSteady(Effect.gen(function*() {
        let count = 0
        const broker = yield* listen()
        const authentication = { method: "ECHO", exchange: Effect.sync(() => ({ data: secret(`data ${++count}`) })) }
        yield* build({ authentication })
        const first = yield* handshake(broker, connack(undefined, undefined, 0x88))
        yield* (yield* MemoryNetwork.MemoryNetwork).settle
        yield* TestClock.adjust("500 millis")
        const second = yield* handshake(broker, connack("ECHO"))
        assert.include(first.connect, hex(field(0x16, "data 1")))
        assert.include(second.connect, hex(field(0x16, "data 2")))
      })))
  })

  describe("without the option", () => {
    for (const [when, packet] of [["before", auth(0x18)], ["after", `${connack()} ${auth(0x18)}`]] as const) {
      it.effect(`AU-09: AUTH ${when} CONNACK is a protocol error`, () =>
        run(Effect.gen(function*() {
          const broker = yield* listen()
          const { client } = yield* build()
          const peer = yield* handshake(broker, packet)
          yield* awaitStatus(client, "Reconnecting")
          assert.strictEqual((yield* readToEnd(peer)).packets.at(-1), "e0 01 82")
        })))
    }

    it.effect("AU-10: reauthenticate fails typed, and sends nothing", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* open()
        assert.strictEqual((yield* reasonOf(client.reauthenticate))._tag, "NoAuthentication")
        yield* network.settle
        yield* client.pause
        assert.deepStrictEqual((yield* readToEnd(peer)).packets, ["e0 00"])
        assert.strictEqual((yield* reasonOf(client.reauthenticate))._tag, "Offline")
      })))

    it("MQTT 3.1.1 has none: the option is refused by name", () => {
      const resolved = ResolvedOptions.resolve({ endpoint: "mqtt://a", protocolVersion: 4, authentication: echo() })
      assert.strictEqual(Result.isFailure(resolved) && resolved.failure.option, "authentication")
      for (const [option, authentication] of [["method", { ...echo(), method: "" }], ["exchange", { method: "A" }]]) {
        const refused = ResolvedOptions.resolve({ endpoint: "mqtt://a", authentication: authentication as never })
        assert.strictEqual(Result.isFailure(refused) && refused.failure.option, `authentication.${option as string}`)
      }
    })
  })

  describe("again", () => {
    it.effect("AU-11: AUTH 0x19 with the data of a new exchange; AUTH 0x00 ends it", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* openEcho()
        const again = yield* start(client.reauthenticate)
        assert.strictEqual(yield* next(peer), fromClient(0x19, "hello"))
        yield* peer.sendHex(auth(0x18, "one"))
        assert.strictEqual(yield* next(peer), fromClient(0x18, "one!"))
        yield* peer.sendHex(auth(0))
        yield* Fiber.join(again)
        assert.strictEqual(yield* statusOf(client), "Connected")
      })))

    it.effect("AU-13p: everything else goes on meanwhile", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* openEcho()
        const again = yield* start(client.reauthenticate)
        yield* next(peer)
        const publishing = yield* start(client.publish({ topic: "a", payload: "x", qos: 1 }))
        assert.strictEqual((yield* next(peer)).slice(0, 2), "32")
        yield* peer.sendHex("40 02 00 01")
        yield* Fiber.join(publishing)
        yield* peer.sendHex(auth(0))
        yield* Fiber.join(again)
      })))

    it.effect("AU-17p: there is one at a time; who comes during it waits for it", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* openEcho()
        const [first, second] = [yield* start(client.reauthenticate), yield* start(client.reauthenticate)]
        yield* next(peer)
        yield* network.settle
        const { length } = peer.received
        yield* peer.sendHex(auth(0))
        yield* Effect.andThen(Fiber.join(first), Fiber.join(second))
        assert.strictEqual(peer.received.length, length)
        const third = yield* start(client.reauthenticate)
        assert.strictEqual(yield* next(peer), fromClient(0x19, "hello"))
        yield* peer.sendHex(auth(0))
        yield* Fiber.join(third)
      })))

    it.effect("interrupting a caller ends its waiting and not the exchange", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* openEcho()
        const again = yield* start(client.reauthenticate)
        yield* next(peer)
        yield* Fiber.interrupt(again)
        yield* peer.sendHex(auth(0))
        yield* network.settle
        assert.strictEqual(yield* statusOf(client), "Connected")
      })))

    for (const code of [0, 0x18]) {
      it.effect(`AU-15p: AUTH 0x${code.toString(16)} without one under way is a protocol error`, () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* openEcho()
          yield* peer.sendHex(auth(code))
          assert.strictEqual((yield* awaitStatus(client, "Reconnecting")).cause._tag, "ProtocolError")
          assert.deepStrictEqual((yield* readToEnd(peer)).packets, ["e0 01 82"])
        })))
    }

    it.effect("AU-12: the server ends the connection where it refuses, and the caller is told why", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* openEcho()
        const again = yield* start(Effect.flip(client.reauthenticate))
        yield* next(peer)
        yield* peer.sendHex("e0 01 87")
        const { reason }: ReauthenticateError = yield* Fiber.join(again)
        assert.deepInclude(reason, { _tag: "ServerDisconnected", reasonCode: 0x87 })
      })))

    for (
      const [problem, rest, packet] of [
        ["respond", { respond: () => Effect.fail("no") }, auth(0x18, "one")],
        ["verify", { verify: (data: Uint8Array | undefined) => text(data) !== "wrong" }, auth(0, "wrong")]
      ] as const
    ) {
      it.effect(`AU-12, AU-16: a failure on our side ends the connection with a DISCONNECT (${problem})`, () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* openEcho(rest)
          const again = yield* start(Effect.flip(client.reauthenticate))
          yield* next(peer)
          yield* peer.sendHex(packet)
          assert.deepInclude((yield* Fiber.join(again)).reason, { _tag: "AuthenticationFailed", problem })
          const status = yield* awaitStatus(client, problem === "verify" ? "Halted" : "Reconnecting")
          assert.strictEqual(status.cause._tag, "AuthenticationFailed")
          assert.deepStrictEqual(yield* readToEnd(peer), { packets: ["e0 01 80"], how: "fin" })
        })))
    }

    it.effect("an exchange that cannot be begun leaves the connection as it is", () =>
      run(Effect.gen(function*() {
        let count = 0
        const { client } = yield* open({
          authentication: {
            method: "ECHO",
            exchange: Effect.suspend(() => count++ === 0 ? Effect.succeed({}) : Effect.fail("x"))
          }
        }, { connack: connack("ECHO") })
        assert.deepInclude(yield* reasonOf(client.reauthenticate), {
          _tag: "AuthenticationFailed",
          problem: "exchange"
        })
        assert.strictEqual(yield* statusOf(client), "Connected")
      })))

    it.effect("law 6: a server that does not answer ends it, and the connection, after connectTimeout", () =>
      run(Effect.gen(function*() {
        const { client, network, peer } = yield* openEcho({}, { connectTimeout: "3 seconds" })
        const again = yield* start(Effect.flip(client.reauthenticate))
        yield* next(peer)
        yield* network.settle
        yield* TestClock.adjust("3 seconds")
        assert.deepInclude((yield* Fiber.join(again)).reason, { _tag: "AuthenticationFailed", problem: "timeout" })
        yield* awaitStatus(client, "Reconnecting")
      })))

    for (const command of ["pause", "disconnect", "close", "reset"] as const) {
      it.effect(`law 6: ${command} ends it`, () =>
        run(Effect.gen(function*() {
          const { client, close, peer } = yield* openEcho()
          const again = yield* start(Effect.flip(client.reauthenticate))
          yield* next(peer)
          if (command === "pause") yield* client.pause
          else if (command === "disconnect") yield* client.disconnect()
          else if (command === "close") yield* close()
          else yield* peer.reset
          const { reason } = yield* Fiber.join(again)
          assert.strictEqual(reason._tag, command === "reset" ? "TransportLost" : "Offline")
        })))
    }
  })

  describe("that ends", () => {
    it.effect("is repeated in time on the live connection", () =>
      runSteady(Effect.gen(function*() {
        const { client, network, peer } = yield* openEcho({ expiresIn: "1 minute" })
        const seen: Array<string> = []
        yield* start(Stream.runForEach(client.events, ({ _tag }) => Effect.sync(() => seen.push(_tag))))
        for (let round = 0; round < 3; round++) {
          yield* network.settle
          const { length } = peer.received
          yield* TestClock.adjust(53_999)
          yield* network.settle
          assert.strictEqual(peer.received.length, length)
          yield* TestClock.adjust(1)
          assert.strictEqual(yield* next(peer), fromClient(0x19, "hello"))
          yield* peer.sendHex(auth(0))
        }
        yield* network.settle
        assert.deepStrictEqual(seen, ["Refreshing", "Refreshing", "Refreshing"])
        assert.strictEqual(network.dials.length, 1)
      })))

    it.effect(
      "law 10: 100 times under load, against a broker that checks each: no message is lost, and no connection",
      () =>
        Effect.gen(function*() {
          let exchanges = 0
          const broker = yield* TestBroker.make({
            enhancedAuth: ({ data, round }) =>
              round === 1
                ? { _tag: "Continue", data: bytes("nonce") }
                : text(data) === "nonce signed"
                ? { _tag: "Success", data: bytes("proof") }
                : { _tag: "Failure", reasonCode: 0x87 }
          })
          const client = yield* MqttClient.make({
            endpoint: "mqtt://broker",
            authentication: {
              method: "NONCE",
              exchange: Effect.sync(() => {
                exchanges++
                return {
                  respond: (challenge) => Effect.succeed(secret(`${text(challenge)} signed`)),
                  verify: (data) => text(data) === "proof",
                  expiresIn: "2 seconds"
                }
              })
            }
          })
          let sent = 0
          let confirmed = 0
          while (exchanges < 101) {
            sent++
            yield* start(
              Effect.tap(
                client.publish({ topic: "a", payload: `${sent}`, qos: 1 }),
                () => Effect.sync(() => confirmed++)
              )
            )
            yield* broker.settle
            yield* TestClock.adjust("200 millis")
          }
          yield* broker.settle
          assert.strictEqual(confirmed, sent)
          assert.strictEqual(broker.packetsOf({ from: "client", type: "Connect" }).length, 1)
        }).pipe(Effect.scoped, Effect.provide(MemoryNetwork.layer)),
      60_000
    )
  })
})
