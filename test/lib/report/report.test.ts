// Tables, plots and pages made of result objects.
import t from "tap"
import { htmlPage } from "../../../lib/report/html.ts"
import { scatterPlot } from "../../../lib/report/plot.ts"
import { planTable, table, tensorTable } from "../../../lib/report/tables.ts"

t.test("tables align their columns and end lines without spaces", async t => {
  const lines = table(
    ["name", "n"],
    ["left", "right"],
    [
      ["a", "1"],
      ["long name", "12345"],
    ],
  ).split("\n")
  t.strictSame(lines, ["name           n", "a              1", "long name  12345"])
  t.match(
    tensorTable([{ name: "w", shape: [2, 3], dtype: "F32", scheme: null, bytes: 12345 }]),
    /^w +2×3 +F32 +12,345$/m,
  )
  const plan = planTable([
    { module: "q", shape: [8, 8], scheme: { bits: 4, groupSize: 8, symmetric: true }, reason: null },
    { module: "k", shape: [8, 8], scheme: null, reason: "k = 8 is odd" },
  ])
  t.match(plan, /^q +8×8 +4 bit, group 8, symmetric$/m)
  t.match(plan, /^k +8×8 +left alone: k = 8 is odd$/m)
})

const series = [
  {
    name: "GPTQ <a>",
    points: [
      { x: 4.1, y: 0.001, label: "4 bit" },
      { x: 3.1, y: 0.01, label: "3 bit" },
      { x: 2.1, y: 0.3, label: "2 & less" },
    ],
  },
  { name: "single", points: [{ x: 4, y: 0.002, label: "4 bit" }] },
]
const options = { title: "size & quality", xLabel: "bits", yLabel: "KL" }

/** Every coordinate pair of the markers. */
const circles = (svg: string) =>
  [...svg.matchAll(/<circle cx="([\d.]+)" cy="([\d.]+)"/g)].map(match => [Number(match[1]), Number(match[2])] as const)

t.test("plots", async t => {
  for (const logY of [true, false]) {
    const svg = scatterPlot(series, { ...options, logY })
    t.match(svg, /^<svg [^>]*viewBox="0 0 760 440"/)
    t.match(svg, "size &amp; quality")
    t.match(svg, "GPTQ &lt;a&gt;, 2 &amp; less")
    t.notMatch(svg, /NaN|Infinity|undefined/)
    t.equal((svg.match(/<polyline/g) ?? []).length, 1, "a single point is joined to nothing")
    const [four, three, two] = circles(svg)
    t.ok(four![0] > three![0] && three![0] > two![0], "more bits lie to the right")
    t.ok(four![1] > three![1] && three![1] > two![1], "more loss lies above")
    for (const [x, y] of circles(svg)) t.ok(x >= 0 && x <= 760 && y >= 0 && y <= 440)
  }
  const same = scatterPlot(
    [
      {
        name: "flat",
        points: [
          { x: 1, y: 5, label: "a" },
          { x: 1, y: 5, label: "b" },
        ],
      },
    ],
    options,
  )
  t.notMatch(same, /NaN|Infinity/)
})

t.test("pages hold what they are given, as text", async t => {
  const page = htmlPage("A <b> title", [
    { kind: "heading", text: "Head" },
    { kind: "text", text: "1 < 2" },
    { kind: "table", head: ["a"], rows: [["<script>"]] },
    { kind: "svg", svg: scatterPlot(series, options) },
    { kind: "sample", title: "t", text: '"x"' },
  ])
  t.match(page, /^<!doctype html>\n/)
  t.match(page, "<title>A &lt;b&gt; title</title>")
  for (const part of ["<h2>Head</h2>", "<p>1 &lt; 2</p>", "<td>&lt;script&gt;</td>", "<figure><svg", "&quot;x&quot;"])
    t.match(page, part)
  t.notMatch(page, "<script")
})
