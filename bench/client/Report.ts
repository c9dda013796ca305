/** The report: Markdown with its plots beside it. */
import { mkdirSync, writeFileSync } from "node:fs"
import { cpus } from "node:os"
import { fileURLToPath } from "node:url"
import { parse, View } from "vega"
import type { TopLevelSpec } from "vega-lite"
import { compile } from "vega-lite"
import type { Row, Side, Verdict } from "./Results.ts"

const directory = fileURLToPath(new URL("../report/", import.meta.url))

const labels: Readonly<Record<string, string>> = {
  ours: "effect-mqtt",
  "mqtt.js": "MQTT.js",
  bare: "bare loop",
  mosquitto: "Mosquitto client"
}

const labelOf = (peer: string): string => labels[peer] ?? peer

const colours = {
  domain: ["effect-mqtt", "MQTT.js", "bare loop", "Mosquitto client"],
  range: ["#1f6feb", "#d29922", "#6e7781", "#8250df"]
}

const plot = async (name: string, spec: TopLevelSpec): Promise<void> => {
  const svg = await new View(parse(compile(spec).spec), { renderer: "none" }).toSVG()
  writeFileSync(`${directory}${name}.svg`, svg)
}

const bars = (title: string, values: ReadonlyArray<object>, isLog: boolean): TopLevelSpec => ({
  $schema: "https://vega.github.io/schema/vega-lite/v6.json",
  title,
  background: "white",
  width: 520,
  height: { step: 9 },
  data: { values: [...values] },
  mark: { type: "bar", tooltip: true },
  encoding: {
    y: { field: "scenario", type: "nominal", sort: null, title: null, axis: { labelLimit: 420 } },
    yOffset: { field: "peer", sort: colours.domain },
    x: { field: "value", type: "quantitative", title: null, scale: isLog ? { type: "log", domainMin: 1 } : {} },
    color: { field: "peer", type: "nominal", title: null, scale: colours }
  }
})

const spread = (title: string, rows: ReadonlyArray<Row>): TopLevelSpec => {
  const y = { field: "scenario", type: "nominal", sort: null, title: null, axis: { labelLimit: 420 } } as const
  const color = { field: "against", type: "nominal", title: "against", scale: colours } as const
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    title,
    background: "white",
    width: 520,
    height: { step: 16 },
    data: { values: rows.map((row) => ({ ...row, against: labelOf(row.peer) })) },
    layer: [
      {
        mark: { type: "rule", strokeWidth: 2 },
        encoding: {
          y,
          x: { field: "ratioMin", type: "quantitative", title: "times", scale: { type: "log" } },
          x2: { field: "ratioMax" },
          color
        }
      },
      {
        mark: { type: "point", filled: true, size: 60 },
        encoding: { y, x: { field: "ratio", type: "quantitative" }, color }
      }
    ]
  }
}

const thousands = (value: number): string =>
  value >= 10_000 ? `${Math.round(value / 1000).toLocaleString("en")} k` : Math.round(value).toLocaleString("en")

const times = (value: number | undefined): string => value === undefined ? "" : value.toFixed(2)

const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string =>
  [head, head.map((_, index) => index === 0 ? "---" : "---:"), ...rows].map((row) => `| ${row.join(" | ")} |`).join(
    "\n"
  )

export const verdictTable = (verdicts: ReadonlyArray<Verdict>): string =>
  table(
    ["scenario", "what", "asked", "got", ""],
    verdicts.map((
      { asked, got, holds, scenario, what }
    ) => [scenario, what, asked, got.toFixed(2), holds ? "pass" : "FAIL"])
  )

const extraOf = ({ bytes, clients, dropped, p50, p99, p999, resident, slope }: Side["extra"]): string =>
  [
    p50 === undefined ? "" : `p50 ${p50.toFixed(3)} ms, p99 ${p99!.toFixed(3)} ms, p99.9 ${p999!.toFixed(3)} ms`,
    bytes === undefined || clients === undefined ? "" : `${(bytes / 1024).toFixed(1)} KiB per client`,
    resident === undefined || clients !== undefined ? "" : `${(resident / 1048576).toFixed(0)} MiB at most`,
    dropped === undefined ? "" : `${thousands(dropped)} dropped`,
    slope === undefined ? "" : `${slope.toFixed(3)} bytes per message`
  ].filter((text) => text !== "").join(", ")

export const writeReport = async (
  sides: ReadonlyArray<Side>,
  rows: ReadonlyArray<Row>,
  verdicts: ReadonlyArray<Verdict>,
  what: string
): Promise<string> => {
  mkdirSync(directory, { recursive: true })
  const measured = sides.filter(({ cpuNanos }) => cpuNanos !== undefined)
  const values = (f: (side: Side) => number) =>
    measured.map((side) => ({ scenario: side.scenario, peer: labelOf(side.peer), value: f(side) }))
  await plot("throughput", bars("Messages per second (logarithmic)", values(({ rate }) => rate), true))
  await plot("cpu", bars("CPU time per message, ns", values(({ cpuNanos }) => cpuNanos!), false))
  await plot("ratios", spread("Our throughput to the peer's: median, least and most of the rounds", rows))
  const processor = cpus()
  const text = [
    "# Benchmark report",
    "",
    `${what} Node ${process.version}, ${processor.length} × ${
      processor[0]?.model.trim()
    }. Medians of interleaved rounds;` +
    " a ratio is the median of the rounds' ratios. What the numbers do not mean is said in [the README](../README.md).",
    "",
    "![Throughput](throughput.svg)",
    "",
    "![CPU time per message](cpu.svg)",
    "",
    "![Ratios and their spread](ratios.svg)",
    "",
    ...verdicts.length === 0 ? [] : ["## Targets", "", verdictTable(verdicts), ""],
    "## Ratios",
    "",
    table(
      ["scenario", "against", "throughput", "least", "most", "CPU per message", "memory"],
      rows.map((row) => [
        row.scenario,
        labelOf(row.peer),
        times(row.ratio),
        times(row.ratioMin),
        times(row.ratioMax),
        times(row.cpuRatio),
        times(row.memoryRatio)
      ])
    ),
    "",
    "## Figures",
    "",
    table(
      ["scenario", "", "per second", "least", "most", "CPU ns per message", "besides"],
      sides.map((side) => [
        side.scenario,
        labelOf(side.peer),
        thousands(side.rate),
        thousands(side.rateMin),
        thousands(side.rateMax),
        side.cpuNanos === undefined ? "" : Math.round(side.cpuNanos).toLocaleString("en"),
        extraOf(side.extra)
      ])
    ),
    ""
  ].join("\n")
  writeFileSync(`${directory}README.md`, text)
  return directory
}
