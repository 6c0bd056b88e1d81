// convertModel: a model into another format, exactly or not at all, unless rounding again is asked for.
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { describe, Options } from "../core/options.ts"
import { type LongWork, progressReporter } from "../core/progress.ts"
import { type FormatName, type GptqVersion, gptqVersions } from "../formats/format.ts"
import { type GgufPreset, ggufPresets, isGgufPreset } from "../formats/gguf-mixes.ts"
import { formatByName } from "../formats/registry.ts"
import { ConversionRefused, type ConversionReport } from "./conversion-report.ts"
import { type ConversionSource, openConversionSource } from "./conversion-source.ts"
import { convertGguf } from "./convert-gguf.ts"
import { convertToFolder } from "./convert-to-folder.ts"
import { convertToGguf, type GgufTarget } from "./convert-to-gguf.ts"
import { convertToOnnx } from "./convert-to-onnx.ts"
import { scaleTypeOf } from "./plan.ts"
import { readFormat } from "./recipe.ts"
import type { Requantization } from "./requantize.ts"
import { type GroupSize, parseScheme, type SchemeName } from "./scheme.ts"

export type { ConversionReport, ConvertedTensor, Refusal } from "./conversion-report.ts"
export { ConversionRefused } from "./conversion-report.ts"

export interface ConvertModelOptions extends LongWork {
  /**
   * Of a folder: a checkpoint format, or "dense" for floats. An output called .gguf is a GGUF file, one called .onnx a model of
   * MatMulNBits operators, with no format or "gguf" and "onnx".
   */
  format?: FormatName | "dense" | "gguf" | "onnx"
  gptqVersion?: GptqVersion
  /** Round what the target does not hold to nearest codes of `scheme` or `preset`. Default false: such tensors are refused. */
  allowRequantize?: boolean
  /** Scheme of what is rounded again for a folder. Default "w4a16" in groups of 128, 64 or 32 columns, symmetric. */
  scheme?: SchemeName
  groupSize?: GroupSize
  symmetric?: boolean
  /** Mixture of block types of a GGUF file. Without one every tensor gets the type that holds it. */
  preset?: GgufPreset
  /** Of matrices that become dense. Default "f32", which holds their values; the others round, and the report says how much. */
  dtype?: "f32" | "f16" | "bf16"
  /** Tensor bytes of a part of a GGUF file, at most. Default: one file. */
  maxPartBytes?: number
  /** Replace an existing output. */
  force?: boolean
  onWarning?: (message: string) => void
}

const known = [
  ...[
    "format",
    "gptqVersion",
    "allowRequantize",
    "scheme",
    "groupSize",
    "symmetric",
    "preset",
    "dtype",
    "maxPartBytes",
  ],
  ...["force", "signal", "onProgress", "onWarning"],
]

/**
 * Converts a checkpoint folder or a .gguf file (any part of a split one) into folder `out`, or into the GGUF or ONNX file `out`: same codes,
 * scales and zero points, or other codes that stand for the same values, so that nothing is rounded. Codes become floats with
 * format "dense". What was written is read back and run before it gets its name.
 *
 * ERR_UNSUPPORTED (a ConversionRefused, with every tensor that the target cannot hold and the reason) unless allowRequantize is set;
 * ERR_FORMAT when nothing is quantized and a quantized format is asked for; ERR_OPTION, ERR_IO, ERR_CORRUPT, ERR_NUMERIC, ERR_ABORTED.
 */
export async function convertModel(
  source: string,
  out: string,
  options: ConvertModelOptions = {},
): Promise<ConversionReport> {
  const checked = new Options("convertModel", options, known)
  const file = fileFormat(out)
  const toGguf = file === "gguf"
  const target = readTarget(checked, file)
  const warn = options.onWarning ?? (() => {})
  throwIfAborted(target.signal)
  try {
    if (toGguf && typeof source === "string" && source.endsWith(".gguf"))
      return await convertGguf(source, out, ggufTarget(checked, warn))
    const opened = await openConversionSource(source, file ?? (target.format as string), warn)
    try {
      if (toGguf) return await convertToGguf(opened, out, ggufTarget(checked, warn))
      if (opened.format === "dense" && target.format !== "dense")
        throw new TsqError(
          "ERR_FORMAT",
          `${source}: is not quantized, there is nothing to convert; quantizeModel makes a quantized checkpoint of it`,
        )
      if (file === "onnx") return await convertToOnnx(opened, out, { ...target, warn })
      return await convertToFolder(opened, out, {
        ...target,
        format: target.format === "dense" ? null : formatByName(target.format as string),
        requantization: target.template && requantizationOf(target, opened),
      })
    } finally {
      opened.dispose()
    }
  } catch (error) {
    if (error instanceof ConversionRefused && error.refused.length > 5)
      for (const { tensor, reason } of error.refused) warn(`${tensor}: ${reason}`)
    throw error
  }
}

/** What an output's name says that it is; null: a folder. */
function fileFormat(out: unknown): "gguf" | "onnx" | null {
  if (typeof out !== "string") return null
  return out.endsWith(".gguf") ? "gguf" : out.endsWith(".onnx") ? "onnx" : null
}

/** Everything that is checked before a file is opened. */
function readTarget(options: Options, file: "gguf" | "onnx" | null) {
  const raw = options.raw("format")
  const gguf = file === "gguf"
  if (raw !== undefined && (raw === "gguf" || raw === "onnx" ? raw : null) !== file)
    throw new TsqError(
      "ERR_OPTION",
      `convertModel: format ${describe(raw)} and the output's name do not agree: GGUF files are called .gguf, ONNX files .onnx, and no folder is`,
    )
  const format = file !== null || raw === "dense" ? raw : readFormat(options)
  if (file === null && format === undefined) options.fail("format", 'the name of a checkpoint format, or "dense"')
  const allowRequantize = options.boolean("allowRequantize", false)
  if (file === "onnx" && allowRequantize)
    options.fail("allowRequantize", "no value: an ONNX file holds what is stored, or refuses it")
  for (const name of ["scheme", "groupSize", "symmetric"])
    if (options.has(name) && (!allowRequantize || gguf || format === "dense"))
      options.fail(name, "no value: it says how a folder's tensors are rounded again, with allowRequantize")
  for (const name of ["preset", "maxPartBytes"])
    if (options.has(name) && !gguf) options.fail(name, "no value: only GGUF files have it")
  if (options.has("preset") && !isGgufPreset(options.raw("preset")))
    options.fail("preset", `one of ${ggufPresets.join(", ")}`)
  if (options.has("dtype") && file !== null) options.fail("dtype", "no value: it is of dense tensors in a folder")
  if (options.has("onWarning") && typeof options.raw("onWarning") !== "function")
    options.fail("onWarning", "a function")
  options.integer("maxPartBytes", { min: 1 }, undefined)
  const scheme = new Options(
    "convertModel",
    { scheme: "w4a16", ...given(options, ["scheme", "groupSize", "symmetric"]) },
    known,
  )
  return {
    format,
    template: allowRequantize && file === null && format !== "dense" ? parseScheme(scheme) : null,
    gptqVersion: options.oneOf("gptqVersion", gptqVersions, "v1"),
    dtype: options.oneOf("dtype", ["f32", "f16", "bf16"], null),
    force: options.boolean("force", false),
    signal: options.signal(),
    report: progressReporter(options.onProgress()),
  }
}

const given = (options: Options, names: readonly string[]) =>
  Object.fromEntries(names.filter(name => options.has(name)).map(name => [name, options.raw(name)]))

function ggufTarget(options: Options, warn: (message: string) => void): GgufTarget {
  return {
    preset: (options.raw("preset") as GgufPreset | undefined) ?? null,
    allowRequantize: options.boolean("allowRequantize", false),
    maxPartBytes: options.integer("maxPartBytes", { min: 1 }, undefined),
    force: options.boolean("force", false),
    signal: options.signal(),
    report: progressReporter(options.onProgress()),
    warn,
  }
}

function requantizationOf(
  { template, format, gptqVersion }: ReturnType<typeof readTarget>,
  { program }: ConversionSource,
): Requantization {
  // v1 files store zero points minus one and so cannot hold 0 (lib/formats/gptq.ts).
  const minZero = format === "gptq" && gptqVersion === "v1" && !template!.symmetric ? 1 : 0
  return { template: template!, scaleType: scaleTypeOf(format as FormatName, program), minZero }
}
