// Every ordered pair of formats, there and back bit for bit; and docs/formats.md says what came out.
import { readFileSync } from "node:fs"
import t from "tap"
import { formats } from "../../../lib/formats/registry.ts"
import { folder } from "../containers/support.ts"
import { holders, roundTrips, tables, withTables } from "./round-trips.ts"

t.test("there and back", async t => {
  const result = await roundTrips(folder(t))
  for (const [a, row] of result.pairs)
    for (const [b, { of, held, same, failures }] of row) {
      t.strictSame(failures, [], `${a} to ${b}`)
      if (a === b) t.equal(same, of, `${a} holds what it holds, ${held}`)
    }
  for (const { name } of holders) t.ok(result.pairs.get(name)!.get(name)!.of > 0, `${name} holds one of the schemes`)
  for (const { name } of formats)
    t.ok(
      holders.some(holder => holder.name.startsWith(name)),
      name,
    )
  const document = readFileSync(new URL("../../../docs/formats.md", import.meta.url), "utf8")
  t.equal(document, withTables(document, tables(result)), "npm run format-tables brings the tables up to date")
})
