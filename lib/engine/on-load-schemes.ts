// Names of what loading may round weights to: apart from the roundings themselves, which most starts do without.

/**
 * "w8a8": a scale a row, activations of int8 by token. "fp8": E4M3 alike. "llm.int8": as bitsandbytes' load_in_8bit, columns of large
 * activations as they are. "w8a16": a scale a row, "w4a16": groups of 128, activations exact. "nf4", "fp4": blocks of 64, as
 * bitsandbytes' load_in_4bit.
 */
export const onLoadSchemes = ["w8a8", "fp8", "llm.int8", "w8a16", "w4a16", "nf4", "fp4"] as const
export type OnLoadScheme = (typeof onLoadSchemes)[number]
