// quantize(): one weight, from floats to a QuantizedTensor.
import { type CudaDeviceId, type Device, openDevice, readDevice } from "../core/cuda.ts"
import { isFloat } from "../core/dtype.ts"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { describe, Options } from "../core/options.ts"
import { type LongWork, type ProgressStep, progressReporter } from "../core/progress.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { IntegerScheme, Scheme } from "../core/scheme.ts"
import { Tensor } from "../core/tensor.ts"
import { denseShape } from "../kernels/packed-weight.ts"
import { Accumulator } from "../models/accumulator.ts"
import { HessianSum } from "../models/hessian-sum.ts"
import type { Handle } from "../native.ts"
import { nearest } from "../rounding/nearest.ts"
import { readRoundingOptions, roundingOptionNames } from "../rounding/options.ts"
import { roundingByName, roundingNames } from "../rounding/registry.ts"
import type { InputStatistics, Rounding, RoundingInput, RoundingOptions, RoundingReport } from "../rounding/rounding.ts"
import { defaultAlpha } from "../transforms/smooth.ts"
import { roundWithAwq } from "./awq-tensor.ts"
import { checkFinite } from "./finite.ts"
import { type GroupSize, parseScheme, resolveScheme, type SchemeName } from "./scheme.ts"
import { roundWithSmooth } from "./smooth-tensor.ts"

export interface QuantizeOptions extends LongWork, RoundingOptions {
  scheme: SchemeName
  /** How codes are chosen. Default "nearest". "gptq", "auto-round", "lsq" and "qronos" need calibration; "mse" weighs by it where it is given. */
  rounding?: Rounding["name"]
  /** "awq": per-channel scales and clipped ranges searched on the output error. "smooth": SmoothQuant's scales by the ranges of inputs
   * and columns. Both need calibration and leave an inputScale. */
  transform?: "awq" | "smooth"
  /** smooth: the share of the inputs' range that moves into the weight, 0 to 1. Default 0.8. */
  alpha?: number
  /** Columns of a group along k (default 128, or all of k where k is smaller), or one scale a row, or one in all. */
  groupSize?: GroupSize
  /** Default true: the zero point is 2^(bits-1). */
  symmetric?: boolean
  /** Inputs of the layer, [rows, k] (or [..., k]), f32, f16 or bf16. */
  calibration?: Tensor
  /** "cuda", "cuda:1", …: where calibration and rounding compute. Default "cpu". The result's codes lie on the CPU in any case. */
  device?: Device
  /** Encoding that scales are rounded to. Default: the weight's own type. */
  scaleType?: IntegerScheme["scaleType"]
  /** Taken for symmetry with quantizeModel. Nothing here is random: the same input gives the same bytes. */
  seed?: number
}

const optionNames = [
  "scheme",
  "rounding",
  "transform",
  "alpha",
  "groupSize",
  "symmetric",
  "calibration",
  "device",
  "scaleType",
  "seed",
  ...roundingOptionNames,
  "signal",
  "onProgress",
]

/** Calibration rows added to the second moments at a time; an abort is noticed in between. */
const chunkRows = 1024

/**
 * Quantizes a weight [n, k] = [outFeatures, inFeatures] of f32, f16 or bf16, off the event loop. With rounding "gptq" or transform
 * "awq" the result is never worse than nearest codes by the layer error on the calibration rows.
 * Throws ERR_OPTION (options, group size against k, calibration missing), ERR_SHAPE and ERR_DTYPE (weight, calibration),
 * ERR_NUMERIC (NaN or Inf, with its position), ERR_UNSUPPORTED (schemes not built yet), ERR_DEVICE (a device that is not there or has
 * too little memory), ERR_ABORTED.
 */
export async function quantize(weight: Tensor, options: QuantizeOptions): Promise<QuantizedTensor> {
  const request = readRequest(weight, options)
  const { signal, scheme, rounding, n, k } = request
  const report = progressReporter(request.onProgress)
  throwIfAborted(signal)
  const device = request.device === "cpu" ? null : await openDevice("quantize", request.device)
  const floats = await finiteFloats(
    weight,
    "quantize: weight",
    "the checkpoint is damaged or training diverged; quantize a sound copy",
  )
  throwIfAborted(signal)
  const collected = request.calibration && (await collect(request.calibration, request, device, report))
  try {
    const input: RoundingInput = {
      name: "quantize",
      weight: floats,
      n,
      k,
      scheme,
      statistics: collected?.statistics,
      minZero: 0,
      options: request.roundingOptions,
      device,
      signal,
    }
    report({ stage: "quantize", done: 0, total: 1 })
    const result = await rounded(input, request, collected?.floats ?? null, report)
    const careful = request.transform !== "smooth" && (rounding.calibration === "required" || request.transform)
    const best = collected && careful ? await notWorseThanNearest(input, result) : result
    report(finished(best.report))
    return best.tensor
  } finally {
    collected?.hessian.dispose()
  }
}

interface Request extends LongWork {
  scheme: Scheme
  rounding: Rounding
  transform: QuantizeOptions["transform"]
  alpha: number
  calibration: Tensor | undefined
  device: "cpu" | CudaDeviceId
  roundingOptions: RoundingOptions
  n: number
  k: number
}

/** Every check that needs no reading of elements, in one place, before any work. */
function readRequest(weight: Tensor, values: QuantizeOptions): Request {
  if (!(weight instanceof Tensor))
    throw new TsqError("ERR_DTYPE", `quantize: weight is ${describe(weight)}, expected a Tensor`)
  const [n, k] = denseShape(weight, "quantize")
  const options = new Options("quantize", values, optionNames)
  const scaleType = options.oneOf("scaleType", ["f32", "f16", "bf16"], weight.dtype as IntegerScheme["scaleType"])
  const scheme = resolveScheme(parseScheme(options), k, scaleType, "quantize")
  const rounding = roundingByName(options.oneOf("rounding", roundingNames, "nearest"))
  const transform = readTransform(options)
  const calibration = options.instance("calibration", Tensor, undefined)
  if (!calibration && (rounding.calibration === "required" || transform))
    throw new TsqError(
      "ERR_OPTION",
      `quantize: ${transform ? `transform "${transform}"` : `rounding "${rounding.name}"`} needs option "calibration", ` +
        `a Tensor [rows, ${k}] of the layer's inputs`,
    )
  if (calibration) checkCalibration(calibration, k)
  options.integer("seed", { min: 0 }, 0)
  return {
    scheme,
    rounding,
    transform,
    alpha: readAlpha(options, transform),
    calibration,
    device: readDevice("quantize", options.raw("device") ?? "cpu"),
    roundingOptions: readRoundingOptions(options, rounding.name),
    n,
    k,
    signal: options.signal(),
    onProgress: options.onProgress(),
  }
}

/** A scale of the inputs' columns fits every layer; a rotation of them would have to be folded into what comes before. */
function readTransform(options: Options): Request["transform"] {
  if (options.raw("transform") === "hadamard")
    throw new TsqError(
      "ERR_UNSUPPORTED",
      'quantize: transform "hadamard" rotates the residual stream of a whole model: use quantizeModel; for one weight there are "awq" and "smooth"',
    )
  return options.oneOf("transform", ["awq", "smooth"], undefined)
}

function readAlpha(options: Options, transform: Request["transform"]): number {
  if (options.has("alpha") && transform !== "smooth") options.fail("alpha", 'no value without transform "smooth"')
  return options.number("alpha", { min: 0, max: 1 }, defaultAlpha)
}

async function rounded(
  input: RoundingInput,
  { rounding, transform, alpha }: Request,
  calibration: Float32Array | null,
  report: (step: ProgressStep) => void,
): Promise<{ tensor: QuantizedTensor; report: RoundingReport }> {
  if (!transform || !calibration) return rounding.round(input)
  return transform === "awq"
    ? roundWithAwq(input, rounding, calibration, report)
    : roundWithSmooth(input, rounding, calibration, alpha)
}

function checkCalibration(calibration: Tensor, k: number): void {
  if (!isFloat(calibration.dtype))
    throw new TsqError("ERR_DTYPE", `quantize: option "calibration" is ${calibration.dtype}, expected f32, f16 or bf16`)
  const shape = `[${calibration.shape.join(", ")}]`
  if (calibration.shape.length < 2 || calibration.shape.at(-1) !== k)
    throw new TsqError(
      "ERR_SHAPE",
      `quantize: option "calibration" has shape ${shape}, expected [rows, ${k}] for a weight of k = ${k}`,
    )
  if (calibration.size === 0)
    throw new TsqError("ERR_SHAPE", `quantize: option "calibration" has shape ${shape}, expected at least one row`)
}

/** The tensor on shared memory, or as it is mapped. ERR_NUMERIC for NaN and Inf. */
async function finite(tensor: Tensor, what: string, advice: string): Promise<Tensor> {
  const kept = tensor.device === "mapped" ? tensor : await tensor.pinned()
  await checkFinite(kept, what, advice)
  return kept
}

/** f32 on shared memory: the tensor's own array where it is that already. ERR_NUMERIC for NaN and Inf. */
async function finiteFloats(tensor: Tensor, what: string, advice: string): Promise<Float32Array> {
  const kept = await finite(tensor, what, advice)
  const floats = tensor.dtype === "f32" ? await kept.pinned() : await kept.cast("f32")
  return floats.data as Float32Array
}

interface Collected {
  hessian: Accumulator
  statistics: InputStatistics
  /** [rows, k] on shared memory, where a transform needs them. */
  floats: Float32Array | null
}

/** Second moments of the calibration rows. A device takes rows of 16 bits as they are. */
async function collect(
  calibration: Tensor,
  { k, signal, transform }: Request,
  device: Handle | null,
  report: (step: ProgressStep) => void,
): Promise<Collected> {
  const advice = ['quantize: option "calibration"', "leave those rows out"] as const
  const asTheyAre = device !== null && transform === undefined && calibration.device === "cpu"
  const dtype = asTheyAre ? (calibration.dtype as "f32" | "f16" | "bf16") : "f32"
  const data = asTheyAre
    ? ((await finite(calibration, ...advice)).data as Float32Array | Uint16Array)
    : await finiteFloats(calibration, ...advice)
  const rows = data.length / k
  const hessian = new Accumulator("hessian", k)
  let sum: HessianSum | null = null
  try {
    sum = await HessianSum.start(hessian, device)
    for (let begin = 0; begin < rows; begin += chunkRows) {
      throwIfAborted(signal)
      report({ stage: "calibrate", done: begin, total: rows })
      const count = Math.min(chunkRows, rows - begin)
      await sum.add(data.subarray(begin * k, (begin + count) * k), count, dtype)
    }
    await sum.finish()
    const floats = dtype === "f32" ? (data as Float32Array) : null
    return { hessian, floats, statistics: { hessian: hessian.handle, meanSquare: hessian.meanSquare(), rows } }
  } catch (error) {
    hessian.dispose()
    throw error
  } finally {
    sum?.dispose()
  }
}

/** GPTQ is greedy, searches look at part of the error, and on few or lucky rows plain nearest codes may win: then they are the result. */
async function notWorseThanNearest(
  input: RoundingInput,
  result: { tensor: QuantizedTensor; report: RoundingReport },
): Promise<{ tensor: QuantizedTensor; report: RoundingReport }> {
  const plain = await nearest.round(input)
  if (!(plain.report.error < result.report.error)) return result
  return { tensor: plain.tensor, report: { ...result.report, error: plain.report.error, keptNearest: true } }
}

function finished({ error, damp, keptNearest, note }: RoundingReport): ProgressStep {
  const details = [keptNearest ? "nearest codes kept: they were better" : undefined, note].filter(Boolean)
  return {
    stage: "quantize",
    done: 1,
    total: 1,
    loss: error,
    ...(damp === undefined ? {} : { damp }),
    ...(details.length > 0 ? { detail: details.join("; ") } : {}),
  }
}
