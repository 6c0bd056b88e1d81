// Looks at a written checkpoint before it gets its final name: what was written is what is read, and it computes finite numbers.
import { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { sharedFloats, sharedInts } from "../core/tensor.ts"
import { formatByName } from "../formats/registry.ts"
import type { FormatName } from "../formats/format.ts"
import { CheckpointSource } from "../engine/checkpoint-source.ts"
import { describeModel } from "../models/registry.ts"
import { ModelRunner } from "../models/runner.ts"

const bytesOf = (array: ArrayBufferView | null) =>
  array ? Buffer.from(array.buffer, array.byteOffset, array.byteLength) : Buffer.alloc(0)

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
      throw new TsqError("ERR_CORRUPT", `${directory}: the checkpoint just written reads back with a warning: ${warning}`)
    })
    for (const module of modules) {
      throwIfAborted(signal)
      const [found, wanted] = [await reader.read(module), await expected(module)]
      for (const part of ["codes", "scales", "zeros", "groupIndex"] as const)
        if (!bytesOf(found[part]).equals(bytesOf(wanted[part])))
          throw new TsqError("ERR_CORRUPT", `${directory}: ${module} reads back with other ${part} than were written; is the disk damaged?`)
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
  const program = describeModel(checkpoint.config)
  const runner = new ModelRunner(program)
  const rows = tokens.length
  const pages = Array.from({ length: Math.ceil(rows / 16) }, (_, page) => page)
  const cache = runner.createCache(1, pages.length)
  const source = new CheckpointSource(checkpoint, () => {})
  const hidden = sharedFloats(rows * program.config.hiddenSize)
  const ids = sharedInts(rows)
  ids.set(tokens)
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
          ...(section === last && { epilogue: { mode: "logits", rows: Int32Array.of(rows - 1), logits } as const }),
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
    checkpoint.dispose()
  }
}
