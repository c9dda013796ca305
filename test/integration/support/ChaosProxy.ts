/**
 * A TCP proxy between client and broker that does what networks do: reset, close, fall silent, stall, lose the listener.
 */
import { Effect, Queue } from "effect"
import * as Net from "node:net"

/** `up` is from the client to the broker, `down` the other way. */
export type Direction = "up" | "down"

/** What becomes of one connection, decided when it is made. */
export interface Plan {
  /** Resets both sides once exactly this many bytes went through in the direction. */
  readonly resetAfter?: { readonly direction: Direction; readonly bytes: number } | undefined
  /**
   * Once exactly this many bytes went through in the direction, nothing does any more, in either: no byte, no end. The
   * sockets stay open, and neither side is told.
   */
  readonly blackHoleAfter?: { readonly direction: Direction; readonly bytes: number } | undefined
}

export interface Options {
  /** Port of the broker. */
  readonly port: number
  /** The plan of each connection, by its number from 0. */
  readonly plan?: ((connection: number) => Plan) | undefined
  /** Sees the bytes that pass. */
  readonly tap?: ((connection: number, direction: Direction, bytes: Uint8Array) => void) | undefined
}

export interface ChaosProxy {
  readonly port: number
  readonly url: string
  /** The number of the next connection, once it is open on both sides. Numbers are taken in order, each once. */
  readonly nextConnection: Effect.Effect<number>
  /** The number of the next connection that is gone, from whatever cause. */
  readonly nextClose: Effect.Effect<number>
  /** Resets every connection on both sides. */
  readonly resetAll: Effect.Effect<void>
  /** Closes every connection cleanly on both sides (FIN). */
  readonly finAll: Effect.Effect<void>
  /** Swallows what is sent in the direction, on connections present and to come. The sockets stay open. */
  readonly blackHole: (direction: Direction | "both") => Effect.Effect<void>
  /** Stops reading what the client sends, so that its writes block. */
  readonly stall: Effect.Effect<void>
  /** Ends black holes and stalls. What was swallowed stays lost, so connections from that time are reset. */
  readonly heal: Effect.Effect<void>
  /** Stops listening: dials are refused. Connections stay. */
  readonly refuse: Effect.Effect<void>
  /** Listens again. */
  readonly accept: Effect.Effect<void>
  /** What became of the connections and their bytes so far. */
  readonly counts: Effect.Effect<{
    readonly connections: number
    readonly open: number
    readonly resets: number
    /** Connections that became black holes by their plan. */
    readonly blackHoles: number
    readonly up: number
    readonly down: number
  }>
}

/** Starts a proxy; it and all of its connections end with the scope. */
export const make = Effect.fnUntraced(function*(options: Options) {
  const proxy = new Proxy(options)
  yield* Effect.addFinalizer(() => proxy.close)
  yield* proxy.accept
  return proxy as ChaosProxy
})

class Proxy implements ChaosProxy {
  port = 0
  readonly options: Options
  readonly opened = Effect.runSync(Queue.unbounded<number>())
  readonly closed = Effect.runSync(Queue.unbounded<number>())
  readonly links = new Set<Link>()
  readonly blackHoles = { up: false, down: false }
  stalled = false
  up = 0
  down = 0
  resets = 0
  swallowed = 0
  private connections = 0
  private server: Net.Server | undefined

  constructor(options: Options) {
    this.options = options
  }

  get url() {
    return `mqtt://127.0.0.1:${this.port}`
  }

  readonly nextConnection = Queue.take(this.opened)
  readonly nextClose = Queue.take(this.closed)

  readonly accept: Effect.Effect<void> = Effect.callback((resume) => {
    if (this.server !== undefined) return resume(Effect.void)
    const server = Net.createServer({ noDelay: true, pauseOnConnect: true, allowHalfOpen: true }, (socket) => {
      this.links.add(new Link(this, this.connections++, socket))
    })
    this.server = server
    server.once("error", (cause) => resume(Effect.die(cause)))
    server.listen(this.port, "127.0.0.1", () => {
      this.port = (server.address() as Net.AddressInfo).port
      resume(Effect.void)
    })
  })

  readonly refuse = Effect.sync(() => {
    // Not awaited: a server is closed once its connections are, which stay here.
    this.server?.close()
    this.server = undefined
  })

  readonly close: Effect.Effect<void> = Effect.callback((resume) => {
    const server = this.server
    this.server = undefined
    for (const link of this.links) link.reset()
    if (server === undefined) return resume(Effect.void)
    server.close(() => resume(Effect.void))
  })

  readonly resetAll = Effect.sync(() => {
    for (const link of this.links) link.reset()
  })

  readonly finAll = Effect.sync(() => {
    for (const link of this.links) link.fin()
  })

  readonly blackHole = (direction: Direction | "both") =>
    Effect.sync(() => {
      if (direction !== "down") this.blackHoles.up = true
      if (direction !== "up") this.blackHoles.down = true
    })

  readonly stall = Effect.sync(() => {
    this.stalled = true
    for (const link of this.links) link.client.pause()
  })

  readonly heal = Effect.sync(() => {
    const blackHole = this.blackHoles.up || this.blackHoles.down
    this.blackHoles.up = false
    this.blackHoles.down = false
    this.stalled = false
    for (const link of this.links) {
      if (blackHole) link.reset()
      else link.client.resume()
    }
  })

  readonly counts = Effect.sync(() => ({
    connections: this.connections,
    open: this.links.size,
    resets: this.resets,
    blackHoles: this.swallowed,
    up: this.up,
    down: this.down
  }))
}

/** One connection through the proxy. */
class Link {
  readonly number: number
  readonly client: Net.Socket
  private readonly server: Net.Socket
  private readonly proxy: Proxy
  private readonly plan: Plan
  private readonly passed = { up: 0, down: 0 }
  private gone = false
  private silent = false

  constructor(proxy: Proxy, number: number, client: Net.Socket) {
    this.proxy = proxy
    this.number = number
    this.client = client
    this.plan = proxy.options.plan?.(number) ?? {}
    this.server = Net.connect({ port: proxy.options.port, host: "127.0.0.1", noDelay: true, allowHalfOpen: true })
    this.server.once("connect", () => {
      this.pipe("up", client, this.server)
      this.pipe("down", this.server, client)
      if (!proxy.stalled) client.resume()
      Queue.offerUnsafe(proxy.opened, number)
    })
    // An end on one side becomes the same end on the other, but for a black hole.
    client.on("error", () => this.broken())
    this.server.on("error", () => this.broken())
    client.on("close", () => this.over())
    this.server.on("close", () => this.over())
  }

  private pipe(direction: Direction, from: Net.Socket, to: Net.Socket) {
    from.on("data", (chunk) => this.forward(direction, from, to, chunk))
    from.on("end", () => {
      // A black hole swallows the end as well.
      if (this.silent) from.destroy()
      else if (!this.proxy.blackHoles[direction]) to.end()
    })
    to.on("drain", () => {
      if (!(direction === "up" && this.proxy.stalled)) from.resume()
    })
  }

  private forward(direction: Direction, from: Net.Socket, to: Net.Socket, chunk: Uint8Array) {
    if (this.gone || this.silent || this.proxy.blackHoles[direction]) return
    const { blackHoleAfter, resetAfter } = this.plan
    const cut = resetAfter ?? blackHoleAfter
    const left = cut?.direction === direction ? cut.bytes - this.passed[direction] : Infinity
    const bytes = chunk.length < left ? chunk : chunk.subarray(0, left)
    this.passed[direction] += bytes.length
    this.proxy[direction] += bytes.length
    this.proxy.options.tap?.(this.number, direction, bytes)
    if (!to.write(bytes)) from.pause()
    if (bytes.length < left) return
    if (cut === resetAfter) return this.reset()
    this.silent = true
    this.proxy.swallowed++
  }

  reset() {
    if (this.gone) return
    this.gone = true
    this.proxy.resets++
    this.client.resetAndDestroy()
    this.server.resetAndDestroy()
  }

  fin() {
    if (this.gone) return
    this.gone = true
    this.client.end(() => this.client.destroy())
    this.server.end(() => this.server.destroy())
  }

  private broken() {
    if (!this.silent) this.reset()
  }

  private over() {
    if (!this.silent) this.gone = true
    if (this.client.closed && this.server.closed) {
      if (this.proxy.links.delete(this)) Queue.offerUnsafe(this.proxy.closed, this.number)
    } else if (this.silent) return
    else if (!this.server.destroyed && this.client.closed) this.server.destroySoon()
    else if (!this.client.destroyed && this.server.closed) this.client.destroySoon()
  }
}
