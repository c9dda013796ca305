/**
 * An open byte stream on a socket of Node: the `Connection` of every transport on Node.
 *
 * Bytes that arrive are collected as Node delivers them and handed over whole at the next pull; past a bound the socket is
 * paused, so that the peer is held back by TCP. A write suspends while the socket holds more than its bound.
 *
 * What lies between the bytes and the socket, if anything (WebSocket frames), is a `Wire`.
 *
 * @since 0.1.0
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Effect from "effect/Effect"
import type * as Net from "node:net"
import type { Connection, TransportPhase } from "../../services/Transport.ts"
import type { TransportError } from "../../services/Transport.ts"
import { toAddress } from "../../services/Endpoint.ts"
import type { Endpoint } from "../../services/Endpoint.ts"
import { noArray, noSet, ownSet } from "../../protocol/EmptyCollections.ts"
import { toError, toFault } from "./NodeFault.ts"
import type { Fault } from "./NodeFault.ts"

/** The bounds of a stream. */
export interface StreamSettings {
  readonly writeHighWaterMark: number
  readonly readHighWaterMark: number
  readonly closeGraceMillis: number
}

/** Bytes that Node holds for a paused socket before it stops reading. */
export const readableHighWaterMark = 64 * 1024

/** How bytes go to the socket and come from it. Where these are the bytes of the stream, it is the socket itself. */
export interface Wire {
  readonly write: (chunk: Uint8Array) => void
  readonly pause: () => void
  readonly resume: () => void
  /** Ends our side once everything was sent. */
  readonly end: () => void
}

/** The stream of a socket, for listeners that all sockets share: Node calls them on the socket. */
const stream = Symbol("effect-mqtt/stream")

interface Owned {
  [stream]: NodeStream
}

/** Makes room for the stream in a socket that is just made, where it takes less than later. */
export const reserve = (socket: Net.Socket): void => {
  ;(socket as { [stream]?: NodeStream | undefined })[stream] = undefined
}

function onData(this: Owned, chunk: Uint8Array): void {
  this[stream].receive(chunk, chunk.length)
}

function onEnd(this: Owned): void {
  this[stream].die({ kind: "eof" })
}

function onClose(this: Owned): void {
  this[stream].die({ kind: "other" })
}

function onError(this: Owned, cause: Error): void {
  this[stream].die(toFault(cause, "read"))
}

function onDrain(this: Owned): void {
  this[stream].onDrain()
}

/** The next turn of the event loop: what has arrived by now has been read then. */
const nextTurn: Effect.Effect<void> = Effect.callback((resume) => {
  const turn = setImmediate(() => resume(Effect.void))
  return Effect.sync(() => clearImmediate(turn))
})

type Chunks = NonEmptyReadonlyArray<Uint8Array>

/**
 * An open socket.
 *
 * One that hesitates looks at what has arrived before its first write. On TLS 1.3 a server refuses a client certificate after
 * the handshake is done, and then resets the connection: Node forgets what it has not read when a write fails, and so the
 * reason.
 *
 * Invariants: a reader that waits means that `chunks` is empty and the socket flows; `fault` is set once, and from then on
 * nobody is parked. Chunks that arrived before the fault are still handed over, unless we ended the stream ourselves.
 *
 * A fiber may yield before any step, so whoever parks looks again at what it waits for in the step in which it parks.
 *
 * A reader that is interrupted stays parked, and is none the wiser when it is woken: what has arrived is not given to who is
 * woken, but taken by who reads. That every wait can be taken back would cost each of them five objects.
 */
export class NodeStream implements Connection {
  private readonly socket: Net.Socket
  private readonly endpoint: Endpoint
  private readonly settings: StreamSettings
  private readonly wire: Wire
  private chunks = noArray<Uint8Array>()
  private chunkBytes = 0
  private paused = false
  private hesitates: boolean
  private fault: Fault | undefined
  private reader: ((effect: Effect.Effect<Chunks, TransportError>) => void) | undefined
  private writers = noSet<(effect: Effect.Effect<void, TransportError>) => void>()

  declare readonly write: Connection["write"]
  declare readonly abort: Connection["abort"]
  declare readonly isFlushed: () => boolean

  /** With a wire of its own, that one tells of what is received and of the end. */
  constructor(
    socket: Net.Socket,
    endpoint: Endpoint,
    settings: StreamSettings,
    options: { readonly wire?: Wire | undefined; readonly hesitates?: boolean | undefined } = {}
  ) {
    const { wire } = options
    this.socket = socket
    this.endpoint = endpoint
    this.settings = settings
    this.wire = wire ?? socket
    this.hesitates = options.hesitates ?? false
    Object.defineProperties(this, members)
    ;(socket as Partial<Owned>)[stream] = this
    socket.on("drain", onDrain as () => void)
    socket.on("error", onError as (cause: Error) => void)
    if (wire === undefined) {
      socket.on("data", onData as (chunk: Uint8Array) => void)
      const others = socket.listeners("end")
      socket.on("end", onEnd as () => void)
      // That of Node has later writes fail, as ours does. Two would take a list.
      if (endpoint._tag === "Tcp" && others.length === 1) socket.off("end", others[0] as () => void)
      socket.on("close", onClose as () => void)
      // A handshake on it may have left it paused.
      if (socket.isPaused()) socket.resume()
    }
    if (socket.destroyed) this.die(socket.errored === null ? { kind: "reset" } : toFault(socket.errored, "read"))
  }

  // --- reading ---

  /** Takes a chunk that arrived; `weight` is what it counts against the bound. */
  receive(chunk: Uint8Array, weight: number): void {
    if (this.fault !== undefined) return
    if (this.chunks.length === 0) this.chunks = [chunk]
    else this.chunks.push(chunk)
    this.chunkBytes += weight
    const resume = this.reader
    if (resume !== undefined) {
      this.reader = undefined
      resume(Effect.suspend(() => this.chunks.length > 0 ? Effect.succeed(this.takeChunks()) : this.pull))
    }
    if (this.chunkBytes >= this.settings.readHighWaterMark && !this.paused) {
      this.paused = true
      this.wire.pause()
    }
  }

  private takeChunks(): Chunks {
    const chunks = this.chunks
    this.chunks = noArray()
    this.chunkBytes = 0
    if (this.paused) {
      this.paused = false
      this.wire.resume()
    }
    return chunks as ReadonlyArray<Uint8Array> as Chunks
  }

  readonly pull: Connection["pull"] = Effect.callback((resume) => {
    if (this.chunks.length > 0) resume(Effect.succeed(this.takeChunks()))
    else if (this.fault !== undefined) resume(this.failure(this.fault, "read"))
    else this.reader = resume
  })

  // --- writing ---

  /** Not the result of `write`, which is false for a large chunk even if the kernel took all of it. */
  private get isFull(): boolean {
    return this.socket.writableLength >= this.settings.writeHighWaterMark
  }

  /** The socket has taken what it held. */
  onDrain(): void {
    const writers = Array.from(this.writers)
    this.writers.clear()
    for (const resume of writers) resume(Effect.void)
  }

  private get awaitDrain(): Effect.Effect<void, TransportError> {
    return Effect.callback((resume) => {
      if (this.fault !== undefined) return resume(this.failure(this.fault, "write"))
      if (!this.isFull) return resume(Effect.void)
      this.writers = ownSet(this.writers).add(resume)
      return Effect.sync(() => {
        this.writers.delete(resume)
      })
    })
  }

  /**
   * See `Connection`. Only where the bytes go to the kernel as they are: what encrypts or frames them may hold on to them for
   * longer than the socket counts them.
   */
  get flushed(): boolean {
    return this.wire === this.socket && this.socket.writableLength === 0 && !("encrypted" in this.socket)
  }

  /** See `Connection`. */
  send(chunk: Uint8Array): Effect.Effect<void, TransportError> {
    return Effect.suspend(() => {
      if (this.fault !== undefined) return this.failure(this.fault, "write")
      if (this.hesitates) {
        this.hesitates = false
        return Effect.andThen(nextTurn, this.write(chunk))
      }
      this.wire.write(chunk)
      return this.isFull ? this.awaitDrain : Effect.void
    })
  }

  // --- ending ---

  /** Ends the stream for its users, for the first reason that is given. */
  die(fault: Fault): void {
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
    return Effect.fail(toError(fault, phase, toAddress(this.endpoint)))
  }

  /** Ends the stream from our side: what arrived and was not pulled is of no use any more. */
  private discard() {
    this.chunks = noArray()
    this.chunkBytes = 0
    this.die({ kind: "aborted" })
  }

  /** See `Connection`. */
  destroy(): void {
    // First the socket, since a fiber that fails now may look at it.
    this.socket.destroy()
    this.discard()
  }

  /** Flushes, half-closes, and destroys after the grace. Ends when the socket is closed. */
  get close(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.discard()
      const socket = this.socket
      return Effect.callback<void>((resume) => {
        if (socket.closed) return resume(Effect.void)
        const grace = setTimeout(() => socket.destroy(), this.settings.closeGraceMillis)
        socket.once("close", () => {
          clearTimeout(grace)
          resume(Effect.void)
        })
        this.wire.end()
        // The end of the peer's side is seen only by reading up to it.
        this.wire.resume()
      })
    })
  }
}

/** Members of the stream itself, which a transport that wraps it may copy, and which take no memory in it. */
const members: PropertyDescriptorMap & ThisType<NodeStream> = {
  write: {
    enumerable: true,
    get() {
      return (chunk: Uint8Array) => this.send(chunk)
    }
  },
  abort: {
    enumerable: true,
    get() {
      return Effect.sync(() => this.destroy())
    }
  },
  // Not to be copied unseen by one with a `write` of its own, which may hold on to what the socket does not have.
  isFlushed: {
    enumerable: false,
    get() {
      return () => this.flushed
    }
  }
}
