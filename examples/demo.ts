/**
 * The four ideas of this client, told on a running system: devices publish, a service consumes, and the network, the broker
 * and the operator do what they do.
 *
 *     npm run demo                              # with an embedded broker
 *     npm run demo -- --url mqtt://host:port    # with yours
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Clock, Console, Effect, Fiber, Redacted, Stream, SubscriptionRef } from "effect"
import * as Net from "node:net"
import { parseArgs } from "node:util"
import type { Status } from "../src/index.ts"
import { Endpoint, Message } from "../src/index.ts"
import { MqttClient } from "../src/node.ts"
import * as EmbeddedBroker from "./EmbeddedBroker.ts"
import * as FaultyLink from "./FaultyLink.ts"

const devices = ["boiler", "pump", "valve"]

// ---------------------------------------------------------------------------
// the storyteller
// ---------------------------------------------------------------------------

const makeStory = Effect.gen(function*() {
  const start = yield* Clock.currentTimeMillis
  const line = (text: string) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const seconds = ((now - start) / 1000).toFixed(2).padStart(6)
      return Console.log(`${seconds} s  ${text}`)
    })
  return {
    chapter: (title: string) => Effect.andThen(Console.log(""), line(title)),
    say: (text: string) => line(`  ${text}`)
  }
})

const describe = (status: Status.Status): string => {
  switch (status._tag) {
    case "Connecting":
      return `connecting, attempt ${status.attempt}`
    case "Connected": {
      const { clientId, keepAliveMillis, protocolVersion, sessionPresent } = status.negotiated
      const version = protocolVersion === 5 ? "MQTT 5.0" : "MQTT 3.1.1"
      const session = sessionPresent ? "session resumed" : "new session"
      return `connected as ${clientId}: ${version}, keep alive ${keepAliveMillis / 1000} s, ${session}`
    }
    case "Reconnecting":
      return `lost (${status.cause.message}); next attempt in ${Math.round(status.delayMillis)} ms`
    case "Paused":
      return "paused"
    case "Halted":
      return `halted: ${status.cause.message}`
    case "Closed":
      return "closed"
  }
}

/** The devices publish and the service consumes, and nothing else happens. */
const meanwhile = Effect.sleep("500 millis")

/** A loopback port on which nobody listens. */
const closedPort = Effect.callback<number>((resume) => {
  const server = Net.createServer()
  server.listen(0, "127.0.0.1", () => {
    const { port } = server.address() as Net.AddressInfo
    server.close(() => resume(Effect.succeed(port)))
  })
})

const readUrl = (url: string) =>
  Effect.fromResult(Endpoint.fromUrl(url)).pipe(
    Effect.filterOrFail((endpoint) => endpoint._tag === "Tcp", () => "the demo needs mqtt://"),
    Effect.mapError((problem) => new Error(`--url: ${problem}`))
  )

// ---------------------------------------------------------------------------
// the story
// ---------------------------------------------------------------------------

const demo = Effect.fnUntraced(function*(url: string | undefined) {
  const { chapter, say } = yield* makeStory
  const broker = url === undefined
    ? yield* EmbeddedBroker.make
    : yield* readUrl(url)
  const direct = Endpoint.tcp(broker.host, broker.port)
  const link = yield* FaultyLink.make(broker)
  yield* Console.log(`effect-mqtt with ${url === undefined ? "the embedded broker aedes" : url}`)

  yield* chapter("1. The first connect is an answer")
  const nobody = Endpoint.tcp("127.0.0.1", yield* closedPort)
  yield* say(`dialling ${Endpoint.toUrl(nobody)}, where nobody listens`)
  yield* MqttClient.make({ endpoint: nobody }).pipe(
    Effect.scoped,
    Effect.catchTag("ConnectError", (error) => say(`caught: ${error.reason._tag}: ${error.message}`))
  )
  if (url === undefined) {
    yield* say("now with a user that the broker does not like")
    yield* MqttClient.make({
      endpoint: direct,
      credentials: { username: "intruder", password: Redacted.make("guess") }
    }).pipe(
      Effect.scoped,
      Effect.catchReason("ConnectError", "ConnectRefused", (reason) => say(`caught: ${reason._tag}: ${reason.message}`))
    )
  }

  // Everything below runs at once: devices that publish, and a service that consumes them as a Stream.
  const run = Math.random().toString(36).slice(2, 8)
  const topic = (device: string) => `effect-mqtt-demo/${run}/${device}/temperature`
  const service = yield* MqttClient.make({
    endpoint: link.url,
    clientId: `demo${run}`,
    keepAlive: "1 second",
    sessionExpiry: "5 minutes"
  })
  yield* service.statusChanges.pipe(
    Stream.runForEach((status) => say(`  service: ${describe(status)}`)),
    Effect.forkScoped
  )
  const received = yield* SubscriptionRef.make(0)
  const seen = new Set<string>()
  let repeated = 0
  const subscription = yield* service.subscription(topic("+"), { qos: 1 })
  yield* subscription.messages.pipe(
    Stream.runForEach((message) => {
      const reading = `${message.topic} ${Message.text(message)}`
      // QoS 1 is at least once: after a lost link a message may come again, and it is the reading that counts.
      if (seen.has(reading)) return Effect.sync(() => void repeated++)
      seen.add(reading)
      return SubscriptionRef.set(received, seen.size)
    }),
    Effect.forkScoped
  )
  /** Waits until the service has received so many. */
  const awaitReceived = (count: number) =>
    SubscriptionRef.changes(received).pipe(Stream.filter((now) => now >= count), Stream.runHead, Effect.asVoid)

  const field = yield* MqttClient.make({ endpoint: direct, clientId: `field${run}` })
  let sent = 0
  let working = true
  const device = Effect.fnUntraced(function*(name: string) {
    for (let reading = 1; working; reading++) {
      yield* field.publish({ topic: topic(name), payload: `reading ${reading}`, qos: 1 })
      sent++
      yield* Effect.sleep("25 millis")
    }
  })

  yield* chapter(`Three devices publish at QoS 1, a service consumes ${topic("+")}`)
  const work = yield* Effect.forkChild(Effect.forEach(devices, device, { concurrency: "unbounded", discard: true }))
  yield* awaitReceived(50)
  yield* say(`${yield* SubscriptionRef.get(received)} received`)

  yield* chapter("2. A half-open link is found")
  const silent = yield* Clock.currentTimeMillis
  const lost = yield* service.statusChanges.pipe(
    Stream.filter((status) => status._tag === "Reconnecting"),
    Stream.runHead,
    Effect.forkChild({ startImmediately: true })
  )
  yield* link.fallSilent
  yield* say("the network falls silent; the sockets stay open, and nobody is told")
  yield* Fiber.join(lost)
  yield* say(`found after ${(((yield* Clock.currentTimeMillis) - silent) / 1000).toFixed(2)} s`)
  yield* link.recover
  yield* service.awaitConnected
  yield* awaitReceived(sent)
  yield* say("the session kept what the devices sent in the meantime: all caught up")
  yield* meanwhile

  yield* chapter("3. Pause and resume")
  yield* service.pause
  const before = sent
  yield* Effect.sleep("1500 millis")
  yield* say(`${sent - before} readings were sent while the service left the network alone`)
  yield* service.resume
  yield* awaitReceived(sent)
  yield* say("all of them arrived after the resume")
  yield* meanwhile

  yield* chapter("4. Reconnect with other options, live")
  yield* say("on MQTT 3.1.1, with another keep alive; session and stream are the same")
  yield* service.reconnect((options) => ({ ...options, protocolVersion: 4, keepAlive: "30 seconds" }))
  yield* awaitReceived(sent + 50)
  yield* say("readings keep coming")

  yield* chapter("The count")
  working = false
  yield* Fiber.join(work)
  yield* Effect.timeoutOption(awaitReceived(sent), "5 seconds")
  const count = yield* SubscriptionRef.get(received)
  yield* say(`sent ${sent}, received ${count}; ${repeated} came twice`)
  if (sent !== count) return yield* Effect.fail(new Error("the counts differ"))
})

const main = Effect.gen(function*() {
  const { values } = yield* Effect.try({
    try: () => parseArgs({ options: { url: { type: "string" } } }),
    catch: (cause) => new Error(`${(cause as Error).message}\nusage: npm run demo [-- --url mqtt://host:port]`)
  })
  yield* Effect.scoped(demo(values.url))
}).pipe(
  Effect.tapError((error) => Console.error(`demo: ${error.message}`))
)

NodeRuntime.runMain(main, { disableErrorReporting: true })
