// Who reads and who writes the residual stream of a program: what a rotation of the stream has to be folded into (QuaRot, arXiv 2404.00456,
// section 4; R1 and R2 in the naming of SpinQuant, arXiv 2405.16406).
//
// The stream may be turned by any orthogonal matrix where it only meets operations that commute with it: RMS norms whose weight moves into
// the linears behind them, linears, sums, the embedding and the head. This is read off the program: whatever else touches the stream is
// the reason why a model cannot be rotated.
import { TsqError } from "../core/errors.ts"
import type { ModelProgram, Op, Section } from "./program.ts"

/** A norm without mean over the whole stream; it multiplies with offset + its weight. */
export interface StreamNorm {
  /** null: it has no weight. */
  tensor: string | null
  offset: number
}

/** Keys and values of one attention: the heads of the value projection may be turned, and the columns of what reads the output with them. */
export interface ValueHeads {
  source: string
  targets: readonly string[]
  headDim: number
}

/** Names relative to the section's prefix. */
export interface StreamAccess {
  /** Embedding tables, whose rows enter the stream. */
  tables: readonly string[]
  /** Linears (and the head) that read the stream, behind a norm or not. */
  readers: readonly { module: string; norm: StreamNorm | null }[]
  /** Linears whose outputs are added to the stream. */
  writers: readonly string[]
  norms: readonly StreamNorm[]
  values: readonly ValueHeads[]
}

/** What a slot holds: the stream, the stream behind a norm, a sum of linears' outputs, or anything else. */
type Held =
  | { is: "stream" }
  | { is: "normed"; norm: StreamNorm }
  | { is: "outputs"; of: readonly string[] }
  | { is: "other"; why: string }

/** By section. ERR_UNSUPPORTED, with the operation that stands in the way, for a program whose stream cannot be rotated. */
export function streamAccess(program: ModelProgram): StreamAccess[] {
  const { sections, config, slots } = program
  return sections.map((section, index) => {
    const walk = new StreamWalk(section, slots[0]!, config.architecture)
    if (index > 0) walk.held.set(0, { is: "stream" })
    for (const op of section.ops) walk.step(op)
    return walk.finish(index < sections.length - 1)
  })
}

class StreamWalk {
  readonly held = new Map<number, Held>()
  readonly #section: Section
  readonly #width: number
  readonly #architecture: string
  readonly #tables: string[] = []
  readonly #readers: { module: string; norm: StreamNorm | null }[] = []
  readonly #writers = new Set<string>()
  readonly #norms: StreamNorm[] = []
  /** Linears whose output is looked at in its own coordinates. */
  readonly #looked = new Set<string>()

  constructor(section: Section, width: number, architecture: string) {
    this.#section = section
    this.#width = width
    this.#architecture = architecture
  }

  step(op: Op): void {
    const inputs = op.in.map(slot => this.held.get(slot) ?? { is: "other" as const, why: "an unset slot" })
    this.#write(op, this.#result(op, inputs))
  }

  #write({ out }: Op, held: Held): void {
    if (out >= 0) this.held.set(out, held)
  }

  #result(op: Op, inputs: readonly Held[]): Held {
    switch (op.kind) {
      case "embed":
        this.#tables.push(...this.#modules(op))
        return { is: "stream" }
      case "rmsNorm":
        return this.#norm(op, inputs[0]!)
      case "linear":
      case "logits":
        return this.#read(this.#modules(op), inputs[0]!)
      case "experts":
        this.#look(inputs[1]!)
        return this.#read(this.#modules(op), inputs[0]!)
      case "gather":
      case "combine":
        // Rows go to their experts and are summed up again, weighted: coordinates stay what they are.
        this.#look(inputs[1]!)
        return inputs[0]!
      case "add":
        return this.#add(inputs[0]!, inputs[1]!)
      default:
        return this.#plain(op, inputs)
    }
  }

  #read(modules: readonly string[], input: Held): Held {
    if (input.is === "stream" || input.is === "normed") {
      const norm = input.is === "normed" ? input.norm : null
      for (const module of modules) this.#readers.push({ module, norm })
    } else this.#look(input)
    return { is: "outputs", of: modules }
  }

  #norm(op: Op, input: Held): Held {
    const [, segments = 1, offset = 0] = op.p
    if (input.is !== "stream") return this.#plain(op, [input])
    if (segments !== 1) this.#refuse(`${this.#describe(op)} norms parts of the residual stream by themselves`)
    const weight = this.#section.weights[op.weights[0] ?? -1]
    const norm = { tensor: weight?.kind === "vector" ? weight.tensor : null, offset: weight ? offset : 0 }
    this.#norms.push(norm)
    return { is: "normed", norm }
  }

  #add(a: Held, b: Held): Held {
    if (a.is === "outputs" && b.is === "outputs") return { is: "outputs", of: [...a.of, ...b.of] }
    if (a.is !== "stream" && b.is !== "stream") {
      for (const held of [a, b]) {
        if (held.is === "normed") this.#refuse("a norm of the residual stream is added to something")
        this.#look(held)
      }
      return { is: "other", why: "a sum" }
    }
    for (const held of [a, b]) {
      if (held.is === "outputs") for (const module of held.of) this.#writers.add(module)
      else if (held.is === "other") this.#refuse(`${held.why} is added to the residual stream`)
      else if (held.is === "normed") this.#refuse("the residual stream behind a norm is added to it")
    }
    return { is: "stream" }
  }

  /** Anything that works on elements: its inputs must be in their own coordinates. */
  #plain(op: Op, inputs: readonly Held[]): Held {
    for (const held of inputs) {
      if (held.is === "stream" || held.is === "normed")
        this.#refuse(`${this.#describe(op)} reads the residual stream, and changes with the stream's coordinates`)
      this.#look(held)
    }
    return { is: "other", why: `the output of ${this.#describe(op)}` }
  }

  #look(held: Held): void {
    if (held.is === "outputs") for (const module of held.of) this.#looked.add(module)
  }

  /** Of a linear, or those of all experts. */
  #modules(op: Op): string[] {
    const matrices = op.kind === "linear" || op.kind === "logits" ? op.weights.slice(0, 1) : op.weights
    return matrices.map(index => {
      const weight = this.#section.weights[index]
      if (weight?.kind !== "linear") this.#refuse(`${op.kind} has a weight that is no matrix`)
      if (weight.transposed) this.#refuse(`${weight.module} is stored with rows and columns exchanged`)
      return weight.module
    })
  }

  #describe(op: Op): string {
    const weight = this.#section.weights[op.weights[0] ?? -1]
    if (weight?.kind === "vector") return weight.tensor
    if (weight?.kind === "linear") return weight.module
    return op.kind
  }

  #refuse(why: string): never {
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `transform "hadamard" does not leave the function of ${this.#architecture} models unchanged: ${why}; leave the transform out`,
    )
  }

  finish(continues: boolean): StreamAccess {
    if (continues && this.held.get(0)?.is !== "stream")
      this.#refuse("what a block hands on is not the residual stream alone")
    for (const module of this.#writers)
      if (this.#looked.has(module)) this.#refuse(`${module} feeds more than the residual stream`)
    for (const slot of this.#section.weights)
      if (slot.kind === "linear" && this.#writers.has(slot.module) && slot.n !== this.#width)
        this.#refuse(`${slot.module} is not as wide as the residual stream`)
    return {
      tables: this.#tables,
      readers: this.#readers,
      writers: [...this.#writers],
      norms: this.#norms,
      values: valueHeads(this.#section),
    }
  }
}

/** Attentions whose values come straight from a linear and whose output feeds linears only. */
function valueHeads({ ops, weights }: Section): ValueHeads[] {
  const moduleOf = (op: Op | undefined) => {
    const weight = op?.kind === "linear" ? weights[op.weights[0]!] : undefined
    return weight?.kind === "linear" ? weight : null
  }
  return ops.flatMap((op, index) => {
    if (op.kind !== "attention") return []
    const [heads, kvHeads, headDim] = op.p as [number, number, number]
    const value = op.in[2]!
    const source = moduleOf(ops.slice(0, index).findLast(({ out }) => out === value))
    const readers = ops.slice(index + 1).filter(other => other.in.includes(op.out))
    const targets = readers.map(moduleOf)
    const alone = ops.filter(other => other.in.includes(value)).length === 1
    if (!source || !alone || source.n !== kvHeads * headDim || targets.length === 0) return []
    if (targets.some(target => target?.k !== heads * headDim)) return []
    return [{ source: source.module, targets: targets.map(target => target!.module), headDim }]
  })
}
