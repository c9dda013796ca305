/**
 * An MQTT 3.1.1 and 5.0 broker in memory, for tests: correct, strict with the client, exact in virtual time, with every
 * fault on a switch.
 *
 * `TestBroker.layer(options?)` provides the `TestBroker`, the `Transport` that reaches it, and the `MemoryNetwork` between.
 *
 * ```ts
 * import { TestBroker } from "effect-mqtt/testing"
 *
 * it.effect("survives a lost PUBACK", () =>
 *   Effect.gen(function*() {
 *     const broker = yield* TestBroker.TestBroker
 *     // ... start a client of mqtt://broker ...
 *     yield* broker.cutAfter({ from: "client", type: "Publish" }) // taken, but its PUBACK is lost with the link
 *     const first = yield* broker.expectPacket({ from: "client", type: "Publish" })
 *     yield* TestClock.adjust("1 minute")
 *     const again = yield* broker.expectPacket({ from: "client", type: "Publish", where: (packet) => packet.dup })
 *   }).pipe(Effect.provide(TestBroker.layer())))
 * ```
 *
 * **Strictness.** Every packet of a client is checked on its raw bytes and in its context (identifiers in use, order,
 * windows, announced limits, keep alive). A breach is in `violations` with its row of the conformance table; the connection
 * ends as the standard says; and when the broker's scope closes, breaches that the test did not expect end it with
 * `ProtocolViolations`.
 *
 * **What it decides where the standard leaves it open.** One copy of a message for all overlapping subscriptions of a
 * client, at the best QoS, with all their identifiers. QoS 0 is not kept for absent clients. The members of a shared
 * subscription take turns; those who are connected come first. SUBACK leaves before retained messages.
 *
 * **Rules on packets** (`hold`, `delay`, `drop`, `cutBefore`, `cutAfter`, `corrupt`, `replace`) take the first packet that
 * matches, unless `times` says more, and the oldest rule comes first. A rule on a packet of the broker takes it on its way
 * out: the broker believes to have sent it.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberHandle from "effect/FiberHandle"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Scheduler from "effect/Scheduler"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { ConnackProperties, DisconnectProperties, ServerPacket } from "../protocol/Packet.ts"
import type { Transport } from "../services/Transport.ts"
import { BrokerConnection } from "./BrokerConnection.ts"
import { makeControls, makeRules } from "./BrokerControls.ts"
import type { BrokerPublish, Hold, Rule } from "./BrokerControls.ts"
import { BrokerCore } from "./BrokerCore.ts"
import type { ConnackOverride, LogEntry } from "./BrokerCore.ts"
import type { TestBrokerOptions } from "./BrokerOptions.ts"
import { makeObservations, makeWatch, toClient, toInfo } from "./BrokerView.ts"
import type { ConnectedClient, SessionInfo } from "./BrokerView.ts"
import * as Network from "./MemoryNetwork.ts"
import type { Cut, PacketFrom, PacketMatch, PacketOf, RuleMatch, Side } from "./PacketRules.ts"
import { ProtocolViolations } from "./Violation.ts"
import type { Violation } from "./Violation.ts"

export type { BrokerPublish, Hold, Rule } from "./BrokerControls.ts"
export type { ConnackOverride, LogEntry } from "./BrokerCore.ts"
export type { AuthReply, AuthStep, TestBrokerOptions } from "./BrokerOptions.ts"
export type { ConnectedClient, SessionInfo } from "./BrokerView.ts"
export type { Cut, PacketFrom, PacketMatch, PacketOf, RuleMatch, Side } from "./PacketRules.ts"
export { ProtocolViolations } from "./Violation.ts"
export type { Violation } from "./Violation.ts"

/**
 * The broker of the kit.
 *
 * @category services
 * @since 0.1.0
 */
export class TestBroker extends Context.Service<TestBroker, {
  // --- observations ---------------------------------------------------------

  /** Every packet in both directions, oldest first. */
  readonly log: ReadonlyArray<LogEntry>
  /** The log, and then every packet as it travels. */
  readonly packets: Stream.Stream<LogEntry>
  /**
   * Waits for a packet that matches and that no earlier `expectPacket` has given out; one that travelled before the call is
   * taken too. It waits for events, never for time: move the clock where the client needs time.
   */
  readonly expectPacket: <From extends Side, Type extends PacketFrom<From>["_tag"] = PacketFrom<From>["_tag"]>(
    match: PacketMatch<From, Type>
  ) => Effect.Effect<LogEntry<PacketOf<From, Type>>>
  /** The packets in the log that match, given out or not. */
  readonly packetsOf: <From extends Side, Type extends PacketFrom<From>["_tag"] = PacketFrom<From>["_tag"]>(
    match: PacketMatch<From, Type>
  ) => ReadonlyArray<LogEntry<PacketOf<From, Type>>>
  /**
   * Lets the network settle, and dies if there is a packet that matches and was not given out by `expectPacket`.
   */
  readonly expectNoPacket: <From extends Side, Type extends PacketFrom<From>["_tag"] = PacketFrom<From>["_tag"]>(
    match: PacketMatch<From, Type>
  ) => Effect.Effect<void>
  readonly clients: ReadonlyArray<ConnectedClient>
  readonly sessions: ReadonlyArray<SessionInfo>
  /** Topics of the retained messages. */
  readonly retained: ReadonlyArray<string>
  /** Waits until the client (default: any) is connected. */
  readonly awaitClient: (clientId?: string) => Effect.Effect<ConnectedClient>
  /** Waits until the client is not connected. */
  readonly awaitGone: (clientId: string) => Effect.Effect<void>
  /** Waits until a session is as the predicate says; its client may be away. */
  readonly awaitSession: (clientId: string, predicate: (session: SessionInfo) => boolean) => Effect.Effect<SessionInfo>
  /** What clients did against the protocol and the test did not expect. */
  readonly violations: ReadonlyArray<Violation>
  /** Waits for a violation of the row (default: any) and takes it out of `violations`. */
  readonly expectViolation: (row?: string) => Effect.Effect<Violation>
  /** Waits until nothing happens on the network any more; see `MemoryNetwork.settle`. */
  readonly settle: Effect.Effect<void>

  // --- controls -------------------------------------------------------------

  /** Publishes as some other client. */
  readonly publish: (message: BrokerPublish) => Effect.Effect<void>
  /** Answers the next CONNECT (or so many) with this code, and closes. */
  readonly refuseNext: (
    reasonCode: number,
    options?: { readonly times?: number | undefined; readonly properties?: ConnackProperties | undefined }
  ) => Effect.Effect<void>
  /** Changes the next CONNACK (or so many). What it announces is enforced. */
  readonly connackNext: (
    override: ConnackOverride,
    options?: { readonly times?: number | undefined }
  ) => Effect.Effect<void>
  /** Keeps packets back until they are released; others overtake them, but nothing overtakes a CONNACK. */
  readonly hold: <From extends Side, Type extends PacketFrom<From>["_tag"] = PacketFrom<From>["_tag"]>(
    match: RuleMatch<From, Type>
  ) => Effect.Effect<Hold<PacketOf<From, Type>>>
  /** Delays packets; others overtake them, but nothing overtakes a CONNACK. */
  readonly delay: <From extends Side, Type extends PacketFrom<From>["_tag"] = PacketFrom<From>["_tag"]>(
    match: RuleMatch<From, Type>,
    delay: Duration.Input
  ) => Effect.Effect<Rule>
  /** Loses packets; of a client: the broker ignores them. */
  readonly drop: <From extends Side, Type extends PacketFrom<From>["_tag"] = PacketFrom<From>["_tag"]>(
    match: RuleMatch<From, Type>
  ) => Effect.Effect<Rule>
  /** Cuts the link instead of passing the packet. Default: by reset. */
  readonly cutBefore: <From extends Side, Type extends PacketFrom<From>["_tag"] = PacketFrom<From>["_tag"]>(
    match: RuleMatch<From, Type>,
    how?: Cut
  ) => Effect.Effect<Rule>
  /**
   * Cuts the link behind the packet. Of a client: the broker takes it, and its answer is lost. Default: by reset.
   */
  readonly cutAfter: <From extends Side, Type extends PacketFrom<From>["_tag"] = PacketFrom<From>["_tag"]>(
    match: RuleMatch<From, Type>,
    how?: Cut
  ) => Effect.Effect<Rule>
  /** Inverts the bits of `mask` (default all) in the byte at `offset` (negative: from the end) of packets of the broker. */
  readonly corrupt: <Type extends ServerPacket["_tag"]>(
    match: Omit<RuleMatch<"broker", Type>, "from">,
    byte: { readonly offset: number; readonly mask?: number | undefined }
  ) => Effect.Effect<Rule>
  /** Sends other packets, or raw bytes, or nothing, in the place of packets of the broker. */
  readonly replace: <Type extends ServerPacket["_tag"]>(
    match: Omit<RuleMatch<"broker", Type>, "from">,
    replace: (packet: PacketOf<"broker", Type>) => ReadonlyArray<ServerPacket | Uint8Array>
  ) => Effect.Effect<Rule>
  /** Sends raw bytes, such as `"d0 00"`, to a client once it is connected. */
  readonly inject: (clientId: string, bytes: Uint8Array | string) => Effect.Effect<void>
  /** Sends DISCONNECT (on MQTT 5.0) to a client and closes. */
  readonly disconnect: (
    clientId: string,
    reasonCode: number,
    properties?: DisconnectProperties
  ) => Effect.Effect<void>
  /** Cuts a client's link. Default: by reset. */
  readonly cut: (clientId: string, how?: Cut) => Effect.Effect<void>
  /**
   * Ends every connection, by reset unless `how` says `"fin"`, without publishing wills, and starts again at once or after
   * `downFor`; dials are refused in between. With `"lose"`, sessions and retained messages are gone.
   */
  readonly restart: (options: {
    readonly sessions: "keep" | "lose"
    readonly how?: "reset" | "fin" | undefined
    readonly downFor?: Duration.Input | undefined
  }) => Effect.Effect<void>
}>()("effect-mqtt/testing/TestBroker") {}

/** Takes connections from now on, until the scope closes. */
const listen = Effect.fnUntraced(function*(
  core: BrokerCore,
  options: TestBrokerOptions,
  fork: (effect: Effect.Effect<void>) => unknown
) {
  const network = yield* Network.MemoryNetwork
  const listener = yield* network.listen({ ...options, port: options.port ?? "*", record: false })
  const serve = (peer: Network.Peer) => {
    const connection = new BrokerConnection(core, peer, Network.linkOf(peer))
    core.connections.add(connection)
    const read = Effect.map(connection.link.read, (chunks) => {
      for (const chunk of chunks) connection.receive(chunk)
    })
    return Effect.catch(Effect.forever(read), () =>
      Effect.sync(() => {
        core.connections.delete(connection)
        connection.lost()
      }))
  }
  yield* Effect.forkScoped(Effect.forever(Effect.map(listener.accept, (peer) => fork(serve(peer)))))
})

/**
 * Builds a broker that listens on a network which is there, so that a test can have several.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (
  options?: TestBrokerOptions
) => Effect.Effect<TestBroker["Service"], never, Network.MemoryNetwork | Scope.Scope> = Effect.fnUntraced(
  function*(options: TestBrokerOptions = {}) {
    const clock = yield* Clock.Clock
    const network = yield* Network.MemoryNetwork
    const dispatcher = (yield* Scheduler.Scheduler).makeDispatcher()
    const watch = makeWatch((task) => dispatcher.scheduleTask(task, 0))
    // Registered first, so that it runs last: what the closing itself brings to light counts.
    yield* Effect.addFinalizer(() =>
      (options.strict ?? true) && core.violations.length > 0
        ? Effect.die(new ProtocolViolations({ violations: core.violations }))
        : Effect.void
    )
    const fork = yield* FiberSet.makeRuntime()
    const timer = (millis: number, task: () => void) => {
      const fiber = fork(Effect.andThen(Effect.sleep(millis), Effect.sync(task)))
      return () => fiber.interruptUnsafe()
    }
    const core: BrokerCore = new BrokerCore(
      { now: () => clock.currentTimeMillisUnsafe(), timer, changed: watch.changed },
      options
    )

    const up = yield* FiberHandle.make()
    const listening = listen(core, options, fork).pipe(
      Effect.andThen(Effect.never),
      Effect.scoped,
      Effect.provideService(Network.MemoryNetwork, network)
    )
    yield* FiberHandle.run(up, listening, { startImmediately: true })

    return TestBroker.of({
      ...makeObservations(core, watch, network.settle),
      ...makeRules(core, watch),
      ...makeControls(core, watch),
      get log() {
        return core.log
      },
      get clients() {
        return [...core.connections].filter((connection) => connection.isConnected).map(toClient)
      },
      get sessions() {
        return [...core.sessions.values()].map(toInfo)
      },
      get retained() {
        return [...core.retained.keys()]
      },
      get violations() {
        return core.violations
      },
      restart: Effect.fnUntraced(function*(restart) {
        core.crash(restart.sessions, restart.how ?? "reset")
        yield* FiberHandle.clear(up)
        const start = restart.downFor === undefined ? listening : Effect.delay(listening, restart.downFor)
        yield* FiberHandle.run(up, start, { startImmediately: true })
      })
    })
  }
)

/**
 * A broker with a network of its own.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: TestBrokerOptions): Layer.Layer<TestBroker | Network.MemoryNetwork | Transport> =>
  Layer.effect(TestBroker, make(options)).pipe(Layer.provideMerge(Network.layer))
