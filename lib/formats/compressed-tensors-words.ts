// Codes that compressed-tensors packs into 32-bit words (pack-quantized), in either of the two layouts that it has had.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import type { StoredTensorInit } from "../core/stored-tensor.ts"
import { expectEntry, matrixShape, readInts, resizedRows, rowWords, transposed, unpack } from "./arrays.ts"
import type { ModuleSettings } from "./compressed-tensors-config.ts"
import { readColumnGroups, readScaledScheme } from "./compressed-tensors-scales.ts"

/** "dense": a bit stream across words. "whole": floor(32 / bits) fields a word, top bits empty; what releases before 0.17 wrote. */
type Layout = "dense" | "whole"

const wholeWords = (count: number, bits: number) => Math.ceil(count / Math.floor(32 / bits))

export class PackedWords {
  readonly #checkpoint: Checkpoint
  readonly #dense: boolean | null
  readonly #warn: (message: string) => void
  #warnedLayout = false

  /** `dense`: whether 3, 5, 6 and 7 bits are according to the writer's version; null where that is not known. */
  constructor(checkpoint: Checkpoint, dense: boolean | null, warn: (message: string) => void) {
    this.#checkpoint = checkpoint
    this.#dense = dense
    this.#warn = warn
  }

  /** All of a module but what its activations have. */
  async init(module: string, settings: ModuleSettings): Promise<StoredTensorInit> {
    const { bits, symmetric } = settings.weights
    const [n, k] = await this.#shape(module)
    const layout = this.#layout(module, n, k, bits)
    const { scheme, scales } = await readScaledScheme(this.#checkpoint, module, settings, [n, k])
    const groups = Math.ceil(k / scheme.groupSize)
    return {
      scheme,
      shape: [n, k],
      ...(await this.#codes(module, n, k, bits, layout)),
      scales,
      zeros: symmetric ? null : await this.#zeroPoints(module, n, groups, bits, layout),
      groupIndex: await readColumnGroups(this.#checkpoint, module, settings.weights, scheme, k, this.#warn),
    }
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
    if (this.#dense !== null) return this.#dense ? "dense" : "whole"
    if (!this.#warnedLayout)
      this.#warn(
        `${name}: quantization_config.version is missing, so that the layout of ${bits}-bit codes cannot be told; it is read as releases before 0.17 wrote it`,
      )
    this.#warnedLayout = true
    return "whole"
  }

  async #zeroPoints(module: string, n: number, groups: number, bits: number, layout: Layout): Promise<Uint8Array> {
    const name = `${module}.weight_zero_point`
    const rows = layout === "dense" ? rowWords(n, bits) : wholeWords(n, bits)
    expectEntry(this.#checkpoint, name, ["I32"], [rows, groups])
    const words = await transposed(await readInts(this.#checkpoint, name), rows, groups)
    return transposed(await unpackWords(words, groups, n, bits, layout), groups, n)
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
