/**
 * A day of many clients: each publishes once a minute, every ten minutes something goes wrong, and at the end nothing may be
 * missing. In virtual time.
 */
import { Clock, Effect, Exit, Fiber, Random, Scheduler, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as MqttClient from "../../../src/layers/MqttClient.ts"
import * as Message from "../../../src/services/Message.ts"
import { MemoryNetwork, TestBroker } from "../../../src/testing/index.ts"
import { Random as Chance } from "../../protocol/support/PacketGenerator.ts"
import * as TurnScheduler from "./TurnScheduler.ts"
import type { Failure } from "./Verdict.ts"

export interface DayOptions {
  readonly clients: number
  readonly hours: number
}

export interface Counts {
  readonly clients: number
  readonly hours: number
  readonly published: number
  readonly received: number
  readonly faults: number
  /** Connections that were opened. */
  readonly connections: number
}

export const inWords = ({ clients, connections, faults, hours, published, received }: Counts): string =>
  `${hours} hours, ${clients} clients, ${published} published, ${received} received, ${faults} faults, ${connections} connections`

const minute = 60_000
const ticksPerMinute = 6

/** What goes wrong, in turn. */
const faults = [
  (broker: TestBroker.TestBroker["Service"], chance: Chance) => some(broker, chance, (peer) => peer.reset),
  (broker: TestBroker.TestBroker["Service"], chance: Chance) => some(broker, chance, (peer) => peer.blackHole("both")),
  (broker: TestBroker.TestBroker["Service"]) => broker.restart({ sessions: "keep", downFor: "30 seconds" }),
  (broker: TestBroker.TestBroker["Service"], chance: Chance) => some(broker, chance, (peer) => peer.close),
  (broker: TestBroker.TestBroker["Service"]) =>
    Effect.asVoid(broker.cutBefore({ from: "broker", type: "Puback", times: 10 })),
  (broker: TestBroker.TestBroker["Service"], chance: Chance) => some(broker, chance, (peer) => peer.blackHole("in")),
  (broker: TestBroker.TestBroker["Service"]) =>
    Effect.asVoid(broker.cutBefore({ from: "client", type: "Publish", times: 10 }, "blackHole")),
  (broker: TestBroker.TestBroker["Service"]) => broker.restart({ sessions: "keep", how: "fin" })
]

/** About a tenth of the links. */
const some = (
  broker: TestBroker.TestBroker["Service"],
  chance: Chance,
  harm: (peer: MemoryNetwork.Peer) => Effect.Effect<void>
) => Effect.forEach(broker.clients.filter(() => chance.bool(0.1)), ({ peer }) => harm(peer), { discard: true })

/** One device. Publishing says its number and how many messages came before. */
const makeDevice = Effect.fnUntraced(function*(number: number, onDone: (id: string) => void) {
  const client = yield* MqttClient.make({
    endpoint: "mqtt://broker",
    clientId: `device-${number}`,
    sessionExpiry: "Infinity",
    keepAlive: "2 minutes",
    pingTimeout: "10 seconds"
  })
  let last = 0
  const topic = `device/${number}`
  return Effect.suspend(() => {
    const id = `${number}.${++last}`
    return Effect.andThen(client.publish({ topic, payload: id, qos: 1 }), Effect.sync(() => onDone(id)))
  })
})

const day = Effect.fnUntraced(function*({ clients, hours }: DayOptions, idle: Effect.Effect<void>) {
  const minutes = hours * 60
  const chance = new Chance(1)
  const pass = (millis: number) => Effect.andThen(idle, TestClock.adjust(millis))
  const network = yield* MemoryNetwork.MemoryNetwork
  const broker = yield* TestBroker.make({ strict: false, logLimit: 0 })
  const clock = yield* Clock.Clock
  const failures: Array<Failure> = []
  const scope = yield* Scope.make()

  const received = new Map<string, number>()
  const service = yield* Effect.forkChild(
    Scope.provide(
      MqttClient.make({
        endpoint: "mqtt://broker",
        clientId: "service",
        sessionExpiry: "Infinity",
        subscriptions: [{ filter: "device/+", qos: 2 }]
      }),
      scope
    ),
    { startImmediately: true }
  )
  yield* pass(1_000)
  const { durable } = yield* Fiber.join(service)
  yield* Effect.forkIn(
    Stream.runForEach(durable("device/+"), (message) =>
      Effect.sync(() => {
        const id = Message.text(message)
        received.set(id, (received.get(id) ?? 0) + 1)
      })),
    scope
  )

  const done = new Set<string>()
  const building = yield* Effect.forkChild(
    Effect.forEach(
      Array.from({ length: clients }, (_, number) => number),
      (number) => Scope.provide(makeDevice(number, (id) => done.add(id)), scope),
      { concurrency: "unbounded" }
    )
  )
  yield* pass(1_000)
  const devices = yield* Fiber.join(building)
  // Each has its turn once a minute.
  const ticking = yield* Effect.forkIn(
    Effect.gen(function*() {
      for (let tick = 0; tick < minutes * ticksPerMinute; tick++) {
        const due = devices.filter((_, number) => number % ticksPerMinute === tick % ticksPerMinute)
        for (const publish of due) yield* Effect.forkIn(publish, scope, { startImmediately: true })
        yield* Effect.sleep(minute / ticksPerMinute)
      }
    }),
    scope
  )

  let harmed = 0
  const start = clock.currentTimeMillisUnsafe()
  while (clock.currentTimeMillisUnsafe() - start < minutes * minute) {
    yield* pass(10 * minute)
    yield* faults[harmed++ % faults.length]!(broker, chance)
  }
  // The last fault is found out about, and what it held up is made up for.
  yield* pass(10 * minute)

  const published = clients * minutes
  if (ticking.pollUnsafe() === undefined) failures.push({ kind: "hung", problem: "the devices" })
  for (let number = 0; number < clients; number++) {
    for (let last = 1; last <= minutes; last++) {
      const id = `${number}.${last}`
      if (!done.has(id)) failures.push({ kind: "hung", problem: `publish ${id}` })
      if (!received.has(id)) failures.push({ kind: "lost", problem: id })
    }
  }
  for (const { problem, row } of broker.violations) failures.push({ kind: "broken", problem: `${row}: ${problem}` })
  const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
  yield* pass(minute)
  if (closing.pollUnsafe() === undefined) failures.push({ kind: "hung", problem: "the close of the clients" })
  yield* network.settle
  if (network.openConnections > 0) {
    failures.push({ kind: "leaked", problem: `${network.openConnections} connections` })
  }
  const connections = network.dials.length
  return { clients, hours, published, received: received.size, faults: harmed, connections, failures }
})

/** Plays it. */
export const run = (options: DayOptions): Promise<Counts & { readonly failures: ReadonlyArray<Failure> }> => {
  const turns = TurnScheduler.make(Infinity, () => {})
  return Effect.runPromise(
    day(options, turns.idle).pipe(
      Effect.scoped,
      Effect.provide(MemoryNetwork.layer),
      Effect.provide(TestClock.layer()),
      Random.withSeed(1),
      Effect.provideService(Scheduler.Scheduler, turns.scheduler)
    ),
    { scheduler: turns.scheduler }
  )
}
