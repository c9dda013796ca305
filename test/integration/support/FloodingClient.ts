/**
 * A process of its own, so that nothing else counts: a client that publishes as fast as it may to a peer that takes nothing,
 * until nothing moves any more. Prints what it held and what it grew by, as JSON.
 *
 *     node --expose-gc FloodingClient.ts <url> <bound of the outbox in bytes>
 */
import { Effect, Result } from "effect"
import { MqttClient } from "../../../src/node.ts"
import * as Endpoint from "../../../src/services/Endpoint.ts"

const [url = "", bound = "0"] = process.argv.slice(2)

/** A turn of the event loop. */
const turn = Effect.callback<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})

/** Bytes of this process that are in use. */
const inUse = Effect.gen(function*() {
  for (let i = 0; i < 4; i++) {
    gc!()
    yield* turn
  }
  const { external, heapUsed } = process.memoryUsage()
  return external + heapUsed
})

const program = Effect.gen(function*() {
  const endpoint = Result.getOrThrow(Endpoint.fromUrl(url))
  const client = yield* MqttClient.make({
    endpoint: endpoint._tag === "Tls" ? { ...endpoint, tls: { insecureSkipVerification: true } } : endpoint,
    keepAlive: 0,
    disconnectTimeout: 1,
    drainTimeout: 1,
    outbox: { maxBytes: Number(bound), maxMessages: 1_000_000 }
  })
  const before = yield* inUse
  let accepted = 0
  yield* Effect.forkScoped(Effect.forever(Effect.suspend(() => {
    accepted++
    return client.publish({ topic: "flood", payload: new Uint8Array(16_384).fill(accepted), qos: 0 })
  })))
  yield* turn
  // Held back: the network took its last byte, and then the outbox its last message.
  for (let quiet = 0, seen = 0; quiet < 500; quiet++) {
    if (accepted !== seen) quiet = 0
    seen = accepted
    yield* turn
  }
  const { heldBytes } = yield* client.stats
  const after = yield* inUse
  return { acceptedBytes: accepted * 16_384, heldBytes, grownBytes: after - before }
})

Effect.runPromise(Effect.scoped(program)).then(
  (report) => {
    console.log(JSON.stringify(report))
    process.exit(0)
  },
  (error) => {
    console.error(error)
    process.exit(1)
  }
)
