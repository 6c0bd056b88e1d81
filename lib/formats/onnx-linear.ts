// ONNX's operator MatMulNBits (domain com.microsoft): a weight as codes of 2, 4 or 8 bits in blocks along the inputs.
// Source: microsoft/onnxruntime, docs/ContribOperators.md and contrib_ops/cpu/quantization/matmul_nbits_helper.h.
import { setImmediate as turn } from "node:timers/promises"
import type { OnnxGraph } from "../containers/onnx-bytes.ts"
import type { OnnxTensor } from "../containers/onnx-types.ts"
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { FloatScaleType, Scheme } from "../core/scheme.ts"
import { sharedArray, sharedFloats } from "../core/shared-array.ts"
import { bytesOf, encodeScales, pack, pinned, resizedRows, rowWords } from "./arrays.ts"
import { type TensorTraits, traitsOf } from "./format.ts"

export const operator = { operator: "MatMulNBits", domain: "com.microsoft" } as const

/** A linear layer: x W^T + bias. */
export interface OnnxLinear {
  weight: QuantizedTensor
  /** [n]. */
  bias?: Float32Array | null
}

/** What the graph has to know of a layer before its weight is there. */
export interface OnnxLinearPlan {
  name: string
  /** [n, k]. */
  shape: readonly [number, number]
  scheme: Scheme
  groupIndex: boolean
  /** Zero points that are floats. */
  offsets: boolean
  bias: boolean
}

export interface OnnxOperatorOptions {
  /** Type of the activations, which the operator wants for scales, bias and result as well. */
  type: FloatScaleType
  /** 0: the engine's choice, which is exact. 4: activations may be rounded to 8 bits. */
  accuracyLevel: number
}

export const smallestBlock = 16
/** The largest that onnxruntime's CPU kernels take. */
const largestBlock = 256
/** Where there is one scale a row, and no other size divides the inputs. */
const paddedBlock = 32

/** Work on scales that is done before other work gets a turn: about a millisecond. */
const rowsPerTurn = 2048
export const groupsPerTurn = 1 << 17

/** Columns of a block: the largest power of two that divides the groups, whose scales are repeated; null where that is too small. */
export function blockOf(k: number, groupSize: number): number | null {
  let block = 1
  while (groupSize % (2 * block) === 0 && 2 * block <= largestBlock) block *= 2
  if (block >= smallestBlock) return block
  return groupSize >= k ? paddedBlock : null
}

/** Why the operator cannot hold such a weight, for people; null when it can. */
export function refusesOnnx(
  shape: readonly [number, number],
  scheme: Scheme,
  traits: TensorTraits = {},
): string | null {
  if (scheme.codebook !== undefined)
    return `MatMulNBits stores whole numbers, not codes of the code book ${scheme.codebook}`
  if (![2, 4, 8].includes(scheme.bits)) return `MatMulNBits has codes of 2, 4 or 8 bits, not ${scheme.bits}`
  if (blockOf(shape[1], scheme.groupSize) === null)
    return `MatMulNBits has blocks of a power of two from ${smallestBlock} columns, and none divides groups of ${scheme.groupSize}`
  if (traits.inputScale) return "MatMulNBits cannot store a scale per input; fold it into the layer before"
  // Of onnxruntime 1.30's CPU kernels: with g_idx those of 8 bits fail, and of 2 bits or with zero points give wrong results.
  if (traits.groupIndex && (scheme.bits !== 4 || !scheme.symmetric))
    return "onnxruntime multiplies reordered columns (g_idx) only with symmetric codes of 4 bits"
  if (traits.offsets && scheme.bits === 8) return "onnxruntime has no zero points that are floats for codes of 8 bits"
  return null
}

interface Sizes {
  n: number
  k: number
  bits: number
  block: number
  blocks: number
  /** Groups of the tensor, and blocks of each. */
  groups: number
  repeat: number
}

function sizesOf({ name, shape, scheme, groupIndex, offsets }: OnnxLinearPlan): Sizes {
  const reason = refusesOnnx(shape, scheme, { groupIndex, offsets })
  if (reason) throw new TsqError("ERR_UNSUPPORTED", `${name}: ${reason}`)
  const [n, k] = shape
  const block = blockOf(k, scheme.groupSize) as number
  const whole = scheme.groupSize >= k
  const blocks = Math.ceil(k / block)
  return {
    ...{ n, k, bits: scheme.bits, block, blocks, groups: Math.ceil(k / scheme.groupSize) },
    repeat: whole ? blocks : scheme.groupSize / block,
  }
}

const zeroBytes = ({ blocks, bits }: Sizes): number => Math.ceil((blocks * bits) / 8)

/** The initializers of a layer, in the order in which initializerData gives their bytes. */
function initializersOf(plan: OnnxLinearPlan, type: FloatScaleType): Record<string, OnnxTensor> {
  const { name, scheme, groupIndex, offsets, bias } = plan
  const sizes = sizesOf(plan)
  const { n, k, bits, block, blocks } = sizes
  return {
    codes: { name: `${name}.qweight`, type: "u8", shape: [n, blocks, (block * bits) / 8] },
    scales: { name: `${name}.scales`, type, shape: [n, blocks] },
    ...(offsets ? { zeros: { name: `${name}.zeros`, type, shape: [n, blocks] } } : {}),
    ...(scheme.symmetric || offsets
      ? {}
      : { zeros: { name: `${name}.qzeros`, type: "u8", shape: [n, zeroBytes(sizes)] } }),
    ...(groupIndex ? { groupIndex: { name: `${name}.g_idx`, type: "i32", shape: [k] } } : {}),
    ...(bias ? { bias: { name: `${name}.bias`, type, shape: [n] } } : {}),
  }
}

/** A graph of one node a layer, each with an input "<name>.input" [rows, k] and an output "<name>.output" [rows, n] of its own. */
export function linearsGraph(
  plans: readonly OnnxLinearPlan[],
  { type, accuracyLevel }: OnnxOperatorOptions,
): OnnxGraph {
  const layers = plans.map(plan => {
    const own = initializersOf(plan, type)
    const { n, k, bits, block } = sizesOf(plan)
    const input = `${plan.name}.input`
    const output = `${plan.name}.output`
    const inputs = [input, ...["codes", "scales", "zeros", "groupIndex", "bias"].map(part => own[part]?.name ?? "")]
    while (inputs.at(-1) === "") inputs.pop()
    const attributes = { K: k, N: n, bits, block_size: block, accuracy_level: accuracyLevel }
    return {
      node: { ...operator, name: plan.name, inputs, outputs: [output], attributes },
      initializers: Object.values(own),
      input: { name: input, type, shape: [`${plan.name}.rows`, k] },
      output: { name: output, type, shape: [`${plan.name}.rows`, n] },
    }
  })
  return {
    name: "linears",
    nodes: layers.map(({ node }) => node),
    initializers: layers.flatMap(({ initializers }) => initializers),
    inputs: layers.map(({ input }) => input),
    outputs: layers.map(({ output }) => output),
  }
}

/** Names and bytes of a layer's initializers, in the graph's order. ERR_UNSUPPORTED for scales that `type` does not hold exactly. */
export async function* initializerData(
  plan: OnnxLinearPlan,
  { weight, bias = null }: OnnxLinear,
  type: FloatScaleType,
): AsyncGenerator<{ name: string; data: Uint8Array }> {
  checkPlanned(plan, weight, bias)
  const own = initializersOf(plan, type)
  const sizes = sizesOf(plan)
  const { n, bits, blocks, repeat } = sizes
  yield { name: own.codes!.name, data: await blockCodes(weight.codes, sizes) }
  const scales = await repeated(weight.scales, sizes)
  yield { name: own.scales!.name, data: await exactFloats(plan.name, "scales", scales, type) }
  if (weight.zeros) {
    const words = await pack(await repeated(weight.zeros, sizes), n, blocks, bits)
    yield {
      name: own.zeros!.name,
      data: await resizedRows(bytesOf(words), n, rowWords(blocks, bits) * 4, zeroBytes(sizes)),
    }
  }
  if (weight.offsets) {
    const points = await repeated(await zeroPoints(plan.name, weight.scales, weight.offsets), sizes)
    yield { name: own.zeros!.name, data: await exactFloats(plan.name, "zero points", points, type) }
  }
  if (weight.groupIndex)
    yield { name: own.groupIndex!.name, data: bytesOf(pinned(weight.groupIndex.map(group => group * repeat))) }
  if (bias) yield { name: own.bias!.name, data: await exactFloats(plan.name, "bias", bias, type) }
}

/** A plan was made of a description; the weight itself must be as that said. */
function checkPlanned(plan: OnnxLinearPlan, weight: QuantizedTensor, bias: Float32Array | null): void {
  const { name, shape, scheme } = plan
  const reason = refusesOnnx(weight.shape, weight.scheme, traitsOf(weight))
  if (reason) throw new TsqError("ERR_UNSUPPORTED", `${name}: ${reason}`)
  const same =
    weight.shape.every((size, axis) => size === shape[axis]) &&
    weight.scheme.bits === scheme.bits &&
    weight.scheme.groupSize === scheme.groupSize &&
    weight.scheme.symmetric === scheme.symmetric &&
    (weight.groupIndex !== null) === plan.groupIndex &&
    (weight.offsets !== null) === plan.offsets &&
    (bias !== null) === plan.bias
  if (!same) throw new TsqError("ERR_SHAPE", `${name}: the weight is not as it was declared; plan it again`)
  if (bias && bias.length !== shape[0])
    throw new TsqError("ERR_SHAPE", `${name}: bias has ${bias.length} elements, expected ${shape[0]}`)
}

/** Codes [n, k] as the operator has them: [n, blocks, block · bits / 8], the last block filled up with zeros. */
export async function blockCodes(
  codes: Uint8Array,
  { n, k, bits, block, blocks }: Pick<Sizes, "n" | "k" | "bits" | "block" | "blocks">,
): Promise<Uint8Array> {
  const words = await pack(codes, n, k, bits)
  return resizedRows(bytesOf(words), n, rowWords(k, bits) * 4, (blocks * block * bits) / 8)
}

/** [n, groups] as [n, blocks]. */
async function repeated<T extends Float32Array | Uint8Array>(
  values: T,
  { n, groups, blocks, repeat }: Sizes,
): Promise<T> {
  if (groups === blocks) return values
  const out = sharedArray(values instanceof Float32Array ? "f32" : "u8", n * blocks) as T
  for (let row = 0; row < n; row++) {
    for (let block = 0; block < blocks; block++)
      out[row * blocks + block] = values[row * groups + Math.floor(block / repeat)] as number
    if (row % rowsPerTurn === rowsPerTurn - 1) await turn()
  }
  return out
}

/** scale · code + offset as scale · (code − zero point): a division, rounded to f32. */
async function zeroPoints(name: string, scales: Float32Array, offsets: Float32Array): Promise<Float32Array> {
  const points = sharedFloats(offsets.length)
  for (const [i, offset] of offsets.entries()) {
    const scale = scales[i] as number
    points[i] = offset === 0 ? 0 : -offset / scale
    if (!Number.isFinite(points[i]))
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${name}: group ${i} adds ${offset} to codes whose scale is ${scale}, which MatMulNBits has no zero point for`,
      )
    if (i % groupsPerTurn === groupsPerTurn - 1) await turn()
  }
  return points
}

async function exactFloats(
  name: string,
  what: string,
  values: Float32Array,
  type: FloatScaleType,
): Promise<Uint8Array> {
  const encoded = await encodeScales(values, [type])
  if (!encoded)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${name}: ${what} cannot be stored as ${type} without rounding them; write the model with type "f32"`,
    )
  return encoded.data
}
