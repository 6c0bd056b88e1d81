// What the machine can do at most, measured in the same run as the kernels: bytes read from memory and operations of each
// instruction. A kernel's roof is the time in which nothing could be faster.
import { type Instruction, NativeHandle, native, type ReadPattern } from "../native.ts"
import { warmMs } from "./rounds.ts"
import { median, type Summary, summarize } from "./statistics.ts"

/** An instruction that a kernel may be made of; `passes`: products it takes for one of the wanted accuracy. */
export interface Unit {
  instruction: Instruction
  passes: number
}

const units = (instruction: Instruction, passes = 1): Unit => ({ instruction, passes })

// Of each kernel table: what multiplies exact f32, f16 and bf16 activations, and int8 ones. A f32 number is the sum of three
// bf16, a f16 number of two: exact products of bf16 take as many passes.
const tables: Record<string, { f32: Instruction; bf16?: Instruction; int8: Instruction }> = {
  reference: { f32: "fma-ymm", int8: "maddubs-ymm" },
  avx2: { f32: "fma-ymm", int8: "maddubs-ymm" },
  avxvnni: { f32: "fma-ymm", int8: "vnni-ymm" },
  avx512: { f32: "fma-zmm", int8: "maddubs-zmm" },
  avx512vnni: { f32: "fma-zmm", int8: "vnni-zmm" },
  avx512bf16: { f32: "fma-zmm", bf16: "bf16-zmm", int8: "vnni-zmm" },
  amx: { f32: "fma-zmm", bf16: "amx-bf16", int8: "amx-int8" },
  neon: { f32: "fma-neon", int8: "mull-neon" },
  "neon-dotprod": { f32: "fma-neon", int8: "dot-neon" },
  "neon-i8mm": { f32: "fma-neon", int8: "mmla-neon" },
  "neon-bf16": { f32: "fma-neon", bf16: "bfmmla-neon", int8: "mmla-neon" },
}

/** What kernels of a table may be made of, for these activations. Only what can be measured here. */
export function unitsOf(isa: string, activations: "exact" | "int8", dtype: "f32" | "f16" | "bf16"): Unit[] {
  const table = tables[isa]
  if (!table) return []
  const found =
    activations === "int8"
      ? [units(table.int8)]
      : [units(table.f32), ...(table.bf16 ? [units(table.bf16, { bf16: 1, f16: 2, f32: 3 }[dtype])] : [])]
  const here = native.peakInstructions()
  return found.filter(({ instruction }) => here.includes(instruction))
}

/** The best that this processor has for a library that chooses for itself. */
export function bestUnits(activations: "exact" | "int8"): Unit[] {
  const wanted: Instruction[] =
    activations === "int8"
      ? ["vnni-zmm", "vnni-ymm", "maddubs-ymm", "mmla-neon", "dot-neon", "mull-neon"]
      : ["fma-zmm", "fma-ymm", "fma-neon"]
  const here = native.peakInstructions()
  const best = wanted.find(instruction => here.includes(instruction))
  return best ? [units(best)] : []
}

export interface RoofOptions {
  /** Memory that is read, larger than the last-level cache. */
  bytes: number
  /** Bytes of one measurement. */
  readBytes: number
  peakMs: number
}

// createReadProbe's limit.
const largestProbe = 2 ** 30

/** Measures with the threads that are set when it is asked to; keeps every value. */
export class RoofProbe {
  readonly #memory: NativeHandle
  readonly #options: RoofOptions
  #offset = 0
  #pattern: ReadPattern = 0

  private constructor(memory: NativeHandle, options: RoofOptions) {
    this.#memory = memory
    this.#options = options
  }

  static async create(options: RoofOptions): Promise<RoofProbe> {
    const bytes = Math.min(Math.max(options.bytes, options.readBytes), largestProbe)
    const handle = await native.createReadProbe(bytes)
    return new RoofProbe(new NativeHandle(handle, "the read probe"), { ...options, bytes })
  }

  /** Finds the fastest way of asking for memory; call it whenever the number of threads changes. */
  tune(): ReadPattern {
    const patterns: ReadPattern[] = [0, 1, 2, 3]
    for (const pattern of patterns) this.#read(pattern) // first touch, cold threads
    const speeds = patterns.map(pattern => median(Array.from({ length: 3 }, () => this.#read(pattern))))
    this.#pattern = patterns[speeds.indexOf(Math.max(...speeds))]!
    return this.#pattern
  }

  /** GB/s of the next part of the memory, when the machine has come up to speed. */
  read(): number {
    const start = performance.now()
    while (performance.now() - start < warmMs) this.#read(this.#pattern)
    return this.#read(this.#pattern)
  }

  #read(pattern: ReadPattern): number {
    const { bytes, readBytes } = this.#options
    if (this.#offset + readBytes > bytes) this.#offset = 0
    const speed = native.measureRead(this.#memory.value, this.#offset, readBytes, pattern)
    this.#offset += Math.ceil(readBytes / 256) * 256
    return speed
  }

  /** 1e9 operations a second. */
  peak(instruction: Instruction): number {
    return native.measurePeak(instruction, this.#options.peakMs)
  }

  dispose(): void {
    this.#memory.dispose()
  }
}

/** The roofs of one cell: measured once a round, beside the kernels. */
export class CellRoofs {
  readonly #probe: RoofProbe
  readonly #reads: number[] = []
  readonly #peaks = new Map<Instruction, number[]>()

  constructor(probe: RoofProbe, instructions: Iterable<Instruction>) {
    this.#probe = probe
    for (const instruction of instructions) this.#peaks.set(instruction, [])
  }

  measure(): void {
    this.#reads.push(this.#probe.read())
    for (const [instruction, values] of this.#peaks) values.push(this.#probe.peak(instruction))
  }

  get readGBps(): Summary {
    return summarize(this.#reads)
  }

  get peaks(): { instruction: Instruction; gops: Summary }[] {
    return [...this.#peaks].map(([instruction, values]) => ({ instruction, gops: summarize(values) }))
  }

  /** The fastest of the units; null where none can be measured here. */
  peakOf(candidates: readonly Unit[]): { instruction: Instruction; gops: number } | null {
    let best: { instruction: Instruction; gops: number } | null = null
    for (const { instruction, passes } of candidates) {
      const values = this.#peaks.get(instruction)
      if (!values) continue
      const gops = median(values) / passes
      if (!best || gops > best.gops) best = { instruction, gops }
    }
    return best
  }
}

export interface Roof {
  /** Milliseconds in which the bytes can be read and the operations done, whichever takes longer. */
  ms: number
  bound: "memory" | "compute"
}

/** Bytes at GB/s, operations at 1e9 a second. */
export function roofOf(bytes: number, operations: number, readGBps: number, peakGops: number | null): Roof {
  const memory = bytes / readGBps / 1e6
  const compute = peakGops === null ? 0 : operations / peakGops / 1e6
  return memory >= compute ? { ms: memory, bound: "memory" } : { ms: compute, bound: "compute" }
}
