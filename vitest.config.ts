import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

const source = (file: string): string => fileURLToPath(new URL(`./src/${file}`, import.meta.url))

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          // What the guide shows is tested as a reader would write it, so it names the package.
          alias: {
            "effect-mqtt/node": source("node.ts"),
            "effect-mqtt/testing": source("testing.ts"),
            "effect-mqtt": source("index.ts")
          },
          include: ["test/**/*.test.ts", "examples/testing/*.test.ts"],
          exclude: ["test/integration/**"],
          // No test changes what another imports, and loading everything once per file took half of the time.
          isolate: false,
          // A limit against hangs and no measure: a loaded machine runs the long simulations many times slower.
          testTimeout: 120_000,
          hookTimeout: 120_000
        }
      },
      {
        test: {
          name: "integration",
          include: ["test/integration/**/*.test.ts"],
          // Brokers and sockets share the machine: one file at a time keeps their timing honest.
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 60_000
        }
      }
    ]
  }
})
