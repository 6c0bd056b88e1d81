// Rooflines and bars.
import t from "tap"
import { barChart } from "../../../lib/report/bars.ts"
import { htmlPage } from "../../../lib/report/html.ts"
import { rooflinePlot } from "../../../lib/report/roofline.ts"

const ceilings = [
  { name: "fma", speed: 400 },
  { name: "vnni <8>", speed: 1600 },
]
const series = [
  {
    ...{ name: "ours & theirs", color: "#0072b2", hollow: false },
    points: [
      { intensity: 4, speed: 100, label: "m 1" },
      { intensity: 400, speed: 390, label: "m 512" },
    ],
  },
  { name: "int8", color: "#d55e00", hollow: true, points: [{ intensity: 400, speed: 1000, label: "m 512" }] },
]

t.test("rooflines", async t => {
  const svg = rooflinePlot(series, { title: "Roofline <2>", memory: 30, ceilings })
  t.match(svg, /^<svg [^>]*viewBox="0 0 900 476"/)
  t.match(svg, "Roofline &lt;2&gt;")
  t.match(svg, "vnni &lt;8&gt;, 1600")
  t.match(svg, "memory, 30 GB/s")
  t.notMatch(svg, /NaN|Infinity|undefined/)
  const dots = [...svg.matchAll(/<circle cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)" ([^>]*)><title>(.*?)<\/title>/g)]
  t.equal(dots.length, 5, "three points, two in the legend")
  const [slow, fast, int8] = dots.map(dot => ({ x: Number(dot[1]), y: Number(dot[2]), paint: dot[4]!, title: dot[5] }))
  t.equal(slow!.title, "ours &amp; theirs: m 1")
  t.ok(slow!.x < fast!.x && slow!.y > fast!.y, "more intensity lies to the right, more speed above")
  t.ok(int8!.y < fast!.y && int8!.x === fast!.x)
  t.match(int8!.paint, "stroke=")
  t.notMatch(fast!.paint, "stroke=")
  t.notMatch(rooflinePlot(series.slice(0, 1), { title: "", memory: 30, ceilings: [] }), /NaN|Infinity/)
})

t.test("bars", async t => {
  const bars = [
    { label: "a <b>", value: 50, color: "#0072b2", hatched: false },
    { label: "c", value: 1234.5, color: "#d55e00", hatched: true, range: [1000, 2000] as const },
  ]
  const svg = barChart(bars, { title: "speed", unit: "tokens/s" })
  t.match(svg, "a &lt;b&gt;")
  t.match(svg, ">1,235<")
  t.match(svg, ">50.0<")
  t.notMatch(svg, /NaN|Infinity|undefined/)
  const widths = [...svg.matchAll(/<rect x="[\d.]+" y="[\d.]+" width="([\d.]+)"/g)].map(match => Number(match[1]))
  t.ok(Math.abs(widths[1]! / widths[0]! - 1234.5 / 50) < 0.5, widths.join(" "))
  t.equal((svg.match(/<path/g) ?? []).length, 1, "one bar is hatched")
  t.notMatch(barChart([], { title: "none", unit: "" }), /NaN|Infinity/)
  t.notMatch(barChart([{ ...bars[0]!, value: 0 }], { title: "zero", unit: "" }), /NaN|Infinity/)
})

t.test("plots side by side", async t => {
  const page = htmlPage("x", [{ kind: "svgs", svgs: ["<svg>1</svg>", "<svg>2</svg>"] }])
  t.match(page, /<div class="grid"><figure><svg>1<\/svg><\/figure>\n<figure><svg>2<\/svg><\/figure><\/div>/)
})
