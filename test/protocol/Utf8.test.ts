import { assert, describe, it } from "@effect/vitest"
import { Buffer } from "node:buffer"
import * as Utf8 from "../../src/protocol/Utf8.ts"
import { Random } from "./support/PacketGenerator.ts"

const decode = (...bytes: ReadonlyArray<number>) => Utf8.decode(Buffer.from(bytes), 0, bytes.length)

const encode = (text: string): ReadonlyArray<number> => {
  const length = Utf8.encodedLength(text)
  const bytes = new Uint8Array(length + 2)
  assert.strictEqual(Utf8.write(text, length, bytes, 1), length + 1)
  assert.deepStrictEqual([bytes[0], bytes[length + 1]], [0, 0])
  return [...bytes.subarray(1, length + 1)]
}

describe("Utf8", () => {
  it("measures and writes what the platform writes", () => {
    for (const unit of [0x01, 0x7f, 0x80, 0x7ff, 0x800, 0xd7ff, 0xe000, 0xfeff, 0xffff, 0x10000, 0x10ffff]) {
      for (const length of [1, 15, 16, 17, 63, 64, 65, 300]) {
        const text = String.fromCodePoint(unit).repeat(length)
        assert.deepStrictEqual(encode(text), [...new TextEncoder().encode(text)])
      }
    }
  })

  it("measures a lone surrogate and U+0000 as what cannot be sent (U8-01b, U8-02b)", () => {
    for (const text of ["\ud800", "a\udc00", "\udc00\ud800", "\ud800a", "é\ud83d"]) {
      assert.strictEqual(Utf8.problemOf(Utf8.encodedLength(text))?.includes("lone surrogate"), true, text)
    }
    assert.strictEqual(Utf8.problemOf(Utf8.encodedLength("a\0"))?.includes("U+0000"), true)
    assert.isUndefined(Utf8.problemOf(Utf8.encodedLength("😀")))
  })

  it("counts bytes, not characters (U8-05p)", () => {
    assert.isUndefined(Utf8.problemOf(Utf8.encodedLength("é".repeat(32_767))))
    assert.isString(Utf8.problemOf(Utf8.encodedLength("é".repeat(32_768))))
  })

  it("decodes what the platform decodes, and refuses what it refuses, but for U+0000 (U8-01b, U8-02b, U8-03b)", () => {
    const platform = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
    const leads = [0x00, 0x41, 0x7f, 0x80, 0xbf, 0xc0, 0xc2, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff]
    const random = new Random(1)
    for (let turn = 0; turn < 20_000; turn++) {
      const bytes = Buffer.from(Array.from({ length: random.int(0, 20) }, () => random.pick(leads)))
      let expected: string | undefined
      try {
        expected = platform.decode(bytes)
      } catch {
        expected = undefined
      }
      const start = random.int(0, 3)
      const padded = Buffer.concat([Buffer.alloc(start, 0x80), bytes, Buffer.alloc(2, 0xff)])
      const decoded = Utf8.decode(padded, start, start + bytes.length)
      assert.strictEqual(decoded, expected?.includes("\0") === true ? undefined : expected, bytes.toString("hex"))
      if (decoded === undefined) {
        const rule = Utf8.ruleBroken(padded, start, start + bytes.length)
        assert.strictEqual(rule.includes("U+0000"), expected !== undefined)
      }
    }
  })

  it("decodes ASCII of every length", () => {
    const bytes = Buffer.from(Array.from({ length: 200 }, (_, index) => 0x20 + index % 90))
    for (let length = 0; length <= 100; length++) {
      assert.strictEqual(Utf8.decode(bytes, 7, 7 + length), bytes.toString("latin1", 7, 7 + length))
    }
  })

  it("keeps a leading U+FEFF (U8-03b)", () => {
    assert.strictEqual(decode(0xef, 0xbb, 0xbf, 0x61), "\ufeffa")
    assert.strictEqual(decode(0xef, 0xbb, 0xbf), "\ufeff")
  })

  it("tells whether bytes are text", () => {
    assert.isTrue(Utf8.isWellFormed(new Uint8Array(0)))
    assert.isTrue(Utf8.isWellFormed(Uint8Array.of(0x61, 0x00, 0xc3, 0xa9)))
    assert.isFalse(Utf8.isWellFormed(Uint8Array.of(0xed, 0xa0, 0x80)))
  })
})
