// Names and keys of models in several files. Source: ggml-org/llama.cpp, tools/gguf-split.

export const splitKeys = { number: "split.no", count: "split.count", tensors: "split.tensors.count" } as const

/** Parts that a name has digits for. */
export const maxParts = 65_535

const digits = (index: number) => String(index).padStart(5, "0")

/** The file of a part, counted from 0. */
export const partName = (prefix: string, part: number, count: number): string =>
  `${prefix}-${digits(part + 1)}-of-${digits(count)}.gguf`

/** What the name of a part says; null where it is no such name. */
export function splitName(path: string): { prefix: string; index: number; count: number } | null {
  const match = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/s.exec(path)
  if (!match) return null
  const [, prefix, number, count] = match as unknown as [string, string, string, string]
  return Number(number) < 1 ? null : { prefix, index: Number(number) - 1, count: Number(count) }
}
