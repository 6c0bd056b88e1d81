// Reads the modules of an AWQ checkpoint: AutoAWQ's GEMM, GEMV and GEMV_FAST, and llm-awq's own, which is GEMV_FAST. Three of them
// call their tensors alike.
import { setImmediate as nextTurn } from "node:timers/promises"
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { FloatScaleType } from "../core/scheme.ts"
import { StoredTensor, type StoredTensorInit } from "../core/stored-tensor.ts"
import { sharedBytes, sharedFloats } from "../core/tensor.ts"
import { native } from "../native.ts"
import {
  bytesOf,
  expectEntry,
  matrixShape,
  modulesWith,
  readInts,
  readScales,
  roundedTo,
  transposed,
  unpack,
} from "./arrays.ts"
import { booleanField, groupSizeField, integerField, stringField } from "./config-fields.ts"
import type { FormatReader } from "./format.ts"

const bits = 4
const middle = 2 ** (bits - 1)
const versions = ["gemm", "gemv", "gemv_fast"] as const
type Version = (typeof versions)[number]

/** What the three layouts come to. Scales and zero points [n, groups]. */
interface Parts extends Pick<StoredTensorInit, "codes" | "layout" | "shape"> {
  scales: Float32Array
  scaleType: FloatScaleType
  zeros: Uint8Array
}

export class AwqReader implements FormatReader {
  readonly modules: readonly string[]
  readonly #checkpoint: Checkpoint
  readonly #groupSize: number
  readonly #version: Version

  constructor(checkpoint: Checkpoint, config: Record<string, unknown>) {
    this.#checkpoint = checkpoint
    this.#groupSize = groupSizeField(config, ["group_size", "q_group_size"])
    const width = integerField(config, ["bits", "w_bit"])
    if (width !== bits)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `quantization_config says ${width} bits; AWQ checkpoints of 4 bits are read`,
      )
    this.#version = versionOf(config)
    if (!booleanField(config, "zero_point", true))
      throw new TsqError(
        "ERR_UNSUPPORTED",
        "quantization_config.zero_point is false; AWQ checkpoints without zero points are not read by any loader",
      )
    const divided = checkpoint.names.find(name => name.endsWith(".act.scales"))
    if (divided)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${checkpoint.directory}: tensor ${divided} divides activations, which is not supported; without it the model would be wrong`,
      )
    this.modules = modulesWith(checkpoint, ".qweight")
  }

  tensorNames(module: string): readonly string[] {
    return ["qweight", "qzeros", "scaled_zeros", "scales"]
      .map(suffix => `${module}.${suffix}`)
      .filter(name => this.#checkpoint.has(name))
  }

  async read(module: string): Promise<QuantizedTensor> {
    return (await this.stored(module)).unpacked()
  }

  async stored(module: string): Promise<StoredTensor> {
    const { zeros, scaleType, ...parts } = await this.#parts(module)
    const symmetric = Buffer.compare(bytesOf(zeros), Buffer.alloc(zeros.length, middle)) === 0
    const granularity = this.#groupSize === -1 ? "channel" : "group"
    return new StoredTensor({
      ...parts,
      scheme: { bits, symmetric, granularity, groupSize: this.#groups(parts.shape[1])[0], scaleType },
      zeros: symmetric ? null : zeros,
      groupIndex: null,
    })
  }

  #parts(module: string): Promise<Parts> {
    if (this.#version === "gemm") return this.#gemm(module)
    return this.#version === "gemv" ? this.#gemv(module) : this.#gemvFast(module)
  }

  /** Columns of a group, and groups of a row. */
  #groups(k: number): [size: number, count: number] {
    const size = this.#groupSize === -1 ? k : Math.min(this.#groupSize, k)
    return [size, Math.ceil(k / size)]
  }

  /** qweight [k, n / 8], qzeros [groups, n / 8] in AWQ's order, scales [groups, n]. */
  async #gemm(module: string): Promise<Parts> {
    const checkpoint = this.#checkpoint
    const [k, packed] = matrixShape(checkpoint, expectEntry(checkpoint, `${module}.qweight`, ["I32"]))
    const n = packed * 8
    const [, groups] = this.#groups(k)
    expectEntry(checkpoint, `${module}.qzeros`, ["I32"], [groups, packed])
    expectEntry(checkpoint, `${module}.scales`, ["F16", "BF16", "F32"], [groups, n])
    const zeros = await unpack(await readInts(checkpoint, `${module}.qzeros`), groups, n, bits, { interleave: true })
    const { values, scaleType } = await readScales(checkpoint, `${module}.scales`)
    return {
      shape: [n, k],
      codes: checkpoint.mapped(`${module}.qweight`),
      layout: "awq",
      scales: await transposed(values, groups, n),
      scaleType,
      zeros: await transposed(zeros, groups, n),
    }
  }

  /** awq/modules/linear/gemv.py: qweight [n, k / 8], qzeros [n, width], scales [n, 8 width], padded beyond the groups. */
  async #gemv(module: string): Promise<Parts> {
    const checkpoint = this.#checkpoint
    const [n, packed] = matrixShape(checkpoint, expectEntry(checkpoint, `${module}.qweight`, ["I32"]))
    const k = packed * 8
    const [size, groups] = this.#groups(k)
    const width = paddedWords(size, groups)
    expectEntry(checkpoint, `${module}.qzeros`, ["I32"], [n, width])
    expectEntry(checkpoint, `${module}.scales`, ["F16", "BF16", "F32"], [n, 8 * width])
    const zeros = await unpack(await readInts(checkpoint, `${module}.qzeros`), n, 8 * width, bits)
    const { values, scaleType } = await readScales(checkpoint, `${module}.scales`)
    return {
      shape: [n, k],
      codes: checkpoint.mapped(`${module}.qweight`),
      layout: "rows",
      scales: await firstColumns(values, n, 8 * width, groups),
      scaleType,
      zeros: await firstColumns(zeros, n, 8 * width, groups),
    }
  }

  /** awq/modules/linear/gemv_fast.py, llm-awq's qmodule.py: qweight I16 [n / 4, k], scales and −scale · zero [8 width, n]. */
  async #gemvFast(module: string): Promise<Parts> {
    const checkpoint = this.#checkpoint
    const [quarter, k] = matrixShape(checkpoint, expectEntry(checkpoint, `${module}.qweight`, ["I16"]))
    const n = quarter * 4
    if (k % 64 !== 0)
      throw new TsqError(
        "ERR_SHAPE",
        `${checkpoint.directory}: tensor ${module}.qweight is [${quarter}, ${k}], expected a multiple of 64 columns`,
      )
    const [size, groups] = this.#groups(k)
    const rows = 8 * paddedWords(size, groups)
    const products =
      [`${module}.qzeros`, `${module}.scaled_zeros`].find(name => checkpoint.has(name)) ?? `${module}.qzeros`
    for (const name of [products, `${module}.scales`]) expectEntry(checkpoint, name, ["F16", "BF16", "F32"], [rows, n])
    const codes = sharedBytes(n * k)
    await native.unpackTiles(checkpoint.mapped(`${module}.qweight`), 1, n, k, codes)
    const { values, scaleType } = await readScales(checkpoint, `${module}.scales`)
    const scales = values.subarray(0, groups * n)
    const negative = (await checkpoint.floats(products)).subarray(0, groups * n)
    const zeros = await zerosOf(`${checkpoint.directory}: tensor ${products}`, scales, negative, scaleType)
    return {
      shape: [n, k],
      codes,
      layout: "bytes",
      scales: await transposed(scales, groups, n),
      scaleType,
      zeros: await transposed(zeros, groups, n),
    }
  }
}

function versionOf(config: Record<string, unknown>): Version {
  const backend = stringField(config, "backend") ?? "autoawq"
  if (backend === "llm-awq") return "gemv_fast"
  if (backend !== "autoawq")
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `quantization_config.backend is "${backend}"; of AWQ checkpoints "autoawq" and "llm-awq" are read`,
    )
  const declared = (stringField(config, "version") ?? "gemm").toLowerCase()
  const version = versions.find(name => name === declared)
  if (!version)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `quantization_config.version is "${declared}"; of AWQ checkpoints ${versions.join(", ")} are read`,
    )
  return version
}

/** Words of zero points of a row: whole words of 8, of which the kernels read 2 at a time for groups of 64, 4 for groups of 32. */
function paddedWords(groupSize: number, groups: number): number {
  const together = groupSize >= 128 ? 1 : groupSize === 64 ? 2 : groupSize === 32 ? 4 : 0
  if (together === 0)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `quantization_config.group_size is ${groupSize}; in AWQ's GEMV layouts there are groups of 32, 64, and 128 or more`,
    )
  return Math.ceil(Math.ceil(groups / 8) / together) * together
}

/** Elements handled before the event loop turns. */
const turnElements = 1 << 19

/** The first `count` columns of [rows, cols]. */
async function firstColumns<T extends Uint8Array | Float32Array>(
  source: T,
  rows: number,
  cols: number,
  count: number,
): Promise<T> {
  const out = (source instanceof Float32Array ? sharedFloats(rows * count) : sharedBytes(rows * count)) as T
  for (let row = 0; row < rows; row++) {
    if (row % 8192 === 8191) await nextTurn()
    out.set(source.subarray(row * cols, row * cols + count), row * count)
  }
  return out
}

/** Zero points of −scale · zero, which the writer rounded to the scales' type. */
async function zerosOf(
  name: string,
  scales: Float32Array,
  negative: Float32Array,
  type: FloatScaleType,
): Promise<Uint8Array> {
  const zeros = sharedBytes(scales.length)
  const products = sharedFloats(scales.length)
  for (let i = 0; i < scales.length; i++) {
    if (i % turnElements === turnElements - 1) await nextTurn()
    const scale = scales[i] as number
    const zero = scale === 0 ? 0 : Math.round(-(negative[i] as number) / scale)
    zeros[i] = zero
    // What is not a zero point of 0 to 15 differs from the file.
    products[i] = -scale * (zeros[i] as number & 15)
  }
  const expected = await roundedTo(products, type)
  for (let i = 0; i < scales.length; i++) {
    if (i % turnElements === turnElements - 1) await nextTurn()
    // Equal, and not the same: both zeros.
    if (expected[i] !== negative[i])
      throw new TsqError(
        "ERR_CORRUPT",
        `${name}: element ${i} is ${negative[i]}, which is no zero point from 0 to 15 times the scale ${scales[i]}`,
      )
  }
  return zeros
}
