// Loads the addon in a worker thread. workerData: { task: "compute" } multiplies and posts the result's sum;
// { task: "endless" } posts "started" and keeps long calls running until it is terminated; { task: "exit" } ends its process
// while a call runs.
import { createRequire } from "node:module"
import { fileURLToPath } from "node:url"
import { parentPort, workerData } from "node:worker_threads"

const native = createRequire(import.meta.url)("node-gyp-build")(fileURLToPath(new URL("../../..", import.meta.url)))
native.registerError(
  class WorkerError extends Error {
    constructor(code, message) {
      super(message)
      this.code = code
    }
  },
)
const floats = (count, value) => new Float32Array(new SharedArrayBuffer(4 * count)).fill(value)

async function compute() {
  const [n, k, m] = [64, 256, 8]
  let sum = 0
  for (let round = 0; round < 50; ++round) {
    const weight = await native.packDense(floats(n * k, 1), 0, n, k, 0)
    const y = floats(m * n, 0)
    await native.matmulAsync(weight, floats(m * k, 1), 0, m, y, 0, null, 0)
    native.matmul(weight, floats(k, 1), 0, 1, y, 0, null, 0)
    sum += y.reduce((total, value) => total + value, 0)
    native.release(weight)
  }
  let code = ""
  try {
    native.matmul(workerData.foreign, floats(1, 1), 0, 1, floats(1, 1), 0, null, 0)
  } catch (error) {
    code = `${error.constructor.name} ${error.code}`
  }
  parentPort.postMessage({ sum, code, handles: native.handleCount() })
}

// A GPTQ call of about a second: long enough that termination comes in the middle.
function longCall() {
  const [n, k] = [512, 1024]
  const hessian = native.createAccumulator(0, k, 0, 0)
  const x = floats(256 * k, 0)
  for (let i = 0; i < x.length; ++i) x[i] = Math.sin(i * 0.37 + (i % 13))
  const w = x.slice(0, n * k)
  const options = {
    grid: { bits: 4, symmetric: true, groupSize: 128, perTensor: false, scaleType: 0, minZero: 0 },
    search: { steps: 100, maxShrink: 0.8, norm: 2, importance: null },
    clip: null,
    damp: 0.01,
    dampStep: 0.01,
    block: 128,
    order: 1,
  }
  return native.accumulate(hessian, x, 256).then(() => {
    const out = { codes: new Uint8Array(new SharedArrayBuffer(n * k)), scales: floats(n * 8, 0), zeros: null }
    const shared = floats(n * k, 0)
    shared.set(w)
    const call = native.gptq(shared, n, k, hessian, options, out, null, null)
    parentPort?.postMessage("started")
    return call
  })
}

if (workerData?.task === "compute") await compute()
else if (workerData?.task === "endless") for (;;) await longCall()
else {
  longCall().then(() => longCall())
  setTimeout(() => process.exit(7), 150)
}
