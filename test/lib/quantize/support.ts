// What the tests of the pipeline share: small random checkpoints, hashes of output folders, and the shared models where they are.
import { createHash } from "node:crypto"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, relative } from "node:path"
import { fileURLToPath } from "node:url"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { random, randomWeights, writeCheckpoint } from "../models/support/tiny-checkpoint.ts"

export const root = fileURLToPath(new URL("../../../", import.meta.url))
export const fable = join(root, "models/fable-5m")
export const fableCalibration = join(root, "models/text/fable-calib.txt")
export const fableEvaluation = join(root, "models/text/fable-eval.txt")

/** Models that are not shipped lie beside the repository on the machines that have them. */
export function sharedModel(name: string): string | null {
  const path = join(root, "../shared/models", name)
  return existsSync(path) ? path : null
}

interface Test {
  teardown(handler: () => void): unknown
}

/** A folder that is removed after the test. */
export function folder(t: Test): string {
  const path = mkdtempSync(join(tmpdir(), "tsq-"))
  t.teardown(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** Widths that every format holds: all of them multiples of 32. */
export const smallConfig = {
  model_type: "llama",
  architectures: ["LlamaForCausalLM"],
  torch_dtype: "bfloat16",
  vocab_size: 64,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
}

/** A small random checkpoint in a folder of its own. */
export function smallCheckpoint(
  t: Test,
  change: Record<string, unknown> = {},
  dtype: "F32" | "BF16" = "BF16",
  edit?: (weights: ReturnType<typeof randomWeights>) => void,
): string {
  const config = { ...smallConfig, torch_dtype: dtype === "F32" ? "float32" : "bfloat16", ...change }
  const directory = join(folder(t), "model")
  const weights = randomWeights(config, 5, dtype)
  edit?.(weights)
  writeCheckpoint(directory, config, weights, dtype)
  return directory
}

/** Token ids with some structure: calibration of random ids is too even to tell roundings apart. */
export function tokens(count: number, vocabulary = smallConfig.vocab_size, seed = 3): number[] {
  const next = random(seed)
  let last = 0
  return Array.from({ length: count }, () => {
    last = next() < 0.5 ? (last * 7 + 1) % vocabulary : Math.floor(next() * vocabulary)
    return last
  })
}

/** Calibration for the small checkpoint: 16 windows of 32 tokens. */
export const smallCalibration = { calibration: tokens(16 * 32), samples: 16, sequenceLength: 32 } as const

/** Relative path -> SHA-256 of every file. */
export function hashes(directory: string): Record<string, string> {
  const result: Record<string, string> = {}
  const visit = (path: string) => {
    for (const name of readdirSync(path).sort()) {
      const entry = join(path, name)
      if (statSync(entry).isDirectory()) visit(entry)
      else result[relative(directory, entry)] = createHash("sha256").update(readFileSync(entry)).digest("hex")
    }
  }
  visit(directory)
  return result
}

/** Logits of some ids, row after row. */
export async function logits(directory: string, ids: readonly number[]): Promise<Float32Array> {
  const model = await loadModel(directory)
  try {
    return (await model.forward(ids)).data as Float32Array
  } finally {
    model.dispose()
  }
}

/** ‖a − b‖ / ‖b‖. */
export function relativeDistance(a: Float32Array, b: Float32Array): number {
  let difference = 0
  let square = 0
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2
    square += b[i]! ** 2
  }
  return Math.sqrt(difference / square)
}

/** Everything that lies beside an output: leftovers show here. */
export const beside = (out: string): string[] => readdirSync(join(out, ".."))
