// The options of the kernel benchmark: names, lists and ranges, checked once.
import { TsqError } from "../core/errors.ts"
import { closest, describe, listChoices, Options } from "../core/options.ts"
import type { LongWork } from "../core/progress.ts"
import type { IntegerScheme } from "../core/scheme.ts"
import { native } from "../native.ts"
import type { OrtVariant } from "./backend-ort.ts"
import type { FloatDtype } from "./samples.ts"
import { chooseShapes, type ShapeChoice } from "./shapes.ts"

/** Everything that can be measured; "ort-acc4-b128": MatMulNBits with accuracy level 4 and blocks of 128. */
export const backendNames = [
  "tsq",
  "tsq-int8",
  "tsq-w8a8",
  "tsq-fp8",
  "tsq-llm.int8",
  "tsq-unfused",
  "tsq-f32",
  "tsq-f16",
  "tsq-bf16",
  "ort-acc0-b32",
  "ort-acc0-b128",
  "ort-acc4-b32",
  "ort-acc4-b128",
] as const

export type BackendName = (typeof backendNames)[number]

const defaultBackends: readonly BackendName[] = ["tsq", "tsq-int8", "ort-acc0-b128", "ort-acc4-b32", "ort-acc4-b128"]

export const ortVariant = (name: BackendName): OrtVariant | null => {
  const [, level, block] = /^ort-acc(\d)-b(\d+)$/.exec(name) ?? []
  return level === undefined ? null : ({ accuracyLevel: Number(level), block: Number(block) } as OrtVariant)
}

/** The scheme whose weights and activations a backend takes; null: bits and groups as asked for. */
export const schemeOf = (name: BackendName): "w8a8" | "fp8" | "llm.int8" | null =>
  name === "tsq-w8a8" ? "w8a8" : name === "tsq-fp8" ? "fp8" : name === "tsq-llm.int8" ? "llm.int8" : null

/** Whether a backend rounds activations to 8 bits. */
export const activationsOf = (name: BackendName): "exact" | "int8" =>
  name === "tsq-int8" || schemeOf(name) !== null || ortVariant(name)?.accuracyLevel === 4 ? "int8" : "exact"

export interface KernelBenchOptions extends LongWork {
  /** Names of models, or K×N. Default: the shapes of an 8B model's layers and one of a 1B model's. */
  shapes?: readonly string[]
  /** Rows of activations. */
  m?: readonly number[]
  bits?: number
  /** Columns that share a scale; the peers' block size is part of their name. */
  groupSize?: number
  threads?: readonly number[]
  /** Kernel tables of this library. Default: the one in use. */
  isa?: readonly string[]
  /** Names of `backendNames`, "ort" (all four) or "all". */
  backends?: readonly string[]
  /** Types of activations of "tsq"; the first one goes for "tsq-int8" and "tsq-unfused". */
  dtypes?: readonly string[]
  /** Only backends with these activations. */
  activations?: "exact" | "int8"
  rounds?: number
  /** Measured time of one backend in one cell. */
  seconds?: number
  /** Bytes of weights that a product with few rows rotates over. */
  copiesBytes?: number
  /** Folder with the peers' node_modules. */
  peers?: string
  /** Told what a reader should know, such as a peer that is missing. */
  onNote?: (text: string) => void
}

export interface KernelPlan extends LongWork {
  choice: ShapeChoice
  m: number[]
  bits: IntegerScheme["bits"]
  groupSize: number
  threads: number[]
  isa: string[]
  backends: BackendName[]
  dtypes: FloatDtype[]
  rounds: number
  seconds: number
  /** null: by the last-level cache. */
  copiesBytes: number | null
  peers: string | undefined
  note: (text: string) => void
}

const known = [
  ...["shapes", "m", "bits", "groupSize", "threads", "isa", "backends", "dtypes", "activations", "rounds", "seconds"],
  ...["copiesBytes", "peers", "onNote", "signal", "onProgress"],
]

export function readKernelOptions(values: KernelBenchOptions | undefined): KernelPlan {
  const options = new Options("benchKernels", values, known)
  const supported = native.cpu().supported
  const isa = distinct(options.strings("isa", [native.cpu().kernels]), "isa")
  for (const name of isa)
    if (!supported.includes(name))
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `benchKernels: isa ${describe(name)} does not run on this machine, expected ${listChoices(supported)}`,
      )
  const dtypes = distinct(options.strings("dtypes", ["bf16", "f32"]), "dtypes")
  for (const dtype of dtypes)
    if (!["f32", "f16", "bf16"].includes(dtype))
      throw new TsqError("ERR_OPTION", `benchKernels: dtype ${describe(dtype)}, expected "f32", "f16" or "bf16"`)
  const note = options.raw("onNote")
  if (note !== undefined && typeof note !== "function") options.fail("onNote", "a function")
  return {
    choice: chooseShapes(options.strings("shapes", ["4096x4096", "4096x14336", "14336x4096", "2048x8192"])),
    m: counts(options, "m", [1, 4, 16, 64, 512], 65536),
    bits: options.integer("bits", { min: 2, max: 8 }, 4) as IntegerScheme["bits"],
    groupSize: options.integer("groupSize", { min: 1 }, 128),
    threads: counts(options, "threads", [native.threads()], 256),
    isa,
    backends: readBackends(options),
    dtypes: dtypes as FloatDtype[],
    rounds: options.integer("rounds", { min: 1, max: 1000 }, 11),
    seconds: options.number("seconds", { min: 0, aboveMin: true, max: 3600 }, 0.5),
    copiesBytes: options.integer("copiesBytes", { min: 1 }, null),
    peers: options.string("peers", undefined),
    note: (note as ((text: string) => void) | undefined) ?? (() => {}),
    signal: options.signal(),
    onProgress: options.onProgress(),
  }
}

function readBackends(options: Options): BackendName[] {
  const names: BackendName[] = []
  for (const word of options.strings("backends", defaultBackends)) {
    if (word === "all") names.push(...backendNames)
    else if (word === "ort") names.push(...backendNames.filter(ortVariant))
    else if ((backendNames as readonly string[]).includes(word)) names.push(word as BackendName)
    else {
      const meant = closest(word, backendNames)
      throw new TsqError(
        "ERR_OPTION",
        `benchKernels: no backend is called ${describe(word)}; ${meant ? `did you mean ${JSON.stringify(meant)}?` : `there are ${backendNames.join(", ")}, ort and all`}`,
      )
    }
  }
  const activations = options.oneOf("activations", ["exact", "int8"], undefined)
  const chosen = [...new Set(names)].filter(name => activations === undefined || activationsOf(name) === activations)
  if (chosen.length === 0)
    throw new TsqError(
      "ERR_OPTION",
      `benchKernels: no backend is left to measure; there are ${backendNames.join(", ")}`,
    )
  return chosen
}

/** A list of distinct positive integers. */
export function counts(options: Options, name: string, fallback: readonly number[], max: number): number[] {
  const value = options.raw(name) ?? fallback
  const expected = `a list of integers from 1 to ${max}`
  if (!Array.isArray(value) || value.length === 0) options.fail(name, expected)
  for (const each of value as unknown[])
    if (!Number.isSafeInteger(each) || (each as number) < 1 || (each as number) > max)
      throw new TsqError(
        "ERR_OPTION",
        `${options.caller}: option ${JSON.stringify(name)} holds ${describe(each)}, expected ${expected}`,
      )
  return [...new Set(value as number[])]
}

/** A list of names, each once. */
export function distinct(values: readonly string[], name: string): string[] {
  if (values.length === 0)
    throw new TsqError(
      "ERR_OPTION",
      `benchKernels: option ${JSON.stringify(name)} is empty, expected at least one name`,
    )
  return [...new Set(values)]
}
