// The operation set on the CPU.
#pragma once
#include "program/step_context.h"

namespace tsq {

// How many of ops [count], from the first one on, run as one: linears of the same input.
int32_t opsTogether(const Op* ops, int32_t count);

// Runs checked ops that opsTogether() put together over all rows of the step. kAborted leaves their slots undefined.
Status runOps(const StepContext& step, const SectionRun& run, const Op* ops, int32_t count);

}  // namespace tsq
