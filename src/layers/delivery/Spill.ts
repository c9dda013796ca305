/**
 * The queues in the session store of messages that were put aside for slow consumers.
 *
 * A queue belongs to a subscription as long as that lives, and stays in the store after it: the next subscription to the same
 * filters goes on with it, in this process or a later one. A message is acknowledged once the store keeps it, and leaves the
 * store once the consumer is done with it.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type { PublishProperties } from "../../protocol/Packet.ts"
import type { Message } from "../../services/Message.ts"
import { detachPayload, toMessage } from "../../services/MessageCodec.ts"
import { SubscribeError } from "../../services/MqttError.ts"
import type { OpenStore, StoredMessage } from "../../services/SessionStore.ts"
import type { Journal } from "../store/Journal.ts"
import type { Receipt } from "./Receipt.ts"
import type { Aside } from "./Delivery.ts"

/** Messages that are read at once. */
const readMaximum = 16

/** How much a queue may hold. */
export interface SpillBounds {
  /** Messages. */
  readonly count: number
  /** Payload bytes. */
  readonly bytes: number
}

/** One queue, owned or not. */
class SpillQueue {
  readonly name: string
  isOwned = false
  /** Messages in the store and on their way to it, and their payload bytes. */
  count: number
  bytes: number
  lastSequence: number
  /** When the first of those in the queue came, or one that left since; unknown of what an earlier process put there. */
  firstArrival = -1
  /** What is on its way to the store, by sequence. */
  readonly coming = new Map<number, Message>()
  /** What the store still has, and what was done with. */
  readonly going = new Set<number>()

  constructor(name: string, stored: { readonly count: number; readonly bytes: number; readonly lastSequence: number }) {
    this.name = name
    this.count = stored.count
    this.bytes = stored.bytes
    this.lastSequence = stored.lastSequence
  }
}

/** The queue as its owner has it. */
class OwnedQueue implements Aside {
  readonly #queue: SpillQueue
  readonly #store: OpenStore
  readonly #journal: Journal
  readonly #bounds: SpillBounds
  readonly #settle: (receipt: Receipt) => void
  readonly #isOfSession: (receipt: Receipt) => boolean
  /** The sequence of what was read last. */
  #after = 0
  unread: number
  #isReleased = false

  constructor(
    queue: SpillQueue,
    store: OpenStore,
    journal: Journal,
    bounds: SpillBounds,
    settle: (receipt: Receipt) => void,
    isOfSession: (receipt: Receipt) => boolean
  ) {
    this.#isOfSession = isOfSession
    this.#queue = queue
    this.#store = store
    this.#journal = journal
    this.#bounds = bounds
    this.#settle = settle
    this.unread = queue.count
  }

  put(receipt: Receipt, isRead: boolean): number {
    const queue = this.#queue
    const { message } = receipt
    const size = message.payload.length
    if (queue.count >= this.#bounds.count || queue.bytes + size > this.#bounds.bytes) return 0
    if (queue.count === 0) queue.firstArrival = receipt.arrival ?? -1
    queue.count++
    queue.bytes += size
    const sequence = ++queue.lastSequence
    if (isRead) this.#after = sequence
    else this.unread++
    queue.coming.set(sequence, message)
    // A store may keep it as it is, and for long.
    detachPayload(message)
    this.#journal.record({ _tag: "PutAside", queue: queue.name, message: toStored(message, sequence) })
    // It must not be put aside twice when the server sends it again to the next process, unless somebody else has still to
    // take it. In another session its identifier stands for another message.
    if (receipt.qos === 2 && receipt.pending <= 1 && !receipt.owed && !receipt.isKept && this.#isOfSession(receipt)) {
      receipt.isKept = true
      this.#journal.received(receipt.packetId)
    }
    this.#journal.whenKept(() => {
      queue.coming.delete(sequence)
      this.#settle(receipt)
    })
    return sequence
  }

  precedes({ arrival = 0 }: Receipt): boolean {
    return arrival < this.#queue.firstArrival
  }

  readonly read: Aside["read"] = (take) =>
    Effect.suspend(() => {
      const coming = [...this.#queue.coming].filter(([sequence]) => sequence > this.#after)
      const kept = this.unread - coming.length
      if (kept <= 0) {
        take(this.#took(coming.slice(0, readMaximum).map(([sequence, message]) => ({ sequence, message }))))
        return Effect.void
      }
      const { going, name } = this.#queue
      return Effect.mapBoth(this.#store.putAside(name, this.#after, Math.min(readMaximum, kept) + going.size), {
        onFailure: (reason) => new SubscribeError({ reason }),
        onSuccess: (stored) => {
          const messages = stored.filter(({ sequence }) => !going.has(sequence))
          // What could not be read is not there any more.
          if (messages.length === 0) this.#forget(kept)
          take(this.#took(messages.map((stored) => ({ sequence: stored.sequence, message: fromStored(stored) }))))
        }
      })
    })

  #took<A extends { readonly sequence: number }>(messages: ReadonlyArray<A>): ReadonlyArray<A> {
    this.unread -= messages.length
    const last = messages.at(-1)
    if (last !== undefined) this.#after = last.sequence
    return messages
  }

  #forget(count: number): void {
    this.unread -= count
    this.#queue.count -= count
    if (this.#queue.count === 0) this.#queue.bytes = 0
  }

  takeUp(sequence: number, message: Message): void {
    const queue = this.#queue
    queue.count--
    queue.bytes -= message.payload.length
    queue.going.add(sequence)
    this.#journal.record({ _tag: "TakenUp", queue: queue.name, sequence })
    this.#journal.whenKept(() => queue.going.delete(sequence))
  }

  release(): void {
    if (this.#isReleased) return
    this.#isReleased = true
    this.#queue.isOwned = false
  }
}

export class Spill {
  readonly #store: OpenStore
  readonly #journal: Journal
  readonly #settle: (receipt: Receipt) => void
  readonly #isOfSession: (receipt: Receipt) => boolean
  readonly #queues = new Map<string, SpillQueue>()

  constructor(
    store: OpenStore,
    journal: Journal,
    settle: (receipt: Receipt) => void,
    isOfSession: (receipt: Receipt) => boolean
  ) {
    this.#isOfSession = isOfSession
    this.#store = store
    this.#journal = journal
    this.#settle = settle
    for (const stored of store.stored.queues) this.#queues.set(stored.queue, new SpillQueue(stored.queue, stored))
  }

  /** Messages in the store, and on their way to it. */
  get count(): number {
    let count = 0
    for (const queue of this.#queues.values()) count += queue.count
    return count
  }

  /** Whether the queue holds messages that nobody is about to read. */
  isLeftOver(name: string): boolean {
    const queue = this.#queues.get(name)
    return queue !== undefined && !queue.isOwned && queue.count > 0
  }

  /** Takes the queue for one subscription; undefined if another one has it. */
  own(name: string, bounds: SpillBounds): Aside | undefined {
    const queue = this.#queues.get(name) ?? new SpillQueue(name, { count: 0, bytes: 0, lastSequence: 0 })
    if (queue.isOwned) return undefined
    queue.isOwned = true
    this.#queues.set(name, queue)
    return new OwnedQueue(queue, this.#store, this.#journal, bounds, this.#settle, this.#isOfSession)
  }
}

/** The name of the queue of a subscription to these filters. */
export const queueName = (filters: ReadonlyArray<string>): string => {
  const names = [...new Set(filters)].sort()
  return names.length === 1 && !names[0]!.startsWith("[") ? names[0]! : JSON.stringify(names)
}

const toStored = (message: Message, sequence: number): StoredMessage => {
  const { deliveryId, duplicate, payload, payloadFormat, qos, retain, topic } = message
  const properties: PublishProperties = {
    payloadFormatIndicator: payloadFormat === undefined ? undefined : payloadFormat === "utf8" ? 1 : 0,
    messageExpiryInterval: message.messageExpiryInterval,
    contentType: message.contentType,
    responseTopic: message.responseTopic,
    correlationData: message.correlationData,
    userProperties: message.userProperties,
    subscriptionIdentifiers: message.subscriptionIdentifiers
  }
  const isBare = Object.values(properties).every((value) => value === undefined)
  return { sequence, topic, payload, qos, retain, duplicate, properties: isBare ? undefined : properties, deliveryId }
}

const fromStored = ({ deliveryId, duplicate, ...stored }: StoredMessage): Message => {
  const message = toMessage({
    _tag: "Publish",
    dup: duplicate,
    packetId: 0,
    ...stored,
    // The store may go on with its own, which may be a `Buffer`.
    payload: new Uint8Array(stored.payload)
  })
  return deliveryId === undefined ? message : { ...message, deliveryId }
}
