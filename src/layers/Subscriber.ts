/**
 * The buffer between the reader and one running subscription.
 *
 * Messages go in without waiting and come out in batches. QoS 0 messages are bounded by count and bytes with a strategy;
 * QoS 1 and 2 messages are bounded by our Receive Maximum, since their acknowledgement is withheld until the consumer came
 * back for more after them.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { NonEmptyReadonlyArray } from "effect/Array"
import type { Message } from "../services/Message.ts"
import { SubscribeError, SubscriptionOverflow } from "../services/MqttError.ts"
import type { Receipt } from "./Inbox.ts"

/** A message on its way to one consumer; `receipt` is undefined at QoS 0. */
interface Delivery {
  readonly message: Message
  readonly receipt: Receipt | undefined
}

export interface BufferOptions {
  /** Messages. */
  readonly capacity: number
  /** Payload bytes. */
  readonly bytes: number
  readonly overflow: "sliding" | "dropping" | "fail"
}

/** What a subscriber needs of its surroundings. */
export interface Hooks {
  readonly settle: (receipt: Receipt) => void
  /** The receipt was not taken by this subscriber, which is gone. */
  readonly giveBack: (receipt: Receipt) => void
  readonly onDrop: (message: Message) => void
  /** The subscriber has something for a consumer that waits; `wake` is to be called when the reader's batch is done. */
  readonly onReady: (subscriber: Subscriber) => void
  /** The consumer is behind by more than a quarter of the buffer. */
  readonly onLagging: (subscriber: Subscriber) => void
}

/**
 * Largest batch that a consumer is given at once. It begins with one message and doubles with every full batch, so that a
 * consumer who wants just the first gets just that, and gets on when it does so again.
 */
const batchMaximum = 4096

export class Subscriber {
  readonly #options: BufferOptions
  readonly #hooks: Hooks
  #buffer: Array<Delivery | undefined> = []
  #head = 0
  /** QoS 0 messages and their bytes in the buffer. */
  #count = 0
  #bytes = 0
  #dropped = 0
  /** What the consumer was given last and may still be working on. */
  #handed: Array<Delivery> = []
  #waiter: (() => void) | undefined
  #ready = false
  #end: Exit.Exit<never, SubscribeError | Cause.Done<void>> | undefined

  constructor(options: BufferOptions, hooks: Hooks) {
    this.#options = options
    this.#hooks = hooks
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
    return this.#buffer.length - this.#head
  }

  /** Whether the consumer is behind by more than a quarter of the buffer. */
  get lagging(): boolean {
    return this.#count * 4 > this.#options.capacity
  }

  deliver(message: Message, receipt: Receipt | undefined): void {
    if (this.#end !== undefined) {
      if (receipt !== undefined) this.#hooks.giveBack(receipt)
      return
    }
    if (receipt === undefined && !this.#makeRoom(message)) return
    this.#buffer.push({ message, receipt })
    if (receipt === undefined) {
      this.#count++
      this.#bytes += message.payload.length
      if (this.lagging) this.#hooks.onLagging(this)
    }
    this.#announce()
  }

  #announce(): void {
    if (this.#waiter === undefined || this.#ready) return
    this.#ready = true
    this.#hooks.onReady(this)
  }

  /** Lets a waiting consumer go on. */
  wake(): void {
    this.#ready = false
    const waiter = this.#waiter
    this.#waiter = undefined
    waiter?.()
  }

  /** Ends the stream after what is buffered; QoS 1 and 2 messages in the buffer are still handed over. */
  fail(error: SubscribeError): void {
    if (this.#end !== undefined) return
    this.#end = Exit.fail(error)
    this.#announce()
  }

  /** Ends the stream now; what was not taken is given back. */
  close(): void {
    this.#end ??= Exit.fail(Cause.Done())
    const rest = [...this.#handed, ...this.#buffer.slice(this.#head)]
    this.#handed = []
    this.#buffer = []
    this.#head = 0
    this.#count = 0
    this.#bytes = 0
    for (const delivery of rest) {
      const receipt = delivery?.receipt
      if (receipt !== undefined && !receipt.revoked) this.#hooks.giveBack(receipt)
    }
    this.wake()
  }

  /**
   * The next batch for the consumer. Coming for it says that the batch before was taken. A QoS 2 message comes alone, so that
   * taking it is taking just it.
   */
  readonly pull: Effect.Effect<NonEmptyReadonlyArray<Message>, SubscribeError | Cause.Done<void>> = Effect.suspend(
    () => {
      this.#settleHanded()
      const batch = this.#take()
      if (batch !== undefined) return Effect.succeed(batch)
      if (this.#end !== undefined) return this.#end
      return Effect.flatMap(
        Effect.callback<void>((resume) => {
          this.#waiter = () => resume(Effect.void)
          return Effect.sync(() => {
            this.#waiter = undefined
            this.#ready = false
          })
        }),
        () => this.pull
      )
    }
  )

  /** A consumer begins. Two at a time would take each other's messages. */
  attach(): void {
    if (this.#attached) throw new Error("the messages of a subscription can be consumed by one stream at a time")
    this.#attached = true
    this.#batch = 1
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
    const handed = this.#handed
    this.#handed = []
    if (handed.length === 1 && Exit.isSuccess(exit)) {
      const receipt = handed[0]!.receipt
      if (receipt !== undefined) this.#hooks.settle(receipt)
      return
    }
    const rest = handed.filter((delivery) => delivery.receipt !== undefined)
    if (rest.length > 0) {
      this.#buffer = [...rest, ...this.#buffer.slice(this.#head)]
      this.#head = 0
    }
  }

  #settleHanded(): void {
    const handed = this.#handed
    if (handed.length === 0) return
    this.#handed = []
    for (const { receipt } of handed) {
      if (receipt !== undefined) this.#hooks.settle(receipt)
    }
  }

  #take(): NonEmptyReadonlyArray<Message> | undefined {
    const messages: Array<Message> = []
    while (this.#head < this.#buffer.length && messages.length < this.#batch) {
      const delivery = this.#buffer[this.#head]
      const receipt = delivery?.receipt
      if (delivery === undefined || receipt?.revoked === true) {
        this.#head++
        continue
      }
      if (receipt?.qos === 2 && messages.length > 0) break
      this.#buffer[this.#head++] = undefined
      if (receipt === undefined) {
        this.#count--
        this.#bytes -= delivery.message.payload.length
      } else {
        receipt.handed = true
      }
      this.#handed.push(delivery)
      messages.push(delivery.message)
      if (receipt?.qos === 2) break
    }
    this.#compact()
    if (messages.length === this.#batch) this.#batch = Math.min(this.#batch * 2, batchMaximum)
    return messages.length === 0 ? undefined : messages as unknown as NonEmptyReadonlyArray<Message>
  }

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
    for (let index = this.#head; index < this.#buffer.length; index++) {
      const delivery = this.#buffer[index]
      if (delivery === undefined || delivery.receipt !== undefined) continue
      if (index === this.#head) {
        this.#buffer[this.#head++] = undefined
        this.#compact()
      } else {
        this.#buffer.splice(index, 1)
      }
      this.#count--
      this.#bytes -= delivery.message.payload.length
      this.#drop(delivery.message)
      return true
    }
    return false
  }

  /** Gives back the place of what has left, but not for each message. */
  #compact(): void {
    if (this.#head >= this.#buffer.length) this.#buffer = []
    else if (this.#head >= 4096 && this.#head * 2 >= this.#buffer.length) this.#buffer = this.#buffer.slice(this.#head)
    else return
    this.#head = 0
  }

  #drop(message: Message): void {
    this.#dropped++
    this.#hooks.onDrop(message)
  }
}
