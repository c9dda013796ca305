/**
 * Copies payloads out of the chunk that they came in, so that a small message that is kept does not keep a chunk of 64 KiB.
 *
 * A buffer for each payload costs more than all the rest of a small message, so neighbours share one, of 8 KiB at most: it is
 * copied at once, with what stands between them.
 *
 * @since 0.1.0
 */

/** Bytes that payloads share. */
const pieceBytes = 8192
/** Larger ones have a buffer of their own. */
const largestShared = 1024
/** The rest of a chunk from which on sharing pays. */
const smallestPiece = 256

const noBytes = new Uint8Array(0)

/**
 * The payloads of one chunk after the other.
 *
 * @category decoding
 * @since 0.1.0
 */
export class PayloadCopies {
  private chunk: Uint8Array = noBytes
  private piece: ArrayBufferLike = noBytes.buffer
  private pieceStart = 0
  private pieceEnd = 0

  /** Copies out of this chunk from now on; a plain `Uint8Array`. */
  open(chunk: Uint8Array): void {
    this.chunk = chunk
    this.pieceEnd = 0
  }

  /** Lets go of the chunk. */
  close(): void {
    this.chunk = noBytes
    this.piece = noBytes.buffer
    this.pieceEnd = 0
  }

  /** Payloads are asked for in the order in which they stand in the chunk. */
  copy(start: number, end: number): Uint8Array {
    if (end <= this.pieceEnd) return new Uint8Array(this.piece, start - this.pieceStart, end - start)
    if (start === end) return noBytes
    const pieceEnd = Math.min(start + pieceBytes, this.chunk.length)
    if (end - start > largestShared || pieceEnd - start < smallestPiece || pieceEnd === end) {
      return this.chunk.slice(start, end)
    }
    this.piece = this.chunk.slice(start, pieceEnd).buffer
    this.pieceStart = start
    this.pieceEnd = pieceEnd
    return new Uint8Array(this.piece, 0, end - start)
  }
}
