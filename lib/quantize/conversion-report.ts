// What convertModel did to every tensor, and what that cost.
import { TsqError } from "../core/errors.ts"
import { sharedFloats } from "../core/tensor.ts"
import { native } from "../native.ts"

export interface ConvertedTensor {
  name: string
  shape: readonly number[]
  /** Before and after: the format's scheme ("w4a16 g128 symmetric"), a GGUF type, or a float type. */
  from: string
  to: string
  /** The values are the same, bit for bit. */
  exact: boolean
  /** Where they are not: ‖after − before‖ / ‖before‖ (Frobenius) and the largest |after − before|, of what the tensor stood for before. */
  relativeError?: number
  maxError?: number
}

export interface ConversionReport {
  /** A format's name, "gguf" or "dense". */
  from: string
  to: string
  /** Matrices that were stored as codes. */
  modules: number
  /** Bytes of all tensors of the output. */
  totalBytes: number
  /** Every value is the same. */
  exact: boolean
  /** Tensors whose values were rounded again. */
  requantized: number
  /** Over these together; 0 where there are none. */
  relativeError: number
  maxError: number
  tensors: ConvertedTensor[]
  /** What the target cannot say. */
  notes: string[]
}

export interface Refusal {
  tensor: string
  reason: string
}

/** ERR_UNSUPPORTED with every tensor that the target cannot hold. */
export class ConversionRefused extends TsqError {
  readonly refused: readonly Refusal[]

  constructor(target: string, refused: readonly Refusal[], of: number, advice: string) {
    const first = refused.slice(0, 5).map(({ tensor, reason }) => `${tensor}: ${reason}`)
    super(
      "ERR_UNSUPPORTED",
      `${target} cannot hold ${refused.length} of ${of} modules: ${first.join("; ")}${refused.length > 5 ? " …" : ""}; ${advice}`,
    )
    this.refused = refused
  }
}

/** Adds up what tensors lost. */
export class Losses {
  readonly tensors: ConvertedTensor[] = []
  #difference = 0
  #size = 0
  #largest = 0

  /** A tensor that keeps its values. */
  keep(tensor: Omit<ConvertedTensor, "exact">): void {
    this.tensors.push({ ...tensor, exact: true })
  }

  /** Compares `after` with `before`; both lie on shared memory. */
  async compare(tensor: Omit<ConvertedTensor, "exact">, before: Float32Array, after: Float32Array): Promise<void> {
    const count = before.length
    const difference = await native.squaredDifference(after, before, count)
    const largest = await native.largestDifference(after, before, count)
    if (largest === 0) return this.keep(tensor)
    const size = await squaredNorm(before)
    this.#difference += difference
    this.#size += size
    this.#largest = Math.max(this.#largest, largest)
    this.tensors.push({ ...tensor, exact: false, relativeError: ratio(difference, size), maxError: largest })
  }

  summary(): Pick<ConversionReport, "exact" | "requantized" | "relativeError" | "maxError" | "tensors"> {
    const requantized = this.tensors.filter(({ exact }) => !exact).length
    return {
      exact: requantized === 0,
      requantized,
      relativeError: ratio(this.#difference, this.#size),
      maxError: this.#largest,
      tensors: this.tensors,
    }
  }
}

/** Of zeros, nothing is lost or everything. */
const ratio = (difference: number, size: number): number =>
  difference === 0 ? 0 : size === 0 ? Number.POSITIVE_INFINITY : Math.sqrt(difference / size)

let zeros = sharedFloats(0)

async function squaredNorm(values: Float32Array): Promise<number> {
  const piece = 1 << 20
  if (zeros.length === 0) zeros = sharedFloats(piece)
  let sum = 0
  for (let begin = 0; begin < values.length; begin += piece) {
    const part = values.subarray(begin, begin + piece)
    sum += await native.squaredDifference(part, zeros, part.length)
  }
  return sum
}

/** ERR_CORRUPT unless what was written reads back with the values that it stands for. */
export async function expectSame(where: string, wanted: Float32Array, found: Float32Array): Promise<void> {
  if (wanted.length === found.length && (await native.largestDifference(wanted, found, wanted.length)) === 0) return
  throw new TsqError("ERR_CORRUPT", `${where} reads back with other values than were written; is the disk damaged?`)
}
