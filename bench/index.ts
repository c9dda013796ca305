/**
 * Runs one benchmark by name, with the flags behind it.
 *
 *     npm run bench -- codec --json
 */
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"

const benchmarks = ["codec"]

const [name, ...flags] = process.argv.slice(2)

if (name === undefined || !benchmarks.includes(name)) {
  console.error(`usage: npm run bench -- <${benchmarks.join("|")}> [flags]`)
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
