// Proves what is written here in the engines that own the formats: `npm run check:engines -- [options] [<folder of models> <folder of texts>]`.
// ONNX layers run in onnxruntime, GGUF files of every mixture in llama.cpp. fable-5m is in the repository; stories260K is taken from the folders
// where they are given. Engines are peers (docs/benchmarking.md): one that is not installed is left out, saying so.
//
//   --peers DIR      a folder whose node_modules holds the peers
//   --only NAME,…    mixtures to try; default: all
//   --families       only random models of other families, in llama.cpp
//   --json FILE      writes the results
//   --page           writes docs/engines.md
//
// Exits with 1 where something is not as it should be.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import type { OrtModule } from "../../lib/bench/backend-ort.ts"
import { findPeer, importPeer, isFound, type MissingPeer } from "../../lib/bench/peers.ts"
import { type GgufPreset, ggufPresets, isGgufPreset } from "../../lib/formats/gguf-mixes.ts"
import { familyPresets, familySubjects } from "./families.ts"
import { checkGreedy, checkMixture, type GreedyRow, type LlamaRow, type Subject } from "./llama-cpp.ts"
import { LlamaEngine } from "./llama-session.ts"
import { checkProducts, type ProductRow } from "./onnxruntime.ts"
import { enginesPage } from "./page.ts"

export interface EngineResults {
  onnxruntime: { version: string; rows: ProductRow[] } | MissingPeer
  /** `families`: of random models. */
  llama: { version: string; greedy: GreedyRow[]; rows: LlamaRow[]; families: LlamaRow[] } | MissingPeer
}

const root = fileURLToPath(new URL("../..", import.meta.url))
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    peers: { type: "string" },
    only: { type: "string" },
    families: { type: "boolean", default: false },
    json: { type: "string" },
    page: { type: "boolean", default: false },
  },
})

function subjectsOf([models, texts]: string[]): Subject[] {
  const text = (path: string) => readFileSync(path, "utf8").slice(0, 60_000)
  const subjects = [
    {
      name: "fable-5m",
      path: join(root, "models/fable-5m"),
      text: text(join(root, "models/text/fable-eval.txt")),
      calibration: text(join(root, "models/text/fable-calib.txt")),
    },
  ]
  const stories = models && texts && join(models, "stories260K")
  if (stories && existsSync(stories))
    subjects.push({
      name: "stories260K",
      path: stories,
      text: text(join(texts, "tinystories-eval.txt")),
      calibration: text(join(texts, "tinystories-calib.txt")),
    })
  else console.error("stories260K is left out: give the folders of models and texts as arguments")
  return subjects
}

function presetsOf(names: string | undefined): GgufPreset[] {
  const chosen = names?.split(",") ?? ggufPresets
  for (const name of chosen)
    if (!isGgufPreset(name)) throw new Error(`--only: ${name} is no mixture; they are ${ggufPresets.join(", ")}`)
  return chosen as GgufPreset[]
}

async function inOnnxruntime(subjects: readonly Subject[], work: string): Promise<EngineResults["onnxruntime"]> {
  const peer = findPeer("onnxruntime-node", values.peers)
  const module = isFound(peer) ? await importPeer<OrtModule>(peer) : peer
  if ("reason" in module || !isFound(peer)) return module as MissingPeer
  const rows: ProductRow[] = []
  for (const subject of subjects)
    for (const bits of [2, 4, 8] as const)
      for (const symmetric of [true, false]) {
        rows.push(await checkProducts(module, subject, { bits, symmetric }, work))
        console.error(JSON.stringify(rows.at(-1)))
      }
  return { version: `onnxruntime-node ${peer.version}`, rows }
}

async function inLlama(subjects: readonly Subject[], work: string): Promise<EngineResults["llama"]> {
  const peer = findPeer("node-llama-cpp", values.peers)
  // The models are small, and threads that wait for each other are slow where the machine has other work.
  const engine = isFound(peer) ? await LlamaEngine.start(peer, 1) : peer
  if (!(engine instanceof LlamaEngine)) return engine
  try {
    const greedy: GreedyRow[] = []
    const rows: LlamaRow[] = []
    const families: LlamaRow[] = []
    for (const subject of familySubjects(subjects[0]!, work))
      for (const preset of presetsOf(values.only).filter(name => familyPresets.includes(name))) {
        families.push(await checkMixture(engine, subject, preset, work))
        console.error(JSON.stringify(families.at(-1)))
      }
    for (const subject of values.families ? [] : subjects) {
      greedy.push(await checkGreedy(engine, subject, work))
      console.error(JSON.stringify(greedy.at(-1)))
      for (const preset of presetsOf(values.only)) {
        rows.push(await checkMixture(engine, subject, preset, work))
        console.error(JSON.stringify(rows.at(-1)))
      }
    }
    return { version: engine.version, greedy, rows, families }
  } finally {
    await engine.dispose()
  }
}

const onlyFamilies: MissingPeer = { name: "onnxruntime-node", reason: "only families were asked for" }
const subjects = subjectsOf(positionals)
const work = mkdtempSync(join(tmpdir(), "tsq-engines-"))
try {
  const results: EngineResults = {
    onnxruntime: values.families ? onlyFamilies : await inOnnxruntime(subjects, work),
    llama: await inLlama(subjects, work),
  }
  const page = enginesPage(results)
  console.log(page)
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(results, null, 2)}\n`)
  if (values.page) writeFileSync(join(root, "docs/engines.md"), page)
  const engines = [results.onnxruntime, results.llama]
  for (const engine of engines) if ("reason" in engine) console.error(`left out: ${engine.reason}`)
  const checks = engines.flatMap(engine =>
    "reason" in engine ? [] : [...engine.rows, ...("greedy" in engine ? [...engine.greedy, ...engine.families] : [])],
  )
  process.exitCode = checks.some(({ failures }) => failures.length > 0) ? 1 : 0
} finally {
  rmSync(work, { recursive: true, force: true })
}
