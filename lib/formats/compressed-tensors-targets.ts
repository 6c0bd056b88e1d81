// What targets and ignore lists of compressed-tensors name: a module's path, its class, or re:<pattern>.
import { NamePattern } from "./name-pattern.ts"

export interface Target {
  text: string
  pattern: NamePattern | null
}

export const parseTarget = (text: string, key: string): Target => ({
  text,
  pattern: text.startsWith("re:") ? new NamePattern(text.slice(3), key) : null,
})

export function matches(target: Target, module: string): "name" | "class" | null {
  if (target.pattern ? target.pattern.test(module) : target.text === module) return "name"
  return target.pattern === null && target.text === className(module) ? "class" : null
}

/** The class that targets name. Checkpoints do not store it; the names of embeddings give them away. */
export const className = (module: string): "Embedding" | "Linear" =>
  /(^|\.)(embed_tokens|wte|word_embeddings)$/.test(module) ? "Embedding" : "Linear"
