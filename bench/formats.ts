// How fast checkpoints are read and written beside a plain copy of the same bytes, and what packing costs a quantization.
//   npx tsx bench/formats.ts [--gigabytes 2] [--rounds 5] [--folder DIR]
// Every measure is interleaved with a plain one that moves the same bytes by the same calls; both work on the page cache, nothing is synced.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { open, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { Checkpoint } from "../lib/containers/checkpoint.ts"
import { writeFully } from "../lib/containers/disk.ts"
import { GgufFile } from "../lib/containers/gguf.ts"
import { ggmlTypeNamed } from "../lib/containers/gguf-types.ts"
import { GgufWriter } from "../lib/containers/gguf-writer.ts"
import { type NamedTensor, SafetensorsWriter } from "../lib/containers/safetensors-writer.ts"
import { sharedBytes } from "../lib/core/tensor.ts"
import { formats } from "../lib/formats/registry.ts"
import { native } from "../lib/native.ts"
import { quantizeModel } from "../lib/quantize/quantize-model.ts"

const { values } = parseArgs({
  options: {
    gigabytes: { type: "string", default: "2" },
    rounds: { type: "string", default: "5" },
    folder: { type: "string", default: tmpdir() },
    model: { type: "string", default: new URL("../models/fable-5m", import.meta.url).pathname },
  },
})
const folder = mkdtempSync(join(values.folder, "tsq-formats-"))
const [rows, columns] = [4096, 4096]
const tensorBytes = rows * columns * 2
const count = Math.max(1, Math.round((Number(values.gigabytes) * 1e9) / tensorBytes))
const bytes = count * tensorBytes

const source = sharedBytes(tensorBytes)
for (let i = 0; i < source.length; i += 4096) source[i] = i / 4096
const names = Array.from({ length: count }, (_, i) => `model.layers.${String(i).padStart(3, "0")}.weight`)
const tensors: NamedTensor[] = names.map(name => ({ name, dtype: "BF16", shape: [rows, columns], data: source }))
const plan = names.map(name => ({ name, type: ggmlTypeNamed("BF16")!, shape: [rows, columns] }))

async function writeSafetensors(directory: string): Promise<void> {
  mkdirSync(directory)
  writeFileSync(join(directory, "config.json"), "{}")
  const writer = new SafetensorsWriter(directory, { tensors })
  for (const tensor of tensors) await writer.add(tensor)
  await writer.finish()
}

/** Without a list of what will come, as where formats decide tensor by tensor. */
async function writeUnplanned(directory: string): Promise<void> {
  mkdirSync(directory)
  const writer = new SafetensorsWriter(directory)
  for (const tensor of tensors) await writer.add(tensor)
  await writer.finish()
}

async function writeGguf(directory: string): Promise<void> {
  mkdirSync(directory)
  const writer = await GgufWriter.create(join(directory, "model.gguf"), { metadata: new Map(), tensors: plan })
  for (const name of names) await writer.write(name, source)
  await writer.finish()
}

async function writePlainly(directory: string, sync: boolean): Promise<void> {
  mkdirSync(directory)
  const file = await open(join(directory, "plain"), "wx")
  for (let i = 0; i < count; i++) await writeFully(file, source)
  if (sync) await file.sync()
  await file.close()
}

const target = sharedBytes(tensorBytes)

async function readPlainly(path: string): Promise<void> {
  const mapping = native.mapFile(path)
  for (let i = 0; i < count; i++) await native.readMappingAsync(mapping, i * tensorBytes, target)
  native.release(mapping)
}

async function readCheckpoint(directory: string): Promise<void> {
  const checkpoint = await Checkpoint.open(directory)
  for (const name of checkpoint.names) await checkpoint.readBytes(name)
  checkpoint.dispose()
}

async function readGguf(path: string): Promise<void> {
  const file = await GgufFile.open(path)
  for (const { offset, bytes } of file.entries.values())
    await native.readMappingAsync(file.mapping.value, offset, sharedBytes(bytes))
  file.dispose()
}

const seconds = async (work: () => Promise<unknown>): Promise<number> => {
  const start = performance.now()
  await work()
  return (performance.now() - start) / 1000
}

const median = (list: readonly number[]) => [...list].sort((a, b) => a - b)[list.length >> 1]!
const fixed = (list: readonly number[]) =>
  `${median(list).toFixed(2)} (${Math.min(...list).toFixed(2)} to ${Math.max(...list).toFixed(2)})`

async function compare(what: string, ours: () => Promise<unknown>, plain: () => Promise<unknown>): Promise<void> {
  const ratios: number[] = []
  const speeds: number[] = []
  for (let round = 0; round <= Number(values.rounds); round++) {
    // Each goes first in every other round; the first round warms up.
    const first = round % 2 === 0
    const before = first ? await seconds(plain) : 0
    const mine = await seconds(ours)
    const other = first ? before : await seconds(plain)
    if (round === 0) continue
    ratios.push(other / mine)
    speeds.push(bytes / 1e9 / mine)
  }
  console.log(`${what}: ${fixed(ratios)} of a plain copy's speed, ${fixed(speeds)} GB/s, ${ratios.length} rounds`)
}

/** Runs in a folder of its own, which is gone afterwards. */
const inFolder = (name: string, work: (directory: string) => Promise<unknown>) => async () => {
  const directory = join(folder, name)
  await rm(directory, { recursive: true, force: true })
  await work(directory)
}

/** Share of a quantization's time that goes into the formats' own tensors. */
async function packing(): Promise<void> {
  for (const format of formats.filter(({ name }) => ["gptq", "awq", "compressed-tensors"].includes(name))) {
    const write = format.write.bind(format)
    let inside = 0
    format.write = async (...given) => {
      const start = performance.now()
      const written = await write(...given)
      inside += (performance.now() - start) / 1000
      return written
    }
    const options = { format: format.name, groupSize: 64, symmetric: format.name !== "awq", force: true } as const
    const all = await seconds(() => quantizeModel(values.model, join(folder, "quantized"), options))
    console.log(
      `packing for ${format.name}: ${((100 * inside) / all).toFixed(1)} % of ${all.toFixed(2)} s of a quantization to nearest codes`,
    )
    format.write = write
  }
}

try {
  console.log(`${(bytes / 1e9).toFixed(2)} GB in ${count} tensors, in ${values.folder}`)
  await writeSafetensors(join(folder, "st"))
  await writeGguf(join(folder, "gg"))
  await writePlainly(join(folder, "pl"), false)
  const plain = () => readPlainly(join(folder, "pl", "plain"))
  await compare("reading safetensors", () => readCheckpoint(join(folder, "st")), plain)
  await compare("reading GGUF", () => readGguf(join(folder, "gg", "model.gguf")), plain)
  await rm(join(folder, "gg"), { recursive: true })
  await rm(join(folder, "st"), { recursive: true })
  const plainly = inFolder("plain", directory => writePlainly(directory, false))
  await compare("writing safetensors, planned", inFolder("out", writeSafetensors), plainly)
  await compare("writing safetensors, unplanned", inFolder("out", writeUnplanned), plainly)
  await compare(
    "writing GGUF, synced",
    inFolder("out", writeGguf),
    inFolder("plain", directory => writePlainly(directory, true)),
  )
  await packing()
} finally {
  rmSync(folder, { recursive: true, force: true })
}
