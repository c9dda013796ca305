/**
 * `publish` under a caller's own id, and `outcome`: what was published once is not published again, however often it is asked
 * for, in this process or a later one.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type { MqttClientService, PublishOutcome, PublishResult } from "../../services/MqttClient.ts"
import {
  InvalidMessage,
  NoSessionStore,
  PublishAbandoned,
  PublishError,
  SessionLost
} from "../../services/MqttError.ts"
import type { PublishReason } from "../../services/MqttError.ts"
import type { OpenStore, SessionStoreError, StoredOutcome } from "../../services/SessionStore.ts"
import type { ClientCore } from "../ClientCore.ts"
import type { Entry } from "./Entry.ts"
import type { Lookup } from "./PublishIds.ts"
import { guaranteeOf, toEffect } from "./PublishResults.ts"

/** Characters of an id. */
const idMaximum = 255

/** Why the publish cannot have this id. */
export const checkId = (core: ClientCore, id: unknown, entry: Entry): InvalidMessage | undefined => {
  const invalid = (problem: string) => new InvalidMessage({ field: "id", problem })
  if (typeof id !== "string" || id.length === 0 || id.length > idMaximum) {
    return invalid(`must be a string of 1 to ${idMaximum} characters`)
  }
  // A store keeps text as UTF-8, which has no place for them, so that two ids could become one.
  if (!id.isWellFormed()) return invalid("has a lone surrogate")
  if (entry.qos === 0) return invalid("needs QoS 1 or 2, since a message of QoS 0 has no outcome")
  if (core.committer === undefined) return invalid("needs a session store, which remembers it")
  return undefined
}

/** Waits for the outcome of a publish that is under way; who was the last to wait takes back what no byte was written of. */
const join = (
  core: ClientCore,
  id: string,
  entry: Entry,
  resume: (effect: Effect.Effect<PublishResult, PublishError>) => void
): Effect.Effect<void> => {
  const leave = core.publishIds.join(id, (outcome) => resume(toEffect(entry, outcome)))
  return Effect.sync(() => {
    if (leave() === "others") return
    // What the store has goes on, as it would in a later process, but for what was never written after all.
    if (entry.isKept === true && entry.phase !== "queued") entry.resume = undefined
    else core.outbound.abandon(entry)
  })
}

/**
 * Publishes the entry under its caller's own id, which was checked.
 */
export const publishById = (
  core: ClientCore,
  id: string,
  entry: Entry
): Effect.Effect<PublishResult, PublishError> => {
  const fail = (reason: PublishReason, phase: PublishError["phase"]) =>
    Effect.fail(new PublishError({ topic: entry.topic, phase, reason }))

  /** Acts upon what the store says, in one turn: nobody else can begin or end a publish with this id in between. */
  const act = (lookup: Lookup, found: StoredOutcome | undefined): Effect.Effect<PublishResult, PublishError> =>
    Effect.callback((resume) => {
      const { gate } = core
      const pending = core.publishIds.get(id)
      lookup.end()
      if (pending === undefined && lookup.isStale) return resume(attempt)
      if (pending === undefined && found?._tag === "Delivered") {
        const { qos, reasonCode } = found
        return resume(Effect.succeed({ qos, reasonCode, reasonString: undefined, guarantee: guaranteeOf(found) }))
      }
      if (pending === undefined && found?._tag === "Unknown") {
        if (core.options.onSessionLost[entry.qos === 1 ? "qos1" : "qos2"] === "fail") {
          return resume(fail(new SessionLost({ phase: "written" }), "written"))
        }
        entry.isRepublished = true
      }
      const { phase } = pending ?? entry
      if (gate !== undefined) return resume(fail(new PublishAbandoned({ phase, cause: gate }), phase))
      if (pending !== undefined) return join(core, id, pending, resume)
      entry.id = id
      core.publishIds.begin(entry)
      const leave = join(core, id, entry, resume)
      core.outbound.offer(entry)
      return leave
    })

  const attempt: Effect.Effect<PublishResult, PublishError> = withLookup(core, id, (lookup) => {
    const found = core.publishIds.get(id) === undefined ? core.committer!.store.outcome(id) : Effect.succeed(undefined)
    return Effect.matchEffect(found, {
      onFailure: (error) => fail(error, "queued"),
      onSuccess: (outcome) => act(lookup, outcome)
    })
  })
  return attempt
}

/** A look into the store, which ends with its use, also where that is interrupted before it begins. */
const withLookup = <A, E>(
  core: ClientCore,
  id: string,
  use: (lookup: Lookup) => Effect.Effect<A, E>
): Effect.Effect<A, E> =>
  Effect.acquireUseRelease(
    Effect.sync(() => core.publishIds.lookUp(id)),
    use,
    (lookup) => Effect.sync(lookup.end)
  )

/** What is known of an id, by the store or since. */
const lookUp = (core: ClientCore, store: OpenStore, id: string): Effect.Effect<PublishOutcome, SessionStoreError> =>
  Effect.suspend(() => {
    const begun = core.publishIds.get(id)
    if (begun !== undefined) return Effect.succeed<PublishOutcome>({ _tag: "Pending", phase: begun.phase })
    return withLookup(core, id, (lookup) =>
      Effect.flatMap(store.outcome(id), (found) => {
        if (lookup.isStale || core.publishIds.get(id) !== undefined) return lookUp(core, store, id)
        return Effect.succeed<PublishOutcome>(found ?? { _tag: "None" })
      }))
  })

/**
 * @category constructors
 * @since 0.1.0
 */
export const makeOutcome = (core: ClientCore): MqttClientService["outcome"] => (id) =>
  Effect.suspend((): Effect.Effect<PublishOutcome, NoSessionStore | SessionStoreError> =>
    core.committer === undefined ? Effect.fail(new NoSessionStore()) : lookUp(core, core.committer.store, id)
  )
