// Quality of a model on a text: perplexity, and the divergence from another model (the one it was quantized from).
import { TsqError } from "../core/errors.ts"
import { describe, Options } from "../core/options.ts"
import type { LongWork } from "../core/progress.ts"
import { type LoadOptions, loadModel } from "../engine/load-model.ts"
import { Model } from "../engine/model.ts"
import {
  batches,
  moments,
  type PerplexityOptions,
  type PerplexityResult,
  perplexityOptionNames,
  planText,
  summarizeLikelihood,
} from "../engine/perplexity.ts"
import { divergenceColumns, WindowScorer } from "../engine/window-scorer.ts"
import type { WindowPlan } from "../engine/windows.ts"
import { type Activations, readActivations } from "../kernels/packed-weight.ts"
import { type Divergence, summarizeDivergence } from "./divergence.ts"
import { checkSameLayers, type LayerError, layerErrors } from "./layer-error.ts"

export interface EvaluateOptions extends PerplexityOptions, LongWork {
  /** What to score: a text, or its token ids (as the protocol wants them: with BOS in front for gptq, without for whole). */
  text?: string
  ids?: ArrayLike<number>
  /** A model of the same vocabulary to compare with: its directory, or the loaded model. */
  against?: string | Model
  /** With `against`: the error of the residual stream after every block as well. Takes as long again. */
  layers?: boolean
  /** For models given by their directory. A reference given so runs as it is stored, with exact activations, an f32 cache and without adapters, whatever is asked for here. */
  load?: LoadOptions
}

export interface Evaluation extends PerplexityResult {
  /** Directory of the model. */
  model: string
  bitsPerWeight: number
  against?: { model: string; perplexity: number } & Divergence & { layers?: LayerError[] }
}

/** Scores a text. Models given by directory are loaded and disposed here. ERR_OPTION for a text shorter than one window. */
export async function evaluateModel(model: string | Model, values: EvaluateOptions): Promise<Evaluation> {
  const options = new Options("evaluateModel", values, [
    ...perplexityOptionNames,
    "text",
    "ids",
    "against",
    "layers",
    "load",
  ])
  if (options.boolean("layers", false) && !options.has("against"))
    options.fail(
      "layers",
      'false where no other model is given as option "against": errors by layer are differences from it',
    )
  const text = input(options)
  const opened: Model[] = []
  const open = async (given: unknown, what: string, exact = false): Promise<Model> => {
    if (given instanceof Model) return given
    if (typeof given !== "string")
      throw new TsqError(
        "ERR_OPTION",
        `evaluateModel: ${what} is ${describe(given)}, expected a directory or a loaded model`,
      )
    const signal = options.signal()
    const { quantize, ...load }: LoadOptions = values.load ?? {}
    const loaded = await loadModel(given, {
      ...load,
      ...(!exact && quantize !== undefined && { quantize }),
      ...(exact && { activations: "exact" as const, kvCache: "f32" as const, adapters: {} }),
      ...(signal && { signal }),
    })
    opened.push(loaded)
    return loaded
  }
  try {
    const candidate = await open(model, "the model")
    if (!options.has("against")) {
      const chosen = perplexityOptionNames.filter(name => options.has(name)).map(name => [name, options.raw(name)])
      const result = await candidate.perplexity(text, Object.fromEntries(chosen))
      return { model: candidate.path, ...result, bitsPerWeight: candidate.bitsPerWeight }
    }
    return await compare(candidate, await open(options.raw("against"), 'option "against"', true), text, options)
  } finally {
    for (const loaded of opened) loaded.dispose()
  }
}

function input(options: Options): string | ArrayLike<number> {
  const text = options.raw("text")
  const ids = options.raw("ids")
  if ((text === undefined) === (ids === undefined))
    throw new TsqError("ERR_OPTION", 'evaluateModel: give what to score as one of the options "text" and "ids"')
  if (text !== undefined && typeof text !== "string") options.fail("text", "a string")
  return (text ?? ids) as string | ArrayLike<number>
}

async function compare(
  candidate: Model,
  reference: Model,
  text: string | ArrayLike<number>,
  options: Options,
): Promise<Evaluation> {
  const vocabularies = [candidate, reference].map(model => model.config.vocabularySize)
  if (vocabularies[0] !== vocabularies[1])
    throw new TsqError(
      "ERR_SHAPE",
      `evaluateModel: ${candidate.path} has a vocabulary of ${vocabularies[0]}, ${reference.path} one of ${vocabularies[1]}; only models of one vocabulary can be compared`,
    )
  const byLayer = options.boolean("layers", false)
  if (byLayer) checkSameLayers(candidate, reference)
  const plan = await planText(candidate, text, options)
  if (plan.window > reference.maxContext)
    throw new TsqError(
      "ERR_OPTION",
      `evaluateModel: window is ${plan.window}, expected at most ${reference.maxContext}, the context of ${reference.path}`,
    )
  const activations = readActivations(options, candidate.activations)
  const scores = await scoreAgainst(candidate, reference, activations, plan, options)
  const [signal, onProgress] = [options.signal(), options.onProgress()]
  const layers =
    byLayer &&
    (await layerErrors(candidate, reference, plan, {
      activations,
      adapter: candidate.adapterOf(options),
      ...(signal && { signal }),
      ...(onProgress && { onProgress }),
    }))
  const nll = moments(scores, divergenceColumns, 1)
  const referenceNll = moments(scores, divergenceColumns, 2)
  return {
    model: candidate.path,
    ...(await summarizeLikelihood(candidate, plan, nll, signal)),
    activations,
    bitsPerWeight: candidate.bitsPerWeight,
    against: {
      model: reference.path,
      perplexity: Math.exp(referenceNll.mean),
      ...summarizeDivergence(scores),
      ...(layers && { layers }),
    },
  }
}

async function scoreAgainst(
  candidate: Model,
  reference: Model,
  activations: Activations,
  plan: WindowPlan,
  options: Options,
): Promise<Float64Array[]> {
  const signal = options.signal()
  const scorer = new WindowScorer(candidate, plan.window, activations, candidate.adapterOf(options))
  try {
    const referenceScorer = new WindowScorer(reference, plan.window)
    try {
      const scores: Float64Array[] = []
      for await (const windows of batches(plan, scorer.batch, signal, options.onProgress()))
        scores.push(await scorer.divergence(windows, plan.first, referenceScorer, signal))
      return scores
    } finally {
      referenceScorer.dispose()
    }
  } finally {
    scorer.dispose()
  }
}
