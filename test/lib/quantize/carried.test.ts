// Settings and scales of a quantized KV cache through conversions.
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { convertModel } from "../../../lib/quantize/convert-model.ts"
import { quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { folder, smallCheckpoint } from "./support.ts"

const scale = "model.layers.0.self_attn.k_scale"
const kv_cache_scheme = { num_bits: 8, type: "float", symmetric: true, strategy: "tensor", dynamic: false }

t.test("kept in the same format, reported in another", async t => {
  const source = smallCheckpoint(t, {}, "BF16", weights => {
    weights[scale] = { shape: [1], values: Float64Array.of(0.5) }
  })
  const out = join(folder(t), "out")
  await quantizeModel(source, out, { scheme: "fp8", onWarning: () => {} })
  const config = JSON.parse(readFileSync(join(out, "config.json"), "utf8"))
  config.quantization_config.kv_cache_scheme = kv_cache_scheme
  writeFileSync(join(out, "config.json"), JSON.stringify(config))
  const converted = async (format: "compressed-tensors" | "fbgemm_fp8") => {
    const warnings: string[] = []
    const path = `${out}-${format}`
    await convertModel(out, path, { format, onWarning: text => warnings.push(text) })
    const checkpoint = await Checkpoint.open(path)
    t.teardown(() => checkpoint.dispose())
    return { checkpoint, warnings }
  }
  const same = await converted("compressed-tensors")
  t.same(same.checkpoint.quantizationConfig!.kv_cache_scheme, kv_cache_scheme)
  t.ok(same.checkpoint.has(scale))
  t.same(same.warnings, [])
  const other = await converted("fbgemm_fp8")
  t.notOk(other.checkpoint.has(scale))
  t.match(other.warnings, [
    /1 scales of a quantized KV cache .*k_scale/,
    /kv_cache_scheme of compressed-tensors has no place/,
  ])
})
