// Reads the modules of a compressed-tensors checkpoint of the format pack-quantized.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { Scheme } from "../core/scheme.ts"
import { StoredTensor } from "../core/stored-tensor.ts"
import { sharedFloats } from "../core/tensor.ts"
import {
  expectEntry,
  matrixShape,
  modulesWith,
  readInts,
  readScales,
  resizedRows,
  rowWords,
  transposed,
  unpack,
} from "./arrays.ts"
import { CompressedTensorsConfig, type WeightSettings } from "./compressed-tensors-config.ts"
import type { FormatReader } from "./format.ts"
import { readGroupIndex } from "./group-index.ts"

const suffixes = ["weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"]

/** "dense": a bit stream across words. "whole": floor(32 / bits) fields a word, top bits empty; what releases before 0.17 wrote. */
type Layout = "dense" | "whole"

const wholeWords = (count: number, bits: number) => Math.ceil(count / Math.floor(32 / bits))

export class CompressedTensorsReader implements FormatReader {
  readonly modules: readonly string[]
  readonly #checkpoint: Checkpoint
  readonly #config: CompressedTensorsConfig
  readonly #warn: (message: string) => void
  #warnedLayout = false

  constructor(checkpoint: Checkpoint, quantizationConfig: Record<string, unknown>, warn: (message: string) => void) {
    this.#checkpoint = checkpoint
    this.#config = new CompressedTensorsConfig(quantizationConfig, warn)
    this.#warn = warn
    this.modules = modulesWith(checkpoint, ".weight_packed")
  }

  tensorNames(module: string): readonly string[] {
    return suffixes.map(suffix => `${module}.${suffix}`).filter(name => this.#checkpoint.has(name))
  }

  async read(module: string): Promise<QuantizedTensor> {
    return (await this.stored(module)).unpacked()
  }

  async stored(module: string): Promise<StoredTensor> {
    const settings = this.#config.settings(module)
    const { bits, strategy, symmetric } = settings
    const [n, k] = await this.#shape(module)
    const layout = this.#layout(module, n, k, bits)
    const groupSize = strategy === "group" ? Math.min(settings.groupSize, k) : k
    const groups = Math.ceil(k / groupSize)
    const { values, scaleType } = await this.#scales(module, strategy, n, groups)
    const scheme: Scheme = { bits, symmetric, granularity: strategy, groupSize, scaleType }
    return new StoredTensor({
      scheme,
      shape: [n, k],
      ...(await this.#codes(module, n, k, bits, layout)),
      scales: values,
      zeros: symmetric ? null : await this.#zeroPoints(module, n, groups, bits, layout),
      groupIndex: await this.#groupIndex(module, settings, k, groupSize, groups),
    })
  }

  async #codes(module: string, n: number, k: number, bits: number, layout: Layout) {
    const name = `${module}.weight_packed`
    if (layout === "dense") return { codes: this.#checkpoint.mapped(name), layout: "rows" as const }
    const codes = await unpackWords(await readInts(this.#checkpoint, name), n, k, bits, layout)
    return { codes, layout: "bytes" as const }
  }

  async #shape(module: string): Promise<[number, number]> {
    const name = `${module}.weight_shape`
    const entry = expectEntry(this.#checkpoint, name, ["I64", "I32"], [2])
    const bytes = await this.#checkpoint.readBytes(name)
    const [n, k] =
      entry.dtype === "I64" ? Array.from(new BigInt64Array(bytes.buffer), Number) : new Int32Array(bytes.buffer)
    const [rows] = matrixShape(this.#checkpoint, expectEntry(this.#checkpoint, `${module}.weight_packed`, ["I32"]))
    if (n !== rows || k === undefined || k < 1)
      throw new TsqError(
        "ERR_CORRUPT",
        `${this.#checkpoint.directory}: tensor ${name} holds [${n}, ${k}], ${module}.weight_packed has ${rows} rows`,
      )
    return [n, k]
  }

  /** The two layouts of 3, 5, 6 and 7 bits have the same names; the columns tell them apart, or else the writer's version. */
  #layout(module: string, n: number, k: number, bits: number): Layout {
    const name = `${module}.weight_packed`
    const [, columns] = this.#checkpoint.entry(name).shape
    const dense = rowWords(k, bits)
    const whole = wholeWords(k, bits)
    if (columns !== dense && columns !== whole)
      throw new TsqError(
        "ERR_SHAPE",
        `${this.#checkpoint.directory}: tensor ${name} is [${n}, ${columns}], expected [${n}, ${dense}] for ${k} inputs of ${bits} bits; its quantization_config does not describe it`,
      )
    if (dense !== whole) return columns === dense ? "dense" : "whole"
    // One word, or a width that divides 32: the layouts are the same.
    if (32 % bits === 0 || k <= Math.floor(32 / bits)) return "dense"
    if (this.#config.dense !== null) return this.#config.dense ? "dense" : "whole"
    if (!this.#warnedLayout)
      this.#warn(
        `${name}: quantization_config.version is missing, so that the layout of ${bits}-bit codes cannot be told; it is read as releases before 0.17 wrote it`,
      )
    this.#warnedLayout = true
    return "whole"
  }

  /** [n, groups]; a single scale is repeated. */
  async #scales(module: string, strategy: Scheme["granularity"], n: number, groups: number) {
    const name = `${module}.weight_scale`
    const { values, scaleType } = await readScales(this.#checkpoint, name)
    const expected = strategy === "tensor" ? 1 : n * groups
    if (values.length !== expected)
      throw new TsqError(
        "ERR_SHAPE",
        `${this.#checkpoint.directory}: tensor ${name} has ${values.length} scales, strategy ${strategy} of [${n} outputs, ${groups} groups] needs ${expected}`,
      )
    return { values: strategy === "tensor" ? sharedFloats(n).fill(values[0] as number) : values, scaleType }
  }

  async #zeroPoints(module: string, n: number, groups: number, bits: number, layout: Layout): Promise<Uint8Array> {
    const name = `${module}.weight_zero_point`
    const rows = layout === "dense" ? rowWords(n, bits) : wholeWords(n, bits)
    expectEntry(this.#checkpoint, name, ["I32"], [rows, groups])
    const words = await transposed(await readInts(this.#checkpoint, name), rows, groups)
    return transposed(await unpackWords(words, groups, n, bits, layout), groups, n)
  }

  async #groupIndex(
    module: string,
    settings: WeightSettings,
    k: number,
    groupSize: number,
    groups: number,
  ): Promise<Int32Array | null> {
    const name = `${module}.weight_g_idx`
    if (settings.strategy !== "group" || !this.#checkpoint.has(name)) return null
    expectEntry(this.#checkpoint, name, ["I32"], [k])
    const index = await readInts(this.#checkpoint, name)
    // The library fills an index that it never set with -1.
    if (index.every(group => group === -1)) return null
    return readGroupIndex(index, groupSize, groups, settings.ordered, name, this.#warn)
  }
}

/** Codes [rows, cols] of packed rows. */
async function unpackWords(
  words: Int32Array,
  rows: number,
  cols: number,
  bits: number,
  layout: Layout,
): Promise<Uint8Array> {
  if (layout === "dense") return unpack(words, rows, cols, bits)
  // Each word is a stream of its own; what the last word of a row has beyond the columns is cut off.
  const fields = Math.floor(32 / bits)
  const padded = wholeWords(cols, bits) * fields
  const codes = await unpack(words, words.length, fields, bits)
  return resizedRows(codes, rows, padded, cols)
}
