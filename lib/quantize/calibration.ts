// Calibration tokens: a text or token ids packed into windows of one length.
import { TsqError } from "../core/errors.ts"
import { describe } from "../core/options.ts"
import type { ModelConfig } from "../models/program.ts"
import { loadTokenizer, type Tokenizer } from "../models/tokenizer.ts"
import type { QuantizeModelOptions, Recipe } from "./recipe.ts"

export interface CalibrationSet {
  /** Windows of equal length. */
  windows: readonly Int32Array[]
  sequenceLength: number
  /** More windows of the same source, spread evenly, that are not among those; empty where it holds no more. */
  heldOut?: readonly Int32Array[]
  /** Windows asked for; null: as many as the default takes. */
  asked: number | null
  /** Tokens of the source, before packing. */
  tokens: number
}

const defaultSamples = 128
const defaultLength = 512
/** Below this many tokens second moments of a layer are mostly noise. */
const fewTokens = 4096
/** Tokens that choices are judged on: few enough to run every candidate on. */
const heldOutTokens = 4096

/** A text or token ids as windows for the model in folder `source`, whose tokenizer a text needs. */
export async function readCalibration(
  source: string,
  calibration: NonNullable<QuantizeModelOptions["calibration"]>,
  recipe: CalibrationSizes,
  config: ModelConfig,
  force: boolean,
): Promise<CalibrationSet> {
  if (typeof calibration !== "string" && !Array.isArray(calibration) && !(calibration instanceof Int32Array))
    throw new TsqError("ERR_OPTION", "quantizeModel: calibration is neither a text nor an array of token ids")
  const tokenizer = typeof calibration === "string" ? await loadTokenizer(source) : null
  return makeCalibration(calibration, recipe, config, tokenizer, force)
}

/** What a recipe says about windows; null: as many and as long as by default. */
export type CalibrationSizes = Pick<Recipe, "samples" | "sequenceLength">

/**
 * Packs calibration into windows: BOS (where the model has one) and sequenceLength - 1 consecutive tokens each, spread
 * evenly over the source where it holds more windows than are taken. Too little is refused unless `force`.
 */
export async function makeCalibration(
  calibration: NonNullable<QuantizeModelOptions["calibration"]>,
  recipe: CalibrationSizes,
  config: ModelConfig,
  /** For a text. */
  tokenizer: Tokenizer | null,
  force: boolean,
): Promise<CalibrationSet> {
  const ids = typeof calibration === "string" ? await encode(calibration, tokenizer!) : calibration
  // By index: forEach would pass over the holes of a sparse array.
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!
    if (!Number.isInteger(id) || id < 0 || id >= config.vocabularySize)
      throw new TsqError(
        "ERR_OPTION",
        `calibration: token ${i} is ${describe(id)}, expected ids from 0 to ${config.vocabularySize - 1}`,
      )
  }
  const sequenceLength = recipe.sequenceLength ?? Math.min(defaultLength, config.maxContext)
  if (sequenceLength > config.maxContext)
    throw new TsqError(
      "ERR_OPTION",
      `sequenceLength is ${sequenceLength}, longer than the model's context of ${config.maxContext}`,
    )
  const bos = config.bosTokenIds[0]
  const body = bos === undefined ? sequenceLength : sequenceLength - 1
  const available = Math.floor(ids.length / body)
  const wanted = recipe.samples ?? defaultSamples
  const count = Math.min(wanted, available)
  const least = Math.min(fewTokens, config.hiddenSize * 4)
  const short = recipe.samples === null ? count * sequenceLength < least : count < wanted
  if (count === 0 || (short && !force))
    throw new TsqError(
      "ERR_OPTION",
      `calibration: ${ids.length} tokens give ${available} windows of ${sequenceLength}, ${recipe.samples === null ? `expected at least ${least} tokens` : `asked for ${wanted}`}; ` +
        `give more text, ask for fewer or shorter samples${count > 0 ? ", or use force to go on with what there is" : ""}`,
    )
  const windowAt = (place: number): Int32Array => {
    const window = new Int32Array(new SharedArrayBuffer(4 * sequenceLength))
    window.set(ids.slice(place * body, (place + 1) * body), sequenceLength - body)
    if (bos !== undefined) window[0] = bos
    return window
  }
  const places = spread(count, available)
  const taken = new Set(places)
  const left = Array.from({ length: available }, (_, place) => place).filter(place => !taken.has(place))
  const heldOut = Math.min(left.length, Math.ceil(heldOutTokens / sequenceLength))
  return {
    windows: places.map(windowAt),
    heldOut: spread(heldOut, left.length).map(i => windowAt(left[i]!)),
    sequenceLength,
    asked: recipe.samples,
    tokens: ids.length,
  }
}

/** `count` whole numbers below `total`, evenly apart. */
const spread = (count: number, total: number): number[] =>
  Array.from({ length: count }, (_, i) => Math.floor((i * total) / count))

async function encode(text: string, tokenizer: Tokenizer): Promise<number[]> {
  if (text.trim() === "") throw new TsqError("ERR_OPTION", "calibration: the text is empty")
  if (text.includes("\0") || text.includes("\uFFFD"))
    throw new TsqError(
      "ERR_OPTION",
      "calibration: this is not text (it holds NUL bytes or is not valid UTF-8); give plain UTF-8 text",
    )
  return tokenizer.encodeAsync(text, { addSpecial: false })
}
