/**
 * A stretch of network between a client and a broker that can be made to fall silent: bytes vanish, sockets stay open, and
 * neither side is told.
 */
import { Effect } from "effect"
import * as Net from "node:net"

export interface FaultyLink {
  /** Where the client dials. */
  readonly url: string
  /** From now on every byte is swallowed, in both directions. */
  readonly fallSilent: Effect.Effect<void>
  /** Bytes pass again; connections from the silent time have a hole in them, so they are reset. */
  readonly recover: Effect.Effect<void>
}

/** Opens the link to a broker; it closes with the scope. */
export const make = Effect.fnUntraced(function*(broker: { readonly host: string; readonly port: number }) {
  let silent = false
  const sockets = new Set<Net.Socket>()
  const pass = (from: Net.Socket, to: Net.Socket) => {
    sockets.add(from)
    from.on("data", (chunk) => {
      if (!silent && !to.write(chunk)) from.pause()
    })
    to.on("drain", () => from.resume())
    from.on("error", () => to.destroy())
    from.on("close", () => {
      sockets.delete(from)
      if (!silent) to.destroySoon()
    })
  }
  const server = yield* Effect.acquireRelease(
    Effect.callback<Net.Server>((resume) => {
      const server = Net.createServer({ noDelay: true }, (client) => {
        const upstream = Net.connect({ ...broker, noDelay: true })
        pass(client, upstream)
        pass(upstream, client)
      })
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const socket of sockets) socket.destroy()
      })
  )
  const link: FaultyLink = {
    url: `mqtt://127.0.0.1:${(server.address() as Net.AddressInfo).port}`,
    fallSilent: Effect.sync(() => {
      silent = true
    }),
    recover: Effect.sync(() => {
      silent = false
      for (const socket of sockets) socket.resetAndDestroy()
    })
  }
  return link
})
