// ONNX models as containers: what is written parses without this library's reader, and hostile bytes are refused.
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { OnnxFile } from "../../../lib/containers/onnx.ts"
import { type OnnxGraph, onnxModelBytes } from "../../../lib/containers/onnx-bytes.ts"
import { OnnxWriter } from "../../../lib/containers/onnx-writer.ts"
import { message, nestedField, numberField, textField, varint } from "../../../lib/containers/protobuf.ts"
import { message as inner, messages, numbers, texts } from "./protobuf-fields.ts"
import { folder, random, tsqError } from "./support.ts"

const operators = [{ operator: "MatMulNBits", domain: "com.microsoft" }]

const graph: OnnxGraph = {
  name: "g",
  nodes: [
    {
      ...{ operator: "MatMulNBits", domain: "com.microsoft", name: "up", inputs: ["x", "w", "s"], outputs: ["y"] },
      attributes: { K: 16, N: 300 },
    },
    { operator: "Add", domain: "", name: "", inputs: ["y", "y"], outputs: ["z"], attributes: {} },
  ],
  initializers: [
    { name: "w", type: "u8", shape: [300, 1, 8] },
    { name: "s", type: "f16", shape: [300] },
    { name: "none", type: "f32", shape: [0] },
  ],
  inputs: [{ name: "x", type: "f16", shape: ["rows", 16] }],
  outputs: [{ name: "z", type: "f16", shape: ["rows", 300] }],
}
const data: Record<string, Uint8Array> = {
  w: Uint8Array.from({ length: 2400 }, (_, i) => i * 7),
  s: Uint8Array.from({ length: 600 }, (_, i) => i),
  none: new Uint8Array(0),
}
const whole = onnxModelBytes(graph, name => data[name]!)

const bytesOf = (chunks: ReturnType<typeof message>) => Buffer.concat(chunks.chunks as Uint8Array[])

/** A model whose graph has these initializers. */
const modelOf = (...initializers: ReturnType<typeof message>[]): Buffer =>
  bytesOf(
    message(
      nestedField(7, message(...initializers.map(each => nestedField(5, each)))),
      nestedField(8, numberField(2, 17)),
    ),
  )

async function opened<T>(path: string, use: (file: OnnxFile) => T | Promise<T>): Promise<T> {
  const file = await OnnxFile.open(path, operators)
  try {
    return await use(file)
  } finally {
    file.dispose()
  }
}

t.test("numbers of seven bits", async t => {
  t.strictSame([...varint(0)], [0])
  t.strictSame([...varint(127)], [127])
  t.strictSame([...varint(300)], [0xac, 0x02])
  t.strictSame([...varint(2 ** 40)], [0x80, 0x80, 0x80, 0x80, 0x80, 0x20])
})

t.test("one file, and with its data beside it", async t => {
  const directory = folder(t)
  for (const externalData of [false, true]) {
    const path = join(directory, `${externalData}.onnx`)
    const writer = await OnnxWriter.create(path, graph, { externalData })
    t.notOk(existsSync(path), "nothing has its name yet")
    for (const { name } of graph.initializers) await writer.write(name, data[name]!)
    const { files, totalBytes } = await writer.finish()
    await writer.discard()
    t.strictSame(files, externalData ? [path, `${path}.data`] : [path])
    t.equal(
      totalBytes,
      files.reduce((sum, file) => sum + statSync(file).size, 0),
    )
    const model = readFileSync(path)
    if (externalData) {
      const tensors = messages(inner(model, 7), 5)
      t.strictSame(
        tensors.map(tensor => [
          numbers(tensor, 14)[0],
          messages(tensor, 13).map(entry => [texts(entry, 1)[0], texts(entry, 2)[0]]),
        ]),
        [
          ["0", "2400"],
          ["4096", "600"],
          ["8192", "0"],
        ].map(([offset, length]) => [
          1,
          [
            ["location", "true.onnx.data"],
            ["offset", offset],
            ["length", length],
          ],
        ]),
      )
    } else t.same(model, Buffer.from(whole), "the same bytes as in memory")
    await opened(path, async file => {
      t.strictSame(
        file.nodes.map(node => ({ ...node, attributes: { ...node.attributes } })),
        [graph.nodes[0]],
        "of the operators asked for",
      )
      for (const { name, type, shape } of graph.initializers) {
        t.match(file.initializer(name), { type, shape })
        t.same(Buffer.from(await file.read(name)), Buffer.from(data[name]!))
      }
      t.throws(() => file.initializer("y"), tsqError("ERR_FORMAT", /"y" is no initializer/))
    })
  }
  t.strictSame(readdirSync(directory).sort(), ["false.onnx", "true.onnx", "true.onnx.data"], "and nothing is left over")
})

t.test("a writer refuses what is out of turn", async t => {
  const path = join(folder(t), "m.onnx")
  const attempt = async (work: (writer: OnnxWriter) => Promise<unknown>, code: string, text: RegExp) => {
    const writer = await OnnxWriter.create(path, graph)
    await t.rejects(work(writer), tsqError(code, text))
    await t.rejects(writer.finish(), tsqError("ERR_OPTION", /has failed/))
    await writer.discard()
  }
  await attempt(writer => writer.write("s", data.s!), "ERR_OPTION", /"s" has come, expected "w"/)
  await attempt(writer => writer.write("w", data.s!), "ERR_SHAPE", /needs 2400 bytes, 600 have come/)
  await attempt(writer => writer.finish(), "ERR_OPTION", /"w" has not come/)
  t.strictSame(readdirSync(join(path, "..")), [])
  await t.rejects(OnnxWriter.create("m.bin", graph), tsqError("ERR_OPTION", /name of an \.onnx file/))
  const twice = { ...graph, initializers: [...graph.initializers, graph.initializers[0]!] }
  await t.rejects(OnnxWriter.create(path, twice), tsqError("ERR_FORMAT", /"w" of an ONNX graph/))
  writeFileSync(path, "")
  await t.rejects(OnnxWriter.create(path, graph), tsqError("ERR_OPTION", /exists already/))
})

t.test("what is no model, or lies outside its folder", async t => {
  const directory = folder(t)
  const path = join(directory, "m.onnx")
  const refused = async (bytes: Uint8Array, code: string, text: RegExp, initializer?: string) => {
    writeFileSync(path, bytes)
    await t.rejects(
      opened(path, file => initializer && file.mapped(initializer)),
      tsqError(code, text),
    )
  }
  const dims = message(numberField(1, 4), numberField(2, 1), textField(8, "w"))
  const external = (...entries: [string, string][]) =>
    modelOf(
      message(
        dims,
        ...entries.map(([key, value]) => nestedField(13, message(textField(1, key), textField(2, value)))),
        numberField(14, 1),
      ),
    )
  await refused(new Uint8Array(0), "ERR_FORMAT", /0 graphs.*no ONNX model/)
  await refused(Buffer.from("GGUF is another format"), "ERR_CORRUPT", /wire type|behind the end|damaged/)
  await refused(modelOf(dims, dims), "ERR_CORRUPT", /initializer 1 is called "w"/)
  await refused(
    modelOf(message(dims, nestedField(9, textField(1, "a")))),
    "ERR_CORRUPT",
    /has 3 bytes, f32 \[4\] needs 16/,
    "w",
  )
  await refused(modelOf(message(dims, nestedField(5, numberField(1, 1)))), "ERR_UNSUPPORTED", /list of numbers/, "w")
  await refused(
    modelOf(message(numberField(2, 11), textField(8, "w"))),
    "ERR_UNSUPPORTED",
    /type that is not read/,
    "w",
  )
  writeFileSync(join(directory, "data"), new Uint8Array(20))
  writeFileSync(join(directory, "..data"), new Uint8Array(16))
  for (const location of ["../data", "/etc/passwd", "a/../../data", "C:\\data", "..", "", "a\0b"])
    await refused(external(["location", location]), "ERR_CORRUPT", /expected a file in the folder/, "w")
  await refused(external(["location", "missing"]), "ERR_IO", /missing/, "w")
  await refused(
    external(["location", "data"], ["offset", "8"]),
    "ERR_CORRUPT",
    /ends at byte 24 of data, which has 20/,
    "w",
  )
  await refused(external(["location", "data"], ["length", "17"]), "ERR_CORRUPT", /has 17 bytes/, "w")
  await refused(external(["location", "data"], ["offset", "-1"]), "ERR_CORRUPT", /offset "-1"/)
  for (const location of ["data", "..data"]) {
    writeFileSync(path, external(["location", location]))
    t.equal((await opened(path, file => file.mapped("w"))).bytes, 16)
  }
})

t.test("cut anywhere, or with any byte changed, a model is read or refused", async t => {
  const path = join(folder(t), "m.onnx")
  const numbers = random(5)
  const head = whole.length
  let refused = 0
  for (let i = 0; i < 400; i++) {
    const bytes = Buffer.from(whole.subarray(0, i < 200 ? numbers.below(head) : head))
    // The initializers' data may be anything: what stands around it is aimed at.
    if (i >= 200) bytes[i % 2 ? numbers.below(120) : head - 1 - numbers.below(140)] = numbers.below(256)
    writeFileSync(path, bytes)
    try {
      await opened(path, async file => {
        for (const name of file.initializers.keys()) await file.read(name)
      })
    } catch (error) {
      refused++
      if ((error as { name?: string }).name !== "TsqError") t.fail(`${i}: ${error}`)
    }
  }
  t.ok(refused > 250, `${refused} of 400 refused`)
})
