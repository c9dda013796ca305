import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { join } from "node:path"
import { describeBrokersAndVersions, kinds } from "./support/Brokers.ts"
import * as Lives from "./support/Lives.ts"
import * as MqttJs from "./support/MqttJs.ts"

const messages = 80
/** More of them than a run of these chances can need. */
const livesMaximum = 200

const mosquitto = kinds.filter(({ name }) => name === "Mosquitto")

describeBrokersAndVersions("process", (kind, protocolVersion) => {
  for (
    const { chance, concurrency, name, spills } of [
      { name: "one handler at a time", concurrency: 1, chance: 0.03, spills: false },
      { name: "eight handlers at once", concurrency: 8, chance: 0.03, spills: false },
      { name: "one handler that is behind its store", concurrency: 1, chance: 0.03, spills: true }
    ]
  ) {
    it.live(
      `law 4: ${name}, killed in its handler again and again: every message is processed at least once`,
      () =>
        Effect.gen(function*() {
          const { url } = yield* kind.make()
          const directory = yield* Lives.directory
          const argument = {
            url,
            protocolVersion,
            concurrency,
            chance,
            ...(spills ? { store: join(directory, "session.db") } : {})
          }
          yield* Lives.live("HandlingClient.ts", { ...argument, mode: "subscribe", seed: "", chance: 0 })
          const publisher = yield* MqttJs.connect(url, { protocolVersion })
          const names = Array.from({ length: messages }, (_, index) => `${index}`)
          for (const name of names) yield* publisher.publish(`work/${Number(name) % 10}`, name, { qos: 1 })
          const done = new Map<string, number>()
          const firsts = new Map<string, Array<number>>()
          let lives = 0
          let isOver = false
          while (!isOver) {
            assert.isBelow(lives, livesMaximum)
            const { killed, lines } = yield* Lives.live("HandlingClient.ts", {
              ...argument,
              mode: "process",
              seed: `${name} ${lives++}`
            })
            for (const line of lines) {
              const [word, name = ""] = line.split(" ")
              if (word !== "done") continue
              const count = done.get(name) ?? 0
              done.set(name, count + 1)
              if (count > 0) continue
              const topic = `work/${Number(name) % 10}`
              firsts.set(topic, [...firsts.get(topic) ?? [], Number(name)])
            }
            isOver = !killed && done.size === messages
          }
          assert.deepStrictEqual(names.filter((name) => !done.has(name)), [])
          // It did die on the way, and nothing was skipped within a topic.
          assert.isAbove(lives, 1)
          for (const numbers of firsts.values()) assert.deepStrictEqual(numbers, [...numbers].sort((a, b) => a - b))
        }),
      120_000
    )
  }
}, mosquitto)
