/**
 * The buffer between the reader and one running subscription.
 *
 * Messages go in without waiting and come out in batches. QoS 0 messages are bounded by count and bytes with a strategy;
 * QoS 1 and 2 messages are bounded by our Receive Maximum, since their acknowledgement is withheld until the consumer came
 * back for more after them (`pull`) or settled them (`pullHanded`). Past the budget of a subscription with limits they are
 * dropped, or put aside in the store: then what is in the buffer comes first, then what was put aside, then the tail, which
 * is what the store had no room for.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { NonEmptyReadonlyArray } from "effect/Array"
import type { AckResult, Message } from "../../services/Message.ts"
import { detachPayload } from "../../services/MessageCodec.ts"
import { SubscribeError, SubscriptionOverflow } from "../../services/MqttError.ts"
import { noArray } from "../../protocol/EmptyCollections.ts"
import { Backlog, detachLast } from "./Backlog.ts"
import { Handed, isTracked, NewDelivery, released } from "./Delivery.ts"
import { Holding } from "./Holding.ts"
import type { Aside, BufferOptions, Delivery, Hooks, Limits } from "./Delivery.ts"
import type { Receipt } from "./Receipt.ts"
import type { ReceiptRun } from "./ReceiptRun.ts"
import { Waiter } from "./Waiter.ts"

/**
 * Largest batch that a consumer is given at once. It begins with one message and doubles with every full batch, so that a
 * consumer who wants just the first gets just that, and gets on when it does so again.
 */
const batchMaximum = 4096

/** Messages that a consumer took at once, from which on more of them are expected to come as a run. */
const runMinimum = 4

const acked: AckResult = { _tag: "Acked" }
const stale: AckResult = { _tag: "Stale" }

export class Subscriber {
  readonly #options: BufferOptions
  /** Undefined where there are no limits. */
  #holding: Holding | undefined
  readonly #hooks: Hooks
  readonly #buffer = new Backlog()
  /** How many messages a run may be expected to have: as many as the consumer took at once the last time, or 0 for no run. */
  expected = 0
  /** What the store had no room for; it comes behind what lies there. */
  #tail: Array<Delivery> = []
  /** QoS 0 messages and their bytes in the buffer. */
  #count = 0
  #bytes = 0
  #dropped = 0
  /** What the consumer was given last and may still be working on. */
  #handed = noArray<Delivery>()
  /** The same where it was a run. */
  #handedRun: ReceiptRun | undefined
  /** What the consumer was given and is to settle, in that order. */
  #unsettled = new Set<Handed>()
  /** The connection of the newest message. */
  #generation = 0
  #isReading = false
  readonly #waiter = new Waiter()
  /** Messages that came since `detachPayloads`. */
  #fresh = 0
  #end: Exit.Exit<never, SubscribeError | Cause.Done<void>> | undefined

  /** The durable subscriptions that it listens to. */
  durable: ReadonlyArray<string> = []
  /** Called once, when the stream fails. */
  onFailure: ((error: SubscribeError) => void) | undefined

  constructor(options: BufferOptions, hooks: Hooks) {
    this.#options = options
    this.#hooks = hooks
  }

  /** To be called before anything is delivered; without it, QoS 1 and 2 messages are held without a limit of their own. */
  limit(limits: Limits): void {
    this.#holding = new Holding(limits, this.#hooks)
  }

  /** Whether nothing is taken any more. */
  get isOver(): boolean {
    return this.#end !== undefined
  }

  get dropped(): number {
    return this.#dropped
  }

  /** Deliveries that wait in the buffer. */
  get size(): number {
    return this.#buffer.size + this.#tail.length
  }

  /** Messages that wait in the store. */
  get aside(): number {
    return this.#holding?.limits.aside?.unread ?? 0
  }

  /** Whether the consumer is behind by more than a quarter of the buffer. */
  get lagging(): boolean {
    return this.#count * 4 > this.#options.capacity
  }

  deliver(message: Message, receipt: Receipt | undefined): void {
    if (this.#end !== undefined) {
      if (receipt !== undefined) this.#hooks.giveBack(receipt, false, this.durable)
      return
    }
    if (this.#fresh++ === 0) this.#hooks.onBuffered(this)
    if (receipt === undefined) {
      if (!this.#makeRoom(message)) return
      this.#buffer.pushPlain(message)
      this.#count++
      this.#bytes += message.payload.length
      if (this.lagging) this.#hooks.onLagging(this)
    } else {
      if (receipt.generation > this.#generation) this.#purge(receipt.generation)
      if (this.#holding === undefined) this.#buffer.push(receipt)
      else this.#accept(this.#holding, new NewDelivery(message, receipt, 0))
    }
    this.#announce()
  }

  /** Whether the next message may come in a run, if it is at QoS 1: in this one, behind which nothing has come, or in a new one. */
  takesRun(last: ReceiptRun | undefined): boolean {
    return this.expected >= runMinimum && this.#buffer.takesRun(last)
  }

  /** A message came in this run, as `takesRun` has said that it may. */
  deliverInRun(run: ReceiptRun): void {
    if (this.#fresh++ === 0) this.#hooks.onBuffered(this)
    if (run.generation > this.#generation) this.#purge(run.generation)
    this.#buffer.pushRun(run)
    this.#announce()
  }

  #unrollHanded(): void {
    const run = this.#handedRun
    if (run === undefined) return
    this.#handedRun = undefined
    this.#handed = run.dissolve()
  }

  #announce(): void {
    if (this.#waiter.call()) this.#hooks.onReady(this)
  }

  /** What has come since the last call and still waits keeps no chunk of the network alive from now on. */
  detachPayloads(): void {
    const fresh = this.#fresh
    this.#fresh = 0
    this.#buffer.detachPayloads(fresh)
    detachLast(this.#tail, fresh)
  }

  /** Lets a waiting consumer go on. */
  wake(): void {
    this.#waiter.wake()
  }

  /** Ends the stream after what is buffered; QoS 1 and 2 messages in the buffer are still handed over. */
  fail(error: SubscribeError): void {
    if (this.#end !== undefined) return
    this.onFailure?.(error)
    this.#end = Exit.fail(error)
    this.expected = 0
    this.#announce()
  }

  /** Ends the stream now; what was not taken is given back. */
  close(): void {
    this.#end ??= Exit.fail(Cause.Done())
    this.expected = 0
    this.#unrollHanded()
    const begun = [...this.#unsettled]
    const rest = [...this.#handed, ...this.#buffer.deliveries, ...this.#tail]
    this.#unsettled.clear()
    this.#handed = noArray()
    this.#buffer.clear()
    this.#tail = []
    this.#count = 0
    this.#bytes = 0
    for (const { isBegun, receipt } of begun) {
      if (receipt !== undefined && !receipt.revoked) this.#hooks.giveBack(receipt, isBegun, this.durable)
    }
    for (const { aside, message, receipt } of rest) {
      // Nobody has it any more.
      if (aside === released) this.#drop(message)
      if (receipt !== undefined && !receipt.revoked) this.#hooks.giveBack(receipt, false, this.durable)
    }
    this.#holding?.limits.aside?.release()
    this.wake()
  }

  /**
   * The next batch for the consumer. Coming for it says that the batch before was taken. A QoS 2 message comes alone, so that
   * taking it is taking just it.
   */
  readonly pull: Effect.Effect<NonEmptyReadonlyArray<Message>, SubscribeError | Cause.Done<void>> = this.#pull(() => {
    this.#settleHanded()
    const run = this.#buffer.takeRun(this.#batch)
    if (run !== undefined) return this.#handOver(run)
    if (this.#buffer.isPlain && this.#buffer.size > 0) return this.#takePlain()
    const deliveries = this.#take(true)
    const { length } = deliveries
    if (length === 0) return undefined
    this.#expectRuns(length)
    this.#handed = deliveries
    const messages = deliveries.slice() as ReadonlyArray<unknown> as Array<Message>
    for (let index = 0; index < length; index++) messages[index] = deliveries[index]!.message
    return messages
  })

  /** The next batch for a consumer that settles each message. */
  readonly pullHanded: Effect.Effect<NonEmptyReadonlyArray<Handed>, SubscribeError | Cause.Done<void>> = this.#pull(
    () => {
      const deliveries = this.#take(false)
      if (deliveries.length === 0) return undefined
      return deliveries.map((delivery) => {
        const handed = new Handed(delivery, this.#settleOne, this.#leaveOne)
        if (isTracked(delivery)) {
          // A handler may have hundreds in hand, and for long.
          detachPayload(delivery.message)
          this.#unsettled.add(handed)
        }
        return handed
      })
    }
  )

  #pull<A>(
    take: () => ReadonlyArray<A> | undefined
  ): Effect.Effect<NonEmptyReadonlyArray<A>, SubscribeError | Cause.Done<void>> {
    const pull: Effect.Effect<NonEmptyReadonlyArray<A>, SubscribeError | Cause.Done<void>> = Effect.suspend(() => {
      this.#waiter.look()
      const batch = take()
      if (batch !== undefined) return Effect.succeed(batch as NonEmptyReadonlyArray<A>)
      if (this.#end !== undefined) return this.#end
      if (this.aside > 0) return Effect.andThen(this.#readAside, pull)
      return Effect.andThen(this.#waiter.wait, pull)
    })
    return pull
  }

  readonly #readAside: Effect.Effect<void, SubscribeError> = Effect.suspend(() => {
    this.#isReading = true
    return this.#holding!.limits.aside!.read((messages) => {
      for (const { message, sequence } of messages) this.#buffer.push(new NewDelivery(message, undefined, sequence))
    })
  }).pipe(Effect.ensuring(Effect.sync(() => {
    this.#isReading = false
  })))

  /** A consumer begins. Two at a time would take each other's messages. */
  attach(): void {
    if (this.#attached) throw new Error("the messages of a subscription can be consumed by one stream at a time")
    this.#attached = true
    this.#batch = 1
    this.expected = 0
    // What the consumer before did not settle comes again.
    this.#putBack(
      [...this.#unsettled].map(({ delivery }) => delivery).filter(({ receipt }) => receipt?.revoked !== true)
    )
    this.#unsettled.clear()
  }

  #attached = false
  /** Largest batch for now. */
  #batch = 1

  /**
   * The consumer is gone for now. If it ended well, a batch of one was taken. What of a larger batch it took is not known:
   * its QoS 1 messages are kept for the next consumer.
   */
  detach(exit: Exit.Exit<unknown, unknown>): void {
    this.#attached = false
    this.expected = 0
    this.#unrollHanded()
    const handed = this.#handed
    this.#handed = noArray()
    if (handed.length === 1 && Exit.isSuccess(exit)) this.#settleDelivery(handed[0]!)
    else this.#putBack(handed.filter(isTracked))
  }

  #putBack(deliveries: ReadonlyArray<Delivery>): void {
    if (deliveries.length === 0) return
    this.#buffer.prepend(deliveries)
  }

  #settleHanded(): void {
    const run = this.#handedRun
    if (run !== undefined) {
      this.#handedRun = undefined
      if (run.receipts === undefined) this.#hooks.settleRun(run)
      else this.#hooks.settleAll(run.dissolve())
    }
    const handed = this.#handed
    if (handed.length === 0) return
    this.#handed = noArray()
    if (this.#holding === undefined) this.#hooks.settleAll(handed)
    else for (const delivery of handed) this.#settleDelivery(delivery)
  }

  #settleDelivery(delivery: Delivery): void {
    if (delivery.aside > 0) this.#takeUp(delivery)
    else if (isTracked(delivery)) {
      this.#holding?.letGo(delivery)
      if (delivery.receipt !== undefined) this.#hooks.settle(delivery.receipt)
    }
  }

  readonly #settleOne = (handed: Handed, reasonCode: number): AckResult => {
    const { delivery } = handed
    if (!isTracked(delivery)) return acked
    if (!this.#unsettled.delete(handed)) return stale
    if (delivery.receipt === undefined) {
      this.#settleDelivery(delivery)
      return acked
    }
    this.#holding?.letGo(delivery)
    return this.#hooks.settleAs(delivery.receipt, reasonCode)
  }

  readonly #leaveOne = (handed: Handed): void => {
    const { delivery, receipt } = handed
    if (!this.#unsettled.has(handed)) return
    if (receipt !== undefined) {
      ;(receipt.left ??= []).push(() => this.#giveAgain(handed))
      return
    }
    // It is acknowledged: it stays in the store for the next subscription, or is dropped.
    if (!isTracked(delivery)) return
    this.#unsettled.delete(handed)
    if (delivery.aside !== released) return
    this.#holding?.letGo(delivery)
    this.#drop(delivery.message)
  }

  #giveAgain(handed: Handed): void {
    if (handed.receipt === undefined || !this.#unsettled.delete(handed)) return
    if (this.#tail.length > 0 || this.#isBehindStore()) this.#tail.push(handed.delivery)
    else this.#buffer.push(handed.delivery)
    this.#announce()
  }

  #take(aloneAtQos2: boolean): Array<Delivery> {
    const buffer = this.#buffer
    if (this.#tail.length > 0 && buffer.size === 0 && !this.#isBehindStore()) {
      buffer.replace(this.#tail)
      this.#tail = []
    }
    const deliveries: Array<Delivery> = this.#takeWhole()
    while (deliveries.length < this.#batch) {
      const delivery = buffer.first
      if (delivery === undefined) break
      const { receipt } = delivery
      if (receipt !== undefined && receipt.revoked) {
        buffer.shift()
        continue
      }
      const isAlone = aloneAtQos2 && delivery.message.qos === 2 && isTracked(delivery)
      if (isAlone && deliveries.length > 0) break
      buffer.shift()
      if (receipt !== undefined) receipt.handed = true
      else if (delivery.aside === 0) {
        this.#count--
        this.#bytes -= delivery.message.payload.length
      }
      deliveries.push(delivery)
      if (isAlone) break
    }
    this.#growBatch(deliveries.length)
    return deliveries
  }

  /** All that is buffered, where it is one batch of QoS 1. Nothing otherwise, or what comes before something else. */
  #takeWhole(): Array<Delivery> {
    const deliveries = this.#buffer.takeAll(this.#batch)
    for (let index = 0; index < deliveries.length; index++) {
      const delivery = deliveries[index]!
      const { receipt } = delivery
      if (receipt === undefined || receipt.qos === 2 || receipt.revoked) {
        this.#buffer.prepend(deliveries.splice(index))
        break
      }
      receipt.handed = true
    }
    return deliveries
  }

  /** The next batch where all that is buffered is at QoS 0, or as good as. */
  #takePlain(): Array<Message> {
    const messages = this.#buffer.takePlain(this.#batch)
    this.#count -= messages.length
    if (this.#count === 0) this.#bytes = 0
    else for (const { payload } of messages) this.#bytes -= payload.length
    this.#growBatch(messages.length)
    return messages
  }

  #handOver(run: ReceiptRun): Array<Message> {
    this.#handedRun = run
    this.#growBatch(run.size)
    this.#expectRuns(run.size)
    return run.messages
  }

  /** A consumer who took so many at once will do so again. */
  #expectRuns(taken: number): void {
    this.expected = this.#holding === undefined && this.#end === undefined ? taken : 0
  }

  #growBatch(taken: number): void {
    if (taken === this.#batch) this.#batch = Math.min(this.#batch * 2, this.#options.batchMaximum ?? batchMaximum)
  }

  // ---------------------------------------------------------------------------
  // limits
  // ---------------------------------------------------------------------------

  /** Takes a QoS 1 or 2 message where there are limits. */
  #accept(holding: Holding, delivery: Delivery): void {
    const { aside } = holding.limits
    if (this.aside > 0 && aside?.precedes(delivery.receipt!) === true) {
      this.#buffer.push(delivery)
      return this.#hold(delivery)
    }
    if (this.#tail.length > 0) {
      this.#tail.push(delivery)
      return this.#hold(delivery)
    }
    if (aside !== undefined && this.#isBehindStore()) {
      if (aside.put(delivery.receipt!, false) > 0) return
      this.#tail.push(delivery)
      return this.#hold(delivery)
    }
    this.#buffer.push(delivery)
    this.#hold(delivery)
    // Who is behind what is acknowledged already is slow.
    if (holding.hasReleased || holding.isOver) this.relieve()
  }

  /** Whether there is something in the store that has to come first. */
  #isBehindStore(): boolean {
    return this.#isReading || this.aside > 0
  }

  /** Since when it holds back acknowledgements and is done with none; undefined if it holds none. */
  get slowSince(): number | undefined {
    return this.#holding?.slowSince
  }

  /** How long it may do so. */
  get slowAfter(): number {
    return this.#holding?.limits.slowAfter ?? Infinity
  }

  /** Lets acknowledgements go that this subscriber holds back. */
  relieve(): void {
    const holding = this.#holding
    if (holding === undefined) return
    const { aside } = holding.limits
    this.#purge(this.#generation)
    if (aside === undefined) this.#releaseAll(holding)
    else this.#putAllAside(aside)
    for (const handed of this.#unsettled) if (handed.isLeft && handed.receipt === undefined) this.#leaveOne(handed)
    this.#announce()
  }

  /** All it has is acknowledged, and what is too much is dropped. */
  #releaseAll(holding: Holding): void {
    for (const delivery of this.#tracked()) {
      const { receipt } = delivery
      if (receipt === undefined || receipt.revoked) continue
      delivery.receipt = undefined
      delivery.aside = released
      holding.release()
      this.#hooks.settle(receipt)
    }
    while (holding.isOver && this.#dropReleased());
  }

  /** All it has goes to the store, in order, as far as there is room. */
  #putAllAside(aside: Aside): void {
    if (!this.#isBehindStore()) {
      const pinned = new Set<Delivery>()
      for (const handed of this.#unsettled) if (handed.isPinned) pinned.add(handed.delivery)
      for (const delivery of this.#given()) {
        const { receipt } = delivery
        if (receipt === undefined || receipt.revoked || pinned.has(delivery)) continue
        const place = aside.put(receipt, true)
        if (place === 0) return
        this.#holding?.letGo(delivery)
        delivery.receipt = undefined
        delivery.aside = place
      }
    }
    const buffer: Array<Delivery> = []
    let isFull = false
    for (const delivery of this.#buffer.deliveries) {
      const { receipt } = delivery
      if (receipt?.revoked === true) continue
      if (receipt !== undefined && !isFull) {
        isFull = aside.put(receipt, false) === 0
        if (!isFull) {
          this.#holding?.letGo(delivery)
          continue
        }
      }
      if (receipt !== undefined && this.#isBehindStore()) this.#tail.push(delivery)
      else buffer.push(delivery)
    }
    this.#buffer.replace(buffer)
  }

  /** What the consumer has. */
  *#given(): Iterable<Delivery> {
    yield* this.#handed
    for (const { delivery } of this.#unsettled) yield delivery
  }

  /** What it has. */
  *#tracked(): Iterable<Delivery> {
    yield* this.#given()
    yield* this.#buffer.deliveries
    yield* this.#tail
  }

  #hold(delivery: Delivery): void {
    if (this.#holding!.add(delivery) && this.slowAfter !== Infinity) this.#hooks.onHolding(this)
  }

  /** Drops the oldest released message that the consumer does not have. */
  #dropReleased(): boolean {
    const delivery = this.#buffer.remove(({ aside }) => aside === released)
    if (delivery === undefined) return false
    this.#holding?.letGo(delivery)
    this.#drop(delivery.message)
    return true
  }

  /** A message that was put aside is done with, which may have made room for the tail. */
  #takeUp(done: Delivery): void {
    const aside = this.#holding!.limits.aside!
    aside.takeUp(done.aside, done.message)
    let count = 0
    for (; count < this.#tail.length; count++) {
      const { receipt } = this.#tail[count]!
      if (receipt?.revoked !== true && aside.put(receipt!, false) === 0) break
      this.#holding?.letGo(this.#tail[count]!)
    }
    if (count > 0) this.#tail.splice(0, count)
  }

  /** Forgets what the server sends again on a new connection, so that it is not kept twice. */
  #purge(generation: number): void {
    this.#generation = generation
    this.#unrollHanded()
    const isValid = ({ receipt }: Delivery): boolean => receipt?.revoked !== true
    this.#buffer.replace(this.#buffer.deliveries.filter(isValid))
    this.#tail = this.#tail.filter(isValid)
    for (const handed of this.#unsettled) if (handed.receipt?.revoked === true) this.#unsettled.delete(handed)
    this.#handed = this.#handed.filter(isValid)
    this.#holding?.recount(this.#tracked())
  }

  // ---------------------------------------------------------------------------
  // QoS 0
  // ---------------------------------------------------------------------------

  #makeRoom(message: Message): boolean {
    const { bytes, capacity, overflow } = this.#options
    while (this.#count >= capacity || (this.#count > 0 && this.#bytes + message.payload.length > bytes)) {
      if (overflow === "sliding" && this.#dropOldest()) continue
      this.#drop(message)
      if (overflow === "fail") this.fail(new SubscribeError({ reason: new SubscriptionOverflow({ capacity }) }))
      return false
    }
    return true
  }

  #dropOldest(): boolean {
    const oldest = this.#buffer.removePlain()
    if (oldest === undefined) return false
    this.#count--
    this.#bytes -= oldest.payload.length
    this.#drop(oldest)
    return true
  }

  #drop(message: Message): void {
    this.#dropped++
    this.#hooks.onDrop(message)
  }
}
