import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { delimiter, dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))

let temporary = ""
/** An empty project with the package and what the package declares, and nothing else. */
let project = ""

const run = (cwd: string, command: string, ...args: ReadonlyArray<string>): string => {
  try {
    return execFileSync(command, args, {
      cwd,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, PATH: `${dirname(process.execPath)}${delimiter}${process.env["PATH"]}`, NO_COLOR: "1" }
    })
  } catch (error) {
    const { stderr, stdout } = error as { readonly stdout: string; readonly stderr: string }
    throw new Error(`${command} ${args.join(" ")}\n${stdout}\n${stderr}`, { cause: error })
  }
}

const tsc = (cwd: string, ...args: ReadonlyArray<string>) =>
  run(cwd, process.execPath, join(root, "node_modules", "typescript", "bin", "tsc"), ...args)

const runModule = (code: string): string => {
  writeFileSync(join(project, "main.mjs"), code)
  return run(project, process.execPath, "main.mjs")
}

beforeAll(() => {
  temporary = mkdtempSync(join(tmpdir(), "effect-mqtt-package-"))

  // Built from a copy, so that neither an old `dist` nor another build at the same time matters.
  const copy = join(temporary, "copy")
  mkdirSync(copy)
  for (
    const name of [
      "package.json",
      "tsconfig.json",
      "tsconfig.build.json",
      "src",
      "README.md",
      "CHANGELOG.md",
      "LICENSE"
    ]
  ) {
    if (existsSync(join(root, name))) cpSync(join(root, name), join(copy, name), { recursive: true })
  }
  symlinkSync(join(root, "node_modules"), join(copy, "node_modules"), "junction")
  tsc(copy, "-p", "tsconfig.build.json")
  run(copy, "npm", "pack", "--ignore-scripts", "--offline", "--pack-destination", temporary)

  // What `npm install` does, without a registry: unpack, and put each declared package beside it.
  project = join(temporary, "project")
  const installed = join(project, "node_modules", manifest.name)
  mkdirSync(installed, { recursive: true })
  run(temporary, "tar", "-xzf", `${manifest.name}-${manifest.version}.tgz`, "-C", installed, "--strip-components", "1")
  for (const name of Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies })) {
    const link = join(project, "node_modules", name)
    mkdirSync(dirname(link), { recursive: true })
    symlinkSync(join(root, "node_modules", name), link, "junction")
  }
  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "empty", private: true, type: "module" }))
}, 120_000)

afterAll(() => rmSync(temporary, { recursive: true, force: true }))

describe("package", () => {
  it("holds the build, the sources, the licence and nothing else", () => {
    const files = readdirSync(join(project, "node_modules", manifest.name)).sort()
    const expected = ["CHANGELOG.md", "LICENSE", "README.md", "dist", "package.json", "src"]
    assert.deepStrictEqual(files, expected.filter((name) => name !== "README.md" || existsSync(join(root, name))))
  })

  it("has a declaration and a source map for every module", () => {
    const installed = join(project, "node_modules", manifest.name)
    const modules = readdirSync(join(installed, "src"), { recursive: true, encoding: "utf8" })
      .filter((path) => path.endsWith(".ts"))
      .map((path) => path.slice(0, -3))
    assert.isNotEmpty(modules)
    for (const module of modules) {
      for (const ending of ["js", "js.map", "d.ts", "d.ts.map"]) {
        assert.isTrue(existsSync(join(installed, "dist", `${module}.${ending}`)), `${module}.${ending}`)
      }
    }
  })

  it("imports every entry point", () => {
    const entries = Object.keys(manifest.exports).filter((name) => !name.endsWith(".json"))
    assert.deepStrictEqual(entries, [".", "./node", "./testing"])
    const code = entries.map((name) =>
      `import * as m${entries.indexOf(name)} from "${manifest.name}${name.slice(1)}"\n`
    )
    const names = JSON.parse(runModule(
      `${code.join("")}console.log(JSON.stringify([${entries.map((_, i) => `Object.keys(m${i})`).join(", ")}]))`
    ))
    for (const [i, name] of entries.entries()) assert.isNotEmpty(names[i], name)
  })

  it("hides its inner modules", () => {
    assert.throws(() => runModule(`import "${manifest.name}/dist/index.js"`), /ERR_PACKAGE_PATH_NOT_EXPORTED/)
  })

  it("runs a small program", () => {
    const output = runModule(`
      import { Effect } from "effect"
      import { TopicFilter } from "${manifest.name}"
      import { MqttClient } from "${manifest.name}/node"

      console.log(TopicFilter.matches("site/+/state", "site/1/state"), TopicFilter.validate("a#"))
      const program = Effect.gen(function*() {
        const client = yield* MqttClient.MqttClient
        yield* client.publish({ topic: "a", payload: "hello" })
      }).pipe(
        Effect.provide(MqttClient.layer({ endpoint: "mqtt://127.0.0.1:1" })),
        Effect.catchTag("ConnectError", (error) => Effect.sync(() => console.log(error.reason._tag, error.retryable)))
      )
      Effect.runFork(program)
    `)
    assert.strictEqual(output, "true must not have \"#\" behind anything but \"/\"\nDialFailed true\n")
  })

  it("type-checks a strict consumer", () => {
    writeFileSync(
      join(project, "consumer.ts"),
      `
      import { Schema } from "effect"
      import { TopicFilter } from "${manifest.name}"
      import { MqttClient } from "${manifest.name}/node"
      import * as Testing from "${manifest.name}/testing"
      export const filter: TopicFilter.TopicFilter = Schema.decodeUnknownSync(TopicFilter.TopicFilter)("a/+")
      // @ts-expect-error a string is not known to be a filter
      export const wrong: TopicFilter.TopicFilter = "a/+"
      export const layer = MqttClient.layer({ endpoint: "mqtt://localhost" })
      export const testing = Testing
      `
    )
    writeFileSync(
      join(project, "tsconfig.json"),
      JSON.stringify({
        compilerOptions: {
          module: "NodeNext",
          target: "ES2022",
          strict: true,
          exactOptionalPropertyTypes: true,
          noEmit: true,
          skipLibCheck: false,
          types: ["node"],
          typeRoots: [join(root, "node_modules", "@types")]
        },
        files: ["consumer.ts"]
      })
    )
    tsc(project, "-p", ".")
  })
})
