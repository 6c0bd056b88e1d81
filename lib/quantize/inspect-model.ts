// inspectModel: what a checkpoint holds and what it takes, without loading it.
import { Checkpoint } from "../containers/checkpoint.ts"
import { SafetensorsFile } from "../containers/safetensors.ts"
import { Options } from "../core/options.ts"
import type { Scheme } from "../core/scheme.ts"
import type { EngineFinding, EngineName, StoredModule } from "../formats/engines/engine.ts"
import { checkEngines, judge } from "../formats/engines/registry.ts"
import { detectFormat } from "../formats/registry.ts"
import { type KvCacheSettings, type KvType, kvCacheBytes, kvFormat, kvTypes, readKvCache } from "../models/kv-cache.ts"
import type { ModelConfig } from "../models/program.ts"
import { describeModel } from "../models/registry.ts"
import { inspectGguf, type MetadataField } from "./inspect-gguf.ts"

export interface InspectModelOptions {
  /** Tokens of context that the KV cache is sized for. Default: the model's. */
  context?: number
  /** Sequences at once. Default 1. */
  batch?: number
  /** Engines to say of what they would refuse, run slowly or ignore. */
  for?: readonly EngineName[]
  onWarning?: (message: string) => void
}

export interface ModelInspection {
  architecture: string
  /** Weights of the model, whatever they are stored as. */
  parameters: number
  format: string
  /** Of the quantized linears: "w4a16 g128 symmetric", "mixed", or null. */
  scheme: string | null
  /** Over quantized linears with scales and zero points; of the stored type where nothing is quantized. */
  bitsPerWeight: number
  /** Over the whole file. */
  fileBitsPerWeight: number
  weightBytes: number
  /** Of keys and values in this library (f32) at `context` tokens and `batch` sequences. */
  kvCacheBytes: number
  /** The same by the values of loadModel's option kvCache, with what each keeps in 16 bits. */
  kvCacheBytesByType?: Record<KvType, number>
  context: number
  batch: number
  tensors: { name: string; shape: number[]; dtype: string | null; scheme: string | null; bytes: number }[]
  /** Of a GGUF file. */
  metadata?: MetadataField[]
  /** Where engines were named; empty where they load the model as it is. */
  findings?: EngineFinding[]
}

/** "w4a16 g128 asymmetric", "nf4 g64", "e4m3 block 128x128, activations e4m3 dynamic per token". */
export function schemeText({ bits, symmetric, granularity, groupSize, blockRows, runLength, ...rest }: Scheme): string {
  const { codebook, activations } = rest
  const numbers = codebook ?? `w${bits}a${activations?.type === "int8" ? 8 : 16}`
  const places = { group: `g${groupSize}`, block: `block ${blockRows}x${groupSize}`, flat: `runs of ${runLength}` }
  const place = places[granularity as keyof typeof places] ?? granularity
  const zeros = codebook ? "" : symmetric ? " symmetric" : " asymmetric"
  const inputs = activations
    ? `, activations ${activations.type} ${activations.dynamic ? "dynamic" : "static"} per ${activations.granularity}`
    : ""
  return `${numbers} ${place}${zeros}${inputs}`
}

/**
 * Inspects a checkpoint folder, or a .safetensors or .gguf file by itself, of which only the contents are known. A quantized module is one entry (dtype null) with
 * the bytes of all its tensors.
 */
export async function inspectModel(path: string, options: InspectModelOptions = {}): Promise<ModelInspection> {
  const checked = new Options("inspectModel", options, ["context", "batch", "for", "onWarning"])
  const engines = checked.has("for") ? checkEngines(options.for, "inspectModel") : null
  if (typeof path === "string" && path.endsWith(".safetensors")) {
    if (engines) checked.fail("for", "no value for a single .safetensors file: engines load folders and .gguf files")
    return inspectFile(path)
  }
  if (typeof path === "string" && path.endsWith(".gguf")) return inspectGguf(path, engines)
  const checkpoint = await Checkpoint.open(path)
  try {
    const program = describeModel(checkpoint.config, name => checkpoint.has(name))
    const context = checked.integer("context", { min: 1 }, program.config.maxContext)
    const batch = checked.integer("batch", { min: 1 }, 1)
    const kvCacheBytesByType = kvBytesByType(program.config, context, batch)
    const config = checkpoint.quantizationConfig
    const format = detectFormat(config)
    const reader = format?.reader(checkpoint, config!, options.onWarning ?? (() => {}))
    const tensors: ModelInspection["tensors"] = []
    const modules: StoredModule[] = []
    const ownedBy = new Set<string>()
    const schemes = new Set<string>()
    let parameters = 0
    let weightBytes = 0
    let bits = 0
    let weights = 0
    for (const module of reader?.modules ?? []) {
      const tensor = await reader!.read(module)
      let bytes = 0
      for (const name of reader!.tensorNames(module)) {
        ownedBy.add(name)
        bytes += checkpoint.entry(name).bytes
      }
      const size = tensor.shape[0] * tensor.shape[1]
      const { shape, scheme } = tensor
      modules.push({ name: module, shape, scheme, groupIndex: tensor.groupIndex !== null })
      schemes.add(schemeText(tensor.scheme))
      tensors.push({ name: module, shape: [...tensor.shape], dtype: null, scheme: schemeText(tensor.scheme), bytes })
      parameters += size
      weightBytes += bytes
      bits += tensor.bitsPerWeight * size
      weights += size
    }
    for (const name of checkpoint.names) {
      if (ownedBy.has(name)) continue
      const { shape, dtype, bytes } = checkpoint.entry(name)
      tensors.push({ name, shape, dtype, scheme: null, bytes })
      parameters += countOf(shape)
      weightBytes += bytes
    }
    const found = engines && {
      findings: judge(engines, {
        format: format?.name ?? "dense",
        architecture: program.config.architecture,
        configText: checkpoint.configText,
        settings: config,
        modules,
        tensors: tensors
          .filter(({ dtype }) => dtype !== null)
          .map(({ name, shape, dtype }) => ({ name, shape, type: dtype as string })),
        metadata: null,
      }),
    }
    return {
      architecture: program.config.architecture,
      parameters,
      format: format?.name ?? "safetensors",
      scheme: schemes.size === 0 ? null : schemes.size === 1 ? [...schemes][0]! : "mixed",
      bitsPerWeight: weights > 0 ? bits / weights : (weightBytes * 8) / parameters,
      fileBitsPerWeight: (weightBytes * 8) / parameters,
      weightBytes,
      kvCacheBytes: kvCacheBytesByType.f32,
      kvCacheBytesByType,
      context,
      batch,
      tensors,
      ...found,
    }
  } finally {
    checkpoint.dispose()
  }
}

const kvBytesByType = (config: ModelConfig, context: number, batch: number): Record<KvType, number> =>
  Object.fromEntries(
    kvTypes.map(type => {
      const settings = readKvCache(new Options("inspectModel", { kvCache: type }, ["kvCache"]))
      return [type, kvCacheBytes(config, kvFormat(settings as KvCacheSettings, config), context, batch)]
    }),
  ) as Record<KvType, number>

const countOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1)

async function inspectFile(path: string): Promise<ModelInspection> {
  const file = await SafetensorsFile.open(path)
  try {
    const tensors = [...file.entries.values()].map(({ name, shape, dtype, bytes }) => ({
      name,
      shape,
      dtype,
      scheme: null,
      bytes,
    }))
    const parameters = tensors.reduce((sum, { shape }) => sum + countOf(shape), 0)
    const weightBytes = tensors.reduce((sum, { bytes }) => sum + bytes, 0)
    const bits = parameters > 0 ? (weightBytes * 8) / parameters : 0
    const model = {
      architecture: "unknown",
      format: "safetensors",
      scheme: null,
      kvCacheBytes: 0,
      context: 0,
      batch: 0,
    }
    return { ...model, parameters, bitsPerWeight: bits, fileBitsPerWeight: bits, weightBytes, tensors }
  } finally {
    file.dispose()
  }
}
