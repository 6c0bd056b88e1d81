// A Hugging Face checkpoint folder: config.json, one or several safetensors files, and what travels along.
import { readdir, readFile, stat } from "node:fs/promises"
import { join } from "node:path"
import { type Dtype, dtypeInfo, isFloat } from "../core/dtype.ts"
import { ioError, TsqError } from "../core/errors.ts"
import { elementCount, sharedArray, sharedBytes, sharedFloats, Tensor } from "../core/tensor.ts"
import { type Mapped, native } from "../native.ts"
import { describe, editJson, isObject, parseJsonObject } from "./json.ts"
import { SafetensorsFile, type TensorEntry } from "./safetensors.ts"

const tensorTypes: ReadonlyMap<string, Dtype> = new Map([
  ["F32", "f32"],
  ["F16", "f16"],
  ["BF16", "bf16"],
  ["I8", "i8"],
  ["U8", "u8"],
  ["I32", "i32"],
])

/** Files that hold the quantization settings of older writers, most specific first. */
const settingsFiles = ["quantize_config.json", "quant_config.json", "hf_quant_config.json"]

/** What stands in the place of a stored tensor. */
interface Computed {
  /** Type that holds the values. */
  type: "f32" | "f16" | "bf16"
  values: () => Promise<Float32Array>
}

export class Checkpoint {
  readonly directory: string
  #config: Record<string, unknown>
  #configText: string
  /** From config.json, or from a file of older writers as a fallback; null when the checkpoint is not quantized. */
  readonly quantizationConfig: Record<string, unknown> | null
  readonly #entries: Map<string, TensorEntry>
  /** Tensors that read as another one. */
  readonly #aliases = new Map<string, string>()
  readonly #computed = new Map<string, Computed>()
  readonly #files: SafetensorsFile[]
  readonly #companions: readonly string[]

  private constructor(
    directory: string,
    config: Config,
    files: SafetensorsFile[],
    entries: Map<string, TensorEntry>,
    companions: string[],
  ) {
    this.directory = directory
    this.#config = config.config
    this.#configText = config.text
    this.quantizationConfig = config.quantization
    this.#files = files
    this.#entries = entries
    this.#companions = companions
  }

  /** ERR_IO for what is missing or unreadable, ERR_FORMAT and ERR_CORRUPT for what breaks a rule. */
  static async open(directory: string): Promise<Checkpoint> {
    if (typeof directory !== "string" || directory === "")
      throw new TsqError(
        "ERR_OPTION",
        `the checkpoint is ${describe(directory)}, expected the path of a Hugging Face checkpoint folder`,
      )
    if (directory.endsWith(".gguf"))
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${directory}: a GGUF file is run, inspected and converted, but no checkpoint folder, which is expected here; "tsq convert --format dense" makes one`,
      )
    const listing = await list(directory)
    const config = await readConfig(directory, listing)
    const files: SafetensorsFile[] = []
    try {
      const entries = await openWeights(directory, listing, files)
      return new Checkpoint(directory, config, files, entries, await companions(directory, listing))
    } catch (error) {
      for (const file of files) file.dispose()
      throw error
    }
  }

  get config(): Record<string, unknown> {
    return this.#config
  }

  /** config.json as it is written; edit this, with editJson, so that number lexemes survive. */
  get configText(): string {
    return this.#configText
  }

  get names(): readonly string[] {
    return [...this.#entries.keys()]
  }

  has(name: string): boolean {
    return this.#entries.has(name)
  }

  /** ERR_FORMAT when there is no such tensor. */
  entry(name: string): TensorEntry {
    const entry = this.#entries.get(name)
    if (!entry)
      throw new TsqError(
        "ERR_FORMAT",
        `${this.directory}: tensor ${name} is missing; the checkpoint is incomplete or of another architecture than its config.json says`,
      )
    return entry
  }

  /** The tensor, mapped. ERR_DTYPE for element types other than F32, F16, BF16, I8, U8 and I32. */
  tensor(name: string): Tensor {
    return tensorOf(this.#stored(name), this.directory)
  }

  /** The tensor: mapped, or in the type of what is computed in its place. ERR_DTYPE as tensor(). */
  async load(name: string): Promise<Tensor> {
    const computed = this.#computed.get(name)
    if (!computed) return this.tensor(name)
    return Tensor.from(await computed.values(), this.entry(name).shape).cast(computed.type)
  }

  /** A copy as f32 on shared memory. ERR_DTYPE when the tensor is not of floats. */
  async floats(name: string): Promise<Float32Array> {
    return this.#computed.get(name)?.values() ?? this.storedFloats(name)
  }

  /** What the file holds, whatever is computed in its place. */
  async storedFloats(name: string): Promise<Float32Array> {
    return floatsOf(this.entry(name), this.directory)
  }

  /** The float type that a tensor is stored in. ERR_DTYPE where it is not of floats. */
  floatType(name: string): "f32" | "f16" | "bf16" {
    const { dtype } = this.entry(name)
    const type = tensorTypes.get(dtype)
    if (type === "f32" || type === "f16" || type === "bf16") return type
    throw new TsqError("ERR_DTYPE", `${this.directory}: tensor ${name} is ${dtype}, expected F32, F16 or BF16`)
  }

  /**
   * From now on `values` (f32 on shared memory, the caller's to keep, all of them values of `type`) stand in the place of what the file holds,
   * in floats() and load(). Shape and stored type stay; the stored bytes are not given out any more.
   */
  compute(name: string, type: Computed["type"], values: Computed["values"]): void {
    this.#computed.set(this.entry(name).name, { type, values })
  }

  isComputed(name: string): boolean {
    return this.#computed.has(name)
  }

  /** From now on there is a tensor `name` that reads as `of` does, or as what replaces it. */
  alias(name: string, of: string): void {
    this.#entries.set(name, { ...this.entry(of), name })
    this.#aliases.set(name, of)
  }

  isAlias(name: string): boolean {
    return this.#aliases.has(name)
  }

  /** From now on config.json reads with these keys changed. */
  editConfig(edits: Readonly<Record<string, unknown>>): void {
    this.#configText = editJson(this.#configText, edits)
    this.#config = { ...this.#config, ...edits }
  }

  #stored(name: string): TensorEntry {
    if (this.#computed.has(name))
      throw new TsqError("ERR_UNSUPPORTED", `${this.directory}: tensor ${name} is computed and has no stored bytes`)
    return this.entry(name)
  }

  /** From now on reads the tensors of `file` in the place of those of the same names, all of which exist; disposes of it at the end. */
  replace(file: SafetensorsFile): void {
    this.#files.push(file)
    for (const [name, entry] of file.entries) if (this.entry(name)) this.#entries.set(name, entry)
    for (const [name, of] of this.#aliases)
      if (file.entries.has(of)) this.#entries.set(name, { ...this.entry(of), name })
  }

  /** A copy of the stored bytes on shared memory. */
  async readBytes(name: string): Promise<Uint8Array> {
    const entry = this.#stored(name)
    const out = sharedBytes(entry.bytes)
    if (entry.bytes > 0) await native.readMappingAsync(entry.file.mapping.value, entry.offset, out)
    return out
  }

  /** Paths, relative to the folder, of everything that is neither weights nor configuration: tokenizer, templates, licence … */
  companionFiles(): string[] {
    return [...this.#companions]
  }

  /** The stored bytes where they lie, at any alignment, until this is disposed. */
  mapped(name: string): Mapped {
    const { file, offset, bytes } = this.#stored(name)
    return { mapping: file.mapping.value, offset, bytes }
  }

  /** Unmaps the files. Tensors from here cannot be used afterwards. */
  dispose(): void {
    for (const file of this.#files) file.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/** A tensor of a file, mapped. `where` names the file or its folder in errors. */
function tensorOf(entry: TensorEntry, where: string): Tensor {
  const dtype = tensorTypes.get(entry.dtype)
  if (dtype === undefined)
    throw new TsqError(
      "ERR_DTYPE",
      `${where}: tensor ${entry.name} is ${entry.dtype}, expected one of ${[...tensorTypes.keys()].join(", ")}`,
    )
  // The container does not align tensors; one at an odd address is copied.
  if (entry.offset % dtypeInfo(dtype).bytes !== 0) {
    const copy = sharedArray(dtype, elementCount(entry.shape, entry.name))
    native.readMapping(entry.file.mapping.value, entry.offset, new Uint8Array(copy.buffer))
    return Tensor.from(copy, entry.shape, dtype)
  }
  return Tensor.fromMapping(entry.file.mapping, entry.offset, entry.shape, dtype)
}

/** A copy of a tensor of a file as f32 on shared memory. ERR_DTYPE when it is not of floats. */
export async function floatsOf(entry: TensorEntry, where: string): Promise<Float32Array> {
  const tensor = tensorOf(entry, where)
  if (!isFloat(tensor.dtype))
    throw new TsqError("ERR_DTYPE", `${where}: tensor ${entry.name} is ${entry.dtype}, expected F32, F16 or BF16`)
  const out = sharedFloats(tensor.size)
  if (tensor.size > 0)
    await native.convertAsync(tensor.source, dtypeInfo(tensor.dtype).code, out, dtypeInfo("f32").code, tensor.size)
  return out
}

async function list(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).sort()
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code
    if (code === "ENOENT")
      throw new TsqError("ERR_IO", `${directory}: there is no such folder; expected a Hugging Face checkpoint folder`, {
        cause,
      })
    if (code === "ENOTDIR")
      throw new TsqError("ERR_IO", `${directory}: is a file, expected a Hugging Face checkpoint folder`, { cause })
    throw ioError("read", directory, cause)
  }
}

async function readJson(path: string): Promise<{ text: string; value: Record<string, unknown> }> {
  let text: string
  try {
    text = await readFile(path, "utf8")
  } catch (cause) {
    throw ioError("read", path, cause)
  }
  return { text, value: parseJsonObject(text, path) }
}

interface Config {
  text: string
  config: Record<string, unknown>
  quantization: Record<string, unknown> | null
}

async function readConfig(directory: string, listing: string[]): Promise<Config> {
  if (!listing.includes("config.json"))
    throw new TsqError("ERR_FORMAT", `${directory}: has no config.json; expected a Hugging Face checkpoint folder`)
  const path = join(directory, "config.json")
  const { text, value: config } = await readJson(path)
  // compressed-tensors called the key compression_config at first.
  const declared = config.quantization_config ?? config.compression_config ?? null
  if (declared !== null && !isObject(declared))
    throw new TsqError("ERR_FORMAT", `${path}: quantization_config is ${describe(declared)}, expected an object`)
  if (declared !== null) return { text, config, quantization: declared }
  const file = settingsFiles.find(name => listing.includes(name))
  return { text, config, quantization: file ? (await readJson(join(directory, file))).value : null }
}

/** Opens the weight files, pushed to `files` at once so that the caller can close them after an error. */
async function openWeights(
  directory: string,
  listing: string[],
  files: SafetensorsFile[],
): Promise<Map<string, TensorEntry>> {
  const index = "model.safetensors.index.json"
  // As in transformers, the single file wins over an index that was left behind.
  if (!listing.includes("model.safetensors") && listing.includes(index))
    return openShards(directory, listing, await readJson(join(directory, index)).then(json => json.value), files)
  const file = await openFile(directory, singleFile(directory, listing), files)
  return new Map(file.entries)
}

function singleFile(directory: string, listing: string[]): string {
  if (listing.includes("model.safetensors")) return "model.safetensors"
  const found = listing.filter(name => name.endsWith(".safetensors"))
  if (found.length === 1) return found[0] as string
  if (found.length > 1)
    throw new TsqError(
      "ERR_FORMAT",
      `${directory}: has ${found.length} safetensors files and no model.safetensors.index.json that says what lies where; the download is incomplete`,
    )
  const other = listing.find(name => /\.(bin|pt|pth|h5|msgpack)$/.test(name))
  if (other)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${directory}: its weights are in ${other}; only safetensors files are read: convert them with save_pretrained(…, safe_serialization=True)`,
    )
  throw new TsqError("ERR_FORMAT", `${directory}: has no model.safetensors and no model.safetensors.index.json`)
}

async function openFile(directory: string, name: string, files: SafetensorsFile[]): Promise<SafetensorsFile> {
  const file = await SafetensorsFile.open(join(directory, name))
  files.push(file)
  return file
}

async function openShards(
  directory: string,
  listing: string[],
  index: Record<string, unknown>,
  files: SafetensorsFile[],
): Promise<Map<string, TensorEntry>> {
  const path = join(directory, "model.safetensors.index.json")
  const map = index.weight_map
  if (!isObject(map)) throw new TsqError("ERR_FORMAT", `${path}: weight_map is ${describe(map)}, expected an object`)
  const shards = new Map<string, string[]>()
  for (const [tensor, file] of Object.entries(map)) {
    if (typeof file !== "string" || !/^[^/\\]+\.safetensors$/.test(file) || file.includes(".."))
      throw new TsqError(
        "ERR_FORMAT",
        `${path}: tensor ${tensor} is said to lie in ${describe(file)}, expected the name of a .safetensors file in the same folder`,
      )
    const tensors = shards.get(file)
    if (tensors) tensors.push(tensor)
    else shards.set(file, [tensor])
  }
  const missing = [...shards.keys()].filter(file => !listing.includes(file))
  if (missing.length > 0)
    throw new TsqError(
      "ERR_IO",
      `${directory}: ${missing.length} of ${shards.size} shards are missing (${missing.slice(0, 3).join(", ")}${missing.length > 3 ? " …" : ""}); download them again`,
    )
  const entries = new Map<string, TensorEntry>()
  for (const [name, tensors] of [...shards].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const file = await openFile(directory, name, files)
    for (const tensor of tensors)
      if (!file.entries.has(tensor))
        throw new TsqError("ERR_FORMAT", `${path}: tensor ${tensor} should lie in ${name}, which does not hold it`)
    for (const [tensor, entry] of file.entries) {
      const other = entries.get(tensor)
      if (other)
        throw new TsqError(
          "ERR_FORMAT",
          `${directory}: tensor ${tensor} lies in two shards, ${other.file.path} and ${file.path}`,
        )
      entries.set(tensor, entry)
    }
  }
  return entries
}

/** Weights and their indexes, settings that a converted checkpoint gets anew, and what only this project writes. */
const notCompanions = [
  /^config\.json$/,
  /\.(safetensors|bin|pt|pth|h5|msgpack|gguf|onnx|npz|ckpt)$/,
  /\.(safetensors|bin|h5)\.index\.json$/,
  /^(quantize_config|quant_config|hf_quant_config|quantization-report)\.json$/,
  /^\./,
]

async function companions(directory: string, listing: string[]): Promise<string[]> {
  const found: string[] = []
  for (const name of listing) {
    if (notCompanions.some(pattern => pattern.test(name))) continue
    const isDirectory = await stat(join(directory, name)).then(
      entry => entry.isDirectory(),
      cause => {
        throw ioError("read", join(directory, name), cause)
      },
    )
    if (!isDirectory) found.push(name)
    else if (name === "additional_chat_templates")
      for (const inner of await list(join(directory, name))) if (!inner.startsWith(".")) found.push(`${name}/${inner}`)
  }
  return found
}
