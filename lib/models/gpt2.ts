// GPT-2 (model_type "gpt2"): learned positions, weights stored [in, out], GELU approximated by tanh, tied head.
import { z } from "zod"
import { TsqError } from "../core/errors.ts"
import { activationOf, parseDecoderConfig, parseWith } from "./config.ts"
import { buildLayerNormDecoder } from "./layer-norm-decoder.ts"
import type { ModelProgram } from "./program.ts"

const size = z
  .number()
  .int()
  .min(1)
  .max(2 ** 24)
const gpt2Schema = z.object({
  n_embd: size,
  n_layer: size,
  n_head: size,
  n_inner: size.nullish(),
  n_positions: size.nullish(),
  activation_function: z.string().nullish(),
  layer_norm_epsilon: z.number().min(0).max(1).nullish(),
  scale_attn_weights: z.boolean().nullish(),
  scale_attn_by_inverse_layer_idx: z.boolean().nullish(),
  add_cross_attention: z.boolean().nullish(),
})

/** `has` tells whether the checkpoint holds a tensor: the first ones leave out "transformer." */
export function gpt2(raw: Record<string, unknown>, has?: (tensor: string) => boolean): ModelProgram {
  const own = parseWith(gpt2Schema, raw, "config.json")
  if (own.add_cross_attention)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      "config.json: add_cross_attention is true; only models that attend to their own text can be run",
    )
  const named = {
    ...raw,
    hidden_size: own.n_embd,
    num_hidden_layers: own.n_layer,
    num_attention_heads: own.n_head,
    intermediate_size: own.n_inner ?? 4 * own.n_embd,
    max_position_embeddings: own.n_positions ?? 1024,
    num_key_value_heads: null,
    head_dim: null,
    rms_norm_eps: own.layer_norm_epsilon ?? 1e-5,
  }
  const { config } = parseDecoderConfig(named, { normEps: 1e-5, maxPositions: 1024, tied: true })
  // A norm's weight is never quantized, and so is always there.
  const bare = has && !has("transformer.ln_f.weight") && has("ln_f.weight")
  const root = bare ? "" : "transformer."
  const scale = own.scale_attn_weights === false ? 1 : config.headDim ** -0.5
  return buildLayerNormDecoder(
    { ...config, raw },
    {
      names: {
        embedding: `${root}wte`,
        positions: `${root}wpe`,
        finalNorm: `${root}ln_f`,
        head: "lm_head",
        layers: `${root}h.`,
        attentionNorm: "ln_1",
        qkv: "attn.c_attn",
        attentionOut: "attn.c_proj",
        mlpNorm: "ln_2",
        up: "mlp.c_fc",
        down: "mlp.c_proj",
      },
      parallel: false,
      interleaved: false,
      transposed: true,
      attentionBias: true,
      rope: null,
      activation: activationOf(own.activation_function ?? "gelu_new", "activation_function"),
      attentionScales: Array.from({ length: config.layers }, (_, layer) =>
        own.scale_attn_by_inverse_layer_idx ? scale / (layer + 1) : scale,
      ),
    },
  )
}
