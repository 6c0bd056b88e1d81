import t from "tap"
import { heatMap } from "../../../lib/report/heat-map.ts"
import { placeLabels } from "../../../lib/report/labels.ts"
import { paretoFront, paretoPlot } from "../../../lib/report/pareto.ts"

const points = [
  { x: 10, y: 0, label: "reference" },
  { x: 5, y: 0.01, label: "eight" },
  { x: 3, y: 0.1, label: "four" },
  { x: 4, y: 0.2, label: "worse" },
  { x: 3, y: 0.1, label: "four again" },
]

t.test("the front: what no other beats", async t => {
  t.same(paretoFront(points, "less"), [0, 1, 2, 4])
  t.same(paretoFront(points, "more"), [0])
  t.same(paretoFront([], "less"), [])
})

t.test("the plot has every name once and no number that is none", async t => {
  for (const better of ["less", "more"] as const) {
    const svg = paretoPlot(points, { title: "a < b", xLabel: "x", yLabel: "y", better })
    for (const { label } of points) t.equal(svg.split(`>${label}</text>`).length, 2, label)
    t.notMatch(svg, /NaN|Infinity|undefined/)
    t.match(svg, /a &lt; b/)
  }
  t.notMatch(paretoPlot([{ x: 1, y: 0, label: "one" }], { title: "", xLabel: "", yLabel: "", better: "less" }), /NaN/)
})

t.test("labels lie over nothing", async t => {
  const crowd = Array.from({ length: 14 }, (_, i) => ({
    x: 200 + (i % 4) * 6,
    y: 150 + i * 3,
    label: `model number ${i}`,
  }))
  const area = { left: 0, right: 600, top: 0, bottom: 400 }
  const places = placeLabels(crowd, area)
  const boxes = places.map((place, i) => {
    t.ok(place)
    const { x, y } = place!
    return { left: x, right: x + crowd[i]!.label.length * 6.6, top: y - 11, bottom: y + 3 }
  })
  boxes.forEach((a, i) => {
    t.ok(a.left >= 0 && a.right <= 600 && a.top >= 0 && a.bottom <= 400)
    for (const b of boxes.slice(i + 1))
      t.notOk(a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
    for (const { x, y } of crowd) t.notOk(a.left < x && x < a.right && a.top < y && y < a.bottom)
  })
  t.same(placeLabels([{ x: 5, y: 5, label: "no room at all" }], { left: 0, right: 20, top: 0, bottom: 20 }), [null])
})

t.test("a heat map has a figure in every cell", async t => {
  const svg = heatMap({
    ...{ title: "t", xLabel: "x", yLabel: "y", columns: ["1k", "2k"], rows: ["0 %", "100 %"] },
    values: [
      [1, 0.5],
      [0, null],
    ],
  })
  for (const figure of ["100", "50", "0", "–"]) t.match(svg, new RegExp(`>${figure}</text>`))
})
