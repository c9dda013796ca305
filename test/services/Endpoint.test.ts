import { assert, describe, it } from "@effect/vitest"
import { Redacted, Result, Schema } from "effect"
import { inspect } from "node:util"
import * as Endpoint from "../../src/services/Endpoint.ts"
import * as ResolvedOptions from "../../src/services/ResolvedOptions.ts"

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

    it("reads a name that is not ASCII as the resolver knows it", () => {
      assert.deepStrictEqual(read("mqtt://münchen.example"), Endpoint.tcp("xn--mnchen-3ya.example"))
      assert.deepStrictEqual(read("wss://münchen.example"), Endpoint.secureWebSocket("xn--mnchen-3ya.example"))
      for (const url of ["mqtt://a%2Fb", "mqtt://a%ff", "mqtt://a%20b"]) {
        assert.match(problemOf(url), /host|not a URL/, url)
      }
    })

    it("reads an IPv6 address without its brackets", () => {
      assert.deepStrictEqual(read("mqtt://[::1]"), Endpoint.tcp("::1"))
      assert.deepStrictEqual(read("mqtt://[2001:db8::1]:1884"), Endpoint.tcp("2001:db8::1", 1884))
    })

    it("lists the known schemes when it does not know the one that is given", () => {
      for (const url of ["http://broker", "amqp://broker", "broker:1883", "mqtt+ssl://broker", "__proto__://broker"]) {
        const problem = problemOf(url)
        assert.match(problem, /unknown scheme|not a URL/, url)
        for (const known of ["mqtt://", "tcp://", "mqtts://", "wss://", "mqtt+unix://"]) {
          assert.include(problem, known, url)
        }
      }
      assert.include(problemOf("http://broker"), "\"http://\"")
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

  describe("fromUrl, for other roads", () => {
    it("reads each scheme with its default port", () => {
      assert.deepStrictEqual(read("mqtts://broker"), Endpoint.tls("broker", 8883))
      assert.deepStrictEqual(read("tls://broker:443/"), Endpoint.tls("broker", 443))
      assert.deepStrictEqual(read("ssl://[::1]"), Endpoint.tls("::1"))
      assert.deepStrictEqual(read("ws://broker"), Endpoint.webSocket("broker", 80))
      assert.deepStrictEqual(read("ws://broker:80/"), Endpoint.webSocket("broker"))
      assert.deepStrictEqual(read("wss://broker:8084"), Endpoint.secureWebSocket("broker", { port: 8084 }))
    })

    it("reads the path of a WebSocket, and keeps a query as a secret", () => {
      assert.deepStrictEqual(read("ws://broker/a%20b"), Endpoint.webSocket("broker", { path: "/a%20b" }))
      const endpoint = Result.getOrThrow(Endpoint.fromUrl("wss://broker/mqtt?X-Amz-Signature=hunter2"))
      assert(endpoint._tag === "SecureWebSocket")
      assert.strictEqual(endpoint.path, "/mqtt")
      assert.strictEqual(Redacted.value(endpoint.query!), "X-Amz-Signature=hunter2")
      for (const text of [inspect(endpoint, { depth: 5 }), JSON.stringify(endpoint), Endpoint.toUrl(endpoint)]) {
        assert.notInclude(text, "hunter2")
      }
    })

    it("reads the path of a Unix domain socket, percent-decoded", () => {
      assert.deepStrictEqual(read("mqtt+unix:///run/mosquitto.sock"), Endpoint.unix("/run/mosquitto.sock"))
      assert.deepStrictEqual(read("unix:///tmp/a%20b%3Fc.sock"), Endpoint.unix("/tmp/a b?c.sock"))
    })

    it("refuses what has no meaning", () => {
      assert.match(problemOf("mqtts://broker/mqtt"), /path, query or fragment/)
      assert.match(problemOf("wss://broker/mqtt#a"), /path, query or fragment/)
      assert.match(problemOf("mqtt+unix://run/broker"), /three slashes/)
      assert.match(problemOf("mqtt+unix:///"), /path of the socket is missing/)
      assert.match(problemOf("mqtt+unix:///a?b"), /%3F/)
      assert.match(problemOf("mqtt+unix:///a%00b"), /null characters/)
      assert.match(problemOf("mqtt://a\"b"), /host is not a valid name/)
      assert.match(problemOf("mqtt+unix:///a%ff"), /percent-encoded UTF-8/)
      for (const url of ["wss://alice:hunter2@broker", "mqtts://alice@broker", "ws://:hunter2@broker"]) {
        assert.match(problemOf(url), /credentials/, url)
      }
    })
  })

  describe("toUrl", () => {
    it("is the inverse of fromUrl", () => {
      const urls = [
        "mqtt://broker:1883",
        "mqtt://[::1]:1884",
        "mqtt://10.0.0.1:65535",
        "mqtts://broker:8883",
        "ws://broker:80/mqtt",
        "wss://[::1]:443/a/b%20c",
        "mqtt+unix:///run/a%20b%3F%23.sock"
      ]
      for (const url of urls) assert.strictEqual(problemOf(url), `accepted: ${url}`)
    })
  })

  it("toAddress is what is dialled in the end", () => {
    assert.strictEqual(Endpoint.toAddress(Endpoint.webSocket("::1", { path: "/a" })), "[::1]:80")
    assert.strictEqual(Endpoint.toAddress(Endpoint.unix("/run/broker")), "/run/broker")
  })

  describe("Endpoint", () => {
    const accepts = Schema.is(Endpoint.Endpoint)

    it("takes hosts that are not empty and ports from 1 to 65,535", () => {
      assert.isTrue(accepts(Endpoint.tcp("broker", 1)))
      assert.isTrue(accepts(Endpoint.tcp("broker", 65535)))
      for (const wrong of [Endpoint.tcp(""), Endpoint.tcp("a", 0), Endpoint.tcp("a", 65536), Endpoint.tcp("a", 1.5)]) {
        assert.isFalse(accepts(wrong), JSON.stringify(wrong))
      }
      for (
        const host of ["10.0.0.1", "::1", "fe80::1%eth0", "::ffff:10.0.0.1", "my_host.local.", "xn--mnchen-3ya.example"]
      ) {
        assert.isTrue(accepts(Endpoint.tls(host)), host)
      }
      const noHosts = [
        "[::1]",
        "a b",
        "a:1883",
        "mqtt://a",
        "alice:hunter2@a",
        "a/b",
        "a?b",
        "münchen",
        "a\r\nb",
        "a%b"
      ]
      for (const host of [...noHosts, "a".repeat(256)]) {
        for (const wrong of [Endpoint.tcp(host), Endpoint.tcp("a", { proxy: Endpoint.httpProxy(host) })]) {
          const found = ResolvedOptions.resolve({ endpoint: wrong })
          assert(Result.isFailure(found), host)
          assert.match(found.failure.problem, /name of a host in ASCII, or an address without brackets/)
          assert.notInclude(inspect(found, { depth: 10 }), "hunter2")
        }
      }
      assert.isFalse(accepts({ _tag: "Udp", host: "a", port: 1 }))
    })

    const pem = "-----BEGIN CERTIFICATE-----\n"
    const secret = Redacted.make("hunter2")
    const key = Redacted.make("-----BEGIN PRIVATE KEY-----\n")
    const proxied = (proxy: Endpoint.ProxyServer) => Endpoint.tcp("a", { proxy })

    it("takes what each road has", () => {
      const endpoints: ReadonlyArray<Endpoint.Endpoint> = [
        Endpoint.tcp("a", { tcpKeepAlive: "1 minute", proxy: Endpoint.httpProxy("p") }),
        Endpoint.tls("a", {
          tls: { ca: [pem, { file: "ca.pem" }], cert: new TextEncoder().encode(pem), key, passphrase: secret }
        }),
        Endpoint.tls("a", { tls: { ca: pem, pfx: { file: "a.pfx" }, passphrase: secret, alpn: ["mqtt"] } }),
        Endpoint.tls("a", { tls: { servername: "b", minVersion: "TLSv1.3", insecureSkipVerification: true } }),
        Endpoint.webSocket("a", { path: "/", query: secret, headers: { a: "b", c: secret }, maxMessageBytes: 1 << 20 }),
        Endpoint.secureWebSocket("a", {
          tls: {},
          proxy: Endpoint.socks5Proxy("p", { username: "u", password: secret })
        }),
        proxied(Endpoint.httpProxy("p", { port: 1, tls: {}, username: "u", password: secret })),
        proxied(Endpoint.socks5Proxy("p", 1)),
        Endpoint.unix("/a")
      ]
      for (const endpoint of endpoints) {
        const found = ResolvedOptions.resolve({ endpoint })
        assert.deepStrictEqual(Result.getOrThrow(found).endpoint, endpoint)
      }
    })

    it("refuses the rest by name, without repeating a secret", () => {
      const cases: ReadonlyArray<readonly [option: string, problem: RegExp, endpoint: unknown]> = [
        ["tls", /excess/, { ...Endpoint.tcp("a"), tls: {} }],
        ["path", /excess/, { ...Endpoint.tls("a"), path: "/" }],
        ["proxy", /excess/, { ...Endpoint.unix("/a"), proxy: Endpoint.httpProxy("p") }],
        ["path", /null characters/, Endpoint.unix("/a\0b")],
        ["path", /length/, Endpoint.unix("")],
        ["tcpKeepAlive", /at least 1 second/, Endpoint.tcp("a", { tcpKeepAlive: 5 })],
        ["tls.ca", /PEM text or bytes, or \{ file/, Endpoint.tls("a", { tls: { ca: "/etc/ca.pem" } })],
        ["tls.cert", /PEM text or bytes/, Endpoint.tls("a", { tls: { cert: new Uint8Array(3), key } })],
        ["tls.key", /Redacted/, { ...Endpoint.tls("a"), tls: { cert: pem, key: "-----BEGIN hunter2" } }],
        ["tls.key", /Redacted/, Endpoint.tls("a", { tls: { cert: pem, key: secret } })],
        ["tls.pfx", /PKCS#12/, { ...Endpoint.tls("a"), tls: { pfx: secret } }],
        ["tls.passphrase", /Redacted text/, { ...Endpoint.tls("a"), tls: { passphrase: "hunter2" } }],
        ["tls", /key needs cert/, Endpoint.tls("a", { tls: { key } })],
        ["tls", /cert needs key/, Endpoint.tls("a", { tls: { cert: pem } })],
        ["tls", /in place of cert and key/, Endpoint.tls("a", { tls: { cert: pem, key, pfx: { file: "a" } } })],
        ["tls", /passphrase needs/, Endpoint.tls("a", { tls: { passphrase: secret } })],
        ["tls.minVersion", /TLSv1\.2/, { ...Endpoint.tls("a"), tls: { minVersion: "TLSv1" } }],
        ["tls.alpn.0", /visible ASCII/, Endpoint.tls("a", { tls: { alpn: [""] } })],
        ["tls.rejectUnauthorized", /excess/, { ...Endpoint.tls("a"), tls: { rejectUnauthorized: false } }],
        ["path", /begins with \//, Endpoint.webSocket("a", { path: "mqtt" })],
        ["path", /begins with \//, Endpoint.webSocket("a", { path: "/mqtt?token=hunter2" })],
        ["path", /begins with \//, Endpoint.webSocket("a", { path: "/a\r\nb" })],
        ["query", /Redacted/, { ...Endpoint.webSocket("a"), query: "token=hunter2" }],
        ["query", /without its \?/, Endpoint.webSocket("a", { query: Redacted.make("?hunter2") })],
        ["headers.a", /text of a header/, Endpoint.webSocket("a", { headers: { a: "hunter2\r\nx: y" } })],
        ["headers.a", /text of a header/, Endpoint.webSocket("a", { headers: { a: Redacted.make("hunter2\n") } })],
        ["headers", /is no name of a header/, Endpoint.webSocket("a", { headers: { "a b": "c" } })],
        ["headers", /is no name/, Endpoint.webSocket("a", { headers: { "authorization: hunter2": "" } })],
        [
          "headers",
          /belongs to the WebSocket/,
          Endpoint.webSocket("a", { headers: { "Sec-WebSocket-Protocol": "x" } })
        ],
        ["maxMessageBytes", /between/, Endpoint.webSocket("a", { maxMessageBytes: 1 })],
        ["proxy.port", /between/, proxied(Endpoint.httpProxy("p", 0))],
        ["proxy.username", /without colon/, proxied(Endpoint.httpProxy("p", { username: "a:b" }))],
        ["proxy.password", /Redacted/, {
          ...Endpoint.tcp("a"),
          proxy: { ...Endpoint.httpProxy("p"), password: "hunter2" }
        }],
        ["proxy", /password needs username/, proxied(Endpoint.httpProxy("p", { password: secret }))],
        ["proxy.username", /1 to 255 bytes/, proxied(Endpoint.socks5Proxy("p", { username: "é".repeat(128) }))],
        ["proxy.tls", /excess/, { ...Endpoint.tcp("a"), proxy: { ...Endpoint.socks5Proxy("p"), tls: {} } }]
      ]
      for (const [option, problem, endpoint] of cases) {
        const error = Result.getOrElse(
          Result.flip(ResolvedOptions.resolve({ endpoint: endpoint as Endpoint.Endpoint })),
          () => assert.fail(`accepted: ${inspect(endpoint)}`)
        )
        assert.strictEqual(error.option, `endpoint.${option}`)
        assert.match(error.problem, problem, option)
        assert.notInclude(inspect(error, { depth: 10 }), "hunter2")
      }
    })

    it("is copied to its depth when it becomes an option", () => {
      const headers = { a: "1" }
      const alpn = ["mqtt"]
      const given = Endpoint.secureWebSocket("a", { headers, tls: { alpn } })
      const found = Result.getOrThrow(ResolvedOptions.resolve({ endpoint: given })).endpoint
      headers.a = "2"
      alpn.push("x")
      assert.deepStrictEqual(found, Endpoint.secureWebSocket("a", { headers: { a: "1" }, tls: { alpn: ["mqtt"] } }))
    })
  })
})
