import { assert, describe, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { ReasonCode } from "../../src/protocol/index.ts"
import * as MqttError from "../../src/services/MqttError.ts"
import { SessionStoreError } from "../../src/services/SessionStore.ts"
import { ProxyReason, TlsReason, TransportError, WebSocketReason } from "../../src/services/Transport.ts"

const document = readFileSync(new URL("../../docs/failover.md", import.meta.url), "utf8")

/** The rows of the table under a heading, without its head. */
const tableOf = (heading: string): ReadonlyArray<string> => {
  const section = document.split(`### ${heading}\n`)[1] ?? ""
  return section.split(/\n#+ /)[0]!.split("\n").filter((line) => line.startsWith("|")).slice(2)
}

const verdict = (failure: { readonly retryable: boolean }) => failure.retryable ? "tries again" : "**gives up**"

const refused = (protocolVersion: 4 | 5, reasonCode: number): MqttError.ConnectReason =>
  reasonCode === (protocolVersion === 5 ? 0x84 : 1)
    ? new MqttError.UnsupportedProtocolVersion({ protocolVersion, reasonCode })
    : new MqttError.ConnectRefused({ protocolVersion, reasonCode, name: "" })
const disconnected = (reasonCode: number) => new MqttError.ServerDisconnected({ reasonCode, name: "" })

const cause = new TransportError({ phase: "connect", kind: "other", address: "a:1" })
const tls = (reason: MqttError.TlsFailed["reason"]) => new MqttError.TlsFailed({ address: "a:1", reason, cause })
const webSocket = (reason: MqttError.WebSocketFailed["reason"], status?: number) =>
  new MqttError.WebSocketFailed({ address: "a:1", reason, cause, ...(status === undefined ? {} : { status }) })
const proxy = (reason: MqttError.ProxyFailed["reason"]) =>
  new MqttError.ProxyFailed({ proxy: "p:1", address: "a:1", reason, cause })
const store = (kind: SessionStoreError["kind"]) =>
  new SessionStoreError({ operation: "open", kind, store: "s", detail: "d" })

/** Every failure that is not a reason code, with what the table says of it. */
const failures: ReadonlyArray<
  readonly [what: string, failure: { readonly _tag: string; readonly retryable: boolean }]
> = [
  ["`NameNotResolved`", new MqttError.NameNotResolved({ address: "a:1", cause })],
  ["`DialFailed`", new MqttError.DialFailed({ address: "a:1", kind: "refused", cause })],
  ...TlsReason.literals.map((reason) => [`\`TlsFailed\`: \`${reason}\``, tls(reason)] as const),
  ["`WebSocketFailed`: HTTP status 5xx, 408, 425, 429", webSocket("status", 503)],
  ["`WebSocketFailed`: any other HTTP status", webSocket("status", 401)],
  ...WebSocketReason.literals.filter((reason) => reason !== "status").map((reason) =>
    [`\`WebSocketFailed\`: \`${reason}\``, webSocket(reason)] as const
  ),
  ...ProxyReason.literals.map((reason) => [`\`ProxyFailed\`: \`${reason}\``, proxy(reason)] as const),
  ["`ConnectTimeout`", new MqttError.ConnectTimeout({ address: "a:1", phase: "connack", timeoutMillis: 1 })],
  ["`ClosedBeforeConnack`", new MqttError.ClosedBeforeConnack({ address: "a:1" })],
  ["`ProtocolError`", new MqttError.ProtocolError({ packet: "p", field: "f", rule: "r", reasonCode: 0x82 })],
  ["`ForeignSession`", new MqttError.ForeignSession({ clientId: "c" })],
  ["`InvalidOptions`", new MqttError.InvalidOptions({ option: "o", problem: "p" })],
  ["`OptionsUnavailable`", new MqttError.OptionsUnavailable({ cause: "c" })],
  ...MqttError.AuthenticationFailed.fields.problem.literals.map((problem) =>
    [`\`AuthenticationFailed\`: \`${problem}\``, new MqttError.AuthenticationFailed({ method: "m", problem })] as const
  ),
  ["`TooManyRedirects`", new MqttError.TooManyRedirects({ servers: [] })],
  ...SessionStoreError.fields.kind.literals.map((kind) => [`\`SessionStoreError\`: \`${kind}\``, store(kind)] as const),
  ["`TransportLost`", new MqttError.TransportLost({ cause })],
  ["`KeepAliveTimeout`", new MqttError.KeepAliveTimeout({ keepAliveMillis: 1, pingTimeoutMillis: 1 })],
  ["`WriteBlocked`", new MqttError.WriteBlocked({ blockedMillis: 1 })],
  ["`UnacknowledgedOverflow`", new MqttError.UnacknowledgedOverflow({ bytes: 2, maximumBytes: 1 })]
]

describe("docs/failover.md says what the code does", () => {
  it("with each reason code of MQTT 5.0", () => {
    const connack = new Set<number>(ReasonCode.fromServer.Connack)
    const disconnect = new Set<number>(ReasonCode.fromServer.Disconnect)
    const codes = [...new Set([...connack, ...disconnect])].filter((code) => code >= 0x80).sort((a, b) => a - b)
    const rows = codes.map((code) => {
      const inConnack = connack.has(code) ? verdict(refused(5, code)) : ""
      const inDisconnect = !disconnect.has(code)
        ? ""
        : code === 0x8e
        ? "stays away, then tries again; **gives up** when it repeats"
        : verdict(disconnected(code))
      return `| \`${ReasonCode.toHex(code)}\` | ${ReasonCode.nameOf(code)} | ${inConnack} | ${inDisconnect} |`
    })
    assert.deepStrictEqual(tableOf("Reason codes of MQTT 5.0"), rows)
  })

  it("with each return code of MQTT 3.1.1", () => {
    const rows = ReasonCode.fromServer311.Connack.filter((code) => code > 0).map((code) =>
      `| ${code} | ${ReasonCode.nameOfConnack(4, code)} | ${verdict(refused(4, code))} |`
    )
    assert.deepStrictEqual(tableOf("Return codes of MQTT 3.1.1"), rows)
  })

  it("with every other failure", () => {
    assert.deepStrictEqual(
      tableOf("Everything else"),
      failures.map(([what, failure]) => `| ${what} | ${verdict(failure)} |`)
    )
  })

  it("and leaves out no failure that has a type", () => {
    const all = [...MqttError.ConnectReason.members, ...MqttError.LinkLost.members].map((member): string =>
      member.fields._tag.schema.literal
    )
    const known = new Set<string>(failures.map(([, failure]) => failure._tag))
    // These are said in words, or are reason codes.
    const others = new Set([
      "AllEndpointsFailed",
      "ConnectInterrupted",
      "ConnectRefused",
      "ServerDisconnected",
      "UnsupportedProtocolVersion"
    ])
    assert.deepStrictEqual([...new Set(all)].filter((tag) => !known.has(tag) && !others.has(tag)), [])
  })
})
