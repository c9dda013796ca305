import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import mqttPacket from "mqtt-packet"
import type * as Net from "node:net"
import * as MqttClient from "../../../src/layers/MqttClient.ts"
import * as NodeTransport from "../../../src/layers/transport/NodeTransport.ts"
import { Transport } from "../../../src/services/Transport.ts"
import { Random } from "../../protocol/support/PacketGenerator.ts"
import { listen } from "../../support/Sockets.ts"

/** A server that takes the connection, and stops reading again and again; gives what is published until there is so much. */
const serve = (socket: Net.Socket, version: 4 | 5, count: number) =>
  Effect.callback<ReadonlyArray<mqttPacket.IPublishPacket>>((resume) => {
    const published: Array<mqttPacket.IPublishPacket> = []
    const parser = mqttPacket.parser({ protocolVersion: version })
    parser.on("packet", (packet) => {
      if (packet.cmd === "connect") {
        socket.write(mqttPacket.generate({ cmd: "connack", returnCode: 0, reasonCode: 0, sessionPresent: false }, {
          protocolVersion: version
        }))
      }
      if (packet.cmd !== "publish") return
      published.push(packet)
      if (packet.qos > 0) {
        socket.write(mqttPacket.generate({ cmd: "puback", messageId: packet.messageId! }, { protocolVersion: version }))
      }
      if (published.length % 1000 === 0) {
        socket.pause()
        let turns = 300
        const wait = () => turns-- > 0 ? void setImmediate(wait) : void socket.resume()
        wait()
      }
      if (published.length === count) resume(Effect.succeed(published))
    })
    socket.on("data", (chunk) => void parser.parse(chunk))
    socket.resume()
  })

describe("publishAll over a socket", () => {
  for (const version of [4, 5] as const) {
    it.live(`writes every byte as it was, though memory is used again and the peer stops at times (MQTT ${version})`, () =>
      Effect.gen(function*() {
        const { accept, port } = yield* listen()
        const count = 12_000
        const serving = yield* Effect.forkChild(Effect.flatMap(accept, (socket) => serve(socket, version, count)))
        const client = yield* MqttClient.make({
          endpoint: `mqtt://127.0.0.1:${port}`,
          protocolVersion: version,
          reconnect: false,
          outbox: { maxMessages: count, maxBytes: 1 << 28 }
        }).pipe(
          // So high that the writer goes on while the socket still holds what it wrote before.
          Effect.provideService(Transport, NodeTransport.make({ writeHighWaterMark: 1 << 20 }))
        )
        const random = new Random(version)
        const messages = Array.from({ length: count }, (_, index) => {
          const payload = new Uint8Array(4 + random.pick([0, 20, 200, 12_000]))
          new DataView(payload.buffer).setUint32(0, index)
          payload.fill(index & 0xff, 4)
          return { topic: `t/${index % 50}`, payload, qos: random.pick([0, 0, 0, 1] as const) }
        })
        yield* client.publishAll(messages)
        const published = yield* Fiber.join(serving)
        for (const [index, { payload, topic }] of published.entries()) {
          const expected = messages[index]!
          assert.strictEqual(topic, expected.topic)
          assert.isTrue(Buffer.compare(payload as Buffer, expected.payload) === 0, `message ${index}`)
        }
      }))
  }
})
