// The operation set on the CPU.
#pragma once
#include "program/step_context.h"

namespace tsq {

// Runs one checked op over all rows of the step. kAborted leaves the output slot undefined.
Status runOp(const StepContext& step, const SectionRun& run, const Op& op);

}  // namespace tsq
