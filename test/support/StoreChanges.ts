/**
 * Entries and changes of a session store, with every field filled in.
 */
import type { Change, StoredMessage, StoredPublish } from "../../src/services/SessionStore.ts"

export const publishOf = (sequence: number, fields: Partial<StoredPublish> = {}): StoredPublish => ({
  sequence,
  stage: "published",
  packetId: sequence % 65535 + 1,
  releaseOrder: 0,
  answer: 0,
  id: undefined,
  qos: 1,
  retain: false,
  topic: `a/${sequence}`,
  payload: new TextEncoder().encode(`payload ${sequence}`),
  properties: undefined,
  storedAt: 1_700_000_000_000 + sequence,
  ...fields
})

export const published = (sequence: number, fields: Partial<StoredPublish> = {}): Change => ({
  _tag: "Published",
  publish: publishOf(sequence, fields)
})

export const settled = (sequence: number, id?: string): Change => ({
  _tag: "Settled",
  sequence,
  id,
  outcome: { _tag: "Delivered", qos: 1, reasonCode: 0 }
})

export const messageOf = (sequence: number, fields: Partial<StoredMessage> = {}): StoredMessage => ({
  sequence,
  topic: `b/${sequence}`,
  payload: new TextEncoder().encode(`message ${sequence}`),
  qos: 1,
  retain: false,
  duplicate: false,
  properties: undefined,
  deliveryId: undefined,
  ...fields
})

export const putAside = (queue: string, sequence: number, fields: Partial<StoredMessage> = {}): Change => ({
  _tag: "PutAside",
  queue,
  message: messageOf(sequence, fields)
})
