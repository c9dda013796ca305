/**
 * Runs one benchmark by name, with the flags behind it; without a name, that of the whole client.
 *
 *     npm run bench -- --quick
 *     npm run bench -- codec --json
 */
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"

const benchmarks = ["client", "codec", "compare", "dispatch", "store"]

const [first, ...rest] = process.argv.slice(2)
const [name, flags] = first === undefined || first.startsWith("-") ? ["client", process.argv.slice(2)] : [first, rest]

if (!benchmarks.includes(name)) {
  console.error(`usage: npm run bench -- [${benchmarks.join("|")}] [flags]`)
  process.exitCode = 1
} else {
  const { error, status } = spawnSync(
    process.execPath,
    [...process.execArgv, fileURLToPath(new URL(`${name}.ts`, import.meta.url)), ...flags],
    { stdio: "inherit" }
  )
  if (error !== undefined) throw error
  process.exitCode = status ?? 1
}
