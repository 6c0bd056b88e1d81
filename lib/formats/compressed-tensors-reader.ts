// Reads the modules of a compressed-tensors checkpoint.
import type { Checkpoint } from "../containers/checkpoint.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { StoredTensor, type StoredTensorInit } from "../core/stored-tensor.ts"
import { bytesInit, nibblesInit } from "./compressed-tensors-bytes.ts"
import { CompressedTensorsConfig, type ModuleSettings } from "./compressed-tensors-config.ts"
import { storageOf } from "./compressed-tensors-scheme.ts"
import { PackedWords } from "./compressed-tensors-words.ts"
import type { FormatReader } from "./format.ts"
import { kvScaleTensors } from "./kv-scales.ts"
import { readActivation } from "./static-activations.ts"

/** The weight's own first. */
const suffixes = [
  "weight_packed",
  "weight",
  "weight_scale",
  "weight_shape",
  "weight_zero_point",
  "weight_g_idx",
  "weight_global_scale",
  "input_scale",
  "input_zero_point",
  "input_global_scale",
]

export class CompressedTensorsReader implements FormatReader {
  readonly modules: readonly string[]
  readonly carried: Readonly<Record<string, unknown>>
  readonly kvScales: readonly string[]
  readonly #checkpoint: Checkpoint
  readonly #config: CompressedTensorsConfig
  readonly #words: PackedWords
  readonly #warn: (message: string) => void

  constructor(checkpoint: Checkpoint, quantizationConfig: Record<string, unknown>, warn: (message: string) => void) {
    this.#checkpoint = checkpoint
    this.#config = new CompressedTensorsConfig(quantizationConfig, warn)
    this.#words = new PackedWords(checkpoint, this.#config.dense, warn)
    this.#warn = warn
    this.modules = quantizedModules(checkpoint)
    const { kvCacheScheme } = this.#config
    this.carried = kvCacheScheme ? { kv_cache_scheme: kvCacheScheme } : {}
    this.kvScales = kvScaleTensors(checkpoint)
  }

  tensorNames(module: string): readonly string[] {
    return suffixes.map(suffix => `${module}.${suffix}`).filter(name => this.#checkpoint.has(name))
  }

  async read(module: string): Promise<QuantizedTensor> {
    return (await this.stored(module)).unpacked()
  }

  async stored(module: string): Promise<StoredTensor> {
    const settings = this.#config.settings(module)
    const local = settings.format === "nvfp4-pack-quantized"
    const activation = await readActivation(this.#checkpoint, settings.activations, {
      scale: `${module}.${local ? "input_global_scale" : "input_scale"}`,
      zero: `${module}.input_zero_point`,
    })
    return new StoredTensor({ ...(await this.#init(module, settings)), activation })
  }

  #init(module: string, settings: ModuleSettings): Promise<StoredTensorInit> {
    const storage = storageOf[settings.format]
    if (storage === "words") return this.#words.init(module, settings)
    return storage === "bytes"
      ? bytesInit(this.#checkpoint, module, settings, this.#warn)
      : nibblesInit(this.#checkpoint, module, settings)
  }
}

/** Modules with packed codes, or with bytes that have scales, in the checkpoint's order. */
function quantizedModules(checkpoint: Checkpoint): string[] {
  const found = new Set<string>()
  for (const name of checkpoint.names) {
    const module = name.slice(0, name.lastIndexOf("."))
    if (name.endsWith(".weight_packed") || (name.endsWith(".weight_scale") && checkpoint.has(`${module}.weight`)))
      found.add(module)
  }
  return [...found]
}
