/**
 * The broker `aedes` in this process, on a free loopback port. It speaks MQTT 3.1.1 and 5.0.
 */
import type { AedesOptions } from "aedes"
import { Aedes } from "aedes"
import { Effect } from "effect"
import * as Net from "node:net"

export interface Options {
  readonly broker?: AedesOptions | undefined
  /** User names and passwords; with them, nobody else may connect. */
  readonly users?: Readonly<Record<string, string>> | undefined
}

export interface EmbeddedAedes {
  readonly port: number
  readonly url: string
  readonly broker: Aedes
  /** Stops listening and drops every connection; sessions, queues and retained messages stay. */
  readonly stop: Effect.Effect<void>
  /** Listens again on the same port. */
  readonly start: Effect.Effect<void>
}

/** Starts a broker; it and all of its connections end with the scope. */
export const make = Effect.fnUntraced(function*(options: Options = {}) {
  const { users } = options
  const broker = yield* Effect.acquireRelease(
    Effect.promise(() =>
      Aedes.createBroker({
        ...(users === undefined ? undefined : {
          authenticate: (_client, username, password, done) => {
            if (username !== undefined && users[username] === password?.toString()) return done(null, true)
            // 5 is "not authorized" in both versions' mapping.
            done(Object.assign(new Error("bad credentials"), { returnCode: 4 }), false)
          }
        }),
        ...options.broker
      })
    ),
    (broker) => Effect.callback<void>((resume) => broker.close(() => resume(Effect.void)))
  )
  // The broker reports what clients do wrong; without a listener an error would end the process.
  broker.on("clientError", () => {})
  broker.on("connectionError", () => {})
  const listener = new Listener(broker)
  yield* Effect.addFinalizer(() => listener.stop)
  yield* listener.start
  const aedes: EmbeddedAedes = {
    port: listener.port,
    url: `mqtt://127.0.0.1:${listener.port}`,
    broker,
    stop: listener.stop,
    start: listener.start
  }
  return aedes
})

class Listener {
  port = 0
  private readonly broker: Aedes
  private server: Net.Server | undefined
  private readonly sockets = new Set<Net.Socket>()

  constructor(broker: Aedes) {
    this.broker = broker
  }

  readonly start: Effect.Effect<void> = Effect.callback((resume) => {
    const server = Net.createServer({ noDelay: true }, (socket) => {
      this.sockets.add(socket)
      socket.once("close", () => this.sockets.delete(socket))
      this.broker.handle(socket)
    })
    this.server = server
    server.once("error", (cause) => resume(Effect.die(cause)))
    server.listen(this.port, "127.0.0.1", () => {
      this.port = (server.address() as Net.AddressInfo).port
      resume(Effect.void)
    })
  })

  readonly stop: Effect.Effect<void> = Effect.callback((resume) => {
    const server = this.server
    this.server = undefined
    if (server === undefined) return resume(Effect.void)
    server.close(() => resume(Effect.void))
    for (const socket of this.sockets) socket.destroy()
  })
}
