/**
 * Keeps a client connected: connect, run, wait, try again; pause, resume, reconnect, disconnect, close.
 *
 * One fiber runs it, as a loop over what the client is doing. Whatever that is, it is raced against a command deferred:
 * commands go through a small queue, each with a deferred for its answer, and completing the command deferred wakes the
 * loop, so a command that comes while another is carried out is never lost. Every connection runs in a scope of its own,
 * which is closed before the next one begins.
 *
 * While the client is connected, paused or halted, and nothing is to be waited for but the end of that, the loop rests: it
 * has no fiber, and whoever has something for it starts one. Most clients are in this state for nearly all of their lives,
 * and a fiber in the middle of a loop takes 2.5 KiB.
 *
 * It owns the status, and knows no packets but DISCONNECT.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
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
import { change } from "../../services/ResolvedOptions.ts"
import type { ResolvedOptions } from "../../services/ResolvedOptions.ts"
import type { Negotiated } from "../../services/Status.ts"
import type { Transport } from "../../services/Transport.ts"
import * as Backoff from "./Backoff.ts"
import type { ClientCore } from "../ClientCore.ts"
import { finalPacket, interruptions, normalDisconnect } from "./Command.ts"
import type { Answer, Command } from "./Command.ts"
import * as Connection from "../connection/Connection.ts"
import type { Link } from "../connection/Link.ts"
import { drain } from "./Drain.ts"
import type { Candidate, EndpointCycle } from "./EndpointCycle.ts"
import { brokerKey, sessionKey } from "../connection/Handshake.ts"
import { checkClientId } from "../store/KeptSession.ts"
import type { SessionRecord } from "../connection/Handshake.ts"
import { Judge } from "./Judge.ts"
import { connect, halted, paused, rests } from "./Mode.ts"
import type { Connected, Mode, Off } from "./Mode.ts"
import type { Verdict } from "./Judge.ts"
import { evaluate, prefetch } from "./OptionsSource.ts"
import type { OptionsSource } from "./OptionsSource.ts"
import * as Renewal from "./Renewal.ts"
import type { StatusCell } from "./StatusCell.ts"
import type { SupervisorOptions } from "./SupervisorOptions.ts"
import { noArray, ownArray } from "../../protocol/EmptyCollections.ts"

export class Supervisor {
  readonly core: ClientCore
  readonly status: StatusCell
  /** Options of the next attempt. */
  source: OptionsSource
  /** The options that were evaluated last, before their check. */
  latest: ClientOptions
  /** The options that were used last. */
  resolved: ResolvedOptions
  link: Link | undefined
  isClosed = false
  /** What runs the loop; undefined while it rests. */
  #fiber: Fiber.Fiber<void> | undefined
  #resting: Connected | Off | undefined
  #commands: Array<Command> = noArray()
  /** The command deferred, as long as somebody waits for it. */
  #wake: Deferred.Deferred<void> | undefined
  /** Given by the first attempt's caller, by `resume` and by `reconnect`: all wait for the next outcome. */
  #answers: Array<Answer> = noArray()
  readonly #generatedClientId: string
  /** The id that a server assigned, and which broker it was: to another one it means nothing, or somebody else. */
  #assigned: { readonly clientId: string; readonly broker: string } | undefined
  #record: SessionRecord | undefined
  #attempt = 0
  #step: Backoff.Step | undefined
  readonly #random: () => number
  readonly #cycle: EndpointCycle
  /** Made when something has failed. */
  #judged: Judge | undefined
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

  constructor(options: SupervisorOptions) {
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
    this.#failsFirst = options.first !== undefined
    if (options.first !== undefined) (this.#answers = ownArray(this.#answers)).push(options.first)
  }

  /** The options that the next attempt is to have, as far as they are known now. */
  get pending(): ClientOptions {
    return this.source._tag === "Given" ? this.source.options : this.latest
  }

  get #judge(): Judge {
    return this.#judged ??= new Judge(this.#cycle, this.#random, this.core.events)
  }

  /** Hands a command to the loop. */
  submit(command: Command): void {
    this.#commands = ownArray(this.#commands)
    this.#commands.push(command)
    this.nudge()
  }

  /** Has the loop look at what there is. */
  nudge(): void {
    if (this.#wake !== undefined) Deferred.doneUnsafe(this.#wake, Exit.void)
    const resting = this.#resting
    if (resting === undefined) return
    this.#resting = undefined
    this.#fiber = Effect.runForkWith(this.core.services as Context.Context<Transport>)(this.#run(resting))
  }

  /** Starts the loop. */
  get start(): Effect.Effect<void, never, Transport> {
    return Effect.map(Effect.forkDetach(this.#run(connect)), (fiber) => void (this.#fiber = fiber))
  }

  /** Ends the loop, wherever it is. */
  get stop(): Effect.Effect<void> {
    return Effect.suspend(() => this.#fiber === undefined ? Effect.void : Fiber.interrupt(this.#fiber))
  }

  /** The loop. It ends when the client is closed, and when it rests. */
  #run(mode: Mode): Effect.Effect<void, never, Transport> {
    return Effect.onExit(
      Supervisor.#loop.call(this, mode),
      (exit) => Exit.isFailure(exit) && !this.isClosed ? this.#abandon(exit.cause) : Effect.void
    )
  }

  static readonly #loop = Effect.fnUntraced(function*(this: Supervisor, mode: Mode) {
    while (mode._tag !== "Closed") {
      if (this.#commands.length === 0 && rests(mode)) {
        this.#resting = mode
        this.#fiber = undefined
        this.#wake = undefined
        return
      }
      switch (mode._tag) {
        case "Connect":
          mode = yield* Supervisor.#connect.call(this)
          break
        case "Connected":
          mode = yield* Supervisor.#connected.call(this, mode)
          break
        case "Wait":
          mode = yield* Supervisor.#wait.call(this, mode.cause, mode.atLeastMillis)
          break
        case "Paused":
          mode = yield* Supervisor.#paused.call(this, mode.done)
          break
        case "Halted":
          mode = yield* Supervisor.#halted.call(this, mode.cause, mode.done)
          break
        case "Off":
          mode = yield* this.#off(mode)
          break
      }
    }
    yield* Supervisor.#close.call(this)
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
          Effect.as(Deferred.await(this.#wake ??= Deferred.makeUnsafe()), undefined)
        ),
        (done) => done === undefined ? this.#orCommand(effect) : Effect.succeed(done)
      )
    })
  }

  #takeCommand(): Command | undefined {
    const command = this.#commands.shift()
    if (this.#commands.length === 0) this.#wake = undefined
    return command
  }

  // ---------------------------------------------------------------------------
  // modes
  // ---------------------------------------------------------------------------

  static readonly #connect = Effect.fnUntraced(function*(this: Supervisor): Effect.fn.Return<Mode, never, Transport> {
    this.#attempt++
    const attempt = this.#attempt
    const known = this.source._tag === "Given" ? this.source.resolved : this.#evaluated
    const endpoint = known === undefined ? undefined : this.#choose(known).url
    const status = this.status.current
    // The status begins as the first attempt already; nobody is to see that attempt twice.
    if (status._tag !== "Connecting" || status.attempt !== attempt || status.endpoint !== endpoint) {
      yield* this.status.set({ _tag: "Connecting", attempt, endpoint })
    }
    const opening = Connection.makeAttempt(this.core.services!)
    const fiber = yield* Effect.forkChild(Supervisor.#open.call(this, opening))
    while (true) {
      const next = yield* this.#orCommand(Fiber.await(fiber))
      if (next._tag === "Done") {
        const exit = next.value
        if (Exit.isSuccess(exit)) return yield* Supervisor.#onConnected.call(this, exit.value, opening)
        yield* opening.link.close(exit)
        const reason = Cause.findErrorOption(exit.cause)
        if (reason._tag === "None") return yield* Effect.failCause(exit.cause as Cause.Cause<never>)
        return this.#carryOut(yield* this.#judge.failed(reason.value, this.#tried, this.resolved))
      }
      if (next._tag === "Resume") {
        this.#answers = ownArray(this.#answers)
        this.#answers.push(next.done)
        continue
      }
      yield* Fiber.interrupt(fiber)
      if (next._tag === "Disconnect") this.#onSessionExpiry(next.packet)
      yield* opening.leave(finalPacket(next))
      yield* opening.link.close(Exit.void)
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
    this.#answers = ownArray(this.#answers)
    this.#answers.push(done)
  }

  static readonly #onConnected = Effect.fnUntraced(function*(
    this: Supervisor,
    link: Link,
    opening: Connection.Attempt
  ): Effect.fn.Return<Mode> {
    const { negotiated } = link
    const endpoint = this.#tried!.url
    this.#failsFirst = false
    this.link = link
    link.watcher = this
    this.#cycle.connected()
    this.core.events.emit({ _tag: "Connected", negotiated, endpoint })
    yield* this.status.set({ _tag: "Connected", negotiated, endpoint })
    yield* this.#answerAll(Exit.succeed(negotiated))
    const lifetimeMillis = this.#isRenewable ? opening.lifetimeMillis : undefined
    const renewal = Renewal.next(this.resolved.refresh, lifetimeMillis, this.#random)
    return { _tag: "Connected", link, at: this.core.now(), renewal }
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

  static readonly #connected = Effect.fnUntraced(function*(
    this: Supervisor,
    mode: Connected
  ): Effect.fn.Return<Mode, never, Transport> {
    const { at, link, renewal } = mode
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
          yield* link.close(Exit.void)
          return yield* Supervisor.#onLost.call(this, next.value, this.core.now() - at)
        }
        this.core.events.emit({ _tag: "Refreshing", why: next.value })
        yield* link.disconnect(normalDisconnect)
        yield* link.close(Exit.void)
        this.#attempt = 0
        this.#cycle.begin(true)
        return connect
      }
      this.#forgetPrefetched()
      if (next._tag === "Resume") {
        yield* Deferred.succeed(next.done, link.negotiated)
        if (this.#commands.length === 0 && rests(mode)) return mode
        continue
      }
      if (next._tag === "Close") yield* drain(this.core, link, this.resolved.drainTimeoutMillis)
      if (next._tag === "Disconnect") this.#onSessionExpiry(next.packet)
      this.link = undefined
      yield* link.disconnect(finalPacket(next))
      yield* link.close(Exit.void)
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

  static readonly #onLost = Effect.fnUntraced(function*(
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

  static readonly #wait = Effect.fnUntraced(function*(
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
    yield* this.status.set({ _tag: "Reconnecting", attempt: this.#attempt + 1, delayMillis, cause })
    yield* this.#answerFailure(cause)
    while (true) {
      const left = Math.max(0, start + delayMillis - this.core.now())
      const next = yield* this.#orCommand(Effect.andThen(Effect.sleep(left), this.core.inbound.awaitRoom))
      if (next._tag === "Done") return connect
      if (next._tag === "Resume") (this.#answers = ownArray(this.#answers)).push(next.done)
      else {
        const by = interruptions[next._tag]
        yield* this.#answerAll(Exit.fail(new ConnectError({ reason: new ConnectInterrupted({ by }) })))
        return this.#onCommand(next)
      }
    }
  })

  static readonly #paused = Effect.fnUntraced(function*(
    this: Supervisor,
    done: Deferred.Deferred<void>
  ): Effect.fn.Return<Mode> {
    this.core.events.emit({ _tag: "Paused" })
    yield* this.status.set({ _tag: "Paused" })
    yield* Deferred.succeed(done, undefined)
    return paused
  })

  static readonly #halted = Effect.fnUntraced(function*(
    this: Supervisor,
    cause: HaltReason,
    done: Deferred.Deferred<void> | undefined
  ): Effect.fn.Return<Mode> {
    this.core.halt(new ClientHalted({ cause }))
    this.core.events.emit({ _tag: "Halted", cause })
    yield* this.status.set({ _tag: "Halted", cause })
    yield* this.#answerFailure(cause)
    if (done !== undefined) yield* Deferred.succeed(done, undefined)
    return halted
  })

  /** Paused or halted: only a command leads on. */
  #off(mode: Off): Effect.Effect<Mode> {
    return Effect.suspend((): Effect.Effect<Mode> => {
      const next = this.#takeCommand()
      if (next === undefined) return Effect.succeed(mode)
      if (next._tag === "Pause" || (mode.isHalted && next._tag === "Disconnect")) {
        return Effect.as(Deferred.succeed(next.done, undefined), mode)
      }
      if (mode.isHalted && next._tag !== "Close") this.core.reopen()
      return Effect.succeed(this.#onCommand(next))
    })
  }

  // ---------------------------------------------------------------------------
  // attempts
  // ---------------------------------------------------------------------------

  static readonly #open = Effect.fnUntraced(function*(
    this: Supervisor,
    opening: Connection.Attempt
  ): Effect.fn.Return<Link, ConnectReason, Transport> {
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
    const used = fresh?.key === tried.key ? change(options, { credentials: fresh.credentials }) : options
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
      this.#answers = noArray()
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

  static readonly #close = Effect.fnUntraced(function*(this: Supervisor) {
    const closed = new ClientClosed()
    this.isClosed = true
    this.core.halt(closed)
    this.core.subscriptions.failAll(closed)
    yield* this.#answerAll(Exit.fail(closed))
    for (const command of this.#commands.splice(0)) {
      if (command._tag === "Resume" || command._tag === "Reconnect") yield* Deferred.fail(command.done, closed)
      else yield* Deferred.succeed(command.done, undefined)
    }
    yield* this.status.set({ _tag: "Closed" })
    this.core.events.end()
  })

  /** The loop itself failed, which is a defect of the client: nobody may be left waiting. */
  #abandon(cause: Cause.Cause<never>): Effect.Effect<void> {
    const log = Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.logError("the MQTT client died", cause)
    return log.pipe(
      Effect.andThen(this.#answerAll(Exit.failCause(cause))),
      Effect.andThen(Supervisor.#close.call(this))
    )
  }
}
