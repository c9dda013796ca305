/** MQTT.js, as its documentation shows it: callbacks, and no store but the one in memory that it always has. */
import type { Buffer } from "node:buffer"
import type { IClientOptions, MqttClient } from "mqtt"
import { connect } from "mqtt"
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
const payload = payloadOf(task.size) as Buffer

const options: IClientOptions = {
  host: "127.0.0.1",
  port: task.port,
  protocolVersion: version,
  reconnectPeriod: 0,
  keepalive: 60
}

const open = (then: (client: MqttClient) => void): void => {
  const client = connect(options)
  client.on("error", (error) => {
    throw error
  })
  client.once("connect", () => then(client))
}

/** Refills when half of the window is free, which is faster here than one by one. */
const publish = (client: MqttClient): void => {
  const meter = new Meter(task, answer)
  let sent = 0
  let done = 0
  const fill = (): void => {
    while (sent - done < window) client.publish(topics[sent++ & 63]!, payload, { qos }, onDone)
  }
  const onDone = (): void => {
    done++
    if (sent - done > window / 2) return
    meter.tick(done)
    if (!meter.isOver) fill()
  }
  meter.begin()
  fill()
}

const receive = (client: MqttClient): void => {
  const meter = new Meter(task, answer)
  let count = 0
  const filters = task.subscriptions === 1
    ? [filter]
    : Array.from({ length: task.subscriptions }, (_, index) => topicOf(index))
  client.on("message", () => {
    if ((++count & 127) === 0) meter.tick(count)
  })
  client.subscribe(filters, { qos }, () => {
    meter.begin()
    if (!task.flooded) client.publish(floodTopic(task), "")
  })
}

const roundTrip = (client: MqttClient): void => {
  const millis: Array<number> = []
  const begin = performance.now()
  const send = (): void => {
    const sentAt = performance.now()
    client.publish(topicOf(0), payload, { qos: 1 }, () => {
      const now = performance.now()
      if (now - begin > task.warmupMillis) millis.push(now - sentAt)
      if (now - begin < task.warmupMillis + task.measureMillis) send()
      else {answer({
          messages: millis.length,
          seconds: task.measureMillis / 1000,
          cpuMicros: 0,
          extra: quantiles(millis)
        })}
    })
  }
  for (let index = 0; index < window; index++) send()
}

const connects = (): void => {
  const millis: Array<number> = []
  const next = (): void => {
    const begin = performance.now()
    open((client) => {
      millis.push(performance.now() - begin)
      client.end(false, () => {
        if (millis.length < task.count) next()
        else answer({ messages: millis.length, seconds: 1, cpuMicros: 0, extra: quantiles(millis.slice(20)) })
      })
    })
  }
  next()
}

/** Connects so many clients, fifty at a time. */
const openMany = (count: number, onOpen: (clients: ReadonlyArray<MqttClient>) => void): void => {
  const clients: Array<MqttClient> = []
  let begun = 0
  const next = (): void => {
    if (begun === count) return
    begun++
    open((client) => {
      clients.push(client)
      if (clients.length === count) onOpen(clients)
      else next()
    })
  }
  for (let index = 0; index < 50; index++) next()
}

const idle = (): void =>
  openMany(idleWarmup, (first) => {
    // What is still under way of them is none of the others'.
    setTimeout(() => {
      const before = usedBytes()
      const residentBefore = process.memoryUsage.rss()
      const begin = performance.now()
      openMany(task.count, (clients) => {
        const seconds = (performance.now() - begin) / 1000
        setTimeout(() => {
          const bytes = (usedBytes() - before) / task.count
          const resident = (process.memoryUsage.rss() - residentBefore) / task.count
          const open = first.length + clients.length
          answer({ messages: task.count, seconds, cpuMicros: 0, extra: { bytes, resident, clients: open } })
        }, 500)
      })
    }, 500)
  })

/** The back pressure that it has: `handleMessage` calls back when the next one may come. */
const slow = (client: MqttClient): void => {
  let taken = 0
  let most = 0
  const begin = performance.now()
  const watch = setInterval(() => {
    most = Math.max(most, process.memoryUsage.rss())
    if (performance.now() - begin < task.measureMillis) return
    clearInterval(watch)
    answer({ messages: taken, seconds: task.measureMillis / 1000, cpuMicros: 0, extra: { resident: most } })
  }, 50)
  client.handleMessage = (_packet, callback) => {
    taken++
    setTimeout(callback, 1)
  }
  client.subscribe(filter, { qos }, () => client.publish(floodTopic(task), ""))
}

switch (task.kind) {
  case "publish":
    open(publish)
    break
  case "receive":
    open(receive)
    break
  case "roundtrip":
    open(roundTrip)
    break
  case "connect":
    connects()
    break
  case "idle":
    idle()
    break
  case "slow":
    open(slow)
    break
  default:
    throw new Error(`MQTT.js has no ${task.kind}`)
}
