// Memory-mapped reader of ONNX models: initializers where they lie, in the model or in files beside it, and the nodes of the
// operators that are asked for. Everything else (subgraphs, functions, training) is left out.
import { dirname, join } from "node:path"
import { TsqError } from "../core/errors.ts"
import { elementCount } from "../core/tensor.ts"
import { type Mapped, NativeHandle, native } from "../native.ts"
import { Cursor } from "./cursor.ts"
import {
  externalLocation,
  fieldsOf,
  integerAttribute,
  type OnnxNode,
  type OnnxType,
  onnxBytes,
  onnxTypeOf,
} from "./onnx-types.ts"
import { type Field, FieldReader } from "./protobuf.ts"

export interface OnnxInitializer {
  name: string
  /** null for types that are not read. */
  type: OnnxType | null
  shape: readonly number[]
  /** Bytes of this model, or of a file beside it (null: those that the type needs); a text: why they cannot be had. */
  data: { location: string | null; offset: number; bytes: number | null } | string
}

export interface OnnxOperator {
  operator: string
  domain: string
}

/** Names are paths of modules; a hostile file shall not fill the memory with less of its own. */
const longestText = 65_536
const mostThings = 1 << 20
const mostDimensions = 16
const mostInputs = 16

export class OnnxFile {
  readonly path: string
  /** Of the operators asked for, in the order of the graph. */
  readonly nodes: readonly OnnxNode[]
  readonly initializers: ReadonlyMap<string, OnnxInitializer>
  readonly #mappings: Map<string | null, NativeHandle>

  private constructor(path: string, graph: ReadGraph, mapping: NativeHandle) {
    this.path = path
    this.nodes = graph.nodes
    this.initializers = graph.initializers
    this.#mappings = new Map([[null, mapping]])
  }

  /**
   * ERR_IO when the file cannot be mapped, ERR_CORRUPT or ERR_FORMAT when it is no model. `operators`: whose nodes are kept.
   */
  static async open(path: string, operators: readonly OnnxOperator[]): Promise<OnnxFile> {
    if (typeof path !== "string" || path === "")
      throw new TsqError("ERR_OPTION", "the path of an ONNX file is expected")
    const mapping = new NativeHandle(native.mapFile(path), `the mapping of ${path}`)
    try {
      const bytes = native.mappingBytes(mapping.value)
      const graph = await new ModelReader(new Cursor(mapping.value, bytes, path), operators).read(bytes)
      return new OnnxFile(path, graph, mapping)
    } catch (error) {
      mapping.dispose()
      throw error
    }
  }

  /** ERR_FORMAT when there is no such initializer. */
  initializer(name: string): OnnxInitializer {
    const found = this.initializers.get(name)
    if (!found)
      throw new TsqError(
        "ERR_FORMAT",
        `${this.path}: ${JSON.stringify(name)} is no initializer of the model; values that the graph computes are not read`,
      )
    return found
  }

  /** The stored bytes where they lie, until this is disposed. Files beside the model are opened here. */
  mapped(name: string): Mapped {
    const { type, shape, data } = this.initializer(name)
    const what = `${this.path}: initializer ${JSON.stringify(name)}`
    if (type === null) throw new TsqError("ERR_UNSUPPORTED", `${what} is of a type that is not read`)
    if (typeof data === "string") throw new TsqError("ERR_UNSUPPORTED", `${what} ${data}`)
    const expected = onnxBytes({ name, type, shape })
    const { location, offset, bytes } = data
    const mapping = this.#mapping(location, what)
    if (bytes !== null && bytes !== expected)
      throw new TsqError("ERR_CORRUPT", `${what} has ${bytes} bytes, ${type} [${shape.join(", ")}] needs ${expected}`)
    if (offset + expected > native.mappingBytes(mapping.value))
      throw new TsqError(
        "ERR_CORRUPT",
        `${what} ends at byte ${offset + expected} of ${location}, which has ${native.mappingBytes(mapping.value)}; it is truncated: download or copy it again`,
      )
    return { mapping: mapping.value, offset, bytes: expected }
  }

  /** Bytes on shared memory. */
  async read(name: string): Promise<Uint8Array> {
    const { mapping, offset, bytes } = this.mapped(name)
    const out = new Uint8Array(new SharedArrayBuffer(bytes))
    if (bytes > 0) await native.readMappingAsync(mapping, offset, out)
    return out
  }

  #mapping(location: string | null, what: string): NativeHandle {
    const known = this.#mappings.get(location)
    if (known) return known
    const name = location as string
    if (name === "" || /^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)|\0/.test(name))
      throw new TsqError(
        "ERR_CORRUPT",
        `${what} lies in ${JSON.stringify(name)}, expected a file in the folder of the model`,
      )
    const path = join(dirname(this.path), name)
    const mapping = new NativeHandle(native.mapFile(path), `the mapping of ${path}`)
    this.#mappings.set(location, mapping)
    return mapping
  }

  /** Unmaps the files. */
  dispose(): void {
    for (const mapping of this.#mappings.values()) mapping.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

interface ReadGraph {
  nodes: OnnxNode[]
  initializers: Map<string, OnnxInitializer>
}

class ModelReader {
  readonly #cursor: Cursor
  readonly #fields: FieldReader
  readonly #operators: readonly OnnxOperator[]
  readonly #graph: ReadGraph = { nodes: [], initializers: new Map() }

  constructor(cursor: Cursor, operators: readonly OnnxOperator[]) {
    this.#cursor = cursor
    this.#fields = new FieldReader(cursor)
    this.#operators = operators
  }

  async read(end: number): Promise<ReadGraph> {
    let graphs = 0
    let opsets = 0
    await this.#each(end, "the model", async field => {
      if (field.number === fieldsOf.model.opset) opsets++
      if (field.number !== fieldsOf.model.graph) return
      graphs++
      await this.#readGraph(field)
    })
    if (graphs !== 1 || opsets === 0)
      throw new TsqError(
        "ERR_FORMAT",
        `${this.#cursor.path}: has ${graphs} graphs and ${opsets} operator sets, expected one graph and its operator sets; this is no ONNX model`,
      )
    return this.#graph
  }

  /** Calls `read` for every field; what it leaves of one is left out. */
  async #each(end: number, what: string, read: (field: Field) => Promise<void> | void): Promise<void> {
    for (;;) {
      const field = await this.#fields.next(end, what)
      if (!field) return
      const done = read(field)
      if (done) await done
      this.#fields.skip(field, what)
    }
  }

  async #readGraph(graph: Field): Promise<void> {
    this.#fields.length(graph, "the graph")
    await this.#each(graph.end, "the graph", async field => {
      if (field.number === fieldsOf.graph.node) await this.#readNode(field)
      else if (field.number === fieldsOf.graph.initializer) await this.#readInitializer(field)
    })
  }

  async #readNode(node: Field): Promise<void> {
    const what = `node ${this.#graph.nodes.length}`
    const { input, output, name, operator, attribute, domain } = fieldsOf.node
    const inputs: string[] = []
    const outputs: string[] = []
    const attributes: Record<string, number> = Object.create(null) as Record<string, number>
    const texts = new Map<number, string>()
    this.#fields.length(node, what)
    await this.#each(node.end, what, async field => {
      const list = field.number === input ? inputs : field.number === output ? outputs : null
      if (list) {
        // What the operators here take is fewer; others may have any number.
        if (list.length < mostInputs) list.push(this.#text(field, what))
      } else if (field.number === attribute) await this.#readAttribute(field, what, attributes)
      else if ([name, operator, domain].includes(field.number as 3)) texts.set(field.number, this.#text(field, what))
    })
    const found = { operator: texts.get(operator) ?? "", domain: texts.get(domain) ?? "" }
    if (!this.#operators.some(wanted => wanted.operator === found.operator && wanted.domain === found.domain)) return
    this.#checkCount(this.#graph.nodes.length, "nodes")
    this.#graph.nodes.push({ ...found, name: texts.get(name) ?? "", inputs, outputs, attributes })
  }

  async #readAttribute(attribute: Field, what: string, found: Record<string, number>): Promise<void> {
    let name = ""
    let integer: number | null = null
    let type = integerAttribute as number
    this.#fields.length(attribute, what)
    await this.#each(attribute.end, what, field => {
      if (field.number === fieldsOf.attribute.name) name = this.#text(field, what)
      else if (field.number === fieldsOf.attribute.integer && field.bytes === null) integer = field.value
      else if (field.number === fieldsOf.attribute.type && field.bytes === null) type = field.value
    })
    // A value of 0 may be left out.
    if (type === integerAttribute && Object.keys(found).length < mostInputs) found[name] = integer ?? 0
  }

  async #readInitializer(tensor: Field): Promise<void> {
    const { initializers } = this.#graph
    const what = `initializer ${initializers.size}`
    const { tensor: fields } = fieldsOf
    const shape: number[] = []
    const external = new Map<string, string>()
    let name = ""
    let type = 0
    let isExternal = false
    let data: OnnxInitializer["data"] | null = null
    this.#fields.length(tensor, what)
    await this.#each(tensor.end, what, async field => {
      switch (field.number) {
        case fields.dims:
          shape.push(...this.#fields.numbers(field, what, mostDimensions))
          if (shape.length > mostDimensions)
            throw this.#cursor.corrupt(`${what} has more than ${mostDimensions} dimensions`)
          break
        case fields.type:
          type = field.value
          break
        case fields.name:
          name = this.#text(field, what)
          break
        case fields.raw:
        case fields.floats: {
          // Floats in one piece are what raw data would be.
          const place = { location: null, offset: this.#cursor.position, bytes: this.#fields.length(field, what) }
          data = data === null ? place : "has its data in several pieces; save it as raw data"
          break
        }
        case fields.segment:
        case fields.ints:
          data = "has its data as a list of numbers or in segments; save it as raw data"
          break
        case fields.external:
          await this.#readEntry(field, what, external)
          break
        case fields.location:
          isExternal = field.value === externalLocation
      }
    })
    if (name === "" || initializers.has(name))
      throw this.#cursor.corrupt(`${what} is called ${JSON.stringify(name)}, which is no name of its own`)
    elementCount(shape, `${this.#cursor.path}: initializer ${JSON.stringify(name)}`)
    this.#checkCount(initializers.size, "initializers")
    const place = isExternal ? this.#externalPlace(external, name) : (data ?? { location: null, offset: 0, bytes: 0 })
    initializers.set(name, { name, type: onnxTypeOf(type), shape, data: place })
  }

  async #readEntry(entry: Field, what: string, found: Map<string, string>): Promise<void> {
    let key = ""
    let value = ""
    this.#fields.length(entry, what)
    await this.#each(entry.end, what, field => {
      if (field.number === fieldsOf.entry.key) key = this.#text(field, what)
      else if (field.number === fieldsOf.entry.value) value = this.#text(field, what)
    })
    if (found.size < mostInputs) found.set(key, value)
  }

  #externalPlace(entries: ReadonlyMap<string, string>, name: string): OnnxInitializer["data"] {
    const integer = (key: string): number | null => {
      const text = entries.get(key)
      if (text === undefined) return null
      const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN
      if (!Number.isSafeInteger(value))
        throw this.#cursor.corrupt(
          `initializer ${JSON.stringify(name)} has the ${key} ${JSON.stringify(text.slice(0, 60))}, expected a number of bytes`,
        )
      return value
    }
    return {
      location: entries.get("location") ?? "",
      offset: integer("offset") ?? 0,
      bytes: integer("length"),
    }
  }

  #text(field: Field, what: string): string {
    return this.#fields.text(field, what, longestText)
  }

  #checkCount(count: number, what: string): void {
    if (count >= mostThings)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${this.#cursor.path}: has more than ${mostThings} ${what}, which is not read`,
      )
  }
}
