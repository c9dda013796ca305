/**
 * What comes into a client: from a PUBLISH to the subscribers that take it, or to where it waits for one.
 *
 * Plain calls that never wait; a slow consumer is held back by what is not acknowledged, and never by the reader.
 *
 * @since 0.1.0
 */
import type { Packet, ProtocolFault } from "../protocol/index.ts"
import { toMessage } from "../services/MessageCodec.ts"
import type { ClientCore } from "./ClientCore.ts"
import type { Receipt } from "./Inbox.ts"
import type { Subscriber } from "./Subscriber.ts"

export class Inbound {
  readonly core: ClientCore

  constructor(core: ClientCore) {
    this.core = core
  }

  onPublish(packet: Packet.Publish): ProtocolFault.ProtocolFault | undefined {
    if (this.core.events.isWatched) {
      this.core.events.emit({ _tag: "MessageReceived", topic: packet.topic, qos: packet.qos })
    }
    if (packet.qos === 0) {
      let message: ReturnType<typeof toMessage> | undefined
      this.core.subscriptions.forEachSubscriber(packet.topic, (subscriber) => {
        message ??= toMessage(packet)
        subscriber.deliver(message, undefined)
      })
      if (message === undefined && !this.core.subscriptions.isWithdrawn(packet.topic)) {
        this.core.drop(packet.topic, 0, "unclaimed")
      }
      return undefined
    }
    const receipt = this.core.inbox.receive(packet, toMessage)
    if (receipt === undefined) return undefined
    if ("_tag" in receipt) return receipt
    this.dispatch(receipt)
    return undefined
  }

  dispatch(receipt: Receipt): void {
    const subscribers: Array<Subscriber> = []
    const { topic } = receipt.message
    this.core.subscriptions.forEachSubscriber(topic, (subscriber) => {
      if (!subscriber.isOver) subscribers.push(subscriber)
    })
    receipt.pending = subscribers.length
    if (subscribers.length > 0) {
      for (const subscriber of subscribers) subscriber.deliver(receipt.message, receipt)
    } else if (this.core.subscriptions.isDurable(topic)) {
      this.core.inbox.park(receipt, this.core.now(), true)
    } else if (this.core.subscriptions.isWithdrawn(topic)) {
      this.core.inbox.dismiss(receipt)
    } else {
      this.core.inbox.park(receipt, this.core.now(), false)
      this.core.onParked()
    }
  }

  /** A subscriber that is gone had not taken the message. */
  giveBack(receipt: Receipt): void {
    if (receipt.settled) return
    receipt.pending--
    if (receipt.pending > 0) return
    if (receipt.taken) this.core.inbox.dismiss(receipt)
    else {
      receipt.handed = false
      this.dispatch(receipt)
    }
    this.core.wakeWriter()
  }

  /** Gives a new subscriber what was parked for want of one. */
  offerParked(subscriber: Subscriber, wants: (topic: string) => boolean): void {
    this.core.startBatch()
    for (const receipt of this.core.inbox.claim(wants)) {
      receipt.pending = 1
      subscriber.deliver(receipt.message, receipt)
    }
    this.core.endBatch()
  }
}
