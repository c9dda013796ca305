import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import * as TopicName from "../../src/protocol/TopicName.ts"

describe("TopicName", () => {
  it("refuses wildcards", () => {
    assert.strictEqual(TopicName.validate("a/+"), "must not contain the wildcard \"+\"")
    assert.strictEqual(TopicName.validate("a#b"), "must not contain the wildcard \"#\"")
  })

  it("refuses the empty name and U+0000 (TP-04b, TP-05b, U8-02b)", () => {
    assert.strictEqual(TopicName.validate(""), "must have at least one character")
    assert.match(TopicName.validate("a\0b") ?? "", /U\+0000/)
  })

  it("counts bytes of UTF-8 up to 65,535 (TP-06b, U8-05p)", () => {
    assert.isUndefined(TopicName.validate("a".repeat(65_535)))
    assert.isString(TopicName.validate("a".repeat(65_536)))
    assert.isUndefined(TopicName.validate("日".repeat(21_845)))
    assert.isString(TopicName.validate("日".repeat(21_846)))
    assert.isUndefined(TopicName.validate("😀".repeat(16_383)))
    assert.isString(TopicName.validate("😀".repeat(16_384)))
    assert.isString(TopicName.validate("é".repeat(32_768)))
  })

  it("refuses lone surrogates and accepts pairs (U8-01b)", () => {
    for (const text of ["\ud800", "\udc00", "a\ud800b", "\ud800\ud800", "\udc00\ud800", "a\udbff"]) {
      assert.match(TopicName.validate(text) ?? "", /lone surrogate/, JSON.stringify(text))
    }
    assert.isUndefined(TopicName.validate("\ud83d\ude00"))
  })

  it("accepts U+FEFF, control codes and noncharacters (U8-03b, U8-06p)", () => {
    for (const text of ["\ufeffa", "a\u0001", "\u007f", "\uffff"]) assert.isUndefined(TopicName.validate(text))
  })

  it("accepts names that begin with $, empty levels and spaces (TP-07s, TP-09p)", () => {
    for (const text of ["$app/x", "/", "//", "a//b", " ", "Accounts payable"]) {
      assert.isUndefined(TopicName.validate(text), text)
    }
  })

  it("brands valid names and tells what is wrong with others", () => {
    const decode = Schema.decodeUnknownResult(TopicName.TopicName)
    assert.deepStrictEqual(decode("a/b"), Result.succeed(TopicName.TopicName.make("a/b")))
    const refused = decode("a/#")
    assert.include(String(Result.isFailure(refused) && refused.failure), "must not contain the wildcard")
  })
})
