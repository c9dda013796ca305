/**
 * Makes PUBLISH packets.
 *
 * They are plain objects that a constructor makes. Of an object literal V8 remembers how often what it makes outlives a
 * collection, and then makes it in the old generation for good: with a window of messages under way that came about in every
 * second run, and a message took four times as long.
 *
 * @since 0.1.0
 */
import type { Publish, PublishProperties, QoS } from "./Packet.ts"

interface Constructor {
  new(
    dup: boolean,
    qos: QoS,
    retain: boolean,
    topic: string,
    packetId: number,
    payload: Uint8Array,
    properties: PublishProperties | undefined
  ): Publish
}

type Writable<A> = { -readonly [K in keyof A]: A[K] }

const PublishPacket = function(
  this: Writable<Publish>,
  dup: boolean,
  qos: QoS,
  retain: boolean,
  topic: string,
  packetId: number,
  payload: Uint8Array,
  properties: PublishProperties | undefined
) {
  this._tag = "Publish"
  this.dup = dup
  this.qos = qos
  this.retain = retain
  this.topic = topic
  this.packetId = packetId
  this.payload = payload
  this.properties = properties
} as unknown as Constructor & { prototype: object }

PublishPacket.prototype = Object.prototype

/**
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  dup: boolean,
  qos: QoS,
  retain: boolean,
  topic: string,
  packetId: number,
  payload: Uint8Array,
  properties: PublishProperties | undefined
): Publish => new PublishPacket(dup, qos, retain, topic, packetId, payload, properties)
