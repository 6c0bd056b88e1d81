// One self-contained HTML page: headings, tables, plots and text samples.
import { escapeText } from "./plot.ts"

export type Part =
  | { kind: "text"; text: string }
  | { kind: "heading"; text: string }
  | { kind: "table"; head: readonly string[]; rows: readonly (readonly string[])[] }
  | { kind: "svg"; svg: string }
  | { kind: "svgs"; svgs: readonly string[] }
  | { kind: "sample"; title: string; text: string }

const style = `
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 980px; margin: 32px auto; padding: 0 20px }
table { border-collapse: collapse; margin: 16px 0; font-variant-numeric: tabular-nums }
th, td { padding: 4px 12px; text-align: right; border-bottom: 1px solid #e3e3e3 }
th:first-child, td:first-child { text-align: left }
thead th { border-bottom: 2px solid #999 }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 8px }
.grid figure { margin: 0 }
figure { margin: 24px 0 } svg { max-width: 100%; height: auto }
.sample { margin: 12px 0; padding: 8px 14px; background: #f6f6f4; border-left: 3px solid #0072b2; white-space: pre-wrap }
.sample b { display: block }
`

export function htmlPage(title: string, parts: readonly Part[]): string {
  return [
    "<!doctype html>",
    `<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">`,
    `<title>${escapeText(title)}</title><style>${style}</style></head><body>`,
    `<h1>${escapeText(title)}</h1>`,
    ...parts.map(render),
    "</body></html>",
    "",
  ].join("\n")
}

function render(part: Part): string {
  const cells = (tag: string, row: readonly string[]) =>
    row.map(cell => `<${tag}>${escapeText(cell)}</${tag}>`).join("")
  switch (part.kind) {
    case "text":
      return `<p>${escapeText(part.text)}</p>`
    case "heading":
      return `<h2>${escapeText(part.text)}</h2>`
    case "table":
      return `<table><thead><tr>${cells("th", part.head)}</tr></thead><tbody>${part.rows.map(row => `<tr>${cells("td", row)}</tr>`).join("\n")}</tbody></table>`
    case "svg":
      return `<figure>${part.svg}</figure>`
    case "svgs":
      return `<div class="grid">${part.svgs.map(svg => `<figure>${svg}</figure>`).join("\n")}</div>`
    case "sample":
      return `<div class="sample"><b>${escapeText(part.title)}</b>${escapeText(part.text)}</div>`
  }
}
