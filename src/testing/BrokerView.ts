/**
 * How a test sees the broker of the kit: clients, sessions, packets, and waiting for them.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { Connect, ProtocolVersion, QoS } from "../protocol/Packet.ts"
import type { BrokerConnection } from "./BrokerConnection.ts"
import type { BrokerCore, LogEntry } from "./BrokerCore.ts"
import type { BrokerSession } from "./BrokerSession.ts"
import type { Peer } from "./MemoryNetwork.ts"
import { isMatch } from "./PacketRules.ts"
import type { AnyMatch } from "./PacketRules.ts"

/**
 * A client that is connected.
 *
 * @category models
 * @since 0.1.0
 */
export interface ConnectedClient {
  readonly clientId: string
  readonly connectionId: number
  readonly protocolVersion: ProtocolVersion
  readonly connect: Connect
  /** Milliseconds of the Clock. */
  readonly connectedAt: number
  /** Seconds that are in force. */
  readonly keepAlive: number
  /** The broker's raw end of the connection: black holes, stalled and slow reads, raw bytes, chunk size. */
  readonly peer: Peer
}

/**
 * What the broker remembers of a client, connected or not.
 *
 * @category models
 * @since 0.1.0
 */
export interface SessionInfo {
  readonly clientId: string
  readonly isConnected: boolean
  readonly subscriptions: ReadonlyArray<{
    readonly filter: string
    readonly qos: QoS
    readonly identifier: number | undefined
  }>
  /** Messages that wait for the client's window, or for the client. */
  readonly queued: number
  /** Messages sent and not acknowledged to the end. */
  readonly unacked: number
  /** QoS 2 publishes of the client between PUBLISH and PUBREL. */
  readonly received: number
  /** Seconds. */
  readonly expiry: number
}

/**
 * @internal
 */
export const toClient = (connection: BrokerConnection): ConnectedClient => ({
  clientId: connection.clientId,
  connectionId: connection.id,
  protocolVersion: connection.version,
  connect: connection.connect!,
  connectedAt: connection.connectedAt,
  keepAlive: connection.keepAliveSeconds,
  peer: connection.peer
})

/**
 * @internal
 */
export const toInfo = (session: BrokerSession): SessionInfo => ({
  clientId: session.clientId,
  isConnected: session.connection !== undefined,
  subscriptions: [...session.subscriptions.values()].map(({ identifier, qos, text }) => ({
    filter: text,
    qos,
    identifier
  })),
  queued: session.queue.length,
  unacked: session.inflight.size,
  received: session.incoming.size,
  expiry: session.expiry
})

/**
 * Wakes those who wait for something to become so; the look is repeated at every change.
 *
 * @internal
 */
export const makeWatch = (schedule: (task: () => void) => void) => {
  let waiters: ReadonlyArray<() => void> = []
  let scheduled = false
  return {
    changed: () => {
      if (scheduled || waiters.length === 0) return
      scheduled = true
      schedule(() => {
        scheduled = false
        for (const look of waiters) look()
      })
    },
    until: <A>(probe: () => A | undefined): Effect.Effect<A> =>
      Effect.callback<A>((resume) => {
        const end = () => {
          waiters = waiters.filter((other) => other !== look)
        }
        const look = () => {
          const found = probe()
          if (found === undefined) return
          end()
          resume(Effect.succeed(found))
        }
        waiters = [...waiters, look]
        look()
        return Effect.sync(end)
      })
  }
}

/**
 * @internal
 */
export type Watch = ReturnType<typeof makeWatch>

/**
 * The part of the service that looks. What it finds has the type that its generic signature in the service promises.
 *
 * @internal
 */
export const makeObservations = (core: BrokerCore, watch: Watch, settle: Effect.Effect<void>) => {
  const givenOut = new WeakSet<LogEntry>()
  const isHit = (match: AnyMatch, entry: LogEntry) => isMatch(match, entry.from, entry.clientId, entry.packet)
  const nextHit = (match: AnyMatch) => core.log.find((entry) => !givenOut.has(entry) && isHit(match, entry))
  const packetsFrom = (position: number): Effect.Effect<readonly [ReadonlyArray<LogEntry>, Option.Option<number>]> =>
    watch.until(() => {
      const fresh = core.log.slice(Math.max(0, position - core.forgotten))
      return fresh.length === 0 ? undefined : [fresh, Option.some(core.forgotten + core.log.length)] as const
    })
  return {
    packets: Stream.paginate(0, packetsFrom),
    expectPacket: (match: AnyMatch) =>
      watch.until(() => {
        const entry = nextHit(match)
        if (entry !== undefined) givenOut.add(entry)
        return entry
      }) as Effect.Effect<never>,
    packetsOf: (match: AnyMatch) => core.log.filter((entry): entry is never => isHit(match, entry)),
    expectNoPacket: (match: AnyMatch) =>
      Effect.flatMap(settle, () => {
        const entry = nextHit(match)
        if (entry === undefined) return Effect.void
        return Effect.die(new Error(`unexpected ${entry.packet._tag} of the ${entry.from} at ${entry.at} ms`))
      }),
    awaitClient: (clientId?: string) => Effect.map(untilConnected(core, watch, clientId), toClient),
    awaitGone: (clientId: string) =>
      Effect.asVoid(watch.until(() => findConnected(core, clientId) === undefined ? true : undefined)),
    awaitSession: (clientId: string, predicate: (session: SessionInfo) => boolean) =>
      watch.until(() => {
        const session = core.sessions.get(clientId)
        const info = session === undefined ? undefined : toInfo(session)
        return info !== undefined && predicate(info) ? info : undefined
      }),
    expectViolation: (row?: string) =>
      watch.until(() => {
        const found = core.violations.find((violation) => row === undefined || violation.row === row)
        if (found !== undefined) core.violations = core.violations.filter((other) => other !== found)
        return found
      }),
    settle
  }
}

const findConnected = (core: BrokerCore, clientId: string | undefined) =>
  [...core.connections].find((connection) =>
    connection.isConnected && (clientId === undefined || connection.clientId === clientId)
  )

/**
 * @internal
 */
export const untilConnected = (core: BrokerCore, watch: Watch, clientId: string | undefined) =>
  watch.until(() => findConnected(core, clientId))
