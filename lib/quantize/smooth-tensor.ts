// SmoothQuant on a single weight: without a preceding layer to fold 1/s into, it stays on the result as inputScale (lib/transforms/smooth.ts).
import { QuantizedTensor } from "../core/quantized-tensor.ts"
import { Accumulator } from "../models/accumulator.ts"
import type { Rounding, RoundingInput, RoundingReport } from "../rounding/rounding.ts"
import { inverse } from "../transforms/scale-groups.ts"
import { smoothScale } from "../transforms/smooth.ts"
import { withScaledInput } from "./awq-tensor.ts"

/** calibration: f32 [rows, k] on shared memory, what input.statistics was made from. */
export async function roundWithSmooth(
  input: RoundingInput,
  rounding: Rounding,
  calibration: Float32Array,
  alpha: number,
): Promise<{ tensor: QuantizedTensor; report: RoundingReport }> {
  const inputs = await peaks(calibration, input.k)
  const scale = smoothScale(inputs, await peaks(input.weight, input.k), alpha)
  return withScaledInput(input, calibration, scale, async scaled => {
    const { tensor, report } = await rounding.round(scaled)
    const { scheme, shape, codes, scales, zeros, groupIndex, levels } = tensor
    const parts = { scheme, shape, codes, scales, zeros, groupIndex, levels }
    return { tensor: new QuantizedTensor({ ...parts, inputScale: inverse(scale) }), report }
  })
}

/** The largest magnitude of every column. */
async function peaks(rows: Float32Array, k: number): Promise<Float64Array> {
  const result = new Accumulator("absMax", k)
  try {
    await result.add(rows, rows.length / k)
    return result.read(k)
  } finally {
    result.dispose()
  }
}
