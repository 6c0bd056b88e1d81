// Patterns that match a set of module names, short enough to read in a config.json and true for the engines that fuse layers.

/** Layers that vLLM and SGLang merge into one, under the merged name. */
const fusions: readonly [fused: string, parts: readonly string[]][] = [
  ["qkv_proj", ["q_proj", "k_proj", "v_proj"]],
  ["gate_up_proj", ["gate_proj", "up_proj"]],
]

/**
 * Parts of Mixtral's experts, and the names under which vLLM and SGLang look up the scheme of the layer that all experts are fused into
 * (get_moe_method of vLLM's compressed_tensors_moe.py): those of expert 0, which must be of one scheme.
 */
const expertParts: Readonly<Record<string, string>> = { w1: "gate_proj", w2: "down_proj", w3: "up_proj" }

/** In place of a number: any expert. No name holds it. */
const anyExpert = "\0"

const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replaceAll(anyExpert, "\\d+")

/** Names of experts that are all selected as one name for any of them. */
function withoutExperts(names: Iterable<string>, all: Iterable<string>): Set<string> {
  const keyOf = (name: string) => name.replace(/\.experts\.\d+\./, `.experts.${anyExpert}.`)
  const counts = new Map<string, number>()
  for (const name of all) counts.set(keyOf(name), (counts.get(keyOf(name)) ?? 0) + 1)
  const members = new Map<string, string[]>()
  for (const name of names) members.set(keyOf(name), [...(members.get(keyOf(name)) ?? []), name])
  return new Set([...members].flatMap(([key, own]) => (own.length === counts.get(key) ? [key] : own)))
}

/** `selected` and the fused names whose parts (all that exist) are selected. */
function withFused(selected: Iterable<string>, all: ReadonlySet<string>): Set<string> {
  const out = new Set(selected)
  for (const name of [...out])
    for (const [fused, parts] of fusions) {
      const part = parts.find(leaf => name.endsWith(`.${leaf}`))
      if (part === undefined) continue
      const parent = name.slice(0, -part.length)
      const present = parts.map(leaf => parent + leaf).filter(leaf => all.has(leaf))
      if (present.length > 1 && present.every(leaf => out.has(leaf))) out.add(parent + fused)
    }
  return out
}

/** Names of parts of experts as engines look them up, where models call them otherwise. */
export const expertNames = (names: Iterable<string>): string[] =>
  [...names].flatMap(name => {
    const [, front, leaf] = /^(.*\.experts\.[^.]+\.)([^.]+)$/.exec(name) ?? []
    const known = leaf && expertParts[leaf]
    return known ? [front + known] : []
  })

/** "model.layers.3.mlp.experts" where all linears of all experts are selected: of GPTQ's files vLLM looks up the layer they are fused into. */
function wholeExperts(selected: ReadonlySet<string>, all: ReadonlySet<string>): string[] {
  const parts = new Map<string, string[]>()
  for (const name of all) {
    const at = name.indexOf(".experts.")
    if (at < 0) continue
    const fused = name.slice(0, at + ".experts".length)
    parts.set(fused, [...(parts.get(fused) ?? []), name])
  }
  return [...parts].flatMap(([fused, names]) => (names.every(name => selected.has(name)) ? [fused] : []))
}

/** `selected` and what engines look up in their place. fused: layers by the names of what they are merged into. */
function withEngineNames(selected: ReadonlySet<string>, all: ReadonlySet<string>, fused: boolean): Set<string> {
  const names = new Set([...selected, ...expertNames(selected)])
  return fused ? new Set([...withFused(selected, all), ...names, ...wholeExperts(selected, all)]) : names
}

/** The fused names that engines will look for where all parts are selected. */
export function fusedNames(selected: readonly string[], all: ReadonlySet<string>): string[] {
  const given = new Set(selected)
  return [...withFused(selected, all)].filter(name => !given.has(name))
}

interface Template {
  /** Up to and with the dot before the layer number; from the dot after it to the dot before the leaf. */
  head: string
  middle: string
  leaf: string
  layer: string
}

/** Splits "model.layers.3.self_attn.q_proj" at its layer number; null where there is not exactly one number. */
function template(name: string): Template | null {
  const parts = name.split(".")
  const at = parts.findIndex(part => /^\d+$/.test(part))
  if (at < 1 || at === parts.length - 1 || parts.slice(at + 1).some(part => /^\d+$/.test(part))) return null
  const middle = parts.slice(at + 1, -1)
  return {
    head: `${parts.slice(0, at).join(".")}.`,
    middle: middle.length > 0 ? `.${middle.join(".")}.` : ".",
    leaf: parts.at(-1) as string,
    layer: parts[at] as string,
  }
}

/**
 * Anchored regular expressions, in the dialect that Python and JavaScript share, which together match exactly `selected`
 * among `all`; they match the names that engines give to parts of experts too, and with `fused` the merged names of fully selected parts.
 */
export function modulePatterns(selected: Iterable<string>, all: Iterable<string>, fused: boolean): string[] {
  const every = new Set(all)
  const everything = withoutExperts(every, every)
  const chosen = withoutExperts(selected, every)
  const names = withEngineNames(chosen, everything, fused)
  const layersOf = new Map<string, Set<string>>()
  const groups = new Map<string, { head: string; middle: string; leaves: Map<string, string[]> }>()
  const patterns: string[] = []
  for (const name of withEngineNames(everything, everything, fused)) {
    const split = template(name)
    if (!split) continue
    const key = `${split.head}#${split.middle}${split.leaf}`
    const layers = layersOf.get(key)
    if (layers) layers.add(split.layer)
    else layersOf.set(key, new Set([split.layer]))
  }
  for (const name of names) {
    const split = template(name)
    if (!split) {
      patterns.push(`^${escaped(name)}$`)
      continue
    }
    const key = `${split.head}#${split.middle}`
    const group = groups.get(key) ?? { head: split.head, middle: split.middle, leaves: new Map<string, string[]>() }
    groups.set(key, group)
    group.leaves.set(split.leaf, [...(group.leaves.get(split.leaf) ?? []), split.layer])
  }
  for (const [key, { head, middle, leaves }] of groups) {
    // Leaves chosen in the same layers share a pattern.
    const byLayers = new Map<string, string[]>()
    for (const [leaf, layers] of leaves) {
      const whole = layers.length === layersOf.get(key + leaf)?.size
      const numbers = whole ? "\\d+" : alternatives(layers.sort((a, b) => Number(a) - Number(b)))
      byLayers.set(numbers, [...(byLayers.get(numbers) ?? []), leaf])
    }
    for (const [numbers, shared] of byLayers)
      patterns.push(`^${escaped(head)}${numbers}${escaped(middle)}${alternatives(shared.sort().map(escaped))}$`)
  }
  return patterns
}

const alternatives = (choices: string[]) => (choices.length === 1 ? (choices[0] as string) : `(?:${choices.join("|")})`)
