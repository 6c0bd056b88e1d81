// What quantizeModel is asked to do for a GGUF file: options validated once, every default written out.
import { checkImportancePath } from "../containers/imatrix-files.ts"
import { TsqError } from "../core/errors.ts"
import { describe, Options } from "../core/options.ts"
import type { LongWork } from "../core/progress.ts"
import { blockOrders } from "../formats/gguf-blocks.ts"
import { type GgufPreset, ggufPresets, isGgufPreset } from "../formats/gguf-mixes.ts"
import type { QuantizeModelOptions, RoundingName } from "./recipe.ts"

export interface GgufOptions
  extends LongWork,
    Pick<QuantizeModelOptions, "calibration" | "samples" | "sequenceLength" | "rounding" | "damp" | "block">,
    Pick<QuantizeModelOptions, "adapters" | "force" | "onWarning"> {
  /** A mixture of block types by the name that llama-quantize has for it. */
  preset: GgufPreset
  /** An importance matrix that llama-imatrix or `saveImatrix` made: .gguf, or the older .dat. */
  imatrix?: string
  /** Where to write the importance matrix that `calibration` gives: a .gguf or .dat file. */
  saveImatrix?: string
  /** gptq: "group-aware" (default: blocks and columns within them by importance), "none", or "static" (scales of the given weights). */
  order?: keyof typeof blockOrders
}

export interface GgufRecipe {
  preset: GgufPreset
  /** nearest: as llama-quantize without an importance matrix; mse: as with one; gptq: as mse, with codes that make up for each
   * other's errors. */
  rounding: RoundingName
  imatrix: string | null
  saveImatrix: string | null
  calibration: NonNullable<QuantizeModelOptions["calibration"]> | null
  samples: number | null
  sequenceLength: number | null
  adapters: readonly string[]
  force: boolean
  gptq: { damp: number; block: number; order: keyof typeof blockOrders }
}

const known = [
  ...["preset", "rounding", "imatrix", "saveImatrix", "calibration", "samples", "sequenceLength", "adapters"],
  ...["damp", "block", "order", "device", "force", "signal", "onProgress", "onWarning"],
]

/** ERR_OPTION for options that are wrong or contradict each other, ERR_UNSUPPORTED for those of folders. */
export function makeGgufRecipe(values: GgufOptions, out: string): GgufRecipe {
  refuseOthers(values)
  const options = new Options("quantizeModel", values, known)
  const preset = options.raw("preset")
  if (!isGgufPreset(preset)) return options.fail("preset", `one of ${ggufPresets.join(", ")} for a .gguf file`)
  if (!out.endsWith(".gguf"))
    throw new TsqError(
      "ERR_OPTION",
      `quantizeModel: preset ${describe(preset)} makes a GGUF file; the output is ${describe(out)}, expected the name of a .gguf file`,
    )
  const imatrix = options.string("imatrix", null)
  const saveImatrix = options.string("saveImatrix", null)
  const calibration = values.calibration ?? null
  if (saveImatrix !== null) checkImportancePath(saveImatrix)
  const recipe: GgufRecipe = {
    ...{ preset, imatrix, saveImatrix, calibration },
    rounding: options.oneOf(
      "rounding",
      ["nearest", "mse", "gptq"],
      imatrix === null && calibration === null ? "nearest" : "mse",
    ),
    samples: options.integer("samples", { min: 1 }, null),
    sequenceLength: options.integer("sequenceLength", { min: 2 }, null),
    adapters: options.strings("adapters", []),
    force: options.boolean("force", false),
    gptq: {
      damp: options.number("damp", { min: 0, aboveMin: true, max: 1 }, 0.01),
      block: options.integer("block", { min: 1 }, 128),
      order: options.oneOf("order", Object.keys(blockOrders) as (keyof typeof blockOrders)[], "group-aware"),
    },
  }
  checkTogether(recipe)
  return recipe
}

function checkTogether({ rounding, imatrix, saveImatrix, calibration, samples, sequenceLength }: GgufRecipe): void {
  const refuse = (text: string): never => {
    throw new TsqError("ERR_OPTION", `quantizeModel: ${text}`)
  }
  const option = describe
  if (rounding === "nearest" && imatrix !== null)
    refuse(`rounding "nearest" takes no importance matrix; leave out rounding or ${option("imatrix")}`)
  if (rounding === "nearest" && calibration !== null && saveImatrix === null)
    refuse(`rounding "nearest" does not look at activations; leave out rounding or ${option("calibration")}`)
  if (rounding === "mse" && imatrix === null && calibration === null)
    refuse(`rounding "mse" weighs errors for GGUF files: give ${option("imatrix")} or ${option("calibration")}`)
  if (rounding === "gptq" && calibration === null)
    refuse('rounding "gptq" needs calibration (text or token ids of the kind the model will see)')
  if (imatrix !== null && calibration !== null && rounding !== "gptq")
    refuse(`${option("imatrix")} and ${option("calibration")} both say how errors are weighed; give one of them`)
  if (saveImatrix !== null && (calibration === null || imatrix !== null))
    refuse(
      `${option("saveImatrix")} writes the matrix that ${option("calibration")} gives: give that, and no ${option("imatrix")}`,
    )
  if (calibration === null && (samples !== null || sequenceLength !== null))
    refuse(
      `${option(samples !== null ? "samples" : "sequenceLength")} says how ${option("calibration")} is cut: give that, too`,
    )
}

/** Options of quantizeModel that would do nothing here. */
function refuseOthers(values: GgufOptions): void {
  const others = ["scheme", "groupSize", "symmetric", "transforms", "format", "ignore", "overrides"]
  const more = ["expertFloor", "device", "maxMemory", "strict", "resume"]
  const given = { ...(values as unknown as Record<string, unknown>) }
  if (given.device === "cpu") delete given.device
  if (given.kvCache !== undefined)
    throw new TsqError(
      "ERR_OPTION",
      "quantizeModel: kvCache is for checkpoint folders: GGUF files hold no scales of keys and values; leave it out, and choose the cache where the model runs (loadModel's kvCache, generate --kv-cache)",
    )
  for (const name of [...others, ...more])
    if (given[name] !== undefined)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `quantizeModel: option ${describe(name)} is not available for GGUF files in this version: types follow from the preset; leave it out`,
      )
}
