// A GGUF file as loading sees a model: configuration, weights, tokenizer and defaults.
import { Gguf } from "../containers/gguf.ts"
import { decodeBlocks } from "../formats/gguf-blocks.ts"
import { type GenerationDefaults, plainGeneration } from "../models/generation-config.ts"
import { configOfGguf } from "../models/gguf-config.ts"
import { ropeFreqsName } from "../models/gguf-names.ts"
import { tokenizerOfGguf } from "../models/gguf-tokenizer.ts"
import { Tokenizer } from "../models/tokenizer.ts"
import { GgufSource } from "./gguf-source.ts"

export class GgufModel {
  /** What config.json would hold. */
  readonly config: Record<string, unknown>
  readonly weights: GgufSource
  readonly #gguf: Gguf

  private constructor(gguf: Gguf, config: Record<string, unknown>) {
    this.#gguf = gguf
    this.config = config
    const architecture = gguf.metadata.get("general.architecture")?.value as string
    this.weights = new GgufSource(gguf, { architecture, headDim: config.head_dim as number })
  }

  /** Any part of a split model opens all of it. */
  static async open(path: string): Promise<GgufModel> {
    const gguf = await Gguf.open(path)
    try {
      const factors = gguf.entries.get(ropeFreqsName)
      const ropeFactors = factors ? await decodeBlocks(factors, gguf.mapped(ropeFreqsName)) : null
      const has = (name: string) => gguf.entries.has(name)
      return new GgufModel(gguf, configOfGguf(gguf.metadata, { has, ropeFactors }, path))
    } catch (error) {
      gguf.dispose()
      throw error
    }
  }

  async tokenizer(): Promise<Tokenizer> {
    const { json, config, templates } = tokenizerOfGguf(this.#gguf.metadata, this.#gguf.path)
    return new Tokenizer(this.#gguf.path, json, config, templates)
  }

  /** The format has no place for them. */
  async generationDefaults(): Promise<GenerationDefaults> {
    return plainGeneration()
  }

  dispose(): void {
    this.#gguf.dispose()
  }
}
