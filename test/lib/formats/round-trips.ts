// Every stored format into every other and back, over tensors of many schemes; and the tables of docs/formats.md that say what came out.
// A format of the registry joins by itself.
import { mkdirSync } from "node:fs"
import { join } from "node:path"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import type { GgmlType } from "../../../lib/containers/gguf-types.ts"
import { type CodebookName, codebook } from "../../../lib/core/codebooks.ts"
import { TsqError } from "../../../lib/core/errors.ts"
import { QuantizedTensor, type QuantizedTensorInit } from "../../../lib/core/quantized-tensor.ts"
import type { Scheme } from "../../../lib/core/scheme.ts"
import { sharedArray } from "../../../lib/core/tensor.ts"
import { pinned } from "../../../lib/formats/arrays.ts"
import { type CheckpointFormat, gptqVersions, traitsOf, type WriteOptions } from "../../../lib/formats/format.ts"
import { blockTypeFor, readBlockTensor, writeBlockTensor } from "../../../lib/formats/gguf-tensor.ts"
import { readOnnx, writeOnnx } from "../../../lib/formats/onnx.ts"
import { formats } from "../../../lib/formats/registry.ts"
import { dequantizeAsync } from "../../../lib/kernels/dequantize.ts"
import { nearest } from "../../../lib/rounding/nearest.ts"
import { random, writeCheckpoint } from "../containers/support.ts"
import { dynamicGroup, dynamicToken, e4m3, localGroup, nvfp4, randomFloats, staticTensor } from "./float-support.ts"
import { summaryOf } from "./support.ts"

/** Something that stores tensors: what is read back of a tensor that was written, or why it cannot be. */
export interface Holder {
  name: string
  store(tensor: QuantizedTensor, directory: string): Promise<QuantizedTensor | string>
}

const module = "model.layers.0.self_attn.q_proj"

function checkpointHolder(format: CheckpointFormat, name: string, options: WriteOptions): Holder {
  return {
    name,
    async store(tensor, directory) {
      const reason = format.refuses(module, tensor.shape, tensor.scheme, traitsOf(tensor, options.gptqVersion))
      if (reason) return reason
      mkdirSync(directory)
      const written = await format.write(module, tensor, options)
      const { quantizationConfig } = format.configuration(summaryOf({ [module]: tensor }), options)
      await writeCheckpoint(directory, { quantization_config: quantizationConfig }, written)
      const checkpoint = await Checkpoint.open(directory)
      try {
        return await format.reader(checkpoint, checkpoint.quantizationConfig!, () => {}).read(module)
      } finally {
        checkpoint.dispose()
      }
    },
  }
}

const gguf: Holder = {
  name: "GGUF",
  async store(tensor) {
    const found = await blockTypeFor(tensor)
    if ("reason" in found) return found.reason
    return ggufStored(tensor, found.type)
  },
}

async function ggufStored(tensor: QuantizedTensor, type: GgmlType): Promise<QuantizedTensor> {
  const blocks = await writeBlockTensor(module, tensor, type)
  return readBlockTensor({ name: module, type, shape: tensor.shape }, blocks)
}

const onnx: Holder = {
  name: "ONNX",
  async store(tensor, directory) {
    mkdirSync(directory)
    const path = join(directory, "model.onnx")
    await writeOnnx(path, { [module]: tensor })
    return (await readOnnx(path))[module]!.weight
  },
}

export const holders: readonly Holder[] = [
  ...formats.flatMap(format =>
    format.name === "gptq"
      ? gptqVersions.map(gptqVersion =>
          checkpointHolder(format, `gptq ${gptqVersion}`, { scaleType: "f16", gptqVersion }),
        )
      : [checkpointHolder(format, format.name, { scaleType: "f16" })],
  ),
  gguf,
  onnx,
]

type Numbers = ReturnType<typeof random>

export interface Sample {
  name: string
  tensor: QuantizedTensor
}

/** What Marlin files need, who are the strictest. */
const [n, k] = [256, 256] as const

/** Scales are small whole numbers times powers of two: every type of scale has them, and 16-bit products of them. */
function sample(numbers: Numbers, name: string, scheme: Scheme, more: Partial<QuantizedTensorInit> = {}): Sample {
  const { below } = numbers
  const stored = Math.ceil(k / scheme.groupSize)
  const rows = scheme.granularity === "block" ? (scheme.blockRows ?? 1) : scheme.granularity === "tensor" ? n : 1
  const power = scheme.scaleType === "e8m0"
  const each = Array.from({ length: Math.ceil(n / rows) * stored }, () =>
    power ? 2 ** (below(8) - 10) : scheme.granularity === "flat" ? 1 : (1 + below(100)) * 2 ** -12,
  )
  const scales = sharedArray("f32", n * stored) as Float32Array
  for (let row = 0; row < n; row++)
    for (let group = 0; group < stored; group++)
      scales[row * stored + group] = each[Math.floor(row / rows) * stored + group]!
  const codes = sharedArray("u8", n * k) as Uint8Array
  const values = scheme.codebook && scheme.codebook !== "custom" ? codebook(scheme.codebook) : null
  for (let i = 0; i < codes.length; i++) {
    do codes[i] = below(2 ** scheme.bits)
    while (values && !Number.isFinite(values[codes[i]!]))
  }
  const init: QuantizedTensorInit = { scheme, shape: [n, k], codes, scales, zeros: null, ...more }
  return { name, tensor: new QuantizedTensor(init) }
}

export async function samples(): Promise<Sample[]> {
  const numbers = random(20261122)
  const { below } = numbers
  const whole = (bits: Scheme["bits"], groupSize: number, change: Partial<Scheme> = {}): Scheme => ({
    ...{ bits, symmetric: true, granularity: groupSize === k ? "channel" : "group", groupSize, scaleType: "f16" },
    ...change,
  })
  const list: Sample[] = []
  for (const bits of [2, 3, 4, 5, 6, 7, 8] as const) list.push(sample(numbers, `int${bits} g32`, whole(bits, 32)))
  for (const bits of [4, 8] as const) {
    list.push(sample(numbers, `int${bits} g128`, whole(bits, 128)))
    list.push(sample(numbers, `int${bits} per row`, whole(bits, k)))
    list.push(sample(numbers, `int${bits} per tensor`, whole(bits, k, { granularity: "tensor" })))
  }
  for (const bits of [2, 3, 4, 8] as const) {
    const scheme = whole(bits, 64, { symmetric: false })
    const zeros = Uint8Array.from({ length: (n * k) / 64 }, () => 1 + below(2 ** bits - 1))
    list.push(sample(numbers, `int${bits} g64 with zero points`, scheme, { zeros }))
  }
  const order = Int32Array.from({ length: k }, (_, column) => (column * 7) % (k / 64))
  list.push(sample(numbers, "int4 g64 in activation order", whole(4, 64), { groupIndex: order }))
  for (const bits of [4, 5] as const) {
    const offsets = Float32Array.from({ length: (n * k) / 32 }, () => -(1 + below(50)) * 2 ** -9)
    list.push(sample(numbers, `int${bits} g32 with minima`, whole(bits, 32, { symmetric: false }), { offsets }))
  }
  list.push(sample(numbers, "int6 g16, f32 scales", whole(6, 16, { scaleType: "f32" })))
  const book = (name: string, codebook: CodebookName, change: Partial<Scheme>) =>
    list.push(
      sample(
        numbers,
        name,
        whole(codebook.startsWith("e4") || codebook.startsWith("e5") ? 8 : 4, 64, {
          codebook,
          scaleType: "f32",
          ...change,
        }),
      ),
    )
  book("nf4 g64", "nf4", {})
  book("fp4 g64", "fp4", {})
  book("IQ4_NL g32", "iq4_nl", { groupSize: 32, scaleType: "f16" })
  book("mxfp4", "e2m1", { groupSize: 32, scaleType: "e8m0" })
  const float = (name: string, scheme: Scheme) => {
    list.push({ name, tensor: shared(randomFloats(numbers, [n, k], scheme, { global: 512 })) })
  }
  const block = { granularity: "block", groupSize: 128, blockRows: 128 } as const
  const [row, whole8] = [
    { granularity: "channel", groupSize: k } as const,
    { granularity: "tensor", groupSize: k } as const,
  ]
  float("FP8 per tensor", e4m3(whole8))
  float("FP8 per tensor, static activations", e4m3({ ...whole8, activations: staticTensor("e4m3") }))
  float("FP8 per tensor, activations per token", e4m3({ ...whole8, activations: dynamicToken("e4m3") }))
  float("FP8 per row", e4m3(row))
  float("FP8 per row, activations per token", e4m3({ ...row, activations: dynamicToken("e4m3") }))
  float("FP8 in blocks of 128x128", e4m3(block))
  float("FP8 in blocks, activations in groups", e4m3({ ...block, activations: dynamicGroup(128) }))
  float("NVFP4", nvfp4)
  float("NVFP4, activations in groups", { ...nvfp4, activations: localGroup })
  float("int8 per row, activations per token", {
    ...{ ...row, bits: 8, symmetric: true, scaleType: "f32", activations: dynamicToken("int8") },
  })
  const weight = sharedArray("f32", n * k) as Float32Array
  for (let i = 0; i < weight.length; i++) weight[i] = below(2001) / 1000 - 1
  const int8: Scheme = { ...row, bits: 8, symmetric: true, scaleType: "levels" }
  const rounded = await nearest.round({ name: "", weight, n, k, scheme: int8, minZero: 0, options: {} })
  list.push({ name: "LLM.int8()", tensor: rounded.tensor })
  return list
}

/** Arrays where asynchronous calls may read them. */
function shared({ shape, scheme, codes, scales, zeros, levels, activation }: QuantizedTensor): QuantizedTensor {
  return new QuantizedTensor({ shape, scheme, zeros, levels, activation, codes: pinned(codes), scales: pinned(scales) })
}

/**
 * "same": codes, scales, zero points and all; "values": other codes that stand for the same floats; "close": floats that differ by
 * rounding in f32, which is no conversion; otherwise why not.
 */
export type Verdict =
  | { kind: "same" | "values"; read: QuantizedTensor }
  | { kind: "close" }
  | { kind: "refused"; reason: string }

const bytes = (array: ArrayBufferView | null) =>
  array === null ? "" : Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64")

/** The arrays of a tensor and what its engine does with activations; how far scales are shared is a matter of the file. */
export const partsOf = (q: QuantizedTensor): string => {
  const arrays = [q.codes, q.scales, q.zeros, q.offsets, q.codebook, q.groupIndex, q.levels?.codes ?? null]
  return JSON.stringify([...arrays.map(bytes), q.scheme.groupSize, q.scheme.activations ?? null])
}

let folders = 0

export async function stored(holder: Holder, tensor: QuantizedTensor, root: string): Promise<Verdict> {
  let read: QuantizedTensor | string
  try {
    read = await holder.store(tensor, join(root, String(folders++)))
  } catch (error) {
    if (!(error instanceof TsqError) || error.code !== "ERR_UNSUPPORTED") throw error
    read = error.message
  }
  if (typeof read === "string") return { kind: "refused", reason: read }
  if (partsOf(read) === partsOf(tensor)) return { kind: "same", read }
  const [before, after] = [await dequantizeAsync(tensor), await dequantizeAsync(read)]
  const peak = before.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
  const most = before.reduce((worst, value, i) => Math.max(worst, Math.abs(value - after[i]!)), 0)
  if (most > peak * 2 ** -20)
    throw new Error(
      `${holder.name}: values that are off by ${most} of ${peak} are read back of ${JSON.stringify(tensor.scheme)}`,
    )
  if (most > 0) return { kind: "close" }
  return { kind: "values", read }
}

export interface RoundTrips {
  /** By sample and holder. */
  held: Map<string, Map<string, Verdict>>
  /** By holder and holder: samples that the first holds as they are, those of them that the second holds, and that came back the same. */
  pairs: Map<string, Map<string, { of: number; held: number; same: number; failures: string[] }>>
}

export async function roundTrips(root: string): Promise<RoundTrips> {
  const held: RoundTrips["held"] = new Map()
  const pairs: RoundTrips["pairs"] = new Map(
    holders.map(a => [a.name, new Map(holders.map(b => [b.name, { of: 0, held: 0, same: 0, failures: [] }]))]),
  )
  for (const { name, tensor } of await samples()) {
    const row = new Map<string, Verdict>()
    held.set(name, row)
    for (const holder of holders) row.set(holder.name, await stored(holder, tensor, root))
    for (const a of holders) {
      const first = row.get(a.name)!
      if (first.kind !== "same") continue
      for (const b of holders) {
        const count = pairs.get(a.name)!.get(b.name)!
        count.of++
        const there = await stored(b, first.read, root)
        if (there.kind === "refused" || there.kind === "close") continue
        count.held++
        if (there.kind === "values") continue
        const back = await stored(a, there.read, root)
        if (back.kind === "same" && partsOf(back.read) === partsOf(first.read)) count.same++
        else count.failures.push(`${name}: ${a.name} to ${b.name} and back`)
      }
    }
  }
  return { held, pairs }
}

const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`

/** The tables, as they stand in docs/formats.md. */
export function tables({ held, pairs }: RoundTrips): string {
  const names = holders.map(({ name }) => name)
  const head = (first: string) => [line([first, ...names]), line(["---", ...names.map(() => ":-:")])]
  const marks = { same: "●", values: "○", close: "≈", refused: "" }
  const what = Array.from(held, ([name, row]) => line([name, ...names.map(holder => marks[row.get(holder)!.kind])]))
  const ways = Array.from(pairs, ([a, row]) =>
    line([
      a,
      ...names.map(b => {
        const { of, held, same } = row.get(b)!
        return held === 0 ? "–" : same === held ? `${same} of ${of}` : `${same}+${held - same} of ${of}`
      }),
    ]),
  )
  return [...head("scheme"), ...what, "", ...head("from ╲ to"), ...ways].join("\n")
}

export const marker = { begin: "<!-- tables: npm run format-tables -->", end: "<!-- /tables -->" }

/** The document with these tables between its markers. */
export function withTables(document: string, made: string): string {
  const [begin, end] = [document.indexOf(marker.begin), document.indexOf(marker.end)]
  if (begin < 0 || end < begin) throw new Error("docs/formats.md has no place for the tables")
  return `${document.slice(0, begin + marker.begin.length)}\n\n${made}\n\n${document.slice(end)}`
}
