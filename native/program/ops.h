// The operation set on the CPU.
#pragma once
#include "program/step_context.h"

namespace tsq {

// How many of ops [count], from the first one on, run as one: linears of the same input, or those of experts.
int32_t opsTogether(const Op* ops, int32_t count);

// Rows that products of `outputs` columns together take at a time, so that the abort flag is seen within a second or so
// on a large layer. Depends on the shapes only.
int64_t rowsBetweenAborts(int64_t k, double outputs);

// Runs checked ops that opsTogether() put together over all rows of the step. kAborted leaves their slots undefined.
Status runOps(const StepContext& step, const SectionRun& run, const Op* ops, int32_t count);

}  // namespace tsq
