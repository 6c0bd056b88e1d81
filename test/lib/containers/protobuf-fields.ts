// Reads protocol buffers without a schema, for tests of the encoder.

export type Field = { field: number; value: number | Uint8Array }

export function fields(bytes: Uint8Array): Field[] {
  const found: Field[] = []
  let at = 0
  const varint = () => {
    let value = 0
    for (let shift = 1; ; shift *= 128) {
      const byte = bytes[at++]!
      value += (byte % 128) * shift
      if (byte < 128) return value
    }
  }
  while (at < bytes.length) {
    const key = varint()
    const type = key % 8
    if (type === 0) found.push({ field: key >> 3, value: varint() })
    else if (type === 2) {
      const length = varint()
      found.push({ field: key >> 3, value: bytes.subarray(at, at + length) })
      at += length
    } else throw new Error(`wire type ${type} at ${at}`)
  }
  if (at !== bytes.length) throw new Error("a field reaches over the end")
  return found
}

const values = (bytes: Uint8Array, field: number) =>
  fields(bytes)
    .filter(each => each.field === field)
    .map(each => each.value)

export const messages = (bytes: Uint8Array, field: number) => values(bytes, field) as Uint8Array[]
export const message = (bytes: Uint8Array, ...path: number[]): Uint8Array =>
  path.reduce((inner, field) => messages(inner, field)[0]!, bytes)
export const numbers = (bytes: Uint8Array, field: number) => values(bytes, field) as number[]
export const texts = (bytes: Uint8Array, field: number) =>
  messages(bytes, field).map(each => new TextDecoder().decode(each))
