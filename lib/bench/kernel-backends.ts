// Every backend of the kernel benchmark, made ready for one matrix.
import { TsqError } from "../core/errors.ts"
import { roundAtOnce } from "../engine/on-load.ts"
import { dequantizeAsync } from "../kernels/dequantize.ts"
import { prepack } from "../kernels/packed-weight.ts"
import type { BenchMatrix, Prepared, PrepareOptions, Unavailable } from "./backend.ts"
import { type OrtModule, ortBits, prepareOrt } from "./backend-ort.ts"
import { denseCopies, PackedCopies, prepareFused, prepareUnfused, quantizedCopies } from "./backend-tsq.ts"
import { type BackendName, type KernelPlan, ortVariant, schemeOf } from "./kernel-options.ts"
import { type FloatDtype, quantizedRow, type WeightRow } from "./samples.ts"

/** The backends that cannot take part, and why. */
export class Absent {
  readonly list: Unavailable[] = []
  readonly #note: (text: string) => void

  constructor(note: (text: string) => void) {
    this.#note = note
  }

  has(backend: string): boolean {
    return this.list.some(each => each.backend === backend)
  }

  /** Once for several backends that lack the same. */
  add(backends: readonly string[], reason: string): void {
    const added = backends.filter(backend => !this.has(backend))
    for (const backend of added) this.list.push({ backend, reason })
    if (added.length > 0) this.#note(`not measured: ${added.join(", ")}: ${reason}`)
  }

  /** Reports a backend that refuses, or a peer that fails; everything else that goes wrong is thrown. */
  async attempt(backend: string, work: () => Promise<unknown>): Promise<void> {
    try {
      await work()
    } catch (error) {
      const refusal = error instanceof TsqError ? error.code === "ERR_UNSUPPORTED" : backend.startsWith("ort-")
      if (!refusal || !(error instanceof Error)) throw error
      this.add([backend], error.message)
    }
  }
}

/** Weights of one matrix in the layouts of all backends, with what they share. */
export class PreparedBackends {
  readonly list: Prepared[] = []
  readonly #packs: PackedCopies[] = []
  readonly #plan: KernelPlan
  readonly #matrix: BenchMatrix
  readonly #options: PrepareOptions
  #codes: PackedCopies | null = null

  constructor(plan: KernelPlan, matrix: BenchMatrix, options: PrepareOptions) {
    this.#plan = plan
    this.#matrix = matrix
    this.#options = options
  }

  async add(backend: BackendName, ort: OrtModule | null): Promise<void> {
    const { bits, dtypes } = this.#plan
    const variant = ortVariant(backend)
    const scheme = schemeOf(backend)
    if (variant) {
      if (!ort) throw new TsqError("ERR_UNSUPPORTED", "onnxruntime-node is not loaded")
      if (!ortBits.includes(bits))
        throw new TsqError("ERR_UNSUPPORTED", `MatMulNBits takes ${ortBits.join(", ")} bits, not ${bits}`)
      this.list.push(await prepareOrt(ort, this.#matrix, variant, backend, this.#options))
    } else if (scheme) await this.#scheme(backend, scheme, dtypes[0]!)
    else if (backend === "tsq") await this.#fused(backend, "exact", dtypes)
    else if (backend === "tsq-int8") await this.#fused(backend, "int8", dtypes.slice(0, 1))
    else if (backend === "tsq-unfused") await this.#unfused(backend, dtypes[0]!)
    else await this.#dense(backend, backend.slice("tsq-".length) as FloatDtype)
  }

  async #sharedCodes(): Promise<PackedCopies> {
    if (!this.#codes) {
      this.#codes = await quantizedCopies(this.#matrix, this.#options)
      this.#packs.push(this.#codes)
    }
    return this.#codes
  }

  async #fused(backend: string, activations: "exact" | "int8", dtypes: readonly FloatDtype[]): Promise<void> {
    const { n, bits, groupSize, quantized } = this.#matrix
    const copies = await this.#sharedCodes()
    const kernel = `w${bits}a${activations === "int8" ? 8 : 16}`
    for (const isa of this.#plan.isa)
      for (const dtype of dtypes)
        this.list.push(
          prepareFused(copies, n, quantizedRow(quantized), {
            backend,
            kernel,
            isa,
            activations,
            dtype,
            bits,
            groupSize,
          }),
        )
  }

  /** The same values rounded to a scheme of 8-bit weights and activations. */
  async #scheme(backend: string, scheme: "w8a8" | "fp8" | "llm.int8", dtype: FloatDtype): Promise<void> {
    const { n, k } = this.#matrix
    const values = await dequantizeAsync(this.#matrix.quantized)
    const quantized = await roundAtOnce(scheme, "weight", values, [n, k])
    const copies = await PackedCopies.make(() => prepack(quantized), this.#options)
    this.#packs.push(copies)
    const label = { backend, kernel: scheme, activations: "int8", dtype, bits: 8, groupSize: k } as const
    const stored = await dequantizeAsync(quantized)
    const row: WeightRow = (i, out) => out.set(stored.subarray(i * k, (i + 1) * k))
    for (const isa of this.#plan.isa) this.list.push(prepareFused(copies, n, row, { ...label, isa }, "scheme"))
  }

  async #unfused(backend: string, dtype: FloatDtype): Promise<void> {
    const { bits, groupSize } = this.#matrix
    const copies = await this.#sharedCodes()
    for (const isa of this.#plan.isa) {
      const label = { backend, kernel: "decode, then f32", isa, activations: "exact", dtype, bits, groupSize } as const
      this.list.push(await prepareUnfused(copies, this.#matrix, label))
    }
  }

  async #dense(backend: string, dtype: FloatDtype): Promise<void> {
    const { n, k } = this.#matrix
    const { copies, row } = await denseCopies(this.#matrix, dtype, this.#options)
    this.#packs.push(copies)
    const float = { bits: dtype === "f32" ? 32 : 16, groupSize: k }
    for (const isa of this.#plan.isa)
      this.list.push(
        prepareFused(copies, n, row, {
          backend,
          kernel: `${dtype} weights`,
          isa,
          activations: "exact",
          dtype,
          ...float,
        }),
      )
  }

  async dispose(): Promise<void> {
    for (const each of this.list) await each.dispose()
    for (const pack of this.#packs) pack.dispose()
  }
}
