/**
 * Writes the data types of MQTT 5.0 §1.5 and its properties, with every check that what is sent must pass.
 *
 * A packet is described once and run twice: the first run measures and judges, the second writes. So the exact size is
 * known before a byte is written, and the two cannot disagree. The first broken rule is kept in `fault`.
 *
 * @since 0.1.0
 */
import * as Property from "./Property.ts"
import * as Utf8 from "./Utf8.ts"

/**
 * @category constants
 * @since 0.1.0
 */
export const maximumVarint = 268_435_455

/**
 * The bytes that a variable byte integer takes (MQTT 5.0 §1.5.5).
 *
 * @category encoding
 * @since 0.1.0
 */
export const varintSize = (value: number): number => value < 128 ? 1 : value < 16_384 ? 2 : value < 2_097_152 ? 3 : 4

/**
 * Writes a variable byte integer in the fewest bytes, and returns the position behind it.
 *
 * @category encoding
 * @since 0.1.0
 */
export const writeVarint = (value: number, bytes: Uint8Array, position: number): number => {
  while (value > 127) {
    bytes[position++] = value & 0x7f | 0x80
    value >>>= 7
  }
  bytes[position++] = value
  return position
}

/**
 * Values of properties by their key, as the `...Properties` interfaces hold them.
 *
 * @category models
 * @since 0.1.0
 */
export type PropertyValues = Readonly<Record<string, unknown>>

/**
 * The properties of one place, in the order in which they are written.
 *
 * @category models
 * @since 0.1.0
 */
export type PropertyOrder = ReadonlyArray<Property.Property>

/**
 * @category constructors
 * @since 0.1.0
 */
export const propertyOrder = (ids: ReadonlyArray<number>): PropertyOrder =>
  Property.all.filter((property) => ids.includes(property.id))

const nothing = new Uint8Array(0)

/**
 * @category encoding
 * @since 0.1.0
 */
export class PacketWriter {
  /** The field at fault, and what is wrong with it, as a clause that begins with `must`. */
  fault: { readonly field: string; readonly problem: string } | undefined = undefined
  position = 0
  private measuring = true
  private bytes: Uint8Array = nothing
  // Property lengths stand before what they measure, so the second run takes them from the first.
  private readonly propertyLengths: Array<number> = []
  private nextPropertyLength = 0

  /** Begins the run that measures and judges; `position` counts from 0. */
  measure(): void {
    this.fault = undefined
    this.position = 0
    this.measuring = true
    this.propertyLengths.length = 0
  }

  /** Begins the run that writes. */
  write(bytes: Uint8Array, position: number): void {
    this.measuring = false
    this.bytes = bytes
    this.position = position
    this.nextPropertyLength = 0
  }

  /** Lets go of the bytes. */
  finish(): void {
    this.bytes = nothing
  }

  fail(field: string, problem: string): void {
    this.fault ??= { field, problem }
  }

  uint8(value: number): void {
    if (!this.measuring) this.bytes[this.position] = value
    this.position += 1
  }

  uint16(field: string, value: number, min = 0): void {
    if (this.measuring) {
      this.checkInteger(field, value, min, 65_535)
    } else {
      this.bytes[this.position] = value >>> 8
      this.bytes[this.position + 1] = value
    }
    this.position += 2
  }

  uint32(field: string, value: number, min = 0): void {
    if (this.measuring) {
      this.checkInteger(field, value, min, 4_294_967_295)
    } else {
      const bytes = this.bytes
      const position = this.position
      bytes[position] = value >>> 24
      bytes[position + 1] = value >>> 16
      bytes[position + 2] = value >>> 8
      bytes[position + 3] = value
    }
    this.position += 4
  }

  varint(field: string, value: number, min = 0): void {
    if (this.measuring) {
      this.checkInteger(field, value, min, maximumVarint)
      this.position += varintSize(value)
    } else {
      this.position = writeVarint(value, this.bytes, this.position)
    }
  }

  string(field: string, value: string): void {
    const length = typeof value === "string" ? Utf8.encodedLength(value) : 0
    if (this.measuring) {
      const problem = typeof value === "string" ? Utf8.problemOf(length) : "must be a string"
      if (problem !== undefined) this.fail(field, problem)
      this.position += 2 + length
    } else {
      const bytes = this.bytes
      const position = this.position
      bytes[position] = length >>> 8
      bytes[position + 1] = length
      this.position = Utf8.write(value, length, bytes, position + 2)
    }
  }

  topicName(field: string, value: string): void {
    if (this.measuring) {
      if (value === "") this.fail(field, "must not be empty")
      else if (typeof value === "string" && /[+#]/.test(value)) this.fail(field, "must not contain a wildcard")
    }
    this.string(field, value)
  }

  binary(field: string, value: Uint8Array): void {
    if (this.measuring) {
      if (!(value instanceof Uint8Array)) this.fail(field, "must be a Uint8Array")
      else if (value.length > 65_535) this.fail(field, `must have at most 65535 bytes, and has ${value.length}`)
      this.position += 2 + value.length
    } else {
      this.bytes[this.position] = value.length >>> 8
      this.bytes[this.position + 1] = value.length
      this.bytes.set(value, this.position + 2)
      this.position += 2 + value.length
    }
  }

  packetId(value: number): void {
    this.uint16("packetId", value, 1)
  }

  qos(field: string, value: number): void {
    if (this.measuring && value !== 0 && value !== 1 && value !== 2) this.fail(field, "must be 0, 1 or 2")
  }

  properties(path: string, order: PropertyOrder, values: PropertyValues | undefined): void {
    if (values === undefined) {
      this.uint8(0)
    } else if (this.measuring) {
      const index = this.propertyLengths.push(0) - 1
      const start = this.position
      for (const property of order) this.property(path, property, values[property.key])
      const length = this.position - start
      this.propertyLengths[index] = length
      this.position += varintSize(length)
    } else {
      this.position = writeVarint(this.propertyLengths[this.nextPropertyLength++], this.bytes, this.position)
      for (const property of order) this.property(path, property, values[property.key])
    }
  }

  private property(path: string, property: Property.Property, value: unknown): void {
    if (value === undefined) return
    const field = this.measuring ? `${path}.${property.key}` : ""
    if (property.type === "pair") return this.userProperties(field, value as ReadonlyArray<readonly [string, string]>)
    this.uint8(property.id)
    switch (property.type) {
      case "string":
        return property.id === 0x08
          ? this.topicName(field, value as string)
          : this.string(field, value as string)
      case "binary":
        return this.binary(field, value as Uint8Array)
      case "byte":
        if (this.measuring && value !== 0 && value !== 1) this.fail(field, "must be 0 or 1")
        return this.uint8(value as number)
      case "boolean":
        if (this.measuring && typeof value !== "boolean") this.fail(field, "must be a boolean")
        return this.uint8(value === true ? 1 : 0)
      case "uint16":
        return this.uint16(field, value as number, property.min)
      case "uint32":
        return this.uint32(field, value as number, property.min)
      case "varint":
        return this.varint(field, value as number, property.min)
    }
  }

  private userProperties(field: string, pairs: ReadonlyArray<readonly [string, string]>): void {
    if (this.measuring && !(Array.isArray(pairs) && pairs.every((pair) => Array.isArray(pair)))) {
      return this.fail(field, "must be an array of pairs of strings")
    }
    for (const [name, value] of pairs) {
      this.uint8(0x26)
      this.string(field, name)
      this.string(field, value)
    }
  }

  private checkInteger(field: string, value: number, min: number, max: number): void {
    if (!Number.isInteger(value) || value < min || value > max) {
      this.fail(field, `must be an integer from ${min} to ${max}`)
    }
  }
}
