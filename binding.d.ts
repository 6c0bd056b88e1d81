// Types of the native addon's exports: the one contract between lib/ and native/.
//
// Arguments are flat numbers and typed arrays; lib/ validates options and gives good messages, the addon re-checks what
// would corrupt memory (lengths, types, ranges, handles) and throws too. Every error thrown or rejected is an instance of
// the class given to registerError. Matrices are row-major. A promise-returning function works off the event loop and needs
// memory that cannot be detached: views of a SharedArrayBuffer (Tensor.empty) or a Mapped slice; anything else is refused.

/** A native object (packed weight, vector, mapping, accumulator, program, cache …) of this environment. Never reused. */
export type Handle = number

/** f32 0, f16 1, bf16 2, i8 3, u8 4, i32 5. f16 and bf16 travel as Uint16Array. */
export type DtypeCode = 0 | 1 | 2 | 3 | 4 | 5

/** Part of a mapped file. */
export interface Mapped {
  mapping: Handle
  offset: number
  bytes: number
}

export type Source = ArrayBufferView | Mapped

/**
 * How the codes of a weight [n, k] lie. 0: [n, k], a byte a code. 1: [n, ceil(k · bits / 32)] words, every row a bit stream.
 * 2: the same words transposed. 3: [k, n / 8] words in AWQ's order, 4 bits. 4: [n, k], a two's complement byte a code, which is
 * the code less 2^(bits-1). 5: [ceil(n k / 2)], two codes of 4 bits a byte along the whole matrix, the even element in the lower
 * half; 6: in the upper half.
 */
export type CodeLayout = 0 | 1 | 2 | 3 | 4 | 5 | 6

/** Storage of a packed weight: f32 0, f16 1, bf16 2, 4-bit codes 3, 8-bit codes 4. */
export type WeightKind = 0 | 1 | 2 | 3 | 4

/** Polled by long work: non-zero asks it to stop with ERR_ABORTED. A view of a SharedArrayBuffer. */
export type AbortFlag = Int32Array | null

export interface CpuInfo {
  /** Kernel table in use. */
  kernels: string
  /** Tables this machine can run, "reference" first, best last. */
  supported: string[]
  /** Instruction-set features found (operating-system support included). */
  features: string[]
  /** Threads that take part in a call. */
  threads: number
}

/** cuda/module/module.h. */
export interface CudaInfo {
  /** Path of the module that was opened; null where there is none to open. */
  module: string | null
  devices: {
    name: string
    major: number
    minor: number
    multiprocessors: number
    memoryBytes: number
    cacheBytes: number
  }[]
  /** Why there are no devices; empty where there are. */
  reason: string
}

/** native/kernels/probes.cc: a multiply-add and the registers it works on. */
export type Instruction =
  | "fma-ymm"
  | "maddubs-ymm"
  | "vnni-ymm"
  | "fma-zmm"
  | "maddubs-zmm"
  | "vnni-zmm"
  | "bf16-zmm"
  | "amx-bf16"
  | "amx-int8"
  | "fma-neon"
  | "mull-neon"
  | "dot-neon"
  | "mmla-neon"
  | "bfmmla-neon"

/** How memory is asked for ahead of its use: not at all, 1 KiB, 1 KiB and 512 B by turns, 4 KiB. */
export type ReadPattern = 0 | 1 | 2 | 3

/** native/rounding/rounding.h GridSpec. */
export interface Grid {
  bits: number
  symmetric: boolean
  /** Along k; k for per-channel and per-tensor. */
  groupSize: number
  perTensor: boolean
  /** Scales are rounded to this type before codes are chosen: f32 0, f16 1, bf16 2. */
  scaleType: 0 | 1 | 2
  /** 1 for GPTQ v1 files, which cannot store a zero point of 0. */
  minZero: number
}

/** native/rounding/rounding.h SearchSpec; null in place of it: scales from the range. */
export interface ScaleSearch {
  steps: number
  maxShrink: number
  norm: number
  /** [k], E[x^2]; or null. */
  importance: Float32Array | null
}

/** Written in place: codes [n, k], scales [n, G], zeros [n, G] or null when symmetric. */
export interface RoundedArrays {
  codes: Uint8Array
  scales: Float32Array
  zeros: Uint8Array | null
}

/** native/rounding/codebook.h: the codes of a code book by ascending value, and the limits between them, compared in IEEE 754's total order. */
export interface CodebookSteps {
  /** 1 to 256. */
  codes: Uint8Array
  /** One less. */
  limits: Float32Array
  /** Numbers are w * (1 / scale) rather than w / scale. */
  reciprocal: boolean
}

export interface GptqOptions {
  grid: Grid
  search: ScaleSearch | null
  /** [n, G] largest |w| kept, or null. */
  clip: Float32Array | null
  damp: number
  dampStep: number
  block: number
  /** none 0, static 1, group-aware 2, dynamic 3. */
  order: 0 | 1 | 2 | 3
}

export interface BlockGptqOptions extends Pick<GptqOptions, "damp" | "dampStep" | "block"> {
  /** [k] weight of a column's error in the search for scales, or null. */
  importance: Float32Array | null
  /** none 0, static 1, group-aware 2: native/gguf/gptq.h. */
  order: 0 | 1 | 2
}

export interface GptqReport {
  damp: number
  degraded: boolean
  keptNearest: boolean
  deadColumns: number
  error: number
  nearestError: number
  note: string
  /** Of the inverse factor, of scales and columns, of the comparison. */
  factorSeconds: number
  columnSeconds: number
  compareSeconds: number
}

/** native/rounding/learned.h LearnSpec. */
export interface LearnOptions {
  grid: Grid
  /** Of signed gradients; 0: none. */
  steps: number
  /** They move the offsets of the rounding as well as the ends of ranges. */
  offsets: boolean
  /** Of exact descent, at most. */
  sweeps: number
  /** It moves codes as well as scales and zero points. */
  codes: boolean
}

/** Output errors as layerError gives them. */
export interface LearnReport {
  error: number
  startErrors: number[]
}

/** hessian 0, sum of squares 1, absolute maximum 2, copy 3, squared error 4, mean 5, reservoir 6, rows with something other than 0 by column 7, cross Gram matrix 8, products with a reference 9. */
export type ReductionCode = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9

/** One execution of ops [opBegin, opEnd) of a section: [section, opBegin, opEnd, weightBase, cacheLayer]. */
export interface StepObserver {
  run: number
  /** After this op; opBegin - 1: before the first. */
  op: number
  slot: number
  reduction: ReductionCode
  /** All reductions but copy. */
  accumulator?: Handle
  /** copy: [rows, slot width]. */
  out?: Float32Array
  /** squared error, cross, products: [rows, slot width]. */
  reference?: Float32Array
  /** cross with a capacity, and no other: the slot of x, while this one is compared with the reference. */
  inputs?: number
  /** Both: the slot is grouped by the routes in that slot, and only rows of this expert are reduced. All reductions but copy. */
  routes?: number
  expert?: number
}

export interface StepSampling {
  /** 0: greedy. */
  temperature: number
  topK: number
  topP: number
  minP: number
  repetitionPenalty: number
  /** The random number depends on seed and position alone. */
  seed: number
  position: number
  history: Int32Array | null
}

export interface StepEpilogue {
  /** logits 1, negative log-likelihood 2, sample 3, divergence 4, score 5. */
  mode: 1 | 2 | 3 | 4 | 5
  /** Rows of this step that it applies to. */
  rows: Int32Array
  /** logits: [rows, vocabulary]. */
  logits?: Float32Array
  /** nll, divergence, score: [rows]. */
  targets?: Int32Array
  /**
   * nll: [rows]; divergence: [rows, 4] = KL(reference || this), nll, reference nll, 1 where the top tokens agree; score:
   * [rows, 2] = nll, 1 where the target is the top token.
   */
  values?: Float64Array
  /** sample: [rows]. */
  tokens?: Int32Array
  sampling?: StepSampling
  /** divergence: the reference's input of its logits operation, [rows, referenceWidth], and its head. */
  referenceHidden?: Float32Array
  referenceWidth?: number
  referenceHead?: Handle
  referenceSoftcap?: number
  referenceActivations?: ActivationsCode
}

/** Activations as they are 0, rounded to 8 bits by row and block 1, as each weight's scheme says 2. */
export type ActivationsCode = 0 | 1 | 2

export interface StepRequest {
  /** [count, 5]: section, opBegin, opEnd, weightBase, cacheLayer. */
  runs: Int32Array
  /** Handles bound to the runs' weights, -1 for none. */
  weights: Float64Array
  rows: number
  /** [rows]. */
  tokens: Int32Array | null
  /** [count, 6]: rowBegin, rows, context, pageBegin, pages, index into adapters or -1. */
  sequences: Int32Array
  pageTable: Int32Array
  /** Handles of adapters. */
  adapters: Float64Array
  /** Beside pageTable: page of the cache's f16 pool, -1 none. Needed where the cache's format keeps positions exactly. */
  exactTable?: Int32Array | null
  cache: Handle | null
  /** [rows, width of hiddenSlot], copied in before the first run; null keeps what the slot holds. */
  hidden: Float32Array | null
  hiddenSlot: number
  observers: StepObserver[]
  epilogue: StepEpilogue | null
  /** Of every linear and the head; default: exact. */
  activations?: ActivationsCode
}

export interface OpenPackFile {
  file: Handle
  meta: string
  /** Elements. */
  floats: number
  /** [weights, 4]: n, k, bits and the bytes it takes in memory. */
  weights: Float64Array
}

export interface Binding {
  /** Once per environment, before anything else: class constructed as new TsqError(code, message). */
  registerError(errorClass: new (code: string, message: string) => Error): void

  // The machine
  cpu(): CpuInfo
  /** null: the default. Every later call of the process uses it. */
  selectKernels(name: string | null): void
  setThreads(threads: number): void
  threads(): number
  /** Opens the CUDA module: the one at `module`, null for the one beside the addon. What is wrong becomes a reason, not an error. */
  cuda(module: string | null): CudaInfo

  // CUDA devices. Everything of one Handle of a device happens in order; what is enqueued fails at the next upload or download.
  /** Prepares a device of a module. ERR_DEVICE where there is none. */
  cudaOpen(module: string | null, index: number): Promise<Handle>
  /** A copy in memory of the device. ERR_DEVICE where it does not fit. */
  cudaUpload(device: Handle, source: Source, dtype: DtypeCode, count: number): Promise<Handle>
  /** Copies all of it to the start of `out`, once all that was enqueued before is done. */
  cudaDownload(memory: Handle, out: ArrayBufferView): Promise<void>
  /** Codes [n, k] < 2^bits, scales [n, G] that f16 (or bf16) holds exactly, zeros [n, G] or null (2^(bits-1)), groupIndex [k] or null, inputScale [k] or null. */
  cudaPackCodes(
    device: Handle,
    codes: Uint8Array,
    n: number,
    k: number,
    bits: number,
    groupSize: number,
    scales: Float32Array,
    scalesAreBF16: boolean,
    zeros: Uint8Array | null,
    groupIndex: Int32Array | null,
    inputScale: Float32Array | null,
  ): Promise<Handle>
  /** Weights [n, k] of f16 (1) or bf16 (2) that lie on a device. */
  cudaPackFloats(source: Handle, dtype: 1 | 2, n: number, k: number): Promise<Handle>
  /** Enqueues y[m, n] = x[m, k] W^T (+ bias [n]), all f16 (1) or bf16 (2), and gives y's memory. batchInvariant: rows have the same bits for every m. */
  cudaMatmul(weight: Handle, x: Handle, dtype: 1 | 2, m: number, bias: Handle | null, batchInvariant: boolean): Handle
  /** The same into memory that there is. */
  cudaMatmulInto(
    weight: Handle,
    x: Handle,
    dtype: 1 | 2,
    m: number,
    bias: Handle | null,
    batchInvariant: boolean,
    out: Handle,
  ): void

  /** Overwrites memory of a device from its start, in the order of the device. */
  cudaWrite(memory: Handle, source: Source, dtype: DtypeCode, count: number): Promise<void>
  /** A graph: until it ends, or is released, products of the device are recorded in place of being enqueued. */
  cudaRecord(device: Handle): Handle
  /** ERR_OPTION where nothing was recorded. */
  cudaEndRecord(graph: Handle): void
  /** Enqueues what was recorded. What it uses stays as long as the graph. */
  cudaLaunch(graph: Handle): void
  /** out[i]: microseconds of the device for a launch, all else on it included. */
  cudaTime(graph: Handle, out: Float64Array): Promise<void>
  /** Reads memory of at least 16 bytes and does nothing else; sink has 4. Recorded like products. */
  cudaReadAll(memory: Handle, sink: Handle): void
  /** Overwrites a weight of 16 bits with the values of codes of the same shape: what a product without fused kernels does first. */
  cudaDecode(codes: Handle, dense: Handle): void
  /**
   * cuBLAS on a device, by the name or path of its library; null: whichever of libcublas.so.13 to .11 opens. ERR_UNSUPPORTED, with
   * what is wrong with each, where none does.
   */
  cudaBlasOpen(device: Handle, name: string | null): Promise<{ handle: Handle; library: string; version: number }>
  /**
   * Enqueues y[m, n] = x[m, k] w[n, k]^T, all f16 (1) or bf16 (2) in memory of the device. Recorded like products. ERR_UNSUPPORTED
   * with the status that cuBLAS gives where it fails.
   */
  cudaBlasMultiply(blas: Handle, w: Handle, x: Handle, dtype: 1 | 2, m: number, n: number, k: number, y: Handle): void

  // Calibration on a CUDA device. Memory of it that does not suffice is ERR_DEVICE, with sizes. What has a counterpart without "cuda"
  // takes the device and then the same arguments.
  /** The sum of x x^T over rows to come, [k, k] f32 on the device. */
  cudaHessian(device: Handle, k: number): Promise<Handle>
  /** Adds rows of x [rows, k]: f32 (0), f16 (1) or bf16 (2). */
  cudaAccumulate(hessian: Handle, x: Source, dtype: 0 | 1 | 2, rows: number): Promise<void>
  /** Puts the sum in place of what an accumulator of kind hessian has. */
  cudaFinishHessian(hessian: Handle, accumulator: Handle): Promise<void>
  cudaRoundNearest(device: Handle, ...rest: Parameters<Binding["roundNearest"]>): Promise<void>
  cudaGptq(device: Handle, ...rest: Parameters<Binding["gptq"]>): Promise<GptqReport>
  cudaLayerError(device: Handle, ...rest: Parameters<Binding["layerError"]>): Promise<number>
  /**
   * errors[i] = layerError of nearest codes on w diag(s), times diag(1 / s), for s = scales[i, k], i < count. ERR_UNSUPPORTED for
   * one scale per tensor.
   */
  cudaScaledErrors(
    device: Handle,
    w: Float32Array,
    n: number,
    k: number,
    hessian: Handle,
    grid: Grid,
    scales: Float32Array,
    count: number,
    errors: Float64Array,
    abort: AbortFlag,
  ): Promise<void>

  // Probes: what the machine can do at most, with the threads that take part in a call. Synchronous, for benchmarks.
  /** Instructions whose peak can be measured here. */
  peakInstructions(): Instruction[]
  /** 1e9 operations a second, a multiply-add counting two. ERR_UNSUPPORTED for an instruction that does not run here. */
  measurePeak(instruction: Instruction, milliseconds: number): number
  /** Memory to read, 256 bytes to 1 GiB, on large pages where the system has them. */
  createReadProbe(bytes: number): Promise<Handle>
  /** 1e9 bytes a second read of [offset, offset + bytes) of a read probe. */
  measureRead(probe: Handle, offset: number, bytes: number, pattern: ReadPattern): number
  /** Overwrites an f32 pack with the values of a pack of codes (2, 4 or 8 bits): what a product without fused kernels does first. */
  decodePacked(codes: Handle, dense: Handle): void

  // Handles
  /** Frees the object once running calls that use it end. Releasing twice is no error. */
  release(handle: Handle): void
  /**
   * The garbage collector is told what native objects hold, and begins a collection for every 64 MB more. Between true and false
   * (which may be nested) it is told nothing; then all of it at once.
   */
  deferReports(defer: boolean): void
  /** Native bytes an object holds (a mapping: 0). ERR_OPTION when it was released. */
  handleBytes(handle: Handle): number
  /** Live handles of this environment, for leak tests. */
  handleCount(): number

  // Mapped files
  mapFile(path: string): Handle
  mappingBytes(mapping: Handle): number
  /** Copies [offset, offset + out.byteLength). */
  readMapping(mapping: Handle, offset: number, out: Uint8Array): void
  readMappingAsync(mapping: Handle, offset: number, out: Uint8Array): Promise<void>
  /** Tells the system that the pages will not be needed soon. */
  dropMapping(mapping: Handle, offset: number, bytes: number): void

  // Elements
  /** Floats of one type into another, nearest even. count elements. */
  convert(source: Source, from: DtypeCode, out: ArrayBufferView, to: DtypeCode, count: number): void
  convertAsync(source: Source, from: DtypeCode, out: ArrayBufferView, to: DtypeCode, count: number): Promise<void>
  /** [NaN count, Inf count, largest finite |value|, index of the first NaN or Inf or -1]. */
  scan(source: Source, dtype: DtypeCode, count: number): Promise<Float64Array>
  /** out[i, j] = source[i, j] * rowScale[i] * columnScale[j]; either scale null: ones. out may be source. */
  scaleMatrix(
    source: Float32Array,
    n: number,
    k: number,
    rowScale: Float32Array | null,
    columnScale: Float32Array | null,
    out: Float32Array,
  ): Promise<void>
  /** The largest divisor of size that there is a Hadamard matrix of (native/rounding/hadamard.h). */
  hadamardOrder(size: number): number
  /**
   * out = rows (axis 1) or columns (axis 0) of source [n, k], times scale along that axis (null: ones), times a Hadamard matrix of order
   * `block` by its root, in consecutive blocks. out may be source. ERR_OPTION unless block is an order that divides the axis.
   */
  hadamard(
    source: Float32Array,
    n: number,
    k: number,
    axis: 0 | 1,
    block: number,
    scale: Float32Array | null,
    out: Float32Array,
  ): Promise<void>
  /** out [n, k] = w + scale * (b a), with a [rank, k] and b [n, rank]. out may be w. */
  addLowRank(
    w: Float32Array,
    n: number,
    k: number,
    a: Float32Array,
    b: Float32Array,
    rank: number,
    scale: number,
    out: Float32Array,
  ): Promise<void>
  /** out[k] = mean over rows of |w| / (largest |w| of its row's group): AWQ's weight magnitude. */
  columnMagnitude(w: Float32Array, n: number, k: number, groupSize: number, out: Float32Array): Promise<void>
  /** out [n, ceil(k / groupSize)]: the largest |w| of each group. */
  groupMagnitude(w: Float32Array, n: number, k: number, groupSize: number, out: Float32Array): Promise<void>
  /** Sum of (a - b)^2 over the first count elements, in double; the same for any number of threads. */
  squaredDifference(a: Float32Array, b: Float32Array, count: number): Promise<number>
  /** The largest |a - b| over the first count elements; infinite where one is NaN. */
  largestDifference(a: Float32Array, b: Float32Array, count: number): Promise<number>

  // Bit streams of on-disk formats
  /** Each row of codes as a dense little-endian bit stream, padded to 32 bits: out [rows, ceil(cols * bits / 32)].
   * interleave: columns of each 8 taken in AWQ's order 0 2 4 6 1 3 5 7 (4 bits). add: added to every code modulo 2^bits first. */
  packBits(
    codes: Uint8Array,
    rows: number,
    cols: number,
    bits: number,
    interleave: boolean,
    add: number,
    out: Int32Array,
  ): Promise<void>
  /** The inverse; add is added after unpacking, modulo 2^bits. */
  unpackBits(
    words: Int32Array,
    rows: number,
    cols: number,
    bits: number,
    interleave: boolean,
    add: number,
    out: Uint8Array,
  ): Promise<void>
  /** codes [count] < 16 as two a byte, the even element in the lower half, or the upper: out [ceil(count / 2)]. */
  packNibbles(codes: Uint8Array, count: number, highFirst: boolean, out: Uint8Array): Promise<void>
  /** out [count] = codes < 2^bits less 2^(bits-1), in two's complement. */
  signCodes(codes: Uint8Array, count: number, bits: number, out: Uint8Array): Promise<void>
  /**
   * Values that several rows or groups share: out [n, groups] of values stored once. runLength > 0: for each run of so many elements
   * of the row-major matrix, a multiple of groupSize, as k is; otherwise for each block of blockRows rows and a group.
   */
  expandShared(
    values: Uint8Array | Float32Array,
    n: number,
    k: number,
    groupSize: number,
    blockRows: number,
    runLength: number,
    elementBytes: 1 | 4,
    out: Uint8Array | Float32Array,
  ): Promise<void>
  /** The inverse. False where some that share differ, bit for bit. */
  collapseShared(...args: Parameters<Binding["expandShared"]>): Promise<boolean>
  /** out [n, k], a byte a code. Bytes of any alignment. ERR_FORMAT for a signed byte that stands for no code. */
  unpackCodes(codes: Source, layout: CodeLayout, n: number, k: number, bits: number, out: Uint8Array): Promise<void>
  /** out [cols, rows] of elements of 1, 2 or 4 bytes. */
  transpose(
    source: ArrayBufferView,
    rows: number,
    cols: number,
    elementBytes: 1 | 2 | 4,
    out: ArrayBufferView,
  ): Promise<void>
  /** Bit planes (native/layout/planes.h): words [rows, cols * bits / 32] of codes [rows, cols], cols a multiple of 32. */
  packPlanes(codes: Uint8Array, rows: number, cols: number, bits: number, out: Int32Array): Promise<void>
  unpackPlanes(words: Int32Array, rows: number, cols: number, bits: number, out: Uint8Array): Promise<void>
  /** 4-bit codes [n, k] in tiles (native/layout/tiles.h), n * k / 2 bytes. order 0: Marlin, 64 by 16; 1: AWQ's GEMV_FAST, 4 by 64. */
  packTiles(codes: Uint8Array, order: 0 | 1, n: number, k: number, out: Uint8Array): Promise<void>
  unpackTiles(tiles: Source, order: 0 | 1, n: number, k: number, out: Uint8Array): Promise<void>
  /** Scales [groups, n] in the order of Marlin's files (pack), or out of it. */
  orderMarlinScales(scales: Float32Array, groups: number, n: number, pack: boolean, out: Float32Array): Promise<void>

  // Files of packed weights: native/kernels/pack_format.h
  /** ERR_FORMAT for a file of another version or kind, ERR_CORRUPT for a damaged one, ERR_IO where it cannot be opened. */
  openPackFile(path: string): Promise<OpenPackFile>
  /** ERR_CORRUPT where the contents do not match their checksum. */
  readPackFloats(file: Handle, out: Float32Array): Promise<void>
  /** Handles of weights [first, first + count). ERR_CORRUPT where the contents do not match their checksums. */
  readPackWeights(file: Handle, first: number, count: number, abort: AbortFlag): Promise<Float64Array>
  /** The file must not exist; what a failure leaves of it is the caller's to remove. */
  writePackFile(
    path: string,
    meta: string,
    floats: Float32Array,
    weights: Float64Array,
    abort: AbortFlag,
  ): Promise<void>

  // Blocks of GGUF types, by ggml's number of the type
  /** out [rows, k] f32, bit for bit what ggml makes of the blocks. k is a multiple of the type's block. ERR_UNSUPPORTED for types without a codec. */
  decodeBlocks(source: Source, type: number, rows: number, k: number, out: Float32Array): Promise<void>
  /**
   * The weight [rows, k] of such blocks, packed: its handle, and the bits of its codes. from [rows]: packed row i is row from[i]
   * of the blocks; null: as they are. ERR_FORMAT for an order that names other rows.
   */
  packBlocks(
    source: Source,
    type: number,
    rows: number,
    k: number,
    from: Int32Array | null,
  ): Promise<{ handle: Handle; bits: number }>
  /**
   * The blocks that ggml's reference encoder makes; importance [k] weighs the errors of the columns. ERR_NUMERIC, by row and column,
   * for what is no finite number or too large for the type.
   */
  encodeBlocks(
    w: Float32Array,
    type: number,
    rows: number,
    k: number,
    importance: Float32Array | null,
    out: Uint8Array,
    abort: AbortFlag,
  ): Promise<void>
  /**
   * Blocks as codes [rows, k] with the type's own zero point, or of its code book, and per group a scale (and an offset for types with
   * minima): [rows, k / group]. from as for packBlocks. ERR_UNSUPPORTED for types that hold no codes.
   */
  readBlockCodes(
    source: Source,
    type: number,
    rows: number,
    k: number,
    from: Int32Array | null,
    codes: Uint8Array,
    scales: Float32Array,
    offsets: Float32Array | null,
  ): Promise<void>
  /**
   * The inverse, for codes of any width, zero point and groups whose values the type holds exactly; row i of the blocks is row from[i].
   * Without `out` they are only checked. ERR_UNSUPPORTED, by row and column, for what the type does not hold.
   */
  writeBlockCodes(
    codes: Uint8Array,
    type: number,
    rows: number,
    k: number,
    from: Int32Array | null,
    bits: number,
    groupSize: number,
    scales: Float32Array,
    zeros: Uint8Array | null,
    offsets: Float32Array | null,
    out: Uint8Array | null,
  ): Promise<void>
  /**
   * The same blocks with codes that make up for each other's errors by the second moments of the inputs, or those of encodeBlocks where
   * that is no better. nearestError is theirs. ERR_UNSUPPORTED for types of floats and those that are only decoded.
   */
  gptqBlocks(
    w: Float32Array,
    type: number,
    rows: number,
    k: number,
    hessian: Handle,
    options: BlockGptqOptions,
    out: Uint8Array,
    abort: AbortFlag,
  ): Promise<GptqReport>

  // Packed weights and products
  packDense(source: Source, dtype: DtypeCode, n: number, k: number, kind: WeightKind): Promise<Handle>
  packDenseSync(source: Source, dtype: DtypeCode, n: number, k: number, kind: WeightKind): Handle
  /**
   * codes < 2^bits, bytes of any alignment, scales [n, G], groupIndex [k] or null, inputScale [k] or null. At most one of zeros [n, G],
   * offsets [n, G] and codebook [2^bits]; none: zeros of 2^(bits-1). What the codes stand for: see dequantize.
   * activations: what ActivationsCode 2 does with this weight's, [8]: type (as weightActivations), grain (tensor 0, token 1, group 2),
   * symmetric, dynamic, columns of a group, scale, zero point, threshold of outliers (0: none); null: exact.
   */
  packCodes(
    codes: Source,
    layout: CodeLayout,
    n: number,
    k: number,
    bits: number,
    groupSize: number,
    scales: Float32Array,
    zeros: Uint8Array | null,
    offsets: Float32Array | null,
    codebook: Float32Array | null,
    groupIndex: Int32Array | null,
    inputScale: Float32Array | null,
    activations: Float64Array | null,
  ): Promise<Handle>
  packCodesSync(
    codes: Source,
    layout: CodeLayout,
    n: number,
    k: number,
    bits: number,
    groupSize: number,
    scales: Float32Array,
    zeros: Uint8Array | null,
    offsets: Float32Array | null,
    codebook: Float32Array | null,
    groupIndex: Int32Array | null,
    inputScale: Float32Array | null,
    activations: Float64Array | null,
  ): Handle
  /** What its scheme rounds activations to: nothing 0, int8 1, E4M3 2, E5M2 3. */
  weightActivations(weight: Handle): 0 | 1 | 2 | 3
  /** False: codes that no kernel takes, held as the floats that they stand for. */
  weightIsFused(weight: Handle): boolean
  /** A small f32 vector (norm weight, bias, inverse frequencies), copied. */
  vector(values: Float32Array): Handle
  /** y[m, n] = x[m, k] W^T (+ bias). x and y f32, f16 or bf16. */
  matmul(
    weight: Handle,
    x: ArrayBufferView,
    xType: DtypeCode,
    m: number,
    y: ArrayBufferView,
    yType: DtypeCode,
    bias: Float32Array | null,
    activations: ActivationsCode,
  ): void
  matmulAsync(
    weight: Handle,
    x: ArrayBufferView,
    xType: DtypeCode,
    m: number,
    y: ArrayBufferView,
    yType: DtypeCode,
    bias: Float32Array | null,
    activations: ActivationsCode,
  ): Promise<void>

  // Rounding
  roundNearest(
    w: Float32Array,
    n: number,
    k: number,
    grid: Grid,
    search: ScaleSearch | null,
    clip: Float32Array | null,
    out: RoundedArrays,
    abort: AbortFlag,
  ): Promise<void>
  /**
   * Codes [n, k] of w / scales[n, ceil(k / groupSize)]: steps.codes[how many of steps.limits the quotient is above] (native/rounding/codebook.h).
   */
  roundCodebook(
    w: Float32Array,
    n: number,
    k: number,
    groupSize: number,
    scales: Float32Array,
    steps: CodebookSteps,
    codes: Uint8Array,
    abort: AbortFlag,
  ): Promise<void>
  /**
   * out [n, k] f32 = scale * (code - zero) * inputScale; (scale * code + offset) * inputScale with offsets;
   * scale * codebook[code] * inputScale with a code book, where codes have to be < 2^bits. Each operation is rounded for itself.
   */
  dequantize(
    codes: Uint8Array,
    scales: Float32Array,
    zeros: Uint8Array | null,
    offsets: Float32Array | null,
    codebook: Float32Array | null,
    n: number,
    k: number,
    bits: number,
    groupSize: number,
    groupIndex: Int32Array | null,
    inputScale: Float32Array | null,
    out: Float32Array,
  ): Promise<void>
  dequantizeSync(
    codes: Uint8Array,
    scales: Float32Array,
    zeros: Uint8Array | null,
    offsets: Float32Array | null,
    codebook: Float32Array | null,
    n: number,
    k: number,
    bits: number,
    groupSize: number,
    groupIndex: Int32Array | null,
    inputScale: Float32Array | null,
    out: Float32Array,
  ): void
  /** Packs (f32) what w becomes when its columns are multiplied by columnScale, rounded to the grid (nearest) and divided again. */
  packRounded(
    w: Float32Array,
    n: number,
    k: number,
    grid: Grid,
    columnScale: Float32Array | null,
    clip: Float32Array | null,
  ): Promise<Handle>
  gptq(
    w: Float32Array,
    n: number,
    k: number,
    hessian: Handle,
    options: GptqOptions,
    out: RoundedArrays,
    groupIndex: Int32Array | null,
    abort: AbortFlag,
  ): Promise<GptqReport>
  /** native/rounding/hqq.h. Zero points are whole numbers. */
  roundHqq(
    w: Float32Array,
    n: number,
    k: number,
    grid: Grid,
    options: { steps: number; norm: number; beta: number; kappa: number },
    clip: Float32Array | null,
    out: RoundedArrays,
    abort: AbortFlag,
  ): Promise<void>
  /** Descends from 1 to 8 starts on the same grid and groupIndex [k]; out, which may be one of them, holds the best of each row. */
  learnRounding(
    target: Float32Array,
    n: number,
    k: number,
    hessian: Handle,
    options: LearnOptions,
    starts: RoundedArrays[],
    groupIndex: Int32Array | null,
    out: RoundedArrays,
    abort: AbortFlag,
  ): Promise<LearnReport>
  /**
   * target [n, k] = w + (H + damp I)^-1 (M^T w + R^T), damp in units of the mean of diag(H): what gives the outputs of w on the references
   * of `cross`, an accumulator of kind cross (M = sum of (reference - x) x^T), from the inputs x of H, and the drift that `residual`, one
   * that compares n columns, has seen (R = sum of drift x^T). kept: target is w, for the reason in note.
   */
  correctTarget(
    w: Float32Array,
    n: number,
    k: number,
    hessian: Handle,
    cross: Handle,
    residual: Handle | null,
    damp: number,
    target: Float32Array,
    abort: AbortFlag,
  ): Promise<{ damp: number; kept: boolean; note: string }>
  /** tr(D H D^T) / rows, D = w - approx: mean squared output error summed over outputs. */
  layerError(w: Float32Array, approx: Float32Array, n: number, k: number, hessian: Handle): Promise<number>
  searchClip(
    w: Float32Array,
    n: number,
    k: number,
    hessian: Handle,
    grid: Grid,
    steps: number,
    maxShrink: number,
    clip: Float32Array,
    abort: AbortFlag,
  ): Promise<void>

  // Accumulators
  /** capacity: of a reservoir its rows; of cross the columns that are compared, 0 for those of x. Otherwise unused. */
  createAccumulator(kind: ReductionCode, width: number, capacity: number, seed: number): Handle
  /** Feeds rows [rows, width]; squared error, products and cross: beside the reference [rows, width]; cross with a capacity: beside the drift itself, [rows, capacity]. */
  accumulate(accumulator: Handle, x: Float32Array, rows: number, reference?: Float32Array | null): Promise<void>
  accumulatorRows(accumulator: Handle): number
  /** hessian: its diagonal [width]; sum of squares, absolute maximum, mean, non-zero, products: [width]; squared error: [2]; reservoir: [min(rows, capacity), width]; cross: nothing. */
  readAccumulator(accumulator: Handle, out: Float32Array | Float64Array): void

  // Programs
  /** ops: [count, 16] = section, kind, in0, in1, in2, out, weight0, weight1, p0 … p7; sectionWeights: weights bound by an instance of each section. */
  createProgram(slots: Float64Array, sectionWeights: Int32Array, ops: Float64Array, vocabulary: number): Handle
  /** A LoRA adapter: weights [count, 3] are handles of the base, A [rank, k] and B [n, rank]; out += scale (x A^T) B^T. */
  createAdapter(weights: Float64Array, scales: Float64Array): Handle
  /**
   * Pages of 16 positions. format, null for f32: of the keys type (f32, f16, int8, fp8, int4), scales (none, token, channel,
   * tensor), whether there are offsets, columns that share a scale; the same of the values; whether keys and values are
   * rotated; sink pages, window pages, pages of the f16 pool. scales, where they are of the tensor: of the keys of every
   * layer, then of the values.
   */
  createCache(
    layers: number,
    kvHeads: number,
    headDim: number,
    pages: number,
    format?: Int32Array | null,
    scales?: Float32Array | null,
  ): Handle
  /** Bytes that createCache would take. */
  cacheBytes(
    layers: number,
    kvHeads: number,
    headDim: number,
    pages: number,
    format?: Int32Array | null,
    scales?: Float32Array | null,
  ): number
  step(program: Handle, request: StepRequest, abort: AbortFlag): Promise<void>
}
