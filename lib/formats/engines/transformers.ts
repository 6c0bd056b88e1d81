// transformers 5 with the packages that its loaders ask for. Sources: huggingface/transformers, src/transformers/quantizers/ and
// utils/quantization_config.py; huggingface/optimum, optimum/gptq/quantizer.py.
import { type Engine, ignored, on, refused, type StoredModel, slow } from "./engine.ts"

/** Strict configuration classes take no whole number for a float, and no float for a whole number. */
const floats = [
  "rms_norm_eps",
  "initializer_range",
  "final_logit_softcapping",
  "attn_logit_softcapping",
  "llm_int8_threshold",
]
const integers = [
  "hidden_size",
  "intermediate_size",
  "num_hidden_layers",
  "num_attention_heads",
  "num_key_value_heads",
  "head_dim",
]
const moreIntegers = ["vocab_size", "max_position_embeddings"]

function lexemes({ configText }: StoredModel) {
  if (configText === null) return []
  const lexeme = (key: string) => new RegExp(`"${key}"\\s*:\\s*(-?[0-9][0-9.eE+-]*)`).exec(configText)?.[1]
  const isWhole = (text: string) => /^-?\d+$/.test(text)
  return [
    ...floats.map(key => {
      const found = lexeme(key)
      return on(
        key,
        found !== undefined && isWhole(found)
          ? refused(`it is written ${found}, and a float is expected: ${found}.0`)
          : null,
      )
    }),
    ...[...integers, ...moreIntegers].map(key => {
      const found = lexeme(key)
      return on(
        key,
        found !== undefined && !isWhole(found)
          ? refused(`it is written ${found}, and a whole number is expected`)
          : null,
      )
    }),
  ]
}

/** optimum knows neither rules nor layers of their own settings. */
function gptqSettings({ settings, modules }: StoredModel) {
  const dynamic = (settings?.dynamic ?? {}) as Record<string, unknown>
  const rules = Object.keys(dynamic)
  const others = rules.filter(rule => !rule.startsWith("-:"))
  const damp = settings?.damp_percent
  return [
    on(
      "quantization_config.dynamic",
      others.length > 0
        ? refused(
            `"dynamic" is not known there, and ${others.length} of its rules give layers other bits or groups: they load with wrong shapes`,
          )
        : null,
    ),
    on(
      "quantization_config.dynamic",
      others.length === 0 && rules.length > 0 && settings?.modules_in_block_to_quantize === undefined
        ? refused(
            '"dynamic" is not known there, and layers that it leaves unquantized are not named in "modules_in_block_to_quantize"',
          )
        : null,
    ),
    on(
      "quantization_config.damp_percent",
      typeof damp === "number" && !(damp > 0 && damp < 1)
        ? refused(`it is ${damp}, expected a number between 0 and 1`)
        : null,
    ),
    ...modules.flatMap(({ name }) =>
      name === "lm_head" ? [{ ...refused("a quantized head is not loaded from GPTQ files"), tensor: name }] : [],
    ),
  ]
}

export const transformers: Engine = {
  name: "transformers",
  formats: {
    dense: {},
    gptq: { model: gptqSettings },
    awq: {
      model: ({ settings }) => [
        on(
          "quantization_config.zero_point",
          settings?.zero_point === false ? refused("AWQ files without zero points are not loaded") : null,
        ),
      ],
    },
    "compressed-tensors": {},
    bitsandbytes: {},
    fp8: {
      model: ({ settings }) => [
        on(
          "quantization_config.activation_scheme",
          settings?.activation_scheme === "static"
            ? ignored("stored scales of activations have another name there and are not read")
            : null,
        ),
      ],
    },
    fbgemm_fp8: {},
    gguf: { model: () => [on("format", slow("weights are made floats when the file is loaded"))] },
    modelopt: { model: () => [on("format", refused("ModelOpt checkpoints are not known to transformers"))] },
    marlin: { model: () => [on("format", refused("Marlin files are not loaded any more: convert to gptq"))] },
  },
  always: { model: lexemes },
  otherwise: { model: ({ format }) => [on("format", refused(`${format} is no format that transformers loads`))] },
}
