/**
 * From a PUBLISH to its subscribers, with 10, 1,000 and 100,000 subscriptions. Every message has three takers, whatever the
 * number of subscriptions; so what grows with it is what finding them costs.
 *
 *     node bench/dispatch.ts [--json] [--quick]
 *
 * `ratio` is the cost of a message divided by that with 10 subscriptions. What the numbers do not mean is said in README.md.
 */
import { Buffer } from "node:buffer"
import { parseArgs } from "node:util"
import mqttPacket from "mqtt-packet"
import type { Member } from "../src/layers/subscriptions/SubscriptionEntry.ts"
import { Subscriptions } from "../src/layers/subscriptions/Subscriptions.ts"
import { makeDecoder } from "../src/protocol/PacketCodec.ts"
import { toMessage } from "../src/services/MessageCodec.ts"

const { values: flags } = parseArgs({
  options: { json: { type: "boolean", default: false }, quick: { type: "boolean", default: false } },
  allowPositionals: true
})

const sizes = [10, 1_000, 100_000] as const
const rounds = flags.quick ? 5 : 15
const messagesPerRound = flags.quick ? 20_000 : 100_000
const takers = 3

const site = (device: number) => `plant-${device % 7}/hall-${device % 40}/device-${String(device).padStart(5, "0")}`

/** Five filters for each device: three match its metrics, one is exact, and one is a neighbour's. */
const filtersOf = (device: number): ReadonlyArray<string> => [
  `${site(device)}/+`,
  `${site(device)}/#`,
  `$share/workers/${site(device)}/+`,
  `${site(device)}/status`,
  `+/hall-${device % 40}/device-${String(device).padStart(5, "0")}/alarm/+`
]

interface Subject {
  readonly size: number
  readonly subscriptions: Subscriptions
}

const makeSubject = (size: number): Subject => {
  const subscriptions = new Subscriptions()
  const filters = Array.from({ length: size / 5 }, (_, device) => filtersOf(device)).flat()
  for (const filter of filters) {
    const member: Member = {
      subscriber: { filter } as never,
      requests: [{ filter, qos: 0, noLocal: false, retainAsPublished: false, retainHandling: 0 }],
      awaiting: new Set(),
      onGranted: undefined,
      onRefused: () => {}
    }
    subscriptions.join(member, undefined)
  }
  return { size, subscriptions }
}

/** Topics of which each has three takers: those of the same two devices, or of as many as there are. */
const topicsFor = (subject: Subject, { isSpread, topics: count }: Scenario): ReadonlyArray<string> => {
  const devices = isSpread ? subject.size / 5 : 2
  const order = Array.from({ length: count }, (_, index) => {
    const device = Math.imul(index, 7919) % devices
    return `${site(Math.abs(device))}/metric-${String(Math.floor(index / devices)).padStart(5, "0")}`
  })
  return order
}

interface Scenario {
  readonly name: string
  readonly topics: number
  /** Whether they are those of all subscriptions, and not of the same few. */
  readonly isSpread: boolean
  readonly decodes: boolean
}

const scenarios: ReadonlyArray<Scenario> = [
  { name: "dispatch, the same 1,000 topics", topics: 1_000, isSpread: false, decodes: false },
  { name: "dispatch, the same 50,000 topics", topics: 50_000, isSpread: false, decodes: false },
  { name: "dispatch, 1,000 topics of all subscriptions", topics: 1_000, isSpread: true, decodes: false },
  { name: "dispatch, 50,000 topics of all subscriptions", topics: 50_000, isSpread: true, decodes: false },
  { name: "receive 64 B, the same 1,000 topics", topics: 1_000, isSpread: false, decodes: true },
  { name: "receive 64 B, the same 50,000 topics", topics: 50_000, isSpread: false, decodes: true },
  { name: "receive 64 B, 1,000 topics of all subscriptions", topics: 1_000, isSpread: true, decodes: true },
  { name: "receive 64 B, 50,000 topics of all subscriptions", topics: 50_000, isSpread: true, decodes: true }
]

let handed = 0
const hand = () => {
  handed++
}

/** Dispatches topics that the decoder has made strings of. */
const dispatcher = ({ subscriptions }: Subject, topics: ReadonlyArray<string>) => {
  const payload = new Uint8Array(0)
  const messages = topics.map((topic) => ({ topic, payload, qos: 0, retain: false } as const))
  return (from: number, count: number): void => {
    for (let i = from; i < from + count; i++) {
      subscriptions.route(messages[i % messages.length]!, undefined, "new", hand)
    }
  }
}

/** From bytes: decodes, makes the message and dispatches it. */
const receiver = ({ subscriptions }: Subject, topics: ReadonlyArray<string>) => {
  const chunks: Array<Uint8Array> = []
  let chunk: Array<Buffer> = []
  for (const topic of topics) {
    chunk.push(
      mqttPacket.generate(
        { cmd: "publish", topic, payload: Buffer.alloc(64, 0x31), qos: 0, retain: false, dup: false },
        { protocolVersion: 5 }
      )
    )
    if (chunk.length === 500) {
      chunks.push(Buffer.concat(chunk))
      chunk = []
    }
  }
  const decoder = makeDecoder({
    protocolVersion: 5,
    maximumPacketSize: Infinity,
    topicAliasMaximum: 0,
    requestProblemInformation: true
  })
  const taken: Array<unknown> = []
  return (from: number, count: number): void => {
    for (let i = from / 500; i < (from + count) / 500; i++) {
      taken.length = 0
      decoder.push(chunks[i % chunks.length]!, (packet) => {
        if (packet._tag !== "Publish") return undefined
        let message: ReturnType<typeof toMessage> | undefined
        subscriptions.route(packet, packet.properties?.subscriptionIdentifiers, "new", () => {
          message ??= toMessage(packet)
          taken.push(message)
          handed++
        })
        return undefined
      })
    }
  }
}

const median = (values: ReadonlyArray<number>): number => [...values].sort((a, b) => a - b)[values.length >> 1]!

const measure = (run: (from: number, count: number) => void, from: number): number => {
  handed = 0
  const before = process.cpuUsage()
  run(from, messagesPerRound)
  const { system, user } = process.cpuUsage(before)
  if (handed !== messagesPerRound * takers) throw new Error(`${handed} messages handed over`)
  return (user + system) * 1_000 / messagesPerRound
}

const subjects = sizes.map((size) => {
  const before = process.memoryUsage().heapUsed
  const subject = makeSubject(size)
  globalThis.gc?.()
  return { ...subject, heap: process.memoryUsage().heapUsed - before }
})

if (!flags.json) {
  console.log(`CPU time per message with ${takers} takers, and its ratio to that with 10 subscriptions\n`)
}

for (const scenario of scenarios) {
  const runs = subjects.map((subject) =>
    (scenario.decodes ? receiver : dispatcher)(subject, topicsFor(subject, scenario))
  )
  const costs = runs.map((): Array<number> => [])
  const ratios = runs.map((): Array<number> => [])
  // The first round warms up.
  for (let round = 0; round <= rounds; round++) {
    const nanos = runs.map((run) => measure(run, round * messagesPerRound))
    if (round === 0) continue
    for (const [index, cost] of nanos.entries()) {
      costs[index]!.push(cost)
      ratios[index]!.push(cost / nanos[0]!)
    }
  }
  if (!flags.json) console.log(scenario.name)
  for (const [index, { size }] of subjects.entries()) {
    const nanos = median(costs[index]!)
    const ratio = median(ratios[index]!)
    if (flags.json) {
      const line = {
        scenario: scenario.name,
        subscriptions: size,
        nanos: Math.round(nanos),
        ratio: Number(ratio.toFixed(2))
      }
      console.log(JSON.stringify(line))
    } else {
      console.log(
        `  ${size.toLocaleString("en").padStart(8)} subscriptions  ${nanos.toFixed(0).padStart(6)} ns  ${
          ratio.toFixed(2)
        }`
      )
    }
  }
}

if (!flags.json && globalThis.gc !== undefined) {
  const { heap, size } = subjects.at(-1)!
  console.log(`\n${(heap / size).toFixed(0)} bytes of heap for each of ${size.toLocaleString("en")} subscriptions`)
}
