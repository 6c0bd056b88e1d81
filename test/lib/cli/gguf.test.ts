// GGUF files from the command line: made, inspected, run.
import { join } from "node:path"
import t from "tap"
import { fable, fableCalibration, folder } from "../quantize/support.ts"
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

t.test("importance matrices from the command line", async t => {
  const at = folder(t)
  const [first, second, matrix] = [join(at, "a.gguf"), join(at, "b.gguf"), join(at, "imatrix.dat")]
  const calibrate = ["--calibration", fableCalibration, "--samples", "4", "--sequence-length", "128", "--force"]
  const made = await tsq(
    "quantize",
    fable,
    first,
    "--preset",
    "q2_k_s",
    ...calibrate,
    "--save-imatrix",
    matrix,
    "--json",
  )
  t.equal(made.code, 0, made.stderr)
  t.match(onlyJson(made), { preset: "q2_k_s", rounding: "mse" })
  const given = await tsq("quantize", fable, second, "--preset", "q2_k_s", "--imatrix", matrix, "--json")
  t.equal(given.code, 0, given.stderr)
  const both = await tsq("quantize", fable, second, "--preset", "q2_k", "--imatrix", matrix, ...calibrate)
  t.match(both, { code: 1, stderr: /^ERR_OPTION: .*give one of them/ })
})
