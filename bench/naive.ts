/**
 * The limit that the codec is measured against: PUBLISH read and written by the shortest plain code, into the same
 * objects and with the same ownership of bytes, and without a single check. Never use it on bytes of a stranger.
 */
import { Buffer } from "node:buffer"
import type { ProtocolVersion, Publish, PublishProperties, QoS } from "../src/protocol/Packet.ts"

/** What `toString` and `write` call in the end; not documented, and a few nanoseconds faster. */
interface FastBuffer extends Buffer {
  utf8Slice(start: number, end: number): string
  utf8Write(text: string, offset: number): number
}

const naiveProperties = (chunk: FastBuffer, start: number, end: number): PublishProperties => {
  let messageExpiryInterval: number | undefined
  let contentType: string | undefined
  let userProperties: Array<readonly [string, string]> | undefined
  let at = start
  const string = (): string => {
    const from = at + 2
    at = from + (chunk[at] << 8 | chunk[at + 1])
    return chunk.utf8Slice(from, at)
  }
  while (at < end) {
    switch (chunk[at++]) {
      case 0x02:
        messageExpiryInterval = chunk.readUInt32BE(at)
        at += 4
        break
      case 0x03:
        contentType = string()
        break
      default: {
        const name = string()
        const value = string()
        if (userProperties === undefined) userProperties = [[name, value]]
        else userProperties.push([name, value])
      }
    }
  }
  return {
    payloadFormatIndicator: undefined,
    messageExpiryInterval,
    topicAlias: undefined,
    responseTopic: undefined,
    correlationData: undefined,
    userProperties,
    subscriptionIdentifiers: undefined,
    contentType
  }
}

export const naiveDecode = (
  chunks: ReadonlyArray<Buffer>,
  version: ProtocolVersion,
  onPacket: (packet: Publish) => void
): void => {
  let rest: Buffer | undefined = undefined
  for (const next of chunks) {
    const chunk = (rest === undefined ? next : Buffer.concat([rest, next])) as FastBuffer
    rest = undefined
    let at = 0
    while (at < chunk.length) {
      const first = chunk[at]
      let position = at + 1
      let length = 0
      let shift = 0
      let byte = 0x80
      while (byte > 127 && position < chunk.length) {
        byte = chunk[position++]
        length |= (byte & 0x7f) << shift
        shift += 7
      }
      const end = position + length
      if (byte > 127 || end > chunk.length) {
        rest = chunk.subarray(at)
        break
      }
      const topicEnd = position + 2 + (chunk[position] << 8 | chunk[position + 1])
      const topic = chunk.utf8Slice(position + 2, topicEnd)
      position = topicEnd
      const qos = first >> 1 & 3
      let packetId = 0
      if (qos > 0) {
        packetId = chunk[position] << 8 | chunk[position + 1]
        position += 2
      }
      let properties: PublishProperties | undefined
      if (version === 5) {
        const propertiesEnd = position + 1 + chunk[position]
        if (chunk[position] > 0) properties = naiveProperties(chunk, position + 1, propertiesEnd)
        position = propertiesEnd
      }
      onPacket({
        _tag: "Publish",
        dup: (first & 8) !== 0,
        qos: qos as QoS,
        retain: (first & 1) !== 0,
        topic,
        packetId,
        payload: new Uint8Array(chunk.buffer, chunk.byteOffset + position, end - position),
        properties
      })
      at = end
    }
  }
}

const newSlab = (): FastBuffer => Buffer.allocUnsafeSlow(2 * 65536) as FastBuffer

export class NaiveEncoder {
  private readonly version: ProtocolVersion
  private slab = newSlab()
  private start = 0
  private position = 0

  constructor(version: ProtocolVersion) {
    this.version = version
  }

  get size(): number {
    return this.position - this.start
  }

  take(): Buffer {
    const taken = this.slab.subarray(this.start, this.position)
    this.start = this.position
    if (this.slab.length - this.position < 65536 + 8192) {
      this.slab = newSlab()
      this.start = 0
      this.position = 0
    }
    return taken
  }

  encode(packet: Publish): void {
    const { payload, properties, qos, topic } = packet
    const slab = this.slab
    const topicLength = Buffer.byteLength(topic)
    let propertiesLength = 0
    if (properties !== undefined) {
      if (properties.messageExpiryInterval !== undefined) propertiesLength += 5
      if (properties.contentType !== undefined) propertiesLength += 3 + Buffer.byteLength(properties.contentType)
      for (const [name, value] of properties.userProperties ?? []) {
        propertiesLength += 5 + Buffer.byteLength(name) + Buffer.byteLength(value)
      }
    }
    let length = 2 + topicLength + (qos > 0 ? 2 : 0) + (this.version === 5 ? 1 + propertiesLength : 0) + payload.length
    let at = this.position
    slab[at++] = 0x30 | qos << 1 | (packet.retain ? 1 : 0)
    while (length > 127) {
      slab[at++] = length & 0x7f | 0x80
      length >>>= 7
    }
    slab[at++] = length
    at = this.string(topic, at)
    if (qos > 0) {
      slab[at++] = packet.packetId >> 8
      slab[at++] = packet.packetId
    }
    if (this.version === 5) {
      slab[at++] = propertiesLength
      if (properties !== undefined) at = this.properties(properties, at)
    }
    slab.set(payload, at)
    this.position = at + payload.length
  }

  private properties(properties: PublishProperties, position: number): number {
    const slab = this.slab
    let at = position
    if (properties.messageExpiryInterval !== undefined) {
      slab[at++] = 0x02
      at = slab.writeUInt32BE(properties.messageExpiryInterval, at)
    }
    if (properties.contentType !== undefined) {
      slab[at++] = 0x03
      at = this.string(properties.contentType, at)
    }
    for (const [name, value] of properties.userProperties ?? []) {
      slab[at++] = 0x26
      at = this.string(value, this.string(name, at))
    }
    return at
  }

  private string(text: string, at: number): number {
    const slab = this.slab
    const length = slab.utf8Write(text, at + 2)
    slab[at] = length >> 8
    slab[at + 1] = length
    return at + 2 + length
  }
}
