/**
 * Server References: where a server says that another one is to be used (MQTT 5.0 §4.11).
 *
 * @since 0.1.0
 */

/**
 * Another server. Without a port it is the one in use.
 *
 * @category models
 * @since 0.1.0
 */
export interface ServerReference {
  /** A name or an address; an IPv6 address without brackets. */
  readonly host: string
  readonly port: number | undefined
}

/** So many are looked at: the text may hold 65,535 bytes of them. */
const limit = 8

const pattern = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253})))(?::(\d{1,5}))?$/

/**
 * Reads a list of references, separated by spaces, each a name or an address with an optional port:
 * `a.example:1884 [::1]:1884`. What is none is left out, and so is what stands behind the eighth.
 *
 * @category constructors
 * @since 0.1.0
 */
export const parse = (text: string): ReadonlyArray<ServerReference> => {
  const references: Array<ServerReference> = []
  for (const part of text.split(" ")) {
    const found = pattern.exec(part)
    if (found === null) continue
    const [, address, name, digits] = found
    // Brackets are for what holds colons.
    if (address !== undefined && !address.includes(":")) continue
    const port = digits === undefined ? undefined : Number(digits)
    if (port !== undefined && (port === 0 || port > 65535)) continue
    references.push({ host: (address ?? name)!, port })
    if (references.length === limit) break
  }
  return references
}
