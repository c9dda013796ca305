/**
 * UTF-8 as MQTT wants it (MQTT 5.0 §1.5.4, MQTT 3.1.1 §1.5.3): well-formed, without U+0000, and with a leading U+FEFF
 * kept. The platform's encoder replaces lone surrogates and its decoder strips a BOM, each without a word, so both are
 * fenced in here.
 *
 * @since 0.1.0
 */
import { isUtf8 } from "node:buffer"
import type { Buffer } from "node:buffer"

/** What `encodedLength` answers for a string that must not be sent. */
const LoneSurrogate = -1
const NullCharacter = -2

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
const encoder = new TextEncoder()

/**
 * The bytes that the string takes in UTF-8, or a negative number where MQTT has no place for it: `-1` with a surrogate
 * that has no partner, `-2` with U+0000.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodedLength = (text: string): number => {
  let length = text.length
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    if (unit < 0x80) {
      if (unit === 0) return NullCharacter
    } else if (unit < 0x800) {
      length += 1
    } else if (unit < 0xd800 || unit > 0xdfff) {
      length += 2
    } else {
      // A pair is two units and four bytes.
      const next = unit < 0xdc00 ? text.charCodeAt(i + 1) : 0
      if (!(next >= 0xdc00 && next <= 0xdfff)) return LoneSurrogate
      length += 2
      i++
    }
  }
  return length
}

/**
 * Why a string with this `encodedLength` cannot be sent, as a clause that begins with `must`, or `undefined` where it
 * can.
 *
 * @category encoding
 * @since 0.1.0
 */
export const problemOf = (encodedLength: number): string | undefined =>
  encodedLength === LoneSurrogate
    ? "must not contain a lone surrogate, which UTF-8 cannot express"
    : encodedLength === NullCharacter
    ? "must not contain U+0000"
    : encodedLength > 65535
    ? `must have at most 65535 bytes in UTF-8, and has ${encodedLength}`
    : undefined

/**
 * Writes a string that `encodedLength` has measured, and returns the position behind it.
 *
 * @category encoding
 * @since 0.1.0
 */
export const write = (text: string, encodedLength: number, bytes: Uint8Array, position: number): number => {
  // A call of `encodeInto` costs as much as some fifty turns of the loop.
  if (encodedLength === text.length && encodedLength < 64) {
    for (let i = 0; i < encodedLength; i++) bytes[position + i] = text.charCodeAt(i)
  } else {
    encoder.encodeInto(text, bytes.subarray(position, position + encodedLength))
  }
  return position + encodedLength
}

/**
 * Whether the bytes are well-formed UTF-8; U+0000 is.
 *
 * @category decoding
 * @since 0.1.0
 */
export const isWellFormed = (bytes: Uint8Array): boolean => isUtf8(bytes)

/**
 * The text of a range of bytes, or `undefined` where they are ill-formed or contain U+0000.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Buffer, start: number, end: number): string | undefined => {
  let bits = 0
  for (let i = start; i < end; i++) {
    const byte = bytes[i]
    if (byte === 0) return undefined
    bits |= byte
  }
  return bits < 0x80 ? decodeAscii(bytes, start, end) : decodeAny(bytes, start, end)
}

/**
 * The text of a range of bytes that are known to be ASCII.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeAscii = (bytes: Buffer, start: number, end: number): string =>
  end - start <= 16 ? decodeShort(bytes, start, end) : bytes.toString("latin1", start, end)

/**
 * The text of a range of bytes, or `undefined` where they are ill-formed. U+0000 passes.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeAny = (bytes: Uint8Array, start: number, end: number): string | undefined => {
  try {
    return decoder.decode(bytes.subarray(start, end))
  } catch {
    return undefined
  }
}

/**
 * The rule that a range of bytes breaks for which `decode` gave `undefined`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const ruleBroken = (bytes: Uint8Array, start: number, end: number): string =>
  isUtf8(bytes.subarray(start, end)) ? "a string does not contain U+0000" : "a string is well-formed UTF-8"

/** For up to 16 bytes of ASCII: a call into the platform costs more than the characters. */
const decodeShort = (bytes: Uint8Array, start: number, end: number): string => {
  const length = end - start
  if (length < 8) return fromLessThanEight(bytes, start, length)
  // Two strings of together more than twelve characters would stay two strings, with a third to hold them.
  return length > 12
    ? fromMoreThanTwelve(bytes, start, length)
    : fromEight(bytes, start) + fromLessThanEight(bytes, start + 8, length - 8)
}

const char = String.fromCharCode

const fromEight = (b: Uint8Array, i: number): string =>
  char(b[i], b[i + 1], b[i + 2], b[i + 3], b[i + 4], b[i + 5], b[i + 6], b[i + 7])

const fromLessThanEight = (b: Uint8Array, i: number, length: number): string => {
  switch (length) {
    case 0:
      return ""
    case 1:
      return char(b[i])
    case 2:
      return char(b[i], b[i + 1])
    case 3:
      return char(b[i], b[i + 1], b[i + 2])
    case 4:
      return char(b[i], b[i + 1], b[i + 2], b[i + 3])
    case 5:
      return char(b[i], b[i + 1], b[i + 2], b[i + 3], b[i + 4])
    case 6:
      return char(b[i], b[i + 1], b[i + 2], b[i + 3], b[i + 4], b[i + 5])
    default:
      return char(b[i], b[i + 1], b[i + 2], b[i + 3], b[i + 4], b[i + 5], b[i + 6])
  }
}

const fromMoreThanTwelve = (b: Uint8Array, i: number, length: number): string => {
  // dprint-ignore
  switch (length) {
    case 13:
      return char(
        b[i], b[i + 1], b[i + 2], b[i + 3], b[i + 4], b[i + 5], b[i + 6], b[i + 7],
        b[i + 8], b[i + 9], b[i + 10], b[i + 11], b[i + 12]
      )
    case 14:
      return char(
        b[i], b[i + 1], b[i + 2], b[i + 3], b[i + 4], b[i + 5], b[i + 6], b[i + 7],
        b[i + 8], b[i + 9], b[i + 10], b[i + 11], b[i + 12], b[i + 13]
      )
    case 15:
      return char(
        b[i], b[i + 1], b[i + 2], b[i + 3], b[i + 4], b[i + 5], b[i + 6], b[i + 7],
        b[i + 8], b[i + 9], b[i + 10], b[i + 11], b[i + 12], b[i + 13], b[i + 14]
      )
    default:
      return char(
        b[i], b[i + 1], b[i + 2], b[i + 3], b[i + 4], b[i + 5], b[i + 6], b[i + 7],
        b[i + 8], b[i + 9], b[i + 10], b[i + 11], b[i + 12], b[i + 13], b[i + 14], b[i + 15]
      )
  }
}
