// Tensors of FP8, FP4 and int8 with the scales and activations that the formats of engines have.
import { codebook } from "../../../lib/core/codebooks.ts"
import { type ActivationParameters, QuantizedTensor, type ScaleLevels } from "../../../lib/core/quantized-tensor.ts"
import type { ActivationScheme, Scheme } from "../../../lib/core/scheme.ts"
import type { random } from "../containers/support.ts"
import { contents } from "./support.ts"

type Numbers = ReturnType<typeof random>

export const dynamicToken = (type: "int8" | "e4m3"): ActivationScheme => ({
  type,
  symmetric: true,
  dynamic: true,
  granularity: "token",
})
export const staticTensor = (type: "int8" | "e4m3"): ActivationScheme => ({
  type,
  symmetric: true,
  dynamic: false,
  granularity: "tensor",
})
export const dynamicGroup = (groupSize: number): ActivationScheme => ({
  type: "e4m3",
  symmetric: true,
  dynamic: true,
  granularity: "group",
  groupSize,
})
export const localGroup: ActivationScheme = {
  type: "e2m1",
  symmetric: true,
  dynamic: false,
  granularity: "group",
  groupSize: 16,
}

/** FP8 E4M3, scales shared as `rest` says. */
export const e4m3 = (rest: Pick<Scheme, "granularity" | "groupSize"> & Partial<Scheme>): Scheme => ({
  bits: 8,
  symmetric: true,
  scaleType: "f32",
  codebook: "e4m3",
  ...rest,
})

export const nvfp4: Scheme = {
  bits: 4,
  symmetric: true,
  granularity: "group",
  groupSize: 16,
  scaleType: "levels",
  codebook: "e2m1",
}
export const mxfp4: Scheme = { ...nvfp4, groupSize: 32, scaleType: "e8m0" }

/** Random codes (no NaN) and scales that are shared as the scheme says; powers of two times small integers. */
export function randomFloats(
  numbers: Numbers,
  shape: [number, number],
  scheme: Scheme,
  { divides = true, global = 672 }: { divides?: boolean; global?: number } = {},
): QuantizedTensor {
  const { below } = numbers
  const [n, k] = shape
  const groups = Math.ceil(k / scheme.groupSize)
  const codes = Uint8Array.from({ length: n * k }, () => below(2 ** scheme.bits))
  if (scheme.codebook === "e4m3") for (const [i, code] of codes.entries()) if (code % 128 === 127) codes[i] = code - 1
  const { activations, blockRows = 1, granularity } = scheme
  let activation: ActivationParameters | null = null
  if (activations && !activations.dynamic)
    activation = {
      scale: Float32Array.of(activations.type === "e2m1" ? global : 3 / 512),
      zero: activations.symmetric ? null : Int32Array.of(-3),
    }
  const base = { scheme, shape, codes, zeros: null, activation }
  if (scheme.scaleType === "levels") {
    const bytes = Uint8Array.from({ length: n * groups }, () => 1 + below(126))
    const values = codebook("e4m3")
    const levels: ScaleLevels = {
      codes: bytes,
      values,
      supers: Float32Array.of(global),
      perSuper: bytes.length,
      divides,
      shift: 0,
    }
    const scales = Float32Array.from(bytes, byte => (divides ? values[byte]! / global : values[byte]! * global))
    return new QuantizedTensor({ ...base, levels, scales })
  }
  const own = () => (scheme.scaleType === "e8m0" ? 2 ** (below(40) - 20) : (1 + below(200)) * 2 ** -12)
  const shared = new Map<number, number>()
  const scales = Float32Array.from({ length: n * groups }, (_, i) => {
    const key = granularity === "tensor" ? 0 : Math.floor(Math.floor(i / groups) / blockRows) * groups + (i % groups)
    const scale = shared.get(key) ?? own()
    shared.set(key, scale)
    return scale
  })
  if (scheme.symmetric) return new QuantizedTensor({ ...base, scales })
  const zeros = Uint8Array.from(scales, scale => (granularity === "tensor" ? 7 : Math.round(scale * 4096) % 256))
  return new QuantizedTensor({ ...base, scales, zeros })
}

/** All that makes two such tensors the same, but the type that scales are stored in. */
export const floatContents = (q: QuantizedTensor) => ({
  ...contents(q, {
    scaleType: q.scheme.scaleType === "levels" || q.scheme.scaleType === "e8m0" ? (q.scheme.scaleType as never) : "f32",
  }),
  levels: q.levels && {
    ...q.levels,
    codes: Buffer.from(q.levels.codes).toString("hex"),
    supers: [...q.levels.supers],
    values: q.levels.values.length,
  },
  activation: q.activation && { scale: [...q.activation.scale], zero: q.activation.zero && [...q.activation.zero] },
})

/** w[n, k] as lib/core/quantized-tensor.ts defines it, rounded once. */
export function floatValues(q: QuantizedTensor): number[][] {
  const [n, k] = q.shape
  return Array.from({ length: n }, (_, row) =>
    Array.from({ length: k }, (_, column) => {
      const scale = q.scales[row * q.groups + Math.floor(column / q.scheme.groupSize)] as number
      const code = q.codes[row * k + column] as number
      const zero = q.zeros?.[row * q.groups + Math.floor(column / q.scheme.groupSize)] ?? 2 ** (q.scheme.bits - 1)
      return Math.fround(scale * (q.codebook ? (q.codebook[code] as number) : code - zero))
    }),
  )
}
