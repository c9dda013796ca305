/**
 * What every session store has to do, as tests that are run on each of them.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber } from "effect"
import type { Scope } from "effect"
import { MemoryData } from "../../src/layers/store/MemorySessionStore.ts"
import type { Change, OpenStore, SessionStoreError, SessionStoreService } from "../../src/services/SessionStore.ts"
import { messageOf, published, publishOf, putAside, settled } from "./StoreChanges.ts"

/** A place for one session, which outlives those who open it. */
export interface Place {
  /** A store upon the place, as a program that starts now would make it. */
  readonly store: Effect.Effect<SessionStoreService, SessionStoreError, Scope.Scope>
}

/** Opens the store of a place as a program that starts now, and ends that program after `use`. */
export const using = <A, E>(
  place: Place,
  use: (store: OpenStore) => Effect.Effect<A, E, Scope.Scope>
): Effect.Effect<A, E | SessionStoreError> =>
  Effect.scoped(Effect.flatMap(Effect.flatMap(place.store, (store) => store.open), use))

const allProperties = {
  payloadFormatIndicator: 1,
  messageExpiryInterval: 4_294_967_295,
  topicAlias: 3,
  responseTopic: "réponse/ü",
  correlationData: Uint8Array.of(0, 255, 10),
  userProperties: [["a", "1"], ["a", ""], ["é", "2"]],
  subscriptionIdentifiers: [1, 268_435_455],
  contentType: "application/json"
} as const

/** Numbers that look random and are the same in every run. */
const numbers = (seed: number) => {
  let state = seed
  return (below: number): number => {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x6d2b79f5 | 0
    return ((state ^ (state >>> 13)) >>> 0) % below
  }
}

/** A change that a client might tell of, and some that it would not. */
const anyChange = (random: (below: number) => number, last: number): Change => {
  const sequence = Math.max(1, last - random(12))
  switch (random(9)) {
    case 0:
      return random(3) > 0
        ? published(last + 1, { qos: 2, id: random(2) === 0 ? `id ${random(5)}` : undefined })
        // No PUBREC comes for one that waits: those are odd, and what is released is even.
        : published(sequence | 1, { stage: "queued", packetId: 0 })
    case 1:
      return { _tag: "Released", sequence: sequence & ~1, releaseOrder: random(9), answer: random(2) * 16 }
    case 2:
      return {
        _tag: "Settled",
        sequence,
        id: random(2) === 0 ? `id ${random(5)}` : undefined,
        outcome: random(2) === 0 ? { _tag: "Refused", reasonCode: 0x80 + random(9) } : { _tag: "Unknown" }
      }
    case 3:
      return { _tag: "Received", packetId: 1 + random(3) }
    case 4:
      return { _tag: "Completed", packetId: 1 + random(3) }
    case 5:
      return random(4) === 0 ? { _tag: "SessionEnded" } : { _tag: "SessionBegan", key: "k", epoch: `${random(3)}` }
    case 6:
    case 7:
      return putAside(`q${random(2)}`, random(8), { payload: new Uint8Array(random(40)) })
    default:
      return { _tag: "TakenUp", queue: `q${random(2)}`, sequence: random(8) }
  }
}

const byPacketId = (a: { readonly packetId: number }, b: { readonly packetId: number }) => a.packetId - b.packetId
const byQueue = (a: { readonly queue: string }, b: { readonly queue: string }) => a.queue < b.queue ? -1 : 1

/** All that a store gives back, in one order. */
const contentsOf = (store: OpenStore) =>
  Effect.gen(function*() {
    const { inbound, lastPacketId, lastSequence, publishes, queues, session } = store.stored
    const ids = ["id 0", "id 1", "id 2", "id 3", "id 4"]
    return {
      session,
      publishes,
      lastSequence,
      lastPacketId,
      inbound: [...inbound].sort(byPacketId),
      queues: [...queues].sort(byQueue),
      outcomes: yield* Effect.forEach(ids, store.outcome),
      messages: yield* Effect.forEach(["q0", "q1"], (queue) => store.putAside(queue, -1, 100))
    }
  })

const contentsOfModel = (data: MemoryData) =>
  contentsOf({
    name: "model",
    stored: data.stored,
    commit: () => Effect.void,
    transaction: (_, effect) => effect,
    outcome: (id) => Effect.sync(() => data.outcome(id)),
    putAside: (queue, after, limit) => Effect.sync(() => data.putAside(queue, after, limit))
  })

export interface SuiteOptions {
  /** Programs of random changes that are compared with the model. */
  readonly programs: number
  /** Commits wait for a transaction that is under way. */
  readonly isSerial: boolean
}

/** Declares the tests for a kind of store. */
export const behavesAsStore = (
  make: Effect.Effect<Place, unknown, Scope.Scope>,
  options: SuiteOptions
): void => {
  const test = (name: string, body: (place: Place) => Effect.Effect<void, unknown, Scope.Scope>): void =>
    it.live(name, () => Effect.flatMap(make, body))

  describe("publishes", () => {
    test("are none in a new store", (place) =>
      using(place, ({ stored }) =>
        Effect.sync(() =>
          assert.deepStrictEqual(stored, {
            session: undefined,
            publishes: [],
            inbound: [],
            lastSequence: 0,
            lastPacketId: 0,
            queues: [],
            quarantined: []
          })
        )))

    test("come back with all of their fields, in order", (place) =>
      Effect.gen(function*() {
        const publishes = [
          publishOf(1, { retain: true, topic: "ä/€/😀", payload: new Uint8Array(0) }),
          publishOf(2, { qos: 2, id: "order-7 é", properties: allProperties }),
          publishOf(3, { properties: {} }),
          publishOf(4, { stage: "queued", packetId: 0, payload: new Uint8Array(100_000).fill(7) }),
          publishOf(900_000_000_000, { qos: 2, stage: "released", releaseOrder: 5, answer: 16 })
        ]
        yield* using(place, (store) =>
          store.commit([4, 0, 3, 1, 2].map((i) => ({ _tag: "Published", publish: publishes[i]! }))))
        yield* using(place, ({ stored }) =>
          Effect.sync(() => {
            assert.deepStrictEqual(stored.publishes, publishes)
            assert.strictEqual(stored.lastSequence, 900_000_000_000)
            assert.deepStrictEqual(stored.quarantined, [])
          }))
      }))

    test("are kept as they were given, though their bytes are used again", (place) =>
      Effect.gen(function*() {
        const payload = Uint8Array.of(1, 2, 3)
        yield* using(place, (store) =>
          Effect.gen(function*() {
            yield* store.commit([published(1, { payload })])
            payload.fill(9)
          }))
        const bytes = yield* using(place, ({ stored }) => Effect.succeed(stored.publishes[0]?.payload))
        assert.deepStrictEqual(bytes, Uint8Array.of(1, 2, 3))
      }))

    test("are released, replaced and settled, and their sequence is not forgotten", (place) =>
      Effect.gen(function*() {
        yield* using(place, (store) =>
          Effect.gen(function*() {
            yield* store.commit([1, 2, 3, 4].map((sequence) => published(sequence, { qos: 2 })))
            yield* store.commit([
              { _tag: "Released", sequence: 2, releaseOrder: 1, answer: 16 },
              published(3, { stage: "queued", packetId: 0 }),
              settled(1),
              settled(4)
            ])
            yield* store.commit([published(3, { packetId: 77 })])
          }))
        yield* using(place, ({ stored }) =>
          Effect.sync(() => {
            assert.deepStrictEqual(stored.publishes, [
              publishOf(2, { qos: 2, stage: "released", releaseOrder: 1, answer: 16 }),
              publishOf(3, { packetId: 77 })
            ])
            assert.strictEqual(stored.lastSequence, 4)
          }))
      }))

    test("that come and go in one batch leave their outcome, sequence and packet identifier", (place) =>
      Effect.gen(function*() {
        yield* using(place, (store) =>
          store.commit([
            published(1, { id: "x", packetId: 65_535 }),
            settled(1, "x"),
            published(2, { packetId: 3 }),
            settled(2)
          ]))
        yield* using(place, (store) =>
          Effect.gen(function*() {
            assert.deepStrictEqual(store.stored.publishes, [])
            assert.strictEqual(store.stored.lastSequence, 2)
            assert.strictEqual(store.stored.lastPacketId, 3)
            assert.deepStrictEqual(yield* store.outcome("x"), { _tag: "Delivered", qos: 1, reasonCode: 0 })
          }))
      }))
  })

  describe("outcomes", () => {
    test("are told by id, the last one counts", (place) =>
      Effect.gen(function*() {
        yield* using(place, (store) =>
          Effect.gen(function*() {
            yield* store.commit([
              { _tag: "Settled", sequence: 1, id: "a", outcome: { _tag: "Delivered", qos: 2, reasonCode: 16 } },
              { _tag: "Settled", sequence: 2, id: "b", outcome: { _tag: "Refused", reasonCode: 135 } },
              { _tag: "Settled", sequence: 3, id: "c", outcome: { _tag: "Unknown" } }
            ])
            yield* store.commit([settled(4, "b")])
          }))
        yield* using(place, (store) =>
          Effect.gen(function*() {
            assert.deepStrictEqual(yield* store.outcome("a"), { _tag: "Delivered", qos: 2, reasonCode: 16 })
            assert.deepStrictEqual(yield* store.outcome("b"), { _tag: "Delivered", qos: 1, reasonCode: 0 })
            assert.deepStrictEqual(yield* store.outcome("c"), { _tag: "Unknown" })
            assert.isUndefined(yield* store.outcome("d"))
          }))
      }))
  })

  describe("the session", () => {
    test("and its inbound identifiers are kept until it ends", (place) =>
      Effect.gen(function*() {
        yield* using(place, (store) =>
          Effect.gen(function*() {
            yield* store.commit([{ _tag: "SessionBegan", key: "client@broker", epoch: "e1" }])
            yield* store.commit([{ _tag: "Received", packetId: 1 }, { _tag: "Received", packetId: 65535 }])
            yield* store.commit([{ _tag: "Received", packetId: 1 }, { _tag: "Completed", packetId: 1 }])
            // Told a second time, and of an identifier that was never received.
            yield* store.commit([{ _tag: "Completed", packetId: 1 }, { _tag: "Completed", packetId: 9 }])
          }))
        yield* using(place, (store) =>
          Effect.gen(function*() {
            assert.deepStrictEqual(store.stored.session, { key: "client@broker", epoch: "e1" })
            assert.deepStrictEqual([...store.stored.inbound].sort(byPacketId), [
              { packetId: 1, received: false, generation: 1 },
              { packetId: 65535, received: true, generation: 0 }
            ])
            yield* store.commit([
              { _tag: "Received", packetId: 1 },
              { _tag: "SessionEnded" },
              { _tag: "SessionBegan", key: "client@broker", epoch: "e2" },
              { _tag: "Received", packetId: 2 }
            ])
          }))
        yield* using(place, ({ stored }) =>
          Effect.sync(() => {
            assert.deepStrictEqual(stored.session, { key: "client@broker", epoch: "e2" })
            assert.deepStrictEqual(stored.inbound, [{ packetId: 2, received: true, generation: 0 }])
          }))
        yield* using(place, (store) => store.commit([{ _tag: "SessionEnded" }]))
        yield* using(place, ({ stored }) =>
          Effect.sync(() => {
            assert.isUndefined(stored.session)
            assert.deepStrictEqual(stored.inbound, [])
          }))
      }))
  })

  describe("messages put aside", () => {
    test("are read in order, from where one is, and counted by queue", (place) =>
      Effect.gen(function*() {
        const rich = messageOf(4, {
          qos: 2,
          retain: true,
          duplicate: true,
          deliveryId: "e1:7:0",
          properties: allProperties
        })
        yield* using(place, (store) =>
          Effect.gen(function*() {
            yield* store.commit([putAside("q", 3), putAside("q", 1), putAside("q", 2), putAside("other", 1)])
            yield* store.commit([{ _tag: "PutAside", queue: "q", message: rich }, putAside("gone", 1)])
            yield* store.commit([
              { _tag: "TakenUp", queue: "q", sequence: 2 },
              { _tag: "TakenUp", queue: "gone", sequence: 1 },
              { _tag: "TakenUp", queue: "none", sequence: 1 }
            ])
            assert.deepStrictEqual(yield* store.putAside("q", 1, 1), [messageOf(3)])
          }))
        yield* using(place, (store) =>
          Effect.gen(function*() {
            assert.deepStrictEqual([...store.stored.queues].sort(byQueue), [
              { queue: "other", count: 1, bytes: 9, lastSequence: 1 },
              { queue: "q", count: 3, bytes: 27, lastSequence: 4 }
            ])
            assert.deepStrictEqual(yield* store.putAside("q", 0, 10), [messageOf(1), messageOf(3), rich])
            assert.deepStrictEqual(yield* store.putAside("q", 3, 10), [rich])
            assert.deepStrictEqual(yield* store.putAside("q", 4, 10), [])
          }))
      }))
  })

  describe("the lock", () => {
    test("lets one client in, and the next one once it is closed", (place) =>
      Effect.gen(function*() {
        yield* using(place, () =>
          Effect.gen(function*() {
            const error = yield* Effect.flip(using(place, () => Effect.void))
            assert.strictEqual(error.kind, "locked")
            assert.strictEqual(error.operation, "open")
            assert.isFalse(error.retryable)
          }))
        yield* using(place, () => Effect.void)
      }))

    test("lets one client in of those who share a store", (place) =>
      Effect.gen(function*() {
        const store = yield* place.store
        yield* Effect.scoped(Effect.gen(function*() {
          yield* store.open
          const error = yield* Effect.flip(store.open)
          assert.strictEqual(error.kind, "locked")
        }))
        yield* Effect.scoped(store.open)
      }))
  })

  describe("a transaction", () => {
    test("commits its changes with what its effect gives", (place) =>
      Effect.gen(function*() {
        const value = yield* using(place, (store) => store.transaction([published(1)], Effect.succeed("value")))
        assert.strictEqual(value, "value")
        assert.lengthOf(yield* using(place, ({ stored }) => Effect.succeed(stored.publishes)), 1)
      }))

    test("that fails, dies or is interrupted leaves nothing, and the store usable", (place) =>
      Effect.gen(function*() {
        yield* using(place, (store) =>
          Effect.gen(function*() {
            const failed = yield* Effect.exit(store.transaction([published(1)], Effect.fail("no")))
            assert.deepStrictEqual(failed, Exit.fail("no"))
            const died = yield* Effect.exit(store.transaction([published(2)], Effect.die("defect")))
            assert.isTrue(Exit.isFailure(died))
            const begun = yield* Deferred.make<void>()
            const fiber = yield* Effect.forkChild(
              store.transaction([published(3)], Effect.andThen(Deferred.succeed(begun, undefined), Effect.never))
            )
            yield* Deferred.await(begun)
            yield* Fiber.interrupt(fiber)
            yield* store.commit([published(4)])
          }))
        const stored = yield* using(place, (store) => Effect.succeed(store.stored))
        assert.deepStrictEqual(stored.publishes.map(({ sequence }) => sequence), [4])
        assert.strictEqual(stored.lastSequence, 4)
      }))

    if (options.isSerial) {
      test("that waits for its turn can be interrupted, also where its own work could not be", (place) =>
        using(place, (store) =>
          Effect.gen(function*() {
            const begun = yield* Deferred.make<void>()
            const end = yield* Deferred.make<void>()
            const first = yield* Effect.forkChild(
              store.transaction([published(1)], Effect.andThen(Deferred.succeed(begun, undefined), Deferred.await(end)))
            )
            yield* Deferred.await(begun)
            const second = yield* Effect.forkChild(
              Effect.uninterruptible(store.transaction([published(2)], Effect.void))
            )
            yield* Effect.yieldNow
            const interrupted = yield* Effect.forkChild(Fiber.interrupt(second))
            for (let turn = 0; turn < 20; turn++) yield* Effect.yieldNow
            assert.isDefined(interrupted.pollUnsafe())
            yield* Deferred.succeed(end, undefined)
            yield* Fiber.join(first)
            yield* store.commit([published(3)])
          })))

      test("holds up commits until it is over", (place) =>
        using(place, (store) =>
          Effect.gen(function*() {
            const begun = yield* Deferred.make<void>()
            const end = yield* Deferred.make<void>()
            const order: Array<string> = []
            const transaction = yield* Effect.forkChild(store.transaction(
              [published(1)],
              Effect.gen(function*() {
                yield* Deferred.succeed(begun, undefined)
                yield* Deferred.await(end)
                order.push("effect")
              })
            ))
            yield* Deferred.await(begun)
            const commit = yield* Effect.forkChild(
              Effect.andThen(store.commit([settled(1)]), Effect.sync(() => order.push("commit")))
            )
            yield* Effect.yieldNow
            yield* Deferred.succeed(end, undefined)
            yield* Fiber.join(transaction)
            yield* Fiber.join(commit)
            assert.deepStrictEqual(order, ["effect", "commit"])
          })))
    }
  })

  describe("random changes", () => {
    test("come to the same as in the model, in whatever batches", (place) =>
      Effect.gen(function*() {
        // One place for all programs: each begins with what the ones before left.
        const model = new MemoryData()
        let last = 0
        for (let seed = 1; seed <= options.programs; seed++) {
          const random = numbers(seed)
          const batches = Array.from({ length: 4 }, () =>
            Array.from({ length: random(12) }, () => {
              const change = anyChange(random, last)
              if (change._tag === "Published") last = Math.max(last, change.publish.sequence)
              return change
            }))
          yield* using(place, (store) =>
            Effect.gen(function*() {
              for (const batch of batches) {
                if (random(4) === 0) yield* store.transaction(batch, Effect.void)
                else yield* store.commit(batch)
                model.apply(batch)
              }
            }))
          const contents = yield* using(place, contentsOf)
          assert.deepStrictEqual(contents, yield* contentsOfModel(model), `seed ${seed}`)
        }
      }))
  })
}
