// What a recipe takes on a model: sizes, the peak of memory and a rough time.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { bitsPerWeight, type IntegerScheme } from "../core/scheme.ts"
import type { ModelProgram } from "../models/program.ts"
import { native } from "../native.ts"
import { signSteps } from "../rounding/auto-round.ts"
import { roundingByName } from "../rounding/registry.ts"
import { blockTransforms } from "../transforms/registry.ts"
import { strategyRecipe } from "./best/strategies.ts"
import { fusedGroups, type LinearSlot, linearsOf } from "./linears.ts"
import type { PlannedModule } from "./plan.ts"
import { needsCalibrationRun, type Recipe, usesStatistics } from "./recipe.ts"
import { bitsOf, isBitsandbytes } from "./scheme.ts"

/** Bits of a weight whose groups are all whole. */
export function nominalBits(recipe: Recipe, scaleType: IntegerScheme["scaleType"]): number {
  const { bits, symmetric, groupSize } = recipe
  if (typeof groupSize !== "number") return bits
  if (recipe.scheme === "fp8") return bits
  if (recipe.scheme === "mxfp4" || recipe.scheme === "nvfp4") return bits + 8 / groupSize
  // bitsandbytes' scales are f32, or 8 bits and an f32 number for 256 of them.
  const scaleBits = !isBitsandbytes(recipe.scheme)
    ? scaleType === "f32"
      ? 32
      : 16
    : recipe.doubleQuantization
      ? 8.125
      : 32
  return bits + (scaleBits + (symmetric ? 0 : bits)) / groupSize
}

export function sizeUp(checkpoint: Checkpoint, modules: readonly PlannedModule[]) {
  let sourceBytes = 0
  let outputBytes = 0
  for (const name of checkpoint.names) {
    const { bytes } = checkpoint.entry(name)
    outputBytes += bytes
    if (!checkpoint.isAlias(name)) sourceBytes += bytes
  }
  let quantizedBits = 0
  let quantizedWeights = 0
  let linearBits = 0
  let linearWeights = 0
  for (const { module, layer, shape, scheme } of modules) {
    const weights = shape[0] * shape[1]
    const name = `${module}.weight`
    const before = checkpoint.has(name) ? checkpoint.entry(name).bytes : 0
    const bits = scheme ? bitsPerWeight(scheme, shape, { zeros: !scheme.symmetric }) * weights : before * 8
    if (scheme) {
      quantizedBits += bits
      quantizedWeights += weights
      outputBytes += bits / 8 - before
    }
    if (layer !== null) {
      linearBits += bits
      linearWeights += weights
    }
  }
  return {
    sourceBytes,
    outputBytes: Math.round(outputBytes),
    quantizedBits,
    quantizedWeights,
    linearBits,
    linearWeights,
  }
}

/** Rows that a transform tries its candidates on. */
export const transformRows = 1024

/** Rows that one step of calibration runs at most. */
export const stepRows = 2048

/** Tokens that candidates are judged on: few enough to run every one of them. */
export const probeTokens = 4096

/** Node and the addon. */
const runtimeBytes = 120e6
/** Arrays that are no longer needed may wait for the garbage collector up to about this much. */
const garbageBytes = 320e6
/** Largest k whose Hessian is factored in f64 (native/rounding/inverse_factor.cc). */
const doubleLimit = 4096

/** Anonymous memory at its peak in bytes, by what takes it. Mapped weights are not in it. */
export function estimateMemory(
  program: ModelProgram,
  recipe: Recipe,
  modules: readonly PlannedModule[],
  calibration: { rows: number; windows: number; length: number } | null,
): Record<string, number> {
  const { hiddenSize, vocabularySize, kvHeads, headDim } = program.config
  const linears = largestBlock(program)
  const block = weightsOf(linears)
  const planned = modules.filter(entry => entry.scheme)
  const largest = Math.max(...planned.map(({ shape }) => shape[0] * shape[1]))
  const runtime = { runtime: runtimeBytes, "uncollected arrays": Math.min(garbageBytes, 20 * block) }
  // The written checkpoint is read back and run a section at a time; embedding and head stay in 16 bit or f32.
  const verifying: Record<string, number> = {
    ...runtime,
    "embedding or head": vocabularySize * hiddenSize * (program.config.torchDtype === "float32" ? 4 : 2),
  }
  // What stays dense is turned in f32, a tensor at a time.
  if (recipe.transforms.includes("hadamard")) verifying["rotated tensor"] = vocabularySize * hiddenSize * 4
  // f32 working copy, codes, and what they stand for as f32; the codes of the whole block until it is stored.
  const rounding: Record<string, number> = {
    ...runtime,
    "largest matrix": largest * (4 + 1 + 4),
    "codes of a block": block,
  }
  if (calibration && needsCalibrationRun(recipe)) {
    const rows = Math.min(stepRows, Math.max(calibration.rows, 1))
    const bucket = 2 ** Math.ceil(Math.log2(rows))
    const hidden = calibration.rows * hiddenSize * 4
    verifying["hidden states"] = hidden
    rounding["hidden states"] = hidden
    const probed = probeCopies(recipe) * probeTokens * hiddenSize * 4
    if (probed > 0) rounding["hidden states of what is tried"] = probed
    if (recipe.mix) rounding["weights of what is tried"] = largestGroup(program) * triedBytes(recipe.mix)
    // The best candidate so far, beside the one that is tried.
    if (recipe.contest) rounding["codes of a block"] = 2 * block
    if (recipe.errorCorrection) {
      rounding["hidden states of the original"] = hidden
      const { count = 0, perToken = 1 } = program.config.experts ?? {}
      // Of experts with the routes that both models follow; of others with the stream that their output is added to.
      const inputs = linears.map(({ k, expert }) => (expert === undefined ? k + hiddenSize : k * perToken + count))
      rounding["inputs of the original"] = rows * Math.max(...inputs) * 4
    }
    // As they are stored and, bit by bit, quantized; f32 copies, changed weights and candidates of a transform.
    rounding["block weights"] =
      block * (program.config.torchDtype === "float32" || recipe.transforms.includes("hadamard") ? 4 : 2) +
      block +
      (blockTransforms(recipe.transforms).length > 0 ? block * 12 : 0)
    rounding.activations = bucket * program.slots.reduce((sum, width) => sum + width, 0) * 4
    rounding["keys and values"] = rows * kvHeads * (headDim + Math.ceil(headDim / 16) * 16) * 4
    // What a step leaves for the device, whose second moments come back as an accumulator's.
    if (recipe.device !== "cpu") rounding["rows for the device"] = rows * Math.max(...linears.map(({ k }) => k)) * 4
    if (usesStatistics(recipe))
      rounding["second moments"] = Math.max(
        ...linears.map(({ k, expert }) =>
          secondMomentBytes(
            k,
            hiddenSize,
            recipe,
            expert === undefined
              ? 1
              : Math.min(expertsAtOnce(k, recipe.errorCorrection), program.config.experts?.count ?? 1),
          ),
        ),
      )
  }
  const total = (parts: Record<string, number>) => Object.values(parts).reduce((sum, bytes) => sum + bytes, 0)
  return total(verifying) > total(rounding) ? verifying : rounding
}

/** Copies of the probe's hidden states: candidates of a group, what the head reads, the original's, and a run's own. */
const probeCopies = ({ mix, contest }: Recipe): number =>
  (mix ? (mix.candidates?.length ?? 7) + 2 : 0) + (contest ? 4 : 0)

/** Bytes of a weight under all candidates whose damage is measured at the output, with some of what belongs to a group. */
function triedBytes({ candidates, sensitivity }: NonNullable<Recipe["mix"]>): number {
  const bits = candidates?.map(({ scheme }) => (scheme === "none" ? 0 : bitsOf(scheme))) ?? [2, 3, 4, 5, 6, 8]
  const each = bits.filter(width => width > 0).map(width => (width + 0.5) / 8)
  return sensitivity === "layer" ? Math.max(0, ...each) : each.reduce((sum, bytes) => sum + bytes, 0)
}

/** Weights of the largest group of linears that have one scheme: the experts of a block. */
const largestGroup = (program: ModelProgram): number =>
  Math.max(
    ...[...new Set(program.blocks)].flatMap(block => {
      const layer = program.blocks.indexOf(block)
      const sizes = new Map(linearsOf(program, layer).map(({ module, n, k }) => [module, n * k]))
      return fusedGroups(program, layer).map(group => group.reduce((sum, module) => sum + sizes.get(module)!, 0))
    }),
  )

const weightsOf = (linears: readonly LinearSlot[]) => linears.reduce((sum, { n, k }) => sum + n * k, 0)

/** The linears of the block that has most weights: blocks with experts and blocks without may take turns. */
const largestBlock = (program: ModelProgram): LinearSlot[] =>
  [...new Set(program.blocks)]
    .map(block => linearsOf(program, program.blocks.indexOf(block)))
    .reduce((a, b) => (weightsOf(b) > weightsOf(a) ? b : a))

/** Second moments of experts that are held at the same time, unless one takes more. */
const expertMomentBytes = 2 ** 30

/** Experts of k columns whose second moments are summed in one pass over the calibration set. corrected: with cross Gram matrices beside. */
export const expertsAtOnce = (k: number, corrected: boolean): number =>
  Math.max(1, Math.floor(expertMomentBytes / ((corrected ? 8 : 4) * k * k)))

/**
 * Hessians in f32 and rows of a chunk, and the largest of what comes after another: GPTQ's triangular factor (f64 up to a certain
 * width) and its inverse in f32, the Hessian packed for descent, the inverse beside two packed matrices for a corrected target. With
 * correction also the cross Gram matrices of inputs and of the residual stream.
 */
function secondMomentBytes(k: number, hiddenSize: number, recipe: Costs, hessians: number): number {
  const { errorCorrection } = recipe
  const factor = usesFactor(recipe) || errorCorrection ? (k <= doubleLimit ? 4 : 2) + 2 : 0
  const after = Math.max(
    factor,
    roundingByName(recipe.rounding).calibration === "required" ? 4 : 0,
    errorCorrection ? 10 : 0,
  )
  // The cross Gram matrices of inputs, and that of the residual stream.
  const cross = errorCorrection ? 4 * k * (k * hessians + hiddenSize) : 0
  return k * k * (4 * hessians + after) + cross + (errorCorrection ? 2560 : 512) * k * 4
}

/** What a rounding's memory and time depend on. */
type Costs = Pick<Recipe, "rounding" | "transforms" | "roundingOptions" | "errorCorrection">

/** Roundings that begin with GPTQ. */
const usesFactor = ({ rounding }: Costs): boolean => ["gptq", "auto-round", "qronos"].includes(rounding)

/** Arithmetic per second and thread in quantization on the processors that this was measured on. */
const rates = [
  { kernels: "avx512", flops: 90e9 },
  { kernels: "avx2", flops: 45e9 },
  { kernels: "neon", flops: 20e9 },
]
const slowestRate = 1e9
/** After so many sweeps of exact descent most rows have ended. */
const typicalSweeps = 10
/** Bytes of source checked, hashed, written and read back in a second. */
const streamRate = 150e6

/** Very rough: streaming, forward passes, second moments, factorisations and column loops at typical rates. */
export function estimateSeconds(program: ModelProgram, recipe: Recipe, rows: number, sourceBytes: number): number {
  const { kernels } = native.cpu()
  const rate = (rates.find(entry => kernels.startsWith(entry.kernels))?.flops ?? slowestRate) * native.threads()
  const ways = recipe.contest?.strategies.map(strategy => strategyRecipe(recipe, strategy)) ?? [recipe]
  let flops = 0
  for (const way of ways) flops += quantizationFlops(program, way, rows)
  const model = program.blocks.reduce<number>(
    (sum, _, layer) => sum + activeWeights(program, linearsOf(program, layer)),
    0,
  )
  // A forward pass over the probe through half of the model, and what is read by the head, for each thing that is tried.
  const { hiddenSize, vocabularySize } = program.config
  const probe = 2 * probeTokens * (model / 2 + 2 * hiddenSize * vocabularySize)
  if (recipe.contest?.objective === "kl") flops += program.blocks.length * ways.length * probe
  if (recipe.mix) {
    const candidates = recipe.mix.candidates?.length ?? 7
    const rounding = recipe.rounding === "nearest" || recipe.rounding === "mse" ? recipe.rounding : "gptq"
    const cheap = { ...recipe, rounding, transforms: [], roundingOptions: {}, errorCorrection: false } as const
    const measured = recipe.mix.sensitivity === "kl" ? candidates : 1
    const groups = program.blocks.reduce<number>((sum, _, layer) => sum + fusedGroups(program, layer).length, 0)
    flops += candidates * quantizationFlops(program, cheap, 0) + 2 * model * rows + groups * measured * probe
  }
  return flops / rate + sourceBytes / streamRate
}

/** Of a block's linears, those that a token goes through. */
function activeWeights({ config }: ModelProgram, linears: readonly LinearSlot[]): number {
  const { count = 1, perToken = 1 } = config.experts ?? {}
  const experts = linears.filter(({ expert }) => expert !== undefined)
  return weightsOf(linears) - weightsOf(experts) * (1 - perToken / count)
}

/** Of every block by one recipe. */
function quantizationFlops(program: ModelProgram, recipe: Costs, rows: number): number {
  const gptq = usesFactor(recipe)
  const { rounding, transforms, errorCorrection } = recipe
  const { steps = signSteps, refine } = recipe.roundingOptions
  // Products with H: of a sweep twice and a half, of a signed step once.
  const products =
    2.5 * (refine ?? (rounding === "auto-round" || rounding === "qronos" ? typicalSweeps : 0)) +
    (rounding === "auto-round" || rounding === "lsq" ? steps : 0) +
    (errorCorrection ? 2 : 0)
  let flops = 0
  for (let layer = 0; layer < program.blocks.length; layer++) {
    const linears = linearsOf(program, layer)
    const weights = weightsOf(linears)
    flops += weights * (rounding === "nearest" ? 20 : 600)
    if (rows === 0) continue
    const { count = 1, perToken = 1 } = program.config.experts ?? {}
    const experts = linears.filter(({ expert }) => expert !== undefined)
    const active = activeWeights(program, linears)
    // The stages of a block run as far as they reach, and once to its end: twice the block together.
    flops += 2 * 2 * active * rows * (errorCorrection ? 2 : 1)
    // Some 22 candidates for each of four groups of linears, each a run through most of the block.
    flops += blockTransforms(transforms).length * 4 * 22 * 0.7 * 2 * active * Math.min(rows, transformRows)
    if (!usesStatistics(recipe)) continue
    const inputs = (list: readonly LinearSlot[]) => new Set(list.map(({ k }) => k))
    for (const k of inputs(linears.filter(({ expert }) => expert === undefined)))
      flops += k * k * rows * (errorCorrection ? 3 : 1) + (gptq || errorCorrection ? k ** 3 : 0)
    for (const k of inputs(experts))
      flops += k * k * rows * perToken * (errorCorrection ? 3 : 1) + (gptq || errorCorrection ? k ** 3 * count : 0)
    for (const { n, k } of linears) flops += ((gptq ? 3 : 0) + 2 * products) * n * k * k
  }
  return flops
}
