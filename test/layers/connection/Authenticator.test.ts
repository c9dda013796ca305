import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Scope } from "effect"
import * as Authenticator from "../../../src/layers/connection/Authenticator.ts"
import type { LinkState } from "../../../src/layers/connection/LinkState.ts"
import { TransportLost } from "../../../src/services/MqttError.ts"
import { TransportError } from "../../../src/services/Transport.ts"

describe("Authenticator", () => {
  it.effect("an exchange whose connection ends before it has begun fails with the cause of that, each time", () =>
    Effect.gen(function*() {
      const authenticator = yield* Authenticator.begin({ method: "M", exchange: Effect.succeed({}) })
      const cause = new TransportLost({
        cause: new TransportError({ phase: "read", kind: "reset", address: "broker:1883" })
      })
      const link = { cause, ended: Deferred.makeUnsafe(), phase: "over" } as unknown as LinkState
      const scope = yield* Scope.make()
      yield* Scope.close(scope, Exit.void)
      for (let time = 0; time < 2; time++) {
        const error = yield* Effect.flip(authenticator.reauthenticate(link, scope))
        assert.strictEqual(error.reason, cause)
      }
    }))
})
