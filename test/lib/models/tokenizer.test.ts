import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t, { type Test } from "tap"
import { StreamDecoder } from "../../../lib/models/stream-decoder.ts"
import { loadTokenizer } from "../../../lib/models/tokenizer.ts"
import { fable, referenceModels } from "./support/reference-models.ts"
import { letterTokenizer } from "./support/tiny-checkpoint.ts"

for (const model of referenceModels)
  t.test(model.name, { skip: model.skip }, async t => {
    const tokenizer = await loadTokenizer(model.directory)
    const cases = model.tokenizerCases()

    t.test("ids and texts of an independent implementation", async t => {
      t.ok(cases.length > 40)
      for (const { text, ids, decoded } of cases) {
        t.same(tokenizer.encode(text), ids, JSON.stringify(text))
        t.equal(tokenizer.decode(ids), decoded, JSON.stringify(text))
      }
    })

    t.test("a stream says the same as the whole, whatever characters its tokens cut", async t => {
      for (const { text, ids, decoded } of cases) {
        const decoder = tokenizer.streamDecoder()
        const streamed = ids.map(id => decoder.push(id)).join("") + decoder.finish()
        t.equal(streamed, decoded, JSON.stringify(text))
      }
    })

    t.test("a stream that continues a prompt keeps the leading space", async t => {
      const { ids, greedy_ids: generated } = model.reference().prompts[0]!
      const decoder = tokenizer.streamDecoder(ids)
      const pieces = generated.map(id => decoder.push(id))
      const streamed = pieces.join("") + decoder.finish()
      t.equal(tokenizer.decode(ids) + streamed, tokenizer.decode([...ids, ...generated]))
      t.ok(streamed.startsWith(" "))
      t.ok(pieces.filter(piece => piece !== "").length > generated.length / 2, "text comes as it is generated")
    })

    t.test("BOS", async t => {
      const bos = tokenizer.bosTokenId
      t.equal(bos, cases[0]!.ids[0])
      t.same(tokenizer.encode("", { addSpecial: false }), [])
      t.same(tokenizer.encode("a", { addSpecial: false }), tokenizer.encode("a").slice(1))
    })

    t.test("a long text is encoded off the event loop, to the same ids", async t => {
      const text = cases
        .map(({ text }) => text)
        .join(" ")
        .repeat(40)
      t.ok(text.length > 20_000)
      t.same(await tokenizer.encodeAsync(text), tokenizer.encode(text))
      t.same(await tokenizer.encodeAsync(text, { addSpecial: false }), tokenizer.encode(text, { addSpecial: false }))
    })
  })

t.test("a character that never completes comes out at the end", async t => {
  const tokenizer = await loadTokenizer(fable.directory)
  const ids = tokenizer.encode("😀", { addSpecial: false })
  t.ok(ids.length > 1)
  const decoder = tokenizer.streamDecoder()
  t.same(
    ids.slice(0, -1).map(id => decoder.push(id)),
    ids.slice(0, -1).map(() => ""),
  )
  t.equal(decoder.finish(), "\uFFFD")
})

t.test("special tokens, padding ids and bad ids", async t => {
  const tokenizer = await loadTokenizer(fable.directory)
  t.equal(tokenizer.vocabularySize, 2048)
  t.same(tokenizer.eosTokenIds, [0])
  t.equal(tokenizer.decode([0, 98, 0], { skipSpecial: false }), "<|endoftext|>a<|endoftext|>")
  t.equal(tokenizer.decode([]), "")
  t.equal(tokenizer.decode([5000]), "", "an id that the vocabulary is padded with")
  for (const id of [-1, 0.5, Number.NaN])
    t.throws(() => tokenizer.decode([1, id]), { code: "ERR_OPTION", message: /ids\[1\]/ })
  t.throws(() => tokenizer.encode(undefined as never), { code: "ERR_OPTION", message: /text is undefined/ })
})

const messages = [{ role: "user", content: "Hi" }]

function directoryWith(t: Test, files: Record<string, string>): string {
  const directory = t.testdir()
  writeFileSync(join(directory, "tokenizer.json"), JSON.stringify(letterTokenizer(20)))
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(directory, name, ".."), { recursive: true })
    writeFileSync(join(directory, name), text)
  }
  return directory
}

t.test("chat templates", async t => {
  const template =
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
  const config = { bos_token: { content: "<s>" }, eos_token: "</s>", chat_template: template }
  const directory = directoryWith(t, { "tokenizer_config.json": JSON.stringify(config) })
  const tokenizer = await loadTokenizer(directory)
  t.equal(tokenizer.renderChat(messages), "<s><user>Hi</s><assistant>")
  t.equal(tokenizer.renderChat(messages, { addGenerationPrompt: false }), "<s><user>Hi</s>")

  t.test("files come before tokenizer_config.json", async t => {
    writeFileSync(join(directory, "chat_template.jinja"), "file {{ extra }}")
    mkdirSync(join(directory, "additional_chat_templates"))
    writeFileSync(join(directory, "additional_chat_templates", "tools.jinja"), "tools")
    const again = await loadTokenizer(directory)
    t.equal(again.renderChat(messages, { variables: { extra: 7 } }), "file 7")
    t.equal(again.renderChat(messages, { template: "tools" }), "tools")
    t.throws(() => again.renderChat(messages, { template: "rag" }), {
      code: "ERR_OPTION",
      message: /no chat template "rag"; the model has default, tools/,
    })
  })

  t.test("a list of named templates", async t => {
    const list = [{ name: "default", template: "{{ raise_exception('roles must alternate') }}" }]
    const named = await loadTokenizer(
      directoryWith(t, { "tokenizer_config.json": JSON.stringify({ chat_template: list }) }),
    )
    t.throws(() => named.renderChat(messages), { code: "ERR_OPTION", message: /roles must alternate/ })
  })

  t.test("none, and one that cannot be parsed", async t => {
    const none = await loadTokenizer(directoryWith(t, {}))
    t.same(none.chatTemplates, [])
    t.throws(() => none.renderChat(messages), { code: "ERR_OPTION", message: /no chat template/ })
    const broken = await loadTokenizer(directoryWith(t, { "chat_template.jinja": "{% if %}" }))
    t.throws(() => broken.renderChat(messages), { code: "ERR_FORMAT", message: /cannot be parsed/ })
  })
})

t.test("files that are no tokenizer", async t => {
  await t.rejects(loadTokenizer(t.testdir()), { code: "ERR_FORMAT", message: /has no tokenizer.json/ })
  const bad = (text: string) => loadTokenizer(directoryWith(t, { "tokenizer.json": text }))
  await t.rejects(bad("{"), { code: "ERR_FORMAT", message: /tokenizer.json is not valid JSON/ })
  await t.rejects(bad("[]"), { code: "ERR_FORMAT", message: /does not hold a JSON object/ })
  await t.rejects(bad('{"model":{}}'), { code: "ERR_FORMAT", message: /does not describe a tokenizer/ })
  const unknown = { ...letterTokenizer(20), decoder: { type: "Other" } }
  await t.rejects(bad(JSON.stringify(unknown)), { code: "ERR_FORMAT", message: /Unknown Decoder type: Other/ })
})

t.test("a text that never completes a character is decoded a stretch at a time", async t => {
  let decoded = 0
  // One broken byte a token.
  const decoder = new StreamDecoder(ids => {
    decoded += ids.length
    return "\uFFFD".repeat(ids.length)
  })
  let text = ""
  for (let i = 0; i < 5000; i++) text += decoder.push(i)
  text += decoder.finish()
  t.equal(text, "\uFFFD".repeat(5000))
  t.ok(decoded < 100 * 5000, `${decoded} tokens decoded`)
})
