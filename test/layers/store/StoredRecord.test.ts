import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as StoredRecord from "../../../src/layers/store/StoredRecord.ts"
import type { PublishProperties } from "../../../src/protocol/Packet.ts"
import { messageOf, publishOf } from "../../support/StoreChanges.ts"

/** A record of its own: what the encoder gives is overwritten by the next one. */
const copy = (record: Uint8Array) => new Uint8Array(record)

const properties: PublishProperties = {
  payloadFormatIndicator: 0,
  messageExpiryInterval: 7,
  topicAlias: 65535,
  responseTopic: "r/€",
  correlationData: Uint8Array.of(1, 2, 0),
  userProperties: [["a", "1"], ["a", "2"]],
  subscriptionIdentifiers: [1, 268_435_455],
  contentType: "text/plain"
}

const publish = publishOf(7, { qos: 2, id: "id-7", properties, retain: true })
const message = messageOf(9, { deliveryId: "e-1-0", properties, duplicate: true })

interface Case {
  readonly name: string
  readonly record: Uint8Array
  readonly value: unknown
  readonly decode: (record: unknown) => Result.Result<unknown, string>
}

const cases: ReadonlyArray<Case> = [
  {
    name: "publish",
    record: copy(StoredRecord.encodePublish(publish)),
    value: publish,
    decode: (record) => StoredRecord.decodePublish(7, record, null)
  },
  {
    name: "publish that waits",
    record: copy(StoredRecord.encodePublish({ ...publish, stage: "queued", packetId: 0, properties: undefined })),
    value: { ...publish, stage: "queued", packetId: 0, properties: undefined },
    decode: (record) => StoredRecord.decodePublish(7, record, null)
  },
  {
    name: "release",
    record: copy(StoredRecord.encodeRelease({ sequence: 7, releaseOrder: 3, answer: 16 })),
    value: { ...publish, stage: "released", releaseOrder: 3, answer: 16 },
    decode: (record) => StoredRecord.decodePublish(7, copy(StoredRecord.encodePublish(publish)), record)
  },
  {
    name: "message",
    record: copy(StoredRecord.encodeMessage("q", message)),
    value: message,
    decode: (record) => StoredRecord.decodeMessage("q", 9, record)
  },
  {
    name: "inbound identifier",
    record: copy(StoredRecord.encodeInbound({ packetId: 65535, received: true, generation: 2 ** 40 })),
    value: { packetId: 65535, received: true, generation: 2 ** 40 },
    decode: (record) => StoredRecord.decodeInbound(65535, record)
  },
  {
    name: "outcome",
    record: copy(StoredRecord.encodeOutcome("id", { _tag: "Delivered", qos: 2, reasonCode: 16 })),
    value: { _tag: "Delivered", qos: 2, reasonCode: 16 },
    decode: (record) => StoredRecord.decodeOutcome("id", record)
  },
  {
    name: "outcome of what was published anew",
    record: copy(StoredRecord.encodeOutcome("id", { _tag: "Delivered", qos: 2, reasonCode: 0, isRepublished: true })),
    value: { _tag: "Delivered", qos: 2, reasonCode: 0, isRepublished: true },
    decode: (record) => StoredRecord.decodeOutcome("id", record)
  },
  {
    name: "publish that is published anew",
    record: copy(StoredRecord.encodePublish({ ...publish, isRepublished: true })),
    value: { ...publish, isRepublished: true },
    decode: (record) => StoredRecord.decodePublish(7, record, null)
  },
  {
    name: "session",
    record: copy(StoredRecord.encodeSession({ key: "client@broker", epoch: "e" })),
    value: { key: "client@broker", epoch: "e" },
    decode: StoredRecord.decodeSession
  },
  {
    name: "counter",
    record: copy(StoredRecord.encodeCounters({ lastSequence: 2 ** 53 - 1, lastPacketId: 65_535 })),
    value: { lastSequence: 2 ** 53 - 1, lastPacketId: 65_535 },
    decode: StoredRecord.decodeCounters
  }
]

describe("StoredRecord", () => {
  for (const { decode, name, record, value } of cases) {
    it(`gives a ${name} back`, () => {
      assert.deepStrictEqual(decode(record), Result.succeed(value))
    })

    it(`tells a ${name} of which any single bit is flipped`, () => {
      for (let at = 0; at < record.length * 8; at++) {
        const damaged = copy(record)
        damaged[at >> 3]! ^= 1 << (at & 7)
        assert.isTrue(Result.isFailure(decode(damaged)), `bit ${at}`)
      }
    })

    it(`tells a ${name} that was cut or is too long`, () => {
      for (let length = 0; length < record.length; length++) {
        assert.isTrue(Result.isFailure(decode(record.subarray(0, length))), `${length} bytes`)
      }
      assert.isTrue(Result.isFailure(decode(Uint8Array.of(...record, 0))))
    })

    it(`tells a ${name} from what is none`, () => {
      for (const other of cases) {
        if (other.name.startsWith(name.split(" ")[0]!)) continue
        assert.isTrue(Result.isFailure(decode(other.record)), other.name)
      }
      for (const none of ["text", 7, {}, [1, 2]]) assert.isTrue(Result.isFailure(decode(none)))
    })
  }

  it("tells an entry that is under the key of another", () => {
    const [record, , release, aside, inbound, outcome] = cases.map(({ record }) => record)
    assert.isTrue(Result.isFailure(StoredRecord.decodePublish(8, record, null)))
    assert.isTrue(Result.isFailure(StoredRecord.decodePublish(
      8,
      copy(StoredRecord.encodePublish({ ...publish, sequence: 8 })),
      release
    )))
    assert.isTrue(Result.isFailure(StoredRecord.decodeMessage("q", 8, aside)))
    assert.isTrue(Result.isFailure(StoredRecord.decodeMessage("r", 9, aside)))
    assert.isTrue(Result.isFailure(StoredRecord.decodeInbound(1, inbound)))
    assert.isTrue(Result.isFailure(StoredRecord.decodeOutcome("other", outcome)))
  })

  it("gives bytes that nothing else writes to", () => {
    const stored = copy(StoredRecord.encodePublish(publish))
    const decoded = StoredRecord.decodePublish(7, stored, null)
    stored.fill(0)
    StoredRecord.encodePublish({ ...publish, payload: new Uint8Array(100).fill(1) })
    assert.deepStrictEqual(decoded, Result.succeed(publish))
  })

  it("takes payloads of any size, one after the other", () => {
    for (const size of [0, 1, 65_535, 65_536, 3_000_000, 10, 200_000]) {
      const large = { ...publish, payload: new Uint8Array(size).fill(size & 0xff) }
      const record = copy(StoredRecord.encodePublish(large))
      assert.deepStrictEqual(StoredRecord.decodePublish(7, record, null), Result.succeed(large), `${size}`)
    }
  })
})
