// The results of the engines as a page of docs/.
import type { EngineResults } from "./check.ts"
import { type LlamaRow, percent } from "./llama-cpp.ts"

export function enginesPage({ onnxruntime, llama }: EngineResults): string {
  const lines = ["# What the engines say", "", "Made by `npm run check:engines -- --page`; not edited by hand.", ""]
  lines.push("## llama.cpp", "")
  if ("reason" in llama) lines.push(`Left out: ${llama.reason}`)
  else {
    const { version, greedy, rows, families } = llama
    const positions = rows[0]?.positions ?? 0
    lines.push(
      `${version}. Every mixture is made of the model by \`quantizeModel\`, loaded there, and compared over ${positions} positions of windows of 512 tokens; q2_k_s with an importance matrix, the others without.`,
      "",
      "- *same*: share of positions at which llama.cpp's most probable token is ours.",
      "- *f32*: the same with the file's values decoded into f32 and attention in f32, and the largest difference of a token's NLL, in nats: what the format has to do with it.",
      "- *itself*: llama.cpp's tokens on the file and on that decoded file. It rounds activations to 8 bits before it multiplies them with blocks, and this is what comes of it.",
      '- *int8*: llama.cpp\'s tokens and ours with `activations: "int8"`, which rounds to other grids.',
      "- *gap*: where the tokens differ, how much more probable ours is to us than llama.cpp's, in nats: median and largest.",
      "- *perplexity*: by llama.cpp's protocol, ours and llama.cpp's.",
      "- *instead*: matrices whose rows do not fill the mixture's blocks, and that took the type that llama-quantize takes.",
      "",
      ...mixtureTable(rows),
      "",
      ...greedy.map(
        ({ model, prompts, tokens, ties, failures }) =>
          `${model} in F16, greedily: ${tokens} tokens after ${prompts} prompts are llama.cpp's${ties ? `; ${ties} of them part at two tokens within 0.01 nats` : ""}${failures.length ? `; **${failures.join("; ")}**` : ""}.`,
      ),
      "",
      "### Other families",
      "",
      "Small models of random weights, in the same way; sliding windows are of 100 tokens. *f32* and *NLL* are what counts: many tokens of such a model are nearly level, and experts are chosen by a hair, so that 8-bit activations and 16-bit keys move more than in a trained one, and perplexities mean nothing but that both are the same. llama.cpp takes GELU from a table of 16-bit numbers (Gemma, GPT-2, GPT-NeoX), and by tanh where GPT-NeoX has it by its definition.",
      "",
      ...mixtureTable(families),
    )
  }
  lines.push("", "## onnxruntime", "")
  if ("reason" in onnxruntime) lines.push(`Left out: ${onnxruntime.reason}`)
  else
    lines.push(
      `${onnxruntime.version}, on the CPU, accuracy level 0. Every linear of the blocks, in groups of 128 (32 where 128 does not divide), written by \`writeOnnx\` and multiplied with 16 rows;`,
      "*largest*: ‖theirs − ours‖ / ‖ours‖ of the linear where it is largest.",
      "",
      "| model | bits | | linears | largest | |",
      "|---|---|---|---|---|---|",
      ...onnxruntime.rows.map(
        ({ model, bits, symmetric, linears, largest, failures }) =>
          `| ${model} | ${bits} | ${symmetric ? "symmetric" : "asymmetric"} | ${linears} | ${largest.toExponential(1)} | ${remarks(failures, [])} |`,
      ),
    )
  return `${lines.join("\n")}\n`
}

const mixtureTable = (rows: readonly LlamaRow[]): string[] => [
  "| model | mixture | matrices | instead | same | f32 | NLL | itself | int8 | gap | perplexity | llama.cpp | |",
  "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
  ...rows.map(mixtureLine),
]

function mixtureLine(row: LlamaRow): string {
  const shares = [
    percent(row.same),
    percent(row.sameDecoded),
    row.nllDecoded.toFixed(5),
    percent(row.sameWithin),
    percent(row.sameInt8),
  ].join(" | ")
  return (
    `| ${row.model} | ${row.preset} | ${row.types} | ${row.instead || ""} | ${shares} | ${row.gapMedian.toFixed(3)}, ${row.gapLargest.toFixed(3)} | ` +
    `${row.perplexity.toFixed(4)} | ${row.llamaPerplexity.toFixed(4)} | ${remarks(row.failures, row.notes)} |`
  )
}

const remarks = (failures: readonly string[], notes: readonly string[]): string =>
  [...failures.map(text => `**${text}**`), ...notes].join("; ")
