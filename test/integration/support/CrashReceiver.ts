/**
 * A program that takes messages with the inbox of its store, to be killed at any moment: `Crash.integration.test.ts` runs it.
 * Every message becomes a row of a table of its own, in the same file and the same transaction as what MQTT has to know.
 */
import { Deferred, Effect } from "effect"
import { writeSync } from "node:fs"
import { MqttClient, SessionStore } from "../../../src/node.ts"
import { text } from "../../../src/services/Message.ts"
import type { Message } from "../../../src/services/Message.ts"
import { quickReconnect } from "./Client.ts"

export interface Argument {
  readonly url: string
  readonly filename: string
  readonly protocolVersion: 4 | 5
  readonly qos: 1 | 2
  /** Whether this life is there to subscribe, and to take nothing. */
  readonly isFirst: boolean
}

const { filename, isFirst, protocolVersion, qos, url } = JSON.parse(process.argv[2]!) as Argument

const say = (line: string): void => {
  writeSync(1, `${line}\n`)
}

const program = Effect.gen(function*() {
  const database = yield* SessionStore.SqliteDatabase
  yield* database.exec("CREATE TABLE IF NOT EXISTS taken (n TEXT NOT NULL, delivery TEXT)")
  const client = yield* MqttClient.make({
    endpoint: url,
    protocolVersion,
    clientId: "crash-receiver",
    cleanStart: false,
    sessionExpiry: "Infinity",
    subscriptions: [{ filter: "crash/#", qos }],
    // Mosquitto 2.0.11 does not keep to it.
    onReceiveMaximumExceeded: "accept",
    reconnect: quickReconnect
  })
  if (isFirst) {
    // The answer to the second comes behind that to SUBSCRIBE.
    yield* client.ping
    yield* client.ping
    return
  }
  say("connected")
  const end = yield* Deferred.make<void>()
  let count = 0
  const handle = Effect.fnUntraced(function*(message: Message) {
    yield* database.run("INSERT INTO taken VALUES (?, ?)", text(message), message.deliveryId ?? null)
    if (++count % 20 === 0) say(`done ${count}`)
    if (message.topic === "crash/end") yield* Deferred.succeed(end, undefined)
  })
  yield* Effect.raceFirst(client.inbox("crash/#", handle), Deferred.await(end))
})

await Effect.runPromise(Effect.scoped(Effect.provide(program, SessionStore.layerSqlite({ filename }))))
