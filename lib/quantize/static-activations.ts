// What a recipe says of activations beyond its scheme: scales that calibration chooses, or zero points.

import { TsqError } from "../core/errors.ts"
import { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { ActivationScheme, Scheme } from "../core/scheme.ts"
import { Accumulator } from "../models/accumulator.ts"
import type { ModelProgram } from "../models/program.ts"
import type { Watched } from "../transforms/transform.ts"

/**
 * "dynamic": scales follow from the activations. "static": one stored scale a module, from the largest magnitude in calibration.
 * "asymmetric": dynamic by token with zero points, int8 only.
 */
export const activationKinds = ["dynamic", "static", "asymmetric"] as const
export type ActivationKind = (typeof activationKinds)[number]

/** Largest codes. */
export const largest: Partial<Record<ActivationScheme["type"], number>> = { int8: 127, e4m3: 448, e5m2: 57344 }

/** The scheme with activations of this kind. ERR_OPTION for a scheme that has none, or none of these. */
export function withActivations(scheme: Scheme, kind: ActivationKind, caller: string): Scheme {
  const { activations } = scheme
  if (kind === "dynamic") return scheme
  const refuse = (why: string) => new TsqError("ERR_OPTION", `${caller}: activations is "${kind}", and ${why}`)
  if (!activations || activations.threshold !== undefined)
    throw refuse('the scheme has none of that kind; "w8a8" and "fp8" have')
  if (activations.granularity === "group")
    throw refuse('those of the scheme have scales of groups; use groupSize "channel" or "tensor"')
  if (kind === "static")
    return { ...scheme, activations: { ...activations, dynamic: false, granularity: "tensor" as const } }
  if (activations.type !== "int8") throw refuse(`${activations.type} has no zero points; scheme "w8a8" has`)
  return { ...scheme, activations: { ...activations, symmetric: false } }
}

const isStatic = ({ activations }: Scheme): boolean => activations?.dynamic === false

/** What makes the largest magnitude that an absMax accumulator has seen the largest code. ERR_NUMERIC, naming `what`, where it is not finite. */
export function staticScale(accumulator: Accumulator, largestCode: number, what: string): number {
  const peak = accumulator.read(accumulator.width).reduce((most, value) => Math.max(most, value), 0)
  if (!Number.isFinite(peak))
    throw new TsqError(
      "ERR_NUMERIC",
      `${what} in calibration are not finite; check the checkpoint and the calibration text`,
    )
  return Math.fround(peak > 0 ? Math.max(peak / largestCode, 2 ** -126) : 1)
}

/** Linears of a block that read the same slot. */
interface Stage {
  op: number
  slot: number
  modules: readonly string[]
}

/** Watches what enters the modules of a block whose activations are static. */
export class StaticActivations {
  readonly #stages: { modules: readonly string[]; watched: Watched }[] = []

  constructor(program: ModelProgram, stages: readonly Stage[], schemeOf: (module: string) => Scheme | null) {
    for (const { op, slot, modules } of stages) {
      const those = modules.filter(module => isStatic(schemeOf(module) ?? ({} as Scheme)))
      if (those.length > 0)
        this.#stages.push({
          modules: those,
          watched: { op, slot, accumulator: new Accumulator("absMax", program.slots[slot]!) },
        })
    }
  }

  get watched(): readonly Watched[] {
    return this.#stages.map(stage => stage.watched)
  }

  /** Gives the block's tensors, by full name, the scale of what was seen. ERR_NUMERIC for activations that are not finite. */
  apply(prefix: string, tensors: Map<string, QuantizedTensor>): void {
    for (const { modules, watched } of this.#stages) {
      for (const module of modules) {
        const tensor = tensors.get(prefix + module)
        if (!tensor) continue
        const most = largest[tensor.scheme.activations!.type] as number
        const scale = Float32Array.of(staticScale(watched.accumulator, most, `${prefix}${module}: its inputs`))
        tensors.set(
          prefix + module,
          new QuantizedTensor({ ...tensor, codebook: own(tensor), activation: { scale, zero: null } }),
        )
      }
    }
  }

  dispose(): void {
    for (const { watched } of this.#stages) watched.accumulator.dispose()
  }
}

/** Values of codes that follow from a name are not given. */
const own = ({ scheme, codebook }: QuantizedTensor) => (scheme.codebook === "custom" ? codebook : null)
