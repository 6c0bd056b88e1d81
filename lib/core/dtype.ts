// Element types of tensors, and what each is in files, typed arrays and the addon.
import type { DtypeCode } from "../native.ts"

export type Dtype = "f32" | "f16" | "bf16" | "i8" | "u8" | "i32"

/** f16 and bf16 are carried as their 16-bit patterns. */
export type TensorData = Float32Array | Uint16Array | Int8Array | Uint8Array | Int32Array

interface DtypeInfo {
  code: DtypeCode
  bytes: number
  array: new (buffer: ArrayBufferLike, byteOffset?: number, length?: number) => TensorData
}

const table: Record<Dtype, DtypeInfo> = {
  f32: { code: 0, bytes: 4, array: Float32Array },
  f16: { code: 1, bytes: 2, array: Uint16Array },
  bf16: { code: 2, bytes: 2, array: Uint16Array },
  i8: { code: 3, bytes: 1, array: Int8Array },
  u8: { code: 4, bytes: 1, array: Uint8Array },
  i32: { code: 5, bytes: 4, array: Int32Array },
}

export const dtypes = Object.keys(table) as Dtype[]

export const dtypeInfo = (dtype: Dtype): DtypeInfo => table[dtype]

export const isFloat = (dtype: Dtype): dtype is "f32" | "f16" | "bf16" =>
  dtype === "f32" || dtype === "f16" || dtype === "bf16"
