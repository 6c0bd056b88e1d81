// Hadamard rotation folded into the weights (QuaRot, arXiv 2404.00456, section 4; R1 and R2 of SpinQuant, arXiv 2405.16406).
//
// R1 turns the residual stream: x' = x R. Every norm's weight g moves into the linears that read it, W' = W diag(g) R; what writes to the
// stream becomes Rᵀ W with bias b R, the embedding E R, the head like any reader. R2 turns the values of every attention head and turns them
// back in the columns of the output projection. R = diag(±1) H / √n with signs by seed: outliers of single channels are spread over all.
// Nothing is written and nothing held: the checkpoint computes a tensor when it is read.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import { sharedFloats } from "../core/shared-array.ts"
import { roundInPlace } from "../core/tensor.ts"
import type { ModelProgram } from "../models/program.ts"
import { describeModel } from "../models/registry.ts"
import { type StreamNorm, streamAccess } from "../models/residual-stream.ts"
import { native } from "../native.ts"

export interface RotationReport {
  /** Channels that one Hadamard matrix mixes: all of the residual stream where there is a matrix of its size. */
  block: number
  /** The same of the values' heads; null where no attention could be turned. */
  headBlock: number | null
  /** Whether the head became a matrix of its own. */
  untied: boolean
}

/**
 * The program of a model that is going to be rotated. A head that was tied to the embedding becomes a tensor of its own, since the
 * last norm's weight moves into it. ERR_UNSUPPORTED where a rotation would change the function.
 */
export function prepareRotation(checkpoint: Checkpoint, program: ModelProgram): ModelProgram {
  streamAccess(program)
  const { hiddenSize } = program.config
  if (native.hadamardOrder(hiddenSize) === 1)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `transform "hadamard": no Hadamard matrix has an order that divides the hidden size ${hiddenSize}; leave the transform out`,
    )
  if (program.head !== program.embedding) return program
  checkpoint.editConfig({ tie_word_embeddings: false })
  const untied = describeModel(checkpoint.config, name => checkpoint.has(name))
  if (untied.head === untied.embedding)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `transform "hadamard": ${program.config.architecture} models have no head apart from the embedding, into which the last norm could move; leave the transform out`,
    )
  checkpoint.alias(`${untied.head}.weight`, `${program.embedding}.weight`)
  return untied
}

/** One factor of a rotated tensor: axis 1 turns rows, W diag(scale) H; axis 0 columns, Hᵀ diag(scale) W. */
interface Turn {
  axis: 0 | 1
  block: number
  /** Along the axis, signs included. */
  scale(): Promise<Float32Array>
}

/**
 * From now on `checkpoint` reads as the rotated model. `rounded`: whether a module will be quantized; the others are rounded to the type that
 * they are stored in. program: of prepareRotation().
 */
export function rotate(
  checkpoint: Checkpoint,
  program: ModelProgram,
  seed: number,
  rounded: (module: string) => boolean,
): RotationReport {
  const { hiddenSize } = program.config
  const block = native.hadamardOrder(hiddenSize)
  const signs = randomSigns(hiddenSize, seed, 0)
  const turns = new Map<string, Turn[]>()
  const turn = (tensor: string, axis: 0 | 1, size: number, scale: Turn["scale"]) => {
    if (checkpoint.has(tensor)) turns.set(tensor, [...(turns.get(tensor) ?? []), { axis, block: size, scale }])
  }
  const norms = new Map<string, number>()
  let headBlock: number | null = null
  const access = streamAccess(program)
  const last = program.sections.length - 1
  const instances = [
    { section: 0, prefix: "" },
    ...program.blocks.map((section, layer) => ({ section, prefix: program.blockPrefix(layer) })),
    { section: last, prefix: "" },
  ]
  instances.forEach(({ section, prefix }, index) => {
    const { tables, readers, writers, norms: found, values } = access[section]!
    for (const table of tables) turn(`${prefix}${table}.weight`, 1, block, async () => signs)
    for (const { module, norm } of readers)
      turn(`${prefix}${module}.weight`, 1, block, () => withNorm(checkpoint, prefix, norm, signs))
    for (const module of writers) {
      turn(`${prefix}${module}.weight`, 0, block, async () => signs)
      turn(`${prefix}${module}.bias`, 1, block, async () => signs)
    }
    for (const { source, targets, headDim } of values) {
      headBlock = native.hadamardOrder(headDim)
      const head = randomSigns(headDim, seed, index)
      const repeated = (tensor: string, axis: number) => async () => {
        const scale = sharedFloats(checkpoint.entry(tensor).shape.at(axis)!)
        for (let i = 0; i < scale.length; i++) scale[i] = head[i % headDim]!
        return scale
      }
      const weight = `${prefix}${source}.weight`
      const bias = `${prefix}${source}.bias`
      turn(weight, 0, headBlock, repeated(weight, 0))
      turn(bias, 1, headBlock, repeated(bias, 0))
      for (const target of targets.map(module => `${prefix}${module}.weight`))
        turn(target, 1, headBlock, repeated(target, 1))
    }
    for (const { tensor, offset } of found) if (tensor !== null) norms.set(prefix + tensor, 1 - offset)
  })
  for (const [tensor, list] of turns) {
    const type = rounded(tensor.replace(/\.weight$/, "")) ? "f32" : checkpoint.floatType(tensor)
    checkpoint.compute(tensor, type, () => turned(checkpoint, tensor, list, type))
  }
  for (const [tensor, value] of norms)
    checkpoint.compute(tensor, checkpoint.floatType(tensor), async () =>
      sharedFloats(checkpoint.entry(tensor).shape[0]!).fill(value),
    )
  return { block, headBlock, untied: checkpoint.isAlias(`${program.head}.weight`) }
}

async function turned(
  checkpoint: Checkpoint,
  tensor: string,
  turns: readonly Turn[],
  type: "f32" | "f16" | "bf16",
): Promise<Float32Array> {
  const { shape } = checkpoint.entry(tensor)
  const [n, k] = shape.length === 1 ? [1, shape[0]!] : (shape as [number, number])
  const values = await checkpoint.storedFloats(tensor)
  for (const { axis, block, scale } of turns) await native.hadamard(values, n, k, axis, block, await scale(), values)
  await roundInPlace(values, type)
  return values
}

/** What the norm multiplies with, with the rotation's signs. */
async function withNorm(checkpoint: Checkpoint, prefix: string, norm: StreamNorm | null, signs: Float32Array) {
  if (!norm || norm.tensor === null) return signs
  const weight = await checkpoint.storedFloats(prefix + norm.tensor)
  for (let i = 0; i < weight.length; i++) weight[i] = (norm.offset + weight[i]!) * signs[i]!
  return weight
}

/** Signs by seed and stream: the top bits of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). */
function randomSigns(count: number, seed: number, stream: number): Float32Array {
  const mask = (1n << 64n) - 1n
  let state = ((BigInt(seed) << 20n) + BigInt(stream)) & mask
  const signs = sharedFloats(count)
  for (let i = 0; i < count; i++) {
    state = (state + 0x9e3779b97f4a7c15n) & mask
    let bits = state
    bits = ((bits ^ (bits >> 30n)) * 0xbf58476d1ce4e5b9n) & mask
    bits = ((bits ^ (bits >> 27n)) * 0x94d049bb133111ebn) & mask
    signs[i] = (bits ^ (bits >> 31n)) >> 63n === 0n ? 1 : -1
  }
  return signs
}
