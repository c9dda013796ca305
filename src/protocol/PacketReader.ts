/**
 * A cursor over the body of one packet: the data types of MQTT 5.0 §1.5 and its properties, read with every check.
 *
 * Failure is sticky. The first broken rule is kept in `fault`, the cursor jumps to its end, and every later read gives
 * an empty value; so a sequence of reads is written without branches, and asks for `fault` once, before it believes
 * anything that it has read. Strings are copies, binary data are views into the bytes that were given.
 *
 * @since 0.1.0
 */
import { Buffer } from "node:buffer"
import * as Property from "./Property.ts"
import * as ProtocolFault from "./ProtocolFault.ts"
import { StringCache } from "./StringCache.ts"
import * as Utf8 from "./Utf8.ts"

const malformed = 0x81
const protocolError = 0x82
const topicAliasInvalid = 0x94

/** Without bytes there is nothing that could be overwritten, so all may share it. */
export const emptyBytes: Uint8Array = new Uint8Array(0)

/** What a cursor stands on between chunks. */
export const noBytes: Buffer = Buffer.alloc(0)

/** The same, as words. */
export const noWords: DataView = new DataView(new ArrayBuffer(0))

/**
 * Where properties stand, and which may stand there.
 *
 * @category models
 * @since 0.1.0
 */
export interface PropertyPlace {
  /** By identifier; the bit is the property's own in the set of those seen. */
  readonly allowed: ReadonlyArray<{ readonly property: Property.Property; readonly bit: number } | undefined>
  /** Always the same keys in the same order, so that every packet of one type has one shape. */
  readonly empty: () => Record<string, unknown>
  /** Whether Request Problem Information 0 forbids reason strings and user properties here (MQTT 5.0 §3.1.2.11.7). */
  readonly problemInformation: boolean
}

/**
 * @category constructors
 * @since 0.1.0
 */
export const propertyPlace = (
  ids: ReadonlyArray<number>,
  empty: () => Record<string, unknown>,
  problemInformation: boolean
): PropertyPlace => {
  const allowed: Array<PropertyPlace["allowed"][number]> = new Array(128).fill(undefined)
  Property.all.forEach((property, index) => {
    if (ids.includes(property.id)) allowed[property.id] = { property, bit: 1 << index }
  })
  return { allowed, empty, problemInformation }
}

/**
 * What the reader must know of the connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface PacketReaderOptions {
  readonly topicAliasMaximum: number
  readonly requestProblemInformation: boolean
}

/**
 * @category decoding
 * @since 0.1.0
 */
export class PacketReader {
  fault: ProtocolFault.ProtocolFault | undefined = undefined
  position = 0
  private packet = "frame"
  private bytes: Buffer = noBytes
  private words: DataView = noWords
  /** Of the bytes: V8 makes calls of asking a view for it. */
  private buffer: ArrayBufferLike = noWords.buffer
  private offset = 0
  private end = 0
  private strings: StringCache | undefined = undefined
  private readonly topicAliasMaximum: number
  private readonly requestProblemInformation: boolean

  constructor(options: PacketReaderOptions) {
    this.topicAliasMaximum = options.topicAliasMaximum
    this.requestProblemInformation = options.requestProblemInformation
  }

  /** Reads from these bytes from now on; `words` are the same bytes. */
  open(bytes: Buffer, words: DataView): void {
    this.bytes = bytes
    this.words = words
    this.buffer = bytes.buffer
    this.offset = bytes.byteOffset
  }

  /** Moves on to the body of a packet. */
  begin(packet: string, start: number, end: number): void {
    this.packet = packet
    this.position = start
    this.end = end
  }

  fail(field: string, rule: string, reasonCode: number): undefined {
    this.fault ??= ProtocolFault.make(this.packet, field, rule, reasonCode)
    this.position = this.end
    return undefined
  }

  get remaining(): number {
    return this.end - this.position
  }

  uint8(field: string): number {
    if (this.remaining < 1) return this.cut(field)
    return this.bytes[this.position++]
  }

  uint16(field: string): number {
    if (this.remaining < 2) return this.cut(field)
    const at = this.position
    this.position = at + 2
    return this.bytes[at] << 8 | this.bytes[at + 1]
  }

  uint32(field: string): number {
    if (this.remaining < 4) return this.cut(field)
    const at = this.position
    this.position = at + 4
    const bytes = this.bytes
    return (bytes[at] << 24 | bytes[at + 1] << 16 | bytes[at + 2] << 8 | bytes[at + 3]) >>> 0
  }

  /** A variable byte integer in the fewest bytes possible (§1.5.5). */
  varint(field: string): number {
    let value = 0
    for (let shift = 0; shift < 28; shift += 7) {
      if (this.remaining < 1) return this.cut(field)
      const byte = this.bytes[this.position++]
      value |= (byte & 0x7f) << shift
      if (byte < 0x80) {
        if (byte === 0 && shift > 0) {
          this.fail(field, "a variable byte integer takes the fewest bytes possible", malformed)
          return 0
        }
        return value
      }
    }
    this.fail(field, "a variable byte integer has at most four bytes", malformed)
    return 0
  }

  string(field: string): string {
    const end = this.prefixed(field)
    const start = this.position
    this.position = end
    const text = Utf8.decode(this.bytes, start, end)
    if (text !== undefined) return text
    this.fail(field, Utf8.ruleBroken(this.bytes, start, end), malformed)
    return ""
  }

  /** A string that is likely to come again: those of a small vocabulary, such as a content type. */
  repeatedString(field: string): string {
    const end = this.prefixed(field)
    const start = this.position
    this.strings ??= new StringCache(256)
    const known = this.strings.get(this.words, start, end)
    if (known !== undefined) {
      this.position = end
      return known
    }
    this.position = start - 2
    const text = this.string(field)
    if (this.fault === undefined) this.strings.put(this.words, start, end, text)
    return text
  }

  binary(field: string): Uint8Array {
    const end = this.prefixed(field)
    const start = this.position
    this.position = end
    return this.view(start, end)
  }

  /** A plain `Uint8Array`, whatever subclass the chunk is of. */
  view(start: number, end: number): Uint8Array {
    if (start === end) return emptyBytes
    return new Uint8Array(this.buffer, this.offset + start, end - start)
  }

  packetId(): number {
    const id = this.uint16("packet identifier")
    if (id === 0) this.fail("packet identifier", "a packet identifier is not 0", protocolError)
    return id
  }

  /** The property length and what it covers; `undefined` where it is 0. */
  properties(place: PropertyPlace): Record<string, unknown> | undefined {
    const length = this.varint("property length")
    if (length === 0) return undefined
    if (length > this.remaining) return this.fail("property length", "it stays inside the packet", malformed)
    const packetEnd = this.end
    const properties = place.empty()
    this.end = this.position + length
    let seen = 0
    while (this.remaining > 0) seen = this.property(place, properties, seen)
    this.end = packetEnd
    if (this.fault !== undefined) this.position = packetEnd
    return properties
  }

  /** That the packet ends here. */
  ends(): void {
    if (this.remaining > 0) this.fail("remaining length", "nothing follows the last field of a packet", malformed)
  }

  private property(place: PropertyPlace, properties: Record<string, unknown>, seen: number): number {
    const id = this.bytes[this.position++]
    const entry = id < 128 ? place.allowed[id] : undefined
    if (entry === undefined) {
      const known = Property.byId.get(id)
      if (id === 0x11 && this.packet === "DISCONNECT") {
        this.fail("session expiry interval", "only a client sends it in DISCONNECT", protocolError)
      } else if (known !== undefined) this.fail(known.name, "this packet does not have this property", malformed)
      else this.fail("property identifier", "a property identifier is one of the standard's", malformed)
      return seen
    }
    const property = entry.property
    if (id === 0x26) {
      this.userProperty(place, properties)
    } else if (id === 0x0b) {
      this.subscriptionIdentifier(properties)
    } else if ((seen & entry.bit) !== 0) {
      this.fail(property.name, "this property occurs at most once", protocolError)
    } else {
      properties[property.key] = this.value(property)
      if (id === 0x1f) this.checkProblemInformation(place, property.name)
    }
    return seen | entry.bit
  }

  private value(property: Property.Property): unknown {
    switch (property.type) {
      case "string":
        if (property.id === 0x03) return this.repeatedString(property.name)
        if (property.id === 0x08) return this.responseTopic(property.name)
        return this.string(property.name)
      case "binary":
        return this.binary(property.name)
      case "byte":
        return this.flag(property)
      case "boolean":
        return this.flag(property) === 1
      case "uint16":
        return this.atLeast(property, this.uint16(property.name))
      default:
        return this.atLeast(property, this.uint32(property.name))
    }
  }

  private flag(property: Property.Property): number {
    const value = this.uint8(property.name)
    if (value > 1) this.fail(property.name, "its value is 0 or 1", protocolError)
    return value
  }

  private atLeast(property: Property.Property, value: number): number {
    if (property.id === 0x23 && (value === 0 || value > this.topicAliasMaximum)) {
      this.fail(property.name, "a topic alias is from 1 to the maximum that the client announced", topicAliasInvalid)
    } else if (value < property.min) {
      this.fail(property.name, `its value is not ${value}`, protocolError)
    }
    return value
  }

  private userProperty(place: PropertyPlace, properties: Record<string, unknown>): void {
    const name = this.repeatedString("user property")
    const value = this.string("user property")
    this.checkProblemInformation(place, "user property")
    const list = properties["userProperties"] as Array<readonly [string, string]> | undefined
    if (list === undefined) properties["userProperties"] = [[name, value]]
    else list.push([name, value])
  }

  private subscriptionIdentifier(properties: Record<string, unknown>): void {
    const id = this.varint("subscription identifier")
    if (id === 0) this.fail("subscription identifier", "a subscription identifier is not 0", protocolError)
    const list = properties["subscriptionIdentifiers"] as Array<number> | undefined
    if (list === undefined) properties["subscriptionIdentifiers"] = [id]
    else list.push(id)
  }

  private checkProblemInformation(place: PropertyPlace, field: string): void {
    if (place.problemInformation && !this.requestProblemInformation) {
      this.fail(field, "the client asked for no problem information", protocolError)
    }
  }

  private responseTopic(field: string): string {
    const topic = this.string(field)
    if (this.fault === undefined && (topic === "" || topic.includes("+") || topic.includes("#"))) {
      this.fail(field, "a topic name is not empty and has no wildcard", protocolError)
    }
    return topic
  }

  /** Reads a length of two bytes, and gives the position behind what it covers. */
  private prefixed(field: string): number {
    const length = this.uint16(field)
    if (length > this.remaining) {
      this.fail(field, "its length stays inside the packet", malformed)
      return this.position
    }
    return this.position + length
  }

  private cut(field: string): number {
    this.fail(field, "the packet does not end inside a field", malformed)
    return 0
  }
}
