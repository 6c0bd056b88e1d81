// LoRA adapters of PEFT, merged before quantizing; held against products in double precision.
import { cpSync, existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { SafetensorsWriter } from "../../../lib/containers/safetensors-writer.ts"
import { native } from "../../../lib/native.ts"
import { type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { tsqError } from "../containers/support.ts"
import { adapter, f32, type Pair, pair } from "./adapter-files.ts"
import { beside, fable, folder, hashes, logits, relativeDistance, smallCheckpoint } from "./support.ts"

const base = "base_model.model."
const query = "model.layers.1.self_attn.q_proj"
const up = "model.layers.0.mlp.up_proj"

async function weights(directory: string, name: string): Promise<Float32Array> {
  const checkpoint = await Checkpoint.open(directory)
  try {
    return (await checkpoint.floats(name)).slice()
  } finally {
    checkpoint.dispose()
  }
}

/** W + scale · B·A in double precision, rounded to bf16. */
function merged(w: Float32Array, { a, b }: Pair, scale: number): Float32Array {
  const k = a[0]!.length
  const sums = Float32Array.from(w, (x, i) => {
    const [row, column] = [Math.floor(i / k), i % k]
    return x + scale * a.reduce((sum, inputs, r) => sum + b[row]![r]! * inputs[column]!, 0)
  })
  return bf16(sums)
}

function bf16(values: Float32Array): Float32Array {
  const half = new Uint16Array(values.length)
  const out = new Float32Array(values.length)
  native.convert(values, 0, half, 2, values.length)
  native.convert(half, 2, out, 0, values.length)
  return out
}

/** What is left unquantized shows the merged weights. */
const kept = (...modules: string[]): QuantizeModelOptions => ({
  scheme: "w4a16",
  groupSize: 32,
  format: "compressed-tensors",
  ignore: modules,
  onWarning: () => {},
})

t.test("W + s·B·A, to the bit where the sums are exact", async t => {
  const source = smallCheckpoint(t)
  const pairs = { [query]: pair(1, 64, 64, 4), [up]: pair(2, 96, 64, 4) }
  for (const [config, scale] of [
    [{}, 2],
    [{ use_rslora: true }, 4],
    [{ lora_alpha: 2 }, 0.5],
    [{ alpha_pattern: { "self_attn.q_proj": 16, up_proj: 16 } }, 4],
    [{ r: 2, rank_pattern: { q_proj: 4, "layers.0.mlp.up_proj": 4 } }, 2],
  ] as const) {
    const out = join(folder(t), "out")
    const path = await adapter(t, config, pairs)
    const report = await quantizeModel(source, out, { ...kept(query, up), adapters: [path] })
    t.same(report.recipe.adapters, ["adapter"])
    for (const [module, own] of Object.entries(pairs)) {
      const name = `${module}.weight`
      t.same(
        await weights(out, name),
        merged(await weights(source, name), own, scale),
        `${JSON.stringify(config)} ${module}`,
      )
    }
    const untouched = "model.layers.0.input_layernorm.weight"
    t.same(await weights(out, untouched), await weights(source, untouched))
    t.same(beside(out), ["out"], "nothing is left behind")
  }
})

t.test("merged and quantized is quantized of the merged", async t => {
  const source = smallCheckpoint(t)
  const own = pair(3, 64, 64, 4)
  const path = await adapter(t, {}, { [query]: own })
  const values = merged(await weights(source, `${query}.weight`), own, 2)
  const other = smallCheckpoint(t, {}, "BF16", all => all[`${query}.weight`]!.values.set(values))
  const options: QuantizeModelOptions = { groupSize: 32, onWarning: () => {} }
  const [first, second] = [join(folder(t), "first"), join(folder(t), "second")]
  await quantizeModel(source, first, { ...options, adapters: [path] })
  await quantizeModel(other, second, options)
  t.equal(hashes(first)["model.safetensors"], hashes(second)["model.safetensors"])
  t.ok(relativeDistance(await logits(first, [1, 2, 3]), await logits(source, [1, 2, 3])) > 0)
})

t.test("GGUF files take adapters too", async t => {
  const name = "model.layers.1.self_attn.v_proj"
  const checkpoint = await Checkpoint.open(fable)
  const { shape } = checkpoint.entry(`${name}.weight`)
  const own = pair(6, shape[0]!, shape[1]!, 4)
  const path = await adapter(t, {}, { [name]: own })
  const parent = folder(t)
  const source = join(parent, "fable-5m")
  cpSync(fable, source, { recursive: true, filter: file => !file.endsWith(".safetensors") })
  const values = merged(await checkpoint.floats(`${name}.weight`), own, 2)
  const writer = new SafetensorsWriter(source)
  for (const tensor of checkpoint.names) {
    const { dtype, shape } = checkpoint.entry(tensor)
    const half = new Uint16Array(values.length)
    if (tensor === `${name}.weight`) native.convert(values, 0, half, 2, values.length)
    const data = tensor === `${name}.weight` ? new Uint8Array(half.buffer) : await checkpoint.readBytes(tensor)
    await writer.add({ name: tensor, dtype, shape, data })
  }
  await writer.finish()
  t.equal(checkpoint.entry(`${name}.weight`).dtype, "BF16")
  checkpoint.dispose()
  await quantizeModel(fable, join(parent, "a.gguf"), { preset: "q8_0", adapters: [path] })
  await quantizeModel(source, join(parent, "b.gguf"), { preset: "q8_0" })
  t.ok(readFileSync(join(parent, "a.gguf")).equals(readFileSync(join(parent, "b.gguf"))))
  t.same(beside(join(parent, "a.gguf")).sort(), ["a.gguf", "b.gguf", "fable-5m"])
})

t.test("several adapters, and tensors saved whole", async t => {
  const source = smallCheckpoint(t)
  const [one, two] = [pair(4, 64, 64, 4), pair(5, 64, 64, 4)]
  const norm = new Float32Array(64).fill(1.5)
  const whole = {
    name: `${base}model.norm.weight`,
    dtype: "F32",
    shape: [64],
    data: new Uint8Array(norm.buffer),
  }
  const paths = [
    await adapter(t, {}, { [query]: one }),
    await adapter(t, { modules_to_save: ["norm"] }, { [query]: two }, [whole]),
  ]
  const out = join(folder(t), "out")
  await quantizeModel(source, out, { ...kept(query), adapters: paths })
  const first = merged(await weights(source, `${query}.weight`), one, 2)
  t.same(await weights(out, `${query}.weight`), merged(first, two, 2))
  t.same(await weights(out, "model.norm.weight"), norm)
})

t.test("what is not plain LoRA, or of another model, is refused and leaves nothing behind", async t => {
  const source = smallCheckpoint(t)
  const pairs = { [query]: pair(1, 64, 64, 4) }
  const refused = async (
    path: string,
    code: string,
    message: RegExp,
    own: QuantizeModelOptions = {},
    from = source,
  ) => {
    const out = join(folder(t), "out")
    await t.rejects(
      quantizeModel(from, out, { onWarning: () => {}, ...own, adapters: [path] }),
      tsqError(code, message),
    )
    t.same(beside(out), [])
  }
  for (const [config, message] of [
    [{ use_dora: true }, /use_dora is boolean true; plain LoRA is merged/],
    [{ peft_type: "IA3" }, /peft_type is string "IA3"/],
    [{ bias: "all" }, /bias is string "all"/],
    [{ lora_bias: true }, /lora_bias/],
    [{ layer_replication: [[0, 2]] }, /layer_replication/],
    [{ target_parameters: ["experts"] }, /target_parameters/],
    [{ trainable_token_indices: [1] }, /trainable_token_indices/],
    [{ init_lora_weights: "pissa" }, /"pissa", which changes the base weights/],
    [{ something_new: 3 }, /something_new is number 3/],
  ] as const)
    await refused(await adapter(t, config, pairs), "ERR_UNSUPPORTED", message)
  await refused(await adapter(t, { r: "4" }, pairs), "ERR_FORMAT", /r is string "4"/)
  await refused(await adapter(t, { r: 8 }, pairs), "ERR_FORMAT", /lora_A is \[4, 64\].*expected \[8, inputs\]/)
  await refused(await adapter(t, { rank_pattern: { "(": 4 } }, pairs), "ERR_FORMAT", /adapter_config.json.rank_pattern/)
  await refused(
    await adapter(t, {}, { [query]: pair(1, 64, 32, 4) }),
    "ERR_SHAPE",
    /\[64, 32\].*\[64, 64\]; the adapter belongs/,
  )
  await refused(
    await adapter(t, {}, { "model.layers.9.self_attn.q_proj": pair(1, 64, 64, 4) }),
    "ERR_FORMAT",
    /another model/,
  )
  const magnitude = { ...f32(`${query}.lora_magnitude_vector`, [[1]]), shape: [1] }
  await refused(await adapter(t, {}, pairs, [magnitude]), "ERR_UNSUPPORTED", /lora_magnitude_vector is none/)
  await refused(await adapter(t, {}, {}, [f32(`${query}.lora_A.weight`, [[1]])]), "ERR_FORMAT", /lora_B missing/)
  await refused(join(folder(t), "absent"), "ERR_IO", /adapter_config.json/)
  await refused(await adapter(t, {}, pairs), "ERR_OPTION", /calibration/, { rounding: "gptq" })
  const quantized = join(folder(t), "quantized")
  await quantizeModel(source, quantized, { groupSize: 32, onWarning: () => {} })
  await refused(await adapter(t, {}, pairs), "ERR_UNSUPPORTED", /run them beside quantized ones/, {}, quantized)
})

t.test("an abort while merging leaves nothing behind", async t => {
  const out = join(folder(t), "out")
  const controller = new AbortController()
  const path = await adapter(t, {}, { [query]: pair(1, 64, 64, 4), [up]: pair(2, 96, 64, 4) })
  const work = quantizeModel(smallCheckpoint(t), out, {
    adapters: [path],
    signal: controller.signal,
    onWarning: () => {},
    onProgress: ({ stage }) => stage === "merge" && controller.abort(),
  })
  await t.rejects(work, { code: "ERR_ABORTED" })
  t.same(beside(out), [])
  t.notOk(existsSync(`${out}.tsq-resume`))
})
