import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope } from "effect"
import type { Change } from "../../src/services/SessionStore.ts"
import { TestSessionStore } from "../../src/testing/index.ts"

const received = (packetId: number): Change => ({ _tag: "Received", packetId })

const isWaiting = (fiber: Fiber.Fiber<unknown, unknown>) => fiber.pollUnsafe() === undefined

describe("TestSessionStore", () => {
  it.effect("keeps what is committed, and one client at a time can open it", () =>
    Effect.gen(function*() {
      const store = yield* TestSessionStore.make
      const scope = yield* Scope.make()
      const open = yield* Scope.provide(store.service.open, scope)
      const error = yield* Effect.flip(Effect.scoped(store.service.open))
      assert.strictEqual(error.kind, "locked")
      yield* open.commit([received(1)])
      yield* open.transaction([received(2)], Effect.void)
      yield* Scope.close(scope, Exit.void)
      const { stored } = yield* Effect.scoped(store.service.open)
      assert.deepStrictEqual(stored.inbound.map(({ packetId }) => packetId), [1, 2])
      assert.deepStrictEqual(store.commits, [[received(1)], [received(2)]])
    }))

  it.effect("a transaction whose effect fails changes nothing", () =>
    Effect.gen(function*() {
      const store = yield* TestSessionStore.make
      const open = yield* store.service.open
      assert.strictEqual(yield* Effect.flip(open.transaction([received(1)], Effect.fail("no"))), "no")
      assert.deepStrictEqual(store.stored.inbound, [])
    }).pipe(Effect.scoped))

  it.effect("fails what it is told to fail, with and without effect, and no more", () =>
    Effect.gen(function*() {
      const store = yield* TestSessionStore.make
      const open = yield* store.service.open
      yield* store.fail({ operation: "commit", kind: "full" })
      assert.strictEqual((yield* Effect.flip(open.commit([received(1)]))).kind, "full")
      assert.deepStrictEqual(store.stored.inbound, [])
      yield* store.fail({ operation: "commit", applied: true, where: ([change]) => change?._tag === "Received" })
      yield* open.commit([])
      yield* Effect.flip(open.commit([received(1)]))
      assert.lengthOf(store.stored.inbound, 1)
      const repair = yield* store.fail({ times: Infinity })
      yield* Effect.flip(open.outcome("a"))
      yield* repair
      assert.isUndefined(yield* open.outcome("a"))
    }).pipe(Effect.scoped))

  it.effect("holds commits until they are let go", () =>
    Effect.gen(function*() {
      const store = yield* TestSessionStore.make
      const open = yield* store.service.open
      const release = yield* store.hold
      const commit = yield* Effect.forkChild(open.commit([received(1)]), { startImmediately: true })
      assert.isTrue(isWaiting(commit))
      assert.strictEqual(store.waiting, 1)
      yield* release
      yield* Fiber.join(commit)
      assert.strictEqual(store.waiting, 0)
      assert.lengthOf(store.stored.inbound, 1)
    }).pipe(Effect.scoped))

  it.effect("a killed client reaches the store no more, and another one has it", () =>
    Effect.gen(function*() {
      const store = yield* TestSessionStore.make
      const open = yield* store.service.open
      yield* store.kill
      const commit = yield* Effect.forkChild(open.commit([received(1)]), { startImmediately: true })
      const later = yield* store.service.open
      yield* later.commit([received(2)])
      assert.isTrue(isWaiting(commit))
      assert.deepStrictEqual(store.stored.inbound.map(({ packetId }) => packetId), [2])
    }).pipe(Effect.scoped))

  it.effect("reports a quarantined entry once", () =>
    Effect.gen(function*() {
      const store = yield* TestSessionStore.make
      const entry = { table: "publishes", key: "1", problem: "not readable" }
      yield* store.quarantine(entry)
      assert.deepStrictEqual((yield* Effect.scoped(store.service.open)).stored.quarantined, [entry])
      assert.deepStrictEqual((yield* Effect.scoped(store.service.open)).stored.quarantined, [])
    }))
})
