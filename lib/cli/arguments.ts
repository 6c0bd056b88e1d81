// Parsers of command-line values, and flags that commands share.
import { type Command, InvalidArgumentError, Option } from "commander"
import { parseByteSize } from "../core/byte-size.ts"
import { TsqError } from "../core/errors.ts"
import type { LoadOptions } from "../engine/load-model.ts"
import { type OnLoadScheme, onLoadSchemes } from "../engine/on-load-schemes.ts"
import type { Activations } from "../kernels/packed-weight.ts"
import { parseKvCache } from "../models/kv-cache.ts"

export function integer(text: string): number {
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(Number(text)))
    throw new InvalidArgumentError("expected a non-negative integer")
  return Number(text)
}

export function positive(text: string): number {
  const value = integer(text)
  if (value < 1) throw new InvalidArgumentError("expected a positive integer")
  return value
}

/** "1024,2048": positive integers. */
export const integers = (text: string): number[] => text.split(",").map(item => positive(item.trim()))

export function real(text: string): number {
  const value = Number(text)
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("expected a number")
  return value
}

/** "4GB", "1.5g", "512MiB" or bytes. */
export function byteSize(text: string): number {
  const bytes = parseByteSize(text)
  if (bytes === null) throw new InvalidArgumentError("expected a size such as 4GB, 512MiB or a number of bytes")
  return bytes
}

export function groupSize(text: string): number | "channel" | "tensor" {
  return text === "channel" || text === "tensor" ? text : positive(text)
}

export const alpha = (text: string): number | "auto" => (text === "auto" ? text : Number(text))

/** "w3a16,w4a16:64,none" as candidates: schemes, each with a group size of its own behind a colon where it has one. */
export function parseCandidates(
  text: string | undefined,
): (string | { scheme: string; groupSize: unknown })[] | undefined {
  return text?.split(",").map(part => {
    const [scheme = "", size] = part.trim().split(":")
    return size === undefined ? scheme : { scheme, groupSize: /^\d+$/.test(size) ? Number(size) : size }
  })
}

/** Collects a flag that may be given several times. */
export const collect = (text: string, before: readonly string[] | undefined): readonly string[] => [
  ...(before ?? []),
  text,
]

export interface SharedFlags {
  device?: string
  threads?: number
  activations?: Activations
  kvCache?: string
  quantize?: string
  cache?: boolean
  cacheDir?: string
  json?: boolean
}

/** Flags that every command which computes takes. */
export function addComputeFlags(command: Command): Command {
  return command
    .option("--device <name>", "cpu or cuda", "cpu")
    .option("--threads <n>", "threads of the kernels (default: all CPUs of this process)", positive)
}

/** What a loaded model depends on, for commands that run one. */
export function addRunFlags(command: Command): Command {
  return addComputeFlags(command)
    .addOption(
      new Option(
        "--activations <kind>",
        "as the checkpoint's scheme says (default), exact, or int8: rounded to 8 bits",
      ).choices(["scheme", "exact", "int8"]),
    )
    .option(
      "--kv-cache <type>",
      "cached keys and values: f32, f16, int8, fp8, int4, checkpoint, or details (keys=int8,values=int4,window=64 …)",
    )
    .option(
      "--quantize <scheme>",
      `round linears that the checkpoint stores as floats as they are loaded: ${onLoadSchemes.join(", ")}`,
    )
    .option("--cache", "keep the packed weights in a file beside the model, and start from it")
    .option("--cache-dir <folder>", "keep that file in this folder")
}

/** The options of loadModel that --cache, --cache-dir, --kv-cache and --quantize stand for; loadModel checks them. */
export const loadOptions = ({
  cache,
  cacheDir,
  kvCache,
  quantize,
}: SharedFlags): Pick<LoadOptions, "cache" | "cacheDir" | "kvCache" | "quantize"> => ({
  ...(quantize !== undefined && { quantize: quantize as OnLoadScheme }),
  ...(kvCache !== undefined && { kvCache: parseKvCache(kvCache) }),
  ...((cache || cacheDir !== undefined) && { cache: true }),
  ...(cacheDir !== undefined && { cacheDir }),
})

/** What belongs to the surface and is not built yet is refused by name. cuda: whether the command computes there. */
export function refuseLater(flags: Pick<SharedFlags, "device">, { cuda = false } = {}): void {
  if (flags.device !== undefined && flags.device !== "cpu" && !cuda) {
    if (flags.device !== "cuda")
      throw new TsqError("ERR_OPTION", `--device is ${JSON.stringify(flags.device)}, expected "cpu" or "cuda"`)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      '--device "cuda" is not available in this version; leave the flag out to use the CPU',
    )
  }
}

/** An AbortSignal that Ctrl-C raises; a second Ctrl-C ends the process at once. */
export function interruptible(): { signal: AbortSignal; done: () => void } {
  const controller = new AbortController()
  const interrupt = () => {
    if (controller.signal.aborted) process.exit(130)
    controller.abort(new Error("interrupted"))
  }
  process.on("SIGINT", interrupt)
  return { signal: controller.signal, done: () => process.off("SIGINT", interrupt) }
}
