// The containers that are fuzzed. One that is added here is fuzzed by the tests and by `npm run fuzz`.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { GgufFile } from "../../../lib/containers/gguf.ts"
import { readImportance, writeImportance } from "../../../lib/containers/imatrix-files.ts"
import { OnnxFile } from "../../../lib/containers/onnx.ts"
import type { OnnxGraph } from "../../../lib/containers/onnx-bytes.ts"
import { onnxModelBytes } from "../../../lib/containers/onnx-bytes.ts"
import { SafetensorsFile } from "../../../lib/containers/safetensors.ts"
import { Tensor } from "../../../lib/core/tensor.ts"
import { writeMeta } from "../../../lib/engine/pack-meta.ts"
import { StoredPack } from "../../../lib/engine/stored-pack.ts"
import { prepackDense } from "../../../lib/kernels/packed-weight.ts"
import { native } from "../../../lib/native.ts"
import { entry, rawGguf, text, u32, u64 } from "../containers/gguf-support.ts"
import { rawFile, vector } from "../containers/support.ts"
import type { Container } from "./fuzz.ts"

const texts = (...values: string[]) => values.map(value => Buffer.from(value))
const readBytes = (mapping: number, offset: number, bytes: number) =>
  native.readMapping(mapping, offset, new Uint8Array(bytes))

const safetensors: Container = {
  name: "safetensors",
  extension: ".safetensors",
  codes: ["ERR_CORRUPT", "ERR_FORMAT"],
  async seeds() {
    const tensor = (dtype: string, shape: number[], begin: number, end: number) => ({
      dtype,
      shape,
      data_offsets: [begin, end],
    })
    const several = {
      __metadata__: { format: "pt" },
      a: tensor("F32", [2, 2], 0, 16),
      b: tensor("BF16", [3], 16, 22),
      c: tensor("F4", [4], 22, 24),
      d: tensor("U8", [0], 24, 24),
    }
    return [
      Buffer.from(vector("safetensors-file").file, "hex"),
      rawFile(JSON.stringify(several), new Uint8Array(24)),
      rawFile(JSON.stringify({ "é\n": tensor("I64", [], 0, 8) }), new Uint8Array(8)),
    ]
  },
  fragments: texts(
    ...'{}[]",:\\é\0',
    "1e9",
    "9007199254740993",
    "null",
    '"__metadata__"',
    '"dtype"',
    '"\\ud800"',
    "[0,0]",
    "-1",
  ),
  /** Half of the time the length fits again, so that the damage reaches the JSON and what it says. */
  repair(bytes, { below }) {
    const end = bytes.lastIndexOf("}")
    if (end > 8 && below(2) === 0) bytes.writeBigUInt64LE(BigInt(end + 1 - 8), 0)
    return bytes
  },
  async read(path) {
    using file = await SafetensorsFile.open(path)
    let total = 0
    for (const { offset, bytes } of file.entries.values()) {
      readBytes(file.mapping.value, offset, bytes)
      total += bytes
    }
    return total
  },
}

const ggufSeeds = (): Buffer[] => [
  Buffer.from(vector("gguf-file").file, "hex"),
  rawGguf({
    tensors: [
      { dimensions: [32, 2], type: 39 },
      { name: "b", offset: 64 },
    ],
    dataBytes: 96,
  }),
  rawGguf({
    version: 2,
    values: [
      entry("k", 9, u32(9), u64(2), u32(8), u64(1), text("é"), u32(10), u64(1), u64(5)),
      entry("f", 7, u32(1).subarray(0, 1)),
    ],
    tensors: [{ dimensions: [] }],
  }),
]

const gguf: Container = {
  name: "gguf",
  extension: ".gguf",
  codes: ["ERR_CORRUPT", "ERR_FORMAT", "ERR_UNSUPPORTED"],
  seeds: async () => ggufSeeds(),
  fragments: [text("k"), u32(9), u64(2), text("general.alignment"), Buffer.from("GGUF")],
  async read(path) {
    using file = await GgufFile.open(path)
    let total = 0
    for (const { offset, bytes } of file.entries.values()) {
      readBytes(file.mapping.value, offset, bytes)
      total += bytes
    }
    return total
  },
}

const imatrix: Container = {
  name: "imatrix",
  extension: ".dat",
  codes: ["ERR_CORRUPT", "ERR_FORMAT", "ERR_NUMERIC", "ERR_UNSUPPORTED"],
  async seeds(directory) {
    const matrix = {
      entries: new Map(
        ["blk.0.attn_q.weight", "é"].map(name => [
          name,
          { sums: new Float32Array(32).fill(2), counts: Float32Array.of(3) },
        ]),
      ),
      datasets: ["a.txt"],
      ...{ chunks: 4, chunkSize: 512 },
    }
    const made: Buffer[] = []
    for (const name of ["seed.dat", "seed.gguf"]) {
      const path = join(directory, name)
      await writeImportance(path, matrix, { force: true })
      made.push(readFileSync(path))
    }
    return made
  },
  fragments: [u32(1), u32(32), text("blk.0.attn_q.weight"), Buffer.from(Float32Array.of(Number.NaN, -1, 1e30).buffer)],
  async read(path) {
    const { entries } = await readImportance(path)
    return [...entries.values()].reduce((sum, { sums }) => sum + sums.byteLength, 0)
  },
}

const operator = { operator: "MatMulNBits", domain: "com.microsoft" }

const onnx: Container = {
  name: "onnx",
  extension: ".onnx",
  // Files beside the model that are not there.
  codes: ["ERR_CORRUPT", "ERR_FORMAT", "ERR_UNSUPPORTED", "ERR_IO", "ERR_SHAPE"],
  async seeds() {
    const graph: OnnxGraph = {
      name: "g",
      nodes: [
        { ...operator, name: "up", inputs: ["x", "w", "s"], outputs: ["y"], attributes: { K: 16, N: 6 } },
        { operator: "Add", domain: "", name: "", inputs: ["y", "y"], outputs: ["z"], attributes: {} },
      ],
      initializers: [
        { name: "w", type: "u8", shape: [6, 1, 8] },
        { name: "s", type: "f16", shape: [6] },
        { name: "none", type: "f32", shape: [0] },
      ],
      inputs: [{ name: "x", type: "f16", shape: ["rows", 16] }],
      outputs: [{ name: "z", type: "f16", shape: ["rows", 6] }],
    }
    const data: Record<string, number> = { w: 48, s: 12, none: 0 }
    return [Buffer.from(onnxModelBytes(graph, name => new Uint8Array(data[name]!)))]
  },
  fragments: [
    Buffer.from([0xff, 0xff, 0xff, 0xff, 0x0f]),
    Buffer.from([0x2a, 0x04]),
    Buffer.from("location"),
    Buffer.from([0x3a, 0x80, 0x01]),
  ],
  async read(path) {
    const file = await OnnxFile.open(path, [operator])
    try {
      let total = 0
      for (const { name } of file.initializers.values()) total += (await file.read(name)).length
      return total
    } finally {
      file.dispose()
    }
  },
}

/** Files of packed weights: `npm run fuzz` damages their bytes, which checksums find, and their description, which they cannot. */
const packCache: Container = {
  name: "pack cache",
  extension: ".tsq-cache",
  codes: ["ERR_CORRUPT", "ERR_FORMAT", "ERR_IO", "ERR_MEMORY"],
  async seeds(directory) {
    const weight = await prepackDense(Tensor.from(new Float32Array(16 * 32).fill(0.5), [16, 32]))
    const meta = writeMeta({
      ...{
        packing: { activations: "exact" },
        tokenizer: [],
        linears: ["lm_head"],
        vectors: [["model.norm.weight", 8]],
      },
      sources: [{ name: "model.safetensors", bytes: 9, modified: "1", digest: "ab" }],
      summary: {
        bitsPerWeight: 4,
        quantizedModules: [],
        referenceModules: [],
        roundedModules: [],
        onLoad: null,
        bytes: 64,
      },
    } as never)
    const made: Buffer[] = []
    const descriptions = [meta, "", "{}", meta.replace('"lm_head"', ""), meta.replace("8]", "1e9]"), meta.slice(0, -2)]
    for (const [index, description] of descriptions.entries()) {
      const path = join(directory, `seed-${index}.tsq-cache`)
      const floats = new Float32Array(new SharedArrayBuffer(32))
      await native.writePackFile(path, description, floats, Float64Array.of(weight.handle), null)
      made.push(readFileSync(path))
    }
    weight.dispose()
    return made
  },
  fragments: [...texts('"', "{", "9".repeat(20)), u64(2 ** 31)],
  async read(path) {
    const file = await StoredPack.open(path)
    file.start(undefined)
    try {
      // What lies in the file in as many bytes.
      return (await file.vector("model.norm.weight", 8)).byteLength
    } finally {
      await file.close()
    }
  },
}

export const containers: readonly Container[] = [safetensors, gguf, imatrix, onnx, packCache]
