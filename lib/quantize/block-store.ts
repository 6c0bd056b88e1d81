// Finished blocks on disk: one atomic file each, under a fingerprint of everything that decides their contents.
//
// A block file is a safetensors file in terms of the canonical tensor, whatever format is written in the end:
//   <module>.codes  I32 [n, ceil(k * bits / 32)]   dense bit stream a row
//   <module>.scales F32 [n, groups]    <module>.zeros U8 [n, groups]    <module>.group_index I32 [k]
//   <module>.level_codes U8, .level_values F32, .level_supers F32          scales in two levels
//   <tensor>        F32                            dense tensors that a transform changed
// and its metadata holds schemes, reports and the SHA-256 of the tensors' bytes as JSON.
import { createHash } from "node:crypto"
import { createReadStream } from "node:fs"
import { mkdir, readFile, rm, stat } from "node:fs/promises"
import { join } from "node:path"
import { setImmediate as turn } from "node:timers/promises"
import type { Checkpoint } from "../containers/checkpoint.ts"
import { writeAtomically, writeError } from "../containers/disk.ts"
import { SafetensorsFile } from "../containers/safetensors.ts"
import { compareNames, serializeHeader } from "../containers/safetensors-header.ts"
import { ioError, TsqError, throwIfAborted } from "../core/errors.ts"
import { QuantizedTensor, type ScaleLevels } from "../core/quantized-tensor.ts"
import { type Scheme, storedScales } from "../core/scheme.ts"
import { sharedBytes, sharedFloats, sharedInts } from "../core/tensor.ts"
import type { KvScales } from "../formats/kv-scales.ts"
import { native } from "../native.ts"
import type { RoundingReport } from "../rounding/rounding.ts"
import type { TransformReport } from "../transforms/transform.ts"
import type { ContestReport } from "./best/contest.ts"
import type { BlockResult } from "./block-quantizer.ts"
import type { CalibrationSet } from "./calibration.ts"
import type { Recipe } from "./recipe.ts"

const storeVersion = 3

/** SHA-256 over the source's tensors and configuration, the calibration windows and those that choices are judged on, the recipe, kernels and versions. */
export async function fingerprint(
  checkpoint: Checkpoint,
  recipe: Recipe,
  calibration: CalibrationSet | null,
  version: string,
  signal?: AbortSignal,
): Promise<string> {
  const hash = createHash("sha256")
  hash.update(JSON.stringify({ storeVersion, version, recipe, kernels: native.cpu().kernels }))
  hash.update(checkpoint.configText)
  const files = new Set(checkpoint.names.map(name => checkpoint.entry(name).file.path))
  for (const path of [...files].sort()) {
    try {
      for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
        throwIfAborted(signal)
        hash.update(chunk as Buffer)
      }
    } catch (cause) {
      if (cause instanceof TsqError) throw cause
      throw ioError("read", path, cause)
    }
  }
  const judged = recipe.mix || recipe.contest ? (calibration?.heldOut ?? []) : []
  for (const windows of [calibration?.windows ?? [], judged]) {
    hash.update(`${windows.length} `)
    for (const window of windows) hash.update(new Uint8Array(window.buffer.slice(0)))
  }
  return hash.digest("hex")
}

/** ScaleLevels but for its arrays. */
interface LevelNumbers extends Pick<ScaleLevels, "perSuper" | "divides" | "shift"> {
  values: number
}

interface BlockMetadata {
  /** Of all tensors' bytes in file order. */
  sha256: string
  schemes: Record<
    string,
    {
      scheme: Scheme
      shape: [number, number]
      levels?: LevelNumbers
      activation?: { scale: number[]; zero: number[] | null }
    }
  >
  reports: Record<string, RoundingReport>
  transforms: TransformReport[]
  residualPeak: number | null
  contest?: ContestReport
  kvScales?: KvScales
}

export class BlockStore {
  readonly directory: string

  private constructor(directory: string) {
    this.directory = directory
  }

  /**
   * The store beside an output. Fresh unless `resume`; then an existing one must carry the same fingerprint (ERR_OPTION
   * otherwise), and one that is not there is no error: nothing had been finished.
   */
  static async open(out: string, print: string, resume: boolean): Promise<BlockStore> {
    const store = new BlockStore(`${out}.tsq-resume`)
    const path = join(store.directory, "fingerprint.json")
    if (resume) {
      const found = await readFingerprint(path)
      if (found === print) return store
      if (found !== null)
        throw new TsqError(
          "ERR_OPTION",
          `resume: ${store.directory} belongs to another run (other weights, calibration, recipe, instruction set or version of tsq-native); ` +
            "repeat that run's options, or start over without resume",
        )
    }
    await store.remove()
    try {
      await mkdir(store.directory, { recursive: true })
      await writeAtomically(path, [Buffer.from(`${JSON.stringify({ storeVersion, fingerprint: print })}\n`)])
    } catch (cause) {
      throw writeError("create", store.directory, cause)
    }
    return store
  }

  #path(name: string): string {
    return join(this.directory, `${name}.safetensors`)
  }

  async has(name: string): Promise<boolean> {
    try {
      return (await stat(this.#path(name))).isFile()
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return false
      throw ioError("look at", this.#path(name), error)
    }
  }

  /** Writes a block beside its name and renames it: it is there whole or not at all. */
  async write(name: string, block: BlockResult): Promise<void> {
    const parts: { name: string; dtype: string; shape: number[]; data: ArrayBufferView }[] = []
    const metadata: BlockMetadata = {
      sha256: "",
      schemes: {},
      reports: Object.fromEntries(block.reports),
      transforms: [...block.transforms],
      residualPeak: block.residualPeak,
      ...(block.contest && { contest: block.contest }),
      ...(block.kvScales && { kvScales: block.kvScales }),
    }
    for (const [module, tensor] of block.tensors) {
      const [n, k] = tensor.shape
      const words = Math.ceil((k * tensor.scheme.bits) / 32)
      const packed = sharedInts(n * words)
      await native.packBits(tensor.codes, n, k, tensor.scheme.bits, false, 0, packed)
      metadata.schemes[module] = { scheme: tensor.scheme, shape: [n, k] }
      if (tensor.activation) {
        const { scale, zero } = tensor.activation
        metadata.schemes[module].activation = { scale: [...scale], zero: zero && [...zero] }
      }
      parts.push({ name: `${module}.codes`, dtype: "I32", shape: [n, words], data: packed })
      parts.push({ name: `${module}.scales`, dtype: "F32", shape: [n, tensor.groups], data: tensor.scales })
      if (tensor.zeros)
        parts.push({ name: `${module}.zeros`, dtype: "U8", shape: [n, tensor.groups], data: tensor.zeros })
      if (tensor.groupIndex)
        parts.push({ name: `${module}.group_index`, dtype: "I32", shape: [k], data: tensor.groupIndex })
      if (tensor.levels) {
        const { codes, values, supers, perSuper, divides, shift } = tensor.levels
        metadata.schemes[module].levels = { perSuper, divides, shift, values: values.length }
        parts.push({ name: `${module}.level_codes`, dtype: "U8", shape: [codes.length], data: codes })
        parts.push({ name: `${module}.level_values`, dtype: "F32", shape: [values.length], data: values })
        parts.push({ name: `${module}.level_supers`, dtype: "F32", shape: [supers.length], data: supers })
      }
    }
    for (const [tensor, values] of block.changed)
      parts.push({ name: tensor, dtype: "F32", shape: [values.length], data: values })
    let begin = 0
    const entries = parts.map(({ data, ...entry }) => {
      const end = begin + data.byteLength
      const placed = { ...entry, begin, end }
      begin = end
      return placed
    })
    const bytes = parts.map(({ data }) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
    metadata.sha256 = await digest(bytes)
    const header = serializeHeader(entries, { tsq: JSON.stringify(metadata) })
    try {
      await writeAtomically(this.#path(name), [header, ...bytes])
    } catch (cause) {
      throw writeError("write a finished block to", this.#path(name), cause)
    }
  }

  /** ERR_CORRUPT when the file was damaged. */
  async read(name: string): Promise<StoredBlock> {
    return StoredBlock.open(this.#path(name))
  }

  async remove(): Promise<void> {
    try {
      await rm(this.directory, { recursive: true, force: true })
    } catch (cause) {
      throw writeError("remove", this.directory, cause)
    }
  }
}

const partNames = ["codes", "scales", "zeros", "group_index", "level_codes", "level_values", "level_supers"]

/** A finished block; tensors are read when asked for. */
export class StoredBlock {
  readonly #file: SafetensorsFile
  readonly #metadata: BlockMetadata

  private constructor(file: SafetensorsFile, metadata: BlockMetadata) {
    this.#file = file
    this.#metadata = metadata
  }

  /** ERR_CORRUPT unless the file is whole and as it was written. */
  static async open(path: string): Promise<StoredBlock> {
    const file = await SafetensorsFile.open(path)
    try {
      const metadata = JSON.parse(file.metadata.tsq ?? "null") as BlockMetadata | null
      if (metadata?.sha256 !== (await digest(contents(file))))
        throw new TsqError("ERR_CORRUPT", `${path}: this finished block was damaged; start over without resume`)
      return new StoredBlock(file, metadata)
    } catch (error) {
      file.dispose()
      throw error
    }
  }

  get modules(): string[] {
    return Object.keys(this.#metadata.schemes).sort(compareNames)
  }

  get reports(): ReadonlyMap<string, RoundingReport> {
    return new Map(Object.entries(this.#metadata.reports))
  }

  get transforms(): readonly TransformReport[] {
    return this.#metadata.transforms
  }

  get residualPeak(): number | null {
    return this.#metadata.residualPeak
  }

  get contest(): ContestReport | undefined {
    return this.#metadata.contest
  }

  get kvScales(): KvScales | undefined {
    return this.#metadata.kvScales
  }

  scheme(module: string): Scheme {
    return this.#metadata.schemes[module]!.scheme
  }

  /** Names of dense tensors that a transform changed. */
  get changed(): string[] {
    const parts = new Set(this.modules.flatMap(module => partNames.map(part => `${module}.${part}`)))
    return [...this.#file.entries.keys()].filter(name => !parts.has(name))
  }

  async dense(name: string): Promise<Float32Array> {
    const entry = this.#file.entries.get(name)!
    const out = sharedFloats(entry.bytes / 4)
    await this.#read(name, out)
    return out
  }

  async tensor(module: string): Promise<QuantizedTensor> {
    const { scheme, shape, activation: stored } = this.#metadata.schemes[module]!
    const activation = stored
      ? { scale: Float32Array.from(stored.scale), zero: stored.zero && Int32Array.from(stored.zero) }
      : null
    const [n, k] = shape
    const groups = Math.ceil(k / scheme.groupSize)
    const words = sharedInts(n * Math.ceil((k * scheme.bits) / 32))
    await this.#read(`${module}.codes`, words)
    const codes = sharedBytes(n * k)
    await native.unpackBits(words, n, k, scheme.bits, false, 0, codes)
    const scales = sharedFloats(n * groups)
    await this.#read(`${module}.scales`, scales)
    const zeros = scheme.symmetric ? null : sharedBytes(n * groups)
    if (zeros) await this.#read(`${module}.zeros`, zeros)
    const groupIndex = this.#file.entries.has(`${module}.group_index`) ? sharedInts(k) : null
    if (groupIndex) await this.#read(`${module}.group_index`, groupIndex)
    return new QuantizedTensor({
      scheme,
      shape,
      codes,
      scales,
      zeros,
      groupIndex,
      activation,
      levels: await this.#levels(module),
    })
  }

  async #levels(module: string): Promise<ScaleLevels | null> {
    const { scheme, shape, levels } = this.#metadata.schemes[module]!
    if (!levels) return null
    const count = storedScales(scheme, shape)
    const codes = sharedBytes(count)
    const values = sharedFloats(levels.values)
    const supers = sharedFloats(Math.ceil(count / levels.perSuper))
    await this.#read(`${module}.level_codes`, codes)
    await this.#read(`${module}.level_values`, values)
    await this.#read(`${module}.level_supers`, supers)
    return { ...levels, codes, values, supers }
  }

  async #read(name: string, out: Float32Array | Int32Array | Uint8Array): Promise<void> {
    const entry = this.#file.entries.get(name)
    if (entry?.bytes !== out.byteLength)
      throw new TsqError(
        "ERR_CORRUPT",
        `${this.#file.path}: ${name} is missing or of another size; start over without resume`,
      )
    const bytes = new Uint8Array(out.buffer, out.byteOffset, out.byteLength)
    await native.readMappingAsync(this.#file.mapping.value, entry.offset, bytes)
  }

  dispose(): void {
    this.#file.dispose()
  }
}

const chunkBytes = 1 << 20

/** SHA-256 of consecutive parts; the event loop turns between chunks. */
async function digest(parts: Iterable<Uint8Array> | AsyncIterable<Uint8Array>): Promise<string> {
  const hash = createHash("sha256")
  for await (const part of parts)
    for (let begin = 0; begin < part.byteLength; begin += chunkBytes) {
      hash.update(part.subarray(begin, begin + chunkBytes))
      await turn()
    }
  return hash.digest("hex")
}

/** The tensors' bytes in file order. */
async function* contents(file: SafetensorsFile): AsyncGenerator<Uint8Array> {
  for (const { offset, bytes } of [...file.entries.values()].sort((a, b) => a.offset - b.offset))
    for (let begin = 0; begin < bytes; begin += chunkBytes) {
      const chunk = sharedBytes(Math.min(chunkBytes, bytes - begin))
      await native.readMappingAsync(file.mapping.value, offset + begin, chunk)
      yield chunk
    }
}

async function readFingerprint(path: string): Promise<string | null> {
  try {
    const { fingerprint: found } = JSON.parse(await readFile(path, "utf8")) as { fingerprint?: unknown }
    return typeof found === "string" ? found : ""
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null
    if (error instanceof SyntaxError) return ""
    throw ioError("read", path, error)
  }
}
