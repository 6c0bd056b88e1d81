// quantizeModel: a Hugging Face checkpoint in, a quantized one out, block by block.
import { OutputDirectory } from "../containers/output.ts"
import { openDevice } from "../core/cuda.ts"
import { throwIfAborted } from "../core/errors.ts"
import { type ProgressStep, progressReporter } from "../core/progress.ts"
import { packageVersion } from "../core/version.ts"
import { CheckpointSource } from "../engine/checkpoint-source.ts"
import { isGgufPreset } from "../formats/gguf-mixes.ts"
import { formatByName } from "../formats/registry.ts"
import type { WeightSource } from "../models/runner.ts"
import type { Handle } from "../native.ts"
import { ContestRun } from "./best/contest.ts"
import { quantizeBlock } from "./block-quantizer.ts"
import { BlockStore, fingerprint, type StoredBlock } from "./block-store.ts"
import { CalibrationRun } from "./calibration-run.ts"
import { quantizeEnds } from "./ends.ts"
import { finalNorm, refitFinalNorm } from "./final-norm.ts"
import { QuantizationJob, refuseBadWeights } from "./job.ts"
import { kvScaleTensors, verifyKvScales } from "./kv-scales.ts"
import { type StoredBlocks, storedDivergence } from "./mixed/measured.ts"
import { type MixReport, MixSearch } from "./mixed/search.ts"
import { SearchFile } from "./mixed/search-file.ts"
import { type Plan, scaleTypeOf } from "./plan.ts"
import { type GgufOptions, type GgufReport, quantizeToGguf } from "./quantize-gguf.ts"
import { type QuantizeModelOptions, type Recipe, usesGroupIndex } from "./recipe.ts"
import { makeReport, type QuantizationReport } from "./report.ts"
import { RunLock } from "./run-lock.ts"
import { resultSource, storedSource } from "./stored-source.ts"
import { asStored, transposedModules } from "./transposed.ts"
import { smokeTest, spreadTokens, verifyModules } from "./verify.ts"
import { type CheckpointContents, foreseenTensors, fromCheckpoint, writeCheckpoint } from "./write-checkpoint.ts"

export type { Plan } from "./plan.ts"
export type { GgufOptions, GgufReport } from "./quantize-gguf.ts"
export type { QuantizeModelOptions } from "./recipe.ts"
export type { QuantizationReport } from "./report.ts"

type Report = (step: ProgressStep) => void

export interface PlannedQuantization {
  recipe: Recipe
  plan: Plan
  calibration: { windows: number; asked: number | null; sequenceLength: number } | null
}

/** What quantizeModel would do, without doing it: every check of options, architecture and calibration, sizes and estimates. */
export async function planQuantization(
  source: string,
  options: QuantizeModelOptions = {},
): Promise<PlannedQuantization> {
  const job = await QuantizationJob.prepare(source, options)
  try {
    const { recipe, plan, calibration } = job
    const windows = calibration && {
      windows: calibration.windows.length,
      asked: calibration.asked,
      sequenceLength: calibration.sequenceLength,
    }
    return { recipe, plan, calibration: windows }
  } finally {
    await job.dispose()
  }
}

/**
 * Quantizes the checkpoint in folder `source` into folder `out`, or, with a GGUF mixture as preset, into the .gguf file `out`
 * (quantize-gguf.ts), which appears when it is complete. Weights stream block by
 * block; with calibration each block is calibrated on the outputs of the quantized ones before it. Finished blocks are kept in
 * `<out>.tsq-resume` until the end, so that `resume: true` continues an interrupted run. Same inputs, seed and instruction set:
 * same bytes, for any number of threads.
 *
 * Throws ERR_OPTION (options, too little calibration, existing output), ERR_UNSUPPORTED (architecture, format, a source that is
 * quantized already), ERR_NUMERIC (NaN or Inf in the weights or in the result), ERR_MEMORY (maxMemory), ERR_DEVICE, ERR_IO, ERR_CORRUPT, ERR_ABORTED.
 */
export async function quantizeModel(source: string, out: string, options: GgufOptions): Promise<GgufReport>
export async function quantizeModel(
  source: string,
  out: string,
  options?: QuantizeModelOptions,
): Promise<QuantizationReport>
export async function quantizeModel(
  source: string,
  out: string,
  options: QuantizeModelOptions | GgufOptions = {},
): Promise<QuantizationReport | GgufReport> {
  if (isGgufPreset(options?.preset) || (typeof out === "string" && out.endsWith(".gguf")))
    return quantizeToGguf(source, out, options as GgufOptions)
  return quantizeToFolder(source, out, options as QuantizeModelOptions)
}

async function quantizeToFolder(
  source: string,
  out: string,
  options: QuantizeModelOptions,
): Promise<QuantizationReport> {
  const job = await QuantizationJob.prepare(source, options)
  const report = progressReporter(options.onProgress)
  try {
    for (const warning of job.plan.warnings) options.onWarning?.(warning)
    const output = await OutputDirectory.create(out, { source, force: options.force ?? false })
    let lock: RunLock | null = null
    try {
      lock = await RunLock.acquire(output.target)
      await job.adapters.merge(output.target, options.signal, (done, total, tensor) =>
        report({ stage: "merge", done, total, tensor }),
      )
      await refuseBadWeights(job, options.signal, (done, total) => report({ stage: "check", done, total }))
      const { device: id } = job.recipe
      const device = id === "cpu" ? null : await openDevice("quantizeModel", id)
      if (job.recipe.mix) return await quantizeMixture(job, output, device, options, report)
      const print = await fingerprint(job.checkpoint, job.recipe, job.calibration, packageVersion, options.signal)
      // After the fingerprint: what is computed follows from the recipe.
      job.rotate()
      const store = await BlockStore.open(output.target, print, options.resume ?? false)
      await quantizeBlocks(job, store, device, options, report)
      const result = await writeOutput(job, store, output, options, report)
      await output.commit()
      await store.remove()
      return result
    } catch (error) {
      await output.discard()
      throw error
    } finally {
      await lock?.release()
    }
  } finally {
    await job.dispose()
  }
}

/** Searches schemes for the modules and quantizes with them, more than once where the target is a divergence that the first does not meet. */
async function quantizeMixture(
  job: QuantizationJob,
  output: OutputDirectory,
  device: Handle | null,
  options: QuantizeModelOptions,
  report: Report,
): Promise<QuantizationReport> {
  const { signal, resume = false } = options
  const print = ({ checkpoint, calibration }: QuantizationJob, recipe: Recipe) =>
    fingerprint(checkpoint, recipe, calibration, packageVersion, signal)
  const { mix, ...plain } = job.recipe
  const { target, ...asked } = mix!
  // Damages do not depend on the target.
  const measured = await print(job, { ...plain, mix: asked } as Recipe)
  // After the fingerprint: what is computed follows from the recipe.
  job.rotate()
  const file = await SearchFile.open(output.target, measured, target, resume)
  const search = await MixSearch.start({
    ...{ job, device, file, signal, minZero: minZeroOf(job.recipe) },
    onGroup: (done, total) => report({ stage: "measure", done, total }),
  })
  for (;;) {
    const mixed = job.withOverrides(search.choose(), options)
    const own = await print(mixed, mixed.recipe)
    const store = await BlockStore.open(output.target, own, resume && file.blocks === own)
    await file.save({ blocks: own })
    await quantizeBlocks(mixed, store, device, options, report)
    const stored = await readBlocks(mixed, store)
    try {
      if (!(await search.accept(await storedDivergence(mixed, stored, signal)))) continue
    } finally {
      for (const block of stored.all) block.dispose()
    }
    for (const warning of mixed.plan.warnings) if (!job.plan.warnings.includes(warning)) options.onWarning?.(warning)
    const result = await writeOutput(mixed, store, output, options, report, search.report())
    await output.commit()
    await store.remove()
    await file.remove()
    return result
  }
}

const blockName = (layer: number) => `block-${String(layer).padStart(5, "0")}`
const endsName = "ends"

/** Quantizes what the store does not hold yet. */
async function quantizeBlocks(
  job: QuantizationJob,
  store: BlockStore,
  device: Handle | null,
  options: QuantizeModelOptions,
  report: Report,
): Promise<void> {
  const { checkpoint, program, recipe, plan, calibration } = job
  const { signal } = options
  const dense = new CheckpointSource(checkpoint, options.onWarning ?? (() => {}))
  const stored = await Promise.all(program.blocks.map((_, layer) => store.has(blockName(layer))))
  const refits = calibration !== null && recipe.errorCorrection && finalNorm(program) !== null
  const ends =
    (refits || plan.modules.some(entry => entry.layer === null && entry.scheme)) && !(await store.has(endsName))
  const left = ends ? program.blocks.length : stored.lastIndexOf(false)
  const run =
    calibration && left >= 0
      ? await CalibrationRun.start(program, dense, calibration, signal, device, dense, recipe.errorCorrection)
      : null
  let contest: ContestRun | null = null
  const minZero = minZeroOf(recipe)
  const total = plan.modules.filter(entry => entry.scheme).length
  let done = 0
  try {
    if (run && recipe.contest) contest = await ContestRun.start(program, recipe.contest, dense, calibration!, signal)
    for (let layer = 0; layer < program.blocks.length; layer++) {
      throwIfAborted(signal)
      const modules = plan.modules.filter(entry => entry.layer === layer)
      const detail = `block ${layer + 1}/${program.blocks.length}`
      if (stored[layer]) {
        if (run && layer < left) {
          const block = await store.read(blockName(layer))
          try {
            await follow(run, layer, storedSource(block, dense), contest, true, signal)
          } finally {
            block.dispose()
          }
        }
        done += modules.filter(entry => entry.scheme).length
        report({ stage: "resume", done, total, detail })
        continue
      }
      const input = { checkpoint, program, layer, modules, recipe, minZero, run, device, signal }
      if (run && contest) {
        const block = await contest.choose(input, name =>
          report({ stage: "quantize", done, total, detail: `${detail}: ${name}` }),
        )
        const residualPeak = await follow(run, layer, resultSource(block, dense), contest, false, signal)
        await store.write(blockName(layer), { ...block, residualPeak })
        done += block.tensors.size
        continue
      }
      const block = await quantizeBlock({
        ...input,
        onTensor: (tensor, { error, damp }) => {
          done++
          report({ stage: "quantize", done, total, detail, tensor, loss: error, ...(damp !== undefined && { damp }) })
        },
      })
      await store.write(blockName(layer), block)
    }
    if (!ends) return
    const changed = refits ? await refitFinalNorm(program, checkpoint, run!, signal) : new Map<string, Float32Array>()
    const nothing = { tensors: new Map(), reports: new Map(), transforms: [], residualPeak: null }
    const result = await quantizeEnds({
      job,
      minZero,
      run,
      source: resultSource({ ...nothing, changed }, dense),
      device,
      signal,
      onTensor: (tensor, { error }) => report({ stage: "quantize", done: ++done, total, tensor, loss: error }),
    })
    await store.write(endsName, { ...nothing, ...result, changed })
  } finally {
    contest?.dispose()
    run?.dispose()
  }
}

/** v1 files store zero points minus one and so cannot hold 0 (formats.md of the GPTQ layout; lib/formats/gptq.ts). */
const minZeroOf = ({ format, gptqVersion, symmetric }: Recipe): number =>
  format === "gptq" && gptqVersion === "v1" && !symmetric ? 1 : 0

/** Every finished block, and what there is of embedding and head. */
async function readBlocks(job: QuantizationJob, store: BlockStore): Promise<StoredBlocks> {
  const all: StoredBlock[] = []
  const open = async (name: string) => {
    const block = await store.read(name)
    all.push(block)
    return block
  }
  try {
    const blocks: StoredBlock[] = []
    for (const layer of job.program.blocks.keys()) blocks.push(await open(blockName(layer)))
    return { blocks, ends: (await store.has(endsName)) ? await open(endsName) : null, all }
  } catch (error) {
    for (const block of all) block.dispose()
    throw error
  }
}

/**
 * Sends the calibration set, and what candidates are judged on, through a finished block; the largest magnitude in the residual stream behind
 * it. alone: that the contest has not seen yet.
 */
async function follow(
  run: CalibrationRun,
  layer: number,
  source: WeightSource,
  contest: ContestRun | null,
  alone: boolean,
  signal: AbortSignal | undefined,
): Promise<number> {
  const bound = await run.bind(layer, source)
  try {
    const peak = await run.advanceMeasured(bound, signal)
    await run.advanceOriginal(layer, signal)
    await contest?.advance(layer, source, alone, signal)
    return peak
  } finally {
    bound.dispose()
  }
}

/** Writes the checkpoint from the store, reads it back and runs it. */
async function writeOutput(
  job: QuantizationJob,
  store: BlockStore,
  output: OutputDirectory,
  options: QuantizeModelOptions,
  report: Report,
  mix?: MixReport,
): Promise<QuantizationReport> {
  const { checkpoint, program, recipe, plan, calibration } = job
  const { signal } = options
  const { all: blocks } = await readBlocks(job, store)
  try {
    const blockOf = new Map(blocks.flatMap(block => block.modules.map(module => [module, block] as const)))
    const changedIn = new Map(blocks.flatMap(block => block.changed.map(name => [name, block] as const)))
    const transposed = transposedModules(program)
    const changed = async (name: string): Promise<Float32Array | null> => {
      const values = await changedIn.get(name)?.dense(name)
      return values ? asStored(name, values, transposed) : null
    }
    const tensor = (module: string) => blockOf.get(module)!.tensor(module)
    const result: QuantizationReport = { ...makeReport(job, blocks), ...(mix && { mix }) }
    for (const warning of result.warnings.slice(plan.warnings.length)) options.onWarning?.(warning)
    const damps = result.tensors.map(entry => entry.damp).filter(damp => damp !== undefined)
    const { kvScales } = result
    const cached = kvScales && kvScaleTensors(program, recipe.format, kvScales)
    const contents: CheckpointContents = {
      source: fromCheckpoint(checkpoint, changed),
      format: formatByName(recipe.format),
      summary: {
        modules: new Map(
          result.tensors.map(({ name, scheme }) => [name, { ...scheme, hasGroupIndex: usesGroupIndex(recipe) }]),
        ),
        unquantized: plan.modules
          .filter(entry => !entry.scheme && entry.module !== program.embedding)
          .map(entry => entry.module),
        damp: damps.length > 0 ? Math.max(...damps) : null,
        version: packageVersion,
        carried: cached?.settings,
      },
      options: { scaleType: scaleTypeOf(recipe.format, program), gptqVersion: recipe.gptqVersion },
      tensor,
      moduleAt: name => (name.endsWith(".weight") && blockOf.has(name.slice(0, -7)) ? name.slice(0, -7) : null),
      omitted: new Set(cached?.tensors.map(({ name }) => name)),
      ...(cached && { added: cached.tensors }),
      files: totalBytes => {
        result.outputBytes = totalBytes
        return { "quantization-report.json": result }
      },
      signal,
      onTensor: (name, done, total) => report({ stage: "write", done, total, tensor: name }),
    }
    await writeCheckpoint(output.path, { ...contents, tensors: await foreseenTensors(contents) })
    report({ stage: "verify", done: 0, total: 1 })
    await verifyModules(output.path, recipe.format, blockOf.keys(), tensor, signal)
    if (kvScales) await verifyKvScales(output.path, program, kvScales)
    await smokeTest(output.path, smokeTokens(program.config.vocabularySize, calibration?.windows[0]), signal)
    report({ stage: "verify", done: 1, total: 1 })
    return result
  } finally {
    for (const block of blocks) block.dispose()
  }
}

/** The beginning of the calibration set, or ids spread over the vocabulary. */
const smokeTokens = (vocabulary: number, window: Int32Array | undefined): number[] =>
  window ? [...window.subarray(0, 32)] : spreadTokens(vocabulary)
