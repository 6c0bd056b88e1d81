// convertModel: a quantized checkpoint into another format, exactly or not at all.
import { Checkpoint } from "../containers/checkpoint.ts"
import { OutputDirectory } from "../containers/output.ts"
import { dtypeInfo } from "../core/dtype.ts"
import { TsqError } from "../core/errors.ts"
import { listChoices, Options } from "../core/options.ts"
import { type LongWork, progressReporter } from "../core/progress.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { sharedArray, sharedFloats } from "../core/tensor.ts"
import { packageVersion } from "../core/version.ts"
import { type FormatName, type FormatSummary, type GptqVersion, gptqVersions, traitsOf } from "../formats/format.ts"
import { detectFormat, formatByName, formats } from "../formats/registry.ts"
import { describeModel } from "../models/registry.ts"
import { native } from "../native.ts"
import { carriedOver } from "./carried.ts"
import { linearsOf } from "./linears.ts"
import { scaleTypeOf } from "./plan.ts"
import { readFormat } from "./recipe.ts"
import { verifyModules } from "./verify.ts"
import { writeCheckpoint } from "./write-checkpoint.ts"

export interface ConvertModelOptions extends LongWork {
  format: FormatName
  gptqVersion?: GptqVersion
  /** Replace an existing output. */
  force?: boolean
  onWarning?: (message: string) => void
}

export interface ConversionReport {
  from: FormatName
  to: FormatName
  modules: number
  totalBytes: number
}

/**
 * Converts the quantized checkpoint in folder `source` into folder `out`: same codes, scales and zero points, so that converting
 * back gives the same bytes. ERR_UNSUPPORTED listing every module that the target cannot hold, with the reason; ERR_FORMAT when the
 * source is not quantized.
 */
export async function convertModel(
  source: string,
  out: string,
  options: ConvertModelOptions,
): Promise<ConversionReport> {
  const checked = new Options("convertModel", options, [
    "format",
    "gptqVersion",
    "force",
    "signal",
    "onProgress",
    "onWarning",
  ])
  const name = readFormat(checked) ?? checked.fail("format", listChoices(formats.map(({ name }) => name)))
  const gptqVersion = checked.oneOf("gptqVersion", gptqVersions, "v1")
  const signal = checked.signal()
  const report = progressReporter(checked.onProgress())
  const checkpoint = await Checkpoint.open(source)
  try {
    const config = checkpoint.quantizationConfig
    if (!config)
      throw new TsqError(
        "ERR_FORMAT",
        `${source}: is not quantized, there is nothing to convert; quantizeModel makes a quantized checkpoint of it`,
      )
    const from = detectFormat(config)!
    const program = describeModel(checkpoint.config)
    const warn = options.onWarning ?? (() => {})
    const reader = from.reader(checkpoint, config, warn)
    const format = formatByName(name)
    const { carried, left } = carriedOver(reader, from.name, format.name, warn)
    const places = new Map<string, string>()
    const omitted = new Set<string>(left)
    for (const module of reader.modules) {
      const names = reader.tensorNames(module)
      places.set(names[0]!, module)
      for (const tensor of names) omitted.add(tensor)
    }
    const schemes = await refuseWhatDoesNotFit(
      reader.modules,
      module => reader.read(module),
      format,
      gptqVersion,
      done => report({ stage: "check", done, total: reader.modules.length }),
    )
    const output = await OutputDirectory.create(out, { source, force: checked.boolean("force", false) })
    try {
      const linears = program.blocks.flatMap((_, layer) =>
        linearsOf(program, layer).map(slot => program.blockPrefix(layer) + slot.module),
      )
      const { totalBytes } = await writeCheckpoint(output.path, {
        source: checkpoint,
        format,
        summary: {
          modules: schemes,
          unquantized: [...new Set([...linears, program.head])].filter(
            module => !schemes.has(module) && module !== program.embedding,
          ),
          damp: null,
          version: packageVersion,
          carried,
        },
        options: { scaleType: scaleTypeOf(name, program), gptqVersion },
        tensor: module => reader.read(module),
        moduleAt: tensor => places.get(tensor) ?? null,
        omitted,
        changed: async () => null,
        files: () => ({}),
        signal,
        onTensor: (tensor, done, total) => report({ stage: "write", done, total, tensor }),
      })
      await verifyModules(output.path, format.name, schemes.keys(), module => reader.read(module), signal)
      await output.commit()
      return { from: from.name, to: format.name, modules: schemes.size, totalBytes }
    } catch (error) {
      await output.discard()
      throw error
    }
  } finally {
    checkpoint.dispose()
  }
}

async function refuseWhatDoesNotFit(
  modules: readonly string[],
  read: (module: string) => Promise<QuantizedTensor>,
  format: ReturnType<typeof formatByName>,
  gptqVersion: GptqVersion,
  onModule: (done: number) => void,
): Promise<Map<string, FormatSummary["modules"] extends ReadonlyMap<string, infer V> ? V : never>> {
  const schemes = new Map()
  const refused: string[] = []
  for (const [index, module] of modules.entries()) {
    const tensor = await read(module)
    const reason =
      format.refuses(module, tensor.shape, tensor.scheme, traitsOf(tensor, gptqVersion)) ??
      (await scalesDoNotFit(tensor, format.name))
    if (reason) refused.push(`${module}: ${reason}`)
    schemes.set(module, { ...tensor.scheme, hasGroupIndex: tensor.groupIndex !== null })
    onModule(index + 1)
  }
  if (refused.length > 0)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${format.name} cannot hold ${refused.length} of ${modules.length} modules: ${refused.slice(0, 5).join("; ")}${refused.length > 5 ? " …" : ""}`,
    )
  return schemes
}

/** GPTQ, AWQ and Marlin store scales as f16: a scale of another type fits only if it is an f16 value (or, in GPTQ files, a bf16 one). */
async function scalesDoNotFit(tensor: QuantizedTensor, format: FormatName): Promise<string | null> {
  const { scaleType } = tensor.scheme
  if (!["gptq", "awq", "marlin"].includes(format)) return null
  if (scaleType === "f16" || (format === "gptq" && scaleType === "bf16")) return null
  const { f32, f16 } = { f32: dtypeInfo("f32").code, f16: dtypeInfo("f16").code }
  const half = sharedArray("f16", tensor.scales.length)
  const back = sharedFloats(tensor.scales.length)
  await native.convertAsync(tensor.scales, f32, half, f16, back.length)
  await native.convertAsync(half, f16, back, f32, back.length)
  const bytes = (array: Float32Array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength)
  if (bytes(back).equals(bytes(tensor.scales))) return null
  return `its ${scaleType} scales are not all f16 values; compressed-tensors keeps them`
}
