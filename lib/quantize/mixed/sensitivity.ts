// How much a model suffers when one group of its linears is quantized and everything else is not.
//
// "kl": the mean KL divergence of the model's output, measured for every scheme: the hidden states that enter the block are known from a run of
// the original model, so that a measurement costs the blocks that follow, half of the model on average. "layer": the squared error of the
// group's own outputs for every scheme, brought to the scale of the output by one such measurement a group: in the second-order view
// (HAWQ, arXiv 1911.03852) damage is the layer's error times a sensitivity that does not depend on the scheme.
//
// Weights are rounded one by one on second moments of the original model's activations: GPTQ where the recipe has it or something that
// learns more, otherwise by its own rounding. Transforms and errors of earlier blocks, which the real run has, are left out.
// The experts of a block are one group: all of them are quantized at once, each rounded on the rows that its router sends to it.
import type { Checkpoint } from "../../containers/checkpoint.ts"
import { TsqError, throwIfAborted } from "../../core/errors.ts"
import type { LongWork } from "../../core/progress.ts"
import { CheckpointSource } from "../../engine/checkpoint-source.ts"
import { type PackedWeight, prepack } from "../../kernels/packed-weight.ts"
import { Accumulator } from "../../models/accumulator.ts"
import { BlockWeights } from "../../models/block-weights.ts"
import type { ModelProgram } from "../../models/program.ts"
import type { BoundSection } from "../../models/runner.ts"
import type { Handle } from "../../native.ts"
import { roundingByName } from "../../rounding/registry.ts"
import type { InputStatistics } from "../../rounding/rounding.ts"
import type { CalibrationSet } from "../calibration.ts"
import { CalibrationRun, type HeadInput } from "../calibration-run.ts"
import { probeTokens } from "../estimate.ts"
import { visitExperts, withoutStatistics } from "../expert-stage.ts"
import { stages } from "../linears.ts"
import type { Recipe } from "../recipe.ts"
import type { LinearGroup } from "./groups.ts"
import { candidateName, type SensitivityKind } from "./request.ts"

/** Of one choice of a group: what the output loses, and the group's own mean squared output error summed over outputs (over all tokens, those that an expert does not see included). */
export interface Damage {
  kl: number
  layerError: number
}

export interface SensitivityInput extends LongWork {
  checkpoint: Checkpoint
  program: ModelProgram
  recipe: Recipe
  calibration: CalibrationSet
  minZero: number
  /** null: the CPU. */
  device: Handle | null
  groups: readonly LinearGroup[]
  kind: SensitivityKind
  /** Damages of groups that are known already, in the order of groups: measured by an interrupted run. */
  known: readonly (readonly Damage[])[]
  onGroup(done: readonly (readonly Damage[])[]): Promise<void>
}

/** Windows that damage is measured on: of the text that calibration has left over, otherwise some of its own. */
export function probeSet(set: CalibrationSet): CalibrationSet {
  if (set.heldOut && set.heldOut.length > 0) return { ...set, windows: set.heldOut }
  const count = Math.min(set.windows.length, Math.ceil(probeTokens / set.sequenceLength))
  const windows = Array.from({ length: count }, (_, i) => set.windows[Math.floor((i * set.windows.length) / count)]!)
  return { ...set, windows }
}

/** Damage of every choice of every group, in their order. */
export async function measureSensitivity(input: SensitivityInput): Promise<Damage[][]> {
  const { program, groups, signal } = input
  const damages = input.known.map(list => [...list])
  const left = groups.slice(damages.length)
  if (left.length === 0) return damages
  const dense = new CheckpointSource(input.checkpoint, () => {})
  const calibrated = await CalibrationRun.start(program, dense, input.calibration, signal, input.device)
  try {
    const probe = await CalibrationRun.start(program, dense, probeSet(input.calibration), signal)
    try {
      const reference = await outputOf(probe, program, signal)
      for (let layer = 0; layer <= left.at(-1)!.layer; layer++) {
        const bound = await calibrated.bind(layer)
        try {
          for (const group of left.filter(entry => entry.layer === layer)) {
            throwIfAborted(signal)
            damages.push(await measureGroup(input, group, bound, calibrated, probe, reference))
            await input.onGroup(damages)
          }
          await calibrated.advance(bound, signal)
          await probe.advance(bound, signal)
        } finally {
          bound.dispose()
        }
      }
      return damages
    } finally {
      probe.dispose()
    }
  } finally {
    calibrated.dispose()
  }
}

/** What the head reads at the end of the original model. */
export async function outputOf(
  start: CalibrationRun,
  program: ModelProgram,
  signal: AbortSignal | undefined,
): Promise<HeadInput> {
  const run = start.fork()
  for (let layer = 0; layer < program.blocks.length; layer++) await advanceThrough([run], layer, signal)
  return run.headInput(signal)
}

/** Sends runs through an original block. */
async function advanceThrough(
  runs: readonly CalibrationRun[],
  layer: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const bound = await runs[0]!.bind(layer)
  try {
    for (const run of runs) await run.advance(bound, signal)
  } finally {
    bound.dispose()
  }
}

async function measureGroup(
  input: SensitivityInput,
  group: LinearGroup,
  bound: BoundSection,
  calibrated: CalibrationRun,
  probe: CalibrationRun,
  reference: HeadInput,
): Promise<Damage[]> {
  const { program, recipe, signal } = input
  const prefix = program.blockPrefix(group.layer)
  const weights = new BlockWeights(input.checkpoint, prefix, program.sections[program.blocks[group.layer]!]!)
  const places = new Map(group.modules.map((module, i) => [module.slice(prefix.length), i]))
  const tries = group.choices.map(() => ({ error: 0, packed: new Map<string, PackedWeight>() }))
  const forks = new Map<number, CalibrationRun>()
  try {
    await visitInputs(input, group, bound, calibrated, async ({ modules, statistics, share }) => {
      const rounding = probeRounding(recipe)
      for (const module of modules) {
        const weight = await weights.linear(module)
        const [n, k] = weights.shape(module)
        for (const [index, choice] of group.choices.entries()) {
          throwIfAborted(signal)
          const scheme = choice.schemes[places.get(module)!]
          if (!scheme) continue
          const { tensor, report } = await roundingByName(statistics ? rounding : withoutStatistics(rounding)).round({
            ...{ name: prefix + module, weight, n, k, scheme, statistics, minZero: input.minZero, signal },
            options: recipe.roundingOptions,
            device: input.device,
          })
          // An error of weights stands for that of outputs on inputs of mean square 1.
          tries[index]!.error += share * report.error * (statistics ? 1 : n * k)
          tries[index]!.packed.set(module, await prepack(tensor))
        }
        weights.forget(module)
      }
    })
    for (const index of probingOrder(group, input.kind)) {
      const { packed, error } = tries[index]!
      // Of a scheme that loses nothing there is nothing to learn about the others.
      const measure = input.kind === "kl" ? packed.size > 0 : forks.size === 0 && error > 0
      if (measure) forks.set(index, await advanced(probe, bound, packed, signal))
    }
  } finally {
    for (const { packed } of tries) for (const weight of packed.values()) weight.dispose()
  }
  const runs = [...forks.values()]
  if (runs.length > 0)
    for (let layer = group.layer + 1; layer < program.blocks.length; layer++) await advanceThrough(runs, layer, signal)
  const measured = new Map<number, number>()
  for (const [index, fork] of forks) measured.set(index, Math.max(0, await fork.divergence(reference, signal)))
  return damagesOf(
    group,
    tries.map(({ error }) => error),
    measured,
  )
}

/** A fork behind the block with some of its linears rounded. */
async function advanced(
  probe: CalibrationRun,
  bound: BoundSection,
  packed: ReadonlyMap<string, PackedWeight>,
  signal: AbortSignal | undefined,
): Promise<CalibrationRun> {
  const sections = [bound]
  try {
    for (const [module, weight] of packed) sections.push(sections.at(-1)!.set(module, weight))
    const fork = probe.fork()
    await fork.advance(sections.at(-1)!, signal)
    return fork
  } finally {
    for (const section of sections.slice(1)) section.dispose()
  }
}

/** Linears that share their input, by their names in the block. */
interface Inputs {
  modules: readonly string[]
  /** Undefined for an expert that too few tokens reach. */
  statistics: InputStatistics | undefined
  /** Of all tokens, those that go through these linears. */
  share: number
}

async function visitInputs(
  { program, recipe, signal }: SensitivityInput,
  group: LinearGroup,
  bound: BoundSection,
  run: CalibrationRun,
  visit: (inputs: Inputs) => Promise<void>,
): Promise<void> {
  const prefix = program.blockPrefix(group.layer)
  const wanted = new Set(group.modules.map(module => module.slice(prefix.length)))
  for (const stage of stages(program.sections[program.blocks[group.layer]!]!)) {
    const { op, slot, experts } = stage
    const modules = stage.modules.filter(module => wanted.has(module))
    if (modules.length === 0) continue
    if (experts) {
      await visitExperts({ run, bound, stage, experts, modules, original: null, recipe, signal }, expert =>
        visit({ ...expert, share: expert.tokens / run.rows }),
      )
      continue
    }
    const hessian = new Accumulator("hessian", stage.k)
    try {
      await run.observe(bound, { op, slot, accumulator: hessian }, signal)
      const statistics = { hessian: hessian.handle, meanSquare: hessian.meanSquare(), rows: hessian.rows }
      await visit({ modules, statistics, share: 1 })
    } finally {
      hessian.dispose()
    }
  }
}

/**
 * Indices of choices in the order in which the output is asked about them. "layer": the quantized ones from the middle outwards, the first of
 * which that loses anything is the only one.
 */
function probingOrder({ choices }: LinearGroup, kind: SensitivityKind): number[] {
  if (kind === "kl") return [...choices.keys()]
  const byBits = [...choices.entries()]
    .filter(([, { candidate }]) => candidate.scheme !== "none")
    .sort(([, a], [, b]) => a.bits - b.bits)
  const distance = (place: number) => Math.abs(place - Math.floor((byBits.length - 1) / 2))
  return [...byBits.keys()].sort((a, b) => distance(a) - distance(b) || a - b).map(place => byBits[place]![0])
}

function damagesOf(
  { modules, choices }: LinearGroup,
  errors: readonly number[],
  measured: ReadonlyMap<number, number>,
): Damage[] {
  const [[probed, kl] = [0, 0]] = measured
  return choices.map(({ candidate }, index) => {
    if (candidate.scheme === "none") return { kl: 0, layerError: 0 }
    const layerError = errors[index]!
    const damage = measured.get(index) ?? (kl * layerError) / Math.max(errors[probed]!, Number.MIN_VALUE)
    if (!Number.isFinite(damage) || !Number.isFinite(layerError))
      throw new TsqError(
        "ERR_NUMERIC",
        `the damage of ${candidateName(candidate)} to ${modules.join(", ")} is ${damage} (their own error is ${layerError}): activations or logits overflow; leave them alone (ignore), or that candidate out`,
      )
    return { kl: damage, layerError }
  })
}

/** The rounding whose error stands for that of the recipe's. */
const probeRounding = ({ rounding }: Recipe): Recipe["rounding"] =>
  rounding === "nearest" || rounding === "mse" ? rounding : "gptq"
