// What the tests of the kernels share: random quantized weights, the float64 reference, 16-bit floats without the addon.
import { type CodebookName, codebook, codebookBits } from "../../../lib/core/codebooks.ts"
import { QuantizedTensor } from "../../../lib/core/quantized-tensor.ts"
import type { Tensor } from "../../../lib/core/tensor.ts"

export { random } from "../native/helpers.ts"

export const integer = (next: () => number, low: number, high: number): number =>
  low + Math.floor(next() * (high - low + 1))

export interface Shape {
  n: number
  k: number
  groupSize: number
  bits: 2 | 3 | 4 | 5 | 6 | 7 | 8
  symmetric: boolean
}

/** Random codes and zero points over their whole range, positive scales over a decade. */
export function randomQuantized(
  next: () => number,
  shape: Shape,
  extra: { groupIndex?: boolean; inputScale?: boolean } = {},
): QuantizedTensor {
  const { n, k, groupSize, bits, symmetric } = shape
  const groups = Math.ceil(k / groupSize)
  const codes = new Uint8Array(n * k).map(() => Math.floor(next() * 2 ** bits))
  const scales = new Float32Array(n * groups).map(() => 0.01 + 0.1 * next())
  const zeros = symmetric ? null : new Uint8Array(n * groups).map(() => Math.floor(next() * 2 ** bits))
  const groupIndex = extra.groupIndex
    ? shuffle(
        next,
        Int32Array.from({ length: k }, (_, j) => Math.floor(j / groupSize)),
      )
    : null
  const inputScale = extra.inputScale ? new Float32Array(k).map(() => 0.5 + next()) : null
  const scheme = { bits, symmetric, granularity: "group", groupSize, scaleType: "f32" } as const
  return new QuantizedTensor({ scheme, shape: [n, k], codes, scales, zeros, groupIndex, inputScale })
}

function shuffle(next: () => number, values: Int32Array): Int32Array {
  for (let i = values.length - 1; i > 0; i--) {
    const j = integer(next, 0, i)
    const kept = values[i]!
    values[i] = values[j]!
    values[j] = kept
  }
  return values
}

const zeroOf = (q: QuantizedTensor, group: number): number =>
  q.offsets ? 0 : (q.zeros?.[group] ?? 2 ** (q.scheme.bits - 1))

/** A weight of the values of a code book, or with offsets: never the codes of e4m3 and e5m2 that are no finite numbers. */
export function randomValued(
  next: () => number,
  shape: Omit<Shape, "symmetric" | "bits">,
  of: CodebookName | { bits: Shape["bits"] } | { custom: Float32Array },
  extra: { groupIndex?: boolean; inputScale?: boolean } = {},
): QuantizedTensor {
  const name = typeof of === "string" ? of : "custom" in of ? "custom" : undefined
  const custom = typeof of === "object" && "custom" in of ? of.custom : null
  const bits =
    typeof of === "string" ? codebookBits(of) : "bits" in of ? of.bits : (Math.log2(of.custom.length) as Shape["bits"])
  const { codes, scales, groupIndex, inputScale } = randomQuantized(next, { ...shape, bits, symmetric: true }, extra)
  const book = typeof of === "string" ? codebook(of) : custom
  const scheme = {
    bits,
    symmetric: book !== null,
    granularity: "group",
    groupSize: shape.groupSize,
    scaleType: "f32",
  } as const
  return new QuantizedTensor({
    scheme: name ? { ...scheme, codebook: name } : scheme,
    shape: [shape.n, shape.k],
    codes: book ? codes.map(code => (Number.isFinite(book[code]) ? code : 0)) : codes,
    scales,
    zeros: null,
    offsets: book ? null : scales.map(scale => scale * (next() - 0.5) * 2 ** bits),
    codebook: custom,
    groupIndex,
    inputScale,
  })
}

/** The weight in float64, by the definition of QuantizedTensor. */
export function weightOf(q: QuantizedTensor): Float64Array {
  const [n, k] = q.shape
  const { groupSize } = q.scheme
  const result = new Float64Array(n * k)
  for (let i = 0; i < n; i++)
    for (let j = 0; j < k; j++) {
      const group = i * q.groups + (q.groupIndex?.[j] ?? Math.floor(j / groupSize))
      const code = q.codes[i * k + j]!
      const scaled = q.scales[group]! * (q.codebook ? q.codebook[code]! : code - zeroOf(q, group))
      result[i * k + j] = (scaled + (q.offsets?.[group] ?? 0)) * (q.inputScale?.[j] ?? 1)
    }
  return result
}

export interface Reference {
  /** x Wᵀ [m, n]. */
  y: Float64Array
  /** Norm of |x| |W|ᵀ. */
  magnitude: number
}

/** x [m, k] Wᵀ [n, k] in float64, one output after the other. */
export function reference(x: ArrayLike<number>, w: Float64Array, m: number, n: number, k: number): Reference {
  const y = new Float64Array(m * n)
  let squares = 0
  for (let row = 0; row < m; row++)
    for (let i = 0; i < n; i++) {
      let sum = 0
      let absolute = 0
      for (let j = 0; j < k; j++) {
        const product = x[row * k + j]! * w[i * k + j]!
        sum += product
        absolute += Math.abs(product)
      }
      y[row * n + i] = sum
      squares += absolute * absolute
    }
  return { y, magnitude: Math.sqrt(squares) }
}

export function norm(values: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]! ** 2
  return Math.sqrt(sum)
}

export function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += (a[i]! - b[i]!) ** 2
  return Math.sqrt(sum)
}

/** Values that f32, f16 and bf16 all hold exactly: multiples of 1/64 below 4. */
export const exactValue = (next: () => number): number => integer(next, -255, 255) / 64

const view = new DataView(new ArrayBuffer(4))

/** Bits of a value that the type holds exactly, as a normal number or zero. */
export function bitsOf(value: number, dtype: "f16" | "bf16"): number {
  view.setFloat32(0, value)
  const word = view.getUint32(0)
  if (dtype === "bf16") return word >>> 16
  if (value === 0) return 0
  return ((word >>> 31) << 15) | ((((word >>> 23) & 255) - 112) << 10) | ((word >>> 13) & 1023)
}

/** The elements of a float tensor as numbers. */
export function numbers(tensor: Tensor): Float64Array {
  const { dtype } = tensor
  if (dtype === "f32") return Float64Array.from(tensor.data)
  return Float64Array.from(tensor.data, bits => {
    if (dtype === "bf16") {
      view.setUint32(0, bits << 16)
      return view.getFloat32(0)
    }
    const exponent = (bits >>> 10) & 31
    const fraction = bits & 1023
    const value =
      exponent === 0
        ? fraction * 2 ** -24
        : exponent === 31
          ? fraction
            ? Number.NaN
            : Number.POSITIVE_INFINITY
          : (1024 + fraction) * 2 ** (exponent - 25)
    return bits >>> 15 ? -value : value
  })
}
