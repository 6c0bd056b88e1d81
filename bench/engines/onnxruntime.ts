// Every linear of a model's blocks as an ONNX model in onnxruntime: its product is ours.
import { join } from "node:path"
import type { OrtModule } from "../../lib/bench/backend-ort.ts"
import { randomActivations } from "../../lib/bench/samples.ts"
import { Checkpoint } from "../../lib/containers/checkpoint.ts"
import { matmul, quantize, readOnnx, Tensor, writeOnnx } from "../../lib/index.ts"

export interface ProductRow {
  model: string
  bits: number
  symmetric: boolean
  linears: number
  /** Largest ‖theirs − ours‖ / ‖ours‖ of the linears, accuracy level 0, and whose it is. */
  largest: number
  linear: string
  failures: string[]
}

const rows = 16
const bound = 1e-5

/** The operator of one layer, in the part of onnxruntime that is used. */
interface Session {
  run(feeds: Record<string, unknown>): Promise<Record<string, { data: Float32Array }>>
  release(): Promise<void>
}

export async function checkProducts(
  ort: OrtModule,
  model: { name: string; path: string },
  scheme: { bits: 2 | 4 | 8; symmetric: boolean },
  work: string,
): Promise<ProductRow> {
  const { bits, symmetric } = scheme
  const row: ProductRow = { model: model.name, bits, symmetric, linears: 0, largest: 0, linear: "", failures: [] }
  const checkpoint = await Checkpoint.open(model.path)
  try {
    for (const name of checkpoint.names.filter(each => /\.layers\..*_proj\.weight$/.test(each))) {
      const { shape } = checkpoint.entry(name)
      const [n, k] = shape as [number, number]
      const weight = Tensor.from(await checkpoint.floats(name), [n, k])
      const quantized = await quantize(weight, {
        scheme: `w${bits}a16`,
        groupSize: k % 128 === 0 ? 128 : 32,
        symmetric,
      })
      const path = join(work, "layer.onnx")
      await writeOnnx(path, { [name]: quantized }, { force: true })
      const back = (await readOnnx(path))[name]!.weight
      if (Buffer.compare(back.codes, quantized.codes) !== 0) row.failures.push(`${name}: codes come back changed`)
      const x = randomActivations(rows, k, "f32", row.linears + 1)
      const ours = matmul(x.tensor, quantized).data as Float32Array
      const theirs = await product(ort, path, name, x.floats, k)
      const off = relative(theirs, ours)
      row.linears++
      if (!(off <= row.largest)) Object.assign(row, { largest: off, linear: name })
      if (!(off <= bound)) row.failures.push(`${name}: products differ by ${off.toExponential(1)}`)
    }
    if (row.linears === 0) row.failures.push("the model has no linears")
    return row
  } finally {
    checkpoint.dispose()
  }
}

async function product(
  ort: OrtModule,
  path: string,
  name: string,
  x: ArrayLike<number>,
  k: number,
): Promise<Float32Array> {
  const create = ort.InferenceSession.create as unknown as (path: string, options: object) => Promise<Session>
  const session = await create.call(ort.InferenceSession, path, { logSeverityLevel: 3 })
  try {
    const input = new ort.Tensor("float32", Float32Array.from(x), [rows, k])
    return (await session.run({ [`${name}.input`]: input }))[`${name}.output`]!.data
  } finally {
    await session.release()
  }
}

function relative(found: Float32Array, expected: Float32Array): number {
  if (found.length !== expected.length) return Number.POSITIVE_INFINITY
  let off = 0
  let norm = 0
  for (const [i, value] of expected.entries()) {
    off += (found[i]! - value) ** 2
    norm += value ** 2
  }
  return Math.sqrt(off / norm)
}
