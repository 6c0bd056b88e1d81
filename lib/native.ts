// The only file that loads the addon.
import { createRequire } from "node:module"
import { fileURLToPath } from "node:url"
import type { AbortFlag, Binding } from "../binding.d.ts"
import { abortError, TsqError, throwIfAborted } from "./core/errors.ts"

export type * from "../binding.d.ts"

function load(): Binding {
  const root = fileURLToPath(new URL("..", import.meta.url))
  const require = createRequire(import.meta.url)
  let binding: Binding
  try {
    binding = require("node-gyp-build")(root) as Binding
  } catch (cause) {
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `the native addon of tsq-native does not load on ${process.platform}-${process.arch}, Node ${process.version}: ` +
        `${cause instanceof Error ? cause.message : String(cause)}. With CMake 3.22 and a C++20 compiler installed, ` +
        "`npm rebuild tsq-native --build-from-source` compiles it",
      { cause },
    )
  }
  binding.registerError(TsqError as new (code: string, message: string) => Error)
  return binding
}

export const native: Binding = load()

/**
 * Runs native work that polls an abort flag: raises the flag when `signal` aborts, and turns the addon's ERR_ABORTED into
 * the error that carries the signal's reason. Without a signal the flag is null.
 */
export async function abortable<T>(signal: AbortSignal | undefined, work: (flag: AbortFlag) => Promise<T>): Promise<T> {
  if (signal === undefined) return work(null)
  throwIfAborted(signal)
  const flag = new Int32Array(new SharedArrayBuffer(4))
  const raise = () => Atomics.store(flag, 0, 1)
  signal.addEventListener("abort", raise, { once: true })
  try {
    return await work(flag)
  } catch (error) {
    if (error instanceof TsqError && error.code === "ERR_ABORTED") throw abortError(signal)
    throw error
  } finally {
    signal.removeEventListener("abort", raise)
  }
}

const finalizers = new FinalizationRegistry<number>(handle => native.release(handle))

/** A native object with explicit disposal and a finalizer as a net. */
export class NativeHandle {
  #handle: number | null
  readonly #what: string

  constructor(handle: number, what: string) {
    this.#handle = handle
    this.#what = what
    finalizers.register(this, handle, this)
  }

  /** The handle; ERR_OPTION once disposed. */
  get value(): number {
    if (this.#handle === null)
      throw new TsqError("ERR_OPTION", `${this.#what} was disposed and cannot be used any more`)
    return this.#handle
  }

  get disposed(): boolean {
    return this.#handle === null
  }

  dispose(): void {
    if (this.#handle === null) return
    finalizers.unregister(this)
    native.release(this.#handle)
    this.#handle = null
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
