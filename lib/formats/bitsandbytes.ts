// bitsandbytes checkpoints as transformers stores them: NF4 and FP4 in blocks along the flattened weight, with or without double
// quantization, and LLM.int8() (bitsandbytes' functional.py and nn/modules.py, transformers' quantizer_bnb_*.py).
import { codebook } from "../core/codebooks.ts"
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor, ScaleLevels } from "../core/quantized-tensor.ts"
import { isFloatScale, type Scheme } from "../core/scheme.ts"
import { bytesOf, packNibbles, signedBytes, storedScalesOf } from "./arrays.ts"
import { BitsandbytesReader, defaultThreshold } from "./bitsandbytes-reader.ts"
import { type CheckpointFormat, type FormatSummary, type NamedTensor, traitsOf, type WriteOptions } from "./format.ts"
import { fusedNames } from "./module-patterns.ts"
import { doubleQuantized, isInt8Levels } from "./scale-levels.ts"

/** Blocks that bitsandbytes' kernels are compiled for. */
const blockSizes: readonly number[] = [32, 64, 128, 256, 512, 1024, 2048, 4096]

/** Elements of the flattened weight that share a scale. */
const blockOf = ({ granularity, groupSize, runLength }: Scheme): number =>
  granularity === "flat" ? (runLength as number) : groupSize

/** LLM.int8(): rows of −127 to 127 times SCB / 127. */
export const isInt8 = ({ bits, symmetric, granularity, scaleType, codebook: book }: Scheme): boolean =>
  bits === 8 && symmetric && granularity === "channel" && scaleType === "levels" && book === undefined

export const bitsandbytes: CheckpointFormat = {
  name: "bitsandbytes",
  detect: config => config.quant_method === "bitsandbytes",

  refuses(module, [n, k], scheme, extra = {}) {
    if (/(^|\.)(embed_tokens|lm_head)$/.test(module))
      return "bitsandbytes has neither quantized embeddings nor a quantized head; leave it unquantized"
    if (extra.groupIndex) return "bitsandbytes cannot store reordered columns (g_idx)"
    if (extra.inputScale) return "bitsandbytes cannot store a scale per input; fold it into the layer before"
    if (isInt8(scheme)) return null
    const { codebook: book, granularity, scaleType } = scheme
    if (book !== "nf4" && book !== "fp4")
      return `bitsandbytes stores the code books nf4 and fp4, and 8 bits as LLM.int8() has them, not ${
        book ? `the code book ${book}` : `${scheme.bits}-bit whole numbers with ${scaleType} scales`
      }`
    if (!isFloatScale(scaleType) && scaleType !== "levels") return `bitsandbytes has no ${scaleType} scales`
    if (granularity === "tensor" || granularity === "block")
      return `bitsandbytes has scales of blocks along the flattened weight, not one a ${granularity === "tensor" ? "tensor" : "block of rows and columns"}`
    const block = blockOf(scheme)
    if (!blockSizes.includes(block)) return `bitsandbytes has blocks of ${blockSizes.join(", ")} elements, not ${block}`
    if (granularity === "group" && k % block !== 0)
      return `k = ${k} is not a multiple of the group size ${block}; bitsandbytes' blocks run on into the next row`
    if ((n * k) % 2 !== 0) return `n · k = ${n * k} is odd, and bitsandbytes stores two codes in a byte`
    return null
  },

  async write(module, tensor, options) {
    const reason = bitsandbytes.refuses(module, tensor.shape, tensor.scheme, traitsOf(tensor))
    if (reason) throw new TsqError("ERR_UNSUPPORTED", `${module}: ${reason}`)
    if (isInt8(tensor.scheme)) return int8Tensors(module, tensor)
    return fourBitTensors(module, options.doubleQuantization ? await doubleQuantized(tensor) : tensor, options)
  },

  configuration,

  reader: (checkpoint, quantizationConfig, warn) => new BitsandbytesReader(checkpoint, quantizationConfig, warn),
}

const torchNames = { f32: "float32", f16: "float16", bf16: "bfloat16" } as const

async function fourBitTensors(module: string, tensor: QuantizedTensor, options: WriteOptions): Promise<NamedTensor[]> {
  const { scheme, shape, levels } = tensor
  const name = `${module}.weight`
  const type = scheme.codebook as "nf4" | "fp4"
  const weight = await packNibbles(tensor.codes, tensor.codes.length, { highFirst: true })
  const state: Record<string, unknown> = {
    quant_type: type,
    blocksize: blockOf(scheme),
    dtype: torchNames[options.scaleType],
    shape,
  }
  const tensors: NamedTensor[] = [
    { name, dtype: "U8", shape: [weight.length, 1], data: weight },
    { name: `${name}.quant_map`, dtype: "F32", shape: [16], data: bytesOf(codebook(type)) },
  ]
  if (levels) {
    checkNested(module, levels)
    Object.assign(state, {
      nested_blocksize: levels.perSuper,
      nested_dtype: "float32",
      nested_offset: levels.shift,
    })
    tensors.push(
      { name: `${name}.absmax`, dtype: "U8", shape: [levels.codes.length], data: levels.codes },
      { name: `${name}.nested_absmax`, dtype: "F32", shape: [levels.supers.length], data: bytesOf(levels.supers) },
      { name: `${name}.nested_quant_map`, dtype: "F32", shape: [256], data: bytesOf(levels.values) },
    )
  } else {
    const absmax = await storedScalesOf(tensor)
    if (!absmax)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${module}: groups of a block of ${blockOf(scheme)} elements have different scales, and bitsandbytes stores one`,
      )
    tensors.push({ name: `${name}.absmax`, dtype: "F32", shape: [absmax.length], data: bytesOf(absmax) })
  }
  const text = Buffer.from(pythonJson(state))
  return [
    ...tensors,
    { name: `${name}.quant_state.bitsandbytes__${type}`, dtype: "U8", shape: [text.length], data: text },
  ]
}

function checkNested(module: string, { values, divides }: ScaleLevels): void {
  if (values.length !== 256 || divides)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${module}: its scales in two levels are not bitsandbytes': they have ${values.length} values${divides ? " that are divided" : ""}, expected 256 that are multiplied`,
    )
}

async function int8Tensors(module: string, tensor: QuantizedTensor): Promise<NamedTensor[]> {
  const [n, k] = tensor.shape
  const levels = tensor.levels as ScaleLevels
  if (!isInt8Levels(levels))
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${module}: its scales in two levels are not the SCB / 127 of LLM.int8(); quantize with the preset llm.int8`,
    )
  return [
    { name: `${module}.weight`, dtype: "I8", shape: [n, k], data: await signedBytes(tensor.codes, 8) },
    { name: `${module}.SCB`, dtype: "F32", shape: [n], data: bytesOf(levels.supers) },
    { name: `${module}.weight_format`, dtype: "U8", shape: [], data: new Uint8Array(1) },
  ]
}

/** As Python's json.dumps writes it, so that a file that is read and written again has the same bytes. */
function pythonJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(pythonJson).join(", ")}]`
  if (typeof value === "object" && value !== null)
    return `{${Object.entries(value)
      .map(
        ([key, entry]) =>
          `${JSON.stringify(key)}: ${key.endsWith("offset") ? pythonFloat(entry as number) : pythonJson(entry)}`,
      )
      .join(", ")}}`
  return JSON.stringify(value)
}

/** repr() of a float: the shortest digits as in JavaScript, with exponents below 1e-4 and from 1e16 on. */
function pythonFloat(value: number): string {
  const size = Math.abs(value)
  const text =
    size !== 0 && (size < 1e-4 || size >= 1e16) ? value.toExponential() : Object.is(value, -0) ? "-0" : String(value)
  const padded = text.replace(/e([+-])(\d)$/, "e$10$2")
  return /[.e]/.test(padded) ? padded : `${padded}.0`
}

/**
 * transformers' keys. llm_int8_threshold is left out where it is a whole number, as its default of 6.0 is: a float written as 6 is
 * refused by transformers 5. Modules to skip are named in full, and as engines fuse them.
 */
function configuration(
  summary: FormatSummary,
  options: WriteOptions,
): { quantizationConfig: Record<string, unknown>; files: Record<string, unknown> } {
  const schemes = [...summary.modules.values()]
  const types = new Set(schemes.map(scheme => (isInt8(scheme) ? "int8" : scheme.codebook)))
  if (types.size !== 1)
    throw new TsqError(
      types.size === 0 ? "ERR_FORMAT" : "ERR_UNSUPPORTED",
      types.size === 0
        ? "no module is quantized, so there is nothing that a bitsandbytes configuration could describe"
        : `bitsandbytes has one kind of weights for all modules, and these have ${[...types].join(" and ")}`,
    )
  const [type] = types
  const eight = type === "int8"
  const all = new Set([...summary.modules.keys(), ...summary.unquantized])
  const threshold = schemes[0]?.activations?.threshold ?? defaultThreshold
  const skipped = [...new Set([...summary.unquantized, "lm_head"])]
  const quantizationConfig = {
    quant_method: "bitsandbytes",
    _load_in_4bit: !eight,
    _load_in_8bit: eight,
    load_in_4bit: !eight,
    load_in_8bit: eight,
    bnb_4bit_compute_dtype: eight ? "float32" : torchNames[options.scaleType],
    bnb_4bit_quant_storage: "uint8",
    bnb_4bit_quant_type: eight ? "fp4" : type,
    bnb_4bit_use_double_quant:
      !eight && (options.doubleQuantization || schemes.some(scheme => scheme.scaleType === "levels")),
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
    llm_int8_skip_modules: [...skipped, ...fusedNames(skipped, all)],
    ...(eight && !Number.isInteger(threshold) && { llm_int8_threshold: threshold }),
  }
  return { quantizationConfig, files: {} }
}
