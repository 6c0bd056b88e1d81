// The weights of a finished block, as the quantized model will run them.
import { Tensor } from "../core/tensor.ts"
import { prepack, prepackDense } from "../kernels/packed-weight.ts"
import type { WeightSource } from "../models/runner.ts"
import type { StoredBlock } from "./block-store.ts"

/** Quantized linears and changed tensors from the block, the rest from `base`. */
export function storedSource(block: StoredBlock, base: WeightSource): WeightSource {
  const modules = new Set(block.modules)
  const changed = new Set(block.changed)
  const own = new WeakSet<object>()
  const keep = <T extends object>(value: T): T => {
    own.add(value)
    return value
  }
  return {
    async linear(module, n, k, transposed) {
      if (modules.has(module)) return keep(await prepack(await block.tensor(module)))
      if (changed.has(`${module}.weight`))
        return keep(await prepackDense(Tensor.from(await block.dense(`${module}.weight`), [n, k])))
      return base.linear(module, n, k, transposed)
    },
    vector: (tensor, size) => (changed.has(tensor) ? block.dense(tensor) : base.vector(tensor, size)),
    release(module, weight) {
      if (base.release && !own.has(weight)) base.release(module, weight)
      else weight.dispose()
    },
  }
}
