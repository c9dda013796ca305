/**
 * One byte stream in memory: two lanes, a client's end and a server's end.
 *
 * It owns what is on the way and what has arrived but was not taken. It does not know who listens where (that is
 * `MemoryNetwork`), and nothing of MQTT. Nobody is resumed inside a call: every wake-up is a task of the Effect scheduler,
 * which is what keeps virtual time exact.
 *
 * @since 0.1.0
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import type * as Clock from "effect/Clock"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import { TransportError } from "../services/Transport.ts"

/**
 * What a link needs of its network.
 *
 * @internal
 */
export interface LinkHost {
  readonly clock: Clock.Clock
  /** Runs the task in a later turn of the Effect scheduler. */
  readonly schedule: (task: () => void) => void
  /** Starts a fiber that lives no longer than the network. */
  readonly fork: (effect: Effect.Effect<void>) => void
  /** Called for every event on the network, so that its quiet can be seen. */
  readonly touch: () => void
}

/**
 * How the client ended its side of a connection, seen by an onlooker to whom no packet is ever lost.
 *
 * - `fin`: an orderly close; what had been written before is still delivered
 * - `abort`: the stream was destroyed
 * - `reset`: the server had reset the stream before, so that the client only had to let it go
 *
 * @category models
 * @since 0.1.0
 */
export interface ClientEnd {
  readonly how: "fin" | "abort" | "reset"
  /** Milliseconds of the Clock. */
  readonly at: number
}

/**
 * The server's end of a connection has nothing more to read: the client closed it (`fin`) or destroyed it (`abort`), or the
 * server itself did (`local`).
 *
 * @category errors
 * @since 0.1.0
 */
export class PeerClosed extends Data.TaggedError("PeerClosed")<{ readonly how: "fin" | "abort" | "local" }> {
  override get message(): string {
    return {
      fin: "the client closed the connection",
      abort: "the client destroyed the connection",
      local: "closed here"
    }[
      this.how
    ]
  }
}

/**
 * Milliseconds that sums of fractional times may be off: a jittered delay leaves the Clock between two milliseconds.
 *
 * @internal
 */
export const clockNoise = 0.001

/** The fibers that wait for a condition; whoever makes it true calls `notify`, and the scheduler resumes them. */
class Wake {
  private readonly host: LinkHost
  private waiters: Array<(effect: Effect.Effect<void>) => void> = []
  readonly wait: Effect.Effect<void>

  constructor(host: LinkHost, isReady: () => boolean) {
    this.host = host
    this.wait = Effect.callback<void>((resume) => {
      // The fiber may have yielded since it looked, so look again in the act of waiting.
      if (isReady()) return resume(Effect.void)
      this.waiters.push(resume)
      return Effect.sync(() => {
        this.waiters = this.waiters.filter((other) => other !== resume)
      })
    })
  }

  notify(): void {
    if (this.waiters.length === 0) return
    const waiters = this.waiters
    this.waiters = []
    this.host.schedule(() => {
      for (const resume of waiters) resume(Effect.void)
    })
  }
}

type Item =
  | { readonly _tag: "Bytes"; readonly bytes: Uint8Array }
  | { readonly _tag: "Fin" }
  | { readonly _tag: "Reset" }

const fin: Item = { _tag: "Fin" }
const reset: Item = { _tag: "Reset" }

/** One direction: first in, first out, late by the latency, held back by a black hole. */
class Lane {
  private readonly host: LinkHost
  private readonly latencyMillis: () => number
  private readonly arrive: (item: Item) => void
  private transit: Array<{ readonly item: Item; readonly due: number }> = []
  private asleep = false
  private dark = false

  constructor(host: LinkHost, latencyMillis: () => number, arrive: (item: Item) => void) {
    this.host = host
    this.latencyMillis = latencyMillis
    this.arrive = arrive
  }

  send(item: Item): void {
    this.host.touch()
    this.transit.push({ item, due: this.host.clock.currentTimeMillisUnsafe() + this.latencyMillis() })
    this.pump()
  }

  setDark(dark: boolean): void {
    this.dark = dark
    this.pump()
  }

  private pump(): void {
    if (this.asleep || this.dark) return
    let taken = 0
    while (taken < this.transit.length) {
      const head = this.transit[taken]!
      const wait = head.due - this.host.clock.currentTimeMillisUnsafe()
      if (wait > clockNoise) {
        this.asleep = true
        this.host.fork(Effect.andThen(
          Effect.sleep(wait),
          Effect.sync(() => {
            this.asleep = false
            this.pump()
          })
        ))
        break
      }
      taken++
      this.host.touch()
      this.arrive(head.item)
    }
    if (taken > 0) this.transit = this.transit.slice(taken)
  }
}

/**
 * @internal
 */
export interface LinkOptions {
  readonly id: number
  readonly address: string
  /** How many bytes the client can have under way before its writes suspend. */
  readonly windowBytes: number
  readonly latencyMillis: () => number
  /** Whether the server's end remembers all that it received. */
  readonly record: boolean
  readonly chunkBytes: number
}

/**
 * @internal
 */
export class MemoryLink {
  readonly id: number
  readonly address: string
  readonly openedAt: number
  private readonly host: LinkHost
  private readonly windowBytes: number
  private readonly record: boolean
  private readonly up: Lane
  private readonly down: Lane

  // the client's end
  private inbox: Array<Uint8Array> = []
  private inboxEnd: "eof" | "reset" | undefined = undefined
  private eofSeen = false
  /** Whether the client has taken any bytes. */
  hasBeenPulled = false
  private writing = false
  private torn = false
  private lastWriteEnd: number
  private longestGap = 0
  private readonly pullWake: Wake
  private readonly writeWake: Wake
  /** Bytes that the client wrote and the server has not taken. */
  private outstanding = 0
  /** How the client let the stream go; until then it holds a handle. */
  clientEnd: ClientEnd | undefined = undefined
  private readonly endWake: Wake

  // the server's end
  private arrived: Array<Item> = []
  private unread: Array<Uint8Array> = []
  private unreadEnd: "fin" | "abort" | "local" | undefined = undefined
  private stalled = false
  private sentFin = false
  private gone = false
  private history: Array<Uint8Array> = []
  receivedBytes = 0
  private readonly readWake: Wake
  chunkBytes: number

  constructor(host: LinkHost, options: LinkOptions) {
    this.host = host
    this.id = options.id
    this.address = options.address
    this.windowBytes = options.windowBytes
    this.record = options.record
    this.chunkBytes = options.chunkBytes
    this.openedAt = host.clock.currentTimeMillisUnsafe()
    this.lastWriteEnd = this.openedAt
    this.up = new Lane(host, options.latencyMillis, (item) => this.arriveUp(item))
    this.down = new Lane(host, options.latencyMillis, (item) => this.arriveDown(item))
    this.pullWake = new Wake(
      host,
      () => this.inbox.length > 0 || this.inboxEnd !== undefined || this.clientEnd !== undefined
    )
    this.writeWake = new Wake(host, () => this.outstanding < this.windowBytes || this.isWriteDead)
    this.endWake = new Wake(host, () => this.clientEnd !== undefined)
    this.readWake = new Wake(host, () => this.unread.length > 0 || this.unreadEnd !== undefined)
  }

  // ---------------------------------------------------------------------------
  // the client's end
  // ---------------------------------------------------------------------------

  private failure(phase: "read" | "write", kind: "eof" | "reset" | "aborted"): TransportError {
    const code = kind === "reset" ? { code: phase === "read" ? "ECONNRESET" : "EPIPE" } : {}
    return new TransportError({ phase, kind, address: this.address, ...code })
  }

  readonly pull: Effect.Effect<NonEmptyReadonlyArray<Uint8Array>, TransportError> = Effect.suspend(() => {
    if (this.clientEnd !== undefined) return Effect.fail(this.failure("read", "aborted"))
    const chunks = this.takeInbox()
    if (chunks !== undefined) {
      this.hasBeenPulled = true
      this.host.touch()
      return Effect.succeed(chunks)
    }
    if (this.inboxEnd === undefined) return Effect.flatMap(this.pullWake.wait, () => this.pull)
    if (this.inboxEnd === "eof" && !this.eofSeen) {
      this.eofSeen = true
      this.writeWake.notify()
    }
    return Effect.fail(this.failure("read", this.inboxEnd))
  })

  private takeInbox(): NonEmptyReadonlyArray<Uint8Array> | undefined {
    const head = this.inbox[0]
    if (head === undefined) return undefined
    if (this.chunkBytes === Infinity) {
      const rest = this.inbox.slice(1)
      this.inbox = []
      return [head, ...rest]
    }
    if (head.length > this.chunkBytes) {
      this.inbox[0] = head.subarray(this.chunkBytes)
      return [head.slice(0, this.chunkBytes)]
    }
    this.inbox.shift()
    return [head]
  }

  private get isWriteDead(): boolean {
    return this.clientEnd !== undefined || this.inboxEnd === "reset" || this.eofSeen
  }

  private get writeFailure(): TransportError | undefined {
    if (this.clientEnd !== undefined) return this.failure("write", "aborted")
    if (this.inboxEnd === "reset") return this.failure("write", "reset")
    return this.eofSeen ? this.failure("write", "eof") : undefined
  }

  readonly write = (chunk: Uint8Array): Effect.Effect<void, TransportError> =>
    Effect.suspend(() => {
      const dead = this.writeFailure
      if (dead !== undefined) return Effect.fail(dead)
      if (this.writing) return Effect.die(new Error("Transport contract: writes must not overlap"))
      if (this.torn) return Effect.die(new Error("Transport contract: nothing may follow an interrupted write"))
      const now = this.host.clock.currentTimeMillisUnsafe()
      this.longestGap = Math.max(this.longestGap, now - this.lastWriteEnd)
      const offset = this.push(chunk, 0)
      this.lastWriteEnd = now
      if (offset === chunk.length) return Effect.void
      this.writing = true
      return Effect.onInterrupt(this.writeRest(chunk, offset), () =>
        Effect.sync(() => {
          this.writing = false
          this.torn = true
        }))
    })

  private writeRest(chunk: Uint8Array, offset: number): Effect.Effect<void, TransportError> {
    return Effect.flatMap(this.writeWake.wait, () => {
      const dead = this.writeFailure
      const sent = dead === undefined ? this.push(chunk, offset) : offset
      if (dead === undefined && sent < chunk.length) return this.writeRest(chunk, sent)
      this.writing = false
      this.lastWriteEnd = this.host.clock.currentTimeMillisUnsafe()
      return dead === undefined ? Effect.void : Effect.fail(dead)
    })
  }

  /** Sends as much of the chunk, from the offset on, as the window takes; gives the new offset. */
  private push(chunk: Uint8Array, offset: number): number {
    let sent = offset
    // A server that takes at once opens the window again while we send.
    while (sent < chunk.length && this.outstanding < this.windowBytes) {
      const length = Math.min(this.windowBytes - this.outstanding, chunk.length - sent)
      this.outstanding += length
      this.up.send({ _tag: "Bytes", bytes: chunk.subarray(sent, sent + length) })
      sent += length
    }
    return sent
  }

  /** Lets the client's end go, once. */
  release(how: "fin" | "abort"): void {
    if (this.clientEnd !== undefined) return
    const dead = this.inboxEnd === "reset"
    this.clientEnd = { how: dead ? "reset" : how, at: this.host.clock.currentTimeMillisUnsafe() }
    this.inbox = []
    this.host.touch()
    this.pullWake.notify()
    this.writeWake.notify()
    this.endWake.notify()
    if (!dead) this.up.send(how === "fin" ? fin : reset)
  }

  private arriveDown(item: Item): void {
    const ended = this.inboxEnd === "reset" || this.eofSeen || (this.inboxEnd === "eof" && item._tag !== "Reset")
    if (this.clientEnd !== undefined || ended) return
    switch (item._tag) {
      case "Bytes":
        this.inbox.push(item.bytes)
        break
      case "Fin":
        this.inboxEnd = "eof"
        break
      case "Reset":
        this.inboxEnd = "reset"
        this.writeWake.notify()
        break
    }
    this.pullWake.notify()
  }

  get isWriteBlocked(): boolean {
    return this.writing && this.outstanding >= this.windowBytes
  }

  /** Milliseconds of the client's longest silence between two writes since the last call, the one under way included. */
  takeLongestSilence(): number {
    const now = this.host.clock.currentTimeMillisUnsafe()
    const current = this.writing || this.clientEnd !== undefined ? 0 : now - this.lastWriteEnd
    const longest = Math.max(this.longestGap, current)
    this.longestGap = 0
    return longest
  }

  /** Counts the client's silence from now on. */
  resetSilence(): void {
    this.longestGap = 0
    this.lastWriteEnd = this.host.clock.currentTimeMillisUnsafe()
  }

  get outstandingBytes(): number {
    return this.outstanding
  }

  get inboxBytes(): number {
    return this.inbox.reduce((sum, chunk) => sum + chunk.length, 0)
  }

  readonly closed: Effect.Effect<ClientEnd> = Effect.suspend(() =>
    this.clientEnd !== undefined ? Effect.succeed(this.clientEnd) : Effect.flatMap(this.endWake.wait, () => this.closed)
  )

  // ---------------------------------------------------------------------------
  // the server's end
  // ---------------------------------------------------------------------------

  private arriveUp(item: Item): void {
    if (this.gone) {
      // What reaches a closed socket is answered by a reset.
      if (item._tag === "Bytes") this.down.send(reset)
      return
    }
    if (item._tag === "Reset") {
      this.arrived = []
      this.unreadEnd = "abort"
      this.readWake.notify()
      return
    }
    this.arrived.push(item)
    if (!this.stalled) this.takeArrived(Infinity)
  }

  /** Moves up to `limit` bytes out of the socket's buffer, which opens the client's window. */
  private takeArrived(limit: number): number {
    let taken = 0
    while (this.arrived.length > 0 && this.unreadEnd === undefined) {
      const head = this.arrived[0]!
      if (head._tag === "Fin") {
        this.arrived.shift()
        this.unreadEnd = "fin"
        break
      }
      if (head._tag === "Reset" || taken >= limit) break
      const length = Math.min(head.bytes.length, limit - taken)
      const bytes = head.bytes.subarray(0, length)
      if (length === head.bytes.length) this.arrived.shift()
      else this.arrived[0] = { _tag: "Bytes", bytes: head.bytes.subarray(length) }
      taken += length
      this.unread.push(bytes)
      this.receivedBytes += length
      if (this.record) this.history.push(bytes.slice())
    }
    this.outstanding -= taken
    if (taken > 0) this.writeWake.notify()
    this.readWake.notify()
    return taken
  }

  readonly read: Effect.Effect<NonEmptyReadonlyArray<Uint8Array>, PeerClosed> = Effect.suspend(() => {
    const head = this.unread[0]
    if (head !== undefined) {
      const rest = this.unread.slice(1)
      this.unread = []
      this.host.touch()
      return Effect.succeed([head, ...rest] as const)
    }
    if (this.unreadEnd !== undefined) return Effect.fail(new PeerClosed({ how: this.unreadEnd }))
    return Effect.flatMap(this.readWake.wait, () => this.read)
  })

  /** Puts back what was read too far, in front of everything else. */
  unreadBytes(bytes: Uint8Array): void {
    if (bytes.length > 0) this.unread.unshift(bytes)
  }

  send(bytes: Uint8Array): void {
    if (this.gone || this.sentFin || bytes.length === 0) return
    this.down.send({ _tag: "Bytes", bytes: bytes.slice() })
  }

  /** `fin` closes the server's sending side only; `close` both sides; `reset` destroys. */
  end(how: "fin" | "close" | "reset"): void {
    if (this.gone) return
    if (how === "reset") this.down.send(reset)
    else if (!this.sentFin) this.down.send(fin)
    this.sentFin = true
    if (how === "fin") return
    this.gone = true
    this.arrived = []
    this.unreadEnd ??= "local"
    this.readWake.notify()
  }

  get isServerGone(): boolean {
    return this.gone
  }

  setDark(direction: "in" | "out" | "both", dark: boolean): void {
    if (direction !== "out") this.up.setDark(dark)
    if (direction !== "in") this.down.setDark(dark)
  }

  get isStalled(): boolean {
    return this.stalled
  }

  setStalled(stalled: boolean): void {
    this.stalled = stalled
    if (!stalled) this.takeArrived(Infinity)
  }

  drain(limit: number): number {
    return this.takeArrived(limit)
  }

  get received(): Uint8Array {
    return concat(this.history)
  }
}

/**
 * @internal
 */
export const concat = (chunks: ReadonlyArray<Uint8Array>): Uint8Array => {
  const bytes = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0))
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.length
  }
  return bytes
}
