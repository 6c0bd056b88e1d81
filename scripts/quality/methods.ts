// Methods of rounding and transforms at every width, beside the float64 figures recorded with the models; and what they recover.

import { readFileSync } from "node:fs"
import { evaluateModel, loadModel, type QuantizeModelOptions } from "../../lib/index.ts"
import { type Context, evaluation, klText, type Measured, percent, readReference, type Subject } from "./context.ts"

interface Method {
  name: string
  reference: string | null
  options: QuantizeModelOptions
  bits: readonly number[]
}

const widths = [8, 6, 4, 3, 2] as const
/** At 8 and 6 bits methods differ by less than their errors: a few stand for them. */
const narrow = [4, 3, 2]

const methods: Method[] = [
  { name: "nearest", reference: "rtn", options: { rounding: "nearest", transforms: [] }, bits: widths },
  { name: "mse, weighted by E[x²]", reference: null, options: { rounding: "mse", transforms: [] }, bits: widths },
  { name: "GPTQ", reference: "gptq", options: { rounding: "gptq", transforms: [] }, bits: widths },
  {
    name: "GPTQ, no scale search",
    reference: null,
    options: { rounding: "gptq", transforms: [], scaleSearch: false },
    bits: narrow,
  },
  { name: "AWQ", reference: null, options: { rounding: "nearest", transforms: ["awq"] }, bits: narrow },
  { name: "AWQ + GPTQ", reference: null, options: { rounding: "gptq", transforms: ["awq"] }, bits: narrow },
  { name: "HQQ", reference: null, options: { rounding: "hqq", transforms: [] }, bits: narrow },
  { name: "LSQ", reference: null, options: { rounding: "lsq", transforms: [] }, bits: narrow },
  { name: "AutoRound", reference: null, options: { rounding: "auto-round", transforms: [] }, bits: narrow },
  { name: "Qronos", reference: null, options: { rounding: "qronos", transforms: [] }, bits: widths },
  {
    name: "AutoRound, error correction",
    reference: null,
    options: { rounding: "auto-round", transforms: [], errorCorrection: true },
    bits: narrow,
  },
  { name: "best, symmetric", reference: null, options: { preset: "best", symmetric: true }, bits: narrow },
  { name: "best", reference: null, options: { preset: "best" }, bits: [2] },
]
const measured = (context: Context, subject: Subject, bits: number, { name, options }: Method) =>
  context.measure(subject, `${bits} ${name}`, {
    ...options,
    scheme: `w${bits}a16` as NonNullable<QuantizeModelOptions["scheme"]>,
    groupSize: subject.groupSize,
    format: "compressed-tensors",
  })

/** One table a subject. */
export async function methodLines(context: Context): Promise<string[]> {
  const lines: string[] = []
  for (const subject of context.subjects) {
    const reference = readReference(subject)
    const base = await loadModel(subject.path)
    const text = readFileSync(subject.evaluation, "utf8")
    const { perplexity } = await evaluateModel(base, { text, ...evaluation }).finally(() => base.dispose())
    const recorded = reference?.perplexity.find(
      entry => entry.protocol === evaluation.protocol && entry.window === evaluation.window,
    )
    lines.push(
      `## ${subject.name}, group ${subject.groupSize}`,
      "",
      `Unquantized: perplexity ${perplexity.toFixed(6)}${recorded ? ` (reference ${recorded.ppl})` : ""}.`,
      "",
      "| bits | method | bits/weight | perplexity | KL | top token | reference perplexity | reference KL | reference top token |",
      "|---|---|---|---|---|---|---|---|---|",
    )
    const divergences = new Map<string, number[]>()
    const learned = { tensors: 0, noWorse: 0 }
    for (const bits of widths)
      for (const method of methods) {
        if (!method.bits.includes(bits)) continue
        const found = await measured(context, subject, bits, method)
        divergences.set(method.name, [...(divergences.get(method.name) ?? []), found.against.klMean])
        learned.tensors += found.learned.tensors
        learned.noWorse += found.learned.noWorse
        const known = reference?.quantization.find(entry => entry.method === method.reference && entry.bits === bits)
        const row =
          `| ${bits} | ${method.name} | ${found.bitsPerWeight.toFixed(3)} | ${found.perplexity.toFixed(4)} | ${klText(found.against)} | ${percent(found.against.topAgreement)} | ` +
          `${known ? `${known.ppl} | ${known.kl} | ${percent(known.top1)}` : "– | – | –"} |`
        lines.push(row)
        context.progress.note(`${subject.name} ${row}`)
      }
    for (const [name, list] of divergences)
      if (!list.every((kl, i) => i === 0 || kl > list[i - 1]!))
        throw new Error(`${subject.name}: KL of ${name} does not grow as bits become fewer: ${list.join(", ")}`)
    lines.push(
      "",
      `AutoRound's layer objective is no larger than that of GPTQ's codes, from which it starts, for ${learned.noWorse} of ${learned.tensors} tensors.`,
    )
    lines.push("", `KL grows with every bit less: ${widths.join(" < ")} bits holds for every method above.`, "")
  }
  return lines
}

/** Shares of nearest's KL that other methods take away. */
export async function recoveredLines(context: Context): Promise<string[]> {
  const others = methods.filter(({ name }) => name !== "nearest")
  const lines = [
    "## Share of nearest's KL recovered",
    "",
    "1 − KL / KL of nearest, at the same width and group; negative would be worse than nearest.",
    "",
    `| model | bits | ${others.map(({ name }) => name).join(" | ")} |`,
    `|---|---|${others.map(() => "---|").join("")}`,
  ]
  for (const subject of context.subjects)
    for (const bits of [4, 3, 2]) {
      const kl = async (method: Method): Promise<Measured["against"]["klMean"]> =>
        (await measured(context, subject, bits, method)).against.klMean
      const nearest = await kl(methods[0]!)
      const shares: string[] = []
      for (const method of others)
        shares.push(method.bits.includes(bits) ? percent(1 - (await kl(method)) / nearest) : "")
      lines.push(`| ${subject.name} | ${bits} | ${shares.join(" | ")} |`)
    }
  return [...lines, ""]
}
