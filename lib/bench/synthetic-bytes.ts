// Random bytes for made-up weights, as fast as memory: the same for the same name, different for every other.
import { createCipheriv, createHash } from "node:crypto"

// An AES key stream: the cipher of zeros.
const zeros = new Uint8Array(1 << 22)

/** A stream of random bytes that depends on `name` alone. */
export class RandomBytes {
  readonly #cipher: ReturnType<typeof createCipheriv>

  constructor(name: string) {
    const key = createHash("sha256").update(name).digest()
    this.#cipher = createCipheriv("aes-128-ctr", key.subarray(0, 16), key.subarray(16))
  }

  /** The next bytes of the stream. */
  fill(out: Uint8Array): Uint8Array {
    for (let at = 0; at < out.length; at += zeros.length) {
      const count = Math.min(zeros.length, out.length - at)
      out.set(this.#cipher.update(zeros.subarray(0, count)), at)
    }
    return out
  }
}

/** `count` f16 numbers of `magnitude` times 1 to 2 (as a power of two allows), with random signs where asked. */
export function randomHalves(random: RandomBytes, count: number, magnitude: number, signed: boolean): Uint16Array {
  const out = new Uint16Array(count)
  random.fill(new Uint8Array(out.buffer))
  const exponent = Math.min(Math.max(Math.floor(Math.log2(magnitude)) + 15, 1), 30)
  const mask = signed ? 0x83ff : 0x03ff
  for (let i = 0; i < count; i++) out[i] = (out[i]! & mask) | (exponent << 10)
  return out
}
