// measureSensitivity: which tensors of a model suffer most from which scheme, without quantizing it.
import { openDevice } from "../core/cuda.ts"
import { TsqError } from "../core/errors.ts"
import { Options } from "../core/options.ts"
import { progressReporter } from "../core/progress.ts"
import { QuantizationJob } from "./job.ts"
import { linearGroups } from "./mixed/groups.ts"
import { candidateName, readCandidates, sensitivityKinds } from "./mixed/request.ts"
import { measureSensitivity as measure, probeSet } from "./mixed/sensitivity.ts"
import type { QuantizeModelOptions } from "./recipe.ts"

export interface SensitivityOptions
  extends Pick<
    QuantizeModelOptions,
    | "calibration"
    | "samples"
    | "sequenceLength"
    | "groupSize"
    | "symmetric"
    | "rounding"
    | "candidates"
    | "sensitivity"
    | "ignore"
    | "device"
    | "force"
    | "signal"
    | "onProgress"
    | "onWarning"
  > {}

export interface SensitivityReport {
  architecture: string
  sensitivity: "kl" | "layer"
  /** Tokens that damage was measured on, and whether they are others than those of calibration. */
  tokens: number
  heldOut: boolean
  /** Groups of linears that engines fuse, in the order of the model. */
  groups: {
    modules: readonly string[]
    layer: number
    weights: number
    /** damage: mean KL divergence of the output in nats per token with this group alone quantized. layerError: its own squared error. */
    candidates: { scheme: string; bitsPerWeight: number; damage: number; layerError: number }[]
  }[]
}

const known = [
  ...["calibration", "samples", "sequenceLength", "groupSize", "symmetric", "rounding", "candidates", "sensitivity"],
  ...["ignore", "device", "force", "signal", "onProgress", "onWarning"],
]

/**
 * The damage of every scheme to every group of fused linears of the checkpoint in folder `source`, as quantizeModel measures it for a target
 * (docs/mixed-precision.md). Needs calibration. Throws as quantizeModel does.
 */
export async function measureSensitivity(source: string, values: SensitivityOptions): Promise<SensitivityReport> {
  const options = new Options("measureSensitivity", values, known)
  const candidates = readCandidates(options)
  const kind = options.oneOf("sensitivity", sensitivityKinds, "kl")
  if (!options.has("calibration"))
    throw new TsqError(
      "ERR_OPTION",
      "measureSensitivity needs calibration (text or token ids of the kind the model will see)",
    )
  const { candidates: _, sensitivity: __, ...rest } = values
  const job = await QuantizationJob.prepare(source, { rounding: "gptq", format: "compressed-tensors", ...rest })
  const report = progressReporter(options.onProgress())
  try {
    const { checkpoint, program, recipe } = job
    const calibration = job.calibration
    if (!calibration)
      throw new TsqError(
        "ERR_OPTION",
        `measureSensitivity: rounding ${recipe.rounding} does not look at activations; use "mse" or "gptq"`,
      )
    const groups = linearGroups(checkpoint, program, recipe, candidates)
    const damages = await measure({
      ...{ checkpoint, program, recipe, calibration, groups, kind, known: [], minZero: 0 },
      device: recipe.device === "cpu" ? null : await openDevice("measureSensitivity", recipe.device),
      signal: options.signal(),
      onGroup: async done => report({ stage: "measure", done: done.length, total: groups.length }),
    })
    const probe = probeSet(calibration)
    return {
      architecture: program.config.architecture,
      sensitivity: kind,
      tokens: probe.windows.length * (probe.sequenceLength - 1),
      heldOut: (calibration.heldOut?.length ?? 0) > 0,
      groups: groups.map(({ modules, layer, weights, choices }, i) => ({
        ...{ modules, layer, weights },
        candidates: choices.map(({ candidate, bits }, j) => ({
          scheme: candidateName(candidate),
          bitsPerWeight: bits / weights,
          damage: damages[i]![j]!.kl,
          layerError: damages[i]![j]!.layerError,
        })),
      })),
    }
  } finally {
    await job.dispose()
  }
}
