// A process of its own for tests that kill it: quantizes as told by a JSON argument and writes one line a progress report.
import { quantizeModel } from "../../../lib/quantize/quantize-model.ts"

const { source, out, options } = JSON.parse(process.argv[2]!)
await quantizeModel(source, out, {
  ...options,
  onProgress: ({ stage, done }) => process.stdout.write(`${stage} ${done}\n`),
})
process.stdout.write("finished\n")
