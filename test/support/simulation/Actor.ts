/**
 * One client of a simulation: the real client, its consumer, and what happened to every call that was made on it.
 */
import type { Fiber } from "effect"
import { Cause, Data, Effect, Exit, Fiber as Fibers, Metric, References, Schedule, Scope, Stream } from "effect"
import * as MqttClient from "../../../src/layers/MqttClient.ts"
import type { QoS } from "../../../src/protocol/Packet.ts"
import type { Message } from "../../../src/services/Message.ts"
import * as Messages from "../../../src/services/Message.ts"
import type { PublishError, SubscribeError } from "../../../src/services/MqttError.ts"
import { SessionStore } from "../../../src/services/SessionStore.ts"
import type { OpenStore, SessionStoreService } from "../../../src/services/SessionStore.ts"
import { Transport } from "../../../src/services/Transport.ts"
import type { Connection } from "../../../src/services/Transport.ts"
import { TestSessionStore } from "../../../src/testing/index.ts"
import type { ClientPlan, Program } from "./Program.ts"

type Store = TestSessionStore.TestSessionStore["Service"]

/** How a publish ended. */
export type Ending =
  | { readonly _tag: "Done"; readonly reasonCode: number; readonly life: number }
  | { readonly _tag: "Failed"; readonly reason: string; readonly phase: PublishError["phase"] }
  | { readonly _tag: "Interrupted" }
  | { readonly _tag: "Defect"; readonly problem: string }
  /** The process was killed before it had an end. */
  | { readonly _tag: "Killed" }

/** One call of `publish`. Calls under an id of the caller's own may be made again. */
export interface Call {
  readonly id: string
  readonly topic: string
  readonly qos: QoS
  readonly padding: number
  /** Whether the id is the caller's own, unique in the store. */
  readonly isOwn: boolean
  readonly timeoutMillis: number | undefined
  readonly expirySeconds: number | undefined
  /** Whether the client was closing. */
  readonly isLate: boolean
  ending: Ending | undefined
}

/** A message that a consumer was given. */
export interface Taken {
  readonly id: string
  readonly qos: QoS
  /** In which life of the process. */
  readonly life: number
  /** What names the message, the same as often as it is handed over. */
  readonly deliveryId: string | undefined
  /** How many packets had travelled when it was handed over. */
  readonly takenAt: number
  /** How many packets had travelled when the consumer was done with it; only then may it be acknowledged. */
  doneAt: number
}

/** An operation that has to end. */
export interface Operation {
  readonly name: string
  readonly fiber: Fiber.Fiber<unknown, unknown>
}

/** Has a fiber give the others their turn after so many steps. */
export const inTurns = (steps: number) => <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(effect, References.MaxOpsBeforeYield, steps)

/** The id of a message is its payload up to the bar; the rest is ballast. */
export const idOf = (payload: Uint8Array): string => {
  const end = payload.indexOf(124)
  return Messages.text({ payload: end === -1 ? payload : payload.subarray(0, end) })
}

export const payloadOf = (id: string, padding: number): string => `${id}|${"x".repeat(padding)}`

/** What the handler of an inbox fails with, now and then. */
class HandlerFailed extends Data.TaggedError("HandlerFailed") {}

/** One process, from its start until it ends or is killed. */
class Life {
  readonly number: number
  readonly scope: Scope.Closeable = Scope.makeUnsafe()
  readonly connections = new Set<Connection>()
  readonly statuses: Array<string> = []
  client!: MqttClient.MqttClientService
  /** What runs in it beside the client. */
  readonly own: Array<Fiber.Fiber<unknown, unknown>> = []
  /** Fibers of the client that run. */
  fibers = 0
  isKilled = false
  /** Whether it has begun and has no client yet. */
  isStarting = true
  /** Whether its standing subscription has its consumer. */
  isListening = false

  constructor(number: number) {
    this.number = number
  }
}

export class Actor {
  readonly plan: ClientPlan
  readonly #log: (words: string) => void
  /** The present life is the last one. */
  readonly lives: Array<Life> = [new Life(1)]
  /** Whether the process was killed and is not started again. */
  isDown = false
  /** Every call, in the order in which they were made. */
  readonly calls: Array<Call> = []
  readonly publishing: Array<Operation> = []
  readonly operations: Array<Operation> = []
  readonly subscriptions: Array<Operation> = []
  readonly taken: Array<Taken> = []
  /** Filters that the present life subscribed to beside the standing one, and those of the lives before. */
  readonly subscribed = new Set<string>()
  readonly orphaned = new Set<string>()
  /** What went wrong and must not. */
  readonly problems: Array<string> = []
  /** Whether the standing subscription has had a consumer. */
  isListening = false
  /** Whether the broker has the standing subscription, and the client knows that its session does. */
  isEstablished = false
  /** The consumer stands still until then; milliseconds of the Clock. */
  stuckUntil = 0
  /** Whether the consumer is at work on a message. */
  isBusy = false
  isCalm = false
  isClosing = false
  #lastId = 0

  readonly #isRough: boolean
  /** Runs what is the client's own. */
  readonly #inTurns: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** The network, which outlives its processes, as its session store does. */
  transport!: Transport["Service"]
  store: Store | undefined

  /** Packets that have travelled so far. */
  readonly #travelled: () => number

  constructor(plan: ClientPlan, program: Program, travelled: () => number, log: (words: string) => void) {
    this.plan = plan
    this.#travelled = travelled
    this.#isRough = program.isRough
    this.#inTurns = inTurns(program.stepsPerTurn)
    this.#log = (words) => log(`${plan.name} ${words}`)
  }

  get options(): MqttClient.ClientOptions {
    const { plan } = this
    return {
      endpoint: "mqtt://broker",
      clientId: plan.name,
      protocolVersion: plan.version,
      sessionExpiry: plan.isPersistent ? "Infinity" : 0,
      keepAlive: `${plan.keepAlive} seconds`,
      pingTimeout: `${plan.pingTimeoutMillis} millis`,
      connectTimeout: `${plan.connectTimeoutMillis} millis`,
      topicAliasMaximum: plan.topicAliasMaximum,
      cleanStart: !(this.plan.hasStore && this.plan.isPersistent),
      // A session of which nothing is known any more may hold packet identifiers against us.
      foreignSession: "cleanStart",
      firstConnect: this.#isRough || this.lives.length > 1 ? "retry" : "fail",
      receiveMaximum: plan.receiveMaximum,
      sendMaximum: plan.sendMaximum,
      outbox: plan.outbox,
      ...(plan.standing.kind === "durable"
        ? { subscriptions: [{ filter: plan.standing.filter, qos: plan.standing.qos }] }
        : {})
    }
  }

  get #life(): Life {
    return this.lives.at(-1)!
  }

  get client(): MqttClient.MqttClientService {
    return this.#life.client
  }

  get scope(): Scope.Closeable {
    return this.#life.scope
  }

  get fibers(): number {
    return this.#life.fibers
  }

  /** The last status of the present client. */
  get status(): string | undefined {
    return this.#life.statuses.at(-1)
  }

  /** Builds the client, and waits until its standing subscription is granted. */
  readonly start = Effect.suspend(() => {
    const life = this.#life
    const metrics: Metric.FiberRuntimeMetricsService = {
      recordFiberStart: () => {
        life.fibers++
      },
      recordFiberEnd: () => {
        life.fibers--
      }
    }
    return this.#inTurns(MqttClient.make(this.options)).pipe(
      Scope.provide(life.scope),
      Effect.provideService(Transport, mortal(life, this.transport)),
      Effect.provideService(SessionStore, this.store === undefined ? undefined : this.#inboxed(this.store)),
      Effect.provideService(Metric.FiberRuntimeMetrics, metrics),
      Effect.tap((client) =>
        Effect.sync(() => {
          life.client = client
          life.isStarting = false
          if (!life.isKilled) this.isDown = false
        })
      ),
      Effect.andThen(Effect.suspend(() => this.#watch(life)))
    )
  })

  #watch(life: Life) {
    return Effect.map(
      Effect.forkDetach(
        Stream.runForEach(life.client.statusChanges, (status) =>
          Effect.sync(() => {
            if (life.isKilled) return
            life.statuses.push(status._tag)
            const cause = "cause" in status ? ` ${String((status.cause as Error).message ?? status.cause._tag)}` : ""
            this.#log(`is ${status._tag}${cause}`)
          })),
        { startImmediately: true }
      ),
      (fiber) => {
        life.own.push(fiber)
      }
    )
  }

  /** Has its consumer run beside everything else. */
  readonly startListening = Effect.suspend(() => {
    const life = this.#life
    return Effect.map(Effect.forkDetach(this.listen, { startImmediately: true }), (fiber) => {
      life.own.push(fiber)
    })
  })

  /**
   * The process is killed: nothing that it does from now on has an effect, and nothing in it learns how anything ended. The
   * store keeps what was committed, or is gone too.
   */
  kill(keepsStore: boolean): Effect.Effect<void> {
    return Effect.suspend(() => {
      const life = this.#life
      if (life.isKilled || this.isClosing) return Effect.void
      life.isKilled = true
      this.isDown = true
      this.isBusy = false
      for (const filter of this.subscribed) this.orphaned.add(filter)
      for (const call of this.calls) call.ending ??= { _tag: "Killed" }
      const fibers = [
        ...life.own,
        ...[...this.publishing, ...this.operations, ...this.subscriptions].map(({ fiber }) => fiber)
      ]
      this.publishing.length = 0
      this.operations.length = 0
      this.subscriptions.length = 0
      const bury = Effect.all([
        ...fibers.map((fiber) => Fibers.interrupt(fiber)),
        Effect.asVoid(Scope.close(life.scope, Exit.void))
      ], { concurrency: "unbounded", discard: true })
      return Effect.all([
        ...[...life.connections].map(({ abort }) => abort),
        this.store?.kill ?? Effect.void,
        keepsStore || this.store === undefined ? Effect.void : this.#renewStore,
        Effect.forkDetach(bury, { startImmediately: true })
      ], { discard: true })
    })
  }

  /** The first life that has the present store. */
  storeSince = 1

  readonly #renewStore = Effect.map(TestSessionStore.make, (store) => {
    this.store = store
    this.storeSince = this.lives.length + 1
  })

  /** The next life begins, and does again what it does not know the end of. */
  readonly restart: Effect.Effect<void> = Effect.suspend(() => {
    if (!this.isDown || (this.#life.isStarting && !this.#life.isKilled)) return Effect.void
    const life = new Life(this.lives.length + 1)
    this.lives.push(life)
    this.#log(`starts for the ${this.lives.length}th time`)
    return Effect.orDie(this.start).pipe(
      Effect.andThen(Effect.suspend(() => life.isKilled ? Effect.void : this.startListening)),
      Effect.andThen(Effect.suspend(() => {
        if (life.isKilled) return Effect.void
        const latest = new Map(this.calls.filter(({ isOwn }) => isOwn).map((call) => [call.id, call]))
        const again = [...latest.values()].filter(({ ending }) => ending?._tag === "Killed")
        return Effect.forEach(
          again,
          (call) => this.fork(`publishes ${call.id} again`, this.#call(call), this.publishing),
          {
            discard: true
          }
        )
      }))
    )
  })

  /** What a process was subscribed to when it was killed stays with the session, until another one unsubscribes. */
  readonly dropOrphans: Effect.Effect<void> = Effect.suspend(() => {
    const filters = [...this.orphaned].filter((filter) => filter !== this.plan.standing.filter)
    this.orphaned.clear()
    return Effect.forEach(filters, (filter) => {
      const drop = Effect.retry(Effect.scoped(this.client.subscription(filter, { qos: 2 })), {
        while: ({ reason }) => reason._tag === "ClientHalted",
        schedule: Schedule.spaced("1 second")
      })
      return this.fork(`drops ${filter}`, Effect.ignore(drop), this.subscriptions)
    }, { discard: true })
  })

  /** Runs the standing subscription until the client closes. */
  readonly listen: Effect.Effect<void> = Effect.suspend(() => {
    const { filter, kind, qos } = this.plan.standing
    const life = this.#life
    const consume = (messages: Stream.Stream<Message, SubscribeError>) =>
      Effect.suspend(() => {
        this.isListening = true
        life.isListening = true
        return Stream.runForEach(messages, (message) => this.#consume(message))
      })
    const run = this.plan.hasInbox
      ? this.#runInbox(filter)
      : kind === "durable"
      ? consume(this.client.durable(filter))
      : Effect.scoped(Effect.flatMap(this.client.subscription(filter, { qos }), ({ messages }) => consume(messages)))
    return Effect.matchCauseEffect(this.#inTurns(run), {
      onSuccess: () => Effect.sync(() => this.problems.push("the standing subscription ended")),
      onFailure: (cause) => {
        if (this.isClosing || life.isKilled) return Effect.void
        // A client that is halted takes no subscriptions.
        const error = Cause.findErrorOption(cause)
        // An inbox ends when its handler or its store fails, and what is not committed comes again.
        const isRolledBack = error._tag === "Some" &&
          (error.value._tag === "HandlerFailed" || error.value.reason._tag === "SessionStoreError")
        if (this.plan.hasInbox && isRolledBack) return Effect.andThen(Effect.sleep(100), this.listen)
        const isHalted = error._tag === "Some" && error.value._tag !== "HandlerFailed" &&
          error.value.reason._tag === "ClientHalted"
        if (isHalted && !life.isListening) return Effect.andThen(Effect.sleep(1_000), this.listen)
        return Effect.sync(() => this.problems.push(`the standing subscription failed: ${Cause.pretty(cause)}`))
      }
    })
  })

  /** What it takes counts once it is committed; what it takes in a transaction that is rolled back, or never ends, does not. */
  #runInbox(filter: string): Effect.Effect<never, SubscribeError | HandlerFailed> {
    return Effect.suspend(() => {
      this.isListening = true
      this.#life.isListening = true
      return this.client.inbox(filter, (message) =>
        Effect.andThen(
          Effect.sync(() => {
            this.#uncommitted = undefined
          }),
          Effect.map(this.#work(message), (taken) => {
            this.#uncommitted = taken
          })
        ))
    })
  }

  #works = 0
  /** What the transaction under way has taken. */
  #uncommitted: Taken | undefined

  /** The store as the client is given it: it tells what is committed, which is what a table of the program would have. */
  #inboxed({ commits, service }: Store): SessionStoreService {
    return {
      open: Effect.map(service.open, (store): OpenStore => ({
        ...store,
        transaction: (changes, effect) =>
          Effect.onExit(store.transaction(changes, effect), () =>
            Effect.sync(() => {
              const taken = this.#uncommitted
              this.#uncommitted = undefined
              if (taken === undefined || !commits.includes(changes)) return
              taken.doneAt = this.#travelled()
              this.taken.push(taken)
            }))
      }))
    }
  }

  /** The consumer of a subscription that comes and goes: what it gets is not accounted for. */
  drain(messages: Stream.Stream<Message, SubscribeError>): Effect.Effect<void, SubscribeError> {
    return Stream.runForEach(messages, () => this.isCalm ? Effect.void : Effect.sleep(this.plan.consumerMillis))
  }

  #consume(message: Message): Effect.Effect<void> {
    return Effect.suspend(() => {
      const taken = this.#take(message)
      this.taken.push(taken)
      return Effect.andThen(
        this.#wait,
        Effect.sync(() => {
          taken.doneAt = this.#travelled()
        })
      )
    })
  }

  #work(message: Message): Effect.Effect<Taken, HandlerFailed> {
    return Effect.suspend(() => {
      const taken = Effect.as(this.#wait, this.#take(message))
      return !this.isCalm && ++this.#works % 16 === 0 ? Effect.andThen(taken, new HandlerFailed()) : taken
    })
  }

  #take({ deliveryId, payload, qos }: Message): Taken {
    const id = idOf(payload)
    this.#log(`takes ${id}`)
    return { id, qos, life: this.lives.length, deliveryId, takenAt: this.#travelled(), doneAt: Infinity }
  }

  /** As long as one message takes. */
  readonly #wait = Effect.clockWith((clock) => {
    const wait = Math.max(this.plan.consumerMillis, this.stuckUntil - clock.currentTimeMillisUnsafe())
    if (this.isCalm || wait <= 0) return Effect.void
    this.isBusy = true
    return Effect.andThen(
      Effect.sleep(wait),
      Effect.sync(() => {
        this.isBusy = false
      })
    )
  })

  // ---------------------------------------------------------------------------
  // what it does
  // ---------------------------------------------------------------------------

  publish(
    message: {
      readonly topic: string
      readonly qos: QoS
      readonly padding: number
      readonly isOwn?: boolean | undefined
      readonly timeoutMillis?: number | undefined
      readonly expirySeconds?: number | undefined
    }
  ): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { expirySeconds, isOwn = false, padding, qos, timeoutMillis, topic } = message
      return this.#call({
        id: `${this.plan.name}.${++this.#lastId}`,
        topic,
        qos,
        padding,
        isOwn: isOwn && qos > 0 && this.plan.hasStore,
        timeoutMillis,
        expirySeconds
      })
    })
  }

  /** Publishes under the same id what was published before. */
  repeat(which: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      const own = this.calls.filter(({ isOwn }) => isOwn)
      const call = own[Math.floor(which * own.length)]
      return call === undefined ? Effect.void : this.#call(call)
    })
  }

  #call(message: Omit<Call, "isLate" | "ending">): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { expirySeconds, id, isOwn, padding, qos, timeoutMillis, topic } = message
      const call: Call = {
        id,
        topic,
        qos,
        padding,
        isOwn,
        timeoutMillis,
        expirySeconds,
        isLate: this.isClosing,
        ending: undefined
      }
      this.calls.push(call)
      this.#log(`publishes ${id} to ${topic} at QoS ${qos}`)
      const options = { timeout: timeoutMillis, id: isOwn ? id : undefined }
      const publish = this.client.publish(
        { topic, qos, payload: payloadOf(id, padding), messageExpiryInterval: expirySeconds },
        options
      )
      return Effect.ignoreCause(Effect.onExit(
        // Without an own id it has its place before anything else happens, and there is an order of calls.
        isOwn ? this.#inTurns(publish) : publish,
        (exit) =>
          Effect.sync(() => {
            if (call.ending !== undefined) return
            call.ending = endingOf(exit, this.lives.length)
            this.#log(`publish ${id}: ${inWords(call.ending)}`)
          })
      ))
    })
  }

  /** Runs it until it ends; it has to. */
  fork(
    name: string,
    effect: Effect.Effect<unknown, unknown>,
    list: Array<Operation> = this.operations
  ): Effect.Effect<void> {
    return Effect.suspend(() => {
      const life = this.#life
      this.#log(name)
      return Effect.forkDetach(
        Effect.onExit(list === this.publishing ? effect : this.#inTurns(effect), (exit) =>
          Effect.sync(() => {
            if (life.isKilled) return
            const words = Exit.isSuccess(exit) ? "done" : String(Cause.squash(exit.cause))
            this.#log(`${name}: ${words}`)
            if (Exit.isFailure(exit) && Cause.hasDies(exit.cause)) {
              this.problems.push(`${name} died: ${Cause.pretty(exit.cause)}`)
            }
          })),
        { startImmediately: true }
      )
    }).pipe(Effect.map((fiber) => {
      list.push({ name, fiber })
    }))
  }

  /** Those of the list that run. */
  running(list: ReadonlyArray<Operation>): ReadonlyArray<Operation> {
    return list.filter(({ fiber }) => fiber.pollUnsafe() === undefined)
  }

  choose(list: ReadonlyArray<Operation>, which: number): Operation | undefined {
    const running = this.running(list)
    return running[Math.floor(which * running.length)]
  }

  /** Whether the present life has its consumer. */
  get isServing(): boolean {
    return !this.isDown && this.#life.isListening
  }

  get hasConnected(): boolean {
    return this.lives.some(({ statuses }) => statuses.includes("Connected"))
  }

  get isHalted(): boolean {
    return this.lives.some(({ statuses }) => statuses.includes("Halted"))
  }
}

/** The network of a process, which ends with it. */
const mortal = (life: Life, transport: Transport["Service"]): Transport["Service"] => ({
  connect: (endpoint, onPhase) =>
    Effect.suspend(() => life.isKilled ? Effect.never : transport.connect(endpoint, onPhase)).pipe(
      Effect.flatMap((connection) => {
        if (life.isKilled) return Effect.andThen(connection.abort, Effect.never)
        life.connections.add(connection)
        return Effect.as(
          Effect.addFinalizer(() => Effect.sync(() => life.connections.delete(connection))),
          connection
        )
      })
    )
})

const endingOf = (exit: Exit.Exit<MqttClient.PublishResult, PublishError>, life: number): Ending => {
  if (Exit.isSuccess(exit)) return { _tag: "Done", reasonCode: exit.value.reasonCode, life }
  if (Cause.hasDies(exit.cause)) return { _tag: "Defect", problem: Cause.pretty(exit.cause) }
  const error = Cause.findErrorOption(exit.cause)
  if (error._tag === "None") return { _tag: "Interrupted" }
  return { _tag: "Failed", reason: error.value.reason._tag, phase: error.value.phase }
}

const inWords = (ending: Ending): string => {
  switch (ending._tag) {
    case "Done":
      return ending.reasonCode === 0 ? "done" : `done with 0x${ending.reasonCode.toString(16)}`
    case "Failed":
      return `${ending.reason} (${ending.phase})`
    case "Interrupted":
      return "interrupted"
    case "Defect":
      return ending.problem
    case "Killed":
      return "killed"
  }
}
