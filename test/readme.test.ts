import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { execFile } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as EmbeddedBroker from "../examples/EmbeddedBroker.ts"

const root = fileURLToPath(new URL("..", import.meta.url))

interface Block {
  readonly language: string
  readonly code: string
}

const pointToSources = (code: string): string =>
  code
    .replaceAll("from \"effect-mqtt\"", "from \"../src/index.ts\"")
    .replaceAll("from \"effect-mqtt/node\"", "from \"../src/node.ts\"")
    .replaceAll("from \"effect-mqtt/testing\"", "from \"../src/testing.ts\"")

/** The fenced TypeScript of a document, with imports of the package pointed to its sources. */
const blocks = (document: string): ReadonlyArray<Block> =>
  [...readFileSync(join(root, document), "utf8").matchAll(/^```(ts[^\n]*)\n([\s\S]*?)^```$/gm)].map((match) => ({
    language: match[1]!,
    code: pointToSources(match[2]!)
  }))

/** A folder beside the sources, so that packages resolve; it goes with the scope. */
const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(root, ".readme-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true }))
)

const run = (args: ReadonlyArray<string>) =>
  Effect.callback<string>((resume) => {
    const child = execFile(process.execPath, args, { cwd: root, timeout: 100_000 }, (error, stdout, stderr) =>
      resume(error === null ? Effect.succeed(stdout + stderr) : Effect.die(new Error(`${error.message}\n${stdout}`))))
    return Effect.sync(() =>
      child.kill()
    )
  })

const documents = [
  "README.md",
  "docs/testing.md",
  "docs/endpoints.md",
  "docs/failover.md",
  "docs/filters.md",
  "docs/performance.md",
  "docs/session-stores.md",
  "docs/sessions.md",
  "docs/subscriptions.md"
]

describe("README", () => {
  it.live("compiles in every example", () =>
    Effect.gen(function*() {
      const path = yield* folder
      const examples = documents.flatMap((document) => blocks(document))
      assert.isAbove(examples.length, 5)
      for (const [index, { code }] of examples.entries()) {
        writeFileSync(join(path, `example-${index}.ts`), code + "\nexport {}\n")
      }
      writeFileSync(
        join(path, "tsconfig.json"),
        JSON.stringify({
          extends: "../tsconfig.json",
          // An example declares what the next line of a reader's program would use.
          compilerOptions: { noUnusedLocals: false },
          include: ["*.ts"]
        })
      )
      yield* run([join(root, "node_modules/typescript/bin/tsc"), "-p", path])
    }))

  it.live("runs its quick start and prints the message", () =>
    Effect.gen(function*() {
      const path = yield* folder
      const broker = yield* EmbeddedBroker.make
      const runnable = blocks("README.md").filter(({ language }) => language === "ts run")
      assert.isAbove(runnable.length, 0)
      for (const [index, { code }] of runnable.entries()) {
        const file = join(path, `run-${index}.ts`)
        writeFileSync(file, code.replace("mqtt://localhost:1883", `mqtt://${broker.host}:${broker.port}`))
        assert.include(yield* run([file]), "sensors/kitchen/temperature: 21.5")
      }
    }))
})

describe("docs/testing.md", () => {
  it("shows the tests that are run", () => {
    const shown = blocks("docs/testing.md")
    assert.lengthOf(shown, 4)
    for (const { code, language } of shown) {
      const file = language.replace("ts file=", "")
      const source = readFileSync(join(root, "examples/testing", file), "utf8")
      assert.strictEqual(code, pointToSources(source))
    }
  })
})
