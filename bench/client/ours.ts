/** Our client, as its documentation shows it, with the windows of the task and otherwise its defaults. */
import type { Scope } from "effect"
import { Effect, Stream } from "effect"
import type { Message } from "../../src/index.ts"
import { MqttClient } from "../../src/node.ts"
import {
  answer,
  filter,
  floodTopic,
  idleWarmup,
  Meter,
  payloadOf,
  quantiles,
  readTask,
  topicOf,
  topics,
  usedBytes
} from "./Task.ts"

const task = readTask()
const { qos, version, window } = task
const payload = payloadOf(task.size)
const messages = topics.map((topic): Message.OutgoingMessage => ({ topic, payload, qos }))

const options: MqttClient.ClientOptions = {
  endpoint: `mqtt://127.0.0.1:${task.port}`,
  protocolVersion: version,
  reconnect: false,
  ...task.kind === "publish" && qos > 0 ? { sendMaximum: window } : {},
  ...task.kind === "receive" && qos > 0 ? { receiveMaximum: window } : {},
  // Mosquitto 2.0.11 sends more than it may.
  ...task.flooded ? { onReceiveMaximumExceeded: "accept" } : {}
}

const publishSingle = Effect.fnUntraced(function*(client: MqttClient.MqttClientService) {
  const meter = new Meter(task, answer)
  let sent = 0
  let done = 0
  const worker = Effect.gen(function*() {
    while (!meter.isOver) {
      yield* client.publish(messages[sent++ & 63]!)
      if ((++done & 63) === 0) meter.tick(done)
    }
  })
  meter.begin()
  yield* Effect.all(Array.from({ length: window }, () => worker), { concurrency: "unbounded", discard: true })
})

const publishBatch = Effect.fnUntraced(function*(client: MqttClient.MqttClientService) {
  const meter = new Meter(task, answer)
  const batch = Array.from({ length: 1000 }, (_, index) => messages[index & 63]!)
  let done = 0
  meter.begin()
  while (!meter.isOver) {
    const outcomes = yield* client.publishAll(batch)
    done += outcomes.length
    meter.tick(done)
  }
})

const receive = Effect.fnUntraced(function*(client: MqttClient.MqttClientService) {
  let count = 0
  let dropped = 0
  const subscriptions: Array<MqttClient.Subscription> = []
  const meter = new Meter(task, (outcome) =>
    Effect.runFork(Effect.gen(function*() {
      for (const subscription of subscriptions) dropped += yield* subscription.dropped
      answer({ ...outcome, extra: { dropped } })
    })))
  const one = (messages: MqttClient.Subscription["messages"]) =>
    task.mode === "array"
      ? Stream.runForEachArray(messages, (batch) =>
        Effect.sync(() => {
          count += batch.length
          meter.tick(count)
        }))
      : Stream.runForEach(messages, () =>
        Effect.sync(() => {
          if ((++count & 63) === 0) meter.tick(count)
        }))
  const filters = task.subscriptions === 1
    ? [filter]
    : Array.from({ length: task.subscriptions }, (_, index) => topicOf(index))
  for (const each of filters) {
    const subscription = yield* client.subscription(each, { qos })
    subscriptions.push(subscription)
    yield* Effect.forkChild(one(subscription.messages))
  }
  meter.begin()
  if (!task.flooded) yield* client.publish({ topic: floodTopic(task) })
  return yield* Effect.never
})

const roundTrip = Effect.fnUntraced(function*(client: MqttClient.MqttClientService) {
  const millis: Array<number> = []
  const begin = performance.now()
  const message: Message.OutgoingMessage = { topic: topicOf(0), payload, qos: 1 }
  const end = begin + task.warmupMillis + task.measureMillis
  const worker = Effect.gen(function*() {
    for (let now = performance.now(); now < end;) {
      const sentAt = now
      yield* client.publish(message)
      now = performance.now()
      if (now - begin > task.warmupMillis) millis.push(now - sentAt)
    }
  })
  yield* Effect.all(Array.from({ length: window }, () => worker), { concurrency: "unbounded", discard: true })
  answer({ messages: millis.length, seconds: task.measureMillis / 1000, cpuMicros: 0, extra: quantiles(millis) })
})

const connects = Effect.gen(function*() {
  const millis: Array<number> = []
  while (millis.length < task.count) {
    const begin = performance.now()
    yield* Effect.scoped(Effect.map(MqttClient.make(options), () => millis.push(performance.now() - begin)))
  }
  answer({ messages: millis.length, seconds: 1, cpuMicros: 0, extra: quantiles(millis.slice(20)) })
})

const makeMany = (count: number) =>
  Effect.all(Array.from({ length: count }, () => MqttClient.make(options)), { concurrency: 50 })

const idle = Effect.gen(function*() {
  const first = yield* makeMany(idleWarmup)
  // What is still under way of them is none of the others'.
  yield* Effect.sleep("500 millis")
  const before = usedBytes()
  const residentBefore = process.memoryUsage.rss()
  const begin = performance.now()
  const clients = yield* makeMany(task.count)
  const seconds = (performance.now() - begin) / 1000
  yield* Effect.sleep("500 millis")
  const bytes = (usedBytes() - before) / task.count
  const resident = (process.memoryUsage.rss() - residentBefore) / task.count
  answer({
    messages: task.count,
    seconds,
    cpuMicros: 0,
    extra: { bytes, resident, clients: first.length + clients.length }
  })
  return yield* Effect.never
}).pipe(Effect.scoped)

const slow = Effect.fnUntraced(function*(client: MqttClient.MqttClientService) {
  let taken = 0
  let most = 0
  const subscription = yield* client.subscription(filter, { qos })
  yield* Effect.forkChild(Stream.runForEach(subscription.messages, () => {
    taken++
    return Effect.sleep("1 millis")
  }))
  yield* client.publish({ topic: floodTopic(task) })
  const begin = performance.now()
  while (performance.now() - begin < task.measureMillis) {
    yield* Effect.sleep("50 millis")
    most = Math.max(most, process.memoryUsage.rss())
  }
  const dropped = yield* subscription.dropped
  answer({ messages: taken, seconds: task.measureMillis / 1000, cpuMicros: 0, extra: { resident: most, dropped } })
})

/** Publishes and receives so many messages, and looks at the memory twenty times on the way. */
const soak = Effect.fnUntraced(function*(client: MqttClient.MqttClientService) {
  const subscription = yield* client.subscription(filter, { qos: 1 })
  let received = 0
  yield* Effect.forkChild(Stream.runForEachArray(subscription.messages, (batch) =>
    Effect.sync(() => {
      received += batch.length
    })))
  yield* client.publish({ topic: floodTopic(task) })
  const batch = Array.from({ length: 1000 }, (_, index) => messages[index & 63]!)
  const samples: Array<readonly [number, number]> = []
  const begin = performance.now()
  let sent = 0
  for (let sample = 0; sample < 20; sample++) {
    while (sent < task.count * (sample + 1) / 20) sent += (yield* client.publishAll(batch)).length
    samples.push([sent + received, usedBytes()])
  }
  // What is warming up is left out: the slope of the later three quarters, by least squares.
  const late = samples.slice(5)
  const meanX = late.reduce((sum, [x]) => sum + x, 0) / late.length
  const meanY = late.reduce((sum, [, y]) => sum + y, 0) / late.length
  const slope = late.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0) /
    late.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0)
  const seconds = (performance.now() - begin) / 1000
  answer({ messages: sent + received, seconds, cpuMicros: 0, extra: { slope, bytes: samples.at(-1)![1] } })
})

const run = <E>(use: (client: MqttClient.MqttClientService) => Effect.Effect<unknown, E, Scope.Scope>) =>
  Effect.scoped(Effect.flatMap(MqttClient.make(options), use))

const program = (): Effect.Effect<unknown, unknown> => {
  switch (task.kind) {
    case "publish":
      return run(task.mode === "batch" ? publishBatch : publishSingle)
    case "receive":
      return run(receive)
    case "roundtrip":
      return run(roundTrip)
    case "connect":
      return connects
    case "idle":
      return idle
    case "slow":
      return run(slow)
    case "soak":
      return run(soak)
  }
}

Effect.runPromise(program()).catch((error: unknown) => {
  console.error(error)
  process.exit(1)
})
