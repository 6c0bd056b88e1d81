// LoRA adapters merged into a checkpoint's weights before anything else is done with them. Merged tensors go to files beside the
// output, which the checkpoint reads instead of its own and which are removed at the end: memory stays that of one tensor.
import { mkdir, rm } from "node:fs/promises"
import { dirname, join, resolve } from "node:path"
import type { Checkpoint } from "../containers/checkpoint.ts"
import { writeError } from "../containers/disk.ts"
import { partialName, removeAbandoned } from "../containers/output.ts"
import { SafetensorsFile } from "../containers/safetensors.ts"
import { SafetensorsWriter } from "../containers/safetensors-writer.ts"
import { isFloat } from "../core/dtype.ts"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { LoraAdapter, type LoraUpdate } from "../formats/lora.ts"
import { native } from "../native.ts"
import { roundTo } from "./write-checkpoint.ts"

export class Adapters {
  readonly #checkpoint: Checkpoint
  readonly #adapters: readonly LoraAdapter[]
  #scratch: string | null = null

  private constructor(checkpoint: Checkpoint, adapters: readonly LoraAdapter[]) {
    this.#checkpoint = checkpoint
    this.#adapters = adapters
  }

  /** Opens the adapters and holds them against the checkpoint: ERR_FORMAT or ERR_SHAPE for those of another model. Reads no weight. */
  static async open(
    paths: readonly string[],
    checkpoint: Checkpoint,
    warn: (message: string) => void,
  ): Promise<Adapters> {
    const adapters: LoraAdapter[] = []
    try {
      for (const path of paths) {
        const adapter = await LoraAdapter.open(path, warn)
        adapters.push(adapter)
        for (const update of adapter.updates) checkUpdate(adapter, update, checkpoint)
      }
      return new Adapters(checkpoint, adapters)
    } catch (error) {
      for (const adapter of adapters) adapter.dispose()
      throw error
    }
  }

  /**
   * From here on the checkpoint reads merged weights. As PEFT's merge_and_unload has it: products in f32, the sum rounded to the
   * weight's type, adapter after adapter.
   */
  async merge(
    out: string,
    signal: AbortSignal | undefined,
    onTensor: (done: number, total: number, tensor: string) => void,
  ): Promise<void> {
    const byTensor = new Map<string, [LoraAdapter, LoraUpdate][]>()
    for (const adapter of this.#adapters)
      for (const update of adapter.updates)
        byTensor.set(update.tensor, [...(byTensor.get(update.tensor) ?? []), [adapter, update]])
    if (byTensor.size === 0) return
    const target = resolve(out)
    this.#scratch = partialName(target)
    try {
      await mkdir(dirname(target), { recursive: true })
      await removeAbandoned(target)
      await mkdir(this.#scratch)
    } catch (cause) {
      throw writeError("create the folder of merged weights", this.#scratch, cause)
    }
    const writer = new SafetensorsWriter(this.#scratch, { signal })
    let done = 0
    for (const [name, updates] of byTensor) {
      throwIfAborted(signal)
      const { dtype, shape } = this.#checkpoint.entry(name)
      await writer.add({ name, dtype, shape, data: await this.#merged(name, updates) })
      onTensor(++done, byTensor.size, name)
    }
    const { files } = await writer.finish()
    for (const file of files)
      if (file.endsWith(".safetensors")) this.#checkpoint.replace(await SafetensorsFile.open(join(this.#scratch, file)))
  }

  async #merged(name: string, updates: readonly [LoraAdapter, LoraUpdate][]) {
    const { shape } = this.#checkpoint.entry(name)
    const { dtype } = this.#checkpoint.tensor(name)
    let merged = null
    for (const [adapter, { replacement, product }] of updates) {
      const base = merged ? await merged.cast("f32") : null
      let values: Float32Array
      if (replacement) values = await adapter.floats(replacement)
      else values = (base?.data as Float32Array | undefined) ?? (await this.#checkpoint.floats(name))
      if (product) {
        const [n, k] = shape as [number, number]
        const [a, b] = [await adapter.floats(product.a), await adapter.floats(product.b)]
        await native.addLowRank(values, n, k, a, b, product.rank, product.scale, values)
      }
      merged = await roundTo(values, shape, dtype)
    }
    return merged!
  }

  /** Removes what was written. The checkpoint cannot be read any more where weights were merged. */
  async dispose(): Promise<void> {
    for (const adapter of this.#adapters) adapter.dispose()
    if (this.#scratch !== null) await rm(this.#scratch, { recursive: true, force: true })
  }
}

function checkUpdate(
  { directory }: LoraAdapter,
  { tensor, replacement, product }: LoraUpdate,
  checkpoint: Checkpoint,
): void {
  if (!checkpoint.has(tensor))
    throw new TsqError(
      "ERR_FORMAT",
      `${directory}: changes ${tensor}, which ${checkpoint.directory} does not have; the adapter belongs to another model, or to a head of its own (tied embeddings)`,
    )
  const { shape } = checkpoint.entry(tensor)
  const wanted = product ? [product.b.shape[0], product.a.shape[1]] : (replacement?.shape ?? [])
  const same = (found: readonly (number | undefined)[]) =>
    found.length === shape.length && found.every((size, axis) => size === shape[axis])
  if (!same(wanted) || (replacement && !same(replacement.shape)))
    throw new TsqError(
      "ERR_SHAPE",
      `${directory}: makes ${tensor} [${wanted.join(", ")}], ${checkpoint.directory} has [${shape.join(", ")}]; the adapter belongs to another model`,
    )
  if (!isFloat(checkpoint.tensor(tensor).dtype))
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${directory}: ${tensor} is ${checkpoint.entry(tensor).dtype}; adapters are merged into F32, F16 and BF16 weights`,
    )
}
