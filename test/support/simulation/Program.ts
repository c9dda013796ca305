/**
 * Programs of the simulation as plain data, and how a seed becomes one: who the clients are, what they do and when, and what
 * goes wrong meanwhile: links, the broker, session stores, and processes that are killed and start again. A program that lost some of its steps is a program still, which is what makes a failure small.
 */
import type { QoS } from "../../../src/protocol/Packet.ts"
import { Random } from "../../protocol/support/PacketGenerator.ts"

export type Version = 4 | 5

/** A subscription that is there from the beginning to the end. */
export interface Standing {
  /** Declared in the options of the client, or made by `subscription`. */
  readonly kind: "durable" | "scoped"
  readonly filter: string
  readonly qos: QoS
}

export interface ClientPlan {
  readonly name: string
  readonly version: Version
  /** Whether the session outlives the connection. */
  readonly isPersistent: boolean
  /** Seconds. */
  readonly keepAlive: number
  readonly pingTimeoutMillis: number
  readonly connectTimeoutMillis: number
  readonly receiveMaximum: number
  readonly sendMaximum: number
  readonly topicAliasMaximum: number
  readonly outbox: {
    readonly maxMessages: number
    readonly maxBytes: number
    readonly strategy: "suspend" | "dropOldest" | "dropNewest" | "fail"
    readonly qos0Offline: "queue" | "fail"
  }
  readonly standing: Standing
  /** What the consumer needs for one message. */
  readonly consumerMillis: number
  /** Whether it has a session store, which outlives its process. */
  readonly hasStore: boolean
  /** Whether its consumer keeps what it takes in the transactions of the store. */
  readonly hasInbox: boolean
}

/** What passes before a step: time, or only turns of the scheduler, so that it hits the client in the middle of something. */
export type Wait =
  | { readonly _tag: "Time"; readonly millis: number }
  | { readonly _tag: "Turns"; readonly turns: number }

/** `which` chooses among what is there when the step comes: 0 is the first, 1 behind the last. */
export type Action =
  | {
    readonly _tag: "Publish"
    readonly client: number
    readonly topic: string
    readonly qos: QoS
    readonly count: number
    /** One after the other, or all at once. */
    readonly isSequential: boolean
    readonly padding: number
    readonly timeoutMillis: number | undefined
    readonly expirySeconds: number | undefined
    /** Whether the messages have ids of the caller's own, under which they are published again after a crash. */
    readonly isOwn: boolean
  }
  /** A publish under an own id once more, whatever became of it. */
  | { readonly _tag: "Repeat"; readonly client: number; readonly which: number }
  | { readonly _tag: "PublishElsewhere"; readonly topic: string; readonly qos: QoS; readonly count: number }
  | { readonly _tag: "Interrupt"; readonly client: number; readonly which: number }
  | { readonly _tag: "Subscribe"; readonly client: number; readonly filters: ReadonlyArray<string>; readonly qos: QoS }
  | { readonly _tag: "Unsubscribe"; readonly client: number; readonly which: number }
  | { readonly _tag: "Pause"; readonly client: number }
  | { readonly _tag: "Resume"; readonly client: number }
  | {
    readonly _tag: "Reconnect" | "UpdateOptions"
    readonly client: number
    readonly version: Version | undefined
    readonly receiveMaximum: number | undefined
    readonly sendMaximum: number | undefined
    readonly keepAlive: number | undefined
    /** Another address of the broker, where a client expects another session. */
    readonly host: string | undefined
  }
  /** `forgets`: with a session expiry of 0. */
  | { readonly _tag: "Disconnect"; readonly client: number; readonly forgets: boolean }
  | { readonly _tag: "Ping" | "Flush" | "AwaitConnected"; readonly client: number }
  /** The process is killed, and started again a while later. */
  | {
    readonly _tag: "Crash"
    readonly client: number
    readonly keepsStore: boolean
    readonly downMillis: number
  }
  /** The consumer stands still. */
  | { readonly _tag: "Stick"; readonly client: number; readonly millis: number }
  | Fault

export type Cut = "reset" | "fin" | "blackHole"

export type Fault =
  | {
    readonly _tag: "CutAt"
    readonly client: number
    readonly from: "client" | "broker"
    readonly type: string
    readonly skip: number
    readonly when: "before" | "after"
    readonly how: Cut
  }
  | { readonly _tag: "Cut"; readonly client: number; readonly how: Cut }
  | {
    readonly _tag: "BlackHole"
    readonly client: number
    readonly direction: "in" | "out" | "both"
    readonly healAfterMillis: number | undefined
  }
  | {
    readonly _tag: "Hold"
    readonly client: number
    readonly type: string
    readonly skip: number
    readonly releaseAfterMillis: number
  }
  | { readonly _tag: "Delay"; readonly client: number; readonly type: string; readonly millis: number }
  /** A packet is lost, as in a server that crashes: the link dies a little later. */
  | {
    readonly _tag: "Drop"
    readonly client: number
    readonly from: "client" | "broker"
    readonly type: string
    readonly skip: number
    readonly cutAfterMillis: number
  }
  | {
    readonly _tag: "Restart"
    readonly sessions: "keep" | "lose"
    readonly how: "reset" | "fin"
    readonly downForMillis: number
  }
  | { readonly _tag: "Refuse"; readonly client: number; readonly isPermanent: boolean; readonly times: number }
  | {
    readonly _tag: "FailDials"
    readonly kind: "refused" | "unresolved" | "unreachable" | "timeout" | "silent"
    readonly times: number
  }
  | { readonly _tag: "LowerWindow"; readonly receiveMaximum: number; readonly times: number }
  /** What the broker announces from now on. */
  | {
    readonly _tag: "Limit"
    readonly maximumPacketSize: number | undefined
    readonly maximumQoS: 0 | 1 | undefined
    readonly serverKeepAlive: number | undefined
  }
  /** Bytes that mean nothing, in the place of a packet of the broker. */
  | { readonly _tag: "Garble"; readonly client: number; readonly type: string; readonly skip: number }
  | { readonly _tag: "Stall"; readonly client: number; readonly millis: number }
  | {
    readonly _tag: "Drain"
    readonly client: number
    readonly bytes: number
    readonly everyMillis: number
    readonly millis: number
  }
  | { readonly _tag: "Chop"; readonly client: number; readonly bytes: number }
  | { readonly _tag: "ServerDisconnect"; readonly client: number; readonly reasonCode: number }
  /** The process is killed when a packet travels, and the link with it. */
  | {
    readonly _tag: "CrashAt"
    readonly client: number
    readonly from: "client" | "broker"
    readonly type: string
    readonly skip: number
    readonly when: "before" | "after"
    readonly keepsStore: boolean
    readonly downMillis: number
  }
  /** The process is killed when such a change was committed, before anything else comes of it. */
  | {
    readonly _tag: "CrashAtCommit"
    readonly client: number
    readonly change: string
    readonly skip: number
    readonly downMillis: number
  }
  /** Commits of the store fail; `applied`: it keeps the changes all the same. */
  | { readonly _tag: "FailStore"; readonly client: number; readonly times: number; readonly applied: boolean }
  /** Commits of the store wait. */
  | { readonly _tag: "HoldStore"; readonly client: number; readonly millis: number }

export interface Step {
  readonly wait: Wait
  readonly action: Action
}

export interface Program {
  readonly seed: number
  /** Whether the steps begin before the clients have connected. */
  readonly isRough: boolean
  readonly latencyMillis: number
  /** Bytes under way before a client's write suspends. */
  readonly windowBytes: number
  /** Steps of a fiber of the client and the broker before it gives the others their turn: with few that may be anywhere. */
  readonly stepsPerTurn: number
  readonly clients: ReadonlyArray<ClientPlan>
  readonly steps: ReadonlyArray<Step>
}

/** A topic to which the broker lets nobody publish, and a filter that it does not grant. */
export const deniedTopic = "t/denied/0"
export const deniedFilter = "t/denied/#"

// ---------------------------------------------------------------------------
// from a seed
// ---------------------------------------------------------------------------

type Kind = Action["_tag"]

/** How often each kind of step comes, where the program has it at all. */
const weights: Readonly<Record<Kind, number>> = {
  Publish: 40,
  PublishElsewhere: 8,
  Repeat: 4,
  Interrupt: 6,
  Subscribe: 4,
  Unsubscribe: 4,
  Pause: 2,
  Resume: 5,
  Reconnect: 3,
  UpdateOptions: 1,
  Disconnect: 1,
  Crash: 3,
  Ping: 1,
  Flush: 1,
  AwaitConnected: 1,
  Stick: 2,
  CutAt: 6,
  Cut: 5,
  BlackHole: 3,
  Hold: 3,
  Delay: 3,
  Drop: 3,
  Restart: 2,
  Refuse: 2,
  FailDials: 2,
  LowerWindow: 3,
  Limit: 1,
  Garble: 2,
  Stall: 2,
  Drain: 1,
  Chop: 2,
  ServerDisconnect: 2,
  CrashAt: 5,
  CrashAtCommit: 4,
  FailStore: 2,
  HoldStore: 2
}

const kinds = Object.keys(weights) as ReadonlyArray<Kind>

const clientPackets = [
  "Publish",
  "Publish",
  "Puback",
  "Pubrec",
  "Pubrel",
  "Pubcomp",
  "Subscribe",
  "Unsubscribe",
  "Connect"
]
const brokerPackets = ["Publish", "Publish", "Puback", "Pubrec", "Pubrel", "Pubcomp", "Suback", "Unsuback", "Connack"]
/** Losing, holding and delaying these leaves the order of messages as it was. */
const clientAnswers = ["Puback", "Pubrec", "Pubrel", "Pubcomp", "Subscribe", "Unsubscribe", "Pingreq"]
const brokerAnswers = ["Puback", "Pubrec", "Pubrel", "Pubcomp", "Suback", "Unsuback", "Pingresp"]

const qoss = [0, 1, 1, 2, 2] as const

const names = ["a", "b", "c"]

const filterOf = (random: Random): string =>
  random.pick(["t/#", "t/+/0", "t/+/1", "t/a/#", "t/b/#", "t/a/1", "t/+/+", "#", deniedFilter])

const standingOf = (random: Random): Standing => ({
  kind: random.pick(["durable", "scoped"]),
  filter: random.pick(["t/#", "t/#", "#", "t/+/0", "t/a/#"]),
  qos: random.pick([0, 1, 2, 2, 2])
})

const clientOf = (random: Random, name: string, mayBeSilent: boolean, isAlone: boolean): ClientPlan => {
  const standing = standingOf(random)
  const hasStore = random.bool()
  return {
    name,
    version: random.bool(0.65) ? 5 : 4,
    isPersistent: random.bool(0.65),
    keepAlive: mayBeSilent && random.bool(0.3) ? 0 : random.pick([1, 2, 10, 60]),
    pingTimeoutMillis: random.pick([500, 2_000, 10_000]),
    connectTimeoutMillis: random.pick([1_000, 10_000]),
    receiveMaximum: random.pick([1, 2, 3, 10, 256]),
    sendMaximum: random.pick([1, 2, 3, 10, 1_000]),
    topicAliasMaximum: random.pick([0, 0, 2]),
    outbox: {
      maxBytes: random.bool(0.85) ? 16_777_216 : random.pick([100, 2_000]),
      maxMessages: random.bool(0.6) ? 1_000 : random.pick([1, 2, 5, 20]),
      strategy: random.bool(0.6) ? "suspend" : random.pick(["dropOldest", "dropNewest", "fail"]),
      qos0Offline: random.bool(0.8) ? "queue" : "fail"
    },
    standing,
    consumerMillis: random.bool(0.7) ? 0 : random.pick([1, 20, 300]),
    hasStore,
    // Whoever else is there takes what comes while an inbox begins anew.
    hasInbox: hasStore && standing.kind === "durable" && random.bool(0.7) && isAlone
  }
}

const waitOf = (random: Random): Wait => {
  switch (random.int(0, 5)) {
    case 0:
      return { _tag: "Turns", turns: 0 }
    case 1:
    case 2:
      return { _tag: "Turns", turns: random.int(1, 40) }
    case 3:
      return { _tag: "Time", millis: random.int(1, 60) }
    case 4:
      return { _tag: "Time", millis: random.int(50, 2_000) }
    default:
      return { _tag: "Time", millis: random.pick([1_000, 2_500, 10_000, 31_000]) }
  }
}

const actionOf = (random: Random, kind: Kind, clients: number, paddings: ReadonlyArray<number>): Action => {
  const client = random.int(0, clients - 1)
  const which = random.int(0, 999) / 1_000
  const from = random.pick(["client", "broker"] as const)
  switch (kind) {
    case "Publish":
      return {
        _tag: kind,
        client,
        topic: random.bool(0.03) ? deniedTopic : `t/${random.pick(names)}/${random.int(0, 2)}`,
        qos: random.pick(qoss),
        count: random.bool(0.6) ? 1 : random.int(2, 8),
        isSequential: random.bool(),
        padding: random.bool(0.9) ? random.int(0, 20) : random.pick(paddings),
        timeoutMillis: random.bool(0.9) ? undefined : random.pick([0, 1, 100, 5_000]),
        expirySeconds: random.bool(0.97) ? undefined : random.pick([0, 1, 60]),
        isOwn: random.bool()
      }
    case "PublishElsewhere":
      return { _tag: kind, topic: `t/x/${random.int(0, 2)}`, qos: random.pick(qoss), count: random.int(1, 5) }
    case "Interrupt":
    case "Repeat":
    case "Unsubscribe":
      return { _tag: kind, client, which }
    case "Subscribe":
      return {
        _tag: kind,
        client,
        filters: [...new Set(random.array(1, 3, () => filterOf(random)))],
        qos: random.pick([0, 1, 2])
      }
    case "Reconnect":
    case "UpdateOptions": {
      const isSame = random.bool(0.4)
      return {
        _tag: kind,
        client,
        version: isSame ? undefined : random.maybe(() => random.pick([4, 5] as const)),
        receiveMaximum: isSame ? undefined : random.maybe(() => random.pick([1, 2, 50])),
        sendMaximum: isSame ? undefined : random.maybe(() => random.pick([1, 2, 50])),
        keepAlive: isSame ? undefined : random.maybe(() => random.pick([1, 5, 60])),
        host: isSame || random.bool(0.85) ? undefined : random.pick(["broker", "other"])
      }
    }
    case "Disconnect":
      return { _tag: kind, client, forgets: random.bool(0.2) }
    case "Limit":
      return {
        _tag: kind,
        maximumPacketSize: random.maybe(() => random.pick([100, 1_000])),
        maximumQoS: random.maybe(() => random.pick([0, 1] as const)),
        serverKeepAlive: random.maybe(() => random.pick([1, 30]))
      }
    case "Garble":
      return { _tag: kind, client, type: random.pick(brokerPackets), skip: random.int(0, 2) }
    case "Stick":
      return { _tag: kind, client, millis: random.pick([100, 3_000, 40_000]) }
    case "CutAt":
      return {
        _tag: kind,
        client,
        from,
        type: random.pick(from === "client" ? clientPackets : brokerPackets),
        skip: random.bool(0.7) ? 0 : random.int(1, 3),
        when: random.pick(["before", "after"]),
        how: random.pick(["reset", "fin", "blackHole"])
      }
    case "Cut":
      return { _tag: kind, client, how: random.pick(["reset", "reset", "fin", "blackHole"]) }
    case "BlackHole":
      return {
        _tag: kind,
        client,
        direction: random.pick(["in", "out", "both"]),
        healAfterMillis: random.maybe(() => random.pick([100, 3_000, 20_000]))
      }
    case "Hold":
      return {
        _tag: kind,
        client,
        type: random.pick([...brokerAnswers, "Connack"]),
        skip: random.int(0, 2),
        releaseAfterMillis: random.pick([1, 500, 5_000, 30_000])
      }
    case "Delay":
      return {
        _tag: kind,
        client,
        type: random.pick([...brokerAnswers, "Connack"]),
        millis: random.pick([1, 500, 5_000])
      }
    case "Drop":
      return {
        _tag: kind,
        client,
        from,
        type: random.pick(from === "client" ? clientAnswers : brokerAnswers),
        skip: random.int(0, 2),
        cutAfterMillis: random.pick([0, 10, 1_000])
      }
    case "Restart":
      return {
        _tag: kind,
        sessions: random.bool(0.7) ? "keep" : "lose",
        how: random.pick(["reset", "fin"]),
        downForMillis: random.pick([0, 500, 20_000])
      }
    case "Refuse":
      return { _tag: kind, client, isPermanent: random.bool(0.3), times: random.int(1, 3) }
    case "FailDials":
      return {
        _tag: kind,
        kind: random.pick(["refused", "unresolved", "unreachable", "timeout", "silent"]),
        times: random.int(1, 3)
      }
    case "LowerWindow":
      return { _tag: kind, receiveMaximum: random.pick([1, 1, 2, 5]), times: random.int(1, 3) }
    case "Stall":
      return { _tag: kind, client, millis: random.pick([100, 5_000, 100_000]) }
    case "Drain":
      return {
        _tag: kind,
        client,
        bytes: random.pick([1, 10, 1_000]),
        everyMillis: 100,
        millis: random.pick([1_000, 20_000])
      }
    case "Chop":
      return { _tag: kind, client, bytes: random.pick([1, 2, 7]) }
    case "Crash":
      return { _tag: kind, client, keepsStore: random.bool(0.8), downMillis: random.pick([0, 0, 500, 20_000]) }
    case "CrashAt":
      return {
        _tag: kind,
        client,
        from,
        type: random.pick(from === "client" ? clientPackets : brokerPackets),
        skip: random.bool(0.7) ? 0 : random.int(1, 3),
        when: random.pick(["before", "after"]),
        keepsStore: random.bool(0.85),
        downMillis: random.pick([0, 0, 500, 20_000])
      }
    case "CrashAtCommit":
      return {
        _tag: kind,
        client,
        change: random.pick(["Published", "Published", "Released", "Settled", "Received", "Completed", "SessionBegan"]),
        skip: random.bool(0.7) ? 0 : random.int(1, 3),
        downMillis: random.pick([0, 0, 500, 20_000])
      }
    case "FailStore":
      return { _tag: kind, client, times: random.int(1, 3), applied: random.bool(0.3) }
    case "HoldStore":
      return { _tag: kind, client, millis: random.pick([1, 500, 5_000]) }
    case "ServerDisconnect":
      return { _tag: kind, client, reasonCode: random.pick([0x8b, 0x89, 0x97, 0x98, 0x8e]) }
    default:
      return { _tag: kind, client }
  }
}

const always: ReadonlySet<Kind> = new Set(["Publish", "PublishElsewhere", "Resume"])

/** Gives the program of a seed: the same for ever, as long as this module is. */
export const generate = (seed: number): Program => {
  const random = new Random(Math.imul(seed + 1, 0x9e3779b1))
  const appetite = random.pick([0.15, 0.4, 0.8])
  const present = kinds.filter((kind) => always.has(kind) || random.bool(appetite))
  const isRough = random.bool(0.15)
  const total = present.reduce((sum, kind) => sum + weights[kind], 0)
  const pickKind = (): Kind => {
    let left = random.int(1, total)
    return present.find((kind) => (left -= weights[kind]) <= 0)!
  }
  // A dead link without keep alive is a dead link for ever.
  const isBlackHole = (kind: Kind) => kind === "BlackHole" || kind === "Cut" || kind === "CutAt"
  const mayBeSilent = !present.some((kind) => isBlackHole(kind) || kind === "Drop")
  const clients = random.pick([1, 1, 2, 3])
  // What comes in single bytes is to be short.
  const paddings = present.includes("Chop") ? [300, 2_000] : [300, 5_000, 70_000]
  return {
    seed,
    isRough,
    latencyMillis: random.pick([0, 0, 1, 15]),
    windowBytes: random.pick([262_144, 262_144, 8_192, 2_048]),
    clients: names.slice(0, clients).map((name) => clientOf(random, name, mayBeSilent, !present.includes("Subscribe"))),
    steps: random.array(5, random.pick([15, 40, 80]), () => ({
      wait: waitOf(random),
      action: actionOf(random, pickKind(), clients, paddings)
    })),
    stepsPerTurn: random.pick([2_048, 2_048, 3, 4, 5])
  }
}

/** Whether the sessions of all clients of the program that are persistent live as long as the program. */
export const keepsSessions = (program: Program): boolean =>
  !program.steps.some(({ action }) =>
    action._tag === "Restart" && action.sessions === "lose" || action._tag === "Disconnect" && action.forgets ||
    (action._tag === "Reconnect" || action._tag === "UpdateOptions") && action.host !== undefined ||
    (action._tag === "Crash" || action._tag === "CrashAt") && losesStore(program, action)
  )

/** Whether a process is started again without what it had stored: it begins a new session then. */
export const losesStore = (program: Program, crash: Extract<Action, { readonly _tag: "Crash" | "CrashAt" }>): boolean =>
  !crash.keepsStore || !program.clients[crash.client]!.hasStore
