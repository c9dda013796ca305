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
import { costOfMessage } from "./MemoryCost.ts"
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
  /** One for each once the run is dissolved, oldest first; those before `#next` are acknowledged, and let go. */
  receipts: Array<Receipt | undefined> | undefined = undefined
  #next = 0

  /** With room for this many messages; there may come more. */
  constructor(taker: Subscriber, generation: number, arrival: number, room: number) {
    this.#messages = new Array(room)
    this.#acks = new Array(room)
    this.taker = taker
    this.generation = generation
    this.arrival = arrival
  }

  /** For how many there is room. */
  get room(): number {
    return this.#messages.length
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

  /** So many that came last keep no chunk of the network alive from now on, and what waits keeps no room for more. */
  detachPayloads(count: number): void {
    for (let index = Math.max(0, this.size - count); index < this.size; index++) detachPayload(this.#messages[index]!)
    this.#messages.length = this.size
    this.#acks.length = this.size
  }

  /** From now on there is a receipt for each; gives those that are not acknowledged, in an array that is the caller's own. */
  dissolve(): Array<Receipt> {
    this.receipts ??= this.#dissolve()
    return this.left
  }

  #dissolve(): Array<Receipt> {
    const { acks, arrival, generation, isSettled, messages } = this
    this.isOpen = false
    this.#messages.length = 0
    let rest = this.bytes
    const receipts = messages.map((message, index) => {
      // Together they count for just what the run did, whatever somebody may have done to the messages meanwhile.
      const bytes = isSettled ? 0 : index === messages.length - 1 ? rest : costOfMessage(message)
      rest -= bytes
      const packetId = PackedAck.packetIdOf(acks[index]!)
      const receipt = new NewReceipt(packetId, 1, message, bytes, generation, arrival + index, isSettled)
      receipt.pending = 1
      return receipt
    })
    this.#acks.length = 0
    return receipts
  }

  /** The receipts that are not acknowledged, in an array that is the caller's own; none before the run is dissolved. */
  get left(): Array<Receipt> {
    return (this.receipts ?? []).slice(this.#next) as Array<Receipt>
  }

  /** The next of the receipts, if there is one. */
  get first(): Receipt | undefined {
    return this.receipts?.[this.#next]
  }

  /** The one that `first` gave is acknowledged, and nobody needs it any more. */
  shift(): void {
    this.receipts![this.#next++] = undefined
  }
}
