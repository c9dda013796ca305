import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Queue, References } from "effect"
import { TestClock } from "effect/testing"
import type * as MqttClient from "../../../src/layers/MqttClient.ts"
import * as Message from "../../../src/services/Message.ts"
import type { SubscribeError } from "../../../src/services/MqttError.ts"
import { expectWords, message, open, run, send, start } from "../../support/ScriptedBroker.ts"
import type { Peer } from "../../support/ScriptedBroker.ts"
import { drop, persistent, reasonOf, sent, suback, unsuback } from "../../support/Subscriptions.ts"

/** Starts `process` on `a/#` and grants its subscription. */
const processing = Effect.fnUntraced(function*<E>(
  client: MqttClient.MqttClientService,
  peer: Peer,
  handler: (message: Message.Message) => Effect.Effect<unknown, E>,
  options: MqttClient.ProcessOptions = {}
) {
  const fiber = yield* start(client.process("a/#", handler, options))
  yield* expectWords(peer, 5, `subscribe 1 a/#:${options.qos ?? 1}`)
  yield* send(peer, 5, suback(1, options.qos ?? 1))
  return fiber
})

/** Messages at QoS 1 with these payloads, numbered from 1. */
const numbered = (...payloads: ReadonlyArray<string>) =>
  payloads.map((payload, index) => message(`a/${payload[0]}`, index + 1, { payload }))

/** A handler that notes what it is given and goes on when it is told how. */
const handling = <E = never>() => {
  const begun: Array<string> = []
  const running = new Map<string, Deferred.Deferred<void, E>>()
  let most = 0
  const handler = (message: Message.Message): Effect.Effect<void, E> =>
    Effect.suspend(() => {
      const text = Message.text(message)
      const done = Deferred.makeUnsafe<void, E>()
      begun.push(text)
      running.set(text, done)
      most = Math.max(most, running.size)
      return Effect.ensuring(Deferred.await(done), Effect.sync(() => running.delete(text)))
    })
  const end = (text: string, exit: Exit.Exit<void, E> = Exit.void) => Deferred.done(running.get(text)!, exit)
  return {
    begun,
    handler,
    end,
    get running() {
      return [...running.keys()]
    },
    get most() {
      return most
    }
  }
}

describe("process", () => {
  it("the handler's failures are those of `process` only where they end it", () => {
    const typed = (client: MqttClient.MqttClientService, handler: () => Effect.Effect<void, "no", never>) => {
      const failing: Effect.Effect<never, "no" | SubscribeError> = client.process("a", handler)
      const stated: Effect.Effect<never, "no" | SubscribeError> = client.process("a", handler, { onFailure: "fail" })
      const leaving: Effect.Effect<never, SubscribeError> = client.process("a", handler, { onFailure: "leave" })
      const rejecting: Effect.Effect<never, SubscribeError> = client.process("a", handler, {
        onFailure: { reject: 0x83 },
        concurrency: 4
      })
      return [failing, stated, leaving, rejecting]
    }
    assert.isFunction(typed)
  })

  it.effect("law 4: acknowledges a message once its handler has succeeded, and begins the next then", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open({ keepAlive: 0 })
      const { begun, end, handler } = handling()
      yield* processing(client, peer, handler)
      yield* send(peer, 5, ...numbered("1", "2", "3"))
      for (const text of ["1", "2", "3"]) {
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* sent(peer, 5), [])
        assert.strictEqual(begun.at(-1), text)
        yield* end(text)
        assert.deepStrictEqual(yield* sent(peer, 5), [`puback ${text}`])
      }
    })))

  it.effect("handles QoS 0 and QoS 2 as well", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      const seen: Array<string> = []
      yield* processing(client, peer, (message) => Effect.sync(() => seen.push(Message.text(message))), { qos: 2 })
      yield* send(
        peer,
        5,
        message("a/1", 0, { payload: "0" }),
        message("a/1", 7, { qos: 2, payload: "2" }),
        message("a/1", 8, { payload: "1" })
      )
      assert.deepStrictEqual(yield* sent(peer, 5), ["pubrec 7", "puback 8"])
      assert.deepStrictEqual(seen, ["0", "2", "1"])
    })))

  describe("a failure of the handler", () => {
    it.effect("ends it by default; the message goes to the next one, and is not acknowledged", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const { begun, end, handler } = handling<"no">()
        const fiber = yield* processing(client, peer, handler)
        yield* send(peer, 5, ...numbered("1"))
        yield* sent(peer, 5)
        yield* end("1", Exit.fail("no"))
        assert.deepStrictEqual(yield* Effect.flip(Fiber.join(fiber)), "no")
        assert.deepStrictEqual(yield* sent(peer, 5), ["unsubscribe 2 a/#"])
        assert.strictEqual((yield* client.stats).unclaimed, 1)
        yield* send(peer, 5, unsuback(2, 0))
        const again = yield* start(client.process("a/#", handler))
        yield* expectWords(peer, 5, "subscribe 3 a/#:1")
        yield* send(peer, 5, suback(3, 1))
        yield* sent(peer, 5)
        assert.deepStrictEqual(begun, ["1", "1"])
        yield* end("1")
        assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1"])
        assert.isUndefined(again.pollUnsafe())
      })))

    it.effect("\"leave\" goes on, and holds back the acknowledgements until the message comes again", () =>
      run(Effect.gen(function*() {
        const server = yield* open(persistent)
        const { client, peer } = server
        const { begun, end, handler } = handling<"no">()
        yield* processing(client, peer, handler, { onFailure: "leave" })
        yield* send(peer, 5, ...numbered("1", "2", "3"))
        yield* sent(peer, 5)
        yield* end("1")
        yield* sent(peer, 5)
        yield* end("2", Exit.fail("no"))
        yield* sent(peer, 5)
        yield* end("3")
        assert.deepStrictEqual(yield* sent(peer, 5), [])
        assert.strictEqual((yield* client.stats).unacknowledged, 2)
        const next = yield* drop(server, "20 03 01 00 00")
        yield* send(next, 5, ...numbered("1", "2", "3").slice(1))
        for (const text of ["2", "3"]) {
          yield* sent(next, 5)
          yield* end(text)
          assert.deepStrictEqual(yield* sent(next, 5), [`puback ${text}`])
        }
        assert.deepStrictEqual(begun, ["1", "2", "3", "2", "3"])
      })))

    it.effect("law 4: \"leave\" at QoS 2: the message comes again on the next connection, and is acknowledged once", () =>
      run(Effect.gen(function*() {
        const server = yield* open(persistent)
        const { client, peer } = server
        const { begun, end, handler } = handling<"no">()
        yield* processing(client, peer, handler, { onFailure: "leave", qos: 2, concurrency: 3 })
        const all = numbered("1", "2", "3").map((packet) => ({ ...packet, qos: 2 as const }))
        yield* send(peer, 5, ...all)
        yield* sent(peer, 5)
        for (const text of ["1", "3"]) yield* end(text)
        yield* end("2", Exit.fail("no"))
        assert.deepStrictEqual(yield* sent(peer, 5), ["pubrec 1"])
        const next = yield* drop(server, "20 03 01 00 00")
        yield* send(next, 5, ...all.slice(1))
        assert.deepStrictEqual(yield* sent(next, 5), [])
        assert.deepStrictEqual(begun, ["1", "2", "3", "2"])
        yield* end("2")
        assert.deepStrictEqual(yield* sent(next, 5), ["pubrec 2", "pubrec 3"])
        assert.strictEqual((yield* client.stats).unacknowledged, 0)
      })))

    it.effect("\"leave\" over a lost session: the message is there again, and does not pile up", () =>
      run(Effect.gen(function*() {
        const server = yield* open(persistent)
        const { client } = server
        let { peer } = server as { peer: Peer }
        const { begun, end, handler } = handling<"no">()
        yield* processing(client, peer, handler, { onFailure: "leave" })
        yield* send(peer, 5, ...numbered("1"))
        for (let round = 0; round < 3; round++) {
          yield* sent(peer, 5)
          yield* end("1", Exit.fail("no"))
          peer = yield* drop({ ...server, peer }, "20 03 00 00 00")
        }
        yield* sent(peer, 5)
        yield* end("1")
        assert.deepStrictEqual(begun, ["1", "1", "1", "1"])
        assert.strictEqual((yield* client.stats).unacknowledgedBytes, 0)
      })))

    it.effect("law 14: what \"leave\" left and was acknowledged is dropped, counted, and does not pile up", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open(persistent)
        yield* processing(client, peer, () => Effect.fail("no"), {
          onFailure: "leave",
          whenSlow: "drop",
          heldMessages: 1
        })
        for (let id = 1; id <= 20; id++) {
          yield* send(peer, 5, message("a/1", id))
          yield* sent(peer, 5)
        }
        yield* TestClock.adjust("10 seconds")
        const { dropped, unacknowledged } = yield* client.stats
        assert.deepStrictEqual([dropped, unacknowledged], [20, 0])
      })))

    it.effect("{ reject } tells the server the code, and goes on", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        yield* processing(
          client,
          peer,
          (message) => Message.text(message) === "2" ? Effect.fail("no") : Effect.void,
          { onFailure: { reject: 0x99 } }
        )
        yield* send(peer, 5, ...numbered("1", "2", "3"))
        assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1", "puback 2 0x99", "puback 3"])
      })))

    for (const onFailure of ["fail", "leave", { reject: 0x80 }] as const) {
      it.effect(`a defect ends it whatever the options say, unacknowledged (${JSON.stringify(onFailure)})`, () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open()
          const fiber = yield* processing(client, peer, () => Effect.die("broken"), { onFailure, concurrency: 2 })
          yield* send(peer, 5, ...numbered("1"))
          const exit = yield* Fiber.await(fiber)
          assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
          assert.deepStrictEqual(yield* sent(peer, 5), ["unsubscribe 2 a/#"])
          assert.strictEqual((yield* client.unclaimed).length, 1)
        })))
    }

    it.effect("a handler that throws has a defect", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const fiber = yield* processing(client, peer, () => {
          throw new Error("broken")
        })
        yield* send(peer, 5, ...numbered("1"))
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      })))
  })

  for (const concurrency of [1, 3]) {
    it.effect(`law 4: interrupting it interrupts the handlers and acknowledges nothing of theirs (${concurrency} at once)`, () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ subscriptions: [{ filter: "a/#", qos: 1 }] })
        const handled = handling()
        const fiber = yield* start(client.process("a/#", handled.handler, { concurrency }))
        yield* expectWords(peer, 5, "subscribe 1 a/#:1")
        yield* send(peer, 5, suback(1, 1), ...numbered("1", "2", "3", "4", "5"))
        yield* sent(peer, 5)
        yield* handled.end("1")
        assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1"])
        assert.strictEqual(handled.running.length, concurrency)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(handled.running, [])
        assert.deepStrictEqual(yield* sent(peer, 5), [])
        assert.strictEqual((yield* client.stats).unclaimed, 4)
        // A declared filter is not unsubscribed, and the next one has all of it, in order.
        const seen: Array<string> = []
        yield* start(client.process("a/#", (message) => Effect.sync(() => seen.push(Message.text(message)))))
        assert.deepStrictEqual(yield* sent(peer, 5), ["puback 2", "puback 3", "puback 4", "puback 5"])
        assert.deepStrictEqual(seen, ["2", "3", "4", "5"])
      })))
  }

  describe("concurrency", () => {
    it.effect("OR-02: is the number of handlers at once; acknowledgements leave in order", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const handled = handling()
        yield* processing(client, peer, handled.handler, { concurrency: 3 })
        yield* send(peer, 5, ...numbered("1", "2", "3", "4", "5"))
        yield* sent(peer, 5)
        assert.deepStrictEqual(handled.running, ["1", "2", "3"])
        yield* handled.end("2")
        yield* handled.end("3")
        assert.deepStrictEqual(yield* sent(peer, 5), [])
        assert.deepStrictEqual(handled.running, ["1", "4", "5"])
        yield* handled.end("1")
        assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1", "puback 2", "puback 3"])
        yield* handled.end("5")
        yield* handled.end("4")
        assert.deepStrictEqual(yield* sent(peer, 5), ["puback 4", "puback 5"])
        assert.strictEqual(handled.most, 3)
      })))

    it.effect("with a key, messages of one key come one after the other, and others get ahead", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const handled = handling()
        yield* processing(client, peer, handled.handler, { concurrency: 2, key: ({ topic }) => topic })
        yield* send(peer, 5, ...numbered("a1", "a2", "a3", "b1", "c1", "b2"))
        yield* sent(peer, 5)
        assert.deepStrictEqual(handled.running, ["a1", "b1"])
        yield* handled.end("b1")
        yield* sent(peer, 5)
        assert.deepStrictEqual(handled.running, ["a1", "c1"])
        yield* handled.end("a1")
        assert.deepStrictEqual(yield* sent(peer, 5), ["puback 1"])
        assert.deepStrictEqual(handled.running, ["c1", "a2"])
        yield* handled.end("c1")
        yield* sent(peer, 5)
        assert.deepStrictEqual(handled.running, ["a2", "b2"])
        for (const text of ["b2", "a2"]) yield* handled.end(text)
        yield* sent(peer, 5)
        yield* handled.end("a3")
        assert.deepStrictEqual(yield* sent(peer, 5), ["puback 3", "puback 4", "puback 5", "puback 6"])
        assert.strictEqual((yield* client.stats).unacknowledged, 0)
        assert.strictEqual(handled.most, 2)
      })))

    it.effect("law 14: with a key, 256 messages may wait for theirs, and what is behind them waits as well", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ receiveMaximum: 300 })
        const handled = handling()
        yield* processing(client, peer, handled.handler, { concurrency: 2, key: ({ topic }) => topic })
        const payloads = [...Array.from({ length: 258 }, (_, index) => `a${index}`), "b"]
        yield* send(peer, 5, ...numbered(...payloads))
        yield* sent(peer, 5)
        for (const text of ["a0", "a1"]) {
          assert.deepStrictEqual(handled.running, [text])
          yield* handled.end(text)
          yield* sent(peer, 5)
        }
        assert.deepStrictEqual(handled.running, ["a2", "b"])
      })))

    it.effect("with a key, a failure ends all of it, and what waited for a key was not begun", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open()
        const handled = handling<"no">()
        const fiber = yield* processing(client, peer, handled.handler, { concurrency: 2, key: ({ topic }) => topic })
        yield* send(peer, 5, ...numbered("a1", "a2", "b1"))
        yield* sent(peer, 5)
        yield* handled.end("b1", Exit.fail("no"))
        assert.strictEqual(yield* Effect.flip(Fiber.join(fiber)), "no")
        assert.deepStrictEqual(handled.running, [])
        // Unsubscribed: those that were begun wait for the next taker, and the other one is acknowledged behind them.
        assert.deepStrictEqual((yield* client.unclaimed).map(Message.text), ["a1", "b1"])
      })))

    for (const ops of [3, 4, 5, 6, 7, 8, 9, 11, 13]) {
      it.effect(`law 4: with a key, nothing is forgotten wherever fibers yield (every ${ops} steps)`, () =>
        run(Effect.gen(function*() {
          const { client, peer } = yield* open({ receiveMaximum: 1000 })
          const begun: Array<string> = []
          let running = 0
          const handler = (message: Message.Message) =>
            Effect.gen(function*() {
              assert.strictEqual(++running, 1)
              for (let turn = Number(Message.text(message)) % 11; turn > 0; turn--) yield* Effect.void
              running--
              begun.push(Message.text(message))
            })
          yield* Effect.provideService(
            processing(client, peer, handler, { concurrency: 4, key: () => "k" }),
            References.MaxOpsBeforeYield,
            ops
          )
          const payloads = Array.from({ length: 400 }, (_, index) => `${index}`)
          let acks = 0
          for (let at = 0; at < 400; at += 20) {
            const packets = payloads.slice(at, at + 20).map((payload, n) => message("a/b", at + n + 1, { payload }))
            yield* send(peer, 5, ...packets)
            acks += (yield* sent(peer, 5)).length
          }
          assert.strictEqual(acks, 400)
          assert.deepStrictEqual(begun, payloads)
        })))
    }

    it.effect("every message is handled once, and all are acknowledged in order, under any load", () =>
      run(Effect.gen(function*() {
        const { client, peer } = yield* open({ receiveMaximum: 500 })
        const begun = yield* Queue.unbounded<string>()
        const lasts = new Map<string, number>()
        const disorder: Array<string> = []
        yield* processing(client, peer, (message) =>
          Effect.gen(function*() {
            const [key, n] = Message.text(message).split(".") as [string, string]
            yield* Effect.sleep(Number(n) % 7)
            if ((lasts.get(key) ?? -1) >= Number(n)) disorder.push(Message.text(message))
            lasts.set(key, Number(n))
            yield* Queue.offer(begun, Message.text(message))
          }), { concurrency: 8, key: ({ payload }) => Message.text({ payload })[0]! })
        const payloads = Array.from({ length: 500 }, (_, index) => `${"abcdefghijkl"[index % 12]}.${index}`)
        yield* send(peer, 5, ...payloads.map((payload, index) => message("a/b", index + 1, { payload })))
        yield* TestClock.adjust("10 seconds")
        const acks = yield* sent(peer, 5)
        assert.deepStrictEqual(acks, payloads.map((_, index) => `puback ${index + 1}`))
        assert.deepStrictEqual([...yield* Queue.takeAll(begun)].sort(), [...payloads].sort())
        assert.deepStrictEqual(disorder, [])
      })))
  })

  it.effect("options that are not valid are refused before anything is sent", () =>
    run(Effect.gen(function*() {
      const { client, peer } = yield* open()
      const wrong: ReadonlyArray<[string, object]> = [
        ["concurrency", { concurrency: 0 }],
        ["concurrency", { concurrency: 1.5 }],
        ["key", { key: "topic" }],
        ["onFailure", { onFailure: "ignore" }],
        ["onFailure", { onFailure: { reject: 0x10 } }],
        ["onFailure", { onFailure: null }],
        ["qos", { qos: 3 }]
      ]
      for (const [field, options] of wrong) {
        const reason = yield* reasonOf(client.process("a", () => Effect.void, options as MqttClient.ProcessOptions))
        assert.strictEqual(reason._tag === "InvalidSubscription" && reason.field, field)
      }
      assert.deepStrictEqual(yield* sent(peer, 5), [])
    })))
})
