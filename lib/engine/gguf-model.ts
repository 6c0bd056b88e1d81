// A GGUF file as loading sees a model: configuration, weights, tokenizer and defaults.
import { Gguf } from "../containers/gguf.ts"
import { TsqError } from "../core/errors.ts"
import { decodeBlocks } from "../formats/gguf-blocks.ts"
import { type GenerationDefaults, plainGeneration } from "../models/generation-config.ts"
import { configOfGguf } from "../models/gguf-config.ts"
import { GgufLayout } from "../models/gguf-layout.ts"
import { isRopeFactors } from "../models/gguf-names.ts"
import { tokenizerOfGguf } from "../models/gguf-tokenizer.ts"
import { describeModel } from "../models/registry.ts"
import { Tokenizer } from "../models/tokenizer.ts"
import { GgufSource } from "./gguf-source.ts"

export class GgufModel {
  /** What config.json would hold. */
  readonly config: Record<string, unknown>
  readonly weights: GgufSource
  readonly gguf: Gguf

  private constructor(gguf: Gguf, config: Record<string, unknown>, layout: GgufLayout) {
    this.gguf = gguf
    this.config = config
    this.weights = new GgufSource(gguf, layout)
  }

  /** Any part of a split model opens all of it. */
  static async open(path: string): Promise<GgufModel> {
    return GgufModel.of(await Gguf.open(path))
  }

  /** Takes the file over. */
  static async of(gguf: Gguf): Promise<GgufModel> {
    const { path } = gguf
    try {
      const computed = new Map<string, Float32Array>()
      for (const [name, entry] of gguf.entries)
        if (isRopeFactors(name)) computed.set(name, await decodeBlocks(entry, gguf.mapped(name)))
      const config = configOfGguf(gguf.metadata, { has: name => gguf.entries.has(name), computed }, path)
      const program = describeModel(config)
      const layout = new GgufLayout(program.config)
      const isRead = layout.readBy(program)
      const foreign = [...gguf.entries.keys()].filter(name => !isRead(name) && !isRopeFactors(name))
      if (foreign.length > 0)
        throw new TsqError(
          "ERR_UNSUPPORTED",
          `${path}: tensor ${JSON.stringify(foreign[0])}${foreign.length > 1 ? ` and ${foreign.length - 1} more` : ""} would not be used: the model computes something that this version does not`,
        )
      return new GgufModel(gguf, config, layout)
    } catch (error) {
      gguf.dispose()
      throw error
    }
  }

  async tokenizer(): Promise<Tokenizer> {
    const { metadata, path } = this.gguf
    const { json, config, templates } = tokenizerOfGguf(metadata, path)
    // Made again where a text is encoded in a worker: a large vocabulary would be held twice for that.
    let first: Record<string, unknown> | null = json
    const make = () => {
      const made = first ?? tokenizerOfGguf(metadata, path).json
      first = null
      return made
    }
    const tokenizer = new Tokenizer(path, make, config, templates)
    tokenizer.build()
    return tokenizer
  }

  /** The format has no place for them. */
  async generationDefaults(): Promise<GenerationDefaults> {
    return plainGeneration()
  }

  dispose(): void {
    this.gguf.dispose()
  }
}
