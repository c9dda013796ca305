/**
 * The status of a client, and those who watch it.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type { Status } from "../../services/Status.ts"

export class StatusCell {
  #current: Status
  /** Made for the first watcher, since it takes 2 KiB and most clients have none. */
  #watched: SubscriptionRef.SubscriptionRef<Status> | undefined

  constructor(initial: Status) {
    this.#current = initial
  }

  get current(): Status {
    return this.#current
  }

  set(status: Status): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.#current = status
      return this.#watched === undefined ? Effect.void : SubscriptionRef.set(this.#watched, status)
    })
  }

  /** The present status and all that follow. */
  get changes(): Stream.Stream<Status> {
    return Stream.suspend(() =>
      // In one step, so that no change comes between.
      SubscriptionRef.changes(this.#watched ??= Effect.runSync(SubscriptionRef.make(this.#current)))
    )
  }
}
