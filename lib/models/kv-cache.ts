// How keys and values are cached: the option, what it stands for, and the memory that it takes. See docs/kv-cache.md.
import { TsqError } from "../core/errors.ts"
import { describe, listChoices, Options } from "../core/options.ts"
import { native } from "../native.ts"
import type { ModelConfig } from "./program.ts"
import { exactPagesEach, pagePositions, pagesFor } from "./sequence.ts"

/** By the native code's numbers (native/layout/kv_page.h). */
export const kvTypes = ["f32", "f16", "int8", "fp8", "int4"] as const
export type KvType = (typeof kvTypes)[number]
const scaleKinds = ["none", "token", "channel", "tensor"] as const

export interface KvCacheDetails {
  /** Default "f32". */
  keys?: KvType
  /** Default "f32". */
  values?: KvType
  /** Hadamard rotation before they are quantized. Default: of what is int4. */
  rotate?: boolean
  /** First tokens of a sequence that stay in 16 bits, rounded up to pages of 16. Default: 4 where something is quantized. */
  sinks?: number
  /** Last tokens that stay in 16 bits, at least so many. Default: 64 where something is quantized. */
  window?: number
  /** Whether a scale of the keys belongs to a token and head, or to a channel of a page of 16 tokens. Default "token". */
  keyScales?: "token" | "channel"
  /** Columns of a head that share a scale of a token: a multiple of 32. Default: the head. */
  groupSize?: number
  /** Of int4: numbers from -8 to 7 times a scale instead of from the lowest to the highest. Default false. */
  symmetric?: boolean
}

/** "checkpoint": fp8 with the scales that the checkpoint holds (kv_cache_scheme). */
export type KvCacheOption = KvType | "checkpoint" | KvCacheDetails

interface Coding {
  type: KvType
  scales: (typeof scaleKinds)[number]
  offsets: boolean
  group: number
}

export interface KvFormat {
  keys: Coding
  values: Coding
  rotateKeys: boolean
  rotateValues: boolean
  sinkPages: number
  windowPages: number
  /** Of the keys of every layer, then of the values, where scales are the tensor's. */
  tensorScales: Float32Array | null
}

/** The option before the model is known: validated but for what depends on its heads. */
export interface KvCacheSettings extends Required<Omit<KvCacheDetails, "groupSize" | "rotate">> {
  rotate: boolean | undefined
  groupSize: number | undefined
}

const detailNames = ["keys", "values", "rotate", "sinks", "window", "keyScales", "groupSize", "symmetric"]
const limit = 2 ** 20
const isQuantized = (type: KvType): boolean => type !== "f32" && type !== "f16"

/** Reads option "kvCache". "checkpoint" is returned as it is. ERR_OPTION for what does not go together. */
export function readKvCache(options: Options): KvCacheSettings | "checkpoint" {
  const value = options.raw("kvCache")
  if (value === "checkpoint") return value
  if (value !== undefined && typeof value !== "object" && !(kvTypes as readonly unknown[]).includes(value))
    options.fail("kvCache", `${listChoices([...kvTypes, "checkpoint"])}, or an object of details`)
  const details = new Options(
    `${options.caller}: kvCache`,
    typeof value === "object" ? value : value === undefined ? {} : { keys: value, values: value },
    detailNames,
  )
  const keys = details.oneOf("keys", kvTypes, "f32")
  const values = details.oneOf("values", kvTypes, "f32")
  const keyScales = details.oneOf("keyScales", ["token", "channel"], "token")
  const channel = keyScales === "channel"
  const int4 = keys === "int4" || values === "int4"
  const quantized = isQuantized(keys) || isQuantized(values)
  const settings = {
    keys,
    values,
    keyScales,
    rotate: details.boolean("rotate", undefined),
    sinks: details.integer("sinks", { min: 0, max: limit }, quantized ? 4 : 0),
    window: details.integer("window", { min: 0, max: limit }, quantized ? 64 : 0),
    groupSize: details.integer("groupSize", { min: 32, max: limit }, undefined),
    symmetric: details.boolean("symmetric", false),
  }
  if (channel && keys !== "int8" && keys !== "int4")
    details.fail("keyScales", `"token": a channel's scale is for keys of int8 or int4, and they are ${keys}`)
  if (channel && settings.window === 0)
    details.fail("window", "at least 1: keys with a scale for every channel are quantized a page at a time")
  if (settings.groupSize !== undefined && settings.groupSize % 32 !== 0) details.fail("groupSize", "a multiple of 32")
  if (settings.symmetric && !int4) details.fail("symmetric", "false: only int4 has codes with and without an offset")
  if (!quantized && (settings.sinks > 0 || settings.window > 0 || settings.rotate === true))
    throw new TsqError(
      "ERR_OPTION",
      `${options.caller}: kvCache keeps keys in ${keys} and values in ${values}; leave out sinks, window and rotate, which are for quantized ones`,
    )
  return settings
}

/** What the settings mean for a model. */
export function kvFormat(settings: KvCacheSettings, { headDim }: Pick<ModelConfig, "headDim">): KvFormat {
  const group = Math.min(settings.groupSize ?? headDim, headDim)
  const coding = (type: KvType, channel: boolean): Coding => {
    const scales = type === "f32" || type === "f16" ? "none" : channel ? "channel" : "token"
    return { type, scales, offsets: type === "int4" && !settings.symmetric, group: scales === "token" ? group : 0 }
  }
  const { keys, values, keyScales, rotate, sinks, window } = settings
  return {
    keys: coding(keys, keyScales === "channel"),
    values: coding(values, false),
    // Rotated, channels have no outliers that scales of their own could follow.
    rotateKeys: isQuantized(keys) && (rotate ?? (keys === "int4" && keyScales === "token")),
    rotateValues: isQuantized(values) && (rotate ?? values === "int4"),
    sinkPages: pagesFor(sinks),
    // The page of the query counts, however little of it is there.
    windowPages: window === 0 ? 0 : pagesFor(window - 1) + 1,
    tensorScales: null,
  }
}

/** fp8 with scales of the checkpoint: of the keys and of the values of every layer. */
export function checkpointKvFormat(keys: ArrayLike<number>, values: ArrayLike<number>): KvFormat {
  const coding: Coding = { type: "fp8", scales: "tensor", offsets: false, group: 0 }
  const plain = { rotateKeys: false, rotateValues: false, sinkPages: 0, windowPages: 0 }
  return {
    keys: coding,
    values: coding,
    ...plain,
    tensorScales: Float32Array.from([...toArray(keys), ...toArray(values)]),
  }
}
const toArray = (values: ArrayLike<number>): number[] => Array.from(values)

/** The format as the addon takes it. */
export function nativeFormat(
  { keys, values, rotateKeys, rotateValues, sinkPages, windowPages, tensorScales }: KvFormat,
  exactPages: number,
): { numbers: Int32Array; scales: Float32Array | null } {
  const coding = ({ type, scales, offsets, group }: Coding) => [
    kvTypes.indexOf(type),
    scaleKinds.indexOf(scales),
    offsets ? 1 : 0,
    group,
  ]
  const rest = [rotateKeys ? 1 : 0, rotateValues ? 1 : 0, sinkPages, windowPages, exactPages]
  return { numbers: Int32Array.from([...coding(keys), ...coding(values), ...rest]), scales: tensorScales }
}

/** Bytes that keys and values of `sequences` of `tokens` each take. */
export function kvCacheBytes(
  { layers, kvHeads, headDim }: Pick<ModelConfig, "layers" | "kvHeads" | "headDim">,
  format: KvFormat,
  tokens: number,
  sequences = 1,
): number {
  const { numbers, scales } = nativeFormat(format, exactPagesEach(format) * sequences)
  return native.cacheBytes(layers, kvHeads, headDim, pagesFor(tokens) * sequences, numbers, scales)
}

/** "int8", "keys int8, values int4 rotated, first 16 and last 64 tokens f16". */
export function kvFormatText({ keys, values, rotateKeys, rotateValues, sinkPages, windowPages }: KvFormat): string {
  const part = ({ type, scales }: Coding, rotated: boolean) =>
    `${type}${scales === "channel" || scales === "tensor" ? ` by ${scales}` : ""}${rotated ? " rotated" : ""}`
  const [k, v] = [part(keys, rotateKeys), part(values, rotateValues)]
  const kept = [
    ...(sinkPages > 0 ? [`first ${sinkPages * pagePositions}`] : []),
    ...(windowPages > 0 ? [`last ${(windowPages - 1) * pagePositions + 1}`] : []),
  ]
  const exact = kept.length > 0 ? `, ${kept.join(" and ")} tokens f16` : ""
  return `${k === v ? k : `keys ${k}, values ${v}`}${exact}`
}

/** The textual form of the command line: a type, "checkpoint", or details such as "keys=int8,values=int4,window=128". */
export function parseKvCache(text: string): KvCacheOption {
  if (!text.includes("=")) return text as KvCacheOption
  const details: Record<string, unknown> = {}
  for (const item of text.split(",")) {
    const [name = "", value = ""] = item.split("=").map(part => part.trim())
    const key = name.replaceAll(/-(\w)/g, (_, letter: string) => letter.toUpperCase())
    if (value === "" || key in details)
      throw new TsqError(
        "ERR_OPTION",
        `--kv-cache: ${describe(item)} is no detail; expected each once, such as keys=int8,values=int4,rotate=on,sinks=4,window=64,key-scales=channel,group-size=64,symmetric=on`,
      )
    details[key] = /^\d+$/.test(value) ? Number(value) : value === "on" ? true : value === "off" ? false : value
  }
  return details as KvCacheDetails
}
