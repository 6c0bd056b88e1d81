// onnxruntime-node's MatMulNBits. One session holds a node for each copy of the weights and a run passes all of them, so that
// the cost of a call from JavaScript is shared by the copies: what remains is the kernel, as a C++ caller would see it.
import { TsqError } from "../core/errors.ts"
import { sharedFloats } from "../core/shared-array.ts"
import { blockCodes } from "../formats/onnx-linear.ts"
import {
  type BenchMatrix,
  type Bound,
  copiesOf,
  type Label,
  ownChoice,
  type Prepared,
  type PrepareOptions,
} from "./backend.ts"
import { matmulNBitsModel, type NBitsWeight } from "./onnx-model.ts"
import { bestUnits } from "./roofs.ts"
import { timeRounds } from "./rounds.ts"
import { type Activations, randomActivations, type WeightRow } from "./samples.ts"
import { median } from "./statistics.ts"

/** The part of onnxruntime-node that is used. */
export interface OrtModule {
  Tensor: new (type: "float32", data: Float32Array, dims: readonly number[]) => OrtTensor
  InferenceSession: { create(model: Uint8Array, options: Record<string, unknown>): Promise<OrtSession> }
}
interface OrtTensor {
  readonly data: Float32Array
}
interface OrtSession {
  run(feeds: Record<string, OrtTensor>, fetches: Record<string, OrtTensor>): Promise<unknown>
  release(): Promise<void>
}

export interface OrtVariant {
  accuracyLevel: 0 | 4
  block: 32 | 128
}

// Protocol buffers end at 2 GiB.
const largestModel = 2_000_000_000

/** Bits that the operator takes. */
export const ortBits: readonly number[] = [2, 4, 8]

/** The codes of a matrix as MatMulNBits stores them, with scales of this block size; equal codes, other groups. */
export async function nBitsWeight(
  { n, k, bits, quantized }: BenchMatrix,
  { block, accuracyLevel }: OrtVariant,
): Promise<NBitsWeight> {
  const blocks = Math.ceil(k / block)
  const codes = await blockCodes(quantized.codes, { n, k, bits, block, blocks })
  const scales = sharedFloats(n * blocks)
  for (let i = 0; i < scales.length; i++) scales[i] = quantized.scales[i % quantized.scales.length]!
  return { n, k, bits, block, accuracyLevel, codes, scales }
}

function storedRow({ n, k, bits, quantized }: BenchMatrix, { block, scales }: NBitsWeight): WeightRow {
  const blocks = scales.length / n
  return (i, out) => {
    for (let j = 0; j < k; j++)
      out[j] = scales[i * blocks + Math.floor(j / block)]! * (quantized.codes[i * k + j]! - 2 ** (bits - 1))
  }
}

async function createSession(
  ort: OrtModule,
  weight: NBitsWeight,
  copies: number,
  threads: number,
  spin: boolean,
): Promise<OrtSession> {
  return ort.InferenceSession.create(matmulNBitsModel(weight, copies), {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    executionMode: "sequential",
    // Nothing to optimize, and equal nodes must not be merged.
    graphOptimizationLevel: "disabled",
    logSeverityLevel: 3,
    // Threads may wait awake within a run, but not after it, where they would take the CPU from the next contender.
    extra: { session: { force_spinning_stop: "1", intra_op: { allow_spinning: spin ? "1" : "0" } } },
  })
}

class OrtBound implements Bound {
  readonly units: number
  readonly #session: OrtSession
  readonly #feeds: Record<string, OrtTensor>
  readonly #fetches: Record<string, OrtTensor>

  constructor(ort: OrtModule, session: OrtSession, copies: number, n: number, x: Activations) {
    this.units = copies
    this.#session = session
    this.#feeds = { x: new ort.Tensor("float32", Float32Array.from(x.floats), [x.m, x.k]) }
    // Results have their memory before the run, as this library's do.
    this.#fetches = Object.fromEntries(
      Array.from({ length: copies }, (_, i) => [
        `y${i}`,
        new ort.Tensor("float32", new Float32Array(x.m * n), [x.m, n]),
      ]),
    )
  }

  async run(count: number): Promise<void> {
    for (let i = 0; i < count; i++) await this.#session.run(this.#feeds, this.#fetches)
  }

  result(): Float32Array {
    return this.#fetches.y0!.data
  }
}

/** Whether threads that wait awake are faster here: both are tried, the faster is taken. */
async function spinPays(ort: OrtModule, weight: NBitsWeight, threads: number): Promise<boolean> {
  const x = randomActivations(1, weight.k, "f32", 3)
  const sessions = [
    await createSession(ort, weight, 4, threads, true),
    await createSession(ort, weight, 4, threads, false),
  ]
  try {
    const timings = await timeRounds(
      sessions.map(session => new OrtBound(ort, session, 4, weight.n, x)),
      { rounds: 5, seconds: 0.1 },
    )
    return timings[0]!.summary.median <= timings[1]!.summary.median
  } finally {
    for (const session of sessions) await session.release()
  }
}

export async function prepareOrt(
  ort: OrtModule,
  matrix: BenchMatrix,
  variant: OrtVariant,
  backend: string,
  options: PrepareOptions,
): Promise<Prepared> {
  const { n, bits } = matrix
  const weight = await nBitsWeight(matrix, variant)
  const weightBytes = weight.codes.byteLength + weight.scales.byteLength
  const copies = Math.min(copiesOf(weightBytes, options), Math.floor(largestModel / weightBytes))
  if (copies === 0)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${backend}: a weight of ${weightBytes} bytes is more than a model in memory can hold`,
    )
  const spin = options.threads > 1 && (await spinPays(ort, weight, options.threads))
  const session = await createSession(ort, weight, copies, options.threads, spin)
  const label: Label = {
    backend,
    kernel: `MatMulNBits block ${variant.block} accuracy ${variant.accuracyLevel}`,
    isa: ownChoice,
    activations: variant.accuracyLevel === 4 ? "int8" : "exact",
    dtype: "f32",
    bits,
    groupSize: variant.block,
  }
  return {
    label,
    weightBytes,
    copies,
    units: bestUnits(label.activations),
    note: `a run of ${copies} nodes, threads ${spin ? "spin" : "sleep"} between nodes`,
    row: storedRow(matrix, weight),
    bind: x => new OrtBound(ort, session, copies, n, x),
    dispose: () => session.release(),
  }
}

/** Microseconds of a run of the smallest model: what a call from JavaScript costs beside its arithmetic. */
export async function ortCallOverhead(ort: OrtModule): Promise<number> {
  const weight: NBitsWeight = {
    ...{ n: 16, k: 16, bits: 4, block: 16, accuracyLevel: 0 },
    codes: new Uint8Array(16 * 8),
    scales: new Float32Array(16),
  }
  const session = await createSession(ort, weight, 1, 1, false)
  try {
    const bound = new OrtBound(ort, session, 1, 16, randomActivations(1, 16, "f32", 1))
    const [timing] = await timeRounds([bound], { rounds: 5, seconds: 0.1, pauseMs: 0 })
    return median(timing!.samples) * 1000
  } finally {
    await session.release()
  }
}
