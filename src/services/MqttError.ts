/**
 * Every typed failure of the client.
 *
 * An operation fails with one error per kind of operation (`ConnectError`, `PublishError`, `SubscribeError`), which holds a
 * narrow `reason`; `Effect.catchTag` takes the error, `Effect.catchReason` one reason. `LinkLost` tells why an established
 * connection ended: it is seen in the status, and is never the failure of an operation of its own.
 *
 * No error ever holds a password, a token or a payload.
 *
 * @since 0.1.0
 */
export * from "./ConnectError.ts"
export * from "./LinkLost.ts"
export * from "./PingError.ts"
export * from "./PublishError.ts"
export * from "./ReauthenticateError.ts"
export * from "./ServerLimits.ts"
export { NoSessionStore, SessionStoreError } from "./SessionStore.ts"
export * from "./SubscribeError.ts"
