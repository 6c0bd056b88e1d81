// A share of what `npm run fuzz` runs.
import t from "tap"
import { folder } from "../containers/support.ts"
import { containers } from "./containers.ts"
import { fuzz } from "./fuzz.ts"

const files = process.env.TSQ_LONG_TESTS ? 200_000 : 1000

for (const container of containers)
  t.test(`damaged ${container.name} files are read or refused, never anything else`, async t => {
    const result = await fuzz(container, { files, seed: 20261122, directory: folder(t) })
    t.strictSame(result.failures.slice(0, 3), [])
    t.comment(JSON.stringify(result.outcomes))
    t.ok((result.outcomes.read ?? 0) > 5, `${result.outcomes.read} were read`)
    t.ok(files - (result.outcomes.read ?? 0) > files / 3, "and others refused")
  })
