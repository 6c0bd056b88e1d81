// llama.cpp: GGUF files by the loader, folders by convert_hf_to_gguf.py. Sources: ggml-org/llama.cpp, src/llama-model-loader.cpp,
// src/llama-arch.cpp, src/llama-vocab.cpp, conversion/base.py (dequant_model).
import { ggmlTypeNamed } from "../../containers/gguf-types.ts"
import { ignoresWindows } from "../../models/gguf-config.ts"
import { preTokenizerNamed } from "../../models/gguf-pre.ts"
import { type Engine, ignored, of, on, refused, type StoredModel, slow } from "./engine.ts"

/** Types that only activations take while a product is computed. */
const notWeights: readonly string[] = ["Q8_1", "Q8_K"]

function ggufTensors({ tensors }: StoredModel) {
  return tensors.flatMap(({ name, shape, type }) => {
    const known = ggmlTypeNamed(type)
    if (notWeights.includes(type))
      return [of(name, refused(`${type} is a type of activations: there is no product with such weights`))]
    if (/_norm\.weight$|\.bias$/.test(name) && type !== "F32")
      return [of(name, refused(`it is ${type}: norms and biases are computed in F32 only`))]
    if (known && (shape.at(-1) ?? 1) % known.blockSize !== 0)
      return [of(name, refused(`rows of ${shape.at(-1)} are no whole blocks of ${known.blockSize}`))]
    if (type === "F64" || /^I(8|16|32|64)$/.test(type))
      return [of(name, refused(`it is ${type}: there is no product with such weights`))]
    return []
  })
}

function metadataRules({ metadata, architecture }: StoredModel) {
  const text = (key: string) => {
    const field = metadata?.get(key)
    return field?.type === "string" ? field.value : null
  }
  const pre = text("tokenizer.ggml.pre")
  const byteLevel = text("tokenizer.ggml.model") === "gpt2"
  return [
    on(
      "tokenizer.ggml.model",
      text("tokenizer.ggml.model") === null
        ? refused("the key is missing: a file without a vocabulary is not run")
        : null,
    ),
    on(
      "tokenizer.ggml.pre",
      byteLevel && pre === null
        ? ignored("the key is missing: texts are split by the default rule, which may not be the model's")
        : null,
    ),
    on(
      "tokenizer.ggml.pre",
      byteLevel && pre !== null && !isKnownPre(pre)
        ? refused(`${JSON.stringify(pre)} is no pre-tokenizer that this version knows of`)
        : null,
    ),
    on(
      `${architecture}.attention.sliding_window`,
      ignoresWindows(architecture) && metadata?.has(`${architecture}.attention.sliding_window`)
        ? ignored("all layers of this architecture see everything")
        : null,
    ),
  ]
}

function isKnownPre(name: string): boolean {
  try {
    preTokenizerNamed(name, "")
    return true
  } catch {
    return false
  }
}

/** Folders have to be converted; what its converter reads, it makes floats of. `tsq convert` to a .gguf keeps the codes. */
const converted = on(
  "format",
  slow(
    "its converter makes floats of the weights; convert to a .gguf file keeps the codes where a block type holds them",
  ),
)
const notConverted = (reason: string) => on("format", refused(`${reason}; convert to a .gguf file instead`))

export const llamaCpp: Engine = {
  name: "llama.cpp",
  formats: {
    gguf: { model: model => [...ggufTensors(model), ...metadataRules(model)] },
    dense: { model: () => [on("format", slow("a folder has to be converted to a .gguf file first"))] },
    gptq: {
      module: ({ scheme: { bits } }) => [
        [2, 4, 8].includes(bits) ? null : refused(`its converter reads GPTQ codes of 2, 4 and 8 bits, not ${bits}`),
      ],
      model: () => [converted],
    },
    "compressed-tensors": {
      module: ({ scheme: { bits, granularity } }) => [
        bits === 3
          ? refused("its converter reads the layout of 3-bit codes before compressed-tensors 0.17 only")
          : null,
        granularity === "tensor" ? refused("its converter reads packed codes with scales of groups only") : null,
      ],
      model: ({ settings }) => {
        const groups = Object.keys((settings?.config_groups ?? {}) as object).length
        return [
          converted,
          on(
            "quantization_config.config_groups",
            groups > 1 ? refused(`its converter takes one config group, and there are ${groups}`) : null,
          ),
        ]
      },
    },
    fp8: { model: () => [converted] },
    modelopt: { model: () => [converted] },
    awq: { model: () => [notConverted("its converter does not read AWQ checkpoints")] },
    bitsandbytes: { model: () => [notConverted("its converter does not read bitsandbytes checkpoints")] },
    marlin: { model: () => [notConverted("its converter does not read Marlin checkpoints")] },
  },
  otherwise: { model: ({ format }) => [notConverted(`its converter does not read ${format} checkpoints`)] },
}
