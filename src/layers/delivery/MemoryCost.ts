/**
 * What received messages count for where the memory that they take is bounded.
 *
 * @since 0.1.0
 */
import type { Publish } from "../../protocol/Packet.ts"
import type { Message } from "../../services/Message.ts"

/** What a message counts for beside its payload and its topic. */
const overheadBytes = 128

/** Bytes. */
export const costOf = ({ payload, properties, topic }: Publish): number =>
  payload.length + topic.length + overheadBytes + (properties === undefined ? 0 : propertyBytes(properties))

/** The same of the message that was made of a packet. */
export const costOfMessage = (message: Message): number =>
  message.payload.length + message.topic.length + overheadBytes + propertyBytes(message)

type Properties = Pick<Message, "contentType" | "correlationData" | "responseTopic" | "userProperties">

const propertyBytes = (properties: Properties): number => {
  let bytes = (properties.correlationData?.length ?? 0) + (properties.contentType?.length ?? 0) +
    (properties.responseTopic?.length ?? 0)
  for (const [name, value] of properties.userProperties ?? []) bytes += name.length + value.length
  return bytes
}
