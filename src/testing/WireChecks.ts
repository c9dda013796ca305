/**
 * Strict checks of the raw bytes of a client's packet, with the row of the rule that they break.
 *
 * `mqtt-packet`, which decodes for the broker of the kit, is lenient: it takes over-long lengths, ill-formed UTF-8, misplaced
 * and repeated properties, identifier 0 and bytes left over. This walk over the same bytes takes none of it. It gives no
 * packet, but for what `mqtt-packet` loses: user properties in wire order.
 *
 * @since 0.1.0
 */
import type { UserProperties } from "../protocol/Packet.ts"
import { checkFilter, hasWildcard, parseFilter } from "./BrokerTopics.ts"
import { fixedHeader } from "./Framer.ts"
import { finding } from "./Violation.ts"
import type { Finding } from "./Violation.ts"

/**
 * What the walk brings home.
 *
 * @internal
 */
export interface Checked {
  readonly _tag: "Checked"
  readonly type: number
  readonly userProperties: UserProperties | undefined
  readonly willUserProperties: UserProperties | undefined
}

/**
 * @internal
 */
export interface Broken extends Finding {
  readonly _tag: "Broken"
}

class Breach extends Error {
  readonly finding: Finding
  constructor(found: Finding) {
    super(found.problem)
    this.finding = found
  }
}

const fail = (row: string, problem: string, reasonCode: number): never => {
  throw new Breach(finding(row, problem, reasonCode))
}

const malformed = 0x81
const protocolError = 0x82

const names = [
  "type 0",
  "CONNECT",
  "CONNACK",
  "PUBLISH",
  "PUBACK",
  "PUBREC",
  "PUBREL",
  "PUBCOMP",
  "SUBSCRIBE",
  "SUBACK",
  "UNSUBSCRIBE",
  "UNSUBACK",
  "PINGREQ",
  "PINGRESP",
  "DISCONNECT",
  "AUTH"
] as const

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

const decodeText = (bytes: Uint8Array): string | undefined => {
  try {
    return utf8.decode(bytes)
  } catch {
    return undefined
  }
}

class Walker {
  readonly packet: string
  private readonly bytes: Uint8Array
  position: number
  end: number

  constructor(packet: string, bytes: Uint8Array, position: number) {
    this.packet = packet
    this.bytes = bytes
    this.position = position
    this.end = bytes.length
  }

  get left(): number {
    return this.end - this.position
  }

  raw(length: number, what: string): Uint8Array {
    if (this.left < length) fail("FH-06p", `${this.packet}: ${what} runs past the end`, malformed)
    this.position += length
    return this.bytes.subarray(this.position - length, this.position)
  }

  u8(what: string): number {
    return this.raw(1, what)[0]!
  }

  u16(what: string): number {
    const bytes = this.raw(2, what)
    return bytes[0]! * 256 + bytes[1]!
  }

  u32(what: string): number {
    return this.u16(what) * 65_536 + this.u16(what)
  }

  varint(what: string): number {
    let value = 0
    for (let index = 0; index < 4; index++) {
      const byte = this.u8(what)
      value += (byte & 0x7f) * 128 ** index
      if (byte >= 0x80) continue
      if (byte === 0 && index > 0) fail("VB-01b", `${this.packet}: ${what} is longer than needed`, malformed)
      return value
    }
    return fail("VB-02p", `${this.packet}: ${what} has more than four bytes`, malformed)
  }

  binary(what: string): Uint8Array {
    return this.raw(this.u16(what), what)
  }

  text(what: string, row = "U8-01b"): string {
    const text = decodeText(this.binary(what))
    if (text === undefined) return fail(row, `${this.packet}: ${what} is not UTF-8`, malformed)
    if (text.includes("\0")) fail(row === "U8-01b" ? "U8-02b" : row, `${this.packet}: ${what} holds U+0000`, malformed)
    return text
  }
}

type Kind = "bit" | "byte" | "u16" | "u32" | "varint" | "text" | "binary" | "pair"

const kinds: Readonly<Record<number, readonly [name: string, kind: Kind]>> = {
  0x01: ["Payload Format Indicator", "bit"],
  0x02: ["Message Expiry Interval", "u32"],
  0x03: ["Content Type", "text"],
  0x08: ["Response Topic", "text"],
  0x09: ["Correlation Data", "binary"],
  0x0b: ["Subscription Identifier", "varint"],
  0x11: ["Session Expiry Interval", "u32"],
  0x12: ["Assigned Client Identifier", "text"],
  0x13: ["Server Keep Alive", "u16"],
  0x15: ["Authentication Method", "text"],
  0x16: ["Authentication Data", "binary"],
  0x17: ["Request Problem Information", "bit"],
  0x18: ["Will Delay Interval", "u32"],
  0x19: ["Request Response Information", "bit"],
  0x1a: ["Response Information", "text"],
  0x1c: ["Server Reference", "text"],
  0x1f: ["Reason String", "text"],
  0x21: ["Receive Maximum", "u16"],
  0x22: ["Topic Alias Maximum", "u16"],
  0x23: ["Topic Alias", "u16"],
  0x24: ["Maximum QoS", "bit"],
  0x25: ["Retain Available", "bit"],
  0x26: ["User Property", "pair"],
  0x27: ["Maximum Packet Size", "u32"],
  0x28: ["Wildcard Subscription Available", "bit"],
  0x29: ["Subscription Identifier Available", "bit"],
  0x2a: ["Shared Subscription Available", "bit"]
}

const acks = [0x1f, 0x26]

/** Properties that a client may send, by packet; the Will is a packet of its own here. */
const allowed: Readonly<Record<string, ReadonlyArray<number>>> = {
  CONNECT: [0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27],
  Will: [0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26],
  PUBLISH: [0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26],
  PUBACK: acks,
  PUBREC: acks,
  PUBREL: acks,
  PUBCOMP: acks,
  SUBSCRIBE: [0x0b, 0x26],
  UNSUBSCRIBE: [0x26],
  DISCONNECT: [0x11, 0x1f, 0x26],
  AUTH: [0x15, 0x16, 0x1f, 0x26]
}

interface Properties {
  readonly values: ReadonlyMap<number, number | string | Uint8Array>
  readonly user: UserProperties | undefined
}

const none: Properties = { values: new Map(), user: undefined }

const misplaced = (packet: string, id: number): never => {
  const name = kinds[id]?.[0] ?? `property 0x${id.toString(16)}`
  if (packet === "PUBLISH" && id === 0x0b) {
    return fail("PB-27c", "PUBLISH: a client sent a Subscription Identifier", protocolError)
  }
  return fail("PR-02p", `${packet}: ${name} is not allowed`, malformed)
}

const readValue = (walker: Walker, name: string, kind: Exclude<Kind, "pair">): number | string | Uint8Array => {
  switch (kind) {
    case "bit": {
      const value = walker.u8(name)
      const row = name.startsWith("Request") ? "CN-28p" : name.startsWith("Payload") ? "PB-09p" : "PR-04p"
      return value > 1 ? fail(row, `${walker.packet}: ${name} is ${value}`, protocolError) : value
    }
    case "byte":
      return walker.u8(name)
    case "u16":
      return walker.u16(name)
    case "u32":
      return walker.u32(name)
    case "varint":
      return walker.varint(name)
    case "text":
      return walker.text(name)
    case "binary":
      return walker.binary(name)
  }
}

const readProperties = (walker: Walker, packet: string): Properties => {
  if (walker.left === 0) fail("PR-01b", `${packet}: Property Length is missing`, malformed)
  const length = walker.varint("Property Length")
  if (length > walker.left) fail("PR-08p", `${packet}: Property Length runs past the end`, malformed)
  const end = walker.end
  walker.end = walker.position + length
  const values = new Map<number, number | string | Uint8Array>()
  const user: Array<readonly [string, string]> = []
  while (walker.left > 0) {
    const id = walker.varint("property identifier")
    const known = kinds[id]
    if (known === undefined || !allowed[packet]!.includes(id)) return misplaced(packet, id)
    const [name, kind] = known
    if (kind === "pair") {
      user.push([walker.text(name, "U8-04b"), walker.text(name, "U8-04b")])
      continue
    }
    if (values.has(id)) fail(id === 0x0b ? "SB-08p" : "PR-03p", `${packet}: ${name} twice`, protocolError)
    values.set(id, readValue(walker, name, kind))
  }
  walker.end = end
  return { values, user: user.length === 0 ? undefined : user }
}

const checkResponseTopic = (packet: string, properties: Properties): void => {
  const topic = properties.values.get(0x08)
  if (typeof topic !== "string") return
  if (topic === "" || hasWildcard(topic)) fail("PB-19b", `${packet}: Response Topic is not a topic name`, protocolError)
}

const checkPayload = (row: string, packet: string, properties: Properties, payload: Uint8Array): void => {
  if (properties.values.get(0x01) === 1 && decodeText(payload) === undefined) {
    fail(row, `${packet}: the payload is not UTF-8 although it is marked so`, 0x99)
  }
}

const checkWill = (walker: Walker, version: 4 | 5): UserProperties | undefined => {
  const properties = version === 5 ? readProperties(walker, "Will") : none
  const topic = walker.text("will topic")
  if (topic === "" || hasWildcard(topic)) fail("CN-23c", `CONNECT: the will topic "${topic}" is not a topic name`, 0x90)
  checkResponseTopic("Will", properties)
  checkPayload("CN-25p", "Will", properties, walker.binary("will payload"))
  return properties.user
}

const checkConnect = (walker: Walker): Omit<Checked, "_tag" | "type"> => {
  if (walker.text("protocol name") !== "MQTT") fail("CN-03c", "CONNECT: the protocol name is not MQTT", 0x84)
  const version = walker.u8("protocol version")
  if (version !== 4 && version !== 5) return fail("CN-04c", `CONNECT: protocol version ${version}`, 0x84)
  const flags = walker.u8("connect flags")
  if ((flags & 0x01) !== 0) fail("CN-05c", "CONNECT: the reserved flag is set", malformed)
  const hasWill = (flags & 0x04) !== 0
  const willQos = (flags >> 3) & 3
  if (!hasWill && willQos !== 0) fail("CN-07c", "CONNECT: will QoS without a will", malformed)
  if (!hasWill && (flags & 0x20) !== 0) fail("CN-09c", "CONNECT: will retain without a will", malformed)
  if (willQos === 3) fail("CN-08c", "CONNECT: will QoS 3", malformed)
  const hasUsername = (flags & 0x80) !== 0
  const hasPassword = (flags & 0x40) !== 0
  if (version === 4 && hasPassword && !hasUsername) fail("CN-14c", "CONNECT: a password without a user name", malformed)
  walker.u16("keep alive")
  const properties = version === 5 ? readProperties(walker, "CONNECT") : none
  if (properties.values.get(0x21) === 0) fail("CN-27p", "CONNECT: Receive Maximum 0", protocolError)
  if (properties.values.get(0x27) === 0) fail("CN-27p", "CONNECT: Maximum Packet Size 0", protocolError)
  if (properties.values.has(0x16) && !properties.values.has(0x15)) {
    fail("CN-29p", "CONNECT: Authentication Data without a method", protocolError)
  }
  if (walker.left === 0) fail("CN-17c", "CONNECT: the client identifier is missing", malformed)
  walker.text("client identifier")
  const willUserProperties = hasWill ? checkWill(walker, version) : undefined
  if (hasUsername) walker.text("user name")
  if (hasPassword) walker.binary("password")
  return { userProperties: properties.user, willUserProperties }
}

const checkPublish = (walker: Walker, version: 4 | 5, flags: number): UserProperties | undefined => {
  const qos = (flags >> 1) & 3
  if (qos === 3) fail("PB-04b", "PUBLISH: QoS 3", malformed)
  if (qos === 0 && (flags & 8) !== 0) fail("PB-02b", "PUBLISH: DUP with QoS 0", protocolError)
  const topic = walker.text("topic name")
  if (hasWildcard(topic)) fail("PB-07b", `PUBLISH: the topic name "${topic}" holds a wildcard`, 0x90)
  if (qos > 0) checkPacketId(walker, "PI-02c")
  const properties = version === 5 ? readProperties(walker, "PUBLISH") : none
  if (topic === "" && !properties.values.has(0x23)) fail("PB-06b", "PUBLISH: the topic name is empty", protocolError)
  if (properties.values.get(0x23) === 0) fail("PB-13b", "PUBLISH: Topic Alias 0", 0x94)
  checkResponseTopic("PUBLISH", properties)
  checkPayload("PB-09p", "PUBLISH", properties, walker.raw(walker.left, "payload"))
  return properties.user
}

const checkPacketId = (walker: Walker, row: string): void => {
  if (walker.u16("packet identifier") === 0) fail(row, `${walker.packet}: packet identifier 0`, protocolError)
}

const publishCodes = [0x00, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]
const releaseCodes = [0x00, 0x92]

const ackCodes: Readonly<Record<number, readonly [row: string, codes: ReadonlyArray<number>]>> = {
  4: ["QF-17b", publishCodes],
  5: ["QF-18b", publishCodes],
  6: ["QF-19b", releaseCodes],
  7: ["QF-20b", releaseCodes]
}

const checkAck = (walker: Walker, version: 4 | 5, type: number): UserProperties | undefined => {
  checkPacketId(walker, "PI-04b")
  if (version === 4) {
    if (walker.left > 0) fail("FH-07p", `${walker.packet}: longer than two bytes`, malformed)
    return undefined
  }
  if (walker.left === 0) return undefined
  const [row, codes] = ackCodes[type]!
  const code = walker.u8("reason code")
  if (!codes.includes(code)) fail(row, `${walker.packet}: reason code 0x${code.toString(16)}`, protocolError)
  return walker.left === 0 ? undefined : readProperties(walker, walker.packet).user
}

const checkTopicFilter = (walker: Walker, version: 4 | 5): string => {
  const text = walker.text("topic filter")
  const wrong = checkFilter(version, text)
  if (wrong !== undefined) fail(wrong.row, `${walker.packet}: ${wrong.problem}`, wrong.reasonCode)
  return text
}

const checkSubscribe = (walker: Walker, version: 4 | 5): UserProperties | undefined => {
  checkPacketId(walker, "PI-02c")
  const properties = version === 5 ? readProperties(walker, "SUBSCRIBE") : none
  if (properties.values.get(0x0b) === 0) fail("SB-08p", "SUBSCRIBE: Subscription Identifier 0", protocolError)
  if (walker.left === 0) fail("SB-03c", "SUBSCRIBE: no filter", protocolError)
  while (walker.left > 0) {
    const filter = checkTopicFilter(walker, version)
    const options = walker.u8("subscription options")
    if ((options & (version === 5 ? 0xc0 : 0xfc)) !== 0 || (options & 3) === 3) {
      fail("SB-05c", `SUBSCRIBE: options 0x${options.toString(16)}`, malformed)
    }
    if (((options >> 4) & 3) === 3) fail("SB-06p", "SUBSCRIBE: Retain Handling 3", protocolError)
    if ((options & 4) !== 0 && parseFilter(version, filter).share !== undefined) {
      fail("SB-04c", `SUBSCRIBE: No Local on the shared subscription "${filter}"`, protocolError)
    }
  }
  return properties.user
}

const checkUnsubscribe = (walker: Walker, version: 4 | 5): UserProperties | undefined => {
  checkPacketId(walker, "PI-02c")
  const properties = version === 5 ? readProperties(walker, "UNSUBSCRIBE") : none
  if (walker.left === 0) fail("US-03c", "UNSUBSCRIBE: no filter", protocolError)
  while (walker.left > 0) checkTopicFilter(walker, version)
  return properties.user
}

/** Reason codes of DISCONNECT that a client may send. */
const disconnectCodes = new Set([
  0x00,
  0x04,
  0x80,
  0x81,
  0x82,
  0x83,
  0x90,
  0x93,
  0x94,
  0x95,
  0x96,
  0x97,
  0x98,
  0x99,
  0x9b
])

const checkDisconnect = (walker: Walker, version: 4 | 5): UserProperties | undefined => {
  if (version === 4) {
    if (walker.left > 0) fail("PR-07p", "DISCONNECT: bytes behind the fixed header on 3.1.1", malformed)
    return undefined
  }
  if (walker.left === 0) return undefined
  const code = walker.u8("reason code")
  if (!disconnectCodes.has(code)) fail("DC-03b", `DISCONNECT: reason code 0x${code.toString(16)}`, protocolError)
  return walker.left === 0 ? undefined : readProperties(walker, "DISCONNECT").user
}

const checkAuth = (walker: Walker): UserProperties | undefined => {
  if (walker.left === 0) fail("AU-14p", "AUTH: without Authentication Method", protocolError)
  const code = walker.u8("reason code")
  if (code !== 0x18 && code !== 0x19) fail("AU-02b", `AUTH: reason code 0x${code.toString(16)}`, protocolError)
  const properties = walker.left === 0 ? none : readProperties(walker, "AUTH")
  if (!properties.values.has(0x15)) fail("AU-14p", "AUTH: without Authentication Method", protocolError)
  return properties.user
}

/** The rows of the reserved flags; every other packet is under the general one. */
const flagRows: Readonly<Record<number, string>> = {
  6: "QF-21b",
  8: "SB-01c",
  10: "US-01c",
  14: "DC-02b",
  15: "AU-01b"
}

const checkHeader = (frame: Uint8Array, version: 4 | 5 | undefined, type: number): void => {
  const name = names[type]!
  if (type === 0) fail("FH-03p", "packet type 0", malformed)
  if (type === 15 && version === 4) fail("AU-01b", "AUTH on MQTT 3.1.1", malformed)
  if (type === 2 || type === 9 || type === 11 || type === 13) fail("FH-04p", `a client sent ${name}`, protocolError)
  const flags = frame[0]! & 0x0f
  const wanted = type === 6 || type === 8 || type === 10 ? 2 : 0
  if (type !== 3 && flags !== wanted) fail(flagRows[type] ?? "FH-01b", `${name}: flags ${flags}`, malformed)
}

const checkBody = (walker: Walker, version: 4 | 5, type: number, flags: number): Omit<Checked, "_tag" | "type"> => {
  const only = (userProperties: UserProperties | undefined) => ({ userProperties, willUserProperties: undefined })
  switch (type) {
    case 1:
      return checkConnect(walker)
    case 3:
      return only(checkPublish(walker, version, flags))
    case 4:
    case 5:
    case 6:
    case 7:
      return only(checkAck(walker, version, type))
    case 8:
      return only(checkSubscribe(walker, version))
    case 10:
      return only(checkUnsubscribe(walker, version))
    case 12:
      if (walker.left > 0) fail("KA-10p", "PINGREQ: with a body", malformed)
      return only(undefined)
    case 14:
      return only(checkDisconnect(walker, version))
    default:
      return only(checkAuth(walker))
  }
}

/**
 * Walks over one whole packet. `version` is that of the connection; CONNECT brings its own.
 *
 * @internal
 */
export const check = (version: 4 | 5 | undefined, frame: Uint8Array): Checked | Broken => {
  const type = frame[0]! >> 4
  try {
    checkHeader(frame, version, type)
    const header = fixedHeader(frame)
    if (header === undefined || header === "malformed") {
      return { _tag: "Broken", ...finding("VB-02p", `${names[type]}: Remaining Length`, malformed) }
    }
    const isOverlong = header.headerLength > 2 && frame[header.headerLength - 1] === 0
    if (isOverlong && version !== 4) fail("VB-01b", `${names[type]}: Remaining Length is longer than needed`, malformed)
    const walker = new Walker(names[type]!, frame, header.headerLength)
    const checked = checkBody(walker, version ?? 5, type, frame[0]! & 0x0f)
    if (walker.left > 0) fail("FH-06p", `${names[type]}: ${walker.left} bytes left over`, malformed)
    return { _tag: "Checked", type, ...checked }
  } catch (thrown) {
    if (thrown instanceof Breach) return { _tag: "Broken", ...thrown.finding }
    throw thrown
  }
}
