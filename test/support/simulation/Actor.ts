/**
 * One client of a simulation: the real client, its consumer, and what happened to every call that was made on it.
 */
import type { Fiber } from "effect"
import { Cause, Effect, Exit, Metric, Scope, Stream } from "effect"
import * as MqttClient from "../../../src/layers/MqttClient.ts"
import type { QoS } from "../../../src/protocol/Packet.ts"
import type { Message } from "../../../src/services/Message.ts"
import * as Messages from "../../../src/services/Message.ts"
import type { PublishError, SubscribeError } from "../../../src/services/MqttError.ts"
import type { ClientPlan } from "./Program.ts"

/** How a publish ended. */
export type Ending =
  | { readonly _tag: "Done"; readonly reasonCode: number }
  | { readonly _tag: "Failed"; readonly reason: string; readonly phase: PublishError["phase"] }
  | { readonly _tag: "Interrupted" }
  | { readonly _tag: "Defect"; readonly problem: string }

/** One call of `publish`. */
export interface Call {
  readonly id: string
  readonly topic: string
  readonly qos: QoS
  readonly hasTimeout: boolean
  readonly mayExpire: boolean
  /** Whether the client was closing. */
  readonly isLate: boolean
  ending: Ending | undefined
}

/** A message that a consumer was given. */
export interface Taken {
  readonly id: string
  readonly qos: QoS
  /** How many packets had travelled when the consumer was done with it; only then may it be acknowledged. */
  doneAt: number
}

/** An operation that has to end. */
export interface Operation {
  readonly name: string
  readonly fiber: Fiber.Fiber<unknown, unknown>
}

/** The id of a message is its payload up to the bar; the rest is ballast. */
export const idOf = (payload: Uint8Array): string => {
  const end = payload.indexOf(124)
  return Messages.text({ payload: end === -1 ? payload : payload.subarray(0, end) })
}

export const payloadOf = (id: string, padding: number): string => `${id}|${"x".repeat(padding)}`

export class Actor {
  readonly plan: ClientPlan
  readonly scope: Scope.Closeable = Scope.makeUnsafe()
  readonly #log: (words: string) => void
  client!: MqttClient.MqttClientService
  /** Every call, in the order in which they were made. */
  readonly calls: Array<Call> = []
  readonly publishing: Array<Operation> = []
  readonly operations: Array<Operation> = []
  readonly subscriptions: Array<Operation> = []
  readonly taken: Array<Taken> = []
  readonly statuses: Array<string> = []
  /** What went wrong and must not. */
  readonly problems: Array<string> = []
  /** Whether the standing subscription has its consumer. */
  isListening = false
  /** Whether the broker has the standing subscription, and the client knows that its session does. */
  isEstablished = false
  /** The consumer stands still until then; milliseconds of the Clock. */
  stuckUntil = 0
  /** Whether the consumer is at work on a message. */
  isBusy = false
  isCalm = false
  isClosing = false
  /** Fibers of the client that run. */
  fibers = 0
  #lastId = 0

  readonly #isRough: boolean

  /** Packets that have travelled so far. */
  readonly #travelled: () => number

  constructor(plan: ClientPlan, isRough: boolean, travelled: () => number, log: (words: string) => void) {
    this.plan = plan
    this.#travelled = travelled
    this.#isRough = isRough
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
      firstConnect: this.#isRough ? "retry" : "fail",
      receiveMaximum: plan.receiveMaximum,
      sendMaximum: plan.sendMaximum,
      outbox: plan.outbox,
      ...(plan.standing.kind === "durable"
        ? { subscriptions: [{ filter: plan.standing.filter, qos: plan.standing.qos }] }
        : {})
    }
  }

  /** Builds the client, and waits until its standing subscription is granted. */
  readonly start = Effect.suspend(() => {
    const metrics: Metric.FiberRuntimeMetricsService = {
      recordFiberStart: () => {
        this.fibers++
      },
      recordFiberEnd: () => {
        this.fibers--
      }
    }
    return MqttClient.make(this.options).pipe(
      Scope.provide(this.scope),
      Effect.provideService(Metric.FiberRuntimeMetrics, metrics),
      Effect.tap((client) =>
        Effect.sync(() => {
          this.client = client
        })
      ),
      Effect.andThen(Effect.suspend(() => this.#watch))
    )
  })

  readonly #watch = Effect.suspend(() =>
    Effect.forkDetach(
      Stream.runForEach(this.client.statusChanges, (status) =>
        Effect.sync(() => {
          this.statuses.push(status._tag)
          const cause = "cause" in status ? ` ${String((status.cause as Error).message ?? status.cause._tag)}` : ""
          this.#log(`is ${status._tag}${cause}`)
        })),
      { startImmediately: true }
    )
  )

  /** Runs the standing subscription until the client closes. */
  readonly listen: Effect.Effect<void> = Effect.suspend(() => {
    const { filter, kind, qos } = this.plan.standing
    const consume = (messages: Stream.Stream<Message, SubscribeError>) =>
      Effect.suspend(() => {
        this.isListening = true
        return Stream.runForEach(messages, (message) => this.#consume(message))
      })
    const run = kind === "durable"
      ? consume(this.client.durable(filter))
      : Effect.scoped(Effect.flatMap(this.client.subscription(filter, { qos }), ({ messages }) => consume(messages)))
    return Effect.matchCauseEffect(run, {
      onSuccess: () => Effect.sync(() => this.problems.push("the standing subscription ended")),
      onFailure: (cause) => {
        if (this.isClosing) return Effect.void
        // A client that is halted takes no subscriptions.
        const error = Cause.findErrorOption(cause)
        const isHalted = error._tag === "Some" && error.value.reason._tag === "ClientHalted"
        if (isHalted && !this.isListening) return Effect.andThen(Effect.sleep(1_000), this.listen)
        return Effect.sync(() => this.problems.push(`the standing subscription failed: ${Cause.pretty(cause)}`))
      }
    })
  })

  /** The consumer of a subscription that comes and goes: what it gets is not accounted for. */
  drain(messages: Stream.Stream<Message, SubscribeError>): Effect.Effect<void, SubscribeError> {
    return Stream.runForEach(messages, () => this.isCalm ? Effect.void : Effect.sleep(this.plan.consumerMillis))
  }

  #consume(message: Message): Effect.Effect<void> {
    return Effect.clockWith((clock) => {
      const taken: Taken = { id: idOf(message.payload), qos: message.qos, doneAt: Infinity }
      this.taken.push(taken)
      this.#log(`takes ${taken.id}`)
      const wait = Math.max(this.plan.consumerMillis, this.stuckUntil - clock.currentTimeMillisUnsafe())
      const done = Effect.sync(() => {
        taken.doneAt = this.#travelled()
        this.isBusy = false
      })
      if (this.isCalm || wait <= 0) return done
      this.isBusy = true
      return Effect.andThen(Effect.sleep(wait), done)
    })
  }

  // ---------------------------------------------------------------------------
  // what it does
  // ---------------------------------------------------------------------------

  publish(
    message: {
      readonly topic: string
      readonly qos: QoS
      readonly padding: number
      readonly timeoutMillis?: number | undefined
      readonly expirySeconds?: number | undefined
    }
  ): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { expirySeconds, padding, qos, timeoutMillis, topic } = message
      const call: Call = {
        id: `${this.plan.name}.${++this.#lastId}`,
        topic,
        qos,
        hasTimeout: timeoutMillis !== undefined,
        mayExpire: expirySeconds !== undefined,
        isLate: this.isClosing,
        ending: undefined
      }
      this.calls.push(call)
      this.#log(`publishes ${call.id} to ${topic} at QoS ${qos}`)
      const options = timeoutMillis === undefined ? {} : { timeout: timeoutMillis }
      return Effect.ignoreCause(Effect.onExit(
        this.client.publish(
          { topic, qos, payload: payloadOf(call.id, padding), messageExpiryInterval: expirySeconds },
          options
        ),
        (exit) =>
          Effect.sync(() => {
            call.ending = endingOf(exit)
            this.#log(`publish ${call.id}: ${inWords(call.ending)}`)
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
      this.#log(name)
      return Effect.forkDetach(
        Effect.onExit(effect, (exit) =>
          Effect.sync(() => {
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

  get hasConnected(): boolean {
    return this.statuses.includes("Connected")
  }

  get isHalted(): boolean {
    return this.statuses.includes("Halted")
  }
}

const endingOf = (exit: Exit.Exit<MqttClient.PublishResult, PublishError>): Ending => {
  if (Exit.isSuccess(exit)) return { _tag: "Done", reasonCode: exit.value.reasonCode }
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
  }
}
