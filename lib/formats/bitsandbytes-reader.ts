// Reads the modules of a bitsandbytes checkpoint. What a 4-bit weight is stands in a JSON text beside it, stored as a tensor of bytes.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { describe, parseJsonObject } from "../containers/json.ts"
import { codebook, knownCodebook } from "../core/codebooks.ts"
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor, ScaleLevels } from "../core/quantized-tensor.ts"
import type { ActivationScheme, Scheme } from "../core/scheme.ts"
import { StoredTensor } from "../core/stored-tensor.ts"
import { expandScales, expectEntry, matrixShape, modulesWith } from "./arrays.ts"
import { stringField } from "./config-fields.ts"
import type { FormatReader } from "./format.ts"
import { int8Levels, levelScales } from "./scale-levels.ts"

const types = ["nf4", "fp4"] as const
type FourBitType = (typeof types)[number]
const stateSuffix = (type: FourBitType) => `.weight.quant_state.bitsandbytes__${type}`
const fourBitParts = ["absmax", "quant_map", "nested_absmax", "nested_quant_map"]
/** Magnitude from which LLM.int8() leaves a column of activations as it is; transformers' default of llm_int8_threshold. */
export const defaultThreshold = 6

/** What LLM.int8() does with activations; a threshold of 0 keeps no column. */
export const int8Activations = (threshold = defaultThreshold): ActivationScheme => ({
  type: "int8",
  symmetric: true,
  dynamic: true,
  granularity: "token",
  ...(threshold > 0 && { threshold }),
})

/** More would be no quant_state. */
const largestState = 1 << 16

/** A quant_state that was checked. */
interface State {
  blockSize: number
  shape: [number, number]
  nested: { blockSize: number; offset: number } | null
}

export class BitsandbytesReader implements FormatReader {
  readonly modules: readonly string[]
  readonly #checkpoint: Checkpoint
  readonly #types: ReadonlyMap<string, FourBitType>
  readonly #warn: (message: string) => void
  readonly #warned = new Set<string>()
  readonly #threshold: number

  constructor(checkpoint: Checkpoint, config: Record<string, unknown>, warn: (message: string) => void) {
    this.#checkpoint = checkpoint
    this.#warn = warn
    const method = stringField(config, "quant_method")
    if (method !== "bitsandbytes")
      throw new TsqError(
        "ERR_FORMAT",
        `quantization_config.quant_method is ${describe(method)}, expected "bitsandbytes"`,
      )
    this.#types = new Map(
      types.flatMap(type => modulesWith(checkpoint, stateSuffix(type)).map(module => [module, type] as const)),
    )
    const eight = modulesWith(checkpoint, ".SCB")
    this.modules = [...this.#types.keys(), ...eight]
    const threshold = config.llm_int8_threshold
    const given = typeof threshold === "number" && Number.isFinite(threshold) && threshold >= 0
    this.#threshold = given ? threshold : defaultThreshold
    if (eight.length > 0 && threshold !== undefined && threshold !== null && !given)
      warn(`quantization_config.llm_int8_threshold is ${describe(threshold)}; ${defaultThreshold} is taken instead`)
    if (eight.length > 0 && this.#threshold !== defaultThreshold && Number.isInteger(this.#threshold))
      warn(
        `quantization_config.llm_int8_threshold is ${threshold}, and written again as bitsandbytes the file says ${defaultThreshold}`,
      )
  }

  tensorNames(module: string): readonly string[] {
    const type = this.#types.get(module)
    const names = type
      ? [`${module}.weight`, ...fourBitParts.map(part => `${module}.weight.${part}`), module + stateSuffix(type)]
      : [`${module}.weight`, `${module}.SCB`, `${module}.weight_format`]
    return names.filter(name => this.#checkpoint.has(name))
  }

  async read(module: string): Promise<QuantizedTensor> {
    return (await this.stored(module)).unpacked()
  }

  stored(module: string): Promise<StoredTensor> {
    const type = this.#types.get(module)
    return type ? this.#fourBits(module, type) : this.#eightBits(module)
  }

  async #fourBits(module: string, type: FourBitType): Promise<StoredTensor> {
    const name = `${module}.weight`
    const state = await this.#state(module + stateSuffix(type), type)
    const [n, k] = state.shape
    // Whatever type the bytes are said to be (bnb_4bit_quant_storage).
    const { bytes } = this.#checkpoint.entry(name)
    if (bytes !== Math.ceil((n * k) / 2)) {
      const { shape } = this.#checkpoint.entry(name)
      throw this.#wrong(
        name,
        `is [${shape.join(", ")}] of ${bytes} bytes, expected ${Math.ceil((n * k) / 2)} for [${n}, ${k}]`,
      )
    }
    const values = await this.#floats(`${name}.quant_map`, 16)
    const known = knownCodebook(values)
    if (known !== type)
      this.#warnOnce(
        "map",
        `${name}.quant_map does not hold the values of ${type} that quant_state names; the values are believed, bitsandbytes' own kernels may not look at them`,
      )
    const levels = state.nested && (await this.#levels(name, state, state.nested))
    const scheme = blockScheme(known ?? "custom", state.blockSize, k, levels ? "levels" : "f32")
    const blocks = Math.ceil((n * k) / state.blockSize)
    const absmax = levels ? await levelScales(levels) : await this.#floats(`${name}.absmax`, blocks)
    return new StoredTensor({
      scheme,
      shape: [n, k],
      codes: this.#checkpoint.mapped(name),
      layout: "nibblesHigh",
      scales: await expandScales(scheme, [n, k], absmax),
      zeros: null,
      codebook: known === null ? values : codebook(known),
      levels,
      groupIndex: null,
    })
  }

  async #levels(name: string, { shape, blockSize }: State, nested: NonNullable<State["nested"]>): Promise<ScaleLevels> {
    const blocks = Math.ceil((shape[0] * shape[1]) / blockSize)
    expectEntry(this.#checkpoint, `${name}.absmax`, ["U8"], [blocks])
    const supers = await this.#floats(`${name}.nested_absmax`, Math.ceil(blocks / nested.blockSize))
    const values = await this.#floats(`${name}.nested_quant_map`, 256)
    const codes = await this.#checkpoint.readBytes(`${name}.absmax`)
    return { codes, values, supers, perSuper: nested.blockSize, divides: false, shift: nested.offset }
  }

  async #floats(name: string, count: number): Promise<Float32Array> {
    expectEntry(this.#checkpoint, name, ["F32"], [count])
    return this.#checkpoint.floats(name)
  }

  async #state(name: string, type: FourBitType): Promise<State> {
    const { bytes } = expectEntry(this.#checkpoint, name, ["U8"])
    if (bytes > largestState) throw this.#wrong(name, `has ${bytes} bytes, expected a short JSON text`)
    const text = Buffer.from(await this.#checkpoint.readBytes(name)).toString("utf8")
    const state = parseJsonObject(text, `${this.#checkpoint.directory}: tensor ${name}`)
    const count = (key: string): number => {
      const value = state[key]
      if (!Number.isSafeInteger(value) || (value as number) < 1)
        throw this.#wrong(name, `says that ${key} is ${describe(value)}, expected a positive integer`)
      return value as number
    }
    if (state.quant_type !== type)
      throw this.#wrong(name, `says that quant_type is ${describe(state.quant_type)}, expected "${type}" by its name`)
    const { shape } = state
    const sizes = Array.isArray(shape) ? shape : []
    if (sizes.length !== 2 || !sizes.every(size => Number.isSafeInteger(size) && (size as number) >= 1))
      throw this.#wrong(name, `says that shape is ${JSON.stringify(shape)}, expected two positive integers`)
    const offset = state.nested_offset
    const nested = "nested_blocksize" in state
    if (nested && (typeof offset !== "number" || !Number.isFinite(offset)))
      throw this.#wrong(name, `says that nested_offset is ${describe(offset)}, expected a number`)
    if (nested && state.nested_dtype !== "float32")
      throw this.#wrong(name, `says that nested_dtype is ${describe(state.nested_dtype)}, expected "float32"`)
    return {
      blockSize: count("blocksize"),
      shape: sizes as [number, number],
      nested: nested ? { blockSize: count("nested_blocksize"), offset: offset as number } : null,
    }
  }

  async #eightBits(module: string): Promise<StoredTensor> {
    const checkpoint = this.#checkpoint
    const [n, k] = matrixShape(checkpoint, expectEntry(checkpoint, `${module}.weight`, ["I8"]))
    const scb = await this.#floats(`${module}.SCB`, n)
    const format = `${module}.weight_format`
    if (checkpoint.has(format)) {
      expectEntry(checkpoint, format, ["U8"])
      const [kind] = await checkpoint.readBytes(format)
      if (kind !== 0)
        throw new TsqError(
          "ERR_UNSUPPORTED",
          `${checkpoint.directory}: tensor ${format} is ${kind}; of LLM.int8() weights those in rows (0) are read`,
        )
    }
    const levels = int8Levels(scb)
    return new StoredTensor({
      scheme: {
        bits: 8,
        symmetric: true,
        granularity: "channel",
        groupSize: k,
        scaleType: "levels",
        activations: int8Activations(this.#threshold),
      },
      shape: [n, k],
      codes: checkpoint.mapped(`${module}.weight`),
      layout: "signed",
      scales: await levelScales(levels),
      zeros: null,
      levels,
      groupIndex: null,
    })
  }

  #wrong(name: string, what: string): TsqError {
    return new TsqError("ERR_CORRUPT", `${this.#checkpoint.directory}: tensor ${name} ${what}`)
  }

  #warnOnce(kind: string, message: string): void {
    if (this.#warned.has(kind)) return
    this.#warned.add(kind)
    this.#warn(message)
  }
}

/** Blocks along a flattened weight of k columns: groups where rows consist of whole ones. */
export function blockScheme(
  book: NonNullable<Scheme["codebook"]>,
  blockSize: number,
  k: number,
  scaleType: Scheme["scaleType"] = "f32",
): Scheme {
  const common = { bits: 4, symmetric: true, scaleType, codebook: book } as const
  if (k % blockSize === 0) return { ...common, granularity: "group", groupSize: blockSize }
  return { ...common, granularity: "flat", groupSize: greatestCommonDivisor(k, blockSize), runLength: blockSize }
}

const greatestCommonDivisor = (a: number, b: number): number => (b === 0 ? a : greatestCommonDivisor(b, a % b))
