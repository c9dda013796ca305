/**
 * A session store in memory: it outlives clients, not the process. For tests of restarts, and as the reading of what the
 * interface of a store means.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Semaphore from "effect/Semaphore"
import type { Change, StoredMessage, StoredOutcome, StoredPublish, StoredSession } from "../../services/SessionStore.ts"
import { SessionStore, SessionStoreError } from "../../services/SessionStore.ts"
import type { OpenStore, SessionStoreService } from "../../services/SessionStore.ts"

export * from "../../services/SessionStore.ts"

interface Inbound {
  readonly received: boolean
  readonly generation: number
}

/**
 * What a store keeps, as plain data.
 *
 * @category models
 * @since 0.1.0
 */
export class MemoryData {
  #session: StoredSession["session"]
  readonly #publishes = new Map<number, StoredPublish>()
  readonly #inbound = new Map<number, Inbound>()
  readonly #outcomes = new Map<string, StoredOutcome>()
  readonly #queues = new Map<string, Map<number, StoredMessage>>()
  #lastSequence = 0
  #lastPacketId = 0

  /** Applies changes, in order. */
  apply(changes: ReadonlyArray<Change>): void {
    for (const change of changes) this.#apply(change)
  }

  #apply(change: Change): void {
    switch (change._tag) {
      case "SessionBegan":
        this.#session = { key: change.key, epoch: change.epoch }
        return
      case "SessionEnded":
        this.#session = undefined
        this.#inbound.clear()
        return
      case "Published": {
        const { publish } = change
        // The caller may use its buffer again once the publish is done, and a store keeps what it was given.
        this.#publishes.set(publish.sequence, { ...publish, payload: publish.payload.slice() })
        this.#lastSequence = Math.max(this.#lastSequence, publish.sequence)
        if (publish.packetId > 0) this.#lastPacketId = publish.packetId
        return
      }
      case "Released": {
        const publish = this.#publishes.get(change.sequence)
        if (publish === undefined) return
        const { answer, releaseOrder } = change
        this.#publishes.set(change.sequence, { ...publish, stage: "released", releaseOrder, answer })
        return
      }
      case "Settled":
        this.#publishes.delete(change.sequence)
        if (change.id !== undefined) this.#outcomes.set(change.id, change.outcome)
        return
      case "Received": {
        const generation = this.#inbound.get(change.packetId)?.generation ?? 0
        this.#inbound.set(change.packetId, { received: true, generation })
        return
      }
      case "Completed": {
        const inbound = this.#inbound.get(change.packetId)
        if (inbound?.received !== true) return
        this.#inbound.set(change.packetId, { received: false, generation: inbound.generation + 1 })
        return
      }
      case "PutAside": {
        const queue = this.#queues.get(change.queue) ?? new Map<number, StoredMessage>()
        this.#queues.set(change.queue, queue)
        queue.set(change.message.sequence, change.message)
        return
      }
      case "TakenUp":
        this.#queues.get(change.queue)?.delete(change.sequence)
        return
    }
  }

  /** What a client that opens the store now is given. */
  get stored(): StoredSession {
    return {
      session: this.#session,
      publishes: [...this.#publishes.values()].sort((a, b) => a.sequence - b.sequence),
      inbound: [...this.#inbound].map(([packetId, inbound]) => ({ packetId, ...inbound })),
      lastSequence: this.#lastSequence,
      lastPacketId: this.#lastPacketId,
      queues: [...this.#queues].flatMap(([queue, messages]) => {
        if (messages.size === 0) return []
        let bytes = 0
        for (const { payload } of messages.values()) bytes += payload.length
        return [{ queue, count: messages.size, bytes, lastSequence: Math.max(...messages.keys()) }]
      }),
      quarantined: []
    }
  }

  outcome(id: string): StoredOutcome | undefined {
    return this.#outcomes.get(id)
  }

  putAside(queue: string, after: number, limit: number): ReadonlyArray<StoredMessage> {
    return [...this.#queues.get(queue)?.values() ?? []]
      .filter(({ sequence }) => sequence > after)
      .sort((a, b) => a.sequence - b.sequence)
      .slice(0, limit)
  }
}

/**
 * A store in memory. It keeps its data as long as it is referred to: a client that is built on it after another one was
 * closed goes on with the session of that one. Two clients cannot use it at once: the second one fails with `locked`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeMemory = (options: { readonly name?: string | undefined } = {}): SessionStoreService => {
  const name = options.name ?? "memory"
  const data = new MemoryData()
  const lock = Semaphore.makeUnsafe(1)
  let isOpen = false
  const locked = new SessionStoreError({
    operation: "open",
    kind: "locked",
    store: name,
    detail: "another client uses it"
  })
  const store = (): OpenStore => ({
    name,
    stored: data.stored,
    commit: (changes) => lock.withPermit(Effect.sync(() => data.apply(changes))),
    transaction: (changes, effect) =>
      Effect.uninterruptibleMask((restore) =>
        // Whoever waits can go, since nothing is begun.
        Effect.flatMap(Effect.interruptible(lock.take(1)), () =>
          Effect.ensuring(
            Effect.tap(restore(effect), () => Effect.sync(() => data.apply(changes))),
            lock.release(1)
          ))
      ),
    outcome: (id) => Effect.sync(() => data.outcome(id)),
    putAside: (queue, after, limit) => Effect.sync(() => data.putAside(queue, after, limit))
  })
  return {
    open: Effect.acquireRelease(
      Effect.suspend(() => {
        if (isOpen) return Effect.fail(locked)
        isOpen = true
        return Effect.succeed(store())
      }),
      () => Effect.sync(() => isOpen = false)
    )
  }
}

/**
 * A store in memory for the clients that are built with it; see `makeMemory`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory: Layer.Layer<never> = Layer.sync(SessionStore, () => makeMemory())
