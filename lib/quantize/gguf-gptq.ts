// GPTQ for the linears of a GGUF file, block by block: each stage is calibrated on what the already rounded stages compute, as for
// folders (block-quantizer.ts).
import type { Checkpoint } from "../containers/checkpoint.ts"
import { throwIfAborted } from "../core/errors.ts"
import { CheckpointSource } from "../engine/checkpoint-source.ts"
import { encodeBlocks, gptqBlocks, hasGrid, packBlocks } from "../formats/gguf-blocks.ts"
import { Accumulator } from "../models/accumulator.ts"
import { checkpointOrder } from "../models/gguf-layout.ts"
import type { ModelProgram } from "../models/program.ts"
import type { GptqReport } from "../native.ts"
import type { RoundingOptions } from "../rounding/rounding.ts"
import type { CalibrationSet } from "./calibration.ts"
import { CalibrationRun } from "./calibration-run.ts"
import { type PlannedTensor, readRows } from "./gguf-rows.ts"
import { stages } from "./linears.ts"

export interface GgufGptqInput {
  checkpoint: Checkpoint
  program: ModelProgram
  tensors: readonly PlannedTensor[]
  /** Weights of columns' errors, by tensor. */
  importance: ReadonlyMap<string, Float32Array>
  set: CalibrationSet
  options: Required<Pick<RoundingOptions, "damp" | "block">> & { order: "none" | "static" | "group-aware" }
  signal: AbortSignal | undefined
  onTensor(source: string, detail: string): void
  warn: (message: string) => void
}

/** Rounds a block's linears when the first of them is asked for; blocks are asked for in order. */
export class GgufGptq {
  /** Of tensors that were rounded. */
  readonly reports = new Map<string, GptqReport>()
  readonly #input: GgufGptqInput
  readonly #run: CalibrationRun
  /** Tensors of a linear, by the checkpoint's name. */
  readonly #planned: ReadonlyMap<string, PlannedTensor>
  #nextLayer = 0
  #blocks = new Map<string, Uint8Array>()

  private constructor(input: GgufGptqInput, run: CalibrationRun) {
    this.#input = input
    this.#run = run
    this.#planned = new Map(input.tensors.map(tensor => [tensor.source, tensor]))
  }

  static async start(input: GgufGptqInput): Promise<GgufGptq> {
    const dense = new CheckpointSource(input.checkpoint, input.warn)
    return new GgufGptq(input, await CalibrationRun.start(input.program, dense, input.set, input.signal))
  }

  /** The blocks of a tensor; null where it is no linear of a block. */
  async take({ name }: PlannedTensor): Promise<Uint8Array | null> {
    const layer = Number(/^blk\.(\d+)\./.exec(name)?.[1] ?? -1)
    while (this.#nextLayer <= layer) await this.#roundLayer(this.#nextLayer++)
    const blocks = this.#blocks.get(name) ?? null
    this.#blocks.delete(name)
    return blocks
  }

  async #roundLayer(layer: number): Promise<void> {
    const { program, signal, onTensor } = this.#input
    const run = this.#run
    const section = program.sections[program.blocks[layer]!]!
    const prefix = program.blockPrefix(layer)
    try {
      let bound = run.own(await run.bind(layer))
      for (const stage of stages(section)) {
        throwIfAborted(signal)
        const hessian = new Accumulator("hessian", program.slots[stage.slot]!)
        try {
          await run.observe(bound, { op: stage.op, slot: stage.slot, accumulator: hessian }, signal)
          for (const module of stage.modules) {
            const tensor = this.#planned.get(`${prefix}${module}.weight`)!
            const blocks = await this.#round(tensor, hessian)
            this.#blocks.set(tensor.name, blocks)
            const from = checkpointOrder(tensor.rows, tensor.shape[0]!)
            bound = run.own(bound.set(module, run.own(await packBlocks(tensor, blocks, from))))
            onTensor(tensor.source, `block ${layer + 1}/${program.blocks.length}`)
          }
        } finally {
          hessian.dispose()
        }
      }
      await run.advance(bound, signal)
    } finally {
      run.releaseOwned()
    }
  }

  async #round(tensor: PlannedTensor, hessian: Accumulator): Promise<Uint8Array> {
    const { checkpoint, importance, options, signal } = this.#input
    const { name, type, shape, source } = tensor
    const [n, k] = [shape[0]!, shape[1]!]
    const values = await readRows(checkpoint, tensor, [0, n, k])
    const what = { name: source, type, shape }
    const weights = importance.get(name) ?? hessian.meanSquare()
    if (!hasGrid(type)) return encodeBlocks(what, values, { signal })
    const { blocks, report } = await gptqBlocks(what, values, {
      ...{ hessian: hessian.handle.value, importance: weights, signal },
      ...options,
    })
    this.reports.set(name, report)
    if (report.degraded) this.#input.warn(`${source}: ${report.note}`)
    return blocks
  }

  dispose(): void {
    this.#run.dispose()
  }
}
