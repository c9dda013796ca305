import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { EndpointCycle } from "../../../src/layers/supervision/EndpointCycle.ts"
import type { ClientOptions } from "../../../src/services/ClientOptions.ts"
import { DialFailed } from "../../../src/services/MqttError.ts"
import type { EndpointFailure } from "../../../src/services/MqttError.ts"
import * as ResolvedOptions from "../../../src/services/ResolvedOptions.ts"
import { TransportError } from "../../../src/services/Transport.ts"

const resolve = (options: ClientOptions) => Result.getOrThrow(ResolvedOptions.resolve(options))
const three = ["mqtt://a", "mqtt://b", "mqtt://c"]
const options = (failover: ClientOptions["failover"] = {}, endpoints: ClientOptions["endpoints"] = three) =>
  resolve({ endpoints, failover })

const failureAt = (endpoint: string): EndpointFailure => {
  const cause = new TransportError({ phase: "connect", kind: "refused", address: endpoint })
  return { endpoint, reason: new DialFailed({ address: endpoint, kind: "refused", cause }) }
}

/** One that draws the same numbers over and over. */
const make = (numbers: ReadonlyArray<number> = [0]) => {
  let index = 0
  return new EndpointCycle(() => numbers[index++ % numbers.length]!)
}

const host = (url: string) => url.slice("mqtt://".length).replace(":1883", "")

/** Fails everything until the round is over; gives the hosts in order. */
const round = (cycle: EndpointCycle, resolved = options(), isRetryable = (_host: string) => true) => {
  const hosts: Array<string> = []
  for (let attempt = 0; attempt < 20; attempt++) {
    const { url } = cycle.next(resolved)
    hosts.push(host(url))
    const outcome = cycle.failed(failureAt(url), isRetryable(host(url)))
    if (outcome._tag !== "Next") return { hosts: hosts.join(" "), end: outcome._tag, failures: outcome.failures }
  }
  return assert.fail("the round has no end")
}

describe("EndpointCycle", () => {
  it("tries each once, in order, and then says that the round is over", () => {
    const cycle = make()
    const first = round(cycle)
    assert.deepInclude(first, { hosts: "a b c", end: "Over" })
    assert.deepStrictEqual(first.failures.map(({ endpoint }) => host(endpoint)), ["a", "b", "c"])
    cycle.begin()
    assert.deepInclude(round(cycle), { hosts: "a b c", end: "Over" })
  })

  it("one endpoint is a round of its own", () => {
    const cycle = make()
    const single = resolve({ endpoint: "mqtt://a" })
    assert.deepInclude(round(cycle, single), { hosts: "a", end: "Over" })
  })

  describe("after a loss", () => {
    for (
      const [afterLoss, hosts] of [["sticky", "b c a"], ["next", "c a b"], ["preferFirst", "a b c"]] as const
    ) {
      it(`${afterLoss}: the round goes ${hosts}`, () => {
        const cycle = make()
        const resolved = options({ afterLoss })
        cycle.failed(failureAt(cycle.next(resolved).url), true)
        cycle.next(resolved)
        cycle.connected()
        assert.strictEqual(cycle.lost(true, true)._tag, "Next")
        assert.deepInclude(round(cycle, resolved), { hosts, end: "Over" })
        // And so do the rounds behind it.
        cycle.begin()
        assert.deepInclude(round(cycle, resolved), { hosts, end: "Over" })
      })
    }

    it("a short connection counts as a failed attempt of its round", () => {
      const cycle = make()
      const resolved = options()
      for (const expected of ["Next", "Next", "Over"]) {
        cycle.next(resolved)
        cycle.connected()
        assert.strictEqual(cycle.lost(false, true)._tag, expected)
      }
    })

    it("one endpoint is not tried again at once, however long the connection was", () => {
      const cycle = make()
      cycle.next(resolve({ endpoint: "mqtt://a" }))
      cycle.connected()
      assert.strictEqual(cycle.lost(true, true)._tag, "Over")
    })

    it("a renewal begins where the connection was, whatever the options say", () => {
      for (const afterLoss of ["sticky", "next", "preferFirst"] as const) {
        const cycle = make()
        const resolved = options({ afterLoss })
        cycle.failed(failureAt(cycle.next(resolved).url), true)
        cycle.next(resolved)
        cycle.connected()
        cycle.begin(true)
        assert.strictEqual(host(cycle.next(resolved).url), "b")
      }
    })
  })

  describe("shuffled", () => {
    it("draws an order for every round, with every endpoint in it", () => {
      const cycle = make([0.9, 0.1, 0.4, 0.7, 0.2])
      const orders = new Set<string>()
      for (let index = 0; index < 20; index++) {
        const { hosts } = round(cycle, options({ order: "shuffled" }))
        assert.deepStrictEqual(hosts.split(" ").sort(), ["a", "b", "c"])
        orders.add(hosts)
        cycle.begin()
      }
      assert.isAbove(orders.size, 1)
    })

    it("the same numbers draw the same orders", () => {
      const orders = () => {
        const cycle = make([0.3, 0.8, 0.05])
        return Array.from({ length: 5 }, () => {
          const { hosts } = round(cycle, options({ order: "shuffled" }))
          cycle.begin()
          return hosts
        })
      }
      assert.deepStrictEqual(orders(), orders())
    })

    it("sticky: the endpoint that was lost comes first all the same", () => {
      const cycle = make([0.99, 0.3, 0.6])
      const resolved = options({ order: "shuffled" })
      const first = host(cycle.next(resolved).url)
      cycle.connected()
      for (let index = 0; index < 5; index++) {
        cycle.lost(true, true)
        assert.strictEqual(host(cycle.next(resolved).url), first)
        cycle.connected()
      }
    })
  })

  describe("what refused for good", () => {
    it("is left out of the next rounds, and told of when nobody is left", () => {
      const cycle = make()
      assert.deepInclude(round(cycle, options(), (host) => host !== "b"), { hosts: "a b c", end: "Over" })
      cycle.begin()
      assert.deepInclude(round(cycle, options(), (host) => host === "c"), { hosts: "a c", end: "Over" })
      cycle.begin()
      const last = round(cycle, options(), () => false)
      assert.deepInclude(last, { hosts: "c", end: "Exhausted" })
      assert.deepStrictEqual(last.failures.map(({ endpoint }) => host(endpoint)), ["b", "a", "c"])
    })

    it("is asked again after a connection that lasted, and when the user wants to connect", () => {
      for (const again of ["lost", "restart"] as const) {
        const cycle = make()
        cycle.failed(failureAt(cycle.next(options()).url), false)
        cycle.next(options())
        cycle.connected()
        if (again === "lost") cycle.lost(true, true)
        else cycle.restart()
        assert.deepInclude(round(cycle), { hosts: "b c a", end: "Over" })
      }
    })

    it("is not asked again after a short connection", () => {
      const cycle = make()
      cycle.failed(failureAt(cycle.next(options()).url), false)
      cycle.next(options())
      cycle.connected()
      cycle.lost(false, true)
      assert.deepInclude(round(cycle), { hosts: "c", end: "Over" })
      cycle.begin()
      assert.deepInclude(round(cycle), { hosts: "b c", end: "Over" })
    })

    it("ends it all at once where it is the only one", () => {
      assert.deepInclude(round(make(), resolve({ endpoint: "mqtt://a" }), () => false), {
        hosts: "a",
        end: "Exhausted"
      })
    })
  })

  describe("a list that changes under way", () => {
    it("goes on with those that were not tried", () => {
      const cycle = make()
      cycle.failed(failureAt(cycle.next(options()).url), true)
      assert.strictEqual(host(cycle.next(options({}, ["mqtt://d", "mqtt://a"])).url), "d")
    })

    it("a list of new names at every attempt does not make a round without an end", () => {
      const cycle = make()
      let attempts = 0
      let outcome = "Next"
      while (outcome === "Next") {
        attempts++
        const { url } = cycle.next(options({}, [`mqtt://a${attempts}`, `mqtt://b${attempts}`, `mqtt://c${attempts}`]))
        outcome = cycle.failed(failureAt(url), true)._tag
      }
      assert.strictEqual(attempts, 3)
    })

    it("an endpoint that is listed twice has two turns, each with its own credentials", () => {
      const cycle = make()
      const resolved = options({}, [
        { endpoint: "mqtt://a", credentials: { username: "one" } },
        { endpoint: "mqtt://a", credentials: { username: "two" } }
      ])
      const names = Array.from({ length: 2 }, () => {
        const candidate = cycle.next(resolved)
        cycle.failed(failureAt(candidate.url), true)
        return (cycle.apply(resolved, candidate).credentials as { readonly username: string }).username
      })
      assert.deepStrictEqual(names, ["one", "two"])
    })
  })

  describe("redirects", () => {
    it("CK-24p: lead to each of the named servers, and then back to the round", () => {
      const cycle = make()
      cycle.next(options())
      assert.strictEqual(cycle.redirect("x:1884 [::1]", false), "followed")
      assert.deepInclude(round(cycle), { hosts: "x:1884 [::1] b c", end: "Over" })
    })

    it("go over three servers at most", () => {
      const cycle = make()
      cycle.next(options())
      for (const server of ["x", "y", "z"]) {
        assert.strictEqual(cycle.redirect(server, true), "followed")
        assert.strictEqual(host(cycle.next(options()).url), server)
      }
      assert.strictEqual(cycle.redirect("a", true), "tooMany")
      assert.deepStrictEqual(cycle.current!.hops.map(host), ["a", "x", "y"])
      assert.deepInclude(round(cycle), { hosts: "b c", end: "Over" })
    })

    it("begin to count anew once the connection has lasted", () => {
      const cycle = make()
      cycle.next(options())
      for (let index = 0; index < 10; index++) {
        assert.strictEqual(cycle.redirect(`x${index}`, false), "followed")
        cycle.next(options())
        cycle.connected()
        cycle.settled()
      }
    })

    it("that name nobody lead nowhere", () => {
      const cycle = make()
      cycle.next(options())
      assert.strictEqual(cycle.redirect(undefined, true), "ignored")
      assert.strictEqual(cycle.redirect("mqtt://x", true), "ignored")
      assert.deepInclude(round(cycle), { hosts: "b c", end: "Over" })
    })

    it("keep everything of the endpoint but host and port", () => {
      const cycle = make()
      const resolved = resolve({ endpoints: [{ endpoint: "wss://a:444/path", group: "g" }, "mqtts://b"] })
      cycle.next(resolved)
      cycle.redirect("x y:1", false)
      const [first, second] = [cycle.next(resolved), cycle.next(resolved)]
      assert.deepStrictEqual([first.url, second.url], ["wss://x:444/path", "wss://y:1/path"])
      assert.strictEqual(cycle.apply(resolved, first).group, "g")
    })

    it("have no meaning for a socket path", () => {
      const cycle = make()
      cycle.next(resolve({ endpoint: "unix:///run/broker" }))
      assert.strictEqual(cycle.redirect("x", false), "ignored")
    })

    it("for good replace the endpoint, once the other has accepted us", () => {
      const cycle = make()
      cycle.next(options())
      cycle.redirect("x", true)
      assert.strictEqual(host(cycle.next(options()).url), "x")
      cycle.connected()
      cycle.lost(true, true)
      assert.deepInclude(round(cycle), { hosts: "x b c", end: "Over" })
      cycle.restart()
      assert.deepInclude(round(cycle), { hosts: "x b c", end: "Over" })
      cycle.forget()
      assert.deepInclude(round(cycle), { hosts: "a b c", end: "Over" })
    })

    it("for good replace nothing if the other does not take us", () => {
      const cycle = make()
      cycle.next(options())
      cycle.redirect("x", true)
      round(cycle)
      cycle.begin()
      assert.deepInclude(round(cycle), { hosts: "a b c", end: "Over" })
    })

    it("for now end with the connection, and so does a chain with one of them in it", () => {
      for (const permanent of [[false], [false, true], [true, false]]) {
        const cycle = make()
        cycle.next(options())
        for (const isMove of permanent) {
          cycle.redirect("x", isMove)
          cycle.next(options())
        }
        cycle.connected()
        cycle.lost(true, true)
        assert.deepInclude(round(cycle), { hosts: "a b c", end: "Over" })
      }
    })
  })
})
