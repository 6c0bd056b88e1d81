// Functions of the public face that load what they need with their first call: checkpoints, schemas and tokenizers take longer
// to load than all the rest, and a program that only multiplies has no use for them.

import type { QuantizedTensor } from "./core/quantized-tensor.ts"
import type { LoadOptions } from "./engine/load-model.ts"
import type { Model } from "./engine/model.ts"
import type { EvaluateOptions, Evaluation } from "./evaluate/evaluate-model.ts"
import type { EvaluateTaskOptions, TaskResult } from "./evaluate/evaluate-task.ts"
import type { NeedleOptions, NeedleResult } from "./evaluate/needle.ts"
import type { Task } from "./evaluate/task.ts"
import type { WriteOnnxOptions } from "./formats/onnx.ts"
import type { OnnxLinear } from "./formats/onnx-linear.ts"
import type { ConversionReport, ConvertModelOptions } from "./quantize/convert-model.ts"
import type { InspectModelOptions, ModelInspection } from "./quantize/inspect-model.ts"
import type {
  GgufOptions,
  GgufReport,
  PlannedQuantization,
  QuantizationReport,
  QuantizeModelOptions,
} from "./quantize/quantize-model.ts"

/** Loads a Hugging Face directory, quantized or not, so that it runs. See engine/load-model.ts. */
export async function loadModel(path: string, options?: LoadOptions): Promise<Model> {
  return (await import("./engine/load-model.ts")).loadModel(path, options)
}

/** Scores a text with a model. See evaluate/evaluate-model.ts. */
export async function evaluateModel(model: string | Model, options: EvaluateOptions): Promise<Evaluation> {
  return (await import("./evaluate/evaluate-model.ts")).evaluateModel(model, options)
}

/** Retrieval from long contexts by length and depth. See evaluate/needle.ts. */
export async function evaluateNeedle(model: string | Model, options?: NeedleOptions): Promise<NeedleResult> {
  return (await import("./evaluate/needle.ts")).evaluateNeedle(model, options)
}

/** Runs a task of lm-evaluation-harness's kinds. See evaluate/evaluate-task.ts. */
export async function evaluateTask(
  model: string | Model,
  task: string | Task,
  options?: EvaluateTaskOptions,
): Promise<TaskResult> {
  return (await import("./evaluate/evaluate-task.ts")).evaluateTask(model, task, options)
}

/** Quantizes the checkpoint in folder `source` into folder or GGUF file `out`. See quantize/quantize-model.ts. */
export async function quantizeModel(source: string, out: string, options: GgufOptions): Promise<GgufReport>
export async function quantizeModel(
  source: string,
  out: string,
  options?: QuantizeModelOptions,
): Promise<QuantizationReport>
export async function quantizeModel(
  source: string,
  out: string,
  options?: QuantizeModelOptions | GgufOptions,
): Promise<QuantizationReport | GgufReport> {
  const module = await import("./quantize/quantize-model.ts")
  return module.quantizeModel(source, out, options as QuantizeModelOptions)
}

/** What quantizeModel would do, without doing it. See quantize/quantize-model.ts. */
export async function planQuantization(source: string, options?: QuantizeModelOptions): Promise<PlannedQuantization> {
  return (await import("./quantize/quantize-model.ts")).planQuantization(source, options)
}

/** Converts the quantized checkpoint in folder `source` into folder `out`. See quantize/convert-model.ts. */
export async function convertModel(
  source: string,
  out: string,
  options: ConvertModelOptions,
): Promise<ConversionReport> {
  return (await import("./quantize/convert-model.ts")).convertModel(source, out, options)
}

/** Inspects a checkpoint folder, or a .safetensors file by itself. See quantize/inspect-model.ts. */
export async function inspectModel(path: string, options?: InspectModelOptions): Promise<ModelInspection> {
  return (await import("./quantize/inspect-model.ts")).inspectModel(path, options)
}

/** Writes quantized layers as an ONNX model that onnxruntime runs. See formats/onnx.ts. */
export async function writeOnnx(
  path: string,
  linears: Readonly<Record<string, QuantizedTensor | OnnxLinear>>,
  options?: WriteOnnxOptions,
): Promise<{ files: string[]; totalBytes: number }> {
  return (await import("./formats/onnx.ts")).writeOnnx(path, linears, options)
}

/** The quantized layers of an ONNX model, by the names of their nodes. See formats/onnx.ts. */
export async function readOnnx(path: string): Promise<Record<string, OnnxLinear>> {
  return (await import("./formats/onnx.ts")).readOnnx(path)
}
