// Linears that a checkpoint stores as floats, rounded to the nearest codes as they are loaded: no calibration, one at a time.
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { ActivationScheme, Scheme } from "../core/scheme.ts"
import { blockScheme } from "../formats/bitsandbytes-reader.ts"
import { int8Scheme } from "../rounding/blockwise.ts"
import { nearest } from "../rounding/nearest.ts"
import type { OnLoadScheme } from "./on-load-schemes.ts"

const perToken = (type: "int8" | "e4m3"): ActivationScheme => ({
  type,
  symmetric: true,
  dynamic: true,
  granularity: "token",
})

function schemeOn(name: OnLoadScheme, k: number): Scheme {
  const row = { symmetric: true, granularity: "channel", groupSize: k, scaleType: "f32" } as const
  switch (name) {
    case "llm.int8":
      return int8Scheme(k)
    case "nf4":
    case "fp4":
      return blockScheme(name, 64, k)
    case "w4a16":
      return k > 128 ? { ...row, bits: 4, granularity: "group", groupSize: 128 } : { ...row, bits: 4 }
    case "w8a16":
      return { ...row, bits: 8 }
    case "fp8":
      return { ...row, bits: 8, codebook: "e4m3", activations: perToken("e4m3") }
    default:
      return { ...row, bits: 8, activations: perToken("int8") }
  }
}

/** An f32 weight on shared memory to the nearest codes of a scheme. ERR_NUMERIC where it is not finite. */
export async function roundAtOnce(
  scheme: OnLoadScheme,
  name: string,
  weight: Float32Array,
  [n, k]: readonly [number, number],
  signal?: AbortSignal,
): Promise<QuantizedTensor> {
  const input = { name, weight, n, k, scheme: schemeOn(scheme, k), minZero: 0, options: {}, ...(signal && { signal }) }
  return (await nearest.round(input)).tensor
}

export class OnLoad {
  readonly scheme: OnLoadScheme
  readonly #outside: ReadonlySet<string>
  readonly #signal: AbortSignal | undefined

  /** outside: modules that stay as they are: the embedding, the head, routers. */
  constructor(scheme: OnLoadScheme, outside: readonly string[], signal: AbortSignal | undefined) {
    this.scheme = scheme
    this.#outside = new Set(outside)
    this.#signal = signal
  }

  takes(module: string): boolean {
    return !this.#outside.has(module)
  }

  /** weight: f32 [n, k] on shared memory. */
  round(name: string, weight: Float32Array, shape: readonly [number, number]): Promise<QuantizedTensor> {
    return roundAtOnce(this.scheme, name, weight, shape, this.#signal)
  }
}
