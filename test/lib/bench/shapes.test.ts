// Shapes of models and of the command line.
import t from "tap"
import { chooseShapes, linearShapes, modelShape, modelShapes } from "../../../lib/bench/shapes.ts"

/** Weights of all linear layers, the head included. */
const linearWeights = (name: string) =>
  linearShapes(modelShape(name)).reduce((sum, { k, n, count }) => sum + k * n * count, 0)

t.test("linear shapes of a model, equal ones together", async t => {
  t.strictSame(linearShapes(modelShape("llama-3.2-1b")), [
    { k: 2048, n: 2048, modules: ["q", "o"], count: 32 },
    { k: 2048, n: 512, modules: ["k", "v"], count: 32 },
    { k: 2048, n: 8192, modules: ["gate", "up"], count: 32 },
    { k: 8192, n: 2048, modules: ["down"], count: 16 },
    { k: 2048, n: 128256, modules: ["head"], count: 1 },
  ])
  t.strictSame(
    linearShapes(modelShape("Qwen3-0.6B")).map(({ k, n }) => [k, n]),
    [
      [1024, 2048],
      [1024, 1024],
      [2048, 1024],
      [1024, 3072],
      [3072, 1024],
      [1024, 151936],
    ],
  )
})

t.test("the sizes that the models are named after", async t => {
  for (const [name, billions] of [
    ["llama-3.2-1b", 1.24],
    ["llama-3.2-3b", 3.21],
    ["llama-3-8b", 7.5],
    ["llama-3-70b", 69.5],
    ["tinyllama-1.1b", 1.03],
    ["mistral-7b", 7.11],
    ["qwen2.5-0.5b", 0.49],
    ["qwen2.5-1.5b", 1.54],
    ["qwen2.5-3b", 3.09],
    ["qwen2.5-7b", 7.07],
    ["qwen2.5-72b", 71.5],
    ["qwen3-0.6b", 0.6],
    ["qwen3-4b", 4.02],
    ["qwen3-8b", 7.57],
    ["gemma-2-2b", 2.61],
  ] as const)
    t.ok(Math.abs(linearWeights(name) / 1e9 / billions - 1) < 0.01, `${name}: ${linearWeights(name)} weights`)
  t.equal(modelShapes.length, 15)
})

t.test("names and K×N in any mixture, each shape once", async t => {
  const { shapes, models } = chooseShapes(["4096x14336", "llama-3.2-1b", "2048X8192", "64×128"])
  t.strictSame(
    models.map(model => model.name),
    ["llama-3.2-1b"],
  )
  t.strictSame(
    shapes.map(({ k, n }) => `${k}x${n}`),
    ["4096x14336", "2048x2048", "2048x512", "2048x8192", "8192x2048", "2048x128256", "64x128"],
  )
})

t.test("refusals", async t => {
  for (const [words, message] of [
    [["lama-3.2-1b"], /did you mean "llama-3\.2-1b"\?/],
    [["gpt-5"], /there are llama-3\.2-1b, /],
    [["4096"], /expected K×N/],
    [["4096x"], /expected K×N/],
    [["0x16"], /expected K and N from 1 to/],
    [["16x99999999"], /expected K and N from 1 to/],
    [[], /no shapes were given/],
  ] as const)
    t.throws(() => chooseShapes(words), { code: "ERR_OPTION", message })
})
