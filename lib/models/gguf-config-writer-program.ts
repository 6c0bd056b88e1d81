// What the metadata of a GGUF file is read off a program with, and what llama.cpp computes of it.
import { f32, string, u32 } from "../containers/gguf-fields.ts"
import type { GgufValue } from "../containers/gguf-types.ts"
import { TsqError } from "../core/errors.ts"
import type { DecoderConfig } from "./config.ts"
import type { ModelProgram, Op } from "./program.ts"
import { type Rope, yarnMagnitude } from "./rope.ts"

/** Of a family, without the architecture's name in front of the keys. */
export interface FamilyFields {
  values: Record<string, GgufValue>
  computed?: ReadonlyMap<string, Float32Array>
  notes?: readonly string[]
}

export function refuse(what: string): never {
  throw new TsqError("ERR_UNSUPPORTED", `config.json: the model has ${what}; it cannot be written as GGUF`)
}

/** Of all sections. The numbers of parameters are those of native/program/program.h. */
export const opsOf = (program: ModelProgram, kind: Op["kind"]): readonly Op[] =>
  program.sections.flatMap(({ ops }) => ops.filter(op => op.kind === kind))

/** The attention of every layer. */
export const attentionsOf = (program: ModelProgram) =>
  program.blocks.map(section => {
    const { p } = program.sections[section]!.ops.find(({ kind }) => kind === "attention")!
    return { scale: p[3]!, window: p[4]!, softcap: p[5]! }
  })

/** Windows that a text can outgrow. */
export const windowsOf = (program: ModelProgram): number[] =>
  attentionsOf(program).flatMap(({ window }) => (window > 0 && window < program.config.maxContext ? [window] : []))

/** ERR_UNSUPPORTED for biases of modules that `mayHave` does not match. */
export function checkBiases(program: ModelProgram, architecture: string, mayHave: RegExp): void {
  for (const { weights } of program.sections)
    for (const slot of weights)
      if (slot.kind === "linear" && slot.bias !== null && !mayHave.test(slot.module))
        refuse(`a bias of ${slot.module}, for which architecture "${architecture}" has no tensor in llama.cpp`)
}

/** ERR_UNSUPPORTED for another activation than `only`, an ActivationCode. */
export function checkActivation(program: ModelProgram, only: number, name: string): void {
  for (const { p } of [...opsOf(program, "gated"), ...opsOf(program, "activate")])
    if (p[0] !== only)
      refuse(`an activation that is not ${name}, which is the only one of this architecture in llama.cpp`)
}

export function checkWholeHeads(program: ModelProgram): void {
  const { headDim } = program.config
  for (const { p } of opsOf(program, "rope"))
    if (p[2] !== headDim)
      refuse(`a rotary embedding of ${p[2]} of ${headDim} elements, and llama.cpp turns whole heads`)
}

/** llama.cpp has matrices of the width of the hidden state for q and the attention's output in some architectures. */
export function checkPlainHeads({ config: { heads, headDim, hiddenSize } }: ModelProgram): void {
  if (heads * headDim !== hiddenSize)
    refuse(
      `${heads} heads of ${headDim} elements beside a hidden size of ${hiddenSize}, which llama.cpp wants to be as wide in this architecture`,
    )
}

/** Linear and yarn scaling; nothing for others. */
export function ropeFields({ rope_parameters, rope_scaling }: DecoderConfig, rope: Rope, context: number) {
  const scaling: Record<string, unknown> = rope_parameters ?? rope_scaling ?? {}
  const type = scaling.rope_type ?? scaling.type ?? "default"
  // describeRope has checked the numbers.
  const number = (key: string) => (typeof scaling[key] === "number" ? (scaling[key] as number) : null)
  const fields: Record<string, GgufValue> = {}
  if (type === "linear") {
    fields["rope.scaling.type"] = string("linear")
    fields["rope.scaling.factor"] = f32(number("factor")!)
  }
  if (type !== "yarn") return fields
  if (scaling.truncate === false) refuse("yarn scaling with truncate false, for which GGUF has no key")
  for (const [key, only] of [["beta_fast", 32] as const, ["beta_slow", 1] as const])
    if ((number(key) ?? only) !== only)
      refuse(`yarn scaling with ${key} ${number(key)}, and llama.cpp takes ${only} in this architecture`)
  const original = number("original_max_position_embeddings")
  const factor = number("factor") ?? context / original!
  const attention = rope.attentionFactor / yarnMagnitude(factor, 1)
  fields["rope.scaling.type"] = string("yarn")
  fields["rope.scaling.factor"] = f32(factor)
  if (original !== null) fields["rope.scaling.original_context_length"] = u32(original)
  if (attention !== 1) fields["rope.scaling.attn_factor"] = f32(attention)
  return fields
}

/** Keys of decoders with RMS norms. */
export const rmsFields = ({ headDim, normEps }: ModelProgram["config"]): Record<string, GgufValue> => ({
  "attention.key_length": u32(headDim),
  "attention.value_length": u32(headDim),
  "attention.layer_norm_rms_epsilon": f32(normEps),
})

/** The base that a configuration states. */
export const ropeBase = ({ rope_parameters, rope_scaling, rope_theta }: DecoderConfig, otherwise = 10000): number =>
  Number((rope_parameters ?? rope_scaling)?.rope_theta ?? rope_theta ?? otherwise)
