/**
 * A port that answers no dial: the kernel neither takes nor refuses a connection.
 */
import { Effect } from "effect"
import * as Net from "node:net"
import { Worker } from "node:worker_threads"

// A thread that listens and then blocks empties its accept queue never.
const source = `
  const { parentPort } = require("node:worker_threads")
  const server = require("node:net").createServer()
  server.listen({ port: 0, host: "127.0.0.1", backlog: 1 }, () => {
    parentPort.postMessage(server.address().port)
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
  })
`

/** The port, on 127.0.0.1, until the scope closes. */
export const make = Effect.gen(function*() {
  const worker = yield* Effect.acquireRelease(
    Effect.sync(() => new Worker(source, { eval: true })),
    (worker) => Effect.promise(() => worker.terminate())
  )
  const port = yield* Effect.callback<number>((resume) => {
    worker.once("message", (port: number) => resume(Effect.succeed(port)))
  })
  // The queue takes one more than its backlog.
  for (let i = 0; i < 2; i++) {
    const filler = yield* Effect.acquireRelease(
      Effect.sync(() => Net.connect(port, "127.0.0.1")),
      (socket) => Effect.sync(() => socket.destroy())
    )
    filler.on("error", () => {})
    yield* Effect.callback<void>((resume) => {
      filler.once("connect", () => resume(Effect.void))
    })
  }
  return port
})
