// How errors are weighed in a GGUF file: the importance matrix, what the file says about it, and its rows by tensor.
import { basename } from "node:path"
import type { Checkpoint } from "../containers/checkpoint.ts"
import { string, u32 } from "../containers/gguf-fields.ts"
import type { GgufMetadata, GgufValue } from "../containers/gguf-types.ts"
import type { GgufTensorPlan } from "../containers/gguf-writer.ts"
import { type ImportanceMatrix, meanSquares } from "../containers/imatrix.ts"
import { readImportance, writeImportance } from "../containers/imatrix-files.ts"
import { exists } from "../containers/output.ts"
import { TsqError } from "../core/errors.ts"
import type { ProgressStep } from "../core/progress.ts"
import { CheckpointSource } from "../engine/checkpoint-source.ts"
import { type GgufPreset, needsImportance } from "../formats/gguf-mixes.ts"
import type { ModelProgram } from "../models/program.ts"
import { type CalibrationSet, readCalibration } from "./calibration.ts"
import type { GgufRecipe } from "./gguf-recipe.ts"
import { importanceEntries, measureImportance } from "./importance.ts"

type Warn = (message: string) => void

/** The importance matrix of a run: given, or measured once the output is known to be writable. */
export class Weighing {
  /** Calibration windows, where calibration was given. */
  readonly set: CalibrationSet | null
  readonly #matrix: ImportanceMatrix | null
  readonly #recipe: GgufRecipe
  readonly #program: ModelProgram

  private constructor(
    recipe: GgufRecipe,
    program: ModelProgram,
    matrix: ImportanceMatrix | null,
    set: CalibrationSet | null,
  ) {
    this.#recipe = recipe
    this.#program = program
    this.#matrix = matrix
    this.set = set
  }

  /** Reads the matrix and cuts the calibration, before anything is written. */
  static async prepare(recipe: GgufRecipe, source: string, program: ModelProgram): Promise<Weighing> {
    const { imatrix, calibration, saveImatrix, force } = recipe
    if (saveImatrix !== null && !force && (await exists(saveImatrix)))
      throw new TsqError(
        "ERR_OPTION",
        `the importance matrix ${saveImatrix} exists already; choose another name, remove it, or replace it with --force`,
      )
    const matrix = imatrix === null ? null : await readImportance(imatrix)
    const set = calibration === null ? null : await readCalibration(source, calibration, recipe, program.config, force)
    return new Weighing(recipe, program, matrix, set)
  }

  /** Whether errors are weighed at all. */
  get weighs(): boolean {
    return this.#recipe.rounding !== "nearest"
  }

  get metadata(): GgufMetadata {
    if (!this.weighs) return new Map()
    const { imatrix, saveImatrix } = this.#recipe
    const { datasets, chunks } = this.#matrix ?? { datasets: [], chunks: this.set!.windows.length }
    const entries = this.#matrix?.entries.size ?? importanceEntries(this.#program)
    return importanceMetadata(imatrix ?? saveImatrix, { datasets, entries, chunks })
  }

  /** Refuses a matrix that does not fit the tensors, or that one of them could not do without. */
  check(preset: GgufPreset, tensors: readonly GgufTensorPlan[]): void {
    const { weighs } = this
    const known = weighs && this.#matrix ? importanceOf(this.#matrix, tensors, () => {}) : null
    refuseUnweighed(preset, tensors, name => weighs && (known?.has(name) ?? true))
  }

  /** The weights of columns by tensor, measured where they were not given. */
  async importance(
    checkpoint: Checkpoint,
    tensors: readonly GgufTensorPlan[],
    { signal, report, warn }: { signal: AbortSignal | undefined; report: (step: ProgressStep) => void; warn: Warn },
  ): Promise<Map<string, Float32Array>> {
    const { saveImatrix, force } = this.#recipe
    let matrix = this.#matrix
    if (!matrix && this.set) {
      const dense = new CheckpointSource(checkpoint, warn)
      matrix = await measureImportance(this.#program, dense, this.set, { signal, report })
      if (saveImatrix !== null) await writeImportance(saveImatrix, matrix, { force, signal })
    }
    return this.weighs && matrix ? importanceOf(matrix, tensors, warn) : new Map()
  }
}

/** Types whose encoders look at importance; the others have no scale to search for. */
const weighed = new Set(["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])

const looksAtImportance = ({ type }: GgufTensorPlan): boolean => weighed.has(type.name)

/** llama-imatrix leaves out what is not within blocks. */
const mayLack = (name: string): boolean => !name.startsWith("blk.")

/** What llama-quantize notes in a file. `file`: null where the matrix was not read from one or written to one. */
function importanceMetadata(
  file: string | null,
  { datasets, entries, chunks }: { datasets: readonly string[]; entries: number; chunks: number },
): GgufMetadata {
  const metadata = new Map<string, GgufValue>()
  if (file !== null) metadata.set("quantize.imatrix.file", string(basename(file)))
  if (datasets[0] !== undefined) metadata.set("quantize.imatrix.dataset", string(datasets[0]))
  metadata.set("quantize.imatrix.entries_count", u32(entries))
  if (chunks > 0) metadata.set("quantize.imatrix.chunks_count", u32(chunks))
  return metadata
}

/**
 * The weight of every column by tensor, for the tensors that have an entry. ERR_SHAPE where an entry is of another width, ERR_OPTION
 * where the matrix knows none of the tensors; `warn` is told of those that it lacks.
 */
function importanceOf(
  matrix: ImportanceMatrix,
  tensors: readonly GgufTensorPlan[],
  warn: Warn,
): Map<string, Float32Array> {
  const weights = new Map<string, Float32Array>()
  const missing: string[] = []
  const matrices = tensors.filter(tensor => tensor.shape.length > 1 && looksAtImportance(tensor))
  for (const { name, shape } of matrices) {
    const entry = matrix.entries.get(name)
    // Of stacked experts a row each.
    const k = shape.length === 3 ? shape[0]! * shape[2]! : shape[1]!
    if (entry?.sums.length === k) weights.set(name, meanSquares(entry))
    else if (!entry) missing.push(name)
    // llama-quantize goes on without, too: an embedding's rows have no input in common.
    else if (name !== "token_embd.weight")
      throw new TsqError(
        "ERR_SHAPE",
        `the importance matrix has ${entry.sums.length} columns for ${name}, expected ${k}; it belongs to another model`,
      )
  }
  const lacking = missing.filter(name => !mayLack(name))
  if (matrices.length === 0) warn("no type of this preset looks at importance: blocks are as without")
  else if (weights.size === 0)
    throw new TsqError(
      "ERR_OPTION",
      `the importance matrix has no entry for ${missing[0]} nor for any other matrix to be quantized; it belongs to another model`,
    )
  if (lacking.length > 0)
    warn(
      `the importance matrix has nothing about ${lacking[0]}${lacking.length > 1 ? ` and ${lacking.length - 1} more tensors` : ""}: their errors are not weighed`,
    )
  return weights
}

/** ERR_OPTION for a tensor that is of no use without its importance and has none. */
function refuseUnweighed(preset: GgufPreset, tensors: readonly GgufTensorPlan[], has: (name: string) => boolean): void {
  const tensor = tensors.find(({ name, type }) => !mayLack(name) && needsImportance(preset, type) && !has(name))
  if (tensor)
    throw new TsqError(
      "ERR_OPTION",
      `quantizeModel: preset "${preset}" makes ${tensor.name} ${tensor.type.name}, which needs its importance; give an importance matrix or calibration that covers it`,
    )
}
