/**
 * Keeps a client connected: connect, run, wait, try again; pause, resume, reconnect, disconnect, close.
 *
 * One fiber runs it, as a loop over what the client is doing. Whatever that is, it is raced against a command deferred:
 * commands go through a small queue, each with a deferred for its answer, and completing the command deferred wakes the
 * loop, so a command that comes while another is carried out is never lost. Every connection runs in a scope of its own,
 * which is closed before the next one begins.
 *
 * It owns the status, and knows no packets but DISCONNECT.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type { Packet } from "../../protocol/index.ts"
import type { ClientOptions, Credentials } from "../../services/ClientOptions.ts"
import {
  ClientClosed,
  ClientHalted,
  ConnectError,
  ConnectInterrupted,
  DisconnectRequested
} from "../../services/MqttError.ts"
import type { ConnectReason, HaltReason, LinkLost } from "../../services/MqttError.ts"
import type { ResolvedOptions } from "../../services/ResolvedOptions.ts"
import type { Negotiated, Status } from "../../services/Status.ts"
import type { Transport } from "../../services/Transport.ts"
import * as Backoff from "./Backoff.ts"
import type { ClientCore } from "../ClientCore.ts"
import { finalPacket, interruptions, normalDisconnect } from "./Command.ts"
import type { Answer, Command } from "./Command.ts"
import * as Connection from "../connection/Connection.ts"
import { drain } from "./Drain.ts"
import type { Candidate, EndpointCycle } from "./EndpointCycle.ts"
import { brokerKey, sessionKey } from "../connection/Handshake.ts"
import { checkClientId } from "../store/KeptSession.ts"
import type { SessionRecord } from "../connection/Handshake.ts"
import { Judge } from "./Judge.ts"
import type { Verdict } from "./Judge.ts"
import { evaluate, prefetch } from "./OptionsSource.ts"
import type { OptionsSource } from "./OptionsSource.ts"
import * as Renewal from "./Renewal.ts"

/** What the client is doing. */
type Mode =
  | { readonly _tag: "Connect" }
  | {
    readonly _tag: "Connected"
    readonly link: Connection.Link
    readonly scope: Scope.Closeable
    readonly at: number
    readonly renewal: Renewal.Renewal | undefined
  }
  | { readonly _tag: "Wait"; readonly cause: ConnectError | LinkLost; readonly atLeastMillis: number }
  | { readonly _tag: "Paused"; readonly done: Deferred.Deferred<void> }
  | { readonly _tag: "Halted"; readonly cause: HaltReason; readonly done: Deferred.Deferred<void> | undefined }
  | { readonly _tag: "Closed"; readonly done: Deferred.Deferred<void> }

const connect: Mode = { _tag: "Connect" }

export class Supervisor {
  readonly core: ClientCore
  readonly status: SubscriptionRef.SubscriptionRef<Status>
  /** Options of the next attempt. */
  source: OptionsSource
  /** The options that were evaluated last, before their check. */
  latest: ClientOptions
  /** The options that were used last. */
  resolved: ResolvedOptions
  link: Connection.Link | undefined
  isClosed = false
  readonly #commands: Array<Command> = []
  #command: Deferred.Deferred<void> = Deferred.makeUnsafe()
  /** Given by the first attempt's caller, by `resume` and by `reconnect`: all wait for the next outcome. */
  #answers: Array<Answer> = []
  readonly #generatedClientId: string
  /** The id that a server assigned, and which broker it was: to another one it means nothing, or somebody else. */
  #assigned: { readonly clientId: string; readonly broker: string } | undefined
  #record: SessionRecord | undefined
  #attempt = 0
  #step: Backoff.Step | undefined
  readonly #random: () => number
  readonly #cycle: EndpointCycle
  readonly #judge: Judge
  /** What the endpoints of the cycle were taken from. */
  #cycled: OptionsSource
  /** The endpoint of the next attempt, where it is known. */
  #chosen: Candidate | undefined
  /** The endpoint of the attempt under way, or of the connection. */
  #tried: Candidate | undefined
  /** Credentials that were had already, for the next attempt at the same endpoint. */
  #fresh: { readonly key: string; readonly credentials: Credentials } | undefined
  /** Whether the credentials of the connection can be had anew. */
  #isRenewable = false
  /** Whether the first round, whose failure ends the trying, has no outcome yet. */
  #failsFirst: boolean
  /** Options that were evaluated for the first attempt already. */
  #evaluated: ResolvedOptions | undefined
  /** The time that this took, which counts against the attempt. */
  #evaluationMillis: number

  constructor(options: {
    readonly core: ClientCore
    readonly status: SubscriptionRef.SubscriptionRef<Status>
    readonly source: OptionsSource
    readonly initial: ClientOptions
    readonly resolved: ResolvedOptions
    readonly evaluationMillis: number
    readonly generatedClientId: string
    readonly first: Answer | undefined
    /** Has chosen the first endpoint. */
    readonly cycle: EndpointCycle
    readonly random: () => number
  }) {
    this.core = options.core
    this.status = options.status
    this.source = options.source
    this.latest = options.initial
    this.resolved = options.resolved
    this.#evaluated = options.resolved
    this.#evaluationMillis = options.evaluationMillis
    this.#generatedClientId = options.generatedClientId
    const { sessionKey } = options.core
    if (sessionKey !== undefined) this.#record = { key: sessionKey }
    this.#cycle = options.cycle
    this.#cycled = options.source
    this.#chosen = options.cycle.current
    this.#random = options.random
    this.#judge = new Judge(options.cycle, options.random, (event) => this.core.events.emit(event))
    this.#failsFirst = options.first !== undefined
    if (options.first !== undefined) this.#answers.push(options.first)
  }

  /** The options that the next attempt is to have, as far as they are known now. */
  get pending(): ClientOptions {
    return this.source._tag === "Given" ? this.source.options : this.latest
  }

  /** Hands a command to the loop. */
  submit(command: Command): void {
    this.#commands.push(command)
    Deferred.doneUnsafe(this.#command, Exit.void)
  }

  /** The loop. It ends when the client is closed. */
  readonly run: Effect.Effect<void, never, Transport> = Effect.suspend(() => this.#loop()).pipe(
    Effect.onExit((exit) => Exit.isFailure(exit) && !this.isClosed ? this.#abandon(exit.cause) : Effect.void)
  )

  readonly #loop = Effect.fnUntraced(function*(this: Supervisor) {
    let mode: Mode = connect
    while (mode._tag !== "Closed") {
      switch (mode._tag) {
        case "Connect":
          mode = yield* this.#connect()
          break
        case "Connected":
          mode = yield* this.#connected(mode)
          break
        case "Wait":
          mode = yield* this.#wait(mode.cause, mode.atLeastMillis)
          break
        case "Paused":
          mode = yield* this.#paused(mode.done)
          break
        case "Halted":
          mode = yield* this.#halted(mode.cause, mode.done)
          break
      }
    }
    yield* this.#close()
    yield* Deferred.succeed(mode.done, undefined)
  })

  /** Waits for the effect or for a command, whichever comes first; commands that wait already come first. */
  #orCommand<A, R>(
    effect: Effect.Effect<A, never, R>
  ): Effect.Effect<Command | { readonly _tag: "Done"; readonly value: A }, never, R> {
    return Effect.suspend(() => {
      const command = this.#takeCommand()
      if (command !== undefined) return Effect.succeed(command)
      return Effect.flatMap(
        Effect.raceFirst(
          Effect.map(effect, (value) => ({ _tag: "Done" as const, value })),
          Effect.as(Deferred.await(this.#command), undefined)
        ),
        (done) => done === undefined ? this.#orCommand(effect) : Effect.succeed(done)
      )
    })
  }

  #takeCommand(): Command | undefined {
    const command = this.#commands.shift()
    if (this.#commands.length === 0) this.#command = Deferred.makeUnsafe()
    return command
  }

  // ---------------------------------------------------------------------------
  // modes
  // ---------------------------------------------------------------------------

  readonly #connect = Effect.fnUntraced(function*(this: Supervisor): Effect.fn.Return<Mode, never, Transport> {
    this.#attempt++
    const attempt = this.#attempt
    const known = this.source._tag === "Given" ? this.source.resolved : this.#evaluated
    const endpoint = known === undefined ? undefined : this.#choose(known).url
    const status = yield* SubscriptionRef.get(this.status)
    // The status begins as the first attempt already; nobody is to see that attempt twice.
    if (status._tag !== "Connecting" || status.attempt !== attempt || status.endpoint !== endpoint) {
      yield* SubscriptionRef.set(this.status, { _tag: "Connecting", attempt, endpoint })
    }
    const scope = yield* Scope.make()
    const opening = Connection.makeAttempt()
    const fiber = yield* Effect.forkChild(Scope.provide(this.#open(opening), scope))
    while (true) {
      const next = yield* this.#orCommand(Fiber.await(fiber))
      if (next._tag === "Done") {
        const exit = next.value
        if (Exit.isSuccess(exit)) return yield* this.#onConnected(exit.value, scope, opening)
        yield* Scope.close(scope, exit)
        const reason = Cause.findErrorOption(exit.cause)
        if (reason._tag === "None") return yield* Effect.failCause(exit.cause as Cause.Cause<never>)
        return this.#carryOut(yield* this.#judge.failed(reason.value, this.#tried, this.resolved))
      }
      if (next._tag === "Resume") {
        this.#answers.push(next.done)
        continue
      }
      yield* Fiber.interrupt(fiber)
      if (next._tag === "Disconnect") this.#onSessionExpiry(next.packet)
      yield* opening.leave(finalPacket(next))
      yield* Scope.close(scope, Exit.void)
      const by = interruptions[next._tag]
      yield* this.#answerAll(Exit.fail(new ConnectError({ reason: new ConnectInterrupted({ by }) })))
      return this.#onCommand(next)
    }
  })

  /** What a command leads to where no connection stands in the way. */
  #onCommand(command: Command): Mode {
    switch (command._tag) {
      case "Pause":
        return { _tag: "Paused", done: command.done }
      case "Disconnect":
        return { _tag: "Halted", cause: new DisconnectRequested(), done: command.done }
      case "Close":
        return { _tag: "Closed", done: command.done }
      case "Reconnect":
      case "Resume":
        this.#restart(command.done)
        return connect
    }
  }

  #restart(done: Answer): void {
    this.#attempt = 0
    this.#step = undefined
    this.#judge.restart()
    this.#chosen = undefined
    this.#answers.push(done)
  }

  readonly #onConnected = Effect.fnUntraced(function*(
    this: Supervisor,
    link: Connection.Link,
    scope: Scope.Closeable,
    opening: Connection.Attempt
  ): Effect.fn.Return<Mode> {
    const { negotiated } = link
    const endpoint = this.#tried!.url
    this.#failsFirst = false
    this.link = link
    this.#cycle.connected()
    this.core.events.emit({ _tag: "Connected", negotiated, endpoint })
    yield* SubscriptionRef.set(this.status, { _tag: "Connected", negotiated, endpoint })
    yield* this.#answerAll(Exit.succeed(negotiated))
    const lifetimeMillis = this.#isRenewable ? opening.lifetimeMillis : undefined
    const renewal = Renewal.next(this.resolved.refresh, lifetimeMillis, this.#random)
    return { _tag: "Connected", link, scope, at: this.core.now(), renewal }
  })

  /** What a verdict leads to. */
  #carryOut(verdict: Verdict): Mode {
    switch (verdict._tag) {
      case "Next":
        return connect
      case "Halt":
        this.#failsFirst = false
        return { _tag: "Halted", cause: verdict.cause, done: undefined }
      case "Wait": {
        const { cause } = verdict
        const final = this.resolved.reconnect === false || this.#failsFirst
        this.#failsFirst = false
        return final ? { _tag: "Halted", cause, done: undefined } : verdict
      }
    }
  }

  readonly #connected = Effect.fnUntraced(function*(
    this: Supervisor,
    { at, link, renewal, scope }: Extract<Mode, { readonly _tag: "Connected" }>
  ): Effect.fn.Return<Mode, never, Transport> {
    const renewed = Effect.suspend(() =>
      renewal === undefined
        ? Effect.never
        : Effect.sleep(Math.max(0, at + renewal.afterMillis - this.core.now())).pipe(
          Effect.andThen(this.#prefetch()),
          Effect.as(renewal.why)
        )
    )
    while (true) {
      const next = yield* this.#orCommand(Effect.raceFirst(link.ended, renewed))
      if (next._tag === "Done") {
        this.link = undefined
        if (typeof next.value !== "string") {
          this.#forgetPrefetched()
          yield* Scope.close(scope, Exit.void)
          return yield* this.#onLost(next.value, this.core.now() - at)
        }
        this.core.events.emit({ _tag: "Refreshing", why: next.value })
        yield* link.disconnect(normalDisconnect)
        yield* Scope.close(scope, Exit.void)
        this.#attempt = 0
        this.#cycle.begin(true)
        return connect
      }
      this.#forgetPrefetched()
      if (next._tag === "Resume") {
        yield* Deferred.succeed(next.done, link.negotiated)
        continue
      }
      if (next._tag === "Close") yield* drain(this.core, link, this.resolved.drainTimeoutMillis)
      if (next._tag === "Disconnect") this.#onSessionExpiry(next.packet)
      this.link = undefined
      yield* link.disconnect(finalPacket(next))
      yield* Scope.close(scope, Exit.void)
      return this.#onCommand(next)
    }
  })

  /**
   * Has what the next attempt needs before the present connection is given up, with the delays of the schedule where it is
   * not to be had. Once they end, the attempt itself has to see.
   */
  #prefetch(): Effect.Effect<void> {
    const { reconnect } = this.resolved
    const schedule = (reconnect === false ? undefined : reconnect.schedule) ?? Backoff.defaultSchedule
    // Options that were given in the meantime are looked at by the attempt.
    const fetch = Effect.suspend(() =>
      this.source === this.#cycled ? prefetch(this.source, this.resolved) : Effect.succeed(undefined)
    )
    return fetch.pipe(
      Effect.map((had) => {
        if (had === undefined) return
        if (had._tag === "Credentials") this.#fresh = { key: this.#cycle.current!.key, credentials: had.credentials }
        else {
          this.latest = had.options
          this.#evaluated = had.resolved
        }
      }),
      Effect.tapError((reason) =>
        Effect.sync(() => this.core.events.emit({ _tag: "RefreshFailed", error: new ConnectError({ reason }) }))
      ),
      Effect.retry(schedule),
      Effect.ignore,
      Effect.catchDefect((defect) => Effect.logError("the reconnect schedule died", defect)),
      Effect.asVoid
    )
  }

  /** What was had for a renewal that does not come would be old at the next attempt. */
  #forgetPrefetched(): void {
    this.#fresh = undefined
    this.#evaluated = undefined
  }

  readonly #onLost = Effect.fnUntraced(function*(
    this: Supervisor,
    cause: LinkLost,
    lasted: number
  ): Effect.fn.Return<Mode> {
    const { reconnect } = this.resolved
    const isStable = reconnect !== false && lasted >= reconnect.stableAfterMillis
    if (isStable) this.#step = undefined
    this.#attempt = this.#step === undefined ? 0 : this.#attempt
    const loss = { lasted, isStable, now: this.core.now(), clientId: this.#clientId(this.resolved) }
    return this.#carryOut(yield* this.#judge.lost(cause, loss, this.resolved))
  })

  readonly #wait = Effect.fnUntraced(function*(
    this: Supervisor,
    cause: ConnectError | LinkLost,
    atLeastMillis: number
  ): Effect.fn.Return<Mode> {
    const { reconnect } = this.resolved
    if (reconnect === false) return { _tag: "Halted", cause, done: undefined }
    this.#step ??= yield* Backoff.start(reconnect.schedule ?? Backoff.defaultSchedule)
    const start = this.core.now()
    const scheduled = yield* this.#step(start, cause)
    if (scheduled === undefined) return { _tag: "Halted", cause, done: undefined }
    const delayMillis = Math.max(scheduled, atLeastMillis)
    this.#cycle.begin()
    yield* SubscriptionRef.set(this.status, { _tag: "Reconnecting", attempt: this.#attempt + 1, delayMillis, cause })
    yield* this.#answerFailure(cause)
    while (true) {
      const left = Math.max(0, start + delayMillis - this.core.now())
      const next = yield* this.#orCommand(Effect.andThen(Effect.sleep(left), this.core.inbound.awaitRoom))
      if (next._tag === "Done") return connect
      if (next._tag === "Resume") this.#answers.push(next.done)
      else {
        const by = interruptions[next._tag]
        yield* this.#answerAll(Exit.fail(new ConnectError({ reason: new ConnectInterrupted({ by }) })))
        return this.#onCommand(next)
      }
    }
  })

  readonly #paused = Effect.fnUntraced(function*(
    this: Supervisor,
    done: Deferred.Deferred<void>
  ): Effect.fn.Return<Mode> {
    this.core.events.emit({ _tag: "Paused" })
    yield* SubscriptionRef.set(this.status, { _tag: "Paused" })
    yield* Deferred.succeed(done, undefined)
    while (true) {
      const next = yield* this.#orCommand(Effect.never)
      if (next._tag === "Pause") yield* Deferred.succeed(next.done, undefined)
      else if (next._tag !== "Done") return this.#onCommand(next)
    }
  })

  readonly #halted = Effect.fnUntraced(function*(
    this: Supervisor,
    cause: HaltReason,
    done: Deferred.Deferred<void> | undefined
  ): Effect.fn.Return<Mode> {
    this.core.halt(new ClientHalted({ cause }))
    this.core.events.emit({ _tag: "Halted", cause })
    yield* SubscriptionRef.set(this.status, { _tag: "Halted", cause })
    yield* this.#answerFailure(cause)
    if (done !== undefined) yield* Deferred.succeed(done, undefined)
    while (true) {
      const next = yield* this.#orCommand(Effect.never)
      switch (next._tag) {
        case "Done":
          break
        case "Pause":
        case "Disconnect":
          yield* Deferred.succeed(next.done, undefined)
          break
        default:
          if (next._tag !== "Close") this.core.reopen()
          return this.#onCommand(next)
      }
    }
  })

  // ---------------------------------------------------------------------------
  // attempts
  // ---------------------------------------------------------------------------

  readonly #open = Effect.fnUntraced(function*(
    this: Supervisor,
    opening: Connection.Attempt
  ): Effect.fn.Return<Connection.Link, ConnectReason, Transport | Scope.Scope> {
    const start = this.core.now()
    this.#tried = undefined
    const evaluated = yield* this.#evaluate()
    const tried = this.#choose(evaluated)
    const options = this.#cycle.apply(evaluated, tried)
    this.#chosen = undefined
    this.#tried = tried
    const fresh = this.#fresh
    this.#fresh = undefined
    this.#isRenewable = this.source._tag === "Evaluated" || Effect.isEffect(options.credentials)
    const elapsed = this.core.now() - start + this.#evaluationMillis
    this.#evaluationMillis = 0
    this.resolved = options
    const unfit = this.core.committer === undefined ? undefined : checkClientId(options)
    if (unfit !== undefined) return yield* Effect.fail(unfit)
    this.core.configure(options)
    const clientId = this.#clientId(options)
    opening.onAccepted = (negotiated) => {
      if (clientId === "") this.#assigned = { clientId: negotiated.clientId, broker: brokerKey(options) }
      this.#record = negotiated.sessionExpiryInterval > 0
        ? { key: sessionKey(options, this.#clientId(options)) }
        : undefined
      this.core.sessionKey = this.#record?.key
    }
    const used = fresh?.key === tried.key ? { ...options, credentials: fresh.credentials } : options
    return yield* Connection.open(this.core, used, clientId, this.#record, elapsed, opening)
  })

  #clientId(options: ResolvedOptions): string {
    if (options.clientId === undefined) return this.#generatedClientId
    if (options.clientId !== "") return options.clientId
    return this.#assigned?.broker === brokerKey(options) ? this.#assigned.clientId : ""
  }

  /** The endpoint of the next attempt. */
  #choose(options: ResolvedOptions): Candidate {
    if (this.source !== this.#cycled) {
      this.#cycled = this.source
      this.#cycle.forget()
      this.#chosen = undefined
      this.#fresh = undefined
    }
    return this.#chosen ??= this.#cycle.next(options)
  }

  #evaluate(): Effect.Effect<ResolvedOptions, ConnectReason> {
    const { source } = this
    if (source._tag === "Given") {
      this.latest = source.options
      return Effect.succeed(source.resolved)
    }
    const evaluated = this.#evaluated
    if (evaluated !== undefined) {
      this.#evaluated = undefined
      return Effect.succeed(evaluated)
    }
    return Effect.flatMap(evaluate(source.effect, this.resolved), ([options, resolved]) => {
      this.latest = options
      return Effect.succeed(resolved)
    })
  }

  #answerAll(exit: Exit.Exit<Negotiated, ConnectError | ClientClosed>): Effect.Effect<void> {
    return Effect.sync(() => {
      const answers = this.#answers
      this.#answers = []
      for (const answer of answers) Deferred.doneUnsafe(answer, exit)
    })
  }

  /** Tells of a failed attempt once its consequence is in force, so that who is told finds the state that is stated. */
  #answerFailure(cause: HaltReason): Effect.Effect<void> {
    return cause._tag === "ConnectError" ? this.#answerAll(Exit.fail(cause)) : Effect.void
  }

  /** A session expiry in DISCONNECT replaces that of CONNECT, on our side as well (SS-13). */
  #onSessionExpiry(packet: Packet.Disconnect): void {
    if (packet.properties?.sessionExpiryInterval !== 0) return
    this.#record = undefined
    this.core.journal?.end()
  }

  // ---------------------------------------------------------------------------
  // closing
  // ---------------------------------------------------------------------------

  readonly #close = Effect.fnUntraced(function*(this: Supervisor) {
    const closed = new ClientClosed()
    this.isClosed = true
    this.core.halt(closed)
    this.core.subscriptions.failAll(closed)
    yield* this.#answerAll(Exit.fail(closed))
    for (const command of this.#commands.splice(0)) {
      if (command._tag === "Resume" || command._tag === "Reconnect") yield* Deferred.fail(command.done, closed)
      else yield* Deferred.succeed(command.done, undefined)
    }
    yield* SubscriptionRef.set(this.status, { _tag: "Closed" })
    this.core.events.end()
  })

  /** The loop itself failed, which is a defect of the client: nobody may be left waiting. */
  #abandon(cause: Cause.Cause<never>): Effect.Effect<void> {
    const log = Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.logError("the MQTT client died", cause)
    return log.pipe(Effect.andThen(this.#answerAll(Exit.failCause(cause))), Effect.andThen(this.#close()))
  }
}
