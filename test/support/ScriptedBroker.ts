/**
 * A server that a test plays by hand, byte by byte, on `MemoryNetwork`: the first steps of a connection, and what every such
 * test says again and again. It decides nothing; a broker that does is `TestBroker`.
 */
import { assert } from "@effect/vitest"
import { Effect, Exit, Fiber, Random, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import mqttPacket from "mqtt-packet"
import * as MqttClient from "../../src/layers/MqttClient.ts"
import type { Status } from "../../src/services/Status.ts"
import type { Transport } from "../../src/services/Transport.ts"
import * as Framer from "../../src/testing/Framer.ts"
import { Hex, MemoryNetwork } from "../../src/testing/index.ts"

export type Peer = MemoryNetwork.Peer

/** CONNACK with code 0 and no properties, by version. */
export const accepted = { 4: "20 02 00 00", 5: "20 03 00 00 00" } as const
/** CONNACK with Session Present. */
export const resumed = { 4: "20 02 01 00", 5: "20 03 01 00 00" } as const

/** Provides the network and a scope. */
export const run = <A, E>(effect: Effect.Effect<A, E, MemoryNetwork.MemoryNetwork | Transport | Scope.Scope>) =>
  Effect.provide(Effect.scoped(effect), MemoryNetwork.layer)

/** The same where chance has the packet identifiers of an adopted session begin at 1. */
export const runFromOne: typeof run = (effect) =>
  Effect.provideService(run(effect), Random.Random, { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => 0 })

/** Forks and lets the fiber run until it suspends. */
export const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

/** The next packet of the client as `c0 00`. */
export const next = (peer: Peer) => Effect.map(peer.readFrame, Hex.encode)

/** The next packets of the client have to be these. */
export const expectPackets = Effect.fnUntraced(function*(peer: Peer, ...packets: ReadonlyArray<string>) {
  for (const packet of packets) assert.strictEqual(yield* next(peer), packet.toLowerCase())
})

/** Reads until the client ends its side; gives the packets before that, and how it ended. */
export const readToEnd = Effect.fnUntraced(function*(peer: Peer) {
  const packets: Array<string> = []
  while (true) {
    const packet = yield* Effect.result(next(peer))
    if (packet._tag === "Failure") return { packets, how: packet.failure.how }
    packets.push(packet.success)
  }
})

/** Takes the next connection and its CONNECT, and answers with `connack`. */
export const handshake = Effect.fnUntraced(function*(listener: MemoryNetwork.Listener, connack: string = accepted[5]) {
  const peer = yield* listener.accept
  const connect = yield* next(peer)
  yield* peer.sendHex(connack)
  return Object.assign(peer, { connect })
})

/** What the scripted server is like; see `MemoryNetwork.ListenOptions`. */
export interface ServerOptions extends MemoryNetwork.ListenOptions {
  readonly connack?: string | undefined
}

/**
 * A client in a scope of its own that is connected to a server at `mqtt://broker`. What it still does when the test ends
 * costs no virtual time, since the server resets its connections then.
 */
export const open = Effect.fnUntraced(function*(
  options: Partial<MqttClient.ClientOptions> = {},
  { connack = accepted[options.protocolVersion ?? 5], ...server }: ServerOptions = {}
) {
  const network = yield* MemoryNetwork.MemoryNetwork
  const listener = yield* network.listen({ host: "broker", ...server })
  const scope = yield* Scope.make()
  yield* Effect.addFinalizer((exit) => Scope.close(scope, exit))
  yield* Effect.addFinalizer(() =>
    Effect.forEach(listener.peers, (peer) => Effect.andThen(peer.heal, peer.reset), { discard: true })
  )
  const building = yield* start(Scope.provide(MqttClient.make({ endpoint: "mqtt://broker", ...options }), scope))
  // Options that are refused never come to a handshake.
  const peer = yield* Effect.raceFirst(handshake(listener, connack), Effect.andThen(Fiber.join(building), Effect.never))
  const client = yield* Fiber.join(building)
  const close = (exit: Exit.Exit<unknown, unknown> = Exit.void) => Scope.close(scope, exit)
  return { network, listener, client, peer, close }
})

/** Resumes a client whose server answers with `connack`. */
export const resume = Effect.fnUntraced(function*(
  client: MqttClient.MqttClientService,
  listener: MemoryNetwork.Listener,
  connack: string = accepted[5]
) {
  const resuming = yield* start(client.resume)
  const peer = yield* handshake(listener, connack)
  return { peer, negotiated: yield* Fiber.join(resuming) }
})

/** Lets a week pass, in which nobody may touch the network. */
export const quietWeek = Effect.fnUntraced(function*(network: MemoryNetwork.MemoryNetwork["Service"]) {
  yield* network.settle
  const { activity, dials: { length } } = network
  yield* TestClock.adjust("7 days")
  yield* network.settle
  assert.strictEqual(network.activity, activity)
  assert.strictEqual(network.dials.length, length)
  assert.strictEqual(network.openConnections, 0)
})

/** Waits until the status has this tag, and gives it. */
export const awaitStatus = <Tag extends Status["_tag"]>(client: MqttClient.MqttClientService, tag: Tag) =>
  client.statusChanges.pipe(
    Stream.filter((status): status is Extract<Status, { readonly _tag: Tag }> => status._tag === tag),
    Stream.runHead,
    Effect.flatMap(Effect.fromOption)
  )

/** The present status and those that follow, as they come. */
export const watchStatus = Effect.fnUntraced(function*(client: MqttClient.MqttClientService) {
  const seen: Array<Status> = []
  yield* start(Stream.runForEach(client.statusChanges, (status) => Effect.sync(() => seen.push(status))))
  return seen as ReadonlyArray<Status>
})

/** Sends packets in one segment, made by a codec that is not ours. */
export const send = (peer: Peer, version: 4 | 5, ...packets: ReadonlyArray<mqttPacket.Packet>) =>
  peer.send(Buffer.concat(packets.map((packet) => mqttPacket.generate(packet, { protocolVersion: version }))))

/** A PUBLISH of the server; its payload is its topic unless it is given. */
export const message = (
  topic: string,
  id = 0,
  rest: Partial<mqttPacket.IPublishPacket> = {}
): mqttPacket.IPublishPacket => ({
  cmd: "publish",
  topic,
  messageId: id,
  qos: id === 0 ? 0 : 1,
  dup: false,
  retain: false,
  payload: topic,
  ...rest
})

/** A packet of the client in words, as a codec that is not ours reads it: `subscribe 1 a:1 b:0`, `puback 7`. */
export const inWords = (frame: Uint8Array, version: 4 | 5): string => {
  const parser = mqttPacket.parser({ protocolVersion: version })
  let words = ""
  parser.on("packet", (packet) => words = wordsOf(packet))
  parser.parse(Buffer.from(frame))
  return words
}

const wordsOf = (packet: mqttPacket.Packet): string => {
  const head = packet.messageId === undefined ? packet.cmd : `${packet.cmd} ${packet.messageId}`
  switch (packet.cmd) {
    case "subscribe":
      return [head, ...packet.subscriptions.map(({ topic, qos }) => `${topic}:${qos}`)].join(" ")
    case "unsubscribe":
      return [head, ...packet.unsubscriptions].join(" ")
    case "publish":
      return `${head} ${packet.topic}:${packet.qos}${packet.dup ? " dup" : ""}`
    default: {
      const code = "reasonCode" in packet ? packet.reasonCode ?? 0 : 0
      return code === 0 ? head : `${head} 0x${code.toString(16)}`
    }
  }
}

/** The next packets of the client have to be these, in words. */
export const expectWords = Effect.fnUntraced(function*(peer: Peer, version: 4 | 5, ...packets: ReadonlyArray<string>) {
  for (const packet of packets) assert.strictEqual(inWords(yield* peer.readFrame, version), packet)
})

/** All packets that the client has sent since CONNECT, as they are on the wire, read by the test or not. */
export const sentFrames = (peer: Peer): ReadonlyArray<Uint8Array> =>
  Framer.make().push(peer.received).filter((frame) => frame !== "malformed").slice(1)

/** As `sentFrames`, in words. */
export const sentWords = (peer: Peer, version: 4 | 5): ReadonlyArray<string> =>
  sentFrames(peer).map((frame) => inWords(frame, version))

/** A PUBLISH of the client as bytes, written by hand; `properties` are hexadecimal digits. */
export const publishHex = (
  version: 4 | 5,
  topic: string,
  { dup = false, id = 0, payload = "x", properties = "", qos = id === 0 ? 0 : 1, retain = false }: {
    readonly dup?: boolean
    readonly id?: number
    readonly payload?: string
    readonly properties?: string
    readonly qos?: 0 | 1 | 2
    readonly retain?: boolean
  } = {}
): string => {
  const text = new TextEncoder()
  const name = text.encode(topic)
  const ids = id === 0 ? [] : [id >> 8, id & 255]
  const rest = Hex.decode(properties)
  const body = [name.length >> 8, name.length & 255, ...name, ...ids]
  if (version === 5) body.push(rest.length, ...rest)
  body.push(...text.encode(payload))
  if (rest.length > 127 || body.length > 127) throw new RangeError("too long to be written by hand")
  const flags = 0x30 | (dup ? 8 : 0) | qos << 1 | (retain ? 1 : 0)
  return Hex.encode(Uint8Array.from([flags, body.length, ...body]))
}

const ackTypes = { PUBACK: "40", PUBREC: "50", PUBREL: "62", PUBCOMP: "70" } as const

/** An acknowledgement in its shortest form. */
export const ackHex = (type: keyof typeof ackTypes, id: number, reasonCode = 0): string => {
  const hex = (value: number) => value.toString(16).padStart(2, "0")
  const body = [id >> 8, id & 255, ...(reasonCode === 0 ? [] : [reasonCode])]
  return [ackTypes[type], hex(body.length), ...body.map(hex)].join(" ")
}
