/**
 * Finds the values whose topic filters match a topic. The cost of a look-up grows with the levels of the topic, not with
 * the number of filters.
 *
 * Filters lie in a tree with one node per level. Nodes are given back when the last filter below them goes.
 *
 * @since 0.1.0
 */
import type { ProtocolVersion } from "./Packet.ts"
import * as TopicFilter from "./TopicFilter.ts"

/**
 * A mutable index from topic filters to values, owned by one user.
 *
 * @category models
 * @since 0.1.0
 */
export interface TopicIndex<A> {
  /** How many pairs of filter and value it holds. */
  readonly size: number
  /** How many nodes and table entries it keeps for them: 0 when it is empty. */
  readonly nodes: number
  /** Adds a pair; `false` when it was there already. The filter must be valid. */
  readonly add: (filter: string, value: A) => boolean
  /** Removes a pair; `false` when it was not there. */
  readonly remove: (filter: string, value: A) => boolean
  /**
   * Calls `f` once for every pair whose filter matches: a value that was added under two matching filters is seen twice.
   * The order is not specified. `f` may change the index; whether this visit sees the changes is not specified.
   */
  readonly forEachMatch: (topic: string, f: (value: A, filter: string) => void) => void
  /**
   * The values of all pairs whose filters match, as `forEachMatch` would visit them.
   */
  readonly matching: (topic: string) => ReadonlyArray<A>
  /**
   * Whether a pair is there whose filter has a topic in common with this one. It looks at `effort` nodes at most, 1,000 by
   * default; past that the answer is `true`.
   */
  readonly overlaps: (filter: string, effort?: number | undefined) => boolean
  /**
   * The values of all pairs whose filters have a topic in common with this one; a value may come more than once. It looks at
   * `effort` nodes at most, 10,000 by default; `undefined` if that is not enough.
   */
  readonly overlapping: (filter: string, effort?: number | undefined) => ReadonlyArray<A> | undefined
}

/**
 * An empty index. `version` decides how shared filters are routed, see `TopicFilter.routes`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <A>(version: ProtocolVersion = 5): TopicIndex<A> => new TopicIndexImpl(version)

interface Pair<A> {
  readonly filter: string
  readonly value: A
}

/** The pairs of one route. Shared and plain filters may meet in it, so each value keeps its own filter. */
interface Bucket<A> {
  /** The pairs in a row, which is several times faster to visit; a visitor may see the row before a change. */
  row: ReadonlyArray<Pair<A>> | undefined
  /** Where there are many, the pairs in a table; then the row is made when it is needed, and dropped with every change. */
  table: Map<string, Set<A>> | undefined
}

/** Pairs in a bucket that are looked through, before there is a table. */
const rowMaximum = 8

interface Node<A> {
  literals: Map<string, Node<A>> | undefined
  plus: Node<A> | undefined
  /** Of filters that end here. */
  exact: Bucket<A> | undefined
  /** Of filters that go on with a last `#`. */
  subtree: Bucket<A> | undefined
}

const makeNode = <A>(): Node<A> => ({
  literals: undefined,
  plus: undefined,
  exact: undefined,
  subtree: undefined
})

const isEmpty = <A>(node: Node<A>): boolean =>
  node.exact === undefined && node.subtree === undefined && node.plus === undefined && node.literals === undefined

class TopicIndexImpl<A> implements TopicIndex<A> {
  size = 0
  /** Nodes of the tree below its root. */
  private treeNodes = 0
  private readonly root: Node<A> = makeNode()
  private readonly version: ProtocolVersion

  constructor(version: ProtocolVersion) {
    this.version = version
  }

  get nodes(): number {
    return this.treeNodes + (isEmpty(this.root) ? 0 : 1)
  }

  add(filter: string, value: A): boolean {
    let added = false
    for (const route of TopicFilter.routes(filter, this.version)) {
      added = addTo(this.bucketOf(route), filter, value) || added
    }
    if (added) this.size++
    return added
  }

  remove(filter: string, value: A): boolean {
    let removed = false
    for (const route of TopicFilter.routes(filter, this.version)) {
      removed = this.removeRoute(route, filter, value) || removed
    }
    if (removed) this.size--
    return removed
  }

  forEachMatch(topic: string, f: (value: A, filter: string) => void): void {
    if (this.size > 0) this.walk(topic, f)
  }

  matching(topic: string): ReadonlyArray<A> {
    const found: Array<A> = []
    if (this.size > 0) this.walk(topic, (value) => found.push(value))
    return found
  }

  overlaps(filter: string, effort = 1_000): boolean {
    return TopicFilter.routes(filter, this.version).some((route) =>
      this.walkOverlaps(route.split("/"), effort, () => true) !== "done"
    )
  }

  overlapping(filter: string, effort = 10_000): ReadonlyArray<A> | undefined {
    const found: Array<A> = []
    const collect = (bucket: Bucket<A>) => {
      visit(bucket, (value) => found.push(value))
      return false
    }
    for (const route of TopicFilter.routes(filter, this.version)) {
      if (this.walkOverlaps(route.split("/"), effort, collect) !== "done") return undefined
    }
    return found
  }

  /** Calls `f` for what overlaps until it says that this will do; `exhausted` if there are more nodes than `effort`. */
  private walkOverlaps(
    levels: ReadonlyArray<string>,
    effort: number,
    f: (bucket: Bucket<A>) => boolean
  ): "done" | "stopped" | "exhausted" {
    if (this.size === 0) return "done"
    const waiting: Array<{ readonly node: Node<A>; readonly at: number }> = [{ node: this.root, at: 0 }]
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      if (effort-- <= 0) return "exhausted"
      const { at, node } = next
      const level = levels[at]
      // Behind a wildcard of the first level there is no topic that begins with `$`.
      const isFirst = node === this.root
      const isSystem = (name: string) => isFirst && name.startsWith("$")
      if (node.subtree !== undefined && (level === undefined || !isSystem(level)) && f(node.subtree)) return "stopped"
      if (node.exact !== undefined && (level === undefined || level === "#") && f(node.exact)) return "stopped"
      if (level === undefined) continue
      // Below `#` all that there is overlaps.
      const behind = level === "#" ? at : at + 1
      if (level === "#" || level === "+") {
        for (const [name, child] of node.literals ?? []) {
          if (!isSystem(name)) waiting.push({ node: child, at: behind })
          if (waiting.length > effort) return "exhausted"
        }
      } else {
        const child = node.literals?.get(level)
        if (child !== undefined) waiting.push({ node: child, at: behind })
      }
      if (node.plus !== undefined && !isSystem(level)) waiting.push({ node: node.plus, at: behind })
    }
    return "done"
  }

  /** Visits all nodes that the topic reaches. Iterative: where a level has two ways on, the second one waits. */
  private walk(topic: string, f: (value: A, filter: string) => void): void {
    const wildcardsApply = !topic.startsWith("$")
    if (wildcardsApply && this.root.subtree !== undefined) visit(this.root.subtree, f)
    const waiting: Array<{ readonly node: Node<A>; readonly slash: number }> = []
    let node = this.root
    let start = 0
    while (true) {
      const slash = topic.indexOf("/", start)
      let next = node.literals?.get(topic.slice(start, slash === -1 ? topic.length : slash))
      if (node.plus !== undefined && (start > 0 || wildcardsApply)) {
        if (next === undefined) next = node.plus
        else waiting.push({ node: node.plus, slash })
      }
      let end = slash
      while (next === undefined || !this.enter(next, end === -1, f)) {
        const other = waiting.pop()
        if (other === undefined) return
        next = other.node
        end = other.slash
      }
      node = next
      start = end + 1
    }
  }

  /** Whether the topic goes on behind this node. */
  private enter(node: Node<A>, isLast: boolean, f: (value: A, filter: string) => void): boolean {
    if (node.subtree !== undefined) visit(node.subtree, f)
    if (isLast && node.exact !== undefined) visit(node.exact, f)
    return !isLast
  }

  private bucketOf(route: string): Bucket<A> {
    let node = this.root
    for (const level of route.split("/")) {
      if (level === "#") return node.subtree ??= makeBucket()
      let child = level === "+" ? node.plus : node.literals?.get(level)
      if (child === undefined) {
        child = makeNode<A>()
        this.treeNodes++
        if (level === "+") node.plus = child
        else (node.literals ??= new Map()).set(level, child)
      }
      node = child
    }
    return node.exact ??= makeBucket()
  }

  private removeRoute(route: string, filter: string, value: A): boolean {
    const levels = route.split("/")
    const isSubtree = levels.at(-1) === "#"
    if (isSubtree) levels.pop()
    const path = [this.root]
    for (const level of levels) {
      const child = level === "+" ? path.at(-1)?.plus : path.at(-1)?.literals?.get(level)
      if (child === undefined) return false
      path.push(child)
    }
    const end = path[path.length - 1]
    const bucket = isSubtree ? end.subtree : end.exact
    if (bucket === undefined || !removeFrom(bucket, filter, value)) return false
    if (bucket.table === undefined ? bucket.row?.length === 0 : bucket.table.size === 0) {
      if (isSubtree) end.subtree = undefined
      else end.exact = undefined
      this.prune(path, levels)
    }
    return true
  }

  /** Cuts off, from the end of the path upwards, what holds nothing any more. */
  private prune(path: ReadonlyArray<Node<A>>, levels: ReadonlyArray<string>): void {
    for (let i = levels.length; i > 0 && isEmpty(path[i]); i--) {
      const parent = path[i - 1]
      const level = levels[i - 1]
      if (level === "+") parent.plus = undefined
      else if (parent.literals?.delete(level) === true && parent.literals.size === 0) parent.literals = undefined
      this.treeNodes--
    }
  }
}

const makeBucket = <A>(): Bucket<A> => ({ row: [], table: undefined })

const visit = <A>(bucket: Bucket<A>, f: (value: A, filter: string) => void): void => {
  const row = bucket.row ??= rowOf(bucket)
  for (let i = 0; i < row.length; i++) f(row[i].value, row[i].filter)
}

const rowOf = <A>({ table }: Bucket<A>): ReadonlyArray<Pair<A>> => {
  const row: Array<Pair<A>> = []
  for (const [filter, values] of table ?? []) {
    for (const value of values) row.push({ filter, value })
  }
  return row
}

const addTo = <A>(bucket: Bucket<A>, filter: string, value: A): boolean => {
  if (bucket.table === undefined) {
    const row = bucket.row ?? []
    if (row.some((pair) => pair.value === value && pair.filter === filter)) return false
    if (row.length < rowMaximum) {
      bucket.row = [...row, { filter, value }]
      return true
    }
    bucket.table = new Map()
    for (const pair of row) addToTable(bucket.table, pair.filter, pair.value)
  }
  if (!addToTable(bucket.table, filter, value)) return false
  bucket.row = undefined
  return true
}

const addToTable = <A>(table: Map<string, Set<A>>, filter: string, value: A): boolean => {
  const values = table.get(filter)
  if (values === undefined) table.set(filter, new Set([value]))
  else if (values.has(value)) return false
  else values.add(value)
  return true
}

const removeFrom = <A>(bucket: Bucket<A>, filter: string, value: A): boolean => {
  const { row, table } = bucket
  if (table === undefined) {
    const rest = (row ?? []).filter((pair) => pair.value !== value || pair.filter !== filter)
    if (rest.length === row?.length) return false
    bucket.row = rest
    return true
  }
  const values = table.get(filter)
  if (values === undefined || !values.delete(value)) return false
  if (values.size === 0) table.delete(filter)
  bucket.row = undefined
  return true
}
