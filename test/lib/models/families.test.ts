// Gemma, Phi-3, GPT-NeoX and GPT-2 against float64 forward passes over the same random weights.
import t from "tap"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { families, familyForward, familyWeights } from "./support/family-models.ts"
import { random, writeCheckpoint } from "./support/tiny-checkpoint.ts"

let seed = 100
for (const [name, config] of Object.entries(families))
  for (const dtype of ["F32", "BF16"] as const)
    t.test(`${name}, ${dtype}`, async t => {
      const vocabulary = (config.text_config ?? config).vocab_size as number
      const weights = familyWeights(config, seed++, dtype)
      const directory = t.testdir()
      writeCheckpoint(directory, config, weights, dtype)
      const next = random(99)
      // Longer than two pages of the KV cache and than every window.
      const ids = Array.from({ length: 41 }, () => Math.floor(next() * vocabulary))
      const expected = familyForward(config, weights, ids)

      const model = await loadModel(directory)
      t.teardown(() => model.dispose())
      const logits = (await model.forward(ids)).data
      let worst = 0
      let size = 0
      expected.forEach((row, i) => {
        row.forEach((value, j) => {
          worst = Math.max(worst, Math.abs(value - logits[i * vocabulary + j]!))
          size = Math.max(size, Math.abs(value))
        })
      })
      t.ok(worst < 1e-5 * Math.max(size, 1), `largest difference ${worst} of logits up to ${size}`)

      // One token at a time over the cache: every greedy choice is the float64 argmax of the whole text so far.
      const prompt = ids.slice(0, 5)
      const { tokens } = await model.complete(prompt, { maxTokens: 30, temperature: 0, ignoreEos: true })
      for (const [i, token] of tokens.entries()) {
        // Rope may depend on the length of the whole text.
        const text = [...prompt, ...tokens.slice(0, i)]
        const row = familyForward(config, weights, text).at(-1)!
        t.ok(Math.max(...row) - row[token]! < 1e-4, `token ${i} is the most likely one`)
      }
    })
