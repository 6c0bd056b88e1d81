import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import t, { type Test } from "tap"
import { Tensor } from "../../../lib/core/tensor.ts"
import { matmul } from "../../../lib/kernels/matmul.ts"
import { matmulW4A16 } from "../../../lib/kernels/matmul-w4a16.ts"
import { prepack } from "../../../lib/kernels/packed-weight.ts"
import { NativeHandle, native } from "../../../lib/native.ts"
import { bitsOf, distance, exactValue, norm, numbers, random, randomQuantized, reference, weightOf } from "./support.ts"

const n = 20
const k = 48
const next = random(7)
const q = randomQuantized(next, { n, k, groupSize: 16, bits: 4, symmetric: false })
const q8 = randomQuantized(next, { n, k, groupSize: 16, bits: 8, symmetric: true })
const values = new Float32Array(3 * k).map(() => exactValue(next))
const x = Tensor.from(values, [3, k])
const expected = reference(values, weightOf(q), 3, n, k).y

const close = (t: Test, y: Tensor, to: ArrayLike<number>, bound = 2e-6) =>
  t.ok(distance(numbers(y), to) <= bound * norm(to), `within ${bound}`)

/** Refused alike by both functions, at once and as a rejected promise. */
async function refused(t: Test, args: unknown[], code: string, message: string | RegExp): Promise<void> {
  for (const [name, multiply] of Object.entries({ matmul, matmulW4A16 })) {
    const call = multiply as unknown as ((...args: unknown[]) => Tensor) & {
      async: (...args: unknown[]) => Promise<Tensor>
    }
    t.throws(() => call(...args), { name: "TsqError", code, message }, name)
    await t.rejects(call.async(...args), { name: "TsqError", code, message }, `${name}.async`)
    t.throws(() => call(...args), { message: new RegExp(`^${name}: `) }, "names the function")
  }
}

t.test("shapes: [k], [m, k] and more leading dimensions", async t => {
  const y = matmulW4A16(x, q)
  t.same(y.shape, [3, n])
  t.equal(y.dtype, "f32")
  close(t, y, expected)
  const vector = matmulW4A16(Tensor.from(values.subarray(0, k), [k]), q)
  t.same(vector.shape, [n])
  close(t, vector, expected.subarray(0, n))
  const deep = matmulW4A16(Tensor.from(values, [1, 3, 1, k]), q)
  t.same(deep.shape, [1, 3, 1, n])
  t.same(deep.data, y.data)
  const empty = matmulW4A16(Tensor.from(new Float32Array(0), [0, k]), q)
  t.same(empty.shape, [0, n])
  t.same((await matmulW4A16.async(Tensor.empty([0, k]), q)).shape, [0, n])
})

t.test("a result does not depend on how it is asked for", async t => {
  const y = matmulW4A16(x, q)
  using packed = await prepack(q)
  t.same(matmulW4A16(x, packed).data, y.data)
  t.same(matmul(x, q).data, y.data)
  t.same((await matmulW4A16.async(x, q)).data, y.data)
  t.same((await matmul.async(x, packed)).data, y.data)
  const threads = native.threads()
  t.teardown(() => native.setThreads(threads))
  for (const count of [1, 3]) {
    native.setThreads(count)
    t.same(matmulW4A16(x, q).data, y.data, `${count} threads`)
  }
})

t.test("the first calls pack once, however many run together", async t => {
  const fresh = randomQuantized(random(8), { n, k, groupSize: 16, bits: 4, symmetric: true })
  const before = native.handleCount()
  const [a, b] = await Promise.all([matmulW4A16.async(x, fresh), matmulW4A16.async(x, fresh)])
  t.same(a.data, b.data)
  matmulW4A16(x, fresh)
  t.equal(native.handleCount(), before + 1)
})

t.test("bias and out", async t => {
  const bias = new Float32Array(n).map((_, i) => i / 8 - 1)
  const shifted = expected.map((value, i) => value + bias[i % n]!)
  for (const dtype of ["f32", "f16", "bf16"] as const) {
    const tensor =
      dtype === "f32"
        ? Tensor.from(bias, [n])
        : Tensor.from(
            Uint16Array.from(bias, value => bitsOf(value, dtype)),
            [n],
            dtype,
          )
    close(t, matmulW4A16(x, q, { bias: tensor }), shifted)
    close(t, await matmulW4A16.async(x, q, { bias: tensor }), shifted)
  }
  for (const out of [Tensor.empty([3, n]), Tensor.from(new Float32Array(3 * n), [3, n])]) {
    t.equal(matmulW4A16(x, q, { out }), out)
    close(t, out, expected)
    out.data.fill(0)
    t.equal(await matmulW4A16.async(x, q, { out }), out)
    close(t, out, expected)
  }
})

t.test("the promise form works on what the arrays held when it was called", async t => {
  const own = Tensor.from(values.slice(), [3, k])
  const bias = Tensor.from(new Float32Array(n).fill(1), [n])
  const pending = matmulW4A16.async(own, q, { bias })
  bias.data.fill(100)
  own.data.fill(100)
  close(
    t,
    await pending,
    expected.map(value => value + 1),
  )
})

t.test("buffers that vanish during a call", async t => {
  const array = values.slice()
  const input = Tensor.from(array, [3, k])
  const result = new Float32Array(3 * n)
  const out = Tensor.from(result, [3, n])
  const pending = matmulW4A16.async(input, q, { out })
  structuredClone(array, { transfer: [array.buffer] })
  structuredClone(result, { transfer: [result.buffer] })
  await t.rejects(pending, { code: "ERR_SHAPE", message: /was transferred/ })
  t.throws(() => matmulW4A16(input, q), { code: "ERR_SHAPE", message: /was transferred/ })
})

t.test("refuses x", async t => {
  await refused(t, [values, q], "ERR_DTYPE", "x is a Float32Array, expected a Tensor")
  await refused(t, [undefined, q], "ERR_DTYPE", "x is undefined, expected a Tensor")
  await refused(t, [Tensor.empty([3, k], "i8"), q], "ERR_DTYPE", "x is i8, expected f32, f16 or bf16")
  await refused(
    t,
    [Tensor.empty([3, k + 1]), q],
    "ERR_SHAPE",
    `x has shape [3, ${k + 1}], expected [..., ${k}] for a weight of [${n}, ${k}]`,
  )
  await refused(t, [Tensor.empty([k, 3]), q], "ERR_SHAPE", "x has shape [48, 3]")
  await refused(t, [Tensor.empty([]), q], "ERR_SHAPE", "x has shape []")
  const directory = mkdtempSync(join(tmpdir(), "tsq-matmul-"))
  t.teardown(() => rmSync(directory, { recursive: true }))
  writeFileSync(join(directory, "x"), new Uint8Array(values.buffer))
  const mapping = new NativeHandle(native.mapFile(join(directory, "x")), "mapping")
  t.teardown(() => mapping.dispose())
  const mapped = Tensor.fromMapping(mapping, 0, [3, k], "f32")
  await refused(t, [mapped, q], "ERR_DEVICE", 'x lies in a mapped file; `await x.to("cpu")` copies it')
  close(t, matmulW4A16(await mapped.to("cpu"), q), expected)
})

t.test("refuses weights", async t => {
  await refused(t, [x, values], "ERR_DTYPE", /the weight is a Float32Array, expected a QuantizedTensor/)
  await refused(t, [x, null], "ERR_DTYPE", /the weight is null/)
  const packed = await prepack(q)
  packed.dispose()
  packed.dispose()
  t.throws(() => matmulW4A16(x, packed), { code: "ERR_OPTION", message: /packed weight \[20, 48\] was disposed/ })
  await t.rejects(matmulW4A16.async(x, packed), { code: "ERR_OPTION", message: /was disposed/ })
  using packed8 = await prepack(q8)
  for (const weight of [q8, packed8]) {
    const refusal = {
      code: "ERR_UNSUPPORTED",
      message: "matmulW4A16: the weight has 8 bits, expected 4; matmul takes any weight",
    }
    t.throws(() => matmulW4A16(x, weight), refusal)
    await t.rejects(matmulW4A16.async(x, weight), refusal)
    t.same(matmul(x, weight).shape, [3, n])
  }
  t.throws(() => matmulW4A16(x, Tensor.empty([n, k]) as never), {
    code: "ERR_DTYPE",
    message: /the weight is a Tensor, expected a QuantizedTensor or PackedWeight/,
  })
  t.throws(() => matmul(x, Tensor.empty([n, k], "u8")), {
    code: "ERR_DTYPE",
    message: "matmul: the weight is u8, expected f32, f16 or bf16",
  })
  t.throws(() => matmul(x, Tensor.empty([k])), {
    code: "ERR_SHAPE",
    message: /the weight has shape \[48\], expected \[n, k\]/,
  })
  await t.rejects(matmul.async(x, Tensor.empty([0, k])), {
    code: "ERR_SHAPE",
    message: /the weight has shape \[0, 48\]/,
  })
})

t.test("int8 activations: asked for by name, near the exact product, another result", async t => {
  const next = random(19)
  const [m, n, k] = [9, 80, 512]
  const q = randomQuantized(next, { n, k, groupSize: 128, bits: 4, symmetric: true })
  const x = Tensor.from(
    new Float32Array(m * k).map(() => 2 * next() - 1),
    [m, k],
  )
  const exact = matmulW4A16(x, q)
  const rounded = matmulW4A16(x, q, { activations: "int8" })
  const error = distance(numbers(rounded), numbers(exact)) / norm(numbers(exact))
  t.ok(error > 1e-4 && error < 1.5e-2, `relative error ${error}`)
  t.same((await matmul.async(x, q, { activations: "int8" })).data, rounded.data)
  t.same(matmulW4A16(x, q, { activations: "exact" }).data, exact.data)
  const dense = Tensor.from(Float32Array.from(numbers(x).subarray(0, 4 * k)), [4, k])
  t.same(matmul(x, dense, { activations: "int8" }).data, matmul(x, dense).data, "float weights stay exact")
})

t.test("refuses options", async t => {
  await refused(t, [x, q, { biass: 1 }], "ERR_OPTION", 'unknown option "biass"; did you mean "bias"?')
  await refused(t, [x, q, 5], "ERR_OPTION", "options are 5, expected an object")
  await refused(
    t,
    [x, q, { activations: "fp8" }],
    "ERR_OPTION",
    'option "activations" is "fp8", expected "exact", "int8" or "scheme"',
  )
  await refused(t, [x, q, { bias: values }], "ERR_OPTION", 'option "bias" is a Float32Array, expected a Tensor')
  await refused(t, [x, q, { bias: Tensor.empty([n], "i32") }], "ERR_DTYPE", 'option "bias" is i32')
  await refused(t, [x, q, { bias: Tensor.empty([n + 1]) }], "ERR_SHAPE", 'option "bias" has shape [21], expected [20]')
  await refused(
    t,
    [x, q, { bias: Tensor.empty([1, n]) }],
    "ERR_SHAPE",
    'option "bias" has shape [1, 20], expected [20]',
  )
  await refused(t, [x, q, { out: Tensor.empty([3, n], "f16") }], "ERR_DTYPE", `option "out" is f16, expected x's f32`)
  await refused(
    t,
    [x, q, { out: Tensor.empty([n, 3]) }],
    "ERR_SHAPE",
    'option "out" has shape [20, 3], expected [3, 20]',
  )
  await refused(t, [x, q, { out: Tensor.empty([3 * n]) }], "ERR_SHAPE", 'option "out" has shape [60], expected [3, 20]')
  const both = new Float32Array(3 * k + 3 * n)
  const overlapping = { out: Tensor.from(both.subarray(3 * k - 1, 3 * k - 1 + 3 * n), [3, n]) }
  await refused(
    t,
    [Tensor.from(both.subarray(0, 3 * k), [3, k]), q, overlapping],
    "ERR_OPTION",
    'option "out" overlaps an input',
  )
  const beside = { out: Tensor.from(both.subarray(3 * k), [3, n]) }
  t.doesNotThrow(() => matmul(Tensor.from(both.subarray(0, 3 * k), [3, k]), q, beside))
})
