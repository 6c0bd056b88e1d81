// Perplexities of trained models under every recorded protocol, against float64 figures.
import t from "tap"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { evaluateModel } from "../../../lib/evaluate/evaluate-model.ts"
import { referenceModels } from "../models/support/reference-models.ts"

// All recorded protocols take a minute; TSQ_LONG_TESTS runs them, otherwise the two that the quality tables use.
const everything = process.env.TSQ_LONG_TESTS !== undefined
for (const { name, directory, skip, reference, text: read } of referenceModels)
  t.test(`${name}: recorded perplexities`, { skip }, async t => {
    const loaded = await loadModel(directory)
    t.teardown(() => loaded.dispose())
    for (const { file, protocol, window, tokens_scored: tokenCount, ppl } of reference().perplexity) {
      const content = read(file)
      const wanted =
        everything ||
        (name === "fable-5m" ? window === 512 && protocol !== "docs" : protocol === "gptq" && window === 512)
      if (content === null || !wanted) continue
      // "docs" is gptq over documents that begin with BOS each.
      const documents = () => content.split(/\n\n+/).filter(part => part.trim() !== "")
      const source =
        protocol === "docs"
          ? { ids: documents().flatMap(part => loaded.tokenizer.encode(part)) }
          : { text: content, protocol: protocol as "gptq" | "whole" }
      const result = await evaluateModel(loaded, { ...source, window })
      t.equal(result.tokenCount, tokenCount)
      t.ok(
        Math.abs(result.perplexity / ppl - 1) < 5e-4,
        `${protocol} ${window}: ${result.perplexity} is close to ${ppl}`,
      )
    }
  })
