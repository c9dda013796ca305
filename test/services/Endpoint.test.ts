import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import * as Endpoint from "../../src/services/Endpoint.ts"

const read = (url: string) => Result.getOrElse(Endpoint.fromUrl(url), (problem) => `refused: ${problem}`)

const problemOf = (url: string): string =>
  Result.match(Endpoint.fromUrl(url), {
    onFailure: (problem) => problem,
    onSuccess: (endpoint) => `accepted: ${Endpoint.toUrl(endpoint)}`
  })

describe("Endpoint", () => {
  describe("fromUrl", () => {
    it("reads host and port, with 1883 as the default", () => {
      assert.deepStrictEqual(read("mqtt://broker"), Endpoint.tcp("broker"))
      assert.deepStrictEqual(read("mqtt://broker/"), Endpoint.tcp("broker", 1883))
      assert.deepStrictEqual(read("mqtt://broker:1884"), Endpoint.tcp("broker", 1884))
      assert.deepStrictEqual(read("tcp://10.0.0.1:65535"), Endpoint.tcp("10.0.0.1", 65535))
      assert.deepStrictEqual(read("MQTT://broker:1"), Endpoint.tcp("broker", 1))
    })

    it("reads an IPv6 address without its brackets", () => {
      assert.deepStrictEqual(read("mqtt://[::1]"), Endpoint.tcp("::1"))
      assert.deepStrictEqual(read("mqtt://[2001:db8::1]:1884"), Endpoint.tcp("2001:db8::1", 1884))
    })

    it("lists the known schemes when it does not know the one that is given", () => {
      for (const url of ["mqtts://broker", "ws://broker", "http://broker", "amqp://broker", "broker:1883"]) {
        const problem = problemOf(url)
        assert.include(problem, "unknown scheme", url)
        for (const known of ["mqtt://", "tcp://"]) assert.include(problem, known, url)
      }
      assert.include(problemOf("ws://broker"), "\"ws://\"")
    })

    it("lists the known schemes when there is no URL at all", () => {
      for (
        const text of ["", "broker", "//broker", "mqtt//broker", "mqtt://", "mqtt://broker:65536", "mqtt://bro ker"]
      ) {
        assert.match(problemOf(text), /^(not a URL; expected one of mqtt:\/\/, tcp:\/\/|the host is missing)/, text)
      }
    })

    it("refuses credentials, since URLs end up in logs, and does not repeat them", () => {
      for (const url of ["mqtt://alice:hunter2@broker", "mqtt://alice@broker", "mqtt://:hunter2@broker"]) {
        const problem = problemOf(url)
        assert.match(problem, /credentials/, url)
        assert.notInclude(problem, "hunter2")
        assert.notInclude(problem, "alice")
      }
    })

    it("refuses what has no meaning on plain TCP", () => {
      for (const url of ["mqtt://broker/mqtt", "mqtt://broker?clientId=a", "mqtt://broker#a"]) {
        assert.match(problemOf(url), /path, query or fragment/, url)
      }
      assert.match(problemOf("mqtt://broker:0"), /port 0/)
    })
  })

  describe("toUrl", () => {
    it("is the inverse of fromUrl", () => {
      for (const url of ["mqtt://broker:1883", "mqtt://[::1]:1884", "mqtt://10.0.0.1:65535"]) {
        assert.strictEqual(problemOf(url), `accepted: ${url}`)
      }
    })
  })

  describe("Endpoint", () => {
    const accepts = Schema.is(Endpoint.Endpoint)

    it("takes hosts that are not empty and ports from 1 to 65,535", () => {
      assert.isTrue(accepts(Endpoint.tcp("broker", 1)))
      assert.isTrue(accepts(Endpoint.tcp("broker", 65535)))
      for (const wrong of [Endpoint.tcp(""), Endpoint.tcp("a", 0), Endpoint.tcp("a", 65536), Endpoint.tcp("a", 1.5)]) {
        assert.isFalse(accepts(wrong), JSON.stringify(wrong))
      }
      assert.isFalse(accepts({ _tag: "Udp", host: "a", port: 1 }))
    })
  })
})
