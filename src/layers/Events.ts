/**
 * The notification stream of a client: bounded, lossy, counted. It is for watching, never for flow, and costs nothing while
 * nobody watches.
 *
 * @since 0.1.0
 */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import type { ClientEvent } from "../services/Status.ts"
import { noSet, ownSet } from "../protocol/EmptyCollections.ts"

/** Events that one watcher may be behind. */
const capacity = 1024

class Watcher {
  readonly signal: Queue.Queue<void, Cause.Done>
  events: Array<ClientEvent> = []
  missed = 0

  constructor(signal: Queue.Queue<void, Cause.Done>) {
    this.signal = signal
  }
}

export class Events {
  #watchers = noSet<Watcher>()
  /** What happened before anybody could watch. */
  #early: Array<ClientEvent> | undefined
  #ended = false

  /** Whether anybody watches; ask before an event is built on the path of a message. */
  get isWatched(): boolean {
    return this.#watchers.size > 0
  }

  emit(event: ClientEvent): void {
    for (const watcher of this.#watchers) {
      watcher.events.push(event)
      if (watcher.events.length > capacity) {
        watcher.events.shift()
        watcher.missed++
      }
      // Wakes through the scheduler, so that a watcher never runs in the middle of a change of state.
      Queue.offerUnsafe(watcher.signal, undefined)
    }
  }

  /** For what happens while the client is built: the first watcher is told of it. */
  emitToFirst(event: ClientEvent): void {
    this.#early ??= []
    if (this.#early.length < capacity) this.#early.push(event)
  }

  /** The client is closed: watchers end once they have seen what there is. */
  end(): void {
    this.#ended = true
    for (const watcher of this.#watchers) Queue.endUnsafe(watcher.signal)
  }

  get stream(): Stream.Stream<ClientEvent> {
    return Stream.unwrap(
      Effect.map(
        Effect.acquireRelease(
          Effect.map(Queue.dropping<void, Cause.Done>(1), (signal) => {
            const watcher = new Watcher(signal)
            this.#watchers = ownSet(this.#watchers).add(watcher)
            watcher.events = this.#early ?? []
            this.#early = undefined
            if (watcher.events.length > 0) Queue.offerUnsafe(signal, undefined)
            if (this.#ended) Queue.endUnsafe(signal)
            return watcher
          }),
          (watcher) => Effect.sync(() => this.#watchers.delete(watcher))
        ),
        (watcher) =>
          Stream.flattenIterable(Stream.map(Stream.fromQueue(watcher.signal), (): ReadonlyArray<ClientEvent> => {
            const { events, missed } = watcher
            watcher.events = []
            watcher.missed = 0
            return missed === 0 ? events : [{ _tag: "EventsMissed", count: missed }, ...events]
          }))
      )
    )
  }
}
