import type { StepRequest } from "../../../lib/native.ts"
import { native } from "../../../lib/native.ts"
import { floats, ints, random, randomFloats, refused, test } from "./helpers.ts"

// Embed -> linear -> add -> logits over slots hidden (0), mixed (1), sum (2): small enough to compute by hand.
const [vocabulary, width] = [11, 8]
const table = randomFloats(vocabulary * width, random(61))
const square = randomFloats(width * width, random(62))
const op = (
  section: number,
  kind: number,
  inputs: number[],
  out: number,
  weights: number[],
  parameters: number[] = [],
) => [
  section,
  kind,
  ...[0, 1, 2].map(i => inputs[i] ?? -1),
  out,
  ...[0, 1].map(i => weights[i] ?? -1),
  ...Array.from({ length: 8 }, (_, i) => parameters[i] ?? 0),
]
const ops = Float64Array.from(
  [op(0, 0, [], 0, [0], [1]), op(0, 2, [0], 1, [1]), op(0, 6, [0, 1], 2, []), op(0, 7, [2], -1, [0], [0])].flat(),
)

function build() {
  const program = native.createProgram(Float64Array.of(width, width, width), Int32Array.of(2), ops, vocabulary)
  const embedding = native.packDenseSync(table, 0, vocabulary, width, 0)
  const linear = native.packDenseSync(square, 0, width, width, 0)
  return {
    program,
    weights: Float64Array.of(embedding, linear),
    release: () => [program, embedding, linear].map(native.release),
  }
}

const tokens = [3, 0, 10, 7]
const request = (weights: Float64Array, options: Partial<StepRequest> = {}): StepRequest => ({
  runs: Int32Array.of(0, 0, 4, 0, 0),
  weights,
  rows: tokens.length,
  tokens: ints(tokens),
  sequences: Int32Array.of(0, tokens.length, 0, 0, 0, -1),
  pageTable: new Int32Array(0),
  adapters: new Float64Array(0),
  cache: null,
  hidden: null,
  hiddenSlot: 0,
  observers: [],
  epilogue: null,
  ...options,
})

function hidden(token: number): number[] {
  const x = table.subarray(token * width, (token + 1) * width)
  return Array.from(x, (value, i) => value + x.reduce((sum, other, j) => sum + other * square[i * width + j]!, 0))
}
const logitsOf = (token: number) =>
  Array.from({ length: vocabulary }, (_, v) =>
    hidden(token).reduce((sum, value, j) => sum + value * table[v * width + j]!, 0),
  )
const close = (a: ArrayLike<number>, b: number[]) => b.every((value, i) => Math.abs(value - a[i]!) < 1e-4)

test("a step gives logits, likelihoods, samples and observations", async t => {
  const { program, weights, release } = build()
  const rows = Int32Array.of(3, 1)
  const logits = floats(new Float32Array(2 * vocabulary))
  const copy = floats(new Float32Array(tokens.length * width))
  const sums = native.createAccumulator(1, width, 0, 0)
  const hessian = native.createAccumulator(0, width, 0, 0)
  const errors = native.createAccumulator(4, width, 0, 0)
  const observers = [
    { run: 0, op: 2, slot: 2, reduction: 3 as const, out: copy },
    { run: 0, op: 2, slot: 2, reduction: 1 as const, accumulator: sums },
    { run: 0, op: 2, slot: 2, reduction: 0 as const, accumulator: hessian },
    {
      run: 0,
      op: 2,
      slot: 2,
      reduction: 4 as const,
      accumulator: errors,
      reference: floats(new Float32Array(tokens.length * width)),
    },
  ]
  await native.step(program, request(weights, { observers, epilogue: { mode: 1, rows, logits } }), null)
  t.ok(close(logits, [...logitsOf(7), ...logitsOf(0)]))
  t.ok(close(copy, tokens.flatMap(hidden)))
  const squares = hidden(3).map((_, j) => tokens.reduce((sum, token) => sum + hidden(token)[j]! ** 2, 0))
  const [a, b] = [new Float32Array(width), new Float32Array(width)]
  native.readAccumulator(sums, a)
  native.readAccumulator(hessian, b)
  t.ok(close(a, squares))
  t.ok(close(b, squares))
  const pair = new Float64Array(2)
  native.readAccumulator(errors, pair)
  t.ok(Math.abs(pair[0]! - squares.reduce((x, y) => x + y)) < 1e-3)
  t.equal(pair[1], 0)

  const values = new Float64Array(new SharedArrayBuffer(16))
  await native.step(
    program,
    request(weights, { epilogue: { mode: 2, rows, targets: Int32Array.of(4, 5), values } }),
    null,
  )
  const nll = (token: number, target: number) =>
    Math.log(logitsOf(token).reduce((sum, x) => sum + Math.exp(x), 0)) - logitsOf(token)[target]!
  t.ok(close(values, [nll(7, 4), nll(0, 5)]))

  const sampled = ints([0, 0])
  const sampling = {
    temperature: 0,
    topK: 0,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    seed: 1,
    position: 0,
    history: null,
  }
  await native.step(program, request(weights, { epilogue: { mode: 3, rows, tokens: sampled, sampling } }), null)
  const best = (token: number) => logitsOf(token).indexOf(Math.max(...logitsOf(token)))
  t.same(Array.from(sampled), [best(7), best(0)])

  const divergence = new Float64Array(new SharedArrayBuffer(64))
  const reference = {
    referenceHidden: floats([...hidden(7), ...hidden(0)]),
    referenceWidth: width,
    referenceHead: weights[0]!,
    referenceSoftcap: 0,
  }
  await native.step(
    program,
    request(weights, { epilogue: { mode: 4, rows, targets: Int32Array.of(4, 5), values: divergence, ...reference } }),
    null,
  )
  t.ok(close(divergence, [0, nll(7, 4), nll(7, 4), 1, 0, nll(0, 5), nll(0, 5), 1]))
  t.ok(native.handleBytes(program) > 0)
  for (const handle of [sums, hessian, errors]) native.release(handle)
  release()
})

test("a range runs again on given hidden states", async t => {
  const { program, weights, release } = build()
  const x = randomFloats(2 * width, random(63))
  const out = floats(new Float32Array(2 * width))
  const part = request(weights, {
    runs: Int32Array.of(0, 1, 2, 0, 0),
    rows: 2,
    tokens: null,
    sequences: Int32Array.of(0, 2, 0, 0, 0, -1),
    hidden: x,
    observers: [{ run: 0, op: 1, slot: 1, reduction: 3, out }],
  })
  await native.step(program, part, null)
  const expected = Array.from({ length: 2 * width }, (_, i) => {
    const row = Math.floor(i / width)
    return Array.from({ length: width }, (_, j) => x[row * width + j]! * square[(i % width) * width + j]!).reduce(
      (a, b) => a + b,
    )
  })
  t.ok(close(out, expected))
  release()
})

test("steps at the same time wait for each other", async t => {
  const { program, weights, release } = build()
  const sums = native.createAccumulator(0, width, 0, 0)
  const observers = [{ run: 0, op: 2, slot: 2, reduction: 0 as const, accumulator: sums }]
  await Promise.all(Array.from({ length: 40 }, () => native.step(program, request(weights, { observers }), null)))
  t.equal(native.accumulatorRows(sums), 40 * tokens.length)
  native.release(sums)
  release()
})

test("programs that are refused", async t => {
  const create = (...args: unknown[]) => (native.createProgram as (...args: unknown[]) => number)(...args)
  const slots = Float64Array.of(width, width, width)
  await refused(t, () => create(slots, Int32Array.of(2), ops.subarray(1), vocabulary), "ERR_SHAPE", /multiple of 16/)
  await refused(t, () => create(slots, Int32Array.of(-2), ops, vocabulary), "ERR_FORMAT", /sectionWeights\[0\] is -2/)
  await refused(t, () => create(Float64Array.of(0.5), Int32Array.of(2), ops, vocabulary), "ERR_FORMAT", /slots\[0\]/)
  await refused(t, () => create(slots, new Int32Array(0), ops, vocabulary), "ERR_FORMAT", /ops\[0\]/)
  for (const [field, value] of [
    [1, 99],
    [2, 50],
    [5, 3],
    [6, 2],
    [8, Number.NaN],
    [0, 1e300],
  ] as const) {
    const bad = ops.slice()
    bad[16 + field] = value
    if (field === 8) bad[8] = value
    await refused(t, () => create(slots, Int32Array.of(2), bad, vocabulary), "ERR_FORMAT", /./)
  }
  await refused(t, () => native.createCache(0, 1, 1, 1), "ERR_OPTION", /layers is 0/)
  await refused(t, () => native.createCache(2 ** 31 - 1, 2 ** 31 - 1, 64, 64), "ERR_SHAPE", /too large/)
  const cache = native.createCache(1, 2, 8, 3)
  await refused(
    t,
    () => native.step(cache, request(Float64Array.of()), null),
    "ERR_OPTION",
    /is a cache, expected a program/,
  )
  native.release(cache)
})

test("requests that are refused", async t => {
  const { program, weights, release } = build()
  const vector = native.vector(floats([1]))
  const step = (options: object) => native.step(program, { ...request(weights), ...options } as StepRequest, null)
  await refused(t, () => native.step(program, null as never, null), "ERR_OPTION", /request is null/)
  await refused(t, () => step({ runs: Int32Array.of(0, 0, 4) }), "ERR_SHAPE", /multiple of 5/)
  await refused(t, () => step({ runs: Int32Array.of(1, 0, 1, 0, 0) }), "ERR_OPTION", /section/)
  await refused(t, () => step({ runs: [0] }), "ERR_DTYPE", /runs is an array/)
  await refused(t, () => step({ rows: 5 }), "ERR_SHAPE", /tokens has 4 elements, expected at least 5/)
  await refused(t, () => step({ rows: 2 ** 31 - 1, tokens: null }), "ERR_OPTION", /./)
  await refused(t, () => step({ tokens: ints([0, 1, 2, vocabulary]) }), "ERR_OPTION", /11/)
  await refused(t, () => step({ weights: Float64Array.of(weights[0]!, 12345678) }), "ERR_OPTION", /not a live/)
  await refused(t, () => step({ weights: Float64Array.of(weights[0]!, vector) }), "ERR_DTYPE", /is a vector/)
  await refused(
    t,
    () => step({ weights: Float64Array.of(weights[0]!, program) }),
    "ERR_OPTION",
    /is a program, expected a vector/,
  )
  await refused(t, () => step({ weights: Float64Array.of(weights[0]!) }), "ERR_OPTION", /weight/)
  await refused(t, () => step({ observers: {} }), "ERR_OPTION", /observers is no array/)
  await refused(t, () => step({ observers: [{ run: 0, op: 0, slot: 3, reduction: 3 }] }), "ERR_OPTION", /slot 3/)
  await refused(
    t,
    () => step({ observers: [{ run: 0, op: 0, slot: 0, reduction: 3, out: floats([1]) }] }),
    "ERR_SHAPE",
    /observer\.out has 1/,
  )
  await refused(
    t,
    () => step({ observers: [{ run: 0, op: 0, slot: 0, reduction: 1 }] }),
    "ERR_OPTION",
    /observer\.accumulator is undefined/,
  )
  await refused(t, () => step({ hidden: floats([1]) }), "ERR_SHAPE", /hidden has 1 elements, expected at least 32/)
  await refused(t, () => step({ hidden: new Float32Array(32) }), "ERR_OPTION", /hidden lies on an ordinary/)
  await refused(
    t,
    () => step({ epilogue: { mode: 1, rows: Int32Array.of(0), logits: floats([0]) } }),
    "ERR_SHAPE",
    /logits has 1/,
  )
  const values = new Float64Array(new SharedArrayBuffer(8))
  await refused(
    t,
    () => step({ epilogue: { mode: 2, rows: Int32Array.of(4), targets: Int32Array.of(0), values } }),
    "ERR_OPTION",
    /rows\[0\] is 4/,
  )
  await refused(
    t,
    () => step({ epilogue: { mode: 2, rows: Int32Array.of(0), targets: Int32Array.of(-1), values } }),
    "ERR_OPTION",
    /-1/,
  )
  await refused(t, () => step({ epilogue: { mode: 6, rows: Int32Array.of(0) } }), "ERR_OPTION", /mode is 6/)
  await refused(t, () => native.step(program, request(weights), ints([1])), "ERR_ABORTED", /./)
  const hostile = Object.defineProperty({ ...request(weights) }, "cache", {
    get: () => {
      throw new RangeError("from a getter")
    },
  })
  await t.rejects(native.step(program, hostile, null), RangeError)
  native.release(vector)
  release()
})
