// Families beside Llama's kin as GGUF files: the same model on both ways, and what is refused.
import { cpSync, mkdtempSync, readFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { Gguf } from "../../../lib/containers/gguf.ts"
import { GgufWriter } from "../../../lib/containers/gguf-writer.ts"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { describeModel } from "../../../lib/models/registry.ts"
import { convertModel } from "../../../lib/quantize/convert-model.ts"
import { quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { familyWeights } from "../models/support/family-models.ts"
import { writeCheckpoint } from "../models/support/tiny-checkpoint.ts"
import { fable, folder, logits, relativeDistance, tokens } from "./support.ts"

type Config = Record<string, unknown>

const tiny = {
  ...{ vocab_size: 2048, hidden_size: 64, intermediate_size: 96, num_hidden_layers: 3 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 128 },
  ...{ bos_token_id: 0, eos_token_id: 1 },
}
const gemma3 = {
  ...{ ...tiny, model_type: "gemma3_text", head_dim: 32, query_pre_attn_scalar: 32, sliding_window: 9 },
  ...{ num_hidden_layers: 7, rope_theta: 1000000, rope_local_base_freq: 500, torch_dtype: "float32" },
}

interface Case {
  config: Config
  architecture: string
  /** Keys of the file, without the architecture. */
  keys: Record<string, unknown>
  /** Keys that a missing one stands for. */
  absent?: string[]
}

const cases: Record<string, Case> = {
  gemma3: {
    config: gemma3,
    architecture: "gemma3",
    keys: {
      "attention.sliding_window": 9,
      "attention.key_length": 32,
      "rope.freq_base": 1000000,
      "rope.freq_base_swa": 500,
    },
    absent: ["attention.sliding_window_pattern", "final_logit_softcapping", "rope.scaling.type"],
  },
  "gemma3, a pattern of its own, scaled, capped": {
    config: {
      ...gemma3,
      num_hidden_layers: 3,
      layer_types: ["full_attention", "sliding_attention", "sliding_attention"],
      rope_scaling: { rope_type: "linear", factor: 8 },
      final_logit_softcapping: 5,
    },
    architecture: "gemma3",
    keys: { final_logit_softcapping: 5, "rope.scaling.type": "linear", "rope.scaling.factor": 8 },
  },
  "gemma3, everything seen by all": {
    config: { ...gemma3, num_hidden_layers: 2, sliding_window_pattern: 1, tie_word_embeddings: true },
    architecture: "gemma3",
    keys: { "rope.freq_base": 1000000 },
    absent: ["attention.sliding_window", "rope.freq_base_swa"],
  },
  gemma2: {
    config: {
      ...{ ...tiny, model_type: "gemma2", head_dim: 32, query_pre_attn_scalar: 32, sliding_window: 9 },
      ...{ torch_dtype: "float32", attn_logit_softcapping: 3, final_logit_softcapping: 5 },
    },
    architecture: "gemma2",
    keys: { attn_logit_softcapping: 3, final_logit_softcapping: 5, "attention.sliding_window": 9 },
    absent: ["attention.sliding_window_pattern"],
  },
  "gemma2, the other layers": {
    config: {
      ...{ ...tiny, model_type: "gemma2", head_dim: 32, query_pre_attn_scalar: 32, sliding_window: 9 },
      ...{ torch_dtype: "float32", layer_types: ["full_attention", "sliding_attention", "full_attention"] },
    },
    architecture: "gemma2",
    keys: { attn_logit_softcapping: 50, final_logit_softcapping: 30 },
  },
  phi3: {
    config: { ...tiny, model_type: "phi3", sliding_window: 11, tie_word_embeddings: true },
    architecture: "phi3",
    keys: { "attention.sliding_window": 11, "rope.dimension_count": 16, "rope.scaling.original_context_length": 128 },
    absent: ["rope.scaling.attn_factor"],
  },
  "phi3, longrope beyond its first context, a part turns": {
    config: {
      ...{ ...tiny, model_type: "phi3", partial_rotary_factor: 0.75, original_max_position_embeddings: 23 },
      rope_scaling: {
        type: "longrope",
        short_factor: [1, 1.1, 1.2, 1.3, 1.4, 1.5],
        long_factor: [1, 2.5, 7, 8, 9, 12],
      },
    },
    architecture: "phi3",
    keys: { "rope.dimension_count": 12, "rope.scaling.original_context_length": 23, "attention.sliding_window": 0 },
  },
  gpt2: {
    config: {
      ...{ model_type: "gpt2", vocab_size: 2048, n_embd: 64, n_layer: 2, n_head: 4, n_positions: 64, n_inner: 96 },
      ...{ bos_token_id: 0, eos_token_id: 1 },
    },
    architecture: "gpt2",
    keys: { context_length: 64, feed_forward_length: 96, "attention.head_count": 4 },
    absent: ["rope.freq_base", "attention.layer_norm_rms_epsilon"],
  },
  "gpt2, the first names": {
    config: {
      model_type: "gpt2",
      vocab_size: 2048,
      n_embd: 64,
      n_layer: 1,
      n_head: 2,
      n_positions: 64,
      bareNames: true,
    },
    architecture: "gpt2",
    keys: { feed_forward_length: 256 },
  },
  gpt_neox: {
    config: { ...tiny, model_type: "gpt_neox", num_key_value_heads: undefined },
    architecture: "gptneox",
    keys: { use_parallel_residual: true, "rope.dimension_count": 4, hidden_activation: "gelu" },
  },
  "gpt_neox, one after the other, tanh": {
    config: {
      ...{ ...tiny, model_type: "gpt_neox", num_key_value_heads: undefined, use_parallel_residual: false },
      ...{ hidden_act: "gelu_fast", rotary_pct: 0.5, rotary_emb_base: 5000, layer_norm_eps: 1e-6 },
    },
    architecture: "gptneox",
    keys: { use_parallel_residual: false, "rope.dimension_count": 8, "rope.freq_base": 5000 },
  },
  "gemma3, multimodal": {
    config: { model_type: "gemma3", torch_dtype: "float32", text_config: { ...gemma3, num_hidden_layers: 2 } },
    architecture: "gemma3",
    keys: { block_count: 2 },
  },
}

const ids = tokens(40, 2048, 9)

function checkpoint(t: Parameters<typeof folder>[0], config: Config, dtype: "F32" | "BF16" = "F32"): string {
  const directory = join(folder(t), "model")
  writeCheckpoint(directory, config, familyWeights(config, 7, dtype), dtype)
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) cpSync(join(fable, file), join(directory, file))
  return directory
}

const inside = (directory: string, name: string) => join(mkdtempSync(join(directory, "out-")), name)

for (const [name, { config, architecture, keys, absent = [] }] of Object.entries(cases))
  t.test(name, async t => {
    const source = checkpoint(t, config)
    const work = folder(t)
    const dense = await logits(source, ids)

    t.test("quantizeModel writes a file that computes the same", async t => {
      const out = inside(work, "model.gguf")
      const report = await quantizeModel(source, out, { preset: "f32" })
      t.equal(report.format === "gguf" && report.architecture, architecture)
      t.ok(relativeDistance(await logits(out, ids), dense) < 1e-5)
      const gguf = await Gguf.open(out)
      t.teardown(() => gguf.dispose())
      const found = (key: string) => gguf.metadata.get(`${architecture}.${key}`)?.value
      for (const [key, value] of Object.entries(keys)) t.equal(found(key), value, key)
      for (const key of absent) t.equal(found(key), undefined, key)
    })

    // Once for each architecture.
    if (!name.includes(","))
      t.test("so do blocks, as near as they are, with an importance matrix and with GPTQ", async t => {
        const weighed = { calibration: tokens(8 * 32, 2048), samples: 8, sequenceLength: 32 }
        for (const options of [{ preset: "q8_0" }, { preset: "q4_0", rounding: "gptq", ...weighed }] as const) {
          const out = inside(work, "model.gguf")
          await quantizeModel(source, out, options)
          const distance = relativeDistance(await logits(out, ids), dense)
          t.ok(distance < (options.preset === "q8_0" ? 0.05 : 0.6), `${options.preset}: ${distance}`)
        }
      })

    t.test("convertModel keeps every value, both ways", async t => {
      const out = inside(work, "model.gguf")
      await convertModel(source, out)
      t.ok(relativeDistance(await logits(out, ids), dense) < 1e-5)
      const back = inside(work, "folder")
      await convertModel(out, back, { format: "dense" })
      t.ok(relativeDistance(await logits(back, ids), dense) < 1e-5)
      const [first, second] = [await Checkpoint.open(source), await Checkpoint.open(back)]
      t.teardown(() => {
        first.dispose()
        second.dispose()
      })
      t.equal(second.names.length, first.names.length)
      // The same model, whatever the names of a multimodal one.
      const { sections: a, blocks: b } = describeModel(first.config, name => first.has(name))
      const { sections: c, blocks: d } = describeModel(second.config)
      t.same([c.map(({ ops }) => ops), d], [a.map(({ ops }) => ops), b])
    })

    if (!name.includes(","))
      t.test("blocks become floats", async t => {
        const out = inside(work, "model.gguf")
        await quantizeModel(source, out, { preset: "q8_0" })
        const expected = await logits(out, ids)
        const back = inside(work, "folder")
        await convertModel(out, back, { format: "dense" })
        t.ok(relativeDistance(await logits(back, ids), expected) < 1e-5)
        const again = inside(work, "model.gguf")
        await convertModel(back, again)
        t.ok(relativeDistance(await logits(again, ids), expected) < 1e-5)
      })
  })

t.test("GPT-2's codes, which GPTQ files hold as any other", async t => {
  const source = checkpoint(t, cases.gpt2!.config)
  const [first, gptq, again] = [inside(folder(t), "a.gguf"), inside(folder(t), "gptq"), inside(folder(t), "b.gguf")]
  await quantizeModel(source, first, { preset: "f32" })
  await quantizeModel(source, gptq, { scheme: "w4a16", groupSize: 32, rounding: "nearest", format: "gptq" })
  const expected = await logits(gptq, ids)
  await convertModel(gptq, again)
  t.ok(relativeDistance(await logits(again, ids), expected) < 1e-5)
  const back = inside(folder(t), "back")
  await convertModel(again, back, { format: "gptq" })
  t.ok(relativeDistance(await logits(back, ids), expected) < 1e-5)
  const dense = inside(folder(t), "dense")
  await convertModel(gptq, dense, { format: "dense" })
  t.ok(relativeDistance(await logits(dense, ids), expected) < 1e-5)
  await t.rejects(convertModel(again, inside(folder(t), "ct"), { format: "compressed-tensors" }), {
    code: "ERR_UNSUPPORTED",
    message: /is stored \[in, out\]/,
  })
})

t.test("a tensor that the model would not use", async t => {
  const source = checkpoint(t, { ...gemma3, num_hidden_layers: 1 })
  const good = join(folder(t), "model.gguf")
  await quantizeModel(source, good, { preset: "f32" })
  const gguf = await Gguf.open(good)
  t.teardown(() => gguf.dispose())
  for (const name of ["blk.0.attn_q.bias", "blk.1.attn_norm.weight", "output_norm.bias"]) {
    const path = join(folder(t), "bad.gguf")
    const extra = { name, type: gguf.entry("output_norm.weight").type, shape: [64] }
    const tensors = [...gguf.entries.values(), extra]
    const writer = await GgufWriter.create(path, { metadata: gguf.metadata, tensors })
    for (const { name, shape } of tensors) {
      const stored = name !== extra.name
      await writer.write(name, stored ? gguf.mapped(name) : new Uint8Array(new SharedArrayBuffer(4 * shape[0]!)))
    }
    await writer.finish()
    await t.rejects(loadModel(path), { code: "ERR_UNSUPPORTED", message: new RegExp(`"${name}" would not be used`) })
  }
})

t.test("numbers that transformers wants to be floats are written as such", async t => {
  const source = checkpoint(t, { ...gemma3, num_hidden_layers: 1, final_logit_softcapping: 30 })
  const [file, out] = [join(folder(t), "model.gguf"), join(folder(t), "out")]
  await quantizeModel(source, file, { preset: "bf16" })
  await convertModel(file, out, { format: "dense" })
  const text = readFileSync(join(out, "config.json"), "utf8")
  t.match(text, /"final_logit_softcapping": 30\.0[,\n]/)
})

t.test("what llama.cpp would compute otherwise", async t => {
  const refused = async (config: Config, message: RegExp) =>
    t.rejects(quantizeModel(checkpoint(t, config), join(folder(t), "a.gguf"), { preset: "q8_0" }), {
      code: "ERR_UNSUPPORTED",
      message,
    })
  await refused({ ...gemma3, query_pre_attn_scalar: 50 }, /query_pre_attn_scalar 50, and llama.cpp takes 32 in a model/)
  await refused({ ...gemma3, attn_logit_softcapping: 50 }, /soft cap of attention/)
  await refused({ ...gemma3, hidden_activation: "silu" }, /activation that is not GELU by tanh/)
  await refused(
    { ...gemma3, rope_scaling: { rope_type: "yarn", factor: 2 } },
    /rope type "yarn", and llama.cpp would scale the layers that slide/,
  )
  const gemma2 = { ...gemma3, model_type: "gemma2" }
  await refused(
    { ...gemma2, attn_logit_softcapping: null },
    /no attn_logit_softcapping, and llama.cpp cannot do without/,
  )
  await refused({ ...tiny, model_type: "phi3", hidden_act: "gelu" }, /activation that is not SiLU/)
  const gpt2 = { model_type: "gpt2", vocab_size: 2048, n_embd: 64, n_layer: 2, n_head: 4, n_positions: 64 }
  await refused({ ...gpt2, scale_attn_by_inverse_layer_idx: true }, /scores times 0.125, and llama.cpp takes 0.25/)
  await refused({ ...gpt2, activation_function: "gelu" }, /activation that is not GELU by tanh/)
  const neox = { ...tiny, model_type: "gpt_neox", num_key_value_heads: undefined }
  await refused({ ...neox, tie_word_embeddings: true }, /a head that is its embedding/)
  await refused({ ...neox, attention_bias: false }, /no bias of attention.query_key_value/)
  await refused({ ...neox, hidden_act: "silu" }, /activation that is not GELU/)
})
