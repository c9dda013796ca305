/**
 * A program of our own in a process of its own, which is killed with SIGKILL again and again and started anew each time, until
 * a last life ends by itself.
 */
import { Effect } from "effect"
import { spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

/** One life: what it said, and whether it was killed. */
export interface Life {
  readonly lines: ReadonlyArray<string>
  readonly killed: boolean
}

/** A directory that goes with the scope. */
export const directory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "effect-mqtt-lives-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

/** What Node made of the sources is kept between lives, which makes them start in half of the time. */
const cache = join(tmpdir(), "effect-mqtt-lives-cache")

/**
 * Runs `program`, a file beside this one, once; its argument is JSON, and what it says are the lines of its output. It is
 * killed in the middle of whatever it does, `delayMillis` after it said its `afterLine`th line, or lives on if that never
 * comes. Dies if the process ends by itself with anything but code 0.
 */
export const live = (
  program: string,
  argument: unknown,
  kill?: { readonly afterLine: number; readonly delayMillis: number }
): Effect.Effect<Life> =>
  Effect.callback((resume) => {
    const path = fileURLToPath(new URL(program, import.meta.url))
    const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", path, JSON.stringify(argument)], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, NODE_COMPILE_CACHE: cache, NODE_OPTIONS: "" }
    })
    const orphan = () => child.kill("SIGKILL")
    process.once("exit", orphan)
    const lines: Array<string> = []
    let errors = ""
    createInterface(child.stdout).on("line", (line) => {
      lines.push(line)
      if (lines.length !== kill?.afterLine) return
      // The line says that something is done; the kill is to come in the middle of what is next.
      setTimeout(() => child.kill("SIGKILL"), kill.delayMillis)
    })
    child.stderr.setEncoding("utf8").on("data", (text: string) => errors += text)
    child.once("close", (code, signal) => {
      process.off("exit", orphan)
      if (signal === "SIGKILL" || code === 0) return resume(Effect.succeed({ lines, killed: signal === "SIGKILL" }))
      resume(Effect.die(new Error(`${program} ended with ${signal ?? `code ${code}`}\n${lines.join("\n")}\n${errors}`)))
    })
    return Effect.callback<void>((resume) => {
      child.once("close", () => resume(Effect.void))
      child.kill("SIGKILL")
    })
  })
