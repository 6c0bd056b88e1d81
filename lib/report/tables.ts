// Tables for terminals, from result objects.
import Table from "cli-table3"

const plain = {
  chars: {
    top: "",
    "top-mid": "",
    "top-left": "",
    "top-right": "",
    bottom: "",
    "bottom-mid": "",
    "bottom-left": "",
    "bottom-right": "",
    left: "",
    "left-mid": "",
    mid: "",
    "mid-mid": "",
    right: "",
    "right-mid": "",
    middle: "  ",
  },
  style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
}

export type Align = "left" | "right"

/** Columns with headers; numbers are formatted by the caller. */
export function table(head: readonly string[], aligns: readonly Align[], rows: readonly (readonly string[])[]): string {
  const out = new Table({ ...plain, head: [...head], colAligns: [...aligns] })
  for (const row of rows) out.push([...row])
  return out
    .toString()
    .split("\n")
    .map(line => line.trimEnd())
    .join("\n")
}

export const tensorTable = (
  tensors: readonly {
    name: string
    shape: readonly number[]
    dtype: string | null
    scheme: string | null
    bytes: number
  }[],
): string =>
  table(
    ["tensor", "shape", "type", "bytes"],
    ["left", "left", "left", "right"],
    tensors.map(({ name, shape, dtype, scheme, bytes }) => [
      name,
      shape.join("×"),
      scheme ?? dtype ?? "",
      bytes.toLocaleString("en"),
    ]),
  )

/** Characters of a value: the texts of templates are long. */
const metadataWidth = 72

export const metadataTable = (
  fields: readonly { key: string; type: string; value: unknown; length?: number }[],
): string =>
  table(
    ["metadata", "type", "value"],
    ["left", "left", "left"],
    fields.map(({ key, type, value, length }) => {
      const text = JSON.stringify(value)
      const short = text.length > metadataWidth ? `${text.slice(0, metadataWidth)}…` : text
      return [JSON.stringify(key).slice(1, -1), type, length === undefined ? short : `${short} of ${length}`]
    }),
  )

/** What engines say of a model: the same words once, with every tensor that they are said of. */
export function findingText(
  findings: readonly {
    engine: string
    tensor: string | null
    setting: string | null
    reason: string
    severity: string
  }[],
  engines: readonly string[],
): string {
  const lines = engines.map(engine => {
    const own = findings.filter(finding => finding.engine === engine)
    if (own.length === 0) return `${engine}: nothing to say against it`
    const said = new Map<string, string[]>()
    for (const { tensor, setting, reason, severity } of own) {
      const text = `${severity}: ${setting === null ? "" : `${setting}: `}${reason}`
      said.set(text, [...(said.get(text) ?? []), ...(tensor === null ? [] : [tensor])])
    }
    const parts = Array.from(
      said,
      ([text, tensors]) => `  ${text}${tensors.length > 0 ? `\n    ${tensors.join(", ")}` : ""}`,
    )
    return `${engine}:\n${parts.join("\n")}`
  })
  return lines.join("\n")
}

export const planTable = (
  modules: readonly {
    module: string
    shape: readonly number[]
    scheme: { bits: number; groupSize: number; symmetric: boolean } | null
    reason: string | null
  }[],
): string =>
  table(
    ["matrix", "shape", "scheme"],
    ["left", "left", "left"],
    modules.map(({ module, shape, scheme, reason }) => [
      module,
      shape.join("×"),
      scheme
        ? `${scheme.bits} bit, group ${scheme.groupSize}, ${scheme.symmetric ? "symmetric" : "asymmetric"}`
        : `left alone: ${reason}`,
    ]),
  )
