// The importance matrix of a checkpoint: what enters the linears of its blocks, squared and summed, as llama-imatrix collects it.

import type { ImportanceEntry, ImportanceMatrix } from "../containers/imatrix.ts"
import { TsqError } from "../core/errors.ts"
import type { ProgressStep } from "../core/progress.ts"
import { Accumulator } from "../models/accumulator.ts"
import { GgufNames } from "../models/gguf-names.ts"
import type { ModelProgram } from "../models/program.ts"
import type { WeightSource } from "../models/runner.ts"
import type { CalibrationSet } from "./calibration.ts"
import { CalibrationRun } from "./calibration-run.ts"
import { linearsOf, stages } from "./linears.ts"

/** How many entries measureImportance makes: one for all experts of a stacked tensor. */
export function importanceEntries(program: ModelProgram): number {
  const names = new GgufNames(program.config.architecture)
  return program.blocks.reduce((sum, _, layer) => {
    const prefix = program.blockPrefix(layer)
    return sum + new Set(linearsOf(program, layer).map(({ module }) => entryName(names, prefix + module))).size
  }, 0)
}

const entryName = (names: GgufNames, module: string): string => names.tensor(`${module}.weight`)!

/**
 * Sends the calibration windows once through the model as `source` has it. Head and embedding have no entries, as with llama-imatrix
 * unless it is told otherwise. ERR_NUMERIC, naming the linear, where sums are no finite numbers.
 */
export async function measureImportance(
  program: ModelProgram,
  source: WeightSource,
  set: CalibrationSet,
  { signal, report }: { signal?: AbortSignal | undefined; report?: (step: ProgressStep) => void } = {},
): Promise<ImportanceMatrix> {
  const entries = new Map<string, ImportanceEntry>()
  const names = new GgufNames(program.config.architecture)
  const run = await CalibrationRun.start(program, source, set, signal)
  try {
    for (let layer = 0; layer < program.blocks.length; layer++) {
      report?.({ stage: "calibrate", done: layer, total: program.blocks.length })
      const prefix = program.blockPrefix(layer)
      const section = program.sections[program.blocks[layer]!]!
      // An accumulator for each expert where a stage has experts.
      const watched = stages(section).flatMap(({ op, slot, k, modules, experts }) =>
        (experts ? [...experts.modules] : [[null, modules] as const]).map(([expert, modules]) => ({
          ...{ op, slot, modules, accumulator: new Accumulator("sumSquares", k) },
          ...(experts && expert !== null && { routes: experts.routes, expert }),
        })),
      )
      const bound = await run.bind(layer)
      try {
        await run.advance(bound, signal, watched)
        for (const { modules, accumulator } of watched) {
          const entry = entryOf(accumulator, prefix + modules[0])
          for (const module of modules) {
            const name = entryName(names, prefix + module)
            const known = entries.get(name)
            entries.set(name, known ? joined(known, entry) : entry)
          }
        }
      } finally {
        bound.dispose()
        for (const { accumulator } of watched) accumulator.dispose()
      }
    }
  } finally {
    run.dispose()
  }
  return { entries, datasets: [], chunks: set.windows.length, chunkSize: set.sequenceLength }
}

/** The matrices of one entry, then those of the other. */
function joined(a: ImportanceEntry, b: ImportanceEntry): ImportanceEntry {
  const both = (first: Float32Array, second: Float32Array) => {
    const all = new Float32Array(first.length + second.length)
    all.set(first)
    all.set(second, first.length)
    return all
  }
  return { sums: both(a.sums, b.sums), counts: both(a.counts, b.counts) }
}

function entryOf(accumulator: Accumulator, module: string): ImportanceEntry {
  const sums = Float32Array.from(accumulator.read(accumulator.width))
  const bad = sums.findIndex(sum => !Number.isFinite(sum))
  if (bad >= 0)
    throw new TsqError(
      "ERR_NUMERIC",
      `${module}: the squared inputs of column ${bad} sum to ${sums[bad]} in calibration, expected a finite number; activations overflow: check the checkpoint and the calibration text`,
    )
  return { sums, counts: Float32Array.of(accumulator.rows) }
}
