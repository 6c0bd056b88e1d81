// The public face of the library: exports only.

export type { CodebookName } from "./core/codebooks.ts"
export type { CudaDevice, CudaStatus, Device } from "./core/cuda.ts"
export type { Dtype, TensorData } from "./core/dtype.ts"
export { type ErrorCode, TsqError } from "./core/errors.ts"
export { type CpuDevice, type DeviceReport, devices, setThreads } from "./core/machine.ts"
export type { LongWork, Progress } from "./core/progress.ts"
export {
  type ActivationParameters,
  QuantizedTensor,
  type QuantizedTensorInit,
  type ScaleLevels,
} from "./core/quantized-tensor.ts"
export type { ActivationScheme, FloatScaleType, IntegerScheme, Scheme } from "./core/scheme.ts"
export { Tensor } from "./core/tensor.ts"
export {
  convertModel,
  evaluateModel,
  evaluateNeedle,
  evaluateTask,
  inspectModel,
  loadModel,
  planQuantization,
  quantizeModel,
  readOnnx,
  writeOnnx,
} from "./deferred.ts"
export type { LoadOptions } from "./engine/load-model.ts"
export type { Likelihood, LikelihoodOptions, LikelihoodRequest } from "./engine/loglikelihood.ts"
export type { Model } from "./engine/model.ts"
export type { EvaluateOptions, Evaluation } from "./evaluate/evaluate-model.ts"
export type { EvaluateTaskOptions, TaskMetric, TaskResult } from "./evaluate/evaluate-task.ts"
export type { NeedleCell, NeedleOptions, NeedleResult } from "./evaluate/needle.ts"
export type { Task } from "./evaluate/task.ts"
export type { WriteOnnxOptions } from "./formats/onnx.ts"
export type { OnnxLinear } from "./formats/onnx-linear.ts"
export { dequantize } from "./kernels/dequantize.ts"
export { CudaGraph, captureGraph } from "./kernels/graph.ts"
export { type MatmulOptions, matmul, type Weight } from "./kernels/matmul.ts"
export { matmulW4A16 } from "./kernels/matmul-w4a16.ts"
export { PackedWeight, type PrepackOptions, prepack } from "./kernels/packed-weight.ts"
export type { ConversionReport, ConvertModelOptions } from "./quantize/convert-model.ts"
export type { InspectModelOptions, ModelInspection } from "./quantize/inspect-model.ts"
export { type QuantizeOptions, quantize } from "./quantize/quantize.ts"
export type {
  GgufOptions,
  GgufReport,
  PlannedQuantization,
  QuantizationReport,
  QuantizeModelOptions,
} from "./quantize/quantize-model.ts"
export type { GroupSize, SchemeName } from "./quantize/scheme.ts"
