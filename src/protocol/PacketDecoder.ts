/**
 * Bytes of one connection in, packets of a server out, with every check that bytes and the client's own announcements
 * allow (MQTT 5.0 and 3.1.1). What needs the state of the connection is left to its owner: the order of CONNACK, the
 * matching of acknowledgements, receive maximum, authentication without a method.
 *
 * **Ownership of bytes.** A chunk belongs to the decoder's user for good and must never be written again: payloads and
 * binary properties are views into it, so they live as long as the packet does and pin the whole chunk meanwhile. Copy
 * what outlives the handling of a packet. A frame that came in several chunks is put together once, in a buffer of its
 * own, and its views pin no more than itself.
 *
 * **Tolerated.** Where the standard leaves the choice, nothing is refused that a publisher could use to cut off the
 * subscribers of others: control characters and noncharacters in strings, and a payload that is not UTF-8 although its
 * payload format indicator says so.
 *
 * **Failure is terminal.** The first fault ends the stream: nothing behind it is looked at, and every later push gives
 * the same fault. The decoder cannot be reused; each connection has its own, and topic aliases end with it.
 *
 * @since 0.1.0
 */
import { Buffer } from "node:buffer"
import type { ProtocolVersion, ServerPacket } from "./Packet.ts"
import { PacketBody, packetNames } from "./PacketBody.ts"
import * as ProtocolFault from "./ProtocolFault.ts"

/**
 * What a decoder must know of its connection.
 *
 * @category options
 * @since 0.1.0
 */
export interface DecoderOptions {
  readonly protocolVersion: ProtocolVersion
  /** Bytes of a whole packet, fixed header included: what the client announced, or its own limit on 3.1.1. */
  readonly maximumPacketSize: number
  /** What the client announced; 0 means that the server may use no alias. */
  readonly topicAliasMaximum: number
  /** What the client announced: `false` forbids the server reason strings and user properties in most packets. */
  readonly requestProblemInformation: boolean
  /**
   * Whether each PUBLISH of a chunk is the same object, filled anew, for a receiver who is done with it when `onPacket`
   * returns; its payload may be kept. False by default.
   */
  readonly reusesPublish?: boolean | undefined
}

/**
 * Turns the bytes of one connection into packets.
 *
 * @category models
 * @since 0.1.0
 */
export interface Decoder {
  /**
   * Takes the next bytes, and calls `onPacket` once per packet that they complete, in order.
   *
   * `onPacket` may answer with a fault of its own, which stops decoding at once. Returns the fault that ended the
   * stream, if any. A fault is terminal: later pushes return it again and call nothing. `onPacket` must neither push nor
   * throw.
   */
  readonly push: (
    chunk: Uint8Array,
    onPacket: (packet: ServerPacket) => ProtocolFault.ProtocolFault | undefined
  ) => ProtocolFault.ProtocolFault | undefined
  /** Whether a new decoder would do as well from here on: nothing is begun, nothing has failed and no topic was seen. */
  readonly isBlank: boolean
}

/**
 * @category constructors
 * @since 0.1.0
 */
export const makeDecoder = (options: DecoderOptions): Decoder => new PacketDecoder(options)

const malformed = 0x81
const protocolError = 0x82
const packetTooLarge = 0x95

/** A frame up to this size is given its buffer at once, a larger one as its bytes arrive. */
const eagerSize = 65536

/** What is wrong with a first byte, whatever follows it. */
const firstByteFault = (version: ProtocolVersion, first: number): ProtocolFault.ProtocolFault | undefined => {
  const type = first >> 4
  const flags = first & 0x0f
  const packet = packetNames[type]
  const fault = (field: string, rule: string, reasonCode: number) => ProtocolFault.make(packet, field, rule, reasonCode)
  switch (type) {
    case 0:
      return fault("packet type", "packet type 0 is reserved", malformed)
    case 1:
    case 8:
    case 10:
    case 12:
      return fault("packet type", "only a client sends this packet", protocolError)
    case 3:
      if ((flags & 0x06) === 0x06) return fault("qos", "a quality of service is 0, 1 or 2", malformed)
      if ((flags & 0x0e) === 0x08) return fault("dup", "it is 0 at quality of service 0", protocolError)
      return undefined
    case 14:
      if (version === 4) return fault("packet type", "only a client sends this packet on MQTT 3.1.1", protocolError)
      break
    case 15:
      if (version === 4) return fault("packet type", "packet type 15 is reserved on MQTT 3.1.1", malformed)
  }
  const reserved = type === 6 ? 2 : 0
  return flags === reserved
    ? undefined
    : fault("flags", `the reserved flags of this packet are ${reserved}`, malformed)
}

/** 0 where the first byte may open a packet, by version. */
const faultsOf = (version: ProtocolVersion): Uint8Array =>
  Uint8Array.from({ length: 256 }, (_, first) => firstByteFault(version, first) === undefined ? 0 : 1)
const firstByteFaults = { 4: faultsOf(4), 5: faultsOf(5) }
const noBytes = new Uint8Array(0)

class PacketDecoder implements Decoder {
  private readonly version: ProtocolVersion
  private readonly maximumPacketSize: number
  private readonly packets: PacketBody
  private fault: ProtocolFault.ProtocolFault | undefined = undefined

  /** 0 where the first byte may open a packet. */
  private readonly firstByteFaults: Uint8Array

  // What `header` found last.
  private length = 0

  // A frame of which only a part has arrived: first the bytes of its header, then, once these are complete, its body.
  private head = noBytes
  private headSize = 0
  private body: Buffer | undefined = undefined
  private bodyLength = 0
  private bodySize = 0

  constructor(options: DecoderOptions) {
    this.version = options.protocolVersion
    this.maximumPacketSize = options.maximumPacketSize
    this.packets = new PacketBody(options)
    this.firstByteFaults = firstByteFaults[this.version]
  }

  push(
    chunk: Uint8Array,
    onPacket: (packet: ServerPacket) => ProtocolFault.ProtocolFault | undefined
  ): ProtocolFault.ProtocolFault | undefined {
    if (this.fault !== undefined) return this.fault
    const bytes = chunk instanceof Buffer ? chunk : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length)
    const position = this.headSize === 0 ? 0 : this.resume(bytes, onPacket)
    if (this.fault === undefined && position < bytes.length) this.frames(bytes, position, onPacket)
    return this.fault
  }

  get isBlank(): boolean {
    return this.fault === undefined && this.headSize === 0 && this.packets.isBlank
  }

  /** Decodes the frames that begin in this chunk, in place, and keeps the part of the last that is not complete. */
  private frames(
    bytes: Buffer,
    from: number,
    onPacket: (packet: ServerPacket) => ProtocolFault.ProtocolFault | undefined
  ): void {
    const end = bytes.length
    const packets = this.packets
    packets.open(bytes)
    let position = from
    while (position < end) {
      const headSize = this.header(bytes, position, end)
      if (headSize === 0) {
        if (this.fault === undefined) this.keepHead(bytes, position, end)
        break
      }
      const start = position + headSize
      const next = start + this.length
      if (next > end) {
        this.keepHead(bytes, position, start)
        this.beginBody(this.length, end - start)
        this.fillBody(bytes, start)
        break
      }
      const packet = packets.decode(bytes[position], start, next)
      this.fault = packet === undefined ? packets.fault : onPacket(packet)
      if (this.fault !== undefined) break
      position = next
    }
    packets.close()
  }

  /**
   * Reads a fixed header and judges it, before a byte of the body is looked at or has room made for it. Gives the
   * header's size, with the remaining length in `length`, or 0 where it is not complete or at fault.
   */
  private header(bytes: Uint8Array, start: number, end: number): number {
    const first = bytes[start]
    if (this.firstByteFaults[first] !== 0) {
      this.fault = firstByteFault(this.version, first)
      return 0
    }
    let length = 0
    let shift = 0
    let position = start + 1
    for (;;) {
      if (position === end) return 0
      const byte = bytes[position++]
      length |= (byte & 0x7f) << shift
      if (byte < 0x80) {
        // 3.1.1 never forbids the longer forms.
        if (byte === 0 && shift > 0 && this.version === 5) return this.failLength(first, "the fewest bytes possible")
        break
      }
      if (shift === 21) return this.failLength(first, "at most four bytes")
      shift += 7
    }
    const size = position - start
    if (size + length > this.maximumPacketSize) {
      const rule = `a packet has at most ${this.maximumPacketSize} bytes, as the client announced`
      this.fault = ProtocolFault.make(packetNames[first >> 4], "remaining length", rule, packetTooLarge)
      return 0
    }
    if (first >> 4 !== 3) {
      this.fault = this.lengthFault(first >> 4, length)
      if (this.fault !== undefined) return 0
    }
    this.length = length
    return size
  }

  private failLength(first: number, rule: string): number {
    const packet = packetNames[first >> 4]
    this.fault = ProtocolFault.make(packet, "remaining length", `a variable byte integer takes ${rule}`, malformed)
    return 0
  }

  /** The lengths that no content can make right. */
  private lengthFault(type: number, length: number): ProtocolFault.ProtocolFault | undefined {
    const packet = packetNames[type]
    if (type === 2 && this.version === 5 && length === 2) {
      const rule = "the server answered in the form of MQTT 3.1.1, without a property length"
      return ProtocolFault.make(packet, "protocol version", rule, malformed)
    }
    const exact = type === 13
      ? 0
      : this.version === 4 && type !== 9
      ? 2
      : -1
    return exact >= 0 && length !== exact
      ? ProtocolFault.make(packet, "remaining length", `the remaining length of this packet is ${exact}`, malformed)
      : undefined
  }

  // -------------------------------------------------------------------------
  // frames that span chunks
  // -------------------------------------------------------------------------

  /** Goes on with the frame begun earlier. Gives the position in the chunk behind what it took. */
  private resume(
    chunk: Uint8Array,
    onPacket: (packet: ServerPacket) => ProtocolFault.ProtocolFault | undefined
  ): number {
    let position = 0
    if (this.body === undefined) {
      let headSize = 0
      while (headSize === 0) {
        if (position === chunk.length || this.fault !== undefined) return position
        this.head[this.headSize++] = chunk[position++]
        headSize = this.header(this.head, 0, this.headSize)
      }
      this.beginBody(this.length, chunk.length - position)
    }
    position = this.fillBody(chunk, position)
    if (this.bodySize === this.bodyLength) {
      this.packets.open(this.body as unknown as Buffer)
      this.body = undefined
      this.headSize = 0
      const packet = this.packets.decode(this.head[0], 0, this.bodyLength)
      this.fault = packet === undefined ? this.packets.fault : onPacket(packet)
      this.packets.close()
    }
    return position
  }

  private keepHead(chunk: Uint8Array, start: number, end: number): void {
    this.headSize = end - start
    if (this.head === noBytes) this.head = new Uint8Array(5)
    for (let i = 0; i < this.headSize; i++) this.head[i] = chunk[start + i]
  }

  /** Makes room by what has arrived: an announced length alone reserves next to nothing. */
  private beginBody(length: number, available: number): void {
    this.body = Buffer.allocUnsafeSlow(Math.min(length, Math.max(eagerSize, 2 * available)))
    this.bodyLength = length
    this.bodySize = 0
  }

  private fillBody(chunk: Uint8Array, start: number): number {
    const taken = Math.min(this.bodyLength - this.bodySize, chunk.length - start)
    const size = this.bodySize + taken
    let body = this.body as Buffer
    if (size > body.length) {
      // Doubling copies each byte about once more, however small the chunks are.
      const larger = Buffer.allocUnsafeSlow(Math.min(this.bodyLength, Math.max(size, 2 * body.length)))
      larger.set(body.subarray(0, this.bodySize))
      this.body = body = larger
    }
    if (taken < 64) {
      for (let i = 0; i < taken; i++) body[this.bodySize + i] = chunk[start + i]
    } else {
      body.set(chunk.subarray(start, start + taken), this.bodySize)
    }
    this.bodySize = size
    return start + taken
  }
}
