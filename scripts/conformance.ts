/**
 * Which rows of the conformance checklist have a test, by the row keys in the names of the tests.
 *
 *     node scripts/conformance.ts [--missing] [--json]
 *
 * A name cites a row by its key, with or without the letter of its class: `FH-01b` or `FH-01`. Tests of `src/testing` do
 * not count, since they are not about the client. Rows of a feature that is not there yet are pending, whatever is cited. Why a row has no test is said in `conformance.json`. The exit code is 1
 * where a name cites a row that does not exist.
 */
import { readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"

interface Row {
  readonly key: string
  readonly cls: string
  readonly text: string
  readonly section: string
}

interface Notes {
  /** Rows by the feature that they wait for. */
  readonly pending: Readonly<Record<string, ReadonlyArray<string>>>
  /** Why rows have no test, with the rows. */
  readonly reasons: Readonly<Record<string, ReadonlyArray<string>>>
}

interface Citation {
  readonly file: string
  readonly name: string
  readonly key: string
  readonly cls: string
}

const root = fileURLToPath(new URL("..", import.meta.url))

const readJson = (path: string): unknown => JSON.parse(readFileSync(`${root}/${path}`, "utf8"))

/** Tests of the broker that tests use: what it demands of clients is not what ours does. */
const others = "testing/"

/** The first argument of `it`, `test` and `describe` in all their forms, but for those that do not run. */
const namePattern = /\b(?:it|test|describe)((?:\.\w+)*)(?:\([^()]*\))?\(\s*(["'`])((?:\\.|(?!\2)[^\\])*)\2/g

const rowPattern = /\b([A-Z][A-Z0-9]-\d\d)([a-z]?)\b/g

const citationsIn = (file: string): ReadonlyArray<Citation> =>
  [...readFileSync(`${root}/test/${file}`, "utf8").matchAll(namePattern)].flatMap(([, form, , name]) =>
    /\.(skip|todo)\b/.test(form)
      ? []
      : [...name.matchAll(rowPattern)].map(([, key, cls]): Citation => ({ file, name, key, cls }))
  )

const byRow = (groups: Readonly<Record<string, ReadonlyArray<string>>>): ReadonlyMap<string, string> =>
  new Map(Object.entries(groups).flatMap(([group, keys]) => keys.map((key) => [key, group] as const)))

const { rows } = readJson("test/fixtures/mqtt-conformance.data.json") as { readonly rows: ReadonlyArray<Row> }
const notes = readJson("scripts/conformance.json") as Notes

const citations = readdirSync(`${root}/test`, { recursive: true, encoding: "utf8" })
  .map((path) => path.replaceAll("\\", "/"))
  .filter((path) => path.endsWith(".test.ts") && !path.startsWith(others))
  .sort()
  .flatMap(citationsIn)

const rowByKey = new Map(rows.map((row) => [row.key, row]))
const unknown = citations.filter(({ cls, key }) => {
  const row = rowByKey.get(key)
  return row === undefined || cls !== "" && cls !== row.cls
})
const pending = byRow(notes.pending)
const reasons = byRow(notes.reasons)
const stray = [...pending.keys(), ...reasons.keys()].filter((key) => !rowByKey.has(key))

const lines = rows.map((row) => {
  const files = [...new Set(citations.filter(({ key }) => key === row.key).map(({ file }) => file))]
  const feature = pending.get(row.key)
  const status = feature !== undefined ? "pending" : files.length > 0 ? "covered" : "missing"
  return {
    row: `${row.key}${row.cls}`,
    section: row.section,
    status,
    tests: files,
    why: feature ?? (status === "missing" ? reasons.get(row.key) ?? "no test yet" : ""),
    text: row.text
  }
})

const count = (status: string): number => lines.filter((line) => line.status === status).length

const { values: flags } = parseArgs({
  options: { missing: { type: "boolean", default: false }, json: { type: "boolean", default: false } }
})

if (flags.json) {
  for (const line of lines) console.log(JSON.stringify(line))
} else {
  let section = ""
  for (const line of lines) {
    if (flags.missing && line.status === "covered") continue
    if (line.section !== section) console.log(`\n${section = line.section}`)
    const detail = line.status === "covered" ? line.tests.join(", ") : line.why
    console.log(`  ${line.row.padEnd(7)} ${line.status.padEnd(8)} ${detail}`)
    if (line.status !== "covered") console.log(`                   ${line.text}`)
  }
  console.log(`\npending, by the feature that they wait for:`)
  for (const [feature, keys] of Object.entries(notes.pending)) console.log(`  ${feature}: ${keys.join(", ")}`)
  console.log(
    `\n${rows.length} rows: ${count("covered")} covered by tests, ${count("pending")} pending, ${
      count("missing")
    } missing`
  )
}

for (const { file, key, name, cls } of unknown) console.error(`${file} cites ${key}${cls}, which is no row: ${name}`)
for (const key of stray) console.error(`conformance.json names ${key}, which is no row`)
if (unknown.length > 0 || stray.length > 0) process.exitCode = 1
