/**
 * What comes into a client: from a PUBLISH to the subscribers that take it, or to where it waits for one.
 *
 * Plain calls that never wait; a slow consumer is held back by what is not acknowledged, and never by the reader.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import { TopicFilter } from "../../protocol/index.ts"
import type { Packet, ProtocolFault } from "../../protocol/index.ts"
import type { Noted } from "../../protocol/TopicNote.ts"
import { toMessage } from "../../services/MessageCodec.ts"
import type { ClientCore } from "../ClientCore.ts"
import type { Receipt } from "./Receipt.ts"
import type { Occasion } from "../subscriptions/Routes.ts"
import { Spill } from "./Spill.ts"
import type { Subscriber } from "./Subscriber.ts"
import type { Member } from "../subscriptions/SubscriptionEntry.ts"

const isAnyOver = (subscribers: ReadonlyArray<Subscriber>): boolean => {
  for (let index = 0; index < subscribers.length; index++) if (subscribers[index]!.isOver) return true
  return false
}

export class Inbound {
  readonly core: ClientCore
  #spill: Spill | undefined

  constructor(core: ClientCore) {
    this.core = core
  }

  /** What was put aside for slow consumers; undefined without a store. */
  get spill(): Spill | undefined {
    const { committer } = this.core
    if (committer === undefined) return undefined
    return this.#spill ??= new Spill(
      committer.store,
      committer.journal,
      (receipt) => this.core.settle(receipt),
      (receipt) => this.core.inbox.standing(receipt)._tag !== "SessionLost"
    )
  }

  /** Waits until consumers have made room for what the next connection will bring, where the last one brought too much. */
  get awaitRoom(): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const inbox = this.core.madeInbox
      if (inbox === undefined || inbox.hasRoom) return resume(Effect.void)
      // Room comes about in the middle of a change of state, so that who waits for it runs later.
      inbox.onRoom = () => resume(Effect.yieldNow)
      return Effect.sync(() => {
        inbox.onRoom = undefined
      })
    })
  }

  onPublish(packet: Packet.Publish & Noted): ProtocolFault.ProtocolFault | undefined {
    if (this.core.events.isWatched) {
      this.core.events.emit({ _tag: "MessageReceived", topic: packet.topic, qos: packet.qos })
    }
    const takers = this.core.subscriptions.takersOf(packet, packet.properties?.subscriptionIdentifiers)
    if (packet.qos === 0) {
      if (takers === undefined) this.#dispatchUnacknowledged(packet)
      else {
        const message = toMessage(packet)
        for (let index = 0; index < takers.length; index++) takers[index]!.deliver(message, undefined)
      }
      return undefined
    }
    const { inbox } = this.core
    if (packet.qos === 1 && takers?.length === 1) {
      const taker = takers[0]!
      if (taker.takesRun(inbox.run)) {
        const run = inbox.receiveInRun(packet, toMessage, taker)
        if (run === undefined) return inbox.fault
        taker.deliverInRun(run)
        return undefined
      }
    }
    const receipt = inbox.receive(packet, toMessage)
    if (receipt === undefined) return inbox.fault
    if (takers === undefined || isAnyOver(takers)) this.dispatch(receipt, false, packet.dup ? "repeated" : "new")
    else {
      receipt.pending = takers.length
      for (let index = 0; index < takers.length; index++) takers[index]!.deliver(receipt.message, receipt)
    }
    return undefined
  }

  #dispatchUnacknowledged(packet: Packet.Publish): void {
    let message: ReturnType<typeof toMessage> | undefined
    const fate = this.core.subscriptions.route(
      packet,
      packet.properties?.subscriptionIdentifiers,
      "new",
      (subscriber) => {
        message ??= toMessage(packet)
        subscriber.deliver(message, undefined)
      }
    )
    if (fate === "unclaimed" || fate === "kept") this.core.drop(packet.topic, 0, "unclaimed")
  }

  /** `isBegun`: a handler had begun with the message, and is gone. */
  dispatch(receipt: Receipt, isBegun = false, occasion: Occasion = "again"): void {
    const subscribers: Array<Subscriber> = []
    const { message } = receipt
    let owedTo: Set<string> | undefined
    const owe = (filter: string) => {
      owedTo ??= new Set()
      owedTo.add(filter)
    }
    const fate = this.core.subscriptions.route(
      message,
      message.subscriptionIdentifiers,
      occasion,
      (subscriber) => {
        if (!subscriber.isOver) subscribers.push(subscriber)
        else for (const filter of this.#missing(subscriber.durable, message.topic)) owe(filter)
      },
      owe
    )
    receipt.pending = subscribers.length
    receipt.owedTo = owedTo
    if (subscribers.length > 0) {
      if (owedTo !== undefined) receipt.owed = true
      for (const subscriber of subscribers) subscriber.deliver(receipt.message, receipt)
    } else if (fate === "served" || (fate === "withdrawn" && !isBegun && this.#isForWithdrawn(receipt))) {
      this.core.inbox.dismiss(receipt)
    } else {
      this.#park(receipt, this.core.subscriptions.isDurable(message.topic))
    }
  }

  /** What came before the server was asked for the filter is another's, though the filter matches. */
  #isForWithdrawn({ arrival = 0, message }: Receipt): boolean {
    return this.core.subscriptions.isForWithdrawn(message.topic, arrival)
  }

  /** Those of the durable subscriptions that are to get messages of the topic and that nobody listens to. */
  #missing(durable: ReadonlyArray<string>, topic: string): ReadonlyArray<string> {
    return durable.filter((filter) =>
      TopicFilter.matches(filter, topic, 4) && this.core.subscriptions.listeners(filter).every(({ isOver }) => isOver)
    )
  }

  /** Keeps a message for the next subscriber that wants it; `isNew`: it was not kept before. */
  #park(receipt: Receipt, isDurable: boolean, isNew = true): void {
    const { core } = this
    const { topic } = receipt.message
    core.inbox.park(receipt, core.now(), isDurable)
    if (isNew && core.events.isWatched) core.events.emit({ _tag: "MessageUnclaimed", topic, qos: receipt.qos })
    if (!isDurable) core.onParked()
  }

  /**
   * A subscriber that is gone had not taken the message. `isBegun`: it was the consumer's to settle, who may have begun with
   * it: then it is kept for the next one, whoever else took it, and though its filter is unsubscribed. `durable`: what it
   * listened to; each of these is to get it, by the next one who listens.
   */
  giveBack(receipt: Receipt, isBegun: boolean, durable: ReadonlyArray<string>): void {
    if (receipt.settled) return
    receipt.pending--
    const { topic } = receipt.message
    const missing = isBegun
      ? durable.filter((filter) => TopicFilter.matches(filter, topic, 4))
      : this.#missing(durable, topic)
    for (const filter of missing) (receipt.owedTo ??= new Set()).add(filter)
    if (isBegun && durable.length === 0) receipt.isOpen = true
    receipt.owed = receipt.owedTo !== undefined || receipt.isOpen === true
    if (receipt.pending > 0) return
    if (!receipt.taken) {
      receipt.handed = false
      this.#offerAgain(receipt, isBegun)
    } else if (receipt.owed) {
      this.onOwed(receipt)
    } else {
      this.core.inbox.dismiss(receipt)
    }
    this.core.wakeWriter()
  }

  /** Nobody has taken it yet. */
  #offerAgain(receipt: Receipt, isBegun: boolean): void {
    const { message, owedTo } = receipt
    receipt.owed = false
    receipt.isOpen = false
    this.dispatch(receipt, isBegun)
    receipt.isOpen = receipt.pending === 0
    if (owedTo === undefined || receipt.settled) return
    // The one who had it had it for all of these, and further copies of it may have been taken as handed over.
    const missing = this.#missing([...owedTo], message.topic)
    if (missing.length === 0) return
    receipt.owedTo = new Set([...receipt.owedTo ?? [], ...missing])
    if (receipt.pending > 0) receipt.owed = true
  }

  /** All who were given the message have settled it, but for one who is gone, or who does not listen. */
  onOwed(receipt: Receipt): void {
    receipt.owed = false
    // The server sends it again.
    if (receipt.revoked) return
    this.reconsider(receipt, true)
  }

  #isOwedNoMore(receipt: Receipt, filter: string): void {
    receipt.owedTo?.delete(filter)
    if (receipt.owedTo?.size === 0) receipt.owedTo = undefined
  }

  /** Parks a message for those whom it waits for, if there still are any: what is durable may have changed. */
  reconsider(receipt: Receipt, isNew = false): void {
    for (const filter of receipt.owedTo ?? []) {
      if (this.core.subscriptions.durable(filter) === undefined) this.#isOwedNoMore(receipt, filter)
    }
    if (receipt.owedTo !== undefined) this.#park(receipt, true, isNew)
    else if (!receipt.taken) this.#offerAgain(receipt, receipt.isOpen === true)
    else if (receipt.isOpen === true) this.#park(receipt, false, isNew)
    else this.core.inbox.dismiss(receipt)
  }

  /** The message would have taken too much memory; the server sends it again if it keeps the session. */
  onRefused({ qos, topic }: Packet.Publish): void {
    if (this.core.negotiated?.sessionExpiryInterval === 0) this.core.drop(topic, qos, "memory")
  }

  /** Gives a new subscriber what was parked for want of one, but for what durable subscriptions wait for. */
  offerParked({ requests, subscriber }: Member): void {
    this.core.startBatch()
    const wants = ({ isOpen, message, owedTo }: Receipt, isParked: boolean) =>
      requests.some(({ filter }) =>
        owedTo?.has(filter) === true ||
        ((isOpen === true || (isParked && owedTo === undefined)) && TopicFilter.matches(filter, message.topic, 4))
      )
    const claimed = this.core.inbox.claim((receipt) => wants(receipt, true))
    const parked = new Set(claimed)
    const owing = this.core.inbox.owing.filter((receipt) => !parked.has(receipt) && wants(receipt, false))
    const offered = [...claimed, ...owing].sort((a, b) => (a.arrival ?? 0) - (b.arrival ?? 0))
    for (const receipt of offered) {
      receipt.pending = parked.has(receipt) ? 1 : receipt.pending + 1
      receipt.isOpen = false
      for (const { filter } of requests) this.#isOwedNoMore(receipt, filter)
      receipt.owed = receipt.owedTo !== undefined
      subscriber.deliver(receipt.message, receipt)
    }
    this.core.endBatch()
  }
}
