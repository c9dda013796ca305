/**
 * What a supervisor is made of.
 *
 * @since 0.1.0
 */
import type { ClientOptions } from "../../services/ClientOptions.ts"
import type { ResolvedOptions } from "../../services/ResolvedOptions.ts"
import type { ClientCore } from "../ClientCore.ts"
import type { Answer } from "./Command.ts"
import type { EndpointCycle } from "./EndpointCycle.ts"
import type { OptionsSource } from "./OptionsSource.ts"
import type { StatusCell } from "./StatusCell.ts"

export interface SupervisorOptions {
  readonly core: ClientCore
  readonly status: StatusCell
  readonly source: OptionsSource
  readonly initial: ClientOptions
  readonly resolved: ResolvedOptions
  readonly evaluationMillis: number
  readonly generatedClientId: string
  readonly first: Answer | undefined
  /** Has chosen the first endpoint. */
  readonly cycle: EndpointCycle
  readonly random: () => number
}
