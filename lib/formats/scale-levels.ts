// Scales that files store in two levels: what they come to, and bitsandbytes' double quantization of float scales.
import { setImmediate as nextTurn } from "node:timers/promises"
import { TsqError } from "../core/errors.ts"
import { QuantizedTensor, type ScaleLevels } from "../core/quantized-tensor.ts"
import { isFloatScale } from "../core/scheme.ts"
import { sharedBytes, sharedFloats } from "../core/tensor.ts"
import { native } from "../native.ts"
import { expandScales, pinned, storedScalesOf } from "./arrays.ts"

/** Elements handled before the event loop turns: there is one for every 16 weights at most, usually for 64. */
const turnElements = 1 << 19

/** The stored scales that levels stand for, each operation rounded to f32. */
export async function levelScales(levels: ScaleLevels): Promise<Float32Array> {
  const { codes, values, supers, perSuper, divides, shift } = levels
  const out = sharedFloats(codes.length)
  for (let i = 0; i < codes.length; i++) {
    if (i % turnElements === turnElements - 1) await nextTurn()
    const value = values[codes[i] as number] as number
    const by = supers[Math.floor(i / perSuper)] as number
    out[i] = Math.fround(divides ? value / by : value * by) + shift
  }
  return out
}

/** 1 / 127 in f32, by which bitsandbytes multiplies the largest magnitude of a row (functional.py, int8_vectorwise_dequant()). */
const int8Step = Math.fround(1 / 127)

/** The levels of LLM.int8() rows whose largest magnitudes are `scb`. */
export function int8Levels(scb: Float32Array): ScaleLevels {
  const values = sharedFloats(1).fill(int8Step)
  return { codes: sharedBytes(scb.length), values, supers: scb, perSuper: 1, divides: false, shift: 0 }
}

export const isInt8Levels = ({ values, perSuper, divides, shift }: ScaleLevels): boolean =>
  values.length === 1 && values[0] === int8Step && perSuper === 1 && !divides && shift === 0

/** bitsandbytes' functional.py, create_dynamic_map(): 7 powers of ten with 1 to 64 steps each, both signs, 0 and 1; in f32. */
export function dynamicMap(): Float32Array {
  const { fround } = Math
  const values = [0, 1]
  for (let i = 0; i < 7; i++) {
    const steps = 2 ** i
    // torch.linspace: from either end to the middle, with fused multiply-add.
    const step = fround((1 - fround(0.1)) / steps)
    const boundary = (at: number) =>
      at < (steps + 1) / 2 ? fround(fround(0.1) + step * at) : fround(1 - step * (steps - at))
    for (let at = 0; at < steps; at++) {
      const mean = fround(fround(boundary(at) + boundary(at + 1)) / 2)
      const value = fround(fround(10 ** (i - 6)) * mean)
      values.push(value, -value)
    }
  }
  const out = sharedFloats(values.length)
  out.set(values.sort((a, b) => a - b))
  return out
}

/** Scales of a block of bitsandbytes' second level. */
const nestedBlock = 256

/**
 * The same codes with bitsandbytes' double quantization: scales less their mean in blocks of 256, the nearest values of the dynamic map
 * times the largest magnitude of the block. The codes stay as they were chosen for the scales before, as bitsandbytes has it.
 */
export async function doubleQuantized(tensor: QuantizedTensor): Promise<QuantizedTensor> {
  const { scheme, shape } = tensor
  if (scheme.scaleType === "levels") return tensor
  const stored = isFloatScale(scheme.scaleType) ? await storedScalesOf(tensor) : null
  if (!stored)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `the weight [${shape.join(", ")}] has ${scheme.scaleType} scales that cannot be quantized twice; they have to be floats, the same within a block`,
    )
  const count = stored.length
  const shift = await mean(stored)
  const centred = sharedFloats(count)
  for (let i = 0; i < count; i++) {
    if (i % turnElements === turnElements - 1) await nextTurn()
    centred[i] = (stored[i] as number) - shift
  }
  const values = dynamicMap()
  const block = Math.min(nestedBlock, count)
  const supers = sharedFloats(Math.ceil(count / block))
  await native.groupMagnitude(centred, 1, count, block, supers)
  const codes = sharedBytes(count)
  await native.roundCodebook(centred, 1, count, block, supers, blockwiseSteps(values), codes, null)
  const levels: ScaleLevels = { codes, values, supers, perSuper: nestedBlock, divides: false, shift }
  const twice = { ...scheme, scaleType: "levels" as const }
  return new QuantizedTensor({
    ...tensor,
    scheme: twice,
    codebook: scheme.codebook === "custom" ? tensor.codebook : null,
    scales: await expandScales(twice, shape, await levelScales(levels)),
    levels,
  })
}

/** In double precision; torch's own sum differs in the last bits, and from device to device. */
async function mean(values: Float32Array): Promise<number> {
  let sum = 0
  for (let i = 0; i < values.length; i++) {
    if (i % turnElements === turnElements - 1) await nextTurn()
    sum += values[i] as number
  }
  return Math.fround(sum / values.length)
}

/**
 * A code book as bitsandbytes rounds to it (backends/default/ops.py): the number times the reciprocal of the scale, below or at the
 * middle of two values, computed in f32, the lower one. Of equal values the first is taken.
 */
export function blockwiseSteps(values: Float32Array): { codes: Uint8Array; limits: Float32Array; reciprocal: boolean } {
  const order = [...values.keys()]
    .sort((a, b) => (values[a] as number) - (values[b] as number) || a - b)
    .filter((code, i, all) => i === 0 || values[code] !== values[all[i - 1] as number])
  const codes = sharedBytes(order.length)
  codes.set(order)
  const limits = sharedFloats(order.length - 1)
  for (let i = 0; i < limits.length; i++)
    limits[i] = Math.fround((values[order[i] as number] as number) + (values[order[i + 1] as number] as number)) / 2
  return { codes: pinned(codes), limits: pinned(limits), reciprocal: true }
}
