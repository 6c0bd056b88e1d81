// Schemes that are rounded to the nearest value, each as its own engine has it.
import type { QuantizeModelOptions } from "../../lib/index.ts"
import { type Context, klText, orUnsupported, percent } from "./context.ts"

const schemes: { name: string; options: QuantizeModelOptions }[] = [
  { name: "w8a16, by channel", options: { scheme: "w8a16", groupSize: "channel", format: "compressed-tensors" } },
  { name: "w8a8, by channel and token", options: { scheme: "w8a8", format: "compressed-tensors" } },
  { name: "llm.int8", options: { scheme: "llm.int8", format: "bitsandbytes" } },
  { name: "fp8 (e4m3)", options: { scheme: "fp8" } },
  { name: "nf4, blocks of 64", options: { scheme: "nf4", format: "bitsandbytes" } },
  {
    name: "nf4, double quantization",
    options: { scheme: "nf4", format: "bitsandbytes", doubleQuantization: true },
  },
  { name: "fp4, blocks of 64", options: { scheme: "fp4", format: "bitsandbytes" } },
  { name: "int4, groups of 64", options: { scheme: "w4a16", groupSize: 64, format: "compressed-tensors" } },
  { name: "mxfp4", options: { scheme: "mxfp4", format: "compressed-tensors" } },
  { name: "nvfp4", options: { scheme: "nvfp4", format: "compressed-tensors" } },
]

export async function schemeLines(context: Context): Promise<string[]> {
  const lines = [
    "## Schemes",
    "",
    "Rounded to the nearest value, without calibration. Activations are exact, except where the scheme rounds them.",
    "",
  ]
  for (const subject of context.subjects) {
    lines.push(
      `### ${subject.name}`,
      "",
      "| scheme | bits/weight | perplexity | KL | top token |",
      "|---|---|---|---|---|",
    )
    for (const { name, options } of schemes) {
      const found = await orUnsupported(
        context.measure(subject, name, { ...options, rounding: "nearest", transforms: [] }),
      )
      lines.push(
        typeof found === "string"
          ? `| ${name} | not measured: ${found.replaceAll("|", "\\|").replaceAll(subject.path, subject.name)} | | | |`
          : `| ${name} | ${found.bitsPerWeight.toFixed(3)} | ${found.perplexity.toFixed(4)} | ${klText(found.against)} | ${percent(found.against.topAgreement)} |`,
      )
    }
    lines.push("")
  }
  return lines
}
