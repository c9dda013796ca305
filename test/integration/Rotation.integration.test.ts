import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Queue } from "effect"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import * as Tls from "node:tls"
import * as Endpoint from "../../src/services/Endpoint.ts"
import { text } from "../../src/services/Message.ts"
import * as Certificates from "../support/Certificates.ts"
import { describeBrokers, kinds } from "./support/Brokers.ts"
import * as Client from "./support/Client.ts"
import * as Roads from "./support/Roads.ts"

const rotations = 100

/** TLS in front of the broker that lets nobody in but the holder of the newest certificate; who came is told in `seen`. */
const gateway = Effect.fnUntraced(function*(broker: number, options: Tls.TlsOptions, newest: () => string) {
  const seen: Array<string> = []
  const server = yield* Effect.acquireRelease(
    Effect.callback<Tls.Server>((resume) => {
      const server = Tls.createServer({ ...options, requestCert: true, rejectUnauthorized: true }, (socket) => {
        const name = String(socket.getPeerCertificate().subject.CN)
        seen.push(name)
        if (name !== newest()) {
          socket.destroy()
          return
        }
        const peer = Net.connect({ host: "127.0.0.1", port: broker, noDelay: true })
        for (const [from, to] of [[socket, peer], [peer, socket]] as const) {
          from.on("error", () => to.destroy())
          from.once("close", () => to.destroy())
          from.pipe(to)
        }
      })
      server.listen({ host: "127.0.0.1", port: 0 }, () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
      })
  )
  return { seen, server, port: (server.address() as Net.AddressInfo).port }
})

/** A client that comes back before aedes has seen the end of its old connection is cut off there, with what was for it. */
const brokers = kinds.filter(({ name }) => name === "Mosquitto")

describeBrokers("rotation", (kind) => {
  it.live(
    `law 8: certificates of both sides replaced ${rotations} times, on disk and under load: no message is lost`,
    () =>
      Effect.gen(function*() {
        const broker = yield* kind.make()
        const directory = yield* Roads.directory
        const files = { cert: Path.join(directory, "client.pem"), key: Path.join(directory, "client.key") }
        const authority = yield* Certificates.authority()
        let newest = ""
        const rotate = Effect.fnUntraced(function*(name: string) {
          const pair = yield* Certificates.issue(authority, { name })
          Fs.writeFileSync(files.cert, pair.cert)
          Fs.writeFileSync(files.key, pair.key)
          newest = name
          return pair
        })
        const first = yield* rotate("client-0")
        const { port, seen, server } = yield* gateway(broker.port, { ca: authority.cert, ...first }, () => newest)
        const client = yield* Client.make({
          endpoint: Endpoint.tls("localhost", {
            port,
            tls: { ca: authority.cert, cert: { file: files.cert }, key: { file: files.key } }
          }),
          clientId: "rotating",
          sessionExpiry: "1 hour",
          ...Client.underLoad
        })
        const other = yield* Client.make({ endpoint: broker.url, clientId: "other", ...Client.underLoad })
        const [up, down] = [
          yield* Client.subscribe(other, "up", { qos: 1 }),
          yield* Client.subscribe(client, "down", { qos: 1 })
        ]
        let sent = 0
        let isOver = false
        const flood = (publisher: typeof client, topic: string) =>
          Effect.gen(function*() {
            const numbers: Array<string> = []
            while (!isOver) {
              const payload = `${sent++}`
              numbers.push(payload)
              yield* publisher.publish({ topic, payload, qos: 1 })
            }
            return numbers
          })
        const floods = [
          ...(yield* Effect.forEach([1, 2, 3, 4], () => Effect.forkChild(flood(client, "up")))),
          yield* Effect.forkChild(flood(other, "down"))
        ]
        for (let round = 1; round <= rotations; round++) {
          const pair = yield* rotate(`client-${round}`)
          server.setSecureContext({ ca: authority.cert, ...pair })
          yield* client.reconnect()
        }
        isOver = true
        const numbers = yield* Effect.forEach(floods, Fiber.join)
        const expected = { up: new Set(numbers.slice(0, 4).flat()), down: new Set(numbers[4]) }
        // Each is there once the last of them is.
        for (const [queue, missing] of [[up, expected.up], [down, expected.down]] as const) {
          while (missing.size > 0) missing.delete(text(yield* Queue.take(queue)))
        }
        assert.deepStrictEqual(seen, Array.from({ length: rotations + 1 }, (_, round) => `client-${round}`))
        assert.isAbove(sent, rotations)
      }),
    60_000
  )
}, brokers)
