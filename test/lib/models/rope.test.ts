import t, { type Test } from "tap"
import { parseDecoderConfig } from "../../../lib/models/config.ts"
import { describeRope } from "../../../lib/models/rope.ts"
import { vector as fixture } from "../containers/support.ts"
import { ropeVectors } from "./support/reference-models.ts"
import { tinyConfig } from "./support/tiny-checkpoint.ts"

const vectors = ropeVectors()

function rope(changes: Record<string, unknown>) {
  const { keys, config } = parseDecoderConfig({ ...tinyConfig, ...changes }, { normEps: 1e-6, maxPositions: 2048 })
  return describeRope(keys, config.headDim, config.maxContext)
}

function close(t: Test, found: Float32Array, expected: number[], tolerance: number): void {
  t.equal(found.length, expected.length)
  expected.forEach((value, i) => {
    t.ok(Math.abs(found[i]! - value) <= tolerance * Math.abs(value), `[${i}] ${found[i]} is close to ${value}`)
  })
}

t.test("llama3 frequencies of an independent implementation", async t => {
  const vector = vectors["rope-llama3"]!
  const { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } = vector
  const scaling = { rope_type: "llama3", factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }
  const found = rope({ head_dim: vector.head_dim, rope_theta: vector.rope_theta, rope_scaling: scaling })
  close(t, found.inverseFrequencies, vector.inv_freq as number[], vector.rtol as number)
  t.equal(found.attentionFactor, 1)
})

t.test("yarn frequencies of an independent implementation", async t => {
  const vector = vectors["rope-yarn"]!
  const { factor, original_max_position_embeddings } = vector
  const scaling = { rope_type: "yarn", factor, original_max_position_embeddings }
  for (const config of [
    { rope_theta: vector.rope_theta, rope_scaling: scaling },
    { rope_theta: undefined, rope_parameters: { ...scaling, rope_theta: vector.rope_theta } },
  ]) {
    const found = rope({ head_dim: vector.head_dim, ...config })
    close(t, found.inverseFrequencies, vector.inv_freq as number[], vector.rtol as number)
    t.ok(Math.abs(found.attentionFactor - (vector.attention_factor as number)) < 1e-9)
    t.equal(found.scaledContext, 131072)
  }
})

t.test("yarn's attention factor", async t => {
  const factor = (changes: object) => rope({ rope_scaling: { type: "yarn", factor: 4, ...changes } }).attentionFactor
  t.equal(factor({ attention_factor: 1.5 }), 1.5)
  t.equal(factor({ factor: 1 }), 1, "nothing is scaled")
  t.equal(factor({ mscale: 1, mscale_all_dim: 1 }), 1)
  t.ok(Math.abs(factor({ mscale: 2, mscale_all_dim: 1 }) - (0.2 * Math.log(4) + 1) / (0.1 * Math.log(4) + 1)) < 1e-12)
})

t.test("longrope frequencies of an independent implementation", async t => {
  const { rope_theta, head_dim, partial_rotary_factor, short_factor, long_factor, ...vector } = fixture("rope-longrope")
  const { max_position_embeddings, original_max_position_embeddings } = vector
  const scaling = { type: "longrope", short_factor, long_factor }
  const shared = { rope_theta, head_dim, partial_rotary_factor, max_position_embeddings }
  for (const config of [
    { ...shared, original_max_position_embeddings, rope_scaling: scaling },
    { ...shared, rope_scaling: { ...scaling, original_max_position_embeddings } },
  ]) {
    const found = rope(config)
    t.equal(found.rotaryDim, 48)
    // Bit by bit, once rounded to f32.
    t.same(found.inverseFrequencies, Float32Array.from(vector.inv_freq_short))
    t.same(found.beyond, {
      length: original_max_position_embeddings,
      values: Float32Array.from(vector.inv_freq_long),
    })
    t.equal(found.attentionFactor, vector.attention_factor)
  }
  const factor = (changes: object) =>
    rope({ ...shared, rope_scaling: { ...scaling, original_max_position_embeddings, ...changes } }).attentionFactor
  t.equal(factor({ attention_factor: 1.5 }), 1.5)
  t.equal(factor({ factor: 1 }), 1, "nothing is scaled")
  t.equal(factor({ factor: 4 }), Math.sqrt(1 + Math.log(4) / Math.log(4096)))
})

t.test("default, linear and partial", async t => {
  const base = [1, 10000 ** (-2 / 6), 10000 ** (-4 / 6)]
  close(t, rope({}).inverseFrequencies, base, 1e-7)
  const linear = rope({ rope_scaling: { type: "linear", factor: 8 } })
  close(
    t,
    linear.inverseFrequencies,
    base.map(value => value / 8),
    1e-7,
  )
  const partial = rope({ head_dim: 8, partial_rotary_factor: 0.5 })
  t.equal(partial.rotaryDim, 4)
  close(t, partial.inverseFrequencies, [1, 0.01], 1e-7)
})

t.test("factors, as GGUF files hold them", async t => {
  const base = [1, 10000 ** (-2 / 6), 10000 ** (-4 / 6)]
  const found = rope({ rope_scaling: { rope_type: "factors", factors: [1, 2, 8] } })
  close(t, found.inverseFrequencies, [base[0]!, base[1]! / 2, base[2]! / 8], 1e-7)
  close(t, found.factors!, [1, 2, 8], 1e-7)
  t.equal(found.attentionFactor, 1)
  const bad = (factors: unknown, message: RegExp) =>
    t.throws(() => rope({ rope_scaling: { rope_type: "factors", factors } }), { code: "ERR_FORMAT", message })
  bad([1, 2], /factors has 2 entries, expected 3: one for each pair of the 6 elements/)
  bad([1, 0, 2], /factors.1 is 0; expected more than 0/)
  bad([1, Number.NaN, 2], /factors.1 is NaN/)
  bad(undefined, /factors is missing/)
})
