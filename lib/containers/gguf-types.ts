// ggml's tensor types and GGUF's metadata types: numbers, names, sizes.
// Source: ggml-org/ggml, docs/gguf.md and src/ggml-common.h.

/** `decode`: the library knows the values of its blocks. `encode`: it makes such blocks, too. */
export interface GgmlType {
  id: number
  name: string
  /** Elements of a block; rows are whole blocks. */
  blockSize: number
  blockBytes: number
  decode: boolean
  encode: boolean
}

const type = (id: number, name: string, blockSize: number, blockBytes: number, can: "" | "d" | "de"): GgmlType => ({
  id,
  name,
  blockSize,
  blockBytes,
  decode: can !== "",
  encode: can === "de",
})

/** Types of which a file can hold tensors; those that can neither be decoded nor encoded are listed by `inspect` and kept as bytes. */
const types: readonly GgmlType[] = [
  type(0, "F32", 1, 4, "de"),
  type(1, "F16", 1, 2, "de"),
  type(30, "BF16", 1, 2, "de"),
  type(2, "Q4_0", 32, 18, "de"),
  type(3, "Q4_1", 32, 20, "de"),
  type(6, "Q5_0", 32, 22, "de"),
  type(7, "Q5_1", 32, 24, "de"),
  type(8, "Q8_0", 32, 34, "de"),
  type(9, "Q8_1", 32, 36, "d"),
  type(10, "Q2_K", 256, 84, "de"),
  type(11, "Q3_K", 256, 110, "de"),
  type(12, "Q4_K", 256, 144, "de"),
  type(13, "Q5_K", 256, 176, "de"),
  type(14, "Q6_K", 256, 210, "de"),
  type(15, "Q8_K", 256, 292, "de"),
  type(20, "IQ4_NL", 32, 18, "de"),
  type(23, "IQ4_XS", 256, 136, "de"),
  type(34, "TQ1_0", 256, 54, "de"),
  type(35, "TQ2_0", 256, 66, "de"),
  type(39, "MXFP4", 32, 17, "de"),
  type(16, "IQ2_XXS", 256, 66, ""),
  type(17, "IQ2_XS", 256, 74, ""),
  type(18, "IQ3_XXS", 256, 98, ""),
  type(19, "IQ1_S", 256, 50, ""),
  type(21, "IQ3_S", 256, 110, ""),
  type(22, "IQ2_S", 256, 82, ""),
  type(29, "IQ1_M", 256, 56, ""),
  type(40, "NVFP4", 64, 36, ""),
  type(24, "I8", 1, 1, ""),
  type(25, "I16", 1, 2, ""),
  type(26, "I32", 1, 4, ""),
  type(27, "I64", 1, 8, ""),
  type(28, "F64", 1, 8, ""),
]

const byId = new Map(types.map(each => [each.id, each]))
const byName = new Map(types.map(each => [each.name, each]))

export const ggmlType = (id: number): GgmlType | undefined => byId.get(id)

export const ggmlTypeNamed = (name: string): GgmlType | undefined => byName.get(name)

export const ggmlTypes: readonly GgmlType[] = types

/** Numbers of types that ggml has dropped, which no reader takes any more. */
export const removedTypes: ReadonlyMap<number, string> = new Map([
  [4, "Q4_2"],
  [5, "Q4_3"],
  [31, "Q4_0_4_4"],
  [32, "Q4_0_4_8"],
  [33, "Q4_0_8_8"],
  [36, "IQ4_NL_4_4"],
  [37, "IQ4_NL_4_8"],
  [38, "IQ4_NL_8_8"],
])

/** Elements of numeric arrays as a file holds them; booleans are bytes of 0 and 1. */
const numericArrays = {
  u8: Uint8Array,
  i8: Int8Array,
  u16: Uint16Array,
  i16: Int16Array,
  u32: Uint32Array,
  i32: Int32Array,
  f32: Float32Array,
  f64: Float64Array,
  bool: Uint8Array,
  u64: BigUint64Array,
  i64: BigInt64Array,
} as const

export type GgufNumericType = keyof typeof numericArrays
export type GgufNumericArray = InstanceType<(typeof numericArrays)[GgufNumericType]>

/** A metadata value with the type that the file gives it. */
export type GgufValue =
  | { type: "u8" | "i8" | "u16" | "i16" | "u32" | "i32" | "f32" | "f64"; value: number }
  | { type: "u64" | "i64"; value: bigint }
  | { type: "bool"; value: boolean }
  | { type: "string"; value: string }
  | GgufArray

export type GgufArray =
  | { type: "array"; of: "string"; value: readonly string[] }
  | { type: "array"; of: "array"; value: readonly GgufArray[] }
  | { type: "array"; of: GgufNumericType; value: GgufNumericArray }

export type GgufMetadata = ReadonlyMap<string, GgufValue>

/** By its number in a file. */
export const valueTypes = [
  ...(["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool"] as const),
  ...(["string", "array", "u64", "i64", "f64"] as const),
]

export const valueTypeCode = (name: GgufValue["type"]): number => valueTypes.indexOf(name)

export const numericArray = (name: GgufNumericType) => numericArrays[name]

export const isNumericType = (name: string): name is GgufNumericType => Object.hasOwn(numericArrays, name)

export const magic = 0x46554747 // "GGUF"
export const defaultAlignment = 32
export const alignmentKey = "general.alignment"
/** With its terminator a name has to fit ggml's 64 bytes. */
export const maxNameBytes = 63
export const maxDimensions = 4

export const padded = (bytes: number, alignment: number): number => Math.ceil(bytes / alignment) * alignment
