/**
 * Services whose members are made when they are asked for.
 *
 * A client has twenty functions and effects, of which most clients use two or three, and each takes a closure or more. Here
 * they are accessors that all services of a kind share, and that remember what they made; to the user they are what the
 * members of an object are: enumerable, the same at every access, and of use without the object.
 *
 * @since 0.1.0
 */

/** What makes each member of the service `S` from a client. */
export type Members<C, S> = { readonly [K in keyof S]: (client: C) => S[K] }

/** Leads to the handle from whatever has it as its prototype, or stands before it as a proxy. */
const handle = Symbol("effect-mqtt/service")

/** Private fields, since nobody who looks at a service, or logs it, is to see the client behind it. */
class Handle<C> {
  declare readonly [handle]: Handle<C>
  readonly #client: C
  /** By the place of the member, which is faster to look up than its name. */
  #made: Array<unknown> | undefined

  constructor(client: C) {
    this.#client = client
    Object.defineProperty(this, handle, { value: this })
  }

  #member(place: number, make: (client: C) => unknown): unknown {
    const made = this.#made ??= []
    return made[place] ??= make(this.#client)
  }

  static accessor<C>(key: string, place: number, make: (client: C) => unknown): PropertyDescriptor {
    // What is given to a spy, which takes the accessor by itself and calls what it gives on the service.
    const detached = function(this: Handle<C> | undefined, ...args: ReadonlyArray<unknown>): unknown {
      const self = this?.[handle]
      if (self === undefined) throw new TypeError(`${key} was called without the client that it belongs to`)
      return (self.#member(place, make) as (...args: ReadonlyArray<unknown>) => unknown)(...args)
    }
    return {
      enumerable: true,
      configurable: true,
      get() {
        const self = (this as Handle<C> | undefined)?.[handle]
        return self === undefined ? detached : self.#member(place, make)
      },
      // As a property that is there from the beginning would do.
      set(value) {
        Object.defineProperty(this, key, { value, enumerable: true, configurable: true, writable: true })
      }
    }
  }
}

/**
 * @category constructors
 * @since 0.1.0
 */
export const lazyService = <C, S>(members: Members<C, S>): (client: C) => S => {
  const accessors: PropertyDescriptorMap = {}
  for (const [place, key] of Object.keys(members).entries()) {
    accessors[key] = Handle.accessor<C>(key, place, members[key as keyof S])
  }
  return (client) => Object.defineProperties(new Handle(client), accessors) as S
}
