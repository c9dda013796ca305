/**
 * Stands before the writer of a client with a session store: what changes the session is kept before the bytes that say so
 * are written.
 *
 * It takes a batch, which is what the link wants to send next and all changes that are recorded by then, commits the changes
 * in one transaction, and hands the bytes on. While it commits, the writer goes on with the batch before, and with what needs
 * no record: pings and PUBACKs. What is published in the meantime is the next batch, so a slow store makes larger
 * transactions and not fewer messages.
 *
 * It lives as long as the client, and keeps what changes without a connection, too.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import { SessionStoreError } from "../../services/SessionStore.ts"
import type { Change, OpenStore } from "../../services/SessionStore.ts"
import type { ClientCore } from "../ClientCore.ts"
import { isOfSession } from "./Journal.ts"
import type { Batch, Fresh, Journal } from "./Journal.ts"

/** Bytes whose changes are to be kept before they are written. */
export interface KeptBytes {
  readonly bytes: Uint8Array
  /** The publishes whose first sending they are. */
  readonly fresh: ReadonlyArray<Fresh>
}

/** The link that the bytes are for. */
export interface CommitTarget {
  /** Encodes what is to be sent next; undefined if there is nothing, or no room for it yet. */
  readonly collectKept: () => Uint8Array | undefined
  /** The bytes may be written; false if they cannot be any more. */
  readonly handOver: (kept: KeptBytes) => boolean
  /** The store does not keep what the link is about to say. */
  readonly onStoreFailed: (error: SessionStoreError) => void
  /** Whether bytes that were handed over wait for the writer. */
  readonly hasKept: boolean
}

const settle = (
  flushing: ReadonlyArray<Deferred.Deferred<void, SessionStoreError>>,
  exit: Exit.Exit<void, SessionStoreError>
): void => {
  for (const waiting of flushing) Deferred.doneUnsafe(waiting, exit)
}

export class Committer {
  readonly store: OpenStore
  readonly journal: Journal
  readonly #core: ClientCore
  readonly #signal: Queue.Queue<void>
  /** The link in use. */
  target: CommitTarget | undefined
  /** Whether a batch was taken and is not committed. */
  isCommitting = false
  /** Called once, when the batch that was taken is kept, or has failed: for a writer that may write nothing before. */
  onCommitted: ((isKept: boolean) => void) | undefined
  /** Whether a change of the session as a whole is not yet kept. */
  #isSessionChanging = false
  /** Those who wait for what was recorded before they came. */
  #flushing: Array<Deferred.Deferred<void, SessionStoreError>> = []
  /** Transactions of handlers that are under way. */
  #transactions = 0
  #transactionsOver: Deferred.Deferred<void> | undefined

  constructor(core: ClientCore, store: OpenStore, journal: Journal, signal: Queue.Queue<void>) {
    this.#core = core
    this.store = store
    this.journal = journal
    this.#signal = signal
  }

  /** There is something to commit, or to send. */
  readonly wake = (): void => {
    Queue.offerUnsafe(this.#signal, undefined)
  }

  /** Bytes that are on their way from the outbox to the writer. */
  get isBusy(): boolean {
    return this.isCommitting || (this.target?.hasKept ?? false)
  }

  /** Whether all that was recorded is kept. */
  get isIdle(): boolean {
    return this.journal.isEmpty && !this.isCommitting
  }

  /** The loop. */
  readonly run: Effect.Effect<never> = Effect.suspend(() => this.#loop())

  readonly #loop = Effect.fnUntraced(function*(this: Committer): Effect.fn.Return<never> {
    while (true) {
      yield* Queue.take(this.#signal)
      while (yield* this.#commitNext());
    }
  })

  /** Commits what there is; false if there was nothing, or it failed. */
  readonly #commitNext = Effect.fnUntraced(function*(this: Committer) {
    const flushing = this.#flushing
    this.#flushing = []
    const target = this.target
    // Before anything leaves the outbox, so that it is always seen somewhere.
    this.isCommitting = true
    const bytes = target?.collectKept()
    const fresh = this.journal.takeFresh()
    const batch = this.journal.take()
    if (bytes === undefined && batch.changes.length === 0 && batch.tells.length === 0) {
      this.isCommitting = false
      settle(flushing, Exit.void)
      return false
    }
    const exit = batch.changes.length === 0 ? Exit.void : yield* Effect.exit(this.#commit(batch.changes))
    if (Exit.isSuccess(exit)) {
      this.#onKept(batch, bytes, fresh, target)
      settle(flushing, exit)
      return true
    }
    const error = this.#toError(exit.cause)
    this.#onFailed(batch, fresh, target, error)
    settle(flushing, Exit.fail(error))
    return false
  })

  readonly #commit = Effect.fnUntraced(function*(this: Committer, changes: ReadonlyArray<Change>) {
    if (!changes.some(isOfSession)) return yield* this.store.commit(changes)
    this.#isSessionChanging = true
    // What a handler commits belongs to the session in which its message came, and goes with it.
    while (this.#transactions > 0) {
      this.#transactionsOver ??= Deferred.makeUnsafe()
      yield* Deferred.await(this.#transactionsOver)
    }
    yield* Effect.ensuring(this.store.commit(changes), Effect.sync(() => this.#isSessionChanging = false))
  })

  #onKept(
    batch: Batch,
    bytes: Uint8Array | undefined,
    fresh: ReadonlyArray<Fresh>,
    target: CommitTarget | undefined
  ): void {
    this.#core.startBatch()
    this.isCommitting = false
    for (const tell of batch.tells) tell()
    const isTaken = bytes !== undefined && target?.handOver({ bytes, fresh }) === true
    if (!isTaken && fresh.length > 0) this.#core.outbound.unsend(fresh)
    this.#core.endBatch()
    this.#tellCommitted(true)
  }

  #onFailed(
    batch: Batch,
    fresh: ReadonlyArray<Fresh>,
    target: CommitTarget | undefined,
    error: SessionStoreError
  ): void {
    this.#core.startBatch()
    this.isCommitting = false
    const unwritten = new Set(fresh.map(({ entry }) => entry.sequence))
    this.journal.putBack({
      changes: batch.changes.filter((change) => change._tag !== "Published" || !unwritten.has(change.publish.sequence)),
      tells: batch.tells
    })
    this.#core.outbound.unsend(fresh, error)
    target?.onStoreFailed(error)
    this.#core.endBatch()
    this.#tellCommitted(false)
  }

  #tellCommitted(isKept: boolean): void {
    const tell = this.onCommitted
    this.onCommitted = undefined
    tell?.(isKept)
  }

  #toError(cause: Cause.Cause<SessionStoreError>): SessionStoreError {
    const found = Cause.findErrorOption(cause)
    if (found._tag === "Some") return found.value
    return new SessionStoreError({
      operation: "commit",
      kind: "other",
      store: this.store.name,
      detail: "the store died",
      cause: Cause.squash(cause)
    })
  }

  /** Waits until all that was recorded is kept; fails with the first commit that does. */
  readonly flush: Effect.Effect<void, SessionStoreError> = Effect.suspend(() => {
    if (this.isIdle) return Effect.void
    const done = Deferred.makeUnsafe<void, SessionStoreError>()
    this.#flushing.push(done)
    this.wake()
    return Deferred.await(done)
  })

  /**
   * Runs a handler in a transaction of the store, which keeps the changes with what the handler does; `onKept` is called once
   * it has, whatever interruption comes. It is not begun before the store knows of the session, and the session does not
   * change in the meantime: `changesOf` is asked when it begins.
   */
  transaction<A, E, R>(
    changesOf: () => ReadonlyArray<Change>,
    effect: Effect.Effect<A, E, R>,
    onKept: () => void
  ): Effect.Effect<void, E | SessionStoreError, R> {
    const end = Effect.sync(() => {
      if (--this.#transactions > 0 || this.#transactionsOver === undefined) return
      Deferred.doneUnsafe(this.#transactionsOver, Exit.void)
      this.#transactionsOver = undefined
    })
    return Effect.uninterruptibleMask((restore) => {
      const run: Effect.Effect<void, E | SessionStoreError, R> = Effect.suspend(() => {
        if (this.#isSessionChanging || this.journal.isSessionChanging) {
          return Effect.andThen(restore(this.flush), run)
        }
        this.#transactions++
        return Effect.map(Effect.ensuring(this.store.transaction(changesOf(), restore(effect)), end), onKept)
      })
      return run
    })
  }
}
