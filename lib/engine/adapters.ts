// LoRA adapters at run time: low-rank products beside a model's weights, whatever these are stored in (QLoRA's inference).
import { TsqError } from "../core/errors.ts"
import { describe, listChoices } from "../core/options.ts"
import { Tensor } from "../core/tensor.ts"
import { LoraAdapter, type LoraUpdate } from "../formats/lora.ts"
import { type PackedWeight, prepackDense } from "../kernels/packed-weight.ts"
import type { BoundSection } from "../models/runner.ts"
import { NativeHandle, native } from "../native.ts"

/** An adapter's products over the weights of one model. */
export class LoadedAdapter {
  readonly directory: string
  /** Modules that it changes, by their full names. */
  readonly modules: readonly string[]
  readonly handle: NativeHandle
  /** Native bytes of its matrices. */
  readonly bytes: number
  readonly #weights: readonly PackedWeight[]

  private constructor(directory: string, modules: string[], handle: NativeHandle, weights: PackedWeight[]) {
    this.directory = directory
    this.modules = modules
    this.handle = handle
    this.bytes = weights.reduce((sum, weight) => sum + weight.bytes, 0)
    this.#weights = weights
  }

  /**
   * Reads a folder as PEFT saves it and packs its matrices in the type that they are stored in. ERR_IO, ERR_FORMAT and ERR_CORRUPT for
   * what is no adapter; ERR_FORMAT or ERR_SHAPE for one of another model; ERR_UNSUPPORTED for what is none of plain LoRA of the
   * blocks' linears.
   */
  static async load(
    directory: string,
    sections: readonly BoundSection[],
    warn: (message: string) => void,
  ): Promise<LoadedAdapter> {
    const base = new Map(sections.flatMap(section => [...section.linears]))
    const adapter = await LoraAdapter.open(directory, warn)
    const weights: PackedWeight[] = []
    try {
      const modules: string[] = []
      const handles: number[] = []
      const scales: number[] = []
      for (const update of adapter.updates) {
        const module = update.tensor.slice(0, -".weight".length)
        const { a, b, scale } = productOf(directory, update)
        const weight = base.get(module)
        if (!weight) throw notALinear(directory, module, base.size)
        const [n, k] = weight.shape
        if (a.shape[1] !== k || b.shape[0] !== n)
          throw new TsqError(
            "ERR_SHAPE",
            `${directory}: is made for ${module} of [${b.shape[0]}, ${a.shape[1]}], the model's is [${n}, ${k}]; the adapter belongs to another model`,
          )
        const pair = [weight.handle]
        for (const entry of [a, b]) {
          const values = Tensor.from(await adapter.floats(entry), entry.shape)
          const packed = await prepackDense(values, floatTypes[entry.dtype])
          weights.push(packed)
          pair.push(packed.handle)
        }
        modules.push(module)
        handles.push(...pair)
        scales.push(scale)
      }
      const handle = native.createAdapter(Float64Array.from(handles), Float64Array.from(scales))
      return new LoadedAdapter(directory, modules, new NativeHandle(handle, `the adapter ${directory}`), weights)
    } catch (error) {
      for (const weight of weights) weight.dispose()
      throw error
    } finally {
      adapter.dispose()
    }
  }

  /** Steps that are running keep what they need. */
  dispose(): void {
    this.handle.dispose()
    for (const weight of this.#weights) weight.dispose()
  }
}

/** Of what LoraAdapter.floats takes. */
const floatTypes: Record<string, "f32" | "f16" | "bf16"> = { F32: "f32", F16: "f16", BF16: "bf16" }

function productOf(directory: string, { tensor, replacement, product }: LoraUpdate) {
  if (product && !replacement) return product
  throw new TsqError(
    "ERR_UNSUPPORTED",
    `${directory}: replaces ${tensor} as a whole, which cannot be done beside a loaded model; give the adapter to quantizeModel, which merges it into the weights first`,
  )
}

const notALinear = (directory: string, module: string, count: number) =>
  new TsqError(
    count > 0 && /(^|\.)(lm_head|embed_tokens)$/.test(module) ? "ERR_UNSUPPORTED" : "ERR_FORMAT",
    `${directory}: changes ${module}, which is none of the model's ${count} linears of blocks; ` +
      "the adapter belongs to another model, or changes embedding or head: give such a one to quantizeModel, which merges it into the weights first",
  )

/** The adapters of one model, by names that calls choose them by. */
export class AdapterSet {
  readonly #loaded = new Map<string, LoadedAdapter>()

  get names(): string[] {
    return [...this.#loaded.keys()]
  }

  get bytes(): number {
    return [...this.#loaded.values()].reduce((sum, adapter) => sum + adapter.bytes, 0)
  }

  /** Takes the adapter over; its name has been checked. */
  add(name: string, adapter: LoadedAdapter): void {
    this.#loaded.set(name, adapter)
  }

  /** ERR_OPTION for a name that is taken or empty. */
  checkNew(caller: string, name: unknown): void {
    if (typeof name !== "string" || name === "")
      throw new TsqError("ERR_OPTION", `${caller}: the adapter's name is ${describe(name)}, expected some text`)
    if (this.#loaded.has(name))
      throw new TsqError(
        "ERR_OPTION",
        `${caller}: the adapter ${describe(name)} is loaded already; unload it first, or take another name`,
      )
  }

  /** Waits for nothing: steps under way keep the adapter until they end. ERR_OPTION for a name that is none. */
  remove(name: string): void {
    this.get("unloadAdapter", name).dispose()
    this.#loaded.delete(name)
  }

  /** ERR_OPTION for a name that is none. */
  get(caller: string, name: unknown): LoadedAdapter {
    const adapter = typeof name === "string" ? this.#loaded.get(name) : undefined
    if (adapter) return adapter
    const known = this.names
    throw new TsqError(
      "ERR_OPTION",
      `${caller}: adapter is ${describe(name)}, expected ${known.length > 0 ? `${listChoices(known)} or null` : "null: no adapter is loaded (loadAdapter)"}`,
    )
  }

  dispose(): void {
    for (const adapter of this.#loaded.values()) adapter.dispose()
    this.#loaded.clear()
  }
}
