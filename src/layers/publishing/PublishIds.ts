/**
 * Publishes under their callers' own ids that are not over, and who waits for each of them.
 *
 * @since 0.1.0
 */
import type { ClientClosed, ClientHalted } from "../../services/MqttError.ts"
import { PublishAbandoned } from "../../services/MqttError.ts"
import { noMap, ownMap } from "../../protocol/EmptyCollections.ts"
import type { Entry, Outcome } from "./Entry.ts"

type Waiter = (outcome: Outcome, entry: Entry) => void

/** A look into the store for what became of a publish. */
export interface Lookup {
  /** Whether a publish with this id has ended since, so that the look has to be repeated. */
  isStale: boolean
  readonly end: () => void
}

interface Pending {
  readonly entry: Entry
  readonly waiters: Set<Waiter>
}

export class PublishIds {
  #pending = noMap<string, Pending>()
  /** Looks into the store that are under way. */
  #lookups = noMap<string, Set<Lookup>>()

  get(id: string): Entry | undefined {
    return this.#pending.get(id)?.entry
  }

  /** A publish begins, or was restored. */
  begin(entry: Entry): void {
    if (entry.id !== undefined) this.#pending = ownMap(this.#pending).set(entry.id, { entry, waiters: new Set() })
  }

  /** Waits for the outcome of the publish with this id. Gives the way to end the waiting, which says who else waits. */
  join(id: string, waiter: Waiter): () => "others" | "nobody" {
    const pending = this.#pending.get(id)!
    const { entry, waiters } = pending
    waiters.add(waiter)
    entry.resume ??= (outcome) => {
      for (const wake of waiters) wake(outcome, entry)
      waiters.clear()
    }
    return () => {
      waiters.delete(waiter)
      return waiters.size > 0 ? "others" : "nobody"
    }
  }

  /** The publish is over, and if it has an outcome, it is kept. */
  end(entry: Entry): void {
    const { id } = entry
    if (id === undefined || this.#pending.get(id)?.entry !== entry) return
    this.#pending.delete(id)
    for (const lookup of this.#lookups.get(id) ?? []) lookup.isStale = true
  }

  /** Ends the waiting for all that are over without their outcome being kept: it will be once the client goes on. */
  abandon(cause: ClientHalted | ClientClosed, finish: (entry: Entry, outcome: Outcome) => void): void {
    for (const { entry } of this.#pending.values()) {
      finish(entry, { _tag: "Failed", reason: new PublishAbandoned({ phase: entry.phase, cause }) })
    }
  }

  /** A look into the store begins. */
  lookUp(id: string): Lookup {
    const lookups = this.#lookups.get(id) ?? new Set()
    this.#lookups = ownMap(this.#lookups).set(id, lookups)
    const lookup: Lookup = {
      isStale: false,
      end: () => {
        lookups.delete(lookup)
        if (lookups.size === 0 && this.#lookups.get(id) === lookups) this.#lookups.delete(id)
      }
    }
    lookups.add(lookup)
    return lookup
  }
}
