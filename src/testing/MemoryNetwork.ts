/**
 * A network in memory: the `Transport` of a test, exact in virtual time, with every fault on a switch.
 *
 * `MemoryNetwork.layer` provides both the `Transport` that a client dials with and the `MemoryNetwork` service that a test
 * plays the servers with. Everything runs through the Effect scheduler and the Clock, so under `TestClock` a day passes in
 * one `adjust`. Nothing here knows MQTT, except that `Peer.readFrame` cuts the stream at control packets; a whole broker is
 * in `TestBroker`.
 *
 * ```ts
 * import { MemoryNetwork } from "effect-mqtt/testing"
 *
 * const program = Effect.gen(function*() {
 *   const network = yield* MemoryNetwork.MemoryNetwork
 *   const listener = yield* network.listen({ host: "broker", port: 1883 })
 *   // ... fork a client that dials mqtt://broker:1883 ...
 *   const peer = yield* listener.accept
 *   const connect = yield* peer.readFrame
 *   yield* peer.sendHex("20 03 00 00 00")
 *   yield* peer.blackHole("both")
 *   yield* TestClock.adjust("2 minutes")
 *   const end = yield* peer.closed // { how: "abort", at: 75_000 }
 * })
 * program.pipe(Effect.provide(MemoryNetwork.layer))
 * ```
 *
 * **How it stands to the contract of Transport**
 *
 * - A write completes when its last byte fits into the window (`windowBytes`): bytes on the way, in a black hole, or not
 *   taken by a server that stalls. By default a server takes everything at once, so writes complete at once.
 * - Bytes that have arrived can be pulled after a FIN or a reset; then pulls fail, with `eof` or `reset`, for good. Writes
 *   fail at once after a reset, and after a FIN from the moment at which a pull has reported it.
 * - Closing the client's scope fails a suspended pull or write as `aborted`, and sends a FIN behind the bytes accepted so
 *   far. `abort` sends a reset. Neither ever waits for the server.
 * - Overlapping writes, and a write after an interrupted one, break the contract and die.
 *
 * @since 0.1.0
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Scheduler from "effect/Scheduler"
import type * as Scope from "effect/Scope"
import type { Endpoint } from "../services/Endpoint.ts"
import { Transport, TransportError } from "../services/Transport.ts"
import { frameLength } from "./Framer.ts"
import * as Hex from "./Hex.ts"
import { concat, MemoryLink } from "./MemoryLink.ts"
import type { ClientEnd, LinkHost, PeerClosed } from "./MemoryLink.ts"

export { PeerClosed } from "./MemoryLink.ts"
export type { ClientEnd } from "./MemoryLink.ts"

/**
 * How a dial ends.
 *
 * - `refused`: nobody listens there (also what a known host with an unknown port gives)
 * - `unresolved`: the name does not exist (also what an unknown host gives)
 * - `unreachable`, `timeout`: as the operating system would report them
 * - `silent`: the dial hangs until it is interrupted
 *
 * @category models
 * @since 0.1.0
 */
export type DialFault = "refused" | "unresolved" | "unreachable" | "timeout" | "silent"

/**
 * One attempt to open a connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface Dial {
  /** Milliseconds of the Clock at which the dial began. */
  readonly at: number
  readonly address: string
  readonly outcome: "pending" | "open" | "interrupted" | Exclude<DialFault, "silent">
}

/**
 * Where a server listens, and how its connections behave.
 *
 * @category options
 * @since 0.1.0
 */
export interface ListenOptions {
  /** Default `"*"`: every host that has no listener of its own. */
  readonly host?: string | undefined
  /** Default 1883; `"*"` is every port that has no listener of its own. */
  readonly port?: number | "*" | undefined
  /** Bytes that a client can have under way before its writes suspend. Default 262,144. */
  readonly windowBytes?: number | undefined
  /** Largest chunk that a client's pull gives, one per pull. Default: all that has arrived, in the chunks as sent. */
  readonly chunkBytes?: number | undefined
  /** Whether `Peer.received` is kept. Default `true`; turn it off where much is sent. */
  readonly record?: boolean | undefined
}

/**
 * A server that listens. It is closed with its scope: its connections are reset then, and dials are refused.
 *
 * @category models
 * @since 0.1.0
 */
export interface Listener {
  /** The next connection. A dial succeeds without it, as with a real listener's backlog. */
  readonly accept: Effect.Effect<Peer>
  /** All connections that were opened so far, accepted or not. */
  readonly peers: ReadonlyArray<Peer>
}

/**
 * The server's raw end of one connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface Peer {
  /** Counts up from 1 over the whole network. */
  readonly id: number
  /** The address as the client dialled it. */
  readonly address: string
  /** Milliseconds of the Clock. */
  readonly openedAt: number

  /** The next bytes from the client. */
  readonly read: Effect.Effect<NonEmptyReadonlyArray<Uint8Array>, PeerClosed>
  /** Exactly `length` bytes from the client. */
  readonly readBytes: (length: number) => Effect.Effect<Uint8Array, PeerClosed>
  /** The bytes of the next whole MQTT control packet. */
  readonly readFrame: Effect.Effect<Uint8Array, PeerClosed>
  /** All bytes that the server has taken so far. */
  readonly received: Uint8Array
  /** `received` in the form `10 0a 00 04`. */
  readonly receivedHex: string

  /** Sends; never suspends. Nothing happens after `fin`, `close` or `reset`. */
  readonly send: (bytes: Uint8Array) => Effect.Effect<void>
  /** Sends bytes written as `"20 03 00 00 00"`. */
  readonly sendHex: (hex: string) => Effect.Effect<void>
  /** Ends the server's sending side; what the client sends is still read. */
  readonly fin: Effect.Effect<void>
  /** Ends both sides in order: a FIN, and a reset if the client goes on sending. */
  readonly close: Effect.Effect<void>
  /** Destroys the connection. What was sent before still arrives. */
  readonly reset: Effect.Effect<void>

  /**
   * Swallows all that travels in a direction: `in` is client to server. The client's writes still succeed until the window
   * is full, and nothing, not even a FIN or a reset, gets through.
   */
  readonly blackHole: (direction: "in" | "out" | "both") => Effect.Effect<void>
  /** Ends the black hole: what it held back arrives, as TCP would send it again. */
  readonly heal: Effect.Effect<void>
  /** Stops reading: the client's writes suspend when the window is full. */
  readonly stallReads: Effect.Effect<void>
  /** Reads again. */
  readonly resumeReads: Effect.Effect<void>
  /** While stalled, takes up to so many bytes; gives how many there were. */
  readonly drain: (bytes: number) => Effect.Effect<number>
  /** Stops reading but for `bytes` at every tick, until `resumeReads` or `stallReads`. */
  readonly drainEvery: (bytes: number, interval: Duration.Input) => Effect.Effect<void>
  /** Changes the chunk size of the client's pulls; `Infinity` gives all at once. */
  readonly setChunkBytes: (bytes: number) => Effect.Effect<void>

  /** Waits until the client lets its end go, and says how and when, through black holes as well. */
  readonly closed: Effect.Effect<ClientEnd>
  /** As `closed`; `undefined` while the client holds its end. */
  readonly clientEnd: ClientEnd | undefined
  /** Bytes that the client has written and the server has not taken. */
  readonly outstandingBytes: number
  /** Bytes that have arrived at the client and were not pulled. */
  readonly unpulledBytes: number
  /** Whether a write of the client is suspended on a full window. */
  readonly isWriteBlocked: boolean
}

/**
 * The network in memory.
 *
 * @category services
 * @since 0.1.0
 */
export class MemoryNetwork extends Context.Service<MemoryNetwork, {
  readonly listen: (options?: ListenOptions) => Effect.Effect<Listener, never, Scope.Scope>
  /**
   * Makes dials fail, whoever listens. A target without host, or without port, means all of them; `times` is the number
   * of dials that fail (default: all). A later fault for the same target replaces the earlier.
   */
  readonly failDials: (
    target: { readonly host?: string | undefined; readonly port?: number | undefined },
    fault: DialFault,
    options?: { readonly times?: number | undefined }
  ) => Effect.Effect<void>
  /** Short for `failDials({ host, port }, "refused")`. */
  readonly refuse: (host: string, port?: number) => Effect.Effect<void>
  /** Ends every `failDials`. */
  readonly healDials: Effect.Effect<void>
  /** The time that bytes, and half a dial, take one way. Default zero: they arrive at the same instant. */
  readonly setLatency: (latency: Duration.Input) => Effect.Effect<void>
  /** Every dial so far, oldest first. */
  readonly dials: ReadonlyArray<Dial>
  /** Connections whose client has not let go: what it holds, and leaks if its scope is closed. */
  readonly openConnections: number
  /** Counts dials, bytes that travel and closes: it stands still exactly while nobody touches the network. */
  readonly activity: number
  /**
   * Waits until nothing has happened on the network for many turns of the scheduler. The Clock does not move. Wait for a
   * packet or a state where there is one to wait for; this is for the proof that nothing happens.
   */
  readonly settle: Effect.Effect<void>
}>()("effect-mqtt/testing/MemoryNetwork") {}

interface Acceptor {
  readonly host: string
  readonly port: number | "*"
  readonly open: (address: string) => MemoryLink
}

interface Fault {
  readonly host: string | undefined
  readonly port: number | undefined
  readonly kind: DialFault
  left: number
}

interface Pending {
  at: number
  address: string
  outcome: Dial["outcome"]
}

const links = new WeakMap<Peer, MemoryLink>()

/**
 * @internal
 */
export const linkOf = (peer: Peer): MemoryLink => links.get(peer)!

/** Turns of the scheduler without an event after which the network counts as quiet. */
const quietTurns = 64

const faultError = (fault: Exclude<DialFault, "silent">, address: string): TransportError => {
  const code = { refused: "ECONNREFUSED", unresolved: "ENOTFOUND", unreachable: "EHOSTUNREACH", timeout: "ETIMEDOUT" }
  return new TransportError({
    phase: fault === "unresolved" ? "dns" : "connect",
    kind: fault,
    address,
    code: code[fault]
  })
}

/**
 * Builds a network; its scope ends every fiber of it.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: Effect.Effect<Context.Context<MemoryNetwork | Transport>, never, Scope.Scope> = Effect.gen(
  function*() {
    const clock = yield* Clock.Clock
    const dispatcher = (yield* Scheduler.Scheduler).makeDispatcher()
    const fork = yield* FiberSet.makeRuntime()
    let activity = 0
    let latencyMillis = 0
    let lastId = 0
    let acceptors: ReadonlyArray<Acceptor> = []
    let faults: ReadonlyArray<Fault> = []
    // A name outlives its server: a host that went down refuses.
    const knownHosts = new Set<string>()
    const dials: Array<Pending> = []
    const open = new Set<MemoryLink>()

    const host: LinkHost = {
      clock,
      schedule: (task) => dispatcher.scheduleTask(task, 0),
      fork: (effect) => {
        fork(effect)
      },
      touch: () => {
        activity++
      }
    }

    // -------------------------------------------------------------------------
    // dialling
    // -------------------------------------------------------------------------

    const takeFault = (hostName: string, port: number): DialFault | undefined => {
      const fault = faults.find((fault) =>
        (fault.host === undefined || fault.host === hostName) && (fault.port === undefined || fault.port === port)
      )
      if (fault === undefined) return undefined
      fault.left--
      if (fault.left <= 0) faults = faults.filter((other) => other !== fault)
      return fault.kind
    }

    const findAcceptor = (hostName: string, port: number): Acceptor | "refused" | "unresolved" => {
      const named = acceptors.filter((acceptor) => acceptor.host === hostName)
      const candidates = named.length > 0 ? named : acceptors.filter((acceptor) => acceptor.host === "*")
      if (!knownHosts.has(hostName) && !knownHosts.has("*")) return "unresolved"
      return candidates.find((acceptor) => acceptor.port === port) ??
        candidates.find((acceptor) => acceptor.port === "*") ??
        "refused"
    }

    // Only its waiting can be interrupted: a connection that was opened has an owner.
    const dial = (endpoint: Endpoint, restore: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>) =>
      Effect.suspend(() => {
        // A socket path is a host of this network, with the port that nobody has to name.
        const [name, port] = endpoint._tag === "Unix" ? [endpoint.path, 1883] : [endpoint.host, endpoint.port]
        const address = `${name}:${port}`
        const record: Pending = { at: clock.currentTimeMillisUnsafe(), address, outcome: "pending" }
        dials.push(record)
        activity++
        const hostName = name.toLowerCase()
        const answer = Effect.suspend(() => {
          const found = takeFault(hostName, port) ?? findAcceptor(hostName, port)
          if (found === "silent") return restore(Effect.never)
          if (typeof found === "string") {
            record.outcome = found
            return Effect.fail(faultError(found, address))
          }
          record.outcome = "open"
          return Effect.succeed(found.open(address))
        })
        const roundTrip = latencyMillis * 2
        return Effect.onInterrupt(
          roundTrip > 0 ? Effect.andThen(restore(Effect.sleep(roundTrip)), answer) : answer,
          () =>
            Effect.sync(() => {
              record.outcome = "interrupted"
            })
        )
      })

    const transport = Transport.of({
      connect: (endpoint) =>
        Effect.uninterruptibleMask((restore) =>
          Effect.gen(function*() {
            const link = yield* dial(endpoint, restore)
            open.add(link)
            const release = (how: "fin" | "abort") =>
              Effect.sync(() => {
                open.delete(link)
                link.release(how)
              })
            yield* Effect.addFinalizer(() => release("fin"))
            return { pull: link.pull, write: link.write, abort: release("abort") }
          })
        )
    })

    // -------------------------------------------------------------------------
    // listening
    // -------------------------------------------------------------------------

    const listen = Effect.fnUntraced(function*(options?: ListenOptions) {
      const backlog = yield* Queue.unbounded<Peer>()
      const peers: Array<Peer> = []
      const acceptor: Acceptor = {
        host: options?.host?.toLowerCase() ?? "*",
        port: options?.port ?? 1883,
        open: (address) => {
          const link = new MemoryLink(host, {
            id: ++lastId,
            address,
            windowBytes: options?.windowBytes ?? 262_144,
            chunkBytes: options?.chunkBytes ?? Infinity,
            record: options?.record ?? true,
            latencyMillis: () => latencyMillis
          })
          const peer = makePeer(link, fork)
          peers.push(peer)
          Queue.offerUnsafe(backlog, peer)
          return link
        }
      }
      const taken = acceptors.some((other) => other.host === acceptor.host && other.port === acceptor.port)
      if (taken) return yield* Effect.die(new Error(`${acceptor.host}:${acceptor.port} is in use`))
      acceptors = [...acceptors, acceptor]
      knownHosts.add(acceptor.host)
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          acceptors = acceptors.filter((other) => other !== acceptor)
          for (const peer of peers) linkOf(peer).end("reset")
        })
      )
      return { accept: Queue.take(backlog), peers }
    })

    const failDials: MemoryNetwork["Service"]["failDials"] = (target, kind, options) =>
      Effect.sync(() => {
        const hostName = target.host?.toLowerCase()
        const fault: Fault = { host: hostName, port: target.port, kind, left: options?.times ?? Infinity }
        faults = [fault, ...faults.filter((other) => other.host !== hostName || other.port !== target.port)]
      })

    const settle = Effect.gen(function*() {
      let seen = activity
      for (let quiet = 0; quiet < quietTurns; quiet++) {
        yield* Effect.yieldNow
        if (activity === seen) continue
        seen = activity
        quiet = 0
      }
    })

    const network = MemoryNetwork.of({
      listen,
      failDials,
      refuse: (hostName, port) => failDials({ host: hostName, port }, "refused"),
      healDials: Effect.sync(() => {
        faults = []
      }),
      setLatency: (latency) =>
        Effect.sync(() => {
          latencyMillis = Duration.toMillis(Duration.fromInputUnsafe(latency))
        }),
      dials,
      get openConnections() {
        return open.size
      },
      get activity() {
        return activity
      },
      settle
    })
    return Context.make(MemoryNetwork, network).pipe(Context.add(Transport, transport))
  }
)

const makePeer = (link: MemoryLink, fork: (effect: Effect.Effect<void>) => unknown): Peer => {
  // A later call of drainEvery, stallReads or resumeReads ends the ticking of an earlier one.
  let drainMode = 0
  const setStalled = (stalled: boolean) =>
    Effect.sync(() => {
      drainMode++
      link.setStalled(stalled)
    })
  /** Reads until `length` says how many bytes are wanted; the rest goes back. */
  const readUntil = (lengthOf: (bytes: Uint8Array) => number | undefined, held: Uint8Array): Effect.Effect<
    Uint8Array,
    PeerClosed
  > => {
    const length = lengthOf(held)
    if (length !== undefined && held.length >= length) {
      link.unreadBytes(held.slice(length))
      return Effect.succeed(held.slice(0, length))
    }
    return Effect.flatMap(link.read, (chunks) => readUntil(lengthOf, concat([held, ...chunks])))
  }
  const empty = new Uint8Array(0)
  const peer: Peer = {
    id: link.id,
    address: link.address,
    openedAt: link.openedAt,
    read: link.read,
    readBytes: (length) => Effect.suspend(() => readUntil(() => length, empty)),
    readFrame: Effect.suspend(() => readUntil(frameLength, empty)),
    get received() {
      return link.received
    },
    get receivedHex() {
      return Hex.encode(link.received)
    },
    send: (bytes) => Effect.sync(() => link.send(bytes)),
    sendHex: (hex) => Effect.sync(() => link.send(Hex.decode(hex))),
    fin: Effect.sync(() => link.end("fin")),
    close: Effect.sync(() => link.end("close")),
    reset: Effect.sync(() => link.end("reset")),
    blackHole: (direction) => Effect.sync(() => link.setDark(direction, true)),
    heal: Effect.sync(() => link.setDark("both", false)),
    stallReads: setStalled(true),
    resumeReads: setStalled(false),
    drain: (bytes) => Effect.sync(() => link.drain(bytes)),
    drainEvery: (bytes, interval) =>
      Effect.sync(() => {
        const mode = ++drainMode
        link.setStalled(true)
        const tick: Effect.Effect<void> = Effect.flatMap(Effect.sleep(interval), () => {
          if (mode !== drainMode || link.clientEnd !== undefined) return Effect.void
          link.drain(bytes)
          return tick
        })
        fork(tick)
      }),
    setChunkBytes: (bytes) =>
      Effect.sync(() => {
        link.chunkBytes = bytes
      }),
    closed: link.closed,
    get clientEnd() {
      return link.clientEnd
    },
    get outstandingBytes() {
      return link.outstandingBytes
    },
    get unpulledBytes() {
      return link.inboxBytes
    },
    get isWriteBlocked() {
      return link.isWriteBlocked
    }
  }
  links.set(peer, link)
  return peer
}

/**
 * Provides the network, and the `Transport` that dials on it.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<MemoryNetwork | Transport> = Layer.effectContext(make)
