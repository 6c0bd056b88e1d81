// Chooses a mixture: damages are measured (sensitivity.ts), choices are made under the budget (allocate.ts), and what comes out is a list of
// overrides for the ordinary recipe. The quantized model's divergence is measured on the same tokens and reported beside the predicted
// one; where the target is a divergence, the budget follows what was measured.
import { TsqError } from "../../core/errors.ts"
import type { LongWork } from "../../core/progress.ts"
import type { Handle } from "../../native.ts"
import type { QuantizationJob } from "../job.ts"
import type { Override } from "../recipe.ts"
import { type Allocation, allocate } from "./allocate.ts"
import { bitsOf, type LinearGroup, linearGroups } from "./groups.ts"
import { candidateName, type MixRequest, type SensitivityKind, type Target } from "./request.ts"
import type { Attempt, SearchFile } from "./search-file.ts"
import { type Damage, measureSensitivity, probeSet } from "./sensitivity.ts"
import { storedBits } from "./stored-bits.ts"

/** What a mixture was made from, for the report. */
export interface MixReport {
  target: Target
  sensitivity: SensitivityKind
  /** Of the blocks' linears, those left unquantized by choice included. */
  bitsPerWeight: number
  /** Mean KL divergence from the unquantized model in nats per token: the sum of the chosen schemes' damages, and as measured in the end. */
  predictedKl: number
  measuredKl: number
  /** Tokens that both were measured on, and whether they are others than those of calibration. */
  tokens: number
  heldOut: boolean
  /** 0: no other mixture of the candidates is predicted better. Otherwise nats (for targetKl bits) that at most could be saved. */
  optimalityGap: number
  /** Mixtures that were quantized to meet targetKl, the last of them written. */
  attempts: readonly Attempt[]
  groups: {
    modules: readonly string[]
    scheme: string
    bitsPerWeight: number
    damage: number
    candidates: { scheme: string; bitsPerWeight: number; damage: number; layerError: number }[]
  }[]
}

export interface MixSearchInput extends LongWork {
  job: QuantizationJob
  minZero: number
  /** null: the CPU. */
  device: Handle | null
  file: SearchFile
  onGroup(done: number, total: number): void
}

/** Budgets of targetKl that are tried, and how far below the target a divergence may be to be taken. */
const maxAttempts = 6
const closeEnough = 0.9
const smaller = 0.97

interface Chosen {
  picks: number[]
  /** Sum of the damages; for targetKl what it was to stay below. */
  predicted: number
  gap: number
}

/** Of a choice of a group. */
type Table = (group: number, choice: number) => number

export class MixSearch {
  readonly #job: QuantizationJob
  readonly #request: MixRequest
  readonly #groups: readonly LinearGroup[]
  readonly #damages: readonly (readonly Damage[])[]
  readonly #file: SearchFile
  /** [group][choice] cost: bits by the canonical tensor, or as the format stores them. */
  readonly #costs: readonly (readonly number[])[]
  readonly #budget: number
  #chosen: Chosen | null = null

  private constructor(
    job: QuantizationJob,
    request: MixRequest,
    groups: readonly LinearGroup[],
    damages: readonly (readonly Damage[])[],
    costs: Costs,
    file: SearchFile,
  ) {
    this.#job = job
    this.#request = request
    this.#groups = groups
    this.#damages = damages
    this.#costs = costs.each
    this.#budget = costs.budget
    this.#file = file
  }

  /** Checks that the target can be met, then measures what `file` does not know yet. ERR_OPTION for a budget that nothing meets. */
  static async start(input: MixSearchInput): Promise<MixSearch> {
    const { job, file } = input
    const request = job.recipe.mix!
    const groups = groupsOf(job)
    const costs = await costsOf(job, groups, request.target)
    checkBudget(costs, request.target)
    const damages = await measureSensitivity({
      checkpoint: job.checkpoint,
      program: job.program,
      recipe: job.recipe,
      calibration: job.calibration!,
      minZero: input.minZero,
      device: input.device,
      groups,
      kind: request.sensitivity,
      known: file.damages,
      signal: input.signal,
      onGroup: async done => {
        await file.save({ damages: done.map(list => [...list]) })
        input.onGroup(done.length, groups.length)
      },
    })
    return new MixSearch(job, request, groups, damages, costs, file)
  }

  /**
   * Schemes for the modules, within the target as far as it can be told; after an interruption those that were accepted before. ERR_OPTION where
   * no mixture is predicted to meet targetKl.
   */
  choose(): Override[] {
    const { target } = this.#request
    this.#chosen = this.#settled() ? this.#within(this.#lastBudget) : this.#next()
    if (!this.#chosen)
      throw new TsqError(
        "ERR_OPTION",
        `quantizeModel: targetKl is ${Object.values(target)[0]}, which no mixture of the candidates ${this.#file.attempts.length === 0 ? "is predicted to keep to" : "keeps to, beside what overrides decide"}; ` +
          'allow more, or give finer candidates ("none" leaves a linear unquantized)',
      )
    return this.#groups.flatMap((group, index) => {
      const { candidate } = group.choices[this.#chosen!.picks[index]!]!
      return group.patterns.map(pattern => ({ pattern, ...candidate }))
    })
  }

  /** For targetKl the mixture to measure next: one that may keep to it, or else the best that was found to; null where there is neither. */
  #next(): Chosen | null {
    const { target } = this.#request
    if (!("kl" in target)) return this.#within(this.#budget)
    const { attempts } = this.#file
    const least = this.#damages.reduce((sum, list) => sum + Math.min(...list.map(({ kl }) => kl)), 0)
    for (let predicted = nextPrediction(target.kl, attempts); ; ) {
      const found = this.#within(predicted)
      if (!found) break
      // A mixture that is known to miss the target needs no second look.
      if (!attempts.some(({ picks, measured }) => !(measured <= target.kl) && samePicks(picks, found.picks)))
        return found
      const damage = this.#damageOf(found.picks)
      if (damage <= least) break
      predicted = Math.min(predicted, damage) * smaller
    }
    const kept = attempts.filter(({ measured }) => measured <= target.kl).map(({ predicted }) => predicted)
    return kept.length > 0 ? this.#within(Math.max(...kept)) : null
  }

  /** The best mixture for a budget: bits, or nats for targetKl. */
  #within(budget: number): Chosen | null {
    const bits = (i: number, j: number) => this.#costs[i]![j]!
    const kl = (i: number, j: number) => this.#damages[i]![j]!.kl
    if (!("kl" in this.#request.target)) {
      const found = this.#allocate(bits, kl, budget)!
      return { picks: found.picks, predicted: found.damage, gap: found.damage - found.bound }
    }
    // The other way round: least bits for a divergence.
    const found = this.#allocate(kl, bits, budget)
    return found && { picks: found.picks, predicted: budget, gap: found.damage - found.bound }
  }

  #allocate(cost: Table, damage: Table, budget: number): Allocation | null {
    const table = this.#groups.map((group, i) =>
      group.choices.map((_, j) => ({ cost: cost(i, j), damage: damage(i, j) })),
    )
    return allocate(table, budget)
  }

  /** Whether the last mixture measured is to be kept. */
  #settled(): boolean {
    const { target } = this.#request
    const { attempts } = this.#file
    const last = attempts.at(-1)
    if (!last) return false
    if (!("kl" in target)) return true
    if (!(last.measured <= target.kl)) return false
    if (last.measured >= target.kl * closeEnough || attempts.length >= maxAttempts) return true
    const next = this.#next()
    return next !== null && samePicks(next.picks, last.picks)
  }

  /** That of the last mixture measured. */
  get #lastBudget(): number {
    return "kl" in this.#request.target ? this.#file.attempts.at(-1)!.predicted : this.#budget
  }

  /** Takes what was measured of the chosen mixture; whether it is to be kept. ERR_OPTION where targetKl is out of reach. */
  async accept(measured: number): Promise<boolean> {
    const { target } = this.#request
    const { predicted, picks } = this.#chosen!
    const known = this.#file.attempts
    // One that was accepted before an interruption is measured again, and counts once.
    if (!this.#settled()) await this.#file.save({ attempts: [...known, { predicted, measured, picks }] })
    if (this.#settled()) return true
    const { length } = this.#file.attempts
    if ("kl" in target && !(measured <= target.kl) && length >= 2 * maxAttempts)
      throw new TsqError(
        "ERR_OPTION",
        `quantizeModel: targetKl is ${target.kl}; after ${length} mixtures the divergence measured is still ${measured.toPrecision(3)}; allow more, or give finer candidates`,
      )
    return false
  }

  #damageOf(picks: readonly number[]): number {
    return picks.reduce((sum, pick, group) => sum + this.#damages[group]![pick]!.kl, 0)
  }

  report(): MixReport {
    const chosen = this.#chosen!
    const { calibration } = this.#job
    const probe = probeSet(calibration!)
    const weights = this.#groups.reduce((sum, group) => sum + group.weights, 0)
    const bits = this.#groups.reduce((sum, group, i) => sum + group.choices[chosen.picks[i]!]!.bits, 0)
    const { attempts } = this.#file
    return {
      target: this.#request.target,
      sensitivity: this.#request.sensitivity,
      bitsPerWeight: bits / weights,
      predictedKl: this.#damageOf(chosen.picks),
      measuredKl: attempts.at(-1)!.measured,
      tokens: probe.windows.length * (probe.sequenceLength - 1),
      heldOut: (calibration!.heldOut?.length ?? 0) > 0,
      optimalityGap: chosen.gap,
      attempts: "kl" in this.#request.target ? attempts : [],
      groups: this.#groups.map((group, i) => {
        const candidates = group.choices.map(({ candidate, bits }, j) => {
          const { kl: damage, layerError } = this.#damages[i]![j]!
          return { scheme: candidateName(candidate), bitsPerWeight: bits / group.weights, damage, layerError }
        })
        const { layerError: _, ...picked } = candidates[chosen.picks[i]!]!
        return { modules: group.modules, ...picked, candidates }
      }),
    }
  }
}

/** Groups of a job whose recipe asks for a mixture. */
export const groupsOf = ({ checkpoint, program, recipe }: QuantizationJob): LinearGroup[] =>
  linearGroups(checkpoint, program, recipe, recipe.mix!.candidates)

interface Costs {
  /** [group][choice] in bits. */
  each: readonly (readonly number[])[]
  budget: number
  /** That targetBits counts: with those that are decided. */
  weights: number
}

/** Cost of every choice in bits and the budget that is left for the groups, once what is decided already has taken its part. */
async function costsOf(job: QuantizationJob, groups: readonly LinearGroup[], target: Target): Promise<Costs> {
  const nominal = groups.map(group => group.choices.map(({ bits }) => bits))
  const free = groups.reduce((sum, group) => sum + group.weights, 0)
  if ("kl" in target) return { each: nominal, budget: Number.POSITIVE_INFINITY, weights: free }
  const own = new Set(groups.flatMap(({ modules }) => modules))
  const decided = job.plan.modules.filter(({ module, scheme }) => scheme !== null && !own.has(module))
  if ("bits" in target) {
    const inBlocks = decided.filter(({ layer }) => layer !== null)
    const weights = free + inBlocks.reduce((sum, { shape }) => sum + shape[0] * shape[1], 0)
    return { each: nominal, budget: target.bits * weights - bitsOf(inBlocks, job.checkpoint), weights }
  }
  const stored = await storedBits(job)
  const each: number[][] = []
  for (const group of groups) {
    const costs: number[] = []
    for (const choice of group.choices) {
      let bits = 0
      for (const [i, module] of group.modules.entries())
        bits += await stored(module, group.shapes[i]!, choice.schemes[i]!)
      costs.push(bits)
    }
    each.push(costs)
  }
  let others = 0
  for (const name of job.checkpoint.names) others += job.checkpoint.entry(name).bytes * 8
  for (const module of own) others -= job.checkpoint.entry(`${module}.weight`).bytes * 8
  for (const { module, shape, scheme } of decided)
    others += (await stored(module, shape, scheme)) - job.checkpoint.entry(`${module}.weight`).bytes * 8
  return { each, budget: target.bytes * 8 - others, weights: free }
}

/** ERR_OPTION where the budget is below the smallest choices, or above the largest, which needs no search. */
function checkBudget({ each, budget, weights }: Costs, target: Target): void {
  if ("kl" in target) return
  const total = (pick: (costs: readonly number[]) => number) => each.reduce((sum, costs) => sum + pick(costs), 0)
  const [least, most] = [total(costs => Math.min(...costs)), total(costs => Math.max(...costs))]
  if (least <= budget * (1 + 1e-9) && budget <= most * (1 + 1e-9)) return
  const asked = "bits" in target ? target.bits : target.bytes
  // What is decided already stays, whatever the groups take.
  const inUnits = (bits: number) =>
    "bits" in target
      ? (target.bits + (bits - budget) / weights).toFixed(3)
      : Math.ceil(target.bytes + (bits - budget) / 8).toLocaleString("en")
  const unit = "bits" in target ? "bits per weight" : "bytes"
  const name = "bits" in target ? "targetBits" : "targetSize"
  throw new TsqError(
    "ERR_OPTION",
    `quantizeModel: ${name} is ${asked}; the candidates make between ${inUnits(least)} and ${inUnits(most)} ${unit}` +
      (budget < least ? "; allow more, or give smaller candidates" : "; ask for less, or quantize with one scheme"),
  )
}

/**
 * The divergence to predict next: the target, corrected by what was measured before. Between a mixture that kept to the target and one that
 * did not, the geometric middle; otherwise what was predicted times target / measured.
 */
export function nextPrediction(target: number, attempts: readonly Attempt[]): number {
  const last = attempts.at(-1)
  if (!last) return target
  const kept = attempts.filter(({ measured }) => measured <= target).map(({ predicted }) => predicted)
  const missed = attempts.filter(({ measured }) => measured > target).map(({ predicted }) => predicted)
  const [low, high] = [Math.max(...kept), Math.min(...missed)]
  // The last that may be tried is one that is known to keep to the target.
  if (attempts.length >= maxAttempts - 1 && kept.length > 0) return low
  if (kept.length > 0 && missed.length > 0) return Math.sqrt(low * high)
  return (last.predicted * target * (last.measured > target ? 0.95 : 1)) / Math.max(last.measured, Number.MIN_VALUE)
}

const samePicks = (a: readonly number[], b: readonly number[]) => a.every((pick, group) => pick === b[group])
