/**
 * A server that does as little as a server can: it keeps nothing and checks nothing, acknowledges what asks for it, in one
 * write per read, and floods a connection on demand. So the client is what is measured.
 *
 *     node bench/client/FakeBroker.ts
 *
 * Prints the port it listens on. Ends when its standard input does.
 */
import { Buffer } from "node:buffer"
import type { AddressInfo, Socket } from "node:net"
import { createServer } from "node:net"
import { topicOf } from "./Task.ts"

const payloadByte = 0x61

/** The PUBLISH packets of a flood, one behind the other, and where their identifiers are. */
interface Packets {
  readonly bytes: Buffer
  readonly frames: ReadonlyArray<{ readonly start: number; readonly end: number; readonly id: number }>
}

const makePackets = (version: number, qos: number, size: number, topics: number): Packets => {
  const pieces: Array<Buffer> = []
  const frames: Array<{ start: number; end: number; id: number }> = []
  let at = 0
  for (let index = 0; index < topics || at < 65_536; index++) {
    const topic = Buffer.from(topicOf(index % topics))
    const body = 2 + topic.length + (qos > 0 ? 2 : 0) + (version === 5 ? 1 : 0) + size
    const header = [0x30 | qos << 1]
    for (let rest = body;; rest >>>= 7) {
      if (rest < 128) {
        header.push(rest)
        break
      }
      header.push(rest & 0x7f | 0x80)
    }
    const frame = Buffer.alloc(header.length + body, payloadByte)
    frame.set(header)
    frame.writeUInt16BE(topic.length, header.length)
    frame.set(topic, header.length + 2)
    const id = header.length + 2 + topic.length
    if (qos > 0) frame.writeUInt16BE(0, id)
    if (version === 5) frame[id + (qos > 0 ? 2 : 0)] = 0
    pieces.push(frame)
    frames.push({ start: at, end: at + frame.length, id: at + id })
    at += frame.length
  }
  return { bytes: Buffer.concat(pieces), frames }
}

class Session {
  readonly #socket: Socket
  #rest: Buffer | undefined
  #version = 4
  #receiveMaximum = 65_535
  #acks: Buffer = Buffer.allocUnsafeSlow(65_536)
  #acksSize = 0
  #packets: Packets | undefined
  #qos = 0
  #next = 0
  #id = 0
  /** Messages that may be under way to the client. */
  #credit = 0

  constructor(socket: Socket) {
    this.#socket = socket
    socket.setNoDelay(true)
    socket.on("error", () => {})
    socket.on("data", (chunk: Buffer) => this.#onData(chunk))
    socket.on("drain", () => this.#flood())
  }

  #onData(next: Buffer): void {
    const chunk = this.#rest === undefined ? next : Buffer.concat([this.#rest, next])
    this.#rest = undefined
    const end = chunk.length
    let at = 0
    while (at < end) {
      let position = at + 1
      let length = 0
      let shift = 0
      let byte = 0x80
      while (byte > 127 && position < end) {
        byte = chunk[position++]!
        length |= (byte & 0x7f) << shift
        shift += 7
      }
      if (byte > 127 || position + length > end) {
        this.#rest = chunk.subarray(at)
        break
      }
      this.#onPacket(chunk[at]!, chunk, position, position + length)
      at = position + length
    }
    if (this.#acksSize > 0) {
      this.#socket.write(this.#acks.subarray(0, this.#acksSize))
      this.#acks = Buffer.allocUnsafeSlow(65_536)
      this.#acksSize = 0
    }
    if (this.#qos > 0) this.#flood()
  }

  #onPacket(first: number, chunk: Buffer, start: number, end: number): void {
    switch (first >> 4) {
      case 3: {
        const topicEnd = start + 2 + (chunk[start]! << 8 | chunk[start + 1]!)
        const qos = first >> 1 & 3
        if (qos > 0) this.#ack(qos === 1 ? 0x40 : 0x50, chunk[topicEnd]!, chunk[topicEnd + 1]!)
        else if (chunk[start + 2] === 0x24) this.#onCommand(chunk.toString("latin1", start + 2, topicEnd))
        return
      }
      case 4:
      case 7:
        this.#credit++
        return
      case 5:
        return this.#ack(0x62, chunk[start]!, chunk[start + 1]!)
      case 6:
        return this.#ack(0x70, chunk[start]!, chunk[start + 1]!)
      case 1:
        return this.#onConnect(chunk, start)
      case 8:
      case 10:
        return this.#onSubscribe(first, chunk, start, end)
      case 12:
        this.#socket.write(Buffer.from([0xd0, 0]))
        return
      case 14:
        this.#socket.end()
    }
  }

  #ack(first: number, high: number, low: number): void {
    if (this.#acksSize + 4 > this.#acks.length) {
      this.#socket.write(this.#acks.subarray(0, this.#acksSize))
      this.#acks = Buffer.allocUnsafeSlow(65_536)
      this.#acksSize = 0
    }
    const acks = this.#acks
    acks[this.#acksSize++] = first
    acks[this.#acksSize++] = 2
    acks[this.#acksSize++] = high
    acks[this.#acksSize++] = low
  }

  #onConnect(chunk: Buffer, start: number): void {
    this.#version = chunk[start + 6]!
    // The properties that come before Receive Maximum in a CONNECT of these peers have five bytes or three.
    for (let at = start + 11; this.#version === 5 && at < start + 11 + chunk[start + 10]!;) {
      if (chunk[at] === 0x21) this.#receiveMaximum = chunk.readUInt16BE(at + 1)
      at += chunk[at] === 0x11 || chunk[at] === 0x27 ? 5 : chunk[at] === 0x17 || chunk[at] === 0x19 ? 2 : 3
    }
    this.#socket.write(Buffer.from(this.#version === 5 ? [0x20, 3, 0, 0, 0] : [0x20, 2, 0, 0]))
  }

  #onSubscribe(first: number, chunk: Buffer, start: number, end: number): void {
    const codes: Array<number> = []
    const isSubscribe = first >> 4 === 8
    for (let at = start + 2 + (this.#version === 5 ? 1 + chunk[start + 2]! : 0); at < end;) {
      const filterEnd = at + 2 + chunk.readUInt16BE(at)
      // Who cannot publish asks by a subscription.
      if (chunk[at + 2] === 0x24) {
        setImmediate((topic: string) => this.#onCommand(topic), chunk.toString("latin1", at + 2, filterEnd))
      }
      at = filterEnd
      codes.push(isSubscribe ? chunk[at++]! & 3 : 0)
    }
    if (!isSubscribe && this.#version === 4) codes.length = 0
    const length = 2 + (this.#version === 5 ? 1 : 0) + codes.length
    const header = length < 128 ? [length] : [length & 0x7f | 0x80, length >> 7]
    this.#socket.write(Buffer.from([
      isSubscribe ? 0x90 : 0xb0,
      ...header,
      chunk[start]!,
      chunk[start + 1]!,
      ...this.#version === 5 ? [0] : [],
      ...codes
    ]))
  }

  #onCommand(topic: string): void {
    const [, command, qos, size, topics, window] = topic.split("/")
    if (command !== "flood") return
    this.#qos = Number(qos)
    this.#packets = makePackets(this.#version, this.#qos, Number(size), Number(topics))
    this.#credit = Math.min(Number(window), this.#receiveMaximum)
    this.#flood()
  }

  #flood(): void {
    const packets = this.#packets
    if (packets === undefined || this.#socket.destroyed) return
    if (this.#qos === 0) {
      while (this.#socket.write(packets.bytes));
      return
    }
    while (this.#credit > 0) {
      const { frames } = packets
      const count = Math.min(this.#credit, frames.length - this.#next)
      const { start } = frames[this.#next]!
      const { end } = frames[this.#next + count - 1]!
      const bytes = Buffer.allocUnsafeSlow(end - start)
      packets.bytes.copy(bytes, 0, start, end)
      for (let index = this.#next; index < this.#next + count; index++) {
        this.#id = this.#id === 65_535 ? 1 : this.#id + 1
        const at = frames[index]!.id - start
        bytes[at] = this.#id >> 8
        bytes[at + 1] = this.#id
      }
      this.#next = (this.#next + count) % frames.length
      this.#credit -= count
      this.#socket.write(bytes)
    }
  }
}

const server = createServer({ highWaterMark: 65_536 }, (socket) => void new Session(socket))
server.listen(0, "127.0.0.1", 2048, () => {
  process.stdout.write(`${(server.address() as AddressInfo).port}\n`)
})
process.stdin.on("end", () => process.exit(0)).resume()
