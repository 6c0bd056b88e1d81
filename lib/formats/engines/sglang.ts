// SGLang. Sources: sgl-project/sglang, python/sglang/srt/layers/quantization/{gptq,awq,fp8}.py, marlin_utils.py and compressed_tensors/.
import { type Engine, on, refused, slow, unequalParts } from "./engine.ts"
import { awqLayout, awqModule, notMarlin } from "./marlin.ts"

const old = (format: string) => [
  on("format", refused(`${format} files are only loaded with an old vLLM installed beside SGLang`)),
]

export const sglang: Engine = {
  name: "sglang",
  formats: {
    dense: {},
    gptq: {
      module: module => {
        const { bits, symmetric } = module.scheme
        if (![2, 3, 4, 8].includes(bits))
          return [refused(`GPTQ files of ${bits} bits are not loaded: 2, 3, 4 and 8 are`)]
        if (!symmetric || (bits !== 4 && bits !== 8))
          return [slow("the fast kernels take 4 and 8 bits without zero points")]
        return [notMarlin(module)]
      },
      model: unequalParts,
    },
    awq: {
      module: awqModule,
      model: model => [...unequalParts(model), awqLayout(model, "AWQ files are taken")],
    },
    "compressed-tensors": {
      module: module => {
        const { bits, granularity, groupSize, codebook } = module.scheme
        if (module.name.endsWith("embed_tokens")) return [refused("a quantized embedding: only linears are")]
        if (granularity === "group" && module.shape[1] % groupSize !== 0)
          return [refused(`k = ${module.shape[1]} is not a multiple of the group size ${groupSize}`)]
        // WNA16_SUPPORTED_BITS of compressed_tensors_wNa16.py.
        if (codebook === undefined && bits !== 4 && bits !== 8)
          return [refused(`packed codes of ${bits} bits: 4 and 8 are loaded`)]
        return [codebook === undefined ? notMarlin(module) : null]
      },
      model: unequalParts,
    },
    fp8: { model: unequalParts },
    modelopt: { model: unequalParts },
    gguf: {},
    bitsandbytes: { model: () => old("bitsandbytes") },
    marlin: { model: () => old("Marlin") },
    fbgemm_fp8: { model: () => old("fbgemm_fp8") },
  },
  otherwise: { model: ({ format }) => [on("format", refused(`${format} is no format that SGLang loads`))] },
}
