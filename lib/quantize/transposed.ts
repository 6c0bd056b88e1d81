// Linears whose dense tensors are stored [in, out]: what must know of them beside reading and packing.
import { TsqError } from "../core/errors.ts"
import type { FormatName } from "../formats/format.ts"
import type { ModelProgram } from "../models/program.ts"
import { transposedFloats } from "../models/transposed.ts"
import { linearsOf } from "./linears.ts"
import type { PlannedModule } from "./plan.ts"

/** Shapes [n, k] of the blocks' linears that are stored [k, n], by full module name. */
export function transposedModules(program: ModelProgram): ReadonlyMap<string, readonly [number, number]> {
  return new Map(
    program.blocks.flatMap((_, layer) =>
      linearsOf(program, layer).flatMap(({ module, n, k, transposed }) =>
        transposed ? [[program.blockPrefix(layer) + module, [n, k] as const] as const] : [],
      ),
    ),
  )
}

/**
 * GPTQ files hold [in, out] modules like any other (AutoGPTQ and GPTQModel turn them before they quantize); other formats are for
 * [out, in] only, so that engines would refuse or misread such a module.
 */
export function refuseTransposed(modules: readonly PlannedModule[], program: ModelProgram, format: FormatName): void {
  if (format === "gptq") return
  const transposed = transposedModules(program)
  for (const entry of modules)
    if (entry.scheme && transposed.has(entry.module)) {
      entry.scheme = null
      entry.refused = true
      entry.reason = `its weight is stored [in, out], which ${format} has no place for: use format gptq`
    }
}

/** Values [n, k] of a dense tensor as the checkpoint stores them. */
export async function asStored(
  name: string,
  values: Float32Array,
  transposed: ReadonlyMap<string, readonly [number, number]>,
): Promise<Float32Array> {
  const shape = transposed.get(name.replace(/\.weight$/, ""))
  return shape && name.endsWith(".weight") ? transposedFloats(values, ...shape) : values
}

/** ERR_UNSUPPORTED for what works on dense tensors as if all were [out, in]. */
export function checkOrientation(program: ModelProgram, what: string): void {
  const [module] = transposedModules(program).keys()
  if (module !== undefined)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${what}: ${module}.weight is stored [in, out], and only [out, in] is supported`,
    )
}
