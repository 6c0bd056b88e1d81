// Reads the modules of a GPTQ checkpoint.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { Scheme } from "../core/scheme.ts"
import { StoredTensor } from "../core/stored-tensor.ts"
import {
  bytesOf,
  expectEntry,
  matrixShape,
  modulesWith,
  readInts,
  readScales,
  transposed,
  unpack,
  unpackPlanes,
} from "./arrays.ts"
import type { FormatReader } from "./format.ts"
import { GptqConfig, type GptqSettings } from "./gptq-config.ts"
import { readGroupIndex } from "./group-index.ts"

const suffixes = ["qweight", "qzeros", "scales", "g_idx"]

/** What the stored zero points mean: null for symmetric codes, otherwise [groups, n]. */
type ZeroPoints = Uint8Array | null

export class GptqReader implements FormatReader {
  readonly modules: readonly string[]
  readonly #checkpoint: Checkpoint
  readonly #config: GptqConfig
  readonly #warn: (message: string) => void
  readonly #warned = new Set<string>()

  constructor(checkpoint: Checkpoint, quantizationConfig: Record<string, unknown>, warn: (message: string) => void) {
    this.#checkpoint = checkpoint
    this.#config = new GptqConfig(quantizationConfig)
    this.#warn = warn
    this.modules = modulesWith(checkpoint, ".qweight")
    for (const module of this.modules)
      if (this.#config.excludes(module))
        this.#warnOnce(
          "excluded",
          `${module} is stored quantized although quantization_config.dynamic says that it is not; the tensors are believed`,
        )
  }

  tensorNames(module: string): readonly string[] {
    return suffixes.map(suffix => `${module}.${suffix}`).filter(name => this.#checkpoint.has(name))
  }

  async read(module: string): Promise<QuantizedTensor> {
    return (await this.stored(module)).unpacked()
  }

  async stored(module: string): Promise<StoredTensor> {
    const checkpoint = this.#checkpoint
    const settings = this.#config.settings(module)
    const { bits } = settings
    const [rows, n] = matrixShape(checkpoint, expectEntry(checkpoint, `${module}.qweight`, ["I32"]))
    const k = Math.floor((rows * 32) / bits)
    const wholeBlocks = !this.#isPlanar(bits) || (k % 32 === 0 && n % 32 === 0)
    if (k * bits !== rows * 32 || (n * bits) % 32 !== 0 || !wholeBlocks)
      throw new TsqError(
        "ERR_SHAPE",
        `${checkpoint.directory}: tensor ${module}.qweight is [${rows}, ${n}], which are no whole words of ${bits}-bit codes; its quantization_config does not describe it`,
      )
    const groupSize = settings.groupSize === -1 ? k : Math.min(settings.groupSize, k)
    const groups = Math.ceil(k / groupSize)
    expectEntry(checkpoint, `${module}.qzeros`, ["I32"], [groups, (n * bits) / 32])
    expectEntry(checkpoint, `${module}.scales`, ["F16", "BF16", "F32"], [groups, n])
    const zeros = await this.#zeroPoints(module, settings, groups, n)
    const planar = this.#isPlanar(bits)
    const { values, scaleType } = await readScales(checkpoint, `${module}.scales`)
    const scheme: Scheme = {
      bits: bits as Scheme["bits"],
      symmetric: zeros === null,
      granularity: settings.groupSize === -1 ? "channel" : "group",
      groupSize,
      scaleType,
    }
    return new StoredTensor({
      scheme,
      shape: [n, k],
      ...(planar
        ? { codes: await this.#planarCodes(`${module}.qweight`, n, k, bits), layout: "bytes" }
        : { codes: checkpoint.mapped(`${module}.qweight`), layout: "columns" }),
      scales: await transposed(values, groups, n),
      zeros: zeros && (await transposed(zeros, groups, n)),
      groupIndex: await this.#groupIndex(module, settings, k, groupSize, groups),
    })
  }

  /** 5 to 7 bits are planar whatever a file declares, and 2, 4 and 8 bits the same in both layouts. */
  #isPlanar(bits: number): boolean {
    return [5, 6, 7].includes(bits) || (bits === 3 && this.#config.version === "planar")
  }

  async #planarCodes(name: string, n: number, k: number, bits: number): Promise<Uint8Array> {
    const words = await transposed(await readInts(this.#checkpoint, name), (k * bits) / 32, n)
    return unpackPlanes(words, n, k, bits)
  }

  /**
   * Symmetric files show by their constant which version they are, and that is believed more than the metadata, which is
   * wrong even in official checkpoints.
   */
  async #zeroPoints(module: string, { bits, symmetric }: GptqSettings, groups: number, n: number): Promise<ZeroPoints> {
    const name = `${module}.qzeros`
    const words = await readInts(this.#checkpoint, name)
    const planar = this.#isPlanar(bits)
    const fields = planar ? await unpackPlanes(words, groups, n, bits) : await unpack(words, groups, n, bits)
    const middle = 2 ** (bits - 1)
    // Planar files store zero points as v2 does.
    const version = planar || this.#config.version === "planar" ? "v2" : this.#config.version
    if (symmetric) {
      const found = isConstant(fields, middle - 1) ? "v1" : isConstant(fields, middle) ? "v2" : null
      if (found) {
        if (found !== version)
          this.#warnOnce(
            "version",
            `${name}: every zero point is stored as ${fields[0]}, which is GPTQ ${found}, although the configuration says ${version}; the values are believed`,
          )
        return null
      }
      this.#warnOnce(
        "symmetric",
        `${name}: the configuration says symmetric, yet the zero points differ; they are read as GPTQ ${version} and used`,
      )
    }
    if (version === "v2") return fields
    if (fields.includes(2 ** bits - 1))
      this.#warnOnce(
        "zero",
        `${name}: a zero point of 0 is stored in GPTQ v1, where writers and readers disagree; it is read modulo ${2 ** bits}, which may not be what the writer meant`,
      )
    return unpack(words, groups, n, bits, { add: 1 })
  }

  async #groupIndex(
    module: string,
    settings: GptqSettings,
    k: number,
    groupSize: number,
    groups: number,
  ): Promise<Int32Array | null> {
    const name = `${module}.g_idx`
    // Some loaders need the tensor; without it groups are consecutive.
    if (!this.#checkpoint.has(name)) return null
    expectEntry(this.#checkpoint, name, ["I32"], [k])
    const index = await readInts(this.#checkpoint, name)
    return readGroupIndex(index, groupSize, groups, settings.ordered, name, message => this.#warnOnce("order", message))
  }

  #warnOnce(kind: string, message: string): void {
    if (this.#warned.has(kind)) return
    this.#warned.add(kind)
    this.#warn(message)
  }
}

const isConstant = (fields: Uint8Array, value: number): boolean =>
  Buffer.compare(bytesOf(fields), Buffer.alloc(fields.length, value)) === 0
