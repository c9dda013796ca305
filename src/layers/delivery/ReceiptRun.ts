/**
 * Received QoS 1 messages that came one after the other, that one subscriber is given, and that are acknowledged together.
 *
 * A receipt for each takes a hundred bytes, and is looked at when it is given out, taken, settled and acknowledged. A run is
 * looked at once, as long as nothing happens to a part of it. When something does it is dissolved into receipts, which keep its
 * place among those that are to be acknowledged.
 *
 * @since 0.1.0
 */
import * as PackedAck from "../../protocol/PackedAck.ts"
import type { Message } from "../../services/Message.ts"
import { detachPayload } from "../../services/MessageCodec.ts"
import { NewReceipt } from "./Receipt.ts"
import type { Receipt } from "./Receipt.ts"
import type { Subscriber } from "./Subscriber.ts"

export class ReceiptRun {
  readonly taker: Subscriber
  /** The connection on which they came. */
  readonly generation: number
  /** That of the first; the others count up from it. */
  readonly arrival: number
  /** Messages, the first so many in `#messages` and `#acks`. */
  size = 0
  readonly #messages: Array<Message>
  readonly #acks: Array<PackedAck.PackedAck>
  /** What they count for in the memory that unacknowledged messages take. */
  bytes = 0
  /** Whether further messages may come to it. */
  isOpen = true
  /** Whether the subscriber took them. */
  isSettled = false
  /** One for each once the run is dissolved, oldest first; those before `next` are acknowledged. */
  receipts: ReadonlyArray<Receipt> | undefined = undefined
  next = 0

  /** With room for this many messages; there may come more. */
  constructor(taker: Subscriber, generation: number, arrival: number, room: number) {
    this.#messages = new Array(room)
    this.#acks = new Array(room)
    this.taker = taker
    this.generation = generation
    this.arrival = arrival
  }

  /** The messages, in an array that is the caller's own. */
  get messages(): Array<Message> {
    return this.#messages.slice(0, this.size)
  }

  /** Their acknowledgements. */
  get acks(): Array<PackedAck.PackedAck> {
    this.#acks.length = this.size
    return this.#acks
  }

  add(message: Message, packetId: number, bytes: number): void {
    const index = this.size++
    this.#messages[index] = message
    this.#acks[index] = PackedAck.make(4, packetId, 0)
    this.bytes += bytes
  }

  /** So many that came last keep no chunk of the network alive from now on. */
  detachPayloads(count: number): void {
    for (let index = Math.max(0, this.size - count); index < this.size; index++) detachPayload(this.#messages[index]!)
  }

  /** From now on there is a receipt for each; gives them. */
  dissolve(): ReadonlyArray<Receipt> {
    return this.receipts ??= this.#dissolve()
  }

  #dissolve(): ReadonlyArray<Receipt> {
    const { acks, arrival, bytes, generation, isSettled, messages, size } = this
    this.isOpen = false
    // Each has its share, and the last one the rest, so that the sum is what was counted.
    const share = Math.floor(bytes / size)
    return messages.map((message, index) => {
      const counted = index < size - 1 ? share : bytes - share * (size - 1)
      const receipt = new NewReceipt(
        PackedAck.packetIdOf(acks[index]!),
        1,
        message,
        counted,
        generation,
        arrival + index,
        isSettled
      )
      receipt.pending = 1
      return receipt
    })
  }
}
