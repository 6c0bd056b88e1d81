// What engines say of models: rule by rule, and of files that this library writes.
import { join } from "node:path"
import t from "tap"
import type { GgufMetadata, GgufValue } from "../../../../lib/containers/gguf-types.ts"
import type { Scheme } from "../../../../lib/core/scheme.ts"
import type { EngineFinding, EngineName, StoredModel, StoredModule } from "../../../../lib/formats/engines/engine.ts"
import { checkEngines, engineNames, judge } from "../../../../lib/formats/engines/registry.ts"
import { formats } from "../../../../lib/formats/registry.ts"
import { inspectModel } from "../../../../lib/quantize/inspect-model.ts"
import { quantizeModel } from "../../../../lib/quantize/quantize-model.ts"
import { findingText } from "../../../../lib/report/tables.ts"
import { tsqError } from "../../containers/support.ts"
import { fable, folder, smallCheckpoint } from "../../quantize/support.ts"

const scheme = (change: Partial<Scheme> = {}): Scheme => ({
  ...{ bits: 4, symmetric: true, granularity: "group", groupSize: 128, scaleType: "f16" },
  ...change,
})

const stored = (name: string, change: Partial<Scheme> = {}, shape: [number, number] = [256, 256]): StoredModule => ({
  ...{ name: `model.layers.0.${name}`, shape, scheme: scheme(change), groupIndex: false },
})

const model = (format: string, modules: StoredModule[] = [], change: Partial<StoredModel> = {}): StoredModel => ({
  ...{ format, architecture: "llama", configText: '{"rms_norm_eps": 1e-5}', modules, tensors: [], metadata: null },
  settings: { desc_act: false, sym: true, group_size: 128, activation_scheme: "dynamic" },
  ...change,
})

const says = (engine: EngineName, of: StoredModel) => judge([engine], of)
const found = (findings: EngineFinding[], severity: string, reason: RegExp, where: string | null = null) =>
  findings.some(
    f =>
      f.severity === severity && reason.test(f.reason) && (where === null || f.tensor === where || f.setting === where),
  )

t.test("a plain GPTQ checkpoint is taken by all that read folders", async t => {
  const plain = model("gptq", [stored("mlp.down_proj")])
  for (const engine of ["vllm", "sglang", "transformers"] as const) t.strictSame(says(engine, plain), [], engine)
  for (const engine of ["llama.cpp", "onnxruntime"] as const)
    t.notOk(
      says(engine, plain).some(({ severity }) => severity === "refused"),
      engine,
    )
})

t.test("rules", async t => {
  const cases: [EngineName, StoredModel, string, RegExp, string | null][] = [
    [
      "vllm",
      model("gptq", [stored("mlp.down_proj", { bits: 3 })]),
      "refused",
      /3 bits/,
      "model.layers.0.mlp.down_proj",
    ],
    ["vllm", model("gptq", [stored("mlp.down_proj", { symmetric: false })]), "refused", /zero points/, null],
    ["vllm", model("gptq", [stored("mlp.down_proj", { groupSize: 256 })]), "refused", /groups of 256/, null],
    ["vllm", model("gptq", [stored("mlp.down_proj", {}, [96, 256])]), "slow", /n = 96 .*64/, null],
    ["vllm", model("gptq", [stored("mlp.down_proj", { groupSize: 32 }, [64, 96])]), "slow", /k = 96 .*128/, null],
    [
      "vllm",
      model("gptq", [], { settings: { sym: true } }),
      "refused",
      /stops without it/,
      "quantization_config.desc_act",
    ],
    [
      "vllm",
      model("gptq", [], { settings: { sym: true, desc_act: true, group_size: -1 } }),
      "ignored",
      /dropped/,
      null,
    ],
    [
      "vllm",
      model("gptq", [stored("self_attn.q_proj"), stored("self_attn.k_proj", { bits: 8 })], {
        tensors: [{ name: "model.layers.0.self_attn.v_proj.weight", shape: [1, 1], type: "F16" }],
      }),
      "refused",
      /merged.*q_proj 4 bits.*k_proj 8 bits.*v_proj not quantized/,
      null,
    ],
    ["vllm", model("awq", [], { settings: { version: "gemv" } }), "refused", /garbage/, "quantization_config.version"],
    ["vllm", model("awq", [], { settings: { zero_point: false } }), "refused", /zero points/, null],
    ["vllm", model("awq", [stored("mlp.down_proj", {}, [20, 256])]), "refused", /n = 20/, null],
    [
      "vllm",
      model("compressed-tensors", [stored("mlp.down_proj", { bits: 5, symmetric: false })]),
      "refused",
      /zero points with 5 bits/,
      null,
    ],
    ["vllm", model("compressed-tensors", [stored("mlp.down_proj", {}, [64, 200])]), "refused", /whole groups/, null],
    [
      "vllm",
      model("compressed-tensors", [{ ...stored("x"), name: "model.embed_tokens" }]),
      "refused",
      /embedding/,
      "model.embed_tokens",
    ],
    [
      "vllm",
      model("fp8", [
        stored(
          "mlp.gate_proj",
          { bits: 8, codebook: "e4m3", granularity: "block", blockRows: 128, scaleType: "f32" },
          [200, 256],
        ),
      ]),
      "refused",
      /rows of a block/,
      null,
    ],
    ["vllm", model("marlin"), "refused", /convert to gptq/, "format"],
    ["vllm", model("gguf"), "refused", /plugin/, "format"],
    ["sglang", model("gptq", [stored("mlp.down_proj", { bits: 3 })]), "slow", /4 and 8 bits/, null],
    ["sglang", model("gptq", [stored("mlp.down_proj", { bits: 5 })]), "refused", /5 bits/, null],
    ["sglang", model("bitsandbytes"), "refused", /old vLLM/, "format"],
    [
      "transformers",
      model("gptq", [], { settings: { dynamic: { "+:.*": { bits: 8 } } } }),
      "refused",
      /wrong shapes/,
      null,
    ],
    [
      "transformers",
      model("gptq", [], { settings: { dynamic: { "-:.*": {} } } }),
      "refused",
      /modules_in_block_to_quantize/,
      null,
    ],
    ["transformers", model("gptq", [], { settings: { damp_percent: 0 } }), "refused", /between 0 and 1/, null],
    ["transformers", model("gptq", [{ ...stored("x"), name: "lm_head" }]), "refused", /head/, "lm_head"],
    [
      "transformers",
      model("dense", [], { configText: '{"rms_norm_eps": 1, "hidden_size": 64.0}' }),
      "refused",
      /1\.0/,
      "rms_norm_eps",
    ],
    [
      "transformers",
      model("dense", [], { configText: '{"rms_norm_eps": 1.0, "hidden_size": 64.0}' }),
      "refused",
      /whole number/,
      "hidden_size",
    ],
    ["transformers", model("modelopt"), "refused", /ModelOpt/, "format"],
    ["llama.cpp", model("awq"), "refused", /convert to a \.gguf/, "format"],
    ["llama.cpp", model("gptq", [stored("mlp.down_proj", { bits: 3 })]), "refused", /not 3/, null],
    [
      "llama.cpp",
      model("compressed-tensors", [], { settings: { config_groups: { a: {}, b: {} } } }),
      "refused",
      /there are 2/,
      null,
    ],
    [
      "onnxruntime",
      model("gptq", [stored("mlp.down_proj", { groupSize: 48 }, [64, 96])]),
      "refused",
      /powers of two/,
      null,
    ],
    ["onnxruntime", model("gptq", [{ ...stored("mlp.down_proj"), groupIndex: true }]), "refused", /g_idx/, null],
    ["onnxruntime", model("onnx", [stored("mlp.down_proj", { bits: 3 })]), "refused", /2, 4 and 8/, null],
    ["onnxruntime", model("compressed-tensors"), "refused", /builder/, "format"],
  ]
  for (const [engine, of, severity, reason, where] of cases)
    t.ok(found(says(engine, of), severity, reason, where), `${engine} ${of.format} ${reason}`, {
      found: says(engine, of),
    })
})

t.test("GGUF files for llama.cpp", async t => {
  const metadata = (entries: Record<string, string | number>): GgufMetadata =>
    new Map(
      Object.entries(entries).map(([key, value]): [string, GgufValue] => [
        key,
        typeof value === "string" ? { type: "string", value } : { type: "u32", value },
      ]),
    )
  const gguf = (entries: Record<string, string | number>, tensors: StoredModel["tensors"] = []) =>
    says("llama.cpp", model("gguf", [], { configText: null, metadata: metadata(entries), tensors }))
  const plain = { "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2" }
  t.strictSame(gguf(plain, [{ name: "blk.0.attn_q.weight", shape: [64, 256], type: "Q4_K" }]), [])
  t.ok(found(gguf({}), "refused", /vocabulary/, "tokenizer.ggml.model"))
  t.ok(found(gguf({ "tokenizer.ggml.model": "gpt2" }), "ignored", /default rule/, "tokenizer.ggml.pre"))
  t.ok(found(gguf({ ...plain, "tokenizer.ggml.pre": "mine" }), "refused", /"mine"/, "tokenizer.ggml.pre"))
  t.ok(found(gguf({ ...plain, "llama.attention.sliding_window": 64 }), "ignored", /everything/))
  t.ok(
    found(
      gguf(plain, [{ name: "blk.0.attn_q.weight", shape: [64, 256], type: "Q8_K" }]),
      "refused",
      /activations/,
      "blk.0.attn_q.weight",
    ),
  )
  t.ok(found(gguf(plain, [{ name: "blk.0.attn_norm.weight", shape: [64], type: "F16" }]), "refused", /F32 only/))
})

t.test("every format has a word of every engine", async t => {
  for (const { name } of formats)
    for (const engine of engineNames)
      t.notOk(found(says(engine, model(name)), "refused", /is no format that/), `${engine} knows of ${name}`)
})

t.test("inspectModel asks them, in words and as objects", async t => {
  const out = join(folder(t), "out")
  await quantizeModel(smallCheckpoint(t), out, { format: "gptq", groupSize: 32, scheme: "w3a16" })
  const { findings } = await inspectModel(out, { for: ["vllm", "transformers"] })
  t.ok(found(findings!, "refused", /3 bits/, "model.layers.0.self_attn.q_proj"))
  t.equal(findings!.filter(({ engine, severity }) => engine === "vllm" && severity === "refused").length, 21)
  const text = findingText(findings!, ["vllm", "transformers"])
  t.match(text, /^vllm:\n {2}refused: GPTQ files of 3 bits/)
  t.equal(text.split("GPTQ files of 3 bits").length, 2, "said once")
  t.match(text, /transformers: nothing to say/)
  t.equal((await inspectModel(out)).findings, undefined)
  await quantizeModel(fable, join(out, "../model.gguf"), { preset: "q4_0" })
  t.strictSame((await inspectModel(join(out, "../model.gguf"), { for: ["llama.cpp"] })).findings, [])
  await t.rejects(inspectModel(out, { for: ["vlm"] as never }), tsqError("ERR_OPTION", /"vllm", .*"onnxruntime"/))
  t.throws(() => checkEngines([], "x"), tsqError("ERR_OPTION", /x: for is/))
})
