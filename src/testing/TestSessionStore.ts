/**
 * A session store in memory whose every fault is on a switch: commits that fail, with or without effect, commits that take
 * their time, and the process that is killed.
 *
 * ```ts
 * import { TestSessionStore } from "effect-mqtt/testing"
 *
 * it.effect("nothing is sent before it is kept", () =>
 *   Effect.gen(function*() {
 *     const store = yield* TestSessionStore.TestSessionStore
 *     const release = yield* store.hold
 *     // ... publish: the broker sees nothing ...
 *     yield* release
 *   }).pipe(Effect.provide(TestSessionStore.layer)))
 * ```
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Semaphore from "effect/Semaphore"
import { MemoryData } from "../layers/store/MemorySessionStore.ts"
import { SessionStore, SessionStoreError } from "../services/SessionStore.ts"
import type { Change, OpenStore, Quarantined, SessionStoreService, StoredSession } from "../services/SessionStore.ts"

/**
 * How an operation is to fail.
 *
 * @category options
 * @since 0.1.0
 */
export interface StoreFault {
  /** Default: any. */
  readonly operation?: SessionStoreError["operation"] | undefined
  /** Default `"other"`. */
  readonly kind?: SessionStoreError["kind"] | undefined
  /** How many operations fail. Default 1. */
  readonly times?: number | undefined
  /** Whether the changes are kept all the same, as when the answer of a database is lost. Default false. */
  readonly applied?: boolean | undefined
  /** Which commits and transactions; default all. */
  readonly where?: ((changes: ReadonlyArray<Change>) => boolean) | undefined
}

/**
 * The store of the kit.
 *
 * @category services
 * @since 0.1.0
 */
export class TestSessionStore extends Context.Service<TestSessionStore, {
  readonly service: SessionStoreService
  /** Fails the next operations that match; gives the way to end it. */
  readonly fail: (fault?: StoreFault) => Effect.Effect<Effect.Effect<void>>
  /** From now on commits, and the ends of transactions, wait; gives the way to let them go. */
  readonly hold: Effect.Effect<Effect.Effect<void>>
  /** Commits and transactions that wait because of `hold`. */
  readonly waiting: number
  /** What was committed, oldest first. */
  readonly commits: ReadonlyArray<ReadonlyArray<Change>>
  /**
   * Takes the store away from the client that has it, as when its process is killed: what that client commits from now on
   * waits for ever, and another one can open the store.
   */
  readonly kill: Effect.Effect<void>
  /** What a client that opens the store now is given. */
  readonly stored: StoredSession
  /** Reported as quarantined at the next opening. */
  readonly quarantine: (entry: Quarantined) => Effect.Effect<void>
}>()("effect-mqtt/testing/TestSessionStore") {}

interface Fault {
  readonly fault: StoreFault
  left: number
}

const name = "test"

class Controls {
  readonly data = new MemoryData()
  readonly commits: Array<ReadonlyArray<Change>> = []
  readonly quarantined: Array<Quarantined> = []
  faults: Array<Fault> = []
  latch: Deferred.Deferred<void> | undefined
  waiting = 0
  /** Raised when a client is killed; who opened the store before has lost it. */
  life = 0
  isOpen = false

  failure(operation: SessionStoreError["operation"], changes: ReadonlyArray<Change>): Fault | undefined {
    const found = this.faults.find(({ fault, left }) =>
      left > 0 && (fault.operation ?? operation) === operation && (fault.where?.(changes) ?? true)
    )
    if (found !== undefined) found.left--
    return found
  }

  /** Waits while commits are held, and for ever once the client is killed. */
  readonly gate = (life: number): Effect.Effect<void> =>
    Effect.suspend(() => {
      // Also where nothing else may be interrupted: the process is gone, and only its test is left.
      if (life !== this.life) return Effect.interruptible(Effect.never)
      if (this.latch === undefined) return Effect.void
      this.waiting++
      return Deferred.await(this.latch).pipe(
        Effect.ensuring(Effect.sync(() => this.waiting--)),
        Effect.andThen(this.gate(life))
      )
    })

  keep(operation: "commit" | "transaction", changes: ReadonlyArray<Change>): Effect.Effect<void, SessionStoreError> {
    return Effect.suspend(() => {
      const fault = this.failure(operation, changes)
      if (fault === undefined || fault.fault.applied === true) {
        this.data.apply(changes)
        this.commits.push(changes)
      }
      return fault === undefined ? Effect.void : Effect.fail(toError(operation, fault.fault))
    })
  }
}

const toError = (operation: SessionStoreError["operation"], { kind = "other" }: StoreFault): SessionStoreError =>
  new SessionStoreError({ operation, kind, store: name, detail: "the test says so" })

const open = (controls: Controls): OpenStore => {
  const { data, life } = controls
  const permit = Semaphore.makeUnsafe(1)
  const read = <A>(evaluate: () => A): Effect.Effect<A, SessionStoreError> =>
    Effect.suspend(() => {
      if (life !== controls.life) return Effect.never
      const fault = controls.failure("read", [])
      return fault === undefined ? Effect.sync(evaluate) : Effect.fail(toError("read", fault.fault))
    })
  return {
    name,
    stored: { ...data.stored, quarantined: controls.quarantined.splice(0) },
    commit: (changes) => permit.withPermit(Effect.andThen(controls.gate(life), controls.keep("commit", changes))),
    transaction: (changes, effect) =>
      permit.withPermit(
        Effect.tap(effect, () => Effect.andThen(controls.gate(life), controls.keep("transaction", changes)))
      ),
    outcome: (id) => read(() => data.outcome(id)),
    putAside: (queue, after, limit) => read(() => data.putAside(queue, after, limit))
  }
}

/**
 * @category constructors
 * @since 0.1.0
 */
export const make: Effect.Effect<TestSessionStore["Service"]> = Effect.sync(() => {
  const controls = new Controls()
  const service: SessionStoreService = {
    open: Effect.map(
      Effect.acquireRelease(
        Effect.suspend(() => {
          const fault = controls.failure("open", [])
          if (fault !== undefined) return Effect.fail(toError("open", fault.fault))
          if (controls.isOpen) return Effect.fail(toError("open", { kind: "locked" }))
          controls.isOpen = true
          return Effect.succeed(controls.life)
        }),
        (life) =>
          Effect.sync(() => {
            if (life === controls.life) controls.isOpen = false
          })
      ),
      () => open(controls)
    )
  }
  return {
    service,
    fail: (fault = {}) =>
      Effect.sync(() => {
        const entry: Fault = { fault, left: fault.times ?? 1 }
        controls.faults.push(entry)
        return Effect.sync(() => {
          controls.faults = controls.faults.filter((other) => other !== entry)
        })
      }),
    hold: Effect.sync(() => {
      const latch = controls.latch ??= Deferred.makeUnsafe<void>()
      return Effect.sync(() => {
        if (controls.latch === latch) controls.latch = undefined
        Deferred.doneUnsafe(latch, Exit.void)
      })
    }),
    get waiting() {
      return controls.waiting
    },
    commits: controls.commits,
    kill: Effect.sync(() => {
      controls.life++
      controls.isOpen = false
    }),
    get stored() {
      return controls.data.stored
    },
    quarantine: (entry) => Effect.sync(() => void controls.quarantined.push(entry))
  }
})

/**
 * The store and its switches. Clients that are built with it use the store.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<TestSessionStore> = Layer.effectContext(
  Effect.map(make, (store) => Context.make(TestSessionStore, store).pipe(Context.add(SessionStore, store.service)))
)
