/**
 * TCP on Node: the `Transport` over `node:net`.
 *
 * One dial makes one socket, and the `Connection` that owns it. Bytes that arrive are collected as Node delivers them and
 * handed over whole at the next pull; past a bound the socket is paused, so that the peer is held back by TCP.
 *
 * `NodeSocket` of `@effect/platform-node` is not what this stands on, since it cannot keep the contract of `Transport`: its
 * writer outlives the connection (a write after the end waits for the next dial instead of failing), a write on a destroyed
 * socket waits for a drain that never comes, its close waits for a dead peer to take what was written, and its reads
 * concatenate what arrived into one copy.
 *
 * Time here is the real one and not the Clock's: real sockets do not run in virtual time, and a close must end by itself
 * under any Clock.
 *
 * @since 0.1.0
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Net from "node:net"
import type { Endpoint } from "../services/Endpoint.ts"
import type { Connection, TransportPhase } from "../services/Transport.ts"
import { Transport, TransportError } from "../services/Transport.ts"

// ---------------------------------------------------------------------------
// options
// ---------------------------------------------------------------------------

/**
 * Options of the TCP transport.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** Bytes that may wait for the socket before a write suspends. Default 64 KiB. */
  readonly writeHighWaterMark?: number | undefined
  /** Bytes that may wait for a pull before the socket is paused; Node adds up to twice 64 KiB of its own. Default 256 KiB. */
  readonly readHighWaterMark?: number | undefined
  /** How long the close of the scope waits for the peer to take what was written and to close its side. Default 1 s. */
  readonly closeGrace?: Duration.Input | undefined
  /** Resolves host names. Default `dns.lookup` of Node, which asks the operating system. */
  readonly lookup?: Net.LookupFunction | undefined
}

interface Settings {
  readonly writeHighWaterMark: number
  readonly readHighWaterMark: number
  readonly closeGraceMillis: number
  readonly lookup: Net.LookupFunction | undefined
}

// ---------------------------------------------------------------------------
// constructors
// ---------------------------------------------------------------------------

/**
 * Makes a transport that dials TCP endpoints.
 *
 * **Details**
 *
 * A host name with several addresses is dialled one address after the other, a quarter of a second apart (RFC 8305).
 * TCP_NODELAY is on: the client coalesces its writes itself.
 *
 * **Gotchas**
 *
 * Interrupting a dial destroys the socket at once, but a name lookup that the operating system has under way cannot be
 * called back: its thread ends when the resolver does.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): Transport["Service"] => {
  const settings: Settings = {
    writeHighWaterMark: options.writeHighWaterMark ?? 64 * 1024,
    readHighWaterMark: options.readHighWaterMark ?? 256 * 1024,
    // A timer of Node takes no more than 31 bits.
    closeGraceMillis: Math.min(
      Duration.toMillis(Duration.fromInputUnsafe(options.closeGrace ?? "1 second")),
      0x7fffffff
    ),
    lookup: options.lookup
  }
  return { connect: (endpoint) => connect(endpoint, settings) }
}

/**
 * The TCP transport with other options.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWith = (options: Options): Layer.Layer<Transport> => Layer.succeed(Transport, make(options))

/**
 * The TCP transport.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Transport> = layerWith({})

// ---------------------------------------------------------------------------
// dial
// ---------------------------------------------------------------------------

const connect = Effect.fnUntraced(function*(
  endpoint: Endpoint,
  settings: Settings
): Effect.fn.Return<Connection, TransportError, Scope.Scope> {
  const scope = yield* Effect.scope
  const dial = new Dial(endpoint, settings)
  // Registered before the dial, so that no interruption finds a socket without an owner.
  yield* Scope.addFinalizer(scope, dial.close)
  return yield* dial.open
})

/** Bytes that Node holds for a paused socket before it stops reading. */
const readableHighWaterMark = 64 * 1024

/** One dial and the socket it made. `connection` is set once the socket is open, and owns it from then on. */
class Dial {
  private readonly endpoint: Endpoint
  private readonly settings: Settings
  private readonly address: string
  private socket: Net.Socket | undefined
  private connection: NodeConnection | undefined

  constructor(endpoint: Endpoint, settings: Settings) {
    this.endpoint = endpoint
    this.settings = settings
    this.address = endpoint.host.includes(":")
      ? `[${endpoint.host}]:${endpoint.port}`
      : `${endpoint.host}:${endpoint.port}`
  }

  readonly open: Effect.Effect<Connection, TransportError> = Effect.callback((resume) => {
    const { host, port } = this.endpoint
    let phase: TransportPhase = Net.isIP(host) === 0 ? "dns" : "connect"
    const fail = (cause: NodeJS.ErrnoException) =>
      resume(Effect.fail(toError(toFault(cause, phase), phase, this.address)))
    let socket: Net.Socket
    try {
      // The type of the options leaves out those of the stream.
      const streamOptions = { readableHighWaterMark, writableHighWaterMark: this.settings.writeHighWaterMark }
      socket = new Net.Socket(streamOptions as Net.SocketConstructorOpts)
      this.socket = socket
      socket.on("lookup", (error) => {
        if (error === null) phase = "connect"
      })
      // Stays for the life of the socket: an error without a listener would end the process.
      socket.on("error", fail)
      socket.once("connect", () => {
        socket.off("error", fail)
        this.connection = new NodeConnection(socket, this.address, this.settings)
        resume(Effect.succeed(this.connection))
      })
      socket.connect({
        host,
        port,
        noDelay: true,
        autoSelectFamily: true,
        ...(this.settings.lookup === undefined ? undefined : { lookup: this.settings.lookup })
      })
    } catch (cause) {
      phase = "connect"
      fail(cause as Error)
      return
    }
    return Effect.sync(() => {
      socket.destroy()
    })
  })

  /** Runs as a finalizer of the scope. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    if (this.connection !== undefined) return this.connection.close
    this.socket?.destroy()
    return Effect.void
  })
}

// ---------------------------------------------------------------------------
// connection
// ---------------------------------------------------------------------------

/** Why a stream is dead. */
interface Fault {
  readonly kind: TransportError["kind"]
  readonly cause?: NodeJS.ErrnoException | undefined
}

type Chunks = NonEmptyReadonlyArray<Uint8Array>

/**
 * An open socket.
 *
 * Invariants: a parked reader means that `chunks` is empty and the socket flows; `fault` is set once, and from then on
 * nobody is parked. Chunks that arrived before the fault are still handed over, unless we ended the stream ourselves.
 */
class NodeConnection implements Connection {
  private readonly socket: Net.Socket
  private readonly address: string
  private readonly settings: Settings
  private chunks: Array<Uint8Array> = []
  private chunkBytes = 0
  private paused = false
  private fault: Fault | undefined
  private reader: ((effect: Effect.Effect<Chunks, TransportError>) => void) | undefined
  private readonly writers = new Set<(effect: Effect.Effect<void, TransportError>) => void>()

  constructor(socket: Net.Socket, address: string, settings: Settings) {
    this.socket = socket
    this.address = address
    this.settings = settings
    socket.on("data", this.onData)
    socket.on("drain", this.onDrain)
    socket.on("end", () => this.die({ kind: "eof" }))
    socket.on("error", (cause) => this.die(toFault(cause, "read")))
    socket.on("close", () => this.die({ kind: "other" }))
  }

  // --- reading ---

  private readonly onData = (chunk: Uint8Array) => {
    if (this.fault !== undefined) return
    const resume = this.reader
    if (resume !== undefined) {
      this.reader = undefined
      resume(Effect.succeed([chunk]))
      return
    }
    this.chunks.push(chunk)
    this.chunkBytes += chunk.length
    if (this.chunkBytes >= this.settings.readHighWaterMark && !this.paused) {
      this.paused = true
      this.socket.pause()
    }
  }

  private takeChunks(): Chunks {
    const chunks = this.chunks
    this.chunks = []
    this.chunkBytes = 0
    if (this.paused) {
      this.paused = false
      this.socket.resume()
    }
    return chunks as ReadonlyArray<Uint8Array> as Chunks
  }

  private readonly park: Effect.Effect<Chunks, TransportError> = Effect.callback((resume) => {
    this.reader = resume
    return Effect.sync(() => {
      if (this.reader === resume) this.reader = undefined
    })
  })

  readonly pull: Connection["pull"] = Effect.suspend(() => {
    if (this.chunks.length > 0) return Effect.succeed(this.takeChunks())
    return this.fault === undefined ? this.park : this.failure(this.fault, "read")
  })

  // --- writing ---

  private readonly onDrain = () => {
    const writers = Array.from(this.writers)
    this.writers.clear()
    for (const resume of writers) resume(Effect.void)
  }

  private readonly awaitDrain: Effect.Effect<void, TransportError> = Effect.callback((resume) => {
    this.writers.add(resume)
    return Effect.sync(() => {
      this.writers.delete(resume)
    })
  })

  readonly write: Connection["write"] = (chunk) =>
    Effect.suspend(() => {
      if (this.fault !== undefined) return this.failure(this.fault, "write")
      this.socket.write(chunk)
      // Not the result of `write`, which is false for a large chunk even if the kernel took all of it.
      return this.socket.writableLength < this.settings.writeHighWaterMark ? Effect.void : this.awaitDrain
    })

  // --- ending ---

  private die(fault: Fault) {
    if (this.fault !== undefined) return
    this.fault = fault
    const reader = this.reader
    this.reader = undefined
    const writers = Array.from(this.writers)
    this.writers.clear()
    // Resuming runs the waiting fiber at once, so the state is settled first.
    reader?.(this.failure(fault, "read"))
    for (const resume of writers) resume(this.failure(fault, "write"))
  }

  private failure(fault: Fault, phase: TransportPhase): Effect.Effect<never, TransportError> {
    return Effect.fail(toError(fault, phase, this.address))
  }

  /** Ends the stream from our side: what arrived and was not pulled is of no use any more. */
  private discard() {
    this.chunks = []
    this.chunkBytes = 0
    this.die({ kind: "aborted" })
  }

  readonly abort: Connection["abort"] = Effect.sync(() => {
    // First the socket, since a fiber that fails now may look at it.
    this.socket.destroy()
    this.discard()
  })

  /** Flushes, half-closes, and destroys after the grace. Ends when the socket is closed. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    this.discard()
    const socket = this.socket
    if (socket.closed) return Effect.void
    return Effect.callback<void>((resume) => {
      const grace = setTimeout(() => socket.destroy(), this.settings.closeGraceMillis)
      socket.once("close", () => {
        clearTimeout(grace)
        resume(Effect.void)
      })
      socket.end()
      // The end of the peer's side is seen only by reading up to it.
      socket.resume()
    })
  })
}

// ---------------------------------------------------------------------------
// errors
// ---------------------------------------------------------------------------

const toFault = (cause: NodeJS.ErrnoException, phase: TransportPhase): Fault => ({ kind: toKind(cause, phase), cause })

const toKind = (cause: NodeJS.ErrnoException, phase: TransportPhase): TransportError["kind"] => {
  if (phase === "dns") return "unresolved"
  switch (cause.code) {
    case "ECONNREFUSED":
      return "refused"
    case "ECONNRESET":
    case "EPIPE":
      return "reset"
    case "EHOSTUNREACH":
    case "EHOSTDOWN":
    case "ENETUNREACH":
    case "ENETDOWN":
    case "EADDRNOTAVAIL":
      return "unreachable"
    case "ETIMEDOUT":
      return phase === "connect" ? "timeout" : "other"
    default:
      return "other"
  }
}

const toError = (fault: Fault, phase: TransportPhase, address: string): TransportError =>
  new TransportError({
    phase,
    kind: fault.kind,
    address,
    ...(fault.cause?.code === undefined ? undefined : { code: fault.cause.code }),
    ...(fault.cause === undefined ? undefined : { cause: fault.cause })
  })
