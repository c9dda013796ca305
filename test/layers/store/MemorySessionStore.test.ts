import { describe } from "@effect/vitest"
import { Effect } from "effect"
import { makeMemory } from "../../../src/layers/store/MemorySessionStore.ts"
import { behavesAsStore } from "../../support/SessionStoreSuite.ts"

describe("MemorySessionStore", () => {
  behavesAsStore(
    Effect.sync(() => {
      const store = makeMemory()
      return { store: Effect.succeed(store) }
    }),
    { programs: 100, isSerial: true }
  )
})
