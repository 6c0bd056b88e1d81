import t from "tap"
import type { Scheme } from "../../../lib/core/scheme.ts"
import {
  collapseScales,
  expandScales,
  packNibbles,
  signedBytes,
  storedScalesOf,
  unpackNibbles,
  unsignedCodes,
} from "../../../lib/formats/arrays.ts"
import { random } from "../native/helpers.ts"

t.test("nibbles, either half first", async t => {
  const codes = Uint8Array.of(1, 2, 3, 4, 5)
  t.same(await packNibbles(codes), Uint8Array.of(0x21, 0x43, 0x05))
  t.same(await packNibbles(codes, 5, { highFirst: true }), Uint8Array.of(0x12, 0x34, 0x50))
  t.same(await packNibbles(codes, 0), new Uint8Array(0))
  const next = random(1)
  for (const count of [0, 1, 2, 63, 64, 1001])
    for (const highFirst of [false, true]) {
      const codes = Uint8Array.from({ length: count }, () => Math.floor(next() * 16))
      t.same(await unpackNibbles(await packNibbles(codes, count, { highFirst }), count, { highFirst }), codes)
    }
  await t.rejects(packNibbles(Uint8Array.of(1, 16)), {
    code: "ERR_FORMAT",
    message: /code 16 at element 1 does not fit 4 bits/,
  })
})

t.test("signed bytes", async t => {
  t.same(await signedBytes(Uint8Array.of(0, 7, 8, 15), 4), Uint8Array.of(0xf8, 0xff, 0, 7))
  t.same(await signedBytes(Uint8Array.of(0, 127, 128, 255), 8), Uint8Array.of(0x80, 0xff, 0, 0x7f))
  for (const bits of [2, 3, 4, 5, 6, 7, 8]) {
    const codes = Uint8Array.from({ length: 2 ** bits }, (_, code) => code)
    const bytes = await signedBytes(codes, bits)
    t.same(
      Array.from(new Int8Array(bytes.buffer)),
      Array.from(codes, code => code - 2 ** (bits - 1)),
    )
    t.same(await unsignedCodes(bytes, codes.length, bits), codes)
  }
  await t.rejects(signedBytes(Uint8Array.of(8), 3), { code: "ERR_FORMAT", message: /code 8 at element 0/ })
  await t.rejects(unsignedCodes(await signedBytes(Uint8Array.of(0), 4), 1, 3), {
    code: "ERR_FORMAT",
    message: /code at \[0, 0\] is -8, expected -4 to 3 for 3-bit codes/,
  })
})

t.test("scales that rows and groups share, expanded and collapsed", async t => {
  const next = random(2)
  const base = { bits: 4, symmetric: true, scaleType: "f32" } as const
  const cases: [Scheme, [number, number], (row: number, column: number) => number][] = [
    [{ ...base, granularity: "group", groupSize: 4 }, [3, 10], (row, column) => row * 3 + Math.floor(column / 4)],
    [{ ...base, granularity: "channel", groupSize: 10 }, [3, 10], row => row],
    [{ ...base, granularity: "tensor", groupSize: 10 }, [3, 10], () => 0],
    [
      { ...base, granularity: "block", groupSize: 4, blockRows: 2 },
      [5, 10],
      (row, column) => Math.floor(row / 2) * 3 + Math.floor(column / 4),
    ],
    [
      { ...base, granularity: "flat", groupSize: 8, runLength: 16 },
      [5, 24],
      (row, column) => Math.floor((row * 24 + column) / 16),
    ],
  ]
  for (const [scheme, shape, index] of cases) {
    const [n, k] = shape
    const groups = Math.ceil(k / scheme.groupSize)
    const stored = Math.max(...Array.from({ length: n * k }, (_, i) => index(Math.floor(i / k), i % k))) + 1
    for (const kind of [Float32Array, Uint8Array]) {
      const made = (count: number, value: (i: number) => number) =>
        kind.from(Array.from({ length: count }, (_, i) => value(i)))
      const values = made(stored, () => Math.floor(200 * next()))
      const expected = made(n * groups, i => {
        return values[index(Math.floor(i / groups), (i % groups) * scheme.groupSize)] as number
      })
      const all = await expandScales(scheme, shape, values)
      t.same(all, expected, scheme.granularity)
      t.same(await collapseScales(scheme, shape, all), values, scheme.granularity)
    }
    const scales = await expandScales(scheme, shape, new Float32Array(stored).fill(1))
    t.same(await storedScalesOf({ scheme, shape, scales }), new Float32Array(stored).fill(1))
    if (stored < scales.length) {
      scales[0] = 2
      t.equal(await storedScalesOf({ scheme, shape, scales }), null)
    }
    await t.rejects(expandScales(scheme, shape, new Float32Array(stored + 1)), {
      code: "ERR_SHAPE",
      message: new RegExp(`${stored + 1} scales or zero points are stored, expected ${stored} for granularity`),
    })
  }
})
