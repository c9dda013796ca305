import { assert, describe, it } from "@effect/vitest"
import { readdirSync, readFileSync } from "node:fs"
import { basename, posix } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))

/** Path from the root of the repository to text. */
type Sources = ReadonlyMap<string, string>

const read = (folders: ReadonlyArray<string>): Sources =>
  new Map(folders.flatMap((folder) =>
    readdirSync(`${root}/${folder}`, { recursive: true, encoding: "utf8" })
      .filter((path) => path.endsWith(".ts"))
      .map((path) => {
        const name = `${folder}/${path.replaceAll("\\", "/")}`
        return [name, readFileSync(`${root}/${name}`, "utf8")] as const
      })
  ))

const importPatterns = [
  /^(?:import|export)\s+(?:type\s+)?(?:[\w*\s,]+|[\w\s,]*\{[^}]*\})\s*from\s*["']([^"']+)["']/gm,
  /\bimport\s*\(?\s*["']([^"']+)["']/g
]

const withoutComments = (text: string): string => text.replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, "")

/** What a file imports: paths from the root for our own files, specifiers as they stand for packages. */
const importsOf = (path: string, text: string): ReadonlyArray<string> => {
  const code = withoutComments(text)
  return importPatterns.flatMap((pattern) => [...code.matchAll(pattern)]).map(([, specifier]) =>
    specifier.startsWith(".") ? posix.join(posix.dirname(path), specifier) : specifier
  )
}

const rooms = ["protocol", "services", "layers", "testing"]

/** Which rooms of `src` a room may import from. */
const allowed: Readonly<Record<string, ReadonlyArray<string>>> = {
  protocol: ["protocol"],
  services: ["protocol", "services"],
  layers: ["protocol", "services", "layers"],
  testing: rooms,
  // The entry points.
  "": rooms
}

const roomOf = (path: string): string => /^src\/([^/]+)\//.exec(path)?.[1] ?? ""

/** Modules that bring fibers, I/O, a clock or services, none of which belong into `protocol`. `node:buffer` is bytes. */
const impure =
  /^(node:(?!buffer$)|@effect\/|effect$|effect\/(Effect|Fiber|Queue|PubSub|Deferred|Scope|Clock|Context|Layer|Stream|socket|testing)\b)/

const directionFaults = (sources: Sources): ReadonlyArray<string> => {
  const faults: Array<string> = []
  for (const [path, text] of sources) {
    const room = roomOf(path)
    for (const target of importsOf(path, text)) {
      const isOurs = posix.normalize(target).startsWith("src/")
      if (isOurs) {
        const targetRoom = roomOf(target)
        if (!(allowed[room] ?? []).includes(targetRoom)) faults.push(`${path} imports ${target}`)
        if (targetRoom === "testing" && room === "" && path !== "src/testing.ts") {
          faults.push(`${path} imports ${target}`)
        }
      } else if (/^(\.\.?\/|test|examples|bench|scripts)/.test(target)) {
        faults.push(`${path} imports ${target}`)
      } else if (room === "protocol" && impure.test(target)) {
        faults.push(`${path} imports ${target}`)
      }
    }
  }
  return faults
}

/** All that an entry point loads: our files, and the packages that they import. */
const reachedFrom = (entry: string, sources: Sources): ReadonlySet<string> => {
  const reached = new Set<string>([entry])
  for (const path of reached) {
    for (const target of importsOf(path, sources.get(path) ?? "")) reached.add(target)
  }
  return reached
}

const src = read(["src"])
const all = read(["src", "test", "examples", "bench", "scripts"])

describe("architecture", () => {
  describe("import directions", () => {
    it("point from layers to services to protocol", () => {
      assert.deepStrictEqual(directionFaults(src), [])
    })

    it("are told apart by this test", () => {
      const fault = (path: string, specifier: string) =>
        directionFaults(new Map([[path, `import * as X from "${specifier}"\n`]])).length
      assert.strictEqual(fault("src/protocol/A.ts", "../services/B.ts"), 1)
      assert.strictEqual(fault("src/protocol/A.ts", "effect/Effect"), 1)
      assert.strictEqual(fault("src/protocol/A.ts", "node:net"), 1)
      assert.strictEqual(fault("src/services/A.ts", "../layers/B.ts"), 1)
      assert.strictEqual(fault("src/layers/A.ts", "../testing/B.ts"), 1)
      assert.strictEqual(fault("src/layers/A.ts", "../../examples/b.ts"), 1)
      assert.strictEqual(fault("src/layers/A.ts", "../index.ts"), 1)
      assert.strictEqual(fault("src/index.ts", "./testing/B.ts"), 1)
      assert.strictEqual(fault("src/protocol/A.ts", "./B.ts"), 0)
      assert.strictEqual(fault("src/protocol/A.ts", "effect/Schema"), 0)
      assert.strictEqual(fault("src/services/A.ts", "../protocol/B.ts"), 0)
      assert.strictEqual(fault("src/testing/A.ts", "../layers/B.ts"), 0)
      assert.strictEqual(fault("src/testing.ts", "./testing/B.ts"), 0)
      assert.deepStrictEqual(
        importsOf(
          "src/a/B.ts",
          "import type {\n  X\n} from \"./C.ts\"\nexport * as Y from \"../d/Y.ts\"\nimport \"e\"\n"
        ),
        ["src/a/C.ts", "src/d/Y.ts", "e"]
      )
    })

    it("take whole modules of effect, never its barrel", () => {
      const barrels = [...src].filter(([path, text]) => importsOf(path, text).includes("effect")).map(([path]) => path)
      assert.deepStrictEqual(barrels, [])
    })
  })

  describe("entry points", () => {
    const manifest = JSON.parse(readFileSync(`${root}/package.json`, "utf8"))

    for (const entry of ["src/index.ts", "src/testing.ts"]) {
      it(`${entry} loads nothing of Node but buffers, and no platform package`, () => {
        const node = [...reachedFrom(entry, src)].filter((target) =>
          /^(node:(?!buffer$)|@effect\/platform)/.test(target)
        )
        assert.deepStrictEqual(node, [])
      })
    }

    it("exist for every export of the package", () => {
      for (const name of Object.keys(manifest.exports)) {
        if (name === "./package.json") continue
        assert.isTrue(src.has(`src/${name === "." ? "index" : name.slice(2)}.ts`), name)
      }
    })

    it("load only packages that the manifest declares", () => {
      const declared = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies })
      const undeclared = [...src].flatMap(([path, text]) =>
        importsOf(path, text)
          .filter((target) => !target.startsWith("src/") && !target.startsWith("node:"))
          .filter((target) => !declared.some((name) => target === name || target.startsWith(`${name}/`)))
          .map((target) => `${path} imports ${target}`)
      )
      assert.deepStrictEqual(undeclared, [])
    })
  })

  describe("files", () => {
    it("have at most 600 lines", () => {
      const long = [...src].map(([path, text]) => [path, text.split("\n").length - 1] as const)
      assert.deepStrictEqual(long.filter(([, lines]) => lines > 600), [])
    })

    it("are not named by what is in no room", () => {
      const vague = [...all.keys()].filter((path) =>
        /^(utils?|commons?|helpers?|types|misc|shared)\./i.test(basename(path))
      )
      assert.deepStrictEqual(vague, [])
    })

    it("leave time and order to Effect: no async, no await (law 16)", () => {
      const waiting = [...src].filter(([, text]) => /\basync\s+[\w(*]|\bawait\s+[\w(]/.test(withoutComments(text)))
      assert.deepStrictEqual(waiting.map(([path]) => path), [])
    })

    it("begin with what they are", () => {
      const bare = [...src].filter(([path, text]) => basename(path) !== "index.ts" && !text.startsWith("/**\n"))
      assert.deepStrictEqual(bare.map(([path]) => path), [])
    })

    it("have a docstring with @since on every export of a public module", () => {
      const barrels = [...src].filter(([path]) => /^src\/([^/]+|testing\/index)\.ts$/.test(path))
      const modules = new Set(barrels.flatMap(([path, text]) => importsOf(path, text)))
      const bare: Array<string> = []
      for (const path of modules) {
        const lines = (src.get(path) ?? "").split("\n")
        for (const [i, line] of lines.entries()) {
          if (!/^export (abstract )?(const|let|function|class|interface|type) \w/.test(line)) continue
          const before = lines.slice(0, i).join("\n")
          const comment = before.slice(before.lastIndexOf("/**"))
          if (!comment.endsWith("*/") || !/@since|@internal/.test(comment)) {
            bare.push(`${path}:${i + 1} ${line.slice(0, 60)}`)
          }
        }
      }
      assert.deepStrictEqual(bare, [])
    })
  })
})
