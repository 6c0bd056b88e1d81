// What caches of keys and values retrieve from long contexts, on the model that is written for it.
import { join } from "node:path"
import { writeInductionModel } from "../../lib/evaluate/induction-model.ts"
import { evaluateNeedle, type LoadOptions } from "../../lib/index.ts"
import { type Context, orUnsupported, percent } from "./context.ts"

const caches: [name: string, kvCache: unknown][] = [
  ["f32", "f32"],
  ["f16", "f16"],
  ["int8", "int8"],
  ["fp8", "fp8"],
  ["int4, rotated (default)", "int4"],
  ["int4 keys, rotated", { keys: "int4" }],
  ["int4 values, rotated", { values: "int4" }],
  ["int4, not rotated", { keys: "int4", values: "int4", rotate: false }],
]
const lengths = [1024, 4096, 16384]

export async function retrievalLines(context: Context): Promise<string[]> {
  const model = join(context.work, "induction")
  await writeInductionModel(model)
  const lines = [
    "## Retrieval from long contexts",
    "",
    "Share of needles that a two-layer induction model retrieves (docs/evaluation.md), over five depths; its keys have outlier channels.",
    "",
    `| cache | ${lengths.map(length => `${length} tokens`).join(" | ")} |`,
    `|---|${lengths.map(() => "---|").join("")}`,
  ]
  for (const [name, kvCache] of caches) {
    const load = { kvCache } as LoadOptions
    const onProgress = context.progress.onProgress
    const found = await orUnsupported(evaluateNeedle(model, { kind: "pairs", lengths, load, onProgress }))
    const cell = (length: number) => {
      if (typeof found === "string") return "not in this version"
      const own = found.cells.filter(each => each.length === length)
      return percent(own.reduce((sum, each) => sum + each.retrieved / each.trials, 0) / own.length)
    }
    lines.push(`| ${name} | ${lengths.map(cell).join(" | ")} |`)
  }
  return [...lines, ""]
}
