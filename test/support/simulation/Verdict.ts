/**
 * What must hold when a simulated program is over and all is quiet: nothing lost, nothing twice, everything in order.
 *
 * What is promised, with a session that lives and, where processes are killed, a store that is kept:
 *
 * - a publish that is reported as done is at the broker; at QoS 2 it is there once, under an own id also if it was repeated in
 *   any life of its process, and its outcome can be asked for in a later one
 * - what the broker has for a subscription comes to its consumer; at QoS 2 once in each life, always under one delivery id,
 *   and once in all of them if the consumer is an inbox
 *
 * Without the session, QoS 2 that was written may fail as `SessionLost`, and never comes twice. Without the store a process
 * begins anew: an own id may be published again. A commit that failed although it was one may have a handler work again.
 */
import { idOf } from "./Actor.ts"
import type { Actor, Call } from "./Actor.ts"
import type { Program } from "./Program.ts"
import { deniedTopic, keepsSessions } from "./Program.ts"
import type { Acceptance, Observed } from "./Simulation.ts"

export interface Failure {
  /** `broken`: the protocol, the promises of a type or of the documentation. */
  readonly kind: "lost" | "duplicated" | "reordered" | "leaked" | "hung" | "broken"
  readonly problem: string
}

const countBy = <A>(values: Iterable<A>, key: (value: A) => string): ReadonlyMap<string, number> => {
  const counts = new Map<string, number>()
  for (const value of values) counts.set(key(value), (counts.get(key(value)) ?? 0) + 1)
  return counts
}

/** Pairs of neighbours in `ids`, first occurrences only, that stand the other way round in `order`. */
const inversions = (ids: Iterable<string>, order: ReadonlyArray<string>): ReadonlyArray<string> => {
  const places = new Map<string, number>()
  for (const id of order) if (!places.has(id)) places.set(id, places.size)
  const found: Array<string> = []
  let last: string | undefined
  for (const id of new Set(ids)) {
    if (!places.has(id)) continue
    if (last !== undefined && places.get(id)! < places.get(last)!) found.push(`${id} after ${last}`)
    else last = id
  }
  return found
}

const has = (program: Program, ...tags: ReadonlyArray<string>): boolean =>
  program.steps.some(({ action }) => tags.includes(action._tag))

/** Whether the program halts the client by a command. A life may be killed before anybody sees that it was halted. */
const isDisconnected = (program: Program, actor: Actor): boolean =>
  program.steps.some(({ action }) =>
    action._tag === "Disconnect" && program.clients[action.client]!.name === actor.plan.name
  )

/** Whether a failed publish may have failed for that reason in this program. */
const isExcused = (program: Program, actor: Actor, call: Call, reason: string, mayLose: boolean): boolean => {
  switch (reason) {
    case "PublishAbandoned":
      return actor.isHalted || call.isLate || isDisconnected(program, actor)
    case "SessionLost":
      return call.qos === 2 && mayLose
    case "DeadlineExceeded":
      return call.timeoutMillis !== undefined
    case "SessionStoreError":
      return has(program, "FailStore")
    case "OutboxFull":
      return actor.plan.outbox.strategy !== "suspend"
    case "Offline":
      return call.qos === 0 && actor.plan.outbox.qos0Offline === "fail"
    case "MessageExpired":
      return call.expirySeconds !== undefined
    case "PacketTooLarge":
      return actor.plan.outbox.maxBytes < 100_000 || has(program, "Limit")
    case "NotSupportedByServer":
      return has(program, "Limit")
    case "PublishRefused":
      return call.topic === deniedTopic
    default:
      return false
  }
}

/** Whether a CONNECT that asked for the session may have had no answer: the client said nothing else on its connection. */
const hasUnanswered = (packets: Observed["packets"], name: string): boolean => {
  const open = new Set<number>()
  for (const { clientId, connectionId, from, packet } of packets) {
    if (from !== "client" || clientId !== name) continue
    if (packet._tag === "Connect" && !packet.cleanStart) open.add(connectionId)
    else if (packet._tag !== "Disconnect") open.delete(connectionId)
  }
  return open.size > 0
}

/** What the broker took against what the callers were told. */
const judgeCalls = (
  { packets, program }: Observed,
  actor: Actor,
  accepted: ReadonlyArray<Acceptance>,
  report: (kind: Failure["kind"], problem: string) => void
): void => {
  const counts = countBy(accepted, ({ id }) => id)
  const calls = countBy(actor.calls, ({ id }) => id)
  const mayLose = !actor.plan.isPersistent || !keepsSessions(program)
  // A broker that lost the session and whose CONNACK was lost as well says afterwards that it has the session.
  const isMisled = !keepsSessions(program) && hasUnanswered(packets, actor.plan.name)
  for (const call of actor.calls) {
    const count = counts.get(call.id) ?? 0
    const { ending, id, qos } = call
    const what = `${id} (QoS ${qos})`
    // What was refused may be asked for again.
    const isForgotten = call.isOwn && actor.lives.length > 1 && mayLose
    const mayRepeat = qos === 1 || call.topic === deniedTopic || isMisled || isForgotten
    if (count > 1 && !mayRepeat) {
      report("duplicated", `${what} reached the broker ${count} times`)
    }
    if (ending === undefined) {
      report("hung", `publish ${what} has no end`)
      continue
    }
    switch (ending._tag) {
      case "Done":
        if (qos > 0 && count === 0) {
          report("lost", `${what} was reported as done and never reached the broker`)
        }
        break
      case "Failed":
        if (!isExcused(program, actor, call, ending.reason, mayLose)) {
          report("broken", `${what} failed with ${ending.reason} (${ending.phase})`)
        }
        if (ending.phase === "queued" && count > 0 && calls.get(id) === 1) {
          // A store that kept what it said it had not makes the next process send it.
          const isMisled = ending.reason === "SessionStoreError" && actor.lives.length > 1
          if (!isMisled) report("broken", `${what} failed as queued, but the broker has it`)
        }
        if (ending.phase === "received" && count === 0) report("broken", `${what} failed as received and was not`)
        break
      case "Defect":
        report("broken", `publish ${what} died: ${ending.problem}`)
        break
      case "Interrupted":
      case "Killed":
        break
    }
  }
  // For an own id the store is asked first, and others may go out meanwhile.
  const order = actor.calls.filter(({ isOwn }) => !isOwn).map(({ id }) => id)
  for (const inversion of inversions(accepted.map(({ id }) => id), order)) {
    report("reordered", `the broker got ${inversion}`)
  }
}

/** What the broker promised to a standing subscription against what its consumer was given. */
const judgeConsumer = (
  observed: Observed,
  actor: Actor,
  report: (kind: Failure["kind"], problem: string) => void
): void => {
  const { accepted, packets, probes, program } = observed
  const { name, standing } = actor.plan
  const taken = countBy(actor.taken, ({ id }) => id)
  const times = countBy(accepted, ({ id }) => id)
  const promised = observed.promised.get(name) ?? new Map<string, 0 | 1 | 2>()
  for (const [id, qos] of promised) {
    if (!taken.has(id)) report("lost", `${id} (QoS ${qos}) was not given to ${name}`)
  }
  // A session that is not the old one may use identifiers that the old one has not completed.
  const isMisled = !keepsSessions(program) && hasUnanswered(packets, name)
  for (const { client, id } of probes) {
    if (client === name && !taken.has(id) && !isMisled) {
      report("lost", `${id}, sent when all was quiet, was not given to ${name}`)
    }
  }
  const isKept = actor.plan.isPersistent && keepsSessions(program) && standing.qos > 0
  // After a commit of which nobody knows whether it was one, the handler works again.
  const isUncertain = program.steps.some(({ action }) => action._tag === "FailStore" && action.applied)
  const best = new Map<string, number>()
  for (const { id, qos } of actor.taken) best.set(id, Math.max(best.get(id) ?? 0, qos))
  for (const [id, count] of taken) {
    // At QoS 1 it may come twice, and what the broker took twice it may give twice.
    if (best.get(id) === 1) continue
    // A process that is killed with a message in its hands is given it again, but for one that keeps what it takes in a store.
    if (actor.plan.hasInbox && isUncertain) continue
    const lives = actor.plan.hasInbox && isKept ? 1 : actor.lives.length
    if (count > (times.get(id) ?? 0) * lives) report("duplicated", `${id} was given to ${name} ${count} times`)
  }
  if (isKept && actor.plan.hasStore) {
    judgeDeliveryIds(actor, times, report)
    judgeReceipts(observed, actor, report)
  }
  // Where others listen as well, at their own pace, the order holds for each QoS.
  const isAlone = !has(program, "Subscribe")
  const order = accepted.map(({ id }) => id)
  const publishers = new Map<string, string>(accepted.map(({ client, id }) => [id, client]))
  for (const publisher of new Set(publishers.values())) {
    const own = actor.taken.filter(({ id }) => publishers.get(id) === publisher)
    const groups = isKept
      ? isAlone
        ? [own.filter(({ qos }) => qos === 0), own.filter(({ qos }) => qos > 0)]
        : ([0, 1, 2] as const).map((level) => own.filter(({ qos }) => qos === level))
      // Without its session a subscriber may miss the first copy of what it gets again at QoS 1.
      : [own.filter(({ id, qos }) => qos === 0 && times.get(id) === 1), own.filter(({ qos }) => qos === 2)]
    for (const group of groups) {
      for (const inversion of inversions(group.map(({ id }) => id), order)) {
        report("reordered", `${name} was given ${inversion}`)
      }
    }
  }
}

/** What PUBREC was sent for is never handed over again, by no later process either. */
const judgeReceipts = (
  { packets }: Observed,
  actor: Actor,
  report: (kind: Failure["kind"], problem: string) => void
): void => {
  const open = new Map<number, string>()
  const receivedAt = new Map<string, number>()
  for (const [index, { clientId, from, packet }] of packets.entries()) {
    if (clientId !== actor.plan.name) continue
    if (from === "broker" && packet._tag === "Publish" && packet.qos === 2) {
      open.set(packet.packetId, idOf(packet.payload))
    }
    if (from === "client" && packet._tag === "Pubrec" && packet.reasonCode < 0x80) {
      const id = open.get(packet.packetId)
      if (id !== undefined && !receivedAt.has(id)) receivedAt.set(id, index)
    }
  }
  for (const { id, qos, takenAt } of actor.taken) {
    if (qos !== 2 || takenAt <= (receivedAt.get(id) ?? Infinity)) continue
    report("duplicated", `${id} was given to ${actor.plan.name} again, after its PUBREC`)
  }
}

/** A message at QoS 2 has one name as often as it is handed over, and no other has the same. */
const judgeDeliveryIds = (
  actor: Actor,
  times: ReadonlyMap<string, number>,
  report: (kind: Failure["kind"], problem: string) => void
): void => {
  const names = new Map<string, string>()
  const owners = new Map<string, string>()
  for (const { deliveryId, id, qos } of actor.taken) {
    if (qos !== 2 || times.get(id) !== 1) continue
    if (deliveryId === undefined) {
      report("broken", `${id} has no delivery id`)
      continue
    }
    const name = names.get(id) ?? deliveryId
    const owner = owners.get(deliveryId) ?? id
    names.set(id, name)
    owners.set(deliveryId, owner)
    if (name !== deliveryId) report("broken", `${id} has the delivery ids ${name} and ${deliveryId}`)
    if (owner !== id) report("broken", `${id} and ${owner} have the delivery id ${deliveryId}`)
  }
}

/** What the standing subscription was given is acknowledged when its consumer is done with it, and not before (law 4). */
const judgeAcknowledgements = (
  { packets }: Observed,
  actor: Actor,
  report: (kind: Failure["kind"], problem: string) => void
): void => {
  const { name } = actor.plan
  const doneAt = new Map<string, number>()
  for (const taken of actor.taken) doneAt.set(taken.id, Math.min(taken.doneAt, doneAt.get(taken.id) ?? Infinity))
  const sent = new Map<number, string>()
  for (const [index, { clientId, from, packet }] of packets.entries()) {
    if (clientId !== name) continue
    if (from === "broker" && packet._tag === "Publish" && packet.qos > 0) {
      sent.set(packet.packetId, idOf(packet.payload))
    }
    if (from === "broker" || (packet._tag !== "Puback" && packet._tag !== "Pubrec")) continue
    const id = sent.get(packet.packetId)
    if (id !== undefined && (doneAt.get(id) ?? 0) > index) {
      report("broken", `${name} acknowledges ${id} before its consumer is done with it`)
    }
  }
}

/** What may follow a status. */
const successors: Readonly<Record<string, ReadonlyArray<string>>> = {
  Connecting: ["Connected", "Reconnecting", "Connecting", "Paused", "Halted", "Closed"],
  Connected: ["Reconnecting", "Connecting", "Paused", "Halted", "Closed"],
  Reconnecting: ["Connecting", "Paused", "Halted", "Closed"],
  Paused: ["Connecting", "Halted", "Closed"],
  Halted: ["Connecting", "Paused", "Closed"],
  Closed: []
}

const judgeStatus = (actor: Actor, report: (kind: Failure["kind"], problem: string) => void): void => {
  for (const { statuses } of actor.lives) {
    for (let index = 1; index < statuses.length; index++) {
      const [before, after] = [statuses[index - 1]!, statuses[index]!]
      if (!successors[before]!.includes(after)) report("broken", `${actor.plan.name} was ${before}, then ${after}`)
    }
  }
}

/** A client that subscribed says so to a session that is new before it publishes anything (law 10). */
const judgeRenewal = (observed: Observed, report: (kind: Failure["kind"], problem: string) => void): void => {
  const fresh = new Set<number>()
  const started = new Set<string>()
  // Who is halted while it waits for its grant does not subscribe any more.
  const exempt = new Set(
    observed.actors.filter(({ isHalted, plan }) => isHalted && plan.standing.kind === "scoped").map(({ plan }) =>
      plan.name
    )
  )
  for (const { clientId, connectionId, from, packet } of observed.packets) {
    if (exempt.has(clientId)) continue
    if (packet._tag === "Connack" && packet.reasonCode === 0 && !packet.sessionPresent) fresh.add(connectionId)
    if (from !== "client") continue
    if (packet._tag === "Subscribe") {
      fresh.delete(connectionId)
      started.add(clientId)
    }
    if (packet._tag === "Publish" && fresh.has(connectionId) && started.has(clientId)) {
      report("broken", `${clientId} publishes on connection ${connectionId} before it subscribes again`)
      fresh.delete(connectionId)
    }
  }
}

/** Whether the client of this program could not help it. */
const isExcusedViolation = ({ actors, program }: Observed, clientId: string, row: string): boolean => {
  const actor = actors.find(({ plan }) => plan.name === clientId)
  if (actor === undefined || !actor.plan.hasStore) return false
  // Whoever leaves says nothing more, and waits for the store, which may be at work for a handler.
  const isSlow = actor.plan.hasInbox || has(program, "HoldStore")
  return row === "KA-01c" && isSlow && has(program, "Disconnect", "Reconnect", "Pause")
}

/** Everything that is wrong with what was observed. */
export const judge = (observed: Observed): ReadonlyArray<Failure> => {
  const failures: Array<Failure> = [...observed.failures]
  const report = (kind: Failure["kind"], problem: string) => {
    failures.push({ kind, problem })
  }
  for (const actor of observed.actors) {
    const { name } = actor.plan
    judgeCalls(observed, actor, observed.accepted.filter(({ client }) => client === name), report)
    judgeConsumer(observed, actor, report)
    judgeAcknowledgements(observed, actor, report)
    judgeStatus(actor, report)
    for (const problem of actor.problems) report("broken", `${name}: ${problem}`)
  }
  judgeRenewal(observed, report)
  for (const { at, clientId, problem, row } of observed.violations) {
    if (isExcusedViolation(observed, clientId, row)) continue
    report("broken", `${row} by ${clientId} at ${(at / 1_000).toFixed(3)}: ${problem}`)
  }
  // Even the shortest backoff leaves room for no more than this.
  if (observed.dials > 2_000) report("broken", `${observed.dials} connections were opened`)
  return failures
}
