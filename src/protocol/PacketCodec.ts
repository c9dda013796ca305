/**
 * The wire format of both versions: `makeDecoder` for what a server sends, `makeEncoder` for what a client sends.
 *
 * Bytes and plain data only. Nothing here opens a socket, keeps the state of a session, or knows the time; faults are
 * data, and malformed input is never answered with an exception.
 *
 * @since 0.1.0
 */
export { makeDecoder } from "./PacketDecoder.ts"
export type { Decoder, DecoderOptions } from "./PacketDecoder.ts"
export { encodedSize, makeEncoder } from "./PacketEncoder.ts"
export type { EncodeFault, Encoder } from "./PacketEncoder.ts"
