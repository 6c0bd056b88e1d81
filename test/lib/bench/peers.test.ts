// Finding peers: in the folder that was given first; what is missing or broken is reported.
import { join } from "node:path"
import t from "tap"
import { findPeer, importPeer, isFound } from "../../../lib/bench/peers.ts"

const peer = (name: string, manifest: object, files: Record<string, string>) => ({
  node_modules: { [name]: { "package.json": JSON.stringify({ name, version: "9.8.7", ...manifest }), ...files } },
})

t.test("CommonJS by main, ES modules by exports", async t => {
  const common = t.testdir(peer("onnxruntime-node", { main: "lib/main.js" }, {}))
  t.match(findPeer("onnxruntime-node", common), { reason: /incomplete.*main\.js/ })

  const folder = t.testdir({
    common: {
      node_modules: {
        "onnxruntime-node": {
          "package.json": JSON.stringify({ version: "9.8.7", main: "main.cjs" }),
          "main.cjs": "module.exports = { answer: 42 }",
        },
      },
    },
    esm: {
      node_modules: {
        "node-llama-cpp": {
          "package.json": JSON.stringify({
            version: "1.2.3",
            exports: { ".": { import: "./index.mjs", types: "./x" } },
          }),
          "index.mjs": "export const answer = 43",
        },
      },
    },
  })
  const first = findPeer("onnxruntime-node", join(folder, "common"))
  if (!isFound(first)) throw new Error(first.reason)
  t.match(first, { version: "9.8.7", directory: join(folder, "common", "node_modules", "onnxruntime-node") })
  t.match(await importPeer(first), { answer: 42 })
  const second = findPeer("node-llama-cpp", join(folder, "esm"))
  if (!isFound(second)) throw new Error(second.reason)
  t.equal(second.version, "1.2.3")
  t.match(await importPeer(second), { answer: 43 })
})

t.test("missing and broken peers", async t => {
  t.match(findPeer("no-such-peer" as never), { name: "no-such-peer", reason: /npm run bench:peers.*--peers/ })
  t.throws(() => findPeer("onnxruntime-node", "/no/such/folder"), { code: "ERR_IO" })
  const folder = t.testdir(
    peer("onnxruntime-node", { main: "main.cjs" }, { "main.cjs": "throw new Error('wrong machine')" }),
  )
  const found = findPeer("onnxruntime-node", folder)
  if (!isFound(found)) throw new Error(found.reason)
  t.match(await importPeer(found), { reason: /9\.8\.7 does not load: wrong machine/ })
})
