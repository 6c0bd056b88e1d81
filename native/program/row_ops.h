// Operations that move or change rows by themselves: layer norm, columns of a fused projection, learned positions,
// plain activations.
#pragma once
#include "program/step_context.h"

namespace tsq {

void layerNorm(const StepContext& step, const SectionRun& run, const Op& op);
void columns(const StepContext& step, const Op& op);
void positions(const StepContext& step, const SectionRun& run, const Op& op);
void activate(const StepContext& step, const Op& op);

// Of a kernel of the table: y = f(gate) * up, or f(gate) where up is null.
using ActivationKernel = void (*)(const float* gate, const float* up, float* y, int64_t count);
// By the parameter of gated and activate: 0 silu, 1 gelu_tanh, 2 gelu_erf.
ActivationKernel activationKernel(const Op& op);

}  // namespace tsq
