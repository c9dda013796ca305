/**
 * Finds the values whose topic filters match a topic. The cost of a look-up grows with the levels of the topic, not with
 * the number of filters.
 *
 * Filters without wildcards lie in one table under their whole text; the others in a tree with one node per level. Nodes
 * are given back when the last filter below them goes.
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
}

/**
 * An empty index. `version` decides how shared filters are routed, see `TopicFilter.routes`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <A>(version: ProtocolVersion = 5): TopicIndex<A> => new TopicIndexImpl(version)

/** The pairs of one route. Shared and plain filters may meet in it, so each value keeps its own filter. */
interface Bucket<A> {
  readonly pairs: Map<string, Set<A>>
  /** The pairs in a row, which is several times faster to visit: made when it is needed, dropped with every change. */
  row: ReadonlyArray<Pair<A>> | undefined
}

interface Pair<A> {
  readonly filter: string
  readonly value: A
}

interface Node<A> {
  readonly literals: Map<string, Node<A>>
  plus: Node<A> | undefined
  /** Of filters that end here. */
  exact: Bucket<A> | undefined
  /** Of filters that go on with a last `#`. */
  subtree: Bucket<A> | undefined
}

const makeNode = <A>(): Node<A> => ({
  literals: new Map(),
  plus: undefined,
  exact: undefined,
  subtree: undefined
})

const isEmpty = <A>(node: Node<A>): boolean =>
  node.exact === undefined && node.subtree === undefined && node.plus === undefined && node.literals.size === 0

class TopicIndexImpl<A> implements TopicIndex<A> {
  size = 0
  /** Nodes of the tree below its root. */
  private treeNodes = 0
  private readonly literal = new Map<string, Bucket<A>>()
  private readonly root: Node<A> = makeNode()
  private readonly version: ProtocolVersion

  constructor(version: ProtocolVersion) {
    this.version = version
  }

  get nodes(): number {
    return this.literal.size + this.treeNodes + (isEmpty(this.root) ? 0 : 1)
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
    const bucket = this.literal.get(topic)
    if (bucket !== undefined) visit(bucket, f)
    if (!isEmpty(this.root)) this.walk(topic, f)
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
      let next = node.literals.size === 0
        ? undefined
        : node.literals.get(topic.slice(start, slash === -1 ? topic.length : slash))
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
    if (!TopicFilter.hasWildcard(route)) {
      let bucket = this.literal.get(route)
      if (bucket === undefined) this.literal.set(route, bucket = makeBucket())
      return bucket
    }
    let node = this.root
    for (const level of route.split("/")) {
      if (level === "#") return node.subtree ??= makeBucket()
      let child = level === "+" ? node.plus : node.literals.get(level)
      if (child === undefined) {
        child = makeNode<A>()
        this.treeNodes++
        if (level === "+") node.plus = child
        else node.literals.set(level, child)
      }
      node = child
    }
    return node.exact ??= makeBucket()
  }

  private removeRoute(route: string, filter: string, value: A): boolean {
    if (!TopicFilter.hasWildcard(route)) {
      const bucket = this.literal.get(route)
      if (bucket === undefined || !removeFrom(bucket, filter, value)) return false
      if (bucket.pairs.size === 0) this.literal.delete(route)
      return true
    }
    const levels = route.split("/")
    const isSubtree = levels.at(-1) === "#"
    if (isSubtree) levels.pop()
    const path = [this.root]
    for (const level of levels) {
      const child = level === "+" ? path.at(-1)?.plus : path.at(-1)?.literals.get(level)
      if (child === undefined) return false
      path.push(child)
    }
    const end = path[path.length - 1]
    const bucket = isSubtree ? end.subtree : end.exact
    if (bucket === undefined || !removeFrom(bucket, filter, value)) return false
    if (bucket.pairs.size === 0) {
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
      else parent.literals.delete(level)
      this.treeNodes--
    }
  }
}

const makeBucket = <A>(): Bucket<A> => ({ pairs: new Map(), row: undefined })

const visit = <A>(bucket: Bucket<A>, f: (value: A, filter: string) => void): void => {
  for (const { filter, value } of bucket.row ??= rowOf(bucket)) f(value, filter)
}

const rowOf = <A>({ pairs }: Bucket<A>): ReadonlyArray<Pair<A>> => {
  const row: Array<Pair<A>> = []
  for (const [filter, values] of pairs) {
    for (const value of values) row.push({ filter, value })
  }
  return row
}

const addTo = <A>(bucket: Bucket<A>, filter: string, value: A): boolean => {
  const values = bucket.pairs.get(filter)
  if (values === undefined) bucket.pairs.set(filter, new Set([value]))
  else if (values.has(value)) return false
  else values.add(value)
  bucket.row = undefined
  return true
}

const removeFrom = <A>(bucket: Bucket<A>, filter: string, value: A): boolean => {
  const values = bucket.pairs.get(filter)
  if (values === undefined || !values.delete(value)) return false
  if (values.size === 0) bucket.pairs.delete(filter)
  bucket.row = undefined
  return true
}
