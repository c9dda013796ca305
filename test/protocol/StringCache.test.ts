import { assert, describe, it } from "@effect/vitest"
import { StringCache } from "../../src/protocol/StringCache.ts"
import { Random } from "./support/PacketGenerator.ts"

const words = (text: string): readonly [DataView, number, number] => {
  const bytes = new TextEncoder().encode(`--${text}--`)
  return [new DataView(bytes.buffer), 2, bytes.length - 2]
}

/** What the cache knows of this string; it learns it otherwise. */
const lookUp = (cache: StringCache, text: string): string | undefined => {
  const found = cache.get(...words(text))
  if (found === undefined) cache.put(...words(text), text)
  return found
}

describe("StringCache", () => {
  it("gives back what it was given, from 4 to 64 bytes", () => {
    for (let length = 1; length <= 70; length++) {
      const cache = new StringCache(16)
      const text = "x".repeat(length)
      assert.isUndefined(lookUp(cache, text))
      assert.strictEqual(lookUp(cache, text), length >= 4 && length <= 64 ? text : undefined)
    }
  })

  it("tells apart strings that differ in one byte or in length alone", () => {
    const cache = new StringCache(1024)
    const base = "factory/line/1/device/42"
    for (let round = 0; round < 2; round++) {
      for (let at = 0; at < base.length; at++) {
        const text = `${base.slice(0, at)}~${base.slice(at + 1)}`
        const found = lookUp(cache, text)
        if (found !== undefined) assert.strictEqual(found, text)
      }
    }
    for (let length = 4; length <= 64; length++) {
      const text = "a".repeat(length)
      assert.isUndefined(lookUp(cache, text))
      assert.strictEqual(lookUp(cache, text), text)
    }
  })

  it("holds no more than its capacity", () => {
    const cache = new StringCache(16)
    const texts = Array.from({ length: 100 }, (_, index) => `text-${index}`)
    for (const text of texts) lookUp(cache, text)
    assert.isAtMost(texts.filter((text) => cache.get(...words(text)) !== undefined).length, 16)
  })

  it("takes little memory for few strings, and keeps what it has when it takes more", () => {
    const bytesOf = (cache: StringCache) =>
      Object.values(cache).reduce<number>((sum, value) => sum + (ArrayBuffer.isView(value) ? value.byteLength : 0), 0)
    const cache = new StringCache(1024)
    assert.isBelow(bytesOf(cache), 2048)
    const texts = Array.from({ length: 16 }, (_, index) => `text-${index}`)
    for (const text of texts) lookUp(cache, text)
    const had = texts.filter((text) => cache.get(...words(text)) === text)
    assert.isBelow(bytesOf(cache), 2048)
    lookUp(cache, "one more")
    assert.isAbove(bytesOf(cache), 4096)
    // The one more may have taken the place of one of them.
    assert.isAtLeast(had.filter((text) => cache.get(...words(text)) === text).length, had.length - 1)
    for (let index = 0; index < 5000; index++) lookUp(cache, `more-${index % 2000}`)
    assert.isBelow(bytesOf(cache), 80_000)
  })

  it("steps aside while it finds nothing, and comes back", () => {
    const cache = new StringCache(16)
    for (let i = 0; i < 300; i++) lookUp(cache, `once-${i}`)
    let turns = 0
    while (lookUp(cache, "asked again") === undefined && turns < 10_000) turns++
    assert.isAbove(turns, 1000)
    assert.isBelow(turns, 5000)
  })

  it("finds the same strings in any order: one after another, always the same, at random, and in turns", () => {
    const cache = new StringCache(256)
    const texts = Array.from({ length: 40 }, (_, index) => `factory/line/${index}/temperature`)
    for (let round = 0; round < 6; round++) for (const text of texts) lookUp(cache, text)
    const random = new Random(7)
    const orders: ReadonlyArray<(step: number) => number> = [
      (step) => step % texts.length,
      () => 3,
      () => random.int(0, texts.length - 1),
      (step) => step % 2,
      (step) => texts.length - 1 - step % texts.length
    ]
    let wrong = 0
    for (let step = 0; step < 2000; step++) {
      const text = texts[orders[Math.floor(step / 100) % orders.length]!(step)]!
      const found = cache.get(...words(text))
      // One that shares its place with too many others may be gone.
      if (found === undefined) cache.put(...words(text), text)
      else if (found !== text) wrong++
    }
    assert.strictEqual(wrong, 0)
  })

  it("guesses no string that is not there", () => {
    const cache = new StringCache(16)
    for (const text of ["aaaa", "bbbb", "aaaa", "bbbb", "aaaa"]) lookUp(cache, text)
    // "bbbb" would be next.
    assert.isUndefined(cache.get(...words("bbbc")))
    assert.isUndefined(cache.get(...words("bbbbb")))
    assert.strictEqual(cache.get(...words("bbbb")), "bbbb")
  })

  it("has a note for each string, for as long as it remembers the string", () => {
    const cache = new StringCache(16)
    lookUp(cache, "first")
    lookUp(cache, "second")
    assert.strictEqual(lookUp(cache, "first"), "first")
    const first = cache.note
    assert.strictEqual(lookUp(cache, "second"), "second")
    const second = cache.note
    assert.notStrictEqual(first, second)
    assert.strictEqual(lookUp(cache, "first"), "first")
    assert.strictEqual(cache.note, first)
    // Until others have taken its place.
    for (let index = 0; lookUp(cache, "first") !== undefined; index++) lookUp(cache, `other ${index}`)
    assert.strictEqual(lookUp(cache, "first"), "first")
    assert.notStrictEqual(cache.note, first)
  })
})
