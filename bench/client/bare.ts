/**
 * The limit: plain loops over a socket that speak just enough MQTT. They check nothing, keep nothing of a message, know no
 * reconnect, and have one caller.
 */
import { Buffer } from "node:buffer"
import type { Socket } from "node:net"
import { connect } from "node:net"
import { answer, filter, floodTopic, Meter, payloadOf, quantiles, readTask, topicOf, topics } from "./Task.ts"

const task = readTask()
const { qos, version, window } = task
const slabSize = 65_536 + task.size + 128

interface FastBuffer extends Buffer {
  latin1Write(text: string, offset: number): number
  latin1Slice(start: number, end: number): string
}

/** Packets on their way into one write. */
class Slab {
  bytes = Buffer.allocUnsafeSlow(slabSize) as FastBuffer
  at = 0

  publish(topic: string, payload: Uint8Array, packetId: number): void {
    const { bytes } = this
    const length = 2 + topic.length + (qos > 0 ? 2 : 0) + (version === 5 ? 1 : 0) + payload.length
    let at = this.at
    bytes[at++] = 0x30 | (packetId === 0 ? 0 : qos << 1)
    let rest = packetId === 0 && qos > 0 ? length - 2 : length
    while (rest > 127) {
      bytes[at++] = rest & 0x7f | 0x80
      rest >>>= 7
    }
    bytes[at++] = rest
    bytes[at++] = topic.length >> 8
    bytes[at++] = topic.length
    at += bytes.latin1Write(topic, at)
    if (packetId > 0) {
      bytes[at++] = packetId >> 8
      bytes[at++] = packetId
    }
    if (version === 5) bytes[at++] = 0
    bytes.set(payload, at)
    this.at = at + payload.length
  }

  short(first: number, packetId: number): void {
    const { bytes } = this
    bytes[this.at++] = first
    bytes[this.at++] = 2
    bytes[this.at++] = packetId >> 8
    bytes[this.at++] = packetId
  }

  get isFull(): boolean {
    return this.at >= 65_536
  }

  flush(socket: Socket): boolean {
    if (this.at === 0) return true
    const taken = socket.write(this.bytes.subarray(0, this.at))
    this.bytes = Buffer.allocUnsafeSlow(slabSize) as FastBuffer
    this.at = 0
    return taken
  }
}

const slab = new Slab()
const payload = payloadOf(task.size)
const socket = connect({ port: task.port, host: "127.0.0.1", noDelay: true })

const connectPacket = (): Buffer => {
  const id = Buffer.from(`bare-${process.pid}`)
  const properties = version === 5 ? [0] : []
  const body = Buffer.from([0, 4, 0x4d, 0x51, 0x54, 0x54, version, 2, 0, 0, ...properties, 0, id.length, ...id])
  return Buffer.from([0x10, body.length, ...body])
}

const subscribePacket = (text: string): Buffer => {
  const bytes = Buffer.from(text)
  const properties = version === 5 ? [0] : []
  const body = Buffer.from([0, 1, ...properties, 0, bytes.length, ...bytes, qos])
  return Buffer.from([0x82, body.length, ...body])
}

/** Calls `onPacket` for each packet of what arrives, and `onEnd` when what has arrived is handled. */
const read = (
  onPacket: (first: number, chunk: FastBuffer, start: number, end: number) => void,
  onEnd: () => void
): void => {
  let rest: Buffer | undefined
  socket.on("data", (next: Buffer) => {
    const chunk = (rest === undefined ? next : Buffer.concat([rest, next])) as FastBuffer
    rest = undefined
    const { length: size } = chunk
    let at = 0
    while (at < size) {
      let position = at + 1
      let length = 0
      let shift = 0
      let byte = 0x80
      while (byte > 127 && position < size) {
        byte = chunk[position++]!
        length |= (byte & 0x7f) << shift
        shift += 7
      }
      if (byte > 127 || position + length > size) {
        rest = chunk.subarray(at)
        break
      }
      onPacket(chunk[at]!, chunk, position, position + length)
      at = position + length
    }
    onEnd()
  })
}

const publish = (): void => {
  const meter = new Meter(task, answer)
  let done = 0
  let sent = 0
  let nextId = 0
  const fill = (): void => {
    while (!slab.isFull && sent - done < window) {
      nextId = nextId === 65_535 ? 1 : nextId + 1
      slab.publish(topics[sent & 63]!, payload, nextId)
      sent++
    }
    slab.flush(socket)
  }
  const flood = (): void => {
    do {
      while (!slab.isFull) slab.publish(topics[sent++ & 63]!, payload, 0)
      meter.tick(sent)
    } while (slab.flush(socket) && !meter.isOver)
  }
  read((first, chunk, start) => {
    switch (first >> 4) {
      case 2:
        meter.begin()
        if (qos === 0) flood()
        else fill()
        return
      case 4:
      case 7:
        done++
        return
      case 5:
        slab.short(0x62, chunk[start]! << 8 | chunk[start + 1]!)
    }
  }, () => {
    if (qos === 0) return
    meter.tick(done)
    if (!meter.isOver) fill()
  })
  if (qos === 0) socket.on("drain", flood)
}

const receive = (): void => {
  const meter = new Meter(task, answer)
  let count = 0
  let characters = 0
  read((first, chunk, start) => {
    switch (first >> 4) {
      case 3: {
        const topicEnd = start + 2 + (chunk[start]! << 8 | chunk[start + 1]!)
        characters += chunk.latin1Slice(start + 2, topicEnd).length
        count++
        if (qos > 0) slab.short(qos === 1 ? 0x40 : 0x50, chunk[topicEnd]! << 8 | chunk[topicEnd + 1]!)
        return
      }
      case 6:
        slab.short(0x70, chunk[start]! << 8 | chunk[start + 1]!)
        return
      case 2:
        socket.write(subscribePacket(filter))
        return
      case 9:
        meter.begin()
        if (!task.flooded) slab.publish(floodTopic(task), new Uint8Array(0), 0)
    }
  }, () => {
    slab.flush(socket)
    if (characters >= 0) meter.tick(count)
  })
}

const roundTrip = (): void => {
  const sentAt = new Float64Array(65_536)
  const millis: Array<number> = []
  const begin = performance.now()
  let nextId = 0
  const send = (): void => {
    nextId = nextId === 65_535 ? 1 : nextId + 1
    sentAt[nextId] = performance.now()
    slab.publish(topicOf(0), payload, nextId)
  }
  read((first, chunk, start) => {
    if (first >> 4 === 2) {
      for (let index = 0; index < window; index++) send()
    } else if (first >> 4 === 4) {
      const now = performance.now()
      if (now - begin > task.warmupMillis) millis.push(now - sentAt[chunk[start]! << 8 | chunk[start + 1]!]!)
      send()
    }
  }, () => {
    const seconds = (performance.now() - begin - task.warmupMillis) / 1000
    if (seconds * 1000 < task.measureMillis) slab.flush(socket)
    else answer({ messages: millis.length, seconds, cpuMicros: 0, extra: quantiles(millis) })
  })
}

switch (task.kind) {
  case "publish":
    publish()
    break
  case "receive":
    receive()
    break
  case "roundtrip":
    roundTrip()
    break
  default:
    throw new Error(`the bare loop has no ${task.kind}`)
}
socket.write(connectPacket())
