/**
 * Bytes as people write them in tests: `20 03 00 00 00`.
 *
 * @since 0.1.0
 */

/**
 * Reads pairs of hexadecimal digits; white space between them means nothing.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (hex: string): Uint8Array => {
  const digits = hex.replace(/\s+/g, "")
  if (!/^([0-9a-fA-F]{2})*$/.test(digits)) throw new TypeError(`not pairs of hexadecimal digits: "${hex}"`)
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16))
}

/**
 * Writes each byte as two lower-case digits, with a space between.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (bytes: Uint8Array): string =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ")
