// Runs a ModelProgram in the addon: any range of its sections, with weights bound per call.
import { TsqError } from "../core/errors.ts"
import { type Activations, activationsCode } from "../kernels/packed-weight.ts"
import { abortable, NativeHandle, native, type StepEpilogue, type StepSampling } from "../native.ts"
import { type Reduction, reductions } from "./accumulator.ts"
import { type KvFormat, nativeFormat } from "./kv-cache.ts"
import { type ModelProgram, opKinds } from "./program.ts"
import { exactPagesEach, KvCacheHandle, type StepSequence } from "./sequence.ts"
import { BoundSection, type WeightSource } from "./weights.ts"

export { KvCacheHandle, type StepSequence } from "./sequence.ts"
export { BoundSection, type WeightSource } from "./weights.ts"

/** One execution of ops [opBegin, opEnd) of a bound section; all of them by default. */
export interface StepRun {
  section: BoundSection
  /** Layer of the cache that its attention uses. */
  layer?: number
  opBegin?: number
  opEnd?: number
}

/** Reduces `slot` after op `op` of runs[run] (opBegin - 1: before its first). Arrays lie on shared memory. */
export interface Observer {
  run: number
  op: number
  slot: number
  reduction: Reduction
  /** All but "copy". */
  accumulator?: NativeHandle
  /** copy: [rows, slot width]. */
  out?: Float32Array
  /** squaredError, cross, products: [rows, slot width]. */
  reference?: Float32Array
  /** The slot is grouped by the routes in this one, and only the rows of `expert` are reduced. Not for "copy". */
  routes?: number
  expert?: number
  /** cross with a capacity: the slot whose products with reference - slot are summed. */
  inputs?: number
}

/** What the logits operation computes for rows of the step. Arrays lie on shared memory. */
export type Epilogue =
  | { mode: "logits"; rows: Int32Array; logits: Float32Array }
  | { mode: "nll"; rows: Int32Array; targets: Int32Array; values: Float64Array }
  /** values [rows, 2]: nll, 1 where the target is the most likely token. */
  | { mode: "score"; rows: Int32Array; targets: Int32Array; values: Float64Array }
  | { mode: "sample"; rows: Int32Array; tokens: Int32Array; sampling: StepSampling }
  | {
      mode: "divergence"
      rows: Int32Array
      targets: Int32Array
      /** [rows, 4]: KL(reference || this), nll, reference nll, 1 where the top tokens agree. */
      values: Float64Array
      /** Input of the reference's logits operation, [rows, referenceWidth]. */
      referenceHidden: Float32Array
      referenceWidth: number
      referenceHead: number
      referenceSoftcap: number
      referenceActivations: Activations
    }

export interface Step {
  /** Must not change: passed again, as for every token of a text, they are not read again. */
  runs: readonly StepRun[]
  rows: number
  /** [rows], where an embedding runs. */
  tokens?: Int32Array
  /** They cover the rows in order. */
  sequences: readonly StepSequence[]
  cache?: KvCacheHandle
  /** [rows, width] copied into `hiddenSlot` (default 0) before the first run. Absent: what the slot holds from the step before. */
  hidden?: Float32Array
  hiddenSlot?: number
  observers?: readonly Observer[]
  epilogue?: Epilogue
  /** What linears and the head multiply with. Default: "exact". */
  activations?: Activations
  signal?: AbortSignal | undefined
}

/** Runs as the addon takes them: a row each, and the handles of all their weights. */
interface BoundRuns {
  runs: Int32Array
  weights: Float64Array
}

const epilogueModes = { logits: 1, nll: 2, sample: 3, divergence: 4, score: 5 } as const
const opColumns = 16

/** A program made native. Steps of one runner must not overlap in what they expect of its slots; they run one after another. */
export class ModelRunner {
  readonly program: ModelProgram
  readonly #handle: NativeHandle
  readonly #bound = new WeakMap<readonly StepRun[], BoundRuns>()

  constructor(program: ModelProgram) {
    this.program = program
    const { slots, sections, config } = program
    const ops = sections.flatMap((section, index) =>
      section.ops.map(op => {
        const row = new Array<number>(opColumns).fill(0)
        const [in0 = -1, in1 = -1, in2 = -1] = op.in
        // Of experts the first: the others follow it.
        const [weight0 = -1, weight1 = -1] = op.kind === "experts" ? op.weights.slice(0, 1) : op.weights
        row.splice(0, 8, index, opKinds[op.kind], in0, in1, in2, op.out, weight0, weight1)
        row.splice(8, op.p.length, ...op.p)
        return row
      }),
    )
    this.#handle = new NativeHandle(
      native.createProgram(
        Float64Array.from(slots),
        Int32Array.from(sections, section => section.weights.length),
        Float64Array.from(ops.flat()),
        config.vocabularySize,
      ),
      "the model's program",
    )
  }

  /** Reads and binds the weights of one section; `prefix` precedes its names ("model.layers.3."). tokens: of a sequence altogether, as BoundSection.bind. */
  bindSection(section: number, prefix: string, source: WeightSource, tokens?: number): Promise<BoundSection> {
    const template = this.program.sections[section]
    if (!template)
      throw new TsqError("ERR_OPTION", `section is ${section}, expected 0 to ${this.program.sections.length - 1}`)
    return BoundSection.bind(section, prefix, template, source, tokens)
  }

  /** format: f32 by default; `sequences` that will be in the cache at once, where it keeps positions exactly. */
  createCache(layers: number, pages: number, format?: KvFormat, sequences = 1): KvCacheHandle {
    const { kvHeads, headDim } = this.program.config
    if (!format) return new KvCacheHandle(native.createCache(layers, kvHeads, headDim, pages), layers, pages)
    const exact = { ...format, pages: exactPagesEach(format) * sequences }
    const { numbers, scales } = nativeFormat(format, exact.pages)
    const handle = native.createCache(layers, kvHeads, headDim, pages, numbers, scales)
    return new KvCacheHandle(handle, layers, pages, exact)
  }

  /** Runs the runs in order. The addon checks shapes, token ids and pages before anything runs. */
  step(request: Step): Promise<void> {
    const { runs, weights } = this.#bind(request.runs)
    const { sequences, pageTable, exactTable, adapters } = flattenSequences(request.sequences)
    const observers = (request.observers ?? []).map(({ reduction, accumulator, ...rest }) => ({
      ...rest,
      reduction: reductions[reduction],
      ...(accumulator && { accumulator: accumulator.value }),
    }))
    return abortable(request.signal, flag =>
      native.step(
        this.#handle.value,
        {
          runs,
          weights,
          rows: request.rows,
          tokens: request.tokens ?? null,
          sequences,
          pageTable,
          exactTable,
          adapters,
          cache: request.cache?.value ?? null,
          hidden: request.hidden ?? null,
          hiddenSlot: request.hiddenSlot ?? 0,
          observers,
          epilogue: request.epilogue ? nativeEpilogue(request.epilogue) : null,
          activations: activationsCode(request.activations ?? "exact"),
        },
        flag,
      ),
    )
  }

  #bind(list: readonly StepRun[]): BoundRuns {
    const known = this.#bound.get(list)
    if (known && !list.some(run => run.section.disposed)) return known
    const weights: number[] = []
    const runs = new Int32Array(list.length * 5)
    list.forEach((run, i) => {
      const ops = this.program.sections[run.section.section]!.ops.length
      runs.set([run.section.section, run.opBegin ?? 0, run.opEnd ?? ops, weights.length, run.layer ?? 0], i * 5)
      weights.push(...run.section.weights)
    })
    const bound = { runs, weights: Float64Array.from(weights) }
    this.#bound.set(list, bound)
    return bound
  }

  /** Native bytes of the slots. */
  get bytes(): number {
    return native.handleBytes(this.#handle.value)
  }

  dispose(): void {
    this.#handle.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

function flattenSequences(list: readonly StepSequence[]) {
  const adapters = [...new Set(list.map(({ adapter }) => adapter).filter(adapter => adapter !== undefined))]
  const sequences = new Int32Array(list.length * 6)
  const pageTable = new Int32Array(list.reduce((sum, sequence) => sum + sequence.pages.length, 0))
  const exactTable = list.some(({ exact }) => exact) ? new Int32Array(pageTable.length).fill(-1) : null
  let row = 0
  let page = 0
  list.forEach(({ rows, context, pages, exact, adapter }, i) => {
    sequences.set([row, rows, context, page, pages.length, adapter ? adapters.indexOf(adapter) : -1], i * 6)
    pageTable.set(pages, page)
    if (exact) exactTable!.set(exact, page)
    row += rows
    page += pages.length
  })
  return { sequences, pageTable, exactTable, adapters: Float64Array.from(adapters, adapter => adapter.value) }
}

function nativeEpilogue(epilogue: Epilogue): StepEpilogue {
  const { mode, ...rest } = epilogue
  if (!("referenceActivations" in rest)) return { mode: epilogueModes[mode], ...rest }
  return { mode: epilogueModes[mode], ...rest, referenceActivations: activationsCode(rest.referenceActivations) }
}
