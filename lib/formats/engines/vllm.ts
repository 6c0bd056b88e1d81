// vLLM. Sources: vllm-project/vllm, vllm/model_executor/layers/quantization/{auto_gptq,gptq_marlin,awq,fp8}.py and compressed_tensors/.
import { type Engine, groupOf, on, refused, type StoredModel, unequalParts } from "./engine.ts"
import { awqLayout, awqModule, marlinGroups, notMarlin } from "./marlin.ts"

const plugin = (name: string) => [
  on("format", refused(`${name} needs a plugin package since vLLM 0.28; it is not part of vLLM`)),
]

const missing = ({ settings }: StoredModel, keys: readonly string[]) =>
  keys.map(key =>
    on(
      `quantization_config.${key}`,
      settings?.[key] === undefined ? refused("the key is missing, and vLLM stops without it") : null,
    ),
  )

export const vllm: Engine = {
  name: "vllm",
  formats: {
    dense: {},
    gptq: {
      // TYPE_MAP of gptq_marlin.py: (4, sym) and (8, sym).
      module: module => {
        const { bits, symmetric } = module.scheme
        const group = groupOf(module)
        if (!symmetric)
          return [refused("GPTQ files with zero points are not loaded any more: quantize symmetric, or use awq")]
        if (bits !== 4 && bits !== 8) return [refused(`GPTQ files of ${bits} bits are not loaded: 4 and 8 are`)]
        if (!marlinGroups.includes(group))
          return [refused(`groups of ${group} columns: ${marlinGroups.join(", ")} are loaded`)]
        return [notMarlin(module)]
      },
      model: model => [
        ...missing(model, ["desc_act", "sym"]),
        ...unequalParts(model),
        on(
          "quantization_config.desc_act",
          model.settings?.desc_act === true && model.settings.group_size === -1
            ? {
                reason: "with one group a row the order of activations means nothing and is dropped",
                severity: "ignored",
              }
            : null,
        ),
      ],
    },
    awq: {
      module: awqModule,
      model: model => [
        ...unequalParts(model),
        awqLayout(model, "vLLM takes every AWQ file"),
        on(
          "quantization_config.zero_point",
          model.settings?.zero_point === false
            ? refused("zero points are always read, and this file says it has none")
            : null,
        ),
      ],
    },
    "compressed-tensors": {
      module: module => {
        const { bits, symmetric, granularity, groupSize, codebook } = module.scheme
        const [n, k] = module.shape
        if (module.name.endsWith("embed_tokens")) return [refused("a quantized embedding: only linears are")]
        if (codebook === undefined && !symmetric && bits !== 4 && bits !== 8)
          return [refused(`zero points with ${bits} bits: 4 and 8 have them`)]
        if (granularity === "group" && k % groupSize !== 0)
          return [refused(`k = ${k} is not a multiple of the group size ${groupSize}: its kernels take whole groups`)]
        return [codebook === undefined && n * k > 0 && bits <= 8 ? notMarlin(module) : null]
      },
      model: unequalParts,
    },
    fp8: { model: model => [...missing(model, ["activation_scheme"]), ...unequalParts(model), ...unevenBlocks(model)] },
    modelopt: { model: unequalParts },
    bitsandbytes: {
      model: model => [
        ...plugin("bitsandbytes"),
        on(
          "quantization_config.bnb_4bit_quant_storage",
          (model.settings?.bnb_4bit_quant_storage ?? "uint8") === "uint8"
            ? null
            : refused("only codes stored as uint8 are loaded"),
        ),
      ],
    },
    fbgemm_fp8: { model: () => [on("format", refused("fbgemm_fp8 is deprecated: use fp8 or compressed-tensors"))] },
    marlin: { model: () => [on("format", refused("Marlin files are not loaded any more: convert to gptq"))] },
    gguf: { model: () => plugin("GGUF") },
  },
  otherwise: { model: ({ format }) => [on("format", refused(`${format} is no format that vLLM loads`))] },
}

/** Merged layers: all parts but the last fill whole blocks of rows. */
function unevenBlocks({ modules }: StoredModel) {
  const inner = /(self_attn\.[qk]_proj|mlp\.gate_proj)$/
  return modules.flatMap(({ name, shape, scheme }) =>
    scheme.granularity === "block" && inner.test(name) && shape[0] % (scheme.blockRows ?? 1) !== 0
      ? [
          {
            ...refused(
              `n = ${shape[0]} is not a multiple of the ${scheme.blockRows} rows of a block, and the layer is merged with others`,
            ),
            tensor: name,
          },
        ]
      : [],
  )
}
