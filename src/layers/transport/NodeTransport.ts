/**
 * The `Transport` on Node: TCP, TLS, WebSockets, Unix domain sockets, and proxies before them.
 *
 * One dial makes one socket, and the `Connection` that owns it. A dial is a row of steps, each of which takes the socket of
 * the one before: TCP (`NodeTcpDial`), the proxy (`NodeProxyDial`), TLS (`NodeTlsDial`), the WebSocket (`NodeWebSocketDial`).
 *
 * `NodeSocket` of `@effect/platform-node` is not what this stands on, since it cannot keep the contract of `Transport`: its
 * writer outlives the connection (a write after the end waits for the next dial instead of failing), a write on a destroyed
 * socket waits for a drain that never comes, its close waits for a dead peer to take what was written, its reads
 * concatenate what arrived into one copy, and its WebSocket writer knows no backpressure at all.
 *
 * Time here is the real one and not the Clock's: real sockets do not run in virtual time, and a close must end by itself
 * under any Clock.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import type * as Net from "node:net"
import type { Endpoint, NetworkOptions } from "../../services/Endpoint.ts"
import { toAddress } from "../../services/Endpoint.ts"
import type { ProxyServer } from "../../services/ProxyServer.ts"
import type { Connection, DialPhase, TransportError } from "../../services/Transport.ts"
import { Transport } from "../../services/Transport.ts"
import { NodeStream } from "./NodeStream.ts"
import type { StreamSettings } from "./NodeStream.ts"
import { openTunnel, proxyAddress, proxyError } from "./NodeProxyDial.ts"
import { ignore, openTcp, openUnix } from "./NodeTcpDial.ts"
import { openTls, prepareTls } from "./NodeTlsDial.ts"
import { openWebSocket } from "./NodeWebSocketDial.ts"

// ---------------------------------------------------------------------------
// options
// ---------------------------------------------------------------------------

/**
 * Options of the transport on Node; what belongs to one broker is in its endpoint.
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
  /** How long one address of a host is given before the next one is dialled as well (RFC 8305). Default 250 ms. */
  readonly attemptDelay?: Duration.Input | undefined
  /** Resolves host names. Default `dns.lookup` of Node, which asks the operating system. */
  readonly lookup?: Net.LookupFunction | undefined
}

interface Settings extends StreamSettings {
  readonly attemptDelayMillis: number
  readonly lookup: Net.LookupFunction | undefined
}

// ---------------------------------------------------------------------------
// constructors
// ---------------------------------------------------------------------------

// A timer of Node takes no more than 31 bits.
const timerMillis = (input: Duration.Input): number =>
  Math.min(Duration.toMillis(Duration.fromInputUnsafe(input)), 0x7fffffff)

/**
 * Makes a transport that dials every kind of endpoint.
 *
 * **Details**
 *
 * A host name with several addresses is dialled one address after the other, a quarter of a second apart, and the first
 * connection wins (RFC 8305). TCP_NODELAY is on: the client coalesces its writes itself.
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
    closeGraceMillis: timerMillis(options.closeGrace ?? "1 second"),
    attemptDelayMillis: timerMillis(options.attemptDelay ?? "250 millis"),
    lookup: options.lookup
  }
  return { connect: (endpoint, onPhase = () => {}) => connect(endpoint, settings, onPhase) }
}

/**
 * The transport with other options.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWith = (options: Options): Layer.Layer<Transport> => Layer.succeed(Transport, make(options))

/**
 * The transport.
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
  settings: Settings,
  onPhase: (phase: DialPhase) => void
): Effect.fn.Return<Connection, TransportError, Scope.Scope> {
  const scope = yield* Effect.scope
  const dial = new Dial(endpoint, settings, onPhase)
  const owned = own(dial)
  // Registered before the dial, so that no interruption finds a socket without an owner.
  yield* Scope.addFinalizerExit(scope, owned.close)
  const stream = yield* abandonOnError(dial)
  // The dial is not kept any more.
  owned.replace(stream)
  return stream
})

interface Closing {
  readonly close: Effect.Effect<void>
}

// Apart, so that they know nothing but what they need.
const own = (current: Closing) => ({
  close: () => current.close,
  replace: (next: Closing) => {
    current = next
  }
})
const abandonOnError = (dial: Dial) => Effect.onError(dial.open, () => dial.abandon)

/** One dial and the sockets it made. `stream` is set once everything is open, and owns them from then on. */
class Dial {
  private readonly endpoint: Endpoint
  private readonly settings: Settings
  private readonly onPhase: (phase: DialPhase) => void
  private readonly address: string
  private readonly sockets: Array<Net.Socket> = []
  private stream: NodeStream | undefined

  constructor(endpoint: Endpoint, settings: Settings, onPhase: (phase: DialPhase) => void) {
    this.endpoint = endpoint
    this.settings = settings
    this.onPhase = onPhase
    this.address = toAddress(endpoint)
  }

  get open(): Effect.Effect<NodeStream, TransportError> {
    return Dial.opening.call(this)
  }

  private static readonly opening = Effect.fnUntraced(function*(
    this: Dial
  ): Effect.fn.Return<NodeStream, TransportError> {
    const { address, endpoint, settings } = this
    if (endpoint._tag === "Unix") {
      const socket = yield* openUnix(endpoint.path, this.tcpOptions({}))
      return this.use(new NodeStream(socket, endpoint, settings), socket)
    }
    const isSecure = endpoint._tag === "Tls" || endpoint._tag === "SecureWebSocket"
    const peer = { host: endpoint.host, port: endpoint.port, address }
    // First, since nobody need be dialled with certificates that cannot be used.
    const material = isSecure ? yield* prepareTls(endpoint.tls, peer) : undefined
    let socket = endpoint.proxy === undefined
      ? yield* openTcp(endpoint.host, endpoint.port, this.tcpOptions(endpoint))
      : yield* Dial.openProxy.call(this, endpoint.proxy, endpoint, peer)
    if (material !== undefined) {
      this.onPhase("tls")
      socket = yield* openTls(socket, material, peer, settings.writeHighWaterMark)
    }
    if (endpoint._tag === "Tcp" || endpoint._tag === "Tls") {
      return this.use(new NodeStream(socket, endpoint, settings, { hesitates: isSecure }), socket)
    }
    this.onPhase("websocket")
    return this.use(yield* openWebSocket(socket, endpoint, address, settings), socket)
  })

  private static readonly openProxy = Effect.fnUntraced(function*(
    this: Dial,
    proxy: ProxyServer,
    endpoint: NetworkOptions,
    peer: { readonly host: string; readonly port: number; readonly address: string }
  ): Effect.fn.Return<Net.Socket, TransportError> {
    const { settings } = this
    const isSecure = proxy._tag === "HttpConnect" && proxy.tls !== undefined
    const proxyPeer = { host: proxy.host, address: proxyAddress(proxy) }
    const material = isSecure ? yield* prepareTls(proxy.tls, proxyPeer) : undefined
    let socket = yield* Effect.mapError(
      openTcp(proxy.host, proxy.port, this.tcpOptions(endpoint)),
      (cause) => proxyError(proxy, peer, "unavailable", { code: cause.code, cause })
    )
    if (material !== undefined) {
      this.onPhase("tls")
      socket = yield* openTls(socket, material, proxyPeer, settings.writeHighWaterMark)
    }
    this.onPhase("proxy")
    return yield* openTunnel(socket, proxy, peer)
  })

  private tcpOptions(endpoint: NetworkOptions) {
    const { attemptDelayMillis, lookup, writeHighWaterMark } = this.settings
    const keepAliveMillis = endpoint.tcpKeepAlive === undefined ? undefined : timerMillis(endpoint.tcpKeepAlive)
    return {
      attemptDelayMillis,
      lookup,
      writeHighWaterMark,
      keepAliveMillis,
      onPhase: this.onPhase,
      onSocket: (socket: Net.Socket) => void this.sockets.push(socket)
    }
  }

  private use(stream: NodeStream, socket: Net.Socket): NodeStream {
    this.stream = stream
    // Now the stream has its own.
    socket.off("error", ignore)
    return stream
  }

  /** Destroys what was opened by a dial that failed or was interrupted. */
  get abandon(): Effect.Effect<void> {
    return Effect.sync(() => {
      for (const socket of this.sockets) socket.destroy()
    })
  }

  /** Runs as a finalizer of the scope. */
  get close(): Effect.Effect<void> {
    return this.stream?.close ?? this.abandon
  }
}
