import t from "tap"
import { QuantizedTensor } from "../../../lib/core/quantized-tensor.ts"
import { StoredTensor } from "../../../lib/core/stored-tensor.ts"
import { Tensor } from "../../../lib/core/tensor.ts"
import { bytesOf, pack, packNibbles, pinned, signedBytes, transposed } from "../../../lib/formats/arrays.ts"
import { dequantize } from "../../../lib/kernels/dequantize.ts"
import { matmul } from "../../../lib/kernels/matmul.ts"
import { packedOf, packedOfAsync, prepack, prepackDense, prepackStored } from "../../../lib/kernels/packed-weight.ts"
import { native } from "../../../lib/native.ts"
import { distance, random, randomQuantized, randomValued, reference, weightOf } from "./support.ts"

const q = randomQuantized(random(1), { n: 33, k: 70, groupSize: 32, bits: 4, symmetric: false })

t.test("prepack", async t => {
  const before = native.handleCount()
  const packed = await prepack(q)
  t.same(packed.shape, [33, 70])
  t.equal(packed.bits, 4)
  t.ok(packed.bytes >= (33 * 70) / 2)
  t.equal(packed.disposed, false)
  t.equal(native.handleCount(), before + 1)
  packed.dispose()
  t.equal(native.handleCount(), before)
  t.equal(packed.disposed, true)
  t.throws(() => packed.handle, {
    code: "ERR_OPTION",
    message: "the packed weight [33, 70] was disposed and cannot be used any more",
  })
  t.same(packed.shape, [33, 70])
})

t.test("codes as a checkpoint stores them", async t => {
  const [n, k] = q.shape
  const rows = await pack(q.codes, n, k, 4)
  const words = rows.length / n
  const columns = await transposed(rows, n, words)
  const x = Tensor.from(
    new Float32Array(k).map((_, i) => Math.cos(i)),
    [k],
  )
  const expected = matmul(x, q).data
  const { scheme, shape, groupIndex } = q
  const [scales, zeros] = [pinned(q.scales), pinned(q.zeros!)]
  for (const [layout, codes] of [
    ["bytes", pinned(q.codes)],
    ["rows", bytesOf(rows)],
    ["columns", bytesOf(columns)],
  ] as const) {
    const stored = new StoredTensor({ scheme, shape, codes, layout, scales, zeros, groupIndex })
    t.equal(stored.bitsPerWeight, q.bitsPerWeight)
    t.same((await stored.unpacked()).codes, q.codes, layout)
    using packed = await prepackStored(stored)
    t.same(matmul(x, packed).data, expected, layout)
  }
  for (const [layout, stored] of [
    ["signed", await signedBytes(q.codes, 4)],
    ["nibbles", await packNibbles(q.codes)],
    ["nibblesHigh", await packNibbles(q.codes, q.codes.length, { highFirst: true })],
  ] as const) {
    const there = new StoredTensor({ scheme, shape, codes: stored, layout, scales, zeros, groupIndex })
    t.same((await there.unpacked()).codes, q.codes, layout)
    using packed = await prepackStored(there)
    t.same(matmul(x, packed).data, expected, layout)
  }
  const init = { scheme, shape, scales, zeros, groupIndex }
  const short = new StoredTensor({ ...init, codes: bytesOf(rows).subarray(4), layout: "rows" })
  await t.rejects(prepackStored(short), { code: "ERR_SHAPE", message: /codes has 1184 bytes, expected at least 1188/ })
  const awq = new StoredTensor({ ...init, codes: bytesOf(rows), layout: "awq" })
  await t.rejects(awq.unpacked(), { code: "ERR_OPTION", message: /rows in multiples of 8, found 4 bits and 33 rows/ })
  t.throws(
    () => new StoredTensor({ ...init, scheme: { ...scheme, groupSize: 0 }, codes: bytesOf(rows), layout: "rows" }),
    { code: "ERR_OPTION", message: /groupSize is 0/ },
  )
})

t.test("nibbles of whole words, and of an odd matrix, are what their codes are", async t => {
  for (const [n, k, groupSize] of [
    [48, 64, 32],
    [33, 64, 64],
    [7, 9, 3],
  ] as const) {
    const q = randomQuantized(random(n), { n, k, groupSize, bits: 4, symmetric: true })
    const x = Tensor.from(
      new Float32Array(k).map((_, i) => Math.cos(i)),
      [k],
    )
    for (const highFirst of [false, true]) {
      const codes = await packNibbles(q.codes, n * k, { highFirst })
      const layout = highFirst ? "nibblesHigh" : "nibbles"
      const stored = new StoredTensor({ ...q, codes, layout, scales: pinned(q.scales) })
      using packed = await prepackStored(stored)
      t.same(matmul(x, packed).data, matmul(x, q).data, `${layout} ${n} ${k}`)
      const short = new StoredTensor({ ...q, codes: codes.subarray(1), layout, scales: pinned(q.scales) })
      await t.rejects(prepackStored(short), { code: "ERR_SHAPE", message: /codes has .* bytes, expected at least/ })
    }
  }
  const bytes = pinned(new Uint8Array(q.codes.length).fill(8))
  const stored = new StoredTensor({
    ...q,
    codes: bytes,
    layout: "signed",
    scales: pinned(q.scales),
    zeros: pinned(q.zeros!),
  })
  const refusal = { code: "ERR_FORMAT", message: /code at \[0, 0\] is 8, expected -8 to 7 for 4-bit codes/ }
  await t.rejects(prepackStored(stored), refusal)
  await t.rejects(stored.unpacked(), refusal)
})

t.test("code books and offsets multiply like what they stand for", async t => {
  const next = random(5)
  const custom = new Float32Array(32).map(() => next() - 0.5)
  const [n, k, m] = [37, 75, 3]
  const x = Float32Array.from({ length: m * k }, () => 2 * next() - 1)
  for (const of of ["nf4", "fp4", "e2m1", "iq4_nl", "e4m3", "e5m2", { custom }, { bits: 4 }, { bits: 6 }] as const)
    for (const extra of [{}, { groupIndex: true, inputScale: true }])
      for (const groupSize of [8, 32, 75]) {
        const q = randomValued(next, { n, k, groupSize }, of, extra)
        const expected = reference(x, weightOf(q), m, n, k)
        const name = `${JSON.stringify(of)} ${groupSize} ${Object.keys(extra)}`
        using packed = await prepack(q)
        t.equal(packed.bits, q.scheme.bits)
        t.equal(packed.kernel, q.scheme.codebook === "custom" ? "reference" : "fused", name)
        const y = matmul(Tensor.from(x, [m, k]), packed).data
        t.ok(distance(y, expected.y) <= 1e-6 * expected.magnitude, name)
        t.same(matmul(Tensor.from(x, [m, k]), q).data, y, `${name} at once`)
        const { groupIndex, inputScale } = q
        if (inputScale) continue
        const shared = { scales: pinned(q.scales), offsets: q.offsets && pinned(q.offsets), groupIndex }
        const book = q.scheme.codebook === "custom" ? pinned(q.codebook as Float32Array) : null
        const codes = await signedBytes(q.codes, q.scheme.bits)
        const stored = new StoredTensor({ ...q, ...shared, codebook: book, codes, layout: "signed" })
        using again = await prepackStored(stored)
        t.same(matmul(Tensor.from(x, [m, k]), again).data, y, `${name} stored`)
      }
})

t.test("prepack of float tensors keeps or converts the storage", async t => {
  const weight = dequantize(q)
  using packed = await prepack(weight)
  t.equal(packed.bits, 32)
  using half = await prepack(await weight.cast("f16"))
  t.equal(half.bits, 16)
  t.ok(half.bytes < packed.bytes)
  using converted = await prepackDense(weight, "f16")
  const x = Tensor.from(
    new Float32Array(70).map((_, i) => Math.sin(i)),
    [70],
  )
  t.same(matmul(x, converted).data, matmul(x, half).data)
  await t.rejects(prepackDense(weight, "u8" as never), { code: "ERR_OPTION", message: 'kind is "u8"' })
})

t.test("prepack refuses", async t => {
  await t.rejects(prepack(null as never), {
    code: "ERR_DTYPE",
    message: "prepack: weight is null, expected a QuantizedTensor or a Tensor",
  })
  process.env.TSQ_CUDA_MODULE = "/nonexistent.so"
  await t.rejects(prepack(q, { device: "cuda" }), {
    code: "ERR_DEVICE",
    message: /prepack: device "cuda:0" is not available: .*\/nonexistent\.so/,
  })
  await t.rejects(prepack(q, { device: "gpu" as never }), {
    code: "ERR_DEVICE",
    message: 'prepack: device "gpu" is not available; devices are "cpu", "cuda" and "cuda:0"',
  })
  await t.rejects(prepack(q, { device: 1 as never }), { code: "ERR_OPTION", message: /option "device" is 1/ })
  await t.rejects(prepack(q, { activations: "int4" as never }), { code: "ERR_OPTION" })
  ;(await prepack(q, { activations: "int8" })).dispose()
  await t.rejects(prepack(q, { kind: "f16" } as never), { code: "ERR_OPTION", message: /unknown option "kind"/ })
  await t.rejects(prepack(Tensor.empty([2, 2], "i8")), { code: "ERR_DTYPE", message: "prepack: the weight is i8" })
})

t.test("codes and group indices that would read out of bounds are refused", async t => {
  const { scheme, shape, scales, zeros } = q
  const codes = q.codes.slice()
  codes[70 * 2 + 3] = 16
  const wrong = new QuantizedTensor({ scheme, shape, codes, scales, zeros })
  await t.rejects(prepack(wrong), { code: "ERR_FORMAT" })
  t.throws(() => packedOf(wrong), { code: "ERR_FORMAT" })
  for (const group of [-1, 3, 2 ** 30]) {
    const groupIndex = Int32Array.from({ length: 70 }, (_, j) => (j === 5 ? group : Math.floor(j / 32)))
    await t.rejects(prepack(new QuantizedTensor({ scheme, shape, codes: q.codes, scales, zeros, groupIndex })), {
      name: "TsqError",
    })
    t.throws(() => dequantize(new QuantizedTensor({ scheme, shape, codes: q.codes, scales, zeros, groupIndex })), {
      name: "TsqError",
    })
  }
})

t.test("one pack for a tensor, made at once or off the event loop", async t => {
  const a = randomQuantized(random(2), { n: 4, k: 8, groupSize: 8, bits: 4, symmetric: true })
  const [first, second] = await Promise.all([packedOfAsync(a), packedOfAsync(a)])
  t.equal(first, second)
  t.equal(packedOf(a), first)
  const b = randomQuantized(random(3), { n: 4, k: 8, groupSize: 8, bits: 4, symmetric: true })
  const pending = packedOfAsync(b)
  const now = packedOf(b)
  t.equal(await pending, now, "the synchronous call came first")
})
