// Looks at a written checkpoint before it gets its final name: what was written is what is read, and it computes finite numbers.
import { setImmediate as turn } from "node:timers/promises"
import { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { sharedFloats, sharedInts } from "../core/tensor.ts"
import { CheckpointSource } from "../engine/checkpoint-source.ts"
import type { FormatName } from "../formats/format.ts"
import { formatByName } from "../formats/registry.ts"
import type { ModelProgram } from "../models/program.ts"
import { describeModel } from "../models/registry.ts"
import { ModelRunner } from "../models/runner.ts"
import type { WeightSource } from "../models/weights.ts"

const sliceBytes = 4 * 2 ** 20

/** Compares arrays byte by byte; the event loop turns between slices. */
async function sameBytes(a: ArrayBufferView | null, b: ArrayBufferView | null): Promise<boolean> {
  if (a === null || b === null) return a === b
  if (a.byteLength !== b.byteLength) return false
  for (let begin = 0; begin < a.byteLength; begin += sliceBytes) {
    if (begin > 0) await turn()
    const size = Math.min(sliceBytes, a.byteLength - begin)
    const [x, y] = [
      Buffer.from(a.buffer, a.byteOffset + begin, size),
      Buffer.from(b.buffer, b.byteOffset + begin, size),
    ]
    if (!x.equals(y)) return false
  }
  return true
}

/** Reads every module back and compares codes, scales and zero points. ERR_CORRUPT naming the module when they differ. */
export async function verifyModules(
  directory: string,
  format: FormatName,
  modules: Iterable<string>,
  expected: (module: string) => Promise<QuantizedTensor>,
  signal?: AbortSignal,
): Promise<void> {
  const checkpoint = await Checkpoint.open(directory)
  try {
    const reader = formatByName(format).reader(checkpoint, checkpoint.quantizationConfig ?? {}, warning => {
      throw new TsqError(
        "ERR_CORRUPT",
        `${directory}: the checkpoint just written reads back with a warning: ${warning}`,
      )
    })
    for (const module of modules) {
      throwIfAborted(signal)
      const found = await reader.read(module)
      const wanted = await expected(module)
      for (const part of ["codes", "scales", "zeros", "offsets", "groupIndex"] as const)
        if (!(await sameBytes(found[part], wanted[part])))
          throw new TsqError(
            "ERR_CORRUPT",
            `${directory}: ${module} reads back with other ${part} than were written; is the disk damaged?`,
          )
    }
  } finally {
    checkpoint.dispose()
  }
}

/**
 * Runs a few tokens through the checkpoint, one section at a time (memory: the largest section). ERR_NUMERIC when an output is
 * not finite: such a file would generate garbage.
 */
export async function smokeTest(directory: string, tokens: readonly number[], signal?: AbortSignal): Promise<void> {
  const checkpoint = await Checkpoint.open(directory)
  try {
    await runTokens(
      describeModel(checkpoint.config, name => checkpoint.has(name)),
      new CheckpointSource(checkpoint, () => {}),
      tokens,
      signal,
    )
  } finally {
    checkpoint.dispose()
  }
}

/** Ids spread over the vocabulary, for models that come without a text. */
export const spreadTokens = (vocabulary: number): number[] =>
  Array.from({ length: 8 }, (_, i) => Math.floor((i * vocabulary) / 8))

/** The same for weights from anywhere. */
export async function runTokens(
  program: ModelProgram,
  source: WeightSource,
  tokens: readonly number[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const runner = new ModelRunner(program)
  const rows = tokens.length
  const pages = Array.from({ length: Math.ceil(rows / 16) }, (_, page) => page)
  const cache = runner.createCache(1, pages.length)
  const hidden = sharedFloats(rows * program.config.hiddenSize)
  const ids = sharedInts(rows)
  ids.set(tokens)
  const scored = sharedInts(1).fill(rows - 1)
  try {
    const last = program.sections.length - 1
    const passes = [
      { section: 0, prefix: "" },
      ...program.blocks.map((section, layer) => ({ section, prefix: program.blockPrefix(layer) })),
      { section: last, prefix: "" },
    ]
    for (const { section, prefix } of passes) {
      throwIfAborted(signal)
      const bound = await runner.bindSection(section, prefix, source)
      try {
        const ops = program.sections[section]!.ops.length
        const logits = sharedFloats(section === last ? program.config.vocabularySize : 0)
        await runner.step({
          runs: [{ section: bound, layer: 0 }],
          rows,
          tokens: ids,
          sequences: [{ rows, context: 0, pages }],
          cache,
          ...(section !== 0 && { hidden }),
          observers: section === last ? [] : [{ run: 0, op: ops - 1, slot: 0, reduction: "copy", out: hidden }],
          ...(section === last && { epilogue: { mode: "logits", rows: scored, logits } as const }),
          signal,
        })
        const bad = (section === last ? logits : hidden).findIndex(value => !Number.isFinite(value))
        if (bad >= 0)
          throw new TsqError(
            "ERR_NUMERIC",
            `the quantized model computes ${section === last ? "logits" : `hidden states after ${prefix || "the embedding"}`} that are not finite; ` +
              "nothing was written: keep more tensors in 16 bit (ignore), or use a finer scheme",
          )
      } finally {
        bound.dispose()
      }
    }
  } finally {
    cache.dispose()
    runner.dispose()
  }
}
