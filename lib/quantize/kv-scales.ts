// Scales of an FP8 KV cache that are written to the checkpoint: from the largest magnitudes of keys (after RoPE, as engines cache them) and values
// of every quantized block over the calibration (llm-compressor's and ModelOpt's "max").
import { TsqError } from "../core/errors.ts"
import { listChoices, type Options } from "../core/options.ts"
import { storedKvFormat } from "../engine/kv-scales.ts"
import type { FormatName, NamedTensor } from "../formats/format.ts"
import { type KvScales, writeKvScales } from "../formats/kv-scales.ts"
import { formatByName, formats } from "../formats/registry.ts"
import { Accumulator } from "../models/accumulator.ts"
import type { ModelProgram, Section } from "../models/program.ts"
import type { Watched } from "../transforms/transform.ts"
import type { Recipe } from "./recipe.ts"
import { largest, staticScale } from "./static-activations.ts"

export type StoredKvCache = "fp8"

const holders = () => listChoices(formats.filter(({ kvScales }) => kvScales).map(({ name }) => name))

/** The option "kvCache"; null where it was not given. ERR_OPTION for a type that has no scales in files. */
export function readStoredKvCache(options: Options): StoredKvCache | null {
  const type = options.raw("kvCache") ?? null
  if (type !== null && type !== "fp8")
    options.fail(
      "kvCache",
      '"fp8", the only cache whose scales engines read from a checkpoint; others are chosen where the model runs (loadModel\'s kvCache, generate --kv-cache)',
    )
  return type as StoredKvCache | null
}

/** ERR_OPTION for a format in which engines look for no scales. */
export function refuseWithoutPlace(format: FormatName): void {
  if (formatByName(format).kvScales) return
  throw new TsqError(
    "ERR_OPTION",
    `quantizeModel: kvCache is "fp8", and format "${format}" has no place for scales of keys and values; ${holders()} have`,
  )
}

/** ERR_UNSUPPORTED for a model whose attention has another name than the tensors' that engines look for. */
export function refuseOtherNames(
  { kvCache }: Pick<Recipe, "kvCache">,
  { config, blocks, sections }: ModelProgram,
): void {
  if (!kvCache) return
  const named = blocks.every(block =>
    sections[block]!.weights.some(slot => slot.kind === "linear" && slot.module.startsWith("self_attn.")),
  )
  if (!named)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `quantizeModel: kvCache is "fp8", and engines look for scales under self_attn, which blocks of "${config.architecture}" do not have; leave it out, and choose the cache where the model runs`,
    )
}

/** Watches what a block's attention puts into its cache. */
export class KvScaleWatch {
  readonly #key: Watched
  readonly #value: Watched

  constructor({ slots }: ModelProgram, section: Section) {
    const op = section.ops.findIndex(({ kind }) => kind === "attention")
    const [, key, value] = section.ops[op]!.in as [number, number, number]
    const watch = (slot: number): Watched => ({ op, slot, accumulator: new Accumulator("absMax", slots[slot]!) })
    this.#key = watch(key)
    this.#value = watch(value)
  }

  get watched(): readonly Watched[] {
    return [this.#key, this.#value]
  }

  /** ERR_NUMERIC for keys or values that are not finite. */
  scales(prefix: string): KvScales {
    const of = ({ accumulator }: Watched, what: string) =>
      staticScale(accumulator, largest.e4m3!, `${prefix}self_attn: its ${what}`)
    return { key: of(this.#key, "keys"), value: of(this.#value, "values") }
  }

  dispose(): void {
    for (const { accumulator } of this.watched) accumulator.dispose()
  }
}

/** Scales of all layers as tensors of a format. */
export function kvScaleTensors(
  program: ModelProgram,
  format: FormatName,
  scales: readonly KvScales[],
): { tensors: NamedTensor[]; settings: Readonly<Record<string, unknown>> } {
  const form = formatByName(format).kvScales!
  return {
    tensors: scales.flatMap((layer, index) => writeKvScales(program.blockPrefix(index), layer, form)),
    settings: form.settings,
  }
}

/** Reads them back as running does. ERR_CORRUPT where they differ. */
export async function verifyKvScales(
  directory: string,
  program: ModelProgram,
  scales: readonly KvScales[],
): Promise<void> {
  const { tensorScales } = await storedKvFormat(directory, program)
  const wanted = [...scales.map(({ key }) => key), ...scales.map(({ value }) => value)]
  const at = wanted.findIndex((scale, i) => tensorScales![i] !== scale)
  if (at >= 0)
    throw new TsqError(
      "ERR_CORRUPT",
      `${directory}: the scales of ${program.blockPrefix(at % scales.length)}self_attn read back as ${tensorScales![at]}, written was ${wanted[at]}; is the disk damaged?`,
    )
}
