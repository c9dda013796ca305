/**
 * The status of one subscription, and those who watch it.
 *
 * @since 0.1.0
 */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import type { SubscriptionStatus } from "../../services/MqttClient.ts"

/** Changes that a watcher may be behind. */
const capacity = 16

export class SubscriptionWatch {
  #status: SubscriptionStatus = { _tag: "Lost" }
  #isOver = false
  readonly #watchers = new Set<Queue.Queue<SubscriptionStatus, Cause.Done>>()

  readonly status: Effect.Effect<SubscriptionStatus> = Effect.sync(() => this.#status)

  /** Waking goes through the scheduler, so that a watcher never runs in the middle of a change of state. */
  set(status: SubscriptionStatus): void {
    if (this.#isOver || (status._tag === "Lost" && this.#status._tag === "Lost")) return
    this.#status = status
    for (const watcher of this.#watchers) Queue.offerUnsafe(watcher, status)
  }

  /** Nothing follows: the subscription has failed, or its scope has closed. */
  end(): void {
    this.#isOver = true
    for (const watcher of this.#watchers) Queue.endUnsafe(watcher)
  }

  readonly changes: Stream.Stream<SubscriptionStatus> = Stream.unwrap(
    Effect.map(
      Effect.acquireRelease(
        Effect.map(Queue.sliding<SubscriptionStatus, Cause.Done>(capacity), (watcher) => {
          this.#watchers.add(watcher)
          Queue.offerUnsafe(watcher, this.#status)
          if (this.#isOver) Queue.endUnsafe(watcher)
          return watcher
        }),
        (watcher) => Effect.sync(() => this.#watchers.delete(watcher))
      ),
      Stream.fromQueue
    )
  )
}
