import t, { type Test } from "tap"
import { readGenerationDefaults } from "../../../lib/models/generation-config.ts"

const read = (t: Test, value?: unknown) =>
  readGenerationDefaults(t.testdir(value === undefined ? {} : { "generation_config.json": JSON.stringify(value) }))

const plain = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, maxTokens: null, eosTokenIds: [] }

t.test("no file, and a file that says nothing", async t => {
  t.same(await read(t), plain)
  t.same(
    await read(t, { transformers_version: "4.40.0", temperature: 0.6 }),
    plain,
    "temperature counts with do_sample only",
  )
})

t.test("everything stated", async t => {
  const stated = {
    do_sample: true,
    temperature: 0.6,
    top_k: 20,
    top_p: 0.95,
    min_p: 0.05,
    repetition_penalty: 1.05,
    max_new_tokens: 99,
    eos_token_id: [7, 8],
  }
  t.same(await read(t, stated), {
    temperature: 0.6,
    topK: 20,
    topP: 0.95,
    minP: 0.05,
    repetitionPenalty: 1.05,
    maxTokens: 99,
    eosTokenIds: [7, 8],
  })
  t.match(await read(t, { do_sample: true, eos_token_id: 3 }), { temperature: 1, eosTokenIds: [3] })
})

t.test("values that make no sense", async t => {
  await t.rejects(read(t, { top_p: 2 }), {
    code: "ERR_FORMAT",
    message: /generation_config.json: top_p is 2; expected at most 1/,
  })
})
