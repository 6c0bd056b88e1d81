#include <algorithm>
#include <cmath>
#include <tuple>

#include "program/observers.h"
#include "program/request_check.h"

namespace tsq {

namespace {

Status checkReduction(const ProgramSpec& spec, size_t i, const Observer& observer) {
  int64_t width = spec.slots[static_cast<size_t>(observer.slot)];
  if (observer.routes != -1) {
    TSQ_RETURN_IF_ERROR(checkSlot(text("observers[", i, "].routes"), observer.routes, spec));
    const int64_t experts = spec.slots[static_cast<size_t>(observer.routes)];
    if (observer.expert < 0 || observer.expert >= experts) {
      return optionError("observers[", i, "].expert is ", observer.expert, ", expected 0 to ", experts - 1);
    }
    if (observer.reduction == Reduction::kCopy) {
      return optionError("observers[", i, "].reduction is a copy, which has all experts: leave routes out");
    }
    // A row of the group: its accumulator says how wide that is.
    const Accumulator* a = observer.accumulator.get();
    if (a != nullptr && a->width > 0 && width % a->width == 0) width = a->width;
  }
  if (observer.reduction == Reduction::kCopy) {
    return observer.copy != nullptr ? Status()
                                    : optionError("observers[", i, "].copy is missing: expected room for a copy");
  }
  if (observer.reduction < Reduction::kHessian || observer.reduction > kLastReduction) {
    return optionError("observers[", i, "].reduction is ", static_cast<int32_t>(observer.reduction), ", expected 0 to ",
                       static_cast<int32_t>(kLastReduction));
  }
  if (needsReference(observer.reduction) && observer.reference == nullptr) {
    return optionError("observers[", i, "].reference is missing: the squared error needs values to compare with");
  }
  const Accumulator* a = observer.accumulator.get();
  if (a == nullptr) return optionError("observers[", i, "].accumulator is missing");
  if (a->kind != observer.reduction) {
    return optionError("observers[", i, "].reduction is ", static_cast<int32_t>(observer.reduction),
                       ", but its accumulator is of kind ", static_cast<int32_t>(a->kind));
  }
  const bool between = a->kind == Reduction::kCross && a->capacity > 0;
  if (between != (observer.inputs != -1)) {
    return optionError("observers[", i, "].inputs is ", observer.inputs, ", expected ",
                       between ? "the slot whose products with the difference are summed"
                               : "none: its accumulator compares the slot itself");
  }
  if (between) {
    if (observer.routes != -1) return optionError("observers[", i, "].routes: two slots are not reduced by expert");
    TSQ_RETURN_IF_ERROR(checkSlot(text("observers[", i, "].inputs"), observer.inputs, spec));
    if (a->capacity != width) {
      return shapeError("observers[", i, "]: the accumulator compares ", a->capacity, " columns, slot ", observer.slot,
                        " has ", width);
    }
    width = spec.slots[static_cast<size_t>(observer.inputs)];
  }
  if (a->width != width) {
    return shapeError("observers[", i, "]: the accumulator is ", a->width, " wide, slot ",
                      between ? observer.inputs : observer.slot, " is ", width);
  }
  const Status parts = checkAccumulator(*a);
  return parts.ok() ? parts : Status(parts.code(), text("observers[", i, "]: ", parts.message()));
}

Status present(const char* name, const void* pointer) {
  return pointer != nullptr ? Status() : optionError(name, " is missing: expected room for the result");
}

Status checkReference(const Epilogue& e, int64_t vocabulary) {
  if (e.referenceHidden == nullptr) return optionError("epilogue.referenceHidden is missing");
  if (e.referenceHead == nullptr) return optionError("epilogue.referenceHead is missing");
  if (e.referenceWidth < 1) return optionError("epilogue.referenceWidth is ", e.referenceWidth, ", expected 1 or more");
  if (!std::isfinite(e.referenceSoftcap) || e.referenceSoftcap < 0) {
    return optionError("epilogue.referenceSoftcap is ", e.referenceSoftcap, ", expected 0 or more");
  }
  const Status status = checkPackedWeight(*e.referenceHead, vocabulary, e.referenceWidth);
  return status.ok() ? status : named("epilogue.referenceHead", status);
}

Status checkSampling(const Sampling& s, int64_t vocabulary, StepPlan* plan) {
  if (!std::isfinite(s.temperature) || s.temperature < 0) {
    return optionError("sampling.temperature is ", s.temperature, ", expected 0 (greedy) or more");
  }
  if (s.topK < 0) return optionError("sampling.topK is ", s.topK, ", expected 0 (off) or more");
  if (!(s.topP > 0 && s.topP <= 1)) {
    return optionError("sampling.topP is ", s.topP, ", expected more than 0, at most 1 (off)");
  }
  if (!(s.minP >= 0 && s.minP <= 1)) return optionError("sampling.minP is ", s.minP, ", expected 0 (off) to 1");
  if (!std::isfinite(s.repetitionPenalty) || s.repetitionPenalty <= 0) {
    return optionError("sampling.repetitionPenalty is ", s.repetitionPenalty, ", expected more than 0 (1: off)");
  }
  if (s.historyCount < 0) return optionError("sampling.historyCount is ", s.historyCount, ", expected 0 or more");
  plan->history.clear();
  if (s.repetitionPenalty == 1) return Status();
  return copyTokenIds("sampling.history", s.history, s.historyCount, vocabulary, &plan->history);
}

}  // namespace

Status checkObservers(const ProgramSpec& spec, const StepRequest& request, StepPlan* plan) {
  const int64_t runs = static_cast<int64_t>(request.runs.size());
  plan->observers.clear();
  for (size_t i = 0; i < request.observers.size(); ++i) {
    const Observer& observer = request.observers[i];
    if (observer.run < 0 || observer.run >= runs) {
      return optionError("observers[", i, "].run is ", observer.run, ", expected 0 to ", runs - 1);
    }
    const SectionRun& run = request.runs[static_cast<size_t>(observer.run)];
    if (observer.op < run.opBegin - 1 || observer.op >= run.opEnd) {
      return optionError("observers[", i, "].op is ", observer.op, ", expected ", run.opBegin - 1, " to ",
                         run.opEnd - 1, " (the ops of runs[", observer.run, "])");
    }
    TSQ_RETURN_IF_ERROR(checkSlot(text("observers[", i, "].slot"), observer.slot, spec));
    TSQ_RETURN_IF_ERROR(checkReduction(spec, i, observer));
    plan->observers.push_back(static_cast<int32_t>(i));
  }
  // By place, then in the order given. (std::stable_sort would allocate.)
  std::sort(plan->observers.begin(), plan->observers.end(), [&request](int32_t a, int32_t b) {
    const Observer& x = request.observers[static_cast<size_t>(a)];
    const Observer& y = request.observers[static_cast<size_t>(b)];
    return std::tie(x.run, x.op, a) < std::tie(y.run, y.op, b);
  });
  return Status();
}

Status checkEpilogue(const ProgramSpec& spec, const StepRequest& request, bool hasLogits, StepPlan* plan) {
  const Epilogue& e = request.epilogue;
  plan->epilogueRows.clear();
  if (e.mode == EpilogueMode::kNone) return Status();
  if (e.mode < EpilogueMode::kNone || e.mode > EpilogueMode::kScore) {
    return optionError("epilogue.mode is ", static_cast<int32_t>(e.mode), ", expected 0 to ",
                       static_cast<int32_t>(EpilogueMode::kScore));
  }
  if (!hasLogits) return optionError("the epilogue asks for a result, but no run contains a logits op");
  if (e.count < 0 || e.count > kMaxRows) {
    return optionError("epilogue.count is ", e.count, ", expected 0 to ", kMaxRows);
  }
  if (e.count == 0) return Status();
  if (e.rows == nullptr) return optionError("epilogue.rows is missing: expected ", e.count, " row indices");
  plan->epilogueRows.assign(e.rows, e.rows + e.count);
  for (int64_t i = 0; i < e.count; ++i) {
    const int32_t row = plan->epilogueRows[static_cast<size_t>(i)];
    if (row < 0 || row >= request.rows) {
      return optionError("epilogue.rows[", i, "] is ", row, ", expected 0 to ", request.rows - 1);
    }
  }
  switch (e.mode) {
    case EpilogueMode::kLogits:
      return present("epilogue.logits", e.logits);
    case EpilogueMode::kSample:
      TSQ_RETURN_IF_ERROR(present("epilogue.tokens", e.tokens));
      return checkSampling(e.sampling, spec.vocabulary, plan);
    default:
      break;
  }
  TSQ_RETURN_IF_ERROR(present("epilogue.values", e.values));
  TSQ_RETURN_IF_ERROR(copyTokenIds("epilogue.targets", e.targets, e.count, spec.vocabulary, &plan->targets));
  return e.mode == EpilogueMode::kDivergence ? checkReference(e, spec.vocabulary) : Status();
}

}  // namespace tsq
