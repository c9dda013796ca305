/**
 * The broker `aedes` inside this process, for examples that shall run anywhere.
 */
import { Aedes } from "aedes"
import { Effect } from "effect"
import * as Net from "node:net"

/** Starts it on a free loopback port; it ends with the scope. The user `intruder` is refused. */
export const make = Effect.gen(function*() {
  const broker = yield* Effect.acquireRelease(
    Effect.promise(() =>
      Aedes.createBroker({
        authenticate: (_client, username, _password, done) => {
          if (username === "intruder") done(Object.assign(new Error("refused"), { returnCode: 4 }), false)
          else done(null, true)
        }
      })
    ),
    (broker) => Effect.callback<void>((resume) => broker.close(() => resume(Effect.void)))
  )
  broker.on("clientError", () => {})
  broker.on("connectionError", () => {})
  const sockets = new Set<Net.Socket>()
  const server = yield* Effect.acquireRelease(
    Effect.callback<Net.Server>((resume) => {
      const server = Net.createServer({ noDelay: true }, (socket) => {
        sockets.add(socket)
        socket.once("close", () => sockets.delete(socket))
        broker.handle(socket)
      })
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const socket of sockets) socket.destroy()
      })
  )
  return { host: "127.0.0.1", port: (server.address() as Net.AddressInfo).port }
})
