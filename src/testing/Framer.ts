/**
 * Cuts a stream of bytes at MQTT control packets, by the fixed header alone (§2.1).
 *
 * The kit has a framer of its own, apart from the client's codec, so that one error is not on both ends of the wire.
 *
 * @since 0.1.0
 */
import { concat } from "./MemoryLink.ts"

/**
 * The fixed header: how long it is, and how long what follows it. `undefined` while it is not complete; a remaining length
 * whose fourth byte asks for a fifth is `malformed`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const fixedHeader = (
  bytes: Uint8Array
): { readonly headerLength: number; readonly remainingLength: number } | "malformed" | undefined => {
  let remainingLength = 0
  for (let index = 1; index <= 4; index++) {
    const byte = bytes[index]
    if (byte === undefined) return undefined
    remainingLength += (byte & 0x7f) * 128 ** (index - 1)
    if (byte < 0x80) return { headerLength: index + 1, remainingLength }
  }
  return "malformed"
}

/**
 * The length of the packet at the head of the bytes, or `undefined` while the fixed header is not complete. A malformed
 * header is a frame of its own five bytes.
 *
 * @category decoding
 * @since 0.1.0
 */
export const frameLength = (bytes: Uint8Array): number | undefined => {
  const header = fixedHeader(bytes)
  if (header === undefined) return undefined
  return header === "malformed" ? 5 : header.headerLength + header.remainingLength
}

/**
 * Collects chunks and gives whole packets.
 *
 * @category models
 * @since 0.1.0
 */
export interface Framer {
  /** The packets that are complete with this chunk, in order; `malformed` ends the stream. */
  readonly push: (chunk: Uint8Array) => ReadonlyArray<Uint8Array | "malformed">
  /** Bytes of a packet that is not complete. */
  readonly pendingBytes: number
}

/**
 * @category constructors
 * @since 0.1.0
 */
export const make = (): Framer => {
  let held: Array<Uint8Array> = []
  let heldBytes = 0
  let wanted = 2
  return {
    get pendingBytes() {
      return heldBytes
    },
    push(chunk) {
      held.push(chunk)
      heldBytes += chunk.length
      if (heldBytes < wanted) return []
      let bytes = held.length === 1 ? chunk : concat(held)
      const frames: Array<Uint8Array | "malformed"> = []
      while (true) {
        const header = fixedHeader(bytes)
        if (header === "malformed") return [...frames, "malformed"]
        const length = header === undefined ? undefined : header.headerLength + header.remainingLength
        if (length === undefined || bytes.length < length) {
          held = bytes.length === 0 ? [] : [bytes]
          heldBytes = bytes.length
          wanted = length ?? bytes.length + 1
          return frames
        }
        frames.push(bytes.subarray(0, length))
        bytes = bytes.subarray(length)
      }
    }
  }
}
