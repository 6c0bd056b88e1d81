// onnxruntime: MatMulNBits, and onnxruntime-genai's model builder, which reads checkpoints. Sources: microsoft/onnxruntime,
// docs/ContribOperators.md and onnxruntime/contrib_ops/cpu/quantization/matmul_nbits_helper.h; microsoft/onnxruntime-genai,
// src/python/py/models/quantized_model.py.
import { type Engine, groupOf, on, refused, type StoredModule, slow } from "./engine.ts"

const isPowerOfTwo = (value: number) => Number.isInteger(Math.log2(value))

/** A module as MatMulNBits. */
function operator(module: StoredModule) {
  const { bits, codebook } = module.scheme
  const group = groupOf(module)
  if (codebook !== undefined) return refused(`MatMulNBits has whole numbers, not the codes of ${codebook}`)
  if (![2, 4, 8].includes(bits)) return refused(`MatMulNBits has 2, 4 and 8 bits, not ${bits}`)
  if (module.groupIndex) return refused("reordered columns: g_idx is not taken by its kernels")
  if (group > 0 && (group < 16 || !isPowerOfTwo(group)))
    return refused(`groups of ${group} columns: MatMulNBits has powers of two from 16 on`)
  if (group > 0 && module.shape[1] % group !== 0) return null
  return group < 0 ? slow("one scale a row: the scale is repeated for blocks of columns") : null
}

const builder = (widths: readonly number[]) => ({
  module: (module: StoredModule) => {
    const answer = operator(module)
    if (answer?.severity === "refused" || widths.includes(module.scheme.bits)) return [answer]
    return [refused(`the model builder reads ${widths.join(" and ")} bits of this format, not ${module.scheme.bits}`)]
  },
  model: () => [
    on("format", slow("a folder has to be made an ONNX model first, which onnxruntime-genai's model builder does")),
  ],
})

export const onnxruntime: Engine = {
  name: "onnxruntime",
  formats: {
    onnx: { module: module => [operator(module)] },
    dense: { model: () => [on("format", slow("a folder has to be made an ONNX model first"))] },
    gptq: builder([4, 8]),
    awq: builder([4]),
  },
  otherwise: {
    model: ({ format }) => [
      on("format", refused(`${format} is read by no builder of ONNX models; convert to gptq or awq`)),
    ],
  },
}
