// Everything that is known before work begins: checkpoint, program, recipe, calibration windows and the plan.
import { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import type { ModelProgram } from "../models/program.ts"
import { describeModel } from "../models/registry.ts"
import { roundingByName } from "../rounding/registry.ts"
import { prepareRotation, type RotationReport, rotate } from "../transforms/hadamard.ts"
import { Adapters } from "./adapters.ts"
import { type CalibrationSet, readCalibration } from "./calibration.ts"
import { checkFinite } from "./finite.ts"
import { makePlan, type Plan } from "./plan.ts"
import {
  closeRecipe,
  makeRecipe,
  needsCalibration,
  needsCalibrationRun,
  type Override,
  type QuantizeModelOptions,
  type Recipe,
} from "./recipe.ts"
import { checkOrientation, transposedModules } from "./transposed.ts"

export class QuantizationJob {
  readonly checkpoint: Checkpoint
  readonly program: ModelProgram
  readonly recipe: Recipe
  readonly calibration: CalibrationSet | null
  readonly plan: Plan
  readonly adapters: Adapters
  #rotation: RotationReport | null = null

  private constructor(
    checkpoint: Checkpoint,
    program: ModelProgram,
    recipe: Recipe,
    calibration: CalibrationSet | null,
    plan: Plan,
    adapters: Adapters,
  ) {
    this.checkpoint = checkpoint
    this.program = program
    this.recipe = recipe
    this.calibration = calibration
    this.plan = plan
    this.adapters = adapters
  }

  /** Validates the options, opens the source and plans. Nothing is written and no weight is read. */
  static async prepare(source: string, options: QuantizeModelOptions): Promise<QuantizationJob> {
    if (typeof source !== "string" || source === "")
      throw new TsqError("ERR_OPTION", "quantizeModel: source is not the path of a Hugging Face checkpoint folder")
    const open = makeRecipe(options)
    throwIfAborted(options.signal)
    const checkpoint = await Checkpoint.open(source)
    let adapters: Adapters | null = null
    try {
      if (checkpoint.quantizationConfig)
        throw new TsqError(
          "ERR_UNSUPPORTED",
          `${source}: this checkpoint is quantized already (${String(checkpoint.quantizationConfig.quant_method ?? "unknown method")}); ` +
            "quantize the original, or convertModel this one to another format" +
            (open.adapters.length > 0
              ? "; adapters are merged into unquantized weights: run them beside quantized ones (loadModel's adapters, --adapter)"
              : ""),
        )
      const described = describeModel(checkpoint.config, name => checkpoint.has(name))
      if (options.adapters?.length) checkOrientation(described, "adapters")
      const program = open.transforms.includes("hadamard") ? prepareRotation(checkpoint, described) : described
      adapters = await Adapters.open(options.adapters ?? [], checkpoint, options.onWarning ?? (() => {}))
      const recipe = closeRecipe(open, program)
      const calibration = await calibrationOf(source, program, recipe, options)
      const plan = makePlan(checkpoint, program, recipe, sizesOf(calibration), options)
      return new QuantizationJob(checkpoint, program, recipe, calibration, plan, adapters)
    } catch (error) {
      await adapters?.dispose()
      checkpoint.dispose()
      throw error
    }
  }

  /** From here on the checkpoint reads as the recipe rotates it, where it does. */
  rotate(): void {
    if (!this.recipe.transforms.includes("hadamard")) return
    const rounded = new Set(this.plan.modules.filter(entry => entry.scheme).map(entry => entry.module))
    this.#rotation = rotate(this.checkpoint, this.program, this.recipe.seed, module => rounded.has(module))
  }

  /** Of rotate(); null without a rotation. */
  get rotation(): RotationReport | null {
    return this.#rotation
  }

  /** The same with the schemes that a search has chosen, behind those that the caller gave. Both share what dispose() closes. */
  withOverrides(overrides: readonly Override[], options: QuantizeModelOptions): QuantizationJob {
    const recipe = { ...this.recipe, overrides: [...this.recipe.overrides, ...overrides] }
    const plan = makePlan(this.checkpoint, this.program, recipe, sizesOf(this.calibration), options)
    const job = new QuantizationJob(this.checkpoint, this.program, recipe, this.calibration, plan, this.adapters)
    // What the search leaves unquantized is written in its stored type, and so it is calibrated.
    if (this.#rotation) job.rotate()
    return job
  }

  async dispose(): Promise<void> {
    this.checkpoint.dispose()
    await this.adapters.dispose()
  }
}

const sizesOf = (calibration: CalibrationSet | null) =>
  calibration && {
    rows: calibration.windows.length * calibration.sequenceLength,
    windows: calibration.windows.length,
    length: calibration.sequenceLength,
  }

async function calibrationOf(
  source: string,
  program: ModelProgram,
  recipe: Recipe,
  options: QuantizeModelOptions,
): Promise<CalibrationSet | null> {
  const { calibration } = options
  if (calibration === undefined) {
    if (!needsCalibration(recipe)) return null
    const transform = recipe.transforms.find(name => name !== "hadamard")
    const what = recipe.mix
      ? "choosing schemes by measured damage"
      : recipe.activations === "static"
        ? "static activations"
        : transform
          ? `transform ${transform}`
          : roundingByName(recipe.rounding).calibration === "required"
            ? `rounding ${recipe.rounding}`
            : 'kvCache "fp8"'
    throw new TsqError(
      "ERR_OPTION",
      `quantizeModel: ${what} needs calibration (text or token ids of the kind the model will see)`,
    )
  }
  if (!needsCalibrationRun(recipe)) {
    options.onWarning?.(`rounding ${recipe.rounding} does not look at activations: calibration is not used`)
    return null
  }
  return readCalibration(source, calibration, recipe, program.config, options.force ?? false)
}

const floatTypes = ["F32", "F16", "BF16"]

/** What GPT-NeoX and GPT-2 checkpoints have beside their weights: -1e9, which is minus infinity in f16. Nobody reads it. */
const maskedBias = /\.(attention|attn)\.masked_bias$/

/** ERR_NUMERIC naming the tensor when a weight is NaN or infinite, ERR_DTYPE when a planned weight is not of floats. */
export async function refuseBadWeights(
  job: QuantizationJob,
  signal: AbortSignal | undefined,
  onTensor: (done: number, total: number) => void,
): Promise<void> {
  const { checkpoint } = job
  let done = 0
  for (const name of checkpoint.names) {
    throwIfAborted(signal)
    if (floatTypes.includes(checkpoint.entry(name).dtype) && !maskedBias.test(name))
      await checkFinite(checkpoint.tensor(name), name, "the checkpoint is damaged, or its training diverged")
    onTensor(++done, checkpoint.names.length)
  }
  const transposed = transposedModules(job.program)
  for (const { module, shape, scheme } of job.plan.modules) {
    if (!scheme) continue
    const { dtype, shape: found } = checkpoint.entry(`${module}.weight`)
    if (!floatTypes.includes(dtype))
      throw new TsqError("ERR_DTYPE", `${module}.weight is ${dtype}, expected F32, F16 or BF16`)
    const stored = transposed.has(module) ? shape.toReversed() : shape
    if (found.length !== 2 || found[0] !== stored[0] || found[1] !== stored[1])
      throw new TsqError(
        "ERR_SHAPE",
        `${module}.weight is [${found.join(", ")}], expected [${stored.join(", ")}] from config.json; the configuration belongs to another model`,
      )
  }
}
