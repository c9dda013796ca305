/**
 * A program that publishes messages under ids of its own, to be killed at any moment: `Crash.integration.test.ts` runs it. It
 * knows nothing of its earlier lives and repeats what it may have done.
 */
import { Effect } from "effect"
import { writeSync } from "node:fs"
import { MqttClient, SessionStore } from "../../../src/node.ts"
import { quickReconnect } from "./Client.ts"

export interface Argument {
  readonly url: string
  readonly filename: string
  readonly protocolVersion: 4 | 5
  readonly qos: 1 | 2
  readonly from: number
  readonly to: number
  /** Whether this is the last life, which says so on `crash/end`. */
  readonly isLast: boolean
}

const { filename, from, isLast, protocolVersion, qos, to, url } = JSON.parse(process.argv[2]!) as Argument

const say = (line: string): void => {
  writeSync(1, `${line}\n`)
}

const program = Effect.gen(function*() {
  const client = yield* MqttClient.make({
    endpoint: url,
    protocolVersion,
    clientId: "crash-publisher",
    cleanStart: false,
    sessionExpiry: "Infinity",
    reconnect: quickReconnect
  })
  say("connected")
  const done = new Set<number>()
  let low = from
  const publish = (i: number) =>
    Effect.map(client.publish({ topic: "crash/m", payload: String(i), qos }, { id: `m${i}` }), () => {
      done.add(i)
      while (done.delete(low)) low++
      if ((i - from) % 20 === 0) say(`done ${low}`)
    })
  yield* Effect.forEach(Array.from({ length: to - from }, (_, i) => from + i), publish, {
    concurrency: 300,
    discard: true
  })
  if (isLast) yield* client.publish({ topic: "crash/end", qos })
  say(`done ${low}`)
})

const store = SessionStore.layerSqlite({ filename })

await Effect.runPromise(Effect.scoped(Effect.provide(program, store)))
