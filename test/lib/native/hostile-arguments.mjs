// Calls every export of the addon with random arguments, in a process of its own: whatever they are, the process lives and every
// refusal is an error of the registered class (or what a getter threw).
// Usage: node hostile-arguments.mjs <seed> <rounds>. Prints one JSON object.
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { createRequire } from "node:module"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { k, programArguments, programFixtures, stepArguments } from "./hostile-programs.mjs"

const native = createRequire(import.meta.url)("node-gyp-build")(fileURLToPath(new URL("../../..", import.meta.url)))
const seed = Number(process.argv[2] ?? 1)
const rounds = Number(process.argv[3] ?? 1000)

class NativeError extends Error {
  constructor(code, message) {
    super(message)
    this.code = code
  }
}
native.registerError(NativeError)

let state = seed
function random() {
  state = (state + 0x6d2b79f5) | 0
  let x = Math.imul(state ^ (state >>> 15), state | 1)
  x ^= x + Math.imul(x ^ (x >>> 7), x | 61)
  return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
}
const below = count => Math.floor(random() * count)
const pick = list => list[below(list.length)]

const types = [
  Float32Array,
  Float64Array,
  Uint8Array,
  Uint16Array,
  Int32Array,
  Int8Array,
  Uint32Array,
  Uint8ClampedArray,
  BigInt64Array,
]
const shared = (type, count) => new type(new SharedArrayBuffer(count * type.BYTES_PER_ELEMENT))
function filled(type, count) {
  const array = shared(type, count)
  const raw = new Uint8Array(array.buffer)
  const style = below(4)
  if (type === Float32Array && style > 0) for (let i = 0; i < count; ++i) array[i] = 2 * random() - 1
  else if (style === 1) for (let i = 0; i < raw.length; ++i) raw[i] = below(256)
  else if (style > 1) for (let i = 0; i < count; ++i) array[i] = type === BigInt64Array ? BigInt(below(8)) : below(8)
  return array
}

const getterError = new Error("from a getter")
const throwing = new Proxy(
  {},
  {
    get() {
      throw getterError
    },
  },
)
function detached() {
  const array = new Float32Array(64)
  structuredClone(array.buffer, { transfer: [array.buffer] })
  return array
}
function shrunk() {
  const buffer = new ArrayBuffer(256, { maxByteLength: 512 })
  const array = pick([new Float32Array(buffer), new Uint8Array(buffer, 64, 64)])
  buffer.resize(pick([0, 32, 256, 512]))
  return array
}
const growable = () => {
  const buffer = new SharedArrayBuffer(64, { maxByteLength: 4096 })
  const array = new Uint8Array(buffer)
  buffer.grow(4096)
  return array
}

// Numbers between 64 and 2^31 are left out: they would be honest requests for much memory.
const numbers = [
  0,
  1,
  2,
  3,
  4,
  5,
  7,
  8,
  16,
  31,
  32,
  33,
  64,
  -1,
  -0,
  0.5,
  2 ** 31,
  -(2 ** 31),
  2 ** 32,
  2 ** 53,
  2 ** 53 + 2,
  1e300,
  NaN,
  Infinity,
  -Infinity,
]
const kvFormat = () =>
  pick([
    null,
    filled(Int32Array, 13),
    Int32Array.of(2, 1, 0, 8, 4, 1, 1, 8, 0, 1, 1, 2, 5),
    Int32Array.of(4, 2, 1, 8, 3, 3, 0, 8, 1, 1, 0, 1, pick([0, 3, 64])),
  ])
const nasty = [
  () => pick(numbers),
  () => pick(numbers),
  () => pick(numbers),
  () => filled(pick(types), pick([0, 1, 2, 4, 7, 16, 32, 64, 256])),
  () => filled(pick(types), pick([16, 64, 256])),
  () => new (pick(types))(pick([0, 1, 16, 64])),
  () => shared(Float32Array, 4096),
  () =>
    pick([
      undefined,
      null,
      true,
      false,
      "",
      "avx2",
      "reference",
      "/dev/null",
      "/nonexistent",
      "a\0b",
      Symbol("s"),
      10n,
    ]),
  () =>
    pick([
      {},
      [],
      () => 1,
      class {},
      Object.freeze({}),
      new Date(),
      new DataView(new ArrayBuffer(16)),
      Buffer.alloc(16),
    ]),
  () => pick([throwing, new Proxy(new Float32Array(16), {}), new Proxy([], {}), Object.create(null)]),
  detached,
  shrunk,
  growable,
  () => pick(liveHandles()),
  () => mapped(),
  () => ({ length: pick(numbers), 0: pick(numbers) }),
  () => Array.from({ length: below(4) }, () => pick(numbers)),
]
const anything = () => pick(nasty)()

// Fixtures, one of each kind, and what calls made on top of them.
const [n, group] = [4, 8]
const groups = k / group
// Random strings are file names here.
const folder = mkdtempSync(join(tmpdir(), "tsq-hostile-"))
process.chdir(folder)
process.on("exit", () => {
  process.chdir(tmpdir())
  rmSync(folder, { recursive: true, force: true })
})
const packPath = join(folder, "pack")
let packs = 0
async function writtenPackFile() {
  const weights = [native.packDenseSync(filled(Float32Array, k * k), 0, k, k, 0)]
  await native.writePackFile(packPath, "{}", filled(Float32Array, k), Float64Array.from(weights), null)
  native.release(weights[0])
  return (await native.openPackFile(packPath)).file
}
const fixtures = {
  weight: native.packDenseSync(filled(Float32Array, k * k), 0, k, k, 0),
  table: native.packDenseSync(filled(Float32Array, 8 * k), 0, 8, k, 0),
  norm: native.vector(new Float32Array(k).fill(1)),
  frequencies: native.vector(new Float32Array(4).fill(0.5)),
  mapping: native.mapFile(process.execPath),
  hessian: native.createAccumulator(0, k, 0, 0),
  hessianToCome: native.createAccumulator(0, k, 0, 0),
  cross: native.createAccumulator(8, k, 0, 0),
  residual: native.createAccumulator(8, k, n, 0),
  between: native.createAccumulator(8, k, k, 0),
  sums: native.createAccumulator(1, k, 0, 0),
  errors: native.createAccumulator(4, k, 0, 0),
  reservoir: native.createAccumulator(6, k, 4, 1),
  ...programFixtures(native, filled),
  cache: native.createCache(1, 2, 8, 4),
  exactCache: native.createCache(1, 2, 8, 4, Int32Array.of(2, 1, 0, 8, 4, 1, 1, 8, 0, 1, 1, 2, 3)),
  codes: native.packCodesSync(
    new Uint8Array(k * k),
    0,
    k,
    k,
    4,
    group,
    new Float32Array(k * groups),
    null,
    null,
    null,
    null,
    null,
  ),
  decoded: native.packDenseSync(filled(Float32Array, k * k), 0, k, k, 0),
  probe: await native.createReadProbe(4096),
  packFile: await writtenPackFile(),
  released: native.vector(new Float32Array(1)),
}
fixtures.adapter = native.createAdapter(
  Float64Array.of(fixtures.codes, fixtures.decoded, fixtures.decoded),
  Float64Array.of(0.5),
)
// On the emulated CUDA runtime; on systems without it, handles of another kind, which are refused.
const emulated = fileURLToPath(new URL("../../../build-native/libtsq_cuda_emulated.so", import.meta.url))
const cublas = fileURLToPath(new URL("../../../build-native/libtsq_cublas_emulated.so", import.meta.url))
if (existsSync(emulated)) {
  fixtures.device = await native.cudaOpen(emulated, 0)
  fixtures.deviceX = await native.cudaUpload(fixtures.device, shared(Uint16Array, 4 * k), 1, 4 * k)
  const scales = shared(Float32Array, n).fill(0.5)
  fixtures.deviceCodes = await native.cudaPackCodes(
    fixtures.device,
    shared(Uint8Array, n * k),
    n,
    k,
    4,
    k,
    scales,
    false,
    null,
    null,
    null,
  )
  const dense = await native.cudaUpload(fixtures.device, shared(Uint16Array, n * k), 1, n * k)
  fixtures.deviceDense = await native.cudaPackFloats(dense, 1, n, k)
  fixtures.deviceDenseRows = dense
  fixtures.deviceBlas = (await native.cudaBlasOpen(fixtures.device, cublas)).handle
  fixtures.deviceGraph = native.cudaRecord(fixtures.device)
  native.release(native.cudaMatmul(fixtures.deviceCodes, fixtures.deviceX, 1, 1, null, false))
  native.cudaEndRecord(fixtures.deviceGraph)
  fixtures.deviceY = await native.cudaUpload(fixtures.device, shared(Uint16Array, 4 * n), 1, 4 * n)
  fixtures.deviceHessian = await native.cudaHessian(fixtures.device, k)
}
const device = () => fixtures.device ?? fixtures.weight
const deviceHessian = () => fixtures.deviceHessian ?? fixtures.weight
native.release(fixtures.released)
const fixtureHandles = Object.values(fixtures)
const liveHandles = () => fixtureHandles
const mapped = () => ({
  mapping: fixtures.mapping,
  offset: pick([0, 1, 5, 2 ** 53, -1]),
  bytes: pick([0, 64, 1024, 2 ** 53]),
})
await native.accumulate(fixtures.hessian, filled(Float32Array, 64 * k), 64, null)
await native.accumulate(fixtures.cross, filled(Float32Array, 8 * k), 8, filled(Float32Array, 8 * k))
await native.accumulate(fixtures.residual, filled(Float32Array, 8 * k), 8, filled(Float32Array, 8 * n))

const maybe = value => (random() < 0.5 ? null : value)
const grid = () => ({
  bits: pick([2, 3, 4, 8]),
  symmetric: random() < 0.5,
  groupSize: group,
  perTensor: false,
  scaleType: below(3),
  minZero: below(2),
})
const search = () => ({ steps: 1 + below(8), maxShrink: 0.5, norm: 2, importance: maybe(filled(Float32Array, k)) })
const outputs = () => ({
  codes: shared(Uint8Array, n * k),
  scales: shared(Float32Array, n * groups),
  zeros: shared(Uint8Array, n * groups),
})
/** Codes that lie on any grid. */
const start = () => ({ ...outputs(), scales: shared(Float32Array, n * groups).fill(0.1) })
const clip = () => maybe(filled(Float32Array, n * groups))
const w = () => filled(Float32Array, n * k)
const flag = () => pick([null, null, shared(Int32Array, 1), filled(Int32Array, 1)])
const dtype = () => below(3)
const dtypeArray = (type, count) => filled(type === 0 ? Float32Array : Uint16Array, count)
const groupIndex = () => pick([null, Int32Array.from({ length: k }, (_, j) => (k - 1 - j) >> 3), filled(Int32Array, k)])
const codes = () => filled(Uint8Array, n * k)
// zeros, offsets, code book
const values = () =>
  pick([
    [null, null, null],
    [filled(Uint8Array, n * groups), null, null],
    [null, filled(Float32Array, n * groups), null],
    [null, null, filled(Float32Array, 16)],
    [filled(Uint8Array, n * groups), filled(Float32Array, n * groups), filled(Float32Array, 256)],
  ])
const sharing = () => [w(), n, k, group, pick([1, 2, 3]), pick([0, 0, 8, 24, n * k]), pick([1, 4]), w()]
const observers = () => {
  const list = [
    { run: 0, op: 1, slot: 1, reduction: 0, accumulator: fixtures.hessian },
    { run: 0, op: 2, slot: 1, reduction: 1, accumulator: fixtures.sums },
    { run: 0, op: -1, slot: 0, reduction: 3, out: shared(Float32Array, 3 * k) },
    { run: 0, op: 5, slot: 0, reduction: 4, accumulator: fixtures.errors, reference: shared(Float32Array, 3 * k) },
    { run: 0, op: 5, slot: 0, reduction: 6, accumulator: fixtures.reservoir },
    { run: 0, op: 5, slot: 0, reduction: 8, accumulator: fixtures.cross, reference: shared(Float32Array, 3 * k) },
    {
      ...{ run: 0, op: 5, slot: 0, inputs: pick([1, 2, 9]), reduction: 8, accumulator: fixtures.between },
      reference: shared(Float32Array, 3 * k),
    },
  ]
  return list.filter(() => random() < 0.3)
}
const epilogue = () => {
  const rows = Int32Array.of(2, 0)
  const targets = Int32Array.of(1, 7)
  return pick([
    null,
    { mode: 1, rows, logits: shared(Float32Array, 16) },
    { mode: 2, rows, targets, values: shared(Float64Array, 2) },
    { mode: 5, rows, targets, values: shared(Float64Array, 4) },
    {
      mode: 3,
      rows,
      tokens: shared(Int32Array, 2),
      sampling: {
        temperature: below(2),
        topK: below(4),
        topP: 0.9,
        minP: 0,
        repetitionPenalty: 1.1,
        seed: below(9),
        position: 3,
        history: maybe(Int32Array.of(1, 2)),
      },
    },
    {
      mode: 4,
      rows,
      targets,
      values: shared(Float64Array, 8),
      referenceHidden: filled(Float32Array, 2 * k),
      referenceWidth: k,
      referenceHead: fixtures.table,
      referenceSoftcap: 0,
    },
  ])
}
const request = () => ({
  rows: 3,
  tokens: pick([Int32Array.of(1, 2, 7), filled(Int32Array, 3)]),
  sequences: pick([
    Int32Array.of(0, 3, 0, 0, 1, -1),
    Int32Array.of(0, 1, 4, 0, 1, 0, 1, 2, 15, 1, 2, -1),
    filled(Int32Array, 6),
  ]),
  adapters: pick([new Float64Array(0), Float64Array.of(fixtures.adapter), filled(Float64Array, 1)]),
  pageTable: pick([Int32Array.of(0, 2, 3), filled(Int32Array, 3)]),
  exactTable: pick([null, Int32Array.of(0, 2, 1), filled(Int32Array, 3)]),
  cache: pick([fixtures.cache, fixtures.cache, fixtures.exactCache]),
  observers: observers(),
  epilogue: epilogue(),
})

// Valid arguments of every export.
const valid = {
  registerError: () => [NativeError],
  cpu: () => [],
  selectKernels: () => [pick([null, "reference", pick(native.cpu().supported)])],
  setThreads: () => [1 + below(4)],
  threads: () => [],
  peakInstructions: () => [],
  measurePeak: () => [pick(native.peakInstructions()), 0.05],
  createReadProbe: () => [pick([256, 4096])],
  measureRead: () => [fixtures.probe, pick([0, 64, 1024]), pick([256, 1024]), below(4)],
  decodePacked: () => [fixtures.codes, fixtures.decoded],
  release: () => [fixtures.released],
  deferReports: () => [random() < 0.5],
  handleBytes: () => [pick(fixtureHandles)],
  handleCount: () => [],
  mapFile: () => [process.execPath],
  mappingBytes: () => [fixtures.mapping],
  readMapping: () => [fixtures.mapping, below(99), new Uint8Array(64)],
  readMappingAsync: () => [fixtures.mapping, below(99), shared(Uint8Array, 64)],
  dropMapping: () => [fixtures.mapping, 0, 64],
  convert: () => ((a, b) => [pick([dtypeArray(a, 64), mapped()]), a, dtypeArray(b, 64), b, 64])(dtype(), dtype()),
  convertAsync: () => ((a, b) => [pick([dtypeArray(a, 64), mapped()]), a, dtypeArray(b, 64), b, 64])(dtype(), dtype()),
  scan: () => (a => [pick([dtypeArray(a, 64), mapped()]), a, 64])(dtype()),
  scaleMatrix: () => [w(), n, k, maybe(filled(Float32Array, n)), maybe(filled(Float32Array, k)), w()],
  hadamardOrder: () => [pick([1, 7, 12, 96, 2 ** 53 - 1])],
  hadamard: () => [w(), n, k, below(2), pick([1, 2, 4, 12, 3]), null, w()],
  addLowRank: () => [w(), n, k, filled(Float32Array, 3 * k), filled(Float32Array, n * 3), 3, 0.5, w()],
  columnMagnitude: () => [w(), n, k, group, filled(Float32Array, k)],
  groupMagnitude: () => [w(), n, k, group, filled(Float32Array, n * k)],
  squaredDifference: () => [w(), w(), n * k],
  largestDifference: () => [w(), w(), n * k],
  packBits: () => [codes(), n, k, pick([2, 3, 4, 5, 8]), false, below(8), shared(Int32Array, n * 4)],
  unpackBits: () => [filled(Int32Array, n * 4), n, k, pick([2, 3, 4, 5, 8]), false, below(8), codes()],
  transpose: () => [w(), n, k, 4, w()],
  packPlanes: () => [filled(Uint8Array, n * 64), n, 64, pick([2, 3, 5, 7, 8]), shared(Int32Array, n * 16)],
  unpackPlanes: () => [filled(Int32Array, n * 16), n, 64, pick([2, 3, 5, 7, 8]), shared(Uint8Array, n * 64)],
  packTiles: () => [filled(Uint8Array, 4096), pick([0, 1]), 64, 64, shared(Uint8Array, 2048)],
  unpackTiles: () => [pick([filled(Uint8Array, 2048), mapped()]), pick([0, 1]), 64, 64, shared(Uint8Array, 4096)],
  orderMarlinScales: () => [
    filled(Float32Array, 256),
    pick([1, 4]),
    64,
    pick([false, true]),
    shared(Float32Array, 256),
  ],
  decodeBlocks: () =>
    (type => [pick([filled(Uint8Array, 4096), mapped()]), type, n, pick([32, 256]), shared(Float32Array, n * 256)])(
      pick([0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 23, 30, 34, 35, 39]),
    ),
  packBlocks: () => [
    pick([filled(Uint8Array, 4096), mapped()]),
    pick([0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 23, 30, 34, 35, 39]),
    n,
    pick([32, 256]),
    pick([null, Int32Array.from({ length: n }, (_, i) => n - 1 - i), filled(Int32Array, n)]),
  ],
  encodeBlocks: () => [
    filled(Float32Array, n * 256),
    pick([0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 23, 30, 34, 35, 39]),
    n,
    pick([32, 256]),
    maybe(filled(Float32Array, 256)),
    shared(Uint8Array, 4096),
    flag(),
  ],
  readBlockCodes: () => [
    pick([filled(Uint8Array, 4096), mapped()]),
    pick([0, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 20, 23, 34, 35, 39]),
    n,
    pick([32, 256]),
    pick([null, Int32Array.from({ length: n }, (_, i) => n - 1 - i), filled(Int32Array, n)]),
    shared(Uint8Array, n * 256),
    shared(Float32Array, n * 16),
    maybe(shared(Float32Array, n * 16)),
  ],
  writeBlockCodes: () => [
    filled(Uint8Array, n * 256),
    pick([0, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 20, 23, 34, 35, 39]),
    n,
    pick([32, 256]),
    pick([null, Int32Array.from({ length: n }, (_, i) => n - 1 - i), filled(Int32Array, n)]),
    pick([2, 3, 4, 8]),
    pick([16, 32, 256]),
    filled(Float32Array, n * 16),
    maybe(filled(Uint8Array, n * 16)),
    maybe(filled(Float32Array, n * 16)),
    maybe(shared(Uint8Array, 4096)),
  ],
  gptqBlocks: () => [
    filled(Float32Array, n * 256),
    pick([0, 2, 3, 6, 7, 8, 9, 10, 12, 14, 15, 20, 23, 39]),
    n,
    pick([k, 32, 256]),
    fixtures.hessian,
    {
      importance: maybe(filled(Float32Array, 256)),
      damp: 0.01,
      dampStep: 0.01,
      block: pick([1, 4, 128]),
      order: below(4),
    },
    shared(Uint8Array, 4096),
    flag(),
  ],
  packDense: () => (a => [pick([dtypeArray(a, n * k), mapped()]), a, n, k, below(4)])(dtype()),
  packDenseSync: () => (a => [pick([dtypeArray(a, n * k), mapped()]), a, n, k, below(4)])(dtype()),
  packNibbles: () => [codes(), pick([0, 7, n * k]), random() < 0.5, codes()],
  signCodes: () => [codes(), n * k, pick([2, 4, 8]), codes()],
  expandShared: () => sharing(),
  collapseShared: () => sharing(),
  unpackCodes: () => [pick([codes(), mapped()]), below(7), n, k, 4, codes()],
  packCodes: () => [
    pick([codes(), mapped()]),
    below(7),
    n,
    k,
    4,
    group,
    filled(Float32Array, n * groups),
    ...values(),
    groupIndex(),
    maybe(filled(Float32Array, k)),
    maybe(
      Float64Array.of(
        below(4),
        below(3),
        below(2),
        below(2),
        pick([0, 8, 16, 1e300]),
        pick([1, 0.01, NaN]),
        pick([0, 3, -128, 1e9]),
        pick([0, 6, Infinity]),
      ),
    ),
  ],
  packCodesSync: () => valid.packCodes(),
  weightIsFused: () => [pick([fixtures.weight, fixtures.codes])],
  weightActivations: () => [pick([fixtures.weight, fixtures.codes])],
  vector: () => [new Float32Array(8)],
  matmul: () =>
    ((a, b) => [
      fixtures.weight,
      dtypeArray(a, 3 * k),
      a,
      3,
      dtypeArray(b, 3 * k),
      b,
      maybe(filled(Float32Array, k)),
      below(3),
    ])(dtype(), dtype()),
  matmulAsync: () => valid.matmul(),
  roundNearest: () => [w(), n, k, grid(), maybe(search()), clip(), outputs(), flag()],
  roundCodebook: () => [
    w(),
    n,
    k,
    group,
    filled(Float32Array, n * groups),
    { codes: filled(Uint8Array, 4), limits: shared(Float32Array, 3), reciprocal: pick([true, false]) },
    codes(),
    flag(),
  ],
  dequantize: () => [
    codes(),
    filled(Float32Array, n * groups),
    ...values(),
    n,
    k,
    4,
    group,
    groupIndex(),
    maybe(filled(Float32Array, k)),
    w(),
  ],
  dequantizeSync: () => valid.dequantize(),
  packRounded: () => [w(), n, k, grid(), maybe(filled(Float32Array, k).fill(2)), clip()],
  gptq: () => [
    w(),
    n,
    k,
    fixtures.hessian,
    {
      grid: grid(),
      search: maybe(search()),
      clip: clip(),
      damp: 0.01,
      dampStep: 0.01,
      block: pick([1, 4, 128]),
      order: below(4),
    },
    outputs(),
    shared(Int32Array, k),
    flag(),
  ],
  learnRounding: () => [
    w(),
    n,
    k,
    fixtures.hessian,
    {
      grid: grid(),
      steps: pick([0, 3]),
      offsets: pick([true, false]),
      sweeps: pick([0, 3]),
      codes: pick([true, false]),
    },
    pick([[start()], [start(), start()], [outputs()], []]),
    groupIndex(),
    outputs(),
    flag(),
  ],
  correctTarget: () => [
    ...[w(), n, k, fixtures.hessian, fixtures.cross, pick([null, fixtures.residual])],
    ...[pick([0, 0.01, 1]), w(), flag()],
  ],
  roundHqq: () => [
    w(),
    n,
    k,
    grid(),
    { steps: pick([0, 1, 20]), norm: 0.7, beta: 10, kappa: 1.01 },
    clip(),
    outputs(),
    flag(),
  ],
  layerError: () => [w(), w(), n, k, fixtures.hessian],
  searchClip: () => [w(), n, k, fixtures.hessian, grid(), 5, 0.5, filled(Float32Array, n * groups), flag()],
  createAccumulator: () => [pick([0, 1, 2, 4, 5, 6, 7, 8]), 1 + below(8), 4, 1],
  accumulate: () => [
    pick([fixtures.hessian, fixtures.sums, fixtures.reservoir, fixtures.cross]),
    filled(Float32Array, 4 * k),
    4,
    filled(Float32Array, 4 * k),
  ],
  accumulatorRows: () => [fixtures.sums],
  readAccumulator: () => [
    pick([fixtures.hessian, fixtures.sums, fixtures.errors, fixtures.reservoir, fixtures.cross]),
    new Float32Array(64),
  ],
  createProgram: () => programArguments(pick),
  createAdapter: () => [
    Float64Array.of(fixtures.codes, pick([fixtures.decoded, fixtures.norm]), fixtures.decoded),
    pick([Float64Array.of(0.5), filled(Float64Array, 1)]),
  ],
  createCache: () => [1 + below(2), 1, 8, 1 + below(4), kvFormat(), maybe(filled(Float32Array, pick([2, 4])))],
  cacheBytes: () => [1 + below(2), 1, 8, 1 + below(4), kvFormat(), maybe(filled(Float32Array, pick([2, 4])))],
  step: () => {
    const tools = { pick, below, filled, random, shared }
    const noProgram = error => noteError("createProgram", error)
    const { program, request: whole } = stepArguments(native, fixtures, tools, request(), made, noProgram)
    return [program, whole, flag()]
  },
  cuda: () => [pick([null, emulated])],
  cudaOpen: () => [emulated, below(3)],
  cudaUpload: () => [device(), pick([filled(Uint16Array, 4 * k), mapped()]), 1, pick([0, 1, 8])],
  cudaDownload: () => [fixtures.deviceX ?? 1, shared(Uint16Array, 4 * k)],
  cudaPackCodes: () => [
    device(),
    filled(Uint8Array, n * k),
    n,
    k,
    2 + below(7),
    k,
    shared(Float32Array, n).fill(0.25),
    random() < 0.5,
    maybe(filled(Uint8Array, n)),
    maybe(shared(Int32Array, k)),
    maybe(filled(Float32Array, k)),
  ],
  cudaPackFloats: () => [fixtures.deviceX ?? 1, 1 + below(2), below(5), pick([k, 2 ** 32])],
  cudaMatmul: () => [
    fixtures.deviceCodes ?? 1,
    fixtures.deviceX ?? 1,
    1 + below(2),
    below(5),
    null,
    pick([true, false]),
  ],
  cudaMatmulInto: () => [
    fixtures.deviceCodes ?? 1,
    fixtures.deviceX ?? 1,
    1 + below(2),
    below(5),
    null,
    pick([true, false]),
    pick([fixtures.deviceX ?? 1, fixtures.deviceY ?? 1]),
  ],
  cudaWrite: () => [
    fixtures.deviceX ?? 1,
    pick([filled(Uint16Array, 4 * k), mapped()]),
    1,
    pick([0, 1, 4 * k, 4 * k + 1]),
  ],
  cudaRecord: () => [device()],
  cudaEndRecord: () => [pick([fixtures.deviceGraph ?? 1, ...made])],
  cudaLaunch: () => [pick([fixtures.deviceGraph ?? 1, ...made])],
  cudaTime: () => [fixtures.deviceGraph ?? 1, shared(Float64Array, 1)],
  cudaReadAll: () => [fixtures.deviceX ?? 1, fixtures.deviceY ?? 1],
  cudaDecode: () => [fixtures.deviceCodes ?? 1, pick([fixtures.deviceDense ?? 1, fixtures.deviceCodes ?? 1])],
  cudaBlasOpen: () => [device(), pick([cublas, emulated, "libtsq_none.so", null])],
  cudaBlasMultiply: () => [
    fixtures.deviceBlas ?? 1,
    fixtures.deviceDenseRows ?? 1,
    fixtures.deviceX ?? 1,
    1 + below(2),
    below(5),
    pick([n, 1, 2 ** 31]),
    pick([k, 1, 2 ** 40]),
    pick([fixtures.deviceY ?? 1, fixtures.deviceX ?? 1]),
  ],
  cudaHessian: () => [device(), 1 + below(40)],
  cudaAccumulate: () => {
    const type = dtype()
    return [deviceHessian(), pick([dtypeArray(type, 4 * k), mapped()]), type, below(5)]
  },
  cudaFinishHessian: () => [deviceHessian(), fixtures.hessianToCome],
  cudaRoundNearest: () => [device(), ...valid.roundNearest()],
  cudaGptq: () => [device(), ...valid.gptq()],
  cudaLayerError: () => [device(), ...valid.layerError()],
  cudaScaledErrors: () => [
    device(),
    w(),
    n,
    k,
    fixtures.hessian,
    grid(),
    filled(Float32Array, 2 * k),
    1 + below(2),
    shared(Float64Array, 2),
    flag(),
  ],
  openPackFile: () => [packPath],
  readPackFloats: () => [fixtures.packFile, shared(Float32Array, k)],
  readPackWeights: () => [fixtures.packFile, 0, below(2), flag()],
  writePackFile: () => [
    join(folder, `pack-${++packs}`),
    "{}",
    filled(Float32Array, below(8)),
    Float64Array.of(fixtures.weight, fixtures.codes),
    flag(),
  ],
}
const exports = Object.keys(native)
const untested = exports.filter(name => !(name in valid))
if (untested.length > 0) throw new Error(`no arguments for ${untested}`)

// Spoils an argument, or something inside it.
function spoil(value) {
  if (value !== null && typeof value === "object" && !ArrayBuffer.isView(value) && random() < 0.8) {
    const keys = Object.keys(value)
    if (keys.length === 0) return anything()
    const key = pick(keys)
    const spoiled = Array.isArray(value) ? value.slice() : { ...value }
    if (random() < 0.1) {
      Object.defineProperty(spoiled, key, {
        enumerable: true,
        get() {
          throw getterError
        },
      })
    } else {
      spoiled[key] = spoil(value[key])
    }
    return spoiled
  }
  if (ArrayBuffer.isView(value) && value.length > 0 && typeof value[0] === "number" && random() < 0.5) {
    const copy = random() < 0.2 ? value.subarray(below(value.length)) : value
    copy[below(copy.length)] = pick(numbers)
    return copy
  }
  return anything()
}
function argumentsOf(name) {
  const style = random()
  const args = valid[name]()
  if (style < 0.15) return args
  if (style < 0.25) return Array.from({ length: below(11) }, anything)
  if (style < 0.3) return args.slice(0, below(args.length + 1))
  const times = 1 + below(2)
  for (let i = 0; i < times && args.length > 0; ++i) {
    const at = below(args.length)
    try {
      args[at] = spoil(args[at])
    } catch (error) {
      if (error !== getterError) throw error
      args[at] = anything()
    }
  }
  return args
}

const codesSeen = {}
const outcome = { calls: 0, done: 0, refused: 0 }
const made = []
function note(name, result) {
  ++outcome.done
  if (
    /^(mapFile|packDense|packCodes|packRounded|vector|create|cuda(Open|Upload|Pack|Matmul$|Record|Hessian))/.test(name)
  )
    made.push(result)
  if (name === "openPackFile") made.push(result.file)
  if (name === "packBlocks" || name === "cudaBlasOpen") made.push(result.handle)
  if (name === "readPackWeights") made.push(...result)
}
function noteError(name, error) {
  ++outcome.refused
  if (error === getterError) return
  if (!(error instanceof NativeError)) throw new Error(`${name} gave ${error?.stack ?? error}`)
  if (/internal error/.test(error.message)) throw new Error(`${name}: ${error.message}`)
  codesSeen[error.code] = (codesSeen[error.code] ?? 0) + 1
}

for (let round = 0; round < rounds; ++round) {
  const pending = []
  // Whole programs are in its arguments.
  for (const name of [...exports, "step", "step", "step"]) {
    if (name === "registerError" && round % 7 !== 0) continue
    // In the emulation each takes its time.
    if (/^cuda(Gptq|RoundNearest|LayerError|ScaledErrors)$/.test(name) && round % 5 !== 0) continue
    const args = argumentsOf(name)
    if (name === "release") args[0] = fixtureHandles.includes(args[0]) ? fixtures.released : args[0]
    if (name === "registerError" && typeof args[0] === "function") args[0] = NativeError
    ++outcome.calls
    try {
      const result = native[name](...args)
      if (result instanceof Promise)
        pending.push(
          result.then(
            value => note(name, value),
            error => noteError(name, error),
          ),
        )
      else note(name, result)
    } catch (error) {
      noteError(name, error)
    }
  }
  await Promise.all(pending)
  for (const handle of made.splice(0)) native.release(handle)
}
// A kernel that failed would have cost the device.
if (fixtures.device) await native.cudaDownload(fixtures.deviceX, shared(Uint16Array, 4 * k))
native.setThreads(2)
const leaked = native.handleCount() - (fixtureHandles.length - 1)
console.log(JSON.stringify({ ...outcome, codes: codesSeen, leaked }))
