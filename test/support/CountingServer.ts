/**
 * A server in the same process that does next to nothing, and counters of what a client does to talk with it: socket writes,
 * steps and turns of fibers, fibers and spans. All of them are the same in every run, whatever else the machine does.
 */
import { Effect, Layer, Scheduler, Tracer } from "effect"
import type { Fiber } from "effect"
import type { Connection } from "../../src/services/Transport.ts"
import { Transport, TransportError } from "../../src/services/Transport.ts"

export interface Counts {
  writes: number
  bytes: number
  pulls: number
  /** What the run loops of all fibers evaluated. */
  steps: number
  /** Trips through the event loop. */
  turns: number
  /** Tasks that were given to a scheduler. */
  tasks: number
  fibers: number
  spans: number
}

/** A flood that the client asks for with a PUBLISH to `$flood`. */
export interface Flood {
  readonly count: number
  readonly qos: 0 | 1
}

const floodChunks = ({ count, qos }: Flood): Array<Uint8Array> => {
  const chunks: Array<Uint8Array> = []
  const perChunk = 800
  for (let from = 0; from < count; from += perChunk) {
    const bytes: Array<number> = []
    for (let index = from; index < Math.min(count, from + perChunk); index++) {
      const id = index % 65_535 + 1
      const body = [0, 1, 0x74, ...qos === 0 ? [] : [id >> 8, id & 255], ...Array.from({ length: 64 }, () => 0x61)]
      bytes.push(0x30 | qos << 1, body.length, ...body)
    }
    chunks.push(Uint8Array.from(bytes))
  }
  return chunks
}

/** The end of one connection that the client has; MQTT 3.1.1. */
const makeConnection = (counts: Counts, flood: Flood): Connection => {
  const arrived: Array<Uint8Array> = []
  let reader: ((effect: Effect.Effect<[Uint8Array], TransportError>) => void) | undefined
  let isOver = false
  const failure = () =>
    Effect.fail(new TransportError({ phase: "read", kind: isOver ? "aborted" : "eof", address: "counted" }))
  const deliver = (...chunks: ReadonlyArray<Uint8Array>) => {
    // As a network would: later, and not in the middle of a write.
    setImmediate(() => {
      arrived.push(...chunks)
      const resume = reader
      if (resume === undefined || arrived.length === 0) return
      reader = undefined
      resume(Effect.succeed([arrived.shift()!]))
    })
  }
  const answer = (bytes: Uint8Array): void => {
    const acks: Array<number> = []
    for (let at = 0; at < bytes.length;) {
      const first = bytes[at]!
      let start = at + 1
      let length = 0
      for (let shift = 0, byte = 0x80; byte > 127; shift += 7) {
        byte = bytes[start++]!
        length |= (byte & 0x7f) << shift
      }
      const topicEnd = start + 2 + (bytes[start]! << 8 | bytes[start + 1]!)
      if (first >> 4 === 1) acks.push(0x20, 2, 0, 0)
      else if (first >> 4 === 8) acks.push(0x90, 3, bytes[start]!, bytes[start + 1]!, 1)
      else if (first >> 4 === 10) acks.push(0xb0, 2, bytes[start]!, bytes[start + 1]!)
      else if (first >> 4 === 6) acks.push(0x70, 2, bytes[start]!, bytes[start + 1]!)
      else if (first >> 4 === 3) {
        const qos = first >> 1 & 3
        if (qos > 0) acks.push(qos === 1 ? 0x40 : 0x50, 2, bytes[topicEnd]!, bytes[topicEnd + 1]!)
        else if (bytes[start + 2] === 0x24) deliver(...floodChunks(flood))
      }
      at = start + length
    }
    if (acks.length > 0) deliver(Uint8Array.from(acks))
  }
  return {
    pull: Effect.suspend(() => {
      counts.pulls++
      if (isOver) return failure()
      if (arrived.length > 0) return Effect.succeed([arrived.shift()!] as const)
      return Effect.callback<[Uint8Array], TransportError>((resume) => {
        reader = resume
      })
    }),
    write: (chunk) =>
      Effect.sync(() => {
        counts.writes++
        counts.bytes += chunk.length
        answer(chunk)
      }),
    abort: Effect.sync(() => {
      isOver = true
      reader?.(failure())
    })
  }
}

/** What `scenario` costs between the two moments at which it calls `mark`. */
export const count = <E>(
  flood: Flood,
  scenario: (mark: Effect.Effect<void>) => Effect.Effect<unknown, E, Transport>
): Effect.Effect<Counts, E> =>
  Effect.suspend(() => {
    const counts: Counts = { writes: 0, bytes: 0, pulls: 0, steps: 0, turns: 0, tasks: 0, fibers: 0, spans: 0 }
    const marks: Array<Counts> = []
    class CountingScheduler extends Scheduler.MixedScheduler {
      override shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
        counts.steps++
        return super.shouldYield(fiber)
      }
      override makeDispatcher() {
        const dispatcher = super.makeDispatcher()
        const schedule = dispatcher.scheduleTask.bind(dispatcher)
        dispatcher.scheduleTask = (task, priority) => {
          counts.tasks++
          schedule(task, priority)
        }
        return dispatcher
      }
    }
    const scheduler = new CountingScheduler("async", (task) => {
      const handle = setImmediate(() => {
        counts.turns++
        task()
      })
      return () => clearImmediate(handle)
    })
    const tracer = Tracer.make({
      span: (options) => {
        counts.spans++
        return new Tracer.NativeSpan(options)
      }
    })
    const transport = Layer.succeed(Transport, {
      connect: () =>
        Effect.acquireRelease(Effect.sync(() => makeConnection(counts, flood)), (connection) => connection.abort)
    })
    // Identifiers of fibers ascend, so that of a new one tells how many there were.
    const mark = Effect.map(Effect.forkChild(Effect.void), (fiber) => {
      marks.push({ ...counts, fibers: fiber.id })
    })
    return Effect.map(
      scenario(mark).pipe(
        Effect.provide(transport),
        Effect.provideService(Scheduler.Scheduler, scheduler),
        Effect.provideService(Tracer.Tracer, tracer)
      ),
      () => {
        const [before, after] = marks as [Counts, Counts]
        const difference = (name: keyof Counts) => after[name] - before[name]
        return {
          writes: difference("writes"),
          bytes: difference("bytes"),
          pulls: difference("pulls"),
          steps: difference("steps"),
          turns: difference("turns"),
          tasks: difference("tasks"),
          // One is that of the second mark.
          fibers: difference("fibers") - 1,
          spans: difference("spans")
        }
      }
    )
  })
