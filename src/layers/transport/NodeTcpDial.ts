/**
 * Opens sockets of the operating system: TCP to a host of one or several addresses, and Unix domain sockets.
 *
 * A host with several addresses is dialled by all of them at once in the end ("Happy Eyeballs", RFC 8305): each next address
 * follows a quarter of a second after the one before, or as soon as that has failed, families taking turns, and the first
 * connection that opens wins. Node's own way (`autoSelectFamily`) gives an address up when the next one's turn comes, which
 * leaves a slow link without any.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Dns from "node:dns"
import * as Net from "node:net"
import type { DialPhase, TransportError } from "../../services/Transport.ts"
import { toError, toFault } from "./NodeFault.ts"
import { readableHighWaterMark, reserve } from "./NodeStream.ts"

/** What a dial needs beside its address. */
export interface TcpDialOptions {
  readonly writeHighWaterMark: number
  readonly attemptDelayMillis: number
  readonly keepAliveMillis: number | undefined
  readonly lookup: Net.LookupFunction | undefined
  readonly onPhase: (phase: DialPhase) => void
  /** Told of every socket as soon as it is made: whoever is told destroys it when the dial fails or is interrupted. */
  readonly onSocket: (socket: Net.Socket) => void
}

/** The socket has a listener for errors, since one without would end the process. */
export const openTcp = (
  host: string,
  port: number,
  options: TcpDialOptions
): Effect.Effect<Net.Socket, TransportError> =>
  Effect.callback((resume) => {
    const address = `${host.includes(":") ? `[${host}]` : host}:${port}`
    const race = new Race(port, options, (socket) => {
      if (options.keepAliveMillis !== undefined) socket.setKeepAlive(true, options.keepAliveMillis)
      resume(Effect.succeed(socket))
    }, (phase, cause) => resume(Effect.fail(toError(toFault(cause, phase), phase, address))))
    race.start(host)
    return Effect.sync(() => race.end())
  })

/** As `openTcp`. */
export const openUnix = (path: string, options: TcpDialOptions): Effect.Effect<Net.Socket, TransportError> =>
  Effect.callback((resume) => {
    options.onPhase("connect")
    const fail = (cause: Error) => resume(Effect.fail(toError(toFault(cause, "connect"), "connect", path)))
    const socket = makeSocket(options)
    socket.on("error", fail)
    socket.once("connect", () => {
      socket.on("error", ignore)
      socket.off("error", fail)
      resume(Effect.succeed(socket))
    })
    try {
      socket.connect({ path })
    } catch (cause) {
      fail(cause as Error)
    }
    return Effect.sync(() => {
      socket.destroy()
    })
  })

/** The listener for errors that a socket has as long as nobody else has one. */
export const ignore = (): void => {}

const makeSocket = (options: TcpDialOptions): Net.Socket => {
  // The type of the options leaves out those of the stream.
  const streamOptions = { readableHighWaterMark, writableHighWaterMark: options.writeHighWaterMark }
  const socket = new Net.Socket(streamOptions as Net.SocketConstructorOpts)
  reserve(socket)
  // Not as an option of `connect`, which does not know it.
  socket.setNoDelay(true)
  options.onSocket(socket)
  return socket
}

/** First of all what names a cause: that a network is not there is said of every address of a family that we do not have. */
const preferred = (causes: ReadonlyArray<NodeJS.ErrnoException>): NodeJS.ErrnoException =>
  causes.find((cause) => toFault(cause, "connect").kind !== "unreachable") ?? causes[0]!

/** The addresses of one host against each other. It ends once: with a socket, with a failure, or by `end`. */
class Race {
  private readonly port: number
  private readonly options: TcpDialOptions
  private readonly onSocket: (socket: Net.Socket) => void
  private readonly onFailure: (phase: DialPhase, cause: NodeJS.ErrnoException) => void
  private addresses: Array<string> = []
  private readonly sockets = new Set<Net.Socket>()
  private readonly causes: Array<NodeJS.ErrnoException> = []
  private timer: NodeJS.Timeout | undefined
  private isOver = false

  constructor(
    port: number,
    options: TcpDialOptions,
    onSocket: Race["onSocket"],
    onFailure: Race["onFailure"]
  ) {
    this.port = port
    this.options = options
    this.onSocket = onSocket
    this.onFailure = onFailure
  }

  start(host: string): void {
    if (Net.isIP(host) !== 0) return this.run([host])
    this.options.onPhase("dns")
    const lookup = this.options.lookup ?? (Dns.lookup as unknown as Net.LookupFunction)
    try {
      lookup(host, { all: true, order: "verbatim" }, (cause, found) => {
        if (this.isOver) return
        if (cause !== null && cause !== undefined) return this.fail("dns", cause)
        const addresses = typeof found === "string"
          ? [found]
          : (found as ReadonlyArray<Dns.LookupAddress>).map((entry) => entry.address)
        if (addresses.length > 0) return this.run(takeTurns(addresses))
        this.fail("dns", Object.assign(new Error("the name has no address"), { code: "ENOTFOUND" }))
      })
    } catch (cause) {
      this.fail("dns", cause as Error)
    }
  }

  /** Closes whatever was opened. */
  end(): void {
    this.isOver = true
    clearTimeout(this.timer)
    for (const socket of this.sockets) socket.destroy()
    this.sockets.clear()
  }

  private run(addresses: Array<string>): void {
    this.options.onPhase("connect")
    this.addresses = addresses
    this.next()
  }

  private next(): void {
    clearTimeout(this.timer)
    const host = this.addresses.shift()
    if (host === undefined) return
    if (this.addresses.length > 0) this.timer = setTimeout(() => this.next(), this.options.attemptDelayMillis)
    const socket = makeSocket(this.options)
    this.sockets.add(socket)
    const onError = (cause: Error) => this.lose(socket, cause)
    // Stays until somebody else listens for errors.
    socket.on("error", ignore)
    socket.on("error", onError)
    socket.once("connect", () => {
      if (this.isOver) return
      socket.off("error", onError)
      this.sockets.delete(socket)
      this.end()
      this.onSocket(socket)
    })
    try {
      socket.connect({ host, port: this.port })
    } catch (cause) {
      this.lose(socket, cause as Error)
    }
  }

  private lose(socket: Net.Socket, cause: Error): void {
    if (this.isOver) return
    socket.destroy()
    this.sockets.delete(socket)
    this.causes.push(cause)
    if (this.addresses.length > 0) this.next()
    else if (this.sockets.size === 0) this.fail("connect", preferred(this.causes))
  }

  private fail(phase: DialPhase, cause: NodeJS.ErrnoException): void {
    this.end()
    this.onFailure(phase, cause)
  }
}

/** The families by turns, beginning with that of the first address. */
const takeTurns = (addresses: ReadonlyArray<string>): Array<string> => {
  const isFirst = (address: string) => Net.isIP(address) === Net.isIP(addresses[0]!)
  const first = addresses.filter(isFirst)
  const second = addresses.filter((address) => !isFirst(address))
  return Array.from({ length: Math.max(first.length, second.length) }, (_, index) => [first[index], second[index]])
    .flat()
    .filter((address) => address !== undefined)
}
