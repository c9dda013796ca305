/**
 * Entry point `effect-mqtt/testing`: an in-memory network and broker for tests in virtual time.
 *
 * @since 0.1.0
 */
export * from "./testing/index.ts"
