import { type Command, Option } from "commander"
import { TsqError } from "../core/errors.ts"
import type { GgufOptions } from "../quantize/quantize-model.ts"
import {
  addComputeFlags,
  alpha,
  byteSize,
  collect,
  groupSize,
  integer,
  interruptible,
  parseCandidates,
  positive,
  real,
  refuseLater,
  type SharedFlags,
} from "./arguments.ts"
import { bytesText, durationText, note, print, printJson } from "./output.ts"
import { showProgress } from "./progress.ts"
import { readText } from "./text-file.ts"

interface Flags extends Omit<SharedFlags, "activations"> {
  preset?: string
  scheme?: string
  groupSize?: number | "channel" | "tensor"
  asymmetric?: boolean
  symmetric?: boolean
  rounding?: string
  transform?: string[]
  alpha?: number | "auto"
  format?: string
  gptqVersion?: string
  activations?: string
  doubleQuantization?: boolean
  adapter?: string[]
  calibration?: string
  imatrix?: string
  saveImatrix?: string
  samples?: number
  sequenceLength?: number
  errorCorrection?: boolean
  damp?: number
  order?: string
  refine?: number
  expertFloor?: number
  ignore?: string[]
  override?: string[]
  targetBits?: number
  targetSize?: number
  targetKl?: number
  candidates?: string
  sensitivity?: string
  seed?: number
  maxMemory?: number
  strict?: boolean
  force?: boolean
  resume?: boolean
  plan?: boolean
}

export function addQuantize(program: Command): void {
  addComputeFlags(
    program
      .command("quantize")
      .description("make a smaller checkpoint of a Hugging Face one")
      .argument("<source>", "Hugging Face folder")
      .argument("<out>", "folder to create, or a .gguf file")
      .option(
        "--preset <name>",
        "rtn, gptq, awq, awq-gptq, smoothquant, fp8, nf4, llm.int8 or best (default: gptq with --calibration, rtn without); for a .gguf file its type: q4_k_m, q8_0, f16 …",
      )
      .option(
        "--scheme <name>",
        "w8a16, w6a16, w5a16, w4a16 (default), w3a16, w2a16, w8a8, fp8, mxfp4, nvfp4, nf4, fp4 or llm.int8",
      )
      .option("--group-size <n|channel|tensor>", "columns that share a scale (default 128)", groupSize)
      .addOption(
        new Option("--asymmetric", "with zero points (default of presets awq and best)").conflicts("symmetric"),
      )
      .option("--symmetric", "without (default otherwise)")
      .option("--rounding <name>", "nearest, mse, hqq, gptq, auto-round, lsq or qronos")
      .option("--error-correction", "round towards the outputs of the unquantized model (default with qronos)")
      .option("--damp <share>", "gptq, auto-round, qronos: share of the mean diagonal added to it (default 0.01)", real)
      .option("--order <name>", "gptq, auto-round, qronos: static (default), group-aware, none or dynamic")
      .option("--refine <n>", "sweeps of descent over scales and codes at most, after the rounding", integer)
      .option(
        "--transform <name>",
        "awq, smooth or hadamard; may be given several times, applied in that order; hadamard comes first",
        collect,
      )
      .option(
        "--alpha <n|auto>",
        "of smooth: share of the activations' range that moves into the weights (default auto: searched)",
        alpha,
      )
      .option("--format <name>", "gptq, awq, compressed-tensors, fp8, fbgemm_fp8, modelopt, bitsandbytes or marlin")
      .addOption(
        new Option(
          "--activations <kind>",
          "w8a8 and fp8: scales as activations come, stored, or with zero points",
        ).choices(["dynamic", "static", "asymmetric"]),
      )
      .option("--double-quantization", "nf4 and fp4: quantize the scales once more")
      .option("--gptq-version <version>", "v1 (default, widest reach), v2 or planar (GPTQModel's, 5 to 7 bits too)")
      .option("--adapter <folder>", "merge a LoRA adapter (PEFT) first; may be given several times", collect)
      .option("--calibration <file>", "UTF-8 text of the kind the model will see")
      .option("--imatrix <file>", "importance matrix of llama-imatrix that weighs errors in a .gguf file")
      .option("--save-imatrix <file>", "write the importance matrix of --calibration: .gguf, or .dat for older tools")
      .option("--samples <n>", "windows of calibration (default: up to 128; of preset best 256)", positive)
      .option("--sequence-length <n>", "tokens of a window (default 512)", positive)
      .option(
        "--expert-floor <n>",
        "tokens that must reach an expert for it to be calibrated (default: twice its columns)",
        integer,
      )
      .option(
        "--ignore <pattern>",
        "leave modules alone, by name or pattern with *; may be given several times",
        collect,
      )
      .option(
        "--override <pattern=scheme>",
        "another scheme, or none, for some modules; may be given several times",
        collect,
      )
      .option(
        "--target-bits <n>",
        "choose schemes by measured damage, for so many bits per weight of the linears",
        real,
      )
      .option("--target-size <size>", "the same for the size of all tensors, e.g. 4GB", byteSize)
      .option("--target-kl <nats>", "the same for the KL divergence from the original, per token", real)
      .option("--candidates <list>", "with a target: schemes to choose among, e.g. w3a16,w4a16,w4a16:64,none")
      .option(
        "--sensitivity <kind>",
        "with a target: damage measured at the output (kl, default) or scaled from each layer's (layer); preset best: what recipes are judged by",
      )
      .option("--kv-cache <type>", "fp8: write calibrated scales of keys and values, for engines that cache them so")
      .option("--seed <n>", "same seed, same bytes", integer)
      .option("--max-memory <size>", "refuse when more would be needed, e.g. 4GB", byteSize)
      .option("--strict", "refuse to leave tensors unquantized because of the format")
      .option("--force", "replace an existing output; accept less calibration than asked for")
      .option("--resume", "continue an interrupted run")
      .option("--plan", "print what would be done and stop")
      .option("--json", "one JSON object on stdout"),
  ).action(async (source: string, out: string, flags: Flags) => {
    refuseLater(flags, { cuda: true })
    const options = await toOptions(flags)
    if (out.endsWith(".gguf")) return makeGguf(source, out, flags, options)
    const { planQuantization, quantizeModel } = await import("../quantize/quantize-model.ts")
    const { setThreads } = await import("../core/machine.ts")
    if (flags.threads !== undefined) setThreads(flags.threads)
    const planned = await planQuantization(source, options)
    if (flags.plan && flags.json) return printJson(planned)
    describePlan(planned)
    if (flags.plan) {
      const { planTable } = await import("../report/tables.ts")
      print(planTable(planned.plan.modules))
      return
    }
    const progress = showProgress()
    const interrupt = interruptible()
    const started = performance.now()
    try {
      const report = await quantizeModel(source, out, {
        ...options,
        signal: interrupt.signal,
        onProgress: progress.onProgress,
        onWarning: text => progress.note(`warning: ${text}`),
      })
      progress.stop()
      if (flags.json)
        return printJson({
          out,
          elapsedMs: performance.now() - started,
          estimatedPeakMemory: planned.plan.peakMemory,
          ...report,
        })
      print(
        `${out}: ${report.tensors.length} linears at ${report.bitsPerWeight.toFixed(3)} bits per weight, ${bytesText(report.sourceBytes)} to ${bytesText(report.outputBytes)}, in ${durationText(performance.now() - started)}`,
      )
      if (report.mix)
        print(
          `KL divergence ${report.mix.measuredKl.toPrecision(3)} nats per token over ${report.mix.tokens} tokens${report.mix.heldOut ? "" : " of the calibration text"} (predicted ${report.mix.predictedKl.toPrecision(3)})`,
        )
    } catch (error) {
      progress.stop()
      if (interrupt.signal.aborted)
        note(`interrupted; --resume continues with the finished blocks in ${out}.tsq-resume`)
      throw error
    } finally {
      progress.stop()
      interrupt.done()
    }
  })
}

async function makeGguf(source: string, out: string, flags: Flags, options: Record<string, unknown>): Promise<void> {
  if (flags.plan) throw new TsqError("ERR_OPTION", "--plan is for folders; a GGUF preset says itself what it does")
  const { quantizeModel } = await import("../quantize/quantize-model.ts")
  const { setThreads } = await import("../core/machine.ts")
  if (flags.threads !== undefined) setThreads(flags.threads)
  const progress = showProgress()
  const interrupt = interruptible()
  const started = performance.now()
  try {
    const report = await quantizeModel(source, out, {
      ...(options as unknown as GgufOptions),
      signal: interrupt.signal,
      onProgress: progress.onProgress,
      onWarning: text => progress.note(`warning: ${text}`),
    })
    progress.stop()
    if (flags.json) return printJson({ out, elapsedMs: performance.now() - started, ...report })
    print(
      `${out}: ${report.tensors.length} tensors at ${report.fileBitsPerWeight.toFixed(3)} bits per weight, ${bytesText(report.sourceBytes)} to ${bytesText(report.outputBytes)}, in ${durationText(performance.now() - started)}`,
    )
  } finally {
    progress.stop()
    interrupt.done()
  }
}

async function toOptions(flags: Flags): Promise<Record<string, unknown>> {
  const overrides = flags.override?.map(text => {
    const at = text.lastIndexOf("=")
    if (at < 1) throw new TsqError("ERR_OPTION", `--override ${text}: expected pattern=scheme`)
    return { pattern: text.slice(0, at), scheme: text.slice(at + 1) }
  })
  const options = {
    preset: flags.preset,
    scheme: flags.scheme,
    groupSize: flags.groupSize,
    symmetric: flags.asymmetric ? false : flags.symmetric,
    rounding: flags.rounding,
    transforms: flags.transform,
    alpha: flags.alpha,
    format: flags.format,
    gptqVersion: flags.gptqVersion,
    activations: flags.activations,
    kvCache: flags.kvCache,
    doubleQuantization: flags.doubleQuantization,
    adapters: flags.adapter,
    calibration: flags.calibration === undefined ? undefined : await readText(flags.calibration, "--calibration"),
    imatrix: flags.imatrix,
    saveImatrix: flags.saveImatrix,
    samples: flags.samples,
    sequenceLength: flags.sequenceLength,
    errorCorrection: flags.errorCorrection,
    damp: flags.damp,
    order: flags.order,
    refine: flags.refine,
    expertFloor: flags.expertFloor,
    ignore: flags.ignore,
    overrides,
    targetBits: flags.targetBits,
    targetSize: flags.targetSize,
    targetKl: flags.targetKl,
    candidates: parseCandidates(flags.candidates),
    sensitivity: flags.sensitivity,
    seed: flags.seed,
    device: flags.device,
    maxMemory: flags.maxMemory,
    strict: flags.strict,
    force: flags.force,
    resume: flags.resume,
  }
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
}

function describePlan({
  recipe,
  plan,
  calibration,
}: Awaited<ReturnType<typeof import("../quantize/quantize-model.ts").planQuantization>>): void {
  const quantized = plan.modules.filter(entry => entry.scheme).length
  const steps = recipe.contest
    ? `the best of ${recipe.contest.strategies.length} recipes for every block`
    : [...recipe.transforms, recipe.rounding].join(" + ")
  const schemes = recipe.mix ? `schemes by measured damage (${recipe.mix.sensitivity})` : recipe.scheme
  note(
    `${schemes}, group ${recipe.groupSize}, ${recipe.symmetric ? "symmetric" : "asymmetric"}, ${steps}, format ${recipe.format}${recipe.kvCache ? `, scales of keys and values in ${recipe.kvCache}` : ""}`,
  )
  if (recipe.mix) note(`target: ${targetText(recipe.mix.target)}`)
  else
    note(
      `${quantized} of ${plan.modules.length} matrices at ${plan.bitsPerWeight.toFixed(3)} bits per weight: ${bytesText(plan.sourceBytes)} to about ${bytesText(plan.outputBytes)}`,
    )
  if (calibration)
    note(
      `calibration: ${calibration.windows} windows of ${calibration.sequenceLength} tokens${calibration.asked === null ? "" : ` (asked for ${calibration.asked})`}`,
    )
  const parts = Object.entries(plan.memoryParts).map(([name, bytes]) => `${name} ${bytesText(bytes)}`)
  note(
    `memory: up to about ${bytesText(plan.peakMemory)} (${parts.join(", ")}); time: very roughly ${durationText(plan.estimatedSeconds * 1000)}`,
  )
}

function targetText(
  target: NonNullable<
    Awaited<ReturnType<typeof import("../quantize/quantize-model.ts").planQuantization>>["recipe"]["mix"]
  >["target"],
): string {
  if ("bits" in target) return `${target.bits} bits per weight`
  return "bytes" in target ? bytesText(target.bytes) : `KL divergence ${target.kl} nats per token`
}
