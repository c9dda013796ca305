/**
 * Which endpoint comes next: rounds over the list, what is left out of them, and where redirects lead.
 *
 * Plain state without time: it is told what came of each attempt.
 *
 * @since 0.1.0
 */
import { ServerReference } from "../../protocol/index.ts"
import * as Endpoint from "../../services/Endpoint.ts"
import type { EndpointFailure } from "../../services/MqttError.ts"
import { noMap, ownMap } from "../../protocol/EmptyCollections.ts"
import { change, urlOf } from "../../services/ResolvedOptions.ts"
import type { ResolvedEndpoint, ResolvedOptions } from "../../services/ResolvedOptions.ts"

/** Servers that a client lets itself be sent to, one after the other, before it gives up. */
export const maximumHops = 3

/** What an attempt is made at. */
export interface Candidate {
  /** The endpoint of the list that it stands for. */
  readonly key: string
  readonly endpoint: Endpoint.Endpoint
  readonly url: string
  /** The servers that sent us here, from the one of the list on. */
  readonly hops: ReadonlyArray<string>
  /** Whether all of them moved for good. */
  readonly isMove: boolean
}

/**
 * What follows a failure:
 *
 * - `Next`: another endpoint is to be tried at once
 * - `Over`: all had their turn, so it is time to back off
 * - `Exhausted`: none is left that may be tried again
 */
export type Outcome =
  | { readonly _tag: "Next" }
  | { readonly _tag: "Over" | "Exhausted"; readonly failures: ReadonlyArray<EndpointFailure> }

const next: Outcome = { _tag: "Next" }

const none: ReadonlyArray<never> = []

interface Entry extends ResolvedEndpoint {
  readonly key: string
  readonly url: string
}

/** Entries with a key that does not depend on their place; one that is listed twice has two. */
const keyed = (endpoints: ReadonlyArray<ResolvedEndpoint>): ReadonlyArray<Entry> => {
  const counts = new Map<string, number>()
  return endpoints.map((entry) => {
    const url = urlOf(entry.endpoint)
    const count = counts.get(url) ?? 0
    counts.set(url, count + 1)
    return { ...entry, key: count === 0 ? url : `${url}#${count}`, url }
  })
}

/** Fisher and Yates. `random` gives numbers from 0 to below 1. */
const shuffle = (keys: Array<string>, random: () => number): Array<string> => {
  for (let index = keys.length - 1; index > 0; index--) {
    const other = Math.floor(random() * (index + 1))
    const key = keys[index]!
    keys[index] = keys[other]!
    keys[other] = key
  }
  return keys
}

export class EndpointCycle {
  readonly #random: () => number
  #current: Candidate | undefined
  #entries: ReadonlyArray<Entry> = none
  /** The keys in the order of this round. */
  #order: ReadonlyArray<string> = none
  #tried: ReadonlyArray<string> = none
  #attempts = 0
  /** Endpoints that refused for good, and why, where an attempt failed. */
  #out = noMap<string, EndpointFailure | undefined>()
  #failures: ReadonlyArray<EndpointFailure> = none
  /** Where a redirect leads: to be tried before the round goes on. */
  #redirects: ReadonlyArray<Candidate> = none
  /** Where endpoints of the list have moved for good. */
  #moved = noMap<string, Endpoint.Endpoint>()
  /** The endpoint that was connected last. */
  #last: string | undefined
  /** Whether this round begins with it, whatever the options say. */
  #stays = false

  constructor(random: () => number) {
    this.#random = random
  }

  /** What the attempt under way, or the connection, is made with; undefined as long as there is no choice. */
  get current(): Candidate | undefined {
    return this.#current
  }

  /** Chooses for the next attempt. */
  next(options: ResolvedOptions): Candidate {
    this.#entries = keyed(options.endpoints)
    const redirect = this.#redirects.find(({ key }) => this.#entries.some((entry) => entry.key === key))
    if (redirect !== undefined) {
      this.#redirects = this.#redirects.slice(this.#redirects.indexOf(redirect) + 1)
      return this.#current = redirect
    }
    this.#redirects = none
    if (
      this.#attempts === 0 || this.#order.length !== this.#entries.length ||
      !this.#entries.every(({ key }) => this.#order.includes(key))
    ) {
      this.#order = this.#arrange(options)
    }
    let key = this.#order.find((key) => this.#isOpen(key))
    if (key === undefined) {
      // The list is not the one of before, or all of it is out.
      this.begin()
      if (this.#order.every((key) => this.#out.has(key))) this.#out.clear()
      key = this.#order.find((key) => this.#isOpen(key))!
    }
    this.#tried = this.#tried.concat(key)
    this.#attempts++
    const entry = this.#entries.find((entry) => entry.key === key)!
    const endpoint = this.#moved.get(key) ?? entry.endpoint
    const url = endpoint === entry.endpoint ? entry.url : Endpoint.toUrl(endpoint)
    return this.#current = { key, endpoint, url, hops: none, isMove: true }
  }

  #isOpen(key: string): boolean {
    return !this.#tried.includes(key) && !this.#out.has(key)
  }

  #arrange({ afterLoss, order }: ResolvedOptions): ReadonlyArray<string> {
    const keys = this.#entries.map(({ key }) => key)
    const drawn = order === "shuffled" ? shuffle(keys, this.#random) : keys
    const last = this.#last === undefined ? -1 : drawn.indexOf(this.#last)
    const how = this.#stays ? "sticky" : afterLoss
    if (last < 0 || how === "preferFirst") return drawn
    const at = how === "sticky" ? last : last + 1
    return [...drawn.slice(at), ...drawn.slice(0, at)]
  }

  /** The options with what is said of the candidate. */
  apply(options: ResolvedOptions, candidate: Candidate): ResolvedOptions {
    const entry = this.#entries.find(({ key }) => key === candidate.key)!
    const { credentials, group } = entry
    if (
      options.endpoint === candidate.endpoint && options.group === group && options.credentials === credentials
    ) return options
    return change(options, { endpoints: options.endpoints, endpoint: candidate.endpoint, group, credentials })
  }

  /** A new round begins; with `stays`, at the endpoint that was connected last. */
  begin(stays = false): void {
    this.#tried = none
    this.#attempts = 0
    this.#failures = none
    this.#redirects = none
    this.#stays = stays
  }

  /** The user has asked to connect: whoever refused before is asked again. */
  restart(): void {
    this.begin()
    this.#out.clear()
  }

  /** The options are others: what was learnt of the old endpoints does not hold any more. */
  forget(): void {
    this.restart()
    this.#moved.clear()
  }

  /** Takes the first endpoint for which `wasLast` holds for the one that was connected last. */
  remember(options: ResolvedOptions, wasLast: (at: ResolvedOptions) => boolean): void {
    this.#last = keyed(options.endpoints).find((entry) => wasLast(change(options, entry)))?.key
  }

  connected(): void {
    const current = this.#current!
    if (current.hops.length > 0 && current.isMove) this.#moved = ownMap(this.#moved).set(current.key, current.endpoint)
    this.#last = current.key
    if (this.#entries.length === 1) {
      // There is nothing to go on with.
      this.#entries = none
      this.#order = none
      this.#tried = none
    }
    this.#failures = none
    this.#redirects = none
    this.#stays = false
  }

  /** An attempt failed. */
  failed(failure: EndpointFailure, isRetryable: boolean): Outcome {
    const current = this.#current!
    this.#failures = this.#failures.concat(failure)
    if (this.#redirects.length > 0) return next
    if (!isRetryable) this.#out = ownMap(this.#out).set(current.key, failure)
    return this.#outcome()
  }

  /**
   * A connection was lost. After a long one a new round begins at once, where there are several endpoints; a short one counts
   * as a failed attempt of the round that it belongs to.
   */
  lost(isLong: boolean, isRetryable: boolean): Outcome {
    if (isLong) {
      this.#out.clear()
      if (this.#entries.length > 1) this.begin()
    }
    if (!isRetryable) this.#out = ownMap(this.#out).set(this.#current!.key, undefined)
    return this.#outcome()
  }

  #outcome(): Outcome {
    // Of a connection by the only endpoint nothing else is kept.
    const keys = this.#entries.length === 0 ? [this.#current!.key] : this.#entries.map(({ key }) => key)
    if (keys.every((key) => this.#out.has(key))) {
      const earlier = [...this.#out.values()].filter((failure) => failure !== undefined)
      return { _tag: "Exhausted", failures: [...new Set([...earlier, ...this.#failures])] }
    }
    if (this.#attempts < keys.length && keys.some((key) => this.#isOpen(key))) return next
    return { _tag: "Over", failures: this.#failures }
  }

  /** The connection has lasted: what led to it does not count any more. */
  settled(): void {
    if (this.#current !== undefined) this.#current = { ...this.#current, hops: [] }
  }

  /**
   * The server in use names others. `followed`: `next` gives them, one after the other; `ignored`: none of them is of use;
   * `tooMany`: this was one too many.
   */
  redirect(reference: string | undefined, isMove: boolean): "followed" | "ignored" | "tooMany" {
    const current = this.#current!
    const { endpoint } = current
    if (reference === undefined || !("host" in endpoint)) return "ignored"
    const references = ServerReference.parse(reference)
    if (references.length === 0) return "ignored"
    this.#redirects = none
    if (current.hops.length >= maximumHops) return "tooMany"
    const hops = [...current.hops, current.url]
    this.#redirects = references.map(({ host, port }): Candidate => {
      const other = { ...endpoint, host, port: port ?? endpoint.port }
      return { key: current.key, endpoint: other, url: Endpoint.toUrl(other), hops, isMove: current.isMove && isMove }
    })
    return "followed"
  }
}
