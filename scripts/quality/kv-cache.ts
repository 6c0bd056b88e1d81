// Damage of quantized KV caches: a module of `npm run quality`.
import { readFileSync, rmSync } from "node:fs"
import { join } from "node:path"
import { evaluateModel, loadModel, type Model } from "../../lib/index.ts"
import type { KvCacheDetails, KvCacheOption } from "../../lib/models/kv-cache.ts"
import { plantKeyOutliers } from "../../test/lib/models/support/planted.ts"
import type { Context } from "./context.ts"

const bare: KvCacheDetails = { sinks: 0, window: 0 }
const int4: KvCacheDetails = { ...bare, keys: "int4", values: "int4" }
/** The first ones without anything kept in 16 bits, so that a short window shows what a long context would. */
export const rows: readonly (readonly [name: string, option: KvCacheOption])[] = [
  ["f16", "f16"],
  ["int8", { ...bare, keys: "int8", values: "int8" }],
  ["int8, keys only", { ...bare, keys: "int8" }],
  ["int8, values only", { ...bare, values: "int8" }],
  ["int8, rotated", { ...bare, keys: "int8", values: "int8", rotate: true }],
  ["int8, sinks 4, window 64 (default)", "int8"],
  ["fp8", { ...bare, keys: "fp8", values: "fp8" }],
  ["fp8, sinks 4, window 64 (default)", "fp8"],
  ["int4, not rotated", { ...int4, rotate: false }],
  ["int4, not rotated, symmetric", { ...int4, rotate: false, symmetric: true }],
  ["int4, rotated", { ...int4, rotate: true }],
  ["int4, rotated, symmetric", { ...int4, rotate: true, symmetric: true }],
  ["int4, rotated, keys only", { ...bare, keys: "int4", rotate: true }],
  ["int4, rotated, values only", { ...bare, values: "int4", rotate: true }],
  ["int4, keys not rotated, by channel, window 1", { ...int4, rotate: false, keyScales: "channel", window: 1 }],
  ["int4, rotated, window 1", { ...int4, rotate: true, window: 1 }],
  ["int4, rotated, sinks 4", { ...int4, rotate: true, sinks: 4 }],
  ["int4, rotated, window 64", { ...int4, rotate: true, window: 64 }],
  ["int4, not rotated, sinks 4, window 64", { keys: "int4", values: "int4", rotate: false }],
  ["int4, rotated, sinks 4, window 64", { keys: "int4", values: "int4", rotate: true }],
  ["int4, keys by channel, sinks 4, window 64", { keys: "int4", values: "int4", keyScales: "channel" }],
  ["int4, rotated, sinks 4, window 128", { ...int4, rotate: true, sinks: 4, window: 128 }],
  ["keys int8, values int4 rotated", { ...bare, keys: "int8", values: "int4" }],
]

/** Measured on the twin with outliers in its keys as well. */
const planted = ["int8", "int4, not rotated", "int4, rotated", "int4, keys not rotated, by channel, window 1"]
const outlierFactor = 16

/** Markdown lines. characters: of the text, for a quick look; default all. */
export async function kvCacheQuality(
  { subjects, work, progress }: Context,
  chosen = rows,
  characters = Number.POSITIVE_INFINITY,
): Promise<string[]> {
  const lines = [
    "## KV cache",
    "",
    "Against the same model with an f32 cache. Without sinks and window unless a row names them.",
    `*Outliers*: the same function with two channels of every head's keys times ${outlierFactor} and those of the queries divided by it; large models have such channels.`,
    "",
  ]
  for (const { name, path, evaluation } of subjects) {
    const text = readFileSync(evaluation, "utf8").slice(0, characters)
    using reference = await loadModel(path)
    const window = reference.maxContext
    lines.push(`### ${name}, windows of ${window}`, "")
    lines.push("| cache | bytes a token | perplexity ratio | KL | top token |", "|---|---|---|---|---|")
    const measure = async (label: string, model: Model) => {
      const { perplexity, against } = await evaluateModel(model, {
        ...{ text, window, protocol: "llama.cpp", against: reference },
      })
      const { klMean, topAgreement, perplexity: base } = against!
      const bytes = (model.kvCacheBytes(32768) - model.kvCacheBytes(16384)) / 16384
      lines.push(
        `| ${label} | ${bytes} | ${(perplexity / base).toFixed(5)} | ${klMean.toExponential(2)} | ${(topAgreement * 100).toFixed(2)} % |`,
      )
    }
    for (const [label, kvCache] of chosen) {
      progress.note(`${name}: ${label}`)
      using model = await loadModel(path, { kvCache })
      await measure(label, model)
    }
    const twin = join(work, "key-outliers")
    await plantKeyOutliers(path, twin, outlierFactor)
    for (const [label, kvCache] of chosen.filter(([label]) => planted.includes(label))) {
      progress.note(`${name}, outliers: ${label}`)
      using model = await loadModel(twin, { kvCache })
      await measure(`outliers: ${label}`, model)
    }
    rmSync(twin, { recursive: true })
    lines.push("")
  }
  return lines
}
