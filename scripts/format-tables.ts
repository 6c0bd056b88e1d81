// npm run format-tables: writes the tables of docs/formats.md from what the formats do.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { roundTrips, tables, withTables } from "../test/lib/formats/round-trips.ts"

const path = new URL("../docs/formats.md", import.meta.url)
const directory = mkdtempSync(join(tmpdir(), "tsq-tables-"))
try {
  const made = tables(await roundTrips(directory))
  writeFileSync(path, withTables(readFileSync(path, "utf8"), made))
  console.log(made)
} finally {
  rmSync(directory, { recursive: true, force: true })
}
