/**
 * What keeps this process alive because of sockets.
 */
import { Effect } from "effect"

/** Lets the event loop poll its sockets a few times, so that what was closed is gone and what was sent has been read. */
export const poll = (turns = 20): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const turn = (left: number) => {
      if (left === 0) resume(Effect.void)
      else setImmediate(turn, left - 1)
    }
    turn(turns)
  })

/** The names of the handles and requests of sockets that are open, sorted. */
export const sockets: Effect.Effect<ReadonlyArray<string>> = Effect.andThen(
  poll(),
  Effect.sync(() =>
    process.getActiveResourcesInfo().filter((name) => /TCP|GetAddrInfo|Connect|Shutdown|Write|Process/.test(name))
      .sort()
  )
)
