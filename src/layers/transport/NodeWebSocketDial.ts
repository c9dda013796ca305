/**
 * Opens a WebSocket on a socket, and makes a byte stream of it (MQTT 5.0 §6): binary messages only, of the subprotocol
 * `mqtt`.
 *
 * Handshake and frames are those of `ws`, which `@effect/platform-node` brings along; the bounds are ours, since the writer
 * of `ws` takes whatever it is given. The pings of a WebSocket are answered here and are never taken for a sign that the
 * broker lives: only messages become bytes of the stream.
 *
 * @since 0.1.0
 */
import * as NodeWS from "@effect/platform-node/NodeWS"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type * as Net from "node:net"
import type { SecureWebSocketEndpoint, WebSocketEndpoint } from "../../services/Endpoint.ts"
import { toUrl } from "../../services/Endpoint.ts"
import type { TransportDetail, TransportError } from "../../services/Transport.ts"
import { tlsReasonOf, toError, toFault } from "./NodeFault.ts"
import type { Fault } from "./NodeFault.ts"
import { NodeStream } from "./NodeStream.ts"
import type { StreamSettings, Wire } from "./NodeStream.ts"

type WebSocketDetail = Omit<Extract<TransportDetail, { readonly _tag: "WebSocket" }>, "_tag">

const webSocketFault = (detail: WebSocketDetail, cause?: NodeJS.ErrnoException): Fault => ({
  kind: "websocket",
  code: cause?.code,
  detail: { _tag: "WebSocket", ...detail },
  // The parser of HTTP adds what the peer sent, which does not belong into an error.
  cause: cause === undefined ? undefined : new Error(cause.message)
})

/** What a message costs beside its bytes: a peer that sends them one by one is held back as well. */
const messageOverhead = 256

const subprotocol = "mqtt"

/** Interrupted, or failed, it destroys the socket. */
export const openWebSocket = (
  socket: Net.Socket,
  endpoint: WebSocketEndpoint | SecureWebSocketEndpoint,
  address: string,
  settings: StreamSettings
): Effect.Effect<NodeStream, TransportError> =>
  Effect.callback((resume) => {
    const fail = (detail: WebSocketDetail, cause?: NodeJS.ErrnoException) => {
      socket.destroy()
      // A server that wants a certificate of ours says so only after the TLS handshake.
      const isTls = cause !== undefined && tlsReasonOf(cause.code) !== undefined
      const fault = isTls ? toFault(cause, "websocket") : webSocketFault(detail, cause)
      resume(Effect.fail(toError(fault, "websocket", address)))
    }
    if (socket.destroyed) return fail({ reason: "handshake" })
    let webSocket: NodeWS.WebSocket
    try {
      webSocket = makeWebSocket(socket, endpoint, settings)
    } catch {
      // What it says may repeat the URL with its query.
      return fail({ reason: "handshake" })
    }
    // A proxy may have left it paused.
    if (socket.isPaused()) socket.resume()
    let agreed: string | undefined
    webSocket.once("upgrade", (response) => {
      agreed = response.headers["sec-websocket-protocol"] ?? ""
    })
    webSocket.once("unexpected-response", (request, response) => {
      request.on("error", () => {})
      request.destroy()
      fail({ reason: "status", status: response.statusCode ?? 0 })
    })
    // The first one is the one that counts; later ones must have a listener all the same.
    webSocket.on("error", (cause) => {
      fail({ reason: agreed === undefined || agreed === subprotocol ? "handshake" : "subprotocol" }, cause)
    })
    webSocket.once("open", () => {
      resume(Effect.succeed(toStream(webSocket, socket, endpoint, settings)))
    })
    return Effect.sync(() => {
      webSocket.terminate()
      socket.destroy()
    })
  })

const makeWebSocket = (
  socket: Net.Socket,
  endpoint: WebSocketEndpoint | SecureWebSocketEndpoint,
  settings: StreamSettings
): NodeWS.WebSocket => {
  const query = endpoint.query === undefined ? "" : `?${Redacted.value(endpoint.query)}`
  const headers = Object.entries(endpoint.headers ?? {}).map(([name, value]) => [
    name,
    Redacted.isRedacted(value) ? Redacted.value(value) : value
  ])
  const options = {
    createConnection: () => socket,
    headers: Object.fromEntries(headers) as Record<string, string>,
    followRedirects: false,
    perMessageDeflate: false,
    maxPayload: endpoint.maxMessageBytes ?? 32 * 1024 * 1024,
    autoPong: false,
    // How long the peer may take to close its side after a close frame.
    closeTimeout: Math.min(settings.closeGraceMillis, 1_000)
  }
  // The zone of an address has a meaning on this machine only (RFC 6874 §4).
  const url = toUrl({ ...endpoint, host: endpoint.host.replace(/%.*$/, "") })
  const webSocket = new NodeWS.WebSocket(`${url}${query}`, [subprotocol], options)
  // Messages of several fragments need not be joined: the stream has no borders.
  webSocket.binaryType = "fragments"
  return webSocket
}

const toStream = (
  webSocket: NodeWS.WebSocket,
  socket: Net.Socket,
  endpoint: WebSocketEndpoint | SecureWebSocketEndpoint,
  settings: StreamSettings
): NodeStream => {
  const wire: Wire = {
    write: (chunk) => webSocket.send(chunk, { binary: true }, () => {}),
    pause: () => webSocket.pause(),
    resume: () => webSocket.resume(),
    end: () => webSocket.close(1000)
  }
  const stream = new NodeStream(socket, endpoint, settings, { wire })
  webSocket.on("message", (data, isBinary) => {
    if (!isBinary) {
      webSocket.close(1003)
      return stream.die(webSocketFault({ reason: "textMessage" }))
    }
    for (const chunk of data as ReadonlyArray<Buffer>) {
      if (chunk.length > 0) stream.receive(chunk, chunk.length + messageOverhead)
    }
  })
  webSocket.on("ping", (data) => {
    // Only the last ping need be answered (RFC 6455 §5.5.3): none is, while the peer does not even take the answers.
    if (socket.writableLength < settings.writeHighWaterMark) webSocket.pong(data, true, () => {})
  })
  webSocket.on("error", (cause: NodeJS.ErrnoException) => stream.die(webSocketFault({ reason: "frame" }, cause)))
  webSocket.on("close", (closeCode) => stream.die(toCloseFault(closeCode)))
  return stream
}

/** 1000 and 1001 are ordinary ends; 1005 is a close frame without a code, 1006 an end without a close frame. */
const toCloseFault = (closeCode: number): Fault =>
  closeCode === 1000 || closeCode === 1001 || closeCode === 1005 || closeCode === 1006
    ? { kind: "eof" }
    : webSocketFault({ reason: "closed", closeCode })
