import { assert, describe, it } from "@effect/vitest"
import { ServerReference } from "../../src/protocol/index.ts"

describe("ServerReference", () => {
  const cases: ReadonlyArray<readonly [text: string, references: ReadonlyArray<string>]> = [
    ["a", ["a undefined"]],
    ["broker.example.org:8883", ["broker.example.org 8883"]],
    ["10.10.151.22:8883", ["10.10.151.22 8883"]],
    ["[fe80::9610:3eff:fe1c]:1883", ["fe80::9610:3eff:fe1c 1883"]],
    ["[::1]", ["::1 undefined"]],
    ["a:1883 [::1]:1884", ["a 1883", "::1 1884"]],
    ["  a   b:1 ", ["a undefined", "b 1"]],
    ["under_score", ["under_score undefined"]],
    ["a:65535 b:65536 c:0", ["a 65535"]],
    // None of these is a host.
    ["", []],
    [":1883", []],
    ["a:", []],
    ["a:b", []],
    ["fe80::1", []],
    ["[a]", []],
    ["[::1", []],
    ["mqtt://a", []],
    ["user:secret@a", []],
    ["a/path", []],
    ["a\tb", []],
    ["-a", []],
    ["a?", []],
    ["ä", []]
  ]
  for (const [text, expected] of cases) {
    it(`CK-24p: reads ${JSON.stringify(text)}`, () => {
      assert.deepStrictEqual(ServerReference.parse(text).map(({ host, port }) => `${host} ${port}`), expected)
    })
  }

  it("takes eight at most, however many there are", () => {
    const text = Array.from({ length: 8_000 }, (_, index) => `h${index}`).join(" ")
    assert.deepStrictEqual(ServerReference.parse(text).map(({ host }) => host), [
      "h0",
      "h1",
      "h2",
      "h3",
      "h4",
      "h5",
      "h6",
      "h7"
    ])
  })

  it("takes long what is none in no more than linear time", () => {
    assert.deepStrictEqual(ServerReference.parse("a.".repeat(30_000)), [])
    assert.deepStrictEqual(ServerReference.parse("[" + ":".repeat(60_000)), [])
  })
})
