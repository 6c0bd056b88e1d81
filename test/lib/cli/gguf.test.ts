// GGUF files from the command line: made, inspected, run.
import { join } from "node:path"
import t from "tap"
import { fable, folder } from "../quantize/support.ts"
import { onlyJson, tsq } from "./support.ts"

t.test("quantize to a GGUF file, inspect and generate from it", async t => {
  const out = join(folder(t), "fable.gguf")
  const made = await tsq("quantize", fable, out, "--preset", "q4_k_m", "--json")
  t.equal(made.code, 0, made.stderr)
  const report = onlyJson(made)
  t.match(report, { out, format: "gguf", preset: "q4_k_m", architecture: "llama" })
  const again = await tsq("quantize", fable, out, "--preset", "q4_k_m", "--force")
  t.match(again.stdout, /fable\.gguf: \d+ tensors at 4\.\d+ bits per weight, 10\.5 MB to 3\.\d+ MB/)
  const inspected = onlyJson(await tsq("inspect", out, "--json"))
  t.match(inspected, { architecture: "llama", format: "gguf", scheme: "mixed" })
  const text = await tsq("generate", out, "--prompt", "Once", "--max-tokens", "8", "--temperature", "0")
  t.equal(text.code, 0, text.stderr)
  t.ok(text.stdout.length > 8)
  const plan = await tsq("quantize", fable, out, "--preset", "q4_k_m", "--plan")
  t.match(plan, { code: 1, stderr: /^ERR_OPTION: --plan is for folders/ })
})
