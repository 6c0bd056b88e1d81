// The package's version, as package.json has it.
import { createRequire } from "node:module"

// "../../package.json" is right in lib/core/ and in dist/core/.
export const packageVersion: string = (createRequire(import.meta.url)("../../package.json") as { version: string })
  .version
