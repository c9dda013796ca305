/**
 * Runs a program of the simulation: the real client against `TestBroker` on the network in memory, in virtual time, with all
 * that goes wrong by the program. Then faults stop, time passes until all is quiet, and `Verdict` looks at what happened.
 *
 * Everything follows from the program: the same one gives the same log, to the letter.
 */
import { Cause, Clock, Effect, Exit, Fiber, FiberSet, Random, References, Scheduler, Scope } from "effect"
import { TestClock } from "effect/testing"
import type { ConnackProperties, Connect, Publish, QoS } from "../../../src/protocol/Packet.ts"
import { matches } from "../../../src/testing/BrokerTopics.ts"
import { Transport } from "../../../src/services/Transport.ts"
import { MemoryNetwork, TestBroker, TestSessionStore } from "../../../src/testing/index.ts"
import { Actor, idOf, inTurns, payloadOf } from "./Actor.ts"
import type { Operation } from "./Actor.ts"
import { makeFaults } from "./Faults.ts"
import { deniedFilter, deniedTopic, keepsSessions } from "./Program.ts"
import type { Action, Fault, Program } from "./Program.ts"
import * as TurnScheduler from "./TurnScheduler.ts"
import { judge } from "./Verdict.ts"
import type { Failure } from "./Verdict.ts"

/** A message that the broker took, before it goes to anybody. */
export interface Acceptance {
  /** Empty: no client of the program published it. */
  readonly client: string
  readonly id: string
  readonly qos: QoS
  readonly isDenied: boolean
}

/** All that `Verdict` looks at. */
export interface Observed {
  readonly program: Program
  readonly actors: ReadonlyArray<Actor>
  readonly accepted: ReadonlyArray<Acceptance>
  /** By client: what the broker has promised to deliver, at which QoS. */
  readonly promised: ReadonlyMap<string, ReadonlyMap<string, QoS>>
  readonly packets: ReadonlyArray<TestBroker.LogEntry>
  readonly violations: ReadonlyArray<TestBroker.Violation>
  /** Messages of the end, which every standing subscription gets. */
  readonly probes: ReadonlyArray<{ readonly client: string; readonly id: string; readonly qos: QoS }>
  /** Attempts to open a connection. */
  readonly dials: number
  /** What was found while it ran. */
  readonly failures: ReadonlyArray<Failure>
}

export interface Report {
  readonly program: Program
  readonly failures: ReadonlyArray<Failure>
  /** What was done and what travelled, line by line. */
  readonly log: () => ReadonlyArray<string>
  /** Messages that the broker took. */
  readonly messages: number
}

/** Far more turns of the scheduler than any program takes that comes to an end. */
const turnBudget = 5_000_000

/** How long calm may take to become quiet: backoff, keep alive and slow consumers have their time. */
const patienceMillis = 30 * 60_000

/** What a process does, and cannot do while there is none. */
const ofProcess: ReadonlySet<Action["_tag"]> = new Set([
  ...["Publish", "Repeat", "Interrupt", "Subscribe", "Unsubscribe", "Stick"] as const,
  ...["Pause", "Resume", "Reconnect", "UpdateOptions", "Disconnect", "Ping", "Flush", "AwaitConnected"] as const
])

type Broker = TestBroker.TestBroker["Service"]

class Simulation {
  readonly program: Program
  readonly actors: ReadonlyArray<Actor>
  /** `packets`: how many had travelled before. */
  readonly lines: Array<{ readonly at: number; readonly words: string; readonly packets: number }> = []
  readonly accepted: Array<Acceptance> = []
  readonly promised = new Map<string, Map<string, QoS>>()
  readonly probes: Array<{ readonly client: string; readonly id: string; readonly qos: QoS }> = []
  readonly failures: Array<Failure> = []
  /** Refusals that wait for the CONNECT of a client. */
  readonly refusals = new Map<string, Array<boolean>>()
  /** What every CONNACK announces. */
  limits: ConnackProperties | undefined
  broker: TestBroker.TestBroker["Service"] | undefined
  now: () => number = () => 0
  readonly #keepsSessions: boolean
  #elsewhere = 0

  /** Lets time pass, once everybody has come to rest. */
  readonly #pass: (millis: number) => Effect.Effect<void>

  constructor(program: Program, idle: Effect.Effect<void>) {
    this.program = program
    this.#pass = (millis) => Effect.andThen(idle, TestClock.adjust(millis))
    this.#keepsSessions = keepsSessions(program)
    const travelled = () => this.broker?.log.length ?? 0
    this.actors = program.clients.map((plan) => new Actor(plan, program, travelled, (words) => this.log(words)))
  }

  log(words: string): void {
    this.lines.push({ at: this.now(), words, packets: this.broker?.log.length ?? 0 })
  }

  fail(kind: Failure["kind"], problem: string): void {
    this.failures.push({ kind, problem })
    this.log(`!! ${kind}: ${problem}`)
  }

  get brokerOptions(): TestBroker.TestBrokerOptions {
    const limits = () => this.limits
    return {
      get connack() {
        return limits()
      },
      strict: false,
      windowBytes: this.program.windowBytes,
      authenticate: (connect) => this.#authenticate(connect),
      authorizeSubscribe: (_, { filter }) => filter === deniedFilter ? 0x87 : 0,
      authorizePublish: (clientId, publish) => this.#take(clientId, publish)
    }
  }

  #authenticate({ clientId, protocolVersion }: Connect): number {
    const isPermanent = this.refusals.get(clientId)?.shift()
    if (isPermanent === undefined) return 0
    if (protocolVersion === 4) return isPermanent ? 5 : 3
    return isPermanent ? 0x87 : 0x88
  }

  /** The broker is about to take a message, once for each time that it takes it. */
  #take(client: string, publish: Publish): number {
    const isDenied = publish.topic === deniedTopic
    const id = idOf(publish.payload)
    this.accepted.push({ client, id, qos: publish.qos, isDenied })
    if (isDenied) return 0x87
    // What may expire is not promised.
    if (publish.properties?.messageExpiryInterval === undefined) this.#promise(id, publish.topic, publish.qos)
    return 0
  }

  /** Whoever is subscribed at this moment with a session that lives shall get it. */
  #promise(id: string, topic: string, qos: QoS): void {
    const sessions = this.broker!.sessions
    for (const actor of this.actors) {
      const { isPersistent, name, standing } = actor.plan
      if (!isPersistent || !this.#keepsSessions || !actor.isListening || actor.isClosing) continue
      // A subscription that is not declared is not known to the next process before it is made again.
      if (standing.kind === "scoped" && actor.lives.length > 1 && !actor.isServing) continue
      if (qos === 0 || standing.qos === 0 || !matches(standing.filter, topic)) continue
      const subscriptions = sessions.find(({ clientId }) => clientId === name)?.subscriptions ?? []
      const granted = subscriptions.filter(({ filter }) => matches(filter, topic))
      const isGranted = granted.some(({ filter }) => filter === standing.filter)
      if (isGranted && actor.hasConnected) actor.isEstablished = true
      if (!actor.isEstablished) continue
      if (!isGranted) {
        this.fail("lost", `${id} is not for ${name}, whose subscription the broker does not have any more`)
        continue
      }
      const best = Math.min(qos, Math.max(...granted.map((subscription) => subscription.qos))) as QoS
      this.promised.get(name)!.set(id, best)
    }
  }

  // ---------------------------------------------------------------------------
  // steps
  // ---------------------------------------------------------------------------

  publishElsewhere(broker: Broker, topic: string, qos: QoS): Effect.Effect<string> {
    return Effect.suspend(() => {
      const id = `x.${++this.#elsewhere}`
      this.log(`somebody publishes ${id} to ${topic} at QoS ${qos}`)
      this.accepted.push({ client: "", id, qos, isDenied: false })
      this.#promise(id, topic, qos)
      return Effect.as(broker.publish({ topic, qos, payload: payloadOf(id, 0) }), id)
    })
  }

  act(
    action: Action,
    broker: Broker,
    inflict: (fault: Fault) => Effect.Effect<unknown>,
    crash: (client: number, keepsStore: boolean, downMillis: number) => Effect.Effect<void>
  ): Effect.Effect<unknown> {
    switch (action._tag) {
      case "Crash":
        return crash(action.client, action.keepsStore, action.downMillis)
      case "Repeat": {
        const actor = this.actors[action.client]!
        return actor.fork("repeats", actor.repeat(action.which), actor.publishing)
      }
      case "PublishElsewhere":
        return Effect.forEach(
          Array.from({ length: action.count }),
          () => this.publishElsewhere(broker, action.topic, action.qos)
        )
      case "Publish": {
        const actor = this.actors[action.client]!
        const one = actor.publish(action)
        const all = Array.from({ length: action.count }, () => one)
        return action.isSequential
          ? actor.fork(`publishes ${action.count} in turn`, Effect.forEach(all, (call) => call), actor.publishing)
          : Effect.forEach(all, (call) => actor.fork("publishes", call, actor.publishing))
      }
      case "Interrupt": {
        const actor = this.actors[action.client]!
        return this.#interrupt(actor, [...actor.publishing, ...actor.operations], action.which)
      }
      case "Subscribe": {
        const actor = this.actors[action.client]!
        const { filters, qos } = action
        const subscribe = Effect.scoped(Effect.flatMap(
          actor.client.subscription(filters, { qos }),
          ({ messages }) => actor.drain(messages)
        ))
        for (const filter of filters) actor.subscribed.add(filter)
        return actor.fork(`subscribes to ${filters.join(" ")} at QoS ${qos}`, subscribe, actor.subscriptions)
      }
      case "Unsubscribe": {
        const actor = this.actors[action.client]!
        return this.#interrupt(actor, actor.subscriptions, action.which)
      }
      case "Pause":
      case "Resume":
      case "Ping":
      case "Flush":
      case "AwaitConnected":
      case "Disconnect": {
        const actor = this.actors[action.client]!
        const { client } = actor
        const operations = {
          Pause: client.pause,
          Resume: client.resume,
          Ping: client.ping,
          Flush: client.flush,
          AwaitConnected: client.awaitConnected,
          Disconnect: client.disconnect(action._tag === "Disconnect" && action.forgets ? { sessionExpiry: 0 } : {})
        }
        return actor.fork(action._tag, operations[action._tag])
      }
      case "Reconnect":
      case "UpdateOptions": {
        const actor = this.actors[action.client]!
        const { host, keepAlive, receiveMaximum, sendMaximum, version } = action
        const update = (options: typeof actor.options): typeof actor.options => ({
          ...options,
          ...(version === undefined ? {} : { protocolVersion: version }),
          ...(receiveMaximum === undefined ? {} : { receiveMaximum }),
          ...(sendMaximum === undefined ? {} : { sendMaximum }),
          ...(host === undefined ? {} : { endpoint: `mqtt://${host}` }),
          ...(keepAlive === undefined ? {} : { keepAlive: `${keepAlive} seconds` })
        })
        const { client } = actor
        return actor.fork(
          action._tag,
          action._tag === "Reconnect" ? client.reconnect(update) : client.updateOptions(update)
        )
      }
      case "Stick": {
        const actor = this.actors[action.client]!
        actor.stuckUntil = this.now() + action.millis
        return Effect.void
      }
      default:
        return inflict(action)
    }
  }

  #interrupt(actor: Actor, list: ReadonlyArray<Operation>, which: number): Effect.Effect<void> {
    const chosen = actor.choose(list, which)
    if (chosen === undefined) return Effect.void
    this.log(`${actor.plan.name} interrupts "${chosen.name}"`)
    return Effect.asVoid(Effect.forkDetach(Fiber.interrupt(chosen.fiber), { startImmediately: true }))
  }

  // ---------------------------------------------------------------------------
  // the whole
  // ---------------------------------------------------------------------------

  readonly run = Effect.fnUntraced(function*(this: Simulation) {
    const clock = yield* Clock.Clock
    this.now = () => clock.currentTimeMillisUnsafe()
    const network = yield* MemoryNetwork.MemoryNetwork
    const broker = yield* inTurns(this.program.stepsPerTurn)(TestBroker.make(this.brokerOptions))
    this.broker = broker
    yield* network.setLatency(this.program.latencyMillis)
    const transport = yield* Transport
    for (const actor of this.actors) {
      this.promised.set(actor.plan.name, new Map())
      actor.transport = transport
      if (actor.plan.hasStore) actor.store = yield* TestSessionStore.make
    }
    yield* this.#begin()
    const fork = yield* FiberSet.makeRuntime()
    const faults = makeFaults(this, broker, network, (effect) => {
      fork(effect)
    })
    for (const { action, wait } of this.program.steps) {
      if (wait._tag === "Time") yield* this.#pass(wait.millis)
      else for (let turn = 0; turn < wait.turns; turn++) yield* Effect.yieldNow
      this.log(`-- ${JSON.stringify(action)}`)
      if (ofProcess.has(action._tag) && "client" in action && this.actors[action.client]!.isDown) continue
      yield* this.act(action, broker, faults.inflict, (...crash) =>
        Effect.sync(() => {
          fork(faults.crash(...crash))
        }))
    }
    this.log("-- calm")
    yield* faults.end
    yield* this.#calmDown(broker, faults.undiscovered)
    yield* this.#probe(broker)
    yield* this.#close(network)
    return {
      program: this.program,
      actors: this.actors,
      accepted: this.accepted,
      promised: this.promised,
      packets: broker.log,
      violations: broker.violations,
      probes: this.probes,
      dials: network.dials.length,
      failures: this.failures
    }
  })

  /** Nothing goes wrong before all clients are there, unless the program is rough. */
  readonly #begin = Effect.fnUntraced(function*(this: Simulation) {
    for (const actor of this.actors) {
      if (this.program.isRough) {
        yield* actor.start
        yield* actor.startListening
        continue
      }
      const building = yield* Effect.forkChild(actor.start, { startImmediately: true })
      yield* this.#pass(1_000)
      yield* Fiber.join(building)
      yield* actor.startListening
    }
    if (this.program.isRough) return
    yield* this.#pass(1_000)
    for (const actor of this.actors) {
      if (!actor.isListening) this.fail("hung", `${actor.plan.name} has no subscription`)
    }
  })

  readonly #calmDown = Effect.fnUntraced(function*(this: Simulation, broker: Broker, undiscovered: () => number) {
    for (const actor of this.actors) {
      actor.isCalm = true
      for (const { fiber } of actor.subscriptions) yield* Effect.forkDetach(Fiber.interrupt(fiber))
    }
    const start = this.now()
    while (this.now() - start < patienceMillis) {
      for (const actor of this.actors) {
        if (actor.isDown) yield* actor.restart
        if (actor.isDown) continue
        yield* actor.dropOrphans
        const status = yield* actor.client.status
        if (status._tag === "Paused" || status._tag === "Halted") yield* actor.fork("Resume", actor.client.resume)
      }
      yield* this.#pass(this.now() - start < 10_000 ? 500 : 5_000)
      if (undiscovered() === 0 && this.#isQuiet(broker)) return
    }
    if (undiscovered() > 0) this.fail("hung", `${undiscovered()} dead links that no client found out about`)
  })

  #isQuiet(broker: Broker): boolean {
    return this.#pending(broker).length === 0 && this.#leaks(broker).length === 0
  }

  /** What keeps it from being quiet. */
  #pending(broker: Broker): ReadonlyArray<string> {
    const found: Array<string> = []
    for (const actor of this.actors) {
      const { name } = actor.plan
      const { status } = actor
      if (status !== "Connected") found.push(`${name} is ${status}`)
      if (!actor.isServing) found.push(`${name} has no consumer`)
      if (actor.isBusy) found.push(`the consumer of ${name} is at work`)
      for (const list of [actor.publishing, actor.operations, actor.subscriptions]) {
        for (const operation of actor.running(list)) found.push(`${name} ${operation.name}`)
      }
    }
    for (const { clientId, isConnected, queued, unacked } of broker.sessions) {
      if (isConnected && queued + unacked > 0) {
        found.push(`the broker has ${queued} queued and ${unacked} unacknowledged messages for ${clientId}`)
      }
    }
    return found
  }

  /** What is held and should be free when all is quiet. */
  #leaks(broker: Broker): ReadonlyArray<string> {
    const found: Array<string> = []
    for (const actor of this.actors) {
      const { name, standing } = actor.plan
      const stats = Effect.runSync(actor.client.stats)
      for (const gauge of ["queued", "heldBytes", "inFlight", "unacknowledged", "unclaimed", "packetIds"] as const) {
        if (stats[gauge] !== 0) found.push(`${gauge} of ${name} is ${stats[gauge]}`)
      }
      const session = broker.sessions.find(({ clientId }) => clientId === name)
      const filters = session?.subscriptions.map(({ filter }) => filter).join(" ") ?? "none"
      if (filters !== standing.filter) found.push(`the subscriptions of ${name} are ${filters}`)
      // A message that a limit forbade to repeat is given up while the broker holds its identifier.
      const mayGiveUp = this.program.steps.some(({ action }) => action._tag === "Limit")
      if ((session?.received ?? 0) > 0 && !mayGiveUp) found.push(`the broker waits for PUBREL of ${name}`)
    }
    return found
  }

  /** Every standing subscription is alive, and every client can publish. */
  readonly #probe = Effect.fnUntraced(function*(this: Simulation, broker: Broker) {
    for (const actor of this.actors) {
      const { filter } = actor.plan.standing
      const topic = filter === "#" ? "t/probe/0" : filter.replace("#", "0").replace("+", "probe")
      const id = yield* this.publishElsewhere(broker, topic, 2)
      for (const { plan } of this.actors) {
        if (matches(plan.standing.filter, topic)) this.probes.push({ client: plan.name, id, qos: plan.standing.qos })
      }
      yield* actor.fork("publishes at the end", actor.publish({ topic: "t/end/2", qos: 2, padding: 0 }))
    }
    for (let seconds = 0; seconds < 30 && !this.#isQuiet(broker); seconds++) yield* this.#pass(1_000)
    // What comes too late, or twice, has its time to come.
    yield* this.#pass(1_000)
    for (const problem of this.#pending(broker)) this.fail("hung", problem)
    for (const problem of this.#leaks(broker)) this.fail("leaked", problem)
    for (const actor of this.actors) {
      if (actor.store !== undefined) yield* this.#askForOutcomes(actor)
      if (actor.calls.at(-1)?.ending?._tag !== "Done") this.fail("lost", `the last message of ${actor.plan.name}`)
    }
  })

  /** What was delivered under an own id is known to be, in this life and the next. */
  readonly #askForOutcomes = Effect.fnUntraced(function*(this: Simulation, actor: Actor) {
    for (const { ending, id, isOwn } of actor.calls) {
      if (!isOwn || ending?._tag !== "Done" || ending.life < actor.storeSince) continue
      const outcome = yield* Effect.orDie(actor.client.outcome(id))
      if (outcome._tag !== "Delivered") this.fail("broken", `the outcome of ${id} is ${outcome._tag}`)
    }
  })

  readonly #close = Effect.fnUntraced(function*(this: Simulation, network: MemoryNetwork.MemoryNetwork["Service"]) {
    const closing: Array<Fiber.Fiber<void>> = []
    for (const actor of this.actors) {
      actor.isClosing = true
      for (const qos of [0, 1, 2] as const) {
        yield* actor.fork("publishes into the close", actor.publish({ topic: "t/close/0", qos, padding: 0 }))
      }
      closing.push(yield* Effect.forkChild(Scope.close(actor.scope, Exit.void), { startImmediately: true }))
    }
    const isOver = () => closing.every((fiber) => fiber.pollUnsafe() !== undefined)
    for (let seconds = 0; seconds < 10 && !isOver(); seconds++) yield* this.#pass(1_000)
    if (!isOver()) this.fail("hung", "the close of a client")
    for (const actor of this.actors) {
      yield* actor.fork("publishes after the close", actor.publish({ topic: "t/close/0", qos: 1, padding: 0 }))
      yield* actor.fork("resumes after the close", actor.client.resume)
    }
    yield* this.#pass(0)
    for (const actor of this.actors) {
      for (const { name } of actor.running(actor.operations)) {
        this.fail("hung", `${actor.plan.name} ${name} after the close`)
      }
    }
    yield* network.settle
    if (network.openConnections > 0) this.fail("leaked", `${network.openConnections} connections`)
    for (const { fibers, plan } of this.actors) {
      if (fibers !== 0) this.fail("leaked", `${fibers} fibers of ${plan.name}`)
    }
  })

  /** What was done and what travelled, in order. */
  render(): ReadonlyArray<string> {
    const packets = this.broker?.log ?? []
    const rendered: Array<string> = []
    let next = 0
    const packetsUntil = (end: number) => {
      for (; next < end; next++) rendered.push(`${timeOf(packets[next]!.at)}     ${packetInWords(packets[next]!)}`)
    }
    for (const { at, packets: end, words } of this.lines) {
      packetsUntil(end)
      rendered.push(`${timeOf(at)} ${words}`)
    }
    packetsUntil(packets.length)
    return rendered
  }
}

export type { Simulation }

const timeOf = (millis: number): string => (millis / 1_000).toFixed(3).padStart(9)

const packetInWords = ({ clientId, connectionId, fate, from, packet }: TestBroker.LogEntry): string => {
  const words: Array<string | number> = [packet._tag.toUpperCase()]
  if ("packetId" in packet && packet.packetId !== 0) words.push(packet.packetId)
  switch (packet._tag) {
    case "Connect":
      words.push(`v${packet.protocolVersion}`, packet.cleanStart ? "clean" : "resume")
      break
    case "Connack":
      words.push(packet.sessionPresent ? "session present" : "no session")
      if (packet.properties?.receiveMaximum !== undefined) words.push(`window ${packet.properties.receiveMaximum}`)
      break
    case "Publish":
      words.push(idOf(packet.payload), packet.topic, `qos ${packet.qos}`)
      if (packet.dup) words.push("dup")
      break
    case "Subscribe":
      words.push(...packet.subscriptions.map(({ filter, qos }) => `${filter}:${qos}`))
      break
    case "Unsubscribe":
      words.push(...packet.filters)
      break
    case "Suback":
      words.push(packet.reasonCodes.join(" "))
      break
  }
  if ("reasonCode" in packet && packet.reasonCode !== 0) words.push(`0x${packet.reasonCode.toString(16)}`)
  if (fate !== "taken") words.push(`(${fate})`)
  const arrow = from === "client" ? `${clientId}/${connectionId} ->` : `${clientId}/${connectionId} <-`
  return `${arrow} ${words.join(" ")}`
}

/** Runs a program and judges it. Nothing of it depends on anything but the program. */
export const run = async (program: Program): Promise<Report> => {
  let giveUp: () => void = () => {}
  const spent = Effect.callback<never>((resume) => {
    giveUp = () => resume(Effect.die(new Error("it goes round in circles")))
  })
  const turns = TurnScheduler.make(turnBudget, () => giveUp())
  const simulation = new Simulation(program, turns.idle)
  const effect = Effect.raceFirst(inTurns(2_048)(simulation.run()), spent).pipe(
    Effect.scoped,
    Effect.provide(MemoryNetwork.layer),
    Effect.provide(TestClock.layer()),
    Random.withSeed(program.seed),
    Effect.provideService(References.MinimumLogLevel, "None"),
    Effect.provideService(Scheduler.Scheduler, turns.scheduler),
    // Its own steps are not interrupted where they belong together.
    inTurns(program.stepsPerTurn)
  )
  const exit = await Effect.runPromiseExit(effect, { scheduler: turns.scheduler })
  if (Exit.isFailure(exit)) simulation.fail("hung", Cause.pretty(exit.cause))
  const failures = Exit.isSuccess(exit) ? judge(exit.value) : simulation.failures
  return { program, failures, log: () => simulation.render(), messages: simulation.accepted.length }
}
