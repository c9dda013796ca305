/**
 * What goes wrong in a simulation: each fault of a program on the switches of `TestBroker` and the network, and the end of
 * all of them.
 */
import { Effect } from "effect"
import type { MemoryNetwork, TestBroker } from "../../../src/testing/index.ts"
import type { Cut, Fault } from "./Program.ts"
import type { Simulation } from "./Simulation.ts"

/** `fork` runs what takes time beside the program. */
export const makeFaults = (
  simulation: Simulation,
  broker: TestBroker.TestBroker["Service"],
  network: MemoryNetwork.MemoryNetwork["Service"],
  fork: (effect: Effect.Effect<void>) => void
) => {
  const rules: Array<Effect.Effect<void>> = []
  const peers = new Set<MemoryNetwork.Peer>()
  /** A packet of theirs is lost, so they must never work again. */
  const doomed = new Map<number, MemoryNetwork.Peer>()
  const nameOf = (client: number): string => simulation.actors[client]!.plan.name

  /** The server's end of the client's present connection. */
  const withPeer = (client: number, f: (peer: MemoryNetwork.Peer) => Effect.Effect<void>): Effect.Effect<void> =>
    Effect.suspend(() => {
      const peer = broker.clients.find(({ clientId }) => clientId === nameOf(client))?.peer
      if (peer === undefined) return Effect.void
      peers.add(peer)
      return f(peer)
    })

  const heal = (peer: MemoryNetwork.Peer): Effect.Effect<void> =>
    Effect.suspend(() => doomed.has(peer.id) ? Effect.void : peer.heal)

  const cut = (peer: MemoryNetwork.Peer, how: Cut): Effect.Effect<void> =>
    how === "reset" ? peer.reset : how === "fin" ? peer.close : peer.blackHole("both")

  const later = (millis: number, effect: Effect.Effect<void>) =>
    Effect.sync(() => fork(Effect.andThen(Effect.sleep(millis), effect)))

  /** Kills the process of a client, and starts it again. */
  const crash = (client: number, keepsStore: boolean, downMillis: number): Effect.Effect<void> =>
    Effect.suspend(() => {
      const actor = simulation.actors[client]!
      if (actor.isDown) return Effect.void
      simulation.log(`${actor.plan.name} is killed`)
      // What was being committed at that moment is, before anybody opens the store again.
      const wait = Effect.andThen(Effect.yieldNow, Effect.sleep(downMillis))
      return actor.kill(keepsStore).pipe(Effect.andThen(wait), Effect.andThen(actor.restart))
    })

  const remember = (rule: Effect.Effect<TestBroker.Rule>): Effect.Effect<void> =>
    Effect.map(rule, ({ remove }) => {
      rules.push(remove)
    })

  const inflict = (fault: Fault): Effect.Effect<void> => {
    switch (fault._tag) {
      case "CutAt": {
        let skip = fault.skip
        const match = {
          from: fault.from,
          type: fault.type as never,
          clientId: nameOf(fault.client),
          where: () => {
            if (skip-- > 0) return false
            const peer = broker.clients.find(({ clientId }) => clientId === nameOf(fault.client))?.peer
            if (peer !== undefined) {
              peers.add(peer)
              doomed.set(peer.id, peer)
            }
            return true
          }
        }
        return remember(
          fault.when === "before" ? broker.cutBefore(match, fault.how) : broker.cutAfter(match, fault.how)
        )
      }
      case "Cut":
        return withPeer(fault.client, (peer) => cut(peer, fault.how))
      case "BlackHole": {
        const { direction, healAfterMillis } = fault
        return withPeer(fault.client, (peer) =>
          Effect.andThen(
            peer.blackHole(direction),
            healAfterMillis === undefined ? Effect.void : later(healAfterMillis, heal(peer))
          ))
      }
      case "Hold": {
        const match = {
          from: "broker",
          type: fault.type as never,
          clientId: nameOf(fault.client),
          skip: fault.skip
        } as const
        return Effect.flatMap(broker.hold(match), ({ release }) => {
          rules.push(release)
          return later(fault.releaseAfterMillis, release)
        })
      }
      case "Delay": {
        const match = { from: "broker", type: fault.type as never, clientId: nameOf(fault.client) } as const
        return remember(broker.delay(match, fault.millis))
      }
      case "Drop": {
        let skip = fault.skip
        const end = Effect.andThen(Effect.sleep(fault.cutAfterMillis), withPeer(fault.client, (peer) => peer.reset))
        return remember(broker.drop({
          from: fault.from,
          type: fault.type as never,
          clientId: nameOf(fault.client),
          where: () => {
            if (skip-- > 0) return false
            fork(end)
            return true
          }
        }))
      }
      case "Restart": {
        const { downForMillis, how, sessions } = fault
        return broker.restart({ sessions, how, ...(downForMillis === 0 ? {} : { downFor: downForMillis }) })
      }
      case "Refuse":
        return Effect.sync(() => {
          const name = nameOf(fault.client)
          const waiting = simulation.refusals.get(name) ?? []
          simulation.refusals.set(name, [...waiting, ...Array.from({ length: fault.times }, () => fault.isPermanent)])
        })
      case "FailDials":
        return network.failDials({}, fault.kind, { times: fault.times })
      case "LowerWindow": {
        const { receiveMaximum, times } = fault
        return broker.connackNext({ properties: { receiveMaximum } }, { times })
      }
      case "Limit": {
        const { maximumPacketSize, maximumQoS, serverKeepAlive } = fault
        return Effect.sync(() => {
          simulation.limits = { maximumPacketSize, maximumQoS, serverKeepAlive }
        })
      }
      case "Garble": {
        const match = { type: fault.type as never, clientId: nameOf(fault.client), skip: fault.skip }
        return remember(broker.replace(match, () => [Uint8Array.of(0xf0, 0x01, 0x00)]))
      }
      case "Stall":
        return withPeer(fault.client, (peer) => Effect.andThen(peer.stallReads, later(fault.millis, peer.resumeReads)))
      case "Drain":
        return withPeer(
          fault.client,
          (peer) =>
            Effect.andThen(peer.drainEvery(fault.bytes, fault.everyMillis), later(fault.millis, peer.resumeReads))
        )
      case "Chop":
        return withPeer(fault.client, (peer) => peer.setChunkBytes(fault.bytes))
      case "CrashAt": {
        let skip = fault.skip
        const match = {
          from: fault.from,
          type: fault.type as never,
          clientId: nameOf(fault.client),
          where: () => {
            if (skip-- > 0) return false
            fork(crash(fault.client, fault.keepsStore, fault.downMillis))
            return true
          }
        }
        return remember(fault.when === "before" ? broker.cutBefore(match) : broker.cutAfter(match))
      }
      case "CrashAtCommit": {
        const store = simulation.actors[fault.client]!.store
        if (store === undefined) return Effect.void
        let skip = fault.skip
        const end = store.fail({
          times: Infinity,
          where: (changes) => {
            if (changes.some(({ _tag }) => _tag === fault.change) && skip-- === 0) {
              fork(crash(fault.client, true, fault.downMillis))
            }
            // It is only looked at, and is committed.
            return false
          }
        })
        return Effect.map(end, (remove) => {
          rules.push(remove)
        })
      }
      case "FailStore": {
        const store = simulation.actors[fault.client]!.store
        if (store === undefined) return Effect.void
        const { applied, times } = fault
        // Opening and reading always work.
        return Effect.map(store.fail({ times, applied, where: (changes) => changes.length > 0 }), (end) => {
          rules.push(end)
        })
      }
      case "HoldStore": {
        const store = simulation.actors[fault.client]!.store
        if (store === undefined) return Effect.void
        return Effect.flatMap(store.hold, (release) => {
          rules.push(release)
          return later(fault.millis, release)
        })
      }
      case "ServerDisconnect":
        return Effect.suspend(() =>
          broker.clients.some(({ clientId }) => clientId === nameOf(fault.client))
            ? broker.disconnect(nameOf(fault.client), fault.reasonCode)
            : Effect.void
        )
    }
  }

  /** From now on everything works. */
  const end = Effect.suspend(() => {
    simulation.refusals.clear()
    for (const { peer } of broker.clients) peers.add(peer)
    // No connection stays as it was agreed on.
    const isLimited = simulation.limits !== undefined
    simulation.limits = undefined
    const restore = (peer: MemoryNetwork.Peer) =>
      Effect.all([heal(peer), peer.resumeReads, peer.setChunkBytes(Infinity), isLimited ? peer.reset : Effect.void])
    return Effect.all([...rules, network.healDials, ...[...peers].map(restore)], { discard: true })
  })

  /** Dead links that their clients have not found out about. */
  const undiscovered = () => [...doomed.values()].filter(({ clientEnd }) => clientEnd === undefined).length

  return { inflict, crash, end, undiscovered }
}
