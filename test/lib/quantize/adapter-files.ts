// Folders of LoRA adapters as PEFT saves them.
import { mkdirSync, renameSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Test } from "tap"
import { SafetensorsWriter } from "../../../lib/containers/safetensors-writer.ts"
import { random } from "../containers/support.ts"
import { folder } from "./support.ts"

const base = "base_model.model."

export interface Pair {
  a: number[][]
  b: number[][]
}

/** A [rank, k] and B [n, rank] of numbers that every type holds. */
export function pair(seed: number, n: number, k: number, rank: number): Pair {
  const { below } = random(seed)
  const matrix = (rows: number, cols: number) =>
    Array.from({ length: rows }, () => Array.from({ length: cols }, () => (below(33) - 16) / 64))
  return { a: matrix(rank, k), b: matrix(n, rank) }
}

export const f32 = (name: string, rows: number[][]) => ({
  name: base + name,
  dtype: "F32",
  shape: [rows.length, rows[0]!.length],
  data: new Uint8Array(Float32Array.from(rows.flat()).buffer),
})

export async function adapter(
  t: Test,
  config: Record<string, unknown>,
  pairs: Record<string, Pair>,
  more: Parameters<SafetensorsWriter["add"]>[0][] = [],
): Promise<string> {
  const directory = join(folder(t), "adapter")
  mkdirSync(directory)
  writeFileSync(
    join(directory, "adapter_config.json"),
    JSON.stringify({ peft_type: "LORA", r: 4, lora_alpha: 8, target_modules: ["q_proj"], bias: "none", ...config }),
  )
  const writer = new SafetensorsWriter(directory)
  for (const [module, { a, b }] of Object.entries(pairs)) {
    await writer.add(f32(`${module}.lora_A.weight`, a))
    await writer.add(f32(`${module}.lora_B.weight`, b))
  }
  for (const tensor of more) await writer.add(tensor)
  await writer.finish()
  renameSync(join(directory, "model.safetensors"), join(directory, "adapter_model.safetensors"))
  return directory
}
