// GGUF headers by hand, for what no writer would write.
import type { GgufMetadata, GgufValue } from "../../../lib/containers/gguf-types.ts"

export const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer)
export const u64 = (value: number | bigint) => Buffer.from(BigUint64Array.of(BigInt.asUintN(64, BigInt(value))).buffer)
export const text = (value: string) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)])

export interface RawTensor {
  name?: string
  dimensions?: (number | bigint)[]
  type?: number
  offset?: number | bigint
}

export const tensorInfo = ({ name = "a", dimensions = [4], type = 0, offset = 0 }: RawTensor) =>
  Buffer.concat([text(name), u32(dimensions.length), ...dimensions.map(u64), u32(type), u64(offset)])

/** key, type code, value bytes. */
export const entry = (key: string, type: number, ...value: Uint8Array[]) =>
  Buffer.concat([text(key), u32(type), ...value])

export interface RawFile {
  magic?: string
  version?: number
  counts?: [tensors: number | bigint, values: number | bigint]
  values?: Uint8Array[]
  tensors?: RawTensor[]
  dataBytes?: number
}

export function rawGguf({
  magic = "GGUF",
  version = 3,
  counts,
  values = [],
  tensors = [],
  dataBytes,
}: RawFile): Buffer {
  const [tensorCount, valueCount] = counts ?? [tensors.length, values.length]
  const header = [Buffer.from(magic), u32(version), u64(tensorCount), u64(valueCount), ...values]
  const bytes = Buffer.concat([...header, ...tensors.map(tensorInfo)])
  const padding = (32 - (bytes.length % 32)) % 32
  return Buffer.concat([bytes, Buffer.alloc(padding + (dataBytes ?? 32 * tensors.length))])
}

/** A value of every kind that a file can hold. */
export const everyValue: GgufMetadata = new Map<string, GgufValue>([
  ["general.architecture", { type: "string", value: "llama" }],
  ["u8", { type: "u8", value: 255 }],
  ["i8", { type: "i8", value: -128 }],
  ["u16", { type: "u16", value: 65_535 }],
  ["i16", { type: "i16", value: -32_768 }],
  ["u32", { type: "u32", value: 4_294_967_295 }],
  ["i32", { type: "i32", value: -2_147_483_648 }],
  ["u64", { type: "u64", value: 2n ** 64n - 1n }],
  ["i64", { type: "i64", value: -(2n ** 63n) }],
  ["f32", { type: "f32", value: Math.fround(0.1) }],
  ["f64", { type: "f64", value: 0.1 }],
  ["yes", { type: "bool", value: true }],
  ["no", { type: "bool", value: false }],
  ["empty", { type: "string", value: "" }],
  ["bom and beyond", { type: "string", value: "\ufeff▁é𝄞\0\n" }],
  ["words", { type: "array", of: "string", value: ["", "é", "x".repeat(300_000), "▁the"] }],
  ["halves", { type: "array", of: "u16", value: Uint16Array.of(1, 2, 65_535) }],
  ["bytes", { type: "array", of: "u8", value: new Uint8Array(300_001).fill(7) }],
  ["scores", { type: "array", of: "f32", value: Float32Array.of(-0, 1.5, -1e30) }],
  ["doubles", { type: "array", of: "f64", value: Float64Array.of(0.1) }],
  ["flags", { type: "array", of: "bool", value: Uint8Array.of(1, 0, 1) }],
  ["large", { type: "array", of: "u64", value: BigUint64Array.of(2n ** 63n) }],
  ["low", { type: "array", of: "i64", value: BigInt64Array.of(-1n) }],
  ["none", { type: "array", of: "i32", value: new Int32Array(0) }],
  [
    "nested",
    {
      type: "array",
      of: "array",
      value: [
        { type: "array", of: "i8", value: Int8Array.of(-1, 1) },
        { type: "array", of: "array", value: [{ type: "array", of: "string", value: ["deep"] }] },
      ],
    },
  ],
])
