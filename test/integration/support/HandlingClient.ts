/**
 * A program that processes messages, and kills itself in the middle of its handler by chance; see `Lives.ts`.
 *
 *     node test/integration/support/HandlingClient.ts '{"url": ..., "mode": "process", "seed": 1, ...}'
 *
 * It says what its handler begins and is done with, and ends by itself when nothing came for a while.
 */
import { Clock, Effect, Fiber, Layer, Random } from "effect"
import { writeSync } from "node:fs"
import { MqttClient, SessionStore } from "../../../src/node.ts"
import { text } from "../../../src/services/Message.ts"

interface Argument {
  readonly url: string
  readonly protocolVersion: 4 | 5
  /** `subscribe` only makes the session that the later lives go on with. */
  readonly mode: "subscribe" | "process"
  readonly seed: string
  /** How likely the handler kills the process, at each of two places. */
  readonly chance: number
  readonly concurrency: number
  /** File of the session store; with it, messages are put aside. */
  readonly store?: string | undefined
}

const argument = JSON.parse(process.argv[2] ?? "{}") as Argument

const say = (line: string) => Effect.sync(() => writeSync(1, `${line}\n`))

const filter = "work/#"

const chance = Effect.flatMap(
  Random.next,
  (drawn) => drawn < argument.chance ? Effect.sync(() => process.kill(process.pid, "SIGKILL")) : Effect.void
)

const program = Effect.gen(function*() {
  const client = yield* MqttClient.MqttClient
  if (argument.mode === "subscribe") {
    yield* Effect.scoped(client.subscription(filter, { qos: 1 }))
    return
  }
  let lastAt = yield* Clock.currentTimeMillis
  const handling = yield* Effect.forkChild(client.process(
    filter,
    Effect.fnUntraced(function*(message) {
      const name = text(message)
      lastAt = yield* Clock.currentTimeMillis
      yield* say(`begin ${name}`)
      yield* chance
      yield* Effect.sleep(1)
      yield* say(`done ${name}`)
      yield* chance
    }),
    {
      concurrency: argument.concurrency,
      key: ({ topic }) => topic,
      ...(argument.store === undefined ? {} : { whenSlow: "spill", heldMessages: 4 })
    }
  ))
  while ((yield* Clock.currentTimeMillis) - lastAt < 500) {
    yield* Effect.raceFirst(Effect.sleep(100), Fiber.join(handling))
  }
})

const client = MqttClient.layer({
  endpoint: argument.url,
  protocolVersion: argument.protocolVersion,
  clientId: "worker",
  cleanStart: false,
  sessionExpiry: "1 hour",
  receiveMaximum: 65_535,
  subscriptions: [{ filter, qos: 1 }]
})

const stored = argument.store === undefined
  ? client
  : Layer.provide(client, SessionStore.layerSqlite({ filename: argument.store }))

Effect.runFork(
  program.pipe(Effect.provide(stored), Random.withSeed(argument.seed), Effect.scoped)
).addObserver((exit) => {
  if (exit._tag === "Failure") {
    console.error(exit.cause)
    process.exitCode = 1
  }
})
