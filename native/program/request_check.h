// The parts of checking a request; validateRequest in step_plan.h runs them in order.
#pragma once
#include <string>
#include <vector>

#include "program/message.h"
#include "program/step_plan.h"

namespace tsq {

constexpr int64_t kMaxRows = int64_t{1} << 30;  // of a step

template <typename... Parts>
Status optionError(const Parts&... parts) {
  return Status(Code::kOption, text(parts...));
}

template <typename... Parts>
Status shapeError(const Parts&... parts) {
  return Status(Code::kShape, text(parts...));
}

// That `slot` exists.
Status checkSlot(const std::string& name, int32_t slot, const ProgramSpec& spec);

// Copies `count` token ids and checks the copy.
Status copyTokenIds(const char* name, const int32_t* ids, int64_t count, int64_t vocabulary,
                    std::vector<int32_t>* copy);

// Shape [n, k], and that the buffers are as large as the shape says: kernels read them unchecked. The message goes on
// after a name, which the caller writes only where there is an error: every decoding step checks hundreds of weights.
Status checkPackedWeight(const PackedWeight& weight, int64_t n, int64_t k);
inline Status named(const std::string& name, const Status& status) {
  return Status(status.code(), name + status.message());
}

// That the sequences tile the rows; fills plan->positions. Where rope or attention runs.
Status checkSequences(const StepRequest& request, StepPlan* plan);

// Page tables of checked sequences; fills plan->writtenPages. Where attention runs.
Status checkPages(const StepRequest& request, StepPlan* plan);

// Points, slots and accumulators; fills plan->observers.
Status checkObservers(const ProgramSpec& spec, const StepRequest& request, StepPlan* plan);

// The epilogue's rows, targets, buffers and sampling; fills the plan's copies. hasLogits: whether a run contains a
// logits op.
Status checkEpilogue(const ProgramSpec& spec, const StepRequest& request, bool hasLogits, StepPlan* plan);

}  // namespace tsq
