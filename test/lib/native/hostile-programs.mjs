// Well-formed programs that between them have every operation, requests that run them, and spoilt variants of both: what the addon accepts as a
// program has to survive every request.

export const k = 16
const vocabulary = 8
const experts = 4
const chosen = 2

const operation = (section, kind, inputs, out, weights, parameters = []) => [
  section,
  kind,
  ...[0, 1, 2].map(i => inputs[i] ?? -1),
  out,
  ...[0, 1].map(i => weights[i] ?? -1),
  ...Array.from({ length: 8 }, (_, i) => parameters[i] ?? 0),
]
const columns = 16

/** Codes 0 to 7. */
const attending = {
  slots: [k, k, k, k],
  weights: 4,
  ops: [
    operation(0, 0, [], 0, [0], [1]),
    operation(0, 1, [0], 1, [2], [1e-5, 1, 0]),
    operation(0, 3, [1], 1, [3], [2, 8, 8, 1]),
    operation(0, 4, [1, 0, 0], 2, [], [2, 2, 8, 0.3, 0, 0]),
    operation(0, 2, [2], 3, [1]),
    operation(0, 6, [0, 3], 0, []),
    operation(0, 7, [0], -1, [0], [0]),
  ],
}

/** Codes 8 to 11 and 14 to 17: learned positions, a layer norm, pieces of a row, an activation, a mixture of experts. */
const mixture = {
  slots: [k, k, k, experts, experts, chosen * k, chosen * k, k, 8],
  weights: 6 + experts,
  ops: [
    operation(0, 0, [], 0, [0], [1]),
    operation(0, 10, [], 2, [0], [vocabulary]),
    operation(0, 6, [0, 2], 0, []),
    operation(0, 8, [0], 1, [2, 3], [1e-5]),
    operation(0, 9, [1], 8, [], [1, 2, 4, 8]),
    operation(0, 11, [8], 8, [], [1]),
    operation(0, 2, [1], 3, [5]),
    operation(0, 14, [3], 4, [], [chosen, 1]),
    operation(0, 15, [1, 4], 5, [], [chosen]),
    operation(0, 16, [5, 4], 6, [6], [chosen]),
    operation(0, 5, [6, 5], 6, [], [0]),
    operation(0, 16, [6, 4], 5, [6], [chosen]),
    operation(0, 17, [5, 4], 7, [], [chosen]),
    operation(0, 6, [0, 7], 0, []),
    operation(0, 8, [0], 0, [2]),
    operation(0, 7, [0], -1, [0], [0]),
  ],
}

const create = (native, { slots, weights, ops }) =>
  native.createProgram(Float64Array.from(slots), Int32Array.of(weights), Float64Array.from(ops.flat()), vocabulary)

/** Arguments of createProgram. */
export const programArguments = pick => {
  const { slots, weights, ops } = pick([attending, mixture])
  return [Float64Array.from(slots), Int32Array.of(weights), Float64Array.from(ops.flat()), vocabulary]
}

/** Handles of the well-formed programs, and of the router's weight. */
export const programFixtures = (native, filled) => ({
  program: create(native, attending),
  mixture: create(native, mixture),
  router: native.packDenseSync(filled(Float32Array, experts * k), 0, experts, k, 0),
  count: native.createAccumulator(7, experts, 0, 0),
  expertErrors: native.createAccumulator(4, k, 0, 0),
})

const places = [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
const sizes = [1, 2, 4, 7, 8, 15, 16, 17, 32, 64]
const parameters = [0, 1, 2, 3, 4, 5, 7, 8, 16, 17, 64, 65, -1, 0.5, 2 ** 31, 2 ** 53, 1e300, NaN, Infinity]

/** The base with some cells of its operations, widths or operations themselves others. */
function spoilt(base, pick, below) {
  const ops = base.ops.map(op => [...op])
  const slots = [...base.slots]
  for (let times = 1 + below(3); times > 0; --times) {
    const op = pick(ops)
    const column = below(columns)
    const style = below(6)
    if (style === 0) slots[below(slots.length)] = pick(sizes)
    // Another operation's slot, weight or parameter: aliases among them.
    else if (style === 1) op[column] = pick(ops)[column]
    else if (style === 2 && ops.length > 2) ops.splice(below(ops.length), 1)
    else if (style === 3) ops.splice(below(ops.length), 0, [...pick(ops)])
    else if (column === 1) op[1] = below(20)
    else if (column < 8) op[column] = pick(places)
    else op[column] = pick(parameters)
  }
  return { ...base, slots, ops }
}

/**
 * Arguments of a step: a program, what it binds, and a request that fits it or nearly. common: fields of a request whose program does not matter.
 * made: handles that the caller releases. refused: told of the errors of programs that are none.
 */
export function stepArguments(native, fixtures, tools, common, made, refused) {
  const { pick, below, filled, random, shared } = tools
  const isMixture = random() < 0.6
  const base = isMixture ? mixture : attending
  let { ops, slots } = base
  let handle = isMixture ? fixtures.mixture : fixtures.program
  if (random() < 0.6) {
    const variant = spoilt(base, pick, below)
    try {
      handle = create(native, variant)
      made.push(handle)
      ops = variant.ops
      slots = variant.slots
    } catch (error) {
      refused(error)
    }
  }
  const { table, weight, norm, frequencies, codes, router } = fixtures
  const weights = isMixture
    ? [table, weight, norm, norm, codes, router, weight, codes, weight, codes]
    : [table, weight, norm, frequencies]
  if (random() < 0.1) weights[below(weights.length)] = pick(weights)
  const whole = random() < 0.6
  const begin = whole ? 0 : below(ops.length)
  const end = whole ? ops.length : begin + below(ops.length - begin + 1)
  const hiddenSlot = random() < 0.7 ? 0 : below(slots.length)
  const width = Math.min(slots[hiddenSlot], 64)
  // Of routes: any values; too many, none, NaN.
  const hidden = filled(Float32Array, 3 * width)
  if (random() < 0.2) hidden[below(hidden.length)] = pick([NaN, Infinity, 0, -1])
  // Most requests are right beyond the program, so that many reach its operations.
  const right = random() < 0.7 && {
    ...{ tokens: Int32Array.of(1, 2, 7), sequences: Int32Array.of(0, 3, 0, 0, 1, -1), adapters: new Float64Array(0) },
    ...{ pageTable: Int32Array.of(0), exactTable: null, cache: fixtures.cache },
    epilogue: ops.slice(begin, end).some(op => op[1] === 7) ? common.epilogue : null,
  }
  return {
    program: handle,
    request: {
      ...common,
      ...right,
      runs: Int32Array.of(0, begin, end, 0, 0),
      weights: Float64Array.from(weights),
      hidden: random() < 0.6 ? hidden : null,
      hiddenSlot,
      observers: isMixture ? observers(fixtures, ops, begin, end, { below, random, shared, pick }) : common.observers,
    },
  }
}

/** Of routes and grouped slots. */
function observers(fixtures, ops, begin, end, { below, random, shared, pick }) {
  const op = () => Math.min(end - 1, begin - 1 + below(ops.length))
  const expert = () => pick([0, 1, 2, 3, 3, 4])
  const list = [
    { run: 0, op: op(), slot: 4, reduction: 7, accumulator: fixtures.count },
    { run: 0, op: op(), slot: 5, reduction: 0, accumulator: fixtures.hessian, routes: 4, expert: expert() },
    { run: 0, op: op(), slot: 6, reduction: 1, accumulator: fixtures.sums, routes: pick([4, 3]), expert: expert() },
    { run: 0, op: op(), slot: 5, reduction: 3, out: shared(Float32Array, 3 * chosen * k) },
    ...[
      [4, fixtures.expertErrors],
      [8, fixtures.cross],
    ].map(([reduction, accumulator]) => ({
      ...{ run: 0, op: op(), slot: 6, reduction, accumulator, routes: 4, expert: expert() },
      reference: shared(Float32Array, 3 * chosen * k),
    })),
  ]
  return list.filter(() => random() < 0.2).sort((a, b) => a.op - b.op)
}
