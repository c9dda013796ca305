/**
 * Where the options of an attempt come from.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { ClientOptions, Credentials } from "../../services/ClientOptions.ts"
import * as Endpoint from "../../services/Endpoint.ts"
import { ConnectTimeout } from "../../services/MqttError.ts"
import type { InvalidOptions, OptionsUnavailable } from "../../services/MqttError.ts"
import { resolve } from "../../services/ResolvedOptions.ts"
import type { ResolvedOptions } from "../../services/ResolvedOptions.ts"
import { orUnavailable, resolveCredentials } from "../connection/Connection.ts"
import { lifetime } from "./Renewal.ts"

/** Options that were given, or an effect that is evaluated at every attempt. */
export type OptionsSource =
  | { readonly _tag: "Given"; readonly options: ClientOptions; readonly resolved: ResolvedOptions }
  | { readonly _tag: "Evaluated"; readonly effect: Effect.Effect<ClientOptions, unknown> }

/** What an attempt needs, had beforehand. */
export type Prefetched =
  | { readonly _tag: "Options"; readonly options: ClientOptions; readonly resolved: ResolvedOptions }
  | { readonly _tag: "Credentials"; readonly credentials: Credentials }

/**
 * Has what the next attempt at the endpoint of `last` needs. Credentials say when they end as a moment then, since time
 * passes until they are used.
 */
export const prefetch = Effect.fnUntraced(function*(
  source: OptionsSource,
  last: ResolvedOptions
): Effect.fn.Return<Prefetched, OptionsUnavailable | InvalidOptions | ConnectTimeout> {
  if (source._tag === "Evaluated") {
    const [options, resolved] = yield* evaluate(source.effect, last)
    return { _tag: "Options", options, resolved }
  }
  const bounded = withinTimeout(last.connectTimeoutMillis, Endpoint.toUrl(last.endpoint))
  const credentials = yield* bounded(resolveCredentials(last))
  const now = yield* Clock.currentTimeMillis
  const left = lifetime(credentials, now)
  return {
    _tag: "Credentials",
    credentials: left === undefined ? credentials : { ...credentials, expiresIn: undefined, expiresAt: now + left }
  }
})

const withinTimeout = (timeoutMillis: number, address: string) => <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.timeoutOrElse(effect, {
    duration: timeoutMillis,
    orElse: () => Effect.fail(new ConnectTimeout({ address, phase: "options", timeoutMillis }))
  })

/** Evaluates and checks options, bounded like an attempt. */
export const evaluate = (
  effect: Effect.Effect<ClientOptions, unknown>,
  last: ResolvedOptions | undefined
): Effect.Effect<readonly [ClientOptions, ResolvedOptions], OptionsUnavailable | InvalidOptions | ConnectTimeout> => {
  const timeoutMillis = last?.connectTimeoutMillis ?? 10_000
  return orUnavailable(effect).pipe(
    withinTimeout(timeoutMillis, last === undefined ? "the broker" : Endpoint.toUrl(last.endpoint)),
    Effect.flatMap((options) =>
      Effect.fromResult(Result.map(resolve(options), (resolved) => [options, resolved] as const))
    )
  )
}
