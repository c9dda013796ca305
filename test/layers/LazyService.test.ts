import { assert, describe, it, vi } from "@effect/vitest"
import { inspect } from "node:util"
import { lazyService } from "../../src/layers/LazyService.ts"

interface Service {
  readonly double: (by: number) => number
  readonly name: string
}

const counted = () => {
  const made: Array<string> = []
  const make = lazyService<{ readonly name: string; readonly secret: number }, Service>({
    double: ({ secret }) => {
      made.push("double")
      return (by) => secret * by
    },
    name: ({ name }) => {
      made.push("name")
      return name
    }
  })
  return { made, service: make({ name: "a", secret: 4711 }) }
}

describe("LazyService", () => {
  it("makes a member when it is asked for, and once", () => {
    const { made, service } = counted()
    assert.deepStrictEqual(made, [])
    assert.strictEqual(service.double, service.double)
    assert.strictEqual(service.double(2), 9422)
    assert.deepStrictEqual(made, ["double"])
    assert.strictEqual(service.name, "a")
    assert.deepStrictEqual(made, ["double", "name"])
  })

  it("has members that are taken apart, copied and inherited as those of any object", () => {
    const { service } = counted()
    const { double } = service
    assert.strictEqual(double(1), 4711)
    assert.deepStrictEqual(Object.keys(service), ["double", "name"])
    assert.deepStrictEqual({ ...service, name: "b" }, { double, name: "b" })
    const derived = Object.create(service, { name: { value: "c" } }) as Service
    assert.strictEqual(derived.double, double)
    assert.strictEqual(derived.name, "c")
  })

  it("can be changed by a test that has its own way with a member", () => {
    const { made, service } = counted()
    Object.assign(service, { double: () => 1 })
    assert.strictEqual(service.double(2), 1)
    assert.strictEqual(service.name, "a")
    assert.deepStrictEqual(made, ["name"])
  })

  it("can be spied on", () => {
    const { service } = counted()
    const spy = vi.spyOn(service, "double")
    assert.strictEqual(service.double(2), 9422)
    spy.mockReturnValue(1)
    const { double } = service
    assert.deepStrictEqual([service.double(3), double(4)], [1, 1])
    assert.deepStrictEqual(spy.mock.calls, [[2], [3], [4]])
    spy.mockRestore()
    assert.strictEqual(service.double(2), 9422)
  })

  it("can be wrapped in a proxy", () => {
    const { service } = counted()
    const proxy = new Proxy(service, {})
    assert.strictEqual(proxy.double(2), 9422)
    assert.strictEqual(proxy.double, service.double)
    const logging = new Proxy(service, { get: (target, key, receiver) => Reflect.get(target, key, receiver) })
    assert.strictEqual(logging.name, "a")
  })

  it("says what is wrong where a member is used without its service", () => {
    const { service } = counted()
    const { get } = Object.getOwnPropertyDescriptor(service, "double")!
    assert.throws(() => get!()(2), "without the client")
  })

  it("shows nothing of the client behind it", () => {
    const { service } = counted()
    assert.notInclude(inspect(service, { depth: 10, showHidden: true, getters: true }), "4711")
  })

  it("keeps services apart", () => {
    const make = lazyService<number, { readonly value: number }>({ value: (client) => client })
    const [one, two] = [make(1), make(2)]
    assert.deepStrictEqual([one.value, two.value, one.value], [1, 2, 1])
  })
})
