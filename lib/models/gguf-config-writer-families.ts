// Families that are not Llama's kin: what their GGUF files say. Source of keys and rules: ggml-org/llama.cpp, conversion/{gemma,gpt2,gptneox,phi}.py,
// src/models/{gemma2,gemma3,gpt2,gptneox,phi3}.cpp.
import { f32, flag, string, u32 } from "../containers/gguf-fields.ts"
import type { GgufValue } from "../containers/gguf-types.ts"
import { describe } from "../core/options.ts"
import { parseDecoderConfig } from "./config.ts"
import { gemma3Config } from "./gemma3.ts"
import { gemmaPeriods, gemmaScalar, neoxActivationKey, slidingLayers } from "./gguf-config-families.ts"
import {
  attentionsOf,
  checkActivation,
  checkBiases,
  checkPlainHeads,
  checkWholeHeads,
  type FamilyFields,
  opsOf,
  refuse,
  rmsFields,
  ropeBase,
  ropeFields,
  windowsOf,
} from "./gguf-config-writer-program.ts"
import { ropeNames } from "./gguf-names.ts"
import type { ModelProgram } from "./program.ts"
import { describeRope } from "./rope.ts"

export function gemma3Fields(program: ModelProgram, architecture: string): FamilyFields {
  const { config: model } = program
  checkGemma(program, architecture)
  const { global, local } = gemma3Config(model.raw)
  const rope = describeRope(global, model.headDim, model.maxContext)
  const type = (keys: typeof local) => {
    const scaling = keys.rope_parameters ?? keys.rope_scaling
    return scaling?.rope_type ?? scaling?.type ?? "default"
  }
  if (type(local) !== "default")
    refuse(`rope type ${describe(type(local))} in layers that slide, and llama.cpp scales the others only`)
  if (!["default", "linear"].includes(type(global) as string))
    refuse(`rope type ${describe(type(global))}, and llama.cpp would scale the layers that slide by it, too`)
  if (attentionsOf(program).some(({ softcap }) => softcap !== 0))
    refuse("a soft cap of attention, which llama.cpp does not have in this architecture")
  const cap = finalSoftcap(program)
  const sliding = slidingFields(program, architecture)
  return {
    values: {
      context_length: u32(model.maxContext),
      ...rmsFields(model),
      "rope.dimension_count": u32(model.headDim),
      "rope.freq_base": f32(ropeBase(global)),
      ...ropeFields(global, rope, model.maxContext),
      ...sliding,
      ...(Object.keys(sliding).length > 0 && { "rope.freq_base_swa": f32(ropeBase(local)) }),
      ...(cap !== 0 && { final_logit_softcapping: f32(cap) }),
    },
    ...(model.architecture === "gemma3" && { notes: ["Of the checkpoint the language model alone is written."] }),
  }
}

export function gemma2Fields(program: ModelProgram, architecture: string): FamilyFields {
  const { config: model } = program
  checkGemma(program, architecture)
  const { keys } = parseDecoderConfig(model.raw, { headDim: model.headDim, normEps: 0, maxPositions: model.maxContext })
  const context = keys.max_position_embeddings ?? model.maxContext
  const rope = describeRope(keys, model.headDim, context)
  if (rope.factors) refuse("frequency factors, for which this architecture has no tensor in GGUF")
  const { softcap } = attentionsOf(program)[0]!
  const cap = finalSoftcap(program)
  for (const [value, name] of [[softcap, "attn_logit_softcapping"] as const, [cap, "final_logit_softcapping"] as const])
    if (value === 0) refuse(`no ${name}, and llama.cpp cannot do without in this architecture`)
  return {
    values: {
      context_length: u32(context),
      ...rmsFields(model),
      "rope.dimension_count": u32(model.headDim),
      "rope.freq_base": f32(ropeBase(keys)),
      ...ropeFields(keys, rope, context),
      // A window as long as the context is none.
      "attention.sliding_window": u32(context),
      ...slidingFields(program, architecture),
      attn_logit_softcapping: f32(softcap),
      final_logit_softcapping: f32(cap),
    },
  }
}

export function phi3Fields(program: ModelProgram, architecture: string): FamilyFields {
  const { config: model } = program
  checkActivation(program, 0, "SiLU")
  checkPlainHeads(program)
  const { keys } = parseDecoderConfig(model.raw, { normEps: 0, maxPositions: model.maxContext })
  const scaling: Record<string, unknown> = keys.rope_parameters ?? keys.rope_scaling ?? {}
  const type = scaling.rope_type ?? scaling.type ?? "default"
  const isLong = ["longrope", "su", "yarn"].includes(type as string)
  if (!isLong && type !== "default" && type !== "linear")
    refuse(`rope type ${describe(type)}, for which architecture "${architecture}" has no key in GGUF`)
  const [rope] = opsOf(program, "rope")
  const stated = keys.original_max_position_embeddings ?? scaling.original_max_position_embeddings
  const window = attentionsOf(program)[0]!.window
  const factors = (name: "short_factor" | "long_factor") => Float32Array.from(scaling[name] as number[])
  return {
    values: {
      context_length: u32(model.maxContext),
      ...rmsFields(model),
      "rope.dimension_count": u32(rope!.p[2]!),
      "rope.freq_base": f32(ropeBase(keys)),
      "rope.scaling.original_context_length": u32(typeof stated === "number" ? stated : model.maxContext),
      ...(isLong && { "rope.scaling.attn_factor": f32(rope!.p[3]!) }),
      ...(type === "linear" && {
        "rope.scaling.type": string("linear"),
        "rope.scaling.factor": f32(scaling.factor as number),
      }),
      "attention.sliding_window": u32(window),
    },
    ...(isLong && {
      computed: new Map([
        [ropeNames.long, factors("long_factor")],
        [ropeNames.short, factors("short_factor")],
      ]),
    }),
    ...(windowsOf(program).length > 0 && {
      notes: [`llama.cpp ignores the sliding window of ${window}: there every token sees all before it.`],
    }),
  }
}

export function gpt2Fields(program: ModelProgram): FamilyFields {
  const { config: model } = program
  checkActivation(program, 1, "GELU by tanh")
  checkScale(program)
  return {
    values: {
      context_length: u32(model.maxContext),
      "attention.layer_norm_epsilon": f32(model.normEps),
    },
  }
}

export function neoxFields(program: ModelProgram): FamilyFields {
  const { config: model } = program
  if (model.tiedEmbeddings) refuse("a head that is its embedding, and llama.cpp wants another in this architecture")
  const linears = program.sections.flatMap(({ weights }) => weights.filter(slot => slot.kind === "linear"))
  const bare = linears.find(({ module, bias }) => module.startsWith("attention.") && bias === null)
  if (bare) refuse(`no bias of ${bare.module}, which llama.cpp wants in this architecture`)
  const { raw } = model
  const scaling = (raw.rope_parameters ?? raw.rope_scaling ?? {}) as Record<string, unknown>
  const type = scaling.rope_type ?? scaling.type ?? "default"
  if (type !== "default" && type !== "linear")
    refuse(`rope type ${describe(type)}, which is not written in this architecture`)
  const activation = opsOf(program, "activate")[0]!.p[0]!
  if (activation === 0) refuse("an activation that is not GELU, the only one of this architecture in llama.cpp")
  const base = raw.rotary_emb_base ?? scaling.rope_theta ?? raw.rope_theta ?? 10000
  const parallel = raw.use_parallel_residual ?? true
  return {
    values: {
      context_length: u32(model.maxContext),
      "attention.layer_norm_epsilon": f32(model.normEps),
      "rope.dimension_count": u32(opsOf(program, "rope")[0]!.p[2]!),
      "rope.freq_base": f32(base as number),
      ...(type === "linear" && {
        "rope.scaling.type": string("linear"),
        "rope.scaling.factor": f32(scaling.factor as number),
      }),
      use_parallel_residual: flag(parallel as boolean),
      [neoxActivationKey]: string(activation === 2 ? "gelu" : "gelu_pytorch_tanh"),
    },
  }
}

/** Scores of q and k are divided by the root of a head's size. */
function checkScale(program: ModelProgram): void {
  const { headDim } = program.config
  for (const { scale } of attentionsOf(program))
    if (Math.abs(scale * Math.sqrt(headDim) - 1) > 1e-6)
      refuse(`scores times ${scale}, and llama.cpp takes ${headDim ** -0.5} in this architecture`)
}

const finalSoftcap = (program: ModelProgram): number => opsOf(program, "logits")[0]!.p[0]!

/** The window and which layers have it; nothing where none has. */
function slidingFields(program: ModelProgram, architecture: string): Record<string, GgufValue> {
  const windows = attentionsOf(program).map(({ window }) => window)
  const window = windows.find(size => size > 0)
  if (window === undefined) return {}
  const period = gemmaPeriods[architecture]!
  const usual = slidingLayers(windows.length, period).every((slides, i) => slides === windows[i]! > 0)
  return {
    "attention.sliding_window": u32(window),
    ...(!usual && {
      "attention.sliding_window_pattern": {
        ...{ type: "array", of: "bool", value: Uint8Array.from(windows, size => (size > 0 ? 1 : 0)) },
      } as GgufValue,
    }),
  }
}

function checkGemma(program: ModelProgram, architecture: string): void {
  checkWholeHeads(program)
  checkActivation(program, 1, "GELU by tanh")
  checkBiases(program, architecture, /^$/)
  const scalar = gemmaScalar(architecture, program.config)
  for (const { scale } of attentionsOf(program))
    if (Math.abs(scale * Math.sqrt(scalar) - 1) > 1e-6)
      refuse(
        `query_pre_attn_scalar ${Number((scale ** -2).toPrecision(6))}, and llama.cpp takes ${scalar} in a model of this architecture, ${program.config.layers} layers and heads of ${program.config.headDim}`,
      )
}
