/**
 * Opens the session store of a client, and gives the client back what an earlier one left there.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import { InvalidOptions, SessionLost } from "../../services/MqttError.ts"
import type { ResolvedOptions } from "../../services/ResolvedOptions.ts"
import type {
  Quarantined,
  SessionStoreError,
  SessionStoreService,
  StoredPublish,
  StoredSession
} from "../../services/SessionStore.ts"
import type { ClientCore } from "../ClientCore.ts"
import { Committer } from "./Committer.ts"
import { Journal } from "./Journal.ts"
import type { Entry } from "../publishing/Entry.ts"
import { sizeOf } from "../publishing/Publishing.ts"

/** The problem of options that cannot go with a session store. */
export const checkClientId = (options: ResolvedOptions): InvalidOptions | undefined =>
  options.clientId === undefined || options.clientId === ""
    ? new InvalidOptions({
      option: "clientId",
      problem: "must be given with a session store, since a session belongs to a client id that stays the same"
    })
    : undefined

/**
 * Opens the store and starts what keeps it; both end with the scope. `process` is a text that no other process uses.
 */
export const openStore = Effect.fnUntraced(function*(
  core: ClientCore,
  service: SessionStoreService,
  process: string
): Effect.fn.Return<void, SessionStoreError, Scope.Scope> {
  const clock = yield* Clock.Clock
  const store = yield* service.open
  const signal = yield* Queue.dropping<void>(1)
  const wallClock = () => clock.currentTimeMillisUnsafe()
  const journal = new Journal(process, wallClock, () => Queue.offerUnsafe(signal, undefined))
  const committer = new Committer(core, store, journal, signal)
  journal.restore(store.stored)
  core.journal = journal
  core.committer = committer
  core.inbox.journal = journal
  core.sessionKey = store.stored.session?.key
  const unusable = restore(core, store.stored, wallClock())
  for (const entry of [...store.stored.quarantined, ...unusable]) {
    yield* Effect.logWarning(
      `an entry of the session store ${store.name} cannot be used and was moved out of the way`,
      entry
    )
    core.events.emitToFirst({ _tag: "StoreEntryQuarantined", ...entry })
  }
  yield* Effect.forkScoped(committer.run)
})

/** Takes over what an earlier process had not finished; gives what cannot be taken over. */
const restore = (core: ClientCore, stored: StoredSession, wallNow: number): ReadonlyArray<Quarantined> => {
  const now = core.now()
  const queued: Array<Entry> = []
  const exchanges = [...stored.publishes]
    .sort((a, b) => a.releaseOrder - b.releaseOrder || a.sequence - b.sequence)
    .flatMap((publish) => {
      const entry = toEntry(publish, now - Math.max(0, wallNow - publish.storedAt))
      core.publishIds.begin(entry)
      const { answer, packetId, payload, properties, qos, retain, stage, topic } = publish
      if (stage === "queued") {
        queued.push(entry)
        return []
      }
      return [{
        publish: { _tag: "Publish" as const, dup: false, qos, retain, topic, packetId, payload, properties },
        stage,
        answer,
        token: entry
      }]
    })
  const received = stored.session === undefined ? [] : stored.inbound.filter(({ received }) => received)
  const unusable = core.session.restore(exchanges, received.map(({ packetId }) => packetId))
  core.session.ids.continueAfter(stored.lastPacketId)
  core.outbox.restore(queued, exchanges.map(({ token }) => token), stored.lastSequence)
  return unusable.map(({ publish, token }) => {
    core.outbox.release(token)
    core.outbound.end(token, { _tag: "Failed", reason: new SessionLost({ phase: token.phase }) })
    return {
      table: "publishes",
      key: String(token.sequence),
      problem: `its packet identifier ${publish.packetId} is not free`
    }
  })
}

const toEntry = (publish: StoredPublish, at: number): Entry => {
  const { id, payload, properties, qos, retain, sequence, stage, topic } = publish
  return {
    topic,
    payload,
    qos,
    retain,
    properties,
    size: sizeOf(topic, payload, properties),
    at,
    state: "sent",
    phase: stage === "released" ? "received" : "written",
    sequence,
    resume: undefined,
    id,
    isKept: true,
    isRestored: true,
    isRepublished: publish.isRepublished === true,
    batch: undefined
  }
}
