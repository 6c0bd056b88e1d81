// Sizes as people write them.

const units: Record<string, number> = {
  "": 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  t: 1e12,
  ki: 2 ** 10,
  mi: 2 ** 20,
  gi: 2 ** 30,
  ti: 2 ** 40,
}

/** "4GB", "1.5g", "512MiB" or a number of bytes; null for what is none of these. */
export function parseByteSize(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?$/i.exec(text.trim())
  const unit = match ? units[match[2]!.toLowerCase()] : undefined
  return match && unit !== undefined ? Math.round(Number(match[1]) * unit) : null
}
