import t from "tap"
import { planWindows, type WindowRequest } from "../../../lib/engine/windows.ts"

const ids = Int32Array.from({ length: 23 }, (_, i) => 100 + i)

function plan(request: Partial<WindowRequest>) {
  const { window = 10 } = request
  const made = planWindows(ids, { protocol: "gptq", window, stride: window, bos: 1, ...request })
  return {
    first: made.first,
    windows: Array.from({ length: made.count }, (_, i) => [...made.tokens(i)]),
  }
}

const run = (from: number, length: number) => Array.from({ length }, (_, i) => from + i)

t.test("gptq: disjoint windows as they stand", async t => {
  t.same(plan({}), { first: 1, windows: [run(100, 10), run(110, 10)] })
  t.same(plan({ window: 23 }), { first: 1, windows: [run(100, 23)] })
})

t.test("gptq with a stride scores the end of overlapping windows", async t => {
  t.same(plan({ stride: 4 }), { first: 6, windows: [run(100, 10), run(104, 10), run(108, 10), run(112, 10)] })
  t.same(plan({ stride: 9 }), { first: 1, windows: [run(100, 10), run(109, 10)] })
})

t.test("llama.cpp: BOS replaces the first token, the second half is scored", async t => {
  t.same(plan({ protocol: "llama.cpp" }), {
    first: 6,
    windows: [
      [1, ...run(101, 9)],
      [1, ...run(111, 9)],
    ],
  })
  t.same(plan({ protocol: "llama.cpp", bos: null }).windows, [run(100, 10), run(110, 10)])
})

t.test("whole: BOS and window - 1 tokens", async t => {
  t.same(plan({ protocol: "whole" }), {
    first: 1,
    windows: [
      [1, ...run(100, 9)],
      [1, ...run(109, 9)],
    ],
  })
  t.equal(plan({ protocol: "whole", window: 24 }).windows.length, 1)
})

t.test("what cannot be planned", async t => {
  const refuses = (request: Partial<WindowRequest>, message: RegExp) =>
    t.throws(() => plan(request), { code: "ERR_OPTION", message })
  refuses({ window: 24 }, /the text has 23 tokens, one window of 24 needs 24; give a longer text or a smaller window/)
  refuses({ protocol: "whole", window: 25 }, /one window of 25 needs 24/)
  refuses({ protocol: "whole", bos: null }, /the tokenizer adds none/)
  refuses({ protocol: "llama.cpp", stride: 5 }, /stride is 5, but windows of protocol llama.cpp do not overlap/)
  refuses({ protocol: "llama.cpp", window: 2 }, /leaves nothing to score/)
  t.throws(() => planWindows(new Int32Array(0), { protocol: "gptq", window: 10, stride: 10, bos: 1 }), {
    code: "ERR_OPTION",
    message: /the text has 0 tokens/,
  })
})
